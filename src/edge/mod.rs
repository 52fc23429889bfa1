//! Client connections: reads each request's head under its own deadline and bound, refuses what the front
//! door refuses, and hands the rest to Pingora's filters.
//!
//! Pingora reads heads with a timeout per read, so a client that drips one line at a time holds its
//! connection for ever; it forgives duplicate lengths, bare line feeds and chunk framing that two parsers
//! can read differently; and it answers what it cannot parse in its own words. All three end here.

pub(crate) mod client;
mod turns;
pub(crate) mod visit;

use std::future::{Future, poll_fn};
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::clock::Moment;
use crate::edge::client::Client;
use crate::edge::turns::Turns;
use crate::edge::visit::{Visit, Visits};
use crate::error::{Code, Rejection};
use crate::gate::Standing;
use crate::gateway::Gateway;
use crate::observation::Observation;
use crate::pipeline::Arrival;
use crate::proxy::Proxy;
use crate::reply::{Answer, Common, Second};
use crate::request::correlation::Ids;
use crate::request::head::{Head, bad_line, end_of_head, has_bare_line_feed, overflow};
use crate::request::route::Endpoint;
use crate::telemetry::metrics::Counted;

/// How long the last answer of a connection may take to leave, and its first request to come once listeners close.
const FAREWELL: Duration = Duration::from_secs(1);

/// The application that Pingora's listeners hand connections to.
pub struct Edge {
    gateway: Arc<Gateway>,
    proxy: Proxy,
    turns: Turns,
    /// Pingora holds the edge once for its listeners and once for every accepted connection, also for one
    /// that no thread has come to yet; a drain waits for all of them.
    _waited_for: TaskTrackerToken,
}

/// How the wait for a head ended.
enum Next {
    /// A whole head is here.
    Head { head: Bytes, began: Moment },
    /// What came cannot be a request.
    Refused { rejection: Rejection, began: Moment },
    /// Nothing came, and nobody is owed an answer.
    Closed,
}

impl Edge {
    pub fn new(gateway: Arc<Gateway>, proxy: Proxy) -> Self {
        let waited_for = gateway.connections.token();
        Self { gateway, proxy, turns: Turns::default(), _waited_for: waited_for }
    }

    async fn serve(&self, stream: Stream, mut shutdown: ShutdownWatch) {
        let gateway = &*self.gateway;
        let _counted = Counted::new(&gateway.telemetry.metrics.connections);
        let peer = peer_of(&stream);
        let mut client = Client::new(stream);

        let connections = gateway.telemetry.metrics.connections.get();
        if connections > i64::from(gateway.snapshot().settings.listen.connections) {
            // No lingering here: what is too much must not stay longer than it takes to say so.
            let rejection = Rejection::unavailable("overload", "listen.connections are open").closing();
            return Box::pin(self.refuse(&mut client, rejection, gateway.clock.now())).await;
        }

        let (mut visits, mut second) = (Visits::new(), Second::default());
        let told = pin!(async move {
            // An error means that the sender is gone, which is the end as well.
            let _ = shutdown.wait_for(|closing| *closing).await;
        });
        let timer = pin!(sleep(gateway.snapshot().settings.listen.header_timeout));
        let mut waiting = Waiting { told, is_told: false, timer };
        let mut first = true;
        loop {
            let (head, began) = match self.next_head(&mut client, first, &mut waiting).await {
                Next::Head { head, began } => (head, began),
                Next::Refused { rejection, began } => {
                    return Box::pin(self.turn_away(&mut client, rejection, began)).await;
                }
                Next::Closed => return,
            };
            first = false;
            let head = match Head::parse(head) {
                Ok(head) => head,
                Err(rejection) => return Box::pin(self.turn_away(&mut client, rejection, began)).await,
            };
            client.begin(head.framing(), head.keeps_connection());
            let ids = Ids::of(Some(&head), &*gateway.ids, began);
            let arrival = Arrival { head, ids, peer, began, snapshot: gateway.snapshot() };
            let Some(visit) = visits.serve(&self.proxy, Visit { client, arrival, second }).await else { return };
            let arrival = visit.arrival;
            (client, second) = (visit.client, visit.second);
            let whole = client.answer_whole();
            // Who was told that the connection goes on has as long for a body that nobody reads as for any other.
            let patience = arrival.snapshot.settings.listen.body_timeout;
            if whole
                && client.keeps()
                && (client.body_ended() || Box::pin(waiting.unless_told(client.drain(patience))).await == Some(true))
            {
                continue;
            }
            // Who asked for the end and has been told it sends nothing more; who left is told nothing.
            let done = whole && client.body_ended() && !client.is_ahead() && !arrival.head.keeps_connection();
            if client.answer_begun() && !done {
                Box::pin(client.linger()).await;
            }
            return;
        }
    }

    /// Waits for a request's head: `listen.idle_timeout` for its first byte (`listen.header_timeout` on a
    /// new connection), `listen.header_timeout` in all for the rest, `listen.header_bytes` in all.
    async fn next_head<F: Future<Output = ()>>(
        &self,
        client: &mut Client,
        first: bool,
        waiting: &mut Waiting<'_, F>,
    ) -> Next {
        let (header_timeout, idle_timeout, header_bytes) = {
            let listen = &self.gateway.snapshot().settings.listen;
            (listen.header_timeout, listen.idle_timeout, listen.header_bytes as usize)
        };
        if client.input().is_empty() {
            let patience = if first { header_timeout } else { idle_timeout };
            match waiting.read(client, &self.turns, patience, first).await {
                Waited::Read => {}
                Waited::Late if first => {
                    let began = self.gateway.clock.now();
                    return Next::Refused { rejection: too_slow("no request came"), began };
                }
                Waited::Late | Waited::Ended => return Next::Closed,
            }
        }
        let began = self.gateway.clock.now();
        let (mut searched, mut deadline) = (0, None);
        loop {
            let input = client.input();
            match end_of_head(input, searched) {
                Some(end) if end <= header_bytes => return Next::Head { head: client.take_head(end), began },
                Some(_) => return Next::Refused { rejection: overflow(input), began },
                None if input.len() >= header_bytes => return Next::Refused { rejection: overflow(input), began },
                None if has_bare_line_feed(input, searched) => return Next::Refused { rejection: bad_line(), began },
                None => searched = input.len(),
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + header_timeout);
            match timeout_at(deadline, client.read()).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Next::Closed,
                Err(_) => return Next::Refused { rejection: too_slow("head came too slowly"), began },
            }
        }
    }

    /// Refuses, and sees to it that the answer arrives. Boxed where it is called, as everything that is seldom: the
    /// future of a connection is kept small, for there may be many that do nothing.
    async fn turn_away(&self, client: &mut Client, rejection: Rejection, began: Moment) {
        self.refuse(client, rejection, began).await;
        client.linger().await;
    }

    /// Answers what never became a request.
    async fn refuse(&self, client: &mut Client, rejection: Rejection, began: Moment) {
        let gateway = &*self.gateway;
        let snapshot = gateway.snapshot();
        let now = gateway.clock.now();
        let ids = Ids::of(None, &*gateway.ids, began);
        let answer = Answer::rejection(&rejection, &ids, now);
        let common = Common { ids: &ids, standing: &Standing::default(), decision: None, now };
        let head = answer.head(&common).end(Second::default().of(now), false);
        // A client that does not take its answer has none coming.
        client.send(head, answer.body, FAREWELL).await;
        let mut observation = Observation::begin(&ids, None, Endpoint::Other, began);
        observation.status = answer.status;
        observation.ended = gateway.clock.now();
        observation.refusal = Some(rejection);
        gateway.observe(&observation, &snapshot);
    }
}

/// The wait between requests: for bytes, for the end of patience, for the word that listeners close. It lasts as
/// long as the connection, so that timer and watch are registered once and not for every request.
struct Waiting<'a, F> {
    told: Pin<&'a mut F>,
    is_told: bool,
    /// Due before the wait is over, it is set again; so it is set as often as patience would end, at most.
    timer: Pin<&'a mut Sleep>,
}

/// How such a wait ended.
enum Waited {
    Read,
    Late,
    /// The client left, or listeners were told to close.
    Ended,
}

impl<F: Future<Output = ()>> Waiting<'_, F> {
    /// What `work` gives, or nothing once listeners are told to close.
    async fn unless_told<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        if self.is_told {
            return None;
        }
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.told.as_mut() => {
                self.is_told = true;
                None
            }
        }
    }

    /// Once listeners are told to close, a `first` request has a moment to come, because its connection was accepted;
    /// for others the wait is over.
    async fn read(&mut self, client: &mut Client, turns: &Turns, patience: Duration, first: bool) -> Waited {
        let mut until = Instant::now() + patience;
        if self.timer.deadline() > until {
            self.timer.as_mut().reset(until);
        }
        let (mut in_grace, mut may_have_come, mut place) = (false, first, None);
        poll_fn(|cx| {
            // What this task is woken for is a request, as a rule; other reasons can wait as long. Nor does a new
            // connection pass those that are kept. Right behind an answer there is seldom anything yet.
            if mem::replace(&mut may_have_come, true) {
                ready!(turns.poll_begin(&mut place, cx));
            }
            if let Poll::Ready(read) = client.poll_read(cx) {
                return Poll::Ready(if matches!(read, Ok(1..)) { Waited::Read } else { Waited::Ended });
            }
            self.is_told = self.is_told || self.told.as_mut().poll(cx).is_ready();
            if self.is_told && !in_grace {
                if !first {
                    return Poll::Ready(Waited::Ended);
                }
                in_grace = true;
                until = until.min(Instant::now() + FAREWELL);
                self.timer.as_mut().reset(until);
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(if in_grace { Waited::Ended } else { Waited::Late });
                }
                self.timer.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        // Pingora's task has room for a TLS handshake, 9 KB that a connection would hold for as long as it is open.
        let (edge, shutdown) = (self.clone(), shutdown.clone());
        tokio::spawn(async move { edge.serve(stream, shutdown).await });
        None
    }

    async fn cleanup(&self) {}
}

fn too_slow(why: &'static str) -> Rejection {
    Rejection::new(Code::RequestTimeout, why).closing()
}

fn peer_of(stream: &Stream) -> IpAddr {
    let digest = stream.get_socket_digest();
    let address = digest.as_ref().and_then(|d| d.peer_addr()).and_then(|a| a.as_inet());
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip())
}
