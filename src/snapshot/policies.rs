//! Policy files: JSON or YAML, one list, in the format of `api.md`.
//!
//! Invariant: (service, intent) is unique across all files, and a policy has no member, operator or
//! condition type that governance does not know.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::settings::Origin;
use crate::config::{Block, Confidentiality, Key, Rule, Value, shown_path};
use crate::governance::model::{Condition, Operator, Policy, RateLimits};

/// Largest policy file.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most files that one glob may match.
const FILES_MAX: usize = 1000;

const SUBJECT: Rule = Rule { form: "1 to 256 characters", accepts: is_subject };
const DESCRIPTION: Rule = Rule { form: "text of at most 1024 characters", accepts: is_description };

/// A path or glob, resolved against the directory of the file that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    File(PathBuf),
    Glob(PathBuf),
}

impl Pattern {
    pub(super) fn as_path(&self) -> &Path {
        match self {
            Pattern::File(path) | Pattern::Glob(path) => path,
        }
    }
}

/// Reads one path or glob.
pub(super) fn pattern(value: Value<'_>) -> Option<Pattern> {
    let written = value.text()?;
    let joined = value.path()?;
    if !is_glob(written) && !joined.to_str().is_some_and(is_glob) {
        return Some(Pattern::File(joined));
    }
    if written.contains("**") {
        return value.fail("`**` is not supported", "name each directory: `policies/*/*.json`");
    }
    // Only what was written is a pattern; the directory it is joined to is not.
    let written = if is_glob(written) { written.to_owned() } else { glob::Pattern::escape(written) };
    let Some(directory) = value.directory().to_str() else {
        return value.fail("the directory's name is not UTF-8", "name the files one by one");
    };
    let pattern = Path::new(&glob::Pattern::escape(directory)).join(written);
    if let Err(error) = glob::Pattern::new(&pattern.to_string_lossy()) {
        return value.fail(format!("the glob is not valid: {}", error.msg), "globs know `*`, `?` and `[a-z]`");
    }
    Some(Pattern::Glob(pattern))
}

/// The policies of all files; warns if none of them is for `service`.
pub(super) fn read(sources: &[(Pattern, Value<'_>)], service: &str) -> Option<Vec<(Policy, Origin)>> {
    let mut files: Vec<(PathBuf, Value<'_>)> = Vec::new();
    let mut complete = true;
    for (pattern, named_at) in sources {
        match expand(pattern, *named_at) {
            Some(paths) => files.extend(paths.into_iter().map(|path| (path, *named_at))),
            None => complete = false,
        }
    }
    let mut policies = Vec::new();
    let mut places = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for (path, named_at) in &files {
        // A file that two globs match is read once.
        if seen.insert(path) {
            complete &= read_file(path, *named_at, &mut policies, &mut places).is_some();
        }
    }
    if complete
        && !policies.iter().any(|(policy, _)| policy.service == service)
        && let Some((_, named_at)) = sources.first()
    {
        named_at.warn(
            format!("no policy is for the service `{service}`"),
            "every dispatch will be denied; `service` in a policy is Orbit's own `name`",
        );
    }
    complete.then_some(policies)
}

/// One policy.
pub(super) fn policy(b: &mut Block<'_>) -> Option<Policy> {
    let service = b.key("service", "Orbit's own `name`").required_text(SUBJECT, "orbit");
    let intent = b.key("intent", "the intent of a dispatch").required_text(SUBJECT, "call_reasoning");
    let enabled =
        b.key("enabled", "`false` denies").required("`true` or `false`", "true").and_then(|value| value.boolean());
    let description =
        b.key("description", "for people").nullable(DESCRIPTION.form).and_then(|value| value.text_like(DESCRIPTION));
    let allowed_hours = b.key("time_restrictions", "when it allows").nullable("block, or null for always").map_or_else(
        || absent(b, "time_restrictions", hours),
        |value| value.block("time_restrictions", hours).flatten(),
    );
    let rate_limits = b
        .key("rate_limits", "how often it allows; a sliding window")
        .nullable("block, or null for no limit")
        .map_or_else(|| absent(b, "rate_limits", rates), |value| value.block("rate_limits", rates));
    let conditions = conditions(b);
    Some(Policy {
        service: service?,
        intent: intent?,
        enabled: enabled?,
        description,
        allowed_hours,
        rate_limits,
        conditions: conditions?,
    })
}

/// Lists the keys of a block that is absent; its value is none.
fn absent<'a, T, U>(b: &Block<'a>, path: &str, read: impl FnOnce(&mut Block<'a>) -> T) -> Option<U> {
    if b.context().is_recording() {
        read(&mut Block::absent(b.context(), path));
    }
    None
}

fn hours(b: &mut Block<'_>) -> Option<Vec<u8>> {
    let value = b.key("allowed_hours", "hours of the day, UTC").nullable("list of 0 to 23, or null for always")?;
    if value.items()?.next().is_none() {
        return value
            .fail("`allowed_hours` is empty", "it would never allow; write null for always, or `enabled: false`");
    }
    value.distinct(1..=24, |hour| hour.integer(&(0..=23u8)))
}

fn rates(b: &mut Block<'_>) -> RateLimits {
    let limit = |key: Key<'_>| {
        let value = key.nullable("whole number from 1, or null for no limit")?;
        if value.is_word("0") {
            return value.fail("a limit of 0 would never allow", "write null for no limit, or `enabled: false`");
        }
        value.integer(&(1..=u32::MAX))
    };
    RateLimits {
        requests_per_minute: limit(b.key("requests_per_minute", "in any minute")),
        requests_per_hour: limit(b.key("requests_per_hour", "in any hour")),
    }
}

fn conditions(b: &mut Block<'_>) -> Option<Vec<Condition>> {
    let value =
        b.key("conditions", "checked in this order; the first that fails denies").optional("list of blocks", "[]");
    let Some(value) = value else {
        absent::<_, ()>(b, "conditions", condition);
        return Some(Vec::new());
    };
    let read: Vec<_> = value.items()?.map(|item| item.block("conditions", condition).flatten()).collect();
    read.into_iter().collect()
}

fn condition(b: &mut Block<'_>) -> Option<Condition> {
    let kind = b
        .key("type", "the only type there is")
        .required("`context_check`", "context_check")
        .and_then(|value| value.word(&[("context_check", ())], &[]));
    let field = b.key("field", "the member of `context` that is looked at").required_text(SUBJECT, "user_type");
    let operator = b
        .key("operator", "how it is compared; `greater_than` and `less_than` are for numbers")
        .required("`equals`, `not_equals`, `contains`, `greater_than` or `less_than`", "equals")
        .and_then(|value| value.word(&Operator::ALL, &[]));
    let value = b.key("value", "what it is compared with").required_or_null("any", "premium");
    let json = value.and_then(|value| value.json());
    let description = b
        .key("description", "part of the reason of a denial")
        .nullable(DESCRIPTION.form)
        .and_then(|value| value.text_like(DESCRIPTION));
    if let (Some(operator @ (Operator::GreaterThan | Operator::LessThan)), Some(value), Some(json)) =
        (operator, value, &json)
        && !json.is_number()
    {
        let name = Operator::ALL.iter().find(|(_, known)| *known == operator).map_or("", |(name, _)| name);
        return value.fail(format!("`{name}` compares numbers only"), "write a number, or use another operator");
    }
    kind?;
    Some(Condition { field: field?, operator: operator?, value: json?, description })
}

fn read_file(
    path: &Path,
    named_at: Value<'_>,
    policies: &mut Vec<(Policy, Origin)>,
    places: &mut HashMap<(String, String), Origin>,
) -> Option<()> {
    let document = named_at.context().open(path, BYTES_MAX, Confidentiality::Public, Some(named_at))?;
    let root = document.root(named_at.context());
    let mut complete = true;
    let mut count = 0;
    for item in root.items()? {
        count += 1;
        let Some(policy) = item.block("", policy).flatten() else {
            complete = false;
            continue;
        };
        let origin = Origin::of(&item);
        let subject = (policy.service.clone(), policy.intent.clone());
        if let Some(earlier) = places.get(&subject) {
            complete = false;
            let (service, intent) = (item.quoted(&subject.0), item.quoted(&subject.1));
            let message = format!("a policy for service {service}, intent {intent} is already at {earlier}");
            item.fail::<()>(message, "remove one of the two");
        } else {
            places.insert(subject, origin.clone());
            policies.push((policy, origin));
        }
    }
    if count == 0 {
        return root.fail("the policy file lists no policy", "add one, or remove the file");
    }
    complete.then_some(())
}

/// The files of a pattern, sorted.
fn expand(pattern: &Pattern, named_at: Value<'_>) -> Option<Vec<PathBuf>> {
    let pattern = match pattern {
        Pattern::File(path) => return Some(vec![path.clone()]),
        Pattern::Glob(pattern) => pattern,
    };
    // Kubernetes mounts keep their real files in hidden directories beside the links.
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let Ok(matches) = glob::glob_with(&pattern.to_string_lossy(), options) else {
        return named_at.fail("the glob is not valid", "globs know `*`, `?` and `[a-z]`");
    };
    let mut paths = Vec::new();
    for path in matches {
        match path {
            Ok(path) if path.is_dir() => {}
            Ok(path) => paths.push(path),
            Err(error) => {
                let message = format!("cannot read `{}`: {}", shown_path(error.path()), error.error().kind());
                return named_at.fail(message, "the glob must be able to look into it");
            }
        }
        if paths.len() > FILES_MAX {
            return named_at
                .fail(format!("the glob matches more than {FILES_MAX} files"), "put policies into fewer files");
        }
    }
    if paths.is_empty() {
        return named_at.fail(
            format!("`{}` matches no file", shown_path(pattern)),
            "globs are relative to the file that names them",
        );
    }
    paths.sort();
    Some(paths)
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn is_subject(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= 256
}

fn is_description(text: &str) -> bool {
    text.chars().count() <= 1024
}
