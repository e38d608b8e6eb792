//! The clusters: three processes of each system, killed when this program ends, however it ends.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use hearth_cluster::address::free_address;
use hearth_cluster::cluster::{READY_BOUND, node_arguments};
use hearth_cluster::http::Client;
use hearth_cluster::process::log_tail;
use hearth_cluster::wait;

use crate::etcd;
use crate::options::System;

/// Processes of each system.
pub const NODES: usize = 3;
/// How large etcd's data may become before it refuses writes: its default of 2 GiB is reached by a
/// long run, because it keeps every revision. Costs nothing before that.
const ETCD_QUOTA_BYTES: u64 = 8 << 30;

/// A running cluster.
#[derive(Debug)]
pub struct Servers {
    /// Which system it is.
    pub system: System,
    /// What its program says that it is.
    pub version: String,
    nodes: Vec<Server>,
}

/// One process. Dropped, it is killed and reaped.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    log: PathBuf,
    child: Child,
}

/// A member before it is started.
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    data: PathBuf,
}

impl Servers {
    /// Starts Hearth, as `system`, with its default settings and `flags`, and waits until all nodes are ready.
    ///
    /// # Errors
    /// When a process cannot be started or is not ready in time.
    pub async fn start_hearth(
        system: System,
        program: &Path,
        directory: &Path,
        flags: &[String],
    ) -> Result<Self> {
        let members = members(system, directory)?;
        let initial: Vec<String> =
            members.iter().map(|node| format!("{}={}", node.name, node.peer)).collect();
        let initial = initial.join(",");
        let arguments = |node: &Member| {
            let mut arguments = node_arguments(&node.name, &node.data, node.client, node.peer, &initial);
            arguments.extend(flags.iter().cloned());
            arguments
        };
        Self::start(system, program, &members, arguments).await
    }

    /// Starts etcd with its default settings, but for [`ETCD_QUOTA_BYTES`], and waits until all
    /// members know their leader.
    ///
    /// # Errors
    /// When a process cannot be started or is not ready in time.
    pub async fn start_etcd(program: &Path, directory: &Path) -> Result<Self> {
        let members = members(System::Etcd, directory)?;
        let initial: Vec<String> =
            members.iter().map(|node| format!("{}=http://{}", node.name, node.peer)).collect();
        let initial = initial.join(",");
        let arguments = |node: &Member| etcd_arguments(node, &initial);
        let started = Self::start(System::Etcd, program, &members, arguments).await;
        started.context("start etcd (cluster/versus-etcd installs it; --skip-etcd does without)")
    }

    async fn start(
        system: System,
        program: &Path,
        members: &[Member],
        arguments: impl Fn(&Member) -> Vec<String>,
    ) -> Result<Self> {
        let version = version(program)?;
        let mut servers = Self { system, version, nodes: Vec::with_capacity(members.len()) };
        for member in members {
            let log = member.data.with_extension("log");
            let child = spawn(program, &arguments(member), &log);
            let child = child.with_context(|| format!("start {system} {}", member.name))?;
            servers.nodes.push(Server { address: member.client, log, child });
        }
        let what = format!("{system} ready");
        let ready = wait::until(READY_BOUND, &what, async || match servers.ended() {
            Some(ended) => Ok(Err(anyhow!(ended))),
            None => servers.ready().await.map(Ok),
        });
        let ready = ready.await.flatten();
        ready.with_context(|| servers.log_tails())?;
        Ok(servers)
    }

    /// Process ids.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().map(|node| node.child.id())
    }

    /// Where the nodes serve clients, the leader first: so connection i goes to the same role in
    /// both systems.
    ///
    /// # Errors
    /// When there is no leader in time.
    pub async fn addresses_leader_first(&self) -> Result<[SocketAddr; NODES]> {
        let what = format!("{} has a leader", self.system);
        let leader = wait::until(READY_BOUND, &what, async || {
            for (i, node) in self.nodes.iter().enumerate() {
                if self.leads(node.address).await? {
                    return Ok(i);
                }
            }
            Err("no node says that it leads".to_owned())
        });
        let leader = leader.await?;
        Ok(std::array::from_fn(|i| self.nodes[(leader + i) % NODES].address))
    }

    /// The end of each node's log, for a failure's message.
    pub fn log_tails(&self) -> String {
        let tails =
            self.nodes.iter().map(|node| format!("--- {}\n{}", node.log.display(), log_tail(&node.log)));
        format!("{}\n{}", self.version, tails.collect::<String>())
    }

    async fn leads(&self, address: SocketAddr) -> Result<bool, String> {
        let leads = match self.system {
            System::Hearth | System::Before => hearth_answers(address, "leader").await,
            System::Etcd => etcd::status(address).await.map(|status| status.is_leader),
        };
        leads.map_err(|error| format!("{address}: {error:#}"))
    }

    /// How a process ended that should run.
    fn ended(&mut self) -> Option<String> {
        self.nodes.iter_mut().find_map(|node| {
            let status = node.child.try_wait().ok().flatten()?;
            Some(format!("process {} ended by itself with {status}", node.child.id()))
        })
    }

    async fn ready(&self) -> Result<(), String> {
        for Server { address, .. } in &self.nodes {
            let ready = match self.system {
                System::Hearth | System::Before => hearth_answers(*address, "readyz").await,
                System::Etcd => etcd::status(*address).await.map(|status| status.has_leader),
            };
            match ready {
                Ok(true) => {}
                Ok(false) => return Err(format!("{address} is not ready")),
                Err(error) => return Err(format!("{address}: {error:#}")),
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("process {} may be left: {error}", self.child.id());
        }
    }
}

fn members(system: System, directory: &Path) -> Result<Vec<Member>> {
    let member = |number: usize| {
        let name = format!("n{number}");
        let data = directory.join(format!("{system}-{name}"));
        Ok(Member { name, client: free_address()?, peer: free_address()?, data })
    };
    (1..=NODES).map(member).collect()
}

fn etcd_arguments(member: &Member, initial: &str) -> Vec<String> {
    let (client, peer) = (format!("http://{}", member.client), format!("http://{}", member.peer));
    let pairs = [
        ("--name", member.name.clone()),
        ("--data-dir", member.data.display().to_string()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", initial.to_owned()),
        ("--initial-cluster-state", "new".to_owned()),
        ("--quota-backend-bytes", ETCD_QUOTA_BYTES.to_string()),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

async fn hearth_answers(address: SocketAddr, path: &str) -> Result<bool> {
    Ok(Client::new(address)?.get(path).await?.status == 200)
}

/// The first line that `--version` prints.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "{} --version: {}", program.display(), output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Starts a program that the kernel kills when the calling thread ends, which is why it has to be
/// called from the program's main thread. `setpriv` (util-linux) sets that up and then becomes the
/// program, with the same process id.
fn spawn(program: &Path, arguments: &[String], log: &Path) -> Result<Child> {
    let out = OpenOptions::new().create(true).append(true).open(log);
    let out = out.with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
    command.stdin(Stdio::null()).stdout(out.try_clone().context("share the log file")?).stderr(out);
    for (name, _) in std::env::vars_os() {
        // Settings for other processes of these programs.
        if name.as_encoded_bytes().starts_with(b"HEARTH_") || name.as_encoded_bytes().starts_with(b"ETCD_") {
            command.env_remove(name);
        }
    }
    command.spawn().context("run setpriv")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_one_line() {
        assert!(version(Path::new("rustc")).unwrap().starts_with("rustc "));
        assert!(version(Path::new("/nonexistent")).is_err());
    }
}
