//! AWS clients that others wrote, against the real binary.
//!
//! They share no code with Orbit and disagree with each other about details, which is what they are for.
//! Each sends every case of [`cases`] through a [`tap`]. What a client gets wrong is listed in [`table`], and
//! on the page that is made of it. AWS's signer for Rust is the judge of what is wrong: it signs again what the
//! client sent, and makes another signature.

mod cases;
mod driver;
mod examples;
mod page;
mod table;
mod tap;

use serde_json::Value;

use self::cases::{Case, Expected, TEMPORARY, TOKEN};
use self::table::{CLIENTS, Client, Departure, FAULTS, Fault, Program, Source};
use self::tap::Tap;
use crate::harness::axon::{Axon, Recorded};
use crate::harness::gateway::{ACCESS_KEY, SECRET, Setup};
use crate::harness::process::Serving;

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_python_are_understood() {
    are_understood(|program| program == Program::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_javascript_are_understood() {
    are_understood(|program| program == Program::Node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_go_are_understood() {
    are_understood(|program| matches!(program, Program::Go(_))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_understood() {
    are_understood(|program| program == Program::Curl).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_for_rust_is_understood() {
    are_understood(|program| program == Program::Rust).await;
}

/// Has these clients send every case; panics with all that differs from the table.
async fn are_understood(which: impl Fn(Program) -> bool) {
    let axon = Axon::start();
    let serving = start(&axon).await;
    let tap = Tap::start(serving.addr).await;
    let cases = cases::all();
    let mut wrong = Vec::new();
    for (number, client) in CLIENTS.iter().enumerate().filter(|(_, client)| which(client.program)) {
        let prefix = format!("client-{number}-case-");
        let cases: Vec<_> = cases.iter().filter(|case| can_send(client, case)).cloned().collect();
        let told = driver::send(client, &cases, &tap, &prefix).await;
        let same_version = told.version == client.version;
        assert!(
            same_version || client.source == Source::Debian,
            "{} {} is installed, not {}: run `make test-tools`",
            client.name,
            told.version,
            client.version
        );
        let (sent, arrived) = (tap.requests(), axon.requests());
        for (at, (case, answer)) in cases.iter().zip(&told.answers).enumerate() {
            let id = format!("{prefix}{at}");
            let fault = fault(client, case);
            if !same_version && fault.is_some() {
                continue;
            }
            let exchange = Exchange { case, answer, sent: the(&sent, &id), arrived: find(&arrived, &id) };
            if let Err(why) = exchange.check(fault) {
                wrong.push(format!("{}, {}: {why}\n  sent {}", client.name, case.name, exchange.shown()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn can_send(client: &Client, case: &Case) -> bool {
    let impossible = fault(client, case).is_some_and(|fault| fault.departure == Departure::Impossible);
    !impossible && (client.presigns || case.expires_seconds == 0)
}

/// A gateway that knows a lasting key and one with a session token.
async fn start(axon: &Axon) -> Serving {
    let keys = format!(
        "- {{ access_key_id: {ACCESS_KEY}, secret_access_key: {SECRET:?}, principal: tests }}\n\
         - {{ access_key_id: {TEMPORARY}, secret_access_key: {SECRET:?}, session_token: {TOKEN:?}, principal: tests }}\n"
    );
    let auth = "{ keys: keys.yaml, presigned: { max_expires: 1m } }";
    Serving::start(Setup::new(&[axon.url()]).block("auth", auth).file("keys.yaml", &keys)).await
}

fn fault(client: &Client, case: &Case) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.client == client.name && fault.cases.contains(&case.name))
}

fn find<'a>(requests: &'a [Recorded], id: &str) -> Option<&'a Recorded> {
    let mut found = requests.iter().filter(|request| request.header("x-correlation-id") == Some(id));
    let first = found.next();
    assert!(found.next().is_none(), "{id} was sent twice");
    first
}

fn the<'a>(requests: &'a [Recorded], id: &str) -> &'a Recorded {
    find(requests, id).unwrap_or_else(|| panic!("{id} was not sent"))
}

/// One case from one client, from all sides.
struct Exchange<'a> {
    case: &'a Case,
    answer: &'a (u16, String),
    /// What left the client.
    sent: &'a Recorded,
    /// What reached Axon.
    arrived: Option<&'a Recorded>,
}

impl Exchange<'_> {
    /// Compares with the case, or with the client's fault.
    fn check(&self, fault: Option<&Fault>) -> Result<(), String> {
        if self.sent.body != self.case.body.as_bytes() {
            return Err("the client sent another body than it was given".to_owned());
        }
        if (self.case.expires_seconds == 0) == self.sent.header("authorization").is_none() {
            return Err("it signed in the wrong place".to_owned());
        }
        let departure = fault.map(|fault| fault.departure);
        let as_given = pairs(&self.sent.target) == pairs(&self.case.target());
        if as_given == (departure == Some(Departure::Altered)) {
            return Err(if as_given { "it sent what it was given" } else { "it sent another query" }.to_owned());
        }
        let signing = self.case.credentials.signing();
        let (secret, region, service) = (&signing.secret, &signing.region, &signing.service);
        let conforms = match self.case.expires_seconds {
            0 => self.sent.verify_signature_alone(secret, region, service),
            // The judge cannot sign again what was presigned without an expiry, or with a token added later.
            _ => Ok(()),
        };
        match (departure, self.case.expected) {
            (None | Some(Departure::Altered), expected) => {
                self.answered(expected)?;
                conforms.map_err(|why| format!("tolerated: {why}"))
            }
            (Some(Departure::Tolerated), expected) => {
                self.answered(expected)?;
                conforms.err().map(drop).ok_or_else(|| "it conforms, the fault is gone".to_owned())
            }
            (Some(Departure::Impossible), _) => unreachable!("not sent"),
            (Some(Departure::Refused(issue)), _) => {
                self.answered(Expected::Refused(issue))?;
                let conforms = conforms.and_then(|()| self.sent.covers_amz_headers());
                conforms.err().map(drop).ok_or_else(|| "refused, although it conforms".to_owned())
            }
        }
    }

    fn answered(&self, expected: Expected) -> Result<(), String> {
        let (status, text) = self.answer;
        let answer: Value = serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))?;
        let code = answer["code"].as_str().unwrap_or_default();
        let issue = answer["details"]["issue"].as_str().unwrap_or_default();
        let as_expected = match expected {
            Expected::Dispatched => {
                *status == 200 && self.arrived.is_some_and(|arrived| arrived.body == self.case.body.as_bytes())
            }
            Expected::Read => (*status, code, self.arrived.is_none()) == (400, "INVALID_REQUEST", true),
            Expected::Refused(expected) => {
                (*status, code, issue, self.arrived.is_none()) == (401, "INVALID_SIGNATURE", expected, true)
            }
        };
        if as_expected { Ok(()) } else { Err(format!("answered {status} {text}, not {expected:?}")) }
    }

    fn shown(&self) -> String {
        let headers: String = self.sent.headers.iter().map(|(name, value)| format!("\n    {name}: {value}")).collect();
        format!("{} {}{headers}", self.sent.method, self.sent.target)
    }
}

/// Names and values of a target's query but for the signature's own, decoded and sorted: what was meant, however it is
/// spelt.
fn pairs(target: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    let mut pairs: Vec<_> = pieces
        .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .filter(|(name, _)| !name.to_ascii_lowercase().starts_with(b"x-amz-"))
        .collect();
    pairs.sort_unstable();
    pairs
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().expect("two digits"), bytes.next().expect("two digits")];
                u8::from_str_radix(std::str::from_utf8(&digits).expect("digits"), 16).expect("hexadecimal")
            }
            byte => byte,
        });
    }
    out
}
