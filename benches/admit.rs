//! The whole way to admission, without a socket: ids, limits, signature, JSON, 100 policies.

#![allow(clippy::expect_used, reason = "a bench that cannot start has nothing to measure")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use orbit::axon::{CredentialsByUpstream, Meter};
use orbit::clock::{Clock, ManualClock, SystemClock};
use orbit::gate::Standing;
use orbit::pipeline::{Arrival, BodySource, Stop, admit};
use orbit::request::Head;
use orbit::request::correlation::{Ids, UuidV7};
use orbit::snapshot::settings::Settings;
use orbit::snapshot::{Ingredients, Snapshot};
use orbit::telemetry::Metrics;

const NOW: u64 = 1_795_341_411;
const BODY: &[u8] = br#"{"intent":"intent_50","context":{"user_id":"user123","request_id":"req456","user_type":"premium","region":"eu-west-1","score":17,"roles":["a","b"]}}"#;

/// A body that is already here.
struct Here(Bytes);

impl BodySource for Here {
    async fn body(&mut self, _: &Head, _: &Snapshot) -> Result<Bytes, Stop> {
        Ok(self.0.clone())
    }
}

fn snapshot() -> Arc<Snapshot> {
    let folder = tempfile::tempdir().expect("folder");
    let policy = |n: usize| {
        format!(
            r#"{{"service":"orbit","intent":"intent_{n}","enabled":true,"conditions":[
               {{"type":"context_check","field":"user_type","operator":"equals","value":"premium"}},
               {{"type":"context_check","field":"score","operator":"less_than","value":80}}]}}"#
        )
    };
    let policies = format!("[{}]", (0..100).map(policy).collect::<Vec<_>>().join(","));
    let files = [
        ("policies.json", policies),
        ("keys.yaml", "- { access_key_id: AKIDEXAMPLE, secret_access_key: secret, principal: p }\n".to_owned()),
        (
            "orbit.yaml",
            "version: 1\nauth: { keys: keys.yaml }\ngovernance: { policies: policies.json }\n\
             limits: { per_ip: { rate: 60000/s }, global: { rate: 4000000000/s }, governance: { rate: 4000000000/s } }\n\
             upstreams: { axon: { endpoints: [\"http://127.0.0.1:9000\"], sign: disabled } }\n"
                .to_owned(),
        ),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("file");
    }
    let loaded = Settings::load(&folder.path().join("orbit.yaml"), &BTreeMap::new()).expect("settings");
    let metrics: Arc<dyn Meter> = Arc::new(Metrics::new("bench").expect("metrics"));
    let (credentials, clock) = (&CredentialsByUpstream::new(), &SystemClock::shared());
    let ingredients = Ingredients { predecessor: None, credentials, meter: &metrics, clock, seed: 1 };
    Arc::new(Snapshot::build(loaded, &ingredients).expect("snapshot"))
}

/// The head that a client with AWS's signer sends.
fn head() -> Head {
    let identity = Credentials::new("AKIDEXAMPLE", "secret", None, None, "bench").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("execute-api")
        .time(std::time::UNIX_EPOCH + Duration::from_secs(NOW))
        .settings(SigningSettings::default())
        .build()
        .expect("params")
        .into();
    let headers = [("host", "orbit.example"), ("content-type", "application/json")];
    let url = "http://orbit.example/dispatch";
    let request = SignableRequest::new("POST", url, headers.into_iter(), SignableBody::Bytes(BODY)).expect("request");
    let (instructions, _) = sign(request, &params).expect("signed").into_parts();
    let mut raw = String::from("POST /dispatch HTTP/1.1\r\n");
    let signed: Vec<(&str, &str)> = instructions.headers().collect();
    let others = [
        ("user-agent", "bench/1.0"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("connection", "keep-alive"),
    ];
    for (name, value) in headers.into_iter().chain(signed).chain(others) {
        raw.push_str(&format!("{name}: {value}\r\n"));
    }
    raw.push_str(&format!("content-length: {}\r\n\r\n", BODY.len()));
    Head::parse(Bytes::from(raw)).expect("head")
}

fn bench(c: &mut Criterion) {
    let (snapshot, head, clock, system) = (snapshot(), head(), ManualClock::at(NOW), SystemClock::shared());
    let raw = {
        let mut raw = format!("{} {} HTTP/1.1\r\n", head.method(), head.target()).into_bytes();
        for (name, value) in head.fields() {
            raw.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
        }
        raw.extend_from_slice(b"\r\n");
        Bytes::from(raw)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut group = c.benchmark_group("admit");
    group.bench_function("head", |b| b.iter(|| Head::parse(raw.clone())));
    group.bench_function("clock", |b| b.iter(|| system.now()));
    group.bench_function("ids", |b| b.iter(|| Ids::of(Some(&head), &UuidV7, clock.now())));
    group.bench_function("whole", |b| {
        b.iter(|| {
            clock.advance(Duration::from_nanos(20_000));
            let began = clock.now();
            let head = Head::parse(raw.clone()).expect("head");
            let ids = Ids::of(Some(&head), &UuidV7, began);
            let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let arrival = Arrival { head, ids, peer, began, snapshot: snapshot.clone() };
            let mut standing = Standing::default();
            let mut body = Here(Bytes::from_static(BODY));
            let admitted = runtime.block_on(admit(&arrival, &mut body, &*clock, &mut standing, &mut None));
            assert!(admitted.is_ok());
        })
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
