//! The store of one node, in process: what survives closing it, and what it refuses.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_raft::{
    EventId, Member, Op, OpenError, Reply, Store, StoreOptions, WatchError, Watched, WriteError,
};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;

fn options(dir: &Path, peer: String) -> StoreOptions {
    StoreOptions {
        name: "n1".into(),
        data_dir: dir.join("data"),
        initial_cluster: vec![Member { name: "n1".into(), peer }],
        http_advertise: "127.0.0.1:0".into(),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(300),
        election_timeout_max: Duration::from_millis(600),
        request_timeout: Duration::from_secs(5),
        data_bytes_max: 1000,
        disk_free_min: 0,
        proposals_max: 100,
        checkpoint_entries: 10,
        checkpoint_bytes: 1 << 20,
        stall_timeout: Duration::from_secs(2),
        checkpoint_interval: Duration::from_secs(60),
        log_keep_entries: 5,
        log_catch_up_bytes: 1 << 30,
        idempotency_window: Duration::from_secs(600),
        idempotency_keys_max: 1000,
        history_events: 1000,
        history_bytes: 1 << 20,
    }
}

async fn close(store: Store) {
    store.hand_over().await;
    store.close(Duration::from_secs(60)).await.unwrap();
}

async fn open(dir: &Path) -> Result<(Store, Registry), OpenError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(dir, listener.local_addr().unwrap().to_string());
    let registry = Registry::new();
    Ok((Store::open(options, listener, &registry).await?, registry))
}

fn put(key: &str, value_bytes: usize) -> Op {
    Op::Put { key: key.into(), value: vec![b'x'; value_bytes].into(), content_type: String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_closing() {
    let dir = TempDir::new().unwrap();
    let mut written = 0;
    for round in 0..4 {
        let (store, _) = open(dir.path()).await.unwrap();
        let view = store.linearizable_view().await.unwrap();
        assert_eq!(view.ages.get("n").map_or(0, |list| list.len()), written, "round {round}");
        for _ in 0..23 {
            let age = Op::AgeAppend { name: "n".into(), age: u8::try_from(written).unwrap() };
            store.write(&age).await.unwrap();
            written += 1;
        }
        let ages = store.linearizable_view().await.unwrap();
        let ages: Vec<_> = ages.ages.get("n").unwrap().iter().map(usize::from).collect();
        assert_eq!(ages, (0..written).collect::<Vec<_>>());
        close(store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_limit_stops_growth_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    store.write(&put("a", 400)).await.unwrap();
    store.write(&put("b", 400)).await.unwrap();
    let full = store.write(&put("c", 400)).await.unwrap_err();
    assert_eq!(full, WriteError::StorageFull { data_bytes_max: 1000 });
    let smaller = store.write(&put("a", 300)).await.unwrap();
    assert_eq!(smaller.reply, Reply::Written { created: false });
    let gone = store.write(&Op::Delete { key: "b".into() }).await.unwrap();
    assert_eq!(gone.reply, Reply::Deleted { existed: true });
    store.write(&put("c", 400)).await.unwrap();
    assert!(gone.revision > smaller.revision);
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_refused() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    let error = open(dir.path()).await.err().unwrap().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    close(store).await;
}

/// The log shrinks behind checkpoints, and the state is whole again from checkpoint and rest of the
/// log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_checkpoints() {
    let dir = TempDir::new().unwrap();
    let (store, registry) = open(dir.path()).await.unwrap();
    let purged = |store: &Store| {
        store.refresh_metrics();
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "hearth_raft_purged_index").unwrap();
        family.get_metric()[0].get_gauge().get_value()
    };
    let mut writes = 0;
    while purged(&store) < 300.0 {
        store.write(&put(&format!("k{}", writes % 7), writes % 50)).await.unwrap();
        writes += 1;
        assert!(writes < 100_000, "the log is not purged");
    }
    let before = store.linearizable_view().await.unwrap();
    close(store).await;
    let (store, _) = open(dir.path()).await.unwrap();
    let after = store.linearizable_view().await.unwrap();
    assert!(before.keys.iter().eq(after.keys.iter()));
    assert_eq!(before.data_bytes, after.data_bytes);
    close(store).await;
}

/// An event is of what everybody can read, on this node also at once and without asking the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_of_a_change_can_read_it() {
    const PUTS: usize = 500;
    let dir = TempDir::new().unwrap();
    let store = Arc::new(open(dir.path()).await.unwrap().0);
    let mut watcher = store.watch("k", EventId::whole(0)).await.unwrap();
    let reading = Arc::clone(&store);
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        while seen < PUTS {
            let mut events = VecDeque::new();
            let watched = poll_fn(|cx| watcher.poll_events(cx, 10, &mut events)).await;
            assert_eq!(watched, Watched::Events);
            for event in events {
                let (view, _) = reading.local_view();
                let found = view.keys.get(&event.key).map_or(0, |record| record.revision);
                assert!(found >= event.id.revision(), "told of {event:?}, found {found}");
                seen += 1;
            }
        }
    });
    for number in 0..PUTS {
        store.write(&put(&format!("k{}", number % 3), 10)).await.unwrap();
    }
    reader.await.unwrap();
    close(Arc::into_inner(store).unwrap()).await;
}

/// What this node has not applied yet may come; what it does not have any more will not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_waits_for_what_is_to_come_and_refuses_what_is_gone() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    let written = store.write(&put("a", 10)).await.unwrap();
    let ahead = EventId::whole(written.revision + 1);
    let second = put("b", 10);
    let (watched, put_b) = tokio::join!(store.watch("", ahead), store.write(&second));
    assert_eq!(put_b.unwrap().revision, written.revision + 1);
    let mut watcher = watched.unwrap();
    store.write(&put("c", 10)).await.unwrap();
    let mut events = VecDeque::new();
    poll_fn(|cx| watcher.poll_events(cx, 10, &mut events)).await;
    assert_eq!(events.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["c"]);
    drop(watcher);
    close(store).await;

    // The stop wrote a checkpoint, and the history begins with it.
    let (store, _) = open(dir.path()).await.unwrap();
    let gone = store.watch("", EventId::whole(written.revision)).await.err().unwrap();
    let WatchError::Compacted { oldest, .. } = gone else { panic!("{gone}") };
    assert!(oldest > written.revision, "{oldest}");
    let mut watcher = store.watch("", EventId::whole(oldest)).await.unwrap();
    store.end_watchers();
    let ended = poll_fn(|cx| watcher.poll_events(cx, 10, &mut events)).await;
    assert_eq!(ended, Watched::Stopped);
    drop(watcher);
    close(store).await;
}
