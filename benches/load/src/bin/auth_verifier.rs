//! The least that a service behind nginx's `auth_request` can do for SigV4: 200 or 401, without a body, over connections
//! that are kept. Raw tokio and httparse, one thread, the signing key derived once a day.
//!
//! It sees the head of a request only, so the hash in `x-amz-content-sha256` has to be signed and is believed. No query
//! and no path that would need encoding: what the comparison sends. Canonical request and string to sign as in
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use orbit_load::{Failure, listen, options};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

const ALLOWED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
const REGION: &str = "us-east-1";
const SERVICE: &str = "execute-api";
/// As Orbit's in the comparison: one signature serves a whole round.
const SKEW: Duration = Duration::from_secs(15 * 60);
/// What a signature must cover.
const SIGNED: [&str; 3] = ["host", "x-amz-content-sha256", "x-amz-date"];
const HEAD_BYTES: usize = 16 << 10;
const FIELDS: usize = 64;

struct Verifier {
    key: String,
    secret: String,
    /// Of the day that requests are signed for.
    signing_key: RefCell<(String, Vec<u8>)>,
}

fn main() -> Result<(), Failure> {
    let option = options(&["key", "secret"])?;
    let verifier = Rc::new(Verifier {
        key: option("key").ok_or("`--key` is missing")?,
        secret: option("secret").ok_or("`--secret` is missing")?,
        signing_key: Default::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = listen()?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let verifier = verifier.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = serve(stream, &verifier).await {
                    eprintln!("connection failed: {error}");
                }
            });
        }
    })
}

async fn serve(mut stream: TcpStream, verifier: &Verifier) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut received = vec![0; HEAD_BYTES];
    let mut filled = 0;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(length) = head.parse(received.get(..filled).unwrap_or_default())? {
            let answer = if verifier.allows(&head).is_some() { ALLOWED } else { REFUSED };
            stream.write_all(answer).await?;
            received.copy_within(length..filled, 0);
            filled -= length;
            continue;
        }
        let room = received.get_mut(filled..).filter(|room| !room.is_empty()).ok_or("head too large")?;
        match stream.read(room).await? {
            0 => return Ok(()),
            count => filled += count,
        }
    }
}

impl Verifier {
    /// `None` for whatever is wrong.
    fn allows(&self, head: &httparse::Request<'_, '_>) -> Option<()> {
        let field = |name: &str| {
            let mut found = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            let value = std::str::from_utf8(found.next()?.value).ok()?;
            found.next().is_none().then_some(value)
        };
        let mut credential = None;
        let mut names = None;
        let mut signature = None;
        for part in field("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?.split(',') {
            match part.trim().split_once('=')? {
                ("Credential", value) => credential = Some(value),
                ("SignedHeaders", value) => names = Some(value),
                ("Signature", value) => signature = Some(value),
                _ => return None,
            }
        }
        let (names, signature) = (names?, signature?);
        let stamp = field("x-amz-date")?;
        let date = stamp.get(..8)?;
        let (key, scope) = credential?.split_once('/')?;
        if key != self.key || scope != format!("{date}/{REGION}/{SERVICE}/aws4_request") {
            return None;
        }
        let time = instant(stamp)?;
        let now = SystemTime::now();
        let off = now.duration_since(time).or_else(|_| time.duration_since(now)).ok()?;
        if off > SKEW || !SIGNED.iter().all(|needed| names.split(';').any(|name| name == *needed)) {
            return None;
        }
        let path = field("x-original-uri")?;
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte)) {
            return None;
        }
        let mut canonical = format!("{}\n{path}\n\n", field("x-original-method")?);
        for name in names.split(';') {
            writeln!(canonical, "{name}:{}", field(name)?.trim()).ok()?;
        }
        write!(canonical, "\n{names}\n{}", field("x-amz-content-sha256")?).ok()?;
        let hash = hex(&Sha256::digest(canonical));
        let expected = self.signature(date, time, &format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}"));
        let differ = expected.bytes().zip(signature.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
        (expected.len() == signature.len() && differ == 0).then_some(())
    }

    fn signature(&self, date: &str, time: SystemTime, to_sign: &str) -> String {
        let mut known = self.signing_key.borrow_mut();
        if known.0 != date {
            let key = generate_signing_key(&self.secret, time, REGION, SERVICE);
            *known = (date.to_owned(), key.as_ref().to_vec());
        }
        calculate_signature(&known.1, to_sign.as_bytes())
    }
}

/// Of `YYYYMMDDTHHMMSSZ`.
fn instant(stamp: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| stamp.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let known = stamp.len() == 16 && stamp.get(8..9)? == "T" && stamp.ends_with('Z');
    if !known || !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Days of the years that begin in March, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = (days - 719_468) * 86_400 + number(9, 11)? * 3600 + number(11, 13)? * 60 + number(13, 15)?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
