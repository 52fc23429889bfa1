//! The body of `POST /dispatch`: what Orbit reads of it, and what it refuses.
//!
//! Only `intent` and `context` are read; other members pass through. The bytes that Axon gets are the
//! bytes that were signed, so whatever a later parser could read differently is refused here: members
//! that appear twice, text that is not UTF-8, nesting that would exhaust a stack.
//!
//! Invariant: a refusal names a field and a fixed sentence, never a byte of the body.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::Rejection;

/// Longest intent, in bytes after its escapes are resolved.
pub const INTENT_BYTES_MAX: usize = 256;
/// Most arrays and objects open at once, the body's own object included. Half of serde_json's own limit,
/// so that no parser of ours fails on depth that was let through here.
pub const DEPTH_MAX: usize = 64;

/// A dispatch whose shape is right. `context` is a JSON object by syntax; its inside is not yet checked.
pub struct Dispatch<'a> {
    /// Passes [`is_intent`].
    pub intent: Cow<'a, str>,
    pub context: Option<&'a RawValue>,
}

impl<'a> Dispatch<'a> {
    /// Reads a whole body.
    ///
    /// `context` may be absent but not `null`: the contract says object, and a refusal can be relaxed
    /// within a major version where an acceptance could never be withdrawn.
    ///
    /// # Errors
    /// `400` with field `body`, `intent` or `context`; what is wrong with the body as a whole comes first.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        let text = std::str::from_utf8(body).map_err(|_| Rejection::field("body", "must be UTF-8"))?;
        // Before any parser sees it: the guard must not rely on how a parser recurses.
        if nests_too_deeply(text) {
            return Err(Rejection::field("body", "is nested too deeply"));
        }
        let members: Members<'a> = serde_json::from_str(text).map_err(|error| not_an_object(&error))?;
        Ok(Self { intent: intent(members.intent)?, context: context(members.context)? })
    }
}

impl fmt::Debug for Dispatch<'_> {
    /// Leaves the context out: body content is never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").field("intent", &self.intent).finish_non_exhaustive()
    }
}

/// Whether a request can carry `text` as its intent: 1 to [`INTENT_BYTES_MAX`] bytes, no control characters.
pub fn is_intent(text: &str) -> bool {
    !text.is_empty() && text.len() <= INTENT_BYTES_MAX && !text.contains(char::is_control)
}

/// Whether `json` opens more than [`DEPTH_MAX`] arrays and objects at once.
///
/// For text that is not JSON the answer means nothing, but is given in one pass and constant memory.
pub fn nests_too_deeply(json: &str) -> bool {
    // Too few openings to nest so deep, strings and all: settles every ordinary body at vector speed.
    if memchr::memchr2_iter(b'[', b'{', json.as_bytes()).nth(DEPTH_MAX).is_none() {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' if depth == DEPTH_MAX => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A member name, escapes resolved; borrowed where there are none.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Name<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// A member that may stand once.
#[derive(Clone, Copy)]
enum Once<'a> {
    Absent,
    Present(&'a RawValue),
    Repeated,
    /// It, or another beside it, is written with capitals.
    Cased,
}

impl<'a> Once<'a> {
    fn and(self, value: &'a RawValue) -> Self {
        match self {
            Once::Absent => Once::Present(value),
            Once::Present(_) | Once::Repeated => Once::Repeated,
            Once::Cased => Once::Cased,
        }
    }
}

/// The two members, before anything is asked of their values.
struct Members<'a> {
    intent: Once<'a>,
    context: Once<'a>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members { intent: Once::Absent, context: Once::Absent };
                while let Some(Name(name)) = map.next_key()? {
                    match &*name {
                        "intent" => members.intent = members.intent.and(map.next_value()?),
                        "context" => members.context = members.context.and(map.next_value()?),
                        // A reader that ignores case would take it for the member that was governed.
                        other if other.eq_ignore_ascii_case("intent") => {
                            map.next_value::<IgnoredAny>()?;
                            members.intent = Once::Cased;
                        }
                        other if other.eq_ignore_ascii_case("context") => {
                            map.next_value::<IgnoredAny>()?;
                            members.context = Once::Cased;
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

fn intent(member: Once<'_>) -> Result<Cow<'_, str>, Rejection> {
    let bad = |issue| Err(Rejection::field("intent", issue));
    let json = match member {
        Once::Absent => return bad("required field missing"),
        Once::Repeated => return bad("must appear only once"),
        Once::Cased => return bad("must be written in lower case"),
        Once::Present(raw) => raw.get(),
    };
    if !json.starts_with('"') {
        return bad("must be a non-empty string");
    }
    match serde_json::from_str(json) {
        Ok(Name(text)) if is_intent(&text) => Ok(text),
        Ok(Name(text)) if text.is_empty() => bad("must be a non-empty string"),
        Ok(Name(text)) if text.len() > INTENT_BYTES_MAX => bad("must be at most 256 bytes"),
        Ok(_) => bad("must not contain control characters"),
        // The syntax was checked with the body; what is left to fail is half a surrogate pair.
        Err(_) => bad("must be valid Unicode"),
    }
}

fn context(member: Once<'_>) -> Result<Option<&RawValue>, Rejection> {
    match member {
        Once::Absent => Ok(None),
        Once::Repeated => Err(Rejection::field("context", "must appear only once")),
        Once::Cased => Err(Rejection::field("context", "must be written in lower case")),
        Once::Present(raw) if raw.get().starts_with('{') => Ok(Some(raw)),
        Once::Present(_) => Err(Rejection::field("context", "must be an object")),
    }
}

/// Position and kind go to the log. serde_json's own message may quote the body, so it goes nowhere.
fn not_an_object(error: &serde_json::Error) -> Rejection {
    let (line, column, kind) = (error.line(), error.column(), error.classify());
    let why = format!("body is not a JSON object: {kind:?} error at line {line} column {column}");
    Rejection { why: why.into(), ..Rejection::field("body", "must be a JSON object") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Details};

    fn refusal(body: &[u8]) -> (&'static str, &'static str) {
        let shown = String::from_utf8_lossy(body.get(..body.len().min(80)).unwrap_or_default()).into_owned();
        let rejection = Dispatch::parse(body).expect_err(&shown);
        assert_eq!(rejection.code, Code::InvalidRequest, "{shown}");
        match rejection.details {
            Details::Field { field, issue } => (field, issue),
            other => panic!("{shown}: {other:?}"),
        }
    }

    #[test]
    fn the_contracts_example_is_read_without_copying() {
        let body = br#"{"intent":"call_reasoning","context":{"user_id":"user123","request_id":"req456"}}"#;
        let dispatch = Dispatch::parse(body).expect("valid");
        assert!(matches!(dispatch.intent, Cow::Borrowed("call_reasoning")));
        assert_eq!(dispatch.context.map(RawValue::get), Some(r#"{"user_id":"user123","request_id":"req456"}"#));
    }

    #[test]
    fn accepted_shapes() {
        for (body, intent, context) in [
            (r#"{"intent":"a"}"#, "a", None),
            (" {\r\n\t\"intent\" : \"a\" , \"context\" : { } } \n", "a", Some("{ }")),
            (r#"{"context":{"a":[1]},"intent":"a"}"#, "a", Some(r#"{"a":[1]}"#)),
            (r#"{"x":{"intent":"b"},"intent":"a","x":[1e999,{"y":null}]}"#, "a", None),
            (r#"{"int\u0065nt":"\u0061\/\"\ud83d\ude00"}"#, "a/\"\u{1f600}", None),
            (r#"{"intents":"b","intent":"é"}"#, "é", None),
        ] {
            let dispatch = Dispatch::parse(body.as_bytes()).expect(body);
            assert_eq!((&*dispatch.intent, dispatch.context.map(RawValue::get)), (intent, context), "{body}");
        }
    }

    #[test]
    fn bodies_that_are_no_object() {
        for body in [
            &b""[..],
            b" ",
            b"null",
            b"[]",
            b"\"intent\"",
            b"1",
            b"{",
            b"{\"intent\":\"a\"",
            b"{\"intent\":\"a\"}}",
            b"{\"intent\":\"a\"} x",
            b"{\"intent\":\"a\"}{\"intent\":\"b\"}",
            b"{\"intent\":\"a\",}",
            b"{'intent':'a'}",
            b"{intent:\"a\"}",
            b"{\"intent\":\"a\n\"}",
            b"{\"intent\":\"\\x61\"}",
            b"{\"intent\":\"a\" \"x\":1}",
            b"{\"intent\":\"a\",\"x\":01}",
            b"{\"intent\":\"a\",\"x\":NaN}",
            b"{\"intent\":\"a\",\"\\ud800\":1}",
            b"{\"intent\":\"a\"/**/}",
            b"{\"intent\":\"a\",\"context\":{\"a\":}}",
            b"\xef\xbb\xbf{\"intent\":\"a\"}",
            b"{\"intent\":\"a\"}\0",
        ] {
            assert_eq!(refusal(body), ("body", "must be a JSON object"));
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_wherever_it_stands() {
        for body in [
            &b"{\"intent\":\"\xff\"}"[..],
            b"{\"intent\":\"a\",\"x\":\"\xed\xa0\x80\"}",
            b"{\"intent\":\"a\",\"context\":{\"\xc0\xaf\":1}}",
            b"{\"intent\":\"a\"}\x80",
        ] {
            assert_eq!(refusal(body), ("body", "must be UTF-8"));
        }
    }

    #[test]
    fn fields_that_are_wrong() {
        let long = format!(r#"{{"intent":"{}"}}"#, "a".repeat(INTENT_BYTES_MAX + 1));
        for (body, field, issue) in [
            ("{}", "intent", "required field missing"),
            (r#"{"Intent":"a"}"#, "intent", "must be written in lower case"),
            (r#"{"context":null}"#, "intent", "required field missing"),
            (r#"{"intent":""}"#, "intent", "must be a non-empty string"),
            (r#"{"intent":null}"#, "intent", "must be a non-empty string"),
            (r#"{"intent":1}"#, "intent", "must be a non-empty string"),
            (r#"{"intent":["a"]}"#, "intent", "must be a non-empty string"),
            (r#"{"intent":{"a":"b"}}"#, "intent", "must be a non-empty string"),
            (&long, "intent", "must be at most 256 bytes"),
            (r#"{"intent":"a\nb"}"#, "intent", "must not contain control characters"),
            (r#"{"intent":"\u0000"}"#, "intent", "must not contain control characters"),
            (r#"{"intent":"\u0085"}"#, "intent", "must not contain control characters"),
            (r#"{"intent":"\ud800"}"#, "intent", "must be valid Unicode"),
            (r#"{"intent":"\ude00\ud83d"}"#, "intent", "must be valid Unicode"),
            (r#"{"intent":"a","intent":"a"}"#, "intent", "must appear only once"),
            (r#"{"intent":"a","int\u0065nt":"b"}"#, "intent", "must appear only once"),
            (r#"{"intent":"a","context":{},"context":{}}"#, "context", "must appear only once"),
            (r#"{"intent":"a","Intent":"b"}"#, "intent", "must be written in lower case"),
            (r#"{"INTENT":"b","intent":"a"}"#, "intent", "must be written in lower case"),
            (r#"{"intent":"a","Context":{}}"#, "context", "must be written in lower case"),
            (r#"{"intent":"a","context":{},"context":null}"#, "context", "must appear only once"),
            (r#"{"intent":"a","context":null}"#, "context", "must be an object"),
            (r#"{"intent":"a","context":[]}"#, "context", "must be an object"),
            (r#"{"intent":"a","context":"{}"}"#, "context", "must be an object"),
            (r#"{"intent":"a","context":1}"#, "context", "must be an object"),
        ] {
            assert_eq!(refusal(body.as_bytes()), (field, issue), "{body}");
        }
        let longest = format!(r#"{{"intent":"{}"}}"#, "a".repeat(INTENT_BYTES_MAX));
        assert!(Dispatch::parse(longest.as_bytes()).is_ok());
    }

    #[test]
    fn nesting_is_bounded_wherever_it_stands() {
        let mebi = 1 << 20;
        for body in [
            "[".repeat(mebi),
            format!("{{\"intent\":{}", "[".repeat(mebi)),
            format!("{{\"intent\":\"a\",\"context\":{}", "{\"a\":".repeat(mebi / 5)),
            format!("{{\"intent\":\"a\",\"x\":{}{}}}", "[".repeat(mebi / 2), "]".repeat(mebi / 2)),
            format!("{{\"intent\":\"a\",\"context\":{{\"a\":{}{}}}}}", "[".repeat(mebi / 2), "]".repeat(mebi / 2)),
        ] {
            assert_eq!(refusal(body.as_bytes()), ("body", "is nested too deeply"));
        }
    }

    #[test]
    fn the_depth_limit_is_exact_and_sees_strings() {
        let nested = |levels: usize| format!("{{\"intent\":\"a\",\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(Dispatch::parse(nested(DEPTH_MAX - 1).as_bytes()).is_ok());
        assert_eq!(refusal(nested(DEPTH_MAX).as_bytes()), ("body", "is nested too deeply"));

        let wide = format!("{{\"intent\":\"a\",\"x\":[{}1]}}", "[{}],".repeat(10_000));
        assert!(Dispatch::parse(wide.as_bytes()).is_ok());
        let quoted = format!(r#"{{"intent":"a","x":"\"{}\\"}}"#, "[".repeat(1000));
        assert!(Dispatch::parse(quoted.as_bytes()).is_ok());
        // A string that ends in an escaped backslash must not hide the nesting behind it.
        let behind = format!(r#"{{"intent":"a","y":"\\","x":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(refusal(behind.as_bytes()), ("body", "is nested too deeply"));
    }

    #[test]
    fn nothing_of_the_body_is_repeated() {
        for body in [&br#"{"intent":"s3cret\n"}"#[..], br#"["s3cret"]"#, br#""s3cret""#, br#"{"s3cret":tru}"#] {
            let rejection = Dispatch::parse(body).expect_err("refused");
            assert!(!format!("{rejection:?}").contains("s3cret"), "{rejection:?}");
        }
        let dispatch = Dispatch::parse(br#"{"intent":"a","context":{"k":"s3cret"}}"#).expect("valid");
        assert!(!format!("{dispatch:?}").contains("s3cret"));
    }
}
