//! The operations that change the store, and what must hold before they do.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Operations of one transaction, both branches together, and conditions of one.
pub const TXN_OPS_MAX: usize = 128;
/// Keys that one prefix delete removes at most: it is one command, and everything behind it waits
/// until it is applied.
pub const PREFIX_KEYS_MAX: usize = 100_000;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// An operation that changes the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets `key` to `value`, whatever was there, for good.
    Put {
        /// 1..=1024 bytes of UTF-8; checked before it gets here. Up to 23 bytes take no memory of their own.
        key: SmolStr,
        /// 0..=1 MiB of any bytes; checked before it gets here.
        value: Bytes,
        /// The media type the client gave; empty when it gave none.
        content_type: String,
    },
    /// Removes `key`; no error when it is not there.
    Delete {
        /// As in [`Op::Put`].
        key: SmolStr,
    },
    /// Appends `age` to the list of `name`.
    AgeAppend {
        /// 1..=256 bytes of UTF-8; checked before it gets here.
        name: String,
        /// 0..=150 years; checked before it gets here.
        age: u8,
    },
    /// Removes the whole list of `name`.
    AgeDelete {
        /// As in [`Op::AgeAppend`].
        name: String,
    },
    /// As [`Op::Put`], for a time or under conditions.
    PutWith {
        /// As in [`Op::Put`].
        key: SmolStr,
        /// As in [`Op::Put`].
        value: Bytes,
        /// As in [`Op::Put`].
        content_type: String,
        /// Milliseconds until it goes away by itself.
        ttl_ms: Option<NonZeroU64>,
        /// What must hold of the key; all of it.
        only_if: Vec<Expect>,
    },
    /// As [`Op::Delete`], under conditions.
    DeleteIf {
        /// As in [`Op::Put`].
        key: SmolStr,
        /// As in [`Op::PutWith`].
        only_if: Vec<Expect>,
    },
    /// Removes every key that begins with `prefix`; none when there are more than
    /// [`PREFIX_KEYS_MAX`].
    DeletePrefix {
        /// 1..=1024 bytes of UTF-8; checked before it gets here.
        prefix: String,
    },
    /// Several operations as one.
    Txn(Txn),
    /// Removes keys whose time is up. The leader's own.
    Expire {
        /// How many at most.
        keys_max: u32,
    },
}

/// What must hold of a key before it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It exists, and one of these log indexes last wrote it.
    Revisions(Vec<u64>),
    /// It does not exist, or none of these log indexes last wrote it.
    NotRevisions(Vec<u64>),
}

impl Expect {
    /// Whether it holds of a key with this revision; `None` is a key that does not exist.
    pub(crate) fn holds(&self, current: Option<u64>) -> bool {
        match self {
            Self::Exists => current.is_some(),
            Self::Absent => current.is_none(),
            Self::Revisions(wanted) => current.is_some_and(|revision| wanted.contains(&revision)),
            Self::NotRevisions(others) => current.is_none_or(|revision| !others.contains(&revision)),
        }
    }
}

/// Several operations that are applied together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// What decides between the two branches; at most [`TXN_OPS_MAX`].
    pub conditions: Vec<Condition>,
    /// Applied when all conditions hold; at most [`TXN_OPS_MAX`].
    pub then: Vec<TxnOp>,
    /// Applied when one does not; at most [`TXN_OPS_MAX`].
    pub or_else: Vec<TxnOp>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// 1..=1024 bytes of UTF-8; checked before it gets here.
    pub key: String,
    /// What must hold of the key.
    pub test: Test,
}

/// What a [`Condition`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Of its existence or revision.
    Expect(Expect),
    /// It exists and has this value.
    Value(Bytes),
}

/// An operation of a transaction. It sees what those before it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOp {
    /// Sets a key.
    Put {
        /// As in [`Op::Put`].
        key: String,
        /// As in [`Op::Put`].
        value: Bytes,
        /// As in [`Op::Put`].
        content_type: String,
        /// As in [`Op::PutWith`].
        ttl_ms: Option<NonZeroU64>,
    },
    /// Removes a key; no error when it is not there.
    Delete {
        /// As in [`Op::Put`].
        key: String,
    },
    /// Reads a key.
    Get {
        /// As in [`Op::Put`].
        key: String,
    },
    /// Adds to the integer that a key holds as decimal digits; 0 when there is no such key. Keeps the
    /// key's time to live.
    Add {
        /// As in [`Op::Put`].
        key: String,
        /// What to add.
        by: i64,
    },
}

/// A client's name for one write, under which it may be sent any number of times and is applied once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = String;

    /// # Errors
    /// Names the limit when it is not 1 to 128 bytes of visible ASCII.
    fn from_str(text: &str) -> Result<Self, String> {
        if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) {
            return Err(format!("{} bytes, not 1 to {IDEMPOTENCY_KEY_BYTES_MAX}", text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("only visible ASCII without spaces".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A write that is to be applied once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Once {
    /// The client's name for it.
    pub(crate) key: String,
    /// A hash of the operation: the same name for another one is a mistake.
    pub(crate) fingerprint: u128,
    /// How long the answer is kept. It travels in the command because the nodes' settings may differ
    /// and must not decide what a replica does.
    pub(crate) window_ms: u64,
    /// How many answers are kept; as above.
    pub(crate) keys_max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations() {
        let cases = [
            (Expect::Exists, true, true, false),
            (Expect::Absent, false, false, true),
            (Expect::Revisions(vec![5, 7]), true, false, false),
            (Expect::Revisions(vec![]), false, false, false),
            (Expect::NotRevisions(vec![5, 7]), false, true, true),
            (Expect::NotRevisions(vec![]), true, true, true),
        ];
        for (expect, of_7, of_8, of_none) in cases {
            let got = (expect.holds(Some(7)), expect.holds(Some(8)), expect.holds(None));
            assert_eq!(got, (of_7, of_8, of_none), "{expect:?}");
        }
    }

    #[test]
    fn idempotency_keys() {
        let longest = "k".repeat(128);
        for good in ["a", "7a1c-…".trim_end_matches('…'), "!~\"", &longest] {
            assert_eq!(good.parse::<IdempotencyKey>().unwrap().as_str(), good);
        }
        for (bad, message) in [
            (String::new(), "0 bytes, not 1 to 128"),
            ("k".repeat(129), "129 bytes, not 1 to 128"),
            ("a b".into(), "visible ASCII"),
            ("ключ".into(), "visible ASCII"),
            ("a\n".into(), "visible ASCII"),
        ] {
            let error = bad.parse::<IdempotencyKey>().unwrap_err();
            assert!(error.contains(message), "{bad:?}: {error}");
        }
    }
}
