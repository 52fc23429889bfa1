//! The admissions of one address, counted by slots of time: a sliding window in 56 bytes.
//!
//! A window is divided into [`SPAN`] slots. A request in slot `c` is judged by the counts of slots
//! `c - SPAN ..= c`, so that the oldest, which is only partly inside the window, counts whole: never
//! over the limit, and a client that sends without pause gets at least `SPAN / (SPAN + 1)` of it (95 %).
//!
//! One slot more is kept than a request of the newest slot needs. A thread that read the clock just
//! before a slot began and came second is thus still judged exactly, by its own moment.

use std::time::Duration;

use crate::limit::{Rate, Verdict};

/// Slots that a window is divided into.
pub(super) const SPAN: u64 = 21;

/// Slots whose counts are kept: those of a window, the partial one, and one for late threads.
pub(super) const KEPT: usize = SPAN as usize + 2;

/// The limit, and its division of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) count: u32,
    slot_nanos: u64,
}

impl Scale {
    pub(super) fn of(rate: Rate) -> Self {
        Self { count: rate.count, slot_nanos: rate.per_nanos().div_ceil(SPAN) }
    }

    /// The slot of a moment. The first is `KEPT + 1`, so that history that is all zeros has expired.
    pub(super) fn slot(self, ticks: u64) -> u64 {
        ticks / self.slot_nanos + FIRST
    }

    /// Until `slot` begins.
    pub(super) fn until(self, slot: u64, ticks: u64) -> Duration {
        let begins = slot.saturating_sub(FIRST).saturating_mul(self.slot_nanos);
        Duration::from_nanos(begins.saturating_sub(ticks))
    }

    /// A refusal for want of memory: what is needed to judge the moment is forgotten until `slot`.
    pub(super) fn forgotten(self, slot: u64, ticks: u64) -> Verdict {
        let wait = self.until(slot, ticks);
        let limit = self.count;
        Verdict { admitted: false, limit, remaining: 0, next_after: wait, reset_after: wait, retry_after: wait }
    }

    fn whole(self) -> Duration {
        Duration::from_nanos(self.slot_nanos.saturating_mul(SPAN))
    }
}

const FIRST: u64 = KEPT as u64 + 1;

/// Counts by slot, newest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    /// The slot of the newest count.
    pub(super) newest: u64,
    /// Admissions since this history was given a place of its own.
    pub(super) own: u16,
    pub(super) counts: [u16; KEPT],
}

impl History {
    /// Nothing yet, at `slot`.
    pub(super) const fn at(slot: u64) -> Self {
        Self { newest: slot, own: 0, counts: [0; KEPT] }
    }

    /// Whether nothing in it matters to a request in `slot`, nor to one of the slot before.
    pub(super) fn expired(&self, slot: u64) -> bool {
        slot.saturating_sub(self.newest) >= KEPT as u64
    }

    /// Counts one admission. A late thread's is counted in the newest slot: later than it was, so longer.
    pub(super) fn add(&mut self, slot: u64) {
        self.own = if self.expired(slot) { 1 } else { self.own.saturating_add(1) };
        let ahead = usize::try_from(slot.saturating_sub(self.newest)).unwrap_or(KEPT).min(KEPT);
        self.counts.rotate_right(ahead);
        self.counts.iter_mut().take(ahead).for_each(|count| *count = 0);
        self.newest = self.newest.max(slot);
        let [newest, ..] = &mut self.counts;
        *newest = newest.saturating_add(1);
    }

    /// What the limit says to one request more. Charges nothing.
    pub(super) fn verdict(&self, scale: Scale, ticks: u64) -> Verdict {
        let Some(visible) = self.visible(scale.slot(ticks)) else {
            return scale.forgotten(self.newest - 1, ticks);
        };
        let counts = self.counts.iter().enumerate().take(visible);
        let used: u32 = counts.clone().map(|(_, n)| u32::from(*n)).sum();
        let frees = |age: usize| scale.until(self.newest + SPAN + 1 - age as u64, ticks);
        let mut occupied = counts.filter(|(_, n)| **n > 0);
        let admitted = used < scale.count;
        let retry_after = if admitted {
            Duration::ZERO
        } else {
            let mut left = used;
            let enough = occupied.clone().rev().find(|(_, n)| {
                left -= u32::from(**n);
                left < scale.count
            });
            enough.map_or(scale.whole(), |(age, _)| frees(age))
        };
        Verdict {
            admitted,
            limit: scale.count,
            remaining: scale.count.saturating_sub(used),
            next_after: occupied.clone().next_back().map_or(Duration::ZERO, |(age, _)| frees(age)),
            reset_after: occupied.next().map_or(Duration::ZERO, |(age, _)| frees(age)),
            retry_after,
        }
    }

    /// How many of the counts a request in `slot` must look at; `None` if it needs some that are gone.
    fn visible(&self, slot: u64) -> Option<usize> {
        match slot.checked_sub(self.newest) {
            Some(behind) => Some((SPAN + 1).saturating_sub(behind) as usize),
            None if slot + 1 == self.newest => Some(KEPT),
            None => None,
        }
    }
}
