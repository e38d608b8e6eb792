//! Exactly once: clients that always try again, with their idempotency key, on whichever node answers,
//! while leaders are killed. Each age is in its list exactly once, whatever became of the attempts.
//!
//! The typed client does the trying; `HEARTH_ONCE_AGES` sets the number of ages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_cli::client::{Client, Options as ClientOptions};
use hearth_cli::idempotency::IdempotencyKey;
use hearth_cli::kv::Consistency;
use hearth_cluster::{Cluster, Options, seed, wait};
use rand::RngExt;
use tokio::task::JoinSet;

const AGES_DEFAULT: usize = 1000;
const WRITERS: usize = 8;
/// Ages of one list: 0 to this.
const AGE_MAX: usize = 150;
const BOUND: Duration = Duration::from_secs(300);

fn ages() -> Result<usize> {
    match std::env::var("HEARTH_ONCE_AGES") {
        Ok(ages) => ages.parse().context("HEARTH_ONCE_AGES"),
        Err(_) => Ok(AGES_DEFAULT),
    }
}

/// Clients of all nodes that try for long, each beginning with another node.
fn clients(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut endpoints = cluster.endpoints();
    let options = ClientOptions {
        request_timeout: Duration::from_secs(60),
        unreachable_timeout: Duration::from_secs(60),
        ..ClientOptions::default()
    };
    let mut clients = Vec::new();
    for _ in 0..endpoints.len() {
        clients.push(Client::new(endpoints.clone(), options.clone())?);
        endpoints.rotate_left(1);
    }
    Ok(clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_age_is_there_once_while_leaders_are_killed() {
    // Small bounds, so that answers also come from checkpoints and snapshots.
    let flags = ["--storage-checkpoint-entries=200", "--raft-log-keep-entries=50"];
    let options = Options { flags: flags.map(String::from).to_vec(), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients = clients(&cluster).unwrap();
    let (total, done) = (ages().unwrap(), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let count = total / WRITERS + usize::from(writer < total % WRITERS);
        writers.spawn(append(clients.clone(), writer, count, Arc::clone(&done)));
    }
    let mut kills = 0;
    for part in 1..=4 {
        let target = total * part / 5;
        wait::until(BOUND, "ages appended", async || {
            let done = done.load(Ordering::Relaxed);
            if done >= target { Ok(()) } else { Err(format!("{done} of {target}")) }
        })
        .await
        .unwrap();
        let leader = cluster.leader().await.unwrap();
        cluster.kill(leader).unwrap();
        kills += 1;
        cluster.restart(leader).await.unwrap();
    }
    let (mut again, mut replayed) = (0, 0);
    while let Some(writer) = writers.join_next().await {
        let (sent_again, answered_before) = writer.unwrap().unwrap();
        again += sent_again;
        replayed += answered_before;
    }
    println!(
        "{total} ages, {kills} leaders killed, {again} asked for twice; {replayed} answers said that it was \
         applied before, {} of them because the client had tried again by itself",
        replayed - again
    );
    cluster.wait_converged().await.unwrap();
    for writer in 0..WRITERS {
        let count = total / WRITERS + usize::from(writer < total % WRITERS);
        check(&clients[writer % clients.len()], writer, count).await.unwrap();
    }
}

/// Appends `count` ages, one after the other. Gives how many calls were made for ages that were answered
/// already, and how many answers said that the age had been applied before.
async fn append(
    clients: Vec<Client>,
    writer: usize,
    count: usize,
    done: Arc<AtomicUsize>,
) -> Result<(usize, usize)> {
    let mut random = seed::random(writer as u64);
    let (mut again, mut replayed) = (0, 0);
    for number in 0..count {
        let key: IdempotencyKey = format!("w{writer}-{number}").parse()?;
        let (name, age) = (name(writer, number / (AGE_MAX + 1)), u8::try_from(number % (AGE_MAX + 1))?);
        let mut append = async || {
            let client = &clients[random.random_range(0..clients.len())];
            let written = client.age_put(&name, age, Some(&key)).await;
            (written.with_context(|| format!("{key}")), random.random_ratio(1, 10))
        };
        let (first, once_more) = append().await;
        let first = first?;
        replayed += usize::from(first.replayed);
        // As a client that crashed before it saw the answer would.
        if once_more {
            let second = append().await.0?;
            let same =
                (&second.name, second.age, second.revision) == (&first.name, first.age, first.revision);
            ensure!(same && second.replayed, "{key}: {first:?}, then {second:?}");
            (again, replayed) = (again + 1, replayed + 1);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok((again, replayed))
}

fn name(writer: usize, list: usize) -> String {
    format!("once-{writer}-{list}")
}

async fn check(client: &Client, writer: usize, count: usize) -> Result<()> {
    for list in 0..=count / (AGE_MAX + 1) {
        let expected: Vec<usize> = (0..count.saturating_sub(list * (AGE_MAX + 1)).min(AGE_MAX + 1)).collect();
        let name = name(writer, list);
        let found = client.age_get(&name, Consistency::Linearizable).await?;
        let found: Vec<usize> = found.into_iter().map(|(_, age)| usize::from(age)).collect();
        ensure!(found == expected, "{name}: {found:?}");
    }
    Ok(())
}
