//! For how long an idle connection is trusted with a request.
//!
//! A backend that closes an idle connection just as a request arrives on it leaves no trace that proves the
//! request was not begun. Looking at the connection first makes that window small; keeping away from the
//! age at which the backend closes makes it empty. That age is told (`Keep-Alive: timeout=5`), seen (idle
//! connections that the backend closed) or learned from a loss.

use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use parking_lot::Mutex;

const SECOND: u64 = 1_000_000_000;
/// What was seen this long ago counts no more; a backend may have been set up anew.
const MEMORY: u64 = 600 * SECOND;
/// A second loss within this time of the first ends reuse for as long at least, and longer each time.
const BAR: u64 = 60 * SECOND;
/// Sightings kept. One in this many may be an odd one, such as of a restart, which closes all at once.
const SIGHTINGS: usize = 4;

/// What is known of when one backend closes idle connections. Times are ticks.
pub struct Trust {
    /// Nanoseconds of idleness from which on a connection is not trusted.
    below: AtomicU64,
    /// What was told last, in seconds above zero, to notice a change without a lock.
    told: AtomicU64,
    told_at: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// When a connection was seen closed, and how long it had certainly been open before.
    seen: ArrayVec<(u64, u64), SIGHTINGS>,
    /// When one was lost last, and how long it had been idle.
    lost: Option<(u64, u64)>,
    barred_until: u64,
    bars: u32,
}

const NOTHING_TOLD: u64 = u64::MAX;

impl Default for Trust {
    fn default() -> Self {
        Self {
            below: AtomicU64::new(u64::MAX),
            told: AtomicU64::new(NOTHING_TOLD),
            told_at: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }
}

impl Trust {
    /// Whether a connection that has been idle for so many nanoseconds is trusted.
    pub fn covers(&self, idle: u64) -> bool {
        idle < self.below.load(Ordering::Relaxed)
    }

    /// Whether any connection is worth keeping.
    pub fn covers_any(&self) -> bool {
        self.covers(0)
    }

    /// Notes the `timeout` of a `Keep-Alive` header, in seconds (RFC 2068, section 19.7.1, and every server
    /// that sends it).
    pub fn told(&self, seconds: u64, now: u64) {
        self.told_at.store(now, Ordering::Relaxed);
        if self.told.swap(seconds, Ordering::Relaxed) != seconds {
            self.judge(&self.known.lock(), now);
        }
    }

    /// Notes that an idle connection was found closed by the backend, which was certainly open when it had
    /// been idle for `open_at` nanoseconds.
    pub fn seen_closed(&self, open_at: u64, now: u64) {
        let mut known = self.known.lock();
        // Many at once are one event, such as a restart.
        if known.seen.last().is_some_and(|(at, _)| now.saturating_sub(*at) < SECOND) {
            return;
        }
        if known.seen.is_full() {
            known.seen.remove(0);
        }
        known.seen.push((now, open_at));
        self.judge(&known, now);
    }

    /// Notes that a connection which had been idle for so many nanoseconds broke under a request before a
    /// byte of the answer.
    pub fn lost(&self, idle: u64, now: u64) {
        let mut known = self.known.lock();
        if known.lost.is_some_and(|(at, _)| now.saturating_sub(at) < BAR) {
            let bar = BAR.saturating_mul(1 << known.bars.min(3));
            known.bars += 1;
            known.barred_until = now.saturating_add(bar);
        }
        let shortest = known.lost.filter(|(at, _)| now.saturating_sub(*at) < MEMORY).map_or(idle, |(_, i)| i.min(idle));
        known.lost = Some((now, shortest));
        self.judge(&known, now);
    }

    /// Lets go of what is too old to count.
    pub fn relax(&self, now: u64) {
        let mut known = self.known.lock();
        if now.saturating_sub(self.told_at.load(Ordering::Relaxed)) >= MEMORY {
            self.told.store(NOTHING_TOLD, Ordering::Relaxed);
        }
        known.seen.retain(|(at, _)| now.saturating_sub(*at) < MEMORY);
        if known.lost.is_some_and(|(at, _)| now.saturating_sub(at) >= MEMORY) {
            (known.lost, known.bars) = (None, 0);
        }
        self.judge(&known, now);
    }

    /// Forgets everything: another process may listen there now.
    pub fn forget(&self) {
        let mut known = self.known.lock();
        *known = Known::default();
        self.told.store(NOTHING_TOLD, Ordering::Relaxed);
        self.judge(&known, 0);
    }

    fn judge(&self, known: &Known, now: u64) {
        let told = match self.told.load(Ordering::Relaxed) {
            NOTHING_TOLD => u64::MAX,
            // A second for the way there, or half of so little.
            seconds @ 0..=1 => seconds * SECOND / 2,
            seconds => (seconds - 1).saturating_mul(SECOND),
        };
        let mut seen: ArrayVec<u64, SIGHTINGS> = known.seen.iter().map(|(_, open_at)| *open_at).collect();
        seen.sort_unstable();
        // One alone may be the odd one.
        let seen = seen.get(1).map_or(u64::MAX, |open_at| open_at - open_at / 8);
        let lost = known.lost.map_or(u64::MAX, |(_, idle)| idle / 2);
        let barred = if now < known.barred_until { 0 } else { u64::MAX };
        self.below.store(told.min(seen).min(lost).min(barred), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_stranger_is_trusted() {
        assert!(Trust::default().covers(3600 * SECOND));
    }

    #[test]
    fn what_is_told_is_kept_off_by_a_second() {
        let trust = Trust::default();
        for (told, good, bad) in [(5, 4 * SECOND - 1, 4 * SECOND), (1, SECOND / 2 - 1, SECOND / 2)] {
            trust.told(told, 0);
            assert!(trust.covers(good) && !trust.covers(bad), "{told}");
        }
        trust.told(0, 0);
        assert!(!trust.covers_any());
        trust.told(100, 0);
        assert!(trust.covers(98 * SECOND));
        trust.told(1, SECOND);
        trust.relax(600 * SECOND);
        assert!(!trust.covers(SECOND));
        trust.relax(601 * SECOND);
        assert!(trust.covers(3600 * SECOND), "nobody says so any more");
    }

    #[test]
    fn a_loss_halves_and_a_second_one_ends_reuse_for_a_while() {
        let trust = Trust::default();
        trust.lost(100 * MS, SECOND);
        assert!(trust.covers(49 * MS) && !trust.covers(50 * MS));
        trust.lost(40 * MS, 2 * SECOND);
        assert!(!trust.covers_any());
        trust.relax(61 * SECOND);
        assert!(!trust.covers_any());
        trust.relax(62 * SECOND);
        assert!(trust.covers(19 * MS) && !trust.covers(20 * MS));
        // It is lost again, twice: the bar is twice as long.
        trust.lost(19 * MS, 63 * SECOND);
        trust.lost(9 * MS, 64 * SECOND);
        trust.relax((64 + 119) * SECOND);
        assert!(!trust.covers_any());
        trust.relax((64 + 240) * SECOND);
        assert!(trust.covers(4 * MS) && !trust.covers(5 * MS));
        trust.relax((64 + 600) * SECOND);
        assert!(trust.covers(3600 * SECOND), "nothing is held against it for ever");
    }

    #[test]
    fn losses_far_apart_do_not_end_reuse() {
        let trust = Trust::default();
        trust.lost(100 * MS, SECOND);
        trust.lost(100 * MS, 61 * SECOND);
        assert!(trust.covers(49 * MS));
    }

    #[test]
    fn an_age_that_is_seen_twice_is_kept_away_from_and_a_restart_is_not_one() {
        let trust = Trust::default();
        // Closed all at once, when barely idle.
        (0..5).for_each(|n| trust.seen_closed(n * MS, SECOND + n));
        assert!(trust.covers(3600 * SECOND));
        trust.seen_closed(5 * SECOND, 10 * SECOND);
        assert!(trust.covers(4 * SECOND) && !trust.covers(5 * SECOND));
        trust.seen_closed(5 * SECOND - MS, 20 * SECOND);
        assert!(trust.covers(4 * SECOND) && !trust.covers(5 * SECOND));
        trust.relax(700 * SECOND);
        assert!(trust.covers(3600 * SECOND));
    }

    #[test]
    fn a_new_process_begins_with_trust() {
        let trust = Trust::default();
        trust.told(1, 0);
        trust.lost(MS, SECOND);
        trust.lost(MS, SECOND);
        trust.forget();
        assert!(trust.covers(3600 * SECOND));
    }
}
