//! Keys and their values: `/v1/kv/{key}`.
//!
//! A key is 1..=1024 bytes of UTF-8, slashes allowed; a value is up to 1 MiB of any bytes. A key's revision
//! is the log index that last wrote it: revisions only grow.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde::{Deserialize, Serialize};

use crate::client::{Call, Client};
use crate::connection::Answer;
use crate::error::Error;
use crate::idempotency::IdempotencyKey;
use crate::path::{Query, below};
use crate::retry::Kind;
use crate::wire::{ms_read, ms_text};

const HEARTH_EXPIRES_IN: HeaderName = HeaderName::from_static("hearth-expires-in");
const HEARTH_IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("hearth-idempotent-replay");
const HEARTH_REVISION: HeaderName = HeaderName::from_static("hearth-revision");

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Never older than any write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What the asked node has, if that is proven to lack no write that was acknowledged longer ago than
    /// this; else linearizable.
    MaxStaleness(Duration),
    /// What the asked node has, at once; it may be behind.
    Local,
}

/// What must hold of a key for a write to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It does not exist.
    Absent,
    /// It exists.
    Exists,
    /// It exists and has this revision.
    Revision(u64),
}

/// How a key is set. The default: whether it exists or not, for good, and not to be sent twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Put {
    /// The media type to keep with the value.
    pub content_type: Option<String>,
    /// After how long the key goes away by itself; `None`: it stays, also if it had a time before. Whole
    /// milliseconds, rounded up, from 1 ms to 100 years.
    pub ttl: Option<Duration>,
    /// What must hold; else 412 `precondition_failed`.
    pub only_if: Option<Condition>,
    /// Makes it safe to send the write again.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// How a key is deleted. The default: whatever it holds, and not to be sent twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delete {
    /// What must hold; else 412 `precondition_failed`.
    pub only_if: Option<Condition>,
    /// Makes it safe to send the write again.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value as it was written.
    pub bytes: Bytes,
    /// The media type it was written with; `None` when the server sent none.
    pub content_type: Option<String>,
    /// The revision that last wrote the key.
    pub revision: u64,
    /// Until the key goes away by itself; `None`: it stays.
    pub expires_in: Option<Duration>,
}

/// A write that is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The revision of the write.
    pub revision: u64,
    /// Whether the key did not exist before.
    pub created: bool,
    /// Whether the answer is one that was given before, under the same idempotency key.
    #[serde(skip)]
    pub replayed: bool,
}

/// Keys that were deleted by their prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixDeleted {
    /// How many.
    pub deleted: u64,
    /// The store's revision behind it.
    pub revision: u64,
}

impl Client {
    /// The value of `key`; `None` when there is no such key.
    pub async fn kv_get(&self, key: &str, consistency: Consistency) -> Result<Option<Value>, Error> {
        let path = consistency.ask(Query::of(below("/v1/kv", "key", key)?)).finish();
        match self.call(Call::get(Kind::Read, path)).await {
            Ok(answer) => Ok(Some(Value {
                revision: etag(&answer)?,
                content_type: Some(answer.content_type().to_owned()).filter(|text| !text.is_empty()),
                expires_in: ms_read(answer.header(&HEARTH_EXPIRES_IN)),
                bytes: answer.body,
            })),
            Err(error) if error.has_code("key_not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets `key` to `bytes`.
    ///
    /// When the condition does not hold, an [`Error::Api`] with the code `precondition_failed` and the key's
    /// [`current_revision`](crate::error::Problem::current_revision).
    pub async fn kv_put(&self, key: &str, bytes: impl Into<Bytes>, how: &Put) -> Result<Written, Error> {
        let mut path = Query::of(below("/v1/kv", "key", key)?);
        if let Some(ttl) = how.ttl {
            path = path.with("ttl", &ms_text(ttl));
        }
        let mut call = Call::write(Method::PUT, path.finish(), how.idempotency_key.as_ref());
        call = only_if(call, how.only_if)?;
        if let Some(content_type) = &how.content_type {
            call = call.header(CONTENT_TYPE, content_type)?;
        }
        call.body = bytes.into();
        let answer = self.call(call).await?;
        Ok(Written { replayed: answer.is_replay(), ..answer.json()? })
    }

    /// Deletes `key`; `false` when there was no such key.
    ///
    /// When the condition does not hold, an [`Error::Api`] with the code `precondition_failed` and the key's
    /// [`current_revision`](crate::error::Problem::current_revision).
    pub async fn kv_delete(&self, key: &str, how: &Delete) -> Result<bool, Error> {
        let path = below("/v1/kv", "key", key)?;
        let call = Call::write(Method::DELETE, path, how.idempotency_key.as_ref());
        match self.call(only_if(call, how.only_if)?).await {
            Ok(_) => Ok(true),
            Err(error) if error.has_code("key_not_found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes every key that begins with `prefix`, all at once; refused with 413 `prefix_too_large` when
    /// there are more than the server deletes at once. [`Error::Usage`] when `prefix` is empty: that would be
    /// all keys.
    pub async fn kv_delete_prefix(
        &self,
        prefix: &str,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<PrefixDeleted, Error> {
        if prefix.is_empty() {
            return Err(Error::Usage("the prefix must not be empty".to_owned()));
        }
        let path = Query::of("/v1/kv").with("prefix", prefix).finish();
        self.call(Call::write(Method::DELETE, path, idempotency_key)).await?.json()
    }
}

impl Consistency {
    /// Asks for it, unless it is what a node does anyway.
    pub(crate) fn ask(self, query: Query) -> Query {
        match self {
            Self::Linearizable => query,
            Self::MaxStaleness(time) => query.with("max_staleness", &ms_text(time)),
            Self::Local => query.with("consistency", "local"),
        }
    }
}

impl Answer {
    /// Whether it was given before, under the same idempotency key.
    pub(crate) fn is_replay(&self) -> bool {
        self.header(&HEARTH_IDEMPOTENT_REPLAY) == "true"
    }
}

/// The store's revision that an answer reflects, if it says so.
pub(crate) fn store_revision(headers: &hyper::HeaderMap) -> Option<u64> {
    headers.get(HEARTH_REVISION)?.to_str().ok()?.parse().ok()
}

fn only_if(call: Call, condition: Option<Condition>) -> Result<Call, Error> {
    match condition {
        None => Ok(call),
        Some(Condition::Absent) => call.header(IF_NONE_MATCH, "*"),
        Some(Condition::Exists) => call.header(IF_MATCH, "*"),
        Some(Condition::Revision(revision)) => call.header(IF_MATCH, &format!("\"{revision}\"")),
    }
}

/// The revision in the `ETag`.
fn etag(answer: &Answer) -> Result<u64, Error> {
    let etag = answer.header(&ETAG);
    etag.trim_matches('"')
        .parse()
        .map_err(|_| answer.unexpected(format!("the ETag is not a revision: {etag:?}")))
}

#[cfg(test)]
mod tests;
