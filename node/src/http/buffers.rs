//! Memory for what is large: bodies of requests while they are worked on, and answers made of many values
//! until the client has taken them. Bounded for the whole node by `http.buffer_bytes_max`, whatever the
//! number of connections.
//!
//! Who needs memory takes it before it allocates, waits for it a bounded time, and is refused then. A body
//! is paid for as it arrives, so that who announces much and sends little holds little. What is larger than
//! all there is waits until it is alone.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::problem::{Code, Problem};

/// Memory is counted in units of so many bytes: a request takes one at least.
const UNIT_BYTES: usize = 1024;

/// The memory of one node.
pub(super) struct Buffers {
    room: Arc<Semaphore>,
    bytes_max: usize,
    timeout: Duration,
}

impl Buffers {
    /// Of `bytes_max`, for which one waits up to `timeout`.
    pub(super) fn new(bytes_max: usize, timeout: Duration) -> Self {
        let units = (bytes_max / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(units)), bytes_max, timeout }
    }

    /// Takes `bytes`, or all there is when that is less. 429 `overloaded` when they are not to be had in time.
    pub(super) async fn hold(&self, bytes: usize) -> Result<Held, Problem> {
        let units = self.units(bytes);
        Ok(Held { bytes, permit: self.take(units).await? })
    }

    /// Adds `bytes` to what is held.
    pub(super) async fn grow(&self, held: &mut Held, bytes: usize) -> Result<(), Problem> {
        held.bytes = held.bytes.saturating_add(bytes);
        let missing = self.units(held.bytes).saturating_sub(held.permit.num_permits());
        if missing > 0 {
            held.permit.merge(self.take(missing).await?);
        }
        Ok(())
    }

    /// `value` as an answer, in memory that is held until the client has taken it: about `bytes`.
    pub(super) async fn json<T: Serialize>(&self, value: &T, bytes: usize) -> Result<Response, Problem> {
        json(value, bytes, self.hold(bytes).await?)
    }

    /// The same for the answer to a write that is applied, which must not be refused any more: waits however
    /// long it takes. That is bounded by `http.body_timeout` and `http.write_timeout`, to which the others are
    /// held.
    pub(super) async fn json_of_applied<T: Serialize>(
        &self,
        value: &T,
        bytes: usize,
    ) -> Result<Response, Problem> {
        json(value, bytes, Held { bytes, permit: self.take_at_last(self.units(bytes)).await })
    }

    fn units(&self, bytes: usize) -> usize {
        bytes.div_ceil(UNIT_BYTES).clamp(1, (self.bytes_max / UNIT_BYTES).max(1))
    }

    async fn take(&self, units: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let timed_out = |_| {
            let bytes = self.bytes_max;
            let detail = format!(
                "other requests hold the {bytes} bytes for bodies and answers (http.buffer_bytes_max)"
            );
            Problem::new(Code::Overloaded, detail)
        };
        tokio::time::timeout(self.timeout, self.take_at_last(units)).await.map_err(timed_out)
    }

    async fn take_at_last(&self, units: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).acquire_many_owned(units).await {
            Ok(permit) => permit,
            // Only when the semaphore was closed, which it never is.
            Err(_) => std::future::pending().await,
        }
    }
}

fn json<T: Serialize>(value: &T, bytes: usize, held: Held) -> Result<Response, Problem> {
    let mut text = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut text, value).map_err(|error| Problem::no_json(&error))?;
    let json = HeaderValue::from_static("application/json");
    let body = Body::from(Bytes::from_owner(Answer { text, _held: held }));
    Ok(([(CONTENT_TYPE, json)], body).into_response())
}

/// Memory that is taken; given back when this is dropped.
pub(super) struct Held {
    bytes: usize,
    permit: OwnedSemaphorePermit,
}

/// An answer and the memory that it is in.
struct Answer {
    text: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn buffers(bytes_max: usize) -> Buffers {
        Buffers::new(bytes_max, Duration::from_millis(20))
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_given_back() {
        let buffers = buffers(10 * UNIT_BYTES);
        let mut one = buffers.hold(1).await.unwrap();
        let other = buffers.hold(8 * UNIT_BYTES).await.unwrap();
        // Within its unit, then the last unit, then no more.
        buffers.grow(&mut one, 1000).await.unwrap();
        buffers.grow(&mut one, 1000).await.unwrap();
        let refused = format!("{:?}", buffers.grow(&mut one, 1000).await.unwrap_err());
        assert!(refused.contains("Overloaded") && refused.contains("http.buffer_bytes_max"), "{refused}");
        drop(other);
        buffers.grow(&mut one, 1000).await.unwrap();
        drop(one);
        // More than there is: all of it.
        let all = buffers.hold(usize::MAX).await.unwrap();
        assert!(buffers.hold(1).await.is_err());
        drop(all);
        assert_eq!(buffers.room.available_permits(), 10);
    }

    #[tokio::test]
    async fn an_answer_holds_its_memory_until_it_is_gone() {
        let buffers = buffers(10 * UNIT_BYTES);
        let answer = buffers.json(&"x".repeat(3000), 3002).await.unwrap();
        let sent = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((sent.len(), buffers.room.available_permits()), (3002, 7));
        let rest = sent.slice(3000..);
        drop(sent);
        assert_eq!(buffers.room.available_permits(), 7);
        drop(rest);
        assert_eq!(buffers.room.available_permits(), 10);
    }
}
