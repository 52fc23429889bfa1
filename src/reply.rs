//! The only writer of answers that Orbit makes itself, and of the headers that every answer carries.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use arrayvec::ArrayString;
use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderValue;

use crate::axon::envelope::json_string;
use crate::clock::Moment;
use crate::error::{Code, Details, Hint, Rejection};
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

/// A head with every field of an answered dispatch fits.
const HEAD_BYTES_USUAL: usize = 768;

/// `application/json`
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A short text that needs no allocation.
pub type Short = ArrayString<32>;

/// A second as answers tell it. Most answers of a connection tell the one that the answer before them told, so it is
/// kept with the connection and written anew when it has passed.
#[derive(Default)]
pub struct Second {
    unix: u64,
    timestamp: Short,
    date: Short,
}

impl Second {
    /// The second of that moment.
    pub fn of(&mut self, now: Moment) -> &Self {
        if self.unix != now.unix_seconds() || self.date.is_empty() {
            self.unix = now.unix_seconds();
            self.timestamp = timestamp(now);
            self.date.clear();
            // Twenty-nine bytes until the year 9999.
            let _ = write!(self.date, "{}", httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(self.unix)));
        }
        self
    }

    /// RFC 3339, UTC.
    pub fn timestamp(&self) -> Short {
        self.timestamp
    }
}

/// RFC 3339, UTC, whole seconds.
pub fn timestamp(now: Moment) -> Short {
    rfc3339(now.unix_seconds())
}

fn rfc3339(unix_seconds: u64) -> Short {
    let mut text = Short::new();
    // Twenty bytes until the year 9999.
    let _ = write!(text, "{}", humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_seconds)));
    text
}

/// Milliseconds with microsecond precision: `0.012`.
pub fn milliseconds(duration: Duration) -> Short {
    let micros = duration.as_micros() as u64;
    let (mut whole, mut part) = (itoa::Buffer::new(), itoa::Buffer::new());
    // The leading digit keeps the zeros behind the point, and is cut off again.
    let part = part.format(1000 + micros % 1000).get(1..).unwrap_or_default();
    let mut text = Short::new();
    for piece in [whole.format(micros / 1000), ".", part] {
        // Twenty digits and a point at most.
        let _ = text.try_push_str(piece);
    }
    text
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

    /// The head of this answer, up to where more fields may follow.
    pub fn head(&self, common: &Common<'_>) -> HeadText {
        // Room for the body, which leaves in the same write.
        let mut head = HeadText::new(self.status, self.body.len());
        head.field("Content-Type", self.content_type.as_bytes());
        head.number("Content-Length", self.body.len() as u64);
        if let Some(seconds) = self.retry_after {
            head.number("Retry-After", seconds);
        }
        if let Some(allow) = self.allow {
            head.field("Allow", allow.as_bytes());
        }
        common.write(&mut head);
        head
    }
}

/// The head of an answer as it leaves. Written as bytes from the start: a map of fields would be built, walked and
/// dropped for every answer, and Pingora's own builder parses each name again.
pub struct HeadText(Vec<u8>);

impl HeadText {
    /// With `room` for as many bytes behind it.
    pub fn new(status: u16, room: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_BYTES_USUAL + room.min(HEAD_BYTES_USUAL * 4));
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        bytes.extend_from_slice(b"HTTP/1.1 ");
        bytes.extend_from_slice(status.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        bytes.extend_from_slice(b"\r\n");
        Self(bytes)
    }

    /// Adds a field. `value` holds no control character: it is Orbit's own, or was a valid value before.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        self.name(name).0.extend_from_slice(value);
        self.line();
    }

    /// Adds a field that is a number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.field(name, itoa::Buffer::new().format(value).as_bytes());
    }

    /// Adds the last fields: when it is sent, and whether the connection goes on.
    pub fn end(mut self, second: &Second, keep: bool) -> Vec<u8> {
        self.field("Date", second.date.as_bytes());
        self.field("Connection", if keep { b"keep-alive" } else { b"close" });
        self.line();
        self.0
    }

    fn name(&mut self, name: &str) -> &mut Self {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn digits(&mut self, number: u64) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    fn line(&mut self) {
        self.0.extend_from_slice(b"\r\n");
    }
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
    pub fn write(&self, head: &mut HeadText) {
        head.field("X-Correlation-ID", self.ids.correlation().as_bytes());
        head.field("X-Request-ID", self.ids.request().as_bytes());
        if let Some(decision) = self.decision {
            head.field("X-Governance-Decision", if decision.allowed { b"allowed" } else { b"denied" });
            head.field("X-Governance-Time-Ms", milliseconds(decision.took).as_bytes());
        }
        if let Some(headline) = self.standing.headline() {
            let verdict = &headline.verdict;
            let reset = self.now.unix_nanos + verdict.reset_after.as_nanos() as u64;
            head.number("X-RateLimit-Limit", u64::from(verdict.limit));
            head.number("X-RateLimit-Remaining", u64::from(verdict.remaining));
            head.number("X-RateLimit-Reset", reset.div_ceil(1_000_000_000));
        }
        // draft-ietf-httpapi-ratelimit-headers-10: one item per policy, `q` quota and `w` window in seconds;
        // `r` what remains and `t` seconds until more is available.
        let limits = self.standing.limits();
        if limits.is_empty() {
            return;
        }
        head.name("RateLimit-Policy");
        for (n, stood) in limits.iter().enumerate() {
            let window = stood.rate.per.as_secs().max(1);
            head.text(if n == 0 { "\"" } else { ", \"" }).text(stood.limit);
            head.text("\";q=").digits(u64::from(stood.rate.count)).text(";w=").digits(window);
        }
        head.line();
        head.name("RateLimit");
        for (n, stood) in limits.iter().enumerate() {
            head.text(if n == 0 { "\"" } else { ", \"" }).text(stood.limit);
            head.text("\";r=").digits(u64::from(stood.verdict.remaining));
            head.text(";t=").digits(seconds_up(stood.verdict.next_after));
        }
        head.line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_keep_their_zeros() {
        for (micros, want) in [(0, "0.000"), (12, "0.012"), (1_000, "1.000"), (45_007, "45.007"), (999_999, "999.999")]
        {
            assert_eq!(&*milliseconds(Duration::from_micros(micros)), want);
        }
    }
}
