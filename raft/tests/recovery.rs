//! A data directory in which something is missing or old: the node refuses to start and says what, or
//! what is gone was not needed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gauge holds small whole numbers"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_raft::{Member, Op, OpenError, Store, StoreOptions};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;

async fn open(data_dir: &Path) -> Result<Store, OpenError> {
    open_with(data_dir, &Registry::new()).await
}

async fn open_with(data_dir: &Path, registry: &Registry) -> Result<Store, OpenError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = StoreOptions {
        name: "n1".into(),
        data_dir: data_dir.to_owned(),
        initial_cluster: vec![Member { name: "n1".into(), peer: listener.local_addr().unwrap().to_string() }],
        http_advertise: "127.0.0.1:0".into(),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(100),
        election_timeout_max: Duration::from_millis(200),
        request_timeout: Duration::from_secs(20),
        data_bytes_max: 1 << 20,
        disk_free_min: 0,
        proposals_max: 100,
        checkpoint_entries: 10,
        checkpoint_bytes: 1 << 20,
        stall_timeout: Duration::from_secs(20),
        checkpoint_interval: Duration::from_secs(60),
        log_keep_entries: 5,
        log_catch_up_bytes: 1 << 30,
        idempotency_window: Duration::from_secs(600),
        idempotency_keys_max: 1000,
        history_events: 1000,
        history_bytes: 1 << 20,
    };
    Store::open(options, listener, registry).await
}

async fn close(store: Store) {
    store.hand_over().await;
    store.close(Duration::from_secs(60)).await.unwrap();
}

async fn write(store: &Store, keys: std::ops::Range<usize>) {
    for number in keys {
        let key = format!("k{number}");
        let op = Op::Put { key: key.into(), value: vec![b'x'; 500].into(), content_type: String::new() };
        store.write(&op).await.unwrap();
    }
}

fn purged(registry: &Registry) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == "hearth_raft_purged_index").unwrap();
    family.get_metric()[0].get_gauge().get_value() as u64
}

/// Everything below `dir`, directories before what is in them.
fn everything(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        found.push(path.clone());
        if path.is_dir() {
            found.extend(everything(&path));
        }
    }
    found
}

fn copied(from: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for path in everything(from).into_iter().filter(|path| !path.ends_with("ballast")) {
        let target = copy.path().join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            fs::create_dir(target).unwrap();
        } else {
            fs::copy(path, target).unwrap();
        }
    }
    copy
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_or_was_not_needed() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).await.unwrap();
    write(&store, 0..60).await;
    close(store).await;
    let early = copied(dir.path());
    let registry = Registry::new();
    let store = open_with(dir.path(), &registry).await.unwrap();
    let early_revision = store.revision();
    for round in 0.. {
        write(&store, 30..120).await;
        store.refresh_metrics();
        if purged(&registry) > early_revision {
            break;
        }
        assert!(round < 1000, "the log is not purged");
    }
    let expected = store.linearizable_view().await.unwrap();
    close(store).await;

    let names: Vec<PathBuf> = everything(dir.path())
        .into_iter()
        .map(|path| path.strip_prefix(dir.path()).unwrap().to_owned())
        .filter(|name| !name.ends_with("ballast"))
        .collect();
    let mut refused = Vec::new();
    for name in &names {
        let copy = copied(dir.path());
        remove(&copy.path().join(name));
        match open(copy.path()).await {
            Err(error) => {
                let error = error.to_string();
                println!("without {}: {error}", name.display());
                assert!(error.contains(&copy.path().display().to_string()), "{}: {error}", name.display());
                assert!(error.contains("replace the member") || error.contains("add it anew"), "{error}");
                refused.push(name.display().to_string());
            }
            Ok(store) => {
                println!("without {}: harmless", name.display());
                let view = store.linearizable_view().await.unwrap();
                assert_eq!(
                    (view.hash, view.data_bytes),
                    (expected.hash, expected.data_bytes),
                    "{}",
                    name.display()
                );
                assert!(view.keys.iter().eq(expected.keys.iter()), "{}", name.display());
                close(store).await;
            }
        }
    }
    for needed in ["identity.json", "log", "log-newest", "state", "state/current"] {
        assert!(refused.iter().any(|name| name == needed), "starts without {needed}");
    }
    for end in [".wal", "/db", "state/00000001"] {
        assert!(refused.iter().any(|name| name.ends_with(end)), "starts without {end}");
    }

    // More than one thing at once.
    let together: [&[&str]; 5] = [
        &["log", "log-newest"],
        &["state", "log", "log-newest"],
        &["identity.json", "log", "log-newest"],
        &["identity.json", "state"],
        &["identity.json", "state/current"],
    ];
    for gone in together {
        let copy = copied(dir.path());
        gone.iter().for_each(|name| remove(&copy.path().join(name)));
        let error =
            open(copy.path()).await.err().unwrap_or_else(|| panic!("starts without {gone:?}")).to_string();
        println!("without {gone:?}: {error}");
        assert!(error.contains("replace the member") || error.contains("add it anew"), "{error}");
    }

    // A state from a backup, under a log that was purged since.
    let copy = copied(dir.path());
    remove(&copy.path().join("state"));
    fs::rename(early.path().join("state"), copy.path().join("state")).unwrap();
    let error = open(copy.path()).await.err().unwrap().to_string();
    println!("an older state: {error}");
    assert!(error.contains("it is an older state") && error.contains("add it anew"), "{error}");
}
