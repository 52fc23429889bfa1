//! Settings written out as the file that would give them.
//!
//! Invariant: no secret is written; what is known of keys and policies beyond their files' names
//! stands in comments.

use std::fmt::Write;
use std::path::Path;

use super::{
    Balance, Drain, Eject, Endpoint, GovernanceKey, Health, Hints, KeySetting, KeySource, Limits, Listen, LogFormat,
    LogLevel, ManagedSecret, Mode, Presigned, RateSetting, Replay, Retry, Route, RouteIntent, Settings, Sign,
    SignSource, Stage, Timeouts, Tls, UnsignedPayload, Upstream, UpstreamMethod,
};
use crate::config::Rate;
use crate::config::units::{duration_text, rate_text, size_text};

/// See [`Settings::show`].
pub(super) fn yaml(settings: &Settings) -> String {
    let Settings { name, listen, drain, auth, limits, governance, .. } = settings;
    let Settings { upstreams, routes, observability, runtime, keys, policies, .. } = settings;
    let mut out = Lines::default();
    out.line(0, "version: 1");
    out.line(0, &format!("name: {}", quoted(name)));
    write_listen(&mut out, listen);
    let Drain { min, max } = drain;
    out.line(0, &format!("drain: {{ min: {}, max: {} }}", duration_text(*min), duration_text(*max)));
    out.line(0, "auth:");
    out.line(1, &format!("region: {}", list(&auth.regions, |region| quoted(region))));
    out.line(1, &format!("service: {}", list(&auth.services, |service| quoted(service))));
    out.line(1, &format!("clock_skew: {}", duration_text(auth.clock_skew)));
    out.line(1, &format!("keys: {}", list(&auth.key_sources, key_source)));
    keys.iter().for_each(|key| write_key(&mut out, key));
    let presigned = match auth.presigned {
        Presigned::Deny => "deny".to_owned(),
        Presigned::Allow { max_expires } => format!("{{ max_expires: {} }}", duration_text(max_expires)),
    };
    out.line(1, &format!("presigned: {presigned}"));
    let unsigned = match auth.unsigned_payload {
        UnsignedPayload::Deny => "deny",
        UnsignedPayload::Allow => "allow",
    };
    out.line(1, &format!("unsigned_payload: {unsigned}"));
    let replay = Replay::NAMES.iter().find(|(_, replay)| *replay == auth.replay).map_or("", |(name, _)| name);
    out.line(1, &format!("replay: \"{replay}\""));
    let hints = match auth.hints {
        Hints::None => "none",
        Hints::Safe => "safe",
    };
    out.line(1, &format!("hints: {hints}"));
    write_limits(&mut out, limits);
    out.line(0, "governance:");
    out.line(1, &format!("policies: {}", list(&governance.policy_sources, |path| quoted_path(path))));
    for (policy, origin) in policies {
        let state = if policy.enabled { "" } else { ", disabled" };
        let subject = format!("{}:{}", policy.service, policy.intent);
        out.line(1, &format!("# {}{state} ({})", quoted(&subject), quoted(&origin.to_string())));
    }
    out.line(0, "upstreams:");
    upstreams.iter().for_each(|upstream| write_upstream(&mut out, upstream));
    write_routes(&mut out, routes);
    let logs = observability.logs;
    let format = match logs.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let level = LogLevel::NAMES.iter().find(|(_, level)| *level == logs.level).map_or("info", |(name, _)| name);
    out.line(0, "observability:");
    out.line(1, &format!("logs: {{ format: {format}, level: \"{level}\", requests: {} }}", logs.requests));
    out.line(1, &format!("metrics: {{ on_main: {} }}", observability.metrics.on_main));
    let threads = runtime.threads.map_or("auto".to_owned(), |threads| threads.to_string());
    out.line(0, &format!("runtime: {{ threads: {threads} }}"));
    out.0
}

fn write_listen(out: &mut Lines, listen: &Listen) {
    let Listen {
        addresses,
        trusted_proxies,
        header_bytes,
        body_bytes,
        header_timeout,
        body_timeout,
        idle_timeout,
        connections,
        in_flight,
    } = listen;
    out.line(0, "listen:");
    out.line(1, &format!("address: {}", list(addresses, |address| format!("\"{address}\""))));
    out.line(1, &format!("trusted_proxies: {}", list(trusted_proxies, |network| format!("\"{network}\""))));
    out.line(1, &format!("header_bytes: {}", size_text(*header_bytes)));
    out.line(1, &format!("body_bytes: {}", size_text(*body_bytes)));
    out.line(1, &format!("header_timeout: {}", duration_text(*header_timeout)));
    out.line(1, &format!("body_timeout: {}", duration_text(*body_timeout)));
    out.line(1, &format!("idle_timeout: {}", duration_text(*idle_timeout)));
    out.line(1, &format!("connections: {connections}"));
    out.line(1, &format!("in_flight: {in_flight}"));
}

fn key_source(source: &KeySource) -> String {
    match source {
        KeySource::File(path) => quoted_path(path),
        KeySource::SecretsManager(ManagedSecret { arn, refresh, endpoint }) => {
            let endpoint = endpoint.as_deref().map_or("null".to_owned(), quoted);
            let refresh = duration_text(*refresh);
            format!("{{ secrets_manager: {{ arn: {}, refresh: {refresh}, endpoint: {endpoint} }} }}", quoted(arn))
        }
    }
}

/// The principal is the operator's own text; the secret is not written, nor is its length.
fn write_key(out: &mut Lines, key: &KeySetting) {
    let state = if key.disabled { ", disabled" } else { "" };
    let stage = match key.stage {
        Stage::Current => "",
        Stage::Previous => ", until the next version",
    };
    out.line(
        1,
        &format!(
            "# key {} of {}{state}{stage} ({})",
            key.access_key_id,
            quoted(&key.principal),
            quoted(&key.origin.to_string())
        ),
    );
}

fn write_limits(out: &mut Lines, limits: &Limits) {
    let Limits { per_ip, global, governance } = limits;
    out.line(0, "limits:");
    match per_ip {
        Some(limit) => out.line(
            1,
            &format!(
                "per_ip: {{ rate: {}, ipv6_prefix: {}, mode: {} }}",
                rate(limit.rate),
                limit.ipv6_prefix,
                mode(limit.mode)
            ),
        ),
        None => out.line(1, "per_ip: disabled"),
    }
    match global {
        Some(limit) => out.line(1, &format!("global: {{ rate: {}, mode: {} }}", rate(limit.rate), mode(limit.mode))),
        None => out.line(1, "global: disabled"),
    }
    match governance {
        Some(limit) => {
            let key = match limit.key {
                GovernanceKey::Principal => "principal",
            };
            let (rate, mode) = (rate(limit.rate), mode(limit.mode));
            out.line(1, &format!("governance: {{ rate: {rate}, key: {key}, mode: {mode} }}"));
        }
        None => out.line(1, "governance: disabled"),
    }
    out.line(1, "store: local");
}

fn write_upstream(out: &mut Lines, upstream: &Upstream) {
    let Upstream { name, endpoints, resolve, request, envelope_bytes, sign, balance, timeouts, keepalive, tls, .. } =
        upstream;
    let Upstream { slow_start, health, eject, retry, http2, .. } = upstream;
    out.line(1, &format!("{}:", quoted(name)));
    let url = |endpoint: &Endpoint| {
        let scheme = if endpoint.secure.is_some() { "https" } else { "http" };
        match endpoint.weight {
            1 => format!("\"{scheme}://{}\"", endpoint.authority),
            weight => format!("{{ url: \"{scheme}://{}\", weight: {weight} }}", endpoint.authority),
        }
    };
    out.line(2, &format!("endpoints: {}", list(endpoints, url)));
    out.line(2, &format!("resolve: {}", duration_text(*resolve)));
    let request = match request.method {
        UpstreamMethod::Post => format!("method: POST, path: {}", quoted(&request.path)),
        UpstreamMethod::Get => format!("method: GET, path: {}, body: none", quoted(&request.path)),
    };
    out.line(2, &format!("request: {{ {request} }}"));
    out.line(2, &format!("response: {{ envelope_bytes: {} }}", size_text(*envelope_bytes)));
    match sign {
        None => out.line(2, "sign: disabled"),
        Some(Sign { service, region, source, origin: _ }) => {
            let credentials = match source {
                SignSource::Default => "default".to_owned(),
                SignSource::File(path, _) => format!("{{ keys: {} }}", quoted_path(path)),
            };
            let (service, region) = (quoted(service), quoted(region));
            out.line(2, &format!("sign: {{ service: {service}, region: {region}, credentials: {credentials} }}"));
        }
    }
    let balance = match balance {
        Balance::LeastLoaded => "least_loaded",
        Balance::RoundRobin => "round_robin",
        Balance::HashPrincipal => "{ hash: principal }",
    };
    out.line(2, &format!("balance: {balance}"));
    out.line(2, &format!("slow_start: {}", duration_text(*slow_start)));
    match health {
        None => out.line(2, "health: disabled"),
        Some(Health { path, interval, timeout, healthy, unhealthy }) => {
            let (path, interval, timeout) = (quoted(path), duration_text(*interval), duration_text(*timeout));
            let times = format!("interval: {interval}, timeout: {timeout}");
            let counts = format!("healthy: {healthy}, unhealthy: {unhealthy}");
            out.line(2, &format!("health: {{ path: {path}, {times}, {counts} }}"));
        }
    }
    match eject {
        None => out.line(2, "eject: disabled"),
        Some(Eject { consecutive, longest, max_percent }) => {
            let longest = duration_text(*longest);
            let eject = format!("consecutive: {consecutive}, for: {longest}, max_percent: {max_percent}");
            out.line(2, &format!("eject: {{ {eject} }}"));
        }
    }
    let Retry { attempts, budget, backoff, idempotent } = retry;
    let backoff = format!("{}..{}", duration_text(backoff.0), duration_text(backoff.1));
    out.line(
        2,
        &format!("retry: {{ attempts: {attempts}, budget: {budget}%, backoff: {backoff}, idempotent: {idempotent} }}"),
    );
    let Timeouts { connect, first_byte, idle, total } = timeouts;
    let [connect, first_byte, idle, total] = [connect, first_byte, idle, total].map(|timeout| duration_text(*timeout));
    out.line(2, &format!("timeouts: {{ connect: {connect}, first_byte: {first_byte}, idle: {idle}, total: {total} }}"));
    out.line(2, &format!("keepalive: {keepalive}"));
    out.line(2, &format!("http2: {http2}"));
    write_tls(out, tls.as_ref());
}

fn write_tls(out: &mut Lines, tls: Option<&Tls>) {
    let or_null = |text: Option<String>| text.unwrap_or_else(|| "null".to_owned());
    let client = tls.and_then(|tls| tls.client.as_ref());
    let ca = or_null(tls.and_then(|tls| tls.ca.as_deref()).map(quoted_path));
    let name = or_null(tls.and_then(|tls| tls.server_name.as_ref()).map(|name| quoted(&name.to_str())));
    let cert = or_null(client.map(|client| quoted_path(&client.cert)));
    let key = or_null(client.map(|client| quoted_path(&client.key)));
    out.line(2, &format!("tls: {{ ca: {ca}, server_name: {name}, client_cert: {cert}, client_key: {key} }}"));
}

fn write_routes(out: &mut Lines, routes: &[Route]) {
    if routes.is_empty() {
        return out.line(0, "routes: []");
    }
    out.line(0, "routes:");
    for Route { intent, upstream } in routes {
        let intent = match intent {
            RouteIntent::Only(intent) => quoted(intent),
            RouteIntent::Others => quoted("*"),
        };
        out.line(1, &format!("- {{ intent: {intent}, upstream: {} }}", quoted(upstream)));
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.0, "{:1$}{text}", "", depth * 2);
    }
}

fn rate(rate: RateSetting) -> String {
    rate_text(Rate { count: rate.count, per: rate.per })
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A double-quoted scalar of visible ASCII, whatever the text: YAML 1.2.2, section 5.7.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            other => {
                let _ = write!(out, "\\U{:08x}", u32::from(other));
            }
        }
    }
    out.push('"');
    out
}
