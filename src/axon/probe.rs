//! One look at a backend, on a connection of its own: is it there, and does it say that it is well?

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use tokio::time::timeout;

use crate::axon::Backend;
use crate::axon::dial::{Fault, NotOpened};
use crate::axon::pool::Bounds;
use crate::snapshot::settings::Health;

/// Most of a check's answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("orbit/", env!("CARGO_PKG_VERSION"), " (health check)"));

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

/// Connects, no more.
pub async fn look(backend: &Backend, bounds: Bounds) -> Seen {
    match timeout(bounds.connect, backend.pool().open(backend.address(), bounds)).await {
        Ok(Ok(_)) => Seen::Well,
        Ok(Err(e)) => not_opened(e),
        Err(_) => Seen::Absent("connect timed out".into()),
    }
}

/// Asks how it is, all within `health.timeout`.
pub async fn ask(backend: &Backend, health: &Health, bounds: Bounds) -> Seen {
    let request = match request(backend, health) {
        Ok(request) => request,
        Err(e) => return Seen::Nothing(e.to_string().into()),
    };
    let mut connected = false;
    let exchange = async {
        let mut connection = match backend.pool().open(backend.address(), bounds).await {
            Ok(connection) => connection,
            Err(e) => return not_opened(e),
        };
        connected = true;
        let (head, mut body) = match connection.send(request).await {
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
                break;
            }
        }
        Seen::Well
    };
    match timeout(health.timeout, exchange).await {
        Ok(seen) => seen,
        Err(_) if connected => Seen::Unwell("health check timed out".into()),
        Err(_) => Seen::Absent("connect timed out".into()),
    }
}

fn request(backend: &Backend, health: &Health) -> Result<Request<Bytes>, http::Error> {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(HOST, backend.authority().clone());
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, AGENT);
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = health.path.parse::<Uri>()?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn not_opened(error: NotOpened) -> Seen {
    match error.fault {
        Fault::Ours => Seen::Nothing(error.why),
        Fault::Theirs => Seen::Absent(format!("connect failed: {}", error.why).into()),
    }
}
