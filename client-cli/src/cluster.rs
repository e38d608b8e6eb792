//! The cluster as one of its nodes sees it: `GET /v1/cluster`.

use serde::{Deserialize, Serialize};

use crate::client::{Call, Client};
use crate::error::Error;
use crate::retry::Kind;

/// The cluster as `node` sees it. Fields that a newer server adds are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id, in hexadecimal.
    pub cluster_id: String,
    /// The name of the node that answered.
    pub node: String,
    /// The name of the leader; `None` while there is none.
    pub leader: Option<String>,
    /// The Raft term.
    pub term: u64,
    /// The store's revision.
    pub revision: u64,
    /// Every member, voters and learners.
    pub members: Vec<Member>,
}

/// One member. What only the member itself knows is `None` while it cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The id within the cluster.
    pub id: u64,
    /// The name.
    pub name: String,
    /// Whether it counts for the quorum.
    pub role: Role,
    /// What it does at the moment.
    pub state: State,
    /// The address for other nodes, `host:port`.
    pub peer: String,
    /// The address for clients, `host:port`.
    pub http: Option<String>,
    /// The version of the program.
    pub version: Option<String>,
    /// Its Raft term.
    pub term: Option<u64>,
    /// The index of the last entry in its log.
    pub last_log_index: Option<u64>,
    /// The index of the last entry in its state.
    pub applied_index: Option<u64>,
    /// How many entries it is behind the leader.
    pub lag: Option<u64>,
    /// How long ago it was last heard of, in milliseconds.
    pub last_contact_ms: Option<u64>,
    /// Free space on the disk of its data, in bytes.
    pub disk_free_bytes: Option<u64>,
    /// The size of its data set, in bytes.
    pub data_bytes: Option<u64>,
    /// How many keys it has.
    pub keys: Option<u64>,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// Whether a member counts for the quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It votes, and writes wait for a majority of its kind.
    Voter,
    /// It only receives.
    Learner,
    /// A role that this client does not know.
    #[serde(other)]
    Unknown,
}

/// What a member does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It accepts writes.
    Leader,
    /// It follows the leader.
    Follower,
    /// It stands for election.
    Candidate,
    /// It receives and does not vote.
    Learner,
    /// The node that answered cannot reach it.
    Unreachable,
    /// A state that this client does not know.
    #[serde(other)]
    Unknown,
}

impl ClusterStatus {
    /// How many voters there are.
    pub fn voters(&self) -> usize {
        self.members.iter().filter(|member| member.role == Role::Voter).count()
    }

    /// How many voters the answering node can reach, itself included.
    pub fn voters_reachable(&self) -> usize {
        let reachable = |member: &&Member| member.role == Role::Voter && member.state != State::Unreachable;
        self.members.iter().filter(reachable).count()
    }

    /// How many voters a write needs.
    pub fn quorum(&self) -> usize {
        self.voters() / 2 + 1
    }
}

impl Client {
    /// The cluster as the node that answers sees it.
    pub async fn cluster(&self) -> Result<ClusterStatus, Error> {
        self.call(Call::get(Kind::Read, "/v1/cluster")).await?.json()
    }
}
