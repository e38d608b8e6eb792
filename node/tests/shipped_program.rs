//! `very_important_value` as it is shipped, from outside.
#![allow(clippy::unwrap_used, reason = "a test that cannot run its subject fails")]

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// As the node starts it: with nothing in the environment.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_very_important_value"));
    command.env_clear();
    command
}

/// The exit status, and how long the program took.
fn run(command: &mut Command) -> (ExitStatus, Duration) {
    let begun = Instant::now();
    (command.status().unwrap(), begun.elapsed())
}

/// Long enough for a program that does not wait, and shorter than its first wait.
const AT_ONCE: Duration = Duration::from_millis(900);

fn assert_at_once(command: &mut Command) {
    let (status, took) = run(command);
    assert!(status.code().is_some_and(|code| (0..100).contains(&code)), "{status}");
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn the_lock_file_is_that_of_the_argument_or_of_the_variable() {
    let lock = tempfile::NamedTempFile::new().unwrap();
    let missing = Path::new("/nowhere/lock");
    assert_at_once(program().arg(lock.path()));
    assert_at_once(program().env("VERY_IMPORTANT_LOCK", lock.path()));
    assert_at_once(program().arg(lock.path()).env("VERY_IMPORTANT_LOCK", missing).arg("unused"));
    // Variables whose names are longer, or shorter, are others.
    let mut command = program();
    command.env("VERY_IMPORTANT_LOCK_", missing).env("VERY_IMPORTANT_LOC", missing).env("A", "");
    assert_at_once(command.env("VERY_IMPORTANT_LOCK", lock.path()));
}

#[test]
fn a_missing_lock_file_is_waited_for_three_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let (status, took) = run(program().arg(directory.path().join("lock")));
    assert!(status.code().is_some_and(|code| (0..100).contains(&code)), "{status}");
    assert!(took >= Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_lock_file_that_appears_ends_the_wait() {
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let begun = Instant::now();
    let mut child = program().env("VERY_IMPORTANT_LOCK", &lock).spawn().unwrap();
    std::fs::write(&lock, "").unwrap();
    assert!(child.wait().unwrap().code().is_some_and(|code| (0..100).contains(&code)));
    assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
}

#[test]
fn statuses_differ() {
    let lock = tempfile::NamedTempFile::new().unwrap();
    let mut seen: Vec<_> = (0..200).filter_map(|_| run(program().arg(lock.path())).0.code()).collect();
    assert_eq!(seen.len(), 200);
    seen.sort_unstable();
    seen.dedup();
    // 200 draws of 100 values bring 87 different ones, give or take 3.
    assert!((70..=100).contains(&seen.len()), "{seen:?}");
}
