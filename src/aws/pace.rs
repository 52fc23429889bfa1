//! How often something is fetched: spread out, so that many instances do not ask in the same second, and sooner
//! after a failure.

use std::time::Duration;

use crate::clock::Moment;

/// How often whoever waits for a time looks at the clock.
pub const TICK: Duration = Duration::from_millis(500);

/// First wait after a failure; each further one doubles it.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Random numbers that must merely be spread out, from a seed that is passed in (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, at least 0 and less than 1.
    pub fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long ago that was, by the clock that says more: a machine that slept, or whose clock was set, asks at once.
pub fn elapsed(since: Moment, now: Moment) -> Duration {
    now.since(since).max(Duration::from_nanos(now.unix_nanos.saturating_sub(since.unix_nanos)))
}

/// The wait after a success: `every`, or up to a tenth less.
pub fn after_success(every: Duration, dice: &mut Dice) -> Duration {
    every.mul_f64(1.0 - 0.1 * dice.roll())
}

/// The wait after the `failures`th failure in a row, never longer than `every`.
pub fn after_failure(every: Duration, failures: u32, dice: &mut Dice) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled.min(BACKOFF_MAX).min(every).mul_f64(1.0 - 0.5 * dice.roll())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_and_bounded() {
        let every = Duration::from_secs(300);
        let mut dice = Dice::new(7);
        let waits: Vec<Duration> = (0..1000).map(|_| after_success(every, &mut dice)).collect();
        assert!(waits.iter().all(|wait| (270.0..=300.0).contains(&wait.as_secs_f64())));
        let early = waits.iter().filter(|wait| wait.as_secs_f64() < 285.0).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the first half");
        for (failures, least, most) in [(1, 0.5, 1.0), (2, 1.0, 2.0), (5, 8.0, 16.0), (40, 30.0, 60.0)] {
            for _ in 0..100 {
                let wait = after_failure(every, failures, &mut dice).as_secs_f64();
                assert!((least..=most).contains(&wait), "{failures}: {wait}");
            }
        }
        assert!(after_failure(Duration::from_secs(2), 40, &mut dice) <= Duration::from_secs(2));
    }

    #[test]
    fn two_seeds_do_not_ask_together() {
        assert_ne!(
            after_success(Duration::from_secs(300), &mut Dice::new(1)),
            after_success(Duration::from_secs(300), &mut Dice::new(2))
        );
    }
}
