//! Signs what Orbit sends on, with AWS's own signer.
//!
//! The opposite choice to verification is right here: what is signed is built by Orbit, plain and
//! valid, and the signer that most clients of the far side run is the least surprising one.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;

use super::credentials::{Credentials, CurrentCredentials, Expired};
use crate::clock::Moment;

/// The credentials of the moment and the scope that they sign for.
#[derive(Debug)]
pub struct Signer {
    credentials: Arc<CurrentCredentials>,
    region: String,
    service: String,
}

/// Why a request could not be signed.
#[derive(Debug)]
pub enum SignError {
    /// Nothing but expired credentials is there.
    Expired(Expired),
    /// Authority, target or a header is not valid HTTP.
    Invalid(Box<dyn Error + Send + Sync>),
}

impl Signer {
    /// Signs for `region` and `service` with whatever credentials are current.
    pub fn with(credentials: Arc<CurrentCredentials>, region: &str, service: &str) -> Self {
        Self { credentials, region: region.into(), service: service.into() }
    }

    /// The credentials that it signs with.
    pub fn credentials(&self) -> &Arc<CurrentCredentials> {
        &self.credentials
    }

    /// Signs as this key for `region` and `service`; a token makes the key a temporary one.
    pub fn new(
        access_key_id: &str,
        secret_access_key: &SecretString,
        session_token: Option<&SecretString>,
        region: &str,
        service: &str,
    ) -> Self {
        let credentials = Credentials::new(access_key_id, secret_access_key, session_token, None);
        Self::with(CurrentCredentials::new(credentials), region, service)
    }

    /// The headers to add: `x-amz-date`, `authorization`, `x-amz-content-sha256`, and
    /// `x-amz-security-token` for a temporary key. `authority` is signed as `host` exactly as given,
    /// and so must be sent. `headers` are the others to sign, `host` not among them.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(
        &self,
        method: &str,
        authority: &str,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        now: Moment,
    ) -> Result<Vec<(&'static str, String)>, SignError> {
        let credentials = self.credentials.at(now).map_err(SignError::Expired)?;
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params: SigningParams<'_> = v4::SigningParams::builder()
            .identity(credentials.identity())
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
    /// [`Signer::sign`] for fields as they are sent; a value that is no visible ASCII is left out.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign_fields<'f>(
        &self,
        method: &str,
        authority: &str,
        target: &str,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        body: &[u8],
        now: Moment,
    ) -> Result<Vec<(&'static str, String)>, SignError> {
        let visible = |value: &&[u8]| value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e));
        let text = |value: &'f [u8]| Some(value).filter(visible).and_then(|value| std::str::from_utf8(value).ok());
        let signable: Vec<(&str, &str)> = fields.filter_map(|(name, value)| Some((name, text(value)?))).collect();
        self.sign(method, authority, target, &signable, body, now)
    }

    /// Signs a request whose headers are these, `host` aside, and adds what [`Signer::sign`] gives.
    /// A value that is no text is sent unsigned.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign_headers(
        &self,
        method: &str,
        authority: &str,
        target: &str,
        headers: &mut HeaderMap,
        body: &[u8],
        now: Moment,
    ) -> Result<(), SignError> {
        let signable = headers.iter().filter(|(name, _)| **name != http::header::HOST);
        let signable = signable.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let signed = self.sign_fields(method, authority, target, signable, body, now)?;
        for (name, value) in signed {
            let mut value = HeaderValue::from_str(&value).map_err(SignError::new)?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(())
    }
}

impl SignError {
    fn new(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Invalid(Box::new(source))
    }
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignError::Expired(_) => f.write_str("the signing credentials have expired"),
            SignError::Invalid(_) => f.write_str("the request to the upstream cannot be signed"),
        }
    }
}

impl Error for SignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SignError::Expired(_) => None,
            SignError::Invalid(source) => Some(&**source),
        }
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
    fn headers_that_are_text_are_signed_and_the_others_are_not() {
        let now = ManualClock::at(1_705_314_600).now();
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("elsewhere"));
        headers.insert("x-text", HeaderValue::from_static("a"));
        headers.insert("x-bytes", HeaderValue::from_bytes(b"\xff").expect("a value"));
        signer(Some("t0ken")).sign_headers("POST", "axon:8080", "/dispatch", &mut headers, b"{}", now).expect("signed");
        let authorization = headers["authorization"].to_str().expect("text");
        let names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token;x-text, ";
        assert!(authorization.contains(names), "{authorization}");
        for name in ["authorization", "x-amz-security-token", "x-amz-date"] {
            assert!(headers[name].is_sensitive(), "{name}");
        }
        let added = signer(Some("t0ken")).sign("POST", "axon:8080", "/dispatch", &[("x-text", "a")], b"{}", now);
        let added = added.expect("signed").into_iter().find(|(name, _)| *name == "authorization").expect("added");
        assert_eq!(added.1, authorization, "the host is the one that is asked for");
        let refused = signer(None).sign_headers("POST", "a b", "/", &mut headers, b"", now).expect_err("no authority");
        assert_eq!(refused.to_string(), "the request to the upstream cannot be signed");
    }

    #[test]
    fn an_error_says_its_cause() {
        let now = ManualClock::at(1_705_314_600).now();
        let error = signer(None).sign("POST", "axon", "/", &[("a", "b\nc")], b"", now).expect_err("value");
        assert!(error.source().is_some_and(|cause| !cause.to_string().is_empty()), "{error:?}");
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
