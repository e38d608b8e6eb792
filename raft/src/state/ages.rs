//! The ages of one name: a list that only grows at its end, or goes away as a whole.

use imbl::Vector;

/// Ages in insertion order. An append costs the same however long the list is.
#[derive(Debug, Clone)]
pub struct AgeList {
    ages: Vector<u8>,
    created_revision: u64,
    revision: u64,
}

impl AgeList {
    /// A list that begins with `age`, written by the entry at log index `revision`.
    pub(crate) fn new(age: u8, revision: u64) -> Self {
        Self { ages: Vector::unit(age), created_revision: revision, revision }
    }

    /// A list as it was at rest.
    pub(crate) fn restored(ages: Vector<u8>, created_revision: u64, revision: u64) -> Self {
        Self { ages, created_revision, revision }
    }

    pub(crate) fn push(&mut self, age: u8, revision: u64) {
        self.ages.push_back(age);
        self.revision = revision;
    }

    /// All ages; shares their memory.
    pub(crate) fn ages(&self) -> Vector<u8> {
        self.ages.clone()
    }

    /// How many ages there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a list exists only with its first age")]
    pub fn len(&self) -> usize {
        self.ages.len()
    }

    /// The ages, oldest first, in years.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.ages.iter().copied()
    }

    /// The ages from position `start` on.
    pub(crate) fn iter_from(&self, start: usize) -> impl Iterator<Item = u8> + '_ {
        self.ages.focus().narrow(start.min(self.ages.len())..).into_iter().copied()
    }

    /// Log index of the entry that created the list.
    pub fn created_revision(&self) -> u64 {
        self.created_revision
    }

    /// Log index of the entry that last appended.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

/// Two lists of one name with the same history are equal: the log wrote them.
impl PartialEq for AgeList {
    fn eq(&self, other: &Self) -> bool {
        self.created_revision == other.created_revision && self.revision == other.revision
    }
}

impl Eq for AgeList {}
