//! What an exchange with Axon needs of a connection, whatever is spoken on it.
//!
//! Invariant: only [`Failure::Broken`] is said where it is not certain that Axon has not begun.

use std::borrow::Cow;

use bytes::Bytes;
use http::response::Parts;

use crate::axon::asking::Asking;
use crate::axon::http1::{self, Http1};
use crate::axon::http2::{Http2Body, Place};

/// Largest answer head that is read, in bytes.
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header fields of an answer.
pub const ANSWER_FIELDS_MAX: usize = 128;

/// A place for one exchange at a time. Dropped during one, it ends it at once.
pub enum Connection {
    Http1(Box<Http1>),
    Http2(Place),
}

/// The body of an answer, read through the connection that it comes from.
pub enum Body {
    Http1(http1::Body),
    Http2(Http2Body),
}

/// Why no answer came.
#[derive(Debug)]
pub enum Failure {
    /// The connection had ended before anything of the request was written, or had reached Axon; another will do.
    Unsent,
    /// Axon turned the request away before it began, as the protocol has it. The reason is for the log.
    Refused(Cow<'static, str>),
    /// Axon does not take this gateway's certificate, which in TLS 1.3 it only says where an answer would be.
    /// It has read nothing, as little as if there were no connection. The reason is for the log.
    Distrusted(Cow<'static, str>),
    /// The connection ended; Axon may have begun. The reason is for the log.
    Broken(Cow<'static, str>),
    /// What came is no answer; Axon may have begun. The reason is for the log.
    Unreadable(Cow<'static, str>),
}

impl Failure {
    /// What happened, for the log.
    pub fn why(self) -> Cow<'static, str> {
        match self {
            Failure::Unsent => "connection closed before the request".into(),
            Failure::Refused(why) | Failure::Distrusted(why) | Failure::Broken(why) | Failure::Unreadable(why) => why,
        }
    }
}

impl Connection {
    /// Whether it was good for an exchange before: then its end says nothing about the backend.
    pub fn was_used(&self) -> bool {
        match self {
            Connection::Http1(connection) => connection.idle_since() != 0,
            Connection::Http2(place) => place.connection().idle_since() != 0,
        }
    }

    /// Whether others use it at the same time.
    pub fn is_shared(&self) -> bool {
        matches!(self, Connection::Http2(_))
    }

    /// Sends a request and waits for the head of its answer; interim answers are skipped.
    ///
    /// # Errors
    /// [`Failure`] says whether the request may be sent again.
    pub async fn send(&mut self, asking: Asking<'_>) -> Result<(Parts, Body), Failure> {
        match self {
            Connection::Http1(connection) => {
                let (head, body) = connection.send(asking).await?;
                Ok((head, Body::Http1(body)))
            }
            Connection::Http2(place) => {
                let (head, body) = place.send(asking).await?.into_parts();
                Ok((head, Body::Http2(body)))
            }
        }
    }

    /// Ticks at which it came to rest before this exchange; `None` for one that is new or shared.
    pub fn idle_since(&self) -> Option<u64> {
        match self {
            Connection::Http1(connection) => Some(connection.idle_since()).filter(|ticks| *ticks > 0),
            Connection::Http2(_) => None,
        }
    }

    /// Asks for the rest of a body of announced length as one piece, in a place made for it: until it is whole,
    /// [`Connection::next`] gives empty pieces, each a sign that more of it came.
    pub fn gather(&mut self, body: &Body) {
        if let (Connection::Http1(connection), Body::Http1(body)) = (self, body) {
            connection.gather(body);
        }
    }

    /// The next bytes of the answer's body that need not be waited for, or read. `None` says nothing about the
    /// rest.
    pub fn at_hand(&mut self, body: &mut Body) -> Option<Result<Bytes, Cow<'static, str>>> {
        match (self, body) {
            (Connection::Http1(connection), Body::Http1(body)) => connection.at_hand(body),
            (Connection::Http1(_) | Connection::Http2(_), Body::Http1(_) | Body::Http2(_)) => None,
        }
    }

    /// The next bytes of the answer's body, `None` at its end. Trailers are dropped.
    pub async fn next(&mut self, body: &mut Body) -> Option<Result<Bytes, Cow<'static, str>>> {
        match (self, body) {
            (Connection::Http1(connection), Body::Http1(body)) => connection.next(body).await,
            (Connection::Http2(place), Body::Http2(body)) => place.next(body).await,
            (Connection::Http1(_), Body::Http2(_)) | (Connection::Http2(_), Body::Http1(_)) => {
                Some(Err("a body read through a connection that it does not come from".into()))
            }
        }
    }
}

impl Body {
    /// Whether nothing more comes. One of unknown length may tell it only by [`Connection::next`].
    pub fn is_end_stream(&self) -> bool {
        match self {
            Body::Http1(body) => body.is_end_stream(),
            Body::Http2(body) => body.is_end_stream(),
        }
    }

    /// Bytes of the whole body where they were announced.
    pub fn announced_length(&self) -> Option<u64> {
        match self {
            Body::Http1(body) => body.announced_length(),
            Body::Http2(body) => body.announced_length(),
        }
    }
}
