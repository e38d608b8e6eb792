//! Room on the disk of the data directory.
//!
//! Below `storage.disk_free_min` the leader refuses what would grow the data; reads and deletes go on, and
//! the refusal ends by itself when there is room again. The reserve is what deletes, votes and
//! checkpoints are written to meanwhile.
//!
//! A node must also be able to *start* on a disk that is full to the last byte, since that is when it
//! is needed most: opening the log and sled writes a little. So a ballast file is kept while there is
//! room, and given up when there is none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a start needs at most: the marker of the log, the first votes in it, and two segments of sled.
const BALLAST_BYTES: u64 = 16 << 20;
/// How often the disk is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Watches the disk; see the module.
pub(crate) struct Disk {
    dir: PathBuf,
    free_min: u64,
    free_bytes: AtomicU64,
}

impl Disk {
    /// Looks at the disk of `dir`, and gives the ballast up if there is less room than a start needs.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn new(dir: &Path, free_min: u64) -> io::Result<Arc<Self>> {
        let disk = Self { dir: dir.to_owned(), free_min, free_bytes: AtomicU64::new(0) };
        disk.look()?;
        if disk.free_bytes() < BALLAST_BYTES {
            match fs::remove_file(disk.ballast()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => disk.look()?,
            }
        }
        Ok(Arc::new(disk))
    }

    /// Bytes that an unprivileged process may still write, as of the last look.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// The bound, in bytes.
    pub(crate) fn free_min(&self) -> u64 {
        self.free_min
    }

    /// Whether the data must not grow.
    pub(crate) fn is_low(&self) -> bool {
        self.free_bytes() < self.free_min
    }

    /// Looks again and again, until it is dropped. A disk that hangs holds up only this.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let was_low = self.is_low();
            let disk = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || disk.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot look at the disk"),
                Err(_) => return,
            }
            let (free_bytes, free_min) = (self.free_bytes(), self.free_min);
            match (was_low, self.is_low()) {
                (false, true) => {
                    tracing::error!(free_bytes, free_min, "the disk is nearly full: the data may not grow")
                }
                (true, false) => tracing::info!(free_bytes, free_min, "the disk has room again"),
                _ => {}
            }
        }
    }

    fn look(&self) -> io::Result<()> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        self.free_bytes.store(free, Ordering::Relaxed);
        // Never in the way: without it the next start is only less sure.
        if free >= self.free_min.saturating_add(2 * BALLAST_BYTES)
            && !self.ballast().exists()
            && let Err(error) = reserve(&self.ballast())
        {
            tracing::debug!(%error, "no ballast");
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

/// A file whose blocks are allocated and never written.
fn reserve(path: &Path) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_ballast_is_there_while_there_is_room() {
        let dir = TempDir::new().unwrap();
        let ballast = dir.path().join("ballast");
        let roomy = Disk::new(dir.path(), 0).unwrap();
        assert!(!roomy.is_low() && roomy.free_bytes() > 0);
        assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST_BYTES);
        let low = Disk::new(dir.path(), u64::MAX).unwrap();
        assert!(low.is_low());
        assert!(ballast.exists(), "given up only when a start would fail without it");
    }
}
