//! Bytes on their way through a connection of HTTP/1, a client's or Axon's: what both ends do alike.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// The first `count` bytes that were read, or all if there are fewer. The buffer goes with the last of them: what is
/// left would hold all of it.
pub fn first(read: &mut BytesMut, count: usize) -> Bytes {
    if count >= read.len() { std::mem::take(read).freeze() } else { read.split_to(count).freeze() }
}

/// Writes of both, one behind the other, as much as one call of the system takes; they are not both empty.
///
/// # Errors
/// The stream's; `WriteZero` where it takes nothing.
pub fn poll_write_both(
    stream: Pin<&mut (impl AsyncWrite + ?Sized)>,
    cx: &mut Context<'_>,
    first: &[u8],
    second: &[u8],
) -> Poll<io::Result<usize>> {
    let written = ready!(match (first.is_empty(), second.is_empty()) {
        (false, true) => stream.poll_write(cx, first),
        (true, _) => stream.poll_write(cx, second),
        (false, false) => stream.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)]),
    })?;
    Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
}
