//! Policies made ready to be asked: checked once, indexed by service and intent.
//!
//! Invariant: what compiles has one meaning. At most one policy answers for a service and an intent,
//! every condition has a value that its operator can use, and no rule is there that could never apply.

use std::collections::hash_map::Entry;

use ahash::AHashMap;

use super::condition::Test;
use super::model::{Condition, Policy, RateLimits};
use crate::request::dispatch::is_intent;

/// All policies of one snapshot.
#[derive(Debug, Default)]
pub struct Policies {
    by_service: AHashMap<String, AHashMap<String, PolicyIndex>>,
    compiled: Vec<Compiled>,
}

/// Which policy, counted from 0 in the order they were given to [`Policies::compile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyIndex(usize);

/// One policy, ready to be asked.
#[derive(Debug)]
pub struct Compiled {
    policy: Policy,
    /// Bit n allows hour n; bits above 23 are never set.
    hours: u32,
    pub(super) checks: Box<[Check]>,
}

/// A condition and the reason that its failure gives.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) field: Box<str>,
    pub(super) test: Test,
    pub(super) denial: Box<str>,
}

/// Something wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which policy, as in [`PolicyIndex`].
    pub index: usize,
    /// Where in it.
    pub part: Part,
    /// What is wrong and what to do; lower case, no full stop, no position.
    pub message: String,
}

/// A place in a policy; conditions are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Service,
    Intent,
    AllowedHours,
    ConditionField(usize),
    ConditionValue(usize),
}

impl Policies {
    /// Checks and indexes all policies.
    ///
    /// # Errors
    /// Every problem of every policy, in the order of the policies.
    pub fn compile(policies: Vec<Policy>) -> Result<Self, Vec<Problem>> {
        let (mut all, mut problems) = (Self::default(), Vec::new());
        for (index, policy) in policies.into_iter().enumerate() {
            let mut report = |part, message: String| problems.push(Problem { index, part, message });
            if policy.service.is_empty() {
                report(Part::Service, "service is empty, name the one that asks, such as `orbit`".into());
            }
            if !is_intent(&policy.intent) {
                let message = "no request can carry this intent, use 1 to 256 bytes without control characters";
                report(Part::Intent, message.into());
            }
            match all.by_service.entry(policy.service.clone()).or_default().entry(policy.intent.clone()) {
                Entry::Vacant(free) => drop(free.insert(PolicyIndex(index))),
                Entry::Occupied(taken) => {
                    let (service, intent, first) = (&policy.service, &policy.intent, taken.get().0 + 1);
                    let message = format!(
                        "`{}:{}` has a policy already, policy {first}; remove one or merge them",
                        service.escape_debug(),
                        intent.escape_debug()
                    );
                    report(Part::Intent, message);
                }
            }
            let hours = hours(policy.allowed_hours.as_deref(), &mut report);
            let checks = policy.conditions.iter().enumerate().filter_map(|(n, c)| check(n, c, &mut report)).collect();
            all.compiled.push(Compiled { policy, hours, checks });
        }
        if problems.is_empty() { Ok(all) } else { Err(problems) }
    }

    /// The policy that answers for this service and intent.
    pub fn find(&self, service: &str, intent: &str) -> Option<(PolicyIndex, &Compiled)> {
        let index = *self.by_service.get(service)?.get(intent)?;
        Some((index, self.compiled.get(index.0)?))
    }

    /// All policies in the order they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (PolicyIndex, &Compiled)> {
        self.compiled.iter().enumerate().map(|(index, compiled)| (PolicyIndex(index), compiled))
    }

    /// How many policies there are; every [`PolicyIndex`] is below it.
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    /// Whether there is none, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }
}

impl PolicyIndex {
    /// The position, for tables that run beside the policies.
    pub fn position(self) -> usize {
        self.0
    }
}

impl Compiled {
    /// The policy as it was written.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The limits, if there is at least one.
    pub fn rate_limits(&self) -> Option<RateLimits> {
        let limits = self.policy.rate_limits?;
        (limits.requests_per_minute.is_some() || limits.requests_per_hour.is_some()).then_some(limits)
    }

    /// Whether this hour of the UTC day is allowed; hours above 23 never are.
    pub fn allows_hour(&self, hour: u8) -> bool {
        self.hours.checked_shr(hour.into()).is_some_and(|bits| bits & 1 == 1)
    }
}

const ALL_HOURS: u32 = (1 << 24) - 1;

fn hours(allowed: Option<&[u8]>, report: &mut impl FnMut(Part, String)) -> u32 {
    match allowed {
        None => ALL_HOURS,
        Some([]) => {
            let message = "`allowed_hours` is empty, list hours from 0 to 23 or set `time_restrictions` to null";
            report(Part::AllowedHours, message.into());
            0
        }
        Some(hours) => hours.iter().fold(0, |bits, &hour| {
            if hour > 23 {
                report(Part::AllowedHours, format!("`{hour}` is no hour of the day, hours are 0 to 23 in UTC"));
                return bits;
            }
            bits | 1 << hour
        }),
    }
}

fn check(number: usize, condition: &Condition, report: &mut impl FnMut(Part, String)) -> Option<Check> {
    if condition.field.is_empty() {
        report(Part::ConditionField(number), "`field` is empty, name a member of the context".into());
    }
    let description = condition.description.as_deref().unwrap_or("Unknown");
    match Test::new(condition.operator, &condition.value) {
        Ok(test) => Some(Check {
            field: condition.field.as_str().into(),
            test,
            denial: format!("Condition not met: {description}").into(),
        }),
        Err(message) => {
            report(Part::ConditionValue(number), message.into());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::governance::model::Operator;

    fn policy(service: &str, intent: &str) -> Policy {
        Policy {
            service: service.into(),
            intent: intent.into(),
            enabled: true,
            description: None,
            allowed_hours: None,
            rate_limits: None,
            conditions: Vec::new(),
        }
    }

    fn with_condition(field: &str, operator: Operator, value: Value) -> Policy {
        let condition = Condition { field: field.into(), operator, value, description: None };
        Policy { conditions: vec![condition], ..policy("orbit", "a") }
    }

    fn places(policies: Vec<Policy>) -> Vec<(usize, Part)> {
        Policies::compile(policies).expect_err("problems").into_iter().map(|p| (p.index, p.part)).collect()
    }

    #[test]
    fn every_problem_is_reported_in_its_place() {
        let hours = |hours: &[u8]| Policy { allowed_hours: Some(hours.to_vec()), ..policy("orbit", "a") };
        for (policies, expected) in [
            (vec![policy("", "a")], vec![(0, Part::Service)]),
            (vec![policy("orbit", "")], vec![(0, Part::Intent)]),
            (vec![policy("orbit", &"a".repeat(257))], vec![(0, Part::Intent)]),
            (vec![policy("orbit", "a\n")], vec![(0, Part::Intent)]),
            (vec![policy("orbit", "a"), policy("orbit", "b"), policy("orbit", "a")], vec![(2, Part::Intent)]),
            (vec![hours(&[])], vec![(0, Part::AllowedHours)]),
            (vec![hours(&[0, 24, 23, 255])], vec![(0, Part::AllowedHours), (0, Part::AllowedHours)]),
            (vec![with_condition("", Operator::Equals, json!(1))], vec![(0, Part::ConditionField(0))]),
            (vec![with_condition("f", Operator::GreaterThan, json!("1"))], vec![(0, Part::ConditionValue(0))]),
            (vec![with_condition("f", Operator::LessThan, json!(null))], vec![(0, Part::ConditionValue(0))]),
            (vec![with_condition("f", Operator::Contains, json!(""))], vec![(0, Part::ConditionValue(0))]),
            (
                vec![hours(&[24]), with_condition("", Operator::LessThan, json!([]))],
                vec![
                    (0, Part::AllowedHours),
                    (1, Part::Intent),
                    (1, Part::ConditionField(0)),
                    (1, Part::ConditionValue(0)),
                ],
            ),
        ] {
            assert_eq!(places(policies), expected);
        }
    }

    #[test]
    fn a_duplicate_names_the_first() {
        let problems = Policies::compile(vec![policy("o", "x"), policy("o", "a"), policy("o", "a")]).expect_err("dup");
        let messages: Vec<_> = problems.iter().map(|p| &*p.message).collect();
        assert_eq!(messages, ["`o:a` has a policy already, policy 2; remove one or merge them"]);
    }

    #[test]
    fn the_index_is_the_order_given() {
        let given = [("orbit", "a"), ("other", "a"), ("orbit", "b")];
        let policies = Policies::compile(given.map(|(s, i)| policy(s, i)).to_vec()).expect("valid");
        for (position, (service, intent)) in given.into_iter().enumerate() {
            let (index, compiled) = policies.find(service, intent).expect("there");
            assert_eq!((index.position(), &*compiled.policy().intent), (position, intent));
        }
        assert_eq!(policies.iter().map(|(i, _)| i.position()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(policies.find("other", "b").is_none() && policies.find("", "").is_none());
    }

    #[test]
    fn hours_become_bits() {
        let some = Policy { allowed_hours: Some(vec![0, 8, 23, 8]), ..policy("orbit", "some") };
        let policies = Policies::compile(vec![some, policy("orbit", "all")]).expect("valid");
        let allowed = |intent| {
            let (_, compiled) = policies.find("orbit", intent).expect("there");
            (0..=u8::MAX).filter(|&hour| compiled.allows_hour(hour)).collect::<Vec<_>>()
        };
        assert_eq!(allowed("some"), [0, 8, 23]);
        assert_eq!(allowed("all"), (0..24).collect::<Vec<_>>());
    }

    #[test]
    fn a_block_without_a_limit_is_no_limit() {
        for (minute, hour, limited) in [(None, None, false), (Some(1), None, true), (None, Some(0), true)] {
            let limits = RateLimits { requests_per_minute: minute, requests_per_hour: hour };
            let policy = Policy { rate_limits: Some(limits), ..policy("orbit", "a") };
            let policies = Policies::compile(vec![policy]).expect("valid");
            let (_, compiled) = policies.find("orbit", "a").expect("there");
            assert_eq!(compiled.rate_limits(), limited.then_some(limits));
        }
    }
}
