//! The thread that writes the log: one group after the other, each made durable before the next.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::PoisonError;

use super::Shared;
use super::newest::Newest;
use super::segment::Segment;
use super::wal::Group;
use crate::courtesy::step_back;

/// How far a file is filled with zeros ahead of what is written: within them an fdatasync does not have to
/// write the file's new length and blocks. Room for about 3,000 puts of 300 bytes.
const FILL_BYTES: u64 = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The file that is written to.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) newest_path: PathBuf,
    pub(super) segment: Segment,
}

impl Writer {
    /// Runs until the log is closed or something fails.
    pub(super) fn run(mut self, shared: &Shared) {
        let _stopped = Stopped(shared);
        let mut wal = shared.lock();
        let mut stepped_back = false;
        loop {
            let group = match wal.take() {
                Ok(Some(group)) => group,
                Ok(None) if wal.closing => return,
                // To be woken costs more than to find the next group when it is its turn again.
                Ok(None) if !stepped_back => {
                    drop(wal);
                    step_back();
                    stepped_back = true;
                    wal = shared.lock();
                    continue;
                }
                Ok(None) => {
                    wal.idle = true;
                    wal = shared.work.wait(wal).unwrap_or_else(PoisonError::into_inner);
                    wal.idle = false;
                    continue;
                }
                Err(error) => return wal.fail(error),
            };
            stepped_back = false;
            drop(wal);
            let begun = shared.underway.begin();
            let result = self.write(&group);
            shared.fsync_seconds.observe(begun.elapsed().as_secs_f64());
            drop(begun);
            if let Err(error) = &result {
                // Before anybody is told: who asks then must be told the same.
                shared.lock().fail(error);
            }
            let end = group.end();
            for waiter in group.waiters {
                waiter.tell(&result);
            }
            wal = shared.lock();
            if result.is_err() {
                return;
            }
            wal.entries.written(end);
            self.segment.last_index = self.segment.last_index.max(group.last_index);
            match wal.segments.back_mut() {
                Some(last) if last.number == self.segment.number => *last = self.segment.clone(),
                full => {
                    if let Some(full) = full {
                        full.bytes = full.end;
                    }
                    wal.segments.push_back(self.segment.clone());
                }
            }
            wal.give_back(group.frame.bytes);
            if let Some(purged) = group.purges {
                let mut unused = Vec::new();
                while let Some(oldest) = wal.segments.front()
                    && oldest.number != self.segment.number
                    && oldest.last_index <= Some(purged)
                {
                    unused.extend(wal.segments.pop_front());
                }
                drop(wal);
                for segment in unused {
                    if let Err(error) = fs::remove_file(&*segment.path) {
                        tracing::warn!(file = %segment.path.display(), %error, "cannot remove a file of the log");
                    }
                }
                wal = shared.lock();
            }
        }
    }

    fn write(&mut self, group: &Group) -> io::Result<()> {
        let is_new = group.segment != self.segment.number;
        if is_new {
            let full = std::mem::replace(&mut self.segment, Segment::create(&self.dir, group.segment)?);
            // Only room on the disk: what it was filled with is not needed. Every frame in it is durable.
            if let Err(error) = full.file.set_len(full.end) {
                tracing::debug!(file = %full.path.display(), %error, "cannot cut off what is not used");
            }
        }
        let result = self.append(group).and_then(|()| {
            if !is_new {
                return Ok(());
            }
            // Its name, and that it is the newest, before anything in it is reported durable.
            File::open(&self.dir)?.sync_all()?;
            Newest { segment: group.segment, durable_end: group.frame.end() }.write(&self.newest_path)
        });
        result.map_err(|error| self.segment.named(group.frame.offset, &error))
    }

    fn append(&mut self, group: &Group) -> io::Result<()> {
        let file = &self.segment.file;
        write_whole(file, &group.frame.bytes, group.frame.offset)?;
        let end = group.frame.end();
        if end > self.segment.bytes {
            self.segment.bytes = end;
            let ahead = (end + FILL_BYTES).next_multiple_of(ZEROS.len() as u64);
            while self.segment.bytes < ahead {
                let len = (ahead - self.segment.bytes).min(ZEROS.len() as u64);
                let zeros = &ZEROS[..usize::try_from(len).unwrap_or(ZEROS.len())];
                match file.write_at(zeros, self.segment.bytes) {
                    Ok(written) if written > 0 => self.segment.bytes += written as u64,
                    // Nothing was to be kept there: what was written fits. The next group will see.
                    Ok(_) => break,
                    Err(error) if is_full(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        self.segment.end = end;
        file.sync_data()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A short write has failed (invariant 6): the rest is only tried to learn why.
pub(super) fn write_whole(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let written = file.write_at(bytes, offset)?;
    if written == bytes.len() {
        return Ok(());
    }
    file.write_at(&bytes[written..], offset + written as u64)?;
    let reason = format!("a write of {} bytes at offset {offset} wrote only {written}", bytes.len());
    Err(io::Error::new(io::ErrorKind::WriteZero, reason))
}

/// Whatever ends the writer, a panic too: nobody waits for it any more.
struct Stopped<'a>(&'a Shared);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let mut wal = self.0.lock();
        if !wal.closing {
            wal.fail("the log's writer stopped");
        }
        let waiters = wal.waiters();
        let result = wal.check();
        drop(wal);
        for waiter in waiters {
            waiter.tell(&result);
        }
    }
}
