//! A TCP socket that can tell, when its peer has hung up, whether the peer can have seen what was sent last.
//!
//! A server that closes an idle connection just as a request arrives on it looks like one that read the
//! request and died: both end in a FIN instead of an answer. TCP knows the difference. Every segment that the
//! peer sends acknowledges all that has reached it, its FIN too; so a FIN that acknowledges no byte of the
//! request was sent before any byte of it arrived, by a peer that can send no answer any more. Such a request
//! was not begun, and may be sent again, whatever it asks for.
//!
//! A reset proves nothing: it may follow a request that was read and not yet acknowledged.
//!
//! Invariant: [`Ledger::unseen`] is only true where the kernel's own count says so; any doubt is false.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const NOT_KNOWN: u64 = u64::MAX;

/// What was sent, and what of it the peer had.
pub struct Ledger {
    written: AtomicU64,
    /// What was written before the last request.
    before: AtomicU64,
    /// What the peer had when it hung up; [`NOT_KNOWN`] until then.
    acknowledged: AtomicU64,
}

/// A TCP socket that keeps a ledger.
pub struct Socket {
    tcp: TcpStream,
    ledger: Arc<Ledger>,
}

impl Ledger {
    /// A request begins.
    pub fn begin(&self) {
        self.before.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
        self.acknowledged.store(NOT_KNOWN, Ordering::Relaxed);
    }

    /// Whether the peer hung up before a byte of the request had reached it.
    pub fn unseen(&self) -> bool {
        self.unseen_after(self.before.load(Ordering::Relaxed))
    }

    /// Whether nothing of the request was sent.
    pub fn nothing_written(&self) -> bool {
        self.written() == self.before.load(Ordering::Relaxed)
    }

    /// Bytes sent so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the peer hung up before anything had reached it of what was sent after the first `written` bytes.
    pub fn unseen_after(&self, written: u64) -> bool {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        acknowledged != NOT_KNOWN && acknowledged <= written
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl Socket {
    pub fn new(tcp: TcpStream) -> Self {
        let counts = [0, 0, NOT_KNOWN].map(AtomicU64::new);
        let [written, before, acknowledged] = counts;
        Self { tcp, ledger: Arc::new(Ledger { written, before, acknowledged }) }
    }

    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Reads without waiting, and without a system call while nothing has come.
    pub fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.tcp.try_read(bytes)
    }

    /// Looks into the books once nothing more can be read.
    pub fn at_the_end(&self) {
        self.ledger.acknowledged.store(acknowledged(&self.tcp).unwrap_or(NOT_KNOWN), Ordering::Relaxed);
    }
}

/// How many bytes the peer has acknowledged; `None` unless it has sent its FIN and the kernel can tell.
#[cfg(target_os = "linux")]
fn acknowledged(tcp: &TcpStream) -> Option<u64> {
    use std::os::fd::AsRawFd;
    /// `TCP_ESTABLISHED` of Linux's `include/net/tcp_states.h`: no FIN has come.
    const ESTABLISHED: u8 = 1;
    let info = pingora_core::protocols::l4::ext::get_tcp_info(tcp.as_raw_fd()).ok()?;
    // The SYN counts as the first.
    if info.tcpi_state == ESTABLISHED { None } else { info.tcpi_bytes_acked.checked_sub(1) }
}

#[cfg(not(target_os = "linux"))]
fn acknowledged(_: &TcpStream) -> Option<u64> {
    None
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { tcp, ledger } = self.get_mut();
        ledger.wrote(Pin::new(tcp).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { tcp, ledger } = self.get_mut();
        ledger.wrote(Pin::new(tcp).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let tcp = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        tcp.set_nodelay(true).expect("no delay");
        (Socket::new(tcp), listener.accept().await.expect("accept").0)
    }

    /// Reads to the end, and says what the ledger then says; `None` for a reset.
    async fn end(socket: &mut Socket) -> Option<bool> {
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(10), socket.read_to_end(&mut rest)).await.expect("an end");
        read.ok()?;
        socket.at_the_end();
        Some(socket.ledger().unseen())
    }

    async fn exchange(socket: &mut Socket, peer: &mut TcpStream) {
        socket.ledger().begin();
        socket.write_all(b"first").await.expect("write");
        peer.read_exact(&mut [0; 5]).await.expect("read");
        peer.write_all(b"answer").await.expect("write");
        socket.read_exact(&mut [0; 6]).await.expect("read");
    }

    #[tokio::test]
    async fn what_comes_after_the_fin_was_not_seen() {
        for used in [false, true] {
            let (mut socket, mut peer) = pair().await;
            if used {
                exchange(&mut socket, &mut peer).await;
            }
            // Ended before the request is written, and seen only after.
            drop(peer);
            socket.ledger().begin();
            // What is not taken is as good.
            let _ = socket.write_all(b"second").await;
            assert_eq!(end(&mut socket).await, Some(true), "used: {used}");
        }
    }

    #[tokio::test]
    async fn what_was_read_before_the_fin_was_seen() {
        for used in [false, true] {
            let (mut socket, mut peer) = pair().await;
            if used {
                exchange(&mut socket, &mut peer).await;
            }
            socket.ledger().begin();
            socket.write_all(b"second").await.expect("write");
            peer.read_exact(&mut [0; 6]).await.expect("read");
            drop(peer);
            assert_eq!(end(&mut socket).await, Some(false), "used: {used}");
        }
    }

    #[tokio::test]
    async fn a_part_is_enough_to_have_been_seen() {
        let (mut socket, mut peer) = pair().await;
        socket.ledger().begin();
        socket.write_all(b"s").await.expect("write");
        peer.read_exact(&mut [0; 1]).await.expect("read");
        drop(peer);
        let _ = socket.write_all(b"econd").await;
        assert_eq!(end(&mut socket).await, Some(false));
    }

    #[tokio::test]
    async fn a_reset_proves_nothing() {
        let (mut socket, peer) = pair().await;
        socket.ledger().begin();
        socket.write_all(b"second").await.expect("write");
        peer.readable().await.expect("arrived");
        // Closed over unread bytes.
        drop(peer);
        assert_ne!(end(&mut socket).await, Some(true));
        assert!(!socket.ledger().unseen());
    }

    #[tokio::test]
    async fn an_end_that_came_before_the_request_is_no_matter_of_an_earlier_one() {
        let (mut socket, mut peer) = pair().await;
        socket.ledger().begin();
        socket.write_all(b"first").await.expect("write");
        peer.read_exact(&mut [0; 5]).await.expect("read");
        drop(peer);
        assert_eq!(end(&mut socket).await, Some(false));
        socket.ledger().begin();
        assert!(!socket.ledger().unseen(), "until the books are looked into");
    }
}
