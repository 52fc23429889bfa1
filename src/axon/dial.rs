//! Opening a connection to one address of Axon: what is agreed on before HTTP begins.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::axon::http1::Http1;
use crate::axon::http2::{Http2, Unbegun};
use crate::axon::socket::Socket;
use crate::axon::stream::Stream;
use crate::axon::tls;
use crate::clock::Clock;
use crate::snapshot::settings;

/// How the endpoints of an upstream are connected to.
pub struct Dialers {
    http2: bool,
    secure: Option<Shared>,
}

/// What all `https` endpoints of an upstream have in common.
struct Shared {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
    fingerprint: [u8; 32],
}

/// How an endpoint is connected to. Backends whose dialers are equal can share connections.
#[derive(Clone)]
pub struct Dialer {
    http2: bool,
    secure: Option<Secure>,
}

#[derive(Clone)]
struct Secure {
    connector: TlsConnector,
    name: ServerName<'static>,
    fingerprint: [u8; 32],
}

/// What was agreed on.
pub enum Dialed {
    Http1(Box<Http1>),
    Http2(Arc<Http2>),
}

/// Why no connection came about; nothing of a request was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOpened {
    pub fault: Fault,
    /// All that the log says.
    pub why: Cow<'static, str>,
}

/// Whom a connect that failed speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This machine lacked something, such as file descriptors or ports; it says nothing of the backend.
    Ours,
    /// The network, the backend or its certificate.
    Theirs,
    /// The time for connecting was over; theirs, if it was all that the configuration gives.
    Late,
}

impl Dialers {
    /// # Errors
    /// One line for the operator.
    pub fn new(upstream: &settings::Upstream, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let secure = upstream.tls.as_ref().map(|tls| {
            let config = tls::client_config(tls, upstream.http2, clock).map_err(|e| format!("`upstreams.tls`: {e}"))?;
            Ok::<_, String>(Shared {
                connector: config.into(),
                server_name: tls.server_name.clone(),
                fingerprint: tls.fingerprint,
            })
        });
        Ok(Self { http2: upstream.http2, secure: secure.transpose()? })
    }

    /// For an endpoint; `secure` is its host, if it is `https`.
    ///
    /// # Errors
    /// One line for the operator, when there is nothing to verify a certificate by.
    pub fn of(&self, secure: Option<&ServerName<'static>>) -> Result<Dialer, String> {
        let http2 = self.http2;
        let Some(host) = secure else { return Ok(Dialer { http2, secure: None }) };
        let Some(shared) = &self.secure else { return Err("`https` endpoint without `tls`".to_owned()) };
        let name = shared.server_name.as_ref().unwrap_or(host).clone();
        let (connector, fingerprint) = (shared.connector.clone(), shared.fingerprint);
        Ok(Dialer { http2, secure: Some(Secure { connector, name, fingerprint }) })
    }
}

impl Dialer {
    /// Plain HTTP/1.1.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { http2: false, secure: None }
    }

    /// Whether connections may turn out to be HTTP/2.
    pub fn http2(&self) -> bool {
        self.http2
    }

    /// Connects and agrees on a protocol: HTTP/2 where it is asked for and, with TLS, Axon chooses it;
    /// without TLS there is no choice. The caller bounds the time. `idle` is how long unused connections are
    /// kept.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub async fn dial(&self, address: SocketAddr, idle: Duration) -> Result<Dialed, NotOpened> {
        match self.dial_once(address, idle).await {
            // The next may be taken by the one that comes after it.
            Err(Unbegun::Closed) => Ok(self.dial_once(address, idle).await?),
            other => Ok(other?),
        }
    }

    async fn dial_once(&self, address: SocketAddr, idle: Duration) -> Result<Dialed, Unbegun> {
        let stream = TcpStream::connect(address).await.map_err(here)?;
        stream.set_nodelay(true).map_err(here)?;
        let (stream, http2) = match &self.secure {
            None => (Stream::Plain(Socket::new(stream)), self.http2),
            Some(secure) => {
                let stream = Socket::new(stream);
                let stream = secure
                    .connector
                    .connect(secure.name.clone(), stream)
                    .await
                    .map_err(in_handshake)
                    .map_err(Unbegun::Failed)?;
                let chosen = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
                (Stream::Tls(Box::new(stream)), chosen)
            }
        };
        if http2 { Ok(Dialed::Http2(Http2::begin(stream, idle).await?)) } else { Ok(Dialed::Http1(Http1::new(stream))) }
    }
}

/// What the settings say is compared, not what was built from it.
impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        let said = |secure: &Secure| (secure.name.clone(), secure.fingerprint);
        self.http2 == other.http2 && self.secure.as_ref().map(said) == other.secure.as_ref().map(said)
    }
}

fn here(error: io::Error) -> Unbegun {
    Unbegun::Failed(error.into())
}

/// An error of the TLS handshake.
fn in_handshake(error: io::Error) -> NotOpened {
    match tls::error_in(&error) {
        Some(error) => {
            let fault = if tls::is_own_fault(error) { Fault::Ours } else { Fault::Theirs };
            NotOpened { fault, why: format!("connect failed: TLS: {}", tls::explain(error)).into() }
        }
        // The connection itself ended.
        None => NotOpened { fault: Fault::Theirs, why: format!("connect failed: TLS handshake: {error}").into() },
    }
}

impl NotOpened {
    /// The time for connecting is over.
    pub fn late() -> Self {
        Self { fault: Fault::Late, why: "connect timed out".into() }
    }

    /// Every place on every connection is taken, and no more connections are allowed.
    pub fn full() -> Self {
        Self { fault: Fault::Ours, why: "all streams of all connections are taken".into() }
    }
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
        };
        let told_by_the_network =
            [ConnectionRefused, ConnectionReset, ConnectionAborted, HostUnreachable, NetworkUnreachable, TimedOut];
        if told_by_the_network.contains(&error.kind()) {
            Self { fault: Fault::Theirs, why: format!("connect failed: {}", error.kind()).into() }
        } else {
            Self { fault: Fault::Ours, why: format!("connect failed here: {error}").into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn only_the_network_speaks_of_a_backend() {
        // EMFILE and ENFILE have no kind of their own.
        for local in [Error::from_raw_os_error(24), Error::from_raw_os_error(23), ErrorKind::AddrNotAvailable.into()] {
            let text = local.to_string();
            assert_eq!(NotOpened::from(local).fault, Fault::Ours, "{text}");
        }
        for remote in [ErrorKind::ConnectionRefused, ErrorKind::TimedOut, ErrorKind::HostUnreachable] {
            assert_eq!(NotOpened::from(Error::from(remote)).fault, Fault::Theirs, "{remote}");
        }
    }
}
