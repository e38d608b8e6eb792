//! Watches on three nodes: what watchers are given is what was written, whatever becomes of the node that
//! they watch on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hearth_cluster::events::Event;
use hearth_cluster::http::{Client, Reply};
use hearth_cluster::{Cluster, Options, seed, wait};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

const WRITERS: usize = 4;
/// Writes of each writer.
const WRITES: usize = 250;
/// The last write: whoever sees it has seen all.
const END: &str = "w/end";
const BOUND: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(20);

/// A change as it was written, or as a watcher was told of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    revision: u64,
    /// Which of its revision, from 0.
    position: usize,
    kind: String,
    key: String,
    /// Empty but for puts.
    value: String,
    created: bool,
}

/// Leaders are killed and stopped while writers go on. A patient watcher changes nodes only when its node is
/// gone; a restless one breaks off every few events, also within a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_given_exactly_what_was_written_while_leaders_go() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let leader = cluster.leader().await.unwrap();
    let mut watchers = JoinSet::new();
    for (number, prefix, events_max) in [(0, "w/", usize::MAX), (1, "w/", 7), (2, "w/1/", usize::MAX)] {
        // Begun before the first write, each on the leader: the first to go.
        let nodes: Vec<Client> = (0..3).map(|node| clients[(leader + node) % 3].clone()).collect();
        watchers.spawn(async move { (prefix, watch(nodes, number, prefix, "0", events_max).await) });
    }
    let mut random = seed::random(99);
    let ttl = until_answered(&clients, &mut random, Method::PUT, "v1/kv/w/ttl?ttl=1s", "t", "").await;
    assert_eq!(ttl.unwrap().status, 201);

    let done = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(clients.clone(), writer, Arc::clone(&done)));
    }
    for (part, graceful) in [(1, false), (2, true), (3, false)] {
        let target = WRITERS * WRITES * part / 4;
        wait::until(BOUND, "writes", async || {
            let done = done.load(Ordering::Relaxed);
            if done >= target { Ok(()) } else { Err(format!("{done} of {target}")) }
        })
        .await
        .unwrap();
        let leader = cluster.leader().await.unwrap();
        if graceful {
            assert!(cluster.terminate(leader).await.unwrap().success());
        } else {
            cluster.kill(leader).unwrap();
        }
        // The others elect a new one meanwhile; the writers and watchers are there already.
        cluster.restart(leader).await.unwrap();
    }
    let mut written: Vec<Change> = Vec::new();
    while let Some(writer) = writers.join_next().await {
        written.extend(writer.unwrap().unwrap());
    }
    written.sort();
    // The watcher of a part of the keys ends with the second of these.
    for end in [END, "w/1/end"] {
        let path = format!("v1/kv/{end}");
        let end = until_answered(&clients, &mut random, Method::PUT, &path, "end", "").await;
        assert_eq!(end.unwrap().status, 201);
    }

    while let Some(watcher) = watchers.join_next().await {
        let (prefix, seen) = watcher.unwrap();
        let (seen, resumed) = seen.unwrap();
        let expected: Vec<&Change> = written.iter().filter(|change| change.key.starts_with(prefix)).collect();
        println!("watcher of {prefix:?}: {} events, resumed {resumed} times", seen.len());
        assert!(resumed >= 1, "the node that it watched on first did not go");
        let (own, of_ttl): (Vec<&Change>, Vec<&Change>) = seen
            .iter()
            .filter(|change| !change.key.ends_with("end"))
            .partition(|change| change.key != "w/ttl");
        for (at, (seen, expected)) in own.iter().zip(&expected).enumerate() {
            let plain = |change: &Change| Change { position: 0, ..change.clone() };
            assert_eq!(plain(seen), plain(expected), "event {at}");
        }
        assert_eq!(own.len(), expected.len());
        if prefix == "w/" {
            let kinds: Vec<&str> = of_ttl.iter().map(|change| change.kind.as_str()).collect();
            assert_eq!(kinds, ["put", "expire"]);
        }
    }
}

/// Watches until the last write, on another node whenever the stream ends, and after `events_max` events.
/// Gives how often it went on elsewhere.
async fn watch(
    nodes: Vec<Client>,
    number: u64,
    prefix: &str,
    begin: &str,
    events_max: usize,
) -> Result<(Vec<Change>, usize)> {
    let end = if prefix == "w/" { END } else { "w/1/end" };
    let mut random = seed::random(1000 + number);
    let (mut seen, mut last_id, mut resumed) = (Vec::new(), begin.to_owned(), 0);
    let begun = Instant::now();
    for attempt in 0.. {
        ensure!(begun.elapsed() < BOUND, "the end was not seen within {BOUND:?}, but {} events", seen.len());
        let node = if attempt == 0 { 0 } else { random.random_range(0..nodes.len()) };
        let Ok(mut events) = nodes[node].watch(prefix, &last_id).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        resumed += usize::from(attempt > 0);
        let events_max =
            if events_max == usize::MAX { events_max } else { random.random_range(1..=events_max) };
        for _ in 0..events_max {
            // A node that is killed breaks the connection; one that stops ends the stream.
            let Ok(Some(event)) = events.next().await else { break };
            let change = change(&event)?;
            let is_end = change.key == end;
            seen.push(change);
            if is_end {
                return Ok((seen, resumed));
            }
        }
        // Also that of a heartbeat.
        last_id = events.last_id().to_owned();
    }
    unreachable!("the loop has no end")
}

fn change(event: &Event) -> Result<Change> {
    let text = |name: &str| event.data[name].as_str().unwrap_or_default().to_owned();
    let revision = event.data["revision"].as_u64().context("no revision")?;
    let id = event.id.split('.').next().unwrap_or_default();
    ensure!(id == revision.to_string(), "{event:?}");
    Ok(Change {
        revision,
        position: 0,
        kind: event.kind.clone(),
        key: text("key"),
        value: String::from_utf8(BASE64_STANDARD.decode(text("value"))?)?,
        created: event.data["created"] == true,
    })
}

/// Writes, one after the other, each with an idempotency key until a node says what became of it. Gives all
/// changes of keys.
async fn write(clients: Vec<Client>, writer: usize, done: Arc<AtomicUsize>) -> Result<Vec<Change>> {
    let mut random = seed::random(writer as u64);
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let mut changes = Vec::new();
    for number in 0..WRITES {
        let once = format!("watch-{writer}-{number}");
        let key = |n: u32| format!("w/{writer}/{n}");
        let (first, second) = (key(random.random_range(0..6)), key(random.random_range(6..9)));
        let value = format!("{writer}:{number}");
        // What is asked for, and the changes that it makes: `None` is a delete.
        let (method, path, body, steps): (_, _, _, Vec<(String, Option<String>)>) = match random
            .random_range(0..10)
        {
            0..5 => (Method::PUT, format!("v1/kv/{first}"), value.clone(), vec![(first, Some(value))]),
            5..7 => (Method::DELETE, format!("v1/kv/{first}"), String::new(), vec![(first, None)]),
            7..9 => {
                let body = json!({"then": [
                    {"op": "put", "key": first, "text": value},
                    {"op": "put", "key": format!("other/{writer}"), "text": value},
                    {"op": "delete", "key": second},
                    {"op": "put", "key": second, "text": value},
                ]});
                let steps = vec![(first, Some(value.clone())), (second.clone(), None), (second, Some(value))];
                (Method::POST, "v1/txn".to_owned(), body.to_string(), steps)
            }
            _ => {
                let all = keys.keys().map(|key| (key.clone(), None)).collect();
                (Method::DELETE, format!("v1/kv?prefix=w%2F{writer}%2F"), String::new(), all)
            }
        };
        let reply = until_answered(&clients, &mut random, method, &path, &body, &once).await?;
        let revision = reply.header("hearth-revision").parse().context("hearth-revision")?;
        for (key, value) in steps {
            let position = changes.len();
            let note = |kind: &str, value: String, created| Change {
                revision,
                position,
                kind: kind.to_owned(),
                key: key.clone(),
                value,
                created,
            };
            match value {
                Some(value) => {
                    let created = keys.insert(key.clone(), value.clone()).is_none();
                    changes.push(note("put", value, created));
                }
                None if keys.remove(&key).is_some() => changes.push(note("delete", String::new(), false)),
                None => {}
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(changes)
}

/// Sends the same request, to any node, until one neither fails nor says that it could not.
async fn until_answered(
    clients: &[Client],
    random: &mut StdRng,
    method: Method,
    path: &str,
    body: &str,
    once: &str,
) -> Result<Reply> {
    let begun = Instant::now();
    let once = if once.is_empty() { format!("once-{}", random.random::<u64>()) } else { once.to_owned() };
    loop {
        let client = &clients[random.random_range(0..clients.len())];
        let headers = [("content-type", "application/json"), ("idempotency-key", &*once)];
        let failed = match client.request(method.clone(), path, &headers, body.to_owned()).await {
            Ok(reply) if reply.status < 500 && reply.status != 429 => {
                ensure!(reply.status < 300 || reply.status == 404, "{path}: {}", reply.text());
                return Ok(reply);
            }
            Ok(reply) => reply.text(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(begun.elapsed() < BOUND, "{path}: not answered within {BOUND:?}: {failed}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A node's history begins when it starts: what is older is 410 there, and still to be had elsewhere.
#[tokio::test]
async fn a_restarted_node_says_how_far_back_it_goes() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    for number in 0..3 {
        let put = clients[0].request(Method::PUT, &format!("v1/kv/k{number}"), &[], "v").await.unwrap();
        assert_eq!(put.status, 201);
    }
    // A stop writes a checkpoint, so that nothing is left to be applied again.
    cluster.wait_converged().await.unwrap();
    assert!(cluster.terminate(0).await.unwrap().success());
    cluster.restart(0).await.unwrap();
    let gone = clients[0].get("v1/watch?prefix=k&after=0").await.unwrap();
    let problem = gone.json().unwrap();
    assert_eq!((gone.status, &problem["code"]), (410, &json!("compacted")), "{}", gone.text());
    let oldest: u64 = gone.header("hearth-oldest-revision").parse().unwrap();
    assert!(problem["detail"].as_str().unwrap().ends_with(&format!(" is {oldest}")), "{problem}");
    let mut elsewhere = clients[1].watch("k", "0").await.unwrap();
    let mut here = clients[0].watch("k", &oldest.to_string()).await.unwrap();
    for number in 0..3 {
        let event = elsewhere.next().await.unwrap().unwrap();
        assert_eq!(event.data["key"], json!(format!("k{number}")));
        assert!(event.data["revision"].as_u64().unwrap() <= oldest);
    }
    let put = clients[2].request(Method::PUT, "v1/kv/k3", &[], "v").await.unwrap();
    for events in [&mut here, &mut elsewhere] {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!((event.id.as_str(), &event.data["key"]), (put.header("hearth-revision"), &json!("k3")));
    }
}

/// A node that is behind for so long that it gets a snapshot does not know what happened in between: its
/// watchers are told, and go on elsewhere without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_ends_the_streams_of_the_node_that_installs_it() {
    const WRITES: usize = 400;
    let flags = ["--raft-log-keep-entries=20", "--storage-checkpoint-entries=50"];
    let options = Options { flags: flags.map(String::from).to_vec(), ..Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let leader = cluster.leader().await.unwrap();
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut busy = clients[away].watch("k", "").await.unwrap();
    let mut quiet = clients[away].watch("quiet", "").await.unwrap();
    let put = async |number: usize| {
        let path = format!("v1/kv/k{number}");
        let reply = clients[leader].request(Method::PUT, &path, &[], "v").await.unwrap();
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    put(0).await;
    assert_eq!(busy.next().await.unwrap().unwrap().data["key"], "k0");

    cluster.pause(away).unwrap();
    let last = clients[leader].metric("hearth_raft_last_log_index").await.unwrap();
    for number in 1..WRITES {
        put(number).await;
    }
    wait::until(BOUND, "the logs purged past what the paused node has", async || {
        for node in [leader, other] {
            let purged = clients[node].metric("hearth_raft_purged_index").await;
            let purged = purged.map_err(|error| format!("{error:#}"))?;
            if purged <= last + 20 {
                return Err(format!("purged {purged}, wanted more than {last} and what was on its way"));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    cluster.resume(away).unwrap();

    let mut seen = 1;
    let overflow = loop {
        let event = busy.next().await.unwrap().unwrap();
        if event.kind == "overflow" {
            break event;
        }
        assert_eq!(event.data["key"], json!(format!("k{seen}")));
        seen += 1;
    };
    assert!(seen < WRITES, "it was given everything");
    assert_eq!(overflow.data["resume_after"], json!(busy.last_id()));
    assert_eq!(busy.next().await.unwrap(), None);
    assert_eq!(quiet.next().await.unwrap().unwrap().kind, "overflow");

    let mut elsewhere = clients[other].watch("k", busy.last_id()).await.unwrap();
    for number in seen..WRITES {
        assert_eq!(elsewhere.next().await.unwrap().unwrap().data["key"], json!(format!("k{number}")));
    }
    println!("{seen} events before the snapshot, {} elsewhere", WRITES - seen);
}
