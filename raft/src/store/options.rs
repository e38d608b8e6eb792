//! How the store is set up, and what that means for openraft.

use std::path::PathBuf;
use std::time::Duration;

use crate::types::Member;

/// How the store is set up. Durations and sizes are validated by [`super::Store::open`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// This node's unique name.
    pub name: String,
    /// Directory for everything this node keeps.
    pub data_dir: PathBuf,
    /// The members that an empty node forms a cluster with, this one among them.
    pub initial_cluster: Vec<Member>,
    /// `host:port` of this node's HTTP listener, for others to show.
    pub http_advertise: String,
    /// A leader sends this often when there is nothing to replicate.
    pub heartbeat_interval: Duration,
    /// Lower bound of the random part of the election timeout.
    pub election_timeout_min: Duration,
    /// Upper bound of it, and the time for which followers stay loyal to a silent leader.
    pub election_timeout_max: Duration,
    /// How long a write or read may take.
    pub request_timeout: Duration,
    /// Bytes of data beyond which the store may not grow.
    pub data_bytes_max: u64,
    /// Free bytes on the disk below which the data may not grow.
    pub disk_free_min: u64,
    /// An fdatasync of the log that takes longer is a stall, and a leader hands over.
    pub stall_timeout: Duration,
    /// Writes that the leader works on at once.
    pub proposals_max: usize,
    /// Entries applied since the last checkpoint that cause the next one.
    pub checkpoint_entries: u64,
    /// The same, in bytes of log.
    pub checkpoint_bytes: u64,
    /// Time after which anything applied is checkpointed.
    pub checkpoint_interval: Duration,
    /// Entries kept in the log behind a checkpoint, for followers that were away for a short time.
    pub log_keep_entries: u64,
    /// Bytes of log beyond which nothing is kept for a node that is catching up.
    pub log_catch_up_bytes: u64,
    /// How long the answer to a write with an idempotency key is kept.
    pub idempotency_window: Duration,
    /// How many such answers are kept; beyond it the oldest leave early.
    pub idempotency_keys_max: u64,
    /// The newest changes of keys that are kept for watchers.
    pub history_events: usize,
    /// Bytes of those, values included.
    pub history_bytes: u64,
}

/// openraft's settings.
///
/// openraft adds the upper election timeout, as the time that followers stay loyal to a silent
/// leader, to a random timeout between the two bounds: 300..600 ms mean that a leader is replaced
/// 0.9 to 1.2 s after it fell silent.
pub(super) fn raft_config(options: &StoreOptions) -> Result<openraft::Config, openraft::ConfigError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "hearth".to_owned(),
        heartbeat_interval: ms(options.heartbeat_interval),
        election_timeout_min: ms(options.election_timeout_min),
        election_timeout_max: ms(options.election_timeout_max),
        enable_pre_vote: Some(true),
        // On by default, and wrong with a log that replicates before its own fsync returned: a
        // leader that is killed and back at once would go on in its term without the tail that it
        // lost, and write other entries under log ids that the followers already acknowledged.
        enable_leader_restore: Some(false),
        // Bytes bound a message before this does, see `LogOptions::read_bytes_max`.
        max_payload_entries: 4096,
        // Only the lack of log sends a snapshot, never a mere distance.
        replication_lag_threshold: u64::MAX / 2,
        // `trigger_checkpoints` decides.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        // `purge_log` decides.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
    .validate()
}
