//! Axon as a request sees it: its backends and how to ask them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use http::Uri;
use tokio::net::TcpStream;

use crate::auth::Signer;
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
        metrics: &dyn Fn(&str) -> BackendMetrics,
    ) -> Result<Self, String> {
        let known: HashMap<(SocketAddr, &str), &Arc<Backend>> =
            predecessor.map(|p| p.backends.iter().map(|b| ((b.address(), b.label()), b)).collect()).unwrap_or_default();
        let backends = settings.endpoints.iter().map(|endpoint| {
            match known.get(&(endpoint.address, endpoint.authority.as_str())) {
                Some(backend) => Ok(Arc::clone(backend)),
                None => Backend::new(endpoint.address, &endpoint.authority, metrics(&endpoint.authority)),
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

    /// Keeps reachability true and idle connections young, for as long as the upstream lives: every
    /// backend is tried once at the start, so that `/health` knows, then those that failed, every second.
    pub async fn watch(this: Weak<Upstream>, clock: Arc<dyn Clock>) {
        let mut first = true;
        loop {
            let Some(upstream) = this.upgrade() else { return };
            let timeouts = upstream.settings.timeouts;
            let probes = upstream.backends.iter().map(|backend| async {
                backend.close_older_than(timeouts.idle, clock.now().ticks);
                if first || !backend.reachable() {
                    match tokio::time::timeout(timeouts.connect, TcpStream::connect(backend.address())).await {
                        Ok(Ok(_)) => note_reachable(backend, true, "connected"),
                        Ok(Err(e)) if is_own_fault(&e) => log::error!("cannot probe {}: {e}", backend.label()),
                        Ok(Err(_)) | Err(_) => note_reachable(backend, false, "probe failed"),
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

/// Whether a connect failed for want of something on this machine, such as file descriptors or ports.
pub fn is_own_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    let told_by_the_network =
        [ConnectionRefused, ConnectionReset, ConnectionAborted, HostUnreachable, NetworkUnreachable, TimedOut];
    !told_by_the_network.contains(&error.kind())
}

/// Notes how a connect went and logs a change.
pub fn note_reachable(backend: &Backend, reachable: bool, why: &str) {
    if backend.set_reachable(reachable) {
        let state = if reachable { "reachable" } else { "unreachable" };
        log::warn!("backend {} is {state}: {why}", backend.label());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn only_the_network_speaks_of_a_backend() {
        // EMFILE and ENFILE have no kind of their own.
        for local in [Error::from_raw_os_error(24), Error::from_raw_os_error(23), ErrorKind::AddrNotAvailable.into()] {
            assert!(is_own_fault(&local), "{local}");
        }
        for remote in [ErrorKind::ConnectionRefused, ErrorKind::TimedOut, ErrorKind::HostUnreachable] {
            assert!(!is_own_fault(&remote.into()), "{remote}");
        }
    }
}
