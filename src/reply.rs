//! The only writer of answers that Orbit makes itself, and of the headers that every answer carries.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderName;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use pingora_http::ResponseHeader;

use crate::axon::envelope::json_string;
use crate::clock::Moment;
use crate::error::{Code, Details, Rejection};
use crate::gate::Standing;
use crate::gate::seconds_up;
use crate::observation::Decided;
use crate::request::correlation::Ids;

/// An answer that is whole before it is sent.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: HeaderValue,
    pub body: Bytes,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u64>,
    /// For `405`.
    pub allow: Option<&'static str>,
    /// Whether the connection ends with it.
    pub close: bool,
}

/// `application/json`
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// RFC 3339, UTC, whole seconds.
pub fn timestamp(now: Moment) -> String {
    rfc3339(now.unix_seconds())
}

fn rfc3339(unix_seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_seconds)).to_string()
}

/// Milliseconds with microsecond precision: `0.012`.
pub fn milliseconds(duration: Duration) -> String {
    let micros = duration.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

impl Answer {
    /// A JSON body.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: JSON, body: body.into(), retry_after: None, allow: None, close: false }
    }

    /// The error shape of `api.md`.
    pub fn rejection(rejection: &Rejection, ids: &Ids, now: Moment) -> Self {
        let status = rejection.code.status();
        let body = error_body(rejection.code, rejection.sentence(), &rejection.details, ids, now);
        let demanded = matches!(rejection.code, Code::RateLimitExceeded | Code::ServiceUnavailable).then_some(1);
        Self {
            retry_after: rejection.retry_after.or(demanded).map(|s| s.max(1)),
            close: rejection.close,
            ..Self::json(status, body)
        }
    }

    /// The error shape for a status that Axon chose and whose body is none of ours.
    pub fn upstream_refusal(status: u16, retry_after: Option<u64>, ids: &Ids, now: Moment) -> Self {
        let same = |code: &Code| code.status() == status && !matches!(status, 400 | 401 | 403);
        let code = Code::ALL.into_iter().find(same).unwrap_or(Code::InvalidRequest);
        let sentence = if code == Code::InvalidRequest { "request refused by Axon" } else { code.sentence() };
        let body = error_body(code, sentence, &Details::Issue("upstream_refused"), ids, now);
        Self { retry_after: retry_after_of(status, retry_after), ..Self::json(status, body) }
    }

    /// The denied shape of `api.md`.
    pub fn denied(decision: &Decided, ids: &Ids, now: Moment) -> Self {
        let mut body = Vec::with_capacity(320);
        body.extend_from_slice(br#"{"status":"denied","reason":"#);
        json_string(&decision.reason, &mut body);
        body.extend_from_slice(br#","code":"GOVERNANCE_DENIED""#);
        stamp(&mut body, ids, now);
        body.extend_from_slice(br#","governance":{"allowed":false,"reason":"#);
        json_string(&decision.reason, &mut body);
        body.extend_from_slice(br#","decision_time_ms":"#);
        body.extend_from_slice(milliseconds(decision.took).as_bytes());
        body.extend_from_slice(b"}}");
        Self::json(Code::GovernanceDenied.status(), body)
    }

    /// The head of this answer.
    pub fn head(&self, common: &Common<'_>) -> Result<ResponseHeader, Box<pingora::Error>> {
        let mut head = ResponseHeader::build_no_case(self.status, Some(16))?;
        head.insert_header(CONTENT_TYPE, self.content_type.clone())?;
        head.insert_header(CONTENT_LENGTH, self.body.len())?;
        if let Some(seconds) = self.retry_after {
            head.insert_header(RETRY_AFTER, seconds)?;
        }
        if let Some(allow) = self.allow {
            head.insert_header(ALLOW, HeaderValue::from_static(allow))?;
        }
        common.write(&mut head)?;
        Ok(head)
    }

    /// This answer as bytes, closing the connection; for requests that never became a session.
    pub fn to_wire(&self, common: &Common<'_>) -> Vec<u8> {
        let mut wire = Vec::with_capacity(512 + self.body.len());
        let Ok(mut head) = self.head(common) else { return wire };
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_nanos(common.now.unix_nanos));
        let _ = head.insert_header(http::header::DATE, date.to_string());
        let _ = head.insert_header(http::header::CONNECTION, HeaderValue::from_static("close"));
        let reason = head.status.canonical_reason().unwrap_or("");
        wire.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", self.status).as_bytes());
        for (name, value) in &head.headers {
            wire.extend_from_slice(name.as_str().as_bytes());
            wire.extend_from_slice(b": ");
            wire.extend_from_slice(value.as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(&self.body);
        wire
    }
}

/// `Retry-After` where the contract demands it: Axon's own word, else one second.
pub fn retry_after_of(status: u16, given: Option<u64>) -> Option<u64> {
    match status {
        429 | 503 => Some(given.unwrap_or(1).max(1)),
        _ => given,
    }
}

fn error_body(code: Code, sentence: &str, details: &Details, ids: &Ids, now: Moment) -> Vec<u8> {
    let mut body = Vec::with_capacity(320);
    body.extend_from_slice(br#"{"error":"#);
    json_string(sentence, &mut body);
    body.extend_from_slice(br#","code":"#);
    json_string(code.name(), &mut body);
    stamp(&mut body, ids, now);
    let mut member = |prefix: &str, value: &str| {
        body.extend_from_slice(prefix.as_bytes());
        json_string(value, &mut body);
    };
    match details {
        Details::None => {}
        Details::Field { field, issue } => {
            member(r#","details":{"field":"#, field);
            member(r#","issue":"#, issue);
            body.push(b'}');
        }
        Details::Issue(issue) => {
            member(r#","details":{"issue":"#, issue);
            body.push(b'}');
        }
        Details::Limit(limit) => {
            member(r#","details":{"limit":"#, limit);
            body.push(b'}');
        }
        Details::Skew { issue, server_time, request_time, allowed_skew_seconds } => {
            member(r#","details":{"issue":"#, issue);
            member(r#","server_time":"#, &rfc3339(*server_time));
            member(r#","request_time":"#, &rfc3339(*request_time));
            body.extend_from_slice(format!(r#","allowed_skew_seconds":{allowed_skew_seconds}}}"#).as_bytes());
        }
    }
    body.push(b'}');
    body
}

fn stamp(body: &mut Vec<u8>, ids: &Ids, now: Moment) {
    body.extend_from_slice(br#","correlation_id":"#);
    json_string(ids.correlation(), body);
    body.extend_from_slice(br#","timestamp":"#);
    json_string(&timestamp(now), body);
}

/// What every answer tells besides itself.
pub struct Common<'a> {
    pub ids: &'a Ids,
    pub standing: &'a Standing,
    pub decision: Option<&'a Decided>,
    pub now: Moment,
}

impl Common<'_> {
    /// Writes ids, the decision and where the request stands with the limits.
    pub fn write(&self, head: &mut ResponseHeader) -> Result<(), Box<pingora::Error>> {
        head.insert_header(HeaderName::from_static("x-correlation-id"), self.ids.correlation())?;
        head.insert_header(HeaderName::from_static("x-request-id"), self.ids.request())?;
        if let Some(decision) = self.decision {
            let word = HeaderValue::from_static(if decision.allowed { "allowed" } else { "denied" });
            head.insert_header(HeaderName::from_static("x-governance-decision"), word)?;
            head.insert_header(HeaderName::from_static("x-governance-time-ms"), milliseconds(decision.took))?;
        }
        if let Some(headline) = self.standing.headline() {
            let verdict = &headline.verdict;
            let reset = self.now.unix_nanos + verdict.reset_after.as_nanos() as u64;
            head.insert_header(HeaderName::from_static("x-ratelimit-limit"), u64::from(verdict.limit))?;
            head.insert_header(HeaderName::from_static("x-ratelimit-remaining"), u64::from(verdict.remaining))?;
            head.insert_header(HeaderName::from_static("x-ratelimit-reset"), reset.div_ceil(1_000_000_000))?;
        }
        if !self.standing.limits().is_empty() {
            // draft-ietf-httpapi-ratelimit-headers-10: one item per policy, `q` quota and `w` window in
            // seconds; `r` what remains and `t` seconds until more is available.
            let (mut policy, mut state) = (String::with_capacity(96), String::with_capacity(96));
            for stood in self.standing.limits() {
                let comma = if policy.is_empty() { "" } else { ", " };
                let window = stood.rate.per.as_secs().max(1);
                let _ = write!(policy, r#"{comma}"{}";q={};w={window}"#, stood.limit, stood.rate.count);
                let (remaining, t) = (stood.verdict.remaining, seconds_up(stood.verdict.next_after));
                let _ = write!(state, r#"{comma}"{}";r={remaining};t={t}"#, stood.limit);
            }
            head.insert_header(HeaderName::from_static("ratelimit-policy"), policy)?;
            head.insert_header(HeaderName::from_static("ratelimit"), state)?;
        }
        Ok(())
    }
}
