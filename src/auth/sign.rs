//! Signs what Orbit sends on, with AWS's own signer.
//!
//! The opposite choice to verification is right here: what is signed is built by Orbit, plain and
//! valid, and the signer that most clients of the far side run is the least surprising one.

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::Moment;

/// One identity and the scope it signs for.
pub struct Signer {
    access_key_id: String,
    identity: Identity,
    region: String,
    service: String,
}

/// Why a request could not be signed: authority, target or a header is not valid HTTP.
#[derive(Debug)]
pub struct SignError(Box<dyn Error + Send + Sync>);

impl Signer {
    /// Signs as this key for `region` and `service`; a token makes the key a temporary one.
    pub fn new(
        access_key_id: &str,
        secret_access_key: &SecretString,
        session_token: Option<&SecretString>,
        region: &str,
        service: &str,
    ) -> Self {
        let secret = secret_access_key.expose_secret();
        let token = session_token.map(|token| token.expose_secret().to_owned());
        let credentials = Credentials::new(access_key_id, secret, token, None, "orbit");
        Self {
            access_key_id: access_key_id.into(),
            identity: credentials.into(),
            region: region.into(),
            service: service.into(),
        }
    }

    /// The headers to add: `x-amz-date`, `authorization`, `x-amz-content-sha256`, and
    /// `x-amz-security-token` for a temporary key. `authority` is signed as `host` exactly as given,
    /// and so must be sent. `headers` are the others to sign, `host` not among them.
    ///
    /// # Errors
    /// [`SignError`] if authority, target or a header is not valid HTTP.
    pub fn sign(
        &self,
        method: &str,
        authority: &str,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        now: Moment,
    ) -> Result<Vec<(&'static str, String)>, SignError> {
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params: SigningParams<'_> = v4::SigningParams::builder()
            .identity(&self.identity)
            .region(&self.region)
            .name(&self.service)
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(now.unix_seconds()))
            .settings(settings)
            .build()
            .map_err(SignError::new)?
            .into();
        // Given as a header, the host is not rewritten by the signer's rules about default ports.
        let headers = std::iter::once(("host", authority)).chain(headers.iter().copied());
        let uri = format!("http://{authority}{path_and_query}");
        let request = SignableRequest::new(method, uri, headers, SignableBody::Bytes(body)).map_err(SignError::new)?;
        let (instructions, _signature) = sign(request, &params).map_err(SignError::new)?.into_parts();
        let (headers, _query) = instructions.into_parts();
        Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
    }
}

impl Signer {
    /// Signs a request whose headers are these, `host` aside, and adds what [`Signer::sign`] gives.
    /// A value that is no text is sent unsigned.
    ///
    /// # Errors
    /// One line for the log.
    pub fn sign_headers(
        &self,
        method: &str,
        authority: &str,
        target: &str,
        headers: &mut HeaderMap,
        body: &[u8],
        now: Moment,
    ) -> Result<(), String> {
        let signable = headers.iter().filter(|(name, _)| **name != http::header::HOST);
        let signable: Vec<(&str, &str)> =
            signable.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
        let signed = self.sign(method, authority, target, &signable, body, now).map_err(|e| e.to_string())?;
        for (name, value) in signed {
            let mut value = HeaderValue::from_str(&value).map_err(|e| e.to_string())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(())
    }
}

impl SignError {
    fn new(source: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(source))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = (&self.region, &self.service);
        f.debug_struct("Signer")
            .field("access_key_id", &self.access_key_id)
            .field("scope", &scope)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request to the upstream cannot be signed")
    }
}

impl Error for SignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::auth::{KeyEntry, Keyring, Rules, claim};
    use crate::clock::{Clock, ManualClock};
    use crate::request::Head;

    fn signer(token: Option<&str>) -> Signer {
        let token = token.map(SecretString::from);
        Signer::new("AKID", &"s3cr3t".into(), token.as_ref(), "us-east-1", "execute-api")
    }

    #[test]
    fn what_is_signed_is_verified() {
        let now = ManualClock::at(1_705_314_600).now();
        for (authority, token) in [("axon:8080", None), ("axon:80", Some("t0ken")), ("[::1]:443", None)] {
            let extra = [("content-type", "application/json"), ("x-correlation-id", "a  b")];
            let body = br#"{"intent":"x"}"#;
            let added = signer(token).sign("POST", authority, "/dispatch?b=1&a=%2F", &extra, body, now).expect("valid");
            let mut head = format!("POST /dispatch?b=1&a=%2F HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: orbit\r\n");
            for (name, value) in extra.iter().copied().chain(added.iter().map(|(n, v)| (*n, v.as_str()))) {
                head += &format!("{name}: {value}\r\n");
            }
            let names: Vec<_> = added.iter().map(|(name, _)| *name).collect();
            assert_eq!(names.contains(&"x-amz-security-token"), token.is_some(), "{names:?}");
            for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
                assert!(names.contains(&name), "{names:?}");
            }
            let keyring = Keyring::from_entries(vec![KeyEntry {
                access_key_id: "AKID".into(),
                secret_access_key: "s3cr3t".into(),
                session_token: token.map(SecretString::from),
                principal: "orbit".into(),
                not_before: None,
                not_after: None,
                disabled: false,
            }]);
            let rules = Rules {
                regions: vec!["us-east-1".into()],
                services: vec!["execute-api".into()],
                clock_skew: Duration::ZERO,
                presigned: None,
                unsigned_payload: false,
            };
            let head = Head::parse(Bytes::from(head + "\r\n")).expect("a head");
            let claim = claim(&head, &rules, &keyring.expect("valid"), now).expect("a claim");
            assert_eq!(&**claim.identify(body).expect("a caller").principal(), "orbit");
        }
    }

    #[test]
    fn what_is_no_http_is_an_error_and_no_panic() {
        let now = ManualClock::at(1_705_314_600).now();
        for (authority, target) in [("", "/"), ("a b", "/"), ("axon", "/\u{7f}"), ("axon", "no slash")] {
            signer(None).sign("POST", authority, target, &[], b"", now).expect_err(authority);
        }
        signer(None).sign("POST", "axon", "/", &[("a b", "c")], b"", now).expect_err("name");
        signer(None).sign("POST", "axon", "/", &[("a", "b\nc")], b"", now).expect_err("value");
        signer(Some("line\nend")).sign("POST", "axon", "/", &[], b"", now).expect_err("token");
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", signer(Some("t0ken")));
        assert!(shown.contains("AKID") && !shown.contains("s3cr3t") && !shown.contains("t0ken"), "{shown}");
    }
}
