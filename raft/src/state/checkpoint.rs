//! The state at rest: checkpoints in sled.
//!
//! A checkpoint is one sled batch with the rows that differ between the last checkpoint and a newer
//! view, the meta row among them; then sled's `flush`, which on Linux only starts the write-back,
//! and `sync_data` on its file, which makes it survive a power loss. The two views share what did
//! not change, so finding the difference costs as much as the difference.
//!
//! Every sled directory is a *generation*, `state/00000001`. Installing a snapshot fills the next
//! generation; the meta row, written last, makes it valid, and then the old one is removed. A crash
//! at any point leaves the old or the new state, never a mixture.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{Histogram, IntGauge};

use crate::codec;
use crate::state::rows::{self, AGES, AgesV1, KEY, KeyV1, META, MetaV1};
use crate::state::{Record, State, View};
use crate::types::StoredMembership;

/// sled's page cache. Nothing reads through it; the default would be 1 GiB.
const SLED_CACHE_BYTES: u64 = 8 << 20;
/// sled writes back by itself this often; only then does it also reclaim space.
const SLED_FLUSH_EVERY_MS: u64 = 1000;
/// Rows of one batch while a whole generation is written.
const FILL_BATCH_ITEMS: usize = 1024;

/// Writes checkpoints; one at a time.
pub(crate) struct Checkpoints {
    dir: PathBuf,
    current: Mutex<Generation>,
    duration_seconds: Histogram,
    written_unix_seconds: IntGauge,
}

struct Generation {
    number: u32,
    db: sled::Db,
    /// What `db` durably holds.
    last: View,
}

impl Checkpoints {
    /// Opens the newest valid generation in `dir`, or begins the first, and loads its state.
    ///
    /// # Errors
    /// `InvalidData` naming the generation and the row when anything is damaged; what the file
    /// system says otherwise.
    pub(crate) fn open(
        dir: &Path,
        duration_seconds: Histogram,
        written_unix_seconds: IntGauge,
    ) -> io::Result<(Self, View)> {
        fs::create_dir_all(dir)?;
        let mut numbers = generations(dir)?;
        let current = loop {
            let Some(number) = numbers.pop() else { break create(dir, 1)? };
            let path = generation_path(dir, number);
            let db = open_sled(&path)?;
            if db.get(META).map_err(sled_error)?.is_some() {
                let last = Arc::new(load(&db).map_err(|error| damaged(&path, &error))?);
                break Generation { number, db, last };
            }
            // Without a meta row it was never finished. Then it is either the first one of a new
            // node and empty, or an older one still holds the state.
            if numbers.is_empty() && db.iter().next().is_some() {
                return Err(damaged(&path, &"rows without a meta row"));
            }
            drop(db);
            fs::remove_dir_all(&path)?;
        };
        for number in numbers {
            fs::remove_dir_all(generation_path(dir, number))?;
        }
        let last = Arc::clone(&current.last);
        let checkpoints = Self {
            dir: dir.to_owned(),
            current: Mutex::new(current),
            duration_seconds,
            written_unix_seconds,
        };
        checkpoints.note_written();
        Ok((checkpoints, last))
    }

    /// What is durable.
    pub(crate) fn last(&self) -> View {
        Arc::clone(&self.lock().last)
    }

    /// Makes `view` durable and answers what is durable then: `view`, or something newer that was
    /// written meanwhile. Blocks for the disk.
    ///
    /// # Errors
    /// What sled or the file system says. The caller must stop the node: sled's errors stick.
    pub(crate) fn write(&self, view: View) -> io::Result<View> {
        let mut current = self.lock();
        if view.last_applied <= current.last.last_applied {
            return Ok(Arc::clone(&current.last));
        }
        let timer = self.duration_seconds.start_timer();
        current.db.apply_batch(difference(&current.last, &view)?).map_err(sled_error)?;
        sync(&current.db, &generation_path(&self.dir, current.number))?;
        timer.observe_duration();
        current.last = Arc::clone(&view);
        self.note_written();
        Ok(view)
    }

    /// Replaces everything by `view`, atomically, in a new generation. Blocks for the disk.
    ///
    /// # Errors
    /// As [`Checkpoints::write`].
    pub(crate) fn replace(&self, view: View) -> io::Result<()> {
        let mut current = self.lock();
        let next = fill(&self.dir, current.number + 1, view)?;
        let old = std::mem::replace(&mut *current, next);
        let old_path = generation_path(&self.dir, old.number);
        drop(old.db);
        fs::remove_dir_all(old_path)?;
        self.note_written();
        Ok(())
    }

    fn note_written(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.written_unix_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Generation> {
        // A panic while it was held cannot leave `last` ahead of the disk: it is set at the end.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn generation_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}"))
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
    sled::Config::new()
        .path(path)
        .cache_capacity(SLED_CACHE_BYTES)
        .flush_every_ms(Some(SLED_FLUSH_EVERY_MS))
        .mode(sled::Mode::LowSpace)
        .open()
        .map_err(|error| damaged(path, &error))
}

/// A valid, empty generation.
fn create(dir: &Path, number: u32) -> io::Result<Generation> {
    fill(dir, number, Arc::default())
}

/// A new generation that holds `view`, durable when this returns.
fn fill(dir: &Path, number: u32, view: View) -> io::Result<Generation> {
    let path = generation_path(dir, number);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    let db = open_sled(&path)?;
    let mut batch = sled::Batch::default();
    let mut items = 0;
    let mut flush_full = |batch: &mut sled::Batch| -> io::Result<()> {
        items += 1;
        if items % FILL_BATCH_ITEMS == 0 {
            db.apply_batch(std::mem::take(batch)).map_err(sled_error)?;
        }
        Ok(())
    };
    for (key, record) in &view.keys {
        rows::write_key(&mut batch, key, None, record)?;
        flush_full(&mut batch)?;
    }
    for (name, list) in &view.ages {
        rows::write_ages(&mut batch, name, None, list)?;
        flush_full(&mut batch)?;
    }
    db.apply_batch(batch).map_err(sled_error)?;
    // The meta row may only become durable after everything that it vouches for.
    sync(&db, &path)?;
    let mut meta = sled::Batch::default();
    rows::write_meta(&mut meta, &MetaV1::from(&*view))?;
    db.apply_batch(meta).map_err(sled_error)?;
    sync(&db, &path)?;
    File::open(&path)?.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(Generation { number, db, last: view })
}

/// The rows to write so that a tree with `old` holds `new`.
fn difference(old: &State, new: &State) -> io::Result<sled::Batch> {
    use imbl::ordmap::DiffItem;

    let mut batch = sled::Batch::default();
    for change in old.keys.diff(&new.keys) {
        match change {
            DiffItem::Add(key, record) => rows::write_key(&mut batch, key, None, record)?,
            DiffItem::Update { old: (_, old), new: (key, record) } => {
                rows::write_key(&mut batch, key, Some(old), record)?;
            }
            DiffItem::Remove(key, record) => rows::remove_key(&mut batch, key, record)?,
        }
    }
    for change in old.ages.diff(&new.ages) {
        match change {
            DiffItem::Add(name, list) => rows::write_ages(&mut batch, name, None, list)?,
            DiffItem::Update { old: (_, old), new: (name, list) } => {
                rows::write_ages(&mut batch, name, Some(old), list)?;
            }
            DiffItem::Remove(name, list) => rows::remove_ages(&mut batch, name, list)?,
        }
    }
    rows::write_meta(&mut batch, &MetaV1::from(new))?;
    Ok(batch)
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
                "{} keys, {} names and {} bytes where {}, {} and {} were written",
                found.keys, found.names, found.data_bytes, meta.keys, meta.names, meta.data_bytes
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

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("state in {}: {error}", path.display()))
}

fn sled_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests;
