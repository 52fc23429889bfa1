//! What governance costs per request: reading the dispatch, reading its context, deciding.

#![allow(clippy::expect_used, reason = "a benchmark of broken input should stop")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orbit::governance::{Condition, Context, Operator, Policies, Policy, RateLimits};
use orbit::request::dispatch::Dispatch;
use serde_json::json;

/// Seven members, 137 bytes; the policies below look at three of them.
const CONTEXT: &str = concat!(
    r#"{"user_id":"user123","request_id":"req456","user_type":"premium","risk":0.25,"#,
    r#""scopes":["read","reason"],"region":"eu-west-1","attempt":1}"#,
);

/// Policies whose every condition holds for [`CONTEXT`], so that a decision does all of its work.
fn policies(count: usize) -> Policies {
    let condition = |field: &str, operator, value| Condition {
        field: field.into(),
        operator,
        value,
        description: Some(format!("{field} is right")),
    };
    let policy = |n| Policy {
        service: "orbit".into(),
        intent: format!("intent_{n}"),
        enabled: true,
        description: None,
        allowed_hours: Some((0..24).collect()),
        rate_limits: Some(RateLimits { requests_per_minute: Some(100), requests_per_hour: None }),
        conditions: vec![
            condition("user_type", Operator::Equals, json!("premium")),
            condition("risk", Operator::LessThan, json!(0.5)),
            condition("scopes", Operator::Contains, json!("reason")),
        ],
    };
    Policies::compile((0..count).map(policy).collect()).expect("valid policies")
}

fn decide(c: &mut Criterion) {
    let context = Context::parse(Some(serde_json::from_str(CONTEXT).expect("JSON"))).expect("valid context");
    for count in [1, 100, 1000] {
        let policies = policies(count);
        let intent = format!("intent_{}", count - 1);
        c.bench_with_input(BenchmarkId::new("decide", count), &intent, |b, intent| {
            b.iter(|| {
                let decision = policies.decide("orbit", black_box(intent), black_box(&context), 9, |_, _| true);
                assert!(decision.allowed());
            });
        });
    }
    let policies = policies(1000);
    c.bench_function("decide/unknown_intent", |b| {
        b.iter(|| policies.decide("orbit", black_box("nothing"), black_box(&context), 9, |_, _| true).allowed());
    });
}

fn parse(c: &mut Criterion) {
    let body = format!(r#"{{"intent":"intent_999","context":{CONTEXT}}}"#);
    c.bench_function("parse/dispatch", |b| {
        b.iter(|| Dispatch::parse(black_box(body.as_bytes())).map(|d| d.intent.len()))
    });

    let raw = serde_json::from_str(CONTEXT).expect("JSON");
    c.bench_function("parse/context", |b| b.iter(|| Context::parse(Some(black_box(raw))).map(|c| c.len())));

    let policies = policies(1000);
    c.bench_function("parse/all_and_decide_1000", |b| {
        b.iter(|| {
            let dispatch = Dispatch::parse(black_box(body.as_bytes())).expect("valid body");
            let context = Context::parse(dispatch.context).expect("valid context");
            assert!(policies.decide("orbit", &dispatch.intent, &context, 9, |_, _| true).allowed());
        });
    });
}

/// The bodies that cost most for their size must stay linear.
fn worst(c: &mut Criterion) {
    let mebi = 1 << 20;
    let members: String = (0..mebi / 12).map(|n| format!("\"m{n:07}\":1,")).collect();
    let mut group = c.benchmark_group("worst_1MiB");
    group.sample_size(10);
    for (name, context) in [
        ("one_string", format!("{{\"a\":\"{}\"}}", "[".repeat(mebi))),
        ("members", format!("{{{members}\"x\":1}}")),
        ("nested_members", format!("{{\"a\":{{{members}\"x\":1}}}}")),
        ("list", format!("{{\"a\":[{}1]}}", "1,".repeat(mebi / 2))),
        ("one_number", format!("{{\"a\":0.{}}}", "7".repeat(mebi))),
        ("escapes", format!("{{\"a\":\"{}\"}}", "\\u00e9".repeat(mebi / 6))),
    ] {
        let body = format!(r#"{{"intent":"a","context":{context}}}"#);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let dispatch = Dispatch::parse(black_box(body.as_bytes())).expect("valid body");
                Context::parse(dispatch.context).expect("valid context").len()
            });
        });
    }
}

criterion_group!(benches, decide, parse, worst);
criterion_main!(benches);
