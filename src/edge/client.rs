//! One client connection: the bytes of its requests in, the bytes of its answers out.
//!
//! What is read too far stays here: the rest of a body, or the next request. A request costs one read where head
//! and body come together, an answer one write where it is whole; between two requests no buffer is held.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::flow::{first, poll_write_both};
use crate::request::chunks::{ChunkAudit, Sloppy};
use crate::request::head::Framing;

/// First read of a request; heads fit, and most bodies with them.
const READ_BYTES_USUAL: usize = 16 * 1024;
/// Most that one read of a body asks for.
const READ_BYTES_MAX: usize = 64 * 1024;
/// As much of an answer as a client must take in `listen.idle_timeout`.
const SLICE_BYTES: usize = 64 * 1024;
/// A body up to this size is copied behind its head, which is cheaper than a second piece for the kernel.
const TOGETHER_BYTES_MAX: usize = 16 * 1024;
/// How long a closing connection waits for the client to take its last answer.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that a closing connection reads and throws away.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// Body bytes that are worth reading and throwing away to keep a connection.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// One client connection.
pub struct Client {
    stream: Stream,
    /// Read and not yet taken.
    input: BytesMut,
    body: Body,
    /// How an answer under way tells where its body ends.
    ending: Ending,
    answer: Progress,
    /// Another request may follow.
    keep: bool,
}

/// What of a request's body is still to be taken.
enum Body {
    Bytes { left: u64 },
    Chunks(ChunkAudit),
}

/// How the end of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By `Content-Length`.
    Counted,
    /// By the last chunk.
    Chunked,
    /// By the end of the connection.
    Closed,
    /// There is no body, whatever is given for one.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    NotBegun,
    Begun,
    Whole,
}

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than allowed.
    TooLarge,
    /// Its chunks are not strictly well formed.
    Sloppy,
    /// The client left before its end.
    Gone,
}

impl Client {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            body: Body::Bytes { left: 0 },
            ending: Ending::Counted,
            answer: Progress::NotBegun,
            keep: true,
        }
    }

    /// What was read and not yet taken.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Reads more; 0 at the end of the stream. No buffer is held while there is nothing to read.
    pub async fn read(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// [`Client::read`], for whoever waits for other things as well.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What was read is put into a buffer of just its size: a request holds no more than it sent, a connection
        // between two requests nothing.
        let mut scratch = [const { MaybeUninit::uninit() }; READ_BYTES_USUAL];
        let mut scratch = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
        self.input.extend_from_slice(scratch.filled());
        Poll::Ready(Ok(scratch.filled().len()))
    }

    /// Takes the head of a request, the first `end` bytes that were read. Its body is what comes next.
    pub fn take_head(&mut self, end: usize) -> Bytes {
        first(&mut self.input, end)
    }

    /// A request begins, with a body framed like that; `keep` is whether its client wants the connection again.
    pub fn begin(&mut self, framing: Framing, keep: bool) {
        self.body = match framing {
            Framing::None => Body::Bytes { left: 0 },
            Framing::Length(left) => Body::Bytes { left },
            Framing::Chunked => Body::Chunks(ChunkAudit::new()),
        };
        (self.answer, self.keep) = (Progress::NotBegun, keep);
    }

    /// The body, if all of it is here, its length is known, and that is at most `limit` bytes.
    pub fn body_here(&mut self, limit: u64) -> Option<Bytes> {
        match &mut self.body {
            Body::Bytes { left } if *left <= limit.min(self.input.len() as u64) => {
                Some(first(&mut self.input, std::mem::take(left) as usize))
            }
            Body::Bytes { .. } | Body::Chunks(_) => None,
        }
    }

    /// Reads the whole body, at most `limit` bytes. The caller bounds the time.
    ///
    /// # Errors
    /// [`BodyError`]; the connection cannot go on.
    pub async fn body(&mut self, limit: u64) -> Result<Bytes, BodyError> {
        let mut data = BytesMut::new();
        loop {
            match &mut self.body {
                Body::Bytes { left } if *left > limit => return Err(BodyError::TooLarge),
                Body::Bytes { .. } => {
                    if let Some(body) = self.body_here(limit) {
                        return Ok(body);
                    }
                }
                Body::Chunks(audit) => {
                    let behind = audit.follow(&self.input, |part| data.extend_from_slice(part));
                    let behind = behind.map_err(|Sloppy(_)| BodyError::Sloppy)?;
                    if data.len() as u64 > limit {
                        return Err(BodyError::TooLarge);
                    }
                    self.input.advance(self.input.len() - behind);
                    if audit.done() {
                        self.body = Body::Bytes { left: 0 };
                        // Nothing is left in it, as a rule, and then it goes.
                        drop(first(&mut self.input, 0));
                        return Ok(data.freeze());
                    }
                }
            }
            self.more().await.map_err(|_| BodyError::Gone)?;
        }
    }

    /// Reads more of a body.
    async fn more(&mut self) -> io::Result<()> {
        let missing = match self.body {
            Body::Bytes { left } => left.saturating_sub(self.input.len() as u64),
            Body::Chunks(_) => READ_BYTES_USUAL as u64,
        };
        // Grown as it comes: what is announced and never sent takes no memory.
        let room = missing.clamp(1, self.input.len().clamp(READ_BYTES_USUAL, READ_BYTES_MAX) as u64);
        self.input.reserve(room as usize);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether all of the body was taken.
    pub fn body_ended(&self) -> bool {
        match &self.body {
            Body::Bytes { left } => *left == 0,
            Body::Chunks(audit) => audit.done(),
        }
    }

    /// A body that nobody will read is worth throwing away, if it is small and on its way; otherwise the connection
    /// has to end.
    pub fn drains(&self, expects_continue: bool) -> bool {
        let small = matches!(self.body, Body::Bytes { left } if left <= DRAIN_BYTES_MAX);
        self.body_ended() || small && !expects_continue
    }

    /// Throws away what is left of the body, which has `patience` to come; nothing of it is held meanwhile. Whether it
    /// came to its end.
    pub async fn drain(&mut self, patience: Duration) -> bool {
        let thrown_away = async {
            while let Body::Bytes { left } = &mut self.body {
                let here = self.input.len().min(*left as usize);
                *left -= here as u64;
                drop(first(&mut self.input, here));
                if self.body_ended() {
                    return true;
                }
                if !matches!(self.read().await, Ok(1..)) {
                    break;
                }
            }
            false
        };
        timeout(patience, thrown_away).await.unwrap_or(false)
    }

    /// The connection ends with the answer that is next or under way.
    pub fn close(&mut self) {
        self.keep = false;
    }

    /// Decides, for the head of an answer, whether another request may follow. Not if its beginning is here already:
    /// what was sent ahead is not begun, and the client repeats it elsewhere (RFC 9112, section 9.3.2). Whoever was
    /// told that it may is answered whatever it sends from then on, even before this end knows that the answer is whole.
    pub fn decide_keep(&mut self) -> bool {
        self.keep &= !self.is_ahead();
        self.keep
    }

    /// Whether another request may follow.
    pub fn keeps(&self) -> bool {
        self.keep
    }

    /// Whether something came behind the request.
    pub fn is_ahead(&self) -> bool {
        matches!(self.body, Body::Bytes { left } if (self.input.len() as u64) > left)
    }

    /// Whether the beginning of an answer was sent.
    pub fn answer_begun(&self) -> bool {
        self.answer != Progress::NotBegun
    }

    /// Whether an answer was sent whole.
    pub fn answer_whole(&self) -> bool {
        self.answer == Progress::Whole
    }

    /// Resolves when the client has closed its side. Once something comes, nothing more is read.
    pub async fn gone(&mut self) {
        while self.input.is_empty() {
            match self.read().await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
        std::future::pending().await
    }

    /// Asks for the body (RFC 9110, section 10.1.1).
    ///
    /// # Errors
    /// [`BodyError::Gone`].
    pub async fn ask_for_body(&mut self) -> Result<(), BodyError> {
        let asked = write_all(&mut self.stream, b"HTTP/1.1 100 Continue\r\n\r\n", &[]).await;
        asked.map_err(|_| BodyError::Gone)
    }

    /// Sends a whole answer: a finished head, and its body. A client that takes nothing for `patience` has left.
    /// Whether it took everything.
    pub async fn send(&mut self, head: Vec<u8>, body: Bytes, patience: Duration) -> bool {
        self.send_parts(head, std::slice::from_ref(&body), Ending::Counted, patience).await
            && self.send_end(patience).await
    }

    /// Sends a finished head and the first parts of its body; without a head, the next parts.
    pub async fn send_parts(&mut self, head: Vec<u8>, parts: &[Bytes], ending: Ending, patience: Duration) -> bool {
        (self.answer, self.ending) = (Progress::Begun, ending);
        // What is written next: the head, small parts behind it, and what frames the parts.
        let mut next = head;
        for part in parts.iter().filter(|part| !part.is_empty() && ending != Ending::None) {
            frame(ending, part.len(), &mut next);
            if next.len() + part.len() <= TOGETHER_BYTES_MAX {
                next.extend_from_slice(part);
            } else {
                if !self.write(&next, part, patience).await {
                    return false;
                }
                next.clear();
            }
            frame_end(ending, &mut next);
        }
        next.is_empty() || self.write(&next, &[], patience).await
    }

    /// Ends an answer.
    pub async fn send_end(&mut self, patience: Duration) -> bool {
        let ended = self.ending != Ending::Chunked || self.write(b"0\r\n\r\n", &[], patience).await;
        if ended {
            self.answer = Progress::Whole;
        }
        ended
    }

    /// Writes both, slice by slice; whether the client took them.
    async fn write(&mut self, first: &[u8], second: &[u8], patience: Duration) -> bool {
        let (now, mut later) = second.split_at(second.len().min(SLICE_BYTES));
        let mut taken = self.write_slice(first, now, patience).await;
        while taken && !later.is_empty() {
            let (now, rest) = later.split_at(later.len().min(SLICE_BYTES));
            taken = self.write_slice(now, &[], patience).await;
            later = rest;
        }
        taken
    }

    async fn write_slice(&mut self, first: &[u8], second: &[u8], patience: Duration) -> bool {
        let mut write = pin!(write_all(&mut self.stream, first, second));
        // Most sockets have room, and need no clock.
        if let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await {
            return written.is_ok();
        }
        matches!(timeout(patience, write).await, Ok(Ok(())))
    }

    /// Ends the connection so that the last answer arrives. Where the client may still be sending, that is read and
    /// thrown away, within a bound: closing with unread bytes makes the kernel send a reset, which can destroy an
    /// answer the client has not read yet (RFC 9112, section 9.6).
    pub async fn linger(&mut self) {
        let discard = async {
            if self.stream.shutdown().await.is_err() {
                return;
            }
            let mut scratch = vec![0; 16 * 1024];
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match self.stream.read(&mut scratch).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => left = left.saturating_sub(n),
                }
            }
        };
        let _ = timeout(LINGER, discard).await;
    }
}

/// What stands before a part of a body.
fn frame(ending: Ending, length: usize, out: &mut Vec<u8>) {
    if ending == Ending::Chunked {
        use std::io::Write;
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{length:x}\r\n");
    }
}

/// What stands behind it.
fn frame_end(ending: Ending, out: &mut Vec<u8>) {
    if ending == Ending::Chunked {
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes both, in one call of the system where it takes so much, and flushes.
async fn write_all(stream: &mut Stream, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
    while !first.is_empty() || !second.is_empty() {
        let written = poll_fn(|cx| poll_write_both(Pin::new(&mut *stream), cx, first, second)).await?;
        let of_first = written.min(first.len());
        first.advance(of_first);
        second.advance(written - of_first);
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use pingora_core::protocols::l4::stream::Stream as Tcp;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        (Client::new(Box::new(Tcp::from(listener.accept().await.expect("accept").0))), peer)
    }

    const HEAD: &[u8] = b"a head";

    /// Reads a head, and the body behind it.
    async fn take(client: &mut Client, framing: Framing) -> (Bytes, Bytes) {
        while client.input().len() < HEAD.len() {
            assert_ne!(client.read().await.expect("a head"), 0);
        }
        let head = client.take_head(HEAD.len());
        client.begin(framing, true);
        (head, client.body(u64::MAX).await.expect("a body"))
    }

    #[tokio::test]
    async fn what_is_thrown_away_is_held_by_nobody() {
        let (mut client, mut peer) = pair().await;
        let (body, next) = (vec![b'x'; DRAIN_BYTES_MAX as usize], b"next");
        client.begin(Framing::Length(DRAIN_BYTES_MAX), true);
        peer.write_all(&body[9..]).await.expect("sent");
        assert!(!client.drain(Duration::from_millis(100)).await);
        assert_eq!((client.body_ended(), client.input.capacity()), (false, 0));
        peer.write_all(&[&body[..9], next].concat()).await.expect("sent");
        assert!(client.drain(Duration::from_secs(10)).await);
        assert_eq!(client.input(), next);
    }

    #[tokio::test]
    async fn what_was_taken_is_held_by_nobody_else() {
        let large = vec![b'x'; 4 * READ_BYTES_MAX];
        for (framing, body) in [
            (Framing::None, &b""[..]),
            (Framing::Length(4), b"body"),
            (Framing::Length(large.len() as u64), &large),
            (Framing::Chunked, b"4\r\nbody\r\n0\r\n\r\n"),
        ] {
            let (mut client, mut peer) = pair().await;
            let sending = async { peer.write_all(&[HEAD, body].concat()).await.expect("sent") };
            let ((head, body), ()) = tokio::join!(take(&mut client, framing), sending);
            assert_eq!((&*head, client.input.capacity()), (HEAD, 0), "{framing:?}");
            drop(body);
            assert!(head.is_unique(), "{framing:?}");
        }
    }
}
