//! A request on its way out: its head and a small body in one buffer, which one write sends; a large body
//! behind it as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use tokio::io::AsyncWrite;

use crate::axon::stream::Stream;

/// Largest body that is copied behind its head.
const SMALL_BODY_BYTES: usize = 16 * 1024;
/// Room for the head of a usual request.
const HEAD_BYTES_USUAL: usize = 640;

/// What of a request is not sent yet.
#[derive(Debug, Default)]
pub struct Upload {
    head: BytesMut,
    body: Bytes,
    /// Something may still be on its way through a layer below.
    unflushed: bool,
}

impl Upload {
    /// A request in HTTP/1.1. Its fields are written as they are; those that frame its body are the caller's.
    pub fn new(request: Request<Bytes>) -> Self {
        let (asked, body) = request.into_parts();
        let small = body.len() <= SMALL_BODY_BYTES;
        let mut head = BytesMut::with_capacity(HEAD_BYTES_USUAL + if small { body.len() } else { 0 });
        let target = asked.uri.path_and_query().map_or("/", |target| target.as_str());
        for part in [asked.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        for (name, value) in &asked.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        if small {
            head.extend_from_slice(&body);
        }
        Self { head, body: if small { Bytes::new() } else { body }, unflushed: true }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        !self.unflushed
    }

    /// Sends as much as `stream` takes; ready when all of it is sent.
    ///
    /// # Errors
    /// The stream's; no more will be sent.
    pub fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(stream);
        while !self.head.is_empty() || !self.body.is_empty() {
            let sent = match (self.head.is_empty(), self.body.is_empty()) {
                (false, false) => {
                    let both = [IoSlice::new(&self.head), IoSlice::new(&self.body)];
                    ready!(stream.as_mut().poll_write_vectored(cx, &both))?
                }
                (false, true) => ready!(stream.as_mut().poll_write(cx, &self.head))?,
                (true, _) => ready!(stream.as_mut().poll_write(cx, &self.body))?,
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(self.head.len());
            self.head.advance(of_head);
            self.body.advance(sent - of_head);
        }
        ready!(stream.poll_flush(cx))?;
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}
