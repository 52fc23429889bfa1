//! `orbit dev`: Orbit with nothing configured. An embedded Axon, a made-up key and a sample policy; it
//! sends itself a real signed dispatch, shows what happened, and keeps serving.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{colour_of, complain, failed, print, runtime, sample, start_log, unix_now};
use crate::auth::Signer;
use crate::axon::SystemResolver;
use crate::clock::{Clock, SystemClock};
use crate::config::Environment;
use crate::gateway::{Orbit, Parts};
use crate::lifecycle::{Signals, explain};
use crate::request::correlation::UuidV7;
use crate::snapshot::settings::{LogFormat, LogLevel, Logs};

const POLICY: &str = include_str!("../../conf/policies/default.json");

#[derive(clap::Args)]
#[command(after_help = "Example:\n  orbit dev --port 0")]
pub struct Args {
    /// Port on 127.0.0.1; 0 picks a free one. Without it 8080, or a free one if that is taken
    #[arg(long)]
    port: Option<u16>,
    /// End after the self-test instead of serving
    #[arg(long)]
    once: bool,
}

/// A key that lives as long as this process.
struct MadeUp {
    access_key_id: String,
    secret_access_key: String,
}

/// Exit code 0 when the self-test was answered 200 and serving ended cleanly.
pub fn run(args: &Args, environment: Arc<dyn Environment + Send + Sync>) -> ExitCode {
    let logs = Logs { format: LogFormat::Text, level: LogLevel::Warn, requests: true };
    let (sink, guard) = match start_log(logs) {
        Ok(log) => log,
        Err(e) => return failed(format!("cannot start the log: {e}")),
    };
    let (directory, runtime) = match (tempfile::tempdir(), runtime(None)) {
        (Ok(directory), Ok(runtime)) => (directory, runtime),
        (Err(e), _) | (_, Err(e)) => return failed(e),
    };
    let clock = SystemClock::shared();
    let outcome = runtime.block_on(async {
        let signals = Signals::new().map_err(|e| e.to_string())?;
        let axon = start_axon().await.map_err(|e| format!("cannot start the embedded Axon: {e}"))?;
        let key = MadeUp {
            access_key_id: format!("ORBITDEV{}", short_random(12).to_uppercase()),
            secret_access_key: format!("{}{}", short_random(20), short_random(20)),
        };
        write_files(directory.path(), axon, &key, listen_port(args.port))?;
        let parts = Parts {
            config: directory.path().join("orbit.yaml"),
            environment,
            clock: clock.clone(),
            ids: UuidV7::source(),
            resolver: SystemResolver::shared(),
            seed: Uuid::new_v4().as_u128() as u64,
            sink,
        };
        let orbit = Orbit::start(parts).await.map_err(|refused| explain(&refused, colour_of(&std::io::stderr())))?;
        let orbit = Arc::new(orbit);
        let address = *orbit.addresses().first().ok_or("no listener")?;
        show_one(address, axon, &key, &*clock).await?;
        if args.once {
            return Ok(orbit.close(Duration::from_secs(1)).await);
        }
        print("\nServing until Ctrl-C. Requests are logged below.\n\n");
        Ok::<bool, String>(signals.serve(&orbit).await)
    });
    runtime.shutdown_background();
    drop(guard);
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            complain(&format!("{}\n", why.trim_end()));
            ExitCode::FAILURE
        }
    }
}

/// Sends the dispatch and prints request, decision, answer and how to repeat it.
async fn show_one(orbit: SocketAddr, axon: SocketAddr, key: &MadeUp, clock: &dyn Clock) -> Result<(), String> {
    let authority = orbit.to_string();
    let context: Map<String, Value> =
        [("user_id", "user123"), ("request_id", "req456")].map(|(k, v)| (k.to_owned(), v.into())).into_iter().collect();
    let body = sample::body("call_reasoning", context);
    let secret = SecretString::from(key.secret_access_key.clone());
    let signer = Signer::new(&key.access_key_id, &secret, None, "us-east-1", "execute-api");
    let answered = sample::dispatch(orbit, &authority, &signer, body.clone(), None, clock.now()).await?;

    let body = String::from_utf8_lossy(&body).into_owned();
    let header = |name: &str| answered.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let mut out = String::new();
    let _ = writeln!(out, "Orbit listens on http://{authority}, in front of an embedded Axon on http://{axon}.\n");
    let _ = writeln!(out, "REQUEST   POST http://{authority}/dispatch, signed with AWS SigV4 as {}", key.access_key_id);
    let _ = writeln!(out, "          {body}");
    let _ = writeln!(
        out,
        "DECISION  {} in {} ms, correlation id {}",
        header("x-governance-decision"),
        header("x-governance-time-ms"),
        header("x-correlation-id")
    );
    let _ = writeln!(out, "ANSWER    {}", answered.status);
    let _ = writeln!(out, "          {}", pretty(&answered.body));
    let _ = writeln!(out, "\nCall it yourself:\n");
    let _ = writeln!(
        out,
        "  curl --aws-sigv4 'aws:amz:us-east-1:execute-api' --user '{}:{}' \\\n       -H 'Content-Type: application/json' -d '{body}' http://{authority}/dispatch",
        key.access_key_id, key.secret_access_key
    );
    print(&out);
    if answered.status.is_success() { Ok(()) } else { Err("the self-test was not answered 200".to_owned()) }
}

fn pretty(body: &[u8]) -> String {
    let value: Result<Value, _> = serde_json::from_slice(body);
    let text = value.ok().and_then(|v| serde_json::to_string_pretty(&v).ok());
    text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()).replace('\n', "\n          ")
}

/// 8080 is what the documentation says; if somebody has it, any port will do.
fn listen_port(wanted: Option<u16>) -> u16 {
    wanted.unwrap_or_else(|| match std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)) {
        Ok(_free) => 8080,
        Err(_) => 0,
    })
}

fn write_files(directory: &Path, axon: SocketAddr, key: &MadeUp, port: u16) -> Result<(), String> {
    let orbit = format!(
        "version: 1\n\
         listen: {{ address: 127.0.0.1:{port} }}\n\
         drain: {{ min: 0s, max: 5s }}\n\
         auth: {{ keys: keys.yaml }}\n\
         governance: {{ policies: policies.json }}\n\
         upstreams:\n  axon: {{ endpoints: [\"http://{axon}\"], sign: disabled }}\n"
    );
    let keys = json!([{
        "access_key_id": key.access_key_id,
        "secret_access_key": key.secret_access_key,
        "principal": "developer",
    }]);
    let files = [("orbit.yaml", orbit), ("keys.yaml", keys.to_string()), ("policies.json", POLICY.to_owned())];
    for (name, text) in files {
        let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name));
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|e| format!("cannot write {name}: {e}"))?;
    }
    Ok(())
}

/// Letters and digits that are safe in every shell.
fn short_random(chars: usize) -> String {
    Uuid::new_v4().simple().to_string().chars().take(chars).collect()
}

/// A minimal Axon: answers every request like the real one's heartbeat.
async fn start_axon() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(heartbeat));
            tokio::spawn(async move {
                let _ = served.await;
            });
        }
    });
    Ok(address)
}

async fn heartbeat(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let timestamp = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + unix_now()).to_string();
    let answer = json!({ "message": "Axon heartbeat OK", "service": "axon", "timestamp": timestamp });
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
