//! A request on its way out: its head and a small body in one buffer, which one write sends; a large body
//! behind it as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::axon::asking::Asking;
use crate::axon::stream::Stream;

/// What of a request is not sent yet.
#[derive(Debug, Default)]
pub struct Upload {
    /// With a small body behind it.
    head: BytesMut,
    body: Bytes,
    /// Something may still be on its way through a layer below.
    unflushed: bool,
}

impl Upload {
    pub fn new(asking: Asking<'_>) -> Self {
        let (head, body) = asking.into_bytes();
        Self { head, body, unflushed: true }
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
