//! openraft's conformance suite over the real storage, and what it does not cover: group commit and
//! restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::EntryPayload;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::*;
use crate::command::{Command, Op};
use crate::metrics::StateMetrics;
use crate::state::checkpoint::Checkpoints;
use crate::state::history::HistoryLimits;
use crate::state::{Published, StateMachine, Watches};

mod damage;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let (log, machine) = open(dir.path());
        Ok((dir, log, machine))
    }
}

/// The log in `dir/log`, created if need be.
fn opened(dir: &Path, options: &LogOptions) -> io::Result<LogStore> {
    let dir = dir.join("log");
    std::fs::create_dir_all(&dir)?;
    LogStore::create(&dir)?;
    LogStore::open(&dir, options, &Registry::new())
}

fn open(dir: &Path) -> (LogStore, StateMachine) {
    let registry = Registry::new();
    let log = opened(dir, &LogOptions::default()).unwrap();
    let metrics = StateMetrics::register(&registry).unwrap();
    Checkpoints::create(&dir.join("state")).unwrap();
    let (checkpoints, view) = Checkpoints::open(
        &dir.join("state"),
        metrics.checkpoint_duration_seconds.clone(),
        metrics.checkpoint_written_unix_seconds.clone(),
    )
    .unwrap();
    let published = Published::new(Arc::clone(&view));
    let history = HistoryLimits { events_max: 1000, bytes_max: 1 << 20 };
    let watches = Watches::new(history, view.revision());
    let machine = StateMachine::new(published, Arc::new(checkpoints), watches, metrics);
    (log, machine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn put(index: u64, value: Vec<u8>) -> Entry {
    let op = Op::Put { key: format!("k{index}").into(), value: value.into(), content_type: String::new() };
    Entry {
        log_id: LogId::new_term_index(1, index),
        payload: EntryPayload::Normal(Command::encode(&op).unwrap()),
    }
}

fn entry(index: u64, value_bytes: usize) -> Entry {
    put(index, vec![b'x'; value_bytes])
}

/// Like [`entry`], with a value of zeros.
fn zeros(index: u64, value_bytes: usize) -> Entry {
    put(index, vec![0; value_bytes])
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, synced) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await?;
    synced.await.unwrap()
}

#[tokio::test]
async fn entries_vote_and_committed_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, (0..10).map(|i| entry(i, 100)).collect()).await.unwrap();
    log.save_committed(Some(LogId::new_term_index(1, 7))).await.unwrap();
    log.save_vote(&Vote::new_committed(3, 2)).await.unwrap();
    drop(log);

    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (0..10).map(|i| entry(i, 100)).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 2)));
    assert_eq!(Vote::from(log.held_vote().get()), Vote::new_committed(3, 2));
    assert_eq!(log.read_committed().await.unwrap(), Some(LogId::new_term_index(1, 7)));
}

/// Appends that arrive while an fdatasync is under way share the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_appends_share_one_fsync() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    let appends = 500;
    let durable = Arc::new(AtomicU64::new(0));
    let mut waiters = Vec::new();
    for index in 0..appends {
        let (done, synced) = TypeConfig::oneshot();
        log.append([entry(index, 100)], IOFlushed::signal(done)).await.unwrap();
        let durable = Arc::clone(&durable);
        waiters.push(tokio::spawn(async move {
            synced.await.unwrap().unwrap();
            durable.fetch_add(1, Ordering::Relaxed);
        }));
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(durable.load(Ordering::Relaxed), appends);
    let fsyncs = log.shared.fsync_seconds.get_sample_count();
    assert!((1..appends / 2).contains(&fsyncs), "{fsyncs} fsyncs for {appends} appends");
}

#[tokio::test]
async fn one_read_is_bounded_but_never_empty() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { read_bytes_max: 2500, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    append(&mut log, vec![entry(0, 5000), entry(1, 1000), entry(2, 1000), entry(3, 1000)]).await.unwrap();
    let lens = [(0, 1), (1, 2), (3, 1)];
    for (start, expected) in lens {
        assert_eq!(log.limited_get_log_entries(start, 4).await.unwrap().len(), expected, "from {start}");
    }
}

/// Space comes back when the log is purged, and what is behind the purge stays.
#[tokio::test]
async fn purged_files_are_removed() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { segment_bytes: 64 << 10, memory_bytes: 0, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    for index in (0..5000).step_by(50) {
        append(&mut log, (index..index + 50).map(|index| entry(index, 1000)).collect()).await.unwrap();
    }
    let before = log.disk_bytes();
    log.purge(LogId::new_term_index(1, 4900)).await.unwrap();
    // The second group is written after the files of the first are removed.
    append(&mut log, vec![entry(5000, 10)]).await.unwrap();
    log.save_vote(&Vote::new_committed(1, 2)).await.unwrap();
    assert!(log.disk_bytes() < before / 2, "{} of {before} bytes left", log.disk_bytes());
    let old = wal_files(dir.path()).len();
    assert!(old <= 4, "{old} files");
    drop(log);

    let mut log = opened(dir.path(), &options).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(LogId::new_term_index(1, 4900)));
    let expected: Vec<Entry> =
        (4901..5000).map(|index| entry(index, 1000)).chain([entry(5000, 10)]).collect();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), expected);
}

/// A crash may undo the removal of some of the files that were purged, not of others.
#[tokio::test]
async fn a_purged_file_that_comes_back_is_removed_again() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { segment_bytes: 8 << 10, memory_bytes: 0, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    for index in 0..60 {
        append(&mut log, vec![entry(index, 1000)]).await.unwrap();
    }
    let before = copied(&dir);
    log.purge(LogId::new_term_index(1, 50)).await.unwrap();
    append(&mut log, vec![entry(60, 1000)]).await.unwrap();
    drop(log);
    let left = wal_files(dir.path());
    let removed: Vec<PathBuf> = wal_files(before.path())
        .into_iter()
        .filter(|path| !dir.path().join("log").join(path.file_name().unwrap()).exists())
        .collect();
    assert!(removed.len() >= 3, "{removed:?}");
    // With a gap behind it, and without.
    for (back, stays) in [(&removed[..1], false), (&removed[removed.len() - 1..], true), (&removed[..], true)]
    {
        let copy = copied(&dir);
        for path in back {
            std::fs::copy(path, copy.path().join("log").join(path.file_name().unwrap())).unwrap();
        }
        let mut log = opened(copy.path(), &options).unwrap();
        let entries = log.try_get_log_entries(..).await.unwrap();
        assert_eq!(entries, (51..61).map(|index| entry(index, 1000)).collect::<Vec<_>>());
        assert_eq!(wal_files(copy.path()).len(), left.len() + if stays { back.len() } else { 0 });
        // Those that stay go with the next purge.
        log.purge(LogId::new_term_index(1, 51)).await.unwrap();
        log.save_vote(&Vote::new(2, 2)).await.unwrap();
        log.save_vote(&Vote::new(3, 2)).await.unwrap();
        assert!(wal_files(copy.path()).len() <= left.len() + 1);
    }
}

/// Whatever is done to it, the log holds what it should, now and after it was opened again, as it was closed or
/// as a kill leaves it; in small files, and with little memory, so that most entries are read from them.
#[tokio::test]
async fn a_log_is_what_was_done_to_it() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut random = |below: u64| rand::RngExt::random_range(&mut random, 0..below);
    let dir = TempDir::new().unwrap();
    let options = LogOptions { segment_bytes: 6 << 10, memory_bytes: 3000, read_bytes_max: 4000 };
    let mut log = opened(dir.path(), &options).unwrap();
    // Expected.
    let (mut entries, mut purged, mut vote): (Vec<Entry>, Option<u64>, Option<Vote>) =
        (Vec::new(), None, None);
    for step in 0..600 {
        let first = purged.map_or(0, |index: u64| index + 1);
        let next = first + entries.len() as u64;
        match random(20) {
            0 => {
                let keep = random(entries.len() as u64 + 1);
                let last = (first + keep).checked_sub(1);
                log.truncate_after(last.map(|index| LogId::new_term_index(1, index))).await.unwrap();
                entries.truncate(usize::try_from(keep).unwrap());
            }
            1 => {
                // Sometimes past the end, as a snapshot does.
                let upto = first + random(entries.len() as u64 + 3);
                log.purge(LogId::new_term_index(1, upto)).await.unwrap();
                let gone = usize::try_from(upto + 1 - first).unwrap().min(entries.len());
                entries.drain(..gone);
                purged = Some(upto);
            }
            2 => {
                let new = Vote::new(step, random(3));
                log.save_vote(&new).await.unwrap();
                vote = Some(new);
            }
            3 => {
                // A kill: what is durable is there, and nothing else is promised.
                let killed = Vote::new(step, 9);
                // Twice: behind the second, files that were purged before the first are gone.
                log.save_vote(&killed).await.unwrap();
                log.save_vote(&killed).await.unwrap();
                vote = Some(killed);
                let copy = copied(&dir);
                let mut copied = opened(copy.path(), &options).unwrap();
                assert!(copied.try_get_log_entries(..).await.unwrap() == entries, "step {step}");
                assert_eq!(copied.read_vote().await.unwrap(), vote, "step {step}");
                drop(log);
                log = opened(dir.path(), &options).unwrap();
            }
            _ => {
                let more: Vec<Entry> = (0..1 + random(4))
                    .map(|at| {
                        let bytes = usize::try_from(random(1500)).unwrap();
                        if random(2) == 0 { zeros(next + at, bytes) } else { entry(next + at, bytes) }
                    })
                    .collect();
                entries.extend(more.clone());
                if random(3) == 0 {
                    append(&mut log, more).await.unwrap();
                } else {
                    log.append(more, IOFlushed::noop()).await.unwrap();
                }
            }
        }
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id.map(|id| id.index), purged, "step {step}");
        let last = entries.last().map(|entry| entry.log_id.index).or(purged);
        assert_eq!(state.last_log_id.map(|id| id.index), last, "step {step}");
        assert_eq!(log.read_vote().await.unwrap(), vote, "step {step}");
        if step % 10 == 0 {
            assert!(log.try_get_log_entries(..).await.unwrap() == entries, "step {step}");
            if let Some(first) = entries.first() {
                let from = first.log_id.index + random(entries.len() as u64);
                let read = log.limited_get_log_entries(from, u64::MAX).await.unwrap();
                assert!(
                    !read.is_empty()
                        && entries[usize::try_from(from - first.log_id.index).unwrap()..].starts_with(&read)
                );
            }
        }
    }
}

/// Where the last byte that was written ends, in the oldest file.
fn written(dir: &Path) -> usize {
    let bytes = std::fs::read(wal_file(dir)).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// What a kill of the process leaves while `dir` is in use.
fn copied(dir: &TempDir) -> TempDir {
    let copy = TempDir::new().unwrap();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    for path in wal_files(dir.path()).into_iter().chain([dir.path().join("log-newest")]) {
        std::fs::copy(&path, copy.path().join(path.strip_prefix(dir.path()).unwrap())).unwrap();
    }
    copy
}

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    segment::files(&dir.join("log")).unwrap().into_values().collect()
}

/// The oldest.
fn wal_file(dir: &Path) -> PathBuf {
    wal_files(dir).swap_remove(0)
}

/// A snapshot may follow, and is installed elsewhere: see [`LogStore::truncate_after`].
#[tokio::test]
async fn a_truncated_log_is_so_on_disk() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, (0..6).map(|index| entry(index, 20)).collect()).await.unwrap();
    log.truncate_after(Some(LogId::new_term_index(1, 2))).await.unwrap();
    let copy = copied(&dir);
    let mut log = opened(copy.path(), &LogOptions::default()).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(LogId::new_term_index(1, 2)));
}

/// The marker may only run behind by what was not reported durable.
#[tokio::test]
async fn the_marker_names_a_file_before_anything_in_it_is_durable() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { segment_bytes: 8 << 10, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    let mut early = copied(&dir);
    let mut files = 1;
    for index in 0..40 {
        append(&mut log, vec![entry(index, 1000)]).await.unwrap();
        let newest = Newest::read(&dir.path().join("log-newest")).unwrap().unwrap().segment;
        assert_eq!(Some(&newest), segment::files(&dir.path().join("log")).unwrap().keys().next_back());
        if newest > files {
            // As far as a crash lets the new file get before the marker: what is whole stays, what is not goes.
            let new = segment::path(&dir.path().join("log"), newest);
            let bytes = std::fs::read(&new).unwrap();
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            for (len, whole) in [(0, false), (20, false), (600, false), (written, true)] {
                let copy = copied(&dir);
                std::fs::copy(early.path().join("log-newest"), copy.path().join("log-newest")).unwrap();
                std::fs::write(segment::path(&copy.path().join("log"), newest), &bytes[..len]).unwrap();
                let mut log = opened(copy.path(), &options).unwrap();
                let found = log.try_get_log_entries(..).await.unwrap().len() as u64;
                assert_eq!(found, index + u64::from(whole), "{len} bytes of file {newest}");
                append(&mut log, vec![entry(found, 1000)]).await.unwrap();
            }
            files = newest;
        }
        early = copied(&dir);
    }
    assert!(files > 3);
}

/// What a process that is killed has written and not synced is in the page cache: it is read at the next start,
/// and openraft takes it for durable.
#[tokio::test]
async fn what_a_killed_process_left_in_the_page_cache_is_synced_at_the_start() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, (0..50).map(|index| entry(index, 1000)).collect()).await.unwrap();
    drop(log);
    let files = || segment::files(&dir.path().join("log")).unwrap().into_values();
    let unwritten = || files().map(|path| unwritten_pages(&path)).sum::<io::Result<u64>>();
    match unwritten() {
        Ok(0) => {}
        other => {
            return println!("skipped: {other:?} unwritten pages after an fsync is not what is tested here");
        }
    }
    // The same bytes once more, as if they had been the last thing that the process did.
    for path in files() {
        let bytes = std::fs::read(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::OpenOptions::new().write(true).open(&path).unwrap(),
            &bytes,
            0,
        )
        .unwrap();
    }
    let before = unwritten().unwrap();
    let log = opened(dir.path(), &LogOptions::default()).unwrap();
    assert_eq!(unwritten().unwrap(), 0, "of {before} pages");
    drop(log);
}

/// What is reported durable is not in the page cache only.
#[tokio::test]
async fn what_is_reported_is_on_the_disk() {
    let dir = TempDir::new().unwrap();
    let probe = dir.path().join("probe");
    std::fs::write(&probe, [1; 5000]).unwrap();
    let before = unwritten_pages(&probe);
    std::fs::File::open(&probe).unwrap().sync_data().unwrap();
    let after = unwritten_pages(&probe);
    if !matches!((&before, &after), (Ok(1..), Ok(0))) {
        return println!(
            "skipped: this file system does not tell what it has written: {before:?}, {after:?}"
        );
    }
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    // A file that is full is cut off, which only changes what is behind its end.
    let unwritten = || unwritten_pages(wal_files(dir.path()).last().unwrap()).unwrap();
    for index in 0..200 {
        append(&mut log, vec![entry(index, 1000)]).await.unwrap();
        assert_eq!(unwritten(), 0, "after entry {index}");
    }
    log.save_vote(&Vote::new(1, 2)).await.unwrap();
    assert_eq!(unwritten(), 0, "after a vote");
    log.truncate_after(Some(LogId::new_term_index(1, 2))).await.unwrap();
    assert_eq!(unwritten(), 0, "after a truncation");
}

/// How many pages of a file are not on the disk yet: cachestat(2).
fn unwritten_pages(path: &Path) -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    /// Its number, the same on every architecture.
    const CACHESTAT: libc::c_long = 451;
    let file = std::fs::File::open(path)?;
    // Offset and length; 0 is the rest of the file.
    let range = [0u64; 2];
    // Cached, dirty, in writeback, evicted, evicted lately.
    let mut counts = [0u64; 5];
    #[allow(unsafe_code, reason = "there is no safe wrapper")]
    // SAFETY: both arrays have the layout that the kernel reads and writes, and outlive the call.
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0) };
    if result == 0 { Ok(counts[1] + counts[2]) } else { Err(io::Error::last_os_error()) }
}
