//! Fetches the versions of a secret that count. Source:
//! <https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html#term_version>

use std::sync::Arc;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use secrecy::SecretString;

use super::credentials::explain;
use super::{Aws, cause, isolated, told};
use crate::config::printable;
use crate::snapshot::settings::{ManagedSecret, Unfetched, Versions};

/// Largest value, which is AWS's own limit.
const BYTES_MAX: usize = 65_536;
const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";

const HELP_CREDENTIALS: &str = "give Orbit AWS credentials that may read the secret";
const HELP_NETWORK: &str =
    "check that Secrets Manager can be reached from here; `endpoint` names another address of it";

/// Fetches both versions, within a bound.
///
/// # Errors
/// Why not, and what to do about it.
pub async fn fetch(aws: &Aws, secret: &ManagedSecret) -> Result<Arc<Versions>, Unfetched> {
    let (aws, secret) = (aws.clone(), secret.clone());
    let fetched = isolated(async move { both(&aws, &secret).await.map(Arc::new) }).await;
    fetched.unwrap_or_else(|why| Err(Unfetched { why, help: HELP_NETWORK }))
}

async fn both(aws: &Aws, secret: &ManagedSecret) -> Result<Versions, Unfetched> {
    let config = aws.configuration(Some(secret.region())).await;
    let mut builder = Builder::from(&config);
    if let Some(endpoint) = &secret.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let client = Client::from_conf(builder.build());
    // In this order: if the secret is rotated in between, the current version comes twice, and none is left out
    // that was current when it began.
    let current = version(&client, secret, CURRENT).await?;
    let previous = match version(&client, secret, PREVIOUS).await {
        Ok(text) => Some(text),
        // A secret that never had a second version.
        Err(Missing::Version) => None,
        Err(other) => return Err(other.into()),
    };
    Ok(Versions { current, previous })
}

/// Why there is no text.
enum Missing {
    /// The secret, or this version of it, does not exist.
    Version,
    Other(Unfetched),
}

impl From<Missing> for Unfetched {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Version => Unfetched {
                why: format!("Secrets Manager has no such secret, or none with a version {CURRENT}"),
                help: "check the ARN, its region and account included",
            },
            Missing::Other(unfetched) => unfetched,
        }
    }
}

async fn version(client: &Client, secret: &ManagedSecret, stage: &str) -> Result<SecretString, Missing> {
    let asked = client.get_secret_value().secret_id(&secret.arn).version_stage(stage);
    let answer = asked.send().await.map_err(|error| missing(&error, stage))?;
    let other = |why: String| {
        Missing::Other(Unfetched { why, help: "store the key list as text: a JSON list of at most 64KiB" })
    };
    match answer.secret_string {
        Some(text) if text.len() > BYTES_MAX => Err(other(format!("version {stage} is larger than 64KiB"))),
        Some(text) => Ok(text.into()),
        None => Err(other(format!("version {stage} is binary"))),
    }
}

fn missing(error: &SdkError<GetSecretValueError>, stage: &str) -> Missing {
    let SdkError::ServiceError(refused) = error else {
        return Missing::Other(match cause::<CredentialsError>(error) {
            Some(error) => Unfetched { why: explain(error), help: HELP_CREDENTIALS },
            None => Unfetched { why: told(error), help: HELP_NETWORK },
        });
    };
    if refused.err().is_resource_not_found_exception() {
        return Missing::Version;
    }
    let Some(code) = refused.err().code() else {
        let why = format!("version {stage}: the answer is none of Secrets Manager");
        return Missing::Other(Unfetched { why, help: HELP_NETWORK });
    };
    let help = match code {
        "AccessDeniedException" => {
            "allow `secretsmanager:GetSecretValue` on the secret, and `kms:Decrypt` on its key, to Orbit's own identity"
        }
        "DecryptionFailure" => "allow `kms:Decrypt` on the secret's key to Orbit's own identity",
        "UnrecognizedClientException" | "InvalidSignatureException" | "ExpiredTokenException" => HELP_CREDENTIALS,
        _ => "try again; if it stays, look the error up in the documentation of `GetSecretValue`",
    };
    let message = refused.err().message().unwrap_or("no message");
    Missing::Other(Unfetched { why: printable(&format!("version {stage}: {code}: {message}"), 400), help })
}
