//! The frozen layouts of operations. Variants and fields are only ever added at the end.

use std::num::NonZeroU64;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{Condition, Expect, Once, Op, Test, Txn, TxnOp};

#[derive(Serialize, Deserialize)]
pub(super) enum OpV1<'a> {
    Put {
        key: &'a str,
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
        content_type: &'a str,
    },
    Delete {
        key: &'a str,
    },
    AgeAppend {
        name: &'a str,
        age: u8,
    },
    AgeDelete {
        name: &'a str,
    },
    PutWith {
        key: &'a str,
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
        content_type: &'a str,
        ttl_ms: Option<NonZeroU64>,
        only_if: Vec<Expect>,
    },
    DeleteIf {
        key: &'a str,
        only_if: Vec<Expect>,
    },
    DeletePrefix {
        prefix: &'a str,
    },
    Txn {
        #[serde(borrow)]
        conditions: Vec<ConditionV1<'a>>,
        #[serde(borrow)]
        then: Vec<TxnOpV1<'a>>,
        #[serde(borrow)]
        or_else: Vec<TxnOpV1<'a>>,
    },
    Expire {
        keys_max: u32,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) enum ConditionV1<'a> {
    Expect {
        key: &'a str,
        expect: Expect,
    },
    Value {
        key: &'a str,
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
}

#[derive(Serialize, Deserialize)]
pub(super) enum TxnOpV1<'a> {
    Put {
        key: &'a str,
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
        content_type: &'a str,
        ttl_ms: Option<NonZeroU64>,
    },
    Delete {
        key: &'a str,
    },
    Get {
        key: &'a str,
    },
    Add {
        key: &'a str,
        by: i64,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) struct OnceV1<'a> {
    pub(super) key: &'a str,
    pub(super) fingerprint: u128,
    pub(super) window_ms: u64,
    pub(super) keys_max: u64,
}

impl From<OnceV1<'_>> for Once {
    fn from(once: OnceV1<'_>) -> Self {
        let OnceV1 { key, fingerprint, window_ms, keys_max } = once;
        Self { key: key.to_owned(), fingerprint, window_ms, keys_max }
    }
}

impl<'a> From<&'a Op> for OpV1<'a> {
    fn from(op: &'a Op) -> Self {
        match op {
            Op::Put { key, value, content_type } => Self::Put { key, value, content_type },
            Op::Delete { key } => Self::Delete { key },
            Op::AgeAppend { name, age } => Self::AgeAppend { name, age: *age },
            Op::AgeDelete { name } => Self::AgeDelete { name },
            Op::PutWith { key, value, content_type, ttl_ms, only_if } => {
                Self::PutWith { key, value, content_type, ttl_ms: *ttl_ms, only_if: only_if.clone() }
            }
            Op::DeleteIf { key, only_if } => Self::DeleteIf { key, only_if: only_if.clone() },
            Op::DeletePrefix { prefix } => Self::DeletePrefix { prefix },
            Op::Txn(Txn { conditions, then, or_else }) => Self::Txn {
                conditions: conditions.iter().map(Into::into).collect(),
                then: then.iter().map(Into::into).collect(),
                or_else: or_else.iter().map(Into::into).collect(),
            },
            Op::Expire { keys_max } => Self::Expire { keys_max: *keys_max },
        }
    }
}

impl OpV1<'_> {
    /// The operation. A value that is put gets memory of its own: as a part of `command`, which this borrows from,
    /// it would keep the whole command in memory for as long as it lives. One that is compared is such a part.
    pub(super) fn into_op(self, command: &Bytes) -> Op {
        match self {
            Self::Put { key, value, content_type } => Op::Put {
                key: key.into(),
                value: Bytes::copy_from_slice(value),
                content_type: content_type.to_owned(),
            },
            Self::Delete { key } => Op::Delete { key: key.into() },
            Self::AgeAppend { name, age } => Op::AgeAppend { name: name.to_owned(), age },
            Self::AgeDelete { name } => Op::AgeDelete { name: name.to_owned() },
            Self::PutWith { key, value, content_type, ttl_ms, only_if } => Op::PutWith {
                key: key.into(),
                value: Bytes::copy_from_slice(value),
                content_type: content_type.to_owned(),
                ttl_ms,
                only_if,
            },
            Self::DeleteIf { key, only_if } => Op::DeleteIf { key: key.into(), only_if },
            Self::DeletePrefix { prefix } => Op::DeletePrefix { prefix: prefix.to_owned() },
            Self::Txn { conditions, then, or_else } => {
                let ops = |ops: Vec<TxnOpV1<'_>>| ops.into_iter().map(|op| op.into_op()).collect();
                Op::Txn(Txn {
                    conditions: conditions.into_iter().map(|condition| condition.into(command)).collect(),
                    then: ops(then),
                    or_else: ops(or_else),
                })
            }
            Self::Expire { keys_max } => Op::Expire { keys_max },
        }
    }
}

impl<'a> From<&'a Condition> for ConditionV1<'a> {
    fn from(condition: &'a Condition) -> Self {
        let key = &condition.key;
        match &condition.test {
            Test::Expect(expect) => Self::Expect { key, expect: expect.clone() },
            Test::Value(value) => Self::Value { key, value },
        }
    }
}

impl ConditionV1<'_> {
    fn into(self, command: &Bytes) -> Condition {
        match self {
            Self::Expect { key, expect } => Condition { key: key.to_owned(), test: Test::Expect(expect) },
            Self::Value { key, value } => {
                Condition { key: key.to_owned(), test: Test::Value(command.slice_ref(value)) }
            }
        }
    }
}

impl<'a> From<&'a TxnOp> for TxnOpV1<'a> {
    fn from(op: &'a TxnOp) -> Self {
        match op {
            TxnOp::Put { key, value, content_type, ttl_ms } => {
                Self::Put { key, value, content_type, ttl_ms: *ttl_ms }
            }
            TxnOp::Delete { key } => Self::Delete { key },
            TxnOp::Get { key } => Self::Get { key },
            TxnOp::Add { key, by } => Self::Add { key, by: *by },
        }
    }
}

impl TxnOpV1<'_> {
    fn into_op(self) -> TxnOp {
        match self {
            Self::Put { key, value, content_type, ttl_ms } => TxnOp::Put {
                key: key.to_owned(),
                value: Bytes::copy_from_slice(value),
                content_type: content_type.to_owned(),
                ttl_ms,
            },
            Self::Delete { key } => TxnOp::Delete { key: key.to_owned() },
            Self::Get { key } => TxnOp::Get { key: key.to_owned() },
            Self::Add { key, by } => TxnOp::Add { key: key.to_owned(), by },
        }
    }
}
