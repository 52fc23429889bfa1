//! Asking Axon: choose a backend, connect or reuse, sign, send, wait for the head of the answer.
//!
//! Invariant: a request that Axon may have begun is never sent twice, unless it is idempotent: a `GET`, one
//! with an `Idempotency-Key`, or any by the operator's word (`retry.idempotent`). What was certainly not begun
//! goes on without that: a failed connect, an idle connection found closed before a byte was written, a
//! request that was turned away as the protocol has it.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep, timeout_at};

use crate::axon::asking::Asking;
use crate::axon::backend::Occupied;
use crate::axon::call::{Call, Outcome};
use crate::axon::choose::{Backends, Chosen, Draw, Member, Tried, key_of, mix};
use crate::axon::condition::Failing;
use crate::axon::dial::{Fault, NotOpened};
use crate::axon::exchange::Exchange;
use crate::axon::retry::{Reason, backoff};
use crate::axon::wire::{Connection, Failure};
use crate::axon::{Backend, Upstream};
use crate::clock::{Clock, Moment};
use crate::error::{Code, Rejection};
use crate::request::Head;
use crate::request::correlation::{CORRELATION_ID, Ids, REQUEST_ID};
use crate::snapshot::settings::{Balance, UpstreamMethod};

/// The caller's headers that Axon gets to see; everything else is Orbit's own.
const PASSED_ON: [&str; 7] =
    ["accept", "accept-language", IDEMPOTENCY_KEY, "traceparent", "tracestate", "x-amzn-trace-id", "user-agent"];
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// A connection that breaks within this time of a request on it was being closed as the request arrived.
const CLOSING_MAX: Duration = Duration::from_millis(50);
static JSON: HeaderValue = HeaderValue::from_static("application/json");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

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
    let backends = upstream.backends();
    let mut current = None;
    let found = tokio::select! {
        biased;
        found = search(upstream, &backends, outgoing, clock, began, calls, &mut current) => Some(found),
        () = gone => None,
    };
    match (found, current.and_then(|index| backends.members().get(index))) {
        (Some(found), _) => found.map_err(Some),
        (None, Some(Member { backend, .. })) => {
            let (backend, took) = (backend.clone(), clock.now().since(began));
            calls.push(Call { backend, outcome: Outcome::Abandoned, message: "client left".into(), took });
            Err(None)
        }
        (None, None) => Err(None),
    }
}

/// `current` is the member that is being asked, by index.
async fn search(
    upstream: &Arc<Upstream>,
    backends: &Backends,
    outgoing: &Outgoing<'_>,
    clock: &Arc<dyn Clock>,
    began: Moment,
    calls: &mut Vec<Call>,
    current: &mut Option<usize>,
) -> Result<Exchange, Rejection> {
    let mut now = Now { moment: began, instant: Instant::now() };
    let total = now.instant + upstream.settings.timeouts.total;
    upstream.budget().request(began.ticks);
    let terms = upstream.terms();
    let key = if terms.balance == Balance::HashPrincipal { key_of(outgoing.principal) } else { 0 };
    let mut random = outgoing.ids.random();
    let mut tried = Tried::default();
    let mut once_more = false;
    let mut sent_again = None;
    let mut retries = Retries { upstream, outgoing, total, done: 0 };
    let mut last = None;
    loop {
        let draw = Draw { random, key, now: now.moment.ticks };
        let mut chosen = backends.choose(terms, draw, tried);
        if chosen.is_none() && std::mem::take(&mut once_more) {
            // What may be sent twice may be sent to the same one twice; each retry allows one more round.
            tried = Tried::default();
            chosen = backends.choose(terms, draw, tried);
        }
        let Some(Chosen { index, how }) = chosen else { break };
        let Some(backend) = backends.members().get(index).map(|member| &member.backend) else { break };
        // Counted here, where there is somebody to send it to again.
        if let Some(reason) = sent_again.take() {
            upstream.retried(reason);
        }
        let occupied = backend.occupy(now.moment.ticks, how.is_trial());
        random = mix(random);
        *current = Some(index);
        tried.add(index);
        let attempt = Try { upstream, backend, outgoing, clock, began: now, total, alone: calls.is_empty() };
        let Miss { outcome, rejection, again } = match attempt.ask(occupied).await {
            Ok(exchange) => return Ok(exchange),
            Err(miss) => miss,
        };
        let tried_from = std::mem::replace(&mut now, Now::read(clock)).moment;
        calls.push(call(backend, outcome, &rejection, now.moment, tried_from));
        match again {
            Again::Elsewhere(reason) if now.instant < total => sent_again = Some(reason),
            Again::IfIdempotent(reason) => match retries.next(now, random) {
                Some(pause) => {
                    once_more = true;
                    sent_again = Some(reason);
                    *current = None;
                    sleep(pause).await;
                    now = Now::read(clock);
                }
                None => return Err(rejection),
            },
            Again::Elsewhere(_) | Again::Never => return Err(rejection),
        }
        // That the one tried in vain was known to be unreachable is what the client should know.
        if !how.is_last() {
            last = Some(rejection);
        }
    }
    Err(last.unwrap_or_else(|| Rejection::unavailable("no_healthy_backend", "no backend is reachable")))
}

/// One reading of the gateway's clock and of the runtime's, which timers go by. As long as nothing was waited
/// for, it is still now.
#[derive(Clone, Copy)]
struct Now {
    moment: Moment,
    instant: Instant,
}

impl Now {
    fn read(clock: &Arc<dyn Clock>) -> Self {
        Self { moment: clock.now(), instant: Instant::now() }
    }
}

/// What one request may still do again although Axon may have begun it.
struct Retries<'a> {
    upstream: &'a Upstream,
    outgoing: &'a Outgoing<'a>,
    total: Instant,
    done: u32,
}

impl Retries<'_> {
    /// The pause before the next try; `None` when there is none.
    fn next(&mut self, now: Now, random: u64) -> Option<Duration> {
        let retry = &self.upstream.settings.retry;
        if self.done + 1 >= retry.attempts || !self.is_idempotent() {
            return None;
        }
        let pause = backoff(retry, self.done + 1, random);
        let in_time = now.instant + pause < self.total;
        if !in_time || !self.upstream.take_retry(now.moment.ticks) {
            return None;
        }
        self.done += 1;
        Some(pause)
    }

    fn is_idempotent(&self) -> bool {
        let head = self.outgoing.head;
        self.upstream.settings.request.method == UpstreamMethod::Get
            || self.upstream.settings.retry.idempotent
            // A key that Axon does not get to see makes nothing idempotent.
            || head.all(IDEMPOTENCY_KEY.as_bytes()).any(|key| !key.is_empty())
                && !is_nominated(IDEMPOTENCY_KEY, head.all(b"connection"))
    }
}

fn call(backend: &Arc<Backend>, outcome: Outcome, rejection: &Rejection, now: Moment, began: Moment) -> Call {
    Call { backend: backend.clone(), outcome, message: rejection.why.clone(), took: now.since(began) }
}

/// Why a backend gave no answer.
struct Miss {
    outcome: Outcome,
    rejection: Rejection,
    again: Again,
}

/// Whether what a backend did not answer may be sent again.
enum Again {
    /// It cannot have begun; another may be asked.
    Elsewhere(Reason),
    /// It may have begun.
    IfIdempotent(Reason),
    /// It would only fail again.
    Never,
}

/// One try to get an answer from one backend.
struct Try<'a> {
    upstream: &'a Arc<Upstream>,
    backend: &'a Arc<Backend>,
    outgoing: &'a Outgoing<'a>,
    clock: &'a Arc<dyn Clock>,
    began: Now,
    /// When the request has to be answered.
    total: Instant,
    /// No other try took any of that time.
    alone: bool,
}

impl Try<'_> {
    async fn ask(&self, mut occupied: Occupied) -> Result<Exchange, Miss> {
        let Self { upstream, backend, .. } = *self;
        let mut now = self.began;
        let mut pooled = backend.pool().take(now.moment.ticks);
        let mut renewals = 0;
        let (connection, head, body) = loop {
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => {
                    let connection = self.connect(now).await?;
                    now = Now::read(self.clock);
                    upstream.connected(backend, now.moment.ticks);
                    connection
                }
            };
            let (reused, shared, sent) = (connection.was_used(), connection.is_shared(), now.moment);
            let asking = asking(upstream, backend, self.outgoing, sent).map_err(|why| Miss {
                outcome: Outcome::Error,
                rejection: Rejection::new(Code::InternalError, why),
                again: Again::Never,
            })?;
            let (deadline, whole) = self.deadline(now, upstream.settings.timeouts.first_byte);
            match timeout_at(deadline, connection.send(asking)).await {
                Ok(Ok((head, body))) => break (connection, head, body),
                // Closed while it was idle: not the backend's fault, nothing was sent, a fresh one will do.
                Ok(Err(Failure::Unsent)) if reused => {
                    upstream.retried(Reason::StaleConnection);
                    now = Now::read(self.clock);
                    pooled = backend.pool().take(now.moment.ticks);
                }
                // Shared connections are taken out of service in all order when they are new, too.
                Ok(Err(Failure::Unsent)) if shared && renewals < RENEWALS_MAX => {
                    renewals += 1;
                    upstream.retried(Reason::StaleConnection);
                    now = Now::read(self.clock);
                    pooled = backend.pool().take(now.moment.ticks);
                }
                Ok(Err(failure)) => {
                    // One that was idle may have been ended in all order, which only HTTP/2 says beforehand;
                    // whether the backend is well, a fresh one tells.
                    let now = self.clock.now();
                    let at_once = now.since(sent) <= CLOSING_MAX;
                    let in_order = reused && !shared && at_once && matches!(failure, Failure::Broken(_));
                    if in_order {
                        self.lost(&connection, sent, now);
                    }
                    let blamed = !in_order && !matches!(failure, Failure::Refused(_));
                    return Err(self.no_answer(&occupied, failure, blamed));
                }
                Err(_) => {
                    let why = "no answer in time";
                    if whole {
                        self.failed(&occupied, Failing::NoAnswer, why);
                    }
                    let rejection = Rejection::unavailable("timeout", why);
                    let again = Again::IfIdempotent(Reason::Timeout);
                    return Err(Miss { outcome: Outcome::Timeout, rejection, again });
                }
            }
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let why = "switched protocols without being asked to";
            self.failed(&occupied, Failing::NoAnswer, why);
            let rejection = Rejection::unavailable("upstream_failed", why);
            return Err(Miss { outcome: Outcome::Error, rejection, again: Again::Never });
        }
        let now = self.clock.now();
        if let Some(seconds) = head.headers.get(KEEP_ALIVE).and_then(keep_alive_seconds) {
            backend.pool().trust().told(seconds, now.ticks);
        }
        let failing = is_failure(head.status);
        backend.heard(now.ticks, (!failing).then(|| now.since(self.began.moment)));
        occupied.heard();
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
            began: self.began.moment,
            total: self.total,
            upstream: upstream.clone(),
            clock: self.clock.clone(),
            noted: failing,
            occupied,
        })
    }

    fn no_answer(&self, occupied: &Occupied, failure: Failure, blamed: bool) -> Miss {
        let again = match failure {
            Failure::Broken(_) | Failure::Unreadable(_) => Some(Again::IfIdempotent(Reason::Broken)),
            Failure::Unsent => Some(Again::Elsewhere(Reason::StaleConnection)),
            Failure::Refused(_) => Some(Again::Elsewhere(Reason::Refused)),
            // As good as no connection.
            Failure::Distrusted(_) => None,
        };
        let why = failure.why();
        if blamed {
            self.failed(occupied, Failing::NoAnswer, &why);
        }
        match again {
            Some(again) => {
                Miss { outcome: Outcome::Broken, rejection: Rejection::unavailable("upstream_failed", why), again }
            }
            None => not_connected(why),
        }
    }

    /// Notes a connection that was idle and broke under a request sent at `sent`, before its answer.
    fn lost(&self, connection: &Connection, sent: Moment, now: Moment) {
        if let Some(since) = connection.idle_since() {
            self.backend.pool().lost(sent.ticks.saturating_sub(since), now.ticks);
        }
    }

    fn failed(&self, occupied: &Occupied, how: Failing, why: &str) {
        let (began, now) = (self.began.moment.ticks, self.clock.now().ticks);
        self.upstream.failed(self.backend, began, occupied.is_trial(), how, why, now);
    }

    /// When `patience` is over, and whether the backend then had as much of it as the configuration gives:
    /// time that others took is not held against it.
    fn deadline(&self, now: Now, patience: Duration) -> (Instant, bool) {
        let own = now.instant + patience;
        (self.total.min(own), self.alone || own <= self.total)
    }

    async fn connect(&self, now: Now) -> Result<Connection, Miss> {
        let (backend, bounds) = (self.backend, self.upstream.bounds());
        let (deadline, whole) = self.deadline(now, bounds.connect);
        let NotOpened { fault, why } = match backend.pool().open(backend.address(), bounds, deadline).await {
            Ok(connection) => return Ok(connection),
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
    let rejection = Rejection::unavailable("connect_failed", why);
    Miss { outcome: Outcome::ConnectFailed, rejection, again: Again::Elsewhere(Reason::ConnectFailed) }
}

/// Whether an answer says that the backend is not well: any 5xx but those that speak of the request.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
        && status != StatusCode::NOT_IMPLEMENTED
        && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED
}

/// The `timeout` of a `Keep-Alive` header.
fn keep_alive_seconds(value: &HeaderValue) -> Option<u64> {
    let mut parameters = value.to_str().ok()?.split(',');
    parameters.find_map(|parameter| parameter.trim().strip_prefix("timeout=")?.parse().ok())
}

/// The request as Axon gets it: built here from an allow-list, so that nothing hop-by-hop, smuggled or
/// secret can pass, then signed.
fn asking<'a>(
    upstream: &'a Upstream,
    backend: &'a Backend,
    outgoing: &Outgoing<'_>,
    now: Moment,
) -> Result<Asking<'a>, String> {
    let asked = &upstream.settings.request;
    let (method, body) = match asked.method {
        UpstreamMethod::Post => (Method::POST, outgoing.body.clone()),
        UpstreamMethod::Get => (Method::GET, Bytes::new()),
    };
    let control = |_| "a header value holds a control character".to_owned();
    let mut asking = Asking::new(method, &upstream.target, backend.authority(), body);
    if asked.method == UpstreamMethod::Post {
        asking.add_value("content-type", &JSON);
        asking.add_number("content-length", asking.body.len());
    }
    for (name, value) in outgoing.head.fields() {
        let known = PASSED_ON.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name));
        if let Some(known) = known.filter(|known| !is_nominated(known, outgoing.head.all(b"connection"))) {
            asking.add(known, value).map_err(control)?;
        }
    }
    asking.add_value(CORRELATION_ID.as_str(), outgoing.ids.correlation_value());
    asking.add_value(REQUEST_ID.as_str(), outgoing.ids.request_value());
    asking.add_address("x-forwarded-for", outgoing.client);
    if let Some(signer) = &upstream.signer {
        let host = backend.authority().to_str().map_err(|e| e.to_string())?;
        let signed = signer.sign_fields(asking.method.as_str(), host, &asked.path, asking.fields(), &asking.body, now);
        for (name, value) in signed.map_err(|e| e.to_string())? {
            asking.add(name, value.as_bytes()).map_err(control)?;
        }
    }
    Ok(asking)
}

/// Whether a field is meant for the next hop only, because a `Connection` field names it.
pub fn is_nominated<'a>(name: impl AsRef<[u8]>, mut connection: impl Iterator<Item = &'a [u8]>) -> bool {
    let names = |field: &'a [u8]| field.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    connection.any(|field| names(field).any(|token| token.eq_ignore_ascii_case(name.as_ref())))
}
