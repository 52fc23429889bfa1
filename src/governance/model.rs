//! A policy as it is written: one to one with the file format of `api.md`, already checked.

use serde_json::Value;

/// What one service may do for one intent.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub service: String,
    pub intent: String,
    pub enabled: bool,
    pub description: Option<String>,
    /// Hours of the UTC day, 0–23, never empty; `None` is always.
    pub allowed_hours: Option<Vec<u8>>,
    pub rate_limits: Option<RateLimits>,
    /// Checked in this order; the first that fails denies.
    pub conditions: Vec<Condition>,
}

/// Requests that a policy allows; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    pub requests_per_minute: Option<u32>,
    pub requests_per_hour: Option<u32>,
}

/// One `context_check`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The member of `context` that is looked at.
    pub field: String,
    pub operator: Operator,
    pub value: Value,
    pub description: Option<String>,
}

/// How a context member is compared with the policy's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
    Contains,
    GreaterThan,
    LessThan,
}

impl Operator {
    /// Every operator with its name in policy files.
    pub const ALL: [(&'static str, Operator); 5] = [
        ("equals", Operator::Equals),
        ("not_equals", Operator::NotEquals),
        ("contains", Operator::Contains),
        ("greater_than", Operator::GreaterThan),
        ("less_than", Operator::LessThan),
    ];
}
