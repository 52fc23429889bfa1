//! Keys that change while requests run: in files, and in Secrets Manager.

use std::time::Duration;

use orbit::gateway::{Refused, Reloaded};
use orbit::telemetry::metrics::{KEY_SERIES_MAX, OTHER_KEYS};
use serde_json::json;

use crate::harness::axon::{Axon, Gate, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Signing, within};
use crate::harness::gateway::{BODY, Gateway, NOW, Setup};
use crate::harness::moto::{Moto, Secret};
use crate::harness::process::{Process, orbit, run, written};

const MINUTE: Duration = Duration::from_secs(60);
/// A secret that no server of these tests knows.
const NOWHERE: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:orbit/nowhere-AbCdEf";

/// A list with one key per `(id, secret)`, as Secrets Manager holds it.
fn list(keys: &[(&str, &str)]) -> String {
    let entry = |(id, secret): &(&str, &str)| json!({ "access_key_id": id, "secret_access_key": secret, "principal": format!("owner of {id}") });
    json!(keys.iter().map(entry).collect::<Vec<_>>()).to_string()
}

/// In front of `axon`, with the keys of this secret, asked for every minute.
fn setup(axon: &Axon, arn: &str, endpoint: &str) -> Setup {
    setup_with(axon, &format!("{{ secrets_manager: {{ arn: {arn:?}, refresh: 1m, endpoint: {endpoint:?} }} }}"))
}

fn setup_with(axon: &Axon, keys: &str) -> Setup {
    Setup::new(&[axon.url()])
        .block("auth", format!("{{ keys: {keys} }}"))
        .variable("AWS_ACCESS_KEY_ID", "ORBITSOWN")
        .variable("AWS_SECRET_ACCESS_KEY", "orbits-own-secret")
}

fn refreshes(arn: &str, result: &str) -> String {
    format!("orbit_key_source_refreshes_total{{result={result:?},source={arn:?}}}")
}

fn last_success(gateway: &Gateway, arn: &str) -> f64 {
    gateway.metric(&format!("orbit_key_source_last_success_timestamp_seconds{{source={arn:?}}}"))
}

/// The status of the standing dispatch, signed like this.
async fn status(gateway: &Gateway, id: &str, secret: &str) -> u16 {
    let response = gateway.dispatch(BODY).send(gateway.addr(), &Signing::new(id, secret), gateway.now()).await;
    let kind = if response.status == 200 { Kind::Success } else { Kind::Error("INVALID_SIGNATURE") };
    contract(&response, kind);
    response.status
}

async fn statuses(gateway: &Gateway, keys: &[(&str, &str)]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (id, secret) in keys {
        statuses.push(status(gateway, id, secret).await);
    }
    statuses
}

async fn moto_with(text: &str) -> (&'static Moto, Secret) {
    let moto = Moto::shared();
    (moto, moto.secret(text).await)
}

// Secrets Manager

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_valid_beside_the_one_before_it_until_the_next() {
    let (moto, secret) = moto_with(&list(&[("ROTATED", "one"), ("STAYS", "same")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    let keys = [("ROTATED", "one"), ("ROTATED", "two"), ("ROTATED", "three"), ("STAYS", "same")];
    assert_eq!(statuses(&gateway, &keys).await, [200, 401, 401, 200]);

    secret.put(&list(&[("ROTATED", "two"), ("STAYS", "same")])).await;
    assert_eq!(statuses(&gateway, &keys).await, [200, 401, 401, 200], "before it is asked for");
    gateway.clock.advance(MINUTE);
    gateway.becomes("orbit_config_generation", 2.0).await;
    assert_eq!(statuses(&gateway, &keys).await, [200, 200, 401, 200]);

    secret.put(&list(&[("ROTATED", "three"), ("STAYS", "same")])).await;
    gateway.clock.advance(MINUTE);
    gateway.becomes("orbit_config_generation", 3.0).await;
    assert_eq!(statuses(&gateway, &keys).await, [401, 200, 200, 200]);

    // The last version without a change: the one before it is then the same.
    secret.put(&list(&[("ROTATED", "three"), ("STAYS", "same")])).await;
    gateway.clock.advance(MINUTE);
    gateway.becomes("orbit_config_generation", 4.0).await;
    assert_eq!(statuses(&gateway, &keys).await, [401, 401, 200, 200]);
    gateway.becomes(&refreshes(&secret.arn, "changed"), 4.0).await;
    assert_eq!(last_success(&gateway, &secret.arn), (NOW + 180) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_id_stays_for_one_version_more() {
    let (moto, secret) = moto_with(&list(&[("OLD", "one")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    let keys = [("OLD", "one"), ("NEW", "two")];
    for (generation, expected) in [(2.0, [200, 200]), (3.0, [401, 200])] {
        // A comment of sorts makes the version another one.
        secret.put(&format!("{}{}", list(&[("NEW", "two")]), " ".repeat(generation as usize))).await;
        gateway.clock.advance(MINUTE);
        gateway.becomes("orbit_config_generation", generation).await;
        assert_eq!(statuses(&gateway, &keys).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_run_while_a_key_is_rotated_are_answered() {
    let (moto, secret) = moto_with(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    let gate = axon.hold();
    let message = gateway.dispatch(BODY).sign(&Signing::new("A", "one"), gateway.now());
    let addr = gateway.addr();
    let running = tokio::spawn(async move { message.send(addr).await });
    axon.received(1).await;
    for (secret_of_a, generation) in [("two", 2.0), ("three", 3.0)] {
        secret.put(&list(&[("A", secret_of_a)])).await;
        gateway.clock.advance(MINUTE);
        gateway.becomes("orbit_config_generation", generation).await;
    }
    gate.release();
    contract(&running.await.expect("an answer"), Kind::Success);
    assert_eq!(statuses(&gateway, &[("A", "one"), ("A", "three")]).await, [401, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_is_no_new_generation() {
    let (moto, secret) = moto_with(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    for n in 1..=3 {
        gateway.clock.advance(MINUTE);
        gateway.becomes(&refreshes(&secret.arn, "unchanged"), f64::from(n)).await;
    }
    assert_eq!(gateway.metric("orbit_config_generation"), 1.0);
    assert_eq!(gateway.metric(&refreshes(&secret.arn, "changed")), 1.0, "the one at boot");
    assert_eq!(last_success(&gateway, &secret.arn), (NOW + 180) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_new_version_changes_nothing_until_it_is_corrected() {
    let (moto, secret) = moto_with(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    let keys = [("A", "one"), ("A", "two")];
    for (n, broken) in (1..).zip(["no list", r#"[{"access_key_id":"A","secret_access_key":"two"}]"#, "[]"]) {
        secret.put(broken).await;
        gateway.clock.advance(MINUTE);
        gateway.becomes(&refreshes(&secret.arn, "refused"), f64::from(n)).await;
        assert_eq!(statuses(&gateway, &keys).await, [200, 401], "{broken}");
    }
    secret.put_binary(b"[]").await;
    gateway.clock.advance(MINUTE);
    gateway.becomes(&refreshes(&secret.arn, "failed"), 1.0).await;
    assert_eq!(gateway.metric("orbit_config_generation"), 1.0);
    assert_eq!(last_success(&gateway, &secret.arn), NOW as f64);

    // What was invalid is now the previous version, and no reason to refuse the good one.
    secret.put("broken once more").await;
    secret.put(&list(&[("A", "two")])).await;
    gateway.clock.advance(MINUTE);
    gateway.becomes("orbit_config_generation", 2.0).await;
    assert_eq!(statuses(&gateway, &keys).await, [401, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_aws_is_gone_the_last_good_keys_stay_and_it_is_asked_again_sooner() {
    let moto = Moto::start();
    let secret = moto.secret(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    drop(moto);
    gateway.clock.advance(MINUTE);
    gateway.becomes(&refreshes(&secret.arn, "failed"), 1.0).await;
    assert_eq!(status(&gateway, "A", "one").await, 200);
    // Seconds, not a minute: at most 1 and 2 after the first and second failure.
    for (n, wait) in [(2.0, 1), (3.0, 2)] {
        gateway.clock.advance(Duration::from_secs(wait));
        gateway.becomes(&refreshes(&secret.arn, "failed"), n).await;
    }
    // A reload keeps them too, and goes on with what is in the files.
    let more = setup(&axon, &secret.arn, "http://127.0.0.1:1").block("name", "other");
    assert!(matches!(gateway.reload(more).await, Err(Refused::Configuration(_))), "another endpoint is another source");
    assert_eq!(gateway.metric("orbit_config_generation"), 1.0);
    assert_eq!(statuses(&gateway, &[("A", "one")]).await, [200]);
    assert_eq!(last_success(&gateway, &secret.arn), NOW as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_fetches_at_once_and_does_without_if_it_must() {
    let moto = Moto::start();
    let secret = moto.secret(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let make = || setup(&axon, &secret.arn, &moto.url());
    let gateway = make().start().await;
    assert_eq!(gateway.reload(make()).await.expect("fine"), Reloaded::Unchanged { generation: 1 });
    secret.put(&list(&[("A", "two")])).await;
    assert!(matches!(gateway.reload(make()).await, Ok(Reloaded::Accepted { generation: 2, .. })));
    assert_eq!(statuses(&gateway, &[("A", "one"), ("A", "two")]).await, [200, 200]);

    let with_name = make().block("drain", "{ min: 0s, max: 9s }");
    drop(moto);
    assert!(matches!(gateway.reload(with_name).await, Ok(Reloaded::Accepted { generation: 3, .. })));
    assert_eq!(statuses(&gateway, &[("A", "one"), ("A", "two")]).await, [200, 200]);
    assert_eq!(gateway.metric(&refreshes(&secret.arn, "failed")), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_secrets_are_one_list_of_keys() {
    let (moto, secret) = moto_with(&list(&[("A", "one")])).await;
    let other = moto.secret(&list(&[("B", "one")])).await;
    let axon = Axon::start();
    let source =
        |secret: &Secret| format!("{{ secrets_manager: {{ arn: {:?}, endpoint: {:?} }} }}", secret.arn, moto.url());
    let file = "- { access_key_id: C, secret_access_key: one, principal: c }\n";
    let both =
        || setup_with(&axon, &format!("[{}, keys.yaml, {}]", source(&secret), source(&other))).file("keys.yaml", file);
    let gateway = both().start().await;
    let keys = [("A", "one"), ("B", "one"), ("C", "one")];
    assert_eq!(statuses(&gateway, &keys).await, [200, 200, 200]);

    // A secret that is no longer named leaves nothing behind.
    let one = setup_with(&axon, &format!("[{}, keys.yaml]", source(&secret))).file("keys.yaml", file);
    assert!(matches!(gateway.reload(one).await, Ok(Reloaded::Accepted { .. })));
    assert_eq!(statuses(&gateway, &keys).await, [200, 401, 200]);
    let metrics = gateway.orbit.metrics_text();
    assert!(metrics.contains(&secret.arn) && !metrics.contains(&other.arn), "{metrics}");

    // And one id in two lists is refused whole.
    secret.put(&list(&[("C", "two")])).await;
    let refused = gateway.reload(both()).await.expect_err("C twice").to_string();
    assert!(refused.contains("this `access_key_id` is already at"), "{refused}");
    assert_eq!(statuses(&gateway, &keys).await, [200, 401, 200]);
}

/// An answer of Secrets Manager that is an error.
fn aws_error(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({ "__type": code, "message": message }).to_string();
    Reply::typed(status, "application/x-amz-json-1.1", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_keys_nothing_starts_and_the_reason_is_said() {
    let aws = Axon::start();
    let refusing = Axon::refusing();
    let moto = Moto::shared();
    let denied = aws_error(400, "AccessDeniedException", "User: arn:aws:iam::1:role/x is not authorized");
    let cases = [
        (
            aws.url(),
            Some(denied),
            vec!["version AWSCURRENT: AccessDeniedException: User:", "secretsmanager:GetSecretValue"],
        ),
        (aws.url(), Some(aws_error(400, "DecryptionFailure", "no")), vec!["DecryptionFailure: no", "kms:Decrypt"]),
        (
            aws.url(),
            Some(Reply::typed(200, "application/x-amz-json-1.1", "{\"SecretString\":\"hunter2")),
            vec!["the answer is none of Secrets Manager"],
        ),
        (moto.url(), None, vec!["no such secret", "check the ARN"]),
        (refusing.url(), None, vec!["dispatch failure", "Connection refused", "can be reached from here"]),
    ];
    for (endpoint, reply, expected) in cases {
        if let Some(reply) = reply {
            aws.answer(reply);
        }
        let refused = match setup(&Axon::start(), NOWHERE, &endpoint).try_start().await {
            Err(Refused::Configuration(problems)) => problems.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("started without keys from {endpoint}"),
        };
        assert!(refused.contains(&format!("orbit.yaml:2:15: cannot fetch `{NOWHERE}`: ")), "{refused}");
        for part in expected {
            assert!(refused.contains(part), "{part} is not in {refused}");
        }
        assert!(!refused.contains("hunter2") && !refused.contains("orbits-own-secret"), "{refused}");
    }
}

/// An answer of Secrets Manager with this text.
fn value(text: &str) -> Reply {
    Reply::typed(200, "application/x-amz-json-1.1", json!({ "SecretString": text }).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_reload_overtook_is_dropped() {
    let aws = Axon::start();
    aws.answer(value(&list(&[("A", "one")])));
    let axon = Axon::start();
    let make = || setup(&axon, NOWHERE, &aws.url());
    let gateway = make().start().await;
    // The background asks and is kept waiting; meanwhile a reload gets a newer version.
    let gate = Gate::new();
    aws.next([value(&list(&[("A", "late")])).after(&gate)]);
    gateway.clock.advance(MINUTE);
    gate.reached(1).await;
    aws.answer(value(&list(&[("A", "two")])));
    assert!(matches!(gateway.reload(make()).await, Ok(Reloaded::Accepted { generation: 2, .. })));
    gate.release();
    // It asks again soon: what it dropped may have been newer.
    gateway.clock.advance(Duration::from_secs(2));
    gateway.becomes(&refreshes(NOWHERE, "unchanged"), 1.0).await;
    assert_eq!(gateway.metric("orbit_config_generation"), 2.0);
    assert_eq!(statuses(&gateway, &[("A", "one"), ("A", "late"), ("A", "two")]).await, [401, 401, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_waits_no_longer_than_its_patience_for_what_it_can_do_without() {
    let aws = Axon::start();
    aws.answer(value(&list(&[("A", "one")])));
    let axon = Axon::start();
    let make = || setup(&axon, NOWHERE, &aws.url());
    let gateway = make().start().await;
    aws.answer(Reply::hang());
    let reloaded = within(gateway.reload(make().block("drain", "{ min: 0s, max: 9s }"))).await;
    assert!(matches!(reloaded, Ok(Reloaded::Accepted { generation: 2, .. })), "{reloaded:?}");
    assert_eq!(status(&gateway, "A", "one").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_cut_off() {
    let aws = Axon::start();
    let endless = format!("{{\"SecretString\":\"{}\"}}", "x".repeat(2 << 20));
    aws.answer(Reply::typed(200, "application/x-amz-json-1.1", endless));
    let refused = setup(&Axon::start(), NOWHERE, &aws.url()).try_start().await.err().expect("refused").to_string();
    assert!(refused.contains("length limit exceeded"), "{refused}");
    // AWS's own limit is the limit of a version.
    aws.answer(value(&format!("[\"{}\"]", "x".repeat(65_536))));
    let refused = setup(&Axon::start(), NOWHERE, &aws.url()).try_start().await.err().expect("refused").to_string();
    assert!(refused.contains("version AWSCURRENT is larger than 64KiB"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_of_its_own_orbit_says_where_it_looked() {
    let axon = Axon::start();
    let setup = Setup::new(&[axon.url()])
        .block("auth", format!("{{ keys: {{ secrets_manager: {{ arn: {NOWHERE:?}, endpoint: {:?} }} }} }}", axon.url()))
        .variable("AWS_REGION", "us-east-1");
    let refused = setup.try_start().await.err().expect("refused").to_string();
    assert!(
        refused.contains("no AWS credentials; tried environment (environment variable not set), profile ("),
        "{refused}"
    );
    assert!(refused.contains("give Orbit AWS credentials that may read the secret"), "{refused}");
    assert_eq!(axon.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_aws_is_both_versions_signed_for_the_region_of_the_arn() {
    let arn = NOWHERE.replace("us-east-1", "eu-central-1");
    let aws = Axon::start();
    let text = json!({ "ARN": arn, "SecretString": list(&[("A", "one")]) }).to_string();
    aws.answer(Reply::typed(200, "application/x-amz-json-1.1", text));
    let axon = Axon::start();
    let gateway = setup(&axon, &arn, &aws.url()).start().await;
    assert_eq!(status(&gateway, "A", "one").await, 200);
    let asked = aws.requests();
    let stages: Vec<_> = asked.iter().map(|request| request.json()["VersionStage"].clone()).collect();
    assert_eq!(stages, ["AWSCURRENT", "AWSPREVIOUS"]);
    for request in asked {
        assert_eq!(request.header("x-amz-target"), Some("secretsmanager.GetSecretValue"));
        assert_eq!(request.json()["SecretId"], arn.as_str());
        let authorization = request.header("authorization").expect("signed");
        assert!(
            authorization.contains("Credential=ORBITSOWN/20261122/eu-central-1/secretsmanager/"),
            "{authorization}"
        );
    }
}

// When a key was last used

/// The last use of a key in seconds after the tests' beginning; `None` if it has no series, 0 if it was never used.
fn last_used(gateway: &Gateway, id: &str, principal: &str, stage: &str) -> Option<u64> {
    let sample = format!(
        "orbit_key_last_used_timestamp_seconds{{access_key_id={id:?},principal={principal:?},stage={stage:?}}} "
    );
    let text = gateway.orbit.metrics_text();
    let told = text.lines().find_map(|line| line.strip_prefix(&sample))?;
    let at: u64 = told.parse().expect("whole seconds");
    Some(at.checked_sub(NOW).unwrap_or(at))
}

/// Sends one and waits until it is counted.
async fn used(gateway: &Gateway, id: &str, secret: &str, body: &str) -> u16 {
    let response = gateway.dispatch(body).send(gateway.addr(), &Signing::new(id, secret), gateway.now()).await;
    gateway.logged(&[&format!("REQUEST [{}]", response.header("x-correlation-id").expect("an id"))]).await;
    response.status
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_of_a_key_is_told_of_what_was_verified() {
    let axon = Axon::start();
    let keys = "- { access_key_id: A, secret_access_key: one, principal: alice }\n\
                - { access_key_id: B, secret_access_key: two, principal: bob }\n";
    let limits = "{ per_ip: disabled, global: { rate: 3/h }, governance: disabled }";
    let gateway = Setup::new(&[axon.url()]).file("keys.yaml", keys).block("limits", limits).start().await;
    let of_a = || last_used(&gateway, "A", "alice", "current");
    assert_eq!((of_a(), last_used(&gateway, "B", "bob", "current")), (Some(0), Some(0)), "never used");
    // Allowed, denied, no dispatch at all, limited: the key was used. A wrong secret is no use.
    let steps = [
        ("one", BODY, 200, 1),
        ("wrong", BODY, 401, 1),
        ("one", r#"{"intent":"other"}"#, 403, 3),
        ("one", "[]", 400, 4),
        ("one", BODY, 429, 5),
        ("wrong", BODY, 401, 5),
    ];
    for (secret, body, status, last) in steps {
        gateway.clock.advance(Duration::from_secs(1));
        assert_eq!(used(&gateway, "A", secret, body).await, status);
        assert_eq!(of_a(), Some(last), "after {status}");
    }
    assert_eq!(last_used(&gateway, "B", "bob", "current"), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_follows_a_credential_through_its_rotation() {
    let (moto, secret) = moto_with(&list(&[("A", "one"), ("GOES", "g")])).await;
    let axon = Axon::start();
    let gateway = setup(&axon, &secret.arn, &moto.url()).start().await;
    let of = |id: &str, stage: &str| last_used(&gateway, id, &format!("owner of {id}"), stage);
    gateway.clock.advance(Duration::from_secs(1));
    assert_eq!(used(&gateway, "A", "one", BODY).await, 200);
    assert_eq!((of("A", "current"), of("GOES", "current"), of("A", "previous")), (Some(1), Some(0), None));

    secret.put(&list(&[("A", "two")])).await;
    gateway.clock.advance(MINUTE);
    gateway.becomes("orbit_config_generation", 2.0).await;
    assert_eq!((of("A", "current"), of("A", "previous")), (Some(0), Some(1)), "the old secret keeps its last use");
    assert_eq!((of("GOES", "current"), of("GOES", "previous")), (None, Some(0)));
    assert_eq!(used(&gateway, "A", "two", BODY).await, 200);
    gateway.clock.advance(Duration::from_secs(5));
    assert_eq!(used(&gateway, "A", "one", BODY).await, 200);
    assert_eq!((of("A", "current"), of("A", "previous")), (Some(61), Some(66)));

    secret.put(&list(&[("A", "two"), ("NEW", "n")])).await;
    gateway.clock.advance(MINUTE);
    gateway.becomes("orbit_config_generation", 3.0).await;
    assert_eq!(of("A", "current"), Some(61), "the same credential");
    assert_eq!((of("A", "previous"), of("GOES", "previous"), of("NEW", "current")), (None, None, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_keys_are_bounded() {
    let axon = Axon::start();
    let key = |n: usize| format!("- {{ access_key_id: K{n}, secret_access_key: s, principal: p }}\n");
    let keys: String = (0..KEY_SERIES_MAX + 3).map(key).collect();
    let gateway = Setup::new(&[axon.url()]).file("keys.yaml", &keys).start().await;
    let series = || {
        let text = gateway.orbit.metrics_text();
        text.lines().filter(|line| line.starts_with("orbit_key_last_used_timestamp_seconds{")).count()
    };
    assert_eq!(series(), KEY_SERIES_MAX + 1);
    let others = || last_used(&gateway, OTHER_KEYS, OTHER_KEYS, OTHER_KEYS);
    assert_eq!(others(), Some(0));
    for (n, last) in [(0, 0), (KEY_SERIES_MAX, 20), (KEY_SERIES_MAX + 2, 30)] {
        gateway.clock.advance(Duration::from_secs(10));
        assert_eq!(used(&gateway, &format!("K{n}"), "s", BODY).await, 200);
        assert_eq!(others(), Some(last));
    }
    assert_eq!(last_used(&gateway, "K0", "p", "current"), Some(10));
}

// The command line

#[tokio::test(flavor = "multi_thread")]
async fn check_fetches_as_boot_does() {
    let (moto, secret) = moto_with(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let check = async |setup: Setup, more: &[&str]| {
        let directory = written(&setup);
        let config = directory.path().join("orbit.yaml");
        let mut command = orbit(["check", "-c", config.to_str().expect("UTF-8")].iter().chain(more));
        command.env("AWS_ACCESS_KEY_ID", "ORBITSOWN").env("AWS_SECRET_ACCESS_KEY", "own");
        run(command).await
    };
    let good = check(setup(&axon, &secret.arn, &moto.url()), &["--show"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stdout.contains("# key A of \"owner of A\"") && good.stdout.contains(&secret.arn), "{good:?}");
    let missing = check(setup(&axon, NOWHERE, &moto.url()), &[]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("no such secret") && missing.stderr.contains("help: check the ARN"), "{missing:?}");
    // What is wrong with the files is said without asking anybody.
    let broken = check(setup(&axon, NOWHERE, "http://127.0.0.1:1").block("nonsense", "1"), &[]).await;
    assert!(broken.stderr.contains("unknown key `nonsense`") && broken.stderr.contains("1 problem\n"), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_program_follows_a_secret_and_says_so() {
    let (moto, secret) = moto_with(&list(&[("A", "one")])).await;
    let axon = Axon::start();
    let source = format!("{{ secrets_manager: {{ arn: {:?}, refresh: 1s, endpoint: {:?} }} }}", secret.arn, moto.url());
    let directory = written(&setup_with(&axon, &source));
    let config = directory.path().join("orbit.yaml");
    let mut command = orbit(["run", "-c", config.to_str().expect("UTF-8")]);
    command.env("AWS_ACCESS_KEY_ID", "ORBITSOWN").env("AWS_SECRET_ACCESS_KEY", "own");
    let mut process = Process::start(command);
    process.listening().await;
    secret.put(&list(&[("A", "two-hunter2")])).await;
    process.printed(&[&secret.arn, "a new version, generation 2 is in force"]).await;
    secret.put("[{\"access_key_id\":\"hunter2\"}]").await;
    process.printed(&["[ERROR]", "the new version is refused, the old configuration goes on"]).await;
    process.printed(&["[ERROR]", &format!("{}:1:2: `secret_access_key` is missing", secret.arn)]).await;
    process.signal("TERM");
    let exit = process.exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!format!("{exit:?}").contains("hunter2"), "{exit:?}");
}

// Files

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_file_becomes_valid_and_lapses_with_the_clock() {
    let axon = Axon::start();
    let keys = "- { access_key_id: OLD, secret_access_key: old, principal: p, not_after: 2026-11-22T10:00:00Z }\n\
                - { access_key_id: NEW, secret_access_key: new, principal: p, not_before: 2026-11-22T09:58:00Z }\n";
    let gateway = Setup::new(&[axon.url()]).file("keys.yaml", keys).start().await;
    let keys = [("OLD", "old"), ("NEW", "new")];
    // 09:56:51, 09:57:59, 09:58:00, 10:00:00, 10:00:01
    for (advance, expected) in [(0, [200, 401]), (68, [200, 401]), (1, [200, 200]), (120, [200, 200]), (1, [401, 200])]
    {
        gateway.clock.advance(Duration::from_secs(advance));
        assert_eq!(statuses(&gateway, &keys).await, expected);
    }
    assert_eq!(gateway.metric("orbit_config_generation"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_disabled_by_a_reload_ends_no_request_that_runs() {
    let axon = Axon::start();
    let file = |disabled: bool| {
        Setup::new(&[axon.url()]).file(
            "keys.yaml",
            &format!(
                "- {{ access_key_id: A, secret_access_key: one, principal: p, disabled: {disabled} }}\n\
             - {{ access_key_id: B, secret_access_key: two, principal: p }}\n"
            ),
        )
    };
    let gateway = file(false).start().await;
    let gate = axon.hold();
    let message = gateway.dispatch(BODY).sign(&Signing::new("A", "one"), gateway.now());
    let addr = gateway.addr();
    let running = tokio::spawn(async move { message.send(addr).await });
    axon.received(1).await;
    assert!(matches!(gateway.reload(file(true)).await, Ok(Reloaded::Accepted { generation: 2, .. })));
    gate.release();
    contract(&running.await.expect("an answer"), Kind::Success);
    assert_eq!(statuses(&gateway, &[("A", "one"), ("B", "two")]).await, [401, 200]);
    assert!(matches!(gateway.reload(file(false)).await, Ok(Reloaded::Accepted { generation: 3, .. })));
    assert_eq!(statuses(&gateway, &[("A", "one"), ("B", "two")]).await, [200, 200]);
}
