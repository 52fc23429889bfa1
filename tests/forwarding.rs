//! From admission to answer: what Axon is asked, over which connection, and what its answer becomes, however
//! it misbehaves.

use std::future::Future;

use serde_json::{Value, json};

use crate::harness::axon::{Axon, Gate, Recorded, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Broken, Client, Ending, Response, get, within};
use crate::harness::gateway::{BODY, Gateway, Setup, asking, dispatch, message, signing};

/// The end of every envelope: nothing takes time, because the clock is moved by hand.
const TAIL: &str = r#""correlation_id":"c-1","timestamp":"2026-11-22T09:56:51Z","governance":{"allowed":true,"reason":"Request authorized","decision_time_ms":0.000}}"#;

/// Starts a gateway and waits for the connection by which it looks whether each Axon is there, so that
/// whatever comes after it is a dispatch's.
async fn started(setup: Setup, axons: &[&Axon]) -> Gateway {
    let gateway = setup.start().await;
    for axon in axons {
        axon.connected(1).await;
    }
    gateway
}

async fn before(axon: &Axon) -> Gateway {
    started(Setup::new(&[axon.url()]), &[axon]).await
}

fn urls(axons: &[Axon]) -> Vec<String> {
    axons.iter().map(Axon::url).collect()
}

/// Keeps `axon` busy with one request, which waits for its answer.
async fn occupied(gateway: &Gateway, axon: &Axon) -> (Gate, Client) {
    let gate = axon.hold();
    loop {
        let mut client = asking(gateway).await;
        tokio::select! {
            _ = axon.received(1) => return (gate, client),
            elsewhere = client.read_response() => contract(&elsewhere, Kind::Success),
        };
    }
}

/// Where requests went: connection, and turn on it.
fn turns(requests: &[Recorded]) -> Vec<(usize, usize)> {
    requests.iter().map(|r| (r.connection, r.turn)).collect()
}

fn healthy(gateway: &Gateway, axon: &str) -> f64 {
    let backend = axon.strip_prefix("http://").unwrap();
    gateway.metric(&format!("orbit_backend_healthy{{backend=\"{backend}\"}}"))
}

/// Asks `/health` until it answers with this status.
#[track_caller]
fn health_becomes(gateway: &Gateway, status: u16) -> impl Future<Output = Response> {
    within(async move {
        loop {
            let response = get(gateway.addr(), "/health").await;
            if response.status == status {
                return response;
            }
        }
    })
}

// ---- the envelope

#[tokio::test(flavor = "multi_thread")]
async fn members_of_axon_are_kept_as_they_were_and_three_are_orbits_own() {
    let cases = [
        ("{}", r#"{"status":"success","#),
        (r#"{"z":1,"a":2,"m":3,"b":4}"#, r#"{"status":"success","z":1,"a":2,"m":3,"b":4,"#),
        // The status is Axon's if it is a string, whatever stands in it.
        (r#"{"a":1,"status":"partial"}"#, r#"{"status":"partial","a":1,"#),
        (r#"{"status":"d\u00e9j\u00e0 \"vu\""}"#, r#"{"status":"d\u00e9j\u00e0 \"vu\"","#),
        (r#"{"status":200}"#, r#"{"status":"success","#),
        (r#"{"status":null,"a":1}"#, r#"{"status":"success","a":1,"#),
        (r#"{"status":{"status":"x"}}"#, r#"{"status":"success","#),
        (r#"{"status":["x"]}"#, r#"{"status":"success","#),
        (r#"{"status":true}"#, r#"{"status":"success","#),
        // Numbers keep their digits.
        (
            r#"{"a":1.50,"b":-0.0,"c":1E+2,"d":123456789012345678901234567890,"e":0.1000000000000000055511151231257827}"#,
            r#"{"status":"success","a":1.50,"b":-0.0,"c":1E+2,"d":123456789012345678901234567890,"e":0.1000000000000000055511151231257827,"#,
        ),
        // What Axon says in Orbit's name is not heard, however it is spelt.
        (
            r#"{"correlation_id":"x","timestamp":"x","governance":{"allowed":false},"a":1}"#,
            r#"{"status":"success","a":1,"#,
        ),
        (
            r#"{"correl\u0061tion_id":"x","\u0074imestamp":1,"governanc\u0065":null,"st\u0061tus":"ok"}"#,
            r#"{"status":"ok","#,
        ),
        (r#"{"governance":1,"a":1,"governance":2,"status":"x","status":"y"}"#, r#"{"status":"y","a":1,"#),
        // Names that only resemble them are other members.
        (
            r#"{"Status":"x","governance ":1,"GOVERNANCE":2}"#,
            r#"{"status":"success","Status":"x","governance ":1,"GOVERNANCE":2,"#,
        ),
        (r#"{"a":1,"a":2,"":3}"#, r#"{"status":"success","a":1,"a":2,"":3,"#),
        (
            r#"{"é😀":"\ud83d\ude00 ü","\u2028":"\u0000\/"}"#,
            "{\"status\":\"success\",\"é😀\":\"\\ud83d\\ude00 ü\",\"\u{2028}\":\"\\u0000\\/\",",
        ),
        (
            r#"{"deep":{"governance":{"allowed":false},"list":[[[{"status":1}], []]]},"s":"{\"a\":1}"}"#,
            r#"{"status":"success","deep":{"governance":{"allowed":false},"list":[[[{"status":1}], []]]},"s":"{\"a\":1}","#,
        ),
        ("\r\n\t { \"a\" : [ 1 , 2 ] , \"b\" : { } } \n", r#"{"status":"success","a":[ 1 , 2 ],"b":{ },"#),
    ];
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for (answer, kept) in cases {
        axon.next([Reply::json(200, answer)]);
        let response = dispatch(&gateway).await;
        contract(&response, Kind::Success);
        assert_eq!(response.text(), format!("{kept}{TAIL}"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_enveloped_however_it_comes() {
    let object = r#"{"message":"hello","n":1}"#;
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let cases = [
        ("of known length", Reply::json(200, object)),
        ("in chunks", Reply::chunked(200, ["{\"message\"", ":\"hello\",", "\"n\":1}"])),
        ("until the end of the connection", Reply::until_close(200, object)),
        ("with parameters", Reply::typed(200, "application/json; charset=utf-8", object)),
        ("in capitals", Reply::typed(200, "APPLICATION/JSON", object)),
        ("as a dialect of JSON", Reply::typed(200, "application/vnd.axon+json", object)),
        ("with trailing white space in its type", Reply::typed(200, "application/json ;q=1", object)),
    ];
    for (name, reply) in cases {
        axon.next([reply]);
        let response = dispatch(&gateway).await;
        contract(&response, Kind::Success);
        assert_eq!(response.text(), format!(r#"{{"status":"success","message":"hello","n":1,{TAIL}"#), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_success_statuses_are_kept() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for status in [201, 202, 203, 206, 299] {
        axon.next([Reply::json(status, "{}"), Reply::typed(status, "text/plain", "made")]);
        contract(&dispatch(&gateway).await, Kind::SuccessAs(status));
        let passed = dispatch(&gateway).await;
        contract(&passed, Kind::Passed);
        assert_eq!((passed.status, passed.text()), (status, "made"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_envelope_ends_at_its_limit_to_the_byte() {
    let axon = Axon::start();
    let setup = Setup::new(&[]).upstream(&[axon.url()], "response: { envelope_bytes: 1KiB }");
    let gateway = started(setup, &[&axon]).await;
    for length in [1023, 1024, 1025, 4000] {
        let object = format!(r#"{{"text":"{}"}}"#, "x".repeat(length - 11));
        assert_eq!(object.len(), length);
        let (half, rest) = object.split_at(length / 2);
        let replies = [
            Reply::json(200, &object),
            Reply::chunked(200, [half, rest]),
            Reply::chunked(200, [&object]),
            Reply::until_close(200, &object),
        ];
        for (at, reply) in replies.into_iter().enumerate() {
            axon.next([reply]);
            let response = dispatch(&gateway).await;
            if length <= 1024 {
                contract(&response, Kind::Success);
                let kept = object.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
                assert_eq!(response.text(), format!(r#"{{"status":"success",{kept},{TAIL}"#), "reply {at} of {length}");
            } else {
                contract(&response, Kind::Passed);
                assert_eq!(response.text(), object, "reply {at} of {length}");
            }
        }
    }
}

// ---- passed through

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_object_passes_byte_for_byte() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let large = format!(r#"{{"text":"{}"}}"#, "0123456789abcdef".repeat(200_000)).into_bytes();
    let pieces: Vec<&[u8]> = large.chunks(70_001).collect();
    let json: &[(&str, &[u8])] = &[
        ("an array", b"[ 1.50, {\"status\":\"x\"} ]"),
        ("a string", b"\"governance\""),
        ("null", b"null"),
        ("a number", b"1e5"),
        ("no JSON", b"<h1>It works!</h1>"),
        ("half an object", b"{\"a\":"),
        ("two objects", b"{} {}"),
        ("a byte order mark", b"\xef\xbb\xbf{}"),
        ("no UTF-8", b"{\"a\":\"\xff\"}"),
        ("every byte", &every_byte),
        ("3 MiB", &large),
    ];
    let mut cases = Vec::new();
    for (name, body) in json {
        cases.push((format!("{name} of known length"), Reply::json(200, body), "application/json", body.to_vec()));
        cases.push((format!("{name} in chunks"), Reply::chunked(200, [body]), "application/json", body.to_vec()));
        let reply = Reply::until_close(200, body);
        cases.push((format!("{name} until the end"), reply, "application/json", body.to_vec()));
    }
    let object = r#"{"data":1}"#;
    for content_type in [
        "text/plain",
        "text/html; charset=utf-8",
        "text/event-stream",
        "Application/X-NDJSON",
        "application/octet-stream",
    ] {
        let reply = Reply::typed(200, content_type, object);
        cases.push((content_type.to_owned(), reply, content_type, object.as_bytes().to_vec()));
    }
    let reply = Reply::json(200, object).header("Content-Encoding", "gzip");
    cases.push(("coded".to_owned(), reply, "application/json", object.as_bytes().to_vec()));
    cases.push(("large pieces".to_owned(), Reply::chunked(200, pieces), "application/json", large.clone()));
    let empty: [&str; 0] = [];
    cases.push(("empty".to_owned(), Reply::json(200, ""), "application/json", Vec::new()));
    cases.push(("empty in chunks".to_owned(), Reply::chunked(200, empty), "application/json", Vec::new()));
    cases.push(("empty until the end".to_owned(), Reply::until_close(200, ""), "application/json", Vec::new()));
    cases.push(("empty text".to_owned(), Reply::typed(200, "text/plain", ""), "text/plain", Vec::new()));

    let axon = Axon::start();
    let gateway = before(&axon).await;
    for (name, reply, content_type, body) in cases {
        axon.next([reply]);
        let mut client = asking(&gateway).await;
        let response = client.read_response().await;
        contract(&response, Kind::Passed);
        assert!(response.body == body, "{name}: {} bytes came of {}", response.body.len(), body.len());
        assert_eq!(response.header("content-type"), Some(content_type), "{name}");
        assert_eq!(response.status, 200, "{name}");
        // The client's connection is where it should be: another answer follows.
        client.send(message(&gateway)).await;
        contract(&client.read_response().await, Kind::Success);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_pass_and_leave_the_connection_usable() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let cases = [
        (Reply::new(204), 204, None),
        (Reply::new(204).header("Content-Type", "application/json"), 204, None),
        (Reply::new(205), 205, Some("0")),
        (Reply::typed(205, "text/plain", "that may not be"), 205, Some("0")),
        (Reply::new(200), 200, Some("0")),
        (Reply::new(202), 202, Some("0")),
    ];
    for (reply, status, length) in cases {
        axon.next([reply]);
        let mut client = asking(&gateway).await;
        let response = client.read_response().await;
        contract(&response, Kind::Passed);
        assert_eq!((response.status, response.header("content-length")), (status, length));
        assert_eq!((response.header("transfer-encoding"), response.body.len()), (None, 0), "{status}");
        assert_eq!(response.header("connection"), Some("keep-alive"), "{status}");
        client.send(message(&gateway)).await;
        contract(&client.read_response().await, Kind::Success);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_gets_the_body_until_the_end_of_the_connection() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for reply in [Reply::chunked(200, ["[1,", "2]"]), Reply::typed(200, "text/event-stream", "[1,2]")] {
        axon.next([reply]);
        let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).edit(" HTTP/1.1\r\n", " HTTP/1.0\r\n");
        let mut client = Client::connect(gateway.addr()).await;
        client.send(message.bytes()).await;
        let response = client.read_response().await;
        contract(&response, Kind::Passed);
        assert_eq!((response.header("transfer-encoding"), response.text()), (None, "[1,2]"));
        client.closed().await;
    }
}

/// What an Axon may send and no client may see.
const HOSTILE: [(&str, &str); 27] = [
    ("Server", "axon/1.0"),
    ("Set-Cookie", "session=1"),
    ("Connection", "X-Nominated, keep-alive, Content-Language"),
    ("X-Nominated", "1"),
    ("Content-Language", "de"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Connection", "keep-alive"),
    ("Trailer", "X-Trailer"),
    ("Upgrade", "h2c"),
    ("Via", "1.1 axon"),
    ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("Location", "http://axon.internal/"),
    ("Alt-Svc", "h3=\":443\""),
    ("X-Powered-By", "axon"),
    ("WWW-Authenticate", "Basic realm=\"axon\""),
    ("Allow", "GET"),
    ("Access-Control-Allow-Origin", "*"),
    ("X-Correlation-ID", "spoofed"),
    ("X-Request-ID", "spoofed"),
    ("X-RateLimit-Limit", "1"),
    ("X-RateLimit-Remaining", "1"),
    ("X-RateLimit-Reset", "1"),
    ("RateLimit", "\"spoofed\";r=1"),
    ("RateLimit-Policy", "\"spoofed\";q=1"),
    ("X-Governance-Decision", "denied"),
    ("X-Governance-Time-Ms", "99"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_header_of_axon_passes_that_is_not_on_the_list() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let cases = [
        (Reply::json(200, "{}"), Kind::Success),
        (Reply::json(201, "{}"), Kind::SuccessAs(201)),
        (Reply::json(200, "[]"), Kind::Passed),
        (Reply::typed(200, "text/plain", "hello"), Kind::Passed),
        (Reply::typed(200, "text/event-stream", "data: 1\n\n"), Kind::Passed),
        (Reply::new(204), Kind::Passed),
        (Reply::json(404, "{}"), Kind::AxonError(404)),
        (Reply::json(401, "{}"), Kind::AxonError(401)),
        (Reply::json(401, "x"), Kind::AxonRefusal(401)),
        (Reply::json(500, "{}"), Kind::Error("INTERNAL_ERROR")),
        (Reply::json(503, "{}"), Kind::Error("SERVICE_UNAVAILABLE")),
    ];
    for (reply, kind) in cases {
        axon.next([HOSTILE.iter().fold(reply, |reply, (name, value)| reply.header(name, value))]);
        let response = dispatch(&gateway).await;
        contract(&response, kind);
        for (name, value) in HOSTILE.iter().filter(|(name, _)| *name != "Connection") {
            assert_ne!(response.header(name), Some(*value), "{name} passed as {kind:?}");
        }
        assert_eq!(response.header("x-correlation-id"), Some("c-1"));
        assert_eq!(response.header("x-governance-decision"), Some("allowed"));
        assert_eq!(response.header("www-authenticate"), None, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_axon_end_here() {
    let chunked = |content_type: &str, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n");
        let body = format!("{:x}\r\n{body}\r\n0\r\nX-Trailer: 1\r\nX-Correlation-ID: spoofed\r\n\r\n", body.len());
        Reply::raw(format!("{head}Trailer: X-Trailer\r\n\r\n{body}"))
    };
    let axon = Axon::start();
    let gateway = before(&axon).await;
    axon.next([chunked("text/plain", "hello"), chunked("application/json", "{}")]);
    let passed = dispatch(&gateway).await;
    contract(&passed, Kind::Passed);
    assert_eq!(passed.text(), "hello");
    axon.hung_up(1).await;
    contract(&dispatch(&gateway).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_describe_the_bytes_pass_with_the_bytes() {
    let listed = [
        ("Cache-Control", "no-store"),
        ("Content-Disposition", "attachment"),
        ("Content-Encoding", "br"),
        ("Content-Language", "de"),
        ("Content-Location", "/a"),
        ("ETag", "\"1\""),
        ("Expires", "0"),
        ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Retry-After", "7"),
        ("Vary", "accept"),
    ];
    let axon = Axon::start();
    let gateway = before(&axon).await;
    axon.next([listed
        .iter()
        .fold(Reply::typed(200, "text/plain", "x"), |reply, (name, value)| reply.header(name, value))]);
    let response = dispatch(&gateway).await;
    contract(&response, Kind::Passed);
    for (name, value) in listed {
        assert_eq!(response.header(name), Some(value), "{name}");
    }

    // A body that Orbit rewrote is not the one that Axon described.
    axon.next([listed
        .iter()
        .filter(|(name, _)| *name != "Content-Encoding")
        .fold(Reply::json(200, "{}"), |reply, (name, value)| reply.header(name, value))]);
    let response = dispatch(&gateway).await;
    contract(&response, Kind::Success);
    for (name, value) in listed {
        let kept = matches!(name, "Cache-Control" | "Vary").then_some(value);
        assert_eq!(response.header(name), kept, "{name}");
    }
}

// ---- streams

#[tokio::test(flavor = "multi_thread")]
async fn each_event_arrives_before_the_next_is_sent() {
    for content_type in ["text/event-stream", "text/event-stream; charset=utf-8", "application/x-ndjson"] {
        let axon = Axon::start();
        let gateway = before(&axon).await;
        let (reply, stream) = Reply::stream(content_type);
        axon.next([reply]);
        let mut client = asking(&gateway).await;

        axon.received(1).await;
        let head = client.read_head().await;
        assert_eq!(head.header("content-type"), Some(content_type));
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        for n in 0..20 {
            let event = format!("data: {n}\n\n");
            stream.send(&event).await;
            assert_eq!(client.read_event().await.as_deref(), Some(event.as_str()), "{content_type}");
        }
        stream.finish();
        assert_eq!(client.read_event().await, None);

        // Both connections go on.
        client.send(message(&gateway)).await;
        contract(&client.read_response().await, Kind::Success);
        assert_eq!(turns(&axon.requests()), [(2, 1), (2, 2)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_through_is_not_held_back() {
    let large = "x".repeat(2000);
    let cases = [
        ("text of known length", Reply::typed(200, "text/plain", "abc")),
        ("events of known length", Reply::typed(200, "text/event-stream", "abc")),
        ("coded JSON", Reply::json(200, "abc").header("Content-Encoding", "gzip")),
        ("JSON over the limit", Reply::json(200, &large)),
        ("text until the end", Reply::until_close(200, "abc").header("Content-Encoding", "gzip")),
    ];
    for (name, reply) in cases {
        let axon = Axon::start();
        let setup = Setup::new(&[]).upstream(&[axon.url()], "response: { envelope_bytes: 1KiB }");
        let gateway = started(setup, &[&axon]).await;
        let gate = Gate::new();
        axon.next([reply.pause_in_body(1, &gate)]);
        let mut client = asking(&gateway).await;

        gate.reached(1).await;
        client.read_head().await;
        let first = client.read_chunk().await;
        assert_eq!(first.map(|part| part.len()), Some(1), "{name}");
        gate.release();
        let mut rest = 0;
        while let Some(part) = client.read_chunk().await {
            rest += part.len();
        }
        assert!([2, 1999].contains(&rest), "{name}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_turns_out_to_be_too_large_goes_on_unbuffered() {
    let axon = Axon::start();
    let setup = Setup::new(&[]).upstream(&[axon.url()], "response: { envelope_bytes: 1KiB }");
    let gateway = started(setup, &[&axon]).await;
    let (reply, stream) = Reply::stream("application/json");
    axon.next([reply]);
    let mut client = asking(&gateway).await;

    stream.send([b'x'; 1000]).await;
    stream.send([b'y'; 25]).await;
    assert_eq!(client.read_head().await.status, 200);
    let mut seen = Vec::new();
    while seen.len() < 1025 {
        seen.extend(client.read_chunk().await.expect("more"));
    }
    for _ in 0..3 {
        stream.send("z").await;
        assert_eq!(client.read_chunk().await.as_deref(), Some(&b"z"[..]));
    }
    stream.finish();
    assert_eq!(client.read_chunk().await, None);
    assert_eq!(seen, [[b'x'; 1000].as_slice(), &[b'y'; 25]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let (reply, stream) = Reply::event_stream();
    axon.next([reply]);
    let mut client = asking(&gateway).await;
    client.read_head().await;

    let part: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    let feeding = {
        let part = part.clone();
        tokio::spawn(async move {
            for _ in 0..256 {
                stream.send(&part).await;
            }
            stream.finish();
        })
    };
    let mut seen = 0;
    while let Some(bytes) = client.read_chunk().await {
        let expected = bytes.iter().zip((0..=255u8).cycle().skip(seen % 256)).all(|(b, e)| *b == e);
        assert!(expected, "after {seen} bytes");
        seen += bytes.len();
        tokio::task::yield_now().await;
    }
    assert_eq!(seen, 256 * part.len());
    feeding.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_given_up() {
    let more_than_any_buffer = vec![b'x'; 32 << 20];
    for reply in [
        Reply::typed(200, "text/plain", &more_than_any_buffer),
        Reply::typed(200, "text/event-stream", &more_than_any_buffer),
        Reply::json(200, &more_than_any_buffer),
    ] {
        let axon = Axon::start();
        let gateway = started(Setup::new(&[axon.url()]).listen("idle_timeout: 300ms"), &[&axon]).await;
        axon.next([reply]);
        let _client = asking(&gateway).await;
        axon.peer_closed().await;
        gateway.logged(&["AXON_CALL [c-1] abandoned: client left"]).await;
        gateway.logged(&["REQUEST [c-1] POST /dispatch 499 "]).await;
        assert_eq!(gateway.exchanges(&axon.url(), "abandoned"), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_a_large_envelope_is_given_up() {
    let axon = Axon::start();
    let setup = Setup::new(&[]).listen("idle_timeout: 300ms");
    let setup = setup.upstream(&[axon.url()], "response: { envelope_bytes: 64MiB }");
    let gateway = started(setup, &[&axon]).await;
    axon.next([Reply::json(200, format!(r#"{{"text":"{}"}}"#, "x".repeat(32 << 20)))]);
    let _client = asking(&gateway).await;
    gateway.logged(&["REQUEST [c-1] POST /dispatch 499 "]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_upstream_in_every_state() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let gate = Gate::new();
    let (events, stream) = Reply::event_stream();
    let half = Reply::json(200, r#"{"message":"hello"}"#).pause_in_body(5, &gate);
    let refusal = Reply::json(404, r#"{"message":"hello"}"#).pause_in_body(5, &gate);
    let text = Reply::typed(200, "text/plain", "hello").pause_in_body(1, &gate);
    axon.next([Reply::hang(), Reply::json(200, "{}").pause_in_head(&gate), half, refusal, text, events]);
    for n in 1..=6 {
        let mut client = asking(&gateway).await;
        axon.received(n).await;
        if n == 6 {
            stream.send("data: 1\n\n").await;
            client.read_head().await;
            assert_eq!(client.read_event().await.as_deref(), Some("data: 1\n\n"));
        }
        if n % 2 == 0 {
            client.reset()
        } else {
            drop(client)
        }
        axon.abandoned(n).await;
        gateway.logged(&["[INFO] AXON_CALL [c-1] abandoned: client left"]).await;
        gateway.logged(&["REQUEST [c-1] POST /dispatch 499 "]).await;
        assert_eq!(gateway.exchanges(&axon.url(), "abandoned"), n as f64);
    }
    stream.gone().await;
    contract(&dispatch(&gateway).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_is_visibly_incomplete() {
    let cases = [
        ("FIN", "timeouts: { idle: 10s }", "broken"),
        ("RST", "timeouts: { idle: 10s }", "broken"),
        ("silence", "timeouts: { idle: 300ms }", "timeout"),
        ("too long in all", "timeouts: { connect: 1s, total: 1s }", "timeout"),
    ];
    for (name, timeouts, outcome) in cases {
        let axon = Axon::start();
        let gateway = started(Setup::new(&[]).upstream(&[axon.url()], timeouts), &[&axon]).await;
        let (reply, stream) = Reply::event_stream();
        axon.next([reply]);
        let mut client = asking(&gateway).await;
        stream.send("data: 1\n\n").await;
        client.read_head().await;
        assert_eq!(client.read_event().await.as_deref(), Some("data: 1\n\n"));
        let mut open = Some(stream);
        match name {
            "FIN" => open.take().unwrap().abort(),
            "RST" => open.take().unwrap().reset(),
            _ => {}
        }
        assert_eq!(client.try_read_chunk().await, Err(Broken::Ended(Ending::Finished)), "{name}");
        gateway.logged(&[&format!("[WARN] AXON_CALL [c-1] {outcome}: ")]).await;
        assert_eq!(gateway.exchanges(&axon.url(), outcome), 1.0, "{name}");
    }
}

// ---- an Axon that refuses or fails; how else it fails is in the failure matrix

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_its_status_and_its_body_if_that_is_an_object() {
    let object = |status| Reply::json(status, r#"{"error":"x"}"#);
    let text = |status| Reply::typed(status, "text/plain", "no");
    let cases = [
        (object(404), Kind::AxonError(404)),
        (Reply::typed(422, "application/problem+json", "{}"), Kind::AxonError(422)),
        (Reply::chunked(409, ["{", "}"]), Kind::AxonError(409)),
        (text(404), Kind::AxonRefusal(404)),
        (Reply::json(400, "[]"), Kind::AxonRefusal(400)),
        (Reply::new(410), Kind::AxonRefusal(410)),
        (Reply::typed(418, "text/html", "<h1>"), Kind::AxonRefusal(418)),
        // Longer than what is put into an envelope.
        (Reply::json(400, format!("{{\"a\":\"{}\"}}", "x".repeat(2000))), Kind::AxonRefusal(400)),
        (Reply::json(400, "{}").header("Content-Encoding", "gzip"), Kind::AxonRefusal(400)),
        // Axon does not know Orbit, which is nothing that the caller could sign differently.
        (object(401), Kind::AxonError(401)),
        (text(401), Kind::AxonRefusal(401)),
        (text(403), Kind::AxonRefusal(403)),
        (text(405), Kind::AxonRefusal(405)),
        (object(429), Kind::AxonError(429)),
        (text(429), Kind::AxonRefusal(429)),
    ];
    let axon = Axon::start();
    let setup = Setup::new(&[]).upstream(&[axon.url()], "response: { envelope_bytes: 1KiB }");
    let gateway = started(setup, &[&axon]).await;
    for (nth, (reply, kind)) in cases.into_iter().enumerate() {
        axon.next([reply]);
        let response = dispatch(&gateway).await;
        contract(&response, kind);
        assert_eq!(response.header("x-governance-decision"), Some("allowed"), "{kind:?}");
        gateway.logged(&["[INFO] AXON_CALL [c-1] refused: "]).await;
        gateway.logged(&[&format!("REQUEST [c-1] POST /dispatch {} ", response.status)]).await;
        assert_eq!(gateway.exchanges(&axon.url(), "refused"), (nth + 1) as f64);
    }
    assert_eq!(axon.requests().len(), 15, "none of them is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_to_connect_is_503() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let refusing = axon.stop().await;
    // Known to be gone by the second request, which tries all the same, for it may be back.
    for (nth, issue) in ["connect_failed", "no_healthy_backend"].into_iter().enumerate() {
        let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(error["details"]["issue"], issue);
        gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed: connect failed: connection refused"]).await;
        gateway.logged(&["[WARN] REFUSED [c-1] SERVICE_UNAVAILABLE: "]).await;
        gateway.logged(&["REQUEST [c-1] POST /dispatch 503 "]).await;
        assert_eq!(gateway.exchanges(&refusing.url(), "connect_failed"), (nth + 1) as f64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_exchange_ends_in_time() {
    let axon = Axon::start();
    let more = "timeouts: { connect: 200ms, first_byte: 10s, idle: 10s, total: 300ms }";
    for reply in [Reply::hang(), Reply::json(200, "{\"a\":1}").cut(3).then_hang()] {
        let gateway = started(Setup::new(&[]).upstream(&[axon.url()], more), &[&axon]).await;
        axon.next([reply]);
        let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(error["details"]["issue"], "timeout");
    }
    axon.abandoned(2).await;
    assert_eq!(axon.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_without_waiting_for_its_body() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for (status, code) in [(500, "INTERNAL_ERROR"), (503, "SERVICE_UNAVAILABLE")] {
        axon.next([Reply::json(status, r#"{"error":"x"}"#).cut(3).then_hang()]);
        contract(&dispatch(&gateway).await, Kind::Error(code));
    }
    axon.abandoned(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_axons_word_where_it_gave_one() {
    let cases = [
        (Reply::json(429, "{}").header("Retry-After", "7"), Kind::AxonError(429), Some("7")),
        (Reply::typed(429, "text/plain", "x").header("Retry-After", "7"), Kind::AxonRefusal(429), Some("7")),
        (Reply::json(429, "{}"), Kind::AxonError(429), Some("1")),
        (Reply::json(429, "{}").header("Retry-After", "0"), Kind::AxonError(429), Some("1")),
        (Reply::json(429, "{}").header("Retry-After", "soon"), Kind::AxonError(429), Some("1")),
        (Reply::json(429, "{}").header("Retry-After", "-3"), Kind::AxonError(429), Some("1")),
        (Reply::json(404, "{}").header("Retry-After", "7"), Kind::AxonError(404), Some("7")),
        (Reply::json(404, "{}").header("Retry-After", "0"), Kind::AxonError(404), None),
        (Reply::json(404, "{}"), Kind::AxonError(404), None),
        (Reply::json(503, "{}").header("Retry-After", "7"), Kind::Error("SERVICE_UNAVAILABLE"), Some("7")),
        (Reply::json(503, "{}"), Kind::Error("SERVICE_UNAVAILABLE"), Some("1")),
        (Reply::json(502, "{}"), Kind::Error("SERVICE_UNAVAILABLE"), Some("1")),
        (Reply::json(500, "{}").header("Retry-After", "7"), Kind::Error("INTERNAL_ERROR"), None),
    ];
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for (at, (reply, kind, expected)) in cases.into_iter().enumerate() {
        axon.next([reply]);
        let response = dispatch(&gateway).await;
        contract(&response, kind);
        assert_eq!(response.header("retry-after"), expected, "case {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refusal_is_axons_own_byte_for_byte_if_it_is_an_object() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let own = "{ \"correlation_id\":\"theirs\", \"n\":1.50, \"governance\":1, \"n\":2 }";
    axon.next([Reply::json(422, own), Reply::json(422, "{}{}")]);
    let response = dispatch(&gateway).await;
    contract(&response, Kind::AxonError(422));
    assert_eq!(response.text(), own);
    let replaced = contract(&dispatch(&gateway).await, Kind::AxonRefusal(422));
    assert_eq!(replaced["details"]["issue"], "upstream_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_status_has_the_code_of_the_table() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let codes = [
        (400, "INVALID_REQUEST"),
        (401, "INVALID_REQUEST"),
        (403, "INVALID_REQUEST"),
        (404, "NOT_FOUND"),
        (405, "METHOD_NOT_ALLOWED"),
        (408, "REQUEST_TIMEOUT"),
        (413, "PAYLOAD_TOO_LARGE"),
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        (418, "INVALID_REQUEST"),
        (429, "RATE_LIMIT_EXCEEDED"),
        (431, "HEADERS_TOO_LARGE"),
    ];
    for (status, code) in codes {
        axon.next([Reply::typed(status, "text/plain", "no")]);
        let error = contract(&dispatch(&gateway).await, Kind::AxonRefusal(status));
        assert_eq!(error["code"], code, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_the_body_is_read_is_passed_on() {
    let padding = "x".repeat(900_000);
    let body = json!({ "intent": "call_reasoning", "padding": padding }).to_string();
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for (reply, kind) in [
        (Reply::json(413, r#"{"error":"too much"}"#).at_head(), Kind::AxonError(413)),
        (Reply::json(200, "{}").at_head(), Kind::Success),
        (Reply::hang_up().at_head(), Kind::Error("SERVICE_UNAVAILABLE")),
    ] {
        axon.next([reply]);
        contract(&gateway.send(gateway.dispatch(&body)).await, kind);
    }
    contract(&gateway.send(gateway.dispatch(&body)).await, Kind::Success);
    assert_eq!(turns(&axon.requests()), [(2, 1), (3, 1), (4, 1), (5, 1)]);
    assert_eq!(axon.requests()[3].body, body.as_bytes());
}

// ---- connections to Axon

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_request_after_request() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    axon.next([
        Reply::json(200, "{}"),
        Reply::chunked(200, ["{\"a\"", ":1}"]),
        Reply::typed(200, "text/plain", "hello"),
        Reply::chunked(200, ["[1,", "2]"]),
        Reply::typed(200, "text/event-stream", "data: 1\n\n"),
        Reply::json(200, "x".repeat(2 << 20)),
        Reply::new(204),
        Reply::new(200),
        Reply::json(404, "{}"),
        Reply::chunked(404, ["{}"]),
        Reply::typed(404, "text/plain", "hello"),
        Reply::json(500, "{}"),
        Reply::chunked(503, ["{}"]),
        Reply::new(302),
        Reply::new(304),
        Reply::json(200, "{}").interim(103, &[]),
    ]);
    for _ in 0..17 {
        dispatch(&gateway).await;
    }
    let expected: Vec<_> = (1..=17).map(|turn| (2, turn)).collect();
    assert_eq!(turns(&axon.requests()), expected);
    assert_eq!(axon.connections(), 2, "the first was there to look whether anybody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_used_again_after_an_answer_that_left_it_in_doubt() {
    let cases = [
        ("close was announced", Reply::json(200, "{}").header("Connection", "close")),
        ("an old server", Reply::until_close(200, "{}")),
        ("an old answer", Reply::raw("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}").then_hang()),
        (
            "more than announced",
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n").then_hang(),
        ),
        (
            "more than chunks",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nx").then_hang(),
        ),
        ("a large failure", Reply::typed(500, "text/plain", "x".repeat(4 << 20))),
        ("a large refusal", Reply::typed(400, "text/plain", "x".repeat(4 << 20))),
    ];
    for (name, reply) in cases {
        let axon = Axon::start();
        let gateway = before(&axon).await;
        axon.next([reply]);
        dispatch(&gateway).await;
        contract(&dispatch(&gateway).await, Kind::Success);
        assert_eq!(turns(&axon.requests()), [(2, 1), (3, 1)], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_axon_closed_while_idle_is_never_used_again() {
    let axon = Axon::start();
    axon.answer(Reply::json(200, "{}").then_close());
    let gateway = before(&axon).await;
    let mut client = Client::connect(gateway.addr()).await;
    for n in 1..=200 {
        client.send(message(&gateway)).await;
        contract(&client.read_response().await, Kind::Success);
        axon.hung_up(n).await;
    }
    let expected: Vec<_> = (2..=201).map(|connection| (connection, 1)).collect();
    assert_eq!(turns(&axon.requests()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_meets_a_closing_connection_is_answered_or_cleanly_refused() {
    let axon = Axon::start();
    axon.answer(Reply::json(200, "{}").then_close());
    let gateway = before(&axon).await;
    let mut client = Client::connect(gateway.addr()).await;
    let mut answered = 0;
    for _ in 0..200 {
        client.send(message(&gateway)).await;
        let response = client.read_response().await;
        if response.status == 200 {
            contract(&response, Kind::Success);
            answered += 1;
        } else {
            // Sent while the end was on its way: Axon may have begun, so it is not sent again.
            contract(&response, Kind::Error("SERVICE_UNAVAILABLE"));
        }
    }
    assert_eq!(axon.requests().len(), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_when_nothing_is_to_be_kept() {
    let axon = Axon::start();
    let gateway = started(Setup::new(&[]).upstream(&[axon.url()], "keepalive: 0"), &[&axon]).await;
    for _ in 0..3 {
        contract(&dispatch(&gateway).await, Kind::Success);
    }
    axon.all_closed().await;
    assert_eq!(turns(&axon.requests()), [(2, 1), (3, 1), (4, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_kept_than_configured() {
    let axon = Axon::start();
    let gateway = started(Setup::new(&[]).upstream(&[axon.url()], "keepalive: 2"), &[&axon]).await;
    for _ in 0..2 {
        let before = axon.requests().len();
        let gate = axon.hold();
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(asking(&gateway).await);
        }
        axon.received(before + 4).await;
        gate.release();
        for mut client in clients {
            contract(&client.read_response().await, Kind::Success);
        }
    }
    let mut turns = turns(&axon.requests());
    turns.sort_unstable();
    let again = turns.iter().filter(|(_, turn)| *turn == 2).count();
    assert_eq!((turns.len(), again, axon.connections()), (8, 2, 7), "{turns:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_idle_for_too_long_is_closed() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    contract(&dispatch(&gateway).await, Kind::Success);
    gateway.clock.advance(std::time::Duration::from_secs(61));
    axon.all_closed().await;
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(turns(&axon.requests()), [(2, 1), (3, 1)]);
}

// ---- several Axons

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_until_the_last_backend_that_works() {
    let mut axons: Vec<Axon> = (0..5).map(|_| Axon::start()).collect();
    let urls = urls(&axons);
    let gateway = started(Setup::new(&urls), &axons.iter().collect::<Vec<_>>()).await;
    let last = axons.pop().unwrap();
    // A busy backend is chosen after all idle ones.
    let (gate, mut busy) = occupied(&gateway, &last).await;
    let mut stopped = Vec::new();
    for axon in axons {
        stopped.push(axon.stop().await);
    }

    let mut client = Client::connect(gateway.addr()).await;
    let message = gateway.dispatch(BODY).header("X-Correlation-ID", "goes-on").sign(&signing(), gateway.now());
    client.send(message.bytes()).await;
    let seen = last.received(2).await;
    assert_eq!(seen[1].header("host"), Some(last.addr().to_string().as_str()));
    assert_eq!(seen[1].body, BODY.as_bytes());
    gate.release();
    contract(&client.read_response().await, Kind::Success);
    contract(&busy.read_response().await, Kind::Success);

    // One line and one count per call.
    let lines = gateway.log_until(&["REQUEST [goes-on] POST /dispatch 200 "]).await;
    let calls: Vec<_> = lines.iter().filter(|line| line.contains("AXON_CALL [goes-on]")).collect();
    assert_eq!(calls.len(), 5, "{calls:#?}");
    for line in &calls[..4] {
        assert!(
            line.contains("[WARN] AXON_CALL [goes-on] connect_failed: connect failed: connection refused"),
            "{line}"
        );
    }
    assert!(calls[4].contains("[INFO] AXON_CALL [goes-on] success: Axon heartbeat OK"), "{}", calls[4]);
    for url in &urls[..4] {
        assert_eq!((gateway.exchanges(url, "connect_failed"), healthy(&gateway, url)), (1.0, 0.0));
    }
    assert_eq!((gateway.exchanges(&urls[4], "connect_failed"), healthy(&gateway, &urls[4])), (0.0, 1.0));

    // They are known to be gone: the next request does not try them again.
    contract(&gateway.send(gateway.dispatch(BODY).header("X-Correlation-ID", "knows")).await, Kind::Success);
    gateway.logged(&["REQUEST [knows]"]).await;
    assert!(urls[..4].iter().all(|url| gateway.exchanges(url, "connect_failed") == 1.0));
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_is_spread_over_all_backends() {
    let axons: Vec<Axon> = (0..3).map(|_| Axon::start()).collect();
    let gateway = started(Setup::new(&urls(&axons)), &axons.iter().collect::<Vec<_>>()).await;
    for _ in 0..120 {
        contract(&dispatch(&gateway).await, Kind::Success);
    }
    let shares: Vec<usize> = axons.iter().map(|axon| axon.requests().len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 120);
    assert!(shares.iter().all(|share| *share >= 10), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_backend_gets_nothing_while_another_is_idle() {
    let axons = [Axon::start(), Axon::start()];
    let gateway = started(Setup::new(&urls(&axons)), &axons.iter().collect::<Vec<_>>()).await;
    let (gate, mut busy) = occupied(&gateway, &axons[0]).await;
    let before = axons[1].requests().len();
    for _ in 0..30 {
        contract(&dispatch(&gateway).await, Kind::Success);
    }
    assert_eq!((axons[0].requests().len(), axons[1].requests().len()), (1, before + 30));
    gate.release();
    contract(&busy.read_response().await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_when_no_backend_is_left_and_when_one_is_back() {
    let axon = Axon::start();
    let url = axon.url();
    let gateway = before(&axon).await;
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
    assert_eq!(healthy(&gateway, &url), 1.0);

    let stopped = axon.stop().await;
    let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(error["details"]["issue"], "connect_failed");
    assert_eq!(healthy(&gateway, &url), 0.0);
    let unhealthy = contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    assert_eq!(unhealthy["checks"], json!({ "axon": "no healthy backend" }));
    contract(&get(gateway.addr(), "/health/live").await, Kind::Live);

    let axon = stopped.start();
    axon.connected(1).await;
    contract(&health_becomes(&gateway, 200).await, Kind::Healthy);
    assert_eq!(healthy(&gateway, &url), 1.0);
    contract(&dispatch(&gateway).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_finds_nobody_says_so_before_the_first_request() {
    let refusing = [Axon::refusing(), Axon::refusing()];
    let urls: Vec<String> = refusing.iter().map(|r| r.url()).collect();
    let gateway = Setup::new(&urls).start().await;
    contract(&health_becomes(&gateway, 503).await, Kind::Unhealthy);
    assert!(urls.iter().all(|url| healthy(&gateway, url) == 0.0));

    // One of two is enough.
    let [first, _second] = refusing;
    let axon = first.start();
    axon.connected(1).await;
    contract(&health_becomes(&gateway, 200).await, Kind::Healthy);
    assert_eq!((healthy(&gateway, &urls[0]), healthy(&gateway, &urls[1])), (1.0, 0.0));
    contract(&dispatch(&gateway).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_while_nobody_is_there_costs_one_try() {
    let refusing = [Axon::refusing(), Axon::refusing(), Axon::refusing()];
    let urls: Vec<String> = refusing.iter().map(|r| r.url()).collect();
    let gateway = Setup::new(&urls).start().await;
    contract(&health_becomes(&gateway, 503).await, Kind::Unhealthy);
    let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(error["details"]["issue"], "no_healthy_backend");
    gateway.logged(&["REQUEST [c-1]"]).await;
    assert_eq!(urls.iter().map(|url| gateway.exchanges(url, "connect_failed")).sum::<f64>(), 1.0);
}

// ---- what Axon is asked

/// What callers may send and Axon must not see.
const CALLERS_OWN: [(&str, &str); 20] = [
    ("Cookie", "session=1"),
    ("Proxy-Authorization", "Basic eDp5"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-For", "9.9.9.9"),
    ("Forwarded", "for=9.9.9.9"),
    ("X-Real-IP", "9.9.9.9"),
    ("X-Request-ID", "spoofed"),
    ("X-Governance-Decision", "allowed"),
    ("X-Principal", "admin"),
    ("Connection", "keep-alive, X-Nominated, Accept-Language, tracestate"),
    ("X-Nominated", "1"),
    ("Accept-Language", "de"),
    ("tracestate", "a=b"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers"),
    ("Accept-Encoding", "gzip"),
    ("Range", "bytes=0-1"),
    ("If-None-Match", "\"1\""),
    ("Via", "1.1 caller"),
];
/// What passes.
const PASSED_ON: [(&str, &str); 5] = [
    ("Accept", "application/json, text/event-stream"),
    ("Idempotency-Key", "k-1"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"),
    ("User-Agent", "caller/1.0"),
];

fn names(request: &Recorded) -> Vec<String> {
    let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn axon_sees_what_is_on_the_list_and_what_is_orbits_own() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let mut signed = gateway.dispatch(BODY).header("X-Correlation-ID", "c-1").header("X-Amz-Meta", "1").declared();
    for (name, value) in CALLERS_OWN.iter().chain(&PASSED_ON) {
        signed = signed.unsigned_header(name, value);
    }
    let response = gateway.send(signed).await;
    contract(&response, Kind::Success);

    let seen = axon.request();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/dispatch"));
    let mut expected =
        ["host", "content-type", "content-length", "x-correlation-id", "x-request-id", "x-forwarded-for"]
            .map(str::to_owned)
            .to_vec();
    expected.extend(PASSED_ON.iter().map(|(name, _)| name.to_ascii_lowercase()));
    expected.sort();
    assert_eq!(names(&seen), expected);
    for (name, value) in PASSED_ON {
        assert_eq!(seen.header(name), Some(value));
    }
    assert_eq!(seen.header("host"), Some(axon.addr().to_string().as_str()));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("content-length"), Some(BODY.len().to_string().as_str()));
    assert_eq!(seen.header("x-correlation-id"), Some("c-1"));
    assert_eq!(seen.header("x-request-id"), response.header("x-request-id"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.body, BODY.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_header_takes_from_the_list_what_it_names() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for nominating in ["traceparent", "close, TraceParent ", "x,traceparent,y"] {
        let signed = gateway.dispatch(BODY).unsigned_header("Connection", nominating);
        let signed = signed.unsigned_header("traceparent", "00-1").unsigned_header("Accept", "a/b");
        contract(&gateway.send(signed).await, Kind::Success);
        let seen = axon.requests().pop().unwrap();
        assert_eq!((seen.header("traceparent"), seen.header("accept")), (None, Some("a/b")), "{nominating}");
    }
    // What Orbit says itself cannot be taken away.
    let signed =
        gateway.dispatch(BODY).unsigned_header("Connection", "host, content-length, x-correlation-id, content-type");
    contract(&gateway.send(signed).await, Kind::Success);
    let seen = axon.requests().pop().unwrap();
    for name in ["host", "content-length", "x-correlation-id", "content-type"] {
        assert!(seen.header(name).is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_trailers_of_the_caller_become_a_body_of_known_length() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let mut message = gateway.dispatch(BODY).chunked(&[1, 10, 3]).sign(&signing(), gateway.now());
    let end = message.body.len() - 2;
    message.body.truncate(end);
    message.body.extend_from_slice(b"X-Trailer: 1\r\nAuthorization: x\r\n\r\n");
    contract(&message.send(gateway.addr()).await, Kind::Success);
    let seen = axon.request();
    assert_eq!(seen.header("content-length"), Some(BODY.len().to_string().as_str()));
    assert_eq!((seen.header("transfer-encoding"), seen.header("x-trailer")), (None, None));
    assert_eq!(seen.body, BODY.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_orbits_own_whatever_the_caller_asked_for() {
    let axon = Axon::start();
    let more = "request: { method: POST, path: /v1/reason }";
    let gateway = started(Setup::new(&[]).upstream(&[axon.url()], more), &[&axon]).await;
    let signed = crate::harness::client::Signed::post(gateway.authority(), "/dispatch?x=y&path=%2Fadmin", BODY);
    contract(&gateway.send(signed).await, Kind::Success);
    assert_eq!(axon.request().target, "/v1/reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_axon_is_asked_by_get_without_any_body() {
    let axon = Axon::start();
    let more = "request: { method: GET, path: /reason, body: none }";
    let gateway = started(Setup::new(&[]).upstream(&[axon.url()], more), &[&axon]).await;
    let signed = gateway.dispatch(BODY).header("X-Correlation-ID", "c-1").unsigned_header("Accept", "a/b");
    contract(&gateway.send(signed).await, Kind::Success);
    let seen = axon.request();
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.body.len()), ("GET", "/reason", 0));
    assert_eq!(names(&seen), ["accept", "host", "x-correlation-id", "x-forwarded-for", "x-request-id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_that_a_trusted_proxy_names_is_the_one_that_axon_hears_of() {
    let axon = Axon::start();
    let gateway = started(Setup::new(&[axon.url()]).listen("trusted_proxies: [127.0.0.0/8]"), &[&axon]).await;
    let signed = gateway.dispatch(BODY).unsigned_header("X-Forwarded-For", "6.6.6.6, 9.9.9.9");
    contract(&gateway.send(signed).await, Kind::Success);
    assert_eq!(axon.request().header("x-forwarded-for"), Some("9.9.9.9"));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_is_the_endpoint_as_it_was_written() {
    let axon = Axon::start();
    let written = format!("localhost:{}", axon.addr().port());
    let gateway = started(Setup::new(&[format!("http://{written}")]), &[&axon]).await;
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(axon.request().header("host"), Some(written.as_str()));
}

// ---- signed by Orbit

#[tokio::test(flavor = "multi_thread")]
async fn what_axon_gets_is_signed_by_orbit_at_that_moment() {
    for request in
        ["request: { method: POST, path: /v1/reason }", "request: { method: GET, path: /reason, body: none }"]
    {
        for token in [None, Some("t0ken/+==")] {
            let axon = Axon::start();
            let sign = "sign: { service: lambda, region: eu-central-1, credentials: { keys: sign.yaml } }";
            let mut key = "access_key_id: AKIDORBIT\nsecret_access_key: orbits/secret\n".to_owned();
            key.extend(token.map(|token| format!("session_token: {token:?}\n")));
            let setup = Setup::new(&[]).upstream(&[axon.url()], &format!("{request}, {sign}")).file("sign.yaml", &key);
            let gateway = started(setup, &[&axon]).await;
            for (nth, date) in ["20261122T095651Z", "20261123T095651Z", "20261123T095801Z"].into_iter().enumerate() {
                let mut signed = gateway.dispatch(BODY).declared();
                for (name, value) in PASSED_ON {
                    signed = signed.unsigned_header(name, value);
                }
                contract(&gateway.send(signed).await, Kind::Success);
                let seen = &axon.requests()[nth];
                assert_eq!(seen.verify_signature("orbits/secret", "eu-central-1", "lambda"), Ok(()), "{request}");
                assert_eq!(seen.access_key(), Some("AKIDORBIT"));
                assert_eq!(seen.header("x-amz-date"), Some(date));
                assert_eq!(seen.header("x-amz-security-token"), token);
                assert!(seen.header("x-amz-content-sha256").is_some());
                gateway.clock.advance(std::time::Duration::from_secs([86_400, 70, 0][nth]));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_credentials_are_those_of_the_environment() {
    for token in [None, Some("session/token+of==temporary+credentials")] {
        let axon = Axon::start();
        let mut setup = Setup::new(&[])
            .upstream(&[axon.url()], "sign: { credentials: default }")
            .variable("AWS_ACCESS_KEY_ID", "ASIAORBIT")
            .variable("AWS_SECRET_ACCESS_KEY", "from the environment");
        if let Some(token) = token {
            setup = setup.variable("AWS_SESSION_TOKEN", token);
        }
        let gateway = started(setup, &[&axon]).await;
        contract(&dispatch(&gateway).await, Kind::Success);
        let seen = axon.request();
        assert_eq!(seen.verify_signature("from the environment", "us-east-1", "execute-api"), Ok(()));
        assert_eq!((seen.access_key(), seen.header("x-amz-security-token")), (Some("ASIAORBIT"), token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_on_is_signed_for_the_backend_that_it_reaches() {
    let axons = [Axon::start(), Axon::start()];
    let setup = Setup::new(&[])
        .upstream(&urls(&axons), "sign: { credentials: { keys: sign.yaml } }")
        .file("sign.yaml", "access_key_id: AKIDORBIT\nsecret_access_key: orbits\n");
    let gateway = started(setup, &axons.iter().collect::<Vec<_>>()).await;
    let [first, last] = axons;
    let (gate, _busy) = occupied(&gateway, &last).await;
    let _stopped = first.stop().await;
    let mut client = asking(&gateway).await;
    let seen = last.received(2).await;
    assert_eq!(seen[1].header("host"), Some(last.addr().to_string().as_str()));
    assert_eq!(seen[1].verify_signature("orbits", "us-east-1", "execute-api"), Ok(()));
    gate.release();
    contract(&client.read_response().await, Kind::Success);
}

// ---- the log

#[tokio::test(flavor = "multi_thread")]
async fn each_call_leaves_one_line_that_says_how_it_went() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let forged = r#"{"message":"first\n2026-11-22T09:56:51Z [INFO] REQUEST [x] forged\u2028\u001b[0m"}"#;
    let long = json!({ "message": "é".repeat(2000) }).to_string();
    let cases = [
        (Reply::json(200, "{}"), "[INFO] AXON_CALL [c-1] success: answered".to_owned()),
        (Reply::json(200, r#"{"message":7}"#), "[INFO] AXON_CALL [c-1] success: answered".to_owned()),
        (Reply::json(200, r#"{"message":"hé"}"#), "[INFO] AXON_CALL [c-1] success: hé".to_owned()),
        (Reply::json(200, "[]"), "[INFO] AXON_CALL [c-1] success: passed through".to_owned()),
        (
            Reply::json(200, forged),
            r"[INFO] AXON_CALL [c-1] success: first\n2026-11-22T09:56:51Z [INFO] REQUEST [x] forged\u{2028}\u{1b}[0m"
                .to_owned(),
        ),
        (Reply::json(200, long), format!("[INFO] AXON_CALL [c-1] success: {}", "é".repeat(128))),
        (Reply::json(404, "{}"), "[INFO] AXON_CALL [c-1] refused: answered 404".to_owned()),
        (Reply::json(500, "{}"), "[WARN] AXON_CALL [c-1] error: Axon answered 500".to_owned()),
        (Reply::json(503, "{}"), "[WARN] AXON_CALL [c-1] error: Axon answered 503".to_owned()),
        (
            Reply::switching_protocols(),
            "[WARN] AXON_CALL [c-1] error: switched protocols without being asked to".to_owned(),
        ),
    ];
    for (reply, expected) in cases {
        axon.next([reply]);
        dispatch(&gateway).await;
        let line = gateway.logged(&["AXON_CALL"]).await;
        assert_eq!(line, format!("2026-11-22T09:56:51Z {expected}"));
        let lines = gateway.log_until(&["REQUEST [c-1] POST /dispatch "]).await;
        assert!(!lines.iter().any(|line| line.contains("AXON_CALL")), "{lines:#?}");
        gateway.logged(&["REQUEST"]).await;
    }
}

/// A failure's detail is for the operator alone.
#[tokio::test(flavor = "multi_thread")]
async fn no_word_of_a_failure_reaches_the_client() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    for status in [302, 400, 404, 500, 503] {
        axon.next([Reply::typed(status, "text/plain", "panic at db.internal:5432")]);
        let response = dispatch(&gateway).await;
        let error: Value = response.json();
        assert!(error["error"].is_string());
        for secret in ["panic", "internal:5432", &axon.addr().port().to_string()] {
            assert!(!String::from_utf8_lossy(&response.raw).contains(secret), "{secret} after {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_pauses_ends_with_the_total_timeout() {
    let axon = Axon::start();
    let setup = Setup::new(&[axon.url()]);
    let gateway = setup.upstream(&[axon.url()], "timeouts: { connect: 100ms, total: 300ms }").start().await;
    let (reply, stream) = Reply::event_stream();
    axon.next([reply]);
    let mut client = Client::connect(gateway.addr()).await;
    client.send(gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes()).await;
    assert_eq!(client.read_head().await.status, 200);

    // Its last send fails the task, which nobody asks.
    let endless = tokio::spawn(async move {
        loop {
            stream.send("data: x\n\n").await;
        }
    });
    within(async { while let Ok(Some(_)) = client.try_read_chunk().await {} }).await;
    gateway.logged(&["AXON_CALL", "timeout: answer took too long"]).await;
    endless.abort();
}
