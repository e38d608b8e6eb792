//! How records become bytes: one format byte, then bincode with every option spelled out.
//!
//! Everything that is written to disk or sent to a peer goes through [`encode`] and [`decode`], so
//! that a record says which frozen layout it has and a reader refuses what it does not know. The
//! types with a `V1` suffix are those layouts: they never change. A new layout gets a `V2` and a
//! new format byte beside it. openraft's own types are never serialised, since their layout is
//! promised to nobody.

use std::collections::{BTreeMap, BTreeSet};

use bincode::Options;
use serde::{Deserialize, Serialize};

use crate::types::{LogId, Member, Membership, StoredMembership, Vote};

/// Layout version 1: integers have a fixed length.
pub(crate) const FORMAT_V1: u8 = 1;
/// Layout version 2, of the rows of keys alone: integers take as few bytes as they need.
pub(crate) const FORMAT_V2: u8 = 2;

/// Bytes that one log entry, peer frame or stored row may have at most.
///
/// A value has at most 1 MiB; a transaction carries several. Anything above this bound is damage or
/// an attack, and is refused before memory is reserved for it.
pub const RECORD_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Why bytes could not become a record, or a record bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// There is not even a format byte.
    #[error("{what}: empty record")]
    Empty {
        /// Which record was expected.
        what: &'static str,
    },
    /// The record was written by a version of Hearth that this one does not know.
    #[error("{what}: format {found} is not known here (known: up to {known}); a newer Hearth wrote it")]
    UnknownFormat {
        /// Which record was expected.
        what: &'static str,
        /// The format byte that was found.
        found: u8,
        /// The newest that this version knows.
        known: u8,
    },
    /// The bytes are damaged, too long, or not this record.
    #[error("{what}: {source}")]
    Malformed {
        /// Which record was expected.
        what: &'static str,
        /// What bincode says.
        source: bincode::Error,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn options() -> impl Options + Copy {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_BYTES_MAX).reject_trailing_bytes()
}

fn options_v2() -> impl Options + Copy {
    bincode::DefaultOptions::new().with_varint_encoding().with_limit(RECORD_BYTES_MAX).reject_trailing_bytes()
}

/// `head`, the format byte and `record`.
///
/// # Errors
/// [`CodecError::Malformed`] when the record is longer than [`RECORD_BYTES_MAX`].
pub(crate) fn encode_behind<T: Serialize>(
    head: &[u8],
    what: &'static str,
    record: &T,
) -> Result<Vec<u8>, CodecError> {
    write(head, FORMAT_V1, options(), record).map_err(|source| CodecError::Malformed { what, source })
}

fn write<T: Serialize>(
    head: &[u8],
    format: u8,
    options: impl Options + Copy,
    record: &T,
) -> bincode::Result<Vec<u8>> {
    let bytes = options.serialized_size(record)?;
    // As much as is needed: growing a step at a time costs more than to count first, and what has no room left
    // over becomes `Bytes` without another allocation.
    let mut out = Vec::with_capacity(head.len() + 1 + usize::try_from(bytes).unwrap_or(0));
    out.extend_from_slice(head);
    out.push(format);
    options.serialize_into(&mut out, record)?;
    Ok(out)
}

/// [`encode_behind`] nothing.
pub(crate) fn encode<T: Serialize>(what: &'static str, record: &T) -> Result<Vec<u8>, CodecError> {
    encode_behind(&[], what, record)
}

/// Reads back what [`encode`] wrote; byte slices inside the record borrow from `bytes`.
///
/// # Errors
/// Any [`CodecError`]: nothing is guessed and trailing bytes are refused.
pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, CodecError> {
    let (format, body) = bytes.split_first().ok_or(CodecError::Empty { what })?;
    if *format != FORMAT_V1 {
        return Err(CodecError::UnknownFormat { what, found: *format, known: FORMAT_V1 });
    }
    options().deserialize(body).map_err(|source| CodecError::Malformed { what, source })
}

/// [`encode`] in layout version 2.
pub(crate) fn encode_v2<T: Serialize>(what: &'static str, record: &T) -> Result<Vec<u8>, CodecError> {
    write(&[], FORMAT_V2, options_v2(), record).map_err(|source| CodecError::Malformed { what, source })
}

/// Reads back what [`encode_v2`] wrote, or [`encode`] of what version 1 had in its place; as [`decode`].
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_v1_or_v2<'a, V1, V2>(what: &'static str, bytes: &'a [u8]) -> Result<V2, CodecError>
where
    V1: Deserialize<'a> + Into<V2>,
    V2: Deserialize<'a>,
{
    match bytes.split_first() {
        Some((&FORMAT_V2, body)) => {
            options_v2().deserialize(body).map_err(|source| CodecError::Malformed { what, source })
        }
        Some((&found @ (0 | 3..), _)) => Err(CodecError::UnknownFormat { what, found, known: FORMAT_V2 }),
        _ => decode::<V1>(what, bytes).map(Into::into),
    }
}

/// A log id at rest and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogIdV1 {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl From<LogId> for LogIdV1 {
    fn from(id: LogId) -> Self {
        Self { term: *id.leader_id, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        LogId::new_term_index(id.term, id.index)
    }
}

/// A vote at rest and on the wire: whom this node supports, in which term, and whether a quorum
/// made that node leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteV1 {
    pub(crate) term: u64,
    pub(crate) node_id: u64,
    pub(crate) committed: bool,
}

impl VoteV1 {
    /// Whether both are for the same node in the same term.
    pub(crate) fn is_for_same(&self, other: &Self) -> bool {
        (self.term, self.node_id) == (other.term, other.node_id)
    }
}

impl From<Vote> for VoteV1 {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<VoteV1> for Vote {
    fn from(vote: VoteV1) -> Self {
        if vote.committed {
            Vote::new_committed(vote.term, vote.node_id)
        } else {
            Vote::new(vote.term, vote.node_id)
        }
    }
}

/// Votes of one term for different nodes are not ordered: openraft's rule, which the log repeats.
impl PartialOrd for VoteV1 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Vote::from(*self).partial_cmp(&Vote::from(*other))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberV1 {
    pub(crate) name: String,
    pub(crate) peer: String,
}

impl From<Member> for MemberV1 {
    fn from(member: Member) -> Self {
        Self { name: member.name, peer: member.peer }
    }
}

impl From<MemberV1> for Member {
    fn from(member: MemberV1) -> Self {
        Self { name: member.name, peer: member.peer }
    }
}

/// A membership at rest: one voter set, or two while a joint change is under way, and where every
/// member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipV1 {
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) members: BTreeMap<u64, MemberV1>,
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, member)| (*id, member.clone().into())).collect(),
        }
    }
}

impl TryFrom<MembershipV1> for Membership {
    type Error = CodecError;

    fn try_from(stored: MembershipV1) -> Result<Self, CodecError> {
        if stored.voters.is_empty() && stored.members.is_empty() {
            return Ok(Membership::default());
        }
        let members: BTreeMap<u64, Member> =
            stored.members.into_iter().map(|(id, m)| (id, m.into())).collect();
        Membership::new(stored.voters, members).map_err(|error| CodecError::Malformed {
            what: "membership",
            source: Box::new(bincode::ErrorKind::Custom(error.to_string())),
        })
    }
}

/// A membership together with the log entry that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMembershipV1 {
    pub(crate) log_id: Option<LogIdV1>,
    pub(crate) membership: MembershipV1,
}

impl From<&StoredMembership> for StoredMembershipV1 {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: stored.log_id().map(Into::into), membership: stored.membership().into() }
    }
}

impl TryFrom<StoredMembershipV1> for StoredMembership {
    type Error = CodecError;

    fn try_from(stored: StoredMembershipV1) -> Result<Self, CodecError> {
        Ok(StoredMembership::new(stored.log_id.map(Into::into), stored.membership.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote stays readable: these bytes are frozen.
    #[test]
    fn golden_bytes() {
        let log_id = LogIdV1 { term: 3, index: 258 };
        assert_eq!(encode("log id", &log_id).unwrap(), [1, 3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);

        let vote = VoteV1 { term: 2, node_id: 1, committed: true };
        assert_eq!(encode("vote", &vote).unwrap(), [1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);

        let stored = StoredMembershipV1 {
            log_id: None,
            membership: MembershipV1 {
                voters: vec![BTreeSet::from([1])],
                members: BTreeMap::from([(1, MemberV1 { name: "a".into(), peer: "b".into() })]),
            },
        };
        let bytes = encode("membership", &stored).unwrap();
        assert_eq!(bytes[..2], [1, 0]);
        assert_eq!(bytes.len(), 1 + 1 + 8 + 8 + 8 + 8 + 8 + 9 + 9);
        assert_eq!(decode::<StoredMembershipV1>("membership", &bytes).unwrap(), stored);

        let compact = encode_v2("log id", &log_id).unwrap();
        assert_eq!(compact, [2, 3, 251, 2, 1]);
        for bytes in [compact, encode("log id", &log_id).unwrap()] {
            assert_eq!(decode_v1_or_v2::<LogIdV1, LogIdV1>("log id", &bytes).unwrap(), log_id);
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let cases: [(&[u8], &str); 4] = [
            (&[], "log id: empty record"),
            (&[9, 0], "log id: format 9 is not known here (known: up to 1)"),
            (&[1, 0], "log id: io error: unexpected end of file"),
            (&[1; 18], "log id: Slice had bytes remaining"),
        ];
        for (bytes, message) in cases {
            let error = decode::<LogIdV1>("log id", bytes).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let cases: [(&[u8], &str); 6] = [
            (&[], "log id: empty record"),
            (&[0], "log id: format 0 is not known here (known: up to 2)"),
            (&[3, 0], "log id: format 3 is not known here (known: up to 2)"),
            (&[1, 3, 2], "log id: io error: unexpected end of file"),
            (&[2, 3], "log id: io error: unexpected end of file"),
            (&[2, 3, 2, 2], "log id: Slice had bytes remaining"),
        ];
        for (bytes, message) in cases {
            let error = decode_v1_or_v2::<LogIdV1, LogIdV1>("log id", bytes).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
