//! `orbit call`: a signed dispatch from the command line.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use http::Uri;
use serde_json::{Map, Value};

use super::{complain, failed, print, sample};
use crate::auth::{Credentials, CurrentCredentials, Signer};
use crate::aws::{Aws, credentials};
use crate::clock::SystemClock;
use crate::config::{Colour, Environment};
use crate::snapshot::keys;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  orbit call --url http://127.0.0.1:8080 --keys keys.yaml --intent call_reasoning --context user_id=user123\n  \
                  AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… orbit call --intent call_reasoning"
)]
pub struct Args {
    /// Where Orbit listens; plain HTTP
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: Uri,
    /// What is asked for
    #[arg(long)]
    intent: String,
    /// A member of the context, `key=value`; the value is JSON if it parses as JSON, else a string
    #[arg(long = "context", value_name = "KEY=VALUE", value_parser = member)]
    context: Vec<(String, Value)>,
    /// A keys file to sign from; without it AWS's standard chain: environment, profile, web identity, container, instance
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Which key of the file; the first one otherwise
    #[arg(long, requires = "keys", value_name = "ID")]
    access_key_id: Option<String>,
    /// Region of the signature
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Service of the signature
    #[arg(long, default_value = "execute-api")]
    service: String,
    /// Correlation id to send
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// How long to wait for the answer, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

fn member(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("must be `key=value`")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Prints the answer's body; exit code 0 for a 2xx, 1 otherwise. The status goes to standard error.
pub fn run(args: &Args, environment: &dyn Environment) -> ExitCode {
    let runtime = match super::runtime(Some(1)) {
        Ok(runtime) => runtime,
        Err(e) => return failed(e),
    };
    let signer = match runtime.block_on(signer(args, environment)) {
        Ok(signer) => signer,
        Err(why) => return failed(why),
    };
    let (Some("http"), Some(authority)) = (args.url.scheme_str(), args.url.authority()) else {
        return failed(format!("`{}` is not an http:// address", args.url));
    };
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_matches(['[', ']']);
    let address = match (host, port).to_socket_addrs().map(|mut all| all.next()) {
        Ok(Some(address)) => address,
        Ok(None) => return failed(format!("`{host}` has no address")),
        Err(e) => return failed(format!("cannot resolve `{host}`: {e}")),
    };
    let context: Map<String, Value> = args.context.iter().cloned().collect();
    let body = sample::body(&args.intent, context);
    let now = SystemClock::shared().now();
    let answered = runtime.block_on(async {
        let sent = sample::dispatch(address, authority.as_str(), &signer, body, args.correlation_id.as_deref(), now);
        tokio::time::timeout(Duration::from_secs(args.timeout), sent).await
    });
    let answered = match answered {
        Ok(Ok(answered)) => answered,
        Ok(Err(why)) => return failed(why),
        Err(_) => return failed(format!("no answer within {} seconds", args.timeout)),
    };
    complain(&format!("{}\n", answered.status));
    print(&format!("{}\n", String::from_utf8_lossy(&answered.body)));
    if answered.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn signer(args: &Args, environment: &dyn Environment) -> Result<Signer, String> {
    let credentials = match &args.keys {
        Some(path) => {
            let list = keys::load(path, environment).map_err(|problems| problems.render(Colour::Plain))?;
            let wanted = |id: &str| args.access_key_id.as_deref().is_none_or(|wanted| wanted == id);
            let key = list.into_iter().find(|key| wanted(&key.access_key_id));
            let key = key.ok_or_else(|| format!("no such key in {}", path.display()))?;
            Credentials::new(&key.access_key_id, &key.secret_access_key, key.session_token.as_ref(), None)
        }
        None => {
            let aws = Aws::new(environment, SystemClock::shared());
            let resolved = credentials::resolve(&aws, &args.region).await;
            resolved.map_err(|why| format!("{why}; set one of these up, or name a file with --keys"))?
        }
    };
    Ok(Signer::with(CurrentCredentials::new(credentials), &args.region, &args.service))
}
