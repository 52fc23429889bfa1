//! `orbit sigv4 verify`: the real binary, requests in files, what it says of each and how it ends.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orbit::auth::doctor::{Audience, HYPOTHESES, Hypothesis};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::{Payload, Signed, Signing, within};
use crate::harness::gateway::{ACCESS_KEY, BODY, NOW, SECRET, Setup, signing};
use crate::harness::process::{Exit, Process, orbit, run, written};
use crate::sigv4_suite::suite;

/// [`NOW`]
const AT: &str = "20261122T095651Z";
const HOST: &str = "orbit.example";

/// A directory with a configuration, a place for requests, and the command run in it.
struct Folder(TempDir);

impl Folder {
    fn new(setup: &Setup) -> Self {
        Self(written(setup))
    }

    fn usual() -> Self {
        Self::new(&Setup::new(&["http://127.0.0.1:1".to_owned()]))
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), bytes).expect("a file");
    }

    fn command(&self, more: &[&str]) -> std::process::Command {
        let mut command = orbit(["sigv4", "verify", "-c", "orbit.yaml", "--at", AT].iter().chain(more));
        command.current_dir(self.0.path());
        command
    }

    async fn verify(&self, more: &[&str]) -> Exit {
        run(self.command(more)).await
    }

    /// With a file on standard input.
    async fn pipe(&self, file: &str, more: &[&str]) -> Exit {
        let input = std::fs::File::open(self.0.path().join(file)).expect("a file");
        Process::start_reading(self.command(more), input.into()).exit().await
    }

    /// The verdict on one file, which says whether the exit code is right, too.
    async fn json(&self, file: &str) -> Value {
        let exit = self.verify(&["--format", "json", file]).await;
        assert_eq!(exit.stderr, "", "{exit:?}");
        let [verdict] = &lines(&exit)[..] else { panic!("{exit:?}") };
        assert_eq!(exit.code, Some(i32::from(verdict["accepted"] != true)), "{exit:?}");
        verdict.clone()
    }
}

fn lines(exit: &Exit) -> Vec<Value> {
    exit.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {exit:?}"))).collect()
}

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn post(target: &str) -> Signed {
    Signed::post(HOST, target, BODY)
}

fn signed(request: Signed) -> Vec<u8> {
    request.sign(&signing(), at()).bytes()
}

/// As captures have it: bare line feeds in the head.
fn bare(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8").replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_per_request_in_the_order_given() {
    let folder = Folder::usual();
    folder.file("z-good", signed(post("/any/path?b=1&a=%20")));
    folder.file("a-altered", signed(post("/dispatch").but_send("{}")));
    folder.file("m-unsigned", "GET / HTTP/1.1\nHost: a\n\n");
    folder.file("b-broken", "GET / HTTP/1.1\nHost: a\nHost: a\n\n");
    let files = ["z-good", "a-altered", "m-unsigned", "no-such-file", "b-broken", "z-good"];
    let exit = folder.verify(&files).await;

    assert_eq!((exit.code, exit.stderr.as_str()), (Some(1), ""), "{exit:?}");
    let told: Vec<&str> = exit.stdout.lines().collect();
    let accepted = format!("z-good: accepted principal=tests key={ACCESS_KEY}");
    assert_eq!((told.len(), told[0], told[5]), (6, &*accepted, &*accepted), "{exit:?}");
    for (line, start) in told[1..5].iter().zip([
        format!("a-altered: refused mismatch: signature does not match key {ACCESS_KEY}"),
        "m-unsigned: refused missing_authorization: no Authorization header; ".to_owned(),
        "no-such-file: refused unreadable: No such file".to_owned(),
        "b-broken: refused malformed: more than one Host header; ".to_owned(),
    ]) {
        assert!(line.starts_with(&start), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_get_one_object_a_line() {
    let folder = Folder::usual();
    folder.file("good", signed(post("/")));
    folder.file("bad", signed(post("/").but_send("{}")));
    folder.file("none", "GET / HTTP/1.1\nHost: a\n\n");
    let exit = folder.verify(&["--format", "json", "good", "bad", "none", "\u{fc}\nber"]).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(1), ""), "{exit:?}");
    let told = lines(&exit);
    assert_eq!(told[0], json!({ "file": "good", "accepted": true, "principal": "tests", "access_key_id": ACCESS_KEY }));
    for (verdict, (file, issue)) in
        told[1..].iter().zip([("bad", "mismatch"), ("none", "missing_authorization"), ("\u{fc}\nber", "unreadable")])
    {
        assert_eq!((&verdict["file"], &verdict["issue"]), (&json!(file), &json!(issue)), "{verdict}");
        assert_eq!(verdict["accepted"], false, "{verdict}");
        for member in ["hint", "why"] {
            assert!(verdict[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {verdict}");
        }
        let known = ["file", "accepted", "issue", "hint", "why", "hypothesis"];
        assert!(verdict.as_object().expect("an object").keys().all(|key| known.contains(&key.as_str())), "{verdict}");
    }
    assert_eq!(told.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_0_only_when_all_are_accepted() {
    let folder = Folder::usual();
    folder.file("length", signed(post("/a")));
    folder.file("chunks", signed(post("/a").chunked(&[1, 20])));
    folder.file("declared", signed(post("/a").declared()));
    folder.file("bare", bare(signed(post("/a"))));
    folder.file("editor", bare(signed(post("/a"))) + "\n");
    let framing = format!("Content-Length: {}\n", BODY.len());
    folder.file("unframed", bare(signed(post("/a"))).replace(&framing, ""));
    folder.file("method", signed(Signed::new("PATCH", HOST, "/a//b/", "")));
    folder.file("open-end", bare(signed(Signed::new("GET", HOST, "/", ""))).trim_end());
    let all = ["length", "chunks", "declared", "bare", "editor", "unframed", "method", "open-end"];
    let exit = folder.verify(&all).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
    assert_eq!(exit.stdout.matches(": accepted ").count(), all.len(), "{exit:?}");

    for (bad, bytes) in [
        ("cut", &signed(post("/a"))[..signed(post("/a")).len() - 1]),
        ("more", &[&signed(post("/a"))[..], b"x"].concat()),
        ("bare-chunks", bare(signed(post("/a").chunked(&[1]))).as_bytes()),
    ] {
        folder.file(bad, bytes);
        let exit = folder.verify(&["length", bad, "chunks"]).await;
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.stdout.lines().nth(1).expect("a line").contains("refused malformed: "), "{exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_one_request() {
    let folder = Folder::usual();
    folder.file("good", signed(post("/")));
    folder.file("bad", signed(post("/").but_send("{}")));
    for more in [&[][..], &["-"]] {
        let exit = folder.pipe("good", more).await;
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
        assert_eq!(exit.stdout, format!("-: accepted principal=tests key={ACCESS_KEY}\n"));
    }
    let exit = folder.pipe("bad", &["good", "-", "good"]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let verdicts: Vec<_> =
        exit.stdout.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(verdicts, ["good: accepted", "-: refused", "good: accepted"]);
    // A second request is none of the first one's body.
    folder.file("two", [signed(post("/")), signed(post("/"))].concat());
    let exit = folder.pipe("two", &[]).await;
    assert!(exit.code == Some(1) && exit.stdout.contains("are behind the end of the body"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_pinned_or_the_system_s() {
    let folder = Folder::usual();
    folder.file("request", signed(post("/")));
    assert_eq!(folder.json("request").await["accepted"], true);
    let exit = run(folder.command(&["request", "--at", AT])).await;
    assert_eq!(exit.code, Some(2), "given twice: {exit:?}");
    let mut now = orbit(["sigv4", "verify", "-c", "orbit.yaml", "request"]);
    now.current_dir(folder.0.path());
    let exit = run(now).await;
    let issue = exit.stdout.contains("refused expired: ") || exit.stdout.contains("refused not_yet_valid: ");
    assert!(exit.code == Some(1) && issue, "{exit:?}");
    for wrong in ["now", "2026-11-22T09:56:51Z", "20261122", "20261332T095651Z", "1795341411"] {
        let exit = run(orbit(["sigv4", "verify", "-c", "orbit.yaml", "--at", wrong])).await;
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(2), ""), "{exit:?}");
        assert!(exit.stderr.contains("20261122T095651Z"), "{exit:?}");
    }
    for (at, code) in [("25540721T233433Z", 1), ("25540721T233434Z", 2), ("99991231T235959Z", 2)] {
        let mut command = orbit(["sigv4", "verify", "-c", "orbit.yaml", "request", "--at", at]);
        command.current_dir(folder.0.path());
        let exit = run(command).await;
        assert_eq!(exit.code, Some(code), "{exit:?}");
        assert_eq!(exit.stderr.contains("must be before 25540721T233434Z"), code == 2, "{exit:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn verdicts_that_cannot_be_written_are_no_success() {
    let folder = Folder::usual();
    folder.file("request", signed(post("/")));
    for format in ["text", "json"] {
        let mut command = folder.command(&["--format", format, "request"]);
        command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device"));
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("error: standard output: "), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_configuration_exits_with_2_and_judges_nothing() {
    let folder = Folder::usual();
    folder.file("request", signed(post("/")));
    folder.file("orbit.yaml", "version: 1\nauth: { keys: keys.yaml, regoin: x }\n");
    let exit = folder.verify(&["request"]).await;
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(2), ""), "{exit:?}");
    assert!(exit.stderr.contains("orbit.yaml:2:") && exit.stderr.contains("`region`"), "{exit:?}");

    let fetched =
        "{ keys: { secrets_manager: { arn: \"arn:aws:secretsmanager:us-east-1:123456789012:secret:orbit-AbCdEf\" } } }";
    let folder = Folder::new(&Setup::new(&["http://127.0.0.1:1".to_owned()]).block("auth", fetched));
    folder.file("request", signed(post("/")));
    let exit = folder.verify(&["request"]).await;
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(2), ""), "{exit:?}");
    assert!(exit.stderr.contains("this source needs the network") && exit.stderr.contains("orbit.yaml:2:"), "{exit:?}");

    for usage in [&["sigv4"][..], &["sigv4", "verify"], &["sigv4", "sign"]] {
        let exit = run(orbit(usage)).await;
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(2), ""), "{exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_bounds_are_named_when_they_are_exceeded() {
    let folder =
        Folder::new(&Setup::new(&["http://127.0.0.1:1".to_owned()]).listen("header_bytes: 1KiB, body_bytes: 1KiB"));
    folder.file("head", signed(post("/").header("x-long", &"a".repeat(1024))));
    folder.file("body", signed(Signed::new("POST", HOST, "/", "a".repeat(1025))));
    folder.file("huge", "a".repeat(64 * 1024));
    folder.file("target", format!("GET /{} HTTP/1.1\nHost: a\n\n", "a".repeat(900)));
    for (file, issue, named) in [
        ("head", "malformed", "listen.header_bytes"),
        ("body", "malformed", "listen.body_bytes"),
        ("huge", "unreadable", "listen.body_bytes"),
        ("target", "missing_authorization", ""),
    ] {
        let verdict = folder.json(file).await;
        assert_eq!(verdict["issue"], issue, "{verdict}");
        assert!(verdict["why"].as_str().expect("text").contains(named), "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_are_one_call() {
    const FILES: usize = 3000;
    let folder = Folder::usual();
    let requests = [signed(post("/a")), signed(post("/a").but_send("{}")), signed(post("/b?x=1"))];
    let names: Vec<String> = (0..FILES).map(|n| format!("{}-{n}", n * 7919 % FILES)).collect();
    for (n, name) in names.iter().enumerate() {
        // Every tenth is altered, and so examined.
        folder.file(name, &requests[if n % 10 == 0 { 1 } else { n % 2 * 2 }]);
    }
    let arguments: Vec<&str> = ["--format", "json"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let exit = folder.verify(&arguments).await;
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(1), ""));
    let told = lines(&exit);
    assert_eq!(told.len(), FILES);
    for (n, (verdict, name)) in told.iter().zip(&names).enumerate() {
        assert_eq!((&verdict["file"], &verdict["accepted"]), (&json!(name), &json!(n % 10 != 0)), "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_no_panic_and_changes_no_exit_code() {
    let folder = Folder::usual();
    folder.file("good", signed(post("/")));
    folder.file("bad", signed(post("/").but_send("{}")));
    for (files, code) in [(&["good"; 500][..], 0), (&[&["good"; 500][..], &["bad"]].concat(), 1)] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = folder.command(files).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn();
        let waiting = tokio::task::spawn_blocking(|| child.expect("orbit").wait_with_output().expect("an end"));
        let output = within(waiting).await.expect("no panic here");
        assert_eq!((output.status.code(), output.stderr), (Some(code), Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn help_shows_an_example() {
    let exit = run(orbit(["sigv4", "verify", "--help"])).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for part in ["orbit sigv4 verify -c orbit.yaml --at 20261122T095651Z", "the rest of the file", "Exit code 0"] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&exit.stdout).contains(part), "no {part} in {}", exit.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_aws_s_suite_are_verified_as_they_are() {
    let names = std::fs::read_dir(suite()).expect("the suite").map(|entry| entry.expect("an entry").path());
    let cases: Vec<_> = names.filter(|case| case.join("context.json").exists()).collect();
    let credentials_of = |case: &Path| {
        let context = std::fs::read(case.join("context.json")).expect("a context");
        serde_json::from_slice::<Value>(&context).expect("JSON")["credentials"].to_string()
    };
    let credentials: BTreeSet<String> = cases.iter().map(|case| credentials_of(case)).collect();
    let (mut accepted, mut refused) = (0, BTreeSet::new());
    for credentials in credentials {
        let key: Value = serde_json::from_str(&credentials).expect("JSON");
        let Some(id) = key["access_key_id"].as_str() else { continue };
        let token = key["token"].as_str().map_or(String::new(), |token| format!("session_token: {token:?}, "));
        let keys = format!(
            "- {{ access_key_id: {id}, secret_access_key: {}, {token}principal: aws }}\n",
            key["secret_access_key"]
        );
        let setup = Setup::new(&["http://127.0.0.1:1".to_owned()])
            .block("auth", "{ keys: keys.yaml, service: service, presigned: { max_expires: 1h } }")
            .file("keys.yaml", &keys);
        let folder = Folder::new(&setup);
        let own = cases.iter().filter(|case| credentials_of(case) == credentials);
        let both =
            own.flat_map(|case| ["header-signed-request.txt", "query-signed-request.txt"].map(|name| case.join(name)));
        let files: Vec<String> = both.map(|file| file.to_str().expect("UTF-8").to_owned()).collect();
        let arguments = ["sigv4", "verify", "-c", "orbit.yaml", "--at", "20150830T123600Z", "--format", "json"];
        let mut command = orbit(arguments.iter().copied().chain(files.iter().map(String::as_str)));
        command.current_dir(folder.0.path());
        let exit = run(command).await;
        assert!(!exit.stdout.contains(SECRET) && exit.stderr.is_empty(), "{exit:?}");
        for verdict in lines(&exit) {
            let file = verdict["file"].as_str().expect("a file");
            let case =
                Path::new(file).parent().and_then(Path::file_name).expect("a case").to_string_lossy().into_owned();
            if verdict["accepted"] == true {
                accepted += 1;
            } else {
                assert_eq!(verdict["issue"], "malformed", "{verdict}");
                refused.insert(case);
            }
        }
    }
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    // Folds, spaces and bytes beyond ASCII in the target: the front door refuses them.
    assert_eq!(
        refused,
        [
            "get-header-value-multiline",
            "get-space-normalized",
            "get-space-unnormalized",
            "get-utf8",
            "get-vanilla-utf8-query"
        ]
    );
    assert_eq!(accepted, 2 * 33);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_told_from_a_wrong_secret_here() {
    let folder = Folder::usual();
    folder.file("unknown", post("/").sign(&Signing::new("AKIDUNKNOWN", SECRET), at()).bytes());
    folder.file("wrong", post("/").sign(&Signing::new(ACCESS_KEY, "wrong"), at()).bytes());
    for (file, why) in [("unknown", "unknown key AKIDUNKNOWN"), ("wrong", "signature does not match key AKIDEXAMPLE")] {
        let verdict = folder.json(file).await;
        assert_eq!(verdict["issue"], "mismatch", "{verdict}");
        assert!(verdict["why"].as_str().expect("text").starts_with(why), "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_was_signed_otherwise() {
    let other = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: AKIDOTHER, secret_access_key: another-secret, principal: other }}\n"
    );
    let folder = Folder::new(&Setup::new(&["http://127.0.0.1:1".to_owned()]).file("keys.yaml", &other));
    let edited = |from: &str, to: &str| post("/a?b=1&c=2").sign(&signing(), at()).edit(from, to).bytes();
    let for_region = Signing { region: "eu-west-1".into(), ..signing() };
    let cases = [
        ("body_line_end_removed", "mismatch", post("/").but_send(format!("{BODY}\n")).sign(&signing(), at()).bytes()),
        ("payload_unsigned", "payload_mismatch", signed(post("/").payload(Payload::Unsigned))),
        ("host_port", "mismatch", edited(HOST, "orbit.example:8443")),
        ("content_type_parameter", "mismatch", edited("application/json", "application/json; charset=utf-8")),
        ("method", "mismatch", edited("POST", "PUT")),
        ("secret_of_another_key", "mismatch", edited(ACCESS_KEY, "AKIDOTHER")),
        ("region", "wrong_scope", post("/").sign(&for_region, at()).bytes()),
    ];
    for (name, issue, bytes) in cases {
        folder.file(name, bytes);
        let verdict = folder.json(name).await;
        assert_eq!(verdict["issue"], issue, "{name}: {verdict}");
        match issue {
            "mismatch" => assert_eq!(verdict["hypothesis"], name, "{verdict}"),
            _ => assert_eq!(verdict.get("hypothesis"), None, "{verdict}"),
        }
        let hint = verdict["hint"].as_str().expect("text");
        let told = folder.verify(&[name]).await.stdout;
        assert!(told.ends_with(&format!("; {hint}\n")) && told.lines().count() == 1, "{told}");
        for secret in [SECRET, "another-secret"] {
            assert!(!told.contains(secret), "{told}");
        }
    }
    let hint = folder.json("region").await["hint"].as_str().expect("text").to_owned();
    assert!(hint.contains("`eu-west-1`, `auth.region` has `us-east-1`"), "{hint}");
    assert!(hint.ends_with("apart from that the signature is right"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_verdict_nor_hint_gives_a_token_or_a_signature_away() {
    const TOKEN: &str = "session/token+of==temporary+credentials";
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, session_token: {TOKEN:?}, principal: tests }}\n"
    );
    let folder = Folder::new(&Setup::new(&["http://127.0.0.1:1".to_owned()]).file("keys.yaml", &keys));
    let temporary = Signing { token: Some(TOKEN.into()), ..signing() };
    let right = post("/a?b=1").sign(&temporary, at());
    let signature = String::from_utf8(right.bytes()).expect("UTF-8");
    let signature =
        signature.split("ignature=").nth(1).and_then(|rest| rest.get(..64)).expect("a signature").to_owned();
    folder.file("right", right.bytes());
    assert_eq!(folder.json("right").await["accepted"], true);
    for (n, (from, to)) in [
        ("POST", "GET"),
        ("/a?b=1", "/a?b=2"),
        (TOKEN, "another-token"),
        ("X-Amz-Security-Token: ", "X-Amz-Security-Token: x"),
        (";x-amz-security-token", ""),
        (&signature[..1], if signature.starts_with('0') { "1" } else { "0" }),
    ]
    .into_iter()
    .enumerate()
    {
        let name = n.to_string();
        let bytes = String::from_utf8(right.bytes()).expect("UTF-8");
        let at = if from.len() == 1 { bytes.find(&signature) } else { find_any_case(&bytes, from) }.expect(from);
        folder.file(&name, format!("{}{to}{}", &bytes[..at], &bytes[at + from.len()..]));
        for format in ["text", "json"] {
            let exit = folder.verify(&["--format", format, &name]).await;
            assert_eq!((exit.code, exit.stderr.as_str()), (Some(1), ""), "{exit:?}");
            for secret in [SECRET, TOKEN, "another-token", &signature, &signature[1..]] {
                assert!(!exit.stdout.contains(secret), "{secret} in {exit:?}");
            }
        }
    }
}

fn find_any_case(text: &str, part: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(&part.to_ascii_lowercase())
}

#[test]
fn the_page_of_signatures_has_every_hypothesis() {
    const START: &str = "<!-- The table is generated: `ORBIT_BLESS=1 cargo test the_page_of` writes it anew. -->\n";
    const END: &str = "<!-- end of the table -->\n";
    let mut table =
        String::from("\n| `hypothesis` | the signature matches | do | told to callers |\n|---|---|---|---|\n");
    for Hypothesis { name, means, change, told, .. } in HYPOTHESES {
        let told = if *told == Audience::Caller { "yes" } else { "" };
        table += &format!("| `{name}` | {means} | {change} | {told} |\n");
    }
    table.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sigv4.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(START).expect("where the table begins");
    let (found, behind) = rest.split_once(END).expect("where it ends");
    if std::env::var_os("ORBIT_BLESS").is_some() {
        std::fs::write(&path, [before, START, &table, END, behind].concat()).expect("a writable page");
    } else {
        assert!(found == table, "{} is out of date: ORBIT_BLESS=1 cargo test the_page_of", path.display());
    }
}
