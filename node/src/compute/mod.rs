//! Compute: what the node answers by working, not by looking up.
//!
//! # Idea
//! `/cpu` sums random numbers on threads of its own ([`cpu`]); `/local_program` runs a fixed executable in a
//! process group of its own ([`local_program`]). [`very_important_value`] is the executable as shipped.
//!
//! # Invariants
//! - Compute never sees the store: nothing here depends on `hearth-raft`, or on HTTP.
//! - Every queue is bounded, and its bound is a configuration key.
//! - Compute never starves consensus: long work happens on other threads than the asynchronous ones.

pub mod cpu;
pub mod local_program;
pub mod very_important_value;
mod workers;
