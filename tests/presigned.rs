//! Query authentication against AWS's own signer: what it presigns passes, and nothing made from it does. The
//! attacks stand in `sigv4_attacks`.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SessionTokenMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use orbit::auth::{Issue, Keyring, Rules, claim};
use orbit::clock::{Clock, ManualClock};
use orbit::error::{Code, Details, Rejection};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::harness::axon::Axon;
use crate::harness::check::{Kind, contract};
use crate::harness::client::signing_params;
use crate::harness::gateway::{BODY, Setup, signing};
use crate::sigv4_suite::{
    ID, NOW, NOW_BASIC, Request, SECRET, TOKEN, alter, base, hex, key, meaning, requests, ring, rules, verify,
};

/// How a request is presigned.
#[derive(Clone, Copy)]
struct Presigning<'a> {
    token: Option<&'a str>,
    /// Whether the token is added behind the signature.
    appended: bool,
    at: u64,
    expires: u64,
    service: &'a str,
    /// Whether the path is signed as S3 has it.
    s3_path: bool,
    /// In place of the body's hash.
    payload: Option<&'a str>,
    declared: bool,
}

const PRESIGNING: Presigning<'static> = Presigning {
    token: None,
    appended: false,
    at: NOW,
    expires: 60,
    service: "execute-api",
    s3_path: false,
    payload: None,
    declared: false,
};

/// Presigns with the full signer of `aws-sigv4`; every header is signed.
fn presign(mut request: Request, how: Presigning<'_>) -> Request {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(Duration::from_secs(how.expires));
    settings.excluded_headers = None;
    if how.s3_path {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    if how.appended {
        settings.session_token_mode = SessionTokenMode::Exclude;
    }
    if how.declared {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let hash = how.payload.map_or_else(|| hex(&Sha256::digest(&request.body)), str::to_owned);
        request.add("X-Amz-Content-Sha256", &hash);
    }
    let identity = Credentials::new(ID, SECRET, how.token.map(str::to_owned), None, "test").into();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(how.at);
    let params = signing_params(&identity, "us-east-1", how.service, at, settings);
    let fields = request.fields.clone();
    let headers = fields.iter().map(|(n, v)| (n.as_str(), std::str::from_utf8(v).expect("UTF-8")));
    let body = how.payload.map_or(SignableBody::Bytes(&request.body), |word| SignableBody::Precomputed(word.into()));
    let uri = format!("http://any{}", request.target);
    let signable = SignableRequest::new(&request.method, uri, headers, body).expect("signable");
    let (instructions, _) = sign(signable, &params).expect("signed").into_parts();
    for (name, value) in instructions.params() {
        let glue = if request.target.contains('?') { '&' } else { '?' };
        request.target += &format!("{glue}{name}={}", encoded(value));
    }
    request
}

/// Presigns a request by a canonical query that the test wrote itself; `parameters` stand in the target, the
/// signature is appended.
fn seal_query(mut request: Request, parameters: &str, canonical_query: &str, names: &str) -> Request {
    let mut canonical = format!("{}\n/dispatch\n{canonical_query}\n", request.method);
    for name in names.split(';') {
        canonical += &format!("{name}:{}\n", request.text(name));
    }
    canonical += &format!("\n{names}\n{}", hex(&Sha256::digest(&request.body)));
    let hash = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{NOW_BASIC}\n20240115/us-east-1/execute-api/aws4_request\n{hash}");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let key = v4::generate_signing_key(SECRET, time, "us-east-1", "execute-api");
    let signature = v4::calculate_signature(key, to_sign.as_bytes());
    request.target = format!("/dispatch?{parameters}&X-Amz-Signature={signature}");
    request
}

fn encoded(text: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn presigned_rules() -> Rules {
    Rules { presigned: Some(Duration::from_secs(900)), ..rules() }
}

fn at(request: &Request, rules: &Rules, keyring: &Keyring, seconds: u64) -> Result<(), Rejection> {
    verify(request, rules, keyring, ManualClock::at(seconds).now()).map(drop)
}

/// The issue a refusal names, or its code; checks in passing that the log text gives nothing away.
fn verdict(request: &Request, keyring: &Keyring) -> &'static str {
    verdict_of(request, &at(request, &presigned_rules(), keyring, NOW))
}

fn verdict_of(request: &Request, outcome: &Result<(), Rejection>) -> &'static str {
    let Err(refused) = outcome else { return "accepted" };
    let signature = request.target.split("X-Amz-Signature=").nth(1).and_then(|rest| rest.get(..64));
    for secret in [SECRET, TOKEN, &encoded(TOKEN)].into_iter().chain(signature) {
        assert!(!format!("{refused:?}").contains(secret), "{refused:?}");
    }
    match (refused.code, &refused.details) {
        (Code::InvalidSignature, Details::Issue(issue) | Details::Skew { issue, .. }) => issue,
        (code, _) => code.name(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    /// What AWS's signer presigns is accepted; with one signed byte altered it is refused.
    #[test]
    fn presigned_requests_pass_and_altered_ones_do_not(
        request in requests(),
        declared in any::<bool>(),
        appended in any::<bool>(),
        token in proptest::option::of(Just(TOKEN)),
        changes in proptest::collection::vec(
            (proptest::sample::select(&["method", "path", "query", "query", "query", "host", "field", "x-amz-content-sha256", "body"][..]),
            any::<proptest::sample::Index>(), 0x21u8..0x7f), 16),
    ) {
        let keyring = ring(key(ID, SECRET, token));
        let signed = presign(request, Presigning { token, appended, declared, ..PRESIGNING });
        prop_assert_eq!(verdict(&signed, &keyring), "accepted", "{:?}", signed);
        for (part, at, to) in changes {
            let Some(altered) = alter(&signed, part, at, to) else { continue };
            if meaning(&altered) != meaning(&signed) {
                prop_assert_ne!(verdict(&altered, &keyring), "accepted", "{}: {:?} became {:?}", part, signed, altered);
            }
        }
    }

    /// Whatever stands in the parsed parameters is refused and nothing panics.
    #[test]
    fn junk_in_the_query_is_refused(
        values in proptest::collection::vec("[!-~]{0,40}|AWS4-HMAC-SHA256|20240115T103000Z|host|[0-9]{1,7}|[0-9a-f]{64}", 8),
        order in Just(NAMES.to_vec()).prop_shuffle(),
        kept in 1usize..=8,
    ) {
        let pairs: Vec<String> = order.iter().zip(values).take(kept).map(|(name, value)| format!("{name}={value}")).collect();
        let target = format!("/?{}", pairs.join("&").replace('#', "%"));
        let request = Request::new("GET", &target, &[("Host", "a")], b"");
        at(&request, &presigned_rules(), &ring(key(ID, SECRET, None)), NOW).expect_err("junk");
    }
}

const NAMES: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
    "X-Amz-Content-Sha256",
];

#[test]
fn every_byte_of_a_presigned_request_is_bound() {
    for token in [None, Some("t+k/n=")] {
        let keyring = ring(key(ID, SECRET, token));
        let signed = presign(base(), Presigning { token, ..PRESIGNING });
        assert_eq!(verdict(&signed, &keyring), "accepted");
        let replacements = b"aZ09-%&=+/?;.X~".map(char::from);
        let mut altered = 0;
        let mut try_with = |request: Request, what: &str| {
            if meaning(&request) != meaning(&signed) {
                altered += 1;
                assert_ne!(verdict(&request, &keyring), "accepted", "{what}: {request:?}");
            }
        };
        for at in 0..signed.target.len() {
            for to in replacements {
                let mut request = signed.clone();
                request.target.replace_range(at..=at, &to.to_string());
                try_with(request, "target");
            }
            let mut request = signed.clone();
            request.target.remove(at);
            try_with(request, "target, one less");
            let mut request = signed.clone();
            request.target.insert(at, 'a');
            try_with(request, "target, one more");
        }
        for field in 0..signed.fields.len() {
            for at in 0..signed.fields[field].1.len() {
                let mut request = signed.clone();
                request.fields[field].1[at] ^= 1;
                try_with(request, "field");
            }
        }
        for at in 0..signed.body.len() {
            let mut request = signed.clone();
            request.body[at] ^= 1;
            try_with(request, "body");
        }
        assert!(altered > 4000, "{altered}");
    }
}

#[test]
fn without_permission_query_authentication_is_refused_by_name() {
    let keyring = ring(key(ID, SECRET, None));
    let signed = presign(base(), PRESIGNING);
    for target in [&signed.target, "/dispatch?X-Amz-Signature=1", "/dispatch?x%2damz-date=1"] {
        let request = Request { target: target.to_owned(), ..signed.clone() };
        let refused = at(&request, &rules(), &keyring, NOW).expect_err("denied");
        assert_eq!(refused.details, Details::Issue("malformed"));
        assert!(refused.why.contains("auth.presigned"), "{refused:?}");
    }
}

#[test]
fn the_life_of_a_presigned_request_includes_both_its_ends() {
    let keyring = ring(key(ID, SECRET, None));
    let life = |expires: u64, max: u64, now: u64| {
        let rules = Rules { presigned: Some(Duration::from_secs(max)), ..rules() };
        at(&presign(base(), Presigning { expires, ..PRESIGNING }), &rules, &keyring, now).map_err(|e| e.details)
    };
    let skew = |issue: Issue, server_time| {
        let issue = issue.as_str();
        Err(Details::Skew { issue, server_time, request_time: NOW, allowed_skew_seconds: 300 })
    };
    assert_eq!(life(60, 60, NOW - 301), skew(Issue::NotYetValid, NOW - 301));
    assert_eq!(life(60, 60, NOW - 300), Ok(()));
    assert_eq!(life(60, 60, NOW + 60), Ok(()));
    assert_eq!(life(60, 60, NOW + 61), skew(Issue::Expired, NOW + 61));
    assert_eq!(life(1, 60, NOW + 1), Ok(()));
    assert_eq!(life(1, 60, NOW + 2), skew(Issue::Expired, NOW + 2));
    let week = 604_800;
    assert_eq!(life(week, week, NOW + week), Ok(()));
    assert_eq!(life(week, week, NOW + week + 1), skew(Issue::Expired, NOW + week + 1));
    assert_eq!(life(61, 60, NOW), Err(Details::Issue("malformed")));

    // Without X-Amz-Expires, as aws4 and aws4fetch have it, the window is that of a header, within `max_expires`.
    let request = Request::new("POST", "/dispatch", &[("Host", "a")], b"{}");
    let parameters = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ID}%2F20240115%2Fus-east-1%2Fexecute-api%2Faws4_request\
         &X-Amz-Date={NOW_BASIC}&X-Amz-SignedHeaders=host"
    );
    let signed = seal_query(request.clone(), &parameters, &parameters, "host");
    let without = |max, now| {
        let rules = Rules { presigned: Some(Duration::from_secs(max)), ..rules() };
        at(&signed, &rules, &keyring, now).map_err(|e| e.details)
    };
    for (max, last) in [(week, 300), (300, 300), (299, 299), (1, 1)] {
        assert_eq!(without(max, NOW - 301), skew(Issue::NotYetValid, NOW - 301));
        assert_eq!(without(max, NOW - 300), Ok(()));
        assert_eq!(without(max, NOW + last), Ok(()));
        assert_eq!(without(max, NOW + last + 1), skew(Issue::Expired, NOW + last + 1));
    }

    // S3 requires it.
    let s3 = Rules { services: vec!["s3".into()], ..presigned_rules() };
    let parameters = parameters.replace("execute-api", "s3");
    let refused = at(&seal_query(request, &parameters, &parameters, "host"), &s3, &keyring, NOW).expect_err("refused");
    assert_eq!(refused.details, Details::Issue("malformed"));
    assert!(refused.why.contains("X-Amz-Expires"), "{refused:?}");
}

#[test]
fn the_token_stands_in_the_query_or_in_a_header_and_once() {
    let keyring = ring(key(ID, SECRET, Some(TOKEN)));
    let signing = |token, appended| presign(base(), Presigning { token, appended, ..PRESIGNING });
    let with = |request: &Request, change: &dyn Fn(&mut Request)| {
        let mut request = request.clone();
        change(&mut request);
        verdict(&request, &keyring)
    };
    let signed = signing(Some(TOKEN), false);
    let appended = signing(Some(TOKEN), true);
    let without = signing(None, false);
    let pair = format!("&X-Amz-Security-Token={}", encoded(TOKEN));
    let other = pair.replace("AQo", "AQp");
    assert_eq!(with(&signed, &|_| {}), "accepted");
    assert!(appended.target.ends_with(&pair) || appended.target.contains(&pair), "{appended:?}");
    assert_eq!(with(&appended, &|_| {}), "accepted");
    assert_eq!(with(&without, &|_| {}), "token_mismatch");
    assert_eq!(with(&without, &|r| r.target += &pair), "accepted", "appended by hand");
    assert_eq!(with(&without, &|r| r.target += &other), "token_mismatch");
    assert_eq!(with(&signed, &|r| r.target = r.target.replace(&pair, &other)), "mismatch");
    assert_eq!(with(&signed, &|r| r.target = r.target.replace(&pair, "")), "mismatch");
    assert_eq!(with(&without, &|r| r.add("X-Amz-Security-Token", TOKEN)), "accepted", "in a header");
    assert_eq!(with(&without, &|r| r.add("X-Amz-Security-Token", "x")), "token_mismatch");
    assert_eq!(with(&signed, &|r| r.add("X-Amz-Security-Token", TOKEN)), "malformed");
    assert_eq!(with(&appended, &|r| r.add("X-Amz-Security-Token", "x")), "malformed");
    // Signed with the token and moved to a header afterwards: not what was signed.
    let moved = |r: &mut Request| {
        r.target = r.target.replace(&pair, "");
        r.add("X-Amz-Security-Token", TOKEN);
    };
    assert_eq!(with(&signed, &moved), "mismatch");
    // A key without a token takes none, wherever it stands.
    let lasting = ring(key(ID, SECRET, None));
    assert_eq!(verdict(&signed, &lasting), "token_mismatch");
    assert_eq!(verdict(&appended, &lasting), "token_mismatch");
    // Whoever lacks the secret learns nothing about the token.
    let stranger = ring(key(ID, "another secret", Some("another")));
    for (token, declared) in [(Some(TOKEN), true), (Some(TOKEN), false), (None, true), (None, false)] {
        let guessed = presign(base(), Presigning { token, declared, ..PRESIGNING });
        assert_eq!(verdict(&guessed, &stranger), "mismatch");
    }
}

#[test]
fn the_payload_is_the_real_body_unless_the_rules_allow_otherwise() {
    let keyring = ring(key(ID, SECRET, None));
    let allowed = Rules { unsigned_payload: true, ..presigned_rules() };
    let both = |request: &Request| {
        let allowing = at(request, &allowed, &keyring, NOW);
        (verdict(request, &keyring), verdict_of(request, &allowing))
    };
    // S3's habit, said and unsaid; only what is said can be allowed.
    let unsaid = presign(base(), Presigning { payload: Some("UNSIGNED-PAYLOAD"), ..PRESIGNING });
    assert_eq!(both(&unsaid), ("mismatch", "mismatch"));
    let said = presign(base(), Presigning { payload: Some("UNSIGNED-PAYLOAD"), declared: true, ..PRESIGNING });
    assert_eq!(both(&said), ("payload_mismatch", "accepted"));
    let in_query = Request { target: format!("{}&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD", base().target), ..base() };
    let in_query = presign(in_query, Presigning { payload: Some("UNSIGNED-PAYLOAD"), ..PRESIGNING });
    assert_eq!(both(&in_query), ("payload_mismatch", "accepted"));

    let hash = hex(&Sha256::digest(&base().body));
    let in_query = Request { target: format!("{}&X-Amz-Content-Sha256={hash}", base().target), ..base() };
    let signed = presign(in_query, PRESIGNING);
    assert_eq!(verdict(&signed, &keyring), "accepted");
    let mut other_body = signed.clone();
    other_body.body.push(b' ');
    assert_eq!(verdict(&other_body, &keyring), "payload_mismatch");
    let mut twice = signed.clone();
    twice.add("X-Amz-Content-Sha256", &hash);
    assert_eq!(verdict(&twice, &keyring), "malformed");
    // The signature is then known before a byte of the body is read.
    let mut altered = signed.clone();
    altered.target = altered.target.replace("b=1", "b=2");
    let head = altered.head().expect("a head");
    claim(&head, &presigned_rules(), &keyring, ManualClock::at(NOW).now()).expect_err("before the body");
    for streaming in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        let target = format!("{}&X-Amz-Content-Sha256={streaming}", base().target);
        let request = presign(Request { target, ..base() }, Presigning { payload: Some(streaming), ..PRESIGNING });
        assert_eq!(both(&request), ("unsupported_algorithm", "unsupported_algorithm"));
    }
}

#[test]
fn habits_of_released_signers_are_accepted_in_the_query_too() {
    let keyring = ring(key(ID, SECRET, Some("tok/en")));
    let credential = format!("X-Amz-Credential={ID}%2F20240115%2Fus-east-1%2Fexecute-api%2Faws4_request");
    let signed = |rest: &str| format!("X-Amz-Algorithm=AWS4-HMAC-SHA256&{credential}&X-Amz-Date={NOW_BASIC}{rest}");
    for (who, host, parameters, canonical) in [
        (
            "Go: sorted by decoded name, default port, token appended",
            "a:443",
            signed("&X-Amz-SignedHeaders=host&b=1&%7C=2&X-Amz-Security-Token=tok%2Fen"),
            signed("&X-Amz-SignedHeaders=host&b=1&%7C=2"),
        ),
        (
            "a raw query, only sorted",
            "a",
            signed("&X-Amz-SignedHeaders=host&b=x+y&X-Amz-Security-Token=tok/en"),
            signed("&X-Amz-Security-Token=tok/en&X-Amz-SignedHeaders=host&b=x+y"),
        ),
    ] {
        let mut request = Request::new("POST", "/dispatch", &[("Host", "a")], b"{}");
        request = seal_query(request, &parameters, &canonical, "host");
        request.set("host", host);
        assert_eq!(verdict(&request, &keyring), "accepted", "{who}");
        // The form that leaves the token out leaves nothing else out.
        let altered = Request { target: format!("{}&c=1", request.target), ..request };
        assert_eq!(verdict(&altered, &keyring), "mismatch", "{who}");
    }
}

#[test]
fn s3_keeps_its_own_path_rule_and_only_where_it_is_configured() {
    let keyring = ring(key(ID, SECRET, None));
    let s3 = Rules { services: vec!["s3".into()], ..presigned_rules() };
    let request = |path: &str| Request::new("GET", path, &[("Host", "a")], b"");
    let outcome = |signed: &Request, rules: &Rules| verdict_of(signed, &at(signed, rules, &keyring, NOW));
    let signed = |path: &str, service, s3_path| presign(request(path), Presigning { service, s3_path, ..PRESIGNING });
    let as_s3 = |path: &str| outcome(&signed(path, "s3", true), &s3);
    for path in ["/a/b", "/a%20b", "//a/./../b", "/%7Ea/%C3%A9"] {
        // The signer's S3 mode takes the path as it is; in canonical spelling that is what S3 makes of it.
        let expected = if path.contains("%7E") { "mismatch" } else { "accepted" };
        assert_eq!(as_s3(path), expected, "{path}");
        assert_eq!(
            outcome(&signed(path, "s3", false), &s3) == "accepted",
            path == "/a/b",
            "the general rule for {path}"
        );
        assert_eq!(outcome(&signed(path, "execute-api", true), &presigned_rules()) == "accepted", !path.contains('%'));
    }
    for path in ["/a%zz", "/a%"] {
        assert_eq!(as_s3(path), "INVALID_REQUEST", "{path}");
    }
    let elsewhere = presign(request("/a%20b"), PRESIGNING);
    assert_eq!(outcome(&elsewhere, &presigned_rules()), "accepted");
    assert_eq!(outcome(&elsewhere, &s3), "wrong_scope");
    let foreign = presign(request("/a"), Presigning { service: "s3", ..PRESIGNING });
    assert_eq!(outcome(&foreign, &presigned_rules()), "wrong_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_dispatch_is_served_and_leaves_no_trace_of_its_query() {
    let axon = Axon::start();
    let auth = "{ keys: keys.yaml, presigned: { max_expires: 10m } }";
    let gateway = Setup::new(&[axon.url()]).block("auth", auth).start().await;
    let signed = gateway.dispatch(BODY).presigned(Duration::from_secs(600)).sign(&signing(), gateway.now());
    let head = String::from_utf8(signed.head.clone()).expect("ASCII");
    let signature = head.split("X-Amz-Signature=").nth(1).and_then(|rest| rest.get(..64)).expect("a signature");

    contract(&signed.send(gateway.addr()).await, Kind::Success);
    assert_eq!(axon.request().target, "/dispatch");
    let altered = signed.clone().edit("X-Amz-Expires=600", "X-Amz-Expires=599");
    let answer = contract(&altered.send(gateway.addr()).await, Kind::Error("INVALID_SIGNATURE"));
    assert_eq!(answer["details"]["issue"], "mismatch");
    gateway.clock.advance(Duration::from_secs(601));
    let answer = contract(&signed.send(gateway.addr()).await, Kind::Error("INVALID_SIGNATURE"));
    let told =
        ["issue", "server_time", "request_time", "allowed_skew_seconds"].map(|member| &answer["details"][member]);
    assert_eq!(told[0], "expired");
    assert_eq!((told[3], told.iter().any(|value| value.is_null())), (&300.into(), false), "{answer}");

    let log = gateway.finish().await.join("\n");
    assert!(!log.contains(signature) && !log.contains("X-Amz-Credential"), "{log}");
}
