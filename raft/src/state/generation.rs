//! One sled directory: a whole state at rest.
//!
//! While a generation is being filled, a file `NUMBER.unwanted` lies beside it. Taking that away is what
//! makes it count, whatever else the disk holds, and is one atomic step. Before a generation is removed
//! it gets that file again. One that has it at start is removed unopened.
//!
//! **Space.** sled gives a segment back when less than half of it is live, and a row that was overwritten
//! alone lives beside its page until that is rewritten. So a freshly filled generation takes 2.1 times the
//! keys and values (of 256 bytes), and one that is overwritten at random grows to 4.8 times within some
//! 15 checkpoints of half the keys each, and stays there. Filling a new one whenever it is bloated was
//! tried: old and new together took 6.3 times. Smaller segments take less (3.7 times with 128 KiB), and
//! with them the bound above which sled puts pages into files that it never syncs sinks.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lock::once_free;
use crate::state::rows::{self, MetaV1, Rows};

/// sled's page cache. Nothing reads through it; the default would be 1 GiB.
const SLED_CACHE_BYTES: u64 = 8 << 20;
/// sled writes back by itself this often; only then does it also reclaim space.
const SLED_FLUSH_EVERY_MS: u64 = 1000;
/// Rows of one sled batch; larger ones cost more per row.
const BATCH_ROWS: usize = 1024;
/// Rows are made durable whenever this many bytes of them were written: one sync of everything at the
/// end would hold up those of the log, which share the disk.
const SYNC_BYTES: usize = 8 << 20;
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
        mark(dir, number)?;
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
        File::open(self.path())?.sync_all()
    }

    /// From here on it counts.
    pub(super) fn commit(&self) -> io::Result<()> {
        let Remains { dir, number, unwanted } = &self.remains;
        fs::remove_file(marker_path(dir, *number))?;
        unwanted.store(false, Ordering::Relaxed);
        File::open(dir)?.sync_all()
    }

    /// flush() on Linux is `sync_file_range`: it orders and starts the writes but survives no power
    /// loss. `sync_data` on the same file does.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(sled_error)?;
        File::open(self.path().join("db"))?.sync_data()
    }
}

/// Writes rows to a generation, [`BATCH_ROWS`] at a time.
pub(super) struct Batches<'a> {
    generation: &'a Generation,
    batch: sled::Batch,
    rows: usize,
    unsynced_bytes: usize,
}

impl<'a> Batches<'a> {
    pub(super) fn new(generation: &'a Generation) -> Self {
        Self { generation, batch: sled::Batch::default(), rows: 0, unsynced_bytes: 0 }
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
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.generation.db.apply_batch(self.batch).map_err(sled_error)
    }
}

impl Rows for Batches<'_> {
    fn put(&mut self, key: Vec<u8>, sealed: Vec<u8>) -> io::Result<()> {
        let bytes = key.len() + sealed.len();
        self.batch.insert(key, sealed);
        self.count(bytes)
    }

    fn remove(&mut self, key: Vec<u8>) -> io::Result<()> {
        let bytes = key.len();
        self.batch.remove(key);
        self.count(bytes)
    }
}

pub(super) fn generation_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}"))
}

fn marker_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.unwanted"))
}

/// Removes the generations in `dir` that do not count, and gives the numbers of the others,
/// ascending.
pub(super) fn remove_unwanted(dir: &Path) -> io::Result<Vec<u32>> {
    let (mut numbers, mut unwanted) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = name.strip_suffix(".unwanted").and_then(|number| number.parse().ok()) {
            unwanted.push(number);
        } else if let Ok(number) = name.parse::<u32>() {
            numbers.push(number);
        }
    }
    for number in &unwanted {
        remove(dir, *number)?;
    }
    numbers.retain(|number| !unwanted.contains(number));
    numbers.sort_unstable();
    Ok(numbers)
}

fn mark(dir: &Path, number: u32) -> io::Result<()> {
    File::create(marker_path(dir, number))?;
    File::open(dir)?.sync_all()
}

/// Removes a generation. What is left of it after a crash must not count, so its marker comes first and
/// goes last.
fn remove(dir: &Path, number: u32) -> io::Result<()> {
    if generation_path(dir, number).exists() {
        mark(dir, number)?;
    }
    if_there(fs::remove_dir_all(generation_path(dir, number)))?;
    if_there(fs::remove_file(marker_path(dir, number)))
}

fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
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
        config.open().map_err(|error| match error {
            // sled has no kind of its own for it.
            sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock") => {
                io::Error::new(io::ErrorKind::WouldBlock, error)
            }
            other => sled_error(other),
        })
    };
    once_free(open).map_err(|error| in_generation(path, &error))
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
