//! Which route a request is for. A path is compared byte for byte; nothing is decoded or normalised.

use crate::error::{Code, Rejection};
use crate::request::head::Head;

/// The routes, and everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Dispatch,
    Health,
    Live,
    Metrics,
    Other,
}

impl Endpoint {
    /// Every endpoint; the closed set of the `endpoint` label.
    pub const ALL: [Endpoint; 5] =
        [Endpoint::Dispatch, Endpoint::Health, Endpoint::Live, Endpoint::Metrics, Endpoint::Other];

    /// The value of the `endpoint` label.
    pub const fn label(self) -> &'static str {
        match self {
            Endpoint::Dispatch => "/dispatch",
            Endpoint::Health => "/health",
            Endpoint::Live => "/health/live",
            Endpoint::Metrics => "/metrics",
            Endpoint::Other => "other",
        }
    }

    /// The methods of the route, as `Allow` lists them.
    pub const fn allow(self) -> &'static str {
        match self {
            Endpoint::Dispatch => "POST",
            Endpoint::Health => "GET, HEAD",
            Endpoint::Live | Endpoint::Metrics => "GET",
            Endpoint::Other => "",
        }
    }

    /// The endpoint of a head, by its path alone. `/metrics` exists only where it is served.
    pub fn of(head: &Head, metrics: bool) -> Self {
        match head.path() {
            "/dispatch" => Endpoint::Dispatch,
            "/health" => Endpoint::Health,
            "/health/live" => Endpoint::Live,
            "/metrics" if metrics => Endpoint::Metrics,
            _ => Endpoint::Other,
        }
    }

    /// Whether the route has that method.
    ///
    /// # Errors
    /// `404` for [`Endpoint::Other`], `405` for a method that the route lacks.
    pub fn admit(self, method: &str) -> Result<(), Rejection> {
        match self {
            Endpoint::Other => Err(Rejection::new(Code::NotFound, "no such route")),
            _ if self.allow().split(", ").any(|allowed| allowed == method) => Ok(()),
            _ => Err(Rejection::new(Code::MethodNotAllowed, "method not allowed on this route")),
        }
    }
}

/// The closed set of the `method` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Other,
}

impl Method {
    pub const ALL: [Method; 8] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Patch,
        Method::Delete,
        Method::Options,
        Method::Other,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other => "OTHER",
        }
    }

    pub fn of(method: &str) -> Self {
        Self::ALL.into_iter().find(|m| m.label() == method && *m != Method::Other).unwrap_or(Method::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn endpoint(target: &str) -> Endpoint {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        Endpoint::of(&Head::parse(Bytes::from(raw)).expect("head"), true)
    }

    #[test]
    fn only_the_exact_path_is_the_route() {
        assert_eq!(endpoint("/dispatch?x=/health"), Endpoint::Dispatch);
        assert_eq!(endpoint("/health/live"), Endpoint::Live);
        for other in
            ["/", "//dispatch", "/dispatch/", "/DISPATCH", "/%64ispatch", "/dispatch;a", "/health/", "/x/../health"]
        {
            assert_eq!(endpoint(other), Endpoint::Other, "{other}");
        }
    }

    #[test]
    fn methods() {
        assert!(Endpoint::Health.admit("HEAD").is_ok());
        assert_eq!(Endpoint::Live.admit("HEAD").expect_err("405").code, Code::MethodNotAllowed);
        assert_eq!(Endpoint::Dispatch.admit("post").expect_err("405").code, Code::MethodNotAllowed);
        assert_eq!(Method::of("get"), Method::Other);
        assert_eq!(Method::of("OTHER"), Method::Other);
    }
}
