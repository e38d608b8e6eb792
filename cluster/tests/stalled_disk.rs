//! Disks that do not answer: frozen file systems, on which every write and every fsync hangs.

use std::time::{Duration, Instant};

use anyhow::Result;
use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::volume::Volume;
use hearth_cluster::workload::Workload;
use hearth_cluster::{Cluster, Options, wait};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
const BOUND: Duration = Duration::from_secs(60);
/// Long enough for a busy machine; the test thaws as soon as it has seen enough.
const FROZEN_MAX: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_hands_over_and_nothing_is_lost() {
    let probe = tempfile::tempdir().unwrap();
    if let Err(error) = Volume::mount_disk(&probe.path().join("probe"), 8 * MIB) {
        println!("skipped: {error:#}");
        return;
    }
    let flags = vec!["--storage-disk-free-min=8MiB".to_owned()];
    let options = Options { flags, disk_bytes: Some(128 * MIB), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let leader = cluster.leader().await.unwrap();
    let others = [(leader + 1) % 3, (leader + 2) % 3];

    // A follower's disk hangs: that node says so, and nobody else notices.
    let term = clients[leader].metric("hearth_raft_term").await.unwrap();
    let first = Workload::start(&clients, 2, "follower");
    first.wait_acknowledged(&[0, 1, 2], 20, BOUND).await.unwrap();
    let mut frozen = cluster.node(others[0]).volume.as_ref().unwrap().freeze(FROZEN_MAX).unwrap();
    wait_unready(&clients[others[0]]).await.unwrap();
    first.wait_acknowledged(&[0, 1, 2], 20, BOUND).await.unwrap();
    assert!(!frozen.is_over().unwrap(), "the machine is too slow for this test");
    drop(frozen);
    cluster.wait_ready().await.unwrap();
    assert_eq!(cluster.leader().await.unwrap(), leader);
    assert_eq!(clients[leader].metric("hearth_raft_term").await.unwrap(), term);

    // The leader's.
    let mut frozen = cluster.node(leader).volume.as_ref().unwrap().freeze(FROZEN_MAX).unwrap();
    let begun = Instant::now();
    let next = cluster.leader_among(&others).await.unwrap();
    let led = begun.elapsed();
    first.wait_acknowledged(&others, 1, BOUND).await.unwrap();
    println!(
        "the leader's disk hangs: another node leads after {} ms, both others acknowledge writes after {} ms",
        led.as_millis(),
        begun.elapsed().as_millis()
    );
    first.wait_acknowledged(&others, 20, BOUND).await.unwrap();
    wait_unready(&clients[leader]).await.unwrap();
    assert_eq!(clients[leader].metric("hearth_raft_fsync_stalled").await.unwrap(), 1);
    assert_eq!(clients[leader].metric("hearth_raft_stall_hand_overs_total").await.unwrap(), 1);
    assert!(!frozen.is_over().unwrap(), "the machine is too slow for this test");
    // What this node still takes for its leadership must not answer a write.
    assert_ne!(clients[leader].put_key("to the frozen one", "v").await, Outcome::Acknowledged);
    drop(frozen);

    cluster.wait_ready().await.unwrap();
    assert_eq!(cluster.leader().await.unwrap(), next, "the old leader follows");
    first.wait_acknowledged(&[0, 1, 2], 20, BOUND).await.unwrap();
    let ledger = first.stop().await.unwrap();
    cluster.wait_converged().await.unwrap();
    println!(
        "{} acknowledged, {} not applied, {} unknown",
        ledger.count(Outcome::Acknowledged),
        ledger.count(Outcome::NotApplied),
        ledger.count(Outcome::Unknown)
    );
    for client in &clients {
        ledger.check(client).await.unwrap();
    }
    let log = std::fs::read_to_string(&cluster.node(leader).log).unwrap();
    assert!(log.contains("the disk stalls: handing leadership over"), "not a word in the log");
}

/// A node that is to stop does not wait for a disk that hangs: it says so and ends, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_hangs_stops_all_the_same() {
    let probe = tempfile::tempdir().unwrap();
    if let Err(error) = Volume::mount_disk(&probe.path().join("probe"), 8 * MIB) {
        println!("skipped: {error:#}");
        return;
    }
    let flags = ["--storage-disk-free-min=8MiB", "--stop-timeout=2s"].map(str::to_owned).to_vec();
    let options = Options { nodes: 1, flags, disk_bytes: Some(128 * MIB), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let client = cluster.node(0).client.clone();
    let writes = Workload::start(std::slice::from_ref(&client), 2, "stop");
    writes.wait_acknowledged(&[0], 20, BOUND).await.unwrap();
    let mut frozen = cluster.node(0).volume.as_ref().unwrap().freeze(FROZEN_MAX).unwrap();
    wait_unready(&client).await.unwrap();

    let begun = Instant::now();
    cluster.node(0).process().unwrap().signal(Signal::TERM).unwrap();
    let log = cluster.node(0).log.clone();
    let said = wait::until(BOUND, "the node says that it does not wait", async || {
        let log = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        match log.lines().find(|line| line.contains("the store did not close within 2s")) {
            Some(line) => Ok(line.to_owned()),
            None => Err(log),
        }
    });
    let said = said.await.unwrap();
    println!("{} ms after SIGTERM: {said}", begun.elapsed().as_millis());
    assert!(!frozen.is_over().unwrap(), "the machine is too slow for this test");
    // A thread that waits in the kernel for the disk ends with it.
    drop(frozen);
    assert_eq!(cluster.wait_stopped(0).await.unwrap().code(), Some(1));

    let ledger = writes.stop().await.unwrap();
    cluster.restart(0).await.unwrap();
    ledger.check(&client).await.unwrap();
}

/// Waits until a node says that its disk hangs.
async fn wait_unready(client: &Client) -> Result<()> {
    let unready = wait::until(BOUND, "not ready", async || match client.get("readyz").await {
        Ok(reply) if reply.status == 503 && reply.text().contains("fsync") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    unready.await
}
