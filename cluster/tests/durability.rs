//! What was acknowledged survives kill -9: of the leader in the middle of writes, then of all nodes.

use std::time::{Duration, Instant};

use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::workload::{Ledger, Workload};
use hearth_cluster::{Cluster, Options, seed};
use rand::RngExt;

const WRITERS_PER_NODE: usize = 2;
const WRITES_BOUND: Duration = Duration::from_secs(60);
const ALL_KILLED_ROUNDS: usize = 4;
/// A promise of the service: so soon after the leader's death another one answers.
const NEW_LEADER_BOUND: Duration = Duration::from_secs(2);

fn report(round: &str, ledger: &Ledger) {
    let [acknowledged, refused, unknown] =
        [Outcome::Acknowledged, Outcome::NotApplied, Outcome::Unknown].map(|outcome| ledger.count(outcome));
    println!("{round}: {acknowledged} acknowledged, {refused} not applied, {unknown} unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_kill_of_the_leader_and_of_all_nodes() {
    let mut random = seed::random(u64::MAX);
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();

    // The leader dies while every node's writers are at work.
    let leader = cluster.leader().await.unwrap();
    let survivors: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let writes = Workload::start(&clients, WRITERS_PER_NODE, "leader");
    writes.wait_acknowledged(&[0, 1, 2], random.random_range(50..200), WRITES_BOUND).await.unwrap();
    cluster.kill(leader).unwrap();
    let killed = Instant::now();
    cluster.leader_among(&survivors).await.unwrap();
    let elected = killed.elapsed();
    println!("a new leader answers {} ms after the kill", elected.as_millis());
    writes.wait_acknowledged(&survivors, 1, WRITES_BOUND).await.unwrap();
    println!("both survivors acknowledge writes {} ms after the kill", killed.elapsed().as_millis());
    assert!(elected < NEW_LEADER_BOUND, "a new leader only after {elected:?}");
    writes.wait_acknowledged(&survivors, 100, WRITES_BOUND).await.unwrap();
    let first = writes.stop().await.unwrap();
    report("leader killed", &first);
    for survivor in &survivors {
        first.check(&clients[*survivor]).await.unwrap();
    }

    // The dead node comes back and catches up.
    cluster.restart(leader).await.unwrap();
    cluster.wait_converged().await.unwrap();
    first.check(&clients[leader]).await.unwrap();

    // All die at once while every node's writers are at work, several times over: a leader whose
    // followers had on disk what it had not itself must not lead on from where its own log ends.
    let mut ledgers = vec![first];
    for round in 1..=ALL_KILLED_ROUNDS {
        let writes = Workload::start(&clients, WRITERS_PER_NODE, &format!("all-{round}"));
        writes.wait_acknowledged(&[0, 1, 2], random.random_range(20..100), WRITES_BOUND).await.unwrap();
        cluster.kill_all().unwrap();
        ledgers.push(writes.stop().await.unwrap());
        report("all killed", &ledgers[round]);
        cluster.restart_all().await.unwrap();
        cluster.wait_converged().await.unwrap();
        for (client, ledger) in
            clients.iter().flat_map(|client| ledgers.iter().map(move |ledger| (client, ledger)))
        {
            ledger.check(client).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_is_replaced_and_loses_nothing_when_it_goes_on() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let leader = cluster.leader().await.unwrap();
    let survivors: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let writes = Workload::start(&clients, WRITERS_PER_NODE, "paused");
    writes.wait_acknowledged(&[0, 1, 2], 20, WRITES_BOUND).await.unwrap();

    cluster.pause(leader).unwrap();
    let paused = Instant::now();
    cluster.leader_among(&survivors).await.unwrap();
    println!("another leader answers {} ms after the pause", paused.elapsed().as_millis());
    writes.wait_acknowledged(&survivors, 20, WRITES_BOUND).await.unwrap();
    cluster.resume(leader).unwrap();
    writes.wait_acknowledged(&[0, 1, 2], 20, WRITES_BOUND).await.unwrap();

    let ledger = writes.stop().await.unwrap();
    report("leader paused", &ledger);
    for client in &clients {
        ledger.check(client).await.unwrap();
    }
}
