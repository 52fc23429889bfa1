//! Blocks of keys: each is asked for by name, and whatever nobody asked for is unknown.
//!
//! A key that cannot be read yields its default, so that reading goes on and finds the other
//! problems. The same reads, run over absent blocks, list every key with its form and default for
//! the reference page, which therefore cannot drift.
//!
//! Invariant: a block that was read has no key without a reader, and none that is blank.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use super::context::{Context, Draft};
use super::names::{and, nearest, or};
use super::problem::Severity;
use super::source::{Source, Span, shown};
use super::units::{self, Rate};
use super::value::{Rule, Value};
use super::yaml::Entry;

/// A block being read, or one that is absent and yields defaults.
pub struct Block<'a> {
    context: &'a Context<'a>,
    source: Option<&'a Rc<Source>>,
    entries: &'a [Entry],
    place: Span,
    name: &'a str,
    path: String,
    asked: Vec<&'static str>,
    later: &'static [&'static str],
    errors_before: usize,
}

impl<'a> Block<'a> {
    /// An absent block at this dotted path.
    pub fn absent(context: &'a Context<'a>, path: &str) -> Self {
        Self {
            context,
            source: None,
            entries: &[],
            place: Span::TOP,
            name: "",
            path: path.to_owned(),
            asked: Vec::new(),
            later: &[],
            errors_before: context.errors(),
        }
    }

    pub(super) fn written(value: &Value<'a>, source: &'a Rc<Source>, entries: &'a [Entry], path: &str) -> Self {
        let (place, name) = (value.place(), value.name());
        Self { source: Some(source), entries, place, name, ..Self::absent(value.context(), path) }
    }

    pub fn context(&self) -> &'a Context<'a> {
        self.context
    }

    /// Whether nothing was wrong so far: only then is it worth comparing one value with another.
    pub fn is_clean(&self) -> bool {
        self.context.errors() == self.errors_before
    }

    /// Keys that a later version will know; they are refused by name, without a guess.
    pub fn later(&mut self, keys: &'static [&'static str]) {
        self.later = keys;
    }

    /// A key whose absence is no matter of a default, for the reader to look at.
    pub fn optional(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.asked.push(name);
        let value = self.find(name)?;
        if value.is_blank() {
            value.fail(format!("`{name}` is blank"), "write a value, or remove the key")
        } else {
            Some(value)
        }
    }

    /// Asks for a key.
    pub fn key(&mut self, name: &'static str, doc: &'static str) -> Key<'a> {
        self.asked.push(name);
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Key {
            context: self.context,
            value: self.find(name),
            parent: self.source.map(|source| (source, self.place, self.name)),
            name,
            path,
            doc,
        }
    }

    fn find(&self, name: &str) -> Option<Value<'a>> {
        let source = self.source?;
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(Value::of_entry(self.context, source, entry))
    }

    /// Reports an error of the block as a whole; always `None`.
    pub fn fail<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.draft(Severity::Error, message.into(), help.into());
        None
    }

    /// Reports something about the block as a whole that does not refuse the configuration.
    pub fn warn(&self, message: impl Into<String>, help: impl Into<String>) {
        self.draft(Severity::Warning, message.into(), help.into());
    }

    fn draft(&self, severity: Severity, message: String, help: String) {
        if let Some(source) = self.source {
            let (source, span) = (Rc::clone(source), Some(self.place));
            self.context.add(Draft { severity, source, span, message, help: Some(help) });
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) {
        let Some(source) = self.source else { return };
        for entry in self.entries {
            if self.asked.iter().any(|name| *name == entry.key) {
                continue;
            }
            let (message, help) = if self.later.iter().any(|name| *name == entry.key) {
                (format!("`{}` is not supported by this version", entry.key), "remove it".to_owned())
            } else {
                let name = if source.is_confidential() { String::new() } else { format!(" `{}`", shown(&entry.key)) };
                let help = match nearest(&entry.key, &self.asked) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys here are {}", and(&self.asked)),
                };
                (format!("unknown key{name}"), help)
            };
            self.context.add(Draft {
                severity: Severity::Error,
                source: Rc::clone(source),
                span: Some(entry.key_span),
                message,
                help: Some(help),
            });
        }
    }
}

/// A key that was asked for; it has yet to be said what it holds.
pub struct Key<'a> {
    context: &'a Context<'a>,
    value: Option<Value<'a>>,
    parent: Option<(&'a Rc<Source>, Span, &'a str)>,
    name: &'static str,
    path: String,
    doc: &'static str,
}

impl<'a> Key<'a> {
    /// The value as it stands, blank or not, before anything is said about it.
    pub fn peek(&self) -> Option<Value<'a>> {
        self.value
    }

    /// The value of an optional key.
    pub fn optional(&self, form: &str, default: impl Into<String>) -> Option<Value<'a>> {
        self.context.record(&self.path, form, Some(default.into()), self.doc);
        self.filled()
    }

    /// The value of an optional key that may be null.
    pub fn nullable(&self, form: &str) -> Option<Value<'a>> {
        self.context.record(&self.path, form, Some("null".to_owned()), self.doc);
        match self.value {
            Some(value) if value.is_null() && !value.is_blank() => None,
            _ => self.filled(),
        }
    }

    /// The value of a required key.
    pub fn required(&self, form: &str, sample: &str) -> Option<Value<'a>> {
        self.context.record(&self.path, form, None, self.doc);
        self.complain_if_missing(sample);
        self.filled()
    }

    /// The value of a required key that may be null, written out.
    pub fn required_or_null(&self, form: &str, sample: &str) -> Option<Value<'a>> {
        self.context.record(&self.path, form, None, self.doc);
        self.complain_if_missing(sample);
        self.value.filter(|value| value.is_null() && !value.is_blank()).or_else(|| self.filled())
    }

    fn complain_if_missing(&self, sample: &str) {
        let Some((source, span, parent)) = self.parent else { return };
        if self.value.is_some() {
            return;
        }
        let message = match parent {
            "" => format!("`{}` is missing", self.name),
            _ if source.is_confidential() => format!("`{}` is missing", self.name),
            parent => format!("`{}` is missing from `{}`", self.name, shown(parent)),
        };
        let help = Some(format!("add `{}: {sample}`", self.name));
        let (source, span) = (Rc::clone(source), Some(span));
        self.context.add(Draft { severity: Severity::Error, source, span, message, help });
    }

    fn filled(&self) -> Option<Value<'a>> {
        let value = self.value?;
        if value.is_blank() {
            return value.fail(format!("`{}` is blank", self.name), "write a value, or remove the key");
        }
        if value.is_null() {
            return value.fail(format!("`{}` is null", self.name), "write a value, or remove the key");
        }
        Some(value)
    }

    /// A duration; `range` bounds it.
    pub fn duration(self, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let (least, most) = (units::duration_text(*range.start()), units::duration_text(*range.end()));
        let value = self.optional(&format!("duration, {least} to {most}"), units::duration_text(default));
        value.and_then(|value| value.duration(&range)).unwrap_or(default)
    }

    /// A size in bytes; `range` bounds it.
    pub fn size(self, default: u64, range: RangeInclusive<u64>) -> u64 {
        let (least, most) = (units::size_text(*range.start()), units::size_text(*range.end()));
        let value = self.optional(&format!("size, {least} to {most}"), units::size_text(default));
        value.and_then(|value| value.size(&range)).unwrap_or(default)
    }

    /// A rate.
    pub fn rate(self, default: Rate) -> Rate {
        let value = self.optional("rate, as `10/s`, `100/min` or `1000/h`", units::rate_text(default));
        value.and_then(|value| value.rate()).unwrap_or(default)
    }

    /// A percentage, as a whole number of hundredths; `range` bounds it.
    pub fn percent(self, default: u8, range: RangeInclusive<u8>) -> u8 {
        let form = format!("percentage, {}% to {}%", range.start(), range.end());
        self.optional(&form, format!("{default}%")).and_then(|value| value.percent(&range)).unwrap_or(default)
    }

    /// Two durations, the least and the most; `range` bounds both.
    pub fn durations(self, default: (Duration, Duration), range: RangeInclusive<Duration>) -> (Duration, Duration) {
        let text = |(least, most)| format!("{}..{}", units::duration_text(least), units::duration_text(most));
        let form = format!("two durations in {}", text((*range.start(), *range.end())));
        self.optional(&form, text(default)).and_then(|value| value.durations(&range)).unwrap_or(default)
    }

    /// A whole number; `range` bounds it.
    pub fn integer<T>(self, default: T, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let value = self.optional(&format!("whole number, {} to {}", range.start(), range.end()), default.to_string());
        value.and_then(|value| value.integer(&range)).unwrap_or(default)
    }

    /// `true` or `false`.
    pub fn boolean(self, default: bool) -> bool {
        let value = self.optional("`true` or `false`", default.to_string());
        value.and_then(|value| value.boolean()).unwrap_or(default)
    }

    /// One of a few words, the default by its name. `later` are words that a later version will know.
    pub fn word<T: Copy + PartialEq>(self, default: T, words: &[(&str, T)], later: &[&str]) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let name = words.iter().find(|(_, value)| *value == default).map_or("", |(name, _)| name);
        self.optional(&or(&names), name).and_then(|value| value.word(words, later)).unwrap_or(default)
    }

    /// A text that follows a rule.
    pub fn text(self, default: &str, rule: Rule) -> String {
        self.optional(rule.form, default).and_then(|value| value.text_like(rule)).unwrap_or_else(|| default.to_owned())
    }

    /// A required text that follows a rule.
    pub fn required_text(self, rule: Rule, sample: &str) -> Option<String> {
        self.required(rule.form, sample)?.text_like(rule)
    }

    /// An optional block; when absent, `read` yields its defaults.
    pub fn block<T>(self, read: impl Fn(&mut Block<'a>) -> T) -> T {
        self.context.record(&self.path, "block", Some("the defaults below".to_owned()), self.doc);
        let written = self.filled().and_then(|value| value.block(&self.path, &read));
        written.unwrap_or_else(|| read(&mut Block::absent(self.context, &self.path)))
    }

    /// A required block.
    pub fn required_block<T>(self, sample: &str, read: impl FnOnce(&mut Block<'a>) -> Option<T>) -> Option<T> {
        let value = self.required("block", sample);
        if self.context.is_recording() {
            return read(&mut Block::absent(self.context, &self.path));
        }
        value?.block(&self.path, read)?
    }

    /// A block, or the word `disabled`; `absent` says what no key means.
    pub fn switch<T>(self, absent: Switch, read: impl Fn(&mut Block<'a>) -> T) -> Option<T> {
        let default = match absent {
            Switch::On => "the defaults below",
            Switch::Off => "disabled",
        };
        match self.optional("a block, or `disabled`", default) {
            Some(value) if value.is_word("disabled") => None,
            Some(value) if !value.is_block() => value.fail(
                format!("expected a block or `disabled`, found {}", value.found()),
                format!("write `{}: disabled` to switch it off", self.name),
            ),
            Some(value) => value.block(&self.path, read),
            None if absent == Switch::On || self.context.is_recording() => {
                Some(read(&mut Block::absent(self.context, &self.path)))
            }
            None => None,
        }
    }
}

/// What the absence of a switchable block means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    On,
    Off,
}
