//! The `tls` block of an upstream: whose certificates are believed, and which one is shown.
//!
//! Invariant: what is kept here can be used. Every certificate was parsed, and the key belongs to its
//! certificate, so that a file that is wrong is told by its line and not by the first connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::config::{Block, Value, others_may_read};

/// Largest PEM file; a system's whole store has about 250 KiB.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How `https` endpoints are trusted, and who this gateway is to them.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where the roots came from; `None` is the system.
    pub ca: Option<PathBuf>,
    /// What an endpoint's certificate must lead to. At least one.
    pub roots: Arc<RootCertStore>,
    /// Asked for and verified in place of the endpoint's host.
    pub server_name: Option<ServerName<'static>>,
    pub client: Option<ClientCertificate>,
    /// SHA-256 of all of it: settings whose fingerprints are equal make the same connections.
    pub fingerprint: [u8; 32],
}

/// The certificate that this gateway shows, with its key.
#[derive(Clone)]
pub struct ClientCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub certified: Arc<SingleCertAndKey>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

/// The block, written or not, when some endpoint is `https`; `used` says so. Keys that would have no
/// effect are refused. `None` with `used` means that something was reported, to `upstream` if not here.
pub(super) fn tls(b: &mut Block<'_>, used: bool, upstream: &Block<'_>) -> Option<Tls> {
    let ca = b.key("ca", "PEM file of the CAs that are believed; null is those of the system").nullable("file");
    let name = b
        .key("server_name", "name that certificates must have, sent as SNI; null is the endpoint's host")
        .nullable("host name or IP address");
    let cert = b.key("client_cert", "PEM file of the certificate to show, its chain included").nullable("file");
    let key = b.key("client_key", "PEM file of its key").nullable("file");
    if b.context().is_recording() {
        return None;
    }
    let written = [ca, name, cert, key].into_iter().flatten().next();
    if let (false, Some(value)) = (used, written) {
        return value.fail_at_key("no endpoint is `https`, so this has no effect", "remove it, or write `https://…`");
    }
    let mut hasher = Sha256::new();
    let server_name = name.map(server_name);
    let client = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(client_certificate(cert, key, &mut hasher)),
        (Some(value), None) => {
            Some(value.fail_at_key("`client_cert` has no `client_key`", "a certificate needs its key"))
        }
        (None, Some(value)) => {
            Some(value.fail_at_key("`client_key` has no `client_cert`", "a key needs its certificate"))
        }
    };
    if !used {
        return None;
    }
    let (ca, roots) = match ca {
        Some(value) => {
            let (path, roots) = given_roots(value)?;
            (Some(path), roots)
        }
        None => (None, system_roots(upstream)?),
    };
    for root in &roots.roots {
        hasher.update(&*root.subject);
        hasher.update(&*root.subject_public_key_info);
        hasher.update(root.name_constraints.as_deref().unwrap_or_default());
    }
    let server_name = server_name.map_or(Some(None), |name| name.map(Some))?;
    if let Some(name) = &server_name {
        hasher.update(name.to_str().as_bytes());
    }
    let client = client.map_or(Some(None), |client| client.map(Some))?;
    Some(Tls { ca, roots: Arc::new(roots), server_name, client, fingerprint: hasher.finalize().into() })
}

fn server_name(value: Value<'_>) -> Option<ServerName<'static>> {
    let text = value.text()?;
    let name = ServerName::try_from(text).ok().map(|name| name.to_owned());
    name.or_else(|| value.fail(format!("{} is not a host name", value.quoted(text)), "write it as `axon.internal`"))
}

/// Every certificate of a file.
fn certificates(value: Value<'_>) -> Option<(PathBuf, Vec<CertificateDer<'static>>)> {
    let (path, text) = value.named_file(PEM_BYTES_MAX)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            value.fail("the file holds no certificate", "it has to hold `-----BEGIN CERTIFICATE-----`")
        }
        Ok(certificates) => Some((path, certificates)),
        Err(_) => value.fail("the file is not valid PEM", "a block of it is cut off, or not base64"),
    }
}

fn given_roots(value: Value<'_>) -> Option<(PathBuf, RootCertStore)> {
    let (path, certificates) = certificates(value)?;
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates.into_iter().enumerate() {
        if let Err(error) = roots.add(certificate) {
            let message = format!("certificate {} of the file cannot be used: {error}", at + 1);
            return value.fail(message, "remove or replace it");
        }
    }
    Some((path, roots))
}

/// The system's roots: the file that `SSL_CERT_FILE` names, or else the system's store.
fn system_roots(b: &Block<'_>) -> Option<RootCertStore> {
    let help = "install the system's CA certificates, or write `tls: { ca: FILE }`";
    let context = b.context();
    let mut roots = RootCertStore::empty();
    let mut why = String::new();
    match context.variable("SSL_CERT_FILE") {
        Ok(path) => match context.read(Path::new(&path), PEM_BYTES_MAX) {
            Ok(text) => {
                let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok);
                roots.add_parsable_certificates(certificates);
            }
            Err(reason) => why = format!(": `SSL_CERT_FILE`: {reason}"),
        },
        Err(_) => {
            let found = rustls_native_certs::load_native_certs();
            found.certs.iter().for_each(|certificate| context.depends_on(certificate));
            roots.add_parsable_certificates(found.certs);
            why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        }
    }
    if roots.is_empty() {
        return b.fail(format!("the system has no usable CA certificates{why}"), help);
    }
    Some(roots)
}

fn client_certificate(cert: Value<'_>, key: Value<'_>, hasher: &mut Sha256) -> Option<ClientCertificate> {
    let read = (certificates(cert), private_key(key));
    let (Some((cert_path, chain)), Some((key_path, der))) = read else { return None };
    chain.iter().for_each(|certificate| hasher.update(certificate));
    hasher.update(der.secret_der());
    let provider = rustls::crypto::ring::default_provider();
    let certified = match CertifiedKey::from_der(chain, der, &provider) {
        Ok(certified) => certified,
        Err(rustls::Error::InconsistentKeys(_)) => {
            return key
                .fail("the key does not belong to `client_cert`", "name the key that the certificate was made for");
        }
        Err(rustls::Error::InvalidCertificate(_)) => {
            return cert.fail("the first certificate of the file cannot be used", "it has to be the gateway's own");
        }
        Err(_) => {
            let help = "RSA, ECDSA P-256 or P-384, or Ed25519, in PKCS#8, PKCS#1 or SEC1";
            return key.fail("the key is of no kind that can be used", help);
        }
    };
    let certified = Arc::new(SingleCertAndKey::from(certified));
    Some(ClientCertificate { cert: cert_path, key: key_path, certified })
}

fn private_key(value: Value<'_>) -> Option<(PathBuf, PrivateKeyDer<'static>)> {
    let (path, text) = value.named_file(PEM_BYTES_MAX)?;
    let text = SecretString::from(text);
    let Ok(key) = PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()) else {
        let help = "it has to hold `-----BEGIN PRIVATE KEY-----`, and no password";
        return value.fail("the file holds no private key", help);
    };
    if others_may_read(&path) {
        value.warn("every user may read the private key", "take the right away: `chmod o= FILE`");
    }
    Some((path, key))
}
