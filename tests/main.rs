//! The gateway as its clients see it. One binary, so that it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod dispatch;
mod harness;
mod layers;
mod sigv4_suite;
