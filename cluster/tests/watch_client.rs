//! The typed client's watch: through nodes that are killed, stopped and hang, it gives each change once and
//! in order.

use std::time::Duration;

use anyhow::{Context, Result};
use hearth_cli::client::{Client, Options as ClientOptions};
use hearth_cli::endpoint::Endpoint;
use hearth_cli::error::Error;
use hearth_cli::idempotency::IdempotencyKey;
use hearth_cli::kv::{Delete, Put};
use hearth_cli::txn::{Op, Txn};
use hearth_cli::watch::{Change, Event, Step, WatchOptions};
use hearth_cluster::{Cluster, Options, wait};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::{JoinHandle, JoinSet};

const WRITERS: usize = 3;
/// Writes of each writer in a round.
const WRITES: usize = 60;
/// What is done, one after the other, to the node that is watched.
const ROUNDS: [Away; 6] = [Away::Killed, Away::Hangs, Away::Stopped, Away::Killed, Away::Hangs, Away::Killed];
/// The last write: whoever sees it has seen all.
const END: &str = "w/end";
const BOUND: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
enum Away {
    Killed,
    Stopped,
    Hangs,
}

/// A change as a writer was told that it made it, or as the watch told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    revision: u64,
    /// Which of its revision, from 0.
    position: usize,
    key: String,
    /// `None` for a delete.
    value: Option<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_gives_each_change_once_while_its_nodes_go() {
    let flags = ["--watch-heartbeat-interval=200ms".to_owned()].to_vec();
    let mut cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let (tell, watched) = channel(None);
    let watcher = watch(client(&cluster).unwrap(), tell);
    let node = wait_watched(&cluster, &watched).await.unwrap();
    println!("watching on {}", cluster.node(node).name);

    let (mut written, mut number) = (Vec::new(), 0);
    for away in ROUNDS {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(client(&cluster).unwrap(), writer, number));
        }
        number += WRITES;
        let node = wait_watched(&cluster, &watched).await.unwrap();
        println!("{away:?}: {}", cluster.node(node).name);
        match away {
            Away::Killed => cluster.kill(node).unwrap(),
            Away::Stopped => assert!(cluster.terminate(node).await.unwrap().success()),
            Away::Hangs => cluster.pause(node).unwrap(),
        }
        while let Some(writes) = writers.join_next().await {
            written.extend(writes.unwrap().unwrap());
        }
        match away {
            Away::Hangs => {
                let hung = Endpoint::from(cluster.node(node).http);
                let left = async || match watched.borrow().as_ref() {
                    Some(endpoint) if *endpoint == hung => Err("on it still".to_owned()),
                    _ => Ok(()),
                };
                wait::until(BOUND, "the watch leaves the node that hangs", left).await.unwrap();
                cluster.resume(node).unwrap();
            }
            Away::Killed | Away::Stopped => cluster.restart(node).await.unwrap(),
        }
    }
    let last = client(&cluster).unwrap().kv_put(END, "", &Put::default()).await.unwrap();
    written.push(Told { revision: last.revision, position: 0, key: END.into(), value: Some(String::new()) });
    written.sort();
    let (told, lost) = watcher.await.unwrap().unwrap();
    println!("{} changes, the stream was lost {lost} times", told.len());
    if let Some(at) = (0..written.len().max(told.len())).find(|at| written.get(*at) != told.get(*at)) {
        panic!("change {at}: written {:?}, told {:?}", written.get(at), told.get(at));
    }
    assert!(lost >= ROUNDS.len(), "the watched node went {} times, noticed {lost}", ROUNDS.len());
}

/// One whose reads and writes outlast the loss of a node.
fn client(cluster: &Cluster) -> Result<Client> {
    let options = ClientOptions { request_timeout: Duration::from_secs(30), ..ClientOptions::default() };
    Ok(Client::new(cluster.endpoints(), options)?)
}

/// Watches until [`END`], and tells who sends the stream. Gives the changes, and how often the stream was
/// lost.
fn watch(client: Client, watched: Sender<Option<Endpoint>>) -> JoinHandle<Result<(Vec<Told>, usize), Error>> {
    tokio::spawn(async move {
        let mut watch = client.watch(WatchOptions {
            prefix: "w/".into(),
            silence_max: Duration::from_secs(1),
            ..WatchOptions::default()
        });
        let (mut told, mut lost) = (Vec::new(), 0);
        loop {
            match watch.next().await? {
                Step::Opened { endpoint, .. } => drop(watched.send_replace(Some(endpoint))),
                Step::Lost { endpoint, reason } => {
                    println!("lost {endpoint}: {reason}");
                    watched.send_replace(None);
                    lost += 1;
                }
                Step::Event(event) => {
                    let change = told_of(event, told.last());
                    told.push(change);
                    if told.last().is_some_and(|last| last.key == END) {
                        return Ok((told, lost));
                    }
                }
            }
        }
    })
}

fn told_of(event: Event, before: Option<&Told>) -> Told {
    let position = before.filter(|told| told.revision == event.revision).map_or(0, |told| told.position + 1);
    let value = match event.change {
        Change::Put(set) => set.value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        Change::Delete | Change::Expire => None,
    };
    Told { revision: event.revision, position, key: event.key, value }
}

/// The index of the node that sends the stream, once one does.
async fn wait_watched(cluster: &Cluster, watched: &Receiver<Option<Endpoint>>) -> Result<usize> {
    let endpoint =
        wait::until(BOUND, "a stream", async || watched.borrow().clone().ok_or_else(|| "none".to_owned()));
    let endpoint = endpoint.await?;
    cluster.endpoints().iter().position(|own| *own == endpoint).context("no such node")
}

/// Puts, deletes and transactions on keys of the writer's own, numbered from `first`; gives what they
/// changed. Each has an idempotency key, so that what the client was told is what happened.
async fn write(client: Client, writer: usize, first: usize) -> Result<Vec<Told>> {
    let mut written = Vec::new();
    for number in first..first + WRITES {
        let once: IdempotencyKey = format!("{writer}-{number}").parse()?;
        let key = format!("w/{writer}/{}", number % 5);
        let value = number.to_string();
        if number % 10 == 9 {
            let second = format!("w/{writer}/t");
            let txn = Txn::new().then(Op::put(&key, value.clone())).then(Op::put(&second, value.clone()));
            let done = client.txn(&txn.then(Op::put("other", "x")), Some(&once)).await?;
            for (position, key) in [key, second].into_iter().enumerate() {
                written.push(Told { revision: done.revision, position, key, value: Some(value.clone()) });
            }
        } else if number % 10 == 8 {
            // A revision of its own, but without an answer that tells it: the key is put first and alone.
            let put = Put { idempotency_key: Some(once), ..Put::default() };
            let done = client.kv_put(&key, value.clone(), &put).await?;
            written.push(Told { revision: done.revision, position: 0, key: key.clone(), value: Some(value) });
            let txn = Txn::new().then(Op::delete(&key));
            let once = format!("{writer}-{number}-delete").parse()?;
            let done = client.txn(&txn, Some(&once)).await?;
            written.push(Told { revision: done.revision, position: 0, key, value: None });
        } else {
            let put = Put { idempotency_key: Some(once), ..Put::default() };
            let done = client.kv_put(&key, value.clone(), &put).await?;
            written.push(Told { revision: done.revision, position: 0, key, value: Some(value) });
        }
    }
    Ok(written)
}

#[tokio::test]
async fn a_watch_that_comes_too_late_is_told_so() {
    let flags = ["--watch-history-events=10".to_owned()].to_vec();
    let cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let client = client(&cluster).unwrap();
    let mut first = 0;
    for number in 0..40 {
        let written = client.kv_put("k", number.to_string(), &Put::default()).await.unwrap();
        first = if number == 0 { written.revision } else { first };
    }
    assert!(client.kv_delete("k", &Delete::default()).await.unwrap());
    let options = WatchOptions { after: Some(first.to_string()), ..WatchOptions::default() };
    let error = client.watch(options).next().await.unwrap_err();
    let Error::Compacted { oldest: Some(oldest), .. } = error else { panic!("{error:?}") };
    assert!(oldest > first, "{oldest} is not after {first}");
    // From there on it works.
    let options = WatchOptions { after: Some(oldest.to_string()), ..WatchOptions::default() };
    let event = client.watch(options).next_event().await.unwrap();
    assert!(event.revision > oldest, "{event:?}");
    assert_eq!(event.key, "k");
}
