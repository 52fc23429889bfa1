//! Signs one `POST /dispatch` as an AWS client would, the body's hash in a header of its own, and prints the headers to
//! send, one `name: value` a line.
//! The signature stays valid for the verifier's clock skew, so that a load generator can repeat one request.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use orbit_load::{Failure, options};

fn main() -> Result<(), Failure> {
    let option = options(&["host", "key", "secret", "body", "region", "service"])?;
    let need = |name: &str| option(name).ok_or_else(|| Failure::from(format!("`--{name}` is missing")));
    let host = need("host")?;
    let body = std::fs::read(need("body")?)?;
    let region = option("region").unwrap_or_else(|| "us-east-1".to_owned());
    let service = option("service").unwrap_or_else(|| "execute-api".to_owned());

    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = Credentials::new(need("key")?, need("secret")?, None, None, "load").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&region)
        .name(&service)
        .time(SystemTime::now())
        .settings(settings)
        .build()?;
    let headers = [("host", host.as_str()), ("content-type", "application/json")];
    let request = SignableRequest::new(
        "POST",
        format!("http://{host}/dispatch"),
        headers.into_iter(),
        SignableBody::Bytes(&body),
    )?;
    let (instructions, _signature) = sign(request, &parameters.into())?.into_parts();
    println!("content-type: application/json");
    for (name, value) in instructions.headers() {
        println!("{name}: {value}");
    }
    Ok(())
}
