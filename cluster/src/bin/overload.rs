//! `overload`: what becomes of writes when several times as many are asked for as a cluster can do.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin overload
//! ```
//!
//! Starts three real nodes and finds the peak: the best throughput of a closed loop over growing
//! numbers of connections. Then `--connections` clients together ask for `--factor` times as many writes a
//! second: each has a schedule, and sends its next write when that is due or, when the answer before came
//! late, at once. A refused client comes again when `Retry-After` says, as `hearth` and its library do. Prints
//! how many writes were good at the peak and under overload, what happened to the others, what the load itself
//! took of the processors, and whether an election took place; fails when good throughput is below 80 % of the
//! peak or when there was one.
//!
//! Known shortcomings: the load shares the processors with the nodes, so that it slows them down by being
//! there; a client has one request in flight, so that what is late is not sent in addition.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use hearth_cluster::load::http1::{self, Connection};
use hearth_cluster::measurement::{self, Servers};
use hearth_cluster::{Cluster, machine, process};
use tokio::task::{JoinSet, LocalSet};

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Keys that each client writes in turn.
const KEYS: usize = 16;
/// Good writes under overload, at least, as a share of the peak.
const GOOD_SHARE_MIN: f64 = 0.8;
/// Pause after a connection broke.
const BROKEN_PAUSE: Duration = Duration::from_millis(100);
/// Load before it is measured.
const WARMUP: Duration = Duration::from_secs(2);

/// Writes at several times the rate that a cluster can do.
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of connections among which the peak is looked for.
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,2048")]
    peak_connections: Vec<usize>,
    /// How many times the peak is asked for.
    #[arg(long, default_value_t = 5.0)]
    factor: f64,
    /// Clients that ask for it together.
    #[arg(long, default_value_t = 4000)]
    connections: usize,
    /// Seconds measured each time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    #[command(flatten)]
    servers: Servers,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let mut cluster = arguments.servers.start(3, &[]).await?;
    println!("{}\n", machine::describe(cluster.directory())?);
    let leader = cluster.leader().await?;
    let window = Duration::from_secs(arguments.seconds);
    let elections = async || cluster.node(leader).client.metric("hearth_raft_term").await;
    let before = elections().await?;

    println!(
        "load          clients  asked/s   sent/s   good/s  429/s  503/s  504/s  other/s  p50 ms  p99 ms  load CPU %  nodes CPU %"
    );
    let mut peak: f64 = 0.0;
    for connections in arguments.peak_connections {
        let seen = load(&cluster, connections, None, window).await?;
        seen.print("closed loop", connections);
        peak = peak.max(seen.good_per_second());
    }
    let interval = Duration::from_secs_f64(arguments.connections as f64 / (peak * arguments.factor));
    let seen = load(&cluster, arguments.connections, Some(interval), window).await?;
    seen.print(&format!("{} x peak", arguments.factor), arguments.connections);
    let share = seen.good_per_second() / peak;
    let elected = elections().await? - before;
    println!("good under overload: {:.0} % of the peak; elections: {elected}", share * 100.0);
    ensure!(elected == 0, "{elected} elections under load");
    ensure!(share >= GOOD_SHARE_MIN, "less than {:.0} % of the peak", GOOD_SHARE_MIN * 100.0);
    Ok(())
}

/// What the clients of one load share.
struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    /// By [`Kind`].
    counts: RefCell<[u64; 5]>,
    /// Of good writes, in µs.
    latency: RefCell<Histogram<u64>>,
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
    /// Processor time of this process.
    load_used: Duration,
    /// Processor time of all nodes.
    nodes_used: Duration,
}

impl Seen {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    fn good_per_second(&self) -> f64 {
        self.per_second(self.counts[Kind::Good as usize])
    }

    fn print(&self, name: &str, clients: usize) {
        let [good, too_many, unavailable, timeout, other] = self.counts.map(|count| self.per_second(count));
        let sent = self.per_second(self.counts.iter().sum());
        let asked = self.asked_per_second.unwrap_or(sent);
        let ms = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let percent = |used: Duration| used.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0;
        println!(
            "{name:<13} {clients:>7}  {asked:>7.0}  {sent:>7.0}  {good:>7.0}  {too_many:>5.0}  {unavailable:>5.0}  {timeout:>5.0}  {other:>7.0}  {:>6.1}  {:>6.1}  {:>10.0}  {:>11.0}",
            ms(0.5),
            ms(0.99),
            percent(self.load_used),
            percent(self.nodes_used),
        );
    }
}

async fn load(
    cluster: &Cluster,
    connections: usize,
    interval: Option<Duration>,
    window: Duration,
) -> Result<Seen> {
    let shared = Rc::new(Shared {
        measuring: Cell::new(false),
        stop: Cell::new(false),
        counts: RefCell::default(),
        latency: RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3).context("make a histogram")?),
    });
    let local = LocalSet::new();
    let mut writers = JoinSet::new();
    for (number, node) in (0..connections).zip(cluster.nodes().iter().cycle()) {
        // Spread over one interval, so that not all are due at once.
        let share = number as f64 / connections as f64;
        let begin = Instant::now() + interval.unwrap_or(Duration::from_millis(50)).mul_f64(share);
        let client = Client { node: node.http, number, interval, shared: Rc::clone(&shared) };
        writers.spawn_local_on(client.write(begin), &local);
    }
    let used = || -> Result<(Duration, Duration)> {
        let nodes = cluster.nodes().iter().map(|node| node.process()?.cpu_time()).sum::<Result<_>>()?;
        Ok((process::cpu_time("self")?, nodes))
    };
    let measured = local.run_until(async {
        tokio::time::sleep(WARMUP).await;
        let (began, before) = (Instant::now(), used()?);
        shared.measuring.set(true);
        tokio::time::sleep(window).await;
        shared.measuring.set(false);
        let (elapsed, after) = (began.elapsed(), used()?);
        shared.stop.set(true);
        while let Some(writer) = writers.join_next().await {
            writer.context("a client")?;
        }
        Ok::<_, anyhow::Error>((elapsed, after.0 - before.0, after.1 - before.1))
    });
    let (elapsed, load_used, nodes_used) = measured.await?;
    let (counts, latency) = (*shared.counts.borrow(), shared.latency.borrow().clone());
    let asked_per_second = interval.map(|interval| connections as f64 / interval.as_secs_f64());
    Ok(Seen { counts, asked_per_second, elapsed, latency, load_used, nodes_used })
}

/// One client with a connection of its own.
struct Client {
    node: SocketAddr,
    number: usize,
    /// From one write to the next; `None` sends the next one as soon as the last one is answered.
    interval: Option<Duration>,
    shared: Rc<Shared>,
}

impl Client {
    /// Writes from `due` on until the load stops.
    async fn write(self, mut due: Instant) {
        let value = "v".repeat(VALUE_BYTES);
        let request = |key| http1::put(&format!("/v1/kv/overload/{}/{key}", self.number), &value);
        let requests: Vec<Vec<u8>> = (0..KEYS).map(request).collect();
        let mut connection = None;
        for request in requests.iter().cycle() {
            tokio::time::sleep_until(due.into()).await;
            if self.shared.stop.get() {
                return;
            }
            let sent = Instant::now();
            let (kind, stay_away) = attempt(&mut connection, self.node, request).await;
            if self.shared.measuring.get() {
                self.shared.counts.borrow_mut()[kind as usize] += 1;
                if kind == Kind::Good {
                    let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.shared.latency.borrow_mut().saturating_record(micros);
                }
            }
            // Late ones are not made up for: that would be a queue without end in the client.
            due = (due + self.interval.unwrap_or_default()).max(Instant::now()) + stay_away;
        }
    }
}

/// One write, and how long to stay away after it.
async fn attempt(connection: &mut Option<Connection>, node: SocketAddr, request: &[u8]) -> (Kind, Duration) {
    let asked = async {
        let open = match connection.take() {
            Some(open) => open,
            None => Connection::open(node).await?,
        };
        // A broken one is not used again.
        connection.insert(open).ask(request).await
    };
    let Ok(head) = asked.await else {
        *connection = None;
        return (Kind::Other, BROKEN_PAUSE);
    };
    let kind = match head.status {
        200 | 201 => return (Kind::Good, Duration::ZERO),
        429 => Kind::TooMany,
        503 => Kind::Unavailable,
        504 => Kind::Timeout,
        _ => Kind::Other,
    };
    (kind, head.retry_after.unwrap_or(BROKEN_PAUSE))
}
