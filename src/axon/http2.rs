//! One HTTP/2 connection to Axon, shared by exchanges, on the `h2` crate.
//!
//! Below hyper, because an exchange needs to know what hyper keeps to itself: how many streams the peer
//! allows, and why a stream ended. A task of its own drives the connection. It ends with the connection,
//! at the latest when nobody holds it any more or the peer leaves a PING unanswered.
//!
//! Invariants: a connection is handed out only after its peer has answered a PING, so whoever does not
//! speak HTTP/2 is found out before a request is sent. What an exchange has not read yet is bounded by its
//! stream's window, so that a slow reader holds up Axon and nobody else.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::axon::asking::Asking;
use crate::axon::dial::{Fault, NotOpened};
use crate::axon::socket::Ledger;
use crate::axon::stream::Stream;
use crate::axon::tls;
use crate::axon::wire::{ANSWER_HEAD_BYTES_MAX, Failure};

/// Most exchanges at once on one connection, if the peer does not allow fewer. RFC 9113, section 6.5.2,
/// asks peers to allow at least as many.
pub const STREAMS_MAX: usize = 100;
/// Bytes of one answer that may wait here to be read.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Of all answers together: so many that slow readers, however many, take nothing from the others.
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX as u32;
/// Memory for the frames around waiting bytes, where they are small as those of events. Enough for all
/// streams at about 50 bytes a frame; beyond it `h2` ends the connection.
const FRAMING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Streams ended by this side whose late frames are still told from errors.
const LATE_STREAMS_MAX: usize = 1000;
/// Between two PINGs, and for the answer to one: a quarter of the time for which unused connections are
/// kept, but not so often that peers take it for a flood, nor so rarely that a dead one is missed.
const PING_EVERY_MIN: Duration = Duration::from_millis(250);
const PING_EVERY_MAX: Duration = Duration::from_secs(10);

/// What a signature adds to a request that nobody else should learn.
const SECRET: [&str; 2] = ["authorization", "x-amz-security-token"];

/// An open connection.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    ledger: Arc<Ledger>,
    seen: Arc<Seen>,
    in_use: AtomicUsize,
    idle_since: AtomicU64,
}

/// What is known of a connection's end.
#[derive(Default)]
struct Seen {
    /// Axon refused this gateway's certificate.
    refusal: OnceLock<Cow<'static, str>>,
    /// A PING was not answered in time.
    silent: OnceLock<()>,
}

/// A place for one exchange on a connection; given back when dropped.
pub struct Place {
    connection: Arc<Http2>,
    sender: SendRequest<Bytes>,
    released: Arc<Notify>,
}

/// The body of an answer. Dropped before its end it resets its stream.
pub struct Http2Body {
    stream: RecvStream,
    announced: Option<u64>,
}

impl Http2 {
    /// Begins HTTP/2 on a stream and waits until the peer is known to speak it. `idle` is how long unused
    /// connections are kept; the pace of PINGs follows from it.
    ///
    /// # Errors
    /// [`Unbegun`]; no request was sent.
    pub async fn begin(stream: Stream, idle: Duration) -> Result<Arc<Self>, Unbegun> {
        let scheme = match &stream {
            Stream::Plain(_) => Scheme::HTTP,
            Stream::Tls(_) => Scheme::HTTPS,
        };
        let ledger = stream.ledger().clone();
        let seen = Arc::new(Seen::default());
        let watched = Watched { stream, seen: seen.clone() };
        let (sender, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .data_frame_budget(FRAMING_BYTES_MAX)
            .max_header_list_size(ANSWER_HEAD_BYTES_MAX as u32)
            .initial_max_send_streams(STREAMS_MAX)
            .max_concurrent_reset_streams(LATE_STREAMS_MAX)
            // Counted over a connection's whole life, on which many exchanges depend.
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake::<_, Bytes>(watched)
            .await
            .map_err(|e| Unbegun::Failed(not_opened(&e, &seen)))?;
        let pings = connection.ping_pong();
        let (answered, first_answer) = oneshot::channel();
        let watching = seen.clone();
        tokio::spawn(async move {
            let every = (idle / 4).clamp(PING_EVERY_MIN, PING_EVERY_MAX);
            let mut first = Some(answered);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = ask(pings, every, &mut first) => {
                    let _ = watching.silent.set(());
                    Ok(())
                }
            };
            if let Some(first) = first {
                let why = match (ended, watching.silence()) {
                    (Err(e), _) => Unbegun::Failed(not_opened(&e, &watching)),
                    (Ok(()), Some(silence)) => Unbegun::Failed(theirs(silence)),
                    (Ok(()), None) => Unbegun::Closed,
                };
                let _ = first.send(Err(why));
            }
        });
        first_answer.await.unwrap_or(Err(Unbegun::Closed))?;
        let (in_use, idle_since) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Arc::new(Self { sender, scheme, ledger, seen, in_use, idle_since }))
    }

    /// A place, if one is free. `released` is told when it is given back.
    ///
    /// # Errors
    /// When the connection takes no more exchanges, ever: it has ended, or is about to.
    pub fn place(self: &Arc<Self>, released: &Arc<Notify>) -> Result<Option<Place>, Ended> {
        let mut sender = self.sender.clone();
        // Whatever ends the connection for new streams, a GOAWAY too, is an error here.
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) | Poll::Pending => return Err(Ended),
        }
        let allowed = self.allowed();
        let taken = self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < allowed).then_some(n + 1));
        Ok(taken.ok().map(|_| Place { connection: self.clone(), sender, released: released.clone() }))
    }

    /// Most exchanges at once, as far as is known at this moment.
    pub fn allowed(&self) -> usize {
        self.sender.current_max_send_streams().min(STREAMS_MAX)
    }

    /// Exchanges under way.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Ticks at which an exchange last ended well; 0 if none did.
    pub fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::Relaxed)
    }

    pub fn set_idle_since(&self, ticks: u64) {
        self.idle_since.store(ticks, Ordering::Relaxed);
    }
}

/// Why HTTP/2 did not begin.
#[derive(Debug)]
pub enum Unbegun {
    /// The peer ended the connection in all order, as one that is about to stop does.
    Closed,
    Failed(NotOpened),
}

impl From<Unbegun> for NotOpened {
    fn from(unbegun: Unbegun) -> Self {
        match unbegun {
            Unbegun::Closed => theirs("HTTP/2: closed at once"),
            Unbegun::Failed(failed) => failed,
        }
    }
}

/// The connection takes no more exchanges.
#[derive(Debug)]
pub struct Ended;

impl Place {
    pub fn connection(&self) -> &Arc<Http2> {
        &self.connection
    }

    /// See [`Connection::send`](crate::axon::wire::Connection::send).
    pub async fn send(&mut self, asking: Asking<'_>) -> Result<Response<Http2Body>, Failure> {
        let (request, body) = self.translate(asking).map_err(Failure::Broken)?;
        let before = self.connection.ledger.written();
        // Ended in the moment since it was chosen.
        poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(|_| Failure::Unsent)?;
        let (answer, mut upload) = match self.sender.send_request(request, body.is_empty()) {
            Ok(begun) => begun,
            Err(e) if e.is_go_away() || e.is_io() => return Err(Failure::Unsent),
            // What this side does wrong it would do wrong again.
            Err(e) => return Err(Failure::Broken(e.to_string().into())),
        };
        if !body.is_empty() {
            // It leaves as the peer's window allows. When the stream has ended, the answer says how.
            let _ = upload.send_data(body, true);
        }
        let answer = answer.await.map_err(|e| self.failure(&e, before))?;
        let announced = match answer.body().is_end_stream() {
            true => Some(0),
            false => answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
        };
        Ok(answer.map(|stream| Http2Body { stream, announced }))
    }

    /// Why there was no answer, and whether the peer may have begun.
    fn failure(&self, error: &h2::Error, written_before: u64) -> Failure {
        let seen = &self.connection.seen;
        if let Some(refusal) = seen.refusal.get() {
            return Failure::Distrusted(format!("connect failed: TLS: {refusal}").into());
        }
        // RFC 9113, section 6.8: streams above the last one that a GOAWAY names were not and will not be
        // processed, and `h2` gives a received GOAWAY as the error of those streams only.
        if error.is_go_away() && error.is_remote() {
            return Failure::Unsent;
        }
        // Section 8.7: reset before any processing.
        if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
            return Failure::Refused("HTTP/2: stream refused".into());
        }
        // The end of an idle connection, met before the request left or had arrived.
        let ledger = &self.connection.ledger;
        if error.is_io() && (ledger.written() == written_before || ledger.unseen_after(written_before)) {
            return Failure::Unsent;
        }
        Failure::Broken(describe(error, seen))
    }

    /// The request as HTTP/2 has it: what is `Host` in HTTP/1.1, and was signed as such, is `:authority`.
    fn translate(&self, asking: Asking<'_>) -> Result<(Request<()>, Bytes), Cow<'static, str>> {
        let mut headers = asking.headers().map_err(|e| e.to_string())?;
        for name in SECRET {
            // Kept out of the compression's tables: RFC 7541, section 7.1.3.
            headers.get_mut(name).into_iter().for_each(|value| value.set_sensitive(true));
        }
        let authority = Authority::try_from(asking.authority.as_bytes()).map_err(|_| "`Host` is no authority")?;
        let mut target = asking.target.clone().into_parts();
        (target.scheme, target.authority) = (Some(self.connection.scheme.clone()), Some(authority));
        let mut request = Request::new(());
        *request.method_mut() = asking.method;
        *request.uri_mut() = Uri::from_parts(target).map_err(|_| "the target is no path")?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Ok((request, asking.body))
    }

    /// See [`Connection::next`](crate::axon::wire::Connection::next).
    pub async fn next(&mut self, body: &mut Http2Body) -> Option<Result<Bytes, Cow<'static, str>>> {
        loop {
            let bytes = match poll_fn(|cx| body.stream.poll_data(cx)).await? {
                Ok(bytes) => bytes,
                Err(e) => return Some(Err(describe(&e, &self.connection.seen))),
            };
            // From here on they are the reader's, who asks for more only when these are gone.
            if body.stream.flow_control().release_capacity(bytes.len()).is_err() {
                return Some(Err("HTTP/2: the stream has ended".into()));
            }
            if !bytes.is_empty() {
                return Some(Ok(bytes));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.in_use.fetch_sub(1, Ordering::Relaxed);
        self.released.notify_one();
    }
}

impl Http2Body {
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Bytes of the whole body where they were announced.
    pub fn announced_length(&self) -> Option<u64> {
        self.announced
    }
}

/// PINGs, one `every` so often, each of which has to be answered within the same time. Ends when one is not.
async fn ask(pings: Option<PingPong>, every: Duration, first: &mut Option<oneshot::Sender<Result<(), Unbegun>>>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        match timeout(every, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ends by itself, and says why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
        if let Some(first) = first.take() {
            let _ = first.send(Ok(()));
        }
        sleep(every).await;
    }
}

impl Seen {
    fn silence(&self) -> Option<&'static str> {
        self.silent.get().map(|()| "HTTP/2: no answer to a PING")
    }
}

fn theirs(why: &str) -> NotOpened {
    NotOpened { fault: Fault::Theirs, why: format!("connect failed: {why}").into() }
}

fn not_opened(error: &h2::Error, seen: &Seen) -> NotOpened {
    match seen.refusal.get() {
        Some(refusal) => theirs(&format!("TLS: {refusal}")),
        None => theirs(&describe(error, seen)),
    }
}

/// What went wrong, for the log; it holds nothing of the request.
fn describe(error: &h2::Error, seen: &Seen) -> Cow<'static, str> {
    match seen.silence() {
        Some(silence) => silence.into(),
        None => format!("HTTP/2: {error}").into(),
    }
}

/// The stream below a connection, with an eye on how it ends.
struct Watched {
    stream: Stream,
    seen: Arc<Seen>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        // `h2` keeps only the text of an error.
        if let Poll::Ready(Err(e)) = &read
            && let Some(refusal) = tls::refusal_in(e)
        {
            let _ = this.seen.refusal.set(tls::explain(refusal));
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
