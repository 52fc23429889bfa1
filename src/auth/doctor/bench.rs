//! Where hypotheses are tested: a canonical request by lines, and an account of the work.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hmac::Mac;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Audience, CALLER_BODY_BYTES_MAX, Consultation};
use crate::auth::canonical::Canonical;
use crate::auth::claim::{Parts, hex64};
use crate::auth::keyring::{Key, Keyring, hmac};
use crate::auth::stamp::Stamp;
use crate::auth::verify::{Rules, hex, is_signature, string_to_sign, unhex};
use crate::request::Head;

/// The other keys of a configuration that are looked at.
pub(super) const OTHER_KEYS_MAX: usize = 12;
/// The signed headers that are assumed missing or empty, one by one.
pub(super) const FIELDS_TRIED_MAX: usize = 12;

/// A canonical request up to the payload's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines<'t> {
    pub method: &'t [u8],
    pub path: &'t [u8],
    pub query: &'t [u8],
    /// Names and values of the signed headers.
    pub fields: Vec<(&'t [u8], &'t [u8])>,
    /// The names joined by `;`.
    pub list: &'t [u8],
}

/// A refused request, taken apart.
pub(super) struct Case<'a> {
    pub head: &'a Head,
    /// The body where there is one that may be hashed in other ways.
    pub body: Option<&'a [u8]>,
    pub rules: &'a Rules,
    pub parts: &'a Parts<'a>,
    pub stamp: Stamp,
    /// What should have been signed.
    pub lines: Lines<'a>,
    /// The keys of the id that the request names.
    pub keys: &'a [&'a Arc<Key>],
    /// Region and service that the scope names.
    pub region: &'a str,
    pub service: &'a str,
    keyring: &'a Keyring,
    /// Canonical requests hashed up to the payload's line, in every form that is accepted.
    forms: Vec<Sha256>,
    /// The payload's line; `None` if that takes a body that was not read or may not be hashed.
    payload: Option<Vec<u8>>,
}

/// What is to come out right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Signature,
    /// The hash of the body that the head declares; the signature already holds.
    Declared,
}

/// How much may be tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    pub hmacs: u32,
    /// What a hash may cover without being counted as well; each further length of it counts as an HMAC.
    pub free_bytes: usize,
}

/// Tests what a signature may have been made of instead, within a bound.
pub(super) struct Bench<'a> {
    case: &'a Case<'a>,
    goal: Goal,
    left: Allowance,
    ran_out: bool,
    /// `date/region/service/aws4_request` as sent.
    scope: String,
    /// The signing keys for that scope.
    signing: Vec<Zeroizing<[u8; 32]>>,
}

impl<'t> Lines<'t> {
    /// Reads what [`Canonical::write`] wrote. No value holds a line feed, so lines are lines.
    fn read(text: &'t [u8]) -> Option<Self> {
        let mut lines = text.split(|&b| b == b'\n');
        let (method, path, query) = (lines.next()?, lines.next()?, lines.next()?);
        let field = |line: &'t [u8]| {
            let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
            Some((name, value.strip_prefix(b":")?))
        };
        let fields: Option<_> = lines.by_ref().take_while(|line| !line.is_empty()).map(field).collect();
        Some(Self { method, path, query, fields: fields?, list: lines.next()? })
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        for line in [self.method, self.path, self.query] {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        for (name, value) in &self.fields {
            out.extend_from_slice(name);
            out.push(b':');
            out.extend_from_slice(value);
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(self.list);
        out.push(b'\n');
        out
    }

    /// Without the headers of these names; the list still names them.
    pub fn without(&self, names: &[&[u8]]) -> Self {
        let mut lines = self.clone();
        lines.fields.retain(|(name, _)| !names.contains(name));
        lines
    }

    /// The signed value of a header.
    pub fn field(&self, name: &[u8]) -> Option<&'t [u8]> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

impl<'a> Case<'a> {
    pub(super) fn new(
        consultation: &Consultation<'a>,
        head: &'a Head,
        stamp: Stamp,
        declared: Option<&[u8]>,
        canonical: &Canonical<'_>,
        text: &'a [u8],
    ) -> Option<Self> {
        let Consultation { patient, parts, keys, audience } = *consultation;
        let mut buffer = Vec::with_capacity(text.len());
        let forms = canonical.forms().map(|form| {
            buffer.clear();
            canonical.write(form, &mut buffer);
            Sha256::new_with_prefix(&buffer)
        });
        let may_be_hashed = |body: &&[u8]| audience == Audience::Operator || body.len() <= CALLER_BODY_BYTES_MAX;
        let body = patient.body.filter(may_be_hashed);
        Some(Self {
            head,
            body,
            rules: patient.rules,
            parts,
            stamp,
            lines: Lines::read(text)?,
            keys,
            region: std::str::from_utf8(parts.credential.region).ok()?,
            service: std::str::from_utf8(parts.credential.service).ok()?,
            keyring: patient.keyring,
            forms: forms.collect(),
            payload: match declared {
                Some(declared) => Some(declared.to_vec()),
                None => body.map(|body| hex(&Sha256::digest(body)).to_vec()),
            },
        })
    }

    /// The day of the scope, eight digits.
    pub fn day(&self) -> &'a [u8] {
        self.parts.credential.date
    }

    /// Whether the payload's line is a hash and not a word.
    pub fn declares_a_hash(&self) -> bool {
        self.payload.as_deref().and_then(hex64).is_some()
    }

    /// The query as it was sent, pair by pair, without what signs it.
    pub fn sent_pairs(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let presigned = self.parts.presigned.is_some();
        let query = self.head.query().unwrap_or_default().as_bytes();
        query
            .split(|&b| b == b'&')
            .filter(move |pair| !(pair.is_empty() || presigned && pair.starts_with(b"X-Amz-Signature=")))
    }

    /// The keys that are not of the request's id, those of its principal first; the same ones each time.
    pub fn other_keys(&self) -> Vec<&'a Arc<Key>> {
        let rank = |key: &Arc<Key>| {
            let related = self.keys.iter().any(|own| own.principal() == key.principal());
            (!related, key.id().clone())
        };
        let mut first: Vec<(_, &'a Arc<Key>)> = Vec::with_capacity(OTHER_KEYS_MAX + 1);
        for key in self.keyring.keys().filter(|key| **key.id() != *self.parts.credential.access_key_id) {
            let rank = rank(key);
            let at = first.partition_point(|(known, _)| *known <= rank);
            if at < OTHER_KEYS_MAX {
                first.insert(at, (rank, key));
                first.truncate(OTHER_KEYS_MAX);
            }
        }
        first.into_iter().map(|(_, key)| key).collect()
    }

    /// Whether there are more signed headers than are looked at one by one, or more other keys.
    pub fn exceeds_what_is_tried(&self) -> bool {
        // `host` is not among the former, the request's own keys not among the latter.
        self.lines.fields.len() > FIELDS_TRIED_MAX + 1
            || self.keyring.keys().nth(OTHER_KEYS_MAX + self.keys.len()).is_some()
    }

    /// The signed headers that proxies and HTTP libraries are known to change.
    pub fn signed_and_often_rewritten(&self) -> Vec<String> {
        const OFTEN: [&str; 20] = [
            "accept",
            "accept-encoding",
            "cache-control",
            "connection",
            "content-length",
            "cookie",
            "expect",
            "forwarded",
            "keep-alive",
            "te",
            "traceparent",
            "tracestate",
            "transfer-encoding",
            "upgrade-insecure-requests",
            "user-agent",
            "via",
            "x-amzn-trace-id",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
        ];
        OFTEN.into_iter().filter(|name| self.lines.field(name.as_bytes()).is_some()).map(str::to_owned).collect()
    }
}

impl<'a> Bench<'a> {
    pub fn new(case: &'a Case<'a>, allowance: Allowance, goal: Goal) -> Self {
        let scope = scope(case.day(), case.region, case.service);
        let mut bench = Self { case, goal, left: allowance, ran_out: false, scope, signing: Vec::new() };
        let derive = |key: &&Arc<Key>| bench.derive(&prefixed(&seed(key)), case.day(), case.region, case.service);
        bench.signing = case.keys.iter().filter_map(derive).collect();
        bench
    }

    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether something was not tried for want of allowance.
    pub fn ran_out(&self) -> bool {
        self.ran_out
    }

    /// Whether the signature is right; `None` if that takes a body that was not read.
    pub fn holds_as_sent(&mut self) -> Option<bool> {
        let payload = self.case.payload.clone()?;
        Some(self.forms(&payload))
    }

    /// Whether these lines were signed.
    pub fn lines(&mut self, lines: &Lines<'_>) -> bool {
        if self.left.hmacs == 0 {
            self.ran_out = true;
            return false;
        }
        *lines != self.case.lines && self.text(&lines.write())
    }

    /// Whether this text, in place of the canonical request up to the payload's line, was signed.
    pub fn text(&mut self, text: &[u8]) -> bool {
        let Some(payload) = self.case.payload.as_deref() else { return false };
        if self.signing.is_empty() {
            return false;
        }
        let length = u32::try_from(text.len() / self.left.free_bytes).unwrap_or(u32::MAX);
        if self.goal != Goal::Signature || !self.afford(length.saturating_add(1)) {
            return false;
        }
        let hash = hex(&Sha256::new_with_prefix(text).chain_update(payload).finalize());
        self.hash(&hash)
    }

    pub fn method(&mut self, method: &[u8]) -> bool {
        self.lines(&Lines { method, ..self.case.lines.clone() })
    }

    pub fn path(&mut self, path: &[u8]) -> bool {
        self.lines(&Lines { path, ..self.case.lines.clone() })
    }

    pub fn query(&mut self, query: &[u8]) -> bool {
        self.lines(&Lines { query, ..self.case.lines.clone() })
    }

    /// Whether a signed header had this value.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> bool {
        let mut lines = self.case.lines.clone();
        for field in lines.fields.iter_mut().filter(|(known, _)| *known == name) {
            field.1 = value;
        }
        self.lines(&lines)
    }

    /// Whether the payload's line was this one.
    pub fn payload(&mut self, payload: &[u8]) -> bool {
        match (self.goal, self.case.payload.as_deref()) {
            (_, own) if own == Some(payload) => false,
            (Goal::Signature, _) => self.forms(payload),
            (Goal::Declared, _) => false,
        }
    }

    /// Whether the body was this one.
    pub fn body(&mut self, body: &[u8]) -> bool {
        let hash = hex(&Sha256::digest(body));
        match self.goal {
            Goal::Signature => self.payload(&hash),
            Goal::Declared => self.case.payload.as_deref() == Some(&hash[..]),
        }
    }

    /// Whether the string to sign had this instant.
    pub fn stamp(&mut self, stamp: &[u8]) -> bool {
        let scope = self.scope.clone();
        (0..self.signing.len()).any(|at| {
            let Some(key) = self.signing.get(at).cloned() else { return false };
            self.seal(&key, stamp, &scope)
        })
    }

    /// Whether this signing key was used.
    pub fn key(&mut self, key: &[u8; 32]) -> bool {
        let scope = self.scope.clone();
        self.key_for(key, &scope)
    }

    /// Whether this signing key was used for another scope than the one that was sent.
    pub fn key_for(&mut self, key: &[u8; 32], scope: &str) -> bool {
        let case = self.case;
        self.seal(key, case.stamp.text(), scope)
    }

    /// Derives a signing key, if there is allowance for it. `secret` has its prefix.
    pub fn derive(&mut self, secret: &[u8], day: &[u8], region: &str, service: &str) -> Option<Zeroizing<[u8; 32]>> {
        self.afford(4).then(|| {
            let step = |key: &[u8], part: &[u8]| -> Zeroizing<[u8; 32]> {
                Zeroizing::new(hmac(key).chain_update(part).finalize().into_bytes().into())
            };
            let parts = [region.as_bytes(), service.as_bytes(), b"aws4_request"];
            parts.into_iter().fold(step(secret, day), |key, part| step(&*key, part))
        })
    }

    /// Whether a signing key, an instant and a scope make the signature of what was sent, in any accepted form.
    fn seal(&mut self, key: &[u8; 32], stamp: &[u8], scope: &str) -> bool {
        let case = self.case;
        let Some(payload) = case.payload.as_deref().filter(|_| self.goal == Goal::Signature) else { return false };
        case.forms.iter().any(|form| {
            self.afford(1) && {
                let hash = hex(&form.clone().chain_update(payload).finalize());
                self.is_signature(key, stamp, scope, &hash)
            }
        })
    }

    /// Whether what was sent was signed with this payload's line, in any accepted form.
    fn forms(&mut self, payload: &[u8]) -> bool {
        let case = self.case;
        !self.signing.is_empty()
            && case
                .forms
                .iter()
                .any(|form| self.afford(1) && self.hash(&hex(&form.clone().chain_update(payload).finalize())))
    }

    /// Whether a canonical request of this hash was signed; one HMAC is paid for.
    fn hash(&mut self, hash: &[u8; 64]) -> bool {
        let paid = self.signing.len().saturating_sub(1) as u32;
        self.afford(paid)
            && self.signing.iter().any(|key| self.is_signature(key, self.case.stamp.text(), &self.scope, hash))
    }

    fn is_signature(&self, key: &[u8; 32], stamp: &[u8], scope: &str, hash: &[u8; 64]) -> bool {
        is_signature(&unhex(self.case.parts.signature), hmac(key), string_to_sign(stamp, scope, hash))
    }

    fn afford(&mut self, hmacs: u32) -> bool {
        match self.left.hmacs.checked_sub(hmacs) {
            Some(left) => {
                self.left.hmacs = left;
                true
            }
            None => {
                self.ran_out = true;
                false
            }
        }
    }
}

/// A key's secret as bytes.
pub(super) fn seed(key: &Key) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(key.secret().expose_secret().as_bytes().to_vec())
}

/// A secret as the derivation begins with it.
pub(super) fn prefixed(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([b"AWS4", secret].concat())
}

pub(super) fn scope(day: &[u8], region: &str, service: &str) -> String {
    format!("{}/{region}/{service}/aws4_request", String::from_utf8_lossy(day))
}

/// `YYYYMMDDTHHMMSSZ`
pub(super) fn basic(unix_seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}
