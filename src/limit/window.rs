//! One exact sliding window: the log of its last `count` admissions.
//!
//! A request is admitted iff the admission `count` before it is at least `per` old. Nothing else is
//! needed, so a check looks at one entry of a ring, whatever the count.
//!
//! Invariant: a request is judged by its own moment and logged at the latest moment of all so far. The
//! log is therefore sorted, and for any admission, the one `count` before it was passed in at least
//! `per` earlier, even if threads come to the lock in another order than they read the clock.

use std::ptr;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Moment;
use crate::limit::{Rate, Verdict};

/// A limit that is shared by all who hold it.
///
/// Costs 8 bytes per admission up to its count, at most 32 KiB, and nothing before the first admission.
/// Counts above 4,096 are logged in groups of `ceil(count / 4096)` that leave the window together, with
/// their last member: never over the limit, and a slot comes back at most one group's duration late.
pub struct Window {
    rate: Rate,
    log: Mutex<Log>,
}

impl Window {
    /// An unused window.
    pub fn new(rate: Rate) -> Self {
        Self { rate, log: Mutex::new(Log::new(rate)) }
    }

    /// The limit.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Admits and charges, or refuses and does not.
    pub fn admit(&self, now: Moment) -> Verdict {
        let mut log = self.log.lock();
        let admitted = log.fits(now.ticks);
        if admitted {
            log.record(now.ticks);
        }
        log.verdict(now.ticks, admitted)
    }

    /// What [`admit`](Self::admit) would say, charging nothing.
    pub fn peek(&self, now: Moment) -> Verdict {
        let log = self.log.lock();
        log.verdict(now.ticks, log.fits(now.ticks))
    }
}

/// Charges every window or, if one refuses, none; `None` when there are no windows.
///
/// The verdict is that of the [tightest](Verdict::tighter) window. A window that is named twice is
/// charged once. Calls may name shared windows in any order.
pub fn admit_all(windows: &[&Window], now: Moment) -> Option<Verdict> {
    settle(windows, 0, now.ticks, true).tightest
}

struct Settled {
    /// Whether all windows have room.
    charged: bool,
    tightest: Option<Verdict>,
}

/// Locks the windows above address `below` in order of address, so that two calls can't wait for each
/// other; the frames of the recursion hold the locks until the last one has been asked. Charges on the
/// way back.
fn settle(windows: &[&Window], below: usize, now: u64, so_far: bool) -> Settled {
    let address = |window: &Window| ptr::from_ref(window).addr();
    let next = windows.iter().filter(|w| address(w) > below).min_by_key(|w| address(w));
    let Some(window) = next else { return Settled { charged: so_far, tightest: None } };
    let mut log = window.log.lock();
    let fits = log.fits(now);
    let rest = settle(windows, address(window), now, so_far && fits);
    if rest.charged {
        log.record(now);
    }
    let own = log.verdict(now, fits);
    Settled { charged: rest.charged, tightest: Some(rest.tightest.map_or(own, |other| own.tighter(other))) }
}

/// Bound on the entries that are kept for a whole count.
const GROUPS_MAX: u32 = 4096;

struct Log {
    count: u32,
    /// Nanoseconds.
    per: u64,
    /// Consecutive admissions that share an entry.
    group: u64,
    /// Entries of a full ring: those of a whole count, and the one that is being filled.
    ring: usize,
    /// Ticks of the last admission of each group; group `n` is at `n % ring`. Grows until it is full.
    times: Vec<u64>,
    /// Admissions ever.
    admitted: u64,
}

impl Log {
    fn new(rate: Rate) -> Self {
        Self::in_groups(rate, GROUPS_MAX)
    }

    fn in_groups(rate: Rate, groups_max: u32) -> Self {
        let group = rate.count.div_ceil(groups_max).max(1);
        Self {
            count: rate.count,
            per: rate.per_nanos(),
            group: u64::from(group),
            ring: rate.count.div_ceil(group) as usize + 1,
            times: Vec::new(),
            admitted: 0,
        }
    }

    fn index(&self, group: u64) -> usize {
        (group % self.ring as u64) as usize
    }

    /// When `group` leaves the window; `None` for a group that never was.
    fn leaves_at(&self, group: u64) -> Option<u64> {
        self.times.get(self.index(group)).map(|last| last.saturating_add(self.per))
    }

    fn fits(&self, now: u64) -> bool {
        if self.count == 0 {
            return false;
        }
        match self.admitted.checked_sub(u64::from(self.count)) {
            None => true,
            Some(earlier) => self.leaves_at(earlier / self.group).is_some_and(|at| at <= now),
        }
    }

    fn record(&mut self, now: u64) {
        let newest = self.newest_group().and_then(|group| self.times.get(self.index(group)));
        let time = newest.map_or(now, |newest| now.max(*newest));
        let index = self.index(self.admitted / self.group);
        match self.times.get_mut(index) {
            Some(entry) => *entry = time,
            None => {
                // Doubling, but never beyond the ring.
                if self.times.len() == self.times.capacity() {
                    self.times.reserve_exact(self.times.len().max(8).min(self.ring - self.times.len()));
                }
                self.times.push(time);
            }
        }
        self.admitted += 1;
    }

    fn newest_group(&self) -> Option<u64> {
        self.admitted.checked_sub(1).map(|last| last / self.group)
    }

    fn verdict(&self, now: u64, admitted: bool) -> Verdict {
        let until = |at: Option<u64>| Duration::from_nanos(at.map_or(0, |at| at.saturating_sub(now)));
        let oldest = self.oldest_inside(now);
        let used = self.admitted.saturating_sub(oldest * self.group);
        let next_after = if used == 0 { Duration::ZERO } else { until(self.leaves_at(oldest)) };
        let retry_after = match (admitted, self.count) {
            (true, _) => Duration::ZERO,
            (false, 0) => Duration::from_nanos(self.per),
            (false, _) => next_after,
        };
        Verdict {
            admitted,
            limit: self.count,
            remaining: self.count.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX)),
            next_after,
            reset_after: until(self.newest_group().and_then(|group| self.leaves_at(group))),
            retry_after,
        }
    }

    /// The oldest group that is inside the window at `now`, or the one after the newest. Binary search:
    /// the log is sorted.
    fn oldest_inside(&self, now: u64) -> u64 {
        let mut low = self.admitted.saturating_sub(u64::from(self.count)) / self.group;
        let mut high = self.admitted.div_ceil(self.group);
        while low < high {
            let middle = low.midpoint(high);
            if self.leaves_at(middle).is_some_and(|at| at > now) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::limit::most_in_any_interval;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    const SECOND: u64 = 1_000_000_000;

    fn rate(count: u32, per_nanos: u64) -> Rate {
        Rate { count, per: Duration::from_nanos(per_nanos) }
    }

    fn at(ticks: u64) -> Moment {
        Moment { unix_nanos: 0, ticks }
    }

    /// The window by its definition: all admissions ever, counted anew for each request.
    struct Model {
        rate: Rate,
        logged: Vec<u64>,
    }

    impl Model {
        fn inside(&self, now: u64) -> Vec<u64> {
            self.logged.iter().copied().filter(|time| time + self.rate.per_nanos() > now).collect()
        }

        fn admit(&mut self, now: u64) -> Verdict {
            let admitted = self.inside(now).len() < self.rate.count as usize;
            if admitted {
                self.logged.push(self.logged.last().map_or(now, |newest| now.max(*newest)));
            }
            let inside = self.inside(now);
            // A late request may see more than the count: what is inside its window, and what came since.
            let first = inside.len().saturating_sub(self.rate.count as usize);
            let leaves = |time: Option<&u64>| Duration::from_nanos(time.map_or(0, |t| t + self.rate.per_nanos() - now));
            Verdict {
                admitted,
                limit: self.rate.count,
                remaining: self.rate.count.saturating_sub(inside.len() as u32),
                next_after: leaves(inside.get(first)),
                reset_after: leaves(inside.last()),
                retry_after: if admitted { Duration::ZERO } else { leaves(inside.get(first)) },
            }
        }
    }

    /// Steps between requests; a negative one is a thread that read the clock early and came late.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let step = prop_oneof![3 => Just(0i64), 6 => 0i64..20, 2 => -30i64..0, 1 => 80i64..250];
        prop::collection::vec(step, 1..400)
    }

    fn moments(steps: &[i64]) -> Vec<u64> {
        let walk = steps.iter().scan(1_000_000u64, |now, step| {
            *now = now.saturating_add_signed(*step);
            Some(*now)
        });
        walk.collect()
    }

    proptest! {
        #[test]
        fn is_its_definition(steps in steps(), count in 1u32..40) {
            let rate = rate(count, 100);
            let (window, mut model) = (Window::new(rate), Model { rate, logged: Vec::new() });
            let mut admitted = Vec::new();
            for now in moments(&steps) {
                let peeked = window.peek(at(now)).admitted;
                let verdict = window.admit(at(now));
                // A late request that was admitted sees those after it; the model counts them too.
                prop_assert_eq!(verdict, model.admit(now));
                prop_assert_eq!(peeked, verdict.admitted);
                admitted.extend(verdict.admitted.then_some(now));
            }
            prop_assert!(most_in_any_interval(admitted, 100) <= count as usize);
        }

        #[test]
        fn groups_are_never_over_and_keep_their_promises(steps in steps(), count in 1u32..60, groups in 1u32..8) {
            let mut log = Log::in_groups(rate(count, 100), groups);
            let mut admitted = Vec::new();
            for now in moments(&steps) {
                let fits = log.fits(now);
                let before = log.verdict(now, fits);
                prop_assert_eq!(fits, before.remaining > 0);
                if fits {
                    log.record(now);
                    admitted.push(now);
                } else {
                    let wait = before.retry_after.as_nanos() as u64;
                    prop_assert!(log.fits(now + wait) && !log.fits(now + wait - 1));
                }
            }
            prop_assert!(most_in_any_interval(admitted, 100) <= count as usize);
            prop_assert!(log.times.capacity() <= groups as usize + 1);
        }
    }

    #[test]
    fn an_admission_leaves_exactly_one_window_later() {
        let window = Window::new(rate(2, 60 * SECOND));
        let start = 1000 * SECOND;
        assert!(window.admit(at(start)).admitted);
        let second = window.admit(at(start + 10 * SECOND));
        assert_eq!((second.remaining, second.limit), (0, 2));
        assert_eq!((second.next_after, second.reset_after), (Duration::from_secs(50), Duration::from_secs(60)));
        let refused = window.admit(at(start + 20 * SECOND));
        assert_eq!((refused.admitted, refused.retry_after), (false, Duration::from_secs(40)));
        assert_eq!(refused.reset_after, Duration::from_secs(50));
        assert!(!window.peek(at(start + 60 * SECOND - 1)).admitted);
        assert_eq!(window.peek(at(start + 60 * SECOND)).remaining, 1);
        assert!(window.admit(at(start + 60 * SECOND)).admitted);
        assert!(!window.admit(at(start + 60 * SECOND)).admitted);
    }

    #[test]
    fn a_client_at_twice_the_limit_gets_the_limit() {
        for count in [1, 100, 1_000, 50_000] {
            let window = Window::new(rate(count, 60 * SECOND));
            let gap = 30 * SECOND / u64::from(count);
            let requests = u64::from(count) * 2 * 5;
            let admitted = (0..requests).filter(|n| window.admit(at(SECOND + n * gap)).admitted).count();
            // In groups of 13 (50,000) a slot may come back one group late.
            let floor = f64::from(count) * 5.0 * if count > GROUPS_MAX { 0.999 } else { 1.0 };
            assert!(admitted as f64 >= floor && admitted <= count as usize * 5, "{count}: {admitted}");
        }
    }

    #[test]
    fn refusals_and_peeks_cost_nothing() {
        let window = Window::new(rate(3, 100));
        (0..3).for_each(|_| assert!(window.admit(at(1_000)).admitted));
        (1_000..1_100).for_each(|now| assert!(!window.admit(at(now)).admitted));
        assert_eq!(window.peek(at(1_100)).remaining, 3);
        assert_eq!(window.peek(at(1_100)).reset_after, Duration::ZERO);
        assert_eq!(window.admit(at(1_100)).remaining, 2);
    }

    #[test]
    fn degenerate_rates_refuse_rather_than_admit() {
        let none = Window::new(rate(0, 100));
        let refused = none.admit(at(1_000));
        assert_eq!((refused.admitted, refused.remaining, refused.retry_after), (false, 0, Duration::from_nanos(100)));
        let no_length = Window::new(Rate { count: 1, per: Duration::ZERO });
        assert!(no_length.admit(at(1_000)).admitted);
        assert!(!no_length.admit(at(1_000)).admitted);
        let endless = Window::new(Rate { count: 1, per: Duration::MAX });
        assert!(endless.admit(at(1_000)).admitted);
        assert!(!endless.admit(at(u64::MAX - 1)).admitted);
    }

    #[test]
    fn an_unused_window_holds_nothing_and_a_used_one_no_more_than_its_bound() {
        let window = Window::new(rate(1_000_000, 1_000));
        assert_eq!(window.log.lock().times.capacity(), 0);
        for n in 0..3_000_000 {
            window.admit(at(1_000 + n / 1_000));
        }
        assert!(window.log.lock().times.capacity() <= GROUPS_MAX as usize + 1);
    }

    #[test]
    fn all_or_none_are_charged() {
        let (minute, hour) = (Window::new(rate(2, 60)), Window::new(rate(3, 3_600)));
        let both = |now| admit_all(&[&minute, &hour], at(now)).unwrap();
        assert_eq!((both(1_000).remaining, both(1_000).admitted), (1, true));
        let refused = both(1_010);
        assert_eq!((refused.admitted, refused.limit, refused.retry_after), (false, 2, Duration::from_nanos(50)));
        assert_eq!(hour.peek(at(1_010)).remaining, 1, "the minute's refusal cost the hour something");
        assert!(both(1_060).admitted);
        let refused = both(1_060);
        assert_eq!((refused.admitted, refused.limit, refused.retry_after), (false, 3, Duration::from_nanos(3_540)));
        assert_eq!(minute.peek(at(1_060)).remaining, 1, "the hour's refusal cost the minute something");
    }

    #[test]
    fn no_windows_no_verdict_and_a_repeated_one_is_charged_once() {
        assert_eq!(admit_all(&[], at(1_000)), None);
        let window = Window::new(rate(2, 60));
        assert_eq!(admit_all(&[&window, &window], at(1_000)).unwrap().remaining, 1);
    }

    #[test]
    fn threads_get_exactly_the_limit_while_time_stands_still() {
        let window = Window::new(rate(1_000, 60));
        let admitted = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..1_000).filter(|_| window.admit(at(1_000)).admitted).count();
                    admitted.fetch_add(mine, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1_000);
    }

    #[test]
    fn threads_are_never_over_while_time_runs() {
        let window = Window::new(rate(50, 1_000));
        let clock = ManualClock::at(0);
        // Each thread moves the time of all.
        let hammer = || {
            let moments = (0..20_000).map(|_| {
                clock.advance(Duration::from_nanos(7));
                clock.now()
            });
            moments.filter(|now| window.admit(*now).admitted).map(|now| now.ticks).collect::<Vec<_>>()
        };
        let admitted: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(admitted.len() > 50, "nothing slid");
        assert!(most_in_any_interval(admitted, 1_000) <= 50);
    }

    #[test]
    fn threads_that_name_two_windows_in_either_order_neither_block_nor_go_over() {
        let (one, other) = (Window::new(rate(500, 60)), Window::new(rate(300, 60)));
        let admitted = AtomicUsize::new(0);
        thread::scope(|scope| {
            for windows in [[&one, &other], [&other, &one]] {
                let admitted = &admitted;
                scope.spawn(move || {
                    let mine = (0..5_000).filter(|_| admit_all(&windows, at(1_000)).unwrap().admitted).count();
                    admitted.fetch_add(mine, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(admitted.into_inner(), 300);
        assert_eq!(one.peek(at(1_000)).remaining, 200);
    }
}
