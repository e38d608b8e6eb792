//! The leader's proposals that end times to live.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::command::{Command, Op};
use crate::local::Local;
use crate::state::{Published, State};
use crate::store::routes::Leadership;

/// How often what is due is looked for, and a stamp of the cluster's clock.
const TICK: Duration = Duration::from_millis(100);
/// Keys that one command removes: a few milliseconds of applying.
const KEYS_MAX: u32 = 1000;
/// Answers under idempotency keys leave with later ones; only when none come for so long after their
/// time is up does the leader see to it.
const ANSWERS_OVERDUE_MS: u64 = 10_000;

/// Keeps the cluster's clock, and proposes the end of what is due while this node leads.
pub(super) async fn expire(
    local: Arc<Local>,
    leadership: watch::Receiver<Leadership>,
    mut caught_up: watch::Receiver<bool>,
) {
    // Stamps from before the start are applied again at the start; they say nothing about now.
    let seen = local.published.view().clock_ms;
    let mut observed = match caught_up.wait_for(|caught_up| *caught_up).await {
        Ok(_) => local.published.view().clock_ms.max(seen),
        Err(_) => return,
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let clock_ms = local.published.view().clock_ms;
        if clock_ms > observed {
            observed = clock_ms;
            local.clock.observe(clock_ms);
        }
        while leadership.borrow().here && is_due(&local.published, local.clock.now_ms()) {
            let Ok(command) = Command::encode(&Op::Expire { keys_max: KEYS_MAX }) else { break };
            if let Err(refusal) = local.propose(command).await {
                // Overloaded, or not the leader any more: the next look decides.
                tracing::debug!(?refusal, "what is due was not expired");
                break;
            }
        }
    }
}

fn is_due(published: &Published, now_ms: u64) -> bool {
    let view: &State = &published.view();
    // Commands cannot set the clock back.
    let now_ms = now_ms.max(view.clock_ms);
    let answers_due = view.answers.oldest_expires_at_ms().map(|at| at.saturating_add(ANSWERS_OVERDUE_MS));
    view.due(now_ms).next().is_some() || answers_due.is_some_and(|at| at <= now_ms)
}
