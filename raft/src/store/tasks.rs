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
    let mut bytes_before = published.applied_bytes();
    let mut begun = Instant::now();
    let mut asked_for = 0;
    loop {
        tick.tick().await;
        let (applied, durable) = (published.applied_index(), checkpoints.last().revision());
        if applied == durable {
            continue;
        }
        let bytes = published.applied_bytes();
        let due = applied - durable.max(asked_for) >= options.checkpoint_entries
            || bytes - bytes_before >= options.checkpoint_bytes
            || begun.elapsed() >= options.checkpoint_interval;
        // One at a time: openraft drops a request while it builds.
        if durable < asked_for {
            if due {
                checkpoints.hurry();
            }
        } else if due && raft.trigger().snapshot().await.is_ok() {
            (bytes_before, begun, asked_for) = (bytes, Instant::now(), applied);
        }
    }
}
