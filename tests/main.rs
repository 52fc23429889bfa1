//! The gateway as its clients see it. One binary, so that it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod clients;
mod commands;
mod dispatch;
mod failure_matrix;
mod forwarding;
mod front_door;
mod governance;
mod harness;
mod layers;
mod limits;
mod observability;
mod presigned;
mod reload;
mod replay;
mod retries;
mod rotation;
mod signing;
mod sigv4_attacks;
mod sigv4_hints;
mod sigv4_suite;
mod sigv4_verify;
mod streams;
mod under_load;
mod upstream_http2;
mod upstream_tls;
mod upstreams;
