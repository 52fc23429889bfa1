//! One look at a backend, on a connection of its own or, with HTTP/2, a stream: is it there, and does it
//! say that it is well?

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Uri};
use tokio::time::{Instant, timeout_at};

use crate::axon::Backend;
use crate::axon::asking::Asking;
use crate::axon::dial::{Fault, NotOpened};
use crate::axon::pool::Bounds;
use crate::axon::wire::Connection;
use crate::snapshot::settings::Health;

/// Most of a check's answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
static AGENT: HeaderValue = HeaderValue::from_static(concat!("orbit/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It accepted a connection, and said that it is well if it was asked.
    Well,
    /// It answered otherwise, or not in time.
    Unwell(Cow<'static, str>),
    /// It could not be connected to.
    Absent(Cow<'static, str>),
    /// Something was missing here, so nothing was seen.
    Nothing(Cow<'static, str>),
}

/// Connects, no more. `now` is in ticks.
pub async fn look(backend: &Backend, bounds: Bounds, now: u64) -> Seen {
    let deadline = Instant::now() + bounds.connect;
    match backend.pool().open(backend.address(), bounds, deadline).await {
        Ok(connection) => {
            leave(backend, connection, bounds, now);
            Seen::Well
        }
        Err(e) => not_opened(e),
    }
}

/// Closes a connection that was made to look; one that is shared goes where the others are.
fn leave(backend: &Backend, connection: Connection, bounds: Bounds, now: u64) {
    if connection.is_shared() {
        backend.pool().put(connection, bounds, now);
    }
}

/// Asks how it is, all within `health.timeout`. `now` is in ticks.
pub async fn ask(backend: &Backend, health: &Health, bounds: Bounds, now: u64) -> Seen {
    let target = match health.path.parse::<Uri>() {
        Ok(target) => target,
        Err(e) => return Seen::Nothing(e.to_string().into()),
    };
    let mut asking = Asking::new(Method::GET, &target, backend.authority(), Bytes::new());
    asking.add_value("accept", &HeaderValue::from_static("*/*"));
    asking.add_value("user-agent", &AGENT);
    let deadline = Instant::now() + health.timeout;
    let exchange = async {
        let mut connection = match backend.pool().open(backend.address(), bounds, deadline).await {
            Ok(connection) => connection,
            // One lost packet may be all that is behind it, so it takes as many as any other failed check.
            Err(e) if e.fault == Fault::Late => return Seen::Unwell(e.why),
            Err(e) => return not_opened(e),
        };
        let (head, mut body) = match connection.send(asking).await {
            Ok(answer) => answer,
            Err(failure) => return Seen::Unwell(failure.why()),
        };
        if !head.status.is_success() {
            return Seen::Unwell(format!("health check answered {}", head.status.as_u16()).into());
        }
        let mut length = 0;
        while let Some(part) = connection.next(&mut body).await {
            match part {
                Ok(part) => length += part.len(),
                Err(why) => return Seen::Unwell(why),
            }
            if length > ANSWER_BYTES_MAX {
                return Seen::Well;
            }
        }
        leave(backend, connection, bounds, now);
        Seen::Well
    };
    let late = |_| Seen::Unwell("health check timed out".into());
    timeout_at(deadline, exchange).await.unwrap_or_else(late)
}

fn not_opened(error: NotOpened) -> Seen {
    match error.fault {
        Fault::Ours => Seen::Nothing(error.why),
        Fault::Theirs | Fault::Late => Seen::Absent(error.why),
    }
}
