//! The admissions of one address: a sliding window in 56 bytes.
//!
//! Admissions are logged in [`GROUPS`] groups of equal size, each with the moment of its last member, and
//! a group leaves the window with that member. What is counted too much is therefore the part of the
//! oldest group that has left already, whatever the client's rhythm: limits up to 22 are exact, and a
//! refused client has had 21/22 of its limit (95 %) within the window, or 96 of 100. The same as
//! [`Window`](crate::limit::Window), with a log that is shorter and moments that are shorter.
//!
//! Invariants:
//! - A moment is rounded up when it is logged and down when it is judged: to 1/60,000 of the window,
//!   a millisecond of a minute.
//! - A request is judged by its own moment and logged at the latest moment of all so far.
//! - The full groups alone can hold the limit. If all of them matter to a request it is refused; if one
//!   does not, neither does any that was dropped for want of room.

use std::time::Duration;

use crate::limit::{Rate, Verdict};

/// Full groups that are kept.
const GROUPS: usize = 22;

/// Units of a window.
pub(super) const WINDOW: u64 = 60_000;

/// Units after which an admission matters to nobody, even who comes to the lock a twentieth of the
/// window after having read the clock.
pub(super) const KEPT: u64 = WINDOW + WINDOW / 20;

/// An age that is outside of every window; of groups that do not exist yet, too.
const NEVER: u16 = u16::MAX;

/// The limit, and its division of time and of admissions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    count: u16,
    /// Admissions of a full group.
    group: u16,
    unit_nanos: u64,
}

/// A moment in units.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// Rounded down: what a request is judged by.
    pub(super) judged: u64,
    /// Rounded up: what an admission is logged at.
    pub(super) logged: u64,
    ticks: u64,
}

impl Scale {
    /// `count` at most 65,535. The window is rounded up to whole units of at least a nanosecond: by at
    /// most 60 µs.
    pub(super) fn of(rate: Rate) -> Self {
        let count = u16::try_from(rate.count).unwrap_or(u16::MAX);
        let group = count.div_ceil(GROUPS as u16).max(1);
        Self { count, group, unit_nanos: rate.per_nanos().div_ceil(WINDOW) }
    }

    pub(super) fn at(self, ticks: u64) -> At {
        let judged = ticks / self.unit_nanos;
        At { judged, logged: judged + u64::from(judged * self.unit_nanos < ticks), ticks }
    }

    /// A refusal for want of memory: what is needed to judge the moment is forgotten until `unit`.
    pub(super) fn forgotten(self, unit: u64, at: At) -> Verdict {
        let wait = self.until(unit, at);
        let limit = self.count.into();
        Verdict { admitted: false, limit, remaining: 0, next_after: wait, reset_after: wait, retry_after: wait }
    }

    fn until(self, unit: u64, at: At) -> Duration {
        Duration::from_nanos(unit.saturating_mul(self.unit_nanos).saturating_sub(at.ticks))
    }

    fn whole(self) -> Duration {
        Duration::from_nanos(self.unit_nanos.saturating_mul(WINDOW))
    }
}

/// A log of admissions in groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    /// The unit of the newest admission.
    newest: u64,
    /// Of the full groups, the newest first: units from the last admission of each to `newest`.
    ages: [u16; GROUPS],
    /// Admissions of the group that `newest` belongs to; 0 before the first.
    filled: u16,
    /// Admissions since this history was given a place of its own, up to 255.
    own: u8,
}

// With its address's hash, a cache line.
const _: () = assert!(size_of::<History>() == 56);

impl History {
    pub(super) const EMPTY: Self = Self { newest: 0, ages: [NEVER; GROUPS], filled: 0, own: 0 };

    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    pub(super) fn own(&self) -> u8 {
        self.own
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether nothing in it matters to a request at `unit`, nor to one that is late.
    pub(super) fn expired(&self, unit: u64) -> bool {
        self.is_empty() || unit.saturating_sub(self.newest) >= KEPT
    }

    /// Admits and counts, or refuses and does not.
    pub(super) fn admit(&mut self, scale: Scale, at: At) -> Verdict {
        let asked = self.verdict(scale, at);
        if !asked.admitted {
            return asked;
        }
        self.own = if self.expired(at.judged) { 1 } else { self.own.saturating_add(1) };
        self.log(scale, at, at.logged, 1);
        Verdict { admitted: true, retry_after: asked.retry_after, ..self.verdict(scale, at) }
    }

    /// Counts admissions that were counted elsewhere, as of `unit`, for a request at `at`.
    pub(super) fn recall(&mut self, scale: Scale, at: At, unit: u64, admissions: isize) {
        // As many as the limit refuse as long as more would.
        let admissions = u16::try_from(admissions).unwrap_or(u16::MAX).min(scale.count);
        if admissions > 0 {
            self.log(scale, at, unit, admissions);
        }
    }

    fn log(&mut self, scale: Scale, at: At, unit: u64, mut admissions: u16) {
        // A group that has left the window is closed, or the next admission would bring it back. Full or
        // not, a late thread sees it as full.
        let mut closed = self.filled > 0 && self.newest + WINDOW <= at.judged;
        let passed = unit.saturating_sub(self.newest);
        let mut age = u16::try_from(passed).unwrap_or(NEVER);
        if passed > 0 {
            self.newest = unit;
            self.ages.iter_mut().for_each(|a| *a = a.saturating_add(age));
        }
        while admissions > 0 {
            if closed || self.filled >= scale.group {
                self.ages.copy_within(..GROUPS - 1, 1);
                let [newest, ..] = &mut self.ages;
                *newest = age;
                self.filled = 0;
            }
            let fits = (scale.group - self.filled).min(admissions);
            self.filled += fits;
            admissions -= fits;
            (age, closed) = (0, false);
        }
    }

    /// What the limit says to one request more. Charges nothing.
    pub(super) fn verdict(&self, scale: Scale, at: At) -> Verdict {
        // Groups younger than this are inside the window.
        let left_at = (self.newest + WINDOW).saturating_sub(at.judged);
        let Ok(left_at) = u16::try_from(left_at) else {
            return scale.forgotten(self.newest + WINDOW - u64::from(NEVER), at);
        };
        let full: u16 = self.ages.iter().map(|age| u16::from(*age < left_at)).sum();
        let filled = if left_at > 0 { self.filled } else { 0 };
        let (count, group) = (u32::from(scale.count), u32::from(scale.group));
        let used = u32::from(full) * group + u32::from(filled);
        let leaves = |age: u16| scale.until(self.newest + WINDOW - u64::from(age), at);
        // Of the full groups, the oldest leaves first; last of all leaves what was filled.
        let nth_leaves = |n: u32| {
            let behind = usize::from(full).checked_sub(n as usize);
            leaves(behind.and_then(|age| self.ages.get(age)).copied().unwrap_or(0))
        };
        Verdict {
            admitted: used < count,
            limit: count,
            remaining: count.saturating_sub(used),
            next_after: if used > 0 { nth_leaves(1) } else { Duration::ZERO },
            reset_after: if used > 0 { leaves(0) } else { Duration::ZERO },
            retry_after: match used.checked_sub(count) {
                None => Duration::ZERO,
                Some(_) if count == 0 => scale.whole(),
                Some(above) => nth_leaves(above / group + 1),
            },
        }
    }
}
