//! Notices from nice threads to tasks, by way of the kernel: see [`workers`](super::workers) for why.

use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Bytes of a notice. The kernel takes so few at once or not at all, see pipe(7).
const NOTICE_BYTES: usize = size_of::<u64>();
/// Notices that are read at once.
const NOTICES_AT_ONCE: usize = 512;

/// Tasks that wait for notices, each for one with a number of its own.
pub(super) struct Notices {
    writer: Arc<PipeWriter>,
    next: AtomicU64,
    /// By number. A std mutex: only asynchronous threads take it, never across an await.
    expected: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    /// Until the task is started that reads it.
    reader: Mutex<Option<PipeReader>>,
}

/// Sent when it is dropped, by whatever thread.
pub(super) struct Notice {
    number: u64,
    writer: Arc<PipeWriter>,
}

impl Notices {
    /// # Errors
    /// When there is no pipe to be had.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self {
            writer: Arc::new(writer),
            next: AtomicU64::new(0),
            expected: Arc::default(),
            reader: Mutex::new(Some(reader)),
        })
    }

    /// A notice, and what ends when it is sent. Within a Tokio runtime, always the same.
    ///
    /// # Errors
    /// When the runtime cannot watch the pipe.
    pub(super) fn expect(&self) -> io::Result<(Notice, oneshot::Receiver<()>)> {
        if let Some(reader) = lock(&self.reader).take() {
            let reader = pipe::Receiver::from_owned_fd(reader.into())?;
            tokio::spawn(deliver(reader, Arc::clone(&self.expected)));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, noticed) = oneshot::channel();
        lock(&self.expected).insert(number, sender);
        Ok((Notice { number, writer: Arc::clone(&self.writer) }, noticed))
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // It fails when nobody reads any more: then nobody waits. A full pipe holds up this thread, not its reader.
        let _ = (&*self.writer).write_all(&self.number.to_ne_bytes());
    }
}

/// Passes notices on until nobody can send one any more.
async fn deliver(reader: pipe::Receiver, expected: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>) {
    let mut bytes = [0; NOTICE_BYTES * NOTICES_AT_ONCE];
    while reader.readable().await.is_ok() {
        match reader.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                let mut expected = lock(&expected);
                for number in bytes[..length].as_chunks::<NOTICE_BYTES>().0 {
                    // Who waited may have gone away.
                    expected.remove(&u64::from_ne_bytes(*number)).map(|sender| sender.send(()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::error!(%error, "cannot read what the computing threads have done");
                // Who waits is told so by the end of the channel.
                lock(&expected).clear();
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_gets_its_own_from_whatever_thread() {
        let notices = Notices::new().unwrap();
        let (first, mut first_noticed) = notices.expect().unwrap();
        // More than are read at once, and than a pipe holds.
        let others: Vec<_> = (0..20_000).map(|_| notices.expect().unwrap()).collect();
        let (senders, noticed): (Vec<_>, Vec<_>) = others.into_iter().unzip();
        let thread = std::thread::spawn(move || drop(senders));
        for noticed in noticed {
            noticed.await.unwrap();
        }
        thread.join().unwrap();
        assert!(first_noticed.try_recv().is_err());
        drop(first);
        first_noticed.await.unwrap();
        assert!(lock(&notices.expected).is_empty());
    }

    #[tokio::test]
    async fn the_reader_ends_with_the_last_sender() {
        let notices = Notices::new().unwrap();
        let (notice, noticed) = notices.expect().unwrap();
        let expected = Arc::downgrade(&notices.expected);
        drop(notices);
        drop(notice);
        noticed.await.unwrap();
        while expected.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
