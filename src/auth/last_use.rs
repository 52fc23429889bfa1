//! When a key was last used, so that an operator knows when an old one is safe to remove.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Moment;

/// The last use of one credential, shared with the same credential in later configurations.
#[derive(Debug, Clone, Default)]
pub struct LastUse(Arc<AtomicU64>);

impl LastUse {
    /// Notes a use. Without a lock, and without a write for all but the first use of a second.
    pub fn note(&self, now: Moment) {
        let seconds = now.unix_seconds();
        if self.0.load(Ordering::Relaxed) < seconds {
            self.0.fetch_max(seconds, Ordering::Relaxed);
        }
    }

    /// Unix seconds of the last use; 0 if there was none yet.
    pub fn unix_seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn the_latest_use_stays() {
        let last = LastUse::default();
        assert_eq!(last.unix_seconds(), 0);
        for (at, told) in [(5, 5), (4, 5), (7, 7)] {
            last.clone().note(ManualClock::at(at).now());
            assert_eq!(last.unix_seconds(), told);
        }
    }
}
