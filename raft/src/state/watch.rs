//! Watchers: who is told of changes of keys, and how they are woken.
//!
//! **Idea.** All watchers of a node read the same [`History`], each from a cursor of its own; none has a
//! queue. One that has read everything waits under its prefix, and a change wakes those under the prefixes
//! of its key: they are looked up, once for each length that a waiting prefix has, so that ten thousand
//! watchers of other keys cost nothing. Who is woken learns at which event, and therefore misses nothing
//! even if it slept while the history passed over it, and is behind only when events of its own are gone.
//!
//! **Invariants.**
//! - A watcher is given each event of its keys once, in the order of the log, or is told that it cannot be.
//! - What is given can be read by anyone: changes come here when views include them.
//! - A watcher is waiting, or woken, or reading; it is in [`Waiting`] exactly while it waits.
//!
//! [`Watches`] is locked while a batch of changes is recorded, and for about 20 µs by who reads.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use smol_str::SmolStr;

use crate::state::event::{Changes, Event, EventId};
use crate::state::history::{Cursor, History, HistoryLimits, Read};

/// Watchers that are woken in one go.
const WAKE_AT_ONCE: usize = 64;
/// Changes of a batch for which room is kept until the next.
const CHANGES_KEPT: usize = 8192;

/// The history, and who waits for it to go on.
pub(crate) struct Watches(Mutex<Shared>);

struct Shared {
    history: History,
    waiting: Waiting,
    /// Where each watcher stands, by its number.
    watchers: HashMap<u64, Standing>,
    next_watcher: u64,
    ended: bool,
}

enum Standing {
    Reading,
    /// It has read everything, and is in [`Waiting`] at `place`.
    Waiting {
        waker: Waker,
        place: usize,
    },
    /// Since it began to wait, the event with this number was the first that concerns it.
    Woken(u64),
}

/// Waiting watchers by what their keys begin with.
#[derive(Default)]
struct Waiting {
    /// No entry is empty.
    by_prefix: HashMap<SmolStr, Vec<u64>>,
    /// How many of those prefixes have each length.
    lengths: BTreeMap<usize, usize>,
}

impl Waiting {
    /// Adds a watcher and says at which place under its prefix.
    fn add(&mut self, prefix: &SmolStr, watcher: u64) -> usize {
        let watchers = match self.by_prefix.get_mut(prefix) {
            Some(watchers) => watchers,
            None => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                self.by_prefix.entry(prefix.clone()).or_default()
            }
        };
        watchers.push(watcher);
        watchers.len() - 1
    }

    /// Takes a watcher away, and says who has its place now.
    fn remove(&mut self, prefix: &str, place: usize) -> Option<u64> {
        let watchers = self.by_prefix.get_mut(prefix)?;
        watchers.swap_remove(place);
        let moved = watchers.get(place).copied();
        if watchers.is_empty() {
            self.take(prefix);
        }
        moved
    }

    /// Takes away all that wait under exactly this prefix.
    fn take(&mut self, prefix: &str) -> Option<Vec<u64>> {
        let watchers = self.by_prefix.remove(prefix)?;
        if let Some(prefixes) = self.lengths.get_mut(&prefix.len()) {
            *prefixes -= 1;
            if *prefixes == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
        Some(watchers)
    }

    /// Takes away all that wait for a change of `key`, and gives each to `take`.
    fn take_matching(&mut self, key: &str, mut take: impl FnMut(u64)) {
        let mut from = 0;
        while let Some((&length, _)) = self.lengths.range(from..).next()
            && length <= key.len()
        {
            from = length + 1;
            // A prefix never ends within a character.
            let prefix = key.get(..length);
            prefix.and_then(|prefix| self.take(prefix)).into_iter().flatten().for_each(&mut take);
        }
    }
}

impl Shared {
    /// Takes all who wait for a change of `key`, which is event `number`.
    fn wake_matching(&mut self, key: &str, number: u64, woken: &mut Woken) {
        let Self { waiting, watchers, .. } = self;
        waiting.take_matching(key, |watcher| woken.take(watchers, watcher, number));
    }

    /// Takes all who wait.
    fn wake_all(&mut self) -> Woken {
        let (mut woken, number) = (Woken::default(), self.history.end());
        for watcher in std::mem::take(&mut self.waiting).by_prefix.into_values().flatten() {
            woken.take(&mut self.watchers, watcher, number);
        }
        woken
    }
}

/// Watchers that are to be woken, after the locks are given up and the writes are answered.
#[derive(Default)]
#[must_use]
pub(crate) struct Woken(Vec<Waker>);

impl Woken {
    fn take(&mut self, watchers: &mut HashMap<u64, Standing>, watcher: u64, number: u64) {
        if let Some(Standing::Waiting { waker, .. }) = watchers.insert(watcher, Standing::Woken(number)) {
            self.0.push(waker);
        }
    }

    /// Wakes them; many of them bit by bit, so that nobody waits for it.
    pub(crate) fn wake(mut self) {
        if self.0.len() <= WAKE_AT_ONCE {
            return self.0.into_iter().for_each(Waker::wake);
        }
        tokio::spawn(async move {
            while !self.0.is_empty() {
                let rest = self.0.len().saturating_sub(WAKE_AT_ONCE);
                self.0.drain(rest..).for_each(Waker::wake);
                tokio::task::yield_now().await;
            }
        });
    }
}

impl Watches {
    /// Begins behind log index `revision`.
    pub(crate) fn new(limits: HistoryLimits, revision: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shared {
            history: History::new(limits, revision),
            waiting: Waiting::default(),
            watchers: HashMap::new(),
            next_watcher: 0,
            ended: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing under this lock calls out; should it panic all the same, the history is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the entries up to log index `revision` changed, and empties `changes`. To be called when
    /// every view includes them: a watcher must not hear of what it cannot read.
    pub(crate) fn record(&self, revision: u64, changes: &mut Changes) -> Woken {
        let mut woken = Woken::default();
        {
            let mut shared = self.lock();
            for (number, changed) in (shared.history.end()..).zip(&changes.list) {
                shared.wake_matching(&changed.key, number, &mut woken);
            }
            shared.history.record(revision, changes.list.drain(..));
        }
        changes.list.shrink_to(CHANGES_KEPT);
        woken
    }

    /// Begins anew behind log index `revision`, because the state was replaced.
    pub(crate) fn restart(&self, revision: u64) -> Woken {
        let mut shared = self.lock();
        // Before the history begins anew: what they are woken for is then not there any more.
        let woken = shared.wake_all();
        shared.history.restart(revision);
        woken
    }

    /// Ends all watchers, now and later.
    pub(crate) fn end(&self) {
        let woken = {
            let mut shared = self.lock();
            shared.ended = true;
            shared.wake_all()
        };
        woken.wake();
    }

    /// A watcher of the keys that begin with `prefix`, from `after` on; else the oldest revision that can be
    /// resumed after.
    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, after: EventId) -> Result<Watcher, u64> {
        let mut shared = self.lock();
        let cursor = shared.history.cursor(after)?;
        let number = shared.next_watcher;
        shared.next_watcher += 1;
        shared.watchers.insert(number, Standing::Reading);
        Ok(Watcher { watches: Arc::clone(self), number, prefix: prefix.into(), cursor })
    }
}

/// What a watcher gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Events.
    Events,
    /// Some events, perhaps, and then no more: it was so slow that the history has passed over it.
    Overflow,
    /// No more: the store is closing.
    Stopped,
}

/// Reads the changes of the keys that begin with its prefix.
pub struct Watcher {
    watches: Arc<Watches>,
    number: u64,
    prefix: SmolStr,
    cursor: Cursor,
}

impl Watcher {
    /// Adds the next events to `events`, which is empty: `events_max` at most, and fewer when their values are
    /// large. Waits until there is at least one.
    ///
    /// Does not return `Ready` again after anything but [`Watched::Events`] in any useful way: the
    /// watcher is to be dropped.
    pub fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        events_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Poll<Watched> {
        let mut shared = self.watches.lock();
        let shared = &mut *shared;
        if shared.ended {
            return Poll::Ready(Watched::Stopped);
        }
        match shared.watchers.get_mut(&self.number) {
            Some(Standing::Waiting { waker, .. }) => {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            Some(Standing::Woken(at)) => self.cursor.skip_to(*at),
            Some(Standing::Reading) | None => {}
        }
        let standing = match shared.history.read(&mut self.cursor, &self.prefix, events_max, events) {
            Read::Lost => return Poll::Ready(Watched::Overflow),
            Read::More => {
                if events.is_empty() {
                    // Others want the lock too.
                    cx.waker().wake_by_ref();
                }
                Standing::Reading
            }
            Read::End if events.is_empty() => {
                let place = shared.waiting.add(&self.prefix, self.number);
                Standing::Waiting { waker: cx.waker().clone(), place }
            }
            Read::End => Standing::Reading,
        };
        shared.watchers.insert(self.number, standing);
        if events.is_empty() { Poll::Pending } else { Poll::Ready(Watched::Events) }
    }

    /// What to resume after: the last event that was given, or, while nothing else happened to its keys, the
    /// newest revision.
    pub fn position(&mut self) -> EventId {
        let shared = self.watches.lock();
        if let Some(Standing::Waiting { .. }) = shared.watchers.get(&self.number) {
            shared.history.note_quiet(&mut self.cursor);
        }
        self.cursor.given()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut shared = self.watches.lock();
        let shared = &mut *shared;
        let Some(Standing::Waiting { place, .. }) = shared.watchers.remove(&self.number) else { return };
        let moved = shared.waiting.remove(&self.prefix, place);
        if let Some(moved) = moved
            && let Some(Standing::Waiting { place: of_moved, .. }) = shared.watchers.get_mut(&moved)
        {
            *of_moved = place;
        }
    }
}

#[cfg(test)]
mod tests;
