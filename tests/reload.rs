//! A new configuration under running traffic, and the way down.

use std::net::SocketAddr;

use orbit::gateway::{Refused, Reloaded};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract, rate_limit};
use crate::harness::client::{Client, Ending, Response, Signing, get, within};
use crate::harness::gateway::{ACCESS_KEY, BODY, Gateway, Setup, signing};

const HIGH: &str = "{ rate: 50000/s }";

fn setup(axon: &Axon) -> Setup {
    Setup::new(&[axon.url()])
}

fn limits(per_ip: &str, global: &str, governance: &str) -> String {
    format!("{{ per_ip: {per_ip}, global: {global}, governance: {governance} }}")
}

fn key_line(id: &str, principal: &str) -> String {
    format!("- {{ access_key_id: {id}, secret_access_key: secret-of-{id}, principal: {principal} }}\n")
}

fn signing_of(id: &str) -> Signing {
    Signing::new(id, &format!("secret-of-{id}"))
}

/// A list of one policy for `call_reasoning`, with more members.
fn policies(more: &str) -> String {
    format!(r#"[{{"service":"orbit","intent":"call_reasoning","enabled":true{more}}}]"#)
}

/// Sends the standing dispatch on a connection of its own.
async fn dispatch(gateway: &Gateway) -> Response {
    gateway.send(gateway.dispatch(BODY)).await
}

async fn succeeds(gateway: &Gateway) {
    contract(&dispatch(gateway).await, Kind::Success);
}

async fn accepted(gateway: &Gateway, setup: Setup) -> u64 {
    match gateway.reload(setup).await {
        Ok(Reloaded::Accepted { generation, restart }) => {
            assert!(restart.is_empty(), "a restart for {restart:?}");
            generation
        }
        other => panic!("not accepted: {other:?}"),
    }
}

/// Spawns the standing dispatch and gives it back once Axon holds it.
async fn in_flight(gateway: &Gateway, axon: &Axon) -> JoinHandle<Response> {
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now());
    let addr = gateway.addr();
    let before = axon.requests().len();
    let running = tokio::spawn(async move { message.send(addr).await });
    axon.received(before + 1).await;
    running
}

// What changes, and from when

#[tokio::test(flavor = "multi_thread")]
async fn the_same_files_change_nothing() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    for n in 1..4 {
        assert_eq!(gateway.reload(setup(&axon)).await.expect("fine"), Reloaded::Unchanged { generation: 1 });
        assert_eq!(gateway.metric("orbit_config_reloads_total{result=\"unchanged\"}"), f64::from(n));
    }
    assert_eq!(gateway.metric("orbit_config_generation"), 1.0);
    assert_eq!(gateway.metric("orbit_config_reloads_total{result=\"accepted\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_any_file_is_a_new_generation() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    let key =
        format!("{}- {{ access_key_id: {ACCESS_KEY}, secret_access_key: x, principal: p }}\n", key_line("B", "b"));
    let steps = [
        setup(&axon).block("drain", "{ min: 0s, max: 9s }"),
        setup(&axon).file("policies.json", &policies("")),
        setup(&axon).file("keys.yaml", &key),
        setup(&axon),
    ];
    for (generation, step) in (2..).zip(steps) {
        assert_eq!(accepted(&gateway, step).await, generation);
        assert_eq!(gateway.metric("orbit_config_generation"), generation as f64);
        assert_eq!(gateway.orbit.snapshot().generation, generation);
    }
    assert_eq!(gateway.metric("orbit_config_reloads_total{result=\"accepted\"}"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_holds_for_the_next_request() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    let mut client = Client::connect(gateway.addr()).await;
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
    client.send(&message).await;
    assert_eq!(rate_limit(&client.read_response().await).limit, 100_000);
    accepted(&gateway, setup(&axon).block("limits", limits(HIGH, "{ rate: 1/min }", HIGH))).await;
    // On the same connection: what is swapped is seen by requests, not by connections.
    client.send(&message).await;
    assert_eq!(rate_limit(&client.read_response().await).limit, 1);
    client.send(&message).await;
    contract(&client.read_response().await, Kind::Error("RATE_LIMIT_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_holds_for_the_next_request() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    succeeds(&gateway).await;
    let condition = r#","conditions":[{"type":"context_check","field":"user_id","operator":"equals","value":"x"}]"#;
    accepted(&gateway, setup(&axon).file("policies.json", &policies(condition))).await;
    let answer = contract(&dispatch(&gateway).await, Kind::Denied);
    assert_eq!(answer["reason"], "Condition not met: Unknown");
    accepted(&gateway, setup(&axon)).await;
    succeeds(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_file_that_a_glob_newly_matches_is_read() {
    let glob = || Setup::new(&[]).block("governance", "{ policies: policies/*.json }");
    let axon = Axon::start();
    let one = || glob().upstream(&[axon.url()], "keepalive: 8").file("policies/1.json", &policies(""));
    let gateway = one().start().await;
    let other = r#"{"intent":"other"}"#;
    contract(&gateway.send(gateway.dispatch(other)).await, Kind::Denied);
    let two = one().file("policies/2.json", r#"[{"service":"orbit","intent":"other","enabled":true}]"#);
    accepted(&gateway, two).await;
    contract(&gateway.send(gateway.dispatch(other)).await, Kind::Success);
    succeeds(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_added_disabled_and_removed_with_the_next_request() {
    let axon = Axon::start();
    let with = |keys: &str| setup(&axon).file("keys.yaml", keys);
    let gateway = with(&key_line("OLD", "alice")).start().await;
    let disabled = key_line("OLD", "alice").replace(" }", ", disabled: true }");
    let (both, half) = (key_line("OLD", "alice") + &key_line("NEW", "alice"), disabled + &key_line("NEW", "alice"));
    let steps = [
        (key_line("OLD", "alice"), true, false),
        (both, true, true),
        (half, false, true),
        (key_line("NEW", "alice"), false, true),
    ];
    for (at, (keys, old, new)) in steps.into_iter().enumerate() {
        if at > 0 {
            accepted(&gateway, with(&keys)).await;
        }
        for (id, good) in [("OLD", old), ("NEW", new)] {
            let response = gateway.dispatch(BODY).send(gateway.addr(), &signing_of(id), gateway.now()).await;
            if good {
                contract(&response, Kind::Success);
            } else {
                let answer = contract(&response, Kind::Error("INVALID_SIGNATURE"));
                assert_eq!(answer["details"]["issue"], "mismatch", "step {at}, {id}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_changed_in_its_own_file_is_a_change() {
    let axon = Axon::start();
    let keys =
        format!("- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {{ file: secrets/one }}, principal: p }}\n");
    let make = |secret: &str| setup(&axon).file("keys.yaml", &keys).file("secrets/one", secret);
    let gateway = make("first\n").start().await;
    let send = async |secret: &str| {
        let signing = Signing::new(ACCESS_KEY, secret);
        gateway.dispatch(BODY).send(gateway.addr(), &signing, gateway.now()).await.status
    };
    assert_eq!([send("first").await, send("second").await], [200, 401]);
    assert_eq!(accepted(&gateway, make("second\n")).await, 2);
    assert_eq!([send("first").await, send("second").await], [401, 200]);
    gateway.reload(make("\n")).await.expect_err("an empty secret");
    assert_eq!(send("second").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_endpoint_gets_the_next_request() {
    let (old, new) = (Axon::start(), Axon::start());
    let gateway = setup(&old).start().await;
    succeeds(&gateway).await;
    accepted(&gateway, setup(&new)).await;
    succeeds(&gateway).await;
    assert_eq!((old.requests().len(), new.requests().len()), (1, 1));
    let metrics = gateway.orbit.metrics_text();
    assert!(metrics.contains(&format!("orbit_backend_healthy{{backend=\"{}\"}} 1", new.addr())));
    assert!(!metrics.contains(&old.addr().to_string()), "a backend that is gone is still told of");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_request_ends_with_the_configuration_that_it_began_with() {
    let (old, new) = (Axon::start(), Axon::start());
    old.answer(Reply::json(200, r#"{"message":"from the old one"}"#));
    let gateway = setup(&old).start().await;
    let gate = old.hold();
    let running = in_flight(&gateway, &old).await;

    // Its key, its endpoint, its policy, its envelope and its limits go.
    let next = Setup::new(&[])
        .upstream(&[new.url()], "response: { envelope_bytes: 1KiB }")
        .file("keys.yaml", &key_line("NEW", "bob"))
        .file("policies.json", &policies("").replace("call_reasoning", "other"))
        .block("limits", limits("disabled", "disabled", "disabled"));
    accepted(&gateway, next).await;
    contract(&dispatch(&gateway).await, Kind::Error("INVALID_SIGNATURE"));
    let other = gateway.dispatch(r#"{"intent":"other"}"#);
    contract(&other.send(gateway.addr(), &signing_of("NEW"), gateway.now()).await, Kind::Success);

    gate.release();
    let response = within(running).await.expect("answered");
    let answer = contract(&response, Kind::Success);
    assert_eq!(answer["message"], "from the old one");
    assert_eq!(rate_limit(&response).limit, 100_000, "told as of its own limits");
    assert_eq!((old.requests().len(), new.requests().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_body_is_under_way_keeps_the_keys_that_it_began_with() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now());
    let mut client = Client::connect(gateway.addr()).await;
    client.send(&message.head).await;
    client.send(&message.body[..10]).await;
    // Counted as in flight, so it has taken its configuration.
    within(async {
        while gateway.metric("orbit_in_flight_requests") < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    accepted(&gateway, setup(&axon).file("keys.yaml", &key_line("NEW", "bob"))).await;
    client.send(&message.body[10..]).await;
    contract(&client.read_response().await, Kind::Success);
    contract(&dispatch(&gateway).await, Kind::Error("INVALID_SIGNATURE"));
}

// What survives

/// A limit with three requests a minute, of which two are spent.
async fn half_spent(make: impl Fn(&str) -> Setup) -> Gateway {
    let gateway = make("3").start().await;
    for _ in 0..2 {
        succeeds(&gateway).await;
    }
    gateway
}

/// How many of six dispatches are admitted.
async fn left(gateway: &Gateway) -> usize {
    let mut admitted = 0;
    for _ in 0..6 {
        admitted += usize::from(dispatch(gateway).await.status == 200);
    }
    admitted
}

type Make<'a> = Box<dyn Fn(&str) -> Setup + 'a>;

/// The setups of every limit at `count` a minute: per address, global, per principal, of a policy.
fn every_limit(axon: &Axon) -> [(&'static str, Make<'_>); 5] {
    let rate = |count: &str| format!("{{ rate: {count}/min }}");
    let of_policy = |member: &'static str| {
        move |count: &str| {
            setup(axon).file("policies.json", &policies(&format!(r#","rate_limits":{{"{member}":{count}}}"#)))
        }
    };
    [
        ("per_ip", Box::new(move |count| setup(axon).block("limits", limits(&rate(count), HIGH, HIGH)))),
        ("global", Box::new(move |count| setup(axon).block("limits", limits(HIGH, &rate(count), HIGH)))),
        ("governance", Box::new(move |count| setup(axon).block("limits", limits(HIGH, HIGH, &rate(count))))),
        ("minute", Box::new(of_policy("requests_per_minute"))),
        ("hour", Box::new(of_policy("requests_per_hour"))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_of_an_unchanged_limit_stays_spent() {
    let axon = Axon::start();
    for (limit, make) in every_limit(&axon) {
        let gateway = half_spent(&make).await;
        accepted(&gateway, make("3").block("drain", "{ min: 0s, max: 9s }")).await;
        accepted(&gateway, make("3").block("drain", "{ min: 0s, max: 8s }")).await;
        assert_eq!(left(&gateway).await, 1, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_starts_anew() {
    let axon = Axon::start();
    for (limit, make) in every_limit(&axon) {
        let gateway = half_spent(&make).await;
        accepted(&gateway, make("4")).await;
        assert_eq!(left(&gateway).await, 4, "{limit}");
        accepted(&gateway, make("3")).await;
        assert_eq!(left(&gateway).await, 3, "{limit}: what the first configuration counted is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_keeps_its_counts_when_it_leaves_the_shadow() {
    let axon = Axon::start();
    let make = |mode: &str| {
        let rate = format!("{{ rate: 3/min, mode: {mode} }}");
        setup(&axon).block("limits", limits(&rate, &rate, &rate))
    };
    let gateway = make("shadow").start().await;
    assert_eq!(left(&gateway).await, 6, "a shadow refuses nothing");
    accepted(&gateway, make("enforce")).await;
    assert_eq!(left(&gateway).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_counts_survive_edits_elsewhere_in_it_and_around_it() {
    let axon = Axon::start();
    let limited = r#","rate_limits":{"requests_per_minute":3}"#;
    let gateway = half_spent(|_| setup(&axon).file("policies.json", &policies(limited))).await;
    let other = r#"{"service":"orbit","intent":"other","enabled":true,"rate_limits":{"requests_per_minute":3}}"#;
    let described = policies(&format!(r#","description":"new"{limited}"#));
    let moved = described.replacen('[', &format!("[{other},"), 1);
    accepted(&gateway, setup(&axon).file("policies.json", &moved)).await;
    assert_eq!(left(&gateway).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principals_counts_survive_the_rotation_of_its_key() {
    let axon = Axon::start();
    let make = |keys: &str| setup(&axon).block("limits", limits(HIGH, HIGH, "{ rate: 3/min }")).file("keys.yaml", keys);
    let gateway = make(&key_line("OLD", "alice")).start().await;
    let send =
        async |id: &str| gateway.dispatch(BODY).send(gateway.addr(), &signing_of(id), gateway.now()).await.status;
    assert_eq!([send("OLD").await, send("OLD").await], [200, 200]);
    accepted(&gateway, make(&(key_line("BOB", "bob") + &key_line("NEW", "alice")))).await;
    assert_eq!([send("NEW").await, send("NEW").await, send("BOB").await], [200, 403, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_axon_survive() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    for max in 11..15 {
        succeeds(&gateway).await;
        accepted(&gateway, setup(&axon).block("drain", format!("{{ min: 0s, max: {max}s }}"))).await;
    }
    succeeds(&gateway).await;
    let used: Vec<_> = axon.requests().iter().map(|request| (request.connection, request.turn)).collect();
    let connection = used[0].0;
    assert_eq!(used, (1..=5).map(|turn| (connection, turn)).collect::<Vec<_>>(), "one connection, used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_connections_survive() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    let mut client = Client::connect(gateway.addr()).await;
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
    for max in 11..15 {
        client.send(&message).await;
        let response = client.read_response().await;
        contract(&response, Kind::Success);
        assert_ne!(response.header("connection"), Some("close"));
        accepted(&gateway, setup(&axon).block("drain", format!("{{ min: 0s, max: {max}s }}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_backends_health_survives() {
    let axon = Axon::refusing();
    let urls = [axon.url()];
    let gateway = Setup::new(&urls).start().await;
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    accepted(&gateway, Setup::new(&urls).block("drain", "{ min: 0s, max: 9s }")).await;
    contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    assert_eq!(gateway.metric(&format!("orbit_backend_healthy{{backend=\"{}\"}}", axon.addr())), 0.0);
}

// What is refused

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_slip_is_refused_whole_and_the_old_one_goes_on() {
    let axon = Axon::start();
    // Would deny everything, if any of it took effect.
    let next = || setup(&axon).file("policies.json", &policies("").replace("true", "false"));
    let keys = |secret: &str| format!("- {{ access_key_id: A, secret_access_key: {secret}, principal: a }}\n");
    let table = [
        ("an unknown key", next().block("limits", "{ per_ipp: disabled }"), "per_ipp"),
        ("an unknown block", next().block("limit", "{ store: local }"), "limit"),
        ("a key of a later version", next().block("admin", "{ token: x }"), "admin"),
        ("bad YAML", next().block("drain", "{ min: 0s, max: [ }"), "orbit.yaml"),
        ("a number without unit", next().block("drain", "{ min: 0, max: 10s }"), "`0`"),
        ("a range upside down", next().block("drain", "{ min: 9s, max: 8s }"), "`min` is longer"),
        ("a blank block", next().block("auth", ""), "auth"),
        ("a missing policy file", next().block("governance", "{ policies: missing.json }"), "missing.json"),
        ("a glob without match", next().block("governance", "{ policies: missing/*.json }"), "missing/*.json"),
        ("a policy with a slip", next().file("policies.json", &policies(r#","enabeld":true"#)), "enabeld"),
        (
            "two policies for one intent",
            next().file(
                "policies.json",
                &policies("},{\"service\":\"orbit\",\"intent\":\"call_reasoning\",\"enabled\":true"),
            ),
            "already",
        ),
        ("a missing key file", next().block("auth", "{ keys: missing.yaml }"), "missing.yaml"),
        ("an empty key file", next().file("keys.yaml", ""), "keys.yaml"),
        ("no key", next().file("keys.yaml", "[]\n"), "no key"),
        ("a secret that is not set", next().file("keys.yaml", &keys("{ env: NOT_SET }")), "NOT_SET"),
        ("a secret that is empty", next().file("keys.yaml", &keys("\"\"")), "keys.yaml"),
        (
            "an endpoint that is none",
            next().block("upstreams", "{ axon: { endpoints: [\"axon\"], sign: disabled } }"),
            "axon",
        ),
        ("a limit that cannot be counted", next().block("limits", limits("{ rate: 70000/min }", HIGH, HIGH)), "per_ip"),
    ];
    let gateway = setup(&axon).start().await;
    for (n, (what, broken, hint)) in table.into_iter().enumerate() {
        let refused = match gateway.reload(broken).await {
            Err(refused @ (Refused::Configuration(_) | Refused::Parts(_))) => refused.to_string(),
            other => panic!("{what}: {other:?}"),
        };
        assert!(refused.contains(hint), "{what}: {refused}");
        assert_eq!(gateway.metric("orbit_config_reloads_total{result=\"refused\"}"), n as f64 + 1.0, "{what}");
        assert_eq!(gateway.metric("orbit_config_generation"), 1.0, "{what}");
        assert_eq!(gateway.orbit.snapshot().generation, 1, "{what}");
        succeeds(&gateway).await;
    }
    // Mended, it is taken.
    assert_eq!(accepted(&gateway, next()).await, 2);
    contract(&dispatch(&gateway).await, Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_main_file_is_refused() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    std::fs::remove_file(gateway.directory().join("orbit.yaml")).expect("removed");
    let refused = gateway.orbit.reload().await.expect_err("refused").to_string();
    assert!(refused.contains("orbit.yaml"), "{refused}");
    succeeds(&gateway).await;
    assert_eq!(gateway.reload(setup(&axon)).await.expect("fine"), Reloaded::Unchanged { generation: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_every_file_is_told_at_once_with_its_line() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    let broken = setup(&axon)
        .block("drain", "{ min: 0, max: 10s }")
        .block("limits", "{ per_ipp: disabled }")
        .file("keys.yaml", "\n- { access_key_id: A, secret_access_key: { env: NOT_SET }, principal: a }\n")
        .file("policies.json", "[\n\n{\"service\":\"orbit\",\"intent\":\"x\"}]");
    let refused = gateway.reload(broken).await.expect_err("refused").to_string();
    for part in ["orbit.yaml:3:", "orbit.yaml:5:", "keys.yaml:2:", "policies.json:3:"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_file_leaves_no_trace_in_counters_and_metrics() {
    let (axon, other) = (Axon::start(), Axon::start());
    let make = |axon: &Axon, per_ip: &str| setup(axon).block("limits", limits(per_ip, "{ rate: 3/min }", HIGH));
    let gateway = half_spent(|_| make(&axon, HIGH)).await;
    gateway.reload(make(&other, "{ rate: 70000/min }")).await.expect_err("refused");
    assert_eq!(left(&gateway).await, 1);
    assert!(!gateway.orbit.metrics_text().contains(&other.addr().to_string()), "a backend that was refused is told of");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_do_not_show_in_what_is_refused() {
    let axon = Axon::start();
    let gateway = setup(&axon).start().await;
    let broken =
        setup(&axon).file("keys.yaml", "- { access_key_id: A, secret_access_key: hunter2hunter2, principle: a }\n");
    let refused = gateway.reload(broken).await.expect_err("refused");
    let text = format!("{refused} {refused:?}");
    assert!(text.contains("keys.yaml:1:") && !text.contains("hunter2"), "{text}");
}

// What needs a restart

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_process_cannot_change_is_told() {
    let axon = Axon::start();
    for (name, changed) in [
        ("listen.address", setup(&axon).block("listen", "{ address: \"127.0.0.9:0\" }")),
        ("listen.address", setup(&axon).block("listen", "{ address: [\"127.0.0.1:0\", \"127.0.0.2:0\"] }")),
        ("runtime.threads", setup(&axon).block("runtime", "{ threads: 3 }")),
    ] {
        let gateway = setup(&axon).start().await;
        let both = changed.file("policies.json", &policies("").replace("true", "false"));
        let told = gateway.reload(both).await.expect("accepted");
        assert_eq!(told, Reloaded::Accepted { generation: 2, restart: vec![name] });
        // The rest of it is in force, on the address that was bound.
        contract(&dispatch(&gateway).await, Kind::Denied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_for_a_restart_is_told_until_it_is_taken_back() {
    let axon = Axon::start();
    let threads = |count: &str| setup(&axon).block("runtime", format!("{{ threads: {count} }}"));
    let gateway = threads("2").start().await;
    let again = threads("3").block("drain", "{ min: 0s, max: 9s }");
    for (step, restart) in
        [(threads("3"), vec!["runtime.threads"]), (again, vec!["runtime.threads"]), (threads("2"), vec![])]
    {
        match gateway.reload(step).await {
            Ok(Reloaded::Accepted { restart: told, generation }) => {
                assert_eq!(told, restart, "generation {generation}")
            }
            other => panic!("not accepted: {other:?}"),
        }
    }
}

// Under load

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_to_reloads_under_load() {
    const CLIENTS: usize = 8;
    const EACH: usize = 50;
    const RELOADS: usize = 20;
    let (one, two) = (Axon::start(), Axon::start());
    let first = || setup(&one);
    let second = || {
        Setup::new(&[one.url(), two.url()])
            .block("limits", limits("disabled", HIGH, "{ rate: 90000/s }"))
            .file("policies.json", &policies(r#","rate_limits":{"requests_per_hour":100000}"#))
            .file(
                "keys.yaml",
                &format!(
                    "{}- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {:?}, principal: p }}\n",
                    key_line("B", "b"),
                    signing().secret
                ),
            )
    };
    let gateway = first().start().await;
    let (done, mut progress) = watch::channel(0);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (done, addr) = (done.clone(), gateway.addr());
        let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
        clients.spawn(async move {
            let mut client = Client::connect(addr).await;
            for _ in 0..EACH {
                client.send(&message).await;
                contract(&client.read_response().await, Kind::Success);
                done.send_modify(|n| *n += 1);
            }
        });
    }
    for n in 0..RELOADS {
        // Spread over the whole of it.
        within(progress.wait_for(|done| *done >= n * CLIENTS * EACH / (RELOADS + 1))).await.expect("clients run");
        match n % 3 {
            0 => drop(accepted(&gateway, second()).await),
            1 => drop(gateway.reload(second().block("limits", "{ per_ipp: disabled }")).await.expect_err("refused")),
            _ => drop(accepted(&gateway, first()).await),
        }
    }
    within(clients.join_all()).await;
    assert_eq!(one.requests().len() + two.requests().len(), CLIENTS * EACH);
    assert!(!two.requests().is_empty(), "the second configuration was never in force");
}

// The way down

/// Begins to drain.
fn drain(gateway: &Gateway) -> JoinHandle<bool> {
    let orbit = gateway.orbit.clone();
    tokio::spawn(async move { orbit.drain().await })
}

/// Asks until `/health` says 503, and gives that answer.
async fn unhealthy(addr: SocketAddr) -> Response {
    within(async {
        loop {
            let response = get(addr, "/health").await;
            if response.status == 503 {
                return response;
            }
            contract(&response, Kind::Healthy);
        }
    })
    .await
}

/// Tries until a connection is refused.
async fn refusing(addr: SocketAddr) {
    within(async { while TcpStream::connect(addr).await.is_ok() {} }).await;
}

fn draining(axon: &Axon, min: &str, max: &str) -> Setup {
    setup(axon).block("drain", format!("{{ min: {min}, max: {max} }}"))
}

#[track_caller]
fn closes(response: &Response) {
    assert_eq!(response.header("connection"), Some("close"), "{}", String::from_utf8_lossy(&response.raw));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_gateway_is_not_ready_but_goes_on_accepting() {
    let axon = Axon::start();
    axon.next([Reply::json(200, "{}"), Reply::json(200, "[]"), Reply::json(422, "{}"), Reply::json(503, "")]);
    let gateway = draining(&axon, "1h", "1h").start().await;
    let addr = gateway.addr();
    let running = drain(&gateway);

    let health = unhealthy(addr).await;
    let answer = contract(&health, Kind::Unhealthy);
    assert_eq!(answer["checks"], serde_json::json!({"drain": "draining"}));
    closes(&health);
    let live = get(addr, "/health/live").await;
    contract(&live, Kind::Live);
    closes(&live);
    // New connections are served, each for one request.
    for kind in [Kind::Success, Kind::Passed, Kind::AxonError(422), Kind::Error("SERVICE_UNAVAILABLE")] {
        let response = dispatch(&gateway).await;
        contract(&response, kind);
        closes(&response);
    }
    let refused = gateway.send(gateway.dispatch("{}")).await;
    contract(&refused, Kind::Error("INVALID_REQUEST"));
    closes(&refused);
    let unknown = get(addr, "/unknown").await;
    contract(&unknown, Kind::Error("NOT_FOUND"));
    closes(&unknown);
    assert!(!running.is_finished());
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_ends_with_its_next_answer_while_draining() {
    let axon = Axon::start();
    let gateway = draining(&axon, "1h", "1h").start().await;
    let mut client = Client::connect(gateway.addr()).await;
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
    client.send(&message).await;
    assert_ne!(client.read_response().await.header("connection"), Some("close"));
    let running = drain(&gateway);
    unhealthy(gateway.addr()).await;
    client.send(&message).await;
    let last = client.read_response().await;
    contract(&last, Kind::Success);
    closes(&last);
    assert_eq!(client.closed().await, Ending::Finished);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_finished_before_the_drain_is() {
    let axon = Axon::start();
    let gateway = draining(&axon, "0s", "1h").start().await;
    let gate = axon.hold();
    let request = in_flight(&gateway, &axon).await;
    let running = drain(&gateway);
    refusing(gateway.addr()).await;
    assert!(!running.is_finished() && !request.is_finished());

    gate.release();
    let response = within(request).await.expect("answered");
    contract(&response, Kind::Success);
    closes(&response);
    assert!(within(running).await.expect("drained"), "every request finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_flight_is_finished_before_the_drain_is() {
    let axon = Axon::start();
    let (reply, stream) = Reply::event_stream();
    axon.next([reply]);
    let gateway = draining(&axon, "0s", "1h").start().await;
    let mut client = Client::connect(gateway.addr()).await;
    client.send(gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes()).await;
    stream.send("data: 1\n\n").await;
    client.read_head().await;
    assert_eq!(client.read_event().await.as_deref(), Some("data: 1\n\n"));
    let running = drain(&gateway);
    refusing(gateway.addr()).await;

    stream.send("data: 2\n\n").await;
    assert_eq!(client.read_event().await.as_deref(), Some("data: 2\n\n"));
    assert!(!running.is_finished());
    stream.finish();
    assert_eq!(client.read_event().await, None);
    assert_eq!(client.closed().await, Ending::Finished);
    assert!(within(running).await.expect("drained"));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_and_new_ones_refused() {
    let axon = Axon::start();
    let gateway = draining(&axon, "0s", "1h").start().await;
    let mut fresh = Client::connect(gateway.addr()).await;
    let mut used = Client::connect(gateway.addr()).await;
    let head = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.authority());
    for _ in 0..2 {
        used.send(&head).await;
        contract(&used.read_response_to("GET").await, Kind::Healthy);
    }
    assert!(within(drain(&gateway)).await.expect("drained"), "nothing was in flight");
    assert_eq!(used.closed().await, Ending::Finished);
    fresh.closed().await;
    assert!(TcpStream::connect(gateway.addr()).await.is_err(), "still listening");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_head_is_under_way_when_the_listener_closes_is_told_so() {
    let axon = Axon::start();
    let gateway = draining(&axon, "0s", "1h").start().await;
    let mut client = Client::connect(gateway.addr()).await;
    // Answered once, so that the gateway certainly has the connection.
    client.send(format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.authority())).await;
    client.read_response_to("GET").await;
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
    client.send(&message[..40]).await;
    // What was sent before this exchange has been noticed before its end.
    contract(&get(gateway.addr(), "/health/live").await, Kind::Live);
    let running = drain(&gateway);
    refusing(gateway.addr()).await;
    client.send(&message[40..]).await;
    let response = client.read_response().await;
    let answer = contract(&response, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(answer["details"]["issue"], "draining");
    closes(&response);
    assert!(within(running).await.expect("drained"));
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_gives_up_after_its_maximum_and_says_so() {
    let axon = Axon::start();
    let gateway = draining(&axon, "0s", "300ms").start().await;
    let _gate = axon.hold();
    let request = in_flight(&gateway, &axon).await;
    assert!(!within(drain(&gateway)).await.expect("given up"), "a request was in flight");
    request.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_draining_does_not_make_it_ready_again() {
    let axon = Axon::start();
    let gateway = draining(&axon, "1h", "1h").start().await;
    let running = drain(&gateway);
    unhealthy(gateway.addr()).await;
    accepted(&gateway, draining(&axon, "0s", "1h")).await;
    contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_place_of_a_file_is_refused_and_nothing_waits_for_it() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let policies = gateway.directory().join("policies.json");
    std::fs::remove_file(&policies).expect("remove");
    let made = std::process::Command::new("mkfifo").arg(&policies).status().expect("mkfifo");
    assert!(made.success());

    let refused = within(gateway.orbit.reload()).await.expect_err("refused").to_string();
    assert!(refused.contains("not a regular file"), "{refused}");
    contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Success);
}
