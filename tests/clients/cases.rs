//! What every client is asked to send.

use serde_json::{Value, json};

use crate::harness::client::Signing;
use crate::harness::gateway::{ACCESS_KEY, BODY, SECRET};

/// A key that is only valid with [`TOKEN`].
pub const TEMPORARY: &str = "TEMPORARY";
/// Base64 as session tokens are, with everything in it that a URL gives a meaning to.
pub const TOKEN: &str = "IQoJb3JpZ2luX2VjE/session+token==";

/// One request to `POST /dispatch`.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    /// Behind the `?`; empty for none.
    pub query: &'static str,
    /// A header beside `Content-Type` and `X-Correlation-ID`.
    pub header: Option<(&'static str, &'static str)>,
    pub body: String,
    pub credentials: Credentials,
    /// How long the signature shall hold, if it goes into the query; 0 if it goes into a header.
    pub expires_seconds: u64,
    pub expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    Lasting,
    WithToken,
    WrongSecret,
    WrongToken,
}

/// What proves that Orbit and the client agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// 200, and Axon got the body as it was given to the client.
    Dispatched,
    /// 400: only a verified body is looked at, and found not to be JSON.
    Read,
    /// 401 with this issue.
    Refused(&'static str),
}

impl Credentials {
    /// For the scope that the gateway is configured for.
    pub fn signing(self) -> Signing {
        let (access_key, secret, token) = match self {
            Self::Lasting => (ACCESS_KEY, SECRET, None),
            Self::WithToken => (TEMPORARY, SECRET, Some(TOKEN)),
            Self::WrongSecret => (ACCESS_KEY, "wrong", None),
            Self::WrongToken => (TEMPORARY, SECRET, Some("another/token")),
        };
        Signing { token: token.map(str::to_owned), ..Signing::new(access_key, secret) }
    }
}

impl Case {
    fn new(name: &'static str) -> Self {
        let body = BODY.to_owned();
        Self {
            name,
            query: "",
            header: None,
            body,
            credentials: Credentials::Lasting,
            expires_seconds: 0,
            expected: Expected::Dispatched,
        }
    }

    fn query(name: &'static str, query: &'static str) -> Self {
        Self { query, ..Self::new(name) }
    }

    fn presigned(name: &'static str) -> Self {
        Self { expires_seconds: 60, ..Self::new(name) }
    }

    /// The request's target.
    pub fn target(&self) -> String {
        if self.query.is_empty() { "/dispatch".to_owned() } else { format!("/dispatch?{}", self.query) }
    }

    /// Every header that the client is given.
    pub fn headers(&self, correlation_id: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("Content-Type", "application/json".to_owned()),
            // The only header that is on all sides: it tells which case a request belongs to.
            ("X-Correlation-ID", correlation_id.to_owned()),
        ];
        headers.extend(self.header.map(|(name, value)| (name, value.to_owned())));
        headers
    }

    /// The case as the drivers read it; see [`super::driver`].
    pub fn to_json(&self, origin: &str, correlation_id: &str) -> Value {
        let signing = self.credentials.signing();
        let headers: serde_json::Map<_, _> =
            self.headers(correlation_id).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        json!({
            "name": self.name,
            "method": "POST",
            "url": format!("{origin}{}", self.target()),
            "headers": headers,
            "body": self.body,
            "access_key_id": signing.access_key,
            "secret_access_key": signing.secret,
            "session_token": signing.token,
            "region": signing.region,
            "service": signing.service,
            "expires_seconds": self.expires_seconds,
        })
    }
}

/// Every case, the same for each client; the presigned ones for those that can presign.
pub fn all() -> Vec<Case> {
    let large = format!(r#"{{"intent":"call_reasoning","context":{{"filler":"{}"}}}}"#, "x".repeat(100 << 10));
    let unicode = r#"{"intent":"call_reasoning","context":{"user_id":"Zoë 日本 🛰"}}"#.to_owned();
    let note = |value| Some(("X-Amz-Meta-Note", value));
    let empty = |case| Case { body: String::new(), expected: Expected::Read, ..case };
    let with = |credentials, case| Case { credentials, ..case };
    let refused = |issue, case| Case { expected: Expected::Refused(issue), ..case };
    vec![
        Case::new("JSON body"),
        empty(Case::new("empty body")),
        Case { body: unicode.clone(), ..Case::new("unicode body") },
        Case { body: large.clone(), ..Case::new("body of 100 KiB") },
        Case { header: note("a   b  c"), ..Case::new("header with inner spaces") },
        Case { header: note(r#"a   b  "c   d" e"#), ..Case::new("header with quoted spaces") },
        with(Credentials::WithToken, Case::new("session token")),
        Case::query("query, sorted", "a=1&b=2&c=3"),
        Case::query("query, not sorted", "b=2&c=3&a=1"),
        Case::query("query, names that begin alike", "a=x&a-b=x&a1=x&aa=x"),
        Case::query("query, one name twice", "a=2&b=x&a=1&a=2"),
        Case::query("query, empty value", "a=&b=1"),
        Case::query("query, name without `=`", "a=1&flag"),
        Case::query("query, escaped space", "a=x%20y"),
        Case::query("query, bare plus", "a=x+y"),
        Case::query("query, escaped plus", "a=x%2By"),
        Case::query("query, escaped percent", "a=100%25&b=%252F"),
        Case::query("query, escaped reserved", "a=%2F%3D%26%3F%40%3A"),
        Case::query("query, bare reserved", "a=x:y/z@w"),
        Case::query("query, bare equals sign", "a=b=c"),
        Case::query("query, unicode", "a=%C3%A9&b=%E6%97%A5"),
        Case::query("query, escapes in lower case", "a=%c3%a9"),
        refused("mismatch", with(Credentials::WrongSecret, Case::new("wrong secret"))),
        refused("token_mismatch", with(Credentials::WrongToken, Case::new("wrong session token"))),
        Case::presigned("presigned, JSON body"),
        empty(Case::presigned("presigned, empty body")),
        Case { body: unicode, ..Case::presigned("presigned, unicode body") },
        Case { body: large, ..Case::presigned("presigned, body of 100 KiB") },
        with(Credentials::WithToken, Case::presigned("presigned, session token")),
        with(Credentials::WithToken, empty(Case::presigned("presigned, session token, empty body"))),
        Case { query: "b=2&c=3&a=x%20y", ..empty(Case::presigned("presigned, query, not sorted")) },
        Case { query: "a=2&a=1", ..empty(Case::presigned("presigned, query, one name twice")) },
        refused("mismatch", with(Credentials::WrongSecret, empty(Case::presigned("presigned, wrong secret")))),
        refused("token_mismatch", with(Credentials::WrongToken, empty(Case::presigned("presigned, wrong token")))),
    ]
}
