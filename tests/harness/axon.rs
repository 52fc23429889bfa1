//! A scripted Axon: answers, misbehaves and waits exactly as told, and remembers what it was sent.
//!
//! Invariant: it is as strict about requests as the client is about responses. What isn't clean
//! HTTP/1.1 is a violation, and an [`Axon`] with violations fails its test when it is dropped.
//! Health probes (`GET /health`) have their own standing answer and are counted apart, so they never
//! use up the script.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SigningSettings};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::client::{
    Broken, Framing, LAST_CHUNK, Signing, Wire, aws_sign, borrowed, chunk, counted, malformed, single, within,
};

/// A running Axon; stops when dropped.
pub struct Axon {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    /// Keeps the address when the listener is gone.
    spare: Option<TcpSocket>,
}

impl Axon {
    /// Starts on a free port of 127.0.0.1, within a tokio runtime. Answers every request with
    /// `{"message":"Axon heartbeat OK","service":"axon"}` and every probe with an empty 200.
    pub fn start() -> Self {
        Self::refusing().start()
    }

    /// Another Axon that takes its replies and connections by the same script, one each for whichever of them
    /// is first. What they were sent is remembered apart.
    pub fn fellow(&self) -> Self {
        Self::refusing().start_by(self.shared.script.clone())
    }

    /// An address that refuses connections for as long as the result lives: bound, not listening.
    pub fn refusing() -> Refusing {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        Refusing { addr: socket.local_addr().expect("local address"), socket }
    }

    /// Another one on the same port of another loopback address, 127.0.0.`last`, as one name stands for both.
    pub fn beside(&self, last: u8) -> Self {
        let socket = bound(SocketAddr::from(([127, 0, 0, last], self.addr.port())));
        Refusing { addr: socket.local_addr().expect("local address"), socket }.start()
    }

    /// Refuses connections from now on, and ends those that are open.
    pub async fn stop(mut self) -> Refusing {
        self.accepting.abort();
        let _ = within(&mut self.accepting).await;
        self.all_closed().await;
        Refusing { addr: self.addr, socket: self.spare.take().expect("an Axon stops once") }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The answer to every request that has none of its own.
    pub fn answer(&self, reply: Reply) {
        self.shared.script().standing = reply;
    }

    /// The answers to the following requests, one each, in the order in which their heads arrive.
    pub fn next(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.script().queue.extend(replies);
    }

    /// The answer to every health probe, `GET` of `path`.
    pub fn answer_probes(&self, path: &str, reply: Reply) {
        let mut script = self.shared.script();
        script.probe_path = path.to_owned();
        script.probe = reply;
    }

    /// What happens to the following connections before anything is read, one each.
    pub fn next_connections(&self, accepts: impl IntoIterator<Item = Accept>) {
        self.shared.script().accepts.extend(accepts);
    }

    /// Holds every answer to a request that arrives from now on, probes excepted, until the gate is
    /// released.
    pub fn hold(&self) -> Gate {
        let gate = Gate::new();
        self.shared.script().hold = Some(gate.clone());
        gate
    }

    /// The requests so far, in the order in which they had been read; probes excepted.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.seen().requests.clone()
    }

    /// The only request so far.
    #[track_caller]
    pub fn request(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests that reached Axon: {requests:#?}");
        requests.remove(0)
    }

    /// Connections accepted so far, those of probes included.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().accepted
    }

    /// Waits until `n` requests have been read, and gives them.
    #[track_caller]
    pub fn received(&self, n: usize) -> impl Future<Output = Vec<Recorded>> {
        let counted = self.counted("requests", n, |c| c.requests);
        async move {
            counted.await;
            self.requests()
        }
    }

    /// Waits until `n` probes have been read.
    #[track_caller]
    pub fn probed(&self, n: usize) -> impl Future<Output = ()> {
        self.counted("probes", n, |c| c.probes)
    }

    /// Waits until `n` connections have been accepted.
    #[track_caller]
    pub fn connected(&self, n: usize) -> impl Future<Output = ()> {
        self.counted("connections", n, |c| c.accepted)
    }

    /// Waits until the peer has left a request, unfinished or unanswered, once.
    #[track_caller]
    pub fn peer_closed(&self) -> impl Future<Output = ()> {
        self.abandoned(1)
    }

    /// Waits until the peer has left `n` requests unfinished or unanswered.
    #[track_caller]
    pub fn abandoned(&self, n: usize) -> impl Future<Output = ()> {
        self.counted("abandoned requests", n, |c| c.abandoned)
    }

    /// Waits until Axon itself has ended `n` connections, so that the FIN or RST is on its way.
    #[track_caller]
    pub fn hung_up(&self, n: usize) -> impl Future<Output = ()> {
        self.counted("connections ended by Axon", n, |c| c.hung_up)
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn all_closed(&self) -> impl Future<Output = ()> {
        let mut counts = self.shared.counts.subscribe();
        within(async move {
            counts.wait_for(|c| c.closed == c.accepted).await.expect("Axon is gone");
        })
    }

    /// Takes the violations so far, so that they don't fail the test.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen().violations)
    }

    #[track_caller]
    fn counted(&self, what: &str, n: usize, count: fn(&Counts) -> usize) -> impl Future<Output = ()> {
        counted(self.shared.counts.subscribe(), what, n, count)
    }
}

impl Drop for Axon {
    fn drop(&mut self) {
        self.accepting.abort();
        let violations = self.take_violations();
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "Axon was sent bad HTTP: {violations:#?}");
        }
    }
}

/// A reserved address on which nothing listens.
pub struct Refusing {
    addr: SocketAddr,
    socket: TcpSocket,
}

impl Refusing {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Begins to serve on the address.
    pub fn start(self) -> Axon {
        self.start_by(Arc::new(Mutex::new(Script::new())))
    }

    /// Takes connections in the place of an Axon, so that the system answers nobody: a connect gets no reply.
    pub async fn swallow(self) -> Swallowing {
        let listener = self.socket.listen(1).expect("listen");
        let mut waiting = JoinSet::new();
        for _ in 0..8 {
            waiting.spawn(TcpStream::connect(self.addr));
        }
        // Nobody accepts: two of them fill the backlog, the rest waits with everybody else.
        let filling = [within(waiting.join_next()).await, within(waiting.join_next()).await];
        let filling = filling.into_iter().flatten().map(|filled| filled.expect("a task").expect("connect")).collect();
        Swallowing { _listener: listener, _filling: filling, _waiting: waiting }
    }

    fn start_by(self, script: Arc<Mutex<Script>>) -> Axon {
        let spare = Some(bound(self.addr));
        let listener = self.socket.listen(1024).expect("listen");
        let shared = Arc::new(Shared { script, seen: Mutex::default(), counts: watch::Sender::new(Counts::default()) });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Axon { addr: self.addr, shared, accepting, spare }
    }
}

/// An address where connects are never answered, for as long as the result lives.
pub struct Swallowing {
    _listener: TcpListener,
    _filling: Vec<TcpStream>,
    _waiting: JoinSet<std::io::Result<TcpStream>>,
}

/// A socket that shares its address with others of its kind, one of which may listen.
fn bound(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_reuseaddr(true).expect("reuse");
    socket.bind(addr).expect("bind");
    socket
}

/// What happens to a connection before anything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    Serve,
    /// FIN.
    Close,
    /// RST, which the peer may see while it still believes to be connecting.
    Reset,
}

/// Something to wait for, in the hands of the test. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<GateState>>);

struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(GateState { open: false, arrived: 0 })))
    }

    /// Opens it, for all who wait and all who come.
    pub fn release(&self) {
        self.0.send_modify(|state| state.open = true);
    }

    /// Waits until `n` replies have come to the gate: what they send before it is sent.
    #[track_caller]
    pub fn reached(&self, n: usize) -> impl Future<Output = ()> {
        let mut state = self.0.subscribe();
        within(async move {
            state.wait_for(|state| state.arrived >= n).await.expect("the gate outlives its subscriber");
        })
    }

    pub async fn pass(&self) {
        self.0.send_modify(|state| state.arrived += 1);
        self.0.subscribe().wait_for(|state| state.open).await.expect("the gate outlives its subscriber");
    }
}

/// What Axon does with one request: by default it reads all of it, answers, keeps the connection.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    interim: Vec<u8>,
    reads_body: bool,
    before: Option<Gate>,
    in_head: Option<Gate>,
    in_body: Option<(usize, Gate)>,
    cut: Option<usize>,
    end: End,
}

#[derive(Clone)]
enum Body {
    /// Neither body nor framing.
    None,
    Sized(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
    UntilClose(Vec<u8>),
    Stream(Source),
    /// These bytes instead of a head and a body.
    Raw(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Keep,
    Close,
    Reset,
    Hang,
}

impl Reply {
    /// An empty answer: `Content-Length: 0`, or no framing where the status has no body.
    pub fn new(status: u16) -> Self {
        let body = if status < 200 || status == 204 || status == 304 { Body::None } else { Body::Sized(Vec::new()) };
        Self {
            status,
            headers: Vec::new(),
            body,
            interim: Vec::new(),
            reads_body: true,
            before: None,
            in_head: None,
            in_body: None,
            cut: None,
            end: End::Keep,
        }
    }

    /// JSON, or what claims to be, of fixed length.
    pub fn json(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::typed(status, "application/json", body)
    }

    /// A body of any type, of fixed length.
    pub fn typed(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        Self { body: Body::Sized(body.as_ref().to_vec()), ..Self::new(status).header("Content-Type", content_type) }
    }

    /// JSON in these chunks.
    pub fn chunked<C: AsRef<[u8]>>(status: u16, chunks: impl IntoIterator<Item = C>) -> Self {
        let chunks = chunks.into_iter().map(|c| c.as_ref().to_vec()).collect();
        Self { body: Body::Chunked(chunks), ..Self::json(status, "") }
    }

    /// JSON from an HTTP/1.0 server, which ends by closing.
    pub fn until_close(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { body: Body::UntilClose(body.as_ref().to_vec()), end: End::Close, ..Self::json(status, "") }
    }

    /// A chunked `text/event-stream` that the test feeds. Good for one request.
    pub fn event_stream() -> (Self, Stream) {
        Self::stream("text/event-stream")
    }

    /// A chunked 200 of any type that the test feeds. Good for one request.
    pub fn stream(content_type: &str) -> (Self, Stream) {
        let (commands, source) = mpsc::unbounded_channel();
        let body = Body::Stream(Arc::new(Mutex::new(Some(source))));
        (Self { body, ..Self::typed(200, content_type, "") }, Stream { commands })
    }

    /// Bytes that need not be HTTP, then FIN.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self { body: Body::Raw(bytes.as_ref().to_vec()), end: End::Close, ..Self::new(200) }
    }

    /// FIN instead of an answer.
    pub fn hang_up() -> Self {
        Self::raw("")
    }

    /// No answer, ever; [`Axon::peer_closed`] tells when the peer gives up.
    pub fn hang() -> Self {
        Self::raw("").then_hang()
    }

    /// A 101 that nobody asked for, on a connection that then stays open and silent.
    pub fn switching_protocols() -> Self {
        Self::new(101).header("Connection", "upgrade").header("Upgrade", "websocket").then_hang()
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds headers of 1 KiB each until the head is larger than `bytes`.
    pub fn huge_head(mut self, bytes: usize) -> Self {
        let filler = "f".repeat(1024);
        self.headers.extend((0..=bytes / 1024).map(|n| (format!("X-Filler-{n}"), filler.clone())));
        self
    }

    /// Sends an interim response first; more calls, more of them.
    pub fn interim(mut self, status: u16, headers: &[(&str, &str)]) -> Self {
        let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.interim.extend(head_bytes("HTTP/1.1", status, &headers));
        self
    }

    /// Waits at the gate before the first byte.
    pub fn after(mut self, gate: &Gate) -> Self {
        self.before = Some(gate.clone());
        self
    }

    /// Sends half of the head, waits at the gate, sends the rest.
    pub fn pause_in_head(mut self, gate: &Gate) -> Self {
        self.in_head = Some(gate.clone());
        self
    }

    /// Sends the head and `at` bytes of the body (chunk framing counted), waits at the gate, sends the rest.
    pub fn pause_in_body(mut self, at: usize, gate: &Gate) -> Self {
        self.in_body = Some((at, gate.clone()));
        self
    }

    /// Sends only the first `bytes` of the body (chunk framing counted), then FIN.
    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self.then_close()
    }

    /// Sends every chunk but the last, empty one, then FIN.
    pub fn unterminated(self) -> Self {
        let sent = self.body_bytes().len() - LAST_CHUNK.len();
        self.cut(sent)
    }

    /// Acts as soon as the head is read, and never reads the body; then FIN unless told otherwise.
    pub fn at_head(mut self) -> Self {
        self.reads_body = false;
        if self.end == End::Keep { self.then_close() } else { self }
    }

    /// Ends the connection with FIN afterwards, without announcing it.
    pub fn then_close(self) -> Self {
        Self { end: End::Close, ..self }
    }

    /// Ends the connection with RST afterwards.
    pub fn then_reset(self) -> Self {
        Self { end: End::Reset, ..self }
    }

    /// Keeps the connection open and silent afterwards.
    pub fn then_hang(self) -> Self {
        Self { end: End::Hang, ..self }
    }

    fn head_bytes(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        let version = match &self.body {
            Body::Raw(bytes) => return bytes.clone(),
            Body::UntilClose(_) => "HTTP/1.0",
            Body::None | Body::Sized(_) | Body::Chunked(_) | Body::Stream(_) => "HTTP/1.1",
        };
        match &self.body {
            Body::Sized(body) => headers.push(("Content-Length".to_owned(), body.len().to_string())),
            Body::Chunked(_) | Body::Stream(_) => headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned())),
            Body::None | Body::UntilClose(_) | Body::Raw(_) => {}
        }
        head_bytes(version, self.status, &headers)
    }

    fn body_bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::None | Body::Stream(_) | Body::Raw(_) => Vec::new(),
            Body::Sized(body) | Body::UntilClose(body) => body.clone(),
            Body::Chunked(chunks) => chunks.iter().map(chunk).chain([LAST_CHUNK.to_vec()]).flatten().collect(),
        }
    }

    /// The reply as what to do, in order.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Steps(Vec::new());
        steps.wait(self.before.as_ref());
        steps.send(&self.interim);
        let head = self.head_bytes();
        let half = if self.in_head.is_some() { head.len() / 2 } else { 0 };
        steps.send(&head[..half]);
        steps.wait(self.in_head.as_ref());
        steps.send(&head[half..]);
        let mut body = self.body_bytes();
        body.truncate(self.cut.unwrap_or(usize::MAX));
        if let Some((at, gate)) = &self.in_body {
            steps.send(&body[..*at]);
            steps.wait(Some(gate));
            body.drain(..*at);
        }
        steps.send(&body);
        if let Body::Stream(source) = &self.body {
            let source = source.lock().expect("stream source").take();
            steps.0.push(Step::Stream(source.expect("a stream reply is good for one request")));
        }
        steps.0
    }
}

/// Feeds a streamed body. Dropping it cuts the body off.
pub struct Stream {
    commands: mpsc::UnboundedSender<Command>,
}

type Source = Arc<Mutex<Option<mpsc::UnboundedReceiver<Command>>>>;

enum Command {
    /// One chunk, and whom to tell that it is written.
    Send(Vec<u8>, oneshot::Sender<()>),
    Finish,
    Abort,
    Reset,
}

impl Stream {
    /// Sends one chunk and waits until it is written; before the request has come, that is until
    /// then. Panics when the peer has left.
    #[track_caller]
    pub fn send(&self, data: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        let at = Location::caller();
        let (written, writing) = oneshot::channel();
        let sent = self.commands.send(Command::Send(data.as_ref().to_vec(), written)).is_ok();
        within(async move { assert!(sent && writing.await.is_ok(), "the peer of the stream at {at} has left") })
    }

    /// Waits until the reply is over because the peer has left.
    #[track_caller]
    pub fn gone(&self) -> impl Future<Output = ()> {
        within(self.commands.closed())
    }

    /// Ends the body properly.
    pub fn finish(self) {
        let _ = self.commands.send(Command::Finish);
    }

    /// Ends the connection with FIN, the body being unfinished.
    pub fn abort(self) {
        let _ = self.commands.send(Command::Abort);
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        let _ = self.commands.send(Command::Reset);
    }
}

/// A request as Axon saw it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// From 1, in order of acceptance.
    pub connection: usize,
    /// From 1, on its connection.
    pub turn: usize,
    pub method: String,
    pub target: String,
    /// In order, names as sent.
    pub headers: Vec<(String, String)>,
    /// Transfer coding removed; empty when the reply was [`Reply::at_head`].
    pub body: Vec<u8>,
}

impl Recorded {
    /// The value of a header that may stand once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        single(&self.headers, name)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("body is not JSON ({e}): {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The access key that the signature names.
    pub fn access_key(&self) -> Option<&str> {
        self.header("authorization")?.split_once("Credential=")?.1.split('/').next()
    }

    /// Signs the request again with the `aws-sigv4` crate and compares. Also demands what a signature
    /// is worth nothing without: the scope, `host` and every `x-amz-*` header signed, the declared
    /// payload hash true.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn verify_signature(&self, secret: &str, region: &str, service: &str) -> Result<(), String> {
        self.covers_amz_headers()?;
        let hash: String = Sha256::digest(&self.body).iter().map(|b| format!("{b:02x}")).collect();
        if self.header("x-amz-content-sha256").is_some_and(|declared| declared != hash) {
            return Err("x-amz-content-sha256 is not the hash of the body".to_owned());
        }
        self.verify_signature_alone(secret, region, service)
    }

    /// Whether `host` and every `x-amz-*` header are signed.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn covers_amz_headers(&self) -> Result<(), String> {
        let signed: Vec<&str> = self.authorization("SignedHeaders")?.split(';').collect();
        let must = |name: &str| name == "host" || name.starts_with("x-amz-");
        for (name, _) in &self.headers {
            let name = name.to_ascii_lowercase();
            if must(&name) && !signed.contains(&name.as_str()) {
                return Err(format!("{name} is not signed"));
            }
        }
        Ok(())
    }

    /// A parameter of the `Authorization` header.
    fn authorization(&self, name: &str) -> Result<&str, String> {
        let authorization = self.header("authorization").ok_or("no authorization header")?;
        let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("another algorithm")?;
        let found = parameters.split(',').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(|| format!("no {name} in {parameters}"))
    }

    /// Signs the request again with the `aws-sigv4` crate and compares, scope included; what is signed is the
    /// sender's choice.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn verify_signature_alone(&self, secret: &str, region: &str, service: &str) -> Result<(), String> {
        let date = self.header("x-amz-date").ok_or("no x-amz-date header")?;
        let at = amz_date(date).ok_or_else(|| format!("x-amz-date is {date}"))?;
        let (access_key, scope) = self.authorization("Credential")?.split_once('/').ok_or("no scope")?;
        let expected = format!("{}/{region}/{service}/aws4_request", &date[..8]);
        if scope != expected {
            return Err(format!("scope is {scope}, not {expected}"));
        }
        let signed: Vec<&str> = self.authorization("SignedHeaders")?.split(';').collect();
        if let Some(name) = signed.iter().find(|name| self.header(name).is_none()) {
            return Err(format!("{name} is signed but absent"));
        }

        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        let mut signing = Signing::new(access_key, secret);
        (signing.region, signing.service) = (region.to_owned(), service.to_owned());
        let host = self.header("host").ok_or("no host header")?;
        // The signer adds x-amz-date itself.
        let covered = |name: &str| {
            !name.eq_ignore_ascii_case("x-amz-date") && signed.iter().any(|s| s.eq_ignore_ascii_case(name))
        };
        let headers = borrowed(&self.headers).filter(|(name, _)| covered(name));
        let body = SignableBody::Bytes(&self.body);
        let again = aws_sign(&signing, at, settings, &self.method, host, &self.target, headers, body)?;
        let again = single(&again.headers, "authorization").and_then(|a| a.split_once("Signature=")).map(|(_, s)| s);
        match self.authorization("Signature")? {
            sent if again == Some(sent) => Ok(()),
            sent => Err(format!("signature is {sent}, not {again:?}")),
        }
    }
}

/// `YYYYMMDD'T'HHMMSS'Z'`, after 1970.
fn amz_date(text: &str) -> Option<SystemTime> {
    let shape = text.len() == 16 && text.is_ascii() && text.as_bytes()[8] == b'T' && text.ends_with('Z');
    let number = |at: std::ops::Range<usize>| text[at].parse::<u64>().ok();
    if !shape {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    // Days from civil: the year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = days * 86_400 + number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

struct Shared {
    script: Arc<Mutex<Script>>,
    seen: Mutex<Seen>,
    counts: watch::Sender<Counts>,
}

struct Script {
    standing: Reply,
    queue: VecDeque<Reply>,
    accepts: VecDeque<Accept>,
    probe_path: String,
    probe: Reply,
    hold: Option<Gate>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Recorded>,
    violations: Vec<String>,
}

#[derive(Default)]
struct Counts {
    accepted: usize,
    closed: usize,
    requests: usize,
    probes: usize,
    abandoned: usize,
    hung_up: usize,
}

impl Script {
    fn new() -> Self {
        Self {
            standing: Reply::json(200, r#"{"message":"Axon heartbeat OK","service":"axon"}"#),
            queue: VecDeque::new(),
            accepts: VecDeque::new(),
            probe_path: "/health".to_owned(),
            probe: Reply::new(200),
            hold: None,
        }
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("script")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("what was seen")
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    fn violation(&self, what: String) {
        self.seen().violations.push(what);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for number in 1.. {
        let stream = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted.expect("accept").0,
                Some(done) = connections.join_next() => {
                    if let Err(panic) = done {
                        shared.violation(format!("Axon itself: {panic}"));
                    }
                }
            }
        };
        shared.count(|c| c.accepted += 1);
        let next = shared.script().accepts.pop_front().unwrap_or(Accept::Serve);
        let shared = shared.clone();
        let closed = Closed(shared.clone());
        connections.spawn(async move {
            let closed = closed;
            let wire = Wire::new(stream);
            match next {
                Accept::Serve => serve(&shared, wire, number).await,
                Accept::Close => hang_up(&shared, wire, End::Close).await,
                Accept::Reset => hang_up(&shared, wire, End::Reset).await,
            }
            drop(closed);
        });
    }
}

/// Counts the end of a connection, however its task ends.
struct Closed(Arc<Shared>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.count(|c| c.closed += 1);
    }
}

async fn serve(shared: &Shared, mut wire: Wire, connection: usize) {
    for turn in 1.. {
        wire.taken.clear();
        let (reply, probe) = match exchange(shared, &mut wire, connection, turn).await {
            Ok(next) => next,
            Err(Broken::Ended(_)) => {
                let begun = !wire.taken.is_empty() || !wire.buf.is_empty();
                return if begun {
                    shared.count(|c| c.abandoned += 1)
                };
            }
            Err(Broken::Malformed(what)) => return shared.violation(what),
        };
        let hold = if probe { None } else { shared.script().hold.clone() };
        let steps = hold.map(Step::Wait).into_iter().chain(reply.steps());
        let mut end = reply.end;
        for step in steps {
            match take(&mut wire, step).await {
                Ok(None) => {}
                Ok(Some(other)) => end = other,
                Err(Left) => return shared.count(|c| c.abandoned += 1),
            }
        }
        match end {
            End::Keep => {}
            End::Hang => {
                while wire.fill().await.is_ok() {}
                return shared.count(|c| c.abandoned += 1);
            }
            End::Close | End::Reset => return hang_up(shared, wire, end).await,
        }
    }
}

/// Reads and records one request, and finds its reply.
async fn exchange(shared: &Shared, wire: &mut Wire, connection: usize, turn: usize) -> Result<(Reply, bool), Broken> {
    let line = wire.line().await?;
    let (method, target) = request_line(&line).ok_or_else(|| malformed("request line", &line))?;
    let headers = wire.fields().await?;
    if headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count() != 1 {
        return Err(Broken::Malformed(format!("not exactly one Host: {headers:?}")));
    }
    let framing = Framing::of(&headers)?.unwrap_or(Framing::Empty);
    let closing = borrowed(&headers)
        .any(|(name, value)| name.eq_ignore_ascii_case("connection") && value.to_ascii_lowercase().contains("close"));

    let (mut reply, probe) = {
        let mut script = shared.script();
        if method == "GET" && target == script.probe_path {
            (script.probe.clone(), true)
        } else {
            (script.queue.pop_front().unwrap_or_else(|| script.standing.clone()), false)
        }
    };
    if closing && reply.end == End::Keep {
        reply.end = End::Close;
    }
    let mut body = Vec::new();
    match framing {
        _ if !reply.reads_body => {}
        Framing::Length(length) => body = wire.exactly(length).await?,
        Framing::Chunked => {
            while let Some(data) = wire.chunk().await? {
                body.extend(data);
            }
            if !wire.trailers.is_empty() {
                return Err(Broken::Malformed(format!("trailers: {:?}", wire.trailers)));
            }
        }
        Framing::Empty | Framing::UntilEnd => {}
    }
    if probe {
        shared.count(|c| c.probes += 1);
    } else {
        shared.seen().requests.push(Recorded { connection, turn, method, target, headers, body });
        shared.count(|c| c.requests += 1);
    }
    Ok((reply, probe))
}

fn request_line(line: &[u8]) -> Option<(String, String)> {
    let parts: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return None };
    let clean = method.bytes().all(|b| b.is_ascii_uppercase()) && target.bytes().all(|b| b.is_ascii_graphic());
    (clean && !method.is_empty() && target.starts_with('/')).then(|| (method.to_owned(), target.to_owned()))
}

enum Step {
    Send(Vec<u8>),
    Wait(Gate),
    Stream(mpsc::UnboundedReceiver<Command>),
}

struct Steps(Vec<Step>);

impl Steps {
    /// Bytes that follow each other go out in one write.
    fn send(&mut self, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(Step::Send(last)) => last.extend_from_slice(bytes),
            _ if bytes.is_empty() => {}
            _ => self.0.push(Step::Send(bytes.to_vec())),
        }
    }

    fn wait(&mut self, gate: Option<&Gate>) {
        self.0.extend(gate.cloned().map(Step::Wait));
    }
}

/// The peer left in the middle of a reply.
struct Left;

/// Takes one step of a reply; a stream may say how the connection ends.
async fn take(wire: &mut Wire, step: Step) -> Result<Option<End>, Left> {
    match step {
        Step::Send(bytes) => wire.write(&bytes).await.map_err(|_| Left)?,
        Step::Wait(gate) => unless_left(wire, gate.pass()).await?,
        Step::Stream(mut commands) => loop {
            let command = unless_left(wire, commands.recv()).await?;
            match command.unwrap_or(Command::Abort) {
                Command::Send(data, written) => {
                    wire.write(&chunk(data)).await.map_err(|_| Left)?;
                    let _ = written.send(());
                }
                Command::Finish => break wire.write(LAST_CHUNK).await.map_err(|_| Left)?,
                Command::Abort => return Ok(Some(End::Close)),
                Command::Reset => return Ok(Some(End::Reset)),
            }
        },
    }
    Ok(None)
}

async fn unless_left<T>(wire: &mut Wire, event: impl Future<Output = T>) -> Result<T, Left> {
    let leaving = async { while wire.fill().await.is_ok() {} };
    tokio::select! {
        biased;
        outcome = event => Ok(outcome),
        () = leaving => Err(Left),
    }
}

/// Ends the connection. After a FIN whatever still comes is read and thrown away, because closing
/// over unread bytes would turn it into an RST.
async fn hang_up(shared: &Shared, mut wire: Wire, end: End) {
    if end == End::Reset {
        wire.reset();
        return shared.count(|c| c.hung_up += 1);
    }
    // An error means that the peer was first.
    let _ = wire.stream.shutdown().await;
    shared.count(|c| c.hung_up += 1);
    while wire.fill().await.is_ok() {
        wire.buf.clear();
    }
}

fn head_bytes(version: &str, status: u16, headers: &[(String, String)]) -> Vec<u8> {
    let mut head = format!("{version} {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Scripted",
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::client::{Client, Ending, Payload, Response, Signed, get};
    use super::*;

    const POST: &str = "POST /dispatch HTTP/1.1\r\nHost: axon\r\nContent-Length: 2\r\n\r\n{}";

    async fn post(axon: &Axon) -> Client {
        let mut client = Client::connect(axon.addr()).await;
        client.send(POST).await;
        client
    }

    async fn answer(axon: &Axon, reply: Reply) -> Result<Response, Broken> {
        axon.next([reply]);
        post(axon).await.try_read_response_to("POST").await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_queue_comes_before_the_standing_answer_and_probes_use_neither() {
        let axon = Axon::start();
        axon.answer(Reply::json(200, "{}"));
        axon.next([Reply::new(404), Reply::new(204)]);
        axon.answer_probes("/ready", Reply::new(503));
        assert_eq!(get(axon.addr(), "/ready").await.status, 503);
        let mut client = post(&axon).await;
        assert_eq!(client.read_response().await.status, 404);
        for status in [204, 200, 200] {
            client.send(POST).await;
            assert_eq!(client.read_response().await.status, status);
        }
        axon.probed(1).await;
        let seen: Vec<_> = axon.received(4).await.iter().map(|r| (r.connection, r.turn, r.body.len())).collect();
        assert_eq!(seen, [(2, 1, 2), (2, 2, 2), (2, 3, 2), (2, 4, 2)]);
        assert_eq!(axon.requests()[0].json(), serde_json::json!({}));
        assert_eq!(axon.connections(), 2);
        drop(client);
        axon.all_closed().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whole_answers_of_every_shape() {
        let axon = Axon::start();
        let response = answer(&axon, Reply::chunked(200, ["{\"a\"", ":1}"])).await.unwrap();
        assert_eq!(response.json(), serde_json::json!({"a": 1}));
        assert!(response.raw.ends_with(b"4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n"));
        let response = answer(&axon, Reply::until_close(200, "{}")).await.unwrap();
        assert_eq!((response.version.as_str(), response.text()), ("HTTP/1.0", "{}"));
        let hints = Reply::json(200, "{}").interim(103, &[("Link", "</a>")]).interim(100, &[]);
        let interim = answer(&axon, hints).await.unwrap().interim;
        assert_eq!(interim.iter().map(|i| (i.status, i.headers.len())).collect::<Vec<_>>(), [(103, 1), (100, 0)]);
        let response = answer(&axon, Reply::json(200, "{}").huge_head(1 << 20)).await.unwrap();
        assert!(response.raw.len() > 1 << 20);
        let response = answer(&axon, Reply::typed(500, "text/html", "<h1>").header("X-A", "b")).await.unwrap();
        assert_eq!((response.header("x-a"), response.reason.as_str()), (Some("b"), "Internal Server Error"));
        let response = answer(&axon, Reply::switching_protocols()).await.unwrap();
        assert_eq!((response.status, response.header("upgrade")), (101, Some("websocket")));
        axon.peer_closed().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn broken_answers() {
        let axon = Axon::start();
        let finished = || Broken::Ended(Ending::Finished);
        assert_eq!(answer(&axon, Reply::hang_up()).await.unwrap_err(), finished());
        assert_eq!(answer(&axon, Reply::json(200, "{}").cut(1)).await.unwrap_err(), finished());
        assert_eq!(answer(&axon, Reply::chunked(200, ["{}"]).unterminated()).await.unwrap_err(), finished());
        assert_eq!(answer(&axon, Reply::hang_up().then_reset()).await.unwrap_err(), Broken::Ended(Ending::Reset));
        assert!(matches!(answer(&axon, Reply::raw("SSH-2.0-x\r\n")).await.unwrap_err(), Broken::Malformed(_)));
        axon.next([Reply::json(200, "{}").then_close()]);
        let mut client = post(&axon).await;
        assert_eq!(client.read_response().await.status, 200);
        assert_eq!(client.closed().await, Ending::Finished);
        axon.hung_up(6).await;
        assert_eq!(axon.received(6).await.len(), 6);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_may_be_met_at_its_head() {
        let axon = Axon::start();
        axon.next([Reply::hang_up().at_head(), Reply::json(200, "{}").at_head()]);
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
        let mut client = Client::connect(axon.addr()).await;
        client.send(head).await;
        assert_eq!(client.closed().await, Ending::Finished);
        let mut client = Client::connect(axon.addr()).await;
        client.send(head).await;
        assert_eq!(client.read_response().await.status, 200);
        assert_eq!(client.closed().await, Ending::Finished);
        assert!(axon.received(2).await[1].body.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn gates_hold_what_comes_after_them() {
        let axon = Axon::start();
        let [before, head, body] = [Gate::new(), Gate::new(), Gate::new()];
        axon.next([Reply::json(200, "abc").after(&before).pause_in_head(&head).pause_in_body(2, &body)]);
        let hold = axon.hold();
        let mut client = post(&axon).await;
        for gate in [&hold, &before, &head] {
            gate.reached(1).await;
            gate.release();
        }
        assert_eq!(client.read_head().await.status, 200);
        body.reached(1).await;
        assert_eq!(client.read_chunk().await, Some(b"ab".to_vec()));
        body.release();
        assert_eq!(client.read_chunk().await, Some(b"c".to_vec()));
        assert_eq!(client.read_chunk().await, None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_peer_that_leaves_is_noticed_in_every_state() {
        let axon = Axon::start();
        let gate = Gate::new();
        let (streamed, stream) = Reply::event_stream();
        axon.next([Reply::hang(), Reply::new(200).after(&gate), streamed]);
        for n in 1..=3 {
            let client = post(&axon).await;
            axon.received(n).await;
            drop(client);
            axon.abandoned(n).await;
        }
        stream.gone().await;
        let mut client = Client::connect(axon.addr()).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
        client.reset();
        axon.abandoned(4).await;
        // Leaving an idle connection is no abandonment.
        let mut client = post(&axon).await;
        client.read_response().await;
        drop(client);
        axon.all_closed().await;
        assert_eq!(axon.shared.counts.borrow().abandoned, 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn streams_are_fed_by_hand() {
        let axon = Axon::start();
        let (first, stream) = Reply::event_stream();
        let (second, cut) = Reply::stream("application/x-ndjson");
        let (third, torn) = Reply::event_stream();
        axon.next([first, second, third]);

        let mut client = post(&axon).await;
        let reading = tokio::spawn(async move {
            assert_eq!(client.read_head().await.header("content-type"), Some("text/event-stream"));
            let events = [client.read_event().await, client.read_event().await, client.read_event().await];
            (client, events.map(Option::unwrap))
        });
        for data in ["data: 1\n\nda", "ta: 2\n", "\ndata: 3\n\n"] {
            stream.send(data).await;
        }
        let (mut client, events) = reading.await.unwrap();
        assert_eq!(events, ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"]);
        stream.finish();
        assert_eq!(client.read_event().await, None);

        client.send(POST).await;
        cut.send("1\n").await;
        cut.abort();
        client.read_head().await;
        assert_eq!(client.read_chunk().await, Some(b"1\n".to_vec()));
        assert_eq!(client.try_read_chunk().await, Err(Broken::Ended(Ending::Finished)));

        let mut client = post(&axon).await;
        client.read_head().await;
        torn.reset();
        assert_eq!(client.try_read_chunk().await, Err(Broken::Ended(Ending::Reset)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn connections_may_be_refused_or_dropped() {
        let refusing = Axon::refusing();
        let refused = TcpStream::connect(refusing.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(refusing.url(), format!("http://{}", refusing.addr()));

        let axon = refusing.start();
        axon.next_connections([Accept::Close, Accept::Reset, Accept::Serve]);
        assert_eq!(Client::connect(axon.addr()).await.closed().await, Ending::Finished);
        let reset = async { TcpStream::connect(axon.addr()).await?.read_u8().await };
        assert_eq!(within(reset).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(get(axon.addr(), "/").await.status, 200);
        axon.connected(3).await;
        assert_eq!(axon.request().target, "/");
        assert!(axon.url().starts_with("http://127.0.0.1:"));

        let (addr, mut idle) = (axon.addr(), Client::connect(axon.addr()).await);
        axon.connected(4).await;
        let stopped = axon.stop().await;
        idle.closed().await;
        let refused = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let axon = stopped.start();
        assert_eq!(get(addr, "/").await.status, 200);
        assert_eq!(axon.request().target, "/");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bad_requests_are_violations() {
        let axon = Axon::start();
        let cases = [
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
        ];
        for case in cases {
            let mut client = Client::connect(axon.addr()).await;
            client.send(case).await;
            client.closed().await;
        }
        assert_eq!(axon.take_violations().len(), cases.len());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "Axon was sent bad HTTP")]
    async fn a_violation_fails_the_test() {
        let axon = Axon::start();
        let mut client = Client::connect(axon.addr()).await;
        client.send("GET /\r\n\r\n").await;
        client.closed().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn signatures_are_checked_in_every_part() {
        let axon = Axon::start();
        let mut signing = Signing::new("AKIDORBIT", "secret");
        signing.token = Some("token".to_owned());
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_209_805); // 2024-02-29T12:30:05Z
        let base = Signed::post(axon.addr(), "/dispatch?b=2&a=%20x", r#"{"intent":"a"}"#);
        for signed in [base.clone(), base.clone().declared().chunked(&[3]), base.clone().header("User-Agent", "o")] {
            assert_eq!(signed.send(axon.addr(), &signing, at).await.status, 200);
            let request = axon.requests().pop().unwrap();
            assert_eq!(request.verify_signature("secret", "us-east-1", "execute-api"), Ok(()));
            assert_eq!(request.access_key(), Some("AKIDORBIT"));
        }

        let good = axon.requests().pop().unwrap();
        let header = |name: &str, value: &str| {
            let mut bad = good.clone();
            bad.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
            bad.headers.push((name.to_owned(), value.to_owned()));
            bad
        };
        let bad = [
            Recorded { method: "PUT".to_owned(), ..good.clone() },
            Recorded { target: "/dispatch".to_owned(), ..good.clone() },
            Recorded { body: b"{}".to_vec(), ..good.clone() },
            header("Host", "other"),
            header("Content-Type", "text/plain"),
            header("X-Amz-Date", "20240229T123006Z"),
            header("X-Amz-Date", "20240229"),
            header("X-Amz-Security-Token", "other"),
            header("X-Amz-Meta", "unsigned"),
            header("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"),
            header("Authorization", "Bearer x"),
        ];
        for request in bad {
            assert!(request.verify_signature("secret", "us-east-1", "execute-api").is_err(), "{request:?}");
        }
        assert!(good.verify_signature("Secret", "us-east-1", "execute-api").is_err());
        assert!(good.verify_signature("secret", "eu-west-1", "execute-api").is_err());
        assert!(good.verify_signature("secret", "us-east-1", "s3").is_err());

        // Signed as it stands, so that only a look at the body can tell.
        base.clone().header("X-Amz-Content-Sha256", &"0".repeat(64)).send(axon.addr(), &signing, at).await;
        let untrue = axon.requests().pop().unwrap();
        assert!(untrue.verify_signature("secret", "us-east-1", "execute-api").is_err());

        base.payload(Payload::Unsigned).sign(&signing, at).send(axon.addr()).await;
        let unsigned = axon.requests().pop().unwrap();
        assert!(unsigned.verify_signature("secret", "us-east-1", "execute-api").is_err());
    }

    #[test]
    fn dates() {
        let unix = |text| amz_date(text).map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(unix("19700101T000000Z"), Some(0));
        assert_eq!(unix("20240229T123005Z"), Some(1_709_209_805));
        assert_eq!(unix("20240301T000000Z"), Some(1_709_251_200));
        assert_eq!(unix("20991231T235959Z"), Some(4_102_444_799));
        assert_eq!(unix("20240229 123005Z"), None);
    }
}
