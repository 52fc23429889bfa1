//! Asking Axon: choose a backend, connect or reuse, sign, send, wait for the head of the answer.
//!
//! Invariant: a request that Axon may have begun is never sent twice. Only what was certainly not sent
//! goes to another backend: a failed connect, or an idle connection found closed before a byte was written.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::time::{Instant, timeout_at};

use crate::axon::backend::Occupied;
use crate::axon::call::{Call, Outcome};
use crate::axon::choose::{Chosen, Draw, Tried, key_of, mix};
use crate::axon::condition::Failing;
use crate::axon::dial::{Fault, NotOpened};
use crate::axon::exchange::Exchange;
use crate::axon::wire::{Connection, Failure};
use crate::axon::{Backend, Upstream};
use crate::clock::{Clock, Moment};
use crate::error::{Code, Rejection};
use crate::request::Head;
use crate::request::correlation::{CORRELATION_ID, Ids, REQUEST_ID};
use crate::snapshot::settings::{Balance, UpstreamMethod};

/// The caller's headers that Axon gets to see; everything else is Orbit's own.
static PASSED_ON: [HeaderName; 7] = [
    http::header::ACCEPT,
    http::header::ACCEPT_LANGUAGE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-amzn-trace-id"),
    http::header::USER_AGENT,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How often a try goes on to another connection when a new one takes no request.
const RENEWALS_MAX: u32 = 3;

/// An admitted dispatch on its way out.
pub struct Outgoing<'a> {
    pub head: &'a Head,
    pub ids: &'a Ids,
    /// The dispatch's bytes as they were signed.
    pub body: Bytes,
    pub client: std::net::IpAddr,
    /// Whose it is.
    pub principal: &'a str,
}

/// Gets the head of Axon's answer.
///
/// `gone` resolves when the client has left; the exchange is then dropped, which closes its connection.
/// Every try that ended leaves a [`Call`].
///
/// # Errors
/// `503` with its issue; `None` when the client left.
pub async fn forward(
    upstream: &Arc<Upstream>,
    outgoing: &Outgoing<'_>,
    clock: &Arc<dyn Clock>,
    gone: impl Future<Output = ()>,
    calls: &mut Vec<Call>,
) -> Result<Exchange, Option<Rejection>> {
    let began = clock.now();
    if !upstream.can_sign(began) {
        // Asking unsigned would be asking as nobody.
        return Err(Some(Rejection::unavailable("credentials_expired", "the signing credentials have expired")));
    }
    let mut current = None;
    let found = tokio::select! {
        biased;
        found = search(upstream, outgoing, clock, calls, &mut current) => Some(found),
        () = gone => None,
    };
    match (found, current) {
        (Some(found), _) => found.map_err(Some),
        (None, Some(backend)) => {
            let took = clock.now().since(began);
            calls.push(Call { backend, outcome: Outcome::Abandoned, message: "client left".into(), took });
            Err(None)
        }
        (None, None) => Err(None),
    }
}

async fn search(
    upstream: &Arc<Upstream>,
    outgoing: &Outgoing<'_>,
    clock: &Arc<dyn Clock>,
    calls: &mut Vec<Call>,
    current: &mut Option<Arc<Backend>>,
) -> Result<Exchange, Rejection> {
    let total = Instant::now() + upstream.settings.timeouts.total;
    let backends = upstream.backends();
    let terms = upstream.terms();
    let key = if terms.balance == Balance::HashPrincipal { key_of(outgoing.principal) } else { 0 };
    let mut random = outgoing.ids.random();
    let mut tried = Tried::default();
    let mut last = Rejection::unavailable("no_healthy_backend", "no backend is reachable");
    loop {
        let began = clock.now();
        let Some(Chosen { index, how }) = backends.choose(terms, Draw { random, key, now: began.ticks }, tried) else {
            break;
        };
        let Some(backend) = backends.members().get(index).map(|member| &member.backend) else { break };
        let occupied = backend.occupy(began.ticks, how.is_trial());
        random = mix(random);
        *current = Some(backend.clone());
        tried.add(index);
        let attempt = Try { upstream, backend, outgoing, clock, began, total, alone: calls.is_empty() };
        let (outcome, rejection) = match attempt.ask(occupied).await {
            Ok(exchange) => return Ok(exchange),
            Err(Miss::NotConnected { outcome, rejection }) => (outcome, rejection),
            Err(Miss::Final { outcome, rejection }) => {
                calls.push(call(backend, outcome, &rejection, clock.now(), began));
                return Err(rejection);
            }
        };
        calls.push(call(backend, outcome, &rejection, clock.now(), began));
        // That the one tried in vain was known to be unreachable is what the client should know.
        if !how.is_last() {
            last = rejection;
        }
        if Instant::now() >= total {
            break;
        }
    }
    Err(last)
}

fn call(backend: &Arc<Backend>, outcome: Outcome, rejection: &Rejection, now: Moment, began: Moment) -> Call {
    Call { backend: backend.clone(), outcome, message: rejection.why.clone(), took: now.since(began) }
}

/// Why a backend gave no answer.
enum Miss {
    /// It cannot have begun; another may be asked.
    NotConnected { outcome: Outcome, rejection: Rejection },
    /// It may have begun.
    Final { outcome: Outcome, rejection: Rejection },
}

/// One try to get an answer from one backend.
struct Try<'a> {
    upstream: &'a Arc<Upstream>,
    backend: &'a Arc<Backend>,
    outgoing: &'a Outgoing<'a>,
    clock: &'a Arc<dyn Clock>,
    began: Moment,
    /// When the request has to be answered.
    total: Instant,
    /// No other try took any of that time.
    alone: bool,
}

impl Try<'_> {
    async fn ask(&self, mut occupied: Occupied) -> Result<Exchange, Miss> {
        let Self { upstream, backend, .. } = *self;
        let mut pooled = backend.pool().take();
        let mut renewals = 0;
        let (connection, head, body) = loop {
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let (reused, shared) = (connection.was_used(), connection.is_shared());
            let request = request(upstream, backend, self.outgoing, self.clock.now()).map_err(|why| Miss::Final {
                outcome: Outcome::Error,
                rejection: Rejection::new(Code::InternalError, why),
            })?;
            let (deadline, whole) = self.deadline(upstream.settings.timeouts.first_byte);
            match timeout_at(deadline, connection.send(request)).await {
                Ok(Ok((head, body))) => break (connection, head, body),
                // Closed while it was idle: not the backend's fault, nothing was sent, a fresh one will do.
                Ok(Err(Failure::Unsent)) if reused => pooled = backend.pool().take(),
                // Shared connections are taken out of service in all order when they are new, too.
                Ok(Err(Failure::Unsent)) if shared && renewals < RENEWALS_MAX => {
                    renewals += 1;
                    pooled = backend.pool().take();
                }
                Ok(Err(failure)) => {
                    // One that was idle may have been ended in all order, which only HTTP/2 says beforehand;
                    // whether the backend is well, a fresh one tells.
                    let blamed = match &failure {
                        Failure::Unsent | Failure::Distrusted(_) => true,
                        Failure::Refused(_) => false,
                        Failure::Broken(_) => shared || !reused,
                    };
                    return Err(self.no_answer(&occupied, failure, blamed));
                }
                Err(_) => {
                    let why = "no answer in time";
                    if whole {
                        self.failed(&occupied, Failing::NoAnswer, why);
                    }
                    let rejection = Rejection::unavailable("timeout", why);
                    return Err(Miss::Final { outcome: Outcome::Timeout, rejection });
                }
            }
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let why = "switched protocols without being asked to";
            self.failed(&occupied, Failing::NoAnswer, why);
            let rejection = Rejection::unavailable("upstream_failed", why);
            return Err(Miss::Final { outcome: Outcome::Error, rejection });
        }
        let now = self.clock.now();
        let failing = is_failure(head.status);
        backend.heard(now.ticks, (!failing).then(|| now.since(self.began)));
        if failing {
            self.failed(&occupied, Failing::Status, &format!("answered {}", head.status.as_u16()));
        } else if occupied.is_trial() {
            upstream.answered(backend, true, now.ticks);
        }
        // What a trial was to show, it has shown; its body may go on for minutes.
        occupied.end_trial();
        Ok(Exchange {
            head,
            announced: body.announced_length(),
            body,
            ended: false,
            connection,
            backend: backend.clone(),
            began: self.began,
            total: self.total,
            upstream: upstream.clone(),
            clock: self.clock.clone(),
            noted: failing,
            occupied,
        })
    }

    fn no_answer(&self, occupied: &Occupied, failure: Failure, blamed: bool) -> Miss {
        let unbegun = !matches!(failure, Failure::Broken(_));
        let distrusted = matches!(failure, Failure::Distrusted(_));
        let why = failure.why();
        if blamed {
            self.failed(occupied, Failing::NoAnswer, &why);
        }
        if distrusted {
            return not_connected(why);
        }
        let (outcome, rejection) = (Outcome::Broken, Rejection::unavailable("upstream_failed", why));
        if unbegun { Miss::NotConnected { outcome, rejection } } else { Miss::Final { outcome, rejection } }
    }

    fn failed(&self, occupied: &Occupied, how: Failing, why: &str) {
        let (began, now) = (self.began.ticks, self.clock.now().ticks);
        self.upstream.failed(self.backend, began, occupied.is_trial(), how, why, now);
    }

    /// When `patience` is over, and whether the backend then had as much of it as the configuration gives:
    /// time that others took is not held against it.
    fn deadline(&self, patience: Duration) -> (Instant, bool) {
        let own = Instant::now() + patience;
        (self.total.min(own), self.alone || own <= self.total)
    }

    async fn connect(&self) -> Result<Connection, Miss> {
        let (backend, bounds) = (self.backend, self.upstream.bounds());
        let (deadline, whole) = self.deadline(bounds.connect);
        let NotOpened { fault, why } = match backend.pool().open(backend.address(), bounds, deadline).await {
            Ok(connection) => {
                self.upstream.connected(backend, self.clock.now().ticks);
                return Ok(connection);
            }
            Err(failed) => failed,
        };
        match fault {
            // What this machine could not do says nothing about the backend.
            Fault::Ours => log::error!("backend {}: {why}", backend.label()),
            Fault::Late if !whole => return Err(not_connected("no time was left to connect".into())),
            Fault::Late | Fault::Theirs => self.upstream.unconnected(backend, &why, self.clock.now().ticks),
        }
        Err(not_connected(why))
    }
}

fn not_connected(why: Cow<'static, str>) -> Miss {
    Miss::NotConnected { outcome: Outcome::ConnectFailed, rejection: Rejection::unavailable("connect_failed", why) }
}

/// Whether an answer says that the backend is not well: any 5xx but those that speak of the request.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
        && status != StatusCode::NOT_IMPLEMENTED
        && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED
}

/// The request as Axon gets it: built here from an allow-list, so that nothing hop-by-hop, smuggled or
/// secret can pass, then signed.
fn request(
    upstream: &Upstream,
    backend: &Backend,
    outgoing: &Outgoing<'_>,
    now: Moment,
) -> Result<Request<Bytes>, String> {
    let asked = &upstream.settings.request;
    let (method, body) = match asked.method {
        UpstreamMethod::Post => (Method::POST, outgoing.body.clone()),
        UpstreamMethod::Get => (Method::GET, Bytes::new()),
    };
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(HOST, backend.authority().clone());
    if asked.method == UpstreamMethod::Post {
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(CONTENT_LENGTH, body.len().into());
    }
    for (name, passed) in outgoing.head.fields() {
        let known = PASSED_ON.iter().find(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name));
        if let Some(known) = known.filter(|known| !is_nominated(known, outgoing.head.all(b"connection"))) {
            headers.append(known.clone(), value(passed)?);
        }
    }
    headers.insert(CORRELATION_ID, outgoing.ids.correlation_value().clone());
    headers.insert(REQUEST_ID, outgoing.ids.request_value().clone());
    headers.insert(FORWARDED_FOR, value(outgoing.client.to_string().as_bytes())?);
    if let Some(signer) = &upstream.signer {
        let host = backend.authority().to_str().map_err(|e| e.to_string())?;
        let signed = signer.sign_headers(method.as_str(), host, &asked.path, &mut headers, &body, now);
        signed.map_err(|e| e.to_string())?;
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = upstream.target.clone();
    *request.headers_mut() = headers;
    Ok(request)
}

/// Whether a field is meant for the next hop only, because a `Connection` field names it.
pub fn is_nominated<'a>(name: &HeaderName, mut connection: impl Iterator<Item = &'a [u8]>) -> bool {
    let names = |field: &'a [u8]| field.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    connection.any(|field| names(field).any(|token| token.eq_ignore_ascii_case(name.as_str().as_bytes())))
}

fn value(bytes: &[u8]) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(bytes).map_err(|_| "a header value holds a control character".to_owned())
}
