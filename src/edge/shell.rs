//! What Pingora holds while its filters run: a session that carries a visit, and does nothing else.
//!
//! Pingora's own HTTP/1 session would parse each head a second time, build its answer's head in a map, write head
//! and body in two pieces, and keep 2 KiB per idle connection; together a quarter of what a request costs
//! (`docs/performance.md`). So Pingora runs its filter sequence over a session of ours, through its extension point
//! for other protocols (`ServerSession::new_custom`), and the visit, with the real connection, travels in the
//! digest's user data, the one place for values of ours that every session has.
//!
//! The trait is `#[doc(hidden)]`, so a new Pingora may change it: the compiler then says so. Its methods for bytes
//! are never called, since the only filter answers every request itself; called, they fail.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::edge::client::Client;
use crate::pipeline::Arrival;

/// A request and the connection that it came on.
pub struct Visit {
    pub client: Client,
    pub arrival: Arrival,
}

/// Where a visit waits while it goes from the connection to Pingora's filter and back. One for each connection.
#[derive(Clone)]
pub struct Slot {
    visit: Arc<Mutex<Option<Box<Visit>>>>,
    digest: Arc<ProxyDigest>,
}

impl Slot {
    /// # Errors
    /// Pingora's, when it cannot build an empty head.
    pub fn new() -> pingora::Result<Self> {
        let visit: Arc<Mutex<Option<Box<Visit>>>> = Arc::default();
        let head = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
        let digest = Arc::new(ProxyDigest::new(head, Some(Box::new(visit.clone()))));
        Ok(Self { visit, digest })
    }

    /// A session that Pingora can run its filters over, with this visit in it.
    pub fn session(&self, visit: Box<Visit>) -> pingora::Result<ServerSession> {
        *self.visit.lock() = Some(visit);
        // Pingora looks at nothing but the method, and that only to refuse CONNECT, which the front door has done.
        let header = RequestHeader::build_no_case(Method::POST, b"/", Some(0))?;
        let digest = Digest { proxy_digest: Some(self.digest.clone()), ..Digest::default() };
        Ok(ServerSession::new_custom(Box::new(Shell { header, digest })))
    }

    /// The visit, once the filters have run. `None` if they lost it.
    pub fn take(&self) -> Option<Box<Visit>> {
        self.visit.lock().take()
    }
}

/// The visit that a session carries, lent for as long as the filter runs.
pub fn visit_of(session: &ServerSession) -> Option<Arc<Mutex<Option<Box<Visit>>>>> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref().cloned()
}

struct Shell {
    header: RequestHeader,
    digest: Digest,
}

fn unused<T>() -> pingora::Result<T> {
    Err(pingora::Error::explain(pingora::ErrorType::InternalError, "the edge reads and writes by itself"))
}

#[async_trait]
impl Session for Shell {
    fn req_header(&self) -> &RequestHeader {
        &self.header
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.header
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    async fn finish(&mut self) -> pingora::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self, _: u32, _: &str) {}

    async fn read_body_bytes(&mut self) -> pingora::Result<Option<Bytes>> {
        unused()
    }

    async fn drain_request_body(&mut self) -> pingora::Result<()> {
        unused()
    }

    async fn read_body_or_idle(&mut self, _: bool) -> pingora::Result<Option<Bytes>> {
        unused()
    }

    async fn write_response_header(&mut self, _: Box<ResponseHeader>, _: bool) -> pingora::Result<()> {
        unused()
    }

    async fn write_response_header_ref(&mut self, _: &ResponseHeader, _: bool) -> pingora::Result<()> {
        unused()
    }

    async fn write_body(&mut self, _: Bytes, _: bool) -> pingora::Result<()> {
        unused()
    }

    async fn write_trailers(&mut self, _: HeaderMap) -> pingora::Result<()> {
        unused()
    }

    async fn response_duplex_vec(&mut self, _: Vec<HttpTask>) -> pingora::Result<bool> {
        unused()
    }

    async fn finish_custom(&mut self) -> pingora::Result<()> {
        unused()
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        String::new()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        None
    }

    fn is_body_done(&mut self) -> bool {
        true
    }

    fn is_body_empty(&mut self) -> bool {
        true
    }

    fn body_bytes_sent(&self) -> usize {
        0
    }

    fn body_bytes_read(&self) -> usize {
        0
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = pingora::Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Stream<Item = pingora::Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> pingora::Result<()> {
        unused()
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> pingora::Result<()> {
        unused()
    }
}
