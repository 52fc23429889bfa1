//! Any bytes as an `Authorization` header or as a query: parsed as the naive parser does, or refused for the
//! same reason.

use crate::auth::claim::Parts;
use crate::auth::query::{Parameters, has_query_authentication};
use crate::error::{Details, Rejection};
use crate::naive::{self, Wrong};

pub fn run(data: &[u8]) {
    let Some((form, data)) = data.split_first() else { return };
    match form % 2 {
        0 => header(data),
        _ => query(data),
    }
}

fn header(value: &[u8]) {
    compare(Parts::from_header(value), naive::authorization(value));
}

fn query(query: &[u8]) {
    if !naive::escapes_are_valid(query) {
        return;
    }
    const NAMES: [&str; 8] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Content-Sha256",
    ];
    let pairs = naive::pairs(query);
    let like = |name: &str| -> Vec<_> {
        pairs.iter().filter(|(n, _)| naive::decode(n, b' ').eq_ignore_ascii_case(name.as_bytes())).collect()
    };
    assert_eq!(has_query_authentication(query), NAMES.iter().any(|name| !like(name).is_empty()));
    let found = NAMES.map(|name| match like(name).as_slice() {
        [(spelt, value)] if spelt == name.as_bytes() => Ok(Some(naive::decode(value, b' '))),
        [] => Ok(None),
        _ => Err(Wrong::Form),
    });
    let expected = (|| {
        let [algorithm, credential, date, signed, signature, expires, token, payload] = found;
        let (expires, token, payload) = (expires?, token?, payload?);
        let required = |value: Result<Option<Vec<u8>>, Wrong>| value?.ok_or(Wrong::Form);
        let (algorithm, credential, date) = (required(algorithm)?, required(credential)?, required(date)?);
        let (signed, signature) = (required(signed)?, required(signature)?);
        if algorithm != b"AWS4-HMAC-SHA256" {
            return Err(Wrong::Algorithm);
        }
        let seconds = match &expires {
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
                let number = String::from_utf8_lossy(digits).parse::<u64>().map_err(|_| Wrong::Form)?;
                Some(Some(number).filter(|n| (1..=604_800).contains(n)).ok_or(Wrong::Form)?)
            }
            Some(_) => return Err(Wrong::Form),
            None => None,
        };
        Ok((naive::parts(credential, signed, signature)?, date, seconds, token, payload))
    })();
    let parameters = match Parameters::parse(query) {
        Ok(parameters) => parameters,
        Err(refused) => {
            // Which of two faults is told first does not matter here.
            assert!(expected.is_err(), "{refused:?}, though {expected:?}");
            return;
        }
    };
    let parts = Parts::from_query(&parameters);
    if let (Ok(parts), Ok((_, date, seconds, token, payload))) = (&parts, &expected) {
        let presigned = parts.presigned.as_ref().expect("from a query");
        assert_eq!(presigned.date, date.as_slice());
        assert_eq!(presigned.expires.map(|e| e.as_secs()), *seconds);
        assert_eq!(presigned.token, token.as_deref());
        assert_eq!(presigned.payload, payload.as_deref());
    }
    compare(parts, expected.map(|(parts, ..)| parts));
}

fn compare(found: Result<Parts<'_>, Rejection>, expected: Result<naive::Parts, Wrong>) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let of = found.credential;
            let credential = [of.access_key_id.as_bytes(), of.date, of.region, of.service, of.terminator];
            assert_eq!(credential.map(<[u8]>::to_vec).to_vec(), expected.credential);
            assert_eq!(found.signed.names, expected.signed);
            assert_eq!(found.signed.list, expected.signed.join(&b';'));
            assert_eq!(found.signature.as_slice(), expected.signature);
        }
        (Err(refused), Err(wrong)) => {
            let issue = match wrong {
                Wrong::Algorithm => "unsupported_algorithm",
                Wrong::Form => "malformed",
            };
            assert_eq!(refused.details, Details::Issue(issue), "{refused:?}");
        }
        (found, expected) => panic!("{:?}, though {expected:?}", found.err()),
    }
}
