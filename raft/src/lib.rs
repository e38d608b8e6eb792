//! The replicated store: Raft over TCP, a log on disk, the state in memory and at rest in sled.
//!
//! **Idea.** openraft decides; this crate gives it a log with group commit (`log`), a state machine
//! over immutable maps (`state`) and a network with a connection for each purpose (`peer`).
//! [`Store`] is what the rest of the node sees.
//!
//! **The way of a write.** [`Store::write`] encodes the command once and finds the leader: here, or
//! over the forwarding connection. The leader stamps it with its clock and proposes it
//! (`local`). openraft appends it; the log's fdatasync here and the followers' overlap. Once a
//! majority has it on disk, every node applies it, publishes a view, and the leader answers.
//!
//! **The way of a read.** [`Store::linearizable_view`] asks the leader for a read index, together
//! with everyone who waits at that moment, waits until this node has applied that far, and hands out
//! the published view. Nothing is locked and nothing is copied.
//!
//! **The way of an event.** What an entry changed goes, once every view includes it, into a bounded history
//! (`state::history`), which wakes the watchers of those keys; a [`Watcher`] reads it from where it is.
//!
//! **Invariants** (each is repeated beside the code that keeps it).
//! 1. Nothing is acknowledged before it is on disk on a majority of voters.
//! 2. A linearizable read never returns a value older than any write acknowledged before it began.
//! 3. Applying is deterministic; time enters as a field of the command, set by the leader.
//! 4. A log entry is purged only when sled durably holds a state that includes it.
//! 5. Every queue, batch, cache and stream is bounded.
//! 6. A failed write or fsync is never retried; the node stops.
//! 7. A node that cannot prove its disk intact does not start.
//!
//! **Absent on purpose.** HTTP in any form. Leader leases for reads: openraft's do not survive a
//! restart. Membership changes after the cluster was formed, and authentication between peers, are
//! not here yet.

mod background;
mod bootstrap;
mod clock;
mod coalesce;
mod codec;
mod command;
mod courtesy;
mod disk;
mod freshness;
#[cfg(test)]
mod golden;
mod identity;
mod local;
mod lock;
mod log;
mod marker;
mod metrics;
mod peer;
mod proposal;
mod read_index;
mod rounds;
mod state;
mod store;
mod types;

pub use bootstrap::BootstrapError;
pub use command::{
    Condition, Expect, Got, IdempotencyKey, Op, PREFIX_KEYS_MAX, Reply, TXN_OPS_MAX, Test, Txn, TxnOp,
    TxnRefusal, TxnReply, TxnResult,
};
pub use courtesy::step_back;
pub use identity::{DataDirError, Identity};
pub use state::{AgeList, Change, Event, EventId, Record, State, View, Watched, Watcher};
pub use store::{
    CloseError, MemberReport, MemberStatus, OpenError, ReadError, Standing, Store, StoreOptions, WatchError,
    WriteError, Written,
};
pub use types::Member;
