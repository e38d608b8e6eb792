//! When nodes write checkpoints, as their metrics tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::http::{Client, metric_sum};
use crate::wait;

/// How often the metrics are looked at; a checkpoint's end is known as exactly as that.
const INTERVAL: Duration = Duration::from_millis(50);

/// One checkpoint that ended while it was watched.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    /// Index of the node among those watched.
    pub node: usize,
    /// When it began.
    pub begin: Instant,
    /// When it ended.
    pub end: Instant,
}

/// Watches nodes until it is dropped.
#[derive(Debug)]
pub struct Watch {
    clients: Vec<Client>,
    seen: Arc<Mutex<Vec<Checkpoint>>>,
    _watchers: JoinSet<()>,
}

impl Watch {
    /// Begins.
    #[must_use]
    pub fn start(clients: &[Client]) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut watchers = JoinSet::new();
        for (node, client) in clients.iter().enumerate() {
            watchers.spawn(watch(node, client.clone(), Arc::clone(&seen)));
        }
        Self { clients: clients.to_vec(), seen, _watchers: watchers }
    }

    /// All that have ended so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Checkpoint> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the checkpoints of all nodes hold what they have applied.
    ///
    /// # Errors
    /// When that takes longer than `bound`.
    pub async fn wait_written(&self, bound: Duration) -> Result<()> {
        wait::until(bound, "checkpoints of all that is applied", async || {
            for client in &self.clients {
                let text = client.metrics().await.map_err(|error| format!("{error:#}"))?;
                let index = |name| metric_sum::<u64>(&text, name).unwrap_or(0);
                let (applied, written) =
                    (index("hearth_raft_applied_index"), index("hearth_raft_snapshot_index"));
                if written < applied {
                    return Err(format!("applied {applied}, written {written}"));
                }
            }
            Ok(())
        })
        .await
        .context("wait for checkpoints")
    }
}

async fn watch(node: usize, client: Client, seen: Arc<Mutex<Vec<Checkpoint>>>) {
    let mut before: Option<(u64, f64)> = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        // A node that does not answer is being restarted.
        let Ok(text) = client.metrics().await else { continue };
        let count = metric_sum(&text, "hearth_store_checkpoint_duration_seconds_count");
        let seconds = metric_sum(&text, "hearth_store_checkpoint_duration_seconds_sum");
        let (Some(count), Some(seconds)) = (count, seconds) else { continue };
        if let Some((count_before, seconds_before)) = before
            && count > count_before
        {
            let end = Instant::now();
            let took = Duration::try_from_secs_f64(seconds - seconds_before).unwrap_or_default();
            let begin = end.checked_sub(took).unwrap_or(end);
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(Checkpoint { node, begin, end });
        }
        before = Some((count, seconds));
    }
}
