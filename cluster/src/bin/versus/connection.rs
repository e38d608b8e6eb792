//! The connections of a load: to which node each goes, and what it asks.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use hearth_cluster::load::request::Failure;
use hearth_cluster::load::{Operation, hearth};
use hearth_cluster::seed;
use rand::RngExt;

use crate::etcd;
use crate::options::System;
use crate::servers::Servers;

/// Length of each value, in bytes.
const VALUE_BYTES: usize = 256;

/// A connection to either system.
#[derive(Debug)]
pub enum Connection {
    /// HTTP/1.1.
    Hearth(hearth::Connection),
    /// gRPC.
    Etcd(etcd::Connection),
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn open(target: &Target) -> Result<Self> {
        let Target { system, address, operation, value } = target;
        Ok(match system {
            System::Hearth | System::Before => {
                Self::Hearth(hearth::Connection::open(*address, *operation, value).await?)
            }
            System::Etcd => Self::Etcd(etcd::Connection::open(*address, *operation, value).await?),
        })
    }

    /// Sends one request, for `key`, and waits for the whole answer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn ask(&mut self, key: u32) -> Result<(), Failure> {
        match self {
            Self::Hearth(connection) => connection.ask(key).await,
            Self::Etcd(connection) => connection.ask(key).await,
        }
    }
}

/// What one connection asks, and whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// Of which system.
    pub system: System,
    /// Which of its nodes.
    pub address: SocketAddr,
    /// What is asked for.
    pub operation: Operation,
    /// What a put writes.
    pub value: Arc<[u8]>,
}

/// One target for each connection: connection i goes to node i % 3, the leader being node 0.
///
/// # Errors
/// When there is no leader in time.
pub async fn targets(servers: &Servers, operation: Operation, connections: u32) -> Result<Vec<Target>> {
    let nodes = servers.addresses_leader_first().await?;
    let mut random = seed::random(u64::MAX);
    let target = |address: &SocketAddr| {
        let value = (0..VALUE_BYTES).map(|_| random.random()).collect();
        Target { system: servers.system, address: *address, operation, value }
    };
    Ok(nodes.iter().cycle().take(connections as usize).map(target).collect())
}
