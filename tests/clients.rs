//! AWS clients that others wrote, against the real binary: botocore (in a virtual environment) and curl.
//! They share no code with Orbit and disagree with each other about details, which is what they are for.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::axon::Axon;
use crate::harness::gateway::{ACCESS_KEY, BODY, SECRET, Setup};
use crate::harness::process::{Exit, Process, Serving, command, run};

const TEMPORARY: &str = "TEMPORARY";
const TOKEN: &str = "IQoJb3JpZ2luX2VjE/session+token==";

/// A gateway that knows a lasting key and one with a session token.
async fn start(axon: &Axon) -> Serving {
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: {TEMPORARY}, secret_access_key: {SECRET:?}, session_token: {TOKEN:?}, principal: tests }}\n"
    );
    Serving::start(Setup::new(&[axon.url()]).file("keys.yaml", &keys)).await
}

// ---- botocore

/// The interpreter that has botocore: `ORBIT_TEST_PYTHON`, or the one of `make test`.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = match std::env::var_os("ORBIT_TEST_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => root.join("target/test-venv/bin/python"),
    };
    assert!(
        path.exists(),
        "there is no {}: run `make test-venv`, or point ORBIT_TEST_PYTHON at a Python that has what \
         tests/clients/requirements.txt lists",
        path.display()
    );
    path
}

/// Runs the script; gives its cases with the status and the answer of each.
async fn botocore(serving: &Serving, credentials: &[&str]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/dispatch.py");
    let url = format!("http://{}", serving.addr);
    let arguments = [script.to_str().expect("UTF-8"), &url].into_iter().chain(credentials.iter().copied());
    let mut process = Process::start(command(python(), arguments));
    // Importing botocore takes a while on a busy machine: wait for each line, not for all.
    let mut told = Vec::new();
    while let Some(line) = process.next_line().await {
        told.push(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")));
    }
    let exit = process.exit().await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
    assert!(told.len() >= 20, "only {} answers", told.len());
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn botocore_is_understood_whatever_it_sends() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    let told = botocore(&serving, &[ACCESS_KEY, SECRET]).await;
    assert_eq!(told.iter().find(|told| told["status"] != 200), None);
    for (told, seen) in told.into_iter().zip(axon.requests()) {
        assert_eq!(told["sha256"], sha256(&seen.body), "Axon saw another body: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn botocore_is_understood_with_a_session_token() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    for told in botocore(&serving, &[TEMPORARY, SECRET, TOKEN]).await {
        assert_eq!(told["status"], 200, "{told}");
    }
    for seen in axon.requests() {
        assert_eq!(seen.header("x-amz-security-token"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn botocore_with_a_wrong_secret_is_a_mismatch_whatever_it_sends() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    for told in botocore(&serving, &[ACCESS_KEY, "wrong"]).await {
        refused(told["status"].as_u64(), told["answer"].as_str().expect("an answer"), "mismatch", &told);
    }
    assert_eq!(axon.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn botocore_with_a_wrong_token_is_a_token_mismatch() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    for told in botocore(&serving, &[TEMPORARY, SECRET, "another/token"]).await {
        refused(told["status"].as_u64(), told["answer"].as_str().expect("an answer"), "token_mismatch", &told);
    }
    assert_eq!(axon.requests().len(), 0);
}

// ---- curl

/// How curl's user and headers differ from the plain case.
struct Curl<'a> {
    user: &'a str,
    secret: &'a str,
    token: Option<&'a str>,
}

const LASTING: Curl<'_> = Curl { user: ACCESS_KEY, secret: SECRET, token: None };

impl Curl<'_> {
    /// Sends `data` as `--data-binary` takes it; gives the status and the answer.
    async fn send(&self, serving: &Serving, data: &str) -> (u64, String) {
        let user = format!("{}:{}", self.user, self.secret);
        let target = format!("http://{}/dispatch", serving.addr);
        let token = self.token.map(|token| format!("X-Amz-Security-Token: {token}"));
        let mut arguments = vec!["-q", "-sS", "-w", "\n%{http_code}", "--aws-sigv4", "aws:amz:us-east-1:execute-api"];
        arguments.extend(["--user", &user, "-H", "Content-Type: application/json", "--data-binary", data]);
        if let Some(token) = &token {
            arguments.extend(["-H", token]);
        }
        arguments.push(&target);
        let exit: Exit = run(command("curl", arguments)).await;
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
        let (answer, status) = exit.stdout.rsplit_once('\n').expect("an answer and its status");
        (status.parse().expect("a status"), answer.to_owned())
    }
}

/// Bodies as `--data-binary` takes them, each with what is sent; the large one is a file.
fn bodies(directory: &Path) -> [(String, Vec<u8>); 4] {
    let unicode = r#"{"intent":"call_reasoning","context":{"user_id":"Zoë 日本 🛰"}}"#;
    let large = format!(r#"{{"intent":"call_reasoning","context":{{"filler":"{}"}}}}"#, "x".repeat(100 << 10));
    let file = directory.join("large.json");
    std::fs::write(&file, &large).expect("a file");
    let empty = r#"{"intent":"call_reasoning","context":{}}"#;
    let plain = [BODY, empty, unicode].map(|body| (body.to_owned(), body.as_bytes().to_vec()));
    let [one, two, three] = plain;
    [one, two, three, (format!("@{}", file.display()), large.into_bytes())]
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_understood_whatever_it_sends() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    for (data, body) in bodies(serving.directory.path()) {
        let (status, answer) = LASTING.send(&serving, &data).await;
        assert_eq!(status, 200, "{data}: {answer}");
        assert_eq!(axon.requests().pop().expect("a request").body, body, "{data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_understood_with_a_session_token() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    let temporary = Curl { user: TEMPORARY, token: Some(TOKEN), ..LASTING };
    for (data, _) in bodies(serving.directory.path()) {
        let (status, answer) = temporary.send(&serving, &data).await;
        assert_eq!(status, 200, "{data}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_with_wrong_credentials_is_told_the_issue() {
    let axon = Axon::start();
    let serving = start(&axon).await;
    let cases = [
        (Curl { secret: "wrong", ..LASTING }, "mismatch"),
        (Curl { user: "UNKNOWN", ..LASTING }, "mismatch"),
        (Curl { user: TEMPORARY, token: Some("another"), ..LASTING }, "token_mismatch"),
        (Curl { user: TEMPORARY, ..LASTING }, "token_mismatch"),
        (Curl { token: Some(TOKEN), ..LASTING }, "token_mismatch"),
    ];
    for (curl, issue) in cases {
        for (data, _) in bodies(serving.directory.path()) {
            let (status, answer) = curl.send(&serving, &data).await;
            refused(Some(status), &answer, issue, &data);
        }
    }
    assert_eq!(axon.requests().len(), 0);
}

// ---- what both share

#[track_caller]
fn refused(status: Option<u64>, answer: &str, issue: &str, what: &dyn std::fmt::Display) {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{what}: {e}: {answer}"));
    let told = (status, answer["code"].as_str(), answer["details"]["issue"].as_str());
    assert_eq!(told, (Some(401), Some("INVALID_SIGNATURE"), Some(issue)), "{what}");
}

fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}
