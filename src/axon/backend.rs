//! One address of Axon: who it is, how busy and how quick it is, where it stands, its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::axon::call::Outcome;
use crate::axon::choose::{key_of, mix};
use crate::axon::condition::{Cause, Change, Condition, State};
use crate::axon::dial::Dialer;
use crate::axon::pool::Pool;
use crate::axon::retry::Reason;

/// What counts backends. The series of a backend live from its handles to its retirement.
pub trait Meter: Send + Sync {
    /// The handles of one backend by its label.
    fn backend(&self, label: &str) -> BackendMetrics;
    /// Forgets the series of a backend that is gone.
    fn retire_backend(&self, label: &str);
    /// Counts a question for a name's addresses.
    fn resolution(&self, result: Resolution);
    /// Counts a request that is sent again.
    fn retried(&self, reason: Reason);
    /// Counts a retry that the budget had no place for.
    fn budget_spent(&self);
    /// Tells how many retries an upstream has left.
    fn budget_left(&self, upstream: &str, left: u64);
    /// Forgets the series of an upstream that is gone.
    fn retire_upstream(&self, upstream: &str);
}

/// What asking for a name's addresses came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Found,
    /// More than an upstream takes; some are left out.
    Crowded,
    Failed,
}

impl Resolution {
    /// Every result; the index of each is `as usize`.
    pub const ALL: [Resolution; 3] = [Resolution::Found, Resolution::Crowded, Resolution::Failed];

    /// The value of the `result` label.
    pub const fn label(self) -> &'static str {
        match self {
            Resolution::Found => "found",
            Resolution::Crowded => "crowded",
            Resolution::Failed => "failed",
        }
    }
}

/// The metric handles of one backend.
pub struct BackendMetrics {
    /// By `Outcome as usize`.
    pub outcomes: [IntCounter; Outcome::ALL.len()],
    pub duration: Histogram,
    pub in_flight: IntGauge,
    pub healthy: IntGauge,
    /// By `State as usize`; one of them is 1.
    pub states: [IntGauge; State::ALL.len()],
    /// By `Cause as usize`.
    pub outs: [IntCounter; Cause::ALL.len()],
    /// Times it was due to be ejected and too many others were.
    pub spared: IntCounter,
    pub checks_passed: IntCounter,
    pub checks_failed: IntCounter,
    /// Times that no HTTP/2 stream was free and no connection could be added.
    pub streams_full: IntCounter,
}

impl BackendMetrics {
    /// Counts one exchange.
    pub fn count(&self, outcome: Outcome, took: Duration) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.inc();
        }
        self.duration.observe(took.as_secs_f64());
    }
}

/// One address of Axon.
pub struct Backend {
    address: SocketAddr,
    label: String,
    authority: HeaderValue,
    hash: u64,
    /// Time to the head of an answer, a moving average; 0 until the first.
    latency_micros: AtomicU32,
    /// Ticks at which it last sent the head of an answer, or an exchange began while there was none.
    heard_at: AtomicU64,
    /// Exchanges that wait for the head of their answer.
    waiting: AtomicU32,
    condition: Condition,
    pool: Pool,
    metrics: BackendMetrics,
}

impl Backend {
    /// `label` is what logs and metrics call it, `authority` the value of `Host`, `since` as for
    /// `Condition::new`.
    ///
    /// # Errors
    /// One line for the operator when the authority cannot stand in a header.
    pub fn new(
        address: SocketAddr,
        authority: &str,
        label: &str,
        dialer: Dialer,
        since: u64,
        metrics: BackendMetrics,
    ) -> Result<Arc<Self>, String> {
        let value = HeaderValue::from_str(authority).map_err(|e| format!("endpoint `{authority}`: {e}"))?;
        let backend = Self {
            address,
            label: label.to_owned(),
            authority: value,
            hash: mix(key_of(label)),
            latency_micros: AtomicU32::new(0),
            heard_at: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            condition: Condition::new(since),
            pool: Pool::new(dialer, metrics.streams_full.clone()),
            metrics,
        };
        backend.show_state();
        Ok(Arc::new(backend))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// For logs and metrics: `host:port`, with the address behind it for one of a name's.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its connections.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Of the label, the same in every process.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn metrics(&self) -> &BackendMetrics {
        &self.metrics
    }

    /// Exchanges under way.
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.metrics.in_flight.get()).unwrap_or(0)
    }

    /// Usual time to the head of an answer; 0 when none has come yet.
    pub fn latency_micros(&self) -> u32 {
        self.latency_micros.load(Ordering::Relaxed)
    }

    /// Notes how long the head of an answer took. An eighth of each new one counts, as in TCP's own
    /// estimate (RFC 6298); two notes at once may lose one, which an average bears.
    pub fn note_latency(&self, micros: u32) {
        let known = self.latency_micros();
        let new = if known == 0 { micros } else { known - known / 8 + micros / 8 };
        self.latency_micros.store(new.max(1), Ordering::Relaxed);
    }

    /// Notes the head of an answer, and how long it took if it was a good one: what fails fast is not fast.
    pub fn heard(&self, now: u64, good_after: Option<Duration>) {
        self.heard_at.store(now, Ordering::Relaxed);
        if let Some(took) = good_after {
            self.note_latency(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// How long exchanges have waited for a head without a word from the backend to any of them.
    pub fn silent_for(&self, now: u64) -> Duration {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(now.saturating_sub(self.heard_at.load(Ordering::Relaxed)))
    }

    /// Where it stands.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Tells metrics and log of a change; `why` says what led to it.
    pub fn tell(&self, change: &Change, why: &str) {
        let (label, state) = (&self.label, change.to.label());
        match change.cause {
            None => log::info!("backend {label} is {state}: {why}"),
            Some(cause) => {
                if let Some(counter) = self.metrics.outs.get(cause as usize) {
                    counter.inc();
                }
                if change.out_for.is_zero() {
                    log::warn!("backend {label} is {state}: {why}");
                } else {
                    log::warn!("backend {label} is {state}, for {:?} at least: {why}", change.out_for);
                }
            }
        }
        if change.to == State::Unreachable {
            self.pool.clear();
        }
        self.show_state();
    }

    /// Brings the gauges in line with the state of this moment.
    pub fn show_state(&self) {
        let state = self.condition.state();
        self.metrics.healthy.set(state.is_in().into());
        for (known, gauge) in State::ALL.iter().zip(&self.metrics.states) {
            gauge.set((*known == state).into());
        }
    }

    /// Counts an exchange for as long as the result lives. `trial`: it is the one that
    /// `Condition::begin_trial` allowed.
    pub fn occupy(self: &Arc<Self>, now: u64, trial: bool) -> Occupied {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.heard_at.store(now, Ordering::Relaxed);
        }
        self.metrics.in_flight.inc();
        if trial {
            self.show_state();
        }
        Occupied { backend: self.clone(), trial, waiting: true }
    }
}

/// One exchange under way.
pub struct Occupied {
    backend: Arc<Backend>,
    trial: bool,
    waiting: bool,
}

impl Occupied {
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Whether it decides about a backend that is out.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// The head of its answer has come, or never will.
    pub fn heard(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.backend.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// It has decided, or never will: what is left of it is like any other.
    pub fn end_trial(&mut self) {
        if std::mem::take(&mut self.trial) {
            self.backend.condition.end_trial();
            self.backend.show_state();
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.backend.metrics.in_flight.dec();
        self.heard();
        self.end_trial();
    }
}
