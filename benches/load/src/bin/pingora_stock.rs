//! Pingora as it comes: `upstream_peer` and nothing else. What Orbit's checks are compared with.

use std::net::SocketAddr;

use async_trait::async_trait;
use orbit_load::{CONNECT, FIRST_BYTE, Failure, IDLE, options, serve};
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session};

struct Stock {
    axon: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Stock {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.axon, false, String::new());
        peer.options.connection_timeout = Some(CONNECT);
        peer.options.read_timeout = Some(FIRST_BYTE);
        peer.options.idle_timeout = Some(IDLE);
        Ok(Box::new(peer))
    }
}

fn main() -> Result<(), Failure> {
    let option = options(&["axon", "runtime"])?;
    let axon = option("axon").ok_or("`--axon ADDRESS` is missing")?.parse()?;
    serve(Stock { axon }, option("runtime").as_deref().unwrap_or("stealing"))
}
