//! Where each entry lies, and the recent ones themselves.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;

use super::frame;
use super::records::{self, Record, payload_bytes};
use super::segment::Segment;
use crate::codec::LogIdV1;
use crate::types::Entry;

/// A place in the log. Ordered as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Number of the file.
    pub(super) segment: u32,
    /// Offset in it, in bytes.
    pub(super) offset: u64,
}

/// Where the record of an entry lies. 24 bytes for each entry that is not purged, however long ago it came.
#[derive(Debug, Clone, Copy)]
struct Slot {
    term: u64,
    segment: u32,
    offset: u32,
    /// Bytes of records.
    len: u32,
}

impl Slot {
    fn end(self) -> u64 {
        frame::end_of(u64::from(self.offset), u64::from(self.len))
    }

    fn position(self) -> Position {
        Position { segment: self.segment, offset: u64::from(self.offset) }
    }
}

/// Most bytes that are read from a file at once, but for an entry that is longer.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Entries for which memory is taken before they are found.
const FOUND_AT_ONCE: usize = 512;

/// The entries that are not purged, by index without a gap. The last ones are kept in memory: those that
/// are not in a file yet, and as many before them as `memory_bytes` takes.
#[derive(Debug)]
pub(super) struct Entries {
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Those of the last slots.
    recent: VecDeque<Entry>,
    recent_bytes: u64,
    memory_bytes: u64,
    /// What lies before this is in a file.
    written: Position,
}

impl Entries {
    pub(super) fn new(memory_bytes: u64) -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            memory_bytes,
            written: Position { segment: 0, offset: 0 },
        }
    }

    /// The index of the first entry, or of the one that will be the first.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The index that follows the last entry.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn last(&self) -> Option<LogIdV1> {
        self.slots.back().map(|slot| LogIdV1 { term: slot.term, index: self.next() - 1 })
    }

    /// Begins anew: the next entry has index `first`.
    pub(super) fn reset(&mut self, first: u64) {
        self.truncate(self.first);
        self.first = first;
    }

    /// Appends an entry whose record lies at `position`, `len` bytes of records long.
    ///
    /// # Errors
    /// `InvalidInput` when its index does not follow the last one. The first of all may have any: openraft's suite
    /// begins with 1.
    pub(super) fn push(&mut self, entry: Entry, position: Position, len: u32) -> io::Result<()> {
        if self.next() == 0 {
            self.first = entry.log_id.index;
        }
        if entry.log_id.index != self.next() {
            let reason =
                format!("entry {} does not follow what is there: {} would", entry.log_id.index, self.next());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let offset = u32::try_from(position.offset).map_err(io::Error::other)?;
        let term = LogIdV1::from(entry.log_id).term;
        self.slots.push_back(Slot { term, segment: position.segment, offset, len });
        self.recent_bytes += payload_bytes(&entry.payload);
        self.recent.push_back(entry);
        self.forget();
        Ok(())
    }

    /// Removes the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.truncate(keep);
        while self.recent.back().is_some_and(|entry| entry.log_id.index >= index) {
            self.forgotten(VecDeque::pop_back);
        }
        self.first = self.first.min(index);
    }

    /// Removes the entries up to `index`, with it.
    pub(super) fn purge(&mut self, index: u64) {
        let gone = usize::try_from((index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.drain(..gone.min(self.slots.len()));
        while self.recent.front().is_some_and(|entry| entry.log_id.index <= index) {
            self.forgotten(VecDeque::pop_front);
        }
        self.first = self.first.max(index + 1);
        // After a burst or a long catching up: 24 bytes an entry that are not needed again soon.
        if self.slots.capacity() > 4 * self.slots.len().max(1024) {
            self.slots.shrink_to(2 * self.slots.len());
        }
        if self.recent.capacity() > 4 * self.recent.len().max(1024) {
            self.recent.shrink_to(2 * self.recent.len());
        }
    }

    /// What lies before `end` is in a file now.
    pub(super) fn written(&mut self, end: Position) {
        self.written = end;
        self.forget();
    }

    fn forget(&mut self) {
        while self.recent_bytes > self.memory_bytes {
            let oldest = self.slots.len() - self.recent.len();
            match self.slots.get(oldest) {
                Some(slot) if slot.position() < self.written => self.forgotten(VecDeque::pop_front),
                _ => return,
            }
        }
    }

    fn forgotten(&mut self, pop: impl FnOnce(&mut VecDeque<Entry>) -> Option<Entry>) {
        if let Some(entry) = pop(&mut self.recent) {
            self.recent_bytes -= payload_bytes(&entry.payload);
        }
    }

    /// The entries with `from <= index < to` that there are, until `bytes_max` is reached; at least one.
    pub(super) fn find(&self, from: u64, to: u64, bytes_max: u64, segments: &VecDeque<Segment>) -> Found {
        let from = from.max(self.first);
        let to = to.min(self.next());
        let recent = self.next() - self.recent.len() as u64;
        let wanted = usize::try_from(to.saturating_sub(from.max(recent))).unwrap_or(usize::MAX);
        let mut found = Found { on_disk: Vec::new(), recent: Vec::with_capacity(wanted.min(FOUND_AT_ONCE)) };
        let (mut bytes, mut any) = (0, false);
        let mut fits = |more: u64| {
            bytes += more;
            std::mem::replace(&mut any, true) && bytes > bytes_max
        };
        for index in from..to {
            let at = usize::try_from(index - self.first).unwrap_or(usize::MAX);
            if index >= recent {
                let at = at - (self.slots.len() - self.recent.len());
                let Some(entry) = self.recent.get(at) else { break };
                if fits(payload_bytes(&entry.payload)) {
                    break;
                }
                found.recent.push(entry.clone());
            } else {
                let Some(slot) = self.slots.get(at) else { break };
                if fits(u64::from(slot.len)) {
                    break;
                }
                found.add_on_disk(index, *slot, segments);
            }
        }
        found
    }
}

/// Entries that were found: those that have to be read first, and then those in memory.
pub(super) struct Found {
    on_disk: Vec<Run>,
    recent: Vec<Entry>,
}

/// Entries of one file that are read together.
struct Run {
    file: Option<Segment>,
    first: u64,
    slots: Vec<Slot>,
}

impl Found {
    fn add_on_disk(&mut self, index: u64, slot: Slot, segments: &VecDeque<Segment>) {
        if let Some(run) = self.on_disk.last_mut()
            && let Some(first) = run.slots.first()
            && first.segment == slot.segment
            && slot.end() - u64::from(first.offset) <= READ_BYTES_MAX
        {
            run.slots.push(slot);
        } else {
            let file = segments.iter().find(|segment| segment.number == slot.segment).cloned();
            self.on_disk.push(Run { file, first: index, slots: vec![slot] });
        }
    }

    /// Reads what has to be read. Blocks for the disk, so not under the log's lock.
    ///
    /// # Errors
    /// What the file system says, or `InvalidData` when a record is damaged. Both name file and offset.
    pub(super) fn read(self) -> io::Result<Vec<Entry>> {
        if self.on_disk.is_empty() {
            return Ok(self.recent);
        }
        let mut entries = Vec::new();
        for run in self.on_disk {
            run.read(&mut entries)?;
        }
        entries.extend(self.recent);
        Ok(entries)
    }
}

impl Run {
    fn read(self, entries: &mut Vec<Entry>) -> io::Result<()> {
        let (Some(first), Some(last)) = (self.slots.first(), self.slots.last()) else { return Ok(()) };
        let Some(file) = &self.file else {
            let reason = format!("log: entry {} is in file {}, which is gone", self.first, first.segment);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        };
        let begin = u64::from(first.offset);
        let mut bytes = vec![0; usize::try_from(last.end() - begin).map_err(io::Error::other)?];
        file.file.read_exact_at(&mut bytes, begin).map_err(|error| file.named(begin, &error))?;
        let mut record = Vec::new();
        for (slot, index) in self.slots.iter().zip(self.first..) {
            let offset = u64::from(slot.offset);
            let within = |at: u64| usize::try_from(at - begin).unwrap_or(usize::MAX);
            record.clear();
            frame::untagged(offset, &bytes[within(offset)..within(slot.end())], &mut record)
                .map_err(|at| file.damaged(at, "a sector does not begin as it should"))?;
            match records::read(&record).map_err(|error| file.named(offset, &error))? {
                (Record::Entry(entry), _) if entry.log_id.index == index => entries.push(entry),
                _ => return Err(file.damaged(offset, &format!("this is not entry {index}"))),
            }
        }
        Ok(())
    }
}
