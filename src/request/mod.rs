//! The vocabulary of a request: its head, its ids, its route, the address it came from.

pub mod chunks;
pub mod client;
pub mod correlation;
pub mod dispatch;
pub mod head;
pub mod route;

pub use head::Head;
