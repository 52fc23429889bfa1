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
pub mod keyring;
pub mod sign;
pub mod stamp;
pub mod verify;

use std::borrow::Cow;

use crate::error::{Code, Details, Rejection};

pub use keyring::{KeyEntry, KeyProblem, Keyring};
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
}

impl Issue {
    /// Every issue, for metric labels and documentation.
    pub const ALL: [Issue; 10] = [
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
        }
    }
}

/// `401 INVALID_SIGNATURE` with its issue; `why` goes to the log.
fn refuse(issue: Issue, why: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection { details: Details::Issue(issue.as_str()), ..Rejection::new(Code::InvalidSignature, why) }
}
