use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::state::event::Change;

const ROOMY: HistoryLimits = HistoryLimits { events_max: 10_000, bytes_max: 1 << 30 };

/// Counts how often it was woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A watcher with what it was given, as `id key`.
struct Reader {
    watcher: Watcher,
    counter: Arc<Counter>,
    waker: Waker,
    given: Vec<String>,
}

impl Reader {
    fn new(watches: &Arc<Watches>, prefix: &str, after: &str) -> Self {
        let watcher = watches.watch(prefix, after.parse().unwrap()).unwrap();
        let counter = Arc::new(Counter::default());
        Self { watcher, waker: Arc::clone(&counter).into(), counter, given: Vec::new() }
    }

    /// Reads all there is; what ended it, or nothing when it waits.
    fn read(&mut self, events_max: usize) -> Option<Watched> {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            let mut events = VecDeque::new();
            let watched = self.watcher.poll_events(&mut cx, events_max, &mut events);
            self.given.extend(events.iter().map(|event| format!("{} {}", event.id, event.key)));
            match watched {
                Poll::Ready(Watched::Events) => assert!(!events.is_empty()),
                Poll::Ready(ended) => return Some(ended),
                Poll::Pending => return None,
            }
        }
    }
}

fn record(watches: &Watches, revision: u64, keys: &[&str]) {
    let mut changes = Changes::default();
    changes.begin(revision);
    keys.iter().for_each(|key| changes.note((*key).into(), Change::Deleted));
    watches.record(revision, &mut changes).wake();
    assert!(changes.list.is_empty());
}

/// Nothing is left of watchers that are gone.
fn assert_empty(watches: &Watches) {
    let shared = watches.lock();
    assert!(shared.watchers.is_empty());
    assert!(shared.waiting.by_prefix.is_empty() && shared.waiting.lengths.is_empty());
}

#[test]
fn only_those_are_woken_whom_a_change_concerns_and_once() {
    let watches = Watches::new(ROOMY, 0);
    let prefixes = ["", "a", "a/", "a/b", "a/c", "b", "é", "\u{1f525}"];
    let mut readers = prefixes.map(|prefix| Reader::new(&watches, prefix, "0"));
    readers.iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    let cases: [(&[&str], [usize; 8]); 6] = [
        (&["a/b"], [1, 1, 1, 1, 0, 0, 0, 0]),
        (&["b", "b", "b"], [1, 0, 0, 0, 0, 1, 0, 0]),
        (&["c"], [1, 0, 0, 0, 0, 0, 0, 0]),
        // Shares its first byte with another character, which ends no prefix.
        (&["è"], [1, 0, 0, 0, 0, 0, 0, 0]),
        (&["éa", "\u{1f525}"], [1, 0, 0, 0, 0, 0, 1, 1]),
        (&[], [0; 8]),
    ];
    for (revision, (keys, expected)) in (1..).zip(cases) {
        record(&watches, revision, keys);
        // A second change finds none of them waiting any more.
        record(&watches, 10 * revision, &[]);
        let woken = readers.each_ref().map(|reader| reader.counter.take());
        assert_eq!(woken, expected, "{keys:?}");
        readers.iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    }
    assert_eq!(readers[3].given, ["1 a/b"]);
    assert_eq!(readers[7].given, ["5 \u{1f525}"]);
    drop(readers);
    assert_empty(&watches);
}

/// However much passes by that does not concern a watcher, it has lost nothing.
#[test]
fn a_watcher_of_a_quiet_prefix_is_never_behind() {
    let watches = Watches::new(HistoryLimits { events_max: 3, ..ROOMY }, 0);
    let mut quiet = Reader::new(&watches, "quiet/", "0");
    assert_eq!(quiet.read(9), None);
    for revision in 1..100 {
        record(&watches, revision, &["busy"]);
    }
    assert_eq!((quiet.counter.take(), quiet.read(9)), (0, None));
    assert_eq!(quiet.watcher.position().to_string(), "99");
    record(&watches, 100, &["busy", "quiet/1"]);
    record(&watches, 101, &["busy"]);
    assert_eq!(quiet.counter.take(), 1);
    // It may not be told of revision 101 before it was given what is in revision 100.
    assert_eq!(quiet.watcher.position().to_string(), "99");
    assert_eq!((quiet.read(9), &quiet.given[..]), (None, &["100 quiet/1".to_owned()][..]));
    assert_eq!(quiet.watcher.position().to_string(), "101");
    // But when what concerns it is gone it is told.
    record(&watches, 102, &["quiet/2"]);
    for revision in 103..110 {
        record(&watches, revision, &["busy"]);
    }
    assert_eq!(quiet.read(9), Some(Watched::Overflow));
    assert_eq!(quiet.watcher.position().to_string(), "101");
}

#[test]
fn an_end_reaches_everybody() {
    let watches = Watches::new(ROOMY, 0);
    let mut readers = ["", "a", "b"].map(|prefix| Reader::new(&watches, prefix, "0"));
    readers.iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    record(&watches, 1, &["a"]);
    watches.end();
    for reader in &mut readers {
        assert_eq!((reader.counter.take(), reader.read(9)), (1, Some(Watched::Stopped)));
    }
    assert_eq!(Reader::new(&watches, "", "0").read(9), Some(Watched::Stopped));
    drop(readers);
    assert_empty(&watches);
}

#[test]
fn a_state_that_was_replaced_ends_all_who_read() {
    let watches = Watches::new(ROOMY, 0);
    let mut readers = ["", "a", "b"].map(|prefix| Reader::new(&watches, prefix, "0"));
    readers[..2].iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    watches.restart(50).wake();
    for reader in &mut readers {
        assert_eq!(reader.read(9), Some(Watched::Overflow));
    }
    assert_eq!(watches.watch("", EventId::whole(49)).err(), Some(50));
    let mut anew = Reader::new(&watches, "", "50");
    record(&watches, 51, &["a"]);
    assert_eq!((anew.read(9), &anew.given[..]), (None, &["51 a".to_owned()][..]));
}

/// Places under a prefix move when others leave.
#[test]
fn any_order_of_leaving_leaves_nothing() {
    let watches = Watches::new(ROOMY, 0);
    let mut readers: Vec<Reader> =
        (0..60).map(|number| Reader::new(&watches, ["", "a", "ab"][number % 3], "0")).collect();
    readers.iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    let mut at = 0;
    while !readers.is_empty() {
        at = (at * 7 + 3) % readers.len();
        readers.swap_remove(at);
        if readers.len().is_multiple_of(13) {
            record(&watches, 1000 - readers.len() as u64, &["a"]);
        }
        if readers.len().is_multiple_of(5) {
            readers.iter_mut().for_each(|reader| assert_eq!(reader.read(1), None));
        }
    }
    assert_empty(&watches);
}

#[tokio::test]
async fn many_are_woken_bit_by_bit_and_all() {
    let watches = Watches::new(ROOMY, 0);
    let mut readers: Vec<Reader> = (0..1000).map(|_| Reader::new(&watches, "a", "0")).collect();
    readers.iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    record(&watches, 1, &["ab"]);
    while readers.iter().any(|reader| reader.counter.0.load(Ordering::Relaxed) == 0) {
        tokio::task::yield_now().await;
    }
    for reader in &mut readers {
        assert_eq!((reader.counter.take(), reader.read(9)), (1, None));
        assert_eq!(reader.given, ["1 ab"]);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A batch of entries, each with the keys it changes.
    Record(Vec<Vec<String>>),
    /// One of the watchers reads all there is, in pieces of so many.
    Read(usize, usize),
    /// One of them breaks off and resumes where it was.
    Resume(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let entry = || vec("[ab]{1,2}", 0..4);
    vec(
        prop_oneof![
            3 => vec(entry(), 1..4).prop_map(Step::Record),
            4 => (0..4usize, 1..4usize).prop_map(|(reader, most)| Step::Read(reader, most)),
            1 => (0..4usize).prop_map(Step::Resume),
        ],
        0..40,
    )
}

proptest! {
    /// Whenever they read, break off and resume: what watchers are given is the beginning of what there
    /// was, without a gap and without anything twice; and all of it, unless they are told of an overflow.
    #[test]
    fn no_watcher_has_a_gap(steps in steps(), events_max in prop_oneof![1..8usize, Just(10_000)]) {
        let watches = Watches::new(HistoryLimits { events_max, ..ROOMY }, 0);
        let prefixes = ["", "a", "b", "ab"];
        let mut readers: Vec<Option<Reader>> =
            prefixes.iter().map(|prefix| Some(Reader::new(&watches, prefix, "0"))).collect();
        let mut all: Vec<Vec<String>> = vec![vec![]; 4];
        let mut revision = 0;
        for step in steps.into_iter().chain((0..4).map(|reader| Step::Read(reader, 3))) {
            match step {
                Step::Record(entries) => {
                    let mut changes = Changes::default();
                    for keys in entries {
                        revision += 1;
                        changes.begin(revision);
                        for (prefix, all) in prefixes.iter().zip(&mut all) {
                            let keys: Vec<&String> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
                            all.extend(keys.iter().map(|key| format!("{revision} {key}")));
                        }
                        keys.iter().for_each(|key| changes.note(key.as_str().into(), Change::Deleted));
                    }
                    watches.record(revision, &mut changes).wake();
                }
                Step::Read(which, most) => {
                    let Some(reader) = &mut readers[which] else { continue };
                    let ended = reader.read(most);
                    // Revisions alone: ids are looked at in the history's own tests.
                    let given: Vec<String> = reader.given.iter().map(|given| {
                        let (id, key) = given.split_once(' ').unwrap();
                        format!("{} {key}", id.split('.').next().unwrap())
                    }).collect();
                    match ended {
                        None => prop_assert_eq!(&given, &all[which]),
                        Some(ended) => {
                            prop_assert_eq!(ended, Watched::Overflow);
                            prop_assert!(events_max < 10_000 && all[which].starts_with(&given));
                            readers[which] = None;
                        }
                    }
                }
                Step::Resume(which) => {
                    let Some(reader) = &mut readers[which] else { continue };
                    let after = reader.watcher.position();
                    match watches.watch(prefixes[which], after) {
                        Ok(watcher) => reader.watcher = watcher,
                        // Older than the history: the client is told, and begins anew.
                        Err(oldest) => {
                            prop_assert!(after.whole_revision() < oldest);
                            readers[which] = None;
                        }
                    }
                }
            }
        }
        drop(readers);
        assert_empty(&watches);
    }
}

/// What a put takes without the history, with it, and with many who wait for other keys:
/// `cargo test --release -p hearth-raft --lib -- --ignored --nocapture what_the_history_costs_a_put`.
#[test]
#[ignore = "a measurement, of a release build"]
fn what_the_history_costs_a_put() {
    use crate::command::Command;
    use crate::state::tests::put;
    use crate::state::{Entry, LogId, State};

    const PUTS: u64 = 1_000_000;
    const KEYS: u64 = 100_000;
    const BATCH: u64 = 64;
    let limits = HistoryLimits { events_max: 65_536, bytes_max: 16 << 20 };
    let waited_for = Watches::new(limits, 0);
    let mut readers: Vec<Reader> =
        (0..10_000).map(|number| Reader::new(&waited_for, &format!("idle/{number}/"), "0")).collect();
    readers.iter_mut().for_each(|reader| assert_eq!(reader.read(9), None));
    let quiet = || Some(Watches::new(limits, 0));
    // The first row is of a heap that was not used yet.
    let rows = [
        ("(first)", None),
        ("no history", None),
        ("history", quiet()),
        ("no history", None),
        ("history", quiet()),
        ("history and 10,000 who wait", Some(waited_for)),
    ];
    for (name, watches) in rows {
        let (mut state, mut changes) = (State::default(), Changes::default());
        let mut begun = std::time::Instant::now();
        for index in 1..=KEYS + PUTS {
            if index == KEYS + 1 {
                begun = std::time::Instant::now();
            }
            let key = format!("k{:08}", index.wrapping_mul(7919) % KEYS);
            let command = Command::encode(&put(&key, &[7; 256])).unwrap().stamped(index);
            let log_id = LogId::new_term_index(1, index);
            let payload = openraft::EntryPayload::Normal(command);
            state.apply(Entry { log_id, payload }, &mut changes).unwrap();
            if index.is_multiple_of(BATCH) {
                match &watches {
                    Some(watches) => watches.record(index, &mut changes).wake(),
                    None => changes.list.clear(),
                }
            }
        }
        println!(
            "{name}: {:.3} µs a put, encoding included",
            begun.elapsed().as_secs_f64() * 1e6 / PUTS as f64
        );
    }
}
