//! Counts of the addresses that found no place in a full table: a sketch, which has room for all.
//!
//! A sketch can only overestimate, so it never admits too much; what it overestimates by is other
//! addresses' requests. It is made of `pingora_limits::estimator::Estimator`s, one for each period of
//! 9.5 % of a window. (The crate's own `Rate` is of no use here: it is a fixed window, reads the system
//! clock and counts refused requests.) The crate seeds its rows from the system's randomness; nothing but
//! which addresses share a counter depends on it.
//!
//! Periods no shorter: the noise is the sum over the estimators of the least-loaded of a few counters, so
//! that for the same memory half as many estimators, twice as wide, have half of it. The price is that a
//! period counts whole until its end has left the window: who stays here and sends evenly gets 91 % of
//! the limit, and a burst is remembered up to a period longer.
//!
//! Invariant: at most [`PERIODS_MAX`] estimators; each is allocated when the first overflow needs it
//! and freed when it has left the window.

use std::collections::VecDeque;

use pingora_limits::estimator::Estimator;

use crate::limit::history::{At, History, KEPT, Scale};

/// Rows of a sketch.
const ROWS: usize = 2;

/// Estimators that can be alive at once.
const PERIODS_MAX: usize = 12;

/// Units that share an estimator: the kept units touch at most one period more than they fill.
const PERIOD: u64 = KEPT.div_ceil(PERIODS_MAX as u64 - 1);

/// Sliding counts by hash.
pub(super) struct Overflow {
    columns: usize,
    /// By number, ascending.
    periods: VecDeque<Period>,
    /// The newest unit that anything was counted in.
    latest: u64,
    admissions: u64,
}

struct Period {
    /// Its units are `PERIOD * number ..`.
    number: u64,
    counts: Estimator,
}

impl Period {
    fn last_unit(&self) -> u64 {
        self.number * PERIOD + PERIOD - 1
    }
}

impl Overflow {
    /// A sketch with `columns` counters in each row.
    pub(super) const fn new(columns: usize) -> Self {
        Self { columns, periods: VecDeque::new(), latest: 0, admissions: 0 }
    }

    /// Drops what matters to no request at `unit`, nor to late ones. Returns the newest unit that was
    /// dropped.
    pub(super) fn forget(&mut self, unit: u64) -> Option<u64> {
        let unit = unit.max(self.latest);
        let mut dropped = None;
        while let Some(period) = self.periods.front()
            && unit.saturating_sub(period.last_unit()) >= KEPT
        {
            dropped = Some(period.last_unit());
            self.periods.pop_front();
        }
        dropped
    }

    /// What may have been admitted under `hash`: never less than was, nor earlier.
    pub(super) fn recall(&self, hash: u64, scale: Scale, at: At) -> History {
        let mut history = History::EMPTY;
        for period in &self.periods {
            // No part of the newest period lies after what was counted last.
            history.recall(scale, at, period.last_unit().min(self.latest), period.counts.get(hash));
        }
        history
    }

    /// Counts one admission under `hash`; later than at `unit` where that is needed to keep to the bound.
    pub(super) fn add(&mut self, hash: u64, unit: u64) {
        let unit = unit.max((self.latest + 1).saturating_sub(KEPT));
        self.latest = self.latest.max(unit);
        self.admissions += 1;
        let number = unit / PERIOD;
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
