//! The log that a node will need which is behind is kept for it, within its bound.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::{Cluster, Options, wait};

const BOUND: Duration = Duration::from_secs(60);
/// A node that answers nothing for longer counts as away (5 s), and nothing is kept for it: a pause has to end
/// before, or says nothing.
const PAUSED_MAX: Duration = Duration::from_secs(4);
const ATTEMPTS: usize = 10;
/// Entries from one checkpoint to the next, and kept behind it in any case.
const CHECKPOINT_ENTRIES: u64 = 50;
const KEEP_ENTRIES: u64 = 20;
/// Enough that it can be stopped while it receives them.
const KEYS: usize = 320;
const VALUE_BYTES: usize = 60_000;

/// What became of the leader's log while a follower stood still that was receiving a snapshot.
struct Paused {
    node: usize,
    /// The leader's last entry when it was stopped: the snapshot has less, and the node needs the rest.
    last: u64,
    /// Up to where the leader purged its log meanwhile.
    purged: u64,
}

async fn start(catch_up_bytes: &str) -> Result<Cluster> {
    let flags = vec![
        format!("--storage-checkpoint-entries={CHECKPOINT_ENTRIES}"),
        format!("--raft-log-keep-entries={KEEP_ENTRIES}"),
        format!("--raft-log-catch-up-bytes={catch_up_bytes}"),
    ];
    Cluster::start(Options { flags, ..Options::default() }).await
}

async fn put(client: &Client, keys: std::ops::Range<usize>, value_bytes: usize) -> Result<()> {
    let puts = keys.map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.put_key(&format!("k{number}"), &"v".repeat(value_bytes)).await })
    });
    for put in puts.collect::<Vec<_>>() {
        let outcome = put.await?;
        ensure!(outcome == Outcome::Acknowledged, "a put: {outcome:?}");
    }
    Ok(())
}

async fn wait_purged(client: &Client, index: u64) -> Result<()> {
    wait::until(BOUND, "the log is purged", async || {
        put(client, 0..8, 10).await.map_err(|error| format!("{error:#}"))?;
        match client.metric("hearth_raft_purged_index").await {
            Ok(purged) if purged > index => Ok(()),
            other => Err(format!("{other:?}, wanted more than {index}")),
        }
    })
    .await
}

/// Sled directories: two while one replaces the other.
fn is_receiving(state_dir: &Path) -> bool {
    let entries = std::fs::read_dir(state_dir);
    entries.is_ok_and(|entries| entries.flatten().filter(|entry| entry.path().is_dir()).count() > 1)
}

/// Has a follower need a snapshot, stops it while it receives that, writes until both others could have purged their
/// logs past what the snapshot has, and lets it go on. `None` when that took too long, or the leader had not heard
/// of it before.
async fn pause_a_receiver(cluster: &mut Cluster) -> Result<Option<Paused>> {
    let leader = cluster.leader().await?;
    let (node, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let (of_leader, of_other) = (&clients[leader], &clients[other]);
    cluster.wait_converged().await?;
    cluster.kill(node)?;
    let missed = of_leader.metric("hearth_raft_last_log_index").await?;
    for first in (0..KEYS).step_by(8) {
        put(of_leader, first..first + 8, VALUE_BYTES).await?;
    }
    wait_purged(of_leader, missed).await?;

    cluster.spawn(node)?;
    let state_dir = cluster.node(node).data_dir.join("state");
    let begun = Instant::now();
    while !is_receiving(&state_dir) && begun.elapsed() < BOUND {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cluster.pause(node)?;
    let paused = Instant::now();
    let last = of_leader.metric("hearth_raft_last_log_index").await?;
    // Both nodes look twice a second: from the leader's checkpoint on that would allow it, the other one's purges
    // tell that the leader has looked too.
    let mut purges = Vec::new();
    while purges.len() < 3 && paused.elapsed() < PAUSED_MAX {
        put(of_leader, 0..8, 10).await?;
        let purged = of_other.metric("hearth_raft_purged_index").await?;
        if of_leader.metric("hearth_raft_snapshot_index").await? > last + KEEP_ENTRIES
            && purged > purges.last().map_or(last, |before| *before)
        {
            purges.push(purged);
        }
    }
    let purged = of_leader.metric("hearth_raft_purged_index").await?;
    let says_something = paused.elapsed() < PAUSED_MAX
        && purges.len() == 3
        && is_receiving(&state_dir)
        && last_contact(of_leader, &cluster.node(node).name).await? < Duration::from_secs(5);
    cluster.resume(node)?;
    cluster.wait_ready().await?;
    Ok(says_something.then_some(Paused { node, last, purged }))
}

/// How long ago the leader heard of a member.
async fn last_contact(leader: &Client, name: &str) -> Result<Duration> {
    let status = leader.get_json("v1/cluster").await?;
    let members = status["members"].as_array().context("members")?;
    let member = members.iter().find(|member| member["name"] == name).context("not among the members")?;
    Ok(member["last_contact_ms"].as_u64().map_or(Duration::MAX, Duration::from_millis))
}

async fn paused(cluster: &mut Cluster) -> Result<Paused> {
    for _ in 0..ATTEMPTS {
        if let Some(paused) = pause_a_receiver(cluster).await? {
            return Ok(paused);
        }
    }
    None.context("the machine is too slow for this test")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_receives_a_snapshot_finds_the_log_behind_it() {
    let mut cluster = start("1GiB").await.unwrap();
    let Paused { node, last, purged } = paused(&mut cluster).await.unwrap();
    assert!(
        purged <= last,
        "purged up to {purged}, and the snapshot that is being sent has less than {last}"
    );
    cluster.wait_converged().await.unwrap();
    let client = cluster.node(node).client.clone();
    assert_eq!(client.metric("hearth_raft_snapshot_installs_total").await.unwrap(), 1, "it needed another");
    // And not for ever: it is purged once everybody has it.
    let leader = cluster.leader().await.unwrap();
    wait_purged(&cluster.node(leader).client, last).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_log_is_kept_for_it_than_is_allowed() {
    let mut cluster = start("64KiB").await.unwrap();
    let Paused { last, purged, .. } = paused(&mut cluster).await.unwrap();
    assert!(
        purged > last,
        "purged up to {purged}: the log grows for a node that will need what follows {last}"
    );
    cluster.wait_converged().await.unwrap();
}
