//! `overload`: what becomes of writes when several times as many are asked for as a cluster can do.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin overload
//! ```
//!
//! Starts three real nodes and finds the number of connections whose closed loop writes most. Then windows of that
//! peak and of overload take turns, and the medians of both are compared: what else the machine does meets both.
//! Under overload `--connections` clients together ask for `--factor` times as many writes a second as the peak
//! before gave: each has a schedule, and sends its next write when that is due or, when the answer before came late,
//! at once. A refusal is not heeded either: the client comes back as soon as its next write is due. With
//! `--heed-retry-after` it stays away as long as the refusal says, as `hearth` and its library do.
//!
//! A third kind of window, `crowd`, has as many connections as overload and as many requests in flight as the peak:
//! what the connections cost by themselves.
//!
//! Prints of each window how many writes were good and what happened to the others, and what a good write took of
//! the processors, on the side of the load and on that of the nodes. Fails when the median of the good writes under
//! overload is below 80 % of that at the peak, or when an election took place.
//!
//! Known shortcomings: the load shares the processors with the nodes, so that it slows them down by being there: what
//! it takes is taken from them. A client has one request in flight, so that what is late is not sent in addition.

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
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Keys that each client writes in turn.
const KEYS: usize = 16;
/// Keys that all clients write together, however many they are: what a checkpoint costs depends on how many were
/// written to.
const KEYS_TOGETHER: usize = 16 * 1024;
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
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024")]
    peak_connections: Vec<usize>,
    /// How many times the peak is asked for.
    #[arg(long, default_value_t = 5.0)]
    factor: f64,
    /// Clients that ask for it together.
    #[arg(long, default_value_t = 4000)]
    connections: usize,
    /// Seconds measured each time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Turns of a window each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Clients stay away as long as a refusal says.
    #[arg(long)]
    heed_retry_after: bool,
    /// In each turn also a window of as many connections with no more requests in flight than at the peak.
    #[arg(long)]
    crowd: bool,
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

    println!("{}", Seen::HEADINGS);
    let mut best = (0.0, 1);
    for connections in arguments.peak_connections {
        let seen = load(&cluster, &Shape::closed(connections), window).await?;
        seen.print("closed loop", connections);
        if seen.good_per_second() > best.0 {
            best = (seen.good_per_second(), connections);
        }
    }
    let at_peak = best.1;
    let (mut peaks, mut overloads, mut crowds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let seen = load(&cluster, &Shape::closed(at_peak), window).await?;
        seen.print("peak", at_peak);
        let asked = seen.good_per_second() * arguments.factor;
        peaks.push(seen);
        let shape = Shape {
            connections: arguments.connections,
            interval: Some(Duration::from_secs_f64(arguments.connections as f64 / asked)),
            heeds_retry_after: arguments.heed_retry_after,
            in_flight_max: arguments.connections,
        };
        let seen = load(&cluster, &shape, window).await?;
        seen.print("overload", arguments.connections);
        overloads.push(seen);
        if arguments.crowd {
            let shape = Shape { in_flight_max: at_peak, ..Shape::closed(arguments.connections) };
            let seen = load(&cluster, &shape, window).await?;
            seen.print("crowd", arguments.connections);
            crowds.push(seen);
        }
    }
    let elected = elections().await? - before;
    let peak = Summary::of(&peaks);
    println!();
    peak.print("peak", &peak);
    if !crowds.is_empty() {
        Summary::of(&crowds).print("crowd", &peak);
    }
    let overload = Summary::of(&overloads);
    overload.print("overload", &peak);
    let share = overload.good_per_second / peak.good_per_second;
    println!("good under overload: {:.0} % of the peak, of medians; elections: {elected}", share * 100.0);
    ensure!(elected == 0, "{elected} elections under load");
    ensure!(share >= GOOD_SHARE_MIN, "less than {:.0} % of the peak", GOOD_SHARE_MIN * 100.0);
    Ok(())
}

/// Medians of several windows.
struct Summary {
    good_per_second: f64,
    /// Processor time for a good write, in µs.
    load_micros: f64,
    nodes_micros: f64,
    /// Processor time of the nodes for any request, in µs.
    nodes_micros_sent: f64,
}

impl Summary {
    fn of(windows: &[Seen]) -> Self {
        let median = |of: fn(&Seen) -> f64| {
            let mut all: Vec<f64> = windows.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            let middle = all.len() / 2;
            if all.len().is_multiple_of(2) { (all[middle - 1] + all[middle]) / 2.0 } else { all[middle] }
        };
        Self {
            good_per_second: median(Seen::good_per_second),
            load_micros: median(|seen| seen.micros_per_good(seen.load_used)),
            nodes_micros: median(|seen| seen.micros_per_good(seen.nodes_used)),
            nodes_micros_sent: median(|seen| seen.nodes_used.as_secs_f64() * 1e6 / seen.sent() as f64),
        }
    }

    fn print(&self, name: &str, peak: &Self) {
        println!(
            "{name:<9} median {:>6.0} good/s ({:>3.0} % of the peak); processor time a good write: load {:.1} us, nodes {:.1} us; nodes a request: {:.1} us",
            self.good_per_second,
            self.good_per_second / peak.good_per_second * 100.0,
            self.load_micros,
            self.nodes_micros,
            self.nodes_micros_sent,
        );
    }
}

/// What the clients of one window do.
struct Shape {
    connections: usize,
    /// From one write of a client to its next; `None` sends the next one as soon as the last one is answered.
    interval: Option<Duration>,
    heeds_retry_after: bool,
    /// How many clients may have a request in flight; the others wait for their turn.
    in_flight_max: usize,
}

impl Shape {
    fn closed(connections: usize) -> Self {
        Self { connections, interval: None, heeds_retry_after: true, in_flight_max: connections }
    }
}

/// What the clients of one load share.
struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    heeds_retry_after: bool,
    turns: Semaphore,
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
    const HEADINGS: &str = "load          clients  asked/s   sent/s   good/s  429/s  503/s  504/s  other/s  p50 ms  p99 ms  load CPU %  nodes CPU %  load us/good  nodes us/good";

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    fn good_per_second(&self) -> f64 {
        self.per_second(self.counts[Kind::Good as usize])
    }

    fn sent(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn micros_per_good(&self, used: Duration) -> f64 {
        used.as_secs_f64() * 1e6 / self.counts[Kind::Good as usize] as f64
    }

    fn print(&self, name: &str, clients: usize) {
        let [good, too_many, unavailable, timeout, other] = self.counts.map(|count| self.per_second(count));
        let sent = self.per_second(self.sent());
        let asked = self.asked_per_second.unwrap_or(sent);
        let ms = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let percent = |used: Duration| used.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0;
        println!(
            "{name:<13} {clients:>7}  {asked:>7.0}  {sent:>7.0}  {good:>7.0}  {too_many:>5.0}  {unavailable:>5.0}  {timeout:>5.0}  {other:>7.0}  {:>6.1}  {:>6.1}  {:>10.0}  {:>11.0}  {:>12.1}  {:>13.1}",
            ms(0.5),
            ms(0.99),
            percent(self.load_used),
            percent(self.nodes_used),
            self.micros_per_good(self.load_used),
            self.micros_per_good(self.nodes_used),
        );
    }
}

async fn load(cluster: &Cluster, shape: &Shape, window: Duration) -> Result<Seen> {
    let &Shape { connections, interval, heeds_retry_after, in_flight_max } = shape;
    let shared = Rc::new(Shared {
        measuring: Cell::new(false),
        stop: Cell::new(false),
        heeds_retry_after,
        turns: Semaphore::new(in_flight_max),
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
        let first = self.number * KEYS;
        let request = |key| http1::put(&format!("/v1/kv/overload/{}", key % KEYS_TOGETHER), &value);
        let requests: Vec<Vec<u8>> = (first..first + KEYS).map(request).collect();
        let mut connection = None;
        for request in requests.iter().cycle() {
            tokio::time::sleep_until(due.into()).await;
            if self.shared.stop.get() {
                return;
            }
            // Never closed; handed out in the order of asking.
            let Ok(_turn) = self.shared.turns.acquire().await else { return };
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
            due = (due + self.interval.unwrap_or_default()).max(Instant::now());
            if self.shared.heeds_retry_after || kind == Kind::Other {
                due += stay_away;
            }
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
