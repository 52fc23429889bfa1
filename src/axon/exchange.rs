//! An exchange with Axon whose answer has begun: its head is here, its body comes as it is asked for.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use tokio::time::{Instant, timeout_at};

use crate::axon::Upstream;
use crate::axon::backend::Occupied;
use crate::axon::call::{Call, Outcome};
use crate::axon::condition::Failing;
use crate::axon::wire::{Body, Connection};
use crate::clock::{Clock, Moment};
use crate::error::Rejection;

/// An answer under way.
pub struct Exchange {
    pub head: Parts,
    pub(super) body: Body,
    /// The end of the body was seen; one of unknown length does not tell it again.
    pub(super) ended: bool,
    pub(super) announced: Option<u64>,
    pub(super) connection: Connection,
    pub(super) began: Moment,
    pub(super) total: Instant,
    pub(super) upstream: Arc<Upstream>,
    pub(super) clock: Arc<dyn Clock>,
    /// What the head says of the backend was noted: it is a failure.
    pub(super) noted: bool,
    pub(super) occupied: Occupied,
}

/// A body that was read up to a limit.
pub enum Collected {
    /// All of it.
    Whole(Bytes),
    /// The first part of one that is larger.
    Part(Vec<Bytes>),
}

impl Exchange {
    /// Largest answer of this upstream that is put into the envelope.
    pub fn envelope_bytes(&self) -> usize {
        self.upstream.settings.envelope_bytes as usize
    }

    /// Bytes that the whole body has, when Axon announced it.
    pub fn announced_length(&self) -> Option<u64> {
        self.announced
    }

    /// The next bytes, as soon as they are here; `None` at the end.
    ///
    /// # Errors
    /// `503` when Axon breaks off, stays silent for `timeouts.idle`, or `timeouts.total` is over.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.is_whole() {
            return Ok(None);
        }
        // What was read already waits for nobody.
        if let Some(found) = self.connection.at_hand(&mut self.body) {
            return found.map(Some).map_err(|why| Broken { outcome: Outcome::Broken, why });
        }
        let now = Instant::now();
        // Data that is always ready would never let the timer speak. What took the time may have been the client.
        if now >= self.total {
            self.noted = true;
            return Err(Broken { outcome: Outcome::Timeout, why: "answer took too long".into() });
        }
        let deadline = self.total.min(now + self.upstream.settings.timeouts.idle);
        match timeout_at(deadline, self.connection.next(&mut self.body)).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Ok(Some(Err(why))) => Err(Broken { outcome: Outcome::Broken, why }),
            Err(_) => {
                // Only silence is the backend's fault.
                self.noted |= deadline == self.total;
                Err(Broken { outcome: Outcome::Timeout, why: "answer took too long".into() })
            }
        }
    }

    /// Whether all of the body was read.
    pub fn is_whole(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    /// Reads the body up to `limit` bytes.
    ///
    /// # Errors
    /// Those of [`Exchange::next`].
    pub async fn collect(&mut self, limit: usize) -> Result<Collected, Broken> {
        if self.announced.is_some_and(|length| length <= limit as u64) {
            self.connection.gather(&self.body);
        }
        let (mut parts, mut length) = (Vec::new(), 0);
        while let Some(bytes) = self.next().await? {
            if bytes.is_empty() {
                continue;
            }
            length += bytes.len();
            if length <= limit && parts.is_empty() && self.is_whole() {
                return Ok(Collected::Whole(bytes));
            }
            parts.push(bytes);
            if length > limit {
                return Ok(Collected::Part(parts));
            }
        }
        Ok(Collected::Whole(match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => parts.concat().into(),
        }))
    }

    /// Ends the exchange, keeping the connection when the answer was read whole.
    pub fn finish(self, outcome: Outcome, message: impl Into<Cow<'static, str>>) -> Call {
        let now = self.clock.now();
        let (message, backend) = (message.into(), self.occupied.backend().clone());
        if !self.noted {
            let trial = self.occupied.is_trial();
            match outcome {
                Outcome::Success | Outcome::Refused | Outcome::Error => {
                    self.upstream.answered(&backend, trial, now.ticks);
                }
                Outcome::Broken | Outcome::Timeout | Outcome::ConnectFailed => {
                    let how = Failing::NoAnswer;
                    self.upstream.failed(&backend, self.began.ticks, trial, how, &message, now.ticks);
                }
                Outcome::Abandoned => {}
            }
        }
        if self.is_whole() {
            backend.pool().put(self.connection, self.upstream.bounds(), now.ticks);
        }
        Call { backend, outcome, message, took: now.since(self.began) }
    }
}

/// An answer that did not come to its end.
#[derive(Debug)]
pub struct Broken {
    pub outcome: Outcome,
    pub why: Cow<'static, str>,
}

impl Broken {
    /// What the client is told, if it was told nothing yet.
    pub fn rejection(&self) -> Rejection {
        let issue = if self.outcome == Outcome::Timeout { "timeout" } else { "upstream_failed" };
        Rejection::unavailable(issue, self.why.clone())
    }
}
