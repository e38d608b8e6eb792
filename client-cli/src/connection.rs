//! The connections to one endpoint: kept alive, reused one request at a time, and clear about whether a
//! request was started.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::Options;
use crate::endpoint::Endpoint;

/// A request body is whole in memory: writes are small and bounded.
type Body = Full<Bytes>;

/// The idle connections to one endpoint.
///
/// Invariant: a connection is in `idle` only after the answer to its last request was read completely.
pub(crate) struct Connections {
    /// Where they lead.
    pub(crate) endpoint: Endpoint,
    /// The most recently used one last. A std mutex: never held across an await.
    idle: Mutex<Vec<SendRequest<Body>>>,
}

/// A whole answer.
pub(crate) struct Answer {
    /// Who gave it.
    pub(crate) endpoint: Endpoint,
    /// The HTTP status, of any class.
    pub(crate) status: StatusCode,
    /// The header fields.
    pub(crate) headers: HeaderMap,
    /// The body, complete.
    pub(crate) body: Bytes,
}

/// An answer whose body may be read as it comes.
pub(crate) enum Opened {
    /// Status 200: its header fields, and the body.
    Stream(HeaderMap, Streaming),
    /// Any other.
    Answer(Answer),
}

/// A body that has no end in sight. Its connection is closed when it is dropped.
pub(crate) struct Streaming {
    body: Incoming,
    /// Held, so that the connection is there as long as the body.
    _connection: SendRequest<Body>,
}

/// Why there is no answer, with a phrase that says it.
pub(crate) enum Failed {
    /// The request never started on its way: it may be sent elsewhere.
    NotSent(String),
    /// At least a part of the request may have arrived.
    Sent(String),
    /// This endpoint gave an answer that is larger than allowed.
    TooLarge(Endpoint, String),
}

impl Connections {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::new(Vec::new()) }
    }

    /// Sends `request` on an idle or a new connection and reads the whole answer, until `deadline`.
    pub(crate) async fn exchange(
        &self,
        request: Request<Body>,
        deadline: Instant,
        options: &Options,
    ) -> Result<Answer, Failed> {
        let (connection, response) = self.send(request, deadline, options).await?;
        self.whole(connection, response, deadline, options).await
    }

    /// Sends `request`, and gives the body of the answer as it comes when its status is 200; any other
    /// answer is read whole. `deadline` is for the head, and for that whole answer.
    pub(crate) async fn open(
        &self,
        request: Request<Body>,
        deadline: Instant,
        options: &Options,
    ) -> Result<Opened, Failed> {
        let (connection, response) = self.send(request, deadline, options).await?;
        if response.status() != StatusCode::OK {
            return self.whole(connection, response, deadline, options).await.map(Opened::Answer);
        }
        let (head, body) = response.into_parts();
        Ok(Opened::Stream(head.headers, Streaming { body, _connection: connection }))
    }

    /// Sends `request` and waits for the head of the answer.
    async fn send(
        &self,
        mut request: Request<Body>,
        deadline: Instant,
        options: &Options,
    ) -> Result<(SendRequest<Body>, Response<Incoming>), Failed> {
        loop {
            let reused = self.reuse(deadline).await;
            let fresh = reused.is_none();
            let mut connection = match reused {
                Some(connection) => connection,
                None => self.connect(deadline, options).await.map_err(Failed::NotSent)?,
            };
            match timeout_at(deadline, connection.try_send_request(request)).await {
                Err(_) => return Err(Failed::Sent("no answer came in time".to_owned())),
                Ok(Ok(response)) => return Ok((connection, response)),
                Ok(Err(mut failed)) => match failed.take_message() {
                    // hyper hands the request back only when not a byte of it was written. An idle
                    // connection may have been closed by the server: ask again on the next. This ends,
                    // because each round uses up one idle connection.
                    Some(unsent) if !fresh => {
                        request = unsent;
                        continue;
                    }
                    Some(_) => return Err(Failed::NotSent(phrase(failed.error()))),
                    None => return Err(Failed::Sent(phrase(failed.error()))),
                },
            }
        }
    }

    /// Reads the rest of an answer, and keeps its connection.
    async fn whole(
        &self,
        connection: SendRequest<Body>,
        response: Response<Incoming>,
        deadline: Instant,
        options: &Options,
    ) -> Result<Answer, Failed> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, options.answer_bytes_max);
        let body = match timeout_at(deadline, body.collect()).await {
            Err(_) => return Err(Failed::Sent("the answer did not end in time".to_owned())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let reason = format!("the answer has more than {} bytes", options.answer_bytes_max);
                return Err(Failed::TooLarge(self.endpoint.clone(), reason));
            }
            Ok(Err(error)) => return Err(Failed::Sent(format!("the answer could not be read: {error}"))),
            Ok(Ok(body)) => body.to_bytes(),
        };
        self.keep(connection, options.idle_connections_max);
        Ok(Answer { endpoint: self.endpoint.clone(), status: head.status, headers: head.headers, body })
    }

    /// An idle connection that is still open.
    async fn reuse(&self, deadline: Instant) -> Option<SendRequest<Body>> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if let Ok(Ok(())) = timeout_at(deadline, connection.ready()).await {
                return Some(connection);
            }
        }
    }

    /// A new connection; resolving the name counts towards the connect timeout.
    async fn connect(&self, deadline: Instant, options: &Options) -> Result<SendRequest<Body>, String> {
        let bound = options.connect_timeout.min(deadline.saturating_duration_since(Instant::now()));
        let connecting = async {
            let stream = TcpStream::connect((self.endpoint.host(), self.endpoint.port()))
                .await
                .map_err(|error| io_phrase(&error))?;
            stream.set_nodelay(true).map_err(|error| io_phrase(&error))?;
            let (sender, connection) =
                handshake(TokioIo::new(stream)).await.map_err(|error| phrase(&error))?;
            // Ends by itself: when the server closes, and when the sender is dropped.
            tokio::spawn(connection);
            Ok(sender)
        };
        match timeout(bound, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(format!("no connection within {}", shown(bound))),
        }
    }

    /// Puts a connection back for the next request, unless there are enough.
    fn keep(&self, connection: SendRequest<Body>, idle_max: usize) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < idle_max {
            idle.push(connection);
        }
    }
}

impl Streaming {
    /// The next bytes; `None` at the end. Fails with a phrase when the connection breaks, or when nothing
    /// comes for `silence_max`. Loses nothing when it is not awaited to its end.
    pub(crate) async fn next(&mut self, silence_max: Duration) -> Result<Option<Bytes>, String> {
        loop {
            let frame = match timeout(silence_max, self.body.frame()).await {
                Err(_) => return Err(format!("nothing came for {}", shown(silence_max))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(phrase(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            // Anything else is a trailer.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

impl Answer {
    /// A header field as text; empty when it is missing or not ASCII.
    pub(crate) fn header(&self, name: &HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The media type of the body, or nothing.
    pub(crate) fn content_type(&self) -> &str {
        self.header(&CONTENT_TYPE)
    }
}

/// What broke a connection, without hyper's words when the system has its own.
fn phrase(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "the connection closed before an answer".to_owned();
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<std::io::Error>() {
            return io_phrase(error);
        }
        source = inner.source();
    }
    error.to_string()
}

/// `connection refused` rather than `Connection refused (os error 111)`.
fn io_phrase(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "the connection closed".to_owned(),
        None => error.to_string(),
    }
}

/// A duration in whole units: `1 s`, `250 ms`.
fn shown(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms >= 1000 && ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}
