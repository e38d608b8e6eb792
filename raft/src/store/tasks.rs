//! What goes on in the background while a store is open.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::LogStore;
use crate::state::Published;
use crate::state::checkpoint::Checkpoints;
use crate::store::StoreOptions;
use crate::store::routes::READ_INDEX_TIMEOUT;
use crate::types::Raft;

/// How often a failure of Raft is looked for; it answers nothing any more as soon as it failed.
const FAILURE_TICK: Duration = Duration::from_millis(100);

/// How often the need for a checkpoint is looked at.
const CHECKPOINT_TICK: Duration = Duration::from_millis(200);

/// How often the need to purge the log is looked at.
const PURGE_TICK: Duration = Duration::from_millis(500);

/// Nothing is kept for a follower that has not answered for so long: it is not catching up.
const CATCHING_UP_SILENCE_MAX: Duration = Duration::from_secs(5);

/// Tells when openraft cannot go on. Looks now and then instead of at each change of the metrics,
/// which come several times a write.
pub(super) async fn watch_failure(raft: Raft, failing: watch::Sender<Option<String>>) {
    let mut tick = tokio::time::interval(FAILURE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let state = raft.metrics().borrow_watched().running_state.clone();
        match state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return,
            Err(fatal) => {
                failing.send_replace(Some(fatal.to_string()));
                return;
            }
        }
    }
}

/// Waits until this node has applied what the cluster had committed when it started.
pub(super) async fn catch_up(raft: &Raft, published: &Published, caught_up: &watch::Sender<bool>) {
    let mut applied = published.subscribe();
    loop {
        // Bounded waits, because either can be what changes next.
        if let Ok(metrics) = raft.wait_for_recovery(Some(READ_INDEX_TIMEOUT)).await {
            let target = metrics.last_applied.map_or(0, |id| id.index);
            if applied.wait_for(|index| *index >= target).await.is_ok() {
                caught_up.send_replace(true);
            }
            return;
        }
        if raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
    }
}

/// Purges the log behind the checkpoints, as far as no node that is catching up needs it.
///
/// openraft itself would purge a fixed number of entries behind every checkpoint. Under load more than
/// that is written while a follower receives and installs a snapshot: it would need the next one at once,
/// for ever. openraft still refuses to purge what no checkpoint holds (invariant 4).
pub(super) async fn purge_log(
    raft: Raft,
    log: LogStore,
    checkpoints: Arc<Checkpoints>,
    options: StoreOptions,
) {
    let mut tick = tokio::time::interval(PURGE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut purged = 0;
    loop {
        tick.tick().await;
        let mut upto = checkpoints.last().revision().saturating_sub(options.log_keep_entries);
        if upto <= purged {
            continue;
        }
        if log.disk_bytes() < options.log_catch_up_bytes {
            let metrics = raft.metrics().borrow_watched().clone();
            let heard = |id: &u64| {
                let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(id).cloned().flatten());
                heard.is_some_and(|at| at.into_inner().elapsed() < CATCHING_UP_SILENCE_MAX)
            };
            let followers = metrics.replication.iter().flatten().filter(|(id, _)| heard(id));
            let least = followers.map(|(_, matched)| matched.map_or(0, |id| id.index)).min();
            upto = upto.min(least.unwrap_or(upto));
        }
        if upto > purged && raft.trigger().purge_log(upto).await.is_ok() {
            purged = upto;
        }
    }
}

/// Asks openraft for a checkpoint when enough was applied, or some time after anything was.
pub(super) async fn trigger_checkpoints(
    raft: Raft,
    published: Published,
    checkpoints: Arc<Checkpoints>,
    options: StoreOptions,
) {
    let mut tick = tokio::time::interval(CHECKPOINT_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = Due { bytes_before: published.applied_bytes(), begun: Instant::now(), asked_for: 0 };
    loop {
        tick.tick().await;
        // Nothing is applied meanwhile, and what is at rest will be replaced. A sender that has gone is noticed within
        // seconds, see peer/socket.rs.
        if checkpoints.is_receiving() {
            continue;
        }
        let (applied, durable) = (published.applied_index(), checkpoints.last().revision());
        let (bytes, now) = (published.applied_bytes(), Instant::now());
        if due.is_next(applied, durable, bytes, now, &options) {
            checkpoints.hurry();
        }
        if due.look(applied, durable, bytes, now, &options) && raft.trigger().snapshot().await.is_err() {
            // Raft has stopped.
            return;
        }
    }
}

/// When a checkpoint is due.
struct Due {
    /// Bytes applied when the last one was asked for.
    bytes_before: u64,
    /// When that was.
    begun: Instant,
    /// What it includes at least, by log index.
    asked_for: u64,
}

impl Due {
    /// Whether to ask for one now, when so much is applied, and so much durable.
    ///
    /// openraft works on one at a time, and drops a request while it does without a word; also for a moment after
    /// what it wrote is durable. So one that was asked for is asked for until it is there.
    fn look(&mut self, applied: u64, durable: u64, bytes: u64, now: Instant, options: &StoreOptions) -> bool {
        // Less, while a snapshot that was received is durable and not yet what is read.
        if applied <= durable {
            return false;
        }
        if durable < self.asked_for {
            return true;
        }
        let is_due = self.is_due(applied - durable, bytes, now, options);
        if is_due {
            *self = Self { bytes_before: bytes, begun: now, asked_for: applied };
        }
        is_due
    }

    /// Whether the one after that which was asked for, and is not there yet, is due as well.
    fn is_next(&self, applied: u64, durable: u64, bytes: u64, now: Instant, options: &StoreOptions) -> bool {
        durable < self.asked_for && self.is_due(applied.saturating_sub(self.asked_for), bytes, now, options)
    }

    fn is_due(&self, entries: u64, bytes: u64, now: Instant, options: &StoreOptions) -> bool {
        entries >= options.checkpoint_entries
            || bytes - self.bytes_before >= options.checkpoint_bytes
            || now - self.begun >= options.checkpoint_interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_asked_for_until_it_is_there() {
        let options = StoreOptions {
            name: String::new(),
            data_dir: "".into(),
            initial_cluster: Vec::new(),
            http_advertise: String::new(),
            heartbeat_interval: Duration::ZERO,
            election_timeout_min: Duration::ZERO,
            election_timeout_max: Duration::ZERO,
            request_timeout: Duration::ZERO,
            data_bytes_max: 0,
            disk_free_min: 0,
            stall_timeout: Duration::ZERO,
            proposals_max: 0,
            checkpoint_entries: 10,
            checkpoint_bytes: 1000,
            checkpoint_interval: Duration::from_secs(60),
            log_keep_entries: 0,
            log_catch_up_bytes: 0,
            idempotency_window: Duration::ZERO,
            idempotency_keys_max: 0,
            history_events: 0,
            history_bytes: 0,
        };
        let begun = Instant::now();
        let mut due = Due { bytes_before: 0, begun, asked_for: 0 };
        let mut look = |applied, durable, bytes, seconds| {
            due.look(applied, durable, bytes, begun + Duration::from_secs(seconds), &options)
        };
        assert!(!look(0, 0, 0, 100), "nothing to write");
        assert!(!look(9, 0, 90, 1));
        assert!(look(10, 0, 100, 1));
        // It may have been dropped; what is durable does not get further by itself.
        assert!(look(11, 0, 110, 1) && look(25, 9, 250, 2));
        assert!(!look(19, 10, 250, 3), "it is there");
        assert!(look(19, 10, 1100, 3), "bytes since it was asked for");
        assert!(!look(20, 19, 1200, 4));
        assert!(!look(20, 19, 1200, 62));
        assert!(look(20, 19, 1200, 63), "time since it was asked for");
        assert!(!look(20, 20, 1200, 200));
        assert!(!look(20, 30, 1200, 200), "a snapshot is being installed");

        let due = Due { bytes_before: 0, begun, asked_for: 20 };
        let is_next = |applied, durable, seconds| {
            due.is_next(applied, durable, 0, begun + Duration::from_secs(seconds), &options)
        };
        assert!(!is_next(29, 10, 1), "the one that is written has time");
        assert!(is_next(30, 10, 1) && is_next(21, 10, 60));
        assert!(!is_next(30, 20, 60), "it is there");
    }
}
