//! The types of the write-ahead log's records, and their bytes.

use std::io;

use bytes::Bytes;
use openraft::EntryPayload;
use raft_log::codeq::{Decode, Encode};

use crate::codec::{self, LogIdV1, MembershipV1, RECORD_BYTES_MAX, VoteV1};
use crate::log::OnSynced;
use crate::types::{Command, Membership, Payload};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct WalTypes;

impl raft_log::Types for WalTypes {
    type LogId = WalLogId;
    type LogPayload = StoredPayload;
    type Vote = WalVote;
    type Callback = OnSynced;
    /// Unused.
    type UserData = String;

    fn log_index(log_id: &WalLogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &StoredPayload) -> u64 {
        payload.bytes()
    }
}

/// 16 bytes: term, index, little-endian. raft-log's record carries a checksum around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WalLogId(pub(super) LogIdV1);

impl Encode for WalLogId {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&self.0.term.to_le_bytes())?;
        w.write_all(&self.0.index.to_le_bytes())?;
        Ok(16)
    }
}

impl Decode for WalLogId {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        Ok(Self(LogIdV1 { term: read_u64(&mut r)?, index: read_u64(&mut r)? }))
    }
}

/// 17 bytes: term, node id, and 1 when a quorum granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct WalVote(pub(super) VoteV1);

impl Encode for WalVote {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&self.0.term.to_le_bytes())?;
        w.write_all(&self.0.node_id.to_le_bytes())?;
        w.write_all(&[u8::from(self.0.committed)])?;
        Ok(17)
    }
}

impl Decode for WalVote {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let (term, node_id) = (read_u64(&mut r)?, read_u64(&mut r)?);
        let committed = match read_u8(&mut r)? {
            0 => false,
            1 => true,
            other => return Err(invalid(format!("vote: {other} is not a flag"))),
        };
        Ok(Self(VoteV1 { term, node_id, committed }))
    }
}

/// What an entry carries: a kind byte, a length in 4 little-endian bytes, a checksum of these two, and
/// the body, which begins with its own format byte.
///
/// The length has a checksum of its own because raft-log takes a record that reaches past the end of
/// the file for a torn one and cuts off everything from there: one flipped bit in a length would take
/// all later entries with it, without a word.
#[derive(Debug, Clone)]
pub(super) struct StoredPayload(pub(super) Payload);

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

impl StoredPayload {
    /// Bytes of memory and of log that the payload stands for, about.
    pub(super) fn bytes(&self) -> u64 {
        match &self.0 {
            EntryPayload::Normal(command) => command.bytes().len() as u64 + 64,
            EntryPayload::Blank | EntryPayload::Membership(_) => 64,
        }
    }
}

/// The kind byte and the body of a payload; also the form in which it travels to peers.
pub(crate) fn payload_parts(payload: &Payload) -> io::Result<(u8, Bytes)> {
    Ok(match payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (COMMAND, command.bytes().clone()),
        EntryPayload::Membership(membership) => {
            (MEMBERSHIP, codec::encode("membership", &MembershipV1::from(membership))?.into())
        }
    })
}

/// The inverse of [`payload_parts`].
pub(crate) fn payload_from_parts(kind: u8, body: Bytes) -> io::Result<Payload> {
    match kind {
        BLANK if body.is_empty() => Ok(EntryPayload::Blank),
        COMMAND => Ok(EntryPayload::Normal(Command::from_bytes(body)?)),
        MEMBERSHIP => {
            let stored: MembershipV1 = codec::decode("membership", &body)?;
            Ok(EntryPayload::Membership(Membership::try_from(stored)?))
        }
        other => Err(invalid(format!("entry: kind {other} is not known, or its body is too long"))),
    }
}

impl Encode for StoredPayload {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let (kind, body) = payload_parts(&self.0)?;
        let len = u32::try_from(body.len()).map_err(|_| invalid("entry: longer than 4 GiB"))?;
        w.write_all(&header(kind, len))?;
        w.write_all(&body)?;
        Ok(HEADER_BYTES + body.len())
    }
}

impl Decode for StoredPayload {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let mut found = [0; HEADER_BYTES];
        r.read_exact(&mut found)?;
        let [kind, l0, l1, l2, l3, ..] = found;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if found != header(kind, len) {
            return Err(invalid("entry: the checksum of its length does not match"));
        }
        if u64::from(len) > RECORD_BYTES_MAX {
            return Err(invalid(format!("entry: {len} bytes, more than {RECORD_BYTES_MAX}")));
        }
        let mut body = vec![0; len as usize];
        r.read_exact(&mut body)?;
        Ok(Self(payload_from_parts(kind, body.into())?))
    }
}

const HEADER_BYTES: usize = 1 + 4 + 4;

fn header(kind: u8, len: u32) -> [u8; HEADER_BYTES] {
    let [l0, l1, l2, l3] = len.to_le_bytes();
    let [c0, c1, c2, c3] = crc32fast::hash(&[kind, l0, l1, l2, l3]).to_le_bytes();
    [kind, l0, l1, l2, l3, c0, c1, c2, c3]
}

fn read_u64(r: &mut impl io::Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    r.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_u8(r: &mut impl io::Read) -> io::Result<u8> {
    let mut byte = [0];
    r.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Op;

    fn bytes(record: &impl Encode) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(record.encode(&mut out).unwrap(), out.len());
        out
    }

    #[test]
    fn golden_bytes() {
        let id = WalLogId(LogIdV1 { term: 2, index: 256 });
        assert_eq!(bytes(&id), [2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(WalLogId::decode(&bytes(&id)[..]).unwrap(), id);

        let vote = WalVote(VoteV1 { term: 2, node_id: 3, committed: true });
        assert_eq!(bytes(&vote), [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(WalVote::decode(&bytes(&vote)[..]).unwrap(), vote);

        assert_eq!(bytes(&StoredPayload(EntryPayload::Blank)), [0, 0, 0, 0, 0, 0x1d, 0xf7, 0x22, 0xc6]);
        let command = Command::encode(&Op::AgeAppend { name: "n".into(), age: 9 }).unwrap();
        let encoded = bytes(&StoredPayload(EntryPayload::Normal(command.clone())));
        assert_eq!(encoded[..5], [1, 24, 0, 0, 0]);
        assert_eq!(encoded[5..9], crc32fast::hash(&encoded[..5]).to_le_bytes());
        assert_eq!(&encoded[9..], command.bytes());
    }

    #[test]
    fn damaged_payloads_are_errors() {
        let with = |kind, len, body: &[u8]| [&header(kind, len), body].concat();
        let cases = [
            (with(3, 0, &[]), "entry: kind 3 is not known"),
            (with(1, u32::MAX, &[]), "entry: 4294967295 bytes, more than"),
            (with(1, 1, &[9]), "command: format 9 is not known here"),
            (with(1, 9, &[1]), "failed to fill whole buffer"),
            (vec![1, 9, 0, 0, 0, 0, 0, 0, 0, 1], "entry: the checksum of its length does not match"),
        ];
        for (input, message) in cases {
            let error = StoredPayload::decode(&input[..]).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
