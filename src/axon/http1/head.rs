//! The head of an HTTP/1 answer, parsed strictly over the bytes as they came: where it ends, what it says,
//! how its body is framed and whether its connection may be used again.
//!
//! By hand, because `http` checks every name and value once more whoever has checked them before; here that
//! is the only check. Names and values are slices of the bytes.
//!
//! Invariant: a head that two parsers could read differently is refused, so that no answer is ever taken for
//! the end of another. Sources: RFC 9112, sections 4 (status line), 5 (fields), 6 (framing), 9.3 (persistence).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::response::Parts;
use http::{Response, StatusCode, Version};
use memchr::memchr;

use crate::axon::http1::body::Body;
use crate::axon::wire::{ANSWER_FIELDS_MAX, ANSWER_HEAD_BYTES_MAX};
use crate::request::head::{decimal, is_value, trim_blanks};

/// A head, and what it means for what comes after it.
pub struct Head {
    pub parts: Parts,
    pub body: Body,
    /// Whether the peer lets the connection be used again, once the body has been read whole.
    pub keeps_connection: bool,
}

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

const NO_STATUS_LINE: Malformed = Malformed("not HTTP/1: its first line is no status line");
const BARE_LINE_FEED: Malformed = Malformed("a line of its head does not end in CRLF");
const TOO_LARGE: Malformed = Malformed("its head is too large");

/// Looks for the end of a head that is still growing.
#[derive(Debug, Default)]
pub struct Search {
    /// Bytes that hold no more line ends.
    searched: usize,
    /// Where the line begins that they end in.
    line: usize,
    lines: usize,
}

impl Search {
    /// Index just past the blank line, if it is here. `bytes` are those of the last call and more.
    ///
    /// # Errors
    /// [`Malformed`] as soon as nothing that follows can mend it.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        while let Some(found) = bytes.get(self.searched..).and_then(|rest| memchr(b'\n', rest)) {
            let end = self.searched + found;
            let line = bytes.get(self.line..end).unwrap_or_default();
            if line.last() != Some(&b'\r') {
                return Err(BARE_LINE_FEED);
            }
            (self.searched, self.line) = (end + 1, end + 1);
            if line.len() == 1 && self.lines > 0 {
                return if self.line > ANSWER_HEAD_BYTES_MAX { Err(TOO_LARGE) } else { Ok(Some(self.line)) };
            }
            self.lines += 1;
        }
        self.searched = bytes.len();
        // Whoever does not speak HTTP may never send a blank line.
        let begins = bytes.iter().zip(b"HTTP/1.").all(|(found, expected)| found == expected);
        match begins {
            false => Err(NO_STATUS_LINE),
            true if bytes.len() > ANSWER_HEAD_BYTES_MAX || self.lines > ANSWER_FIELDS_MAX + 1 => Err(TOO_LARGE),
            true => Ok(None),
        }
    }
}

impl Head {
    /// Parses a whole head, its blank line included.
    ///
    /// # Errors
    /// [`Malformed`]; the connection is of no more use.
    pub fn parse(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut lines = Lines { bytes, at: 0 };
        let (status, version) = lines.next().and_then(|line| status_line(bytes.get(line)?)).ok_or(NO_STATUS_LINE)?;
        let mut headers = HeaderMap::with_capacity(FIELDS_USUAL);
        let (mut length, mut chunked, mut persistence) = (None, false, Persistence::default());
        for line in lines {
            if line.is_empty() {
                break;
            }
            if headers.len() == ANSWER_FIELDS_MAX {
                return Err(TOO_LARGE);
            }
            let (name, value) = field(bytes, line)?;
            if name == CONTENT_LENGTH {
                // Several would be legal if they were equal; then again nobody has a reason to send them.
                if length.is_some() {
                    return Err(Malformed("more than one Content-Length"));
                }
                length = Some(decimal(value.as_bytes()).ok_or(Malformed("its Content-Length is not a number"))?);
            } else if name == TRANSFER_ENCODING {
                // Nothing was asked for by `TE`, so there is nothing else (RFC 9110, section 10.1.4).
                if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("its transfer coding is not one chunked"));
                }
                chunked = true;
            } else if name == CONNECTION {
                persistence.note(value.as_bytes());
            }
            headers.append(name, value);
        }
        let bodiless =
            status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let body = match (length, chunked) {
            // Section 6.3, first: whatever the fields say.
            _ if bodiless => Body::Ended,
            (Some(_), true) => return Err(Malformed("both Content-Length and Transfer-Encoding")),
            (None, true) if version == Version::HTTP_10 => {
                return Err(Malformed("a transfer coding in HTTP/1.0"));
            }
            (None, true) => Body::chunked(),
            (Some(length), false) => Body::of_length(length),
            (None, false) => Body::UntilEnd,
        };
        // What is announced where nothing may follow might follow all the same.
        let doubtful = bodiless && (chunked || length.is_some_and(|n| n > 0) && status != StatusCode::NOT_MODIFIED);
        let keeps_connection = persistence.keeps(version)
            && !matches!(body, Body::UntilEnd)
            && !doubtful
            && status != StatusCode::SWITCHING_PROTOCOLS;
        let (mut parts, ()) = Response::new(()).into_parts();
        (parts.status, parts.version, parts.headers) = (status, version, headers);
        Ok(Self { parts, body, keeps_connection })
    }
}

/// Room for the fields of a usual head; with more the map would be a large allocation.
const FIELDS_USUAL: usize = 6;

/// What the `Connection` fields say about the connection (section 9.3).
#[derive(Debug, Default)]
struct Persistence {
    close: bool,
    keep_alive: bool,
}

impl Persistence {
    fn note(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn keeps(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// The lines of a head, as ranges of it without their ends; [`Search`] has seen that each ends in CRLF.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = std::ops::Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let end = start + memchr(b'\n', self.bytes.get(start..)?)?;
        self.at = end + 1;
        Some(start..end.saturating_sub(1).max(start))
    }
}

/// `HTTP-version SP status-code SP [ reason-phrase ]`; the last space is often missing.
fn status_line(line: &[u8]) -> Option<(StatusCode, Version)> {
    let (version, rest) = match line.split_at_checked(9)? {
        (b"HTTP/1.1 ", rest) => (Version::HTTP_11, rest),
        (b"HTTP/1.0 ", rest) => (Version::HTTP_10, rest),
        _ => return None,
    };
    let (code, reason) = rest.split_at_checked(3)?;
    let reason_follows = reason.first().is_none_or(|byte| *byte == b' ');
    if !reason_follows || !reason.iter().all(|byte| is_value(*byte)) {
        return None;
    }
    Some((StatusCode::from_bytes(code).ok()?, version))
}

/// `field-name ":" OWS field-value OWS`, no white space before the colon and no line folding.
fn field(bytes: &Bytes, line: std::ops::Range<usize>) -> Result<(HeaderName, HeaderValue), Malformed> {
    let text = bytes.get(line.clone()).unwrap_or_default();
    let (name, value) = memchr(b':', text)
        .and_then(|colon| Some((text.get(..colon)?, text.get(colon + 1..)?)))
        .ok_or(Malformed("a line of its head has no colon"))?;
    let name = HeaderName::from_bytes(name).map_err(|_| Malformed("the name of a header field is no token"))?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(trim_blanks(value)))
        .map_err(|_| Malformed("a header field holds a control character"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole and byte by byte; both must agree. `None` if the head does not end.
    fn parse(text: &[u8]) -> Option<Result<Head, Malformed>> {
        let ended = |end: Result<usize, Malformed>| {
            end.and_then(|end| Ok((end, Head::parse(&Bytes::copy_from_slice(&text[..end]))?)))
        };
        let whole = Search::default().end(text).transpose().map(ended);
        let mut search = Search::default();
        let bytewise = (0..=text.len()).find_map(|count| search.end(&text[..count]).transpose()).map(ended);
        // Which of several faults is met first may differ.
        let end = |read: &Option<Result<(usize, Head), Malformed>>| read.as_ref().map(|r| r.as_ref().ok().map(|r| r.0));
        assert_eq!(end(&whole), end(&bytewise), "{:?}", text.escape_ascii().to_string());
        whole.map(|read| read.map(|(_, head)| head))
    }

    fn good(text: &str) -> Head {
        match parse(text.as_bytes()) {
            Some(Ok(head)) => head,
            Some(Err(Malformed(why))) => panic!("{text:?}: {why}"),
            None => panic!("{text:?} does not end"),
        }
    }

    fn bad(text: &[u8]) -> &'static str {
        let shown = text.escape_ascii().to_string();
        match parse(text) {
            Some(Err(Malformed(why))) => why,
            Some(Ok(head)) => panic!("{shown} was read as {:?}", head.parts),
            None => panic!("{shown} does not end"),
        }
    }

    #[test]
    fn a_head_says_what_it_says() {
        let head = good(
            "HTTP/1.1 200 All is well\r\nContent-Type: application/json\r\nSet-Cookie:a\r\nset-cookie:  b c\t \r\n\
             X-Empty:\r\nX-Old: gr\u{fc}n\r\ncontent-length: 2\r\n\r\n{}",
        );
        assert_eq!((head.parts.status, head.parts.version), (StatusCode::OK, Version::HTTP_11));
        let all = |name: &str| head.parts.headers.get_all(name).iter().map(|v| v.as_bytes()).collect::<Vec<_>>();
        assert_eq!(all("content-type"), [b"application/json"]);
        assert_eq!(all("set-cookie"), [&b"a"[..], b"b c"]);
        assert_eq!((all("x-empty"), all("x-old")), (vec![&b""[..]], vec!["gr\u{fc}n".as_bytes()]));
        assert_eq!(head.parts.headers.len(), 6);
    }

    #[test]
    fn status_lines() {
        for (line, status) in [
            ("HTTP/1.1 200 OK", 200),
            ("HTTP/1.1 200 ", 200),
            ("HTTP/1.1 200", 200),
            ("HTTP/1.0 404 Not\tFound \u{e9}", 404),
            ("HTTP/1.1 999  x", 999),
        ] {
            assert_eq!(good(&format!("{line}\r\n\r\n")).parts.status, status, "{line}");
        }
        for line in [
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1 +20 OK",
            "HTTP/1.1 2x0 OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.1\t200 OK",
            "HTTP/1.1 200\tOK",
            "HTTP/1.1 200O",
            "HTTP/1.1 200 O\u{7f}K",
            "HTTP/1.1 200 O\0K",
            "HTTP/1.1 200 O\rK",
            "HTTP/1.1",
            "HTTP/1.2 200 OK",
            "HTTP/2.0 200 OK",
            "HTTP/11 200 OK",
            "http/1.1 200 OK",
            " HTTP/1.1 200 OK",
            "ICY 200 OK",
            "POST / HTTP/1.1",
            "",
        ] {
            assert_eq!(bad(format!("{line}\r\n\r\n").as_bytes()), NO_STATUS_LINE.0, "{line:?}");
        }
        // It is known before a line ends, let alone a head.
        for banner in ["SSH-2.0", "\r\n", "\u{15}\u{3}\u{1}", "HTTP/3"] {
            assert_eq!(bad(banner.as_bytes()), NO_STATUS_LINE.0, "{banner:?}");
        }
    }

    #[test]
    fn sloppy_fields_are_refused() {
        for field in [
            &b"X: a\r\n folded"[..],
            b"X: a\r\n\tfolded",
            b" X: a",
            b"X : a",
            b"X\t: a",
            b": a",
            b"X",
            b"X(: a",
            b"X\xe9: a",
            b"X: a\0b",
            b"X: a\rb",
            b"X: a\x7fb",
            b"X: a\x0bb",
            b"X: a\nY: b",
            b"X: a\r\r",
        ] {
            bad(&[b"HTTP/1.1 200 OK\r\n", field, b"\r\n\r\n"].concat());
        }
        assert_eq!(bad(b"HTTP/1.1 200 OK\n"), BARE_LINE_FEED.0);
        assert_eq!(bad(b"HTTP/1.1 200 OK\r\nX: a\n"), BARE_LINE_FEED.0);
        assert_eq!(bad(b"HTTP/1.1 200 OK\r\n\n"), BARE_LINE_FEED.0);
    }

    /// The framing as text, and whether the connection is kept.
    fn framing(version: &str, status: u16, fields: &str) -> (String, bool) {
        let head = good(&format!("HTTP/{version} {status} x\r\n{fields}\r\n"));
        let framing = match head.body {
            Body::Ended => "none".to_owned(),
            Body::Length { left } => left.to_string(),
            Body::Chunks(_) => "chunks".to_owned(),
            Body::UntilEnd => "end".to_owned(),
        };
        (framing, head.keeps_connection)
    }

    #[test]
    fn framing_and_persistence() {
        for (version, status, fields, expected, kept) in [
            ("1.1", 200, "Content-Length: 12\r\n", "12", true),
            ("1.1", 200, "Content-Length:  0012 \r\n", "12", true),
            ("1.1", 200, "Content-Length: 0\r\n", "none", true),
            ("1.1", 200, "Content-Length: 999999999999999999\r\n", "999999999999999999", true),
            ("1.1", 200, "Transfer-Encoding: chunked\r\n", "chunks", true),
            ("1.1", 200, "transfer-encoding: CHUNKED\r\n", "chunks", true),
            ("1.1", 200, "", "end", false),
            ("1.1", 200, "Connection: keep-alive\r\n", "end", false),
            ("1.1", 200, "Content-Length: 1\r\nConnection: close\r\n", "1", false),
            ("1.1", 200, "Content-Length: 1\r\nConnection: keep-alive, x , Close\r\n", "1", false),
            ("1.1", 200, "Connection: x\r\nContent-Length: 1\r\nConnection:close\r\n", "1", false),
            ("1.1", 200, "Connection: closed\r\nContent-Length: 1\r\n", "1", true),
            ("1.0", 200, "Content-Length: 1\r\n", "1", false),
            ("1.0", 200, "Content-Length: 1\r\nConnection: Keep-Alive\r\n", "1", true),
            ("1.0", 200, "Content-Length: 1\r\nConnection: keep-alive, close\r\n", "1", false),
            ("1.0", 200, "", "end", false),
            // Whatever these say, they have no body; what says that one follows might be right all the same.
            ("1.1", 204, "", "none", true),
            ("1.1", 204, "Content-Length: 0\r\n", "none", true),
            ("1.1", 204, "Content-Length: 4\r\n", "none", false),
            ("1.1", 204, "Transfer-Encoding: chunked\r\n", "none", false),
            ("1.1", 304, "Content-Length: 4\r\n", "none", true),
            ("1.1", 304, "Transfer-Encoding: chunked\r\n", "none", false),
            ("1.1", 103, "Link: </a>\r\n", "none", true),
            ("1.1", 101, "Upgrade: h2c\r\nConnection: upgrade\r\n", "none", false),
            ("1.1", 205, "Content-Length: 4\r\n", "4", true),
            ("1.1", 500, "Content-Length: 4\r\n", "4", true),
        ] {
            assert_eq!(framing(version, status, fields), (expected.to_owned(), kept), "{version} {status} {fields:?}");
        }
    }

    #[test]
    fn framing_that_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\ncontent-length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 1 2\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1.0\r\n",
            "Content-Length:\r\n",
            "Content-Length: 1000000000000000000\r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked;q=1\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding:\r\n",
        ] {
            bad(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
        }
        bad(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn heads_have_bounds() {
        let of_fields = |n| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(n));
        assert_eq!(good(&of_fields(ANSWER_FIELDS_MAX)).parts.headers.len(), ANSWER_FIELDS_MAX);
        assert_eq!(bad(of_fields(ANSWER_FIELDS_MAX + 1).as_bytes()), TOO_LARGE.0);
        let of_bytes = |n: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(n - 24));
        assert_eq!(of_bytes(100).len(), 100);
        good(&of_bytes(ANSWER_HEAD_BYTES_MAX));
        assert_eq!(bad(of_bytes(ANSWER_HEAD_BYTES_MAX + 1).as_bytes()), TOO_LARGE.0);
        // Without waiting for an end.
        assert_eq!(bad(&of_bytes(ANSWER_HEAD_BYTES_MAX + 10).as_bytes()[..ANSWER_HEAD_BYTES_MAX + 1]), TOO_LARGE.0);
        assert_eq!(bad(&of_fields(ANSWER_FIELDS_MAX + 2).as_bytes()[..19 + 6 * (ANSWER_FIELDS_MAX + 1)]), TOO_LARGE.0);
    }

    #[test]
    fn a_head_without_its_blank_line_is_no_head_yet() {
        let whole = b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n";
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_none(), "{end}");
        }
    }

    #[test]
    fn names_and_values_are_those_of_the_specification() {
        for byte in 0..=255u8 {
            let name = crate::request::head::is_token(byte);
            assert_eq!(HeaderName::from_bytes(&[byte]).is_ok(), name, "{byte}");
            assert_eq!(HeaderValue::from_bytes(&[byte]).is_ok(), is_value(byte), "{byte}");
        }
    }
}
