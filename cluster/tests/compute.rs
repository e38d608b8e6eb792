//! The compute endpoints: they need no leader, no quorum and no store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_cluster::http::{Outcome, Reply};
use hearth_cluster::{Cluster, Options, wait};
use tokio::task::JoinSet;

const BOUND: Duration = Duration::from_secs(20);
/// How often a node is killed while it starts programs.
const KILLS: usize = 20;

fn source(reply: &Reply) -> &str {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("hearth-source")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compute_needs_no_quorum() {
    let lock = tempfile::NamedTempFile::new().unwrap();
    let lock = format!("--compute-local-program-env=VERY_IMPORTANT_LOCK={}", lock.path().display());
    let flags = vec![lock, "--compute-local-program-pool=0".to_owned()];
    let mut cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let left = (leader + 1) % 3;
    cluster.kill(leader).unwrap();
    cluster.kill((leader + 2) % 3).unwrap();
    let client = cluster.node(left).client.clone();
    // There is no majority any more: a write is not acknowledged.
    assert_ne!(client.put_key("k", "v").await, Outcome::Acknowledged);
    wait::until(BOUND, "a node without a majority is not ready", async || match client.get("readyz").await {
        Ok(reply) if reply.status == 503 && reply.text().contains("[-]leader failed") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();

    let near = |sum: u64| sum.abs_diff(5_000_000) < 92_200;
    let one = client.get("cpu").await.unwrap();
    assert!(matches!(source(&one), "pool" | "live"));
    assert!(near(one.json().unwrap().as_u64().unwrap()), "{}", one.text());
    let three = client.get("cpu?count=3").await.unwrap();
    assert_eq!(source(&three), "live");
    let sums = three.json().unwrap();
    let sums: Vec<u64> = sums.as_array().unwrap().iter().map(|sum| sum.as_u64().unwrap()).collect();
    assert!(sums.len() == 3 && sums.iter().all(|sum| near(*sum)), "{sums:?}");
    let status = client.get("local_program").await.unwrap();
    assert_eq!(source(&status), "live");
    assert!(status.json().unwrap().as_u64().unwrap() < 100, "{}", status.text());

    for wrong in ["cpu?count=0", "cpu?count=1001", "cpu?x=1", "local_program?count=2"] {
        let reply = client.get(wrong).await.unwrap();
        assert_eq!(
            (reply.status, &reply.json().unwrap()["code"]),
            (400, &"invalid_parameter".into()),
            "{wrong}"
        );
    }
    // What is computed ahead is handed out once it is there.
    wait::until(BOUND, "an answer from the pool", async || {
        match client.get("cpu").await.map(|reply| reply.header("hearth-source").to_owned()) {
            Ok(source) if source == "pool" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

/// A child that is just being started holds everything that the node has open, its addresses and its lock, until
/// its own program begins. That must not keep the next process of the node from starting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_while_it_starts_programs_starts_again() {
    let lock = tempfile::NamedTempFile::new().unwrap();
    let lock = format!("--compute-local-program-env=VERY_IMPORTANT_LOCK={}", lock.path().display());
    let flags = vec![lock, "--compute-local-program-pool=0".to_owned()];
    let mut cluster = Cluster::start(Options { nodes: 1, flags, ..Options::default() }).await.unwrap();
    for _ in 0..KILLS {
        let answers = Arc::new(AtomicUsize::new(0));
        let mut load = JoinSet::new();
        for _ in 0..16 {
            let (client, answers) = (cluster.node(0).client.clone(), Arc::clone(&answers));
            load.spawn(async move {
                while client.get("local_program").await.is_ok() {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait::until(BOUND, "answers", async || match answers.load(Ordering::Relaxed) {
            50.. => Ok(()),
            few => Err(format!("{few} of 50")),
        })
        .await
        .unwrap();
        cluster.kill(0).unwrap();
        cluster.restart(0).await.unwrap();
        load.shutdown().await;
    }
}
