//! The state at rest: checkpoints in sled.
//!
//! A checkpoint is the rows that differ between the last checkpoint and a newer view, the meta row
//! last. The [`journal`] makes them atomic; then they go to sled in small batches, followed by sled's
//! `flush`, which on Linux only starts the write-back, and `sync_data` on its file, which makes it
//! survive a power loss. The two views share what did not change, so finding the difference costs as
//! much as the difference. All of it runs on a thread of low priority: it may take its time.
//!
//! Every sled directory is a *generation*, `state/00000001`. Installing a snapshot fills the next
//! generation, then the marker `state/current` is set to it, and then the old one is removed. A crash
//! at any point leaves the old or the new state, never a mixture; and a generation that the marker names
//! and that is not there, or not whole, is damage.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use prometheus::{Histogram, IntGauge};

use crate::codec;
use crate::lock::once_free;
use crate::marker;
use crate::state::journal::{self, JournalWriter};
use crate::state::rows::{self, AGES, AgesV1, KEY, KeyV1, META, MetaV1, Rows};
use crate::state::{Record, State, View};
use crate::types::StoredMembership;

/// What the marker begins with. Its number is the generation that counts.
const CURRENT_MAGIC: &[u8; 8] = b"HEARTHG\x01";
/// sled's page cache. Nothing reads through it; the default would be 1 GiB.
const SLED_CACHE_BYTES: u64 = 8 << 20;
/// sled writes back by itself this often; only then does it also reclaim space.
const SLED_FLUSH_EVERY_MS: u64 = 1000;
/// Rows of one sled batch; larger ones cost more per row.
const BATCH_ROWS: usize = 1024;
/// Added to the niceness of the thread that writes: under full load it gets a tenth of a processor.
const WRITER_NICE: i32 = 10;

/// Writes checkpoints; one at a time.
pub(crate) struct Checkpoints {
    dir: PathBuf,
    /// What sled durably holds; to be looked at without waiting for a checkpoint.
    last: ArcSwap<State>,
    /// `None` once closed.
    current: Mutex<Option<Generation>>,
    duration_seconds: Histogram,
    written_unix_seconds: IntGauge,
}

struct Generation {
    number: u32,
    db: sled::Db,
}

impl Checkpoints {
    /// Begins the first generation in `dir`, with an empty state, unless there is one already.
    ///
    /// # Errors
    /// As [`Checkpoints::open`].
    pub(crate) fn create(dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        if current(dir)?.is_none() {
            let first = fill(dir, 1, &State::default())?;
            set_current(dir, first.number)?;
        }
        Ok(())
    }

    /// Opens the current generation in `dir`, and loads its state.
    ///
    /// # Errors
    /// `InvalidData` naming the generation and the row when anything is damaged or missing; what the file
    /// system says otherwise.
    pub(crate) fn open(
        dir: &Path,
        duration_seconds: Histogram,
        written_unix_seconds: IntGauge,
    ) -> io::Result<(Self, View)> {
        let number = current(dir)?.ok_or_else(|| missing(&current_path(dir)))?;
        let path = generation_path(dir, number);
        // sled would make what it does not find.
        for file in [path.join("conf"), path.join("db")] {
            if !file.is_file() {
                return Err(missing(&file));
            }
        }
        let db = open_sled(&path)?;
        finish_interrupted(dir, number, &db).map_err(|error| in_generation(&dir.join("journal"), &error))?;
        let last = Arc::new(load(&db).map_err(|error| in_generation(&path, &error))?);
        // What a crash left of a next one, or of the one before.
        for other in generations(dir)?.into_iter().filter(|other| *other != number) {
            fs::remove_dir_all(generation_path(dir, other))?;
        }
        let checkpoints = Self {
            dir: dir.to_owned(),
            last: ArcSwap::new(Arc::clone(&last)),
            current: Mutex::new(Some(Generation { number, db })),
            duration_seconds,
            written_unix_seconds,
        };
        checkpoints.note_written();
        Ok((checkpoints, last))
    }

    /// What is durable. Never waits.
    pub(crate) fn last(&self) -> View {
        self.last.load_full()
    }

    /// [`Checkpoints::write_now`] on a thread of low priority.
    pub(crate) async fn write(self: &Arc<Self>, view: View) -> io::Result<View> {
        let (done, written) = tokio::sync::oneshot::channel();
        let checkpoints = Arc::clone(self);
        std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            // On Linux this is about the calling thread. Without it the checkpoint is only less polite.
            if let Err(error) = rustix::process::nice(WRITER_NICE) {
                tracing::debug!(%error, "cannot lower the priority of a checkpoint");
            }
            // The waiter is gone only when the node stops.
            drop(done.send(checkpoints.write_now(view)));
        })?;
        written.await.map_err(io::Error::other)?
    }

    /// Makes `view` durable and answers what is durable then: `view`, or something newer that was
    /// written meanwhile. Blocks for the disk.
    ///
    /// # Errors
    /// What sled or the file system says. The caller must stop the node: sled's errors stick.
    pub(crate) fn write_now(&self, view: View) -> io::Result<View> {
        let current = self.lock();
        let last = self.last();
        if view.last_applied <= last.last_applied {
            return Ok(last);
        }
        let current = current.as_ref().ok_or_else(closed)?;
        let timer = self.duration_seconds.start_timer();
        let mut journal = JournalWriter::create(&self.dir, current.number)?;
        difference(&last, &view, &mut journal)?;
        journal.finish()?;
        let mut batches = Batches::new(&current.db);
        difference(&last, &view, &mut batches)?;
        batches.finish()?;
        sync(&current.db, &generation_path(&self.dir, current.number))?;
        journal::remove(&self.dir)?;
        timer.observe_duration();
        self.last.store(Arc::clone(&view));
        self.note_written();
        Ok(view)
    }

    /// Replaces everything by `view`, atomically, in a new generation. Blocks for the disk.
    ///
    /// # Errors
    /// As [`Checkpoints::write_now`].
    pub(crate) fn replace(&self, view: View) -> io::Result<()> {
        let mut current = self.lock();
        let current = current.as_mut().ok_or_else(closed)?;
        let next = fill(&self.dir, current.number + 1, &view)?;
        set_current(&self.dir, next.number)?;
        let old = std::mem::replace(current, next);
        self.last.store(view);
        let old_path = generation_path(&self.dir, old.number);
        drop(old.db);
        fs::remove_dir_all(old_path)?;
        self.note_written();
        Ok(())
    }

    /// Closes sled and gives its lock up; nothing can be written any more. Blocks for the disk.
    pub(crate) fn close(&self) {
        drop(self.lock().take());
    }

    fn note_written(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.written_unix_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Generation>> {
        // A panic while it was held cannot leave `last` ahead of the disk: it is set at the end.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}

fn generation_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}"))
}

fn current_path(dir: &Path) -> PathBuf {
    dir.join("current")
}

/// The generation that counts; `None` before the first.
fn current(dir: &Path) -> io::Result<Option<u32>> {
    let Some([number]) = marker::read(&current_path(dir), CURRENT_MAGIC)? else { return Ok(None) };
    u32::try_from(number).map(Some).map_err(io::Error::other)
}

/// Makes generation `number` count, durably and atomically. It must be durable itself.
fn set_current(dir: &Path, number: u32) -> io::Result<()> {
    marker::write(&current_path(dir), CURRENT_MAGIC, [u64::from(number)])
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is missing", path.display()))
}

/// The numbers of the generations in `dir`, ascending.
fn generations(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn open_sled(path: &Path) -> io::Result<sled::Db> {
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

/// A new generation that holds `state`, durable when this returns.
fn fill(dir: &Path, number: u32, state: &State) -> io::Result<Generation> {
    let path = generation_path(dir, number);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    let db = open_sled(&path)?;
    let mut batches = Batches::new(&db);
    for (key, record) in &state.keys {
        rows::write_key(&mut batches, key, None, record)?;
    }
    for (name, list) in &state.ages {
        rows::write_ages(&mut batches, name, None, list)?;
    }
    rows::write_meta(&mut batches, &MetaV1::from(state))?;
    batches.finish()?;
    sync(&db, &path)?;
    for file in fs::read_dir(&path)? {
        File::open(file?.path())?.sync_all()?;
    }
    File::open(&path)?.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(Generation { number, db })
}

/// Applies the journal of a checkpoint that a crash interrupted, if there is one.
fn finish_interrupted(dir: &Path, number: u32, db: &sled::Db) -> io::Result<()> {
    let mut batches = Batches::new(db);
    journal::recover(dir, number, &mut batches)?;
    batches.finish()?;
    sync(db, &generation_path(dir, number))?;
    journal::remove(dir)
}

/// Writes rows to sled, [`BATCH_ROWS`] at a time.
struct Batches<'a> {
    db: &'a sled::Db,
    batch: sled::Batch,
    rows: usize,
}

impl<'a> Batches<'a> {
    fn new(db: &'a sled::Db) -> Self {
        Self { db, batch: sled::Batch::default(), rows: 0 }
    }

    fn count(&mut self) -> io::Result<()> {
        self.rows += 1;
        if self.rows.is_multiple_of(BATCH_ROWS) {
            self.db.apply_batch(std::mem::take(&mut self.batch)).map_err(sled_error)?;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        self.db.apply_batch(self.batch).map_err(sled_error)
    }
}

impl Rows for Batches<'_> {
    fn put(&mut self, key: Vec<u8>, sealed: Vec<u8>) -> io::Result<()> {
        self.batch.insert(key, sealed);
        self.count()
    }

    fn remove(&mut self, key: Vec<u8>) -> io::Result<()> {
        self.batch.remove(key);
        self.count()
    }
}

/// The rows to write so that a tree with `old` holds `new`; the meta row last.
fn difference(old: &State, new: &State, out: &mut impl Rows) -> io::Result<()> {
    use imbl::ordmap::DiffItem;

    for change in old.keys.diff(&new.keys) {
        match change {
            DiffItem::Add(key, record) => rows::write_key(out, key, None, record)?,
            DiffItem::Update { old: (_, old), new: (key, record) } => {
                rows::write_key(out, key, Some(old), record)?;
            }
            DiffItem::Remove(key, record) => rows::remove_key(out, key, record)?,
        }
    }
    for change in old.ages.diff(&new.ages) {
        match change {
            DiffItem::Add(name, list) => rows::write_ages(out, name, None, list)?,
            DiffItem::Update { old: (_, old), new: (name, list) } => {
                rows::write_ages(out, name, Some(old), list)?;
            }
            DiffItem::Remove(name, list) => rows::remove_ages(out, name, list)?,
        }
    }
    rows::write_meta(out, &MetaV1::from(new))
}

/// flush() on Linux is `sync_file_range`: it orders and starts the writes but survives no power
/// loss. `sync_data` on the same file does.
fn sync(db: &sled::Db, path: &Path) -> io::Result<()> {
    db.flush().map_err(sled_error)?;
    File::open(path.join("db"))?.sync_data()
}

fn load(db: &sled::Db) -> io::Result<State> {
    let row = |key: &[u8]| -> io::Result<Vec<u8>> {
        let sealed = db.get(key).map_err(sled_error)?.ok_or_else(|| bad_row(key, "missing"))?;
        let row = rows::unseal(key, &sealed).ok_or_else(|| bad_row(key, "checksum does not match"))?;
        Ok(row.to_vec())
    };
    let meta: MetaV1 = codec::decode("meta row", &row(META)?)?;

    let mut state = State::default();
    for item in db.scan_prefix([KEY]) {
        let (key_row, sealed) = item.map_err(sled_error)?;
        let key = name_of(&key_row)?;
        let bytes =
            rows::unseal(&key_row, &sealed).ok_or_else(|| bad_row(&key_row, "checksum does not match"))?;
        let head: KeyV1<'_> = codec::decode("key row", bytes)?;
        let value = rows::read_value(key, &head, row)??;
        if value.len() as u64 != head.value_bytes {
            return Err(bad_row(&key_row, "its pieces do not add up"));
        }
        let record = Record {
            value,
            content_type: head.content_type.into(),
            revision: head.revision,
            created_revision: head.created_revision,
        };
        state.restore_key(key.into(), record);
    }
    for item in db.scan_prefix([AGES]) {
        let (name_row, sealed) = item.map_err(sled_error)?;
        let name = name_of(&name_row)?;
        let bytes =
            rows::unseal(&name_row, &sealed).ok_or_else(|| bad_row(&name_row, "checksum does not match"))?;
        let head: AgesV1 = codec::decode("ages row", bytes)?;
        let list = rows::read_ages(name, &head, row)??;
        if list.len() as u64 != head.len {
            return Err(bad_row(&name_row, "its pieces do not add up"));
        }
        state.restore_ages(name.into(), list);
    }
    state.clock_ms = meta.clock_ms;
    state.last_applied = meta.last_applied.map(Into::into);
    state.membership = Arc::new(StoredMembership::try_from(meta.membership.clone())?);

    let found = MetaV1::from(&state);
    if found != meta {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} keys, {} names, {} bytes and hash {:016x} where {}, {}, {} and {:016x} were written",
                found.keys,
                found.names,
                found.data_bytes,
                found.hash,
                meta.keys,
                meta.names,
                meta.data_bytes,
                meta.hash
            ),
        ));
    }
    Ok(state)
}

fn name_of(head_row: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(&head_row[1..]).map_err(|_| bad_row(head_row, "its key is not UTF-8"))
}

fn bad_row(key: &[u8], reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("row {}: {reason}", key.escape_ascii()))
}

/// `error` with its place. Its kind says whether the disk failed or what is on it is damaged, which
/// a file that ends too early is.
fn in_generation(path: &Path, error: &io::Error) -> io::Error {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => io::ErrorKind::InvalidData,
        kind => kind,
    };
    io::Error::new(kind, format!("state in {}: {error}", path.display()))
}

fn sled_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests;
