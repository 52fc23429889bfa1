//! A name server in the hands of the test.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use orbit::axon::Resolver;

use super::axon::Gate;

/// Knows no name until told. Clones are the same server.
#[derive(Clone, Default)]
pub struct Dns(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Clone)]
enum Known {
    Addresses(Vec<IpAddr>),
    Held(Gate),
}

impl Dns {
    pub fn new() -> Self {
        Self::default()
    }

    /// What `name` stands for from now on; nothing at all is an empty answer.
    pub fn set(&self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        self.tell(name, Known::Addresses(addresses.into_iter().collect()));
    }

    /// From now on there is no such name.
    pub fn forget(&self, name: &str) {
        self.0.lock().expect("names").remove(name);
    }

    /// From now on no question for `name` is answered until the gate is released, and then by an error.
    pub fn hold(&self, name: &str) -> Gate {
        let gate = Gate::new();
        self.tell(name, Known::Held(gate.clone()));
        gate
    }

    fn tell(&self, name: &str, known: Known) {
        self.0.lock().expect("names").insert(name.to_owned(), known);
    }
}

type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

impl Resolver for Dns {
    fn resolve(&self, name: &str, port: u16) -> Answer {
        let known = self.0.lock().expect("names").get(name).cloned();
        let unknown = || io::Error::other("no such name");
        match known {
            Some(Known::Addresses(addresses)) => {
                Box::pin(ready(Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())))
            }
            Some(Known::Held(gate)) => Box::pin(async move {
                gate.pass().await;
                Err(unknown())
            }),
            None => Box::pin(ready(Err(unknown()))),
        }
    }
}
