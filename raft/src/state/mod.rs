//! The replicated state: what the log's entries, applied in order, amount to.
//!
//! **Idea.** [`State`] is a set of immutable ordered maps. The state machine changes its own copy
//! and publishes clones of it, after every applied batch as long as there are reads; a clone shares
//! all nodes and costs a handful of reference counts. Whoever reads takes the published [`View`] and
//! from then on sees one frozen revision: a read, a scan, a snapshot and a checkpoint are the same
//! thing.
//!
//! **Where it rests.** [`checkpoint`] writes what changed since the last checkpoint to sled as one
//! batch; [`snapshot`] is the same content as a stream for a follower. Start is: load sled, replay
//! the log behind it.
//!
//! **Invariants.**
//! - Applying is deterministic: no clock, no randomness, no I/O result decides state (invariant 3).
//! - A view that is taken includes every entry whose reply was sent before, so that an acknowledged
//!   write is visible on this node to whoever reads after it.
//! - openraft hears of a checkpoint only after it is durable, and purges only behind it
//!   (invariant 4).

mod ages;
pub(crate) mod checkpoint;
mod frames;
mod generation;
mod hash;
mod journal;
mod machine;
pub(crate) mod rows;
pub(crate) mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use openraft::EntryPayload;
use smol_str::SmolStr;

pub use self::ages::AgeList;
pub(crate) use self::machine::Published;
pub use self::machine::StateMachine;
pub use self::snapshot::SnapshotData;
use crate::codec::CodecError;
use crate::command::{Op, Reply};
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
}

/// The whole replicated state at one log index.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Keys in byte order. Up to 23 bytes of a key lie in the map's nodes themselves: comparing them
    /// follows no pointer, and copying a node counts no references for them.
    pub keys: OrdMap<SmolStr, Arc<Record>>,
    /// Names in byte order, and their ages in insertion order.
    pub ages: OrdMap<SmolStr, AgeList>,
    /// Bytes of keys, values, content types, names and ages: what `storage.data_bytes_max` bounds.
    pub data_bytes: u64,
    /// A hash of all keys and ages; equal on every replica at the same log index.
    pub hash: u64,
    /// The leader's clock of the newest command, in milliseconds since the Unix epoch; never goes
    /// back, whatever the leaders' clocks do.
    pub clock_ms: u64,
    /// The last entry applied.
    pub last_applied: Option<LogId>,
    /// The last membership applied.
    pub membership: Arc<StoredMembership>,
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

    /// Applies one entry and says what it answers.
    ///
    /// # Errors
    /// A command that cannot be decoded. The node must stop then: skipping it would let the
    /// replicas drift apart.
    pub(crate) fn apply(&mut self, entry: Entry) -> Result<Reply, CodecError> {
        let log_id = entry.log_id;
        let reply = match entry.payload {
            EntryPayload::Blank => Reply::Nothing,
            EntryPayload::Membership(membership) => {
                self.membership = Arc::new(StoredMembership::new(Some(log_id), membership));
                Reply::Nothing
            }
            EntryPayload::Normal(command) => {
                let (clock_ms, op) = command.decode()?;
                self.clock_ms = self.clock_ms.max(clock_ms);
                self.apply_op(log_id.index, op)
            }
        };
        self.last_applied = Some(log_id);
        Ok(reply)
    }

    fn apply_op(&mut self, revision: u64, op: Op) -> Reply {
        match op {
            Op::Put { key, value, content_type } => {
                let old = self.keys.get(key.as_str());
                let created = old.is_none();
                let created_revision = old.map_or(revision, |old| old.created_revision);
                let content_type = self::content_type(&content_type, old.map(|old| &old.content_type));
                // Its own bytes: a part of the command would keep the whole command in memory, and with
                // it every command of the frame that it came in.
                let value = Bytes::copy_from_slice(&value);
                let new = Record { value, content_type, revision, created_revision };
                self.data_bytes += record_bytes(&key, &new);
                self.hash = self.hash.wrapping_add(hash::of_record(&key, &new));
                if let Some(old) = self.keys.insert(key.as_str().into(), Arc::new(new)) {
                    self.data_bytes -= record_bytes(&key, &old);
                    self.hash = self.hash.wrapping_sub(hash::of_record(&key, &old));
                }
                Reply::Written { created }
            }
            Op::Delete { key } => {
                let old = self.keys.remove(key.as_str());
                if let Some(old) = &old {
                    self.data_bytes -= record_bytes(&key, old);
                    self.hash = self.hash.wrapping_sub(hash::of_record(&key, old));
                }
                Reply::Deleted { existed: old.is_some() }
            }
            Op::AgeAppend { name, age } => {
                self.data_bytes += 1;
                if let Some(list) = self.ages.get_mut(name.as_str()) {
                    let of_name = hash::of_name(&name, list.created_revision());
                    self.hash = self.hash.wrapping_add(hash::of_age(of_name, list.len(), age));
                    list.push(age, revision);
                    return Reply::Written { created: false };
                }
                self.data_bytes += name.len() as u64;
                self.hash = self.hash.wrapping_add(hash::of_age(hash::of_name(&name, revision), 0, age));
                self.ages.insert(name.into(), AgeList::new(age, revision));
                Reply::Written { created: true }
            }
            Op::AgeDelete { name } => {
                let existed = self.ages.contains_key(name.as_str());
                self.forget_ages(&name);
                Reply::Deleted { existed }
            }
        }
    }

    /// Bytes by which `op` would change [`State::data_bytes`].
    pub(crate) fn growth_bytes(&self, op: &Op) -> i64 {
        let bytes = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        match op {
            Op::Put { key, value, content_type } => {
                let old = self.keys.get(key.as_str()).map_or(0, |old| record_bytes(key, old));
                bytes(key.len() + value.len() + content_type.len()) - i64::try_from(old).unwrap_or(i64::MAX)
            }
            Op::AgeAppend { name, .. } if self.ages.contains_key(name.as_str()) => 1,
            Op::AgeAppend { name, .. } => bytes(name.len() + 1),
            Op::Delete { .. } | Op::AgeDelete { .. } => 0,
        }
    }

    /// Puts back a key that was read from disk.
    pub(crate) fn restore_key(&mut self, key: SmolStr, record: Record) {
        self.data_bytes += record_bytes(&key, &record);
        self.hash = self.hash.wrapping_add(hash::of_record(&key, &record));
        self.keys.insert(key, Arc::new(record));
    }

    /// Takes back what [`State::restore_ages`] did.
    pub(crate) fn forget_ages(&mut self, name: &str) {
        if let Some(old) = self.ages.remove(name) {
            self.data_bytes -= (name.len() + old.len()) as u64;
            self.hash = self.hash.wrapping_sub(hash::of_list(name, &old));
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

/// What a key counts towards the data limit.
fn record_bytes(key: &str, record: &Record) -> u64 {
    (key.len() + record.value.len() + record.content_type.len()) as u64
}

#[cfg(test)]
pub(crate) mod tests;
