//! What Orbit answers itself: `/health`, `/health/live`, `/metrics`.

use http::header::HeaderValue;

use crate::axon::envelope::json_string;
use crate::clock::Moment;
use crate::reply::{Answer, timestamp};
use crate::request::Head;
use crate::request::head::One;
use crate::telemetry::metrics::CONTENT_TYPE;

/// Orbit's version, as `/health` and the metrics tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether an instance is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness<'a> {
    /// `out`: upstreams that cannot be used, each with why, beside others that can.
    Ready {
        out: Vec<(&'a str, &'static str)>,
    },
    Draining,
    /// No upstream can be used.
    NoUpstream {
        out: Vec<(&'a str, &'static str)>,
    },
}

/// Why an upstream cannot be used.
pub const NO_HEALTHY_BACKEND: &str = "no healthy backend";
pub const CREDENTIALS_EXPIRED: &str = "signing credentials expired";

impl<'a> Readiness<'a> {
    /// Of a gateway that is not draining, by the names of its upstreams and what keeps each from being used.
    pub fn of(upstreams: impl Iterator<Item = (&'a str, Option<&'static str>)>) -> Self {
        let (out, usable): (Vec<_>, Vec<_>) = upstreams.partition(|(_, why)| why.is_some());
        let out = out.into_iter().filter_map(|(name, why)| Some((name, why?))).collect();
        if usable.is_empty() { Readiness::NoUpstream { out } } else { Readiness::Ready { out } }
    }
}

/// The readiness answer: 503 tells a balancer to send clients elsewhere.
pub fn health(service: &str, readiness: &Readiness<'_>, now: Moment) -> Answer {
    let unready = |checks: &[(&str, &str)]| Answer {
        retry_after: Some(1),
        ..Answer::json(503, body("unhealthy", service, checks, now))
    };
    match readiness {
        Readiness::Ready { out } => Answer::json(200, body("healthy", service, out, now)),
        Readiness::Draining => unready(&[("drain", "draining")]),
        Readiness::NoUpstream { out } => unready(out),
    }
}

/// The liveness answer: 200 for as long as the process serves.
pub fn live(service: &str, now: Moment) -> Answer {
    Answer::json(200, body("healthy", service, &[], now))
}

fn body(status: &str, service: &str, checks: &[(&str, &str)], now: Moment) -> Vec<u8> {
    let mut body = Vec::with_capacity(160);
    body.extend_from_slice(br#"{"status":"#);
    json_string(status, &mut body);
    body.extend_from_slice(br#","service":"#);
    json_string(service, &mut body);
    body.extend_from_slice(br#","timestamp":"#);
    json_string(&timestamp(now), &mut body);
    body.extend_from_slice(br#","version":"#);
    json_string(VERSION, &mut body);
    for (position, (name, what)) in checks.iter().enumerate() {
        body.extend_from_slice(if position == 0 { br#","checks":{"# } else { b"," });
        json_string(name, &mut body);
        body.push(b':');
        json_string(what, &mut body);
    }
    if !checks.is_empty() {
        body.push(b'}');
    }
    body.push(b'}');
    body
}

/// The metrics, as OpenMetrics if the scraper accepts that.
pub fn metrics(text: String, head: &Head) -> Answer {
    let wants_open = match head.one(b"accept") {
        One::Single(accept) => memchr::memmem::find(accept, b"application/openmetrics-text").is_some(),
        One::Absent | One::Repeated => false,
    };
    if wants_open {
        let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        return Answer { content_type, ..Answer::json(200, open_metrics(&text)) };
    }
    Answer { content_type: HeaderValue::from_static(CONTENT_TYPE), ..Answer::json(200, text) }
}

/// OpenMetrics 1.0 names a counter's family without `_total` and ends in `# EOF`; the samples are the same.
fn open_metrics(text: &str) -> String {
    let counters: std::collections::HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.strip_suffix("_total"))
        .collect();
    let mut out = String::with_capacity(text.len() + 16);
    for line in text.lines() {
        let comment = ["# HELP ", "# TYPE "].into_iter().find_map(|c| line.strip_prefix(c).map(|rest| (c, rest)));
        let family = comment.and_then(|(c, rest)| {
            let (name, rest) = rest.split_once(' ')?;
            let family = name.strip_suffix("_total").filter(|family| counters.contains(family))?;
            Some((c, family, rest))
        });
        match family {
            Some((comment, family, rest)) => out.extend([comment, family, " ", rest, "\n"]),
            None => out.extend([line, "\n"]),
        }
    }
    out.push_str("# EOF\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_names_families_without_total() {
        let text = "# HELP a_total things\n# TYPE a_total counter\na_total{x=\"y\"} 1\n# TYPE b gauge\nb 2\n";
        let want = "# HELP a things\n# TYPE a counter\na_total{x=\"y\"} 1\n# TYPE b gauge\nb 2\n# EOF\n";
        assert_eq!(open_metrics(text), want);
    }
}
