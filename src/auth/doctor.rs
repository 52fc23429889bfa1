//! Why a signature was refused: what must have been done otherwise for it to hold.
//!
//! For a signature that does not match, one [`Hypothesis`] after the other writes the canonical request, the
//! string to sign or the signing key as a known mistake would have, and the first under which the signature
//! holds is the diagnosis. Only one thing is assumed wrong at a time.
//!
//! Invariant: nothing here lets anybody in; what comes out is words. They hold names and key ids, never a
//! secret, a token, a signature, a header's value or a part of the body.
//! Invariant: the work is bounded by [`HMACS_MAX`] for an operator, each over a canonical request, so that it
//! grows with the request's size as verification does; for a caller by less, whatever the size.

mod bench;
mod hypotheses;

use std::sync::Arc;

use super::Issue;
use super::canonical::{Canonical, must_be_signed};
use super::claim::{Parts, at_most_one};
use super::keyring::{KEYS_PER_ID_MAX, Key, Keyring};
use super::query::Parameters;
use super::verify::{Carrier, Rules, carrier, said_once, shown, stamp, usable_keys};
use crate::clock::Moment;
use crate::error::{Details, Hint, Rejection};
use crate::request::Head;
use bench::{Allowance, Bench, Case, Goal};

pub use hypotheses::{HYPOTHESES, Hypothesis};

#[cfg(test)]
mod tests;

/// Most HMACs of one examination for an operator, for each secret of the id: one, or two in a rotation.
pub const HMACS_MAX: u32 = 400;
/// The same for a caller.
pub const CALLER_HMACS_MAX: u32 = 300;
/// How long a canonical request may be for its hash to count as no more than its HMAC, for a caller.
pub const CALLER_FREE_BYTES: usize = 2048;
/// Largest body that is hashed in other ways than it came for a caller.
pub const CALLER_BODY_BYTES_MAX: usize = 64 * 1024;

/// Who reads a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever has the keys of the configuration.
    Operator,
    /// Whoever sent the request: is told how it must be signed, and nothing about secrets and tokens.
    Caller,
}

/// A refused request and what it was refused by.
#[derive(Clone, Copy)]
pub struct Patient<'a> {
    pub head: &'a Head,
    /// `None` if it was not read.
    pub body: Option<&'a [u8]>,
    pub rules: &'a Rules,
    pub keyring: &'a Keyring,
    pub now: Moment,
}

/// What was found; one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// [`Hypothesis::name`] of the one that makes the signature match.
    pub hypothesis: Option<&'static str>,
    pub hint: String,
}

/// Explains the refusal of a signature to an operator. `None` if it is none of a signature's.
pub fn explain(patient: &Patient<'_>, refused: &Rejection) -> Option<Finding> {
    let issue = issue_of(refused)?;
    let found = consult(patient, Audience::Operator, |consultation| consultation.finding(issue)).flatten();
    Some(found.unwrap_or_else(|| Finding { hypothesis: None, hint: advice(patient, issue).to_owned() }))
}

/// What the caller is told beside the issue, if its key is known and usable. `admit` is asked before the work
/// begins, once it is clear that there is some.
pub fn hint(patient: &Patient<'_>, refused: &Rejection, admit: impl FnOnce() -> bool) -> Hint {
    let Some(issue) = issue_of(refused).filter(|issue| is_told_to_callers(*issue)) else { return Hint::None };
    let hint = |consultation: &Consultation<'_>| match admit() {
        true => consultation.finding(issue).map_or(Hint::None, |finding| Hint::Given(finding.hint.into())),
        false => Hint::Skipped,
    };
    consult(patient, Audience::Caller, hint).unwrap_or_default()
}

fn issue_of(refused: &Rejection) -> Option<Issue> {
    match refused.details {
        Details::Issue(issue) | Details::Skew { issue, .. } => Issue::of(issue),
        Details::None | Details::Field { .. } | Details::Limit(_) => None,
    }
}

/// Tokens are none of a caller's hints, and what cannot be parsed names no key.
fn is_told_to_callers(issue: Issue) -> bool {
    match issue {
        Issue::Mismatch
        | Issue::WrongScope
        | Issue::UnsignedHeader
        | Issue::MissingSignedHeader
        | Issue::Expired
        | Issue::NotYetValid
        | Issue::PayloadMismatch => true,
        Issue::Malformed | Issue::UnsupportedAlgorithm | Issue::TokenMismatch | Issue::Replayed => false,
    }
}

/// Reads the signature once more; `None` if it cannot be read, or if its key is not one to tell a caller about.
fn consult<T>(patient: &Patient<'_>, audience: Audience, look: impl FnOnce(&Consultation<'_>) -> T) -> Option<T> {
    let query = patient.head.query().unwrap_or_default().as_bytes();
    let parameters;
    let parts = match carrier(patient.head, query).ok()? {
        Carrier::Header(value) => Parts::from_header(value),
        Carrier::Query => {
            parameters = Parameters::parse(query).ok()?;
            Parts::from_query(&parameters)
        }
    };
    let parts = parts.ok()?;
    let id = parts.credential.access_key_id;
    let keys: Vec<&Arc<Key>> = match (usable_keys(id, patient.keyring, patient.now), audience) {
        (Ok(keys), _) => keys.into_iter().collect(),
        (Err(_), Audience::Operator) => patient.keyring.lookup(id).iter().collect(),
        (Err(_), Audience::Caller) => return None,
    };
    Some(look(&Consultation { patient, parts: &parts, keys: &keys, audience }))
}

/// What to do when nothing more can be found out.
fn advice(patient: &Patient<'_>, issue: Issue) -> &'static str {
    let Patient { head, rules, .. } = patient;
    let is_extended = |name| matches!(at_most_one(head, name), Ok(Some(date)) if date.get(4) == Some(&b'-'));
    let query = head.query().unwrap_or_default().as_bytes();
    match issue {
        Issue::Malformed if is_extended("x-amz-date") => {
            "write X-Amz-Date without hyphens, colons and fractions of a second, as 20261122T095651Z"
        }
        Issue::Malformed if rules.presigned.is_none() && matches!(carrier(head, query), Ok(Carrier::Query)) => {
            "sign in the Authorization header, or allow presigned requests: `auth: { presigned: { max_expires: 5m } }`"
        }
        issue => issue.advice(),
    }
}

struct Consultation<'a> {
    patient: &'a Patient<'a>,
    parts: &'a Parts<'a>,
    keys: &'a [&'a Arc<Key>],
    audience: Audience,
}

impl Consultation<'_> {
    fn finding(&self, issue: Issue) -> Option<Finding> {
        let said = |hint: String| Finding { hypothesis: None, hint };
        match issue {
            Issue::Mismatch => self.mismatch(),
            Issue::WrongScope => self.wrong_scope().map(said),
            Issue::UnsignedHeader => Some(said(self.unsigned_header())),
            Issue::MissingSignedHeader => Some(said(self.missing_header())),
            Issue::Expired | Issue::NotYetValid => self.clock().map(said),
            Issue::PayloadMismatch => self.payload(),
            Issue::TokenMismatch => Some(said(self.token())),
            Issue::Malformed | Issue::UnsupportedAlgorithm | Issue::Replayed => None,
        }
    }

    fn mismatch(&self) -> Option<Finding> {
        let (mut found, mut ran_out, mut rewritten) = (None, false, Vec::new());
        self.with_case(self.patient.head, |case| {
            let mut bench = Bench::new(case, self.allowance(), Goal::Signature);
            found = self.first_match(case, &mut bench);
            ran_out = bench.ran_out() || case.exceeds_what_is_tried();
            rewritten = case.signed_and_often_rewritten();
        })?;
        if found.is_some() {
            return found;
        }
        let mut hint = match self.keys {
            [] => "no key of that id is configured: check the id, and that its key file is named in `auth.keys`",
            _ => "no single known mistake explains it: check the secret, and that nothing rewrites the request",
        }
        .to_owned();
        if !rewritten.is_empty() && !self.keys.is_empty() {
            let names = rewritten.join("`, `");
            hint += &format!("; perhaps a proxy did: `{names}` is signed, and often rewritten on the way");
        }
        if ran_out && self.audience == Audience::Operator {
            hint += " (not everything could be tried within the bound)";
        }
        Some(Finding { hypothesis: None, hint })
    }

    fn first_match(&self, case: &Case<'_>, bench: &mut Bench<'_>) -> Option<Finding> {
        let told =
            |hypothesis: &&Hypothesis| hypothesis.told == Audience::Caller || self.audience == Audience::Operator;
        HYPOTHESES.iter().filter(told).find_map(|hypothesis| {
            let detail = (hypothesis.test)(case, bench)?;
            let what = match bench.goal() {
                Goal::Signature => "the signature matches",
                Goal::Declared => "the declared hash is the body's",
            };
            let Hypothesis { name, means, change, .. } = hypothesis;
            Some(Finding { hypothesis: Some(name), hint: format!("{what} {means}{detail}; {change}") })
        })
    }

    fn allowance(&self) -> Allowance {
        let secrets = self.keys.len().clamp(1, KEYS_PER_ID_MAX) as u32;
        match self.audience {
            Audience::Operator => Allowance { hmacs: secrets * HMACS_MAX, free_bytes: usize::MAX },
            Audience::Caller => Allowance { hmacs: secrets * CALLER_HMACS_MAX, free_bytes: CALLER_FREE_BYTES },
        }
    }

    /// Takes the request apart, with another head than the one that was sent if it must be mended first.
    fn with_case(&self, head: &Head, look: impl FnOnce(&Case<'_>)) -> Option<()> {
        let stamp = stamp(head, self.parts).ok()?;
        let declared = self.parts.presigned.as_ref().and_then(|presigned| presigned.payload);
        let declared = said_once(head, "x-amz-content-sha256", declared).ok()?;
        let canonical = Canonical::new(head, self.parts).ok()?;
        let form = canonical.forms().next().unwrap_or_default();
        let mut text = Vec::with_capacity(canonical.size_hint());
        canonical.write(form, &mut text);
        let case = Case::new(self, head, stamp, declared, &canonical, &text)?;
        look(&case);
        Some(())
    }

    /// Whether the signature is right for everything that was sent, the scope it names included. `None` where
    /// that is not told or cannot be known.
    fn holds(&self, head: &Head) -> Option<bool> {
        if self.audience == Audience::Caller || self.keys.is_empty() {
            return None;
        }
        let mut holds = None;
        self.with_case(head, |case| holds = Bench::new(case, self.allowance(), Goal::Signature).holds_as_sent())?;
        holds
    }

    /// The end of a hint about something else than the signature itself.
    fn apart_from_that(&self) -> &'static str {
        match self.holds(self.patient.head) {
            Some(true) => "; apart from that the signature is right",
            Some(false) => "; the signature does not match either",
            None => "",
        }
    }

    fn wrong_scope(&self) -> Option<String> {
        let Patient { head, rules, .. } = self.patient;
        let credential = &self.parts.credential;
        let stamp = stamp(head, self.parts).ok()?;
        let named = |what: &str, key: &str, word: &[u8], words: &[String]| match self.audience {
            Audience::Operator => {
                let word = std::str::from_utf8(word).ok().filter(|word| word.bytes().all(|b| b.is_ascii_graphic()));
                let (word, words) = (shown(word.unwrap_or("of unusual form")), words.join("`, `"));
                format!("the scope names {what} `{word}`, `auth.{key}` has `{words}`: use the same")
            }
            Audience::Caller => format!("the scope names another {what} than the one of this gateway"),
        };
        let is_among = |words: &[String], word: &[u8]| words.iter().any(|known| known.as_bytes() == word);
        let mut hint = if credential.date != stamp.date() {
            "the scope has another day than the request's date: take both from one reading of the clock, in UTC"
                .to_owned()
        } else if credential.terminator != b"aws4_request" {
            "the scope must end in `aws4_request`".to_owned()
        } else if !is_among(&rules.regions, credential.region) {
            named("region", "region", credential.region, &rules.regions)
        } else {
            named("service", "service", credential.service, &rules.services)
        };
        hint += self.apart_from_that();
        Some(hint)
    }

    fn unsigned_header(&self) -> String {
        let head = self.patient.head;
        let signed = &self.parts.signed.names;
        let is_signed = |name: &[u8]| signed.iter().any(|known| known.eq_ignore_ascii_case(name));
        if !is_signed(b"host") {
            return "put `host` into SignedHeaders".to_owned();
        }
        let mended = edited(head, |name| must_be_signed(name) && !is_signed(name), &[]);
        let holds = mended.and_then(|head| self.holds(&head));
        let hint = "every x-amz-* header that is sent must be signed, but for x-amz-content-sha256 and \
                    x-amz-security-token: sign it or do not send it";
        match holds {
            Some(true) => format!("the signature is right without it, so it was added after signing; {hint}"),
            Some(false) | None => hint.to_owned(),
        }
    }

    fn missing_header(&self) -> String {
        let head = self.patient.head;
        let absent: Vec<&[u8]> =
            self.parts.signed.names.iter().copied().filter(|name| head.all(name).next().is_none()).collect();
        let mut held = None;
        if self.audience == Audience::Operator
            && let Some(mended) = edited(head, |_| false, &absent)
        {
            self.with_case(&mended, |case| {
                let mut bench = Bench::new(case, self.allowance(), Goal::Signature);
                let without = case.lines.without(&absent);
                held = match bench.holds_as_sent() == Some(true) {
                    true => Some("empty"),
                    false => bench.lines(&without).then_some("left out"),
                };
            });
        }
        match held {
            Some(how) => format!(
                "the signature is right with it {how}: the signer named a header that it did not send; name only \
                 headers that are sent"
            ),
            None => "send every header that SignedHeaders names, and look for a proxy that removes it".to_owned(),
        }
    }

    fn clock(&self) -> Option<String> {
        let Patient { head, rules, now, .. } = self.patient;
        let signed = stamp(head, self.parts).ok()?.unix_seconds();
        let off = signed.abs_diff(now.unix_seconds());
        let is_past = signed < now.unix_seconds();
        let direction = if is_past { "behind" } else { "ahead" };
        let half_hours = (off + 900) / 1800;
        let is_zone = (1..=28).contains(&half_hours) && off.abs_diff(half_hours * 1800) <= rules.clock_skew.as_secs();
        let mut hint = if is_past && self.parts.presigned.is_some() {
            format!("it was signed {off} seconds ago: presign anew, or for longer, within `auth.presigned.max_expires`")
        } else if is_zone {
            let hours = half_hours as f64 / 2.0;
            format!(
                "the date is {off} seconds {direction}, about {hours} hours: it looks like local time, and must be UTC"
            )
        } else {
            format!("the date is {off} seconds {direction}: set the signer's clock, and sign each try anew")
        };
        hint += self.apart_from_that();
        Some(hint)
    }

    fn payload(&self) -> Option<Finding> {
        let said = |hint: &str| Some(Finding { hypothesis: None, hint: hint.to_owned() });
        let mut found = None;
        let mut is_hash = false;
        self.with_case(self.patient.head, |case| {
            is_hash = case.declares_a_hash();
            if is_hash {
                found = self.first_match(case, &mut Bench::new(case, self.allowance(), Goal::Declared));
            }
        })?;
        if !is_hash {
            return said("declare and sign the SHA-256 of the body in X-Amz-Content-Sha256, or leave that header out");
        }
        found.or_else(|| {
            said("the head is as it was signed and the body is another one: hash the very bytes that are sent, and look for what changes them afterwards")
        })
    }

    fn token(&self) -> String {
        let sent = self.parts.presigned.as_ref().and_then(|presigned| presigned.token);
        let sent = said_once(self.patient.head, "x-amz-security-token", sent).ok().flatten().is_some();
        let keyed = self.keys.iter().any(|key| key.token().is_some());
        let mut hint = match (keyed, sent) {
            (true, false) => "the key is a temporary one: send its session token in X-Amz-Security-Token",
            (false, _) => "the key has no session token: do not send X-Amz-Security-Token with it",
            (true, true) => "id, secret and token come as a set: use those of one answer, and renew all three together",
        }
        .to_owned();
        hint += self.apart_from_that();
        hint
    }
}

/// The head without some fields, and with others that are empty.
fn edited(head: &Head, drop: impl Fn(&[u8]) -> bool, add: &[&[u8]]) -> Option<Head> {
    let mut bytes = format!("{} {} HTTP/1.1\r\n", head.method(), head.target()).into_bytes();
    let kept = head.fields().filter(|(name, _)| !drop(name));
    for (name, value) in kept.chain(add.iter().map(|name| (*name, &b""[..]))) {
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    Head::parse(bytes.into()).ok()
}
