//! The metrics of `api.md`, counted from observations. Handles are resolved when they are first needed
//! and kept; the request path looks nothing up by label.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::auth::Issue;
use crate::auth::replay::{Doubt, Mode};
use crate::aws::Renewal;
use crate::axon::{BackendMetrics, Cause, Meter, Outcome, Reason, Resolution, State};
use crate::clock::Moment;
use crate::error::{Code, Details, Hint, Rejection};
use crate::observation::Observation;
use crate::request::route::{Endpoint, Method};
use crate::snapshot::KeyUse;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Statuses with a handle of their own; any other shares the table behind them.
const STATUSES: [u16; 16] = [200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 415, 429, 431, 499, 500, 503];
const LIMITS: [&str; 3] = ["per_ip", "global", "governance"];

const LAST_USED: &str = "orbit_key_last_used_timestamp_seconds";
/// Keys with a series of their own; all others share one.
pub const KEY_SERIES_MAX: usize = 1000;
/// What that one is called: no `access_key_id` can be that.
pub const OTHER_KEYS: &str = "*";

type Cached<const N: usize> = [OnceLock<IntCounter>; N];

/// All metrics of one gateway; nothing is global, so several gateways can live in one process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    requests_cached: Vec<Cached<{ STATUSES.len() }>>,
    request_duration: [Histogram; Endpoint::ALL.len()],
    allowed: IntCounter,
    denied: IntCounter,
    governance_duration: Histogram,
    axon_requests: IntCounterVec,
    axon_duration: HistogramVec,
    backend_healthy: IntGaugeVec,
    backend_in_flight: IntGaugeVec,
    backend_state: IntGaugeVec,
    backend_out: IntCounterVec,
    backend_spared: IntCounterVec,
    health_checks: IntCounterVec,
    resolutions: [IntCounter; Resolution::ALL.len()],
    retries: [IntCounter; Reason::ALL.len()],
    retry_budget_left: IntGaugeVec,
    retry_budget_spent: IntCounter,
    rate_limited: [IntCounter; LIMITS.len()],
    auth_failures: Vec<(&'static str, IntCounter)>,
    hints_given: IntCounter,
    hints_skipped: IntCounter,
    /// Requests between arrival and answer.
    pub in_flight: IntGauge,
    /// Open client connections.
    pub connections: IntGauge,
    reloads: IntCounterVec,
    key_uses: Arc<ArcSwap<Vec<KeyUse>>>,
    key_source_refreshes: IntCounterVec,
    credential_refreshes: IntCounterVec,
    credential_expiry: IntGaugeVec,
    key_source_success: IntGaugeVec,
    generation: IntGauge,
    log_dropped: Gauge,
    replays: [IntCounter; Mode::ALL.len()],
    replays_full: IntCounter,
    in_flight_full: IntCounter,
    connections_full: IntCounter,
    axon_streams_full: IntCounter,
}

/// Name, help and labels of every metric; the documentation is generated from it.
pub const CATALOGUE: &[(&str, &str, &str, &[&str])] = &[
    ("orbit_requests_total", "counter", "Requests answered.", &["method", "endpoint", "status"]),
    (
        "orbit_request_duration_seconds",
        "histogram",
        "Time from a request's head to the end of its answer.",
        &["endpoint"],
    ),
    ("orbit_governance_decisions_total", "counter", "Decisions of governance.", &["decision"]),
    ("orbit_governance_duration_seconds", "histogram", "Time that governance took to decide.", &[]),
    ("orbit_axon_requests_total", "counter", "Exchanges with Axon by how they ended.", &["backend", "outcome"]),
    ("orbit_axon_duration_seconds", "histogram", "Time of one exchange with Axon.", &["backend"]),
    ("orbit_backend_healthy", "gauge", "Whether a backend is in use.", &["backend"]),
    ("orbit_backend_in_flight", "gauge", "Exchanges with a backend under way.", &["backend"]),
    ("orbit_backend_state", "gauge", "1 for the state that a backend is in, 0 for every other.", &["backend", "state"]),
    ("orbit_backend_out_total", "counter", "Times a backend was taken out of use.", &["backend", "cause"]),
    (
        "orbit_backend_spared_total",
        "counter",
        "Times a backend was due to be ejected, and stayed because too many others were out.",
        &["backend"],
    ),
    ("orbit_health_checks_total", "counter", "Health checks of a backend.", &["backend", "result"]),
    ("orbit_axon_retries_total", "counter", "Requests that were sent to Axon again.", &["reason"]),
    ("orbit_retry_budget_left", "gauge", "Retries that an upstream's budget has left.", &["upstream"]),
    (
        "orbit_resolutions_total",
        "counter",
        "Questions for the addresses of an endpoint's name; `crowded` found more than are used.",
        &["result"],
    ),
    ("orbit_rate_limited_total", "counter", "Requests that a limit refused, or would have in shadow mode.", &["limit"]),
    ("orbit_auth_failures_total", "counter", "Requests whose signature was refused.", &["issue"]),
    ("orbit_replays_total", "counter", "Dispatches whose signature was used before.", &["mode"]),
    ("orbit_auth_hints_total", "counter", "Refused signatures that `auth.hints` has something to say to.", &["hint"]),
    ("orbit_in_flight_requests", "gauge", "Requests being served.", &[]),
    ("orbit_connections", "gauge", "Open client connections.", &[]),
    ("orbit_overload_total", "counter", "Times a configured bound was hit.", &["bound"]),
    ("orbit_config_reloads_total", "counter", "Reloads by result.", &["result"]),
    ("orbit_config_generation", "gauge", "Number of the running configuration, counted from 1.", &[]),
    (
        LAST_USED,
        "gauge",
        "When a request was last verified with the key, in Unix seconds; 0 if none was since Orbit started.",
        &["access_key_id", "principal", "stage"],
    ),
    (
        "orbit_key_source_refreshes_total",
        "counter",
        "Times that a key list in Secrets Manager was asked for.",
        &["source", "result"],
    ),
    (
        "orbit_key_source_last_success_timestamp_seconds",
        "gauge",
        "When a key list in Secrets Manager was last fetched and found valid, in Unix seconds.",
        &["source"],
    ),
    (
        "orbit_signing_credentials_refreshes_total",
        "counter",
        "Times that the credentials which an upstream's requests are signed with were asked for.",
        &["upstream", "result"],
    ),
    (
        "orbit_signing_credentials_expiry_timestamp_seconds",
        "gauge",
        "When they expire, in Unix seconds; absent for credentials that last.",
        &["upstream"],
    ),
    ("orbit_log_writes_dropped", "gauge", "Log writes dropped because the log could not keep up.", &[]),
    ("orbit_build_info", "gauge", "Always 1; its label tells the version.", &["version"]),
    ("process_*", "various", "The process's own CPU, memory and descriptors, by the prometheus library.", &[]),
];

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics collide; a fault of this file.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let seconds = prometheus::exponential_buckets(0.0005, 2.0, 17)?;
        let fine = prometheus::exponential_buckets(0.000_001, 4.0, 12)?;

        let requests = counters(&registry, "orbit_requests_total")?;
        let request_duration = histograms(&registry, "orbit_request_duration_seconds", &seconds)?;
        let decisions = counters(&registry, "orbit_governance_decisions_total")?;
        let governance_duration = histograms(&registry, "orbit_governance_duration_seconds", &fine)?;
        let axon_requests = counters(&registry, "orbit_axon_requests_total")?;
        let axon_duration = histograms(&registry, "orbit_axon_duration_seconds", &seconds)?;
        let retries = counters(&registry, "orbit_axon_retries_total")?;
        let retry_budget_left = gauges(&registry, "orbit_retry_budget_left")?;
        let resolutions = counters(&registry, "orbit_resolutions_total")?;
        let rate_limited = counters(&registry, "orbit_rate_limited_total")?;
        let auth_failures = counters(&registry, "orbit_auth_failures_total")?;
        let replays = counters(&registry, "orbit_replays_total")?;
        let hints = counters(&registry, "orbit_auth_hints_total")?;
        let reloads = counters(&registry, "orbit_config_reloads_total")?;
        let key_uses: Arc<ArcSwap<Vec<KeyUse>>> = Arc::default();
        registry.register(Box::new(LastUses::new(key_uses.clone())?))?;
        let key_source_refreshes = counters(&registry, "orbit_key_source_refreshes_total")?;
        let overload = counters(&registry, "orbit_overload_total")?;
        let backend_healthy = gauges(&registry, "orbit_backend_healthy")?;
        let backend_in_flight = gauges(&registry, "orbit_backend_in_flight")?;
        let backend_state = gauges(&registry, "orbit_backend_state")?;
        let backend_out = counters(&registry, "orbit_backend_out_total")?;
        let backend_spared = counters(&registry, "orbit_backend_spared_total")?;
        let health_checks = counters(&registry, "orbit_health_checks_total")?;
        let plain = |name| gauges(&registry, name).map(|g| g.with_label_values::<&str>(&[]));
        let build_info = gauges(&registry, "orbit_build_info")?;
        build_info.with_label_values(&[version]).set(1);
        let log_dropped = Gauge::with_opts(opts("orbit_log_writes_dropped"))?;
        registry.register(Box::new(log_dropped.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        for result in ["accepted", "unchanged", "refused"] {
            reloads.with_label_values(&[result]);
        }
        let issues = Issue::ALL.iter().map(|issue| issue.as_str()).chain(["missing"]);
        Ok(Self {
            requests_cached: (0..Method::ALL.len() * Endpoint::ALL.len()).map(|_| Default::default()).collect(),
            requests,
            request_duration: Endpoint::ALL.map(|e| request_duration.with_label_values(&[e.label()])),
            allowed: decisions.with_label_values(&["allowed"]),
            denied: decisions.with_label_values(&["denied"]),
            governance_duration: governance_duration.with_label_values::<&str>(&[]),
            axon_requests,
            axon_duration,
            backend_healthy,
            backend_in_flight,
            backend_state,
            backend_out,
            backend_spared,
            health_checks,
            retries: Reason::ALL.map(|reason| retries.with_label_values(&[reason.label()])),
            retry_budget_left,
            retry_budget_spent: overload.with_label_values(&["retry_budget"]),
            resolutions: Resolution::ALL.map(|result| resolutions.with_label_values(&[result.label()])),
            rate_limited: LIMITS.map(|limit| rate_limited.with_label_values(&[limit])),
            auth_failures: issues.map(|issue| (issue, auth_failures.with_label_values(&[issue]))).collect(),
            hints_given: hints.with_label_values(&["given"]),
            hints_skipped: hints.with_label_values(&["skipped"]),
            in_flight: plain("orbit_in_flight_requests")?,
            connections: plain("orbit_connections")?,
            reloads,
            key_uses,
            key_source_refreshes,
            credential_refreshes: counters(&registry, "orbit_signing_credentials_refreshes_total")?,
            credential_expiry: gauges(&registry, "orbit_signing_credentials_expiry_timestamp_seconds")?,
            key_source_success: gauges(&registry, "orbit_key_source_last_success_timestamp_seconds")?,
            generation: plain("orbit_config_generation")?,
            log_dropped,
            replays: Mode::ALL.map(|mode| replays.with_label_values(&[mode.label()])),
            replays_full: overload.with_label_values(&["replay"]),
            in_flight_full: overload.with_label_values(&["in_flight"]),
            connections_full: overload.with_label_values(&["connections"]),
            axon_streams_full: overload.with_label_values(&["axon_streams"]),
            registry,
        })
    }

    /// Counts one request.
    pub fn count(&self, observation: &Observation<'_>) {
        self.requests(observation.method(), observation.endpoint, observation.status).inc();
        let endpoint = Endpoint::ALL.iter().position(|e| *e == observation.endpoint);
        if let Some(histogram) = endpoint.and_then(|at| self.request_duration.get(at)) {
            histogram.observe(observation.took().as_secs_f64());
        }
        if let Some(key) = &observation.key {
            key.last_use().note(observation.began);
        }
        if let Some(decision) = &observation.decision {
            if decision.allowed { &self.allowed } else { &self.denied }.inc();
            self.governance_duration.observe(decision.took.as_secs_f64());
        }
        for limit in observation.limited.iter().flatten() {
            let counter = LIMITS.iter().position(|l| l == limit).and_then(|at| self.rate_limited.get(at));
            if let Some(counter) = counter {
                counter.inc();
            }
        }
        for call in &observation.calls {
            call.backend.metrics().count(call.outcome, call.took);
        }
        match observation.doubt {
            Some((mode, Doubt::Replayed)) => {
                let counter = Mode::ALL.iter().position(|m| *m == mode).and_then(|at| self.replays.get(at));
                counter.into_iter().for_each(IntCounter::inc);
            }
            Some((_, Doubt::Full)) => self.replays_full.inc(),
            Some((_, Doubt::Forgotten)) | None => {}
        }
        if let Some(refusal) = &observation.refusal {
            self.refused(refusal, observation);
        }
    }

    fn refused(&self, refusal: &Rejection, observation: &Observation<'_>) {
        match refusal.hint {
            Hint::None => {}
            Hint::Skipped => self.hints_skipped.inc(),
            Hint::Given(_) => self.hints_given.inc(),
        }
        let issue = match (refusal.code, &refusal.details) {
            (Code::MissingAuthorization, _) => "missing",
            (Code::InvalidSignature, Details::Issue(issue) | Details::Skew { issue, .. }) => issue,
            (Code::ServiceUnavailable, Details::Issue("overload")) => {
                return match observation {
                    // Counted already.
                    Observation { doubt: Some((Mode::Enforce, Doubt::Full)), .. } => {}
                    // A connection too many is refused before it sent a head.
                    Observation { head: None, .. } => self.connections_full.inc(),
                    Observation { .. } => self.in_flight_full.inc(),
                };
            }
            _ => return,
        };
        if let Some((_, counter)) = self.auth_failures.iter().find(|(name, _)| *name == issue) {
            counter.inc();
        }
    }

    /// Notes the running configuration.
    pub fn reloaded(&self, result: &str, generation: u64) {
        self.reloads.with_label_values(&[result]).inc();
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Notes the first configuration, which no reload brought.
    pub fn started(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// The keys whose last use is told from now on; those before are forgotten.
    pub fn keys(&self, keys: Vec<KeyUse>) {
        self.key_uses.store(Arc::new(keys));
    }

    /// Counts one try to fetch a key list.
    pub fn key_source(&self, source: &str, renewal: Renewal, at: Moment) {
        self.key_source_refreshes.with_label_values(&[source, renewal.label()]).inc();
        if matches!(renewal, Renewal::Changed | Renewal::Unchanged) {
            let seconds = i64::try_from(at.unix_seconds()).unwrap_or(i64::MAX);
            self.key_source_success.with_label_values(&[source]).set(seconds);
        }
    }

    /// Counts one try to get credentials to sign with; `expires` is that of those in use.
    pub fn credentials(&self, upstream: &str, renewal: Renewal, expires: Option<u64>) {
        self.credential_refreshes.with_label_values(&[upstream, renewal.label()]).inc();
        match expires {
            Some(at) => {
                let at = i64::try_from(at).unwrap_or(i64::MAX);
                self.credential_expiry.with_label_values(&[upstream]).set(at);
            }
            None => drop(self.credential_expiry.remove_label_values(&[upstream])),
        }
    }

    /// Forgets the series of an upstream that no longer takes its credentials from AWS.
    pub fn retire_credentials(&self, upstream: &str) {
        for result in Renewal::ALL {
            let _ = self.credential_refreshes.remove_label_values(&[upstream, result.label()]);
        }
        let _ = self.credential_expiry.remove_label_values(&[upstream]);
    }

    /// Forgets the series of a key list that is no longer configured.
    pub fn retire_key_source(&self, source: &str) {
        for result in Renewal::ALL {
            let _ = self.key_source_refreshes.remove_label_values(&[source, result.label()]);
        }
        let _ = self.key_source_success.remove_label_values(&[source]);
    }

    /// Everything in the Prometheus text format; `log_dropped` is read when asked.
    pub fn text(&self, log_dropped: u64) -> String {
        self.log_dropped.set(log_dropped as f64);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    fn requests(&self, method: Method, endpoint: Endpoint, status: u16) -> IntCounter {
        let resolve = || {
            let status = status.to_string();
            self.requests.with_label_values(&[method.label(), endpoint.label(), &status])
        };
        let row = Method::ALL.iter().position(|m| *m == method).unwrap_or_default() * Endpoint::ALL.len()
            + Endpoint::ALL.iter().position(|e| *e == endpoint).unwrap_or_default();
        let column = STATUSES.iter().position(|s| *s == status);
        match column.and_then(|column| self.requests_cached.get(row)?.get(column)) {
            Some(cell) => cell.get_or_init(resolve).clone(),
            None => resolve(),
        }
    }
}

impl Meter for Metrics {
    fn backend(&self, label: &str) -> BackendMetrics {
        BackendMetrics {
            outcomes: Outcome::ALL.map(|o| self.axon_requests.with_label_values(&[label, o.label()])),
            duration: self.axon_duration.with_label_values(&[label]),
            in_flight: self.backend_in_flight.with_label_values(&[label]),
            healthy: self.backend_healthy.with_label_values(&[label]),
            states: State::ALL.map(|state| self.backend_state.with_label_values(&[label, state.label()])),
            outs: Cause::ALL.map(|cause| self.backend_out.with_label_values(&[label, cause.label()])),
            spared: self.backend_spared.with_label_values(&[label]),
            checks_passed: self.health_checks.with_label_values(&[label, "passed"]),
            checks_failed: self.health_checks.with_label_values(&[label, "failed"]),
            streams_full: self.axon_streams_full.clone(),
        }
    }

    fn retire_backend(&self, label: &str) {
        for outcome in Outcome::ALL {
            let _ = self.axon_requests.remove_label_values(&[label, outcome.label()]);
        }
        let _ = self.axon_duration.remove_label_values(&[label]);
        for gauge in [&self.backend_healthy, &self.backend_in_flight] {
            let _ = gauge.remove_label_values(&[label]);
        }
        for state in State::ALL {
            let _ = self.backend_state.remove_label_values(&[label, state.label()]);
        }
        for cause in Cause::ALL {
            let _ = self.backend_out.remove_label_values(&[label, cause.label()]);
        }
        for result in ["passed", "failed"] {
            let _ = self.health_checks.remove_label_values(&[label, result]);
        }
        let _ = self.backend_spared.remove_label_values(&[label]);
    }

    fn resolution(&self, result: Resolution) {
        if let Some(counter) = self.resolutions.get(result as usize) {
            counter.inc();
        }
    }

    fn retried(&self, reason: Reason) {
        if let Some(counter) = self.retries.get(reason as usize) {
            counter.inc();
        }
    }

    fn budget_spent(&self) {
        self.retry_budget_spent.inc();
    }

    fn budget_left(&self, upstream: &str, left: u64) {
        self.retry_budget_left.with_label_values(&[upstream]).set(i64::try_from(left).unwrap_or(i64::MAX));
    }

    fn retire_upstream(&self, upstream: &str) {
        let _ = self.retry_budget_left.remove_label_values(&[upstream]);
    }
}

/// Tells the last use of each key when it is asked for; the request path touches nothing but the keys themselves.
struct LastUses {
    desc: IntGaugeVec,
    keys: Arc<ArcSwap<Vec<KeyUse>>>,
}

impl LastUses {
    fn new(keys: Arc<ArcSwap<Vec<KeyUse>>>) -> Result<Self, prometheus::Error> {
        Ok(Self { desc: Self::gauges()?, keys })
    }

    fn gauges() -> Result<IntGaugeVec, prometheus::Error> {
        IntGaugeVec::new(opts(LAST_USED), labels(LAST_USED))
    }
}

impl Collector for LastUses {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A vector of its own, so that two who ask at once do not disturb each other.
        let Ok(gauges) = Self::gauges() else { return Vec::new() };
        let keys = self.keys.load();
        let seconds = |known: &KeyUse| i64::try_from(known.key.last_use().unix_seconds()).unwrap_or(i64::MAX);
        for known in keys.iter().take(KEY_SERIES_MAX) {
            let labels = [&**known.key.id(), &**known.key.principal(), known.stage.label()];
            gauges.with_label_values(&labels).set(seconds(known));
        }
        if let Some(last) = keys.iter().skip(KEY_SERIES_MAX).map(seconds).max() {
            gauges.with_label_values(&[OTHER_KEYS; 3]).set(last);
        }
        gauges.collect()
    }
}

fn opts(name: &str) -> Opts {
    let help = CATALOGUE.iter().find(|(n, ..)| *n == name).map_or("", |(_, _, help, _)| help);
    Opts::new(name, help)
}

fn labels(name: &str) -> &'static [&'static str] {
    CATALOGUE.iter().find(|(n, ..)| *n == name).map_or(&[], |(_, _, _, labels)| labels)
}

fn counters(registry: &Registry, name: &str) -> Result<IntCounterVec, prometheus::Error> {
    let vec = IntCounterVec::new(opts(name), labels(name))?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

fn gauges(registry: &Registry, name: &str) -> Result<IntGaugeVec, prometheus::Error> {
    let vec = IntGaugeVec::new(opts(name), labels(name))?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

fn histograms(registry: &Registry, name: &str, buckets: &[f64]) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts { common_opts: opts(name), buckets: buckets.to_vec() };
    let vec = HistogramVec::new(opts, labels(name))?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

/// A gauge that counts down when it is dropped.
pub struct Counted(IntGauge);

impl Counted {
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
