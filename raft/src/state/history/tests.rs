use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const ROOMY: HistoryLimits = HistoryLimits { events_max: 10_000, bytes_max: 1 << 30 };

fn put(revision: u64, key: &str, value_bytes: usize) -> Changed {
    let record = Record {
        value: Bytes::from(vec![b'v'; value_bytes]),
        content_type: Default::default(),
        revision,
        created_revision: revision,
        expires_at_ms: None,
        hash: 0,
    };
    let change = Change::Put { record: record.into(), created: true };
    Changed { revision, key: key.into(), change }
}

fn gone(revision: u64, key: &str) -> Changed {
    Changed { revision, key: key.into(), change: Change::Deleted }
}

/// Entries by revision with the keys that each deletes.
fn history(limits: HistoryLimits, entries: &[(u64, &[&str])]) -> History {
    let mut history = History::new(limits, 0);
    for (revision, keys) in entries {
        history.record(*revision, keys.iter().map(|key| gone(*revision, key)));
    }
    history
}

fn id(text: &str) -> EventId {
    text.parse().unwrap()
}

/// What a watcher that begins after `after` is given, in pieces of `events_max`, as `id key`.
fn given(history: &History, prefix: &str, after: EventId, events_max: usize) -> Result<Vec<String>, u64> {
    let mut cursor = history.cursor(after)?;
    let (mut all, mut events) = (Vec::new(), VecDeque::new());
    loop {
        let read = history.read(&mut cursor, prefix, events_max, &mut events);
        assert!(events.len() <= events_max, "{} at once", events.len());
        all.extend(events.drain(..).map(|event| format!("{} {}", event.id, event.key)));
        match read {
            Read::End => return Ok(all),
            Read::More => {}
            Read::Lost => panic!("lost in {history:?}"),
        }
    }
}

#[test]
fn the_last_event_of_a_revision_that_a_watcher_gets_has_the_revision_as_its_id() {
    let history = history(
        ROOMY,
        &[(3, &["a/1"]), (5, &["a/1", "b/1", "a/2", "b/2"]), (6, &["b/3", "b/4"]), (9, &["a/3", "b/5"])],
    );
    let cases: [(&str, &[&str]); 5] = [
        ("", &["3 a/1", "5.1 a/1", "5.2 b/1", "5.3 a/2", "5 b/2", "6.1 b/3", "6 b/4", "9.1 a/3", "9 b/5"]),
        ("a/", &["3 a/1", "5.1 a/1", "5 a/2", "9 a/3"]),
        ("b/", &["5.2 b/1", "5 b/2", "6.1 b/3", "6 b/4", "9 b/5"]),
        ("b/4", &["6 b/4"]),
        ("c", &[]),
    ];
    for (prefix, expected) in cases {
        for events_max in [1, 2, 3, 100] {
            let got = given(&history, prefix, EventId::whole(0), events_max).unwrap();
            assert_eq!(got, expected, "{prefix:?} by {events_max}");
        }
    }
}

#[test]
fn resuming_goes_on_behind_the_id_and_nowhere_else() {
    let history = history(ROOMY, &[(3, &["a"]), (5, &["a", "b", "c"]), (8, &["a"])]);
    let cases: [(&str, &[&str]); 9] = [
        ("2", &["3 a", "5.1 a", "5.2 b", "5 c", "8 a"]),
        ("3", &["5.1 a", "5.2 b", "5 c", "8 a"]),
        // Nothing was changed by entry 4, but it is a place in the log as any.
        ("4", &["5.1 a", "5.2 b", "5 c", "8 a"]),
        ("5.1", &["5.2 b", "5 c", "8 a"]),
        ("5.2", &["5 c", "8 a"]),
        ("5.3", &["8 a"]),
        // There is no such event, and none behind it in that revision.
        ("5.70", &["8 a"]),
        ("5", &["8 a"]),
        ("8", &[]),
    ];
    for (after, expected) in cases {
        assert_eq!(given(&history, "", id(after), 2).unwrap(), expected, "{after}");
    }
}

#[test]
fn what_leaves_leaves_as_a_whole_and_cannot_be_resumed_after() {
    let limits = HistoryLimits { events_max: 4, ..ROOMY };
    let history = history(limits, &[(3, &["a", "b"]), (5, &["a", "b"]), (6, &["a"])]);
    assert_eq!(history.floor, 3);
    for after in ["0", "2", "2.9", "3.1", "3.2"] {
        assert_eq!(given(&history, "", id(after), 9), Err(3), "{after}");
    }
    for (after, count) in [("3", 3), ("4", 3), ("5.1", 2), ("5", 1), ("6", 0)] {
        assert_eq!(given(&history, "", id(after), 9).unwrap().len(), count, "{after}");
    }
}

#[test]
fn the_newest_entry_stays_whatever_its_size() {
    let limits = HistoryLimits { events_max: 2, ..ROOMY };
    let history = history(limits, &[(3, &["a", "b"]), (4, &["a", "b", "c", "d"])]);
    assert_eq!(history.floor, 3);
    assert_eq!(given(&history, "", id("3"), 9).unwrap(), ["4.1 a", "4.2 b", "4.3 c", "4 d"]);

    let limits = HistoryLimits { bytes_max: 1, ..ROOMY };
    let mut history = History::new(limits, 0);
    history.record(2, [put(1, "a", 10), put(2, "b", 1000)]);
    assert_eq!((history.floor, history.events.len()), (1, 1));
    assert_eq!(given(&history, "", id("1"), 9).unwrap(), ["2 b"]);
}

#[test]
fn bytes_are_counted_as_they_come_and_go() {
    let limits = HistoryLimits { events_max: 100, bytes_max: 5000 };
    let mut history = History::new(limits, 0);
    for (revision, number) in (1..200).zip(1..) {
        history.record(revision, [put(revision, "key", number * 37 % 900)]);
        let counted: u64 = history.events.iter().map(Kept::bytes).sum();
        assert_eq!(history.bytes, counted);
        assert!(counted <= limits.bytes_max && history.events.len() <= limits.events_max);
        assert_eq!(history.floor + history.events.len() as u64, revision);
    }
}

#[test]
fn who_reads_behind_what_is_left_is_told() {
    let limits = HistoryLimits { events_max: 2, ..ROOMY };
    let mut history = history(limits, &[(1, &["a"]), (2, &["a"])]);
    let (mut slow, mut fast) = (history.cursor(id("0")).unwrap(), history.cursor(id("1")).unwrap());
    let mut events = VecDeque::new();
    history.record(3, [gone(3, "a")]);
    assert_eq!(history.read(&mut slow, "", 9, &mut events), Read::Lost);
    assert_eq!((events.len(), slow.given()), (0, id("0")));
    assert_eq!(history.read(&mut fast, "", 9, &mut events), Read::End);
    assert_eq!((events.len(), fast.given()), (2, id("3")));
}

/// An event that waited for the next of its revision is given before the end, under an id that is right
/// whatever came behind it.
#[test]
fn what_was_held_back_is_not_lost() {
    let limits = HistoryLimits { events_max: 3, ..ROOMY };
    let mut history = history(limits, &[(1, &["a", "b", "b"])]);
    let (mut cursor, mut events) = (history.cursor(id("0")).unwrap(), VecDeque::new());
    // As if the look ended behind the first event.
    cursor.held = history.events.front().cloned();
    cursor.next += 1;
    history.record(2, [gone(2, "a")]);
    assert_eq!(history.read(&mut cursor, "a", 9, &mut events), Read::Lost);
    let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
    assert_eq!((ids, cursor.given()), (vec!["1.1".to_owned()], id("1.1")));
}

#[test]
fn everybody_has_lost_something_when_it_begins_anew() {
    let mut history = history(ROOMY, &[(1, &["a"]), (2, &["a"])]);
    let mut cursors = ["0", "1", "2"].map(|after| history.cursor(id(after)).unwrap());
    history.restart(40);
    for cursor in &mut cursors {
        assert_eq!(history.read(cursor, "", 9, &mut VecDeque::new()), Read::Lost);
    }
    assert_eq!(given(&history, "", id("39"), 9), Err(40));
    history.record(41, [gone(41, "a")]);
    assert_eq!(given(&history, "", id("40"), 9).unwrap(), ["41 a"]);
}

/// A watcher may begin after a revision that a view had and the history has not yet.
#[test]
fn what_comes_late_is_not_given_when_it_is_before_the_beginning() {
    let mut history = history(ROOMY, &[(1, &["a"])]);
    let (mut cursor, mut events) = (history.cursor(id("3")).unwrap(), VecDeque::new());
    history.record(4, [gone(2, "a"), gone(3, "a"), gone(4, "a"), gone(4, "a")]);
    assert_eq!(history.read(&mut cursor, "", 9, &mut events), Read::End);
    let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids, ["4.1", "4"]);
}

/// What a slow watcher keeps in memory of what the history has let go is bounded.
#[test]
fn values_are_given_a_few_at_a_time() {
    let mut history = History::new(ROOMY, 0);
    history.record(9, (1..=9).map(|revision| put(revision, "k", GIVEN_BYTES / 2 + 1)));
    history.record(10, [put(10, "k", 9 * GIVEN_BYTES)]);
    let mut cursor = history.cursor(id("0")).unwrap();
    let mut counts = Vec::new();
    loop {
        let mut events = VecDeque::new();
        let read = history.read(&mut cursor, "", 100, &mut events);
        counts.push(events.len());
        if read == Read::End {
            break;
        }
    }
    // What is held back is one more.
    assert_eq!(counts, [2, 2, 2, 2, 2]);
    assert_eq!(cursor.given(), id("10"));
}

/// Random entries: revisions that grow, each with the keys that it changes.
fn entries() -> impl Strategy<Value = Vec<(u64, Vec<String>)>> {
    vec((1..4u64, vec("[ab]{1,2}", 0..5)), 0..12).prop_map(|steps| {
        let mut revision = 0;
        let next = |(step, keys)| {
            revision += step;
            (revision, keys)
        };
        steps.into_iter().map(next).collect()
    })
}

proptest! {
    /// Cut behind any event, a watcher goes on with exactly the next one: none lost, none twice, and the
    /// ids are the same. Whatever the sizes of the pieces, and of the batches that came.
    #[test]
    fn resumed_behind_any_event(
        entries in entries(), prefix in "[ab]{0,2}", events_max in 1..4usize, batch in 1..5usize, floor in 0..6usize,
    ) {
        // Some of the entries have left; of each that is there all events are.
        let left: usize = entries.iter().rev().take(floor).map(|(_, keys)| keys.len()).sum();
        let limits = if floor > 0 { HistoryLimits { events_max: left.max(1), ..ROOMY } } else { ROOMY };
        let mut history = History::new(limits, 0);
        for batch in entries.chunks(batch) {
            let last = batch.last().map_or(0, |(revision, _)| *revision);
            let changes = batch.iter().flat_map(|(revision, keys)| keys.iter().map(|key| gone(*revision, key)));
            history.record(last, changes.collect::<Vec<_>>());
        }
        let all = given(&history, &prefix, EventId::whole(history.floor), events_max).unwrap();

        // A model that knows nothing of cursors.
        let mut expected = Vec::new();
        for (revision, keys) in entries.iter().filter(|(revision, _)| *revision > history.floor) {
            let mut of_entry: Vec<(usize, &String)> =
                (1..).zip(keys).filter(|(_, key)| key.starts_with(&prefix)).collect();
            let last = of_entry.pop();
            expected.extend(of_entry.iter().map(|(position, key)| format!("{revision}.{position} {key}")));
            expected.extend(last.map(|(_, key)| format!("{revision} {key}")));
        }
        prop_assert_eq!(&all, &expected);

        for cut in 0..all.len() {
            let after = id(all[cut].split_once(' ').unwrap().0);
            let rest = given(&history, &prefix, after, events_max).unwrap();
            prop_assert_eq!(&rest, &all[cut + 1..], "behind {}", after);
        }
    }
}
