//! What peers say to each other: frozen layouts, and their translation to openraft's types.

use std::io;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, LogIdV1, MemberV1, StoredMembershipV1, VoteV1};
use crate::command::Reply;
use crate::log::records::{payload_from_parts, payload_parts};
use crate::types::{Entry, SnapshotMeta, TypeConfig};

/// A question. Slices borrow from the frame.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RequestV1<'a> {
    Vote(VoteRequestV1),
    PreVote(VoteRequestV1),
    #[serde(borrow)]
    Append(AppendV1<'a>),
    TransferLeader {
        from: VoteV1,
        to: u64,
        last_log_id: Option<LogIdV1>,
    },
    /// For reads that began before the asking node looked which vote it holds, and that is this one.
    ReadIndex {
        held: VoteV1,
    },
    Status,
    Write {
        #[serde(with = "serde_bytes")]
        command: &'a [u8],
    },
    SnapshotBegin {
        vote: VoteV1,
        last_log_id: Option<LogIdV1>,
        membership: StoredMembershipV1,
    },
    SnapshotChunk {
        #[serde(with = "serde_bytes")]
        bytes: &'a [u8],
    },
    SnapshotEnd,
    Found(FoundV1),
    /// Which vote the node holds.
    HeldVote,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ResponseV1 {
    Vote(VoteResponseV1),
    Append(AppendResultV1),
    StreamAppend(StreamAppendV1),
    TransferLeader,
    ReadIndex(Result<u64, ReadRefusalV1>),
    Status(Box<StatusV1>),
    Write(Result<WrittenV1, WriteRefusalV1>),
    Snapshot {
        vote: VoteV1,
    },
    Found(FoundAnswerV1),
    /// The request was understood and could not be answered, for this reason.
    Failed(String),
    HeldVote(VoteV1),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct VoteRequestV1 {
    vote: VoteV1,
    last_log_id: Option<LogIdV1>,
    leadership_transfer: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct VoteResponseV1 {
    vote: VoteV1,
    granted: bool,
    last_log_id: Option<LogIdV1>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppendV1<'a> {
    vote: VoteV1,
    prev_log_id: Option<LogIdV1>,
    committed: Option<LogIdV1>,
    #[serde(borrow)]
    entries: Vec<EntryV1<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EntryV1<'a> {
    log_id: LogIdV1,
    kind: u8,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum AppendResultV1 {
    Success,
    PartialSuccess(Option<LogIdV1>),
    Conflict,
    HigherVote(VoteV1),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum StreamAppendV1 {
    Matched(Option<LogIdV1>),
    Conflict(LogIdV1),
    HigherVote(VoteV1),
}

/// Why a leader did not answer a read index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ReadRefusalV1 {
    /// The node is not the leader; the one that it knows of, by id.
    NotLeader(Option<u64>),
    /// It could not reach a majority in time.
    NoQuorum,
}

/// A write that was applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WrittenV1 {
    pub(crate) revision: u64,
    pub(crate) reply: Reply,
    /// Whether it had been applied before, under the same idempotency key.
    pub(crate) replayed: bool,
}

/// Why a forwarded write was not acknowledged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WriteRefusalV1 {
    /// Not proposed: the node is not the leader; the one that it knows of, by id.
    NotLeader(Option<u64>),
    /// Not proposed: the data limit is reached.
    StorageFull {
        /// The limit, in bytes.
        data_bytes_max: u64,
    },
    /// Not proposed: too many writes wait.
    Overloaded,
    /// Proposed; whether it was or will be applied is not known.
    OutcomeUnknown(String),
    /// Not proposed: the leader's disk is nearly full.
    DiskLow {
        /// What is free, in bytes.
        free_bytes: u64,
        /// What must be, in bytes.
        free_min: u64,
    },
}

/// What a node says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StatusV1 {
    pub(crate) version: String,
    pub(crate) http: String,
    pub(crate) state: String,
    pub(crate) term: u64,
    pub(crate) last_log_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) keys: u64,
    pub(crate) data_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) state_hash: u64,
}

/// The founder's question to the other initial members; see [`crate::bootstrap`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundV1 {
    /// `None` asks how the node stands; `Some` tells it to belong to that cluster.
    pub(crate) cluster_id: Option<u128>,
    /// The initial members by id, which is the rank of their name.
    pub(crate) members: Vec<(u64, MemberV1)>,
}

/// How a node stands when it is asked to found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FoundAnswerV1 {
    /// Its disk is empty and its `initial_cluster` is the same.
    Blank,
    /// It belongs to this cluster, durably.
    Member { cluster_id: u128 },
    /// Its disk is empty but its `initial_cluster` is another; what it has instead.
    OtherList(String),
}

impl From<VoteRequest<TypeConfig>> for VoteRequestV1 {
    fn from(request: VoteRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            last_log_id: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteRequestV1> for VoteRequest<TypeConfig> {
    fn from(request: VoteRequestV1) -> Self {
        Self {
            vote: request.vote.into(),
            last_log_id: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteResponse<TypeConfig>> for VoteResponseV1 {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        Self {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last_log_id: response.last_log_id.map(Into::into),
        }
    }
}

impl From<VoteResponseV1> for VoteResponse<TypeConfig> {
    fn from(response: VoteResponseV1) -> Self {
        Self {
            vote: response.vote.into(),
            vote_granted: response.granted,
            last_log_id: response.last_log_id.map(Into::into),
        }
    }
}

impl RequestV1<'_> {
    /// Encodes `request` as one frame; bodies of entries are copied once, into the frame.
    pub(crate) fn append_frame(id: u64, request: &AppendEntriesRequest<TypeConfig>) -> io::Result<Bytes> {
        let mut parts: Vec<(LogIdV1, u8, Bytes)> = Vec::with_capacity(request.entries.len());
        for entry in &request.entries {
            let (kind, body) = payload_parts(&entry.payload)?;
            parts.push((entry.log_id.into(), kind, body));
        }
        let append = AppendV1 {
            vote: request.vote.into(),
            prev_log_id: request.prev_log_id.map(Into::into),
            committed: request.leader_commit.map(Into::into),
            entries: parts
                .iter()
                .map(|(log_id, kind, body)| EntryV1 { log_id: *log_id, kind: *kind, body })
                .collect(),
        };
        super::frame::encode("append", id, &RequestV1::Append(append))
    }
}

impl AppendV1<'_> {
    /// openraft's form. Every entry gets memory of its own: an entry that lives long must not keep
    /// the frame of a hundred others alive.
    pub(crate) fn into_request(self) -> io::Result<AppendEntriesRequest<TypeConfig>> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            let payload = payload_from_parts(entry.kind, Bytes::copy_from_slice(entry.body))?;
            entries.push(Entry { log_id: entry.log_id.into(), payload });
        }
        Ok(AppendEntriesRequest {
            vote: self.vote.into(),
            prev_log_id: self.prev_log_id.map(Into::into),
            entries,
            leader_commit: self.committed.map(Into::into),
        })
    }
}

impl From<AppendEntriesResponse<TypeConfig>> for AppendResultV1 {
    fn from(response: AppendEntriesResponse<TypeConfig>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(id) => Self::PartialSuccess(id.map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendResultV1> for AppendEntriesResponse<TypeConfig> {
    fn from(result: AppendResultV1) -> Self {
        match result {
            AppendResultV1::Success => Self::Success,
            AppendResultV1::PartialSuccess(id) => Self::PartialSuccess(id.map(Into::into)),
            AppendResultV1::Conflict => Self::Conflict,
            AppendResultV1::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<StreamAppendResult<TypeConfig>> for StreamAppendV1 {
    fn from(result: StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(id) => Self::Matched(id.map(Into::into)),
            Err(StreamAppendError::Conflict(id)) => Self::Conflict(id.into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<StreamAppendV1> for StreamAppendResult<TypeConfig> {
    fn from(result: StreamAppendV1) -> Self {
        match result {
            StreamAppendV1::Matched(id) => Ok(id.map(Into::into)),
            StreamAppendV1::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
            StreamAppendV1::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

/// The request to hand leadership over, as openraft wants it.
pub(crate) fn transfer_request(
    from: VoteV1,
    to: u64,
    last_log_id: Option<LogIdV1>,
) -> TransferLeaderRequest<TypeConfig> {
    TransferLeaderRequest::new(from.into(), to, last_log_id.map(Into::into))
}

/// What a snapshot covers, as openraft wants it.
pub(crate) fn snapshot_meta(
    last_log_id: Option<LogIdV1>,
    membership: StoredMembershipV1,
) -> Result<SnapshotMeta, CodecError> {
    Ok(SnapshotMeta { last_log_id: last_log_id.map(Into::into), last_membership: membership.try_into()? })
}

#[cfg(test)]
mod tests;
