//! Server-sent events as a test reads them: every line, nothing skipped, nothing reconnected.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Response;
use serde_json::Value;

/// Above the heartbeats of a node (15 s): a stream that is silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The longest event that is read, in bytes.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `put`, `delete`, `expire` or `overflow`.
    pub kind: String,
    /// What to resume after; that of an earlier event when this has none.
    pub id: String,
    /// Its data.
    pub data: Value,
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    response: Response,
    received: Vec<u8>,
    id: String,
}

impl Events {
    /// Of an answer with status 200.
    ///
    /// # Errors
    /// When it is another one.
    pub(crate) fn new(response: Response) -> Result<Self> {
        ensure!(response.status() == 200, "status {}", response.status());
        Ok(Self { response, received: Vec::new(), id: String::new() })
    }

    /// What to resume after: the last id that came, with an event or without.
    #[must_use]
    pub fn last_id(&self) -> &str {
        &self.id
    }

    /// The next event; nothing at the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks, is silent for too long, or what comes is not as it should be.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            while let Some(end) = self.received.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.received.drain(..end + 2).collect();
                if let Some(event) = self.event(std::str::from_utf8(&block)?)? {
                    return Ok(Some(event));
                }
            }
            ensure!(self.received.len() <= EVENT_BYTES_MAX, "an event too large");
            let part = tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await;
            match part.context("a stream without heartbeats")?.context("receive events")? {
                Some(part) => self.received.extend_from_slice(&part),
                None if self.received.is_empty() => return Ok(None),
                None => bail!("the stream ended within an event"),
            }
        }
    }

    /// The event that a block of lines is; nothing when it has no data.
    fn event(&mut self, block: &str) -> Result<Option<Event>> {
        let (mut kind, mut data) = (None, None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").with_context(|| format!("the line {line:?}"))? {
                ("", _comment) => {}
                ("event", name) => kind = Some(name.to_owned()),
                ("id", id) => self.id = id.to_owned(),
                ("data", json) => data = Some(serde_json::from_str(json).context("the data of an event")?),
                _ => bail!("the line {line:?}"),
            }
        }
        match (kind, data) {
            (Some(kind), Some(data)) => Ok(Some(Event { kind, id: self.id.clone(), data })),
            (None, None) => Ok(None),
            _ => bail!("half an event: {block:?}"),
        }
    }
}
