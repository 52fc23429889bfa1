//! The three limits: whom each counts, in which order, what a refusal costs and what the headers tell.
//!
//! The clock stands still unless a test moves it, so every number is exact. The windows of the global and
//! the governance-call limit are exact; those per address are exact up to 22 requests and count larger limits
//! in 22 groups.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, RateLimit, contract, rate_limit};
use crate::harness::client::{Client, Response, Signed, Signing, get, within};
use crate::harness::gateway::{BODY, Gateway, NOW, Setup, signing};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
/// A limit that no test reaches.
const HIGH: &str = "{ rate: 50000/s }";

/// The `limits` block.
fn limits(per_ip: &str, global: &str, governance: &str) -> String {
    format!("{{ per_ip: {per_ip}, global: {global}, governance: {governance} }}")
}

fn setup(axon: &Axon, per_ip: &str, global: &str, governance: &str) -> Setup {
    Setup::new(&[axon.url()]).block("limits", limits(per_ip, global, governance))
}

/// One keep-alive connection.
struct Peer<'a> {
    gateway: &'a Gateway,
    client: Client,
}

impl<'a> Peer<'a> {
    /// From 127.0.0.`last`.
    async fn at(gateway: &'a Gateway, last: u8) -> Self {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        Self { gateway, client: Client::connect_from(source, gateway.addr()).await }
    }

    async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.client.send(bytes).await;
        let response = self.client.read_response().await;
        assert_ne!(response.header("connection"), Some("close"), "{}", String::from_utf8_lossy(&response.raw));
        response
    }

    /// A dispatch without a signature, with these header lines.
    async fn stranger_with(&mut self, lines: &str) -> Response {
        let (authority, length) = (self.gateway.authority(), BODY.len());
        let head = format!("POST /dispatch HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {length}\r\n{lines}\r\n");
        self.exchange(head + BODY).await
    }

    async fn stranger(&mut self) -> Response {
        self.stranger_with("").await
    }

    async fn send(&mut self, signed: Signed) -> Response {
        self.send_as(signed, &signing()).await
    }

    async fn send_as(&mut self, signed: Signed, signing: &Signing) -> Response {
        self.exchange(signed.sign(signing, self.gateway.now()).bytes()).await
    }

    /// A dispatch that is signed and allowed.
    async fn caller(&mut self) -> Response {
        let dispatch = self.gateway.dispatch(BODY);
        self.send(dispatch).await
    }

    /// How many of `times` signed dispatches are admitted; the others must be refused by `limit`.
    async fn admitted(&mut self, times: usize, limit: &str) -> usize {
        let mut admitted = 0;
        for _ in 0..times {
            match refused_by(&self.caller().await) {
                None => admitted += 1,
                Some(refuser) => assert_eq!(refuser, limit),
            }
        }
        admitted
    }
}

/// The limit that refused, if one did.
#[track_caller]
fn refused_by(response: &Response) -> Option<&'static str> {
    match response.status {
        200 => drop(contract(response, Kind::Success)),
        401 => drop(contract(response, Kind::Error("MISSING_AUTHORIZATION"))),
        403 => {
            assert_eq!(contract(response, Kind::Denied)["reason"], "Rate limit exceeded");
            return Some("governance");
        }
        _ => {
            let answer = contract(response, Kind::Error("RATE_LIMIT_EXCEEDED"));
            return Some(if answer["details"]["limit"] == "per_ip" { "per_ip" } else { "global" });
        }
    }
    None
}

/// A parameter of a limit in the structured headers: `q` and `w` of the policy, `r` and `t` of the state.
#[track_caller]
fn told(response: &Response, limit: &str, parameter: &str) -> Option<u64> {
    let header = if matches!(parameter, "q" | "w") { "ratelimit-policy" } else { "ratelimit" };
    let list = response.header(header)?;
    let item = list.split(", ").find_map(|item| item.strip_prefix(&format!("\"{limit}\";")))?;
    item.split(';').find_map(|given| given.strip_prefix(&format!("{parameter}="))?.parse().ok())
}

/// The limits that the structured headers name, in order.
#[track_caller]
fn named(response: &Response) -> Vec<&str> {
    let list = response.header("ratelimit").unwrap_or_default();
    list.split(", ").filter(|item| !item.is_empty()).map(|item| item.split('"').nth(1).expect("a name")).collect()
}

#[track_caller]
fn retry_after(response: &Response) -> u64 {
    response.header("retry-after").expect("Retry-After").parse().expect("whole seconds")
}

/// Waits until a metric has this value: a request is counted after its answer has left.
async fn counted(gateway: &Gateway, sample: &str, value: f64) {
    within(async {
        while gateway.metric(sample) != value {
            get(gateway.addr(), "/health/live").await;
        }
    })
    .await;
}

// What a 429 tells

#[tokio::test(flavor = "multi_thread")]
async fn a_429_of_the_global_limit_tells_limit_remainder_reset_and_wait_exactly() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 2/min }", HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;

    let first = peer.caller().await;
    assert_eq!(rate_limit(&first), RateLimit { limit: 2, remaining: 1, reset: NOW + 60 });
    gateway.clock.advance(10 * SECOND);
    let second = peer.caller().await;
    assert_eq!(rate_limit(&second), RateLimit { limit: 2, remaining: 0, reset: NOW + 70 });
    gateway.clock.advance(5 * SECOND + Duration::from_millis(1));
    let refused = peer.caller().await;

    let answer = contract(&refused, Kind::Error("RATE_LIMIT_EXCEEDED"));
    assert_eq!(answer["details"], serde_json::json!({"limit": "global"}));
    assert_eq!(rate_limit(&refused), RateLimit { limit: 2, remaining: 0, reset: NOW + 70 });
    assert_eq!(retry_after(&refused), 45, "44.999 s, in whole seconds");
    assert_eq!((told(&refused, "global", "q"), told(&refused, "global", "w")), (Some(2), Some(60)));
    assert_eq!((told(&refused, "global", "r"), told(&refused, "global", "t")), (Some(0), Some(45)));
    assert_eq!(axon.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_of_the_per_ip_limit_tells_that_limit() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 2/min }", HIGH, HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    let remainders = [told(&peer.caller().await, "per_ip", "r"), told(&peer.caller().await, "per_ip", "r")];
    assert_eq!(remainders, [Some(1), Some(0)]);

    let refused = peer.caller().await;

    let answer = contract(&refused, Kind::Error("RATE_LIMIT_EXCEEDED"));
    assert_eq!(answer["details"], serde_json::json!({"limit": "per_ip"}));
    let wait = retry_after(&refused);
    assert!((60..=63).contains(&wait), "{wait} is not the window and at most a slot of it");
    assert_eq!(rate_limit(&refused), RateLimit { limit: 2, remaining: 0, reset: NOW + wait });
    assert_eq!((told(&refused, "per_ip", "q"), told(&refused, "per_ip", "w")), (Some(2), Some(60)));
    assert_eq!((told(&refused, "per_ip", "r"), told(&refused, "per_ip", "t")), (Some(0), Some(wait)));
    assert_eq!(axon.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_as_told_is_admitted() {
    for (per_ip, global) in [("{ rate: 3/min }", HIGH), (HIGH, "{ rate: 3/min }")] {
        let axon = Axon::start();
        let gateway = setup(&axon, per_ip, global, HIGH).start().await;
        let mut peer = Peer::at(&gateway, 1).await;
        for _ in 0..3 {
            assert_eq!(refused_by(&peer.caller().await), None);
            gateway.clock.advance(7 * SECOND + Duration::from_micros(1));
        }
        for _ in 0..3 {
            let refused = peer.caller().await;
            assert!(refused_by(&refused).is_some());
            gateway.clock.advance(SECOND * retry_after(&refused) as u32);
            assert_eq!(refused_by(&peer.caller().await), None, "after the told wait");
        }
    }
}

/// `t` of the `RateLimit` field is when more becomes available, `X-RateLimit-Reset` when all is.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_comes_back_before_the_whole_window_does() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 5/min }", HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    peer.caller().await;
    gateway.clock.advance(20 * SECOND);
    let second = peer.caller().await;
    contract(&second, Kind::Success);
    assert_eq!(told(&second, "global", "t"), Some(40));
    assert_eq!(rate_limit(&second).reset, NOW + 80);
}

// The order, and what a refusal costs

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_strangers_requests_leave_the_global_limit_untouched() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 3/min }", HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    for _ in 0..1000 {
        contract(&peer.stranger().await, Kind::Error("MISSING_AUTHORIZATION"));
    }
    assert_eq!(rate_limit(&peer.caller().await).remaining, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_verified_requests_are_charged_to_the_global_limit() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 3/min }", HIGH).start().await;
    let (addr, now) = (gateway.addr(), gateway.now());
    let dispatch = || gateway.dispatch(BODY);
    let unverified = [
        (dispatch().sign(&Signing::new("AKIDEXAMPLE", "wrong"), now), "INVALID_SIGNATURE"),
        (dispatch().sign(&Signing::new("UNKNOWN", "wrong"), now), "INVALID_SIGNATURE"),
        (dispatch().but_send(BODY.replace("user123", "user124")).sign(&signing(), now), "INVALID_SIGNATURE"),
        (dispatch().declared().but_send(BODY.replace("user123", "user124")).sign(&signing(), now), "INVALID_SIGNATURE"),
        (
            dispatch().without("Content-Type").header("Content-Type", "text/plain").sign(&signing(), now),
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            dispatch()
                .sign(&signing(), now)
                .edit(&format!("Content-Length: {}", BODY.len()), "Content-Length: 1048577"),
            "PAYLOAD_TOO_LARGE",
        ),
    ];
    for (message, code) in unverified {
        contract(&message.send(addr).await, Kind::Error(code));
    }
    assert_eq!(rate_limit(&gateway.send(dispatch()).await).remaining, 2);
    assert_eq!(axon.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_per_ip_limit_is_asked_before_all_that_a_request_claims() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 4/min }", HIGH, HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    let text = || gateway.dispatch(BODY).without("Content-Type").header("Content-Type", "text/plain");
    // Whatever becomes of it later, each costs one.
    contract(&peer.stranger().await, Kind::Error("MISSING_AUTHORIZATION"));
    contract(&peer.send(text()).await, Kind::Error("UNSUPPORTED_MEDIA_TYPE"));
    contract(&peer.send(gateway.dispatch("{}")).await, Kind::Error("INVALID_REQUEST"));
    let last = peer.caller().await;
    assert_eq!((refused_by(&last), told(&last, "per_ip", "r")), (None, Some(0)));

    for response in [
        peer.stranger().await,
        peer.send(text()).await,
        peer.send(gateway.dispatch("{}")).await,
        peer.send_as(gateway.dispatch(BODY), &Signing::new("AKIDEXAMPLE", "wrong")).await,
        peer.caller().await,
    ] {
        assert_eq!(refused_by(&response), Some("per_ip"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_dispatch_costs_nothing() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 1/min }", "{ rate: 1/min }", "{ rate: 1/min }").start().await;
    let addr = gateway.addr();
    for _ in 0..5 {
        contract(&get(addr, "/health").await, Kind::Healthy);
        contract(&get(addr, "/health/live").await, Kind::Live);
        contract(&get(addr, "/metrics").await, Kind::Metrics);
        contract(&get(addr, "/nothing").await, Kind::Error("NOT_FOUND"));
        contract(&get(addr, "/dispatch").await, Kind::Error("METHOD_NOT_ALLOWED"));
    }
    assert_eq!(refused_by(&gateway.send(gateway.dispatch(BODY)).await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_the_per_ip_limit_spends_nothing_of_the_later_ones() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 2/min }", "{ rate: 4/min }", "{ rate: 4/min }").start().await;
    assert_eq!(Peer::at(&gateway, 1).await.admitted(9, "per_ip").await, 2);
    let other = Peer::at(&gateway, 2).await.caller().await;
    assert_eq!(refused_by(&other), None);
    assert_eq!((told(&other, "global", "r"), told(&other, "governance", "r")), (Some(1), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_the_global_limit_spends_no_governance_call() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 1/s }", "{ rate: 3/min }").start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    for _ in 0..3 {
        assert_eq!(peer.admitted(5, "global").await, 1);
        gateway.clock.advance(SECOND);
    }
    assert_eq!(refused_by(&peer.caller().await), Some("governance"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_dispatch_costs_the_global_limit_but_no_governance_call() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 9/min }", "{ rate: 9/min }").start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    for body in ["", "nonsense", "{}", r#"{"intent":"call_reasoning","context":null}"#] {
        let response = peer.send(gateway.dispatch(body)).await;
        contract(&response, Kind::Error("INVALID_REQUEST"));
    }
    let response = peer.caller().await;
    assert_eq!((told(&response, "global", "r"), told(&response, "governance", "r")), (Some(4), Some(8)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_the_governance_limit_spends_nothing_of_the_policys_own() {
    let axon = Axon::start();
    let policies = r#"[{"service":"orbit","intent":"call_reasoning","enabled":true,
        "rate_limits":{"requests_per_minute":3}}]"#;
    let gateway = setup(&axon, HIGH, HIGH, "{ rate: 1/s }").file("policies.json", policies).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    for _ in 0..3 {
        assert_eq!(peer.admitted(5, "governance").await, 1);
        gateway.clock.advance(SECOND);
    }
    let response = peer.caller().await;
    assert_eq!(contract(&response, Kind::Denied)["reason"], "Rate limit exceeded");
    assert_eq!(told(&response, "governance", "r"), Some(0), "the call was admitted, the policy refused");
}

// Windows

#[tokio::test(flavor = "multi_thread")]
async fn a_client_at_twice_the_limit_gets_the_limit() {
    let rate = "{ rate: 20/min }";
    for (limit, per_ip, global, governance) in
        [("per_ip", rate, HIGH, HIGH), ("global", HIGH, rate, HIGH), ("governance", HIGH, HIGH, rate)]
    {
        let axon = Axon::start();
        let gateway = setup(&axon, per_ip, global, governance).start().await;
        let mut peer = Peer::at(&gateway, 1).await;
        let mut moments = Vec::new();
        for n in 0..200_u64 {
            if peer.admitted(1, limit).await == 1 {
                moments.push(n * 1500);
            }
            gateway.clock.advance(MINUTE / 40);
        }
        for minute in 0..5 {
            let inside = moments.iter().filter(|at| *at / 60_000 == minute).count();
            assert_eq!(inside, 20, "{limit}, minute {minute}: {moments:?}");
        }
        for from in &moments {
            let inside = moments.iter().filter(|at| (*from..from + 60_000).contains(*at)).count();
            assert!(inside <= 20, "{limit}: {inside} within a minute of {from} ms");
        }
    }
}

/// Whoever does a minute's work at once and comes back a minute later.
async fn bursts(per_ip: &str, global: &str, governance: &str, limit: &str) -> Vec<usize> {
    let axon = Axon::start();
    let gateway = setup(&axon, per_ip, global, governance).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    let mut admitted = Vec::new();
    gateway.clock.advance(SECOND);
    for _ in 0..4 {
        admitted.push(peer.admitted(20, limit).await);
        gateway.clock.advance(MINUTE + SECOND / 10);
    }
    admitted
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_global_limit_at_once_every_minute_gets_the_limit_every_minute() {
    assert_eq!(bursts(HIGH, "{ rate: 10/min }", HIGH, "global").await, [10; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_governance_limit_at_once_every_minute_gets_the_limit_every_minute() {
    assert_eq!(bursts(HIGH, HIGH, "{ rate: 10/min }", "governance").await, [10; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_per_ip_limit_at_once_every_minute_gets_the_limit_every_minute() {
    assert_eq!(bursts("{ rate: 10/min }", HIGH, HIGH, "per_ip").await, [10; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_slides_and_does_not_reset_at_the_top_of_the_minute() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 4/min }", HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    // 09:56:51, 09:57:21, and so on: seconds to wait, how many of three are admitted then.
    let steps = [(0, 3), (8, 1), (1, 0), (1, 0), (49, 0), (1, 3), (7, 0), (1, 1), (51, 0), (1, 3)];
    for (at, (wait, admitted)) in steps.into_iter().enumerate() {
        gateway.clock.advance(SECOND * wait);
        assert_eq!(peer.admitted(3, "global").await, admitted, "step {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addresss_window_slides_and_does_not_reset_at_the_top_of_the_minute() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 4/min }", HIGH, HIGH).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    let steps = [(0, 3), (9, 1), (30, 0), (20, 0), (4, 3), (3, 0), (6, 1), (50, 0)];
    for (at, (wait, admitted)) in steps.into_iter().enumerate() {
        gateway.clock.advance(SECOND * wait);
        assert_eq!(peer.admitted(3, "per_ip").await, admitted, "step {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_never_admits_more_than_the_limit() {
    let rate = "{ rate: 10/min }";
    for (limit, per_ip, global, governance) in
        [("per_ip", rate, HIGH, HIGH), ("global", HIGH, rate, HIGH), ("governance", HIGH, HIGH, rate)]
    {
        let axon = Axon::start();
        let gateway = setup(&axon, per_ip, global, governance).start().await;
        let message = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(Client::connect(gateway.addr()).await);
        }
        let mut running = JoinSet::new();
        for mut client in clients {
            let message = message.clone();
            running.spawn(async move {
                client.send(message).await;
                client.read_response().await
            });
        }
        let answers: Vec<_> = running.join_all().await.iter().map(refused_by).collect();
        assert_eq!(answers.iter().filter(|refuser| refuser.is_none()).count(), 10, "{limit}");
        assert_eq!(answers.iter().filter(|refuser| **refuser == Some(limit)).count(), 54, "{limit}");
        assert_eq!(axon.requests().len(), 10, "{limit}");
    }
}

// Who is counted together

/// Strangers behind the proxies of 127.0.0.0/8, by their `X-Forwarded-For`: each list shares one
/// allowance of two, and no list shares with another.
async fn grouped(per_ip: &str, groups: &[&[&str]]) {
    let axon = Axon::start();
    let gateway = setup(&axon, per_ip, HIGH, HIGH).listen("trusted_proxies: [127.0.0.0/8]").start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    for group in groups {
        let mut refused = Vec::new();
        for forwarded in group.iter().cycle().take(3 * group.len()) {
            let lines: String = forwarded.lines().map(|line| format!("X-Forwarded-For: {line}\r\n")).collect();
            refused.push(refused_by(&peer.stranger_with(&lines).await).is_some());
        }
        let expected: Vec<_> = (0..refused.len()).map(|n| n >= 2).collect();
        assert_eq!(refused, expected, "{group:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_do_not_share() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 2/min }", HIGH, HIGH).start().await;
    for last in [1, 2, 7] {
        let mut peer = Peer::at(&gateway, last).await;
        assert_eq!(peer.admitted(5, "per_ip").await, 2, "127.0.0.{last}");
    }
    let mut again = Peer::at(&gateway, 7).await;
    assert_eq!(again.admitted(1, "per_ip").await, 0, "a new connection is no new address");
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_addresses_of_one_64_share() {
    grouped(
        "{ rate: 2/min }",
        &[
            &["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "[2001:db8:0:1::3]:443", "2001:DB8:0:1::4"],
            &["2001:db8:0:2::1", "2001:db8::2:ffff:0:0:1"],
            &["2001:db9:0:1::1"],
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ipv6_prefix_can_be_chosen() {
    let of_48: &[&[&str]] = &[&["2001:db8:0:1::1", "2001:db8:0:2::1"], &["2001:db8:1::1"]];
    grouped("{ rate: 2/min, ipv6_prefix: 48 }", of_48).await;
    grouped("{ rate: 2/min, ipv6_prefix: 128 }", &[&["2001:db8::1"], &["2001:db8::2"]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv4_address_mapped_into_ipv6_is_that_ipv4_address() {
    grouped(
        "{ rate: 2/min }",
        &[
            &["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201", "192.0.2.1:4711", "[::ffff:192.0.2.1]:80"],
            &["192.0.2.2", "::ffff:192.0.2.2"],
            // Compatible, not mapped: an IPv6 address like any other.
            &["::192.0.2.1", "::192.0.2.2"],
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_writes_left_of_its_own_address_is_not_believed() {
    grouped(
        "{ rate: 2/min }",
        &[
            &[
                "192.0.2.1",
                "198.51.100.9, 192.0.2.1",
                "198.51.100.10,192.0.2.1",
                "nonsense, 127.0.0.9, 192.0.2.1",
                "198.51.100.11\n192.0.2.1",
                "198.51.100.12, 192.0.2.1, 127.0.0.5",
                "192.0.2.1\n127.0.0.5, 127.0.0.6",
            ],
            &["198.51.100.9"],
            // A proxy that reports no address counts itself.
            &["192.0.2.77, unknown, 127.0.0.8", "127.0.0.8"],
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_addresses_of_strangers_are_not_believed() {
    let axon = Axon::start();
    for listen in ["trusted_proxies: []", "trusted_proxies: [127.0.0.1/32]"] {
        let gateway = setup(&axon, "{ rate: 2/min }", HIGH, HIGH).listen(listen).start().await;
        let mut peer = Peer::at(&gateway, 7).await;
        let mut refused = Vec::new();
        for n in 0..4 {
            let line = format!("X-Forwarded-For: 192.0.2.{n}\r\n");
            refused.push(refused_by(&peer.stranger_with(&line).await).is_some());
        }
        assert_eq!(refused, [false, false, true, true], "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn governance_calls_are_counted_by_principal_not_by_key() {
    let keys = ["ALICE1", "ALICE2", "BOB1"].map(|id| {
        let principal = if id == "BOB1" { "bob" } else { "alice" };
        format!("- {{ access_key_id: {id}, secret_access_key: secret-of-{id}, principal: {principal} }}\n")
    });
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, HIGH, "{ rate: 3/min }").file("keys.yaml", &keys.concat()).start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    let mut remaining = Vec::new();
    for id in ["ALICE1", "ALICE2", "ALICE1", "ALICE1", "ALICE2", "BOB1"] {
        let response = peer.send_as(gateway.dispatch(BODY), &Signing::new(id, &format!("secret-of-{id}"))).await;
        remaining.push((refused_by(&response), told(&response, "governance", "r")));
    }
    let (spent, left) = ((Some("governance"), Some(0)), |n| (None, Some(n)));
    assert_eq!(remaining, [left(2), left(1), left(0), spent, spent, left(2)]);
    assert_eq!(axon.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_global_limit_counts_all_principals_together() {
    let keys = "- { access_key_id: A, secret_access_key: a, principal: a }\n\
                - { access_key_id: B, secret_access_key: b, principal: b }\n";
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 2/min }", HIGH).file("keys.yaml", keys).start().await;
    let mut refused = Vec::new();
    for (last, id, secret) in [(1, "A", "a"), (2, "B", "b"), (3, "A", "a"), (4, "B", "b")] {
        let mut peer = Peer::at(&gateway, last).await;
        refused.push(refused_by(&peer.send_as(gateway.dispatch(BODY), &Signing::new(id, secret)).await));
    }
    assert_eq!(refused, [None, None, Some("global"), Some("global")]);
}

// Modes

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_shadow_admits_and_tells() {
    let shadow = "{ rate: 2/min, mode: shadow }";
    for (limit, per_ip, global, governance) in
        [("per_ip", shadow, HIGH, HIGH), ("global", HIGH, shadow, HIGH), ("governance", HIGH, HIGH, shadow)]
    {
        let axon = Axon::start();
        let gateway = setup(&axon, per_ip, global, governance).start().await;
        let mut peer = Peer::at(&gateway, 1).await;
        let mut remaining = Vec::new();
        for _ in 0..5 {
            let response = peer.caller().await;
            assert_eq!(refused_by(&response), None, "{limit}");
            assert_eq!(response.header("retry-after"), None, "{limit}");
            assert_eq!(told(&response, limit, "q"), Some(2), "{limit}");
            remaining.push(told(&response, limit, "r").expect("told"));
        }
        assert_eq!(remaining, [1, 0, 0, 0, 0], "{limit}");
        assert_eq!(axon.requests().len(), 5, "{limit}");
        counted(&gateway, &format!("orbit_rate_limited_total{{limit=\"{limit}\"}}"), 3.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_by_limit() {
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 8/min }", "{ rate: 6/min }", "{ rate: 3/min }").start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    for _ in 0..12 {
        refused_by(&peer.caller().await);
    }
    for (limit, refused) in [("per_ip", 4.0), ("global", 2.0), ("governance", 3.0)] {
        counted(&gateway, &format!("orbit_rate_limited_total{{limit=\"{limit}\"}}"), refused).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_limit_neither_refuses_nor_tells() {
    for (disabled, per_ip, global, governance) in [
        ("per_ip", "disabled", HIGH, HIGH),
        ("global", HIGH, "disabled", HIGH),
        ("governance", HIGH, HIGH, "disabled"),
        ("all", "disabled", "disabled", "disabled"),
    ] {
        let axon = Axon::start();
        let gateway = setup(&axon, per_ip, global, governance).start().await;
        let response = gateway.send(gateway.dispatch(BODY)).await;
        contract(&response, Kind::Success);
        let expected: Vec<_> =
            ["per_ip", "global", "governance"].into_iter().filter(|n| disabled != "all" && *n != disabled).collect();
        assert_eq!(named(&response), expected, "without {disabled}");
        let global_told = response.header("x-ratelimit-limit").is_some();
        assert_eq!(global_told, expected.contains(&"global"), "without {disabled}");
        assert_eq!(response.header("ratelimit-policy").is_some(), disabled != "all", "without {disabled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_nobody_wrote_are_the_contracts() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).block("limits", "{ store: local }").start().await;
    let response = gateway.send(gateway.dispatch(BODY)).await;
    contract(&response, Kind::Success);
    let policy = r#""per_ip";q=100;w=60, "global";q=1000;w=60, "governance";q=100;w=60"#;
    assert_eq!(response.header("ratelimit-policy"), Some(policy));
    assert_eq!(rate_limit(&response), RateLimit { limit: 1000, remaining: 999, reset: NOW + 60 });
}

// Which headers on which answers

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_the_limits_that_applied_to_it() {
    let all = ["per_ip", "global", "governance"].as_slice();
    let axon = Axon::start();
    let gateway = setup(&axon, "{ rate: 900/min }", "{ rate: 800/min }", "{ rate: 700/min }").start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    let nothing: &[&str] = &[];

    // Strangers learn nothing of what is behind the door.
    let stranger = peer.stranger().await;
    contract(&stranger, Kind::Error("MISSING_AUTHORIZATION"));
    assert_eq!(named(&stranger), ["per_ip"]);
    assert_eq!(stranger.header("x-ratelimit-limit"), None);

    let invalid = peer.send(gateway.dispatch("[]")).await;
    contract(&invalid, Kind::Error("INVALID_REQUEST"));
    assert_eq!(named(&invalid), ["per_ip", "global"]);
    assert_eq!(rate_limit(&invalid), RateLimit { limit: 800, remaining: 799, reset: NOW + 60 });

    let denied = peer.send(gateway.dispatch(r#"{"intent":"other"}"#)).await;
    contract(&denied, Kind::Denied);
    assert_eq!(named(&denied), all);
    assert_eq!(rate_limit(&denied).remaining, 798);

    axon.next([
        Reply::json(200, "{}"),
        Reply::json(200, "[]"),
        Reply::json(422, "{}"),
        Reply::json(418, ""),
        Reply::json(500, "{}"),
        Reply::json(503, "{}"),
    ]);
    let kinds = [
        Kind::Success,
        Kind::Passed,
        Kind::AxonError(422),
        Kind::AxonRefusal(418),
        Kind::Error("INTERNAL_ERROR"),
        Kind::Error("SERVICE_UNAVAILABLE"),
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        let response = peer.caller().await;
        contract(&response, kind);
        assert_eq!(named(&response), all, "{kind:?}");
        assert_eq!(rate_limit(&response), RateLimit { limit: 800, remaining: 797 - n as u64, reset: NOW + 60 });
    }

    for (path, kind) in [
        ("/health", Kind::Healthy),
        ("/health/live", Kind::Live),
        ("/metrics", Kind::Metrics),
        ("/dispatch", Kind::Error("METHOD_NOT_ALLOWED")),
        ("/other", Kind::Error("NOT_FOUND")),
    ] {
        let response = get(gateway.addr(), path).await;
        contract(&response, kind);
        assert_eq!(named(&response), nothing, "{path}");
        assert_eq!(response.header("x-ratelimit-limit"), None, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_limits_up_to_the_one_that_refused() {
    for (per_ip, global, governance, expected) in [
        ("{ rate: 1/min }", "{ rate: 5/min }", HIGH, ["per_ip"].as_slice()),
        (HIGH, "{ rate: 1/min }", "{ rate: 5/min }", &["per_ip", "global"]),
        (HIGH, "{ rate: 5/min }", "{ rate: 1/min }", &["per_ip", "global", "governance"]),
    ] {
        let axon = Axon::start();
        let gateway = setup(&axon, per_ip, global, governance).start().await;
        let mut peer = Peer::at(&gateway, 1).await;
        peer.caller().await;
        let refused = peer.caller().await;
        assert_eq!(refused_by(&refused), expected.last().copied());
        assert_eq!(named(&refused), expected);
    }
}

/// A 403 is no 429: `X-RateLimit-*` go on describing the global limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_spent_governance_allowance_is_told_beside_the_global_limit() {
    let axon = Axon::start();
    let gateway = setup(&axon, HIGH, "{ rate: 9/min }", "{ rate: 1/min }").start().await;
    let mut peer = Peer::at(&gateway, 1).await;
    peer.caller().await;
    let denied = peer.caller().await;
    assert_eq!(refused_by(&denied), Some("governance"));
    assert_eq!((told(&denied, "governance", "q"), told(&denied, "governance", "r")), (Some(1), Some(0)));
    assert_eq!(rate_limit(&denied), RateLimit { limit: 9, remaining: 7, reset: NOW + 60 });
}
