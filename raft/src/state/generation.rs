//! One sled directory: a whole state at rest.
//!
//! The marker `current` names the generation that counts; setting it, once all of another is durable, is
//! one atomic step. Whatever else lies there is removed at start.
//!
//! **Space.** sled keeps what is changed of a page beside it until there are ten changes, all of which count
//! as live; and it gives a segment back when less than half of it does. A page has 8 to 16 rows, so one whose
//! rows are overwritten grows to twice its size before sled writes it anew. *Forerunners* make that come sooner:
//! before a row is written, its key is given an empty one, which takes some bytes and counts as a change
//! too. The journal has the row, so nobody ever sees the empty one. `space --seconds 48`, keys overwritten at random
//! with a checkpoint each 25,000 entries or less, most bytes on disk by keys and values, without and with:
//! 5.3 (in the longer rows of then) and 2.5 times (256 bytes), 3.8 and 2.8 (1,000), 3.3 and 2.8 (3,000), 3.6 and 2.9 (20,000). They are
//! one and two by turns: with one for each row it grew to 3.9 times, and with two or three it was no less, by sled
//! alone, 200 checkpoints of half the keys of 256 bytes: none 4.5 times and 11 µs of processor time a row, one 3.1
//! and 14, one and two by turns 2.0 and 15, two 2.3 and 16, three 3.1 and 21.
//!
//! Tried before, and worse: filling a new generation whenever the old one is bloated (old and new together took 6.3
//! times); smaller segments (3.7 times with 128 KiB, and the bound above which sled puts pages into files that it never
//! syncs sinks); syncing every MiB, and having sled reclaim five times as often (5.0 instead of 5.2 times).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;

use crate::background;
use crate::lock::once_free;
use crate::marker;
use crate::state::pace::{Haste, Pace, Rests};
use crate::state::rows::{self, MetaV1, Rows};

/// What the marker begins with. Its number is the generation that counts.
const CURRENT_MAGIC: &[u8; 8] = b"HEARTHG\x01";
/// sled's page cache. Nothing reads through it; the default would be 1 GiB.
const SLED_CACHE_BYTES: u64 = 8 << 20;
/// sled writes back by itself this often; only then does it also reclaim space.
const SLED_FLUSH_EVERY_MS: u64 = 1000;
/// Rows of one sled batch: with what goes before them a millisecond of work. With 128 rows, p99 of reads during a
/// checkpoint is 1.9 times that without (`scale`), with 64 it is 1.5 times. By sled alone, a row of 16 takes 14.5 µs of
/// processor time, one of 64 takes 9.7: each batch wakes up all of sled's threads.
const BATCH_ROWS: u64 = 64;
/// Rows after which there may be a pause: forerunners are written one by one, before the batch.
const PAUSE_ROWS: u64 = 16;
/// What rows have before them, by turns the first or both.
const FORERUNNERS: [&[u8]; 2] = [b"", b"\0"];
/// Rows are made durable whenever this many bytes of them were written: one sync of everything at the
/// end would hold up those of the log, which share the disk and wait behind it.
const SYNC_BYTES: usize = 1 << 20;

/// A sled directory that is open.
pub(super) struct Generation {
    pub(super) number: u32,
    /// Before `remains`: closed before it is removed.
    pub(super) db: sled::Db,
    remains: Remains,
}

/// What is left of a generation when it is closed.
struct Remains {
    dir: PathBuf,
    number: u32,
    /// Whether it is to be removed.
    unwanted: AtomicBool,
}

impl Drop for Remains {
    fn drop(&mut self) {
        if *self.unwanted.get_mut()
            && let Err(error) = remove(&self.dir, self.number)
        {
            // The next start does it.
            tracing::warn!(%error, number = self.number, "an old state was not removed");
        }
    }
}

impl Generation {
    /// Opens what is there.
    ///
    /// # Errors
    /// `InvalidData` naming the directory when it is damaged.
    pub(super) fn open(dir: &Path, number: u32) -> io::Result<Self> {
        let db = open_sled(&generation_path(dir, number))?;
        Ok(Self::new(dir, number, db))
    }

    /// Begins an empty one that does not count yet, and is removed if it never does.
    pub(super) fn begin(dir: &Path, number: u32) -> io::Result<Self> {
        remove(dir, number)?;
        let db = open_sled(&generation_path(dir, number))?;
        let generation = Self::new(dir, number, db);
        generation.retire();
        Ok(generation)
    }

    fn new(dir: &Path, number: u32, db: sled::Db) -> Self {
        let remains = Remains { dir: dir.to_owned(), number, unwanted: AtomicBool::new(false) };
        Self { number, db, remains }
    }

    pub(super) fn path(&self) -> PathBuf {
        generation_path(&self.remains.dir, self.number)
    }

    /// Leaves everything where it is, as a crash does.
    #[cfg(test)]
    pub(super) fn keep(&self) {
        self.remains.unwanted.store(false, Ordering::Relaxed);
    }

    /// Has it removed when the last owner lets go of it.
    pub(super) fn retire(&self) {
        self.remains.unwanted.store(true, Ordering::Relaxed);
    }

    /// Writes the meta row and makes everything durable; it still does not count.
    pub(super) fn finish(&self, meta: &MetaV1) -> io::Result<()> {
        let mut rows = Batches::new(self);
        rows::write_meta(&mut rows, meta)?;
        rows.finish()?;
        self.sync()?;
        let path = self.path();
        for file in fs::read_dir(&path)? {
            File::open(file?.path())?.sync_all()?;
        }
        File::open(&path)?.sync_all()?;
        File::open(&self.remains.dir)?.sync_all()
    }

    /// From here on it counts, and no other does.
    pub(super) fn commit(&self) -> io::Result<()> {
        let Remains { dir, number, unwanted } = &self.remains;
        set_current(dir, *number)?;
        unwanted.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// flush() on Linux is `sync_file_range`: it orders and starts the writes but survives no power
    /// loss. `sync_data` on the same file does.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(sled_error)?;
        File::open(self.path().join("db"))?.sync_data()
    }
}

/// What comes after each batch.
enum Tempo<'a> {
    /// The next one.
    Full,
    /// A pause, if there is time. The units are rows. They are in a journal and have forerunners.
    Paced(Pace<'a>),
    Resting(Rests<'a>),
}

/// Writes rows to a generation, [`BATCH_ROWS`] at a time.
pub(super) struct Batches<'a> {
    generation: &'a Generation,
    tempo: Tempo<'a>,
    batch: sled::Batch,
    rows: u64,
    unsynced_bytes: usize,
}

impl<'a> Batches<'a> {
    /// As fast as it goes.
    pub(super) fn new(generation: &'a Generation) -> Self {
        Self { generation, tempo: Tempo::Full, batch: sled::Batch::default(), rows: 0, unsynced_bytes: 0 }
    }

    /// With a pause after each batch, if there is time. The units of `pace` are rows. They must all be in a finished
    /// journal, because of their forerunners.
    pub(super) fn paced(generation: &'a Generation, pace: Pace<'a>) -> Self {
        Self { tempo: Tempo::Paced(pace), ..Self::new(generation) }
    }

    /// With a rest after each batch, as long as the work was, unless there is haste.
    pub(super) fn resting(generation: &'a Generation, haste: &'a Haste) -> Self {
        Self { tempo: Tempo::Resting(Rests::new(haste)), ..Self::new(generation) }
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.rows += 1;
        self.unsynced_bytes += bytes;
        if self.rows.is_multiple_of(BATCH_ROWS) {
            self.generation.db.apply_batch(std::mem::take(&mut self.batch)).map_err(sled_error)?;
            if self.unsynced_bytes >= SYNC_BYTES {
                self.unsynced_bytes = 0;
                self.generation.sync()?;
            }
        }
        if self.rows.is_multiple_of(PAUSE_ROWS) {
            match &mut self.tempo {
                Tempo::Full => {}
                Tempo::Paced(pace) => pace.pause_at(self.rows),
                Tempo::Resting(rests) => rests.rest(),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.generation.db.apply_batch(self.batch).map_err(sled_error)
    }
}

impl Rows for Batches<'_> {
    fn put(&mut self, key: &[u8], sealed: &[u8]) -> io::Result<()> {
        let bytes = key.len() + sealed.len();
        if matches!(self.tempo, Tempo::Paced(_)) {
            for forerunner in FORERUNNERS.iter().take(1 + usize::from(self.rows.is_multiple_of(2))) {
                self.generation.db.insert(key, *forerunner).map_err(sled_error)?;
            }
        }
        self.batch.insert(key, sealed);
        self.count(bytes)
    }

    fn remove(&mut self, key: &[u8]) -> io::Result<()> {
        let bytes = key.len();
        self.batch.remove(key);
        self.count(bytes)
    }
}

pub(super) fn generation_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}"))
}

pub(super) fn current_path(dir: &Path) -> PathBuf {
    dir.join("current")
}

/// The generation that counts; `None` before the first.
pub(super) fn current(dir: &Path) -> io::Result<Option<u32>> {
    let Some([number]) = marker::read(&current_path(dir), CURRENT_MAGIC)? else { return Ok(None) };
    u32::try_from(number).map(Some).map_err(io::Error::other)
}

/// Makes generation `number` count, durably and atomically. It must be durable itself.
pub(super) fn set_current(dir: &Path, number: u32) -> io::Result<()> {
    marker::write(&current_path(dir), CURRENT_MAGIC, [u64::from(number)])
}

pub(super) fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is missing", path.display()))
}

/// The numbers of the generations in `dir`.
pub(super) fn generations(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

/// Removes a generation that does not count.
fn remove(dir: &Path, number: u32) -> io::Result<()> {
    match fs::remove_dir_all(generation_path(dir, number)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn open_sled(path: &Path) -> io::Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(SLED_CACHE_BYTES)
        .flush_every_ms(Some(SLED_FLUSH_EVERY_MS))
        .mode(sled::Mode::LowSpace);
    let open = || {
        let db = config.open().map_err(|error| match error {
            // sled has no kind of its own for it.
            sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock") => {
                io::Error::new(io::ErrorKind::WouldBlock, error)
            }
            other => sled_error(other),
        })?;
        // Starts the threads, if they are not there yet. What is to be durable is flushed by who wrote it: nobody
        // waits for this one.
        match db.flush_async().now_or_never() {
            Some(Err(error)) => Err(sled_error(error)),
            Some(Ok(_)) | None => Ok(db),
        }
    };
    // Threads of sled's take part in each write: seven for all directories, each of which wakes up whenever there is
    // something for one of them. They are to be as polite as the one that writes. Opening a million rows takes 0.1 to
    // 0.5 s of processor time, so that a start takes that much longer where others leave none.
    background::with_low_priority(|| once_free(open)).map_err(|error| in_generation(path, &error))
}

/// `error` with its place. Its kind says whether the disk failed or what is on it is damaged, which
/// a file that ends too early is.
pub(super) fn in_generation(path: &Path, error: &io::Error) -> io::Error {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => io::ErrorKind::InvalidData,
        kind => kind,
    };
    io::Error::new(kind, format!("state in {}: {error}", path.display()))
}

pub(super) fn sled_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn threads_of_sled_are_as_polite_as_the_one_that_writes() {
        let dir = tempfile::TempDir::new().unwrap();
        let generation = Generation::begin(dir.path(), 1).unwrap();
        Batches::new(&generation).put(b"key", b"row").unwrap();
        generation.sync().unwrap();
        let mut seen = 0;
        for thread in fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap) {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if name.starts_with("sled-io") || name.starts_with("log flusher") {
                // proc(5): niceness is the 19th field; the second is the name in brackets.
                let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else {
                    continue; // It has ended, with the directory of another test.
                };
                let (_, fields) = stat.rsplit_once(')').unwrap();
                let nice: i32 = fields.split_whitespace().nth(16).unwrap().parse().unwrap();
                assert!(nice >= background::NICE, "{name} has {nice}");
                seen += 1;
            }
        }
        assert!(seen > 7, "{seen} threads");
    }
}
