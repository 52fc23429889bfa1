//! `orbit run`: serves as the configuration says.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use uuid::Uuid;

use super::{colour_of, complain, failed, runtime, start_log};
use crate::axon::SystemResolver;
use crate::clock::SystemClock;
use crate::config::Environment;
use crate::gateway::{Orbit, Parts};
use crate::lifecycle::{Signals, explain};
use crate::request::correlation::UuidV7;
use crate::snapshot::settings::Settings;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  orbit run -c orbit.yaml")]
pub struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs until told to stop; exit code 1 when it could not start or had to cut requests off.
pub fn run(args: &Args, environment: Arc<dyn Environment + Send + Sync>) -> ExitCode {
    // Looked at before the runtime exists: it decides the log and the threads.
    let outline = match Settings::outline(&args.config, &*environment) {
        Ok(outline) => outline,
        Err(_) => return refused(args, &*environment),
    };
    let (sink, _guard) = match start_log(outline.logs) {
        Ok(log) => log,
        Err(e) => return failed(format!("cannot start the log: {e}")),
    };
    let runtime = match runtime(outline.threads) {
        Ok(runtime) => runtime,
        Err(e) => return failed(format!("cannot start the runtime: {e}")),
    };
    let parts = Parts {
        config: args.config.clone(),
        environment,
        clock: SystemClock::shared(),
        ids: UuidV7::source(),
        resolver: SystemResolver::shared(),
        seed: Uuid::new_v4().as_u128() as u64,
        sink,
    };
    raise_descriptor_limit(outline.connections, outline.in_flight);
    let finished = runtime.block_on(async {
        let signals = Signals::new().map_err(|e| format!("error: cannot handle signals: {e}\n"))?;
        let orbit = Orbit::start(parts).await.map_err(|refused| explain(&refused, colour_of(&std::io::stderr())))?;
        let orbit = Arc::new(orbit);
        for address in orbit.addresses() {
            log::info!("listening on {address}");
            // With port 0 nobody could know it otherwise.
            if !log::log_enabled!(log::Level::Info) {
                complain(&format!("listening on {address}\n"));
            }
        }
        Ok::<bool, String>(signals.serve(&orbit).await)
    });
    // What was not finished in time is cut off here.
    runtime.shutdown_background();
    match finished {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

/// Tells what is wrong with the main file, and with all others as far as they can be read without it.
fn refused(args: &Args, environment: &dyn Environment) -> ExitCode {
    match Settings::load(&args.config, environment) {
        Ok(_) => failed("the configuration changed while it was read; try again"),
        Err(problems) => {
            complain(&problems.render(colour_of(&std::io::stderr())));
            ExitCode::FAILURE
        }
    }
}

/// The usual soft limit of 1024 descriptors is far below `listen.connections`; what the hard limit allows is
/// taken, and too little is said aloud: without descriptors nothing can be accepted, and Axon not reached.
fn raise_descriptor_limit(connections: u32, in_flight: u32) {
    let needed = u64::from(connections) + u64::from(in_flight) + 64;
    match rlimit::increase_nofile_limit(needed) {
        Ok(limit) if limit >= needed => {}
        Ok(limit) => {
            log::warn!("{limit} file descriptors allowed, {needed} may be needed: raise the hard limit (ulimit -Hn)")
        }
        Err(e) => log::warn!("cannot raise the limit of file descriptors: {e}"),
    }
}
