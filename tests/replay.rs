//! A signature counts once: what is refused, what may come again, what survives a reload.

use std::time::Duration;

use orbit::auth::replay::{Doubt, Mode};
use orbit::clock::{Clock, ManualClock};
use orbit::error::{Code, Details, Rejection};
use orbit::gateway::Reloaded;
use orbit::observation::Observation;
use orbit::request::correlation::{Ids, UuidV7};
use orbit::request::route::Endpoint;
use orbit::telemetry::Metrics;
use tokio::task::JoinSet;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract, rate_limit};
use crate::harness::client::{Client, Message, Response, within};
use crate::harness::gateway::{BODY, Gateway, Setup, signing};
use crate::sigv4_suite;

const SECOND: Duration = Duration::from_secs(1);

fn setup(axon: &Axon, replay: &str) -> Setup {
    with_replay(Setup::new(&[axon.url()]), replay)
}

fn with_replay(setup: Setup, replay: &str) -> Setup {
    setup.block("auth", format!("{{ keys: keys.yaml, presigned: {{ max_expires: 1h }}, replay: {replay} }}"))
}

/// A dispatch signed now; sent twice, it is a replay.
fn message(gateway: &Gateway) -> Message {
    gateway.dispatch(BODY).sign(&signing(), gateway.now())
}

/// The issue of a refused signature, or the status.
#[track_caller]
fn outcome(response: &Response) -> String {
    match response.status {
        401 => contract(response, Kind::Error("INVALID_SIGNATURE"))["details"]["issue"].as_str().unwrap().to_owned(),
        status => status.to_string(),
    }
}

async fn sent(gateway: &Gateway, message: &Message) -> String {
    outcome(&message.send(gateway.addr()).await)
}

async fn reload(gateway: &Gateway, setup: Setup) {
    let reloaded = gateway.reload(setup).await.expect("a valid configuration");
    assert!(matches!(reloaded, Reloaded::Accepted { .. }), "{reloaded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn enforced_a_second_use_is_refused_and_spends_nothing_of_what_follows() {
    let axon = Axon::start();
    let limits = "{ per_ip: { rate: 60000/s }, global: { rate: 2/min }, governance: { rate: 2/min } }";
    let gateway = setup(&axon, "enforce").block("limits", limits).start().await;
    let first = message(&gateway);
    assert_eq!(sent(&gateway, &first).await, "200");
    for _ in 0..5 {
        let response = first.send(gateway.addr()).await;
        assert_eq!(outcome(&response), "replayed");
        assert_eq!(response.header("x-ratelimit-remaining"), None, "the global limit was not asked");
    }
    gateway.clock.advance(SECOND);
    let response = message(&gateway).send(gateway.addr()).await;
    contract(&response, Kind::Success);
    assert_eq!(rate_limit(&response).remaining, 0);
    assert_eq!(axon.requests().len(), 2);
    for _ in 0..5 {
        let line = gateway.logged(&["REFUSED", "INVALID_SIGNATURE"]).await;
        assert!(line.contains("key AKIDEXAMPLE: the signature was used before"), "{line}");
    }
    gateway.logged(&["REQUEST", " 200 "]).await;
    assert_eq!(gateway.metric("orbit_replays_total{mode=\"enforce\"}"), 5.0);
    assert_eq!(gateway.metric("orbit_auth_failures_total{issue=\"replayed\"}"), 5.0);
    assert_eq!(gateway.metric("orbit_replays_total{mode=\"observe\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn observed_it_passes_and_is_told() {
    let axon = Axon::start();
    let gateway = setup(&axon, "observe").start().await;
    let message = message(&gateway)
        .edit("POST /dispatch HTTP/1.1\r\n", "POST /dispatch HTTP/1.1\r\nX-Correlation-ID: a-copy\r\n");
    for _ in 0..3 {
        assert_eq!(sent(&gateway, &message).await, "200");
    }
    for _ in 0..2 {
        gateway.logged(&["[WARN] REPLAY [a-copy] observed: the signature was used before"]).await;
    }
    for _ in 0..3 {
        gateway.logged(&["REQUEST [a-copy]"]).await;
    }
    assert_eq!(gateway.metric("orbit_replays_total{mode=\"observe\"}"), 2.0);
    assert_eq!(gateway.metric("orbit_auth_failures_total{issue=\"replayed\"}"), 0.0);
    assert_eq!(axon.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_signature_may_come_again() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let message = message(&gateway);
    for _ in 0..3 {
        assert_eq!(sent(&gateway, &message).await, "200");
    }
    assert_eq!(axon.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_copies_that_race_exactly_one_passes() {
    let axon = Axon::start();
    let gateway = setup(&axon, "enforce").start().await;
    for round in 0..5 {
        gateway.clock.advance(SECOND);
        let message = message(&gateway);
        let addr = gateway.addr();
        let mut racing = JoinSet::new();
        for _ in 0..16 {
            let message = message.clone();
            racing.spawn(async move { outcome(&message.send(addr).await) });
        }
        let outcomes = within(racing.join_all()).await;
        assert_eq!(outcomes.iter().filter(|o| *o == "200").count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|o| *o == "replayed").count(), 15, "{outcomes:?}");
        assert_eq!(axon.requests().len(), round + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_limit_refused_may_be_sent_again() {
    let axon = Axon::start();
    let limits = "{ per_ip: { rate: 60000/s }, global: { rate: 1/min }, governance: { rate: 1000/min } }";
    let gateway = setup(&axon, "enforce").block("limits", limits).start().await;
    assert_eq!(sent(&gateway, &message(&gateway)).await, "200");
    gateway.clock.advance(SECOND);
    let refused = message(&gateway);
    for _ in 0..3 {
        assert_eq!(sent(&gateway, &refused).await, "429");
    }
    gateway.clock.advance(60 * SECOND);
    assert_eq!(sent(&gateway, &refused).await, "200");
    assert_eq!(sent(&gateway, &refused).await, "replayed");
    assert_eq!(axon.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_reached_axon_may_be_sent_again() {
    let axon = Axon::start();
    let refusing = axon.stop().await;
    let setup = with_replay(Setup::new(&[refusing.url()]), "enforce");
    let gateway = setup.start().await;
    let of = |body: &str| gateway.dispatch(body).sign(&signing(), gateway.now());
    for (message, expected) in [
        (of("{\"intent\":"), "400"),
        (of(r#"{"intent":"call_reasoning","context":5}"#), "400"),
        (of(r#"{"intent":"forbidden"}"#), "403"),
        (message(&gateway), "503"),
    ] {
        for _ in 0..3 {
            assert_eq!(sent(&gateway, &message).await, expected);
        }
    }
    let waiting = message(&gateway);
    let axon = refusing.start();
    let served = within(async {
        // The backend is found again in the background.
        loop {
            let response = waiting.send(gateway.addr()).await;
            if response.status != 503 {
                break outcome(&response);
            }
        }
    });
    assert_eq!(served.await, "200");
    assert_eq!(sent(&gateway, &waiting).await, "replayed");
    assert_eq!(axon.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_axon_may_have_begun_may_not() {
    let axon = Axon::start();
    axon.next([Reply::hang_up(), Reply::json(500, "{}"), Reply::json(404, "{}"), Reply::hang()]);
    let gateway = setup(&axon, "enforce").start().await;
    for expected in ["503", "500", "404"] {
        gateway.clock.advance(SECOND);
        let message = message(&gateway);
        assert_eq!(sent(&gateway, &message).await, expected);
        assert_eq!(sent(&gateway, &message).await, "replayed", "after {expected}");
    }
    // A client that leaves while Axon works.
    gateway.clock.advance(SECOND);
    let message = message(&gateway);
    let mut client = Client::connect(gateway.addr()).await;
    client.send(message.bytes()).await;
    axon.received(4).await;
    assert_eq!(sent(&gateway, &message).await, "replayed", "while it is in flight");
    client.reset();
    gateway.logged(&["REQUEST", " 499 "]).await;
    assert_eq!(sent(&gateway, &message).await, "replayed", "when it is over");
    assert_eq!(axon.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_remembered_for_as_long_as_the_date_would_pass() {
    let axon = Axon::start();
    let gateway = setup(&axon, "enforce").start().await;
    let by_header = message(&gateway);
    let presigned = gateway.dispatch(BODY).presigned(3600 * SECOND).sign(&signing(), gateway.now());
    for message in [&by_header, &presigned] {
        assert_eq!(sent(&gateway, message).await, "200");
    }
    gateway.clock.advance(300 * SECOND);
    assert_eq!(sent(&gateway, &by_header).await, "replayed");
    gateway.clock.advance(SECOND);
    assert_eq!(sent(&gateway, &by_header).await, "expired");
    gateway.clock.advance(3299 * SECOND);
    assert_eq!(sent(&gateway, &presigned).await, "replayed");
    gateway.clock.advance(SECOND);
    assert_eq!(sent(&gateway, &presigned).await, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_forgets_nothing_unless_it_is_switched_off() {
    let axon = Axon::start();
    let gateway = setup(&axon, "observe").start().await;
    let first = message(&gateway);
    assert_eq!(sent(&gateway, &first).await, "200");
    reload(&gateway, setup(&axon, "enforce")).await;
    assert_eq!(sent(&gateway, &first).await, "replayed", "seen while it was only observed");
    gateway.clock.advance(SECOND);
    let second = message(&gateway);
    assert_eq!(sent(&gateway, &second).await, "200");
    let narrower = "{ keys: keys.yaml, clock_skew: 1m, replay: enforce }";
    reload(&gateway, setup(&axon, "enforce").block("auth", narrower).block("drain", "{ min: 0s, max: 9s }")).await;
    for message in [&first, &second] {
        assert_eq!(sent(&gateway, message).await, "replayed");
    }
    // A request that began before the reload and is refused after it gives its place back.
    gateway.clock.advance(SECOND);
    let gate = axon.hold();
    let running = {
        let (message, addr) = (message(&gateway), gateway.addr());
        (message.clone(), tokio::spawn(async move { outcome(&message.send(addr).await) }))
    };
    gate.reached(1).await;
    reload(&gateway, setup(&axon, "enforce")).await;
    assert_eq!(sent(&gateway, &running.0).await, "replayed", "in flight since before the reload");
    gate.release();
    assert_eq!(running.1.await.expect("no panic"), "200");

    reload(&gateway, setup(&axon, "off")).await;
    assert_eq!(sent(&gateway, &first).await, "200");
    reload(&gateway, setup(&axon, "enforce")).await;
    assert_eq!(sent(&gateway, &first).await, "200", "off forgets");
    assert_eq!(sent(&gateway, &first).await, "replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_copy_takes_no_place() {
    let axon = Axon::start();
    let gateway = setup(&axon, "enforce").start().await;
    let honest = message(&gateway);
    // The same signature over another body: refused, and the honest one that comes later is not.
    let forged = gateway.dispatch(BODY).but_send(BODY.replace("user123", "user124")).sign(&signing(), gateway.now());
    assert_eq!(sent(&gateway, &forged).await, "mismatch");
    assert_eq!(sent(&gateway, &honest).await, "200");
}

#[test]
fn each_doubt_has_its_own_refusal() {
    let signed = sigv4_suite::sign_with(sigv4_suite::base(), sigv4_suite::SIGNING);
    let keyring = sigv4_suite::ring(sigv4_suite::key(sigv4_suite::ID, sigv4_suite::SECRET, None));
    let caller = sigv4_suite::verify(&signed, &sigv4_suite::rules(), &keyring, sigv4_suite::now()).expect("a caller");
    let later = ManualClock::at(sigv4_suite::NOW + 301).now();
    let refusal = |doubt: Doubt| {
        let Rejection { code, details, why, .. } = doubt.rejection(&caller, later);
        assert!(why.contains(doubt.text()), "{why}");
        (code, details)
    };
    assert_eq!(refusal(Doubt::Replayed), (Code::InvalidSignature, Details::Issue("replayed")));
    assert_eq!(refusal(Doubt::Full), (Code::ServiceUnavailable, Details::Issue("overload")));
    let (server_time, request_time) = (sigv4_suite::NOW + 301, sigv4_suite::NOW);
    let expired = Details::Skew { issue: "expired", server_time, request_time, allowed_skew_seconds: 300 };
    assert_eq!(refusal(Doubt::Forgotten), (Code::InvalidSignature, expired));
}

#[test]
fn a_full_table_is_counted_as_its_own_bound() {
    let metrics = Metrics::new("test").expect("metrics");
    let clock = ManualClock::at(1_705_314_600);
    let ids = Ids::of(None, &UuidV7, clock.now());
    let mut observation = Observation::begin(&ids, None, Endpoint::Dispatch, clock.now());
    for (mode, refusal) in
        [(Mode::Observe, None), (Mode::Enforce, Some(Rejection::unavailable("overload", Doubt::Full.text())))]
    {
        observation.doubt = Some((mode, Doubt::Full));
        observation.refusal = refusal;
        metrics.count(&observation);
    }
    let text = metrics.text(0);
    for (bound, count) in [("replay", 2), ("in_flight", 0), ("connections", 0)] {
        let sample = format!("orbit_overload_total{{bound=\"{bound}\"}} {count}\n");
        assert!(text.contains(&sample), "{sample} in {text}");
    }
}
