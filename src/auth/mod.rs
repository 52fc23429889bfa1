//! Who is calling: AWS Signature Version 4 over the head and the body, and the signature Orbit sends on.
//!
//! [`claim`](verify::claim) refuses everything that can be refused before a body is read,
//! [`Claim::identify`] binds the body and names the caller. Verification rebuilds the canonical
//! request from the raw bytes instead of signing again and comparing: a signer normalises what it
//! signs, so two different requests can share its signature.
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
//!
//! Invariant: a [`Caller`] exists only behind a verified signature over head and body.
//! Invariant: no refusal, log text or `Debug` output holds a secret, a token or a signature.

pub mod canonical;
pub mod claim;
pub mod credentials;
pub mod doctor;
pub mod keyring;
pub mod last_use;
pub mod query;
pub mod replay;
pub mod sign;
pub mod stamp;
pub mod verify;

use std::borrow::Cow;

use crate::error::{Code, Details, Rejection};

pub use credentials::{Credentials, CurrentCredentials};
pub use keyring::{Key, KeyEntry, KeyProblem, Keyring};
pub use last_use::LastUse;
pub use sign::{SignError, Signer};
pub use verify::{Caller, Claim, Rules, claim};

/// What is wrong with a signature: the closed set of `details.issue` under `INVALID_SIGNATURE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Issue {
    /// The header, a date or a payload declaration does not follow its grammar.
    Malformed,
    /// Another algorithm than `AWS4-HMAC-SHA256`, chunk signatures included.
    UnsupportedAlgorithm,
    /// A header that must be signed is not.
    UnsignedHeader,
    /// The signature names a header that the request lacks.
    MissingSignedHeader,
    /// Date, region, service or terminator of the credential.
    WrongScope,
    Expired,
    NotYetValid,
    /// The body is not the one that was declared, or must be declared and is not.
    PayloadMismatch,
    /// The session token is not the key's.
    TokenMismatch,
    /// Unknown key, unusable key or wrong signature; the log tells them apart.
    Mismatch,
    /// The signature is right and was used before.
    Replayed,
}

impl Issue {
    /// Every issue, for metric labels and documentation.
    pub const ALL: [Issue; 11] = [
        Issue::Malformed,
        Issue::UnsupportedAlgorithm,
        Issue::UnsignedHeader,
        Issue::MissingSignedHeader,
        Issue::WrongScope,
        Issue::Expired,
        Issue::NotYetValid,
        Issue::PayloadMismatch,
        Issue::TokenMismatch,
        Issue::Mismatch,
        Issue::Replayed,
    ];

    /// The contract's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Issue::Malformed => "malformed",
            Issue::UnsupportedAlgorithm => "unsupported_algorithm",
            Issue::UnsignedHeader => "unsigned_header",
            Issue::MissingSignedHeader => "missing_signed_header",
            Issue::WrongScope => "wrong_scope",
            Issue::Expired => "expired",
            Issue::NotYetValid => "not_yet_valid",
            Issue::PayloadMismatch => "payload_mismatch",
            Issue::TokenMismatch => "token_mismatch",
            Issue::Mismatch => "mismatch",
            Issue::Replayed => "replayed",
        }
    }

    /// The issue of that spelling.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|issue| issue.as_str() == word)
    }

    /// What a caller should do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Issue::Malformed => "sign with an SDK, or compare with AWS's specification",
            Issue::UnsupportedAlgorithm => "use `AWS4-HMAC-SHA256` over the whole body",
            Issue::UnsignedHeader => "sign it, or add it before signing",
            Issue::MissingSignedHeader => "look for a proxy that removes headers",
            Issue::WrongScope => "use the region and service of `auth`, and the day of `X-Amz-Date`",
            Issue::Expired => "set the caller's clock; sign each try anew",
            Issue::NotYetValid => "set the caller's clock",
            Issue::PayloadMismatch => "sign the bytes that are sent",
            Issue::TokenMismatch => "send the token that came with the key",
            Issue::Mismatch => "check key and secret, and that nothing rewrites host, path, query or body",
            Issue::Replayed => "sign each try anew; give dispatches of the same second different bodies or headers",
        }
    }
}

/// `401 INVALID_SIGNATURE` with its issue; `why` goes to the log.
fn refuse(issue: Issue, why: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection { details: Details::Issue(issue.as_str()), ..Rejection::new(Code::InvalidSignature, why) }
}
