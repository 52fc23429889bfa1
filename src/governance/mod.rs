//! May this service do this intent with this context? Policies, checked at load, asked per request.
//!
//! The journey of a policy is `model` (as written) → `compile` (as asked); the journey of a request is
//! `context` (its facts) → `decide` (the answer), which tests each `condition` in order.
//!
//! Invariants: a decision is a function of its arguments alone, so time arrives as an hour and rate
//! limits as a question to the caller; what cannot be evaluated denies.

pub mod compile;
mod condition;
pub mod context;
pub mod decide;
pub mod model;

pub use compile::{Compiled, Part, Policies, PolicyIndex, Problem};
pub use context::{Context, ContextError};
pub use decide::{Decision, Verdict, hour_of_day};
pub use model::{Condition, Operator, Policy, RateLimits};
