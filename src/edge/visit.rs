//! One request on its way through the filter, with the connection that it came on.
//!
//! The filter is called here and not by Pingora's `HttpProxy`: for each request that copies a future of 10 KB into
//! a new box and builds a session, which costs a tenth of an answered request (`docs/performance.md`). Nor is
//! Pingora's HTTP/1 session used: it would parse each head a second time, and write an answer's head and body in
//! two pieces. So the session that a filter must be given is an empty one, kept as long as the connection, and what
//! it works on stands in its context.

use std::io::Cursor;

use pingora_proxy::{ProxyHttp, Session};

use crate::edge::client::Client;
use crate::pipeline::Arrival;
use crate::proxy::Proxy;
use crate::reply::Second;

/// A request and the connection that it came on.
pub struct Visit {
    pub client: Client,
    pub arrival: Arrival,
    pub second: Second,
}

/// What the visits of one connection have in common.
pub struct Visits {
    session: Session,
}

impl Visits {
    pub fn new() -> Self {
        Self { session: Session::new_h1(Box::new(Cursor::new(Vec::<u8>::new()))) }
    }

    /// Serves one request, and gives back what it came with. `None` when the connection is of no more use.
    pub async fn serve(&mut self, proxy: &Proxy, visit: Visit) -> Option<Visit> {
        let mut context = Some(visit);
        proxy.request_filter(&mut self.session, &mut context).await.ok()?;
        context
    }
}
