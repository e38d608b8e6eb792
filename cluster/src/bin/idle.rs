//! `idle`: what a cluster costs while nobody asks it anything.
//!
//! Starts real nodes, lets them settle, and prints each one's resident memory and processor use over
//! a window.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use hearth_cluster::measurement::{self, Servers};

/// Resident memory and processor use of idle nodes.
#[derive(Parser)]
struct Arguments {
    /// Number of nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    window_seconds: u64,
    /// Seconds before that, for what starting leaves to do.
    #[arg(long, default_value_t = 5)]
    settle_seconds: u64,
    #[command(flatten)]
    servers: Servers,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let mut cluster = arguments.servers.start(arguments.nodes, &[]).await?;
    let leader = cluster.leader().await?;
    tokio::time::sleep(Duration::from_secs(arguments.settle_seconds)).await;

    let processes: Vec<_> = cluster.nodes().iter().map(|node| node.process()).collect::<Result<_>>()?;
    let used = || processes.iter().map(|process| process.cpu_time()).collect::<Result<Vec<Duration>>>();
    let (began, before) = (Instant::now(), used()?);
    tokio::time::sleep(Duration::from_secs(arguments.window_seconds)).await;
    let (window, after) = (began.elapsed(), used().context("a node ended while idle")?);

    println!("node  role      resident MiB  CPU % of a core over {:.0} s", window.as_secs_f64());
    for (i, node) in cluster.nodes().iter().enumerate() {
        let role = if i == leader { "leader" } else { "follower" };
        let resident = processes[i].resident_bytes()? as f64 / f64::from(1 << 20);
        let busy = after[i].saturating_sub(before[i]).as_secs_f64() / window.as_secs_f64() * 100.0;
        println!("{:<5} {role:<9} {resident:>12.1}  {busy:>6.2}", node.name);
    }
    Ok(())
}
