//! One address of Axon: who it is, how busy it is, whether it answered when last tried, its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderValue;
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::axon::call::Outcome;
use crate::axon::dial::Dialer;
use crate::axon::pool::Pool;

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
    in_flight: AtomicU32,
    reachable: AtomicBool,
    pool: Pool,
    metrics: BackendMetrics,
}

impl Backend {
    /// A backend is taken to be reachable until a connect fails.
    ///
    /// # Errors
    /// One line for the operator when the authority, `host:port`, cannot stand in a header.
    pub fn new(
        address: SocketAddr,
        authority: &str,
        dialer: Dialer,
        metrics: BackendMetrics,
    ) -> Result<Arc<Self>, String> {
        let value = HeaderValue::from_str(authority).map_err(|e| format!("endpoint `{authority}`: {e}"))?;
        metrics.healthy.set(1);
        Ok(Arc::new(Self {
            address,
            label: authority.to_owned(),
            authority: value,
            in_flight: AtomicU32::new(0),
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

    /// `host:port`, for logs and labels.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its connections.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn metrics(&self) -> &BackendMetrics {
        &self.metrics
    }

    /// Exchanges under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
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
