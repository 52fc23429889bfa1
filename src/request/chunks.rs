//! Chunked framing, checked byte for byte as it passes: of a client's body, and of Axon's.
//!
//! What two parsers read differently is how requests are smuggled, so sloppy framing is refused: white space
//! round sizes, for example, which Pingora's reader forgives. From Axon it would leave a connection in doubt.
//! Source: RFC 9112, section 7.1. Extensions are legal and ignored, trailers are legal and dropped, both
//! within a bound.

use crate::request::head::{is_token, is_value};

/// Most bytes of chunk extensions in one body.
const EXTENSION_BYTES_MAX: u32 = 1024;
/// Most bytes of trailers in one body.
const TRAILER_BYTES_MAX: u32 = 4096;

/// Where in the framing the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size { digits: u8, value: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Done,
}

/// Follows one chunked body.
#[derive(Debug, Clone, Copy)]
pub struct ChunkAudit {
    at: At,
    extensions: u32,
    trailers: u32,
}

/// What some bytes of a body begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Bytes of framing.
    pub framing: usize,
    /// Bytes of data behind them, as far as they are here.
    pub data: usize,
}

impl Default for ChunkAudit {
    fn default() -> Self {
        Self::new()
    }
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sloppy(pub &'static str);

impl ChunkAudit {
    /// Before the first byte of the body.
    pub fn new() -> Self {
        Self { at: At::Size { digits: 0, value: 0 }, extensions: 0, trailers: 0 }
    }

    /// Whether the body has ended.
    pub fn done(&self) -> bool {
        self.at == At::Done
    }

    /// Checks the next bytes, hands out the data between the framing, and says how many bytes are behind the end of
    /// the body; those are not looked at.
    ///
    /// # Errors
    /// [`Sloppy`] at the first byte that is not strictly well formed.
    pub fn follow(&mut self, mut bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Sloppy> {
        while !bytes.is_empty() && !self.done() {
            let part = self.next(bytes)?;
            let rest = bytes.get(part.framing..).unwrap_or_default();
            let (own, behind) = rest.split_at_checked(part.data).unwrap_or((rest, &[]));
            data(own);
            bytes = behind;
        }
        Ok(bytes.len())
    }

    /// Follows the framing that the next bytes begin with and the data behind it, to the end of one chunk at
    /// most. What comes after that is for the next call; behind the end of the body there is nothing.
    ///
    /// # Errors
    /// [`Sloppy`] at the first byte that is not strictly well formed.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Part, Sloppy> {
        let mut framing = 0;
        while let Some(&byte) = bytes.get(framing) {
            if let At::Data { left } = self.at {
                let data = left.min((bytes.len() - framing) as u64);
                self.at = if data == left { At::DataCr } else { At::Data { left: left - data } };
                return Ok(Part { framing, data: data as usize });
            }
            if self.done() {
                break;
            }
            self.at = self.after(byte)?;
            framing += 1;
        }
        Ok(Part { framing, data: 0 })
    }

    /// Where a byte of framing leads.
    fn after(&mut self, byte: u8) -> Result<At, Sloppy> {
        Ok(match (self.at, byte) {
            (At::Size { digits, value }, _) if byte.is_ascii_hexdigit() => {
                if digits == 15 {
                    return Err(Sloppy("chunk size is too long"));
                }
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                At::Size { digits: digits + 1, value: value << 4 | digit }
            }
            (At::Size { digits: 1.., value }, b'\r') => At::SizeLf { size: value },
            (At::Size { digits: 1.., value }, b';') => At::Extension { size: value },
            (At::Size { .. }, _) => return Err(Sloppy("chunk size is not plain hexadecimal")),
            (At::Extension { size }, b'\r') => At::SizeLf { size },
            (At::Extension { size }, b'\t' | 0x20..=0x7e) => {
                self.extensions += 1;
                if self.extensions > EXTENSION_BYTES_MAX {
                    return Err(Sloppy("chunk extensions are too long"));
                }
                At::Extension { size }
            }
            (At::Extension { .. }, _) => return Err(Sloppy("control character in a chunk extension")),
            (At::SizeLf { size: 0 }, b'\n') => At::TrailerStart,
            (At::SizeLf { size }, b'\n') => At::Data { left: size },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { digits: 0, value: 0 },
            (At::DataCr | At::DataLf, _) => return Err(Sloppy("chunk data is longer than its size")),
            (At::TrailerStart, b'\r') => At::FinalLf,
            (At::TrailerName, b':') => self.trailer(At::TrailerValue)?,
            (At::TrailerStart | At::TrailerName, _) if is_token(byte) => self.trailer(At::TrailerName)?,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, _) if is_value(byte) => self.trailer(At::TrailerValue)?,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::FinalLf, b'\n') => At::Done,
            (At::SizeLf { .. } | At::TrailerLf | At::FinalLf, _) => return Err(Sloppy("lines must end in CRLF")),
            (At::TrailerStart | At::TrailerName | At::TrailerValue, _) => return Err(Sloppy("malformed trailer")),
            // Neither is framing: `next` stops before it.
            (At::Data { .. } | At::Done, _) => return Err(Sloppy("bytes that are no framing")),
        })
    }

    fn trailer(&mut self, next: At) -> Result<At, Sloppy> {
        self.trailers += 1;
        if self.trailers > TRAILER_BYTES_MAX { Err(Sloppy("trailers are too long")) } else { Ok(next) }
    }
}

/// The data of a chunked body that is there whole, and how many bytes are behind its end; `None` if the end is
/// missing.
///
/// # Errors
/// [`Sloppy`] at the first byte that is not strictly well formed.
pub fn decode(body: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Sloppy> {
    let (mut audit, mut data) = (ChunkAudit::new(), Vec::with_capacity(body.len()));
    let behind = audit.follow(body, |part| data.extend_from_slice(part))?;
    Ok(audit.done().then_some((data, behind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed whole and byte by byte; both must agree.
    fn feed(body: &[u8]) -> Result<bool, Sloppy> {
        let mut whole = ChunkAudit::new();
        let verdict = whole.follow(body, |_| {}).map(|_| whole.done());
        let mut single = ChunkAudit::new();
        let bytewise = body.iter().try_for_each(|b| single.follow(&[*b], |_| {}).map(drop)).map(|()| single.done());
        assert_eq!(verdict, bytewise, "{:?}", String::from_utf8_lossy(body));
        verdict
    }

    #[test]
    fn strict_framing_passes() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
            "05\r\nhello\r\n0\r\n\r\n",
            "5;a=\"b\"\r\nhello\r\n0\r\n\r\n",
            "0\r\nExpires: never\r\nX: y\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
        ] {
            assert_eq!(feed(body.as_bytes()), Ok(true), "{body:?}");
        }
        assert_eq!(feed(b"5\r\nhel"), Ok(false));
        assert_eq!(ChunkAudit::new().follow(b"1\r\nx\r\n0\r\n\r\nGET /", |_| {}), Ok(5));
    }

    #[test]
    fn a_whole_body_gives_its_data() {
        let decoded = |body: &str| decode(body.as_bytes()).map(|found| found.map(|(data, n)| (data.len(), n)));
        assert_eq!(decode(b"2;x\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n\n"), Ok(Some((b"hello".to_vec(), 1))));
        assert_eq!(decoded("0\r\n\r\n"), Ok(Some((0, 0))));
        for cut in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\n\r"] {
            assert_eq!(decoded(cut), Ok(None), "{cut:?}");
        }
        assert!(decode(b"5\nhello\n0\n\n").is_err());
    }

    #[test]
    fn sloppy_framing_does_not() {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            ";a\r\n\r\n",
            "-1\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n: b\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "5\r\rhello\r\n",
        ] {
            assert!(feed(body.as_bytes()).is_err(), "{body:?}");
        }
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(EXTENSION_BYTES_MAX as usize + 1));
        assert!(feed(long.as_bytes()).is_err());
        let long = format!("0\r\nA: {}\r\n\r\n", "a".repeat(TRAILER_BYTES_MAX as usize));
        assert!(feed(long.as_bytes()).is_err());
    }
}
