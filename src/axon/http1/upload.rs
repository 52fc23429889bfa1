//! A request on its way out: its head and a small body in one buffer, which one write sends; a large body
//! behind it as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::axon::asking::Asking;
use crate::axon::stream::Stream;
use crate::flow::poll_write_both;

/// What of a request is not sent yet.
#[derive(Debug, Default)]
pub struct Upload {
    /// With a small body behind it.
    head: Vec<u8>,
    /// Bytes of it that are sent.
    sent: usize,
    body: Bytes,
    /// Something may still be on its way through a layer below.
    unflushed: bool,
}

impl Upload {
    pub fn new(asking: Asking<'_>) -> Self {
        let (head, body) = asking.into_bytes();
        Self { head, sent: 0, body, unflushed: true }
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
        loop {
            let head = self.head.get(self.sent..).unwrap_or_default();
            if head.is_empty() && self.body.is_empty() {
                break;
            }
            let sent = ready!(poll_write_both(stream.as_mut(), cx, head, &self.body))?;
            let of_head = sent.min(head.len());
            self.sent += of_head;
            self.body.advance(sent - of_head);
        }
        ready!(stream.poll_flush(cx))?;
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}
