//! The state as a stream: how a follower that is far behind gets it.
//!
//! A snapshot is written straight from a frozen view, record by record, so the sender needs no
//! memory for it and no file. The receiver writes each record to a new generation at rest as it arrives,
//! checks all of it, and only then lets openraft install it.
//!
//! Layout: the 8 bytes `HEARTHS` 1, then [`frames`], each with a record. The first record is [`SnapshotRecordV1::Meta`], the last [`SnapshotRecordV1::End`] with
//! the number of records and a checksum over all of them, so that a stream that stops early, or
//! lacks or repeats a frame, is refused.

use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::state::ascending::Ascending;
use crate::state::checkpoint::Incoming;
use crate::state::frames;
use crate::state::rows::{self, AnswerV1, MetaV1, Rows};
use crate::state::{AgeList, Record, State, View, content_type};
use crate::types::StoredMembership;

const MAGIC: &[u8; 8] = b"HEARTHS\x01";

/// Ages that one record carries at most.
const AGES_PER_RECORD: usize = 64 * 1024;

/// The content of a snapshot, on the side that sends or on the side that received it.
#[derive(Debug)]
pub enum SnapshotData {
    /// A frozen view of this node.
    View(View),
    /// A complete state that a leader sent.
    Incoming(Incoming),
    /// A checkpoint of this node. It is at rest and nowhere else.
    AtRest,
}

impl SnapshotData {
    /// The state, if it is in memory.
    pub(crate) fn view(&self) -> Option<&View> {
        match self {
            Self::View(view) => Some(view),
            Self::Incoming(incoming) => Some(incoming.view()),
            Self::AtRest => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
enum SnapshotRecordV1<'a> {
    Meta(MetaV1),
    Key {
        key: &'a str,
        revision: u64,
        created_revision: u64,
        expires_at_ms: Option<NonZeroU64>,
        content_type: &'a str,
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
    /// A part of a list; the parts of one list follow each other.
    Ages {
        name: &'a str,
        revision: u64,
        created_revision: u64,
        #[serde(with = "serde_bytes")]
        ages: &'a [u8],
    },
    Answer {
        key: &'a str,
        answer: AnswerV1,
    },
    End {
        records: u64,
        checksum: u32,
    },
}

/// Writes `state` to `out`.
///
/// # Errors
/// Those of `out`; also when its receiver is gone.
pub(crate) fn write(state: &State, out: &mut impl Write) -> io::Result<()> {
    out.write_all(MAGIC)?;
    let mut frames = FrameWriter { out, records: 0, checksum: crc32fast::Hasher::new() };
    frames.write(&SnapshotRecordV1::Meta(state.into()))?;
    for (key, record) in &state.keys {
        frames.write(&SnapshotRecordV1::Key {
            key,
            revision: record.revision,
            created_revision: record.created_revision,
            expires_at_ms: record.expires_at_ms,
            content_type: &record.content_type,
            value: &record.value,
        })?;
    }
    for (name, list) in &state.ages {
        let mut ages = list.iter();
        let mut left = list.len();
        while left > 0 {
            let part: Vec<u8> = ages.by_ref().take(AGES_PER_RECORD).collect();
            left -= part.len();
            frames.write(&SnapshotRecordV1::Ages {
                name,
                revision: list.revision(),
                created_revision: list.created_revision(),
                ages: &part,
            })?;
        }
    }
    for (key, answer) in &state.answers.by_key {
        frames.write(&SnapshotRecordV1::Answer { key, answer: (&**answer).into() })?;
    }
    let (records, checksum) = (frames.records, frames.checksum.clone().finalize());
    frames.write(&SnapshotRecordV1::End { records, checksum })?;
    frames.out.flush()
}

struct FrameWriter<'a, W> {
    out: &'a mut W,
    records: u64,
    checksum: crc32fast::Hasher,
}

impl<W: Write> FrameWriter<'_, W> {
    fn write(&mut self, record: &SnapshotRecordV1<'_>) -> io::Result<()> {
        let body = codec::encode("snapshot record", record)?;
        frames::write(self.out, &[&body])?;
        self.records += 1;
        self.checksum.update(&body);
        Ok(())
    }
}

/// Reads what [`write`] wrote, and puts all rows but the meta row to `rows` as they come.
///
/// # Errors
/// `InvalidData` naming the offset when the stream is damaged or incomplete. What is in `rows` is of no
/// use then.
pub(crate) fn read(mut input: impl Read, rows: &mut impl Rows) -> io::Result<State> {
    let mut magic = [0; 8];
    input.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(invalid("it does not begin like one, or a newer Hearth wrote it"));
    }
    let mut offset = MAGIC.len() as u64;
    let mut records = 0;
    let mut checksum = crc32fast::Hasher::new();
    let mut meta: Option<MetaV1> = None;
    let mut state = State::default();
    let mut last_type = Arc::default();
    let mut keys = Ascending::default();
    loop {
        let body = frames::read(&mut input, offset).map_err(in_snapshot)?;
        let at = |error: codec::CodecError| invalid(&format!("offset {offset}: {error}"));
        let record: SnapshotRecordV1<'_> = codec::decode("snapshot record", &body).map_err(at)?;
        match (record, &meta) {
            (SnapshotRecordV1::Meta(first), None) => meta = Some(first),
            (
                SnapshotRecordV1::Key { key, revision, created_revision, expires_at_ms, content_type, value },
                Some(_),
            ) => {
                last_type = self::content_type(content_type, Some(&last_type));
                let record = Record {
                    value: bytes::Bytes::copy_from_slice(value),
                    content_type: Arc::clone(&last_type),
                    revision,
                    created_revision,
                    expires_at_ms,
                    hash: 0,
                };
                rows::write_key(rows, key, 0, &record)?;
                state.restore_key(&mut keys, key.into(), record);
            }
            (SnapshotRecordV1::Ages { name, revision, created_revision, ages }, Some(_)) => {
                restore_ages(&mut state, name, revision, created_revision, ages);
            }
            (SnapshotRecordV1::Answer { key, answer }, Some(_)) => {
                let answer = answer.into();
                rows::write_answer(rows, key, &answer)?;
                state.restore_answer(key.into(), answer);
            }
            (SnapshotRecordV1::End { records: sent, checksum: sum }, Some(meta)) => {
                if (sent, sum) != (records, checksum.finalize()) {
                    return Err(invalid(&format!(
                        "{records} records where {sent} were sent, or altered ones"
                    )));
                }
                keys.finish(&mut state.keys);
                state.clock_ms = meta.clock_ms;
                state.last_applied = meta.last_applied.map(Into::into);
                state.membership = Arc::new(StoredMembership::try_from(meta.membership.clone())?);
                if MetaV1::from(&state) != *meta {
                    return Err(invalid("its counts do not match its content"));
                }
                // Only now, since the parts of a list come one after the other.
                for (name, list) in &state.ages {
                    rows::write_ages(rows, name, None, list)?;
                }
                return Ok(state);
            }
            _ => return Err(invalid(&format!("offset {offset}: a record at the wrong place"))),
        }
        records += 1;
        checksum.update(&body);
        offset += frames::bytes(&body);
    }
}

fn restore_ages(state: &mut State, name: &str, revision: u64, created_revision: u64, ages: &[u8]) {
    // A further part of a list replaces the list by a longer one.
    let mut all = state.ages.get(name).map_or_else(imbl::Vector::new, AgeList::ages);
    all.extend(ages.iter().copied());
    state.forget_ages(name);
    state.restore_ages(name.into(), AgeList::restored(all, created_revision, revision));
}

fn in_snapshot(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("snapshot: {error}"))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{Nowhere, sample_state};

    fn bytes(state: &State) -> Vec<u8> {
        let mut out = Vec::new();
        write(state, &mut out).unwrap();
        out
    }

    #[test]
    fn round_trip() {
        let state = sample_state();
        let back = read(&bytes(&state)[..], &mut Nowhere).unwrap();
        assert_eq!(bytes(&back), bytes(&state));
        assert_eq!(back.meta(), state.meta());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let good = bytes(&sample_state());
        for at in 0..good.len() {
            assert!(read(&good[..at], &mut Nowhere).is_err(), "cut at {at}");
            let mut damaged = good.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(read(&damaged[..], &mut Nowhere).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_missing_or_repeated_frame_is_found() {
        let good = bytes(&sample_state());
        let mut frames = Vec::new();
        let mut at = MAGIC.len();
        while at < good.len() {
            let end = at + 8 + u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
            frames.push(&good[at..end]);
            at = end;
        }
        for skipped in 1..frames.len() - 1 {
            let without: Vec<_> =
                frames.iter().enumerate().filter(|(i, _)| *i != skipped).map(|(_, f)| *f).collect();
            assert!(read(&[&MAGIC[..], &without.concat()].concat()[..], &mut Nowhere).is_err());
            let mut twice = frames.clone();
            twice.insert(skipped, frames[skipped]);
            assert!(read(&[&MAGIC[..], &twice.concat()].concat()[..], &mut Nowhere).is_err());
        }
    }
}
