//! Closed loops.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use hearth_cluster::load::http1::Connection;
use tokio::task::{JoinSet, LocalSet};

/// The longest time that is told apart from a longer one, in µs.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

/// What was seen.
pub struct Seen {
    /// Requests answered with 200 or 201 in the window.
    pub answers: u64,
    /// The window.
    pub elapsed: Duration,
    /// In µs, of those requests.
    pub latency: Histogram<u64>,
}

impl Seen {
    /// Adds another window.
    ///
    /// # Errors
    /// Never: the histograms have the same bounds.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.answers += other.answers;
        self.elapsed += other.elapsed;
        self.latency.add(&other.latency).context("add up histograms")
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latencies, in ms.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// When a load ends.
#[derive(Clone, Copy)]
pub enum Until {
    /// After so long, half a second of warming up not counted.
    Window(Duration),
    /// After so many answers, all of them counted.
    Answers(u64),
}

/// Loads with one connection for each of `requests`; every answer must be 200 or 201.
///
/// # Errors
/// On any other answer, or none.
pub async fn run(requests: Vec<(SocketAddr, Vec<u8>)>, until: Until) -> Result<Seen> {
    let mut connections = Vec::with_capacity(requests.len());
    for (address, request) in requests {
        connections.push((Connection::open(address).await?, request));
    }
    let latency = Histogram::<u64>::new_with_bounds(1, LATENCY_MICROS_MAX, 3).context("a histogram")?;
    let latency = Rc::new(RefCell::new(latency));
    let (left, counts) = (Rc::new(Cell::new(u64::MAX)), Rc::new(Cell::new(true)));
    if let Until::Answers(answers) = until {
        left.set(answers);
    }
    let local = LocalSet::new();
    let mut loops = JoinSet::new();
    for (mut connection, request) in connections {
        let (latency, left, counts) = (latency.clone(), left.clone(), counts.clone());
        let drive = async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let began = Instant::now();
                let status = connection.ask(&request).await?.status;
                ensure!(matches!(status, 200 | 201), "status {status}");
                if counts.get() {
                    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    latency.borrow_mut().saturating_record(micros);
                }
            }
            Ok(())
        };
        loops.spawn_local_on(drive, &local);
    }
    let mut began = Instant::now();
    let answers = local
        .run_until(async {
            let Until::Window(window) = until else {
                finish(&mut loops).await?;
                return Ok(latency.borrow().len());
            };
            counts.set(false);
            tokio::time::sleep(Duration::from_millis(500)).await;
            counts.set(true);
            began = Instant::now();
            tokio::time::sleep(window).await;
            let answers = latency.borrow().len();
            left.set(0);
            Ok::<u64, anyhow::Error>(answers)
        })
        .await?;
    let elapsed = began.elapsed();
    local.run_until(finish(&mut loops)).await?;
    Ok(Seen { answers, elapsed, latency: latency.borrow().clone() })
}

async fn finish(loops: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = loops.join_next().await {
        ended.context("a loop")??;
    }
    Ok(())
}

/// A load from a nice thread of its own, until it is stopped.
pub struct Background {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(requests: Vec<(SocketAddr, Vec<u8>)>) -> Result<Self> {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let drive = {
            let (stop, answers) = (stop.clone(), answers.clone());
            move || {
                be_elsewhere()?;
                runtime.block_on(drive_all(requests, stop, answers))
            }
        };
        Ok(Self { stop, answers, thread: thread::Builder::new().name("load".to_owned()).spawn(drive)? })
    }

    /// Answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a request was answered by other than 200 or 429, or not at all.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

/// Has this thread, which stands for other machines, take no more of the processors than is left over: neither
/// time, nor their places in the eyes of the scheduler.
fn be_elsewhere() -> Result<()> {
    let no_priority = libc::sched_param { sched_priority: 0 };
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    // SAFETY: 0 is this thread, and the kernel only reads the parameter.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const no_priority) };
    ensure!(result == 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
    Ok(())
}

async fn drive_all(
    requests: Vec<(SocketAddr, Vec<u8>)>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
) -> Result<()> {
    let mut loops = JoinSet::new();
    for (address, request) in requests {
        let (stop, answers) = (stop.clone(), answers.clone());
        loops.spawn(async move {
            let mut connection = Connection::open(address).await?;
            while !stop.load(Ordering::Relaxed) {
                match connection.ask(&request).await?.status {
                    200 => _ = answers.fetch_add(1, Ordering::Relaxed),
                    // Refused, as it should when there is too much.
                    429 => tokio::time::sleep(Duration::from_millis(10)).await,
                    status => anyhow::bail!("status {status}"),
                }
            }
            Ok(())
        });
    }
    finish(&mut loops).await
}
