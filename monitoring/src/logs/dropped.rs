//! Lost lines, counted and shown as a metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};
use tracing_appender::non_blocking::ErrorCounter;

/// Counts the lines that one output lost.
#[derive(Debug, Clone)]
pub(super) struct Dropped {
    /// The value of the label `output`: `stdout` or `file`.
    pub(super) output: &'static str,
    /// Lines that found the queue full.
    pub(super) queue: ErrorCounter,
    /// Lines that the output refused.
    pub(super) refused: Arc<AtomicU64>,
}

impl Dropped {
    pub(super) fn total(&self) -> u64 {
        self.queue.dropped_lines() as u64 + self.refused.load(Ordering::Relaxed)
    }
}

/// Reads the counts when metrics are gathered.
pub(super) struct DroppedLines {
    outputs: Vec<Dropped>,
    /// Describes the family; its own counts stay zero.
    description: IntCounterVec,
}

impl DroppedLines {
    pub(super) fn new(outputs: Vec<Dropped>) -> Result<Self, prometheus::Error> {
        Ok(Self { outputs, description: Self::family()? })
    }

    fn family() -> Result<IntCounterVec, prometheus::Error> {
        let help = "Log lines lost because the queue was full or the output refused them.";
        IntCounterVec::new(Opts::new("hearth_log_lines_dropped_total", help), &["output"])
    }
}

impl Collector for DroppedLines {
    fn desc(&self) -> Vec<&Desc> {
        self.description.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A fresh family each time: several scrapes at once must not add up.
        let Ok(family) = Self::family() else { return Vec::new() };
        for dropped in &self.outputs {
            family.with_label_values(&[dropped.output]).inc_by(dropped.total());
        }
        family.collect()
    }
}
