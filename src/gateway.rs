//! The assembly: wires the parts, binds, starts, reloads, drains, stops. Production and tests start this same one.
//!
//! Pingora's `Server::run` sleeps instead of draining, ends requests in flight, and dies on SIGHUP, so its
//! listening service is driven here, over sockets that are bound here.

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::listeners::ListenerConfig;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::{Fds, ListenFds};
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::task::TaskTracker;

use crate::aws::Aws;
use crate::axon::{self, Meter, Resolver, World};
use crate::clock::Clock;
use crate::config::{Environment, Problems};
use crate::edge::Edge;
use crate::local::VERSION;
use crate::observation::Observation;
use crate::proxy::Proxy;
use crate::request::correlation::IdSource;
use crate::rotation;
use crate::signing;
use crate::snapshot::settings::{Fetched, Loaded, LogFormat, Settings};
use crate::snapshot::{Ingredients, Snapshot};
use crate::telemetry::{LineFormat, Metrics, Sink, Telemetry};

/// Connections that may wait to be accepted, per listener.
const BACKLOG: u32 = 4096;

/// How far the way down an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Ready no more, still accepting: balancers need time to notice.
    Draining,
    /// Listeners closed; what is in flight is finished.
    Closing,
}

/// What all parts of one running gateway share.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    phase: AtomicU8,
    pub telemetry: Telemetry,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// Open connections, waited for when draining.
    pub connections: TaskTracker,
}

impl Gateway {
    /// The configuration of this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Closing,
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        self.telemetry.metrics.text(self.telemetry.sink.dropped())
    }

    /// Tells a finished request to metrics and log.
    pub fn observe(&self, observation: &Observation<'_>, snapshot: &Snapshot) {
        let logs = snapshot.settings.observability.logs;
        let format = match logs.format {
            LogFormat::Text => LineFormat::Text,
            LogFormat::Json => LineFormat::Json,
        };
        self.telemetry.observe(observation, logs.requests.then_some((format, logs.level.filter())));
    }
}

/// An environment that several threads look at.
pub type SharedEnvironment = Arc<dyn Environment + Send + Sync>;

/// What a gateway is made from; the outside world is passed in.
pub struct Parts {
    /// The configuration file, read again on reload.
    pub config: PathBuf,
    pub environment: SharedEnvironment,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub resolver: Arc<dyn Resolver>,
    /// Random bits for keyed hashes.
    pub seed: u64,
    pub sink: Sink,
}

/// A running gateway.
pub struct Orbit {
    running: Arc<Running>,
    addresses: Vec<SocketAddr>,
    closing: watch::Sender<bool>,
    service: Mutex<Option<JoinHandle<()>>>,
    rotation: JoinHandle<()>,
}

/// What a reload needs, whoever asks for it.
pub(crate) struct Running {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) parts: Parts,
    pub(crate) world: signing::World,
    /// Replace the credentials that requests are signed with.
    keepers: Mutex<JoinSet<()>>,
    /// What the process started with, secrets and policies left out: a change that needs a restart is
    /// told at every reload until it is restarted or taken back.
    started: Settings,
    watcher: Mutex<JoinHandle<()>>,
    /// One reload at a time; it holds what the configuration in force was made from that is no file.
    pub(crate) reloading: tokio::sync::Mutex<Fetched>,
    /// How often that was replaced.
    pub(crate) replaced: AtomicU64,
}

/// Why a gateway did not start, or kept its old configuration.
#[derive(Debug)]
pub enum Refused {
    /// Problems of the files, each with its place.
    Configuration(Problems),
    /// Complaints of the parts, one line each.
    Parts(Vec<String>),
    /// A listener could not be bound.
    Bind(SocketAddr, std::io::Error),
    /// Anything else that the operating system refused.
    System(String),
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The files are what they were.
    Unchanged { generation: u64 },
    /// New requests see the new configuration; `restart` names changes that need a restart.
    Accepted { generation: u64, restart: Vec<&'static str> },
}

impl Orbit {
    /// Reads the configuration, binds its listeners and serves, on the current tokio runtime.
    ///
    /// # Errors
    /// [`Refused`]; nothing is left running.
    pub async fn start(parts: Parts) -> Result<Self, Refused> {
        let began = parts.clock.now();
        let aws = Aws::new(&*parts.environment, parts.clock.clone());
        let (loaded, fetched) = rotation::read(&parts.config, &parts.environment, &aws).await?;
        warn_all(&loaded);
        let mut started = loaded.settings.clone();
        (started.keys, started.policies, started.upstreams) = (Vec::new(), Vec::new(), Vec::new());
        let metrics = Arc::new(Metrics::new(VERSION).map_err(|e| Refused::System(e.to_string()))?);
        let meter: Arc<dyn Meter> = metrics.clone();
        let credentials = signing::acquire(&aws, &loaded.settings, None).await?;
        let ingredients = Ingredients {
            predecessor: None,
            credentials: &credentials,
            meter: &meter,
            clock: &parts.clock,
            seed: parts.seed,
        };
        let snapshot = Arc::new(Snapshot::build(loaded, &ingredients).map_err(Refused::Parts)?);
        metrics.started(snapshot.generation);
        metrics.keys(snapshot.key_uses());

        let mut sockets = Vec::new();
        for address in &snapshot.settings.listen.addresses {
            sockets.push(bind(*address).map_err(|e| Refused::Bind(*address, e))?);
        }
        let addresses: Result<Vec<SocketAddr>, _> = sockets.iter().map(|s| s.local_addr()).collect();
        let addresses = addresses.map_err(|e| Refused::System(e.to_string()))?;

        let watcher = watch_upstreams(&snapshot, &parts);
        let gateway = Arc::new(Gateway {
            snapshot: ArcSwap::new(snapshot),
            phase: AtomicU8::new(Phase::Serving as u8),
            telemetry: Telemetry { metrics, sink: parts.sink.clone() },
            clock: parts.clock.clone(),
            ids: parts.ids.clone(),
            connections: TaskTracker::new(),
        });
        let (closing, service) = serve(&gateway, sockets, &addresses);
        let world = signing::World {
            aws,
            clock: parts.clock.clone(),
            metrics: gateway.telemetry.metrics.clone(),
            seed: parts.seed,
        };
        let mut keepers = JoinSet::new();
        signing::keep(&gateway.snapshot(), None, &world, &mut keepers);
        let running = Arc::new(Running {
            gateway,
            parts,
            world,
            keepers: Mutex::new(keepers),
            started,
            watcher: Mutex::new(watcher),
            reloading: tokio::sync::Mutex::new(fetched),
            replaced: AtomicU64::new(0),
        });
        running.note_boot();
        let rotation = tokio::spawn(rotation::watch(running.clone(), began));
        Ok(Self { running, addresses, closing, service: Mutex::new(Some(service)), rotation })
    }

    /// The bound addresses, in the order of `listen.address`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The configuration in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.running.gateway.snapshot()
    }

    /// The metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        self.running.gateway.metrics_text()
    }

    /// Reads every file and fetches every managed secret again and, if all of it is right, swaps the
    /// configuration. A secret that was fetched before and cannot be now is what it was. Running requests keep
    /// their configuration; counters of unchanged limits, backends and idle connections survive.
    ///
    /// # Errors
    /// [`Refused`]; the old configuration goes on.
    pub async fn reload(&self) -> Result<Reloaded, Refused> {
        self.running.reload().await
    }

    /// Says 503 on `/health` but accepts for `drain.min`, then closes the listeners and finishes what is
    /// in flight, for `drain.max` in all. Returns whether everything was finished.
    pub async fn drain(&self) -> bool {
        let drain = self.snapshot().settings.drain;
        self.running.gateway.set_phase(Phase::Draining);
        tokio::time::sleep(drain.min).await;
        self.close(drain.max.saturating_sub(drain.min)).await
    }

    /// Closes the listeners and idle connections, and waits at most `patience` for the others.
    pub async fn close(&self, patience: std::time::Duration) -> bool {
        let gateway = &self.running.gateway;
        gateway.set_phase(Phase::Closing);
        self.closing.send_replace(true);
        gateway.connections.close();
        let service = self.service.lock().take();
        let finished = async {
            if let Some(service) = service {
                let _ = service.await;
            }
            gateway.connections.wait().await;
        };
        let finished = tokio::time::timeout(patience, finished).await.is_ok();
        self.end_tasks();
        finished
    }
}

impl Orbit {
    /// Ends what asks AWS in the background.
    fn end_tasks(&self) {
        self.rotation.abort();
        self.running.keepers.lock().abort_all();
    }
}

impl Running {
    /// Reads every file, with these fetched secrets, and swaps the configuration if all of it is right.
    ///
    /// # Errors
    /// [`Refused`]; the old configuration goes on.
    pub(crate) async fn swap(&self, fetched: &Fetched) -> Result<Reloaded, Refused> {
        let old = self.gateway.snapshot();
        let metrics = &self.gateway.telemetry.metrics;
        let built = match load(&self.parts.config, &self.parts.environment, fetched).await {
            Ok(loaded) if loaded.sha256 == old.sha256 => {
                metrics.reloaded("unchanged", old.generation);
                return Ok(Reloaded::Unchanged { generation: old.generation });
            }
            Ok(loaded) => {
                warn_all(&loaded);
                self.build(loaded, &old).await
            }
            Err(refused) => Err(refused),
        };
        let new = match built {
            Ok(new) => Arc::new(new),
            Err(refused) => {
                metrics.reloaded("refused", old.generation);
                return Err(refused);
            }
        };
        let generation = new.generation;
        let restart = self.started.diff_restart(&new.settings);
        let watcher = watch_upstreams(&new, &self.parts);
        std::mem::replace(&mut *self.watcher.lock(), watcher).abort();
        let kept = new.upstreams.labels();
        self.gateway.snapshot.store(new.clone());
        signing::keep(&new, Some(&old), &self.world, &mut self.keepers.lock());
        let gone = old.upstreams.labels().into_iter().filter(|label| !kept.contains(label));
        gone.for_each(|label| metrics.retire_backend(&label));
        let kept = |name: &str| new.upstreams.iter().any(|upstream| upstream.settings.name == name);
        let gone = old.upstreams.iter().map(|upstream| upstream.settings.name.as_str()).filter(|name| !kept(name));
        gone.for_each(|name| metrics.retire_upstream(name));
        metrics.keys(new.key_uses());
        metrics.reloaded("accepted", generation);
        Ok(Reloaded::Accepted { generation, restart })
    }
}

impl Running {
    async fn build(&self, loaded: Loaded, old: &Snapshot) -> Result<Snapshot, Refused> {
        let credentials = signing::acquire(&self.world.aws, &loaded.settings, Some(old)).await?;
        let meter: Arc<dyn Meter> = self.gateway.telemetry.metrics.clone();
        let ingredients = Ingredients {
            predecessor: Some(old),
            credentials: &credentials,
            meter: &meter,
            clock: &self.parts.clock,
            seed: self.parts.seed,
        };
        Snapshot::build(loaded, &ingredients).map_err(Refused::Parts)
    }
}

impl Drop for Orbit {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        self.end_tasks();
        self.running.watcher.lock().abort();
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Configuration(problems) => problems.iter().try_for_each(|problem| writeln!(f, "{problem}")),
            Refused::Parts(lines) => f.write_str(&lines.join("\n")),
            Refused::Bind(address, e) => write!(f, "cannot listen on {address}: {e}"),
            Refused::System(e) => f.write_str(e),
        }
    }
}

/// Reads the configuration away from the threads that serve.
///
/// # Errors
/// [`Refused::Configuration`].
pub(crate) async fn load(config: &Path, environment: &SharedEnvironment, fetched: &Fetched) -> Result<Loaded, Refused> {
    let (config, environment, fetched) = (config.to_owned(), environment.clone(), fetched.clone());
    let read = tokio::task::spawn_blocking(move || Settings::load_with(&config, &*environment, &fetched));
    read.await.map_err(|e| Refused::System(e.to_string()))?.map_err(Refused::Configuration)
}

fn warn_all(loaded: &Loaded) {
    loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
}

fn watch_upstreams(snapshot: &Snapshot, parts: &Parts) -> JoinHandle<()> {
    let world = World { clock: parts.clock.clone(), resolver: parts.resolver.clone(), ids: parts.ids.clone() };
    tokio::spawn(axon::watch(snapshot.upstreams.iter().cloned().collect(), world))
}

fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Starts Pingora's listening service over the sockets.
fn serve(
    gateway: &Arc<Gateway>,
    sockets: Vec<std::net::TcpListener>,
    addresses: &[SocketAddr],
) -> (watch::Sender<bool>, JoinHandle<()>) {
    let proxy = Proxy::new(gateway.clone());
    let mut service = Service::new("orbit".to_owned(), Edge::new(gateway.clone(), proxy));
    let mut handed_over = Fds::new();
    for (socket, address) in sockets.into_iter().zip(addresses) {
        let name = address.to_string();
        // The edge brings its own buffers, for as long as it has something to put into them.
        service.add_listener(ListenerConfig::tcp(name.clone()).l4_buffer(L4BufferSettings::unbuffered()));
        handed_over.add(name, socket.into_raw_fd());
    }
    let handed_over: ListenFds = Arc::new(Mutex::new(handed_over));
    let (closing, seen) = watch::channel(false);
    let task = tokio::spawn(async move { service.start_service(Some(handed_over), seen, 1).await });
    (closing, task)
}
