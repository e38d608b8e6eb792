//! One client connection: how long it may take over anything, and problem details also for what hyper
//! refuses by itself.
//!
//! hyper answers a head that it cannot parse with a bare status, and has no hook for that. But it
//! writes to a [`Guarded`] stream, which knows when nothing may be written: after the last answer is
//! encoded *and* handed to the kernel, and until the next request reaches the service, the
//! connection is [`Phase::Quiet`]. Whatever hyper writes then is its own refusal, and a problem with
//! the same status takes its place. Where the refusal shares a write with the end of an earlier
//! answer that the client was slow to take, it goes out as hyper made it.
//!
//! The stream also keeps time: for the head from its first byte on, between requests, and while the
//! client takes nothing of an answer. hyper's own timer would be registered and removed with every
//! request; this one is armed once per wait and looks at the clock when it fires.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use crate::http::edge::Edge;

/// hyper offers at most so many slices; with as many there may be more to come.
const SLICES_MAX: usize = 64;
/// How often a waiting connection looks whether it may still wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a connection may be idle when places are scarce.
const CROWDED_IDLE: Duration = Duration::from_secs(1);
/// After an early refusal, how long and how much of the rest of a request is read and thrown away,
/// so that the client sees the answer and not a reset connection.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 8 * 1024 * 1024;
const SCRATCH_BYTES: usize = 8 * 1024;
/// How long an answer to a client that came back too early is held at most.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Where a connection is between request and answer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Everything is answered, and the answers are handed to the kernel.
    Quiet = 0,
    /// The service has a request.
    Answering = 1,
    /// hyper has the whole answer, but perhaps not written all of it.
    Encoded = 2,
}

/// What the stream, the service and the answer's body of one connection share.
pub(super) struct Connection {
    pub(super) edge: Arc<Edge>,
    /// Places for connections; how many are free says whether there is a crowd.
    room: Arc<Semaphore>,
    connections_max: usize,
    /// A [`Phase`]. All of this happens in one task; it is atomic so that the task may move.
    phase: AtomicU8,
    linger: AtomicBool,
    /// Whether the answer in progress is a watch stream.
    is_stream: AtomicBool,
    /// When this client may come back after a refusal, in µs since `begun`; 0 before the first one.
    back_at_us: AtomicU64,
    begun: Instant,
}

impl Connection {
    pub(super) fn new(edge: Arc<Edge>, room: Arc<Semaphore>, connections_max: usize) -> Arc<Self> {
        edge.app.http_metrics.connections.inc();
        Arc::new(Self {
            edge,
            room,
            connections_max,
            phase: AtomicU8::new(Phase::Quiet as u8),
            linger: AtomicBool::default(),
            is_stream: AtomicBool::default(),
            back_at_us: AtomicU64::default(),
            begun: Instant::now(),
        })
    }

    /// Called with every refusal that says `retry_after`, before it is answered: holds the answer when this client
    /// came back before the last one's time was over. Refusing costs about as much as what is refused, so that
    /// clients who ask again at once would leave the node no time for what it could do; one that waits costs
    /// nothing. The first refusal is never held.
    pub(super) async fn hold_refusal(&self, retry_after: Duration) {
        let back_at = self.begun + Duration::from_micros(self.back_at_us.load(Ordering::Relaxed));
        if back_at > Instant::now() {
            tokio::time::sleep_until(back_at).await;
        }
        let next = (self.begun.elapsed() + retry_after.min(HOLD_MAX)).as_micros();
        self.back_at_us.store(u64::try_from(next).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn request_began(&self) {
        self.enter(Phase::Answering);
    }

    /// The rest of the request is not wanted, but has to be taken before the connection is closed.
    pub(super) fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Whether the answer that is about to be sent is a watch stream.
    pub(super) fn answers_with_stream(&self, is_stream: bool) {
        self.is_stream.store(is_stream, Ordering::Relaxed);
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn is_crowded(&self) -> bool {
        self.room.available_permits() <= self.connections_max / 16
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.edge.app.http_metrics.connections.dec();
    }
}

/// The body of an answer; dropped when hyper has encoded the last of it.
pub(super) struct AnswerBody {
    body: Body,
    connection: Arc<Connection>,
}

impl AnswerBody {
    pub(super) fn new(body: Body, connection: Arc<Connection>) -> Self {
        Self { body, connection }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.connection.enter(Phase::Encoded);
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body took longer than `http.body_timeout`.
#[derive(Debug, thiserror::Error)]
#[error("not complete within {0:?}")]
pub(super) struct BodyTimeout(Duration);

/// The body of a request, which has to arrive in time.
pub(super) struct RequestBody {
    body: Incoming,
    timeout: Duration,
    /// Armed when the body is first waited for.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, timeout: Duration) -> Self {
        Self { body, timeout, sleep: None }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timeout = self.timeout;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyTimeout(timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's stream under the clock; see the module.
pub(super) struct Guarded<S> {
    stream: S,
    connection: Arc<Connection>,
    /// Since when the client is waited for; `None` while it is not.
    waiting_since: Option<Instant>,
    /// Part of a head has arrived.
    in_head: bool,
    /// The timer of whatever is waited for; it may fire early.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the kernel takes nothing more of an answer.
    stalled_since: Option<Instant>,
    /// Our words in place of hyper's; after them nothing else is written.
    refusal: Option<Bytes>,
    lingered_bytes: usize,
    lingering_until: Option<Instant>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            waiting_since: None,
            in_head: false,
            timer: None,
            stalled_since: None,
            refusal: None,
            lingered_bytes: 0,
            lingering_until: None,
        }
    }

    /// Ready when `deadline` has passed; else woken then, or a little earlier.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(());
            }
            let wake_at = deadline.min(now + LOOK_INTERVAL);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(wake_at)));
            if timer.deadline() > wake_at || timer.is_elapsed() {
                timer.as_mut().reset(wake_at);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// Called while the client sends nothing: whether its time is up, and for what.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<StatusCode> {
        if !self.connection.is(Phase::Quiet) {
            self.waiting_since = None;
            return Poll::Pending;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let limits = &self.connection.edge.limits;
        let patience = match self.in_head {
            true => limits.header_timeout,
            false if self.connection.is_crowded() => CROWDED_IDLE.min(limits.idle_timeout),
            false => limits.idle_timeout,
        };
        ready!(self.poll_deadline(cx, since + patience));
        Poll::Ready(if self.in_head { StatusCode::REQUEST_TIMEOUT } else { StatusCode::OK })
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Writes what is left of the refusal.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(refusal) = self.refusal.as_mut().filter(|refusal| !refusal.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether `first`, which hyper wants to write, is a refusal of its own; ours is ready then.
    fn replaces(&mut self, first: &[u8]) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        if !self.connection.is(Phase::Quiet) {
            return false;
        }
        let status = first.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let Some(status) = status.and_then(|digits| StatusCode::from_bytes(digits).ok()) else {
            return false;
        };
        self.refusal = Some(self.connection.edge.reject(status));
        self.connection.linger();
        true
    }

    /// What became of writing `length` bytes, which were `all` there are.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
        length: usize,
        all: bool,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(written)) => {
                self.stalled_since = None;
                if all && written == length && self.connection.is(Phase::Encoded) {
                    self.connection.enter(Phase::Quiet);
                    self.waiting_since = None;
                    self.in_head = false;
                }
                Poll::Ready(Ok(written))
            }
            Poll::Pending => {
                let since = *self.stalled_since.get_or_insert_with(Instant::now);
                let timeout = self.connection.edge.limits.write_timeout;
                ready!(self.poll_deadline(cx, since + timeout));
                // Once: whoever asks again gets the same error.
                if self.connection.is_stream.swap(false, Ordering::Relaxed) {
                    self.connection.edge.app.streams.note_write_timeout();
                }
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the client took nothing of the answer within {timeout:?} (http.write_timeout)"),
                )))
            }
            failed => failed,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before && !this.in_head {
                this.in_head = true;
                this.waiting_since = None;
            }
            return Poll::Ready(read);
        }
        if ready!(this.poll_patience(cx)) == StatusCode::REQUEST_TIMEOUT {
            // hyper says nothing at the end of half a head. One attempt: nothing else is in the way.
            this.refusal = Some(this.connection.edge.reject(StatusCode::REQUEST_TIMEOUT));
            let _ = this.poll_refusal(cx)?;
        }
        // The end, as if the client had closed.
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(cx, result, bytes.len(), true)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if this.replaces(slices.first().map_or(&[], |slice| slice)) {
            return Poll::Ready(Ok(length));
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(cx, result, length, slices.len() < SLICES_MAX)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering_until.is_none() {
            ready!(this.poll_refusal(cx))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.connection.linger.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            this.lingering_until = Some(Instant::now() + LINGER_TIME);
        }
        let mut scratch = [0; SCRATCH_BYTES];
        while this.lingered_bytes < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    this.lingered_bytes += buffer.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    let until = this.lingering_until.unwrap_or_else(Instant::now);
                    ready!(this.poll_deadline(cx, until));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
