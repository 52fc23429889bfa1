//! What is sent to Axon again, how often and when; and which idle connections are trusted.

use std::time::Duration;

use crate::harness::axon::{Axon, Recorded, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::within;
use crate::harness::gateway::{BODY, Gateway, Setup, dispatch};

const GET: &str = "request: { method: GET, path: /reason, body: none }";
const AT_ONCE: &str = "backoff: 0s..1ms";

fn before(axons: &[&Axon], more: &str) -> Setup {
    let urls: Vec<String> = axons.iter().map(|axon| axon.url()).collect();
    Setup::new(&[]).upstream(&urls, &format!("balance: round_robin, eject: disabled, {more}"))
}

fn ok() -> Reply {
    Reply::json(200, "{}")
}

fn seen(axons: &[&Axon]) -> Vec<usize> {
    axons.iter().map(|axon| axon.requests().len()).collect()
}

fn retries(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("orbit_axon_retries_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_request_goes_to_another_backend() {
    let idempotent = format!("retry: {{ idempotent: true, {AT_ONCE} }}");
    let post = format!("retry: {{ {AT_ONCE} }}");
    for (more, key) in [(format!("{GET}, {post}"), None), (idempotent, None), (post, Some("k-1"))] {
        for (reply, reason, timeouts) in [
            (Reply::hang_up(), "broken", ""),
            (Reply::raw("SSH-2.0-x\r\n"), "broken", ""),
            (Reply::hang(), "timeout", ", timeouts: { first_byte: 100ms }"),
        ] {
            let (one, two) = (Axon::start(), Axon::start());
            one.next([reply]);
            let gateway = before(&[&one, &two], &format!("{more}{timeouts}")).start().await;
            let request = gateway.dispatch(BODY).header("X-Correlation-ID", "c-1");
            let request = key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
            contract(&gateway.send(request).await, Kind::Success);
            assert_eq!(seen(&[&one, &two]), [1, 1], "{more} {reason}");
            assert_eq!(retries(&gateway, reason), 1.0, "{more} {reason}");
            assert_eq!(two.request().header("idempotency-key"), key);
            let lines = gateway.log_until(&["REQUEST [c-1] "]).await;
            assert_eq!(lines.iter().filter(|line| line.contains("AXON_CALL [c-1] ")).count(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_axon_may_have_begun_is_never_sent_twice_otherwise() {
    let (one, two) = (Axon::start(), Axon::start());
    let gateway = before(&[&one, &two], "retry: { attempts: 10, budget: 100% }").start().await;
    for n in 1..=5 {
        one.next([Reply::hang_up()]);
        let request = gateway.dispatch(BODY).header("X-Correlation-ID", &format!("c-{n}"));
        // An empty key is none, nor is one that ends here.
        let request = match n {
            1..=2 => request.header("Idempotency-Key", ""),
            3..=4 => request.header("Idempotency-Key", "k-1").header("Connection", "idempotency-key"),
            _ => request,
        };
        let error = contract(&gateway.send(request).await, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(error["details"]["issue"], "upstream_failed");
        contract(&dispatch(&gateway).await, Kind::Success);
        assert_eq!(seen(&[&one, &two]), [n, n]);
    }
    assert_eq!(retries(&gateway, "broken"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_count_every_try_and_a_lone_backend_is_tried_again() {
    for attempts in [1, 2, 4] {
        let axon = Axon::start();
        axon.answer(Reply::hang_up());
        let more = format!("{GET}, retry: {{ attempts: {attempts}, {AT_ONCE} }}");
        let gateway = before(&[&axon], &more).start().await;
        contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(axon.requests().len(), attempts);
        gateway.metrics_become(|_| gateway.exchanges(&axon.url(), "broken") == attempts as f64).await;
        assert_eq!(retries(&gateway, "broken"), (attempts - 1) as f64);
    }
}

/// Each retry allows one more round over the backends, not one for every connect that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_gone_after_a_retry_is_not_hammered() {
    let axon = Axon::start();
    let gate = axon.hold();
    let gateway = before(&[&axon], &format!("{GET}, retry: {{ attempts: 3, {AT_ONCE} }}, timeouts: {{ total: 3s }}"))
        .start()
        .await;
    let asked = async {
        axon.received(1).await;
        axon.stop().await
    };
    let (answer, _refusing) = tokio::join!(dispatch(&gateway), asked);
    drop(gate);
    contract(&answer, Kind::Error("SERVICE_UNAVAILABLE"));
    assert!(retries(&gateway, "connect_failed") <= 2.0, "{}", retries(&gateway, "connect_failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_axon_answers_are_answers() {
    for status in [500, 502, 503, 504] {
        let (one, two) = (Axon::start(), Axon::start());
        one.answer(Reply::json(status, "{}"));
        let gateway = before(&[&one, &two], &format!("{GET}, retry: {{ {AT_ONCE} }}")).start().await;
        assert!(dispatch(&gateway).await.status >= 500);
        assert_eq!(seen(&[&one, &two]), [1, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_bounds_retries_and_refills() {
    let axon = Axon::start();
    axon.answer(Reply::hang_up());
    let gateway = before(&[&axon], &format!("{GET}, retry: {{ {AT_ONCE} }}")).start().await;
    let spent = || gateway.metric("orbit_overload_total{bound=\"retry_budget\"}");
    for _ in 0..12 {
        contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    }
    assert_eq!((axon.requests().len(), spent()), (22, 2.0));
    gateway.becomes("orbit_retry_budget_left{upstream=\"axon\"}", 0.0).await;
    gateway.clock.advance(Duration::from_secs(10));
    gateway.becomes("orbit_retry_budget_left{upstream=\"axon\"}", 10.0).await;
    dispatch(&gateway).await;
    assert_eq!((axon.requests().len(), spent()), (24, 2.0));
    // A reload gives nothing back.
    let more = format!("{GET}, keepalive: 64, retry: {{ budget: 0%, {AT_ONCE} }}");
    gateway.reload(before(&[&axon], &more)).await.unwrap();
    dispatch(&gateway).await;
    assert_eq!((axon.requests().len(), spent()), (25, 3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_retry_outlives_the_deadline() {
    let axon = Axon::start();
    axon.answer(Reply::hang());
    let more =
        "retry: { attempts: 10, backoff: 200ms..200ms }, timeouts: { first_byte: 100ms, connect: 100ms, total: 450ms }";
    let gateway = before(&[&axon], &format!("{GET}, {more}")).start().await;
    let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(error["details"]["issue"], "timeout");
    let tries = axon.requests().len();
    assert!((1..=2).contains(&tries), "two tries and their pauses are all that fits: {tries}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_that_axon_tells_is_kept_away_from() {
    let axon = Axon::start();
    axon.answer(ok().header("Keep-Alive", "timeout=5, max=100"));
    let gateway = before(&[&axon], "").start().await;
    for (pause, turn) in [(0, 1), (3999, 2), (4000, 1), (3999, 2)] {
        gateway.clock.advance(Duration::from_millis(pause));
        contract(&dispatch(&gateway).await, Kind::Success);
        let requests = axon.requests();
        assert_eq!(requests.last().map(|request: &Recorded| request.turn), Some(turn), "after {pause} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_in_use_ends_the_others_that_rest_and_teaches_the_age() {
    let axon = Axon::start();
    let gateway = before(&[&axon], "").start().await;
    // Two connections come to rest.
    let gate = axon.hold();
    let both = async { tokio::join!(dispatch(&gateway), dispatch(&gateway)) };
    let held = async {
        axon.received(2).await;
        gate.release();
    };
    let ((one, two), ()) = tokio::join!(both, held);
    contract(&one, Kind::Success);
    contract(&two, Kind::Success);
    axon.answer(ok());
    gateway.clock.advance(Duration::from_secs(10));
    axon.next([Reply::hang_up()]);
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    within(axon.all_closed()).await;
    // From half the age on, a new one is used; below it, what is there.
    for (pause, turn) in [(0, 1), (4999, 2), (5000, 1)] {
        gateway.clock.advance(Duration::from_millis(pause));
        contract(&dispatch(&gateway).await, Kind::Success);
        assert_eq!(axon.requests().last().map(|request| request.turn), Some(turn), "after {pause} ms");
    }
    // A second loss within a minute: none is kept.
    axon.next([Reply::hang_up()]);
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    for _ in 0..3 {
        contract(&dispatch(&gateway).await, Kind::Success);
        assert_eq!(axon.requests().last().map(|request| request.turn), Some(1));
    }
}
