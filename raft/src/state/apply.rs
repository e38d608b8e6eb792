//! What each operation does to the state.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use crate::command::{Expect, Op, PREFIX_KEYS_MAX, Reply, Txn};
use crate::state::event::{Change, Changes};
use crate::state::{AgeList, Record, State, hash};

/// Answers whose time is up that one `Expire` forgets at most.
const ANSWERS_EXPIRED_MAX: usize = 1024;
/// Answers under idempotency keys leave with later ones; only when none come for so long after their
/// time is up is there something to expire.
const ANSWERS_OVERDUE_MS: u64 = 10_000;

impl State {
    /// Applies `op` as the entry that `changes` is at. The values that a transaction reads may have
    /// `result_bytes_max` together.
    pub(super) fn apply_op(&mut self, changes: &mut Changes, op: Op, result_bytes_max: u64) -> Reply {
        match op {
            Op::Put { key, value, content_type } => {
                Reply::Written { created: self.put(changes, key, value, &content_type, None) }
            }
            Op::PutWith { key, value, content_type, ttl_ms, only_if } => {
                if let Err(failed) = self.check(&key, &only_if) {
                    return failed;
                }
                Reply::Written { created: self.put(changes, key, value, &content_type, ttl_ms) }
            }
            Op::Delete { key } => Reply::Deleted { existed: self.remove(changes, &key, Change::Deleted) },
            Op::DeleteIf { key, only_if } => {
                if let Err(failed) = self.check(&key, &only_if) {
                    return failed;
                }
                Reply::Deleted { existed: self.remove(changes, &key, Change::Deleted) }
            }
            Op::DeletePrefix { prefix } => self.delete_prefix(changes, &prefix),
            Op::AgeAppend { name, age } => self.append_age(changes.revision(), name, age),
            Op::AgeDelete { name } => {
                let existed = self.ages.contains_key(name.as_str());
                self.forget_ages(&name);
                Reply::Deleted { existed }
            }
            Op::Txn(txn) => self.apply_txn(changes, txn, result_bytes_max),
            Op::Expire { keys_max } => self.expire(changes, keys_max),
        }
    }

    fn check(&self, key: &str, only_if: &[Expect]) -> Result<(), Reply> {
        let current = self.keys.get(key).map(|record| record.revision);
        match only_if.iter().all(|expect| expect.holds(current)) {
            true => Ok(()),
            false => Err(Reply::PreconditionFailed { current }),
        }
    }

    /// Sets a key, and says whether it is new.
    pub(super) fn put(
        &mut self,
        changes: &mut Changes,
        key: SmolStr,
        value: Bytes,
        content_type: &str,
        ttl_ms: Option<NonZeroU64>,
    ) -> bool {
        let revision = changes.revision();
        // Rounded up by the one millisecond that both clocks may have been cut short by: never early.
        let expires_at_ms = ttl_ms.map(|ttl_ms| ttl_ms.saturating_add(self.clock_ms).saturating_add(1));
        self.replace(changes, key, |old| Record {
            value,
            content_type: super::content_type(content_type, old.map(|old| &old.content_type)),
            revision,
            created_revision: old.map_or(revision, |old| old.created_revision),
            expires_at_ms,
            hash: 0,
        })
    }

    /// Puts what `new` makes of what `key` had in its place, and says whether it had nothing.
    pub(super) fn replace(
        &mut self,
        changes: &mut Changes,
        key: SmolStr,
        new: impl FnOnce(Option<&Record>) -> Record,
    ) -> bool {
        let new = |old: Option<&Record>| {
            let mut new = new(old);
            new.hash = hash::of_record(&key, &new);
            Arc::new(new)
        };
        // One walk through nodes that are in no cache, when the key is there.
        let (record, old) = match self.keys.get_mut(key.as_str()) {
            Some(place) => {
                let record = new(Some(place));
                let old = std::mem::replace(place, Arc::clone(&record));
                (record, Some(old))
            }
            None => {
                let record = new(None);
                self.keys.insert(key.clone(), Arc::clone(&record));
                (record, None)
            }
        };
        // The old one first: it may end at the same time, and take the entry of the new one with it.
        if let Some(old) = &old {
            self.uncount(&key, old);
        }
        self.count(&key, &record);
        self.unsaved.note_key(&key, old.as_deref());
        let created = old.is_none();
        changes.note(key, Change::Put { record, created });
        created
    }

    /// Removes `key`, for which `change` is the reason, and says whether it was there.
    pub(super) fn remove(&mut self, changes: &mut Changes, key: &str, change: Change) -> bool {
        let Some((key, old)) = self.keys.remove_with_key(key) else { return false };
        self.uncount(&key, &old);
        self.unsaved.note_key(&key, Some(&old));
        changes.note(key, change);
        true
    }

    /// Notes what follows from a key that comes.
    pub(super) fn count(&mut self, key: &str, record: &Record) {
        self.data_bytes += record_bytes(key, record);
        self.hash = self.hash.wrapping_add(record.hash);
        if let Some(expires_at_ms) = record.expires_at_ms {
            self.expiries.insert((expires_at_ms, key.into()));
        }
    }

    /// Takes back what [`State::count`] did.
    fn uncount(&mut self, key: &str, record: &Record) {
        self.data_bytes -= record_bytes(key, record);
        self.hash = self.hash.wrapping_sub(record.hash);
        if let Some(expires_at_ms) = record.expires_at_ms {
            self.expiries.remove(&(expires_at_ms, SmolStr::from(key)));
        }
    }

    fn delete_prefix(&mut self, changes: &mut Changes, prefix: &str) -> Reply {
        let keys: Vec<SmolStr> =
            self.with_prefix(prefix).take(PREFIX_KEYS_MAX + 1).map(|(key, _)| key.clone()).collect();
        if keys.len() > PREFIX_KEYS_MAX {
            return Reply::PrefixTooLarge { keys_max: PREFIX_KEYS_MAX as u64 };
        }
        for key in &keys {
            self.remove(changes, key, Change::Deleted);
        }
        Reply::PrefixDeleted { keys: keys.len() as u64 }
    }

    fn append_age(&mut self, revision: u64, name: String, age: u8) -> Reply {
        self.data_bytes += 1;
        if let Some(list) = self.ages.get_mut(name.as_str()) {
            let of_name = hash::of_name(&name, list.created_revision());
            self.hash = self.hash.wrapping_add(hash::of_age(of_name, list.len(), age));
            self.unsaved.note_ages(&name, Some(list));
            list.push(age, revision);
            return Reply::Written { created: false };
        }
        self.data_bytes += name.len() as u64;
        self.hash = self.hash.wrapping_add(hash::of_age(hash::of_name(&name, revision), 0, age));
        self.unsaved.note_ages(&name, None);
        self.ages.insert(name.into(), AgeList::new(age, revision));
        Reply::Written { created: true }
    }

    /// Removes keys whose time is up by the cluster's clock, the longest overdue first.
    fn expire(&mut self, changes: &mut Changes, keys_max: u32) -> Reply {
        let keys: Vec<SmolStr> =
            self.due(self.clock_ms).take(keys_max as usize).map(|(_, key)| key.clone()).collect();
        for key in &keys {
            self.remove(changes, key, Change::Expired);
        }
        self.forget_answers(ANSWERS_EXPIRED_MAX);
        Reply::Expired { keys: keys.len() as u64 }
    }

    /// The keys whose time is up at `clock_ms`, the longest overdue first.
    pub(crate) fn due(&self, clock_ms: u64) -> impl Iterator<Item = &(NonZeroU64, SmolStr)> {
        self.expiries.iter().take_while(move |(expires_at_ms, _)| expires_at_ms.get() <= clock_ms)
    }

    /// When there will be something for [`Op::Expire`] to do, in the time of [`State::clock_ms`];
    /// `u64::MAX` while there is nothing that ends.
    pub(crate) fn due_ms(&self) -> u64 {
        let key = self.expiries.get_min().map(|(expires_at_ms, _)| expires_at_ms.get());
        let answer = self.answers.oldest_expires_at_ms().map(|at| at.saturating_add(ANSWERS_OVERDUE_MS));
        key.into_iter().chain(answer).min().unwrap_or(u64::MAX)
    }

    /// Bytes by which `op` would change [`State::data_bytes`]; an estimate for a transaction.
    pub(crate) fn growth_bytes(&self, op: &Op) -> i64 {
        match op {
            Op::Put { key, value, content_type } | Op::PutWith { key, value, content_type, .. } => {
                self.growth_of_put(key, value.len(), content_type)
            }
            Op::AgeAppend { name, .. } if self.ages.contains_key(name.as_str()) => 1,
            Op::AgeAppend { name, .. } => signed(name.len() + 1),
            Op::Txn(txn) => self.growth_of_txn(txn),
            Op::Delete { .. }
            | Op::DeleteIf { .. }
            | Op::DeletePrefix { .. }
            | Op::AgeDelete { .. }
            | Op::Expire { .. } => 0,
        }
    }

    pub(super) fn growth_of_put(&self, key: &str, value_bytes: usize, content_type: &str) -> i64 {
        let old = self.keys.get(key).map_or(0, |old| record_bytes(key, old));
        signed(key.len() + value_bytes + content_type.len()) - i64::try_from(old).unwrap_or(i64::MAX)
    }

    fn growth_of_txn(&self, txn: &Txn) -> i64 {
        let ops = if self.conditions_hold(txn) { &txn.then } else { &txn.or_else };
        ops.iter().map(|op| self.growth_of_txn_op(op)).sum()
    }
}

/// What a key counts towards the data limit.
fn record_bytes(key: &str, record: &Record) -> u64 {
    (key.len() + record.value.len() + record.content_type.len()) as u64
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
