//! The types that openraft is configured with, and the few that the whole crate shares.

use std::fmt;

pub use crate::command::{Applied, Command};

/// Hearth's choice of types for openraft.
///
/// Standard Raft: at most one leader a term, so that a log id is (term, index).
/// Written out because `declare_raft_types!` cannot set the responder.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Applied;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, Member>;
    type Entry = openraft::Entry<
        <Self::LeaderId as openraft::vote::RaftLeaderId>::Committed,
        openraft::EntryPayload<Command, u64, Member>,
    >;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = crate::proposal::Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

/// Identifies a log entry: the term of the leader that proposed it, and its log index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote: term, node, and whether a quorum granted it.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// One log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What a log entry carries: nothing, a command, or a membership.
pub type Payload = openraft::alias::PayloadOf<TypeConfig>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Member>;
/// A membership and the log id that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// openraft over this crate's state machine.
pub type Raft = openraft::Raft<TypeConfig, crate::state::StateMachine>;

/// A member of the cluster, as the replicated membership knows it.
///
/// Addresses are kept as they were given, host names included, and resolved at each connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// The configured, unique name of the node.
    pub name: String,
    /// `host:port` of its peer listener.
    pub peer: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.peer)
    }
}
