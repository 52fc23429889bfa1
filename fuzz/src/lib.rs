//! What the fuzz targets do with their bytes, one module each.
//!
//! The verifier is compiled in from Orbit's own files, without the rest of Orbit: an instrumented Pingora
//! would take longer to build than all targets take to run. It is compared with [`naive`], a second
//! implementation that is slow and plain, and with AWS's signer.

#[path = "../../src/auth/mod.rs"]
pub mod auth;
#[path = "../../src/clock.rs"]
pub mod clock;
#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/request/mod.rs"]
pub mod request;

pub mod authorization;
pub mod canonical;
pub mod head;
mod input;
mod naive;
mod signing;
pub mod verifier;
