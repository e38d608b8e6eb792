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

fn entry(index: u64, value_bytes: usize) -> Entry {
    let op = Op::Put {
        key: format!("k{index}"),
        value: vec![b'x'; value_bytes].into(),
        content_type: String::new(),
    };
    Entry {
        log_id: LogId::new_term_index(1, index),
        payload: EntryPayload::Normal(Command::encode(&op).unwrap()),
    }
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
async fn purged_chunks_are_removed() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { chunk_bytes: 64 << 10, cache_bytes: 0, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    for index in 0..300 {
        append(&mut log, vec![entry(index, 1000)]).await.unwrap();
    }
    let before = log.disk_bytes();
    log.purge(LogId::new_term_index(1, 250)).await.unwrap();
    // The next append's group follows the purge and the removal through the same queue.
    append(&mut log, vec![entry(300, 10)]).await.unwrap();
    assert!(log.disk_bytes() < before / 2, "{} of {before} bytes left", log.disk_bytes());
    drop(log);

    let mut log = opened(dir.path(), &options).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(LogId::new_term_index(1, 250)));
    assert_eq!(log.try_get_log_entries(251..301).await.unwrap().len(), 50);
}

/// Only a torn end is cut off. Any flipped bit anywhere else is found when the log is opened, and the
/// file is left as it is.
#[tokio::test]
async fn a_flipped_bit_is_never_taken_for_a_torn_end() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    log.save_vote(&Vote::new_committed(1, 2)).await.unwrap();
    for index in 0..6 {
        append(&mut log, vec![entry(index, 20)]).await.unwrap();
    }
    drop(log);
    let file = wal_file(dir.path());
    let good = std::fs::read(&file).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&file, &damaged).unwrap();
            let opened = opened(dir.path(), &LogOptions::default());
            assert!(opened.is_err(), "bit {bit} of byte {at} of {}", good.len());
            assert_eq!(std::fs::read(&file).unwrap(), damaged);
        }
    }
}

/// What a crash leaves of the last record goes, and nothing else.
#[tokio::test]
async fn a_torn_end_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, vec![entry(0, 20), entry(1, 20)]).await.unwrap();
    let before = std::fs::metadata(wal_file(dir.path())).unwrap().len();
    append(&mut log, vec![entry(2, 20)]).await.unwrap();
    drop(log);
    let good = std::fs::read(wal_file(dir.path())).unwrap();
    for len in usize::try_from(before).unwrap()..good.len() {
        let copy = copied(&dir);
        std::fs::write(wal_file(copy.path()), &good[..len]).unwrap();
        let mut log = opened(copy.path(), &LogOptions::default()).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 2, "cut at {len}");
        append(&mut log, vec![entry(2, 20)]).await.unwrap();
    }
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
    files::chunks(&dir.join("log")).unwrap().into_values().collect()
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

type Damage<'a> = &'a dyn Fn(&Path);

/// Any file of the log that is gone, or shorter than it was known to be, is noticed before raft-log takes
/// what is left for the whole, and nothing is touched.
#[tokio::test]
async fn a_missing_file_is_noticed() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { chunk_bytes: 16 << 10, cache_bytes: 0, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    for index in 0..60 {
        append(&mut log, vec![entry(index, 1000)]).await.unwrap();
    }
    let live = copied(&dir);
    drop(log);
    let files = wal_files(dir.path());
    assert!(files.len() >= 4, "{files:?}");
    // As it was closed, and as a kill would have left it.
    for source in [&dir, &live] {
        for gone in 0..files.len() {
            let copy = copied(source);
            let file = wal_files(copy.path()).swap_remove(gone);
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            std::fs::remove_file(&file).unwrap();
            let left = wal_files(copy.path());
            let error = LogStore::open(&copy.path().join("log"), &options, &Registry::new()).err().unwrap();
            println!("without {name}: {error}");
            assert_eq!(wal_files(copy.path()), left, "a file was made or removed");
        }
        let newest = files.len() - 1;
        let cases: [(&str, Damage<'_>, &str); 4] = [
            (
                "the newest file is empty",
                &|dir| std::fs::write(&wal_files(dir)[newest], "").unwrap(),
                "ends at offset 0",
            ),
            (
                "no file",
                &|dir| wal_files(dir).iter().for_each(|file| std::fs::remove_file(file).unwrap()),
                "no file in it",
            ),
            (
                "no marker",
                &|dir| std::fs::remove_file(dir.join("log-newest")).unwrap(),
                "log-newest is missing",
            ),
            (
                "no directory",
                &|dir| std::fs::remove_dir_all(dir.join("log")).unwrap(),
                "the directory is missing",
            ),
        ];
        for (case, damage, message) in cases {
            let copy = copied(source);
            damage(copy.path());
            let error = LogStore::open(&copy.path().join("log"), &options, &Registry::new()).err();
            let error = error.unwrap_or_else(|| panic!("{case}: not noticed"));
            assert!(error.to_string().contains(message), "{case}: {error}");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(LogStore::open(&copied(source).path().join("log"), &options, &Registry::new()).is_ok());
    }
}

/// The marker may only run behind by what was not reported durable.
#[tokio::test]
async fn the_marker_names_a_chunk_before_anything_in_it_is_durable() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { chunk_bytes: 8 << 10, ..LogOptions::default() };
    let mut log = opened(dir.path(), &options).unwrap();
    for index in 0..40 {
        append(&mut log, vec![entry(index, 1000)]).await.unwrap();
        let newest = files::Newest::read(&dir.path().join("log-newest")).unwrap().unwrap().chunk;
        // A chunk with nothing but its own head holds nothing that was reported.
        let chunks = files::chunks(&dir.path().join("log")).unwrap();
        let reported = chunks.iter().filter(|(_, path)| std::fs::metadata(path).unwrap().len() > 500);
        let reported = reported.map(|(begin, _)| *begin).next_back();
        assert!(Some(newest) >= reported, "at {index}: {newest}, {reported:?}");
    }
}

/// What a process that is killed has written and not synced is in the page cache: it is read at the next start,
/// and openraft takes it for durable.
#[tokio::test]
async fn what_a_killed_process_left_in_the_page_cache_is_synced_at_the_start() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, (0..50).map(|index| entry(index, 1000)).collect()).await.unwrap();
    drop(log);
    let chunks = || files::chunks(&dir.path().join("log")).unwrap().into_values();
    let unwritten = || chunks().map(|path| unwritten_pages(&path)).sum::<io::Result<u64>>();
    match unwritten() {
        Ok(0) => {}
        other => {
            return println!("skipped: {other:?} unwritten pages after an fsync is not what is tested here");
        }
    }
    // The same bytes once more, as if they had been the last thing that the process did.
    for path in chunks() {
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
