//! The store's own metric families. The registry is passed in; nothing here is global.

use openraft::ServerState;
use openraft::metrics::RaftMetrics;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::peer::message::WriteRefusalV1;
use crate::proposal::Outcome;
use crate::state::State;
use crate::types::{LogId, TypeConfig};

/// Figures about the state machine and its checkpoints.
#[derive(Clone)]
pub(crate) struct StateMetrics {
    pub(crate) apply_batch_entries: Histogram,
    pub(crate) snapshot_installs: IntCounter,
    pub(crate) checkpoint_duration_seconds: Histogram,
    pub(crate) checkpoint_written_unix_seconds: IntGauge,
    keys: IntGauge,
    bytes: IntGauge,
}

impl StateMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            apply_batch_entries: histogram(
                registry,
                "hearth_raft_apply_batch_entries",
                "Committed entries applied in one batch.",
                prometheus::exponential_buckets(1.0, 2.0, 13)?,
            )?,
            snapshot_installs: counter(
                registry,
                "hearth_raft_snapshot_installs_total",
                "Snapshots received from a leader and installed.",
            )?,
            checkpoint_duration_seconds: histogram(
                registry,
                "hearth_store_checkpoint_duration_seconds",
                "Time to write a checkpoint to sled and make it durable.",
                prometheus::exponential_buckets(0.001, 2.0, 16)?,
            )?,
            checkpoint_written_unix_seconds: gauge(
                registry,
                "hearth_store_checkpoint_timestamp_seconds",
                "When the last checkpoint became durable, or was loaded, in Unix time.",
            )?,
            keys: gauge(registry, "hearth_store_keys", "Keys in the store.")?,
            bytes: gauge(
                registry,
                "hearth_store_bytes",
                "Bytes of keys, values, names and ages: what storage.data_bytes_max bounds.",
            )?,
        })
    }

    pub(crate) fn observe(&self, state: &State) {
        self.keys.set(i64::try_from(state.keys.len()).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(state.data_bytes).unwrap_or(i64::MAX));
    }
}

/// Figures about requests to the store.
pub(crate) struct StoreMetrics {
    applied: IntCounter,
    proposals: IntCounterVec,
    pub(crate) propose_duration_seconds: Histogram,
    forwarded_applied: IntCounter,
    forwarded: IntCounterVec,
}

impl StoreMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let proposals = counters(
            registry,
            "hearth_raft_proposals_total",
            "Commands proposed on this node as the leader, by result.",
            "result",
        )?;
        let forwarded = counters(
            registry,
            "hearth_raft_forwarded_total",
            "Commands that this node forwarded to the leader, by result.",
            "result",
        )?;
        Ok(Self {
            applied: proposals.with_label_values(&["applied"]),
            proposals,
            propose_duration_seconds: histogram(
                registry,
                "hearth_raft_propose_duration_seconds",
                "Time from proposing a command on this node as the leader until it was applied.",
                prometheus::exponential_buckets(0.000_1, 2.0, 17)?,
            )?,
            forwarded_applied: forwarded.with_label_values(&["applied"]),
            forwarded,
        })
    }
}

impl StoreMetrics {
    pub(crate) fn count_proposal(&self, outcome: &Outcome) {
        let label = match outcome {
            Ok(_) => return self.applied.inc(),
            Err(WriteRefusalV1::NotLeader(_)) => "not_leader",
            Err(WriteRefusalV1::StorageFull { .. } | WriteRefusalV1::DiskLow { .. }) => "storage_full",
            Err(WriteRefusalV1::Overloaded) => "overloaded",
            Err(WriteRefusalV1::OutcomeUnknown(_)) => "unknown",
        };
        self.proposals.with_label_values(&[label]).inc();
    }

    /// A command that was sent to the leader.
    pub(crate) fn count_forwarded(&self, result: &str) {
        match result {
            "applied" => self.forwarded_applied.inc(),
            _ => self.forwarded.with_label_values(&[result]).inc(),
        }
    }
}

/// Where Raft stands; brought up to date when somebody looks.
#[derive(Clone)]
pub(crate) struct RaftGauges {
    pub(crate) leader_changes: IntCounter,
    pub(crate) disk_free_bytes: IntGauge,
    pub(crate) log_bytes: IntGauge,
    pub(crate) fsync_stalled: IntGauge,
    pub(crate) stall_hand_overs: IntCounter,
    term: IntGauge,
    is_leader: IntGauge,
    has_leader: IntGauge,
    last_log_index: IntGauge,
    commit_index: IntGauge,
    applied_index: IntGauge,
    snapshot_index: IntGauge,
    purged_index: IntGauge,
    replication_lag: IntGaugeVec,
}

impl RaftGauges {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let replication_lag = IntGaugeVec::new(
            Opts::new(
                "hearth_raft_replication_lag",
                "On the leader: entries that a peer does not have yet. Peers by Raft id.",
            ),
            &["peer"],
        )?;
        registry.register(Box::new(replication_lag.clone()))?;
        Ok(Self {
            leader_changes: counter(
                registry,
                "hearth_raft_leader_changes_total",
                "Times that this node learnt of a new leader or term.",
            )?,
            disk_free_bytes: gauge(
                registry,
                "hearth_store_disk_free_bytes",
                "Free bytes on the disk of the data directory.",
            )?,
            log_bytes: gauge(registry, "hearth_raft_log_bytes", "Bytes that the log takes on disk.")?,
            fsync_stalled: gauge(
                registry,
                "hearth_raft_fsync_stalled",
                "1 while an fsync of the log takes longer than storage.stall_timeout.",
            )?,
            stall_hand_overs: counter(
                registry,
                "hearth_raft_stall_hand_overs_total",
                "Times that this node, as the leader, asked another one to take over because its disk stalled.",
            )?,
            term: gauge(registry, "hearth_raft_term", "Current term.")?,
            is_leader: gauge(registry, "hearth_raft_is_leader", "1 on the leader.")?,
            has_leader: gauge(registry, "hearth_raft_has_leader", "1 while this node knows a leader.")?,
            last_log_index: gauge(registry, "hearth_raft_last_log_index", "Last entry in the log.")?,
            commit_index: gauge(registry, "hearth_raft_commit_index", "Last entry known to be committed.")?,
            applied_index: gauge(registry, "hearth_raft_applied_index", "Last entry applied.")?,
            snapshot_index: gauge(
                registry,
                "hearth_raft_snapshot_index",
                "Last entry that a checkpoint on disk includes.",
            )?,
            purged_index: gauge(registry, "hearth_raft_purged_index", "Last entry purged from the log.")?,
            replication_lag,
        })
    }

    pub(crate) fn observe(&self, metrics: &RaftMetrics<TypeConfig>, applied_index: u64) {
        let index = |gauge: &IntGauge, index: u64| gauge.set(i64::try_from(index).unwrap_or(i64::MAX));
        let of = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        index(&self.term, metrics.current_term);
        self.is_leader.set(i64::from(metrics.state == ServerState::Leader));
        self.has_leader.set(i64::from(metrics.current_leader.is_some()));
        let last = metrics.last_log_index.unwrap_or(0);
        index(&self.last_log_index, last);
        index(&self.commit_index, of(&metrics.local_committed));
        index(&self.applied_index, applied_index);
        index(&self.snapshot_index, of(&metrics.snapshot));
        index(&self.purged_index, of(&metrics.purged));
        // A follower knows nothing of the others.
        self.replication_lag.reset();
        for (peer, matched) in metrics.replication.iter().flatten() {
            if *peer != metrics.id {
                let gauge = self.replication_lag.with_label_values(&[peer.to_string()]);
                index(&gauge, last.saturating_sub(of(matched)));
            }
        }
    }
}

pub(crate) fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}
