//! Authenticated requests of everybody together.

use std::convert::Infallible;
use std::sync::Arc;

use crate::gate::per_ip_limit::too_many;
use crate::gate::standing::seconds_up;
use crate::gate::{Book, DeskGate, DeskScene, Refusal, Standing, Stood};
use crate::limit::{Rate, Window};
use crate::snapshot::settings::{GlobalLimit, Mode, Settings};

const NAME: &str = "global";

struct Global {
    rate: Rate,
    shadow: bool,
    counter: Arc<Window>,
}

/// Built from `limits.global`.
pub(super) fn build(settings: &Settings, book: &mut Book) -> Result<Option<Box<dyn DeskGate>>, String> {
    let Some(GlobalLimit { rate, mode }) = settings.limits.global else { return Ok(None) };
    let rate = Rate { count: rate.count, per: rate.per };
    let Ok(counter) = book.keep(NAME.to_owned(), &rate, || Ok::<_, Infallible>(Window::new(rate)));
    Ok(Some(Box::new(Global { rate, shadow: mode == Mode::Shadow, counter })))
}

impl DeskGate for Global {
    fn check(&self, scene: &DeskScene<'_>, standing: &mut Standing) -> Result<(), Refusal> {
        let verdict = self.counter.admit(scene.now);
        if standing.note(Stood { limit: NAME, rate: self.rate, verdict, shadow: self.shadow }) {
            return Err(too_many(NAME, seconds_up(verdict.retry_after)).into());
        }
        Ok(())
    }
}
