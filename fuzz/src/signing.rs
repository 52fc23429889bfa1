//! Requests, and AWS's signer for them.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SessionTokenMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;

use crate::auth::{KeyEntry, Keyring, Rules, claim};
use crate::clock::Moment;
use crate::error::Rejection;
use crate::naive;
use crate::request::Head;

pub const ID: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// The key of this id has a token.
pub const TEMPORARY: &str = "ASIATEMPORARY";
pub const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMic+/=";
/// 2026-11-22T09:56:51Z
pub const NOW: u64 = 1_795_341_411;

/// A request before it becomes bytes.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// How to sign.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub temporary: bool,
    pub declared: bool,
    /// In the query, to hold for so many seconds.
    pub presigned: Option<u64>,
    /// The token is added to the presigned URL, instead of being signed with it.
    pub appended: bool,
}

impl Request {
    pub fn head_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.fields {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes());
        bytes
    }

    pub fn verify(&self, keyring: &Keyring) -> Result<(), Rejection> {
        let head = Head::parse(Bytes::from(self.head_bytes()))?;
        claim(&head, &rules(), keyring, now())?.identify(&self.body).map(drop)
    }

    /// What `SignedHeaders` says, in the header or in the query.
    pub fn signed_names(&self) -> Vec<String> {
        let header = self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case("authorization"));
        let list = match header {
            Some((_, value)) => {
                let text = String::from_utf8_lossy(value).into_owned();
                let list = text.split_once("SignedHeaders=").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
                list.split([',', ' ', '\t']).next().unwrap_or_default().to_owned()
            }
            None => {
                let (_, query) = self.target.split_once('?').unwrap_or_default();
                let pairs = naive::pairs(query.as_bytes());
                let list = pairs.into_iter().find(|(name, _)| name == b"X-Amz-SignedHeaders").unwrap_or_default().1;
                String::from_utf8_lossy(&naive::decode(&list, b' ')).into_owned()
            }
        };
        list.split(';').map(str::to_owned).collect()
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.head_bytes().escape_ascii(), self.body.escape_ascii())
    }
}

/// Signs with the full signer of `aws-sigv4`, every header included; none if it cannot.
pub fn signed(mut request: Request, how: How) -> Option<Request> {
    let mut settings = SigningSettings::default();
    // It would leave out what proxies alter, such as User-Agent.
    settings.excluded_headers = None;
    if how.declared {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    if let Some(seconds) = how.presigned {
        settings.signature_location = SignatureLocation::QueryParams;
        // Without it the signer panics.
        settings.expires_in = Some(Duration::from_secs(seconds));
        if how.appended {
            settings.session_token_mode = SessionTokenMode::Exclude;
        }
    }
    let (id, token) = if how.temporary { (TEMPORARY, Some(TOKEN.to_owned())) } else { (ID, None) };
    let identity = Credentials::new(id, SECRET, token, None, "fuzz").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("execute-api")
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
        .settings(settings)
        .build()
        .expect("all set")
        .into();
    let fields = request.fields.clone();
    let headers: Option<Vec<(&str, &str)>> =
        fields.iter().map(|(n, v)| Some((n.as_str(), std::str::from_utf8(v).ok()?))).collect();
    let uri = format!("http://any{}", request.target);
    let signable =
        SignableRequest::new(&request.method, uri, headers?.into_iter(), SignableBody::Bytes(&request.body)).ok()?;
    let (instructions, _) = sign(signable, &params).ok()?.into_parts();
    for (name, value) in instructions.headers() {
        request.fields.push((name.to_owned(), value.as_bytes().to_vec()));
    }
    for (name, value) in instructions.params() {
        let glue = if request.target.contains('?') { '&' } else { '?' };
        let value = naive::encode(value.as_bytes(), b"");
        request.target += &format!("{glue}{name}={}", String::from_utf8_lossy(&value));
    }
    Some(request)
}

pub fn keyring() -> Keyring {
    let key = |id: &str, token: Option<&str>| KeyEntry {
        access_key_id: id.into(),
        secret_access_key: SECRET.into(),
        session_token: token.map(Into::into),
        principal: "fuzz".into(),
        not_before: None,
        not_after: None,
        disabled: false,
    };
    Keyring::from_entries(vec![key(ID, None), key(TEMPORARY, Some(TOKEN))]).expect("valid keys")
}

pub fn rules() -> Rules {
    Rules {
        regions: vec!["us-east-1".into()],
        services: vec!["execute-api".into()],
        clock_skew: Duration::from_secs(300),
        presigned: Some(Duration::from_secs(900)),
        unsigned_payload: false,
    }
}

pub fn now() -> Moment {
    Moment { unix_nanos: NOW * 1_000_000_000, ticks: 0 }
}
