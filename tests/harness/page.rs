//! Pages that are written by the code that they describe.

use std::path::{Path, PathBuf};

/// Compares a checked-in page, or writes it when `ORBIT_BLESS` is set.
#[track_caller]
pub fn same_as(path: &str, page: &str) {
    if std::env::var_os("ORBIT_BLESS").is_some() {
        std::fs::write(absolute(path), page).expect("a writable page");
    }
    assert!(checked_in(path) == page, "{path} is out of date: ORBIT_BLESS=1 cargo test the_page_of");
}

/// The page as it is checked in; empty when there is none.
pub fn checked_in(path: &str) -> String {
    std::fs::read_to_string(absolute(path)).unwrap_or_default()
}

fn absolute(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
