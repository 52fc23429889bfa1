//! What operators see: log lines that nobody can forge and that hold no secret, metrics whose labels come
//! from closed sets, and reference pages that are generated from the tables of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use orbit::auth::Issue;
use orbit::aws::Renewal;
use orbit::axon::{Cause, Outcome, Reason, Resolution, State};
use orbit::error::Code;
use orbit::request::route::{Endpoint, Method};
use orbit::telemetry::metrics::CATALOGUE;
use serde_json::{Value, json};

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Client, Message, Response, Signed, Signing, get, request};
use crate::harness::gateway::{ACCESS_KEY, BODY, Gateway, PRINCIPAL, SECRET, Setup, signing};
use crate::harness::page::same_as;
use crate::harness::process::{Serving, real_now};

const TEXT: &str = "{ logs: { format: text } }";
const JSON: &str = "{ logs: { format: json } }";

// ---- log lines

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_leaves_the_three_lines_of_the_contract_byte_for_byte() {
    let axon = Axon::start();
    let gate = axon.hold();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let message = gateway.dispatch(BODY).header("X-Correlation-ID", "abc123-def456").sign(&signing(), gateway.now());
    let mut client = Client::connect(gateway.addr()).await;
    client.send(message.bytes()).await;
    axon.received(1).await;
    gateway.clock.advance(Duration::from_millis(45));
    gate.release();
    contract(&client.read_response().await, Kind::Success);

    let lines = gateway.log_until(&["REQUEST ["]).await;
    let expected = [
        "2026-11-22T09:56:51Z [INFO] GOVERNANCE [abc123-def456] allowed: Request authorized",
        "2026-11-22T09:56:51Z [INFO] AXON_CALL [abc123-def456] success: Axon heartbeat OK",
        "2026-11-22T09:56:51Z [INFO] REQUEST [abc123-def456] POST /dispatch 200 45ms",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_lines_carry_the_same_facts_as_members() {
    let axon = Axon::start();
    let gate = axon.hold();
    let gateway = Setup::new(&[axon.url()]).block("observability", JSON).start().await;
    let message = gateway.dispatch(BODY).header("X-Correlation-ID", "abc123-def456").sign(&signing(), gateway.now());
    let mut client = Client::connect(gateway.addr()).await;
    client.send(message.bytes()).await;
    axon.received(1).await;
    gateway.clock.advance(Duration::from_millis(45));
    gate.release();
    let response = client.read_response().await;
    contract(&response, Kind::Success);

    let told = parsed(&gateway.log_until(&[r#""event":"REQUEST""#]).await);
    let common = |event: &str, more: Value| {
        let mut line = json!({
            "timestamp": "2026-11-22T09:56:51Z", "level": "INFO", "event": event, "correlation_id": "abc123-def456",
        });
        line.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        line
    };
    let request_id = response.header("x-request-id").expect("an id");
    let expected = [
        common("GOVERNANCE", json!({ "decision": "allowed", "reason": "Request authorized", "decision_time_us": 0 })),
        common(
            "AXON_CALL",
            json!({
                "outcome": "success", "message": "Axon heartbeat OK", "backend": axon.addr().to_string(),
                "duration_us": 45_000,
            }),
        ),
        common(
            "REQUEST",
            json!({
                "method": "POST", "path": "/dispatch", "status": 200, "duration_us": 45_000, "request_id": request_id,
            }),
        ),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_logged_with_its_reason() {
    for (format, expected) in [
        (TEXT, "[INFO] GOVERNANCE [d] denied: No policy defined for orbit:unheard_of"),
        (JSON, r#""correlation_id":"d","decision":"denied","reason":"No policy defined for orbit:unheard_of""#),
    ] {
        let axon = Axon::start();
        let gateway = Setup::new(&[axon.url()]).block("observability", format).start().await;
        let response =
            gateway.send(gateway.dispatch(r#"{"intent":"unheard_of"}"#).header("X-Correlation-ID", "d")).await;
        contract(&response, Kind::Denied);
        gateway.logged(&[expected]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_log_tells_an_unknown_key_from_a_disabled_one_and_from_a_wrong_secret() {
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: RETIRED, secret_access_key: {SECRET:?}, principal: tests, disabled: true }}\n"
    );
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).file("keys.yaml", &keys).start().await;
    let mut told = BTreeSet::new();
    let mut answers = BTreeSet::new();
    for (key, secret) in [("UNKNOWN", SECRET), ("RETIRED", SECRET), (ACCESS_KEY, "wrong")] {
        let signed = gateway.dispatch(BODY).header("X-Correlation-ID", key);
        let response = signed.send(gateway.addr(), &Signing::new(key, secret), gateway.now()).await;
        let answer = contract(&response, Kind::Error("INVALID_SIGNATURE"));
        answers.insert(format!("{} {}", answer["error"], answer["details"]));
        let line = gateway.logged(&["REFUSED [", "INVALID_SIGNATURE: ", key]).await;
        told.insert(line.split("INVALID_SIGNATURE: ").nth(1).expect("a reason").replace(key, "KEY"));
    }
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_connection_leaves_one_request_line() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let mut client = Client::connect(gateway.addr()).await;
    for (id, path, kind) in [
        ("one", "/health", Kind::Healthy),
        ("two", "/nothing", Kind::Error("NOT_FOUND")),
        ("three", "/health/live", Kind::Live),
    ] {
        let head =
            format!("GET {path}?q=1 HTTP/1.1\r\nHost: {}\r\nX-Correlation-ID: {id}\r\n\r\n", gateway.authority());
        client.send(head).await;
        contract(&client.read_response_to("GET").await, kind);
    }
    let lines = gateway.log_until(&["REQUEST [three]"]).await;
    let requests: Vec<&str> = lines.iter().filter_map(|line| line.split("REQUEST ").nth(1)).collect();
    let expected = ["[one] GET /health 200 0ms", "[two] GET /nothing 404 0ms", "[three] GET /health/live 200 0ms"];
    assert_eq!(requests, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_request_lines_the_log_still_tells_of_the_gateway() {
    let axon = Axon::start();
    let setup = Setup::new(&[axon.url()]).block("observability", "{ logs: { requests: false } }");
    let serving = Serving::start(setup).await;
    contract(&serving.dispatch().await, Kind::Success);
    contract(&get(serving.addr, "/nothing").await, Kind::Error("NOT_FOUND"));
    let exit = serving.stop().await;
    assert!(exit.stdout.contains("[INFO] listening on "), "{exit:?}");
    assert!(!exit.stdout.contains("REQUEST") && !exit.stdout.contains("GOVERNANCE"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_holds_for_request_lines_too() {
    // One request that is fine and one that is not: 503, and a call that failed.
    for (level, expected) in [
        ("info", ["INFO GOVERNANCE", "INFO AXON_CALL", "INFO REQUEST", "WARN AXON_CALL", "WARN REFUSED"].as_slice()),
        ("warn", ["WARN AXON_CALL", "WARN REFUSED"].as_slice()),
        ("error", [].as_slice()),
        ("\"off\"", [].as_slice()),
    ] {
        let axon = Axon::start();
        axon.next([Reply::json(200, "{}"), Reply::hang_up()]);
        let setup = Setup::new(&[axon.url()]).block("observability", format!("{{ logs: {{ level: {level} }} }}"));
        let gateway = setup.start().await;
        contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Success);
        contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Error("SERVICE_UNAVAILABLE"));
        let told: BTreeSet<String> = gateway.finish().await.iter().map(|line| kind_of(line)).collect();
        assert_eq!(told, expected.iter().map(|kind| (*kind).to_owned()).collect(), "level {level}");
    }
}

/// `INFO REQUEST` of a text line.
fn kind_of(line: &str) -> String {
    let mut words = line.split(' ').skip(1);
    let level = words.next().unwrap_or_default().trim_matches(['[', ']']);
    format!("{level} {}", words.next().unwrap_or_default())
}

// ---- forged lines

/// Everything that ends a line, moves a cursor or turns text around in one viewer or another, and a
/// line that somebody would like to see in the log.
const HOSTILE: &str = "a\nb\rc\u{1b}[31md\u{2028}e\u{2029}f\u{85}g\u{7f}h\u{9b}2Ji\u{202e}j\u{0}k\u{b}l\u{c}m\tn\
                       \r\n2026-11-22T09:56:51Z [INFO] REQUEST [forged] POST /dispatch 200 1ms";
const LINE_BYTES_MAX: usize = 2500;

/// That a log is what the gateway wrote and nobody else: whole lines of the known form, nothing hidden.
#[track_caller]
fn assert_intact(format: &str, lines: &[String]) {
    for line in lines {
        let hidden = |c: char| {
            c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!line.contains(hidden), "something hidden in {line:?}");
        assert!(line.len() <= LINE_BYTES_MAX, "{} bytes in {line:?}", line.len());
        if format == JSON {
            let told: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
            for member in ["timestamp", "level", "event", "correlation_id"] {
                assert!(told[member].is_string(), "no {member} in {line:?}");
            }
            assert_ne!(told["correlation_id"], "forged");
        } else {
            let rest = line.strip_prefix("2026-11-22T09:56:51Z [").unwrap_or_else(|| panic!("{line:?}"));
            let (_level, rest) = rest.split_once("] ").unwrap_or_else(|| panic!("{line:?}"));
            let (event, rest) = rest.split_once(" [").unwrap_or_else(|| panic!("{line:?}"));
            assert!(["GOVERNANCE", "AXON_CALL", "REFUSED", "REQUEST"].contains(&event), "{line:?}");
            let (id, _text) = rest.split_once("] ").unwrap_or_else(|| panic!("{line:?}"));
            assert!(
                id != "forged" && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b)),
                "{line:?}"
            );
        }
    }
}

/// The events of one request, in order.
fn events(format: &str, lines: &[String], id: &str) -> Vec<String> {
    let of_text = |line: &String| {
        let (before, _) = line.split_once(&format!(" [{id}] "))?;
        before.rsplit(' ').next().map(str::to_owned)
    };
    let of_json = |line: &String| {
        let told: Value = serde_json::from_str(line).ok()?;
        (told["correlation_id"] == id).then(|| told["event"].as_str().unwrap_or_default().to_owned())
    };
    lines.iter().filter_map(|line| if format == JSON { of_json(line) } else { of_text(line) }).collect()
}

fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn axon_cannot_forge_a_line() {
    let long = format!("{}{}", HOSTILE, "\u{1b}\u{2028}x".repeat(3000));
    for format in [TEXT, JSON] {
        let axon = Axon::start();
        let hostile = |message: &str| Reply::json(200, json!({ "message": message }).to_string());
        axon.next([hostile(HOSTILE), hostile(&long), hostile("a\u{7f}\"b\\")]);
        let gateway = Setup::new(&[axon.url()]).block("observability", format).start().await;
        for id in ["short", "long", "quotes"] {
            let response = gateway.send(gateway.dispatch(BODY).header("X-Correlation-ID", id)).await;
            contract(&response, Kind::Success);
        }
        let lines = gateway.finish().await;
        assert_intact(format, &lines);
        for id in ["short", "long", "quotes"] {
            assert_eq!(events(format, &lines, id), ["GOVERNANCE", "AXON_CALL", "REQUEST"], "{lines:#?}");
        }
        let expected = if format == TEXT { "success: a\\nb\\rc\\u{1b}[31md" } else { "\"a\\nb\\rc\\u001b[31md" };
        assert!(lines.iter().any(|line| line.contains(expected)), "no {expected} in {lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_json_line_holds_reads_back_as_it_was() {
    let axon = Axon::start();
    let message = "say \"é\u{2028}日本\u{7f}\\n\u{9b}\u{1b}\" 🛰";
    axon.answer(Reply::json(200, json!({ "message": message }).to_string()));
    let gateway = Setup::new(&[axon.url()]).block("observability", JSON).start().await;
    contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Success);
    let line = gateway.logged(&[r#""event":"AXON_CALL""#]).await;
    let told: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(told["message"], message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_cannot_forge_a_line() {
    let long = format!("{HOSTILE}{}", "\u{2028}".repeat(800));
    let policies = json!([HOSTILE, &long].map(|description| json!({
        "service": "orbit", "intent": if description.len() > 500 { "long" } else { "short" }, "enabled": true,
        "conditions": [{
            "type": "context_check", "field": "user_type", "operator": "equals", "value": "premium",
            "description": description,
        }],
    })));
    // In ASCII, because YAML knows characters that may not stand in a file as they are.
    let escaped = |c: char| if c.is_ascii_graphic() { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    let policies: String = policies.to_string().chars().map(escaped).collect();
    for format in [TEXT, JSON] {
        let axon = Axon::start();
        let setup = Setup::new(&[axon.url()]).block("observability", format).file("policies.json", &policies);
        let gateway = setup.start().await;
        for id in ["short", "long"] {
            let body = json!({ "intent": id }).to_string();
            let response = gateway.send(gateway.dispatch(body).header("X-Correlation-ID", id)).await;
            let denied = contract(&response, Kind::Denied);
            assert!(denied["reason"].as_str().is_some_and(|r| r.starts_with("Condition not met: a\nb")), "{denied}");
        }
        let lines = gateway.finish().await;
        assert_intact(format, &lines);
        for id in ["short", "long"] {
            assert_eq!(events(format, &lines, id), ["GOVERNANCE", "REQUEST"], "{lines:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_forge_a_line() {
    for format in [TEXT, JSON] {
        let axon = Axon::start();
        axon.answer(Reply::json(200, json!({ "message": "ok" }).to_string()));
        let gateway = Setup::new(&[axon.url()]).block("observability", format).start().await;
        let mut expected = Vec::new();
        // Signed: intents, which a denial quotes. Those with control characters are refused before.
        let long = "日\u{2029}".repeat(36);
        let denied = ["[forged] a\u{2028}b\u{202e}c", &long].map(|intent| (intent, Kind::Denied, "GOVERNANCE"));
        let refused = [HOSTILE, "a\u{9b}b"].map(|intent| (intent, Kind::Error("INVALID_REQUEST"), "REFUSED"));
        for (intent, kind, event) in denied.into_iter().chain(refused) {
            let response = gateway.send(gateway.dispatch(json!({ "intent": intent }).to_string())).await;
            contract(&response, kind);
            expected.push((response.header("x-correlation-id").expect("an id").to_owned(), vec![event, "REQUEST"]));
        }
        // Unsigned: whatever a head can hold, and what it cannot.
        for raw in hostile_heads(&gateway.authority()) {
            let response = request(gateway.addr(), &raw).await;
            let kinds =
                ["NOT_FOUND", "METHOD_NOT_ALLOWED", "INVALID_REQUEST", "MISSING_AUTHORIZATION", "INVALID_SIGNATURE"];
            let code = response.json()["code"].as_str().and_then(|code| kinds.into_iter().find(|kind| *kind == code));
            contract(&response, Kind::Error(code.unwrap_or_else(|| panic!("{}", response.text()))));
            expected.push((response.header("x-correlation-id").expect("an id").to_owned(), vec!["REFUSED", "REQUEST"]));
        }
        let lines = gateway.finish().await;
        assert_intact(format, &lines);
        for (id, events_of) in &expected {
            assert_eq!(&events(format, &lines, id), events_of, "{id} in {lines:#?}");
        }
        let all: usize = expected.iter().map(|(_, events)| events.len()).sum();
        assert_eq!(lines.len(), all, "{lines:#?}");
    }
}

fn hostile_heads(host: &str) -> Vec<Vec<u8>> {
    let long = "x".repeat(10 << 10);
    let mut heads = Vec::new();
    let mut head =
        |line: &str, more: &str| heads.push(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").into_bytes());
    for path in [
        "/a]\"b\\c'd",
        "/%0a2026-11-22T09:56:51Z%20[INFO]%20REQUEST%20[forged]",
        "/\u{1b}[31m",
        "/a\u{0}b",
        "/é\u{2028}",
        "/a\nb",
        "/a\rb",
        "/dispatch]%20200",
        &format!("/{}", "p".repeat(7 << 10)),
    ] {
        head(&format!("GET {path}"), "");
    }
    for method in ["GET|'~", "G\u{1b}T", "G\u{2028}T", "POST]", "OTHER", "-", "!#$%&'*+-.^_`|~"] {
        head(&format!("{method} /dispatch"), "");
    }
    head(&format!("{long} /dispatch"), "");
    for id in ["a\u{1b}b", "a b", "a\"b", "a]b", "é", "\u{2028}", "", &long, "a\nX-Other: b", "[forged]"] {
        head("GET /nothing", &format!("X-Correlation-ID: {id}\r\n"));
    }
    // The access key id, region and signed headers of a signature are quoted in the log.
    for credential in ["A\u{7f}B", "AKID EXAMPLE", &"K".repeat(200), "K]%0a[forged"] {
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={credential}/20261122/us-east-1/execute-api/aws4_request, \
             SignedHeaders=host;x-amz-date;x-forged, Signature={}",
            "0".repeat(64)
        );
        head("POST /dispatch", &format!("X-Amz-Date: 20261122T095651Z\r\nAuthorization: {value}\r\n"));
    }
    heads
}

// ---- secrets

const TOKEN: &str = "caller/session+token==0123";
const UPSTREAM_SECRET: &str = "upstream-secret-0123456789";
const UPSTREAM_TOKEN: &str = "upstream/session+token==4567";

/// A gateway at its most talkative, that signs for Axon with a session token.
async fn talkative(axon: &Axon, format: &str) -> Serving {
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: TEMPORARY, secret_access_key: {SECRET:?}, session_token: {TOKEN:?}, principal: tests }}\n"
    );
    let sign =
        format!("access_key_id: UPSTREAM\nsecret_access_key: {UPSTREAM_SECRET:?}\nsession_token: {UPSTREAM_TOKEN:?}\n");
    let setup = Setup::new(&[])
        .upstream(&[axon.url()], "sign: { credentials: { keys: sign.yaml } }, timeouts: { first_byte: 300ms }")
        .listen("body_bytes: 4KiB")
        .block("observability", format!("{{ logs: {{ format: {format}, level: trace }} }}"))
        .file("keys.yaml", &keys)
        .file("sign.yaml", &sign);
    Serving::start(setup).await
}

/// Requests of every kind, with `marker` in every place that is none of a log's business.
fn confidential(serving: &Serving, marker: &str) -> Vec<(Message, Kind)> {
    let now = real_now();
    let lasting = signing();
    let temporary = |token: &str| Signing { token: Some(token.to_owned()), ..Signing::new("TEMPORARY", SECRET) };
    let body = json!({ "intent": "call_reasoning", "context": { "password": marker, "n": [marker] } }).to_string();
    let to = |target: &str, body: &str| {
        Signed::post(serving.addr, target, body).header("Cookie", marker).unsigned_header("X-Api-Key", marker)
    };
    let good = || to("/dispatch", &body);
    let invalid = Kind::Error("INVALID_SIGNATURE");
    let bearer = |value: &str| {
        let head = good().sign(&lasting, now).head;
        let head = String::from_utf8(head).expect("UTF-8");
        let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("authorization:"));
        let head: String = lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
        Message { head: format!("{head}Authorization: {value}\r\n\r\n").into_bytes(), body: body.clone().into_bytes() }
    };
    vec![
        // Axon answers these in the order of `confidential_answers`.
        (good().sign(&lasting, now), Kind::Success),
        (good().declared().sign(&temporary(TOKEN), now), Kind::Success),
        (to(&format!("/dispatch?token={marker}&a"), &body).sign(&lasting, now), Kind::AxonError(422)),
        (good().sign(&lasting, now), Kind::AxonRefusal(400)),
        (good().sign(&lasting, now), Kind::Error("INTERNAL_ERROR")),
        (good().sign(&lasting, now), Kind::Error("SERVICE_UNAVAILABLE")),
        (good().sign(&lasting, now), Kind::Error("SERVICE_UNAVAILABLE")),
        (good().sign(&lasting, now), Kind::Error("SERVICE_UNAVAILABLE")),
        (good().sign(&lasting, now), Kind::Passed),
        // These are refused before Axon.
        (to("/dispatch", "{\"intent\":\"other\",\"context\":{\"a\":1}}").sign(&lasting, now), Kind::Denied),
        (to("/dispatch", &format!("{{\"intent\":\"{marker}")).sign(&lasting, now), Kind::Error("INVALID_REQUEST")),
        (
            to("/dispatch", &format!("{{\"intent\":5,\"a\":\"{marker}\"}}")).sign(&lasting, now),
            Kind::Error("INVALID_REQUEST"),
        ),
        (to("/dispatch", &marker.repeat(1000)).sign(&lasting, now), Kind::Error("PAYLOAD_TOO_LARGE")),
        (
            good().without("content-type").header("Content-Type", marker).sign(&lasting, now),
            Kind::Error("UNSUPPORTED_MEDIA_TYPE"),
        ),
        (good().sign(&Signing::new(ACCESS_KEY, "wrong-s3cret"), now), invalid),
        (good().sign(&temporary("another-t0ken"), now), invalid),
        (good().sign(&lasting, now - Duration::from_secs(3600)), invalid),
        (good().sign(&lasting, now + Duration::from_secs(3600)), invalid),
        (good().declared().but_send(format!("{body} ")).sign(&lasting, now), invalid),
        (good().presigned(Duration::from_secs(60)).sign(&lasting, now), invalid),
        (good().presigned(Duration::from_secs(60)).sign(&temporary(TOKEN), now), invalid),
        (bearer(&format!("Bearer {marker}")), invalid),
        (bearer(&format!("Basic {marker}")), invalid),
        (
            bearer(&format!(
                "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{marker}, SignedHeaders=host, Signature={marker}"
            )),
            invalid,
        ),
        (to(&format!("/nothing?{marker}"), &body).sign(&lasting, now), Kind::Error("NOT_FOUND")),
        (
            Signed::new("GET", serving.addr, &format!("/dispatch?{marker}"), "").sign(&lasting, now),
            Kind::Error("METHOD_NOT_ALLOWED"),
        ),
    ]
}

fn confidential_answers(marker: &str) -> Vec<Reply> {
    let secretive = json!({ "message": "fine", "answer": marker }).to_string();
    vec![
        Reply::json(200, &secretive).header("Set-Cookie", marker),
        Reply::json(200, json!({ "answer": marker }).to_string()),
        Reply::json(422, &secretive),
        Reply::typed(400, "text/plain", marker),
        Reply::json(500, &secretive),
        Reply::json(503, &secretive),
        Reply::json(200, &secretive).cut(10),
        Reply::hang(),
        Reply::typed(200, "text/plain", marker),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confidential_is_ever_logged_at_any_level() {
    for format in ["text", "json"] {
        let axon = Axon::start();
        let marker = "c0nfidential";
        axon.next(confidential_answers(marker));
        let serving = talkative(&axon, format).await;
        let mut forbidden: BTreeSet<String> =
            [SECRET, TOKEN, UPSTREAM_SECRET, UPSTREAM_TOKEN, "wrong-s3cret", "another-t0ken", marker]
                .into_iter()
                .chain(["Signature=", "SignedHeaders=", "Credential=", "Bearer", "Basic", "?"])
                .map(str::to_owned)
                .collect();
        let mut ids = Vec::new();
        for (message, kind) in confidential(&serving, marker) {
            forbidden.extend(signature(&message));
            let response = message.send(serving.addr).await;
            contract(&response, kind);
            ids.push(response.header("x-correlation-id").expect("an id").to_owned());
        }
        let upstream = axon.requests();
        assert_eq!(upstream.len(), 9);
        for seen in &upstream {
            seen.verify_signature(UPSTREAM_SECRET, "us-east-1", "execute-api").expect("signed");
            let authorization = seen.header("authorization").expect("signed");
            forbidden.extend(authorization.split("Signature=").nth(1).map(str::to_owned));
        }
        assert!(forbidden.len() >= 35, "the signatures are among them: {}", forbidden.len());

        let exit = serving.stop().await;
        let log = exit.stdout + &exit.stderr;
        for id in ids {
            assert!(log.contains(&id), "{id} left no trace in {log}");
        }
        for text in forbidden {
            let found = log.lines().find(|line| line.to_lowercase().contains(&text.to_lowercase()));
            assert_eq!(found, None, "{text} is in the log");
        }
    }
}

/// The signature in a head's `Authorization` or query.
fn signature(message: &Message) -> Option<String> {
    let head = String::from_utf8_lossy(&message.head).into_owned();
    let rest = head.split("Signature=").nth(1)?;
    let hex: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    (hex.len() == 64).then_some(hex)
}

// ---- metrics

/// Name, type and labels of the contract's list.
const CONTRACT: [(&str, &str, &[&str]); 13] = [
    ("orbit_requests_total", "counter", &["endpoint", "method", "status"]),
    ("orbit_governance_decisions_total", "counter", &["decision"]),
    ("orbit_request_duration_seconds", "histogram", &["endpoint"]),
    ("orbit_governance_duration_seconds", "histogram", &[]),
    ("orbit_axon_requests_total", "counter", &["backend", "outcome"]),
    ("orbit_axon_duration_seconds", "histogram", &["backend"]),
    ("orbit_rate_limited_total", "counter", &["limit"]),
    ("orbit_auth_failures_total", "counter", &["issue"]),
    ("orbit_backend_healthy", "gauge", &["backend"]),
    ("orbit_in_flight_requests", "gauge", &[]),
    ("orbit_config_reloads_total", "counter", &["result"]),
    ("orbit_config_generation", "gauge", &[]),
    ("orbit_build_info", "gauge", &["version"]),
];

/// A scrape, read strictly.
#[derive(Debug, Default)]
struct Scrape {
    /// Type and help by family.
    families: BTreeMap<String, (String, String)>,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    family: String,
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Reads the Prometheus text format, or OpenMetrics without its last line; panics at whatever a
    /// scraper could stumble over.
    #[track_caller]
    fn read(text: &str, open_metrics: bool) -> Self {
        let mut scrape = Self::default();
        let mut help: Option<(String, String)> = None;
        let mut current: Option<(String, String)> = None;
        assert!(text.ends_with('\n'), "no line end at the end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, words) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                help = Some((name.to_owned(), words.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                let (helped, words) = help.take().unwrap_or_else(|| panic!("{line:?} without help"));
                assert_eq!(helped, name);
                let twice = scrape.families.insert(name.to_owned(), (kind.to_owned(), words));
                assert!(twice.is_none(), "{name} is told twice");
                current = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (family, kind) = current.as_ref().unwrap_or_else(|| panic!("{line:?} before any type"));
                let sample = Sample::read(line, family);
                let suffix =
                    sample.name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line:?} in {family}"));
                let suffixes: &[&str] = match (kind.as_str(), open_metrics) {
                    ("histogram", _) => &["_bucket", "_sum", "_count"],
                    ("counter", true) => &["_total"],
                    ("counter", false) | ("gauge", _) => &[""],
                    _ => panic!("type {kind} of {family}"),
                };
                assert!(suffixes.contains(&suffix), "{line:?} in {kind} {family}");
                assert_eq!(suffix == "_bucket", sample.labels.contains_key("le"), "{line:?}");
                scrape.samples.push(sample);
            }
        }
        let series: BTreeSet<String> = scrape.samples.iter().map(Sample::series).collect();
        assert_eq!(series.len(), scrape.samples.len(), "a series is told twice");
        scrape
    }

    fn of(gateway: &Gateway) -> Self {
        Self::read(&gateway.orbit.metrics_text(), false)
    }

    fn series(&self) -> BTreeSet<String> {
        self.samples.iter().map(Sample::series).collect()
    }

    /// The label names of a family, `le` aside; panics when they differ between samples.
    fn labels(&self, family: &str) -> Option<Vec<&str>> {
        let names =
            |sample: &'_ Sample| -> Vec<String> { sample.labels.keys().filter(|n| *n != "le").cloned().collect() };
        let mut samples = self.samples.iter().filter(|sample| sample.family == family);
        let first = samples.next()?;
        samples.for_each(|sample| assert_eq!(names(sample), names(first), "{family}"));
        Some(first.labels.keys().map(String::as_str).filter(|name| *name != "le").collect())
    }
}

impl Sample {
    /// `name{label="value",…} value`
    fn read(line: &str, family: &str) -> Self {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line:?}"));
        let (name, mut rest) = line.split_at(end);
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line:?}");
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
                let end = after.find('"').unwrap_or_else(|| panic!("{line:?}"));
                // No value of the closed sets needs an escape.
                assert!(!after[..end].contains('\\'), "{line:?}");
                assert!(labels.insert(label.to_owned(), after[..end].to_owned()).is_none(), "{line:?}");
                rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
            }
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        Self { family: family.to_owned(), name: name.to_owned(), labels, value }
    }

    fn series(&self) -> String {
        format!("{}{:?}", self.name, self.labels)
    }
}

/// The values that a label may have; `None` for those that the configuration or the build decides.
fn closed_set(label: &str) -> Option<BTreeSet<&'static str>> {
    Some(match label {
        "method" => Method::ALL.iter().map(|m| m.label()).collect(),
        "endpoint" => Endpoint::ALL.iter().map(|e| e.label()).collect(),
        "decision" => ["allowed", "denied"].into(),
        "outcome" => Outcome::ALL.iter().map(|o| o.label()).collect(),
        "limit" => ["per_ip", "global", "governance"].into(),
        "issue" => Issue::ALL.iter().map(|i| i.as_str()).chain(["missing"]).collect(),
        "mode" => ["observe", "enforce"].into(),
        "bound" => ["axon_streams", "connections", "in_flight", "replay", "retry_budget"].into(),
        "reason" => Reason::ALL.iter().map(|r| r.label()).collect(),
        "hint" => ["given", "skipped"].into(),
        "result" => {
            let labels = Resolution::ALL.iter().map(|r| r.label()).chain(Renewal::ALL.iter().map(|r| r.label()));
            labels.chain(["accepted", "unchanged", "refused", "passed", "failed"]).collect()
        }
        "stage" => ["current", "previous", "*"].into(),
        "state" => State::ALL.iter().map(|s| s.label()).collect(),
        "cause" => Cause::ALL.iter().map(|c| c.label()).collect(),
        "upstream" | "access_key_id" | "principal" | "backend" | "source" | "version" | "status" | "le" => return None,
        other => panic!("label {other} has no closed set"),
    })
}

#[track_caller]
fn assert_closed(scrape: &Scrape, backends: &[String]) {
    for sample in &scrape.samples {
        for (label, value) in &sample.labels {
            let fits = match (label.as_str(), closed_set(label)) {
                (_, Some(set)) => set.contains(value.as_str()),
                ("status", _) => value.len() == 3 && value.parse::<u16>().is_ok_and(|s| (200..600).contains(&s)),
                ("backend", _) => backends.contains(value),
                ("access_key_id", _) => value == ACCESS_KEY,
                ("principal", _) => value == PRINCIPAL,
                ("upstream", _) => value == "axon",
                ("version", _) => value == env!("CARGO_PKG_VERSION"),
                ("le", _) => value.parse::<f64>().is_ok(),
                _ => false,
            };
            assert!(fits, "{label}={value:?} in {sample:?}");
        }
    }
}

/// A request line of its own, its id, and the wait until it is counted.
async fn counted(gateway: &Gateway, response: &Response) {
    let id = response.header("x-correlation-id").expect("an id");
    gateway.logged(&[&format!("REQUEST [{id}]")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_contract_is_there_with_exactly_its_labels() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let response = gateway.send(gateway.dispatch(BODY)).await;
    contract(&response, Kind::Success);
    counted(&gateway, &response).await;

    let text = contract(&get(gateway.addr(), "/metrics").await, Kind::Metrics);
    let scrape = Scrape::read(text.as_str().expect("text"), false);
    for (name, kind, labels) in CONTRACT {
        assert_eq!(scrape.families.get(name).map(|(kind, _)| kind.as_str()), Some(kind), "{name}");
        assert_eq!(scrape.labels(name).as_deref(), Some(labels), "{name}");
    }
    assert_closed(&scrape, &[axon.addr().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_what_is_scraped() {
    let (axon, secrets, container) = (Axon::start(), Axon::start(), Axon::start());
    // What is told of AWS is told where it is used.
    let key = json!([{ "access_key_id": ACCESS_KEY, "secret_access_key": SECRET, "principal": PRINCIPAL }]);
    secrets.answer(Reply::json(200, json!({ "SecretString": key.to_string() }).to_string()));
    let credentials = json!({
        "AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-11-22T12:00:00Z",
    });
    container.answer(Reply::json(200, credentials.to_string()));
    let arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:orbit-keys-AbCdEf";
    let keys = format!("{{ secrets_manager: {{ arn: {arn:?}, endpoint: {:?} }} }}", secrets.url());
    let gateway = Setup::new(&[])
        .block("auth", format!("{{ keys: {keys} }}"))
        .upstream(&[axon.url()], "sign: { credentials: default }")
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url())
        .start()
        .await;
    let response = gateway.send(gateway.dispatch(BODY)).await;
    contract(&response, Kind::Success);
    counted(&gateway, &response).await;

    let scrape = Scrape::of(&gateway);
    let ours = |name: &&str| name.starts_with("orbit_");
    let scraped: BTreeSet<&str> = scrape.families.keys().map(String::as_str).filter(ours).collect();
    let listed = || CATALOGUE.iter().filter(|(name, ..)| ours(name));
    assert_eq!(scraped, listed().map(|(name, ..)| *name).collect());
    for (name, kind, help, labels) in listed() {
        assert_eq!(scrape.families[*name], ((*kind).to_owned(), (*help).to_owned()));
        let labels: BTreeSet<&str> = labels.iter().copied().collect();
        assert_eq!(scrape.labels(name).expect("samples").into_iter().collect::<BTreeSet<_>>(), labels, "{name}");
    }
    let foreign = scrape.families.keys().find(|name| !name.starts_with("orbit_") && !name.starts_with("process_"));
    assert_eq!(foreign, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_what_became_of_them() {
    let axon = Axon::start();
    axon.next([Reply::json(200, "{}"), Reply::json(422, "{}"), Reply::json(500, "{}"), Reply::hang_up()]);
    let limits = "{ per_ip: { rate: 60000/s }, global: { rate: 5/h }, governance: { rate: 100000/s } }";
    let gateway = Setup::new(&[axon.url()]).block("limits", limits).start().await;
    let unheard = r#"{"intent":"unheard_of"}"#;
    let wrong = Signing::new(ACCESS_KEY, "wrong");
    let at = gateway.now();
    let unsigned = format!("POST /dispatch HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\n{{}}", gateway.authority());
    let answers = [
        (gateway.send(gateway.dispatch(BODY)).await, Kind::Success),
        (gateway.send(gateway.dispatch(BODY)).await, Kind::AxonError(422)),
        (gateway.send(gateway.dispatch(BODY)).await, Kind::Error("INTERNAL_ERROR")),
        (gateway.send(gateway.dispatch(BODY)).await, Kind::Error("SERVICE_UNAVAILABLE")),
        (gateway.send(gateway.dispatch(unheard)).await, Kind::Denied),
        (gateway.send(gateway.dispatch(BODY)).await, Kind::Error("RATE_LIMIT_EXCEEDED")),
        (gateway.dispatch(BODY).send(gateway.addr(), &wrong, at).await, Kind::Error("INVALID_SIGNATURE")),
        (request(gateway.addr(), unsigned).await, Kind::Error("MISSING_AUTHORIZATION")),
        (get(gateway.addr(), "/health").await, Kind::Healthy),
        (get(gateway.addr(), "/other").await, Kind::Error("NOT_FOUND")),
        (get(gateway.addr(), "/dispatch").await, Kind::Error("METHOD_NOT_ALLOWED")),
    ];
    for (response, kind) in &answers {
        contract(response, *kind);
        counted(&gateway, response).await;
    }

    let backend = axon.addr();
    let dispatched =
        |status: u16| format!("orbit_requests_total{{endpoint=\"/dispatch\",method=\"POST\",status=\"{status}\"}}");
    let called = |outcome: &str| format!("orbit_axon_requests_total{{backend=\"{backend}\",outcome=\"{outcome}\"}}");
    for (sample, value) in [
        (dispatched(200), 1.0),
        (dispatched(422), 1.0),
        (dispatched(500), 1.0),
        (dispatched(503), 1.0),
        (dispatched(403), 1.0),
        (dispatched(429), 1.0),
        (dispatched(401), 2.0),
        ("orbit_requests_total{endpoint=\"/health\",method=\"GET\",status=\"200\"}".to_owned(), 1.0),
        ("orbit_requests_total{endpoint=\"other\",method=\"GET\",status=\"404\"}".to_owned(), 1.0),
        ("orbit_requests_total{endpoint=\"/dispatch\",method=\"GET\",status=\"405\"}".to_owned(), 1.0),
        ("orbit_request_duration_seconds_count{endpoint=\"/dispatch\"}".to_owned(), 9.0),
        ("orbit_governance_decisions_total{decision=\"allowed\"}".to_owned(), 4.0),
        ("orbit_governance_decisions_total{decision=\"denied\"}".to_owned(), 1.0),
        ("orbit_governance_duration_seconds_count".to_owned(), 5.0),
        ("orbit_rate_limited_total{limit=\"global\"}".to_owned(), 1.0),
        ("orbit_rate_limited_total{limit=\"per_ip\"}".to_owned(), 0.0),
        ("orbit_auth_failures_total{issue=\"mismatch\"}".to_owned(), 1.0),
        ("orbit_auth_failures_total{issue=\"missing\"}".to_owned(), 1.0),
        (called("success"), 1.0),
        (called("refused"), 1.0),
        (called("error"), 1.0),
        (called("broken"), 1.0),
        (format!("orbit_axon_duration_seconds_count{{backend=\"{backend}\"}}"), 4.0),
        ("orbit_in_flight_requests".to_owned(), 0.0),
    ] {
        assert_eq!(gateway.metric(&sample), value, "{sample} in\n{}", gateway.orbit.metrics_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn durations_are_those_of_the_clock() {
    let axon = Axon::start();
    let gate = axon.hold();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let mut client = Client::connect(gateway.addr()).await;
    client.send(gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes()).await;
    axon.received(1).await;
    assert_eq!(gateway.metric("orbit_in_flight_requests"), 1.0);
    gateway.clock.advance(Duration::from_millis(1500));
    gate.release();
    let response = client.read_response().await;
    contract(&response, Kind::Success);
    counted(&gateway, &response).await;
    assert_eq!(gateway.metric("orbit_request_duration_seconds_sum{endpoint=\"/dispatch\"}"), 1.5);
    assert_eq!(gateway.metric(&format!("orbit_axon_duration_seconds_sum{{backend=\"{}\"}}", axon.addr())), 1.5);
    assert_eq!(gateway.metric("orbit_governance_duration_seconds_sum"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_and_its_reloads_are_counted() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let reloads = |result: &str| gateway.metric(&format!("orbit_config_reloads_total{{result=\"{result}\"}}"));
    assert_eq!((gateway.metric("orbit_config_generation"), reloads("accepted")), (1.0, 0.0));
    assert_eq!(gateway.metric(&format!("orbit_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);

    gateway.reload(Setup::new(&[axon.url()])).await.expect("unchanged");
    gateway.reload(Setup::new(&[axon.url()]).block("name", "other")).await.expect("accepted");
    gateway.reload(Setup::new(&[axon.url()]).block("name", "no spaces")).await.expect_err("refused");

    assert_eq!(gateway.metric("orbit_config_generation"), 2.0);
    assert_eq!(["accepted", "unchanged", "refused"].map(reloads), [1.0, 1.0, 1.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stranger_can_make_a_series() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut seen = Vec::new();
    for _round in 0..2 {
        let mut answers = Vec::new();
        for _ in 0..200 {
            let raw = hostile_request(&mut random, &gateway.authority());
            let response = request(gateway.addr(), &raw).await;
            let answer: Value =
                serde_json::from_slice(&response.body).unwrap_or_else(|e| panic!("{e}: {raw:?} {response:?}"));
            let code = answer["code"].as_str();
            let known =
                ["NOT_FOUND", "INVALID_REQUEST", "METHOD_NOT_ALLOWED", "MISSING_AUTHORIZATION", "INVALID_SIGNATURE"];
            let code = known.into_iter().find(|known| code == Some(*known));
            contract(&response, Kind::Error(code.unwrap_or_else(|| panic!("{raw:?}: {}", response.text()))));
            answers.push(response);
        }
        for response in &answers {
            counted(&gateway, response).await;
        }
        let scrape = Scrape::of(&gateway);
        assert_closed(&scrape, &[axon.addr().to_string()]);
        seen.push(scrape.series());
    }
    // Whatever 400 strangers think of, only a handful of methods, endpoints and refusals come of it.
    let requests = seen[1].iter().filter(|series| series.starts_with("orbit_requests_total")).count();
    assert!((2..=8 * 5 * 3).contains(&requests), "{requests} series: {:#?}", seen[1]);
    assert!(seen[1].len() < 600, "{} series", seen[1].len());
    let counted = Scrape::of(&gateway);
    let counted: f64 = counted.samples.iter().filter(|s| s.family == "orbit_requests_total").map(|s| s.value).sum();
    assert_eq!(counted, 400.0);
}

/// A request line and headers of which every part is random, and many a part hostile.
fn hostile_request(random: &mut u64, host: &str) -> String {
    let mut next = |n: usize| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        usize::try_from(*random % n as u64).expect("small")
    };
    const TOKENS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&'*+-.^_`|~";
    const VISIBLE: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789{}\"\\,=%/;:|[]~^`<>";
    let word = |next: &mut dyn FnMut(usize) -> usize, set: &[u8]| -> String {
        (0..=next(40)).map(|_| char::from(set[next(set.len())])).collect()
    };
    let method = match next(4) {
        0 => ["get", "OTHER", "PROPFIND", "DELETE", "PATCH", "OPTIONS"][next(6)].to_owned(),
        _ => word(&mut next, TOKENS),
    };
    let path = match next(5) {
        0 => "/dispatch".to_owned(),
        1 => format!("/{}\u{1}", word(&mut next, VISIBLE)),
        _ => format!("/{}", word(&mut next, VISIBLE)),
    };
    let authorization =
        if next(3) == 0 { format!("Authorization: {}\r\n", word(&mut next, VISIBLE)) } else { String::new() };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_as_openmetrics_when_asked_for() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let ask = |accept: &str| {
        let host = gateway.authority();
        request(gateway.addr(), format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n"))
    };
    let dispatched = gateway.send(gateway.dispatch(BODY)).await;
    contract(&dispatched, Kind::Success);
    counted(&gateway, &dispatched).await;
    // The first scrape makes its own series.
    counted(&gateway, &ask("*/*").await).await;

    let response = ask("text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    let text = contract(&response, Kind::Metrics);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let plain = Scrape::read(text.as_str().expect("text"), false);

    // What a Prometheus server sends.
    let response =
        ask("application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    let text = contract(&response, Kind::Metrics);
    assert_eq!(response.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = text.as_str().expect("text");
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    assert!(text.contains("# TYPE orbit_requests counter\n") && text.contains("\norbit_requests_total{"), "{text}");
    let open = Scrape::read(text.strip_suffix("# EOF\n").expect("an end"), true);

    assert_eq!(open.series(), plain.series());
    let families: BTreeSet<String> = plain
        .families
        .iter()
        .map(|(name, (kind, _))| if kind == "counter" { name.trim_end_matches("_total") } else { name }.to_owned())
        .collect();
    assert_eq!(open.families.keys().cloned().collect::<BTreeSet<_>>(), families);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_be_taken_off_the_main_listener() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).block("observability", "{ metrics: { on_main: false } }").start().await;
    let response = get(gateway.addr(), "/metrics").await;
    contract(&response, Kind::Error("NOT_FOUND"));
    counted(&gateway, &response).await;
    assert_eq!(gateway.metric("orbit_requests_total{endpoint=\"other\",method=\"GET\",status=\"404\"}"), 1.0);
}

// ---- reference pages

#[test]
fn the_page_of_metrics_is_what_the_code_says() {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Generated: `ORBIT_BLESS=1 cargo test the_page_of` writes this file anew. -->\n\n\
         `GET /metrics` answers in the Prometheus text format, or as OpenMetrics 1.0 when `Accept` names \
         `application/openmetrics-text`. Names, types and labels are part of the API and only ever added to.\n\n\
         | metric | type | labels | |\n|---|---|---|---|\n",
    );
    for (name, kind, help, labels) in CATALOGUE {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        page += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    page += "\n## Labels\n\nEvery value comes from a closed set, so that no caller can make a series.\n\n\
             | label | values |\n|---|---|\n";
    let labels: Vec<&str> = CATALOGUE.iter().flat_map(|(.., labels)| labels.iter().copied()).collect();
    let mut told = BTreeSet::new();
    for label in labels.into_iter().filter(|label| told.insert(*label)) {
        let values = match label {
            "status" => "the status that was sent; `499` when the client left before its answer".to_owned(),
            "backend" => "`host:port` of an endpoint as configured".to_owned(),
            "access_key_id" => "a configured key; `*` is the latest of all after the first 1,000".to_owned(),
            "principal" => "the key's, or `*`".to_owned(),
            "upstream" => "its name, as configured".to_owned(),
            "source" => "the ARN of a key list in Secrets Manager, as configured".to_owned(),
            "version" => "of the running program".to_owned(),
            label => {
                let values = closed_set(label).unwrap_or_default();
                values.into_iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
            }
        };
        let more = match label {
            "method" => "; `OTHER` is every other method, and that of a head that could not be read",
            "endpoint" => "; `other` is every other path",
            "stage" => "; `previous` is a key that only the version before the current one of its list has",
            "issue" => "; `missing` is no signature at all, the rest are those of [errors](errors.md)",
            _ => "",
        };
        page += &format!("| `{label}` | {values}{more} |\n");
    }
    page += "\n## What to watch\n\n\
             | question | query |\n|---|---|\n\
             | How much of what was asked did Orbit or Axon fail? | `sum(rate(orbit_requests_total{endpoint=\"/dispatch\",status=~\"5..\"}[5m])) / sum(rate(orbit_requests_total{endpoint=\"/dispatch\"}[5m]))` |\n\
             | How slow are the slowest 5 %? | `histogram_quantile(0.95, sum by (le) (rate(orbit_request_duration_seconds_bucket{endpoint=\"/dispatch\"}[5m])))` |\n\
             | Is a backend gone? | `orbit_backend_healthy == 0` |\n\
             | Is somebody's secret or clock wrong? | `sum by (issue) (rate(orbit_auth_failures_total[5m]))` |\n\
             | Is a key still used? (each instance tells its own) | `max by (access_key_id, stage) (max_over_time(orbit_key_last_used_timestamp_seconds[7d])) > time() - 7 * 86400` |\n\
             | Do the keys in Secrets Manager reach Orbit? | `time() - orbit_key_source_last_success_timestamp_seconds > 900` |\n\
             | Are the credentials that requests to Axon are signed with about to expire? | `orbit_signing_credentials_expiry_timestamp_seconds - time() < 120` |\n\
             | Was a reload refused? | `increase(orbit_config_reloads_total{result=\"refused\"}[1h]) > 0` |\n\
             | Is a bound too small? | `rate(orbit_overload_total[5m]) > 0 or rate(orbit_rate_limited_total{limit=\"global\"}[5m]) > 0` |\n";
    same_as("docs/metrics.md", &page);
}

/// What a signature's issue means.
fn signature_issue(issue: Issue) -> &'static str {
    match issue {
        Issue::Malformed => "the header, a date or a payload declaration does not follow its grammar",
        Issue::UnsupportedAlgorithm => "another algorithm than `AWS4-HMAC-SHA256`, chunk signatures included",
        Issue::UnsignedHeader => "a header that must be signed is not: `host`, or an `x-amz-*` that is sent",
        Issue::MissingSignedHeader => "the signature names a header that the request lacks",
        Issue::WrongScope => "date, region, service or terminator of the credential",
        Issue::Expired => "the date is too far in the past",
        Issue::NotYetValid => "the date is too far in the future",
        Issue::PayloadMismatch => "the body is not the one that was declared, or must be declared and is not",
        Issue::TokenMismatch => "the session token is not the key's",
        Issue::Mismatch => "unknown key, disabled key, wrong secret or altered request; Orbit's log tells which",
        Issue::Replayed => "the signature is right and was used before; only with `auth.replay: enforce`",
    }
}

/// `details.issue` of a 503: when, and whether Axon may have begun.
const UNAVAILABLE: [(&str, &str, &str); 9] = [
    (
        "overload",
        "`listen.in_flight` or `listen.connections` is reached, or the table of `auth.replay: enforce` is full",
        "no",
    ),
    ("draining", "this instance is going down", "no"),
    ("no_healthy_backend", "no endpoint of Axon can be reached", "no"),
    ("credentials_expired", "what requests to Axon are signed with has expired and could not be replaced", "no"),
    ("no_route", "among several upstreams none takes the intent", "no"),
    ("connect_failed", "connecting to Axon failed or took longer than `timeouts.connect`", "no"),
    ("upstream_failed", "the connection to Axon broke, or what came was no answer", "perhaps"),
    ("timeout", "Axon's answer took longer than `timeouts` allow", "perhaps"),
    ("upstream_unavailable", "Axon answered 502, 503 or 504", "perhaps"),
];

#[test]
fn the_page_of_errors_is_what_the_code_says() {
    let mut page = String::from(
        "# Errors\n\n\
         <!-- Generated: `ORBIT_BLESS=1 cargo test the_page_of` writes this file anew. -->\n\n\
         ```json\n\
         {\"error\":\"signature could not be verified\",\"code\":\"INVALID_SIGNATURE\",\n \
         \"correlation_id\":\"abc123-def456\",\"timestamp\":\"2024-01-15T10:30:00Z\",\"details\":{\"issue\":\"expired\", …}}\n\
         ```\n\n\
         `code` is for programs, `error` is a fixed sentence for people, `details` says more where the table does. \
         What an operator needs beyond that is in the log, under the same correlation id.\n\n\
         | status | code | `error` | `details` |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let (status, name, sentence) = code.row();
        let (sentence, details) = match code {
            Code::InvalidRequest => ("the issue", "`field`, `issue`"),
            Code::InvalidSignature => (sentence, "`issue`, see below"),
            Code::GovernanceDenied => ("none: the denied shape, with `reason`", ""),
            Code::RateLimitExceeded => (sentence, "`limit`: `per_ip` or `global`"),
            Code::ServiceUnavailable => (sentence, "`issue`, see below"),
            _ => (sentence, ""),
        };
        page += &format!("| {status} | `{name}` | {sentence} | {details} |\n");
    }
    page += "\n429 and 503 carry `Retry-After`. Axon's own 4xx keep their status; the body is Axon's if it is a JSON \
             object, else an error with `details.issue` `upstream_refused`.\n\n\
             ## `INVALID_SIGNATURE`\n\n| `details.issue` | means | do |\n|---|---|---|\n";
    for issue in Issue::ALL {
        page += &format!("| `{}` | {} | {} |\n", issue.as_str(), signature_issue(issue), issue.advice());
    }
    page += "\n`expired` and `not_yet_valid` add `server_time`, `request_time` and `allowed_skew_seconds`.\n\n\
             With `auth.hints: safe` the 401 of a key that is known and may be used adds `details.hint`: one line for people, \
             what must have been signed otherwise and what to change ([the doctor](sigv4.md#the-doctor)). Its wording may \
             change. It comes with `mismatch`, `wrong_scope`, `unsigned_header`, `missing_signed_header`, `expired`, \
             `not_yet_valid` and `payload_mismatch`, at most ten times a second in all; beyond that the answer has no hint.\n\n\
             ## `SERVICE_UNAVAILABLE`\n\n| `details.issue` | when | may Axon have begun? |\n|---|---|---|\n";
    for (issue, when, begun) in UNAVAILABLE {
        page += &format!("| `{issue}` | {when} | {begun} |\n");
    }
    page += "\nWhere Axon cannot have begun, repeating the request is safe. Orbit itself repeats only then.\n";
    same_as("docs/errors.md", &page);
}

#[test]
fn every_issue_of_a_503_is_on_the_page() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let used: BTreeSet<&str> = sources
        .iter()
        .flat_map(|text| text.split("unavailable(\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let listed: BTreeSet<&str> = UNAVAILABLE.iter().map(|(issue, ..)| *issue).collect();
    assert!(used.len() >= 4 && used.is_subset(&listed), "used {used:?}, on the page {listed:?}");
    for issue in listed {
        let literal = format!("\"{issue}\"");
        assert!(sources.iter().any(|text| text.contains(&literal)), "{issue} is on the page and nowhere else");
    }
}

fn sources(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| {
            if path.is_dir() { sources(&path) } else { vec![std::fs::read_to_string(&path).expect("a source file")] }
        })
        .collect()
}
