//! A disk that does not answer.
//!
//! An fdatasync that fails ends the node. One that hangs ends nothing: a leader goes on, because its
//! followers' disks are a majority without its own, and keeps what it cannot write in memory. So a leader
//! whose log waits longer than `storage.stall_timeout` takes no more writes and hands over to the voter
//! that is furthest. With its disk as it is, it can do so: appending only queues, and openraft's core
//! waits for the disk only when it saves a vote.
//!
//! That is what it does next, to follow its successor. Then the core stands still until the disk answers;
//! this node neither votes nor campaigns meanwhile, and everybody else is served by the others. Should the
//! core stand still before, the others miss its heartbeats and elect one of them.
//!
//! Nothing that was acknowledged depends on the disk that hangs: this node's log only counts towards a
//! majority as far as an fdatasync returned.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::log::Underway;
use crate::metrics::RaftGauges;
use crate::store::handover::HandOver;
use crate::types::Raft;

/// How often the fdatasyncs are looked at, as a part of the bound on them.
const LOOKS_PER_TIMEOUT: u32 = 20;
/// A successor that did not take over in this time is passed over for another one.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_secs(1);
/// Raft's core answers within microseconds unless it waits for the disk.
const CORE_TIMEOUT: Duration = Duration::from_millis(500);

/// Tells whether the log waits for its disk longer than it should.
#[derive(Clone)]
pub(crate) struct Stall {
    underway: Arc<Underway>,
    timeout: Duration,
}

impl Stall {
    pub(super) fn new(underway: Arc<Underway>, timeout: Duration) -> Self {
        Self { underway, timeout }
    }

    /// For how long the log has waited, when that is a stall.
    pub(crate) fn lasting(&self) -> Option<Duration> {
        self.underway.lasting().filter(|lasting| *lasting > self.timeout)
    }
}

/// Notices stalls, says so, and hands leadership over. On a task of its own: the thread that waits for
/// the disk notices nothing.
pub(super) async fn watch(stall: Stall, raft: Raft, hand_over: HandOver, gauges: RaftGauges) {
    let mut tick = tokio::time::interval((stall.timeout / LOOKS_PER_TIMEOUT).max(Duration::from_millis(5)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(lasting) = stall.lasting() else { continue };
        let begun = Instant::now() - lasting;
        gauges.fsync_stalled.set(1);
        // Else it might win an election that it cannot make durable, and hold the others up.
        raft.runtime_config().elect(false);
        tracing::warn!(
            ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX),
            "an fsync of the log does not return: the disk stalls"
        );
        let mut tried = Vec::new();
        let mut asked: Option<Instant> = None;
        while stall.lasting().is_some() {
            if asked.is_none_or(|asked| asked.elapsed() >= SUCCESSOR_TIMEOUT) && answers(&raft).await {
                if let Some(successor) = hand_over.ask(&tried).await {
                    tracing::warn!(successor, after = ?begun.elapsed(), "the disk stalls: handing leadership over");
                    gauges.stall_hand_overs.inc();
                    tried.push(successor);
                } else {
                    // None left: begin again, if this node still leads.
                    tried.clear();
                }
                asked = Some(Instant::now());
            }
            tick.tick().await;
        }
        raft.runtime_config().elect(true);
        gauges.fsync_stalled.set(0);
        tracing::info!(after = ?begun.elapsed(), "the log's disk answers again");
    }
}

/// Whether Raft's core is at work. If it is not it has a vote to save, and leads no more.
async fn answers(raft: &Raft) -> bool {
    matches!(tokio::time::timeout(CORE_TIMEOUT, raft.with_raft_state(|_| ())).await, Ok(Ok(())))
}
