//! Every way in which Axon fails, and what comes of it: one table, played on the real gateway and told to
//! operators in `docs/failure-modes.md`.
//!
//! Invariant: a request that may not be repeated is never seen twice, whatever a row says.

mod page;
mod table;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::table::{After, Again, ENVELOPE, Expected, Gets, How, OBJECT, Row, matrix};

use crate::harness::axon::{Axon, Gate, Recorded, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Broken, Client, Ending, Response};
use crate::harness::gateway::{BODY, Gateway, Setup, signing};

/// How Axon is asked, and thereby whether asking twice does harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Post,
    /// With an `Idempotency-Key`.
    KeyedPost,
    Get,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Fresh,
    Reused,
}

/// How many rows are played at once, so that none runs out of time for want of a processor.
const AT_ONCE: usize = 8;

async fn play_all(asked: Asked, connection: Connection) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    let mut names = HashMap::new();
    for row in matrix().into_iter().flat_map(|group| group.rows) {
        let expected = if connection == Connection::Fresh { row.fresh } else { row.reused };
        let Some(expected) = expected else { continue };
        let row = Arc::new(row);
        for alone in [true, false] {
            let (play, places) = (Play { row: row.clone(), expected, asked, connection, alone }, places.clone());
            let name = play.name();
            let task = playing.spawn(async move {
                let _place = places.acquire().await.unwrap();
                play.run().await;
            });
            names.insert(task.id(), name);
        }
    }
    let mut failed = Vec::new();
    while let Some(played) = playing.join_next_with_id().await {
        if let Err(failure) = played {
            failed.push(names.remove(&failure.id()).unwrap());
        }
    }
    assert!(failed.is_empty(), "these went otherwise, as told above: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_post_on_a_fresh_connection() {
    play_all(Asked::Post, Connection::Fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_post_on_a_reused_connection() {
    play_all(Asked::Post, Connection::Reused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_post_with_a_key_on_a_reused_connection() {
    play_all(Asked::KeyedPost, Connection::Reused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_get_on_a_fresh_connection() {
    play_all(Asked::Get, Connection::Fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_get_on_a_reused_connection() {
    play_all(Asked::Get, Connection::Reused).await;
}

/// One row on one kind of connection, by one mapping, with one backend or two.
struct Play {
    row: Arc<Row>,
    expected: Expected,
    asked: Asked,
    connection: Connection,
    alone: bool,
}

impl Play {
    fn name(&self) -> String {
        let backends = if self.alone { "alone" } else { "of two" };
        format!("Axon {}, {:?}, {:?}, {backends}", self.row.does, self.asked, self.connection)
    }

    fn setup(&self, urls: &[String]) -> Setup {
        let request = match self.asked {
            Asked::Post | Asked::KeyedPost => "{ method: POST, path: /dispatch }",
            Asked::Get => "{ method: GET, path: /reason, body: none }",
        };
        // Only where time must run out is it short, so that a busy machine fails no other row.
        let timeouts = match self.row.how {
            How::Swallow => "{ connect: 500ms }",
            _ if self.expected.outcome == "timeout" => "{ first_byte: 1s, idle: 1s }",
            _ => "{ first_byte: 10s }",
        };
        let eject = match self.consecutive() {
            Some(consecutive) => format!("{{ consecutive: {consecutive} }}"),
            None => "disabled".to_owned(),
        };
        let more = format!("request: {request}, timeouts: {timeouts}, eject: {eject}, retry: {{ backoff: 1ms..2ms }}");
        Setup::new(&[]).upstream(urls, &format!("{more}, response: {{ envelope_bytes: {ENVELOPE} }}"))
    }

    /// As many failures as eject: for a plain POST those of the row, for others one more, so that the two tell how
    /// many those are. One that is alone is asked again, to see that it left nothing behind.
    fn consecutive(&self) -> Option<u32> {
        let failures = match self.expected.after {
            After::Failed(times) => times,
            After::Either => 2,
            After::Nothing | After::Unreachable => 0,
        };
        match self.asked {
            _ if self.alone => None,
            Asked::Post => Some(failures.max(1)),
            Asked::KeyedPost | Asked::Get => Some(failures + 1),
        }
    }

    async fn run(&self) {
        match &self.row.how {
            How::Refuse | How::Swallow => self.gone().await,
            How::Drop(_) | How::EndIdle | How::Answer(_) => self.scripted().await,
        }
    }

    /// Whichever backend is asked first fails.
    async fn scripted(&self) {
        let mut axons = vec![Axon::start()];
        if !self.alone {
            axons.push(axons[0].fellow());
        }
        let urls: Vec<String> = axons.iter().map(Axon::url).collect();
        let gateway = self.setup(&urls).start().await;
        for axon in &axons {
            axon.connected(1).await;
        }
        if self.connection == Connection::Reused {
            let warming = Reply::json(200, OBJECT);
            let ending = matches!(self.row.how, How::EndIdle);
            axons[0].answer(if ending { warming.then_close() } else { warming });
            for axon in &axons {
                while axon.requests().is_empty() {
                    contract(&dispatch(&gateway, "warming").await, Kind::Success);
                }
                if ending {
                    axon.hung_up(axon.requests().len()).await;
                }
            }
            axons[0].answer(Reply::json(200, OBJECT));
        }
        match &self.row.how {
            How::Drop(accept) => axons[0].next_connections([*accept]),
            How::Answer(reply) => axons[0].next([reply.clone()]),
            How::EndIdle | How::Refuse | How::Swallow => {}
        }
        let seen_before: Vec<usize> = axons.iter().map(|axon| axon.requests().len()).collect();
        let tally = Tally::of(&gateway, &urls);
        let calls = self.ask(&gateway).await;

        let seen: Vec<Vec<Recorded>> =
            axons.iter().zip(seen_before).map(|(axon, before)| axon.requests().split_off(before)).collect();
        self.judge_seen(seen.iter().map(Vec::len).collect(), calls);
        self.judge_connection(seen.iter().flatten());
        self.judge_tally(&tally, &Tally::of(&gateway, &urls), calls);
        self.judge_states(&gateway, &urls);
        // And the next requests know nothing of it.
        for _ in 0..2 {
            let next = dispatch(&gateway, "next").await;
            contract(&next, Kind::Success);
            assert_eq!(next.json()["service"], "axon", "after {}", self.name());
        }
    }

    /// The backend that the next request goes to, the other being busy, is gone.
    async fn gone(&self) {
        let failing = Axon::start();
        let other = (!self.alone).then(Axon::start);
        let urls: Vec<String> = [Some(&failing), other.as_ref()].into_iter().flatten().map(Axon::url).collect();
        let gateway = self.setup(&urls).start().await;
        failing.connected(1).await;
        let gate = Gate::new();
        let mut busy = None;
        if let Some(other) = &other {
            other.connected(1).await;
            other.next([Reply::json(200, OBJECT).after(&gate)]);
            if self.connection == Connection::Fresh {
                failing.answer(Reply::json(200, OBJECT).header("Connection", "close"));
            }
            busy = Some(occupied(&gateway, other).await);
        }
        if self.connection == Connection::Reused {
            failing.answer(Reply::json(200, OBJECT));
            contract(&dispatch(&gateway, "warming").await, Kind::Success);
        }
        let refusing = failing.stop().await;
        let _swallowing = match self.row.how {
            How::Swallow => Err(refusing.swallow().await),
            _ => Ok(refusing),
        };
        let tally = Tally::of(&gateway, &urls);
        let calls = self.ask(&gateway).await;
        let seen = other.as_ref().map_or(0, |other| other.requests().len() - 1);
        assert_eq!(seen, calls - 1, "{}", self.name());
        self.judge_tally(&tally, &Tally::of(&gateway, &urls), calls);
        self.judge_states(&gateway, &urls);
        gate.release();
        if let Some(mut busy) = busy {
            contract(&busy.read_response().await, Kind::Success);
        }
    }

    fn message(&self, gateway: &Gateway) -> Vec<u8> {
        let mut signed = gateway.dispatch(BODY).header("X-Correlation-ID", "matrix");
        if self.asked == Asked::KeyedPost {
            signed = signed.header("Idempotency-Key", "key");
        }
        signed.sign(&signing(), gateway.now()).bytes()
    }

    /// Sends the one request of the play, judges its answer and its log lines; the calls that it took.
    async fn ask(&self, gateway: &Gateway) -> usize {
        let name = self.name();
        let mut client = Client::connect(gateway.addr()).await;
        client.send(self.message(gateway)).await;
        let answer = client.try_read_response_to("POST").await;
        let lines = gateway.log_until(&["REQUEST [matrix] "]).await;
        let calls: Vec<&String> = lines.iter().filter(|line| line.contains("AXON_CALL [matrix] ")).collect();
        let again = self.is_asked_again(calls.len());
        assert_eq!(calls.len(), 1 + usize::from(again), "{name}: {calls:#?}");

        let Expected { outcome, says, client: gets, .. } = self.expected;
        let calm = matches!(outcome, "success" | "refused");
        let level = if calm { "INFO" } else { "WARN" };
        let right =
            |outcome: &str, says: &str| calls[0].contains(&format!("[{level}] AXON_CALL [matrix] {outcome}: {says}"));
        let either = self.expected.again == Again::UnlessSent && (right(outcome, "") || right("connect_failed", ""));
        assert!(either || right(outcome, says), "{name}: {}, not {outcome}: {says}", calls[0]);
        if again {
            assert!(calls[1].contains("[INFO] AXON_CALL [matrix] success: "), "{name}: {}", calls[1]);
        }
        self.judge_answer(answer, if again { Gets::As(Kind::Success) } else { gets });
        calls.len()
    }

    fn is_asked_again(&self, calls: usize) -> bool {
        match self.expected.again {
            Again::Always => !self.alone,
            Again::UnlessSent => calls > 1 && (!self.alone || self.asked != Asked::Post),
            // Where no other is there, the same backend is.
            Again::Repeatable => self.asked != Asked::Post,
            Again::Never => false,
        }
    }

    fn judge_answer(&self, answer: Result<Response, Broken>, gets: Gets) {
        let name = self.name();
        let Gets::CutOff = gets else {
            let response = answer.unwrap_or_else(|broken| panic!("{name}: {broken:?}"));
            match gets {
                Gets::As(kind) => drop(contract(&response, kind)),
                Gets::Internal => drop(contract(&response, Kind::Error("INTERNAL_ERROR"))),
                Gets::Issue(issue) => {
                    let error = contract(&response, Kind::Error("SERVICE_UNAVAILABLE"));
                    let found = &error["details"]["issue"];
                    let unsure = self.expected.again == Again::UnlessSent && found == "connect_failed";
                    assert!(found == issue || unsure, "{name}: {found}, not {issue}");
                }
                Gets::CutOff => {}
            }
            assert_eq!(response.header("x-governance-decision"), Some("allowed"), "{name}");
            assert_eq!(response.header("connection"), Some("keep-alive"), "{name}");
            return;
        };
        assert_eq!(answer.map(|r| r.body).unwrap_err(), Broken::Ended(Ending::Finished), "{name}");
    }

    /// How often which backend saw the request.
    fn judge_seen(&self, mut seen: Vec<usize>, calls: usize) {
        let name = self.name();
        seen.sort_unstable();
        let total: usize = seen.iter().sum();
        let unread = usize::from(matches!(self.row.how, How::Drop(_)));
        assert_eq!(total, calls - unread, "{name}: {seen:?}");
        if self.asked == Asked::Post {
            assert!(total <= 1, "{name}: a POST was seen {total} times");
        }
        assert!(seen.last() <= Some(&1) || self.alone, "{name}: one backend saw it {seen:?}");
    }

    /// The play is about the connection that it names.
    fn judge_connection<'r>(&self, mut seen: impl Iterator<Item = &'r Recorded>) {
        if let (How::Answer(_), Some(first)) = (&self.row.how, seen.next()) {
            let reused = first.turn > 1;
            assert_eq!(reused, self.connection == Connection::Reused, "{}: turn {}", self.name(), first.turn);
        }
    }

    fn judge_states(&self, gateway: &Gateway, urls: &[String]) {
        let states = states_of(gateway, urls);
        let ejects = !self.alone && self.asked == Asked::Post;
        let right = match self.expected.after {
            After::Nothing => states.is_empty(),
            After::Failed(_) => states == ["ejected"][..usize::from(ejects)],
            After::Unreachable => states == ["unreachable"],
            // One that is unreachable is looked at again, and may be back.
            After::Either => states.is_empty() || states == ["ejected"] || states == ["unreachable"],
        };
        assert!(right, "{}: {states:?}", self.name());
    }

    fn judge_tally(&self, before: &Tally, after: &Tally, calls: usize) {
        let name = self.name();
        let counted = |outcome: &str| after.exchanges[outcome] - before.exchanges[outcome];
        let all: f64 = OUTCOMES.iter().map(|outcome| counted(outcome)).sum();
        assert_eq!(all, calls as f64, "{name}");
        let mut first = counted(self.expected.outcome);
        if self.expected.again == Again::UnlessSent {
            first += counted("connect_failed");
        }
        assert!(first >= 1.0, "{name}: not counted as {}", self.expected.outcome);
        if self.expected.again != Again::UnlessSent {
            let retries = after.retries[self.expected.outcome] - before.retries[self.expected.outcome];
            assert_eq!(retries, (calls - 1) as f64, "{name}: retries");
        }
    }
}

/// The state of every backend that is not up.
fn states_of(gateway: &Gateway, urls: &[String]) -> Vec<&'static str> {
    let in_state = |url: &String, state: &str| {
        let backend = url.strip_prefix("http://").unwrap();
        gateway.metric(&format!("orbit_backend_state{{backend=\"{backend}\",state=\"{state}\"}}")) == 1.0
    };
    let out = ["unreachable", "unhealthy", "ejected", "trial"];
    urls.iter().flat_map(|url| out.into_iter().filter(|state| in_state(url, state)).collect::<Vec<_>>()).collect()
}

const OUTCOMES: [&str; 7] = ["success", "refused", "error", "connect_failed", "timeout", "broken", "abandoned"];

/// The counters at one moment.
struct Tally {
    /// Of all backends, by outcome.
    exchanges: HashMap<&'static str, f64>,
    /// By reason, which is the outcome of the try before.
    retries: HashMap<&'static str, f64>,
}

impl Tally {
    fn of(gateway: &Gateway, urls: &[String]) -> Self {
        let exchanges = |outcome| urls.iter().map(|url| gateway.exchanges(url, outcome)).sum();
        let retries = |reason| gateway.metric(&format!("orbit_axon_retries_total{{reason=\"{reason}\"}}"));
        Self {
            exchanges: OUTCOMES.into_iter().map(|outcome| (outcome, exchanges(outcome))).collect(),
            retries: OUTCOMES.into_iter().map(|reason| (reason, retries(reason))).collect(),
        }
    }
}

/// Dispatches, and waits until that is counted and logged.
async fn dispatch(gateway: &Gateway, id: &str) -> Response {
    let response = gateway.send(gateway.dispatch(BODY).header("X-Correlation-ID", id)).await;
    gateway.logged(&["REQUEST [", id]).await;
    response
}

/// Keeps `axon`, whose next answer waits, busy with one request.
async fn occupied(gateway: &Gateway, axon: &Axon) -> Client {
    loop {
        let mut client = Client::connect(gateway.addr()).await;
        let signed = gateway.dispatch(BODY).header("X-Correlation-ID", "busy");
        client.send(signed.sign(&signing(), gateway.now()).bytes()).await;
        tokio::select! {
            _ = axon.received(1) => return client,
            elsewhere = client.read_response() => contract(&elsewhere, Kind::Success),
        };
    }
}
