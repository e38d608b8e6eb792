//! Work that may take its time, on threads of low priority.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

/// Added to the niceness of such a thread: under full load it gets a tenth of a processor.
pub(crate) const NICE: i32 = 10;

/// Runs `work` on a thread of its own. What is returned resolves when the work is done; dropping it
/// does not stop the work.
///
/// # Errors
/// When the thread cannot be started, and those of `work`.
pub(crate) fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl Future<Output = io::Result<T>> + Send + 'static {
    let (done, result) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        be_polite();
        // Whoever waited may be gone; then nobody needs the result.
        drop(done.send(work()));
    });
    async move {
        started?;
        result.await.map_err(io::Error::other)?
    }
}

/// Runs `work` on a thread of low priority, which all threads that it starts inherit, and waits for it.
///
/// # Errors
/// When the thread cannot be started, and those of `work`.
///
/// # Panics
/// When `work` does.
pub(crate) fn with_low_priority<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("background".to_owned()).spawn_scoped(scope, || {
            be_polite();
            work()
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Drops `what` on a thread of low priority: a large state, or files, take a while. Gives the thread, or
/// nothing when it was dropped at once for lack of one.
pub(crate) fn dispose<T: Send + 'static>(what: T) -> Option<JoinHandle<()>> {
    let disposing = std::thread::Builder::new().name("dispose".to_owned()).spawn(move || {
        be_polite();
        drop(what);
    });
    disposing.inspect_err(|error| tracing::debug!(%error, "no thread to dispose of old state")).ok()
}

fn be_polite() {
    // On Linux this is about the calling thread. Without it the work is only less polite.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "cannot lower the priority of a thread");
    }
}
