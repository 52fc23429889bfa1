//! The keys that callers may sign with, and the signing keys derived from them.
//!
//! While a key is rotated at its source, two entries may stand under one id, each with its own secret,
//! token, principal and validity: the current one and the one before it. An entry holds as a whole.
//!
//! Deriving takes four HMACs and is the same all day for one scope, so each key keeps the last few
//! results beside it. Unknown ids never reach a cache, so strangers cannot grow one.
//!
//! Invariant: a request waits for nobody here. The slots are replaced as a whole; two requests that
//! miss together derive twice.
//! Invariant: secrets, tokens and signing keys have no readable `Debug` and are wiped when dropped.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use aws_sigv4::sign::v4::generate_signing_key;
use hmac::digest::InvalidLength;
use hmac::{Hmac, KeyInit};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::claim::access_key_id;
use super::last_use::LastUse;
use super::stamp::Stamp;
use crate::clock::Moment;

/// Most keys in one keyring.
pub const KEYS_MAX: usize = 10_000;
/// Most keys under one id: the current one and the one before it.
pub const KEYS_PER_ID_MAX: usize = 2;
/// Longest principal in bytes.
pub const PRINCIPAL_BYTES_MAX: usize = 256;
/// Signing keys kept per key: two days around midnight for eight pairs of region and service, or every day of
/// presigned requests for one.
pub const SIGNING_KEYS_MAX: usize = 16;
/// How far apart the days of the kept ones are: a presigned request lives for up to seven days.
const DAYS_APART_MAX: u64 = 8;

/// One key as it is written in the keys file.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    /// Set for temporary credentials: requests must then carry exactly this token.
    pub session_token: Option<SecretString>,
    /// Who signs with this key; several keys may share one principal.
    pub principal: String,
    /// First and last second, since the Unix epoch, in which the key may be used.
    pub not_before: Option<u64>,
    pub not_after: Option<u64>,
    pub disabled: bool,
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProblem {
    /// Position in the list, from 0.
    pub entry: usize,
    /// The member of the entry.
    pub field: &'static str,
    pub issue: &'static str,
}

/// All keys of one configuration.
pub struct Keyring {
    keys: AHashMap<Arc<str>, ArrayVec<Arc<Key>, KEYS_PER_ID_MAX>>,
    principals: Box<[Arc<str>]>,
}

/// A key that may be looked at while serving.
pub struct Key {
    id: Arc<str>,
    principal: Arc<str>,
    secret: SecretString,
    token: Option<SecretString>,
    not_before: Option<u64>,
    not_after: Option<u64>,
    disabled: bool,
    signing: ArcSwap<Vec<Arc<SigningKey>>>,
    last_use: LastUse,
}

/// Whether a known key may be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Usable,
    Disabled,
    /// `not_before` is to come.
    Early,
    /// `not_after` has passed.
    Lapsed,
}

/// A key derived for one date, region and service.
pub struct SigningKey {
    unix_days: u64,
    region: Box<str>,
    service: Box<str>,
    /// `date/region/service/aws4_request`, as it stands in the string to sign.
    scope: Box<str>,
    mac: Hmac<Sha256>,
}

impl Keyring {
    /// Builds the ring. Of two entries with one id the first is the current one; a second with the same
    /// secret and token is the same credential written twice, and only the current one counts.
    ///
    /// # Errors
    /// Every problem of every entry, in order.
    pub fn from_entries(entries: Vec<KeyEntry>) -> Result<Self, Vec<KeyProblem>> {
        let mut problems = Vec::new();
        if entries.len() > KEYS_MAX {
            problems.push(KeyProblem { entry: KEYS_MAX, field: "access_key_id", issue: "more than 10000 keys" });
            return Err(problems);
        }
        let mut principals: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut keys: AHashMap<Arc<str>, ArrayVec<Arc<Key>, KEYS_PER_ID_MAX>> = AHashMap::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            entry.check(|field, issue| problems.push(KeyProblem { entry: index, field, issue }));
            let principal = principals.get(entry.principal.as_str()).cloned();
            let principal = principal.unwrap_or_else(|| entry.principal.as_str().into());
            principals.insert(principal.clone());
            let key = Key {
                id: entry.access_key_id.into(),
                principal,
                secret: entry.secret_access_key,
                token: entry.session_token,
                not_before: entry.not_before,
                not_after: entry.not_after,
                disabled: entry.disabled,
                signing: ArcSwap::default(),
                last_use: LastUse::default(),
            };
            let held = keys.entry(key.id.clone()).or_default();
            let known = held.iter().any(|earlier| earlier.has_credential_of(&key));
            if !known && held.try_push(Arc::new(key)).is_err() {
                problems.push(KeyProblem { entry: index, field: "access_key_id", issue: "used by two earlier keys" });
            }
        }
        match problems.is_empty() {
            true => Ok(Self { keys, principals: principals.into_iter().collect() }),
            false => Err(problems),
        }
    }

    /// Lets every credential that the predecessor has as well go on with its last use. To be done before the
    /// ring is shared.
    pub fn continue_from(&mut self, predecessor: &Keyring) {
        for key in self.keys.values_mut().flatten() {
            let before = predecessor.lookup(&key.id).iter().find(|before| before.has_credential_of(key));
            if let (Some(before), Some(key)) = (before, Arc::get_mut(key)) {
                key.last_use = before.last_use.clone();
            }
        }
    }

    /// The keys of that id, the current one first; none if the id is unknown.
    pub fn lookup(&self, access_key_id: &str) -> &[Arc<Key>] {
        self.keys.get(access_key_id).map_or(&[], |held| held)
    }

    /// Every key, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.values().flatten()
    }

    /// Every principal once, in ascending order.
    pub fn principals(&self) -> &[Arc<str>] {
        &self.principals
    }
}

impl KeyEntry {
    fn check(&self, mut problem: impl FnMut(&'static str, &'static str)) {
        if access_key_id(self.access_key_id.as_bytes()).is_none() {
            problem("access_key_id", "must be 1 to 128 letters, digits or underscores");
        }
        if self.secret_access_key.expose_secret().is_empty() {
            problem("secret_access_key", "must not be empty");
        }
        if self.session_token.as_ref().is_some_and(|t| !is_header_value(t.expose_secret())) {
            problem("session_token", "must be visible ASCII; leave it out for a key without a token");
        }
        let length = self.principal.len();
        if length == 0 || length > PRINCIPAL_BYTES_MAX || self.principal.chars().any(char::is_control) {
            problem("principal", "must be 1 to 256 bytes without control characters");
        }
        if let (Some(first), Some(last)) = (self.not_before, self.not_after)
            && first > last
        {
            problem("not_after", "lies before not_before");
        }
    }
}

/// Whether a caller could send it in a header.
fn is_header_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

impl Key {
    /// Whether the key may be used now; both ends of its validity are included.
    pub fn standing(&self, now: Moment) -> Standing {
        let now = now.unix_seconds();
        match self {
            Key { disabled: true, .. } => Standing::Disabled,
            Key { not_before: Some(first), .. } if now < *first => Standing::Early,
            Key { not_after: Some(last), .. } if now > *last => Standing::Lapsed,
            Key { .. } => Standing::Usable,
        }
    }

    /// The access key id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Who signs with the key.
    pub fn principal(&self) -> &Arc<str> {
        &self.principal
    }

    /// When a request was last verified with the key.
    pub fn last_use(&self) -> &LastUse {
        &self.last_use
    }

    fn has_credential_of(&self, other: &Key) -> bool {
        let same_token = match (&self.token, &other.token) {
            (Some(token), Some(other)) => token.expose_secret() == other.expose_secret(),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_token && self.secret.expose_secret() == other.secret.expose_secret()
    }

    pub(super) fn secret(&self) -> &SecretString {
        &self.secret
    }

    pub(super) fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// The signing key for the stamp's date, from the cache if it is there.
    ///
    /// The stamp must be inside the allowed window and the scope be a configured one: that is what
    /// keeps strangers from pushing useful entries out.
    pub(super) fn signing_key(&self, stamp: &Stamp, region: &str, service: &str) -> Arc<SigningKey> {
        let days = stamp.unix_days();
        let cached = self.signing.load();
        if let Some(found) =
            cached.iter().find(|k| k.unix_days == days && *k.region == *region && *k.service == *service)
        {
            return found.clone();
        }
        let derived = Arc::new(SigningKey::derive(&self.secret, stamp, region, service));
        self.signing.rcu(|slots| {
            // The days around it stay: clients on both sides of midnight are served, and presigned requests.
            let neighbours = slots.iter().filter(|k| k.unix_days.abs_diff(days) <= DAYS_APART_MAX);
            let kept = neighbours.take(SIGNING_KEYS_MAX - 1).cloned();
            std::iter::once(derived.clone()).chain(kept).collect::<Vec<_>>()
        });
        derived
    }
}

impl SigningKey {
    fn derive(secret: &SecretString, stamp: &Stamp, region: &str, service: &str) -> Self {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(stamp.unix_seconds());
        let derived = generate_signing_key(secret.expose_secret(), time, region, service);
        let date = String::from_utf8_lossy(stamp.date());
        Self {
            unix_days: stamp.unix_days(),
            region: region.into(),
            service: service.into(),
            scope: format!("{date}/{region}/{service}/aws4_request").into(),
            mac: hmac(derived.as_ref()),
        }
    }

    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    /// The key as an HMAC that has taken no message yet. What depends on the key alone is done: 0.1 µs of each
    /// signature, beside which AWS's `calculate_signature` writes in hexadecimal what would have to be read again.
    pub(super) fn mac(&self) -> Hmac<Sha256> {
        self.mac.clone()
    }
}

/// HMAC-SHA256 with this key.
pub(super) fn hmac(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(InvalidLength) => unreachable!("HMAC takes keys of any length (RFC 2104, section 2)"),
    }
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: {} {}", self.entry + 1, self.field, self.issue)
    }
}

impl std::error::Error for KeyProblem {}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys.len()).field("principals", &self.principals).finish()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("scope", &self.scope).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hmac::Mac;

    use super::*;
    use crate::auth::verify::unhex;
    use crate::clock::{Clock, ManualClock};

    fn entry(id: &str) -> KeyEntry {
        KeyEntry {
            access_key_id: id.into(),
            secret_access_key: "s3cr3t-of-the-key".into(),
            session_token: Some("t0ken-of-the-key".into()),
            principal: "team".into(),
            not_before: None,
            not_after: None,
            disabled: false,
        }
    }

    fn only(ring: &Keyring) -> &Arc<Key> {
        let [key] = ring.lookup("A") else { panic!("not one key A") };
        key
    }

    fn stamp(text: &str) -> Stamp {
        Stamp::parse_basic(text.as_bytes()).expect("a date")
    }

    #[test]
    fn all_problems_come_at_once() {
        let mut entries = vec![entry("A"), entry("A-"), entry("B"), entry("A"), entry("A")];
        (entries[3].secret_access_key, entries[4].secret_access_key) = ("second".into(), "third".into());
        entries[1].secret_access_key = String::new().into();
        entries[1].session_token = Some(String::new().into());
        entries[1].principal = "a\nb".into();
        (entries[2].not_before, entries[2].not_after) = (Some(2), Some(1));
        let problems = Keyring::from_entries(entries).expect_err("five problems");
        let found: Vec<_> = problems.iter().map(|p| (p.entry, p.field)).collect();
        assert_eq!(
            found,
            [
                (1, "access_key_id"),
                (1, "secret_access_key"),
                (1, "session_token"),
                (1, "principal"),
                (2, "not_after"),
                (4, "access_key_id")
            ]
        );
    }

    #[test]
    fn bounds_include_their_ends() {
        let many = |count: usize| Keyring::from_entries((0..count).map(|n| entry(&format!("A{n}"))).collect());
        assert!(many(KEYS_MAX).is_ok() && many(KEYS_MAX + 1).is_err());
        let problem = |change: &dyn Fn(&mut KeyEntry)| {
            let mut entry = entry("A");
            change(&mut entry);
            Keyring::from_entries(vec![entry]).map(drop).map_err(|problems| problems[0].to_string())
        };
        let principal = "key 1: principal must be 1 to 256 bytes without control characters".to_owned();
        assert_eq!(problem(&|e| e.principal = "a".repeat(PRINCIPAL_BYTES_MAX)), Ok(()));
        assert_eq!(problem(&|e| e.principal = "a".repeat(PRINCIPAL_BYTES_MAX + 1)), Err(principal.clone()));
        assert_eq!(problem(&|e| e.principal = String::new()), Err(principal));
        assert_eq!(problem(&|e| (e.not_before, e.not_after) = (Some(7), Some(7))), Ok(()));
        let token = "key 1: session_token must be visible ASCII; leave it out for a key without a token".to_owned();
        assert_eq!(problem(&|e| e.session_token = Some("to ken".into())), Err(token));
    }

    #[test]
    fn principals_are_listed_once() {
        let mut entries = vec![entry("A"), entry("B"), entry("C")];
        entries[2].principal = "other".into();
        let ring = Keyring::from_entries(entries).expect("valid");
        assert_eq!(ring.principals().iter().map(|p| &**p).collect::<Vec<_>>(), ["other", "team"]);
        assert!(ring.lookup("B").len() == 1 && ring.lookup("b").is_empty());
    }

    #[test]
    fn the_current_key_of_an_id_comes_first_and_a_credential_counts_once() {
        let current = KeyEntry { principal: "current".into(), ..entry("A") };
        let previous = KeyEntry { session_token: None, principal: "previous".into(), ..entry("A") };
        let of_a = |entries: Vec<KeyEntry>| {
            let ring = Keyring::from_entries(entries).expect("valid");
            ring.lookup("A").iter().map(|key| key.principal().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of_a(vec![current.clone(), previous.clone()]), ["current", "previous"]);
        assert_eq!(of_a(vec![current.clone(), entry("B"), entry("A"), previous]), ["current", "previous"]);
        assert_eq!(of_a(vec![current, entry("A")]), ["current"]);
    }

    #[test]
    fn the_same_credential_goes_on_with_its_last_use() {
        let now = ManualClock::at(1_705_314_600).now();
        let old = Keyring::from_entries(vec![entry("A"), entry("B")]).expect("valid");
        old.keys().for_each(|key| key.last_use().note(now));
        let rotated = KeyEntry { secret_access_key: "another".into(), ..entry("A") };
        let renamed = KeyEntry { principal: "renamed".into(), ..entry("B") };
        let mut new = Keyring::from_entries(vec![rotated, entry("A"), renamed, entry("C")]).expect("valid");
        new.continue_from(&old);
        let used = |id: &str| new.lookup(id).iter().map(|key| key.last_use().unix_seconds()).collect::<Vec<_>>();
        assert_eq!((used("A"), used("B"), used("C")), (vec![0, 1_705_314_600], vec![1_705_314_600], vec![0]));
        old.lookup("A").iter().for_each(|key| key.last_use().note(ManualClock::at(1_705_314_700).now()));
        assert_eq!(used("A"), [0, 1_705_314_700], "a request that began before the reload counts");
    }

    #[test]
    fn validity_includes_both_ends() {
        let standing = |first, last, disabled, now| {
            let entry = KeyEntry { not_before: first, not_after: last, disabled, ..entry("A") };
            let ring = Keyring::from_entries(vec![entry]).expect("valid");
            only(&ring).standing(ManualClock::at(now).now())
        };
        assert_eq!(standing(Some(10), Some(20), false, 9), Standing::Early);
        assert_eq!(standing(Some(10), Some(20), false, 10), Standing::Usable);
        assert_eq!(standing(Some(10), Some(20), false, 20), Standing::Usable);
        assert_eq!(standing(Some(10), Some(20), false, 21), Standing::Lapsed);
        assert_eq!(standing(None, None, true, 15), Standing::Disabled);
    }

    #[test]
    fn signing_keys_are_kept_per_scope_and_bounded() {
        let ring = Keyring::from_entries(vec![entry("A")]).expect("valid");
        let key = only(&ring);
        let derive = |at: &str, region: &str| key.signing_key(&stamp(at), region, "execute-api");
        let first = derive("20240115T000000Z", "r");
        assert!(Arc::ptr_eq(&first, &derive("20240115T235959Z", "r")));
        assert!(!Arc::ptr_eq(&first, &derive("20240116T000000Z", "r")));
        assert!(Arc::ptr_eq(&first, &derive("20240115T120000Z", "r")), "the day before stays");
        let signed = |key: &SigningKey| key.mac().finalize().into_bytes();
        assert_ne!(signed(&first), signed(&derive("20240115T000000Z", "r2")));
        derive("20240123T000000Z", "r");
        assert!(Arc::ptr_eq(&first, &derive("20240115T120000Z", "r")), "all days of a presigned request stay");
        for n in 0..100 {
            derive("20240116T000000Z", &format!("region-{n}"));
        }
        assert_eq!(key.signing.load().len(), SIGNING_KEYS_MAX);
        derive("20240301T000000Z", "r");
        assert_eq!(key.signing.load().len(), 1, "other days are dropped");
    }

    #[test]
    fn the_published_signing_key_is_derived() {
        // From "Signature Version 4 signing process" in the AWS general reference: its string to sign, and its signature.
        let secret = SecretString::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let derived = SigningKey::derive(&secret, &stamp("20150830T123600Z"), "us-east-1", "iam");
        let to_sign = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
                       f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
        let signature = unhex(b"5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
        assert!(derived.mac().chain_update(to_sign).verify_slice(&signature).is_ok());
        assert_eq!(derived.scope(), "20150830/us-east-1/iam/aws4_request");
    }

    #[test]
    fn debug_shows_no_secret() {
        let entries = vec![entry("A")];
        let mut shown = format!("{entries:?}");
        let ring = Keyring::from_entries(entries).expect("valid");
        let key = only(&ring);
        shown += &format!("{ring:?} {key:?} {:?}", key.signing_key(&stamp("20240115T000000Z"), "r", "s"));
        assert!(!shown.contains("s3cr3t") && !shown.contains("t0ken"), "{shown}");
        for public in ["keys: 1", "[\"team\"]", "id: \"A\"", "scope: \"20240115/r/s/aws4_request\""] {
            assert!(shown.contains(public), "{public}: {shown}");
        }
    }
}
