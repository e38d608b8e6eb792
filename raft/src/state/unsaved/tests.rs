use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::command::{Command, Op};
use crate::state::checkpoint::Checkpoints;
use crate::state::event::Changes;
use crate::state::tests::{age, apply, content, put, sample_state, state_after};
use crate::types::Entry;

fn open(dir: &Path) -> (Checkpoints, View) {
    let duration = prometheus::Histogram::with_opts(prometheus::HistogramOpts::new("d", "d")).unwrap();
    Checkpoints::create(dir).unwrap();
    Checkpoints::open(dir, duration, prometheus::IntGauge::new("w", "w").unwrap()).unwrap()
}

/// The rows that the whole of `state` has.
fn rows_of(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path());
    checkpoints.replace(Arc::new(state.clone())).unwrap();
    checkpoints.rows()
}

/// Everything that changes, to values of every number of pieces, also several times between two
/// checkpoints: what lies at rest is exactly what writing the whole state would leave there.
#[test]
fn what_is_noted_is_what_differs() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    let (mut checkpoints, _) = open(dir.path());
    let mut state = State::default();
    let mut index = 0;
    for round in 0..40 {
        for _ in 0..random.random_range(0..60) {
            index += 1;
            let (key, name) = (format!("k{}", random.random_range(0..20)), format!("n{}", index % 3));
            let value = vec![7; [0, 10, 4096, 4097, 9000, 20_000][random.random_range(0..6)]];
            let op = match random.random_range(0..20) {
                0..8 => put(&key, &value),
                8..12 => Op::Delete { key: key.into() },
                12 => Op::DeletePrefix { prefix: "k1".into() },
                13..18 => age(&name, 9),
                18 => Op::AgeDelete { name },
                _ => {
                    for _ in 0..1100 {
                        apply(&mut state, index, age(&name, 5));
                        index += 1;
                    }
                    age(&name, 6)
                }
            };
            let command = match random.random_range(0..3) {
                // Of few keys and for a short time, so that they are replaced and forgotten all the time.
                0 => {
                    let key = format!("i{}", random.random_range(0..8)).parse().unwrap();
                    Command::encode_once(&op, &key, Duration::from_millis(20), 5).unwrap()
                }
                _ => Command::encode(&op).unwrap(),
            };
            let payload = openraft::EntryPayload::Normal(command.stamped(1000 + index));
            let entry = Entry { log_id: LogId::new_term_index(1, index), payload };
            state.apply(entry, &mut Changes::default()).unwrap();
        }
        let frozen = state.freeze();
        assert!(frozen.continues(checkpoints.last().last_applied), "round {round}");
        checkpoints.write_now(frozen).unwrap();
        assert!(checkpoints.rows() == rows_of(&state), "round {round}");
        if round % 4 == 0 {
            drop(checkpoints);
            let (reopened, loaded) = open(dir.path());
            assert_eq!(content(&loaded), content(&state), "round {round}");
            (checkpoints, state) = (reopened, State::thawed(&loaded));
        }
    }
}

#[test]
fn what_is_only_overwritten_is_noted_once() {
    let mut state = State::thawed(&state_after([put("k", b"1"), age("n", 1)]));
    for index in 3..100 {
        apply(&mut state, index, put("k", b"2"));
        apply(&mut state, index, age("n", 2));
    }
    assert_eq!(state.unsaved.len(), 2);
    assert_eq!(state.clone().unsaved.len(), 0, "a view notes nothing");
    assert_eq!(state.freeze().notes(), 2);
    assert_eq!(state.unsaved.len(), 0);
}

/// Notes that do not begin behind what is at rest, or that were given up, are not used: all is written.
#[test]
fn without_the_notes_the_whole_state_is_written() {
    let dir = TempDir::new().unwrap();
    let (checkpoints, _) = open(dir.path());
    let mut state = sample_state();
    checkpoints.write_now(state.freeze()).unwrap();

    apply(&mut state, 8, put("large", b"small now"));
    // Asked for, and never written.
    drop(state.freeze());
    apply(&mut state, 9, put("b", b"2"));
    checkpoints.write_now(state.freeze()).unwrap();
    assert!(checkpoints.rows() == rows_of(&state));

    apply(&mut state, 10, Op::Delete { key: "a".into() });
    state.unsaved.given_up = true;
    apply(&mut state, 11, put("c", b"3"));
    checkpoints.write_now(state.freeze()).unwrap();
    assert!(checkpoints.rows() == rows_of(&state));

    // And the next one is of changes again.
    apply(&mut state, 12, put("d", b"4"));
    let frozen = state.freeze();
    assert!(frozen.continues(checkpoints.last().last_applied));
    checkpoints.write_now(frozen).unwrap();
    assert!(checkpoints.rows() == rows_of(&state));
    drop(checkpoints);
    assert_eq!(content(&open(dir.path()).1), content(&state));
}

#[test]
fn more_notes_than_a_state_is_worth_are_given_up() {
    let mut unsaved = Unsaved::since(None);
    for number in 0..=NOTES_MAX {
        unsaved.note_answer(&format!("{number}").into(), None);
        unsaved.bound(0);
        assert_eq!(unsaved.given_up, number == NOTES_MAX);
    }
    assert_eq!(unsaved.len(), 0);
    unsaved.note_key(&"k".into(), None);
    unsaved.note_ages("n", None);
    unsaved.note_answer(&"i".into(), None);
    assert_eq!(unsaved.len(), 0);
    // A larger state is worth more.
    let mut unsaved = Unsaved::since(None);
    (0..=NOTES_MAX).for_each(|number| unsaved.note_answer(&format!("{number}").into(), None));
    unsaved.bound(2 * NOTES_MAX);
    assert!(!unsaved.given_up);
}
