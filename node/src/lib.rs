//! The Hearth node: HTTP endpoints, compute, configuration, process life.
//!
//! **Idea.** [`node`] reads as the life of a process. The folders are what it consists of: [`config`]
//! (one list of keys for flags, environment and file), `http` (routes and what surrounds a request),
//! [`compute`] (endpoints that never see the store) and [`dev`] (a cluster on one machine). What is
//! replicated is behind `hearth_raft::Store`.
//!
//! **Invariants.** Compute never sees the store. Nothing is changed on disk before the configuration
//! is valid, the ports are bound and the data directory is this node's. Every queue, body and
//! connection table is bounded by a key.
//!
//! **Absent on purpose.** TLS and tokens: until they are here, only loopback addresses are open
//! without saying `insecure` and `no_auth`.

mod allocator;
pub mod compute;
pub mod config;
pub mod dev;
mod http;
pub mod node;
pub mod runtime;
