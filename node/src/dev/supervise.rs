//! The cluster as a set of child processes: start all, start again what dies, stop all.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::child::{Running, Spawner, Stop};
use super::output::{Output, Source};
use super::welcome::Welcome;
use super::{DevOptions, node_args, node_name, ready};

/// The exit code of a node whose command line or configuration is wrong: it would fail again.
const EXIT_USAGE: i32 = 2;

/// What is started as a node.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The executable.
    pub(super) path: PathBuf,
    /// Arguments that go before those of the node.
    pub(super) leading_args: Vec<String>,
}

/// How patient the supervisor is.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// The delay before a node is started again; it doubles each time.
    pub(super) restart_delay_min: Duration,
    /// The longest such delay.
    pub(super) restart_delay_max: Duration,
    /// With so many failures of a node within `failures_window`, everything stops.
    pub(super) failures_max: usize,
    /// How long a failure counts; a node that lives longer starts anew with the shortest delay.
    pub(super) failures_window: Duration,
    /// How long a node may take to end after SIGTERM.
    pub(super) stop_timeout: Duration,
    /// How long all nodes may take to become ready.
    pub(super) ready_timeout: Duration,
    /// The pause between two questions whether a node is ready.
    pub(super) ready_poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            restart_delay_min: Duration::from_millis(200),
            restart_delay_max: Duration::from_secs(5),
            failures_max: 5,
            failures_window: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(30),
            ready_poll: Duration::from_millis(20),
        }
    }
}

/// Why the cluster does not run any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Somebody asked for it.
    Asked,
    /// It cannot go on, for this reason.
    Failed(String),
}

/// The cluster before it is started.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    limits: Limits,
    /// The supervisor's own lines.
    own: Source,
    began: Instant,
}

/// One node: how it is started, and as what it runs at the moment.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) http: SocketAddr,
    program: Program,
    args: Vec<String>,
    lines: Source,
    own: Source,
    /// The process id, 0 while there is no process.
    pub(super) pid: Arc<AtomicU32>,
}

impl Cluster {
    /// The cluster that `options` describe; its nodes run `program`.
    pub(super) fn new(options: &DevOptions, program: Program, limits: Limits, output: &Output) -> Self {
        let own = output.source("dev", None);
        let node = |index| Node {
            name: node_name(index),
            http: options.http_address(index),
            program: program.clone(),
            args: node_args(options, index),
            lines: output.source(&node_name(index), Some(index)),
            own: own.clone(),
            pid: Arc::default(),
        };
        let nodes = (0..options.nodes).map(node).collect();
        Self { nodes, limits, own, began: Instant::now() }
    }

    #[cfg(test)]
    pub(super) fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Runs it until `stop_requests` has one, or until it cannot go on. Every child has ended then.
    pub(super) async fn run(
        self,
        welcome: &Welcome,
        mut stop_requests: mpsc::Receiver<&'static str>,
    ) -> Ended {
        let (stop, stopped) = watch::channel(Stop::No);
        let spawner = Spawner::start();
        let mut nodes = JoinSet::new();
        for node in self.nodes.iter().cloned() {
            nodes.spawn(node.keep_running(spawner.clone(), self.limits.clone(), stopped.clone()));
        }
        drop(spawner);

        let ended = self.watch_over(&mut nodes, welcome, &mut stop_requests).await;
        // There is a receiver: `stopped`.
        let _ = stop.send(Stop::Ordered);
        loop {
            tokio::select! {
                ended = nodes.join_next() => if ended.is_none() { break },
                Some(_) = stop_requests.recv() => {
                    let _ = stop.send(Stop::Now);
                }
            }
        }
        ended
    }

    /// Waits for a reason to stop; says when all nodes are ready.
    async fn watch_over(
        &self,
        nodes: &mut JoinSet<Result<(), String>>,
        welcome: &Welcome,
        stop_requests: &mut mpsc::Receiver<&'static str>,
    ) -> Ended {
        let addresses: Vec<_> = self.nodes.iter().map(|node| (node.name.clone(), node.http)).collect();
        let mut readiness = pin!(ready::wait(&addresses, self.limits.ready_poll, self.limits.ready_timeout));
        let mut starting = true;
        loop {
            tokio::select! {
                request = stop_requests.recv() => {
                    self.own.say(&format!("{}: stopping all nodes", request.unwrap_or("no more requests")));
                    return Ended::Asked;
                }
                Some(node) = nodes.join_next() => {
                    let reason = match node {
                        Ok(Ok(())) => continue,
                        Ok(Err(reason)) => reason,
                        Err(error) => format!("a supervising task failed: {error}"),
                    };
                    self.own.say("stopping all nodes");
                    return Ended::Failed(reason);
                }
                result = &mut readiness, if starting => {
                    starting = false;
                    if let Err(reason) = result {
                        self.own.say("stopping all nodes");
                        let bound = self.limits.ready_timeout;
                        return Ended::Failed(format!("not ready after {bound:?}: {reason}"));
                    }
                    self.own.say(&welcome.text(self.began.elapsed(), &self.nodes));
                }
            }
        }
    }
}

impl Node {
    /// Keeps the node running until `stop` says otherwise. An error when it keeps failing.
    async fn keep_running(
        self,
        spawner: Spawner,
        limits: Limits,
        mut stop: watch::Receiver<Stop>,
    ) -> Result<(), String> {
        let name = &self.name;
        let mut failures = Failures::new(limits.clone());
        loop {
            let mut running = Running::start(&spawner, self.command(), &self.lines)
                .await
                .map_err(|error| format!("{name} cannot be started: {error}"))?;
            self.pid.store(running.pid().unwrap_or(0), Ordering::Relaxed);
            let began = Instant::now();
            let ended = tokio::select! {
                ended = running.wait() => ended,
                () = Stop::Ordered.wait(&mut stop) => {
                    if !running.stop(limits.stop_timeout, &mut stop).await {
                        self.own.say(&format!("{name} did not stop and was killed"));
                    }
                    return Ok(());
                }
            };
            self.pid.store(0, Ordering::Relaxed);
            let ended = ended.map_err(|error| format!("{name} cannot be waited for: {error}"))?;
            let delay = failures.add(began, ended).map_err(|reason| format!("{name} {reason}"))?;
            self.own.say(&format!("{name} ended ({ended}) and is started again in {delay:?}"));
            tokio::select! {
                () = sleep(delay) => {}
                () = Stop::Ordered.wait(&mut stop) => return Ok(()),
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.leading_args).args(&self.args);
        command
    }
}

/// How often a node failed lately.
struct Failures {
    /// When, within the window, oldest first.
    recent: VecDeque<Instant>,
    /// The delay before the next start.
    delay: Duration,
    limits: Limits,
}

impl Failures {
    fn new(limits: Limits) -> Self {
        Self { recent: VecDeque::new(), delay: limits.restart_delay_min, limits }
    }

    /// Counts the end of a node that was started at `began`: the delay before it is started again, or why
    /// it is not.
    fn add(&mut self, began: Instant, ended: ExitStatus) -> Result<Duration, String> {
        if ended.code() == Some(EXIT_USAGE) {
            return Err(format!("ended ({ended}): its lines above say what is wrong with its configuration"));
        }
        let window = self.limits.failures_window;
        self.recent.retain(|failure| failure.elapsed() < window);
        self.recent.push_back(Instant::now());
        if self.recent.len() >= self.limits.failures_max {
            return Err(format!("ended {} times within {window:?}, now with {ended}", self.recent.len()));
        }
        if began.elapsed() >= window {
            self.delay = self.limits.restart_delay_min;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(self.limits.restart_delay_max);
        Ok(delay)
    }
}
