//! Query authentication: the eight parameters of a presigned request, found and decoded.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>. Outside S3
//! `X-Amz-Expires` may be absent, and the signature covers the real body.
//!
//! Invariant: a name that some parser could take for one of the eight is one of them, spelt exactly so
//! and standing once, or the request is refused: a second reading of the query has authenticated
//! someone else before (CVE-2022-2385).

use std::borrow::Cow;

use super::canonical::{decode, pieces};
use super::claim::malformed;
use crate::error::Rejection;

pub(super) const SIGNATURE: &[u8] = b"X-Amz-Signature";
pub(super) const SECURITY_TOKEN: &[u8] = b"X-Amz-Security-Token";

/// Every parameter of query authentication, in the order of [`Parameters`]' fields.
const NAMES: [&[u8]; 8] = [
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    b"X-Amz-Date",
    b"X-Amz-Expires",
    b"X-Amz-SignedHeaders",
    SIGNATURE,
    SECURITY_TOKEN,
    b"X-Amz-Content-Sha256",
];

/// The values as the signer meant them, escapes undone.
pub struct Parameters<'a> {
    pub algorithm: Cow<'a, [u8]>,
    pub credential: Cow<'a, [u8]>,
    pub date: Cow<'a, [u8]>,
    pub expires: Option<Cow<'a, [u8]>>,
    pub signed_headers: Cow<'a, [u8]>,
    pub signature: Cow<'a, [u8]>,
    pub security_token: Option<Cow<'a, [u8]>>,
    pub content_sha256: Option<Cow<'a, [u8]>>,
}

/// Whether a query carries any part of query authentication, however its name is spelt.
pub fn has_query_authentication(query: &[u8]) -> bool {
    pieces(query).any(|(name, _)| meant(name).is_some())
}

impl<'a> Parameters<'a> {
    /// Takes a query, whose escapes are valid, apart.
    ///
    /// # Errors
    /// `malformed` if a parameter is misspelt, repeated, or missing and not optional.
    pub fn parse(query: &'a [u8]) -> Result<Self, Rejection> {
        let mut values: [Option<&'a [u8]>; 8] = [None; 8];
        for (name, value) in pieces(query) {
            let Some(at) = meant(name) else { continue };
            let Some((known, slot)) = NAMES.get(at).zip(values.get_mut(at)) else { continue };
            if name != *known {
                return Err(malformed(format!("{} is spelt in another way in the query", text(known))));
            }
            if slot.replace(value).is_some() {
                return Err(malformed(format!("more than one {} in the query", text(known))));
            }
        }
        let [algorithm, credential, date, expires, signed_headers, signature, security_token, content_sha256] = values;
        let required = |value: Option<&'a [u8]>, name| {
            value.map(decoded).ok_or_else(|| malformed(format!("query authentication lacks {name}")))
        };
        Ok(Self {
            algorithm: required(algorithm, "X-Amz-Algorithm")?,
            credential: required(credential, "X-Amz-Credential")?,
            date: required(date, "X-Amz-Date")?,
            expires: expires.map(decoded),
            signed_headers: required(signed_headers, "X-Amz-SignedHeaders")?,
            signature: required(signature, "X-Amz-Signature")?,
            security_token: security_token.map(decoded),
            content_sha256: content_sha256.map(decoded),
        })
    }
}

/// The place in [`NAMES`] of the parameter that a name stands for once decoded, case aside.
fn meant(name: &[u8]) -> Option<usize> {
    let stands_for = |known: &&[u8]| match memchr::memchr(b'%', name) {
        Some(_) => decode(name).map(|b| b.to_ascii_lowercase()).eq(known.iter().map(u8::to_ascii_lowercase)),
        None => name.eq_ignore_ascii_case(known),
    };
    NAMES.iter().position(stands_for)
}

fn decoded(value: &[u8]) -> Cow<'_, [u8]> {
    match memchr::memchr2(b'%', b'+', value) {
        Some(_) => Cow::Owned(decode(value).collect()),
        None => Cow::Borrowed(value),
    }
}

fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str =
        "X-Amz-Algorithm=a&X-Amz-Credential=b%2Fc&X-Amz-Date=d&X-Amz-SignedHeaders=h%3bx&X-Amz-Signature=s";

    fn refused(query: &str) -> String {
        Parameters::parse(query.as_bytes()).map(drop).expect_err(query).why.into_owned()
    }

    #[test]
    fn it_is_seen_in_any_spelling_and_in_any_part() {
        for query in [
            "X-Amz-Signature=a",
            "a=b&x-amz-credential=",
            "X%2DAmz%2dAlgorithm",
            "X-Amz-%53ignature=1",
            "X-Amz-Date=1",
            "x-AMZ-expires",
            "&&%78-Amz-SignedHeaders",
            "X-Amz-Security-Token=",
            "X-Amz-Content-SHA256=a",
        ] {
            assert!(has_query_authentication(query.as_bytes()), "{query}");
        }
        for query in
            ["", "a=X-Amz-Signature", "X-Amz-Signature2=a", "X-Amz-Signatur", "X+Amz-Signature=a", "X-Amz-Target=a"]
        {
            assert!(!has_query_authentication(query.as_bytes()), "{query}");
        }
    }

    #[test]
    fn values_are_decoded_and_others_passed_over() {
        let query = format!("a=1&{WHOLE}&X-Amz-Security-Token=t%2B%2F%3D&x=&X-Amz-Target=y");
        let found = Parameters::parse(query.as_bytes()).expect("whole");
        assert_eq!((&*found.algorithm, &*found.credential, &*found.date), (&b"a"[..], &b"b/c"[..], &b"d"[..]));
        assert_eq!((&*found.signed_headers, &*found.signature), (&b"h;x"[..], &b"s"[..]));
        assert_eq!(found.security_token.as_deref(), Some(&b"t+/="[..]));
        assert!(found.expires.is_none() && found.content_sha256.is_none());
    }

    #[test]
    fn each_stands_once_and_is_spelt_exactly() {
        for name in NAMES.map(text) {
            let whole = if WHOLE.contains(name) { WHOLE.to_owned() } else { format!("{WHOLE}&{name}=1") };
            Parameters::parse(whole.as_bytes()).map(drop).expect("whole");
            assert!(refused(&format!("{whole}&{name}=1")).contains("more than one"), "{name}");
            assert!(refused(&format!("{name}&{whole}")).contains("more than one"), "{name}");
            for other in
                [name.to_lowercase(), name.to_uppercase(), name.replace('-', "%2D"), format!("%58{}", &name[1..])]
            {
                assert!(refused(&format!("{whole}&{other}=1")).contains("spelt in another way"), "{other}");
                assert!(refused(&format!("{other}=1&{whole}")).contains("spelt in another way"), "{other}");
                assert!(refused(&whole.replace(name, &other)).contains("spelt in another way"), "{other}");
            }
        }
    }

    #[test]
    fn a_part_of_it_is_not_enough() {
        let pairs: Vec<&str> = WHOLE.split('&').collect();
        for left_out in 0..pairs.len() {
            let rest = [&pairs[..left_out], &pairs[left_out + 1..]].concat().join("&");
            let name = pairs[left_out].split('=').next().expect("a name");
            assert_eq!(refused(&rest), format!("query authentication lacks {name}"));
        }
    }
}
