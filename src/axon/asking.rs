//! What Axon is asked: a request, as HTTP/1.1 writes it.
//!
//! Its head is text from the start, in the buffer that leaves in one write. Whoever needs its fields one by
//! one, to sign them or to send them over HTTP/2, reads them out of that text again: so they are written in
//! one place, and a request that nobody signs pays for nothing but the writing.
//!
//! Invariant: what a value holds cannot end its line.

use std::fmt::Write;
use std::net::IpAddr;

use arrayvec::ArrayString;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use memchr::memchr3;

/// Largest body that is copied behind its head.
const SMALL_BODY_BYTES: usize = 16 * 1024;
/// Room for a usual head.
const HEAD_BYTES_USUAL: usize = 640;

/// Longest text of an IP address.
const ADDRESS_BYTES_MAX: usize = 45;

/// A request to one backend.
pub struct Asking<'a> {
    pub method: Method,
    pub target: &'a Uri,
    /// The value of `Host`.
    pub authority: &'a HeaderValue,
    pub body: Bytes,
    /// The head without its last blank line.
    head: Vec<u8>,
    /// Where the fields begin that come after `Host`.
    fields: usize,
}

/// A value that cannot stand in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlCharacter;

impl<'a> Asking<'a> {
    /// Begins a request. Nothing but `Host` is in its head; the length of its body is the caller's to add.
    pub fn new(method: Method, target: &'a Uri, authority: &'a HeaderValue, body: Bytes) -> Self {
        let room = if body.len() <= SMALL_BODY_BYTES { body.len() } else { 0 };
        let mut head = Vec::with_capacity(HEAD_BYTES_USUAL + room);
        let path = target.path_and_query().map_or("/", |target| target.as_str());
        for part in [method.as_str(), " ", path, " HTTP/1.1\r\nhost: "] {
            head.extend_from_slice(part.as_bytes());
        }
        head.extend_from_slice(authority.as_bytes());
        head.extend_from_slice(b"\r\n");
        let fields = head.len();
        Self { method, target, authority, body, head, fields }
    }

    /// Adds a field. `name` is a token in lower case, here as in all that follows.
    ///
    /// # Errors
    /// [`ControlCharacter`], when the value would not end where it should.
    pub fn add(&mut self, name: &str, value: &[u8]) -> Result<(), ControlCharacter> {
        if memchr3(b'\r', b'\n', b'\0', value).is_some() {
            return Err(ControlCharacter);
        }
        self.write(name, value);
        Ok(())
    }

    /// Adds a field whose value is known to be one.
    pub fn add_value(&mut self, name: &str, value: &HeaderValue) {
        self.write(name, value.as_bytes());
    }

    /// Adds a field whose value is a number.
    pub fn add_number(&mut self, name: &str, value: usize) {
        self.write(name, itoa::Buffer::new().format(value).as_bytes());
    }

    /// Adds a field whose value is an address.
    pub fn add_address(&mut self, name: &str, value: IpAddr) {
        let mut text = ArrayString::<ADDRESS_BYTES_MAX>::new();
        // There is room for every address.
        match value {
            // The digits alone are a tenth of what `Display` does for every width.
            IpAddr::V4(v4) => {
                for (at, octet) in v4.octets().into_iter().enumerate() {
                    let _ = text.try_push_str(if at == 0 { "" } else { "." });
                    let _ = text.try_push_str(itoa::Buffer::new().format(octet));
                }
            }
            IpAddr::V6(v6) => drop(write!(text, "{v6}")),
        }
        self.write(name, text.as_bytes());
    }

    fn write(&mut self, name: &str, value: &[u8]) {
        self.head.reserve(name.len() + value.len() + 4);
        self.head.extend_from_slice(name.as_bytes());
        self.head.extend_from_slice(b": ");
        self.head.extend_from_slice(value);
        self.head.extend_from_slice(b"\r\n");
    }

    /// The fields in the order in which they were added, without `Host`.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let lines = self.head.get(self.fields..).unwrap_or_default().split(|byte| *byte == b'\n');
        lines.filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((std::str::from_utf8(line.get(..colon)?).ok()?, line.get(colon + 2..)?))
        })
    }

    /// The fields as HTTP/2 takes them, without `Host`.
    ///
    /// # Errors
    /// `http`'s, for a name or value that cannot stand in a field.
    pub fn headers(&self) -> Result<HeaderMap, http::Error> {
        let mut headers = HeaderMap::with_capacity(16);
        for (name, value) in self.fields() {
            headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(value)?);
        }
        Ok(headers)
    }

    /// The bytes of the request: its head, with a body that is small behind it, and the body if it is not.
    pub fn into_bytes(self) -> (Vec<u8>, Bytes) {
        let Self { mut head, body, .. } = self;
        head.extend_from_slice(b"\r\n");
        if body.len() > SMALL_BODY_BYTES {
            return (head, body);
        }
        head.extend_from_slice(&body);
        (head, Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(asking: Asking<'_>) -> (String, Bytes) {
        let (head, body) = asking.into_bytes();
        (String::from_utf8(head).expect("text"), body)
    }

    fn asking(body: &'static [u8]) -> Asking<'static> {
        static AXON: HeaderValue = HeaderValue::from_static("axon:80");
        static TARGET: std::sync::LazyLock<Uri> = std::sync::LazyLock::new(|| Uri::from_static("/a?b=c"));
        Asking::new(Method::POST, &TARGET, &AXON, Bytes::from_static(body))
    }

    #[test]
    fn a_small_body_stands_behind_its_head_and_a_large_one_beside_it() {
        let mut small = asking(b"{}");
        small.add("x-a", b"b").expect("a field");
        small.add_number("content-length", 2);
        let head = "POST /a?b=c HTTP/1.1\r\nhost: axon:80\r\n";
        assert_eq!(text(small), (format!("{head}x-a: b\r\ncontent-length: 2\r\n\r\n{{}}"), Bytes::new()));
        const LARGE: &[u8] = &[b'x'; SMALL_BODY_BYTES + 1];
        assert_eq!(text(asking(LARGE)), (format!("{head}\r\n"), Bytes::from_static(LARGE)));
    }

    #[test]
    fn fields_are_read_as_they_were_added() {
        let mut asking = asking(b"");
        let given = [("x-a", &b"b"[..]), ("x-a", b"c: d"), ("x-empty", b""), ("x-old", b"gr\xfcn\t\"")];
        for (name, value) in given {
            asking.add(name, value).expect("a field");
        }
        assert_eq!(asking.fields().collect::<Vec<_>>(), given);
        let headers = asking.headers().expect("fields");
        assert_eq!((headers.len(), headers.get_all("x-a").iter().count()), (4, 2));
    }

    #[test]
    fn no_value_ends_its_line() {
        for value in [&b"a\r\nb: c"[..], b"a\nb", b"a\rb", b"a\0", b"\n"] {
            let mut asking = asking(b"");
            assert_eq!(asking.add("x", value), Err(ControlCharacter), "{value:?}");
            assert_eq!(asking.fields().count(), 0);
        }
    }

    #[test]
    fn addresses_are_written_as_rust_writes_them() {
        for address in
            ["0.0.0.0", "127.0.0.1", "255.255.255.255", "10.20.3.4", "::1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]
        {
            let address: IpAddr = address.parse().expect("an address");
            let mut asking = asking(b"");
            asking.add_address("x", address);
            assert_eq!(asking.fields().collect::<Vec<_>>(), [("x", address.to_string().as_bytes())]);
        }
    }
}
