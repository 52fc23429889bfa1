//! The command line: one file per command. Exit codes: 0 fine, 1 failed or invalid, 2 wrong usage.
//! `sigv4 verify` judges many files, so there 2 is also what kept it from judging: an invalid configuration.

mod call;
mod capture;
mod check;
mod dev;
mod run;
mod sample;
mod sigv4;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

use crate::config::{Colour, Environment, ProcessEnvironment};
use crate::snapshot::settings::{LogFormat, Logs};
use crate::telemetry::sink::SinkGuard;
use crate::telemetry::{LineFormat, Sink, line};

/// The signed, governed front door of an agent runtime.
#[derive(Parser)]
#[command(name = "orbit", version, about, after_help = "Try it without any configuration:\n  orbit dev")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the configuration says, until SIGTERM or Ctrl-C; SIGHUP reloads
    Run(run::Args),
    /// Serve with nothing configured: embedded Axon, made-up key, sample policy
    Dev(dev::Args),
    /// Check a configuration with everything it names, binding nothing
    Check(check::Args),
    /// Send a signed dispatch and print the answer
    Call(Box<call::Args>),
    /// Verify captured requests offline, and say what is wrong with them
    Sigv4(sigv4::Args),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap prints help and version on standard output, errors on standard error; 0 or 2.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let environment: Arc<dyn Environment + Send + Sync> = Arc::new(ProcessEnvironment);
    match cli.command {
        Command::Run(args) => run::run(&args, environment),
        Command::Dev(args) => dev::run(&args, environment),
        Command::Check(args) => check::run(&args, &environment),
        Command::Call(args) => call::run(&args, &*environment),
        Command::Sigv4(args) => sigv4::run(&args, &*environment),
    }
}

/// Colour only on a terminal.
fn colour_of(stream: &impl IsTerminal) -> Colour {
    if stream.is_terminal() { Colour::Ansi } else { Colour::Plain }
}

/// Writes to standard output; a reader that left early is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes to standard error.
fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints an error and gives the exit code for failure.
fn failed(text: impl std::fmt::Display) -> ExitCode {
    complain(&format!("error: {text}\n"));
    ExitCode::FAILURE
}

/// Starts the log: requests and the gateway's own records go to standard output through one writer.
fn start_log(logs: Logs) -> std::io::Result<(Sink, SinkGuard)> {
    let format = match logs.format {
        LogFormat::Text => LineFormat::Text,
        LogFormat::Json => LineFormat::Json,
    };
    let level = logs.level.filter();
    let (sink, guard) = Sink::start(std::io::stdout())?;
    let records = env_logger::Builder::new()
        .filter_level(level)
        // Pingora tells of every connection that a client closed; that is no event of this gateway.
        .filter_module("pingora_core", level.min(log::LevelFilter::Warn))
        .filter_module("pingora_proxy", level.min(log::LevelFilter::Warn))
        .target(env_logger::Target::Pipe(Box::new(sink.clone())))
        .format(move |out, record| line::record(format, unix_now(), record, out))
        .try_init();
    records.map_err(std::io::Error::other)?;
    Ok((sink, guard))
}

#[allow(clippy::disallowed_methods, reason = "the command line is the outermost layer")]
fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The runtime that everything runs on; `None` is one thread per core. A thread alone has nobody to share its tasks
/// with, and is spared the book-keeping for it: 2 to 3 % of an answered request.
fn runtime(threads: Option<u16>) -> std::io::Result<tokio::runtime::Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = match threads.map_or_else(cores, usize::from) {
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.thread_name("orbit-worker").enable_all().build()
}
