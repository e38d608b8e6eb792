//! Writes every key once, as fast as the cluster takes them.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use tokio::task::JoinSet;

use crate::load::Operation;
use crate::load::hearth::Connection;
use crate::load::request::Failure;
use crate::seed;

/// Attempts at a key.
const TRIES: u32 = 50;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(100);

/// Writes each of `keys` once, over `connections` that are spread over `nodes`. Connection i writes
/// every `connections`th key, so that the keys come in about ascending order.
///
/// # Errors
/// When a node cannot be reached, or a key cannot be written after several attempts.
pub async fn run(nodes: &[SocketAddr], connections: u32, keys: Range<u32>, value_bytes: usize) -> Result<()> {
    let mut writers = JoinSet::new();
    for (address, first) in nodes.iter().cycle().zip(keys.start..keys.start.saturating_add(connections)) {
        let mut random = seed::random(u64::from(first));
        let value: Vec<u8> = (0..value_bytes).map(|_| random.random()).collect();
        let (address, keys) = (*address, (first..keys.end).step_by(connections as usize));
        writers.spawn(async move {
            let mut connection = Connection::open(address, Operation::Put, &value).await?;
            for key in keys {
                write(&mut connection, address, &value, key).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.context("a writer")??;
    }
    Ok(())
}

async fn write(connection: &mut Connection, address: SocketAddr, value: &[u8], key: u32) -> Result<()> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match connection.ask(key).await {
            Ok(()) => return Ok(()),
            Err(Failure::Refused(error)) => last = error,
            Err(Failure::Broken(error)) => {
                last = error;
                *connection = Connection::open(address, Operation::Put, value).await?;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("key {key} was not written in {TRIES} attempts: {last}")
}
