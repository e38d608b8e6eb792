//! Times to live end when they should: never early, and at most a second late while there is a leader.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::time::{Duration, Instant};

use hearth_cluster::http::Client;
use hearth_cluster::{Cluster, Options};
use reqwest::Method;

/// How late a key may be seen that should be gone, as long as there is a leader.
const LATE_MAX: Duration = Duration::from_secs(1);
/// From one look at a key to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// A key that was put with a time to live.
struct Mortal {
    key: String,
    /// Its time to live after it was sent: it must not end earlier.
    earliest: Instant,
    /// Its time to live after it was acknowledged: it should end by then.
    due: Instant,
}

async fn put(client: &Client, key: &str, ttl: Duration) -> Mortal {
    let sent = Instant::now();
    let path = format!("v1/kv/{key}?ttl={}ms", ttl.as_millis());
    let reply = client.request(Method::PUT, &path, &[], "v".to_owned()).await.unwrap();
    assert_eq!(reply.status, 201, "{}", reply.text());
    Mortal { key: key.to_owned(), earliest: sent + ttl, due: Instant::now() + ttl }
}

impl Mortal {
    /// Looks at the key with linearizable reads until it is gone. Every look proves something: who sees it gone
    /// before its time, or there when it should have been gone for long, has found a mistake, however slow
    /// this machine is. Gives how late the last look was that still saw it.
    async fn watch(&self, client: &Client) -> Duration {
        let mut latest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            let found = client.key(&self.key).await.unwrap();
            if found.is_none() {
                let early = self.earliest.saturating_duration_since(Instant::now());
                assert!(early.is_zero(), "{}: gone {early:?} early", self.key);
                return latest;
            }
            let late = asked.saturating_duration_since(self.due);
            assert!(late <= LATE_MAX, "{}: still there {late:?} after its end", self.key);
            latest = latest.max(late);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_end_in_time_and_not_before_on_every_node() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let mut worst = Duration::ZERO;
    for ttl_ms in [1, 50, 150, 400, 1000] {
        for writer in 0..3 {
            let ttl = Duration::from_millis(ttl_ms);
            let mortal = put(&cluster.node(writer).client, &format!("k{ttl_ms}-{writer}"), ttl).await;
            worst = worst.max(mortal.watch(&cluster.node((writer + 1) % 3).client).await);
        }
    }
    println!("with a leader: at most {worst:?} late, of {LATE_MAX:?}");

    // A put without a time to live, or with a longer one, takes the place of the first one.
    let client = &cluster.node(leader).client;
    let mut kept = Vec::new();
    for (key, query) in [("cleared", ""), ("longer", "?ttl=1h")] {
        kept.push((key, put(client, key, Duration::from_secs(1)).await));
        let path = format!("v1/kv/{key}{query}");
        assert_eq!(client.request(Method::PUT, &path, &[], "w".to_owned()).await.unwrap().status, 200);
    }
    let passing = put(client, "passing", Duration::from_secs(2)).await;
    let expires_in = client.get("v1/kv/passing").await.unwrap().header("hearth-expires-in").to_owned();
    let ms: u64 = expires_in.strip_suffix("ms").unwrap().parse().unwrap();
    assert!((1..=2000).contains(&ms), "{expires_in}");
    passing.watch(client).await;
    for (key, mortal) in kept {
        assert!(mortal.due < Instant::now());
        assert_eq!(client.key(key).await.unwrap().as_deref(), Some("w"));
    }
}

/// What is due while nobody leads ends when somebody does again; what is due later ends in its time. Through the
/// death of a leader, and through that of every node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_survive_failover_and_restart() {
    const DUE_MEANWHILE: Duration = Duration::from_millis(300);
    // Longer than either takes, also on a busy machine.
    const LATER: Duration = Duration::from_secs(12);
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    for what in ["failover", "restart"] {
        let leader = cluster.leader().await.unwrap();
        let witness = cluster.node((leader + 1) % 3).client.clone();
        let writer = cluster.node(leader).client.clone();
        let later = put(&writer, &format!("{what}-later"), LATER).await;
        let meanwhile = put(&writer, &format!("{what}-meanwhile"), DUE_MEANWHILE).await;
        if what == "failover" {
            cluster.kill(leader).unwrap();
            let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
            cluster.leader_among(&others).await.unwrap();
        } else {
            cluster.kill_all().unwrap();
            cluster.restart_all().await.unwrap();
            cluster.leader().await.unwrap();
        }
        // From here on there is a leader.
        let led = Instant::now();
        let first = Mortal { due: led.max(meanwhile.due), ..meanwhile }.watch(&witness).await;
        assert!(led < later.earliest, "{what} took too long for this test to say anything");
        let second = later.watch(&witness).await;
        println!(
            "{what}: due meanwhile, {first:?} after there was a leader; due later, {second:?} late; of {LATE_MAX:?}"
        );
        if what == "failover" {
            cluster.restart(leader).await.unwrap();
        }
    }
}
