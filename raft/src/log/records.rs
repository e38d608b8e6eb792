//! The records of the log, and their bytes.
//!
//! ```text
//! byte 0        kind
//! byte 1..5     length of the body, little-endian
//! byte 5..9     CRC-32 of kind, length and body
//! byte 9..      body; it begins with its own format byte
//! ```

use std::io;

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use crate::codec::{self, FORMAT_V1, LogIdV1, MembershipV1, RECORD_BYTES_MAX, VoteV1};
use crate::types::{Command, Entry, Membership, Payload};

/// What the log holds besides entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HardState {
    pub(super) vote: Option<VoteV1>,
    pub(super) committed: Option<LogIdV1>,
    pub(super) purged: Option<LogIdV1>,
}

/// The first record of each file: what the files before it came to. They may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BeforeV1 {
    pub(super) vote: Option<VoteV1>,
    pub(super) committed: Option<LogIdV1>,
    pub(super) purged: Option<LogIdV1>,
    /// The last entry, purged or not.
    pub(super) last: Option<LogIdV1>,
}

/// One record, read back.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    Before(BeforeV1),
    Entry(Entry),
    Vote(VoteV1),
    Committed(LogIdV1),
    /// No entry from this index on.
    Truncated(u64),
    Purged(LogIdV1),
}

const BEFORE: u8 = 1;
const ENTRY: u8 = 2;
const VOTE: u8 = 3;
const COMMITTED: u8 = 4;
const TRUNCATED: u8 = 5;
const PURGED: u8 = 6;

const HEADER_BYTES: usize = 9;
const HEADER_BYTES_U32: u32 = 9;
/// Format byte, kind of the payload, term and index.
const ENTRY_HEADER_BYTES: usize = 1 + 1 + 8 + 8;
/// A transaction may fill a command up to its bound.
const BODY_BYTES_MAX: u64 = RECORD_BYTES_MAX + ENTRY_HEADER_BYTES as u64;

fn put(frame: &mut Frame, kind: u8, body: [&[u8]; 2]) -> io::Result<u32> {
    let bytes = body[0].len() + body[1].len();
    let len = u32::try_from(bytes)
        .ok()
        .filter(|len| u64::from(*len) <= BODY_BYTES_MAX)
        .ok_or_else(|| too_long(bytes))?;
    let mut header = [0; HEADER_BYTES];
    header[0] = kind;
    header[1..5].copy_from_slice(&len.to_le_bytes());
    let checksum = checksum(&header[..5], body);
    header[5..].copy_from_slice(&checksum.to_le_bytes());
    frame.put(&header);
    body.iter().for_each(|piece| frame.put(piece));
    Ok(HEADER_BYTES_U32 + len)
}

fn checksum(header: &[u8], body: [&[u8]; 2]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    body.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

fn put_small<T: Serialize>(frame: &mut Frame, kind: u8, what: &'static str, record: &T) -> io::Result<()> {
    put(frame, kind, [&codec::encode(what, record)?, &[]]).map(drop)
}

pub(super) fn put_before(frame: &mut Frame, before: &BeforeV1) -> io::Result<()> {
    put_small(frame, BEFORE, "log so far", before)
}

pub(super) fn put_vote(frame: &mut Frame, vote: &VoteV1) -> io::Result<()> {
    put_small(frame, VOTE, "vote", vote)
}

pub(super) fn put_committed(frame: &mut Frame, committed: &LogIdV1) -> io::Result<()> {
    put_small(frame, COMMITTED, "committed log id", committed)
}

pub(super) fn put_truncated(frame: &mut Frame, from: u64) -> io::Result<()> {
    put_small(frame, TRUNCATED, "truncation", &from)
}

pub(super) fn put_purged(frame: &mut Frame, purged: &LogIdV1) -> io::Result<()> {
    put_small(frame, PURGED, "purged log id", purged)
}

/// Answers the length of the record, in bytes of records.
pub(super) fn put_entry(frame: &mut Frame, entry: &Entry) -> io::Result<u32> {
    let (kind, payload) = payload_parts(&entry.payload)?;
    let id = LogIdV1::from(entry.log_id);
    let mut header = [0; ENTRY_HEADER_BYTES];
    header[0] = FORMAT_V1;
    header[1] = kind;
    header[2..10].copy_from_slice(&id.term.to_le_bytes());
    header[10..].copy_from_slice(&id.index.to_le_bytes());
    put(frame, ENTRY, [&header, &payload])
}

/// The first record in `bytes`, its length there, and nothing behind it.
///
/// # Errors
/// `InvalidData` when the record is damaged or cut short.
pub(super) fn read(bytes: &[u8]) -> io::Result<(Record, usize)> {
    let (header, rest) =
        bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| invalid("a record is cut short"))?;
    let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    if u64::from(len) > BODY_BYTES_MAX {
        return Err(too_long(len as usize));
    }
    let body = rest.get(..len as usize).ok_or_else(|| invalid("a record is cut short"))?;
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum(&header[..5], [body, &[]]) {
        return Err(invalid("the checksum of a record does not match"));
    }
    let record = match kind {
        BEFORE => Record::Before(codec::decode("log so far", body)?),
        ENTRY => Record::Entry(entry(body)?),
        VOTE => Record::Vote(codec::decode("vote", body)?),
        COMMITTED => Record::Committed(codec::decode("committed log id", body)?),
        TRUNCATED => Record::Truncated(codec::decode("truncation", body)?),
        PURGED => Record::Purged(codec::decode("purged log id", body)?),
        other => {
            return Err(invalid(format!(
                "a record of kind {other} is not known here; a newer Hearth wrote it"
            )));
        }
    };
    Ok((record, HEADER_BYTES + body.len()))
}

fn entry(body: &[u8]) -> io::Result<Entry> {
    let (header, payload) =
        body.split_first_chunk::<ENTRY_HEADER_BYTES>().ok_or_else(|| invalid("an entry is cut short"))?;
    let [format, kind, numbers @ ..] = header;
    if *format != FORMAT_V1 {
        return Err(
            codec::CodecError::UnknownFormat { what: "entry", found: *format, known: FORMAT_V1 }.into()
        );
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&numbers[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let id = LogIdV1 { term: number(0), index: number(8) };
    Ok(Entry { log_id: id.into(), payload: payload_from_parts(*kind, Bytes::copy_from_slice(payload))? })
}

/// Bytes of memory and of log that a payload stands for, about.
pub(super) fn payload_bytes(payload: &Payload) -> u64 {
    match payload {
        EntryPayload::Normal(command) => command.bytes().len() as u64 + 64,
        EntryPayload::Blank | EntryPayload::Membership(_) => 64,
    }
}

// Kinds of payloads.
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

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

fn too_long(bytes: usize) -> io::Error {
    invalid(format!("a record of {bytes} bytes, more than {BODY_BYTES_MAX}"))
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Op;
    use crate::golden;
    use crate::types::LogId;

    /// The bytes that `put` puts.
    fn bytes(put: impl FnOnce(&mut Frame) -> io::Result<()>) -> Vec<u8> {
        let mut frame = Frame::begin(0, &[], Vec::new());
        put(&mut frame).unwrap();
        frame.bytes.split_off(super::super::frame::HEADER_BYTES)
    }

    fn command() -> Entry {
        let command = Command::encode(&Op::AgeAppend { name: "n".into(), age: 9 }).unwrap();
        Entry { log_id: LogId::new_term_index(2, 256), payload: EntryPayload::Normal(command) }
    }

    fn membership() -> Entry {
        let member = crate::types::Member { name: "a".into(), peer: "b".into() };
        let members = std::collections::BTreeMap::from([(1, member)]);
        let membership = Membership::new(vec![std::collections::BTreeSet::from([1])], members).unwrap();
        Entry { log_id: LogId::new_term_index(2, 257), payload: EntryPayload::Membership(membership) }
    }

    fn all() -> Vec<(&'static str, Record, Vec<u8>)> {
        let id = LogIdV1 { term: 2, index: 256 };
        let vote = VoteV1 { term: 2, node_id: 3, committed: true };
        let before = BeforeV1 { vote: Some(vote), committed: Some(id), purged: None, last: Some(id) };
        let blank = Entry { log_id: LogId::new_term_index(2, 255), payload: EntryPayload::Blank };
        let entry = |entry: &Entry| bytes(|frame| put_entry(frame, entry).map(drop));
        vec![
            ("log record before", Record::Before(before.clone()), bytes(|frame| put_before(frame, &before))),
            ("log record entry blank", Record::Entry(blank.clone()), entry(&blank)),
            ("log record entry command", Record::Entry(command()), entry(&command())),
            ("log record entry membership", Record::Entry(membership()), entry(&membership())),
            ("log record vote", Record::Vote(vote), bytes(|frame| put_vote(frame, &vote))),
            ("log record committed", Record::Committed(id), bytes(|frame| put_committed(frame, &id))),
            ("log record truncated", Record::Truncated(7), bytes(|frame| put_truncated(frame, 7))),
            ("log record purged", Record::Purged(id), bytes(|frame| put_purged(frame, &id))),
        ]
    }

    #[test]
    fn golden_bytes_and_back() {
        let written: Vec<_> = all().into_iter().map(|(name, _, bytes)| (name.to_owned(), bytes)).collect();
        golden::check(golden::LOG, "", &written);
        for (name, record, bytes) in all() {
            let (read, len) = read(&bytes).unwrap();
            assert_eq!((read, len), (record, bytes.len()), "{name}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        for (name, _, good) in all() {
            for at in 0..good.len() {
                assert!(read(&good[..at]).is_err(), "{name} cut at {at}");
                for bit in 0..8 {
                    let mut damaged = good.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(read(&damaged).is_err(), "{name}, bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn what_a_newer_hearth_wrote_is_said_to_be_so() {
        let mut unknown = Frame::begin(0, &[], Vec::new());
        put(&mut unknown, 99, [&[1], &[]]).unwrap();
        let mut format = Frame::begin(0, &[], Vec::new());
        put(&mut format, VOTE, [&[9], &[]]).unwrap();
        let mut entry = Frame::begin(0, &[], Vec::new());
        put(&mut entry, ENTRY, [&[9; ENTRY_HEADER_BYTES], &[]]).unwrap();
        for (frame, message) in [(unknown, "kind 99"), (format, "vote: format 9"), (entry, "entry: format 9")]
        {
            let error = read(&frame.bytes[super::super::frame::HEADER_BYTES..]).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("a newer Hearth wrote it"), "{error}");
        }
    }
}
