//! What happens beside the requests, for as long as a configuration is in force: names are resolved, backends
//! are asked how they are and tried again while they are out, idle connections end in time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::axon::choose::mix;
use crate::axon::condition::State;
use crate::axon::probe;
use crate::axon::resolve::{Lookups, Resolver};
use crate::axon::{Backend, Upstream};
use crate::clock::Clock;
use crate::request::correlation::IdSource;
use crate::snapshot::settings::Host;

/// How often a backend is looked at that is out or in doubt, give or take a fifth.
const PACE: Duration = Duration::from_millis(250);
/// Within which backends are looked at first.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// The outside world that watching needs.
#[derive(Clone)]
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub resolver: Arc<dyn Resolver>,
    /// Random, so that many gateways that start together do not ask together.
    pub ids: Arc<dyn IdSource>,
}

/// Watches every upstream until the future is dropped.
pub async fn watch(upstreams: Vec<Arc<Upstream>>, world: World) {
    let mut tasks = JoinSet::new();
    for upstream in &upstreams {
        for place in 0..upstream.endpoints().len() {
            tasks.spawn(resolve(Arc::downgrade(upstream), place, world.clone()));
        }
        tasks.spawn(tend_all(Arc::downgrade(upstream), world.clone()));
    }
    drop(upstreams);
    while tasks.join_next().await.is_some() {}
}

/// Keeps the addresses of one endpoint true, if it is a name.
async fn resolve(upstream: Weak<Upstream>, place: usize, world: World) {
    let Some(mut lookups) = upstream.upgrade().and_then(|upstream| {
        let endpoint = &upstream.endpoints().get(place)?.endpoint;
        match &endpoint.host {
            Host::Address(_) => None,
            Host::Name(name) => Some(Lookups::new(world.resolver.clone(), name, endpoint.port)),
        }
    }) else {
        return;
    };
    let mut failing = false;
    loop {
        let found = lookups.next().await;
        let Some(upstream) = upstream.upgrade() else { return };
        let Some(place) = upstream.endpoints().get(place) else { return };
        match found {
            Ok(addresses) => {
                if std::mem::take(&mut failing) {
                    log::info!("{} is resolved again", place.label());
                }
                upstream.resolved(place, &addresses, world.clock.now().ticks);
            }
            Err(why) => {
                upstream.unresolved();
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("cannot resolve {}, what is known of it stays in use: {why}", place.label());
                }
            }
        }
        let pause = upstream.settings.resolve.mul_f64(0.8 + 0.4 * fraction(&world));
        drop(upstream);
        sleep(pause).await;
    }
}

/// Looks after every backend that the upstream has at a time.
async fn tend_all(upstream: Weak<Upstream>, world: World) {
    let mut tasks = JoinSet::new();
    let mut tended: Vec<(Arc<Backend>, AbortHandle)> = Vec::new();
    loop {
        let Some(backends) = upstream.upgrade().map(|upstream| {
            upstream.show_budget(world.clock.now().ticks);
            upstream.backends()
        }) else {
            return;
        };
        let is_here = |backend: &Arc<Backend>| backends.members().iter().any(|m| Arc::ptr_eq(&m.backend, backend));
        tended.retain(|(backend, task)| {
            let here = is_here(backend);
            if !here {
                task.abort();
            }
            here
        });
        for member in backends.members() {
            if !tended.iter().any(|(backend, _)| Arc::ptr_eq(backend, &member.backend)) {
                let task = tasks.spawn(tend(upstream.clone(), member.backend.clone(), world.clone()));
                tended.push((member.backend.clone(), task));
            }
        }
        drop(backends);
        sleep(PACE).await;
        while tasks.try_join_next().is_some() {}
    }
}

/// Looks after one backend: asks how it is where that is configured, tries it again while it is out, and
/// closes connections that were idle for too long.
///
/// A backend that is out, or about to be, is looked at every quarter of a second, so that it is back soon
/// after it is mended.
async fn tend(upstream: Weak<Upstream>, backend: Arc<Backend>, world: World) {
    sleep(FIRST_LOOK.mul_f64(fraction(&world))).await;
    let mut due = Instant::now();
    let mut first = true;
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        let bounds = upstream.bounds();
        let now = world.clock.now().ticks;
        backend.pool().tend(bounds, now);
        backend.show_state();
        let mut pace = PACE;
        match &upstream.settings.health {
            Some(health) => {
                // Requests wait, and nothing was heard for much longer than answers take.
                let usual = Duration::from_micros(backend.latency_micros().into());
                let suspected = backend.silent_for(now) > PACE.max(usual.saturating_mul(8));
                if Instant::now() >= due || suspected || backend.condition().is_in_doubt() {
                    let seen = probe::ask(&backend, health, bounds, now).await;
                    upstream.checked(&backend, health, &seen, suspected, world.clock.now().ticks);
                    due = Instant::now() + health.interval.mul_f64(0.8 + 0.4 * fraction(&world));
                }
                pace = pace.min(health.interval);
            }
            None if first || matches!(backend.condition().state(), State::Unreachable | State::Unhealthy) => {
                let before = backend.condition().state();
                let seen = probe::look(&backend, bounds, now).await;
                // What a request found out meanwhile is newer.
                if backend.condition().state() == before {
                    upstream.looked_at(&backend, &seen, world.clock.now().ticks);
                }
            }
            None => {}
        }
        first = false;
        drop(upstream);
        sleep(pace.mul_f64(0.8 + 0.4 * fraction(&world))).await;
    }
}

/// From 0 to 1.
fn fraction(world: &World) -> f64 {
    let random = mix(world.ids.fresh(world.clock.now()).as_u128() as u64) >> 32;
    random as f64 / f64::from(u32::MAX)
}
