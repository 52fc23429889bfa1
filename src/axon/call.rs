//! What one exchange with Axon came to.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::axon::Backend;

/// One try to get an answer from Axon.
pub struct Call {
    pub backend: Arc<Backend>,
    pub outcome: Outcome,
    /// Axon's `message`, or what went wrong.
    pub message: Cow<'static, str>,
    pub took: Duration,
}

/// The closed set of the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Axon answered 4xx.
    Refused,
    /// Axon answered 5xx, or something that is no answer to such a request.
    Error,
    ConnectFailed,
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Broken,
    /// The client left first.
    Abandoned,
}

impl Outcome {
    /// Every outcome; the index of each is `as usize`.
    pub const ALL: [Outcome; 7] = [
        Outcome::Success,
        Outcome::Refused,
        Outcome::Error,
        Outcome::ConnectFailed,
        Outcome::Timeout,
        Outcome::Broken,
        Outcome::Abandoned,
    ];

    /// Whether Axon may have begun with the request.
    pub const fn may_have_begun(self) -> bool {
        match self {
            Outcome::ConnectFailed => false,
            Outcome::Success
            | Outcome::Refused
            | Outcome::Error
            | Outcome::Timeout
            | Outcome::Broken
            | Outcome::Abandoned => true,
        }
    }

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Refused => "refused",
            Outcome::Error => "error",
            Outcome::ConnectFailed => "connect_failed",
            Outcome::Timeout => "timeout",
            Outcome::Broken => "broken",
            Outcome::Abandoned => "abandoned",
        }
    }
}
