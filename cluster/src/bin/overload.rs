//! `overload`: what becomes of writes when several times as many are asked for as a cluster can do.
//!
//! Starts three real nodes and finds the peak: the best throughput of a closed loop over growing
//! numbers of connections. Then it asks for `--factor` times as many requests a second, from an open
//! loop: each connection has a schedule, and sends its next write when that is due or, when the answer
//! before came late, at once. A refused client comes again when `Retry-After` says. Prints how many
//! writes were good at the peak and under overload, what happened to the others, and whether an
//! election took place; fails when good throughput is below 80 % of the peak or when there was one.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use hearth_cluster::{Cluster, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Good writes under overload, at least, as a share of the peak.
const GOOD_SHARE_MIN: f64 = 0.8;
/// Room for an answer, in bytes; ours are far smaller.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Pause after a connection broke.
const BROKEN_PAUSE: Duration = Duration::from_millis(100);

/// Writes at several times the rate that a cluster can do.
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of connections among which the peak is looked for.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,2048")]
    peak_connections: Vec<usize>,
    /// How many times the peak is asked for.
    #[arg(long, default_value_t = 5.0)]
    factor: f64,
    /// Connections that ask for it together.
    #[arg(long, default_value_t = 4000)]
    connections: usize,
    /// Seconds measured each time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Further flags for every node, after `--`.
    #[arg(last = true)]
    flags: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let options = Options { flags: arguments.flags, ..Options::default() };
    let mut cluster = Cluster::start(options).await?;
    let leader = cluster.leader().await?;
    let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.http).collect();
    let window = Duration::from_secs(arguments.seconds);
    let elections = async || cluster.node(leader).client.metric("hearth_raft_term").await;
    let before = elections().await?;

    println!("load          connections  asked/s  good/s  429/s  503/s  504/s  other/s  p50 ms  p99 ms");
    let mut peak: f64 = 0.0;
    for connections in arguments.peak_connections {
        let seen = load(&nodes, connections, None, window).await?;
        seen.print("closed loop", connections);
        peak = peak.max(seen.good_per_second());
    }
    let interval = Duration::from_secs_f64(arguments.connections as f64 / (peak * arguments.factor));
    let seen = load(&nodes, arguments.connections, Some(interval), window).await?;
    seen.print(&format!("{} x peak", arguments.factor), arguments.connections);
    let share = seen.good_per_second() / peak;
    let elected = elections().await? - before;
    println!("good under overload: {:.0} % of the peak; elections: {elected}", share * 100.0);
    ensure!(elected == 0, "{elected} elections under load");
    ensure!(share >= GOOD_SHARE_MIN, "less than {:.0} % of the peak", GOOD_SHARE_MIN * 100.0);
    Ok(())
}

/// What the connections of one load share.
struct Shared {
    measuring: AtomicBool,
    stop: AtomicBool,
    /// By [`Kind`].
    counts: [AtomicU64; 5],
    /// Of good writes, in µs. Never held across an await.
    latency: Mutex<Histogram<u64>>,
}

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good = 0,
    TooMany = 1,
    Unavailable = 2,
    Timeout = 3,
    Other = 4,
}

/// What was seen in one window.
struct Seen {
    counts: [u64; 5],
    /// By schedule; `None` when each waits for its answer.
    asked_per_second: Option<f64>,
    elapsed: Duration,
    /// Of good writes, in µs.
    latency: Histogram<u64>,
}

impl Seen {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    fn good_per_second(&self) -> f64 {
        self.per_second(self.counts[Kind::Good as usize])
    }

    fn print(&self, name: &str, connections: usize) {
        let [good, too_many, unavailable, timeout, other] = self.counts.map(|count| self.per_second(count));
        let asked = self.asked_per_second.unwrap_or_else(|| self.per_second(self.counts.iter().sum()));
        let ms = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{name:<13} {connections:>11}  {asked:>7.0} {good:>7.0} {too_many:>6.0} {unavailable:>6.0} {timeout:>6.0}  {other:>7.0}  {:>6.1}  {:>6.1}",
            ms(0.5),
            ms(0.99)
        );
    }
}

async fn load(
    nodes: &[SocketAddr],
    connections: usize,
    interval: Option<Duration>,
    window: Duration,
) -> Result<Seen> {
    let shared = Arc::new(Shared {
        measuring: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        counts: Default::default(),
        latency: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).context("make a histogram")?),
    });
    let mut writers = JoinSet::new();
    for (number, node) in (0..connections).zip(nodes.iter().cycle()) {
        writers.spawn(write(*node, number, connections, interval, Arc::clone(&shared)));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let began = Instant::now();
    shared.measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(window).await;
    shared.measuring.store(false, Ordering::Relaxed);
    let elapsed = began.elapsed();
    let counts = shared.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.context("a writer")?;
    }
    let latency = shared.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let asked_per_second = interval.map(|interval| connections as f64 / interval.as_secs_f64());
    Ok(Seen { counts, asked_per_second, elapsed, latency })
}

async fn write(
    node: SocketAddr,
    number: usize,
    connections: usize,
    interval: Option<Duration>,
    shared: Arc<Shared>,
) {
    let mut stream = None;
    // Spread over one interval, so that not all are due at once.
    let share = number as f64 / connections as f64;
    let mut due = Instant::now() + interval.unwrap_or(Duration::from_millis(50)).mul_f64(share);
    let mut count = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(due.into()).await;
        let sent = Instant::now();
        count += 1;
        let (kind, retry_after) = put(&mut stream, node, number, count).await;
        if shared.measuring.load(Ordering::Relaxed) {
            shared.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
            if kind == Kind::Good {
                let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                let mut latency = shared.latency.lock().unwrap_or_else(PoisonError::into_inner);
                latency.saturating_record(micros);
            }
        }
        // Late ones are not made up for: that would be a queue without end in the client.
        due = (due + interval.unwrap_or_default()).max(Instant::now());
        due += retry_after;
    }
}

/// One write, and how long to stay away after it.
async fn put(
    stream: &mut Option<TcpStream>,
    node: SocketAddr,
    number: usize,
    count: u64,
) -> (Kind, Duration) {
    match attempt(stream, node, number, count).await {
        Ok((status, retry_after)) => match status {
            200 | 201 => (Kind::Good, Duration::ZERO),
            429 => (Kind::TooMany, retry_after),
            503 => (Kind::Unavailable, retry_after),
            504 => (Kind::Timeout, Duration::ZERO),
            _ => (Kind::Other, BROKEN_PAUSE),
        },
        Err(_) => {
            *stream = None;
            (Kind::Other, BROKEN_PAUSE)
        }
    }
}

async fn attempt(
    stream: &mut Option<TcpStream>,
    node: SocketAddr,
    number: usize,
    count: u64,
) -> Result<(u16, Duration)> {
    if stream.is_none() {
        let opened = TcpStream::connect(node).await?;
        opened.set_nodelay(true)?;
        *stream = Some(opened);
    }
    let stream = stream.as_mut().context("just opened")?;
    let head = format!(
        "PUT /v1/kv/overload/{number}/{} HTTP/1.1\r\nhost: {node}\r\ncontent-length: {VALUE_BYTES}\r\n\r\n",
        count % 16
    );
    let request = [head.as_bytes(), &[b'v'; VALUE_BYTES]].concat();
    stream.write_all(&request).await?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed");
        ensure!(answer.len() <= ANSWER_BYTES_MAX, "an answer too large");
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..end]).context("a head that is not text")?;
        let number = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().and_then(|value| value.trim().parse::<u64>().ok())
        };
        let length = number("content-length:").context("no content-length")?;
        if answer.len() as u64 >= end as u64 + 4 + length {
            let status = head.get(9..12).and_then(|digits| digits.parse().ok()).context("no status")?;
            return Ok((status, Duration::from_secs(number("retry-after:").unwrap_or(0))));
        }
    }
}
