//! Axon's answer inside the contract's envelope: its members as they were, three of them Orbit's own.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::request::dispatch::Name;

/// The members of a JSON object in their order, values untouched: numbers keep their digits.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What Orbit adds.
pub struct Added<'a> {
    pub correlation_id: &'a str,
    /// RFC 3339.
    pub timestamp: &'a str,
    pub reason: &'a str,
    /// Milliseconds with microsecond precision, e.g. `0.012`.
    pub decision_time_ms: &'a str,
}

/// An enveloped answer.
pub struct Enveloped {
    pub body: Vec<u8>,
    /// Axon's `message`, if it is a string.
    pub message: Option<String>,
}

/// Puts `answer` into the envelope; `None` when it is not a JSON object.
///
/// `status` comes first and is Axon's if it sent a string, else `"success"`; then every member of Axon's
/// in its order; `correlation_id`, `timestamp` and `governance` are always Orbit's.
pub fn wrap(answer: &[u8], added: &Added<'_>) -> Option<Enveloped> {
    // Looked at once as a whole, not string by string.
    let Members(members) = serde_json::from_str(std::str::from_utf8(answer).ok()?).ok()?;
    let find = |name: &str| members.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.get());
    let status = find("status").filter(|value| value.starts_with('"')).unwrap_or("\"success\"");
    let message = find("message").and_then(|value| serde_json::from_str(value).ok());

    let mut body = Vec::with_capacity(answer.len() + 256);
    body.extend_from_slice(br#"{"status":"#);
    body.extend_from_slice(status.as_bytes());
    for (name, value) in &members {
        if matches!(name.as_ref(), "status" | "correlation_id" | "timestamp" | "governance") {
            continue;
        }
        body.push(b',');
        match name {
            // Without escapes it is written as it was read.
            Cow::Borrowed(name) => {
                body.push(b'"');
                body.extend_from_slice(name.as_bytes());
                body.push(b'"');
            }
            Cow::Owned(name) => json_string(name, &mut body),
        }
        body.push(b':');
        body.extend_from_slice(value.get().as_bytes());
    }
    body.extend_from_slice(br#","correlation_id":"#);
    json_string(added.correlation_id, &mut body);
    body.extend_from_slice(br#","timestamp":"#);
    json_string(added.timestamp, &mut body);
    body.extend_from_slice(br#","governance":{"allowed":true,"reason":"#);
    json_string(added.reason, &mut body);
    body.extend_from_slice(br#","decision_time_ms":"#);
    body.extend_from_slice(added.decision_time_ms.as_bytes());
    body.extend_from_slice(b"}}");
    Some(Enveloped { body, message })
}

/// Whether `answer` is a JSON object.
pub fn is_object(answer: &[u8]) -> bool {
    serde_json::from_slice::<Members<'_>>(answer).is_ok()
}

/// Appends `text` as a JSON string.
pub fn json_string(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, text);
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(answer: &str) -> Option<String> {
        let added = Added {
            correlation_id: "c-1",
            timestamp: "2024-01-15T10:30:00Z",
            reason: "Request authorized",
            decision_time_ms: "0.012",
        };
        wrap(answer.as_bytes(), &added).map(|e| String::from_utf8(e.body).expect("text"))
    }

    const TAIL: &str = r#""correlation_id":"c-1","timestamp":"2024-01-15T10:30:00Z","governance":{"allowed":true,"reason":"Request authorized","decision_time_ms":0.012}}"#;

    #[test]
    fn members_stay_as_they_were_and_orbits_own_are_replaced() {
        let answer = r#"{"message":"hi \u00e9","n":1.50e+3,"big":123456789012345678901234567890,"timestamp":"x","governance":1,"correlation_id":[],"deep":{"a":[1,2]}}"#;
        let want = format!(
            r#"{{"status":"success","message":"hi \u00e9","n":1.50e+3,"big":123456789012345678901234567890,"deep":{{"a":[1,2]}},{TAIL}"#
        );
        assert_eq!(wrapped(answer), Some(want));
    }

    #[test]
    fn status_is_axons_only_if_it_is_a_string() {
        assert_eq!(wrapped(r#"{"status":"partial"}"#), Some(format!(r#"{{"status":"partial",{TAIL}"#)));
        for other in ["1", "null", "{}", "[]", "true"] {
            assert_eq!(wrapped(&format!(r#"{{"status":{other}}}"#)), Some(format!(r#"{{"status":"success",{TAIL}"#)));
        }
    }

    #[test]
    fn escaped_names_cannot_hide_a_member() {
        let names = r#"{"a\"b":1,"c\\":2,"\u00e9":3,"é":4}"#;
        let want = r#"{"status":"success","a\"b":1,"c\\":2,"é":3,"é":4,"#;
        assert_eq!(wrapped(names), Some(format!("{want}{TAIL}")));
        assert_eq!(
            wrapped(r#"{"govern\u0061nce":{"allowed":false}}"#),
            Some(format!(r#"{{"status":"success",{TAIL}"#))
        );
    }

    #[test]
    fn what_is_no_object_is_left_alone() {
        for answer in ["", "null", "[1]", "\"a\"", "{", "{} {}", "{\"a\":}", "\u{feff}{}", "not json"] {
            assert_eq!(wrapped(answer), None, "{answer:?}");
        }
    }
}
