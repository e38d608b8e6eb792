//! How the state lies in sled: one tree, ordered rows, each with a checksum of its own.
//!
//! | row key | row value |
//! |---|---|
//! | `m` | [`MetaV1`]: last applied, membership, clock, and counts to check the rest against |
//! | `k` key | [`KeyV2`]: revisions, content type, and the value when it is small |
//! | `v` len(key):u16 key piece:u32 | one piece of a larger value |
//! | `a` name | [`AgesV1`]: revisions and length of a list of ages |
//! | `i` idempotency key | [`AnswerV1`]: what was answered under it |
//! | `g` len(name):u16 name piece:u32 | one piece of that list, one byte an age |
//!
//! Numbers in row keys are big-endian, so that pieces sort. A value is cut into pieces of
//! [`PIECE_BYTES`] because sled puts pages above about 128 KiB into files that it never syncs, and a
//! leaf page holds up to 16 rows: 17 rows of 4 KiB stay well below that.

use std::io;
use std::num::NonZeroU64;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, LogIdV1, StoredMembershipV1};
use crate::command::Reply;
use crate::state::{AgeList, Record, Remembered, State};

/// Bytes of a value that one row holds at most.
pub(crate) const PIECE_BYTES: usize = 4096;
/// Ages that one row holds at most; an append rewrites one such row.
pub(crate) const PIECE_AGES: usize = 1024;

/// Row key of the [`MetaV1`].
pub(crate) const META: &[u8] = b"m";
pub(crate) const KEY: u8 = b'k';
const VALUE_PIECE: u8 = b'v';
pub(crate) const AGES: u8 = b'a';
const AGES_PIECE: u8 = b'g';
pub(crate) const ANSWER: u8 = b'i';

/// What is true of the whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetaV1 {
    pub(crate) last_applied: Option<LogIdV1>,
    pub(crate) membership: StoredMembershipV1,
    pub(crate) clock_ms: u64,
    pub(crate) keys: u64,
    pub(crate) names: u64,
    pub(crate) answers: u64,
    pub(crate) data_bytes: u64,
    pub(crate) hash: u64,
}

impl From<&State> for MetaV1 {
    fn from(state: &State) -> Self {
        Self {
            last_applied: state.last_applied.map(Into::into),
            membership: (&*state.membership).into(),
            clock_ms: state.clock_ms,
            keys: state.keys.len() as u64,
            names: state.ages.len() as u64,
            answers: state.answers.by_key.len() as u64,
            data_bytes: state.data_bytes,
            hash: state.hash,
        }
    }
}

/// The head of a key.
///
/// There are millions of them, so it is the one record in layout version 2: with a value of 256 bytes its row takes
/// 277 bytes, and 302 in version 1.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyV2<'a> {
    pub(crate) revision: u64,
    pub(crate) created_revision: u64,
    pub(crate) expires_at_ms: Option<NonZeroU64>,
    pub(crate) content_type: &'a str,
    #[serde(borrow)]
    value: ValueV2<'a>,
}

/// Where the value of a key is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ValueV2<'a> {
    /// Here: it fits a piece.
    Inline(#[serde(with = "serde_bytes", borrow)] &'a [u8]),
    /// In pieces, which have so many bytes together.
    Pieces(u64),
}

impl KeyV2<'_> {
    /// Length of the whole value.
    pub(crate) fn value_bytes(&self) -> u64 {
        match self.value {
            ValueV2::Inline(value) => value.len() as u64,
            ValueV2::Pieces(value_bytes) => value_bytes,
        }
    }
}

impl<'a> From<KeyV1<'a>> for KeyV2<'a> {
    fn from(key: KeyV1<'a>) -> Self {
        let KeyV1 { revision, created_revision, expires_at_ms, content_type, value_bytes, inline } = key;
        let in_pieces = value_bytes > PIECE_BYTES as u64;
        let value = if in_pieces { ValueV2::Pieces(value_bytes) } else { ValueV2::Inline(inline) };
        Self { revision, created_revision, expires_at_ms, content_type, value }
    }
}

/// The head of a key as it was before [`KeyV2`]; only read. `value_bytes` counts the whole value; `inline` holds it
/// when it fits a piece.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyV1<'a> {
    pub(crate) revision: u64,
    pub(crate) created_revision: u64,
    pub(crate) expires_at_ms: Option<NonZeroU64>,
    pub(crate) content_type: &'a str,
    pub(crate) value_bytes: u64,
    #[serde(with = "serde_bytes")]
    pub(crate) inline: &'a [u8],
}

/// The head of a list of ages.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgesV1 {
    pub(crate) created_revision: u64,
    pub(crate) revision: u64,
    pub(crate) len: u64,
}

/// An answer that is remembered under an idempotency key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnswerV1 {
    fingerprint: u128,
    revision: u64,
    expires_at_ms: u64,
    reply: Reply,
}

impl From<&Remembered> for AnswerV1 {
    fn from(answer: &Remembered) -> Self {
        let Remembered { fingerprint, revision, expires_at_ms, reply } = answer.clone();
        Self { fingerprint, revision, expires_at_ms, reply }
    }
}

impl From<AnswerV1> for Remembered {
    fn from(answer: AnswerV1) -> Self {
        let AnswerV1 { fingerprint, revision, expires_at_ms, reply } = answer;
        Self { fingerprint, revision, expires_at_ms, reply }
    }
}

/// `kind` and the whole of `name`: the key of a head row.
pub(crate) fn head_key(kind: u8, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Whether a row key is that of a piece, which belongs to the head row that was written before it.
pub(super) fn is_piece(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(VALUE_PIECE | AGES_PIECE)))
}

fn too_long(_: std::num::TryFromIntError) -> CodecError {
    CodecError::Malformed { what: "row key", source: Box::new(bincode::ErrorKind::SizeLimit) }
}

fn age_piece_key(name: &str, piece: usize) -> Result<Vec<u8>, CodecError> {
    piece_key(AGES_PIECE, name, u32::try_from(piece).map_err(too_long)?)
}

fn piece_key(kind: u8, name: &str, piece: u32) -> Result<Vec<u8>, CodecError> {
    let mut key = Vec::with_capacity(1 + 2 + name.len() + 4);
    key.push(kind);
    key.extend_from_slice(&u16::try_from(name.len()).map_err(too_long)?.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&piece.to_be_bytes());
    Ok(key)
}

/// Appends the checksum that binds `row` to its key.
pub(crate) fn seal(key: &[u8], mut row: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(key, &row);
    row.extend_from_slice(&checksum.to_le_bytes());
    row
}

/// Checks and takes off what [`seal`] appended; `None` when the row is damaged.
pub(crate) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (row, stored) = sealed.split_last_chunk::<4>()?;
    (u32::from_le_bytes(*stored) == checksum(key, row)).then_some(row)
}

fn checksum(key: &[u8], row: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(row);
    hasher.finalize()
}

/// How many piece rows a value of this length has; 0 when it is inline.
pub(super) fn value_pieces(value_bytes: usize) -> u32 {
    if value_bytes <= PIECE_BYTES {
        0
    } else {
        u32::try_from(value_bytes.div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX)
    }
}

fn age_pieces(len: usize) -> usize {
    len.div_ceil(PIECE_AGES)
}

/// Where rows go: into sled, or into the journal before that.
pub(crate) trait Rows {
    fn put(&mut self, key: &[u8], sealed: &[u8]) -> io::Result<()>;
    fn remove(&mut self, key: &[u8]) -> io::Result<()>;
}

/// What lies at rest of a list of ages.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListAtRest {
    created_revision: u64,
    len: usize,
}

impl From<&AgeList> for ListAtRest {
    fn from(list: &AgeList) -> Self {
        Self { created_revision: list.created_revision(), len: list.len() }
    }
}

/// Writes `record`, and takes away what there is more of the `pieces_at_rest`.
pub(crate) fn write_key(
    rows: &mut impl Rows,
    key: &str,
    pieces_at_rest: u32,
    record: &Record,
) -> io::Result<()> {
    let pieces = value_pieces(record.value.len());
    let head = KeyV2 {
        revision: record.revision,
        created_revision: record.created_revision,
        expires_at_ms: record.expires_at_ms,
        content_type: &record.content_type,
        value: match pieces {
            0 => ValueV2::Inline(&record.value),
            _ => ValueV2::Pieces(record.value.len() as u64),
        },
    };
    put(rows, head_key(KEY, key), codec::encode_v2("key row", &head)?)?;
    for (number, piece) in (0..pieces).zip(record.value.chunks(PIECE_BYTES)) {
        put(rows, piece_key(VALUE_PIECE, key, number)?, piece.to_vec())?;
    }
    for number in pieces..pieces_at_rest {
        rows.remove(&piece_key(VALUE_PIECE, key, number)?)?;
    }
    Ok(())
}

/// Removes every row of a key with so many pieces.
pub(super) fn remove_key(rows: &mut impl Rows, key: &str, pieces_at_rest: u32) -> io::Result<()> {
    rows.remove(&head_key(KEY, key))?;
    for number in 0..pieces_at_rest {
        rows.remove(&piece_key(VALUE_PIECE, key, number)?)?;
    }
    Ok(())
}

/// Writes what `list` has more than what lies at rest; all of it when that is another list.
pub(super) fn write_ages(
    rows: &mut impl Rows,
    name: &str,
    at_rest: Option<ListAtRest>,
    list: &AgeList,
) -> io::Result<()> {
    let head = AgesV1 {
        created_revision: list.created_revision(),
        revision: list.revision(),
        len: list.len() as u64,
    };
    put(rows, head_key(AGES, name), codec::encode("ages row", &head)?)?;
    let first = match at_rest {
        Some(old) if old.created_revision == list.created_revision() => old.len / PIECE_AGES,
        _ => 0,
    };
    let mut ages = list.iter_from(first * PIECE_AGES);
    for number in first..age_pieces(list.len()) {
        put(rows, age_piece_key(name, number)?, ages.by_ref().take(PIECE_AGES).collect())?;
    }
    for number in age_pieces(list.len())..at_rest.map_or(0, |old| age_pieces(old.len)) {
        rows.remove(&age_piece_key(name, number)?)?;
    }
    Ok(())
}

/// Removes every row of a list.
pub(super) fn remove_ages(rows: &mut impl Rows, name: &str, at_rest: Option<ListAtRest>) -> io::Result<()> {
    rows.remove(&head_key(AGES, name))?;
    for number in 0..at_rest.map_or(0, |old| age_pieces(old.len)) {
        rows.remove(&age_piece_key(name, number)?)?;
    }
    Ok(())
}

/// Writes an answer under its idempotency key.
pub(crate) fn write_answer(rows: &mut impl Rows, key: &str, answer: &Remembered) -> io::Result<()> {
    put(rows, head_key(ANSWER, key), codec::encode("answer row", &AnswerV1::from(answer))?)
}

/// Removes the answer under an idempotency key.
pub(crate) fn remove_answer(rows: &mut impl Rows, key: &str) -> io::Result<()> {
    rows.remove(&head_key(ANSWER, key))
}

/// Writes the meta row, which is what makes a batch a checkpoint.
pub(crate) fn write_meta(rows: &mut impl Rows, meta: &MetaV1) -> io::Result<()> {
    put(rows, META.to_vec(), codec::encode("meta row", meta)?)?;
    Ok(())
}

fn put(rows: &mut impl Rows, key: Vec<u8>, row: Vec<u8>) -> io::Result<()> {
    let sealed = seal(&key, row);
    rows.put(&key, &sealed)
}

/// Reads the head of a key.
pub(crate) fn read_key(row: &[u8]) -> Result<KeyV2<'_>, CodecError> {
    codec::decode_v1_or_v2::<KeyV1<'_>, _>("key row", row)
}

/// Reads the value of a key, from its pieces when it is not inline.
///
/// `row` fetches a row by its key, checked and unsealed.
pub(crate) fn read_value<E>(
    key: &str,
    head: &KeyV2<'_>,
    mut row: impl FnMut(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Result<Bytes, E>, CodecError> {
    let value_bytes = match head.value {
        ValueV2::Inline(value) => return Ok(Ok(Bytes::copy_from_slice(value))),
        ValueV2::Pieces(value_bytes) => usize::try_from(value_bytes).unwrap_or(usize::MAX),
    };
    let pieces = value_pieces(value_bytes);
    let mut value = Vec::with_capacity(value_bytes.min(1 << 20));
    for number in 0..pieces {
        match row(&piece_key(VALUE_PIECE, key, number)?) {
            Ok(piece) => value.extend_from_slice(&piece),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(value.into()))
}

/// Reads the pieces of a list of ages.
pub(crate) fn read_ages<E>(
    name: &str,
    head: &AgesV1,
    mut row: impl FnMut(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Result<AgeList, E>, CodecError> {
    let mut ages = imbl::Vector::new();
    for number in 0..age_pieces(usize::try_from(head.len).unwrap_or(usize::MAX)) {
        match row(&age_piece_key(name, number)?) {
            Ok(piece) => ages.extend(piece),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(AgeList::restored(ages, head.created_revision, head.revision)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_rows() {
        assert_eq!(head_key(KEY, "a"), b"ka");
        assert_eq!(piece_key(VALUE_PIECE, "a/b", 258).unwrap(), b"v\0\x03a/b\0\0\x01\x02");
        let head = KeyV1 {
            revision: 2,
            created_revision: 1,
            expires_at_ms: NonZeroU64::new(258),
            content_type: "t",
            value_bytes: 1,
            inline: b"x",
        };
        let row = codec::encode("key row", &head).unwrap();
        let mut expected = vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([1, 2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b't', 1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b'x']);
        assert_eq!(row, expected);
        let mut head = KeyV2::from(head);
        assert_eq!(read_key(&row).unwrap(), head);
        let row = codec::encode_v2("key row", &head).unwrap();
        assert_eq!(row, [2, 2, 1, 1, 251, 2, 1, 1, b't', 0, 1, b'x']);
        assert_eq!(read_key(&row).unwrap(), head);
        head.content_type = "";
        head.value = ValueV2::Pieces(70_000);
        let large = codec::encode_v2("key row", &head).unwrap();
        assert_eq!(large, [2, 2, 1, 1, 251, 2, 1, 0, 1, 252, 112, 17, 1, 0]);
        assert_eq!(read_key(&large).unwrap(), head);

        let answer = Remembered {
            fingerprint: 5,
            revision: 2,
            expires_at_ms: 258,
            reply: Reply::Written { created: true },
        };
        assert_eq!(head_key(ANSWER, "x-1"), b"ix-1");
        let answer = codec::encode("answer row", &AnswerV1::from(&answer)).unwrap();
        let mut expected = vec![1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(answer, expected);

        let sealed = seal(b"ka", row.clone());
        assert_eq!(sealed[sealed.len() - 4..], crc32fast::hash(&[b"ka", &row[..]].concat()).to_le_bytes());
    }

    #[test]
    fn a_seal_finds_every_flipped_bit() {
        let sealed = seal(b"ka", b"some row".to_vec());
        assert_eq!(unseal(b"ka", &sealed), Some(&b"some row"[..]));
        assert_eq!(unseal(b"kb", &sealed), None, "the row belongs to another key");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"ka", &damaged), None, "bit {bit}");
        }
        assert_eq!(unseal(b"ka", b"abc"), None);
    }
}
