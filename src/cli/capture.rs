//! A request as it stands in a file.
//!
//! Liberal in the file: captures and AWS's own samples end lines of the head in a bare LF and may lack the
//! empty line behind it, editors add a line end behind the body. Strict in the request: what is read out of
//! the file passes the same parser and the same bounds as what comes over a connection.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memchr;

use crate::error::{Code, Rejection};
use crate::request::Head;
use crate::request::chunks;
use crate::request::head::{Framing, One, overflow};

/// A request read out of a file.
pub struct Capture<'a> {
    pub head: Head,
    /// Without its chunk framing.
    pub body: Cow<'a, [u8]>,
}

/// How large a request may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// `listen.header_bytes`
    pub header_bytes: u64,
    /// `listen.body_bytes`
    pub body_bytes: u64,
}

impl Bounds {
    /// More than any file that holds a request within the bounds, framed in chunks of one byte.
    pub fn file_bytes(self) -> u64 {
        self.header_bytes + 6 * self.body_bytes + 16 * 1024
    }
}

impl<'a> Capture<'a> {
    /// Reads the one request of a file.
    ///
    /// Its body is what `Content-Length` or the chunks say. Captures often lack both: then it is the rest of
    /// the file, whatever that is.
    ///
    /// # Errors
    /// `400`, `413`, `414` or `431`, as on a connection.
    pub fn read(file: &'a [u8], bounds: Bounds) -> Result<Self, Rejection> {
        if file.is_empty() {
            return Err(bad("the file is empty"));
        }
        let (head, rest) = split_head(file, bounds.header_bytes)?;
        let head = Head::parse(Bytes::from(head))?;
        let body = body(&head, rest, bounds.body_bytes)?;
        Ok(Self { head, body })
    }
}

/// The head with CRLF for every line end, its empty line included, and what is behind it.
fn split_head(file: &[u8], header_bytes: u64) -> Result<(Vec<u8>, &[u8]), Rejection> {
    let (mut head, mut rest, mut last) = (Vec::with_capacity(2048), file, false);
    while !last {
        let (line, after) = match memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at + 1)) {
            Some((line, after)) => (line.strip_suffix(b"\n").unwrap_or(line), after),
            None => (rest, &[][..]),
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
        if head.len() as u64 > header_bytes {
            return Err(overflow(&head));
        }
        (last, rest) = (line.is_empty(), after);
    }
    Ok((head, rest))
}

fn body<'a>(head: &Head, rest: &'a [u8], body_bytes: u64) -> Result<Cow<'a, [u8]>, Rejection> {
    let (body, behind) = match head.framing() {
        Framing::Chunked => {
            let decoded =
                chunks::decode(rest).map_err(|sloppy| bad(format!("malformed chunked body: {}", sloppy.0)))?;
            let (data, behind) = decoded.ok_or_else(|| bad("truncated: the last chunk is missing"))?;
            let behind = rest.get(rest.len() - behind..).unwrap_or_default();
            (Cow::Owned(data), behind)
        }
        Framing::Length(length) if length > body_bytes => return Err(too_large()),
        Framing::Length(length) => {
            let cut = || bad(format!("truncated: {} of the {length} bytes of Content-Length are there", rest.len()));
            let (body, behind) = rest.split_at_checked(length as usize).ok_or_else(cut)?;
            (Cow::Borrowed(body), behind)
        }
        Framing::None if head.one(b"content-length") == One::Absent => (Cow::Borrowed(rest), &[][..]),
        Framing::None => (Cow::Borrowed(&[][..]), rest),
    };
    if body.len() as u64 > body_bytes {
        return Err(too_large());
    }
    if !behind.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(bad(format!("{} bytes are behind the end of the body", behind.len())));
    }
    Ok(body)
}

fn bad(why: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection::new(Code::InvalidRequest, why)
}

fn too_large() -> Rejection {
    Rejection::new(Code::PayloadTooLarge, "body is over listen.body_bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { header_bytes: 1024, body_bytes: 64 };

    fn read(file: &str) -> Result<(String, Vec<u8>), String> {
        let capture = Capture::read(file.as_bytes(), BOUNDS).map_err(|refused| refused.why.into_owned())?;
        Ok((format!("{} {}", capture.head.method(), capture.head.target()), capture.body.into_owned()))
    }

    #[test]
    fn line_ends_of_the_head_are_free_and_those_of_the_body_are_its_own() {
        for end in ["\n", "\r\n"] {
            let file = format!("POST /a?b HTTP/1.1{end}Host: a{end}{end}one\r\ntwo\n");
            assert_eq!(read(&file), Ok(("POST /a?b".into(), b"one\r\ntwo\n".to_vec())));
        }
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\nA: b\r\n\nx"), Ok(("GET /".into(), b"x".to_vec())));
    }

    #[test]
    fn the_end_of_the_file_ends_a_head() {
        for file in ["GET / HTTP/1.1\nHost: a", "GET / HTTP/1.1\nHost: a\n", "GET / HTTP/1.1\nHost: a\n\n"] {
            assert_eq!(read(file), Ok(("GET /".into(), Vec::new())), "{file:?}");
        }
    }

    #[test]
    fn the_length_decides_what_is_body_and_only_line_ends_may_follow() {
        let post = |length: &str, rest: &str| read(&format!("POST / HTTP/1.1\nHost: a\n{length}\n\n{rest}"));
        let body = |body: &str| Ok(("POST /".to_owned(), body.as_bytes().to_vec()));
        assert_eq!(post("Content-Length: 3", "one"), body("one"));
        assert_eq!(post("Content-Length: 3", "one\r\n\n"), body("one"));
        assert_eq!(post("Content-Length: 4", "one\n"), body("one\n"));
        assert_eq!(post("Content-Length: 0", "\n"), body(""));
        assert_eq!(post("A: b", ""), body(""));
        assert_eq!(post("A: b", "\n"), body("\n"));
        let chunked = "Transfer-Encoding: chunked";
        assert_eq!(post(chunked, "3\r\none\r\n0\r\n\r\n"), body("one"));
        assert_eq!(post(chunked, "3\r\none\r\n0\r\n\r\n\n"), body("one"));
        for (length, rest, why) in [
            ("Content-Length: 4", "one", "truncated: 3 of the 4 bytes"),
            ("Content-Length: 3", "one ", "1 bytes are behind"),
            ("Content-Length: 0", "GET / HTTP/1.1", "bytes are behind"),
            (chunked, "3\r\none\r\n", "truncated: the last chunk"),
            (chunked, "3\none\n0\n\n", "malformed chunked body"),
            (chunked, "3\r\none\r\n0\r\n\r\nx", "1 bytes are behind"),
            ("Content-Length: 3\nContent-Length: 3", "one", "more than one Content-Length"),
            ("Content-Length: 3\nTransfer-Encoding: chunked", "one", "both Content-Length"),
        ] {
            let told = post(length, rest).expect_err(length);
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn the_front_door_s_rules_hold() {
        for file in [
            "",
            "\n",
            "\nGET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/2\nHost: a\n\n",
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\nHost: a\nHost: a\n\n",
            "GET / HTTP/1.1\nHost: a\nA: b\n folded\n\n",
            "GET / HTTP/1.1\nHost: a\nA: b\rc\n\n",
            "GET /a b HTTP/1.1\nHost: a\n\n",
            "GET http://b/ HTTP/1.1\nHost: a\n\n",
        ] {
            assert!(read(file).is_err(), "{file:?}");
        }
        assert!(read("GET http://a/ HTTP/1.1\nHost: a\n\n").is_ok());
    }

    #[test]
    fn the_configured_bounds_hold() {
        let code = |file: String| Capture::read(file.as_bytes(), BOUNDS).map(drop).map_err(|refused| refused.code);
        let head = |bytes: usize| format!("GET / HTTP/1.1\nHost: a\nA: {}\n\n", "b".repeat(bytes));
        let exact = BOUNDS.header_bytes as usize - head(0).len() - 4;
        assert_eq!(code(head(exact)), Ok(()), "each of four LF counts as CRLF");
        assert_eq!(code(head(exact + 1)), Err(Code::HeadersTooLarge));
        let body = |fields: &str, body: &str| format!("POST / HTTP/1.1\nHost: a\n{fields}\n{body}");
        assert_eq!(code(body("", &"b".repeat(64))), Ok(()));
        assert_eq!(code(body("", &"b".repeat(65))), Err(Code::PayloadTooLarge));
        assert_eq!(code(body("Content-Length: 65\n", "")), Err(Code::PayloadTooLarge));
        let chunked = |bytes: usize| body("Transfer-Encoding: chunked\n", &("1\r\nb\r\n".repeat(bytes) + "0\r\n\r\n"));
        assert_eq!(code(chunked(64)), Ok(()));
        assert_eq!(code(chunked(65)), Err(Code::PayloadTooLarge));
        assert!(chunked(64).len() as u64 + BOUNDS.header_bytes <= BOUNDS.file_bytes());
    }
}
