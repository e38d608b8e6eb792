//! The typed HTTP client of Hearth and the commands of `hearth`.
//!
//! A [`client::Client`] knows several endpoints of one cluster and asks one of them; any node answers any
//! request. What it promises:
//!
//! - It goes on to the next endpoint when one is down, and starts with the one that worked last.
//! - A write is sent a second time only when the first cannot have been applied: no connection came about,
//!   the request was never started on it, or the server answered `outcome: not_applied` with
//!   `retryable: true`. Anything else is [`error::Error::OutcomeUnknown`], for the caller to decide.
//! - Every call ends within its request timeout, all endpoints together, and reads a bounded answer.
//!
//! One resource, one file: [`kv`], [`age`], [`compute`], [`cluster`], [`health`]. The commands, one file
//! each, are in [`commands`].
//!
//! Known shortcomings: plain HTTP only, no TLS yet; no `Idempotency-Key`, so the client cannot resolve an
//! unknown outcome by asking again.

pub mod age;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod compute;
mod connection;
pub mod endpoint;
pub mod error;
pub mod health;
pub mod kv;
mod path;

#[cfg(test)]
mod responder;
