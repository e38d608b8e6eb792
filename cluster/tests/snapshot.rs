//! A node that was away so long that the others' logs no longer hold what it missed.

use std::time::Duration;

use anyhow::Result;
use hearth_cluster::http::Client;
use hearth_cluster::workload::{Ledger, Workload};
use hearth_cluster::{Cluster, Options, wait};

const PURGED_BOUND: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_the_purged_log_catches_up_by_a_snapshot_while_writes_go_on() {
    let flags = ["--raft-log-keep-entries=20", "--storage-checkpoint-entries=50"];
    let options = Options { flags: flags.map(String::from).to_vec(), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let leader = cluster.leader().await.unwrap();
    let away = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];

    let writes = Workload::start(&clients, 4, "away");
    writes.wait_acknowledged(&[0, 1, 2], 10, PURGED_BOUND).await.unwrap();
    cluster.kill(away).unwrap();
    // What it may have in its log at most: nothing that is written from now on.
    let last = clients[leader].metric("hearth_raft_last_log_index").await.unwrap();
    wait::until(PURGED_BOUND, "the others' logs purged past what the dead node has", async || {
        for other in others {
            let purged = clients[other].metric("hearth_raft_purged_index").await;
            let purged = purged.map_err(|error| format!("{error:#}"))?;
            if purged <= last {
                return Err(format!("purged {purged}, wanted more than {last}"));
            }
        }
        Ok(())
    })
    .await
    .unwrap();

    cluster.restart(away).await.unwrap();
    writes.wait_acknowledged(&[0, 1, 2], 20, PURGED_BOUND).await.unwrap();
    let installs = clients[away].metric("hearth_raft_snapshot_installs_total").await.unwrap();
    assert!(installs >= 1, "caught up without a snapshot");

    let ledger = writes.stop().await.unwrap();
    let applied = cluster.wait_converged().await.unwrap();
    println!("dead from at most log index {last}, back at {applied}, {installs} snapshots installed");
    let own = held(&clients[away], &ledger).await.unwrap();
    assert!(own.iter().flatten().count() > 50, "too few keys to tell");
    for other in others {
        assert!(held(&clients[other], &ledger).await.unwrap() == own, "the replicas differ");
    }
    ledger.check(&clients[away]).await.unwrap();

    // And what came by the snapshot is on its disk.
    cluster.kill(away).unwrap();
    cluster.restart(away).await.unwrap();
    cluster.wait_converged().await.unwrap();
    assert!(held(&clients[away], &ledger).await.unwrap() == own, "lost by a restart");
}

/// What a node itself holds for every key that was ever sent.
async fn held(client: &Client, ledger: &Ledger) -> Result<Vec<Option<String>>> {
    let mut values = Vec::with_capacity(ledger.keys.len());
    for write in &ledger.keys {
        values.push(client.key_local(&write.key).await?);
    }
    Ok(values)
}
