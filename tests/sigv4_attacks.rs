//! Every known attack on a verifier of Signature Version 4, as data: the request, and the answer that it
//! must get.
//!
//! Each is tried against the verifier alone and against the running gateway over a socket, in front of
//! an Axon that must see nothing. What the front door or a route refuses before the verifier is asked is
//! a row too, and says what the verifier would have said. The rows that are accepted stand here as well:
//! they are the changes that a signature does not bind, and none of them may mean anything to Axon.

mod forgery;
mod over_sockets;
mod rows;

use std::time::Duration;

use orbit::auth::canonical::{Canonical, FORMS_MAX};
use orbit::auth::claim::Parts;
use orbit::auth::{KeyEntry, Keyring, Rules, claim};
use orbit::clock::{Clock, ManualClock, Moment};
use orbit::error::{Code, Details, Rejection};

use self::forgery::Forgery;
use self::rows::ADVISORIES;
use crate::sigv4_suite::{Request, key};

/// 2026-11-22T09:56:51Z
const NOW: u64 = 1_795_341_411;
const NOW_BASIC: &str = "20261122T095651Z";
const NOW_HTTP: &str = "Sun, 22 Nov 2026 09:56:51 GMT";
const TODAY: &str = "20261122";
const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// A temporary key.
const TEMPORARY: &str = "ASIATEMPORARY";
const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfI";
const BODY: &str = r#"{"intent":"call_reasoning","context":{"user_id":"user123","request_id":"req456"}}"#;

/// What a request must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// `401 INVALID_SIGNATURE` with this issue.
    Refused(&'static str),
    /// Another code, with which the head is refused or the verifier refuses.
    Code(&'static str),
    /// Refused by the front door, the route or a gate, with this code; the verifier alone would say the second.
    Door(&'static str, &'static str),
    /// 200, and Axon sees what it would have seen without the change.
    Harmless,
}
use Fate::{Code as Coded, Door, Harmless, Refused};

/// One row.
#[derive(Debug, Clone)]
struct Attack {
    name: String,
    /// The advisories and bugs that it comes from; empty for the rest.
    source: &'static str,
    request: Request,
    fate: Fate,
}

fn attacks() -> Vec<Attack> {
    rows::all()
}

fn keys() -> Vec<KeyEntry> {
    let plain = |id: &str| key(id, SECRET, None);
    vec![
        plain(ID),
        key(TEMPORARY, SECRET, Some(TOKEN)),
        key("AKIDOTHER", "another secret", None),
        KeyEntry { disabled: true, ..plain("AKIDDISABLED") },
        KeyEntry { not_before: Some(NOW + 1), ..plain("AKIDEARLY") },
        KeyEntry { not_after: Some(NOW - 1), ..plain("AKIDLAPSED") },
    ]
}

fn rules() -> Rules {
    Rules {
        regions: vec!["us-east-1".into(), "eu-west-1".into()],
        services: vec!["execute-api".into()],
        clock_skew: Duration::from_secs(300),
        presigned: Some(Duration::from_secs(900)),
        unsigned_payload: false,
    }
}

fn now() -> Moment {
    ManualClock::at(NOW).now()
}

/// What the verifier says, as the words of [`Fate`]; and whether the head alone was enough to say it.
fn verdict(request: &Request, keyring: &Keyring) -> (&'static str, bool) {
    let head = match request.head() {
        Ok(head) => head,
        Err(refused) => return (word(&refused, request), true),
    };
    match claim(&head, &rules(), keyring, now()) {
        Err(refused) => (word(&refused, request), true),
        Ok(claim) => match claim.identify(&request.body) {
            Err(refused) => (word(&refused, request), false),
            Ok(_) => ("accepted", false),
        },
    }
}

/// The issue a refusal names, or its code; checks in passing that it gives nothing away.
fn word(refused: &Rejection, request: &Request) -> &'static str {
    let shown = format!("{refused:?}");
    let sent: Vec<String> = request.fields.iter().map(|(_, v)| String::from_utf8_lossy(v).into_owned()).collect();
    let signatures = sent.iter().flat_map(|value| value.split_once("Signature=")).map(|(_, signature)| signature);
    for secret in signatures.filter(|s| s.len() > 16).chain([SECRET, TOKEN]) {
        assert!(!shown.contains(secret), "{shown}");
    }
    match (refused.code, &refused.details) {
        (Code::InvalidSignature, Details::Issue(issue) | Details::Skew { issue, .. }) => issue,
        (code, _) => code.name(),
    }
}

#[test]
fn the_verifier_says_what_is_wrong() {
    let keyring = Keyring::from_entries(keys()).expect("valid keys");
    let mut wrong = Vec::new();
    for Attack { name, source, request, fate } in attacks() {
        let expected = match fate {
            Refused(issue) => issue,
            Coded(code) => code,
            Door(_, word) => word,
            Harmless => "accepted",
        };
        let (found, _) = verdict(&request, &keyring);
        if found != expected {
            wrong.push(format!("{name} [{source}]: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_advisory_has_a_row_or_a_reason() {
    let attacks = attacks();
    for (advisory, covered) in ADVISORIES {
        let rows = attacks.iter().filter(|a| a.source.split(", ").any(|s| s == *advisory)).count();
        match covered {
            None => assert!(rows > 0, "{advisory} has no row"),
            Some(reason) => assert!(rows == 0 && !reason.is_empty(), "{advisory} has a row and a reason for none"),
        }
    }
    for source in attacks.iter().flat_map(|a| a.source.split(", ")).filter(|source| !source.is_empty()) {
        assert!(ADVISORIES.iter().any(|(known, _)| *known == source), "{source} is not listed");
    }
    let mut names: Vec<_> = attacks.iter().map(|a| a.name.as_str()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "two rows have the same name");
}

/// A head that ends early is no shorter request: neither with what follows cut off, nor with what is left
/// closed by a blank line.
#[test]
fn a_head_cut_off_at_any_byte_is_never_accepted() {
    let keyring = Keyring::from_entries(keys()).expect("valid keys");
    for base in [rows::plain(), rows::declared(), rows::temporary(), rows::presigned()] {
        assert_eq!(verdict(&base, &keyring).0, "accepted");
        let whole = base.head_bytes();
        // Behind the signature stands only what nobody signed.
        let signed = String::from_utf8_lossy(&whole).rfind("\r\nContent-Length").expect("a length");
        for end in 0..signed {
            for closing in ["", "\r\n", "\r\n\r\n"] {
                let cut = [&whole[..end], closing.as_bytes()].concat();
                let Ok(head) = orbit::request::Head::parse(cut.into()) else { continue };
                let caller = claim(&head, &rules(), &keyring, now()).and_then(|claim| claim.identify(&base.body));
                let text = whole[..end].escape_ascii();
                assert!(caller.is_err(), "accepted when cut behind byte {end}: {text}");
            }
        }
    }
}

/// Every byte of the head becomes every other kind of byte: none is accepted unless it means the same.
#[test]
fn a_head_with_one_byte_altered_is_accepted_only_where_nothing_is_signed() {
    let keyring = Keyring::from_entries(keys()).expect("valid keys");
    let request = rows::declared();
    let whole = request.head_bytes();
    let text = String::from_utf8(whole.clone()).expect("ASCII");
    let mut accepted = std::collections::BTreeSet::new();
    for at in 0..whole.len() {
        for to in [b'0', b'A', b'a', b' ', b'\t', b'/', b'%', b'&', b'=', b';', b',', b'\r', b'\n', 0, 0x7f, 0xff] {
            let mut altered = whole.clone();
            if std::mem::replace(&mut altered[at], to) == to {
                continue;
            }
            let Ok(head) = orbit::request::Head::parse(altered.into()) else { continue };
            let caller = claim(&head, &rules(), &keyring, now()).and_then(|claim| claim.identify(&request.body));
            if caller.is_ok() {
                let line = text[..at].matches("\r\n").count();
                accepted.insert((line, at - text[..at].rfind("\r\n").map_or(0, |end| end + 2), to));
            }
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    for (line, column, to) in accepted {
        let (name, _) = lines[line].split_once(": ").unwrap_or((lines[line], ""));
        let in_name = column < name.len();
        let was = lines[line].as_bytes().get(column).copied().unwrap_or_default();
        let same = if in_name { was.eq_ignore_ascii_case(&to) } else { is_blank(was) && is_blank(to) };
        // A name without an equals sign has an empty value; nobody signs the version and the length.
        let flag = line == 0 && lines[0][column..].starts_with("= HTTP/1.1") && to == b'&';
        let version = line == 0 && lines[0][column..] == *"1" && to == b'0';
        let unsigned = version || name == "Content-Length";
        assert!(same || flag || unsigned, "byte {column} of {:?} became {:?}", lines[line], char::from(to));
    }
}

/// With the operator's permission the body is left open, and nothing else is.
#[test]
fn an_unsigned_payload_by_permission_leaves_only_the_body_open() {
    let keyring = Keyring::from_entries(keys()).expect("valid keys");
    let allowed = Rules { unsigned_payload: true, ..rules() };
    let verify = |request: &Request, body: &[u8]| {
        let head = request.head().expect("a head");
        claim(&head, &allowed, &keyring, now()).and_then(|claim| claim.identify(body)).map(drop)
    };
    let word = "UNSIGNED-PAYLOAD";
    let unsigned = Forgery { payload: Some(word.into()), ..Forgery::honest() }.header("X-Amz-Content-Sha256", word);
    let request = unsigned.clone().seal();
    verify(&request, BODY.as_bytes()).expect("allowed");
    verify(&request, b"anything").expect("allowed");
    for alter in [
        (|r| r.target = "/other".into()) as fn(&mut Request),
        |r| r.method = "PUT".into(),
        |r| r.set("x-amz-meta-team", "b"),
        |r| r.remove("x-amz-content-sha256"),
        |r| r.set("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
    ] {
        let mut altered = request.clone();
        alter(&mut altered);
        verify(&altered, BODY.as_bytes()).expect_err("the head is bound all the same");
    }
    let stranger = Forgery { secret: "another secret", ..unsigned };
    verify(&stranger.seal(), BODY.as_bytes()).expect_err("and so is the secret");
    verify(&rows::declared(), b"anything").expect_err("and a body that is declared");
    verify(&rows::plain(), b"anything").expect_err("and a body that is not");
}

#[test]
fn a_claim_shows_its_key_and_nothing_else() {
    let keyring = Keyring::from_entries(keys()).expect("valid keys");
    for request in [rows::plain(), rows::declared(), rows::presigned()] {
        let claim = claim(&request.head().expect("a head"), &rules(), &keyring, now()).expect("a claim");
        assert_eq!(format!("{claim:?}"), "Claim { access_key_id: \"AKIDEXAMPLE\", .. }");
    }
}

/// What is hashed for a request, in every form together, grows as the request does: twice the request, twice
/// the bytes, and never more than a fixed number of times the request.
#[test]
fn the_bytes_hashed_grow_no_faster_than_the_request() {
    let hashed = |request: &Request| {
        let head = request.head().expect("a head");
        let value = head.all(b"authorization").next().expect("Authorization").to_vec();
        let parts = Parts::from_header(&value).expect("parts");
        let canonical = Canonical::new(&head, &parts).expect("covered");
        let mut out = Vec::new();
        canonical.forms().for_each(|form| canonical.write(form, &mut out));
        let sent = request.head_bytes().len();
        // Every byte of a target may be escaped; names stand in the list once more.
        assert!(out.len() <= FORMS_MAX * 3 * sent, "{} bytes for a head of {sent}", out.len());
        out.len()
    };
    let odd = |mut forgery: Forgery, target: String| {
        forgery.request.set("host", "orbit.example:443");
        forgery.request.target = target;
        forgery.header("X-Odd", "a  b\tc").seal()
    };
    type Grow<'a> = (&'a str, &'a dyn Fn(usize) -> Request);
    let growing: [Grow<'_>; 5] = [
        ("pairs", &|n| odd(Forgery::honest(), format!("/dispatch?{}", "%7c=+&1=%41&".repeat(20 * n)))),
        ("one value", &|n| odd(Forgery::honest(), format!("/dispatch?%7c=1&1={}", "%41+|".repeat(100 * n)))),
        ("segments", &|n| odd(Forgery::honest(), format!("/{}.?%7c=1&1=2", "a/../b//|/./".repeat(40 * n)))),
        ("signed headers", &|n| {
            let more = (0..30 * n).map(|at| (format!("X-{at:03}"), "a  b\tc".repeat(5)));
            let forgery = more.fold(Forgery::honest(), |forgery, (name, value)| forgery.header(&name, &value));
            odd(forgery, "/dispatch/.?%7c=+&1=%41".into())
        }),
        ("one signed header", &|n| {
            odd(Forgery::honest().header("X-Long", &"a  b\t".repeat(300 * n)), "/.?%7c&1=+".into())
        }),
    ];
    for (what, request) in growing {
        let [one, two, four] = [1, 2, 4].map(|n| hashed(&request(n)));
        assert!(two <= 2 * one && four <= 2 * two, "{what}: {one}, {two}, {four} bytes");
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
