//! The blocks of `orbit.yaml`, in the order of the file.
//!
//! Invariant: every default stands here, once, beside the key that it belongs to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::ServerName;

use super::{
    Auth, Drain, Endpoint, GlobalLimit, Governance, GovernanceKey, GovernanceLimit, Limits, Listen, LogFormat,
    LogLevel, Logs, Metrics, Mode, Observability, PerIpLimit, Presigned, RateSetting, Runtime, Settings, Sign,
    SignCredentials, SignSource, Timeouts, UnsignedPayload, Upstream, UpstreamMethod, UpstreamRequest, tls,
};
use crate::config::{Block, Confidentiality, Context, Rate, Rule, Switch, Value};
use crate::snapshot::keys;
use crate::snapshot::policies;

/// Largest main file.
const MAIN_BYTES_MAX: u64 = 1024 * 1024;

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
const PATH: Rule = Rule { form: "a path such as `/dispatch`, without query", accepts: is_request_path };

/// The main file and every file that it names.
pub(super) fn everything(context: &Context<'_>, path: &Path) -> Option<Settings> {
    let document = context.open(path, MAIN_BYTES_MAX, Confidentiality::Public, None)?;
    let main = document.root(context).block("", main)?;
    let keys = main.key_files.as_ref().and_then(|files| keys::read(files));
    let policies = main.policy_files.as_ref().and_then(|sources| policies::read(sources, &main.name));
    let (Some(auth), Some(governance), Some(upstream)) = (main.auth, main.governance, main.upstream) else {
        return None;
    };
    Some(Settings {
        name: main.name,
        listen: main.listen,
        drain: main.drain,
        auth,
        limits: main.limits,
        governance,
        upstream,
        observability: main.observability,
        runtime: main.runtime,
        keys: keys?,
        policies: policies?,
    })
}

/// What the main file says itself. A required block is `None` if it could not be read.
pub(super) struct Main<'a> {
    name: String,
    listen: Listen,
    drain: Drain,
    auth: Option<Auth>,
    key_files: Option<Vec<(PathBuf, Value<'a>)>>,
    limits: Limits,
    governance: Option<Governance>,
    policy_files: Option<Vec<(policies::Pattern, Value<'a>)>>,
    upstream: Option<Upstream>,
    observability: Observability,
    runtime: Runtime,
}

pub(super) fn main<'a>(b: &mut Block<'a>) -> Main<'a> {
    b.later(&["admin", "routes", "reload"]);
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
    let upstream = upstreams(b);
    let observability = b.key("observability", "what is told about requests").block(observability);
    let runtime = b.key("runtime", "the process").block(runtime);
    let (auth, key_files) = auth.unzip();
    let (governance, policy_files) = governance.unzip();
    Main { name, listen, drain, auth, key_files, limits, governance, policy_files, upstream, observability, runtime }
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

fn auth<'a>(b: &mut Block<'a>) -> Option<(Auth, Vec<(PathBuf, Value<'a>)>)> {
    let regions = names(b.key("region", "accepted regions of a credential scope"), "us-east-1");
    let services = names(b.key("service", "accepted services of a credential scope"), "execute-api");
    let clock_skew =
        b.key("clock_skew", "how far a request's date may be off").duration(5 * MINUTE, SECOND..=15 * MINUTE);
    let files = b.key("keys", "the keys that callers sign with").required("file, or a list of 1 to 64", "keys.yaml");
    let files = files.and_then(|value| Some(value.distinct(1..=64, key_file)?.into_iter().zip(value.one_or_more())));
    let presigned = presigned(b);
    let unsigned_payload = b.key("unsigned_payload", "requests that sign `UNSIGNED-PAYLOAD`").word(
        UnsignedPayload::Deny,
        &[("deny", UnsignedPayload::Deny), ("allow", UnsignedPayload::Allow)],
        &[],
    );
    let files: Vec<_> = files?.collect();
    let key_files = files.iter().map(|(path, _)| path.clone()).collect();
    Some((Auth { regions, services, clock_skew, presigned, unsigned_payload, key_files }, files))
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

fn key_file(value: Value<'_>) -> Option<PathBuf> {
    if value.is_later_form(&["secrets_manager"]) { None } else { value.path() }
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

fn upstreams(b: &mut Block<'_>) -> Option<Upstream> {
    let sample = "{ axon: { endpoints: [\"http://127.0.0.1:9000\"] } }";
    let value =
        b.key("upstreams", "the Axon that requests go to, under a name").required("block with one name", sample);
    if b.context().is_recording() {
        return upstream(&mut Block::absent(b.context(), "upstreams.NAME"), "axon");
    }
    let (name, value) = value?.only_entry("upstream")?;
    if !is_name(name) {
        return value.fail_at_key("the name of the upstream is not valid", format!("write {}", NAME.form));
    }
    value.block("", |b| upstream(b, name))?
}

fn upstream(b: &mut Block<'_>, name: &str) -> Option<Upstream> {
    b.later(&["health", "eject", "retry", "http2"]);
    let endpoints = b
        .key("endpoints", "addresses of Axon")
        .required("`http://IP:port`, `https://IP:port`, or a list of 1 to 64", "[\"http://127.0.0.1:9000\"]")
        .and_then(|value| value.distinct_by(1..=64, endpoint, |one, other| one.address == other.address));
    let request = b.key("request", "how a dispatch is asked of Axon").block(request);
    let envelope_bytes = b.key("response", "what Axon answers").block(|b| {
        b.key("envelope_bytes", "largest answer that is put into the envelope; a larger one is passed through")
            .size(MIB, KIB..=64 * MIB)
    });
    let sign = b.key("sign", "SigV4 of what Axon gets");
    if sign.peek().is_none() {
        b.warn("requests to Axon are not signed", "write a `sign` block, or `sign: disabled` if that is meant");
    }
    let sign = sign.switch(Switch::Off, sign_block).flatten();
    b.key("balance", "how an endpoint is chosen").word((), &[("least_loaded", ())], &["round_robin", "hash"]);
    let timeouts = b.key("timeouts", "bounds of one upstream exchange").block(timeouts);
    let keepalive = b.key("keepalive", "idle connections kept per endpoint").integer(128, 0..=65_536);
    let secure = endpoints.iter().flatten().any(|endpoint| endpoint.secure.is_some());
    let tls = b.key("tls", "how `https` endpoints are trusted").block(|tls| tls::tls(tls, secure, b));
    if secure && tls.is_none() {
        return None;
    }
    let (name, endpoints) = (name.to_owned(), endpoints?);
    Some(Upstream { name, endpoints, request, envelope_bytes, sign, timeouts, keepalive, tls })
}

/// `http://IP[:port]`, `http://localhost[:port]` or the same with `https`, perhaps with a `/` at the end.
fn endpoint(value: Value<'_>) -> Option<Endpoint> {
    let text = value.literal("an address such as `http://127.0.0.1:9000`")?;
    if text.contains('@') {
        value.hide();
        return value
            .fail("an endpoint cannot hold credentials", "Orbit signs what it sends; remove all up to the `@`");
    }
    let (secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => {
            let shape = "write `http://IP:port` or `https://IP:port`, without a path";
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
    let Some(ip) = host_address(host) else {
        let help = "host names are not resolved by this version; write an IP address or `localhost`";
        return value.fail(format!("`{}` is not an IP address", crate::config::shown(host)), help);
    };
    let name = if host == "localhost" { ServerName::try_from("localhost").ok() } else { Some(ServerName::from(ip)) };
    let secure = name.filter(|_| secure);
    Some(Endpoint { secure, address: SocketAddr::new(ip, port), authority: authority.to_owned() })
}

fn host_address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None if host == "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        None => host.parse().ok().map(IpAddr::V4),
    }
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

fn sign_block(b: &mut Block<'_>) -> Option<Sign> {
    let service = b.key("service", "service of the credential scope").text("execute-api", NAME);
    let region = b.key("region", "region of the credential scope").text("us-east-1", NAME);
    let credentials = b
        .key("credentials", "`default` is `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`")
        .optional("`default`, or `{ keys: file }`", "default");
    let (source, credentials) = match credentials {
        None => (SignSource::Default, from_environment(b.context(), &|message, help| b.fail(message, help))?),
        Some(value) if value.is_word("default") => {
            (SignSource::Default, from_environment(b.context(), &|message, help| value.fail(message, help))?)
        }
        Some(value) if value.is_block() => {
            let file = value.block("", |b| b.key("keys", "").required("file", "sign.yaml"))??;
            let path = file.path()?;
            (SignSource::File(path.clone()), keys::read_signing(&path, file)?)
        }
        Some(value) => {
            return value.fail("expected `default` or `{ keys: file }`", "a file keeps secrets out of this one");
        }
    };
    Some(Sign { service, region, source, credentials })
}

/// The signing credentials that AWS tools read from the environment.
fn from_environment(
    context: &Context<'_>,
    fail: &dyn Fn(String, &'static str) -> Option<()>,
) -> Option<SignCredentials> {
    let help = "set it, or write `credentials: { keys: file }`";
    let read = |name: &str| match context.variable(name) {
        Ok(value) => Some(value),
        Err(reason) => {
            fail(format!("environment variable `{name}` {reason}"), help);
            None
        }
    };
    let (access_key_id, secret_access_key) = (read("AWS_ACCESS_KEY_ID"), read("AWS_SECRET_ACCESS_KEY"));
    let session_token = context.variable("AWS_SESSION_TOKEN").ok();
    let access_key_id = access_key_id?;
    if !(keys::ACCESS_KEY_ID.accepts)(&access_key_id) {
        fail(format!("environment variable `AWS_ACCESS_KEY_ID` is not {}", keys::ACCESS_KEY_ID.form), help);
        return None;
    }
    if session_token.as_deref().is_some_and(|token| !keys::is_session_token(token)) {
        fail("environment variable `AWS_SESSION_TOKEN` is not visible ASCII".to_owned(), help);
        return None;
    }
    Some(SignCredentials {
        access_key_id,
        secret_access_key: secret_access_key?.into(),
        session_token: session_token.map(Into::into),
    })
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
