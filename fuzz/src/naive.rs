//! The same rules again, written to be read: whole strings, no shortcuts, nothing shared with Orbit.

use std::collections::BTreeSet;

use crate::signing::Request;

/// The parts of a signature as owned text.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    pub credential: Vec<Vec<u8>>,
    pub signed: Vec<Vec<u8>>,
    pub signature: Vec<u8>,
}

/// Why there are no parts: another algorithm, or anything else.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    Algorithm,
    Form,
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
pub fn authorization(value: &[u8]) -> Result<Parts, Wrong> {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let mut words = value.splitn(2, blank);
    let algorithm = words.next().unwrap_or_default();
    if algorithm.is_empty() {
        return Err(Wrong::Form);
    }
    if algorithm != b"AWS4-HMAC-SHA256" {
        return Err(Wrong::Algorithm);
    }
    let params: Vec<Vec<u8>> = words.next().unwrap_or_default().split(|b| *b == b',').map(trimmed).collect();
    let one = |name: &[u8]| -> Result<Vec<u8>, Wrong> {
        let of_name: Vec<_> = params.iter().filter(|param| param.starts_with(name)).collect();
        if of_name.len() == 1 { Ok(of_name[0][name.len()..].to_vec()) } else { Err(Wrong::Form) }
    };
    if params.len() != 3 {
        return Err(Wrong::Form);
    }
    parts(one(b"Credential=")?, one(b"SignedHeaders=")?, one(b"Signature=")?)
}

fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let blank = |b: &&u8| **b == b' ' || **b == b'\t';
    let start = bytes.iter().take_while(blank).count();
    let end = bytes.len() - bytes[start..].iter().rev().take_while(blank).count();
    bytes[start..end].to_vec()
}

pub fn parts(credential: Vec<u8>, signed: Vec<u8>, signature: Vec<u8>) -> Result<Parts, Wrong> {
    let credential: Vec<_> = credential.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
    let signed: Vec<_> = signed.split(|b| *b == b';').map(<[u8]>::to_vec).collect();
    let mut sorted = signed.clone();
    sorted.sort();
    sorted.dedup();
    let fine = credential.len() == 5
        && (1..=128).contains(&credential[0].len())
        && credential[0].iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && credential[1].len() == 8
        && credential[1].iter().all(u8::is_ascii_digit)
        && sorted == signed
        && signed.len() <= 128
        && signed.iter().all(|name| !name.is_empty())
        && signed.iter().flatten().all(|b| b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz".contains(b))
        && signature.len() == 64
        && signature.iter().all(|b| b"0123456789abcdef".contains(b));
    if fine { Ok(Parts { credential, signed, signature }) } else { Err(Wrong::Form) }
}

/// Whether every `%` is followed by two hexadecimal digits.
pub fn escapes_are_valid(text: &[u8]) -> bool {
    (0..text.len()).filter(|at| text[*at] == b'%').all(|at| {
        let digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
        digit(at + 1) && digit(at + 2)
    })
}

/// Undoes escapes, and `+` where it stands for a space.
pub fn decode(text: &[u8], plus: u8) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let escape = (text[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let value = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if text[at] == b'+' { plus } else { text[at] });
                at += 1;
            }
        }
    }
    out
}

pub fn encode(text: &[u8], also: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in text {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            byte if also.contains(byte) => out.push(*byte),
            byte => out.extend(format!("%{byte:02X}").bytes()),
        }
    }
    out
}

pub type Pair = (Vec<u8>, Vec<u8>);

/// Name and value of every pair, as sent.
pub fn pairs(query: &[u8]) -> Vec<Pair> {
    let pieces = query.split(|b| *b == b'&').filter(|piece| !piece.is_empty());
    let pair = |piece: &[u8]| match piece.iter().position(|b| *b == b'=') {
        Some(at) => (piece[..at].to_vec(), piece[at + 1..].to_vec()),
        None => (piece.to_vec(), Vec::new()),
    };
    pieces.map(pair).collect()
}

pub fn joined(pairs: &[Pair]) -> Vec<u8> {
    let pairs: Vec<Vec<u8>> = pairs.iter().map(|(name, value)| [name.as_slice(), b"=", value].concat()).collect();
    pairs.join(&b'&')
}

/// Without empty and dot segments, and whether a slash is left at the end.
pub fn segments(path: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for segment in path.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            segment => kept.push(segment.to_vec()),
        }
    }
    (kept, path.ends_with(b"/"))
}

/// What two requests must share to be allowed the same signature. White space between tokens, the order and
/// spelling of equal pairs, and empty and dot segments are not bound, nor is what nobody signed.
#[derive(Debug, PartialEq, Eq)]
pub struct Meaning {
    method: String,
    path: (Vec<Vec<u8>>, bool),
    pairs: Vec<Pair>,
    fields: Vec<(String, Vec<Vec<u8>>)>,
    body: Vec<u8>,
}

impl Meaning {
    pub fn of(request: &Request) -> Self {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut path = segments(path.as_bytes());
        let (raw, _) = request.target.split_once('?').unwrap_or((&request.target, ""));
        path.1 |= raw.ends_with("/.") || raw.ends_with("/..");
        let undone = |(name, value): Pair| (decode(&name, b' '), decode(&value, b' '));
        let mut pairs: Vec<Pair> = pairs(query.as_bytes()).into_iter().map(undone).collect();
        pairs.sort();
        // Headers of AWS change what a request does, so they count whether they are signed or not.
        let exempt = ["x-amz-content-sha256", "x-amz-security-token", "x-amz-cf-id"];
        let amz = request.fields.iter().map(|(name, _)| name.to_lowercase());
        let amz = amz.filter(|name| name.starts_with("x-amz-") && !exempt.contains(&name.as_str()));
        let signed: BTreeSet<String> = request.signed_names().into_iter().chain(amz).collect();
        let mut fields: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
        for name in &signed {
            let mut tokens = Vec::new();
            for (_, value) in request.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
                let value = trimmed(value);
                let value = if name == "host" { without_default_port(&value) } else { &value };
                tokens.push(Vec::new());
                tokens.extend(value.split(|b| *b == b' ' || *b == b'\t').filter(|t| !t.is_empty()).map(<[u8]>::to_vec));
            }
            fields.push((name.clone(), tokens));
        }
        // In Authorization the commas are between tokens too.
        for (name, value) in request.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("authorization")) {
            let mut tokens: Vec<Vec<u8>> =
                value.split(|b| b" \t,".contains(b)).filter(|t| !t.is_empty()).map(<[u8]>::to_vec).collect();
            tokens.sort();
            fields.push((name.to_lowercase(), tokens));
        }
        Self { method: request.method.clone(), path, pairs, fields, body: request.body.clone() }
    }
}

fn without_default_port(host: &[u8]) -> &[u8] {
    host.strip_suffix(b":80").or(host.strip_suffix(b":443")).unwrap_or(host)
}
