//! The body of a watch: events written as its client takes them.
//!
//! hyper asks for the next piece when it has room for it, which is when the client has taken what was
//! before. A piece has some 40 KiB at most, and a long value is encoded piece by piece: that, and hyper's
//! own bounded buffer, is all that a stream holds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hearth_raft::{Change, Event, EventId, Record, Watched, Watcher};
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::time::{Instant, Sleep};

use crate::http::App;
use crate::http::watch::Place;

/// Events that are taken from the history at once; they hold their values in memory.
const EVENTS_AT_ONCE: usize = 64;
/// A piece of the stream ends behind the event, or part of a value, that exceeds this.
const PIECE_BYTES: usize = 16 * 1024;
/// Bytes of a value that are encoded at once; a multiple of three, so that base64 can be joined.
const VALUE_PART_BYTES: usize = 12 * 1024;
const _: () = assert!(VALUE_PART_BYTES.is_multiple_of(3));

/// The data of a `put`, but for the value.
#[derive(Serialize)]
struct Put<'a> {
    key: &'a str,
    revision: u64,
    created_revision: u64,
    created: bool,
    content_type: Option<&'a str>,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

/// The data of a `delete` or `expire`.
#[derive(Serialize)]
struct Gone<'a> {
    key: &'a str,
    revision: u64,
}

/// The data of an `overflow`.
#[derive(Serialize)]
struct Overflow<'a> {
    code: &'a str,
    detail: &'a str,
    resume_after: String,
}

/// A value of which some is written.
struct Value {
    record: Arc<Record>,
    written: usize,
}

/// What is left to do besides events.
enum Phase {
    /// To tell where the stream begins.
    Opening(EventId),
    Open,
    /// To say this when the events are written.
    Ending(Watched),
    Ended,
}

/// A stream of server-sent events.
pub(super) struct EventStream {
    app: Arc<App>,
    watcher: Watcher,
    values: bool,
    phase: Phase,
    /// What was read and is not written yet.
    events: VecDeque<Event>,
    value: Option<Value>,
    heartbeat: Pin<Box<Sleep>>,
    _place: Place,
}

impl EventStream {
    pub(super) fn new(app: Arc<App>, watcher: Watcher, after: EventId, values: bool, place: Place) -> Self {
        let heartbeat = Box::pin(tokio::time::sleep(app.streams.limits.heartbeat_interval));
        let (phase, events) = (Phase::Opening(after), VecDeque::new());
        Self { app, watcher, values, phase, events, value: None, heartbeat, _place: place }
    }

    /// Writes the rest of a value, or the next event, or a part of it; nothing when there is none.
    fn write_next(&mut self, out: &mut String) {
        if let Some(value) = self.value.take() {
            return self.write_value(value, out);
        }
        let Some(Event { id, key, change }) = self.events.pop_front() else { return };
        let gone = Gone { key: &key, revision: id.revision() };
        match change {
            Change::Put { record, created } => {
                write_head(out, "put", id, &self.put(&key, &record, created));
                if self.values {
                    // One more field.
                    out.pop();
                    out.push_str(",\"value\":\"");
                    self.write_value(Value { record, written: 0 }, out);
                } else {
                    out.push_str("\n\n");
                }
            }
            Change::Deleted => {
                write_head(out, "delete", id, &gone);
                out.push_str("\n\n");
            }
            Change::Expired => {
                write_head(out, "expire", id, &gone);
                out.push_str("\n\n");
            }
        }
        if self.events.is_empty() {
            // Most streams are quiet most of the time: nothing is kept for the next events.
            self.events = VecDeque::new();
        }
    }

    fn put<'a>(&self, key: &'a str, record: &'a Record, created: bool) -> Put<'a> {
        let now_ms = || self.app.store.get().map_or(0, |store| store.now_ms());
        Put {
            key,
            revision: record.revision,
            created_revision: record.created_revision,
            created,
            content_type: Some(&*record.content_type).filter(|given| !given.is_empty()),
            size: record.value.len(),
            expires_in_ms: record.expires_at_ms.map(|at| at.get().saturating_sub(now_ms())),
        }
    }

    fn write_value(&mut self, mut value: Value, out: &mut String) {
        let rest = &value.record.value[value.written..];
        let part = &rest[..rest.len().min(VALUE_PART_BYTES)];
        BASE64_STANDARD.encode_string(part, out);
        value.written += part.len();
        if value.written < value.record.value.len() {
            self.value = Some(value);
        } else {
            out.push_str("\"}\n\n");
        }
    }

    /// Writes what is there, and what is to be said when there is nothing.
    fn write_piece(&mut self, out: &mut String) {
        if let Phase::Opening(after) = self.phase {
            // A client that breaks off before the first event knows where to resume all the same.
            write_comment(out, "watching", Some(after));
            self.phase = Phase::Open;
        }
        while out.len() < PIECE_BYTES && (self.value.is_some() || !self.events.is_empty()) {
            self.write_next(out);
        }
        if out.len() < PIECE_BYTES
            && let Phase::Ending(watched) = self.phase
        {
            self.write_end(watched, out);
            self.phase = Phase::Ended;
        }
    }

    fn write_end(&mut self, watched: Watched, out: &mut String) {
        match watched {
            Watched::Overflow => {
                self.app.streams.overflows.inc();
                let data = Overflow {
                    code: "overflow",
                    detail: "events are gone before they were read: the client is too slow, or the history too short (watch.history_events, watch.history_bytes)",
                    resume_after: self.watcher.position().to_string(),
                };
                let _ = write!(out, "event: overflow\ndata: {}\n\n", json(&data));
            }
            Watched::Stopped => write_comment(out, "this node stops; resume on another one", None),
            // Not an end.
            Watched::Events => {}
        }
    }

    /// The next piece.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        let mut out = String::new();
        loop {
            self.write_piece(&mut out);
            if !out.is_empty() {
                return Poll::Ready(Some(out));
            }
            if let Phase::Ended = self.phase {
                return Poll::Ready(None);
            }
            match self.watcher.poll_events(cx, EVENTS_AT_ONCE, &mut self.events) {
                Poll::Ready(Watched::Events) => {}
                Poll::Ready(ended) => self.phase = Phase::Ending(ended),
                Poll::Pending => {
                    ready!(self.heartbeat.as_mut().poll(cx));
                    write_comment(&mut out, "heartbeat", Some(self.watcher.position()));
                }
            }
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let piece = ready!(this.poll_piece(cx));
        this.heartbeat.as_mut().reset(Instant::now() + this.app.streams.limits.heartbeat_interval);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }
}

/// The lines of an event, without the line end behind its data.
fn write_head(out: &mut String, event: &str, id: EventId, data: &impl Serialize) {
    // Writing to a string does not fail.
    let _ = write!(out, "event: {event}\nid: {id}\ndata: {}", json(data));
}

/// A comment, which clients ignore. The id is theirs to resume after.
fn write_comment(out: &mut String, text: &str, id: Option<EventId>) {
    let _ = match id {
        Some(id) => write!(out, ": {text}\nid: {id}\n\n"),
        None => write!(out, ": {text}\n\n"),
    };
}

/// On one line, as JSON is when nothing else is asked for.
fn json(data: &impl Serialize) -> String {
    // Strings and numbers always have a JSON form.
    serde_json::to_string(data).unwrap_or_default()
}
