//! Asking Axon: choose a backend, connect or reuse, sign, send, wait for the head of the answer.
//!
//! Invariant: a request that Axon may have begun is never sent twice. Only what was certainly not sent
//! goes to another backend: a failed connect, or an idle connection found closed before a byte was written.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::time::{Instant, timeout_at};

use crate::axon::call::{Call, Outcome};
use crate::axon::choose::{Draw, Tried, key_of, mix};
use crate::axon::dial::Fault;
use crate::axon::exchange::Exchange;
use crate::axon::watch::note_reachable;
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
    upstream: &Upstream,
    outgoing: &Outgoing<'_>,
    clock: &Arc<dyn Clock>,
    gone: impl Future<Output = ()>,
    calls: &mut Vec<Call>,
) -> Result<Exchange, Option<Rejection>> {
    let began = clock.now();
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
    upstream: &Upstream,
    outgoing: &Outgoing<'_>,
    clock: &Arc<dyn Clock>,
    calls: &mut Vec<Call>,
    current: &mut Option<Arc<Backend>>,
) -> Result<Exchange, Rejection> {
    let total = Instant::now() + upstream.settings.timeouts.total;
    let any_reachable = upstream.any_reachable();
    let backends = upstream.backends();
    let balance = upstream.settings.balance;
    let key = if balance == Balance::HashPrincipal { key_of(outgoing.principal) } else { 0 };
    let mut random = outgoing.ids.random();
    let mut tried = Tried::default();
    let mut last = Rejection::unavailable("no_healthy_backend", "no backend is reachable");
    while let Some(index) = backends.choose(balance, Draw { random, key }, tried) {
        let Some(backend) = backends.members().get(index).map(|member| &member.backend) else { break };
        random = mix(random);
        *current = Some(backend.clone());
        tried.add(index);
        let began = clock.now();
        let (outcome, rejection) = match ask(upstream, backend, outgoing, clock, began, total).await {
            Ok(exchange) => return Ok(exchange),
            Err(Miss::NotConnected { outcome, rejection }) => (outcome, rejection),
            Err(Miss::Final { outcome, rejection }) => {
                calls.push(call(backend, outcome, &rejection, clock.now(), began));
                return Err(rejection);
            }
        };
        calls.push(call(backend, outcome, &rejection, clock.now(), began));
        // That the one tried in vain was known to be unreachable is what the client should know.
        if any_reachable {
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

async fn ask(
    upstream: &Upstream,
    backend: &Arc<Backend>,
    outgoing: &Outgoing<'_>,
    clock: &Arc<dyn Clock>,
    began: Moment,
    total: Instant,
) -> Result<Exchange, Miss> {
    let timeouts = upstream.settings.timeouts;
    let occupied = backend.occupy();
    let mut pooled = backend.pool().take();
    let (connection, head, body) = loop {
        let reused = pooled.is_some();
        let mut connection = match pooled.take() {
            Some(connection) => connection,
            None => connect(upstream, backend, total).await?,
        };
        let request = request(upstream, backend, outgoing, clock.now()).map_err(|why| Miss::Final {
            outcome: Outcome::Error,
            rejection: Rejection::new(Code::InternalError, why),
        })?;
        match timeout_at(total.min(Instant::now() + timeouts.first_byte), connection.send(request)).await {
            Ok(Ok((head, body))) => break (connection, head, body),
            // Closed while it was idle: not the backend's fault, nothing was sent, a fresh one will do.
            Ok(Err(Failure::Unsent)) if reused => pooled = backend.pool().take(),
            Ok(Err(Failure::Unsent)) => {
                let rejection = Rejection::unavailable("upstream_failed", "connection closed before the request");
                return Err(Miss::NotConnected { outcome: Outcome::Broken, rejection });
            }
            Ok(Err(Failure::Refused(why))) => {
                let rejection = Rejection::unavailable("upstream_failed", why);
                return Err(Miss::NotConnected { outcome: Outcome::Broken, rejection });
            }
            Ok(Err(Failure::Broken(why))) => {
                let rejection = Rejection::unavailable("upstream_failed", why);
                return Err(Miss::Final { outcome: Outcome::Broken, rejection });
            }
            Err(_) => {
                let rejection = Rejection::unavailable("timeout", "no answer in time");
                return Err(Miss::Final { outcome: Outcome::Timeout, rejection });
            }
        }
    };
    let took = clock.now().since(began).as_micros();
    backend.note_latency(u32::try_from(took).unwrap_or(u32::MAX));
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let rejection = Rejection::unavailable("upstream_failed", "switched protocols without being asked to");
        return Err(Miss::Final { outcome: Outcome::Error, rejection });
    }
    Ok(Exchange {
        head,
        envelope_bytes: upstream.settings.envelope_bytes as usize,
        announced: body.announced_length(),
        body,
        ended: false,
        connection,
        backend: backend.clone(),
        began,
        total,
        bounds: upstream.bounds(),
        clock: clock.clone(),
        _occupied: occupied,
    })
}

async fn connect(upstream: &Upstream, backend: &Backend, total: Instant) -> Result<Connection, Miss> {
    let bounds = upstream.bounds();
    let deadline = total.min(Instant::now() + bounds.connect);
    let (outcome, issue, why) = match timeout_at(deadline, backend.pool().open(backend.address(), bounds)).await {
        Ok(Ok(connection)) => {
            note_reachable(backend, true, "connected");
            return Ok(connection);
        }
        // What this machine could not do says nothing about the backend.
        Ok(Err(e)) if e.fault == Fault::Ours => {
            log::error!("cannot connect to {}: {}", backend.label(), e.why);
            let rejection = Rejection::unavailable("connect_failed", format!("connect failed here: {}", e.why));
            return Err(Miss::NotConnected { outcome: Outcome::ConnectFailed, rejection });
        }
        Ok(Err(e)) => (Outcome::ConnectFailed, "connect_failed", format!("connect failed: {}", e.why)),
        Err(_) => (Outcome::ConnectFailed, "connect_failed", "connect timed out".to_owned()),
    };
    note_reachable(backend, false, &why);
    Err(Miss::NotConnected { outcome, rejection: Rejection::unavailable(issue, why) })
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
        signer.sign_headers(method.as_str(), backend.label(), &asked.path, &mut headers, &body, now)?;
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
