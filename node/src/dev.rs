//! `hearthd dev`: a cluster of several nodes on this machine, each a process of its own.
//!
//! One process, the supervisor, starts this same program once per node, merges what the nodes print, waits
//! until all are ready, and starts a node again that dies. It never takes part in the cluster: a node can
//! be killed like any other process, and the others do not notice the supervisor.
//!
//! - Nothing is started unless all ports are free and the folder fits: `ports`, `folder`.
//! - No node outlives the supervisor, however that ends: `child`.
//! - A line of output is printed whole or not at all: `output`.
//!
//! Known shortcomings: Linux only (parent-death signals). A folder belongs to one number of nodes and one
//! range of peer ports, because the members' addresses are part of the cluster's data.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{self, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use output::Output;
use supervise::{Cluster, Ended, Limits, Program};

mod child;
mod folder;
mod output;
mod ports;
mod ready;
mod supervise;
mod welcome;

/// The shape of the cluster that `hearthd dev` runs.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct DevOptions {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// HTTP port of the first node; the others take the ports after it
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub base_port: u16,
    /// Peer port of the first node; the others take the ports after it
    #[arg(long, default_value_t = 7080, value_name = "PORT")]
    pub peer_base_port: u16,
    /// Folder for the data of all nodes
    #[arg(long, default_value = "./hearth-data/dev", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Runs the cluster until Ctrl-C, SIGTERM or SIGHUP, and stops it: success. A second signal kills what
/// has not stopped yet.
///
/// An error, with nothing left running, when a port is in use, the folder does not fit, not all nodes are
/// ready within 30 s, or a node keeps failing: exits with code 2, or five times within 10 s. Its text is
/// one line for the user; nothing else prints it. Must be called within a tokio runtime.
pub async fn run(options: DevOptions) -> anyhow::Result<ExitCode> {
    let options = options.validated()?;
    let executable = std::env::current_exe().context("cannot find this program's own file")?;
    ports::check_free(&options)?;
    folder::claim(&options)?;
    let stop_requests = stop_signals().context("cannot listen for signals")?;
    let output = Output::to_stdout();

    let welcome = welcome::Welcome::new(&options, &executable);
    let program = Program { path: executable, leading_args: Vec::new() };
    let cluster = Cluster::new(&options, program, Limits::default(), &output);
    let ended = cluster.run(&welcome, stop_requests).await;
    output.finish().await;
    match ended {
        Ended::Asked => Ok(ExitCode::SUCCESS),
        Ended::Failed(reason) => Err(anyhow::Error::msg(reason)),
    }
}

/// The command line of the node with this index, from 0, without the program itself.
///
/// `options.data_dir` should be absolute: the node may not share the working directory.
pub fn node_args(options: &DevOptions, index: u16) -> Vec<String> {
    let name = node_name(index);
    let initial_cluster: Vec<String> = (0..options.nodes)
        .map(|index| format!("{}={}", node_name(index), options.peer_address(index)))
        .collect();
    let lock = folder::local_program_lock(&options.data_dir);
    let flags = [
        ("--name", name.clone()),
        ("--data-dir", options.data_dir.join(name).display().to_string()),
        ("--http-listen", options.http_address(index).to_string()),
        ("--peer-listen", options.peer_address(index).to_string()),
        ("--initial-cluster", initial_cluster.join(",")),
        ("--compute-local-program-env", format!("VERY_IMPORTANT_LOCK={}", lock.display())),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// `n1` for index 0.
fn node_name(index: u16) -> String {
    format!("n{}", index + 1)
}

impl DevOptions {
    /// These options with an absolute folder, if they make sense together.
    fn validated(self) -> anyhow::Result<Self> {
        ensure!((1..=9).contains(&self.nodes), "--nodes must be 1 to 9");
        for (flag, base) in [("--base-port", self.base_port), ("--peer-base-port", self.peer_base_port)] {
            ensure!(base > 0, "{flag} must be at least 1");
            ensure!(
                base.checked_add(self.nodes - 1).is_some(),
                "{flag} {base} leaves no room for {} ports below 65536",
                self.nodes
            );
        }
        ensure!(
            self.base_port.abs_diff(self.peer_base_port) >= self.nodes,
            "--base-port {} and --peer-base-port {} overlap with {} nodes",
            self.base_port,
            self.peer_base_port,
            self.nodes
        );
        let data_dir = path::absolute(&self.data_dir).context("--data-dir")?;
        // The flags of the nodes are text.
        ensure!(data_dir.to_str().is_some(), "--data-dir {} is not UTF-8", data_dir.display());
        Ok(Self { data_dir, ..self })
    }

    /// Where the node answers HTTP. `validated` made sure that the ports exist.
    fn http_address(&self, index: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base_port.saturating_add(index)).into()
    }

    /// Where the node talks to the others.
    fn peer_address(&self, index: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.peer_base_port.saturating_add(index)).into()
    }
}

/// The signals that ask to stop, by name, as they come.
fn stop_signals() -> io::Result<mpsc::Receiver<&'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "Ctrl-C",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
            };
            if sender.send(name).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests;
