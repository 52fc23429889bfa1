//! Key lists that stand in AWS Secrets Manager: how the configuration names one, and what was fetched of it.
//!
//! Fetching is done above; here a fetched text is only handed to whoever reads the configuration, which treats
//! it as one more document. So all of it is checked, digested and refused as files are.
//!
//! Invariant: the texts are secrets and have no readable `Debug`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// One secret that holds a list of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedSecret {
    /// `arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME`
    pub arn: String,
    /// How often it is asked for.
    pub refresh: Duration,
    /// Asked instead of AWS's own endpoint of the region.
    pub endpoint: Option<String>,
}

/// The versions of a secret that count.
#[derive(Debug, Clone)]
pub struct Versions {
    /// `AWSCURRENT`
    pub current: SecretString,
    /// `AWSPREVIOUS`, which a secret has from its second version on.
    pub previous: Option<SecretString>,
}

/// Why a secret could not be fetched; holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfetched {
    pub why: String,
    /// What to do about it.
    pub help: &'static str,
}

/// What was fetched for one reading of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    list: Vec<(ManagedSecret, Result<Arc<Versions>, Unfetched>)>,
    offline: bool,
}

impl ManagedSecret {
    /// Whether both name the same thing, however often each asks for it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.arn == other.arn && self.endpoint == other.endpoint
    }

    /// The region that the ARN names.
    pub fn region(&self) -> &str {
        self.arn.split(':').nth(3).unwrap_or_default()
    }

    /// What problems of the current version are reported under.
    pub fn document(&self) -> PathBuf {
        PathBuf::from(&self.arn)
    }

    /// What problems of the version before it are reported under.
    pub fn previous_document(&self) -> PathBuf {
        PathBuf::from(format!("{} AWSPREVIOUS", self.arn))
    }
}

impl Versions {
    /// Whether the texts are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let text = |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        self.current.expose_secret() == other.current.expose_secret() && text(&self.previous) == text(&other.previous)
    }
}

impl Fetched {
    /// For commands that do without the network: every managed secret is a problem that says so.
    pub fn offline() -> Self {
        Self { list: Vec::new(), offline: true }
    }

    /// Whether fetching was out of the question.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// What came of fetching this one; `None` if nobody tried.
    pub fn get(&self, secret: &ManagedSecret) -> Option<&Result<Arc<Versions>, Unfetched>> {
        self.list.iter().find(|(known, _)| known.is_same(secret)).map(|(_, outcome)| outcome)
    }

    /// What was fetched of this one.
    pub fn versions(&self, secret: &ManagedSecret) -> Option<&Arc<Versions>> {
        self.get(secret)?.as_ref().ok()
    }

    /// The ARNs of everything that was asked for.
    pub fn arns(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(secret, _)| secret.arn.as_str())
    }

    /// The same with another outcome for this one.
    pub fn with(mut self, secret: ManagedSecret, outcome: Result<Arc<Versions>, Unfetched>) -> Self {
        self.list.retain(|(known, _)| !known.is_same(&secret));
        self.list.push((secret, outcome));
        self
    }
}

/// Whether it is the ARN of a secret. Source:
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecretsmanager.html#awssecretsmanager-resources-for-iam-policies>
pub(super) fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let [arn, partition, service, region, account, resource, name] = parts.as_slice() else { return false };
    let word = |text: &str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    // The characters that names of secrets are made of: the documentation of `CreateSecret`.
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
    *arn == "arn"
        && partition.starts_with("aws")
        && word(partition)
        && *service == "secretsmanager"
        && word(region)
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && *resource == "secret"
        && (1..=519).contains(&name.len())
        && name.bytes().all(named)
}

/// Whether secrets may travel to it: `https`, or `http` on this very machine.
pub(super) fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let safe = scheme == "https" || (scheme == "http" && here);
    safe && matches!(uri.path(), "" | "/") && uri.query().is_none() && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(arn: &str) -> ManagedSecret {
        ManagedSecret { arn: arn.to_owned(), refresh: Duration::from_secs(300), endpoint: None }
    }

    fn versions(current: &str, previous: Option<&str>) -> Versions {
        Versions { current: current.into(), previous: previous.map(Into::into) }
    }

    #[test]
    fn arns() {
        let good = [
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:orbit/keys-AbCdEf",
            "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:a",
        ];
        for arn in good {
            assert!(is_arn(arn), "{arn}");
        }
        assert_eq!(secret(good[1]).region(), "us-gov-west-1");
        for arn in [
            "orbit/keys",
            "arn:aws:ssm:us-east-1:123456789012:secret:a",
            "arn:aws:secretsmanager::123456789012:secret:a",
            "arn:aws:secretsmanager:us-east-1:12345678901:secret:a",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:a:b",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:a b",
            "arn:evil:secretsmanager:us-east-1:123456789012:secret:a",
        ] {
            assert!(!is_arn(arn), "{arn}");
        }
    }

    #[test]
    fn endpoints_keep_secrets_off_the_wire() {
        for endpoint in
            ["https://vpce-1.example", "https://h:8443/", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"]
        {
            assert!(is_endpoint(endpoint), "{endpoint}");
        }
        for endpoint in [
            "http://10.0.0.1:1",
            "http://example",
            "h:1",
            "https://h/path",
            "https://h?a",
            "https://u:p@h",
            "ftp://h",
            "",
        ] {
            assert!(!is_endpoint(endpoint), "{endpoint}");
        }
    }

    #[test]
    fn what_was_fetched_is_found_by_name_and_shows_nothing() {
        let (one, two) = (secret("one"), secret("two"));
        let fetched = Fetched::default().with(one.clone(), Ok(Arc::new(versions("hunter2", Some("hunter1")))));
        assert!(fetched.get(&two).is_none() && fetched.get(&one).is_some());
        assert!(fetched.get(&ManagedSecret { refresh: Duration::ZERO, ..one.clone() }).is_some());
        assert!(fetched.get(&ManagedSecret { endpoint: Some("x".to_owned()), ..one.clone() }).is_none());
        let shown = format!("{fetched:?}");
        assert!(!shown.contains("hunter"), "{shown}");
        let unfetched = Unfetched { why: "no".to_owned(), help: "" };
        assert!(fetched.with(one.clone(), Err(unfetched)).versions(&one).is_none());
    }

    #[test]
    fn versions_are_compared_by_both_texts() {
        assert!(versions("a", Some("b")).is_same(&versions("a", Some("b"))));
        for other in [versions("a", None), versions("b", Some("b")), versions("a", Some("a"))] {
            assert!(!versions("a", Some("b")).is_same(&other));
        }
    }
}
