//! What is torn is cut off; what is damaged or missing is found, and nothing is touched.

use super::*;

/// Only a torn end is cut off. Any flipped bit anywhere else, in what the file is filled with too, is found
/// when the log is opened, and the file is left as it is.
#[tokio::test]
async fn a_flipped_bit_is_never_taken_for_a_torn_end() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    log.save_vote(&Vote::new_committed(1, 2)).await.unwrap();
    for index in 0..6 {
        append(&mut log, vec![entry(index, 20)]).await.unwrap();
    }
    // Longer than a sector.
    append(&mut log, vec![zeros(6, 700)]).await.unwrap();
    drop(log);
    let file = wal_file(dir.path());
    let mut good = std::fs::read(&file).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    good.truncate((used / 512 + 3) * 512);
    for at in 0..good.len() {
        // Of what is behind the end, one bit of each byte.
        let bits = if at <= used { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&file, &damaged).unwrap();
            let opened = opened(dir.path(), &LogOptions::default());
            let error = opened.err().unwrap_or_else(|| panic!("bit {bit} of byte {at} of {used}"));
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("at offset"), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), damaged);
        }
    }
    std::fs::write(&file, &good).unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 7);
}

/// What a crash leaves of the last write goes, and nothing else: where the file ends too early...
#[tokio::test]
async fn a_cut_off_end_is_cut_off() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, vec![entry(0, 20), entry(1, 20)]).await.unwrap();
    let before = written(dir.path());
    append(&mut log, vec![zeros(2, 1200)]).await.unwrap();
    let after = written(dir.path());
    drop(log);
    let good = std::fs::read(wal_file(dir.path())).unwrap();
    for len in (before..after).step_by(5) {
        let copy = copied(&dir);
        std::fs::write(wal_file(copy.path()), &good[..len]).unwrap();
        let mut log = opened(copy.path(), &LogOptions::default()).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 2, "cut at {len}");
        append(&mut log, vec![entry(2, 20)]).await.unwrap();
        drop(log);
        let mut log = opened(copy.path(), &LogOptions::default()).unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 3, "cut at {len}");
    }
}

/// ... and where some sectors of it, whichever, did not reach the disk. If anything follows it was durable,
/// and then it is damage.
#[tokio::test]
async fn missing_sectors_are_a_torn_end_or_damage() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, vec![entry(0, 20), entry(1, 300)]).await.unwrap();
    let begin = written(dir.path());
    append(&mut log, vec![zeros(2, 1000), entry(3, 900), zeros(4, 600)]).await.unwrap();
    let end = written(dir.path());
    let last = copied(&dir);
    append(&mut log, vec![entry(5, 20)]).await.unwrap();
    drop(log);
    let sectors: Vec<(usize, usize)> = (begin / 512..=(end - 1) / 512)
        .map(|sector| (begin.max(sector * 512), end.min((sector + 1) * 512)))
        .collect();
    assert!((5..9).contains(&sectors.len()), "{sectors:?}");
    for missing in 1..1u32 << sectors.len() {
        for (source, torn) in [(&last, true), (&dir, false)] {
            let copy = copied(source);
            let file = wal_file(copy.path());
            let mut bytes = std::fs::read(&file).unwrap();
            for (number, (from, to)) in sectors.iter().enumerate() {
                if missing & 1 << number != 0 {
                    bytes[*from..*to].fill(0);
                }
            }
            std::fs::write(&file, &bytes).unwrap();
            let opened_log = opened(copy.path(), &LogOptions::default());
            if torn {
                let mut log = opened_log.unwrap_or_else(|error| panic!("without {missing:b}: {error}"));
                assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 2, "without {missing:b}");
                assert_eq!(written(copy.path()), begin, "something is left of it");
                append(&mut log, vec![entry(2, 20)]).await.unwrap();
            } else {
                let error = opened_log.err().unwrap_or_else(|| panic!("without {missing:b}: not noticed"));
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert_eq!(std::fs::read(&file).unwrap(), bytes);
            }
        }
    }
}

/// The last write is known to have been durable when the log was opened after it.
#[tokio::test]
async fn what_was_found_once_is_not_taken_for_torn_later() {
    let dir = TempDir::new().unwrap();
    let mut log = opened(dir.path(), &LogOptions::default()).unwrap();
    append(&mut log, vec![entry(0, 20)]).await.unwrap();
    let begin = written(dir.path());
    append(&mut log, vec![entry(1, 20)]).await.unwrap();
    drop(log);
    drop(opened(dir.path(), &LogOptions::default()).unwrap());
    let file = wal_file(dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[begin..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let error = opened(dir.path(), &LogOptions::default()).err().unwrap().to_string();
    assert!(error.contains("the log ends here, it was at least"), "{error}");
}

type Damage<'a> = &'a dyn Fn(&Path);

/// Any file of the log that is gone, or shorter than it was known to be, is noticed, and nothing is
/// touched.
#[tokio::test]
async fn a_missing_file_is_noticed() {
    let dir = TempDir::new().unwrap();
    let options = LogOptions { segment_bytes: 16 << 10, memory_bytes: 0, ..LogOptions::default() };
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
