//! What is told of requests: log lines and metrics, both derived from one observation.

pub mod line;
pub mod metrics;
pub mod sink;

use log::LevelFilter;

use crate::observation::Observation;

pub use line::LineFormat;
pub use metrics::Metrics;
pub use sink::Sink;

/// Everything that observations are told to.
pub struct Telemetry {
    pub metrics: Metrics,
    pub sink: Sink,
}

impl Telemetry {
    /// Tells one observation: counted always, logged as `lines` says. The only caller of both.
    pub fn observe(&self, observation: &Observation, lines: Option<(LineFormat, LevelFilter)>) {
        self.metrics.count(observation);
        if let Some((format, least)) = lines {
            self.sink.write_with(|out| format.write(observation, least, out));
        }
    }
}
