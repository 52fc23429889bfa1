//! The real binary as a child process: its output by lines, its end by its own handle, real time.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orbit::clock::SystemClock;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::client::{Client, PATIENCE, Response, Signed, within};
use super::gateway::{BODY, Setup, signing};

/// What would make a child depend on who runs the tests.
const STRANGE: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
];
/// What keeps a child from asking the machine that it runs on who it is.
const SEALED: [(&str, &str); 3] = [
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_CONFIG_FILE", "/nonexistent/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials"),
];

/// `orbit` with these arguments, not yet started and not inheriting credentials.
pub fn orbit<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    command(env!("CARGO_BIN_EXE_orbit"), arguments)
}

/// Any program; see [`orbit`].
pub fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    STRANGE.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.envs(SEALED);
    command
}

/// The time that children see, for signing.
pub fn real_now() -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(SystemClock::shared().now().unix_nanos)
}

/// A running child; killed when dropped.
pub struct Process {
    child: Child,
    out: Stream,
    err: Stream,
}

/// How a child ended, and everything that it printed.
#[derive(Debug)]
pub struct Exit {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts it with captured output and nothing on standard input.
    pub fn start(command: Command) -> Self {
        Self::start_reading(command, Stdio::null())
    }

    /// Starts it with captured output and something on standard input.
    pub fn start_reading(mut command: Command, input: Stdio) -> Self {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let out = Stream::of(child.stdout.take().expect("stdout is piped"));
        let err = Stream::of(child.stderr.take().expect("stderr is piped"));
        Self { child, out, err }
    }

    /// The first line of standard output, from the beginning, that holds all of `parts`; waits for it.
    pub async fn printed(&mut self, parts: &[&str]) -> String {
        let found = tokio::time::timeout(PATIENCE, self.out.find(parts)).await;
        if let Ok(Some(line)) = found {
            return line;
        }
        let _ = tokio::time::timeout(Duration::ZERO, self.err.rest()).await;
        let why = if found.is_ok() { "at its end" } else { "yet" };
        panic!("not printed {why}: {parts:?}; stdout: {:#?} stderr: {:#?}", self.out.lines, self.err.lines)
    }

    /// The next line of standard output that nobody has asked for; `None` at its end.
    pub async fn next_line(&mut self) -> Option<String> {
        let line = within(self.out.receiver.recv()).await?;
        self.out.lines.push(line);
        self.out.lines.last().map(|line| line.trim_end().to_owned())
    }

    /// Standard output as far as it has been asked for.
    pub fn so_far(&self) -> String {
        self.out.text()
    }

    /// The address that `orbit run` announces.
    pub async fn listening(&mut self) -> SocketAddr {
        let line = self.printed(&["listening on "]).await;
        let address = line.split("listening on ").nth(1).and_then(|rest| rest.split('"').next());
        address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`, because a small Debian has no other.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.expect("a shell").success(), "SIG{name} was not sent");
    }

    /// Stops reading standard output: from here on writing there fails.
    pub fn close_stdout(&mut self) {
        self.out.receiver.close();
    }

    /// Waits until it has ended by itself.
    pub async fn exit(mut self) -> Exit {
        within(async { tokio::join!(self.out.rest(), self.err.rest()) }).await;
        let status = self.child.wait().expect("a child");
        Exit { code: status.code(), stdout: self.out.text(), stderr: self.err.text() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end.
pub async fn run(command: Command) -> Exit {
    Process::start(command).exit().await
}

/// `orbit run` at work on a port of its own, its configuration in a directory of its own.
pub struct Serving {
    pub process: Process,
    pub addr: SocketAddr,
    pub directory: TempDir,
}

impl Serving {
    /// Writes the files, starts, and waits until it listens.
    pub async fn start(setup: Setup) -> Self {
        let directory = written(&setup);
        let config = directory.path().join("orbit.yaml");
        let mut process = Process::start(orbit([Path::new("run"), Path::new("-c"), &config]));
        let addr = process.listening().await;
        Self { process, addr, directory }
    }

    /// A dispatch to sign and send.
    pub fn signed(&self, body: impl AsRef<[u8]>) -> Signed {
        Signed::post(self.addr, "/dispatch", body)
    }

    /// Sends one that is allowed.
    pub async fn dispatch(&self) -> Response {
        self.signed(BODY).send(self.addr, &signing(), real_now()).await
    }

    /// Sends one and does not wait for the answer.
    pub async fn in_flight(&self) -> Client {
        let mut client = Client::connect(self.addr).await;
        client.send(self.signed(BODY).sign(&signing(), real_now()).bytes()).await;
        client
    }

    /// Asks it to end and waits until it has; everything that it told is in the result.
    pub async fn stop(self) -> Exit {
        self.process.signal("TERM");
        self.process.exit().await
    }
}

/// The files of a configuration, readable by their owner only, as `orbit check` wants secrets to be.
pub fn written(setup: &Setup) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    setup.write(directory.path());
    for entry in std::fs::read_dir(directory.path()).expect("files") {
        chmod(&entry.expect("a file").path(), 0o600);
    }
    directory
}

/// Sets who may do what with a file.
pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a file of ours");
}

/// One output of a child, read by a thread of its own.
struct Stream {
    receiver: UnboundedReceiver<String>,
    /// Everything so far, line ends included.
    lines: Vec<String>,
}

impl Stream {
    fn of(output: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = unbounded_channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8(std::mem::take(&mut line)).expect("output is UTF-8");
                // Once nobody listens the pipe is closed.
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Self { receiver, lines: Vec::new() }
    }

    async fn find(&mut self, parts: &[&str]) -> Option<String> {
        let fits = |line: &&String| parts.iter().all(|part| line.contains(part));
        if let Some(line) = self.lines.iter().find(fits) {
            return Some(line.trim_end().to_owned());
        }
        while let Some(line) = self.receiver.recv().await {
            self.lines.push(line);
            if let Some(line) = self.lines.last().filter(fits) {
                return Some(line.trim_end().to_owned());
            }
        }
        None
    }

    async fn rest(&mut self) {
        while let Some(line) = self.receiver.recv().await {
            self.lines.push(line);
        }
    }

    fn text(&self) -> String {
        self.lines.concat()
    }
}
