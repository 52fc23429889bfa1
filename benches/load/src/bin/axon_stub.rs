//! An Axon that does as little work as an answer can cost, so that the proxies are the bottleneck.
//! HTTP/1.1 keep-alive only; reads a head and the body that `Content-Length` declares, answers in one write.
//!
//! `--answer-bytes N` makes every answer a JSON object of N bytes. `--stream MS` makes every answer a stream of two
//! events, the first at once, the second so many milliseconds later.

use std::io;
use std::time::Duration;

use orbit_load::{Failure, listen, options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The size that the peers in the table were measured with.
const ANSWER_BYTES: usize = 120;
const ANSWER: &str = r#"{"message":"Axon heartbeat OK","service":"axon","timestamp":"2026-11-22T09:56:51Z","detail":""#;
/// nginx would hold a stream back without the last field, which the others do not mind.
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    transfer-encoding: chunked\r\nx-accel-buffering: no\r\n\r\n";
const EVENT: &str = "data: {\"message\":\"Axon heartbeat OK\"}\n\n";
/// A head has to fit; a body is read in pieces of this size and dropped.
const BUFFER_BYTES: usize = 64 << 10;

struct Answer {
    /// What a request gets at once.
    first: Vec<u8>,
    /// What it gets later.
    rest: Option<(Duration, Vec<u8>)>,
}

fn main() -> Result<(), Failure> {
    let option = options(&["answer-bytes", "stream"])?;
    let answer = match option("stream") {
        Some(pause) => stream(Duration::from_millis(pause.parse()?)),
        None => whole(option("answer-bytes").map_or(Ok(ANSWER_BYTES), |bytes| bytes.parse())?),
    };
    let answer: &'static Answer = Box::leak(Box::new(answer));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = listen()?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = serve(stream, answer).await {
                    eprintln!("connection failed: {error}");
                }
            });
        }
    })
}

fn whole(bytes: usize) -> Answer {
    let padding = ".".repeat(bytes.saturating_sub(ANSWER.len() + 2));
    let body = format!("{ANSWER}{padding}\"}}");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    Answer { first: [head, body].concat().into_bytes(), rest: None }
}

fn stream(pause: Duration) -> Answer {
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let rest = format!("{chunk}0\r\n\r\n").into_bytes();
    Answer { first: [STREAM_HEAD, chunk.as_str()].concat().into_bytes(), rest: Some((pause, rest)) }
}

async fn serve(mut stream: TcpStream, answer: &Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    // Of a body whose head has been read.
    let mut missing = None;
    loop {
        if let Some(bytes) = missing {
            let here = filled.min(bytes);
            received.copy_within(here..filled, 0);
            filled -= here;
            missing = Some(bytes - here).filter(|left| *left > 0);
            if missing.is_none() {
                stream.write_all(&answer.first).await?;
                if let Some((pause, rest)) = &answer.rest {
                    tokio::time::sleep(*pause).await;
                    stream.write_all(rest).await?;
                }
            }
        }
        if missing.is_none() {
            missing = request_length(received.get(..filled).unwrap_or_default())?;
            if missing.is_some() {
                continue;
            }
        }
        let room = received.get_mut(filled..).filter(|room| !room.is_empty());
        let room = room.ok_or_else(|| io::Error::other("head larger than the stub's buffer"))?;
        match stream.read(room).await? {
            0 => return Ok(()),
            count => filled += count,
        }
    }
}

/// Bytes of the first request in `received`, body included; `None` until its head is complete.
fn request_length(received: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let mut body = 0;
    for line in received.get(..head).unwrap_or_default().split(|byte| *byte == b'\n').skip(1) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = std::str::from_utf8(parts.next().unwrap_or_default()).map_err(io::Error::other)?;
            body = value.trim().parse::<usize>().map_err(io::Error::other)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(io::Error::other("the stub reads no chunked body"));
        }
    }
    Ok(Some(head + 4 + body))
}
