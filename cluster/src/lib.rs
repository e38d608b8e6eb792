//! Clusters of real `hearthd` processes for tests and measurements.
//!
//! [`Cluster::start`] builds the server once, starts N processes of it on free ports with their
//! data in a temporary directory, and waits until all are ready. A test then kills, pauses,
//! terminates and restarts them by index, and talks to each through [`http::Client`], which neither
//! retries nor fails over: a test must know which node answered what.
//!
//! What holds for every process started here:
//! - it is killed and reaped when its [`Cluster`] is dropped;
//! - it never outlives the test process, however that one ends (parent-death signal);
//! - the data and the logs stay on disk when the test panics, and their path is printed.
//!
//! Known shortcomings: Linux only (`/proc`, parent-death signals, the whole of 127.0.0.0/8 as
//! loopback); the network between the processes cannot be cut, only the processes stopped.

pub mod address;
pub mod binary;
pub mod checkpoints;
pub mod cluster;
pub mod events;
pub mod http;
pub mod load;
pub mod machine;
pub mod process;
pub mod seed;
pub mod volume;
pub mod wait;
pub mod workload;

pub use cluster::{Cluster, Node, Options};
