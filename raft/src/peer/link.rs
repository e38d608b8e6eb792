//! A connection to one peer on which many questions are in flight.
//!
//! A link connects when it is first used and again after it broke. Frames that wait are written
//! together. Whoever gives up waiting takes nothing from the others.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::codec;
use crate::peer::frame;
use crate::peer::hello::{self, ConnectError, Connection, HelloV1};
use crate::peer::message::{RequestV1, ResponseV1};

/// Frames that wait to be written; beyond it callers wait.
const QUEUE_FRAMES: usize = 1024;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The request did not leave this node: it is safe to send it again.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request may have arrived and been acted on.
    #[error("no answer: {0}")]
    Unanswered(String),
}

impl From<ConnectError> for CallError {
    fn from(error: ConnectError) -> Self {
        Self::NotSent(error.to_string())
    }
}

/// The way to one peer, for one lane.
pub(crate) struct Link {
    address: String,
    hello: HelloV1,
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
    next_id: AtomicU64,
}

/// A connection that works, as far as is known.
struct Live {
    frames: mpsc::Sender<Bytes>,
    waiting: Arc<Waiting>,
    tasks: [AbortHandle; 2],
}

impl Drop for Live {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Who waits for which answer. `None` once the connection broke.
#[derive(Default)]
struct Waiting(Mutex<Option<HashMap<u64, oneshot::Sender<ResponseV1>>>>);

impl Waiting {
    fn with<T>(&self, f: impl FnOnce(&mut Option<HashMap<u64, oneshot::Sender<ResponseV1>>>) -> T) -> T {
        // Map operations do not panic half-way.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// False when the connection broke.
    fn add(&self, id: u64, answer: oneshot::Sender<ResponseV1>) -> bool {
        self.with(|waiting| waiting.as_mut().map(|waiting| waiting.insert(id, answer)).is_some())
    }

    fn remove(&self, id: u64) -> Option<oneshot::Sender<ResponseV1>> {
        self.with(|waiting| waiting.as_mut().and_then(|waiting| waiting.remove(&id)))
    }

    fn is_open(&self) -> bool {
        self.with(|waiting| waiting.is_some())
    }

    /// Everyone who waits learns that there will be no answer.
    fn close(&self) {
        drop(self.with(Option::take));
    }
}

/// Removes the entry of a caller that gave up, until there is an answer.
struct Entry<'a> {
    waiting: &'a Waiting,
    id: u64,
    is_answered: bool,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.waiting.remove(self.id);
        }
    }
}

impl Link {
    /// A way to `address`; nothing is connected yet.
    pub(crate) fn new(address: String, hello: HelloV1) -> Self {
        Self { address, hello, live: tokio::sync::Mutex::new(None), next_id: AtomicU64::new(1) }
    }

    /// Asks and waits for the answer, `timeout` in all.
    ///
    /// # Errors
    /// [`CallError`], which tells whether the request may have arrived.
    pub(crate) async fn call(
        &self,
        request: &RequestV1<'_>,
        timeout: Duration,
    ) -> Result<ResponseV1, CallError> {
        self.call_frame(|id| frame::encode("request", id, request), timeout).await
    }

    /// [`Link::call`] for a request that `encode` makes a frame of, given its id.
    pub(crate) async fn call_frame(
        &self,
        encode: impl FnOnce(u64) -> io::Result<Bytes>,
        timeout: Duration,
    ) -> Result<ResponseV1, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode(id).map_err(|error| CallError::NotSent(error.to_string()))?;
        let deadline = tokio::time::Instant::now() + timeout;
        let late = |_| CallError::NotSent(format!("{}: no connection in {timeout:?}", self.address));

        // Nearly always there is a connection with room: a timer is made only where there is not.
        let live = match self.live_already() {
            Some(live) => live,
            None => tokio::time::timeout_at(deadline, self.live()).await.map_err(late)??,
        };
        let permit = match live.frames.try_reserve() {
            Ok(permit) => Ok(permit),
            Err(_) => tokio::time::timeout_at(deadline, live.frames.reserve()).await.map_err(late)?,
        };
        let Ok(permit) = permit else {
            return Err(CallError::NotSent(format!("{}: connection broke", self.address)));
        };
        let (answer_to, answer) = oneshot::channel();
        if !live.waiting.add(id, answer_to) {
            return Err(CallError::NotSent(format!("{}: connection broke", self.address)));
        }
        let mut entry = Entry { waiting: &live.waiting, id, is_answered: false };
        permit.send(frame);

        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(response)) => {
                entry.is_answered = true;
                Ok(response)
            }
            Ok(Err(_)) => Err(CallError::Unanswered(format!("{}: connection broke", self.address))),
            Err(_) => Err(CallError::Unanswered(format!("{}: no answer in {timeout:?}", self.address))),
        }
    }

    /// The live connection, when there is one and nobody is about to change that.
    fn live_already(&self) -> Option<Arc<Live>> {
        open(&*self.live.try_lock().ok()?)
    }

    /// The live connection; connects when there is none. Callers of that moment share one attempt.
    async fn live(&self) -> Result<Arc<Live>, CallError> {
        let mut slot = self.live.lock().await;
        if let Some(live) = open(&slot) {
            return Ok(live);
        }
        *slot = None;
        let live = Arc::new(Live::start(hello::connect(&self.address, &self.hello).await?));
        *slot = Some(Arc::clone(&live));
        Ok(live)
    }
}

/// The connection, unless it broke.
fn open(slot: &Option<Arc<Live>>) -> Option<Arc<Live>> {
    slot.as_ref().filter(|live| live.waiting.is_open()).map(Arc::clone)
}

impl Live {
    fn start(connection: Connection) -> Self {
        let Connection { mut reader, mut writer } = connection;
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        let (frames, mut queue) = mpsc::channel::<Bytes>(QUEUE_FRAMES);

        let closing = Arc::clone(&waiting);
        let write = tokio::spawn(async move {
            let mut buffer = BytesMut::new();
            while let Some(frame) = queue.recv().await {
                // Whoever is about to send as well goes first: one system call, and one wake-up of the
                // other node, for all of them.
                tokio::task::yield_now().await;
                buffer.clear();
                frame::gather(frame, &mut queue, &mut buffer);
                if writer.write_all(&buffer).await.is_err() {
                    break;
                }
            }
            closing.close();
        });

        let answered = Arc::clone(&waiting);
        let read = tokio::spawn(async move {
            let broke = loop {
                match reader.next().await {
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                    Ok(Some(frame)) => match codec::decode::<ResponseV1>("response", &frame.body) {
                        // Whoever gave up is not in the table any more.
                        Ok(response) => drop(answered.remove(frame.id).map(|answer| answer.send(response))),
                        Err(error) => break Some(io::Error::from(error)),
                    },
                }
            };
            if let Some(error) = broke {
                tracing::debug!(%error, "peer connection broke");
            }
            answered.close();
        });
        Self { frames, waiting, tasks: [write.abort_handle(), read.abort_handle()] }
    }
}
