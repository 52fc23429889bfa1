//! Whether a request may be sent again, and when: tries, budget, backoff.
//!
//! What Axon cannot have begun goes to another backend at once and is no matter of this file. What it may
//! have begun is sent again only where the upstream request is idempotent, so often at most, after a pause,
//! and within a budget: a share of the requests, so that retries never multiply the load on an Axon that
//! fails because it is overloaded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::snapshot::settings::Retry;

/// What the share is of: the requests of so many seconds.
const SECONDS: u64 = 10;
/// So many retries in that time are within every budget but one of 0 %.
const FLOOR: u64 = 10;

/// The requests and retries of the last ten seconds of one upstream.
pub struct Budget {
    /// By second: its number above, a count below. One whose number is another is empty.
    requests: [AtomicU64; SECONDS as usize],
    retries: Mutex<[(u64, u64); SECONDS as usize]>,
}

const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

impl Default for Budget {
    fn default() -> Self {
        Self { requests: [const { AtomicU64::new(0) }; SECONDS as usize], retries: Mutex::default() }
    }
}

impl Budget {
    /// Counts a request; `ticks` is now.
    pub fn request(&self, ticks: u64) {
        let second = second(ticks);
        if let Some(slot) = self.requests.get((second % SECONDS) as usize) {
            // Nobody waits for this number, so it orders nothing.
            let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |slot| {
                let count = if slot >> COUNT_BITS == second { slot & COUNT_MAX } else { 0 };
                Some(second << COUNT_BITS | (count + 1).min(COUNT_MAX))
            });
        }
    }

    /// Takes one retry from the budget, if it has one left.
    pub fn retry(&self, ticks: u64, percent: u8) -> bool {
        let mut retries = self.retries.lock();
        let left = self.left_of(&*retries, ticks, percent);
        let second = second(ticks);
        match retries.get_mut((second % SECONDS) as usize) {
            Some(slot) if left > 0 => {
                *slot = if slot.0 == second { (second, slot.1 + 1) } else { (second, 1) };
                true
            }
            _ => false,
        }
    }

    /// Retries that could be taken now.
    pub fn left(&self, ticks: u64, percent: u8) -> u64 {
        self.left_of(&*self.retries.lock(), ticks, percent)
    }

    fn left_of(&self, retries: &[(u64, u64)], ticks: u64, percent: u8) -> u64 {
        let recent = second(ticks).saturating_sub(SECONDS - 1)..=second(ticks);
        let slots = self.requests.iter().map(|slot| slot.load(Ordering::Relaxed));
        let requests: u64 =
            slots.filter(|slot| recent.contains(&(slot >> COUNT_BITS))).map(|slot| slot & COUNT_MAX).sum();
        let taken: u64 = retries.iter().filter(|(second, _)| recent.contains(second)).map(|(_, count)| count).sum();
        let share = requests * u64::from(percent) / 100;
        let most = if percent == 0 { 0 } else { share.max(FLOOR) };
        most.saturating_sub(taken)
    }
}

/// Counted from one, so that a slot that was never used belongs to none.
fn second(ticks: u64) -> u64 {
    1 + ticks / 1_000_000_000
}

/// How long to wait before the `nth` retry, from 1: between the least and twice the least, four times, and
/// so on up to the most. `random` is spread evenly, so that requests that failed together do not come back
/// together.
pub fn backoff(retry: &Retry, nth: u32, random: u64) -> Duration {
    let (least, most) = (retry.backoff.0, retry.backoff.1);
    let upper = least.saturating_mul(1_u32.checked_shl(nth).unwrap_or(u32::MAX)).min(most);
    let room = upper.saturating_sub(least).as_nanos();
    let part = (room * u128::from(random >> 32)) >> 32;
    least + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

/// Why a request was sent again: the closed set of the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection came about.
    ConnectFailed,
    /// A kept connection had been closed before anything was written.
    StaleConnection,
    /// Turned away before it began, as the protocol has it.
    Refused,
    /// An idempotent request whose connection broke.
    Broken,
    /// An idempotent request that was not answered in time.
    Timeout,
}

impl Reason {
    /// Every reason; the index of each is `as usize`.
    pub const ALL: [Reason; 5] =
        [Reason::ConnectFailed, Reason::StaleConnection, Reason::Refused, Reason::Broken, Reason::Timeout];

    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::ConnectFailed => "connect_failed",
            Reason::StaleConnection => "stale_connection",
            Reason::Refused => "refused",
            Reason::Broken => "broken",
            Reason::Timeout => "timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(budget: &Budget, ticks: u64, percent: u8) -> usize {
        (0..1000).take_while(|_| budget.retry(ticks, percent)).count()
    }

    #[test]
    fn a_quiet_upstream_has_the_floor_and_none_without_a_budget() {
        let budget = Budget::default();
        assert_eq!(budget.left(0, 0), 0);
        assert_eq!(taken(&budget, 0, 20), 10);
        assert_eq!(budget.left(9 * SECOND, 20), 0);
        assert_eq!(taken(&budget, 10 * SECOND, 20), 10);
    }

    #[test]
    fn the_share_is_of_the_requests_of_ten_seconds() {
        let budget = Budget::default();
        for n in 0..1000 {
            budget.request(n * SECOND / 100);
        }
        let now = 10 * SECOND - 1;
        assert_eq!(budget.left(now, 20), 200);
        assert_eq!(taken(&budget, now, 20), 200);
        assert_eq!(budget.left(now, 50), 300);
        // A second later a tenth of the requests is too old.
        assert_eq!(budget.left(now + SECOND, 50), 250);
        // All are; what was taken stays taken for as long.
        assert_eq!(budget.left(now + 9 * SECOND, 20), 0);
        assert_eq!(budget.left(now + 10 * SECOND, 20), 10);
    }

    #[test]
    fn a_slot_that_comes_round_begins_anew() {
        let budget = Budget::default();
        (0..100).for_each(|_| budget.request(5 * SECOND));
        budget.request(25 * SECOND);
        assert_eq!(budget.left(25 * SECOND, 100), 10);
        (0..49).for_each(|_| budget.request(25 * SECOND));
        assert_eq!(budget.left(25 * SECOND, 100), 50);
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let budget = Budget::default();
        (0..500).for_each(|_| budget.request(SECOND));
        let all = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&budget, SECOND, 20))).collect();
            takers.into_iter().map(|taker| taker.join().expect("a count")).sum::<usize>()
        });
        assert_eq!(all, 100);
    }

    #[test]
    fn backoff_grows_with_jitter_and_ends() {
        let ms = Duration::from_millis;
        let retry = Retry { attempts: 5, budget: 20, backoff: (ms(100), ms(400)), idempotent: false };
        let range = |nth| (backoff(&retry, nth, 0), backoff(&retry, nth, u64::MAX).as_millis());
        assert_eq!(range(1), (ms(100), 199));
        assert_eq!(range(2), (ms(100), 399));
        assert_eq!(range(3), (ms(100), 399));
        assert_eq!(range(200), (ms(100), 399));
        assert!(backoff(&retry, 1, 1 << 63) > ms(149));
        let none = Retry { backoff: (ms(0), ms(0)), ..retry };
        assert_eq!(backoff(&none, 1, u64::MAX), ms(0));
    }
}
