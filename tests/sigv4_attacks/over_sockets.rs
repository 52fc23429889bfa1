//! The table over real sockets: the answer to each request, and an Axon that sees none of them.

use super::{Attack, Coded, Door, Fate, Harmless, Refused, attacks, keys, verdict};
use crate::harness::axon::Axon;
use crate::harness::check::{Kind, contract};
use crate::harness::client::{Client, Ending, Response, request};
use crate::harness::gateway::{Gateway, Setup};
use orbit::auth::Keyring;
use secrecy::ExposeSecret;

async fn start() -> (Axon, Gateway) {
    let axon = Axon::start();
    let lines = keys().into_iter().map(|key| {
        let mut line = format!(
            "- {{ access_key_id: {}, secret_access_key: {:?}, principal: {}",
            key.access_key_id,
            key.secret_access_key.expose_secret(),
            key.principal
        );
        if let Some(token) = &key.session_token {
            line += &format!(", session_token: {:?}", token.expose_secret());
        }
        for (name, second) in [("not_before", key.not_before), ("not_after", key.not_after)] {
            if let Some(second) = second {
                let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
                line += &format!(", {name}: {:?}", humantime::format_rfc3339_seconds(at).to_string());
            }
        }
        format!("{line}, disabled: {} }}\n", key.disabled)
    });
    let setup = Setup::new(&[axon.url()])
        .file("keys.yaml", &lines.collect::<String>())
        .block("auth", "{ keys: keys.yaml, region: [us-east-1, eu-west-1], presigned: { max_expires: 15m } }")
        .block("limits", "{ per_ip: disabled, global: disabled, governance: disabled }")
        .listen("header_bytes: 64KiB, body_timeout: 2s");
    (axon, setup.start().await)
}

/// Whether the answer is the one that the row demands, and keeps the contract.
fn judge(response: &Response, fate: Fate) -> Result<(), String> {
    let code = match fate {
        Refused(_) => "INVALID_SIGNATURE",
        Coded(code) | Door(code, _) => code,
        Harmless => {
            if response.status != 200 {
                return Err(format!("{} instead of 200: {}", response.status, response.text()));
            }
            contract(response, Kind::Success);
            return Ok(());
        }
    };
    if response.json()["code"] != code {
        return Err(format!("{} instead of {code}: {}", response.status, response.text()));
    }
    let answer = contract(response, Kind::Error(code));
    match fate {
        Refused(issue) if answer["details"]["issue"] != issue => Err(format!("{answer} instead of {issue}")),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_gives_the_same_answers_and_axon_sees_none() {
    let (axon, gateway) = start().await;
    let mut wrong = Vec::new();
    for Attack { name, source, request: attack, fate } in attacks() {
        let before = axon.requests().len();
        let raw = [attack.head_bytes(), attack.body.clone()].concat();
        let response = request(gateway.addr(), raw).await;
        if let Err(why) = judge(&response, fate) {
            wrong.push(format!("{name} [{source}]: {why}"));
        }
        let seen = axon.requests().split_off(before);
        match (fate, seen.as_slice()) {
            (Harmless, [one]) => {
                assert_eq!((one.method.as_str(), one.target.as_str()), ("POST", "/dispatch"), "{name}");
                assert_eq!(one.body, attack.body, "{name}");
                let strange: Vec<_> = one.headers.iter().filter(|(n, _)| !is_orbits(n)).collect();
                assert!(strange.is_empty(), "{name}: Axon saw {strange:?}");
                assert_eq!(one.header("x-forwarded-for"), Some("127.0.0.1"), "{name}");
            }
            (Harmless, _) => wrong.push(format!("{name}: Axon saw {}", seen.len())),
            (_, []) => {}
            (_, seen) => panic!("{name} [{source}] reached Axon: {seen:?}"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the head alone gives away is refused before the body: here it is never sent, nor asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_head_gives_away_is_refused_without_its_body() {
    let (axon, gateway) = start().await;
    let keyring = Keyring::from_entries(keys()).expect("valid keys");
    let by_head = |attack: &Attack| {
        let at_the_door = matches!(attack.fate, Door(code, _) if code != "INVALID_REQUEST");
        !attack.request.body.is_empty() && (at_the_door || verdict(&attack.request, &keyring).1)
    };
    let rows: Vec<_> = attacks().into_iter().filter(by_head).collect();
    assert!(rows.len() > 200, "{} rows are refused by their heads", rows.len());
    // Together, because the gateway gives each `body_timeout` to send its body before the connection is given up.
    let refused = rows.iter().map(|Attack { name, request, fate, .. }| {
        let addr = gateway.addr();
        async move {
            let mut client = Client::connect(addr).await;
            client.offer(request.head_bytes()).await;
            let response = client.read_response_to(&request.method).await;
            judge(&response, *fate).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(response.interim.is_empty(), "{name}: the body was asked for");
            assert_eq!(client.closed().await, Ending::Finished, "{name}");
        }
    });
    futures_util::future::join_all(refused).await;
    assert!(axon.requests().is_empty());
}

/// What stands between and behind the chunks of a body is framing: it says nothing to the verifier, and
/// nothing of it reaches Axon.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_and_chunk_extensions_mean_nothing() {
    let (axon, gateway) = start().await;
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for signed in [super::rows::plain(), super::rows::declared(), super::rows::presigned()] {
        for trailer in [
            "x-amz-acl: public-read\r\n".to_owned(),
            "Authorization: Bearer x\r\nX-Amz-Date: 20150830T123600Z\r\nHost: other.example\r\n".into(),
            format!("x-amz-content-sha256: {empty}\r\nx-amz-security-token: x\r\n"),
            "x-amz-trailer-signature: 00\r\nx-amz-checksum-crc32: AAAAAA==\r\n".into(),
        ] {
            let before = axon.requests().len();
            let (first, rest) = signed.body.split_at(7);
            let mut head = signed.clone();
            head.add("Transfer-Encoding", "chunked");
            let mut raw = head.head_bytes();
            for part in [first, rest] {
                raw.extend(format!("{:x};chunk-signature={}\r\n", part.len(), "0".repeat(64)).bytes());
                raw.extend([part, b"\r\n"].concat());
            }
            raw.extend(format!("0;chunk-signature={}\r\n{trailer}\r\n", "0".repeat(64)).bytes());
            contract(&request(gateway.addr(), raw).await, Kind::Success);
            let seen = axon.requests().split_off(before);
            assert_eq!(seen.len(), 1, "{trailer}");
            assert_eq!(seen[0].body, signed.body, "{trailer}");
            let strange: Vec<_> = seen[0].headers.iter().filter(|(n, _)| !is_orbits(n)).collect();
            assert!(strange.is_empty(), "{trailer}: Axon saw {strange:?}");
        }
    }
}

/// Whether Orbit itself sends a header of that name.
fn is_orbits(name: &str) -> bool {
    ["host", "content-type", "content-length", "x-request-id", "x-forwarded-for", "x-correlation-id"]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(name))
}

/// Whatever byte the client leaves at: no answer that could be taken for a success, and nothing for Axon.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_cut_off_at_any_byte_reaches_nobody() {
    let (axon, gateway) = start().await;
    let request = super::rows::plain();
    let raw = [request.head_bytes(), request.body.clone()].concat();
    for end in 0..raw.len() {
        let mut client = Client::connect(gateway.addr()).await;
        client.send(&raw[..end]).await;
        client.half_close().await;
        if let Ok(response) = client.try_read_response_to("POST").await {
            assert!(response.status >= 400, "cut behind byte {end}: {}", response.text());
        }
    }
    assert!(axon.requests().is_empty(), "{:?}", axon.requests());
    let response = crate::harness::client::request(gateway.addr(), raw).await;
    contract(&response, Kind::Success);
}

/// An unknown key, a key that may not be used and a wrong secret cannot be told apart by what is answered.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_tells_which_keys_there_are() {
    let (_axon, gateway) = start().await;
    for declared in [false, true] {
        let mut answers = Vec::new();
        for who in [
            "by an unknown key",
            "by a disabled key",
            "by a key that is not valid yet",
            "by a key that is no longer valid",
            "with another secret",
        ] {
            let forgery = super::rows::re_signed(who);
            let attack = if declared { forgery.declared().seal() } else { forgery.seal() };
            let response = request(gateway.addr(), [attack.head_bytes(), attack.body].concat()).await;
            let own = [response.header("x-request-id"), response.json()["timestamp"].as_str()]
                .map(|v| v.expect("on every answer").to_owned());
            let text = String::from_utf8(response.raw).expect("UTF-8");
            answers.push(own.iter().fold(text, |text, own| text.replace(own, "…")));
        }
        assert!(answers[0].contains("\"mismatch\""), "{}", answers[0]);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    }
}
