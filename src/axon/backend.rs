//! One address of Axon: who it is, how busy it is, whether it answered when last tried, its idle connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::axon::call::Outcome;
use crate::axon::wire::Connection;

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
    /// Newest last: the one used next is the one most likely alive.
    #[allow(clippy::vec_box, reason = "they come and go as boxes, and are large")]
    idle: Mutex<Vec<Box<Connection>>>,
    metrics: BackendMetrics,
}

impl Backend {
    /// A backend is taken to be reachable until a connect fails.
    ///
    /// # Errors
    /// One line for the operator when the authority, `host:port`, cannot stand in a header.
    pub fn new(address: SocketAddr, authority: &str, metrics: BackendMetrics) -> Result<Arc<Self>, String> {
        let value = HeaderValue::from_str(authority).map_err(|e| format!("endpoint `{authority}`: {e}"))?;
        metrics.healthy.set(1);
        Ok(Arc::new(Self {
            address,
            label: authority.to_owned(),
            authority: value,
            in_flight: AtomicU32::new(0),
            reachable: AtomicBool::new(true),
            idle: Mutex::new(Vec::new()),
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
                self.idle.lock().clear();
            }
        }
        changed
    }

    /// Counts an exchange for as long as the result lives.
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Occupied(self.clone())
    }

    /// An idle connection that is still open.
    pub fn take_idle(&self) -> Option<Box<Connection>> {
        loop {
            // The lock is held for the pop alone; the look at the connection comes after.
            let mut connection = self.idle.lock().pop()?;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    /// Gives a connection back; the oldest of more than `keep` is closed.
    pub fn put_idle(&self, connection: Box<Connection>, keep: usize) {
        if keep == 0 {
            return;
        }
        let surplus = {
            let mut idle = self.idle.lock();
            let surplus = (idle.len() >= keep).then(|| idle.remove(0));
            idle.push(connection);
            surplus
        };
        drop(surplus);
    }

    /// Closes what has been idle for longer than `age` at `now_ticks`.
    pub fn close_older_than(&self, age: Duration, now_ticks: u64) {
        let limit = now_ticks.saturating_sub(age.as_nanos() as u64);
        let mut idle = self.idle.lock();
        let stale = idle.iter().take_while(|c| c.idle_since() < limit).count();
        let closed: Vec<Box<Connection>> = idle.drain(..stale).collect();
        drop(idle);
        drop(closed);
    }
}

/// One exchange under way.
pub struct Occupied(Arc<Backend>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
