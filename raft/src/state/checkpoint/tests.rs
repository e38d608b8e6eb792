use tempfile::TempDir;

use super::*;
use crate::command::Op;
use crate::state::generation::{generation_path, open_sled};
use crate::state::tests::{age, apply, content, put, sample_state, state_after};

fn open(dir: &Path) -> io::Result<(Checkpoints, View)> {
    let duration = Histogram::with_opts(prometheus::HistogramOpts::new("d", "d")).unwrap();
    Checkpoints::open(dir, duration, IntGauge::new("w", "w").unwrap())
}

fn current(checkpoints: &Checkpoints) -> Arc<Generation> {
    Arc::clone(checkpoints.lock().as_ref().unwrap())
}

/// What is in the directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn reopened(checkpoints: Checkpoints, dir: &TempDir) -> (Checkpoints, View) {
    drop(checkpoints);
    open(dir.path()).unwrap()
}

#[test]
fn what_was_written_is_loaded() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, empty) = open(dir.path()).unwrap();
    assert_eq!(empty.last_applied, None);

    let mut state = sample_state();
    checkpoints.write_now(Arc::new(state.clone())).unwrap();
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&state));

    // Shrinking, growing and deleting what has pieces leaves no piece behind.
    let ops = [
        put("large", &[1; 5000]),
        put("a", &[2; 5000]),
        put("a/b", b"x"),
        Op::Delete { key: "a/b".into() },
        Op::AgeDelete { name: "Lukas".into() },
        age("Lukas", 1),
    ];
    for (index, op) in (8..).zip(ops) {
        apply(&mut state, index, op);
        checkpoints.write_now(Arc::new(state.clone())).unwrap();
    }
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&state));
    let rows = current(&checkpoints).db.iter().count();
    assert_eq!(rows, 1 + 2 + 2 + 2 + (1 + 1) * 2, "meta, two keys of two pieces, two names of one piece");
}

#[test]
fn a_long_list_of_ages_is_written_piece_by_piece() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let mut state = state_after((0..3000u32).map(|n| age("n", (n % 150) as u8)));
    checkpoints.write_now(Arc::new(state.clone())).unwrap();
    apply(&mut state, 3001, age("n", 5));
    checkpoints.write_now(Arc::new(state.clone())).unwrap();
    let (_, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&state));
}

#[test]
fn an_older_view_does_not_undo_a_newer_checkpoint() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let older = state_after([put("k", b"1")]);
    let mut newer = older.clone();
    apply(&mut newer, 2, put("k", b"2"));
    checkpoints.write_now(Arc::new(newer)).unwrap();
    let durable = checkpoints.write_now(Arc::new(older)).unwrap();
    assert_eq!(durable.revision(), 2);
}

#[test]
fn replacing_is_atomic() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    checkpoints.write_now(Arc::new(state_after([put("old", b"1")]))).unwrap();

    // A generation that was never finished, as an older release left it: the old one counts.
    let db = open_sled(&generation_path(dir.path(), 2)).unwrap();
    db.insert("kx", "half").unwrap();
    drop(db);
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert!(loaded.keys.contains_key("old"));
    assert_eq!(names(dir.path()), ["00000001"]);

    let new = sample_state();
    checkpoints.replace(Arc::new(new.clone())).unwrap();
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&new));
    drop(checkpoints);
    assert_eq!(names(dir.path()), ["00000003"]);
}

#[test]
fn damage_is_found_and_named() {
    type Damage = fn(&sled::Db);
    let cases: [(&str, Damage, &str); 5] = [
        ("a flipped bit", |db| flip(db, b"klarge"), "row klarge: checksum does not match"),
        (
            "a lost piece",
            |db| drop(db.remove(b"v\0\x05large\0\0\0\x01").unwrap()),
            "row v\\x00\\x05large\\x00\\x00\\x00\\x01: missing",
        ),
        ("a lost key", |db| drop(db.remove("ka").unwrap()), "2 keys, 2 names"),
        ("a flipped bit in the meta row", |db| flip(db, META), "row m: checksum does not match"),
        ("a lost meta row", |db| drop(db.remove(META).unwrap()), "rows without a meta row"),
    ];
    for (name, damage, message) in cases {
        let dir = TempDir::new().unwrap();
        let (checkpoints, _) = open(dir.path()).unwrap();
        checkpoints.write_now(Arc::new(sample_state())).unwrap();
        damage(&current(&checkpoints).db);
        drop(checkpoints);
        let error = open(dir.path()).err().unwrap_or_else(|| panic!("{name}: not found")).to_string();
        assert!(error.contains(message) && error.contains("00000001"), "{name}: {error}");
    }
}

fn flip(db: &sled::Db, key: &[u8]) {
    let mut row = db.get(key).unwrap().unwrap().to_vec();
    row[3] ^= 1;
    db.insert(key, row).unwrap();
}

/// sled puts pages above a bound into files of their own that it never syncs. The largest value, and
/// many of them side by side, must not get there.
#[test]
fn no_value_ends_up_in_an_unsynced_file() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let sizes = [0, 1, 4096, 4097, 8192, 100_000, 1 << 20];
    let state = state_after(
        sizes.iter().cycle().take(70).enumerate().map(|(n, size)| put(&format!("{n:03}"), &vec![1; *size])),
    );
    checkpoints.write_now(Arc::new(state)).unwrap();
    let blobs = fs::read_dir(dir.path().join("00000001/blobs")).unwrap().count();
    assert_eq!(blobs, 0);
}

/// A crash after the journal was finished, with any part of the rows in sled: the new state. A crash
/// before that: the old state.
#[test]
fn a_checkpoint_is_whole_or_not_at_all() {
    let old = Arc::new(sample_state());
    let mut new = (*old).clone();
    for (index, op) in (8..).zip([put("a", b"new"), Op::Delete { key: "large".into() }, age("Lukas", 9)]) {
        apply(&mut new, index, op);
    }
    for applied in [None, Some(0), Some(1), Some(2), Some(usize::MAX)] {
        let dir = TempDir::new().unwrap();
        let (checkpoints, _) = open(dir.path()).unwrap();
        checkpoints.write_now(Arc::clone(&old)).unwrap();
        let mut journal = JournalWriter::create(dir.path(), 1).unwrap();
        difference(&old, &new, &mut journal).unwrap();
        let expected = match applied {
            None => {
                drop(journal);
                content(&old)
            }
            Some(rows) => {
                journal.finish().unwrap();
                let current = current(&checkpoints);
                let mut some = FirstRows { left: rows, batches: Batches::new(&current) };
                difference(&old, &new, &mut some).unwrap();
                some.batches.finish().unwrap();
                content(&new)
            }
        };
        let (checkpoints, loaded) = reopened(checkpoints, &dir);
        assert_eq!(content(&loaded), expected, "{applied:?} rows were in sled");
        assert!(!dir.path().join("journal").exists() && !dir.path().join("journal.new").exists());
        // And the next checkpoint stands on it.
        let mut next = (*loaded).clone();
        apply(&mut next, 20, put("b", b"next"));
        checkpoints.write_now(Arc::new(next.clone())).unwrap();
        assert_eq!(content(&reopened(checkpoints, &dir).1), content(&next));
    }
}

struct FirstRows<'a> {
    left: usize,
    batches: Batches<'a>,
}

impl Rows for FirstRows<'_> {
    fn put(&mut self, key: Vec<u8>, sealed: Vec<u8>) -> io::Result<()> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 { self.batches.put(key, sealed) } else { Ok(()) }
    }
    fn remove(&mut self, key: Vec<u8>) -> io::Result<()> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 { self.batches.remove(key) } else { Ok(()) }
    }
}

#[test]
fn closing_gives_sled_up_while_others_still_hold_the_checkpoints() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let path = dir.path().to_owned();
    // It meets the lock, or it does not: either way it has it in the end.
    let opening = std::thread::spawn(move || open(&path).map(|_| ()));
    checkpoints.close();
    opening.join().unwrap().unwrap();
    let error = checkpoints.write_now(Arc::new(sample_state())).unwrap_err();
    assert_eq!(error.to_string(), "the store is closed");
}

#[test]
fn a_lock_that_is_held_is_not_called_damage() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    drop(checkpoints);
}

fn stream(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(state, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_received_snapshot_counts_only_when_it_is_installed() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let old = state_after([put("old", b"1")]);
    checkpoints.write_now(Arc::new(old.clone())).unwrap();
    let new = sample_state();

    // Damaged or cut off: nothing is left of it.
    let good = stream(&new);
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for bad in [&good[..good.len() - 1], &flipped] {
        assert_eq!(checkpoints.receive(bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(names(dir.path()), ["00000001"]);
    }

    // All of it on disk, and never installed, whether the node lives or is killed.
    drop(checkpoints.receive(&good[..]).unwrap());
    assert_eq!(names(dir.path()), ["00000001"]);
    checkpoints.receive(&good[..]).unwrap().generation.keep();
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&old));

    // While it arrives checkpoints go on, and what is written then is kept until it is installed.
    let incoming = checkpoints.receive(&good[..]).unwrap();
    let mut later = old.clone();
    apply(&mut later, 2, put("later", b"2"));
    checkpoints.write_now(Arc::new(later)).unwrap();
    checkpoints.install(incoming).unwrap();
    assert_eq!(content(&checkpoints.last()), content(&new));
    let mut next = new.clone();
    apply(&mut next, 20, put("next", b"3"));
    checkpoints.write_now(Arc::new(next.clone())).unwrap();
    let (_, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&next));
}

#[test]
fn a_snapshot_that_came_too_late_does_not_undo_anything() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let older = state_after([put("k", b"1")]);
    let incoming = checkpoints.receive(&stream(&older)[..]).unwrap();
    let newer = sample_state();
    checkpoints.replace(Arc::new(newer.clone())).unwrap();
    checkpoints.install(incoming).unwrap();
    let (_, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&newer));
}

/// The disk as a crash leaves it at each point of a replacement: always the old or the new state, and
/// always the new one after it counted.
#[test]
fn a_replacement_is_whole_or_not_at_all() {
    let old = state_after([put("old", b"1")]);
    let new = sample_state();
    type Crash = fn(&Path);
    let cases: [(&str, bool, Crash); 6] = [
        ("only begun", false, |dir| fs::create_dir(dir.join("00000002")).unwrap()),
        ("rows, but no meta row", false, |dir| {
            let db = open_sled(&dir.join("00000002")).unwrap();
            db.remove(META).unwrap();
        }),
        ("complete, but not counted", false, |_| {}),
        ("both count", true, |dir| fs::remove_file(dir.join("00000002.unwanted")).unwrap()),
        ("the old one marked", true, |dir| {
            fs::remove_file(dir.join("00000002.unwanted")).unwrap();
            fs::write(dir.join("00000001.unwanted"), "").unwrap();
        }),
        ("the old one half removed", true, |dir| {
            fs::remove_file(dir.join("00000002.unwanted")).unwrap();
            fs::write(dir.join("00000001.unwanted"), "").unwrap();
            fs::write(dir.join("00000001/db"), "half").unwrap();
        }),
    ];
    for (name, is_new, crash) in cases {
        let dir = TempDir::new().unwrap();
        let (checkpoints, _) = open(dir.path()).unwrap();
        checkpoints.write_now(Arc::new(old.clone())).unwrap();
        drop(checkpoints);
        let filled = fill(Generation::begin(dir.path(), 2).unwrap(), &new).unwrap();
        // As if the process were gone: what is dropped would be removed.
        filled.keep();
        drop(filled);
        if name == "only begun" {
            fs::remove_dir_all(dir.path().join("00000002")).unwrap();
        }
        crash(dir.path());
        let (checkpoints, loaded) = open(dir.path()).unwrap();
        let expected = if is_new { &new } else { &old };
        assert_eq!(content(&loaded), content(expected), "{name}");
        drop(checkpoints);
        assert_eq!(names(dir.path()), [if is_new { "00000002" } else { "00000001" }], "{name}");
    }
}
