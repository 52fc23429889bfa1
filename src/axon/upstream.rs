//! Axon as a request sees it: its backends and how to ask them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use http::Uri;

use crate::auth::Signer;
use crate::axon::dial::{Dialers, Fault};
use crate::axon::pool::Bounds;
use crate::axon::{Backend, BackendMetrics};
use crate::clock::Clock;
use crate::snapshot::settings;

/// How often backends that could not be connected to are tried again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The upstream of one configuration. Backends are shared with its predecessor where they stayed.
pub struct Upstream {
    pub backends: Vec<Arc<Backend>>,
    pub settings: settings::Upstream,
    pub signer: Option<Signer>,
    /// `request.path`, parsed once.
    pub target: Uri,
}

impl Upstream {
    /// Builds the upstream, adopting the predecessor's backends with their connections.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn build(
        settings: &settings::Upstream,
        predecessor: Option<&Upstream>,
        clock: &Arc<dyn Clock>,
        metrics: &dyn Fn(&str) -> BackendMetrics,
    ) -> Result<Self, String> {
        let dialers = Dialers::new(settings, clock)?;
        let known: HashMap<(SocketAddr, &str), &Arc<Backend>> =
            predecessor.map(|p| p.backends.iter().map(|b| ((b.address(), b.label()), b)).collect()).unwrap_or_default();
        let backends = settings.endpoints.iter().map(|endpoint| {
            let (label, dialer) = (&endpoint.authority, dialers.of(endpoint.secure.as_ref())?);
            // Connections that were made under other certificates or names are not taken over.
            let known = known.get(&(endpoint.address, label.as_str()));
            match known.filter(|backend| *backend.pool().dialer() == dialer) {
                Some(backend) => Ok(Arc::clone(backend)),
                None => Backend::new(endpoint.address, label, dialer, metrics(label)),
            }
        });
        let signer = settings.sign.as_ref().map(|sign| {
            let credentials = &sign.credentials;
            Signer::new(
                &credentials.access_key_id,
                &credentials.secret_access_key,
                credentials.session_token.as_ref(),
                &sign.region,
                &sign.service,
            )
        });
        let target = settings.request.path.parse().map_err(|e| format!("`upstreams.request.path`: {e}"))?;
        let backends = backends.collect::<Result<_, String>>()?;
        Ok(Self { backends, signer, target, settings: settings.clone() })
    }

    /// Whether any backend could be connected to when last tried.
    pub fn any_reachable(&self) -> bool {
        self.backends.iter().any(|backend| backend.reachable())
    }

    /// What its pools may hold.
    pub fn bounds(&self) -> Bounds {
        let timeouts = self.settings.timeouts;
        Bounds { keepalive: self.settings.keepalive as usize, connect: timeouts.connect, idle: timeouts.idle }
    }

    /// Keeps reachability true and idle connections young, for as long as the upstream lives: every
    /// backend is tried once at the start, so that `/health` knows, then those that failed, every second.
    pub async fn watch(this: Weak<Upstream>, clock: Arc<dyn Clock>) {
        let mut first = true;
        loop {
            let Some(upstream) = this.upgrade() else { return };
            let timeouts = upstream.settings.timeouts;
            let probes = upstream.backends.iter().map(|backend| async {
                backend.pool().close_older_than(timeouts.idle, clock.now().ticks);
                if first || !backend.reachable() {
                    let opening = backend.pool().open(backend.address(), upstream.bounds());
                    match tokio::time::timeout(timeouts.connect, opening).await {
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
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }
}

/// Notes how a connect went and logs a change.
pub fn note_reachable(backend: &Backend, reachable: bool, why: &str) {
    if backend.set_reachable(reachable) {
        let state = if reachable { "reachable" } else { "unreachable" };
        log::warn!("backend {} is {state}: {why}", backend.label());
    }
}
