//! `watchers`: what watch streams cost, and how fast a write reaches them.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin watchers
//! ```
//!
//! Three nodes; all streams are on the leader, which has the most to do. First the idle ones, each of a prefix
//! of its own: memory for each, writes in a closed loop with and without them, and processor use while nothing
//! happens. Then `--listeners` further streams of one prefix, to which one key after the other is
//! written: the time from sending the write until the last of them has the event. `--plain` only opens
//! connections that have asked for something small, to see what a connection costs without a stream.
//!
//! Known shortcomings: the nodes and all their clients share this machine's processors, so that what the
//! clients need to read is a part of the times.

mod streams;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use hearth_cluster::load::Operation;
use hearth_cluster::load::closed::{Load, Loop};
use hearth_cluster::machine;
use hearth_cluster::measurement::{self, Servers};

use self::streams::{Listeners, open_idle, open_plain};

/// Target for the memory of an idle stream, in bytes.
const STREAM_BYTES_MAX: f64 = 20.0 * 1024.0;
/// Target for the time until all listeners have an event.
const REACH_MAX: Duration = Duration::from_millis(50);
/// How long things settle before they are measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Longer than the heartbeats are apart (15 s): memory that they touch is touched.
const IDLE_WINDOW: Duration = Duration::from_secs(18);
/// Connections that write in the closed loop.
const WRITE_CONNECTIONS: usize = 64;

/// What watch streams cost, and how fast a write reaches them.
#[derive(Parser)]
struct Arguments {
    /// Idle streams, each of a prefix of its own.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Streams of one prefix.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    listeners: u32,
    /// Writes to that prefix, one after the other.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of each value, in bytes.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Open plain connections in place of idle streams, print what they take, and end.
    #[arg(long)]
    plain: bool,
    /// Seconds of the closed loop.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[command(flatten)]
    servers: Servers,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let mut cluster = arguments.servers.start(3, &[]).await?;
    println!("{}", machine::describe(cluster.directory())?);
    let leader = cluster.leader().await?;
    let (node, process) = (cluster.node(leader).http, cluster.node(leader).process()?);
    let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.http).collect();

    tokio::time::sleep(SETTLE).await;
    let before = process.resident_bytes()?;
    let idle = match arguments.plain {
        true => open_plain(node, arguments.idle).await?,
        false => open_idle(node, arguments.idle).await?,
    };
    tokio::time::sleep(SETTLE).await;
    let memory = process.resident_bytes()?;
    let each = memory.saturating_sub(before) as f64 / arguments.idle.max(1) as f64;
    let kind = if arguments.plain { "plain connections" } else { "idle streams" };
    println!(
        "\n{} {kind}: {:.1} MiB resident before, {:.1} with them, {:.2} KiB each",
        arguments.idle,
        mib(before),
        mib(memory),
        each / 1024.0
    );
    if arguments.plain {
        return Ok(());
    }

    let load = Load {
        operation: Operation::Put,
        connections: WRITE_CONNECTIONS,
        keys: 10_000,
        value_bytes: arguments.value_bytes,
        pause: Duration::ZERO,
    };
    let window = Duration::from_secs(arguments.seconds);
    println!("\n{:<24} {:>9} {:>8} {:>8}", "writes", "/s", "p50 ms", "p99 ms");
    let with_streams = format!("{} idle streams", arguments.idle);
    print_writes(&with_streams, &nodes, &load, window).await?;
    drop(idle);
    tokio::time::sleep(SETTLE).await;
    print_writes("none", &nodes, &load, window).await?;
    let idle = open_idle(node, arguments.idle).await?;
    print_writes(&with_streams, &nodes, &load, window).await?;

    let (began, before) = (Instant::now(), process.cpu_time()?);
    tokio::time::sleep(IDLE_WINDOW).await;
    let busy = process.cpu_time()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "\n{} idle streams: {:.1} % of a core on their node, heartbeats included",
        arguments.idle,
        busy * 100.0
    );

    let mut listeners = Listeners::open(node, arguments.listeners).await?;
    let mut took = Vec::new();
    for round in 0..arguments.rounds {
        took.push(listeners.reach(node, round, arguments.value_bytes).await?);
    }
    took.sort_unstable();
    let worst = took.last().copied().unwrap_or_default();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    println!(
        "one write, sent until {} streams have it, with {} idle ones beside: median {:.1} ms, max {:.1} ms of {}",
        arguments.listeners,
        arguments.idle,
        ms(took[took.len() / 2]),
        ms(worst),
        arguments.rounds
    );
    drop(idle);
    ensure!(each <= STREAM_BYTES_MAX, "{each:.0} bytes for an idle stream, more than {STREAM_BYTES_MAX}");
    ensure!(worst <= REACH_MAX, "{worst:?} until all have it, more than {REACH_MAX:?}");
    Ok(())
}

async fn print_writes(name: &str, nodes: &[SocketAddr], load: &Load, window: Duration) -> Result<()> {
    let writes = Loop::start(nodes, load).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    tokio::time::sleep(window).await;
    let seen = writes.between(begin, Instant::now());
    ensure!(seen.errors.is_empty(), "{} errors, like {}", seen.errors.len(), seen.errors[0]);
    println!(
        "{name:<24} {:>9.0} {:>8.2} {:>8.2}",
        seen.rate(),
        seen.quantile_ms(0.5),
        seen.quantile_ms(0.99)
    );
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
