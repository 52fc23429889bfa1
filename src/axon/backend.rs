//! One address of Axon: who it is, how busy and how quick it is, whether it answered when last tried, its
//! connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderValue;
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::axon::call::Outcome;
use crate::axon::choose::{key_of, mix};
use crate::axon::dial::Dialer;
use crate::axon::pool::Pool;

/// What counts backends. The series of a backend live from its handles to its retirement.
pub trait Meter: Send + Sync {
    /// The handles of one backend by its label.
    fn backend(&self, label: &str) -> BackendMetrics;
    /// Forgets the series of a backend that is gone.
    fn retire_backend(&self, label: &str);
    /// Counts a question for a name's addresses.
    fn resolution(&self, result: Resolution);
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
    pub healthy: IntGauge,
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
    in_flight: AtomicU32,
    /// Time to the head of an answer, a moving average; 0 until the first.
    latency_micros: AtomicU32,
    reachable: AtomicBool,
    pool: Pool,
    metrics: BackendMetrics,
}

impl Backend {
    /// A backend is taken to be reachable until a connect fails. `label` is what logs and metrics call it,
    /// `authority` the value of `Host`.
    ///
    /// # Errors
    /// One line for the operator when the authority cannot stand in a header.
    pub fn new(
        address: SocketAddr,
        authority: &str,
        label: &str,
        dialer: Dialer,
        metrics: BackendMetrics,
    ) -> Result<Arc<Self>, String> {
        let value = HeaderValue::from_str(authority).map_err(|e| format!("endpoint `{authority}`: {e}"))?;
        metrics.healthy.set(1);
        Ok(Arc::new(Self {
            address,
            label: label.to_owned(),
            authority: value,
            hash: mix(key_of(label)),
            in_flight: AtomicU32::new(0),
            latency_micros: AtomicU32::new(0),
            reachable: AtomicBool::new(true),
            pool: Pool::new(dialer),
            metrics,
        }))
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
        self.in_flight.load(Ordering::Relaxed)
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

    /// Whether the last connect worked.
    pub fn reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Notes how a connect went; says whether that is a change.
    pub fn set_reachable(&self, reachable: bool) -> bool {
        let changed = self.reachable.swap(reachable, Ordering::Relaxed) != reachable;
        if changed {
            self.metrics.healthy.set(i64::from(reachable));
            if !reachable {
                self.pool.clear();
            }
        }
        changed
    }

    /// Counts an exchange for as long as the result lives.
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Occupied(self.clone())
    }
}

/// One exchange under way.
pub struct Occupied(Arc<Backend>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
