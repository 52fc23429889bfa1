//! Stands between the clients and Orbit: passes on every byte and keeps what the clients sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use orbit::request::Head;
use orbit::request::head::{Framing, end_of_head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::axon::Recorded;

/// A running tap; ends when dropped.
pub struct Tap {
    pub addr: SocketAddr,
    /// What came on each connection so far.
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    accepting: JoinHandle<()>,
}

impl Tap {
    /// On a free port, before `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let sent = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(accept(listener, to, sent.clone()));
        Self { addr, sent, accepting }
    }

    /// Every request so far, by connection and not by time.
    pub fn requests(&self) -> Vec<Recorded> {
        let sent = self.sent.lock().expect("bytes");
        sent.iter().enumerate().flat_map(|(connection, bytes)| requests(connection + 1, bytes)).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, sent: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut passing = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        let orbit = TcpStream::connect(to).await.expect("Orbit listens");
        let number = {
            let mut sent = sent.lock().expect("bytes");
            sent.push(Vec::new());
            sent.len() - 1
        };
        let (from_client, mut to_client) = client.into_split();
        let (mut from_orbit, mut to_orbit) = orbit.into_split();
        let sent = sent.clone();
        passing.spawn(async move {
            // Either side may leave first; that is the other's to find out.
            let _ = pass(from_client, &mut to_orbit, |bytes| {
                sent.lock().expect("bytes")[number].extend_from_slice(bytes);
            })
            .await;
            let _ = to_orbit.shutdown().await;
        });
        passing.spawn(async move {
            let _ = tokio::io::copy(&mut from_orbit, &mut to_client).await;
            let _ = to_client.shutdown().await;
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    to: &mut (impl AsyncWriteExt + Unpin),
    keep: impl Fn(&[u8]),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        keep(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
}

fn requests(connection: usize, bytes: &[u8]) -> Vec<Recorded> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some(end) = end_of_head(rest, 0) {
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        let head = Head::parse(Bytes::copy_from_slice(&rest[..end])).unwrap_or_else(|e| panic!("{e:?}: {text}"));
        let (body, after) = match head.framing() {
            Framing::None => (Vec::new(), &rest[end..]),
            Framing::Length(length) => {
                let (body, after) = rest[end..].split_at(length as usize);
                (body.to_vec(), after)
            }
            Framing::Chunked => dechunked(&rest[end..]),
        };
        let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
        found.push(Recorded {
            connection,
            turn: found.len() + 1,
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            headers: head.fields().map(|(name, value)| (string(name), string(value))).collect(),
            body,
        });
        rest = after;
    }
    assert!(rest.is_empty(), "half a request: {:?}", String::from_utf8_lossy(rest));
    found
}

/// A body sent in chunks, without trailers, and what follows it.
fn dechunked(mut rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut body = Vec::new();
    loop {
        let line = rest.iter().position(|&b| b == b'\r').expect("a chunk's size");
        let size = std::str::from_utf8(&rest[..line]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        let (data, after) = rest[line + 2..].split_at(size);
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n").expect("the end of a chunk");
        if size == 0 {
            return (body, rest);
        }
    }
}
