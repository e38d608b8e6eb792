//! What every program that measures begins and ends with: its arguments, the servers, an interrupt.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;

use crate::{Cluster, Options, binary};

/// Which servers are measured; part of the arguments of a program.
#[derive(Clone, Debug, clap::Args)]
pub struct Servers {
    /// The server to measure; by default it is built from this workspace.
    #[arg(long, value_name = "PATH")]
    hearthd: Option<PathBuf>,
    /// Further flags for every node, after `--`.
    #[arg(last = true)]
    flags: Vec<String>,
}

impl Servers {
    /// Starts a cluster of `nodes`, each with `flags` and those that were given.
    ///
    /// # Errors
    /// As [`Cluster::start`], and when there is no such server.
    pub async fn start(&self, nodes: usize, flags: &[&str]) -> Result<Cluster> {
        if let Some(program) = &self.hearthd {
            binary::use_hearthd(program)?;
        }
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        flags.extend(self.flags.iter().cloned());
        Cluster::start(Options { nodes, flags, ..Options::default() }).await
    }
}

/// The whole of a program called `name`: reads its arguments, measures, and says on stderr why that failed.
///
/// It runs on one thread: the load must not take a second processor from the servers.
pub fn run<A: Parser>(name: &str, measure: impl AsyncFnOnce(A) -> Result<()>) -> ExitCode {
    let arguments = A::parse();
    match block_on(measure(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(measuring: impl Future<Output = Result<()>>) -> Result<()> {
    ensure!(!cfg!(debug_assertions), "an unoptimised build measures nothing: run it with --release");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(async {
        // An interrupt has to drop what is measured: the servers and their directory.
        tokio::select! {
            ended = measuring => ended,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        }
    })
}
