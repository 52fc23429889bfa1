//! The body of an HTTP/1 answer: how far it still goes, and which of the bytes that were read are its data.
//!
//! Invariant: what is behind its end is left where it is, so that it can be seen that something is.
//! Source: RFC 9112, sections 6.3 and 7.1.

use bytes::{Buf, Bytes, BytesMut};

use crate::flow::first;
use crate::request::chunks::{ChunkAudit, Sloppy};

/// How far the body still goes.
#[derive(Debug)]
pub enum Body {
    Ended,
    /// So many bytes, at least one.
    Length {
        left: u64,
    },
    Chunks(ChunkAudit),
    /// As far as the connection goes.
    UntilEnd,
}

impl Body {
    pub fn of_length(length: u64) -> Self {
        if length == 0 { Self::Ended } else { Self::Length { left: length } }
    }

    pub fn chunked() -> Self {
        Self::Chunks(ChunkAudit::new())
    }

    /// Whether nothing more comes. One of unknown length may tell it only when more is asked for.
    pub fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Bytes that are still to come, where that is known.
    pub fn announced_length(&self) -> Option<u64> {
        match self {
            Self::Ended => Some(0),
            Self::Length { left } => Some(*left),
            Self::Chunks(_) | Self::UntilEnd => None,
        }
    }

    /// The next data among the bytes that were `read`, which keep what comes after it. Without any, all that
    /// was read of the body has been given.
    ///
    /// # Errors
    /// [`Sloppy`]; where the body ends cannot be known.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Option<Bytes>, Sloppy> {
        if read.is_empty() {
            return Ok(None);
        }
        match self {
            Self::Ended => Ok(None),
            Self::UntilEnd => Ok(Some(std::mem::take(read).freeze())),
            Self::Length { left } => {
                let own = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                *left -= own as u64;
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(Some(first(read, own)))
            }
            Self::Chunks(audit) => {
                while !read.is_empty() && !audit.done() {
                    let part = audit.next(read)?;
                    read.advance(part.framing);
                    if part.data > 0 {
                        let data = first(read, part.data);
                        self.end_if_here(read);
                        return Ok(Some(data));
                    }
                }
                if audit.done() {
                    *self = Self::Ended;
                }
                Ok(None)
            }
        }
    }

    /// Sees the last chunk, if all of it is here. What is wrong with it is told when more is asked for.
    fn end_if_here(&mut self, read: &mut BytesMut) {
        let Self::Chunks(audit) = self else { return };
        let mut ahead = *audit;
        if let Ok(part) = ahead.next(read)
            && ahead.done()
        {
            read.advance(part.framing);
            *self = Self::Ended;
        }
    }

    /// The connection has ended; says whether that is the end of the body.
    pub fn end(&mut self) -> bool {
        let ends = matches!(self, Self::Ended | Self::UntilEnd);
        if ends {
            *self = Self::Ended;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body gives, piece by piece as it is read, then what it leaves; or what is wrong with it.
    fn read(mut body: Body, pieces: impl Iterator<Item = Vec<u8>>) -> Result<(Vec<u8>, bool, Vec<u8>), Sloppy> {
        let (mut read, mut data) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            read.extend_from_slice(&piece);
            while let Some(part) = body.take(&mut read)? {
                assert!(!part.is_empty(), "an empty part is none");
                data.extend_from_slice(&part);
            }
        }
        Ok((data, body.is_end_stream(), read.to_vec()))
    }

    /// Whole and byte by byte; both must agree.
    fn both(body: fn() -> Body, bytes: &str) -> Result<(String, bool, String), Sloppy> {
        let whole = read(body(), [bytes.as_bytes().to_vec()].into_iter());
        let bytewise = read(body(), bytes.bytes().map(|byte| vec![byte]));
        assert_eq!(whole, bytewise, "{bytes:?}");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        whole.map(|(data, ended, rest)| (text(data), ended, text(rest)))
    }

    #[test]
    fn each_framing_ends_where_it_ends() {
        let five = || Body::of_length(5);
        let none = || Body::of_length(0);
        let until_end = || Body::UntilEnd;
        for (body, bytes, data, ended, rest) in [
            (five as fn() -> Body, "hello", "hello", true, ""),
            (five, "hello, world", "hello", true, ", world"),
            (five, "hel", "hel", false, ""),
            (none, "", "", true, ""),
            (none, "more", "", true, "more"),
            (until_end, "hello", "hello", false, ""),
            (Body::chunked, "5\r\nhello\r\n0\r\n\r\n", "hello", true, ""),
            (Body::chunked, "5;a=b\r\nhello\r\n02\r\n, \r\n0\r\nX: y\r\n\r\nmore", "hello, ", true, "more"),
            (Body::chunked, "0\r\n\r\n0\r\n\r\n", "", true, "0\r\n\r\n"),
            (Body::chunked, "5\r\nhello\r\n", "hello", false, ""),
            (Body::chunked, "5\r\nhello\r\n0\r\n", "hello", false, ""),
        ] {
            assert_eq!(both(body, bytes), Ok((data.to_owned(), ended, rest.to_owned())), "{bytes:?}");
        }
        for sloppy in ["5\nhello\r\n0\r\n\r\n", "5\r\nhello!\r\n", "zz\r\n", "5\r\nhello\r\n0\r\nX\r\n\r\n", "-1\r\n"] {
            assert!(both(Body::chunked, sloppy).is_err(), "{sloppy:?}");
        }
    }

    #[test]
    fn what_comes_before_a_fault_is_given_first() {
        let (mut body, mut read) = (Body::chunked(), BytesMut::from("2\r\nhe\r\n3\r\nllo\r\nzz\r\n"));
        assert_eq!(body.take(&mut read), Ok(Some(Bytes::from("he"))));
        assert_eq!(body.take(&mut read), Ok(Some(Bytes::from("llo"))));
        body.take(&mut read).expect_err("no size");
    }

    #[test]
    fn a_whole_body_ends_with_its_last_part() {
        let (mut body, mut read) = (Body::chunked(), BytesMut::from("2\r\nhe\r\n0\r\n\r\n"));
        assert_eq!(body.take(&mut read), Ok(Some(Bytes::from("he"))));
        assert!(body.is_end_stream() && read.is_empty());
    }

    #[test]
    fn the_end_of_the_connection_ends_only_what_has_no_other_end() {
        assert!(Body::UntilEnd.end() && Body::Ended.end());
        assert!(!Body::of_length(1).end() && !Body::chunked().end());
    }
}
