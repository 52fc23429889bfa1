//! An observation as log lines. The text form is the contract's; the JSON form carries the same facts.
//!
//! Invariant: nothing that came from outside can start a line or forge a field: control characters are
//! escaped, lengths are bounded, and paths are logged without their query.

use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use arrayvec::ArrayString;
use log::{Level, LevelFilter};

use crate::auth::replay::Mode;
use crate::axon::Outcome;
use crate::observation::Observation;

/// Longest text from outside that one line holds, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    Text,
    Json,
}

impl LineFormat {
    /// Appends the lines of one observation, those that are at least as severe as `least`.
    pub fn write(self, observation: &Observation<'_>, least: LevelFilter, out: &mut Vec<u8>) {
        let mut at = ArrayString::<32>::new();
        // Twenty bytes until the year 9999.
        let ended = UNIX_EPOCH + Duration::from_nanos(observation.ended.unix_nanos);
        let _ = write!(at, "{}", humantime::format_rfc3339_seconds(ended));
        let mut lines = Lines { format: self, least, at: &at, id: observation.ids.correlation(), out };

        // In the other mode it is the refusal.
        if let Some((Mode::Observe, doubt)) = observation.doubt {
            lines.event(Level::Warn, "REPLAY", |line| line.text("observed", doubt.text(), "outcome", "message"));
        }
        if let Some(decision) = &observation.decision {
            let word = if decision.allowed { "allowed" } else { "denied" };
            lines.event(Level::Info, "GOVERNANCE", |line| {
                line.text(word, &decision.reason, "decision", "reason");
                line.number("decision_time_us", decision.took.as_micros());
            });
        }
        for call in &observation.calls {
            let (level, word) = match call.outcome {
                Outcome::Success => (Level::Info, "success"),
                Outcome::Refused | Outcome::Abandoned => (Level::Info, call.outcome.label()),
                Outcome::Error | Outcome::ConnectFailed | Outcome::Timeout | Outcome::Broken => {
                    (Level::Warn, call.outcome.label())
                }
            };
            lines.event(level, "AXON_CALL", |line| {
                line.text(word, &call.message, "outcome", "message");
                line.json_only("backend", call.backend.label());
                line.number("duration_us", call.took.as_micros());
            });
        }
        if let Some(refusal) = &observation.refusal {
            let level = if refusal.code.status() >= 500 { Level::Warn } else { Level::Info };
            lines.event(level, "REFUSED", |line| line.text(refusal.code.name(), &refusal.why, "code", "why"));
        }
        lines.event(Level::Info, "REQUEST", |line| {
            let (method, path) = observation.head.map_or(("-", "-"), |h| (h.method(), h.path()));
            line.request(method, path, observation.status, observation.took());
            line.json_only("request_id", observation.ids.request());
        });
    }
}

struct Lines<'a> {
    format: LineFormat,
    least: LevelFilter,
    at: &'a str,
    id: &'a str,
    out: &'a mut Vec<u8>,
}

impl Lines<'_> {
    fn event(&mut self, level: Level, event: &str, rest: impl FnOnce(&mut Line<'_>)) {
        if level > self.least {
            return;
        }
        let level = level.as_str();
        let parts: [&str; 9] = match self.format {
            LineFormat::Text => [self.at, " [", level, "] ", event, " [", self.id, "] ", ""],
            LineFormat::Json => [
                r#"{"timestamp":""#,
                self.at,
                r#"","level":""#,
                level,
                r#"","event":""#,
                event,
                r#"","correlation_id":""#,
                self.id,
                r#"""#,
            ],
        };
        parts.iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
        rest(&mut Line { format: self.format, out: self.out });
        self.out.extend_from_slice(match self.format {
            LineFormat::Text => b"\n",
            LineFormat::Json => b"}\n",
        });
    }
}

struct Line<'a> {
    format: LineFormat,
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    /// `word: text`, or two members.
    fn text(&mut self, word: &str, text: &str, word_name: &str, text_name: &str) {
        match self.format {
            LineFormat::Text => {
                self.out.extend_from_slice(word.as_bytes());
                self.out.extend_from_slice(b": ");
                escape(bounded(text), self.out);
            }
            LineFormat::Json => {
                self.json_only(word_name, word);
                self.json_only(text_name, text);
            }
        }
    }

    fn request(&mut self, method: &str, path: &str, status: u16, took: Duration) {
        match self.format {
            LineFormat::Text => {
                let (mut number, mut time) = (itoa::Buffer::new(), itoa::Buffer::new());
                let (status, took) = (number.format(status), time.format(took.as_millis() as u64));
                let parts = [bounded(method), " ", bounded(path), " ", status, " ", took, "ms"];
                parts.iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
            }
            LineFormat::Json => {
                self.json_only("method", method);
                self.json_only("path", path);
                self.number("status", u128::from(status));
                self.number("duration_us", took.as_micros());
            }
        }
    }

    fn json_only(&mut self, name: &str, value: &str) {
        if self.format == LineFormat::Json {
            let _ = write!(self.out, r#","{name}":"#);
            json_string(bounded(value), self.out);
        }
    }

    fn number(&mut self, name: &str, value: u128) {
        if self.format == LineFormat::Json {
            let _ = write!(self.out, r#","{name}":{value}"#);
        }
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes, cut between characters.
fn bounded(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Control characters and the separators that some viewers break lines at, as `\u{…}`.
fn escape(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return out.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        if is_hidden(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            let _ = write!(out, "{c}");
        }
    }
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A JSON string that holds nothing hidden: JSON itself escapes only what is below a space.
fn json_string(text: &str, out: &mut Vec<u8>) {
    if text.is_ascii() && !text.bytes().any(|b| b == 0x7f) {
        let _ = serde_json::to_writer(out, text);
        return;
    }
    for c in serde_json::to_string(text).unwrap_or_default().chars() {
        let _ = if is_hidden(c) { write!(out, "\\u{:04x}", u32::from(c)) } else { write!(out, "{c}") };
    }
}

/// How `env_logger` writes the gateway's own records, in the same two forms.
pub fn record(
    format: LineFormat,
    now_unix: Duration,
    record: &log::Record<'_>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + now_unix);
    let message = record.args().to_string();
    match format {
        LineFormat::Text => {
            let mut text = Vec::with_capacity(message.len());
            escape(&message, &mut text);
            write!(out, "{at} [{}] ", record.level())?;
            out.write_all(&text)?;
            out.write_all(b"\n")
        }
        LineFormat::Json => {
            let mut json = Vec::with_capacity(message.len() + 2);
            json_string(&message, &mut json);
            write!(out, r#"{{"timestamp":"{at}","level":"{}","event":"LOG","message":"#, record.level())?;
            out.write_all(&json)?;
            out.write_all(b"}\n")
        }
    }
}
