//! What the store answers, and why it does not.

use std::time::Duration;

use crate::bootstrap::BootstrapError;
use crate::command::Reply;
use crate::identity::DataDirError;
use crate::state::EventId;

/// Why a store could not be opened. Each message is one line that names what to change.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Forming or joining the cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The data belong to another cluster than the one at the configured addresses.
    #[error(
        "data_dir {path} belongs to cluster {cluster_id:032x}, but {answers}: it is another cluster's directory, or initial_cluster lists another cluster's addresses"
    )]
    OtherCluster {
        /// The directory.
        path: String,
        /// The cluster in the directory.
        cluster_id: u128,
        /// What the peers answered.
        answers: String,
    },
    /// The disk cannot be read or written.
    #[error("{0}")]
    Storage(std::io::Error),
    /// Something on disk is damaged; the text names the file and the place.
    #[error(
        "{0}; this node cannot prove its disk intact and does not start: remove it from the cluster, empty data_dir, and add it anew, the other nodes have its data"
    )]
    Damaged(std::io::Error),
    /// A combination of timeouts that Raft cannot work with.
    #[error("raft timeouts: {0}")]
    Timeouts(#[from] openraft::ConfigError),
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Raft did not start.
    #[error("raft: {0}")]
    Raft(String),
}

/// A write that was acknowledged: on disk on a majority, and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The log index of the write.
    pub revision: u64,
    /// What it did.
    pub reply: Reply,
    /// Whether it was applied before, under the same idempotency key: revision and reply are of then.
    pub replayed: bool,
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There was no leader to send it to in time. It was not applied.
    #[error("no leader within {waited:?}")]
    NoLeader {
        /// How long this node tried.
        waited: Duration,
    },
    /// The leader works on as many writes as it may. It was not applied.
    #[error("the leader has as many writes in flight as it may")]
    Overloaded,
    /// The data limit. It was not applied.
    #[error("the store holds as much as storage.data_bytes_max, {data_bytes_max} bytes, allows")]
    StorageFull {
        /// The limit, in bytes.
        data_bytes_max: u64,
    },
    /// The leader's disk is nearly full. It was not applied.
    #[error(
        "the leader's disk has {free_bytes} bytes left, less than storage.disk_free_min, {disk_free_min}"
    )]
    DiskLow {
        /// What is free, in bytes.
        free_bytes: u64,
        /// What must be, in bytes.
        disk_free_min: u64,
    },
    /// It was proposed, and what became of it is not known.
    #[error("the write was proposed, but its outcome is not known: {reason}")]
    OutcomeUnknown {
        /// What this node saw last.
        reason: String,
    },
    /// The command could not be encoded. It was not applied.
    #[error("{0}")]
    Invalid(String),
}

/// Why a linearizable read was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed a read index in time.
    #[error("no leader within {waited:?}")]
    NoLeader {
        /// How long this node tried.
        waited: Duration,
    },
    /// This node did not get as far as the read wants in time.
    #[error("this node is at revision {applied}, and did not reach {wanted} in time")]
    Behind {
        /// The revision asked for.
        wanted: u64,
        /// What this node has.
        applied: u64,
    },
}

/// Closing took too long. Nothing that was acknowledged is lost: it is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store did not close within {timeout:?}, it still waits for {waiting_for}: does the disk hang?")]
pub struct CloseError {
    pub(super) waiting_for: &'static str,
    pub(super) timeout: Duration,
}

/// Why there is no watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// This node's history does not go back that far.
    #[error("{after} is older than this node's history; the oldest revision to resume after is {oldest}")]
    Compacted {
        /// The place asked for.
        after: EventId,
        /// The oldest revision that can be resumed after on this node.
        oldest: u64,
    },
    /// This node did not get as far as the place asked for in time.
    #[error("this node is at revision {applied}, and did not reach {wanted} in time")]
    Behind {
        /// The revision asked for.
        wanted: u64,
        /// What this node has.
        applied: u64,
    },
}
