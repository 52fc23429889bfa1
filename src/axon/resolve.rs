//! Names to addresses, in the background: a request never waits for a name server.
//!
//! Invariant: what was known stays in use until something better is known. A lookup that fails, takes too
//! long or finds nothing changes no address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::snapshot::settings::{Host, Upstream};

/// How long a lookup may take before it counts as failed.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// Where addresses come from; a test brings its own.
pub trait Resolver: Send + Sync {
    /// All addresses of a name, each with `port`, in any order.
    fn resolve(&self, name: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver (`getaddrinfo`): `/etc/hosts`, `/etc/resolv.conf` and all. It does not tell how
/// long an answer is good for, so names are asked for at an interval.
pub struct SystemResolver;

impl SystemResolver {
    /// The resolver that production uses.
    pub fn shared() -> Arc<dyn Resolver> {
        Arc::new(Self)
    }
}

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let name = name.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
    }
}

/// The lookups of one name, one at a time: one that hangs is waited for again, not joined by a second.
pub struct Lookups {
    resolver: Arc<dyn Resolver>,
    name: String,
    port: u16,
    patience: Duration,
    running: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Lookups {
    pub fn new(resolver: Arc<dyn Resolver>, name: &str, port: u16) -> Self {
        Self { resolver, name: name.to_owned(), port, patience: LOOKUP_TIME_MAX, running: None }
    }

    /// The addresses of this moment: sorted, none twice, at least one.
    ///
    /// # Errors
    /// Why there are none, for the log.
    pub async fn next(&mut self) -> Result<Vec<SocketAddr>, String> {
        let (resolver, name, port) = (&self.resolver, &self.name, self.port);
        let running = self.running.get_or_insert_with(|| tokio::spawn(resolver.resolve(name, port)));
        let Ok(found) = timeout(self.patience, &mut *running).await else {
            return Err(format!("no answer in {:?}", self.patience));
        };
        self.running = None;
        let mut addresses = found.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
    }
}

/// One line for each endpoint whose name cannot be resolved at this moment.
pub async fn unresolved(upstreams: &[Upstream], resolver: &Arc<dyn Resolver>) -> Vec<String> {
    let mut lines = Vec::new();
    for endpoint in upstreams.iter().flat_map(|upstream| &upstream.endpoints) {
        if let Host::Name(name) = &endpoint.host
            && let Err(why) = Lookups::new(resolver.clone(), name, endpoint.port).next().await
        {
            lines.push(format!("endpoint `{}` cannot be resolved: {why}", endpoint.authority));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    /// Answers when it is told to.
    struct Slow {
        questions: AtomicUsize,
        told: Arc<Notify>,
    }

    impl Resolver for Slow {
        fn resolve(&self, _: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            self.questions.fetch_add(1, Ordering::SeqCst);
            let told = self.told.clone();
            Box::pin(async move {
                told.notified().await;
                let address = |last| SocketAddr::from(([127, 0, 0, last], port));
                Ok(vec![address(2), address(1), address(2)])
            })
        }
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_is_waited_for_again_and_no_second_one_begins() {
        let slow = Arc::new(Slow { questions: AtomicUsize::new(0), told: Arc::default() });
        let patience = Duration::from_millis(1);
        let mut lookups = Lookups { patience, ..Lookups::new(slow.clone(), "axon", 80) };
        assert_eq!(lookups.next().await, Err("no answer in 1ms".to_owned()));
        lookups.patience = LOOKUP_TIME_MAX;
        slow.told.notify_one();
        let found = lookups.next().await.expect("addresses");
        assert_eq!(found, ["127.0.0.1:80".parse().expect("one"), "127.0.0.2:80".parse().expect("another")]);
        assert_eq!(slow.questions.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_system_knows_localhost_and_not_what_is_invalid() {
        let found = Lookups::new(SystemResolver::shared(), "localhost", 80).next().await.expect("addresses");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
        // RFC 6761, section 6.4.
        assert!(Lookups::new(SystemResolver::shared(), "axon.invalid", 80).next().await.is_err());
    }
}
