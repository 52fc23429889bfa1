//! How a client is made to send the cases.
//!
//! A driver is a program in the client's language. It reads one case a line from standard input,
//! `{"name","method","url","headers":{},"body","access_key_id","secret_access_key","session_token":null,
//! "region","service","expires_seconds":0}`, signs it in the way that the client's documentation shows, in the
//! query if `expires_seconds` is not 0, sends it, and writes one answer a line, `{"case","status","body"}`. Its first
//! line is `{"client","version"}`. curl and the Rust signer need no program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::cases::Case;
use super::table::{Client, Program};
use super::tap::Tap;
use crate::harness::client::Signed;
use crate::harness::process::{Process, command, real_now, run};

/// What a client told.
pub struct Told {
    /// The client's own version.
    pub version: String,
    /// Status and body of each answer, in the order of the cases.
    pub answers: Vec<(u16, String)>,
}

/// Sends every case, the `n`th with the correlation id `<prefix><n>`.
pub async fn send(client: &Client, cases: &[Case], tap: &Tap, prefix: &str) -> Told {
    let id = |at: usize| format!("{prefix}{at}");
    match client.program {
        Program::Rust => {
            let mut answers = Vec::new();
            for (at, case) in cases.iter().enumerate() {
                answers.push(by_rust(case, tap, &id(at)).await);
            }
            Told { version: locked_version(client.package), answers }
        }
        Program::Curl => {
            let mut answers = Vec::new();
            for (at, case) in cases.iter().enumerate() {
                answers.push(by_curl(case, tap, &id(at)).await);
            }
            Told { version: curl_version().await, answers }
        }
        Program::Python | Program::Node | Program::Go(_) => by_driver(client, cases, tap, id).await,
    }
}

async fn by_driver(client: &Client, cases: &[Case], tap: &Tap, id: impl Fn(usize) -> String) -> Told {
    let origin = format!("http://{}", tap.addr);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cases");
    let lines: String = cases.iter().enumerate().map(|(at, c)| format!("{}\n", c.to_json(&origin, &id(at)))).collect();
    std::fs::write(&path, lines).expect("a file");

    let mut process = Process::start_reading(driver(client), File::open(&path).expect("a file").into());
    let first = process.next_line().await;
    let Some(Ok(hello)) = first.as_deref().map(serde_json::from_str::<Value>) else {
        let exit = process.exit().await;
        panic!("the driver of {} does not start: {first:?} {}", client.name, exit.stderr);
    };
    let mut answers = Vec::new();
    // A driver may take its time to load its client: wait for each line, not for all.
    while let Some(line) = process.next_line().await {
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e}: {line}", client.name));
        assert_eq!(answer["case"], json!(cases[answers.len()].name), "{}", client.name);
        let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
        answers.push((status, answer["body"].as_str().expect("a body").to_owned()));
    }
    let exit = process.exit().await;
    let told = answers.len();
    assert_eq!((exit.code, told), (Some(0), cases.len()), "{}: {}", client.name, exit.stderr);
    Told { version: hello["version"].as_str().expect("a version").to_owned(), answers }
}

fn driver(client: &Client) -> std::process::Command {
    let sources = path("tests/clients");
    match client.program {
        Program::Python => {
            let script = sources.join("python/driver.py");
            command(installed("target/test-python/bin/python"), [script.as_os_str(), client.name.as_ref()])
        }
        Program::Node => node(&[sources.join("node/driver.js").as_os_str(), client.name.as_ref()]),
        Program::Go(name) => {
            let sources = [&format!("tests/clients/go/{name}"), "tests/clients/go/driver"];
            command(built(&format!("target/test-go/{name}"), &sources), [""; 0])
        }
        Program::Curl | Program::Rust => unreachable!("no driver"),
    }
}

/// Node with the packages that `make test` installs.
pub fn node(arguments: &[&std::ffi::OsStr]) -> std::process::Command {
    let mut node = command("node", arguments);
    node.env("NODE_PATH", installed("target/test-node/node_modules"));
    node
}

/// A path from the repository's root.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// Something that `make test` installs.
pub fn installed(relative: &str) -> PathBuf {
    let found = path(relative);
    assert!(found.exists(), "there is no {relative}: run `make test-tools`, which `make test` does by itself");
    found
}

/// Something that `make test` builds of the Go files in these directories.
pub fn built(relative: &str, sources: &[&str]) -> PathBuf {
    let found = installed(relative);
    let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).expect("a time");
    let built = changed(&found);
    let all = |source: &&str| glob::glob(&format!("{}/*.go", path(source).display())).expect("a pattern");
    for file in sources.iter().flat_map(all).map(|file| file.expect("a file")) {
        assert!(changed(&file) <= built, "{relative} is older than {}: run `make test-tools`", file.display());
    }
    found
}

async fn by_rust(case: &Case, tap: &Tap, id: &str) -> (u16, String) {
    let mut request = Signed::new("POST", tap.addr, &case.target(), &case.body);
    for (name, value) in case.headers(id) {
        request = request.header(name, &value);
    }
    if case.expires_seconds > 0 {
        request = request.presigned(Duration::from_secs(case.expires_seconds));
    }
    let answer = request.send(tap.addr, &case.credentials.signing(), real_now()).await;
    (answer.status, answer.text().to_owned())
}

async fn by_curl(case: &Case, tap: &Tap, id: &str) -> (u16, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let body = directory.path().join("body");
    std::fs::write(&body, &case.body).expect("a file");
    let signing = case.credentials.signing();
    let scope = format!("aws:amz:{}:{}", signing.region, signing.service);
    let user = format!("{}:{}", signing.access_key, signing.secret);
    let data = format!("@{}", body.display());
    let url = format!("http://{}{}", tap.addr, case.target());
    let mut headers: Vec<_> = case.headers(id).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    headers.extend(signing.token.map(|token| format!("X-Amz-Security-Token: {token}")));

    let mut arguments = vec!["-q", "-sS", "-w", "\n%{http_code}", "--aws-sigv4", &scope, "--user", &user];
    arguments.extend(["--data-binary", &data]);
    arguments.extend(headers.iter().flat_map(|header| ["-H", header]));
    arguments.push(&url);
    let exit = run(command("curl", arguments)).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{}: {exit:?}", case.name);
    let (answer, status) = exit.stdout.rsplit_once('\n').expect("an answer and its status");
    (status.parse().expect("a status"), answer.to_owned())
}

async fn curl_version() -> String {
    let told = run(command("curl", ["--version"])).await.stdout;
    told.split(' ').nth(1).expect("curl and its version").to_owned()
}

/// The version of a crate that the tests are built with.
fn locked_version(package: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).expect("a dependency").1;
    entry.split('"').next().expect("a version").to_owned()
}
