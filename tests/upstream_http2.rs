//! HTTP/2 to Axon: many exchanges on few connections, each on its own whatever becomes of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response as Head, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::axon::{Axon, Gate};
use crate::harness::axon2::{ANSWER, Asked, Axon2, Manners, Raw, reset_of, send};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Client, request, within};
use crate::harness::dns::Dns;
use crate::harness::gateway::{BODY, Gateway, Setup, asking, dispatch};
use crate::harness::secure::{Authority, Front, Speaks};

const HTTP2: &str = "http2: true";

/// A gateway in front of this Axon.
fn before(axon: &Axon2, more: &str) -> Setup {
    Setup::new(&[]).upstream(&[axon.url()], more)
}

/// Sends `n` dispatches at once.
async fn asking_all(gateway: &Gateway, n: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(asking(gateway).await);
    }
    clients
}

/// How often exchanges with `axon` ended so.
fn outcomes(gateway: &Gateway, axon: &Axon2, outcome: &str) -> f64 {
    gateway.metric(&format!("orbit_axon_requests_total{{backend=\"{}\",outcome=\"{outcome}\"}}", axon.addr()))
}

fn secure(ca: &Authority) -> Speaks {
    Speaks { alpn: &["h2", "http/1.1"], ..Speaks::with(ca.issue(&["127.0.0.1"])) }
}

/// Answers those that come after the gate has been opened at once, and holds the others until then.
async fn holding(manners: Manners) -> (Axon2, Gate) {
    let gate = Gate::new();
    let hold = gate.clone();
    let axon = Axon2::start(manners, move |asked| {
        let hold = hold.clone();
        async move {
            hold.pass().await;
            asked.answer().await;
        }
    });
    (axon.await, gate)
}

// ---- which protocol is spoken

#[tokio::test(flavor = "multi_thread")]
async fn an_axon_that_chooses_http2_is_asked_by_it_on_one_connection() {
    let ca = Authority::new();
    let axon = Axon2::answering(Manners { tls: Some(secure(&ca)), ..Manners::default() }).await;
    let more = "http2: true, tls: { ca: ca.pem }, sign: { credentials: { keys: sign.yaml } }";
    let sign = "{ access_key_id: AKIDAXON, secret_access_key: { env: S } }";
    let setup = before(&axon, more).file("ca.pem", &ca.pem()).file("sign.yaml", sign).variable("S", "hunter2");
    let gateway = setup.start().await;
    for _ in 0..3 {
        let response = dispatch(&gateway).await;
        contract(&response, Kind::Success);
        assert_eq!(response.json()["message"], "Axon heartbeat OK");
    }
    let asked = axon.requests();
    assert_eq!(axon.connections(), 1);
    assert_eq!(asked.iter().map(|r| r.turn).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(axon.handshakes()[0].alpn.as_deref(), Some("h2"));
    let request = &asked[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/dispatch"));
    assert_eq!(request.header("host"), Some(axon.addr().to_string().as_str()));
    assert_eq!(request.header("content-length"), Some(BODY.len().to_string().as_str()));
    assert_eq!(request.body, BODY.as_bytes());
    assert_eq!(request.verify_signature("hunter2", "us-east-1", "execute-api"), Ok(()));
}

/// The host that is signed is the one that is sent, whatever the log calls the backend.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_by_name_is_asked_for_and_signed_by_that_name() {
    let dns = Dns::new();
    let more = "sign: { credentials: { keys: sign.yaml } }";
    let sign = "{ access_key_id: AKIDAXON, secret_access_key: { env: S } }";
    let (old, new) = (Axon::start(), Axon2::answering(Manners::default()).await);
    dns.set("axon", [old.addr().ip()]);
    for (port, http2) in [(old.addr().port(), false), (new.addr().port(), true)] {
        let url = format!("http://axon:{port}");
        let setup = Setup::new(&[]).upstream(&[url], &format!("http2: {http2}, {more}")).dns(&dns);
        let gateway = setup.file("sign.yaml", sign).variable("S", "hunter2").start().await;
        // The name is resolved in the background.
        within(async { while dispatch(&gateway).await.status != 200 {} }).await;
        let request = if http2 { new.requests().pop() } else { old.requests().pop() }.unwrap();
        assert_eq!(request.header("host"), Some(format!("axon:{port}").as_str()));
        assert_eq!(request.verify_signature("hunter2", "us-east-1", "execute-api"), Ok(()), "{http2}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axon_that_does_not_choose_http2_is_asked_as_before() {
    let ca = Authority::new();
    for alpn in [&["http/1.1"][..], &[]] {
        let axon = Axon::start();
        let front = Front::start(axon.addr(), &Speaks { alpn, ..Speaks::with(ca.issue(&["127.0.0.1"])) }).await;
        let setup = Setup::new(&[]).upstream(&[front.url()], "http2: true, tls: { ca: ca.pem }");
        let gateway = setup.file("ca.pem", &ca.pem()).start().await;
        // They don't wait for one another's connections.
        let gate = axon.hold();
        let mut clients = asking_all(&gateway, 5).await;
        gate.reached(5).await;
        gate.release();
        for client in &mut clients {
            contract(&client.read_response().await, Kind::Success);
        }
        let connections: std::collections::BTreeSet<usize> = axon.requests().iter().map(|r| r.connection).collect();
        assert_eq!(connections.len(), 5);
        contract(&dispatch(&gateway).await, Kind::Success);
        assert!(axon.requests().pop().unwrap().turn > 1, "idle connections are used again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_http2_is_taken_for_granted() {
    let axon = Axon2::answering(Manners::default()).await;
    let gateway = before(&axon, HTTP2).start().await;
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(axon.requests().len(), 1);

    // Who speaks HTTP/1.1 alone is found out before a request is sent.
    let old = Axon::start();
    let gateway = Setup::new(&[]).upstream(&[old.url()], HTTP2).start().await;
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed: connect failed: HTTP/2: "]).await;
    assert!(old.requests().is_empty());
    // Nobody tries it again from here on.
    drop(gateway);
    old.all_closed().await;
    assert!(!old.take_violations().is_empty(), "the preface is no request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_ends_with_its_head() {
    let axon = Axon2::start(Manners::default(), |asked: Asked| async move {
        let status = if asked.bodiless { 200 } else { 400 };
        asked.answer_with(Head::builder().status(status).header("content-type", "application/json"), "{}").await;
    });
    let axon = axon.await;
    let more = "http2: true, request: { method: GET, path: /reason, body: none }";
    let gateway = before(&axon, more).start().await;
    contract(&dispatch(&gateway).await, Kind::Success);
    let request = axon.requests().pop().unwrap();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/reason"));
    assert_eq!((request.header("content-length"), request.header("content-type")), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_axon_refuses_is_a_failed_connect() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let axon = Axon2::answering(Manners { tls: Some(secure(&ca).requiring(&clients)), ..Manners::default() }).await;
    let setup = before(&axon, "http2: true, tls: { ca: ca.pem }").file("ca.pem", &ca.pem());
    let gateway = setup.start().await;
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    let why = "connect_failed: connect failed: TLS: it requires a client certificate";
    gateway.logged(&["[WARN] AXON_CALL [c-1]", why]).await;
    assert!(axon.requests().is_empty());
}

// ---- many exchanges, few connections

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_exchanges_at_once_need_no_more_than_two_connections() {
    let (axon, gate) = holding(Manners::default()).await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut clients = asking_all(&gateway, 100).await;
    axon.received(100).await;
    assert!(axon.connections() <= 2, "{}", axon.connections());
    gate.release();
    for client in &mut clients {
        contract(&client.read_response().await, Kind::Success);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrive_together_open_one_connection() {
    let accept = Gate::new();
    let axon = Axon2::answering(Manners { accept: Some(accept.clone()), ..Manners::default() }).await;
    let gateway = before(&axon, "http2: true, timeouts: { connect: 10s }").start().await;
    let mut clients = asking_all(&gateway, 20).await;
    accept.reached(1).await;
    // One of them leaves, and does not take the connection with it.
    drop(clients.pop());
    accept.release();
    for client in &mut clients {
        contract(&client.read_response().await, Kind::Success);
    }
    assert_eq!(axon.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_added_where_axon_allows_no_more_streams() {
    let (axon, gate) = holding(Manners { streams_max: Some(1), ..Manners::default() }).await;
    let gateway = before(&axon, "http2: true, keepalive: 4").start().await;
    let mut clients = asking_all(&gateway, 4).await;
    axon.received(4).await;
    assert_eq!(axon.connections(), 4);

    // All are taken; the fifth waits for one of them, for as long as a connect may take.
    let mut fifth = asking(&gateway).await;
    gate.release();
    for client in clients.iter_mut().chain([&mut fifth]) {
        contract(&client.read_response().await, Kind::Success);
    }
    assert_eq!(axon.connections(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_every_stream_taken_is_refused_in_time_and_it_is_not_axons_fault() {
    let (axon, gate) = holding(Manners { streams_max: Some(1), ..Manners::default() }).await;
    let gateway = before(&axon, "http2: true, keepalive: 1, timeouts: { connect: 300ms }").start().await;
    let mut first = asking(&gateway).await;
    axon.received(1).await;
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed: all streams of all connections are taken"]).await;
    assert!(gateway.metric("orbit_overload_total{bound=\"axon_streams\"}") >= 1.0);
    assert_eq!(gateway.metric(&format!("orbit_backend_healthy{{backend=\"{}\"}}", axon.addr())), 1.0);
    gate.release();
    contract(&first.read_response().await, Kind::Success);
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(axon.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_open_where_nothing_is_to_be_kept() {
    let axon = Axon2::answering(Manners::default()).await;
    let gateway = before(&axon, "http2: true, keepalive: 0").start().await;
    // The first is the look at whether it is there.
    let up = format!("orbit_backend_state{{backend=\"{}\",state=\"up\"}} 1", axon.addr());
    gateway.metrics_become(|metrics| metrics.contains(&up)).await;
    for n in 1..=3 {
        axon.closed(n).await;
        assert_eq!(axon.connections(), n);
        contract(&dispatch(&gateway).await, Kind::Success);
    }
    axon.closed(4).await;
}

// ---- connections and streams that end

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_goes_away_finishes_what_runs_and_gets_nothing_new() {
    let (axon, gate) = holding(Manners::default()).await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut clients = asking_all(&gateway, 3).await;
    axon.received(3).await;
    axon.go_away();
    gate.release();
    for client in &mut clients {
        contract(&client.read_response().await, Kind::Success);
    }
    axon.closed(1).await;
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(axon.requests().iter().map(|r| r.connection).collect::<Vec<_>>(), [1, 1, 1, 2]);
}

/// What becomes of 400 requests of 20 clients that never pause while connections end again and again: how
/// many were answered, and the ids of those that Axon began.
async fn answered_while(end: impl Fn(&Axon2)) -> (usize, Vec<String>) {
    const CLIENTS: usize = 20;
    const EACH: usize = 20;
    let axon = Axon2::answering(Manners { streams_max: Some(8), ..Manners::default() }).await;
    let gateway = Arc::new(before(&axon, "http2: true, keepalive: 4").start().await);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let gateway = gateway.clone();
        clients.spawn(async move {
            let mut answered = 0;
            for _ in 0..EACH {
                answered += usize::from(dispatch(&gateway).await.status == 200);
            }
            answered
        });
    }
    for n in (10..CLIENTS * EACH / 2).step_by(10) {
        axon.received(n).await;
        end(&axon);
    }
    let answered = clients.join_all().await.into_iter().sum();
    assert!(axon.connections() > 10, "{}", axon.connections());
    (answered, axon.requests().iter().map(|r| r.header("x-request-id").unwrap().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_go_away_fail_nobody_and_nothing_is_done_twice() {
    let (answered, mut begun) = answered_while(Axon2::go_away).await;
    assert_eq!((answered, begun.len()), (400, 400));
    begun.sort_unstable();
    begun.dedup();
    assert_eq!(begun.len(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_have_nothing_done_twice() {
    let (answered, mut begun) = answered_while(Axon2::die).await;
    let times = begun.len();
    begun.sort_unstable();
    begun.dedup();
    assert_eq!(begun.len(), times, "{answered} of 400 were answered");
    assert!(answered > 200, "{answered} of 400 were answered");
}

/// The request crosses with the GOAWAY that says it was not processed: it is sent again, and only once
/// processed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_goaway_left_out_goes_to_another_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (gateway, mut first) = tokio::join!(Setup::new(&[]).upstream(&[url], HTTP2).start(), Raw::accept(&listener));
    let asking = tokio::spawn(async move {
        assert_eq!(dispatch(&gateway).await.status, 204);
        (dispatch(&gateway).await, gateway)
    });
    let stream = first.request().await;
    first.answer(stream, 204).await;
    assert_eq!(first.request().await, 3);
    let leaving = async {
        first.go_away(1).await;
        while first.next().await.is_some() {}
    };
    let (mut second, ()) = tokio::join!(Raw::accept(&listener), leaving);
    let stream = second.request().await;
    second.answer(stream, 204).await;
    let (response, gateway) = tokio::select! {
        done = asking => done.unwrap(),
        _ = second.request() => panic!("more than one request"),
    };
    assert_eq!(response.status, 204);
    gateway.logged(&["REQUEST [c-1] POST /dispatch 204 "]).await;
}

/// A request that the GOAWAY does not leave out may have begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_goaway_names_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (gateway, mut first) = tokio::join!(Setup::new(&[]).upstream(&[url], HTTP2).start(), Raw::accept(&listener));
    let asking = tokio::spawn(async move { (dispatch(&gateway).await, gateway) });
    let stream = first.request().await;
    first.go_away(stream).await;
    drop(first);
    let (response, gateway) = asking.await.unwrap();
    contract(&response, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] broken: HTTP/2: "]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_was_not_begun_and_goes_elsewhere() {
    let done = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let (counting, refusing) = (done.clone(), refused.clone());
    let busy = Axon2::start(Manners::default(), move |asked| {
        refusing.fetch_add(1, Ordering::SeqCst);
        async move { asked.refuse() }
    });
    let free = Axon2::start(Manners::default(), move |asked| {
        counting.fetch_add(1, Ordering::SeqCst);
        async move { asked.answer().await }
    });
    let (busy, free) = (busy.await, free.await);
    let gateway = Setup::new(&[]).upstream(&[busy.url(), free.url()], HTTP2).start().await;
    let mut sent = 0;
    while refused.load(Ordering::SeqCst) < 3 {
        contract(&dispatch(&gateway).await, Kind::Success);
        sent += 1;
        assert_eq!(done.load(Ordering::SeqCst), sent, "each was done once");
    }

    // Alone, it is asked no more often than anybody who fails.
    let gateway = before(&busy, HTTP2).start().await;
    let asked = refused.load(Ordering::SeqCst);
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] ", "HTTP/2: stream refused"]).await;
    assert!(refused.load(Ordering::SeqCst) - asked <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_ends_its_exchanges_and_nothing_else() {
    let (axon, gate) = holding(Manners::default()).await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut clients = asking_all(&gateway, 5).await;
    axon.received(5).await;
    axon.die();
    for client in &mut clients {
        let error = contract(&client.read_response().await, Kind::Error("SERVICE_UNAVAILABLE"));
        assert_eq!(error["details"]["issue"], "upstream_failed");
    }
    assert_eq!(axon.requests().len(), 5, "none was sent again");
    gate.release();
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!((axon.connections(), outcomes(&gateway, &axon, "broken")), (2, 5.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_leaves_its_neighbours_alone() {
    let gate = Gate::new();
    let hold = gate.clone();
    let axon = Axon2::start(Manners::default(), move |mut asked| {
        let (breaks, hold) = (asked.recorded.turn == 1, hold.clone());
        async move {
            if breaks {
                let mut stream = asked.begin("application/json");
                send(&mut stream, Bytes::from_static(b"{\"half\":"), false).await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            } else {
                hold.pass().await;
                asked.answer().await;
            }
        }
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut broken = asking(&gateway).await;
    axon.received(1).await;
    let mut whole = asking(&gateway).await;
    axon.received(2).await;
    contract(&broken.read_response().await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] broken: HTTP/2: stream error received: "]).await;
    gate.release();
    contract(&whole.read_response().await, Kind::Success);
    assert_eq!((axon.connections(), axon.requests().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_is_noticed_by_its_pings() {
    let (axon, gate) = holding(Manners::default()).await;
    // A PING every 250 ms; nothing else would end the exchange before the test loses its patience.
    let gateway = before(&axon, "http2: true, timeouts: { idle: 1s }").start().await;
    let mut client = asking(&gateway).await;
    axon.received(1).await;
    axon.fall_silent();
    contract(&client.read_response().await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] broken: HTTP/2: no answer to a PING"]).await;
    gate.release();
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(axon.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ended_while_it_was_idle_costs_nobody_anything() {
    let axon = Axon2::answering(Manners::default()).await;
    let gateway = before(&axon, HTTP2).start().await;
    for n in 1..=20 {
        contract(&dispatch(&gateway).await, Kind::Success);
        // Without a GOAWAY, and often just before the next request.
        axon.die();
        axon.closed(n).await;
    }
    assert_eq!(axon.requests().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_no_longer_used_are_closed() {
    let axon = Axon2::answering(Manners::default()).await;
    let gateway = before(&axon, "http2: true, timeouts: { idle: 2s }").start().await;
    contract(&dispatch(&gateway).await, Kind::Success);
    gateway.clock.advance(Duration::from_secs(3));
    axon.closed(1).await;
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(axon.connections(), 2);
}

// ---- answers

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_and_trailers_end_here() {
    let axon = Axon2::start(Manners::default(), |mut asked: Asked| async move {
        for status in [100, 103, 103] {
            let interim = Head::builder().status(status).header("link", "</a>").body(()).unwrap();
            asked.respond.send_informational(interim).unwrap();
        }
        let mut stream = asked.begin("application/json");
        send(&mut stream, Bytes::from_static(ANSWER.as_bytes()), false).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "1".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    for _ in 0..3 {
        let response = dispatch(&gateway).await;
        contract(&response, Kind::Success);
        assert_eq!(response.json()["message"], "Axon heartbeat OK");
        assert_eq!((response.interim.len(), response.header("x-checksum")), (0, None));
    }
    assert_eq!(axon.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_and_of_other_types() {
    let axon = Axon2::start(Manners::default(), |asked: Asked| async move {
        let turn = asked.recorded.turn;
        let (status, body) = if turn == 1 { (StatusCode::NO_CONTENT, "") } else { (StatusCode::OK, "hello") };
        let mut head = Head::builder().status(status);
        if turn > 1 {
            head = head.header("content-type", "text/plain").header("content-length", 5);
        }
        asked.answer_with(head, body).await;
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    assert_eq!(dispatch(&gateway).await.status, 204);
    let response = dispatch(&gateway).await;
    assert_eq!((response.header("content-type"), response.text()), (Some("text/plain"), "hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_length_is_not_what_it_says_is_broken() {
    let axon = Axon2::start(Manners::default(), |asked: Asked| async move {
        let head = Head::builder().header("content-type", "application/json").header("content-length", 100);
        asked.answer_with(head, "{}").await;
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(axon.connections(), 1);
}

/// Axon may answer before it has read the request, and then asks for no more of it (RFC 9113, section 8.1).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_come_before_the_request_was_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (gateway, mut axon) = tokio::join!(Setup::new(&[]).upstream(&[url], HTTP2).start(), Raw::accept(&listener));
    // More than the first window of a stream.
    let padding = "x".repeat(200 << 10);
    let large = BODY.replace("req456", &padding);
    let asking = tokio::spawn(async move { (gateway.send(gateway.dispatch(large)).await, gateway) });
    let stream = axon.request().await;
    axon.answer(stream, 204).await;
    axon.reset(stream, Reason::NO_ERROR).await;
    let (response, _gateway) = tokio::select! {
        done = asking => done.unwrap(),
        _ = axon.request() => panic!("it was sent again"),
    };
    assert_eq!(response.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_as_they_come() {
    let (feed, events) = mpsc::channel::<&str>(1);
    let events = Arc::new(tokio::sync::Mutex::new(events));
    let axon = Axon2::start(Manners::default(), move |mut asked| {
        let events = events.clone();
        async move {
            let mut stream = asked.begin("text/event-stream");
            while let Some(event) = events.lock().await.recv().await {
                send(&mut stream, Bytes::from_static(event.as_bytes()), false).await;
            }
            send(&mut stream, Bytes::new(), true).await;
        }
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut client = asking(&gateway).await;
    client.read_head().await;
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        feed.send(event).await.unwrap();
        assert_eq!(client.read_event().await.as_deref(), Some(event));
    }
    drop(feed);
    assert_eq!(client.read_event().await, None);
}

/// What a client does not read stays with Axon but for a window, and does not hold up the others.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_hold_up_axon_and_nobody_else() {
    const LARGE: usize = 32 << 20;
    const READERS: usize = 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let counting = sent.clone();
    let others = AtomicUsize::new(0);
    let axon = Axon2::start(Manners::default(), move |mut asked| {
        let (large, sent) = (others.fetch_add(1, Ordering::SeqCst) < READERS, counting.clone());
        async move {
            if !large {
                return asked.answer().await;
            }
            let mut stream = asked.begin("application/octet-stream");
            for _ in 0..LARGE / (64 << 10) {
                sent.fetch_add(send(&mut stream, Bytes::from(vec![b'x'; 64 << 10]), false).await, Ordering::SeqCst);
            }
            send(&mut stream, Bytes::new(), true).await;
        }
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut slow = asking_all(&gateway, READERS).await;
    for client in &mut slow {
        client.read_head().await;
    }
    // Until no more is taken: what the system buffers between gateway and client is not ours to bound.
    let mut before = usize::MAX;
    let mut settled = 0;
    while settled < 5 {
        for _ in 0..10 {
            contract(&dispatch(&gateway).await, Kind::Success);
        }
        let now = sent.load(Ordering::SeqCst);
        settled = if now == before { settled + 1 } else { 0 };
        before = now;
    }
    assert!(before < READERS * LARGE / 2, "{before} bytes were taken of answers that nobody reads");
    let mut read = 0;
    while let Some(part) = slow[0].read_chunk().await {
        read += part.len();
    }
    assert_eq!(read, LARGE);
    assert_eq!(axon.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_resets_its_stream_and_no_other() {
    let (seen, mut resets) = mpsc::unbounded_channel();
    let gate = Gate::new();
    let hold = gate.clone();
    let axon = Axon2::start(Manners::default(), move |mut asked| {
        let (seen, hold) = (seen.clone(), hold.clone());
        async move {
            match asked.recorded.turn {
                // Before the answer has begun, and after.
                1 => {
                    let reason = std::future::poll_fn(|cx| asked.respond.poll_reset(cx));
                    seen.send(within(reason).await.unwrap()).unwrap();
                }
                3 => {
                    let mut stream = asked.begin("text/event-stream");
                    send(&mut stream, Bytes::from_static(b"data: 1\n\n"), false).await;
                    seen.send(reset_of(&mut stream).await).unwrap();
                }
                _ => {
                    hold.pass().await;
                    asked.answer().await;
                }
            }
        }
    });
    let axon = axon.await;
    let gateway = before(&axon, HTTP2).start().await;
    let waiting = asking(&gateway).await;
    axon.received(1).await;
    let mut reading = asking(&gateway).await;
    reading.read_head().await;
    assert_eq!(reading.read_event().await.as_deref(), Some("data: 1\n\n"));
    let mut other = asking(&gateway).await;
    axon.received(3).await;
    for client in [waiting, reading] {
        drop(client);
        assert_eq!(within(resets.recv()).await, Some(Reason::CANCEL));
    }
    gate.release();
    contract(&other.read_response().await, Kind::Success);
    assert_eq!(axon.connections(), 1);
}

/// More streams come and go by reset than are open at once; the connection lives on.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_that_leave_do_not_wear_the_connection_out() {
    let (axon, gate) = holding(Manners::default()).await;
    let gateway = before(&axon, HTTP2).start().await;
    for round in 1..=5 {
        let clients = asking_all(&gateway, 50).await;
        axon.received(round * 50).await;
        drop(clients);
    }
    gate.release();
    contract(&dispatch(&gateway).await, Kind::Success);
    let mut asked = JoinSet::new();
    let gateway = Arc::new(gateway);
    for _ in 0..20 {
        let gateway = gateway.clone();
        asked.spawn(async move { contract(&dispatch(&gateway).await, Kind::Success) });
    }
    asked.join_all().await;
    assert_eq!(axon.connections(), 1);
}

/// A client that has every byte of an answer may ask again, whatever Axon still has to say about its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_a_whole_answer_is_answered_though_axon_ends_its_stream_late() {
    let gate = Gate::new();
    let hold = gate.clone();
    let axon = Axon2::start(Manners::default(), move |mut asked| {
        let hold = hold.clone();
        async move {
            let head = Head::builder().header("content-type", "application/octet-stream").header("content-length", 5);
            let mut stream = asked.respond.send_response(head.body(()).expect("a head"), false).expect("a stream");
            send(&mut stream, Bytes::from_static(b"hello"), false).await;
            hold.pass().await;
            send(&mut stream, Bytes::new(), true).await;
        }
    })
    .await;
    let gateway = before(&axon, HTTP2).start().await;
    let mut client = asking(&gateway).await;
    let answer = client.read_response().await;
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "hello", Some("keep-alive")));
    gate.reached(1).await;
    const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(HEALTH).await;
    // What is answered after it was sent is answered after it was heard.
    for _ in 0..20 {
        contract(&request(gateway.addr(), HEALTH).await, Kind::Healthy);
    }
    gate.release();
    contract(&client.read_response().await, Kind::Healthy);
}
