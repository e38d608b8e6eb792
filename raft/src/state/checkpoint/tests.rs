use tempfile::TempDir;

use super::*;
use crate::command::Op;
use crate::state::generation::{open_sled, set_current};
use crate::state::rows::{META, Rows};
use crate::state::tests::{age, apply, content, put, sample_state, state_after};

/// Of a new node, or of one that was there before.
fn open(dir: &Path) -> io::Result<(Checkpoints, View)> {
    Checkpoints::create(dir)?;
    reopen(dir)
}

fn reopen(dir: &Path) -> io::Result<(Checkpoints, View)> {
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
    reopen(dir.path()).unwrap()
}

#[test]
fn what_was_written_is_loaded() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, empty) = open(dir.path()).unwrap();
    assert_eq!(empty.last_applied, None);

    let mut state = sample_state();
    checkpoints.write_now(state.freeze()).unwrap();
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
        checkpoints.write_now(state.freeze()).unwrap();
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
    checkpoints.write_now(state.freeze()).unwrap();
    apply(&mut state, 3001, age("n", 5));
    checkpoints.write_now(state.freeze()).unwrap();
    let (_, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&state));
}

#[test]
fn an_older_view_does_not_undo_a_newer_checkpoint() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let mut older = state_after([put("k", b"1")]);
    let mut newer = State::thawed(&older);
    apply(&mut newer, 2, put("k", b"2"));
    checkpoints.write_now(newer.freeze()).unwrap();
    let durable = checkpoints.write_now(older.freeze()).unwrap();
    assert_eq!(durable.revision(), 2);
}

/// Every state that a kill within [`Checkpoints::replace`] can leave: the old or the new, never anything
/// between, and no start fails.
#[test]
fn replacing_is_atomic() {
    let (mut old, new) = (state_after([put("old", b"1"), put("a", b"of the old")]), sample_state());
    let old_on_disk = TempDir::new().unwrap();
    let (checkpoints, _) = open(old_on_disk.path()).unwrap();
    checkpoints.write_now(old.freeze()).unwrap();
    drop(checkpoints);
    let next = TempDir::new().unwrap();
    let filled = fill(Generation::begin(next.path(), 2).unwrap(), &new, &Haste::default()).unwrap();
    // As if the process were gone: what is dropped would be removed.
    filled.keep();
    drop(filled);
    let row_count = sled::open(next.path().join("00000002")).unwrap().iter().count();

    // What is done to a directory with the old state, and which one must be found.
    type Step<'a> = Box<dyn Fn(&Path) + 'a>;
    let complete = |dir: &Path| copy_all(&next.path().join("00000002"), &dir.join("00000002"));
    let mut steps: Vec<(String, Step<'_>, &State)> = vec![
        ("nothing yet".into(), Box::new(|_| {}), &old),
        ("an empty directory".into(), Box::new(|dir| fs::create_dir(dir.join("00000002")).unwrap()), &old),
        ("complete, not counted".into(), Box::new(complete), &old),
        (
            "the marker half written".into(),
            Box::new(|dir| {
                complete(dir);
                fs::write(dir.join("current.new"), b"HEART").unwrap();
            }),
            &old,
        ),
    ];
    for rows in 0..row_count {
        let source = next.path();
        let some = move |dir: &Path| {
            let whole = sled::open(source.join("00000002")).unwrap();
            let part = open_sled(&dir.join("00000002")).unwrap();
            for row in whole.iter().take(rows) {
                let (key, value) = row.unwrap();
                part.insert(key, value).unwrap();
            }
        };
        steps.push((format!("{rows} of {row_count} rows"), Box::new(some), &old));
    }
    let files: Vec<PathBuf> = all_files(&old_on_disk.path().join("00000001"));
    for removed in 0..=files.len() {
        let gone: Vec<PathBuf> = files[..removed]
            .iter()
            .map(|file| file.strip_prefix(old_on_disk.path()).unwrap().to_owned())
            .collect();
        let counted = move |dir: &Path| {
            complete(dir);
            set_current(dir, 2).unwrap();
            for file in &gone {
                fs::remove_file(dir.join(file)).unwrap();
            }
        };
        steps.push((format!("counted, {removed} files of the old one removed"), Box::new(counted), &new));
    }

    for (step, make, expected) in steps {
        let dir = TempDir::new().unwrap();
        copy_all(old_on_disk.path(), dir.path());
        make(dir.path());
        let (checkpoints, loaded) = reopen(dir.path()).unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(content(&loaded), content(expected), "{step}");
        // It goes on from there, and the next one is installed over whatever is left.
        let newer = state_after((0..20).map(|n| put(&format!("n{n}"), b"newer")));
        checkpoints.replace(Arc::new(newer.clone())).unwrap();
        // Closing waits for what is removed in the background.
        drop(checkpoints);
        assert_eq!(generations(dir.path()).unwrap().len(), 1, "{step}");
        assert_eq!(content(&reopen(dir.path()).unwrap().1), content(&newer), "{step}");
    }
}

fn copy_all(from: &Path, to: &Path) {
    for file in all_files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

/// In the order of their paths.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(all_files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
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
        ("a lost meta row", |db| drop(db.remove(META).unwrap()), "row m: missing"),
    ];
    for (name, damage, message) in cases {
        let dir = TempDir::new().unwrap();
        let (checkpoints, _) = open(dir.path()).unwrap();
        checkpoints.write_now(sample_state().freeze()).unwrap();
        damage(&current(&checkpoints).db);
        drop(checkpoints);
        let error = reopen(dir.path()).err().unwrap_or_else(|| panic!("{name}: not found")).to_string();
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
    let mut state = state_after(
        sizes.iter().cycle().take(70).enumerate().map(|(n, size)| put(&format!("{n:03}"), &vec![1; *size])),
    );
    checkpoints.write_now(state.freeze()).unwrap();
    let blobs = fs::read_dir(dir.path().join("00000001/blobs")).unwrap().count();
    assert_eq!(blobs, 0);
}

/// A crash after the journal was finished, with any part of the rows in sled, or of their forerunners: the
/// new state. A crash before that: the old state. The next start finds the same, and so does the next checkpoint.
#[test]
fn a_checkpoint_is_whole_or_not_at_all() {
    let some = |rows| [Some((rows, true)), Some((rows, false))];
    let cases = [[None, None], some(0), some(1), some(2), some(5), some(9), some(usize::MAX)];
    for applied in cases.into_iter().flatten() {
        let dir = TempDir::new().unwrap();
        let (checkpoints, _) = open(dir.path()).unwrap();
        let mut state = sample_state();
        let ops = [put("shrunk", &[1; 13_000]), put("grown", &[2; 5000]), put("same", &[3; 9000])];
        let ages = (0..3000u32).map(|n| age("long", (n % 150) as u8));
        for (index, op) in (8..).zip(ops.into_iter().chain(ages)) {
            apply(&mut state, index, op);
        }
        let old = checkpoints.write_now(state.freeze()).unwrap().last_applied;
        let before = content(&state);
        let ops = [
            put("a", b"new"),
            Op::Delete { key: "large".into() },
            age("Lukas", 9),
            put("shrunk", &[4; 5000]),
            put("grown", &[5; 13_000]),
            put("zz, the last", b"6"),
            put("0, the first", &[7; 5000]),
            Op::AgeDelete { name: "Ada".into() },
            age("long", 5),
            age("a new name", 5),
        ];
        for (index, op) in (4000..).zip(ops) {
            apply(&mut state, index, op);
        }
        let frozen = state.freeze();
        assert!(frozen.continues(old));
        let expected = match applied {
            None => {
                let mut journal = JournalWriter::create(dir.path(), 1).unwrap();
                frozen.write(&mut journal, &Pace::new(&Haste::default(), Duration::ZERO, 1)).unwrap();
                before
            }
            Some((rows, finished)) => {
                checkpoints.write_interrupted(frozen, rows, finished);
                content(&state)
            }
        };
        let (checkpoints, _) = reopened(checkpoints, &dir);
        let (checkpoints, loaded) = reopened(checkpoints, &dir);
        assert_eq!(content(&loaded), expected, "{applied:?} rows were in sled");
        assert_eq!(dir.path().join("journal").exists(), applied.is_some());
        assert!(!dir.path().join("journal.new").exists());
        // And the next checkpoint stands on it.
        let mut next = State::thawed(&loaded);
        apply(&mut next, 5000, put("b", b"next"));
        checkpoints.write_now(next.freeze()).unwrap();
        assert!(!dir.path().join("journal").exists());
        let full = TempDir::new().unwrap();
        let (other, _) = open(full.path()).unwrap();
        other.replace(Arc::new(next.clone())).unwrap();
        assert_eq!(checkpoints.rows(), other.rows(), "{applied:?} rows were in sled");
        assert_eq!(content(&reopened(checkpoints, &dir).1), content(&next));
    }
}

/// Damage of the journal is found although sled is whole.
#[test]
fn a_damaged_journal_is_found_and_named() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    checkpoints.write_interrupted(sample_state().freeze(), 2, true);
    drop(checkpoints);
    let path = dir.path().join("journal");
    let good = fs::read(&path).unwrap();
    for (bytes, message) in [
        (&good[..good.len() - 1], "it ends too early"),
        (&[&good[..60], &[good[60] ^ 1], &good[61..]].concat(), "checksum does not match"),
        (&[b"HEARTHX\x01", &good[8..]].concat(), "offset 0: it does not begin like one"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = reopen(dir.path()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = error.to_string();
        assert!(error.contains(message) && error.contains("/journal: offset "), "{error}");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(content(&reopen(dir.path()).unwrap().1), content(&sample_state()));
}

/// A snapshot that is installed after an interrupted checkpoint makes its journal void.
#[test]
fn the_journal_of_another_generation_is_of_no_use() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    checkpoints.write_interrupted(state_after([put("k", b"1")]).freeze(), 1, true);
    let (checkpoints, _) = reopened(checkpoints, &dir);
    let new = sample_state();
    let incoming = checkpoints.receive(&stream(&new)[..]).unwrap();
    checkpoints.install(incoming).unwrap();
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&new));
    let mut next = State::thawed(&loaded);
    apply(&mut next, 20, put("b", b"next"));
    checkpoints.write_now(next.freeze()).unwrap();
    assert!(!dir.path().join("journal").exists());
    assert_eq!(content(&reopened(checkpoints, &dir).1), content(&next));
}

impl Checkpoints {
    /// Does what [`Checkpoints::write_now`] does until a crash: the journal is finished, and sled has the first `rows`
    /// of its rows, or nothing but their forerunners unless that is `finished`.
    pub(crate) fn write_interrupted(&self, frozen: Frozen, rows: usize, finished: bool) {
        assert!(!journal::path(&self.dir).exists(), "what it holds would be lost");
        let current = self.lock().clone().unwrap();
        let haste = Haste::default();
        let meta = MetaV1::from(&*frozen.view);
        let mut journal = JournalWriter::create(&self.dir, current.number).unwrap();
        frozen.write(&mut journal, &Pace::new(&haste, Duration::ZERO, 1)).unwrap();
        rows::write_meta(&mut journal, &meta).unwrap();
        journal.finish().unwrap();
        let pace = Pace::new(&haste, Duration::ZERO, 1);
        let mut some = FirstRows { left: rows, batches: Batches::paced(&current, pace) };
        journal::replay(&self.dir, current.number, &mut some).unwrap();
        if finished {
            some.batches.finish().unwrap();
        }
    }
}

struct FirstRows<'a> {
    left: usize,
    batches: Batches<'a>,
}

impl Rows for FirstRows<'_> {
    fn put(&mut self, key: &[u8], sealed: &[u8]) -> io::Result<()> {
        match self.left.checked_sub(1) {
            None => return Ok(()),
            Some(left) => self.left = left,
        }
        self.batches.put(key, sealed)
    }
    fn remove(&mut self, key: &[u8]) -> io::Result<()> {
        match self.left.checked_sub(1) {
            None => return Ok(()),
            Some(left) => self.left = left,
        }
        self.batches.remove(key)
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
    let error = checkpoints.write_now(sample_state().freeze()).unwrap_err();
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
    let mut old = state_after([put("old", b"1")]);
    checkpoints.write_now(old.freeze()).unwrap();
    let new = sample_state();

    // Damaged or cut off: nothing is left of it.
    let good = stream(&new);
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for bad in [&good[..good.len() - 1], &flipped] {
        assert_eq!(checkpoints.receive(bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(names(dir.path()), ["00000001", "current"]);
    }

    // All of it on disk, and never installed, whether the node lives or is killed.
    drop(checkpoints.receive(&good[..]).unwrap());
    assert_eq!(names(dir.path()), ["00000001", "current"]);
    checkpoints.receive(&good[..]).unwrap().generation.keep();
    let (checkpoints, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&old));

    // While it arrives checkpoints go on, and what is written then is kept until it is installed.
    let incoming = checkpoints.receive(&good[..]).unwrap();
    let mut later = State::thawed(&old);
    apply(&mut later, 2, put("later", b"2"));
    checkpoints.write_now(later.freeze()).unwrap();
    checkpoints.install(incoming).unwrap();
    assert_eq!(checkpoints.last().meta(), new.meta());
    let mut next = State::thawed(&new);
    apply(&mut next, 20, put("next", b"3"));
    checkpoints.write_now(next.freeze()).unwrap();
    let (_, loaded) = reopened(checkpoints, &dir);
    assert_eq!(content(&loaded), content(&next));
}

#[test]
fn it_is_known_that_a_snapshot_is_being_received() {
    /// A stream that is cut off, and looks while it is read.
    struct Looking<'a>(&'a Checkpoints);
    impl io::Read for Looking<'_> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            assert!(self.0.is_receiving());
            Ok(0)
        }
    }
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    assert!(!checkpoints.is_receiving());
    assert!(checkpoints.receive(Looking(&checkpoints)).is_err());
    assert!(!checkpoints.is_receiving(), "it failed");
    drop(checkpoints.receive(&stream(&sample_state())[..]).unwrap());
    assert!(!checkpoints.is_receiving(), "it is there");
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

/// A flipped bit, a lost sector or a lost end of sled's own file is found, or changes nothing.
#[test]
fn damage_to_the_file_of_sled_is_found_or_harmless() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path()).unwrap();
    let mut state = sample_state();
    for round in 0..4 {
        for n in 0..100u64 {
            let bytes = random.random_range(0..3000);
            apply(
                &mut state,
                10 + round * 100 + n,
                put(&format!("k{}", random.random_range(0..60)), &vec![7; bytes]),
            );
        }
        checkpoints.write_now(state.freeze()).unwrap();
    }
    drop(checkpoints);
    let expected = content(&reopen(dir.path()).unwrap().1);
    let good = fs::read(dir.path().join("00000001/db")).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();

    let (mut found, mut harmless) = (0, 0);
    for number in 0..400 {
        let mut damaged = good.clone();
        let at = random.random_range(0..=used);
        let what = match number % 5 {
            0 => {
                let sector = at / 512 * 512;
                damaged[sector..(sector + 512).min(good.len())].fill(0);
                format!("512 bytes lost at {sector} of {used}")
            }
            1 => {
                damaged.truncate(at);
                format!("cut off at {at} of {used}")
            }
            _ => {
                damaged[at] ^= 1 << random.random_range(0..8);
                format!("a flipped bit at {at} of {used}")
            }
        };
        let copy = TempDir::new().unwrap();
        copy_all(dir.path(), copy.path());
        fs::write(copy.path().join("00000001/db"), &damaged).unwrap();
        match reopen(copy.path()) {
            Ok((_, loaded)) => {
                assert_eq!(content(&loaded), expected, "{what} was not found");
                harmless += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
                assert!(error.to_string().contains("00000001"), "{what}: {error}");
                found += 1;
            }
        }
    }
    println!("{found} found, {harmless} harmless");
    assert!(found > 0 && harmless > 0);
}
