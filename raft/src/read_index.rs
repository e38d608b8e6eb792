//! The log index that a linearizable read has to wait for.
//!
//! **Idea.** A read index is right when, at some moment after the read began, a majority had not voted for
//! a later leader: then nothing that the read must see was committed elsewhere (Ongaro's dissertation,
//! 6.4). What counts is the vote that a node holds, so that is what is asked for, and it is asked of the
//! log, which knows it without going through the Raft core. A follower that asks says which vote it
//! holds itself: with the leader's own that is a majority of three, and one question and one answer are
//! all that is exchanged. For its own reads, and in larger clusters, the leader asks the other voters.
//!
//! **Why it is safe.**
//! - A node grants a vote only after the log has it ([`HeldVote`] changes before that), so a node that
//!   holds the leader's vote has not helped to elect a later leader. Any two majorities share a node.
//! - Votes are looked at after the reads that they are for have begun: by the follower before it asks, by
//!   the leader when it is asked, by the others when the leader asks them.
//! - The index covers all that any node may have shown: what this leader applied, hence acknowledged, and
//!   what it told others to be committed, which they may have applied first ([`Told`]).
//! - What earlier leaders committed is covered by an index that openraft gave for the same vote in the same
//!   process ([`Confirmed`]): it waits for the first entry of the term. A node that was restarted
//!   still holds its old vote, but has confirmed nothing.
//!
//! **Absent on purpose.** Leases: no clock is involved.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};

use crate::coalesce::Coalesced;
use crate::codec::VoteV1;
use crate::log::HeldVote;
use crate::peer::Lane;
use crate::peer::message::{ReadRefusalV1, RequestV1, ResponseV1};
use crate::peer::network::Peers;
use crate::state::Published;
use crate::types::{Raft, StoredMembership};

/// How long the leader waits for the votes of the others. Whoever waits asks again after that.
const VOTES_TIMEOUT: Duration = Duration::from_millis(500);

/// How long those who answered last time have before the others are asked too: many times what an answer
/// takes, and too short for a caller to notice.
const PATIENCE: Duration = Duration::from_millis(10);

/// The highest log index that this node, as a leader, told others to be committed.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU64);

impl Told {
    /// To be called before anything that says so leaves this node.
    pub(crate) fn note(&self, committed: u64) {
        // Nearly always there already: then the line is only read.
        if self.0.load(Ordering::SeqCst) < committed {
            self.0.fetch_max(committed, Ordering::SeqCst);
        }
    }

    fn index(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What openraft confirmed: as the leader with this vote the node has committed up to here.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    vote: VoteV1,
    index: u64,
}

/// Gives read indexes, on the leader, and says which vote this node holds.
pub(crate) struct ReadIndex {
    leading: Arc<Leading>,
    asked: Coalesced<Result<u64, ReadRefusalV1>>,
}

struct Leading {
    raft: Raft,
    held: Arc<HeldVote>,
    peers: Arc<Peers>,
    published: Published,
    confirmed: Mutex<Option<Confirmed>>,
    /// The last majority that voted, this node included.
    seconders: Mutex<BTreeSet<u64>>,
}

impl ReadIndex {
    /// Starts the task that asks the others; it ends with this.
    pub(crate) fn new(raft: Raft, held: Arc<HeldVote>, peers: Arc<Peers>, published: Published) -> Self {
        let leading = Arc::new(Leading {
            raft,
            held,
            peers,
            published,
            confirmed: Mutex::default(),
            seconders: Mutex::default(),
        });
        let asking = Arc::clone(&leading);
        let asked = Coalesced::new(move || {
            let leading = Arc::clone(&asking);
            async move { leading.ask().await }
        });
        Self { leading, asked }
    }

    /// The vote that this node holds.
    pub(crate) fn held_vote(&self) -> VoteV1 {
        self.leading.held.get()
    }

    /// A read index for reads that began before this call. Callers share questions to the others.
    ///
    /// # Errors
    /// [`ReadRefusalV1`] when this node does not lead, or no majority said in time that it does.
    pub(crate) async fn get(&self) -> Result<u64, ReadRefusalV1> {
        self.asked.ask().await.unwrap_or(Err(ReadRefusalV1::NotLeader(None)))
    }

    /// The same for reads on `node`, which holds `vote` and sent that after they began; `None` when its
    /// vote and this node's are not enough.
    pub(crate) fn seconded(&self, node: u64, vote: VoteV1) -> Option<u64> {
        let confirmed = self.leading.confirmed()?;
        if !vote.is_for_same(&confirmed.vote) {
            return None;
        }
        let votes = BTreeSet::from([self.leading.own_id(), node]);
        is_quorum(&self.leading.membership(), &votes).then(|| self.leading.index(confirmed))
    }
}

impl Leading {
    fn own_id(&self) -> u64 {
        *self.raft.node_id()
    }

    /// What openraft confirmed for the vote that this node holds.
    fn confirmed(&self) -> Option<Confirmed> {
        let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.filter(|confirmed| confirmed.vote == self.held.get())
    }

    /// Everything that was acknowledged, or shown by any node, before this call.
    fn index(&self, confirmed: Confirmed) -> u64 {
        confirmed.index.max(self.published.applied_index()).max(self.peers.told.index())
    }

    fn membership(&self) -> Arc<StoredMembership> {
        Arc::clone(&self.raft.server_metrics().borrow_watched().membership_config)
    }

    async fn ask(&self) -> Result<u64, ReadRefusalV1> {
        let Some(confirmed) = self.confirmed() else { return self.confirm().await };
        let index = self.index(confirmed);
        let membership = self.membership();
        let mut votes = BTreeSet::from([self.own_id()]);
        if is_quorum(&membership, &votes) {
            return Ok(index);
        }
        // Those who answered last time, unless they alone are not enough; the rest when these do not
        // answer well.
        let likely = self.seconders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let enough = is_quorum(&membership, &(&likely | &votes));
        let others: Vec<u64> = membership.voter_ids().filter(|id| *id != self.own_id()).collect();
        let (first, mut rest): (Vec<u64>, _) =
            others.into_iter().partition(|id| !enough || likely.contains(id));
        let ask = |id| self.ask_one(&membership, id);
        let mut asked: FuturesUnordered<_> = first.into_iter().map(ask).collect();
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                Some((id, vote)) = asked.next() => {
                    if vote.is_some_and(|vote| vote.is_for_same(&confirmed.vote)) {
                        votes.insert(id);
                        if is_quorum(&membership, &votes) {
                            *self.seconders.lock().unwrap_or_else(PoisonError::into_inner) = votes;
                            return Ok(index);
                        }
                    } else {
                        asked.extend(rest.drain(..).map(ask));
                    }
                }
                () = &mut patience, if !rest.is_empty() => asked.extend(rest.drain(..).map(ask)),
                else => return Err(ReadRefusalV1::NoQuorum),
            }
        }
    }

    /// The vote that voter `id` holds, if it says so in time.
    async fn ask_one(&self, membership: &StoredMembership, id: u64) -> (u64, Option<VoteV1>) {
        let Some(member) = membership.membership().get_node(&id) else { return (id, None) };
        let link = self.peers.link(Lane::Vital, id, &member.peer);
        match link.call(&RequestV1::HeldVote, VOTES_TIMEOUT).await {
            Ok(ResponseV1::HeldVote(vote)) => (id, Some(vote)),
            other => {
                tracing::debug!(%member, answer = ?other, "no vote for a read index");
                (id, None)
            }
        }
    }

    /// The long way, once for every time this node becomes the leader.
    async fn confirm(&self) -> Result<u64, ReadRefusalV1> {
        let vote = self.held.get();
        let index = match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read_log_id, _)) => read_log_id.log_id().index,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(ReadRefusalV1::NotLeader(forward.leader_id));
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(ReadRefusalV1::NoQuorum);
            }
            Err(RaftError::Fatal(_)) => return Err(ReadRefusalV1::NotLeader(None)),
        };
        // Votes only grow: one that is the same before and after was held throughout.
        if vote.committed && vote.node_id == self.own_id() && vote == self.held.get() {
            let confirmed = Some(Confirmed { vote, index });
            *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = confirmed;
        }
        Ok(index)
    }
}

/// Whether `votes` are a majority of the voters; while these change, of both the old and the new ones.
fn is_quorum(membership: &StoredMembership, votes: &BTreeSet<u64>) -> bool {
    let configs = membership.membership().get_joint_config();
    !configs.is_empty() && configs.iter().all(|voters| voters.intersection(votes).count() * 2 > voters.len())
}

#[cfg(test)]
mod tests;
