//! Every refusal that a client can see: its code, its status, its sentence. One table.
//!
//! Invariant: what is in here is public and fixed. Detail that an operator needs travels in
//! [`Rejection::why`], which goes to the log and never to the client.

use std::borrow::Cow;

/// The machine-readable names of the contract's error table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidRequest,
    MissingAuthorization,
    InvalidSignature,
    GovernanceDenied,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    PayloadTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    RateLimitExceeded,
    HeadersTooLarge,
    InternalError,
    ServiceUnavailable,
}

impl Code {
    /// Every code, in order of status.
    pub const ALL: [Code; 14] = [
        Code::InvalidRequest,
        Code::MissingAuthorization,
        Code::InvalidSignature,
        Code::GovernanceDenied,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::RequestTimeout,
        Code::PayloadTooLarge,
        Code::UriTooLong,
        Code::UnsupportedMediaType,
        Code::RateLimitExceeded,
        Code::HeadersTooLarge,
        Code::InternalError,
        Code::ServiceUnavailable,
    ];

    /// HTTP status, the name in `code`, the sentence in `error`.
    pub const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Code::InvalidRequest => (400, "INVALID_REQUEST", "invalid request"),
            Code::MissingAuthorization => (401, "MISSING_AUTHORIZATION", "request is not signed"),
            Code::InvalidSignature => (401, "INVALID_SIGNATURE", "signature could not be verified"),
            Code::GovernanceDenied => (403, "GOVERNANCE_DENIED", "denied by governance"),
            Code::NotFound => (404, "NOT_FOUND", "no such route"),
            Code::MethodNotAllowed => (405, "METHOD_NOT_ALLOWED", "method not allowed on this route"),
            Code::RequestTimeout => (408, "REQUEST_TIMEOUT", "request was sent too slowly"),
            Code::PayloadTooLarge => (413, "PAYLOAD_TOO_LARGE", "request body is too large"),
            Code::UriTooLong => (414, "URI_TOO_LONG", "request target is too long"),
            Code::UnsupportedMediaType => (415, "UNSUPPORTED_MEDIA_TYPE", "content type must be application/json"),
            Code::RateLimitExceeded => (429, "RATE_LIMIT_EXCEEDED", "rate limit exceeded"),
            Code::HeadersTooLarge => (431, "HEADERS_TOO_LARGE", "request headers are too large"),
            Code::InternalError => (500, "INTERNAL_ERROR", "internal error"),
            Code::ServiceUnavailable => (503, "SERVICE_UNAVAILABLE", "service unavailable"),
        }
    }

    pub const fn status(self) -> u16 {
        self.row().0
    }

    pub const fn name(self) -> &'static str {
        self.row().1
    }

    pub const fn sentence(self) -> &'static str {
        self.row().2
    }
}

/// The optional `details` object of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Details {
    None,
    /// `{"field": …, "issue": …}`
    Field {
        field: &'static str,
        issue: &'static str,
    },
    /// `{"issue": …}`
    Issue(&'static str),
    /// `{"issue": …, "server_time": …, "request_time": …, "allowed_skew_seconds": …}`, times in Unix seconds
    Skew {
        issue: &'static str,
        server_time: u64,
        request_time: u64,
        allowed_skew_seconds: u64,
    },
    /// `{"limit": …}`
    Limit(&'static str),
}

/// What else is told about a refused signature, by `auth.hints`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Hint {
    /// Nothing: hints are off, or this is nothing that callers are told about.
    #[default]
    None,
    /// Nothing, as the request came when as many as are allowed had been examined.
    Skipped,
    /// One line, which becomes `details.hint`.
    Given(Box<str>),
}

/// A refusal, decided but not yet written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub details: Details,
    pub hint: Hint,
    /// Whether the connection must close after the answer (framing can no longer be trusted).
    pub close: bool,
    /// Whole seconds for `Retry-After`; the writer fills in 1 where the contract demands the header.
    pub retry_after: Option<u64>,
    /// For the log only; never holds a secret, a signature, a token or body content.
    pub why: Cow<'static, str>,
}

impl Rejection {
    /// A refusal without details.
    pub fn new(code: Code, why: impl Into<Cow<'static, str>>) -> Self {
        Self { code, details: Details::None, hint: Hint::None, close: false, retry_after: None, why: why.into() }
    }

    /// `400 INVALID_REQUEST` that names a field and what is wrong with it.
    pub fn field(field: &'static str, issue: &'static str) -> Self {
        Self { details: Details::Field { field, issue }, ..Self::new(Code::InvalidRequest, issue) }
    }

    /// `503 SERVICE_UNAVAILABLE` with its issue.
    pub fn unavailable(issue: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self { details: Details::Issue(issue), ..Self::new(Code::ServiceUnavailable, why) }
    }

    /// The same refusal, closing the connection.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// The fixed public sentence: the issue itself for a field, the code's sentence otherwise.
    pub fn sentence(&self) -> &'static str {
        match self.details {
            Details::Field { issue, .. } => issue,
            _ => self.code.sentence(),
        }
    }
}
