//! AWS as moto fakes it: a child process, and its Secrets Manager as an operator fills it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Region};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// A running moto; ended when dropped.
pub struct Moto {
    child: Child,
    address: String,
}

impl Moto {
    /// One that all tests share; each uses secrets of its own. It ends with the test binary, whose pipe it reads.
    pub fn shared() -> &'static Moto {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(Moto::start)
    }

    /// One of the caller's own. Starting it takes seconds, as Python imports.
    pub fn start() -> Moto {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/serve_moto.py");
        let mut child = Command::new(python())
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("moto starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        output.read_line(&mut line).expect("moto says where it serves");
        let address = line.trim().strip_prefix("serving on ").unwrap_or_else(|| panic!("moto said {line:?}"));
        Moto { address: address.to_owned(), child }
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new secret with this text.
    pub async fn secret(&self, text: &str) -> Secret {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("orbit/keys-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let client = self.secrets_manager();
        let made = client.create_secret().name(name).secret_string(text).send().await.expect("a new secret");
        Secret { arn: made.arn.expect("an ARN"), client }
    }

    fn secrets_manager(&self) -> Client {
        let https = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
        let config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .endpoint_url(self.url())
            .credentials_provider(Credentials::new("OPERATOR", "operator", None, None, "tests"))
            .http_client(https.build_https())
            .build();
        Client::from_conf(config)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One secret in moto.
pub struct Secret {
    pub arn: String,
    client: Client,
}

impl Secret {
    /// A new version, which becomes `AWSCURRENT`; the one before it becomes `AWSPREVIOUS`.
    pub async fn put(&self, text: &str) {
        self.client.put_secret_value().secret_id(&self.arn).secret_string(text).send().await.expect("a new version");
    }

    /// The same with bytes, which are no text.
    pub async fn put_binary(&self, bytes: &[u8]) {
        let blob = aws_sdk_secretsmanager::primitives::Blob::new(bytes);
        self.client.put_secret_value().secret_id(&self.arn).secret_binary(blob).send().await.expect("a new version");
    }
}

/// The interpreter of `make test`, which has moto.
fn python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-python/bin/python");
    assert!(path.exists(), "there is no {}: run `make test-tools`", path.display());
    path
}
