use std::path::Path;

use super::*;
use crate::command::{Command, Op};
use crate::state::history::HistoryLimits;
use crate::state::tests::{apply, put};
use crate::types::Entry;

/// Changes the state as a batch does.
fn write(published: &Published, index: u64) {
    let mut state = published.lock().unwrap();
    apply(&mut state, index, put("k", b"v"));
    published.applied(&state);
}

/// Whether the next batch publishes a view.
fn is_published(published: &Published, index: u64) -> bool {
    write(published, index);
    published.newest().is_some()
}

#[test]
fn only_who_reads_has_views_published() {
    let published = Published::new(Arc::new(State::default()));
    assert!(!is_published(&published, 1));
    assert_eq!(published.view().revision(), 1);
    assert!(is_published(&published, 2));
    assert!(!is_published(&published, 3));
    // What the store asks again and again by itself.
    assert_eq!(published.applied_index(), 3);
    assert_eq!(published.due_ms(), u64::MAX);
    assert_eq!(published.clock_ms(), 1003);
    assert!(published.data_bytes() > 0);
    assert_eq!(published.look(State::revision), 3);
    assert!(!is_published(&published, 4));
    assert_eq!(published.view().revision(), 4);
}

fn machine(dir: &Path) -> StateMachine {
    let metrics = StateMetrics::register(&prometheus::Registry::new()).unwrap();
    Checkpoints::create(dir).unwrap();
    let (checkpoints, view) = Checkpoints::open(
        dir,
        metrics.checkpoint_duration_seconds.clone(),
        metrics.checkpoint_written_unix_seconds.clone(),
    )
    .unwrap();
    let published = Published::new(view);
    let limits = HistoryLimits { events_max: 1, bytes_max: 1000 };
    let watches = Watches::new(limits, published.applied_index());
    StateMachine::new(published, Arc::new(checkpoints), watches, metrics)
}

async fn apply_entries(machine: &mut StateMachine, indexes: std::ops::RangeInclusive<u64>) {
    let entries = indexes.map(|index| {
        let command = Command::encode(&put(&format!("k{index}"), b"v")).unwrap().stamped(index);
        let log_id = LogId::new_term_index(1, index);
        Ok((Entry { log_id, payload: EntryPayload::Normal(command) }, None))
    });
    machine.apply(futures_util::stream::iter(entries)).await.unwrap();
}

/// openraft purges what it is told is in a snapshot (invariant 4). While it starts it must not hear of
/// what was only replayed; afterwards a follower gets the newest.
#[tokio::test]
async fn a_start_takes_only_what_is_at_rest_for_a_snapshot() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut first = machine(dir.path());
    assert!(first.get_current_snapshot().await.unwrap().is_none());
    apply_entries(&mut first, 1..=2).await;
    let built = first.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, Some(LogId::new_term_index(1, 2)));
    apply_entries(&mut first, 3..=3).await;
    drop(first);

    let mut second = machine(dir.path());
    apply_entries(&mut second, 3..=4).await;
    let at_rest = second.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(at_rest.meta, built.meta);
    // It has no content that could be sent under that name, or be installed.
    assert!(at_rest.snapshot.view().is_none());
    assert!(second.install_snapshot(&at_rest.meta, at_rest.snapshot).await.is_err());
    assert_eq!(second.published.applied_index(), 4);

    second.published.started();
    let newest = second.get_current_snapshot().await.unwrap().unwrap();
    let view = Arc::clone(newest.snapshot.view().unwrap());
    assert_eq!((view.revision(), view.meta()), (4, newest.meta));
}

/// A panic within an entry leaves a half of it, which is neither written to disk nor sent to anybody.
#[tokio::test]
async fn what_is_half_applied_goes_nowhere() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut machine = machine(dir.path());
    apply_entries(&mut machine, 1..=2).await;
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let published = machine.published.clone();
    let panicking = std::thread::spawn(move || {
        let mut state = published.lock().unwrap();
        apply(&mut state, 3, put("k", b"half"));
        panic!("on purpose");
    });
    panicking.join().unwrap_err();
    assert!(machine.published.freeze().is_err());
    assert!(machine.get_snapshot_builder().await.build_snapshot().await.is_err());
    assert!(machine.get_current_snapshot().await.is_err());
    assert_eq!(machine.checkpoints.last().revision(), 2);
}

/// What is overwritten must not stay in memory because somebody read it once, or because it was written
/// to disk.
#[tokio::test]
async fn overwritten_values_are_let_go_of() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut machine = machine(dir.path());
    apply_entries(&mut machine, 1..=2).await;
    let record = Arc::downgrade(machine.published.view().keys.get("k1").unwrap());
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let command = Command::encode(&Op::Delete { key: "k1".into() }).unwrap().stamped(3);
    for index in 3..=4 {
        let log_id = LogId::new_term_index(1, index);
        let entry = Entry { log_id, payload: EntryPayload::Normal(command.clone()) };
        machine.apply(futures_util::stream::iter([Ok((entry, None))])).await.unwrap();
    }
    assert_eq!(record.strong_count(), 0);
}
