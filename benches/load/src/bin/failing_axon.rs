//! An Axon that fails on command, for `failures`: HTTP/1.1 keep-alive, a fixed time per answer, and a record of every
//! request that came whole, so that a request that was sent twice is found.
//!
//! Commands come as lines on standard input and are answered with the same line; the end of input ends the program.
//! `serve`, `slow MS`, `reset`, `fail`, `race`, `idle MS` say what happens to requests from now on, `flap MS` takes it off the
//! network and back in turn, `stop` ends it as a well-behaved server ends. What only an operating system can do, such
//! as killing or stopping the process, is done from outside.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orbit_load::{Failure, options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

const ANSWER: &str = r#"{"message":"Axon heartbeat OK","service":"axon"}"#;
/// A head and body larger than this is no part of the comparison.
const REQUEST_BYTES: usize = 64 << 10;
/// A well-behaved server is gone after this long, whatever its clients do.
const STOP_MAX: Duration = Duration::from_secs(2);

/// What happens to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serve,
    /// The answer takes longer by this much.
    Slow(Duration),
    /// RST instead of an answer; health probes too.
    Reset,
    /// 500; health probes are well, as with a fault in the application only.
    Fail,
    /// A connection serves one request and ends as the next arrives, before that is read.
    Race,
    /// A connection that was idle for so long ends.
    Idle(Duration),
    /// The answer under way is the connection's last.
    Stop,
}

struct Axon {
    mode: Cell<Mode>,
    delay: Duration,
    /// Requests that came whole: Unix microseconds and identifier, each 8 bytes, little endian.
    record: RefCell<File>,
    stopping: watch::Sender<bool>,
}

fn main() -> Result<(), Failure> {
    let option = options(&["port", "delay-us", "record"])?;
    let port = option("port").unwrap_or_else(|| "0".to_owned()).parse()?;
    let delay = Duration::from_micros(option("delay-us").unwrap_or_else(|| "0".to_owned()).parse()?);
    let record = option("record").ok_or("`--record` is missing")?;
    let record = File::options().create(true).append(true).open(record)?;
    let axon = Rc::new(Axon {
        mode: Cell::new(Mode::Serve),
        delay,
        record: RefCell::new(record),
        stopping: watch::Sender::new(false),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(axon, port))
}

async fn run(axon: Rc<Axon>, port: u16) -> Result<(), Failure> {
    let mut listener = Some(listen(SocketAddr::from(([127, 0, 0, 1], port)))?);
    let address = listener.as_ref().map(TcpListener::local_addr).ok_or("no listener")??;
    println!("listening on {address}");
    let mut commands = commands();
    let mut connections = JoinSet::new();
    let mut flapping: Option<tokio::time::Interval> = None;
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                let (stream, _) = accepted?;
                let axon = axon.clone();
                connections.spawn_local(async move { serve(&axon, stream).await });
            }
            Some(_) = connections.join_next() => {}
            () = tick(&mut flapping) => match listener.take() {
                // As when the process dies: nobody listens, every connection is cut.
                Some(_) => connections.abort_all(),
                None => listener = Some(listen(address)?),
            },
            command = commands.recv() => {
                let Some(command) = command else { return Ok(()) };
                if listener.is_none() {
                    listener = Some(listen(address)?);
                }
                flapping = obey(&axon, &command)?;
                println!("{command}");
                if axon.mode.get() == Mode::Stop {
                    break;
                }
            }
        }
    }
    drop(listener);
    axon.stopping.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(STOP_MAX, ended).await;
    Ok(())
}

/// The lines of standard input, until its end.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn obey(axon: &Axon, command: &str) -> Result<Option<tokio::time::Interval>, Failure> {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default();
    let mut milliseconds = || -> Result<Duration, Failure> {
        let number = words.next().ok_or_else(|| format!("`{name}` needs milliseconds"))?;
        Ok(Duration::from_millis(number.parse()?))
    };
    let mut flapping = None;
    axon.mode.set(match name {
        "serve" => Mode::Serve,
        "slow" => Mode::Slow(milliseconds()?),
        "reset" => Mode::Reset,
        "fail" => Mode::Fail,
        "race" => Mode::Race,
        "idle" => Mode::Idle(milliseconds()?),
        "stop" => Mode::Stop,
        "flap" => {
            flapping = Some(tokio::time::interval(milliseconds()?));
            Mode::Serve
        }
        other => return Err(format!("unknown command `{other}`").into()),
    });
    Ok(flapping)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn tick(flapping: &mut Option<tokio::time::Interval>) {
    match flapping {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// Serves a connection to its end. What a peer does wrong ends it as well: the proxies under test are no servers' test.
async fn serve(axon: &Axon, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stopping = axon.stopping.subscribe();
    let mut received = vec![0; REQUEST_BYTES];
    let mut filled = 0;
    for turn in 0.. {
        if turn > 0 && axon.mode.get() == Mode::Race {
            // Unread bytes make the end an RST, as they do when a server's idle timer meets a request.
            return stream.readable().await;
        }
        if let (1.., Mode::Idle(longest)) = (turn, axon.mode.get())
            && tokio::time::timeout(longest, stream.readable()).await.is_err()
        {
            return Ok(());
        }
        let request = loop {
            if let Some(request) = whole(received.get(..filled).unwrap_or_default())? {
                break request;
            }
            let room = received.get_mut(filled..).filter(|room| !room.is_empty());
            let room = room.ok_or_else(|| io::Error::other("request larger than the buffer"))?;
            tokio::select! {
                biased;
                read = stream.read(room) => match read? {
                    0 => return Ok(()),
                    count => filled += count,
                },
                _ = stopping.changed(), if filled == 0 => return Ok(()),
            }
        };
        received.copy_within(request.length..filled, 0);
        filled -= request.length;
        if !request.probe {
            axon.note(request.id)?;
            tokio::time::sleep(axon.delay).await;
        }
        let mode = axon.mode.get();
        let mut status = "200 OK";
        match mode {
            Mode::Reset => return stream.set_zero_linger(),
            Mode::Slow(longer) => tokio::time::sleep(longer).await,
            Mode::Fail if !request.probe => status = "500 Internal Server Error",
            Mode::Serve | Mode::Fail | Mode::Race | Mode::Idle(_) | Mode::Stop => {}
        }
        let last = axon.mode.get() == Mode::Stop;
        let connection = if last { "close" } else { "keep-alive" };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: {connection}\r\ncontent-length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        if last {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

impl Axon {
    /// Written at once, so that it outlives a killed process.
    fn note(&self, id: u64) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_micros() as u64;
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&now.to_le_bytes());
        entry[8..].copy_from_slice(&id.to_le_bytes());
        self.record.borrow_mut().write_all(&entry)
    }
}

struct Request {
    /// Head and body, bytes.
    length: usize,
    probe: bool,
    id: u64,
}

/// The first request in `received`; `None` until it is whole.
fn whole(received: &[u8]) -> io::Result<Option<Request>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(received.get(..end).unwrap_or_default()).map_err(io::Error::other)?;
    let field = |name: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    if field("transfer-encoding").is_some() {
        return Err(io::Error::other("no chunked body is read here"));
    }
    let body = field("content-length").unwrap_or("0").parse::<usize>().map_err(io::Error::other)?;
    let length = end + 4 + body;
    if received.len() < length {
        return Ok(None);
    }
    let probe = head.starts_with("GET /health ");
    let id = field("x-correlation-id").and_then(|id| id.parse().ok());
    match id {
        None if !probe => Err(io::Error::other("a request without its identifier")),
        id => Ok(Some(Request { length, probe, id: id.unwrap_or(0) })),
    }
}
