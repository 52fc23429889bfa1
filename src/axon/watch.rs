//! What happens beside the requests, for as long as a configuration is in force: names are resolved,
//! backends that could not be connected to are tried again, idle connections end in time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::axon::choose::mix;
use crate::axon::dial::Fault;
use crate::axon::resolve::{Lookups, Resolver};
use crate::axon::{Backend, Upstream};
use crate::clock::Clock;
use crate::request::correlation::IdSource;
use crate::snapshot::settings::Host;

/// How often backends that could not be connected to are tried again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

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
        tasks.spawn(probe(Arc::downgrade(upstream), world.clone()));
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
                upstream.resolved(place, &addresses);
            }
            Err(why) => {
                upstream.unresolved();
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("cannot resolve {}, what is known of it stays in use: {why}", place.label());
                }
            }
        }
        let pause = jittered(upstream.settings.resolve, &world);
        drop(upstream);
        sleep(pause).await;
    }
}

/// Keeps reachability true and idle connections young: every backend is tried once at the start, so that
/// `/health` knows, then those that failed, every second.
async fn probe(upstream: Weak<Upstream>, world: World) {
    let mut first = true;
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        let bounds = upstream.bounds();
        let backends = upstream.backends();
        let probes = backends.members().iter().map(|member| async {
            let backend = &*member.backend;
            backend.pool().close_older_than(bounds.idle, world.clock.now().ticks);
            if first || !backend.reachable() {
                match timeout(bounds.connect, backend.pool().open(backend.address(), bounds)).await {
                    Ok(Ok(_)) => note_reachable(backend, true, "connected"),
                    Ok(Err(e)) => match e.fault {
                        Fault::Ours => log::error!("cannot probe {}: {}", backend.label(), e.why),
                        Fault::Theirs => note_reachable(backend, false, &format!("probe failed: {}", e.why)),
                    },
                    Err(_) => note_reachable(backend, false, "probe timed out"),
                }
            }
        });
        join_all(probes).await;
        first = false;
        drop(upstream);
        sleep(PROBE_EVERY).await;
    }
}

/// Between four and six fifths of `interval`.
fn jittered(interval: Duration, world: &World) -> Duration {
    let random = mix(world.ids.fresh(world.clock.now()).as_u128() as u64) >> 32;
    interval.mul_f64(0.8 + 0.4 * random as f64 / f64::from(u32::MAX))
}

/// Notes how a connect went and logs a change.
pub fn note_reachable(backend: &Backend, reachable: bool, why: &str) {
    if backend.set_reachable(reachable) {
        let state = if reachable { "reachable" } else { "unreachable" };
        log::warn!("backend {} is {state}: {why}", backend.label());
    }
}
