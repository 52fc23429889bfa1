//! The way to Axon: which backend, over which connection, asked how, and what its answer means.

mod backend;
mod call;
mod choose;
mod dial;
pub mod envelope;
mod exchange;
mod forward;
mod http1;
mod pool;
mod stream;
mod tls;
mod upstream;
mod wire;

pub use backend::{Backend, BackendMetrics};
pub use call::{Call, Outcome};
pub use exchange::{Broken, Collected, Exchange};
pub use forward::{Outgoing, forward, is_nominated};
pub use upstream::Upstream;
