//! Client connections: reads each request's head under its own deadline and bound, refuses what the front
//! door refuses, and hands the rest to Pingora.
//!
//! Pingora reads heads with a timeout per read, so a client that drips one line at a time holds its
//! connection for ever; it forgives duplicate lengths, bare line feeds and chunk framing that two parsers
//! can read differently; and it answers what it cannot parse in its own words. All three end here: a
//! head reaches Pingora whole, as a prefix that its session parses without another read.

pub(crate) mod chunks;
mod stream;

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora_core::apps::{HttpServerApp, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::clock::Moment;
use crate::edge::chunks::ChunkAudit;
use crate::edge::stream::{Body, ClientStream};
use crate::error::{Code, Rejection};
use crate::gate::Standing;
use crate::gateway::Gateway;
use crate::observation::Observation;
use crate::pipeline::Arrival;
use crate::proxy::Proxy;
use crate::reply::{Answer, Common};
use crate::request::correlation::Ids;
use crate::request::head::{Framing, Head, bad_line, end_of_head, has_bare_line_feed, overflow};
use crate::request::route::Endpoint;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Counted;

/// First read of a head; most heads fit.
const HEAD_BYTES_USUAL: usize = 2048;
/// How long the last answer of a connection may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// The application that Pingora's listeners hand connections to.
pub struct Edge {
    gateway: Arc<Gateway>,
    proxy: Arc<HttpProxy<Proxy>>,
    /// Pingora holds the edge once for its listeners and once for every accepted connection, also for one
    /// that no thread has come to yet; a drain waits for all of them.
    _waited_for: TaskTrackerToken,
}

/// How the wait for a head ended.
enum Next {
    /// A whole head, ending at `end`, and whatever came behind it.
    Head { bytes: BytesMut, end: usize, began: Moment },
    /// What came cannot be a request.
    Refused { rejection: Rejection, began: Moment },
    /// Nothing came, and nobody is owed an answer.
    Closed,
}

impl Edge {
    pub fn new(gateway: Arc<Gateway>, proxy: HttpProxy<Proxy>) -> Self {
        let waited_for = gateway.connections.token();
        Self { gateway, proxy: Arc::new(proxy), _waited_for: waited_for }
    }

    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let gateway = &*self.gateway;
        let _counted = Counted::new(&gateway.telemetry.metrics.connections);
        let peer = peer_of(&stream);
        let mut stream = Box::new(ClientStream::new(stream));
        let mut shutdown_seen = shutdown.clone();

        let connections = gateway.telemetry.metrics.connections.get();
        if connections > i64::from(gateway.snapshot().settings.listen.connections) {
            // No lingering here: what is too much must not stay longer than it takes to say so.
            let rejection = Rejection::unavailable("overload", "listen.connections are open").closing();
            self.refuse(&mut stream, rejection, gateway.clock.now()).await;
            return;
        }

        let mut first = true;
        loop {
            let (bytes, end, began) = match self.next_head(&mut stream, first, &mut shutdown_seen).await {
                Next::Head { bytes, end, began } => (bytes, end, began),
                Next::Refused { rejection, began } => return self.turn_away(&mut stream, rejection, began).await,
                Next::Closed => return,
            };
            first = false;
            let head = match Head::parse(Bytes::copy_from_slice(bytes.get(..end).unwrap_or_default())) {
                Ok(head) => head,
                Err(rejection) => return self.turn_away(&mut stream, rejection, began).await,
            };
            let snapshot = gateway.snapshot();
            let ids = Ids::of(Some(&head), &*gateway.ids, began);
            let arrival = Arrival { head, ids, peer, began, snapshot };
            match self.hand_over(stream, bytes, end, arrival, shutdown).await {
                Some(back) => stream = back,
                None => return,
            }
        }
    }

    /// Lets Pingora serve one request; gives the stream back if another can follow.
    async fn hand_over(
        &self,
        mut stream: Box<ClientStream>,
        mut bytes: BytesMut,
        end: usize,
        arrival: Arrival,
        shutdown: &ShutdownWatch,
    ) -> Option<Box<ClientStream>> {
        let mut behind = bytes.split_off(end);
        let prefix = essence(&arrival.head, &mut behind);
        let body = match arrival.head.framing() {
            Framing::None => Body::Bytes { left: 0 },
            Framing::Length(length) => Body::Bytes { left: length - prefix.body },
            Framing::Chunked => Body::Chunks(ChunkAudit::new()),
        };
        stream.expect(body, behind);
        let listen = &arrival.snapshot.settings.listen;
        let body_timeout = listen.body_timeout;
        let mut session = ServerSession::new_http1(stream);
        session.set_read_timeout(Some(body_timeout));
        session.set_pipelined_prefix(prefix.bytes);
        session.set_connection_user_context(Some(Box::new(arrival)));
        let reused = self.proxy.process_new_http(session, shutdown).await?;
        let (stream, _settings) = reused.consume();
        let mut stream = stream.into_any().downcast::<ClientStream>().ok()?;
        if stream.end_of_request() {
            return Some(stream);
        }
        stream.linger().await;
        None
    }

    /// Waits for a request's head: `listen.idle_timeout` for its first byte (`listen.header_timeout` on a
    /// new connection), `listen.header_timeout` in all for the rest, `listen.header_bytes` in all.
    async fn next_head(&self, stream: &mut ClientStream, first: bool, shutdown: &mut ShutdownWatch) -> Next {
        let snapshot = self.gateway.snapshot();
        let listen = &snapshot.settings.listen;
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES_USUAL);
        let wait = if first { listen.header_timeout } else { listen.idle_timeout };
        let read = tokio::select! {
            biased;
            read = timeout(wait, stream.read_buf(&mut bytes)) => read,
            () = closing(shutdown, if first { FAREWELL } else { Duration::ZERO }) => return Next::Closed,
        };
        let began = self.gateway.clock.now();
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Next::Closed,
            Err(_) if first => return Next::Refused { rejection: too_slow("no request came"), began },
            Err(_) => return Next::Closed,
        }

        let header_bytes = listen.header_bytes as usize;
        let (mut searched, mut deadline) = (0, None);
        loop {
            match end_of_head(&bytes, searched) {
                Some(end) if end <= header_bytes => return Next::Head { bytes, end, began },
                Some(_) => return Next::Refused { rejection: overflow(&bytes), began },
                None if bytes.len() >= header_bytes => return Next::Refused { rejection: overflow(&bytes), began },
                None if has_bare_line_feed(&bytes, searched) => return Next::Refused { rejection: bad_line(), began },
                None => searched = bytes.len(),
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + listen.header_timeout);
            bytes.reserve(HEAD_BYTES_USUAL);
            match timeout_at(deadline, stream.read_buf(&mut bytes)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Next::Closed,
                Err(_) => return Next::Refused { rejection: too_slow("head came too slowly"), began },
            }
        }
    }

    /// Refuses, and sees to it that the answer arrives.
    async fn turn_away(&self, stream: &mut ClientStream, rejection: Rejection, began: Moment) {
        self.refuse(stream, rejection, began).await;
        stream.linger().await;
    }

    /// Answers what never became a request that Pingora could serve.
    async fn refuse(&self, stream: &mut ClientStream, rejection: Rejection, began: Moment) {
        let gateway = &*self.gateway;
        let snapshot: Arc<Snapshot> = gateway.snapshot();
        let now = gateway.clock.now();
        let ids = Ids::of(None, &*gateway.ids, began);
        let answer = Answer::rejection(&rejection, &ids, now);
        let common = Common { ids: &ids, standing: &Standing::default(), decision: None, now };
        let wire = answer.to_wire(&common);
        // A client that does not take its answer has none coming.
        let _ = timeout(FAREWELL, async {
            stream.write_all(&wire).await?;
            stream.flush().await
        })
        .await;
        let mut observation = Observation::begin(&ids, None, Endpoint::Other, began);
        observation.status = answer.status;
        observation.ended = gateway.clock.now();
        observation.refusal = Some(rejection);
        gateway.observe(&observation, &snapshot);
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.serve(stream, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// What Pingora gets to see of a request.
struct Essence {
    bytes: BytesMut,
    /// How many of the bytes are body.
    body: u64,
}

/// Writes what Pingora has to know of a request: whether its answer has a body, how its own body is framed,
/// and whether the connection goes on. Pingora's parser refuses targets, hosts and fields that are fine here,
/// in its own words, so it never sees them.
///
/// Takes the body from the bytes `behind` the head when its length is known, which spares Pingora a buffer.
/// What is then still behind is the next request: it is not served, and the connection ends with this answer.
fn essence(head: &Head, behind: &mut BytesMut) -> Essence {
    let length = match head.framing() {
        Framing::None | Framing::Chunked => 0,
        Framing::Length(length) => length,
    };
    let body = behind.split_to(length.min(behind.len() as u64) as usize);
    let ahead = head.framing() != Framing::Chunked && !behind.is_empty();
    let method = if head.method() == "HEAD" { "HEAD" } else { "POST" };
    let version = if head.is_http10() { "1.0" } else { "1.1" };
    let connection = if head.keeps_connection() && !ahead { "keep-alive" } else { "close" };
    let mut bytes = BytesMut::with_capacity(128 + body.len());
    // Writing to a buffer that grows cannot fail.
    let _ = write!(bytes, "{method} / HTTP/{version}\r\nConnection: {connection}\r\n");
    let _ = match head.framing() {
        Framing::None => write!(bytes, "\r\n"),
        Framing::Length(length) => write!(bytes, "Content-Length: {length}\r\n\r\n"),
        Framing::Chunked => write!(bytes, "Transfer-Encoding: chunked\r\n\r\n"),
    };
    bytes.extend_from_slice(&body);
    Essence { bytes, body: body.len() as u64 }
}

/// Resolves once listeners were told to close and `grace` has passed: who has just connected was accepted, and
/// gets a moment to say what for.
async fn closing(shutdown: &mut ShutdownWatch, grace: Duration) {
    // An error means that the sender is gone, which is the end as well.
    let _ = shutdown.wait_for(|closing| *closing).await;
    if !grace.is_zero() {
        tokio::time::sleep(grace).await;
    }
}

fn too_slow(why: &'static str) -> Rejection {
    Rejection::new(Code::RequestTimeout, why).closing()
}

fn peer_of(stream: &Stream) -> IpAddr {
    let digest = stream.get_socket_digest();
    let address = digest.as_ref().and_then(|d| d.peer_addr()).and_then(|a| a.as_inet());
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip())
}
