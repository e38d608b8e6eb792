//! What surrounds every request: an id, the headers that every answer has, counts, times and the
//! access log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;

use crate::http::{App, problem};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const HEARTH_REQUEST_ID: HeaderName = HeaderName::from_static("hearth-request-id");
const HEARTH_NODE: HeaderName = HeaderName::from_static("hearth-node");

/// A client's request id is taken over up to this length.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Decrements the gauge also when the client goes away before the answer.
struct InFlight<'a>(&'a prometheus::IntGauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(super) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let metrics = &app.http_metrics;
    metrics.in_flight.inc();
    let _in_flight = InFlight(&metrics.in_flight);
    let request_id = request_id(request.headers());
    let method = known_method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);

    let response = next.run(request).await;

    let id = request_id.to_str().unwrap_or_default();
    let mut response = problem::with_request_id(response, id);
    let status = response.status();
    let elapsed = begun.elapsed();
    metrics.requests.with_label_values(&[method, route, status.as_str()]).inc();
    metrics.duration_seconds.with_label_values(&[method, route]).observe(elapsed.as_secs_f64());
    let duration_ms = elapsed.as_secs_f64() * 1000.0;
    if elapsed > app.slow_request {
        tracing::warn!(request_id = id, method, route, status = status.as_u16(), duration_ms, "slow request");
    } else {
        tracing::debug!(request_id = id, method, route, status = status.as_u16(), duration_ms, "request");
    }

    let headers = response.headers_mut();
    if let Ok(name) = HeaderValue::from_str(&app.name) {
        headers.insert(HEARTH_NODE, name);
    }
    headers.insert(HEARTH_REQUEST_ID, request_id);
    response
}

/// The client's id when it sent a usable one, else a random one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |id: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(X_REQUEST_ID).filter(usable) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(format!("{:016x}", rand::random::<u64>()))
            .unwrap_or_else(|_| HeaderValue::from_static("0")),
    }
}

/// The method as a label: clients can make up methods, labels must stay bounded.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
