//! What a node has on disk: its log, its state, and whether they are all there and fit each other.

use std::io;
use std::path::Path;
use std::sync::Arc;

use prometheus::Registry;

use crate::identity::{DataDir, DataDirError};
use crate::log::{LogOptions, LogStore};
use crate::metrics::StateMetrics;
use crate::state::View;
use crate::state::checkpoint::Checkpoints;
use crate::store::OpenError;

const LOG: &str = "log";
const STATE: &str = "state";

/// Log and state, opened.
pub(super) struct AtRest {
    pub(super) log: LogStore,
    pub(super) checkpoints: Checkpoints,
    pub(super) view: View,
}

/// Makes an empty log and an empty state for a node that has no identity yet.
///
/// # Errors
/// When there is something in them already: then the identity was lost.
pub(super) async fn create(data_dir: Arc<DataDir>) -> Result<(), OpenError> {
    let (log_dir, state_dir) = (data_dir.subdirectory(LOG)?, data_dir.subdirectory(STATE)?);
    let blank = blocking(move || {
        LogStore::create(&log_dir).map_err(|error| named(LOG, &log_dir, error))?;
        let log = open_log(&log_dir, &Registry::new())?;
        if !log.is_blank() {
            return Ok(false);
        }
        drop(log);
        Checkpoints::create(&state_dir)?;
        let metrics = StateMetrics::register(&Registry::new()).map_err(io::Error::other)?;
        let (checkpoints, view) = open_state(&state_dir, &metrics)?;
        checkpoints.close();
        Ok(view.last_applied.is_none())
    });
    match blank.await? {
        true => Ok(()),
        false => Err(DataDirError::IdentityMissing { path: data_dir.path().display().to_string() }.into()),
    }
}

/// Opens both. Nothing that is missing is made anew.
///
/// # Errors
/// [`OpenError::Damaged`] when something is missing, damaged, or does not fit.
pub(super) async fn open(
    data_dir: Arc<DataDir>,
    registry: &Registry,
    metrics: &StateMetrics,
) -> Result<AtRest, OpenError> {
    let (registry, metrics) = (registry.clone(), metrics.clone());
    blocking(move || {
        let (log_dir, state_dir) = (data_dir.path().join(LOG), data_dir.path().join(STATE));
        let log = open_log(&log_dir, &registry)?;
        let (checkpoints, view) = open_state(&state_dir, &metrics)?;
        // Entries are purged only behind a durable state (invariant 4).
        let (purged, applied) = (log.purged(), view.last_applied);
        if purged > applied {
            let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
            let reason = format!(
                "state in {}: it ends at log index {}, but the log was purged up to {}: it is an older state",
                state_dir.display(),
                index(applied),
                index(purged)
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(AtRest { log, checkpoints, view })
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, OpenError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OpenError::Storage(io::Error::other(error)))?.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged(error),
        _ => OpenError::Storage(error),
    })
}

fn open_log(dir: &Path, registry: &Registry) -> io::Result<LogStore> {
    LogStore::open(dir, &LogOptions::default(), registry).map_err(|error| named(LOG, dir, error))
}

fn open_state(dir: &Path, metrics: &StateMetrics) -> io::Result<(Checkpoints, View)> {
    let opened = Checkpoints::open(
        dir,
        metrics.checkpoint_duration_seconds.clone(),
        metrics.checkpoint_written_unix_seconds.clone(),
    );
    opened.map_err(|error| match error.kind() {
        // It names what is damaged.
        io::ErrorKind::InvalidData => error,
        kind => io::Error::new(kind, format!("{STATE} in {}: {error}", dir.display())),
    })
}

/// `error` with its place. What the kernel did not say is about what is on the disk, unless its kind tells that
/// the disk is all right and this process may not, or cannot now, use it: nobody is to throw data away for that.
fn named(what: &str, path: &Path, error: io::Error) -> io::Error {
    use io::ErrorKind::{
        InvalidData, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WouldBlock,
    };
    let kind = match error.kind() {
        kind if error.raw_os_error().is_some() => kind,
        kind @ (PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull | WouldBlock) => kind,
        _ => InvalidData,
    };
    io::Error::new(kind, format!("{what} in {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_the_disk_is_damage() {
        let of_kernel = io::Error::from_raw_os_error(libc::EIO);
        let wrapped = |kind| io::Error::new(kind, "Permission denied (os error 13); when:(create lock file)");
        for (error, kind) in [
            (wrapped(io::ErrorKind::PermissionDenied), io::ErrorKind::PermissionDenied),
            (wrapped(io::ErrorKind::WouldBlock), io::ErrorKind::WouldBlock),
            (wrapped(io::ErrorKind::StorageFull), io::ErrorKind::StorageFull),
            (wrapped(io::ErrorKind::Other), io::ErrorKind::InvalidData),
            (wrapped(io::ErrorKind::UnexpectedEof), io::ErrorKind::InvalidData),
            (wrapped(io::ErrorKind::InvalidData), io::ErrorKind::InvalidData),
        ] {
            let named = named(LOG, Path::new("/d/log"), error);
            assert_eq!(named.kind(), kind);
            assert!(named.to_string().starts_with("log in /d/log: Permission denied"), "{named}");
        }
        assert_ne!(named(LOG, Path::new("/d/log"), of_kernel).kind(), io::ErrorKind::InvalidData);
    }
}
