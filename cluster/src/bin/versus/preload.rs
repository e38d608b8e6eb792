//! What both systems hold before anything is measured: every key, with a value.

use anyhow::{Context, Result, bail};
use hearth_cluster::load::Operation;
use hearth_cluster::load::request::Failure;
use tokio::task::JoinSet;

use crate::connection::{self, Connection, Target};
use crate::load::{FAILURE_PAUSE, KEYS};
use crate::servers::Servers;

/// Connections that write.
const CONNECTIONS: u32 = 64;
/// Attempts at a key.
const TRIES: usize = 5;

/// Writes every key once.
///
/// # Errors
/// When a key cannot be written after several attempts.
pub async fn run(servers: &Servers) -> Result<()> {
    let targets = connection::targets(servers, Operation::Put, CONNECTIONS).await?;
    let mut writers = JoinSet::new();
    for (target, first) in targets.into_iter().zip(0..) {
        let keys = (first..KEYS).step_by(CONNECTIONS as usize);
        writers.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            for key in keys {
                write(&mut connection, &target, key).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.context("a writer")??;
    }
    Ok(())
}

async fn write(connection: &mut Connection, target: &Target, key: u32) -> Result<()> {
    let mut last = None;
    for _ in 0..TRIES {
        match connection.ask(key).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                tokio::time::sleep(FAILURE_PAUSE).await;
                if matches!(failure, Failure::Broken(_)) {
                    *connection = Connection::open(target).await?;
                }
                last = Some(failure);
            }
        }
    }
    bail!("write key {key} to {}: {}", target.address, last.as_ref().map_or("", Failure::text))
}
