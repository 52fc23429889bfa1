//! Clients that each send one dispatch after another, every one signed anew and with an identifier of its own, and
//! write down what became of each. For `failures`: it cares for what clients see, not for throughput.
//!
//! The record holds start (Unix microseconds), duration (microseconds), identifier and status for each request that
//! was sent, 8 bytes each, little endian, in order of their ends. Status 0 is no answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use orbit_load::{Failure, options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const BODY: &str = r#"{"intent":"call_reasoning","context":{"user_id":"user123","user_type":"premium"}}"#;
/// What no proxy under test should need; a client that waits longer has failed.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 64 << 10;
/// After a connection that was refused: the proxy itself is gone, and trying harder measures nothing.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

struct Plan {
    address: String,
    /// Key and secret; absent for a proxy that verifies nothing.
    key: Option<(String, String)>,
    /// Says that a request may be repeated: by `Idempotency-Key` to who verifies, by `GET` to who would not know it.
    idempotent: bool,
    /// Between an answer and the next request.
    pause: Duration,
    end: Instant,
    next: AtomicU64,
    last: u64,
}

struct Sent {
    start_us: u64,
    took_us: u64,
    id: u64,
    status: u16,
    /// `details.issue` of an answer that says what is wrong.
    issue: String,
}

fn main() -> Result<(), Failure> {
    let option =
        options(&["address", "key", "secret", "clients", "seconds", "requests", "pause-us", "idempotent", "record"])?;
    let number = |name: &str, default: u64| option(name).map_or(Ok(default), |text| text.parse::<u64>());
    let record = option("record").ok_or("`--record` is missing")?;
    let plan = Arc::new(Plan {
        address: option("address").ok_or("`--address` is missing")?,
        key: option("key").zip(option("secret")),
        idempotent: option("idempotent").is_some_and(|word| word == "yes"),
        pause: Duration::from_micros(number("pause-us", 0)?),
        end: Instant::now() + Duration::from_secs(number("seconds", 60)?),
        next: AtomicU64::new(1),
        last: number("requests", u64::MAX)?,
    });
    let clients = number("clients", 20)?;
    let sent = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            running.spawn(client(plan.clone()));
        }
        let mut sent = Vec::new();
        for one in running.join_all().await {
            sent.extend(one?);
        }
        Ok::<_, Failure>(sent)
    })?;
    write(sent, &record)
}

fn write(mut sent: Vec<Sent>, record: &str) -> Result<(), Failure> {
    sent.sort_by_key(|one| one.start_us + one.took_us);
    let mut file = BufWriter::new(File::create(record)?);
    let mut kinds = BTreeMap::new();
    for one in &sent {
        for number in [one.start_us, one.took_us, one.id, u64::from(one.status)] {
            file.write_all(&number.to_le_bytes())?;
        }
        *kinds.entry(format!("{} {}", one.status, one.issue)).or_insert(0u64) += 1;
    }
    file.flush()?;
    for (kind, count) in kinds {
        println!("{count} × {}", kind.trim_end());
    }
    Ok(())
}

async fn client(plan: Arc<Plan>) -> Result<Vec<Sent>, Failure> {
    let mut sent = Vec::new();
    let mut connection = None;
    while Instant::now() < plan.end {
        let id = plan.next.fetch_add(1, Ordering::Relaxed);
        if id > plan.last {
            break;
        }
        let request = message(&plan, id)?;
        let began = Instant::now();
        let start_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
        let answer = timeout(ANSWER_MAX, exchange(&plan.address, &mut connection, &request)).await;
        let took_us = began.elapsed().as_micros() as u64;
        let (status, issue) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                connection = None;
                if error.kind() == std::io::ErrorKind::ConnectionRefused {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                (0, error.kind().to_string())
            }
            Err(_) => {
                connection = None;
                (0, "no answer in time".to_owned())
            }
        };
        sent.push(Sent { start_us, took_us, id, status, issue });
        if !plan.pause.is_zero() {
            tokio::time::sleep(plan.pause).await;
        }
    }
    Ok(sent)
}

fn message(plan: &Plan, id: u64) -> Result<Vec<u8>, Failure> {
    let address = &plan.address;
    if plan.idempotent && plan.key.is_none() {
        let head = format!("GET /dispatch HTTP/1.1\r\nhost: {address}\r\nx-correlation-id: {id}\r\n\r\n");
        return Ok(head.into_bytes());
    }
    let mut head = format!("POST /dispatch HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    if let Some((key, secret)) = &plan.key {
        let identity = Credentials::new(key, secret, None, None, "load").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("execute-api")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?;
        let headers = [("host", address.as_str()), ("content-type", "application/json")];
        let target = format!("http://{address}/dispatch");
        let body = SignableBody::Bytes(BODY.as_bytes());
        let request = SignableRequest::new("POST", target, headers.into_iter(), body)?;
        let (instructions, _signature) = sign(request, &parameters.into())?.into_parts();
        for (name, value) in instructions.headers() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if plan.idempotent {
        head.push_str(&format!("idempotency-key: {id}\r\n"));
    }
    head.push_str(&format!("x-correlation-id: {id}\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len()));
    Ok(head.into_bytes())
}

/// One request and its answer on a connection that is kept.
async fn exchange(address: &str, kept: &mut Option<TcpStream>, request: &[u8]) -> std::io::Result<(u16, String)> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(request).await?;
    let mut received = Vec::with_capacity(1024);
    loop {
        if let Some(answer) = answer(&received)? {
            if answer.keeps {
                *kept = Some(stream);
            }
            return Ok((answer.status, answer.issue));
        }
        if received.len() > ANSWER_BYTES {
            return Err(std::io::Error::other("answer too large"));
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

struct Answer {
    status: u16,
    issue: String,
    keeps: bool,
}

/// The answer in `received`; `None` until it is whole.
fn answer(received: &[u8]) -> std::io::Result<Option<Answer>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let bad = || std::io::Error::other("an answer without status or length");
    let head = std::str::from_utf8(received.get(..end).unwrap_or_default()).map_err(std::io::Error::other)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).ok_or_else(bad)?;
    let field = |name: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok()).ok_or_else(bad)?;
    let Some(body) = received.get(end + 4..end + 4 + length) else { return Ok(None) };
    let text = String::from_utf8_lossy(body);
    let issue = text.split_once(r#""issue":""#).and_then(|(_, rest)| rest.split_once('"')).map(|(issue, _)| issue);
    let keeps = !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Answer { status, issue: issue.unwrap_or_default().to_owned(), keeps }))
}
