//! What the log holds, and the groups of records that wait for the disk.

use std::collections::VecDeque;
use std::io;

use openraft::storage::IOFlushed;

use super::entries::{Entries, Position};
use super::frame::{self, Frame};
use super::records::{self, BeforeV1, HardState};
use super::recovery::Recovered;
use super::segment::{Preamble, Segment};
use crate::codec::{LogIdV1, VoteV1};
use crate::types::{Entry, TypeConfig};

/// A frame takes no more records from here on: reading one takes as much memory.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// Memory for frames that is kept for the next one.
const SPARE_BYTES_MAX: usize = 256 << 10;

/// Who is told when a group is durable.
pub(super) enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Signal(tokio::sync::oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    pub(super) fn tell(self, result: &io::Result<()>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match self {
            Waiter::Raft(flushed) => flushed.io_completed(result),
            // The waiter may have gone away; then nobody relies on the answer.
            Waiter::Signal(done) => drop(done.send(result)),
        }
    }
}

/// What one fdatasync makes durable: a frame, and what follows from it.
pub(super) struct Group {
    pub(super) segment: u32,
    salt: u32,
    pub(super) frame: Frame,
    pub(super) waiters: Vec<Waiter>,
    /// The highest index of an entry in it.
    pub(super) last_index: Option<u64>,
    /// Up to which index it purges the log.
    pub(super) purges: Option<u64>,
}

impl Group {
    fn new(segment: u32, salt: u32, frame: Frame) -> Self {
        Self { segment, salt, frame, waiters: Vec::new(), last_index: None, purges: None }
    }

    /// Where it ends, or will end.
    pub(super) fn end(&self) -> Position {
        Position { segment: self.segment, offset: self.frame.end() }
    }
}

/// The log in memory. Guarded by one std mutex, of which every holder only touches memory.
pub(super) struct Wal {
    pub(super) hard: HardState,
    pub(super) entries: Entries,
    /// Oldest first; the last is the one that is written to.
    pub(super) segments: VecDeque<Segment>,
    /// Whether the log id that is committed was not written yet. It rides along with the next group.
    committed_unwritten: bool,
    /// Takes the records that come now. What waits is bounded by the proposals that a node lets in, and by what
    /// a leader sends before it is answered; a leader whose disk hangs takes no more (`store::stall`).
    open: Group,
    /// Waits for the disk before it.
    full: VecDeque<Group>,
    /// The number of the last frame that was handed to the disk.
    number: u64,
    segment_bytes: u64,
    spare: Vec<u8>,
    /// Whether the writer sleeps: to wake who does not costs a system call, too.
    pub(super) idle: bool,
    pub(super) closing: bool,
    /// The first failure of a write or fsync. It never goes away.
    failed: Option<String>,
}

impl Wal {
    /// # Errors
    /// `InvalidInput` when a record is too long, which those that a file begins with are not.
    pub(super) fn new(recovered: Recovered, segment_bytes: u64) -> io::Result<Self> {
        let Recovered { hard, entries, segments, newest, salt, number } = recovered;
        let end = Position { segment: newest.number, offset: newest.end };
        let before = before(&hard, &entries);
        let open = next(end, salt, segment_bytes, &before, Vec::new())?;
        Ok(Self {
            hard,
            entries,
            segments,
            committed_unwritten: false,
            open,
            full: VecDeque::new(),
            number,
            segment_bytes,
            spare: Vec::new(),
            idle: false,
            closing: false,
            failed: None,
        })
    }

    /// # Errors
    /// What failed before.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(io::Error::other(reason.clone())),
        }
    }

    pub(super) fn fail(&mut self, reason: impl ToString) {
        self.failed.get_or_insert_with(|| reason.to_string());
    }

    /// The last entry, purged or not.
    pub(super) fn last(&self) -> Option<LogIdV1> {
        self.entries.last().or(self.hard.purged)
    }

    /// # Errors
    /// `InvalidInput` when the entry does not follow the last one, or is too long.
    pub(super) fn append(&mut self, entry: Entry) -> io::Result<()> {
        if self.open.frame.bytes.len() >= FRAME_BYTES_MAX {
            self.close_group()?;
        }
        let position = self.open.end();
        let index = entry.log_id.index;
        let len = records::put_entry(&mut self.open.frame, &entry)?;
        self.entries.push(entry, position, len)?;
        self.open.last_index = self.open.last_index.max(Some(index));
        Ok(())
    }

    pub(super) fn save_vote(&mut self, vote: VoteV1) -> io::Result<()> {
        records::put_vote(&mut self.open.frame, &vote)?;
        self.hard.vote = Some(vote);
        Ok(())
    }

    pub(super) fn save_committed(&mut self, committed: LogIdV1) {
        self.hard.committed = Some(committed);
        self.committed_unwritten = true;
    }

    pub(super) fn truncate(&mut self, from: u64) -> io::Result<()> {
        records::put_truncated(&mut self.open.frame, from)?;
        self.entries.truncate(from);
        Ok(())
    }

    pub(super) fn purge(&mut self, purged: LogIdV1) -> io::Result<()> {
        records::put_purged(&mut self.open.frame, &purged)?;
        self.entries.purge(purged.index);
        self.hard.purged = Some(purged);
        self.open.purges = Some(purged.index);
        Ok(())
    }

    /// Tells `waiter` when everything up to here is durable.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.open.waiters.push(waiter);
    }

    /// The next group for the disk, if one waits.
    pub(super) fn take(&mut self) -> io::Result<Option<Group>> {
        if self.full.is_empty() {
            let asked_for = !self.open.waiters.is_empty() || self.open.purges.is_some();
            let last_call = self.closing && self.committed_unwritten;
            if !asked_for && !last_call {
                return Ok(None);
            }
            if let Some(committed) = self.hard.committed.filter(|_| self.committed_unwritten) {
                records::put_committed(&mut self.open.frame, &committed)?;
                self.committed_unwritten = false;
            }
            self.close_group()?;
        }
        let Some(mut group) = self.full.pop_front() else { return Ok(None) };
        self.number += 1;
        group.frame.seal(self.number, group.salt)?;
        Ok(Some(group))
    }

    /// Everybody who waits for a group that the disk was not given.
    pub(super) fn waiters(&mut self) -> Vec<Waiter> {
        let groups = self.full.iter_mut().chain([&mut self.open]);
        groups.flat_map(|group| std::mem::take(&mut group.waiters)).collect()
    }

    /// Takes the memory of a frame back.
    pub(super) fn give_back(&mut self, memory: Vec<u8>) {
        if memory.capacity() <= SPARE_BYTES_MAX {
            self.spare = memory;
        }
    }

    /// What comes from now on is in another group.
    fn close_group(&mut self) -> io::Result<()> {
        let before = before(&self.hard, &self.entries);
        let memory = std::mem::take(&mut self.spare);
        let next = next(self.open.end(), self.open.salt, self.segment_bytes, &before, memory)?;
        self.full.push_back(std::mem::replace(&mut self.open, next));
        Ok(())
    }
}

fn before(hard: &HardState, entries: &Entries) -> BeforeV1 {
    let HardState { vote, committed, purged } = *hard;
    BeforeV1 { vote, committed, purged, last: entries.last().or(purged) }
}

/// The group that follows what ends at `end`: in the same file, or in the next.
fn next(
    end: Position,
    salt: u32,
    segment_bytes: u64,
    before: &BeforeV1,
    memory: Vec<u8>,
) -> io::Result<Group> {
    let offset = frame::aligned(end.offset);
    if offset >= segment_bytes {
        return first_of(end.segment + 1, before, memory);
    }
    Ok(Group::new(end.segment, salt, Frame::begin(offset, &[], memory)))
}

/// The first group of a file.
fn first_of(segment: u32, before: &BeforeV1, memory: Vec<u8>) -> io::Result<Group> {
    let preamble = Preamble { number: segment, salt: rand::random() };
    let mut frame = Frame::begin(0, &preamble.encode(), memory);
    records::put_before(&mut frame, before)?;
    Ok(Group::new(segment, preamble.salt, frame))
}

/// What the first file of a new log holds.
pub(super) fn empty() -> io::Result<Frame> {
    let nothing = BeforeV1 { vote: None, committed: None, purged: None, last: None };
    let mut group = first_of(1, &nothing, Vec::new())?;
    group.frame.seal(0, group.salt)?;
    Ok(group.frame)
}
