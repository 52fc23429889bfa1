//! An Axon that speaks HTTP/2: each request is handed to the test's own code, connections can be told to
//! go away, to die or to fall silent.
//!
//! Invariant: as strict as the other [`Axon`](super::axon::Axon). A request with a field of HTTP/1.1's
//! connections, or whose length is not what it says, fails its test when the Axon is dropped.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::axon::{Gate, Recorded};
use super::client::{counted, within};
use super::secure::{Handshake, Speaks};

/// What every request is answered with that the test answers by [`Asked::answer`].
pub const ANSWER: &str = r#"{"message":"Axon heartbeat OK","service":"axon"}"#;

/// How it is spoken to.
#[derive(Clone, Default)]
pub struct Manners {
    /// Plain text otherwise.
    pub tls: Option<Speaks>,
    pub streams_max: Option<u32>,
    /// Connections wait here before anything is said on them.
    pub accept: Option<Gate>,
}

/// A running Axon; stops when dropped.
pub struct Axon2 {
    addr: SocketAddr,
    secure: bool,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A request, and how to answer it.
pub struct Asked {
    pub recorded: Recorded,
    /// The stream ended with its head.
    pub bodiless: bool,
    pub respond: SendResponse<Bytes>,
}

/// What becomes of the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Serve,
    /// No new streams, and an end when those are over.
    GoAway,
    /// The end at once.
    Die,
    /// Open, and nothing more is read or written.
    FallSilent,
}

struct Shared {
    requests: Mutex<Vec<Recorded>>,
    handshakes: Mutex<Vec<Handshake>>,
    violations: Mutex<Vec<String>>,
    counts: watch::Sender<Counts>,
    fate: watch::Sender<(Fate, usize)>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: usize,
    closed: usize,
    requests: usize,
}

type Handler = Arc<dyn Fn(Asked) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl Axon2 {
    /// Starts on a free port of 127.0.0.1. `handler` gets every request that has been read.
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        manners: Manners,
        handler: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("local address");
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            handshakes: Mutex::default(),
            violations: Mutex::default(),
            counts: watch::Sender::default(),
            fate: watch::Sender::new((Fate::Serve, 0)),
        });
        let secure = manners.tls.is_some();
        let handler: Handler = Arc::new(move |asked| Box::pin(handler(asked)));
        let accepting = tokio::spawn(accept(listener, manners, shared.clone(), handler));
        Self { addr, secure, shared, accepting }
    }

    /// One that answers every request at once.
    pub async fn answering(manners: Manners) -> Self {
        Self::start(manners, |asked| async move { asked.answer().await }).await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port`, or with `https`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.addr)
    }

    /// The requests so far, in the order in which they had been read. `host` is the authority; `turn` is the
    /// stream.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests().clone()
    }

    pub fn handshakes(&self) -> Vec<Handshake> {
        self.shared.handshakes.lock().expect("handshakes").clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().accepted
    }

    /// Tells the connections that are open to go away, and lets them finish.
    pub fn go_away(&self) {
        self.befall(Fate::GoAway);
    }

    /// Ends the connections that are open.
    pub fn die(&self) {
        self.befall(Fate::Die);
    }

    /// Leaves the connections that are open as they are, and says and hears nothing on them any more.
    pub fn fall_silent(&self) {
        self.befall(Fate::FallSilent);
    }

    fn befall(&self, fate: Fate) {
        let until = self.connections();
        self.shared.fate.send_replace((fate, until));
    }

    /// Waits until `n` requests have been read.
    #[track_caller]
    pub fn received(&self, n: usize) -> impl Future<Output = ()> {
        self.counted("requests", n, |c| c.requests)
    }

    /// Waits until `n` connections have ended.
    #[track_caller]
    pub fn closed(&self, n: usize) -> impl Future<Output = ()> {
        self.counted("closed connections", n, |c| c.closed)
    }

    /// Takes the violations so far, so that they don't fail the test.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.violations.lock().expect("violations"))
    }

    #[track_caller]
    fn counted(&self, what: &str, n: usize, count: fn(&Counts) -> usize) -> impl Future<Output = ()> {
        counted(self.shared.counts.subscribe(), what, n, count)
    }
}

impl Drop for Axon2 {
    fn drop(&mut self) {
        self.accepting.abort();
        let violations = self.take_violations();
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "Axon was sent bad HTTP/2: {violations:#?}");
        }
    }
}

impl Asked {
    /// Answers with [`ANSWER`].
    pub async fn answer(self) {
        self.answer_with(Response::builder().header("content-type", "application/json"), ANSWER).await;
    }

    pub async fn answer_with(mut self, head: http::response::Builder, body: impl Into<Bytes>) {
        let Ok(mut stream) = self.respond.send_response(head.body(()).expect("a head"), false) else { return };
        send(&mut stream, body.into(), true).await;
    }

    /// Sends the head of a streamed answer.
    pub fn begin(&mut self, content_type: &str) -> SendStream<Bytes> {
        let head = Response::builder().header("content-type", content_type).body(()).expect("a head");
        self.respond.send_response(head, false).expect("the stream is open")
    }

    pub fn refuse(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }
}

/// Sends as the peer's window allows; says how much was sent.
pub async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> usize {
    let whole = data.len();
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) if room > 0 => {
                let part = data.split_to(room.min(data.len()));
                if stream.send_data(part, false).is_err() {
                    break;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    let sent = whole - data.len();
    if end && data.is_empty() {
        let _ = stream.send_data(Bytes::new(), true);
    }
    sent
}

/// Waits until the peer has reset the stream.
#[track_caller]
pub fn reset_of(stream: &mut SendStream<Bytes>) -> impl Future<Output = Reason> {
    within(async move { std::future::poll_fn(|cx| stream.poll_reset(cx)).await.expect("the connection is open") })
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.requests.lock().expect("requests")
    }

    fn violation(&self, what: String) {
        self.violations.lock().expect("violations").push(what);
    }
}

async fn accept(listener: TcpListener, manners: Manners, shared: Arc<Shared>, handler: Handler) {
    let acceptor = manners.tls.as_ref().map(Speaks::acceptor);
    let mut connections = JoinSet::new();
    for number in 1.. {
        let (stream, _) = listener.accept().await.expect("accept");
        shared.counts.send_modify(|c| c.accepted += 1);
        let (manners, acceptor, shared, handler) = (manners.clone(), acceptor.clone(), shared.clone(), handler.clone());
        connections.spawn(async move {
            let _closed = Closed(shared.clone());
            if let Some(gate) = &manners.accept {
                gate.pass().await;
            }
            match acceptor {
                None => serve(stream, number, &manners, &shared, &handler).await,
                Some(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    shared.handshakes.lock().expect("handshakes").push(Handshake::of(&stream));
                    serve(stream, number, &manners, &shared, &handler).await;
                }
            }
        });
    }
}

struct Closed(Arc<Shared>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.counts.send_modify(|c| c.closed += 1);
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    number: usize,
    manners: &Manners,
    shared: &Arc<Shared>,
    handler: &Handler,
) {
    let mut builder = h2::server::Builder::new();
    if let Some(max) = manners.streams_max {
        builder.max_concurrent_streams(max);
    }
    // A peer that only connects to look leaves before it has said anything.
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut fate = shared.fate.subscribe();
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            asked = connection.accept() => {
                let Some(asked) = asked else { break };
                match asked {
                    Ok((request, respond)) => {
                        exchanges.spawn(exchange(request, respond, number, shared.clone(), handler.clone()));
                    }
                    Err(e) => {
                        // What the peer leaves behind is no error of its own.
                        if e.is_library() {
                            shared.violation(e.to_string());
                        }
                        break;
                    }
                }
            }
            changed = fate.changed() => {
                changed.expect("the fate outlives its subscriber");
                let (fate, until) = *fate.borrow_and_update();
                match fate {
                    _ if number > until => {}
                    Fate::Serve => {}
                    Fate::GoAway => connection.graceful_shutdown(),
                    Fate::Die => return,
                    Fate::FallSilent => std::future::pending().await,
                }
            }
        }
    }
}

async fn exchange(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    connection: usize,
    shared: Arc<Shared>,
    handler: Handler,
) {
    let turn = u32::from(respond.stream_id()) as usize;
    let (head, mut body) = request.into_parts();
    let bodiless = body.is_end_stream();
    let mut read = Vec::new();
    while let Some(part) = body.data().await {
        let Ok(part) = part else { return };
        let _ = body.flow_control().release_capacity(part.len());
        read.extend_from_slice(&part);
    }
    check(&head.headers, &read, &shared);
    let authority = head.uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let mut headers = vec![("host".to_owned(), authority)];
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.extend(head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))));
    let target = head.uri.path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default();
    let method = head.method.as_str().to_owned();
    let recorded = Recorded { connection, turn, method, target, headers, body: read };
    shared.requests().push(recorded.clone());
    shared.counts.send_modify(|c| c.requests += 1);
    handler(Asked { recorded, bodiless, respond }).await;
}

fn check(headers: &HeaderMap, body: &[u8], shared: &Shared) {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "host"] {
        if headers.contains_key(name) {
            shared.violation(format!("`{name}` has no place in HTTP/2"));
        }
    }
    let length = headers.get("content-length").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    if length.is_some_and(|length| length != Some(body.len())) {
        shared.violation(format!("content-length {length:?} of a body of {} bytes", body.len()));
    }
}

/// The other side of one connection, frame by frame, for what no server does.
pub struct Raw {
    stream: TcpStream,
}

/// One frame: RFC 9113, section 4.1.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// RFC 9113, section 6.
pub mod kind {
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
}

const ACK: u8 = 1;

impl Raw {
    /// Accepts a connection and says what a server says first.
    pub async fn accept(listener: &TcpListener) -> Self {
        let (mut stream, _) = within(listener.accept()).await.expect("accept");
        let mut preface = [0; 24];
        within(stream.read_exact(&mut preface)).await.expect("a preface");
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut raw = Self { stream };
        raw.write(&Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload: Vec::new() }).await;
        raw
    }

    pub async fn write(&mut self, frame: &Frame) {
        let length = u32::try_from(frame.payload.len()).expect("a small frame");
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([frame.kind, frame.flags]);
        bytes.extend(frame.stream.to_be_bytes());
        bytes.extend(&frame.payload);
        within(self.stream.write_all(&bytes)).await.expect("written");
    }

    /// The next frame that is not about the connection, which is answered as it should be; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            within(self.stream.read_exact(&mut head)).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            within(self.stream.read_exact(&mut payload)).await.ok()?;
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                kind::SETTINGS | kind::PING if frame.flags & ACK == 0 => {
                    let payload = if frame.kind == kind::PING { frame.payload } else { Vec::new() };
                    self.write(&Frame { kind: frame.kind, flags: ACK, stream: 0, payload }).await;
                }
                kind::SETTINGS | kind::PING | kind::WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next HEADERS, whose stream is given.
    pub async fn request(&mut self) -> u32 {
        loop {
            let frame = self.next().await.expect("a request");
            if frame.kind == kind::HEADERS {
                return frame.stream;
            }
        }
    }

    /// Answers with a head alone.
    pub async fn answer(&mut self, stream: u32, status: u16) {
        // A literal field with an indexed name, `:status` by its entry 8: RFC 7541, section 6.2.2.
        let payload = [&[0x08, 3][..], status.to_string().as_bytes()].concat();
        // END_STREAM and END_HEADERS.
        self.write(&Frame { kind: kind::HEADERS, flags: 0x5, stream, payload }).await;
    }

    /// Resets a stream: RFC 9113, section 6.4.
    pub async fn reset(&mut self, stream: u32, reason: Reason) {
        let payload = u32::from(reason).to_be_bytes().to_vec();
        self.write(&Frame { kind: kind::RST_STREAM, flags: 0, stream, payload }).await;
    }

    /// Sends a GOAWAY: no stream above `last` was processed.
    pub async fn go_away(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), 0u32.to_be_bytes()].concat();
        self.write(&Frame { kind: kind::GOAWAY, flags: 0, stream: 0, payload }).await;
    }
}
