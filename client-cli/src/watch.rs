//! Watching keys: every change under a prefix, in order of revision, none lost and none twice.
//! `GET /v1/watch`.
//!
//! A [`Watch`] goes on at another endpoint when its stream breaks, from the last event that it got. It gives
//! up when nobody can be reached for too long, and when events were missed: [`Error::Compacted`].

use std::num::NonZeroUsize;
use std::time::Duration;

use hyper::header::{ACCEPT, HeaderName};
use tokio::time::{Instant, sleep_until};

use crate::client::{Call, Client};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::kv::store_revision;
use crate::path::Query;
use crate::retry::Kind;

pub use event::{Change, Event, Set};
use opening::Opening;
use stream::{Read, Stream};

mod event;
mod opening;
mod stream;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_BYTES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add((4 << 20) - 1);

/// What is watched, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// What the keys begin with. Default empty: all keys.
    pub prefix: String,
    /// The id of the event to resume after, or a revision. Default: whatever comes from now on.
    pub after: Option<String>,
    /// Whether events carry the values. Default yes.
    pub values: bool,
    /// How long a stream may be silent before it counts as broken. Default 45 s: three heartbeats.
    pub silence_max: Duration,
    /// How long to try to get a broken stream back; the first one has the client's request timeout. Default
    /// ten minutes.
    pub reconnect_timeout: Duration,
    /// The largest event that is read, in bytes. Default 4 MiB: more than a value of 1 MiB takes.
    pub event_bytes_max: NonZeroUsize,
}

/// What happened to a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The stream is open, for the first time or again.
    Opened {
        /// Who sends it.
        endpoint: Endpoint,
        /// The revision that it starts after, if the node said so.
        revision: Option<u64>,
    },
    /// A key changed.
    Event(Event),
    /// The stream broke, and the next step opens another. No event is lost by that.
    Lost {
        /// Who sent it.
        endpoint: Endpoint,
        /// Why it ended, as a phrase.
        reason: String,
    },
}

/// A watch.
///
/// Invariant: `last_id` is that of the last event that the caller got, or of a later point with no event for
/// this watch in between.
pub struct Watch {
    client: Client,
    options: WatchOptions,
    /// Where to resume; `None` until a node said where its stream starts.
    last_id: Option<String>,
    /// What is being read, if anything.
    stream: Option<Box<Stream>>,
    /// The attempts to get one, when there is none.
    opening: Opening,
}

impl Client {
    /// Watches keys. Nothing is sent before the first [`Watch::next`].
    pub fn watch(&self, options: WatchOptions) -> Watch {
        let (last_id, opening) = (options.after.clone(), Opening::first(self));
        Watch { client: self.clone(), options, last_id, stream: None, opening }
    }
}

impl Watch {
    /// The next thing that happens; waits for it. Nothing is lost when it is not awaited to its end.
    ///
    /// [`Error::Compacted`] when events were missed, [`Error::Unreachable`] or [`Error::Api`] when a stream
    /// could not be had in time, [`Error::Protocol`] when it makes no sense. Called again after an error, it
    /// tries to resume where it was.
    pub async fn next(&mut self) -> Result<Step, Error> {
        loop {
            let Some(stream) = &mut self.stream else { return self.open().await };
            let ended = match stream.read(self.options.silence_max).await {
                Read::Event(event) => {
                    self.last_id = Some(event.id.clone());
                    return Ok(Step::Event(event));
                }
                Read::Nothing => {
                    self.last_id = stream.last_id().or(self.last_id.take());
                    continue;
                }
                Read::End(reason) => {
                    self.last_id = stream.last_id().or(self.last_id.take());
                    Ok(Step::Lost { endpoint: stream.endpoint.clone(), reason })
                }
                // If this one has an id, it is where the server stopped: possibly behind what was received.
                Read::Overflow(detail) => {
                    let reason = format!("this reader was too slow: {detail}");
                    Ok(Step::Lost { endpoint: stream.endpoint.clone(), reason })
                }
                Read::Broken(reason) => Err(Error::Protocol { endpoint: stream.endpoint.clone(), reason }),
            };
            self.opening.resume(stream, self.options.reconnect_timeout);
            self.stream = None;
            return ended;
        }
    }

    /// The next event, whatever happens to the stream in the meantime; fails as [`Watch::next`].
    pub async fn next_event(&mut self) -> Result<Event, Error> {
        loop {
            if let Step::Event(event) = self.next().await? {
                return Ok(event);
            }
        }
    }

    /// What to give as [`WatchOptions::after`] to a later watch that goes on where this one is; `None`
    /// before the first stream is open.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Tries one endpoint after the other until one sends the stream.
    async fn open(&mut self) -> Result<Step, Error> {
        let call = self.call()?;
        while let Some((index, at)) = self.opening.next() {
            let Some(endpoint) = self.client.endpoints().nth(index).cloned() else { break };
            sleep_until(at).await;
            let now = Instant::now();
            let deadline = now + self.client.options().request_timeout;
            let until = Kind::Read.share(now, deadline, self.client.endpoints().len());
            match self.client.open(&endpoint, &call, until).await {
                Ok((headers, body)) => {
                    self.client.prefer(index);
                    let revision = store_revision(&headers);
                    self.last_id = self.last_id.take().or(revision.map(|revision| revision.to_string()));
                    let stream = Stream::new(index, endpoint.clone(), body, self.options.event_bytes_max);
                    self.stream = Some(Box::new(stream));
                    return Ok(Step::Opened { endpoint, revision });
                }
                Err(failed) => self.opening.failed(index, &endpoint, failed)?,
            }
        }
        Err(self.opening.give_up(&self.client, self.options.reconnect_timeout))
    }

    fn call(&self) -> Result<Call, Error> {
        let mut query = Query::of("/v1/watch").with("prefix", &self.options.prefix);
        if let Some(after) = &self.options.after {
            query = query.with("after", after);
        }
        if !self.options.values {
            query = query.with("values", "false");
        }
        let call = Call::get(Kind::Read, query.finish()).header(ACCEPT, "text/event-stream")?;
        match &self.last_id {
            // Goes over `after`.
            Some(id) if self.last_id != self.options.after => call.header(LAST_EVENT_ID, id),
            _ => Ok(call),
        }
    }
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            after: None,
            values: true,
            silence_max: Duration::from_secs(45),
            reconnect_timeout: Duration::from_secs(600),
            event_bytes_max: EVENT_BYTES_MAX,
        }
    }
}

#[cfg(test)]
mod tests;
