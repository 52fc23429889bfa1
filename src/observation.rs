//! What one request leaves behind. Log lines and metrics derive from it and from nothing else.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Key;
use crate::auth::replay::{Doubt, Mode};
use crate::axon::Call;
use crate::clock::Moment;
use crate::error::Rejection;
use crate::request::correlation::Ids;
use crate::request::head::Head;
use crate::request::route::{Endpoint, Method};

/// One request, told once, when it is over.
pub struct Observation<'a> {
    pub ids: &'a Ids,
    /// `None` when no readable head ever came.
    pub head: Option<&'a Head>,
    pub endpoint: Endpoint,
    /// The status sent; 0 when the client left before an answer.
    pub status: u16,
    pub began: Moment,
    pub ended: Moment,
    /// The key that its signature held for.
    pub key: Option<Arc<Key>>,
    /// Why it was refused.
    pub refusal: Option<Rejection>,
    pub decision: Option<Decided>,
    /// What spoke against this being the first use of its signature.
    pub doubt: Option<(Mode, Doubt)>,
    /// Limits that refused, or would have in shadow mode.
    pub limited: [Option<&'static str>; 3],
    /// Every exchange with Axon, failed ones included.
    pub calls: Vec<Call>,
}

/// Governance's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub allowed: bool,
    pub reason: Cow<'static, str>,
    pub took: Duration,
}

impl<'a> Observation<'a> {
    /// The beginning of one: everything that comes later still empty.
    pub fn begin(ids: &'a Ids, head: Option<&'a Head>, endpoint: Endpoint, began: Moment) -> Self {
        Self {
            ids,
            head,
            endpoint,
            status: 0,
            began,
            ended: began,
            key: None,
            refusal: None,
            decision: None,
            doubt: None,
            limited: [None; 3],
            calls: Vec::new(),
        }
    }

    /// The method for labels.
    pub fn method(&self) -> Method {
        self.head.map_or(Method::Other, |head| Method::of(head.method()))
    }

    /// From the first byte of the head to the last of the answer.
    pub fn took(&self) -> Duration {
        self.ended.since(self.began)
    }

    /// Notes a limit that refused or would have.
    pub fn limited_by(&mut self, limit: &'static str) {
        if let Some(free) = self.limited.iter_mut().find(|l| l.is_none()) {
            *free = Some(limit);
        }
    }
}
