//! `space`: what the state takes on disk while the same keys are overwritten again and again.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin space -- --seconds 120
//! ```
//!
//! One node, a closed loop of overwrites, and checkpoints much more often than by default. Prints the
//! bytes on disk of `state/` against the live data, over time and number of checkpoints. sled gives space
//! back a segment at a time and keeps some in reserve: below some tens of MiB of data the ratio says
//! nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use hearth_cluster::load::closed::{Load, Loop};
use hearth_cluster::load::{Operation, fill};
use hearth_cluster::machine;
use hearth_cluster::measurement::{self, Servers};

/// Connections that write.
const CONNECTIONS: u32 = 64;
/// How often the disk is looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// Unit of a file's allocated blocks, in bytes, see stat(2).
const BLOCK_BYTES: u64 = 512;

/// What the state takes on disk under overwrites.
#[derive(Parser)]
struct Arguments {
    /// Keys.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1000..=99_999_999))]
    keys: u32,
    /// Length of each value, in bytes.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How long keys are overwritten.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..))]
    seconds: u64,
    /// Entries from one checkpoint to the next.
    #[arg(long, default_value_t = 25_000)]
    checkpoint_entries: u64,
    #[command(flatten)]
    servers: Servers,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let entries = format!("--storage-checkpoint-entries={}", arguments.checkpoint_entries);
    let cluster = arguments.servers.start(1, &[&entries]).await?;
    println!("{}", machine::describe(cluster.directory())?);
    let node = cluster.node(0);
    let Arguments { keys, value_bytes, .. } = arguments;
    fill::run(&[node.http], CONNECTIONS, 0..keys, value_bytes).await?;

    let (operation, connections, pause) = (Operation::Put, CONNECTIONS as usize, Duration::ZERO);
    let load = Load { operation, connections, keys, value_bytes, pause };
    let writes = Loop::start(&[node.http], &load).await?;
    let state = node.data_dir.join("state");
    println!(
        "\n{:>7} {:>11} {:>11} {:>9} {:>9} {:>7}",
        "seconds", "overwrites", "checkpoints", "state MiB", "live MiB", "times"
    );
    let (begun, steps) = (Instant::now(), 12);
    let step = Duration::from_secs(arguments.seconds) / steps;
    let mut worst: f64 = 0.0;
    for number in 1..=steps {
        let (mut most, until) = (0, begun + step * number);
        while Instant::now() < until {
            tokio::time::sleep(INTERVAL).await;
            most = most.max(disk_bytes(&state)?);
        }
        let live = node.client.metric("hearth_store_bytes").await?;
        let checkpoints = node.client.metric("hearth_store_checkpoint_duration_seconds_count").await?;
        let (seconds, ratio) = (begun.elapsed().as_secs_f64(), most as f64 / live as f64);
        let overwrites = writes.between(begun, Instant::now()).took.len();
        println!(
            "{seconds:>7.0} {overwrites:>11} {checkpoints:>11} {:>9.1} {:>9.1} {ratio:>7.2}",
            mib(most),
            mib(live)
        );
        worst = worst.max(ratio);
    }
    let now = disk_bytes(&state)? as f64 / node.client.metric("hearth_store_bytes").await? as f64;
    println!(
        "the most on disk, journal and all: {worst:.2} times the live data; at the end {now:.2}; target below 3.00"
    );
    Ok(())
}

/// Bytes that all files below `dir` take on disk.
fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        // Files come and go while the node works.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += disk_bytes(&path).unwrap_or(0),
            Ok(metadata) => bytes += metadata.blocks() * BLOCK_BYTES,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        }
    }
    Ok(bytes)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
