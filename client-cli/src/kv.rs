//! Keys and their values: `/v1/kv/{key}`.
//!
//! A key is 1..=1024 bytes of UTF-8, slashes allowed; a value is up to 1 MiB of any bytes. A key's revision
//! is the log index that last wrote it: revisions only grow.

use bytes::Bytes;
use hyper::Method;
use hyper::header::ETAG;
use serde::{Deserialize, Serialize};

use crate::client::{Call, Client, Kind};
use crate::connection::Answer;
use crate::error::Error;
use crate::path::below;

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Consistency {
    /// Never older than any write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// What the asked node has, at once; it may be behind.
    Local,
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
}

/// A write that is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The revision of the write.
    pub revision: u64,
    /// Whether the key did not exist before.
    pub created: bool,
}

impl Client {
    /// The value of `key`; `None` when there is no such key.
    pub async fn kv_get(&self, key: &str, consistency: Consistency) -> Result<Option<Value>, Error> {
        let mut path = below("/v1/kv", "key", key)?;
        if consistency == Consistency::Local {
            path.push_str("?consistency=local");
        }
        match self.call(Call::new(Kind::Read, Method::GET, path)).await {
            Ok(answer) => Ok(Some(Value {
                revision: revision(&answer)?,
                content_type: Some(answer.content_type().to_owned()).filter(|text| !text.is_empty()),
                bytes: answer.body,
            })),
            Err(error) if error.has_code("key_not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets `key` to `bytes`, whether it exists or not. The server keeps the media type, if one is given.
    pub async fn kv_put(
        &self,
        key: &str,
        bytes: impl Into<Bytes>,
        content_type: Option<&str>,
    ) -> Result<Written, Error> {
        let mut call = Call::new(Kind::Write, Method::PUT, below("/v1/kv", "key", key)?);
        call.content_type = content_type.map(str::to_owned);
        call.body = bytes.into();
        self.call(call).await?.json()
    }

    /// Deletes `key`; `false` when there was no such key.
    pub async fn kv_delete(&self, key: &str) -> Result<bool, Error> {
        let call = Call::new(Kind::Write, Method::DELETE, below("/v1/kv", "key", key)?);
        match self.call(call).await {
            Ok(_) => Ok(true),
            Err(error) if error.has_code("key_not_found") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The revision in the `ETag`.
fn revision(answer: &Answer) -> Result<u64, Error> {
    let etag = answer.header(&ETAG);
    etag.trim_matches('"')
        .parse()
        .map_err(|_| answer.unexpected(format!("the ETag is not a revision: {etag:?}")))
}

#[cfg(test)]
mod tests;
