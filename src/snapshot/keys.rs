//! Key lists: what callers sign with, and what Orbit signs with.
//!
//! A list stands in a file or in a managed secret, whose previous version counts as well: between a rotation and
//! the moment that the last client has the new key, both are right.
//!
//! Invariant: a key list is secret. Its problems are told by place and by the names of known keys; nothing that
//! stands in it is repeated, but the `UPPER_CASE` name of an environment variable.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::UNIX_EPOCH;

use secrecy::{ExposeSecret, SecretString};

use super::settings::{Fetched, KeySetting, KeySource, ManagedSecret, Origin, SignCredentials, Stage, Versions};
use crate::config::{
    Block, Confidentiality, Context, Document, Environment, Key, Problems, Rule, Value, Written, others_may_read,
};

/// Largest key file.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// As many as a keyring holds.
const KEYS_MAX: usize = 10_000;

const ACCESS_KEY_ID: Rule = Rule { form: "1 to 128 of `A-Z a-z 0-9 _`", accepts: is_access_key_id };
const PRINCIPAL: Rule = Rule { form: "1 to 128 characters of printable ASCII", accepts: is_principal };

/// The keys of one file on its own, for who signs with them.
///
/// # Errors
/// All problems of the file.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Vec<KeySetting>, Problems> {
    let context = Context::new(environment);
    let mut keys = Keys::default();
    let read = read_file(&context, path, None, &mut keys);
    context.finish(read.map(|()| keys.list)).map(|(keys, _)| keys)
}

/// The keys of all lists. Current ones have an `access_key_id` of their own across all of them.
pub(super) fn read(sources: &[(KeySource, Value<'_>)], fetched: &Fetched) -> Option<Vec<KeySetting>> {
    let mut keys = Keys::default();
    let mut complete = true;
    let mut secrets: Vec<(&ManagedSecret, Value<'_>, &Versions)> = Vec::new();
    for (source, named_at) in sources {
        let read = match source {
            KeySource::File(path) => read_file(named_at.context(), path, Some(*named_at), &mut keys),
            KeySource::SecretsManager(secret) => versions(secret, *named_at, fetched).and_then(|versions| {
                secrets.push((secret, *named_at, versions));
                let document = named_at.context().given(&secret.document(), versions.current.expose_secret())?;
                read_list(&document, named_at.context(), &mut keys).map(drop)
            }),
        };
        complete &= read.is_some();
    }
    // Only now: what any list holds today is not called back by a version that was replaced.
    for (secret, named_at, versions) in secrets {
        read_previous(secret, named_at, versions, &mut keys);
    }
    complete.then_some(keys.list)
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
        stage: Stage::Current,
        origin,
    };
    Some((key, plain))
}

/// What AWS gives out as temporary credentials: visible ASCII, as it travels in a header.
fn is_session_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 8192 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The keys of all lists so far.
#[derive(Default)]
struct Keys {
    list: Vec<KeySetting>,
    /// By `access_key_id`, where in the list it stands first.
    places: HashMap<String, usize>,
}

impl Keys {
    fn find(&self, access_key_id: &str) -> Option<&KeySetting> {
        self.places.get(access_key_id).and_then(|at| self.list.get(*at))
    }

    fn push(&mut self, key: KeySetting) {
        self.places.entry(key.access_key_id.clone()).or_insert(self.list.len());
        self.list.push(key);
    }
}

fn read_file(context: &Context<'_>, path: &Path, named_at: Option<Value<'_>>, keys: &mut Keys) -> Option<()> {
    let document = context.open(path, BYTES_MAX, Confidentiality::Confidential, named_at)?;
    let written = read_list(&document, context, keys)?;
    warn_if_readable(document.root(context), written);
    Some(())
}

/// The keys of one list; says whether any secret of it is written out.
fn read_list<'a>(document: &'a Document, context: &'a Context<'a>, keys: &mut Keys) -> Option<Written> {
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
        match keys.find(&key.access_key_id) {
            Some(earlier) => {
                complete = false;
                let message = format!("this `access_key_id` is already at {}", earlier.origin);
                item.fail::<()>(message, "remove one of the two");
            }
            None => keys.push(key),
        }
    }
    if count == 0 {
        return root.fail("the list holds no key", "nobody could call; add one");
    }
    complete.then_some(written)
}

/// What was fetched of a secret, or the problem that it was not.
fn versions<'f>(secret: &ManagedSecret, named_at: Value<'_>, fetched: &'f Fetched) -> Option<&'f Versions> {
    match fetched.get(secret) {
        Some(Ok(versions)) => Some(versions),
        Some(Err(unfetched)) => {
            named_at.fail(format!("cannot fetch `{}`: {}", secret.arn, unfetched.why), unfetched.help)
        }
        // Nothing is fetched for a main file that is wrong.
        None if !named_at.context().is_clean() => None,
        None if fetched.is_offline() => named_at.fail(
            "this source needs the network, which is not used here",
            "name a file that holds the keys, as `keys: keys.yaml`",
        ),
        None => {
            named_at.fail(format!("`{}` was not fetched", secret.arn), "the file changed while it was read; try again")
        }
    }
}

/// Adds the keys that only the previous version of a secret has. What is wrong with that version is said and
/// refuses nothing: it cannot be corrected any more, and holding on to it would keep a good new version out.
fn read_previous(secret: &ManagedSecret, named_at: Value<'_>, versions: &Versions, keys: &mut Keys) {
    let Some(previous) = &versions.previous else { return };
    let (name, text) = (secret.previous_document(), previous.expose_secret());
    named_at.context().cover(&name, text);
    if text == versions.current.expose_secret() {
        return;
    }
    let nothing = BTreeMap::new();
    let context = Context::new(&nothing);
    let mut before = Keys::default();
    let read = {
        let document = context.given(&name, text);
        document.and_then(|document| read_list(&document, &context, &mut before)).map(drop)
    };
    if let Err(problems) = context.finish(read) {
        let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
        named_at.warn(
            format!("the previous version is not valid, its keys are refused: {first}"),
            "move `AWSPREVIOUS` to a valid version if clients still sign with its keys",
        );
        return;
    }
    for key in before.list {
        if keys.list.len() >= KEYS_MAX {
            named_at.warn(
                format!("there are {KEYS_MAX} keys already: the previous version's are refused from {} on", key.origin),
                "remove keys that nobody signs with",
            );
            return;
        }
        match keys.find(&key.access_key_id) {
            None => keys.push(KeySetting { stage: Stage::Previous, ..key }),
            // One that is disabled now is not to be used with its old secret either.
            Some(now) if now.disabled || is_same_credential(now, &key) => {}
            Some(now) if now.origin.file == secret.document() => {
                keys.push(KeySetting { stage: Stage::Previous, ..key })
            }
            Some(now) => named_at.warn(
                format!("the key at {} is now at {}, whose secret alone is accepted", key.origin, now.origin),
                "finish a rotation before moving a key to another list",
            ),
        }
    }
}

fn is_same_credential(one: &KeySetting, other: &KeySetting) -> bool {
    let token = |key: &KeySetting| key.session_token.as_ref().map(|token| token.expose_secret().to_owned());
    one.secret_access_key.expose_secret() == other.secret_access_key.expose_secret() && token(one) == token(other)
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
