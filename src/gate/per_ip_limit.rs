//! Requests per client address. The first check of all: strangers spend only their own allowance.

use std::sync::Arc;

use crate::error::{Code, Details, Rejection};
use crate::gate::standing::seconds_up;
use crate::gate::{Book, DoorGate, DoorScene, Refusal, Standing, Stood};
use crate::limit::{AddressKey, Keyed, Rate};
use crate::snapshot::settings::{Mode, PerIpLimit, Settings};

const NAME: &str = "per_ip";

struct PerIp {
    rate: Rate,
    shadow: bool,
    ipv6_prefix: u8,
    counter: Arc<Keyed>,
}

/// Built from `limits.per_ip`.
pub(super) fn build(settings: &Settings, book: &mut Book) -> Result<Option<Box<dyn DoorGate>>, String> {
    let Some(PerIpLimit { rate, ipv6_prefix, mode }) = settings.limits.per_ip else { return Ok(None) };
    let rate = Rate { count: rate.count, per: rate.per };
    let seed = book.seed();
    let counter = book
        .keep(NAME.to_owned(), &(rate, ipv6_prefix), || Keyed::new(rate, seed))
        .map_err(|e| format!("`limits.per_ip`: {e}"))?;
    Ok(Some(Box::new(PerIp { rate, shadow: mode == Mode::Shadow, ipv6_prefix, counter })))
}

impl DoorGate for PerIp {
    fn check(&self, scene: &DoorScene<'_>, standing: &mut Standing) -> Result<(), Refusal> {
        let verdict = self.counter.admit(AddressKey::of(scene.client, self.ipv6_prefix), scene.now);
        if standing.note(Stood { limit: NAME, rate: self.rate, verdict, shadow: self.shadow }) {
            return Err(too_many(NAME, seconds_up(verdict.retry_after)).into());
        }
        Ok(())
    }
}

/// `429` that names the limit.
pub(super) fn too_many(limit: &'static str, retry_after: u64) -> Rejection {
    Rejection {
        details: Details::Limit(limit),
        retry_after: Some(retry_after.max(1)),
        ..Rejection::new(Code::RateLimitExceeded, limit)
    }
}
