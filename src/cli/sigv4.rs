//! `orbit sigv4 verify`: what the front door would say to requests that stand in files, and what to change.
//!
//! Nothing is opened but the configuration and the files. Invariant: no secret, token, expected signature or
//! canonical request is printed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::capture::{Bounds, Capture};
use super::{colour_of, complain};
use crate::auth::doctor::{Finding, Patient, explain};
use crate::auth::stamp::Stamp;
use crate::auth::{Caller, Issue, Keyring, Rules, claim};
use crate::clock::{Moment, SystemClock};
use crate::config::{Environment, shown_path};
use crate::error::{Code, Details, Rejection};
use crate::snapshot;
use crate::snapshot::settings::Settings;

/// The exit code when nothing could be judged: wrong usage or no valid configuration.
const UNUSABLE: u8 = 2;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  orbit sigv4 verify -c orbit.yaml request.txt")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Verify raw HTTP requests offline, and say what is wrong with them.
    ///
    /// Each file holds one HTTP/1.1 request: request line, fields, empty line, body. Any method and path is verified,
    /// with the keys, the region, the service and the bounds of the configuration. Lines of the head may end in LF or
    /// CRLF. The body is what Content-Length or the chunks say; a request without both has the rest of the file as
    /// its body, as captures often lack them. Behind the body only line ends may follow.
    ///
    /// One line per request, in the order given. Exit code 0 if all are accepted, 1 if any is refused or cannot be
    /// read, 2 for wrong usage or an invalid configuration.
    Verify(Verify),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  orbit sigv4 verify -c orbit.yaml --at 20261122T095651Z captures/*.txt\n  \
                  orbit sigv4 verify -c orbit.yaml --format json < request.txt")]
struct Verify {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The time to verify at, as in X-Amz-Date: 20261122T095651Z; otherwise now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Moment>,
    /// How verdicts are told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Files with one request each; `-`, or none at all, is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

fn moment(text: &str) -> Result<Moment, String> {
    let stamp = Stamp::parse_basic(text.as_bytes()).ok_or("must be a date of the form 20261122T095651Z")?;
    let nanos = stamp.unix_seconds().checked_mul(1_000_000_000);
    let unix_nanos = nanos.ok_or("must be before 25540721T233434Z")?;
    Ok(Moment { unix_nanos, ticks: 0 })
}

/// One verdict per file.
pub fn run(args: &Args, environment: &dyn Environment) -> ExitCode {
    let Command::Verify(args) = &args.command;
    let verifier = match Verifier::new(args, environment) {
        Ok(verifier) => verifier,
        Err(why) => {
            complain(&why);
            return ExitCode::from(UNUSABLE);
        }
    };
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &standard_input[..] } else { &args.files };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (mut all_accepted, mut told) = (true, Ok(()));
    for path in files {
        let verdict = verifier.judge(path);
        all_accepted &= matches!(verdict, Verdict::Accepted { .. });
        told = told.and_then(|()| verdict.tell(path, args.format, &mut out));
    }
    match told.and_then(|()| out.flush()) {
        // A reader that left early is no failure, and the exit code still tells about all files.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            complain(&format!("error: standard output: {e}\n"));
            return ExitCode::from(UNUSABLE);
        }
        Ok(()) | Err(_) => {}
    }
    if all_accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the configuration says, read once.
struct Verifier {
    rules: Rules,
    keyring: Keyring,
    bounds: Bounds,
    now: Moment,
}

/// What is told about one file.
enum Verdict {
    Accepted(Caller),
    Refused {
        issue: &'static str,
        /// What an operator finds in the log.
        why: Cow<'static, str>,
        /// What to change.
        hint: Cow<'static, str>,
        /// The doctor's name for it.
        hypothesis: Option<&'static str>,
    },
}

impl Verifier {
    fn new(args: &Verify, environment: &dyn Environment) -> Result<Self, String> {
        let settings = Settings::load(&args.config, environment)
            .map_err(|problems| problems.render(colour_of(&std::io::stderr())))?
            .settings;
        let listen = &settings.listen;
        Ok(Self {
            rules: snapshot::rules(&settings),
            keyring: snapshot::keyring(&settings)
                .map_err(|lines| lines.iter().map(|line| format!("error: {line}\n")).collect::<String>())?,
            bounds: Bounds { header_bytes: listen.header_bytes, body_bytes: listen.body_bytes },
            now: args.at.unwrap_or_else(|| SystemClock::shared().now()),
        })
    }

    fn judge(&self, path: &Path) -> Verdict {
        let file = match self.read(path) {
            Ok(file) => file,
            Err(why) => {
                let hint = "name a file that can be read, with one HTTP/1.1 request in it".into();
                return Verdict::Refused { issue: "unreadable", why: why.into(), hint, hypothesis: None };
            }
        };
        let Capture { head, body } = match Capture::read(&file, self.bounds) {
            Ok(capture) => capture,
            Err(rejection) => return refused(rejection, None),
        };
        let verified = claim(&head, &self.rules, &self.keyring, self.now).and_then(|claim| claim.identify(&body));
        match verified {
            Ok(caller) => Verdict::Accepted(caller),
            Err(rejection) => {
                let Self { rules, keyring, now, .. } = self;
                let patient = Patient { head: &head, body: Some(&body), rules, keyring, now: *now };
                let finding = explain(&patient, &rejection);
                refused(rejection, finding)
            }
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let most = self.bounds.file_bytes();
        let mut bytes = Vec::new();
        let read = if path == Path::new("-") {
            std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes)
        } else {
            File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        };
        match read {
            Ok(read) if read as u64 > most => {
                Err("larger than any request within listen.header_bytes and listen.body_bytes".to_owned())
            }
            Ok(_) => Ok(bytes),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The contract's word for a refusal, and what to do about it.
fn refused(rejection: Rejection, finding: Option<Finding>) -> Verdict {
    let (issue, hint) = match (rejection.code, &rejection.details) {
        (Code::MissingAuthorization, _) => {
            ("missing_authorization", "sign it, or capture it together with its signature")
        }
        (Code::InvalidSignature, Details::Issue(issue) | Details::Skew { issue, .. }) => {
            (*issue, Issue::of(issue).map_or("", Issue::advice))
        }
        (Code::PayloadTooLarge, _) => ("malformed", "send less, or raise `listen.body_bytes`"),
        (Code::HeadersTooLarge, _) => {
            ("malformed", "send fewer and shorter header fields, or raise `listen.header_bytes`")
        }
        (Code::UriTooLong, _) => ("malformed", "shorten path and query"),
        _ => ("malformed", "no signature is looked at before the request is well formed; correct the request"),
    };
    let (hint, hypothesis) = match finding {
        Some(Finding { hypothesis, hint }) => (Cow::Owned(hint), hypothesis),
        None => (Cow::Borrowed(hint), None),
    };
    Verdict::Refused { issue, why: rejection.why, hint, hypothesis }
}

impl Verdict {
    fn tell(&self, path: &Path, format: Format, out: &mut impl Write) -> std::io::Result<()> {
        match format {
            Format::Text => self.tell_people(&shown_path(path), out),
            Format::Json => self.tell_machines(&path.to_string_lossy(), out),
        }
    }

    fn tell_people(&self, file: &str, out: &mut impl Write) -> std::io::Result<()> {
        match self {
            Verdict::Accepted(caller) => {
                writeln!(out, "{file}: accepted principal={} key={}", caller.principal(), caller.access_key_id())
            }
            Verdict::Refused { issue, why, hint, .. } => writeln!(out, "{file}: refused {issue}: {why}; {hint}"),
        }
    }

    fn tell_machines(&self, file: &str, out: &mut impl Write) -> std::io::Result<()> {
        let line = match self {
            Verdict::Accepted(caller) => serde_json::to_string(&Accepted {
                file,
                accepted: true,
                principal: caller.principal(),
                access_key_id: caller.access_key_id(),
            }),
            Verdict::Refused { issue, why, hint, hypothesis } => {
                serde_json::to_string(&Refused { file, accepted: false, issue, hint, why, hypothesis: *hypothesis })
            }
        };
        writeln!(out, "{}", line.map_err(std::io::Error::other)?)
    }
}

#[derive(Serialize)]
struct Accepted<'a> {
    file: &'a str,
    accepted: bool,
    principal: &'a str,
    access_key_id: &'a str,
}

#[derive(Serialize)]
struct Refused<'a> {
    file: &'a str,
    accepted: bool,
    issue: &'a str,
    hint: &'a str,
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypothesis: Option<&'static str>,
}
