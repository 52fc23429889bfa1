//! What is told of requests: log lines and metrics, both derived from one observation.

pub mod line;
pub mod metrics;
pub mod sink;

use std::sync::Arc;

use log::LevelFilter;

use crate::observation::Observation;

pub use line::LineFormat;
pub use metrics::Metrics;
pub use sink::Sink;

/// The lines of one request usually fit.
const LINES_BYTES_USUAL: usize = 512;

/// Everything that observations are told to.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub sink: Sink,
}

impl Telemetry {
    /// Tells one observation: counted always, logged as `lines` says. The only caller of both.
    pub fn observe(&self, observation: &Observation<'_>, lines: Option<(LineFormat, LevelFilter)>) {
        self.metrics.count(observation);
        if let Some((format, least)) = lines {
            let mut lines = Vec::with_capacity(LINES_BYTES_USUAL);
            format.write(observation, least, &mut lines);
            self.sink.append(&lines);
        }
    }
}
