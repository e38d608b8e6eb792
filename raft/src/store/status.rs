//! How the cluster and this node stand.

use std::time::Duration;

use crate::peer::message::StatusV1;
use crate::types::Member;

/// A member as this node sees it.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// Its Raft id.
    pub id: u64,
    /// Its name and peer address.
    pub member: Member,
    /// Whether it votes.
    pub voter: bool,
    /// What it said of itself, or why it said nothing.
    pub report: Result<MemberReport, String>,
    /// Time since it last answered the leader; only the leader knows.
    pub last_contact: Option<Duration>,
}

/// What a member says of itself.
#[derive(Debug, Clone)]
pub struct MemberReport {
    /// Version of its binary.
    pub version: String,
    /// `host:port` of its HTTP listener.
    pub http: String,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub state: String,
    /// Its term.
    pub term: u64,
    /// The last entry in its log.
    pub last_log_index: u64,
    /// The last entry that it applied.
    pub applied_index: u64,
    /// Keys in its state.
    pub keys: u64,
    /// Bytes of data in its state.
    pub data_bytes: u64,
    /// Free bytes on its disk.
    pub disk_free_bytes: u64,
    /// Hash of its state at `applied_index`; equal on members with the same one.
    pub state_hash: u64,
}

impl From<StatusV1> for MemberReport {
    fn from(status: StatusV1) -> Self {
        Self {
            version: status.version,
            http: status.http,
            state: status.state,
            term: status.term,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            keys: status.keys,
            data_bytes: status.data_bytes,
            disk_free_bytes: status.disk_free_bytes,
            state_hash: status.state_hash,
        }
    }
}

/// How this node stands at the moment; cheap to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// This node's term.
    pub term: u64,
    /// Id and name of the leader, when one is known.
    pub leader: Option<(u64, String)>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Whether this node takes part: voter or learner, not stopped.
    pub is_running: bool,
    /// Whether it has applied what was committed when it started.
    pub is_caught_up: bool,
    /// Entries that are committed, as far as this node knows, and not applied here.
    pub apply_lag: u64,
    /// Whether the disk has less room than it must have.
    pub is_disk_low: bool,
    /// For how long an fsync of the log has not returned, when that is longer than it should.
    pub fsync_stall: Option<Duration>,
}
