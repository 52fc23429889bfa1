//! Opening a connection to one address of Axon: what is agreed on before HTTP begins.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::axon::http1::Http1;
use crate::axon::wire::Connection;

/// How an endpoint is connected to. Backends whose dialers are equal can share connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialer {}

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

impl Dialer {
    /// Plain HTTP/1.1.
    pub fn plain() -> Self {
        Self {}
    }

    /// Connects and agrees on a protocol. The caller bounds the time.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub async fn dial(&self, address: SocketAddr) -> Result<Connection, NotOpened> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection::Http1(Http1::begin(stream).await?))
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
