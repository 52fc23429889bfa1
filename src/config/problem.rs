//! What is wrong with a file, and how it is shown: in one line, as `rustc` would, or as JSON.
//!
//! Invariant: messages and excerpts hold nothing confidential when they get here; rendering only
//! arranges them. Tone: lower case, no full stop, backticks round input, says what to do next.

use std::fmt;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::source::{Excerpt, shown_path};

/// Most problems that are kept; later ones are counted.
pub const PROBLEMS_MAX: usize = 100;

/// Whether a problem refuses the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// Whether a rendering uses ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

/// One problem and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub file: PathBuf,
    /// From 1; 0 is the file as a whole.
    pub line: u32,
    /// From 1, in characters; 0 is the file as a whole.
    pub column: u32,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The offending line, unless it may not be shown.
    pub excerpt: Option<Excerpt>,
}

/// The problems that refuse a configuration, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    omitted: usize,
}

impl Problem {
    /// As `rustc` would show it, without a newline at the end.
    pub fn render(&self, colour: Colour) -> String {
        let path = shown_path(&self.file);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let main = match &self.excerpt {
            Some(excerpt) => title.element(
                Snippet::source(excerpt.line.as_str())
                    .line_start(self.line as usize)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(excerpt.underline.clone())),
            ),
            None if self.line == 0 => title.element(Origin::path(path)),
            None => title.element(Origin::path(path).line(self.line as usize).char_column(self.column as usize)),
        };
        let mut groups = vec![main];
        if let Some(help) = &self.help {
            groups.push(Group::with_title(Level::HELP.secondary_title(help.as_str())));
        }
        match colour {
            Colour::Plain => Renderer::plain(),
            Colour::Ansi => Renderer::styled(),
        }
        .render(&groups)
    }

    /// The members `severity`, `file`, `line`, `column`, `message`, `help` (perhaps null).
    pub fn to_json(&self) -> Value {
        json!({
            "severity": match self.severity { Severity::Error => "error", Severity::Warning => "warning" },
            "file": shown_path(&self.file),
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "help": self.help,
        })
    }
}

/// `file:line:column: message`, the help in parentheses.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", shown_path(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl Problems {
    /// `omitted` is how many more there were.
    pub(super) fn new(list: Vec<Problem>, omitted: usize) -> Self {
        Self { list, omitted }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// All problems, those included that were not kept.
    pub fn count(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// All problems as `rustc` would show them, with a count at the end.
    pub fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        for problem in &self.list {
            out.push_str(&problem.render(colour));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// A list of [`Problem::to_json`].
    pub fn to_json(&self) -> Value {
        self.list.iter().map(Problem::to_json).collect()
    }

    fn summary(&self) -> String {
        let noun = if self.count() == 1 { "error" } else { "errors" };
        match self.omitted {
            0 => format!("{} {noun}", self.count()),
            omitted => format!("{} {noun}, {omitted} of them not shown", self.count()),
        }
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One line per problem.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.omitted {
            0 => Ok(()),
            _ => write!(f, "\n{}", self.summary()),
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(excerpt: Option<Excerpt>) -> Problem {
        Problem {
            severity: Severity::Error,
            file: PathBuf::from("conf/orbit.yaml"),
            line: 12,
            column: 14,
            message: "duration `500` has no unit".to_owned(),
            help: Some("use `ms`, `s`, `m` or `h`, as in `500ms`".to_owned()),
            excerpt,
        }
    }

    #[test]
    fn renders_the_excerpt() {
        let shown = problem(Some(Excerpt { line: "    connect: 500".to_owned(), underline: 13..16 }));
        assert_eq!(
            shown.render(Colour::Plain),
            "error: duration `500` has no unit
  --> conf/orbit.yaml:12:14
   |
12 |     connect: 500
   |              ^^^
   |
help: use `ms`, `s`, `m` or `h`, as in `500ms`"
        );
        assert!(shown.render(Colour::Ansi).contains("\u{1b}["));
    }

    #[test]
    fn renders_the_place_alone() {
        let hidden = problem(None).render(Colour::Plain);
        assert!(hidden.contains("--> conf/orbit.yaml:12:14\n"), "{hidden}");
        let whole = Problem { line: 0, column: 0, ..problem(None) };
        let shown = whole.render(Colour::Plain);
        assert!(shown.contains("--> conf/orbit.yaml\n") && !shown.contains("yaml:"), "{shown}");
        assert!(whole.to_string().starts_with("conf/orbit.yaml: duration"));
    }

    #[test]
    fn one_line_and_json() {
        let problems = Problems::new(vec![problem(None), problem(None)], 3);
        assert_eq!(
            problems.to_string(),
            "conf/orbit.yaml:12:14: duration `500` has no unit (use `ms`, `s`, `m` or `h`, as in `500ms`)\n\
             conf/orbit.yaml:12:14: duration `500` has no unit (use `ms`, `s`, `m` or `h`, as in `500ms`)\n\
             5 errors, 3 of them not shown"
        );
        assert_eq!(problems.to_json()[0]["column"], 14);
    }
}
