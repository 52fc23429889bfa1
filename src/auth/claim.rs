//! The parts of a signature, taken out of the `Authorization` header or out of the query, by a grammar
//! stricter than AWS's.
//!
//! ```text
//! Authorization = "AWS4-HMAC-SHA256" 1*( SP / HTAB ) param *( OWS "," OWS param )
//! param         = "Credential=" cred / "SignedHeaders=" list / "Signature=" 64LOWHEX   ; each exactly once, any order
//! cred          = akid "/" YYYYMMDD "/" region "/" service "/aws4_request"
//! akid          = 1*128( ALPHA / DIGIT / "_" )     list = lname *( ";" lname ), ascending, unique, lower case
//! ```
//!
//! The query has the same `cred`, `list` and signature as values of their own, and the date, the session
//! token and the payload's hash may stand there too ([`Parameters`]).
//!
//! Nothing here is checked against keys, clock or configuration; the parts borrow from the head.
//! Invariant: what parses can be read in one way only. No client is known that needs a duplicate, an
//! unknown parameter or another order of names, and each of those has been an attack elsewhere.

use std::time::Duration;

use memchr::memchr;

use super::query::Parameters;
use super::{Issue, refuse};
use crate::error::Rejection;
use crate::request::head::{FIELDS_MAX, Head, One, is_token, trim_blanks};

/// The one algorithm that is verified.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Longest access key id in bytes.
pub const ACCESS_KEY_ID_BYTES_MAX: usize = 128;

/// What a signature is made of, whichever way it came.
#[derive(Clone)]
pub struct Parts<'a> {
    pub credential: Credential<'a>,
    pub signed: SignedHeaders<'a>,
    /// Lower-case hexadecimal.
    pub signature: &'a [u8; 64],
    /// What the query says beside it; `None` if the signature stands in the header.
    pub presigned: Option<Presigned<'a>>,
}

/// What else stands in the query of a presigned request.
#[derive(Clone)]
pub struct Presigned<'a> {
    pub date: &'a [u8],
    /// For how long the signature holds, at most [`EXPIRES_MAX`].
    pub expires: Option<Duration>,
    pub token: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
}

/// The longest life of a presigned request, AWS's own bound: seven days.
pub const EXPIRES_MAX: Duration = Duration::from_secs(604_800);

/// `akid/date/region/service/terminator`, compared with nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credential<'a> {
    pub access_key_id: &'a str,
    /// Eight digits.
    pub date: &'a [u8],
    pub region: &'a [u8],
    pub service: &'a [u8],
    pub terminator: &'a [u8],
}

/// The names in `SignedHeaders`: lower case, strictly ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeaders<'a> {
    /// The list as sent, names joined by `;`.
    pub list: &'a [u8],
    pub names: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// Parses the value of the `Authorization` header.
    ///
    /// # Errors
    /// `unsupported_algorithm` if another scheme or algorithm comes first, else `malformed`.
    pub fn from_header(value: &'a [u8]) -> Result<Self, Rejection> {
        let end = value.iter().position(is_blank).unwrap_or(value.len());
        let (algorithm, rest) = value.split_at_checked(end).unwrap_or((value, &[]));
        if algorithm.is_empty() {
            return Err(malformed("Authorization is empty"));
        }
        if algorithm != ALGORITHM.as_bytes() {
            return Err(refuse(Issue::UnsupportedAlgorithm, "Authorization is not AWS4-HMAC-SHA256"));
        }
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for param in split(rest, b',') {
            let param = trim_blanks(param);
            let twice = if let Some(value) = param.strip_prefix(b"Credential=") {
                credential.replace(Credential::parse(value)?).is_some()
            } else if let Some(value) = param.strip_prefix(b"SignedHeaders=") {
                signed.replace(SignedHeaders::parse(value)?).is_some()
            } else if let Some(value) = param.strip_prefix(b"Signature=") {
                signature.replace(signature_of(value)?).is_some()
            } else {
                return Err(malformed("Authorization has an unknown parameter"));
            };
            if twice {
                return Err(malformed("Authorization repeats a parameter"));
            }
        }
        Ok(Self {
            credential: credential.ok_or_else(|| malformed("Authorization lacks Credential"))?,
            signed: signed.ok_or_else(|| malformed("Authorization lacks SignedHeaders"))?,
            signature: signature.ok_or_else(|| malformed("Authorization lacks Signature"))?,
            presigned: None,
        })
    }

    /// Reads the parameters of the query.
    ///
    /// # Errors
    /// `unsupported_algorithm` if it is another one, else `malformed`.
    pub fn from_query(parameters: &'a Parameters<'a>) -> Result<Self, Rejection> {
        if *parameters.algorithm != *ALGORITHM.as_bytes() {
            return Err(refuse(Issue::UnsupportedAlgorithm, "X-Amz-Algorithm is not AWS4-HMAC-SHA256"));
        }
        Ok(Self {
            credential: Credential::parse(&parameters.credential)?,
            signed: SignedHeaders::parse(&parameters.signed_headers)?,
            signature: signature_of(&parameters.signature)?,
            presigned: Some(Presigned {
                date: &parameters.date,
                expires: parameters.expires.as_deref().map(expires_of).transpose()?,
                token: parameters.security_token.as_deref(),
                payload: parameters.content_sha256.as_deref(),
            }),
        })
    }

    /// Whether the scope names S3, which has a rule of its own for paths.
    pub fn is_for_s3(&self) -> bool {
        self.credential.service == b"s3"
    }
}

fn signature_of(value: &[u8]) -> Result<&[u8; 64], Rejection> {
    hex64(value).ok_or_else(|| malformed("Signature is not 64 lower-case hex digits"))
}

/// A number of seconds, from 1 to [`EXPIRES_MAX`], in plain digits.
fn expires_of(value: &[u8]) -> Result<Duration, Rejection> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let expires = text.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let expires = expires.filter(|expires| (Duration::from_secs(1)..=EXPIRES_MAX).contains(expires));
    expires.ok_or_else(|| malformed("X-Amz-Expires is not a number from 1 to 604800"))
}

impl<'a> Credential<'a> {
    fn parse(value: &'a [u8]) -> Result<Self, Rejection> {
        let mut parts = split(value, b'/');
        let mut part = || parts.next().ok_or_else(|| malformed("Credential has fewer than five parts"));
        let (id, date, region, service, terminator) = (part()?, part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(malformed("Credential has more than five parts"));
        }
        let access_key_id = access_key_id(id).ok_or_else(|| malformed("Credential has no valid access key id"))?;
        if date.len() != 8 || !date.iter().all(u8::is_ascii_digit) {
            return Err(malformed("date of Credential is not eight digits"));
        }
        Ok(Self { access_key_id, date, region, service, terminator })
    }
}

impl<'a> SignedHeaders<'a> {
    fn parse(list: &'a [u8]) -> Result<Self, Rejection> {
        let mut names: Vec<&[u8]> = Vec::with_capacity(8);
        for name in split(list, b';') {
            if name.is_empty() || !name.iter().all(|&b| is_lower_token(b)) {
                return Err(malformed("SignedHeaders holds something else than lower-case names"));
            }
            if names.last().is_some_and(|last| *last >= name) {
                return Err(malformed("SignedHeaders is not strictly ascending"));
            }
            if names.len() == FIELDS_MAX {
                return Err(malformed("SignedHeaders names more headers than a request may have"));
            }
            names.push(name);
        }
        Ok(Self { list, names })
    }
}

/// The text if it is a well-formed access key id.
pub fn access_key_id(bytes: &[u8]) -> Option<&str> {
    let fine = (1..=ACCESS_KEY_ID_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'_');
    std::str::from_utf8(bytes).ok().filter(|_| fine)
}

/// 64 lower-case hexadecimal digits.
pub fn hex64(value: &[u8]) -> Option<&[u8; 64]> {
    let digits = <&[u8; 64]>::try_from(value).ok()?;
    digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
}

/// The value of a header that may stand at most once.
///
/// # Errors
/// `malformed` if it stands more often.
pub fn at_most_one<'a>(head: &'a Head, name: &'static str) -> Result<Option<&'a [u8]>, Rejection> {
    match head.one(name.as_bytes()) {
        One::Absent => Ok(None),
        One::Single(value) => Ok(Some(value)),
        One::Repeated => Err(malformed(format!("more than one {name} header"))),
    }
}

pub(super) fn malformed(why: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    refuse(Issue::Malformed, why)
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `tchar` of RFC 9110 section 5.6.2 without capitals.
fn is_lower_token(byte: u8) -> bool {
    is_token(byte) && !byte.is_ascii_uppercase()
}

/// What stands between separators, as `slice::split` has it, which looks at each byte by itself.
fn split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let found = memchr(separator, bytes).and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)));
        let (piece, behind) = found.map_or((bytes, None), |(piece, behind)| (piece, Some(behind)));
        rest = behind;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Details;

    const CREDENTIAL: &str = "Credential=AKID/20150830/us-east-1/service/aws4_request";
    const SIGNATURE: &str = "Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn issue(value: &str) -> Option<&'static str> {
        Parts::from_header(value.as_bytes()).err().map(|refused| match refused.details {
            Details::Issue(issue) => issue,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn white_space_and_order_are_free() {
        let signed = "SignedHeaders=host;x-amz-date";
        for value in [
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {signed}, {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL},{signed},{SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 \t {SIGNATURE} ,\t{signed}  ,  {CREDENTIAL}"),
        ] {
            let parts = Parts::from_header(value.as_bytes()).unwrap_or_else(|e| panic!("{value}: {e:?}"));
            assert_eq!(parts.credential.access_key_id, "AKID");
            assert_eq!(parts.credential.date, b"20150830");
            assert_eq!(parts.credential.region, b"us-east-1");
            assert_eq!(parts.credential.service, b"service");
            assert_eq!(parts.credential.terminator, b"aws4_request");
            assert_eq!(parts.signed.names, [&b"host"[..], b"x-amz-date"]);
        }
    }

    #[test]
    fn other_algorithms_are_named_so() {
        for value in [
            "Bearer abc",
            "Basic dTpw",
            "AWS4-HMAC-SHA256-PAYLOAD Credential=a",
            "AWS4-ECDSA-P256-SHA256 Credential=a",
            "aws4-hmac-sha256 Credential=a",
            "AWS AKID:sig",
            "AWS4-HMAC-SHA256,Credential=a",
        ] {
            assert_eq!(issue(value), Some("unsupported_algorithm"), "{value}");
        }
    }

    #[test]
    fn everything_else_is_malformed() {
        let signed = "SignedHeaders=host";
        let with = |c: &str, h: &str, s: &str| format!("AWS4-HMAC-SHA256 {c}, {h}, {s}");
        let credential = |c: &str| with(&format!("Credential={c}"), signed, SIGNATURE);
        let headers = |h: &str| with(CREDENTIAL, &format!("SignedHeaders={h}"), SIGNATURE);
        let signature = |s: &str| with(CREDENTIAL, signed, &format!("Signature={s}"));
        for value in [
            String::new(),
            "AWS4-HMAC-SHA256".into(),
            "AWS4-HMAC-SHA256 ".into(),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {signed}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {signed}, {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {signed}, {SIGNATURE},"),
            format!("AWS4-HMAC-SHA256 ,{CREDENTIAL}, {signed}, {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL} {signed} {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}; {signed}; {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {signed}, {SIGNATURE}, {SIGNATURE}"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {signed}, {SIGNATURE}, Extra=1"),
            format!("AWS4-HMAC-SHA256 {CREDENTIAL}, {signed}, {}", SIGNATURE.replace('=', " = ")),
            format!("AWS4-HMAC-SHA256 {}, {signed}, {SIGNATURE}", CREDENTIAL.to_lowercase()),
            format!("AWS4-HMAC-SHA256 {}, {signed}, {SIGNATURE}", CREDENTIAL.replace('/', "%2F")),
            credential("\"AKID/20150830/us-east-1/service/aws4_request\""),
            credential("AKID/20150830/us-east-1/service"),
            credential("AKID/20150830/us-east-1/service/aws4_request/x"),
            credential("/20150830/us-east-1/service/aws4_request"),
            credential("AK-ID/20150830/us-east-1/service/aws4_request"),
            credential(&format!("{}/20150830/us-east-1/service/aws4_request", "A".repeat(129))),
            credential("AKID/2015083/us-east-1/service/aws4_request"),
            credential("AKID/2015083a/us-east-1/service/aws4_request"),
            headers(""),
            headers(";host"),
            headers("host;"),
            headers("host;host"),
            headers("x-amz-date;host"),
            headers("Host"),
            headers("host;:authority"),
            headers("host x"),
            headers(&(0..=FIELDS_MAX).map(|n| format!("h{n:03}")).collect::<Vec<_>>().join(";")),
            signature(""),
            signature(&"A".repeat(64)),
            signature(&"a".repeat(63)),
            signature(&"a".repeat(65)),
            signature(&"g".repeat(64)),
        ] {
            assert_eq!(issue(&value), Some("malformed"), "{value}");
        }
    }
}
