//! `auth.hints` on the running gateway: what a 401 says besides its issue, to whom, how often, and what never.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::axon::Axon;
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Client, Response, Signed, Signing};
use crate::harness::gateway::{ACCESS_KEY, BODY, Gateway, SECRET, Setup, signing};

const TOKEN: &str = "session/token+of==temporary+credentials";

fn setup(axon: &Axon, hints: &str) -> Setup {
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: AKIDOTHER, secret_access_key: another-secret, principal: other }}\n\
         - {{ access_key_id: AKIDDISABLED, secret_access_key: {SECRET:?}, principal: tests, disabled: true }}\n\
         - {{ access_key_id: AKIDTOKEN, secret_access_key: {SECRET:?}, session_token: {TOKEN:?}, principal: tests }}\n"
    );
    Setup::new(&[axon.url()]).file("keys.yaml", &keys).block("auth", format!("{{ keys: keys.yaml{hints} }}"))
}

async fn hinting(axon: &Axon) -> Gateway {
    setup(axon, ", hints: safe").start().await
}

/// A dispatch whose content type was changed after signing.
async fn altered(gateway: &Gateway, key: &str) -> Response {
    let signing = Signing { access_key: key.to_owned(), ..signing() };
    let request = gateway.dispatch(BODY).sign(&signing, gateway.now());
    request.edit("application/json", "application/json; charset=utf-8").send(gateway.addr()).await
}

/// The details of a 401 that the contract allows.
#[track_caller]
fn details(response: &Response) -> Value {
    contract(response, Kind::Error("INVALID_SIGNATURE"))["details"].clone()
}

#[track_caller]
fn hint(response: &Response) -> String {
    let details = details(response);
    details["hint"].as_str().unwrap_or_else(|| panic!("no hint in {details}")).to_owned()
}

fn counts(gateway: &Gateway) -> (f64, f64) {
    let count = |hint: &str| gateway.metric(&format!("orbit_auth_hints_total{{hint=\"{hint}\"}}"));
    (count("given"), count("skipped"))
}

/// Waits until a request's observation is counted.
async fn counted(gateway: &Gateway, response: &Response) {
    let id = response.header("x-correlation-id").expect("an id");
    gateway.logged(&[&format!("REQUEST [{id}]")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_nothing_is_told_but_the_issue() {
    let axon = Axon::start();
    for hints in ["", ", hints: none"] {
        let gateway = setup(&axon, hints).start().await;
        for key in [ACCESS_KEY, "AKIDOTHER", "AKIDDISABLED", "AKIDUNKNOWN"] {
            let response = altered(&gateway, key).await;
            assert_eq!(details(&response), json!({ "issue": "mismatch" }), "{key}");
            counted(&gateway, &response).await;
        }
        assert_eq!(counts(&gateway), (0.0, 0.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_key_hears_what_was_signed_otherwise() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    let response = altered(&gateway, ACCESS_KEY).await;
    let told = hint(&response);
    assert!(told.starts_with("the signature matches with another parameter in `content-type`; "), "{told}");
    counted(&gateway, &response).await;
    assert_eq!(counts(&gateway), (1.0, 0.0));

    let trimmed = gateway.dispatch(BODY).but_send(format!("{BODY}\n"));
    assert!(hint(&gateway.send(trimmed).await).contains("without the line end"));
    let wrong = Signing::new(ACCESS_KEY, "wrong");
    let told = hint(&gateway.dispatch(BODY).send(gateway.addr(), &wrong, gateway.now()).await);
    assert!(told.starts_with("no single known mistake explains it: check the secret"), "{told}");
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_refusals_of_a_known_key_are_explained_too() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    let post = || gateway.dispatch(BODY);
    let region = Signing { region: "eu-west-1".into(), ..signing() };
    let late = post().send(gateway.addr(), &signing(), gateway.now() - Duration::from_secs(7205)).await;
    for (issue, part, response) in [
        ("wrong_scope", "another region than", post().send(gateway.addr(), &region, gateway.now()).await),
        ("expired", "about 2 hours: it looks like local time", late),
        ("unsigned_header", "must be signed", gateway.send(post().unsigned_header("X-Amz-Meta-A", "b")).await),
        (
            "payload_mismatch",
            "without the line end",
            gateway.send(post().declared().but_send(format!("{BODY}\n"))).await,
        ),
    ] {
        let told = hint(&response);
        assert_eq!(details(&response)["issue"], issue);
        assert!(told.contains(part), "{told}");
        // Whether it would have been right otherwise is more than a caller has to know.
        assert!(!told.contains("is right") && !told.contains("us-east-1"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_disabled_keys_hear_nothing_and_cost_nothing() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    for _ in 0..20 {
        for key in ["AKIDUNKNOWN", "AKIDDISABLED"] {
            assert_eq!(details(&altered(&gateway, key).await), json!({ "issue": "mismatch" }));
        }
    }
    let response = altered(&gateway, ACCESS_KEY).await;
    hint(&response);
    counted(&gateway, &response).await;
    assert_eq!(counts(&gateway), (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_secrets_and_tokens() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    let others_secret = Signing::new(ACCESS_KEY, "another-secret");
    let told = hint(&gateway.dispatch(BODY).send(gateway.addr(), &others_secret, gateway.now()).await);
    assert!(told.starts_with("no single known mistake") && !told.contains("AKIDOTHER"), "{told}");
    let with_line_end = Signing::new(ACCESS_KEY, &format!("{SECRET}\n"));
    let told = hint(&gateway.dispatch(BODY).send(gateway.addr(), &with_line_end, gateway.now()).await);
    assert!(told.starts_with("no single known mistake"), "{told}");
    for token in [None, Some("another".to_owned())] {
        let signing = Signing { access_key: "AKIDTOKEN".into(), token, ..signing() };
        let response = gateway.dispatch(BODY).send(gateway.addr(), &signing, gateway.now()).await;
        assert_eq!(details(&response), json!({ "issue": "token_mismatch" }));
    }
    for line in gateway.finish().await {
        assert!(!line.contains(SECRET) && !line.contains(TOKEN) && !line.contains("another-secret"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_a_second_are_examined_and_a_reload_starts_no_new_count() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    for _ in 0..10 {
        hint(&altered(&gateway, ACCESS_KEY).await);
    }
    let eleventh = altered(&gateway, ACCESS_KEY).await;
    assert_eq!(details(&eleventh), json!({ "issue": "mismatch" }));
    counted(&gateway, &eleventh).await;
    assert_eq!(counts(&gateway), (10.0, 1.0));

    gateway.reload(setup(&axon, ", hints: safe, clock_skew: 4m")).await.expect("a valid file");
    assert_eq!(details(&altered(&gateway, "AKIDOTHER").await), json!({ "issue": "mismatch" }));
    gateway.clock.advance(Duration::from_secs(1));
    hint(&altered(&gateway, ACCESS_KEY).await);

    gateway.reload(setup(&axon, "")).await.expect("a valid file");
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!(details(&altered(&gateway, ACCESS_KEY).await), json!({ "issue": "mismatch" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_right_is_never_examined() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    for request in [gateway.dispatch(BODY), gateway.dispatch(BODY).declared(), gateway.dispatch(BODY).chunked(&[3])] {
        let response = gateway.send(request).await;
        contract(&response, Kind::Success);
        counted(&gateway, &response).await;
    }
    assert_eq!(counts(&gateway), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_head_proves_wrong_is_explained_before_the_body_comes() {
    let axon = Axon::start();
    let gateway = hinting(&axon).await;
    let request = gateway.dispatch(BODY).declared().sign(&signing(), gateway.now());
    let request = request.edit("application/json", "application/json; charset=utf-8").bytes();
    let mut client = Client::connect(gateway.addr()).await;
    client.send(&request[..request.len() - BODY.len()]).await;
    // The answer comes while the body is still owed.
    assert!(hint(&client.read_response().await).contains("`content-type`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_requests_are_explained_too() {
    let axon = Axon::start();
    let gateway = setup(&axon, ", hints: safe, presigned: { max_expires: 1h }").start().await;
    let presigned = Signed::new("POST", gateway.authority(), "/dispatch", "").presigned(Duration::from_secs(60));
    let response = presigned.but_send(BODY).send(gateway.addr(), &signing(), gateway.now()).await;
    assert!(hint(&response).starts_with("the signature matches for an empty body"));
}
