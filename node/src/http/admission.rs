//! How much work on the store one node takes on at once.
//!
//! Writes and reads that need the leader enter through a [`Gate`]: so many of each may be at work,
//! some more may wait a bounded time, the rest is told at once to come again. So client work piles
//! up here, where it costs a few hundred bytes, and not in Raft's queues. What Raft does by itself
//! does not come this way, and neither do health checks, metrics, compute and local reads.
//!
//! Waiting before refusing is what keeps an overloaded node useful: a refusal costs almost as much
//! processor time as a write, and a client that waits sends nothing meanwhile.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hearth_raft::{IdempotencyKey, Op, Store, View, Written};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::problem::{Code, Problem};

/// The bounds, from the `http.` keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmissionLimits {
    /// Writes at work.
    pub(crate) writes_max: usize,
    /// Reads at work that need the leader's word.
    pub(crate) reads_max: usize,
    /// Of both, how many may wait.
    pub(crate) waiting_max: usize,
    /// How long.
    pub(crate) waiting_timeout: Duration,
}

/// The store behind its bounds. Everything else of the store is reached through it unbounded.
pub(crate) struct Gate {
    store: Arc<Store>,
    limits: AdmissionLimits,
    writes: Semaphore,
    reads: Semaphore,
    waiting: Semaphore,
}

impl Deref for Gate {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Gate {
    pub(crate) fn new(store: Arc<Store>, limits: AdmissionLimits) -> Self {
        Self {
            store,
            limits,
            writes: Semaphore::new(limits.writes_max),
            reads: Semaphore::new(limits.reads_max),
            waiting: Semaphore::new(limits.waiting_max),
        }
    }

    /// [`Store::write`] within the bounds.
    pub(super) async fn write(&self, op: &Op) -> Result<Written, Problem> {
        let _permit = self.enter(&self.writes, "http.writes_max", self.limits.writes_max).await?;
        Ok(self.store.write(op).await?)
    }

    /// [`Store::write_once`] within the bounds.
    pub(super) async fn write_once(&self, op: &Op, key: &IdempotencyKey) -> Result<Written, Problem> {
        let _permit = self.enter(&self.writes, "http.writes_max", self.limits.writes_max).await?;
        Ok(self.store.write_once(op, key).await?)
    }

    /// [`Store::linearizable_view`] within the bounds.
    pub(super) async fn linearizable_view(&self) -> Result<View, Problem> {
        let _permit = self.enter(&self.reads, "http.reads_max", self.limits.reads_max).await?;
        Ok(self.store.linearizable_view().await?)
    }

    /// [`Store::view_within`]; only what needs the leader counts.
    pub(super) async fn view_within(&self, age_max: Duration) -> Result<View, Problem> {
        match self.store.local_view() {
            (view, Some(age)) if age <= age_max => Ok(view),
            _ => self.linearizable_view().await,
        }
    }

    async fn enter<'a>(
        &self,
        room: &'a Semaphore,
        key: &str,
        limit: usize,
    ) -> Result<SemaphorePermit<'a>, Problem> {
        if let Ok(permit) = room.try_acquire() {
            return Ok(permit);
        }
        let overloaded = |detail: String| Err(Problem::new(Code::Overloaded, detail));
        let Ok(_place) = self.waiting.try_acquire() else {
            let waiting = self.limits.waiting_max;
            return overloaded(format!("{limit} at work ({key}) and {waiting} waiting (http.waiting_max)"));
        };
        let timeout = self.limits.waiting_timeout;
        match tokio::time::timeout(timeout, room.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphores are never closed: this is the time that is up.
            _ => overloaded(format!(
                "{limit} at work ({key}), none ended within {timeout:?} (http.waiting_timeout)"
            )),
        }
    }
}
