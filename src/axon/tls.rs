//! TLS to Axon: the client configuration of an upstream, and what its failures mean.
//!
//! Invariants: certificates are always verified, there is no setting that skips it; nothing here reads a
//! file or the system's clock, roots and keys come with the settings and time from the [`Clock`].

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};

use crate::clock::Clock;
use crate::config::shown;
use crate::snapshot::settings;

/// HTTP/2 in ALPN: RFC 9113, section 3.2.
pub const HTTP2: &[u8] = b"h2";
/// Sessions kept for resumption, over all endpoints of an upstream.
const SESSIONS_MAX: usize = 256;

/// TLS 1.2 and 1.3 on ring, with session resumption. With `http2` both protocols are offered and Axon
/// chooses; without, HTTP/1.1 alone.
///
/// # Errors
/// One line for the operator.
pub fn client_config(tls: &settings::Tls, http2: bool, clock: &Arc<dyn Clock>) -> Result<Arc<ClientConfig>, Error> {
    // Named, because the process may hold a default that another part of it chose.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Time(clock.clone())))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(tls.roots.clone());
    let mut config = match &tls.client {
        Some(client) => builder.with_client_cert_resolver(client.certified.clone()),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    let offered: &[&[u8]] = if http2 { &[HTTP2, b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The gateway's clock, as rustls asks for it.
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.now().unix_seconds())))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

/// The TLS error inside of an I/O error, if there is one.
pub fn error_in(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The alert by which Axon refused this gateway's certificate, found among an error's causes.
///
/// In TLS 1.3 the client is done before its certificate has been looked at, so the refusal comes where an
/// answer would. A server that sends it has not finished the handshake, and so has read no request.
pub fn refusal_in<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found @ Error::AlertReceived(alert)) = error.downcast_ref::<io::Error>().and_then(error_in) {
            return speaks_of_a_certificate(*alert).then_some(found);
        }
        cause = error.source();
    }
    None
}

/// RFC 8446, section 6.2: the alerts that a server sends about a client's certificate, or the signature
/// made with its key. All belong to the handshake.
fn speaks_of_a_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

/// Whether a TLS error is about this machine and says nothing of the backend.
pub fn is_own_fault(error: &Error) -> bool {
    matches!(error, Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes)
}

/// What went wrong, for the operator's log.
pub fn explain(error: &Error) -> Cow<'static, str> {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired".into()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "its certificate is not valid yet".into()
        }
        // The signature is bad when the CA was made anew under its old name.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is from an unknown CA, none of those in `tls.ca` or of the system".into()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let presented = presented.iter().take(4).map(|name| shown(name)).collect::<Vec<_>>().join(", ");
            format!("its certificate is for another name: expected {}, found {presented}", expected.to_str()).into()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it requires a client certificate: `tls.client_cert`".into()
        }
        Error::AlertReceived(alert) if speaks_of_a_certificate(*alert) => {
            format!("it refused the gateway's certificate ({alert:?})").into()
        }
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it speaks neither HTTP version that was offered".into()
        }
        Error::InvalidMessage(_) => "what it speaks is not TLS".into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(alert: AlertDescription) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert))
    }

    #[test]
    fn only_alerts_about_certificates_say_that_nothing_was_read() {
        for alert in [AlertDescription::CertificateRequired, AlertDescription::UnknownCA] {
            assert!(refusal_in(&received(alert)).is_some(), "{alert:?}");
        }
        for alert in [AlertDescription::InternalError, AlertDescription::CloseNotify, AlertDescription::DecodeError] {
            assert!(refusal_in(&received(alert)).is_none(), "{alert:?}");
        }
        assert!(refusal_in(&io::Error::other("certificate required")).is_none());
    }

    #[test]
    fn a_name_that_a_certificate_presents_cannot_break_a_log_line() {
        let expected = rustls::pki_types::ServerName::try_from("axon.test").expect("a name");
        let presented = vec!["evil\nname".to_owned()];
        let error = CertificateError::NotValidForNameContext { expected, presented };
        let text = explain(&Error::InvalidCertificate(error));
        assert_eq!(text, "its certificate is for another name: expected axon.test, found evil\u{fffd}name");
    }
}
