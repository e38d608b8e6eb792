//! `failover`: how long nobody can write after the leader was killed under load, and whether anything
//! that was acknowledged is lost.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin failover -- --rounds 10
//! ```
//!
//! Writers that keep account work at every node. Each round kills the leader with SIGKILL at a random
//! moment and sends a write of its own to both others at once; the time is that until one of them, and
//! until each of them, has acknowledged it. The killed node comes back, and at the end every node is
//! checked against all accounts: each acknowledged write there, each one once, none that was refused.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::measurement::{self, Servers};
use hearth_cluster::workload::{Ledger, Workload};
use hearth_cluster::{machine, seed, wait};
use rand::RngExt;

/// How long a round may wait for writes.
const WRITES_BOUND: Duration = Duration::from_secs(60);
/// Writes from one kill to the next, at each node, at least.
const WRITES_BETWEEN: u64 = 200;
/// Milliseconds that are waited at random before a kill.
const PAUSE_MS_MAX: u64 = 500;

/// How long nobody can write after the leader's death.
#[derive(Parser)]
struct Arguments {
    /// Kills.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Writers at each node.
    #[arg(long, default_value_t = 4)]
    writers: usize,
    #[command(flatten)]
    servers: Servers,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let mut cluster = arguments.servers.start(3, &[]).await?;
    println!("{}\n", machine::describe(cluster.directory())?);
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let all: Vec<usize> = (0..clients.len()).collect();

    println!("{:<6} {:>16} {:>17} {:>6}", "round", "first write, ms", "at both nodes, ms", "term");
    let mut firsts = Vec::new();
    let mut ledgers: Vec<Ledger> = Vec::new();
    for round in 1..=arguments.rounds {
        let writes = Workload::start(&clients, arguments.writers, &format!("failover-{round}"));
        writes.wait_acknowledged(&all, WRITES_BETWEEN, WRITES_BOUND).await?;
        let pause = seed::random(u64::from(round)).random_range(0..PAUSE_MS_MAX);
        tokio::time::sleep(Duration::from_millis(pause)).await;

        let leader = cluster.leader().await?;
        let survivors: Vec<usize> = all.iter().copied().filter(|node| *node != leader).collect();
        let killed = Instant::now();
        cluster.kill(leader)?;
        let probes = [0, 1].map(|n| writable(&clients[survivors[n]], format!("probe-{round}-{n}"), killed));
        let [one, other] = probes;
        let (one, other) = tokio::join!(one, other);
        let (one, other) = (one?, other?);
        let (first, both) = (one.min(other), one.max(other));
        writes.wait_acknowledged(&survivors, WRITES_BETWEEN, WRITES_BOUND).await?;
        cluster.restart(leader).await?;
        ledgers.push(writes.stop().await?);
        let term = clients[leader].metric("hearth_raft_term").await?;
        println!("{round:<6} {:>16.0} {:>17.0} {term:>6}", ms(first), ms(both));
        firsts.push(first);
    }
    firsts.sort_unstable();
    let (median, worst) = (firsts[firsts.len() / 2], firsts[firsts.len() - 1]);
    println!("median {:.0} ms, worst {:.0} ms; target of the median at most 1500", ms(median), ms(worst));

    cluster.wait_converged().await?;
    for client in &clients {
        for ledger in &ledgers {
            ledger.check(client).await?;
        }
    }
    let [acknowledged, refused, unknown] = [Outcome::Acknowledged, Outcome::NotApplied, Outcome::Unknown]
        .map(|outcome| ledgers.iter().map(|ledger| ledger.count(outcome)).sum::<usize>());
    println!(
        "{acknowledged} writes acknowledged, {refused} not applied, {unknown} unknown; lost, doubled or reordered: 0"
    );
    Ok(())
}

/// The time from `since` until a write sent now, and again when it was refused, is acknowledged.
async fn writable(client: &Client, key: String, since: Instant) -> Result<Duration> {
    wait::until(WRITES_BOUND, "a write after the leader's death", async || {
        match client.put_key(&key, "x").await {
            Outcome::Acknowledged => Ok(since.elapsed()),
            outcome => Err(format!("{outcome:?}")),
        }
    })
    .await
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
