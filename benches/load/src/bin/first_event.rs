//! Asks for an event stream again and again on one connection and says how long its first event took from the moment the
//! request was sent: 50th, 99th and 99.9th percentile, microseconds.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use orbit_load::{Failure, options};

const ANSWER_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 64 << 10;
/// The first bytes of an event.
const EVENT: &[u8] = b"data: ";
/// The last bytes of a chunked body.
const END: &[u8] = b"\r\n0\r\n\r\n";

fn main() -> Result<(), Failure> {
    let option = options(&["address", "message", "requests"])?;
    let message = fs::read(option("message").ok_or("`--message` is missing")?)?;
    let requests = option("requests").ok_or("`--requests` is missing")?.parse::<usize>()?;
    let mut stream = TcpStream::connect(option("address").ok_or("`--address` is missing")?)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut times = Vec::with_capacity(requests);
    let mut received = Vec::with_capacity(ANSWER_BYTES);
    let mut piece = [0; 4096];
    for _ in 0..requests {
        received.clear();
        let sent = Instant::now();
        stream.write_all(&message)?;
        let mut first = None;
        while !received.ends_with(END) {
            let count = stream.read(&mut piece)?;
            let now = Instant::now();
            if count == 0 || received.len() > ANSWER_BYTES {
                return Err(format!("no whole stream but {:?}", String::from_utf8_lossy(&received)).into());
            }
            received.extend_from_slice(piece.get(..count).unwrap_or_default());
            if first.is_none() && received.windows(EVENT.len()).any(|window| window == EVENT) {
                first = Some(now - sent);
            }
        }
        times.push(first.ok_or("a stream without an event")?.as_micros());
    }
    times.sort_unstable();
    let at = |share: f64| times.get((share * (requests - 1) as f64) as usize).copied().unwrap_or_default();
    println!("{} {} {}", at(0.5), at(0.99), at(0.999));
    Ok(())
}
