//! Notices from nice threads to tasks, without a lock that both sides take: see [`workers`](super::workers) for
//! why.
//!
//! A notice is a bit on a board. Who sets one while the reader sleeps writes a byte into a pipe as well; the
//! reader, a task, takes all bits there are and wakes the tasks that wait for them. Under load one byte goes with
//! many bits.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Bits of a word of the board.
const WORD_BITS: usize = 64;
/// More places than any node has callers: 128 KiB of bits.
const PLACES_MAX: usize = 1 << 20;

/// Tasks that wait for notices, each for that of a place of its own.
pub(super) struct Notices {
    board: Arc<Board>,
    /// The reader ends when all of these are gone.
    writer: Arc<PipeWriter>,
    /// A std mutex: only asynchronous threads take it, never across an await.
    expected: Arc<Mutex<Expected>>,
    /// Until the reader is started.
    reader: Mutex<Option<PipeReader>>,
}

/// Who waits.
struct Expected {
    /// By place.
    senders: Vec<Option<oneshot::Sender<()>>>,
    /// Places below the number of senders that nobody has.
    free: Vec<usize>,
    places_max: usize,
}

/// What was sent and is not passed on yet.
struct Board {
    /// A bit for each place.
    sent: Box<[AtomicU64]>,
    /// A byte is in the pipe, or about to be.
    woken: AtomicBool,
}

/// Sent when it is dropped, by whatever thread.
pub(super) struct Notice {
    place: usize,
    /// The bit is set, and the reader is about to be woken with others.
    posted: bool,
    board: Arc<Board>,
    writer: Arc<PipeWriter>,
}

impl Notices {
    /// For up to `places` notices at a time.
    ///
    /// # Errors
    /// When there is no pipe to be had.
    pub(super) fn new(places: usize) -> io::Result<Self> {
        let places_max = places.min(PLACES_MAX);
        let (reader, writer) = io::pipe()?;
        let sent = (0..places_max.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect();
        let expected = Expected { senders: Vec::new(), free: Vec::new(), places_max };
        Ok(Self {
            board: Arc::new(Board { sent, woken: AtomicBool::new(false) }),
            writer: Arc::new(writer),
            expected: Arc::new(Mutex::new(expected)),
            reader: Mutex::new(Some(reader)),
        })
    }

    /// A notice, and what ends when it is sent; nothing when all places are taken. Within a Tokio runtime, always
    /// the same.
    ///
    /// # Errors
    /// When the runtime cannot watch the pipe.
    pub(super) fn expect(&self) -> io::Result<Option<(Notice, oneshot::Receiver<()>)>> {
        if let Some(reader) = lock(&self.reader).take() {
            let reader = pipe::Receiver::from_owned_fd(reader.into())?;
            tokio::spawn(deliver(reader, Arc::clone(&self.board), Arc::clone(&self.expected)));
        }
        let (sender, noticed) = oneshot::channel();
        let Some(place) = lock(&self.expected).take_place(sender) else { return Ok(None) };
        let (board, writer) = (self.board.clone(), self.writer.clone());
        Ok(Some((Notice { place, posted: false, board, writer }, noticed)))
    }
}

impl Expected {
    fn take_place(&mut self, sender: oneshot::Sender<()>) -> Option<usize> {
        if let Some(place) = self.free.pop() {
            self.senders[place] = Some(sender);
            return Some(place);
        }
        let place = self.senders.len();
        (place < self.places_max).then(|| self.senders.push(Some(sender)))?;
        Some(place)
    }

    /// Whoever waits, or comes later, would do so for ever.
    fn close(&mut self) {
        self.senders.clear();
        self.free.clear();
        self.places_max = 0;
    }

    fn pass_on(&mut self, place: usize) {
        if let Some(sender) = self.senders.get_mut(place).and_then(Option::take) {
            self.free.push(place);
            // Who waited may have gone away.
            let _ = sender.send(());
        }
    }
}

impl Notice {
    /// Sends several at the cost of one.
    pub(super) fn send_all(notices: &mut Vec<Self>) {
        // The last one wakes the reader when the bits of all are set.
        let last = notices.pop();
        for notice in notices.iter_mut() {
            notice.post();
        }
        notices.clear();
        drop(last);
    }

    fn post(&mut self) {
        let bit = 1 << (self.place % WORD_BITS);
        self.board.sent[self.place / WORD_BITS].fetch_or(bit, Ordering::Release);
        self.posted = true;
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if self.posted {
            return;
        }
        self.post();
        // The reader takes the bits after it has taken this back, see `deliver`.
        if !self.board.woken.swap(true, Ordering::AcqRel) {
            // It fails when nobody reads any more: then nobody waits.
            let _ = (&*self.writer).write_all(&[0]);
        }
    }
}

/// Passes notices on until nobody can send one any more.
async fn deliver(reader: pipe::Receiver, board: Arc<Board>, expected: Arc<Mutex<Expected>>) {
    let mut bytes = [0; 64];
    while reader.readable().await.is_ok() {
        match reader.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::error!(%error, "cannot read what the computing threads have done");
                // Who waits is told so by the end of the channel.
                lock(&expected).close();
                return;
            }
        }
        board.woken.swap(false, Ordering::AcqRel);
        let mut expected = lock(&expected);
        for (word, sent) in board.sent.iter().enumerate() {
            if sent.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = sent.swap(0, Ordering::Acquire);
            while bits != 0 {
                expected.pass_on(word * WORD_BITS + bits.trailing_zeros() as usize);
                bits &= bits - 1;
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
    async fn nobody_waits_when_nobody_reads() {
        let notices = Notices::new(2).unwrap();
        let (sent, noticed) = notices.expect().unwrap().unwrap();
        let (_unsent, waits) = notices.expect().unwrap().unwrap();
        drop(sent);
        noticed.await.unwrap();
        lock(&notices.expected).close();
        assert!(waits.await.is_err());
        assert!(notices.expect().unwrap().is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_gets_its_own_from_whatever_thread() {
        const PLACES: usize = 1000;
        let notices = Notices::new(PLACES).unwrap();
        let (first, mut first_noticed) = notices.expect().unwrap().unwrap();
        for _ in 0..50 {
            let others: Vec<_> = (1..PLACES).map(|_| notices.expect().unwrap().unwrap()).collect();
            assert!(notices.expect().unwrap().is_none());
            let (mut senders, noticed): (Vec<_>, Vec<_>) = others.into_iter().unzip();
            let half = senders.split_off(PLACES / 2);
            let threads = [senders, half].map(|senders| std::thread::spawn(move || drop(senders)));
            for noticed in noticed {
                noticed.await.unwrap();
            }
            for thread in threads {
                thread.join().unwrap();
            }
        }
        assert!(first_noticed.try_recv().is_err());
        drop(first);
        first_noticed.await.unwrap();
        assert_eq!(lock(&notices.expected).free.len(), PLACES);
    }

    #[tokio::test]
    async fn who_has_gone_away_leaves_its_place() {
        let notices = Notices::new(1).unwrap();
        let (notice, noticed) = notices.expect().unwrap().unwrap();
        drop(noticed);
        assert!(notices.expect().unwrap().is_none());
        drop(notice);
        while notices.expect().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_reader_ends_with_the_last_sender() {
        let notices = Notices::new(1).unwrap();
        let (notice, noticed) = notices.expect().unwrap().unwrap();
        let expected = Arc::downgrade(&notices.expected);
        drop(notices);
        drop(notice);
        noticed.await.unwrap();
        while expected.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
