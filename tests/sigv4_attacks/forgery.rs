//! A signer without scruples: it signs whatever it is told to, rightly or wrongly, with a key derived
//! from whatever it is told to. It shares no code with Orbit, nor with AWS's signer, which refuses to
//! make most of what stands here.

use sha2::{Digest, Sha256};

use super::{BODY, ID, NOW_BASIC, SECRET, TODAY};
use crate::sigv4_suite::{Request, hex};

/// A signature in the making. Every part can be told apart from what the request says.
#[derive(Debug, Clone)]
pub(super) struct Forgery {
    /// Everything but `Authorization`.
    pub request: Request,
    pub id: &'static str,
    pub secret: &'static str,
    /// What stands before the secret.
    pub prefix: &'static str,
    /// What the key is derived from: date, region, service, terminator.
    pub derived: [&'static str; 4],
    /// What the credential says, and the string to sign.
    pub scope: String,
    /// What the string to sign says.
    pub algorithm: &'static str,
    pub stamp: String,
    pub method: String,
    pub path: String,
    pub query: String,
    /// The names whose values are signed, joined by `;`.
    pub signed: String,
    /// What `SignedHeaders` says, if not that.
    pub named: Option<String>,
    /// What stands between two values of one name.
    pub comma: &'static str,
    /// The last line of the canonical request; the body's hash if none.
    pub payload: Option<String>,
    /// What is signed instead of the canonical request.
    pub canonical: Option<String>,
    /// Query authentication: the parameters but the signature, not yet encoded. Empty for a header.
    pub parameters: Vec<(&'static str, String)>,
    /// A parameter added behind the signature, encoded.
    pub appended: String,
}

impl Forgery {
    /// A dispatch that would be accepted.
    pub fn honest() -> Self {
        let fields = [
            ("Host", "orbit.example"),
            ("Content-Type", "application/json"),
            ("X-Amz-Meta-Team", "a"),
            ("X-Correlation-ID", "abc123-def456"),
            ("X-Amz-Date", NOW_BASIC),
        ];
        Self {
            request: Request::new("POST", "/dispatch?stage=prod&a=%2B&a=1&flag=", &fields, BODY.as_bytes()),
            id: ID,
            secret: SECRET,
            prefix: "AWS4",
            derived: [TODAY, "us-east-1", "execute-api", "aws4_request"],
            scope: format!("{TODAY}/us-east-1/execute-api/aws4_request"),
            algorithm: "AWS4-HMAC-SHA256",
            stamp: NOW_BASIC.into(),
            method: "POST".into(),
            path: "/dispatch".into(),
            query: "a=%2B&a=1&flag=&stage=prod".into(),
            signed: "content-type;host;x-amz-date;x-amz-meta-team;x-correlation-id".into(),
            named: None,
            comma: ",",
            payload: None,
            canonical: None,
            parameters: Vec::new(),
            appended: String::new(),
        }
    }

    /// The same presigned, for a minute.
    pub fn presigned() -> Self {
        let mut honest = Self::honest().not("x-amz-date");
        honest.request.remove("x-amz-date");
        let credential = format!("{ID}/{}", honest.scope);
        let parameters = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".into()),
            ("X-Amz-Credential", credential),
            ("X-Amz-Date", NOW_BASIC.into()),
            ("X-Amz-Expires", "60".into()),
            ("X-Amz-SignedHeaders", honest.signed.clone()),
        ];
        Self { parameters, ..honest }
    }

    /// Sets a parameter of query authentication.
    pub fn parameter(mut self, name: &'static str, value: &str) -> Self {
        self = self.without_parameter(name);
        self.parameters.push((name, value.to_owned()));
        self
    }

    pub fn without_parameter(mut self, name: &str) -> Self {
        self.parameters.retain(|(known, _)| *known != name);
        self
    }

    /// Adds a header and signs it.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request.add(name, value);
        self.also(name)
    }

    /// Declares the hash of the body.
    pub fn declared(self) -> Self {
        let hash = self.body_hash();
        self.header("X-Amz-Content-Sha256", &hash)
    }

    /// Signs one more name.
    pub fn also(mut self, name: &str) -> Self {
        let mut names: Vec<_> = self.signed.split(';').map(str::to_owned).chain([name.to_lowercase()]).collect();
        names.sort_unstable();
        self.signed = names.join(";");
        self
    }

    /// Signs one name less.
    pub fn not(mut self, name: &str) -> Self {
        let names: Vec<_> = self.signed.split(';').filter(|n| *n != name).collect();
        assert_ne!(names.len(), self.signed.split(';').count(), "{name} was signed");
        self.signed = names.join(";");
        self
    }

    pub fn body_hash(&self) -> String {
        hex(&Sha256::digest(&self.request.body))
    }

    fn canonical(&self) -> String {
        if let Some(canonical) = &self.canonical {
            return canonical.clone();
        }
        let own = self.query.split('&').map(str::to_owned);
        let mut pairs: Vec<String> = own.chain(self.parameters.iter().map(encoded)).collect();
        if !self.parameters.is_empty() {
            // None of these names begins another, so whole pairs sort as names do.
            pairs.sort_unstable();
        }
        let mut text = format!("{}\n{}\n{}\n", self.method, self.path, pairs.join("&"));
        for name in self.signed.split(';') {
            let of_name = self.request.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            let values: Vec<_> = of_name.map(|(_, v)| String::from_utf8_lossy(v).trim().to_owned()).collect();
            text += &format!("{name}:{}\n", values.join(self.comma));
        }
        let payload = self.payload.clone().unwrap_or_else(|| self.body_hash());
        text + &format!("\n{}\n{payload}", self.named.as_ref().unwrap_or(&self.signed))
    }

    pub fn string_to_sign(&self) -> String {
        let hash = hex(&Sha256::digest(self.canonical()));
        format!("{}\n{}\n{}\n{hash}", self.algorithm, self.stamp, self.scope)
    }

    pub fn key(&self) -> Vec<u8> {
        let secret = format!("{}{}", self.prefix, self.secret).into_bytes();
        self.derived.iter().fold(secret, |key, part| hmac(&key, part.as_bytes()))
    }

    pub fn signature(&self) -> String {
        hex(&hmac(&self.key(), self.string_to_sign().as_bytes()))
    }

    /// The request with this signature.
    pub fn with_signature(mut self, signature: &str) -> Request {
        if !self.parameters.is_empty() {
            let parameters: String = self.parameters.iter().map(|pair| format!("&{}", encoded(pair))).collect();
            self.request.target += &format!("{parameters}&X-Amz-Signature={signature}{}", self.appended);
            return self.request;
        }
        let signed = self.named.as_ref().unwrap_or(&self.signed);
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={signed}, Signature={signature}",
            self.id, self.scope
        );
        self.request.add("Authorization", &value);
        self.request
    }

    pub fn seal(self) -> Request {
        let signature = self.signature();
        self.with_signature(&signature)
    }
}

fn encoded((name, value): &(&str, String)) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let value: String =
        value.bytes().map(|b| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    format!("{name}={value}")
}

/// RFC 2104 over SHA-256.
pub(super) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    match key.len() > block.len() {
        true => block[..32].copy_from_slice(&Sha256::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let pad = |byte: u8| block.iter().map(move |b| b ^ byte).collect::<Vec<_>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}
