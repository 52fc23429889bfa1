//! The only `impl ProxyHttp`. Everything is decided and answered in `request_filter`; Pingora's own
//! forwarding is never reached, because it cannot send a body that a filter has read (64 KiB at most) and
//! sends an answer's head before its body is known.
//!
//! Before it writes, to Axon or to the client, a request lets the others that are ready come as far
//! (`yield_now`): their writes then leave one behind the other, and a peer that reads them is woken once
//! instead of once each. Under load that is a fifth of the CPU per request (`docs/performance.md`).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, RETRY_AFTER,
    TRANSFER_ENCODING, VARY,
};
use pingora::upstreams::peer::HttpPeer;
use pingora_core::modules::http::HttpModules;
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::axon::envelope::{self, Added};
use crate::axon::{Broken, Collected, Exchange, Outcome, Outgoing, Upstream, forward, is_nominated};
use crate::error::{Code, Rejection};
use crate::gate::Standing;
use crate::gateway::{Gateway, Phase};
use crate::local::{self, Readiness};
use crate::observation::{Decided, Observation};
use crate::pipeline::{self, Admitted, Arrival, BodySource, Stop};
use crate::reply::{self, Answer, Common, milliseconds, timestamp};
use crate::request::Head;
use crate::request::head::Framing;
use crate::request::route::Endpoint;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Counted;

/// The status logged when the client left before its answer (nginx's convention; it is never sent).
const CLIENT_CLOSED: u16 = 499;
/// Body bytes that are worth reading and throwing away to keep a connection.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
const DRAIN_TIME_MAX: std::time::Duration = std::time::Duration::from_millis(500);
/// As much of a body as a client must take in `listen.idle_timeout`.
const SLICE_BYTES: usize = 64 * 1024;
/// Largest failure body that is read to keep Axon's connection.
const FAILURE_BYTES_MAX: usize = 64 * 1024;

/// What Axon may say about its own body; everything else in an answer's head is Orbit's.
static PASSED_BACK: [HeaderName; 11] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_DISPOSITION,
    CONTENT_LOCATION,
    CACHE_CONTROL,
    EXPIRES,
    ETAG,
    LAST_MODIFIED,
    VARY,
    RETRY_AFTER,
];
/// The part of it that still holds for a body that Orbit rewrote.
static PASSED_BACK_ENVELOPED: [HeaderName; 2] = [CACHE_CONTROL, VARY];

/// Pingora's view of the gateway.
pub struct Proxy {
    gateway: Arc<Gateway>,
}

/// What is known of the request that a Pingora context belongs to.
pub enum Journey {
    /// The edge has not told yet.
    Awaited,
    Arrived(Box<Arrival>),
    Over,
}

/// How an answer ended.
enum Ended {
    Sent(u16),
    /// Begun with this status and never finished.
    CutOff(u16),
    ClientLeft,
}

impl Proxy {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }

    /// Serves one request from arrival to its one observation; says whether its answer was sent whole.
    async fn serve(&self, session: &mut Session, arrival: &Arrival) -> bool {
        let metrics = &self.gateway.telemetry.metrics;
        let _counted = Counted::new(&metrics.in_flight);
        let endpoint = Endpoint::of(&arrival.head, arrival.snapshot.settings.observability.metrics.on_main);
        let mut observation = Observation::begin(&arrival.ids, Some(&arrival.head), endpoint, arrival.began);
        let mut reply = Reply { gateway: &self.gateway, arrival, standing: Standing::default() };

        // A panic is a bug, and costs the one request that met it. The future is pinned where it stands: it is
        // large, and each wrapper that takes it by value would copy it.
        let served = {
            let answer = pin!(reply.answer(session, endpoint, &mut observation));
            AssertUnwindSafe(answer).catch_unwind().await
        };
        let ended = match served {
            Ok(ended) => ended,
            Err(_) if session.response_written().is_some() => Ended::ClientLeft,
            Err(_) => {
                let rejection = Rejection::new(Code::InternalError, "a step panicked; please report this").closing();
                reply.reject(session, rejection, &mut observation).await
            }
        };
        observation.status = match ended {
            Ended::Sent(status) | Ended::CutOff(status) => status,
            Ended::ClientLeft => CLIENT_CLOSED,
        };
        observation.ended = self.gateway.clock.now();
        for stood in reply.standing.limits().iter().filter(|stood| !stood.verdict.admitted) {
            observation.limited_by(stood.limit);
        }
        observation.doubt = reply.standing.doubt;
        self.gateway.observe(&observation, &arrival.snapshot);
        matches!(ended, Ended::Sent(_))
    }
}

/// One request being answered.
struct Reply<'a> {
    gateway: &'a Gateway,
    arrival: &'a Arrival,
    standing: Standing,
}

impl Reply<'_> {
    async fn answer(&mut self, session: &mut Session, endpoint: Endpoint, note: &mut Observation<'_>) -> Ended {
        let now = self.arrival.began;
        let name = &self.arrival.snapshot.settings.name;
        if let Err(rejection) = endpoint.admit(self.arrival.head.method()) {
            return self.reject(session, rejection, note).await;
        }
        let answer = match endpoint {
            Endpoint::Dispatch => return self.dispatch(session, note).await,
            Endpoint::Health => local::health(name, &self.readiness(), now),
            Endpoint::Live => local::live(name, now),
            Endpoint::Metrics => local::metrics(self.gateway.metrics_text(), &self.arrival.head),
            Endpoint::Other => {
                return self.reject(session, Rejection::new(Code::NotFound, "no such route"), note).await;
            }
        };
        self.send(session, answer, None).await
    }

    fn readiness(&self) -> Readiness<'_> {
        match self.gateway.phase() {
            Phase::Draining | Phase::Closing => Readiness::Draining,
            Phase::Serving => {
                let why = |upstream: &Upstream| match upstream {
                    upstream if !upstream.can_sign(self.arrival.began) => Some(local::CREDENTIALS_EXPIRED),
                    upstream if !upstream.is_usable() => Some(local::NO_HEALTHY_BACKEND),
                    _ => None,
                };
                let upstreams = self.arrival.snapshot.upstreams.iter();
                Readiness::of(upstreams.map(|upstream| (upstream.settings.name.as_str(), why(upstream))))
            }
        }
    }

    async fn dispatch(&mut self, session: &mut Session, note: &mut Observation<'_>) -> Ended {
        if self.gateway.phase() == Phase::Closing {
            return self.reject(session, Rejection::unavailable("draining", "draining").closing(), note).await;
        }
        let (gateway, arrival) = (self.gateway, self.arrival);
        let mut source = SessionBody { session: &mut *session };
        let admitted =
            match pipeline::admit(arrival, &mut source, &*gateway.clock, &mut self.standing, &mut note.key).await {
                Ok(admitted) => admitted,
                Err(Stop::Rejected(rejection)) => return self.reject(session, rejection, note).await,
                Err(Stop::Denied(decision)) => {
                    let answer = Answer::denied(&decision, &arrival.ids, gateway.clock.now());
                    let ended = self.send(session, answer, Some(&decision)).await;
                    note.decision = Some(decision);
                    return ended;
                }
                Err(Stop::Gone) => return Ended::ClientLeft,
            };
        let Admitted { body, client, caller, upstream, decision, permit: _permit, mut reservation } = admitted;
        note.decision = Some(decision.clone());

        yield_now().await;
        let principal = caller.principal();
        let outgoing = Outgoing { head: &arrival.head, ids: &arrival.ids, body, client, principal };
        let mut watch = Watch::new(session);
        reservation.use_up();
        let exchange = forward(&upstream, &outgoing, &gateway.clock, watch.gone(), &mut note.calls).await;
        if exchange.is_err() && !note.calls.iter().any(|call| call.outcome.may_have_begun()) {
            reservation.give_back();
        }
        match exchange {
            Ok(exchange) => self.relay(&mut watch, exchange, &decision, note).await,
            Err(Some(rejection)) => self.refuse(session, rejection, Some(&decision), note).await,
            Err(None) => Ended::ClientLeft,
        }
    }

    /// Gives Axon's answer to the client, in the envelope where the contract says so.
    async fn relay(
        &mut self,
        watch: &mut Watch<'_>,
        exchange: Exchange,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let status = exchange.head.status.as_u16();
        match status {
            200..=299 if is_enveloped(&exchange) => self.envelop(watch, exchange, decision, note).await,
            // What is not the usual answer is kept out of this future, which every request pays for.
            200..=299 => Box::pin(self.pass_through(watch, exchange, Vec::new(), decision, note)).await,
            400..=499 => Box::pin(self.client_error(watch, exchange, decision, note)).await,
            _ => {
                let why = format!("Axon answered {status}");
                let rejection = match status {
                    502..=504 => Rejection {
                        retry_after: retry_after(&exchange),
                        ..Rejection::unavailable("upstream_unavailable", why)
                    },
                    _ => Rejection::new(Code::InternalError, why),
                };
                Box::pin(self.abandon(watch, exchange, rejection, decision, note)).await
            }
        }
    }

    /// Reads an answer whole, so that an Axon that dies half-way is a clean 503, and wraps it.
    async fn envelop(
        &mut self,
        watch: &mut Watch<'_>,
        mut exchange: Exchange,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let limit = exchange.envelope_bytes();
        let body = match collect(watch, &mut exchange, limit).await {
            Ok(Collected::Whole(body)) => body,
            Ok(Collected::Part(begun)) => {
                return Box::pin(self.pass_through(watch, exchange, begun, decision, note)).await;
            }
            Err(cut) => return Box::pin(self.cut_off(watch, exchange, cut, decision, note)).await,
        };
        let now = self.gateway.clock.now();
        let added = Added {
            correlation_id: self.arrival.ids.correlation(),
            timestamp: &timestamp(now),
            reason: &decision.reason,
            decision_time_ms: &milliseconds(decision.took),
        };
        let Some(enveloped) = envelope::wrap(&body, &added) else {
            return Box::pin(self.pass_through(watch, exchange, vec![body], decision, note)).await;
        };
        let status = exchange.head.status.as_u16();
        let mut kept = HeaderMap::new();
        passed_back(&exchange.head.headers, &PASSED_BACK_ENVELOPED, &mut kept);
        note.calls.push(exchange.finish(Outcome::Success, enveloped.message.unwrap_or_else(|| "answered".to_owned())));
        self.send_with(watch.session, Answer::json(status, enveloped.body), Some(decision), kept).await
    }

    /// Axon's 4xx keeps its status; its body too if that is a JSON object.
    async fn client_error(
        &mut self,
        watch: &mut Watch<'_>,
        mut exchange: Exchange,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let status = exchange.head.status.as_u16();
        let limit = exchange.envelope_bytes();
        let collected = collect(watch, &mut exchange, limit).await;
        let own = match collected {
            Ok(Collected::Whole(body)) if !exchange.head.headers.contains_key(CONTENT_ENCODING) => {
                envelope::is_object(&body).then_some(body)
            }
            Ok(_) => None,
            Err(cut) => return self.cut_off(watch, exchange, cut, decision, note).await,
        };
        let given = retry_after(&exchange);
        let now = self.gateway.clock.now();
        let answer = match own {
            Some(body) => Answer { retry_after: reply::retry_after_of(status, given), ..Answer::json(status, body) },
            None => Answer::upstream_refusal(status, given, &self.arrival.ids, now),
        };
        note.calls.push(exchange.finish(Outcome::Refused, format!("answered {status}")));
        self.send(watch.session, answer, Some(decision)).await
    }

    /// An answer that is not passed on: Orbit says so in its own words.
    async fn abandon(
        &mut self,
        watch: &mut Watch<'_>,
        mut exchange: Exchange,
        rejection: Rejection,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        // Read for the connection's sake only: how that goes changes nothing, and the client need not wait for it.
        let _ = timeout(DRAIN_TIME_MAX, collect(watch, &mut exchange, FAILURE_BYTES_MAX)).await;
        note.calls.push(exchange.finish(Outcome::Error, rejection.why.clone()));
        self.refuse(watch.session, rejection, Some(decision), note).await
    }

    /// The answer stopped before the client was told anything.
    async fn cut_off(
        &mut self,
        watch: &mut Watch<'_>,
        exchange: Exchange,
        cut: Cut,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        match cut {
            Cut::ClientLeft => {
                note.calls.push(exchange.finish(Outcome::Abandoned, "client left"));
                Ended::ClientLeft
            }
            Cut::Broken(broken) => {
                let rejection = broken.rejection();
                note.calls.push(exchange.finish(broken.outcome, broken.why));
                self.refuse(watch.session, rejection, Some(decision), note).await
            }
        }
    }

    /// Passes Axon's bytes on as they come, after those already read.
    async fn pass_through(
        &mut self,
        watch: &mut Watch<'_>,
        mut exchange: Exchange,
        mut begun: Vec<Bytes>,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let status = exchange.head.status.as_u16();
        if begun.is_empty() {
            match exchange.next().now_or_never() {
                Some(Ok(first)) => begun.extend(first),
                Some(Err(broken)) => return self.cut_off(watch, exchange, Cut::Broken(broken), decision, note).await,
                None => {}
            }
        }
        // A body without framing ends with its connection.
        let unframed = self.arrival.head.is_http10() && exchange.announced_length().is_none() && !exchange.is_whole();
        if unframed || self.gateway.phase() != Phase::Serving {
            watch.session.set_keepalive(None);
        }
        let here = begun.iter().map(|part| part.len() as u64).sum();
        let head = self.pass_through_head(&exchange, here, decision);
        if exchange.is_whole() {
            // The connection goes back first, so that it is there when the client asks again.
            note.calls.push(exchange.finish(Outcome::Success, "passed through"));
            let sent = self.begin(watch.session, head, begun).await
                && self.write_body(watch.session, Bytes::new(), true).await;
            return if sent { Ended::Sent(status) } else { Ended::ClientLeft };
        }
        let mut left = !self.begin(watch.session, head, begun).await;
        while !left {
            let next = tokio::select! {
                biased;
                next = exchange.next() => next,
                () = watch.gone() => break,
            };
            match next {
                Ok(Some(bytes)) => {
                    left = !self.write_body(watch.session, bytes, false).await;
                }
                Ok(None) => {
                    note.calls.push(exchange.finish(Outcome::Success, "passed through"));
                    let sent = self.write_body(watch.session, Bytes::new(), true).await;
                    return if sent { Ended::Sent(status) } else { Ended::ClientLeft };
                }
                Err(broken) => {
                    // The head is out, so the only honest end is one that the client can see is none.
                    watch.session.as_downstream_mut().shutdown().await;
                    note.calls.push(exchange.finish(broken.outcome, broken.why));
                    return Ended::CutOff(status);
                }
            }
        }
        note.calls.push(exchange.finish(Outcome::Abandoned, "client left"));
        Ended::ClientLeft
    }

    /// Writes the head of an answer and what there is of its body.
    async fn begin(&self, session: &mut Session, head: ResponseHeader, parts: Vec<Bytes>) -> bool {
        if !self.write_head(session, head).await {
            return false;
        }
        for part in parts {
            if !self.write_body(session, part, false).await {
                return false;
            }
        }
        true
    }

    /// `here` is how many bytes of the body were read.
    fn pass_through_head(&self, exchange: &Exchange, here: u64, decision: &Decided) -> ResponseHeader {
        let status = exchange.head.status.as_u16();
        let mut fields = HeaderMap::with_capacity(24);
        passed_back(&exchange.head.headers, &PASSED_BACK, &mut fields);
        let old_client = self.arrival.head.is_http10();
        match exchange.announced_length() {
            _ if status == 204 => {}
            // It has no content, and must say so (RFC 9110, section 15.3.6).
            _ if status == 205 => drop(fields.insert(CONTENT_LENGTH, 0.into())),
            _ if exchange.is_whole() => drop(fields.insert(CONTENT_LENGTH, here.into())),
            // Pingora flushes each part of a chunked body, and of one with a length only the last.
            Some(length) if old_client => drop(fields.insert(CONTENT_LENGTH, length.into())),
            // The end of the connection is the only end that such a body has.
            None if old_client => {}
            _ => drop(fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        }
        self.common(Some(decision)).write(&mut fields);
        reply::head(status, fields)
    }

    /// Refuses with an answer of the error table.
    async fn reject(&mut self, session: &mut Session, rejection: Rejection, note: &mut Observation<'_>) -> Ended {
        self.refuse(session, rejection, None, note).await
    }

    async fn refuse(
        &mut self,
        session: &mut Session,
        rejection: Rejection,
        decision: Option<&Decided>,
        note: &mut Observation<'_>,
    ) -> Ended {
        let mut answer = Answer::rejection(&rejection, &self.arrival.ids, self.gateway.clock.now());
        answer.allow = (rejection.code == Code::MethodNotAllowed).then(|| note.endpoint.allow());
        note.refusal = Some(rejection);
        self.send(session, answer, decision).await
    }

    async fn send(&mut self, session: &mut Session, answer: Answer, decision: Option<&Decided>) -> Ended {
        self.send_with(session, answer, decision, HeaderMap::new()).await
    }

    async fn send_with(
        &mut self,
        session: &mut Session,
        answer: Answer,
        decision: Option<&Decided>,
        more: HeaderMap,
    ) -> Ended {
        if answer.close || self.gateway.phase() != Phase::Serving {
            session.set_keepalive(None);
        }
        self.settle_body(session).await;
        yield_now().await;
        let status = answer.status;
        let body = if self.arrival.head.method() == "HEAD" { Bytes::new() } else { answer.body.clone() };
        let mut fields = answer.fields(&self.common(decision));
        fields.extend(more);
        let taken =
            self.write_head(session, reply::head(status, fields)).await && self.write_body(session, body, true).await;
        if taken { Ended::Sent(status) } else { Ended::ClientLeft }
    }

    /// Says whether the client took the head.
    async fn write_head(&self, session: &mut Session, head: ResponseHeader) -> bool {
        self.taken(session.as_downstream_mut().write_response_header(Box::new(head))).await
    }

    /// Writes a part of the body, `last` or not; says whether the client took it, slice by slice.
    async fn write_body(&self, session: &mut Session, mut part: Bytes, last: bool) -> bool {
        // In chunks, an empty part is the end.
        if part.is_empty() && !last {
            return true;
        }
        loop {
            let slice = part.split_to(part.len().min(SLICE_BYTES));
            let end = last && part.is_empty();
            if !self.taken(session.as_downstream_mut().write_response_body(slice, end)).await {
                return false;
            }
            if part.is_empty() {
                return true;
            }
        }
    }

    /// Whether the client took what is written; one that takes nothing for `listen.idle_timeout` has left.
    async fn taken(&self, write: impl Future<Output = pingora::Result<()>>) -> bool {
        matches!(timeout(self.arrival.snapshot.settings.listen.idle_timeout, write).await, Ok(Ok(())))
    }

    /// A request body that nobody read: a small one is thrown away so that the connection can go on, a
    /// large one, or one that the client waits to be asked for, ends the connection.
    async fn settle_body(&self, session: &mut Session) {
        let downstream = session.as_downstream_mut();
        if downstream.is_body_done() {
            return;
        }
        let small = matches!(self.arrival.head.framing(), Framing::Length(length) if length <= DRAIN_BYTES_MAX);
        if !small || self.arrival.head.expects_continue() || downstream.get_keepalive().is_none() {
            return downstream.set_keepalive(None);
        }
        if !matches!(timeout(DRAIN_TIME_MAX, downstream.drain_request_body()).await, Ok(Ok(()))) {
            downstream.set_keepalive(None);
        }
    }

    fn common<'b>(&'b self, decision: Option<&'b Decided>) -> Common<'b> {
        let now = self.gateway.clock.now();
        Common { ids: &self.arrival.ids, standing: &self.standing, decision, now }
    }
}

/// Whether the answer's head lets it be a JSON object within the limit.
fn is_enveloped(exchange: &Exchange) -> bool {
    let headers = &exchange.head.headers;
    let json = headers.get(CONTENT_TYPE).is_none_or(|value| {
        let essence = value.as_bytes().split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json") || essence.to_ascii_lowercase().ends_with(b"+json")
    });
    let fits = exchange.announced_length().is_none_or(|length| length <= exchange.envelope_bytes() as u64);
    json && fits && !headers.contains_key(CONTENT_ENCODING) && !matches!(exchange.head.status.as_u16(), 204 | 205)
}

/// Copies the fields of those names, unless they are meant for this hop only.
fn passed_back(headers: &HeaderMap, names: &[HeaderName], fields: &mut HeaderMap) {
    let hop_by_hop = || headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    for (name, value) in headers {
        if names.contains(name) && !is_nominated(name, hop_by_hop()) {
            fields.append(name.clone(), value.clone());
        }
    }
}

/// Axon's `Retry-After` in seconds, the only form that Orbit sends.
fn retry_after(exchange: &Exchange) -> Option<u64> {
    let given = exchange.head.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    (given > 0).then_some(given)
}

/// Why an answer was not read to its end.
enum Cut {
    ClientLeft,
    Broken(Broken),
}

async fn collect(watch: &mut Watch<'_>, exchange: &mut Exchange, limit: usize) -> Result<Collected, Cut> {
    tokio::select! {
        biased;
        collected = exchange.collect(limit) => collected.map_err(Cut::Broken),
        () = watch.gone() => Err(Cut::ClientLeft),
    }
}

/// Notices a client that leaves while it waits.
struct Watch<'a> {
    session: &'a mut Session,
    /// The client has sent the beginning of another request; it is there, and nothing more is read.
    ahead: bool,
}

impl<'a> Watch<'a> {
    fn new(session: &'a mut Session) -> Self {
        Self { session, ahead: false }
    }

    /// Resolves when the client has closed its side.
    async fn gone(&mut self) {
        if !self.ahead {
            let idle = self.session.as_downstream_mut().read_body_or_idle(true).await;
            let closed = idle.err().is_some_and(|e| *e.etype() != pingora::ErrorType::ConnectError);
            if closed {
                return;
            }
            // Pingora's word for bytes behind the request. They are lost, so the connection ends with
            // this answer, and the client repeats the request elsewhere (RFC 9112, section 9.3.2).
            self.ahead = true;
            self.session.set_keepalive(None);
        }
        std::future::pending().await
    }
}

/// The body of a Pingora session.
struct SessionBody<'a> {
    session: &'a mut Session,
}

impl BodySource for SessionBody<'_> {
    async fn body(&mut self, head: &Head, snapshot: &Snapshot) -> Result<Bytes, Stop> {
        let listen = &snapshot.settings.listen;
        if head.framing() == Framing::None {
            return Ok(Bytes::new());
        }
        let asked_and_read = async {
            if head.expects_continue() {
                self.ask_for_body().await?;
            }
            self.read(listen.body_bytes as usize).await
        };
        match timeout(listen.body_timeout, asked_and_read).await {
            Ok(read) => read,
            Err(_) => Err(too_slow()),
        }
    }
}

impl SessionBody<'_> {
    async fn read(&mut self, limit: usize) -> Result<Bytes, Stop> {
        let session = self.session.as_downstream_mut();
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        loop {
            let part = match session.read_request_body().await {
                Ok(Some(part)) => part,
                Ok(None) if more.is_empty() => return Ok(first),
                Ok(None) => return Ok(more.freeze()),
                Err(e) => return Err(unreadable(&e)),
            };
            if first.len().max(more.len()) + part.len() > limit {
                return Err(Rejection::new(Code::PayloadTooLarge, "body is over listen.body_bytes").closing().into());
            }
            if first.is_empty() {
                first = part;
            } else {
                if more.is_empty() {
                    more.extend_from_slice(&first);
                }
                more.extend_from_slice(&part);
            }
        }
    }

    async fn ask_for_body(&mut self) -> Result<(), Stop> {
        let session = self.session.as_downstream_mut();
        // Pingora turns keep-alive off for any head written before the body ended, the 100 too.
        session.set_close_on_response_before_downstream_finish(false);
        let asked = session.write_continue_response().await;
        session.set_close_on_response_before_downstream_finish(true);
        asked.map_err(|_| Stop::Gone)
    }
}

fn too_slow() -> Stop {
    Rejection::new(Code::RequestTimeout, "body came too slowly").closing().into()
}

/// Tells a client that left from one that sent nonsense.
fn unreadable(error: &pingora::Error) -> Stop {
    let sloppy = error
        .root_cause()
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::InvalidData);
    match error.etype() {
        _ if sloppy => Rejection::field("transfer-encoding", "malformed chunked body").closing().into(),
        pingora::ErrorType::ReadTimedout => too_slow(),
        pingora::ErrorType::ConnectionClosed | pingora::ErrorType::ReadError => Stop::Gone,
        _ => Rejection::field("body", "malformed body framing").closing().into(),
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Journey;

    fn new_ctx(&self) -> Journey {
        Journey::Awaited
    }

    /// No module is wanted: an answer leaves exactly as it was written.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// Pingora's way of handing a value from the connection to a request; the edge uses it for every one.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        journey: &mut Journey,
        arrival: Box<dyn std::any::Any + Send + Sync>,
    ) {
        if let Ok(arrival) = arrival.downcast::<Arrival>() {
            *journey = Journey::Arrived(arrival);
        }
    }

    async fn request_filter(&self, session: &mut Session, journey: &mut Journey) -> pingora::Result<bool> {
        match std::mem::replace(journey, Journey::Over) {
            Journey::Arrived(arrival) if self.serve(session, &arrival).await => Ok(true),
            // An error keeps Pingora from finishing an answer that has no good end.
            Journey::Arrived(_) => Err(pingora::Error::new(pingora::ErrorType::ConnectionClosed)),
            Journey::Awaited | Journey::Over => Err(unreachable_step("a request without its arrival")),
        }
    }

    /// Whatever could be said was said in `request_filter`.
    async fn fail_to_proxy(&self, _: &mut Session, _: &pingora::Error, _: &mut Journey) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Journey) -> pingora::Result<Box<HttpPeer>> {
        Err(unreachable_step("Pingora's forwarding is not used"))
    }

    fn suppress_error_log(&self, _: &Session, _: &Journey, _: &pingora::Error) -> bool {
        true
    }
}

fn unreachable_step(why: &'static str) -> Box<pingora::Error> {
    pingora::Error::explain(pingora::ErrorType::InternalError, why)
}
