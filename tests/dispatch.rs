//! A signed, governed dispatch, end to end.

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::get;
use crate::harness::gateway::{BODY, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_dispatch_is_answered_in_the_envelope() {
    let axon = Axon::start();
    axon.answer(Reply::json(200, r#"{"message":"Axon heartbeat OK","service":"axon","n":1.50,"timestamp":"theirs"}"#));
    let gateway = Setup::new(&[axon.url()]).start().await;

    let response = gateway.send(gateway.dispatch(BODY).header("X-Correlation-ID", "abc123-def456")).await;

    let answer = contract(&response, Kind::Success);
    assert_eq!(response.header("x-correlation-id"), Some("abc123-def456"));
    assert_eq!(answer["status"], "success");
    assert_eq!(answer["message"], "Axon heartbeat OK");
    assert!(response.text().contains(r#""n":1.50,"#), "numbers keep their digits: {}", response.text());

    let seen = axon.request();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/dispatch"));
    assert_eq!(seen.body, BODY.as_bytes());
    assert_eq!(seen.header("x-correlation-id"), Some("abc123-def456"));
    assert_eq!(seen.header("content-length"), Some(BODY.len().to_string().as_str()));
    for secret in ["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"] {
        assert_eq!(seen.header(secret), None, "{secret} reached Axon");
    }
    gateway.logged(&["[INFO] GOVERNANCE [abc123-def456] allowed: Request authorized"]).await;
    gateway.logged(&["[INFO] AXON_CALL [abc123-def456] success: Axon heartbeat OK"]).await;
    gateway.logged(&["[INFO] REQUEST [abc123-def456] POST /dispatch 200 0ms"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_answers_need_no_signature() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
    contract(&get(gateway.addr(), "/health/live").await, Kind::Live);
    contract(&get(gateway.addr(), "/metrics").await, Kind::Metrics);
    contract(&get(gateway.addr(), "/nothing").await, Kind::Error("NOT_FOUND"));
    contract(&get(gateway.addr(), "/dispatch").await, Kind::Error("METHOD_NOT_ALLOWED"));
}
