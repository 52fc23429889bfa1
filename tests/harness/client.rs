//! A client that controls and judges every byte: raw HTTP/1.1 over one socket, and requests signed
//! by the `aws-sigv4` crate's full signer, which shares no code with Orbit's verifier.
//!
//! Invariant: nothing is repaired. A response whose framing could be read in two ways is an error,
//! and every wait ends within [`PATIENCE`] with a message that says where and for what.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::Location;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SignatureLocation, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long anything may take before the test fails: far more than a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Awaits `future`, or panics after [`PATIENCE`] with the caller's place.
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    bounded(PATIENCE, Location::caller(), future)
}

/// Resolves when at least `n` were counted, or panics after [`PATIENCE`] with the caller's place.
#[track_caller]
pub fn counted<C>(
    mut counts: watch::Receiver<C>,
    what: &str,
    n: usize,
    count: fn(&C) -> usize,
) -> impl Future<Output = ()> {
    let at = Location::caller();
    async move {
        let waited = timeout(PATIENCE, counts.wait_for(|c| count(c) >= n)).await.is_ok();
        assert!(waited, "only {} of {n} {what} after {PATIENCE:?} at {at}", count(&counts.borrow()));
    }
}

async fn bounded<F: Future>(limit: Duration, at: &Location<'_>, future: F) -> F::Output {
    match timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting after {limit:?} at {at}"),
    }
}

/// How a peer ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// FIN: end of stream.
    Finished,
    /// RST, or any other error of the socket.
    Reset,
}

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The connection ended before the message did.
    Ended(Ending),
    /// The bytes are not strict HTTP/1.
    Malformed(String),
}

/// An interim (1xx) response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interim {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// A response, as it came.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    pub status: u16,
    pub reason: String,
    /// In order, names as sent, values without surrounding white space.
    pub headers: Vec<(String, String)>,
    /// Transfer coding removed; empty after [`Client::read_head`].
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Every byte from the status line to the end of the body, transfer coding included.
    pub raw: Vec<u8>,
    /// What came before it.
    pub interim: Vec<Interim>,
    /// The method that it answers.
    pub method: String,
}

impl Response {
    /// The value of a header that may stand once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        single(&self.headers, name)
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("body is not UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("body is not JSON ({e}): {:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// The value of `name` among `headers`; panics when it is repeated.
#[track_caller]
pub fn single<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let first = values.next();
    assert!(values.next().is_none(), "header `{name}` is repeated: {headers:?}");
    first
}

/// One connection.
pub struct Client {
    wire: Wire,
    body: Framing,
    /// Stream data that is not yet a whole event.
    event: BytesMut,
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> impl Future<Output = Client> {
        within(async move { Self::of(TcpStream::connect(addr).await.expect("connect")) })
    }

    /// Connects from another local address, e.g. `127.0.0.7`, to be another client to a per-IP limit.
    #[track_caller]
    pub fn connect_from(source: IpAddr, addr: SocketAddr) -> impl Future<Output = Client> {
        within(async move {
            let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("socket");
            socket.bind(SocketAddr::new(source, 0)).expect("bind the source address");
            Self::of(socket.connect(addr).await.expect("connect"))
        })
    }

    fn of(stream: TcpStream) -> Self {
        Self { wire: Wire::new(stream), body: Framing::Empty, event: BytesMut::new() }
    }

    /// This side's address, as the server sees it.
    pub fn local_addr(&self) -> SocketAddr {
        self.wire.stream.local_addr().expect("local address")
    }

    /// Sends all of `bytes`; panics when the peer doesn't take them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        let at = Location::caller();
        within(async move {
            let sent = self.wire.stream.write_all(bytes.as_ref()).await;
            sent.unwrap_or_else(|e| panic!("send at {at}: {e}"));
        })
    }

    /// Sends `bytes` in writes of `size`, giving the peer a turn to read after each.
    #[track_caller]
    pub fn drip(&mut self, bytes: impl AsRef<[u8]>, size: usize) -> impl Future<Output = ()> {
        let at = Location::caller();
        within(async move {
            for piece in bytes.as_ref().chunks(size) {
                let sent = self.wire.stream.write_all(piece).await;
                sent.unwrap_or_else(|e| panic!("drip at {at}: {e}"));
                tokio::task::yield_now().await;
            }
        })
    }

    /// Sends until all is sent, the first byte of an answer arrives, or the peer stops taking
    /// more; returns how many bytes were sent.
    #[track_caller]
    pub fn offer(&mut self, bytes: impl AsRef<[u8]>) -> impl Future<Output = usize> {
        within(async move {
            let bytes = bytes.as_ref();
            let mut sent = 0;
            while sent < bytes.len() && self.wire.buf.is_empty() && self.wire.ended.is_none() {
                let (mut read, mut write) = self.wire.stream.split();
                tokio::select! {
                    biased;
                    arrived = read.read_buf(&mut self.wire.buf) => match arrived {
                        Ok(0) => self.wire.ended = Some(Ending::Finished),
                        Ok(_) => {}
                        Err(_) => self.wire.ended = Some(Ending::Reset),
                    },
                    taken = write.write(&bytes[sent..]) => match taken {
                        Ok(n) => sent += n,
                        Err(_) => break,
                    },
                }
            }
            sent
        })
    }

    /// Sends `bytes` in writes of `size`, and after each waits up to `pace` for an answer; ends with the
    /// first byte of one, or when the peer stops taking more. Returns how many bytes were sent.
    #[track_caller]
    pub fn trickle(&mut self, bytes: impl AsRef<[u8]>, size: usize, pace: Duration) -> impl Future<Output = usize> {
        within(async move {
            let mut sent = 0;
            for piece in bytes.as_ref().chunks(size) {
                if self.wire.stream.write_all(piece).await.is_err() {
                    break;
                }
                sent += piece.len();
                if timeout(pace, self.wire.fill()).await.is_ok() {
                    break;
                }
            }
            sent
        })
    }

    /// Reads one interim response, which must be the next to come.
    #[track_caller]
    pub fn read_interim(&mut self) -> impl Future<Output = Interim> {
        let at = Location::caller();
        within(async move {
            let line = self.wire.line().await.unwrap_or_else(|broken| panic!("interim at {at}: {broken:?}"));
            let headers = self.wire.fields().await.unwrap_or_else(|broken| panic!("interim at {at}: {broken:?}"));
            match status_line(&line) {
                Some((_, status @ 100..=199, _)) => Interim { status, headers },
                _ => panic!("no interim response at {at} but {:?}", String::from_utf8_lossy(&line)),
            }
        })
    }

    /// Reads one whole response to a request that may have a body in its answer.
    #[track_caller]
    pub fn read_response(&mut self) -> impl Future<Output = Response> {
        self.read_response_to("POST")
    }

    /// Reads one whole response to `method`; one to `HEAD` has no body whatever its head says.
    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> impl Future<Output = Response> {
        let at = Location::caller();
        let reading = self.try_read_response_to(method);
        async move { reading.await.unwrap_or_else(|broken| panic!("response at {at}: {broken:?}")) }
    }

    /// As [`Client::read_response_to`], for a response that may be cut off.
    #[track_caller]
    pub fn try_read_response_to(&mut self, method: &str) -> impl Future<Output = Result<Response, Broken>> {
        let at = Location::caller();
        async move {
            match timeout(PATIENCE, self.response(method)).await {
                Ok(result) => result,
                Err(_) => panic!("no whole response after {PATIENCE:?} at {at}; {}", self.wire.so_far()),
            }
        }
    }

    async fn response(&mut self, method: &str) -> Result<Response, Broken> {
        let mut response = self.head(method).await?;
        while let Some(data) = self.chunk().await? {
            response.body.extend_from_slice(&data);
        }
        response.trailers = std::mem::take(&mut self.wire.trailers);
        response.raw = std::mem::take(&mut self.wire.taken);
        Ok(response)
    }

    /// Reads a head only; the body follows by [`Client::read_chunk`] or [`Client::read_event`].
    #[track_caller]
    pub fn read_head(&mut self) -> impl Future<Output = Response> {
        let at = Location::caller();
        async move {
            match timeout(PATIENCE, self.head("POST")).await {
                Ok(Ok(head)) => head,
                Ok(Err(broken)) => panic!("head at {at}: {broken:?}"),
                Err(_) => panic!("no head after {PATIENCE:?} at {at}; {}", self.wire.so_far()),
            }
        }
    }

    /// The next chunk of a chunked body, or whatever has arrived of another; none at its end.
    #[track_caller]
    pub fn read_chunk(&mut self) -> impl Future<Output = Option<Vec<u8>>> {
        let at = Location::caller();
        let reading = self.try_read_chunk();
        async move { reading.await.unwrap_or_else(|broken| panic!("chunk at {at}: {broken:?}")) }
    }

    /// As [`Client::read_chunk`], for a body that may be cut off.
    #[track_caller]
    pub fn try_read_chunk(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, Broken>> {
        let at = Location::caller();
        async move {
            match timeout(PATIENCE, self.chunk()).await {
                Ok(result) => result,
                Err(_) => panic!("no chunk after {PATIENCE:?} at {at}; {}", self.wire.so_far()),
            }
        }
    }

    /// The next event of a `text/event-stream`, its blank line included, however it was chunked;
    /// none at the end. Panics when the stream ends or breaks inside an event.
    #[track_caller]
    pub fn read_event(&mut self) -> impl Future<Output = Option<String>> {
        let at = Location::caller();
        within(async move {
            loop {
                if let Some(end) = find(&self.event, b"\n\n") {
                    let event = self.event.split_to(end + 2);
                    return Some(String::from_utf8(event.to_vec()).expect("event is not UTF-8"));
                }
                match self.chunk().await.unwrap_or_else(|broken| panic!("event at {at}: {broken:?}")) {
                    Some(data) => self.event.extend_from_slice(&data),
                    None if self.event.is_empty() => return None,
                    None => panic!("stream at {at} ends inside an event: {:?}", String::from_utf8_lossy(&self.event)),
                }
            }
        })
    }

    /// Waits until the peer ends the connection, and says how; panics if it sends anything first.
    #[track_caller]
    pub fn closed(&mut self) -> impl Future<Output = Ending> {
        let at = Location::caller();
        async move {
            assert!(self.wire.buf.is_empty(), "bytes before the end at {at}: {}", self.wire.so_far());
            match timeout(PATIENCE, self.wire.fill()).await {
                Ok(Err(ending)) => ending,
                Ok(Ok(())) => panic!("bytes instead of the end at {at}: {}", self.wire.so_far()),
                Err(_) => panic!("connection still open after {PATIENCE:?} at {at}"),
            }
        }
    }

    /// Says that nothing more will be sent (FIN), and keeps reading.
    pub async fn half_close(&mut self) {
        self.wire.stream.shutdown().await.expect("shutdown");
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        self.wire.reset();
    }

    async fn head(&mut self, method: &str) -> Result<Response, Broken> {
        let mut interim = Vec::new();
        loop {
            self.wire.taken.clear();
            let line = self.wire.line().await?;
            let (version, status, reason) = status_line(&line).ok_or_else(|| malformed("status line", &line))?;
            let headers = self.wire.fields().await?;
            let framing = Framing::of(&headers)?;
            let bodiless = status < 200 || status == 204 || status == 304;
            if (100..200).contains(&status) && framing.is_some() {
                return Err(Broken::Malformed(format!("a {status} with framing: {headers:?}")));
            }
            if (100..200).contains(&status) && status != 101 {
                interim.push(Interim { status, headers });
                continue;
            }
            self.body = match framing {
                _ if bodiless || method == "HEAD" => Framing::Empty,
                Some(framing) => framing,
                None => Framing::UntilEnd,
            };
            let raw = self.wire.taken.clone();
            let body = Vec::new();
            let trailers = Vec::new();
            return Ok(Response {
                version,
                status,
                reason,
                headers,
                body,
                trailers,
                raw,
                interim,
                method: method.to_owned(),
            });
        }
    }

    async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let data = match self.body {
            Framing::Empty | Framing::Length(0) => None,
            Framing::Length(left) => {
                let data = self.wire.some(left).await?;
                self.body = Framing::Length(left - data.len());
                return Ok(Some(data));
            }
            Framing::Chunked => self.wire.chunk().await?,
            Framing::UntilEnd => match self.wire.some(usize::MAX).await {
                Ok(data) => Some(data),
                Err(Broken::Ended(Ending::Finished)) => None,
                Err(broken) => return Err(broken),
            },
        };
        if data.is_none() {
            self.body = Framing::Empty;
        }
        Ok(data)
    }
}

/// Sends `GET path` on a connection of its own and reads the answer.
pub async fn get(addr: SocketAddr, path: &str) -> Response {
    request(addr, format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n")).await
}

/// Sends `raw` on a connection of its own and reads the answer to its method.
pub async fn request(addr: SocketAddr, raw: impl AsRef<[u8]>) -> Response {
    let raw = raw.as_ref();
    let method = String::from_utf8_lossy(raw.split(|b| *b == b' ').next().unwrap_or_default()).into_owned();
    let mut client = Client::connect(addr).await;
    client.offer(raw).await;
    client.read_response_to(&method).await
}

/// Who signs, and for which scope.
#[derive(Clone)]
pub struct Signing {
    pub access_key: String,
    pub secret: String,
    pub token: Option<String>,
    pub region: String,
    pub service: String,
}

impl Signing {
    /// For `us-east-1` and `execute-api`, without a token.
    pub fn new(access_key: &str, secret: &str) -> Self {
        let [access_key, secret, region, service] = [access_key, secret, "us-east-1", "execute-api"].map(str::to_owned);
        Self { access_key, secret, token: None, region, service }
    }
}

/// What a request says about its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// No `x-amz-content-sha256`; the hash is signed all the same.
    Undeclared,
    /// `x-amz-content-sha256` with the hash, signed.
    Declared,
    /// `x-amz-content-sha256: UNSIGNED-PAYLOAD`, signed.
    Unsigned,
}

/// A request to be signed.
#[derive(Clone)]
pub struct Signed {
    method: String,
    host: String,
    target: String,
    body: Vec<u8>,
    sent_body: Option<Vec<u8>>,
    headers: Vec<(String, String)>,
    unsigned: Vec<(String, String)>,
    payload: Payload,
    chunks: Option<Vec<usize>>,
    expect: bool,
    presigned: Option<Duration>,
}

impl Signed {
    /// A request without headers of its own. `target` is in origin form, already encoded.
    pub fn new(method: &str, host: impl ToString, target: &str, body: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            host: host.to_string(),
            target: target.to_owned(),
            body: body.as_ref().to_vec(),
            sent_body: None,
            headers: Vec::new(),
            unsigned: Vec::new(),
            payload: Payload::Undeclared,
            chunks: None,
            expect: false,
            presigned: None,
        }
    }

    /// A `POST` of JSON; the content type is signed.
    pub fn post(host: impl ToString, target: &str, body: impl AsRef<[u8]>) -> Self {
        Self::new("POST", host, target, body).header("Content-Type", "application/json")
    }

    /// Adds a header that is signed.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a header that the signature doesn't cover.
    pub fn unsigned_header(mut self, name: &str, value: &str) -> Self {
        self.unsigned.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header added before, e.g. `Content-Type`.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// What to say about the payload; [`Payload::Undeclared`] unless called.
    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// Declares the payload's hash.
    pub fn declared(self) -> Self {
        self.payload(Payload::Declared)
    }

    /// Sends another body than the one that is signed.
    pub fn but_send(mut self, body: impl AsRef<[u8]>) -> Self {
        self.sent_body = Some(body.as_ref().to_vec());
        self
    }

    /// Sends the body in chunks of these sizes, what remains as the last.
    pub fn chunked(mut self, sizes: &[usize]) -> Self {
        self.chunks = Some(sizes.to_vec());
        self
    }

    /// Adds `Expect: 100-continue`, unsigned.
    pub fn expect_continue(mut self) -> Self {
        self.expect = true;
        self
    }

    /// Signs in the query instead of the headers.
    pub fn presigned(mut self, expires: Duration) -> Self {
        self.presigned = Some(expires);
        self
    }

    /// Signs as of `at`.
    pub fn sign(&self, signing: &Signing, at: SystemTime) -> Message {
        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        if self.payload != Payload::Undeclared {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        if let Some(expires) = self.presigned {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(expires);
        }
        let payload = match self.payload {
            Payload::Unsigned => SignableBody::UnsignedPayload,
            Payload::Undeclared | Payload::Declared => SignableBody::Bytes(&self.body),
        };
        let headers = std::iter::once(("host", self.host.as_str())).chain(borrowed(&self.headers));
        let signature = aws_sign(signing, at, settings, &self.method, &self.host, &self.target, headers, payload)
            .unwrap_or_else(|e| panic!("signing {} {}: {e}", self.method, self.target));

        let mut target = self.target.clone();
        for (name, value) in &signature.params {
            let glue = if target.contains('?') { '&' } else { '?' };
            target.push_str(&format!("{glue}{name}={}", query_encoded(value)));
        }
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        let host = [("Host".to_owned(), self.host.clone())];
        for (name, value) in host.iter().chain(&self.headers).chain(&signature.headers).chain(&self.unsigned) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.expect {
            head.push_str("Expect: 100-continue\r\n");
        }
        let body = self.sent_body.as_ref().unwrap_or(&self.body);
        let body = match &self.chunks {
            Some(sizes) => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                chunked(body, sizes)
            }
            None => {
                head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
                body.clone()
            }
        };
        Message { head: head.into_bytes(), body }
    }

    /// Signs, sends on a connection of its own, reads the answer.
    pub async fn send(&self, addr: SocketAddr, signing: &Signing, at: SystemTime) -> Response {
        self.sign(signing, at).send(addr).await
    }
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// Up to and including the blank line.
    pub head: Vec<u8>,
    /// As it goes over the wire, chunked or not.
    pub body: Vec<u8>,
}

impl Message {
    /// Head and body.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.body].concat()
    }

    /// Replaces the one occurrence of `from` in the head, to tamper after signing.
    #[track_caller]
    pub fn edit(mut self, from: &str, to: &str) -> Self {
        let head = String::from_utf8(self.head).expect("head is not UTF-8");
        assert_eq!(head.matches(from).count(), 1, "occurrences of {from:?} in {head:?}");
        self.head = head.replace(from, to).into_bytes();
        self
    }

    /// Sends on a connection of its own, reads the answer.
    pub async fn send(&self, addr: SocketAddr) -> Response {
        request(addr, self.bytes()).await
    }
}

/// What the signer adds to a request.
pub(super) struct Signature {
    pub(super) headers: Vec<(String, String)>,
    /// Not yet encoded.
    params: Vec<(String, String)>,
}

/// Runs the crate's signer.
#[allow(clippy::too_many_arguments, reason = "the signer's own inputs, each of them")]
pub(super) fn aws_sign<'a>(
    signing: &Signing,
    at: SystemTime,
    settings: SigningSettings,
    method: &'a str,
    host: &str,
    target: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: SignableBody<'a>,
) -> Result<Signature, String> {
    let identity =
        Credentials::new(&signing.access_key, &signing.secret, signing.token.clone(), None, "test harness").into();
    let params = signing_params(&identity, &signing.region, &signing.service, at, settings);
    let request = SignableRequest::new(method, format!("http://{host}{target}"), headers, body);
    let signed = sign(request.map_err(|e| e.to_string())?, &params).map_err(|e| e.to_string())?;
    let (headers, params) = signed.into_parts().0.into_parts();
    Ok(Signature {
        headers: headers.iter().map(|h| (h.name().to_owned(), h.value().to_owned())).collect(),
        params: params.into_iter().map(|(name, value)| (name.to_owned(), Cow::into_owned(value))).collect(),
    })
}

/// What the crate's signer is told beside the request.
pub fn signing_params<'a>(
    identity: &'a Identity,
    region: &'a str,
    service: &'a str,
    at: SystemTime,
    settings: SigningSettings,
) -> SigningParams<'a> {
    let params = v4::SigningParams::builder().identity(identity).region(region).name(service);
    params.time(at).settings(settings).build().expect("all set").into()
}

/// Headers as the signer wants them.
pub(super) fn borrowed(headers: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

fn query_encoded(value: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    value.bytes().map(|b| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// `data` as one chunk.
pub fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// The chunk that ends a body, without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// `body` in chunks of these sizes, what remains as one more, then the last.
pub fn chunked(mut body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for size in sizes.iter().copied().chain([body.len()]) {
        let (now, rest) = body.split_at(size.min(body.len()));
        // An empty chunk would end the body.
        if !now.is_empty() {
            encoded.extend(chunk(now));
        }
        body = rest;
    }
    encoded.extend_from_slice(LAST_CHUNK);
    encoded
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(usize),
    Chunked,
    /// By the end of the connection.
    UntilEnd,
}

impl Framing {
    /// What the headers say, none when they say nothing.
    pub(super) fn of(headers: &[(String, String)]) -> Result<Option<Self>, Broken> {
        let named = |name: &str| -> Vec<&str> {
            borrowed(headers).filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
        };
        match (named("content-length").as_slice(), named("transfer-encoding").as_slice()) {
            ([], []) => Ok(None),
            ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| malformed("Content-Length", length.as_bytes()))?;
                Ok(Some(Framing::Length(length)))
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            _ => Err(Broken::Malformed(format!("ambiguous framing: {headers:?}"))),
        }
    }
}

/// A socket and what was read of it: strict HTTP/1 syntax for both directions.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    /// Read, not yet taken.
    pub(super) buf: BytesMut,
    /// Taken since the last clear.
    pub(super) taken: Vec<u8>,
    /// What followed the last chunk.
    pub(super) trailers: Vec<(String, String)>,
    pub(super) ended: Option<Ending>,
}

/// Longer lines are refused, so that a peer gone wild fails the test instead of filling memory.
const LINE_BYTES_MAX: usize = 4 << 20;

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, buf: BytesMut::new(), taken: Vec::new(), trailers: Vec::new(), ended: None }
    }

    /// Waits for at least one more byte. Loses nothing when dropped while waiting.
    pub(super) async fn fill(&mut self) -> Result<(), Ending> {
        if let Some(ending) = self.ended {
            return Err(ending);
        }
        self.buf.reserve(64 << 10);
        let ending = match self.stream.read_buf(&mut self.buf).await {
            Ok(0) => Ending::Finished,
            Ok(_) => return Ok(()),
            Err(_) => Ending::Reset,
        };
        self.ended = Some(ending);
        Err(ending)
    }

    /// Writes, while watching whether the peer leaves.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut read, mut write) = self.stream.split();
        let (buf, ended) = (&mut self.buf, &mut self.ended);
        let leaving = async {
            loop {
                match read.read_buf(buf).await {
                    Ok(0) => return Ending::Finished,
                    Ok(_) => {}
                    Err(_) => return Ending::Reset,
                }
            }
        };
        tokio::select! {
            biased;
            written = write.write_all(bytes) => written,
            ending = leaving => {
                *ended = Some(ending);
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// Ends the connection with RST.
    pub(super) fn reset(self) {
        self.stream.set_zero_linger().expect("linger");
    }

    fn take(&mut self, len: usize) -> BytesMut {
        let bytes = self.buf.split_to(len);
        self.taken.extend_from_slice(&bytes);
        bytes
    }

    /// One line, its CRLF removed.
    pub(super) async fn line(&mut self) -> Result<Vec<u8>, Broken> {
        let mut searched = 0;
        let end = loop {
            match self.buf[searched..].iter().position(|b| *b == b'\n') {
                Some(at) => break searched + at,
                None if self.buf.len() > LINE_BYTES_MAX => return Err(malformed("line", &self.buf[..80])),
                None => searched = self.buf.len(),
            }
            self.fill().await.map_err(Broken::Ended)?;
        };
        let line = self.take(end + 1);
        match line.strip_suffix(b"\r\n") {
            Some(line) if !line.contains(&b'\r') => Ok(line.to_vec()),
            _ => Err(malformed("line", &line)),
        }
    }

    /// Header fields up to and including the blank line.
    pub(super) async fn fields(&mut self) -> Result<Vec<(String, String)>, Broken> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            fields.push(field(&line).ok_or_else(|| malformed("header field", &line))?);
        }
    }

    /// At least one byte and at most `max`.
    pub(super) async fn some(&mut self, max: usize) -> Result<Vec<u8>, Broken> {
        if self.buf.is_empty() {
            self.fill().await.map_err(Broken::Ended)?;
        }
        Ok(self.take(max.min(self.buf.len())).to_vec())
    }

    /// Exactly `len` bytes.
    pub(super) async fn exactly(&mut self, len: usize) -> Result<Vec<u8>, Broken> {
        while self.buf.len() < len {
            self.fill().await.map_err(Broken::Ended)?;
        }
        Ok(self.take(len).to_vec())
    }

    /// One chunk without its framing; after the last, reads the trailers and gives none.
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let line = self.line().await?;
        let digits = std::str::from_utf8(&line).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = digits.and_then(|d| usize::from_str_radix(d, 16).ok());
        match size.ok_or_else(|| malformed("chunk size", &line))? {
            0 => {
                self.trailers = self.fields().await?;
                Ok(None)
            }
            size => {
                let data = self.exactly(size).await?;
                match self.exactly(2).await?.as_slice() {
                    b"\r\n" => Ok(Some(data)),
                    other => Err(malformed("end of chunk", other)),
                }
            }
        }
    }

    fn so_far(&self) -> String {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        format!("taken {:?}, unread {:?}, ended {:?}", shown(&self.taken), shown(self.buf.chunk()), self.ended)
    }
}

pub(super) fn malformed(what: &str, bytes: &[u8]) -> Broken {
    Broken::Malformed(format!("{what} {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(400)])))
}

fn status_line(line: &[u8]) -> Option<(String, u16, String)> {
    let mut parts = std::str::from_utf8(line).ok()?.splitn(3, ' ');
    let (version, status, reason) = (parts.next()?, parts.next()?, parts.next()?);
    let known = matches!(version, "HTTP/1.1" | "HTTP/1.0");
    let plain = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
    (known && plain).then(|| Some((version.to_owned(), status.parse().ok()?, reason.to_owned())))?
}

fn field(line: &[u8]) -> Option<(String, String)> {
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let value = value.trim_matches([' ', '\t']);
    let clean = value.bytes().all(|b| b == b'\t' || !b.is_ascii_control());
    (!name.is_empty() && name.bytes().all(token) && clean).then(|| (name.to_owned(), value.to_owned()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client, and the other end of its connection.
    async fn pair() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(Client::connect(addr), listener.accept());
        (client, accepted.unwrap().0)
    }

    /// What the client makes of `bytes` followed by the end of the connection.
    async fn reading(method: &str, bytes: &[u8]) -> Result<Response, Broken> {
        let (mut client, mut server) = pair().await;
        server.write_all(bytes).await.unwrap();
        server.shutdown().await.unwrap();
        client.try_read_response_to(method).await
    }

    #[tokio::test]
    async fn every_framing_is_read() {
        let cases: [(&str, &[u8], &[u8]); 7] = [
            ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
            ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", b"hi"),
            ("GET", b"HTTP/1.0 200 OK\r\n\r\nhi", b"hi"),
            ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
            ("GET", b"HTTP/1.1 304 \r\nContent-Length: 2\r\n\r\n", b""),
            ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b""),
            ("GET", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b""),
        ];
        for (method, bytes, body) in cases {
            let response = reading(method, bytes).await.unwrap();
            assert_eq!(response.body, body, "{bytes:?}");
            assert_eq!(response.raw, bytes);
        }
    }

    #[tokio::test]
    async fn sloppy_responses_are_errors() {
        let cases: [&[u8]; 11] = [
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 200 O\rK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ];
        for bytes in cases {
            let read = reading("GET", bytes).await;
            assert!(matches!(read, Err(Broken::Malformed(_))), "{:?} {read:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn a_cut_response_is_told_from_a_whole_one() {
        let cases: [&[u8]; 4] = [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        ];
        for bytes in cases {
            assert_eq!(reading("GET", bytes).await.unwrap_err(), Broken::Ended(Ending::Finished), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn an_offer_ends_with_the_first_byte_of_an_answer() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let sent = client.offer(vec![b'x'; 64 << 20]).await;
        assert!(sent < 64 << 20);
        assert_eq!(client.read_response().await.status, 413);
    }

    #[tokio::test]
    async fn both_endings_are_told_apart() {
        let (mut client, server) = pair().await;
        drop(server);
        assert_eq!(client.closed().await, Ending::Finished);

        let (mut client, server) = pair().await;
        server.set_zero_linger().unwrap();
        drop(server);
        assert_eq!(client.closed().await, Ending::Reset);

        let (client, mut server) = pair().await;
        client.reset();
        assert!(server.read(&mut [0]).await.is_err());

        let (mut client, mut server) = pair().await;
        client.drip("over and out", 5).await;
        client.half_close().await;
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "over and out");
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert_eq!(client.read_response().await.header("content-length"), Some("0"));
    }

    #[tokio::test]
    #[should_panic(expected = "bytes instead of the end")]
    async fn bytes_where_the_end_is_due_fail_the_test() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"x").await.unwrap();
        client.closed().await;
    }

    #[tokio::test]
    async fn another_source_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = IpAddr::from([127, 0, 0, 7]);
        let client = Client::connect_from(source, listener.local_addr().unwrap()).await;
        assert_eq!(listener.accept().await.unwrap().1, client.local_addr());
        assert_eq!(client.local_addr().ip(), source);
    }

    /// The `get-vanilla-query-order-key-case` case of AWS's signature version 4 test suite.
    #[test]
    fn the_signer_reproduces_a_published_signature() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let mut signing = Signing::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        signing.service = "service".to_owned();
        let target = "/?Param2=value2&Param1=value1";
        let message = Signed::new("GET", "example.amazonaws.com", target, "").sign(&signing, at);
        let head = String::from_utf8(message.head).unwrap();
        assert!(
            head.contains("Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500\r\n"),
            "{head}"
        );
    }

    #[test]
    fn options_shape_the_message() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let mut signing = Signing::new("AKIDEXAMPLE", "secret");
        signing.token = Some("token/+".to_owned());
        let base = Signed::post("h:1", "/dispatch", "{}").header("X-Amz-Meta", "a").unsigned_header("X-Free", "b");

        let message = base.clone().declared().chunked(&[1]).expect_continue().sign(&signing, at);
        let head = String::from_utf8(message.head.clone()).unwrap();
        let signed = "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta;x-amz-security-token,";
        for part in [signed, "X-Free: b\r\n", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n"] {
            assert!(head.contains(part), "{part} in {head}");
        }
        assert_eq!(message.body, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n");
        assert!(message.bytes().ends_with(LAST_CHUNK));
        assert!(!message.edit("X-Free: b", "X-Free: c").head.windows(9).any(|w| w == b"X-Free: b"));

        let message = base.clone().without("content-type").but_send("[]!").sign(&signing, at);
        let head = String::from_utf8(message.head).unwrap();
        assert!(!head.contains("Content-Type") && head.ends_with("Content-Length: 3\r\n\r\n"), "{head}");
        assert_eq!(message.body, b"[]!");

        let message = base.payload(Payload::Unsigned).presigned(Duration::from_secs(60)).sign(&signing, at);
        let head = String::from_utf8(message.head).unwrap();
        for part in ["/dispatch?X-Amz-Algorithm=", "&X-Amz-Security-Token=token%2F%2B", "&X-Amz-Signature="] {
            assert!(head.contains(part), "{part} in {head}");
        }
    }

    #[tokio::test]
    #[should_panic(expected = "still waiting after 0ns at")]
    async fn patience_ends() {
        bounded(Duration::ZERO, Location::caller(), std::future::pending::<()>()).await;
    }
}
