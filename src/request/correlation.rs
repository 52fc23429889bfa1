//! The two names of a request: the correlation id that its caller may choose, and Orbit's own request id.

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::Moment;
use crate::request::head::{Head, One};

/// Longest correlation id that is kept.
pub const CORRELATION_CHARS_MAX: usize = 128;

/// The header of the correlation id.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// The header of the request id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where fresh ids come from; randomness enters the program here and nowhere else.
pub trait IdSource: Send + Sync {
    /// An id that was never given out before.
    fn fresh(&self, now: Moment) -> Uuid;
}

/// UUID version 7 (RFC 9562): sorted by time, 74 random bits.
#[derive(Debug, Default)]
pub struct UuidV7;

impl UuidV7 {
    /// The source that production uses.
    pub fn source() -> Arc<dyn IdSource> {
        Arc::new(Self)
    }
}

impl IdSource for UuidV7 {
    fn fresh(&self, now: Moment) -> Uuid {
        let nanos = (now.unix_nanos % 1_000_000_000) as u32;
        Uuid::new_v7(Timestamp::from_unix(NoContext, now.unix_seconds(), nanos))
    }
}

/// Both ids of one request.
#[derive(Debug, Clone)]
pub struct Ids {
    correlation: HeaderValue,
    request: HeaderValue,
    random: u64,
}

impl Ids {
    /// Keeps the caller's correlation id when it is well formed and stands once, else makes one.
    ///
    /// `head` is `None` for a connection that never sent a readable head.
    pub fn of(head: Option<&Head>, source: &dyn IdSource, now: Moment) -> Self {
        let request = source.fresh(now);
        let given = match head.map(|head| head.one(b"x-correlation-id")) {
            Some(One::Single(value)) if is_correlation_id(value) => std::str::from_utf8(value).ok(),
            _ => None,
        };
        let mut made = Uuid::encode_buffer();
        let correlation = match given {
            Some(given) => given,
            None => source.fresh(now).hyphenated().encode_lower(&mut made),
        };
        let mut buffer = Uuid::encode_buffer();
        // Both travel as header values several times, so they are that from the start, in one allocation.
        let mut both = BytesMut::with_capacity(correlation.len() + buffer.len());
        both.extend_from_slice(correlation.as_bytes());
        let correlation = value(both.split());
        both.extend_from_slice(request.hyphenated().encode_lower(&mut buffer).as_bytes());
        Self { correlation, request: value(both), random: request.as_u128() as u64 }
    }

    /// The correlation id: `A-Z a-z 0-9 . _ : -` only.
    pub fn correlation(&self) -> &str {
        self.correlation.to_str().unwrap_or_default()
    }

    /// The correlation id for a header.
    pub fn correlation_value(&self) -> &HeaderValue {
        &self.correlation
    }

    /// The request id, a hyphenated UUID.
    pub fn request(&self) -> &str {
        self.request.to_str().unwrap_or_default()
    }

    /// The request id for a header.
    pub fn request_value(&self) -> &HeaderValue {
        &self.request
    }

    /// Random bits of the request id, for choices that must merely be spread out.
    pub fn random(&self) -> u64 {
        self.random
    }
}

/// Ids are visible ASCII, which every header value may be.
fn value(id: BytesMut) -> HeaderValue {
    HeaderValue::from_maybe_shared(id.freeze()).unwrap_or(HeaderValue::from_static("-"))
}

fn is_correlation_id(value: &[u8]) -> bool {
    (1..=CORRELATION_CHARS_MAX).contains(&value.len())
        && value.iter().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const NOW: Moment = Moment { unix_nanos: 1_700_000_000_123_456_789, ticks: 0 };

    fn ids(header: &str) -> Ids {
        let raw = format!("GET / HTTP/1.1\r\nHost: a\r\n{header}\r\n");
        Ids::of(Some(&Head::parse(Bytes::from(raw)).expect("head")), &UuidV7, NOW)
    }

    #[test]
    fn a_well_formed_correlation_id_is_kept() {
        let longest = "a".repeat(CORRELATION_CHARS_MAX);
        for kept in ["abc123-def456", "A.b_c:d-9", "x", &longest] {
            assert_eq!(ids(&format!("X-Correlation-ID: {kept}\r\n")).correlation(), kept);
        }
    }

    #[test]
    fn anything_else_is_replaced_by_a_uuid_v7() {
        let long = "a".repeat(CORRELATION_CHARS_MAX + 1);
        for bad in ["", "a b", "a/b", "\u{e9}", "a\"b", "a]b", &long] {
            let made = ids(&format!("X-Correlation-ID: {bad}\r\n"));
            let uuid = Uuid::parse_str(made.correlation()).expect("a uuid");
            assert_eq!(uuid.get_version_num(), 7, "{bad:?}");
        }
        let twice = ids("X-Correlation-ID: a\r\nX-Correlation-ID: a\r\n");
        assert!(Uuid::parse_str(twice.correlation()).is_ok());
    }

    #[test]
    fn request_ids_carry_the_time_and_differ() {
        let (one, two) = (ids(""), ids(""));
        assert_ne!(one.request(), two.request());
        let uuid = Uuid::parse_str(one.request()).expect("a uuid");
        assert_eq!(uuid.get_timestamp().map(|t| t.to_unix().0), Some(1_700_000_000));
    }
}
