//! `orbit run`: serves as the configuration says.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use uuid::Uuid;

use super::{colour_of, complain, failed, runtime, start_log};
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
    // Read once before the runtime exists: it decides the log and the threads.
    let settings = match Settings::load(&args.config, &*environment) {
        Ok(loaded) => loaded.settings,
        Err(problems) => {
            complain(&problems.render(colour_of(&std::io::stderr())));
            return ExitCode::FAILURE;
        }
    };
    let (sink, _guard) = match start_log(settings.observability.logs) {
        Ok(log) => log,
        Err(e) => return failed(format!("cannot start the log: {e}")),
    };
    let runtime = match runtime(settings.runtime.threads) {
        Ok(runtime) => runtime,
        Err(e) => return failed(format!("cannot start the runtime: {e}")),
    };
    let parts = Parts {
        config: args.config.clone(),
        environment,
        clock: SystemClock::shared(),
        ids: UuidV7::source(),
        seed: Uuid::new_v4().as_u128() as u64,
        sink,
    };
    let finished = runtime.block_on(async {
        let signals = Signals::new().map_err(|e| format!("error: cannot handle signals: {e}\n"))?;
        let orbit = Orbit::start(parts).await.map_err(|refused| explain(&refused, colour_of(&std::io::stderr())))?;
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
