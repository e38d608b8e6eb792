mod model;

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::command::{Command, Condition, Expect, Op, Test, Txn, TxnOp};
use crate::types::Member;

/// Applies `ops` as entries of term 1 from log index 1 on.
pub(crate) fn state_after(ops: impl IntoIterator<Item = Op>) -> State {
    let mut state = State::default();
    for (index, op) in (1..).zip(ops) {
        apply(&mut state, index, op);
    }
    state
}

pub(crate) fn apply(state: &mut State, index: u64, op: Op) -> Reply {
    let command = Command::encode(&op).unwrap().stamped(1000 + index);
    let entry = Entry { log_id: LogId::new_term_index(1, index), payload: EntryPayload::Normal(command) };
    state.apply(entry, &mut Changes::default()).unwrap().reply
}

pub(crate) fn put(key: &str, value: &[u8]) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value), content_type: "text/plain".into() }
}

pub(crate) fn age(name: &str, age: u8) -> Op {
    Op::AgeAppend { name: name.into(), age }
}

/// A small state with every kind of content.
pub(crate) fn sample_state() -> State {
    let mut state = state_after([
        put("a", b"1"),
        put("a/b", b""),
        put("large", &[7; 9000]),
        age("Lukas", 31),
        age("Lukas", 32),
        age("Zoë 🔥", 0),
    ]);
    let members = [(1, Member { name: "n1".into(), peer: "localhost:1".into() })];
    let membership =
        crate::types::Membership::new(vec![[1].into()], std::collections::BTreeMap::from(members)).unwrap();
    let entry = Entry { log_id: LogId::new_term_index(1, 7), payload: EntryPayload::Membership(membership) };
    state.apply(entry, &mut Changes::default()).unwrap();
    state
}

/// Everything in `state`, a line each, for comparing; values by length and checksum.
pub(crate) fn content(state: &State) -> Vec<String> {
    let mut lines = vec![format!(
        "{:?} clock {} bytes {} hash {:x}",
        state.meta(),
        state.clock_ms,
        state.data_bytes,
        state.hash
    )];
    for (key, record) in &state.keys {
        let Record { value, content_type, revision, created_revision, expires_at_ms, hash: _ } = &**record;
        let (len, sum) = (value.len(), crc32fast::hash(value));
        lines.push(format!(
            "{key}: {len} bytes {sum:08x} {content_type} {revision} {created_revision} {expires_at_ms:?}"
        ));
    }
    for (name, list) in &state.ages {
        let ages: Vec<u8> = list.iter().collect();
        lines.push(format!(
            "{name}: {} ages {:08x} {:?}",
            ages.len(),
            crc32fast::hash(&ages),
            list.revision()
        ));
    }
    lines.extend(state.expiries.iter().map(|expiry| format!("{expiry:?}")));
    lines.extend(state.answers.by_key.iter().map(|answer| format!("{answer:?}")));
    lines
}

#[test]
fn puts_and_deletes() {
    let mut state = State::default();
    assert_eq!(apply(&mut state, 1, put("k", b"one")), Reply::Written { created: true });
    assert_eq!(state.data_bytes, 1 + 3 + 10);
    assert_eq!(apply(&mut state, 2, put("k", b"three")), Reply::Written { created: false });
    let record = state.keys.get("k").unwrap();
    assert_eq!((record.revision, record.created_revision), (2, 1));
    assert_eq!(state.data_bytes, 1 + 5 + 10);
    assert_eq!(apply(&mut state, 3, Op::Delete { key: "k".into() }), Reply::Deleted { existed: true });
    assert_eq!(apply(&mut state, 4, Op::Delete { key: "k".into() }), Reply::Deleted { existed: false });
    assert_eq!((state.data_bytes, state.revision()), (0, 4));
}

#[test]
fn ages_keep_their_order() {
    let mut state = state_after([age("n", 3), age("m", 9), age("n", 1), age("n", 2)]);
    assert_eq!(state.ages.get("n").unwrap().iter().collect::<Vec<_>>(), [3, 1, 2]);
    assert_eq!(state.data_bytes, 2 + 4);
    let gone = Op::AgeDelete { name: "n".into() };
    assert_eq!(apply(&mut state, 5, gone.clone()), Reply::Deleted { existed: true });
    assert_eq!(apply(&mut state, 6, gone), Reply::Deleted { existed: false });
    assert_eq!(state.data_bytes, 2);
}

#[test]
fn a_view_is_frozen() {
    let mut state = state_after([put("k", b"old"), age("n", 1)]);
    let view: View = Arc::new(state.clone());
    apply(&mut state, 3, put("k", b"new"));
    apply(&mut state, 4, age("n", 2));
    assert_eq!(view.keys.get("k").unwrap().value, "old");
    assert_eq!(view.ages.get("n").unwrap().len(), 1);
    assert_eq!(view.revision(), 2);
}

#[test]
fn the_clock_never_goes_back() {
    let mut state = State::default();
    for (index, clock_ms, expected) in [(1, 50, 50), (2, 20, 50), (3, 51, 51)] {
        let command = Command::encode(&age("n", 1)).unwrap().stamped(clock_ms);
        let entry = Entry { log_id: LogId::new_term_index(1, index), payload: EntryPayload::Normal(command) };
        state.apply(entry, &mut Changes::default()).unwrap();
        assert_eq!(state.clock_ms, expected);
    }
}

/// The hash follows every change, whatever way led there, and what was deleted leaves nothing behind.
#[test]
fn the_hash_is_of_the_content_alone() {
    let mut state = sample_state();
    let recomputed = |state: &State| {
        let (mut fresh, mut keys) = (State::default(), Ascending::default());
        for (key, record) in &state.keys {
            fresh.restore_key(&mut keys, key.clone(), (**record).clone());
        }
        for (name, list) in &state.ages {
            fresh.restore_ages(name.clone(), list.clone());
        }
        (fresh.hash, fresh.data_bytes)
    };
    let mut seen = vec![state.hash];
    let ops = [
        put("a", b"2"),
        put("a", b"2"),
        put("z", &[9; 5000]),
        age("Lukas", 1),
        Op::Delete { key: "a/b".into() },
        Op::AgeDelete { name: "Lukas".into() },
    ];
    for (index, op) in (8..).zip(ops) {
        apply(&mut state, index, op);
        assert_eq!((state.hash, state.data_bytes), recomputed(&state));
        assert!(!seen.contains(&state.hash), "a change left the hash as it was");
        seen.push(state.hash);
    }
    for (index, key) in (20..).zip(["a", "large", "z"]) {
        apply(&mut state, index, Op::Delete { key: key.into() });
    }
    apply(&mut state, 30, Op::AgeDelete { name: "Zo\u{eb} \u{1f525}".into() });
    assert_eq!((state.hash, state.data_bytes), (0, 0));
}

/// Rows that nobody keeps.
pub(crate) struct Nowhere;

impl rows::Rows for Nowhere {
    fn put(&mut self, _: &[u8], _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// One of each.
fn expectations() -> Vec<Expect> {
    vec![Expect::Exists, Expect::Absent, Expect::Revisions(vec![258]), Expect::NotRevisions(vec![1, 2])]
}

/// One of each condition and operation.
fn every_txn() -> Txn {
    let (key, value) = ("a".to_owned(), Bytes::from_static(b"v"));
    let test = |test| Condition { key: "a".into(), test };
    Txn {
        conditions: vec![test(Test::Expect(Expect::Exists)), test(Test::Value(value.clone()))],
        then: vec![
            TxnOp::Put { key: key.clone(), value, content_type: "t".into(), ttl_ms: NonZeroU64::new(258) },
            TxnOp::Delete { key: key.clone() },
        ],
        or_else: vec![TxnOp::Get { key: key.clone() }, TxnOp::Add { key, by: -258 }],
    }
}

/// Everything that is written to disk by this crate itself, but for what has its bytes beside it.
#[test]
fn golden_bytes_at_rest() {
    use crate::codec::{MembershipV1, StoredMembershipV1, encode, encode_v2};
    use crate::golden;
    use crate::state::idempotency::Remembered;
    use crate::state::rows::{AgesV1, AnswerV1, KeyV1, KeyV2, MetaV1};

    let state = sample_state();
    let mut written: Vec<(String, Vec<u8>)> = Vec::new();
    let mut line = |name: &str, bytes: Vec<u8>| written.push((name.to_owned(), bytes));
    let ops = [
        ("put", put("a/b", b"\0\xff")),
        ("delete", Op::Delete { key: "a".into() }),
        ("age append", age("n", 9)),
        ("age delete", Op::AgeDelete { name: "n".into() }),
        (
            "put with",
            Op::PutWith {
                key: "a".into(),
                value: Bytes::from_static(b"v"),
                content_type: "t".into(),
                ttl_ms: NonZeroU64::new(258),
                only_if: expectations(),
            },
        ),
        ("delete if", Op::DeleteIf { key: "a".into(), only_if: expectations() }),
        ("delete prefix", Op::DeletePrefix { prefix: "a".into() }),
        ("txn", Op::Txn(every_txn())),
        ("expire", Op::Expire { keys_max: 258 }),
    ];
    let key = "k".parse().unwrap();
    let once = Command::encode_once(&put("a", b"v"), &key, Duration::from_millis(258), 3).unwrap();
    line("command once", once.stamped(258).bytes().to_vec());
    for (name, op) in ops {
        // Without a wildcard: a new operation does not compile until it is in the list above.
        match op {
            Op::Put { .. } | Op::Delete { .. } | Op::AgeAppend { .. } | Op::AgeDelete { .. } => {}
            Op::PutWith { .. } | Op::DeleteIf { .. } | Op::DeletePrefix { .. } => {}
            Op::Txn(_) | Op::Expire { .. } => {}
        }
        line(&format!("command {name}"), Command::encode(&op).unwrap().stamped(258).bytes().to_vec());
    }
    line("membership", encode("membership", &MembershipV1::from(state.membership.membership())).unwrap());
    line("stored membership", encode("membership", &StoredMembershipV1::from(&*state.membership)).unwrap());
    line("meta row", encode("meta row", &MetaV1::from(&state)).unwrap());
    let ages = AgesV1 { created_revision: 1, revision: 258, len: 3 };
    line("ages row", encode("ages row", &ages).unwrap());
    let key = KeyV1 {
        revision: 2,
        created_revision: 1,
        expires_at_ms: NonZeroU64::new(258),
        content_type: "t",
        value_bytes: 1,
        inline: b"x",
    };
    line("key row", encode("key row", &key).unwrap());
    line("key row v2", encode_v2("key row", &KeyV2::from(key)).unwrap());
    let reply = Reply::Written { created: true };
    let answer = Remembered { fingerprint: 1, revision: 2, expires_at_ms: 3, reply };
    line("answer row", encode("answer row", &AnswerV1::from(&answer)).unwrap());
    let mut stream = Vec::new();
    let small = state_after([put("a", b"1"), age("n", 9)]);
    snapshot::write(&small, &mut stream).unwrap();
    line("snapshot", stream);
    golden::check(golden::AT_REST, "", &written);
    let frozen = golden::frozen(golden::AT_REST, "snapshot").unwrap();
    assert_eq!(content(&snapshot::read(&frozen[..], &mut Nowhere).unwrap()), content(&small));
}
