//! Key files: what callers sign with, and what Orbit signs with.
//!
//! Invariant: a key file is a secret file. Its problems are told by place and by the names of known
//! keys; nothing that stands in it is repeated, but the `UPPER_CASE` name of an environment variable.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use secrecy::{ExposeSecret, SecretString};

use super::settings::{KeySetting, Origin, SignCredentials};
use crate::config::{
    Block, Confidentiality, Context, Environment, Key, Problems, Rule, Value, Written, others_may_read,
};

/// Largest key file.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(super) const ACCESS_KEY_ID: Rule = Rule { form: "1 to 128 of `A-Z a-z 0-9 _`", accepts: is_access_key_id };
const PRINCIPAL: Rule = Rule { form: "1 to 128 characters of printable ASCII", accepts: is_principal };

/// The keys of one file on its own, for who signs with them.
///
/// # Errors
/// All problems of the file.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Vec<KeySetting>, Problems> {
    let context = Context::new(environment);
    let (mut keys, mut places) = (Vec::new(), HashMap::new());
    let read = read_file(&context, path, None, &mut keys, &mut places);
    context.finish(read.map(|()| keys)).map(|(keys, _)| keys)
}

/// The keys of all files, `access_key_id` unique across them.
pub(super) fn read(files: &[(PathBuf, Value<'_>)]) -> Option<Vec<KeySetting>> {
    let mut keys = Vec::new();
    let mut places = HashMap::new();
    let mut complete = true;
    for (path, named_at) in files {
        complete &= read_file(named_at.context(), path, Some(*named_at), &mut keys, &mut places).is_some();
    }
    complete.then_some(keys)
}

/// The one set of credentials of a file that Orbit signs with.
pub(super) fn read_signing(path: &Path, named_at: Value<'_>) -> Option<SignCredentials> {
    let document = named_at.context().open(path, BYTES_MAX, Confidentiality::Confidential, Some(named_at))?;
    let root = document.root(named_at.context());
    let (credentials, plain) = root.block("", credentials)??;
    warn_if_readable(root, plain);
    Some(credentials)
}

/// One entry of a key file.
pub(super) fn key(b: &mut Block<'_>, origin: Origin) -> Option<(KeySetting, Written)> {
    let credentials = credentials(b);
    let principal = b.key("principal", "who the caller is to limits and governance").required_text(PRINCIPAL, "alice");
    let not_before = time(b.key("not_before", "the key is refused earlier"));
    let not_after = time(b.key("not_after", "the key is refused later"));
    let disabled = b.key("disabled", "the key is refused").boolean(false);
    if let (Some((_, before)), Some((value, after))) = (not_before, not_after)
        && before >= after
    {
        value.fail::<()>(
            "`not_after` is not later than `not_before`",
            "the key could never be used; correct one of them",
        );
    }
    let (SignCredentials { access_key_id, secret_access_key, session_token }, plain) = credentials?;
    let key = KeySetting {
        access_key_id,
        secret_access_key,
        session_token,
        principal: principal?,
        not_before: not_before.map(|(_, seconds)| seconds),
        not_after: not_after.map(|(_, seconds)| seconds),
        disabled,
        origin,
    };
    Some((key, plain))
}

/// What AWS gives out as temporary credentials: visible ASCII, as it travels in a header.
pub(super) fn is_session_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 8192 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn read_file(
    context: &Context<'_>,
    path: &Path,
    named_at: Option<Value<'_>>,
    keys: &mut Vec<KeySetting>,
    places: &mut HashMap<String, Origin>,
) -> Option<()> {
    let document = context.open(path, BYTES_MAX, Confidentiality::Confidential, named_at)?;
    let root = document.root(context);
    let mut written = Written::Referenced;
    let mut complete = true;
    let mut count = 0;
    for item in root.items()? {
        count += 1;
        let origin = Origin::of(&item);
        let Some((key, plain)) = item.block("", |b| key(b, origin)).flatten() else {
            complete = false;
            continue;
        };
        if plain == Written::Plain {
            written = Written::Plain;
        }
        match places.get(&key.access_key_id) {
            Some(earlier) => {
                complete = false;
                item.fail::<()>(format!("this `access_key_id` is already at {earlier}"), "remove one of the two");
            }
            None => {
                places.insert(key.access_key_id.clone(), key.origin.clone());
                keys.push(key);
            }
        }
    }
    if count == 0 {
        return root.fail("the key file lists no key", "nobody could call; add one");
    }
    warn_if_readable(root, written);
    complete.then_some(())
}

fn credentials(b: &mut Block<'_>) -> Option<(SignCredentials, Written)> {
    let access_key_id = b.key("access_key_id", "public name of the key").required_text(ACCESS_KEY_ID, "AKIDEXAMPLE");
    let secret = b
        .key("secret_access_key", "a plain string is allowed in this file")
        .required("secret", "{ env: NAME }")
        .and_then(|value| value.secret_or_plain());
    let token = b
        .key("session_token", "of temporary credentials")
        .optional("secret", "none")
        .map(|value| value.secret_or_plain().and_then(|secret| valid_token(value, secret)));
    let ((secret_access_key, plain), token) = (secret?, token.map_or(Some(None), |token| token.map(Some))?);
    let (session_token, token_plain) = token.unzip();
    let plain = if token_plain == Some(Written::Plain) { Written::Plain } else { plain };
    Some((SignCredentials { access_key_id: access_key_id?, secret_access_key, session_token }, plain))
}

fn valid_token(value: Value<'_>, secret: (SecretString, Written)) -> Option<(SecretString, Written)> {
    if is_session_token(secret.0.expose_secret()) {
        return Some(secret);
    }
    value.fail("the session token is not valid", "it is 1 to 8192 characters of visible ASCII")
}

/// A time as unix seconds, with the place it stands at.
fn time<'a>(key: Key<'a>) -> Option<(Value<'a>, u64)> {
    let value = key.optional("RFC 3339 time in UTC", "none")?;
    let text = value.text()?;
    let seconds = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    match seconds {
        Some(seconds) => Some((value, seconds.as_secs())),
        None => value.fail("expected an RFC 3339 time in UTC", "write it as `2026-01-31T00:00:00Z`"),
    }
}

/// Secrets by reference need no protection here; plain ones do.
fn warn_if_readable(root: Value<'_>, written: Written) {
    if written == Written::Plain && others_may_read(root.file()) {
        let help = "take the right away (`chmod o= FILE`), or write `{ env: NAME }` for each secret";
        root.warn_of_file("the file holds secrets and every user may read it", help);
    }
}

fn is_access_key_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_principal(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
