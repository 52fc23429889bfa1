//! From a head to a claim, and from a claim with its body to a caller.
//!
//! The order follows AWS's: form, signed headers, date, scope, payload declaration, key, signature, token. All of it is cheap and comes before the body is read; when the head declares the body's
//! hash, the signature too. Nothing that is compared is taken from the request: region and service
//! come from the configuration, the secret from the keyring, the hash from the body itself. While a key
//! is rotated there are two candidates, and one of them must hold as a whole: secret, token, validity.
//!
//! A known key id can be told from an unknown one by whoever withholds the body: reading a mebibyte
//! for every stranger would cost more than an id that is no secret is worth. The answer is the same.
//! Invariant: signatures and tokens are compared in constant time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::canonical::{Canonical, Form, escapes_are_valid};
use super::claim::{ALGORITHM, Credential, Parts, at_most_one, hex64, malformed};
use super::keyring::{KEYS_PER_ID_MAX, Key, Keyring, SigningKey, Standing};
use super::query::{Parameters, has_query_authentication};
use super::replay::Mark;
use super::stamp::Stamp;
use super::{Issue, refuse};
use crate::clock::Moment;
use crate::error::{Code, Details, Rejection};
use crate::request::Head;

/// What a signature must be made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Regions and services that a scope may name.
    pub regions: Vec<String>,
    pub services: Vec<String>,
    /// How far the signing instant may lie from now, both ways, both ends included.
    pub clock_skew: Duration,
    /// The longest `X-Amz-Expires` of a presigned request; `None` refuses query authentication.
    pub presigned: Option<Duration>,
    /// Whether a body may be left out of the signature (`UNSIGNED-PAYLOAD`).
    pub unsigned_payload: bool,
}

/// A signature that can still be right: everything but the body is checked.
pub struct Claim {
    proof: Proof,
    mark: Mark,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match &self.proof {
            Proof::Declared(key, _) | Proof::Unsigned(key) => key.id(),
            Proof::Open(open) => open.seal.access_key_id(),
        };
        f.debug_struct("Claim").field("access_key_id", &key).finish_non_exhaustive()
    }
}

/// Who signed; made by [`Claim::identify`] only.
#[derive(Debug, Clone)]
pub struct Caller {
    key: Arc<Key>,
    mark: Mark,
}

impl Caller {
    pub fn principal(&self) -> &Arc<str> {
        self.key.principal()
    }

    pub fn access_key_id(&self) -> &Arc<str> {
        self.key.id()
    }

    /// The very key that the signature holds for, of those that share its id.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// What to know the signature by, should it come again.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }
}

/// What the body still has to prove.
enum Proof {
    /// The signature holds for a body with this hash.
    Declared(Arc<Key>, [u8; 64]),
    /// The signature holds for any body, by permission of the rules.
    Unsigned(Arc<Key>),
    /// The signature is checked once the body's hash completes the canonical request.
    Open(Box<Open>),
}

struct Open {
    /// Canonical requests hashed up to the payload, the specification's form first.
    first: Sha256,
    others: Vec<Sha256>,
    seal: Seal,
    /// The session token as it was sent.
    token: Option<SecretSlice<u8>>,
}

/// What the hash of a canonical request is compared through.
struct Seal {
    stamp: Stamp,
    signature: [u8; 32],
    candidates: ArrayVec<Candidate, KEYS_PER_ID_MAX>,
}

/// Keys of one id.
pub(super) type Keys<'k> = ArrayVec<&'k Arc<Key>, KEYS_PER_ID_MAX>;

/// A key that may have signed.
struct Candidate {
    key: Arc<Key>,
    signing_key: Arc<SigningKey>,
}

/// Checks all that the head alone can prove.
///
/// # Errors
/// `400` if the query has a bad escape, `401` for everything else; see [`Issue`].
pub fn claim(head: &Head, rules: &Rules, keyring: &Keyring, now: Moment) -> Result<Claim, Rejection> {
    let query = head.query().unwrap_or_default().as_bytes();
    if !escapes_are_valid(query) {
        return Err(Rejection::field("query", "malformed percent escape"));
    }
    let parameters;
    let parts = match carrier(head, query)? {
        Carrier::Header(value) => Parts::from_header(value)?,
        Carrier::Query => {
            parameters = allowed_parameters(query, rules)?;
            Parts::from_query(&parameters)?
        }
    };
    if parts.is_for_s3() && !escapes_are_valid(head.path().as_bytes()) {
        return Err(Rejection::field("path", "malformed percent escape"));
    }
    let canonical = Canonical::new(head, &parts)?;
    let stamp = stamp(head, &parts)?;
    let lifetime = lifetime(&parts, rules)?;
    check_window(&stamp, lifetime, rules, now)?;
    let (region, service) = check_scope(&parts.credential, &stamp, rules)?;
    let presigned = parts.presigned.as_ref();
    let payload = Payload::read(said_once(head, "x-amz-content-sha256", presigned.and_then(|p| p.payload))?, rules)?;
    let token = said_once(head, "x-amz-security-token", presigned.and_then(|p| p.token))?;
    let access_key_id = parts.credential.access_key_id;
    let keys = usable_keys(access_key_id, keyring, now)?;
    let candidate =
        |key: &Arc<Key>| Candidate { key: key.clone(), signing_key: key.signing_key(&stamp, region, service) };
    let seal = Seal { stamp, signature: unhex(parts.signature), candidates: keys.into_iter().map(candidate).collect() };

    let mut buffer = Vec::with_capacity(canonical.size_hint());
    let mut hash = |form: Form| {
        buffer.clear();
        canonical.write(form, &mut buffer);
        Sha256::new_with_prefix(&buffer)
    };
    let proof = match payload {
        Payload::Absent => {
            let mut forms = canonical.forms();
            let first = hash(forms.next().unwrap_or_default());
            let others = forms.map(hash).collect();
            let token = token.map(|token| token.to_vec().into());
            Proof::Open(Box::new(Open { first, others, seal, token }))
        }
        Payload::Hash(_) | Payload::Unsigned => {
            let key = seal.holder(canonical.forms().map(hash), payload.line(), token)?;
            if let Payload::Hash(hash) = payload { Proof::Declared(key, hash) } else { Proof::Unsigned(key) }
        }
    };
    let signed_at = stamp.unix_seconds();
    let valid_until = signed_at + lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
    let mark = Mark::new(parts.signature, signed_at, valid_until, rules.clock_skew.as_secs());
    Ok(Claim { proof, mark })
}

impl Claim {
    /// Binds the body and names the caller.
    ///
    /// # Errors
    /// `401`: `payload_mismatch` if the head declared another hash, `mismatch` if the signature does
    /// not hold for this body, `token_mismatch` if it holds and the token is another.
    pub fn identify(self, body: &[u8]) -> Result<Caller, Rejection> {
        let key = match self.proof {
            Proof::Unsigned(key) => key,
            Proof::Declared(key, declared) => {
                if hex(&Sha256::digest(body)) != declared {
                    return Err(refuse(Issue::PayloadMismatch, "body does not have the hash that its head declares"));
                }
                key
            }
            Proof::Open(open) => {
                let Open { first, others, seal, token } = *open;
                let token = token.as_ref().map(|token| token.expose_secret());
                seal.holder(std::iter::once(first).chain(others), &hex(&Sha256::digest(body)), token)?
            }
        };
        Ok(Caller { key, mark: self.mark })
    }
}

impl Seal {
    /// The key that the signature holds for, in any of these forms of the canonical request up to its payload
    /// line, and whose token was sent.
    ///
    /// The token comes last: whoever lacks the secret learns nothing about it, nor that there is such an id.
    fn holder(
        &self,
        mut forms: impl Iterator<Item = Sha256>,
        payload: &[u8],
        token: Option<&[u8]>,
    ) -> Result<Arc<Key>, Rejection> {
        let holders = forms.find_map(|form| Some(self.holders(form, payload)).filter(|holders| !holders.is_empty()));
        let holders = with_token(holders.unwrap_or_default(), token)?;
        holders.first().map(|key| Arc::clone(key)).ok_or_else(|| wrong_secret(self.access_key_id()))
    }

    /// The candidates whose signature this is of a canonical request, hashed up to its payload line.
    fn holders(&self, canonical: Sha256, payload: &[u8]) -> Keys<'_> {
        let hash = hex(&canonical.chain_update(payload).finalize());
        let holds = |candidate: &&Candidate| {
            let key = &candidate.signing_key;
            is_signature(&self.signature, key.mac(), string_to_sign(self.stamp.text(), key.scope(), &hash))
        };
        self.candidates.iter().filter(holds).map(|candidate| &candidate.key).collect()
    }

    fn access_key_id(&self) -> &str {
        self.candidates.first().map_or("", |candidate| candidate.key.id())
    }
}

/// The string to sign, in parts: algorithm, instant, scope and the canonical request's hash in hexadecimal.
pub fn string_to_sign<'a>(stamp: &'a [u8], scope: &'a str, hash: &'a [u8; 64]) -> [&'a [u8]; 7] {
    [ALGORITHM.as_bytes(), b"\n", stamp, b"\n", scope.as_bytes(), b"\n", hash]
}

/// Whether this is the signature that a signing key makes of a string to sign; compared in constant time.
pub(super) fn is_signature(signature: &[u8; 32], mut mac: Hmac<Sha256>, to_sign: [&[u8]; 7]) -> bool {
    for part in to_sign {
        mac.update(part);
    }
    mac.verify_slice(signature).is_ok()
}

/// What `x-amz-content-sha256` says about the body.
#[derive(Clone, Copy)]
enum Payload {
    Absent,
    Hash([u8; 64]),
    Unsigned,
}

impl Payload {
    fn read(declared: Option<&[u8]>, rules: &Rules) -> Result<Self, Rejection> {
        let Some(value) = declared else { return Ok(Self::Absent) };
        if let Some(hash) = hex64(value) {
            return Ok(Self::Hash(*hash));
        }
        if value.starts_with(b"STREAMING-") {
            // Chunk signatures are S3's own; accepting the word without checking them voids the signature.
            return Err(refuse(Issue::UnsupportedAlgorithm, "x-amz-content-sha256 declares chunk signatures"));
        }
        match (value == UNSIGNED_PAYLOAD, rules.unsigned_payload) {
            (true, true) => Ok(Self::Unsigned),
            (true, false) => {
                Err(refuse(Issue::PayloadMismatch, "auth.unsigned_payload does not allow unsigned bodies"))
            }
            (false, _) => Err(malformed("x-amz-content-sha256 is no lower-case SHA-256")),
        }
    }

    /// The last line of the canonical request.
    fn line(&self) -> &[u8] {
        match self {
            Self::Absent => &[],
            Self::Hash(hash) => hash,
            Self::Unsigned => UNSIGNED_PAYLOAD,
        }
    }
}

pub(super) const UNSIGNED_PAYLOAD: &[u8] = b"UNSIGNED-PAYLOAD";

/// Where the signature stands.
pub(super) enum Carrier<'a> {
    /// In the one `Authorization` header, whose value this is.
    Header(&'a [u8]),
    Query,
}

pub(super) fn carrier<'a>(head: &'a Head, query: &[u8]) -> Result<Carrier<'a>, Rejection> {
    match (at_most_one(head, "authorization")?, has_query_authentication(query)) {
        (Some(value), false) => Ok(Carrier::Header(value)),
        (None, true) => Ok(Carrier::Query),
        (Some(_), true) => Err(malformed("both an Authorization header and query authentication")),
        (None, false) => Err(Rejection::new(Code::MissingAuthorization, "no Authorization header")),
    }
}

fn allowed_parameters<'a>(query: &'a [u8], rules: &Rules) -> Result<Parameters<'a>, Rejection> {
    match rules.presigned {
        Some(_) => Parameters::parse(query),
        None => Err(malformed("auth.presigned does not allow query authentication")),
    }
}

/// What stands in one header or in the query. In both at once it could be read in two ways.
pub(super) fn said_once<'a>(
    head: &'a Head,
    name: &'static str,
    query: Option<&'a [u8]>,
) -> Result<Option<&'a [u8]>, Rejection> {
    match (at_most_one(head, name)?, query) {
        (Some(_), Some(_)) => Err(malformed(format!("{name} stands both in the query and in a header"))),
        (header, query) => Ok(header.or(query)),
    }
}

/// The instant of `X-Amz-Date`, or of the `Date` header where the former is absent.
pub(super) fn stamp(head: &Head, parts: &Parts<'_>) -> Result<Stamp, Rejection> {
    let date = parts.presigned.as_ref().map(|presigned| presigned.date);
    if let Some(value) = said_once(head, "x-amz-date", date)? {
        return Stamp::parse_basic(value)
            .ok_or_else(|| malformed("X-Amz-Date is no date of the form YYYYMMDDTHHMMSSZ"));
    }
    let value = at_most_one(head, "date")?.ok_or_else(|| malformed("neither X-Amz-Date nor Date"))?;
    Stamp::parse_basic(value).or_else(|| Stamp::parse_http(value)).ok_or_else(|| malformed("Date is no valid date"))
}

/// How long after its instant a signature holds.
fn lifetime(parts: &Parts<'_>, rules: &Rules) -> Result<Duration, Rejection> {
    let Some(presigned) = &parts.presigned else { return Ok(rules.clock_skew) };
    match (presigned.expires, rules.presigned) {
        (Some(expires), Some(max)) if expires > max => {
            Err(malformed("X-Amz-Expires is over auth.presigned.max_expires"))
        }
        (Some(expires), _) => Ok(expires),
        (None, _) if parts.is_for_s3() => Err(malformed("X-Amz-Expires is absent, which S3 requires")),
        (None, Some(max)) => Ok(rules.clock_skew.min(max)),
        (None, None) => Ok(rules.clock_skew),
    }
}

/// Whether now lies in the life of a signature, both its ends included; the signer's clock may be ahead by
/// the allowed skew.
fn check_window(stamp: &Stamp, lifetime: Duration, rules: &Rules, now: Moment) -> Result<(), Rejection> {
    let signed = u128::from(stamp.unix_seconds()) * 1_000_000_000;
    let now_nanos = u128::from(now.unix_nanos);
    let (issue, why) = if now_nanos > signed + lifetime.as_nanos() {
        (Issue::Expired, "signed too long ago")
    } else if signed > now_nanos + rules.clock_skew.as_nanos() {
        (Issue::NotYetValid, "signed in the future")
    } else {
        return Ok(());
    };
    Err(outside_window(issue, why, stamp.unix_seconds(), rules.clock_skew.as_secs(), now))
}

/// The refusal of what was signed at another time, with what a client needs to see why.
pub(super) fn outside_window(
    issue: Issue,
    why: &'static str,
    request_time: u64,
    allowed_skew_seconds: u64,
    now: Moment,
) -> Rejection {
    let (issue_name, server_time) = (issue.as_str(), now.unix_seconds());
    let details = Details::Skew { issue: issue_name, server_time, request_time, allowed_skew_seconds };
    Rejection { details, ..refuse(issue, why) }
}

/// Compares the scope with the configuration and the stamp; returns the configuration's own words.
fn check_scope<'r>(
    credential: &Credential<'_>,
    stamp: &Stamp,
    rules: &'r Rules,
) -> Result<(&'r str, &'r str), Rejection> {
    let wrong = |why| refuse(Issue::WrongScope, why);
    if credential.date != stamp.date() {
        return Err(wrong("scope has another date than the request"));
    }
    if credential.terminator != b"aws4_request" {
        return Err(wrong("scope does not end in aws4_request"));
    }
    let find = |words: &'r [String], word: &[u8]| words.iter().find(|w| w.as_bytes() == word).map(String::as_str);
    let region = find(&rules.regions, credential.region).ok_or_else(|| wrong("scope has another region"))?;
    let service = find(&rules.services, credential.service).ok_or_else(|| wrong("scope has another service"))?;
    Ok((region, service))
}

/// The keys of an id that may be used now, never none. A current key that is disabled disables the id: whoever
/// does that means the one before it too.
pub(super) fn usable_keys<'k>(id: &str, keyring: &'k Keyring, now: Moment) -> Result<Keys<'k>, Rejection> {
    let keys = keyring.lookup(id);
    let current = keys.first().ok_or_else(|| refuse(Issue::Mismatch, format!("unknown key {}", shown(id))))?;
    let standing = current.standing(now);
    if standing != Standing::Disabled {
        let usable: Keys<'k> = keys.iter().filter(|key| key.standing(now) == Standing::Usable).collect();
        if !usable.is_empty() {
            return Ok(usable);
        }
    }
    let why = match standing {
        Standing::Disabled => "is disabled",
        Standing::Early => "is not valid yet",
        Standing::Lapsed | Standing::Usable => "is no longer valid",
    };
    Err(refuse(Issue::Mismatch, format!("key {id} {why}")))
}

/// An id that nobody knows may be a secret in the wrong place, which is longer than ids are.
pub(super) fn shown(id: &str) -> &str {
    if id.len() <= UNKNOWN_ID_CHARS_MAX { id } else { "of unusual length" }
}

/// AWS's own ids have 20 characters.
const UNKNOWN_ID_CHARS_MAX: usize = 24;

/// Those of the keys that were sent with the right token: a key with a token needs exactly that one, a key
/// without takes none.
fn with_token<'k>(mut keys: Keys<'k>, sent: Option<&[u8]>) -> Result<Keys<'k>, Rejection> {
    let mut refusal = None;
    keys.retain(|key| {
        let wrong = match (key.token(), sent) {
            (None, None) => None,
            (Some(token), Some(sent)) if token.expose_secret().as_bytes().ct_eq(sent).into() => None,
            (Some(_), Some(_)) => Some("has another session token"),
            (Some(_), None) => Some("needs its session token"),
            (None, Some(_)) => Some("has no session token"),
        };
        if let Some(why) = wrong {
            refusal.get_or_insert_with(|| refuse(Issue::TokenMismatch, format!("key {} {why}", key.id())));
        }
        wrong.is_none()
    });
    match refusal {
        Some(refusal) if keys.is_empty() => Err(refusal),
        _ => Ok(keys),
    }
}

fn wrong_secret(id: &str) -> Rejection {
    refuse(Issue::Mismatch, format!("signature does not match key {id}: wrong secret or altered request"))
}

pub(super) fn hex(digest: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    for (pair, byte) in out.chunks_exact_mut(2).zip(digest) {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        if let [high, low] = pair {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
    }
    out
}

/// The bytes that these digits are, which [`hex64`] has let through.
pub(super) fn unhex(text: &[u8; 64]) -> [u8; 32] {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = digit(*high) << 4 | digit(*low);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_place_of_a_key_id_is_not_told() {
        let keyring = Keyring::from_entries(Vec::new()).unwrap_or_else(|_| panic!("an empty keyring"));
        let now = Moment { unix_nanos: 0, ticks: 0 };
        let told = |id: &str| usable_keys(id, &keyring, now).map(drop).unwrap_err().why.into_owned();
        assert_eq!(told("AKIDEXAMPLE"), "unknown key AKIDEXAMPLE");
        let secret = "wJalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY";
        assert!(!told(secret).contains("wJalr"), "{}", told(secret));
        let secret = "0123456789abcdef0123456789abcdef";
        assert!(!told(secret).contains(secret), "{}", told(secret));
        assert!(told("AKIAIOSFODNN7EXAMPLE").ends_with("AKIAIOSFODNN7EXAMPLE"));
    }
}
