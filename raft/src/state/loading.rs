//! Reading a state at rest: sled's rows, and over them those of a checkpoint that a crash interrupted.
//!
//! The [`journal`] of that checkpoint is complete and sled may have any part of it. Writing the rest to sled takes some
//! 10 µs a row, ten seconds for a million, so a start does not wait for it: both are in the order of their keys, and
//! are read side by side. What the journal has of a row counts.

use std::collections::BTreeMap;
use std::io;
use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;

use crate::codec::{self, CodecError};
use crate::state::ascending::Ascending;
use crate::state::generation::{Generation, in_generation, sled_error};
use crate::state::journal::{self, Change, JournalReader};
use crate::state::rows::{self, AGES, ANSWER, AgesV1, AnswerV1, KEY, META, MetaV1};
use crate::state::{Record, State, content_type};
use crate::types::StoredMembership;

/// Loads what `generation` and its journal hold.
///
/// # Errors
/// `InvalidData` naming the directory or the journal, and the row or offset, when anything is damaged or missing; what
/// the file system says otherwise.
pub(super) fn load(dir: &Path, generation: &Generation) -> io::Result<State> {
    let overlay =
        JournalReader::open(dir, generation.number).map_err(Failed::Journal).and_then(Overlay::begin);
    overlay.and_then(|overlay| state_of(&generation.db, overlay)).map_err(|failed| match failed {
        Failed::Sled(error) => in_generation(&generation.path(), &error),
        Failed::Journal(error) => in_generation(&journal::path(dir), &error),
    })
}

/// What could not be read.
enum Failed {
    Sled(io::Error),
    Journal(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Sled(error)
    }
}

impl From<CodecError> for Failed {
    fn from(error: CodecError) -> Self {
        Self::Sled(error.into())
    }
}

fn state_of(db: &sled::Db, mut overlay: Overlay) -> Result<State, Failed> {
    let mut state = State::default();
    let mut last_type = Arc::default();
    let mut keys = Ascending::default();
    let mut heads = Heads::of(KEY, db);
    while let Some(head) = heads.next(&mut overlay)? {
        let key = name_of(head.key())?;
        let row = rows::read_key(unsealed(head.key(), head.sealed())?)?;
        let value = rows::read_value(key, &row, |piece| head.piece(db, piece))??;
        if value.len() as u64 != row.value_bytes() {
            return Err(bad_row(head.key(), "its pieces do not add up").into());
        }
        last_type = content_type(row.content_type, Some(&last_type));
        let record = Record {
            value,
            content_type: Arc::clone(&last_type),
            revision: row.revision,
            created_revision: row.created_revision,
            expires_at_ms: row.expires_at_ms,
            hash: 0,
        };
        state.restore_key(&mut keys, key.into(), record);
    }
    keys.finish(&mut state.keys);
    let mut heads = Heads::of(AGES, db);
    while let Some(head) = heads.next(&mut overlay)? {
        let name = name_of(head.key())?;
        let row: AgesV1 = codec::decode("ages row", unsealed(head.key(), head.sealed())?)?;
        let list = rows::read_ages(name, &row, |piece| head.piece(db, piece))??;
        if list.len() as u64 != row.len {
            return Err(bad_row(head.key(), "its pieces do not add up").into());
        }
        state.restore_ages(name.into(), list);
    }
    let mut heads = Heads::of(ANSWER, db);
    while let Some(head) = heads.next(&mut overlay)? {
        let row: AnswerV1 = codec::decode("answer row", unsealed(head.key(), head.sealed())?)?;
        state.restore_answer(name_of(head.key())?.into(), row.into());
    }
    let mut heads = Heads::of(META[0], db);
    let head = heads.next(&mut overlay)?.ok_or_else(|| bad_row(META, "missing"))?;
    let meta: MetaV1 = codec::decode("meta row", unsealed(head.key(), head.sealed())?)?;
    if let Some(group) = overlay.group {
        return Err(Failed::Journal(bad_row(group.head.key(), "not in order")));
    }

    state.clock_ms = meta.clock_ms;
    state.last_applied = meta.last_applied.map(Into::into);
    state.membership = Arc::new(StoredMembership::try_from(meta.membership.clone())?);
    let found = MetaV1::from(&state);
    if found != meta {
        let reason = format!(
            "{} keys, {} names, {} answers, {} bytes and hash {:016x} where {}, {}, {}, {} and {:016x} were written",
            found.keys,
            found.names,
            found.answers,
            found.data_bytes,
            found.hash,
            meta.keys,
            meta.names,
            meta.answers,
            meta.data_bytes,
            meta.hash
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason).into());
    }
    Ok(state)
}

/// The changes that the journal has, group by group.
struct Overlay {
    journal: Option<JournalReader>,
    group: Option<Group>,
    /// Read already, and the head of the group after that.
    next: Option<Change>,
}

/// A head row and, of the pieces that belong to it, those that are put.
struct Group {
    head: Change,
    pieces: BTreeMap<Vec<u8>, Change>,
}

impl Overlay {
    fn begin(journal: Option<JournalReader>) -> Result<Self, Failed> {
        let mut overlay = Self { journal, group: None, next: None };
        overlay.next = overlay.read()?;
        overlay.take()?;
        Ok(overlay)
    }

    /// The group, and reads the next one.
    fn take(&mut self) -> Result<Option<Group>, Failed> {
        let mut group = self.next.take().map(|head| Group { head, pieces: BTreeMap::new() });
        if let Some(group) = &mut group {
            self.next = self.read()?;
            while let Some(piece) = self.next.take_if(|change| rows::is_piece(change.key())) {
                if piece.row().is_some() {
                    group.pieces.insert(piece.key().to_vec(), piece);
                }
                self.next = self.read()?;
            }
        }
        Ok(std::mem::replace(&mut self.group, group))
    }

    fn read(&mut self) -> Result<Option<Change>, Failed> {
        let Some(journal) = &mut self.journal else { return Ok(None) };
        let change = journal.next().map_err(Failed::Journal)?;
        if change.is_none() {
            self.journal = None;
        }
        Ok(change)
    }
}

/// The head rows of one kind, in the order of their keys.
struct Heads {
    kind: u8,
    at_rest: Peekable<sled::Iter>,
}

/// A head row, checksum and all.
enum Head {
    AtRest(sled::IVec, sled::IVec),
    Changed(Group),
}

impl Heads {
    fn of(kind: u8, db: &sled::Db) -> Self {
        Self { kind, at_rest: db.scan_prefix([kind]).peekable() }
    }

    fn next(&mut self, overlay: &mut Overlay) -> Result<Option<Head>, Failed> {
        loop {
            let changed = overlay.group.as_ref().map(|group| group.head.key());
            let changed = changed.filter(|key| key.first() == Some(&self.kind));
            match (changed, self.at_rest.peek()) {
                (Some(changed), Some(Ok((key, _)))) if **key == *changed => {
                    self.at_rest.next();
                }
                (None, Some(_)) | (Some(_), Some(Err(_))) => break,
                (Some(changed), Some(Ok((key, _)))) if **key < *changed => break,
                (None, None) => return Ok(None),
                (Some(_), _) => {
                    // Else it is removed.
                    if let Some(group) = overlay.take()?.filter(|group| group.head.row().is_some()) {
                        return Ok(Some(Head::Changed(group)));
                    }
                }
            }
        }
        let row = self.at_rest.next().transpose().map_err(sled_error)?;
        Ok(row.map(|(key, sealed)| Head::AtRest(key, sealed)))
    }
}

impl Head {
    fn key(&self) -> &[u8] {
        match self {
            Self::AtRest(key, _) => key,
            Self::Changed(group) => group.head.key(),
        }
    }

    fn sealed(&self) -> &[u8] {
        match self {
            Self::AtRest(_, sealed) => sealed,
            Self::Changed(group) => group.head.row().unwrap_or_default(),
        }
    }

    /// The row of a piece that belongs to it, without its checksum.
    fn piece(&self, db: &sled::Db, key: &[u8]) -> io::Result<Vec<u8>> {
        if let Self::Changed(group) = self
            && let Some(sealed) = group.pieces.get(key).and_then(Change::row)
        {
            return unsealed(key, sealed).map(<[u8]>::to_vec);
        }
        let sealed = db.get(key).map_err(sled_error)?.ok_or_else(|| bad_row(key, "missing"))?;
        unsealed(key, &sealed).map(<[u8]>::to_vec)
    }
}

fn unsealed<'a>(key: &[u8], sealed: &'a [u8]) -> io::Result<&'a [u8]> {
    rows::unseal(key, sealed).ok_or_else(|| bad_row(key, "checksum does not match"))
}

fn name_of(head_row: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(&head_row[1..]).map_err(|_| bad_row(head_row, "its key is not UTF-8"))
}

fn bad_row(key: &[u8], reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("row {}: {reason}", key.escape_ascii()))
}
