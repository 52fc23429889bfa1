//! Pingora with the upstream call made in `request_filter`, by one of three HTTP clients. Decides which client
//! Orbit's forwarder uses, so the three do exactly the same work around the call: whole body read within a
//! deadline, request built from an allow-list, answer buffered within a bound, exact `Content-Length`, upstream
//! abandoned as soon as the client leaves.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use orbit_load::{BODY, BODY_BYTES, CONNECT, FIRST_BYTE, Failure, IDLE, POOL, options, serve};
use parking_lot::Mutex;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What goes to Axon: nothing of the caller's head but its media type.
struct Call {
    content_type: Option<HeaderValue>,
    body: Bytes,
}

/// What came back, whole.
struct Answer {
    status: http::StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

enum Client {
    Connector(Box<ViaConnector>),
    Hyper(Inline),
    HyperSpawned(Spawned),
}

struct Filter {
    client: Client,
}

#[async_trait]
impl ProxyHttp for Filter {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> Result<bool> {
        let downstream = session.as_downstream_mut();
        let call = Call {
            content_type: downstream.get_header(header::CONTENT_TYPE).cloned(),
            body: timeout(BODY, read_body(downstream)).await.map_err(|_| status(408))??,
        };
        let answer = tokio::select! {
            biased;
            answer = timeout(FIRST_BYTE, self.call(call)) => answer.map_err(|_| status(504))??,
            _ = downstream.read_body_or_idle(true) => return Err(Error::new(ErrorType::ConnectionClosed).into_down()),
        };
        let mut head = ResponseHeader::build(answer.status, Some(4))?;
        if let Some(value) = answer.content_type {
            head.insert_header(header::CONTENT_TYPE, value)?;
        }
        head.insert_header(header::CONTENT_LENGTH, answer.body.len())?;
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(answer.body), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Err(status(500))
    }
}

impl Filter {
    async fn call(&self, call: Call) -> Result<Answer> {
        match &self.client {
            Client::Connector(client) => client.call(call).await,
            Client::Hyper(client) => client.call(call).await,
            Client::HyperSpawned(client) => client.call(call).await,
        }
    }
}

fn status(code: u16) -> Box<Error> {
    Error::new(ErrorType::HTTPStatus(code))
}

async fn read_body(session: &mut ServerSession) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = session.read_request_body().await? {
        if body.is_empty() && session.is_body_done() {
            return Ok(chunk);
        }
        if body.len() + chunk.len() > BODY_BYTES {
            return Err(status(413));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

// ---- Pingora's connector

struct ViaConnector {
    connector: Connector,
    peer: HttpPeer,
    host: HeaderValue,
}

impl ViaConnector {
    fn new(axon: SocketAddr) -> Result<Self, Failure> {
        let mut peer = HttpPeer::new(axon, false, String::new());
        peer.options.connection_timeout = Some(CONNECT);
        peer.options.idle_timeout = Some(IDLE);
        let connector = Connector::new(Some(ConnectorOptions::new(POOL)));
        Ok(Self { connector, peer, host: HeaderValue::from_str(&axon.to_string())? })
    }

    async fn call(&self, call: Call) -> Result<Answer> {
        let mut request = RequestHeader::build("POST", b"/dispatch", Some(4))?;
        request.insert_header(header::HOST, self.host.clone())?;
        request.insert_header(header::CONTENT_LENGTH, call.body.len())?;
        if let Some(value) = call.content_type {
            request.insert_header(header::CONTENT_TYPE, value)?;
        }
        let (mut axon, _reused) = self.connector.get_http_session(&self.peer).await?;
        axon.write_request_header(Box::new(request)).await?;
        axon.write_request_body(call.body, true).await?;
        axon.finish_request_body().await?;
        axon.read_response_header().await?;
        let head = axon.response_header().ok_or_else(|| status(502))?;
        let (status_code, content_type) = (head.status, head.headers.get(header::CONTENT_TYPE).cloned());
        let mut body = Bytes::new();
        while let Some(chunk) = axon.read_response_body().await? {
            if body.len() + chunk.len() > BODY_BYTES {
                return Err(status(502));
            }
            body = if body.is_empty() { chunk } else { [body, chunk].concat().into() };
        }
        self.connector.release_http_session(axon, &self.peer, self.peer.options.idle_timeout).await;
        Ok(Answer { status: status_code, content_type, body })
    }
}

// ---- hyper

type Sender = SendRequest<Full<Bytes>>;
type Driver = Connection<TokioIo<TcpStream>, Full<Bytes>>;

struct Target {
    axon: SocketAddr,
    host: HeaderValue,
}

impl Target {
    fn new(axon: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { axon, host: HeaderValue::from_str(&axon.to_string())? })
    }

    async fn connect(&self) -> Result<(Sender, Driver)> {
        let connected = timeout(CONNECT, TcpStream::connect(self.axon)).await;
        let stream = connected.map_err(|_| status(504))?.or_err(ErrorType::ConnectError, "connecting to axon")?;
        stream.set_nodelay(true).or_err(ErrorType::ConnectError, "setting nodelay")?;
        Builder::new().handshake(TokioIo::new(stream)).await.or_err(ErrorType::ConnectError, "handshake")
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::post("/dispatch")
            .header(header::HOST, self.host.clone())
            .header(header::CONTENT_LENGTH, HeaderValue::from(call.body.len()));
        if let Some(value) = call.content_type {
            request = request.header(header::CONTENT_TYPE, value);
        }
        request.body(Full::new(call.body)).or_err(ErrorType::InternalError, "building the request")
    }
}

async fn exchange(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Answer> {
    let answer = sender.send_request(request).await.or_err(ErrorType::ReadError, "calling axon")?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| status(502))?.to_bytes();
    Ok(Answer { status: head.status, content_type: head.headers.get(header::CONTENT_TYPE).cloned(), body })
}

/// The connection's state machine runs inside the request's own task: no second task, no cross-task wake-up.
struct Inline {
    target: Target,
    idle: Mutex<Vec<(Sender, Driver)>>,
}

impl Inline {
    async fn call(&self, call: Call) -> Result<Answer> {
        let request = self.target.request(call)?;
        let (mut sender, mut driver) = match self.reuse() {
            Some(pair) => pair,
            None => self.target.connect().await?,
        };
        let answer = drive(&mut driver, exchange(&mut sender, request)).await?;
        // The driver learns that the exchange is over only when polled after the body was taken.
        if is_open(&mut driver) && sender.is_ready() {
            let mut idle = self.idle.lock();
            if idle.len() < POOL {
                idle.push((sender, driver));
            }
        }
        Ok(answer)
    }

    /// Nobody polls an idle driver, so one poll here tells whether Axon has closed it meanwhile.
    fn reuse(&self) -> Option<(Sender, Driver)> {
        loop {
            let (sender, mut driver) = self.idle.lock().pop()?;
            if is_open(&mut driver) && sender.is_ready() {
                return Some((sender, driver));
            }
        }
    }
}

/// One poll that leaves no waker behind: an idle connection must not wake the task that used it last, nor the one
/// that is about to send on it.
fn is_open(driver: &mut Driver) -> bool {
    Pin::new(driver).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Polls `driver` and `exchange` in turn until the exchange ends.
///
/// The two wake each other at every step (request queued, head parsed, body wanted, body there). Inside one task each
/// such wake-up would only schedule this task once more for nothing, so all steps but the last are polled with a waker
/// that does nothing. The task's own waker stays with the driver, which alone waits for the socket; it is polled
/// with it after the exchange could make no more progress.
///
/// Invariant: `exchange` waits for nothing but `driver`.
async fn drive(driver: &mut Driver, exchange: impl Future<Output = Result<Answer>>) -> Result<Answer> {
    let mut exchange = pin!(exchange);
    let mut closed = false;
    std::future::poll_fn(|task| {
        let mut quiet = Context::from_waker(Waker::noop());
        for wait in [false, true] {
            if !closed {
                let context = if wait { &mut *task } else { &mut quiet };
                closed = Pin::new(&mut *driver).poll(context).is_ready();
            }
            if let Poll::Ready(answer) = exchange.as_mut().poll(&mut quiet) {
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    })
    .await
}

/// The usual way: a task per connection, as hyper's documentation has it.
struct Spawned {
    target: Target,
    idle: Mutex<Vec<Sender>>,
}

impl Spawned {
    async fn call(&self, call: Call) -> Result<Answer> {
        let request = self.target.request(call)?;
        let mut sender = match self.reuse() {
            Some(sender) => sender,
            None => {
                let (sender, driver) = self.target.connect().await?;
                tokio::spawn(driver);
                sender
            }
        };
        let answer = exchange(&mut sender, request).await?;
        // `is_ready` turns true when the connection's task has run once more, usually after this one:
        // what is popped later is asked again.
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < POOL {
            idle.push(sender);
        }
        drop(idle);
        Ok(answer)
    }

    fn reuse(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        // Oldest first would be ready surely; newest first keeps few connections. One that is not ready yet stays.
        while let Some(at) = idle.iter().rposition(|sender| sender.is_closed() || sender.is_ready()) {
            let sender = idle.swap_remove(at);
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }
}

fn main() -> Result<(), Failure> {
    let option = options(&["axon", "runtime", "client"])?;
    let axon = option("axon").ok_or("`--axon ADDRESS` is missing")?.parse()?;
    let client = match option("client").as_deref() {
        Some("connector") => Client::Connector(Box::new(ViaConnector::new(axon)?)),
        Some("hyper") => Client::Hyper(Inline { target: Target::new(axon)?, idle: Mutex::default() }),
        Some("hyper-spawned") => Client::HyperSpawned(Spawned { target: Target::new(axon)?, idle: Mutex::default() }),
        other => return Err(format!("`--client connector|hyper|hyper-spawned` is needed, got {other:?}").into()),
    };
    serve(Filter { client }, option("runtime").as_deref().unwrap_or("stealing"))
}
