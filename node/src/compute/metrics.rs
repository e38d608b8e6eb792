//! How many results are ready, and where answers came from.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::pool::Source;

/// The families that both endpoints share.
pub struct ComputeMetrics {
    ready: IntGaugeVec,
    sources: IntCounterVec,
}

/// Those of one endpoint.
pub(super) struct EndpointMetrics {
    ready: IntGauge,
    from_pool: IntCounter,
    live: IntCounter,
}

impl ComputeMetrics {
    /// Registers `hearth_compute_pool_ready{endpoint}` and `hearth_compute_source_total{endpoint,source}`.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ready = IntGaugeVec::new(
            Opts::new("hearth_compute_pool_ready", "Results computed ahead and not yet handed out."),
            &["endpoint"],
        )?;
        let sources = IntCounterVec::new(
            Opts::new(
                "hearth_compute_source_total",
                "Requests by where their answer came from: the pool, or computed for them.",
            ),
            &["endpoint", "source"],
        )?;
        registry.register(Box::new(ready.clone()))?;
        registry.register(Box::new(sources.clone()))?;
        Ok(Self { ready, sources })
    }

    /// Present from the start, so that rates begin at zero.
    pub(super) fn endpoint(&self, endpoint: &'static str) -> EndpointMetrics {
        EndpointMetrics {
            ready: self.ready.with_label_values(&[endpoint]),
            from_pool: self.sources.with_label_values(&[endpoint, Source::Pool.as_str()]),
            live: self.sources.with_label_values(&[endpoint, Source::Live.as_str()]),
        }
    }
}

impl EndpointMetrics {
    pub(super) fn set_ready(&self, results: usize) {
        self.ready.set(i64::try_from(results).unwrap_or(i64::MAX));
    }

    pub(super) fn count(&self, source: Source) {
        match source {
            Source::Pool => self.from_pool.inc(),
            Source::Live => self.live.inc(),
        }
    }
}
