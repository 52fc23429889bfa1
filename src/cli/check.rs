//! `orbit check`: the same reading, fetching and building as at boot, binding nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{colour_of, complain, print, runtime};
use crate::aws::Aws;
use crate::axon::{self, Meter, SystemResolver};
use crate::clock::SystemClock;
use crate::config::{Colour, Problem};
use crate::gateway::{Refused, SharedEnvironment};
use crate::local::VERSION;
use crate::rotation;
use crate::signing;
use crate::snapshot::{Ingredients, Snapshot};
use crate::telemetry::Metrics;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  orbit check -c orbit.yaml --show")]
pub struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print the effective configuration, defaults included, secrets hidden
    #[arg(long)]
    show: bool,
    /// How problems are told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What was found.
struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Complaints that have no place in a file.
    complaints: Vec<String>,
    /// Of the world beside the files, as it is now; Orbit starts all the same.
    notes: Vec<String>,
    shown: Option<String>,
}

/// Exit code 0 when Orbit would start with this configuration, 1 when it would not.
pub fn run(args: &Args, environment: &SharedEnvironment) -> ExitCode {
    let report = examine(args, environment);
    let valid = report.problems.is_empty() && report.complaints.is_empty();
    match args.format {
        Format::Text => tell(args, &report, valid),
        Format::Json => {
            let places = |list: &[Problem]| list.iter().map(Problem::to_json).collect::<Vec<Value>>();
            let told = json!({
                "valid": valid,
                "problems": places(&report.problems),
                "complaints": report.complaints,
                "warnings": places(&report.warnings),
                "notes": report.notes,
                "configuration": report.shown,
            });
            print(&format!("{told}\n"));
        }
    }
    if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn examine(args: &Args, environment: &SharedEnvironment) -> Report {
    let aws = Aws::new(&**environment, SystemClock::shared());
    let read = async {
        let (loaded, _) = rotation::read(&args.config, environment, &aws).await?;
        let credentials = signing::acquire(&aws, &loaded.settings, None).await;
        Ok((loaded, credentials))
    };
    let read = match runtime(Some(1)) {
        Ok(runtime) => runtime.block_on(read),
        Err(e) => Err(Refused::System(format!("cannot start the runtime: {e}"))),
    };
    let refused =
        |problems, complaints| Report { problems, warnings: Vec::new(), complaints, notes: Vec::new(), shown: None };
    let (loaded, credentials) = match read {
        Ok(read) => read,
        Err(Refused::Configuration(problems)) => return refused(problems.iter().cloned().collect(), Vec::new()),
        Err(other) => return refused(Vec::new(), vec![other.to_string()]),
    };
    let warnings = loaded.warnings.clone();
    let notes = match runtime(Some(1)) {
        Ok(runtime) => {
            let resolver = SystemResolver::shared();
            let notes = runtime.block_on(axon::unresolved(&loaded.settings.upstreams, &resolver));
            // A lookup that hangs is not worth waiting for.
            runtime.shutdown_background();
            notes
        }
        Err(_) => Vec::new(),
    };
    let shown = args.show.then(|| loaded.settings.show());
    let complaints = match Metrics::new(VERSION) {
        Ok(metrics) => {
            let meter: Arc<dyn Meter> = Arc::new(metrics);
            let clock = &SystemClock::shared();
            match credentials {
                Ok(credentials) => {
                    let credentials = &credentials;
                    let ingredients = Ingredients { predecessor: None, credentials, meter: &meter, clock, seed: 0 };
                    Snapshot::build(loaded, &ingredients).err().unwrap_or_default()
                }
                Err(refused) => refused.to_string().lines().map(str::to_owned).collect(),
            }
        }
        Err(e) => vec![e.to_string()],
    };
    Report { problems: Vec::new(), warnings, complaints, notes, shown }
}

fn tell(args: &Args, report: &Report, valid: bool) {
    let colour: Colour = colour_of(&std::io::stderr());
    for problem in report.problems.iter().chain(&report.warnings) {
        complain(&format!("{}\n\n", problem.render(colour)));
    }
    for complaint in &report.complaints {
        complain(&format!("error: {complaint}\n"));
    }
    for note in &report.notes {
        complain(&format!("warning: {note}\n"));
    }
    if let Some(shown) = &report.shown {
        print(shown);
    }
    match (valid, report.problems.len() + report.complaints.len()) {
        (true, _) if args.show => {}
        (true, _) => print(&format!("{}: valid\n", args.config.display())),
        (false, count) => complain(&format!("{count} problem{}\n", if count == 1 { "" } else { "s" })),
    }
}
