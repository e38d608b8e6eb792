//! `returning`: what it costs the writes when a node comes back for which only a snapshot is left.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin returning
//! ```
//!
//! Three nodes are filled with a gibibyte. One is killed, the others write on until their logs no longer
//! hold what it misses, and it comes back while writers go on in a closed loop at the two others. The
//! table compares the writes before, during and after the transfer, which lasts from the start of the
//! process until it is ready.
//!
//! Known shortcomings: all three nodes share processors and one disk. What the returning node does, it
//! takes from the others, which on machines of their own it would not: before the transfer there are two, and
//! what a third one takes by merely being there is in the figures after it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use hearth_cluster::checkpoints::Watch;
use hearth_cluster::load::closed::{Load, Loop, Window};
use hearth_cluster::load::{Operation, fill};
use hearth_cluster::measurement::{self, Servers};
use hearth_cluster::{Cluster, machine, wait};

/// Connections that fill the store.
const FILL_CONNECTIONS: u32 = 64;
/// How long the logs may take to be purged.
const PURGED_BOUND: Duration = Duration::from_secs(120);
/// How long the transfer may take.
const TRANSFER_BOUND: Duration = Duration::from_secs(240);
/// Length of a key that the load writes, in bytes.
const KEY_BYTES: u64 = 9;
/// Time after which a checkpoint is written.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// What the transfer of a snapshot to a returning node does to writes.
#[derive(Parser)]
struct Arguments {
    /// Keys.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=99_999_999))]
    keys: u32,
    /// Length of each value, in bytes.
    #[arg(long, default_value_t = 1064)]
    value_bytes: usize,
    /// Connections that write, half of them at each of the two nodes that stay.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Seconds measured before and after the transfer.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    #[command(flatten)]
    servers: Servers,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let interval = format!("--storage-checkpoint-interval={}s", CHECKPOINT_INTERVAL.as_secs());
    let mut cluster = arguments.servers.start(3, &[&interval]).await?;
    println!("{}", machine::describe(cluster.directory())?);

    let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.http).collect();
    let begun = Instant::now();
    fill::run(&nodes, FILL_CONNECTIONS, 0..arguments.keys, arguments.value_bytes).await?;
    let data_bytes = u64::from(arguments.keys) * (KEY_BYTES + arguments.value_bytes as u64);
    let seconds = begun.elapsed().as_secs_f64();
    println!("\n{} keys, {:.0} MiB, written in {seconds:.1} s", arguments.keys, mib(data_bytes));

    let leader = cluster.leader().await?;
    let (away, other) = ((leader + 1) % nodes.len(), (leader + 2) % nodes.len());
    leave_behind(&mut cluster, &arguments, away, [leader, other]).await?;

    let staying = [nodes[leader], nodes[other]];
    let clients: Vec<_> = [leader, other].map(|node| cluster.node(node).client.clone()).to_vec();
    let (keys, value_bytes, connections) = (arguments.keys, arguments.value_bytes, arguments.connections);
    let pause = Duration::ZERO;
    let load = Load { operation: Operation::Put, connections, keys, value_bytes, pause };
    let checkpoints = Watch::start(&clients);
    checkpoints.wait_written(PURGED_BOUND).await?;
    let writes = Loop::start(&staying, &load).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let measured = Duration::from_secs(arguments.seconds);
    let start = Instant::now();
    tokio::time::sleep(measured).await;

    let term = clients[0].metric("hearth_raft_term").await?;
    for node in [leader, other] {
        cluster.node(node).process()?.reset_resident_peak()?;
    }
    let resident = cluster.node(leader).process()?.resident_bytes()?;
    let returned = Instant::now();
    cluster.spawn(away)?;
    let installed = installed(&cluster, away).await?;
    cluster.wait_ready().await?;
    let ready = Instant::now();
    let peak = |node: usize| cluster.node(node).process()?.resident_peak_bytes();
    let (sender_peak, receiver_peak) = (peak(leader)?, peak(away)?);
    tokio::time::sleep(measured).await;
    let end = Instant::now();
    let term_after = clients[0].metric("hearth_raft_term").await?;

    let seconds = |to: Instant| (to - returned).as_secs_f64();
    println!("transfer: installed after {:.1} s, ready after {:.1} s", seconds(installed), seconds(ready));
    println!(
        "{:<22} {:>8} {:>8} {:>8} {:>9} {:>8} {:>7} {:>6}",
        "puts", "puts/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "seconds", "errors"
    );
    let before = writes.between(start, returned);
    let during = writes.between(returned, ready);
    let after = writes.between(ready, end);
    let windows = [
        ("before", &before),
        ("during the transfer", &during),
        ("- until installed", &writes.between(returned, installed)),
        ("- while it catches up", &writes.between(installed, ready)),
        ("after", &after),
    ];
    for (what, window) in windows {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|quantile| window.quantile_ms(quantile));
        let (rate, seconds, errors) = (window.rate(), window.elapsed.as_secs_f64(), window.errors.len());
        println!(
            "{what:<22} {rate:>8.0} {p50:>8.3} {p99:>8.3} {p999:>9.3} {max:>8.1} {seconds:>7.1} {errors:>6}"
        );
    }
    // What checkpoints do to writes comes with and without a transfer.
    let seen = checkpoints.seen();
    let count = seen.iter().filter(|seen| seen.end > start && seen.end < end).count();
    println!("checkpoints of the two staying nodes meanwhile: {count}");
    let times = |of: &Window| during.quantile_ms(0.99) / of.quantile_ms(0.99);
    println!(
        "times of p99: {:.2} of before, target at most 2.00; {:.2} of after, with as many nodes",
        times(&before),
        times(&after)
    );
    println!(
        "term {term} before, {term_after} after: {}, target none",
        if term == term_after { "no election" } else { "an election" }
    );
    println!(
        "peak memory: sender {:.0} MiB ({:.0} before), receiver {:.0} MiB, {:.2} of the data",
        mib(sender_peak),
        mib(resident),
        mib(receiver_peak),
        receiver_peak as f64 / data_bytes as f64,
    );
    Ok(())
}

/// Kills `away` and writes at the `others` until their logs no longer hold what it misses.
async fn leave_behind(
    cluster: &mut Cluster,
    arguments: &Arguments,
    away: usize,
    others: [usize; 2],
) -> Result<()> {
    cluster.wait_converged().await?;
    cluster.kill(away)?;
    let clients = others.map(|node| cluster.node(node).client.clone());
    let nodes = others.map(|node| cluster.node(node).http);
    let last = clients[0].metric("hearth_raft_last_log_index").await?;
    wait::until(PURGED_BOUND, "the logs purged past what the dead node has", async || {
        let error = |error: anyhow::Error| format!("{error:#}");
        let keys = 0..arguments.keys.min(20_000);
        fill::run(&nodes, FILL_CONNECTIONS, keys, arguments.value_bytes).await.map_err(error)?;
        for client in &clients {
            let purged = client.metric("hearth_raft_purged_index").await.map_err(error)?;
            if purged <= last {
                return Err(format!("purged {purged}, wanted more than {last}"));
            }
        }
        Ok(())
    })
    .await
}

/// When the node has installed a snapshot.
async fn installed(cluster: &Cluster, node: usize) -> Result<Instant> {
    let client = &cluster.node(node).client;
    wait::until(TRANSFER_BOUND, "a snapshot installed", async || {
        match client.metric("hearth_raft_snapshot_installs_total").await {
            Ok(1..) => Ok(Instant::now()),
            Ok(_) => Err("none yet".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
