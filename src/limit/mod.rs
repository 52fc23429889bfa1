//! How many requests, per window and at once: the arithmetic of limits, free of HTTP and of configuration.
//!
//! Invariants:
//! - A window slides. In no interval of its length, open at the start and closed at the end, are there
//!   more admissions than its count, whichever threads asked, by the moments they passed in.
//! - A refused request costs nothing from the limit that refused it.
//! - Time is passed in. A moment older than one that another thread passed in before is judged as what
//!   it is; where the past it needs is forgotten, the request is refused.
//! - Memory has a bound that does not depend on how many addresses there are.

mod address;
mod capacity;
mod history;
mod keyed;
mod overflow;
#[cfg(test)]
mod population;
mod window;

use std::time::Duration;

pub use address::AddressKey;
pub use capacity::{Capacity, Permit};
pub use keyed::{CAPACITY_DEFAULT, CAPACITY_MAX, Keyed, KeyedError};
pub use window::{Window, admit_all};

/// So many requests in any interval of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests; 0 refuses all.
    pub count: u32,
    /// Length of the window; counted in nanoseconds, at least one.
    pub per: Duration,
}

impl Rate {
    /// The length in nanoseconds of [`Moment::ticks`](crate::clock::Moment::ticks), at most 584 years.
    fn per_nanos(self) -> u64 {
        u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

/// What a limit says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request may pass. An admission has been charged, a refusal and a peek have not.
    pub admitted: bool,
    /// The limit's count.
    pub limit: u32,
    /// Requests that would be admitted at this moment, this one already subtracted if it was charged.
    pub remaining: u32,
    /// Until `remaining` grows; zero when nothing is used. This is `t` of the `RateLimit` field, "the
    /// number of seconds until additional quota associated with the quota policy is made available"
    /// (draft-ietf-httpapi-ratelimit-headers-10).
    pub next_after: Duration,
    /// Until the window is wholly free, if nothing else is admitted. Added to the wall clock this is
    /// `X-RateLimit-Reset`: who waits for it has the whole limit, as users of fixed windows expect.
    pub reset_after: Duration,
    /// When refused, until this request would be admitted; zero when admitted. The whole window when the
    /// count is 0.
    pub retry_after: Duration,
}

impl Verdict {
    /// Of two limits that apply to one request, the one to tell the client about: a refusal before an
    /// admission, the longer wait of two refusals, the smaller remainder of two admissions.
    pub fn tighter(self, other: Verdict) -> Verdict {
        let other_is_tighter = match (self.admitted, other.admitted) {
            (true, false) => true,
            (false, true) => false,
            (false, false) => other.retry_after > self.retry_after,
            (true, true) => other.remaining < self.remaining,
        };
        if other_is_tighter { other } else { self }
    }
}

/// The most of these moments that lie in one interval of length `per`, open at one end.
#[cfg(test)]
fn most_in_any_interval(mut moments: Vec<u64>, per: u64) -> usize {
    moments.sort_unstable();
    let ends = moments.iter().enumerate();
    ends.map(|(n, end)| n + 1 - moments.partition_point(|m| m + per <= *end)).max().unwrap_or(0)
}
