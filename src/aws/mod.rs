//! AWS as a place to fetch from, through its own SDK: secrets that hold key lists, and the credentials that
//! Orbit signs with.
//!
//! All of it runs in the background or before the first request; nothing on the way of a request waits for AWS.
//!
//! Invariant: the SDK sees the environment, the clock and the timeouts that are passed in here.
//! Invariant: every call has a bound in time, and every answer one in size.
//! Invariant: no error text holds what was fetched: the SDK's `Debug` output, which shows bodies, is never used.

pub mod credentials;
pub mod pace;
pub mod secrets;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use aws_types::os_shim_internal::Env;
use http_body_util::Limited;

use crate::clock::Clock;
use crate::config::{Environment, printable};

/// For the TCP connection of one attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// For one call, all of its attempts included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u32 = 3;
/// Largest answer: sixteen times the largest secret.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Longest error text.
const ERROR_CHARS_MAX: usize = 400;

/// What every call to AWS is made with.
#[derive(Clone)]
pub struct Aws {
    environment: Env,
    time: SharedTimeSource,
    http: SharedHttpClient,
}

impl Aws {
    /// The SDK gets the `AWS_*` variables and the home directory, where its own files are. Connects to nothing.
    pub fn new(environment: &dyn Environment, clock: Arc<dyn Clock>) -> Self {
        let wanted = |(name, _): &(String, String)| name.starts_with("AWS_") || name == "HOME";
        let environment: HashMap<String, String> = environment.all().into_iter().filter(wanted).collect();
        let https = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
        let inner = https.build_https();
        let http = http_client_fn(move |settings, components| {
            SharedHttpConnector::new(Bounded(inner.http_connector(settings, components)))
        });
        Self { environment: Env::from(environment), time: SharedTimeSource::new(Time(clock)), http }
    }

    /// The standard configuration, for a region or for the one that the environment names.
    async fn configuration(&self, region: Option<&str>) -> SdkConfig {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        // Pinned: a later version changes defaults under an operator's feet.
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .env(self.environment.clone())
            .time_source(self.time.clone())
            .http_client(self.http.clone())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX));
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        loader.load().await
    }
}

/// What came of asking again for something that is held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// New, and in force.
    Changed,
    Unchanged,
    /// New, and not valid: the old is still in force.
    Refused,
    /// Not fetched: the old is still in force.
    Failed,
}

impl Renewal {
    pub const ALL: [Renewal; 4] = [Renewal::Changed, Renewal::Unchanged, Renewal::Refused, Renewal::Failed];

    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Renewal::Changed => "changed",
            Renewal::Unchanged => "unchanged",
            Renewal::Refused => "refused",
            Renewal::Failed => "failed",
        }
    }
}

/// The gateway's clock as the SDK asks for it.
struct Time(Arc<dyn Clock>);

impl TimeSource for Time {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0.now().unix_nanos)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

/// A connector whose answers end after [`ANSWER_BYTES_MAX`].
#[derive(Debug)]
struct Bounded(SharedHttpConnector);

impl HttpConnector for Bounded {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answered = self.0.call(request);
        let bounded = |body: SdkBody| SdkBody::from_body_1_x(Limited::new(body, ANSWER_BYTES_MAX));
        HttpConnectorFuture::new(async move { Ok(answered.await?.map(bounded)) })
    }
}

/// Runs a call on a task of its own, so that a panic in the library is an error and not the end of whoever asked.
/// Dropped, it ends the call.
async fn isolated<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(call);
    match tokio::time::timeout(CALL_TIMEOUT * 2, tasks.join_next()).await {
        Ok(Some(Ok(outcome))) => Ok(outcome),
        Ok(Some(Err(_)) | None) => Err("the AWS library failed".to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// An error and its causes in one line, without the `Debug` output of any of them.
fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    printable(&text, ERROR_CHARS_MAX)
}

/// The error or cause of this type.
fn cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// An error whose `Debug` shows what it must not.
    struct Outer(io::Error);

    impl fmt::Debug for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("hunter2")
        }
    }

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("dispatch failure")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes_in_one_line() {
        let error = Outer(io::Error::other(format!("refused\n{}", "x".repeat(1000))));
        let shown = told(&error);
        assert!(shown.starts_with("dispatch failure: refused\u{fffd}xxx"), "{shown}");
        assert!(shown.chars().count() == ERROR_CHARS_MAX + 1 && !shown.contains("hunter2"), "{shown}");
        assert!(cause::<io::Error>(&error).is_some() && cause::<fmt::Error>(&error).is_none());
    }

    #[tokio::test]
    async fn a_panic_of_the_library_is_an_error() {
        let broken: Result<(), String> = isolated(async { panic!("on purpose") }).await;
        assert_eq!(broken, Err("the AWS library failed".to_owned()));
    }
}
