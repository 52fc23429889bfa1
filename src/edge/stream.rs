//! A client's connection between Pingora's transport and Pingora's HTTP session.
//!
//! It gives back bytes that the edge read too far, follows the framing of bodies and holds back what is behind
//! their end, and closes so that the last answer arrives.

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

use crate::edge::chunks::{ChunkAudit, Sloppy};

/// How long a closing connection waits for the client to take its last answer.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that a closing connection reads and throws away.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// One client connection.
#[derive(Debug)]
pub struct ClientStream {
    inner: Stream,
    /// Bytes read too far: of a body that is still to come, or behind the end of one.
    pending: BytesMut,
    body: Body,
}

/// How far the body of a request still goes. What is read behind its end is held back: Pingora would drop it
/// together with the connection, and a connection dropped with unread bytes takes its answer along.
#[derive(Debug)]
pub enum Body {
    Bytes { left: u64 },
    Chunks(ChunkAudit),
}

impl Body {
    fn ended(&self) -> bool {
        match self {
            Body::Bytes { left } => *left == 0,
            Body::Chunks(audit) => audit.done(),
        }
    }

    /// Follows the next bytes; says how many of them are behind the end.
    fn follow(&mut self, bytes: &[u8]) -> Result<usize, Sloppy> {
        match self {
            Body::Bytes { left } => {
                let own = (bytes.len() as u64).min(*left);
                *left -= own;
                Ok(bytes.len() - own as usize)
            }
            Body::Chunks(audit) => audit.feed(bytes),
        }
    }
}

impl ClientStream {
    pub fn new(inner: Stream) -> Self {
        Self { inner, pending: BytesMut::new(), body: Body::Bytes { left: 0 } }
    }

    /// A body comes next; `pending` was read already.
    pub fn expect(&mut self, body: Body, pending: BytesMut) {
        self.pending = pending;
        self.body = body;
    }

    /// Whether the stream stands exactly between two requests.
    pub fn end_of_request(&self) -> bool {
        self.body.ended() && self.pending.is_empty()
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
        // Behind its end whoever reads looks for a sign of the client, and gets what there is.
        if !this.body.ended() {
            let fresh = buf.filled().get(before..).unwrap_or_default();
            let behind =
                this.body.follow(fresh).map_err(|sloppy| io::Error::new(io::ErrorKind::InvalidData, sloppy.0))?;
            if behind > 0 {
                let end = buf.filled().len() - behind;
                let mut held = BytesMut::from(buf.filled().get(end..).unwrap_or_default());
                held.unsplit(std::mem::take(&mut this.pending));
                this.pending = held;
                buf.set_filled(end);
            }
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
