//! The open connections of one backend: HTTP/1.1 ones that rest between exchanges, HTTP/2 ones that
//! exchanges share.
//!
//! An HTTP/1.1 connection is opened by the request that needs it. An HTTP/2 one is opened for all who wait
//! for a place, by a task of its own, so that requests which arrive together open no more than they need,
//! and none that leaves takes the connection from the others.
//!
//! Invariant: no lock is held across a wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::axon::dial::{Dialed, Dialer, Fault, NotOpened};
use crate::axon::http1::Http1;
use crate::axon::http2::{Http2, Place, STREAMS_MAX};
use crate::axon::trust::Trust;
use crate::axon::wire::Connection;

/// The open connections of one backend, and how to open more.
pub struct Pool {
    dialer: Dialer,
    kept: Arc<Kept>,
    trust: Trust,
    /// Times that every place was taken and no connection could be added.
    full: IntCounter,
}

/// What a pool may hold, and how long it may take; from the settings of the request that asks.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Idle connections kept; of HTTP/2, how many there may be.
    pub keepalive: usize,
    /// For opening a connection.
    pub connect: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

/// What tasks that open connections share with the pool.
struct Kept {
    /// Newest last: the one used next is the one most likely alive.
    #[allow(clippy::vec_box, reason = "they come and go as boxes, and are large")]
    idle: Mutex<Vec<Box<Http1>>>,
    shared: Mutex<Shared>,
    /// A place was given back, or the opening of a connection came to an end.
    changed: Arc<Notify>,
    /// Asked for HTTP/2, the backend chose HTTP/1.1 when last connected to.
    chose_http1: AtomicBool,
}

/// The HTTP/2 connections.
struct Shared {
    /// Filled in this order, so that those at the end come to rest when there is less to do.
    connections: Vec<Arc<Http2>>,
    /// Being opened.
    opening: usize,
    /// Who waits for a place.
    waiting: usize,
    /// Places on the connection opened last.
    places: usize,
    /// How many could not be opened so far, and why the last one could not.
    failures: (u64, Option<NotOpened>),
}

/// A connection idle for less is not looked at.
const REST: u64 = 100_000_000;

impl Pool {
    /// An empty pool. `full` counts the times that every place was taken and no connection could be added.
    pub fn new(dialer: Dialer, full: IntCounter) -> Self {
        let shared =
            Shared { connections: Vec::new(), opening: 0, waiting: 0, places: STREAMS_MAX, failures: (0, None) };
        let kept = Kept {
            idle: Mutex::new(Vec::new()),
            shared: Mutex::new(shared),
            changed: Arc::new(Notify::new()),
            chose_http1: AtomicBool::new(false),
        };
        Self { dialer, kept: Arc::new(kept), trust: Trust::default(), full }
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// For how long its idle connections are trusted.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// An open connection with place for an exchange, checked at this moment; `now` is in ticks.
    pub fn take(&self, now: u64) -> Option<Connection> {
        self.place().or_else(|| {
            let (open, closed) = self.kept.newest(|newest| self.trust.covers(newest.idle_for(now)));
            closed.iter().for_each(|connection| self.trust.seen_closed(connection.open_at(), now));
            open.map(Connection::Http1)
        })
    }

    fn place(&self) -> Option<Connection> {
        self.dialer.http2().then(|| self.kept.place()).flatten().map(Connection::Http2)
    }

    /// A new connection, or a place on one that is shared, by `deadline` or within `bounds.connect`. The
    /// caller may leave at any time.
    ///
    /// # Errors
    /// [`NotOpened`]; nothing was sent.
    pub async fn open(&self, address: SocketAddr, bounds: Bounds, deadline: Instant) -> Result<Connection, NotOpened> {
        let deadline = deadline.min(Instant::now() + bounds.connect);
        loop {
            if self.opens_its_own() {
                let dialed = timeout_at(deadline, self.dialer.dial(address, bounds.idle)).await;
                match dialed.unwrap_or_else(|_| Err(NotOpened::late()))? {
                    Dialed::Http1(connection) => return Ok(Connection::Http1(connection)),
                    Dialed::Http2(connection) => self.kept.add(connection),
                }
            }
            if let Some(connection) = self.wait(address, bounds, deadline).await? {
                return Ok(connection);
            }
        }
    }

    /// Whether a request opens a connection for itself alone.
    fn opens_its_own(&self) -> bool {
        !self.dialer.http2() || self.kept.chose_http1.load(Ordering::Relaxed)
    }

    /// Waits for a place on a shared connection, and sees to it that enough are opened. `None` when the
    /// backend turns out to have none to share.
    async fn wait(
        &self,
        address: SocketAddr,
        bounds: Bounds,
        deadline: Instant,
    ) -> Result<Option<Connection>, NotOpened> {
        let _waiting = Waiting::new(&self.kept);
        let failures = self.kept.shared.lock().failures.0;
        let mut counted = false;
        loop {
            // From here on no change is missed.
            let mut changed = std::pin::pin!(self.kept.changed.notified());
            changed.as_mut().enable();
            if let Some(place) = self.place() {
                return Ok(Some(place));
            }
            // One that was opened for all and turned out to be for one alone.
            if let (Some(connection), _) = self.kept.newest(|newest| newest.is_new()) {
                return Ok(Some(Connection::Http1(connection)));
            }
            if self.opens_its_own() {
                return Ok(None);
            }
            let full = {
                let mut shared = self.kept.shared.lock();
                match &shared.failures {
                    (count, Some(failure)) if *count != failures => return Err(failure.clone()),
                    _ => {}
                }
                let room = shared.connections.len() + shared.opening < bounds.keepalive.max(1);
                if room && shared.opening * shared.places < shared.waiting {
                    shared.opening += 1;
                    tokio::spawn(open_shared(Opening(self.kept.clone()), self.dialer.clone(), address, bounds));
                }
                shared.opening == 0
            };
            if full && !counted {
                counted = true;
                self.full.inc();
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(if full { NotOpened::full() } else { NotOpened::late() });
            }
        }
    }

    /// Gives a connection back after an answer that was read whole; one that is not good for another is
    /// closed, and so is the oldest of too many.
    pub fn put(&self, connection: Connection, bounds: Bounds, now_ticks: u64) {
        match connection {
            Connection::Http1(mut connection) => {
                if bounds.keepalive == 0 || !connection.settle(now_ticks) || !self.trust.covers_any() {
                    return;
                }
                let surplus = {
                    let mut idle = self.kept.idle.lock();
                    let surplus = (idle.len() >= bounds.keepalive).then(|| idle.remove(0));
                    idle.push(connection);
                    surplus
                };
                drop(surplus);
            }
            Connection::Http2(place) => {
                let connection = place.connection().clone();
                connection.set_idle_since(now_ticks);
                drop(place);
                let surplus = bounds.keepalive == 0 && connection.in_use() == 0;
                if surplus {
                    self.kept.shared.lock().connections.retain(|kept| !Arc::ptr_eq(kept, &connection));
                }
            }
        }
    }

    /// Closes what has been idle for too long at `now_ticks`, or is no longer trusted, and lets go of what the
    /// backend has closed.
    pub fn tend(&self, bounds: Bounds, now_ticks: u64) {
        self.trust.relax(now_ticks);
        let limit = now_ticks.saturating_sub(bounds.idle.as_nanos() as u64);
        // Those at rest; the others are in use again before they could be looked at.
        let mut resting: Vec<Box<Http1>> = {
            let mut idle = self.kept.idle.lock();
            let count = idle.iter().take_while(|connection| connection.idle_for(now_ticks) >= REST).count();
            idle.drain(..count).collect()
        };
        resting.retain_mut(|connection| {
            if connection.idle_since() < limit || !self.trust.covers(connection.idle_for(now_ticks)) {
                return false;
            }
            let open = connection.look(now_ticks);
            if !open {
                self.trust.seen_closed(connection.open_at(), now_ticks);
            }
            open
        });
        let surplus: Vec<Box<Http1>> = {
            let mut idle = self.kept.idle.lock();
            // They are still the oldest, or as good as.
            idle.splice(..0, resting);
            let surplus = idle.len().saturating_sub(bounds.keepalive);
            idle.drain(..surplus).collect()
        };
        drop(surplus);
        if !self.dialer.http2() {
            return;
        }
        let mut closed = Vec::new();
        self.kept.shared.lock().connections.retain(|connection| {
            if connection.idle_since() == 0 {
                connection.set_idle_since(now_ticks);
            }
            let stale = connection.in_use() == 0 && connection.idle_since() < limit;
            if stale {
                closed.push(connection.clone());
            }
            !stale
        });
        drop(closed);
    }

    /// Notes that a connection which had been idle for so many nanoseconds broke under a request. The others
    /// that are idle have most likely ended as well.
    pub fn lost(&self, idle: u64, now_ticks: u64) {
        self.trust.lost(idle, now_ticks);
        let closed = std::mem::take(&mut *self.kept.idle.lock());
        drop(closed);
    }

    /// Closes everything that is not in use, and forgets what was learned: another process may listen there.
    pub fn clear(&self) {
        self.trust.forget();
        let idle = std::mem::take(&mut *self.kept.idle.lock());
        let shared = std::mem::take(&mut self.kept.shared.lock().connections);
        drop((idle, shared));
    }
}

impl Kept {
    /// The newest idle connection, if it is open and will do; and those found closed on the way. If the newest
    /// is too old, so are all.
    #[allow(clippy::vec_box, reason = "they come and go as boxes")]
    fn newest(&self, will_do: impl Fn(&Http1) -> bool) -> (Option<Box<Http1>>, Vec<Box<Http1>>) {
        let mut closed = Vec::new();
        loop {
            // The lock is held for the pop alone; the look at the connection comes after.
            let popped = {
                let mut idle = self.idle.lock();
                if idle.last().is_some_and(|newest| will_do(newest)) { idle.pop() } else { None }
            };
            let Some(mut connection) = popped else { return (None, closed) };
            if connection.is_open() {
                return (Some(connection), closed);
            }
            closed.push(connection);
        }
    }

    /// A free place; connections that have ended are let go of.
    fn place(&self) -> Option<Place> {
        let mut found = None;
        let mut ended = Vec::new();
        self.shared.lock().connections.retain(|connection| {
            if found.is_some() {
                return true;
            }
            match connection.place(&self.changed) {
                Ok(place) => found = place,
                Err(_) => ended.push(connection.clone()),
            }
            ended.last().is_none_or(|last| !Arc::ptr_eq(last, connection))
        });
        drop(ended);
        found
    }

    fn add(&self, connection: Arc<Http2>) {
        self.chose_http1.store(false, Ordering::Relaxed);
        let mut shared = self.shared.lock();
        shared.places = connection.allowed().max(1);
        shared.connections.push(connection);
    }
}

/// Opens a connection for all who wait. It is not theirs: it goes on when they leave.
async fn open_shared(opening: Opening, dialer: Dialer, address: SocketAddr, bounds: Bounds) {
    let dialed = timeout(bounds.connect, dialer.dial(address, bounds.idle)).await;
    let kept = &opening.0;
    match dialed.unwrap_or_else(|_| Err(NotOpened::late())) {
        Ok(Dialed::Http2(connection)) if connection.allowed() > 0 => kept.add(connection),
        Ok(Dialed::Http2(_)) => {
            let why = "connect failed: HTTP/2: it allows no streams".into();
            kept.shared.lock().fail(NotOpened { fault: Fault::Theirs, why });
        }
        Ok(Dialed::Http1(connection)) => {
            kept.chose_http1.store(true, Ordering::Relaxed);
            kept.idle.lock().push(connection);
        }
        Err(failure) => kept.shared.lock().fail(failure),
    }
}

impl Shared {
    fn fail(&mut self, failure: NotOpened) {
        self.failures = (self.failures.0 + 1, Some(failure));
    }
}

/// A connection being opened, counted for as long as it lives.
struct Opening(Arc<Kept>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.shared.lock().opening -= 1;
        self.0.changed.notify_waiters();
    }
}

/// Somebody who waits for a place, counted for as long as it lives.
struct Waiting<'a>(&'a Kept);

impl<'a> Waiting<'a> {
    fn new(kept: &'a Kept) -> Self {
        kept.shared.lock().waiting += 1;
        Self(kept)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.shared.lock().waiting -= 1;
    }
}
