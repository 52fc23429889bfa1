//! One value that was written, read as what it should be.
//!
//! A read that fails reports once and answers `None`, so that reading goes on.
//!
//! Invariant: a value that is masked, or stands in a confidential file, is never repeated in a message.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use secrecy::SecretString;

use super::block::Block;
use super::context::{Context, Draft};
use super::names::{nearest, or};
use super::problem::Severity;
use super::secret;
use super::source::{Source, Span, shown};
use super::units::{self, Rate, UnitError};
use super::yaml::{Entry, Kind, Node, Scalar, ScalarType};

/// Largest file that holds one secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
const SECRET_HELP: &str = "write `{ env: NAME }` or `{ file: path }`";

/// One value that was written.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    context: &'a Context<'a>,
    source: &'a Rc<Source>,
    node: &'a Node,
    /// Its key, empty for the items of a list.
    name: &'a str,
    key_span: Option<Span>,
}

/// What a text may be.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// In the words of the reference page.
    pub form: &'static str,
    pub accepts: fn(&str) -> bool,
}

impl<'a> Value<'a> {
    pub(super) fn of_document(context: &'a Context<'a>, source: &'a Rc<Source>, root: &'a Node) -> Self {
        Self { context, source, node: root, name: "", key_span: None }
    }

    pub(super) fn of_entry(context: &'a Context<'a>, source: &'a Rc<Source>, entry: &'a Entry) -> Self {
        Self { context, source, node: &entry.value, name: &entry.key, key_span: Some(entry.key_span) }
    }

    pub fn context(&self) -> &'a Context<'a> {
        self.context
    }

    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    /// The file it stands in.
    pub fn file(&self) -> &'a Path {
        &self.source.path
    }

    /// Where it begins.
    pub fn start(&self) -> Span {
        self.node.span
    }

    /// Where it is complained about: a block on its key, anything else on itself.
    pub fn place(&self) -> Span {
        let inline = match &self.node.kind {
            Kind::Scalar(_) | Kind::Refused => true,
            Kind::List { inline, .. } | Kind::Map { inline, .. } => *inline,
        };
        match self.key_span {
            Some(key) if !inline || self.node.span.is_empty() => key,
            _ => self.node.span,
        }
    }

    /// Reports an error; always `None`.
    pub fn fail<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.complain(message.into(), Some(help.into()));
        None
    }

    /// Reports something that does not refuse the configuration.
    pub fn warn(&self, message: impl Into<String>, help: impl Into<String>) {
        self.draft(Severity::Warning, Some(self.place()), message.into(), Some(help.into()));
    }

    /// As [`Value::warn`], about the file as a whole.
    pub fn warn_of_file(&self, message: impl Into<String>, help: impl Into<String>) {
        self.draft(Severity::Warning, None, message.into(), Some(help.into()));
    }

    /// `text` in backticks, or a neutral noun where it may not be repeated.
    pub fn quoted(&self, text: &str) -> String {
        if self.source.may_repeat(self.node.span) { format!("`{}`", shown(text)) } else { "the value".to_owned() }
    }

    pub(super) fn complain(&self, message: String, help: Option<String>) {
        self.draft(Severity::Error, Some(self.place()), message, help);
    }

    fn draft(&self, severity: Severity, span: Option<Span>, message: String, help: Option<String>) {
        self.context.add(Draft { severity, source: Rc::clone(self.source), span, message, help });
    }

    /// `expected …, found …`; nothing if the value was refused before.
    fn expected<T>(&self, what: &str) -> Option<T> {
        let found = match &self.node.kind {
            Kind::Refused => return None,
            Kind::List { .. } => "a list".to_owned(),
            Kind::Map { .. } => "a block".to_owned(),
            Kind::Scalar(scalar) => match scalar.scalar_type() {
                ScalarType::Null if scalar.text.is_empty() => "nothing".to_owned(),
                ScalarType::Null => "null".to_owned(),
                ScalarType::Boolean(_) | ScalarType::Integer | ScalarType::Float => self.quoted(&scalar.text),
                ScalarType::Text => format!("the text {}", self.quoted(&scalar.text)),
            },
        };
        self.complain(format!("expected {what}, found {found}"), None);
        None
    }

    fn scalar(&self, what: &str) -> Option<&'a Scalar> {
        match &self.node.kind {
            Kind::Scalar(scalar) if scalar.scalar_type() != ScalarType::Null => Some(scalar),
            _ => self.expected(what),
        }
    }

    /// Whether it is null, written out or left blank.
    pub fn is_null(&self) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.scalar_type() == ScalarType::Null)
    }

    pub(super) fn is_blank(&self) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.plain && scalar.text.is_empty())
    }

    /// What was written, whatever its type; `what` says what was expected.
    pub fn literal(&self, what: &str) -> Option<&'a str> {
        self.scalar(what).map(|scalar| scalar.text.as_str())
    }

    /// A text, its type not in doubt: a plain number, boolean or null is none.
    pub fn text(&self) -> Option<&'a str> {
        let scalar = self.scalar("text")?;
        match scalar.scalar_type() {
            ScalarType::Text => Some(&scalar.text),
            _ => self.fail(
                format!("expected text, found {}", self.quoted(&scalar.text)),
                format!("put it in quotes: {}", self.quoted_or(&format!("\"{}\"", scalar.text), "\"…\"")),
            ),
        }
    }

    fn quoted_or(&self, text: &str, otherwise: &str) -> String {
        let text = if self.source.may_repeat(self.node.span) { shown(text) } else { otherwise.to_owned() };
        format!("`{text}`")
    }

    /// A text that follows a rule.
    pub fn text_like(&self, rule: Rule) -> Option<String> {
        let text = self.text()?;
        if (rule.accepts)(text) {
            return Some(text.to_owned());
        }
        self.fail(format!("{} is not valid here", self.quoted(text)), format!("write {}", rule.form))
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.scalar("`true` or `false`")?.scalar_type() {
            ScalarType::Boolean(value) => Some(value),
            _ => self.expected("`true` or `false`"),
        }
    }

    /// A whole number, plain and in decimal.
    pub fn integer<T>(&self, range: &RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let scalar = self.scalar("a whole number")?;
        if scalar.scalar_type() != ScalarType::Integer || !scalar.text.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.expected("a whole number");
        }
        match scalar.text.parse::<u64>().ok().and_then(|number| T::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.out_of_range(&scalar.text, &range.start().to_string(), &range.end().to_string()),
        }
    }

    /// A duration with its unit.
    pub fn duration(&self, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let text = &self.scalar("a duration such as `5s`")?.text;
        match units::duration(text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                let (least, most) = (units::duration_text(*range.start()), units::duration_text(*range.end()));
                self.out_of_range(text, &least, &most)
            }
            Err(error) => self.bad_quantity(text, error, "duration", units::DURATION_UNITS, "ms", "5s"),
        }
    }

    /// A size with its unit, in bytes.
    pub fn size(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let text = &self.scalar("a size such as `64KiB`")?.text;
        match units::size(text) {
            Ok(size) if range.contains(&size) => Some(size),
            Ok(_) => {
                let (least, most) = (units::size_text(*range.start()), units::size_text(*range.end()));
                self.out_of_range(text, &least, &most)
            }
            Err(error) => self.bad_quantity(text, error, "size", units::SIZE_UNITS, "KiB", "64KiB"),
        }
    }

    /// A rate with its window.
    pub fn rate(&self) -> Option<Rate> {
        let text = &self.scalar("a rate such as `100/min`")?.text;
        units::rate(text)
            .map_or_else(|error| self.bad_quantity(text, error, "rate", units::RATE_UNITS, "/min", "100/min"), Some)
    }

    /// A percentage, as a whole number of hundredths.
    pub fn percent(&self, range: &RangeInclusive<u8>) -> Option<u8> {
        let text = &self.scalar("a percentage such as `20%`")?.text;
        match units::percent(text) {
            Ok(number) => match u8::try_from(number).ok().filter(|number| range.contains(number)) {
                Some(number) => Some(number),
                None => self.out_of_range(text, &format!("{}%", range.start()), &format!("{}%", range.end())),
            },
            Err(error) => self.bad_quantity(text, error, "percentage", "`%`", "%", "20%"),
        }
    }

    /// Two durations, the least and the most, as `100ms..400ms`.
    pub fn durations(&self, range: &RangeInclusive<Duration>) -> Option<(Duration, Duration)> {
        let text = &self.scalar("two durations such as `100ms..400ms`")?.text;
        let (least, most) = (units::duration_text(*range.start()), units::duration_text(*range.end()));
        match units::durations(text) {
            Ok((one, other)) if one > other => {
                self.fail(format!("{} ends before it begins", self.quoted(text)), "write the shorter one first")
            }
            Ok(span) if range.contains(&span.0) && range.contains(&span.1) => Some(span),
            Ok(_) => self.out_of_range(text, &least, &most),
            Err(_) => self.fail(
                format!("{} is not two durations", self.quoted(text)),
                format!("write the least and the most as `100ms..400ms`, units are {}", units::DURATION_UNITS),
            ),
        }
    }

    fn out_of_range<T>(&self, text: &str, least: &str, most: &str) -> Option<T> {
        self.fail(format!("{} is out of range", self.quoted(text)), format!("write {least} to {most}"))
    }

    fn bad_quantity<T>(
        &self,
        text: &str,
        error: UnitError,
        what: &str,
        units: &str,
        unit: &str,
        example: &str,
    ) -> Option<T> {
        let quoted = self.quoted(text);
        match error {
            UnitError::NoUnit => {
                let written = self.quoted_or(&format!("{text}{unit}"), example);
                self.fail(format!("{what} {quoted} has no unit"), format!("use {units}, as in {written}"))
            }
            UnitError::UnknownUnit => {
                self.fail(format!("{what} {quoted} has an unknown unit"), format!("use {units}, as in `{example}`"))
            }
            UnitError::Fraction => {
                self.fail(format!("{what} {quoted} is not a whole number"), "use a smaller unit".to_owned())
            }
            UnitError::NoNumber => {
                self.fail(format!("{quoted} is not a {what}"), format!("write a whole number and a unit: `{example}`"))
            }
            UnitError::Zero => self.fail(format!("{what} {quoted} would let nothing through"), "write at least 1"),
            UnitError::TooLarge => self.fail(format!("{what} {quoted} is too large"), "write a smaller number"),
        }
    }

    /// One of a few words. `later` are words that a later version will know.
    pub fn word<T: Copy>(&self, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        if self.is_later_form(later) {
            return None;
        }
        let text = &self.scalar(&or(&names))?.text;
        if let Some((_, value)) = words.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        if later.contains(&text.as_str()) {
            return self.fail(format!("`{text}` is not supported by this version"), format!("write {}", or(&names)));
        }
        let help = match nearest(text, &names) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("write {}", or(&names)),
        };
        self.fail(format!("{} is not {}", self.quoted(text), or(&names)), help)
    }

    /// Whether it is this very word.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.text == word)
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List { .. })
    }

    /// Whether it is a block.
    pub fn is_block(&self) -> bool {
        matches!(self.node.kind, Kind::Map { .. })
    }

    /// The items of a list.
    pub fn items(&self) -> Option<impl Iterator<Item = Value<'a>> + use<'a>> {
        let Kind::List { items, .. } = &self.node.kind else { return self.expected("a list") };
        let Self { context, source, .. } = *self;
        Some(items.iter().map(move |node| Value { context, source, node, name: "", key_span: None }))
    }

    /// The items of a list, or the value itself as the only one.
    pub fn one_or_more(&self) -> Vec<Value<'a>> {
        if self.is_list() { self.items().into_iter().flatten().collect() } else { vec![*self] }
    }

    /// Reads one or more values; refuses equal ones, and more or fewer than `count`.
    pub fn distinct<T: PartialEq>(
        &self,
        count: RangeInclusive<usize>,
        read: impl FnMut(Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.distinct_by(count, read, T::eq)
    }

    /// As [`Value::distinct`], with another notion of equal.
    pub fn distinct_by<T>(
        &self,
        count: RangeInclusive<usize>,
        mut read: impl FnMut(Value<'a>) -> Option<T>,
        equal: impl Fn(&T, &T) -> bool,
    ) -> Option<Vec<T>> {
        let values = self.one_or_more();
        if !count.contains(&values.len()) {
            let message = match values.len() {
                0 => "the list is empty".to_owned(),
                items => format!("the list has {items} items"),
            };
            return self.fail(message, format!("write {} to {}", count.start(), count.end()));
        }
        let mut seen: Vec<T> = Vec::with_capacity(values.len());
        let mut complete = true;
        for value in values {
            match read(value) {
                Some(item) if seen.iter().any(|earlier| equal(earlier, &item)) => {
                    value.complain("listed twice".to_owned(), Some("remove one of the two".to_owned()));
                    complete = false;
                }
                Some(item) => seen.push(item),
                None => complete = false,
            }
        }
        complete.then_some(seen)
    }

    /// Reads a block; what `read` does not ask for is unknown.
    pub fn block<T>(&self, path: &str, read: impl FnOnce(&mut Block<'a>) -> T) -> Option<T> {
        let Kind::Map { entries, .. } = &self.node.kind else { return self.expected("a block of `key: value` lines") };
        if entries.is_empty() {
            return self.fail("the block is empty", "write its keys, or remove it to use the defaults");
        }
        let mut block = Block::written(self, self.source, entries, path);
        let read = read(&mut block);
        block.finish();
        Some(read)
    }

    /// The entries of a block whose keys are names of the operator's own, 1 to `most` of them.
    pub fn named_entries(&self, noun: &str, most: usize) -> Option<Vec<(&'a str, Value<'a>)>> {
        let Kind::Map { entries, .. } = &self.node.kind else {
            return self.expected(&format!("a block of named {noun}s"));
        };
        match entries.len() {
            0 => self.fail("the block is empty", format!("name one {noun}")),
            count if count > most => self.fail(format!("the block has {count} {noun}s"), format!("write 1 to {most}")),
            _ => Some(entries.iter().map(|entry| (entry.key.as_str(), self.entry(entry))).collect()),
        }
    }

    fn entry(&self, entry: &'a Entry) -> Value<'a> {
        Self::of_entry(self.context, self.source, entry)
    }

    /// Reports at the value's key.
    pub fn fail_at_key<T>(&self, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.draft(
            Severity::Error,
            Some(self.key_span.unwrap_or_else(|| self.place())),
            message.into(),
            Some(help.into()),
        );
        None
    }

    /// Whether it is a block of a form that a later version will know; that is reported.
    pub fn is_later_form(&self, later: &[&str]) -> bool {
        let Kind::Map { entries, .. } = &self.node.kind else { return false };
        let Some(entry) = entries.iter().find(|entry| later.contains(&entry.key.as_str())) else { return false };
        let message = format!("`{}` is not supported by this version", entry.key);
        self.draft(Severity::Error, Some(entry.key_span), message, Some("remove it".to_owned()));
        true
    }

    /// Keeps the value out of every message and excerpt.
    pub fn hide(&self) {
        self.source.mask(self.node.span);
    }

    /// A path, relative to the file it stands in.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            return self.fail("the path is empty or holds a NUL", "write the path of a file");
        }
        Some(self.directory().join(text))
    }

    /// The file that the value names, with its text.
    pub fn named_file(&self, bytes_max: u64) -> Option<(PathBuf, String)> {
        let path = self.path()?;
        match self.context.read(&path, bytes_max) {
            Ok(text) => Some((path, text)),
            Err(reason) => self.fail(
                format!("cannot read {}: {reason}", self.quoted(&path.to_string_lossy())),
                "paths are relative to the file that names them",
            ),
        }
    }

    /// The directory of the file it stands in.
    pub fn directory(&self) -> &'a Path {
        self.source.path.parent().unwrap_or(Path::new(""))
    }

    /// A secret by reference: `{ env: NAME }` or `{ file: path }`. Anything else is refused unseen.
    pub fn secret(&self) -> Option<SecretString> {
        if self.is_block() {
            return self.secret_reference();
        }
        self.hide();
        self.fail("a secret cannot stand in this file", SECRET_HELP)
    }

    /// A secret by reference or as a plain text, for files that are secret themselves.
    pub fn secret_or_plain(&self) -> Option<(SecretString, Written)> {
        if self.is_block() {
            return self.secret_reference().map(|secret| (secret, Written::Referenced));
        }
        self.hide();
        let Kind::Scalar(scalar) = &self.node.kind else { return self.fail("expected a secret", SECRET_HELP) };
        match scalar.scalar_type() {
            ScalarType::Text if scalar.text.is_empty() => self.fail("the secret is empty", SECRET_HELP),
            ScalarType::Text => Some((scalar.text.clone().into(), Written::Plain)),
            ScalarType::Null | ScalarType::Boolean(_) | ScalarType::Integer | ScalarType::Float => {
                self.fail("expected text for the secret", "put it in quotes")
            }
        }
    }

    fn secret_reference(&self) -> Option<SecretString> {
        if self.source.is_fetched() {
            return self.fail("what is fetched cannot refer to this machine", "write the secret itself");
        }
        let (env, file) = self.block("", |block| (block.optional("env"), block.optional("file")))?;
        match (env, file) {
            (Some(name), None) => {
                let text = name.text()?;
                match self.context.variable(text) {
                    Ok(value) => Some(value.into()),
                    Err(reason) => {
                        let named =
                            if is_variable_name(text) { format!("`{text}`") } else { "of that name".to_owned() };
                        name.fail(format!("environment variable {named} {reason}"), "set it, or write `{ file: path }`")
                    }
                }
            }
            (None, Some(file)) => {
                let (_, text) = file.named_file(SECRET_BYTES_MAX)?;
                match secret::from_text(&text) {
                    "" => file.fail("the secret file is empty", "write the secret into it"),
                    secret => Some(secret.into()),
                }
            }
            _ => self.fail("expected exactly one of `env` and `file`", SECRET_HELP),
        }
    }

    /// Any value, as JSON. Infinities and NaN, which JSON does not have, are refused.
    pub fn json(&self) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        match &self.node.kind {
            Kind::Refused => None,
            Kind::List { .. } => {
                let items: Vec<Option<Json>> = self.items()?.map(|item| item.json()).collect();
                items.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
            }
            Kind::Map { entries, .. } => {
                let members: Vec<Option<(String, Json)>> = entries
                    .iter()
                    .map(|entry| self.entry(entry).json().map(|value| (entry.key.clone(), value)))
                    .collect();
                members.into_iter().collect::<Option<serde_json::Map<_, _>>>().map(Json::Object)
            }
            Kind::Scalar(scalar) => match scalar.scalar_type() {
                ScalarType::Null => Some(Json::Null),
                ScalarType::Boolean(value) => Some(Json::Bool(value)),
                ScalarType::Text => Some(Json::String(scalar.text.clone())),
                ScalarType::Integer | ScalarType::Float => match scalar.text.parse::<serde_json::Number>() {
                    Ok(number) => Some(Json::Number(number)),
                    Err(_) => self.fail(
                        format!("{} is not a number that JSON can hold", self.quoted(&scalar.text)),
                        "write it in decimal, or put it in quotes if it is text",
                    ),
                },
            },
        }
    }
}

impl Value<'_> {
    /// What was found, for a message.
    pub(super) fn found(&self) -> String {
        match &self.node.kind {
            Kind::Scalar(scalar) => self.quoted(&scalar.text),
            Kind::List { .. } => "a list".to_owned(),
            Kind::Map { .. } => "a block".to_owned(),
            Kind::Refused => "a refused value".to_owned(),
        }
    }
}

/// How a secret was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Plain,
    Referenced,
}

/// `UPPER_CASE` with an underscore: what no secret looks like, so that it may be repeated even
/// from a confidential file.
fn is_variable_name(text: &str) -> bool {
    text.len() <= 64
        && text.contains('_')
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use secrecy::ExposeSecret;

    use super::super::{Colour, Confidentiality};
    use super::*;

    /// Reads a file of this text with `read`; problems as one-line forms and, rendered, for search.
    fn reading<T>(text: &str, read: impl FnOnce(Value<'_>) -> Option<T>) -> Result<T, (Vec<String>, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("secret"), "from the file\n").unwrap();
        std::fs::write(folder.path().join("blank"), "\n").unwrap();
        let environment = BTreeMap::from([("A_SECRET".to_owned(), "from the environment".to_owned())]);
        let context = Context::new(&environment);
        let value = {
            let document = context.open(&path, 1024, Confidentiality::Public, None);
            document.and_then(|document| read(document.root(&context)))
        };
        context.finish(value).map(|(value, _)| value).map_err(|problems| {
            let lines = problems.iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect();
            (lines, format!("{problems}{}{}", problems.render(Colour::Ansi), problems.to_json()))
        })
    }

    fn secret_of(text: &str) -> Result<String, (Vec<String>, String)> {
        reading(text, |root| root.block("", |b| b.key("x", "").required("", "")?.secret())?)
            .map(|secret| secret.expose_secret().to_owned())
    }

    #[test]
    fn secrets_are_resolved() {
        assert_eq!(secret_of("x: { env: A_SECRET }"), Ok("from the environment".to_owned()));
        assert_eq!(secret_of("x: { file: secret }"), Ok("from the file".to_owned()));
    }

    #[test]
    fn secrets_that_cannot_be_resolved_name_their_line() {
        for (text, expected) in [
            ("x: { env: NO_SUCH }", "1:11 environment variable `NO_SUCH` is not set"),
            ("\nx: { file: nowhere }", "2:12 cannot read `"),
            ("x: { file: blank }", "1:12 the secret file is empty"),
            ("x: { file: secret, env: A_SECRET }", "1:4 expected exactly one of `env` and `file`"),
            ("x: { enw: A_SECRET }", "1:4 expected exactly one of `env` and `file`"),
        ] {
            let (problems, _) = secret_of(text).unwrap_err();
            assert!(problems[0].starts_with(expected), "{text}: {problems:?}");
        }
    }

    #[test]
    fn plain_secrets_are_refused_unseen() {
        for text in ["x: hunter2", "x: [hunter2]", "{ x: \"hunter2\", hunter: 1 }", "y: 1\nx: |\n  hunter2\n"] {
            let (problems, rendered) = secret_of(text).unwrap_err();
            assert!(problems.iter().any(|p| p.ends_with("a secret cannot stand in this file")), "{problems:?}");
            assert!(!rendered.contains("hunter2"), "{rendered}");
        }
    }

    #[test]
    fn json_values_keep_their_types() {
        let json = reading("{a: 1, b: 1.5, c: '1', d: [true, null], e: {f: -2}, g: 1e3}", |root| root.json());
        let expected = serde_json::json!({"a": 1, "b": 1.5, "c": "1", "d": [true, null], "e": {"f": -2}, "g": 1e3});
        assert_eq!(json, Ok(expected));
        let (problems, _) = reading("[0x10, .inf]", |root| root.json()).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn files_are_bounded() {
        let (problems, _) = reading(&"#".repeat(1025), |root| root.json()).unwrap_err();
        assert_eq!(problems, ["0:0 cannot read the file: larger than 1KiB"]);
    }

    #[test]
    fn problems_are_bounded() {
        let text: String = (0..500).map(|n| format!("k{n}: 1\n")).collect();
        let (problems, rendered) = reading(&text[..1000], |root| root.block("", |_| ())).unwrap_err();
        assert_eq!(problems.len(), super::super::problem::PROBLEMS_MAX);
        assert!(rendered.contains("of them not shown"), "{rendered}");
    }
}
