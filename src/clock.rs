//! Time as a value that is passed in.
//!
//! Invariant: nothing below the assembly reads the system's clocks; it is handed a [`Moment`].
//! Deadlines of sockets are the runtime's own and live in `edge`, `proxy` and `axon`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Wall clock, nanoseconds since the Unix epoch. May jump; used for dates and signatures.
    pub unix_nanos: u64,
    /// Monotonic clock, nanoseconds since some fixed start. Never goes back; used for limits and durations.
    pub ticks: u64,
}

impl Moment {
    /// Whole seconds since the Unix epoch.
    pub fn unix_seconds(self) -> u64 {
        self.unix_nanos / 1_000_000_000
    }

    /// Monotonic time since an earlier moment, zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.ticks.saturating_sub(earlier.ticks))
    }
}

/// Where moments come from.
pub trait Clock: Send + Sync {
    /// Reads the clock.
    fn now(&self) -> Moment;
}

/// The machine's clocks. The wall clock is read every `WALL_NANOS` only, and goes with the monotonic one between:
/// reading one clock instead of two is worth it some ten times per request.
pub struct SystemClock {
    start: Instant,
    /// What the wall clock is ahead of the ticks, and the ticks at which that was found.
    ahead: AtomicU64,
    found: AtomicU64,
}

/// How late a step of the wall clock may be noticed.
const WALL_NANOS: u64 = 5_000_000;

impl SystemClock {
    /// The system's clock, shared; its ticks begin a day before now, so that windows that look back never underflow.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { start: Instant::now(), ahead: AtomicU64::new(0), found: AtomicU64::new(0) })
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]
    fn now(&self) -> Moment {
        let ticks = DAY_NANOS + self.start.elapsed().as_nanos() as u64;
        // Whoever reads both in the middle of a change sees an offset that was right a moment ago.
        if ticks.saturating_sub(self.found.load(Ordering::Relaxed)) >= WALL_NANOS {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
            self.ahead.store(unix.saturating_sub(ticks), Ordering::Relaxed);
            self.found.store(ticks, Ordering::Relaxed);
        }
        Moment { unix_nanos: ticks + self.ahead.load(Ordering::Relaxed), ticks }
    }
}

const DAY_NANOS: u64 = 86_400_000_000_000;

/// A clock that moves only when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    unix_nanos: AtomicU64,
    ticks: AtomicU64,
}

impl ManualClock {
    /// Starts at `unix_seconds`.
    pub fn at(unix_seconds: u64) -> Arc<Self> {
        Arc::new(Self { unix_nanos: AtomicU64::new(unix_seconds * 1_000_000_000), ticks: AtomicU64::new(DAY_NANOS) })
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.unix_nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        self.ticks.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment { unix_nanos: self.unix_nanos.load(Ordering::SeqCst), ticks: self.ticks.load(Ordering::SeqCst) }
    }
}
