//! One HTTP/1.1 connection to Axon, on hyper's client.
//!
//! The connection's own future is driven by the task that uses it, not by a task of its own: a request
//! then costs no hand-over between tasks, and head and body leave in one write. Measured against
//! Pingora's connector in this place (`docs/performance.md`); the choice ends at this file.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::axon::socket::Ledger;
use crate::axon::stream::Stream;
use crate::axon::tls;
use crate::axon::wire::{ANSWER_FIELDS_MAX, ANSWER_HEAD_BYTES_MAX, Failure};

type Driver = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

/// An open connection.
pub struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended. Only dropping it gives back a request that it never took.
    driver: Option<Driver>,
    /// The error that it ended with, if it did.
    ended: Option<hyper::Error>,
    ledger: Arc<Ledger>,
    idle_since: u64,
    /// Ticks at which it was last found open.
    open_at: u64,
}

impl Http1 {
    /// Begins HTTP/1.1 on a stream; nothing is sent yet. Boxed, because it goes from hand to hand and
    /// is large.
    ///
    /// # Errors
    /// hyper's, as `Other`.
    pub async fn begin(stream: Stream) -> io::Result<Box<Self>> {
        let ledger = stream.ledger().clone();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .max_headers(ANSWER_FIELDS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Box::new(Self { sender, driver: Some(driver), ended: None, ledger, idle_since: 0, open_at: 0 }))
    }

    /// See [`Connection::send`](crate::axon::wire::Connection::send).
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Response<Incoming>, Failure> {
        self.ledger.begin();
        let mut answer = pin!(self.sender.try_send_request(request.map(Full::new)));
        let new = self.is_new();
        let (driver, ended, ledger) = (&mut self.driver, &mut self.ended, &self.ledger);
        poll_fn(|cx| driven(driver, ended, cx, |cx| answer.as_mut().poll(cx))).await.map_err(|mut failed| {
            let refusal = ended.as_ref().and_then(|e| tls::refusal_in(e)).or_else(|| tls::refusal_in(failed.error()));
            // Later than the first request, it is no word about the handshake any more.
            match (refusal.filter(|_| new).map(tls::explain), failed.take_message()) {
                (Some(why), _) => Failure::Distrusted(format!("connect failed: TLS: {why}").into()),
                (None, Some(_)) => Failure::Unsent,
                (None, None) if failed.error().is_incomplete_message() && ledger.unseen() => Failure::Unsent,
                (None, None) if failed.error().is_parse() => Failure::Unreadable(describe(failed.error())),
                (None, None) => Failure::Broken(describe(failed.error())),
            }
        })
    }

    /// See [`Connection::next`](crate::axon::wire::Connection::next).
    pub async fn next(&mut self, body: &mut Incoming) -> Option<Result<Bytes, Cow<'static, str>>> {
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        let mut next = |cx: &mut Context<'_>| {
            loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => return Poll::Ready(Some(Ok(data))),
                        Err(_trailers) => continue,
                    },
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(describe(&e)))),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        };
        poll_fn(|cx| driven(driver, ended, cx, &mut next)).await
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
        drive(&mut self.driver, &mut self.ended, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
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
}

/// hyper's words for an error, its cause included; they hold nothing of the request.
fn describe(error: &hyper::Error) -> Cow<'static, str> {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}").into(),
        None => error.to_string().into(),
    }
}

/// Polls what waits for the connection, and the connection.
///
/// The two tell each other through channels that wake whoever polled last; with the task's own waker each
/// step would schedule the task again for nothing. So the task's waker goes only to the connection, whose
/// wakes come from the socket, and what waits for it is asked again after each of its steps.
fn driven<T>(
    driver: &mut Option<Driver>,
    ended: &mut Option<hyper::Error>,
    cx: &mut Context<'_>,
    mut waiting: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    let quiet = &mut Context::from_waker(Waker::noop());
    drive(driver, ended, quiet);
    if let Poll::Ready(done) = waiting(quiet) {
        return Poll::Ready(done);
    }
    drive(driver, ended, cx);
    waiting(quiet)
}

/// Lets the connection read and write what it can. That it ended reaches the caller through the answer or
/// the body that it cuts off.
fn drive(driver: &mut Option<Driver>, ended: &mut Option<hyper::Error>, cx: &mut Context<'_>) {
    let Some(running) = driver else { return };
    if let Poll::Ready(result) = Pin::new(running).poll(cx) {
        *ended = result.err();
        *driver = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::axon::socket::Socket;

    /// The moment between the look at an idle connection and its use, in which its end arrives.
    #[tokio::test]
    async fn a_request_is_given_back_when_the_end_is_met_before_a_byte_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let stream = TcpStream::connect(address).await.expect("connect");
        let mut connection = Http1::begin(Stream::Plain(Socket::new(stream))).await.expect("a connection");
        let (mut axon, _) = listener.accept().await.expect("accept");
        let request = || Request::builder().uri("/").body(Bytes::new()).expect("a request");
        let answer = async {
            axon.read_buf(&mut Vec::new()).await.expect("a request");
            axon.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an answer");
        };
        let (sent, ()) = tokio::join!(connection.send(request()), answer);
        assert_eq!(sent.expect("an answer").status(), 204);
        assert!(connection.settle(0));

        drop(axon);
        // What happened later is seen later: once this has come, so has the end of the other.
        let mut later = TcpStream::connect(address).await.expect("connect");
        listener.accept().await.expect("accept").0.write_all(b"!").await.expect("write");
        assert_eq!(later.read_u8().await.expect("read"), b'!');

        let failed = tokio::time::timeout(Duration::from_secs(10), connection.send(request())).await;
        assert!(matches!(failed.expect("no wait for what cannot come"), Err(Failure::Unsent)));
    }
}
