//! What a leader may not do after it was restarted.

use anyhow::Result;
use hearth_cluster::http::Outcome;
use hearth_cluster::{Cluster, Options};

/// A leader that is killed and back before anyone misses it must not go on in its old term. Entries
/// reach the followers before they are on the leader's own disk; those that it lost with the kill
/// may be acknowledged, and it would write others with the same term and log index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_restarts_at_once_starts_a_new_term() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    for round in 0..3u8 {
        let leader = cluster.leader().await.unwrap();
        let before = cluster.node(leader).client.metric("hearth_raft_term").await.unwrap();
        cluster.kill(leader).unwrap();
        cluster.restart(leader).await.unwrap();
        let again = cluster.leader().await.unwrap();
        let client = cluster.node(again).client.clone();
        assert_eq!(client.put_age("n", round).await, Outcome::Acknowledged);
        let after = client.metric("hearth_raft_term").await.unwrap();
        println!("leader {leader} restarted in term {before}; {again} leads in term {after}");
        assert!(after > before, "the restarted leader went on in term {before}");
    }
    assert_eq!(ages(&cluster).await.unwrap(), [0, 1, 2]);
}

async fn ages(cluster: &Cluster) -> Result<Vec<u8>> {
    cluster.node(0).client.ages("n").await
}
