//! The `orbit` command as people and process managers meet it: the real binary, real signals, exit codes,
//! what it prints and what it never prints.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::axon::{Axon, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{get, within};
use crate::harness::gateway::{ACCESS_KEY, SECRET, Setup};
use crate::harness::process::{Exit, Process, Serving, chmod, command, orbit, run, written};

fn config(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("orbit.yaml")
}

fn policies(enabled: bool) -> String {
    json!([{ "service": "orbit", "intent": "call_reasoning", "enabled": enabled }]).to_string()
}

/// A file with a value that lacks its unit, an unknown key, a wrong scheme and a missing block.
const WRONG: &str = "version: 1
listen: { address: 127.0.0.1:0, idle_timeout: 75 }
auth: { keys: keys.yaml }
governence: { policies: policies.json }
upstreams: { axon: { endpoints: [\"ftp://127.0.0.1:1\"] } }
";
/// Where; what is missing is missed at the top.
const WRONG_PLACES: [&str; 4] = ["orbit.yaml:1:1", "orbit.yaml:2:47", "orbit.yaml:4:1", "orbit.yaml:5:34"];

fn wrong_configuration() -> TempDir {
    let directory = written(&Setup::new(&["http://127.0.0.1:1".to_owned()]));
    std::fs::write(config(&directory), WRONG).expect("orbit.yaml");
    directory
}

// ---- orbit run

#[tokio::test(flavor = "multi_thread")]
async fn run_prints_the_address_it_got_and_serves_there() {
    let axon = Axon::start();
    let mut serving = Serving::start(Setup::new(&[axon.url()])).await;

    let line = serving.process.printed(&["listening on"]).await;
    assert!(line.ends_with(&format!("[INFO] listening on {}", serving.addr)), "{line}");
    assert_ne!(serving.addr.port(), 0);
    contract(&serving.dispatch().await, Kind::Success);
    contract(&get(serving.addr, "/health").await, Kind::Healthy);
    serving.process.printed(&["[INFO] REQUEST [", "] POST /dispatch 200 "]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_puts_a_good_file_in_force_for_the_next_request() {
    let axon = Axon::start();
    let gate = axon.hold();
    let mut serving = Serving::start(Setup::new(&[axon.url()])).await;
    let mut old = serving.in_flight().await;
    axon.received(1).await;

    std::fs::write(serving.directory.path().join("policies.json"), policies(false)).expect("policies");
    serving.process.signal("HUP");
    serving.process.printed(&["[INFO] reload: generation 2 is in force"]).await;

    let denied = contract(&serving.dispatch().await, Kind::Denied);
    assert_eq!(denied["reason"], "Policy is disabled");
    gate.release();
    contract(&old.read_response().await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_with_a_bad_file_says_where_and_keeps_serving_the_old_one() {
    let axon = Axon::start();
    let mut serving = Serving::start(Setup::new(&[axon.url()])).await;

    std::fs::write(config(&serving.directory), WRONG).expect("orbit.yaml");
    serving.process.signal("HUP");
    serving.process.printed(&["[ERROR] reload refused, the old configuration goes on"]).await;
    for place in WRONG_PLACES {
        serving.process.printed(&["[ERROR] reload: ", place]).await;
    }
    contract(&serving.dispatch().await, Kind::Success);

    Setup::new(&[axon.url()]).file("policies.json", &policies(false)).write(serving.directory.path());
    serving.process.signal("HUP");
    serving.process.printed(&["reload: generation 2 is in force"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_with_the_same_file_changes_nothing() {
    let axon = Axon::start();
    let mut serving = Serving::start(Setup::new(&[axon.url()])).await;
    serving.process.signal("HUP");
    serving.process.printed(&["reload: nothing changed, generation 1 goes on"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_flight_and_exits_with_0() {
    let axon = Axon::start();
    let gate = axon.hold();
    let mut serving = Serving::start(Setup::new(&[axon.url()])).await;
    let mut client = serving.in_flight().await;
    axon.received(1).await;

    serving.process.signal("TERM");
    serving.process.printed(&["draining"]).await;
    gate.release();

    contract(&client.read_response().await, Kind::Success);
    let exit = serving.process.exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stdout.contains("drained, every request finished"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_draining_health_sends_balancers_elsewhere_and_requests_are_still_taken() {
    let axon = Axon::start();
    let mut serving = Serving::start(Setup::new(&[axon.url()]).block("drain", "{ min: 1h, max: 1h }")).await;

    serving.process.signal("TERM");
    serving.process.printed(&["draining"]).await;

    contract(&get(serving.addr, "/health").await, Kind::Unhealthy);
    contract(&get(serving.addr, "/health/live").await, Kind::Live);
    contract(&serving.dispatch().await, Kind::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_at_once_and_exits_with_1() {
    let axon = Axon::start();
    let _never = axon.hold();
    let mut serving = Serving::start(Setup::new(&[axon.url()]).block("drain", "{ min: 1h, max: 1h }")).await;
    let mut client = serving.in_flight().await;
    axon.received(1).await;

    serving.process.signal("TERM");
    serving.process.printed(&["draining"]).await;
    serving.process.signal("TERM");

    let exit = serving.process.exit().await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stdout.contains("[WARN] told twice to stop, ending at once"), "{exit:?}");
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_had_to_cut_a_request_off_exits_with_1() {
    let axon = Axon::start();
    let _never = axon.hold();
    let serving = Serving::start(Setup::new(&[axon.url()]).block("drain", "{ min: 0s, max: 50ms }")).await;
    let _client = serving.in_flight().await;
    axon.received(1).await;

    let exit = serving.stop().await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stdout.contains("drained, some requests cut off"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_with_a_bad_file_tells_every_problem_with_its_place_and_exits_with_1() {
    let directory = wrong_configuration();
    let exit = run(orbit(["run", "-c", config(&directory).to_str().expect("UTF-8")])).await;

    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_eq!(exit.stdout, "");
    for part in WRONG_PLACES.into_iter().chain(["`governance`", "^^"]) {
        assert!(exit.stderr.contains(part), "no {part} in {}", exit.stderr);
    }
    assert!(!exit.stderr.contains('\u{1b}'), "colour without a terminal: {}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_says_when_the_address_is_taken_and_exits_with_1() {
    let taken = Axon::refusing();
    let setup = Setup::new(&[taken.url()]).block("listen", format!("{{ address: {} }}", taken.addr()));
    // Bound and listening, so that nobody else can have it.
    let _axon = taken.start();
    let directory = written(&setup);
    let exit = run(orbit(["run", "-c", config(&directory).to_str().expect("UTF-8")])).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("cannot listen on 127.0.0.1:"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_is_named() {
    for subcommand in ["run", "check"] {
        let exit = run(orbit([subcommand, "-c", "no-such-file.yaml"])).await;
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.stderr.contains("no-such-file.yaml"), "{exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_the_log_costs_lines_and_nothing_else() {
    let axon = Axon::start();
    let mut serving = Serving::start(Setup::new(&[axon.url()])).await;
    serving.process.close_stdout();
    for _ in 0..5 {
        contract(&serving.dispatch().await, Kind::Success);
    }
    let exit = serving.stop().await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
}

// ---- usage

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_exits_with_2_and_says_so_on_standard_error() {
    let cases: [&[&str]; 9] = [
        &[],
        &["fly"],
        &["run"],
        &["check"],
        &["check", "-c", "x", "--format", "xml"],
        &["call"],
        &["call", "--intent", "x", "--context", "no-equals-sign"],
        &["call", "--intent", "x", "--access-key-id", "only-with-keys"],
        &["dev", "--port", "65536"],
    ];
    for arguments in cases {
        let exit = run(orbit(arguments)).await;
        assert_eq!(exit.code, Some(2), "{arguments:?}: {exit:?}");
        assert_eq!(exit.stdout, "", "{arguments:?}");
        assert!(exit.stderr.contains("Usage: orbit") || exit.stderr.contains("--help"), "{arguments:?}: {exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_help_has_an_example() {
    let exit = run(orbit(["--help"])).await;
    let listed = exit.stdout.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("commands");
    let listed: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for required in ["run", "dev", "check", "call", "sigv4"] {
        assert!(listed.contains(&required), "{listed:?}");
    }
    assert!(exit.stdout.contains("\n  orbit dev"), "{}", exit.stdout);
    for name in listed.into_iter().filter(|name| *name != "help") {
        let exit = run(orbit([name, "--help"])).await;
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{name}");
        assert!(exit.stdout.contains("Example"), "{name}: {}", exit.stdout);
        let example = format!("orbit {name} ");
        assert!(exit.stdout.lines().any(|line| line.contains(&example) && !line.contains("Usage:")), "{}", exit.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_the_one_of_health() {
    let axon = Axon::start();
    let serving = Serving::start(Setup::new(&[axon.url()])).await;
    let health = contract(&get(serving.addr, "/health").await, Kind::Healthy);
    let exit = run(orbit(["--version"])).await;
    assert_eq!(exit.stdout, format!("orbit {}\n", health["version"].as_str().expect("a version")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_no_panic() {
    let directory = written(&Setup::new(&["http://127.0.0.1:1".to_owned()]));
    let file = config(&directory);
    let cases: [&[&str]; 5] = [
        &["--help"],
        &["check", "--help"],
        &["check", "-c", file.to_str().expect("UTF-8"), "--show"],
        &["check", "-c", file.to_str().expect("UTF-8"), "--format", "json"],
        &["dev", "--port", "0", "--once"],
    ];
    for arguments in cases {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = orbit(arguments).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn();
        let waiting = tokio::task::spawn_blocking(|| child.expect("orbit").wait_with_output().expect("an end"));
        let output = within(waiting).await.expect("no panic here");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panic"), "{arguments:?}: {stderr}");
    }
}

// ---- orbit check

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_a_name_that_cannot_be_resolved() {
    let directory = tempfile::tempdir().expect("a directory");
    // No such name can exist (RFC 6761, section 6.4).
    Setup::new(&["http://axon.invalid:81".to_owned(), "http://127.0.0.1:1".to_owned()]).write(directory.path());
    let checked = check(&directory, &[]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stderr.contains("warning: endpoint `axon.invalid:81` cannot be resolved: "), "{checked:?}");
    let notes = &check_json(&check(&directory, &["--format", "json"]).await)["notes"];
    assert_eq!(notes.as_array().map(Vec::len), Some(1), "{notes}");
}

async fn check(directory: &TempDir, more: &[&str]) -> Exit {
    let file = config(directory);
    run(orbit(["check", "-c", file.to_str().expect("UTF-8")].iter().chain(more))).await
}

fn check_json(exit: &Exit) -> Value {
    assert_eq!(exit.stdout.lines().count(), 1, "{exit:?}");
    serde_json::from_str(&exit.stdout).unwrap_or_else(|e| panic!("{e}: {exit:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_accepts_what_run_would_start_with() {
    let directory = written(&Setup::new(&["http://127.0.0.1:1".to_owned()]));
    let exit = check(&directory, &[]).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
    assert!(exit.stdout.ends_with("orbit.yaml: valid\n"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_every_problem_with_its_place_and_exits_with_1() {
    let exit = check(&wrong_configuration(), &[]).await;
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""));
    for part in WRONG_PLACES.into_iter().chain(["`governance`", "^^"]) {
        assert!(exit.stderr.contains(part), "no {part} in {}", exit.stderr);
    }
    assert!(!exit.stderr.contains('\u{1b}'), "colour without a terminal: {}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_machines_the_same() {
    let good =
        check_json(&check(&written(&Setup::new(&["http://127.0.0.1:1".to_owned()])), &["--format", "json"]).await);
    assert_eq!(good["valid"], true);
    assert_eq!(good["problems"], json!([]));

    let exit = check(&wrong_configuration(), &["--format", "json"]).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(1), ""));
    let bad = check_json(&exit);
    assert_eq!(bad["valid"], false);
    let told: Vec<String> = bad["problems"].as_array().expect("a list").iter().map(place).collect();
    for place in WRONG_PLACES {
        assert!(told.iter().any(|told| told.contains(place)), "no {place} in {told:?}");
    }
}

fn place(problem: &Value) -> String {
    let file = Path::new(problem["file"].as_str().expect("file")).file_name().expect("a name").to_string_lossy();
    assert!(problem["message"].is_string() && problem["severity"] == "error", "{problem}");
    format!("{file}:{}:{}", problem["line"], problem["column"])
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_an_axon_that_gets_unsigned_requests() {
    let unsigned = r#"{ axon: { endpoints: ["http://127.0.0.1:1"] } }"#;
    let directory = written(&Setup::new(&[]).block("upstreams", unsigned));
    let exit = check(&directory, &[]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stderr.contains("warning") && exit.stderr.contains("sign"), "{exit:?}");
    let warnings = &check_json(&check(&directory, &["--format", "json"]).await)["warnings"];
    assert_eq!(warnings[0]["severity"], "warning", "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_secrets_that_every_user_may_read() {
    let directory = written(&Setup::new(&["http://127.0.0.1:1".to_owned()]));
    chmod(&directory.path().join("keys.yaml"), 0o644);
    let exit = check(&directory, &[]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stderr.contains("warning") && exit.stderr.contains("keys.yaml"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_show_prints_a_file_that_says_the_same() {
    let directory = written(
        &Setup::new(&["http://127.0.0.1:1".to_owned(), "http://[::1]:2".to_owned()])
            .block("name", "front-door.1")
            .file("policies.json", r#"[{"service":"front-door.1","intent":"call_reasoning","enabled":true}]"#)
            .block("limits", "{ per_ip: { rate: 7/min, mode: shadow }, global: disabled }"),
    );
    let shown = check(&directory, &["--show"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in ["body_bytes: 1MiB", "clock_skew: 5m", "global: disabled", "7/min", "127.0.0.1:1", "[::1]:2"] {
        assert!(shown.stdout.contains(part), "no {part} in {}", shown.stdout);
    }

    std::fs::write(config(&directory), &shown.stdout).expect("orbit.yaml");
    let again = check(&directory, &["--show"]).await;
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), ""));
    assert_eq!(again.stdout, shown.stdout);
    let told = check_json(&check(&directory, &["--show", "--format", "json"]).await);
    assert_eq!(told["configuration"], shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_ever_prints_a_secret() {
    let secrets =
        ["s3cret-in-a-file", "s3cret-in-plain-text", "s3cret-token", "s3cret-of-the-environment", "s3cret-for-axon"];
    let [in_file, plain, token, environment, axons] = secrets;
    let keys = format!(
        "- {{ access_key_id: A1, secret_access_key: {{ file: secret.txt }}, principal: a }}\n\
         - {{ access_key_id: A2, secret_access_key: {plain}, session_token: {token}, principal: a }}\n\
         - {{ access_key_id: A3, secret_access_key: {{ env: ORBIT_TEST_SECRET }}, principal: a }}\n"
    );
    let setup = || {
        Setup::new(&[])
            .upstream(&["http://127.0.0.1:1".to_owned()], "sign: { credentials: { keys: sign.yaml } }")
            .file("secret.txt", in_file)
            .file("sign.yaml", &format!("access_key_id: S1\nsecret_access_key: {axons}\n"))
    };
    // The second is broken in every place where a secret stands.
    let broken =
        keys.replace(plain, &format!("[{plain}]")).replace("session_token", "sesion_token").replace("A1", "A-1");
    let cases = [
        (setup().file("keys.yaml", &keys), Some(0)),
        (setup().file("keys.yaml", &broken).file("sign.yaml", &format!("[{axons}]\n")), Some(1)),
        (setup().file("keys.yaml", &format!("- access_key_id: A\n  secret_access_key: {plain}: {token}\n")), Some(1)),
    ];
    for (setup, code) in cases {
        let directory = written(&setup);
        for more in [&["--show"][..], &["--show", "--format", "json"]] {
            let file = config(&directory);
            let mut command = orbit(["check", "-c", file.to_str().expect("UTF-8")].iter().chain(more));
            command.env("ORBIT_TEST_SECRET", environment);
            let exit = run(command).await;
            assert_eq!(exit.code, code, "{exit:?}");
            for secret in secrets {
                assert!(!format!("{exit:?}").contains(secret), "{secret} in {exit:?}");
            }
        }
    }
}

// ---- orbit call

/// `orbit call` of a gateway, its answer, and the body that Axon saw.
async fn call(arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
    let mut command = orbit(["call"].iter().chain(arguments));
    command.envs(environment.iter().copied());
    run(command).await
}

const TOKEN: &str = "session/token+of==temporary+credentials";

/// A gateway that knows a second key, one with a session token, and can be slow to refuse.
async fn callable(axon: &Axon) -> (Serving, String) {
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: TEMPORARY, secret_access_key: other, session_token: {TOKEN:?}, principal: tests }}\n"
    );
    let serving = Serving::start(Setup::new(&[axon.url()]).file("keys.yaml", &keys)).await;
    let url = format!("http://{}", serving.addr);
    (serving, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn call_signs_with_the_first_key_of_a_file_and_prints_the_answer() {
    let axon = Axon::start();
    let (serving, url) = callable(&axon).await;
    let keys = serving.directory.path().join("keys.yaml");
    let keys = keys.to_str().expect("UTF-8");
    let arguments =
        ["--url", &url, "--keys", keys, "--intent", "call_reasoning", "--correlation-id", "from-the-command-line"];
    let exit = call(&arguments, &[]).await;

    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), "200 OK\n"));
    let answer: Value = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_eq!(answer["message"], "Axon heartbeat OK");
    assert_eq!(answer["correlation_id"], "from-the-command-line");
    assert_eq!(axon.request().json(), json!({ "intent": "call_reasoning", "context": {} }));
}

#[tokio::test(flavor = "multi_thread")]
async fn call_signs_with_the_named_key_and_its_session_token() {
    let axon = Axon::start();
    let (serving, url) = callable(&axon).await;
    let keys = serving.directory.path().join("keys.yaml");
    let keys = keys.to_str().expect("UTF-8");
    let base = ["--url", &url, "--keys", keys, "--intent", "call_reasoning", "--access-key-id"];
    let exit = call(&[&base[..], &["TEMPORARY"]].concat(), &[]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let exit = call(&[&base[..], &["NOBODY"]].concat(), &[]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("no such key in"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn call_signs_with_the_credentials_of_the_environment() {
    let axon = Axon::start();
    let (_serving, url) = callable(&axon).await;
    let arguments = ["--url", &url, "--intent", "call_reasoning"];
    let lasting = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let temporary =
        [("AWS_ACCESS_KEY_ID", "TEMPORARY"), ("AWS_SECRET_ACCESS_KEY", "other"), ("AWS_SESSION_TOKEN", TOKEN)];
    for environment in [&lasting[..], &temporary[..]] {
        let exit = call(&arguments, environment).await;
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), "200 OK\n"), "{environment:?}");
    }
    for environment in [&[][..], &lasting[..1], &[lasting[0], ("AWS_SECRET_ACCESS_KEY", "")]] {
        let exit = call(&arguments, environment).await;
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""), "{environment:?}");
        assert!(
            exit.stderr.contains("no AWS credentials; tried environment (environment variable not set)"),
            "{exit:?}"
        );
        assert!(exit.stderr.contains("--keys"), "{exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_sends_context_values_as_the_json_that_they_look_like() {
    let axon = Axon::start();
    let (_serving, url) = callable(&axon).await;
    let given = [
        "user_id=user123",
        "n=5",
        "exact=1.50",
        "yes=true",
        "nothing=null",
        "list=[1,\"b\"]",
        "text=\"5\"",
        "empty=",
        "equation=a=b",
        "umlaut=grüß dich",
    ];
    let mut arguments = vec!["--url", &url, "--intent", "call_reasoning"];
    given.iter().for_each(|member| arguments.extend(["--context", member]));
    let environment = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let exit = call(&arguments, &environment).await;

    assert_eq!(exit.code, Some(0), "{exit:?}");
    let expected = json!({
        "user_id": "user123", "n": 5, "exact": 1.5, "yes": true, "nothing": null, "list": [1, "b"], "text": "5",
        "empty": "", "equation": "a=b", "umlaut": "grüß dich",
    });
    assert_eq!(axon.request().json()["context"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn call_exits_with_1_when_the_answer_is_no_success() {
    let axon = Axon::start();
    axon.answer(Reply::json(422, r#"{"problem":"too vague"}"#));
    let (_serving, url) = callable(&axon).await;
    let cases = [
        ("unheard_of", SECRET, "403 Forbidden\n", "GOVERNANCE_DENIED"),
        ("call_reasoning", "wrong", "401 Unauthorized\n", "\"mismatch\""),
        ("call_reasoning", SECRET, "422 Unprocessable Entity\n", "too vague"),
    ];
    for (intent, secret, status, body) in cases {
        let environment = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", secret)];
        let exit = call(&["--url", &url, "--intent", intent], &environment).await;
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(1), status), "{exit:?}");
        assert!(exit.stdout.contains(body), "{exit:?}");
        assert!(!format!("{exit:?}").contains(secret), "{exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn call_says_why_nobody_answers() {
    let refusing = Axon::refusing();
    let silent = Axon::start();
    silent.answer(Reply::hang());
    let hangs_up = Axon::start();
    hangs_up.answer(Reply::hang_up());
    let cases = [
        (refusing.url(), "cannot connect to 127.0.0.1:"),
        (silent.url(), "no answer within 1 seconds"),
        (hangs_up.url(), "no answer: "),
        ("https://127.0.0.1:1".to_owned(), "is not an http:// address"),
    ];
    for (url, why) in cases {
        let environment = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
        let exit = call(&["--url", &url, "--intent", "x", "--timeout", "1"], &environment).await;
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""), "{url}: {exit:?}");
        assert!(exit.stderr.starts_with("error: ") && exit.stderr.contains(why), "{url}: {exit:?}");
    }
}

// ---- orbit dev

#[tokio::test(flavor = "multi_thread")]
async fn dev_once_shows_request_decision_and_answer_and_exits_with_0() {
    let exit = run(orbit(["dev", "--port", "0", "--once"])).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{}", exit.stdout);
    let line = |start: &str| exit.stdout.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{exit:?}"));
    assert!(line("REQUEST ").contains("/dispatch, signed with AWS SigV4 as "), "{exit:?}");
    assert!(exit.stdout.contains(r#""intent":"call_reasoning""#), "{exit:?}");
    let decision = line("DECISION ");
    assert!(decision.contains("allowed in ") && decision.contains(" ms, correlation id "), "{decision}");
    assert!(line("ANSWER ").ends_with("200 OK"), "{exit:?}");
    for part in ["\"message\": \"Axon heartbeat OK\"", "\"reason\": \"Request authorized\"", "\"status\": \"success\""]
    {
        assert!(exit.stdout.contains(part), "{part} in {exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_curl_command_that_dev_prints_works_as_pasted_and_ctrl_c_ends_it() {
    let mut dev = Process::start(orbit(["dev", "--port", "0"]));
    dev.printed(&["Serving until Ctrl-C"]).await;
    let pasted = dev
        .so_far()
        .split("Call it yourself:\n\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next().map(str::to_owned));
    let pasted = pasted.expect("a command");
    assert!(pasted.trim_start().starts_with("curl --aws-sigv4 "), "{pasted}");

    let exit = run(command("sh", ["-c", &pasted])).await;
    assert_eq!(exit.code, Some(0), "{pasted}: {exit:?}");
    let answer: Value = serde_json::from_str(&exit.stdout).unwrap_or_else(|e| panic!("{e}: {exit:?}"));
    assert_eq!(answer["status"], "success", "{answer}");
    let id = answer["correlation_id"].as_str().expect("an id");
    dev.printed(&[&format!("REQUEST [{id}] POST /dispatch 200 ")]).await;

    dev.signal("INT");
    let exit = dev.exit().await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{}", exit.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_refuses_a_port_that_is_taken() {
    let axon = Axon::start();
    let exit = run(orbit(["dev", "--once", "--port", &axon.addr().port().to_string()])).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("cannot listen on 127.0.0.1:"), "{exit:?}");
}
