//! A client's connection between Pingora's transport and Pingora's HTTP session.
//!
//! It gives back bytes that the edge read too far, follows chunked framing, and closes so that the
//! last answer arrives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::edge::chunks::ChunkAudit;

/// How long a closing connection waits for the client to take its last answer.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that a closing connection reads and throws away.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// One client connection.
#[derive(Debug)]
pub struct ClientStream {
    inner: Stream,
    /// Body bytes that came with the head of a chunked request.
    pending: BytesMut,
    audit: Option<ChunkAudit>,
}

impl ClientStream {
    pub fn new(inner: Stream) -> Self {
        Self { inner, pending: BytesMut::new(), audit: None }
    }

    /// The next body is chunked and begins with `pending`.
    pub fn expect_chunks(&mut self, pending: BytesMut) {
        self.pending = pending;
        self.audit = Some(ChunkAudit::new());
    }

    /// Back to bytes without framing; says whether the stream stands at a request boundary.
    pub fn end_of_request(&mut self) -> bool {
        let framed = self.audit.take().is_none_or(|audit| audit.done());
        framed && self.pending.is_empty()
    }

    /// Sends the end of the stream, then reads until the client ends it too, within a bound. Closing with
    /// unread bytes makes the kernel send a reset, which can destroy an answer the client has not read yet
    /// (RFC 9112, section 9.6).
    pub async fn linger(&mut self) {
        let discard = async {
            if self.inner.shutdown().await.is_err() {
                return;
            }
            let mut scratch = vec![0; 16 * 1024];
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match self.inner.read(&mut scratch).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => left = left.saturating_sub(n),
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, discard).await;
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.pending.has_remaining() {
            let n = this.pending.len().min(buf.remaining());
            buf.put_slice(&this.pending.split_to(n));
        } else {
            std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        }
        if let Some(audit) = &mut this.audit {
            let fresh = buf.filled().get(before..).unwrap_or_default();
            audit.feed(fresh).map_err(|sloppy| io::Error::new(io::ErrorKind::InvalidData, sloppy.0))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        self.linger().await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for ClientStream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

impl Peek for ClientStream {}
