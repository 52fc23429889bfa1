//! Raw bytes as a request, through front door, claim and body. Nothing panics, what is read as a head reads
//! the same when written again, and nothing is accepted that does not mean one of the few requests that were
//! ever signed.
//!
//! No fuzzer finds a signature, so half of the inputs are edits of those few.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::auth::{Keyring, claim};
use crate::input::Input;
use crate::naive::Meaning;
use crate::request::Head;
use crate::request::head::{Framing, end_of_head, has_bare_line_feed};
use crate::signing::{How, Request, keyring, now, rules, signed};

/// What the edits know to put in.
const PIECES: [&str; 16] = [
    "\r\n",
    "\r\n\r\n",
    "x-amz-acl: a\r\n",
    "Host: b\r\n",
    "Authorization: Bearer a\r\n",
    "X-Amz-Date: 20261122T095651Z\r\n",
    "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n",
    "X-Amz-Security-Token: a\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 0\r\n",
    "&X-Amz-Signature=0",
    "&a=1",
    "%2f",
    "/../",
    "\t ",
    ";host",
];

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let known = known();
    match input.byte() {
        // Raw.
        0..128 => request(input.0, known),
        which => {
            let mut bytes = known.bytes[usize::from(which) % known.bytes.len()].clone();
            edit(&mut bytes, &mut input);
            request(&bytes, known);
        }
    }
}

fn edit(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    // Each edit is at most four bytes of input; few edits find more than many.
    for _ in 0..6 {
        if input.is_empty() {
            return;
        }
        let (kind, at) = (input.byte(), input.below(bytes.len()));
        match kind % 5 {
            0 => bytes[at] = input.byte(),
            1 => drop(bytes.drain(at..(at + 1 + usize::from(kind / 32)).min(bytes.len()))),
            2 => bytes.insert(at, input.byte()),
            3 => drop(bytes.splice(at..at, input.pick(&PIECES).bytes())),
            // A part of the request once more, somewhere else.
            _ => {
                let from = input.below(bytes.len());
                let copy = bytes[from..(from + 1 + usize::from(kind)).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, copy));
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}

fn request(bytes: &[u8], known: &Known) {
    let Some(end) = end_of_head(bytes, 0) else { return };
    // However the bytes arrive, the end is found at the same place.
    for arrived in [end / 3, end / 2, end - 1] {
        assert_eq!(end_of_head(&bytes[..arrived], 0), None);
        assert_eq!(end_of_head(bytes, arrived), Some(end));
    }
    let (head_bytes, behind) = bytes.split_at(end);
    let Ok(head) = Head::parse(Bytes::copy_from_slice(head_bytes)) else { return };
    assert!(!has_bare_line_feed(head_bytes, 0));
    assert!(head.target().starts_with('/'));
    assert!(head.target().bytes().all(|b| b.is_ascii_graphic()));
    assert!(head.fields().all(|(_, value)| !value.iter().any(|b| b"\r\n\0".contains(b))));
    let body = match head.framing() {
        Framing::Length(length) => behind.get(..length as usize),
        Framing::None => Some(&[][..]),
        Framing::Chunked => Some(behind),
    };
    let Some(body) = body else { return };
    again(&head);
    let caller = claim(&head, &rules(), &known.keyring, now()).and_then(|claim| claim.identify(body));
    if caller.is_ok() {
        let request = read(&head, body);
        let meaning = Meaning::of(&request);
        assert!(known.meanings.contains(&meaning), "accepted\n{request}");
    }
}

/// Written in the plainest way and read again, a head says the same.
fn again(head: &Head) {
    let mut bytes =
        format!("{} {} HTTP/1.{}\r\n", head.method(), head.target(), u8::from(!head.is_http10())).into_bytes();
    for (name, value) in head.fields() {
        bytes.extend([name, b":", value, b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    let second = Head::parse(Bytes::from(bytes)).expect("what was read is written validly");
    assert_eq!((second.method(), second.target()), (head.method(), head.target()));
    assert_eq!(second.framing(), head.framing());
    assert!(second.fields().eq(head.fields()));
}

fn read(head: &Head, body: &[u8]) -> Request {
    let fields = head.fields().map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), v.to_vec())).collect();
    Request { method: head.method().into(), target: head.target().into(), fields, body: body.into() }
}

/// Everything that was ever signed with these keys.
struct Known {
    bytes: Vec<Vec<u8>>,
    meanings: Vec<Meaning>,
    keyring: Keyring,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut requests = Vec::new();
        for (method, target, body) in
            [("POST", "/dispatch", r#"{"intent":"a"}"#), ("GET", "/a/b%2Fc?b=1&a=%20&a=+&flag", "")]
        {
            for temporary in [false, true] {
                for declared in [false, true] {
                    for (presigned, appended) in [(None, false), (Some(60), false), (Some(60), true)] {
                        let fields =
                            [("Host", "orbit.example"), ("Content-Type", "application/json"), ("X-Amz-Meta-A", "b  c")];
                        let request = Request {
                            method: method.into(),
                            target: target.into(),
                            fields: fields.map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec())).to_vec(),
                            body: body.into(),
                        };
                        let how = How { temporary, declared, presigned, appended };
                        requests.push(signed(request, how).expect("signable"));
                    }
                }
            }
        }
        let keyring = keyring();
        for request in &requests {
            request.verify(&keyring).expect("accepted as it is");
        }
        let bytes = requests.iter().map(|r| [r.head_bytes(), r.body.clone()].concat()).collect();
        Known { bytes, meanings: requests.iter().map(Meaning::of).collect(), keyring }
    })
}
