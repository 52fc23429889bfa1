//! The clients of `docs/clients`, used as their readers would use them: credentials from the environment.

use std::process::Command;

use serde_json::{Value, json};

use super::cases::Credentials;
use super::{driver, start};
use crate::harness::axon::{Axon, Reply};
use crate::harness::process::{Process, command};

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_python_works() {
    let script = driver::path("tests/clients/python/example.py");
    works(|| command(driver::installed("target/test-python/bin/python"), [&script])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_javascript_works() {
    let script = driver::path("tests/clients/node/example.js");
    works(|| driver::node(&[script.as_os_str()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_go_works() {
    let program = driver::built("target/test-go/example", &["tests/clients/go/example", "docs/clients/go"]);
    works(|| command(&program, [""; 0])).await;
}

async fn works(program: impl Fn() -> Command) {
    for credentials in [Credentials::Lasting, Credentials::WithToken] {
        with(program(), credentials).await;
    }
}

/// One run with these credentials in the environment, against Orbit and against something that is no Orbit.
async fn with(mut program: Command, credentials: Credentials) {
    let axon = Axon::start();
    let serving = start(&axon).await;
    let fake = Axon::start();
    let unhealthy = json!({"status": "unhealthy", "checks": {"axon": "no healthy backend"}});
    fake.answer_probes("/health", Reply::json(503, unhealthy.to_string()));
    fake.answer(Reply::typed(502, "text/html", "<html>"));

    let signing = credentials.signing();
    let home = tempfile::tempdir().expect("a directory");
    program.args([format!("http://{}", serving.addr), fake.url()]);
    // Nothing but the environment: no profile of whoever runs the tests, no instance metadata.
    program.env("HOME", home.path()).env_remove("AWS_PROFILE").env("AWS_EC2_METADATA_DISABLED", "true");
    program.env("AWS_ACCESS_KEY_ID", signing.access_key).env("AWS_SECRET_ACCESS_KEY", signing.secret);
    if let Some(token) = &signing.token {
        program.env("AWS_SESSION_TOKEN", token);
    }
    let mut process = Process::start(program);
    let mut told = Vec::new();
    while let Some(line) = process.next_line().await {
        told.push(serde_json::from_str::<Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}")));
    }
    let exit = process.exit().await;
    assert_eq!((exit.code, told.len()), (Some(0), 6), "{} {told:#?}", exit.stderr);
    let [healthy, dispatch, denied, refused, sick, no_answer] = told.try_into().expect("six steps");

    assert_eq!(healthy["answer"]["status"], "healthy", "{healthy}");
    assert_eq!(dispatch["answer"]["message"], "Axon heartbeat OK", "{dispatch}");
    let arrived = axon.request();
    assert_eq!(arrived.json(), json!({"intent": "call_reasoning", "context": {"user_id": "Zoë 日本"}}));
    assert_eq!(arrived.header("x-correlation-id"), dispatch["answer"]["correlation_id"].as_str());

    let reason = "No policy defined for orbit:forbidden";
    assert_eq!((&denied["denied"], &denied["status"], &denied["reason"]), (&true.into(), &403.into(), &reason.into()));
    assert_eq!((&refused["denied"], &refused["status"]), (&false.into(), &401.into()), "{refused}");
    assert_eq!((&refused["code"], &refused["details"]["issue"]), (&"INVALID_SIGNATURE".into(), &"mismatch".into()));
    for failed in [&denied, &refused] {
        let id = failed["correlation_id"].as_str().expect("a correlation id");
        assert!(failed["text"].as_str().is_some_and(|text| text.contains(id)), "{failed}");
    }
    assert_eq!(sick["answer"], unhealthy, "{sick}");
    assert_eq!((&no_answer["denied"], &no_answer["status"]), (&false.into(), &502.into()), "{no_answer}");
}
