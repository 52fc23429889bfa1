//! Requests signed by AWS's signer are accepted; with one byte of a signed part altered they are refused.
//!
//! Left out is what the signer gets wrong, so that Orbit refuses it rightly:
//! - a query whose escapes are not valid, which the signer escapes again and Orbit answers with 400;
//! - a query that is not UTF-8 once decoded, of which the signer signs replacement characters;
//! - a tab at the ends of a header's value, which the signer signs and HTTP does not carry.

use std::sync::OnceLock;

use crate::auth::Keyring;
use crate::input::Input;
use crate::naive::{self, Meaning};
use crate::signing::{How, Request, keyring, signed};

const METHODS: [&str; 5] = ["POST", "GET", "PUT", "DELETE", "X-Y"];
const HOSTS: [&str; 6] = ["orbit.example", "A.b:8080", "a:80", "a:443", "[::1]:443", "10.0.0.1:8443"];
const NAMES: [&str; 8] =
    ["X-Custom", "x-custom", "Content-Type", "X-Amz-Meta-A", "Accept", "x-b", "User-Agent", "X-Amz-Target"];
const PATH: &[&str] = &[
    "a", "B", "7", ".", "..", "/", "/", "/./", "/../", "//", "%20", "%2F", "%2e", "%c3%a9", "%FF", "@", ":", "!", "+",
    ";", "=", "&", "%25", "~",
];
const QUERY: &[&str] = &[
    "a", "b", "A", "1", "=", "=", "&", "&", "&", "+", "%20", "%2B", "%26", "%3D", "%c3%a9", "%C3%A9", "%7E", "%00",
    "%25", "-", ".", "_", "~", ":", "|", "/", "?", "a=", "&a", "%61",
];
const VALUE: &[&str] = &[" ", "  ", "   ", "\t", " \t ", ",", ";", "=", "\"", "%", "/", "\u{e9}", "a:80", ":443"];

/// More of them are better spent on another request.
const ALTERATIONS_MAX: usize = 16;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let request = request(&mut input);
    let how = How {
        temporary: input.flag(),
        declared: input.flag(),
        presigned: input.flag().then(|| 1 + input.below(900) as u64),
        appended: input.flag(),
    };
    let (_, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let text = naive::decode(query.as_bytes(), b' ');
    if !naive::escapes_are_valid(query.as_bytes()) || std::str::from_utf8(&text).is_err() {
        return;
    }
    let Some(signed) = signed(request, how) else { return };
    if let Err(refused) = signed.verify(keys()) {
        // The front door refuses what is no request; the signer does not care.
        assert_eq!(refused.code.status() / 100, 4);
        assert!(refused.code.status() != 401, "{refused:?}\n{signed}");
        return;
    }
    let meaning = Meaning::of(&signed);
    for _ in 0..ALTERATIONS_MAX {
        if input.is_empty() {
            return;
        }
        let Some(altered) = altered(&signed, &mut input) else { continue };
        if Meaning::of(&altered) != meaning && altered.verify(keys()).is_ok() {
            panic!("accepted\n{altered}\nfor\n{signed}");
        }
    }
}

fn keys() -> &'static Keyring {
    static KEYS: OnceLock<Keyring> = OnceLock::new();
    KEYS.get_or_init(keyring)
}

fn request(input: &mut Input<'_>) -> Request {
    let method = input.pick(&METHODS).to_owned();
    let host = input.pick(&HOSTS);
    let mut target = format!("/{}", input.text(PATH, 12));
    if input.flag() {
        target += &format!("?{}", input.text(QUERY, 24));
    }
    // A fragment is no part of a target; a question mark in the path begins the query.
    target = target.replace('#', "%23");
    let mut fields = vec![("Host".to_owned(), host.as_bytes().to_vec())];
    for _ in 0..input.byte() % 6 {
        let name = input.pick(&NAMES).to_owned();
        let value = input.text(VALUE, 10);
        let ends_in_tabs = value.trim_matches(' ') != value.trim_matches([' ', '\t']);
        let value = if ends_in_tabs { value.trim_matches([' ', '\t']) } else { &value };
        fields.push((name, value.as_bytes().to_vec()));
    }
    let body = input.bytes(64).to_vec();
    Request { method, target, fields, body }
}

/// One byte of one part becomes another, comes in or goes out; none where there is nothing to alter.
fn altered(request: &Request, input: &mut Input<'_>) -> Option<Request> {
    let mut altered = request.clone();
    let part = input.byte();
    let mut change = |bytes: &mut Vec<u8>, least: u8| {
        let at = input.below(bytes.len() + 1);
        let byte = input.byte().max(least);
        match (input.byte() % 3, bytes.get_mut(at)) {
            (0, Some(there)) => *there = byte,
            (1, Some(_)) => drop(bytes.drain(at..=at)),
            _ => bytes.insert(at, byte),
        }
    };
    match part % 8 {
        0 => {
            let mut text = altered.method.into_bytes();
            change(&mut text, 0x21);
            altered.method = String::from_utf8(text).ok()?;
        }
        1..=3 => {
            let mut text = altered.target.into_bytes();
            change(&mut text, 0x21);
            altered.target = String::from_utf8(text).ok()?;
        }
        4..=6 => {
            let at = input_index(part, altered.fields.len());
            change(&mut altered.fields[at].1, b'\t');
        }
        _ => change(&mut altered.body, 0),
    }
    Some(altered)
}

fn input_index(part: u8, fields: usize) -> usize {
    usize::from(part / 8) % fields
}
