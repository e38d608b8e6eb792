//! The newest changes of keys, for watchers: a bounded list that all of them read at their own pace.
//!
//! It follows from the log alone, so every node that has applied an entry holds the same events under the
//! same ids; only how far back it goes differs. Values are shared with the state. It begins with what was
//! applied since the node started or installed a snapshot.
//!
//! **Invariants.**
//! - Of a revision that is behind `floor` every event is here, and of the others none is: entries leave
//!   as a whole.
//! - The newest entry stays whatever its size, so that whoever keeps up misses nothing. What bounds the
//!   list is thus the larger of its limits and one entry: at most [`PREFIX_KEYS_MAX`] keys without values.
//!
//! [`PREFIX_KEYS_MAX`]: crate::command::PREFIX_KEYS_MAX

use std::collections::VecDeque;

use smol_str::SmolStr;

use crate::state::Record;
use crate::state::event::{Change, Changed, Event, EventId};

/// Events that are looked at in one go, under the lock: some 20 µs.
const SCAN_EVENTS: usize = 1024;
/// A watcher is given no more at once when the values of what it was given have so many bytes: until it
/// has passed them on they stay in memory, also when the history has let go of them.
const GIVEN_BYTES: usize = 64 * 1024;

/// How much of the past is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryLimits {
    /// Events.
    pub(crate) events_max: usize,
    /// Bytes of them, as if no value were shared with the state.
    pub(crate) bytes_max: u64,
}

/// An event as it is kept.
#[derive(Debug, Clone)]
struct Kept {
    revision: u64,
    /// Which event of its revision it is, from 1.
    position: u32,
    key: SmolStr,
    change: Change,
}

impl Kept {
    fn id(&self) -> EventId {
        EventId::within(self.revision, self.position)
    }

    /// For a watcher that gets further events of the same revision.
    fn into_one_of_more(self) -> Event {
        Event { id: self.id(), key: self.key, change: self.change }
    }

    /// For a watcher that gets no further event of the same revision.
    fn into_last(self) -> Event {
        Event { id: EventId::whole(self.revision), key: self.key, change: self.change }
    }

    /// What it counts towards [`HistoryLimits::bytes_max`].
    fn bytes(&self) -> u64 {
        bytes(&self.key, &self.change)
    }
}

fn bytes(key: &str, change: &Change) -> u64 {
    let value = match change {
        Change::Put { record, .. } => size_of::<Record>() + record.value.len() + record.content_type.len(),
        Change::Deleted | Change::Expired => 0,
    };
    (size_of::<Kept>() + key.len() + value) as u64
}

/// The newest changes of keys.
///
/// Events are counted from the start on; `first` is the number of the oldest that is here. Numbers are
/// this node's own, ids are the cluster's.
#[derive(Debug)]
pub(super) struct History {
    limits: HistoryLimits,
    events: VecDeque<Kept>,
    bytes: u64,
    first: u64,
    /// The newest revision of which something has left, or with which this began: the oldest that can be
    /// resumed after.
    floor: u64,
    /// Log index up to which this is complete.
    revision: u64,
}

/// How far a watcher has read.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The number of the next event to look at.
    next: u64,
    /// What the watcher was given so far: everything up to here that concerns it.
    given: EventId,
    /// An event that concerns it and is not given yet: whether it is the last of its revision decides
    /// its id.
    held: Option<Kept>,
    /// Bytes of the values that are given at once.
    given_bytes: usize,
}

impl Cursor {
    /// What the watcher was given so far.
    pub(super) fn given(&self) -> EventId {
        self.given
    }

    /// Nothing up to event `number` concerns the watcher.
    pub(super) fn skip_to(&mut self, number: u64) {
        debug_assert!(self.held.is_none(), "a watcher that waits has been given everything");
        self.next = self.next.max(number);
    }

    fn give(&mut self, event: Event, events: &mut VecDeque<Event>) {
        self.given = event.id;
        if let Change::Put { record, .. } = &event.change {
            self.given_bytes += record.value.len();
        }
        events.push_back(event);
    }
}

/// Where reading ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// At the end: the watcher has all there is.
    End,
    /// Before it.
    More,
    /// Something that the watcher was not given is not here any more.
    Lost,
}

impl History {
    /// Begins behind log index `revision`.
    pub(super) fn new(limits: HistoryLimits, revision: u64) -> Self {
        Self { limits, events: VecDeque::new(), bytes: 0, first: 0, floor: revision, revision }
    }

    /// The number that the next event will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Begins anew behind log index `revision`; whoever reads has lost something.
    pub(super) fn restart(&mut self, revision: u64) {
        // A number that nobody has yet, so that also those who have read everything notice.
        self.first = self.end() + 1;
        self.events = VecDeque::new();
        (self.bytes, self.floor, self.revision) = (0, revision, revision);
    }

    /// Adds the changes of one entry or of several, in their order; `revision` is the last one's.
    pub(super) fn record(&mut self, revision: u64, changes: impl IntoIterator<Item = Changed>) {
        for Changed { revision, key, change } in changes {
            debug_assert!(revision > self.floor, "{revision} is not behind {}", self.floor);
            let position = match self.events.back() {
                Some(newest) if newest.revision == revision => newest.position + 1,
                _ => 1,
            };
            self.make_room(revision, bytes(&key, &change));
            self.bytes += bytes(&key, &change);
            self.events.push_back(Kept { revision, position, key, change });
        }
        self.revision = revision;
    }

    /// Removes the oldest entries until there is room for one more event of `newest`, and never that entry.
    fn make_room(&mut self, newest: u64, bytes: u64) {
        let HistoryLimits { events_max, bytes_max } = self.limits;
        while self.events.len() >= events_max || self.bytes + bytes > bytes_max {
            let Some(oldest) = self.events.front().map(|event| event.revision) else { return };
            if oldest == newest {
                return;
            }
            while let Some(event) = self.events.pop_front_if(|event| event.revision == oldest) {
                self.first += 1;
                self.bytes -= event.bytes();
            }
            self.floor = oldest;
        }
    }

    /// The place behind `after`, or the oldest revision that can be resumed after.
    pub(super) fn cursor(&self, after: EventId) -> Result<Cursor, u64> {
        if after.whole_revision() < self.floor {
            return Err(self.floor);
        }
        let before = self.events.partition_point(|event| event.id() <= after);
        Ok(Cursor { next: self.first + before as u64, given: after, held: None, given_bytes: 0 })
    }

    /// Gives the next events whose keys begin with `prefix`, until there are `events_max`; perhaps fewer.
    /// `events` has none before.
    pub(super) fn read(
        &self,
        cursor: &mut Cursor,
        prefix: &str,
        events_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Read {
        cursor.given_bytes = 0;
        let Some(start) = cursor.next.checked_sub(self.first) else {
            // Whether it was the last of its revision is not known any more: this id is right in any case.
            if let Some(held) = cursor.held.take() {
                cursor.give(held.into_one_of_more(), events);
            }
            return Read::Lost;
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(self.events.len());
        for event in self.events.range(start..).take(SCAN_EVENTS) {
            if events.len() >= events_max || cursor.given_bytes >= GIVEN_BYTES {
                return Read::More;
            }
            cursor.next += 1;
            if let Some(held) = cursor.held.take_if(|held| held.revision != event.revision) {
                cursor.give(held.into_last(), events);
            }
            // What was given may be ahead of what is here, for a moment: see `Watches::record`.
            if !event.key.starts_with(prefix) || event.id() <= cursor.given {
                continue;
            }
            if let Some(held) = cursor.held.replace(event.clone()) {
                cursor.give(held.into_one_of_more(), events);
            }
        }
        if cursor.next < self.end() || events.len() >= events_max || cursor.given_bytes >= GIVEN_BYTES {
            return Read::More;
        }
        // Entries come here whole.
        if let Some(held) = cursor.held.take() {
            cursor.give(held.into_last(), events);
        }
        Read::End
    }

    /// Nothing from what the watcher was given up to the end of the history concerns it.
    pub(super) fn note_quiet(&self, cursor: &mut Cursor) {
        cursor.given = cursor.given.max(EventId::whole(self.revision));
    }
}

#[cfg(test)]
mod tests;
