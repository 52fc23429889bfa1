//! Reads YAML files and complains about them: spans, secrets, units.
//!
//! It knows nothing of Orbit. A file becomes a tree of spanned nodes ([`yaml`]), a caller asks the
//! tree for typed values ([`block`], [`value`]), and whatever nobody asked for is an error.
//!
//! Invariants: every problem is reported, not only the first; unknown is refused; no secret is ever
//! part of a message or of an excerpt; every file, tree and list of problems has a bound.

pub mod block;
pub mod context;
mod names;
pub mod problem;
pub mod secret;
pub mod source;
pub mod units;
pub mod value;
pub mod yaml;

pub use block::{Block, Key, Switch};
pub use context::{Context, Document, Outcome, Row};
pub use problem::{Colour, Problem, Problems, Severity};
pub use secret::{Environment, ProcessEnvironment};
pub use source::{Confidentiality, Span, others_may_read, printable, shown, shown_path};
pub use units::Rate;
pub use value::{Rule, Value, Written};
