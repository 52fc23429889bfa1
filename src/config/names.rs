//! Known names in messages: the one that was probably meant, or all of them.

use std::collections::BTreeMap;

/// The known name that was probably meant.
pub fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    const NAME_BYTES_MAX: usize = 64;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let lower = name.to_lowercase().replace('-', "_");
    let distances: BTreeMap<usize, &str> =
        known.iter().rev().map(|known| (strsim::osa_distance(&lower, known), *known)).collect();
    let (distance, near) = distances.first_key_value()?;
    (*distance <= (near.len() / 3).max(1)).then_some(*near)
}

/// `` `a`, `b` or `c` ``.
pub fn or(names: &[&str]) -> String {
    joined(names, "or")
}

/// `` `a`, `b` and `c` ``.
pub fn and(names: &[&str]) -> String {
    joined(names, "and")
}

fn joined(names: &[&str], word: &str) -> String {
    match names {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("{} {word} `{last}`", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_names_are_suggested() {
        let known = ["connections", "in_flight", "min", "max", "body_bytes"];
        for (name, expected) in [
            ("conections", Some("connections")),
            ("Connections", Some("connections")),
            ("in-flight", Some("in_flight")),
            ("mn", Some("min")),
            ("mix", Some("min")),
            ("body_size", None),
            ("tls", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(or(&["a"]), "`a`");
        assert_eq!(or(&["a", "b", "c"]), "`a`, `b` or `c`");
        assert_eq!(and(&["a", "b"]), "`a` and `b`");
    }
}
