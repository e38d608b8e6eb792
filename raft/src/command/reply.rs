//! What applying a command answers.
//!
//! These layouts lie on disk, in snapshots and on the wire: variants and fields are only ever added,
//! at the end of their enum or in a new variant.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What applying an entry answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The entry carried no command.
    Nothing,
    /// A put, or an age appended.
    Written {
        /// Whether the key, or the name, did not exist before.
        created: bool,
    },
    /// A delete.
    Deleted {
        /// Whether there was something to delete.
        existed: bool,
    },
    /// A delete of a prefix.
    PrefixDeleted {
        /// How many keys there were.
        keys: u64,
    },
    /// A prefix has more keys than one command deletes. Nothing was changed.
    PrefixTooLarge {
        /// How many it may have.
        keys_max: u64,
    },
    /// A condition did not hold. Nothing was changed.
    PreconditionFailed {
        /// The revision of the key; `None` when it does not exist.
        current: Option<u64>,
    },
    /// A transaction.
    Txn(Box<TxnReply>),
    /// An operation of a transaction could not be done. Nothing was changed.
    TxnRefused {
        /// Whether the conditions held, so that it was an operation of `then`.
        succeeded: bool,
        /// Which operation, from 0.
        operation: u32,
        /// Why.
        reason: TxnRefusal,
    },
    /// Keys whose time was up.
    Expired {
        /// How many went away.
        keys: u64,
    },
    /// The idempotency key was used for another write. Nothing was changed.
    KeyReused,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnReply {
    /// Whether the conditions held, so that `then` was applied.
    pub succeeded: bool,
    /// An answer for each operation, in their order.
    pub results: Vec<TxnResult>,
}

/// What one operation of a transaction answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResult {
    /// A put.
    Put {
        /// Whether the key did not exist before.
        created: bool,
    },
    /// A delete.
    Deleted {
        /// Whether there was something to delete.
        existed: bool,
    },
    /// A get; `None` when there is no such key.
    Got(Option<Got>),
    /// An addition, and the sum.
    Added(i64),
}

/// A key as a transaction found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// Its value.
    pub value: Bytes,
    /// Its media type; empty when none was given.
    pub content_type: String,
    /// Log index of the entry that last wrote it.
    pub revision: u64,
    /// Log index of the entry that created it.
    pub created_revision: u64,
    /// Milliseconds until it goes away by itself, by the clock of the transaction.
    pub expires_in_ms: Option<u64>,
}

/// Why an operation of a transaction could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnRefusal {
    /// What is to be added to is not a decimal integer of 64 bits.
    NotAnInteger,
    /// The sum does not fit into 64 bits.
    Overflow,
    /// The values that are read have more bytes than an answer may.
    ResultTooLarge {
        /// How many it may have.
        bytes_max: u64,
    },
}

/// An entry that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What it answers.
    pub reply: Reply,
    /// Log index of the entry that was applied under the same idempotency key before, when nothing was
    /// applied this time.
    pub replay_of: Option<u64>,
}

impl From<Reply> for Applied {
    fn from(reply: Reply) -> Self {
        Self { reply, replay_of: None }
    }
}
