//! How many programs run, and how they ended.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// How a call ended: the label `outcome`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// The program exited, with whatever status.
    Ok,
    /// A signal that we did not send ended it.
    Signal,
    /// It was killed because its time was up.
    Timeout,
    /// It was killed because it wrote without end.
    Flood,
    /// It could not be started.
    SpawnError,
    /// The call was refused.
    Overloaded,
    /// The caller went away while it waited or while the program ran.
    Cancelled,
    /// The exit status was lost.
    Lost,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Ok,
        Self::Signal,
        Self::Timeout,
        Self::Flood,
        Self::SpawnError,
        Self::Overloaded,
        Self::Cancelled,
        Self::Lost,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::Flood => "flood",
            Self::SpawnError => "spawn_error",
            Self::Overloaded => "overloaded",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// The metrics of the local program.
pub(super) struct Metrics {
    running: IntGauge,
    exits: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let running = IntGauge::new(
            "hearth_local_program_running",
            "Local programs that were started and are not yet reaped.",
        )?;
        let exits = IntCounterVec::new(
            Opts::new(
                "hearth_local_program_exits_total",
                "Runs of the local program, for callers and ahead of them, and refused calls, by how they ended.",
            ),
            &["outcome"],
        )?;
        for outcome in Outcome::ALL {
            // Present from the start, so that rates begin at zero.
            exits.with_label_values(&[outcome.label()]);
        }
        registry.register(Box::new(running.clone()))?;
        registry.register(Box::new(exits.clone()))?;
        Ok(Self { running, exits })
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.exits.with_label_values(&[outcome.label()]).inc();
    }

    /// Counts a running program until the value is dropped.
    pub(super) fn running(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// Counts the caller as cancelled if the value is dropped before it is served.
    pub(super) fn waiting(&self) -> WaitingCaller<'_> {
        WaitingCaller { metrics: self, served: false }
    }
}

/// A program in `hearth_local_program_running`.
pub(super) struct Running(IntGauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A caller that waits for its turn.
pub(super) struct WaitingCaller<'a> {
    metrics: &'a Metrics,
    served: bool,
}

impl WaitingCaller<'_> {
    /// The wait is over.
    pub(super) fn served(mut self) {
        self.served = true;
    }
}

impl Drop for WaitingCaller<'_> {
    fn drop(&mut self) {
        if !self.served {
            self.metrics.count(Outcome::Cancelled);
        }
    }
}
