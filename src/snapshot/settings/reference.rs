//! The reference tables of `docs/configuration.md`, made by the reads themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Origin, read};
use crate::config::{Block, Context, Row};
use crate::snapshot::keys;
use crate::snapshot::policies;

/// Every key of every file as Markdown tables, in the order of reading.
pub fn reference() -> String {
    let mut out = table("The main file", &rows(|b| drop(read::main(b))));
    out.push_str(&table("Key files: a list of", &rows(|b| drop(keys::key(b, Origin::nowhere())))));
    out.push_str(&table("Policy files: a list of", &rows(|b| drop(policies::policy(b)))));
    out
}

/// The keys that `read` asks for.
pub(super) fn rows(read: impl FnOnce(&mut Block<'_>)) -> Vec<Row> {
    let nothing = BTreeMap::new();
    let context = Context::recording(&nothing);
    read(&mut Block::absent(&context, ""));
    context.into_rows()
}

fn table(title: &str, rows: &[Row]) -> String {
    let mut out = format!("### {title}\n\n| key | form | default | |\n|---|---|---|---|\n");
    for Row { path, form, default, doc } in rows {
        let default = match default.as_deref() {
            None => "required".to_owned(),
            Some("") => "none".to_owned(),
            Some(words @ ("the defaults below" | "none")) => words.to_owned(),
            Some(value) => format!("`{value}`"),
        };
        out.push_str(&format!("| `{path}` | {form} | {default} | {doc} |\n"));
    }
    out.push('\n');
    out
}

impl Origin {
    fn nowhere() -> Self {
        Self { file: PathBuf::new(), line: 0, column: 0 }
    }
}
