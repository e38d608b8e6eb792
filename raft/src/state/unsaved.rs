//! What the next checkpoint has to write: the keys, lists and answers that changed since the last one.
//!
//! **Idea.** The state that entries are applied to notes what it changes. Comparing it with a view of the
//! last checkpoint would find the same, but such a view keeps all values that were overwritten since in
//! memory, and as long as it is there the first change in each node of the maps copies the node. Whether
//! something is noted already is told by its revision: what is newer than the last checkpoint was changed
//! since, and noted when it was. So a note is a push to a list, and no key that is only overwritten has two.
//!
//! **Invariants.**
//! - Everything of which the state and the checkpoint at `since` have different rows is noted, or all notes
//!   were given up.
//! - The first of several notes of one name says what lies at rest of it.
//! - Notes serve for the very checkpoint that they begin behind; on any other the state is written anew.

use std::io;

use smol_str::SmolStr;

use crate::state::pace::Pace;
use crate::state::rows::{self, ListAtRest, Rows};
use crate::state::{AgeList, Record, Remembered, State, View};
use crate::types::LogId;

/// Notes that are kept at least, in memory of 32 bytes each; beyond it as many as the state has entries,
/// which `storage.data_bytes_max` bounds. To write more than that is to write the state anew.
const NOTES_MAX: usize = 1 << 20;
/// After so many notes the writer looks whether it is time for a pause.
const NOTES_PER_PAUSE: usize = 64;

/// What is changed and not at rest yet.
#[derive(Debug, Default)]
pub(crate) struct Unsaved {
    /// The last entry that is at rest, or will be as soon as the checkpoint that is being written is.
    since: Option<LogId>,
    /// With the number of pieces at rest.
    keys: Vec<(SmolStr, u32)>,
    names: Vec<(SmolStr, Option<ListAtRest>)>,
    answers: Vec<SmolStr>,
    /// There were too many, or nothing is noted at all.
    given_up: bool,
}

/// Only the state that entries are applied to has something to note. A view is a clone of it.
impl Clone for Unsaved {
    fn clone(&self) -> Self {
        Self { given_up: true, ..Self::default() }
    }
}

impl Unsaved {
    /// Nothing is changed behind the entry `since`.
    pub(super) fn since(since: Option<LogId>) -> Self {
        Self { since, ..Self::default() }
    }

    /// Whether what was written at `revision` was noted then.
    fn knows(&self, revision: u64) -> bool {
        self.given_up || revision > self.since.map_or(0, |id| id.index)
    }

    /// `key` is changed, and was `old` until now.
    pub(super) fn note_key(&mut self, key: &SmolStr, old: Option<&Record>) {
        match old {
            Some(old) if self.knows(old.revision) => {}
            None if self.given_up => {}
            _ => self.keys.push((key.clone(), old.map_or(0, |old| rows::value_pieces(old.value.len())))),
        }
    }

    /// The list of `name` is changed, and was `old` until now.
    pub(super) fn note_ages(&mut self, name: &str, old: Option<&AgeList>) {
        match old {
            Some(old) if self.knows(old.revision()) => {}
            None if self.given_up => {}
            _ => self.names.push((name.into(), old.map(ListAtRest::from))),
        }
    }

    /// The answer under `key` is changed, and was `old` until now.
    pub(super) fn note_answer(&mut self, key: &SmolStr, old: Option<&Remembered>) {
        match old {
            Some(old) if self.knows(old.revision) => {}
            None if self.given_up => {}
            _ => self.answers.push(key.clone()),
        }
    }

    /// Gives up when there are more notes than a state of `entries` is worth.
    pub(super) fn bound(&mut self, entries: usize) {
        if self.len() > NOTES_MAX.max(entries) {
            *self = Self { since: self.since, given_up: true, ..Self::default() };
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.names.len() + self.answers.len()
    }
}

/// A state with what a checkpoint of it has to write.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(super) view: View,
    unsaved: Unsaved,
}

impl Frozen {
    /// For a state that notes what it changes from here on as well.
    pub(super) fn new(view: View, unsaved: Unsaved) -> Self {
        Self { view, unsaved }
    }

    /// Whether it knows what it differs in from a checkpoint at `last`.
    pub(super) fn continues(&self, last: Option<LogId>) -> bool {
        !self.unsaved.given_up && self.unsaved.since == last
    }

    /// How many changes are noted.
    pub(super) fn notes(&self) -> usize {
        self.unsaved.len()
    }

    /// Writes every row that differs, but for the meta row; in ascending order within each kind, which sled
    /// takes at less cost than any other.
    pub(super) fn write(self, rows: &mut impl Rows, pace: &Pace<'_>) -> io::Result<()> {
        let Self { view, unsaved: Unsaved { mut keys, mut names, mut answers, .. } } = self;
        // Stable: of several notes of one name the first comes first, and stays.
        keys.sort_by(|(a, _), (b, _)| a.cmp(b));
        keys.dedup_by(|(later, _), (first, _)| later == first);
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        names.dedup_by(|(later, _), (first, _)| later == first);
        answers.sort_unstable();
        answers.dedup();

        let keys = keys.iter().map(|(key, pieces)| Note::Key(key, *pieces));
        let names = names.iter().map(|(name, at_rest)| Note::Ages(name, *at_rest));
        let notes = keys.chain(names).chain(answers.iter().map(|key| Note::Answer(key)));
        for (number, note) in notes.enumerate() {
            if number.is_multiple_of(NOTES_PER_PAUSE) {
                pace.pause_at(number as u64);
            }
            note.write(&view, rows)?;
        }
        Ok(())
    }
}

/// One note, with what is at rest.
enum Note<'a> {
    Key(&'a str, u32),
    Ages(&'a str, Option<ListAtRest>),
    Answer(&'a str),
}

impl Note<'_> {
    fn write(&self, state: &State, rows: &mut impl Rows) -> io::Result<()> {
        match *self {
            Self::Key(key, pieces) => match state.keys.get(key) {
                Some(record) => rows::write_key(rows, key, pieces, record),
                None => rows::remove_key(rows, key, pieces),
            },
            Self::Ages(name, at_rest) => match state.ages.get(name) {
                Some(list) => rows::write_ages(rows, name, at_rest, list),
                None => rows::remove_ages(rows, name, at_rest),
            },
            Self::Answer(key) => match state.answers.by_key.get(key) {
                Some(answer) => rows::write_answer(rows, key, answer),
                None => rows::remove_answer(rows, key),
            },
        }
    }
}

#[cfg(test)]
mod tests;
