//! What was answered under idempotency keys, so that a write which is sent again is not applied again.
//!
//! The table is a part of the replicated state: it is in checkpoints and snapshots, and what is kept
//! follows from the commands alone. A command carries for how long its answer is kept and how many
//! answers may be kept, because settings can differ between nodes. Answers leave in the order in which
//! they came, when their time is up or when there are too many.
//!
//! An answer takes about 230 bytes of memory with a key of 36 bytes, and what a transaction read.

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::SmolStr;

use crate::command::{Applied, Once, Op, Reply, TxnResult};
use crate::state::event::Changes;
use crate::state::{State, hash};

/// Answers that one command forgets at most, so that no command takes long; more than the one that it
/// adds, so that a table which became too large shrinks.
const FORGOTTEN_MAX: usize = 64;
/// Bytes of all values that a transaction with an idempotency key reads: they are kept.
const RESULT_BYTES_MAX: u64 = 16 * 1024;
/// The average of those bytes over as many answers as may be kept; beyond it the oldest leave.
const RESULT_BYTES_AVERAGE: u64 = 256;

/// The answer to a write with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// A hash of the operation.
    pub(crate) fingerprint: u128,
    /// Log index of the entry.
    pub(crate) revision: u64,
    /// When it is forgotten, by [`State::clock_ms`].
    pub(crate) expires_at_ms: u64,
    /// What it answered.
    pub(crate) reply: Reply,
}

/// Answers by idempotency key and in the order of their entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct RememberedAnswers {
    pub(crate) by_key: OrdMap<SmolStr, Arc<Remembered>>,
    by_revision: OrdMap<u64, SmolStr>,
    /// Bytes of the values that are kept.
    result_bytes: u64,
}

impl RememberedAnswers {
    /// Whether an answer is kept under `key` at `clock_ms`.
    pub(crate) fn knows(&self, key: &str, clock_ms: u64) -> bool {
        self.by_key.get(key).is_some_and(|answer| answer.expires_at_ms > clock_ms)
    }

    /// When the oldest answer's time is up.
    pub(crate) fn oldest_expires_at_ms(&self) -> Option<u64> {
        let (_, key) = self.by_revision.get_min()?;
        self.by_key.get(key).map(|answer| answer.expires_at_ms)
    }

    /// Whether the oldest has to leave. Never the only one: that is the newest.
    fn is_beyond(&self, keys_max: u64) -> bool {
        let answers = self.by_key.len() as u64;
        let result_bytes_max = keys_max.saturating_mul(RESULT_BYTES_AVERAGE);
        answers > 1 && (answers > keys_max || self.result_bytes > result_bytes_max)
    }
}

impl State {
    /// Applies `op` unless an answer to it is known.
    pub(super) fn apply_once(&mut self, changes: &mut Changes, once: &Once, op: Op) -> Applied {
        if let Some(known) = self.answers.by_key.get(once.key.as_str())
            && known.expires_at_ms > self.clock_ms
        {
            return match known.fingerprint == once.fingerprint {
                true => Applied { reply: known.reply.clone(), replay_of: Some(known.revision) },
                false => Reply::KeyReused.into(),
            };
        }
        let revision = changes.revision();
        let reply = self.apply_op(changes, op, RESULT_BYTES_MAX);
        let key = SmolStr::from(once.key.as_str());
        self.forget_answer(&key);
        let answer = Remembered {
            fingerprint: once.fingerprint,
            revision,
            expires_at_ms: self.clock_ms.saturating_add(once.window_ms),
            reply: reply.clone(),
        };
        self.unsaved.note_answer(&key, None);
        self.restore_answer(key, answer);
        for _ in 0..FORGOTTEN_MAX {
            if !self.answers.is_beyond(once.keys_max) && !self.oldest_answer_is_due() {
                break;
            }
            self.forget_oldest_answer();
        }
        reply.into()
    }

    /// Forgets answers whose time is up, at most this many.
    pub(super) fn forget_answers(&mut self, answers_max: usize) {
        for _ in 0..answers_max {
            if !self.oldest_answer_is_due() {
                break;
            }
            self.forget_oldest_answer();
        }
    }

    /// Puts back an answer, also one that was read from disk.
    pub(crate) fn restore_answer(&mut self, key: SmolStr, answer: Remembered) {
        self.hash = self.hash.wrapping_add(hash::of_answer(&key, &answer));
        self.answers.result_bytes += result_bytes(&answer.reply);
        self.answers.by_revision.insert(answer.revision, key.clone());
        self.answers.by_key.insert(key, Arc::new(answer));
    }

    fn oldest_answer_is_due(&self) -> bool {
        self.answers.oldest_expires_at_ms().is_some_and(|expires_at_ms| expires_at_ms <= self.clock_ms)
    }

    fn forget_oldest_answer(&mut self) {
        if let Some((_, key)) = self.answers.by_revision.get_min() {
            let key = key.clone();
            self.forget_answer(&key);
        }
    }

    fn forget_answer(&mut self, key: &SmolStr) {
        if let Some(answer) = self.answers.by_key.remove(key) {
            self.answers.by_revision.remove(&answer.revision);
            self.unsaved.note_answer(key, Some(&answer));
            self.answers.result_bytes -= result_bytes(&answer.reply);
            self.hash = self.hash.wrapping_sub(hash::of_answer(key, &answer));
        }
    }
}

fn result_bytes(reply: &Reply) -> u64 {
    let Reply::Txn(txn) = reply else { return 0 };
    let bytes = |result: &TxnResult| match result {
        TxnResult::Got(Some(got)) => (got.value.len() + got.content_type.len()) as u64,
        _ => 16,
    };
    txn.results.iter().map(bytes).sum()
}
