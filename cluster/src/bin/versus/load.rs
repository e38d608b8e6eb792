//! The closed loop: N connections, each sending its next request when the last one was answered.
//!
//! The window is cut by time alone. Throughput counts the answers that arrive within it; latency is
//! of those and of the requests still in flight at its end, which are waited for, so that the worst
//! ones are not the ones left out. All of it runs on one thread.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use hearth_cluster::load::Operation;
use hearth_cluster::load::request::Failure;
use hearth_cluster::seed;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::connection::{self, Connection, Target};
use crate::cpu::Used;
use crate::servers::Servers;

/// Keys there are: numbers below this.
pub const KEYS: u32 = 100_000;
/// Pause after a failure, so that a server that is down is not asked in a tight loop.
pub const FAILURE_PAUSE: Duration = Duration::from_millis(10);
/// How long requests in flight at the end of a window are waited for: longer than either server
/// lets a request take.
const DRAIN_BOUND: Duration = Duration::from_secs(15);
/// Latencies recorded, in ns: the smallest that is told apart from 0, and the largest.
const LATENCY_NS: (u64, u64) = (100, 60_000_000_000);
/// Significant digits of a latency.
const LATENCY_DIGITS: u8 = 3;
/// How often to look whether the servers have come to rest before a window.
const REST_INTERVAL: Duration = Duration::from_millis(200);
/// Processors that all servers together may use at rest: heartbeats, not a checkpoint.
const REST_CORES: f64 = 0.15;
/// How long to wait for that.
const REST_BOUND: Duration = Duration::from_secs(10);

/// One cell's load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What is asked for.
    pub operation: Operation,
    /// How many ask.
    pub connections: u32,
    /// How long before it is measured.
    pub warmup: Duration,
    /// How long it is measured.
    pub window: Duration,
}

/// What was seen in one window.
#[derive(Debug)]
pub struct Measured {
    /// Requests answered as they should be.
    pub operations: u64,
    /// Requests that were not.
    pub errors: u64,
    /// The first of those.
    pub first_error: Option<String>,
    /// The window's real length.
    pub elapsed: Duration,
    /// In ns.
    pub latency: Histogram<u64>,
    /// Processor time in the window.
    pub used: Used,
    /// Whether the leader was another one at the end.
    pub leader_changed: bool,
}

/// Loads `servers` for one window while all systems are alive.
///
/// # Errors
/// When the connections cannot be opened, or a process is gone. Requests that fail are counted.
pub async fn run(load: &Load, servers: &Servers, all: &[Servers]) -> Result<Measured> {
    rest(servers, all).await?;
    let targets = connection::targets(servers, load.operation, load.connections).await?;
    let leader = targets.first().map(|target| target.address);
    let shared = Arc::new(Shared::new()?);
    let mut opened = Vec::with_capacity(targets.len());
    for target in targets {
        opened.push((Connection::open(&target).await?, target));
    }
    let mut loops = JoinSet::new();
    for ((connection, target), stream) in opened.into_iter().zip(0..) {
        loops.spawn(drive(connection, target, seed::random(stream), shared.clone()));
    }

    tokio::time::sleep(load.warmup).await;
    let (began, before) = (Instant::now(), Used::now(servers, all)?);
    shared.enter(Phase::Measured);
    tokio::time::sleep(load.window).await;
    shared.enter(Phase::Ended);
    let (elapsed, after) = (began.elapsed(), Used::now(servers, all)?);

    // What does not end is dropped, and counts as an error.
    let drained = async { while loops.join_next().await.is_some() {} };
    let lost = if tokio::time::timeout(DRAIN_BOUND, drained).await.is_err() { loops.len() } else { 0 };
    drop(loops);
    let leader_now = servers.addresses_leader_first().await?.first().copied();
    let record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Measured {
        operations: record.operations,
        errors: record.errors + lost as u64,
        first_error: record.first_error.clone().or((lost > 0).then(|| "no answer".to_owned())),
        elapsed,
        latency: record.latency.clone(),
        used: after - before,
        leader_changed: leader_now != leader,
    })
}

/// Waits until no server has anything left to do from the window before, but not for ever.
async fn rest(servers: &Servers, all: &[Servers]) -> Result<()> {
    let deadline = Instant::now() + REST_BOUND;
    loop {
        let (began, before) = (Instant::now(), Used::now(servers, all)?);
        tokio::time::sleep(REST_INTERVAL).await;
        let used = Used::now(servers, all)? - before;
        let cores = (used.servers + used.others).as_secs_f64() / began.elapsed().as_secs_f64();
        if cores <= REST_CORES {
            return Ok(());
        }
        if Instant::now() >= deadline {
            eprintln!("servers still use {cores:.2} processors without load; measuring all the same");
            return Ok(());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    WarmUp = 0,
    Measured = 1,
    Ended = 2,
}

/// What the loops of one window share.
#[derive(Debug)]
struct Shared {
    /// A [`Phase`].
    phase: AtomicU8,
    /// Never contended, there is one thread; never held across an await.
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    operations: u64,
    errors: u64,
    first_error: Option<String>,
    latency: Histogram<u64>,
}

impl Shared {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, LATENCY_DIGITS);
        let latency = latency.context("make a histogram")?;
        let record = Record { operations: 0, errors: 0, first_error: None, latency };
        Ok(Self { phase: AtomicU8::new(Phase::WarmUp as u8), record: Mutex::new(record) })
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn note(&self, answer: &Result<(), Failure>, took: Duration) {
        if self.is(Phase::WarmUp) {
            return;
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(()) => {
                record.operations += u64::from(self.is(Phase::Measured));
                record.latency.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            }
            Err(failure) => {
                record.errors += 1;
                record.first_error.get_or_insert_with(|| failure.text().to_owned());
            }
        }
    }
}

/// One connection's loop, until the window has ended.
async fn drive(mut connection: Connection, target: Target, mut random: StdRng, shared: Arc<Shared>) {
    while !shared.is(Phase::Ended) {
        let key = draw_key(&mut random);
        let began = Instant::now();
        let answer = connection.ask(key).await;
        shared.note(&answer, began.elapsed());
        let Err(failure) = answer else { continue };
        tokio::time::sleep(FAILURE_PAUSE).await;
        if matches!(failure, Failure::Broken(_)) {
            match Connection::open(&target).await {
                Ok(opened) => connection = opened,
                // The next request fails on the broken connection, and is counted.
                Err(error) => shared.note(&Err(Failure::Broken(format!("{error:#}"))), began.elapsed()),
            }
        }
    }
}

/// A key's number, uniform.
fn draw_key(random: &mut StdRng) -> u32 {
    random.random_range(0..KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_drawn_from_all_and_no_others() {
        let mut random = seed::random(1);
        let drawn: Vec<u32> = (0..200_000).map(|_| draw_key(&mut random)).collect();
        assert!(drawn.iter().all(|key| *key < KEYS));
        for tenth in 0..10 {
            let count = drawn.iter().filter(|key| **key / (KEYS / 10) == tenth).count();
            // Expected 20,000, standard deviation 134.
            assert!((19_000..21_000).contains(&count), "{count} keys in tenth {tenth}");
        }
    }

    #[test]
    fn only_the_window_counts() {
        let shared = Shared::new().unwrap();
        let refused = || Err(Failure::Refused("no".to_owned()));
        let millisecond = Duration::from_millis(1);
        for (phase, operations, latencies, errors) in
            [(Phase::WarmUp, 0, 0, 0), (Phase::Measured, 1, 1, 1), (Phase::Ended, 1, 2, 2)]
        {
            shared.enter(phase);
            shared.note(&Ok(()), millisecond);
            shared.note(&refused(), millisecond);
            let record = shared.record.lock().unwrap();
            assert_eq!(
                (record.operations, record.latency.len(), record.errors),
                (operations, latencies, errors)
            );
        }
    }
}
