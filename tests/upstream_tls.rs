//! TLS to Axon: whom Orbit believes, who it says it is, and what becomes of a request when either fails.

use std::net::SocketAddr;

use orbit::gateway::Refused;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::gateway::{Gateway, Setup, dispatch};
use crate::harness::secure::{Authority, Front, Issued, Speaks, Validity};

/// TLS 1.2 alone, and 1.3 alone.
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];
const AUTHORITY_ONLY: &str = "tls: { ca: ca.pem }";

/// A gateway that knows these endpoints by the certificates of `ca`.
fn knowing(urls: &[String], ca: &Authority, more: &str) -> Setup {
    Setup::new(&[]).upstream(urls, more).file("ca.pem", &ca.pem())
}

/// Asserts that a dispatch is refused because no connection came about, for `why`.
async fn fails_to_connect(gateway: &Gateway, why: &str) {
    contract(&dispatch(gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed: connect failed: TLS: ", why]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axon_behind_tls_is_asked_like_any_other() {
    let (axon, ca) = (Axon::start(), Authority::new());
    let front = Front::start(axon.addr(), &Speaks::with(ca.issue(&["127.0.0.1"]))).await;
    let gateway = knowing(&[front.url()], &ca, AUTHORITY_ONLY).start().await;
    front.shaken(1).await;
    for _ in 0..3 {
        contract(&dispatch(&gateway).await, Kind::Success);
    }
    let asked = axon.requests();
    // On one connection, whether it came before the look that Orbit takes at the start or after.
    let on = asked[0].connection;
    assert_eq!(asked.iter().map(|r| (r.connection, r.turn)).collect::<Vec<_>>(), [(on, 1), (on, 2), (on, 3)]);
    assert_eq!(format!("https://{}", asked[0].header("host").unwrap()), front.url());
    // A server is asked for a name, not for an address (RFC 6066, section 3).
    let handshake = &front.handshakes()[on - 1];
    assert_eq!((handshake.name.as_deref(), handshake.alpn.as_deref()), (None, Some("http/1.1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_an_endpoint_is_asked_for_and_verified_unless_another_is_configured() {
    let (axon, ca) = (Axon::start(), Authority::new());
    let front = Front::start(axon.addr(), &Speaks::with(ca.issue(&["localhost", "axon.test"]))).await;
    let urls = [front.url_as("localhost")];
    let gateway = knowing(&urls, &ca, AUTHORITY_ONLY).start().await;
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(front.handshakes().pop().unwrap().name.as_deref(), Some("localhost"));

    let setup = knowing(&urls, &ca, "tls: { ca: ca.pem, server_name: axon.test }");
    gateway.reload(setup).await.unwrap();
    contract(&dispatch(&gateway).await, Kind::Success);
    assert_eq!(front.handshakes().pop().unwrap().name.as_deref(), Some("axon.test"));
    let hosts: Vec<String> = axon.requests().iter().map(|r| format!("https://{}", r.header("host").unwrap())).collect();
    assert_eq!(hosts, [urls[0].clone(), urls[0].clone()], "the host stays the endpoint's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_hold_is_a_failed_connect_that_says_why() {
    let (axon, ca) = (Axon::start(), Authority::new());
    let name = &["127.0.0.1"][..];
    for (issued, why) in [
        (Authority::named("another").issue(name), "its certificate is from an unknown CA"),
        // A CA that was made anew under its old name.
        (Authority::new().issue(name), "its certificate is from an unknown CA"),
        (ca.issue(&["axon.test"]), "its certificate is for another name: expected 127.0.0.1, found"),
        (ca.issue_for(name, Validity::UntilYesterday), "its certificate has expired"),
        (ca.issue_for(name, Validity::FromTomorrow), "its certificate is not valid yet"),
    ] {
        let front = Front::start(axon.addr(), &Speaks::with(issued)).await;
        let gateway = knowing(&[front.url()], &ca, AUTHORITY_ONLY).start().await;
        fails_to_connect(&gateway, why).await;
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_meets_a_bad_certificate_goes_elsewhere() {
    let (axon, ca) = (Axon::start(), Authority::new());
    let good = Speaks::with(ca.issue(&["127.0.0.1"]));
    let fronts = [Front::start(axon.addr(), &good).await, Front::start(axon.addr(), &good).await];
    let urls = fronts.each_ref().map(Front::url);
    let more = "tls: { ca: ca.pem }, keepalive: 0";
    let gateway = knowing(&urls, &ca, more).start().await;
    for front in &fronts {
        front.shaken(1).await;
    }
    fronts[0].speak(&Speaks::with(Authority::new().issue(&["127.0.0.1"])));
    // Until the choice has fallen on the bad one.
    let backend = urls[0].strip_prefix("https://").unwrap();
    let failed = format!("orbit_axon_requests_total{{backend=\"{backend}\",outcome=\"connect_failed\"}}");
    while gateway.metric(&failed) == 0.0 {
        contract(&dispatch(&gateway).await, Kind::Success);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_one_is_configured() {
    let (axon, ca, clients) = (Axon::start(), Authority::new(), Authority::new());
    let (ours, foreign) = (clients.issue(&["orbit.test"]), Authority::named("foreign").issue(&["orbit.test"]));
    let renewed = Authority::new().issue(&["orbit.test"]);
    for versions in VERSIONS {
        let speaks = Speaks { versions, ..Speaks::with(ca.issue(&["127.0.0.1"])).requiring(&clients) };
        let front = Front::start(axon.addr(), &speaks).await;
        let more = "tls: { ca: ca.pem, client_cert: cert.pem, client_key: key.pem }";
        let showing = |issued: &Issued| {
            knowing(&[front.url()], &ca, more).file("cert.pem", &issued.cert).file("key.pem", &issued.key)
        };
        let gateway = showing(&ours).start().await;
        contract(&dispatch(&gateway).await, Kind::Success);

        // With TLS 1.3 the refusal comes after the request was written, and is none the less one of the
        // handshake. That nobody read the request is for the count of Axon to say.
        let seen = axon.requests().len();
        for (setup, why) in [
            (knowing(&[front.url()], &ca, AUTHORITY_ONLY), "it requires a client certificate"),
            (showing(&foreign), "it refused the gateway's certificate (UnknownCA)"),
            (showing(&renewed), "it refused the gateway's certificate (DecryptError)"),
        ] {
            gateway.reload(setup).await.unwrap();
            contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
            gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed: connect failed: TLS: ", why]).await;
        }
        assert_eq!(axon.requests().len(), seen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_with_a_reload() {
    let (axon, old, new) = (Axon::start(), Authority::new(), Authority::new());
    let front = Front::start(axon.addr(), &Speaks::with(old.issue(&["127.0.0.1"]))).await;
    let gateway = knowing(&[front.url()], &old, AUTHORITY_ONLY).start().await;
    contract(&dispatch(&gateway).await, Kind::Success);

    // The rotation of a CA: both are believed, Axon changes, the old one goes.
    let both = knowing(&[front.url()], &old, AUTHORITY_ONLY).file("ca.pem", &(old.pem() + &new.pem()));
    gateway.reload(both).await.unwrap();
    contract(&dispatch(&gateway).await, Kind::Success);
    front.speak(&Speaks::with(new.issue(&["127.0.0.1"])));
    gateway.reload(knowing(&[front.url()], &new, AUTHORITY_ONLY)).await.unwrap();
    contract(&dispatch(&gateway).await, Kind::Success);

    let refused = gateway.reload(knowing(&[front.url()], &new, AUTHORITY_ONLY).file("ca.pem", "")).await;
    assert!(matches!(&refused, Err(Refused::Configuration(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("the file holds no certificate"));
    contract(&dispatch(&gateway).await, Kind::Success);
    front.speak(&Speaks::with(old.issue(&["127.0.0.1"])));
    gateway.reload(knowing(&[front.url()], &new, "tls: { ca: ca.pem }, keepalive: 0")).await.unwrap();
    while dispatch(&gateway).await.status == 200 {}
    gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed", "unknown CA"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_cas_are_believed_where_none_is_given() {
    let (axon, ca) = (Axon::start(), Authority::new());
    let front = Front::start(axon.addr(), &Speaks::with(ca.issue(&["127.0.0.1"]))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("system.pem");
    std::fs::write(&path, ca.pem()).unwrap();
    let gateway = Setup::new(&[front.url()]).variable("SSL_CERT_FILE", path.to_str().unwrap()).start().await;
    contract(&dispatch(&gateway).await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_connections_resume_the_session_of_the_first() {
    let (axon, ca) = (Axon::start(), Authority::new());
    for versions in VERSIONS {
        let front = Front::start(axon.addr(), &Speaks { versions, ..Speaks::with(ca.issue(&["127.0.0.1"])) }).await;
        let gateway = knowing(&[front.url()], &ca, "tls: { ca: ca.pem }, keepalive: 0").start().await;
        for _ in 0..2 {
            contract(&dispatch(&gateway).await, Kind::Success);
        }
        let resumed: Vec<bool> = front.handshakes().iter().map(|h| h.resumed).collect();
        assert!(resumed.len() >= 2 && !resumed[0] && *resumed.last().unwrap(), "{versions:?}: {resumed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_or_says_nothing_is_a_failed_connect() {
    let ca = Authority::new();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = plain.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let gateway = knowing(&[format!("https://{address}")], &ca, AUTHORITY_ONLY).start().await;
    fails_to_connect(&gateway, "what it speaks is not TLS").await;
    answering.abort();

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = silent.local_addr().unwrap();
    let more = "tls: { ca: ca.pem }, timeouts: { connect: 200ms }";
    let gateway = knowing(&[format!("https://{address}")], &ca, more).start().await;
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] connect_failed: connect timed out"]).await;
}

/// What ends without TLS's own end may have been cut off by anybody (RFC 8446, section 6.1).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_the_connection_is_whole_if_tls_says_so() {
    let (axon, ca) = (Axon::start(), Authority::new());
    let front = Front::start(axon.addr(), &Speaks::with(ca.issue(&["127.0.0.1"]))).await;
    let gateway = knowing(&[front.url()], &ca, AUTHORITY_ONLY).start().await;
    axon.next([Reply::until_close(200, r#"{"a":1}"#)]);
    let response = dispatch(&gateway).await;
    contract(&response, Kind::Success);
    assert_eq!(response.json()["a"], 1);

    front.speak(&Speaks { cuts: true, ..Speaks::with(ca.issue(&["127.0.0.1"])) });
    axon.next([Reply::until_close(200, r#"{"a":1}"#)]);
    contract(&dispatch(&gateway).await, Kind::Error("SERVICE_UNAVAILABLE"));
    gateway.logged(&["[WARN] AXON_CALL [c-1] broken: ", "close_notify"]).await;
}
