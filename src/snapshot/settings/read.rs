//! The blocks of `orbit.yaml`, in the order of the file.
//!
//! Invariant: every default stands here, once, beside the key that it belongs to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::ServerName;

use super::managed::{is_arn, is_endpoint};
use super::{
    Auth, Balance, Drain, Eject, Endpoint, Fetched, GlobalLimit, Governance, GovernanceKey, GovernanceLimit, Health,
    Hints, Host, KeySource, Limits, Listen, LogFormat, LogLevel, Logs, ManagedSecret, Metrics, Mode, Observability,
    Origin, Outline, PerIpLimit, Presigned, RateSetting, Replay, Retry, Route, RouteIntent, Runtime, Settings, Sign,
    SignSource, Timeouts, UnsignedPayload, Upstream, UpstreamMethod, UpstreamRequest, tls,
};
use crate::config::{Block, Confidentiality, Context, Rate, Rule, Switch, Value};
use crate::request::dispatch::is_intent;
use crate::snapshot::keys;
use crate::snapshot::policies;

/// Largest main file.
const MAIN_BYTES_MAX: u64 = 1024 * 1024;

/// Most upstreams, and most routes to them.
const UPSTREAMS_MAX: usize = 16;
const ROUTES_MAX: usize = 1024;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The longest life of a presigned request that AWS knows.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Names end up in log lines, metric labels and credential scopes.
const NAME: Rule = Rule { form: "1 to 64 of `A-Z a-z 0-9 . _ -`", accepts: is_name };
const INTENT: Rule = Rule { form: "1 to 256 bytes without control characters", accepts: is_intent };
const ARN: Rule = Rule { form: "`arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`", accepts: is_arn };
const ARN_SAMPLE: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:orbit-keys-AbCdEf";
const ENDPOINT: Rule = Rule { form: "`https://host`, or `http://` and a loopback address", accepts: is_endpoint };
const PATH: Rule = Rule { form: "a path such as `/dispatch`, without query", accepts: is_request_path };

/// The main file and everything that it names.
pub(super) fn everything(context: &Context<'_>, path: &Path, fetched: &Fetched) -> Option<Settings> {
    let document = context.open(path, MAIN_BYTES_MAX, Confidentiality::Public, None)?;
    let main = document.root(context).block("", main)?;
    let keys = main.key_sources.as_ref().and_then(|sources| keys::read(sources, fetched));
    let policies = main.policy_files.as_ref().and_then(|sources| policies::read(sources, &main.name));
    if let (Some((upstreams, written)), Some(routes), Some(policies)) = (&main.upstreams, &main.routes, &policies) {
        let intents = policies.iter().map(|(policy, _)| policy).filter(|policy| policy.service == main.name);
        cover(upstreams, *written, routes, intents.map(|policy| policy.intent.as_str()));
    }
    if let (Some((upstreams, written)), Some(keys)) = (&main.upstreams, &keys) {
        warn_of_lone_principal(upstreams, *written, keys);
    }
    let (Some(auth), Some(governance), Some((upstreams, _))) = (main.auth, main.governance, main.upstreams) else {
        return None;
    };
    Some(Settings {
        name: main.name,
        listen: main.listen,
        drain: main.drain,
        auth,
        limits: main.limits,
        governance,
        upstreams,
        routes: main.routes?,
        observability: main.observability,
        runtime: main.runtime,
        keys: keys?,
        policies: policies?,
    })
}

/// The main file alone.
pub(super) fn outline(context: &Context<'_>, path: &Path) -> Option<Outline> {
    let document = context.open(path, MAIN_BYTES_MAX, Confidentiality::Public, None)?;
    let main = document.root(context).block("", main)?;
    Some(Outline {
        logs: main.observability.logs,
        threads: main.runtime.threads,
        connections: main.listen.connections,
        in_flight: main.listen.in_flight,
        secrets: main.auth?.managed_secrets().cloned().collect(),
    })
}

/// What the main file says itself. A required block is `None` if it could not be read.
pub(super) struct Main<'a> {
    name: String,
    listen: Listen,
    drain: Drain,
    auth: Option<Auth>,
    key_sources: Option<Vec<(KeySource, Value<'a>)>>,
    limits: Limits,
    governance: Option<Governance>,
    policy_files: Option<Vec<(policies::Pattern, Value<'a>)>>,
    /// With the value that they stand in.
    upstreams: Option<(Vec<Upstream>, Value<'a>)>,
    routes: Option<Vec<Route>>,
    observability: Observability,
    runtime: Runtime,
}

pub(super) fn main<'a>(b: &mut Block<'a>) -> Main<'a> {
    b.later(&["admin", "reload"]);
    if let Some(version) = b.key("version", "format of the file").required("the number 1", "1")
        && version.integer(&(0..=u32::MAX)).is_some_and(|number| number != 1)
    {
        version.fail::<()>("this version reads format 1 only", "write `version: 1`");
    }
    let name = b.key("name", "`service` in `/health`, logs and governance").text("orbit", NAME);
    let listen = b.key("listen", "the client's side").block(listen);
    let drain = b.key("drain", "what SIGTERM does").block(drain);
    let auth = b.key("auth", "who is let in").required_block("{ keys: keys.yaml }", auth);
    let limits = b.key("limits", "how much is let in").block(limits);
    let governance =
        b.key("governance", "what callers may do").required_block("{ policies: policies/*.json }", governance);
    let (upstreams, names) = upstreams(b);
    let routes = routes(b, &names);
    let observability = b.key("observability", "what is told about requests").block(observability);
    let runtime = b.key("runtime", "the process").block(runtime);
    let (auth, key_sources) = auth.unzip();
    let (governance, policy_files) = governance.unzip();
    Main {
        name,
        listen,
        drain,
        auth,
        key_sources,
        limits,
        governance,
        policy_files,
        upstreams,
        routes,
        observability,
        runtime,
    }
}

fn listen(b: &mut Block<'_>) -> Listen {
    b.later(&["tls", "http2", "proxy_protocol"]);
    let default = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    let addresses = b
        .key("address", "where clients connect; port 0 picks a free one")
        .optional("`IP:port`, or a list of 1 to 16", default.to_string())
        .and_then(|value| value.distinct(1..=16, socket_address));
    let trusted_proxies = b
        .key("trusted_proxies", "whose `X-Forwarded-For` is believed")
        .optional("list of 0 to 256 CIDRs", "[]")
        .and_then(|value| value.distinct(0..=256, network));
    Listen {
        addresses: addresses.unwrap_or_else(|| vec![default]),
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        header_bytes: b.key("header_bytes", "largest request head; more is 431").size(16 * KIB, KIB..=64 * KIB),
        body_bytes: b.key("body_bytes", "largest request body; more is 413").size(MIB, KIB..=64 * MIB),
        header_timeout: b.key("header_timeout", "for a whole request head").duration(10 * SECOND, MS..=HOUR),
        body_timeout: b.key("body_timeout", "for a whole request body").duration(15 * SECOND, MS..=HOUR),
        idle_timeout: b.key("idle_timeout", "between two requests of a connection").duration(75 * SECOND, MS..=HOUR),
        connections: b.key("connections", "open client connections").integer(20_000, 1..=1_000_000),
        in_flight: b.key("in_flight", "requests at once; more is 503, at once").integer(4096, 1..=1_000_000),
    }
}

fn socket_address(value: Value<'_>) -> Option<SocketAddr> {
    let text = value.literal("an IP address and a port")?;
    let help = "write an IP address and a port: `0.0.0.0:8080`, or \"[::]:8080\" in quotes";
    text.parse().ok().or_else(|| value.fail(format!("{} is not `IP:port`", value.quoted(text)), help))
}

fn network(value: Value<'_>) -> Option<IpNet> {
    let text = value.literal("a network such as `10.0.0.0/8`")?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let alone = IpNet::from(address);
        return value
            .fail(format!("`{address}` has no prefix length"), format!("write `{alone}` for this one address"));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return value.fail(format!("{} is not a network", value.quoted(text)), "write it as `10.0.0.0/8`");
    };
    if network.trunc() != network {
        let help = format!("write `{}`", network.trunc());
        return value.fail(format!("`{network}` has bits set outside its prefix"), help);
    }
    if network.prefix_len() == 0 {
        let help = "anyone can choose the address that per-IP limits count; name your proxies only";
        value.warn(format!("`{network}` believes `X-Forwarded-For` from everyone"), help);
    }
    Some(network)
}

fn drain(b: &mut Block<'_>) -> Drain {
    let min = b.key("min", "new requests are still accepted").duration(10 * SECOND, Duration::ZERO..=HOUR);
    let max = b.key("max", "requests may finish; at least `min`").duration(60 * SECOND, Duration::ZERO..=HOUR);
    if b.is_clean() && min > max {
        b.fail::<()>("`min` is longer than `max`", "`max` counts from the same signal; make it at least `min`");
    }
    Drain { min, max }
}

fn auth<'a>(b: &mut Block<'a>) -> Option<(Auth, Vec<(KeySource, Value<'a>)>)> {
    let regions = names(b.key("region", "accepted regions of a credential scope"), "us-east-1");
    let services = names(b.key("service", "accepted services of a credential scope"), "execute-api");
    let clock_skew =
        b.key("clock_skew", "how far a request's date may be off").duration(5 * MINUTE, SECOND..=15 * MINUTE);
    let sources = b
        .key("keys", "the keys that callers sign with")
        .required("file, `{ secrets_manager: … }`, or a list of 1 to 64", "keys.yaml");
    if b.context().is_recording() {
        managed_source(&mut Block::absent(b.context(), "auth.keys"));
    }
    let sources = sources.and_then(|value| {
        Some(value.distinct_by(1..=64, key_source, is_same_source)?.into_iter().zip(value.one_or_more()))
    });
    let presigned = presigned(b);
    let unsigned_payload = b.key("unsigned_payload", "requests that sign `UNSIGNED-PAYLOAD`").word(
        UnsignedPayload::Deny,
        &[("deny", UnsignedPayload::Deny), ("allow", UnsignedPayload::Allow)],
        &[],
    );
    let replay = b.key("replay", "dispatches whose signature was used before; `observe` counts and lets through").word(
        Replay::Off,
        &Replay::NAMES,
        &[],
    );
    let hints = b.key("hints", "`safe` tells callers with a known key what is wrong with a signature").word(
        Hints::None,
        &[("none", Hints::None), ("safe", Hints::Safe)],
        &[],
    );
    let sources: Vec<_> = sources?.collect();
    let key_sources = sources.iter().map(|(source, _)| source.clone()).collect();
    Some((Auth { regions, services, clock_skew, presigned, unsigned_payload, replay, hints, key_sources }, sources))
}

fn presigned(b: &mut Block<'_>) -> Presigned {
    let value = b
        .key("presigned", "query authentication; `max_expires` bounds `X-Amz-Expires`, 1s to 168h")
        .optional("`deny`, or `{ max_expires: duration }`", "deny");
    let allow = |value: Value<'_>| {
        let max_expires = value.block("", |b| b.key("max_expires", "").required("duration", "5m"))??;
        max_expires.duration(&(SECOND..=WEEK)).map(|max_expires| Presigned::Allow { max_expires })
    };
    let read = value.and_then(|value| match value {
        value if value.is_block() => allow(value),
        value if value.is_word("deny") => None,
        value => {
            value.fail("expected `deny` or `{ max_expires: duration }`", "a presigned request needs a longest life")
        }
    });
    read.unwrap_or(Presigned::Deny)
}

fn names(key: crate::config::Key<'_>, default: &str) -> Vec<String> {
    key.optional("name, or a list of 1 to 16", default)
        .and_then(|value| value.distinct(1..=16, |value| value.text_like(NAME)))
        .unwrap_or_else(|| vec![default.to_owned()])
}

fn key_source(value: Value<'_>) -> Option<KeySource> {
    if value.is_block() {
        return value.block("", managed_source)?.map(KeySource::SecretsManager);
    }
    value.path().map(KeySource::File)
}

/// A secret has one endpoint and one rhythm.
fn is_same_source(one: &KeySource, other: &KeySource) -> bool {
    match (one, other) {
        (KeySource::SecretsManager(one), KeySource::SecretsManager(other)) => one.arn == other.arn,
        (one, other) => one == other,
    }
}

fn managed_source(b: &mut Block<'_>) -> Option<ManagedSecret> {
    b.key("secrets_manager", "a key list in AWS Secrets Manager, as JSON").required_block("{ arn: … }", |b| {
        let arn = b.key("arn", "of the secret; it names the region too").required_text(ARN, ARN_SAMPLE);
        let refresh = b.key("refresh", "how often it is fetched").duration(5 * MINUTE, SECOND..=24 * HOUR);
        let endpoint = b
            .key("endpoint", "asked instead of AWS's own")
            .nullable(ENDPOINT.form)
            .and_then(|value| value.text_like(ENDPOINT));
        Some(ManagedSecret { arn: arn?, refresh, endpoint })
    })
}

fn limits(b: &mut Block<'_>) -> Limits {
    let per_ip = b.key("per_ip", "per client address; more is 429").switch(Switch::On, |b| PerIpLimit {
        rate: rate(b, 100),
        ipv6_prefix: b.key("ipv6_prefix", "IPv6 clients of one network count as one").integer(64, 1..=128),
        mode: mode(b),
    });
    let global = b
        .key("global", "all authenticated requests; more is 429")
        .switch(Switch::On, |b| GlobalLimit { rate: rate(b, 1000), mode: mode(b) });
    let governance = b.key("governance", "governance calls; more is 403").switch(Switch::On, |b| GovernanceLimit {
        rate: rate(b, 100),
        key: b.key("key", "what calls are counted by").word(
            GovernanceKey::Principal,
            &[("principal", GovernanceKey::Principal)],
            &["intent", "global"],
        ),
        mode: mode(b),
    });
    b.key("store", "where counts are kept").word((), &[("local", ())], &["redis"]);
    Limits { per_ip, global, governance }
}

fn rate(b: &mut Block<'_>, per_minute: u32) -> RateSetting {
    let rate = b.key("rate", "in any window of that length").rate(Rate { count: per_minute, per: MINUTE });
    RateSetting { count: rate.count, per: rate.per }
}

fn mode(b: &mut Block<'_>) -> Mode {
    let words = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];
    b.key("mode", "`shadow` reports and lets through").word(Mode::Enforce, &words, &[])
}

fn governance<'a>(b: &mut Block<'a>) -> Option<(Governance, Vec<(policies::Pattern, Value<'a>)>)> {
    b.later(&["shadow", "remote", "context", "webhooks"]);
    let value = b
        .key("policies", "policy files, JSON or YAML")
        .required("file, glob, or a list of 1 to 64", "policies/*.json")?;
    let patterns = value.distinct(1..=64, policies::pattern)?;
    let policy_sources = patterns.iter().map(|pattern| pattern.as_path().to_owned()).collect();
    Some((Governance { policy_sources }, patterns.into_iter().zip(value.one_or_more()).collect()))
}

/// The upstreams with the value that they stand in, and the names of all, unreadable ones included.
fn upstreams<'a>(b: &mut Block<'a>) -> (Option<(Vec<Upstream>, Value<'a>)>, Vec<&'a str>) {
    let sample = "{ axon: { endpoints: [\"http://127.0.0.1:9000\"] } }";
    let value = b
        .key("upstreams", "the Axons that requests go to, each under a name")
        .required("block of 1 to 16 names", sample);
    if b.context().is_recording() {
        upstream(&mut Block::absent(b.context(), "upstreams.NAME"), "axon");
    }
    let Some(value) = value else { return (None, Vec::new()) };
    let Some(entries) = value.named_entries("upstream", UPSTREAMS_MAX) else { return (None, Vec::new()) };
    let read = |(name, value): &(&str, Value<'a>)| {
        if !is_name(name) {
            return value.fail_at_key("the name of the upstream is not valid", format!("write {}", NAME.form));
        }
        value.block("", |b| upstream(b, name))?
    };
    let all: Vec<Option<Upstream>> = entries.iter().map(read).collect();
    let names = entries.iter().map(|(name, _)| *name).collect();
    (all.into_iter().collect::<Option<_>>().map(|upstreams| (upstreams, value)), names)
}

fn routes(b: &mut Block<'_>, upstreams: &[&str]) -> Option<Vec<Route>> {
    let value = b.key("routes", "which upstream takes which intent").optional("list of 0 to 1024 blocks", "[]");
    let Some(value) = value else {
        if b.context().is_recording() {
            route(&mut Block::absent(b.context(), "routes"), upstreams);
        }
        return Some(Vec::new());
    };
    if value.items()?.next().is_none() {
        return Some(Vec::new());
    }
    let read = |item: Value<'_>| item.block("routes", |b| route(b, upstreams)).flatten();
    value.distinct_by(1..=ROUTES_MAX, read, |one, other| one.intent == other.intent)
}

fn route(b: &mut Block<'_>, upstreams: &[&str]) -> Option<Route> {
    let intent = b.key("intent", "`\"*\"` is every intent without a route of its own").required_text(INTENT, "\"*\"");
    let upstream = b.key("upstream", "who takes it").required("the name of an upstream", "axon");
    let upstream = upstream.and_then(|value| {
        let name = value.text()?;
        if upstreams.contains(&name) {
            return Some(name.to_owned());
        }
        value.fail(format!("no upstream is named {}", value.quoted(name)), format!("write {}", or_of(upstreams)))
    });
    let intent = intent.map(|intent| if intent == "*" { RouteIntent::Others } else { RouteIntent::Only(intent) });
    Some(Route { intent: intent?, upstream: upstream? })
}

fn or_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{}`", crate::config::shown(name))).collect::<Vec<_>>().join(" or ")
}

/// Among several upstreams, an intent that governance may allow must have a place to go: nobody should
/// learn from a request that a route was forgotten.
fn cover<'p>(upstreams: &[Upstream], written: Value<'_>, routes: &[Route], intents: impl Iterator<Item = &'p str>) {
    let covered = |intent: &str| {
        routes.iter().any(|route| match &route.intent {
            RouteIntent::Only(only) => only == intent,
            RouteIntent::Others => true,
        })
    };
    if upstreams.len() < 2 {
        return;
    }
    let mut intents = intents.peekable();
    let help = "add it to `routes`, or `{ intent: \"*\", upstream: NAME }` for all that have none";
    if intents.peek().is_none() && !covered("*") {
        written.fail_at_key::<()>("several upstreams, and no route says which of them is asked", help);
    }
    for intent in intents.filter(|intent| !covered(intent)) {
        let message = format!("several upstreams, and no route for the intent {}", written.quoted(intent));
        written.fail_at_key::<()>(message, help);
    }
}

fn upstream(b: &mut Block<'_>, name: &str) -> Option<Upstream> {
    let endpoints = b
        .key("endpoints", "where Axon listens; all addresses of a name are used; a weight is 1 to 100")
        .required("`http(s)://HOST:port`, `{ url, weight }`, or a list of 1 to 64", "[\"http://127.0.0.1:9000\"]")
        .and_then(|value| {
            let same = |one: &Endpoint, other: &Endpoint| (&one.host, one.port) == (&other.host, other.port);
            value.distinct_by(1..=64, endpoint, same)
        });
    let resolve = b
        .key("resolve", "how long the addresses of a name are used before it is asked for again")
        .duration(10 * SECOND, MS..=HOUR);
    let request = b.key("request", "how a dispatch is asked of Axon").block(request);
    let envelope_bytes = b.key("response", "what Axon answers").block(|b| {
        b.key("envelope_bytes", "largest answer that is put into the envelope; a larger one is passed through")
            .size(MIB, KIB..=64 * MIB)
    });
    let sign = b.key("sign", "SigV4 of what Axon gets");
    if sign.peek().is_none() {
        b.warn("requests to Axon are not signed", "write a `sign` block, or `sign: disabled` if that is meant");
    }
    let origin = sign.peek().map(|value| Origin::of(&value));
    let sign = sign.switch(Switch::Off, sign_block).flatten().zip(origin);
    let sign = sign.map(|((service, region, source), origin)| Sign { service, region, source, origin });
    let balance = balance(b.key("balance", "how an endpoint is chosen"));
    let slow_start = b
        .key(
            "slow_start",
            "how long a backend that comes back, or that a name newly stands for, takes to its full share",
        )
        .duration(10 * SECOND, Duration::ZERO..=HOUR);
    let health = b.key("health", "whether Axon is asked how it is").switch(Switch::Off, health).flatten();
    let eject = eject(b, endpoints.as_deref().unwrap_or_default());
    let retried = b.key("retry", "sending again what Axon may have begun; what it cannot have begun always goes on");
    let (written, retry) = (retried.peek(), retried.block(retry));
    let timeouts = b.key("timeouts", "bounds of one upstream exchange").block(timeouts);
    // Where nobody wrote of retries, a total that has no time for them says enough.
    if let Some(written) = written
        && b.is_clean()
        && retry.attempts > 1
        && retry.backoff.1 >= timeouts.total
    {
        written.fail::<()>(
            "`retry.backoff` is not shorter than `timeouts.total`",
            "no retry could ever happen; shorten it",
        );
    }
    let keepalive = b
        .key("keepalive", "idle connections kept per address; of HTTP/2, how many there may be")
        .integer(128, 0..=65_536);
    let http2 =
        b.key("http2", "HTTP/2: offered to `https` endpoints, taken for granted with `http` ones").boolean(false);
    let secure = endpoints.iter().flatten().any(|endpoint| endpoint.secure.is_some());
    let tls = b.key("tls", "how `https` endpoints are trusted").block(|tls| tls::tls(tls, secure, b));
    if secure && tls.is_none() {
        return None;
    }
    let (name, endpoints) = (name.to_owned(), endpoints?);
    Some(Upstream {
        name,
        endpoints,
        resolve,
        request,
        envelope_bytes,
        sign,
        balance,
        slow_start,
        health,
        eject,
        retry,
        timeouts,
        keepalive,
        http2,
        tls,
    })
}

/// Where all keys are one principal's, its hash gives everything to one backend. Keys that are fetched are
/// not known here.
fn warn_of_lone_principal(upstreams: &[Upstream], written: Value<'_>, keys: &[super::KeySetting]) {
    let hashed = |upstream: &Upstream| upstream.balance == Balance::HashPrincipal && upstream.endpoints.len() > 1;
    let (Some(first), true) = (keys.first(), upstreams.iter().any(hashed)) else { return };
    if keys.iter().all(|key| key.principal == first.principal) {
        let help = "all its requests go to one backend; use another `balance`, or give callers principals of their own";
        written.warn("`balance: { hash: principal }`, and all keys are one principal's", help);
    }
}

fn health(b: &mut Block<'_>) -> Option<Health> {
    let path = b.key("path", "asked with `GET`; 2xx is good").text("/health", PATH);
    let interval =
        b.key("interval", "between two checks of a backend, give or take a fifth").duration(5 * SECOND, 10 * MS..=HOUR);
    let timeout = b.key("timeout", "for connecting and the whole answer").duration(SECOND, MS..=HOUR);
    let healthy = b.key("healthy", "good checks in a row that bring a backend back").integer(2, 1..=100);
    let unhealthy = b.key("unhealthy", "bad checks in a row that take it out").integer(3, 1..=100);
    if b.is_clean() && timeout >= interval {
        return b.fail("`timeout` is not shorter than `interval`", "a check has to end before the next begins");
    }
    Some(Health { path, interval, timeout, healthy, unhealthy })
}

/// A lone address without a word about `eject` has nothing to be ejected in favour of.
fn eject(b: &mut Block<'_>, endpoints: &[Endpoint]) -> Option<Eject> {
    let key = b.key("eject", "failures in traffic that take a backend out");
    let written = key.peek().is_some();
    let eject = key.switch(Switch::On, |b| {
        let consecutive = b
            .key("consecutive", "failures in a row; no answer at all counts twice, and half of 32 answers are enough")
            .integer(5, 1..=64);
        let longest = b
            .key("for", "longest wait for the one request that tries it again; begins at a 32nd and doubles")
            .duration(30 * SECOND, 10 * MS..=HOUR);
        let max_percent =
            b.key("max_percent", "of an upstream's backends that may be ejected at once").integer(50, 1..=100);
        let eject = Eject { consecutive, longest, max_percent };
        let addresses = endpoints.iter().all(|endpoint| matches!(endpoint.host, Host::Address(_)));
        if b.is_clean() && addresses && !endpoints.is_empty() && eject.most_of(endpoints.len()) == 0 {
            let count = endpoints.len();
            let message = format!("`max_percent: {max_percent}` of {count} can never eject");
            b.fail::<()>(message, "write `max_percent: 100` to refuse at once while it fails, or `eject: disabled`");
        }
        eject
    })?;
    let lone = matches!(endpoints, [Endpoint { host: Host::Address(_), .. }]);
    (written || !lone).then_some(eject)
}

fn balance(key: crate::config::Key<'_>) -> Balance {
    let words = [("least_loaded", Balance::LeastLoaded), ("round_robin", Balance::RoundRobin)];
    let value = key.optional("`least_loaded`, `round_robin` or `{ hash: principal }`", "least_loaded");
    let read = value.and_then(|value| {
        if value.is_word("hash") {
            return value.fail("`hash` does not say of what", "write `balance: { hash: principal }`");
        }
        if !value.is_block() {
            return value.word(&words, &[]);
        }
        let of = [("principal", Balance::HashPrincipal)];
        value.block("", |b| b.key("hash", "").required("`principal`", "principal")?.word(&of, &[]))?
    });
    read.unwrap_or(Balance::LeastLoaded)
}

/// A URL, or a block of a URL and a weight.
fn endpoint(value: Value<'_>) -> Option<Endpoint> {
    if !value.is_block() {
        return url(value, 1);
    }
    value.block("", |b| {
        let written = b.key("url", "").required("`http://HOST:port`", "http://127.0.0.1:9000");
        let weight = b.key("weight", "").integer(1, 1..=100);
        url(written?, weight)
    })?
}

/// `http://HOST[:port]` or `https://HOST[:port]`, perhaps with a `/` at the end.
fn url(value: Value<'_>, weight: u8) -> Option<Endpoint> {
    let text = value.literal("a URL such as `http://127.0.0.1:9000`")?;
    if text.contains('@') {
        value.hide();
        return value
            .fail("an endpoint cannot hold credentials", "Orbit signs what it sends; remove all up to the `@`");
    }
    let (secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => {
            let shape = "write `http://HOST:port` or `https://HOST:port`, without a path";
            return value.fail(format!("{} is not an endpoint", value.quoted(text)), shape);
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return value.fail("an endpoint has no path and no query", "write the path as `request.path`");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port: &u16| *port > 0)),
        _ => (authority, Some(if secure { 443 } else { 80 })),
    };
    let Some(port) = port else {
        return value.fail(format!("{} has no valid port", value.quoted(text)), "write a port from 1 to 65535");
    };
    let written = host;
    let Some(host) = parse_host(host) else {
        let help = "write a name, an IPv4 address, or an IPv6 address in brackets";
        return value.fail(format!("`{}` is neither a host name nor an IP address", crate::config::shown(host)), help);
    };
    let secure = match (secure, &host) {
        (false, _) => None,
        (true, Host::Address(_)) if is_localhost(written) => ServerName::try_from("localhost").ok(),
        (true, Host::Address(ip)) => Some(ServerName::from(*ip)),
        (true, Host::Name(name)) => {
            // A certificate never names the root.
            let name = name.strip_suffix('.').unwrap_or(name).to_owned();
            let Ok(name) = ServerName::try_from(name) else {
                return value.fail("no certificate can be for this name", "write another, or use `http`");
            };
            Some(name)
        }
    };
    Some(Endpoint { secure, host, port, authority: authority.to_owned(), weight })
}

/// `localhost` is 127.0.0.1 without asking anyone (RFC 6761, section 6.3).
fn parse_host(host: &str) -> Option<Host> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(|v6| Host::Address(IpAddr::V6(v6))),
        None if is_localhost(host) => Some(Host::Address(Ipv4Addr::LOCALHOST.into())),
        None => match host.parse() {
            Ok(v4) => Some(Host::Address(IpAddr::V4(v4))),
            Err(_) if is_host_name(host) => Some(Host::Name(host.to_ascii_lowercase())),
            Err(_) => None,
        },
    }
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

/// A name that a resolver can be asked for (RFC 1123, section 2.1, and the underscore, which container
/// networks use). One whose last label is a number would be a mistyped address.
fn is_host_name(host: &str) -> bool {
    let absolute = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let number = |label: &str| match label.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    };
    absolute.len() <= 253 && absolute.split('.').all(label) && !absolute.rsplit('.').next().is_some_and(number)
}

fn request(b: &mut Block<'_>) -> UpstreamRequest {
    let methods = [("POST", UpstreamMethod::Post), ("GET", UpstreamMethod::Get)];
    let method = b.key("method", "`GET` is for older Axons").word(UpstreamMethod::Post, &methods, &[]);
    let path = b.key("path", "where a dispatch is sent").text("/dispatch", PATH);
    let body = b.key("body", "required with `GET`, refused with `POST`");
    let body = body.optional("`none`", "").map(|value| (value, value.word(&[("none", ())], &[])));
    match (method, body) {
        (UpstreamMethod::Get, None) if b.is_clean() => {
            b.fail::<()>("a `GET` carries no dispatch body", "add `body: none` to say that this is meant");
        }
        (UpstreamMethod::Post, Some((value, Some(())))) if b.is_clean() => {
            value.fail::<()>("a `POST` carries the dispatch body", "remove `body`, or write `method: GET`");
        }
        (UpstreamMethod::Get | UpstreamMethod::Post, _) => {}
    }
    UpstreamRequest { method, path }
}

fn sign_block(b: &mut Block<'_>) -> Option<(String, String, SignSource)> {
    let service = b.key("service", "service of the credential scope").text("execute-api", NAME);
    let region = b.key("region", "region of the credential scope").text("us-east-1", NAME);
    let credentials = b
        .key(
            "credentials",
            "`default` is AWS's standard chain: environment, profile, web identity, container, instance",
        )
        .optional("`default`, or `{ keys: file }`", "default");
    let source = match credentials {
        None => SignSource::Default,
        Some(value) if value.is_word("default") => SignSource::Default,
        Some(value) if value.is_block() => {
            let file = value.block("", |b| b.key("keys", "").required("file", "sign.yaml"))??;
            let path = file.path()?;
            let credentials = keys::read_signing(&path, file)?;
            SignSource::File(path, credentials)
        }
        Some(value) => {
            return value.fail("expected `default` or `{ keys: file }`", "a file keeps secrets out of this one");
        }
    };
    Some((service, region, source))
}

fn retry(b: &mut Block<'_>) -> Retry {
    Retry {
        attempts: b.key("attempts", "tries of an idempotent request in all").integer(2, 1..=10),
        budget: b
            .key("budget", "retries in any ten seconds, of the requests; ten are always within")
            .percent(20, 0..=100),
        backoff: b
            .key("backoff", "pause before a retry: twice as long each time, with jitter")
            .durations((100 * MS, 400 * MS), Duration::ZERO..=MINUTE),
        idempotent: b
            .key(
                "idempotent",
                "every dispatch may reach Axon twice; else only a `GET`, or one with an `Idempotency-Key`",
            )
            .boolean(false),
    }
}

fn timeouts(b: &mut Block<'_>) -> Timeouts {
    let connect = b.key("connect", "opening a connection").duration(SECOND, MS..=HOUR);
    let first_byte = b.key("first_byte", "until the answer begins").duration(30 * SECOND, MS..=HOUR);
    let idle = b
        .key("idle", "between two reads of an answer; how long an unused connection is kept")
        .duration(60 * SECOND, MS..=HOUR);
    let total = b.key("total", "the whole exchange, all endpoints tried included").duration(60 * SECOND, MS..=HOUR);
    if b.is_clean() && total < connect {
        b.fail::<()>("`total` is shorter than `connect`", "`total` covers the connect; make it at least as long");
    }
    Timeouts { connect, first_byte, idle, total }
}

fn observability(b: &mut Block<'_>) -> Observability {
    b.later(&["traces"]);
    let logs = b.key("logs", "what is written to standard output").block(|b| Logs {
        format: b.key("format", "one line per event, or one JSON object").word(
            LogFormat::Text,
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            &[],
        ),
        level: b.key("level", "least severity that is written").word(LogLevel::Info, &LogLevel::NAMES, &[]),
        requests: b.key("requests", "the lines of each request").boolean(true),
    });
    let metrics = b
        .key("metrics", "Prometheus counters")
        .block(|b| Metrics { on_main: b.key("on_main", "whether the main listener answers `/metrics`").boolean(true) });
    Observability { logs, metrics }
}

fn runtime(b: &mut Block<'_>) -> Runtime {
    b.later(&["user", "pid_file", "upgrade_socket"]);
    let threads = b.key("threads", "`auto` is one per core").optional("`auto`, or a whole number, 1 to 256", "auto");
    Runtime { threads: threads.filter(|value| !value.is_word("auto")).and_then(|value| value.integer(&(1..=256))) }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// `absolute-path` of RFC 3986, section 3.3, at most 1024 bytes.
fn is_request_path(text: &str) -> bool {
    let unescaped = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
    let mut bytes = text.bytes();
    let mut valid = text.starts_with('/') && text.len() <= 1024;
    while let Some(byte) = bytes.next() {
        valid &= match byte {
            b'%' => [bytes.next(), bytes.next()].into_iter().all(|digit| digit.is_some_and(|d| d.is_ascii_hexdigit())),
            byte => unescaped(byte),
        };
    }
    valid
}
