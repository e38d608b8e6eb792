//! News of a commit travels with the entries that come next, when they come at once.
//!
//! **Idea.** openraft tells each follower of every commit: with the next entries, or, when there are none yet, in
//! a request of its own. That is half of all requests when one client writes after the other, and each is as
//! much work on both nodes as entries are. Nobody waits for it: a write is answered by the leader. So a request
//! that has nothing but a commit to tell is held back for a moment, and dropped when a later one tells as much.
//!
//! **Who does wait.** A linearizable read on a follower waits until the follower has applied its read index. The
//! leader gave that index away, and from then on holds back nothing that says that it is committed
//! ([`Wanted`]). Reads without that promise, and watch streams, see a change later by [`HELD_MAX`] at most.
//!
//! **Why a request may be dropped.** It carries no entries, and its answer says that the follower has all up to
//! where the one before ended, which the answer to the next one says too. openraft takes an answer for
//! all requests that end before it. The first request of a session is never held: it asks where the
//! follower stands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::Fuse;
use futures_util::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::types::{LogId, TypeConfig};

type Request = AppendEntriesRequest<TypeConfig>;

/// How long a commit waits for entries to travel with. Longer than a client needs between an answer and its next
/// write, short enough for whoever watches. The timer's own step is 1 ms.
pub(crate) const HELD_MAX: Duration = Duration::from_millis(1);

/// The highest read index that a follower has.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    index: AtomicU64,
    raised: Notify,
}

impl Wanted {
    /// A read on a follower waits for log index `index`.
    pub(crate) fn raise(&self, index: u64) {
        // Nearly always there already, when nothing is written: then the line is only read.
        if self.index.load(Ordering::SeqCst) < index && self.index.fetch_max(index, Ordering::SeqCst) < index
        {
            self.raised.notify_waiters();
        }
    }

    /// Resolves when somebody waits for what ends at `index`.
    async fn reaches(&self, index: u64) {
        let raised = self.raised.notified();
        tokio::pin!(raised);
        loop {
            // Before the look: what is raised after it wakes.
            raised.as_mut().enable();
            if self.index.load(Ordering::SeqCst) >= index {
                return;
            }
            raised.as_mut().await;
            raised.set(self.raised.notified());
        }
    }
}

/// The requests of one replication session, without those that are not worth one.
pub(crate) struct Commits<S> {
    input: Fuse<S>,
    held_max: Duration,
    /// Where the request before ended; `None` before the first.
    sent: Option<Option<LogId>>,
    /// The request to send next, and until when it may be held.
    next: Option<(Request, Instant)>,
    /// What came while that was held, and does not take its place.
    after: Option<Request>,
}

impl<S> Commits<S>
where
    S: Stream<Item = Request> + Unpin,
{
    /// Holds back nothing for longer than `held_max`.
    pub(crate) fn new(input: S, held_max: Duration) -> Self {
        Self { input: input.fuse(), held_max, sent: None, next: None, after: None }
    }

    /// The next request to send; `None` when there will be no more. Safe to cancel.
    pub(crate) async fn next(&mut self, wanted: &Wanted) -> Option<Request> {
        if self.next.is_none() {
            let request = match self.after.take() {
                Some(request) => request,
                None => self.input.next().await?,
            };
            self.next = Some((request, Instant::now() + self.held_max));
        }
        while let Some((held, deadline)) = &mut self.next
            && self.after.is_none()
            && let Some(committed) = only_tells(held, self.sent)
        {
            let later = tokio::select! {
                biased;
                later = self.input.next() => later,
                () = wanted.reaches(committed) => break,
                () = tokio::time::sleep_until(*deadline) => break,
            };
            match later {
                Some(later) if tells_all(&later, held) => *held = later,
                Some(later) => self.after = Some(later),
                None => break,
            }
        }
        let (request, _) = self.next.take()?;
        self.sent = Some(request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id));
        Some(request)
    }
}

/// The commit that `request` has to tell, when that is all that it is for; the one before ended at `sent`.
fn only_tells(request: &Request, sent: Option<Option<LogId>>) -> Option<u64> {
    let follows = sent == Some(request.prev_log_id);
    request.leader_commit.map(|id| id.index).filter(|_| follows && request.entries.is_empty())
}

/// Whether nothing is lost when `earlier`, which has no entries, is not sent before `later`.
fn tells_all(later: &Request, earlier: &Request) -> bool {
    later.vote == earlier.vote
        && later.prev_log_id == earlier.prev_log_id
        && later.leader_commit >= earlier.leader_commit
}

#[cfg(test)]
mod tests;
