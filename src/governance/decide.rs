//! The decision: the checks of one policy in the order of `api.md`, the first failure denies.
//!
//! Invariant: the order is policy, enabled, hours, rate, conditions. The rate limit is asked before the
//! conditions, so a request that they deny has spent its share; one that is denied earlier has not.

use std::borrow::Cow;

use super::compile::{Policies, PolicyIndex};
use super::context::Context;
use super::model::RateLimits;

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'p> {
    pub verdict: Verdict,
    /// The contract's sentence, which the client sees.
    pub reason: Cow<'p, str>,
}

/// Which check decided; a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allow,
    NoPolicy,
    Disabled,
    OutsideHours,
    RateLimited,
    /// The first condition that failed, counted from 0.
    ConditionFailed(usize),
}

impl Policies {
    /// May `service` do `intent` with `context` in this hour of the UTC day (see [`hour_of_day`])?
    ///
    /// `charge` takes one request from the policy's limits and says whether they allowed it. It is
    /// called once if the policy has limits and every check before them passed, and never otherwise.
    pub fn decide(
        &self,
        service: &str,
        intent: &str,
        context: &Context<'_>,
        hour: u8,
        charge: impl FnOnce(PolicyIndex, RateLimits) -> bool,
    ) -> Decision<'_> {
        let Some((index, policy)) = self.find(service, intent) else {
            return deny(Verdict::NoPolicy, format!("No policy defined for {service}:{intent}"));
        };
        if !policy.policy().enabled {
            return deny(Verdict::Disabled, "Policy is disabled");
        }
        if !policy.allows_hour(hour) {
            return deny(Verdict::OutsideHours, "Request outside allowed time window");
        }
        if policy.rate_limits().is_some_and(|limits| !charge(index, limits)) {
            return deny(Verdict::RateLimited, "Rate limit exceeded");
        }
        for (number, check) in policy.checks.iter().enumerate() {
            if !check.test.holds(context, &check.field) {
                return deny(Verdict::ConditionFailed(number), &*check.denial);
            }
        }
        Decision { verdict: Verdict::Allow, reason: Cow::Borrowed("Request authorized") }
    }
}

impl Decision<'_> {
    /// Whether the request may go on.
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

impl Verdict {
    /// The name in logs and explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Allow => "allowed",
            Verdict::NoPolicy => "no_policy",
            Verdict::Disabled => "disabled",
            Verdict::OutsideHours => "outside_hours",
            Verdict::RateLimited => "rate_limited",
            Verdict::ConditionFailed(_) => "condition_failed",
        }
    }
}

/// The hour of the UTC day, 0 to 23, of a time in seconds since the Unix epoch.
pub const fn hour_of_day(unix_seconds: u64) -> u8 {
    (unix_seconds / 3600 % 24) as u8
}

fn deny<'p>(verdict: Verdict, reason: impl Into<Cow<'p, str>>) -> Decision<'p> {
    Decision { verdict, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::governance::model::{Condition, Operator, Policy};

    fn policy(intent: &str) -> Policy {
        Policy {
            service: "orbit".into(),
            intent: intent.into(),
            enabled: true,
            description: None,
            allowed_hours: None,
            rate_limits: None,
            conditions: Vec::new(),
        }
    }

    fn condition(field: &str, operator: Operator, value: Value, description: Option<&str>) -> Condition {
        Condition { field: field.into(), operator, value, description: description.map(Into::into) }
    }

    const LIMITS: RateLimits = RateLimits { requests_per_minute: Some(100), requests_per_hour: Some(1000) };

    /// The policy that stands in `api.md`.
    fn documented() -> Policy {
        Policy {
            description: Some("…".into()),
            allowed_hours: Some(vec![8, 9, 10]),
            rate_limits: Some(LIMITS),
            conditions: vec![condition("user_type", Operator::Equals, json!("premium"), Some("premium users only"))],
            ..policy("call_reasoning")
        }
    }

    /// How the limits answer, and so whether they must, may or must not be asked.
    #[derive(Debug, Clone, Copy)]
    enum Rate {
        Grants,
        Refuses,
        Unasked,
    }

    #[test]
    fn the_contract_row_by_row() {
        let disabled = Policy { enabled: false, ..documented() };
        let undescribed = Policy {
            conditions: vec![condition("user_type", Operator::Equals, json!("premium"), None)],
            ..policy("call_reasoning")
        };
        let several = Policy {
            conditions: vec![
                condition("a", Operator::Equals, json!(1), Some("first")),
                condition("b", Operator::NotEquals, json!("x"), Some("second")),
                condition("c", Operator::GreaterThan, json!(10), Some("third")),
            ],
            ..policy("call_reasoning")
        };
        let premium = r#"{"user_type":"premium"}"#;
        let basic = r#"{"user_type":"basic"}"#;
        let rows = [
            // Each reason on its own.
            (documented(), "call_reasoning", premium, 9, Rate::Grants, "Request authorized"),
            (documented(), "other", premium, 9, Rate::Unasked, "No policy defined for orbit:other"),
            (disabled.clone(), "call_reasoning", premium, 9, Rate::Unasked, "Policy is disabled"),
            (documented(), "call_reasoning", premium, 7, Rate::Unasked, "Request outside allowed time window"),
            (documented(), "call_reasoning", premium, 11, Rate::Unasked, "Request outside allowed time window"),
            (documented(), "call_reasoning", premium, 8, Rate::Grants, "Request authorized"),
            (documented(), "call_reasoning", premium, 10, Rate::Grants, "Request authorized"),
            (documented(), "call_reasoning", premium, 9, Rate::Refuses, "Rate limit exceeded"),
            (documented(), "call_reasoning", basic, 9, Rate::Grants, "Condition not met: premium users only"),
            (documented(), "call_reasoning", "{}", 9, Rate::Grants, "Condition not met: premium users only"),
            (undescribed, "call_reasoning", basic, 0, Rate::Unasked, "Condition not met: Unknown"),
            (policy("call_reasoning"), "call_reasoning", "{}", 23, Rate::Unasked, "Request authorized"),
            // When several would fail, the earlier one speaks.
            (disabled.clone(), "other", basic, 3, Rate::Unasked, "No policy defined for orbit:other"),
            (disabled, "call_reasoning", basic, 3, Rate::Unasked, "Policy is disabled"),
            (documented(), "call_reasoning", basic, 3, Rate::Unasked, "Request outside allowed time window"),
            (documented(), "call_reasoning", basic, 9, Rate::Refuses, "Rate limit exceeded"),
            // Conditions in the order written.
            (several.clone(), "call_reasoning", r#"{"b":"x","c":1}"#, 0, Rate::Unasked, "Condition not met: first"),
            (
                several.clone(),
                "call_reasoning",
                r#"{"c":1,"b":"x","a":1}"#,
                0,
                Rate::Unasked,
                "Condition not met: second",
            ),
            (several.clone(), "call_reasoning", r#"{"a":1}"#, 0, Rate::Unasked, "Condition not met: third"),
            (several, "call_reasoning", r#"{"a":1,"c":10.5}"#, 0, Rate::Unasked, "Request authorized"),
            // A name is matched whole and with its case.
            (documented(), "Call_reasoning", premium, 9, Rate::Unasked, "No policy defined for orbit:Call_reasoning"),
            (documented(), "", premium, 9, Rate::Unasked, "No policy defined for orbit:"),
        ];
        for (number, (policy, intent, context, hour, rate, reason)) in rows.into_iter().enumerate() {
            let policies = Policies::compile(vec![policy]).expect("valid");
            let context = Context::parse(Some(serde_json::from_str(context).expect("JSON"))).expect("valid");
            let mut asked = Vec::new();
            let decision = policies.decide("orbit", intent, &context, hour, |index, limits| {
                asked.push((index.position(), limits));
                matches!(rate, Rate::Grants)
            });
            assert_eq!(decision.reason, reason, "row {number}");
            assert_eq!(decision.allowed(), reason == "Request authorized", "row {number}");
            let expected = match rate {
                Rate::Grants | Rate::Refuses => vec![(0, LIMITS)],
                Rate::Unasked => Vec::new(),
            };
            assert_eq!(asked, expected, "row {number}");
        }
    }

    #[test]
    fn services_do_not_share_policies() {
        let other = Policy { service: "other".into(), ..policy("a") };
        let policies = Policies::compile(vec![policy("b"), other]).expect("valid");
        let ask = |service: &str, intent: &str| policies.decide(service, intent, &Context::default(), 0, |_, _| true);
        assert!(ask("other", "a").allowed() && ask("orbit", "b").allowed());
        assert_eq!(ask("orbit", "a").reason, "No policy defined for orbit:a");
        assert_eq!(ask("nobody", "a").reason, "No policy defined for nobody:a");
    }

    #[test]
    fn the_limits_asked_are_the_policys_own() {
        let second = RateLimits { requests_per_minute: None, requests_per_hour: Some(7) };
        let policies = Policies::compile(vec![
            Policy { rate_limits: Some(LIMITS), ..policy("a") },
            Policy { rate_limits: Some(second), ..policy("b") },
        ]);
        let policies = policies.expect("valid");
        let mut asked = None;
        policies.decide("orbit", "b", &Context::default(), 0, |index, limits| {
            asked = Some((index.position(), limits));
            true
        });
        assert_eq!(asked, Some((1, second)));
    }

    #[test]
    fn an_hour_that_does_not_exist_is_outside() {
        let policies = Policies::compile(vec![policy("a")]).expect("valid");
        for hour in [24, 31, 32, 255] {
            let decision = policies.decide("orbit", "a", &Context::default(), hour, |_, _| true);
            assert_eq!(decision.verdict, Verdict::OutsideHours, "{hour}");
        }
    }

    #[test]
    fn hours_of_the_day() {
        // 1705312800 is 2024-01-15T10:00:00Z.
        for (seconds, hour) in [(0, 0), (3599, 0), (3600, 1), (86_399, 23), (86_400, 0), (1_705_312_800, 10)] {
            assert_eq!(hour_of_day(seconds), hour, "{seconds}");
        }
    }

    /// A second opinion: the contract over plain `serde_json` values, sharing no code with the compiled form.
    mod naive {
        use super::*;

        pub fn decide(policies: &[Policy], intent: &str, context: &Map<String, Value>, hour: u8, rate: bool) -> String {
            let Some(policy) = policies.iter().find(|p| p.service == "orbit" && p.intent == intent) else {
                return format!("No policy defined for orbit:{intent}");
            };
            if !policy.enabled {
                return "Policy is disabled".into();
            }
            if policy.allowed_hours.as_ref().is_some_and(|hours| !hours.contains(&hour)) {
                return "Request outside allowed time window".into();
            }
            let limited = policy.rate_limits.is_some_and(|l| l.requests_per_minute.or(l.requests_per_hour).is_some());
            if limited && !rate {
                return "Rate limit exceeded".into();
            }
            for c in &policy.conditions {
                let fact = context.get(&c.field).unwrap_or(&Value::Null);
                let met = match c.operator {
                    Operator::Equals => same(fact, &c.value),
                    Operator::NotEquals => !same(fact, &c.value),
                    Operator::Contains => match (fact, &c.value) {
                        (Value::String(text), Value::String(part)) => text.split(part.as_str()).count() > 1,
                        (Value::Array(list), value) => list.iter().any(|element| same(element, value)),
                        _ => false,
                    },
                    Operator::GreaterThan => fact.is_number() && pair(fact) > pair(&c.value),
                    Operator::LessThan => fact.is_number() && pair(fact) < pair(&c.value),
                };
                if !met {
                    return format!("Condition not met: {}", c.description.as_deref().unwrap_or("Unknown"));
                }
            }
            "Request authorized".into()
        }

        /// The nearest double, then what rounding lost: ordered as the numbers themselves are.
        fn pair(number: &Value) -> (f64, f64) {
            let rounded = number.as_f64().expect("a number");
            let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            (rounded, integer.map_or(0.0, |i| (i - rounded as i128) as f64))
        }

        fn same(a: &Value, b: &Value) -> bool {
            match (a, b) {
                (Value::Number(_), Value::Number(_)) => pair(a) == pair(b),
                (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
                (Value::Object(a), Value::Object(b)) => {
                    a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
                }
                _ => a == b,
            }
        }
    }

    /// Few distinct values, so that equal ones meet often.
    fn values() -> impl Strategy<Value = Value> {
        let numbers = prop_oneof![
            (-2..3_i64).prop_map(|n| json!(n)),
            (-4..5_i32).prop_map(|n| json!(f64::from(n) / 2.0)),
            prop::sample::select(vec![
                json!(-0.0),
                json!(i64::MIN),
                json!(i64::MAX),
                json!(u64::MAX),
                json!(u64::MAX as f64),
                json!(9007199254740992_u64),
                json!(9007199254740993_u64),
                json!(9007199254740992.0),
                json!(1e308),
                json!(-1e308),
                json!(5e-324),
            ]),
        ];
        let texts = prop::sample::select(vec!["", "a", "b", "ab", "1", "true", "null", "\"\\", "\n", "é\u{1f600}"]);
        let leaf = prop_oneof![
            1 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::Bool),
            4 => numbers,
            3 => texts.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(prop::sample::select(vec!["a", "b", "\""]), inner, 0..3)
                    .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    const FIELDS: [&str; 4] = ["a", "b", "é", "q\"\\"];

    fn conditions() -> impl Strategy<Value = Condition> {
        let operators = prop::sample::select(Operator::ALL.map(|(_, operator)| operator).to_vec());
        let description = prop::option::of(prop::sample::select(vec!["one", "two"]));
        (prop::sample::select(FIELDS.to_vec()), operators, values(), description)
            .prop_filter("usable", |(_, operator, value, _)| match operator {
                Operator::Equals | Operator::NotEquals => true,
                Operator::Contains => value != "",
                Operator::GreaterThan | Operator::LessThan => value.is_number(),
            })
            .prop_map(|(field, operator, value, description)| condition(field, operator, value, description))
    }

    fn written_policies() -> impl Strategy<Value = Vec<Policy>> {
        let limits = (prop::option::of(0..3_u32), prop::option::of(0..3_u32))
            .prop_map(|(requests_per_minute, requests_per_hour)| RateLimits { requests_per_minute, requests_per_hour });
        let one = (
            prop::bool::weighted(0.9),
            prop::option::weighted(0.3, prop::collection::vec(0..24_u8, 12..24)),
            prop::option::of(limits),
            prop::collection::vec(conditions(), 0..4),
        );
        prop::collection::vec(one, 1..4).prop_map(|all| {
            let named = all.into_iter().zip(["x", "y", "z"]);
            let written = named.map(|((enabled, allowed_hours, rate_limits, conditions), intent)| Policy {
                enabled,
                allowed_hours,
                rate_limits,
                conditions,
                ..policy(intent)
            });
            written.collect()
        })
    }

    /// JSON text in which every character of every string and name is a `\u` escape.
    fn escaped(value: &Value) -> String {
        let quote = |text: &str| {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{units}\"")
        };
        match value {
            Value::String(text) => quote(text),
            Value::Array(list) => format!("[ {} ]", list.iter().map(escaped).collect::<Vec<_>>().join(" , ")),
            Value::Object(map) => {
                let members = map.iter().map(|(name, value)| format!("{} : {}", quote(name), escaped(value)));
                format!("{{ {} }}", members.collect::<Vec<_>>().join(" ,\n"))
            }
            scalar => scalar.to_string(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn decisions_agree_with_an_independent_evaluator(
            written in written_policies(),
            intent in prop::sample::select(vec!["x", "x", "x", "y", "z"]),
            facts in prop::collection::btree_map(prop::sample::select(FIELDS.to_vec()), values(), 0..5),
            copies in prop::collection::vec(any::<bool>(), 4),
            fill in 0..24_usize,
            hour in 0..24_u8,
            rate in prop::bool::weighted(0.8),
        ) {
            let mut context: Map<String, Value> = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
            // Random values rarely meet; give some fields exactly what a condition looks for.
            let looked_for = written.iter().filter(|p| p.intent == intent).flat_map(|p| &p.conditions);
            for (condition, _) in looked_for.zip(&copies).filter(|(_, copy)| **copy) {
                let value = match condition.operator {
                    Operator::Contains => json!([0, condition.value]),
                    _ => condition.value.clone(),
                };
                context.insert(condition.field.clone(), value);
            }
            // Enough members to reach the sorted form.
            context.extend((0..fill).map(|n| (format!("fill{n}"), json!(n))));
            let context = Value::Object(context);

            let policies = Policies::compile(written.clone()).expect("valid");
            let expected = naive::decide(&written, intent, context.as_object().expect("object"), hour, rate);
            for text in [context.to_string(), escaped(&context)] {
                let parsed = Context::parse(Some(serde_json::from_str(&text).expect("JSON"))).expect("valid");
                let decision = policies.decide("orbit", intent, &parsed, hour, |_, _| rate);
                prop_assert_eq!(&*decision.reason, &*expected, "{}", text);
                prop_assert_eq!(decision.allowed(), expected == "Request authorized");
            }
        }
    }
}
