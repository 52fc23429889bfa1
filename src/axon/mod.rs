//! The way to Axon: which upstream, which of its backends, over which connection, asked how, and what its
//! answer means.

mod asking;
mod backend;
mod call;
mod choose;
mod condition;
mod dial;
pub mod envelope;
mod exchange;
mod forward;
mod http1;
mod http2;
mod pool;
mod probe;
mod resolve;
mod retry;
mod socket;
mod stream;
mod tls;
mod trust;
mod upstream;
mod watch;
mod wire;

pub use backend::{Backend, BackendMetrics, Meter, Resolution};
pub use call::{Call, Outcome};
pub use choose::{Backends, Member};
pub use condition::{Cause, State};
pub use exchange::{Broken, Collected, Exchange};
pub use forward::{Outgoing, forward, is_nominated};
pub use resolve::{Resolver, SystemResolver, unresolved};
pub use retry::{Budget, Reason};
pub use upstream::{CredentialsByUpstream, Upstream, Upstreams};
pub use watch::{World, watch};
