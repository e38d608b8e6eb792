//! Round after round: kill -9 at a random moment under load, of the leader, a follower or all nodes.
//!
//! After every round all replicas are at the same log index with the same state hash; in the end every
//! acknowledged write is present exactly once. `HEARTH_CRASH_ROUNDS` sets the number of rounds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::workload::Workload;
use hearth_cluster::{Cluster, Options, seed};
use rand::RngExt;

const ROUNDS_DEFAULT: usize = 8;
const WRITES_BOUND: Duration = Duration::from_secs(60);

fn rounds() -> Result<usize> {
    match std::env::var("HEARTH_CRASH_ROUNDS") {
        Ok(rounds) => rounds.parse().context("HEARTH_CRASH_ROUNDS"),
        Err(_) => Ok(ROUNDS_DEFAULT),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_nothing_is_lost_and_the_replicas_stay_equal() {
    // Small bounds, so that checkpoints, purges and snapshots happen within a round.
    let flags = ["--storage-checkpoint-entries=200", "--raft-log-keep-entries=100"];
    let options = Options { flags: flags.map(String::from).to_vec(), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let mut random = seed::random(0);
    let mut ledgers = Vec::new();
    for round in 1..=rounds().unwrap() {
        let writes = Workload::start(&clients, 2, &format!("r{round}"));
        writes.wait_acknowledged(&[0, 1, 2], random.random_range(1..60), WRITES_BOUND).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        let victim = match random.random_range(0..3) {
            0 => {
                cluster.kill(leader).unwrap();
                "the leader"
            }
            1 => {
                cluster.kill((leader + random.random_range(1..3)) % 3).unwrap();
                "a follower"
            }
            _ => {
                cluster.kill_all().unwrap();
                "all nodes"
            }
        };
        let ledger = writes.stop().await.unwrap();
        cluster.restart_all().await.unwrap();
        let index = cluster.wait_converged().await.unwrap();
        let hash = equal_hash(&clients).await.unwrap();
        let acknowledged = ledger.count(Outcome::Acknowledged);
        println!(
            "round {round}: killed {victim}, {acknowledged} acknowledged; index {index}, hash {hash} on all"
        );
        ledger.check(&clients[random.random_range(0..3)]).await.unwrap();
        ledgers.push(ledger);
    }
    for ledger in &ledgers {
        ledger.check(&clients[0]).await.unwrap();
    }
}

/// The hash that all members report for the same log index. Asks again while an entry is on its way.
async fn equal_hash(clients: &[Client]) -> Result<String> {
    hearth_cluster::wait::until(WRITES_BOUND, "all members at one log index", async || {
        let status = clients[0].get_json("v1/cluster").await.map_err(|error| format!("{error:#}"))?;
        let reported = |field: &str| -> Option<Vec<String>> {
            status["members"].as_array()?.iter().map(|member| Some(member[field].to_string())).collect()
        };
        let (indexes, hashes) = (reported("applied_index"), reported("state_hash"));
        match (indexes, hashes) {
            (Some(indexes), Some(hashes)) if indexes.iter().all(|index| *index == indexes[0]) => Ok(hashes),
            (indexes, _) => Err(format!("{indexes:?}")),
        }
    })
    .await
    .and_then(|hashes| {
        ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "the replicas differ: {hashes:?}");
        hashes.into_iter().next().context("no members")
    })
}
