//! The only `impl ProxyHttp`. Everything is decided and answered in `request_filter`; Pingora's own
//! forwarding is never reached, because it cannot send a body that a filter has read (64 KiB at most) and
//! sends an answer's head before its body is known. Bytes go over the visit's own connection, not over Pingora's
//! session (`edge::visit` says why).
//!
//! Before it writes, to Axon or to the client, a request lets the others that are ready come as far
//! (`yield_now`): their writes then leave one behind the other, and a peer that reads them is woken once
//! instead of once each (`docs/performance.md`).

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE,
    ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, RETRY_AFTER, VARY,
};
use pingora::upstreams::peer::HttpPeer;
use pingora_core::modules::http::HttpModules;
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::axon::envelope::{self, Added};
use crate::axon::{Broken, Collected, Exchange, Outcome, Outgoing, Upstream, forward, is_nominated};
use crate::clock::Moment;
use crate::edge::client::{BodyError, Client, Ending};
use crate::edge::visit::Visit;
use crate::error::{Code, Rejection};
use crate::gate::Standing;
use crate::gateway::{Gateway, Phase};
use crate::local::{self, Readiness};
use crate::observation::{Decided, Observation};
use crate::pipeline::{self, Admitted, Arrival, BodySource, Stop};
use crate::reply::{self, Answer, Common, HeadText, Second, milliseconds};
use crate::request::Head;
use crate::request::route::Endpoint;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Counted;

/// The status logged when the client left before its answer (nginx's convention; it is never sent).
const CLIENT_CLOSED: u16 = 499;
/// Largest failure body that is read to keep Axon's connection, and how long that may take.
const FAILURE_BYTES_MAX: usize = 64 * 1024;
const FAILURE_TIME_MAX: Duration = Duration::from_millis(500);

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

    /// Serves one request from arrival to its one observation.
    async fn serve(&self, visit: &mut Visit) {
        let Visit { client, arrival, second } = visit;
        let metrics = &self.gateway.telemetry.metrics;
        let _counted = Counted::new(&metrics.in_flight);
        let endpoint = Endpoint::of(&arrival.head, arrival.snapshot.settings.observability.metrics.on_main);
        let mut observation = Observation::begin(&arrival.ids, Some(&arrival.head), endpoint, arrival.began);
        let mut reply = Reply { gateway: &self.gateway, arrival, second, standing: Standing::default() };

        // A panic is a bug, and costs the one request that met it. The future is pinned where it stands: it is
        // large, and each wrapper that takes it by value would copy it.
        let served = {
            let answer = pin!(reply.answer(client, endpoint, &mut observation));
            AssertUnwindSafe(answer).catch_unwind().await
        };
        let ended = match served {
            Ok(ended) => ended,
            Err(_) if client.answer_begun() => Ended::ClientLeft,
            Err(_) => {
                let rejection = Rejection::new(Code::InternalError, "a step panicked; please report this").closing();
                reply.reject(client, rejection, &mut observation).await
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
    }
}

/// One request being answered.
struct Reply<'a> {
    gateway: &'a Gateway,
    arrival: &'a Arrival,
    second: &'a mut Second,
    standing: Standing,
}

impl Reply<'_> {
    async fn answer(&mut self, client: &mut Client, endpoint: Endpoint, note: &mut Observation<'_>) -> Ended {
        let now = self.arrival.began;
        let name = &self.arrival.snapshot.settings.name;
        if let Err(rejection) = endpoint.admit(self.arrival.head.method()) {
            return self.reject(client, rejection, note).await;
        }
        let answer = match endpoint {
            Endpoint::Dispatch => return self.dispatch(client, note).await,
            Endpoint::Health => local::health(name, &self.readiness(), now),
            Endpoint::Live => local::live(name, now),
            Endpoint::Metrics => local::metrics(self.gateway.metrics_text(), &self.arrival.head),
            Endpoint::Other => {
                return self.reject(client, Rejection::new(Code::NotFound, "no such route"), note).await;
            }
        };
        self.send(client, answer, None).await
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

    async fn dispatch(&mut self, client: &mut Client, note: &mut Observation<'_>) -> Ended {
        if self.gateway.phase() == Phase::Closing {
            return self.reject(client, Rejection::unavailable("draining", "draining").closing(), note).await;
        }
        let (gateway, arrival) = (self.gateway, self.arrival);
        let mut source = ClientBody(&mut *client);
        let admitted =
            match pipeline::admit(arrival, &mut source, &*gateway.clock, &mut self.standing, &mut note.key).await {
                Ok(admitted) => admitted,
                Err(Stop::Rejected(rejection)) => return self.reject(client, rejection, note).await,
                Err(Stop::Denied(decision)) => {
                    let answer = Answer::denied(&decision, &arrival.ids, gateway.clock.now());
                    let ended = self.send(client, answer, Some(&decision)).await;
                    note.decision = Some(decision);
                    return ended;
                }
                Err(Stop::Gone) => return Ended::ClientLeft,
            };
        let Admitted { body, client: address, caller, upstream, decision, permit: _permit, mut reservation } = admitted;
        note.decision = Some(decision.clone());

        yield_now().await;
        let principal = caller.principal();
        let outgoing = Outgoing { head: &arrival.head, ids: &arrival.ids, body, client: address, principal };
        reservation.use_up();
        let exchange = forward(&upstream, &outgoing, &gateway.clock, client.gone(), &mut note.calls).await;
        if exchange.is_err() && !note.calls.iter().any(|call| call.outcome.may_have_begun()) {
            reservation.give_back();
        }
        match exchange {
            Ok(exchange) => self.relay(client, exchange, &decision, note).await,
            Err(Some(rejection)) => self.refuse(client, rejection, Some(&decision), note).await,
            Err(None) => Ended::ClientLeft,
        }
    }

    /// Gives Axon's answer to the client, in the envelope where the contract says so.
    async fn relay(
        &mut self,
        client: &mut Client,
        exchange: Exchange,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let status = exchange.head.status.as_u16();
        match status {
            200..=299 if is_enveloped(&exchange) => self.envelop(client, exchange, decision, note).await,
            // What is not the usual answer is kept out of this future, which every request pays for.
            200..=299 => Box::pin(self.pass_through(client, exchange, Vec::new(), decision, note)).await,
            400..=499 => Box::pin(self.client_error(client, exchange, decision, note)).await,
            _ => {
                let why = format!("Axon answered {status}");
                let rejection = match status {
                    502..=504 => Rejection {
                        retry_after: retry_after(&exchange),
                        ..Rejection::unavailable("upstream_unavailable", why)
                    },
                    _ => Rejection::new(Code::InternalError, why),
                };
                Box::pin(self.abandon(client, exchange, rejection, decision, note)).await
            }
        }
    }

    /// Reads an answer whole, so that an Axon that dies half-way is a clean 503, and wraps it.
    async fn envelop(
        &mut self,
        client: &mut Client,
        mut exchange: Exchange,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let limit = exchange.envelope_bytes();
        let body = match collect(client, &mut exchange, limit).await {
            Ok(Collected::Whole(body)) => body,
            Ok(Collected::Part(begun)) => {
                return Box::pin(self.pass_through(client, exchange, begun, decision, note)).await;
            }
            Err(cut) => return Box::pin(self.cut_off(client, exchange, cut, decision, note)).await,
        };
        let now = self.gateway.clock.now();
        let added = Added {
            correlation_id: self.arrival.ids.correlation(),
            timestamp: &self.second.of(now).timestamp(),
            reason: &decision.reason,
            decision_time_ms: &milliseconds(decision.took),
        };
        let Some(enveloped) = envelope::wrap(&body, &added) else {
            return Box::pin(self.pass_through(client, exchange, vec![body], decision, note)).await;
        };
        let status = exchange.head.status.as_u16();
        let answer = Answer::json(status, enveloped.body);
        let mut head = answer.head(&self.common(Some(decision), now));
        passed_back(&exchange.head.headers, &PASSED_BACK_ENVELOPED, &mut head);
        note.calls.push(exchange.finish(Outcome::Success, enveloped.message.unwrap_or_else(|| "answered".to_owned())));
        self.send_with(client, answer, head, now).await
    }

    /// Axon's 4xx keeps its status; its body too if that is a JSON object.
    async fn client_error(
        &mut self,
        client: &mut Client,
        mut exchange: Exchange,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let status = exchange.head.status.as_u16();
        let limit = exchange.envelope_bytes();
        let collected = collect(client, &mut exchange, limit).await;
        let own = match collected {
            Ok(Collected::Whole(body)) if !exchange.head.headers.contains_key(CONTENT_ENCODING) => {
                envelope::is_object(&body).then_some(body)
            }
            Ok(_) => None,
            Err(cut) => return self.cut_off(client, exchange, cut, decision, note).await,
        };
        let given = retry_after(&exchange);
        let now = self.gateway.clock.now();
        let answer = match own {
            Some(body) => Answer { retry_after: reply::retry_after_of(status, given), ..Answer::json(status, body) },
            None => Answer::upstream_refusal(status, given, &self.arrival.ids, now),
        };
        note.calls.push(exchange.finish(Outcome::Refused, format!("answered {status}")));
        self.send(client, answer, Some(decision)).await
    }

    /// An answer that is not passed on: Orbit says so in its own words.
    async fn abandon(
        &mut self,
        client: &mut Client,
        mut exchange: Exchange,
        rejection: Rejection,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        // Read for the connection's sake only: how that goes changes nothing, and the client need not wait for it.
        let _ = timeout(FAILURE_TIME_MAX, collect(client, &mut exchange, FAILURE_BYTES_MAX)).await;
        note.calls.push(exchange.finish(Outcome::Error, rejection.why.clone()));
        self.refuse(client, rejection, Some(decision), note).await
    }

    /// The answer stopped before the client was told anything.
    async fn cut_off(
        &mut self,
        client: &mut Client,
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
                self.refuse(client, rejection, Some(decision), note).await
            }
        }
    }

    /// Passes Axon's bytes on as they come, after those already read.
    async fn pass_through(
        &mut self,
        client: &mut Client,
        mut exchange: Exchange,
        mut begun: Vec<Bytes>,
        decision: &Decided,
        note: &mut Observation<'_>,
    ) -> Ended {
        let status = exchange.head.status.as_u16();
        if begun.is_empty() {
            match exchange.next().now_or_never() {
                Some(Ok(first)) => begun.extend(first),
                Some(Err(broken)) => return self.cut_off(client, exchange, Cut::Broken(broken), decision, note).await,
                None => {}
            }
        }
        if self.gateway.phase() != Phase::Serving {
            client.close();
        }
        let patience = self.patience();
        let here = begun.iter().map(|part| part.len() as u64).sum();
        let now = self.gateway.clock.now();
        let (head, ending) = self.pass_through_head(&exchange, here, decision, now);
        if ending == Ending::Closed {
            client.close();
        }
        let mut head = head.end(self.second.of(now), client.decide_keep());
        let mut parts = begun;
        loop {
            if exchange.is_whole() {
                // The connection goes back first, so that it is there when the client asks again.
                note.calls.push(exchange.finish(Outcome::Success, "passed through"));
                let sent = client.send_parts(head, &parts, ending, patience).await && client.send_end(patience).await;
                return if sent { Ended::Sent(status) } else { Ended::ClientLeft };
            }
            if !client.send_parts(std::mem::take(&mut head), &parts, ending, patience).await {
                break;
            }
            parts.clear();
            let next = tokio::select! {
                biased;
                next = exchange.next() => next,
                () = client.gone() => break,
            };
            match next {
                Ok(next) => parts.extend(next),
                Err(broken) => {
                    // The head is out, so the only honest end is one that the client can see is none.
                    note.calls.push(exchange.finish(broken.outcome, broken.why));
                    return Ended::CutOff(status);
                }
            }
        }
        note.calls.push(exchange.finish(Outcome::Abandoned, "client left"));
        Ended::ClientLeft
    }

    /// `here` is how many bytes of the body were read.
    fn pass_through_head(&self, exchange: &Exchange, here: u64, decision: &Decided, now: Moment) -> (HeadText, Ending) {
        let status = exchange.head.status.as_u16();
        let mut head = HeadText::new(status, here as usize);
        passed_back(&exchange.head.headers, &PASSED_BACK, &mut head);
        let old_client = self.arrival.head.is_http10();
        let (length, ending) = match exchange.announced_length() {
            _ if status == 204 => (None, Ending::None),
            // It has no content, and must say so (RFC 9110, section 15.3.6).
            _ if status == 205 => (Some(0), Ending::None),
            _ if exchange.is_whole() => (Some(here), Ending::Counted),
            Some(length) => (Some(length), Ending::Counted),
            // The end of the connection is the only end that such a body has.
            None if old_client => (None, Ending::Closed),
            None => (None, Ending::Chunked),
        };
        if let Some(length) = length {
            head.number("Content-Length", length);
        }
        if ending == Ending::Chunked {
            head.field("Transfer-Encoding", b"chunked");
        }
        self.common(Some(decision), now).write(&mut head);
        (head, ending)
    }

    /// Refuses with an answer of the error table.
    async fn reject(&mut self, client: &mut Client, rejection: Rejection, note: &mut Observation<'_>) -> Ended {
        self.refuse(client, rejection, None, note).await
    }

    async fn refuse(
        &mut self,
        client: &mut Client,
        rejection: Rejection,
        decision: Option<&Decided>,
        note: &mut Observation<'_>,
    ) -> Ended {
        let mut answer = Answer::rejection(&rejection, &self.arrival.ids, self.gateway.clock.now());
        answer.allow = (rejection.code == Code::MethodNotAllowed).then(|| note.endpoint.allow());
        note.refusal = Some(rejection);
        self.send(client, answer, decision).await
    }

    async fn send(&mut self, client: &mut Client, answer: Answer, decision: Option<&Decided>) -> Ended {
        let now = self.gateway.clock.now();
        let head = answer.head(&self.common(decision, now));
        self.send_with(client, answer, head, now).await
    }

    async fn send_with(&mut self, client: &mut Client, answer: Answer, head: HeadText, now: Moment) -> Ended {
        let drains = client.drains(self.arrival.head.expects_continue());
        if answer.close || !drains || self.gateway.phase() != Phase::Serving {
            client.close();
        }
        yield_now().await;
        let body = if self.arrival.head.method() == "HEAD" { Bytes::new() } else { answer.body };
        let head = head.end(self.second.of(now), client.decide_keep());
        if client.send(head, body, self.patience()).await { Ended::Sent(answer.status) } else { Ended::ClientLeft }
    }

    /// How long a client may take for a slice of its answer; one that takes nothing for so long has left.
    fn patience(&self) -> Duration {
        self.arrival.snapshot.settings.listen.idle_timeout
    }

    fn common<'b>(&'b self, decision: Option<&'b Decided>, now: Moment) -> Common<'b> {
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
fn passed_back(headers: &HeaderMap, names: &[HeaderName], head: &mut HeadText) {
    let hop_by_hop = || headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    for (name, value) in headers {
        if names.contains(name) && !is_nominated(name, hop_by_hop()) {
            head.field(name.as_str(), value.as_bytes());
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

async fn collect(client: &mut Client, exchange: &mut Exchange, limit: usize) -> Result<Collected, Cut> {
    tokio::select! {
        biased;
        collected = exchange.collect(limit) => collected.map_err(Cut::Broken),
        () = client.gone() => Err(Cut::ClientLeft),
    }
}

/// The body that a client sends.
struct ClientBody<'a>(&'a mut Client);

impl BodySource for ClientBody<'_> {
    async fn body(&mut self, head: &Head, snapshot: &Snapshot) -> Result<Bytes, Stop> {
        let listen = &snapshot.settings.listen;
        if !head.expects_continue()
            && let Some(body) = self.0.body_here(listen.body_bytes)
        {
            return Ok(body);
        }
        let asked_and_read = async {
            if head.expects_continue() && !self.0.body_ended() {
                self.0.ask_for_body().await?;
            }
            self.0.body(listen.body_bytes).await
        };
        match timeout(listen.body_timeout, asked_and_read).await {
            Ok(read) => read.map_err(unreadable),
            Err(_) => Err(too_slow()),
        }
    }
}

fn too_slow() -> Stop {
    Rejection::new(Code::RequestTimeout, "body came too slowly").closing().into()
}

fn unreadable(error: BodyError) -> Stop {
    match error {
        BodyError::TooLarge => Rejection::new(Code::PayloadTooLarge, "body is over listen.body_bytes").closing().into(),
        BodyError::Sloppy => Rejection::field("transfer-encoding", "malformed chunked body").closing().into(),
        BodyError::Gone => Stop::Gone,
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Option<Visit>;

    fn new_ctx(&self) -> Option<Visit> {
        None
    }

    /// No module is wanted: an answer leaves exactly as it was written.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, _: &mut Session, visit: &mut Option<Visit>) -> pingora::Result<bool> {
        let Some(visit) = visit else { return Err(unreachable_step("a filter without its visit")) };
        self.serve(visit).await;
        Ok(true)
    }

    /// Whatever could be said was said in `request_filter`.
    async fn fail_to_proxy(&self, _: &mut Session, _: &pingora::Error, _: &mut Option<Visit>) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Option<Visit>) -> pingora::Result<Box<HttpPeer>> {
        Err(unreachable_step("Pingora's forwarding is not used"))
    }

    fn suppress_error_log(&self, _: &Session, _: &Option<Visit>, _: &pingora::Error) -> bool {
        true
    }
}

fn unreachable_step(why: &'static str) -> Box<pingora::Error> {
    pingora::Error::explain(pingora::ErrorType::InternalError, why)
}
