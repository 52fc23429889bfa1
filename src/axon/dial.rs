//! Opening a connection to one address of Axon: what is agreed on before HTTP begins.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::axon::http1::Http1;
use crate::axon::stream::Stream;
use crate::axon::tls;
use crate::axon::wire::Connection;
use crate::clock::Clock;
use crate::snapshot::settings;

/// How the endpoints of an upstream are connected to.
pub struct Dialers {
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
    secure: Option<Secure>,
}

#[derive(Clone)]
struct Secure {
    connector: TlsConnector,
    name: ServerName<'static>,
    fingerprint: [u8; 32],
}

/// Why no connection came about; nothing of a request was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOpened {
    pub fault: Fault,
    /// For the log.
    pub why: Cow<'static, str>,
}

/// Whom a connect that failed speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This machine lacked something, such as file descriptors or ports; it says nothing of the backend.
    Ours,
    /// The network, the backend or its certificate.
    Theirs,
}

impl Dialers {
    /// # Errors
    /// One line for the operator.
    pub fn new(upstream: &settings::Upstream, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let secure = upstream.tls.as_ref().map(|tls| {
            let config = tls::client_config(tls, clock).map_err(|e| format!("`upstreams.tls`: {e}"))?;
            Ok::<_, String>(Shared {
                connector: config.into(),
                server_name: tls.server_name.clone(),
                fingerprint: tls.fingerprint,
            })
        });
        Ok(Self { secure: secure.transpose()? })
    }

    /// For an endpoint; `secure` is its host, if it is `https`.
    ///
    /// # Errors
    /// One line for the operator, when there is nothing to verify a certificate by.
    pub fn of(&self, secure: Option<&ServerName<'static>>) -> Result<Dialer, String> {
        let Some(host) = secure else { return Ok(Dialer::plain()) };
        let Some(shared) = &self.secure else { return Err("`https` endpoint without `tls`".to_owned()) };
        let name = shared.server_name.as_ref().unwrap_or(host).clone();
        let (connector, fingerprint) = (shared.connector.clone(), shared.fingerprint);
        Ok(Dialer { secure: Some(Secure { connector, name, fingerprint }) })
    }
}

impl Dialer {
    /// Plain HTTP/1.1.
    pub fn plain() -> Self {
        Self { secure: None }
    }

    /// Connects and agrees on a protocol. The caller bounds the time.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub async fn dial(&self, address: SocketAddr) -> Result<Connection, NotOpened> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = match &self.secure {
            None => Stream::Plain(stream),
            Some(secure) => {
                let stream = secure.connector.connect(secure.name.clone(), stream).await.map_err(in_handshake)?;
                Stream::Tls(Box::new(stream))
            }
        };
        Ok(Connection::Http1(Http1::begin(stream).await?))
    }
}

/// What the settings say is compared, not what was built from it.
impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        let said = |secure: &Secure| (secure.name.clone(), secure.fingerprint);
        self.secure.as_ref().map(said) == other.secure.as_ref().map(said)
    }
}

/// An error of the TLS handshake.
fn in_handshake(error: io::Error) -> NotOpened {
    match tls::error_in(&error) {
        Some(error) => {
            let fault = if tls::is_own_fault(error) { Fault::Ours } else { Fault::Theirs };
            NotOpened { fault, why: format!("TLS: {}", tls::explain(error)).into() }
        }
        // The connection itself ended.
        None => NotOpened { fault: Fault::Theirs, why: format!("TLS handshake: {error}").into() },
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
            Self { fault: Fault::Theirs, why: error.kind().to_string().into() }
        } else {
            Self { fault: Fault::Ours, why: error.to_string().into() }
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
