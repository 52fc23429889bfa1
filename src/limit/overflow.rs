//! Counts of the addresses that found no place in a full table: a sketch, which has room for all.
//!
//! A sketch can only overestimate, so it never admits too much; what it overestimates by is other
//! addresses' requests. It is made of `pingora_limits::estimator::Estimator`s, one for every two slots
//! of a window. (The crate's own `Rate` is of no use here: it is a fixed window, reads the system clock
//! and counts refused requests.) The crate seeds its rows from the system's randomness; nothing but
//! which addresses share a counter depends on it.
//!
//! Two slots per estimator and not one: the noise is the sum over the estimators of the least-loaded
//! of a few counters, so that for the same memory half as many estimators, twice as wide, have half of
//! it. The price is two slots counting whole instead of one: 91 % instead of 95 % for who stays here.
//!
//! Invariant: at most [`PERIODS_MAX`] estimators; each is allocated when the first overflow needs it
//! and freed when it has left the window.

use std::collections::VecDeque;

use pingora_limits::estimator::Estimator;

use crate::limit::history::{History, KEPT};

/// Rows of a sketch.
const ROWS: usize = 2;

/// Slots that share an estimator.
const SLOTS: u64 = 2;

/// Estimators that can be alive at once: those of the kept slots.
const PERIODS_MAX: usize = KEPT.div_ceil(SLOTS as usize);

/// Sliding counts by hash.
pub(super) struct Overflow {
    columns: usize,
    /// By number, ascending.
    periods: VecDeque<Period>,
    /// The newest slot that anything was counted in.
    latest: u64,
    admissions: u64,
}

struct Period {
    /// Its slots are `SLOTS * number ..`.
    number: u64,
    counts: Estimator,
}

impl Period {
    fn last_slot(&self) -> u64 {
        self.number * SLOTS + SLOTS - 1
    }
}

impl Overflow {
    /// A sketch with `columns` counters in each row.
    pub(super) const fn new(columns: usize) -> Self {
        Self { columns, periods: VecDeque::new(), latest: 0, admissions: 0 }
    }

    /// Drops what no request in `slot`, nor one of the slot before, needs. Returns the newest slot that
    /// was dropped.
    pub(super) fn forget(&mut self, slot: u64) -> Option<u64> {
        let slot = slot.max(self.latest);
        let mut dropped = None;
        while let Some(period) = self.periods.front()
            && slot.saturating_sub(period.last_slot()) >= KEPT as u64
        {
            dropped = Some(period.last_slot());
            self.periods.pop_front();
        }
        dropped
    }

    /// What may have been admitted under `hash`: never less than was.
    pub(super) fn recall(&self, hash: u64, slot: u64) -> History {
        let mut history = History::at(slot.max(self.latest));
        for period in &self.periods {
            // No part of the newest period lies after what was counted last.
            let counted_in = period.last_slot().min(self.latest);
            let age = usize::try_from(history.newest - counted_in).unwrap_or(KEPT);
            if let Some(count) = history.counts.get_mut(age) {
                let estimate = u16::try_from(period.counts.get(hash)).unwrap_or(u16::MAX);
                *count = count.saturating_add(estimate);
            }
        }
        history
    }

    /// Counts one admission under `hash`; in a later slot than `slot` where that is needed to keep to
    /// the bound.
    pub(super) fn add(&mut self, hash: u64, slot: u64) {
        let slot = slot.max((self.latest + 1).saturating_sub(KEPT as u64));
        self.latest = self.latest.max(slot);
        self.admissions += 1;
        let number = slot / SLOTS;
        let position = self.periods.partition_point(|period| period.number < number);
        if self.periods.get(position).is_none_or(|period| period.number != number) {
            self.periods.insert(position, Period { number, counts: Estimator::new(ROWS, self.columns) });
        }
        if let Some(period) = self.periods.get(position) {
            period.counts.incr(hash, 1);
        }
    }

    /// Admissions ever counted here.
    pub(super) fn admissions(&self) -> u64 {
        self.admissions
    }

    /// Bytes of counters now.
    pub(super) fn bytes(&self) -> usize {
        self.periods.len() * estimator_bytes(self.columns)
    }

    /// Bytes of counters at most.
    pub(super) const fn bytes_max(columns: usize) -> usize {
        PERIODS_MAX * estimator_bytes(columns)
    }
}

const fn estimator_bytes(columns: usize) -> usize {
    ROWS * columns * size_of::<isize>()
}
