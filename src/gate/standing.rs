//! Where a request stands with what it passed: what the rate-limit headers tell, and a doubt about its signature.

use arrayvec::ArrayVec;
use std::time::Duration;

use crate::auth::replay::{Doubt, Mode};
use crate::limit::{Rate, Verdict};

/// Limits that can apply to one request; a further one would not be told.
const LIMITS_MAX: usize = 4;

/// One limit that applied.
#[derive(Debug, Clone, Copy)]
pub struct Stood {
    /// `per_ip`, `global` or `governance`.
    pub limit: &'static str,
    pub rate: Rate,
    pub verdict: Verdict,
    /// Whether the limit only reports what it would have refused.
    pub shadow: bool,
}

/// The limits that applied so far, in order.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    limits: ArrayVec<Stood, LIMITS_MAX>,
    /// What spoke against this being the signature's first use, and whether that refused it.
    pub doubt: Option<(Mode, Doubt)>,
}

impl Standing {
    /// Notes a verdict; says whether it refuses.
    pub fn note(&mut self, stood: Stood) -> bool {
        let _ = self.limits.try_push(stood);
        !stood.verdict.admitted && !stood.shadow
    }

    /// All limits that applied.
    pub fn limits(&self) -> &[Stood] {
        &self.limits
    }

    /// The limit that the `X-RateLimit-*` headers describe: the one that answered 429, else the global one.
    /// The governance limit answers 403, so it never is the one.
    pub fn headline(&self) -> Option<&Stood> {
        let refused = self.limits.iter().find(|s| !s.verdict.admitted && !s.shadow && s.limit != "governance");
        refused.or_else(|| self.limits.iter().find(|s| s.limit == "global"))
    }
}

/// Whole seconds, rounded up, so that who waits that long is not refused again.
pub fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
