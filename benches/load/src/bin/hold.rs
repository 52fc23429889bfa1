//! Opens connections, sends one request on each, reads its answer, and holds them all open until its input ends. For the
//! memory that a proxy spends on idle connections.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use orbit_load::{Failure, options};

/// Opened, asked and answered together; the next so many follow.
const AT_ONCE: usize = 64;
const ANSWER_MAX: Duration = Duration::from_secs(30);
const ANSWER_BYTES: usize = 64 << 10;

fn main() -> Result<(), Failure> {
    let option = options(&["address", "message", "connections"])?;
    let address = option("address").ok_or("`--address` is missing")?;
    let message = fs::read(option("message").ok_or("`--message` is missing")?)?;
    let connections = option("connections").ok_or("`--connections` is missing")?.parse::<usize>()?;
    let mut held: Vec<TcpStream> = Vec::with_capacity(connections);
    while held.len() < connections {
        let began = held.len();
        for _ in began..connections.min(began + AT_ONCE) {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            stream.write_all(&message)?;
            held.push(stream);
        }
        for stream in held.iter_mut().skip(began) {
            answer(stream)?;
        }
    }
    // One that was closed meanwhile is not idle but gone.
    for stream in &held {
        stream.set_nonblocking(true)?;
        match stream.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return Err(format!("a connection did not stay open: {other:?}").into()),
        }
    }
    println!("holding {connections}");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Reads a whole answer, which has to be 200 and to have a length.
fn answer(stream: &mut TcpStream) -> Result<(), Failure> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while received.len() < ANSWER_BYTES {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(received.get(..end).unwrap_or_default()).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if !head.starts_with("http/1.1 200") {
                return Err(format!("the answer was {head}").into());
            }
            if received.len() >= end + 4 + length.ok_or("an answer without a length")? {
                return Ok(());
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err("the connection ended before the answer was whole".into()),
            count => received.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
    Err("the answer is too large".into())
}
