//! What the person on call reads when a node goes away: a line when it is lost, and a line when it is back.

use std::time::Duration;

use anyhow::Result;
use hearth_cluster::http::Client;
use hearth_cluster::workload::Workload;
use hearth_cluster::{Cluster, Options, wait};

const BOUND: Duration = Duration::from_secs(60);
/// Writes at each node that stays, after the line: a few seconds in which nothing else may be said.
const MORE_WRITES: u64 = 1500;

#[derive(Clone, Copy, Debug)]
enum Away {
    Killed,
    Hangs,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_says_once_that_a_node_is_lost_and_once_that_it_is_back() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    for away in [Away::Killed, Away::Hangs] {
        let leader = cluster.leader().await.unwrap();
        cluster.wait_converged().await.unwrap();
        let (node, stay) = ((leader + 1) % 3, [leader, (leader + 2) % 3]);
        let log = Log::from_here(&cluster, leader, node).unwrap();
        match away {
            Away::Killed => cluster.kill(node).unwrap(),
            Away::Hangs => cluster.pause(node).unwrap(),
        }
        let writes = Workload::start(&stay.map(|node| clients[node].clone()), 4, &format!("{away:?}"));
        log.wait_for("a peer is lost").await.unwrap();
        writes.wait_acknowledged(&[0, 1], MORE_WRITES, BOUND).await.unwrap();
        let lines = log.lines().unwrap();
        assert_eq!(lines.len(), 1, "{away:?}:\n{}", lines.join("\n"));
        match away {
            Away::Killed => cluster.restart(node).await.unwrap(),
            Away::Hangs => cluster.resume(node).unwrap(),
        }
        log.wait_for("a peer is back").await.unwrap();
        cluster.wait_ready().await.unwrap();
        writes.stop().await.unwrap();
        cluster.wait_converged().await.unwrap();
        let lines = log.lines().unwrap();
        println!("{away:?}:\n{}", lines.join("\n"));
        assert_eq!(lines.len(), 2);
        assert_eq!(cluster.leader().await.unwrap(), leader);
    }
}

/// What a node has logged of another one since a moment.
struct Log {
    path: std::path::PathBuf,
    skipped: usize,
    peer: String,
}

impl Log {
    fn from_here(cluster: &Cluster, node: usize, peer: usize) -> Result<Self> {
        let path = cluster.node(node).log.clone();
        let skipped = std::fs::read_to_string(&path)?.lines().count();
        Ok(Self { path, skipped, peer: cluster.node(peer).peer.to_string() })
    }

    /// All warnings, and whatever names the peer.
    fn lines(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.path)?;
        let told = |line: &&str| line.contains(" WARN ") || line.contains(&self.peer);
        Ok(text.lines().skip(self.skipped).filter(told).map(str::to_owned).collect())
    }

    async fn wait_for(&self, text: &str) -> Result<()> {
        wait::until(BOUND, text, async || {
            let lines = self.lines().map_err(|error| format!("{error:#}"))?;
            if lines.iter().any(|line| line.contains(text)) { Ok(()) } else { Err(lines.join("\n")) }
        })
        .await
    }
}
