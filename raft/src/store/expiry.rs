//! The leader's proposals that end times to live.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::command::{Command, Op};
use crate::local::Local;
use crate::state::Published;
use crate::store::routes::Leadership;

/// How often what is due is looked for, and a stamp of the cluster's clock.
const TICK: Duration = Duration::from_millis(100);
/// Keys that one command removes: a few milliseconds of applying.
const KEYS_MAX: u32 = 1000;

/// Keeps the cluster's clock, and proposes the end of what is due while this node leads.
pub(super) async fn expire(
    local: Arc<Local>,
    leadership: watch::Receiver<Leadership>,
    mut caught_up: watch::Receiver<bool>,
) {
    // Stamps from before the start are applied again at the start; they say nothing about now.
    let seen = local.published.clock_ms();
    let mut observed = match caught_up.wait_for(|caught_up| *caught_up).await {
        Ok(_) => local.published.clock_ms().max(seen),
        Err(_) => return,
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let clock_ms = local.published.clock_ms();
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
    // Commands cannot set the clock back.
    published.due_ms() <= now_ms.max(published.clock_ms())
}
