//! Events as a node sends them.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sse_core::MessageEvent;

use crate::wire::Base64;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where to resume to get what comes after this event. Not to be taken apart.
    pub id: String,
    /// The key.
    pub key: String,
    /// The revision of the change; a transaction's changes have the same.
    pub revision: u64,
    /// What happened.
    pub change: Change,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was set.
    Put(Set),
    /// It was deleted.
    Delete,
    /// Its time was up.
    Expire,
}

/// What a key was set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Whether it did not exist before.
    pub created: bool,
    /// The revision that created it.
    pub created_revision: u64,
    /// The media type of the value.
    pub content_type: Option<String>,
    /// The size of the value in bytes.
    pub size: u64,
    /// Until the key goes away by itself; `None`: it stays.
    pub expires_in: Option<Duration>,
    /// The value; `None` when values were not asked for.
    pub value: Option<Bytes>,
}

/// Anything that comes in a stream.
pub(super) enum Message {
    Event(Event),
    /// The last one: the reader is too slow, in the server's words.
    Overflow(String),
    /// An event of a kind that this client does not know.
    Unknown,
}

#[derive(Deserialize)]
struct PutData {
    key: String,
    revision: u64,
    created: bool,
    created_revision: u64,
    content_type: Option<String>,
    size: u64,
    expires_in_ms: Option<u64>,
    value: Option<Base64>,
}

#[derive(Deserialize)]
struct KeyData {
    key: String,
    revision: u64,
}

#[derive(Deserialize)]
struct OverflowData {
    #[serde(default)]
    detail: String,
}

impl Message {
    /// Reads an event; a phrase that says what is wrong when it cannot be one.
    pub(super) fn of(message: &MessageEvent) -> Result<Self, String> {
        let gone = |change| {
            let data: KeyData = data(message)?;
            Event::new(message, data.key, data.revision, change)
        };
        match &*message.event {
            "put" => {
                let data: PutData = data(message)?;
                let set = Set {
                    created: data.created,
                    created_revision: data.created_revision,
                    content_type: data.content_type,
                    size: data.size,
                    expires_in: data.expires_in_ms.map(Duration::from_millis),
                    value: data.value.map(|value| value.0),
                };
                Event::new(message, data.key, data.revision, Change::Put(set)).map(Self::Event)
            }
            "delete" => gone(Change::Delete).map(Self::Event),
            "expire" => gone(Change::Expire).map(Self::Event),
            "overflow" => Ok(Self::Overflow(data::<OverflowData>(message)?.detail)),
            _ => Ok(Self::Unknown),
        }
    }
}

impl Event {
    fn new(message: &MessageEvent, key: String, revision: u64, change: Change) -> Result<Self, String> {
        let id = message.last_event_id.as_deref().ok_or("an event has no id")?;
        Ok(Self { id: id.to_owned(), key, revision, change })
    }
}

fn data<T: DeserializeOwned>(message: &MessageEvent) -> Result<T, String> {
    serde_json::from_str(&message.data)
        .map_err(|error| format!("the data of an event {:?} is not as expected: {error}", message.event))
}
