//! A window for every client address, in memory that has a bound.
//!
//! The table is split into shards with a short lock each; an address belongs to one of two buckets of
//! one shard, by a hash whose seed outsiders do not know. Who finds no place is counted in the shard's
//! [sketch](crate::limit::overflow), which overestimates but can't be exhausted.
//!
//! A flood of addresses must not make innocent ones refused, so:
//! - a place is never taken from an address that has made two requests since it got it, before its
//!   window is empty: who was there before the flood is counted exactly throughout;
//! - a place whose owner has made one request goes, oldest first, to whoever comes next, the one request
//!   being moved to the sketch: strangers that come once push out each other, and who comes again soon
//!   is soon counted exactly. The sketch's noise, which it starts with, leaves the window as its own
//!   requests enter.
//!
//! Invariants:
//! - Everything about an address happens under its shard's lock, so checking and charging are one.
//! - Moving gains nothing: into the table an address takes the sketch's estimate with it, out of it, its
//!   own admissions.

use std::fmt;

use ahash::RandomState;
use parking_lot::Mutex;

use crate::clock::Moment;
use crate::limit::history::{At, History, Scale, WINDOW};
use crate::limit::overflow::Overflow;
use crate::limit::{AddressKey, Rate, Verdict};

/// Addresses that are counted exactly, by default: 16 MiB of table.
pub const CAPACITY_DEFAULT: usize = 262_144;

/// Bound on the capacity: 1 GiB of table.
pub const CAPACITY_MAX: usize = 1 << 24;

/// A sliding window per address.
///
/// Admissions leave in groups of a 22nd of the count, each with its last member: limits up to 22 are
/// exact, a client that is refused has had at least 95 % of a greater one within the window, and
/// `retry_after` is when the group leaves that makes room. Time is counted to 1/60,000 of the window.
///
/// Costs up to 64 bytes per address of its capacity, and up to 96 more while more addresses are active
/// than that: 40 MiB by default. Shards are allocated when their first address comes, 64 KiB each by
/// default, so that a gateway with ten clients does not hold 16 MiB and no request waits for more than
/// 64 KiB to be cleared.
///
/// False refusals of clients at 90 % of 100 a minute, by default capacity (`benches/limit.rs` prints
/// them): none among 200,000 addresses, 1.7 % of requests among 300,000; none under a flood of 5
/// million addresses a minute that come once, 0.2 % of newcomers' requests if half as many come twice.
pub struct Keyed {
    rate: Rate,
    scale: Scale,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    shape: Shape,
}

impl Keyed {
    /// A table of [`CAPACITY_DEFAULT`]. `seed` must be random and secret, or addresses can be chosen
    /// that meet in one bucket.
    ///
    /// # Errors
    /// When `rate.count` is over 65,535.
    pub fn new(rate: Rate, seed: u64) -> Result<Self, KeyedError> {
        Self::with_capacity(rate, CAPACITY_DEFAULT, seed)
    }

    /// A table that counts about `capacity` addresses exactly, rounded up to a power of two.
    ///
    /// # Errors
    /// When `rate.count` is over 65,535, or `capacity` is 0 or over [`CAPACITY_MAX`].
    pub fn with_capacity(rate: Rate, capacity: usize, seed: u64) -> Result<Self, KeyedError> {
        if u16::try_from(rate.count).is_err() {
            return Err(KeyedError::Count(rate.count));
        }
        if !(1..=CAPACITY_MAX).contains(&capacity) {
            return Err(KeyedError::Capacity(capacity));
        }
        let shape = Shape::of(capacity);
        let [a, b, c] = [1, 2, 3].map(|n: u64| seed.wrapping_add(n.wrapping_mul(GOLDEN)));
        Ok(Self {
            rate,
            scale: Scale::of(rate),
            hasher: RandomState::with_seeds(seed, a, b, c),
            shards: (0..shape.shards).map(|_| Mutex::new(Shard::new(shape))).collect(),
            shape,
        })
    }

    /// The limit of each address.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Admits and charges, or refuses and does not.
    pub fn admit(&self, key: AddressKey, now: Moment) -> Verdict {
        let hash = self.hasher.hash_one(key.bits());
        let at = self.scale.at(now.ticks);
        let Some(shard) = self.shard(hash) else { return self.scale.forgotten(0, at) };
        shard.lock().admit(hash, self.scale, at)
    }

    /// What [`admit`](Self::admit) would say, charging nothing.
    pub fn peek(&self, key: AddressKey, now: Moment) -> Verdict {
        let hash = self.hasher.hash_one(key.bits());
        let at = self.scale.at(now.ticks);
        let Some(shard) = self.shard(hash) else { return self.scale.forgotten(0, at) };
        shard.lock().peek(hash, self.scale, at)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        let shard = |shard: &Mutex<Shard>| size_of::<Mutex<Shard>>() + shard.lock().bytes();
        self.shards.iter().map(shard).sum()
    }

    /// Bytes that [`bytes`](Self::bytes) can come to, however many addresses there are.
    pub fn bytes_max(&self) -> usize {
        self.shape.shards * (size_of::<Mutex<Shard>>() + self.shape.bytes_max())
    }

    /// Admissions so far that were counted by estimate, for want of a place: the sign that there are
    /// more addresses than capacity.
    pub fn overflowed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().overflow.admissions()).sum()
    }

    /// Always there: the shards are a power of two.
    fn shard(&self, hash: u64) -> Option<&Mutex<Shard>> {
        self.shards.get((hash >> 56) as usize & (self.shape.shards - 1))
    }
}

/// Why a table can't be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyedError {
    /// The count does not fit an entry.
    Count(u32),
    Capacity(usize),
}

impl fmt::Display for KeyedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(
                f,
                "`{count}` requests per window are more than can be counted per address (at most 65535); \
                 divide both the count and the window, for example by 60"
            ),
            Self::Capacity(capacity) => {
                write!(f, "`{capacity}` addresses can't be tracked; choose between 1 and {CAPACITY_MAX}")
            }
        }
    }
}

impl std::error::Error for KeyedError {}

/// The odd number nearest 2^64 / φ: spreads one seed over the four that the hash takes.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// More shards than there are cores to want one at once, and each small enough to be made in passing.
const SHARDS_MAX: usize = 256;

/// Fewer, and the choice of two buckets would be none, and the sketch too narrow to tell addresses apart.
const BUCKETS_MIN: usize = 64;

/// Units within which one stranger is as old as another: a twentieth of the window.
const TURN: u64 = WINDOW / 20;

/// Entries of a bucket.
const WAYS: usize = 8;

/// Numbers of shards, of buckets in each, and of counters in a row of each one's sketch: powers of two.
#[derive(Clone, Copy)]
struct Shape {
    shards: usize,
    buckets: usize,
    columns: usize,
}

impl Shape {
    fn of(capacity: usize) -> Self {
        let all = capacity.div_ceil(WAYS).next_power_of_two();
        let shards = (all / BUCKETS_MIN).clamp(1, SHARDS_MAX);
        let buckets = all / shards;
        // Half as many columns as entries: see the flood table of `benches/limit.rs`.
        Self { shards, buckets, columns: buckets * WAYS / 2 }
    }

    fn bytes_max(self) -> usize {
        self.buckets * size_of::<Bucket>() + Overflow::bytes_max(self.columns)
    }
}

/// Hashes apart from the rest: looking for one among eight touches one cache line.
#[derive(Clone)]
struct Bucket {
    hashes: [u64; WAYS],
    histories: [History; WAYS],
}

impl Bucket {
    const EMPTY: Self = Self { hashes: [0; WAYS], histories: [History::EMPTY; WAYS] };

    fn vacancies(&self, at: At) -> usize {
        self.histories.iter().filter(|history| history.expired(at.judged)).count()
    }
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    way: usize,
}

// A cache line pair to each lock: neighbours would slow each other down.
#[repr(align(128))]
struct Shard {
    shape: Shape,
    /// Empty until the first address comes.
    buckets: Vec<Bucket>,
    overflow: Overflow,
    /// The unit from which on nothing that was forgotten matters. A request so late that it is before
    /// this, and whose address is not in the table, can't be judged.
    horizon: u64,
}

impl Shard {
    const fn new(shape: Shape) -> Self {
        Self { shape, buckets: Vec::new(), overflow: Overflow::new(shape.columns), horizon: 0 }
    }

    fn admit(&mut self, hash: u64, scale: Scale, at: At) -> Verdict {
        if let Some(place) = self.find(hash)
            && let Some(history) = self.entry_mut(place)
        {
            return history.admit(scale, at);
        }
        self.forget(at.judged);
        let Some(mut history) = self.recall(hash, scale, at) else { return scale.forgotten(self.horizon, at) };
        let verdict = history.admit(scale, at);
        if verdict.admitted {
            match self.make_place(hash, at) {
                Some(place) => self.write(place, hash, history),
                None => self.overflow.add(hash, at.logged),
            }
        }
        verdict
    }

    fn peek(&self, hash: u64, scale: Scale, at: At) -> Verdict {
        let entry = self.find(hash).and_then(|place| self.entry(place));
        match entry.copied().or_else(|| self.recall(hash, scale, at)) {
            Some(history) => history.verdict(scale, at),
            None => scale.forgotten(self.horizon, at),
        }
    }

    fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>() + self.overflow.bytes()
    }

    /// The two buckets of an address. With two to choose from, the table fills to over 90 % before any
    /// address finds both full; with one, 5 % of the addresses would at 76 %.
    fn choices(&self, hash: u64) -> [usize; 2] {
        let mask = self.shape.buckets - 1;
        [hash as usize & mask, (hash >> 28) as usize & mask]
    }

    fn find(&self, hash: u64) -> Option<Place> {
        self.choices(hash).into_iter().find_map(|bucket| {
            let way = self.buckets.get(bucket)?.hashes.iter().position(|h| *h == hash)?;
            Some(Place { bucket, way })
        })
    }

    /// What may have been admitted from an address that is not in the table; `None` where that is
    /// forgotten.
    fn recall(&self, hash: u64, scale: Scale, at: At) -> Option<History> {
        (at.judged >= self.horizon).then(|| self.overflow.recall(hash, scale, at))
    }

    /// Drops from the sketch what matters to nobody at `unit`, nor to late threads.
    fn forget(&mut self, unit: u64) {
        if let Some(dropped) = self.overflow.forget(unit) {
            self.forgot(dropped);
        }
    }

    /// Admissions of `unit`, and of none later, are no longer remembered.
    fn forgot(&mut self, unit: u64) {
        self.horizon = self.horizon.max(unit + WINDOW);
    }

    fn entry(&self, place: Place) -> Option<&History> {
        self.buckets.get(place.bucket)?.histories.get(place.way)
    }

    fn entry_mut(&mut self, place: Place) -> Option<&mut History> {
        self.buckets.get_mut(place.bucket)?.histories.get_mut(place.way)
    }

    fn write(&mut self, place: Place, hash: u64, history: History) {
        let Some(bucket) = self.buckets.get_mut(place.bucket) else { return };
        if let (Some(h), Some(entry)) = (bucket.hashes.get_mut(place.way), bucket.histories.get_mut(place.way)) {
            (*h, *entry) = (hash, history);
        }
    }

    /// A place for a new address: a vacant one, in the emptier bucket, else that of the oldest stranger.
    fn make_place(&mut self, hash: u64, at: At) -> Option<Place> {
        if self.buckets.is_empty() {
            self.buckets = vec![Bucket::EMPTY; self.shape.buckets];
        }
        if let Some(place) = self.vacancy(hash, at) {
            let history = self.entry(place)?;
            if !history.is_empty() {
                self.forgot(history.newest());
            }
            return Some(place);
        }
        let place = self.oldest_stranger(hash)?;
        let its_hash = *self.buckets.get(place.bucket)?.hashes.get(place.way)?;
        let its_unit = self.entry(place)?.newest();
        // It can be newer than a late thread's request, and than all that overflowed before.
        self.forget(its_unit);
        self.overflow.add(its_hash, its_unit);
        Some(place)
    }

    fn vacancy(&self, hash: u64, at: At) -> Option<Place> {
        let vacancies = |bucket: &usize| self.buckets.get(*bucket).map_or(0, |b| b.vacancies(at));
        let bucket = self.choices(hash).into_iter().max_by_key(vacancies)?;
        let way = self.buckets.get(bucket)?.histories.iter().position(|history| history.expired(at.judged))?;
        Some(Place { bucket, way })
    }

    /// Of the addresses that have made one request since they got their place, the one longest ago.
    /// Within a turn the order is arbitrary but not always the same: if the oldest always went, of clients
    /// that come one after the other and are a few more than the places, none would be there when it
    /// comes again.
    fn oldest_stranger(&self, hash: u64) -> Option<Place> {
        let turn = (hash >> 48) as usize;
        let entries = self.choices(hash).into_iter().flat_map(|bucket| {
            let histories = self.buckets.get(bucket).map(|b| b.histories.iter());
            histories.into_iter().flatten().enumerate().map(move |(way, history)| (Place { bucket, way }, history))
        });
        let strangers = entries.filter(|(_, history)| history.own() <= 1);
        let oldest = strangers.min_by_key(|(place, history)| (history.newest() / TURN, (place.way ^ turn) % WAYS));
        oldest.map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::limit::most_in_any_interval;
    use crate::limit::population::{MINUTE, START, flood, steady};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    const SEED: u64 = 0x5EED;

    fn rate(count: u32, per_nanos: u64) -> Rate {
        Rate { count, per: Duration::from_nanos(per_nanos) }
    }

    fn at(ticks: u64) -> Moment {
        Moment { unix_nanos: 0, ticks }
    }

    fn key(client: u32) -> AddressKey {
        AddressKey::of(Ipv4Addr::from_bits(client).into(), 64)
    }

    fn table(rate: Rate, capacity: usize) -> Keyed {
        Keyed::with_capacity(rate, capacity, SEED).unwrap()
    }

    /// Admissions among `times` requests at one moment.
    fn burst(table: &Keyed, client: u32, ticks: u64, times: usize) -> usize {
        (0..times).filter(|_| table.admit(key(client), at(ticks)).admitted).count()
    }

    /// Shorter windows are rounded up to this.
    const SHORT: u64 = 60_000;

    /// Ticks between requests; a negative step is a thread that read the clock early and came late.
    fn step() -> impl Strategy<Value = i64> {
        let window = SHORT as i64;
        prop_oneof![
            3 => Just(0),
            3 => 0..window / 1000,
            6 => 0..window / 3,
            1 => -window / 20..0,
            1 => -window / 2..0,
            1 => window..3 * window,
        ]
    }

    /// Exact limits, and those that are counted in groups.
    fn count() -> impl Strategy<Value = u32> {
        prop_oneof![1u32..12, 20u32..100]
    }

    /// Of the group size, units and windows that do not divide evenly.
    fn window() -> impl Strategy<Value = u64> {
        prop_oneof![Just(SHORT), SHORT..4 * SHORT]
    }

    proptest! {
        /// One bucket for up to 40 addresses: places are taken, lost, vacated and taken again.
        #[test]
        fn no_interval_holds_more_than_the_limit(
            requests in prop::collection::vec((0u32..40, step()), 1..1500),
            (count, per) in (count(), window()),
            addresses in prop_oneof![1u32..4, 1u32..40],
        ) {
            let table = table(rate(count, per), WAYS);
            let mut admitted = vec![Vec::new(); 40];
            let (mut now, mut latest) = (START, START);
            for (client, step) in requests {
                now = now.saturating_add_signed(step);
                latest = latest.max(now);
                let client = client % addresses;
                let peeked = table.peek(key(client), at(now));
                let verdict = table.admit(key(client), at(now));
                prop_assert_eq!(peeked.admitted, verdict.admitted);
                if verdict.admitted {
                    admitted[client as usize].push(now);
                    prop_assert!(verdict.remaining < count);
                    prop_assert!(verdict.next_after <= verdict.reset_after);
                } else if now >= latest {
                    let wait = verdict.retry_after.as_nanos() as u64;
                    prop_assert!(table.peek(key(client), at(now + wait)).admitted);
                    prop_assert!(!table.peek(key(client), at(now + wait - 1)).admitted);
                }
            }
            prop_assert!(table.bytes() <= table.bytes_max());
            for moments in admitted {
                prop_assert!(most_in_any_interval(moments, per) <= count as usize);
            }
        }

        /// Whatever the rhythm; if no thread is late.
        #[test]
        fn who_is_refused_has_had_the_limit_but_part_of_a_group(
            steps in prop::collection::vec(step(), 1..1500),
            (count, per) in (count(), window()),
        ) {
            let table = table(rate(count, per), WAYS);
            let unit = per.div_ceil(60_000);
            let window = unit * 60_000;
            let enough = count - (count.div_ceil(22) - 1);
            let mut admitted = Vec::new();
            let mut now = START;
            for step in steps {
                now += step.unsigned_abs();
                if table.admit(key(1), at(now)).admitted {
                    admitted.push(now);
                } else {
                    let inside = admitted.iter().rev().take_while(|m| **m + window + unit > now).count();
                    prop_assert!(inside >= enough as usize, "{} of {}", inside, count);
                }
            }
        }
    }

    #[test]
    fn what_remains_and_when_more_comes_are_told_to_the_unit() {
        // Units of 2.
        let table = table(rate(3, 120_000), WAYS);
        assert_eq!(table.admit(key(1), at(START + 3)).remaining, 2);
        assert_eq!(table.admit(key(1), at(START + 50_000)).remaining, 1);
        let last = table.admit(key(1), at(START + 55_001));
        assert_eq!((last.remaining, last.limit), (0, 3));
        assert_eq!(last.next_after, Duration::from_nanos(120_004 - 55_001));
        assert_eq!(last.reset_after, Duration::from_nanos(175_002 - 55_001));
        let refused = table.admit(key(1), at(START + 100_000));
        assert_eq!((refused.admitted, refused.retry_after), (false, Duration::from_nanos(20_004)));
        for (ticks, remaining) in [(120_003, 0), (120_004, 1), (169_999, 1), (170_000, 2), (175_001, 2), (175_002, 3)] {
            assert_eq!(table.peek(key(1), at(START + ticks)).remaining, remaining, "at {ticks}");
        }
        assert_eq!(table.peek(key(2), at(START + 100_000)).remaining, 3, "another address was charged");
    }

    #[test]
    fn greater_limits_come_back_in_groups() {
        let table = table(rate(100, MINUTE), WAYS);
        let second = MINUTE / 60;
        let sent = (0..30).filter(|n| table.admit(key(1), at(START + n * second)).admitted);
        assert_eq!(sent.count(), 30);
        assert_eq!(burst(&table, 1, START + 30 * second, 100), 70);
        // Groups of five leave with the fifth.
        let refused = table.peek(key(1), at(START + 40 * second));
        assert_eq!((refused.retry_after, refused.next_after), (Duration::from_secs(24), Duration::from_secs(24)));
        assert_eq!(refused.reset_after, Duration::from_secs(50));
        for (seconds, remaining) in [(60, 0), (63, 0), (64, 5), (68, 5), (69, 10), (89, 30), (90, 100)] {
            assert_eq!(table.peek(key(1), at(START + seconds * second)).remaining, remaining, "at {seconds} s");
        }
    }

    #[test]
    fn who_does_a_minutes_work_at_once_can_do_so_every_minute() {
        for (count, at_once) in [(1, 2), (10, 20), (22, 44), (100, 200), (10_000, 10_001)] {
            let table = table(rate(count, MINUTE), WAYS);
            for minute in 0..20 {
                let now = START + 1 + minute * (MINUTE + MINUTE / 600);
                assert_eq!(burst(&table, 1, now, at_once), count as usize, "minute {minute}");
            }
        }
    }

    /// In the worst case the part of a group that a burst needs is freed at the burst's end.
    #[test]
    fn who_does_a_minutes_work_in_seconds_gets_nearly_all_of_it() {
        for (count, seconds, least) in [(10, 5, 10), (22, 20, 22), (100, 1, 96), (100, 5, 96), (100, 20, 96)] {
            let table = table(rate(count, MINUTE), WAYS);
            let gap = seconds * MINUTE / 60 / u64::from(2 * count);
            for minute in 0..20 {
                let began = START + minute * (MINUTE + MINUTE / 600);
                let moments = (0..u64::from(2 * count)).map(|n| at(began + n * gap));
                let admitted = moments.filter(|now| table.admit(key(1), *now).admitted).count();
                assert!((least..=count as usize).contains(&admitted), "{count} in {seconds} s: {admitted}");
            }
        }
    }

    #[test]
    fn refusals_and_peeks_cost_nothing() {
        let table = table(rate(100, MINUTE), WAYS);
        assert_eq!(burst(&table, 1, START, 100), 100);
        for step in 1..60 {
            assert_eq!(burst(&table, 1, START + step * MINUTE / 60, 50), 0, "at second {step}");
        }
        assert_eq!(burst(&table, 1, START + MINUTE - 1, 50), 0);
        assert_eq!(table.peek(key(1), at(START + MINUTE)).remaining, 100);
        assert_eq!(burst(&table, 1, START + MINUTE, 200), 100);
    }

    #[test]
    fn a_client_that_sends_evenly_at_twice_the_limit_gets_the_limit_less_part_of_a_group() {
        for count in [1, 7, 22, 100, 65_535] {
            let table = table(rate(count, MINUTE), WAYS);
            let windows = 3;
            let admit = |client, ticks| table.admit(key(client), at(ticks)).admitted;
            let tally = steady(1, 2 * count, windows.into(), admit);
            let (admitted, whole) = (tally.sent - tally.refused, u64::from(count * windows));
            // What is freed waits for the client's next request, and for the next unit.
            let waits = 1.0 + 0.5 / f64::from(count) + 2.0 / 60_000.0;
            let floor = f64::from(windows * (count - (count.div_ceil(22) - 1))) / waits;
            assert!(admitted <= whole && admitted as f64 >= floor.floor(), "{count}: {admitted} of {whole}");
        }
    }

    #[test]
    fn degenerate_rates_refuse_rather_than_admit() {
        let none = table(rate(0, MINUTE), WAYS);
        let refused = none.admit(key(1), at(START));
        assert!(!refused.admitted && refused.retry_after >= Duration::from_secs(60));
        for per in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let table = table(Rate { count: 1, per }, WAYS);
            assert_eq!(burst(&table, 1, START, 5), 1, "{per:?}");
        }
        let from_zero = table(rate(1, MINUTE), WAYS);
        assert_eq!((burst(&from_zero, 1, 0, 5), burst(&from_zero, 2, 0, 5)), (1, 1));
    }

    #[test]
    fn settings_that_can_not_be_met_say_what_to_do() {
        let error = |rate, capacity| Keyed::with_capacity(rate, capacity, SEED).err().unwrap().to_string();
        assert_eq!(
            error(rate(65_536, MINUTE), WAYS),
            "`65536` requests per window are more than can be counted per address (at most 65535); \
             divide both the count and the window, for example by 60"
        );
        assert_eq!(error(rate(1, MINUTE), 0), "`0` addresses can't be tracked; choose between 1 and 16777216");
        assert!(error(rate(1, MINUTE), CAPACITY_MAX + 1).starts_with("`16777217` addresses"));
        assert!(Keyed::new(rate(65_535, MINUTE), SEED).is_ok());
    }

    #[test]
    fn an_address_without_a_place_is_still_limited_and_takes_its_count_along() {
        let table = table(rate(100, MINUTE), WAYS);
        // Regulars hold every place.
        (0..WAYS as u32).for_each(|client| assert_eq!(burst(&table, client, START, 2), 2));
        assert_eq!(burst(&table, 99, START + MINUTE / 2, 300), 100);
        assert_eq!(table.overflowed(), 100);
        // Their places are vacant now; what 99 did half a minute ago still counts.
        let later = START + MINUTE * 6 / 5;
        assert_eq!(burst(&table, 99, later, 300), 0);
        let free = later + table.peek(key(99), at(later)).retry_after.as_nanos() as u64;
        assert!(free < START + MINUTE * 17 / 10);
        assert_eq!(burst(&table, 99, free, 300), 100);
        assert_eq!(table.overflowed(), 100, "99 found no place");
    }

    #[test]
    fn a_stranger_who_loses_the_place_keeps_the_count() {
        let table = table(rate(1, MINUTE), WAYS);
        assert_eq!(burst(&table, 0, START, 1), 1);
        let pushing = 1..=5 * WAYS as u32;
        let admitted = pushing.filter(|client| table.admit(key(*client), at(START + MINUTE / 4)).admitted).count();
        assert!(admitted >= WAYS, "{admitted}");
        assert!(table.overflowed() > 0);
        assert_eq!(burst(&table, 0, START + MINUTE / 2, 10), 0);
    }

    #[test]
    fn a_late_thread_is_judged_by_its_own_moment_and_a_very_late_one_refused() {
        let table = table(rate(2, MINUTE), WAYS);
        let second = MINUTE / 60;
        let minute_later = START + MINUTE;
        assert_eq!(burst(&table, 1, START, 1), 1);
        assert_eq!(burst(&table, 1, minute_later, 1), 1);
        // At its own moment the first still counts, and the second was there first.
        assert_eq!(burst(&table, 1, minute_later - 1, 1), 0);
        assert_eq!(burst(&table, 1, minute_later, 1), 1);
        assert_eq!(burst(&table, 2, minute_later, 1), 1);
        assert_eq!(burst(&table, 2, minute_later - 5 * second, 1), 1, "five seconds late is not too late");
        // It was logged at the latest moment.
        assert_eq!(burst(&table, 2, minute_later + MINUTE - 1, 1), 0);
        assert_eq!(burst(&table, 3, minute_later, 1), 1);
        let too_late = table.admit(key(3), at(minute_later - 6 * second));
        assert!(!too_late.admitted && too_late.retry_after < Duration::from_secs(1), "{too_late:?}");
    }

    #[test]
    fn what_has_just_left_the_log_is_not_forgiven_to_a_late_thread() {
        for count in 2..100 {
            let table = table(rate(count, MINUTE), WAYS);
            assert_eq!(burst(&table, 1, START, 2), 2);
            assert_eq!(burst(&table, 1, START + MINUTE / 6, 200), count as usize - 2);
            // The first two may have to make room for this one. They count at the late one's moment.
            burst(&table, 1, START + MINUTE, 1);
            assert_eq!(burst(&table, 1, START + MINUTE - 1, 1), 0, "limit {count}");
        }
    }

    #[test]
    fn a_late_stranger_is_refused_if_what_it_may_have_done_is_forgotten() {
        let table = table(rate(1, MINUTE), WAYS);
        (0..WAYS as u32).for_each(|client| assert_eq!(burst(&table, client, START, 1), 1));
        let second = MINUTE / 60;
        assert_eq!(burst(&table, 20, START + 62 * second, 1), 1);
        assert_eq!(table.overflowed(), 1, "a place was taken before late threads could come");
        assert_eq!(burst(&table, 21, START + 63 * second, 1), 1);
        assert_eq!(table.overflowed(), 1, "no place was vacant");
        let late = table.admit(key(22), at(START + 59 * second));
        assert_eq!((late.admitted, late.retry_after), (false, Duration::from_secs(1)));
        assert_eq!(burst(&table, 22, START + 60 * second, 1), 1);
    }

    #[test]
    fn threads_get_exactly_the_limit_while_time_stands_still() {
        let table = table(rate(1_000, MINUTE), WAYS);
        let admitted = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| admitted.fetch_add(burst(&table, 1, START, 1_000), Ordering::Relaxed));
            }
        });
        assert_eq!(admitted.into_inner(), 1_000);
    }

    #[test]
    fn threads_are_never_over_while_time_runs() {
        let table = table(rate(50, 2 * SHORT), WAYS);
        let clock = ManualClock::at(0);
        // Time runs as the threads do: 200 windows of 300 requests.
        let next = || {
            clock.advance(Duration::from_nanos(400));
            clock.now()
        };
        let hammer = || {
            let admitted = (0..20_000).map(|_| next()).filter(|now| table.admit(key(1), *now).admitted);
            admitted.map(|now| now.ticks).collect::<Vec<_>>()
        };
        let admitted: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(admitted.len() > 50 * 100, "{} of about 10,000", admitted.len());
        assert!(most_in_any_interval(admitted, 2 * SHORT) <= 50);
    }

    #[test]
    fn a_million_addresses_do_not_grow_it_beyond_its_bound() {
        const MIB: usize = 1 << 20;
        let idle = Keyed::new(rate(100, MINUTE), SEED).unwrap();
        assert!(idle.bytes() < MIB / 8, "{}", idle.bytes());
        assert!(idle.bytes_max() < 41 * MIB, "{}", idle.bytes_max());
        let small = table(rate(100, MINUTE), 1 << 12);
        for client in 0..1_000_000 {
            small.admit(key(client), at(START + u64::from(client) * 1_000_000));
            if client % 100_000 == 0 {
                assert!(small.bytes() <= small.bytes_max());
            }
        }
        assert!(small.overflowed() > 500_000);
        assert!(small.bytes() <= small.bytes_max() && small.bytes_max() < MIB, "{}", small.bytes_max());
    }

    #[test]
    fn addresses_within_capacity_are_never_refused_wrongly() {
        for (addresses, sends, limit) in [(1_000, 90, 100), (20_000, 18, 20), (200_000, 9, 10)] {
            let table = Keyed::new(rate(limit, MINUTE), SEED).unwrap();
            let tally = steady(addresses, sends, 1.2, |client, ticks| table.admit(key(client), at(ticks)).admitted);
            assert_eq!(tally.refused, 0, "{addresses} addresses");
            assert!(table.overflowed() * 10_000 <= tally.sent, "{addresses} addresses: {}", table.overflowed());
        }
    }

    /// A sixteenth of the default capacity and of 5 million strangers a minute.
    #[test]
    fn a_flood_of_addresses_does_not_make_innocent_ones_refused() {
        let table = table(rate(100, MINUTE), CAPACITY_DEFAULT / 16);
        let flooded = flood(5_000_000 / 16, 1, |client, ticks| table.admit(key(client), at(ticks)).admitted);
        assert!(table.overflowed() > 500_000, "no flood");
        assert_eq!(flooded.established.refused, 0);
        assert!(flooded.newcomers.refused_share() < 0.001, "{:?}", flooded.newcomers);
        assert!(table.bytes() <= table.bytes_max());
    }

    #[test]
    fn strangers_that_overflow_are_limited_too() {
        let table = table(rate(100, MINUTE), 1 << 10);
        let flooded = flood(3_000, 150, |client, ticks| table.admit(key(client), at(ticks)).admitted);
        assert!(table.overflowed() > 50_000, "no overflow");
        assert!(flooded.attackers.refused_share() > 1.0 / 3.0, "{:?}", flooded.attackers);
        assert_eq!(flooded.established.refused, 0);
    }
}
