//! Runs programs while there is nothing better to do, and keeps their exit statuses for callers to come.
//!
//! A start is due when the pool lacks a result that no program on its way will bring, and when what the last
//! programs used of the processor has been rested from. A program that fails brings nothing, and is not tried
//! again for a while: a caller's own run will tell the caller why.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{Exit, LocalProgramError, Purpose, Shared, Slot};
use crate::compute::PRODUCER_TICK;

/// What a run is taken to use of a processor until the first one has told.
const USED_AT_FIRST: Duration = Duration::from_millis(2);

/// Starting a program takes this much, which is not in what the program itself has used.
const USED_BY_START: Duration = Duration::from_micros(100);

/// How long after a failure nothing is started.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the pool full until the owners are gone; then what runs ahead is killed.
pub(super) async fn produce(shared: Arc<Shared>, owners: Weak<()>) {
    let mut on_their_way = JoinSet::new();
    let mut rested = Instant::now();
    let mut used = USED_AT_FIRST;
    while owners.strong_count() > 0 {
        while let Some(ended) = on_their_way.try_join_next() {
            match ended {
                Ok(Ok(took)) => used = took + USED_BY_START,
                Ok(Err(error)) => {
                    debug!(%error, "a local program that ran ahead brought nothing");
                    rested = Instant::now() + FAILURE_PAUSE;
                }
                // Aborted or panicked: as if it had not been started.
                Err(_) => {}
            }
        }
        let due =
            shared.pool.missing() > on_their_way.len() && on_their_way.len() < shared.config.ahead_max();
        let now = Instant::now();
        if due && now >= rested {
            match shared.turn_ahead() {
                Some(slot) => {
                    on_their_way.spawn(run(shared.clone(), slot));
                    rested = now + used + shared.pool.config().rest_after(used);
                }
                None => rested = now + PRODUCER_TICK,
            }
        }
        let next = if due { rested } else { Instant::now() + PRODUCER_TICK };
        // At least once in a tick, for what has ended and what has expired.
        sleep_until(next.min(Instant::now() + PRODUCER_TICK)).await;
    }
}

/// Runs one program to its end, and puts its exit status into the pool. Returns the processor time it took.
async fn run(shared: Arc<Shared>, slot: Slot) -> Result<Duration, LocalProgramError> {
    let (reply, answer) = oneshot::channel();
    Arc::clone(&shared).watch(slot, Purpose::Ahead, reply).await;
    let lost = |_| Err(LocalProgramError::lost("the node is stopping"));
    let Exit { status, used } = answer.await.unwrap_or_else(lost)?;
    shared.pool.fill([status]);
    Ok(used)
}

impl Shared {
    /// A turn for a program that runs ahead, unless callers have half of the turns already.
    fn turn_ahead(&self) -> Option<Slot> {
        if self.turns.available_permits() <= self.config.running_max / 2 {
            return None;
        }
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        Some(Slot { _place: None, _turn: turn })
    }
}
