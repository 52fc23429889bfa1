//! What may be done: the policy table through the real gateway, and what a dispatch must look like to be
//! judged at all.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::axon::Axon;
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Message, Response, get, within};
use crate::harness::gateway::{BODY, Gateway, Setup, signing};

const AUTHORIZED: &str = "Request authorized";
const OUTSIDE_HOURS: &str = "Request outside allowed time window";
const RATE: &str = "Rate limit exceeded";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A policy for `intent` that allows everything, with some members set otherwise.
fn policy(intent: &str, changes: Value) -> Value {
    let mut policy = json!({"service": "orbit", "intent": intent, "enabled": true, "description": null,
        "time_restrictions": null, "rate_limits": null, "conditions": []});
    for (name, value) in changes.as_object().expect("changes") {
        policy[name] = value.clone();
    }
    policy
}

fn condition(field: &str, operator: &str, value: Value) -> Value {
    json!({"type": "context_check", "field": field, "operator": operator, "value": value})
}

fn described(mut condition: Value, description: &str) -> Value {
    condition["description"] = description.into();
    condition
}

/// A gateway with these policies.
async fn governed(axon: &Axon, policies: Vec<Value>) -> Gateway {
    let policies = Value::Array(policies).to_string();
    Setup::new(&[axon.url()]).file("policies.json", &policies).start().await
}

/// The decision's reason, from an answer that is allowed or denied as the reason says.
#[track_caller]
fn reason(response: &Response) -> String {
    let allowed = response.status == 200;
    let answer = contract(response, if allowed { Kind::Success } else { Kind::Denied });
    let reason = answer["governance"]["reason"].as_str().expect("a reason").to_owned();
    assert_eq!(allowed, reason == AUTHORIZED, "{reason}");
    reason
}

/// Asks for `intent` with `context` as written, or without any.
async fn ask(gateway: &Gateway, intent: &str, context: Option<&str>) -> String {
    let context = context.map_or(String::new(), |context| format!(r#","context":{context}"#));
    reason(&gateway.send(gateway.dispatch(format!(r#"{{"intent":{}{context}}}"#, json!(intent)))).await)
}

/// Sends a body and expects `400` with these details, and that Axon hears nothing.
async fn refused(gateway: &Gateway, axon: &Axon, body: &[u8], field: &str, issue: &str) {
    let response = gateway.send(gateway.dispatch(body)).await;
    assert_invalid(&response, field, issue, &String::from_utf8_lossy(&body[..body.len().min(120)]));
    assert!(axon.requests().is_empty(), "a refused body reached Axon");
}

#[track_caller]
fn assert_invalid(response: &Response, field: &str, issue: &str, what: &str) {
    assert_eq!(response.status, 400, "{what}: {}", response.text());
    let answer = contract(response, Kind::Error("INVALID_REQUEST"));
    assert_eq!(answer["details"], json!({"field": field, "issue": issue}), "{what}");
}

// Reasons and their order

#[tokio::test(flavor = "multi_thread")]
async fn every_check_gives_exactly_its_reason() {
    let premium = condition("user_type", "equals", json!("premium"));
    let axon = Axon::start();
    let gateway = governed(
        &axon,
        vec![
            policy("open", json!({})),
            policy("disabled", json!({"enabled": false})),
            policy("other-hours", json!({"time_restrictions": {"allowed_hours": [8, 10]}})),
            policy("this-hour", json!({"time_restrictions": {"allowed_hours": [9]}})),
            policy("any-hour", json!({"time_restrictions": {"allowed_hours": null}})),
            policy("once", json!({"rate_limits": {"requests_per_minute": 1}})),
            policy("unlimited", json!({"rate_limits": {"requests_per_minute": null, "requests_per_hour": null}})),
            policy("described", json!({"conditions": [described(premium.clone(), "premium users only")]})),
            policy("undescribed", json!({"conditions": [premium]})),
            policy("theirs", json!({"service": "other"})),
        ],
    )
    .await;
    let (premium, basic) = (r#"{"user_type":"premium"}"#, r#"{"user_type":"basic"}"#);
    let table = [
        ("open", None, AUTHORIZED),
        ("open", Some(basic), AUTHORIZED),
        ("nothing", None, "No policy defined for orbit:nothing"),
        ("Open", None, "No policy defined for orbit:Open"),
        ("open ", None, "No policy defined for orbit:open "),
        ("theirs", None, "No policy defined for orbit:theirs"),
        ("d\"é", None, "No policy defined for orbit:d\"é"),
        ("disabled", None, "Policy is disabled"),
        ("other-hours", None, OUTSIDE_HOURS),
        ("this-hour", None, AUTHORIZED),
        ("any-hour", None, AUTHORIZED),
        ("once", None, AUTHORIZED),
        ("once", None, RATE),
        ("unlimited", None, AUTHORIZED),
        ("described", Some(premium), AUTHORIZED),
        ("described", Some(basic), "Condition not met: premium users only"),
        ("described", None, "Condition not met: premium users only"),
        ("described", Some("{}"), "Condition not met: premium users only"),
        ("undescribed", Some(basic), "Condition not met: Unknown"),
        ("undescribed", Some(premium), AUTHORIZED),
    ];
    for (row, (intent, context, expected)) in table.into_iter().enumerate() {
        assert_eq!(ask(&gateway, intent, context).await, expected, "row {row}: {intent}");
    }
    let allowed = table.iter().filter(|(_, _, reason)| *reason == AUTHORIZED).count();
    assert_eq!(axon.requests().len(), allowed, "what is denied never reaches Axon");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_several_checks_would_fail_the_first_of_the_contract_speaks() {
    let never = described(condition("x", "equals", json!(1)), "never");
    let late = json!({"allowed_hours": [23]});
    let once = json!({"requests_per_minute": 1});
    let everything = json!({"enabled": false, "time_restrictions": late, "rate_limits": once, "conditions": [never]});
    let all_but_enabled = json!({"time_restrictions": late, "rate_limits": once, "conditions": [never]});
    let rate_and_condition = json!({"rate_limits": once, "conditions": [never]});
    let axon = Axon::start();
    let gateway =
        governed(&axon, vec![policy("a", everything), policy("b", all_but_enabled), policy("c", rate_and_condition)])
            .await;
    for (intent, expected) in [
        ("a", "Policy is disabled"),
        ("a", "Policy is disabled"),
        ("b", OUTSIDE_HOURS),
        ("b", OUTSIDE_HOURS),
        // The rate is asked first, so what a condition denies has spent its share.
        ("c", "Condition not met: never"),
        ("c", RATE),
    ] {
        assert_eq!(ask(&gateway, intent, None).await, expected, "{intent}");
    }
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_checked_in_the_order_written() {
    let conditions = json!([
        described(condition("z", "equals", json!(1)), "first"),
        described(condition("a", "equals", json!(1)), "second"),
        described(condition("m", "equals", json!(1)), "third"),
    ]);
    let axon = Axon::start();
    let gateway = governed(&axon, vec![policy("x", json!({"conditions": conditions}))]).await;
    for (context, expected) in [
        ("{}", "Condition not met: first"),
        (r#"{"m":1,"a":1}"#, "Condition not met: first"),
        (r#"{"z":1}"#, "Condition not met: second"),
        (r#"{"a":1,"z":1}"#, "Condition not met: third"),
        (r#"{"m":1,"a":1,"z":1}"#, AUTHORIZED),
    ] {
        assert_eq!(ask(&gateway, "x", Some(context)).await, expected, "{context}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_on_governance_calls_speaks_before_any_policy() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()])
        .block("limits", "{ per_ip: disabled, global: disabled, governance: { rate: 2/min } }")
        .start()
        .await;
    let nothing = "No policy defined for orbit:nothing";
    // A denial is a call like any other; a 400 is none.
    refused(&gateway, &axon, b"{}", "intent", "required field missing").await;
    assert_eq!(ask(&gateway, "nothing", None).await, nothing);
    assert_eq!(ask(&gateway, "nothing", None).await, nothing);
    assert_eq!(ask(&gateway, "nothing", None).await, RATE);
    assert_eq!(ask(&gateway, "call_reasoning", None).await, RATE);
    refused(&gateway, &axon, b"{}", "intent", "required field missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_asked_under_orbits_own_name() {
    let axon = Axon::start();
    let policies = json!([policy("x", json!({"service": "gate-7"})), policy("y", json!({}))]).to_string();
    let gateway = Setup::new(&[axon.url()]).block("name", "gate-7").file("policies.json", &policies).start().await;
    assert_eq!(ask(&gateway, "x", None).await, AUTHORIZED);
    assert_eq!(ask(&gateway, "y", None).await, "No policy defined for gate-7:y");
}

// Hours

#[tokio::test(flavor = "multi_thread")]
async fn allowed_hours_are_hours_of_the_day_in_utc() {
    let axon = Axon::start();
    let hours = json!({"time_restrictions": {"allowed_hours": [0, 9, 10, 23]}});
    let gateway = governed(&axon, vec![policy("x", hours)]).await;
    // It is 09:56:51.
    for hour in (9..24).chain(0..10) {
        let expected = if [0, 9, 10, 23].contains(&hour) { AUTHORIZED } else { OUTSIDE_HOURS };
        assert_eq!(ask(&gateway, "x", None).await, expected, "in hour {hour}");
        gateway.clock.advance(HOUR);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_begins_and_ends_with_its_second() {
    let axon = Axon::start();
    let nine = json!({"time_restrictions": {"allowed_hours": [9]}});
    let ten = json!({"time_restrictions": {"allowed_hours": [10]}});
    let gateway = governed(&axon, vec![policy("nine", nine), policy("ten", ten)]).await;
    gateway.clock.advance(SECOND * 189 - Duration::from_nanos(1));
    assert_eq!(ask(&gateway, "nine", None).await, AUTHORIZED);
    assert_eq!(ask(&gateway, "ten", None).await, OUTSIDE_HOURS);
    gateway.clock.advance(Duration::from_nanos(1));
    assert_eq!(ask(&gateway, "nine", None).await, OUTSIDE_HOURS);
    assert_eq!(ask(&gateway, "ten", None).await, AUTHORIZED);
}

// A policy's rate limits

/// Asks for `x` so many seconds after the last time and compares the reasons.
async fn paced(gateway: &Gateway, steps: &[(u32, &str)]) {
    for (at, (wait, expected)) in steps.iter().enumerate() {
        gateway.clock.advance(SECOND * *wait);
        assert_eq!(ask(gateway, "x", None).await, *expected, "step {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_per_minute_slide() {
    let axon = Axon::start();
    let gateway = governed(&axon, vec![policy("x", json!({"rate_limits": {"requests_per_minute": 2}}))]).await;
    // 09:56:51: no reset at 09:57:00.
    let steps = [(0, AUTHORIZED), (5, AUTHORIZED), (4, RATE), (50, RATE), (1, AUTHORIZED), (0, RATE), (5, AUTHORIZED)];
    paced(&gateway, &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_per_hour_slide() {
    let axon = Axon::start();
    let gateway = governed(&axon, vec![policy("x", json!({"rate_limits": {"requests_per_hour": 2}}))]).await;
    let steps =
        [(0, AUTHORIZED), (60, AUTHORIZED), (600, RATE), (2939, RATE), (1, AUTHORIZED), (59, RATE), (1, AUTHORIZED)];
    paced(&gateway, &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hour_refuses_costs_the_minute_nothing() {
    let axon = Axon::start();
    let limits = json!({"rate_limits": {"requests_per_minute": 2, "requests_per_hour": 3}});
    let gateway = governed(&axon, vec![policy("x", limits)]).await;
    let steps = [
        (0, AUTHORIZED),
        (100, AUTHORIZED),
        (3490, AUTHORIZED), // 3590 s: the hour is full, the minute has one of two left.
        (5, RATE),
        (0, RATE),
        (0, RATE),
        (5, AUTHORIZED), // 3600 s: the hour has room again, and so must the minute.
        (0, RATE),
    ];
    paced(&gateway, &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_minute_refuses_costs_the_hour_nothing() {
    let axon = Axon::start();
    let limits = json!({"rate_limits": {"requests_per_minute": 1, "requests_per_hour": 3}});
    let gateway = governed(&axon, vec![policy("x", limits)]).await;
    let steps = [(0, AUTHORIZED), (0, RATE), (0, RATE), (0, RATE), (60, AUTHORIZED), (60, AUTHORIZED), (60, RATE)];
    paced(&gateway, &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_before_the_rate_costs_it_nothing() {
    let axon = Axon::start();
    let late = json!({"time_restrictions": {"allowed_hours": [10]}, "rate_limits": {"requests_per_hour": 1}});
    let gateway = governed(&axon, vec![policy("x", late)]).await;
    let steps = [(0, OUTSIDE_HOURS), (0, OUTSIDE_HOURS), (188, OUTSIDE_HOURS), (1, AUTHORIZED), (0, RATE)];
    paced(&gateway, &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_do_not_share_their_rates() {
    let axon = Axon::start();
    let once = json!({"rate_limits": {"requests_per_minute": 1}});
    let gateway = governed(&axon, vec![policy("a", once.clone()), policy("b", once)]).await;
    for (intent, expected) in [("a", AUTHORIZED), ("a", RATE), ("b", AUTHORIZED), ("b", RATE)] {
        assert_eq!(ask(&gateway, intent, None).await, expected, "{intent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_get_exactly_the_policys_rate() {
    let axon = Axon::start();
    let limits = json!({"rate_limits": {"requests_per_minute": 10, "requests_per_hour": 7}});
    let gateway = governed(&axon, vec![policy("call_reasoning", limits)]).await;
    let message = gateway.dispatch(BODY).sign(&signing(), gateway.now());
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (message, addr) = (message.clone(), gateway.addr());
        running.spawn(async move { message.send(addr).await });
    }
    let reasons: Vec<_> = running.join_all().await.iter().map(reason).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == AUTHORIZED).count(), 7);
    assert_eq!(reasons.iter().filter(|reason| *reason == RATE).count(), 25);
}

// Operators

#[tokio::test(flavor = "multi_thread")]
async fn operators_compare_as_the_contract_says() {
    let table = [
        // operator, the policy's value, the context, whether it holds
        ("equals", json!("premium"), r#"{"f":"premium"}"#, true),
        ("equals", json!("premium"), r#"{"f":"pr\u0065mium"}"#, true),
        ("equals", json!("premium"), r#"{"\u0066":"premium"}"#, true),
        ("equals", json!("premium"), r#"{"f":"Premium"}"#, false),
        ("equals", json!("premium"), r#"{"f":"premium "}"#, false),
        ("equals", json!("premium"), r#"{"F":"premium"}"#, false),
        ("equals", json!("premium"), r#"{"g":{"f":"premium"}}"#, false),
        ("equals", json!("premium"), r#"{"f":["premium"]}"#, false),
        ("equals", json!("premium"), r#"{"f":null}"#, false),
        ("equals", json!("premium"), "{}", false),
        ("equals", json!(1), r#"{"f":1}"#, true),
        ("equals", json!(1), r#"{"f":1.0}"#, true),
        ("equals", json!(1), r#"{"f":"1"}"#, false),
        ("equals", json!(1), r#"{"f":true}"#, false),
        ("equals", json!(9007199254740993_u64), r#"{"f":9007199254740993}"#, true),
        ("equals", json!(9007199254740993_u64), r#"{"f":9007199254740992}"#, false),
        ("equals", json!(true), r#"{"f":true}"#, true),
        ("equals", json!(true), r#"{"f":"true"}"#, false),
        ("equals", json!(true), r#"{"f":1}"#, false),
        ("equals", json!(null), r#"{"f":null}"#, true),
        ("equals", json!(["a", 1]), r#"{"f":["a",1]}"#, true),
        ("equals", json!(["a", 1]), r#"{"f":[1,"a"]}"#, false),
        ("equals", json!({"a": 1, "b": 2}), r#"{"f":{"b":2,"a":1}}"#, true),
        ("equals", json!({"a": 1}), r#"{"f":{"a":1,"b":2}}"#, false),
        ("not_equals", json!("banned"), r#"{"f":"member"}"#, true),
        ("not_equals", json!("banned"), r#"{"f":"banned"}"#, false),
        ("not_equals", json!("banned"), r#"{"f":"\u0062anned"}"#, false),
        ("not_equals", json!("banned"), r#"{"f":1}"#, true),
        ("not_equals", json!("banned"), "{}", true),
        ("not_equals", json!(1), r#"{"f":1.0}"#, false),
        ("contains", json!("admin"), r#"{"f":"an admin here"}"#, true),
        ("contains", json!("admin"), r#"{"f":"an ADMIN here"}"#, false),
        ("contains", json!("admin"), r#"{"f":["user","admin"]}"#, true),
        ("contains", json!("admin"), r#"{"f":["user","administrator"]}"#, false),
        ("contains", json!("admin"), r#"{"f":[["admin"]]}"#, false),
        ("contains", json!("admin"), r#"{"f":{"admin":"admin"}}"#, false),
        ("contains", json!("admin"), r#"{"f":[]}"#, false),
        ("contains", json!("admin"), "{}", false),
        ("contains", json!(2), r#"{"f":[1,2.0]}"#, true),
        ("contains", json!(2), r#"{"f":["2"]}"#, false),
        ("contains", json!(2), r#"{"f":"12"}"#, false),
        ("contains", json!(2), r#"{"f":2}"#, false),
        ("greater_than", json!(3), r#"{"f":3.5}"#, true),
        ("greater_than", json!(3), r#"{"f":3}"#, false),
        ("greater_than", json!(3), r#"{"f":-4}"#, false),
        ("greater_than", json!(3), r#"{"f":"4"}"#, false),
        ("greater_than", json!(3), r#"{"f":[4]}"#, false),
        ("greater_than", json!(3), r#"{"f":true}"#, false),
        ("greater_than", json!(3), r#"{"f":null}"#, false),
        ("greater_than", json!(3), "{}", false),
        ("greater_than", json!(-1), "{}", false),
        ("greater_than", json!(9007199254740992_u64), r#"{"f":9007199254740993}"#, true),
        ("greater_than", json!(0.1), r#"{"f":1e-1}"#, false),
        ("less_than", json!(3), r#"{"f":2.999}"#, true),
        ("less_than", json!(3), r#"{"f":-1e300}"#, true),
        ("less_than", json!(3), r#"{"f":3.0}"#, false),
        ("less_than", json!(3), r#"{"f":4}"#, false),
        ("less_than", json!(3), r#"{"f":"2"}"#, false),
        ("less_than", json!(3), r#"{"f":null}"#, false),
        ("less_than", json!(3), "{}", false),
    ];
    let policies = table.iter().enumerate().map(|(row, (operator, value, _, _))| {
        policy(&format!("row{row}"), json!({"conditions": [condition("f", operator, value.clone())]}))
    });
    let axon = Axon::start();
    let gateway = governed(&axon, policies.collect()).await;
    for (row, (operator, value, context, holds)) in table.iter().enumerate() {
        let expected = if *holds { AUTHORIZED } else { "Condition not met: Unknown" };
        let got = ask(&gateway, &format!("row{row}"), Some(context)).await;
        assert_eq!(got, expected, "{operator} {value} with {context}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_found_among_many() {
    let axon = Axon::start();
    let wanted = condition("m77", "equals", json!(77));
    let gateway = governed(&axon, vec![policy("x", json!({"conditions": [wanted]}))]).await;
    let members = |value: &str| {
        let members: Vec<_> = (0..200).map(|n| format!(r#""m{n}":{}"#, if n == 77 { value } else { "0" })).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(ask(&gateway, "x", Some(&members("77"))).await, AUTHORIZED);
    assert_eq!(ask(&gateway, "x", Some(&members("78"))).await, "Condition not met: Unknown");
}

// Bodies

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_object_is_refused() {
    let (object, utf8) = ("must be a JSON object", "must be UTF-8");
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let table: [(&[u8], &str); 22] = [
        (b"", object),
        (b"   \n", object),
        (b"nonsense", object),
        (b"null", object),
        (b"true", object),
        (b"7", object),
        (br#""call_reasoning""#, object),
        (br#"[{"intent":"call_reasoning"}]"#, object),
        (br#"{"intent":"call_reasoning""#, object),
        (br#"{"intent":"call_reasoning"}}"#, object),
        (br#"{"intent":"call_reasoning"} x"#, object),
        (br#"{"intent":"call_reasoning"}{"intent":"call_reasoning"}"#, object),
        (b"{\"intent\":\"call_reasoning\"}\0", object),
        (br#"{"intent":"call_reasoning",}"#, object),
        (br#"{'intent':'call_reasoning'}"#, object),
        (br#"{"intent":"call_reasoning"/* all */}"#, object),
        (br#"{"intent":"call_reasoning","n":01}"#, object),
        (br#"{"intent":"call_reasoning","n":NaN}"#, object),
        (b"{\"intent\":\"call\treasoning\"}", object),
        (b"\xef\xbb\xbf{\"intent\":\"call_reasoning\"}", object),
        (b"{\"intent\":\"call_reasoning\",\"x\":\"\xff\"}", utf8),
        (b"{\"intent\":\"call_reasoning\",\"context\":{\"\xc0\xaf\":1}}", utf8),
    ];
    for (body, issue) in table {
        refused(&gateway, &axon, body, "body", issue).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_without_any_body_is_refused() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let message = gateway.dispatch("").sign(&signing(), gateway.now());
    let response = message.edit("Content-Length: 0\r\n", "").send(gateway.addr()).await;
    assert_invalid(&response, "body", "must be a JSON object", "no Content-Length");
    assert!(axon.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_is_wrong_is_named() {
    let long = format!(r#"{{"intent":"{}"}}"#, "i".repeat(257));
    let (missing, empty) = ("required field missing", "must be a non-empty string");
    let (once, control) = ("must appear only once", "must not contain control characters");
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    for (body, issue) in [
        ("{}", missing),
        (r#"{"context":{}}"#, missing),
        (r#"{"Intent":"call_reasoning"}"#, "must be written in lower case"),
        (r#"{"context":{"intent":"call_reasoning"}}"#, missing),
        (r#"{"intent":""}"#, empty),
        (r#"{"intent":null}"#, empty),
        (r#"{"intent":7}"#, empty),
        (r#"{"intent":false}"#, empty),
        (r#"{"intent":["call_reasoning"]}"#, empty),
        (r#"{"intent":{"name":"call_reasoning"}}"#, empty),
        (r#"{"intent":"call_reasoning","intent":"call_reasoning"}"#, once),
        (r#"{"intent":"call_reasoning","int\u0065nt":"other"}"#, once),
        (r#"{"intent":"call_reasoning\n"}"#, control),
        (r#"{"intent":"call_reasoning\u0000"}"#, control),
        (r#"{"intent":"\ud800"}"#, "must be valid Unicode"),
        (&long, "must be at most 256 bytes"),
    ] {
        refused(&gateway, &axon, body.as_bytes(), "intent", issue).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_is_wrong_is_named() {
    let deep = |levels: usize| format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    let many: String = (0..40).map(|n| format!(r#""m{n}":0,"#)).collect();
    let (object, twice) = ("must be an object", "must not name a member twice");
    let unrepresentable = "holds a number or a string that cannot be represented";
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    for (context, issue) in [
        ("null", object),
        ("[]", object),
        ("7", object),
        ("true", object),
        (r#""{}""#, object),
        (r#"{"a":1,"a":1}"#, twice),
        (r#"{"a":1,"\u0061":2}"#, twice),
        (r#"{"b":{"a":1,"a":1}}"#, twice),
        (r#"{"b":[[{"a":1,"a":1}]]}"#, twice),
        (&format!(r#"{{{many}"m3":1}}"#), twice),
        (r#"{"a":"\ud800"}"#, unrepresentable),
        (r#"{"a":1e999}"#, unrepresentable),
    ] {
        let body = format!(r#"{{"intent":"call_reasoning","context":{context}}}"#);
        refused(&gateway, &axon, body.as_bytes(), "context", issue).await;
    }
    let body = r#"{"context":{},"intent":"call_reasoning","context":{}}"#;
    refused(&gateway, &axon, body.as_bytes(), "context", "must appear only once").await;
    // 64 levels with the body's own object; the issue is the body's, wherever it nests.
    let body = format!(r#"{{"intent":"call_reasoning","context":{}}}"#, deep(64));
    refused(&gateway, &axon, body.as_bytes(), "body", "is nested too deeply").await;
    let body = format!(r#"{{"intent":"call_reasoning","x":{}}}"#, "[".repeat(500_000));
    refused(&gateway, &axon, body.as_bytes(), "body", "is nested too deeply").await;
    assert_eq!(ask(&gateway, "call_reasoning", Some(&deep(63))).await, AUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_may_come_without_context() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    assert_eq!(ask(&gateway, "call_reasoning", None).await, AUTHORIZED);
    assert_eq!(ask(&gateway, "call_reasoning", Some("{}")).await, AUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn axon_gets_the_bytes_that_were_signed() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()]).start().await;
    let body = " {\"z\" : 1.50, \"intent\":\"call_r\\u0065asoning\",\t\"big\":123456789012345678901234567890,\n \
                \"context\": {\"b\":1e2,\"a\":\"\\/\"}, \"z\": [null, {\"intent\":\"x\"}], \"intents\": \"y\", \"é\":\"\\u00e9\"} \n";
    assert_eq!(reason(&gateway.send(gateway.dispatch(body)).await), AUTHORIZED);
    assert_eq!(String::from_utf8_lossy(&axon.request().body), body);
}

// Policy files

#[tokio::test(flavor = "multi_thread")]
async fn json_and_yaml_policies_mean_the_same() {
    let yaml = r#"
# One list, as in JSON.
- service: orbit
  intent: call_reasoning
  enabled: true
  description: >
    everything of the format
  time_restrictions:
    allowed_hours: [8, 9, 10]
  rate_limits: { requests_per_minute: 2, requests_per_hour: null }
  conditions:
    - type: context_check
      field: user_type
      operator: equals
      value: premium
      description: premium users only
    - { type: context_check, field: age, operator: greater_than, value: 17 }
"#;
    let json = json!([{"service": "orbit", "intent": "call_reasoning", "enabled": true, "description": "everything",
        "time_restrictions": {"allowed_hours": [8, 9, 10]},
        "rate_limits": {"requests_per_minute": 2, "requests_per_hour": null},
        "conditions": [
            {"type": "context_check", "field": "user_type", "operator": "equals", "value": "premium",
                "description": "premium users only"},
            {"type": "context_check", "field": "age", "operator": "greater_than", "value": 17}]}]);
    for (file, text) in [("p.yaml", yaml.to_owned()), ("p.yml", yaml.to_owned()), ("p.json", json.to_string())] {
        let axon = Axon::start();
        let block = format!("{{ policies: {file} }}");
        let gateway = Setup::new(&[axon.url()]).block("governance", block).file(file, &text).start().await;
        for (minute, context, expected) in [
            (0, r#"{"user_type":"basic"}"#, "Condition not met: premium users only"),
            (0, r#"{"user_type":"premium","age":17}"#, "Condition not met: Unknown"),
            (0, r#"{"user_type":"premium","age":18}"#, RATE),
            (1, r#"{"user_type":"premium","age":18}"#, AUTHORIZED),
            (65, r#"{"user_type":"premium","age":18}"#, OUTSIDE_HOURS),
        ] {
            gateway.clock.advance(SECOND * 60 * minute);
            assert_eq!(ask(&gateway, "call_reasoning", Some(context)).await, expected, "{file}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_come_from_globs_and_lists() {
    let file = |intent: &str| json!([policy(intent, json!({}))]).to_string();
    let table = [
        ("policies/*.json", [true, true, false, false]),
        ("[policies/*.json, policies/c.yaml]", [true, true, true, false]),
        ("[policies/a.json, \"policies/[bc].*\"]", [true, true, true, false]),
        ("policies/?.json", [true, true, false, false]),
        ("[policies/*.yaml, policies/.d.json]", [false, false, true, true]),
    ];
    for (policies, expected) in table {
        let axon = Axon::start();
        let gateway = Setup::new(&[axon.url()])
            .block("governance", format!("{{ policies: {policies} }}"))
            .file("policies/a.json", &file("a"))
            .file("policies/b.json", &file("b"))
            .file("policies/c.yaml", &file("c"))
            .file("policies/.d.json", &file("d"))
            .file("policies/deeper/e.json", "not read")
            .start()
            .await;
        for (intent, allowed) in ["a", "b", "c", "d"].into_iter().zip(expected) {
            let reason = ask(&gateway, intent, None).await;
            assert_eq!(reason == AUTHORIZED, allowed, "{intent} of {policies}: {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_with_a_slip_keeps_the_gateway_from_starting() {
    let one = |changes: Value| json!([policy("a", changes)]).to_string();
    let conditions = |condition: Value| one(json!({"conditions": [condition]}));
    let table = [
        (one(json!({"enabeld": true})), "enabeld"),
        (one(json!({"enabled": "yes"})), "yes"),
        (one(json!({"time_restrictions": {"allowed_hours": []}})), "allowed_hours"),
        (one(json!({"time_restrictions": {"allowed_hours": [24]}})), "24"),
        (one(json!({"rate_limits": {"requests_per_minute": 0}})), "limit of 0"),
        (one(json!({"rate_limits": {"requests_per_day": 5}})), "requests_per_day"),
        (conditions(condition("f", "equal", json!(1))), "equal"),
        (conditions(condition("f", "greater_than", json!("1"))), "greater_than"),
        (conditions(condition("", "equals", json!(1))), "1 to 256"),
        (conditions(json!({"type": "time_check", "field": "f", "operator": "equals", "value": 1})), "time_check"),
        (conditions(json!({"type": "context_check", "field": "f", "operator": "equals"})), "value"),
        (json!([policy("a", json!({})), policy("a", json!({"enabled": false}))]).to_string(), "already"),
        (json!({"policies": []}).to_string(), "list"),
        ("[]".to_owned(), "no policy"),
        ("".to_owned(), "policies.json"),
    ];
    for (text, hint) in table {
        let started = Setup::new(&["http://127.0.0.1:9".to_owned()]).file("policies.json", &text).try_start().await;
        let complaint = started.err().unwrap_or_else(|| panic!("started with {text}")).to_string();
        assert!(complaint.contains("policies.json") && complaint.contains(hint), "{hint}: {complaint}");
    }
}

// What is told of a decision

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_decision_is_told_alike_in_header_and_body() {
    let axon = Axon::start();
    let gateway = governed(&axon, vec![policy("a", json!({}))]).await;
    let (clock, running) = (gateway.clock.clone(), std::sync::Arc::new(()));
    // Time runs, 1 µs per turn, so that a decision takes some; the contract check compares the two.
    let stop = std::sync::Arc::downgrade(&running);
    let ticker = std::thread::spawn(move || {
        while stop.upgrade().is_some() {
            clock.advance(Duration::from_micros(1));
            std::thread::yield_now();
        }
    });
    for intent in ["a", "b"] {
        let response = within(async {
            loop {
                let response = gateway.send(gateway.dispatch(json!({"intent": intent}).to_string())).await;
                reason(&response);
                if response.header("x-governance-time-ms") != Some("0.000") {
                    return response;
                }
            }
        })
        .await;
        let told = response.header("x-governance-time-ms").expect("told");
        assert!(response.text().contains(&format!(r#""decision_time_ms":{told}"#)), "{told}: {}", response.text());
    }
    drop(running);
    ticker.join().expect("the ticker");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_leaves_one_governance_line() {
    let axon = Axon::start();
    let gateway = governed(&axon, vec![policy("a", json!({})), policy("off", json!({"enabled": false}))]).await;
    for (id, intent, line) in [
        ("id-1", "a", "2026-11-22T09:56:51Z [INFO] GOVERNANCE [id-1] allowed: Request authorized"),
        ("id-2", "off", "2026-11-22T09:56:51Z [INFO] GOVERNANCE [id-2] denied: Policy is disabled"),
        ("id-3", "b", "2026-11-22T09:56:51Z [INFO] GOVERNANCE [id-3] denied: No policy defined for orbit:b"),
    ] {
        let dispatch = gateway.dispatch(json!({"intent": intent}).to_string()).header("X-Correlation-ID", id);
        reason(&gateway.send(dispatch).await);
        assert_eq!(gateway.logged(&["GOVERNANCE", id]).await, line);
    }
    gateway.logged(&["REQUEST [id-2] POST /dispatch 403 0ms"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_cannot_forge_a_line() {
    let forged = "x\n2026-11-22T09:56:51Z [INFO] GOVERNANCE [victim] allowed: Request authorized\r\u{2028}\u{1b}[31m";
    let axon = Axon::start();
    let never = described(condition("f", "equals", json!(1)), forged);
    let gateway = governed(&axon, vec![policy("a", json!({"conditions": [never]}))]).await;
    let separator = "a\u{2028}2026-11-22T09:56:51Z [INFO] GOVERNANCE [victim] allowed: Request authorized";

    for (id, intent, expected) in [
        ("by-description", "a", format!("Condition not met: {forged}")),
        ("by-intent", separator, format!("No policy defined for orbit:{separator}")),
    ] {
        let dispatch = gateway.dispatch(json!({"intent": intent}).to_string()).header("X-Correlation-ID", id);
        assert_eq!(reason(&gateway.send(dispatch).await), expected, "the client reads the reason as it is");

        let line = gateway.logged(&["GOVERNANCE [victim] allowed"]).await;
        let begins = format!("2026-11-22T09:56:51Z [INFO] GOVERNANCE [{id}] denied: ");
        assert!(line.starts_with(&begins), "not one line: {line:?}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_cannot_forge_a_member_of_a_json_line() {
    let forged = "x\",\"decision\":\"allowed\",\"y\":\"\n{\"event\":\"GOVERNANCE\"}";
    let axon = Axon::start();
    let never = described(condition("f", "equals", json!(1)), forged);
    let policies = json!([policy("a", json!({"conditions": [never]}))]).to_string();
    let gateway = Setup::new(&[axon.url()])
        .block("observability", "{ logs: { format: json } }")
        .file("policies.json", &policies)
        .start()
        .await;
    let dispatch = gateway.dispatch(r#"{"intent":"a"}"#).header("X-Correlation-ID", "id-1");
    reason(&gateway.send(dispatch).await);
    let line = gateway.logged(&["GOVERNANCE", "id-1"]).await;
    let members: Value = serde_json::from_str(&line).expect("one JSON object");
    assert_eq!(members["decision"], "denied", "{line}");
    assert_eq!(members["reason"], format!("Condition not met: {forged}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_counted() {
    let axon = Axon::start();
    let gateway = Setup::new(&[axon.url()])
        .block("limits", "{ governance: { rate: 4/min } }")
        .file("policies.json", &json!([policy("a", json!({}))]).to_string())
        .start()
        .await;
    for (intent, expected) in
        [("a", AUTHORIZED), ("a", AUTHORIZED), ("a", AUTHORIZED), ("b", "No policy defined for orbit:b"), ("a", RATE)]
    {
        assert_eq!(ask(&gateway, intent, None).await, expected);
    }
    refused_without_decision(&gateway).await;
    within(async {
        let sum = |gateway: &Gateway| {
            gateway.metric("orbit_requests_total{endpoint=\"/dispatch\",method=\"POST\",status=\"400\"}")
        };
        while sum(&gateway) < 1.0 {
            get(gateway.addr(), "/health/live").await;
        }
    })
    .await;
    for (sample, value) in [
        ("orbit_governance_decisions_total{decision=\"allowed\"}", 3.0),
        ("orbit_governance_decisions_total{decision=\"denied\"}", 2.0),
        ("orbit_governance_duration_seconds_count", 5.0),
    ] {
        assert_eq!(gateway.metric(sample), value, "{sample}");
    }
}

/// A request that nothing was decided about.
async fn refused_without_decision(gateway: &Gateway) {
    let message: Message = gateway.dispatch("{}").sign(&signing(), gateway.now());
    contract(&message.send(gateway.addr()).await, Kind::Error("INVALID_REQUEST"));
}
