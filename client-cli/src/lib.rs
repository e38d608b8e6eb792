//! The typed HTTP client of Hearth and the commands of `hearth`.
//!
//! A [`client::Client`] knows several endpoints of one cluster and asks one of them; any node answers any
//! request. What it promises:
//!
//! - It goes on to the next endpoint when one is down, and starts with the one that worked last.
//! - A write is sent a second time only when the first cannot have been applied (no connection came about,
//!   the request was never started on it, or the server answered `outcome: not_applied` with
//!   `retryable: true`), or when it carries an [`idempotency::IdempotencyKey`], so that it is applied once
//!   however often it is sent. Anything else is [`error::Error::OutcomeUnknown`], for the caller to decide.
//! - Once a write may have been applied, no later refusal makes it an error that says it was not.
//! - Between attempts at the same endpoint it waits, longer each time and never shorter than the server's
//!   `Retry-After`. Every call ends within its request timeout, all attempts together, and reads a bounded
//!   answer.
//! - A [`watch::Watch`] loses no event and gives none twice, from whichever endpoint its stream comes.
//!
//! ```no_run
//! # async fn example() -> Result<(), hearth_cli::error::Error> {
//! use hearth_cli::client::{Client, Options};
//! use hearth_cli::idempotency::IdempotencyKey;
//! use hearth_cli::kv::{Condition, Consistency, Put};
//!
//! let endpoints = ["127.0.0.1:8080", "127.0.0.1:8081"].iter().flat_map(|text| text.parse()).collect();
//! let client = Client::new(endpoints, Options::default())?;
//! let how = Put {
//!     only_if: Some(Condition::Absent),
//!     idempotency_key: Some(IdempotencyKey::random()),
//!     ..Put::default()
//! };
//! let written = client.kv_put("greeting", "hello", &how).await?;
//! let found = client.kv_get("greeting", Consistency::Linearizable).await?;
//! assert_eq!(found.map(|value| value.revision), Some(written.revision));
//! # Ok(())
//! # }
//! ```
//!
//! One resource, one file: [`kv`], [`list`], [`txn`], [`watch`], [`age`], [`compute`], [`cluster`],
//! [`health`]. What is decided about attempts is in `retry.rs`, apart from what sends them. The commands, one
//! file each, are in [`commands`].
//!
//! Known shortcomings: plain HTTP only, no TLS yet; a `Retry-After` that is a date is not understood.

pub mod age;
mod attempts;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod compute;
mod connection;
pub mod endpoint;
pub mod error;
pub mod health;
pub mod idempotency;
pub mod kv;
pub mod list;
mod path;
mod retry;
pub mod txn;
pub mod watch;
mod wire;

#[cfg(test)]
mod responder;
