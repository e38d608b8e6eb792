//! Group commit end to end: commands that wait go to Raft together.
//!
//! A *round* is what is proposed at once: one append to the log, one message to each follower, one
//! fsync on each node, one applied batch. Its fixed costs, above all three fsyncs, are shared by its
//! commands. So only [`ROUNDS`] rounds are in flight: while one is on its way to the disks, the next one
//! gathers everything that arrives meanwhile. A command that finds a free round waits only for those that
//! are ready at the same moment, and no timer is involved: the slower the disks, the larger the rounds.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::clock::Clock;
use crate::proposal::Proposal;
use crate::types::Raft;

/// Rounds in flight. One would leave the disks idle while answers are on their way back; more make
/// rounds smaller and cost more processor time per command.
const ROUNDS: usize = 2;
/// Commands of one round.
const ROUND_COMMANDS_MAX: usize = 4096;

/// Proposes commands in rounds.
pub(crate) struct Rounds {
    /// Not bounded itself: every proposal holds one of a bounded number of places.
    waiting: mpsc::UnboundedSender<Proposal>,
}

impl Rounds {
    /// Starts the task that gathers rounds; it ends with this handle.
    pub(crate) fn new(raft: Raft, clock: Arc<Clock>) -> Self {
        let (waiting, mut queue) = mpsc::unbounded_channel::<Proposal>();
        let rounds = Arc::new(Semaphore::new(ROUNDS));
        tokio::spawn(async move {
            let mut gathered = Vec::new();
            while let Some(first) = queue.recv().await {
                let Ok(round) = Arc::clone(&rounds).acquire_owned().await else { return };
                // A frame of another node holds many, and connections are read one after the other:
                // whoever is ready by now goes along. Else the first would take the round for itself.
                tokio::task::yield_now().await;
                gathered.push(first);
                while gathered.len() < ROUND_COMMANDS_MAX {
                    let Ok(next) = queue.try_recv() else { break };
                    gathered.push(next);
                }
                let round = Arc::new(round);
                for proposal in gathered.drain(..) {
                    submit(&raft, &clock, proposal, Arc::clone(&round)).await;
                }
            }
        });
        Self { waiting }
    }

    /// Proposes with the next round.
    pub(crate) fn propose(&self, proposal: Proposal) {
        // The task is gone only with the runtime; a proposal that is dropped answers.
        drop(self.waiting.send(proposal));
    }
}

/// The round ends when the last of its commands is answered.
async fn submit(raft: &Raft, clock: &Clock, proposal: Proposal, round: Arc<OwnedSemaphorePermit>) {
    if let Some((command, responder)) = proposal.propose(round) {
        // When the Raft core is down it drops the responder, which answers.
        drop(raft.client_write_ff(command.stamped(clock.now_ms()), Some(responder)).await);
    }
}
