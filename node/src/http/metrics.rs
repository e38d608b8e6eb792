//! `/metrics`, and the families about requests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hearth_monitoring::registry;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

use crate::http::App;
use crate::http::problem::{Code, Problem};

/// Counts and times of requests, by route template: never by key or name.
pub(crate) struct HttpMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) duration_seconds: HistogramVec,
    pub(crate) in_flight: IntGauge,
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
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration_seconds.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { requests, duration_seconds, in_flight })
    }
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn scrape(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    if let Some(store) = app.store.get() {
        store.refresh_metrics();
    }
    let text =
        registry::encode(&app.registry).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(([(CONTENT_TYPE, registry::CONTENT_TYPE)], text).into_response())
}
