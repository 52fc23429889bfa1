//! The Axon of the load comparison: as little work as an answer can cost, so that the proxies are the bottleneck.
//! HTTP/1.1 keep-alive only; reads a head and the body that `Content-Length` declares, answers in one write.

use std::io;

use orbit_load::{Failure, options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// 120 bytes of JSON, the size that the peers in the table were measured with.
const ANSWER: &[u8; 120] = br#"{"message":"Axon heartbeat OK","service":"axon","timestamp":"2026-11-22T09:56:51Z","detail":"padding to 120 bytes.."}   "#;
/// A head and body larger than this is no part of the comparison.
const REQUEST_BYTES: usize = 64 << 10;

fn main() -> Result<(), Failure> {
    let _ = options(&[])?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        let answer: Vec<u8> = [
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", ANSWER.len())
                .as_bytes(),
            ANSWER,
        ]
        .concat();
        let answer: &'static [u8] = answer.leak();
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

async fn serve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = vec![0; REQUEST_BYTES];
    let mut filled = 0;
    loop {
        while let Some(length) = request_length(received.get(..filled).unwrap_or_default())? {
            if length > filled {
                break;
            }
            received.copy_within(length..filled, 0);
            filled -= length;
            stream.write_all(answer).await?;
        }
        let room = received.get_mut(filled..).filter(|room| !room.is_empty());
        let room = room.ok_or_else(|| io::Error::other("request larger than the stub's buffer"))?;
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
