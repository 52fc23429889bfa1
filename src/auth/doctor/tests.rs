//! Every hypothesis by a request that is signed that wrong way; the canonical requests are written by hand.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::auth::{KeyEntry, claim};
use crate::clock::{Clock, ManualClock};
use crate::error::Code;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22w";
/// 2024-01-15T10:30:00Z
const NOW: u64 = 1_705_314_600;

const HEAD: &str = "POST /a%20b/c?b=2&a=1&a-b=3&flag&p=x+y&e=%c3%a9 HTTP/1.1\r\n\
                    Host: Orbit.example:8081\r\n\
                    Content-Type: application/json\r\n\
                    X-Forwarded-Host: front.example:8443\r\n\
                    X-Amzn-Trace-Id: Self=1-67891234-1;Root=1-67891233-2\r\n\
                    X-Amz-Date: 20240115T103000Z\r\n\
                    X-Twice: One\r\nX-Twice: two\r\n\
                    Accept-Encoding: gzip\r\n";
const QUERY: &str = "a=1&a-b=3&b=2&e=%C3%A9&flag=&p=x%20y";
const CANONICAL: &str = "POST\n/a%2520b/c\na=1&a-b=3&b=2&e=%C3%A9&flag=&p=x%20y\n\
                         accept-encoding:gzip\n\
                         content-type:application/json\n\
                         host:Orbit.example:8081\n\
                         x-amz-date:20240115T103000Z\n\
                         x-amzn-trace-id:Self=1-67891234-1;Root=1-67891233-2\n\
                         x-twice:One,two\n\n\
                         accept-encoding;content-type;host;x-amz-date;x-amzn-trace-id;x-twice\n";
const NAMES: &str = "accept-encoding;content-type;host;x-amz-date;x-amzn-trace-id;x-twice";
const BODY: &str = "{\"a\":\n1}\n";

/// A request and how it is signed; [`Made::usual`] is signed right.
#[derive(Clone)]
struct Made {
    head: String,
    body: Vec<u8>,
    /// What is signed, up to the payload's line.
    canonical: String,
    payload: String,
    names: String,
    stamp: String,
    /// What the string to sign says.
    scope: String,
    /// What the request says.
    credential: String,
    key: Vec<u8>,
    entries: Vec<KeyEntry>,
}

impl Made {
    fn usual() -> Self {
        let scope = "20240115/us-east-1/execute-api/aws4_request";
        Self {
            head: HEAD.into(),
            body: BODY.into(),
            canonical: CANONICAL.into(),
            payload: sha256(BODY),
            names: NAMES.into(),
            stamp: "20240115T103000Z".into(),
            scope: scope.into(),
            credential: format!("{ID}/{scope}"),
            key: derived(SECRET, NOW, "us-east-1", "execute-api"),
            entries: vec![
                entry("AKIDAAA", "another secret", "others"),
                entry("AKIDZZZ", "a secret of the same caller", "team"),
                entry(ID, SECRET, "team"),
            ],
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What is signed has `to` where it should have `from`.
    #[track_caller]
    fn signed(&mut self, from: &str, to: &str) {
        assert!(self.canonical.contains(from), "{from:?} in {:?}", self.canonical);
        self.canonical = self.canonical.replacen(from, to, 1);
    }

    /// The request has `to` where it had `from`.
    #[track_caller]
    fn sent(&mut self, from: &str, to: &str) {
        assert!(self.head.contains(from), "{from:?} in {:?}", self.head);
        self.head = self.head.replacen(from, to, 1);
    }

    /// Another body, signed right.
    fn body(&mut self, body: &str) {
        self.body = body.into();
        self.payload = sha256(body);
    }

    fn signature(&self) -> String {
        let hash = sha256(format!("{}{}", self.canonical, self.payload));
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", self.stamp, self.scope);
        calculate_signature(&self.key, to_sign.as_bytes())
    }

    fn head(&self) -> Head {
        let Self { head, credential, names, .. } = self;
        let value = format!("Credential={credential}, SignedHeaders={names}, Signature={}", self.signature());
        Head::parse(Bytes::from(format!("{head}Authorization: AWS4-HMAC-SHA256 {value}\r\n\r\n"))).expect("a head")
    }

    fn keyring(&self) -> Keyring {
        Keyring::from_entries(self.entries.clone()).expect("valid keys")
    }

    fn verify(&self) -> Result<(), Rejection> {
        claim(&self.head(), &rules(), &self.keyring(), now())?.identify(&self.body).map(drop)
    }

    /// The issue and what the doctor says of it.
    fn examined(&self, audience: Audience) -> (&'static str, Option<Finding>) {
        let refused = self.verify().expect_err("a refusal");
        assert_eq!(refused.code, Code::InvalidSignature, "{refused:?}");
        let (Details::Issue(issue) | Details::Skew { issue, .. }) = refused.details else { panic!("{refused:?}") };
        let (head, keyring, rules) = (self.head(), self.keyring(), rules());
        let patient = Patient { head: &head, body: Some(&self.body), rules: &rules, keyring: &keyring, now: now() };
        let finding = examine(&patient, &refused, audience);
        for secret in [SECRET, TOKEN, &self.signature()] {
            assert!(!format!("{finding:?}").contains(secret), "{finding:?}");
        }
        (issue, finding)
    }

    fn told(&self, audience: Audience) -> String {
        self.examined(audience).1.map(|finding| finding.hint).unwrap_or_default()
    }
}

/// What either would be told, and the name of what was found.
fn examine(patient: &Patient<'_>, refused: &Rejection, audience: Audience) -> Option<Finding> {
    match audience {
        Audience::Operator => explain(patient, refused),
        Audience::Caller => {
            let issue = issue_of(refused).filter(|issue| is_told_to_callers(*issue))?;
            let found = consult(patient, audience, |consultation| consultation.finding(issue)).flatten();
            let told = found.as_ref().map_or(Hint::None, |finding| Hint::Given(finding.hint.as_str().into()));
            assert_eq!(hint(patient, refused, || true), told);
            found
        }
    }
}

fn entry(id: &str, secret: &str, principal: &str) -> KeyEntry {
    KeyEntry {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        session_token: None,
        principal: principal.into(),
        not_before: None,
        not_after: None,
        disabled: false,
    }
}

fn rules() -> Rules {
    Rules {
        regions: vec!["us-east-1".into(), "mars-north-1".into()],
        services: vec!["execute-api".into(), "s3".into()],
        clock_skew: Duration::from_secs(300),
        presigned: Some(Duration::from_secs(3600)),
        unsigned_payload: false,
    }
}

fn now() -> Moment {
    ManualClock::at(NOW).now()
}

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn derived(secret: &str, at: u64, region: &str, service: &str) -> Vec<u8> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    generate_signing_key(secret, time, region, service).as_ref().to_vec()
}

/// The derivation without the prefix that `generate_signing_key` always writes.
fn derived_bare(secret: &str) -> Vec<u8> {
    ["20240115", "us-east-1", "execute-api", "aws4_request"].iter().fold(secret.into(), |key: Vec<u8>, part| {
        let hex = calculate_signature(key, part.as_bytes());
        (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect()
    })
}

/// A hypothesis and a request signed that way; several for those that try several things.
fn wrongly_signed() -> Vec<(&'static str, Made)> {
    let mut all = Vec::new();
    let mut wrong = |name, change: &dyn Fn(&mut Made)| all.push((name, Made::usual().with(|made| change(made))));
    let signed = |from: &'static str, to: &'static str| move |made: &mut Made| made.signed(from, to);
    let queried = |to: &'static str| move |made: &mut Made| made.signed(QUERY, to);

    wrong("body_line_end_removed", &|made| made.payload = sha256(BODY.trim_end()));
    wrong("body_line_end_removed", &|made| {
        made.body("\n {} \r\n\n");
        made.payload = sha256("{}");
    });
    wrong("body_line_end_added", &|made| made.payload = sha256(format!("{BODY}\n")));
    wrong("body_line_end_added", &|made| made.payload = sha256(format!("{BODY}\r\n")));
    wrong("body_line_ends_changed", &|made| made.payload = sha256(BODY.replace('\n', "\r\n")));
    wrong("body_line_ends_changed", &|made| {
        made.body("a\r\nb");
        made.payload = sha256("a\nb");
    });
    wrong("body_mark_removed", &|made| {
        made.body("\u{feff}{}");
        made.payload = sha256("{}");
    });
    wrong("body_not_hashed", &|made| made.payload = sha256(""));
    wrong("payload_unsigned", &|made| made.payload = "UNSIGNED-PAYLOAD".into());
    wrong("payload_hash_of_body", &|made| made.head += &format!("X-Amz-Content-Sha256: {}\r\n", sha256("another")));
    wrong("payload_hash_spelt_otherwise", &|made| made.payload = made.payload.to_uppercase());
    wrong("payload_hash_spelt_otherwise", &|made| made.payload.clear());
    for host in ["Orbit.example", "Orbit.example:80", "Orbit.example:443", "Orbit.example:8080"] {
        wrong("host_port", &|made| made.signed("host:Orbit.example:8081", &format!("host:{host}")));
    }
    wrong("host_port", &|made| {
        made.head += "X-Forwarded-Port: 9443\r\n";
        made.signed("host:Orbit.example:8081", "host:Orbit.example:9443");
    });
    wrong("host_rewritten", &signed("host:Orbit.example:8081", "host:front.example:8443"));
    wrong("host_rewritten", &signed("host:Orbit.example:8081", "host:front.example"));
    wrong("host_rewritten", &|made| {
        made.head += "Forwarded: for=192.0.2.1;Host=\"front:1\", host=other\r\n";
        made.signed("host:Orbit.example:8081", "host:front:1");
    });
    wrong("host_case", &signed("host:Orbit.example:8081", "host:orbit.example:8081"));
    wrong("content_type_parameter", &|made| {
        made.sent("application/json", "application/json; charset=utf-8");
    });
    wrong("content_type_parameter", &signed("application/json", "application/json;charset=UTF-8"));
    wrong("trace_id_extended", &signed("Self=1-67891234-1;Root", "Root"));
    wrong("method", &signed("POST", "GET"));
    wrong("method", &signed("POST", "post"));
    wrong("path_encoded_otherwise", &signed("/a%2520b/c", "/a%20b/c"));
    wrong("path_encoded_otherwise", &signed("/a%2520b/c", "/a b/c"));
    wrong("path_encoded_otherwise", &|made| {
        made.sent("/a%20b/c", "/@a%20b");
        made.signed("/a%2520b/c", "/@a%20b");
    });
    wrong("path_encoded_once_more", &signed("/a%2520b/c", "/a%252520b/c"));
    wrong("path_encoded_once_more", &|made| {
        made.scope = made.scope.replace("execute-api", "s3");
        made.credential = made.credential.replace("execute-api", "s3");
        made.key = derived(SECRET, NOW, "us-east-1", "s3");
    });
    wrong("path_slash", &signed("/a%2520b/c", "/a%2520b/c/"));
    wrong("path_slash", &|made| made.sent("/a%20b/c?", "/a%20b/c/?"));
    wrong("path_left_out", &signed("/a%2520b/c", "/"));
    wrong("path_left_out", &signed("/a%2520b/c", ""));
    wrong("query_unsorted", &queried("b=2&a=1&a-b=3&flag=&p=x%20y&e=%C3%A9"));
    wrong("query_unsorted", &|made| {
        made.sent("b=2&a=1&a-b=3&flag&p=x+y&e=%c3%a9", "b=2&a=1&b=1");
        made.signed(QUERY, "a=1&b=2&b=1");
    });
    wrong("query_sorted_as_strings", &queried("a-b=3&a=1&b=2&e=%C3%A9&flag=&p=x%20y"));
    wrong("query_not_encoded", &queried("b=2&a=1&a-b=3&flag&p=x+y&e=%c3%a9"));
    wrong("query_not_encoded", &queried("a-b=3&a=1&b=2&e=%c3%a9&flag&p=x+y"));
    wrong("query_decoded", &queried("a=1&a-b=3&b=2&e=\u{e9}&flag=&p=x y"));
    wrong("query_encoded_twice", &queried("a=1&a-b=3&b=2&e=%25C3%25A9&flag=&p=x%2520y"));
    wrong("query_plus", &queried("a=1&a-b=3&b=2&e=%C3%A9&flag=&p=x%2By"));
    wrong("query_plus", &queried("a=1&a-b=3&b=2&e=%C3%A9&flag=&p=x+y"));
    wrong("query_escapes_in_lower_case", &queried("a=1&a-b=3&b=2&e=%c3%a9&flag=&p=x%20y"));
    wrong("query_empty_values", &queried("a=1&a-b=3&b=2&e=%C3%A9&flag&p=x%20y"));
    wrong("query_empty_values", &queried("a=1&a-b=3&b=2&e=%C3%A9&p=x%20y"));
    wrong("query_empty_values", &|made| {
        made.sent("b=2&a=1&a-b=3&flag&p=x+y&e=%c3%a9", "flag");
        made.signed(QUERY, "flag");
    });
    wrong("query_left_out", &queried(""));
    wrong(
        "query_in_path",
        &signed("/a%2520b/c\na=1&a-b=3&b=2&e=%C3%A9&flag=&p=x%20y\n", "/a%20b/c?b=2&a=1&a-b=3&flag&p=x+y&e=%c3%a9\n\n"),
    );
    wrong("header_names_in_capitals", &|made| {
        for name in ["Host", "Content-Type", "X-Amz-Date", "X-Amzn-Trace-Id", "X-Twice", "Accept-Encoding"] {
            made.signed(&format!("\n{}:", name.to_lowercase()), &format!("\n{name}:"));
        }
    });
    wrong("header_values_changed", &|made| {
        for name in NAMES.split(';') {
            made.signed(&format!("\n{name}:"), &format!("\n{name}: "));
        }
    });
    wrong("header_values_changed", &|made| {
        made.signed("Orbit", "orbit");
        made.signed("20240115T103000Z", "20240115t103000z");
        made.signed("Self=1-67891234-1;Root", "self=1-67891234-1;root");
        made.signed("One", "one");
    });
    wrong("header_quoted_spaces", &|made| {
        made.sent("X-Twice: two", "X-Twice: two  \"a  b\"  c");
        made.signed("One,two", "One,two \"a  b\" c");
    });
    wrong("header_values_joined_otherwise", &signed("x-twice:One,two", "x-twice:One, two"));
    wrong("header_values_joined_otherwise", &signed("x-twice:One,two", "x-twice:One\nx-twice:two"));
    wrong("header_values_joined_otherwise", &signed("x-twice:One,two", "x-twice:One"));
    wrong("header_values_joined_otherwise", &signed("x-twice:One,two", "x-twice:two"));
    wrong("headers_unsorted", &|made| {
        made.signed("accept-encoding:gzip\n", "");
        made.signed(
            "content-type:application/json\nhost:Orbit.example:8081\n",
            "host:Orbit.example:8081\ncontent-type:application/json\n",
        );
        made.signed(
            "x-amz-date:20240115T103000Z\nx-amzn-trace-id:Self=1-67891234-1;Root=1-67891233-2\n",
            "x-amzn-trace-id:Self=1-67891234-1;Root=1-67891233-2\nx-amz-date:20240115T103000Z\n",
        );
        made.signed("x-twice:One,two\n", "x-twice:One,two\naccept-encoding:gzip\n");
    });
    wrong("empty_line_left_out", &signed("two\n\naccept", "two\naccept"));
    wrong("empty_line_left_out", &|made| {
        made.sent("?b=2&a=1&a-b=3&flag&p=x+y&e=%c3%a9", "");
        made.signed(QUERY, "");
        made.signed("two\n\naccept", "two\naccept");
    });
    wrong("header_left_out", &|made| {
        made.signed("accept-encoding:gzip\n", "");
        made.signed("accept-encoding;", "");
    });
    wrong("header_left_out", &signed("accept-encoding:gzip\n", ""));
    wrong("header_empty", &signed("accept-encoding:gzip\n", "accept-encoding:\n"));
    let temporary = |made: &mut Made| {
        made.entries[2].session_token = Some(TOKEN.into());
        made.head += &format!("X-Amz-Security-Token: {TOKEN}\r\n");
    };
    wrong("token_not_signed", &|made| {
        temporary(made);
        made.names = NAMES.replace("x-amzn", "x-amz-security-token;x-amzn");
    });
    wrong("token_signed_but_not_named", &|made| {
        temporary(made);
        made.signed("x-amzn-trace-id:", &format!("x-amz-security-token:{TOKEN}\nx-amzn-trace-id:"));
        made.signed("x-amzn-trace-id;", "x-amz-security-token;x-amzn-trace-id;");
    });
    wrong("date_of_date_header", &|made| {
        made.head += "Date: Mon, 15 Jan 2024 10:29:00 GMT\r\n";
        made.stamp = "20240115T102900Z".into();
    });
    wrong("clock_read_twice", &|made| made.stamp = "20240115T103001Z".into());
    wrong("clock_read_twice", &|made| made.stamp = "20240115T102958Z".into());
    wrong("date_in_local_time", &|made| made.stamp = "20240115T153000Z".into());
    wrong("date_in_local_time", &|made| made.stamp = "20240115T003000Z".into());
    wrong("key_of_another_day", &|made| made.key = derived(SECRET, NOW - 86_400, "us-east-1", "execute-api"));
    wrong("key_of_another_day", &|made| {
        made.key = derived(SECRET, NOW + 86_400, "us-east-1", "execute-api");
        made.scope = made.scope.replace("20240115", "20240116");
    });
    wrong("secret_without_prefix", &|made| made.key = derived_bare(SECRET));
    for region in ["eu-west-1", "mars-north-1"] {
        wrong("region", &|made| made.key = derived(SECRET, NOW, region, "execute-api"));
        wrong("region", &|made| {
            made.key = derived(SECRET, NOW, region, "execute-api");
            made.scope = made.scope.replace("us-east-1", region);
        });
    }
    wrong("service", &|made| made.key = derived(SECRET, NOW, "us-east-1", "lambda"));
    wrong("service", &|made| {
        made.key = derived(SECRET, NOW, "us-east-1", "s3");
        made.scope = made.scope.replace("execute-api", "s3");
    });
    for secret in ["\n", "\r\n", " "].map(|end| format!("{SECRET}{end}")) {
        wrong("secret_spelt_otherwise", &|made| made.key = derived(&secret, NOW, "us-east-1", "execute-api"));
        wrong("secret_spelt_otherwise", &|made| made.entries[2].secret_access_key = secret.as_str().into());
    }
    for secret in [format!(" {SECRET}"), format!("\"{SECRET}\""), SECRET.replace('/', "%2F").replace('+', "%2B")] {
        wrong("secret_spelt_otherwise", &|made| made.key = derived(&secret, NOW, "us-east-1", "execute-api"));
        wrong("secret_spelt_otherwise", &|made| made.entries[2].secret_access_key = secret.as_str().into());
    }
    wrong("secret_of_another_key", &|made| made.key = derived("another secret", NOW, "us-east-1", "execute-api"));
    wrong("secret_of_another_key", &|made| made.credential = made.credential.replace(ID, "AKIDZZZ"));
    wrong("secret_of_another_key", &|made| made.credential = made.credential.replace(ID, "AKIDNOBODY"));
    all
}

#[test]
fn the_usual_request_is_signed_right() {
    assert_eq!(Made::usual().verify(), Ok(()));
}

#[test]
fn each_hypothesis_is_found_by_a_request_signed_that_way() {
    let all = wrongly_signed();
    for (name, made) in &all {
        let (issue, finding) = made.examined(Audience::Operator);
        let finding = finding.unwrap_or_else(|| panic!("{name}: nothing found"));
        assert_eq!((issue, finding.hypothesis), ("mismatch", Some(*name)), "{}\n{}", finding.hint, made.canonical);
        let hypothesis = HYPOTHESES.iter().find(|known| known.name == *name).expect("a known name");
        assert!(finding.hint.starts_with(&format!("the signature matches {}", hypothesis.means)), "{finding:?}");
        assert!(finding.hint.ends_with(hypothesis.change) && !finding.hint.contains('\n'), "{finding:?}");
    }
    let tested: BTreeSet<&str> = all.iter().map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = HYPOTHESES.iter().map(|hypothesis| hypothesis.name).collect();
    assert_eq!(tested, known);
    assert_eq!(known.len(), HYPOTHESES.len(), "names are unique");
}

/// A presigned request for `GET /a?b=2&a=1`; `sign` gets what should be signed, up to the payload's line, and
/// gives all that is.
fn presigned(sign: impl FnOnce(String) -> String) -> Head {
    let scope = "20240115/us-east-1/execute-api/aws4_request";
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date=20240115T103000Z&X-Amz-Expires=60\
         &X-Amz-SignedHeaders=host",
        format!("{ID}/{scope}").replace('/', "%2F"),
    );
    let canonical = sign(format!("GET\n/a\n{query}&a=1&b=2\nhost:orbit.example\n\nhost\n"));
    let to_sign = format!("AWS4-HMAC-SHA256\n20240115T103000Z\n{scope}\n{}", sha256(canonical));
    let signature = calculate_signature(derived(SECRET, NOW, "us-east-1", "execute-api"), to_sign.as_bytes());
    let target = format!("/a?b=2&{query}&a=1&X-Amz-Signature={signature}");
    Head::parse(Bytes::from(format!("GET {target} HTTP/1.1\r\nHost: orbit.example\r\n\r\n"))).expect("a head")
}

fn examined_presigned(head: &Head, at: u64, audience: Audience) -> Option<Finding> {
    let (rules, keyring, now) = (rules(), Made::usual().keyring(), ManualClock::at(at).now());
    let refused = claim(head, &rules, &keyring, now).and_then(|claim| claim.identify(b"")).err()?;
    examine(&Patient { head, body: Some(b""), rules: &rules, keyring: &keyring, now }, &refused, audience)
}

#[test]
fn presigned_requests_are_examined_too() {
    let right = presigned(|canonical| canonical + &sha256(""));
    assert_eq!(examined_presigned(&right, NOW, Audience::Operator), None);
    let wrong = |from: &str, to: &str, payload: &str| {
        presigned(|canonical| {
            assert!(canonical.contains(from), "{from} in {canonical}");
            canonical.replacen(from, to, 1) + payload
        })
    };
    let empty = &sha256("");
    let unsorted = |canonical: String| {
        canonical.replace("&a=1&b=2", "&a=1").replace("X-Amz-Algorithm", "b=2&X-Amz-Algorithm") + empty
    };
    for (name, head) in [
        ("payload_unsigned", wrong("", "", "UNSIGNED-PAYLOAD")),
        ("method", wrong("GET", "POST", empty)),
        ("host_port", wrong("host:orbit.example", "host:orbit.example:443", empty)),
        ("query_left_out", wrong("&a=1&b=2", "", empty)),
        ("query_unsorted", presigned(unsorted)),
    ] {
        let finding = examined_presigned(&head, NOW, Audience::Caller).expect("a hint");
        assert_eq!(finding.hypothesis, Some(name), "{finding:?}");
    }
    let (denying, keyring) = (Rules { presigned: None, ..rules() }, Made::usual().keyring());
    let refused = claim(&right, &denying, &keyring, now()).map(drop).expect_err("a refusal");
    let patient = Patient { head: &right, body: Some(b""), rules: &denying, keyring: &keyring, now: now() };
    assert!(explain(&patient, &refused).expect("advice").hint.contains("allow presigned requests"));
    assert_eq!(hint(&patient, &refused, || true), Hint::None);
    let expired = examined_presigned(&right, NOW + 61, Audience::Operator).expect("a hint").hint;
    assert!(expired.starts_with("it was signed 61 seconds ago") && expired.ends_with("is right"), "{expired}");
}

#[test]
fn callers_hear_nothing_of_secrets_and_tokens() {
    for (name, made) in wrongly_signed() {
        let (issue, finding) = made.examined(Audience::Caller);
        let told = HYPOTHESES.iter().find(|known| known.name == name).expect("a known name").told;
        assert_eq!(issue, "mismatch", "{name}");
        if made.credential.contains("NOBODY") {
            continue;
        }
        let expected = (told == Audience::Caller).then_some(name);
        let finding = finding.expect("a known key");
        assert_eq!(finding.hypothesis, expected, "{name}: {finding:?}");
        for word in ["secret of", "session token", "AKIDAAA", "AKIDZZZ"] {
            assert!(!finding.hint.contains(word), "{name}: {finding:?}");
        }
    }
}

#[test]
fn strangers_hear_nothing() {
    let unknown = Made::usual().with(|made| made.credential = made.credential.replace(ID, "AKIDNOBODY"));
    assert_eq!(unknown.examined(Audience::Caller), ("mismatch", None));
    assert!(unknown.told(Audience::Operator).contains("of another configured key, `AKIDEXAMPLE` of `team`"));
    let lost = unknown.with(|made| made.key = vec![0; 32]);
    assert!(lost.told(Audience::Operator).starts_with("no key of that id is configured"));
    for unusable in [
        KeyEntry { disabled: true, ..entry(ID, SECRET, "team") },
        KeyEntry { not_before: Some(NOW + 1), ..entry(ID, SECRET, "team") },
        KeyEntry { not_after: Some(NOW - 1), ..entry(ID, SECRET, "team") },
    ] {
        let made = Made::usual().with(|made| {
            made.signed("POST", "GET");
            made.entries = vec![unusable.clone()];
        });
        assert_eq!(made.examined(Audience::Caller), ("mismatch", None));
        assert!(made.examined(Audience::Operator).1.is_some());
    }
}

#[test]
fn admission_is_asked_for_once_and_only_where_there_is_work() {
    let asked_for = |made: &Made, admitted: bool| {
        let refused = made.verify().expect_err("a refusal");
        let (head, keyring, rules) = (made.head(), made.keyring(), rules());
        let patient = Patient { head: &head, body: Some(&made.body), rules: &rules, keyring: &keyring, now: now() };
        let mut asked = 0;
        let hint = hint(&patient, &refused, || {
            asked += 1;
            admitted
        });
        (asked, hint)
    };
    let altered = Made::usual().with(|made| made.signed("POST", "GET"));
    assert!(matches!(asked_for(&altered, true), (1, Hint::Given(_))));
    assert_eq!(asked_for(&altered, false), (1, Hint::Skipped));
    for none in [
        altered.clone().with(|made| made.credential = made.credential.replace(ID, "AKIDNOBODY")),
        altered.clone().with(|made| made.entries[2].disabled = true),
        altered.clone().with(|made| made.names = "\"".into()),
        Made::usual().with(|made| made.entries[2].session_token = Some(TOKEN.into())),
    ] {
        assert_eq!(asked_for(&none, true), (0, Hint::None));
    }
    let unsigned = Head::parse(Bytes::from("GET / HTTP/1.1\r\nHost: a\r\n\r\n")).expect("a head");
    let patient = Patient { head: &unsigned, body: None, rules: &rules(), keyring: &altered.keyring(), now: now() };
    let refused = Rejection::new(Code::MissingAuthorization, "no Authorization header");
    assert_eq!((hint(&patient, &refused, || panic!("asked")), explain(&patient, &refused)), (Hint::None, None));
}

#[test]
fn a_body_that_was_not_read_is_not_needed_for_what_the_head_declares() {
    let made = Made::usual().with(|made| {
        made.head += &format!("X-Amz-Content-Sha256: {}\r\n", made.payload);
        made.signed("POST", "GET");
    });
    let refused = claim(&made.head(), &rules(), &made.keyring(), now()).map(drop).expect_err("a refusal");
    let (head, keyring, rules) = (made.head(), made.keyring(), rules());
    let patient = Patient { head: &head, body: None, rules: &rules, keyring: &keyring, now: now() };
    assert_eq!(examine(&patient, &refused, Audience::Caller).expect("found").hypothesis, Some("method"));
}

#[test]
fn large_requests_get_fewer_tries_from_callers_and_all_from_operators() {
    let made = Made::usual().with(|made| {
        let padding = format!("pad={}", "p".repeat(8000));
        made.head += "Date: Mon, 15 Jan 2024 10:29:00 GMT\r\n";
        made.sent("&e=%c3%a9", &format!("&e=%c3%a9&{padding}"));
        made.signed(
            QUERY,
            &format!("{QUERY}&{padding}").replace("&p=x%20y", "").replace(&padding, &format!("p=x%20y&{padding}")),
        );
        made.signed("accept-encoding:gzip\n", "accept-encoding:\n");
    });
    assert_eq!(made.examined(Audience::Operator).1.expect("found").hypothesis, Some("header_empty"));
    assert_eq!(made.examined(Audience::Caller).1.expect("a hint").hypothesis, None);
}

#[test]
fn what_nothing_explains_is_said_to_be_so() {
    let made = Made::usual().with(|made| made.key = vec![0; 32]);
    for audience in [Audience::Operator, Audience::Caller] {
        let hint = made.told(audience);
        assert!(hint.starts_with("no single known mistake explains it"), "{hint}");
        assert!(hint.contains("`accept-encoding`, `x-amzn-trace-id` is signed"), "{hint}");
    }
}

#[test]
fn the_whole_table_is_tried_and_what_is_not_is_said() {
    let named = |count: usize| {
        Made::usual().with(|made| {
            made.key = vec![0; 32];
            let names: Vec<String> = (0..count).map(|n| format!("h{n:03}")).collect();
            let names: String = names.iter().map(|name| format!("{name};")).collect();
            made.names = NAMES.replace("host;", &format!("{names}host;"));
            made.head += &(0..count).map(|n| format!("h{n:03}: v\r\n")).collect::<String>();
            let keys = (0..bench::OTHER_KEYS_MAX - 2).map(|n| entry(&format!("AKIDB{n:03}"), "secret", "others"));
            made.entries.extend(keys);
        })
    };
    let usual = named(bench::FIELDS_TRIED_MAX + 1 - NAMES.split(';').count());
    assert!(usual.told(Audience::Operator).starts_with("no single known mistake"));
    assert!(!usual.told(Audience::Operator).contains("within the bound"), "{}", usual.told(Audience::Operator));
    for many in [named(100), usual.with(|made| made.entries.push(entry("AKIDMORE", "secret", "others")))] {
        assert!(many.told(Audience::Operator).ends_with("(not everything could be tried within the bound)"));
        assert!(many.told(Audience::Caller).starts_with("no single known mistake"));
    }
}

#[test]
fn the_second_key_of_an_id_is_tried_too() {
    let made = Made::usual().with(|made| {
        made.signed("POST", "GET");
        made.entries.insert(0, entry(ID, "the newer secret", "team"));
    });
    assert_eq!(made.examined(Audience::Operator).1.expect("found").hypothesis, Some("method"));
    for (name, key) in [
        ("service", derived(SECRET, NOW, "us-east-1", "bedrock")),
        ("secret_of_another_key", derived("another secret", NOW, "us-east-1", "execute-api")),
    ] {
        let late = Made::usual().with(|made| {
            made.key = key;
            made.entries.insert(0, entry(ID, "the newer secret", "team"));
        });
        assert_eq!(late.examined(Audience::Operator).1.expect("found").hypothesis, Some(name));
    }
}

#[test]
fn a_scope_that_is_refused_is_told_by_its_part() {
    let scoped = |scope: &str| {
        Made::usual().with(|made| {
            let parts: Vec<&str> = scope.split('/').collect();
            made.key = derived(SECRET, NOW, parts[1], parts[2]);
            (made.scope, made.credential) = (scope.into(), format!("{ID}/{scope}"));
        })
    };
    for (scope, told) in [
        (
            "20240115/eu-west-1/execute-api/aws4_request",
            "region `eu-west-1`, `auth.region` has `us-east-1`, `mars-north-1`",
        ),
        ("20240115/us-east-1/es/aws4_request", "service `es`, `auth.service` has `execute-api`, `s3`"),
        ("20240114/us-east-1/execute-api/aws4_request", "another day"),
        ("20240115/us-east-1/execute-api/aws4", "must end in `aws4_request`"),
    ] {
        let made = scoped(scope);
        assert_eq!(made.examined(Audience::Operator).0, "wrong_scope");
        assert!(made.told(Audience::Operator).contains(told), "{}", made.told(Audience::Operator));
        let caller = made.told(Audience::Caller);
        assert!(!caller.is_empty() && !caller.contains("mars-north-1") && !caller.contains("signature"), "{caller}");
    }
    let secret = scoped(&format!("20240115/{SECRET}/execute-api/aws4_request").replace("I/K", "I_K"));
    assert!(!secret.told(Audience::Operator).contains("wJalr"), "{}", secret.told(Audience::Operator));
    let region = "20240115/eu-west-1/execute-api/aws4_request";
    assert!(scoped(region).told(Audience::Operator).ends_with("apart from that the signature is right"));
    let neither = scoped(region).with(|made| made.signed("POST", "GET"));
    assert!(neither.told(Audience::Operator).ends_with("the signature does not match either"));
}

#[test]
fn headers_that_are_not_signed_or_not_there_are_told() {
    let added = Made::usual().with(|made| made.head += "X-Amz-Meta-A: b\r\n");
    assert_eq!(added.examined(Audience::Operator).0, "unsigned_header");
    assert!(added.told(Audience::Operator).starts_with("the signature is right without it"));
    assert!(added.told(Audience::Caller).starts_with("every x-amz-* header"));
    let hostless = Made::usual().with(|made| made.names = NAMES.replace("host;", ""));
    assert_eq!(hostless.told(Audience::Caller), "put `host` into SignedHeaders");

    let named = |made: &mut Made| made.names = NAMES.replace("host;", "foo;host;");
    let absent = Made::usual().with(named);
    assert_eq!(absent.examined(Audience::Operator).0, "missing_signed_header");
    assert!(absent.told(Audience::Operator).starts_with("send every header"));
    let empty = absent.clone().with(|made| {
        made.signed("host:", "foo:\nhost:");
        made.signed(NAMES, &NAMES.replace("host;", "foo;host;"));
    });
    assert!(empty.told(Audience::Operator).starts_with("the signature is right with it empty"));
    let left_out = absent.with(|made| made.signed(NAMES, &NAMES.replace("host;", "foo;host;")));
    assert!(left_out.told(Audience::Operator).starts_with("the signature is right with it left out"));
    assert!(left_out.told(Audience::Caller).starts_with("send every header"));
}

#[test]
fn a_wrong_clock_is_told_by_how_much() {
    let at = |stamp: &str| {
        Made::usual().with(|made| {
            made.sent("20240115T103000Z", stamp);
            made.signed("20240115T103000Z", stamp);
            made.stamp = stamp.into();
        })
    };
    for (stamp, issue, told) in [
        ("20240115T102400Z", "expired", "360 seconds behind: set the signer's clock"),
        ("20240115T103600Z", "not_yet_valid", "360 seconds ahead: set the signer's clock"),
        ("20240115T123010Z", "not_yet_valid", "7210 seconds ahead, about 2 hours: it looks like local time"),
        ("20240115T050000Z", "expired", "about 5.5 hours"),
    ] {
        let made = at(stamp);
        assert_eq!(made.examined(Audience::Caller).0, issue);
        assert!(made.told(Audience::Caller).contains(told), "{}", made.told(Audience::Caller));
        assert!(!made.told(Audience::Caller).contains("signature"));
        assert!(made.told(Audience::Operator).ends_with("apart from that the signature is right"));
    }
    let neither = at("20240115T102400Z").with(|made| made.signed("POST", "GET"));
    assert!(neither.told(Audience::Operator).ends_with("the signature does not match either"));
}

#[test]
fn a_body_unlike_its_declared_hash_is_told_from() {
    let declaring = |hash: String| {
        Made::usual().with(|made| {
            made.head += &format!("X-Amz-Content-Sha256: {hash}\r\n");
            made.payload = hash;
        })
    };
    let trimmed = declaring(sha256(BODY.trim_end()));
    for audience in [Audience::Operator, Audience::Caller] {
        let (issue, finding) = trimmed.examined(audience);
        let finding = finding.expect("found");
        assert_eq!((issue, finding.hypothesis), ("payload_mismatch", Some("body_line_end_removed")));
        assert!(finding.hint.starts_with("the declared hash is the body's without the line end"), "{finding:?}");
    }
    assert_eq!(
        declaring(sha256("")).examined(Audience::Operator).1.expect("found").hypothesis,
        Some("body_not_hashed")
    );
    assert!(declaring(sha256("other")).told(Audience::Caller).starts_with("the head is as it was signed"));
    assert!(declaring("UNSIGNED-PAYLOAD".into()).told(Audience::Caller).starts_with("declare and sign"));
}

#[test]
fn tokens_are_the_operator_s_business() {
    let keyed = |made: &mut Made| made.entries[2].session_token = Some(TOKEN.into());
    let sent = |made: &mut Made| made.head += "X-Amz-Security-Token: another\r\n";
    for (made, told) in [
        (Made::usual().with(keyed), "the key is a temporary one"),
        (Made::usual().with(sent), "the key has no session token"),
        (Made::usual().with(keyed).with(sent), "id, secret and token come as a set"),
    ] {
        assert_eq!(made.examined(Audience::Caller), ("token_mismatch", None));
        let hint = made.told(Audience::Operator);
        assert!(hint.starts_with(told) && hint.ends_with("apart from that the signature is right"), "{hint}");
    }
}

#[test]
fn what_cannot_be_read_gets_advice() {
    let dated =
        Made::usual().with(|made| made.sent("X-Amz-Date: 20240115T103000Z", "X-Amz-Date: 2024-01-15T10:30:00Z"));
    assert_eq!(dated.examined(Audience::Operator).0, "malformed");
    assert!(dated.told(Audience::Operator).contains("without hyphens"));
    assert_eq!(dated.examined(Audience::Caller).1, None);
    let quoted = Made::usual().with(|made| made.names = format!("\"{NAMES}\""));
    assert_eq!(quoted.told(Audience::Operator), Issue::Malformed.advice());
    assert_eq!(quoted.examined(Audience::Caller).1, None);
}

#[test]
fn large_bodies_are_not_hashed_again_for_callers() {
    let made = Made::usual().with(|made| {
        made.body(&("a".repeat(CALLER_BODY_BYTES_MAX) + "\n"));
        made.payload = sha256("a".repeat(CALLER_BODY_BYTES_MAX));
    });
    assert_eq!(made.examined(Audience::Operator).1.expect("found").hypothesis, Some("body_line_end_removed"));
    assert_eq!(made.examined(Audience::Caller).1.expect("a hint").hypothesis, None);

    // Nor as they came: what takes the hash is found where the head declares it.
    let undeclared = Made::usual().with(|made| {
        made.body(&"a".repeat(CALLER_BODY_BYTES_MAX + 1));
        made.signed("POST", "PUT");
    });
    let found = |made: &Made, audience| made.examined(audience).1.expect("a hint").hypothesis;
    assert!(found(&undeclared, Audience::Operator).is_some());
    assert_eq!(found(&undeclared, Audience::Caller), None);
    let declared = undeclared.with(|made| made.head += &format!("X-Amz-Content-Sha256: {}\r\n", made.payload));
    assert_eq!(found(&declared, Audience::Caller), found(&declared, Audience::Operator));
    assert!(found(&declared, Audience::Caller).is_some());
}

#[test]
fn other_keys_are_bounded_and_those_of_the_same_caller_come_first() {
    let made = Made::usual().with(|made| {
        let more = (0..100).map(|n| entry(&format!("AKIDB{n:03}"), &format!("secret {n}"), "others"));
        made.entries.extend(more);
        made.key = derived("a secret of the same caller", NOW, "us-east-1", "execute-api");
    });
    assert!(made.told(Audience::Operator).contains("`AKIDZZZ` of `team`"));
    let far = made.with(|made| made.key = derived("secret 99", NOW, "us-east-1", "execute-api"));
    assert!(far.told(Audience::Operator).starts_with("no single known mistake"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is altered, by whomever it is read: words, in one line, bounded, without anything secret.
    #[test]
    fn hints_are_one_line_and_give_nothing_away(
        line in 0usize..10, at in any::<proptest::sample::Index>(), to in any::<u8>(), key in any::<bool>(),
    ) {
        let mut made = Made::usual().with(|made| {
            made.entries[2].session_token = Some(TOKEN.into());
            made.head += &format!("X-Amz-Security-Token: {TOKEN}\r\n");
            if key { made.key = vec![to; 32] }
        });
        let mut lines: Vec<String> = made.head.split_inclusive("\r\n").map(str::to_owned).collect();
        let own = &mut lines[line % made.head.matches("\r\n").count()];
        let position = at.index(own.len() - 2);
        own.replace_range(position..=position, &char::from(to & 0x7f).to_string());
        made.head = lines.concat();
        let Ok(head) = Head::parse(Bytes::from(format!("{}\r\n", made.head))) else { return Ok(()) };
        drop(head);
        let Err(refused) = made.verify() else { return Ok(()) };
        let (head, keyring, rules) = (made.head(), made.keyring(), rules());
        let patient = Patient { head: &head, body: Some(&made.body), rules: &rules, keyring: &keyring, now: now() };
        for audience in [Audience::Operator, Audience::Caller] {
            if let Some(finding) = examine(&patient, &refused, audience) {
                let text = format!("{finding:?}");
                prop_assert!(!finding.hint.contains('\n') && finding.hint.len() < 1000, "{}", text);
                for secret in [SECRET, TOKEN, &made.signature()] {
                    prop_assert!(!text.contains(secret), "{}", text);
                }
            }
        }
    }
}
