//! Imports point down, siblings do not import each other, and only the outer layers name Pingora.

use std::collections::BTreeMap;
use std::path::Path;

/// The layers from the bottom up. A module may import what stands in an earlier row.
const LAYERS: [&[&str]; 13] = [
    &["clock", "config", "error", "flow"],
    &["request"],
    // What the operator wrote is plain data that everything above may read.
    &["snapshot::settings", "snapshot::keys", "snapshot::policies", "governance::model"],
    &["auth", "limit", "governance"],
    &["gate", "axon", "aws"],
    &["snapshot"],
    &["observation"],
    &["pipeline"],
    &["telemetry"],
    &["reply"],
    &["local"],
    // One connection: the edge reads heads for the proxy, both live in a gateway, which a rotation changes.
    &["edge", "proxy", "gateway", "rotation", "signing"],
    &["lifecycle", "cli", "lib", "main"],
];
/// The only modules that name Pingora; `limit` uses its counting structure and `axon` its view of a socket, which
/// are no proxy.
const PINGORA: [&str; 5] = ["proxy", "edge", "gateway", "limit", "axon"];
/// Modules that stand in one row because they are one idea.
const TOGETHER: [[&str; 2]; 12] = [
    ["snapshot::settings", "snapshot::keys"],
    ["snapshot::settings", "snapshot::policies"],
    ["snapshot::settings", "governance::model"],
    ["snapshot::policies", "governance::model"],
    ["edge", "proxy"],
    ["edge", "gateway"],
    ["proxy", "gateway"],
    ["gateway", "rotation"],
    ["gateway", "signing"],
    ["cli", "lifecycle"],
    ["lib", "cli"],
    ["main", "cli"],
];

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (module, file, text) in sources() {
        for import in imports(&text) {
            if import == module || TOGETHER.iter().any(|pair| pair.contains(&&*import) && pair.contains(&&*module)) {
                continue;
            }
            if layer(&import) >= layer(&module) {
                wrong.push(format!("{file}: `{module}` imports `{import}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_outer_layers_name_pingora() {
    let named: Vec<String> = sources()
        .into_iter()
        .filter(|(module, _, text)| !PINGORA.contains(&module.as_str()) && names_pingora(text))
        .map(|(_, file, _)| file)
        .collect();
    assert!(named.is_empty(), "{named:?}");
}

fn names_pingora(text: &str) -> bool {
    let path = |line: &str| line.contains("pingora::") || line.contains("pingora_") && line.contains("::");
    // The command line names Pingora's log targets, which is no import.
    code(text).any(|line| path(line) && !line.contains('"'))
}

/// `fuzz/` compiles some modules into a crate of its own, which depends on less.
#[test]
fn what_the_fuzzers_compile_names_only_crates_that_they_have() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let theirs = dependencies(&read("fuzz/Cargo.toml"));
    let missing: Vec<String> =
        dependencies(&read("Cargo.toml")).into_iter().filter(|name| !theirs.contains(name)).collect();
    assert!(missing.iter().any(|name| name == "tokio"), "{missing:?}");
    let fuzzed = read("fuzz/src/lib.rs");
    let fuzzed: Vec<&str> = fuzzed.lines().filter_map(|line| line.strip_prefix("#[path = \"../../src/")).collect();
    assert!(!fuzzed.is_empty());
    let mut named = Vec::new();
    for (_, file, text) in sources() {
        if fuzzed.iter().any(|path| file.split("::").next() == path.split(['/', '.']).next()) {
            let missing = missing.iter().filter(|name| code(&text).any(|line| line.contains(&format!("{name}::"))));
            named.extend(missing.map(|name| format!("{file}: {name}")));
        }
    }
    assert!(named.is_empty(), "not in fuzz/Cargo.toml: {named:?}");
}

/// The crates below `[dependencies]`, as code spells them.
fn dependencies(manifest: &str) -> Vec<String> {
    let from = manifest.split("[dependencies]\n").nth(1).unwrap();
    let lines = from.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect()
}

/// Module, file and text of every source file; unit tests may import what they like.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && path.file_stem().unwrap() != "tests" {
                let file = path.strip_prefix(&root).unwrap().with_extension("").to_string_lossy().replace('/', "::");
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                files.insert(file, text);
            }
        }
    }
    files.into_iter().map(|(file, text)| (module_of(&file), file, text)).collect()
}

/// The longest module of [`LAYERS`] that holds a path such as `auth::claim`.
fn module_of(path: &str) -> String {
    let known = |name: &&&str| path == **name || path.starts_with(&format!("{name}::"));
    let longest = LAYERS.iter().copied().flatten().filter(known).max_by_key(|name| name.len());
    (*longest.unwrap_or_else(|| panic!("`{path}` stands in no layer"))).to_owned()
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|row| row.contains(&module)).unwrap()
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The modules that a file names by `crate::`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in code(text) {
        for rest in line.split("crate::").skip(1) {
            let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            let path = path.trim_end_matches(':');
            // `use crate::{a, b}` would hide what it names.
            assert!(!path.is_empty(), "spell out the module in `{line}`");
            found.push(module_of(path));
        }
    }
    found
}
