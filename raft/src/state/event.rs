//! What watchers are told: one event for each change of a key, in the order of the log.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::state::Record;

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was put, or added to.
    Put {
        /// What it has now; shared with the state.
        record: Arc<Record>,
        /// Whether it was not there before.
        created: bool,
    },
    /// It was deleted, alone or by prefix.
    Deleted,
    /// Its time to live was up.
    Expired,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What a watcher that got this event, and all before it, resumes after.
    pub id: EventId,
    /// The key.
    pub key: SmolStr,
    /// What became of it.
    pub change: Change,
}

/// A place between two events, the same on every node: behind the whole of a revision, written `17`, or
/// behind some of its events, written `17.3`. Their order is that of the log.
///
/// One revision has many events when a transaction, the removal of a prefix, or the end of several times
/// to live made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Log index of the entry.
    revision: u64,
    /// How many of its events, whatever their keys, lie before; [`WHOLE`] for all.
    position: u32,
}

/// Stands for all events of a revision. No entry changes as many keys.
const WHOLE: u32 = u32::MAX;

impl EventId {
    /// Behind all events of `revision`.
    pub fn whole(revision: u64) -> Self {
        Self { revision, position: WHOLE }
    }

    /// Behind the first `position` events of `revision`.
    pub(super) fn within(revision: u64, position: u32) -> Self {
        Self { revision, position }
    }

    /// The revision that it lies in, or behind.
    pub fn revision(self) -> u64 {
        self.revision
    }

    /// The last revision of which nothing is left behind this place.
    pub fn whole_revision(self) -> u64 {
        if self.position == WHOLE { self.revision } else { self.revision.saturating_sub(1) }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            WHOLE => write!(f, "{}", self.revision),
            position => write!(f, "{}.{position}", self.revision),
        }
    }
}

impl FromStr for EventId {
    type Err = String;

    /// # Errors
    /// Says how it is written.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a revision like 17, or an event's id like 17.3");
        // `parse` would take a sign.
        let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        let (revision, position) = match text.split_once('.') {
            Some((revision, position)) => (revision, Some(position)),
            None => (text, None),
        };
        if !plain(revision) || !position.is_none_or(plain) {
            return Err(wrong());
        }
        let revision = revision.parse().map_err(|_| wrong())?;
        let Some(position) = position else { return Ok(Self::whole(revision)) };
        match position.parse() {
            Ok(position) if (1..WHOLE).contains(&position) => Ok(Self { revision, position }),
            _ => Err(wrong()),
        }
    }
}

/// One change, before it is known which event of its revision it is.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) revision: u64,
    pub(super) key: SmolStr,
    pub(super) change: Change,
}

/// What entries change while they are applied: noted by the state, taken by the history.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    revision: u64,
    pub(super) list: Vec<Changed>,
}

impl Changes {
    /// What follows is changed by the entry at log index `revision`.
    pub(super) fn begin(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Log index of the entry that is being applied.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn note(&mut self, key: SmolStr, change: Change) {
        self.list.push(Changed { revision: self.revision, key, change });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in ["0", "17", "17.1", "17.4294967294", "18446744073709551615", "18446744073709551615.9"] {
            assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ".",
            "17.",
            ".3",
            "17.0",
            "17.4294967295",
            "+17",
            "17.+3",
            "-1",
            "17.3.1",
            " 17",
            "17.3 ",
            "x",
            "18446744073709551616",
            "1e3",
            "١٧",
        ] {
            let error = text.parse::<EventId>().unwrap_err();
            assert!(error.contains("like 17"), "{text:?}: {error}");
        }
    }

    #[test]
    fn ids_sort_as_events_do() {
        let sorted = ["16", "17.1", "17.2", "17.10", "17", "18.1", "18"];
        let ids: Vec<EventId> = sorted.iter().map(|text| text.parse().unwrap()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        let of = |text: &str| {
            let id: EventId = text.parse().unwrap();
            (id.revision(), id.whole_revision())
        };
        assert_eq!(of("17"), (17, 17));
        assert_eq!(of("17.2"), (17, 16));
    }
}
