//! The only writer of answers that Orbit makes itself, and of the headers that every answer carries.

use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use pingora_http::ResponseHeader;

use crate::axon::envelope::json_string;
use crate::clock::Moment;
use crate::error::{Code, Details, Hint, Rejection};
use crate::gate::Standing;
use crate::gate::seconds_up;
use crate::observation::Decided;
use crate::request::correlation::{CORRELATION_ID, Ids, REQUEST_ID};

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

const GOVERNANCE_DECISION: HeaderName = HeaderName::from_static("x-governance-decision");
const GOVERNANCE_TIME: HeaderName = HeaderName::from_static("x-governance-time-ms");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const ALLOWED: HeaderValue = HeaderValue::from_static("allowed");
const DENIED: HeaderValue = HeaderValue::from_static("denied");

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
    let micros = duration.as_micros() as u64;
    let (mut whole, mut part) = (itoa::Buffer::new(), itoa::Buffer::new());
    // The leading digit keeps the zeros behind the point, and is cut off again.
    let part = part.format(1000 + micros % 1000).get(1..).unwrap_or_default();
    [whole.format(micros / 1000), ".", part].concat()
}

impl Answer {
    /// A JSON body.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: JSON, body: body.into(), retry_after: None, allow: None, close: false }
    }

    /// The error shape of `api.md`.
    pub fn rejection(rejection: &Rejection, ids: &Ids, now: Moment) -> Self {
        let status = rejection.code.status();
        let hint = match &rejection.hint {
            Hint::Given(hint) => Some(&**hint),
            Hint::None | Hint::Skipped => None,
        };
        let body = error_body(rejection.code, rejection.sentence(), &rejection.details, hint, ids, now);
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
        let body = error_body(code, sentence, &Details::Issue("upstream_refused"), None, ids, now);
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

    /// The fields of this answer's head.
    pub fn fields(&self, common: &Common<'_>) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(16);
        fields.insert(CONTENT_TYPE, self.content_type.clone());
        fields.insert(CONTENT_LENGTH, self.body.len().into());
        if let Some(seconds) = self.retry_after {
            fields.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            fields.insert(ALLOW, HeaderValue::from_static(allow));
        }
        common.write(&mut fields);
        fields
    }

    /// This answer as bytes, closing the connection; for requests that never became a session.
    pub fn to_wire(&self, common: &Common<'_>) -> Vec<u8> {
        let mut wire = Vec::with_capacity(512 + self.body.len());
        let mut fields = self.fields(common);
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_nanos(common.now.unix_nanos));
        if let Ok(date) = HeaderValue::try_from(date.to_string()) {
            fields.insert(http::header::DATE, date);
        }
        fields.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        let reason = StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
        wire.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", self.status).as_bytes());
        for (name, value) in &fields {
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

/// A head for Pingora. Its own builder parses every name again; a finished map costs it nothing.
pub fn head(status: u16, fields: HeaderMap) -> ResponseHeader {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    parts.headers = fields;
    ResponseHeader::from(parts)
}

/// `Retry-After` where the contract demands it: Axon's own word, else one second.
pub fn retry_after_of(status: u16, given: Option<u64>) -> Option<u64> {
    match status {
        429 | 503 => Some(given.unwrap_or(1).max(1)),
        _ => given,
    }
}

fn error_body(code: Code, sentence: &str, details: &Details, hint: Option<&str>, ids: &Ids, now: Moment) -> Vec<u8> {
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
            if let Some(hint) = hint {
                member(r#","hint":"#, hint);
            }
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
            if let Some(hint) = hint {
                member(r#","hint":"#, hint);
            }
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
    /// Adds ids, the decision and where the request stands with the limits.
    pub fn write(&self, fields: &mut HeaderMap) {
        fields.insert(CORRELATION_ID, self.ids.correlation_value().clone());
        fields.insert(REQUEST_ID, self.ids.request_value().clone());
        let mut text = Text(BytesMut::with_capacity(256));
        if let Some(decision) = self.decision {
            fields.insert(GOVERNANCE_DECISION, if decision.allowed { ALLOWED } else { DENIED });
            fields.insert(GOVERNANCE_TIME, text.add(&milliseconds(decision.took)).take());
        }
        if let Some(headline) = self.standing.headline() {
            let verdict = &headline.verdict;
            let reset = self.now.unix_nanos + verdict.reset_after.as_nanos() as u64;
            fields.insert(LIMIT, text.number(u64::from(verdict.limit)).take());
            fields.insert(REMAINING, text.number(u64::from(verdict.remaining)).take());
            fields.insert(RESET, text.number(reset.div_ceil(1_000_000_000)).take());
        }
        // draft-ietf-httpapi-ratelimit-headers-10: one item per policy, `q` quota and `w` window in seconds;
        // `r` what remains and `t` seconds until more is available.
        for (n, stood) in self.standing.limits().iter().enumerate() {
            let window = stood.rate.per.as_secs().max(1);
            text.add(if n == 0 { "\"" } else { ", \"" }).add(stood.limit);
            text.add("\";q=").number(u64::from(stood.rate.count)).add(";w=").number(window);
        }
        if !text.0.is_empty() {
            fields.insert(RATE_LIMIT_POLICY, text.take());
        }
        for (n, stood) in self.standing.limits().iter().enumerate() {
            text.add(if n == 0 { "\"" } else { ", \"" }).add(stood.limit);
            text.add("\";r=").number(u64::from(stood.verdict.remaining));
            text.add(";t=").number(seconds_up(stood.verdict.next_after));
        }
        if !text.0.is_empty() {
            fields.insert(RATE_LIMIT, text.take());
        }
    }
}

/// Header values that share one allocation.
struct Text(BytesMut);

impl Text {
    fn add(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.add(itoa::Buffer::new().format(number))
    }

    /// What was added since the last value. All of it is visible ASCII.
    fn take(&mut self) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.0.split().freeze()).unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_keep_their_zeros() {
        for (micros, want) in [(0, "0.000"), (12, "0.012"), (1_000, "1.000"), (45_007, "45.007"), (999_999, "999.999")]
        {
            assert_eq!(milliseconds(Duration::from_micros(micros)), want);
        }
    }
}
