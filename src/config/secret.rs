//! The environment as something that is passed in, and what may stand in it.
//!
//! Invariant: nothing else in the crate reads environment variables.

use std::collections::BTreeMap;
use std::env::VarError;
use std::ffi::OsString;

/// Where environment variables come from.
pub trait Environment {
    /// The variable's value.
    fn var(&self, name: &str) -> Result<String, VarError>;

    /// All variables that are UTF-8, for libraries that look up their own.
    fn all(&self) -> BTreeMap<String, String>;
}

/// The process's own environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn var(&self, name: &str) -> Result<String, VarError> {
        std::env::var(name)
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn all(&self) -> BTreeMap<String, String> {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        std::env::vars_os().filter_map(text).collect()
    }
}

/// A made-up environment.
impl Environment for BTreeMap<String, String> {
    fn var(&self, name: &str) -> Result<String, VarError> {
        self.get(name).cloned().ok_or(VarError::NotPresent)
    }

    fn all(&self) -> BTreeMap<String, String> {
        self.clone()
    }
}

/// A secret from the environment; the error is a phrase such as `is not set`.
pub fn from_environment(environment: &dyn Environment, name: &str) -> Result<String, &'static str> {
    match environment.var(name) {
        Ok(value) if value.is_empty() => Err("is empty"),
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => Err("is not set"),
        Err(VarError::NotUnicode(_)) => Err("is not UTF-8"),
    }
}

/// A secret from a file's text: one newline at the end is the editor's, not the secret's.
pub fn from_text(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_and_empty_are_errors() {
        let environment = BTreeMap::from([("A".to_owned(), "x".to_owned()), ("B".to_owned(), String::new())]);
        assert_eq!(from_environment(&environment, "A"), Ok("x".to_owned()));
        assert_eq!(from_environment(&environment, "B"), Err("is empty"));
        assert_eq!(from_environment(&environment, "C"), Err("is not set"));
    }

    #[test]
    fn one_newline_is_trimmed() {
        for (text, secret) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("\n", "")] {
            assert_eq!(from_text(text), secret);
        }
    }
}
