//! `/metrics`, and the families about requests.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hearth_monitoring::registry;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::http::App;
use crate::http::problem::{Code, Problem};

/// The methods that have a label of their own: clients can make up methods, labels must stay bounded.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "other"];
/// The statuses whose counters are kept at hand, often ones first.
const STATUSES: [u16; 20] =
    [200, 201, 204, 404, 304, 429, 503, 412, 400, 405, 504, 413, 507, 422, 410, 414, 431, 408, 500, 502];

/// Counts and times of requests, by route template: never by key or name.
pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    duration_seconds: HistogramVec,
    pub(super) in_flight: IntGauge,
    pub(super) connections: IntGauge,
}

impl HttpMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("hearth_http_requests_total", "Requests answered."),
            &["method", "route", "status"],
        )?;
        let duration_seconds = HistogramVec::new(
            HistogramOpts::new(
                "hearth_http_request_duration_seconds",
                "Time from reading the head of a request until its answer began.",
            )
            .buckets(prometheus::exponential_buckets(0.000_1, 2.0, 18)?),
            &["method", "route"],
        )?;
        let in_flight = IntGauge::new("hearth_http_in_flight", "Requests in progress.")?;
        let connections = IntGauge::new("hearth_http_connections", "Client connections open.")?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration_seconds.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { requests, duration_seconds, in_flight, connections })
    }

    /// The handles of one route.
    pub(super) fn route(&self, template: &str) -> RouteMetrics {
        RouteMetrics {
            template: template.into(),
            requests: self.requests.clone(),
            duration_seconds: self.duration_seconds.clone(),
            handles: Default::default(),
        }
    }
}

/// The metrics of one route. Looking a label set up hashes three strings under a lock, so each is
/// looked up once; what never happened has no series.
pub(super) struct RouteMetrics {
    pub(super) template: Box<str>,
    requests: IntCounterVec,
    duration_seconds: HistogramVec,
    /// By method.
    handles: [OnceLock<Handles>; METHODS.len()],
}

struct Handles {
    duration_seconds: Histogram,
    /// By status.
    requests: [OnceLock<IntCounter>; STATUSES.len()],
}

impl RouteMetrics {
    /// Counts one answer.
    pub(super) fn count(&self, method: &Method, status: StatusCode, elapsed: Duration) {
        let method = method_index(method);
        let handles = self.handles[method].get_or_init(|| Handles {
            duration_seconds: self
                .duration_seconds
                .with_label_values(&[METHODS[method], self.template.as_ref()]),
            requests: Default::default(),
        });
        handles.duration_seconds.observe(elapsed.as_secs_f64());
        let look_up =
            || self.requests.with_label_values(&[METHODS[method], self.template.as_ref(), status.as_str()]);
        match STATUSES.iter().position(|known| *known == status.as_u16()) {
            Some(known) => handles.requests[known].get_or_init(look_up).inc(),
            None => look_up().inc(),
        }
    }
}

fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::PUT => 2,
        Method::POST => 3,
        Method::DELETE => 4,
        Method::OPTIONS => 5,
        _ => 6,
    }
}

/// Metrics of this node
///
/// In Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics",
    responses((status = 200, description = "All families", body = String, content_type = "text/plain")),
)]
pub(super) async fn scrape(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    if let Some(store) = app.store.get() {
        store.refresh_metrics();
    }
    let text =
        registry::encode(&app.registry).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(([(CONTENT_TYPE, registry::CONTENT_TYPE)], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_counted_once_under_bounded_labels() {
        let registry = Registry::new();
        let route = HttpMetrics::register(&registry).unwrap().route("/v1/kv/{*key}");
        let long = Method::from_bytes(b"BREW").unwrap();
        for method in [&Method::GET, &Method::GET, &long] {
            route.count(method, StatusCode::OK, Duration::from_millis(1));
        }
        route.count(&Method::GET, StatusCode::IM_A_TEAPOT, Duration::ZERO);
        let text = registry::encode(&registry).unwrap();
        for line in [
            r#"hearth_http_requests_total{method="GET",route="/v1/kv/{*key}",status="200"} 2"#,
            r#"hearth_http_requests_total{method="other",route="/v1/kv/{*key}",status="200"} 1"#,
            r#"hearth_http_requests_total{method="GET",route="/v1/kv/{*key}",status="418"} 1"#,
            r#"hearth_http_request_duration_seconds_count{method="GET",route="/v1/kv/{*key}"} 3"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
