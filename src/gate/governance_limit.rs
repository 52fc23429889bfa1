//! Governance calls of one principal. It denies as governance itself would, so that callers need one branch.

use std::convert::Infallible;
use std::sync::Arc;

use ahash::AHashMap;

use crate::gate::{Book, DeskGate, DeskScene, Refusal, Standing, Stood};
use crate::limit::{Rate, Window};
use crate::snapshot::settings::{GovernanceKey, GovernanceLimit, Mode, Settings};

const NAME: &str = "governance";
/// The contract's words for a spent allowance.
pub const SPENT: &str = "Rate limit exceeded";

struct GovernanceCalls {
    rate: Rate,
    shadow: bool,
    /// One window per principal; the keys file bounds how many there are.
    counters: AHashMap<String, Arc<Window>>,
}

/// Built from `limits.governance`.
pub(super) fn build(settings: &Settings, book: &mut Book) -> Result<Option<Box<dyn DeskGate>>, String> {
    let Some(GovernanceLimit { rate, key: GovernanceKey::Principal, mode }) = settings.limits.governance else {
        return Ok(None);
    };
    let rate = Rate { count: rate.count, per: rate.per };
    let mut counters = AHashMap::new();
    for key in &settings.keys {
        if !counters.contains_key(&key.principal) {
            let name = format!("{NAME} {}", key.principal);
            let Ok(counter) = book.keep(name, &rate, || Ok::<_, Infallible>(Window::new(rate)));
            counters.insert(key.principal.clone(), counter);
        }
    }
    Ok(Some(Box::new(GovernanceCalls { rate, shadow: mode == Mode::Shadow, counters })))
}

impl DeskGate for GovernanceCalls {
    fn check(&self, scene: &DeskScene<'_>, standing: &mut Standing) -> Result<(), Refusal> {
        // Every principal of the keyring has a window; one without would be a fault, so it is refused.
        let counter = self.counters.get(&**scene.caller.principal()).ok_or(Refusal::Denied(SPENT))?;
        let verdict = counter.admit(scene.now);
        if standing.note(Stood { limit: NAME, rate: self.rate, verdict, shadow: self.shadow }) {
            return Err(Refusal::Denied(SPENT));
        }
        Ok(())
    }
}
