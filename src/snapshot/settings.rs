//! What the operator wrote, checked: plain values with units, no YAML and no spans.
//!
//! Invariant: a [`Settings`] is complete and consistent. Every default is already filled in, every
//! range holds, every secret is resolved; whoever reads it decides nothing again.

pub mod managed;
mod read;
mod reference;
mod show;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::ServerName;
use secrecy::SecretString;

use crate::config::{Context, Environment, Problem, Problems, Value, shown_path};
use crate::governance::model::Policy;

pub use managed::{Fetched, ManagedSecret, Unfetched, Versions};
pub use reference::reference;
pub use tls::{ClientCertificate, Tls};

/// The whole configuration, the key and policy files included.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `service` in `/health`, logs and governance: 1–64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    pub listen: Listen,
    pub drain: Drain,
    pub auth: Auth,
    pub limits: Limits,
    pub governance: Governance,
    /// 1–16, names unique, in the order of the file.
    pub upstreams: Vec<Upstream>,
    /// Intents unique. With several upstreams they cover every intent that a policy is for.
    pub routes: Vec<Route>,
    pub observability: Observability,
    pub runtime: Runtime,
    /// At least one; first those of files and current versions, then those that only the previous version of a
    /// managed secret has. An `access_key_id` stands at most twice, the second time as [`Stage::Previous`].
    pub keys: Vec<KeySetting>,
    /// At least one, (service, intent) unique, in the order of the files.
    pub policies: Vec<(Policy, Origin)>,
}

/// Settings and what reading them left behind.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<Problem>,
    /// Over the lengths and contents of [`Loaded::files`] and of what was fetched.
    pub sha256: [u8; 32],
    /// Every file read, secrets included, in order; the main file is first.
    pub files: Vec<PathBuf>,
}

/// What must be known of a configuration before all of it can be read.
#[derive(Debug, Clone)]
pub struct Outline {
    pub logs: Logs,
    pub threads: Option<u16>,
    pub connections: u32,
    pub in_flight: u32,
    /// The secrets that have to be fetched.
    pub secrets: Vec<ManagedSecret>,
}

impl Settings {
    /// Reads the main file and every file that it names, without the network: a key list in Secrets Manager is
    /// a problem that says so.
    ///
    /// # Errors
    /// All problems of all files, in the order of the files and their lines.
    pub fn load(path: &Path, environment: &dyn Environment) -> Result<Loaded, Problems> {
        Self::load_with(path, environment, &Fetched::offline())
    }

    /// As [`Settings::load`], with the managed secrets that were fetched.
    ///
    /// # Errors
    /// All problems of all files, then those of what was fetched.
    pub fn load_with(path: &Path, environment: &dyn Environment, fetched: &Fetched) -> Result<Loaded, Problems> {
        let context = Context::new(environment);
        let settings = read::everything(&context, path, fetched);
        let (settings, read) = context.finish(settings)?;
        Ok(Loaded { settings, warnings: read.warnings, sha256: read.sha256, files: read.files })
    }

    /// Reads only the main file, and of that only what comes before everything else.
    ///
    /// # Errors
    /// The problems of the main file; [`Settings::load`] finds those of all files.
    pub fn outline(path: &Path, environment: &dyn Environment) -> Result<Outline, Problems> {
        let context = Context::new(environment);
        let outline = read::outline(&context, path);
        context.finish(outline).map(|(outline, _)| outline)
    }

    /// The effective configuration as YAML, defaults included. Secrets stand in files of their own
    /// and are not part of it. Read again from the same working directory it gives the same settings.
    pub fn show(&self) -> String {
        show::yaml(self)
    }

    /// Names of the settings that differ and that a running process cannot change.
    pub fn diff_restart(&self, new: &Settings) -> Vec<&'static str> {
        let changes = [
            ("listen.address", self.listen.addresses != new.listen.addresses),
            ("observability.logs.format", self.observability.logs.format != new.observability.logs.format),
            ("runtime.threads", self.runtime.threads != new.runtime.threads),
        ];
        changes.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
    }
}

/// A place in a file, for complaints that can only be made later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// The client's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// At least one, no duplicates; port 0 picks a free one.
    pub addresses: Vec<SocketAddr>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Largest request head, in bytes.
    pub header_bytes: u64,
    /// Largest request body, in bytes.
    pub body_bytes: u64,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    /// Open client connections.
    pub connections: u32,
    /// Requests admitted at once; more is 503 `overload`.
    pub in_flight: u32,
}

/// What SIGTERM does: accept for `min`, finish for `max`; `min <= max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    pub min: Duration,
    pub max: Duration,
}

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// At least one, no duplicates.
    pub regions: Vec<String>,
    /// At least one, no duplicates.
    pub services: Vec<String>,
    pub clock_skew: Duration,
    pub presigned: Presigned,
    pub unsigned_payload: UnsignedPayload,
    pub replay: Replay,
    pub hints: Hints,
    /// Where [`Settings::keys`] came from: 1–64, no duplicates.
    pub key_sources: Vec<KeySource>,
}

/// Where a list of keys stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Absolute, or relative to the working directory.
    File(PathBuf),
    SecretsManager(ManagedSecret),
}

impl Auth {
    /// The key lists that are fetched.
    pub fn managed_secrets(&self) -> impl Iterator<Item = &ManagedSecret> {
        self.key_sources.iter().filter_map(|source| match source {
            KeySource::File(_) => None,
            KeySource::SecretsManager(secret) => Some(secret),
        })
    }
}

/// Query authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presigned {
    Deny,
    Allow {
        /// The longest `X-Amz-Expires`, up to seven days.
        max_expires: Duration,
    },
}

/// Requests that sign `UNSIGNED-PAYLOAD` in place of a body hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsignedPayload {
    Deny,
    Allow,
}

/// Dispatches whose signature was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    Off,
    Observe,
    Enforce,
}

impl Replay {
    pub(crate) const NAMES: [(&str, Replay); 3] =
        [("off", Replay::Off), ("observe", Replay::Observe), ("enforce", Replay::Enforce)];
}

/// What a caller with a known key is told beside the issue of a refused signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hints {
    None,
    /// How the request must have been written, nothing of secrets and tokens.
    Safe,
}

/// `None` is the word `disabled`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub per_ip: Option<PerIpLimit>,
    pub global: Option<GlobalLimit>,
    pub governance: Option<GovernanceLimit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerIpLimit {
    pub rate: RateSetting,
    /// 1–128; IPv6 clients of one network count as one.
    pub ipv6_prefix: u8,
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalLimit {
    pub rate: RateSetting,
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GovernanceLimit {
    pub rate: RateSetting,
    pub key: GovernanceKey,
    pub mode: Mode,
}

/// What governance calls are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GovernanceKey {
    Principal,
}

/// Whether a limit refuses or only reports what it would have refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Shadow,
}

/// `count` (at least 1) in any window of length `per` (a second, a minute or an hour).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateSetting {
    pub count: u32,
    pub per: Duration,
}

/// Where the policies came from; they themselves are [`Settings::policies`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Governance {
    /// Paths and globs as written, resolved against the main file's directory.
    pub policy_sources: Vec<PathBuf>,
}

/// An Axon that requests go to.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: String,
    /// 1–64, no host and port twice.
    pub endpoints: Vec<Endpoint>,
    /// How long the addresses of a name are used before it is asked for again.
    pub resolve: Duration,
    pub request: UpstreamRequest,
    /// Largest answer that is put into the envelope, in bytes; a larger one is passed through.
    pub envelope_bytes: u64,
    /// `None`: what Axon gets is not signed.
    pub sign: Option<Sign>,
    pub balance: Balance,
    /// How long a backend that comes back, or that a name newly stands for, takes to its full share.
    pub slow_start: Duration,
    /// `None`: a backend is in use for as long as it can be connected to.
    pub health: Option<Health>,
    /// `None`: failures in traffic take no backend out.
    pub eject: Option<Eject>,
    pub retry: Retry,
    pub timeouts: Timeouts,
    /// Idle connections kept per address; 0 keeps none. Of HTTP/2, how many there may be; at least one.
    pub keepalive: u32,
    /// HTTP/2 where an `https` endpoint agrees to it, and from the first byte with `http` ones.
    pub http2: bool,
    /// `Some` if an endpoint is `https`.
    pub tls: Option<Tls>,
}

/// Where Axon listens: one address, or all addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`: the host, as a certificate names it.
    pub secure: Option<ServerName<'static>>,
    pub host: Host,
    pub port: u16,
    /// For the `Host` header: as written, without the port if none was.
    pub authority: String,
    /// 1–100: the share of requests of each of its addresses, relative to the others.
    pub weight: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// 1–253 characters, to be resolved; lower case.
    Name(String),
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The less loaded of two random ones.
    LeastLoaded,
    RoundRobin,
    /// The same principal to the same backend, as long as it is there.
    HashPrincipal,
}

/// Health checks: `GET path`, 2xx is good; `timeout < interval`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Origin form without query.
    pub path: String,
    pub interval: Duration,
    /// For connect and answer.
    pub timeout: Duration,
    /// 1–100 good checks in a row bring a backend back.
    pub healthy: u32,
    /// 1–100 bad checks in a row take it out.
    pub unhealthy: u32,
}

/// Taking out a backend whose answers fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eject {
    /// 1–64 failures in a row.
    pub consecutive: u32,
    /// The longest that an ejected backend waits for a trial request.
    pub longest: Duration,
    /// 1–100: at most this part of an upstream's backends is ejected at once.
    pub max_percent: u8,
}

impl Eject {
    /// How many of `backends` may be ejected at once.
    pub fn most_of(&self, backends: usize) -> usize {
        backends * usize::from(self.max_percent) / 100
    }
}

/// When a request to Axon is sent again although Axon may have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// 1–10 tries of an idempotent request in all.
    pub attempts: u32,
    /// 0–100: retries in any ten seconds, in hundredths of the requests.
    pub budget: u8,
    /// Least and most pause before a retry.
    pub backoff: (Duration, Duration),
    /// Whether every dispatch may be sent twice, by the operator's word.
    pub idempotent: bool,
}

/// Which upstream takes an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub intent: RouteIntent,
    /// The name of one of [`Settings::upstreams`].
    pub upstream: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteIntent {
    Only(String),
    /// `*`: every intent without a route of its own.
    Others,
}

/// How a dispatch is asked of Axon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRequest {
    pub method: UpstreamMethod,
    /// Origin form without query: `/…`, visible ASCII.
    pub path: String,
}

/// A POST carries the dispatch body, a GET carries none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamMethod {
    Post,
    Get,
}

/// How requests to Axon are signed.
#[derive(Debug, Clone)]
pub struct Sign {
    pub service: String,
    pub region: String,
    pub source: SignSource,
    /// Where the block stands, for what can only be said later.
    pub origin: Origin,
}

/// Where the signing credentials come from.
#[derive(Debug, Clone)]
pub enum SignSource {
    /// The standard chain of AWS, which is asked before the first request and in the background.
    Default,
    File(PathBuf, SignCredentials),
}

#[derive(Debug, Clone)]
pub struct SignCredentials {
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
}

/// Bounds of one upstream exchange; `total >= connect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub idle: Duration,
    pub total: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observability {
    pub logs: Logs,
    pub metrics: Metrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logs {
    pub format: LogFormat,
    pub level: LogLevel,
    /// Whether each request leaves its lines.
    pub requests: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// Every level with its name in the file.
    pub const NAMES: [(&'static str, LogLevel); 6] = [
        ("off", LogLevel::Off),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];

    /// The same for the `log` crate.
    pub const fn filter(self) -> log::LevelFilter {
        match self {
            LogLevel::Off => log::LevelFilter::Off,
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
            LogLevel::Trace => log::LevelFilter::Trace,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Whether the main listener answers `/metrics`.
    pub on_main: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runtime {
    /// 1–256; `None` is `auto`, one per core.
    pub threads: Option<u16>,
}

/// One key that callers may sign with.
#[derive(Debug, Clone)]
pub struct KeySetting {
    /// 1–128 of `A-Z a-z 0-9 _`.
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
    /// 1–128 printable ASCII.
    pub principal: String,
    /// Unix seconds.
    pub not_before: Option<u64>,
    /// Unix seconds, later than `not_before`.
    pub not_after: Option<u64>,
    pub disabled: bool,
    pub stage: Stage,
    pub origin: Origin,
}

/// Which version of its list a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A file, or the current version of a managed secret.
    Current,
    /// Only the version before it: the key goes with the next version.
    Previous,
}

impl Stage {
    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Stage::Current => "current",
            Stage::Previous => "previous",
        }
    }
}

impl Origin {
    /// Where a value begins.
    pub(super) fn of(value: &Value<'_>) -> Self {
        let span = value.start();
        Self { file: value.file().to_owned(), line: span.line, column: span.column }
    }
}

/// `file:line:column`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", shown_path(&self.file), self.line, self.column)
    }
}
