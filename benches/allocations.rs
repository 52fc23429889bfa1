//! Allocations per request. The real gateway serves on a runtime of one thread, and that thread alone is counted: Axon,
//! the client and the writer of the log are others. A figure that repeats, unlike a time, so that it can be compared
//! with the recorded one (`benches/load/recorded.json`).
//!
//! The allocator is glibc's under a counter, where Orbit's own is mimalloc: what is asked of it is the same.

#![allow(clippy::expect_used, reason = "a bench that cannot start has nothing to measure")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use allocation_counter::{AllocationInfo, measure};
use orbit::auth::Signer;
use orbit::axon::SystemResolver;
use orbit::clock::SystemClock;
use orbit::gateway::{Orbit, Parts};
use orbit::request::correlation::UuidV7;
use orbit::telemetry::Sink;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const BODY: &str = r#"{"intent":"call_reasoning","context":{"user_id":"user123","request_id":"req456"}}"#;
const ANSWER: &str = r#"{"message":"Axon heartbeat OK","service":"axon","timestamp":"2026-11-22T09:56:51Z"}"#;
const AMPLE: &str = "{ per_ip: { rate: 60000/s }, global: { rate: 1000000/s }, governance: { rate: 1000000/s } }";
/// Every pool, table and cache is as large as it gets.
const WARM: usize = 500;
const COUNTED: usize = 2000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let axon = axon();
    let open = start(&runtime, &folder.path().join("open"), axon, AMPLE);
    let closed = start(&runtime, &folder.path().join("closed"), axon, "{ per_ip: { rate: 1/h } }");
    let signed = |to: SocketAddr, id: &str, secret: &str| {
        dispatch(to, &Signer::new(id, &secret.into(), None, "us-east-1", "execute-api"))
    };
    let (open, closed) = (address(&open), address(&closed));
    let cases = [
        ("dispatch answered", open, signed(open, ID, SECRET), 200),
        ("refused: unknown key", open, signed(open, "AKIDUNKNOWN", SECRET), 401),
        ("refused: wrong signature", open, signed(open, ID, "another secret"), 401),
        ("refused: address over its limit", closed, signed(closed, ID, SECRET), 429),
        ("health", open, format!("GET /health HTTP/1.1\r\nhost: {open}\r\n\r\n").into_bytes(), 200),
    ];
    println!("{:<34}{:>14}{:>14}", "per request", "allocations", "bytes");
    for (name, to, message, status) in cases {
        let counted = count(&runtime, to, message, status);
        let each = |total: u64| total as f64 / COUNTED as f64;
        println!("{name:<34}{:>14.2}{:>14.0}", each(counted.count_total), each(counted.bytes_total));
    }
}

/// What the gateway's thread allocates while it answers [`COUNTED`] requests that come one after another on one connection.
fn count(runtime: &Runtime, to: SocketAddr, message: Vec<u8>, status: u16) -> AllocationInfo {
    let (warm, warmed) = oneshot::channel();
    let (go, gone) = mpsc::channel();
    let (done, finished) = oneshot::channel();
    let client = thread::spawn(move || {
        let mut client = Client::connect(to);
        // The first request of an address is within any limit.
        client.ask(&message);
        (0..WARM).for_each(|_| assert_eq!(client.ask(&message), status));
        warm.send(()).expect("the gateway serves");
        gone.recv().expect("the gateway serves");
        (0..COUNTED).for_each(|_| assert_eq!(client.ask(&message), status));
        done.send(()).expect("the gateway serves");
    });
    runtime.block_on(warmed).expect("the client is content");
    go.send(()).expect("the client waits");
    let counted = measure(|| runtime.block_on(finished).expect("the client is content"));
    client.join().expect("the client is content");
    counted
}

fn start(runtime: &Runtime, folder: &Path, axon: SocketAddr, limits: &str) -> Orbit {
    std::fs::create_dir(folder).expect("a folder");
    let files = [
        ("policies.json", r#"[{"service":"orbit","intent":"call_reasoning","enabled":true}]"#.to_owned()),
        ("keys.yaml", format!("- {{ access_key_id: {ID}, secret_access_key: {SECRET:?}, principal: bench }}\n")),
        (
            "orbit.yaml",
            format!(
                "version: 1\nlisten: {{ address: 127.0.0.1:0 }}\nauth: {{ keys: keys.yaml }}\nlimits: {limits}\n\
                 governance: {{ policies: policies.json }}\n\
                 upstreams: {{ axon: {{ endpoints: [\"http://{axon}\"], sign: disabled }} }}\n"
            ),
        ),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("a file");
    }
    let (sink, guard) = Sink::start(io::sink()).expect("a log");
    // Dropped, it would end the log.
    std::mem::forget(guard);
    let parts = Parts {
        config: folder.join("orbit.yaml"),
        environment: Arc::new(BTreeMap::new()),
        clock: SystemClock::shared(),
        ids: UuidV7::source(),
        resolver: SystemResolver::shared(),
        seed: 7,
        sink,
    };
    runtime.block_on(Orbit::start(parts)).expect("a gateway")
}

fn address(orbit: &Orbit) -> SocketAddr {
    *orbit.addresses().first().expect("a listener")
}

fn dispatch(to: SocketAddr, signer: &Signer) -> Vec<u8> {
    let now = SystemClock::shared().now();
    let typed = [("content-type", "application/json")];
    let added = signer.sign("POST", &to.to_string(), "/dispatch", &typed, BODY.as_bytes(), now).expect("signable");
    let mut head = format!("POST /dispatch HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n");
    for (name, value) in &added {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}content-length: {}\r\n\r\n{BODY}", BODY.len()).into_bytes()
}

/// Answers whatever it is asked with the same; a thread for each connection.
fn axon() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.expect("a connection"), answer.clone());
            thread::spawn(move || {
                let mut received = BufReader::new(stream.try_clone().expect("a second handle"));
                while message(&mut received).is_some() {
                    stream.write_all(answer.as_bytes()).expect("the gateway reads");
                }
            });
        }
    });
    address
}

struct Client {
    stream: TcpStream,
    received: BufReader<TcpStream>,
}

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("a connection");
        let received = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, received }
    }

    /// The status of the answer.
    fn ask(&mut self, request: &[u8]) -> u16 {
        self.stream.write_all(request).expect("the gateway reads");
        let first = message(&mut self.received).expect("an answer on a connection that is kept");
        first.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }
}

/// Reads one message to its end; its first line, or nothing when the peer has gone.
fn message(from: &mut impl BufRead) -> Option<String> {
    let mut first = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
        first.get_or_insert_with(|| line.to_owned());
    }
    from.take(length).read_to_end(&mut Vec::new()).ok()?;
    first
}
