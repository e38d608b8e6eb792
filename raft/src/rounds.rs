//! Group commit end to end: commands that wait go to Raft together.
//!
//! A *round* is what is proposed at once: one append to the log, one message to each follower, one
//! fsync on each node, one applied batch. Its fixed costs, above all three fsyncs and the wake-ups of a
//! dozen tasks, are shared by its commands. So only [`ROUNDS`] rounds are in flight, and the second
//! begins only with as many commands as the first one carries: else the few whose answers came first would
//! take a round for themselves again and again. A command that finds no round in flight waits only for
//! those that are ready at the same moment, and no timer is involved: the slower the disks, the larger
//! the rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

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

/// What is proposed and not yet answered.
#[derive(Default)]
struct InFlight {
    rounds: AtomicUsize,
    commands: AtomicUsize,
    /// Notified when a round ended.
    ended: Notify,
}

impl InFlight {
    /// Whether a round of `commands` may begin.
    fn lets_go(&self, commands: usize) -> bool {
        match self.rounds.load(Ordering::Acquire) {
            0 => true,
            rounds => {
                rounds < ROUNDS && commands >= self.commands.load(Ordering::Acquire).min(ROUND_COMMANDS_MAX)
            }
        }
    }

    fn begin(self: &Arc<Self>, commands: usize) -> Arc<Round> {
        self.rounds.fetch_add(1, Ordering::AcqRel);
        self.commands.fetch_add(commands, Ordering::AcqRel);
        Arc::new(Round { of: Arc::clone(self), commands })
    }
}

/// Held by every command of a round until it is answered; the last one ends it.
struct Round {
    of: Arc<InFlight>,
    commands: usize,
}

impl Drop for Round {
    fn drop(&mut self) {
        self.of.commands.fetch_sub(self.commands, Ordering::AcqRel);
        self.of.rounds.fetch_sub(1, Ordering::AcqRel);
        self.of.ended.notify_one();
    }
}

impl Rounds {
    /// Starts the task that gathers rounds; it ends with this handle.
    pub(crate) fn new(raft: Raft, clock: Arc<Clock>) -> Self {
        let (waiting, mut queue) = mpsc::unbounded_channel::<Proposal>();
        let in_flight = Arc::new(InFlight::default());
        tokio::spawn(async move {
            let mut gathered = Vec::new();
            while let Some(first) = queue.recv().await {
                gathered.push(first);
                // A frame of another node holds many, and connections are read one after the other:
                // whoever is ready by now goes along.
                tokio::task::yield_now().await;
                loop {
                    while gathered.len() < ROUND_COMMANDS_MAX {
                        let Ok(next) = queue.try_recv() else { break };
                        gathered.push(next);
                    }
                    if in_flight.lets_go(gathered.len()) {
                        break;
                    }
                    tokio::select! {
                        () = in_flight.ended.notified() => {}
                        Some(next) = queue.recv(), if gathered.len() < ROUND_COMMANDS_MAX => gathered.push(next),
                    }
                }
                let round = in_flight.begin(gathered.len());
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
async fn submit(raft: &Raft, clock: &Clock, proposal: Proposal, round: Arc<Round>) {
    if let Some((command, responder)) = proposal.propose(round) {
        // When the Raft core is down it drops the responder, which answers.
        drop(raft.client_write_ff(command.stamped(clock.now_ms()), Some(responder)).await);
    }
}
