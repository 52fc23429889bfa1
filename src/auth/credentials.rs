//! What Orbit itself signs with: one set of credentials, which may expire and be replaced while requests are signed.
//!
//! Invariant: a request waits for nobody here, and nothing is signed with what has expired.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_smithy_runtime_api::client::identity::Identity;
use secrecy::{ExposeSecret, SecretString};

use crate::clock::Moment;

/// One set of credentials.
#[derive(Clone)]
pub struct Credentials {
    access_key_id: String,
    identity: Identity,
    /// Unix seconds from which on they are refused; `None` if they last.
    expires: Option<u64>,
}

/// The set that is used now, shared by everybody who signs with it.
#[derive(Debug)]
pub struct CurrentCredentials(ArcSwap<Credentials>);

/// The credentials have expired, and nothing newer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Unix seconds.
    pub since: u64,
}

impl Credentials {
    /// A token makes the key a temporary one, which `expires` at these Unix seconds.
    pub fn new(
        access_key_id: &str,
        secret_access_key: &SecretString,
        session_token: Option<&SecretString>,
        expires: Option<u64>,
    ) -> Self {
        let token = session_token.map(|token| token.expose_secret().to_owned());
        let secret = secret_access_key.expose_secret();
        // When they expire is checked here, by the clock that is passed in.
        let identity = aws_credential_types::Credentials::new(access_key_id, secret, token, None, "orbit");
        Self { access_key_id: access_key_id.to_owned(), identity: identity.into(), expires }
    }

    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// Unix seconds from which on they are refused; `None` if they last.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl CurrentCredentials {
    /// Begins with this set.
    pub fn new(first: Credentials) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(first)))
    }

    /// Replaces the set for whatever is signed from now on.
    pub fn replace(&self, next: Credentials) {
        self.0.store(Arc::new(next));
    }

    /// Unix seconds at which the set expires; `None` if it lasts.
    pub fn expires(&self) -> Option<u64> {
        self.0.load().expires
    }

    /// The set itself, expired or not.
    pub fn latest(&self) -> Arc<Credentials> {
        self.0.load_full()
    }

    /// The set to sign with.
    ///
    /// # Errors
    /// [`Expired`].
    pub fn at(&self, now: Moment) -> Result<Arc<Credentials>, Expired> {
        let current = self.latest();
        match current.expires {
            Some(since) if since <= now.unix_seconds() => Err(Expired { since }),
            Some(_) | None => Ok(current),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn what_has_expired_is_not_given_out_until_it_is_replaced() {
        let set = |id: &str, expires| Credentials::new(id, &"s3cr3t".into(), Some(&"t0ken".into()), expires);
        let current = CurrentCredentials::new(set("FIRST", Some(100)));
        let at = |seconds| current.at(ManualClock::at(seconds).now()).map(|set| set.access_key_id().to_owned());
        assert_eq!(at(99), Ok("FIRST".to_owned()));
        assert_eq!(at(100), Err(Expired { since: 100 }));
        current.replace(set("SECOND", None));
        assert_eq!(at(u64::MAX / 1_000_000_000), Ok("SECOND".to_owned()));
        let shown = format!("{current:?}");
        assert!(shown.contains("SECOND") && !shown.contains("s3cr3t") && !shown.contains("t0ken"), "{shown}");
    }
}
