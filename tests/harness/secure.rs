//! Certificates made for one test, and TLS in front of an [`Axon`](super::axon::Axon): it ends TLS, notes
//! what the peer asked for, and passes the bytes on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::within;

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

/// When a certificate holds; the gateway of a test lives on 2026-11-22.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Now,
    UntilYesterday,
    FromTomorrow,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("CA of a test")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_for(names, Validity::Now)
    }

    pub fn issue_for(&self, names: &[&str], validity: Validity) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        match validity {
            Validity::Now => {}
            Validity::UntilYesterday => params.not_after = rcgen::date_time_ymd(2026, 11, 21),
            Validity::FromTomorrow => params.not_before = rcgen::date_time_ymd(2026, 11, 23),
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// How a server speaks TLS.
#[derive(Clone)]
pub struct Speaks {
    pub issued: Issued,
    /// Whose client certificates are required.
    pub clients: Option<String>,
    /// In order of preference; empty is a server that knows no ALPN.
    pub alpn: &'static [&'static str],
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Ends connections without saying so in TLS first, as somebody who cuts them would.
    pub cuts: bool,
}

impl Speaks {
    /// TLS 1.2 and 1.3, HTTP/1.1.
    pub fn with(issued: Issued) -> Self {
        Self { issued, clients: None, alpn: &["http/1.1"], versions: rustls::ALL_VERSIONS, cuts: false }
    }

    /// Requires certificates of this authority.
    pub fn requiring(mut self, authority: &Authority) -> Self {
        self.clients = Some(authority.pem());
        self
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.versions)
            .expect("versions");
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(self.issued.cert.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(self.issued.key.as_bytes()).expect("PEM");
        let mut config = builder.with_single_cert(chain, key).expect("a certificate");
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// One finished handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The name that the peer asked for; none if it asked for an address.
    pub name: Option<String>,
    pub alpn: Option<String>,
    pub resumed: bool,
}

impl Handshake {
    pub fn of(stream: &TlsStream<TcpStream>) -> Self {
        let session = stream.get_ref().1;
        Self {
            name: session.server_name().map(str::to_owned),
            alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// TLS in front of a server that speaks none; stops when dropped.
pub struct Front {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    acceptor: Mutex<(TlsAcceptor, bool)>,
    handshakes: watch::Sender<Vec<Handshake>>,
}

impl Front {
    /// In front of the server at `behind`, on a free port of 127.0.0.1.
    pub async fn start(behind: SocketAddr, speaks: &Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("local address");
        let shared = Arc::new(Shared {
            acceptor: Mutex::new((speaks.acceptor(), speaks.cuts)),
            handshakes: watch::Sender::new(Vec::new()),
        });
        let accepting = tokio::spawn(accept(listener, behind, shared.clone()));
        Self { addr, shared, accepting }
    }

    /// Speaks otherwise on connections from now on.
    pub fn speak(&self, speaks: &Speaks) {
        *self.shared.acceptor.lock().expect("acceptor") = (speaks.acceptor(), speaks.cuts);
    }

    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// `https://name:port`.
    pub fn url_as(&self, name: &str) -> String {
        format!("https://{name}:{}", self.addr.port())
    }

    /// The handshakes that were finished so far, in order.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.shared.handshakes.borrow().clone()
    }

    /// Waits until `n` handshakes are finished.
    #[track_caller]
    pub fn shaken(&self, n: usize) -> impl Future<Output = ()> {
        let mut handshakes = self.shared.handshakes.subscribe();
        within(async move {
            handshakes.wait_for(|handshakes| handshakes.len() >= n).await.expect("the front is gone");
        })
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, behind: SocketAddr, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let (acceptor, cuts) = shared.acceptor.lock().expect("acceptor").clone();
        let shared = shared.clone();
        connections.spawn(async move {
            // A handshake that fails has told the peer why.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            shared.handshakes.send_modify(|all| all.push(Handshake::of(&stream)));
            let mut inner = TcpStream::connect(behind).await.expect("the server behind");
            if !cuts {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
                return;
            }
            let (mut from_inner, mut to_inner) = inner.split();
            let (mut from_peer, mut to_peer) = tokio::io::split(stream);
            tokio::select! {
                _ = tokio::io::copy(&mut from_peer, &mut to_inner) => {}
                _ = tokio::io::copy(&mut from_inner, &mut to_peer) => {}
            }
        });
    }
}
