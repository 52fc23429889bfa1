//! One reading of a configuration: where its files, problems and secrets come together.
//!
//! Invariant: the reading is refused if any error was added, however much of it could be read.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::problem::{PROBLEMS_MAX, Problem, Problems, Severity};
use super::secret::{self, Environment};
use super::source::{Confidentiality, Source, Span, read_text, shown_path};
use super::value::Value;
use super::yaml::{self, Node};

/// Most files of one configuration.
const FILES_MAX: usize = 4096;

/// Passed along with every value that is read.
pub struct Context<'e> {
    environment: &'e dyn Environment,
    drafts: RefCell<Vec<Draft>>,
    errors: Cell<usize>,
    omitted: Cell<usize>,
    files: RefCell<Vec<PathBuf>>,
    hasher: RefCell<Sha256>,
    rows: Option<RefCell<Vec<Row>>>,
}

/// What a [`Context`] has gathered beside the value that was read.
pub struct Outcome {
    pub warnings: Vec<Problem>,
    /// Every file read, in order.
    pub files: Vec<PathBuf>,
    /// SHA-256 over the lengths and contents of the files, and of what else was depended on, in order.
    pub sha256: [u8; 32],
}

/// One line of the reference page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Dotted path of the key.
    pub path: String,
    /// What may be written.
    pub form: String,
    /// As it would be written; `None` if the key is required.
    pub default: Option<String>,
    pub doc: &'static str,
}

/// A problem before it is known what of its file may be shown.
pub(super) struct Draft {
    pub severity: Severity,
    pub source: Rc<Source>,
    pub span: Option<Span>,
    pub message: String,
    pub help: Option<String>,
}

impl<'e> Context<'e> {
    pub fn new(environment: &'e dyn Environment) -> Self {
        Self {
            environment,
            drafts: RefCell::default(),
            errors: Cell::new(0),
            omitted: Cell::new(0),
            files: RefCell::default(),
            hasher: RefCell::default(),
            rows: None,
        }
    }

    /// A context whose only use is to list the keys that are asked for.
    pub fn recording(environment: &'e dyn Environment) -> Self {
        Self { rows: Some(RefCell::default()), ..Self::new(environment) }
    }

    /// Whether reads are made only to list the keys.
    pub fn is_recording(&self) -> bool {
        self.rows.is_some()
    }

    /// The keys that were asked for.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows.map(RefCell::into_inner).unwrap_or_default()
    }

    /// An environment variable; the error is a phrase such as `is not set`.
    pub fn variable(&self, name: &str) -> Result<String, &'static str> {
        secret::from_environment(self.environment, name)
    }

    /// Reads and parses a file. Complaints about reading it stand at `named_at`, if anywhere.
    pub fn open(
        &self,
        path: &Path,
        bytes_max: u64,
        confidentiality: Confidentiality,
        named_at: Option<Value<'_>>,
    ) -> Option<Document> {
        let text = match self.read(path, bytes_max) {
            Ok(text) => text,
            Err(reason) => {
                let message = format!("cannot read `{}`: {reason}", shown_path(path));
                let help = "paths are relative to the file that names them";
                match named_at {
                    Some(value) => value.complain(message, Some(help.to_owned())),
                    None => {
                        let source = Rc::new(Source::new(path, String::new(), confidentiality));
                        let message = format!("cannot read the file: {reason}");
                        self.add(Draft { severity: Severity::Error, source, span: None, message, help: None });
                    }
                }
                return None;
            }
        };
        self.parse(path, text, confidentiality)
    }

    /// Parses a text that was fetched and belongs to the configuration as a file does. Complaints stand under `name`.
    pub fn given(&self, name: &Path, text: &str) -> Option<Document> {
        self.cover(name, text);
        self.parse(name, text.to_owned(), Confidentiality::Fetched)
    }

    /// Lets the digest depend on a text that was fetched.
    pub fn cover(&self, name: &Path, text: &str) {
        self.depends_on(name.as_os_str().as_encoded_bytes());
        self.depends_on(text.as_bytes());
    }

    fn parse(&self, path: &Path, text: String, confidentiality: Confidentiality) -> Option<Document> {
        let source = Rc::new(Source::new(path, text, confidentiality));
        let (root, errors) = yaml::parse(&source);
        for error in errors {
            self.add(Draft {
                severity: Severity::Error,
                source: Rc::clone(&source),
                span: Some(error.span),
                message: error.message,
                help: error.help.map(str::to_owned),
            });
        }
        Some(Document { source, root: root? })
    }

    /// Whether nothing was wrong so far.
    pub fn is_clean(&self) -> bool {
        self.errors() == 0
    }

    /// How many errors were reported so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// Ends the reading: the value that was read, unless anything was wrong.
    pub fn finish<T>(self, read: Option<T>) -> Result<(T, Outcome), Problems> {
        let files = self.files.into_inner();
        let rank = |path: &Path| files.iter().position(|file| file == path).unwrap_or(usize::MAX);
        let mut drafts = self.drafts.into_inner();
        drafts.sort_by_key(|d| (rank(&d.source.path), d.span.map(|span| (span.line, span.column))));
        let (errors, warnings) =
            drafts.into_iter().map(Draft::into_problem).partition::<Vec<_>, _>(|p| p.severity == Severity::Error);
        match read {
            Some(read) if self.errors.get() == 0 => {
                Ok((read, Outcome { warnings, files, sha256: self.hasher.into_inner().finalize().into() }))
            }
            _ => Err(Problems::new(errors, self.omitted.get())),
        }
    }

    /// Reads a file and counts it among those the configuration depends on. The error is a phrase such
    /// as `no such file`.
    pub fn read(&self, path: &Path, bytes_max: u64) -> Result<String, String> {
        if self.files.borrow().len() >= FILES_MAX {
            return Err(format!("the configuration has more than {FILES_MAX} files"));
        }
        self.files.borrow_mut().push(path.to_owned());
        let text = read_text(path, bytes_max)?;
        self.depends_on(text.as_bytes());
        Ok(text)
    }

    /// Counts what was found elsewhere than in a file among what the configuration depends on.
    pub fn depends_on(&self, bytes: &[u8]) {
        let mut hasher = self.hasher.borrow_mut();
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }

    pub(super) fn add(&self, draft: Draft) {
        if draft.severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        if self.drafts.borrow().len() < PROBLEMS_MAX {
            self.drafts.borrow_mut().push(draft);
        } else if draft.severity == Severity::Error {
            self.omitted.set(self.omitted.get() + 1);
        }
    }

    pub(super) fn record(&self, path: &str, form: &str, default: Option<String>, doc: &'static str) {
        if let Some(rows) = &self.rows {
            rows.borrow_mut().push(Row { path: path.to_owned(), form: form.to_owned(), default, doc });
        }
    }
}

impl Draft {
    fn into_problem(self) -> Problem {
        Problem {
            severity: self.severity,
            file: self.source.path.clone(),
            line: self.span.map_or(0, |span| span.line),
            column: self.span.map_or(0, |span| span.column),
            message: self.message,
            help: self.help,
            excerpt: self.span.and_then(|span| self.source.excerpt(span)),
        }
    }
}

/// A parsed file.
#[derive(Debug)]
pub struct Document {
    source: Rc<Source>,
    root: Node,
}

impl Document {
    /// The whole file as a value.
    pub fn root<'a>(&'a self, context: &'a Context<'a>) -> Value<'a> {
        Value::of_document(context, &self.source, &self.root)
    }
}
