//! One condition of a policy, compiled, and how JSON values compare.
//!
//! Values are compared as JSON, without coercion: `1` equals `1.0`, `true` is no number, `"1"` is no
//! `1`; arrays compare in order, objects without it. Integers of 64 bits compare exactly, also with
//! fractions; any other number is the double nearest to it (RFC 8259, section 6).
//!
//! Invariant: a value that cannot be read satisfies no condition, `not_equals` included.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::context::{Context, Fact};
use super::model::Operator;
use crate::request::dispatch::Name;

/// Deepest value in a policy. Well inside what a context may nest, so that `equals` can come true and
/// `not_equals` is not true for want of depth; it also bounds the recursion of a comparison.
pub(super) const VALUE_DEPTH_MAX: usize = 32;

/// An operator together with a value that it can use.
#[derive(Debug)]
pub(super) enum Test {
    /// A missing member is `null`: it equals `null` and nothing else.
    Equals(Value),
    /// The opposite of `Equals`, so true of a missing member unless the value is `null`.
    NotEquals(Value),
    /// A string with this substring, or a list with an element equal to it; false for everything else.
    Contains(Value),
    /// False for anything but a number.
    GreaterThan(Number),
    /// False for anything but a number.
    LessThan(Number),
}

impl Test {
    /// # Errors
    /// Says what to do about a value that the operator cannot use.
    pub(super) fn new(operator: Operator, value: &Value) -> Result<Self, &'static str> {
        if depth(value, 0) > VALUE_DEPTH_MAX {
            return Err("value is nested deeper than 32 levels, compare a simpler member");
        }
        let number = |otherwise| value.as_number().and_then(Number::of).ok_or(otherwise);
        match operator {
            Operator::Equals => Ok(Test::Equals(value.clone())),
            Operator::NotEquals => Ok(Test::NotEquals(value.clone())),
            Operator::Contains if value.as_str() == Some("") => {
                Err("`contains` with an empty text is true of every string, name the text to look for")
            }
            Operator::Contains => Ok(Test::Contains(value.clone())),
            Operator::GreaterThan => {
                number("`greater_than` compares numbers, write one without quotes").map(Test::GreaterThan)
            }
            Operator::LessThan => number("`less_than` compares numbers, write one without quotes").map(Test::LessThan),
        }
    }

    /// Whether the member named `field` satisfies this.
    pub(super) fn holds(&self, context: &Context<'_>, field: &str) -> bool {
        context.get(field).map_or(Some(Fact::Null), Fact::read).is_some_and(|fact| self.accepts(fact))
    }

    fn accepts(&self, fact: Fact<'_>) -> bool {
        match (self, fact) {
            (Test::Equals(value), fact) => equal(&fact, value) == Some(true),
            (Test::NotEquals(value), fact) => equal(&fact, value) == Some(false),
            (Test::Contains(value), Fact::Text(text)) => value.as_str().is_some_and(|part| text.contains(part)),
            (Test::Contains(value), Fact::Array(list)) => evaluate(AnyEqual(value), list) == Some(true),
            (Test::GreaterThan(than), Fact::Number(number)) => number.compare(*than) == Some(Ordering::Greater),
            (Test::LessThan(than), Fact::Number(number)) => number.compare(*than) == Some(Ordering::Less),
            (Test::Contains(_) | Test::GreaterThan(_) | Test::LessThan(_), _) => false,
        }
    }
}

/// A JSON number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    /// Within the range of `i64` and `u64`.
    Integer(i128),
    /// Finite.
    Double(f64),
}

impl Number {
    /// `None` for a number that no finite double is near.
    pub(super) fn of(number: &serde_json::Number) -> Option<Self> {
        let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        integer.map(Number::Integer).or_else(|| number.as_f64().filter(|f| f.is_finite()).map(Number::Double))
    }

    /// The exact order of two numbers; always `Some`, as neither is a NaN.
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => Some(a.cmp(&b)),
            (Number::Double(a), Number::Double(b)) => a.partial_cmp(&b),
            (Number::Integer(a), Number::Double(b)) => compare_mixed(a, b),
            (Number::Double(a), Number::Integer(b)) => compare_mixed(b, a).map(Ordering::reverse),
        }
    }
}

/// Compares the whole parts as integers, then 0 with the fraction. The cast is exact up to 2^127 and
/// saturates beyond, where any double exceeds any 64-bit integer anyway.
fn compare_mixed(integer: i128, double: f64) -> Option<Ordering> {
    match integer.cmp(&(double.trunc() as i128)) {
        Ordering::Equal => 0.0.partial_cmp(&double.fract()),
        unequal => Some(unequal),
    }
}

/// `None` if the fact cannot be read.
fn equal(fact: &Fact<'_>, value: &Value) -> Option<bool> {
    match (fact, value) {
        (Fact::Null, Value::Null) => Some(true),
        (Fact::Bool(a), Value::Bool(b)) => Some(a == b),
        (Fact::Number(a), Value::Number(b)) => same_number(Some(*a), b),
        (Fact::Text(a), Value::String(b)) => Some(a == b),
        (Fact::Array(json), Value::Array(_)) | (Fact::Object(json), Value::Object(_)) => evaluate(Equal(value), json),
        _ => Some(false),
    }
}

fn same_number(number: Option<Number>, value: &serde_json::Number) -> Option<bool> {
    Some(number?.compare(Number::of(value)?)? == Ordering::Equal)
}

fn depth(value: &Value, above: usize) -> usize {
    let deepest = |nested: Option<usize>| nested.unwrap_or(above + 1);
    match value {
        // Deep enough to refuse: no need to descend further.
        _ if above > VALUE_DEPTH_MAX => above,
        Value::Array(list) => deepest(list.iter().map(|v| depth(v, above + 1)).max()),
        Value::Object(map) => deepest(map.values().map(|v| depth(v, above + 1)).max()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => above,
    }
}

fn evaluate<'de>(question: impl DeserializeSeed<'de, Value = bool>, json: &'de str) -> Option<bool> {
    question.deserialize(&mut serde_json::Deserializer::from_str(json)).ok()
}

/// Whether the JSON being read equals the value; builds nothing, recurses only as deep as the value.
/// All of the JSON is read even when the answer is known, as the reader must end behind it.
#[derive(Clone, Copy)]
struct Equal<'v>(&'v Value);

impl<'de> DeserializeSeed<'de> for Equal<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Equal<'_> {
    fn number<E: serde::de::Error>(self, number: Number) -> Result<bool, E> {
        match self.0 {
            Value::Number(value) => same_number(Some(number), value).ok_or_else(|| E::custom("not comparable")),
            _ => Ok(false),
        }
    }
}

impl<'de> Visitor<'de> for Equal<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(self.0.is_null())
    }

    fn visit_bool<E>(self, found: bool) -> Result<bool, E> {
        Ok(self.0.as_bool() == Some(found))
    }

    fn visit_i64<E: serde::de::Error>(self, found: i64) -> Result<bool, E> {
        self.number(Number::Integer(found.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, found: u64) -> Result<bool, E> {
        self.number(Number::Integer(found.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, found: f64) -> Result<bool, E> {
        self.number(Number::Double(found))
    }

    fn visit_str<E>(self, found: &str) -> Result<bool, E> {
        Ok(self.0.as_str() == Some(found))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let (mut same, expected) = match self.0 {
            Value::Array(list) => (true, list.as_slice()),
            _ => (false, &[][..]),
        };
        for value in expected {
            match seq.next_element_seed(Equal(value))? {
                Some(equal) => same &= equal,
                None => return Ok(false),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            same = false;
        }
        Ok(same)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let expected = self.0.as_object();
        let (mut same, mut count) = (expected.is_some(), 0);
        while let Some(Name(name)) = map.next_key()? {
            match expected.and_then(|e| e.get(&*name)) {
                Some(value) => same &= map.next_value_seed(Equal(value))?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                    same = false;
                }
            }
            count += 1;
        }
        // Names are unique on both sides, so equal counts leave no expected member unseen.
        Ok(same && expected.is_some_and(|e| e.len() == count))
    }
}

/// Whether any element of the list being read equals the value.
struct AnyEqual<'v>(&'v Value);

impl<'de> DeserializeSeed<'de> for AnyEqual<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AnyEqual<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut any = false;
        while let Some(equal) = seq.next_element_seed(Equal(self.0))? {
            any |= equal;
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(operator: Operator, value: &Value, context: &str) -> bool {
        let raw = serde_json::from_str(context).expect("JSON");
        let context = Context::parse(Some(raw)).expect("valid");
        Test::new(operator, value).expect("usable").holds(&context, "f")
    }

    /// Rows of: the policy's value, the contexts that equal it, the contexts that do not.
    #[test]
    fn equality() {
        let missing = "{}";
        for (value, same, other) in [
            (json!(null), vec!["null"], vec!["false", "0", "\"\"", "\"null\"", "[]", "{}"]),
            (json!(true), vec!["true"], vec!["false", "1", "1.0", "\"true\"", "null", "[true]"]),
            (json!(false), vec!["false"], vec!["true", "0", "null", "\"\""]),
            (json!(1), vec!["1", "1.0", "1e0", "10e-1", "0.1e1"], vec!["true", "\"1\"", "2", "-1", "1.5", "[1]"]),
            (json!(1.0), vec!["1", "1.0"], vec!["true", "\"1.0\"", "1.0000000000000002"]),
            (json!(0), vec!["0", "-0", "0.0", "-0.0", "0e5"], vec!["false", "null", "\"\"", "1e-320"]),
            (json!(u64::MAX), vec!["18446744073709551615"], vec!["18446744073709551614", "18446744073709551616"]),
            (json!(i64::MIN), vec!["-9223372036854775808", "-9223372036854775808.0"], vec!["-9223372036854775807"]),
            (json!(9007199254740993_u64), vec!["9007199254740993"], vec!["9007199254740992", "9007199254740993.0"]),
            (json!("a"), vec!["\"a\"", "\"\\u0061\""], vec!["\"A\"", "\"a \"", "\"\"", "[\"a\"]", "null"]),
            (json!("1"), vec!["\"1\""], vec!["1", "1.0", "true"]),
            (json!("\u{1f600}\n"), vec!["\"\\ud83d\\ude00\\n\"", "\"\u{1f600}\\u000A\""], vec!["\"\u{1f600}n\""]),
            (json!([]), vec!["[]", "[ ]"], vec!["{}", "null", "[null]", "\"\""]),
            (
                json!([1, "a"]),
                vec!["[1,\"a\"]", "[1.0, \"a\"]"],
                vec!["[1]", "[2,\"a\"]", "[\"a\",1]", "[1,\"a\",2]", "[1,[\"a\"]]"],
            ),
            (json!({}), vec!["{}"], vec!["[]", "null", "{\"a\":1}"]),
            (
                json!({"a": 1, "b": [null, {"c": true}]}),
                vec![r#"{"a":1,"b":[null,{"c":true}]}"#, r#"{"b":[null,{"\u0063":true}],"a":1.0}"#],
                vec![
                    r#"{"a":1}"#,
                    r#"{"a":1,"b":[null,{"c":true}],"d":null}"#,
                    r#"{"a":2,"b":[null,{"c":true}]}"#,
                    r#"{"a":1,"b":[0,{"c":true}]}"#,
                    r#"{"a":1,"b":[null,{"c":1}]}"#,
                    r#"{"a":1,"b":[null,{"c":true},0]}"#,
                    r#"{"a":1,"b":[null]}"#,
                    r#"{"a":1,"c":[null,{"c":true}]}"#,
                ],
            ),
        ] {
            for (facts, expected) in [(same, true), (other, false)] {
                for fact in facts {
                    let context = format!("{{\"g\":0,\"f\":{fact}}}");
                    assert_eq!(holds(Operator::Equals, &value, &context), expected, "{fact} equals {value}");
                    assert_eq!(holds(Operator::NotEquals, &value, &context), !expected, "{fact} not_equals {value}");
                }
            }
            assert_eq!(holds(Operator::Equals, &value, missing), value.is_null(), "missing equals {value}");
            assert_eq!(holds(Operator::NotEquals, &value, missing), !value.is_null(), "missing not_equals {value}");
        }
    }

    #[test]
    fn containment() {
        for (value, yes, no) in [
            (
                json!("ab"),
                vec!["\"ab\"", "\"xaby\"", "\"x\\u0061b\"", "[\"ab\"]", "[1,[],\"ab\",2]"],
                vec!["\"a\"", "\"AB\"", "[\"xaby\"]", "[[\"ab\"]]", "[]", "{\"ab\":1}", "{\"a\":\"ab\"}", "null"],
            ),
            (json!(1), vec!["[1]", "[0,1.0]"], vec!["1", "\"1\"", "[\"1\"]", "[true]", "[[1]]", "{\"a\":1}"]),
            (json!(true), vec!["[true]"], vec!["true", "[1]", "\"true\"", "[\"true\"]"]),
            (json!(null), vec!["[null]"], vec!["null", "[]", "\"null\"", "[false]"]),
            (json!([1]), vec!["[[1]]", "[0,[1.0],2]"], vec!["[1]", "[[1,2]]", "[[]]", "1"]),
            (json!({"a": 1}), vec!["[{\"a\":1}]"], vec!["{\"a\":1}", "[{\"a\":2}]", "[{\"a\":1,\"b\":1}]"]),
        ] {
            for (facts, expected) in [(yes, true), (no, false)] {
                for fact in facts {
                    let context = format!("{{\"f\":{fact}}}");
                    assert_eq!(holds(Operator::Contains, &value, &context), expected, "{fact} contains {value}");
                }
            }
            assert!(!holds(Operator::Contains, &value, "{}"), "missing contains {value}");
        }
    }

    #[test]
    fn order() {
        for (fact, order, value) in [
            ("2", Ordering::Greater, json!(1)),
            ("1", Ordering::Equal, json!(1.0)),
            ("-1", Ordering::Less, json!(0)),
            ("0.5", Ordering::Less, json!(1)),
            ("-0.5", Ordering::Less, json!(0)),
            ("0.5", Ordering::Greater, json!(0)),
            ("-0.0", Ordering::Equal, json!(0)),
            ("-1.5", Ordering::Less, json!(-1)),
            ("-1.5", Ordering::Greater, json!(-2)),
            ("0.30000000000000004", Ordering::Greater, json!(0.3)),
            ("9007199254740993", Ordering::Greater, json!(9007199254740992.0)),
            ("9007199254740992.0", Ordering::Less, json!(9007199254740993_u64)),
            ("18446744073709551616", Ordering::Greater, json!(u64::MAX)),
            ("18446744073709551615", Ordering::Less, json!(18446744073709551616.0)),
            ("-9223372036854775809", Ordering::Equal, json!(i64::MIN)),
            ("-9300000000000000000", Ordering::Less, json!(i64::MIN)),
            ("1e308", Ordering::Greater, json!(u64::MAX)),
            ("-1e308", Ordering::Less, json!(i64::MIN)),
            ("1e-308", Ordering::Greater, json!(0)),
        ] {
            let context = format!("{{\"f\":{fact}}}");
            assert_eq!(holds(Operator::GreaterThan, &value, &context), order == Ordering::Greater, "{fact} > {value}");
            assert_eq!(holds(Operator::LessThan, &value, &context), order == Ordering::Less, "{fact} < {value}");
        }
        for fact in ["null", "true", "false", "\"5\"", "[5]", "{}", "\"\""] {
            for value in [json!(-1), json!(0), json!(9), json!(0.5)] {
                let context = format!("{{\"f\":{fact}}}");
                assert!(!holds(Operator::GreaterThan, &value, &context), "{fact} > {value}");
                assert!(!holds(Operator::LessThan, &value, &context), "{fact} < {value}");
            }
        }
        assert!(!holds(Operator::GreaterThan, &json!(-1), "{}") && !holds(Operator::LessThan, &json!(1), "{}"));
    }

    /// No parsed context holds such a fact; should one ever, it must not pass for a different value.
    #[test]
    fn what_cannot_be_read_satisfies_nothing() {
        for (fact, value) in [("[1e999]", json!([1])), ("{\"a\":\"\\ud800\"}", json!({"a": "b"})), ("[1", json!([1]))] {
            for (_, operator) in &Operator::ALL[..3] {
                let fact = if fact.starts_with('[') { Fact::Array(fact) } else { Fact::Object(fact) };
                assert!(!Test::new(*operator, &value).expect("usable").accepts(fact), "{operator:?} {value}");
            }
        }
    }

    #[test]
    fn unusable_values_are_refused() {
        for value in [json!("1"), json!(null), json!(true), json!([1]), json!({"a": 1})] {
            assert!(Test::new(Operator::GreaterThan, &value).is_err(), "{value}");
            assert!(Test::new(Operator::LessThan, &value).is_err(), "{value}");
        }
        assert!(Test::new(Operator::Contains, &json!("")).is_err());
        assert!(Test::new(Operator::Equals, &json!("")).is_ok());

        let nested = |levels| (0..levels).fold(json!(0), |inner, _| json!([inner]));
        assert!(Test::new(Operator::NotEquals, &nested(VALUE_DEPTH_MAX)).is_ok());
        assert!(Test::new(Operator::NotEquals, &nested(VALUE_DEPTH_MAX + 1)).is_err());
        assert!(Test::new(Operator::NotEquals, &json!([1, nested(VALUE_DEPTH_MAX), 2])).is_err());
    }

    #[test]
    fn the_deepest_policy_value_can_still_match() {
        let deep = (0..VALUE_DEPTH_MAX).fold(json!("x"), |inner, _| json!({"n": inner}));
        assert!(holds(Operator::Equals, &deep, &format!("{{\"f\":{deep}}}")));
        assert!(holds(Operator::Contains, &deep, &format!("{{\"f\":[1,{deep}]}}")));
    }
}
