//! Exactly once: clients that always try again, with their idempotency key, on whichever node answers,
//! while leaders are killed. Each age is in its list exactly once, whatever the clients were told.
//!
//! `HEARTH_ONCE_AGES` sets the number of ages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_cluster::http::{Client, Reply};
use hearth_cluster::{Cluster, Options, seed, wait};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const AGES_DEFAULT: usize = 1000;
const WRITERS: usize = 8;
/// Ages of one list: 0 to this.
const AGE_MAX: usize = 150;
const BOUND: Duration = Duration::from_secs(300);
/// Pause before a write is sent again.
const PAUSE: Duration = Duration::from_millis(20);

fn ages() -> Result<usize> {
    match std::env::var("HEARTH_ONCE_AGES") {
        Ok(ages) => ages.parse().context("HEARTH_ONCE_AGES"),
        Err(_) => Ok(AGES_DEFAULT),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_age_is_there_once_while_leaders_are_killed() {
    // Small bounds, so that answers also come from checkpoints and snapshots.
    let flags = ["--storage-checkpoint-entries=200", "--raft-log-keep-entries=50"];
    let options = Options { flags: flags.map(String::from).to_vec(), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
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
    println!("{total} ages, {kills} leaders killed, {again} sent again, {replayed} of them applied before");
    cluster.wait_converged().await.unwrap();
    for writer in 0..WRITERS {
        let count = total / WRITERS + usize::from(writer < total % WRITERS);
        check(&clients[writer % clients.len()], writer, count).await.unwrap();
    }
}

/// Appends `count` ages, one after the other, each until a node says that it is applied. Gives how
/// often one was sent again and how many answers were given before.
async fn append(
    clients: Vec<Client>,
    writer: usize,
    count: usize,
    done: Arc<AtomicUsize>,
) -> Result<(usize, usize)> {
    let mut random = seed::random(writer as u64);
    let (mut again, mut replayed) = (0, 0);
    for number in 0..count {
        let (key, body) = (format!("w{writer}-{number}"), body(writer, number));
        let mut answer: Option<Value> = None;
        // Each is sent once more when it was applied, now and then: a client that crashed would do so.
        let times = if random.random_ratio(1, 10) { 2 } else { 1 };
        for _ in 0..times {
            let (got, sent_again) = until_answered(&clients, &mut random, &key, &body).await?;
            again += sent_again;
            ensure!(got.status == 200, "{key}: {} {}", got.status, got.text());
            replayed += usize::from(got.header("hearth-idempotent-replay") == "true");
            let got = got.json()?;
            ensure!(answer.as_ref().is_none_or(|before| *before == got), "{key}: {answer:?}, then {got}");
            answer = Some(got);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok((again, replayed))
}

/// Sends the same request, to any node, until one neither fails nor says that it could not: with how
/// often it was sent again.
async fn until_answered(
    clients: &[Client],
    random: &mut StdRng,
    key: &str,
    body: &str,
) -> Result<(Reply, usize)> {
    let begun = Instant::now();
    for again in 0.. {
        let client = &clients[random.random_range(0..clients.len())];
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let failed = match client.request(Method::PUT, "age", &headers, body.to_owned()).await {
            Ok(reply) if reply.status < 500 && reply.status != 429 => return Ok((reply, again)),
            Ok(reply) => reply.text(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(begun.elapsed() < BOUND, "{key}: not applied within {BOUND:?}: {failed}");
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("the loop has no end")
}

fn name(writer: usize, list: usize) -> String {
    format!("once-{writer}-{list}")
}

fn body(writer: usize, number: usize) -> String {
    let (list, age) = (number / (AGE_MAX + 1), number % (AGE_MAX + 1));
    json!({"name": name(writer, list), "age": age}).to_string()
}

async fn check(client: &Client, writer: usize, count: usize) -> Result<()> {
    for list in 0..=count / (AGE_MAX + 1) {
        let expected: Vec<usize> = (0..count.saturating_sub(list * (AGE_MAX + 1)).min(AGE_MAX + 1)).collect();
        let found: Vec<usize> =
            client.ages(&name(writer, list)).await?.into_iter().map(usize::from).collect();
        ensure!(found == expected, "{}: {found:?}", name(writer, list));
    }
    Ok(())
}
