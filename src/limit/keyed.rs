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
use crate::limit::history::{History, SPAN, Scale};
use crate::limit::overflow::Overflow;
use crate::limit::{AddressKey, Rate, Verdict};

/// Addresses that are counted exactly, by default: 16 MiB of table.
pub const CAPACITY_DEFAULT: usize = 262_144;

/// Bound on the capacity: 1 GiB of table.
pub const CAPACITY_MAX: usize = 1 << 24;

/// A sliding window per address.
///
/// Time is counted in slots of 1/21 of the window, the oldest counting whole: a client that sends
/// without pause gets 95–100 % of the limit, and `retry_after` is the start of the first slot in which the
/// request is admitted.
///
/// Costs up to 64 bytes per address of its capacity, and up to 96 more while more addresses are active
/// than that: 40 MiB by default. Shards are allocated when their first address comes, 64 KiB each by
/// default, so that a gateway with ten clients does not hold 16 MiB and no request waits for more than
/// 64 KiB to be cleared.
///
/// False refusals of clients at 90 % of 100 a minute, by default capacity (`benches/limit.rs` prints
/// them): none among 200,000 addresses, 1.5 % of requests among 300,000; none under a flood of 5
/// million addresses a minute that come once, 0.6 % of newcomers' requests if half as many come twice.
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
        let Some(shard) = self.shard(hash) else { return self.scale.forgotten(0, now.ticks) };
        shard.lock().admit(hash, self.scale, now.ticks)
    }

    /// What [`admit`](Self::admit) would say, charging nothing.
    pub fn peek(&self, key: AddressKey, now: Moment) -> Verdict {
        let hash = self.hasher.hash_one(key.bits());
        let Some(shard) = self.shard(hash) else { return self.scale.forgotten(0, now.ticks) };
        shard.lock().peek(hash, self.scale, now.ticks)
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
    const EMPTY: Self = Self { hashes: [0; WAYS], histories: [History::at(0); WAYS] };

    fn vacancies(&self, slot: u64) -> usize {
        self.histories.iter().filter(|history| history.expired(slot)).count()
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
    /// The newest slot of which anything was forgotten. A request so late that it would have to look at
    /// it, and whose address is not in the table, can't be judged.
    horizon: u64,
}

impl Shard {
    const fn new(shape: Shape) -> Self {
        Self { shape, buckets: Vec::new(), overflow: Overflow::new(shape.columns), horizon: 0 }
    }

    fn admit(&mut self, hash: u64, scale: Scale, ticks: u64) -> Verdict {
        let slot = scale.slot(ticks);
        let place = self.find(hash);
        if place.is_none() {
            self.forget(slot);
        }
        let Some(mut history) = self.history(place, hash, slot) else { return self.forgotten(scale, ticks) };
        let asked = history.verdict(scale, ticks);
        if !asked.admitted {
            return asked;
        }
        history.add(slot);
        match place.or_else(|| self.make_place(hash, slot)) {
            Some(place) => self.write(place, hash, history),
            None => self.overflow.add(hash, slot),
        }
        Verdict { admitted: true, retry_after: asked.retry_after, ..history.verdict(scale, ticks) }
    }

    fn peek(&self, hash: u64, scale: Scale, ticks: u64) -> Verdict {
        match self.history(self.find(hash), hash, scale.slot(ticks)) {
            Some(history) => history.verdict(scale, ticks),
            None => self.forgotten(scale, ticks),
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

    /// What was admitted from an address so far; `None` where that is forgotten.
    fn history(&self, place: Option<Place>, hash: u64, slot: u64) -> Option<History> {
        match place {
            Some(place) => self.entry(place).copied(),
            None if slot.saturating_sub(SPAN) <= self.horizon => None,
            None => Some(self.overflow.recall(hash, slot)),
        }
    }

    fn forget(&mut self, slot: u64) {
        self.horizon = self.horizon.max(self.overflow.forget(slot).unwrap_or(0));
    }

    fn forgotten(&self, scale: Scale, ticks: u64) -> Verdict {
        scale.forgotten(self.horizon + SPAN + 1, ticks)
    }

    fn entry(&self, place: Place) -> Option<&History> {
        self.buckets.get(place.bucket)?.histories.get(place.way)
    }

    fn write(&mut self, place: Place, hash: u64, history: History) {
        let Some(bucket) = self.buckets.get_mut(place.bucket) else { return };
        if let (Some(h), Some(entry)) = (bucket.hashes.get_mut(place.way), bucket.histories.get_mut(place.way)) {
            (*h, *entry) = (hash, history);
        }
    }

    /// A place for a new address: a vacant one, in the emptier bucket, else that of the oldest stranger.
    fn make_place(&mut self, hash: u64, slot: u64) -> Option<Place> {
        if self.buckets.is_empty() {
            self.buckets = vec![Bucket::EMPTY; self.shape.buckets];
        }
        if let Some(place) = self.vacancy(hash, slot) {
            self.horizon = self.horizon.max(self.entry(place)?.newest);
            return Some(place);
        }
        let place = self.oldest_stranger(hash)?;
        let its_hash = *self.buckets.get(place.bucket)?.hashes.get(place.way)?;
        let its_slot = self.entry(place)?.newest;
        // It can be newer than a late thread's request, and than all that overflowed before.
        self.forget(its_slot);
        self.overflow.add(its_hash, its_slot);
        Some(place)
    }

    fn vacancy(&self, hash: u64, slot: u64) -> Option<Place> {
        let vacancies = |bucket: &usize| self.buckets.get(*bucket).map_or(0, |b| b.vacancies(slot));
        let bucket = self.choices(hash).into_iter().max_by_key(vacancies)?;
        let way = self.buckets.get(bucket)?.histories.iter().position(|history| history.expired(slot))?;
        Some(Place { bucket, way })
    }

    /// Of the addresses that have made one request since they got their place, the one longest ago.
    /// Within a slot the order is arbitrary but not always the same, or the first entry would never stay.
    fn oldest_stranger(&self, hash: u64) -> Option<Place> {
        let turn = (hash >> 48) as usize;
        let entries = self.choices(hash).into_iter().flat_map(|bucket| {
            let histories = self.buckets.get(bucket).map(|b| b.histories.iter());
            histories.into_iter().flatten().enumerate().map(move |(way, history)| (Place { bucket, way }, history))
        });
        let strangers = entries.filter(|(_, history)| history.own <= 1);
        let oldest = strangers.min_by_key(|(place, history)| (history.newest, (place.way ^ turn) % WAYS));
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
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

    /// Ticks between requests; a negative step is a thread that read the clock early and came late.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![3 => Just(0i64), 6 => 0i64..40, 2 => -60i64..0, 1 => 200i64..500]
    }

    proptest! {
        /// One bucket for up to 40 addresses: places are taken, lost, vacated and taken again.
        #[test]
        fn no_interval_holds_more_than_the_limit(
            requests in prop::collection::vec((0u32..40, step()), 1..1500),
            count in 1u32..12,
            addresses in 1u32..40,
        ) {
            let table = table(rate(count, 210), WAYS);
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
                prop_assert!(most_in_any_interval(moments, 210) <= count as usize);
            }
        }
    }

    #[test]
    fn what_remains_and_when_more_comes_are_told_by_the_slot() {
        // Slots of 10; START is not on the edge of one.
        let table = table(rate(3, 210), WAYS);
        let edge = START.next_multiple_of(10);
        assert_eq!(table.admit(key(1), at(edge + 4)).remaining, 2);
        assert_eq!(table.admit(key(1), at(edge + 50)).remaining, 1);
        let last = table.admit(key(1), at(edge + 55));
        assert_eq!((last.remaining, last.limit), (0, 3));
        // The first slot counts until it lies wholly outside.
        assert_eq!(last.next_after, Duration::from_nanos(220 - 55));
        assert_eq!(last.reset_after, Duration::from_nanos(270 - 55));
        let refused = table.admit(key(1), at(edge + 100));
        assert_eq!((refused.admitted, refused.retry_after), (false, Duration::from_nanos(120)));
        assert_eq!(table.peek(key(1), at(edge + 220)).remaining, 1);
        assert_eq!(table.peek(key(1), at(edge + 270)).remaining, 3);
        assert_eq!(table.peek(key(2), at(edge + 100)).remaining, 3, "another address was charged");
    }

    #[test]
    fn refusals_and_peeks_cost_nothing() {
        let table = table(rate(100, MINUTE), WAYS);
        assert_eq!(burst(&table, 1, START, 100), 100);
        for step in 1..=60 {
            assert_eq!(burst(&table, 1, START + step * MINUTE / 60, 50), 0, "at second {step}");
        }
        assert_eq!(table.peek(key(1), at(START + MINUTE / 21 * 22)).remaining, 100);
        assert_eq!(burst(&table, 1, START + MINUTE / 21 * 22, 200), 100);
    }

    #[test]
    fn a_client_at_twice_the_limit_gets_the_limit_less_a_slot() {
        for count in [1, 7, 100, 65_535] {
            let table = table(rate(count, MINUTE), WAYS);
            let windows = 3;
            let admit = |client, ticks| table.admit(key(client), at(ticks)).admitted;
            let tally = steady(1, 2 * count, windows.into(), admit);
            let (admitted, whole) = (tally.sent - tally.refused, u64::from(count * windows));
            // The oldest slot counts whole, and a freed place waits for the client's next request.
            let floor = whole as f64 / (22.0 / 21.0 + 0.5 / f64::from(count));
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
        let table = table(rate(2, 210), WAYS);
        let edge = START.next_multiple_of(10);
        assert_eq!(burst(&table, 1, edge, 1), 1);
        assert_eq!(burst(&table, 1, edge + 220, 1), 1);
        // At its own moment the first still counts, and the second was there first.
        assert_eq!(burst(&table, 1, edge + 219, 1), 0);
        assert_eq!(burst(&table, 1, edge + 220, 1), 1);
        assert_eq!(burst(&table, 2, edge + 300, 1), 1);
        assert_eq!(burst(&table, 2, edge + 295, 1), 1, "a slot late is not too late");
        assert_eq!(burst(&table, 3, edge + 300, 1), 1);
        assert_eq!(burst(&table, 3, edge + 200, 1), 0);
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
        let table = table(rate(50, 2_100), WAYS);
        let clock = ManualClock::at(0);
        let done = AtomicBool::new(false);
        let hammer = || {
            let moments = (0..20_000).map(|_| clock.now()).filter(|now| table.admit(key(1), *now).admitted);
            moments.map(|now| now.ticks).collect::<Vec<_>>()
        };
        let admitted: Vec<u64> = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    clock.advance(Duration::from_nanos(7));
                }
            });
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(hammer)).collect();
            let admitted = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            done.store(true, Ordering::Relaxed);
            admitted
        });
        assert!(admitted.len() > 50, "the clock did not run");
        assert!(most_in_any_interval(admitted, 2_100) <= 50);
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
