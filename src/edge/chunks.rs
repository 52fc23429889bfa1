//! Chunked framing, which Axon's side follows too: see [`crate::request::chunks`].

pub use crate::request::chunks::*;
