//! How nodes talk: one TCP port a node, length-delimited frames, a connection for each purpose.
//!
//! **Idea.** A connection begins with a [`hello`]: protocol version, cluster, who calls whom, and the
//! [`Lane`] it is for. Behind it go frames. Bulk never delays liveness, because it has connections
//! of its own:
//!
//! | lane | carries | order |
//! |---|---|---|
//! | vital | votes, appends without entries, read index, status, leader transfer | any; many in flight |
//! | append | log entries, pipelined; one replication session a connection | as sent |
//! | forward | writes that arrived on another node than the leader | any; many in flight |
//! | snapshot | one snapshot a connection | as sent |
//! | found | the one-time forming of a cluster | one question |
//!
//! **Invariants.**
//! - Nothing is decoded before the hello was accepted, and nothing is allocated for a length above
//!   the bound.
//! - A node of another cluster, or one that is not the node that was meant, is refused by name.
//! - A call says whether its request may have left this node: [`link::CallError`].
//!
//! **Absent on purpose.** Authentication and encryption: for now the peer port must only be
//! reachable by the nodes themselves.

pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod network;
mod reach;
pub(crate) mod server;
mod socket;

pub(crate) use hello::Lane;
