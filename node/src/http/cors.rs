//! Cross-origin requests from browsers (the Fetch standard's CORS protocol): off unless
//! `http.cors_origins` lists origins. Credentials are never allowed, so `*` is safe to list.
//!
//! Not tower-http's `CorsLayer`, for three things that the transcripts show: it takes every OPTIONS request for
//! a preflight, while ours answers `Allow` to those that are none and 404 to unknown paths; it answers preflights
//! past what every answer here has (`Hearth-Node`, a request id, a count, a line in the access log); and it
//! allows the same methods on every path, where ours allows those that the path has.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

/// What a script may send.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, if-match, if-none-match, idempotency-key, last-event-id, x-request-id",
);
/// What a script may read besides the few headers that it always may.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "allow, etag, retry-after, hearth-expires-in, hearth-idempotent-replay, hearth-leader, hearth-node, hearth-oldest-revision, hearth-request-id, hearth-revision, hearth-source, hearth-staleness-ms",
);
/// Seconds that a browser may remember a preflight's answer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins that may ask.
#[derive(Debug, Default)]
pub(super) struct Cors {
    any: bool,
    origins: Vec<HeaderValue>,
}

impl Cors {
    /// From `http.cors_origins`: `*`, or `scheme://host[:port]` as browsers send it.
    pub(super) fn new(origins: &[String]) -> anyhow::Result<Self> {
        let any = origins.iter().any(|origin| origin == "*");
        let origins = origins.iter().map(|origin| HeaderValue::from_str(origin)).collect::<Result<_, _>>()?;
        Ok(Self { any, origins })
    }

    /// The origin to allow for a request with these headers: its own, or `*`.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.contains(origin).then(|| origin.clone())
    }

    /// Whether answers depend on the asking origin: caches must know.
    pub(super) fn varies(&self) -> bool {
        !self.any && !self.origins.is_empty()
    }
}

/// Whether a browser asks what it may send, before it sends it.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to that; `allow` is what the path has.
pub(super) fn preflight(allow: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, allow);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Lets the script at `origin` read an answer.
pub(super) fn expose(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
}

/// Tells caches that another origin may get another answer.
pub(super) fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let from = |origin: &str| HeaderMap::from_iter([(ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        let cors = |origins: &[&str]| {
            Cors::new(&origins.iter().map(|origin| (*origin).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        let one = cors(&["https://a.example"]);
        assert_eq!(one.allowed(&from("https://a.example")).unwrap(), "https://a.example");
        for other in ["https://a.example:8443", "http://a.example", "https://a.example.evil", "null"] {
            assert_eq!(one.allowed(&from(other)), None, "{other}");
        }
        assert_eq!(one.allowed(&HeaderMap::new()), None);
        assert!(one.varies());
        let any = cors(&["*"]);
        assert_eq!(any.allowed(&from("http://b.example")).unwrap(), "*");
        assert!(!any.varies());
        assert_eq!(Cors::default().allowed(&from("https://a.example")), None);
    }
}
