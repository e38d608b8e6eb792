//! A node that was away so long that the others' logs no longer hold what it missed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::workload::{Ledger, Workload};
use hearth_cluster::{Cluster, Options, seed, wait};
use rand::RngExt;

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

const KILLS: usize = 9;
/// For how long a kill waits for what it is meant to interrupt.
const BEGUN_BOUND: Duration = Duration::from_secs(3);
/// How long a kill comes after that at most, in the first round; shorter after each that came too late, so that on
/// a fast machine one comes while it is still receiving.
const SPAN_MS_MAX: u64 = 400;
/// Enough that receiving and installing it takes some hundreds of milliseconds.
const KEYS: usize = 320;
const VALUE_BYTES: usize = 60_000;

/// A follower is killed again and again while it receives and installs a snapshot. Whenever that is, it
/// starts again, with its old state or the new one, and in the end it has caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_while_it_installs_a_snapshot_has_the_old_state_or_the_new() {
    let flags = ["--raft-log-keep-entries=20", "--storage-checkpoint-entries=50"];
    let options = Options { flags: flags.map(String::from).to_vec(), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let mut random = seed::random(7);
    let leader = cluster.leader().await.unwrap();
    let away = (leader + 1) % 3;
    // State hashes by log index, from all nodes.
    let mut seen = BTreeMap::new();
    let value = |number: usize, round: usize| format!("{round}:{number}:{}", "v".repeat(VALUE_BYTES));

    put_all(&clients[leader], &mut seen, |number| value(number, 0)).await.unwrap();
    let (mut old_starts, mut new_starts, mut receiving, mut installed) = (0, 0, 0, 0);
    let (mut round, mut span_ms) = (0, SPAN_MS_MAX);
    cluster.wait_converged().await.unwrap();
    let mut old = stand(&clients[away]).await.unwrap();
    for kill in 0..KILLS {
        if kill % 3 == 0 {
            // Behind again: whatever it has by now is the old state.
            cluster.kill(away).unwrap();
            round += 1;
            put_all(&clients[leader], &mut seen, |number| value(number, round)).await.unwrap();
            wait_purged(&clients[leader], old.0).await.unwrap();
        }
        cluster.spawn(away).unwrap();
        let started = Instant::now();
        let found = first_stand(&clients[away]).await.unwrap();
        // It may have a little less than it had applied: which entries are committed is told by the leader.
        let newest = stand(&clients[leader]).await.unwrap();
        assert!(found.0 <= newest.0, "{found:?} is ahead of {newest:?}");
        for (index, hash) in [&found, &newest] {
            let before = seen.entry(*index).or_insert_with(|| hash.clone());
            assert_eq!(before, hash, "two states at log index {index}");
        }
        let had = if found.0 <= old.0 { "old" } else { "new" };
        if found.0 <= old.0 {
            old_starts += 1
        } else {
            new_starts += 1
        }
        if kill % 3 == 2 {
            // Now it may finish.
            cluster.wait_ready().await.unwrap();
            cluster.wait_converged().await.unwrap();
            old = stand(&clients[away]).await.unwrap();
            assert_eq!(old, stand(&clients[leader]).await.unwrap());
            println!("caught up in {} ms", started.elapsed().as_millis());
            continue;
        }
        // At a random moment after it began to receive; it may have no need to.
        let state_dir = cluster.node(away).data_dir.join("state");
        let current = std::fs::read(state_dir.join("current")).unwrap();
        let begun = || generations(&state_dir) > 1;
        while !begun() && started.elapsed() < BEGUN_BOUND {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..span_ms))).await;
        let at = started.elapsed();
        cluster.kill(away).unwrap();
        let was_set = std::fs::read(state_dir.join("current")).unwrap() != current;
        let found_on_disk = match (was_set, generations(&state_dir)) {
            (false, 2..) => {
                receiving += 1;
                span_ms = (span_ms * 2).min(SPAN_MS_MAX);
                "was receiving"
            }
            (true, _) => {
                installed += 1;
                // It is over sooner here.
                span_ms = (span_ms / 4).max(1);
                "had installed it"
            }
            _ => "did neither",
        };
        println!("kill {kill}: had the {had} state, killed after {} ms, {found_on_disk}", at.as_millis());
    }
    println!(
        "{old_starts} starts with the old state, {new_starts} with a newer; killed {receiving} times while receiving, {installed} after installing"
    );
    assert!(old_starts > 0 && receiving > 0, "no kill hit what it was meant for");

    for number in (0..KEYS).step_by(37) {
        let found = clients[away].key_local(&format!("k{number}")).await.unwrap();
        assert!(found == Some(value(number, round)), "k{number}");
    }
}

/// Sled directories: two while one replaces the other.
fn generations(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count())
}

async fn put_all(
    client: &Client,
    seen: &mut BTreeMap<u64, String>,
    value: impl Fn(usize) -> String,
) -> Result<()> {
    for first in (0..KEYS).step_by(8) {
        let puts = (first..first + 8).map(|number| {
            let (client, value) = (client.clone(), value(number));
            tokio::spawn(async move { client.put_key(&format!("k{number}"), &value).await })
        });
        for put in puts.collect::<Vec<_>>() {
            let outcome = put.await?;
            ensure!(outcome == Outcome::Acknowledged, "a put: {outcome:?}");
        }
        seen.extend([stand(client).await?]);
    }
    Ok(())
}

async fn wait_purged(client: &Client, index: u64) -> Result<()> {
    let purged =
        wait::until(PURGED_BOUND, "the log purged past what the dead node has", async || {
            match client.metric("hearth_raft_purged_index").await {
                Ok(purged) if purged > index => Ok(()),
                other => Err(format!("{other:?}, wanted more than {index}")),
            }
        });
    purged.await
}

/// What the node says of itself: applied index and state hash, of the same moment.
async fn stand(client: &Client) -> Result<(u64, String)> {
    let status = client.get_json("v1/cluster").await?;
    let name = status["node"].as_str().context("node")?;
    let members = status["members"].as_array().context("members")?;
    let own = members.iter().find(|member| member["name"] == name).context("not among the members")?;
    let index = own["applied_index"].as_u64().context("applied_index")?;
    Ok((index, own["state_hash"].as_str().context("state_hash")?.to_owned()))
}

/// The first answer after a start, while the membership may not be known yet.
async fn first_stand(client: &Client) -> Result<(u64, String)> {
    wait::until(PURGED_BOUND, "the node answers after a start", async || {
        stand(client).await.map_err(|error| format!("{error:#}"))
    })
    .await
}
