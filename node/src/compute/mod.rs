//! Compute: what the node answers by working, not by looking up.
//!
//! # Idea
//! `/cpu` sums random numbers on threads of its own ([`cpu`]); `/local_program` runs a fixed executable in a
//! process group of its own ([`local_program`]). [`very_important_value`] is the executable as shipped. Both
//! keep a [`pool`] of results that producers compute ahead while there is nothing better to do.
//!
//! # Invariants
//! - Compute never sees the store: nothing here depends on `hearth-raft`, or on HTTP.
//! - Every queue is bounded, and its bound is a configuration key.
//! - Compute never starves consensus: it happens on other threads than the asynchronous ones, which are
//!   nicer than those, and producers are the nicest. Only what takes microseconds may happen at once, while nothing
//!   is written.

pub mod cpu;
pub mod local_program;
pub mod metrics;
mod notices;
pub mod pool;
pub mod very_important_value;
mod workers;

/// How much nicer than this process the threads are that compute for callers, and the programs that they
/// start: consensus has thirty times their weight. With 5, three times, writes took 8.6 ms on average while
/// every node of three on two cores computed all it could, 1.9 ms without that. And they make way at once, see
/// [`workers`].
const NICENESS: i32 = 15;

/// How much nicer than this process producers are, and the programs that they start: as nice as can be.
const PRODUCER_NICENESS: i32 = 19;

/// How often an idle producer looks whether something is missing.
const PRODUCER_TICK: std::time::Duration = std::time::Duration::from_millis(100);
