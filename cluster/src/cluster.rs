//! A cluster of real processes with their data in one temporary directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use hearth_cli::endpoint::Endpoint;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::volume::Volume;

use crate::http::Client;
use crate::process::{Process, log_tail};
use crate::{address, binary, seed, wait};

/// How long nodes may take until all are ready, also on a machine busy with a build.
pub const READY_BOUND: Duration = Duration::from_secs(60);
/// How long a graceful stop may take.
pub const STOP_BOUND: Duration = Duration::from_secs(30);

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes, named n1, n2, ….
    pub nodes: usize,
    /// Flags for every node, beside those for names, addresses and directories.
    pub flags: Vec<String>,
    /// Bytes of a file system of its own for each node's data; needs root. `None`: the temporary
    /// directory's.
    pub volume_bytes: Option<u64>,
    /// The same on a disk of its own, which can be frozen: see [`Volume::freeze`].
    pub disk_bytes: Option<u64>,
}

impl Default for Options {
    /// Three nodes with the default settings.
    fn default() -> Self {
        Self { nodes: 3, flags: Vec::new(), volume_bytes: None, disk_bytes: None }
    }
}

/// One member: where it lives, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// Its name: n1, n2, ….
    pub name: String,
    /// Where it serves HTTP; the same across restarts.
    pub http: SocketAddr,
    /// Where it listens to its peers; the same across restarts.
    pub peer: SocketAddr,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its stdout and stderr, appended to across restarts.
    pub log: PathBuf,
    /// Talks to it.
    pub client: Client,
    /// All arguments that it is started with.
    pub arguments: Vec<String>,
    // Dropped before the volume that it writes to.
    process: Option<Process>,
    /// The file system that its data directory is on, when it has one of its own.
    pub volume: Option<Volume>,
}

impl Node {
    /// The running process.
    ///
    /// # Errors
    /// When the node was killed or terminated and not restarted.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} is not running", self.name))
    }

    /// Whether it was started and not killed or terminated since.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} is already running", self.name);
        let process = Process::start(&self.arguments, &self.log);
        self.process = Some(process.with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().with_context(|| format!("kill {}", self.name)),
            None => Ok(()),
        }
    }

    /// How its process ended by itself, if it did.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.exit_status().ok().flatten())
    }

    /// Whether `/readyz` answers 200; else what it answers.
    async fn ready(&self) -> Result<(), String> {
        match self.client.get("readyz").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(format!("{}: {} {}", self.name, reply.status, reply.text())),
            Err(error) => Err(format!("{}: {error:#}", self.name)),
        }
    }
}

/// Real `hearthd` processes that form one cluster.
///
/// Invariants: every process is a child of this one and dies with it; node `i` keeps its name,
/// addresses, directory and flags for the cluster's whole life; no process runs when this is gone.
#[derive(Debug)]
pub struct Cluster {
    // Dropped before the directory that the processes write to.
    nodes: Vec<Node>,
    directory: TempDir,
}

impl Cluster {
    /// Starts the nodes and waits until all of them are ready. Each is told the initial members in
    /// another order: the order must not matter.
    ///
    /// # Errors
    /// When the server cannot be built or started, or when a node is not ready within
    /// [`READY_BOUND`]; the end of each node's log is in the message.
    pub async fn start(options: Options) -> Result<Self> {
        binary::hearthd()?;
        seed::seed();
        let directory =
            tempfile::Builder::new().prefix("hearth-cluster-").tempdir().context("temporary directory")?;
        let mut members = Vec::with_capacity(options.nodes);
        for number in 1..=options.nodes {
            members.push((format!("n{number}"), address::free_address()?, address::free_address()?));
        }
        let mut nodes = Vec::with_capacity(options.nodes);
        for (index, (name, http, peer)) in members.iter().enumerate() {
            let room = directory.path().join(format!("{name}-volume"));
            let volume = match (options.volume_bytes, options.disk_bytes) {
                (Some(bytes), _) => Some(Volume::mount(&room, bytes)?),
                (None, Some(bytes)) => Some(Volume::mount_disk(&room, bytes)?),
                (None, None) => None,
            };
            let data_dir = volume.as_ref().map_or(directory.path(), Volume::path).join(name);
            let order = members.iter().cycle().skip(index).take(members.len());
            let initial: Vec<String> = order.map(|(name, _, peer)| format!("{name}={peer}")).collect();
            let mut arguments = node_arguments(name, &data_dir, *http, *peer, &initial.join(","));
            arguments.extend(options.flags.iter().cloned());
            let log = directory.path().join(format!("{name}.log"));
            let client = Client::new(*http)?;
            let (name, http, peer) = (name.clone(), *http, *peer);
            nodes.push(Node { name, http, peer, data_dir, log, client, arguments, process: None, volume });
        }
        let mut cluster = Self { nodes, directory };
        cluster.restart_all().await?;
        Ok(cluster)
    }

    /// Node `i`, counted from 0.
    #[must_use]
    pub fn node(&self, i: usize) -> &Node {
        &self.nodes[i]
    }

    /// All nodes, running or not.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where the nodes answer HTTP, running or not, for a client of the whole cluster.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().map(|node| Endpoint::from(node.http)).collect()
    }

    /// Where data and logs lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until a running node says that it leads, and gives its index.
    ///
    /// # Errors
    /// When none does within [`READY_BOUND`].
    pub async fn leader(&mut self) -> Result<usize> {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|i| self.nodes[*i].is_started()).collect();
        self.leader_among(&running).await
    }

    /// Waits until one of `candidates` says that it leads, and gives its index.
    ///
    /// # Errors
    /// When none does within [`READY_BOUND`].
    pub async fn leader_among(&mut self, candidates: &[usize]) -> Result<usize> {
        let nodes = &self.nodes;
        let found = wait::until(READY_BOUND, "a leader", async || {
            for i in candidates {
                if nodes[*i].client.get("leader").await.is_ok_and(|reply| reply.status == 200) {
                    return Ok(*i);
                }
            }
            Err(format!("none of the nodes {candidates:?}, counted from 0, says that it leads"))
        });
        let found = found.await;
        self.explain(found)
    }

    /// Kills node `i` with SIGKILL and reaps it.
    ///
    /// # Errors
    /// When it cannot be reaped.
    pub fn kill(&mut self, i: usize) -> Result<()> {
        self.nodes[i].kill()
    }

    /// Kills all nodes with SIGKILL: first the signals, then the reaping, so that none sees the
    /// others gone for longer than that takes.
    ///
    /// # Errors
    /// When one cannot be signalled or reaped.
    pub fn kill_all(&mut self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            node.process()?.signal(Signal::KILL)?;
        }
        self.nodes.iter_mut().try_for_each(Node::kill)
    }

    /// Asks node `i` to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it was not running or has not stopped within [`STOP_BOUND`].
    pub async fn terminate(&mut self, i: usize) -> Result<ExitStatus> {
        self.nodes[i].process()?.signal(Signal::TERM)?;
        self.wait_stopped(i).await
    }

    /// Waits until node `i` has ended by itself.
    ///
    /// # Errors
    /// When it was not running or has not stopped within [`STOP_BOUND`].
    pub async fn wait_stopped(&mut self, i: usize) -> Result<ExitStatus> {
        let process = self.nodes[i].process.take();
        let mut process = process.with_context(|| format!("{} is not running", self.nodes[i].name))?;
        let stopped = process.wait_exit(STOP_BOUND).await;
        self.explain(stopped)
    }

    /// Stops node `i` from running (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self, i: usize) -> Result<()> {
        self.nodes[i].process()?.pause()
    }

    /// Lets a paused node go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self, i: usize) -> Result<()> {
        self.nodes[i].process()?.signal(Signal::CONT)
    }

    /// Starts node `i` again, with its data, and waits for nothing.
    ///
    /// # Errors
    /// When it is already running.
    pub fn spawn(&mut self, i: usize) -> Result<()> {
        self.nodes[i].start()
    }

    /// Starts node `i` again, with its data, and waits until it is ready.
    ///
    /// # Errors
    /// When it is already running or not ready within [`READY_BOUND`].
    pub async fn restart(&mut self, i: usize) -> Result<()> {
        self.nodes[i].start()?;
        self.wait_ready().await
    }

    /// Starts all nodes that do not run, and waits until all are ready.
    ///
    /// # Errors
    /// When one cannot be started or is not ready within [`READY_BOUND`].
    pub async fn restart_all(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| !node.is_started()) {
            node.start()?;
        }
        self.wait_ready().await
    }

    /// Waits until every node that was started is ready.
    ///
    /// # Errors
    /// When one is not within [`READY_BOUND`], or, at once, when one has ended.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let nodes = &mut self.nodes;
        let ready = wait::until(READY_BOUND, "all nodes ready", async || {
            for node in nodes.iter_mut().filter(|node| node.is_started()) {
                if let Some(status) = node.ended() {
                    return Ok(Err(anyhow!("{} ended by itself with {status}", node.name)));
                }
                node.ready().await?;
            }
            Ok(Ok(()))
        });
        let ready = ready.await.flatten();
        self.explain(ready)
    }

    /// Waits until every running node has applied the same last log index, and gives it. Only
    /// meaningful while nothing is written.
    ///
    /// # Errors
    /// When they differ still after [`READY_BOUND`].
    pub async fn wait_converged(&mut self) -> Result<u64> {
        let nodes = &self.nodes;
        let converged = wait::until(READY_BOUND, "all nodes at the same applied index", async || {
            let mut indexes = Vec::new();
            for node in nodes.iter().filter(|node| node.is_started()) {
                let index = node.client.metric("hearth_raft_applied_index").await;
                indexes.push(index.map_err(|error| format!("{}: {error:#}", node.name))?);
            }
            match indexes.as_slice() {
                [first, rest @ ..] if rest.iter().all(|index| index == first) => Ok(*first),
                _ => Err(format!("applied {indexes:?}")),
            }
        });
        let converged = converged.await;
        self.explain(converged)
    }

    /// Adds the end of each node's log to a failure, and keeps the directory.
    fn explain<T>(&mut self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            self.directory.disable_cleanup(true);
            let tails = self.nodes.iter().map(|node| format!("--- {}\n{}", node.name, log_tail(&node.log)));
            format!("cluster in {}\n{}", self.directory.path().display(), tails.collect::<String>())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("data and logs of the cluster: {}", self.directory.path().display());
        }
    }
}

/// The arguments of a node that forms or rejoins the cluster `initial` (`n1=host:port,…`).
#[must_use]
pub fn node_arguments(
    name: &str,
    data_dir: &Path,
    http: SocketAddr,
    peer: SocketAddr,
    initial: &str,
) -> Vec<String> {
    let pairs = [
        ("--name", name.to_owned()),
        ("--data-dir", data_dir.display().to_string()),
        ("--http-listen", http.to_string()),
        ("--peer-listen", peer.to_string()),
        ("--initial-cluster", initial.to_owned()),
        ("--log-format", "text".to_owned()),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}
