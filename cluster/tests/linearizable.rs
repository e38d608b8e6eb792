//! No linearizable read is stale, whatever happens to the leader.
//!
//! One key is written and read through all nodes. Its ETag is the log index of its last write, which only
//! grows; so a read must answer at least the highest that any request answered before the read began. What
//! is done to the leader is what makes a read index wrong when it is taken too lightly: frozen until another
//! leads, and then asked at the moment of its return; killed, and back before anybody misses it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hearth_cluster::http::{Client, Reply};
use hearth_cluster::{Cluster, Options, seed, wait};
use rand::RngExt;
use tokio::task::JoinSet;

const ROUNDS: usize = 6;
const BOUND: Duration = Duration::from_secs(30);
/// Requests that wait at the frozen leader when it returns.
const WAITING: usize = 30;
/// How `/proc/net/tcp` says it, see proc_pid_net(5).
const ESTABLISHED: &str = "01";

/// The highest ETag that was answered, and how often each node gave one.
#[derive(Default)]
struct Seen {
    etag: AtomicU64,
    answers: [AtomicU64; 3],
}

impl Seen {
    fn etag(&self) -> u64 {
        self.etag.load(Ordering::SeqCst)
    }

    fn answers(&self) -> [u64; 3] {
        [0, 1, 2].map(|node: usize| self.answers[node].load(Ordering::SeqCst))
    }

    fn note(&self, node: usize, etag: u64) {
        self.etag.fetch_max(etag, Ordering::SeqCst);
        self.answers[node].fetch_add(1, Ordering::SeqCst);
    }
}

fn etag(reply: &Reply) -> Result<u64> {
    let etag = reply.header("etag");
    etag.trim_matches('"').parse().with_context(|| format!("ETag {etag:?}"))
}

/// Writes once; whatever is not acknowledged may come later, and then with a higher ETag.
async fn write(client: &Client, node: usize, seen: &Seen) -> Result<()> {
    match client.put_key_reply("k", "v").await {
        Ok(reply) if reply.status < 300 => seen.note(node, etag(&reply)?),
        _ => tokio::task::yield_now().await,
    }
    Ok(())
}

/// Reads once; no answer, or a refusal, is not stale.
async fn read(client: &Client, node: usize, seen: &Seen) -> Result<()> {
    let at_least = seen.etag();
    if let Ok(reply) = client.get("v1/kv/k").await
        && (reply.status == 200 || reply.status == 404)
    {
        let found = if reply.status == 200 { etag(&reply)? } else { 0 };
        ensure!(found >= at_least, "stale: node {node} answered {found}, {at_least} was answered before");
        seen.note(node, found);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_stale_while_leaders_are_frozen_and_killed() {
    let flags = vec!["--request-timeout=1s".to_owned()];
    let mut cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for (node, client) in clients.iter().enumerate() {
        for worker in 0..4 {
            let (client, seen, stop) = (client.clone(), Arc::clone(&seen), Arc::clone(&stop));
            load.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    match worker {
                        0 => write(&client, node, &seen).await?,
                        _ => read(&client, node, &seen).await?,
                    }
                }
                anyhow::Ok(())
            });
        }
    }
    let mut random = seed::random(0);
    for round in 1..=ROUNDS {
        everybody_answers(&seen).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        let begun = Instant::now();
        if random.random_bool(0.5) {
            cluster.kill(leader).unwrap();
            cluster.spawn(leader).unwrap();
            println!("round {round}: killed node {leader}, and it is back; {:?}", begun.elapsed());
        } else {
            frozen(&cluster, leader, &seen).await.unwrap();
            println!("round {round}: froze node {leader}; {:?}", begun.elapsed());
        }
        cluster.wait_ready().await.unwrap();
    }
    everybody_answers(&seen).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = load.join_next().await {
        ended.unwrap().unwrap();
    }
    println!("answers by node: {:?}", seen.answers());
}

/// Freezes `leader` until another one has acknowledged writes, and has reads wait at it when it goes on.
async fn frozen(cluster: &Cluster, leader: usize, seen: &Arc<Seen>) -> Result<()> {
    cluster.pause(leader)?;
    let before = seen.etag();
    wait::until(BOUND, "writes through the next leader", async || match seen.etag() {
        etag if etag > before + 20 => Ok(()),
        etag => Err(format!("ETag {etag}, {before} at the freeze")),
    })
    .await?;
    let mut waiting = JoinSet::new();
    for _ in 0..WAITING {
        let (client, seen) = (cluster.node(leader).client.clone(), Arc::clone(seen));
        waiting.spawn(async move { read(&client, leader, &seen).await });
    }
    let address = cluster.node(leader).http;
    wait::until(BOUND, "reads that wait at the frozen leader", async || match unread(address) {
        Ok(WAITING..) => Ok(()),
        other => Err(format!("{other:?} of {WAITING}")),
    })
    .await?;
    cluster.resume(leader)?;
    while let Some(ended) = waiting.join_next().await {
        ended??;
    }
    Ok(())
}

/// Connections to `address` on which something was sent that the process there has not read.
fn unread(address: SocketAddr) -> Result<usize> {
    let SocketAddr::V4(address) = address else { bail!("{address} is not IPv4") };
    // As the kernel writes it: the address as one number in the machine's own byte order.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let is_unread = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, here, _, ESTABLISHED, queues, ..] = fields[..] else { return false };
        here == local && queues.split_once(':').is_some_and(|(_, received)| received != "00000000")
    };
    Ok(sockets.lines().filter(is_unread).count())
}

async fn everybody_answers(seen: &Seen) -> Result<()> {
    let before = seen.answers();
    wait::until(BOUND, "answers of all nodes", async || {
        let now = seen.answers();
        if (0..3).all(|node| now[node] >= before[node] + 20) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await
}
