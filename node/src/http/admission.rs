//! How much work on the store one node takes on at once, and how much memory for it.
//!
//! Writes and reads that need the leader enter through a [`Gate`]: so many of each may be at work,
//! some more may wait a bounded time, the rest is told at once to come again. So client work piles
//! up here, where it costs a few hundred bytes, and not in Raft's queues. What Raft does by itself
//! does not come this way, and neither do health checks, metrics, compute and local reads.
//!
//! A write that would be refused is refused before its body is read, see [`Gate::expect_write`].
//!
//! Waiting before refusing is what keeps an overloaded node useful: a refusal costs almost as much
//! processor time as a write, and a client that waits sends nothing meanwhile. For the same reason the second
//! refusal of a client that did not stay away as long as the first one said is held back, see
//! [`hold_refusal`](super::connection::Connection::hold_refusal).

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hearth_raft::{IdempotencyKey, Op, Store, View, Written};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::http::buffers::Buffers;
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
    /// Bytes of memory for bodies and for large answers.
    pub(crate) buffer_bytes_max: usize,
}

/// The store behind its bounds. Everything else of the store is reached through it unbounded.
pub(crate) struct Gate {
    store: Arc<Store>,
    limits: AdmissionLimits,
    writes: Semaphore,
    reads: Semaphore,
    waiting: Semaphore,
    /// Memory for bodies and for large answers.
    pub(super) buffers: Buffers,
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
            buffers: Buffers::new(limits.buffer_bytes_max, limits.waiting_timeout),
        }
    }

    /// Whether a write has a chance now: else its body need not be read, nor memory be spent on it.
    pub(super) fn expect_write(&self) -> Result<(), Problem> {
        match self.writes.available_permits() == 0 && self.waiting.available_permits() == 0 {
            true => Err(self.full("http.writes_max", self.limits.writes_max)),
            false => Ok(()),
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
        let Ok(_place) = self.waiting.try_acquire() else { return Err(self.full(key, limit)) };
        let timeout = self.limits.waiting_timeout;
        match tokio::time::timeout(timeout, room.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphores are never closed: this is the time that is up.
            _ => Err(Problem::new(
                Code::Overloaded,
                format!("{limit} at work ({key}), none ended within {timeout:?} (http.waiting_timeout)"),
            )),
        }
    }

    fn full(&self, key: &str, limit: usize) -> Problem {
        let waiting = self.limits.waiting_max;
        let detail = format!("{limit} at work ({key}) and {waiting} waiting (http.waiting_max)");
        Problem::new(Code::Overloaded, detail)
    }
}
