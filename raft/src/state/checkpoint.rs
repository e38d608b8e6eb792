//! The state at rest: checkpoints in sled.
//!
//! A checkpoint is the rows that differ between the last checkpoint and a newer view, the meta row
//! last. The state notes what they are while it is changed, see [`Frozen`]. The [`journal`] makes them
//! atomic. Then the view is let go of, and the rows go from the journal to sled in small batches, followed by
//! sled's `flush`, which on Linux only starts the write-back, and `sync_data` on its file, which makes it
//! survive a power loss. A crash in between leaves the journal; a start reads over it, see [`loading`], and the
//! next checkpoint finishes it first.
//!
//! All of it runs on a thread of low priority, and with pauses: it takes half of the time that the changes
//! took to come, unless the next checkpoint is due before that, or the node stops. A whole state, received
//! or written anew, has a rest after each bit of work, as long as the work, so that writes go on beside it.
//!
//! Every sled directory is a *generation*, `state/00000001`, and the marker `state/current` names the one
//! that counts. A received snapshot fills a generation of its own while it arrives; when all of it is
//! durable, installing it is setting the marker, see [`generation`]. A crash at any point leaves the old
//! or the new state, never a mixture; and a generation that the marker names and that is not there, or not
//! whole, is damage.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus::{Histogram, IntGauge};

use crate::background;
use crate::state::generation::{self, Batches, Generation, current_path, generation_path, generations};
use crate::state::journal::{self, JournalWriter};
use crate::state::loading;
use crate::state::pace::{Haste, Pace};
use crate::state::rows::{self, MetaV1};
use crate::state::{Frozen, State, View, snapshot};
use crate::types::{LogId, SnapshotMeta, StoredMembership};

/// The longest time that a checkpoint is spread over.
const SPREAD_MAX: Duration = Duration::from_secs(30);
/// The part of it that is for the journal: about its part of the work, which is done while a view is held.
const JOURNAL_SHARE: u32 = 8;

/// Where a checkpoint is in the log: what is durable.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) last_applied: Option<LogId>,
    membership: Arc<StoredMembership>,
}

impl From<&State> for Place {
    fn from(state: &State) -> Self {
        Self { last_applied: state.last_applied, membership: Arc::clone(&state.membership) }
    }
}

impl Place {
    /// Log index of the last entry that is in it, 0 for none.
    pub(crate) fn revision(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index)
    }

    /// What a snapshot of it covers.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: (*self.membership).clone() }
    }
}

/// Writes checkpoints; one at a time.
pub(crate) struct Checkpoints {
    dir: PathBuf,
    /// What is durable; to be looked at without waiting for a checkpoint.
    last: ArcSwap<Place>,
    /// Held while a checkpoint is written, however long that takes; when the last one began.
    writing: Mutex<Instant>,
    haste: Haste,
    receiving: AtomicBool,
    /// Held for moments only: a snapshot is installed while a checkpoint is written. `None` once closed.
    current: Mutex<Option<Arc<Generation>>>,
    next_number: AtomicU32,
    /// Threads that remove old generations; a directory must not be opened again before they are done.
    removing: Mutex<Vec<JoinHandle<()>>>,
    duration_seconds: Histogram,
    written_unix_seconds: IntGauge,
}

/// A received state, durable in a generation that does not count yet. Dropped, it is gone.
pub struct Incoming {
    generation: Generation,
    view: View,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incoming({})", self.generation.number)
    }
}

impl Incoming {
    /// The state.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }
}

/// Sets a flag while it lives.
struct Receiving<'a>(&'a AtomicBool);

impl<'a> Receiving<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.close();
    }
}

impl Checkpoints {
    /// Begins the first generation in `dir`, with an empty state, unless there is one already.
    ///
    /// # Errors
    /// As [`Checkpoints::open`].
    pub(crate) fn create(dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        if generation::current(dir)?.is_none() {
            fill(Generation::begin(dir, 1)?, &State::default(), &Haste::default())?.commit()?;
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
        let number = generation::current(dir)?.ok_or_else(|| generation::missing(&current_path(dir)))?;
        // sled would make what it does not find.
        for file in ["conf", "db"].map(|name| generation_path(dir, number).join(name)) {
            if !file.is_file() {
                return Err(generation::missing(&file));
            }
        }
        let current = Generation::open(dir, number)?;
        journal::drop_unfinished(dir)?;
        let view = loading::load(dir, &current)?;
        // What a crash left of a next one, or of the one before.
        for other in generations(dir)?.into_iter().filter(|other| *other != number) {
            fs::remove_dir_all(generation_path(dir, other))?;
        }
        let checkpoints = Self {
            dir: dir.to_owned(),
            last: ArcSwap::from_pointee(Place::from(&view)),
            writing: Mutex::new(Instant::now()),
            haste: Haste::default(),
            receiving: AtomicBool::new(false),
            current: Mutex::new(Some(Arc::new(current))),
            next_number: AtomicU32::new(number + 1),
            removing: Mutex::default(),
            duration_seconds,
            written_unix_seconds,
        };
        checkpoints.note_written();
        Ok((checkpoints, Arc::new(view)))
    }

    /// What is durable. Never waits.
    pub(crate) fn last(&self) -> Arc<Place> {
        self.last.load_full()
    }

    /// [`Checkpoints::write_now`] on a thread of low priority.
    pub(crate) async fn write(self: &Arc<Self>, frozen: Frozen) -> io::Result<Arc<Place>> {
        let checkpoints = Arc::clone(self);
        background::run("checkpoint", move || checkpoints.write_now(frozen)).await
    }

    /// Makes `frozen` durable and answers what is durable then: that, or something newer that was
    /// written or installed meanwhile. Blocks for the disk, and takes its time: see [`Checkpoints::hurry`].
    ///
    /// # Errors
    /// What sled or the file system says. The caller must stop the node: sled's errors stick.
    pub(crate) fn write_now(&self, frozen: Frozen) -> io::Result<Arc<Place>> {
        let mut begun = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.lock().clone().ok_or_else(closed)?;
        let last = self.last();
        if frozen.view.last_applied <= last.last_applied {
            return Ok(last);
        }
        let timer = self.duration_seconds.start_timer();
        let before = std::mem::replace(&mut *begun, Instant::now());
        self.haste.calm();
        // A crash interrupted the one before.
        if journal::path(&self.dir).try_exists()? {
            apply_journal(&self.dir, &current, Batches::resting(&current, &self.haste))?;
        }
        if frozen.continues(last.last_applied) {
            let spread = (begun.duration_since(before) / 2).min(SPREAD_MAX);
            self.write_changes(&current, frozen, spread)?;
        } else {
            tracing::info!(
                "what has changed since the last checkpoint is too much, or not known: all is written anew"
            );
            self.replace(frozen.view)?;
        }
        timer.observe_duration();
        self.note_written();
        Ok(self.last())
    }

    /// Writes to `current`, which holds the last checkpoint, what is changed since.
    fn write_changes(&self, current: &Arc<Generation>, frozen: Frozen, spread: Duration) -> io::Result<()> {
        let (place, meta) = (Place::from(&*frozen.view), MetaV1::from(&*frozen.view));
        let mut journal = JournalWriter::create(&self.dir, current.number)?;
        let for_journal = spread / JOURNAL_SHARE;
        let pace = Pace::new(&self.haste, for_journal, frozen.notes() as u64);
        // Lets go of the view: what is overwritten from here on need not be kept.
        frozen.write(&mut journal, &pace)?;
        rows::write_meta(&mut journal, &meta)?;
        let rows = journal.finish()?;
        let pace = Pace::new(&self.haste, spread - for_journal, rows);
        if apply_journal(&self.dir, current, Batches::paced(current, pace))? != Some(rows) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the journal of a checkpoint has gone"));
        }
        // Else a snapshot came between, and holds more.
        let now = self.lock();
        if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, current)) {
            self.last.store(Arc::new(place));
        }
        Ok(())
    }

    /// Has the checkpoint that is being written go on without pauses: the next one waits for it.
    pub(crate) fn hurry(&self) {
        self.haste.once();
    }

    /// Has all checkpoints from here on be written without pauses: the node stops.
    pub(crate) fn hurry_always(&self) {
        self.haste.always();
    }

    /// Whether a snapshot is being received: what is at rest will be replaced.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed)
    }

    /// Reads the stream of a snapshot into a generation of its own, which does not count before
    /// [`Checkpoints::install`]. Blocks for both, and takes its time. One at a time.
    ///
    /// # Errors
    /// `InvalidData` naming the offset when the stream is damaged or incomplete; nothing is left then.
    pub(crate) fn receive(&self, input: impl Read) -> io::Result<Incoming> {
        let _receiving = Receiving::begin(&self.receiving);
        let generation = self.begin()?;
        // The one that was installed before may have left some haste behind.
        self.haste.calm();
        let mut batches = Batches::resting(&generation, &self.haste);
        let state = snapshot::read(input, &mut batches)?;
        batches.finish()?;
        generation.sync()?;
        generation.finish(&MetaV1::from(&state))?;
        Ok(Incoming { generation, view: Arc::new(state) })
    }

    /// Replaces everything by what was received, atomically. Takes moments.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn install(&self, incoming: Incoming) -> io::Result<()> {
        self.commit(incoming.generation, incoming.view)
    }

    /// Replaces everything by `view`, atomically, in a new generation. Blocks for the disk.
    ///
    /// # Errors
    /// As [`Checkpoints::write_now`].
    pub(crate) fn replace(&self, view: View) -> io::Result<()> {
        self.commit(fill(self.begin()?, &view, &self.haste)?, view)
    }

    fn begin(&self) -> io::Result<Generation> {
        Generation::begin(&self.dir, self.next_number.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets `next`, which durably holds `view`, take the place of the current generation, unless that is
    /// newer by now.
    fn commit(&self, next: Generation, view: View) -> io::Result<()> {
        let mut current = self.lock();
        let current = current.as_mut().ok_or_else(closed)?;
        let last = self.last();
        if view.last_applied < last.last_applied {
            return Ok(());
        }
        next.commit()?;
        let old = std::mem::replace(current, Arc::new(next));
        old.retire();
        // What is still being written to it is of no use.
        self.haste.once();
        self.last.store(Arc::new(Place::from(&*view)));
        self.note_written();
        let mut removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        removing.retain(|thread| !thread.is_finished());
        removing.extend(background::dispose(old));
        Ok(())
    }

    /// Closes sled and gives its lock up; nothing can be written any more. Blocks for the disk.
    pub(crate) fn close(&self) {
        self.hurry_always();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.lock().take();
        drop(current);
        let removing = std::mem::take(&mut *self.removing.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in removing {
            if thread.join().is_err() {
                tracing::error!("a thread panicked while it removed an old state");
            }
        }
    }

    /// All rows at rest.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let current = self.lock().clone().ok_or_else(closed).unwrap();
        current.db.iter().map(|row| row.map(|(key, row)| (key.to_vec(), row.to_vec())).unwrap()).collect()
    }

    fn note_written(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.written_unix_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Generation>>> {
        // A panic while it was held cannot leave `last` ahead of the disk: it is set at the end.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}

/// Fills a generation that was begun with `state`; durable when this returns.
fn fill(generation: Generation, state: &State, haste: &Haste) -> io::Result<Generation> {
    let mut batches = Batches::resting(&generation, haste);
    for (key, record) in &state.keys {
        rows::write_key(&mut batches, key, 0, record)?;
    }
    for (name, list) in &state.ages {
        rows::write_ages(&mut batches, name, None, list)?;
    }
    for (key, answer) in &state.answers.by_key {
        rows::write_answer(&mut batches, key, answer)?;
    }
    batches.finish()?;
    // The meta row may only become durable after everything that it vouches for.
    generation.sync()?;
    generation.finish(&MetaV1::from(state))?;
    Ok(generation)
}

/// Writes the rows of the journal, if there is one, to the generation that it is for, and removes it. Says
/// how many they were.
fn apply_journal(dir: &Path, current: &Generation, mut batches: Batches<'_>) -> io::Result<Option<u64>> {
    let rows = journal::replay(dir, current.number, &mut batches)?;
    batches.finish()?;
    current.sync()?;
    journal::remove(dir)?;
    Ok(rows)
}

#[cfg(test)]
mod tests;
