//! Pages that are written by the code that they describe.

use std::path::Path;

/// Compares a checked-in page, or writes it when `ORBIT_BLESS` is set.
#[track_caller]
pub fn same_as(path: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("ORBIT_BLESS").is_some() {
        std::fs::write(&path, page).expect("a writable page");
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == page, "{} is out of date: ORBIT_BLESS=1 cargo test the_page_of", path.display());
}
