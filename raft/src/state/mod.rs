//! The replicated state: what the log's entries, applied in order, amount to.
//!
//! **Idea.** [`State`] is a set of immutable ordered maps. The state machine changes its own copy
//! and publishes clones of it, after every applied batch as long as there are reads; a clone shares
//! all nodes and costs a handful of reference counts. Whoever reads takes the published [`View`] and
//! from then on sees one frozen revision: a read, a scan, a snapshot and a checkpoint are the same
//! thing.
//!
//! **Who watches.** What an entry changes goes, once every view includes it, into the [`history`], a bounded
//! list of the newest changes from which [`watch`] serves all watchers.
//!
//! **Where it rests.** [`checkpoint`] writes what changed since the last checkpoint ([`unsaved`]) to sled,
//! all of it or nothing; [`snapshot`] is the same content as a stream for a follower. Start is: load sled, replay
//! the log behind it.
//!
//! **Invariants.**
//! - Applying is deterministic: no clock, no randomness, no I/O result decides state (invariant 3).
//! - A view that is taken includes every entry whose reply was sent before, so that an acknowledged
//!   write is visible on this node to whoever reads after it.
//! - openraft hears of a checkpoint only after it is durable, and purges only behind it
//!   (invariant 4).

mod ages;
mod apply;
mod ascending;
pub(crate) mod checkpoint;
mod event;
mod frames;
mod generation;
mod hash;
pub(crate) mod history;
mod idempotency;
mod journal;
mod loading;
mod machine;
mod pace;
pub(crate) mod rows;
mod scan;
pub(crate) mod snapshot;
mod txn;
mod unsaved;
mod watch;

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use openraft::EntryPayload;
use smol_str::SmolStr;

pub use self::ages::AgeList;
use self::ascending::Ascending;
pub use self::event::{Change, Event, EventId};
pub(crate) use self::idempotency::{Remembered, RememberedAnswers};
pub(crate) use self::machine::Published;
pub use self::machine::StateMachine;
pub use self::snapshot::SnapshotData;
pub(crate) use self::unsaved::Frozen;
use self::unsaved::Unsaved;
pub(crate) use self::watch::Watches;
pub use self::watch::{Watched, Watcher};
use crate::codec::CodecError;
use crate::command::{Applied, Reply};
use crate::state::event::Changes;
use crate::types::{Entry, LogId, SnapshotMeta, StoredMembership};

/// A frozen state; cheap to clone, safe to keep.
pub type View = Arc<State>;

/// The value of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The bytes that were put.
    pub value: Bytes,
    /// The media type that was put; empty when none was given.
    pub content_type: Arc<str>,
    /// Log index of the entry that last wrote the key.
    pub revision: u64,
    /// Log index of the entry that created the key.
    pub created_revision: u64,
    /// When the key goes away by itself, by [`State::clock_ms`]; never when there is none.
    pub expires_at_ms: Option<NonZeroU64>,
    /// Its part of [`State::hash`], filled in when a state takes it: an overwritten value need not be read again.
    pub(crate) hash: u64,
}

impl Record {
    /// The value, for an answer: a small one is copied. The first clone of a value leaves 32 bytes of counters
    /// behind, which stay as long as the value does: 30 MiB for a million keys that were read once.
    pub fn to_value(&self) -> Bytes {
        const COPIED_BYTES_MAX: usize = 4096;
        match self.value.len() {
            ..=COPIED_BYTES_MAX => Bytes::copy_from_slice(&self.value),
            _ => self.value.clone(),
        }
    }
}

/// The whole replicated state at one log index.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Keys in byte order. Up to 23 bytes of a key lie in the map's nodes themselves: comparing them
    /// follows no pointer, and copying a node counts no references for them.
    pub keys: OrdMap<SmolStr, Arc<Record>>,
    /// Names in byte order, and their ages in insertion order.
    pub ages: OrdMap<SmolStr, AgeList>,
    /// The keys that have a time to live, by the end of it. Follows from `keys`.
    pub(crate) expiries: OrdSet<(NonZeroU64, SmolStr)>,
    /// What was answered under idempotency keys.
    pub(crate) answers: RememberedAnswers,
    /// Bytes of keys, values, content types, names and ages: what `storage.data_bytes_max` bounds.
    pub data_bytes: u64,
    /// A hash of all keys, ages and remembered answers; equal on every replica at the same log index.
    pub hash: u64,
    /// The leader's clock of the newest command, in milliseconds since the Unix epoch; never goes
    /// back, whatever the leaders' clocks do.
    pub clock_ms: u64,
    /// The last entry applied.
    pub last_applied: Option<LogId>,
    /// The last membership applied.
    pub membership: Arc<StoredMembership>,
    /// What the next checkpoint has to write; nothing in a view.
    unsaved: Unsaved,
}

impl State {
    /// The store's revision: the log index of the last entry applied, 0 before the first.
    pub fn revision(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index)
    }

    /// What a snapshot of this state covers.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: (*self.membership).clone() }
    }

    /// Applies one entry, adds to `changes` what became of which key, and says what it answers.
    ///
    /// # Errors
    /// A command that cannot be decoded. The node must stop then: skipping it would let the
    /// replicas drift apart.
    pub(crate) fn apply(&mut self, entry: Entry, changes: &mut Changes) -> Result<Applied, CodecError> {
        let log_id = entry.log_id;
        changes.begin(log_id.index);
        let applied = match entry.payload {
            EntryPayload::Blank => Reply::Nothing.into(),
            EntryPayload::Membership(membership) => {
                self.membership = Arc::new(StoredMembership::new(Some(log_id), membership));
                Reply::Nothing.into()
            }
            EntryPayload::Normal(command) => {
                let command = command.decode()?;
                self.clock_ms = self.clock_ms.max(command.clock_ms);
                match &command.once {
                    None => self.apply_op(changes, command.op, txn::RESULT_BYTES_MAX).into(),
                    Some(once) => self.apply_once(changes, once, command.op),
                }
            }
        };
        self.last_applied = Some(log_id);
        self.unsaved.bound(self.keys.len() + self.ages.len() + self.answers.by_key.len());
        Ok(applied)
    }

    /// A state to apply entries to that is `view` so far, all of which is at rest.
    pub(crate) fn thawed(view: &Self) -> Self {
        Self { unsaved: Unsaved::since(view.last_applied), ..view.clone() }
    }

    /// A view of it for a checkpoint, with what that has to write. The next one writes only what is
    /// changed from here on.
    pub(crate) fn freeze(&mut self) -> Frozen {
        let unsaved = std::mem::replace(&mut self.unsaved, Unsaved::since(self.last_applied));
        Frozen::new(Arc::new(self.clone()), unsaved)
    }

    /// Puts back a key that was read from disk, at the latest when `keys` is finished.
    fn restore_key(&mut self, keys: &mut Ascending<SmolStr, Arc<Record>>, key: SmolStr, mut record: Record) {
        record.hash = hash::of_record(&key, &record);
        self.count(&key, &record);
        keys.insert(&mut self.keys, key, Arc::new(record));
    }

    /// Takes back what [`State::restore_ages`] did.
    pub(crate) fn forget_ages(&mut self, name: &str) {
        if let Some(old) = self.ages.remove(name) {
            self.data_bytes -= (name.len() + old.len()) as u64;
            self.hash = self.hash.wrapping_sub(hash::of_list(name, &old));
            self.unsaved.note_ages(name, Some(&old));
        }
    }

    /// Puts back a list of ages that was read from disk.
    pub(crate) fn restore_ages(&mut self, name: SmolStr, list: AgeList) {
        self.data_bytes += (name.len() + list.len()) as u64;
        self.hash = self.hash.wrapping_add(hash::of_list(&name, &list));
        self.ages.insert(name, list);
    }
}

/// The media type, shared with `old` when it is the same: nearly every value has that of the one before.
fn content_type(new: &str, old: Option<&Arc<str>>) -> Arc<str> {
    match old {
        Some(old) if **old == *new => Arc::clone(old),
        // The default takes no memory.
        _ if new.is_empty() => Arc::default(),
        _ => new.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
