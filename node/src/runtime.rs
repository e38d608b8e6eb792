//! The runtime of a node.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The runtime that everything in a node runs on: a thread for each processor, or as many as
/// `TOKIO_WORKER_THREADS` says. Each lets others run before it sleeps, see [`hearth_raft::step_back`].
///
/// # Errors
/// When the kernel gives no threads or no epoll.
pub fn new() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_park(hearth_raft::step_back).build()
}
