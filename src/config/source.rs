//! The text of one file, places in it, and what of it may be shown.
//!
//! Invariant: text leaves a [`Source`] only through [`Source::excerpt`], which hides masked ranges
//! and refuses confidential files altogether.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest line that is excerpted, in bytes; a problem in a longer one (JSON without line breaks)
/// is shown by its position alone.
const EXCERPT_BYTES_MAX: usize = 1000;

/// Whether a file's text may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidentiality {
    Public,
    /// Nothing of the text is ever shown, not even in an error.
    Confidential,
    /// The same of a text that came from another machine, which must not speak of this one: it may not name
    /// this one's environment variables or files.
    Fetched,
}

/// A range of one file, with the line and column of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Bytes from the start of the file.
    pub start: u32,
    /// Exclusive.
    pub end: u32,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Span {
    /// The first character of a file.
    pub const TOP: Span = Span { start: 0, end: 0, line: 1, column: 1 };

    /// Bytes of the file.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// One file.
pub struct Source {
    pub path: PathBuf,
    pub confidentiality: Confidentiality,
    text: String,
    masks: RefCell<Vec<Range<usize>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One line of a file with a range to underline, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    pub line: String,
    /// Bytes of `line`.
    pub underline: Range<usize>,
}

impl Source {
    pub fn new(path: &Path, text: String, confidentiality: Confidentiality) -> Self {
        Self { path: path.to_owned(), confidentiality, text, masks: RefCell::default() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_confidential(&self) -> bool {
        match self.confidentiality {
            Confidentiality::Public => false,
            Confidentiality::Confidential | Confidentiality::Fetched => true,
        }
    }

    /// Whether the text came from another machine.
    pub fn is_fetched(&self) -> bool {
        self.confidentiality == Confidentiality::Fetched
    }

    /// Hides a range from every excerpt, past and future.
    pub fn mask(&self, span: Span) {
        self.masks.borrow_mut().push(span.range());
    }

    /// Whether a message may repeat what stands in `span`.
    pub fn may_repeat(&self, span: Span) -> bool {
        let masked = |mask: &Range<usize>| mask.start < span.end as usize && (span.start as usize) < mask.end;
        !self.is_confidential() && !self.masks.borrow().iter().any(masked)
    }

    /// The line that `span` starts on. `None` if it may not, or is too long to, be shown.
    pub fn excerpt(&self, span: Span) -> Option<Excerpt> {
        if self.is_confidential() {
            return None;
        }
        let before = self.text.get(..span.start as usize)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text.get(line_start..)?.lines().next().unwrap_or("");
        if line.len() > EXCERPT_BYTES_MAX {
            return None;
        }
        let masks = self.masks.borrow();
        let hidden = |at: usize| masks.iter().any(|mask| mask.contains(&at));
        let mut shown = String::with_capacity(line.len());
        let (mut from, mut to) = (0, 0);
        for (offset, character) in line.char_indices() {
            let at = line_start + offset;
            shown.push(if hidden(at) { '*' } else { visible(character) });
            if at < span.start as usize {
                from = shown.len();
            }
            if at < span.end as usize {
                to = shown.len();
            }
        }
        let underline = from..to.max(from);
        Some(Excerpt { line: shown, underline })
    }
}

/// Reads a text file of at most `bytes_max` bytes. The error is a phrase such as `no such file`.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    // Opening a pipe would wait for somebody to write into it.
    let found = std::fs::metadata(path).map_err(|error| reason(error.kind()))?;
    if !found.is_file() && !found.is_dir() {
        return Err("not a regular file".to_owned());
    }
    File::open(path)
        .and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|error| reason(error.kind()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("larger than {}", super::units::size_text(bytes_max)));
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

/// Whether every user of the machine may read a file.
#[cfg(unix)]
pub fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    const OTHERS_READ: u32 = 0o004;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_READ != 0)
}

/// Whether every user of the machine may read a file; not known here.
#[cfg(not(unix))]
pub fn others_may_read(_: &Path) -> bool {
    false
}

/// Text from a file, fit for a message: no control or direction characters, at most 64 characters.
pub fn shown(text: &str) -> String {
    printable(text, 64)
}

/// Text from elsewhere, fit for a message: as [`shown`], at most `characters_max` characters.
pub fn printable(text: &str, characters_max: usize) -> String {
    let mut out: String = text.chars().take(characters_max).map(visible).collect();
    if text.chars().nth(characters_max).is_some() {
        out.push('…');
    }
    out
}

/// A path, or what a fetched text is called: as [`shown`], with components as long as file systems allow.
pub fn shown_path(path: &Path) -> String {
    path.components().fold(String::new(), |mut out, component| {
        if !out.is_empty() && !out.ends_with('/') {
            out.push('/');
        }
        out.push_str(&printable(&component.as_os_str().to_string_lossy(), 255));
        out
    })
}

fn reason(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        other => other.to_string(),
    }
}

/// What could move the cursor, start a line or reorder the text is replaced.
fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => '\u{fffd}',
        control if control.is_control() => '\u{fffd}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(Path::new("a.yaml"), text.to_owned(), Confidentiality::Public)
    }

    fn span(start: u32, end: u32) -> Span {
        Span { start, end, line: 1, column: 1 }
    }

    #[test]
    fn excerpts_underline_and_mask() {
        let source = source("first\nkey: hunter2 # é\nlast");
        let excerpt = source.excerpt(span(11, 18)).unwrap();
        assert_eq!(&excerpt.line[excerpt.underline.clone()], "hunter2");
        source.mask(span(11, 18));
        assert_eq!(source.excerpt(span(6, 9)).unwrap().line, "key: ******* # é");
    }

    #[test]
    fn an_underline_past_the_end_of_its_line_stays_in_it() {
        let source = source("ab\ncd");
        assert_eq!(source.excerpt(span(1, 5)).unwrap().underline, 1..2);
        assert_eq!(source.excerpt(span(2, 2)).unwrap().underline, 2..2);
        assert_eq!(source.excerpt(span(5, 5)).unwrap().underline, 2..2);
    }

    #[test]
    fn confidential_files_have_no_excerpt_and_no_debug() {
        let source = Source::new(Path::new("k.yaml"), "hunter2".to_owned(), Confidentiality::Confidential);
        assert_eq!(source.excerpt(span(0, 7)), None);
        assert!(!format!("{source:?}").contains("hunter2"));
    }

    #[test]
    fn echoed_text_is_short_and_on_one_line() {
        assert_eq!(shown("a\u{1b}[31m\nb\u{202e}"), "a\u{fffd}[31m\u{fffd}b\u{fffd}");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 65);
        assert_eq!(shown_path(Path::new("/a\n/b.yaml")), "/a\u{fffd}/b.yaml");
    }
}
