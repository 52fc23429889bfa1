//! Which Axon gets a request: names and their addresses, several upstreams, weights, balances.

use std::net::IpAddr;
use std::time::Duration;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Client, Signing, get, within};
use crate::harness::dns::Dns;
use crate::harness::gateway::{BODY, Gateway, SECRET, Setup, dispatch, signing};

async fn succeeds(gateway: &Gateway) {
    contract(&dispatch(gateway).await, Kind::Success);
}

fn ip(axon: &Axon) -> IpAddr {
    axon.addr().ip()
}

/// How many requests reached each.
fn shares<const N: usize>(axons: [&Axon; N]) -> [usize; N] {
    axons.map(|axon| axon.requests().len())
}

/// Dispatches until this holds.
async fn until(gateway: &Gateway, holds: impl Fn() -> bool) {
    within(async {
        while !holds() {
            succeeds(gateway).await;
        }
    })
    .await;
}

/// In front of the name `axon`, which is asked for every 10 to 15 ms.
fn named(port: u16, dns: &Dns, more: &str) -> Setup {
    Setup::new(&[]).upstream(&[format!("http://axon:{port}")], &format!("resolve: 12ms, {more}")).dns(dns)
}

/// Waits until the last addresses of the name `axon` are exactly these, by their last number.
async fn resolved(gateway: &Gateway, addresses: &[u8]) {
    let series = |metrics: &str| metrics.matches("orbit_backend_healthy{backend=\"axon:").count();
    let here = |metrics: &str, last: &u8| metrics.contains(&format!("/127.0.0.{last}\"}}"));
    gateway.metrics_become(|m| series(m) == addresses.len() && addresses.iter().all(|last| here(m, last))).await;
}

fn resolutions(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("orbit_resolutions_total{{result=\"{result}\"}}"))
}

/// Waits until two more questions came to this.
async fn twice_more(gateway: &Gateway, result: &str) {
    let before = resolutions(gateway, result);
    gateway.metrics_become(|_| resolutions(gateway, result) >= before + 2.0).await;
}

fn healthy(gateway: &Gateway, label: &str) -> f64 {
    gateway.metric(&format!("orbit_backend_healthy{{backend=\"{label}\"}}"))
}

// ---- names

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_a_name_is_used() {
    let one = Axon::start();
    let two = one.beside(2);
    let port = one.addr().port();
    let dns = Dns::new();
    dns.set("axon", [ip(&one), ip(&two), ip(&one)]);
    let gateway = named(port, &dns, "balance: round_robin").start().await;
    resolved(&gateway, &[1, 2]).await;
    for _ in 0..10 {
        succeeds(&gateway).await;
    }
    assert_eq!(shares([&one, &two]), [5, 5]);
    // `Host` is the name that was written, whichever address it led to.
    assert_eq!(two.requests()[0].header("host"), Some(format!("axon:{port}").as_str()));
    for (axon, label) in [(&one, "127.0.0.1"), (&two, "127.0.0.2")] {
        let label = format!("axon:{port}/{label}");
        assert_eq!(healthy(&gateway, &label), 1.0, "{}", axon.addr());
        let calls = format!("orbit_axon_requests_total{{backend=\"{label}\",outcome=\"success\"}}");
        assert_eq!(gateway.metric(&calls), 5.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_addresses_is_followed_and_what_stays_keeps_its_connections() {
    let one = Axon::start();
    let (two, three) = (one.beside(2), one.beside(3));
    let port = one.addr().port();
    let dns = Dns::new();
    dns.set("axon", [ip(&one), ip(&two)]);
    let gateway = named(port, &dns, "balance: round_robin").start().await;
    resolved(&gateway, &[1, 2]).await;
    until(&gateway, || shares([&one, &two]).iter().all(|share| *share > 1)).await;
    dns.set("axon", [ip(&two), ip(&three)]);
    resolved(&gateway, &[2, 3]).await;
    let before = one.requests().len();
    until(&gateway, || three.requests().len() > 2).await;
    assert_eq!(one.requests().len(), before);
    let mut connections: Vec<_> = two.requests().iter().map(|request| request.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 1, "one connection all along");
    // What is gone is forgotten.
    let metrics = gateway.orbit.metrics_text();
    assert!(!metrics.contains("/127.0.0.1\""), "{metrics}");
    assert!(metrics.contains("/127.0.0.2\"") && metrics.contains("/127.0.0.3\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_kept_when_names_cannot_be_resolved() {
    let axon = Axon::start();
    let dns = Dns::new();
    dns.set("axon", [ip(&axon)]);
    let gateway = named(axon.addr().port(), &dns, "").start().await;
    resolved(&gateway, &[1]).await;
    for unknown in [true, false] {
        if unknown {
            dns.forget("axon")
        } else {
            dns.set("axon", [])
        }
        twice_more(&gateway, "failed").await;
        succeeds(&gateway).await;
        contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
        dns.set("axon", [ip(&axon)]);
        twice_more(&gateway, "found").await;
    }
    let turns: Vec<_> = axon.requests().iter().map(|request| request.turn).collect();
    assert_eq!(turns, [1, 2], "the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_knowing_an_address_and_says_so() {
    let axon = Axon::start();
    let dns = Dns::new();
    let gateway = named(axon.addr().port(), &dns, "").start().await;
    twice_more(&gateway, "failed").await;
    let unhealthy = contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    assert_eq!(unhealthy["checks"], serde_json::json!({ "axon": "no healthy backend" }));
    let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(error["details"]["issue"], "no_healthy_backend");
    dns.set("axon", [ip(&axon)]);
    resolved(&gateway, &[1]).await;
    succeeds(&gateway).await;
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_for_a_name_server() {
    let axon = Axon::start();
    let dns = Dns::new();
    dns.set("axon", [ip(&axon)]);
    let gateway = named(axon.addr().port(), &dns, "").start().await;
    resolved(&gateway, &[1]).await;
    let gate = dns.hold("axon");
    gate.reached(1).await;
    for _ in 0..20 {
        succeeds(&gateway).await;
    }
    gate.release();
    // The next question is asked after this one has failed.
    gateway.metrics_become(|_| resolutions(&gateway, "failed") >= 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_name_stood_for_survives_a_reload() {
    let axon = Axon::start();
    let dns = Dns::new();
    dns.set("axon", [ip(&axon)]);
    let setup = |max| named(axon.addr().port(), &dns, "").block("drain", format!("{{ min: 0s, max: {max}s }}"));
    let gateway = setup(5).start().await;
    resolved(&gateway, &[1]).await;
    succeeds(&gateway).await;
    dns.forget("axon");
    gateway.reload(setup(6)).await.expect("accepted");
    succeeds(&gateway).await;
    let turns: Vec<_> = axon.requests().iter().map(|request| request.turn).collect();
    assert_eq!(turns, [1, 2], "the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_addresses_are_used() {
    let dns = Dns::new();
    dns.set("axon", (1..=100).map(|last| IpAddr::from([127, 1, 0, last])));
    let gateway = named(9, &dns, "").start().await;
    twice_more(&gateway, "crowded").await;
    let series = gateway.orbit.metrics_text().matches("orbit_backend_healthy{").count();
    assert_eq!(series, 64);
}

// ---- weights and balances

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_shares() {
    let (one, two) = (Axon::start(), Axon::start());
    let endpoints = format!("[{{ url: {:?}, weight: 3 }}, {:?}]", one.url(), two.url());
    let upstream = format!("{{ axon: {{ endpoints: {endpoints}, balance: round_robin, sign: disabled }} }}");
    let gateway = Setup::new(&[]).block("upstreams", upstream).start().await;
    for _ in 0..40 {
        succeeds(&gateway).await;
    }
    assert_eq!(shares([&one, &two]), [30, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_stays_with_its_backend_and_leaves_only_with_it() {
    let mut axons: Vec<Axon> = (0..3).map(|_| Axon::start()).collect();
    let urls: Vec<String> = axons.iter().map(Axon::url).collect();
    let principals: Vec<String> = (0..12).map(|n| format!("P{n}")).collect();
    let line = |id: &String| format!("- {{ access_key_id: {id}, secret_access_key: {SECRET:?}, principal: {id} }}\n");
    let keys: String = principals.iter().map(line).collect();
    let setup = Setup::new(&[]).upstream(&urls, "balance: { hash: principal }").file("keys.yaml", &keys);
    let gateway = setup.start().await;
    let sent = async |id: &String| {
        let signed = gateway.dispatch(BODY).header("User-Agent", id).sign(&Signing::new(id, SECRET), gateway.now());
        let mut client = Client::connect(gateway.addr()).await;
        client.send(signed.bytes()).await;
        contract(&client.read_response().await, Kind::Success);
    };
    for id in principals.iter().chain(&principals) {
        sent(id).await;
    }
    let owners = |axons: &[Axon]| -> Vec<(String, Vec<String>)> {
        let of = |id: &String| {
            let mine = |axon: &&Axon| axon.requests().iter().any(|r| r.header("user-agent") == Some(id));
            (id.clone(), axons.iter().filter(mine).map(Axon::url).collect())
        };
        principals.iter().map(of).collect()
    };
    let before = owners(&axons);
    assert!(before.iter().all(|(_, owners)| owners.len() == 1), "{before:?}");
    // Whichever has one to lose.
    let url = before[0].1[0].clone();
    let lost = axons.remove(urls.iter().position(|other| *other == url).unwrap());
    let _refusing = lost.stop().await;
    for id in &principals {
        sent(id).await;
    }
    for ((id, was), (_, is)) in before.iter().zip(owners(&axons)) {
        if was[0] == url { assert_eq!(is.len(), 1, "{id} moved") } else { assert_eq!(*was, is, "{id} stayed") }
    }
}

// ---- several upstreams

fn body(intent: &str) -> String {
    format!(r#"{{"intent":"{intent}"}}"#)
}

/// Two upstreams; `b` takes the intent `b`, `a` everything else.
fn two(a: &Axon, b: &Axon) -> Setup {
    let policy = |intent: &str| format!(r#"{{"service":"orbit","intent":"{intent}","enabled":true}}"#);
    let policies: Vec<String> = ["a", "b", "c"].map(policy).into();
    let upstreams = format!(
        "{{ a: {{ endpoints: {:?}, sign: disabled }}, \
           b: {{ endpoints: {:?}, sign: disabled, request: {{ path: /b }}, response: {{ envelope_bytes: 1KiB }} }} }}",
        a.url(),
        b.url()
    );
    Setup::new(&[])
        .block("upstreams", upstreams)
        .block("routes", r#"[{ intent: b, upstream: b }, { intent: "*", upstream: a }]"#)
        .file("policies.json", &format!("[{}]", policies.join(",")))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_goes_to_its_upstream() {
    let (a, b) = (Axon::start(), Axon::start());
    let gateway = two(&a, &b).start().await;
    for intent in ["a", "b", "c", "b"] {
        contract(&gateway.send(gateway.dispatch(body(intent))).await, Kind::Success);
    }
    let seen = |axon: &Axon| -> Vec<(String, String)> {
        let intent = |r: &crate::harness::axon::Recorded| r.json()["intent"].as_str().unwrap().to_owned();
        axon.requests().iter().map(|r| (r.target.clone(), intent(r))).collect()
    };
    let pair = |target: &str, intent: &str| (target.to_owned(), intent.to_owned());
    assert_eq!(seen(&a), [pair("/dispatch", "a"), pair("/dispatch", "c")]);
    assert_eq!(seen(&b), [pair("/b", "b"), pair("/b", "b")]);
    contract(&gateway.send(gateway.dispatch(body("d"))).await, Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upstream_that_is_out_leaves_the_others_alone() {
    let (a, b) = (Axon::start(), Axon::start());
    let gateway = two(&a, &b).start().await;
    let stopped = b.stop().await;
    contract(&gateway.send(gateway.dispatch(body("b"))).await, Kind::Error("SERVICE_UNAVAILABLE"));
    contract(&gateway.send(gateway.dispatch(body("a"))).await, Kind::Success);
    // Ready, since it is of use; and it says what is not.
    let healthy = contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
    assert_eq!(healthy["checks"], serde_json::json!({ "b": "no healthy backend" }));
    let _stopped_too = a.stop().await;
    contract(&gateway.send(gateway.dispatch(body("a"))).await, Kind::Error("SERVICE_UNAVAILABLE"));
    let unhealthy = contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    assert_eq!(unhealthy["checks"], serde_json::json!({ "a": "no healthy backend", "b": "no healthy backend" }));
    drop(stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_two_upstreams_is_counted_for_each() {
    let axon = Axon::start();
    let gateway = two(&axon, &axon).start().await;
    for intent in ["a", "b", "b"] {
        contract(&gateway.send(gateway.dispatch(body(intent))).await, Kind::Success);
    }
    let calls = |upstream: &str| {
        let label = format!("{upstream}/{}", axon.addr());
        gateway.metric(&format!("orbit_axon_requests_total{{backend=\"{label}\",outcome=\"success\"}}"))
    };
    within(async {
        // An observation is told after its answer.
        while calls("a") + calls("b") < 3.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((calls("a"), calls("b")), (1.0, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_nothing_of_upstreams() {
    let (a, b) = (Axon::start(), Axon::start());
    let gateway = two(&a, &b).start().await;
    let _refusing = b.stop().await;
    let mut client = Client::connect(gateway.addr()).await;
    client.send(gateway.dispatch(body("b")).sign(&signing(), gateway.now()).bytes()).await;
    let text = client.read_response().await.text().to_owned();
    assert!(!text.contains("127.0.0.1") && !text.contains("upstream"), "{text}");
}

// ---- who is in use

/// Waits until a backend stands so.
async fn stands(gateway: &Gateway, axon: &Axon, state: &str) {
    let sample = format!("orbit_backend_state{{backend=\"{}\",state=\"{state}\"}} 1", axon.addr());
    gateway.metrics_become(|metrics| metrics.contains(&sample)).await;
}

fn count(gateway: &Gateway, metric: &str, axon: &Axon, more: &str) -> f64 {
    gateway.metric(&format!("{metric}{{backend=\"{}\"{more}}}", axon.addr()))
}

fn outs(gateway: &Gateway, axon: &Axon, cause: &str) -> f64 {
    count(gateway, "orbit_backend_out_total", axon, &format!(",cause=\"{cause}\""))
}

/// In front of these in turn, with no slow start.
fn in_turn(axons: &[&Axon], more: &str) -> Setup {
    let urls: Vec<String> = axons.iter().map(|axon| axon.url()).collect();
    Setup::new(&[]).upstream(&urls, &format!("balance: round_robin, slow_start: 0s, {more}"))
}

fn failure() -> Reply {
    Reply::json(500, "{}")
}

/// Dispatches, and gives the status.
async fn status(gateway: &Gateway) -> u16 {
    dispatch(gateway).await.status
}

/// Dispatches until `axon` was ejected; the statuses on the way.
async fn until_ejected(gateway: &Gateway, axon: &Axon) -> Vec<u16> {
    let before = outs(gateway, axon, "in_a_row");
    let mut statuses = Vec::new();
    while outs(gateway, axon, "in_a_row") == before {
        statuses.push(status(gateway).await);
        assert!(statuses.len() < 100, "never ejected: {statuses:?}");
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axon_that_is_not_well_gets_nothing_until_it_is() {
    let (one, two) = (Axon::start(), Axon::start());
    let health = "health: { interval: 2s, timeout: 1s, healthy: 2, unhealthy: 2 }";
    let gateway = in_turn(&[&one, &two], health).start().await;
    stands(&gateway, &one, "up").await;
    stands(&gateway, &two, "up").await;
    one.answer_probes("/health", Reply::new(503));
    stands(&gateway, &one, "unhealthy").await;
    assert!(count(&gateway, "orbit_health_checks_total", &one, ",result=\"failed\"") >= 2.0);
    assert_eq!((outs(&gateway, &one, "unhealthy"), outs(&gateway, &two, "unhealthy")), (1.0, 0.0));
    for _ in 0..10 {
        succeeds(&gateway).await;
    }
    assert_eq!(shares([&one, &two]), [0, 10]);
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);

    two.answer_probes("/health", Reply::new(404));
    stands(&gateway, &two, "unhealthy").await;
    contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(error["details"]["issue"], "no_healthy_backend");
    assert_eq!(shares([&one, &two]), [0, 10], "nobody was asked");

    one.answer_probes("/health", Reply::new(204));
    stands(&gateway, &one, "up").await;
    succeeds(&gateway).await;
    assert_eq!(shares([&one, &two]), [1, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_a_plain_get_of_the_path() {
    let axon = Axon::start();
    axon.answer_probes("/elsewhere", Reply::new(200));
    let gateway = Setup::new(&[]).upstream(&[axon.url()], "health: { path: /health/ready }").start().await;
    let [check] = &axon.received(1).await[..] else { panic!("one check") };
    assert_eq!((check.method.as_str(), check.target.as_str(), check.body.len()), ("GET", "/health/ready", 0));
    let names: Vec<&str> = check.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "accept", "user-agent"]);
    assert_eq!(check.header("host"), Some(axon.addr().to_string().as_str()));
    stands(&gateway, &axon, "up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_in_vain_are_reason_to_ask_and_one_bad_answer_is_then_enough() {
    let (one, two) = (Axon::start(), Axon::start());
    let health = "health: { interval: 1h, timeout: 100ms, unhealthy: 3 }";
    let gateway = in_turn(&[&one, &two], health).start().await;
    stands(&gateway, &one, "up").await;
    stands(&gateway, &two, "up").await;
    one.answer_probes("/health", Reply::hang());
    let gate = one.hold();
    let mut waiting = Client::connect(gateway.addr()).await;
    waiting.send(gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes()).await;
    one.received(1).await;
    gateway.clock.advance(Duration::from_secs(2));
    stands(&gateway, &one, "unhealthy").await;
    assert_eq!(count(&gateway, "orbit_health_checks_total", &one, ",result=\"failed\""), 1.0);
    for _ in 0..5 {
        succeeds(&gateway).await;
    }
    assert_eq!(shares([&one, &two]), [1, 5]);
    // What was under way may still come to a good end.
    gate.release();
    contract(&waiting.read_response().await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_well_is_back_when_nobody_asks_any_more() {
    let axon = Axon::start();
    axon.answer_probes("/health", Reply::new(503));
    let setup = |health: &str| Setup::new(&[]).upstream(&[axon.url()], &format!("health: {health}"));
    let gateway = setup("{ unhealthy: 1 }").start().await;
    stands(&gateway, &axon, "unhealthy").await;
    gateway.reload(setup("disabled")).await.expect("accepted");
    stands(&gateway, &axon, "up").await;
    succeeds(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_take_a_backend_out_and_one_request_brings_it_back() {
    let (one, two) = (Axon::start(), Axon::start());
    let gateway = in_turn(&[&one, &two], "eject: { consecutive: 3, for: 320s }").start().await;
    one.answer(failure());
    assert_eq!(until_ejected(&gateway, &one).await, [500, 200, 500, 200, 500]);
    stands(&gateway, &one, "ejected").await;
    assert_eq!(count(&gateway, "orbit_backend_healthy", &one, ""), 0.0);
    for _ in 0..10 {
        succeeds(&gateway).await;
    }
    assert_eq!(one.requests().len(), 3);
    // Nobody looks but the trial; that it fails again doubles the wait.
    gateway.clock.advance(Duration::from_secs(10));
    assert_eq!(status(&gateway).await, 500);
    assert_eq!(outs(&gateway, &one, "trial"), 1.0);
    one.answer(Reply::json(200, "{}"));
    gateway.clock.advance(Duration::from_secs(19));
    for _ in 0..5 {
        succeeds(&gateway).await;
    }
    assert_eq!(one.requests().len(), 4);
    gateway.clock.advance(Duration::from_secs(1));
    succeeds(&gateway).await;
    assert_eq!(one.requests().len(), 5);
    stands(&gateway, &one, "up").await;
    for _ in 0..4 {
        succeeds(&gateway).await;
    }
    assert_eq!(one.requests().len(), 7, "its half again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trial_at_a_time_and_one_that_its_client_leaves_decides_nothing() {
    let (one, two) = (Axon::start(), Axon::start());
    let gateway = in_turn(&[&one, &two], "eject: { consecutive: 2, for: 8s }").start().await;
    one.answer(failure());
    until_ejected(&gateway, &one).await;
    let seen = one.requests().len();
    one.answer(Reply::json(200, "{}"));
    gateway.clock.advance(Duration::from_secs(1));
    let gate = one.hold();
    let mut trial = Client::connect(gateway.addr()).await;
    trial.send(gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes()).await;
    one.received(seen + 1).await;
    stands(&gateway, &one, "trial").await;
    for _ in 0..5 {
        succeeds(&gateway).await;
    }
    assert_eq!(one.requests().len(), seen + 1);
    drop(trial);
    stands(&gateway, &one, "ejected").await;
    gate.release();
    succeeds(&gateway).await;
    assert_eq!(one.requests().len(), seen + 2, "the next one tries");
    stands(&gateway, &one, "up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_the_configured_part_is_ejected() {
    let axons = [Axon::start(), Axon::start(), Axon::start()];
    axons.iter().for_each(|axon| axon.answer(failure()));
    let gateway = in_turn(&axons.each_ref(), "eject: { consecutive: 2, max_percent: 67 }").start().await;
    for _ in 0..30 {
        assert_eq!(status(&gateway).await, 500);
    }
    let ejected = axons.iter().map(|axon| outs(&gateway, axon, "in_a_row")).sum::<f64>();
    let spared = axons.iter().map(|axon| count(&gateway, "orbit_backend_spared_total", axon, "")).sum::<f64>();
    assert!(ejected == 2.0 && spared > 1.0, "two of three: {ejected}, {spared}");
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_that_is_left_stays_and_what_was_ejected_is_better_than_nothing() {
    let (one, two) = (Axon::start(), Axon::start());
    let gateway = in_turn(&[&one, &two], "eject: { consecutive: 2 }").start().await;
    one.answer(failure());
    until_ejected(&gateway, &one).await;
    let seen = one.requests().len();
    // Requests came on one connection, the first look at it on another; that would find out as well.
    two.connected(2).await;
    let stopped = two.stop().await;
    one.answer(Reply::json(200, "{}"));
    // The first finds out that the other is gone.
    assert_eq!(status(&gateway).await, 503);
    succeeds(&gateway).await;
    assert_eq!(one.requests().len(), seen + 1);
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
    drop(stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_answers_at_once_and_half_open_lets_one_through() {
    let axon = Axon::start();
    axon.answer(failure());
    let eject = "eject: { consecutive: 2, for: 8s, max_percent: 100 }";
    let gateway = in_turn(&[&axon], eject).start().await;
    assert_eq!(until_ejected(&gateway, &axon).await, [500, 500]);
    contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    for _ in 0..5 {
        let error = contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(error["details"]["issue"], "no_healthy_backend");
    }
    assert_eq!(axon.requests().len(), 2);
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!([status(&gateway).await, status(&gateway).await], [500, 503]);
    axon.answer(Reply::json(200, "{}"));
    gateway.clock.advance(Duration::from_secs(2));
    succeeds(&gateway).await;
    succeeds(&gateway).await;
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_at_all_counts_twice_and_one_on_a_used_connection_not_at_all() {
    let axon = Axon::start();
    let eject = "eject: { consecutive: 5, max_percent: 100 }";
    let gateway = in_turn(&[&axon], eject).start().await;
    // The second is sent on the connection of the first. Had it counted, two more would be enough.
    axon.next([Reply::json(200, "{}"), Reply::hang_up()]);
    assert_eq!([status(&gateway).await, status(&gateway).await], [200, 503]);
    let turns: Vec<_> = axon.requests().iter().map(|request| request.turn).collect();
    assert_eq!(turns, [1, 2]);
    axon.answer(Reply::hang_up());
    assert_eq!(until_ejected(&gateway, &axon).await, [503; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_or_comes_too_late_is_a_failure() {
    for (reply, more) in [
        (Reply::json(200, "{}").cut(1), "timeouts: { idle: 10s }"),
        (Reply::hang(), "timeouts: { first_byte: 50ms }"),
        (Reply::raw("SSH-2.0-x\r\n"), "keepalive: 0"),
    ] {
        let axon = Axon::start();
        axon.answer(reply);
        let gateway = in_turn(&[&axon], &format!("eject: {{ max_percent: 100 }}, {more}")).start().await;
        assert_eq!(until_ejected(&gateway, &axon).await, [503; 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_what_speaks_of_the_request_are_no_failures() {
    let axon = Axon::start();
    let gateway = in_turn(&[&axon], "eject: { consecutive: 1, max_percent: 100 }").start().await;
    for status in [400, 404, 429, 301, 501] {
        axon.next([Reply::json(status, "{}")]);
        dispatch(&gateway).await;
    }
    assert_eq!(axon.requests().len(), 5);
    stands(&gateway, &axon, "up").await;
    assert_eq!(outs(&gateway, &axon, "in_a_row"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_was_restarted_is_back_at_once() {
    let (one, two) = (Axon::start(), Axon::start());
    let gateway = in_turn(&[&one, &two], "").start().await;
    let (address, stopped) = (one.addr(), one.stop().await);
    until(&gateway, || {
        let sample = format!("orbit_backend_state{{backend=\"{address}\",state=\"unreachable\"}}");
        gateway.metric(&sample) == 1.0
    })
    .await;
    let one = stopped.start();
    stands(&gateway, &one, "up").await;
    until(&gateway, || one.requests().len() > 1).await;
}
