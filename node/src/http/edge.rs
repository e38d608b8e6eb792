//! What surrounds every request: an id, limits of its head, the headers that every answer has,
//! counts, times and the access log.
//!
//! This is on the path of every request, so it allocates little: metric handles and header values
//! are kept, ids come from a generator of the thread, and between here and the handler there is one
//! boxed future and no middleware.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::http::connection::{AnswerBody, Connection, RequestBody};
use crate::http::cors::{self, Cors};
use crate::http::problem::{self, Code, PROBLEM_JSON, Problem};
use crate::http::routes::{self, Route, Routes};
use crate::http::watch::IsStream;
use crate::http::{App, openapi};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const HEARTH_REQUEST_ID: HeaderName = HeaderName::from_static("hearth-request-id");
pub(super) const HEARTH_NODE: HeaderName = HeaderName::from_static("hearth-node");

/// A client's request id is taken over up to this length.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Bytes of an id made here: a random 64-bit number in hexadecimal.
const REQUEST_ID_BYTES: usize = 16;
/// How many ids share an allocation.
const REQUEST_IDS_AT_ONCE: usize = 64;

/// What bounds a request, from the `http.` keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    /// Bytes of a request's first line and headers.
    pub(crate) head_bytes_max: usize,
    /// Headers of a request.
    pub(crate) headers_max: usize,
    /// Bytes of path and query.
    pub(crate) uri_bytes_max: usize,
    /// Time for the head of a request, from its first byte.
    pub(crate) header_timeout: Duration,
    /// Time for the body of a request.
    pub(crate) body_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub(crate) write_timeout: Duration,
    /// How long a connection may be open without a request.
    pub(crate) idle_timeout: Duration,
}

/// What all connections share.
pub(crate) struct Edge {
    pub(super) app: Arc<App>,
    pub(super) limits: RequestLimits,
    routes: Routes,
    cors: Cors,
    node: HeaderValue,
}

impl Edge {
    /// # Errors
    /// When two handlers claim the same method of the same path, or an origin cannot be a header.
    pub(crate) fn new(
        app: Arc<App>,
        limits: RequestLimits,
        cors_origins: &[String],
    ) -> anyhow::Result<Arc<Self>> {
        let (routes, operations) = Routes::new(super::endpoints(), &super::WHOLE_TAILS, |template| {
            app.http_metrics.route(template)
        })?;
        app.set_document(openapi::json(operations)?);
        let cors = Cors::new(cors_origins)?;
        let node = HeaderValue::from_str(&app.name)?;
        Ok(Arc::new(Self { app, limits, routes, cors, node }))
    }

    async fn respond(&self, route: Option<&Route>, request: Request) -> Response {
        if let Err(problem) = self.check_head(&request) {
            return problem.into_response();
        }
        let Some(route) = route else {
            if request.method() == Method::OPTIONS && request.uri().path() == "*" {
                return routes::no_content(HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE, OPTIONS"));
            }
            let detail = format!("there is nothing at {}", request.uri().path());
            return Problem::new(Code::NotFound, detail).into_response();
        };
        let is_preflight = cors::is_preflight(request.method(), request.headers());
        if is_preflight && self.cors.allowed(request.headers()).is_some() {
            return cors::preflight(route.allow());
        }
        route.answer(request, &self.app).await
    }

    /// What hyper does not bound, or less tightly.
    fn check_head(&self, request: &Request) -> Result<(), Problem> {
        let RequestLimits { uri_bytes_max, headers_max, .. } = self.limits;
        let uri_bytes = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
        if uri_bytes > uri_bytes_max {
            let detail = format!("path and query: {uri_bytes} bytes, more than {uri_bytes_max}");
            return Err(Problem::new(Code::UriTooLong, detail));
        }
        let headers = request.headers().len();
        if headers > headers_max {
            let detail = format!("{headers} headers, more than {headers_max}");
            return Err(Problem::new(Code::HeadersTooLarge, detail));
        }
        Ok(())
    }

    /// The whole answer, as bytes, to what hyper could not take for a request: its status is known, and
    /// nothing else. Closes the connection.
    pub(super) fn reject(&self, status: StatusCode) -> Bytes {
        let RequestLimits { head_bytes_max, headers_max, header_timeout, .. } = self.limits;
        let problem = match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Problem::new(
                Code::HeadersTooLarge,
                format!("first line and headers: more than {head_bytes_max} bytes or {headers_max} headers"),
            ),
            StatusCode::URI_TOO_LONG => Problem::new(
                Code::UriTooLong,
                format!("path and query: more than {} bytes", self.limits.uri_bytes_max),
            ),
            StatusCode::REQUEST_TIMEOUT => Problem::new(
                Code::ClientTimeout,
                format!("first line and headers: not complete within {header_timeout:?}"),
            ),
            _ => Problem::new(
                Code::InvalidRequest,
                "first line or headers: not HTTP/1.1, or a character that may not be there unencoded",
            ),
        };
        let request_id = new_request_id();
        let id = request_id.to_str().unwrap_or_default();
        let body = problem.json(id);
        self.routes.unknown.count(&Method::TRACE, status, Duration::ZERO);
        tracing::debug!(request_id = id, status = status.as_u16(), "refused what is not a request");
        let text = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\
             hearth-node: {}\r\nhearth-request-id: {id}\r\n\r\n{body}",
            body.len(),
            self.app.name,
        );
        Bytes::from(text)
    }
}

/// Decrements the gauge also when the client goes away before the answer.
struct InFlight<'a>(&'a prometheus::IntGauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers one request of a connection.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: axum::http::Request<Incoming>,
) -> Result<axum::http::Response<AnswerBody>, Infallible> {
    let begun = Instant::now();
    connection.request_began();
    let edge = &connection.edge;
    edge.app.http_metrics.in_flight.inc();
    let in_flight = InFlight(&edge.app.http_metrics.in_flight);
    let body_timeout = edge.limits.body_timeout;
    let request = request.map(|body| {
        if body.is_end_stream() { Body::empty() } else { Body::new(RequestBody::new(body, body_timeout)) }
    });
    let request_id = request_id(request.headers());
    let method = request.method().clone();
    let route = edge.routes.find(request.uri().path());
    let origin = edge.cors.allowed(request.headers());

    let mut response = edge.respond(route, request).await;

    problem::with_request_id(&mut response, &request_id);
    let elapsed = begun.elapsed();
    let status = response.status();
    let metrics = route.map_or(&edge.routes.unknown, |route| &route.metrics);
    metrics.count(&method, status, elapsed);
    log(&request_id, &method, &metrics.template, status, elapsed, edge.app.slow_request);

    let headers = response.headers_mut();
    headers.insert(HEARTH_NODE, edge.node.clone());
    headers.insert(HEARTH_REQUEST_ID, request_id);
    if edge.cors.varies() {
        cors::vary(headers);
    }
    if let Some(origin) = origin {
        cors::expose(headers, origin);
    }
    drop(in_flight);
    if let Some(retry_after) = refusal(&response) {
        connection.hold_refusal(retry_after).await;
    }
    // Answers that may come before the whole request has.
    if matches!(
        status,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) {
        connection.linger();
    }
    connection.answers_with_stream(response.extensions().get::<IsStream>().is_some());
    let connection = Arc::clone(&connection);
    Ok(response.map(|body| AnswerBody::new(body, connection)))
}

/// When a client that was refused for overload is asked to come back.
fn refusal(response: &Response) -> Option<Duration> {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn log(
    request_id: &HeaderValue,
    method: &Method,
    route: &str,
    status: StatusCode,
    elapsed: Duration,
    slow: Duration,
) {
    if elapsed <= slow && !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let id = request_id.to_str().unwrap_or_default();
    let (method, status) = (method.as_str(), status.as_u16());
    let duration_ms = elapsed.as_secs_f64() * 1000.0;
    if elapsed > slow {
        tracing::warn!(request_id = id, method, route, status, duration_ms, "slow request");
    } else {
        tracing::debug!(request_id = id, method, route, status, duration_ms, "request");
    }
}

/// The client's id when it sent a usable one, else a random one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |id: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(X_REQUEST_ID).filter(usable).cloned().unwrap_or_else(new_request_id)
}

/// A random id: unique with the odds of a 64-bit number, not a secret.
fn new_request_id() -> HeaderValue {
    thread_local! {
        static IDS: RefCell<(SmallRng, BytesMut)> =
            RefCell::new((SmallRng::from_rng(&mut rand::rng()), BytesMut::new()));
    }
    IDS.with_borrow_mut(|(random, room)| {
        if room.len() < REQUEST_ID_BYTES {
            room.resize(REQUEST_ID_BYTES * REQUEST_IDS_AT_ONCE, 0);
        }
        let mut id = room.split_to(REQUEST_ID_BYTES);
        let mut bits = random.random::<u64>();
        for digit in id.iter_mut() {
            *digit = b"0123456789abcdef"[(bits & 15) as usize];
            bits >>= 4;
        }
        // Hexadecimal digits may be in a header.
        HeaderValue::from_maybe_shared(id.freeze()).unwrap_or_else(|_| HeaderValue::from_static("0"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn made_ids_differ_and_are_hexadecimal() {
        let ids: HashSet<String> =
            (0..10_000).map(|_| new_request_id().to_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }

    #[test]
    fn usable_ids_of_clients_are_taken_over() {
        let with = |id: &[u8]| {
            let headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap())]);
            request_id(&headers)
        };
        assert_eq!(with(b"abc-1"), "abc-1");
        assert_eq!(with("x".repeat(128).as_bytes()).len(), 128);
        for unusable in [&b""[..], b"a b", b"a\tb", "\u{e9}".as_bytes(), "x".repeat(129).as_bytes()] {
            assert_eq!(with(unusable).len(), REQUEST_ID_BYTES, "{unusable:?}");
        }
    }
}
