//! THE journey of a dispatch, its steps in order. Read this first.
//!
//! A request *arrives*, is *located*, passes the *door*, makes a *claim*, brings its *body*, becomes a
//! *caller*, whose signature counts *once*, passes the *desk*, is *governed*. Each step takes what the step before it made, so none can
//! be left out or swapped. What comes after, asking Axon and answering, is in `axon` and `proxy`.
//!
//! Invariant: no byte reaches governance or Axon before the signature over head and body is verified and
//! every limit passed. Invariant: the only waits here are reading the bounded body.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use crate::auth::doctor::{self, Patient};
use crate::auth::replay::{Mode, Reservation};
use crate::auth::{self, Caller, Key};
use crate::axon::Upstream;
use crate::clock::{Clock, Moment};
use crate::error::Rejection;
use crate::gate::{DeskScene, DoorScene, Refusal, Standing};
use crate::governance::{Context, hour_of_day};
use crate::limit::Permit;
use crate::observation::Decided;
use crate::request::correlation::Ids;
use crate::request::dispatch::Dispatch;
use crate::request::{Head, client};
use crate::snapshot::Snapshot;

/// A request whose head passed the front door.
pub struct Arrival {
    pub head: Head,
    pub ids: Ids,
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    pub began: Moment,
    /// The configuration that this request lives with, whatever is reloaded meanwhile.
    pub snapshot: Arc<Snapshot>,
}

/// Where the body of a request comes from; the one wait on the way to admission.
pub trait BodySource: Send {
    /// Reads the whole body within `listen.body_bytes` and `listen.body_timeout`.
    ///
    /// # Errors
    /// [`Stop::Rejected`] with 400, 408 or 413; [`Stop::Gone`] when the client left.
    fn body(&mut self, head: &Head, snapshot: &Snapshot) -> impl Future<Output = Result<Bytes, Stop>> + Send;
}

/// Why a request went no further.
#[derive(Debug)]
pub enum Stop {
    Rejected(Rejection),
    Denied(Decided),
    /// The client left; nobody is there to be answered.
    Gone,
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Rejected(rejection)
    }
}

/// A dispatch that may go to Axon.
pub struct Admitted {
    pub body: Bytes,
    pub client: IpAddr,
    pub caller: Caller,
    /// Who takes the intent.
    pub upstream: Arc<Upstream>,
    pub decision: Decided,
    /// Holds the request's place among those in flight.
    pub permit: Permit,
    /// Holds the signature's place among those that were used; to be used up before Axon is asked.
    pub reservation: Reservation,
}

/// Takes a dispatch from its head to governance's yes.
///
/// `standing` gathers where the request stands with the limits, for the headers of whatever answer; `key` is the
/// one that the signature held for, whatever came after.
///
/// # Errors
/// The first step that says no.
pub async fn admit(
    arrival: &Arrival,
    source: &mut impl BodySource,
    clock: &dyn Clock,
    standing: &mut Standing,
    key: &mut Option<Arc<Key>>,
) -> Result<Admitted, Stop> {
    let snapshot = &*arrival.snapshot;
    let client = door(arrival, standing)?;
    let permit = capacity(snapshot)?;
    let claim = auth::claim(&arrival.head, &snapshot.rules, &snapshot.keyring, arrival.began)
        .map_err(|refused| hinted(arrival, None, refused))?;
    let body = whole_body(arrival, source).await?;
    let caller = claim.identify(&body).map_err(|refused| hinted(arrival, Some(&body), refused))?;
    *key = Some(caller.key().clone());
    let scene = DeskScene { caller: &caller, now: clock.now() };
    let reservation = once(snapshot, &scene, standing)?;
    snapshot.gates.desk(&scene, standing).map_err(rejected)?;
    let (dispatch, context) = read(&body)?;
    let decision = govern(snapshot, &scene, &dispatch, &context, clock, standing)?;
    let upstream = route(snapshot, &dispatch)?;
    Ok(Admitted { body, client, caller, upstream, decision, permit, reservation })
}

/// Step 3: what a stranger is checked for. Strangers spend only their own address's allowance.
fn door(arrival: &Arrival, standing: &mut Standing) -> Result<IpAddr, Stop> {
    let snapshot = &*arrival.snapshot;
    let client = client::address(arrival.peer, &arrival.head, &snapshot.settings.listen.trusted_proxies);
    let scene = DoorScene { head: &arrival.head, client, now: arrival.began };
    snapshot.gates.door(&scene, standing).map_err(rejected)?;
    Ok(client)
}

/// A refused signature, with what its caller may be told besides.
fn hinted(arrival: &Arrival, body: Option<&[u8]>, refused: Rejection) -> Rejection {
    let Arrival { head, began: now, snapshot, .. } = arrival;
    let Some(window) = &snapshot.hints else { return refused };
    let patient = Patient { head, body, rules: &snapshot.rules, keyring: &snapshot.keyring, now: *now };
    let hint = doctor::hint(&patient, &refused, || window.admit(*now).admitted);
    Rejection { hint, ..refused }
}

/// A place among the requests in flight, given back when the request ends, however it ends.
fn capacity(snapshot: &Snapshot) -> Result<Permit, Stop> {
    snapshot
        .capacity
        .acquire()
        .ok_or_else(|| Stop::Rejected(Rejection::unavailable("overload", "listen.in_flight requests are being served")))
}

/// Step 5: the body. One that has to be waited for takes a place among those that may be waited for, half of
/// all: whoever knows a key id can send a body slowly, and must not fill every place with it.
async fn whole_body(arrival: &Arrival, source: &mut impl BodySource) -> Result<Bytes, Stop> {
    let mut body = pin!(source.body(&arrival.head, &arrival.snapshot));
    if let Poll::Ready(here) = poll_fn(|cx| Poll::Ready(body.as_mut().poll(cx))).await {
        return here;
    }
    let _waiting = arrival.snapshot.waiting.acquire().ok_or_else(|| {
        Stop::Rejected(Rejection::unavailable("overload", "too many bodies are being waited for").closing())
    })?;
    body.await
}

/// Step 6, its end: a signature counts once. Whatever refuses the request later gives its place back.
fn once(snapshot: &Snapshot, scene: &DeskScene<'_>, standing: &mut Standing) -> Result<Reservation, Stop> {
    let Some(guard) = &snapshot.replay else { return Ok(Reservation::default()) };
    let doubt = match guard.table.reserve(scene.caller.mark(), scene.now) {
        Ok(reservation) => return Ok(reservation),
        Err(doubt) => doubt,
    };
    standing.doubt = Some((guard.mode, doubt));
    match guard.mode {
        Mode::Observe => Ok(Reservation::default()),
        Mode::Enforce => Err(Stop::Rejected(doubt.rejection(scene.caller, scene.now))),
    }
}

/// Step 7: the body as a dispatch.
fn read(body: &[u8]) -> Result<(Dispatch<'_>, Context<'_>), Stop> {
    let dispatch = Dispatch::parse(body)?;
    let context = Context::parse(dispatch.context).map_err(|e| Rejection::field("context", e.issue()))?;
    Ok((dispatch, context))
}

/// Step 8: may this service do this intent with this context?
fn govern(
    snapshot: &Snapshot,
    scene: &DeskScene<'_>,
    dispatch: &Dispatch<'_>,
    context: &Context<'_>,
    clock: &dyn Clock,
    standing: &mut Standing,
) -> Result<Decided, Stop> {
    let began = scene.now;
    let decided = |allowed, reason| Decided { allowed, reason, took: clock.now().since(began) };
    match snapshot.gates.calls(scene, standing) {
        Ok(()) => {}
        Err(Refusal::Denied(reason)) => return Err(Stop::Denied(decided(false, Cow::Borrowed(reason)))),
        Err(Refusal::Rejected(rejection)) => return Err(Stop::Rejected(rejection)),
    }
    let hour = hour_of_day(began.unix_seconds());
    let charge = |index, _| snapshot.charge_policy(index, began);
    let decision = snapshot.policies.decide(&snapshot.settings.name, &dispatch.intent, context, hour, charge);
    let allowed = decision.allowed();
    let decided = decided(allowed, owned(decision.reason));
    if allowed { Ok(decided) } else { Err(Stop::Denied(decided)) }
}

/// Where the intent goes.
fn route(snapshot: &Snapshot, dispatch: &Dispatch<'_>) -> Result<Arc<Upstream>, Stop> {
    let upstream = snapshot.upstreams.of(&dispatch.intent).cloned();
    upstream.ok_or_else(|| Stop::Rejected(Rejection::unavailable("no_route", "no upstream takes this intent")))
}

/// The usual reason costs no allocation.
fn owned(reason: Cow<'_, str>) -> Cow<'static, str> {
    if reason == AUTHORIZED { Cow::Borrowed(AUTHORIZED) } else { Cow::Owned(reason.into_owned()) }
}

const AUTHORIZED: &str = "Request authorized";

fn rejected(refusal: Refusal) -> Stop {
    match refusal {
        Refusal::Rejected(rejection) => Stop::Rejected(rejection),
        Refusal::Denied(reason) => {
            Stop::Denied(Decided { allowed: false, reason: Cow::Borrowed(reason), took: std::time::Duration::ZERO })
        }
    }
}
