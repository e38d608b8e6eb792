//! Transactions: conditions that choose a branch, and its operations, all or none.

use std::sync::Arc;

use bytes::Bytes;

use crate::command::{Condition, Got, Reply, Test, Txn, TxnOp, TxnRefusal, TxnReply, TxnResult};
use crate::state::event::{Change, Changes};
use crate::state::{Record, State};

/// Bytes of all values that one transaction reads. Part of what applying means: it may only be
/// changed together with a format.
pub(super) const RESULT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The longest decimal integer of 64 bits, with its sign.
const INTEGER_BYTES_MAX: usize = 20;
/// The media type of a counter that an addition created.
const COUNTER_CONTENT_TYPE: &str = "text/plain";

impl State {
    /// Applies one branch of `txn`, or nothing.
    pub(super) fn apply_txn(&mut self, changes: &mut Changes, txn: Txn, result_bytes_max: u64) -> Reply {
        let succeeded = self.conditions_hold(&txn);
        let ops = if succeeded { txn.then } else { txn.or_else };
        // Frozen, as a view is: costs nothing but copies of what changes.
        let (before, changes_before) = (self.clone(), changes.list.len());
        let mut results = Vec::with_capacity(ops.len());
        let mut read_bytes = 0;
        for (operation, op) in (0..).zip(ops) {
            let result = self.apply_txn_op(changes, op);
            if let Ok(TxnResult::Got(Some(got))) = &result {
                read_bytes += got.value.len() as u64;
            }
            let too_large = TxnRefusal::ResultTooLarge { bytes_max: result_bytes_max };
            match result {
                Ok(result) if read_bytes <= result_bytes_max => results.push(result),
                refused => {
                    // What it touched stays noted: more than has to be written is no harm.
                    *self = Self { unsaved: std::mem::take(&mut self.unsaved), ..before };
                    changes.list.truncate(changes_before);
                    let reason = refused.err().unwrap_or(too_large);
                    return Reply::TxnRefused { succeeded, operation, reason };
                }
            }
        }
        Reply::Txn(Box::new(TxnReply { succeeded, results }))
    }

    /// Whether every condition of `txn` holds.
    pub(super) fn conditions_hold(&self, txn: &Txn) -> bool {
        txn.conditions.iter().all(|Condition { key, test }| {
            let record = self.keys.get(key.as_str());
            match test {
                Test::Expect(expect) => expect.holds(record.map(|record| record.revision)),
                Test::Value(value) => record.is_some_and(|record| record.value == value),
            }
        })
    }

    fn apply_txn_op(&mut self, changes: &mut Changes, op: TxnOp) -> Result<TxnResult, TxnRefusal> {
        Ok(match op {
            TxnOp::Put { key, value, content_type, ttl_ms } => {
                TxnResult::Put { created: self.put(changes, key.into(), value, &content_type, ttl_ms) }
            }
            TxnOp::Delete { key } => {
                TxnResult::Deleted { existed: self.remove(changes, &key, Change::Deleted) }
            }
            TxnOp::Get { key } => TxnResult::Got(self.keys.get(key.as_str()).map(|record| Got {
                value: record.to_value(),
                content_type: record.content_type.to_string(),
                revision: record.revision,
                created_revision: record.created_revision,
                expires_in_ms: record.expires_at_ms.map(|at| at.get().saturating_sub(self.clock_ms)),
            })),
            TxnOp::Add { key, by } => TxnResult::Added(self.add(changes, &key, by)?),
        })
    }

    fn add(&mut self, changes: &mut Changes, key: &str, by: i64) -> Result<i64, TxnRefusal> {
        let revision = changes.revision();
        let number = match self.keys.get(key) {
            Some(old) => integer(&old.value).ok_or(TxnRefusal::NotAnInteger)?,
            None => 0,
        };
        let sum = number.checked_add(by).ok_or(TxnRefusal::Overflow)?;
        let value = Bytes::from(sum.to_string());
        self.replace(changes, key.into(), |old| Record {
            value,
            content_type: old
                .map_or_else(|| Arc::from(COUNTER_CONTENT_TYPE), |old| Arc::clone(&old.content_type)),
            revision,
            created_revision: old.map_or(revision, |old| old.created_revision),
            expires_at_ms: old.and_then(|old| old.expires_at_ms),
            hash: 0,
        });
        Ok(sum)
    }

    /// At most this much more; what the operations before it do is not looked at.
    pub(super) fn growth_of_txn_op(&self, op: &TxnOp) -> i64 {
        match op {
            TxnOp::Put { key, value, content_type, .. } => self.growth_of_put(key, value.len(), content_type),
            TxnOp::Add { key, .. } if self.keys.contains_key(key.as_str()) => 0,
            TxnOp::Add { key, .. } => self.growth_of_put(key, INTEGER_BYTES_MAX, COUNTER_CONTENT_TYPE),
            TxnOp::Delete { .. } | TxnOp::Get { .. } => 0,
        }
    }
}

fn integer(value: &[u8]) -> Option<i64> {
    if value.len() > INTEGER_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
