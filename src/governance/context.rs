//! The facts of a request that policies ask about: the members of its `context` object.
//!
//! Everything is checked when the context is read, so that whether a request is well formed never
//! depends on which policy it meets. What is kept is where each member lies; values are read again,
//! without a tree, when a condition asks.
//!
//! Invariant: no object in a context names a member twice. Policies and Axon would otherwise be free to
//! pick different ones.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::condition::Number;
use crate::request::dispatch::{Name, nests_too_deeply};

/// The members of a `context` object.
#[derive(Default)]
pub struct Context<'a> {
    /// In the order received up to [`SCANNED_MAX`] members, sorted by name beyond.
    members: Vec<Member<'a>>,
}

/// Why a context cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextError {
    NotAnObject,
    /// Some object in it, at any depth, names a member twice.
    RepeatedMember,
    TooDeep,
    /// Half a surrogate pair, or a number beyond the range of a double.
    Unrepresentable,
}

/// A member's value: scalars read, arrays and objects as they stand.
#[derive(Debug)]
pub(super) enum Fact<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(&'a str),
    Object(&'a str),
}

impl<'a> Context<'a> {
    /// Reads the `context` of a dispatch; an absent one has no members.
    ///
    /// # Errors
    /// The caller answers `400` with field `context` and [`ContextError::issue`].
    pub fn parse(context: Option<&'a RawValue>) -> Result<Self, ContextError> {
        let Some(json) = context.map(RawValue::get) else { return Ok(Self::default()) };
        if !json.starts_with('{') {
            return Err(ContextError::NotAnObject);
        }
        if nests_too_deeply(json) {
            return Err(ContextError::TooDeep);
        }
        let failure = Cell::new(None);
        let mut members = serde_json::Deserializer::from_str(json)
            .deserialize_map(Collect { failure: &failure })
            .map_err(|_| failure.get().unwrap_or(ContextError::Unrepresentable))?;
        if members.len() > SCANNED_MAX {
            members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            if !members.is_sorted_by(|a, b| a.name < b.name) {
                return Err(ContextError::RepeatedMember);
            }
        }
        Ok(Self { members })
    }

    /// A member's value as it was sent.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        if self.members.len() > SCANNED_MAX {
            let at = self.members.binary_search_by(|m| (*m.name).cmp(name)).ok()?;
            return self.members.get(at).map(|m| m.value);
        }
        self.members.iter().find(|m| m.name == name).map(|m| m.value)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl fmt::Debug for Context<'_> {
    /// Counts instead of showing: body content is never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("members", &self.members.len()).finish()
    }
}

impl ContextError {
    /// The public sentence for `details.issue`.
    pub const fn issue(self) -> &'static str {
        match self {
            ContextError::NotAnObject => "must be an object",
            ContextError::RepeatedMember => "must not name a member twice",
            ContextError::TooDeep => "is nested too deeply",
            ContextError::Unrepresentable => "holds a number or a string that cannot be represented",
        }
    }
}

impl<'a> Fact<'a> {
    /// Reads one value of a context. `None` if it cannot be represented, which a parsed context rules out.
    pub(super) fn read(value: &'a RawValue) -> Option<Self> {
        let json = value.get();
        match json.as_bytes().first()? {
            b'n' => Some(Fact::Null),
            b't' => Some(Fact::Bool(true)),
            b'f' => Some(Fact::Bool(false)),
            b'[' => Some(Fact::Array(json)),
            b'{' => Some(Fact::Object(json)),
            b'"' if memchr::memchr(b'\\', json.as_bytes()).is_none() => {
                Some(Fact::Text(Cow::Borrowed(json.strip_prefix('"')?.strip_suffix('"')?)))
            }
            b'"' => serde_json::from_str(json).ok().map(|Name(text)| Fact::Text(text)),
            _ => Number::of(&serde_json::from_str(json).ok()?).map(Fact::Number),
        }
    }
}

/// Up to this many members, comparing each with each beats sorting, and scanning beats searching.
const SCANNED_MAX: usize = 16;

struct Member<'a> {
    name: Cow<'a, str>,
    value: &'a RawValue,
}

/// The members of the outermost object. `failure` says more than serde's error can carry.
struct Collect<'f> {
    failure: &'f Cell<Option<ContextError>>,
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<Member<'de>> = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            if members.len() < SCANNED_MAX && members.iter().any(|m| m.name == name) {
                return Err(fail(self.failure, ContextError::RepeatedMember));
            }
            let value: &'de RawValue = map.next_value()?;
            match Fact::read(value) {
                None => return Err(fail(self.failure, ContextError::Unrepresentable)),
                Some(Fact::Array(json) | Fact::Object(json)) => Inspect { failure: self.failure }
                    .deserialize(&mut serde_json::Deserializer::from_str(json))
                    .map_err(A::Error::custom)?,
                Some(Fact::Null | Fact::Bool(_) | Fact::Number(_) | Fact::Text(_)) => {}
            }
            members.push(Member { name, value });
        }
        Ok(members)
    }
}

/// Walks a nested value, keeps nothing, and fails on what [`ContextError`] names.
/// It recurses as deep as the value nests, which [`nests_too_deeply`] has bounded.
#[derive(Clone, Copy)]
struct Inspect<'f> {
    failure: &'f Cell<Option<ContextError>>,
}

impl<'de> DeserializeSeed<'de> for Inspect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inspect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            names.push(name);
            map.next_value_seed(self)?;
        }
        names.sort_unstable();
        match names.is_sorted_by(|a, b| a < b) {
            true => Ok(()),
            false => Err(fail(self.failure, ContextError::RepeatedMember)),
        }
    }
}

fn fail<E: Error>(failure: &Cell<Option<ContextError>>, error: ContextError) -> E {
    failure.set(Some(error));
    E::custom(error.issue())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::dispatch::DEPTH_MAX;

    fn parse(json: &str) -> Result<Context<'_>, ContextError> {
        Context::parse(Some(serde_json::from_str(json).expect("JSON")))
    }

    #[test]
    fn members_are_found_by_their_resolved_names() {
        let context = parse(r#" { "a" : 1 , "b\u0063" : "x\n", "": [ ], "é": null } "#).expect("valid");
        for (name, value) in [
            ("a", Some("1")),
            ("bc", Some(r#""x\n""#)),
            ("", Some("[ ]")),
            ("é", Some("null")),
            ("b", None),
            ("A", None),
        ] {
            assert_eq!(context.get(name).map(RawValue::get), value, "{name}");
        }
        assert_eq!(context.len(), 4);
    }

    #[test]
    fn an_absent_context_is_an_empty_one() {
        assert!(Context::parse(None).expect("valid").is_empty());
        assert!(parse("{}").expect("valid").is_empty());
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let wide = |tail: &str| {
            let members: String = (0..1000).map(|n| format!("\"{n}\":{n},")).collect();
            format!("{{{members}{tail}}}")
        };
        let (repeated, broken) = (wide(r#""7\u00370":1"#), wide(r#""x":1e999"#));
        for (json, error) in [
            ("[]", ContextError::NotAnObject),
            ("null", ContextError::NotAnObject),
            (r#"{"a":1,"a":1}"#, ContextError::RepeatedMember),
            (r#"{"a":1,"b":2,"\u0061":3}"#, ContextError::RepeatedMember),
            (r#"{"":1,"":1}"#, ContextError::RepeatedMember),
            (r#"{"x":{"a":1,"a":1}}"#, ContextError::RepeatedMember),
            (r#"{"x":[[{"a":{},"b":1,"\u0061":[]}]]}"#, ContextError::RepeatedMember),
            (&repeated, ContextError::RepeatedMember),
            (r#"{"a":1e400}"#, ContextError::Unrepresentable),
            (r#"{"a":[-1e400]}"#, ContextError::Unrepresentable),
            (r#"{"a":"\ud800"}"#, ContextError::Unrepresentable),
            (r#"{"a":{"b":"\udc00"}}"#, ContextError::Unrepresentable),
            (r#"{"\ud800":1}"#, ContextError::Unrepresentable),
            (&broken, ContextError::Unrepresentable),
        ] {
            assert_eq!(parse(json).err(), Some(error), "{json}");
        }
        assert!(parse(&wide(r#""x":{"0":0}"#)).is_ok());
    }

    #[test]
    fn duplicates_are_seen_at_every_size() {
        for size in 1..40 {
            for repeated in 0..size {
                let members: String = (0..size).map(|n| format!("\"k{n}\":{n},")).collect();
                let json = format!("{{{members}\"k{repeated}\":0}}");
                assert_eq!(parse(&json).err(), Some(ContextError::RepeatedMember), "{json}");
            }
            let members: Vec<String> = (0..size).map(|n| format!("\"k{n}\":{n}")).collect();
            let json = format!("{{{}}}", members.join(","));
            let context = parse(&json).expect("valid");
            for n in 0..size {
                assert_eq!(context.get(&format!("k{n}")).map(RawValue::get), Some(&*n.to_string()), "{json}");
            }
            assert!(context.get("k").is_none() && context.get("k99").is_none());
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(DEPTH_MAX - 1)).is_ok());
        assert_eq!(parse(&nested(DEPTH_MAX)).err(), Some(ContextError::TooDeep));
        assert_eq!(parse(&nested(1 << 19)).err(), Some(ContextError::TooDeep));
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", parse(r#"{"s3cret":"s3cret"}"#).expect("valid")), "Context { members: 1 }");
    }
}
