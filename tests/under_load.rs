//! Twenty clients while an Axon fails: how many of them notice, and that no POST is ever seen twice. Counts
//! only; `benches/load/failures` measures times, beside other proxies.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Client, Response};
use crate::harness::gateway::{BODY, Gateway, Setup, signing};

const CLIENTS: usize = 20;

/// A gateway in front of Axons that keep what they were sent.
struct Stage {
    gateway: Arc<Gateway>,
    axons: Vec<Axon>,
    /// Of requests, so that each is another.
    sent: Arc<AtomicUsize>,
}

impl Stage {
    async fn of(axons: usize, more: &str) -> Self {
        let axons: Vec<Axon> = (0..axons).map(|_| Axon::start()).collect();
        let urls: Vec<String> = axons.iter().map(Axon::url).collect();
        let gateway = Setup::new(&[]).upstream(&urls, more).start().await;
        for axon in &axons {
            axon.connected(1).await;
        }
        Self { gateway: Arc::new(gateway), axons, sent: Arc::default() }
    }

    /// Every client sends so many dispatches, one after the other on its own connection.
    fn clients(&self, dispatches: usize) -> JoinSet<Vec<Response>> {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (gateway, sent) = (self.gateway.clone(), self.sent.clone());
            clients.spawn(async move {
                let mut client = Client::connect(gateway.addr()).await;
                let mut answers = Vec::new();
                for _ in 0..dispatches {
                    let id = format!("load-{}", sent.fetch_add(1, Ordering::Relaxed));
                    let signed = gateway.dispatch(BODY).header("X-Correlation-ID", &id);
                    client.send(signed.sign(&signing(), gateway.now()).bytes()).await;
                    answers.push(client.read_response().await);
                }
                answers
            });
        }
        clients
    }

    /// As [`Stage::clients`], all answers.
    async fn answers(&self, dispatches: usize) -> Vec<Response> {
        self.clients(dispatches).join_all().await.concat()
    }
}

/// How often each dispatch was seen, by any Axon.
fn times_seen<'a>(axons: impl IntoIterator<Item = &'a Axon>) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for request in axons.into_iter().flat_map(Axon::requests) {
        *times.entry(request.header("x-correlation-id").unwrap().to_owned()).or_default() += 1;
    }
    times
}

fn all_succeed(answers: &[Response]) {
    for answer in answers {
        contract(answer, Kind::Success);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_an_axon_that_dies_with_nothing_to_do() {
    let mut stage = Stage::of(3, "keepalive: 64").await;
    all_succeed(&stage.answers(5).await);
    let times = times_seen(&stage.axons);
    let dead = stage.axons.remove(0).stop().await;
    all_succeed(&stage.answers(5).await);
    // And comes back.
    stage.axons.push(dead.start());
    all_succeed(&stage.answers(5).await);

    let mut all = times_seen(&stage.axons);
    all.extend(times);
    assert_eq!(all.len(), 3 * 5 * CLIENTS);
    assert!(all.values().all(|times| *times == 1), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axon_that_dies_takes_with_it_what_it_had_begun_and_nothing_else() {
    let mut stage = Stage::of(3, "keepalive: 64").await;
    let dying = stage.axons.remove(0);
    let _gate = dying.hold();
    let mut clients = stage.clients(5);
    let mut answers = Vec::new();
    // Until everybody who is not waiting for it is done.
    let begun = loop {
        let begun = dying.requests().len();
        if clients.len() == begun {
            break begun;
        }
        tokio::select! {
            _ = dying.received(begun + 1) => {}
            Some(done) = clients.join_next() => answers.extend(done.unwrap()),
        }
    };
    assert!((1..CLIENTS).contains(&begun), "{begun} requests were waiting for one of three");
    let times = times_seen([&dying]);
    let _dead = dying.stop().await;
    answers.extend(clients.join_all().await.concat());

    let (failed, answered): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status != 200);
    all_succeed(&answered);
    for answer in &failed {
        let error = contract(answer, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(error["details"]["issue"], "upstream_failed");
    }
    assert_eq!((failed.len(), answered.len()), (begun, 5 * CLIENTS - begun));
    let elsewhere = times_seen(&stage.axons);
    assert!(elsewhere.values().all(|times| *times == 1), "{elsewhere:?}");
    assert!(times.keys().all(|id| !elsewhere.contains_key(id)), "what it had begun was sent elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axon_that_fails_every_request_gets_few_of_them() {
    let failing = [
        Reply::json(500, r#"{"error":"x"}"#),
        Reply::json(503, "{}"),
        Reply::hang_up(),
        Reply::hang_up().then_reset(),
        Reply::raw("SSH-2.0-x\r\n"),
        Reply::json(200, r#"{"a":1}"#).cut(3),
    ];
    for reply in failing {
        let stage = Stage::of(3, "eject: { consecutive: 5 }").await;
        // Its connections are used ones.
        all_succeed(&stage.answers(5).await);
        stage.axons[0].answer(reply);
        let before = times_seen([&stage.axons[0]]).len();
        let answers = stage.answers(20).await;

        let failed = answers.iter().filter(|answer| answer.status != 200).count();
        let got = times_seen([&stage.axons[0]]).len() - before;
        // At most one under way for each client when it is ejected, beside those that led to it.
        assert!((1..=CLIENTS + 5).contains(&got), "{got} requests to an Axon that fails all");
        assert_eq!(failed, got);
        let backend = stage.axons[0].addr();
        let ejected = format!("orbit_backend_state{{backend=\"{backend}\",state=\"ejected\"}}");
        assert_eq!(stage.gateway.metric(&ejected), 1.0);
        let times = times_seen(&stage.axons);
        assert_eq!(times.len(), 25 * CLIENTS);
        assert!(times.values().all(|times| *times == 1), "{times:?}");
    }
}
