//! Signatures that were used, so that a captured request cannot be sent again while its date still holds.
//!
//! SigV4 has no nonce: what tells one request from another is the signature itself. A verified one gets a
//! [`Reservation`] before anything later is spent on the request. Whoever refuses the request drops the
//! reservation, and its honest repetition is none the worse; once Axon may have begun, the place is used up
//! until the date check alone refuses the signature.
//!
//! Two identical requests that one key signs within one second have one signature, so honest clients can meet
//! this table too. It is per process, and empty when the process starts.
//!
//! Invariant: of the copies of one request at most one holds a reservation, however they race.
//! Invariant: a signature that may still pass the date check is never taken for a new one because its place was
//! dropped. Places are dropped by the clock of whoever needs room; who comes later with an earlier one, its body
//! having taken that long, is told so ([`Doubt::Forgotten`]).
//! Invariant: memory has a bound, and a lock covers one short probe, seldom the rebuilding of one shard.

use std::fmt;
use std::sync::Arc;

use ahash::RandomState;
use parking_lot::Mutex;

use super::verify::{Caller, outside_window};
use super::{Issue, refuse};
use crate::clock::Moment;
use crate::error::Rejection;

/// Most signatures remembered: over 5,000 a second for the default window of five minutes.
pub const SIGNATURES_MAX: usize = SHARDS * room(SLOTS_PER_SHARD_MAX);
/// Most memory of the table's slots: 40 MiB.
pub const BYTES_MAX: usize = SHARDS * SLOTS_PER_SHARD_MAX * size_of::<Slot>();

const SHARDS: usize = 512;
/// Rebuilding a shard of this size takes some 30 µs.
const SLOTS_PER_SHARD_MAX: usize = 4096;
const SLOTS_PER_SHARD_MIN: usize = 16;

/// What becomes of a request whose signature was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is told and passes.
    Observe,
    /// It is refused.
    Enforce,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Observe, Mode::Enforce];

    pub const fn label(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

/// Why a signature got no reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It is being used or was used before.
    Replayed,
    /// Its time was over when the body was there, and nothing is known of it any more.
    Forgotten,
    /// Every place of its shard is taken by a signature that may still come again.
    Full,
}

impl Doubt {
    /// For the log.
    pub const fn text(self) -> &'static str {
        match self {
            Doubt::Replayed => "the signature was used before",
            Doubt::Forgotten => "the body came after the signature's time",
            Doubt::Full => "the table of used signatures is full",
        }
    }

    /// The refusal where the mode is [`Mode::Enforce`]: without certainty nobody passes.
    pub fn rejection(self, caller: &Caller, now: Moment) -> Rejection {
        match self {
            Doubt::Replayed => refuse(Issue::Replayed, format!("key {}: {}", caller.access_key_id(), self.text())),
            Doubt::Forgotten => {
                let Mark { signed_at, allowed_skew_seconds, .. } = *caller.mark();
                outside_window(Issue::Expired, self.text(), signed_at, allowed_skew_seconds, now)
            }
            Doubt::Full => Rejection::unavailable("overload", self.text()),
        }
    }
}

/// What is remembered of a verified signature.
#[derive(Clone, Copy)]
pub struct Mark {
    /// The signature's first half. It is the output of a keyed hash, so nobody can aim at another's.
    fingerprint: u128,
    signed_at: u64,
    valid_until: u64,
    allowed_skew_seconds: u64,
}

impl Mark {
    /// Of a signature in hexadecimal. `valid_until` is the last second in which the date check may pass; both times
    /// count from the Unix epoch.
    pub fn new(signature: &[u8; 64], signed_at: u64, valid_until: u64, allowed_skew_seconds: u64) -> Self {
        let digit = |byte: &u8| u128::from(char::from(*byte).to_digit(16).unwrap_or_default());
        let fingerprint = signature.iter().take(32).fold(0, |bits, byte| bits << 4 | digit(byte));
        Self { fingerprint, signed_at, valid_until, allowed_skew_seconds }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fingerprint: _, signed_at, valid_until, allowed_skew_seconds: _ } = self;
        f.debug_struct("Mark").field("signed_at", signed_at).field("valid_until", valid_until).finish_non_exhaustive()
    }
}

/// The table, and what one configuration makes of it.
#[derive(Debug)]
pub struct Guard {
    pub mode: Mode,
    pub table: Arc<Replays>,
}

/// The table.
pub struct Replays {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    slots_per_shard_max: usize,
}

impl Replays {
    /// An empty table. `seed` must be random and secret, or a caller can sign requests that meet in one shard.
    pub fn new(seed: u64) -> Self {
        Self::with_slots(seed, SHARDS, SLOTS_PER_SHARD_MAX)
    }

    fn with_slots(seed: u64, shards: usize, slots_per_shard_max: usize) -> Self {
        let [a, b, c] = [1, 2, 3].map(|n: u64| seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::with_seeds(seed, a, b, c), shards, slots_per_shard_max }
    }

    /// Takes the signature's place; who finds it taken comes second.
    ///
    /// # Errors
    /// Why it is not certain that this is the signature's first use.
    pub fn reserve(self: &Arc<Self>, mark: &Mark, now: Moment) -> Result<Reservation, Doubt> {
        let slot = Slot { fingerprint: mark.fingerprint.to_le_bytes(), until: seconds(mark.valid_until) };
        let shard = self.shard(slot.hash(&self.hasher)).ok_or(Doubt::Full)?;
        shard.lock().reserve(slot, seconds(now.unix_seconds()), &self.hasher, self.slots_per_shard_max)?;
        Ok(Reservation { place: Some((self.clone(), slot)), used_up: false })
    }

    /// Bytes of all slots now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().slots.len() * size_of::<Slot>()).sum()
    }

    fn release(&self, slot: Slot) {
        if let Some(shard) = self.shard(slot.hash(&self.hasher)) {
            shard.lock().release(slot, &self.hasher);
        }
    }

    /// By the upper bits, as the lower ones find the slot.
    fn shard(&self, hash: u64) -> Option<&Mutex<Shard>> {
        self.shards.get((hash >> 32) as usize % self.shards.len().max(1))
    }
}

impl fmt::Debug for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replays").finish_non_exhaustive()
    }
}

/// A signature's place, given back on drop unless it is used up.
#[derive(Default)]
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    /// `None` where no table is kept or the mode lets a doubtful signature pass.
    place: Option<(Arc<Replays>, Slot)>,
    used_up: bool,
}

impl Reservation {
    /// The request is about to reach Axon: from now on the place is kept, whatever becomes of the request.
    pub fn use_up(&mut self) {
        self.used_up = true;
    }

    /// Nothing reached Axon after all.
    pub fn give_back(mut self) {
        self.used_up = false;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((table, slot)) = self.place.take().filter(|_| !self.used_up) {
            table.release(slot);
        }
    }
}

/// A table with open addressing and linear probing, at most three quarters full, nothing ever deleted in place:
/// a slot that becomes free is filled from behind.
#[derive(Default)]
struct Shard {
    /// None, or a power of two.
    slots: Box<[Slot]>,
    taken: usize,
    /// Whatever was valid until an earlier second may have been dropped.
    swept: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    fingerprint: [u8; 16],
    /// The last second, since the Unix epoch, in which the signature may pass; 0 in a free slot.
    until: u32,
}

const FREE: Slot = Slot { fingerprint: [0; 16], until: 0 };

impl Slot {
    fn hash(&self, hasher: &RandomState) -> u64 {
        hasher.hash_one(u128::from_le_bytes(self.fingerprint))
    }
}

impl Shard {
    fn reserve(&mut self, slot: Slot, now: u32, hasher: &RandomState, slots_max: usize) -> Result<(), Doubt> {
        if slot.until < self.swept {
            return Err(Doubt::Forgotten);
        }
        if let Some(Place::Taken(_)) = self.find(slot, hasher) {
            return Err(Doubt::Replayed);
        }
        if self.taken >= room(self.slots.len()) {
            self.make_room(now, hasher, slots_max);
        }
        if self.taken >= room(self.slots.len()) {
            return Err(Doubt::Full);
        }
        self.put(slot, hasher);
        Ok(())
    }

    /// Drops what is over and takes twice the room of what is left, more or less than now: so the next time is as
    /// many reservations away as signatures are moved. At full size there is nothing to gain twice in a second.
    fn make_room(&mut self, now: u32, hasher: &RandomState, slots_max: usize) {
        if now <= self.swept && self.slots.len() >= slots_max {
            return;
        }
        self.swept = self.swept.max(now);
        let lives = |slot: &&Slot| slot.until >= self.swept;
        let living = self.slots.iter().filter(lives).count();
        let size = (2 * (living + 1)).next_power_of_two().clamp(SLOTS_PER_SHARD_MIN.min(slots_max), slots_max);
        let mut next = Self { slots: vec![FREE; size].into(), taken: 0, swept: self.swept };
        self.slots.iter().filter(lives).for_each(|slot| next.put(*slot, hasher));
        *self = next;
    }

    /// Puts a signature that is not there into its place; there is room.
    fn put(&mut self, slot: Slot, hasher: &RandomState) {
        if let Some(Place::Free(at)) = self.find(slot, hasher)
            && let Some(place) = self.slots.get_mut(at)
        {
            *place = slot;
            self.taken += 1;
        }
    }

    fn find(&self, wanted: Slot, hasher: &RandomState) -> Option<Place> {
        let mask = self.slots.len().checked_sub(1)?;
        let home = wanted.hash(hasher) as usize;
        (0..=mask).find_map(|step| {
            let at = home.wrapping_add(step) & mask;
            match self.slots.get(at)? {
                Slot { until: 0, .. } => Some(Place::Free(at)),
                found if found.fingerprint == wanted.fingerprint => Some(Place::Taken(at)),
                _ => None,
            }
        })
    }

    /// Frees the signature's slot, and moves into it whatever would not be found behind a free one.
    fn release(&mut self, slot: Slot, hasher: &RandomState) {
        let Some(Place::Taken(mut free)) = self.find(slot, hasher) else { return };
        let mask = self.slots.len() - 1;
        let start = free;
        for step in 1..=mask {
            let at = start.wrapping_add(step) & mask;
            let Some(next) = self.slots.get(at).copied().filter(|next| next.until > 0) else { break };
            let home = next.hash(hasher) as usize & mask;
            let (from_home, from_free) = (at.wrapping_sub(home) & mask, at.wrapping_sub(free) & mask);
            if from_home >= from_free {
                if let Some(place) = self.slots.get_mut(free) {
                    *place = next;
                }
                free = at;
            }
        }
        if let Some(place) = self.slots.get_mut(free) {
            *place = FREE;
        }
        self.taken -= 1;
    }
}

/// Where a signature is, or would be put.
enum Place {
    Taken(usize),
    Free(usize),
}

/// Signatures that a shard of so many slots holds.
const fn room(slots: usize) -> usize {
    slots / 4 * 3
}

/// Seconds since the Unix epoch, never 0; all that fit, until the year 2106.
fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_705_314_600;

    fn at(unix_seconds: u64) -> Moment {
        Moment { unix_nanos: unix_seconds * 1_000_000_000, ticks: 0 }
    }

    fn mark(fingerprint: u128, valid_until: u64) -> Mark {
        Mark { fingerprint, signed_at: valid_until - 300, valid_until, allowed_skew_seconds: 300 }
    }

    fn used(table: &Arc<Replays>, fingerprint: u128, valid_until: u64, now: u64) -> Option<Doubt> {
        table.reserve(&mark(fingerprint, valid_until), at(now)).map(|mut reservation| reservation.use_up()).err()
    }

    #[test]
    fn a_signature_counts_once_until_its_time_is_over() {
        let table = Arc::new(Replays::new(1));
        assert_eq!(used(&table, 1, NOW + 300, NOW), None);
        assert_eq!(used(&table, 2, NOW + 300, NOW), None);
        for now in [NOW, NOW + 299, NOW + 300] {
            assert_eq!(used(&table, 1, NOW + 300, now), Some(Doubt::Replayed));
        }
    }

    #[test]
    fn what_is_dropped_is_given_back_and_what_is_used_up_is_not() {
        let table = Arc::new(Replays::new(1));
        let reserve = || table.reserve(&mark(7, NOW + 300), at(NOW));
        drop(reserve().expect("first"));
        let held = reserve().expect("given back");
        assert_eq!(reserve().err(), Some(Doubt::Replayed), "while it is held");
        drop(held);
        let mut held = reserve().expect("given back again");
        held.use_up();
        held.give_back();
        let mut held = reserve().expect("nothing had reached Axon");
        held.use_up();
        drop(held);
        assert_eq!(reserve().err(), Some(Doubt::Replayed), "used up");
        drop(Reservation::default());
    }

    #[test]
    fn of_racing_copies_exactly_one_passes() {
        const THREADS: usize = 8;
        let table = Arc::new(Replays::with_slots(3, 2, 4096));
        let barrier = Barrier::new(THREADS);
        let race = |first: usize| {
            let mut won = Vec::new();
            for round in 0..500_u128 {
                barrier.wait();
                // Others come and go in the same shards meanwhile.
                let passing = table.reserve(&mark(1 << 100 | (first as u128) << 64 | round, NOW + 300), at(NOW));
                if used(&table, round, NOW + 300, NOW).is_none() {
                    won.push(round);
                }
                drop(passing);
            }
            won
        };
        let won: Vec<u128> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || race(first))).collect();
            racers.into_iter().flat_map(|racer| racer.join().expect("no panic")).collect()
        });
        assert_eq!((won.len(), won.iter().collect::<HashSet<_>>().len()), (500, 500));
        for round in 0..500 {
            assert_eq!(used(&table, round, NOW + 300, NOW), Some(Doubt::Replayed), "{round}");
        }
    }

    #[test]
    fn memory_grows_and_shrinks_and_has_a_bound() {
        let table = Arc::new(Replays::with_slots(1, 1, 64));
        assert_eq!(table.bytes(), 0);
        assert_eq!(used(&table, 0, NOW + 300, NOW), None);
        assert_eq!(table.bytes(), 16 * 20);
        for n in 1..48 {
            assert_eq!(used(&table, n, NOW + 300, NOW), None, "{n}");
        }
        assert_eq!(used(&table, 48, NOW + 300, NOW), Some(Doubt::Full));
        assert_eq!(used(&table, 48, NOW + 300, NOW + 300), Some(Doubt::Full), "all of them may still pass");
        assert_eq!(used(&table, 1, NOW + 300, NOW), Some(Doubt::Replayed), "full or not");
        assert_eq!(table.bytes(), 64 * 20);
        assert_eq!(used(&table, 48, NOW + 601, NOW + 301), None);
        assert_eq!(table.bytes(), 16 * 20);

        let table = Arc::new(Replays::new(1));
        let first_refused = (0..).find(|n| used(&table, *n, NOW + 300, NOW).is_some()).expect("a bound");
        assert!(first_refused as usize > SIGNATURES_MAX * 9 / 10, "{first_refused} of {SIGNATURES_MAX}");
        assert!(table.bytes() <= BYTES_MAX, "{}", table.bytes());
    }

    #[test]
    fn what_is_given_back_makes_room() {
        let table = Arc::new(Replays::with_slots(1, 1, 64));
        let held: Vec<_> = (0..48).flat_map(|n| table.reserve(&mark(n, NOW + 300), at(NOW))).collect();
        assert_eq!(held.len(), 48);
        assert_eq!(used(&table, 99, NOW + 300, NOW), Some(Doubt::Full));
        drop(held);
        for n in 0..48 {
            assert_eq!(used(&table, n, NOW + 300, NOW), None, "{n}");
        }
    }

    #[test]
    fn what_the_table_can_no_longer_know_is_told() {
        let table = Arc::new(Replays::with_slots(1, 1, 64));
        for n in 0..12 {
            assert_eq!(used(&table, n, NOW, NOW), None);
        }
        // The thirteenth needs room, a second after the others' time.
        assert_eq!(used(&table, 12, NOW + 300, NOW + 1), None);
        assert_eq!(used(&table, 0, NOW, NOW), Some(Doubt::Forgotten));
        // Also when the clock was set back meanwhile.
        assert_eq!(used(&table, 13, NOW, NOW - 100), Some(Doubt::Forgotten));
        assert_eq!(used(&table, 14, NOW + 1, NOW - 100), None);
    }

    #[test]
    fn the_fingerprint_is_the_first_half() {
        let signature = *b"0123456789abcdef0011223344556677ffffffffffffffffffffffffffffffff";
        let mark = Mark::new(&signature, 1, 2, 3);
        assert_eq!(mark.fingerprint, 0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        let shown = format!("{mark:?} {mark:#x?}");
        assert!(!shown.contains("abcdef") && !shown.contains(&mark.fingerprint.to_string()), "{shown}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a plain list: nothing is lost, doubled or kept when places come and go.
        #[test]
        fn it_behaves_as_a_set(steps in proptest::collection::vec((0u128..40, any::<bool>()), 0..300)) {
            let table = Arc::new(Replays::with_slots(5, 1, 64));
            let mut held: Vec<Option<Reservation>> = (0..40).map(|_| None).collect();
            for (n, take) in steps {
                let place = &mut held[n as usize];
                if take {
                    let reserved = table.reserve(&mark(n, NOW + 300), at(NOW));
                    prop_assert_eq!(reserved.as_ref().err().copied(), place.as_ref().map(|_| Doubt::Replayed));
                    *place = place.take().or(reserved.ok());
                } else {
                    *place = None;
                }
            }
            let taken = table.shards[0].lock().taken;
            prop_assert_eq!(taken, held.iter().flatten().count());
            let slots = table.shards[0].lock().slots.iter().filter(|slot| slot.until > 0).count();
            prop_assert_eq!(taken, slots);
        }
    }
}
