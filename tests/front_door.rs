//! The front door over real sockets: what it refuses, what it puts up with, how long it waits, how much it
//! takes, and how a connection goes on or ends.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{
    Client, Ending, LAST_CHUNK, Message, PATIENCE, Response, Signed, Signing, chunk, request, within,
};
use crate::harness::gateway::{ACCESS_KEY, BODY, Gateway, Setup, signing};

/// Between two pieces of what is sent slowly; time for the other side to read each alone.
const PACE: Duration = Duration::from_millis(1);
/// A dispatch short enough to be sent byte by byte.
const SHORT: &str = r#"{"intent":"call_reasoning"}"#;
const KIB: usize = 1024;

/// A gateway with these members in its `listen` block, in front of an Axon of its own.
async fn start(listen: &str) -> (Axon, Gateway) {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).listen(listen).start().await;
    (axon, gateway)
}

/// A gateway with nothing but defaults.
async fn start_plain() -> (Axon, Gateway) {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    (axon, gateway)
}

fn sign(gateway: &Gateway, signed: Signed) -> Message {
    signed.sign(&signing(), gateway.now())
}

/// A dispatch that would be answered by Axon.
fn dispatch(gateway: &Gateway) -> Message {
    sign(gateway, gateway.dispatch(BODY))
}

fn chunked_dispatch(gateway: &Gateway) -> Message {
    sign(gateway, gateway.dispatch(BODY).chunked(&[]))
}

/// `message` with the one occurrence of `from` in its head replaced by any bytes.
#[track_caller]
fn swap(message: &Message, from: &str, to: impl AsRef<[u8]>) -> Vec<u8> {
    let places: Vec<usize> =
        (0..message.head.len()).filter(|at| message.head[*at..].starts_with(from.as_bytes())).collect();
    let [at] = places[..] else { panic!("{} occurrences of {from:?}", places.len()) };
    [&message.head[..at], to.as_ref(), &message.head[at + from.len()..], &message.body].concat()
}

/// `message` with another request line.
fn line(message: &Message, line: impl AsRef<[u8]>) -> Vec<u8> {
    swap(message, "POST /dispatch HTTP/1.1", line)
}

/// `message` with one more line at the end of its head.
fn plus(message: &Message, line: impl AsRef<[u8]>) -> Vec<u8> {
    let (fields, blank) = message.head.split_at(message.head.len() - 2);
    [fields, line.as_ref(), b"\r\n", blank, &message.body].concat()
}

/// Sends on an open connection and reads the answer.
async fn ask(client: &mut Client, raw: impl AsRef<[u8]>) -> Response {
    let raw = raw.as_ref();
    let method = String::from_utf8_lossy(raw.split(|b| *b == b' ').next().unwrap_or_default()).into_owned();
    client.send(raw).await;
    client.read_response_to(&method).await
}

/// Waits until the gateway holds no connection and serves no request.
async fn at_rest(gateway: &Gateway) {
    gauges(gateway, 0.0, 0.0).await;
}

/// Waits until the gateway holds so many connections and serves so many requests.
async fn gauges(gateway: &Gateway, connections: f64, requests: f64) {
    within(async {
        let seen = || (gateway.metric("orbit_connections"), gateway.metric("orbit_in_flight_requests"));
        while seen() != (connections, requests) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A request that the door must refuse.
struct Flawed {
    what: String,
    /// What `details.field` must name.
    field: &'static str,
    raw: Vec<u8>,
}

fn flawed(what: impl ToString, field: &'static str, raw: Vec<u8>) -> Flawed {
    Flawed { what: what.to_string(), field, raw }
}

/// Sends each request, demands 400 and the end of the connection, and that nothing reached Axon.
async fn refuses_each(axon: &Axon, gateway: &Gateway, requests: Vec<Flawed>) {
    for Flawed { what, field, raw } in requests {
        println!("{what}: {}", raw.escape_ascii());
        let mut client = Client::connect(gateway.addr()).await;
        client.offer(&raw).await;
        is_refused(&mut client, field).await;
    }
    assert!(axon.requests().is_empty(), "reached Axon: {:#?}", axon.requests());
    // What was refused was refused for its flaw alone.
    contract(&dispatch(gateway).send(gateway.addr()).await, Kind::Success);
    contract(&chunked_dispatch(gateway).send(gateway.addr()).await, Kind::Success);
}

async fn is_refused(client: &mut Client, field: &str) {
    let response = client.read_response().await;
    let answer = contract(&response, Kind::Error("INVALID_REQUEST"));
    assert_eq!(answer["details"]["field"], field);
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(client.closed().await, Ending::Finished);
}

// What is refused.

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_in_origin_form() {
    let (axon, gateway) = start_plain().await;
    let (message, authority) = (dispatch(&gateway), gateway.authority());
    let port = gateway.addr().port();
    let mut requests = Vec::new();
    for (what, field, target) in [
        ("asterisk", "target", "*".to_owned()),
        ("authority", "target", authority.clone()),
        ("no leading slash", "target", "dispatch".to_owned()),
        ("relative", "target", "./dispatch".to_owned()),
        ("query alone", "target", "?/dispatch".to_owned()),
        ("backslash", "target", "\\dispatch".to_owned()),
        ("empty", "target", String::new()),
        ("fragment", "target", "/dispatch#x".to_owned()),
        ("empty fragment", "target", "/dispatch#".to_owned()),
        ("another host", "target", format!("http://axon:{port}/dispatch")),
        ("another port", "target", "http://127.0.0.1:1/dispatch".to_owned()),
        ("no port", "target", "http://127.0.0.1/dispatch".to_owned()),
        ("user", "target", format!("http://user@{authority}/dispatch")),
        ("user and password", "target", format!("http://user:password@{authority}/dispatch")),
        ("absolute without a path", "target", format!("http://{authority}")),
        ("absolute with a query alone", "target", format!("http://{authority}?/dispatch")),
        ("absolute without an authority", "target", "http:///dispatch".to_owned()),
        ("one slash", "target", format!("http:/{authority}/dispatch")),
        ("no scheme", "target", format!("://{authority}/dispatch")),
        ("another scheme", "target", format!("ftp://{authority}/dispatch")),
        ("absolute with a fragment", "target", format!("http://{authority}/dispatch#x")),
        ("space inside", "target", "/dis patch".to_owned()),
        ("space before", "target", " /dispatch".to_owned()),
        ("space behind", "target", "/dispatch ".to_owned()),
    ] {
        requests.push(flawed(what, field, line(&message, format!("POST {target} HTTP/1.1"))));
    }
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_holds_nothing_but_visible_ascii() {
    let (axon, gateway) = start_plain().await;
    let message = dispatch(&gateway);
    let mut requests = Vec::new();
    for byte in (0..=0xff_u8).filter(|b| !b.is_ascii_graphic() && !matches!(b, b'\r' | b'\n')) {
        for target in
            [[b"/dispatch".as_slice(), &[byte]].concat(), [b"/dispatch?a=".as_slice(), &[byte], b"b"].concat()]
        {
            let raw = line(&message, [b"POST ".as_slice(), &target, b" HTTP/1.1"].concat());
            requests.push(flawed(format!("byte {byte:#04x}"), "target", raw));
        }
    }
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_line_is_method_target_and_a_known_version() {
    let (axon, gateway) = start_plain().await;
    let message = dispatch(&gateway);
    let requests = [
        ("HTTP/2", "version", "POST /dispatch HTTP/2.0"),
        ("HTTP/2 without its minor", "version", "POST /dispatch HTTP/2"),
        ("HTTP/1.2", "version", "POST /dispatch HTTP/1.2"),
        ("HTTP/1.10", "version", "POST /dispatch HTTP/1.10"),
        ("HTTP/01.1", "version", "POST /dispatch HTTP/01.1"),
        ("HTTP/0.9", "version", "POST /dispatch HTTP/0.9"),
        ("lower case", "version", "POST /dispatch http/1.1"),
        ("another protocol", "version", "POST /dispatch ICAP/1.1"),
        ("space behind", "version", "POST /dispatch HTTP/1.1 "),
        ("tab behind", "version", "POST /dispatch HTTP/1.1\t"),
        ("no version", "request", "POST /dispatch"),
        ("no target", "request", "POST HTTP/1.1"),
        ("a word", "request", "POST"),
        ("tabs between", "request", "POST\t/dispatch\tHTTP/1.1"),
        ("an empty line first", "request", "\r\nPOST /dispatch HTTP/1.1"),
        ("no method", "method", " /dispatch HTTP/1.1"),
        ("two spaces", "target", "POST  /dispatch HTTP/1.1"),
        ("parenthesis in the method", "method", "PO(ST /dispatch HTTP/1.1"),
        ("quoted method", "method", "\"POST\" /dispatch HTTP/1.1"),
        ("colon in the method", "method", "POST: /dispatch HTTP/1.1"),
        ("NUL in the method", "method", "PO\0ST /dispatch HTTP/1.1"),
        ("obs-text in the method", "method", "POST\u{e9} /dispatch HTTP/1.1"),
        ("HTTP/2's preface", "version", "PRI * HTTP/2.0"),
        ("a TLS hello", "request", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03"),
    ];
    let requests = requests.map(|(what, field, with)| flawed(what, field, line(&message, with)));
    refuses_each(&axon, &gateway, requests.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tunnelled_and_nothing_is_upgraded() {
    let (axon, gateway) = start_plain().await;
    let (message, authority) = (dispatch(&gateway), gateway.authority());
    let mut requests = Vec::new();
    for target in [authority.clone(), "/dispatch".to_owned(), format!("http://{authority}/dispatch")] {
        requests.push(flawed("CONNECT", "method", line(&message, format!("CONNECT {target} HTTP/1.1"))));
    }
    for fields in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "upgrade: TLS/1.0",
        "UPGRADE: a, b",
        "Upgrade:",
    ] {
        requests.push(flawed("Upgrade", "upgrade", plus(&message, fields)));
    }
    requests.push(flawed("unknown expectation", "expect", plus(&message, "Expect: tea")));
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_exactly_one_valid_host() {
    let (axon, gateway) = start_plain().await;
    let (message, authority) = (dispatch(&gateway), gateway.authority());
    let own = format!("Host: {authority}\r\n");
    let with = |fields: &[u8]| swap(&message, &own, fields);
    let mut requests = vec![
        flawed("no Host", "host", with(b"")),
        flawed("the same Host twice", "host", plus(&message, format!("Host: {authority}"))),
        flawed("another Host behind", "host", plus(&message, "host: axon")),
        flawed("another Host before", "host", with(format!("HOST: axon\r\n{own}").as_bytes())),
        flawed("an empty second Host", "host", plus(&message, "Host:")),
        flawed("no Host in HTTP/1.0", "host", b"GET /health HTTP/1.0\r\n\r\n".to_vec()),
    ];
    // One per word.
    let words = r#":80 a: a:b a:+80 a:-1 a:65536 a:99999999999999999999 a:80:80 a,b a;b a/ / a?b a#b a\b user@a
        user:password@a @ http://a a%41 "a" <a> a|b a! a$ a&b a'b a* * a=b (a) ::1 [::1 [] [:] [::g] [::1]a [::1]:
        [::1]:a [::1]:65536 [127.0.0.1] [v1.a] [fe80::1%25lo] [[::1]] a]"#;
    let long = "a".repeat(256);
    for value in words.split_whitespace().chain(["", " ", "a b", "a, a", "a\tb", "\u{e9}", &long]) {
        requests.push(flawed("invalid Host", "host", with(format!("Host: {value}\r\n").as_bytes())));
    }
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_is_plain_digits_and_stands_alone() {
    let (axon, gateway) = start_plain().await;
    let (message, in_chunks) = (dispatch(&gateway), chunked_dispatch(&gateway));
    let n = BODY.len();
    let own = format!("Content-Length: {n}\r\n");
    let mut requests = Vec::new();
    for value in [
        String::new(),
        format!("+{n}"),
        format!("-{n}"),
        format!("{n:#x}"),
        format!("{n:x}h"),
        format!("{n}.0"),
        format!("{n}a"),
        format!("{n},{n}"),
        format!("{n}, {n}"),
        format!("{n},"),
        format!(",{n}"),
        format!("{n} {n}"),
        format!("{n}\t{n}"),
        format!("{n};a"),
        format!("\"{n}\""),
        "8_1".to_owned(),
        "1e2".to_owned(),
        "chunked".to_owned(),
        "\u{661}".to_owned(),
        "9".repeat(19),
        u64::MAX.to_string(),
        (u128::from(u64::MAX) + 1 + n as u128).to_string(),
        "9".repeat(400),
    ] {
        requests.push(flawed("length", "content-length", swap(&message, &own, format!("Content-Length: {value}\r\n"))));
    }
    for more in [format!("Content-Length: {n}"), "content-length: 0".to_owned(), "CONTENT-LENGTH:".to_owned()] {
        requests.push(flawed("two lengths", "content-length", plus(&message, more)));
    }
    requests.push(flawed("length and coding", "content-length", plus(&message, "Transfer-Encoding: chunked")));
    requests.push(flawed("coding and length", "content-length", plus(&in_chunks, format!("Content-Length: {n}"))));
    requests.push(flawed("coding and no length", "content-length", plus(&in_chunks, "Content-Length: 0")));
    let both = format!("transfer-encoding: Chunked\r\n{own}");
    requests.push(flawed("coding before length", "content-length", swap(&message, &own, both)));
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_transfer_coding_is_one_chunked() {
    let (axon, gateway) = start_plain().await;
    let message = chunked_dispatch(&gateway);
    let own = "Transfer-Encoding: chunked\r\n";
    let mut requests = Vec::new();
    for fields in [
        "Transfer-Encoding:",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: trailers",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked x",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: x-chunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chun\tked",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: gzip",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:",
    ] {
        requests.push(flawed("coding", "transfer-encoding", swap(&message, own, format!("{fields}\r\n"))));
    }
    requests.push(flawed("chunks in HTTP/1.0", "transfer-encoding", swap(&message, "HTTP/1.1", "HTTP/1.0")));
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_is_a_token_a_colon_and_a_value_on_one_line() {
    let (axon, gateway) = start_plain().await;
    let message = dispatch(&gateway);
    let n = BODY.len();
    let mut requests = Vec::new();
    for fields in [
        "A",
        "A B: c",
        ": b",
        " : b",
        "A : b",
        "A\t: b",
        "A\u{b}: b",
        "Host : axon",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        &format!("Content-Length : {n}"),
        " Content-Length: 0",
        "A: b\r\n c",
        "A: b\r\n\tc",
        "A:\r\n b",
        "A: b\r\n \r\nC: d",
        "A: b\r\n ",
        "X\r\n: b",
    ] {
        requests.push(flawed("field", "header", plus(&message, fields)));
    }
    requests.push(flawed("folded request line", "header", line(&message, "POST /dispatch HTTP/1.1\r\n A: b")));
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    for byte in (0..=0xff_u8).filter(|b| !token(*b) && !b":\r\n".contains(b)) {
        let raw = plus(&message, [b"A".as_slice(), &[byte], b"B: c"].concat());
        requests.push(flawed(format!("name with {byte:#04x}"), "header", raw));
    }
    for byte in (0..0x20_u8).chain([0x7f]).filter(|b| !b"\t\r\n".contains(b)) {
        let raw = plus(&message, [b"A: b".as_slice(), &[byte], b"c"].concat());
        requests.push(flawed(format!("value with {byte:#04x}"), "header", raw));
        let raw = plus(&message, [b"A: b".as_slice(), &[byte]].concat());
        requests.push(flawed(format!("value before {byte:#04x}"), "header", raw));
    }
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_ends_in_crlf_and_in_nothing_else() {
    let (axon, gateway) = start_plain().await;
    let message = dispatch(&gateway);
    let head = String::from_utf8(message.head.clone()).unwrap();
    let with = |head: String| [head.as_bytes(), &message.body].concat();
    let lines = head.trim_end();
    let requests = vec![
        flawed("LF behind the request line", "header", with(head.replacen("\r\n", "\n", 1))),
        flawed("LF behind a field", "header", plus(&message, "A: b\nC: d")),
        flawed("LF behind the last field", "header", with(format!("{lines}\n\r\n"))),
        flawed("LF as the blank line", "header", with(format!("{lines}\r\n\n"))),
        flawed("two LF as the end", "header", with(format!("{lines}\n\n"))),
        flawed("LF everywhere", "header", with(head.replace("\r\n", "\n"))),
        flawed("LF first", "header", with(format!("\n{head}"))),
        flawed("CR behind a field", "header", plus(&message, "A: b\rC: d")),
        flawed("CR in a value", "header", plus(&message, "A: b\rc")),
        flawed("CR before a value", "header", plus(&message, "A:\r b")),
        flawed("CR CR LF", "header", plus(&message, "A: b\r")),
        flawed("CR in the request line", "header", line(&message, "POST /dispatch\r HTTP/1.1")),
        flawed("CR as space", "header", line(&message, "POST /dispatch HTTP/1.1\rA: b")),
        flawed("LF in the target", "header", line(&message, "POST /dispatch\n HTTP/1.1")),
    ];
    refuses_each(&axon, &gateway, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sloppy_chunks_are_refused_however_they_come() {
    let (axon, gateway) = start_plain().await;
    let head = sign(&gateway, gateway.dispatch(SHORT).chunked(&[])).head;
    let n = SHORT.len();
    let (size, short, long) = (format!("{n:x}"), format!("{:x}", n - 1), format!("{:x}", n + 1));
    let end = "\r\n0\r\n\r\n";
    let shapes = [
        ("LF behind a size", format!("{size}\n{SHORT}{end}")),
        ("LF behind data", format!("{size}\r\n{SHORT}\n0\r\n\r\n")),
        ("LF behind the last size", format!("{size}\r\n{SHORT}\r\n0\n\r\n")),
        ("LF at the end", format!("{size}\r\n{SHORT}\r\n0\r\n\n")),
        ("LF everywhere", format!("{size}\n{SHORT}\n0\n\n")),
        ("CR behind a size", format!("{size}\r{SHORT}{end}")),
        ("CR CR LF behind a size", format!("{size}\r\r\n{SHORT}{end}")),
        ("CR behind data", format!("{size}\r\n{SHORT}\r0\r\n\r\n")),
        ("space before a size", format!(" {size}\r\n{SHORT}{end}")),
        ("space behind a size", format!("{size} \r\n{SHORT}{end}")),
        ("tab behind a size", format!("{size}\t\r\n{SHORT}{end}")),
        ("space before an extension", format!("{size} ;a\r\n{SHORT}{end}")),
        ("space behind the last size", format!("{size}\r\n{SHORT}\r\n0 \r\n\r\n")),
        ("plus", format!("+{size}\r\n{SHORT}{end}")),
        ("minus", format!("-{size}\r\n{SHORT}{end}")),
        ("minus zero", format!("{size}\r\n{SHORT}\r\n-0\r\n\r\n")),
        ("0x", format!("0x{size}\r\n{SHORT}{end}")),
        ("h", format!("{size}h\r\n{SHORT}{end}")),
        ("underscore", format!("0_{size}\r\n{SHORT}{end}")),
        ("quotes", format!("\"{size}\"\r\n{SHORT}{end}")),
        ("NUL behind a size", format!("{size}\0\r\n{SHORT}{end}")),
        ("no size", format!("\r\n{SHORT}{end}")),
        ("an extension and no size", format!(";a=b\r\n{SHORT}{end}")),
        ("an empty line first", format!("\r\n{size}\r\n{SHORT}{end}")),
        ("not chunked at all", format!("{SHORT}\r\n\r\n")),
        ("a size that is one short", format!("{short}\r\n{SHORT}{end}")),
        ("a size that is one long", format!("{long}\r\n{SHORT}{end}")),
        ("a size that takes the CRLF", format!("{:x}\r\n{SHORT}{end}", n + 2)),
        ("no CRLF behind data", format!("{size}\r\n{SHORT}0\r\n\r\n")),
        ("two CRLF behind data", format!("{size}\r\n{SHORT}\r\n\r\n0\r\n\r\n")),
        ("16 digits", format!("{n:016x}\r\n{SHORT}{end}")),
        ("a size that overflows 64 bits", format!("1{n:016x}\r\n{SHORT}{end}")),
        ("a size that overflows 32 bits into the digits", format!("ffffffff{n:08x}\r\n{SHORT}{end}")),
        ("LF in an extension", format!("{size};a\nb\r\n{SHORT}{end}")),
        ("CR in an extension", format!("{size};a\rb\r\n{SHORT}{end}")),
        ("NUL in an extension", format!("{size};a\0\r\n{SHORT}{end}")),
        ("an endless extension", format!("{size};{}\r\n{SHORT}{end}", "a".repeat(2 * KIB))),
        ("extensions without end", format!("1;{}\r\n{{\r\n", "a".repeat(100)).repeat(30)),
        ("a trailer that begins with a space", format!("{size}\r\n{SHORT}\r\n0\r\n A: b\r\n\r\n")),
        ("a folded trailer", format!("{size}\r\n{SHORT}\r\n0\r\nA: b\r\n c\r\n\r\n")),
        ("a trailer without a name", format!("{size}\r\n{SHORT}\r\n0\r\n: b\r\n\r\n")),
        ("LF behind a trailer", format!("{size}\r\n{SHORT}\r\n0\r\nA: b\n\r\n")),
        ("NUL in a trailer", format!("{size}\r\n{SHORT}\r\n0\r\nA: \0\r\n\r\n")),
        ("endless trailers", format!("{size}\r\n{SHORT}\r\n0\r\n{}\r\n", "A: b\r\n".repeat(2 * KIB))),
    ];
    for (what, body) in shapes {
        let short_enough = body.len() < 200;
        for way in ["with the head", "behind the head", "byte by byte"] {
            println!("{what}, {way}: {}", body.escape_debug());
            let mut client = Client::connect(gateway.addr()).await;
            match way {
                "with the head" => drop(client.offer([head.as_slice(), body.as_bytes()].concat()).await),
                "behind the head" => {
                    client.trickle(&head, head.len(), PACE).await;
                    client.offer(&body).await;
                }
                _ if short_enough => {
                    client.send(&head).await;
                    client.trickle(&body, 1, PACE).await;
                }
                _ => continue,
            }
            is_refused(&mut client, "transfer-encoding").await;
        }
    }
    assert!(axon.requests().is_empty(), "reached Axon: {:#?}", axon.requests());
}

// What is accepted.

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_legal_chunks_are_accepted_however_they_come() {
    let (axon, gateway) = start_plain().await;
    let head = sign(&gateway, gateway.dispatch(SHORT).chunked(&[])).head;
    let n = SHORT.len();
    let bytewise: Vec<u8> = SHORT.bytes().flat_map(|b| chunk([b])).collect();
    let (first, rest) = SHORT.split_at(10);
    let shapes: [Vec<u8>; 9] = [
        format!("{n:X}\r\n{SHORT}\r\n0\r\n\r\n").into(),
        format!("{n:015x}\r\n{SHORT}\r\n000\r\n\r\n").into(),
        format!("{n:x};\r\n{SHORT}\r\n0\r\n\r\n").into(),
        format!("{n:x};a=b;c=\"d;e\\\" f\"\r\n{SHORT}\r\n0;last\r\n\r\n").into(),
        format!("a\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n", n - 10).into(),
        format!("{n:x}\r\n{SHORT}\r\n0\r\nX-Trailer: a\r\n\r\n").into(),
        format!("{n:x}\r\n{SHORT}\r\n0\r\nHost: axon\r\nContent-Length: 3\r\nX-Empty:\r\n\r\n").into(),
        format!("{n:x}\r\n{SHORT}\r\n0\r\nX-Obs: \u{e9}\r\n\r\n").into(),
        [bytewise.as_slice(), LAST_CHUNK].concat(),
    ];
    for (count, body) in shapes.iter().enumerate() {
        for bytewise in [false, true] {
            println!("{}, {bytewise}", body.escape_ascii());
            let mut client = Client::connect(gateway.addr()).await;
            if bytewise {
                client.send(&head).await;
                client.trickle(body, 1, PACE).await;
            } else {
                client.send([head.as_slice(), body].concat()).await;
            }
            contract(&client.read_response().await, Kind::Success);
            let seen = axon.requests().pop().unwrap();
            assert_eq!(seen.body, SHORT.as_bytes());
            assert_eq!(seen.header("content-length"), Some(n.to_string().as_str()));
            assert_eq!((seen.header("x-trailer"), seen.header("x-empty")), (None, None));
            // The next request begins where it should.
            contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);
        }
        assert_eq!(axon.requests().len(), 4 * (count + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_with_the_same_authority_is_the_path_behind_it() {
    let (axon, gateway) = start_plain().await;
    let authority = gateway.authority();
    let message = dispatch(&gateway);
    for scheme in ["http", "https", "HTTP"] {
        let raw = line(&message, format!("POST {scheme}://{authority}/dispatch HTTP/1.1"));
        contract(&request(gateway.addr(), raw).await, Kind::Success);
        assert_eq!(axon.requests().pop().unwrap().target, "/dispatch");
    }
    for (target, host) in [
        ("http://a/health", "a"),
        ("http://a:80/health?b", "a:80"),
        ("http://ORBIT.example:8080/health", "orbit.EXAMPLE:8080"),
        ("http://[::1]:80/health", "[::1]:80"),
        ("http://[::FFFF:1.2.3.4]/health", "[::ffff:1.2.3.4]"),
        ("http://a_b~c/health", "a_b~c"),
        ("http://-/health", "-"),
        ("http://a/health?http://b/", "a"),
    ] {
        println!("{target}");
        let raw = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        contract(&request(gateway.addr(), raw).await, Kind::Healthy);
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.throw() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// 1 to `most` bytes of these.
    fn bytes(&mut self, from: &[u8], most: usize) -> Vec<u8> {
        (0..=self.below(most)).map(|_| self.pick(from)).collect()
    }
}

/// A head that is odd in as many ways as the front door allows, its body, and what must come of it.
struct Odd {
    method: String,
    raw: Vec<u8>,
    kind: Kind,
}

impl Odd {
    fn throw(dice: &mut Dice) -> Self {
        let tokens: Vec<u8> =
            (0..=0xff_u8).filter(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)).collect();
        let visible: Vec<u8> = (0x21..=0x7e_u8).filter(|b| *b != b'#').collect();
        let values: Vec<u8> = (0x20..=0x7e_u8).chain(0x80..=0xff).chain(*b"\t").collect();
        let known = ["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"];
        let method = match dice.below(4) {
            0 => String::from_utf8(dice.bytes(&tokens, 20)).unwrap(),
            1 => dice.pick(&["PRI", "connect", "M-SEARCH", "~", "HEADX", "PROPFIND"]).to_owned(),
            _ => dice.pick(&known).to_owned(),
        };
        let path = match dice.below(4) {
            0 => dice.pick(&["/health", "/health/live", "/metrics", "/dispatch"]).to_owned(),
            1 => {
                dice.pick(&["/", "//", "///a", "/..", "/%", "/%zz", "/\"<>\\^`{|}", "/http://b/", "//b@c/"]).to_owned()
            }
            _ => format!("/{}", String::from_utf8(dice.bytes(&visible, 60)).unwrap()),
        };
        let mut target = path.clone();
        if dice.one_in(2) {
            target = format!("{target}?{}", String::from_utf8(dice.bytes(&visible, 60)).unwrap());
        }
        let long = "h".repeat(255);
        let hosts = "a A.b-C_d~e:80 ~ _ - . .. a. 10.0.0.1 999.999.999.999:1 0x7f.1:0 a:00080 [::1] [::1]:443 \
            [::FFFF:1.2.3.4]:65535";
        let hosts: Vec<&str> = hosts.split(' ').chain([long.as_str()]).collect();
        let host = dice.pick(&hosts);
        let version = dice.pick(&["1.1", "1.1", "1.0"]);
        if dice.one_in(8) {
            target = format!("{}://{}{target}", dice.pick(&["http", "https", "hTTp"]), host.to_ascii_uppercase());
        }

        let mut raw = format!("{method} {target} HTTP/{version}\r\n").into_bytes();
        let mut field = |name: &[u8], space: &str, value: &[u8]| {
            raw.extend([name, b":", space.as_bytes(), value, space.as_bytes(), b"\r\n"].concat());
        };
        field(dice.pick(&[b"Host".as_slice(), b"HOST", b"hOsT"]), dice.pick(&["", " ", "\t", " \t "]), host.as_bytes());
        for _ in 0..dice.below(12) {
            let (name, value) = (dice.bytes(&tokens, 30), dice.bytes(&values, 80));
            field(&name, dice.pick(&["", " ", "\t", "  \t"]), &value);
        }
        for _ in 0..dice.below(4) {
            let (name, value) = dice.pick(&[
                ("Connection", "close".as_bytes()),
                ("Connection", b"keep-alive"),
                ("Connection", b"upgrade"),
                ("Connection", b"host, content-length, transfer-encoding"),
                ("Connection", b"\xff"),
                ("Connection", b""),
                ("Keep-Alive", b"timeout=0"),
                ("TE", b"trailers, deflate;q=0.5"),
                ("Trailer", b"Content-Length"),
                ("Accept", b"application/openmetrics-text"),
                ("Accept-Encoding", b"gzip, br"),
                ("Range", b"bytes=0-0"),
                ("If-None-Match", b"*"),
                ("Content-Encoding", b"gzip"),
                ("Content-MD5", b"\xe9"),
                ("Cookie", b"a=b; c"),
                ("X-Correlation-ID", b"\xe9"),
                ("X-Correlation-ID", b"a b"),
                ("X-Correlation-ID", b"fine.id-1"),
                ("X-Request-ID", b"mine"),
                ("X-Forwarded-For", b", ,\xff"),
                ("X-HTTP-Method-Override", b"CONNECT"),
                ("Proxy-Connection", b"keep-alive"),
                ("Sec-WebSocket-Key", b"a"),
                ("HTTP2-Settings", b"AAMAAABkAAQAAP__"),
                ("Content_Length", b"7"),
                ("Transfer_Encoding", b"chunked"),
                ("X-Amz-Meta", b"a"),
            ]);
            field(name.as_bytes(), " ", value);
        }
        let (name, value, body): (&str, &str, &[u8]) = match dice.below(7) {
            0 => ("Content-Length", "0", b""),
            1 => ("content-length", "0000003", b"abc"),
            2 => ("CONTENT-LENGTH", "3", b"abc"),
            3 if version == "1.1" => ("Transfer-Encoding", "chunked", b"3\r\nabc\r\n0\r\n\r\n"),
            4 if version == "1.1" => ("TRANSFER-ENCODING", "CHUNKED", b"0\r\n\r\n"),
            5 => ("Expect", "100-Continue", b""),
            _ => ("X", "", b""),
        };
        field(name.as_bytes(), " ", value.as_bytes());
        raw.extend([b"\r\n", body].concat());

        // Paths end at their first `?`, wherever it came from.
        let kind = match (path.split('?').next().unwrap(), method.as_str()) {
            ("/health", "GET" | "HEAD") => Kind::Healthy,
            ("/health/live", "GET") => Kind::Live,
            ("/metrics", "GET") => Kind::Metrics,
            ("/dispatch", "POST") if has_bad_escape(&target) => Kind::Error("INVALID_REQUEST"),
            ("/dispatch", "POST") => Kind::Error("MISSING_AUTHORIZATION"),
            ("/health" | "/health/live" | "/metrics" | "/dispatch", _) => Kind::Error("METHOD_NOT_ALLOWED"),
            _ => Kind::Error("NOT_FOUND"),
        };
        Self { method, raw, kind }
    }
}

/// Whether some `%` is not followed by two hexadecimal digits.
fn has_bad_escape(target: &str) -> bool {
    target.split('%').skip(1).any(|rest| !rest.bytes().chain(*b"--").take(2).all(|b| b.is_ascii_hexdigit()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_let_in_is_answered_by_orbit_itself() {
    let (axon, gateway) = start_plain().await;
    let mut dice = Dice(1);
    for count in 0..1500 {
        let odd = Odd::throw(&mut dice);
        println!("{count}: {}", odd.raw.escape_ascii());
        let mut client = Client::connect(gateway.addr()).await;
        client.send(&odd.raw).await;
        let response = client.read_response_to(&odd.method).await;
        contract(&response, odd.kind);
        if response.header("connection") == Some("close") {
            assert_eq!(client.closed().await, Ending::Finished);
        } else {
            // The next request begins where it should.
            contract(&ask(&mut client, "GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Live);
        }
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_visible_character_may_stand_in_a_target() {
    let (axon, gateway) = start_plain().await;
    for byte in (0x21..=0x7e_u8).map(char::from).filter(|c| *c != '#') {
        println!("{byte}");
        let path = format!("GET /{byte} HTTP/1.1\r\nHost: a\r\n\r\n");
        contract(&request(gateway.addr(), path).await, Kind::Error("NOT_FOUND"));
        let query = format!("GET /health?{byte}={byte} HTTP/1.1\r\nHost: a\r\n\r\n");
        contract(&request(gateway.addr(), query).await, Kind::Healthy);
    }
    assert!(axon.requests().is_empty());
}

// Routes.

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_compared_byte_for_byte() {
    let (axon, gateway) = start_plain().await;
    // One per word.
    let paths = r"/ // /dispatch/ //dispatch /DISPATCH /Dispatch /%64ispatch /dispatc%68 /dispatch%20 /dispatch%00
        /dispatch%3F /dispatch;a=b /dispatch&a /dispatch.json /dispatch\ /./dispatch /a/../dispatch /../dispatch
        /dispatch/. /dispatch/.. /v1/dispatch /dispatch/dispatch /dispatchx /dispatc /health/ //health /Health
        /%68ealth /health/live/ /health//live /health%2Flive /health/LIVE /health/ready /healthz /metrics/ /Metrics
        /metric /favicon.ico /?/dispatch /:/dispatch";
    for path in paths.split_whitespace() {
        for method in ["POST", "GET", "HEAD"] {
            println!("{method} {path}");
            let raw = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            contract(&request(gateway.addr(), raw).await, Kind::Error("NOT_FOUND"));
        }
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_no_part_of_the_path() {
    let (axon, gateway) = start_plain().await;
    for (target, kind) in [
        ("/health?", Kind::Healthy),
        ("/health?a=/dispatch", Kind::Healthy),
        ("/health/live?a?b", Kind::Live),
        ("/metrics?name=a", Kind::Metrics),
        ("/dispatch?a", Kind::Error("METHOD_NOT_ALLOWED")),
        ("/health%3Fa", Kind::Error("NOT_FOUND")),
    ] {
        println!("{target}");
        let raw = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        contract(&request(gateway.addr(), raw).await, kind);
    }
    let signed = Signed::post(gateway.authority(), "/dispatch?b=2&a=1&a=/health", BODY);
    contract(&gateway.send(signed).await, Kind::Success);
    assert_eq!(axon.request().target, "/dispatch", "the target that Axon gets is Orbit's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_path_tells_which_methods_it_has() {
    let (axon, gateway) = start_plain().await;
    let methods =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "post", "PosT", "GETX", "!"];
    for (path, allow) in [("/dispatch", "POST"), ("/health", "GET, HEAD"), ("/health/live", "GET"), ("/metrics", "GET")]
    {
        for method in methods.into_iter().filter(|m| !allow.split(", ").any(|allowed| allowed == *m)) {
            println!("{method} {path}");
            let raw = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            let response = request(gateway.addr(), raw).await;
            contract(&response, Kind::Error("METHOD_NOT_ALLOWED"));
            assert_eq!(response.header("allow"), Some(allow));
        }
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn head_of_health_is_its_head_alone() {
    let (_axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    let get = ask(&mut client, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    contract(&get, Kind::Healthy);
    let head = ask(&mut client, "HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    contract(&head, Kind::Healthy);
    assert_eq!(head.header("content-length"), get.header("content-length"));
    // Had a body followed, it would be read here as the next answer.
    contract(&ask(&mut client, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_on_health_is_not_looked_at() {
    let (_axon, gateway) = start_plain().await;
    let scope = "AKIDEXAMPLE/20150830/us-east-1/execute-api/aws4_request";
    for (path, kind) in [("/health", Kind::Healthy), ("/health/live", Kind::Live), ("/metrics", Kind::Metrics)] {
        for fields in [
            "Authorization: nonsense".to_owned(),
            "Authorization:\r\nAuthorization: \u{e9}".to_owned(),
            format!("Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={:064}", 0),
            "X-Amz-Date: never\r\nX-Amz-Security-Token: a\r\nX-Amz-Content-Sha256: b".to_owned(),
        ] {
            println!("{path} {fields}");
            let raw = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            contract(&request(gateway.addr(), raw).await, kind);
        }
        let raw = format!("GET {path}?X-Amz-Signature=a&X-Amz-Algorithm=%zz HTTP/1.1\r\nHost: a\r\n\r\n");
        contract(&request(gateway.addr(), raw).await, kind);
    }
}

// How large a head may be.

/// A request of `/health/live` whose head has exactly so many bytes.
fn head_of(bytes: usize) -> Vec<u8> {
    let (begin, end) = ("GET /health/live HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n");
    format!("{begin}{}{end}", "x".repeat(bytes - begin.len() - end.len())).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_be_as_large_as_configured_and_no_larger() {
    for (configured, limit) in [("1KiB", KIB), ("16KiB", 16 * KIB), ("64KiB", 64 * KIB)] {
        let (_axon, gateway) = start(&format!("header_bytes: {configured}")).await;
        for (bytes, kind) in [
            (limit - 1, Kind::Live),
            (limit, Kind::Live),
            (limit + 1, Kind::Error("HEADERS_TOO_LARGE")),
            (limit + 2, Kind::Error("HEADERS_TOO_LARGE")),
            (2 * limit, Kind::Error("HEADERS_TOO_LARGE")),
        ] {
            for pieces in [1, 7] {
                println!("{bytes} bytes of {configured} in {pieces} pieces");
                let mut client = Client::connect(gateway.addr()).await;
                client.trickle(head_of(bytes), bytes.div_ceil(pieces), PACE).await;
                contract(&client.read_response_to("GET").await, kind);
                if kind == Kind::Live {
                    contract(&ask(&mut client, head_of(limit)).await, Kind::Live);
                } else {
                    assert_eq!(client.closed().await, Ending::Finished);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_refused_as_soon_as_it_is_too_large() {
    let (_axon, gateway) = start_plain().await;
    for (code, raw) in [
        ("HEADERS_TOO_LARGE", format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "A: b\r\n".repeat(4 * KIB))),
        ("HEADERS_TOO_LARGE", format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "b".repeat(20 * KIB))),
        ("URI_TOO_LONG", format!("GET /{}", "a".repeat(20 * KIB))),
        ("URI_TOO_LONG", "x".repeat(20 * KIB)),
    ] {
        let mut client = Client::connect(gateway.addr()).await;
        client.offer(raw).await;
        contract(&client.read_response().await, Kind::Error(code));
        assert_eq!(client.closed().await, Ending::Finished);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_have_128_fields_and_no_more() {
    let (_axon, gateway) = start_plain().await;
    for (fields, kind) in [(127, Kind::Live), (128, Kind::Live), (129, Kind::Error("HEADERS_TOO_LARGE"))] {
        println!("{fields}");
        let more = "A: b\r\n".repeat(fields - 1);
        let raw = format!("GET /health/live HTTP/1.1\r\nHost: a\r\n{more}\r\n");
        let mut client = Client::connect(gateway.addr()).await;
        contract(&ask(&mut client, &raw).await, kind);
        if kind != Kind::Live {
            assert_eq!(client.closed().await, Ending::Finished);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_may_have_8192_bytes_and_no_more() {
    let (_axon, gateway) = start_plain().await;
    for (bytes, kind) in [(8191, Kind::Live), (8192, Kind::Live), (8193, Kind::Error("URI_TOO_LONG"))] {
        println!("{bytes}");
        let path = "/health/live?";
        let raw = format!("GET {path}{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - path.len()));
        let mut client = Client::connect(gateway.addr()).await;
        contract(&ask(&mut client, &raw).await, kind);
        if kind != Kind::Live {
            assert_eq!(client.closed().await, Ending::Finished);
        }
    }
}

// How long anything may take.

/// Slower than any deadline configured here, but never slower than a deadline that begins anew at each byte.
const SLOWLY: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_told_so_and_closed() {
    let (_axon, gateway) = start("header_timeout: 200ms, idle_timeout: 1h").await;
    let mut client = Client::connect(gateway.addr()).await;
    contract(&client.read_response().await, Kind::Error("REQUEST_TIMEOUT"));
    assert_eq!(client.closed().await, Ending::Finished);
    drop(client);
    at_rest(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_one_deadline_for_all_of_its_lines() {
    let (axon, gateway) = start("header_timeout: 200ms, idle_timeout: 1h").await;
    let head = format!("POST /dispatch HTTP/1.1\r\nHost: a\r\n{}", "A: b\r\n".repeat(450));
    for first_of_connection in [true, false] {
        let mut client = Client::connect(gateway.addr()).await;
        if !first_of_connection {
            contract(&ask(&mut client, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
        }
        let sent = client.trickle(&head, 6, SLOWLY).await;
        assert!(sent < head.len(), "every line started the deadline anew");
        contract(&client.read_response().await, Kind::Error("REQUEST_TIMEOUT"));
        assert_eq!(client.closed().await, Ending::Finished);
        drop(client);
        at_rest(&gateway).await;
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_one_deadline_for_all_of_its_bytes() {
    let (axon, gateway) = start("body_timeout: 200ms").await;
    let body = padded(450);
    for signed in [gateway.dispatch(&body), gateway.dispatch(&body).chunked(&[300]), gateway.dispatch(&body).declared()]
    {
        let message = sign(&gateway, signed);
        let mut client = Client::connect(gateway.addr()).await;
        client.send(&message.head).await;
        let sent = client.trickle(&message.body, 1, SLOWLY).await;
        assert!(sent < message.body.len(), "every byte started the deadline anew");
        contract(&client.read_response().await, Kind::Error("REQUEST_TIMEOUT"));
        assert_eq!(client.closed().await, Ending::Finished);
        drop(client);
        at_rest(&gateway).await;
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_asked_for_and_never_comes_has_a_deadline_too() {
    let (axon, gateway) = start("body_timeout: 200ms").await;
    let mut client = Client::connect(gateway.addr()).await;
    client.send(sign(&gateway, gateway.dispatch(BODY).expect_continue()).head).await;
    assert_eq!(client.read_interim().await.status, 100);
    contract(&client.read_response().await, Kind::Error("REQUEST_TIMEOUT"));
    assert_eq!(client.closed().await, Ending::Finished);
    drop(client);
    at_rest(&gateway).await;
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_without_a_word() {
    let (_axon, gateway) = start("idle_timeout: 200ms, header_timeout: 1h").await;
    let mut client = Client::connect(gateway.addr()).await;
    contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);
    assert_eq!(gateway.metric("orbit_connections"), 1.0);
    assert_eq!(client.closed().await, Ending::Finished);
    drop(client);
    at_rest(&gateway).await;
}

// How many at once.

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_and_closed() {
    let (_axon, gateway) = start("connections: 2").await;
    let live = "GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = Client::connect(gateway.addr()).await;
    contract(&ask(&mut first, live).await, Kind::Live);
    let mut second = Client::connect(gateway.addr()).await;
    contract(&ask(&mut second, live).await, Kind::Live);

    let mut third = Client::connect(gateway.addr()).await;
    let answer = contract(&third.read_response().await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(answer["details"]["issue"], "overload");
    assert_eq!(third.closed().await, Ending::Finished);
    drop(third);

    contract(&ask(&mut first, live).await, Kind::Live);
    drop(first);
    gauges(&gateway, 1.0, 0.0).await;
    assert_eq!(gateway.metric(r#"orbit_overload_total{bound="connections"}"#), 1.0);
    let mut fourth = Client::connect(gateway.addr()).await;
    contract(&ask(&mut fourth, live).await, Kind::Live);
}

/// On one thread, which makes what this test yields for a turn of the gateway's event loop.
#[tokio::test]
async fn of_many_requests_that_are_there_at_once_32_begin_in_a_turn() {
    const MANY: usize = 200;
    let (axon, gateway) = start_plain().await;
    let gate = axon.hold();
    let raw = dispatch(&gateway).bytes();
    let mut kept = Vec::new();
    for _ in 0..MANY {
        let mut client = Client::connect(gateway.addr()).await;
        contract(&ask(&mut client, "GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Live);
        kept.push(client);
    }
    // Without a yield, so that all are there before the gateway sees the first.
    tokio::task::unconstrained(async {
        for client in &mut kept {
            client.send(&raw).await;
        }
    })
    .await;
    all_begin(&gateway, 0, MANY).await;
    let fresh: Vec<_> = (0..MANY)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(gateway.addr()).unwrap();
            std::io::Write::write_all(&mut stream, &raw).unwrap();
            stream
        })
        .collect();
    all_begin(&gateway, MANY, MANY).await;
    gate.release();
    for client in &mut kept {
        contract(&client.read_response().await, Kind::Success);
    }
    drop((kept, fresh));
    at_rest(&gateway).await;
}

/// Waits until as many more requests have begun, and sees that no more than 32 do in one turn.
async fn all_begin(gateway: &Gateway, before: usize, more: usize) {
    let in_flight = || gateway.metric("orbit_in_flight_requests") as usize;
    let mut begun = before;
    within(async {
        while begun < before + more {
            tokio::task::yield_now().await;
            let now = in_flight();
            assert!(now - begun <= 32, "{begun} and then {now}");
            begun = now;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dispatch_too_many_is_told_so_and_may_try_again() {
    let (axon, gateway) = start("in_flight: 1").await;
    let gate = axon.hold();
    let mut first = Client::connect(gateway.addr()).await;
    first.send(dispatch(&gateway).bytes()).await;
    gate.reached(1).await;

    let mut second = Client::connect(gateway.addr()).await;
    let answer = contract(&ask(&mut second, dispatch(&gateway).bytes()).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(answer["details"]["issue"], "overload");
    contract(&ask(&mut second, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
    assert_eq!(gateway.metric(r#"orbit_overload_total{bound="in_flight"}"#), 1.0);

    gate.release();
    contract(&first.read_response().await, Kind::Success);
    gauges(&gateway, 2.0, 0.0).await;
    contract(&ask(&mut second, dispatch(&gateway).bytes()).await, Kind::Success);
    assert_eq!(axon.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_however_a_dispatch_ends() {
    let (axon, gateway) = start("in_flight: 1, body_bytes: 1KiB, body_timeout: 100ms").await;
    let small = sign(&gateway, gateway.dispatch(BODY));
    for round in ["unsigned", "too large", "too slow", "sloppy", "denied", "no JSON", "left while sending"] {
        println!("{round}");
        let mut client = Client::connect(gateway.addr()).await;
        match round {
            "unsigned" => {
                let raw = "POST /dispatch HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1";
                contract(&ask(&mut client, raw).await, Kind::Error("MISSING_AUTHORIZATION"));
            }
            "too large" => {
                let message = sign(&gateway, gateway.dispatch(padded(2000)).chunked(&[]));
                contract(&ask(&mut client, message.bytes()).await, Kind::Error("PAYLOAD_TOO_LARGE"));
            }
            "too slow" => {
                contract(&ask(&mut client, &small.head).await, Kind::Error("REQUEST_TIMEOUT"));
            }
            "sloppy" => {
                let raw = [chunked_dispatch(&gateway).head.as_slice(), b"x"].concat();
                contract(&ask(&mut client, raw).await, Kind::Error("INVALID_REQUEST"));
            }
            "denied" => {
                let message = sign(&gateway, gateway.dispatch(r#"{"intent":"other"}"#));
                contract(&ask(&mut client, message.bytes()).await, Kind::Denied);
            }
            "no JSON" => {
                let message = sign(&gateway, gateway.dispatch("?"));
                contract(&ask(&mut client, message.bytes()).await, Kind::Error("INVALID_REQUEST"));
            }
            _ => client.send(&small.head).await,
        }
        drop(client);
        at_rest(&gateway).await;
        contract(&small.send(gateway.addr()).await, Kind::Success);
        at_rest(&gateway).await;
    }
    assert_eq!(axon.requests().len(), 7);
}

// Bodies.

/// A dispatch of exactly so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let mut body = BODY.as_bytes().to_vec();
    assert!(body.len() <= bytes);
    body.resize(bytes, b' ');
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_reaches_axon_as_it_was_sent_however_it_was_framed() {
    let (axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    for bytes in [BODY.len(), 4 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 1024 * KIB - 1, 1024 * KIB] {
        let body = padded(bytes);
        let plain = gateway.dispatch(&body);
        let signed = [
            ("fixed", plain.clone()),
            ("fixed, declared", plain.clone().declared()),
            ("one chunk", plain.clone().chunked(&[])),
            ("one chunk, declared", plain.clone().declared().chunked(&[])),
            ("small and large chunks", plain.clone().chunked(&[1, 2, 3, 5, 8, 13, 4096, 1, 8191, 1])),
            ("chunks of one byte", plain.clone().chunked(&[1; 3000])),
            ("64 KiB and the rest", plain.clone().chunked(&[64 * KIB])),
            ("all but a byte", plain.clone().chunked(&[bytes - 1])),
        ];
        for (how, signed) in signed {
            println!("{bytes} bytes, {how}");
            contract(&ask(&mut client, sign(&gateway, signed).bytes()).await, Kind::Success);
            let seen = axon.requests().pop().unwrap();
            assert!(seen.body == body, "{} other bytes", seen.body.len());
            assert_eq!(seen.header("content-length"), Some(bytes.to_string().as_str()));
            assert_eq!(seen.header("transfer-encoding"), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_in_small_pieces_is_still_one() {
    let (axon, gateway) = start_plain().await;
    let body = padded(300);
    for signed in
        [gateway.dispatch(&body), gateway.dispatch(&body).chunked(&[100, 1]), gateway.dispatch(&body).declared()]
    {
        let message = sign(&gateway, signed).bytes();
        for size in [7, 61] {
            let mut client = Client::connect(gateway.addr()).await;
            client.trickle(&message, size, PACE).await;
            contract(&client.read_response().await, Kind::Success);
            assert_eq!(axon.requests().pop().unwrap().body, body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_dispatch_in_it_is_refused_and_the_connection_goes_on() {
    let (axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    for body in ["", " ", "1", "{}", "[]"] {
        for signed in [gateway.dispatch(body), gateway.dispatch(body).chunked(&[])] {
            println!("{body:?}");
            let response = ask(&mut client, sign(&gateway, signed).bytes()).await;
            contract(&response, Kind::Error("INVALID_REQUEST"));
        }
    }
    let bare = sign(&gateway, gateway.dispatch("")).edit("Content-Length: 0\r\n", "");
    contract(&ask(&mut client, bare.bytes()).await, Kind::Error("INVALID_REQUEST"));
    assert!(axon.requests().is_empty());
    contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_as_large_as_configured_and_no_larger() {
    for (configured, limit) in [("1KiB", KIB), ("64KiB", 64 * KIB), ("1100KiB", 1100 * KIB)] {
        let (axon, gateway) = start(&format!("body_bytes: {configured}")).await;
        for chunks in [None, Some(vec![]), Some(vec![1, 900]), Some(vec![limit - 1]), Some(vec![limit])] {
            for (bytes, kind) in [(limit, Kind::Success), (limit + 1, Kind::Error("PAYLOAD_TOO_LARGE"))] {
                println!("{bytes} bytes of {configured} in {chunks:?}");
                let plain = gateway.dispatch(padded(bytes));
                let signed = chunks.iter().fold(plain, |signed, sizes| signed.chunked(sizes));
                contract(&gateway.send(signed).await, kind);
            }
        }
        assert_eq!(axon.requests().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_announces_itself_as_too_large_is_not_waited_for() {
    let (axon, gateway) = start("body_timeout: 1h").await;
    for length in [1024 * KIB + 1, 1 << 32, 999_999_999_999_999_999] {
        println!("{length}");
        let mut client = Client::connect(gateway.addr()).await;
        let head = format!("POST /dispatch HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        contract(&ask(&mut client, head).await, Kind::Error("PAYLOAD_TOO_LARGE"));
        assert_eq!(client.closed().await, Ending::Finished);
    }
    assert!(axon.requests().is_empty());
}

// Expect: 100-continue.

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_asked_is_asked_once_and_answered() {
    let (axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    let large = padded(300 * KIB);
    for signed in [
        gateway.dispatch(BODY),
        gateway.dispatch(BODY).declared(),
        gateway.dispatch(BODY).chunked(&[10]),
        gateway.dispatch(&large),
        gateway.dispatch(&large).chunked(&[1000]),
    ] {
        let message = sign(&gateway, signed.expect_continue());
        client.send(&message.head).await;
        let interim = client.read_interim().await;
        assert_eq!((interim.status, interim.headers.len()), (100, 0));
        client.send(&message.body).await;
        let response = client.read_response().await;
        contract(&response, Kind::Success);
        assert!(response.interim.is_empty(), "asked twice");
        assert_eq!(axon.requests().pop().unwrap().header("expect"), None);
    }
    contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);
    assert_eq!(axon.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_wait_after_all_is_answered_too() {
    let (_axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    for signed in [gateway.dispatch(BODY), gateway.dispatch(BODY).chunked(&[10])] {
        contract(&ask(&mut client, sign(&gateway, signed.expect_continue()).bytes()).await, Kind::Success);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_for_a_body_that_is_refused_unseen() {
    let (axon, gateway) = start("body_bytes: 1KiB").await;
    let own = gateway.dispatch(BODY).expect_continue();
    let mut another = signing();
    another.secret = "another".to_owned();
    for (message, code) in [
        (Message { head: own_unsigned(&gateway), body: Vec::new() }, "MISSING_AUTHORIZATION"),
        (own.clone().declared().sign(&another, gateway.now()), "INVALID_SIGNATURE"),
        (sign(&gateway, own.clone()).edit("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "INVALID_SIGNATURE"),
        (sign(&gateway, gateway.dispatch(padded(2000)).expect_continue()), "PAYLOAD_TOO_LARGE"),
        (
            sign(&gateway, own.clone().without("content-type").header("Content-Type", "text/plain")),
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (sign(&gateway, own.clone()).edit("/dispatch", "/other"), "NOT_FOUND"),
        (sign(&gateway, own.clone()).edit("POST /", "PUT /"), "METHOD_NOT_ALLOWED"),
        (sign(&gateway, own.clone()).edit("HTTP/1.1\r\n", "HTTP/1.1\r\nUpgrade: a\r\n"), "INVALID_REQUEST"),
    ] {
        println!("{code}");
        let mut client = Client::connect(gateway.addr()).await;
        let response = ask(&mut client, &message.head).await;
        contract(&response, Kind::Error(code));
        assert!(response.interim.is_empty(), "asked for a body that nobody wants");
        // Whether the body comes now is anybody's guess, so nothing more can be read from this connection.
        assert_eq!(client.closed().await, Ending::Finished);
    }
    assert!(axon.requests().is_empty());
}

fn own_unsigned(gateway: &Gateway) -> Vec<u8> {
    let host = gateway.authority();
    format!("POST /dispatch HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_for_a_body_that_does_not_exist() {
    let (_axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    let response = ask(&mut client, "GET /health HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").await;
    contract(&response, Kind::Healthy);
    assert!(response.interim.is_empty());
    let response = ask(&mut client, sign(&gateway, gateway.dispatch("").expect_continue()).bytes()).await;
    contract(&response, Kind::Error("INVALID_REQUEST"));
    assert!(response.interim.is_empty());
    // HTTP/1.0 knows no interim answers (RFC 9110, section 10.1.1).
    let old = sign(&gateway, gateway.dispatch(BODY).expect_continue()).edit("HTTP/1.1", "HTTP/1.0");
    let response = ask(&mut client, old.bytes()).await;
    contract(&response, Kind::Success);
    assert!(response.interim.is_empty());
}

// How a connection goes on.

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_every_answer_that_leaves_it_in_order() {
    let (axon, gateway) = start("body_bytes: 1KiB").await;
    let mut another = signing();
    another.secret = "another".to_owned();
    let raw = |line: &str, body: &str| {
        let length = body.len();
        format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    let rounds = [
        ("success", dispatch(&gateway).bytes(), Kind::Success),
        ("unsigned", raw("POST /dispatch", "{}"), Kind::Error("MISSING_AUTHORIZATION")),
        ("unsigned, 60 KiB", raw("GET /nothing", &" ".repeat(60_000)), Kind::Error("NOT_FOUND")),
        (
            "bad signature",
            gateway.dispatch(BODY).sign(&another, gateway.now()).bytes(),
            Kind::Error("INVALID_SIGNATURE"),
        ),
        (
            "bad signature, body unread",
            gateway.dispatch(BODY).declared().sign(&another, gateway.now()).bytes(),
            Kind::Error("INVALID_SIGNATURE"),
        ),
        ("no such route", raw("POST /nothing", "x"), Kind::Error("NOT_FOUND")),
        ("no such method", raw("PUT /dispatch", "x"), Kind::Error("METHOD_NOT_ALLOWED")),
        ("too large", sign(&gateway, gateway.dispatch(padded(2000))).bytes(), Kind::Error("PAYLOAD_TOO_LARGE")),
        (
            "no JSON by name",
            sign(&gateway, gateway.dispatch(BODY).without("content-type").header("Content-Type", "text/plain")).bytes(),
            Kind::Error("UNSUPPORTED_MEDIA_TYPE"),
        ),
        ("no JSON", sign(&gateway, gateway.dispatch("{")).bytes(), Kind::Error("INVALID_REQUEST")),
        ("denied", sign(&gateway, gateway.dispatch(r#"{"intent":"other"}"#)).bytes(), Kind::Denied),
        (
            "denied in chunks",
            sign(&gateway, gateway.dispatch(r#"{"intent":"other"}"#).chunked(&[1])).bytes(),
            Kind::Denied,
        ),
        ("Axon's fault", dispatch(&gateway).bytes(), Kind::Error("INTERNAL_ERROR")),
        ("Axon's absence", dispatch(&gateway).bytes(), Kind::Error("SERVICE_UNAVAILABLE")),
        ("Axon's refusal", dispatch(&gateway).bytes(), Kind::AxonError(422)),
        ("HEAD", raw("HEAD /health", ""), Kind::Healthy),
        ("HEAD of nothing", raw("HEAD /nothing", "x"), Kind::Error("NOT_FOUND")),
        ("a body on health", raw("GET /health", "x"), Kind::Healthy),
        ("live", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Kind::Live),
        ("metrics", b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".to_vec(), Kind::Metrics),
        ("success in chunks", chunked_dispatch(&gateway).bytes(), Kind::Success),
    ];
    axon.next([
        Reply::json(200, "{}"),
        Reply::json(500, "{}"),
        Reply::json(503, "{}"),
        Reply::json(422, r#"{"own":"object"}"#),
    ]);
    let mut client = Client::connect(gateway.addr()).await;
    for (what, raw, kind) in rounds {
        println!("{what}");
        let response = ask(&mut client, raw).await;
        contract(&response, kind);
        assert_ne!(response.header("connection"), Some("close"));
    }
    assert_eq!(axon.requests().len(), 5);
    assert_eq!(gateway.metric("orbit_connections"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_a_limit_refused() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).block("limits", "{ per_ip: { rate: 1/min } }").start().await;
    let mut client = Client::connect(gateway.addr()).await;
    contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);
    for _ in 0..3 {
        contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Error("RATE_LIMIT_EXCEEDED"));
        contract(&ask(&mut client, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
    }
    gateway.clock.advance(Duration::from_secs(61));
    contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_not_worth_reading_ends_the_connection_after_its_answer() {
    let (axon, gateway) = start_plain().await;
    let head = "POST /dispatch HTTP/1.1\r\nHost: a\r\n";
    let large = vec![b'x'; 1000 * KIB];
    for (what, raw) in [
        ("large", [format!("{head}Content-Length: {}\r\n\r\n", large.len()).as_bytes(), &large].concat()),
        ("chunked", format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").into_bytes()),
        (
            "chunked without end",
            [format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), chunk(&large)].concat(),
        ),
    ] {
        println!("{what}");
        let mut client = Client::connect(gateway.addr()).await;
        client.offer(&raw).await;
        let response = client.read_response().await;
        contract(&response, Kind::Error("MISSING_AUTHORIZATION"));
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(client.closed().await, Ending::Finished);
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_has_as_long_as_any_other() {
    let unsigned = |bytes: usize| format!("POST /dispatch HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
    let (_axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    let body = padded(120);
    let response = ask(&mut client, unsigned(body.len())).await;
    contract(&response, Kind::Error("MISSING_AUTHORIZATION"));
    assert_eq!(response.header("connection"), Some("keep-alive"));
    assert_eq!(client.trickle(&body, 1, SLOWLY).await, body.len());
    contract(&ask(&mut client, dispatch(&gateway).bytes()).await, Kind::Success);

    let (_axon, gateway) = start("body_timeout: 100ms").await;
    let mut client = Client::connect(gateway.addr()).await;
    contract(&ask(&mut client, unsigned(body.len())).await, Kind::Error("MISSING_AUTHORIZATION"));
    assert!(client.trickle(&body, 1, SLOWLY).await < body.len());
    assert_eq!(client.closed().await, Ending::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lives_as_long_as_the_client_asked_for() {
    let (_axon, gateway) = start_plain().await;
    let health =
        |version: &str, fields: &str| format!("GET /health HTTP/{version}\r\nHost: a\r\n{fields}\r\n").into_bytes();
    let signed = |version: &str, fields: &str| {
        dispatch(&gateway).edit("HTTP/1.1\r\n", &format!("HTTP/{version}\r\n{fields}")).bytes()
    };
    for (version, fields, goes_on) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: x\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: CLOSE\r\n", false),
        ("1.1", "Connection: x, close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: close\r\n", false),
        ("1.0", "Connection: x\r\n", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: Keep-Alive\r\n", true),
    ] {
        for (raw, kind) in [(health(version, fields), Kind::Healthy), (signed(version, fields), Kind::Success)] {
            println!("{}", raw.escape_ascii());
            let mut client = Client::connect(gateway.addr()).await;
            let response = ask(&mut client, &raw).await;
            contract(&response, kind);
            assert_eq!(response.header("connection"), Some(if goes_on { "keep-alive" } else { "close" }));
            if goes_on {
                contract(&ask(&mut client, &raw).await, kind);
            } else {
                assert_eq!(client.closed().await, Ending::Finished);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_requests_sent_ahead_the_first_is_answered_and_the_rest_are_not_begun() {
    let (axon, gateway) = start_plain().await;
    let health = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let refused = b"POST /dispatch HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}".to_vec();
    let signed = [dispatch(&gateway).bytes(), chunked_dispatch(&gateway).bytes()];
    for (first, kind) in [
        (health.clone(), Kind::Healthy),
        (refused, Kind::Error("MISSING_AUTHORIZATION")),
        (signed[0].clone(), Kind::Success),
        (signed[1].clone(), Kind::Success),
    ] {
        for (second, times) in [(&health, 1), (&signed[0], 1), (&signed[1], 400)] {
            println!("{}", first.escape_ascii());
            let before = axon.requests().len();
            let mut client = Client::connect(gateway.addr()).await;
            client.offer([first.as_slice(), &second.repeat(times)].concat()).await;
            contract(&client.read_response().await, kind);
            assert_eq!(client.closed().await, Ending::Finished);
            assert_eq!(axon.requests().len() - before, usize::from(kind == Kind::Success));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_while_another_waits_for_axon_is_not_begun_and_costs_it_nothing() {
    let (axon, gateway) = start_plain().await;
    let gate = axon.hold();
    let mut client = Client::connect(gateway.addr()).await;
    client.send(dispatch(&gateway).bytes()).await;
    gate.reached(1).await;
    client.send(dispatch(&gateway).bytes()).await;
    // What is answered after it was sent is answered after it was heard.
    for _ in 0..20 {
        contract(&request(gateway.addr(), "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
    }
    gate.release();
    contract(&client.read_response().await, Kind::Success);
    assert_eq!(client.closed().await, Ending::Finished);
    assert_eq!(axon.requests().len(), 1);
}

// How a client leaves.

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_request_at_axon_with_it() {
    let (axon, gateway) = start_plain().await;
    let _gate = axon.hold();
    for (count, way) in ["close", "half-close", "reset"].into_iter().enumerate() {
        println!("{way}");
        let mut client = Client::connect(gateway.addr()).await;
        client.send(dispatch(&gateway).bytes()).await;
        axon.received(count + 1).await;
        assert_eq!(gateway.metric("orbit_in_flight_requests"), 1.0);
        match way {
            "close" => drop(client),
            "reset" => client.reset(),
            _ => {
                client.half_close().await;
                assert_eq!(client.closed().await, Ending::Finished);
            }
        }
        axon.abandoned(count + 1).await;
        gateway.logged(&["REQUEST", "POST /dispatch 499"]).await;
        at_rest(&gateway).await;
    }
    let outcome = format!("orbit_axon_requests_total{{backend={:?},outcome=\"abandoned\"}}", axon.addr().to_string());
    assert_eq!(gateway.metric(&outcome), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_its_request_leaves_nothing_behind() {
    let (axon, gateway) = start_plain().await;
    let plain = dispatch(&gateway);
    let in_chunks = chunked_dispatch(&gateway).bytes();
    let waiting = sign(&gateway, gateway.dispatch(BODY).expect_continue()).head;
    for (what, raw) in [
        ("nothing", Vec::new()),
        ("a byte", b"P".to_vec()),
        ("half a head", plain.head[..plain.head.len() / 2].to_vec()),
        ("all but a byte of the head", plain.head[..plain.head.len() - 1].to_vec()),
        ("a head", plain.head.clone()),
        ("a head and a byte", [plain.head.as_slice(), b"{"].concat()),
        ("all but a byte", plain.bytes()[..plain.bytes().len() - 1].to_vec()),
        ("all but the last LF of the chunks", in_chunks[..in_chunks.len() - 1].to_vec()),
        ("all but the last chunk", in_chunks[..in_chunks.len() - LAST_CHUNK.len()].to_vec()),
        ("a head that waits", waiting),
    ] {
        for reset in [false, true] {
            println!("{what}, {reset}");
            let mut client = Client::connect(gateway.addr()).await;
            client.send(&raw).await;
            if reset {
                client.reset();
            } else {
                client.half_close().await;
                let answer = client.try_read_response_to("POST").await;
                assert!(answer.is_err(), "half a request was answered: {answer:?}");
            }
            // What was not accepted yet is not counted yet; one more request is behind it.
            contract(&request(gateway.addr(), "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
            at_rest(&gateway).await;
        }
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_what_is_in_flight() {
    let (axon, gateway) = start("body_timeout: 1h").await;
    let gate = axon.hold();
    let mut owing = Client::connect(gateway.addr()).await;
    let response = ask(&mut owing, "POST /dispatch HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await;
    contract(&response, Kind::Error("MISSING_AUTHORIZATION"));
    let mut idle = Client::connect(gateway.addr()).await;
    contract(&ask(&mut idle, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
    let mut busy = Client::connect(gateway.addr()).await;
    busy.send(dispatch(&gateway).bytes()).await;
    gate.reached(1).await;

    let orbit = gateway.orbit.clone();
    let closing = tokio::spawn(async move { orbit.close(PATIENCE).await });
    assert_eq!(idle.closed().await, Ending::Finished, "idle connections are closed at once");
    assert_eq!(owing.closed().await, Ending::Finished, "and those that owe a body that nobody reads");
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished(), "closed over a request in flight");
    gate.release();
    let response = busy.read_response().await;
    contract(&response, Kind::Success);
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(busy.closed().await, Ending::Finished);
    assert!(within(closing).await.unwrap(), "everything was finished");
}

// The error table.

/// An answer, and the row of the table that it must be.
struct Row {
    code: &'static str,
    /// `details.issue`, where the table names the possible ones.
    issue: Option<&'static str>,
    response: Response,
}

const CODES: [&str; 14] = [
    "INVALID_REQUEST",
    "MISSING_AUTHORIZATION",
    "INVALID_SIGNATURE",
    "GOVERNANCE_DENIED",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "REQUEST_TIMEOUT",
    "PAYLOAD_TOO_LARGE",
    "URI_TOO_LONG",
    "UNSUPPORTED_MEDIA_TYPE",
    "RATE_LIMIT_EXCEEDED",
    "HEADERS_TOO_LARGE",
    "INTERNAL_ERROR",
    "SERVICE_UNAVAILABLE",
];

const UNAVAILABLE: [&str; 7] = [
    "connect_failed",
    "no_healthy_backend",
    "timeout",
    "upstream_failed",
    "upstream_unavailable",
    "overload",
    "draining",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_error_table() {
    let mut rows = rows_of_the_head().await;
    rows.extend(rows_of_the_signature().await);
    rows.extend(rows_of_the_dispatch().await);
    rows.extend(rows_of_the_limits().await);
    rows.extend(rows_of_axon().await);
    rows.push(row_of_draining().await);

    let (mut codes, mut issues) = (BTreeSet::new(), BTreeSet::new());
    for Row { code, issue, response } in rows {
        println!("{code} {issue:?}");
        let kind = if code == "GOVERNANCE_DENIED" { Kind::Denied } else { Kind::Error(code) };
        let answer = contract(&response, kind);
        if let Some(issue) = issue {
            assert_eq!(answer["details"]["issue"], issue);
        }
        codes.insert(code);
        issues.extend(issue.filter(|_| code == "SERVICE_UNAVAILABLE"));
    }
    assert_eq!(codes, BTreeSet::from(CODES));
    assert_eq!(issues, BTreeSet::from(UNAVAILABLE));
}

fn row(code: &'static str, response: Response) -> Row {
    Row { code, issue: None, response }
}

fn unavailable(issue: &'static str, response: Response) -> Row {
    Row { code: "SERVICE_UNAVAILABLE", issue: Some(issue), response }
}

async fn rows_of_the_head() -> Vec<Row> {
    let (_axon, gateway) = start("header_timeout: 100ms, body_timeout: 100ms").await;
    let send = |raw: String| request(gateway.addr(), raw);
    vec![
        row("INVALID_REQUEST", send("GET / HTTP/1.1\r\n\r\n".to_owned()).await),
        row("NOT_FOUND", send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()).await),
        row("METHOD_NOT_ALLOWED", send("GET /dispatch HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()).await),
        row("URI_TOO_LONG", send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9 * KIB))).await),
        row("HEADERS_TOO_LARGE", send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(17 * KIB))).await),
        row("REQUEST_TIMEOUT", send("GET / HTTP/1.1\r\n".to_owned()).await),
        row("REQUEST_TIMEOUT", request(gateway.addr(), dispatch(&gateway).head).await),
    ]
}

async fn rows_of_the_signature() -> Vec<Row> {
    let (_axon, gateway) = start_plain().await;
    let plain = gateway.dispatch(BODY);
    let (now, hour) = (gateway.now(), Duration::from_secs(3600));
    let [mut region, mut token, mut secret, mut key] = [signing(), signing(), signing(), signing()];
    region.region = "mars-1".to_owned();
    token.token = Some("token".to_owned());
    secret.secret = "another".to_owned();
    key.access_key = "UNKNOWN".to_owned();
    let own = || sign(&gateway, plain.clone());
    let cases = [
        ("malformed", own().edit("Credential=", "Credentials=")),
        ("unsupported_algorithm", own().edit("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")),
        ("unsigned_header", sign(&gateway, plain.clone().unsigned_header("X-Amz-Meta", "a"))),
        ("missing_signed_header", own().edit("x-amz-date,", "x-amz-date;x-missing,")),
        ("wrong_scope", plain.sign(&region, now)),
        ("expired", plain.sign(&signing(), now - hour)),
        ("not_yet_valid", plain.sign(&signing(), now + hour)),
        ("payload_mismatch", sign(&gateway, plain.clone().declared().but_send(BODY.replace("user123", "user124")))),
        ("token_mismatch", plain.sign(&token, now)),
        ("mismatch", plain.sign(&secret, now)),
        ("mismatch", plain.sign(&key, now)),
        ("mismatch", sign(&gateway, plain.clone().but_send(BODY.replace("user123", "user124")))),
    ];
    let unsigned = format!("POST /dispatch HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\n{{}}", gateway.authority());
    let mut rows = vec![row("MISSING_AUTHORIZATION", request(gateway.addr(), unsigned).await)];
    for (issue, message) in cases {
        let response = message.send(gateway.addr()).await;
        rows.push(Row { code: "INVALID_SIGNATURE", issue: Some(issue), response });
    }
    rows
}

async fn rows_of_the_dispatch() -> Vec<Row> {
    let (_axon, gateway) = start("body_bytes: 1KiB").await;
    let plain = gateway.dispatch(BODY);
    vec![
        row("INVALID_REQUEST", gateway.send(gateway.dispatch("{}")).await),
        row("PAYLOAD_TOO_LARGE", gateway.send(gateway.dispatch(padded(2000))).await),
        row("PAYLOAD_TOO_LARGE", gateway.send(gateway.dispatch(padded(2000)).chunked(&[])).await),
        row(
            "UNSUPPORTED_MEDIA_TYPE",
            gateway.send(plain.without("content-type").header("Content-Type", "text/plain")).await,
        ),
        row("GOVERNANCE_DENIED", gateway.send(gateway.dispatch(r#"{"intent":"other"}"#)).await),
    ]
}

async fn rows_of_the_limits() -> Vec<Row> {
    let mut rows = Vec::new();
    for limit in ["per_ip", "global", "governance"] {
        let axon = Axon::start();
        let limits = format!("{{ {limit}: {{ rate: 1/min }} }}");
        let gateway = Setup::new(&[axon.url()]).block("limits", limits).start().await;
        contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Success);
        let code = if limit == "governance" { "GOVERNANCE_DENIED" } else { "RATE_LIMIT_EXCEEDED" };
        rows.push(row(code, gateway.send(gateway.dispatch(BODY)).await));
    }

    let (axon, gateway) = start("in_flight: 1").await;
    let gate = axon.hold();
    let mut held = Client::connect(gateway.addr()).await;
    held.send(dispatch(&gateway).bytes()).await;
    gate.reached(1).await;
    rows.push(unavailable("overload", gateway.send(gateway.dispatch(BODY)).await));

    let (_axon, gateway) = start("connections: 1").await;
    let mut held = Client::connect(gateway.addr()).await;
    contract(&ask(&mut held, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await, Kind::Healthy);
    rows.push(unavailable("overload", Client::connect(gateway.addr()).await.read_response().await));
    rows
}

async fn rows_of_axon() -> Vec<Row> {
    let (axon, gateway) = start_plain().await;
    let mut rows = Vec::new();
    for (issue, reply) in [
        (None, Reply::json(500, r#"{"message":"secret"}"#)),
        (Some("upstream_unavailable"), Reply::new(502)),
        (Some("upstream_unavailable"), Reply::json(503, "{}")),
        (Some("upstream_unavailable"), Reply::typed(504, "text/html", "<p>secret</p>")),
        (Some("upstream_failed"), Reply::hang_up()),
        (Some("upstream_failed"), Reply::raw("").then_reset()),
        (Some("upstream_failed"), Reply::raw("no HTTP\r\n\r\n")),
        (Some("upstream_failed"), Reply::json(200, "{\"a\":1}").cut(3)),
        (Some("upstream_failed"), Reply::switching_protocols()),
    ] {
        axon.next([reply]);
        let response = gateway.send(gateway.dispatch(BODY)).await;
        rows.push(match issue {
            Some(issue) => unavailable(issue, response),
            None => row("INTERNAL_ERROR", response),
        });
    }

    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Success);
    let _gone = axon.stop().await;
    for issue in ["connect_failed", "no_healthy_backend"] {
        rows.push(unavailable(issue, gateway.send(gateway.dispatch(BODY)).await));
    }

    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).upstream(&[axon.url()], "timeouts: { first_byte: 100ms }").start().await;
    axon.next([Reply::hang()]);
    rows.push(unavailable("timeout", gateway.send(gateway.dispatch(BODY)).await));
    rows
}

/// A request whose head was under way when the listeners closed.
async fn row_of_draining() -> Row {
    let (_axon, gateway) = start_plain().await;
    let mut client = Client::connect(gateway.addr()).await;
    let health = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    contract(&ask(&mut client, health).await, Kind::Healthy);
    let message = dispatch(&gateway);
    client.send(&message.head[..1]).await;
    // What is answered after that byte was sent is answered after it was heard.
    for _ in 0..3 {
        contract(&request(gateway.addr(), health).await, Kind::Healthy);
    }
    let (finished, response) = tokio::join!(gateway.orbit.close(PATIENCE), async {
        client.send(&message.bytes()[1..]).await;
        let response = client.read_response().await;
        assert_eq!(client.closed().await, Ending::Finished);
        drop(client);
        response
    });
    assert!(finished);
    unavailable("draining", response)
}

/// Whoever knows a key id can send a body slowly; that must not fill every place.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_strangers_leave_places_for_others() {
    let (_axon, gateway) = start("in_flight: 4, body_timeout: 60s").await;
    let forger = Signing::new(ACCESS_KEY, "not the secret");
    let mut slow = Vec::new();
    for _ in 0..2 {
        let message = gateway.dispatch(BODY).sign(&forger, gateway.now());
        let mut client = Client::connect(gateway.addr()).await;
        client.send(&message.head).await;
        slow.push(client);
    }
    in_flight(&gateway, 2.0).await;

    let message = gateway.dispatch(BODY).sign(&forger, gateway.now());
    let mut one_more = Client::connect(gateway.addr()).await;
    one_more.send(&message.head).await;
    let refused = contract(&one_more.read_response().await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(refused["details"]["issue"], "overload");

    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now());
    let mut honest = Client::connect(gateway.addr()).await;
    honest.send(message.bytes()).await;
    contract(&honest.read_response().await, Kind::Success);
}

async fn in_flight(gateway: &Gateway, requests: f64) {
    within(async {
        while gateway.metric("orbit_in_flight_requests") != requests {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
