//! Any path and query in every form: as the naive writer has it, and the same again when written twice.

use crate::auth::canonical::{Path, Query, escapes_are_valid, write_path, write_query};
use crate::naive;

pub fn run(data: &[u8]) {
    let mut halves = data.splitn(2, |b| *b == 0);
    path(halves.next().unwrap_or_default());
    query(halves.next().unwrap_or_default());
}

fn path(path: &[u8]) {
    let write = |form| {
        let mut out = Vec::new();
        write_path(path, form, &mut out);
        out
    };
    let rooted = if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() };
    let as_sent = write(Path::AsSent);
    assert_eq!(as_sent, naive::encode(&rooted, b"/"));
    // Encoded once and no more: what comes out says what went in, and nothing else does.
    assert_eq!(naive::decode(&as_sent, b'+'), rooted);

    let (segments, slash) = naive::segments(path);
    let dots = path.ends_with(b"/.") || path.ends_with(b"/..");
    for (form, slash) in [(Path::Normalised, slash), (Path::NormalisedToSlash, slash || dots)] {
        let mut expected: Vec<u8> =
            segments.iter().flat_map(|s| [b"/".to_vec(), naive::encode(s, b"")].concat()).collect();
        if slash || segments.is_empty() {
            expected.push(b'/');
        }
        let written = write(form);
        assert_eq!(written, expected, "{form:?}");
        let mut again = Vec::new();
        write_path(&naive::decode(&written, b'+'), form, &mut again);
        assert_eq!(again, written, "{form:?} again");
    }
    assert_eq!(escapes_are_valid(path), naive::escapes_are_valid(path));
    if escapes_are_valid(path) {
        let once = write(Path::EncodedOnce);
        assert_eq!(once, naive::encode(&naive::decode(path, b'+'), b"/"));
        let mut again = Vec::new();
        write_path(&once, Path::EncodedOnce, &mut again);
        assert_eq!(again, once);
    }
}

fn query(query: &[u8]) {
    assert_eq!(escapes_are_valid(query), naive::escapes_are_valid(query));
    if !escapes_are_valid(query) {
        return;
    }
    let write = |query: &[u8], form| {
        let mut out = Vec::new();
        write_query(query, form, &mut out);
        out
    };
    let decoded = |text: &[u8]| naive::decode(text, b' ');
    let encoded = |text: &[u8]| naive::encode(text, b"");
    let raw = naive::pairs(query);
    let each = |pairs: &[naive::Pair], change: &dyn Fn(&[u8]) -> Vec<u8>| -> Vec<naive::Pair> {
        pairs.iter().map(|(name, value)| (change(name), change(value))).collect()
    };
    let mut by_decoded = each(&raw, &decoded);
    by_decoded.sort();
    let by_decoded = each(&by_decoded, &encoded);
    let mut by_encoded = by_decoded.clone();
    by_encoded.sort();
    let mut as_sent = raw;
    as_sent.sort();
    for (form, expected) in [(Query::ByEncoded, by_encoded), (Query::ByDecoded, by_decoded), (Query::AsSent, as_sent)] {
        let written = write(query, form);
        assert_eq!(written, naive::joined(&expected), "{form:?}");
        assert_eq!(write(&written, form), written, "{form:?} again");
    }
}
