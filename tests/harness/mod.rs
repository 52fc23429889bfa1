//! The real gateway on port 0, a scripted Axon, raw clients, and one check of the contract on every answer.

pub mod axon;
pub mod axon2;
pub mod check;
pub mod client;
pub mod dns;
pub mod gateway;
pub mod moto;
pub mod page;
pub mod process;
pub mod secure;
