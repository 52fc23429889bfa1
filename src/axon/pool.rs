//! The open connections of one backend.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;

use crate::axon::dial::{Dialer, NotOpened};
use crate::axon::http1::Http1;
use crate::axon::wire::Connection;

/// The open connections of one backend, and how to open more.
pub struct Pool {
    dialer: Dialer,
    /// Newest last: the one used next is the one most likely alive.
    #[allow(clippy::vec_box, reason = "they come and go as boxes, and are large")]
    idle: Mutex<Vec<Box<Http1>>>,
}

/// What a pool may hold, and how long it may take; from the settings of the request that asks.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Idle connections kept.
    pub keepalive: usize,
    /// For opening a connection.
    pub connect: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Pool {
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, idle: Mutex::new(Vec::new()) }
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// An open connection with place for an exchange, checked at this moment.
    pub fn take(&self) -> Option<Connection> {
        loop {
            // The lock is held for the pop alone; the look at the connection comes after.
            let mut connection = self.idle.lock().pop()?;
            if connection.is_open() {
                return Some(Connection::Http1(connection));
            }
        }
    }

    /// A new connection. The caller bounds the wait, and may leave at any time.
    ///
    /// # Errors
    /// [`NotOpened`]; nothing was sent.
    pub async fn open(&self, address: SocketAddr, _bounds: Bounds) -> Result<Connection, NotOpened> {
        self.dialer.dial(address).await
    }

    /// Gives a connection back after an answer that was read whole; one that is not good for another is
    /// closed, and so is the oldest of too many.
    pub fn put(&self, connection: Connection, bounds: Bounds, now_ticks: u64) {
        match connection {
            Connection::Http1(mut connection) => {
                if bounds.keepalive == 0 || !connection.settle(now_ticks) {
                    return;
                }
                let surplus = {
                    let mut idle = self.idle.lock();
                    let surplus = (idle.len() >= bounds.keepalive).then(|| idle.remove(0));
                    idle.push(connection);
                    surplus
                };
                drop(surplus);
            }
        }
    }

    /// Closes what has been idle for longer than `age` at `now_ticks`.
    pub fn close_older_than(&self, age: Duration, now_ticks: u64) {
        let limit = now_ticks.saturating_sub(age.as_nanos() as u64);
        let mut idle = self.idle.lock();
        let stale = idle.iter().take_while(|c| c.idle_since() < limit).count();
        let closed: Vec<Box<Http1>> = idle.drain(..stale).collect();
        drop(idle);
        drop(closed);
    }

    /// Closes everything that is not in use.
    pub fn clear(&self) {
        let closed = std::mem::take(&mut *self.idle.lock());
        drop(closed);
    }
}
