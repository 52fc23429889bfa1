//! One HTTP/1.1 connection to Axon: one request at a time, and its answer.
//!
//! Our own client and no library's, because forwarding is what Orbit is for: it knows one request at a time,
//! of known length, and pays for nothing else (`docs/performance.md`). The connection is driven by the task
//! that uses it, without a task of its own or a buffer between the two: dropping it ends it at once, every
//! error belongs to a request, and nothing is read that nobody asked for.
//!
//! Invariants: a connection is used again only where the last answer ended for certain, with nothing behind
//! it (RFC 9112, sections 6.3 and 9). While it waits, for an answer or for its next use, it holds no buffer.
//! What may have reached Axon is never [`Failure::Unsent`].

mod body;
mod head;
mod upload;

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::mem::{MaybeUninit, take};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::response::Parts;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::axon::asking::Asking;
use crate::axon::http1::head::{Head, Malformed, Search};
use crate::axon::http1::upload::Upload;
use crate::axon::stream::Stream;
use crate::axon::tls;
use crate::axon::wire::Failure;

pub use self::body::Body;

/// Most that is read at once where no more is expected; it is read on the stack and then copied to where it
/// fits exactly.
const PIECE_BYTES: usize = 32 * 1024;
/// Most that is read at once of what keeps coming.
const LARGE_PIECE_BYTES: usize = 64 * 1024;
/// Most interim answers (RFC 9110, section 15.2) before the final one. What bounds them first is time.
const INTERIM_MAX: u32 = 100_000;

const CLOSED: &str = "connection closed before the head of an answer";
const CUT_OFF: &str = "connection closed within the answer";

/// An open connection.
pub struct Http1 {
    stream: Stream,
    /// What was read and is not handed out yet.
    read: BytesMut,
    /// The last piece was as large as can be: more is there.
    flowing: bool,
    /// The rest of a body of known length is wanted as one piece, for which `read` has room.
    gathering: bool,
    upload: Upload,
    /// Why the rest of the request cannot be sent; the answer may come all the same.
    upload_failed: Option<io::Error>,
    /// The peer lets the connection be used again after this answer.
    kept: bool,
    /// No exchange is under way, and the last one has left nothing behind.
    at_rest: bool,
    idle_since: u64,
    /// Ticks at which it was last found open.
    open_at: u64,
}

impl Http1 {
    /// HTTP/1.1 on a stream; nothing is sent yet. Boxed, because it goes from hand to hand and is large.
    pub fn new(stream: Stream) -> Box<Self> {
        Box::new(Self {
            stream,
            read: BytesMut::new(),
            flowing: false,
            gathering: false,
            upload: Upload::default(),
            upload_failed: None,
            kept: true,
            at_rest: true,
            idle_since: 0,
            open_at: 0,
        })
    }

    /// See [`Connection::send`](crate::axon::wire::Connection::send).
    pub async fn send(&mut self, asking: Asking<'_>) -> Result<(Parts, Body), Failure> {
        // It may have ended since it was chosen.
        if let Some(end) = self.end() {
            return Err(self.distrust(end.as_ref()).unwrap_or(Failure::Unsent));
        }
        self.at_rest = false;
        self.stream.ledger().begin();
        self.upload = Upload::new(asking);
        let (mut search, mut interim) = (Search::default(), 0);
        let Head { parts, body, keeps_connection } =
            poll_fn(|cx| self.poll_head(cx, &mut search, &mut interim)).await?;
        self.kept = keeps_connection;
        self.settle_after(&body);
        Ok((parts, body))
    }

    /// See [`Connection::gather`](crate::axon::wire::Connection::gather).
    pub fn gather(&mut self, body: &Body) {
        if let Body::Length { left } = body
            && let Some(missing) = usize::try_from(*left).ok().and_then(|left| left.checked_sub(self.read.len()))
            && missing > 0
        {
            self.gathering = true;
            self.read.reserve(missing);
        }
    }

    /// Whether bytes of `body` that were read wait for the others.
    fn is_gathering(&self, body: &Body) -> bool {
        self.gathering && matches!(body, Body::Length { left } if (self.read.len() as u64) < *left)
    }

    /// See [`Connection::at_hand`](crate::axon::wire::Connection::at_hand).
    pub fn at_hand(&mut self, body: &mut Body) -> Option<Result<Bytes, Cow<'static, str>>> {
        if self.is_gathering(body) {
            return None;
        }
        let found = match body.take(&mut self.read) {
            Ok(data) => data.map(Ok),
            Err(sloppy) => Some(Err(format!("malformed chunks: {}", sloppy.0).into())),
        };
        self.settle_after(body);
        found
    }

    /// See [`Connection::next`](crate::axon::wire::Connection::next).
    pub async fn next(&mut self, body: &mut Body) -> Option<Result<Bytes, Cow<'static, str>>> {
        poll_fn(|cx| self.poll_next(cx, body)).await
    }

    /// Lets the connection come to rest after an answer was read whole; says whether it can be used again.
    pub fn settle(&mut self, now_ticks: u64) -> bool {
        self.idle_since = now_ticks;
        self.look(now_ticks)
    }

    /// [`Http1::is_open`], remembered.
    pub fn look(&mut self, now_ticks: u64) -> bool {
        let open = self.is_open();
        if open {
            self.open_at = now_ticks;
        }
        open
    }

    /// Whether the connection is open and idle as far as this end knows at this moment.
    pub fn is_open(&mut self) -> bool {
        self.at_rest && self.end().is_none()
    }

    /// Ticks at which the connection came to rest; 0 if it never was in use.
    pub fn idle_since(&self) -> u64 {
        self.idle_since
    }

    /// Whether it was never used.
    pub fn is_new(&self) -> bool {
        self.idle_since == 0
    }

    /// For how long the connection has been idle, in nanoseconds; one that was never used has not.
    pub fn idle_for(&self, now_ticks: u64) -> u64 {
        if self.is_new() { 0 } else { now_ticks.saturating_sub(self.idle_since) }
    }

    /// For how long it had been idle when it was last found open, in nanoseconds.
    pub fn open_at(&self) -> u64 {
        self.open_at.saturating_sub(self.idle_since)
    }

    /// How an idle connection ended, with the error if it was one; `None` if it did not. Bytes that nobody
    /// asked for are an end, too.
    fn end(&mut self) -> Option<Option<io::Error>> {
        match self.stream.unasked() {
            Poll::Pending => None,
            Poll::Ready(found) => Some(found.err()),
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        search: &mut Search,
        interim: &mut u32,
    ) -> Poll<Result<Head, Failure>> {
        self.poll_upload(cx);
        loop {
            match self.head(search) {
                Ok(None) => {}
                // An answer to `Upgrade`, which nobody sent: what follows is not HTTP.
                Ok(Some(head))
                    if head.parts.status.is_informational() && head.parts.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    *interim += 1;
                    if *interim > INTERIM_MAX {
                        return Poll::Ready(Err(Failure::Unreadable("interim answers without end".into())));
                    }
                    continue;
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(Malformed(why)) => return Poll::Ready(Err(Failure::Unreadable(why.into()))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(self.failure(None))),
                Ok(_) => {}
                Err(e) => return Poll::Ready(Err(self.failure(Some(e)))),
            }
        }
    }

    /// The head of an answer, if it was read whole.
    fn head(&mut self, search: &mut Search) -> Result<Option<Head>, Malformed> {
        let Some(end) = search.end(&self.read)? else { return Ok(None) };
        *search = Search::default();
        Head::parse(&self.read.split_to(end).freeze()).map(Some)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, body: &mut Body) -> Poll<Option<Result<Bytes, Cow<'static, str>>>> {
        self.poll_upload(cx);
        loop {
            if let Some(found) = self.at_hand(body) {
                return Poll::Ready(Some(found));
            }
            if body.is_end_stream() {
                return Poll::Ready(None);
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if body.end() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(CUT_OFF.into()))),
                Ok(_) if self.is_gathering(body) => return Poll::Ready(Some(Ok(Bytes::new()))),
                Ok(_) => {}
                Err(e) => return Poll::Ready(Some(Err(format!("connection error within the answer: {e}").into()))),
            }
        }
    }

    /// Sends what is left of the request, even while its answer is being read: Axon may need it for the rest.
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if self.upload.is_done() || self.upload_failed.is_some() {
            return;
        }
        if let Poll::Ready(Err(e)) = self.upload.poll(&mut self.stream, cx) {
            self.upload_failed = Some(e);
        }
    }

    /// Reads what is there, behind what was read before; 0 at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.gathering {
            return pin!(self.stream.read_buf(&mut self.read)).poll(cx);
        }
        if self.read.is_empty() {
            // However little is left of a buffer holds all of it.
            self.read = BytesMut::new();
        }
        if take(&mut self.flowing) && self.read.is_empty() {
            let mut piece = BytesMut::with_capacity(LARGE_PIECE_BYTES);
            let read = pin!(self.stream.read_buf(&mut piece)).poll(cx);
            self.flowing = !matches!(read, Poll::Ready(Ok(..=PIECE_BYTES)));
            // Little is not left in so large a place: who collects it could be made to hold much more than that.
            self.read = if piece.len() > PIECE_BYTES { piece } else { BytesMut::from(&*piece) };
            return read;
        }
        let mut space = [MaybeUninit::uninit(); PIECE_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        self.flowing = space.remaining() == 0;
        self.read.extend_from_slice(space.filled());
        Poll::Ready(Ok(space.filled().len()))
    }

    /// Comes to rest if `body` has ended and all else is as it should be.
    fn settle_after(&mut self, body: &Body) {
        if body.is_end_stream() && self.read.is_empty() {
            (self.read, self.gathering) = (BytesMut::new(), false);
            self.at_rest = self.kept && self.upload.is_done();
        }
    }

    /// Why the stream gave no answer: it ended, or failed with `error`.
    fn failure(&mut self, error: Option<io::Error>) -> Failure {
        let (ledger, upload_failed) = (self.stream.ledger(), self.upload_failed.take());
        // A failed write has taken the error of a reset with it, so that what follows looks like an end.
        let unseen = error.is_none() && upload_failed.is_none() && ledger.unseen();
        let unsent = ledger.nothing_written() || unseen;
        let error = error.or(upload_failed);
        if let Some(distrusted) = self.distrust(error.as_ref()) {
            return distrusted;
        }
        match error {
            _ if unsent => Failure::Unsent,
            Some(error) => Failure::Broken(format!("connection error: {error}").into()),
            None => Failure::Broken(CLOSED.into()),
        }
    }

    /// Axon's refusal of this gateway's certificate, if that is what an error is. After the first exchange it is
    /// no word about the handshake any more.
    fn distrust(&self, error: Option<&io::Error>) -> Option<Failure> {
        let refusal = error.filter(|_| self.is_new()).and_then(|e| tls::refusal_in(e))?;
        Some(Failure::Distrusted(format!("connect failed: TLS: {}", tls::explain(refusal)).into()))
    }
}

#[cfg(test)]
mod tests;
