//! `scale`: what a cluster with a million keys takes: time to start, memory, and the price that reads pay
//! for a checkpoint.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin scale -- --rounds 3
//! ```
//!
//! Three nodes are filled over HTTP. Then rounds of: overwrite a quarter of the keys, read from all
//! nodes until the checkpoint of that has been written, and compare the reads that were answered while a
//! node wrote with those before. At last a node is killed and started again: with a fresh checkpoint, and
//! with a quarter of the keys to be replayed from the log.
//!
//! Known shortcomings: three nodes and the load share this machine's processors, so three checkpoints at
//! once take from the reads what on three machines they would not.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hearth_cluster::checkpoints::Watch;
use hearth_cluster::load::closed::{Load, Loop, Window};
use hearth_cluster::load::{Operation, fill};
use hearth_cluster::measurement::{self, Servers};
use hearth_cluster::{Cluster, machine};

/// Connections that write as fast as they can.
const FILL_CONNECTIONS: u32 = 192;
/// Connections that read, of each kind.
const READ_CONNECTIONS: usize = 8;
/// Time after which a checkpoint is written: half of it goes by until the last one is, and the rest is long
/// enough for the overwrites and a look at reads alone.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(40);
/// How long a checkpoint may take to be begun and written.
const CHECKPOINT_BOUND: Duration = Duration::from_secs(90);
/// Length of a key that the load writes, in bytes.
const KEY_BYTES: u64 = 9;

/// Time to start, memory, and what a checkpoint does to reads, with many keys.
#[derive(Parser)]
struct Arguments {
    /// Keys.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=99_999_999))]
    keys: u32,
    /// Length of each value, in bytes.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Checkpoints that reads are compared with.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Milliseconds that a connection rests after each read; 0 takes all that the processors have.
    #[arg(long, default_value_t = 2)]
    pause_ms: u64,
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
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let checkpoints = Watch::start(&clients);
    let begun = Instant::now();
    fill::run(&nodes, FILL_CONNECTIONS, 0..arguments.keys, arguments.value_bytes).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let data_bytes = u64::from(arguments.keys) * (KEY_BYTES + arguments.value_bytes as u64);
    let keys_per_second = f64::from(arguments.keys) / seconds;
    println!(
        "\n{} keys, {:.0} MiB, written in {seconds:.1} s, {keys_per_second:.0} /s\n",
        arguments.keys,
        mib(data_bytes)
    );

    println!("resident memory, target at most 2.50 of the data");
    println!("{:<28} {:<4} {:>8} {:>6} {:>9} {:>6}", "", "node", "MiB", "x data", "peak MiB", "x data");
    print_memory(&cluster, "after loading", data_bytes)?;
    checkpoints.wait_written(CHECKPOINT_BOUND).await?;
    print_memory(&cluster, "after the checkpoint", data_bytes)?;

    reads(&arguments, &nodes, &checkpoints).await?;

    println!("\nkill -9 to ready, target 8 s");
    let follower = (cluster.leader().await? + 1) % nodes.len();
    restart(&mut cluster, follower, "nothing to replay").await?;
    print_memory(&cluster, "after restarting one", data_bytes)?;
    checkpoints.wait_written(CHECKPOINT_BOUND).await?;
    let quarter = arguments.keys / 4;
    fill::run(&nodes, FILL_CONNECTIONS, 0..quarter, arguments.value_bytes).await?;
    restart(&mut cluster, follower, &format!("{quarter} entries to replay, at most")).await?;
    print_memory(&cluster, "after restarting one", data_bytes)
}

/// Kills a node and starts it again.
async fn restart(cluster: &mut Cluster, node: usize, what: &str) -> Result<()> {
    let metrics = async |name| cluster.node(node).client.metric(name).await;
    let behind = metrics("hearth_raft_applied_index").await? - metrics("hearth_raft_snapshot_index").await?;
    cluster.kill(node)?;
    let begun = Instant::now();
    cluster.restart(node).await?;
    println!("{:.2} s  {what} ({behind} applied since its checkpoint)", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Reads before and while checkpoints are written.
async fn reads(arguments: &Arguments, nodes: &[SocketAddr], checkpoints: &Watch) -> Result<()> {
    let kinds = [Operation::Get, Operation::GetLocal];
    // Of each kind, without and with a checkpoint.
    let mut seen = [(); 2].map(|()| [Window::default(), Window::default()]);
    let mut written_seconds = Vec::new();
    for _ in 0..arguments.rounds {
        checkpoints.wait_written(CHECKPOINT_BOUND).await?;
        fill::run(nodes, FILL_CONNECTIONS, 0..arguments.keys / 4, arguments.value_bytes).await?;
        let begun = Instant::now();
        let mut loops = Vec::new();
        for operation in kinds {
            let (keys, value_bytes) = (arguments.keys, arguments.value_bytes);
            let pause = Duration::from_millis(arguments.pause_ms);
            let load = Load { operation, connections: READ_CONNECTIONS, keys, value_bytes, pause };
            loops.push(Loop::start(nodes, &load).await?);
        }
        checkpoints.wait_written(CHECKPOINT_BOUND).await?;
        // So that the watch has seen the last one.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ended: Vec<_> = checkpoints.seen().into_iter().filter(|seen| seen.end > begun).collect();
        let begin = ended.iter().map(|seen| seen.begin).min().context("no checkpoint was seen")?;
        let end = ended.iter().map(|seen| seen.end).max().context("no checkpoint was seen")?;
        written_seconds.extend(ended.iter().map(|seen| (seen.end - seen.begin).as_secs_f64()));
        for (reads, seen) in loops.iter().zip(&mut seen) {
            // The first moments still have the end of the overwrites.
            let alone = begun + Duration::from_secs(1);
            ensure!(begin > alone, "the checkpoint began before reads were looked at without it");
            seen[0].add(reads.between(alone, begin));
            seen[1].add(reads.between(begin, end));
        }
    }
    println!("\nreads, {READ_CONNECTIONS} connections of each kind, target of p99 at most 2.00 times");
    println!(
        "{:<10} {:<20} {:>8} {:>8} {:>8} {:>9} {:>7} {:>6}",
        "", "", "reads/s", "p50 ms", "p99 ms", "p99.9 ms", "seconds", "errors"
    );
    for (operation, [without, with]) in kinds.iter().zip(&seen) {
        for (what, window) in [("no checkpoint", without), ("checkpoint", with)] {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| window.quantile_ms(quantile));
            let (rate, seconds) = (window.rate(), window.elapsed.as_secs_f64());
            println!(
                "{operation:<10} {what:<20} {rate:>8.0} {p50:>8.3} {p99:>8.3} {p999:>9.3} {seconds:>7.1} {:>6}",
                window.errors.len()
            );
        }
        println!(
            "{operation:<10} {:<20} {:>26.2}",
            "times",
            with.quantile_ms(0.99) / without.quantile_ms(0.99)
        );
    }
    written_seconds.sort_by(f64::total_cmp);
    let longest = written_seconds.last().copied().unwrap_or(f64::NAN);
    println!("{} checkpoints, the longest {longest:.1} s", written_seconds.len());
    Ok(())
}

fn print_memory(cluster: &Cluster, when: &str, data_bytes: u64) -> Result<()> {
    for node in cluster.nodes() {
        let process = node.process()?;
        let (now, peak) = (process.resident_bytes()?, process.resident_peak_bytes()?);
        let [now_ratio, peak_ratio] = [now, peak].map(|bytes| bytes as f64 / data_bytes as f64);
        println!(
            "{when:<28} {:<4} {:>8.0} {now_ratio:>6.2} {:>9.0} {peak_ratio:>6.2}",
            node.name,
            mib(now),
            mib(peak)
        );
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
