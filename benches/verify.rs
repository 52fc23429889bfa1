//! What verification costs, accepted and refused.
//!
//! The first two cases are the shape of perf.md's reference figures: 13 headers, 4 of them signed, two
//! query pairs, signing key cached. Refusals matter as much: strangers send those.

#![allow(clippy::expect_used, reason = "a bench that cannot set its scene must stop")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orbit::auth::replay::{Mark, Replays};
use orbit::auth::{KeyEntry, Keyring, Rules, Signer, claim};
use orbit::clock::{Clock, ManualClock, Moment};
use orbit::request::Head;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

struct Scene {
    head: Head,
    body: Vec<u8>,
    rules: Rules,
    keyring: Keyring,
    now: Moment,
}

impl Scene {
    /// A signed request with `signed` headers beside those that the signer adds; `declare` keeps the
    /// body's hash in the head.
    fn new(target: &str, signed: &[(&str, &str)], body: Vec<u8>, declare: bool) -> Self {
        let now = ManualClock::at(1_705_314_600).now();
        let signer = Signer::new(ID, &SECRET.into(), None, "us-east-1", "execute-api");
        let added = signer.sign("POST", "orbit.example", target, signed, &body, now).expect("signable");
        let mut head = format!("POST {target} HTTP/1.1\r\nHost: orbit.example\r\n");
        for (name, value) in UNSIGNED.iter().chain(signed) {
            head += &format!("{name}: {value}\r\n");
        }
        for (name, value) in &added {
            head += &format!("{name}: {value}\r\n");
        }
        let mut scene = Self {
            head: parse(head),
            body,
            rules: Rules {
                regions: vec!["us-east-1".into()],
                services: vec!["execute-api".into()],
                clock_skew: Duration::from_secs(300),
                presigned: Some(Duration::from_secs(300)),
                unsigned_payload: false,
            },
            keyring: keyring(),
            now,
        };
        if !declare {
            scene.head = undeclared(target, signed, &scene.body);
        }
        scene
    }

    fn verify(&self) -> bool {
        let claim = claim(black_box(&self.head), &self.rules, &self.keyring, self.now);
        claim.and_then(|claim| claim.identify(black_box(&self.body))).is_ok()
    }
}

/// What a browser, a balancer and an HTTP library add and nobody signs.
const UNSIGNED: [(&str, &str); 8] = [
    ("User-Agent", "python-requests/2.32.3"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept", "*/*"),
    ("Connection", "keep-alive"),
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"),
    ("Content-Length", "200"),
];

/// The same request signed as most clients of execute-api do: without `x-amz-content-sha256`.
fn undeclared(target: &str, signed: &[(&str, &str)], body: &[u8]) -> Head {
    signed_by_aws(target, signed, body, SigningSettings::default())
}

/// The same request with its signature in the query.
fn presigned(target: &str, signed: &[(&str, &str)], body: &[u8]) -> Head {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(Duration::from_secs(60));
    signed_by_aws(target, signed, body, settings)
}

fn signed_by_aws(target: &str, signed: &[(&str, &str)], body: &[u8], settings: SigningSettings) -> Head {
    let identity = aws_credential_types::Credentials::new(ID, SECRET, None, None, "bench").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("execute-api")
        .time(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_314_600))
        .settings(settings)
        .build()
        .expect("all set")
        .into();
    let uri = format!("http://orbit.example{target}");
    let request = SignableRequest::new("POST", uri, signed.iter().copied(), SignableBody::Bytes(body));
    let (instructions, _) = sign(request.expect("signable"), &params).expect("signed").into_parts();
    let mut target = target.to_owned();
    for (name, value) in instructions.params() {
        let glue = if target.contains('?') { '&' } else { '?' };
        target += &format!("{glue}{name}={}", value.replace('/', "%2F").replace(';', "%3B"));
    }
    let mut head = format!("POST {target} HTTP/1.1\r\nHost: orbit.example\r\n");
    for (name, value) in UNSIGNED.iter().chain(signed).copied().chain(instructions.headers()) {
        head += &format!("{name}: {value}\r\n");
    }
    parse(head)
}

fn parse(head: String) -> Head {
    Head::parse(Bytes::from(head + "\r\n")).expect("a head")
}

fn keyring() -> Keyring {
    let entry = |n: usize| KeyEntry {
        access_key_id: if n == 0 { ID.into() } else { format!("AKID{n}") },
        secret_access_key: SECRET.into(),
        session_token: None,
        principal: "team".into(),
        not_before: None,
        not_after: None,
        disabled: false,
    };
    Keyring::from_entries((0..100).map(entry).collect()).expect("valid keys")
}

fn accepted(c: &mut Criterion) {
    let signed = [("Content-Type", "application/json"), ("X-Correlation-ID", "abc123-def456")];
    let target = "/dispatch?stage=prod&trace=1";
    let many: Vec<_> = (0..98).map(|n| (format!("x-header-{n:02}"), format!("value {n}"))).collect();
    let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let pairs: Vec<_> = (0..280).map(|n| format!("parameter{:03}=a%20value%2F{n:03}", (n * 11) % 280)).collect();
    let long = format!("/dispatch?{}", pairs.join("&"));
    assert!((7_900..=8_192).contains(&long.len()), "{}", long.len());
    // Query authentication takes 300 bytes of it.
    let shorter = format!("/dispatch?{}", pairs.get(..265).unwrap_or_default().join("&"));

    let mut group = c.benchmark_group("verify");
    for (name, target, signed, body, declare) in [
        ("body_200", target, &signed[..], 200, false),
        ("body_200_declared", target, &signed[..], 200, true),
        ("body_64k", target, &signed[..], 65_536, false),
        ("query_8k", &long, &signed[..], 200, false),
        ("signed_headers_100", target, &many[..], 200, false),
    ] {
        let scene = Scene::new(target, signed, vec![b'a'; body], declare);
        assert!(scene.verify(), "{name}");
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| b.iter(|| scene.verify()));
    }
    for (name, target) in [("presigned_body_200", target), ("presigned_query_8k", &shorter)] {
        let mut scene = Scene::new(target, &signed, vec![b'a'; 200], false);
        scene.head = presigned(target, &signed, &scene.body);
        assert!(scene.verify(), "{name}");
        group.bench_function(name, |b| b.iter(|| scene.verify()));
    }
    let mut cold = Scene::new(target, &signed, vec![b'a'; 200], false);
    group.bench_function("body_200_cold_key", |b| {
        b.iter_batched_ref(
            keyring,
            |keyring| {
                std::mem::swap(&mut cold.keyring, keyring);
                assert!(cold.verify());
            },
            criterion::BatchSize::SmallInput,
        )
    });
    group.finish();
}

fn refused(c: &mut Criterion) {
    let signed = [("Content-Type", "application/json"), ("X-Correlation-ID", "abc123-def456")];
    let scene = Scene::new("/dispatch", &signed, vec![b'a'; 200], false);
    let head = |from: &str, to: &str| rewritten(&scene.head, from, to);
    let mut group = c.benchmark_group("refuse");
    for (name, head) in [
        ("malformed", head("SignedHeaders=", "signedheaders=")),
        ("unknown_key", head(ID, "AKIDUNKNOWN")),
        ("expired", head("20240115T103000Z", "20240115T003000Z")),
        ("bearer", head("AWS4-HMAC-SHA256", "Bearer")),
        ("wrong_signature", scene.head.clone()),
        ("presigned_in_part", parse("POST /dispatch?X-Amz-Credential=a HTTP/1.1\r\nHost: a\r\n".to_owned())),
        ("presigned_unknown_key", rewritten(&presigned("/dispatch", &signed, &scene.body), ID, "AKIDUNKNOWN")),
        // The most that someone who knows a key id can ask for: every form, over a long query.
        ("wrong_signature_in_all_forms", {
            let pairs: Vec<_> =
                (0..280).map(|n| format!("{}=%7c%3a{n:03}", if n % 2 == 0 { "1:" } else { "a" })).collect();
            let target = format!("/a//.?{}", pairs.join("&"));
            let fields = [("X-Tabs", "a  b\t c"), ("Host", "orbit.example:443")];
            let mut text = format!("POST {target} HTTP/1.1\r\n");
            let list = "host;x-tabs";
            let authorization = format!(
                "AWS4-HMAC-SHA256 Credential={ID}/20240115/us-east-1/execute-api/aws4_request, SignedHeaders={list}, \
                 Signature={}",
                "0".repeat(64)
            );
            for (name, value) in fields.into_iter().chain([("Authorization", &*authorization)]) {
                text += &format!("{name}: {value}\r\n");
            }
            parse(text + "Date: 20240115T103000Z\r\n")
        }),
    ] {
        let mut scene = Scene { head, ..Scene::new("/dispatch", &signed, vec![b'a'; 200], false) };
        if name == "wrong_signature" {
            scene.body.push(b'b');
        }
        assert!(!scene.verify(), "{name}");
        group.bench_function(name, |b| b.iter(|| scene.verify()));
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let table = Arc::new(Replays::new(7));
    let mut signatures = 0_u64;
    let mut next = || {
        signatures += 1;
        // Spread as signatures are, by the multiplier of SplitMix64.
        let half = u128::from(signatures.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(signatures);
        let text = format!("{half:032x}{half:032x}");
        Mark::new(text.as_bytes().try_into().expect("64 digits"), 1_705_314_600, 1_705_314_900, 300)
    };
    let now = ManualClock::at(1_705_314_600).now();
    for _ in 0..1_000_000 {
        table.reserve(&next(), now).map(|mut reservation| reservation.use_up()).ok();
    }
    let mark = next();
    let mut group = c.benchmark_group("replay");
    group.bench_function("reserve_and_give_back_of_1M", |b| b.iter(|| table.reserve(black_box(&mark), now).is_ok()));
    table.reserve(&mark, now).map(|mut reservation| reservation.use_up()).expect("new");
    group.bench_function("replayed_of_1M", |b| b.iter(|| table.reserve(black_box(&mark), now).is_err()));
    group.finish();
}

/// What a request costs that is twice and four times as large: twice and four times as much at most. Printed
/// as ratios, because nanoseconds of a shared machine say little.
fn growth(_: &mut Criterion) {
    let signed = [("Content-Type", "application/json"), ("X-Correlation-ID", "abc123-def456")];
    let query = |pairs: usize| {
        let pairs: Vec<_> = (0..pairs).map(|n| format!("parameter{n:03}=a%20value%2F{n:03}")).rev().collect();
        format!("/dispatch?{}", pairs.join("&"))
    };
    let scene = |target: &str| Scene::new(target, &signed, vec![b'a'; 200], false);
    let by_query = |n: usize| scene(&query(66 * n));
    let by_presigned_query = |n: usize| {
        let target = query(60 * n);
        Scene { head: presigned(&target, &signed, &[b'a'; 200]), ..scene(&target) }
    };
    let by_a_stranger = |n: usize| {
        let known = by_query(n);
        Scene { head: rewritten(&known.head, ID, "AKIDUNKNOWN"), ..known }
    };
    // Every form has to be tried before the signature is known to be wrong.
    let in_all_forms = |n: usize| {
        let odd = scene(&format!("/a/./b/.?{}", ["%7c=+", "1=%41"].repeat(165 * n).join("&")));
        let head = rewritten(&odd.head, "orbit.example", "orbit.example:443");
        Scene { head: rewritten(&head, "abc123-def456", "abc123  \tdef456"), ..odd }
    };
    let by_headers = |n: usize| {
        let many: Vec<_> = (0..25 * n - 2).map(|n| (format!("x-header-{n:02}"), format!("value {n}"))).collect();
        let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Scene::new("/dispatch", &many, vec![b'a'; 200], false)
    };
    let by_a_header = |n: usize| {
        let value = "a  b".repeat(512 * n);
        Scene::new("/dispatch", &[("x-header", &value)], vec![b'a'; 200], false)
    };
    let by_body = |n: usize| Scene::new("/dispatch", &signed, vec![b'a'; n << 16], false);
    type Case<'a> = (&'a str, bool, &'a dyn Fn(usize) -> Scene);
    let cases: [Case<'_>; 7] = [
        ("query of 2, 4, 8 KiB", true, &by_query),
        ("presigned, query of 2, 4, 8 KiB", true, &by_presigned_query),
        ("unknown key, query of 2, 4, 8 KiB", false, &by_a_stranger),
        ("wrong signature, query of 2, 4, 8 KiB in 24 forms", false, &in_all_forms),
        ("25, 50, 100 signed headers", true, &by_headers),
        ("a signed header of 2, 4, 8 KiB", true, &by_a_header),
        ("body of 64, 128, 256 KiB", true, &by_body),
    ];
    println!("{:<52}{:>10}{:>8}{:>8}", "growth", "once", "twice", "4 times");
    for (name, accepted, grown) in cases {
        let [once, twice, four] = [1, 2, 4].map(|n| {
            let scene = grown(n);
            assert_eq!(scene.verify(), accepted, "{name}");
            fastest(|| scene.verify())
        });
        let times = |time: Duration| format!("×{:.2}", time.as_secs_f64() / once.as_secs_f64());
        println!("{name:<52}{:>8.1}µs{:>8}{:>8}", once.as_secs_f64() * 1e6, times(twice), times(four));
    }
}

/// The same head with one text in place of another, wherever it stands.
fn rewritten(head: &Head, from: &str, to: &str) -> Head {
    let mut text = format!("{} {} HTTP/1.1\r\n", head.method(), head.target());
    for (name, value) in head.fields() {
        text += &format!("{}: {}\r\n", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
    }
    assert!(text.contains(from), "{from}");
    parse(text.replace(from, to))
}

/// The least time of many: what else the machine does can only add to it.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn fastest(mut work: impl FnMut() -> bool) -> Duration {
    const REPEATS: u32 = 20;
    let mut batch = || {
        let start = std::time::Instant::now();
        for _ in 0..REPEATS {
            black_box(work());
        }
        start.elapsed() / REPEATS
    };
    (0..300).map(|_| batch()).min().unwrap_or_default()
}

criterion_group!(benches, accepted, refused, growth, replay);
criterion_main!(benches);
