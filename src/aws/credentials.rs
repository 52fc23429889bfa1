//! The credentials that the standard chain gives: environment, profile, web identity, container, instance metadata.
//! Source: <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>

use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::meta::ProviderChainError;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;

use super::pace::{self, Dice};
use super::{Aws, cause, isolated, told};
use crate::auth::Credentials;
use crate::clock::Moment;
use crate::config::printable;

/// Credentials are replaced that long before they expire, or in the second half of what is left of a short life.
const AHEAD: Duration = Duration::from_secs(300);
/// Those that last are asked for that often, as a profile may have been rewritten.
const LASTING: Duration = Duration::from_secs(900);
/// Longest wait after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What the sources are called, in their order, as the SDK and as an operator names them.
const SOURCES: [(&str, &str); 5] = [
    ("Environment", "environment"),
    ("Profile", "profile"),
    ("WebIdentityToken", "web identity"),
    ("EcsContainer", "container"),
    ("Ec2InstanceMetadata", "instance metadata"),
];

/// Asks the chain, within a bound. Everything is looked at anew, profile and token files included.
/// `region` is where roles are assumed if the environment names none.
///
/// # Errors
/// Why not, in one line: the sources that were tried, each with what was missing.
pub async fn resolve(aws: &Aws, region: &str) -> Result<Credentials, String> {
    let (aws, region) = (aws.clone(), region.to_owned());
    isolated(async move { ask(&aws, &region).await }).await?
}

async fn ask(aws: &Aws, region: &str) -> Result<Credentials, String> {
    let mut named = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().filter_map(|name| aws.environment.get(name).ok());
    let region = named.find(|name| !name.is_empty()).unwrap_or_else(|| region.to_owned());
    let config = aws.configuration(Some(&region)).await;
    let provider = config.credentials_provider().ok_or("the AWS library has no chain of credentials")?;
    let given = provider.provide_credentials().await.map_err(|error| explain(&error))?;
    let token = given.session_token();
    let sendable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !sendable(given.access_key_id()) || given.secret_access_key().is_empty() || token.is_some_and(|t| !sendable(t)) {
        return Err("the credentials that were given are not valid: an empty or unprintable part".to_owned());
    }
    let expires = given.expiry().map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let (secret, token) = (given.secret_access_key().into(), token.map(Into::into));
    Ok(Credentials::new(given.access_key_id(), &secret, token.as_ref(), expires))
}

/// Why the chain gave nothing: what each source lacked, or how the first that is set up failed.
pub(super) fn explain(error: &CredentialsError) -> String {
    let Some(chain) = cause::<ProviderChainError<CredentialsError>>(error) else {
        let why = error.source().map_or_else(|| error.to_string(), told);
        let order = SOURCES.map(|(_, ours)| ours).join(", ");
        return format!("no AWS credentials: {}; the order of sources is {order}", why.trim_end_matches('.'));
    };
    let tried = chain.attempts().iter().map(|attempt| {
        let name = SOURCES.iter().find(|(name, _)| *name == attempt.name()).map_or(attempt.name(), |(_, ours)| ours);
        let why = attempt.error().source().map_or_else(|| "nothing is set up".to_owned(), told);
        format!("{name} ({})", printable(&why, 120))
    });
    format!("no AWS credentials; tried {}", tried.collect::<Vec<_>>().join(", "))
}

/// How long credentials are used before they are asked for again.
pub fn good_for(credentials: &Credentials, now: Moment, dice: &mut Dice) -> Duration {
    let Some(expires) = credentials.expires() else { return pace::after_success(LASTING, dice) };
    let left = Duration::from_secs(expires.saturating_sub(now.unix_seconds()));
    pace::after_success(left - AHEAD.min(left / 2), dice)
}

/// How long to wait after the `failures`th failure in a row.
pub fn again_in(failures: u32, dice: &mut Dice) -> Duration {
    pace::after_failure(AFTER_FAILURE, failures, dice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn credentials_are_replaced_before_they_expire() {
        let now = ManualClock::at(1_000_000).now();
        let mut dice = Dice::new(1);
        for (life, least, most) in [(3600, 2970.0, 3300.0), (600, 270.0, 300.0), (60, 27.0, 30.0), (0, 0.0, 0.0)] {
            let credentials = Credentials::new("A", &"s".into(), None, Some(1_000_000 + life));
            for _ in 0..100 {
                let wait = good_for(&credentials, now, &mut dice).as_secs_f64();
                assert!((least..=most).contains(&wait), "{life}: {wait}");
            }
        }
        let lasting = good_for(&Credentials::new("A", &"s".into(), None, None), now, &mut dice);
        assert!((810.0..=900.0).contains(&lasting.as_secs_f64()));
    }
}
