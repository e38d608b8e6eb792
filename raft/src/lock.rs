//! Files that are locked, and a lock that is about to be given up.

use std::io;
use std::time::{Duration, Instant};

/// How long a lock may still be held. Whoever asks holds the lock of the whole data directory, so
/// the holder can only be a part of the process before that is still closing: a thread of sled or of
/// the log, or a child that was forked and has not yet begun its own program.
const WAIT_MAX: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// The same for the lock of the data directory, which another node may hold for good. Only such a child can
/// be about to give it up.
pub(crate) const FORKED_MAX: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `open` until it does not answer `WouldBlock` any more, bounded. Blocks.
///
/// # Errors
/// Those of `open`.
pub(crate) fn once_free<T>(open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    once_free_within(WAIT_MAX, open)
}

/// [`once_free`] for at most `wait_max`.
///
/// # Errors
/// Those of `open`.
pub(crate) fn once_free_within<T>(
    wait_max: Duration,
    mut open: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let deadline = Instant::now() + wait_max;
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}
