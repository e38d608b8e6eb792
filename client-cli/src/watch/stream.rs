//! One stream of events, from one endpoint, until it ends.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use sse_core::{SseDecoder, SseEvent};
use tokio::time::Instant;

use super::event::{Event, Message};
use crate::connection::Streaming;
use crate::endpoint::Endpoint;

/// A stream that gave an event, or lasted this long, was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// A stream that is being read.
///
/// Invariant: the revisions of its events never go down.
pub(super) struct Stream {
    /// The endpoint's index among the client's.
    pub(super) index: usize,
    /// Who sends it.
    pub(super) endpoint: Endpoint,
    body: Streaming,
    decoder: SseDecoder,
    /// What has come and is not decoded yet.
    bytes: Bytes,
    event_bytes_max: NonZeroUsize,
    opened: Instant,
    /// Of the last event.
    revision: Option<u64>,
}

/// What came out of a stream.
pub(super) enum Read {
    /// An event.
    Event(Event),
    /// Something of a newer server.
    Nothing,
    /// It ended, for this reason: to be resumed.
    End(String),
    /// The server ended it because it was read too slowly.
    Overflow(String),
    /// It makes no sense, in this way: resuming would not help.
    Broken(String),
}

impl Stream {
    pub(super) fn new(
        index: usize,
        endpoint: Endpoint,
        body: Streaming,
        event_bytes_max: NonZeroUsize,
    ) -> Self {
        Self {
            index,
            endpoint,
            body,
            decoder: SseDecoder::with_limit(event_bytes_max),
            bytes: Bytes::new(),
            event_bytes_max,
            opened: Instant::now(),
            revision: None,
        }
    }

    /// What comes next. Loses nothing when it is not awaited to its end.
    pub(super) async fn read(&mut self, silence_max: Duration) -> Read {
        loop {
            match self.decoder.next(&mut self.bytes) {
                Some(Ok(SseEvent::Message(message))) => return self.message(Message::of(&message)),
                Some(Ok(SseEvent::Retry(_))) => {}
                Some(Err(_)) => {
                    return Read::Broken(format!("an event has more than {} bytes", self.event_bytes_max));
                }
                None => match self.body.next(silence_max).await {
                    Ok(Some(bytes)) => self.bytes = bytes,
                    Ok(None) => return Read::End("the stream ended".to_owned()),
                    Err(reason) => return Read::End(reason),
                },
            }
        }
    }

    fn message(&mut self, message: Result<Message, String>) -> Read {
        match message {
            Ok(Message::Event(event)) => match self.revision.replace(event.revision) {
                Some(before) if before > event.revision => {
                    Read::Broken(format!("an event of revision {} came after {before}", event.revision))
                }
                _ => Read::Event(event),
            },
            Ok(Message::Overflow(detail)) => Read::Overflow(detail),
            Ok(Message::Unknown) => Read::Nothing,
            Err(what) => Read::Broken(what),
        }
    }

    /// The id that it said last, be it with an event or without; it counts from the end of its block on.
    pub(super) fn last_id(&self) -> Option<String> {
        self.decoder.last_event_id().map(|id| id.to_string())
    }

    /// Whether the next attempt may be made without waiting.
    pub(super) fn was_good(&self) -> bool {
        self.revision.is_some() || self.opened.elapsed() >= GOOD_AFTER
    }
}
