//! The request that `call` and `dev` send: signed by the same signer that signs for Axon.

use std::net::SocketAddr;

use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

use crate::auth::Signer;
use crate::clock::Moment;

/// Largest answer that is shown.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A dispatch body.
pub fn body(intent: &str, context: Map<String, Value>) -> Vec<u8> {
    json!({ "intent": intent, "context": context }).to_string().into_bytes()
}

/// An answer, read whole.
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Signs and sends `POST /dispatch` to `authority` at `address`.
///
/// # Errors
/// One line for a person.
pub async fn dispatch(
    address: SocketAddr,
    authority: &str,
    signer: &Signer,
    body: Vec<u8>,
    correlation: Option<&str>,
    now: Moment,
) -> Result<Answered, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(id) = correlation {
        headers.insert("x-correlation-id", HeaderValue::from_str(id).map_err(|e| text(&e))?);
    }
    let signed = signer.sign_headers("POST", authority, "/dispatch", &mut headers, &body, now);
    signed.map_err(|e| e.to_string())?;
    headers.insert(HOST, HeaderValue::from_str(authority).map_err(|e| text(&e))?);

    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/dispatch");
    *request.headers_mut() = headers;

    let stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| format!("no answer: {e}"))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| format!("answer broke off: {e}"))?;
    driver.abort();
    Ok(Answered { status: head.status, headers: head.headers, body: body.to_bytes() })
}
