//! The canonical request, rebuilt from the bytes as they came.
//!
//! ```text
//! METHOD \n canonical-uri \n canonical-query \n ( name ":" values \n )* \n signed-headers \n payload-hash
//! ```
//!
//! The rules are those of every service but S3: the path is normalised and encoded once more without
//! being decoded first, the query is decoded and encoded again, header values are folded. For a scope
//! whose service is `s3` the path is not normalised and is decoded before it is encoded: one rule or the
//! other, never both. Of query authentication the signature alone is left out.
//! Bytes, not text: decoding to characters would make different invalid UTF-8 look the same.
//!
//! Several released signers differ from the rules in known ways, so a request can be written in more
//! than one [`Form`]. Invariant: every form binds the same method, path, pairs and tokens as the
//! first, and none changes how often something is encoded: with single and double encoding both
//! accepted, a signature for `/a%2Fb` would also hold for `/a%252Fb`.

use std::cell::OnceCell;
use std::cmp::Ordering;

use memchr::memchr_iter;

use super::claim::Parts;
use super::query::{SECURITY_TOKEN, SIGNATURE};
use super::{Issue, refuse};
use crate::error::Rejection;
use crate::request::Head;

/// Most forms tried for one request. Forms that differ from the specification in one thing come first, then
/// those that differ in two, and so on: no signer is known that needs more than three at once.
pub const FORMS_MAX: usize = 24;

/// A head together with the names that were signed, all of them present.
pub struct Canonical<'a> {
    head: &'a Head,
    parts: &'a Parts<'a>,
    /// Position in `signed.names`, position among the fields, value; ascending.
    values: Vec<(u16, u16, &'a [u8])>,
    /// The query's signed pairs in the order of each form, sorted when first asked for: a stranger's are not.
    by_encoded: OnceCell<Vec<Pair<'a>>>,
    by_decoded: OnceCell<Vec<Pair<'a>>>,
    as_sent: OnceCell<Vec<Pair<'a>>>,
}

/// Name and value of one query parameter, undecoded.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// One way to write a canonical request; the default is the specification's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    pub path: Path,
    pub query: Query,
    pub token: Token,
    pub folding: Folding,
    pub host: Host,
}

/// What happens to dot segments and empty segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// Removed; a trailing slash stays only if the path ends in one.
    #[default]
    Normalised,
    /// Kept: Go, JavaScript v2, Ruby.
    AsSent,
    /// Removed; a path that ends in a dot segment ends in a slash, as RFC 3986 has it: Rust.
    NormalisedToSlash,
    /// Kept, and escapes are undone before all is encoded: S3, and S3 alone.
    EncodedOnce,
}

/// The order and spelling of the query's pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Query {
    /// By encoded name and value.
    #[default]
    ByEncoded,
    /// By decoded name and value: Go, JavaScript v2, minio-go, Rust before mid-2025.
    ByDecoded,
    /// Sorted, but not encoded again: botocore with a raw URL, Ruby.
    AsSent,
}

/// Whether a session token in the query was there when it was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Token {
    #[default]
    Signed,
    /// Added to the signed URL, as some services want it. It is compared with the key's token all the same.
    Appended,
}

/// Which white space inside header values becomes one space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Folding {
    /// Runs of spaces.
    #[default]
    Spaces,
    /// None; only the ends are trimmed: Ruby for quoted values.
    Trim,
    /// Runs of spaces and tabs.
    Blanks,
}

/// The port in `Host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Host {
    #[default]
    AsSent,
    /// Without `:80` or `:443`, which proxies add and clients leave out of what they sign.
    WithoutDefaultPort,
}

impl<'a> Canonical<'a> {
    /// Matches the signed names with the head. The query's escapes must be valid; for `s3` the path's too.
    ///
    /// # Errors
    /// `unsigned_header` if `host` or an `x-amz-` header is not signed, `missing_signed_header` if a
    /// signed name is absent.
    pub fn new(head: &'a Head, parts: &'a Parts<'a>) -> Result<Self, Rejection> {
        let signed = &parts.signed;
        if signed.names.binary_search(&&b"host"[..]).is_err() {
            return Err(refuse(Issue::UnsignedHeader, "host is not signed"));
        }
        let mut values = Vec::with_capacity(signed.names.len() + 4);
        for (at, (name, value)) in head.fields().enumerate() {
            match signed.names.binary_search_by(|candidate| compare_lower(candidate, name)) {
                Ok(position) => values.push((position as u16, at as u16, value)),
                Err(_) if must_be_signed(name) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    return Err(refuse(Issue::UnsignedHeader, format!("{name} is not signed")));
                }
                Err(_) => {}
            }
        }
        values.sort_unstable_by_key(|(position, at, _)| (*position, *at));
        let mut present = values.iter().map(|(position, ..)| usize::from(*position)).peekable();
        for (position, name) in signed.names.iter().enumerate() {
            if present.next_if_eq(&position).is_none() {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(refuse(Issue::MissingSignedHeader, format!("signed header {name} is absent")));
            }
            while present.next_if_eq(&position).is_some() {}
        }
        let [by_encoded, by_decoded, as_sent] = [const { OnceCell::new() }; 3];
        Ok(Self { head, parts, values, by_encoded, by_decoded, as_sent })
    }

    /// Appends everything up to the payload hash, the line end before it included.
    pub fn write(&self, form: Form, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.method().as_bytes());
        out.push(b'\n');
        write_path(self.head.path().as_bytes(), form.path, out);
        out.push(b'\n');
        let signed_pairs = self.pairs(form.query).iter().filter(|(name, _)| match form.token {
            Token::Signed => true,
            Token::Appended => *name != SECURITY_TOKEN,
        });
        write_pairs(signed_pairs, form.query, out);
        out.push(b'\n');
        let mut values = self.values.iter().peekable();
        for (position, name) in self.parts.signed.names.iter().enumerate() {
            out.extend_from_slice(name);
            let mut before = b':';
            while let Some((.., value)) = values.next_if(|(of, ..)| usize::from(*of) == position) {
                out.push(before);
                match form.host {
                    Host::WithoutDefaultPort if *name == b"host" => out.extend_from_slice(without_default_port(value)),
                    _ => write_value(value, form.folding, out),
                }
                before = b',';
            }
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(self.parts.signed.list);
        out.push(b'\n');
    }

    /// The pairs in the order of a form.
    fn pairs(&self, form: Query) -> &[Pair<'a>] {
        let place = match form {
            Query::ByEncoded => &self.by_encoded,
            Query::ByDecoded => &self.by_decoded,
            Query::AsSent => &self.as_sent,
        };
        place.get_or_init(|| {
            let query = self.head.query().unwrap_or_default().as_bytes();
            // Query authentication has one signature, spelt so; beside a header there is none.
            let is_signed = |(name, _): &Pair<'_>| self.parts.presigned.is_none() || *name != SIGNATURE;
            sorted(pieces(query).filter(is_signed).collect(), form)
        })
    }

    /// A size that [`Canonical::write`] seldom exceeds, in bytes.
    pub fn size_hint(&self) -> usize {
        let values: usize = self.values.iter().map(|(.., value)| value.len() + 2).sum();
        self.head.target().len() * 3 / 2 + self.parts.signed.list.len() * 2 + values + 64
    }

    /// The forms in which this head can differ, the specification's first.
    pub fn forms(&self) -> impl Iterator<Item = Form> {
        let path = self.head.path().as_bytes();
        let dots = is_denormal(path);
        let last_dots = dots && (path.ends_with(b"/.") || path.ends_with(b"/.."));
        let pairs = self.pairs(Query::ByEncoded);
        let respelt = !pairs.iter().all(|(name, value)| is_canonical(name) && is_canonical(value));
        let reordered = !pairs.is_sorted_by(|a, b| compare_pairs(a, b, Query::ByDecoded).is_le());
        let values = || self.values.iter().map(|(.., value)| *value);
        let tabs = values().any(|value| value.contains(&b'\t'));
        let spaces = tabs || values().any(has_double_space);
        let host = self.head.all(b"host").any(|host| without_default_port(host).len() != host.len());

        let s3 = self.parts.is_for_s3();
        let appended = self.parts.presigned.as_ref().is_some_and(|presigned| presigned.token.is_some());

        let queries = [(Query::ByEncoded, true), (Query::ByDecoded, reordered), (Query::AsSent, respelt)];
        let tokens = [(Token::Signed, true), (Token::Appended, appended)];
        let paths = [
            (Path::Normalised, !s3),
            (Path::AsSent, !s3 && dots),
            (Path::NormalisedToSlash, !s3 && last_dots),
            (Path::EncodedOnce, s3),
        ];
        let foldings = [(Folding::Spaces, true), (Folding::Trim, spaces), (Folding::Blanks, tabs)];
        let hosts = [(Host::AsSent, true), (Host::WithoutDefaultPort, host)];
        let all = move || {
            each(hosts)
                .flat_map(move |host| each(foldings).map(move |folding| (host, folding)))
                .flat_map(move |(host, folding)| each(paths).map(move |path| (host, folding, path)))
                .flat_map(move |rest| each(tokens).map(move |token| (rest, token)))
                .flat_map(move |((host, folding, path), token)| {
                    each(queries).map(move |query| Form { path, query, token, folding, host })
                })
        };
        let differences_max =
            [reordered || respelt, appended, dots || s3, spaces, host].into_iter().filter(|differs| *differs).count();
        (0..=differences_max)
            .flat_map(move |count| all().filter(move |form| form.differences() == count))
            .take(FORMS_MAX)
    }
}

impl Form {
    /// In how many things it differs from the specification's form.
    fn differences(self) -> usize {
        let Self { path, query, token, folding, host } = Self::default();
        let differs =
            [self.path != path, self.query != query, self.token != token, self.folding != folding, self.host != host];
        differs.into_iter().filter(|differs| *differs).count()
    }
}

fn each<T: Copy, const N: usize>(choices: [(T, bool); N]) -> impl Iterator<Item = T> {
    choices.into_iter().filter(|(_, differs)| *differs).map(|(choice, _)| choice)
}

/// Whether each `%` in a path or query begins a pair of hexadecimal digits.
pub fn escapes_are_valid(text: &[u8]) -> bool {
    memchr_iter(b'%', text).all(|at| {
        let digits = text.get(at + 1..at + 3).unwrap_or_default();
        digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)
    })
}

/// Appends the canonical form of a path, whose escapes must be valid for [`Path::EncodedOnce`].
pub fn write_path(path: &[u8], form: Path, out: &mut Vec<u8>) {
    if form == Path::EncodedOnce {
        return encode(unescape(path, b'+'), b'/', out);
    }
    if form == Path::AsSent || !is_denormal(path) {
        if !path.starts_with(b"/") {
            out.push(b'/');
        }
        return encode(path.iter().copied(), b'/', out);
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|&b| b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    for segment in &kept {
        out.push(b'/');
        encode(segment.iter().copied(), b'/', out);
    }
    let slash =
        path.ends_with(b"/") || form == Path::NormalisedToSlash && (path.ends_with(b"/.") || path.ends_with(b"/.."));
    if slash || kept.is_empty() {
        out.push(b'/');
    }
}

/// Appends the canonical form of a query, whose escapes are valid.
pub fn write_query(query: &[u8], form: Query, out: &mut Vec<u8>) {
    write_pairs(sorted(pieces(query).collect(), form).iter(), form, out);
}

fn sorted(mut pairs: Vec<Pair<'_>>, form: Query) -> Vec<Pair<'_>> {
    pairs.sort_unstable_by(|a, b| compare_pairs(a, b, form));
    pairs
}

fn compare_pairs(a: &Pair<'_>, b: &Pair<'_>, form: Query) -> Ordering {
    match form {
        Query::ByEncoded => compare_encoded(a.0, b.0).then_with(|| compare_encoded(a.1, b.1)),
        Query::ByDecoded => decode(a.0).cmp(decode(b.0)).then_with(|| decode(a.1).cmp(decode(b.1))),
        Query::AsSent => a.cmp(b),
    }
}

fn write_pairs<'p>(pairs: impl Iterator<Item = &'p Pair<'p>>, form: Query, out: &mut Vec<u8>) {
    for (at, (name, value)) in pairs.enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        for (part, end) in [(name, &b"="[..]), (value, b"")] {
            match form {
                Query::AsSent => out.extend_from_slice(part),
                Query::ByEncoded | Query::ByDecoded if is_canonical(part) => out.extend_from_slice(part),
                Query::ByEncoded | Query::ByDecoded => encode(decode(part), b'-', out),
            }
            out.extend_from_slice(end);
        }
    }
}

/// Name and value of each pair, undecoded; a missing `=` is an empty value, empty pieces are none.
pub(super) fn pieces(query: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    query.split(|&b| b == b'&').filter(|piece| !piece.is_empty()).map(|piece| {
        let end = memchr::memchr(b'=', piece).unwrap_or(piece.len());
        let (name, value) = piece.split_at_checked(end).unwrap_or((piece, &[]));
        (name, value.strip_prefix(b"=").unwrap_or(value))
    })
}

/// Undoes the escapes of a query; a literal `+` is a space, as most signers and form decoders have it.
pub(super) fn decode(text: &[u8]) -> impl Iterator<Item = u8> {
    unescape(text, b' ')
}

/// Undoes escapes, which are valid; a literal `+` becomes `plus`.
pub(super) fn unescape(text: &[u8], plus: u8) -> impl Iterator<Item = u8> {
    let mut rest = text.iter();
    std::iter::from_fn(move || match rest.next()? {
        b'+' => Some(plus),
        b'%' => match rest.as_slice() {
            [high, low, after @ ..] => {
                rest = after.iter();
                Some(nibble(*high) << 4 | nibble(*low))
            }
            _ => Some(b'%'),
        },
        byte => Some(*byte),
    })
}

fn nibble(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

/// The order of two texts after encoding, found without encoding them.
///
/// All that is escaped begins with `%`, which sorts before everything unreserved, and upper-case
/// hexadecimal keeps the order of bytes.
fn compare_encoded(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte| (is_unreserved(byte), byte);
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // What is equal as sent is passed over, except an escape that ends behind it.
    let start = (same.saturating_sub(2)..same).find(|&at| a.get(at) == Some(&b'%')).unwrap_or(same);
    let rest = |text| decode(<[u8]>::get(text, start..).unwrap_or_default()).map(rank);
    rest(a).cmp(rest(b))
}

/// Whether decoding and encoding again changes nothing.
fn is_canonical(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [b'%', high @ (b'0'..=b'9' | b'A'..=b'F'), low @ (b'0'..=b'9' | b'A'..=b'F'), rest @ ..]
                if !is_unreserved(nibble(*high) << 4 | nibble(*low)) =>
            {
                rest
            }
            [byte, rest @ ..] if is_unreserved(*byte) => rest,
            _ => return false,
        };
    }
}

/// Percent-encodes all but unreserved bytes and `also`.
fn encode(bytes: impl Iterator<Item = u8>, also: u8, out: &mut Vec<u8>) {
    for byte in bytes {
        if is_unreserved(byte) || byte == also {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', upper_hex(byte >> 4), upper_hex(byte & 15)]);
        }
    }
}

fn upper_hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether normalising might change the path.
fn is_denormal(path: &[u8]) -> bool {
    !path.starts_with(b"/") || memchr_iter(b'/', path).any(|at| matches!(path.get(at + 1), Some(b'/' | b'.')))
}

fn has_double_space(value: &[u8]) -> bool {
    memchr_iter(b' ', value).any(|at| value.get(at + 1) == Some(&b' '))
}

/// Appends a header value; the head has trimmed its ends.
fn write_value(value: &[u8], folding: Folding, out: &mut Vec<u8>) {
    let is_blank = match folding {
        Folding::Trim => return out.extend_from_slice(value),
        Folding::Spaces if !has_double_space(value) => return out.extend_from_slice(value),
        Folding::Spaces => |b: u8| b == b' ',
        Folding::Blanks => |b: u8| b == b' ' || b == b'\t',
    };
    let mut in_run = false;
    for &byte in value {
        let blank = is_blank(byte);
        if !(blank && in_run) {
            out.push(if blank { b' ' } else { byte });
        }
        in_run = blank;
    }
}

fn without_default_port(host: &[u8]) -> &[u8] {
    host.strip_suffix(b":80").or_else(|| host.strip_suffix(b":443")).unwrap_or(host)
}

/// `x-amz-` headers change what a request means, so whoever relays it must not be able to add one.
/// The three exempt ones are bound otherwise: compared with the body, compared with the key's token,
/// or added by CloudFront behind the signer.
pub(super) fn must_be_signed(name: &[u8]) -> bool {
    const EXEMPT: [&[u8]; 3] = [b"x-amz-content-sha256", b"x-amz-security-token", b"x-amz-cf-id"];
    name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"x-amz-"))
        && !EXEMPT.iter().any(|exempt| exempt.eq_ignore_ascii_case(name))
}

/// Compares a lower-case name with one in any case.
fn compare_lower(lower: &[u8], any: &[u8]) -> Ordering {
    lower.iter().copied().cmp(any.iter().map(u8::to_ascii_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::claim::{Credential, Presigned, SignedHeaders};
    use bytes::Bytes;

    fn path(raw: &str, form: Path) -> String {
        let mut out = Vec::new();
        write_path(raw.as_bytes(), form, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn query(raw: &str, form: Query) -> String {
        let mut out = Vec::new();
        write_query(raw.as_bytes(), form, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn paths() {
        for (raw, normalised, to_slash, as_sent) in [
            ("/", "/", "/", "/"),
            ("/dispatch", "/dispatch", "/dispatch", "/dispatch"),
            ("/a%20b", "/a%2520b", "/a%2520b", "/a%2520b"),
            ("/@connections/x%3D", "/%40connections/x%253D", "/%40connections/x%253D", "/%40connections/x%253D"),
            ("//a//", "/a/", "/a/", "//a//"),
            ("/a/./b", "/a/b", "/a/b", "/a/./b"),
            ("/a/../../b", "/b", "/b", "/a/../../b"),
            ("/a/.", "/a", "/a/", "/a/."),
            ("/a/b/..", "/a", "/a/", "/a/b/.."),
            ("/..", "/", "/", "/.."),
            ("/%2e%2e/a", "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
            ("/.a/..b/c.", "/.a/..b/c.", "/.a/..b/c.", "/.a/..b/c."),
            ("/\u{e9}", "/%C3%A9", "/%C3%A9", "/%C3%A9"),
        ] {
            assert_eq!(path(raw, Path::Normalised), normalised, "{raw}");
            assert_eq!(path(raw, Path::NormalisedToSlash), to_slash, "{raw}");
            assert_eq!(path(raw, Path::AsSent), as_sent, "{raw}");
        }
    }

    #[test]
    fn queries() {
        for (raw, encoded, decoded, as_sent) in [
            ("", "", "", ""),
            ("flag", "flag=", "flag=", "flag="),
            ("&&a=1&", "a=1", "a=1", "a=1"),
            ("=", "=", "=", "="),
            ("b=2&a=1&b=1", "a=1&b=1&b=2", "a=1&b=1&b=2", "a=1&b=1&b=2"),
            // Sorting whole pairs would put `a-b=`, `a1=` before `a=`.
            ("a1=x&a=x&a-b=x", "a=x&a-b=x&a1=x", "a=x&a-b=x&a1=x", "a=x&a-b=x&a1=x"),
            ("a=b=c", "a=b%3Dc", "a=b%3Dc", "a=b=c"),
            ("a=%c3%a9+%7e", "a=%C3%A9%20~", "a=%C3%A9%20~", "a=%c3%a9+%7e"),
            ("a=%2B", "a=%2B", "a=%2B", "a=%2B"),
            ("x=%FF", "x=%FF", "x=%FF", "x=%FF"),
            // Encoded, `|` and `:` sort before letters and digits; decoded, behind digits.
            ("1=x&:=y&|=z", "%3A=y&%7C=z&1=x", "1=x&%3A=y&%7C=z", "1=x&:=y&|=z"),
        ] {
            assert_eq!(query(raw, Query::ByEncoded), encoded, "{raw}");
            assert_eq!(query(raw, Query::ByDecoded), decoded, "{raw}");
            assert_eq!(query(raw, Query::AsSent), as_sent, "{raw}");
        }
    }

    #[test]
    fn the_order_without_encoding_is_the_order_after_it() {
        let encoded = |byte: u8| {
            let mut out = Vec::new();
            encode([byte].into_iter(), b'-', &mut out);
            out
        };
        let escaped = |byte: u8| format!("%{byte:02x}").into_bytes();
        for a in 0..=255 {
            for b in 0..=255 {
                let found = compare_encoded(&escaped(a), &escaped(b));
                assert_eq!(found, encoded(a).cmp(&encoded(b)), "{a} {b}");
            }
        }
        for (a, b, order) in [
            ("a", "a%00", Ordering::Less),
            ("a%c3", "a%C3", Ordering::Equal),
            ("a%c3b", "a%C3a", Ordering::Greater),
            ("a%2F", "a%2E", Ordering::Less),
            ("a%2fz", "a/z", Ordering::Equal),
            ("%25b", "%25%41", Ordering::Greater),
        ] {
            assert_eq!(compare_encoded(a.as_bytes(), b.as_bytes()), order, "{a} {b}");
        }
    }

    #[test]
    fn escapes() {
        for fine in ["", "a", "%20", "%aF%00", "a=%2525"] {
            assert!(escapes_are_valid(fine.as_bytes()), "{fine}");
        }
        for bad in ["%", "%2", "a=%zz", "%%20", "%2%20", "%+1", "% 1"] {
            assert!(!escapes_are_valid(bad.as_bytes()), "{bad}");
        }
    }

    fn parts(service: &'static str, presigned: Option<Presigned<'static>>) -> Parts<'static> {
        let credential = Credential {
            access_key_id: "AKID",
            date: b"20240115",
            region: b"us-east-1",
            service: service.as_bytes(),
            terminator: b"aws4_request",
        };
        let signed = SignedHeaders { list: b"host;x", names: vec![b"host", b"x"] };
        Parts { credential, signed, signature: &[b'0'; 64], presigned }
    }

    fn presigned(token: Option<&'static [u8]>) -> Option<Presigned<'static>> {
        Some(Presigned { date: b"", expires: None, token, payload: None })
    }

    fn forms(parts: &Parts<'_>, target: &str, fields: &str) -> Vec<(Form, String)> {
        let head = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
        let head = Head::parse(Bytes::from(head)).expect("a head");
        let canonical = Canonical::new(&head, parts).expect("covered");
        let write = |form| {
            let mut out = Vec::new();
            canonical.write(form, &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        canonical.forms().map(|form| (form, write(form))).collect()
    }

    #[test]
    fn a_plain_request_has_one_form() {
        let forms = forms(&parts("a", None), "/dispatch?b=1&a=", "Host: A:8080\r\nX:  a b \r\nx: c\r\n");
        assert_eq!(forms.len(), 1);
        assert_eq!(forms[0].1, "GET\n/dispatch\na=&b=1\nhost:A:8080\nx:a b,c\n\nhost;x\n");
    }

    #[test]
    fn each_oddity_brings_its_own_forms_and_no_other() {
        for (count, target, fields) in [
            (1, "/dispatch?a=1&b=%20", "Host: a:81\r\nX: b c\r\n"),
            (2, "/a/./b", "Host: a\r\nX: b\r\n"),
            (2, "/a//b", "Host: a\r\nX: b\r\n"),
            (3, "/a/.", "Host: a\r\nX: b\r\n"),
            (3, "/a/..", "Host: a\r\nX: b\r\n"),
            (1, "/a./b..c", "Host: a\r\nX: b\r\n"),
            (2, "/?a=+", "Host: a\r\nX: b\r\n"),
            (2, "/?a=%2f", "Host: a\r\nX: b\r\n"),
            (2, "/?%7C=1&1=2", "Host: a\r\nX: b\r\n"),
            (2, "/", "Host: a:80\r\nX: b\r\n"),
            (2, "/", "Host: a:443\r\nX: b\r\n"),
            (2, "/", "Host: a\r\nX: b  c\r\n"),
            (3, "/", "Host: a\r\nX: b\tc\r\n"),
            (1, "/", "Host: a\r\nX: b\r\nY: c  d\te\r\n"),
        ] {
            assert_eq!(forms(&parts("a", None), target, fields).len(), count, "{target} {fields:?}");
        }
    }

    #[test]
    fn forms_are_bounded_and_start_with_the_specification() {
        let presigned = presigned(Some(b"t"));
        let (target, fields) = ("/a//./?b=%7c&a=1=2&X-Amz-Security-Token=t", "Host: a:80\r\nX: a  b\t c\r\n");
        let forms = forms(&parts("a", presigned), target, fields);
        assert_eq!(forms.len(), FORMS_MAX);
        let query = "X-Amz-Security-Token=t&a=1%3D2&b=%7C";
        let first = format!("GET\n/a/\n{query}\nhost:a:80\nx:a b\t c\n\nhost;x\n");
        assert_eq!(forms[0], (Form::default(), first));
        let mut distinct: Vec<_> = forms.iter().map(|(form, _)| format!("{form:?}")).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), FORMS_MAX);
        assert!(forms.is_sorted_by_key(|(form, _)| form.differences()));
        let alone = |line: &str| forms.iter().any(|(form, text)| form.differences() == 1 && text.contains(line));
        for line in ["\nx:a  b\t c\n", "\nx:a b c\n", "\nhost:a\n", "\n/a//./\n", "=1=2&b=%7c\n", "\na=1%3D2&b=%7C\n"] {
            assert!(alone(line), "{line:?}");
        }
    }

    #[test]
    fn of_query_authentication_the_signature_is_left_out_and_the_token_may_be() {
        let target = "/?X-Amz-Signature=s&X-Amz-Security-Token=t&X-Amz-Expires=1&a=X-Amz-Signature";
        let fields = "Host: a\r\nX: b\r\n";
        let queries = |presigned| -> Vec<String> {
            let forms = forms(&parts("a", presigned), target, fields);
            forms.iter().map(|(_, text)| text.lines().nth(2).expect("a query").to_owned()).collect()
        };
        let signed = "X-Amz-Expires=1&X-Amz-Security-Token=t&a=X-Amz-Signature";
        assert_eq!(queries(presigned(Some(b"t"))), [signed, "X-Amz-Expires=1&a=X-Amz-Signature"]);
        assert_eq!(queries(presigned(None)), [signed]);
        let all = "X-Amz-Expires=1&X-Amz-Security-Token=t&X-Amz-Signature=s&a=X-Amz-Signature";
        assert_eq!(queries(None), [all], "a header leaves nothing of the query out");
    }

    #[test]
    fn s3_has_one_rule_for_paths_and_others_have_another() {
        for (path, s3) in [
            ("/a%2Fb%20c", "/a/b%20c"),
            ("/a%252Fb", "/a%252Fb"),
            ("//a/./../b/.", "//a/./../b/."),
            ("/a+b%2Bc", "/a%2Bb%2Bc"),
            ("/%c3%A9%7e", "/%C3%A9~"),
        ] {
            let forms = |service| forms(&parts(service, None), path, "Host: a\r\nX: b\r\n");
            let paths: Vec<String> =
                forms("s3").iter().map(|(_, text)| text.lines().nth(1).expect("a path").to_owned()).collect();
            assert_eq!(paths, [s3], "{path}");
            assert!(forms("s3x").iter().all(|(form, _)| form.path != Path::EncodedOnce), "{path}");
        }
    }

    #[test]
    fn what_must_be_signed() {
        for name in ["x-amz-date", "X-AMZ-Target", "x-amz-", "x-amz-meta-a"] {
            assert!(must_be_signed(name.as_bytes()), "{name}");
        }
        for name in ["x-amzn-trace-id", "x-amz", "x-amz-cf-id", "X-Amz-Content-Sha256", "X-Amz-Security-Token", "date"]
        {
            assert!(!must_be_signed(name.as_bytes()), "{name}");
        }
    }
}
