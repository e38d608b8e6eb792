//! What a client may ask of the store, as it stands in the log.
//!
//! A [`Command`] is encoded once, where the request arrives, and from then on travels as shared
//! bytes: over the peer connection to the leader, into the log, to the followers and to the state
//! machine, which decodes it and keeps a copy of the value.
//!
//! Layout of a command: format byte, 8 bytes of the leader's clock (little-endian milliseconds
//! since the Unix epoch), then the operation, a record. The clock sits at a fixed place so that the
//! leader can set it on bytes that another node encoded. Format 2 has, between the clock and the
//! operation, the length (little-endian, 2 bytes) and the record of an idempotency key.

mod op;
mod reply;
mod wire;

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

pub(crate) use self::op::Once;
pub use self::op::{Condition, Expect, IdempotencyKey, Op, PREFIX_KEYS_MAX, TXN_OPS_MAX, Test, Txn, TxnOp};
pub use self::reply::{Applied, Got, Reply, TxnRefusal, TxnReply, TxnResult};
use self::wire::{OnceV1, OpV1};
use crate::codec::{self, CodecError, FORMAT_V1};

/// Format of a command with an idempotency key.
const FORMAT_ONCE: u8 = 2;
const CLOCK_BYTES: std::ops::Range<usize> = 1..9;
const HEADER_BYTES: usize = CLOCK_BYTES.end;
/// Bytes of the length of an idempotency record.
const ONCE_LENGTH_BYTES: usize = 2;

/// An encoded operation with the leader's clock. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Bytes);

/// What a [`Command`] says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// The leader's clock, in milliseconds since the Unix epoch.
    pub(crate) clock_ms: u64,
    /// Under which name it is to be applied once, if any.
    pub(crate) once: Option<Once>,
    /// What to do.
    pub(crate) op: Op,
}

impl Command {
    /// Encodes `op` with the clock at zero; the leader stamps it with [`Command::stamped`].
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when the operation is longer than [`codec::RECORD_BYTES_MAX`].
    pub fn encode(op: &Op) -> Result<Self, CodecError> {
        let mut header = [0; HEADER_BYTES];
        header[0] = FORMAT_V1;
        // The operation is itself a record with a format byte: the header and the operation can
        // then change independently.
        Ok(Self(codec::encode_behind(&header, "command", &OpV1::from(op))?.into()))
    }

    /// Encodes `op` so that it is applied once under `key`, and its answer is kept for `window` while at
    /// most `keys_max` answers are kept.
    ///
    /// # Errors
    /// As [`Command::encode`].
    pub(crate) fn encode_once(
        op: &Op,
        key: &IdempotencyKey,
        window: Duration,
        keys_max: u64,
    ) -> Result<Self, CodecError> {
        let op = codec::encode("command", &OpV1::from(op))?;
        let once = OnceV1 {
            key: key.as_str(),
            fingerprint: xxh3_128(&op),
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            keys_max,
        };
        let once = codec::encode("idempotency key", &once)?;
        let length = u16::try_from(once.len()).map_err(|_| too_long())?;
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[0] = FORMAT_ONCE;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&once);
        bytes.extend_from_slice(&op);
        Ok(Self(bytes.into()))
    }

    /// Takes over bytes from the log or from a peer. They are decoded when they are applied.
    ///
    /// # Errors
    /// [`CodecError`] when the header is not one of a command.
    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Self, CodecError> {
        match bytes.first() {
            None => Err(CodecError::Empty { what: "command" }),
            Some(&(FORMAT_V1 | FORMAT_ONCE)) if bytes.len() > HEADER_BYTES => Ok(Self(bytes)),
            Some(&(FORMAT_V1 | FORMAT_ONCE)) => Err(CodecError::Empty { what: "command" }),
            Some(&found) => Err(CodecError::UnknownFormat { what: "command", found, known: FORMAT_V1 }),
        }
    }

    /// The encoded form.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether it carries an idempotency key, so that sending it again does no harm.
    pub(crate) fn is_once(&self) -> bool {
        self.0[0] == FORMAT_ONCE
    }

    /// The same command with the leader's clock, in milliseconds since the Unix epoch.
    ///
    /// Copies only when the bytes are shared.
    #[must_use]
    pub(crate) fn stamped(self, clock_ms: u64) -> Self {
        let mut bytes = BytesMut::from(self.0);
        bytes[CLOCK_BYTES].copy_from_slice(&clock_ms.to_le_bytes());
        Self(bytes.freeze())
    }

    /// What it says. Values that are put have memory of their own; those that are compared share the command's.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are damaged.
    pub(crate) fn decode(&self) -> Result<Decoded, CodecError> {
        let mut clock = [0; 8];
        clock.copy_from_slice(&self.0[CLOCK_BYTES]);
        let mut rest = &self.0[HEADER_BYTES..];
        let mut once = None;
        if self.is_once() {
            let (length, after) = rest.split_first_chunk::<ONCE_LENGTH_BYTES>().ok_or_else(too_long)?;
            let (record, after) =
                after.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or_else(too_long)?;
            once = Some(codec::decode::<OnceV1<'_>>("idempotency key", record)?.into());
            rest = after;
        }
        let op = codec::decode::<OpV1<'_>>("command", rest)?.into_op(&self.0);
        Ok(Decoded { clock_ms: u64::from_le_bytes(clock), once, op })
    }
}

fn too_long() -> CodecError {
    CodecError::Malformed { what: "idempotency key", source: Box::new(bincode::ErrorKind::SizeLimit) }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

/// Only the size: keys and values are the users' and do not belong in logs.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn ops() -> Vec<Op> {
        vec![
            Op::Put { key: "a/b".into(), value: Bytes::from_static(b"\0\xff"), content_type: "x/y".into() },
            Op::Delete { key: "ключ".into() },
            Op::AgeAppend { name: "Robert'); DROP TABLE ages;--".into(), age: 31 },
            Op::AgeDelete { name: "🔥".into() },
            Op::PutWith {
                key: "k".into(),
                value: Bytes::from_static(b"v"),
                content_type: String::new(),
                ttl_ms: NonZeroU64::new(1500),
                only_if: vec![Expect::Exists, Expect::Revisions(vec![3])],
            },
            Op::DeleteIf { key: "k".into(), only_if: vec![Expect::Absent, Expect::NotRevisions(vec![])] },
            Op::DeletePrefix { prefix: "p/".into() },
            Op::Txn(Txn {
                conditions: vec![
                    Condition { key: "a".into(), test: Test::Expect(Expect::Absent) },
                    Condition { key: "b".into(), test: Test::Value(Bytes::from_static(b"\0")) },
                ],
                then: vec![
                    TxnOp::Put {
                        key: "a".into(),
                        value: Bytes::from_static(b"1"),
                        content_type: "t".into(),
                        ttl_ms: None,
                    },
                    TxnOp::Add { key: "n".into(), by: -1 },
                ],
                or_else: vec![TxnOp::Get { key: "a".into() }, TxnOp::Delete { key: "b".into() }],
            }),
            Op::Expire { keys_max: 7 },
        ]
    }

    fn once(op: &Op) -> Command {
        Command::encode_once(op, &"order-1".parse().unwrap(), Duration::from_secs(600), 1000).unwrap()
    }

    #[test]
    fn round_trip() {
        for op in ops() {
            let command = Command::encode(&op).unwrap().stamped(77);
            assert!(!command.is_once());
            assert_eq!(command.decode().unwrap(), Decoded { clock_ms: 77, once: None, op: op.clone() });

            let command = once(&op).stamped(77);
            assert!(command.is_once());
            let decoded = command.decode().unwrap();
            let once = decoded.once.unwrap();
            assert_eq!((decoded.clock_ms, decoded.op), (77, op));
            assert_eq!((&*once.key, once.window_ms, once.keys_max), ("order-1", 600_000, 1000));
        }
    }

    #[test]
    fn golden_bytes() {
        let put = Command::encode(&ops()[0]).unwrap().stamped(258);
        let mut expected = vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        expected.extend([3, 0, 0, 0, 0, 0, 0, 0, b'a', b'/', b'b']);
        expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        expected.extend([3, 0, 0, 0, 0, 0, 0, 0, b'x', b'/', b'y']);
        assert_eq!(put.bytes().as_ref(), expected);

        let age = Command::encode(&Op::AgeAppend { name: "n".into(), age: 9 }).unwrap();
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0];
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b'n', 9]);
        assert_eq!(age.bytes().as_ref(), expected);
    }

    /// Each operation, as hexadecimal digits after the format byte and the clock.
    #[test]
    fn golden_operations() {
        let expected = [
            "010400000001000000000000006b010000000000000076000000000000000001dc050000000000000200000000000000000000000200000001000000000000000300000000000000",
            "010500000001000000000000006b020000000000000001000000030000000000000000000000",
            "01060000000200000000000000702f",
            "01070000000200000000000000000000000100000000000000610100000001000000010000000000000062010000000000000000020000000000000000000000010000000000000061010000000000000031010000000000000074000300000001000000000000006effffffffffffffff02000000000000000200000001000000000000006101000000010000000000000062",
            "010800000007000000",
        ];
        let got: Vec<String> = ops().iter().skip(4).map(|op| hex(&Command::encode(op).unwrap())).collect();
        assert_eq!(got, expected);
        let keyed = once(&Op::Delete { key: "k".into() });
        assert_eq!(keyed.bytes()[0], 2);
        assert_eq!(
            hex(&keyed),
            "30000107000000000000006f726465722d315544fa0dbc96210b3593f69051965adac027090000000000e803000000000000010100000001000000000000006b"
        );
    }

    fn hex(command: &Command) -> String {
        command.bytes()[HEADER_BYTES..].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Else a value of a few bytes would keep its whole command in memory, for as long as it lives.
    #[test]
    fn a_value_that_is_put_has_memory_of_its_own() {
        for op in ops() {
            let command = Command::encode(&op).unwrap();
            let within = command.bytes().as_ptr_range();
            if let Op::Put { value, .. } | Op::PutWith { value, .. } = command.decode().unwrap().op {
                assert!(!within.contains(&value.as_ptr()), "{op:?}");
            }
        }
    }

    #[test]
    fn the_same_write_has_the_same_fingerprint() {
        let fingerprint = |op: &Op| once(op).stamped(9).decode().unwrap().once.unwrap().fingerprint;
        let all: Vec<u128> = ops().iter().map(fingerprint).collect();
        assert_eq!(all, ops().iter().map(fingerprint).collect::<Vec<_>>());
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one));
        }
    }

    #[test]
    fn damaged_bytes_are_errors() {
        let both = ops().into_iter().flat_map(|op| [Command::encode(&op).unwrap(), once(&op)]);
        for bytes in both.map(|command| command.bytes().clone()) {
            for cut in 0..bytes.len() {
                let shorter = Command::from_bytes(bytes.slice(..cut)).and_then(|c| c.decode());
                assert!(shorter.is_err(), "{cut} of {} bytes decoded", bytes.len());
            }
        }
    }
}
