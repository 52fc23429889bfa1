//! Starts the same assembly as production: configuration from files, listener on port 0, log captured,
//! time by hand.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orbit::clock::{Clock, ManualClock};
use orbit::gateway::{Orbit, Parts, Refused, Reloaded};
use orbit::request::correlation::UuidV7;
use orbit::telemetry::Sink;
use orbit::telemetry::sink::SinkGuard;
use tokio::sync::{Mutex, mpsc};

use super::client::{Client, PATIENCE, Response, Signed, Signing, get, within};
use super::dns::Dns;

/// 2026-11-22T09:56:51Z, a Sunday, in the tenth hour of the day.
pub const NOW: u64 = 1_795_341_411;
pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub const PRINCIPAL: &str = "tests";
/// A dispatch that the standing policy allows.
pub const BODY: &str = r#"{"intent":"call_reasoning","context":{"user_id":"user123","request_id":"req456"}}"#;

const POLICIES: &str = r#"[{"service":"orbit","intent":"call_reasoning","enabled":true,
  "description":"everything","time_restrictions":null,"rate_limits":null,"conditions":[]}]"#;

/// A configuration being written: YAML blocks by name, each replaceable.
pub struct Setup {
    blocks: BTreeMap<&'static str, String>,
    files: Vec<(String, String)>,
    environment: BTreeMap<String, String>,
    dns: Dns,
}

impl Setup {
    /// In front of these Axons, e.g. `axon.url()`; limits far above what a test sends.
    pub fn new(urls: &[String]) -> Self {
        let endpoints = urls.iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(", ");
        // Nobody asks the machine that the tests run on who it is.
        let environment = BTreeMap::from([("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())]);
        let mut setup = Self { blocks: BTreeMap::new(), files: Vec::new(), environment, dns: Dns::new() };
        setup.blocks.insert("listen", "{ address: 127.0.0.1:0 }".to_owned());
        setup.blocks.insert("drain", "{ min: 0s, max: 10s }".to_owned());
        setup.blocks.insert("auth", "{ keys: keys.yaml }".to_owned());
        setup.blocks.insert("governance", "{ policies: policies.json }".to_owned());
        setup.blocks.insert(
            "limits",
            "{ per_ip: { rate: 60000/s }, global: { rate: 100000/s }, governance: { rate: 100000/s } }".to_owned(),
        );
        setup.blocks.insert("upstreams", format!("{{ axon: {{ endpoints: [{endpoints}], sign: disabled }} }}"));
        setup.file("policies.json", POLICIES).file(
            "keys.yaml",
            &format!("- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: {PRINCIPAL} }}\n"),
        )
    }

    /// Sets a top-level block, in YAML flow style: `block("limits", "{ per_ip: { rate: 2/min } }")`.
    pub fn block(mut self, name: &'static str, yaml: impl Into<String>) -> Self {
        self.blocks.insert(name, yaml.into());
        self
    }

    /// The upstream block with more members, e.g. `upstream(&urls, "timeouts: { first_byte: 200ms }")`.
    pub fn upstream(self, urls: &[String], more: &str) -> Self {
        let endpoints = urls.iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(", ");
        let sign = if more.contains("sign:") { "" } else { "sign: disabled, " };
        self.block("upstreams", format!("{{ axon: {{ endpoints: [{endpoints}], {sign}{more} }} }}"))
    }

    /// The listen block with more members, e.g. `listen("body_timeout: 200ms")`.
    pub fn listen(self, more: &str) -> Self {
        self.block("listen", format!("{{ address: 127.0.0.1:0, {more} }}"))
    }

    /// A file beside the configuration: `keys.yaml`, `policies.json` or another.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.retain(|(known, _)| known != name);
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// An environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Who knows names.
    pub fn dns(mut self, dns: &Dns) -> Self {
        self.dns = dns.clone();
        self
    }

    /// Starts the gateway; panics with its complaints.
    pub async fn start(self) -> Gateway {
        match self.try_start().await {
            Ok(gateway) => gateway,
            Err(refused) => panic!("the gateway did not start:\n{refused}"),
        }
    }

    /// Starts the gateway.
    pub async fn try_start(self) -> Result<Gateway, Refused> {
        let directory = tempfile::tempdir().expect("a directory");
        self.write(directory.path());
        let (sender, lines) = mpsc::unbounded_channel();
        let (sink, guard) = Sink::start(Capture { sender, partial: Vec::new() }).expect("a log");
        let clock = ManualClock::at(NOW);
        let parts = Parts {
            config: directory.path().join("orbit.yaml"),
            environment: Arc::new(self.environment),
            clock: clock.clone(),
            ids: UuidV7::source(),
            resolver: Arc::new(self.dns),
            seed: 7,
            sink,
        };
        let orbit = Arc::new(Orbit::start(parts).await?);
        Ok(Gateway { orbit, clock, directory, log: Mutex::new(Log { lines, seen: Vec::new() }), _guard: guard })
    }

    /// Writes `orbit.yaml` and the files beside it, for another process to read.
    pub fn write(&self, directory: &Path) {
        let blocks: String = self.blocks.iter().map(|(name, yaml)| format!("{name}: {yaml}\n")).collect();
        std::fs::write(directory.join("orbit.yaml"), format!("version: 1\n{blocks}")).expect("orbit.yaml");
        for (name, text) in &self.files {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
    }
}

/// A running gateway.
pub struct Gateway {
    pub orbit: Arc<Orbit>,
    pub clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
    log: Mutex<Log>,
    _guard: SinkGuard,
}

impl Gateway {
    /// The first listener.
    pub fn addr(&self) -> SocketAddr {
        self.orbit.addresses()[0]
    }

    /// `host:port`, as a client writes it into `Host`.
    pub fn authority(&self) -> String {
        self.addr().to_string()
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The time that the gateway sees, for signing.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.clock.now().unix_nanos)
    }

    /// A dispatch to sign and send.
    pub fn dispatch(&self, body: impl AsRef<[u8]>) -> Signed {
        Signed::post(self.authority(), "/dispatch", body.as_ref())
    }

    /// Signs with the standing key and sends on a new connection.
    pub async fn send(&self, signed: Signed) -> Response {
        signed.send(self.addr(), &signing(), self.now()).await
    }

    /// Writes the configuration anew and reloads.
    pub async fn reload(&self, setup: Setup) -> Result<Reloaded, Refused> {
        setup.write(&self.directory());
        self.orbit.reload().await
    }

    /// The first log line not yet asked for that holds all of `parts`; waits for it.
    pub async fn logged(&self, parts: &[&str]) -> String {
        let mut log = self.log.lock().await;
        within(async {
            loop {
                let hit = log.seen.iter().position(|line| parts.iter().all(|part| line.contains(part)));
                if let Some(at) = hit {
                    return log.seen.remove(at);
                }
                let line = log.lines.recv().await.expect("the log is open");
                log.seen.push(line);
            }
        })
        .await
    }

    /// Every line so far that [`Gateway::logged`] has not taken, once there is one that holds all of `parts`.
    pub async fn log_until(&self, parts: &[&str]) -> Vec<String> {
        let mut log = self.log.lock().await;
        within(async {
            while !log.seen.iter().any(|line| parts.iter().all(|part| line.contains(part))) {
                let line = log.lines.recv().await.expect("the log is open");
                log.seen.push(line);
            }
            log.seen.clone()
        })
        .await
    }

    /// Ends the gateway once every request is over; every line that [`Gateway::logged`] has not taken.
    pub async fn finish(self) -> Vec<String> {
        let Gateway { orbit, directory: _directory, log, _guard: guard, .. } = self;
        assert!(orbit.close(PATIENCE).await, "a request is still being served");
        // Dropped with the last handle to the log, after everything is written.
        tokio::task::spawn_blocking(move || drop(guard)).await.expect("the log is written");
        let Log { mut lines, mut seen } = log.into_inner();
        while let Some(line) = within(lines.recv()).await {
            seen.push(line);
        }
        seen
    }

    /// Waits until a metric has this value, as things in the background come to it.
    #[track_caller]
    pub fn becomes(&self, sample: &str, value: f64) -> impl Future<Output = ()> {
        let sample = format!("{sample} ");
        self.metrics_become(move |text| {
            let told = text.lines().find_map(|line| line.strip_prefix(&sample)).and_then(|told| told.parse().ok());
            told.unwrap_or(0.0) == value
        })
    }

    /// Waits until this holds of the metrics' text; asks with a request in between.
    #[track_caller]
    pub fn metrics_become(&self, holds: impl Fn(&str) -> bool) -> impl Future<Output = ()> {
        within(async move {
            while !holds(&self.orbit.metrics_text()) {
                get(self.addr(), "/health/live").await;
            }
        })
    }

    /// The value of a metric sample, e.g. `metric("orbit_requests_total{endpoint=\"/dispatch\"…}")`; 0 if absent.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = self.orbit.metrics_text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// How many exchanges with the Axon at `url` ended so.
    pub fn exchanges(&self, url: &str, outcome: &str) -> f64 {
        let backend = url.strip_prefix("http://").expect("a plain URL");
        self.metric(&format!("orbit_axon_requests_total{{backend=\"{backend}\",outcome=\"{outcome}\"}}"))
    }
}

/// The standing dispatch, signed, as bytes.
pub fn message(gateway: &Gateway) -> Vec<u8> {
    gateway.dispatch(BODY).header("X-Correlation-ID", "c-1").sign(&signing(), gateway.now()).bytes()
}

/// Sends the standing dispatch on a connection of its own.
pub async fn dispatch(gateway: &Gateway) -> Response {
    gateway.send(gateway.dispatch(BODY).header("X-Correlation-ID", "c-1")).await
}

/// Sends the standing dispatch and leaves the answer to be read.
pub async fn asking(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.addr()).await;
    client.send(message(gateway)).await;
    client
}

/// What clients sign with.
pub fn signing() -> Signing {
    Signing::new(ACCESS_KEY, SECRET)
}

struct Log {
    lines: mpsc::UnboundedReceiver<String>,
    seen: Vec<String>,
}

/// Cuts what the sink writes into lines.
struct Capture {
    sender: mpsc::UnboundedSender<String>,
    partial: Vec<u8>,
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8(std::mem::take(&mut self.partial)).expect("the log is UTF-8");
                let _ = self.sender.send(line);
            } else {
                self.partial.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
