//! Signature verification against signers that are not ours.
//!
//! AWS's published suite, compared step by step so that a failure names the step; AWS's own signer
//! on random requests, with every signed byte altered in turn; recorded habits of other clients.
//! The attacks stand in `sigv4_attacks`.

use crate::harness::client::signing_params;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use orbit::auth::canonical::{self, Canonical, Form};
use orbit::auth::claim::{Credential, Parts, SignedHeaders};
use orbit::auth::query::Parameters;
use orbit::auth::stamp::Stamp;
use orbit::auth::verify::string_to_sign;
use orbit::auth::{Caller, Issue, KeyEntry, Keyring, Rules, claim};
use orbit::clock::{Clock, ManualClock, Moment};
use orbit::error::{Code, Details, Rejection};
use orbit::request::Head;
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) const ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub(crate) const TOKEN: &str =
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfI";
/// 2024-01-15T10:30:00Z
pub(crate) const NOW: u64 = 1_705_314_600;
pub(crate) const NOW_BASIC: &str = "20240115T103000Z";

/// A request before it becomes bytes.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Self {
        let fields = fields.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
        Self { method: method.into(), target: target.into(), fields, body: body.into() }
    }

    pub(crate) fn head(&self) -> Result<Head, Rejection> {
        Head::parse(Bytes::from(self.head_bytes()))
    }

    /// As it goes over the wire; with the body's length, unless a field says something of the framing.
    pub(crate) fn head_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if ["content-length", "transfer-encoding"].iter().all(|name| self.position(name).is_none()) {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    pub(crate) fn value(&mut self, name: &str) -> &mut Vec<u8> {
        let at = self.position(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        &mut self.fields[at].1
    }

    pub(crate) fn text(&mut self, name: &str) -> String {
        String::from_utf8(self.value(name).clone()).expect("UTF-8")
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        *self.value(name) = value.as_bytes().to_vec();
    }

    pub(crate) fn replace(&mut self, name: &str, from: &str, to: &str) {
        let text = self.text(name);
        assert!(text.contains(from), "{name} lacks {from}: {text}");
        self.set(name, &text.replace(from, to));
    }

    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.fields.push((name.into(), value.as_bytes().to_vec()));
    }

    pub(crate) fn insert(&mut self, at: usize, name: &str, value: &str) {
        self.fields.insert(at, (name.into(), value.as_bytes().to_vec()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let at = self.position(name).unwrap_or_else(|| panic!("no {name}"));
        self.fields.remove(at);
    }
}

/// How AWS's signer is to sign.
#[derive(Clone, Copy)]
pub(crate) struct Signing<'a> {
    secret: &'a str,
    token: Option<&'a str>,
    region: &'a str,
    service: &'a str,
    at: u64,
    declare: bool,
    body: Option<&'a str>,
    leave_out: &'a [&'static str],
}

pub(crate) const SIGNING: Signing<'static> = Signing {
    secret: SECRET,
    token: None,
    region: "us-east-1",
    service: "execute-api",
    at: NOW,
    declare: false,
    body: None,
    leave_out: &[],
};

/// Signs with the full signer of `aws-sigv4` and adds the headers it asks for.
pub(crate) fn sign_with(mut request: Request, how: Signing<'_>) -> Request {
    let mut settings = SigningSettings::default();
    if how.declare {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let left_out = how.leave_out.iter().map(|name| (*name).into());
    settings.excluded_headers = settings.excluded_headers.map(|names| names.into_iter().chain(left_out).collect());
    let identity = Credentials::new(ID, how.secret, how.token.map(str::to_owned), None, "test").into();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(how.at);
    let params = signing_params(&identity, how.region, how.service, at, settings);
    let headers: Vec<_> =
        request.fields.iter().map(|(n, v)| (n.clone(), String::from_utf8(v.clone()).expect("UTF-8"))).collect();
    let body = how.body.map_or(SignableBody::Bytes(&request.body), |word| SignableBody::Precomputed(word.into()));
    let headers = headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    let uri = format!("http://any{}", request.target);
    let signable = SignableRequest::new(&request.method, uri, headers, body).expect("signable");
    let (instructions, _) = sign(signable, &params).expect("signed").into_parts();
    let added: Vec<_> = instructions.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    for (name, value) in added {
        request.add(&name, &value);
    }
    request
}

/// Signs a canonical request that the test wrote itself, for clients that `aws-sigv4` cannot imitate;
/// `canonical` ends where the body's hash follows.
fn seal(mut request: Request, canonical: impl AsRef<[u8]>, key_day: u64) -> Request {
    let mut canonical = canonical.as_ref().to_vec();
    canonical.extend_from_slice(hex(&Sha256::digest(&request.body)).as_bytes());
    let text = String::from_utf8_lossy(&canonical);
    let signed = text.lines().rev().nth(1).expect("signed headers");
    let scope = "20240115/us-east-1/execute-api/aws4_request";
    let hash = hex(&Sha256::digest(&canonical));
    let to_sign = format!("AWS4-HMAC-SHA256\n{NOW_BASIC}\n{scope}\n{hash}");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(key_day);
    let key = v4::generate_signing_key(SECRET, time, "us-east-1", "execute-api");
    let signature = v4::calculate_signature(key, to_sign.as_bytes());
    let value = format!("AWS4-HMAC-SHA256 Credential={ID}/{scope}, SignedHeaders={signed}, Signature={signature}");
    request.add("Authorization", &value);
    request
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn key(id: &str, secret: &str, token: Option<&str>) -> KeyEntry {
    KeyEntry {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        session_token: token.map(Into::into),
        principal: "team".into(),
        not_before: None,
        not_after: None,
        disabled: false,
    }
}

pub(crate) fn ring(entry: KeyEntry) -> Keyring {
    Keyring::from_entries(vec![entry]).expect("a valid key")
}

pub(crate) fn rules() -> Rules {
    Rules {
        regions: vec!["eu-west-1".into(), "us-east-1".into()],
        services: vec!["execute-api".into()],
        clock_skew: Duration::from_secs(300),
        presigned: None,
        unsigned_payload: false,
    }
}

pub(crate) fn now() -> Moment {
    ManualClock::at(NOW).now()
}

/// Head, claim and body, as the pipeline does it.
pub(crate) fn verify(request: &Request, rules: &Rules, keyring: &Keyring, now: Moment) -> Result<Caller, Rejection> {
    claim(&request.head()?, rules, keyring, now)?.identify(&request.body)
}

/// The issue a refusal names, or its code; checks in passing that the log text gives nothing away.
fn verdict(request: &Request, keyring: &Keyring) -> &'static str {
    match verify(request, &rules(), keyring, now()) {
        Ok(_) => "accepted",
        Err(refused) => {
            let signature = request.position("authorization").map(|at| {
                let text = String::from_utf8_lossy(&request.fields[at].1).into_owned();
                text.rsplit('=').next().unwrap_or_default().to_owned()
            });
            for secret in [SECRET, TOKEN].into_iter().map(str::to_owned).chain(signature.filter(|s| s.len() > 8)) {
                assert!(!format!("{refused:?}").contains(&secret), "{refused:?}");
            }
            match (refused.code, refused.details) {
                (Code::InvalidSignature, Details::Issue(issue) | Details::Skew { issue, .. }) => issue,
                (code, _) => code.name(),
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// AWS's suite

/// Cases that the front door refuses before any signature is looked at.
const REFUSED_BY_THE_FRONT_DOOR: [(&str, &str); 5] = [
    ("get-header-value-multiline", "obsolete line folding"),
    ("get-space-normalized", "space in the target"),
    ("get-space-unnormalized", "space in the target"),
    ("get-utf8", "target is not ASCII"),
    ("get-vanilla-utf8-query", "target is not ASCII"),
];
/// Cases without credentials: only what comes before the signature can be compared.
const WITHOUT_CREDENTIALS: [&str; 2] = ["double-encode-path", "double-url-encode"];

/// The suite's folder inside the published `aws-sigv4` package.
pub fn suite() -> PathBuf {
    let metadata = |extra: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--manifest-path"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .args(extra)
            .output()
            .expect("cargo runs");
        output.status.success().then_some(output.stdout)
    };
    let json = metadata(&["--offline"]).or_else(|| metadata(&[])).expect("cargo metadata");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let packages = json["packages"].as_array().expect("packages");
    let found = packages.iter().find(|package| package["name"] == "aws-sigv4").expect("aws-sigv4");
    let manifest = Path::new(found["manifest_path"].as_str().expect("a path"));
    manifest.with_file_name("aws-signing-test-suite").join("v4")
}

/// Reads a request of the suite: LF for CRLF, no space behind colons, folded lines kept apart.
fn read_request(text: &str) -> (Request, bool) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let line = lines.next().expect("a request line").trim_end_matches(" HTTP/1.1");
    let (method, target) = line.split_once(' ').expect("method and target");
    let mut request = Request::new(method, target, &[], body.as_bytes());
    let mut folded = false;
    for line in lines {
        match line.split_once(':').filter(|_| !line.starts_with(' ')) {
            Some((name, value)) => request.add(name, value),
            None => {
                folded = true;
                let last = &mut request.fields.last_mut().expect("a field").1;
                last.extend_from_slice(b"\r\n");
                last.extend_from_slice(line.as_bytes());
            }
        }
    }
    (request, folded)
}

#[test]
fn the_suite_of_aws_is_verified() {
    let suite = suite();
    let mut names: Vec<_> = std::fs::read_dir(&suite)
        .expect("the suite")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort_unstable();
    let counts = ["header", "query"].map(|carrier| {
        let (mut verified, mut refused, mut compared) = (0, 0, 0);
        for name in &names {
            let file = |file: &str| std::fs::read_to_string(suite.join(name).join(file)).ok();
            let Some(expected) = file(&format!("{carrier}-canonical-request.txt")) else {
                assert!(WITHOUT_CREDENTIALS.contains(&name.as_str()), "{name} has no {carrier} case");
                continue;
            };
            let signed = file(&format!("{carrier}-signed-request.txt"));
            if let Some((_, why)) = REFUSED_BY_THE_FRONT_DOOR.iter().find(|(case, _)| case == name) {
                refused_case(name, why, &signed.expect("signed"), &expected);
                refused += 1;
            } else if WITHOUT_CREDENTIALS.contains(&name.as_str()) {
                let (mut request, _) = read_request(&file("request.txt").expect("a request"));
                let line = expected.lines().find(|line| line.starts_with("x-amz-date:")).expect("a date");
                request.set("x-amz-date", line.trim_start_matches("x-amz-date:"));
                compare_canonical(name, &request, &unsigned(&["host", "x-amz-date"]), &expected);
                compared += 1;
            } else {
                let context: Value = serde_json::from_str(&file("context.json").expect("a context")).expect("JSON");
                let to_sign = file(&format!("{carrier}-string-to-sign.txt")).expect("a string");
                verified_case(name, &context, &signed.expect("signed"), &expected, &to_sign);
                verified += 1;
            }
        }
        (verified, refused, compared)
    });
    let refused = REFUSED_BY_THE_FRONT_DOOR.len();
    assert_eq!(counts, [(33, refused, WITHOUT_CREDENTIALS.len()), (33, refused, 0)]);
}

fn verified_case(name: &str, context: &Value, signed: &str, canonical: &str, to_sign: &str) {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let (request, _) = read_request(signed);
    let head = request.head().unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let basic = text(&context["timestamp"]).replace(['-', ':'], "");
    let stamp = Stamp::parse_basic(basic.as_bytes()).expect("a date");
    let region = text(&context["region"]);
    let service = text(&context["service"]);
    let expires = context["expiration_in_seconds"].as_u64().expect("a number");

    let authorization = head.all(b"authorization").next().map(<[u8]>::to_vec);
    let parameters = authorization.is_none().then(|| Parameters::parse(head.query().unwrap_or_default().as_bytes()));
    let parts = match (&authorization, &parameters) {
        (Some(value), _) => Parts::from_header(value),
        (None, Some(Ok(parameters))) => Parts::from_query(parameters),
        (None, refused) => panic!("{name}: {:?}", refused.as_ref().and_then(|r| r.as_ref().err())),
    };
    let parts = parts.unwrap_or_else(|e| panic!("{name}: {e:?}"));
    compare_canonical(name, &request, &parts, canonical);
    let hash = hex(&Sha256::digest(canonical.as_bytes()));
    let scope = format!("{}/{region}/{service}/aws4_request", &basic[..8]);
    let built = string_to_sign(stamp.text(), &scope, hash.as_bytes().try_into().expect("64 digits"));
    assert_eq!(utf8(&built.concat()), to_sign, "{name}: string to sign");

    let credentials = &context["credentials"];
    let (id, secret) = (text(&credentials["access_key_id"]), text(&credentials["secret_access_key"]));
    let keyring = ring(key(&id, &secret, credentials["token"].as_str()));
    let rules = Rules {
        regions: vec![region],
        services: vec![service],
        presigned: parameters.as_ref().map(|_| Duration::from_secs(expires)),
        ..rules()
    };
    let at = |seconds: u64| ManualClock::at(stamp.unix_seconds() + seconds).now();
    let caller = verify(&request, &rules, &keyring, at(0)).unwrap_or_else(|e| panic!("{name}: signature: {e:?}"));
    assert_eq!(&**caller.access_key_id(), id, "{name}");
    let last = if parameters.is_some() { expires } else { rules.clock_skew.as_secs() };
    verify(&request, &rules, &keyring, at(last)).unwrap_or_else(|e| panic!("{name}: its last second: {e:?}"));
    verify(&request, &rules, &keyring, at(last + 1)).expect_err(name);

    let other = ring(key(&id, "another secret", credentials["token"].as_str()));
    verify(&request, &rules, &other, at(0)).expect_err(name);
}

/// The case's request must not pass the front door, and still canonicalise as the suite says.
fn refused_case(name: &str, why: &str, signed: &str, canonical: &str) {
    let (mut request, folded) = read_request(signed);
    let refused = request.head().expect_err(why);
    assert_eq!(refused.code, Code::InvalidRequest, "{name}: {why}");
    if folded {
        // RFC 9112 section 5.2: who does not refuse a fold replaces it by spaces.
        for (_, value) in &mut request.fields {
            *value = utf8(value).replace("\r\n", "").into_bytes();
        }
        let names: &[&str] = match request.position("x-amz-date") {
            Some(_) => &["host", "my-header1", "x-amz-date"],
            None => &["host", "my-header1"],
        };
        request.target = request.target.split("&X-Amz-Signature=").next().unwrap_or_default().to_owned();
        compare_canonical(name, &request, &unsigned(names), canonical);
        return;
    }
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let query = query.split("&X-Amz-Signature=").next().unwrap_or_default();
    let mut lines = canonical.lines().skip(1);
    let mut out = Vec::new();
    canonical::write_path(path.as_bytes(), canonical::Path::Normalised, &mut out);
    assert_eq!(Some(utf8(&out)), lines.next(), "{name}: path");
    out.clear();
    canonical::write_query(query.as_bytes(), canonical::Query::ByEncoded, &mut out);
    assert_eq!(Some(utf8(&out)), lines.next(), "{name}: query");
}

/// Parts of a request that names these headers and has no signature.
fn unsigned(names: &'static [&'static str]) -> Parts<'static> {
    let list = names.join(";").leak().as_bytes();
    let credential =
        Credential { access_key_id: ID, date: b"", region: b"", service: b"service", terminator: b"aws4_request" };
    let signed = SignedHeaders { list, names: names.iter().map(|n| n.as_bytes()).collect() };
    Parts { credential, signed, signature: &[b'0'; 64], presigned: None }
}

/// The canonical request is the suite's, in the form that the case asks for.
fn compare_canonical(name: &str, request: &Request, parts: &Parts<'_>, expected: &str) {
    let head = request.head().unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let canonical = Canonical::new(&head, parts).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let mut form = Form::default();
    if name.ends_with("-unnormalized") {
        form.path = canonical::Path::AsSent;
    }
    if name == "post-sts-header-after" {
        form.token = canonical::Token::Appended;
    }
    let mut out = Vec::new();
    canonical.write(form, &mut out);
    out.extend_from_slice(hex(&Sha256::digest(&request.body)).as_bytes());
    assert_eq!(utf8(&out), expected, "{name}: canonical request");
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

// ---------------------------------------------------------------------------------------------
// AWS's signer on random requests

/// A part of a signed request that an attacker might alter.
const PARTS: [&str; 9] =
    ["method", "path", "query", "host", "field", "x-amz-date", "authorization", "x-amz-content-sha256", "body"];

fn text_of(alphabet: &'static [&'static str], length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(alphabet), length).prop_map(|parts| parts.concat())
}

const PATH: &[&str] = &[
    "a", "B", "7", "-", "_", "~", ".", ".", "/", "/", "/./", "/../", "//", "%20", "%2F", "%2e", "%c3%a9", "%FF", "@",
    ":", "!", "$", "'", "(", ")", "*", "+", ",", ";", "=", "&",
];
const QUERY: &[&str] = &[
    "a", "b", "A", "1", "=", "=", "&", "&", "&", "+", "%20", "%2B", "%26", "%3D", "%c3%a9", "%C3%A9", "%7E", "%00",
    "-", ".", "_", "~", ":", "@", "/", "?", "!", "$", "'", "(", ")", "*", ",", ";", "|",
];
const VALUE: &[&str] = &["a", "B", "3", " ", "  ", "   ", ",", ";", "=", "\"", "%", "/", "\u{e9}", ":"];

pub(crate) fn requests() -> impl Strategy<Value = Request> {
    let name = proptest::sample::select(&["X-Custom", "x-custom", "Content-Type", "X-Amz-Meta-A", "Accept", "x-b"][..]);
    let fields = proptest::collection::vec((name, text_of(VALUE, 0..12)), 0..6);
    let host = proptest::sample::select(&["orbit.example", "A.b:8080", "a:80", "[::1]:443"][..]);
    let target = (text_of(PATH, 0..10), proptest::option::of(text_of(QUERY, 0..14)));
    ("[A-Z]{3,6}", target, host, fields, proptest::collection::vec(any::<u8>(), 0..100)).prop_map(
        |(method, (path, query), host, fields, body)| {
            let target = query.map_or(format!("/{path}"), |query| format!("/{path}?{query}"));
            let mut request = Request::new(&method, &target, &[("Host", host)], &body);
            for (name, value) in &fields {
                request.add(name, value);
            }
            request
        },
    )
}

/// One byte of one part becomes another; `None` where the part is absent or empty.
pub(crate) fn alter(request: &Request, part: &str, at: proptest::sample::Index, to: u8) -> Option<Request> {
    let mut altered = request.clone();
    let (path, query) = match request.target.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (request.target.clone(), None),
    };
    let change = |bytes: &mut Vec<u8>, from: usize| {
        let room = bytes.len().checked_sub(from).filter(|room| *room > 0)?;
        let byte = &mut bytes[from + at.index(room)];
        let old = std::mem::replace(byte, to);
        (old != to).then_some(())
    };
    let text = |text: String, from: usize| {
        let mut bytes = text.into_bytes();
        change(&mut bytes, from)?;
        String::from_utf8(bytes).ok()
    };
    match part {
        "method" => altered.method = text(altered.method, 0)?,
        "path" => {
            let path = text(path, 0)?;
            altered.target = query.map_or(path.clone(), |query| format!("{path}?{query}"));
        }
        "query" => altered.target = format!("{path}?{}", text(query?, 0)?),
        "authorization" => change(altered.value(part), "AWS4-HMAC-SHA256 ".len())?,
        "field" => {
            let signed = |(n, _): &&mut (String, Vec<u8>)| {
                ["x-custom", "content-type", "x-amz-meta-a", "accept", "x-b"].iter().any(|s| s.eq_ignore_ascii_case(n))
            };
            change(&mut altered.fields.iter_mut().find(signed)?.1, 0)?;
        }
        "body" => change(&mut altered.body, 0)?,
        name => {
            altered.position(name)?;
            change(altered.value(name), 0)?;
        }
    }
    Some(altered)
}

/// What two requests must share to be allowed the same signature: the documented exceptions are white
/// space between tokens, the order and spelling of equal query pairs, and dot or empty segments.
pub(crate) fn meaning(request: &Request) -> impl PartialEq + std::fmt::Debug {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_owned()),
        }
    }
    let slash = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
        .map(|(name, value)| (percent_decode(name), percent_decode(value)))
        .collect();
    pairs.sort();
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let fields: Vec<_> = request
        .fields
        .iter()
        .map(|(name, value)| {
            let blank = |b: &u8| blank(b) || name == "authorization" && *b == b',';
            let tokens = value.split(blank).filter(|t| !t.is_empty()).map(<[u8]>::to_vec).collect::<Vec<_>>();
            (name.to_ascii_lowercase(), tokens)
        })
        .collect();
    (request.method.clone(), segments, slash, pairs, fields, request.body.clone())
}

fn percent_decode(text: &str) -> Vec<u8> {
    let text = text.replace('+', " ");
    let mut pieces = text.split('%');
    let mut out = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => out.extend_from_slice(format!("%{piece}").as_bytes()),
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// What AWS's signer signs is accepted; with one signed byte altered it is refused.
    #[test]
    fn signed_requests_pass_and_altered_ones_do_not(
        request in requests(),
        declare in any::<bool>(),
        token in proptest::option::of(Just(TOKEN)),
        changes in proptest::collection::vec((proptest::sample::select(&PARTS[..]), any::<proptest::sample::Index>(), 0x21u8..0x7f), 12),
    ) {
        let keyring = ring(key(ID, SECRET, token));
        let signed = sign_with(request, Signing { declare, token, ..SIGNING });
        prop_assert_eq!(verdict(&signed, &keyring), "accepted", "{:?}", signed);
        for (part, at, to) in changes {
            let Some(altered) = alter(&signed, part, at, to) else { continue };
            if meaning(&altered) != meaning(&signed) {
                prop_assert_ne!(verdict(&altered, &keyring), "accepted", "{}: {:?} became {:?}", part, signed, altered);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the parsed places is refused and nothing panics.
    #[test]
    fn junk_is_refused(
        authorization in "(AWS4-HMAC-SHA256 )?((Credential=|SignedHeaders=|Signature=)?[ -~]{0,30}[,/;= ]?){0,8}",
        date in "[0-9TZ ]{0,18}|[A-Za-z0-9:, ]{20,30}",
        query in "[!-~]{0,30}",
        hash in proptest::option::of("[0-9a-fA-F]{63,65}|[!-~]{0,20}"),
    ) {
        let query = query.replace('#', "%");
        let fields = [("Host", "a"), ("Authorization", &authorization), ("X-Amz-Date", &date)];
        let mut request = Request::new("GET", &format!("/?{query}"), &fields, b"");
        if let Some(hash) = hash {
            request.add("X-Amz-Content-Sha256", &hash);
        }
        verify(&request, &rules(), &ring(key(ID, SECRET, None)), now()).expect_err("junk");
    }
}

#[test]
fn what_is_not_signed_may_change() {
    let keyring = ring(key(ID, SECRET, None));
    let mut request = sign_with(base(), SIGNING);
    for (name, value) in [("User-Agent", "x"), ("X-Amz-Cf-Id", "edge"), ("X-Amzn-Trace-Id", "Root=1"), ("Date", "junk")]
    {
        request.add(name, value);
    }
    assert_eq!(verdict(&request, &keyring), "accepted");
}

// ---------------------------------------------------------------------------------------------
// Other signers

#[test]
fn habits_of_released_signers_are_accepted() {
    let keyring = ring(key(ID, SECRET, None));
    let date = ("X-Amz-Date", NOW_BASIC);
    let end = |host: &str| format!("host:{host}\nx-amz-date:{NOW_BASIC}\n\nhost;x-amz-date\n");
    for (who, target, fields, canonical) in [
        (
            "botocore with a Date of the caller's",
            "/dispatch",
            vec![("Host", "a"), ("Date", "Mon, 15 Jan 2024 10:30:00 GMT")],
            "POST\n/dispatch\n\ndate:Mon, 15 Jan 2024 10:30:00 GMT\nhost:a\n\ndate;host\n".to_owned(),
        ),
        (
            "Go: sorted by decoded name, path as sent",
            "/a//b/../c?b=1&%7C=2",
            vec![("Host", "a"), date],
            format!("POST\n/a//b/../c\nb=1&%7C=2\n{}", end("a")),
        ),
        (
            "botocore and Ruby: raw query, only sorted",
            "/dispatch?b=x+y&a=%c3%a9&flag",
            vec![("Host", "a"), date],
            format!("POST\n/dispatch\na=%c3%a9&b=x+y&flag=\n{}", end("a")),
        ),
        (
            "a balancer that appends the default port",
            "/dispatch",
            vec![("Host", "a:443"), date],
            format!("POST\n/dispatch\n\n{}", end("a")),
        ),
        (
            "tabs folded like spaces",
            "/dispatch",
            vec![("Host", "a"), ("X", "b \t c"), date],
            format!("POST\n/dispatch\n\nhost:a\nx:b c\nx-amz-date:{NOW_BASIC}\n\nhost;x;x-amz-date\n"),
        ),
        (
            "Ruby: quoted values as they are",
            "/dispatch",
            vec![("Host", "a"), ("X", "\"b   c\""), date],
            format!("POST\n/dispatch\n\nhost:a\nx:\"b   c\"\nx-amz-date:{NOW_BASIC}\n\nhost;x;x-amz-date\n"),
        ),
        (
            "an empty value",
            "/dispatch",
            vec![("Host", "a"), ("X", ""), date],
            format!("POST\n/dispatch\n\nhost:a\nx:\nx-amz-date:{NOW_BASIC}\n\nhost;x;x-amz-date\n"),
        ),
    ] {
        let request = seal(Request::new("POST", target, &fields, b"{}"), &canonical, NOW);
        assert_eq!(verdict(&request, &keyring), "accepted", "{who}");
    }
}

#[test]
fn bytes_that_are_no_text_are_bound() {
    let keyring = ring(key(ID, SECRET, None));
    let end = format!("host:a\nx-amz-date:{NOW_BASIC}\n\nhost;x-amz-date\n");
    let fields = [("Host", "a"), ("X-Amz-Date", NOW_BASIC)];
    let request = seal(Request::new("GET", "/?x=%FF", &fields, b""), format!("GET\n/\nx=%FF\n{end}"), NOW);
    assert_eq!(verdict(&request, &keyring), "accepted");
    for other in ["/?x=%FE", "/?x=%EF%BF%BD", "/?x="] {
        let altered = Request { target: other.into(), ..request.clone() };
        assert_eq!(verdict(&altered, &keyring), "mismatch", "{other}");
    }
    let mut request = Request::new("GET", "/", &fields, b"");
    request.fields.push(("X".into(), b"caf\xe9".to_vec()));
    let canonical =
        [&b"GET\n/\n\nhost:a\nx:caf\xe9\nx-amz-date:"[..], NOW_BASIC.as_bytes(), b"\n\nhost;x;x-amz-date\n"];
    let mut request = seal(request, canonical.concat(), NOW);
    assert_eq!(verdict(&request, &keyring), "accepted", "Latin-1");
    for other in [&b"caf\xe8"[..], b"caf\xc3\xa9", b"caf\xef\xbf\xbd"] {
        *request.value("x") = other.to_vec();
        assert_eq!(verdict(&request, &keyring), "mismatch", "{other:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// Keys, time, levels of encoding

pub(crate) fn base() -> Request {
    let fields = [("Host", "orbit.example"), ("Content-Type", "application/json"), ("X-Amz-Meta-Team", "a")];
    Request::new("POST", "/dispatch?a=%2B&b=1", &fields, br#"{"intent":"call_reasoning"}"#)
}

#[test]
fn the_encoding_level_is_fixed() {
    let keyring = ring(key(ID, SECRET, None));
    let fields = [("Host", "a"), ("X-Amz-Date", NOW_BASIC)];
    let end = format!("\n\nhost:a\nx-amz-date:{NOW_BASIC}\n\nhost;x-amz-date\n");
    for (target, canonical, expected) in [
        ("/a%2Fb", "/a%252Fb", "accepted"),
        ("/a%252Fb", "/a%252Fb", "mismatch"),
        ("/a%2Fb", "/a%2Fb", "mismatch"),
        ("/a/b", "/a%2Fb", "mismatch"),
    ] {
        let request = seal(Request::new("GET", target, &fields, b""), format!("GET\n{canonical}{end}"), NOW);
        assert_eq!(verdict(&request, &keyring), expected, "{target} signed as {canonical}");
    }
    // A plus sign signed as `%2B` by two clients could stand for a space once relayed.
    let end = end.trim_start_matches('\n');
    for (target, query, expected) in [
        ("/?a=b+c", "a=b%20c", "accepted"),
        ("/?a=b+c", "a=b%2Bc", "mismatch"),
        ("/?a=b%2Bc", "a=b%20c", "mismatch"),
        ("/?a=b%20c", "a=b%2520c", "mismatch"),
    ] {
        let request = seal(Request::new("GET", target, &fields, b""), format!("GET\n/\n{query}\n{end}"), NOW);
        assert_eq!(verdict(&request, &keyring), expected, "{target} signed as {query}");
    }
}

#[test]
fn unusable_keys_all_read_mismatch_and_differ_in_the_log() {
    let usable = || key(ID, SECRET, None);
    let mut texts = Vec::new();
    for (declare, entry) in [false, true].into_iter().flat_map(|declare| {
        [
            key("AKIDOTHER", SECRET, None),
            KeyEntry { disabled: true, ..usable() },
            KeyEntry { not_before: Some(NOW + 1), ..usable() },
            KeyEntry { not_after: Some(NOW - 1), ..usable() },
            key(ID, "another secret", None),
        ]
        .map(|entry| (declare, entry))
    }) {
        let request = sign_with(base(), Signing { declare, ..SIGNING });
        let wrong_secret =
            entry.access_key_id == ID && !entry.disabled && entry.not_after.or(entry.not_before).is_none();
        let keyring = ring(entry);
        let head = request.head().expect("a head");
        let claimed = claim(&head, &rules(), &keyring, now());
        // Only a wrong secret over an undeclared body needs the body to be found out.
        assert_eq!(claimed.is_ok(), wrong_secret && !declare);
        let refused = claimed.and_then(|claim| claim.identify(&request.body)).expect_err("no caller");
        assert_eq!((refused.code, &refused.details), (Code::InvalidSignature, &Details::Issue("mismatch")));
        texts.push(refused.why.into_owned());
    }
    let second = texts.split_off(5);
    assert_eq!(texts, second);
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 5, "{texts:?}");
}

/// Two entries under one id, as a source has them while it rotates: each holds as a whole or not at all.
#[test]
fn during_a_rotation_either_key_of_an_id_holds_as_a_whole() {
    let entry = |secret: &str, token: Option<&str>, principal: &str| KeyEntry {
        principal: principal.into(),
        ..key(ID, secret, token)
    };
    let outcome = |entries: Vec<KeyEntry>, how: Signing<'_>| {
        let keyring = Keyring::from_entries(entries).expect("valid keys");
        match verify(&sign_with(base(), how), &rules(), &keyring, now()) {
            Ok(caller) => {
                assert_eq!(caller.principal(), caller.key().principal());
                caller.principal().to_string()
            }
            Err(Rejection { details: Details::Issue(issue), .. }) => issue.to_owned(),
            Err(other) => panic!("{other:?}"),
        }
    };
    let next = || entry("next secret", Some("next-token"), "next");
    let last = || entry(SECRET, Some(TOKEN), "last");
    for declare in [false, true] {
        let signing = |secret, token| Signing { secret, token, declare, ..SIGNING };
        let both = |secret, token| outcome(vec![next(), last()], signing(secret, token));
        assert_eq!(both("next secret", Some("next-token")), "next");
        assert_eq!(both(SECRET, Some(TOKEN)), "last");
        assert_eq!(both("another secret", Some(TOKEN)), "mismatch");
        assert_eq!(both(SECRET, None), "token_mismatch");
        // The secret of one with the token of the other.
        assert_eq!(both("next secret", Some(TOKEN)), "token_mismatch");
        assert_eq!(both(SECRET, Some("next-token")), "token_mismatch");
        // Whoever lacks the secret is told nothing of tokens, and so not which ids have one.
        assert_eq!(both("another secret", None), "mismatch");
        assert_eq!(both("another secret", Some("another-token")), "mismatch");

        // One secret, two tokens, or a token in one of them only: the token tells them apart.
        let temporary = || entry(SECRET, Some(TOKEN), "temporary");
        let lasting = || entry(SECRET, None, "lasting");
        for entries in [vec![temporary(), lasting()], vec![lasting(), temporary()]] {
            assert_eq!(outcome(entries.clone(), signing(SECRET, Some(TOKEN))), "temporary");
            assert_eq!(outcome(entries.clone(), signing(SECRET, None)), "lasting");
            assert_eq!(outcome(entries, signing(SECRET, Some("other"))), "token_mismatch");
        }

        // Validity is each entry's own; a disabled current one takes the id with it.
        let lapsed = |entry| KeyEntry { not_after: Some(NOW - 1), ..entry };
        let disabled = |entry| KeyEntry { disabled: true, ..entry };
        let old = signing(SECRET, Some(TOKEN));
        assert_eq!(outcome(vec![lapsed(next()), last()], old), "last");
        assert_eq!(outcome(vec![next(), lapsed(last())], old), "mismatch");
        assert_eq!(outcome(vec![next(), disabled(last())], old), "mismatch");
        assert_eq!(outcome(vec![disabled(next()), last()], old), "mismatch");
        // The same credential written twice counts as the current entry has it.
        assert_eq!(outcome(vec![lapsed(last()), last()], old), "mismatch");
    }
}

#[test]
fn the_window_includes_both_its_ends() {
    let keyring = ring(key(ID, SECRET, None));
    let request = sign_with(base(), SIGNING);
    let at = |seconds: u64, nanos: u64| {
        let clock = ManualClock::at(seconds);
        clock.advance(Duration::from_nanos(nanos));
        verify(&request, &rules(), &keyring, clock.now()).map(drop).map_err(|refused| refused.details)
    };
    let skew = |issue: Issue, server_time| {
        let issue = issue.as_str();
        Err(Details::Skew { issue, server_time, request_time: NOW, allowed_skew_seconds: 300 })
    };
    assert_eq!(at(NOW, 0), Ok(()));
    assert_eq!(at(NOW + 300, 0), Ok(()));
    assert_eq!(at(NOW + 300, 1), skew(Issue::Expired, NOW + 300));
    assert_eq!(at(NOW + 301, 0), skew(Issue::Expired, NOW + 301));
    assert_eq!(at(NOW - 300, 0), Ok(()));
    assert_eq!(at(NOW - 301, 999_999_999), skew(Issue::NotYetValid, NOW - 301));
    assert_eq!(at(NOW - 301, 0), skew(Issue::NotYetValid, NOW - 301));
    assert_eq!(at(0, 0), skew(Issue::NotYetValid, 0));
}

#[test]
fn around_midnight_the_scope_follows_the_request() {
    // 2024-01-16T00:00:00Z
    let midnight = 1_705_363_200;
    let keyring = ring(key(ID, SECRET, None));
    let before = sign_with(base(), Signing { at: midnight - 1, ..SIGNING });
    let after = sign_with(base(), Signing { at: midnight, ..SIGNING });
    for clock in [midnight - 300, midnight - 1, midnight, midnight + 299] {
        let now = ManualClock::at(clock).now();
        verify(&before, &rules(), &keyring, now).expect("yesterday's date at any clock in the window");
        verify(&after, &rules(), &keyring, now).expect("today's date at any clock in the window");
    }
    let mut moved = before;
    moved.set("x-amz-date", "20240116T000000Z");
    let refused = verify(&moved, &rules(), &keyring, ManualClock::at(midnight).now()).expect_err("two dates");
    assert_eq!(refused.details, Details::Issue("wrong_scope"));
}

#[test]
fn issues_are_spelt_as_in_the_contract() {
    let spelt = Issue::ALL.map(Issue::as_str);
    assert_eq!(
        spelt,
        [
            "malformed",
            "unsupported_algorithm",
            "unsigned_header",
            "missing_signed_header",
            "wrong_scope",
            "expired",
            "not_yet_valid",
            "payload_mismatch",
            "token_mismatch",
            "mismatch",
            "replayed"
        ]
    );
}
