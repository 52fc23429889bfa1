//! What requests to Axon are signed with, from each source of AWS's standard chain, and what becomes of them when
//! it fails.

use std::path::Path;
use std::time::Duration;

use orbit::gateway::{Refused, Reloaded};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::axon::{Axon, Recorded, Reply};
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Signed, get};
use crate::harness::gateway::{BODY, Gateway, Setup, signing};
use crate::harness::moto::Moto;
use crate::harness::process::{Process, chmod, orbit, real_now, run, written};

const TOKEN: &str = "a/session+token==";

/// In front of `axon`, signing with the standard chain.
fn setup(axon: &Axon) -> Setup {
    Setup::new(&[]).upstream(&[axon.url()], "sign: { credentials: default }")
}

/// What a container's or an instance's endpoint answers: credentials that expire at this time.
fn temporary(id: &str, secret: &str, expires: &str) -> Reply {
    let body = json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-11-22T09:00:00Z",
        "AccessKeyId": id, "SecretAccessKey": secret, "Token": TOKEN, "Expiration": expires,
    });
    Reply::json(200, body.to_string())
}

/// A directory of files as the AWS tools know them.
struct Home(TempDir);

impl Home {
    fn new(files: &[(&str, &str)]) -> Self {
        let home = Home(tempfile::tempdir().expect("a directory"));
        for (name, text) in files {
            std::fs::write(home.path(name), text).expect("a file");
        }
        home
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// The setup that finds these files.
    fn of(&self, setup: Setup) -> Setup {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        setup
            .variable("AWS_CONFIG_FILE", &text(&self.path("config")))
            .variable("AWS_SHARED_CREDENTIALS_FILE", &text(&self.path("credentials")))
    }
}

async fn succeeds(gateway: &Gateway) {
    contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Success);
}

/// Sends one that Axon must see signed by this key.
async fn is_signed_by(gateway: &Gateway, axon: &Axon, id: &str, secret: &str, token: Option<&str>) {
    succeeds(gateway).await;
    let seen = axon.requests().pop().expect("a request");
    assert_eq!(seen.access_key(), Some(id));
    assert_eq!(seen.verify_signature(secret, "us-east-1", "execute-api"), Ok(()));
    assert_eq!(seen.header("x-amz-security-token"), token);
}

fn refreshes(result: &str) -> String {
    format!("orbit_signing_credentials_refreshes_total{{result={result:?},upstream=\"axon\"}}")
}

const EXPIRY: &str = "orbit_signing_credentials_expiry_timestamp_seconds{upstream=\"axon\"}";

// The sources

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_gives_credentials() {
    let home = Home::new(&[
        ("config", "[profile orbit]\nregion = eu-west-1\n"),
        ("credentials", "[orbit]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = of-the-profile\n"),
    ]);
    let axon = Axon::start();
    let gateway = home.of(setup(&axon)).variable("AWS_PROFILE", "orbit").start().await;
    is_signed_by(&gateway, &axon, "AKIDPROFILE", "of-the-profile", None).await;
    assert!(!gateway.orbit.metrics_text().contains(EXPIRY), "credentials that last have no expiry");

    // They last, but somebody may rewrite the file.
    std::fs::write(home.path("credentials"), "[orbit]\naws_access_key_id = AKIDNEW\naws_secret_access_key = new\n")
        .expect("a file");
    gateway.clock.advance(Duration::from_secs(900));
    gateway.becomes(&refreshes("changed"), 2.0).await;
    is_signed_by(&gateway, &axon, "AKIDNEW", "new", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_may_assume_a_role_or_run_a_program() {
    let program = Home::new(&[(
        "give",
        "#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":\"AKIDPROGRAM\",\"SecretAccessKey\":\"of-the-program\"}'\n",
    )]);
    chmod(&program.path("give"), 0o700);
    let config = format!(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/orbit\nsource_profile = base\n\
         [profile base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = base\n\
         [profile program]\ncredential_process = {}\n",
        program.path("give").display()
    );
    let home = Home::new(&[("config", &config)]);
    let axon = Axon::start();
    let gateway = home.of(setup(&axon)).variable("AWS_PROFILE", "program").start().await;
    is_signed_by(&gateway, &axon, "AKIDPROGRAM", "of-the-program", None).await;

    let sts = Moto::shared().url();
    let gateway =
        home.of(setup(&axon)).variable("AWS_PROFILE", "role").variable("AWS_ENDPOINT_URL_STS", &sts).start().await;
    succeeds(&gateway).await;
    let seen = axon.requests().pop().expect("a request");
    assert!(seen.access_key().is_some_and(|id| id.starts_with("ASIA")), "{seen:?}");
    assert!(seen.header("x-amz-security-token").is_some());
    assert!(gateway.metric(EXPIRY) > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_is_exchanged_at_sts() {
    let home = Home::new(&[("token", "eyJhbGciOiJub25lIn0.e30.")]);
    let axon = Axon::start();
    let make = |sts: &str| {
        setup(&axon)
            .variable("AWS_WEB_IDENTITY_TOKEN_FILE", home.path("token").to_str().expect("UTF-8"))
            .variable("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/orbit")
            .variable("AWS_ROLE_SESSION_NAME", "orbit")
            .variable("AWS_ENDPOINT_URL_STS", sts)
    };
    let gateway = make(&Moto::shared().url()).start().await;
    succeeds(&gateway).await;
    let seen = axon.requests().pop().expect("a request");
    assert!(seen.access_key().is_some_and(|id| id.starts_with("ASIA")), "{seen:?}");
    assert!(seen.header("x-amz-security-token").is_some());

    // The same from a fake whose secret is known, so that the signature can be checked; and what it was asked.
    let sts = Axon::start();
    sts.answer(Reply::typed(200, "text/xml", format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>of-the-role</SecretAccessKey>\
         <SessionToken>{TOKEN}</SessionToken><Expiration>2026-11-22T10:56:51Z</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )));
    let gateway = make(&sts.url()).start().await;
    is_signed_by(&gateway, &axon, "ASIAWEB", "of-the-role", Some(TOKEN)).await;
    let asked = String::from_utf8(sts.request().body).expect("a form");
    assert!(
        asked.contains("WebIdentityToken=eyJhbGciOiJub25lIn0.e30.") && asked.contains("RoleSessionName=orbit"),
        "{asked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gives_credentials_to_who_has_its_token() {
    let container = Axon::start();
    container.answer(temporary("ASIATASK", "of-the-task", "2026-11-22T15:56:51Z"));
    let home = Home::new(&[("token", "Bearer of-the-file")]);
    let axon = Axon::start();
    let make = || {
        setup(&axon).variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/v2/credentials?a=b", container.url()))
    };
    let cases = [
        (
            make().variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer of-the-environment"),
            "Bearer of-the-environment",
        ),
        (
            make().variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", home.path("token").to_str().expect("UTF-8")),
            "Bearer of-the-file",
        ),
    ];
    for (setup, token) in cases {
        let gateway = setup.start().await;
        is_signed_by(&gateway, &axon, "ASIATASK", "of-the-task", Some(TOKEN)).await;
        let asked: Recorded = container.requests().pop().expect("a request");
        assert_eq!((asked.target.as_str(), asked.header("authorization")), ("/v2/credentials?a=b", Some(token)));
        assert_eq!(gateway.metric(EXPIRY), 1_795_363_011.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_gives_credentials_by_its_second_protocol() {
    let instance = Axon::start();
    instance.next([
        Reply::typed(200, "text/plain", "of-the-instance").header("x-aws-ec2-metadata-token-ttl-seconds", "21600"),
        Reply::typed(200, "text/plain", "orbit-role"),
        temporary("ASIAINSTANCE", "of-the-role", "2026-11-22T15:56:51Z"),
    ]);
    let axon = Axon::start();
    let gateway = setup(&axon)
        .variable("AWS_EC2_METADATA_DISABLED", "false")
        .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance.url())
        .start()
        .await;
    is_signed_by(&gateway, &axon, "ASIAINSTANCE", "of-the-role", Some(TOKEN)).await;
    let asked = instance.requests();
    let lines: Vec<_> = asked.iter().map(|asked| format!("{} {}", asked.method, asked.target)).collect();
    let role = "/latest/meta-data/iam/security-credentials/";
    assert_eq!(lines, ["PUT /latest/api/token".to_owned(), format!("GET {role}"), format!("GET {role}orbit-role")]);
    assert!(asked[1..].iter().all(|asked| asked.header("x-aws-ec2-metadata-token") == Some("of-the-instance")));
}

// Before and after they expire

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_replaced_in_the_background_before_they_expire() {
    let container = Axon::start();
    container
        .next([temporary("FIRST", "one", "2026-11-22T10:06:51Z"), temporary("SECOND", "two", "2026-11-22T10:16:51Z")]);
    let axon = Axon::start();
    let gateway = setup(&axon).variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url()).start().await;
    for _ in 0..3 {
        is_signed_by(&gateway, &axon, "FIRST", "one", Some(TOKEN)).await;
    }
    gateway.clock.advance(Duration::from_secs(269));
    is_signed_by(&gateway, &axon, "FIRST", "one", Some(TOKEN)).await;
    assert_eq!(container.requests().len(), 1, "no request waits for credentials");
    // Ten minutes of life: in the fifth.
    gateway.clock.advance(Duration::from_secs(31));
    gateway.becomes(&refreshes("changed"), 2.0).await;
    is_signed_by(&gateway, &axon, "SECOND", "two", Some(TOKEN)).await;
    assert_eq!(container.requests().len(), 2);
    assert_eq!(gateway.metric(EXPIRY), 1_795_342_611.0);
    assert_eq!(gateway.metric("orbit_config_generation"), 1.0, "the configuration is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_cannot_be_replaced_are_used_until_they_expire_and_then_nothing_is_sent() {
    let container = Axon::start();
    container.next([temporary("FIRST", "one", "2026-11-22T10:06:51Z")]);
    container.answer(Reply::new(404));
    let axon = Axon::start();
    let gateway = setup(&axon).variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url()).start().await;
    gateway.clock.advance(Duration::from_secs(300));
    gateway.becomes(&refreshes("failed"), 1.0).await;
    is_signed_by(&gateway, &axon, "FIRST", "one", Some(TOKEN)).await;
    gateway.clock.advance(Duration::from_secs(299));
    is_signed_by(&gateway, &axon, "FIRST", "one", Some(TOKEN)).await;
    let health = contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
    assert_eq!(health["checks"], json!(null));

    // The second in which they expire.
    let before = axon.requests().len();
    gateway.clock.advance(Duration::from_secs(1));
    let refused = contract(&gateway.send(gateway.dispatch(BODY)).await, Kind::Error("SERVICE_UNAVAILABLE"));
    assert_eq!(refused["details"]["issue"], "credentials_expired");
    let health = contract(&get(gateway.addr(), "/health").await, Kind::Unhealthy);
    assert_eq!(health["checks"], json!({ "axon": "signing credentials expired" }));
    assert_eq!(axon.requests().len(), before, "nothing is sent unsigned");

    // As soon as there are new ones, within a minute at most.
    container.answer(temporary("SECOND", "two", "2026-11-22T12:00:00Z"));
    gateway.clock.advance(Duration::from_secs(60));
    gateway.becomes(&refreshes("changed"), 2.0).await;
    is_signed_by(&gateway, &axon, "SECOND", "two", Some(TOKEN)).await;
    contract(&get(gateway.addr(), "/health").await, Kind::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_have_expired_already_are_no_replacement() {
    let container = Axon::start();
    container.next([temporary("FIRST", "one", "2026-11-22T10:06:51Z")]);
    container.answer(temporary("STALE", "old", "2026-11-22T09:00:00Z"));
    let axon = Axon::start();
    let gateway = setup(&axon).variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url()).start().await;
    gateway.clock.advance(Duration::from_secs(300));
    gateway.becomes(&refreshes("failed"), 1.0).await;
    is_signed_by(&gateway, &axon, "FIRST", "one", Some(TOKEN)).await;
}

// Starting and reloading

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_nothing_starts_and_every_source_is_named() {
    let axon = Axon::start();
    let refused = match setup(&axon).try_start().await {
        Err(Refused::Parts(lines)) => lines.join("\n"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("started without credentials"),
    };
    assert!(refused.contains("orbit.yaml:7:67: "), "{refused}");
    for source in [
        "no AWS credentials; tried environment (environment variable not set), profile (nothing is set up)",
        "web identity (",
        "container (ECS provider not configured)",
        "instance metadata (IMDS disabled by AWS_EC2_METADATA_DISABLED env var set to `true`)",
        "credentials: { keys: file }",
    ] {
        assert!(refused.contains(source), "{source} is not in {refused}");
    }

    // A source that is configured and fails ends the search.
    let container = Axon::start();
    container.answer(Reply::new(403));
    let failing = setup(&axon).variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url());
    let refused = failing.try_start().await.err().expect("refused").to_string();
    assert!(refused.contains("no AWS credentials: Non-success status from HTTP credential provider"), "{refused}");
    assert!(refused.contains("the order of sources is environment, profile, web identity"), "{refused}");

    let directory = written(&setup(&axon));
    let config = directory.path().join("orbit.yaml");
    let exit = run(orbit(["check", "-c", config.to_str().expect("UTF-8")])).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(
        exit.stderr.contains("error: ") && exit.stderr.contains("no AWS credentials; tried environment"),
        "{exit:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_asks_again_only_if_the_block_changed() {
    let container = Axon::start();
    container.answer(temporary("ASIATASK", "of-the-task", "2026-11-22T15:56:51Z"));
    let axon = Axon::start();
    let with = |sign: &str| {
        Setup::new(&[]).upstream(&[axon.url()], sign).variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url())
    };
    let block = "sign: { credentials: default }";
    let gateway = with(block).start().await;
    let accepted = async |setup: Setup| {
        let reloaded = gateway.reload(setup).await;
        assert!(matches!(reloaded, Ok(Reloaded::Accepted { .. })), "{reloaded:?}");
    };
    accepted(with(block).block("drain", "{ min: 0s, max: 9s }")).await;
    accepted(with(&format!("{block}, keepalive: 5"))).await;
    assert_eq!(container.requests().len(), 1);
    is_signed_by(&gateway, &axon, "ASIATASK", "of-the-task", Some(TOKEN)).await;
    accepted(with("sign: { credentials: default, region: eu-west-1 }")).await;
    assert_eq!(container.requests().len(), 2);
    accepted(with("sign: disabled")).await;
    assert!(!gateway.orbit.metrics_text().contains("orbit_signing_credentials"), "{}", gateway.orbit.metrics_text());

    // Nothing there to sign with refuses the reload, and changes nothing.
    container.answer(Reply::new(403));
    gateway.reload(with(block)).await.expect_err("no credentials");
    succeeds(&gateway).await;
    assert_eq!(axon.requests().pop().expect("a request").header("authorization"), None);
}

// The real program, with the process's own environment and the machine's clock

#[tokio::test(flavor = "multi_thread")]
async fn the_running_program_replaces_its_credentials_and_tells_only_their_name() {
    let expires =
        |seconds: u64| humantime::format_rfc3339_seconds(real_now() + Duration::from_secs(seconds)).to_string();
    let container = Axon::start();
    container.next([temporary("FIRST", "hunter2-one", &expires(5))]);
    container.answer(temporary("SECOND", "hunter2-two", &expires(3600)));
    let axon = Axon::start();
    let directory = written(&setup(&axon));
    let config = directory.path().join("orbit.yaml");
    let mut command = orbit(["run", "-c", config.to_str().expect("UTF-8")]);
    command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url());
    let mut process = Process::start(command);
    let addr = process.listening().await;
    process.printed(&["[INFO] axon: new signing credentials, SECOND"]).await;
    let dispatch = Signed::post(addr, "/dispatch", BODY);
    contract(&dispatch.send(addr, &signing(), real_now()).await, Kind::Success);
    let seen = axon.request();
    assert_eq!(seen.verify_signature("hunter2-two", "us-east-1", "execute-api"), Ok(()));
    process.signal("TERM");
    let exit = process.exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!format!("{exit:?}").contains("hunter2") && !format!("{exit:?}").contains(TOKEN), "{exit:?}");
}
