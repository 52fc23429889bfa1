//! The head of an HTTP/1 request, parsed strictly over the bytes as they came.
//!
//! This is the front door of `api.md`: what it refuses never reaches routing, and what passes can be
//! read by every later parser in only one way. The signature is verified over these same bytes.
//! Sources: RFC 9112 (message syntax), RFC 9110 (fields), and the request-smuggling cases in the tests.

use bytes::Bytes;
use memchr::memchr;

use crate::error::{Code, Rejection};

/// Most header fields in one head; more is `431`.
pub const FIELDS_MAX: usize = 128;
/// Longest request target in bytes; longer is `414`.
pub const TARGET_BYTES_MAX: usize = 8192;

/// A byte range of [`Head::bytes`].
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
}

/// How the body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A field that may stand once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum One<'a> {
    Absent,
    Single(&'a [u8]),
    Repeated,
}

/// A request head that passed the front door.
#[derive(Debug, Clone)]
pub struct Head {
    bytes: Bytes,
    method: Span,
    target: Span,
    path: Span,
    query: Option<Span>,
    fields: Vec<Field>,
    framing: Framing,
    expects_continue: bool,
    http10: bool,
}

/// Index just past the blank line that ends a head, looking from `from` on.
///
/// `from` may be any length that was already searched; the search steps back far enough to see a
/// terminator that straddles it.
pub fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    memchr::memmem::find(bytes.get(start..)?, b"\r\n\r\n").map(|at| start + at + 4)
}

/// Whether a line of a head that is still growing ends in a bare line feed, which nothing that follows can mend.
///
/// `from` may be any length that was already searched.
pub fn has_bare_line_feed(bytes: &[u8], from: usize) -> bool {
    let bare = |at: usize| from + at == 0 || bytes.get(from + at - 1) != Some(&b'\r');
    memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()).any(bare)
}

/// Why a head that is still growing has outgrown `limit` bytes: its target alone, or all of it.
pub fn overflow(bytes: &[u8]) -> Rejection {
    match memchr(b'\n', bytes.get(..TARGET_BYTES_MAX + 64).unwrap_or(bytes)) {
        Some(_) => Rejection::new(Code::HeadersTooLarge, "head is over listen.header_bytes").closing(),
        None => Rejection::new(Code::UriTooLong, "request line is too long").closing(),
    }
}

impl Head {
    /// Parses a complete head, its final blank line included.
    ///
    /// # Errors
    /// `400`, `414` or `431`, each closing the connection.
    pub fn parse(bytes: Bytes) -> Result<Self, Rejection> {
        let mut lines = Lines { bytes: &bytes, at: 0 };
        let line = lines.next().ok_or_else(|| bad("request", "incomplete head"))??;
        let (method, target) = request_line(&bytes, line)?;

        let mut head = Self {
            method,
            target,
            path: target,
            query: None,
            fields: Vec::with_capacity(24),
            framing: Framing::None,
            expects_continue: false,
            http10: bytes.get(line.range()).is_some_and(|l| l.ends_with(b"0")),
            bytes: Bytes::new(),
        };
        let (mut host, mut length, mut chunked) = (None, None, false);
        loop {
            let line = lines.next().ok_or_else(|| bad("request", "incomplete head"))??;
            if line.is_empty() {
                break;
            }
            if head.fields.len() == FIELDS_MAX {
                return Err(Rejection::new(Code::HeadersTooLarge, "too many header fields").closing());
            }
            let field = field_line(&bytes, line)?;
            let value = slice(&bytes, field.value);
            match Sensitive::of(slice(&bytes, field.name)) {
                None => {}
                Some(Sensitive::Host) => {
                    if host.is_some() {
                        return Err(bad("host", "more than one Host header"));
                    }
                    if !is_authority(value) {
                        return Err(bad("host", "invalid Host header"));
                    }
                    host = Some(field.value);
                }
                Some(Sensitive::ContentLength) => {
                    if length.is_some() {
                        return Err(bad("content-length", "more than one Content-Length header"));
                    }
                    length =
                        Some(decimal(value).ok_or_else(|| bad("content-length", "Content-Length is not a number"))?);
                }
                Some(Sensitive::TransferEncoding) => {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(bad("transfer-encoding", "the only transfer coding accepted is one chunked"));
                    }
                    if head.http10 {
                        return Err(bad("transfer-encoding", "HTTP/1.0 has no transfer codings"));
                    }
                    chunked = true;
                }
                Some(Sensitive::Upgrade) => return Err(bad("upgrade", "upgrades are not supported")),
                Some(Sensitive::Expect) => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(bad("expect", "unknown expectation"));
                    }
                    head.expects_continue = !head.http10;
                }
            }
            head.fields.push(field);
        }

        let host = host.ok_or_else(|| bad("host", "missing Host header"))?;
        head.framing = match (length, chunked) {
            (Some(_), true) => return Err(bad("content-length", "both Content-Length and Transfer-Encoding")),
            (None, true) => Framing::Chunked,
            (Some(0), false) | (None, false) => Framing::None,
            (Some(n), false) => Framing::Length(n),
        };
        head.target = origin_form(&bytes, head.target, slice(&bytes, host))?;
        head.path = head.target;
        if let Some(at) = memchr(b'?', slice(&bytes, head.target)) {
            let mark = head.target.start as usize + at;
            head.path = Span::new(head.target.start as usize, mark);
            head.query = Some(Span::new(mark + 1, head.target.end as usize));
        }
        head.bytes = bytes;
        Ok(head)
    }

    /// The method, as sent; always an HTTP token.
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// The target in origin form: path, and query behind `?` if there is one. Visible ASCII only.
    pub fn target(&self) -> &str {
        self.text(self.target)
    }

    /// The target up to its first `?`.
    pub fn path(&self) -> &str {
        self.text(self.path)
    }

    /// The target behind its first `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|query| self.text(query))
    }

    /// All fields in the order received: name as sent, value without surrounding white space.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|f| (slice(&self.bytes, f.name), slice(&self.bytes, f.value)))
    }

    /// The values of all fields of that name (compared without case), in the order received.
    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        // Most fields have a name of another length, and are passed over without a look at it.
        let named = move |field: &&Field| {
            field.name.len() == name.len() && slice(&self.bytes, field.name).eq_ignore_ascii_case(name)
        };
        self.fields.iter().filter(named).map(|field| slice(&self.bytes, field.value))
    }

    /// A field that may stand only once.
    pub fn one<'a>(&'a self, name: &'a [u8]) -> One<'a> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (None, _) => One::Absent,
            (Some(value), None) => One::Single(value),
            (Some(_), Some(_)) => One::Repeated,
        }
    }

    /// How the body is delimited.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the request is HTTP/1.0, which knows no chunks.
    pub fn is_http10(&self) -> bool {
        self.http10
    }

    /// Whether the client wants to use the connection again (RFC 9112, section 9.3): `close` wins, and
    /// HTTP/1.0 has to ask for it.
    pub fn keeps_connection(&self) -> bool {
        let asks_for = |option: &[u8]| {
            let mut options = self.all(b"connection").flat_map(|value| value.split(|&b| b == b','));
            options.any(|o| o.trim_ascii().eq_ignore_ascii_case(option))
        };
        !asks_for(b"close") && (!self.http10 || asks_for(b"keep-alive"))
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(slice(&self.bytes, span)).unwrap_or_default()
    }
}

/// The fields that decide framing or meaning and so are checked while parsing.
enum Sensitive {
    Host,
    ContentLength,
    TransferEncoding,
    Upgrade,
    Expect,
}

impl Sensitive {
    fn of(name: &[u8]) -> Option<Self> {
        let is = |candidate: &[u8]| name.eq_ignore_ascii_case(candidate);
        match name.len() {
            4 if is(b"host") => Some(Self::Host),
            14 if is(b"content-length") => Some(Self::ContentLength),
            17 if is(b"transfer-encoding") => Some(Self::TransferEncoding),
            7 if is(b"upgrade") => Some(Self::Upgrade),
            6 if is(b"expect") => Some(Self::Expect),
            _ => None,
        }
    }
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

fn slice(bytes: &[u8], span: Span) -> &[u8] {
    bytes.get(span.range()).unwrap_or_default()
}

/// A line that ends in anything but CRLF, or holds a CR or LF elsewhere.
pub fn bad_line() -> Rejection {
    bad("header", "lines must end in CRLF")
}

fn bad(field: &'static str, issue: &'static str) -> Rejection {
    Rejection::field(field, issue).closing()
}

/// Lines that end in CRLF and hold no other CR or LF.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = Result<Span, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..)?;
        let lf = memchr(b'\n', rest)?;
        let line = rest.get(..lf)?;
        let start = self.at;
        self.at += lf + 1;
        match line.split_last() {
            Some((b'\r', line)) if memchr(b'\r', line).is_none() => Some(Ok(Span::new(start, start + line.len()))),
            _ => Some(Err(bad_line())),
        }
    }
}

/// `method SP target SP "HTTP/1." ("0" | "1")`
fn request_line(bytes: &[u8], line: Span) -> Result<(Span, Span), Rejection> {
    let text = slice(bytes, line);
    let start = line.start as usize;
    let first = memchr(b' ', text).ok_or_else(|| bad("request", "malformed request line"))?;
    let last = text.iter().rposition(|&b| b == b' ').filter(|&last| last > first);
    let last = last.ok_or_else(|| bad("request", "malformed request line"))?;
    let (method, target, version) = (text.get(..first), text.get(first + 1..last), text.get(last + 1..));
    if !method.is_some_and(|m| !m.is_empty() && m.iter().all(|&b| is_token(b))) {
        return Err(bad("method", "method is not a token"));
    }
    if method == Some(b"CONNECT") {
        return Err(bad("method", "CONNECT is not supported"));
    }
    if !matches!(version, Some(b"HTTP/1.1" | b"HTTP/1.0")) {
        return Err(bad("version", "only HTTP/1.1 and HTTP/1.0 are supported"));
    }
    let target = target.unwrap_or_default();
    if target.len() > TARGET_BYTES_MAX {
        return Err(Rejection::new(Code::UriTooLong, "request target is too long").closing());
    }
    if !target.iter().all(|b| (0x21..=0x7e).contains(b)) {
        return Err(bad("target", "request target must be visible ASCII"));
    }
    Ok((Span::new(start, start + first), Span::new(start + first + 1, start + last)))
}

/// `token ":" OWS value OWS`
fn field_line(bytes: &[u8], line: Span) -> Result<Field, Rejection> {
    let text = slice(bytes, line);
    let colon = memchr(b':', text).ok_or_else(|| bad("header", "header line without a colon"))?;
    let name = text.get(..colon).unwrap_or_default();
    if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
        return Err(bad("header", "header name is not a token"));
    }
    let value = text.get(colon + 1..).unwrap_or_default();
    // Every byte is looked at, whatever the one before it was: so it compiles to vectors, and values are long.
    if !value.iter().fold(true, |fine, &b| fine & ((b == b'\t') | ((b >= 0x20) & (b != 0x7f)))) {
        return Err(bad("header", "control character in a header value"));
    }
    let blank = |b: &&u8| matches!(**b, b' ' | b'\t');
    let lead = value.iter().take_while(blank).count();
    let tail = value.iter().skip(lead).rev().take_while(blank).count();
    let start = line.start as usize;
    Ok(Field {
        name: Span::new(start, start + colon),
        value: Span::new(start + colon + 1 + lead, start + text.len() - tail),
    })
}

/// Reduces an absolute-form target to origin form when its authority is the Host's.
fn origin_form(bytes: &[u8], target: Span, host: &[u8]) -> Result<Span, Rejection> {
    let text = slice(bytes, target);
    if memchr(b'#', text).is_some() {
        return Err(bad("target", "request target has a fragment"));
    }
    if text.first() == Some(&b'/') {
        return Ok(target);
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|s| text.get(..s.len()).is_some_and(|t| t.eq_ignore_ascii_case(s)))
        .ok_or_else(|| bad("target", "request target is not in origin form"))?;
    let rest = text.get(scheme.len()..).unwrap_or_default();
    let slash = memchr(b'/', rest).ok_or_else(|| bad("target", "request target has no path"))?;
    if !rest.get(..slash).is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
        return Err(bad("target", "authority of the target differs from Host"));
    }
    Ok(Span::new(target.start as usize + scheme.len() + slash, target.end as usize))
}

/// `tchar` of RFC 9110, section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|class| class & TOKEN != 0)
}

/// What may stand in a field value: visible, blank, or above ASCII (RFC 9110, section 5.5).
pub fn is_value(byte: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|class| class & VALUE != 0)
}

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
/// The classes of every byte; heads are looked at byte by byte, so each look is one load.
const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut rest: &mut [u8] = &mut classes;
    let mut byte = 0u8;
    while let [class, tail @ ..] = rest {
        let mark = matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        if byte.is_ascii_alphanumeric() || mark {
            *class |= TOKEN;
        }
        if byte == b'\t' || byte >= 0x20 && byte != 0x7f {
            *class |= VALUE;
        }
        byte = byte.wrapping_add(1);
        rest = tail;
    }
    classes
}

/// A host name, an IPv4 address or a bracketed IPv6 address, with an optional port.
fn is_authority(host: &[u8]) -> bool {
    let (name, port) = if host.first() == Some(&b'[') {
        let Some(end) = memchr(b']', host) else { return false };
        let inside = host.get(1..end).and_then(|i| std::str::from_utf8(i).ok());
        if inside.is_none_or(|i| i.parse::<std::net::Ipv6Addr>().is_err()) {
            return false;
        }
        (&b"v6"[..], host.get(end + 1..).unwrap_or_default())
    } else {
        host.split_at(memchr(b':', host).unwrap_or(host.len()))
    };
    let port_ok = match port.split_first() {
        None => true,
        Some((b':', digits)) => decimal(digits).is_some_and(|port| port <= 65_535),
        Some(_) => false,
    };
    port_ok
        && !name.is_empty()
        && name.len() <= 255
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b))
}

/// Without spaces and tabs at both ends; `trim_ascii` would take line ends too.
pub fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Plain digits, at most 18 of them so that no sum of lengths can overflow.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Head, Rejection> {
        Head::parse(Bytes::copy_from_slice(head.as_bytes()))
    }

    #[test]
    fn a_plain_request_is_read() {
        let head = parse("POST /dispatch?a=1?b HTTP/1.1\r\nHost: orbit:80\r\nContent-Length: 3\r\nX-A:  v w \r\n\r\n")
            .expect("valid");
        assert_eq!((head.method(), head.path(), head.query()), ("POST", "/dispatch", Some("a=1?b")));
        assert_eq!(head.framing(), Framing::Length(3));
        assert_eq!(head.one(b"x-a"), One::Single(b"v w"));
    }

    #[test]
    fn absolute_form_with_the_same_authority_is_origin_form() {
        let head = parse("GET http://Orbit:8080/health?x HTTP/1.1\r\nHost: orbit:8080\r\n\r\n").expect("valid");
        assert_eq!(head.target(), "/health?x");
    }

    #[test]
    fn smuggling_shapes_are_refused() {
        let line = "POST / HTTP/1.1\r\nHost: a\r\n";
        for tail in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Host: a\r\n",
            "Upgrade: websocket\r\n",
            "Expect: tea\r\n",
            "X: a\r\n folded\r\n",
            "X: a\nY: b\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            ": a\r\n",
            "X a\r\n",
            "X y: a\r\n",
        ] {
            let refused = parse(&format!("{line}{tail}\r\n")).expect_err(tail);
            assert_eq!((refused.code, refused.close), (Code::InvalidRequest, true), "{tail:?}");
        }
    }

    #[test]
    fn odd_request_lines_are_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET / HTTP/2.0",
            "GET / http/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET * HTTP/1.1",
            "GET /#x HTTP/1.1",
            "GET http://b/ HTTP/1.1",
            "GET http://a HTTP/1.1",
            "GET http://u@a/ HTTP/1.1",
            "CONNECT a:443 HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET /",
            "",
        ] {
            let refused = parse(&format!("{line}\r\nHost: a\r\n\r\n")).expect_err(line);
            assert_eq!(refused.code, Code::InvalidRequest, "{line:?}");
        }
    }

    #[test]
    fn tokens_and_values_are_those_of_the_specification() {
        for byte in 0..=255u8 {
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!((is_token(byte), is_value(byte)), (token, byte == 9 || byte >= 32 && byte != 127), "{byte}");
        }
    }

    #[test]
    fn hosts() {
        for good in ["a", "a.b-c_d:80", "10.0.0.1:8080", "[::1]", "[::1]:443"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in ["", ":80", "a:", "a:b", "a:99999", "u@a", "a/b", "a b", "[::1", "[g]", "[::1]x", "a,b"] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn long_targets_and_many_fields_have_their_own_codes() {
        let long =
            parse(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(TARGET_BYTES_MAX))).expect_err("long");
        assert_eq!(long.code, Code::UriTooLong);
        let many =
            parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX))).expect_err("many");
        assert_eq!(many.code, Code::HeadersTooLarge);
    }

    #[test]
    fn the_end_is_found_wherever_the_search_resumes() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for from in 0..=head.len() - 5 {
            assert_eq!(end_of_head(head, from), Some(head.len() - 4), "{from}");
        }
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n", 0), None);
    }

    #[test]
    fn a_head_without_its_blank_line_is_incomplete() {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n";
        parse(whole).expect("valid");
        for end in 0..whole.len() {
            parse(&whole[..end]).expect_err(&whole[..end]);
        }
    }

    #[test]
    fn a_bare_line_feed_is_found_wherever_the_search_resumes() {
        for (head, bare) in
            [(&b"GET /\r\nA: b\r\n"[..], false), (b"GET /\r\nA: b\n", true), (b"\n", true), (b"", false)]
        {
            for from in 0..=head.len().saturating_sub(1) {
                assert_eq!(has_bare_line_feed(head, from), bare, "{from}");
            }
        }
    }
}
