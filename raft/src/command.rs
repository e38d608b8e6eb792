//! What a client may ask of the store, as it stands in the log.
//!
//! A [`Command`] is encoded once, where the request arrives, and from then on travels as shared
//! bytes: over the peer connection to the leader, into the log, to the followers and to the state
//! machine, which decodes it without copying the value.
//!
//! Layout of a command: format byte, 8 bytes of the leader's clock (little-endian milliseconds
//! since the Unix epoch), then the operation in bincode. The clock sits at a fixed place so that
//! the leader can set it on bytes that another node encoded.

use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, FORMAT_V1};

/// An operation that changes the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets `key` to `value`.
    Put {
        /// 1..=1024 bytes of UTF-8; checked before it gets here.
        key: String,
        /// 0..=1 MiB of any bytes; checked before it gets here.
        value: Bytes,
        /// The media type the client gave; empty when it gave none.
        content_type: String,
    },
    /// Removes `key`; no error when it is not there.
    Delete {
        /// As in [`Op::Put`].
        key: String,
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
}

#[derive(Serialize, Deserialize)]
enum OpV1<'a> {
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
}

const CLOCK_BYTES: std::ops::Range<usize> = 1..9;
const HEADER_BYTES: usize = CLOCK_BYTES.end;

/// An encoded operation with the leader's clock. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Bytes);

impl Command {
    /// Encodes `op` with the clock at zero; the leader stamps it with [`Command::stamped`].
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when the operation is longer than [`codec::RECORD_BYTES_MAX`].
    pub fn encode(op: &Op) -> Result<Self, CodecError> {
        let op = match op {
            Op::Put { key, value, content_type } => OpV1::Put { key, value, content_type },
            Op::Delete { key } => OpV1::Delete { key },
            Op::AgeAppend { name, age } => OpV1::AgeAppend { name, age: *age },
            Op::AgeDelete { name } => OpV1::AgeDelete { name },
        };
        let mut bytes = vec![FORMAT_V1; 1];
        bytes.extend([0; CLOCK_BYTES.end - CLOCK_BYTES.start]);
        // The operation is itself a record with a format byte: the header and the operation can
        // then change independently.
        codec::encode_into("command", &op, &mut bytes)?;
        Ok(Self(bytes.into()))
    }

    /// Takes over bytes from the log or from a peer. They are decoded when they are applied.
    ///
    /// # Errors
    /// [`CodecError`] when the header is not one of a command.
    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Self, CodecError> {
        match bytes.first() {
            None => Err(CodecError::Empty { what: "command" }),
            Some(&FORMAT_V1) if bytes.len() > HEADER_BYTES => Ok(Self(bytes)),
            Some(&FORMAT_V1) => Err(CodecError::Empty { what: "command" }),
            Some(&found) => Err(CodecError::UnknownFormat { what: "command", found }),
        }
    }

    /// The encoded form.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
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

    /// The leader's clock and the operation; the value shares the command's memory.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are damaged.
    pub(crate) fn decode(&self) -> Result<(u64, Op), CodecError> {
        let mut clock = [0; 8];
        clock.copy_from_slice(&self.0[CLOCK_BYTES]);
        let op = match codec::decode("command", &self.0[HEADER_BYTES..])? {
            OpV1::Put { key, value, content_type } => Op::Put {
                key: key.to_owned(),
                value: self.0.slice_ref(value),
                content_type: content_type.to_owned(),
            },
            OpV1::Delete { key } => Op::Delete { key: key.to_owned() },
            OpV1::AgeAppend { name, age } => Op::AgeAppend { name: name.to_owned(), age },
            OpV1::AgeDelete { name } => Op::AgeDelete { name: name.to_owned() },
        };
        Ok((u64::from_le_bytes(clock), op))
    }
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

/// What applying an entry answers. The revision is the entry's log index and travels beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops() -> Vec<Op> {
        vec![
            Op::Put { key: "a/b".into(), value: Bytes::from_static(b"\0\xff"), content_type: "x/y".into() },
            Op::Delete { key: "ключ".into() },
            Op::AgeAppend { name: "Robert'); DROP TABLE ages;--".into(), age: 31 },
            Op::AgeDelete { name: "🔥".into() },
        ]
    }

    #[test]
    fn round_trip() {
        for op in ops() {
            let command = Command::encode(&op).unwrap().stamped(77);
            assert_eq!(command.decode().unwrap(), (77, op));
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

    #[test]
    fn damaged_bytes_are_errors() {
        for op in ops() {
            let bytes = Command::encode(&op).unwrap().bytes().clone();
            for cut in 0..bytes.len() {
                let shorter = Command::from_bytes(bytes.slice(..cut)).and_then(|c| c.decode());
                assert!(shorter.is_err(), "{cut} of {} bytes decoded", bytes.len());
            }
        }
    }
}
