//! What the Pingora programs of the load comparison share, so that they differ only in how a request reaches Axon:
//! one listener that is bound here (port 0), one runtime with one worker, the same limits and timeouts.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::server::Fds;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use pingora_proxy::{ProxyHttp, http_proxy};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

pub type Failure = Box<dyn Error + Send + Sync>;

/// Idle upstream connections kept. Far above the 64 of the comparison, so that no program pays for connecting.
pub const POOL: usize = 1024;
pub const CONNECT: Duration = Duration::from_secs(1);
pub const FIRST_BYTE: Duration = Duration::from_secs(30);
pub const IDLE: Duration = Duration::from_secs(60);
pub const BODY: Duration = Duration::from_secs(15);
const BACKLOG: u32 = 4096;
/// Largest body read on either side, bytes.
pub const BODY_BYTES: usize = 1 << 20;

/// `--name value` from the command line. Exactly the given names are known.
///
/// # Errors
/// An argument that is not in `names`, or one without a value.
pub fn options(names: &[&str]) -> Result<impl Fn(&str) -> Option<String> + use<>, Failure> {
    let mut found = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").filter(|name| names.contains(name));
        let name = name.ok_or_else(|| format!("unknown argument `{argument}`, known: {names:?}"))?.to_owned();
        let value = arguments.next().ok_or_else(|| format!("`{argument}` needs a value"))?;
        found.push((name, value));
    }
    Ok(move |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}

/// `stealing` is what `Server::run` builds by default (a multi-thread runtime, one worker), `stealing-2` the same with
/// two, `current` what it builds with `work_stealing: false`.
///
/// # Errors
/// Another word, or the runtime cannot start.
pub fn runtime(kind: &str) -> Result<Runtime, Failure> {
    let (mut builder, workers) = match kind {
        "stealing" => (tokio::runtime::Builder::new_multi_thread(), 1),
        "stealing-2" => (tokio::runtime::Builder::new_multi_thread(), 2),
        "current" => (tokio::runtime::Builder::new_current_thread(), 1),
        other => return Err(format!("unknown runtime `{other}`, known: stealing, stealing-2, current").into()),
    };
    Ok(builder.worker_threads(workers).enable_all().build()?)
}

/// A free port of 127.0.0.1, with room for all connections of a comparison that are opened at once.
///
/// # Errors
/// The port cannot be bound.
pub fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(BACKLOG)
}

/// Serves `proxy` on a free port of 127.0.0.1 until the process is killed; prints `listening on ADDRESS` first.
///
/// # Errors
/// The port cannot be bound, or the runtime cannot start.
pub fn serve<P>(proxy: P, runtime_kind: &str) -> Result<(), Failure>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    runtime(runtime_kind)?.block_on(async {
        let conf = ServerConf { upstream_keepalive_pool_size: POOL, ..ServerConf::default() };
        let mut service = Service::new("load".to_owned(), http_proxy(&Arc::new(conf), proxy));

        // Pingora cannot report the port of a `:0` listener, so it gets a bound descriptor under the same name.
        let listener = listen()?.into_std()?;
        let address: SocketAddr = listener.local_addr()?;
        let mut descriptors = Fds::new();
        descriptors.add(address.to_string(), listener.into_raw_fd());
        service.add_tcp(&address.to_string());

        println!("listening on {address}");
        let (_running, shutdown) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn(async move {
            service.start_service(Some(Arc::new(Mutex::new(descriptors))), shutdown, 1).await;
        });
        Ok(serving.await?)
    })
}
