//! **Orbit** is the signed, governed front door of an agent runtime: a reverse proxy that verifies AWS
//! Signature Version 4 over head and body, limits, asks governance, and forwards to Axon.
//!
//! # Invariants
//!
//! 1. A request sees one configuration snapshot from first byte to last.
//! 2. No byte reaches Axon or governance before the signature over head and body is verified and every
//!    limit passed.
//! 3. On the path to admission the only wait is reading the bounded body. No file, no DNS, no lock held
//!    across an await.
//! 4. Clock, environment and randomness are passed in; nothing below the assembly reads them. No global
//!    mutable state.
//! 5. Every queue, table, buffer, body and wait has a bound, and a metric when it is hit.
//! 6. Every refusal has a code and a fixed public sentence; detail goes to the log. Local answers are
//!    written in one place.
//! 7. Unknown is refused: unknown field, blank block, erroring rule, missing required block.
//! 8. None of the caller's credentials reach Axon; none of anyone's reach a log.
//! 9. A request that Axon may have begun is never sent twice.
//!
//! # Where things are
//!
//! Read [`pipeline`] first: it is the journey of a request. [`edge`] reads heads off client connections,
//! [`proxy`] serves them as Pingora's `ProxyHttp`, [`gate`] holds one file per check, [`auth`] verifies
//! signatures, [`limit`] counts, [`governance`] decides, [`axon`] forwards, [`reply`] answers,
//! [`telemetry`] tells, [`aws`] fetches keys and credentials. [`config`] reads YAML, [`snapshot`] makes it what requests see, [`gateway`]
//! assembles it all.

pub mod auth;
pub mod aws;
pub mod axon;
pub mod cli;
pub mod clock;
pub mod config;
pub mod edge;
pub mod error;
pub mod flow;
pub mod gate;
pub mod gateway;
pub mod governance;
pub mod lifecycle;
pub mod limit;
pub mod local;
pub mod observation;
pub mod pipeline;
pub mod proxy;
pub mod reply;
pub mod request;
mod rotation;
mod signing;
pub mod snapshot;
pub mod telemetry;
