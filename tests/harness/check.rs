//! What every response of Orbit must be, whatever a test is about.
//!
//! Invariant: the rules and tables here are written out again from the API contract and share
//! nothing with `src/`, so a slip there can't excuse itself here. A header that is on no list is a
//! leak and fails the test.

use serde_json::{Map, Value};

use super::client::Response;

/// What a response is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 200, Axon's object in Orbit's envelope.
    Success,
    /// Another success status of Axon, its object in Orbit's envelope.
    SuccessAs(u16),
    /// A success answer of Axon passed through byte for byte; the decision is in headers only.
    Passed,
    /// 403, the denied shape.
    Denied,
    /// An error object with this code.
    Error(&'static str),
    /// This 4xx of Axon with a JSON object of its own.
    AxonError(u16),
    /// This 4xx of Axon, its body replaced by an error object.
    AxonRefusal(u16),
    /// `/health`, 200.
    Healthy,
    /// `/health`, 503.
    Unhealthy,
    /// `/health/live`.
    Live,
    /// `/metrics`.
    Metrics,
}

/// Asserts that `response` keeps the contract as `kind`; gives its JSON, the text of metrics as a
/// string, or null where there is no JSON.
#[track_caller]
pub fn contract(response: &Response, kind: Kind) -> Value {
    judge(response, kind).unwrap_or_else(|why| {
        panic!("not a good {kind:?}: {why}\n{}", String::from_utf8_lossy(&response.raw));
    })
}

/// The `X-RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub limit: u64,
    pub remaining: u64,
    /// Unix seconds.
    pub reset: u64,
}

/// The limit that a response describes.
#[track_caller]
pub fn rate_limit(response: &Response) -> RateLimit {
    limit_headers(response).expect("X-RateLimit headers").expect("no X-RateLimit headers")
}

/// Status by code, from the contract's table.
const CODES: [(&str, u16); 14] = [
    ("INVALID_REQUEST", 400),
    ("MISSING_AUTHORIZATION", 401),
    ("INVALID_SIGNATURE", 401),
    ("GOVERNANCE_DENIED", 403),
    ("NOT_FOUND", 404),
    ("METHOD_NOT_ALLOWED", 405),
    ("REQUEST_TIMEOUT", 408),
    ("PAYLOAD_TOO_LARGE", 413),
    ("URI_TOO_LONG", 414),
    ("UNSUPPORTED_MEDIA_TYPE", 415),
    ("RATE_LIMIT_EXCEEDED", 429),
    ("HEADERS_TOO_LARGE", 431),
    ("INTERNAL_ERROR", 500),
    ("SERVICE_UNAVAILABLE", 503),
];

const SIGNATURE_ISSUES: [&str; 11] = [
    "malformed",
    "unsupported_algorithm",
    "unsigned_header",
    "missing_signed_header",
    "wrong_scope",
    "expired",
    "not_yet_valid",
    "payload_mismatch",
    "token_mismatch",
    "mismatch",
    "replayed",
];

/// Headers that may leave Orbit, in lower case.
const ALLOWED: [&str; 19] = [
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-correlation-id",
    "x-governance-decision",
    "x-governance-time-ms",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
];

/// Headers that describe Axon's bytes, so they may come with them.
const ALLOWED_WHEN_PASSED: [&str; 7] = [
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "etag",
    "expires",
    "last-modified",
];

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

fn judge(response: &Response, kind: Kind) -> Result<Value, String> {
    let expected = status(kind)?;
    let actual = response.status;
    let kind = if matches!(kind, Kind::SuccessAs(200..=299)) { Kind::Success } else { kind };
    let good = if kind == Kind::Passed { (200..300).contains(&actual) } else { actual == expected };
    ensure!(good, "status is {actual}, not {expected}");
    ensure!(response.interim.iter().all(|i| i.status == 100), "interim responses {:?}", response.interim);
    ensure!(response.trailers.is_empty(), "trailers {:?}", response.trailers);

    only_known_headers(response, kind)?;
    let correlation_id = identifiers(response)?;
    framing(response, kind)?;
    plain_headers(response, kind)?;
    limits(response, kind)?;
    let decision_time_ms = decision(response, kind)?;

    let content_type = header(response, "content-type")?;
    match kind {
        Kind::Passed => return Ok(Value::Null),
        Kind::Metrics => {
            let known = content_type.is_some_and(|t| {
                t.starts_with("text/plain; version=") || t.starts_with("application/openmetrics-text;")
            });
            ensure!(known, "content type of metrics is {content_type:?}");
            return String::from_utf8(response.body.clone()).map(Value::String).map_err(|e| e.to_string());
        }
        // Axon's own object may have a type of its own, such as problem details.
        Kind::AxonError(_) => {
            let json = content_type.is_some_and(|t| t.starts_with("application/") && t.contains("json"));
            ensure!(json, "content type is {content_type:?}");
        }
        _ => ensure!(content_type == Some("application/json"), "content type is {content_type:?}"),
    }
    if response.method == "HEAD" {
        ensure!(response.body.is_empty(), "a body in an answer to HEAD");
        return Ok(Value::Null);
    }

    let value: Value = serde_json::from_slice(&response.body).map_err(|e| format!("body is not JSON: {e}"))?;
    let body = value.as_object().ok_or("body is not an object")?;
    if let Some(inside) = body.get("correlation_id").filter(|_| !matches!(kind, Kind::AxonError(_))) {
        ensure!(inside == correlation_id, "correlation_id is {inside}, the header {correlation_id}");
    }
    match kind {
        Kind::Success => success(body, decision_time_ms)?,
        Kind::Denied => denied(body, decision_time_ms)?,
        Kind::Error(code) => error(body, Some(code))?,
        Kind::AxonRefusal(_) => error(body, None)?,
        Kind::Healthy | Kind::Unhealthy => health(body, kind)?,
        Kind::Live => ensure!(text(body, "status").is_ok(), "no status"),
        Kind::SuccessAs(_) | Kind::AxonError(_) | Kind::Passed | Kind::Metrics => {}
    }
    Ok(value)
}

fn status(kind: Kind) -> Result<u16, String> {
    Ok(match kind {
        Kind::Success | Kind::Passed | Kind::Healthy | Kind::Live | Kind::Metrics => 200,
        Kind::Denied => 403,
        Kind::Unhealthy => 503,
        Kind::SuccessAs(status) | Kind::AxonError(status) | Kind::AxonRefusal(status) => status,
        Kind::Error(code) => status_of(code).ok_or_else(|| format!("the contract has no code {code}"))?,
    })
}

fn status_of(code: &str) -> Option<u16> {
    CODES.iter().find(|(name, _)| *name == code).map(|(_, status)| *status)
}

fn only_known_headers(response: &Response, kind: Kind) -> Result<(), String> {
    let mut seen = Vec::new();
    for (name, _) in &response.headers {
        let lower = name.to_ascii_lowercase();
        let passed = kind == Kind::Passed && ALLOWED_WHEN_PASSED.contains(&lower.as_str());
        ensure!(passed || ALLOWED.contains(&lower.as_str()), "header `{name}` may not leave Orbit");
        ensure!(!seen.contains(&lower), "header `{name}` is repeated");
        seen.push(lower);
    }
    Ok(())
}

/// The correlation id, after a look at both identifiers.
fn identifiers(response: &Response) -> Result<&str, String> {
    let correlation = header(response, "x-correlation-id")?.ok_or("no X-Correlation-ID")?;
    let clean = correlation.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    ensure!(clean && (1..=128).contains(&correlation.len()), "X-Correlation-ID is {correlation:?}");
    let request = header(response, "x-request-id")?.ok_or("no X-Request-ID")?;
    ensure!(is_uuid_v7(request), "X-Request-ID is {request:?}");
    Ok(correlation)
}

/// RFC 9562, in lower case.
pub fn is_uuid_v7(text: &str) -> bool {
    let shape = |(at, b): (usize, u8)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        14 => b == b'7',
        19 => b"89ab".contains(&b),
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}

/// Only what is passed through may be of unknown length.
fn framing(response: &Response, kind: Kind) -> Result<(), String> {
    let length = header(response, "content-length")?;
    let coding = header(response, "transfer-encoding")?;
    ensure!(coding.is_none() || kind == Kind::Passed, "transfer coding in an answer of known length");
    ensure!(length.is_some() || kind == Kind::Passed, "no Content-Length");
    let body = response.body.len().to_string();
    ensure!(response.method == "HEAD" || length.is_none_or(|l| l == body), "{length:?} announced, {body} sent");
    Ok(())
}

fn plain_headers(response: &Response, kind: Kind) -> Result<(), String> {
    let status = response.status;
    if let Some(date) = header(response, "date")? {
        ensure!(date.len() == 29 && date.ends_with(" GMT"), "Date is {date:?}");
    }
    if let Some(value) = header(response, "connection")? {
        ensure!(matches!(value.to_ascii_lowercase().as_str(), "close" | "keep-alive"), "Connection is {value:?}");
    }
    let allow = header(response, "allow")?;
    let axons = matches!(kind, Kind::AxonError(405) | Kind::AxonRefusal(405));
    ensure!(axons || allow.is_some() == (status == 405), "Allow is {allow:?} on a {status}");
    ensure!(status == 401 || header(response, "www-authenticate")?.is_none(), "WWW-Authenticate on a {status}");
    match header(response, "retry-after")? {
        Some(seconds) => ensure!(whole(seconds).is_some_and(|s| s >= 1), "Retry-After is {seconds:?}"),
        None => ensure!(status != 429 && status != 503, "a {status} without Retry-After"),
    }
    Ok(())
}

/// Limits are described when they were reached, and never elsewhere.
fn limits(response: &Response, kind: Kind) -> Result<(), String> {
    let described = limit_headers(response)?;
    let (policy, state) = (header(response, "ratelimit-policy")?, header(response, "ratelimit")?);
    let unreached = matches!(
        kind,
        Kind::Healthy | Kind::Unhealthy | Kind::Live | Kind::Metrics | Kind::Error("NOT_FOUND" | "METHOD_NOT_ALLOWED")
    );
    let any = described.is_some() || policy.is_some() || state.is_some();
    ensure!(!(unreached && any), "limits described where none was reached");
    ensure!(policy.is_some() == state.is_some(), "RateLimit-Policy is {policy:?}, RateLimit is {state:?}");
    if let (Some(policy), Some(state)) = (policy, state) {
        let (policies, states) = (structured(policy, ["q", "w"])?, structured(state, ["r", "t"])?);
        ensure!(policies == states, "policies {policies:?}, states {states:?}");
    }
    if kind == Kind::Error("RATE_LIMIT_EXCEEDED") {
        let refused = described.ok_or("a 429 without X-RateLimit headers")?;
        ensure!(refused.remaining == 0, "refused with {} remaining", refused.remaining);
        ensure!(policy.is_some(), "a 429 without RateLimit-Policy");
    }
    Ok(())
}

fn limit_headers(response: &Response) -> Result<Option<RateLimit>, String> {
    let mut values = Vec::new();
    for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"] {
        if let Some(value) = header(response, name)? {
            values.push(whole(value).ok_or_else(|| format!("{name} is {value:?}"))?);
        }
    }
    match values[..] {
        [] => Ok(None),
        [limit, remaining, reset] => {
            ensure!(remaining <= limit, "{remaining} of {limit} remaining");
            ensure!(reset > 1_000_000_000, "X-RateLimit-Reset is {reset}, not a Unix time");
            Ok(Some(RateLimit { limit, remaining, reset }))
        }
        _ => Err(format!("{} of three X-RateLimit headers", values.len())),
    }
}

/// The names in a structured list like `"per_ip";q=100;w=60, "global";q=1000;w=60`; `keys` are the
/// integer parameters of each, the first of them required.
fn structured(list: &str, keys: [&str; 2]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for item in list.split(',').map(str::trim) {
        let mut parts = item.split(';');
        let name = parts.next().and_then(|n| n.strip_prefix('"')?.strip_suffix('"')).filter(|n| !n.is_empty());
        names.push(name.ok_or_else(|| format!("no quoted name in {item:?}"))?.to_owned());
        let mut given = Vec::new();
        for parameter in parts {
            let (key, value) = parameter.split_once('=').ok_or_else(|| format!("{parameter:?} in {item:?}"))?;
            ensure!(keys.contains(&key) && whole(value).is_some(), "{parameter:?} in {item:?}");
            given.push(key);
        }
        ensure!(given.contains(&keys[0]), "no {} in {item:?}", keys[0]);
    }
    names.sort();
    Ok(names)
}

/// The decision time, after a look at both governance headers.
fn decision(response: &Response, kind: Kind) -> Result<Option<f64>, String> {
    let decision = header(response, "x-governance-decision")?;
    let time = header(response, "x-governance-time-ms")?;
    let allowed: &[Option<&str>] = match kind {
        Kind::Success | Kind::Passed | Kind::AxonError(_) | Kind::AxonRefusal(_) => &[Some("allowed")],
        Kind::Denied => &[Some("denied")],
        // Either side of governance.
        Kind::Error("INTERNAL_ERROR" | "SERVICE_UNAVAILABLE") => &[None, Some("allowed")],
        Kind::Error(_) | Kind::Healthy | Kind::Unhealthy | Kind::Live | Kind::Metrics => &[None],
        Kind::SuccessAs(status) => return Err(format!("{status} is no success")),
    };
    ensure!(allowed.contains(&decision), "X-Governance-Decision is {decision:?}");
    ensure!(decision.is_some() == time.is_some(), "X-Governance-Time-Ms is {time:?}");
    let Some(time) = time else { return Ok(None) };
    let (whole_ms, decimals) = time.split_once('.').unwrap_or((time, "0"));
    let plain = whole(whole_ms).is_some() && whole(decimals).is_some() && decimals.len() <= 3;
    ensure!(plain, "X-Governance-Time-Ms is {time:?}");
    time.parse().map(Some).map_err(|_| format!("X-Governance-Time-Ms is {time:?}"))
}

fn success(body: &Map<String, Value>, decision_time_ms: Option<f64>) -> Result<(), String> {
    text(body, "status")?;
    text(body, "correlation_id")?;
    timestamp(body)?;
    governance(body, true, decision_time_ms).map(drop)
}

fn denied(body: &Map<String, Value>, decision_time_ms: Option<f64>) -> Result<(), String> {
    let members = ["status", "reason", "code", "correlation_id", "timestamp", "governance"];
    exactly(body, &members, &[])?;
    ensure!(text(body, "status")? == "denied", "status is not `denied`");
    ensure!(text(body, "code")? == "GOVERNANCE_DENIED", "code is not `GOVERNANCE_DENIED`");
    timestamp(body)?;
    let reason = governance(body, false, decision_time_ms)?;
    ensure!(text(body, "reason")? == reason, "two different reasons");
    Ok(())
}

/// Checks the `governance` object and gives its reason.
fn governance(body: &Map<String, Value>, allowed: bool, decision_time_ms: Option<f64>) -> Result<&str, String> {
    let object = body.get("governance").and_then(Value::as_object).ok_or("no governance object")?;
    exactly(object, &["allowed", "reason", "decision_time_ms"], &[])?;
    ensure!(object.get("allowed") == Some(&Value::Bool(allowed)), "governance.allowed is not {allowed}");
    let time = object.get("decision_time_ms").and_then(Value::as_f64).ok_or("decision_time_ms is not a number")?;
    let micros = time * 1000.0;
    ensure!(time >= 0.0 && (micros - micros.round()).abs() < 1e-6, "decision_time_ms is {time}");
    ensure!(Some(time) == decision_time_ms, "decision_time_ms is {time}, the header {decision_time_ms:?}");
    text(object, "reason")
}

fn error(body: &Map<String, Value>, expected: Option<&str>) -> Result<(), String> {
    exactly(body, &["error", "code", "correlation_id", "timestamp"], &["details"])?;
    let sentence = text(body, "error")?;
    ensure!(!sentence.contains(char::is_control), "error is {sentence:?}");
    let code = text(body, "code")?;
    ensure!(status_of(code).is_some() && code != "GOVERNANCE_DENIED", "no error has code {code}");
    ensure!(expected.is_none_or(|e| e == code), "code is {code}");
    timestamp(body)?;
    let details = match body.get("details") {
        None => None,
        Some(details) => Some(details.as_object().ok_or("details is not an object")?),
    };
    match expected {
        Some(code) => details_of(code, sentence, details),
        None => Ok(()),
    }
}

fn details_of(code: &str, sentence: &str, details: Option<&Map<String, Value>>) -> Result<(), String> {
    let required = || details.ok_or_else(|| format!("a {code} without details"));
    match code {
        "INVALID_REQUEST" => {
            let details = required()?;
            exactly(details, &["field", "issue"], &[])?;
            text(details, "field")?;
            ensure!(text(details, "issue")? == sentence, "issue and error differ");
        }
        "INVALID_SIGNATURE" => {
            let details = required()?;
            let issue = text(details, "issue")?;
            ensure!(SIGNATURE_ISSUES.contains(&issue), "no signature issue is called {issue}");
            if matches!(issue, "expired" | "not_yet_valid") {
                let times = ["server_time", "request_time", "allowed_skew_seconds"];
                exactly(details, &["issue", times[0], times[1], times[2]], &["hint"])?;
                for name in &times[..2] {
                    ensure!(is_rfc3339_utc(text(details, name)?), "{name} is not a timestamp");
                }
                ensure!(details.get(times[2]).is_some_and(Value::is_u64), "{} is not whole seconds", times[2]);
            } else {
                exactly(details, &["issue"], &["hint"])?;
            }
            if details.contains_key("hint") {
                let hint = text(details, "hint")?;
                ensure!(!hint.contains(char::is_control) && hint.len() < 1000, "no hint is {hint:?}");
            }
        }
        "RATE_LIMIT_EXCEEDED" => {
            let details = required()?;
            exactly(details, &["limit"], &[])?;
            let limit = text(details, "limit")?;
            ensure!(matches!(limit, "per_ip" | "global"), "no limit that answers 429 is called {limit}");
        }
        "SERVICE_UNAVAILABLE" => {
            let details = required()?;
            exactly(details, &["issue"], &[])?;
            text(details, "issue")?;
        }
        _ => ensure!(details.is_none(), "{code} with details {details:?}"),
    }
    Ok(())
}

fn health(body: &Map<String, Value>, kind: Kind) -> Result<(), String> {
    // A healthy one may name upstreams that are out while others are not.
    let word = if kind == Kind::Healthy { "healthy" } else { "unhealthy" };
    exactly(body, &["status", "service", "timestamp", "version"], &["checks"])?;
    ensure!(text(body, "status")? == word, "status is not `{word}`");
    text(body, "service")?;
    timestamp(body)?;
    let version = text(body, "version")?;
    ensure!(version.split('.').count() == 3, "version is {version:?}");
    match body.get("checks") {
        None => ensure!(kind == Kind::Healthy, "checks is missing"),
        Some(checks) => ensure!(checks.as_object().is_some_and(|c| !c.is_empty()), "checks names nothing"),
    }
    Ok(())
}

fn exactly(object: &Map<String, Value>, required: &[&str], optional: &[&str]) -> Result<(), String> {
    for name in required {
        ensure!(object.contains_key(*name), "no `{name}`");
    }
    for name in object.keys() {
        ensure!(required.contains(&name.as_str()) || optional.contains(&name.as_str()), "unexpected `{name}`");
    }
    Ok(())
}

/// A member that is a string and not empty.
fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let text = object.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    text.ok_or_else(|| format!("`{name}` is not a string with something in it"))
}

fn timestamp(body: &Map<String, Value>) -> Result<(), String> {
    let timestamp = text(body, "timestamp")?;
    ensure!(is_rfc3339_utc(timestamp), "timestamp is {timestamp:?}");
    Ok(())
}

/// RFC 3339 in UTC, written with `Z`; a fraction is allowed.
pub fn is_rfc3339_utc(text: &str) -> bool {
    let Some((date, time)) = text.strip_suffix('Z').and_then(|t| t.split_once('T')) else { return false };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let numbers = |text: &str, glue: char, widths: [usize; 3]| -> Option<[u64; 3]> {
        let parts: Vec<&str> = text.split(glue).collect();
        let shaped = parts.len() == 3 && parts.iter().zip(widths).all(|(p, width)| p.len() == width);
        let parts = parts.into_iter().map(whole).collect::<Option<Vec<_>>>()?;
        parts.try_into().ok().filter(|_| shaped)
    };
    let Some([_, month, day]) = numbers(date, '-', [4, 2, 2]) else { return false };
    let Some([hour, minute, second]) = numbers(time, ':', [2, 2, 2]) else { return false };
    let real = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    real && whole(fraction).is_some()
}

/// Plain decimal digits.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn header<'a>(response: &'a Response, name: &str) -> Result<Option<&'a str>, String> {
    let mut values = response.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let first = values.next();
    ensure!(values.next().is_none(), "header `{name}` is repeated");
    Ok(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: &Value) -> Response {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let length = body.len().to_string();
        let common = [
            ("Content-Type", "application/json"),
            ("Content-Length", &length),
            ("X-Correlation-ID", "abc123-def456"),
            ("X-Request-ID", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ];
        let headers = common.iter().chain(headers).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Response { status, headers, body, method: "POST".to_owned(), ..Response::default() }
    }

    fn error_body(code: &str, sentence: &str, details: Option<Value>) -> Value {
        let mut body = json!({
            "error": sentence, "code": code, "correlation_id": "abc123-def456", "timestamp": "2024-01-15T10:30:00Z"
        });
        body.as_object_mut().unwrap().extend(details.map(|d| ("details".to_owned(), d)));
        body
    }

    const DECIDED: [(&str, &str); 2] = [("X-Governance-Decision", "allowed"), ("X-Governance-Time-Ms", "0.012")];
    const LIMITED: [(&str, &str); 5] = [
        ("X-RateLimit-Limit", "1000"),
        ("X-RateLimit-Remaining", "0"),
        ("X-RateLimit-Reset", "1705314600"),
        ("RateLimit-Policy", "\"per_ip\";q=100;w=60, \"global\";q=1000;w=60"),
        ("RateLimit", "\"global\";r=0;t=7, \"per_ip\";r=99"),
    ];

    /// One good response of each kind.
    fn good() -> Vec<(Kind, Response)> {
        let governance = |allowed, reason| json!({"allowed": allowed, "reason": reason, "decision_time_ms": 0.012});
        let success = json!({
            "status": "success", "message": "Axon heartbeat OK", "service": "axon", "correlation_id": "abc123-def456",
            "timestamp": "2024-01-15T10:30:00.123Z", "governance": governance(true, "Request authorized")
        });
        let denied = json!({
            "status": "denied", "reason": "Policy is disabled", "code": "GOVERNANCE_DENIED",
            "correlation_id": "abc123-def456", "timestamp": "2024-01-15T10:30:00Z",
            "governance": governance(false, "Policy is disabled")
        });
        let health =
            |word| json!({"status": word, "service": "orbit", "timestamp": "2024-01-15T10:30:00Z", "version": "1.0.0"});
        let mut unhealthy = health("unhealthy");
        unhealthy["checks"] = json!({"axon": "no healthy backend"});
        let refused = [("X-Governance-Decision", "denied"), ("X-Governance-Time-Ms", "0.012")];
        let retry = ("Retry-After", "1");
        let field = json!({"field": "intent", "issue": "required field missing"});
        let (server_time, request_time) = ("2024-01-15T10:40:00Z", "2024-01-15T10:30:00Z");
        let skew = json!({
            "issue": "expired", "server_time": server_time, "request_time": request_time, "allowed_skew_seconds": 300,
        });
        let bare = |code| error_body(code, "a sentence", None);
        let detailed = |code, details| error_body(code, "a sentence", Some(details));
        let mut metrics = response(200, &[], &json!("orbit_requests_total 1"));
        metrics.headers[0].1 = "text/plain; version=0.0.4".to_owned();
        vec![
            (Kind::Success, response(200, &[&DECIDED[..], &LIMITED].concat(), &success)),
            (Kind::SuccessAs(202), response(202, &[&DECIDED[..], &LIMITED].concat(), &success)),
            (Kind::Passed, response(200, &DECIDED, &json!([1]))),
            (Kind::Denied, response(403, &refused, &denied)),
            (
                Kind::Error("INVALID_REQUEST"),
                response(400, &[], &error_body("INVALID_REQUEST", "required field missing", Some(field))),
            ),
            (
                Kind::Error("MISSING_AUTHORIZATION"),
                response(401, &[("WWW-Authenticate", "AWS4-HMAC-SHA256")], &bare("MISSING_AUTHORIZATION")),
            ),
            (Kind::Error("INVALID_SIGNATURE"), response(401, &[], &detailed("INVALID_SIGNATURE", skew))),
            (
                Kind::Error("INVALID_SIGNATURE"),
                response(401, &[], &detailed("INVALID_SIGNATURE", json!({"issue": "mismatch"}))),
            ),
            (Kind::Error("NOT_FOUND"), response(404, &[], &bare("NOT_FOUND"))),
            (
                Kind::Error("METHOD_NOT_ALLOWED"),
                response(405, &[("Allow", "POST"), ("Connection", "close")], &bare("METHOD_NOT_ALLOWED")),
            ),
            (
                Kind::Error("RATE_LIMIT_EXCEEDED"),
                response(
                    429,
                    &[&LIMITED[..], &[retry]].concat(),
                    &detailed("RATE_LIMIT_EXCEEDED", json!({"limit": "per_ip"})),
                ),
            ),
            (
                Kind::Error("SERVICE_UNAVAILABLE"),
                response(
                    503,
                    &[&DECIDED[..], &[retry]].concat(),
                    &detailed("SERVICE_UNAVAILABLE", json!({"issue": "overload"})),
                ),
            ),
            (Kind::AxonError(422), response(422, &DECIDED, &json!({"correlation_id": "Axon's own"}))),
            (Kind::AxonRefusal(429), response(429, &[&DECIDED[..], &[retry]].concat(), &bare("RATE_LIMIT_EXCEEDED"))),
            (Kind::AxonRefusal(418), response(418, &DECIDED, &bare("INVALID_REQUEST"))),
            (Kind::Healthy, response(200, &[("Date", "Sun, 06 Nov 1994 08:49:37 GMT")], &health("healthy"))),
            (Kind::Unhealthy, response(503, &[retry], &unhealthy)),
            (Kind::Live, response(200, &[], &json!({"status": "alive"}))),
            (Kind::Metrics, metrics),
        ]
    }

    #[test]
    fn good_responses_pass() {
        for (kind, response) in good() {
            contract(&response, kind);
        }
        assert_eq!(rate_limit(&good()[0].1), RateLimit { limit: 1000, remaining: 0, reset: 1_705_314_600 });
    }

    #[test]
    fn a_good_response_is_not_good_as_another_kind() {
        let good = good();
        for (kind, response) in &good {
            for (other, _) in good.iter().filter(|(other, _)| other != kind) {
                // Axon's own object may be anything, an error object of Orbit's included, and so may what is passed.
                if matches!(other, Kind::Passed) || (*other, *kind) == (Kind::Live, Kind::Healthy) {
                    continue;
                }
                assert!(judge(response, *other).is_err(), "{kind:?} passed as {other:?}");
            }
        }
    }

    #[test]
    fn every_required_header_and_member_is_missed() {
        let optional = ["www-authenticate", "date", "connection", "message", "service"];
        for (kind, response) in good() {
            for at in 0..response.headers.len() {
                let mut less = response.clone();
                let (name, _) = less.headers.remove(at);
                let free = optional.contains(&name.to_ascii_lowercase().as_str())
                    || (kind == Kind::Passed && matches!(name.as_str(), "Content-Type" | "Content-Length"));
                assert_eq!(judge(&less, kind).is_ok(), free, "{kind:?} without {name}");
            }
            let Ok(Value::Object(body)) = serde_json::from_slice(&response.body) else { continue };
            for name in body.keys().filter(|_| !matches!(kind, Kind::Passed | Kind::AxonError(_))) {
                let mut less = body.clone();
                less.remove(name);
                let mut response = response.clone();
                response.body = Value::Object(less).to_string().into_bytes();
                response.headers[1].1 = response.body.len().to_string();
                let free = matches!(kind, Kind::Success | Kind::SuccessAs(_)) && optional.contains(&name.as_str());
                assert_eq!(judge(&response, kind).is_ok(), free, "{kind:?} without {name}");
            }
        }
    }

    #[test]
    fn additions_are_leaks() {
        for (kind, response) in good() {
            for (name, value) in [("Server", "Pingora"), ("X-Request-ID", "01890a5d-ac96-774b-bcce-b302099a8057")] {
                let mut more = response.clone();
                more.headers.push((name.to_owned(), value.to_owned()));
                assert!(judge(&more, kind).is_err(), "{kind:?} with another {name}");
            }
            let Ok(Value::Object(mut body)) = serde_json::from_slice(&response.body) else { continue };
            if matches!(kind, Kind::Success | Kind::SuccessAs(_) | Kind::Passed | Kind::AxonError(_) | Kind::Live) {
                continue;
            }
            body.insert("stack".to_owned(), json!("trace"));
            let mut more = response.clone();
            more.body = Value::Object(body).to_string().into_bytes();
            more.headers[1].1 = more.body.len().to_string();
            assert_eq!(judge(&more, kind).unwrap_err(), "unexpected `stack`", "{kind:?}");
        }
    }

    #[test]
    fn values_out_of_shape_are_caught() {
        let cases = [
            ("X-Correlation-ID", "a b"),
            ("X-Correlation-ID", "other"),
            ("X-Request-ID", "01890a5d-ac96-474b-bcce-b302099a8057"),
            ("Content-Length", "1"),
            ("Content-Type", "application/json; charset=utf-8"),
            ("X-Governance-Decision", "denied"),
            ("X-Governance-Time-Ms", "0.0121"),
            ("X-Governance-Time-Ms", "0.013"),
            ("X-RateLimit-Remaining", "1001"),
            ("X-RateLimit-Reset", "60"),
            ("RateLimit", "global;r=0"),
            ("RateLimit", "\"global\";r=0"),
            ("RateLimit-Policy", "\"per_ip\";w=60, \"global\";q=1000"),
        ];
        let (kind, success) = good().remove(0);
        for (name, value) in cases {
            let mut bad = success.clone();
            bad.headers.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.to_owned();
            assert!(judge(&bad, kind).is_err(), "{name}: {value}");
        }
        let mut hinted = success.clone();
        hinted.interim.push(super::super::client::Interim { status: 103, headers: Vec::new() });
        assert!(judge(&hinted, kind).is_err());

        let kind = Kind::Error("RATE_LIMIT_EXCEEDED");
        let (_, limited) = good().into_iter().find(|(k, _)| *k == kind).unwrap();
        for (name, value) in [("Retry-After", "0"), ("Retry-After", "1.5"), ("X-RateLimit-Remaining", "1")] {
            let mut bad = limited.clone();
            bad.headers.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.to_owned();
            assert!(judge(&bad, kind).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn members_out_of_shape_are_caught() {
        let cases = [
            (Kind::Success, "/status", json!(1)),
            (Kind::Success, "/timestamp", json!("2024-01-15T10:30:00+00:00")),
            (Kind::Success, "/governance/allowed", json!(false)),
            (Kind::Success, "/governance/reason", json!("")),
            (Kind::Success, "/governance/decision_time_ms", json!("0.012")),
            (Kind::Denied, "/status", json!("success")),
            (Kind::Denied, "/reason", json!("another")),
            (Kind::Denied, "/code", json!("DENIED")),
            (Kind::Error("INVALID_REQUEST"), "/details/field", json!(1)),
            (Kind::Error("INVALID_REQUEST"), "/details/issue", json!("another")),
            (Kind::Error("INVALID_SIGNATURE"), "/details/issue", json!("unknown key")),
            (Kind::Error("INVALID_SIGNATURE"), "/details/server_time", json!("soon")),
            (Kind::Error("RATE_LIMIT_EXCEEDED"), "/details/limit", json!("governance")),
            (Kind::Error("SERVICE_UNAVAILABLE"), "/details/issue", json!("")),
            (Kind::Error("NOT_FOUND"), "/code", json!("INVALID_REQUEST")),
            (Kind::Error("NOT_FOUND"), "/error", json!("two\nlines")),
            (Kind::AxonRefusal(418), "/code", json!("GOVERNANCE_DENIED")),
            (Kind::AxonRefusal(418), "/code", json!("TEAPOT")),
            (Kind::Healthy, "/version", json!("1")),
            (Kind::Healthy, "/status", json!("unhealthy")),
            (Kind::Unhealthy, "/checks", json!({})),
        ];
        for (kind, pointer, value) in cases {
            let mut edited = 0;
            for (_, mut response) in good().into_iter().filter(|(k, _)| *k == kind) {
                let mut body = response.json();
                let Some(member) = body.pointer_mut(pointer) else { continue };
                *member = value.clone();
                response.body = body.to_string().into_bytes();
                response.headers[1].1 = response.body.len().to_string();
                assert!(judge(&response, kind).is_err(), "{kind:?} with {value} at {pointer}");
                edited += 1;
            }
            assert!(edited > 0, "no {pointer} in {kind:?}");
        }
    }

    #[test]
    fn headers_out_of_place_are_caught() {
        let cases = [
            (Kind::Success, vec![("Transfer-Encoding", "chunked")]),
            (Kind::Success, vec![("Content-Encoding", "gzip")]),
            (Kind::Success, vec![("Cache-Control", "no-store"), ("cache-control", "no-store")]),
            (Kind::Success, vec![("Connection", "X-Request-ID")]),
            (Kind::Success, vec![("Date", "1994-11-06")]),
            (Kind::Error("NOT_FOUND"), LIMITED.to_vec()),
            (Kind::Error("NOT_FOUND"), vec![("WWW-Authenticate", "AWS4-HMAC-SHA256")]),
            (Kind::Error("NOT_FOUND"), vec![("Allow", "POST")]),
            (Kind::Error("INVALID_REQUEST"), DECIDED.to_vec()),
            (Kind::Healthy, LIMITED.to_vec()),
        ];
        for (kind, headers) in cases {
            let (_, mut response) = good().into_iter().find(|(k, _)| *k == kind).unwrap();
            response.headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
            assert!(judge(&response, kind).is_err(), "{kind:?} with {headers:?}");
        }
        let (kind, mut response) = good().remove(0);
        response.trailers.push(("Grpc-Status".to_owned(), "0".to_owned()));
        assert!(judge(&response, kind).is_err());
    }

    #[test]
    fn an_answer_to_head_has_the_headers_and_no_body() {
        let (kind, mut response) = good().into_iter().find(|(kind, _)| *kind == Kind::Healthy).unwrap();
        response.method = "HEAD".to_owned();
        assert!(judge(&response, kind).is_err());
        response.body.clear();
        assert_eq!(contract(&response, kind), Value::Null);
    }

    #[test]
    fn timestamps() {
        for good in ["2024-01-15T10:30:00Z", "2024-01-15T10:30:00.123456Z"] {
            assert!(is_rfc3339_utc(good), "{good}");
        }
        let bad = ["2024-01-15T10:30:00+00:00", "2024-01-15 10:30:00Z", "2024-13-15T10:30:00Z", "24-01-15T10:30:00Z"];
        for bad in bad.into_iter().chain(["2024-01-15T10:30:00.Z", "2024-01-15T24:30:00Z", ""]) {
            assert!(!is_rfc3339_utc(bad), "{bad}");
        }
    }
}
