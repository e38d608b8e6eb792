use std::time::Duration;

use super::*;
use crate::command::{Applied, Command, Condition, Test, Txn, TxnOp, TxnRefusal, TxnReply, TxnResult};
use crate::state::EntryPayload;
use crate::state::tests::{age, apply, put, state_after};
use crate::types::{Entry, LogId};

/// Applies `command` at `index` with the leader's clock at `clock_ms`.
fn apply_at(state: &mut State, index: u64, clock_ms: u64, command: Command) -> Applied {
    let payload = EntryPayload::Normal(command.stamped(clock_ms));
    let entry = Entry { log_id: LogId::new_term_index(1, index), payload };
    state.apply(entry, &mut Changes::default()).unwrap()
}

fn plain(op: &Op) -> Command {
    Command::encode(op).unwrap()
}

fn once(op: &Op, key: &str, keys_max: u64) -> Command {
    Command::encode_once(op, &key.parse().unwrap(), Duration::from_secs(1), keys_max).unwrap()
}

fn put_if(only_if: Vec<Expect>) -> Op {
    Op::PutWith {
        key: "k".into(),
        value: Bytes::from_static(b"new"),
        content_type: String::new(),
        ttl_ms: None,
        only_if,
    }
}

fn put_for(key: &str, ttl_ms: u64) -> Op {
    Op::PutWith {
        key: key.into(),
        value: Bytes::from_static(b"v"),
        content_type: String::new(),
        ttl_ms: NonZeroU64::new(ttl_ms),
        only_if: vec![],
    }
}

#[test]
fn a_condition_that_fails_changes_nothing() {
    let holds = [
        vec![],
        vec![Expect::Exists],
        vec![Expect::Revisions(vec![1, 2])],
        vec![Expect::Exists, Expect::NotRevisions(vec![1])],
    ];
    let fails = [
        vec![Expect::Absent],
        vec![Expect::Revisions(vec![1])],
        vec![Expect::Exists, Expect::Revisions(vec![])],
        vec![Expect::NotRevisions(vec![2])],
    ];
    for only_if in holds {
        let mut state = state_after([put("k", b"1"), put("k", b"2")]);
        assert_eq!(apply(&mut state, 3, put_if(only_if.clone())), Reply::Written { created: false });
        let gone = Op::DeleteIf { key: "k".into(), only_if: vec![Expect::Revisions(vec![3])] };
        assert_eq!(apply(&mut state, 4, gone), Reply::Deleted { existed: true }, "{only_if:?}");
    }
    for only_if in fails {
        let mut state = state_after([put("k", b"1"), put("k", b"2")]);
        let before = (state.hash, state.data_bytes);
        let failed = Reply::PreconditionFailed { current: Some(2) };
        assert_eq!(apply(&mut state, 3, put_if(only_if.clone())), failed, "{only_if:?}");
        assert_eq!(apply(&mut state, 4, Op::DeleteIf { key: "k".into(), only_if }), failed);
        assert_eq!((state.hash, state.data_bytes), before);
    }
    let mut state = State::default();
    let failed = Reply::PreconditionFailed { current: None };
    assert_eq!(apply(&mut state, 1, put_if(vec![Expect::Exists])), failed);
    assert_eq!(apply(&mut state, 2, put_if(vec![Expect::Absent])), Reply::Written { created: true });
}

#[test]
fn a_prefix_goes_as_a_whole_or_not_at_all() {
    let mut state = state_after(["a", "a/1", "a/2", "a0", "b"].map(|key| put(key, b"v")));
    let gone = |prefix: &str| Op::DeletePrefix { prefix: prefix.into() };
    assert_eq!(apply(&mut state, 6, gone("a/")), Reply::PrefixDeleted { keys: 2 });
    assert_eq!(apply(&mut state, 7, gone("a/")), Reply::PrefixDeleted { keys: 0 });
    assert_eq!(state.keys.keys().collect::<Vec<_>>(), ["a", "a0", "b"]);

    let mut state = State::default();
    let count = PREFIX_KEYS_MAX as u64;
    for index in 1..=count + 1 {
        apply(&mut state, index, put(&format!("many/{index}"), b""));
    }
    let too_large = Reply::PrefixTooLarge { keys_max: count };
    assert_eq!(apply(&mut state, count + 2, gone("many/")), too_large);
    assert_eq!(state.keys.len(), PREFIX_KEYS_MAX + 1);
    apply(&mut state, count + 3, Op::Delete { key: "many/1".into() });
    assert_eq!(apply(&mut state, count + 4, gone("many/")), Reply::PrefixDeleted { keys: count });
    assert_eq!((state.keys.len(), state.hash, state.data_bytes), (0, 0, 0));
}

fn txn(conditions: Vec<Condition>, then: Vec<TxnOp>, or_else: Vec<TxnOp>) -> Op {
    Op::Txn(Txn { conditions, then, or_else })
}

fn add(key: &str, by: i64) -> TxnOp {
    TxnOp::Add { key: key.into(), by }
}

fn txn_put(key: &str, value: &'static str) -> TxnOp {
    TxnOp::Put { key: key.into(), value: value.into(), content_type: String::new(), ttl_ms: None }
}

fn get(key: &str) -> TxnOp {
    TxnOp::Get { key: key.into() }
}

#[test]
fn later_operations_see_earlier_ones() {
    let mut state = state_after([put("a", b"1"), put("gone", b"x")]);
    let value = Condition { key: "a".into(), test: Test::Value("1".into()) };
    let absent = Condition { key: "n".into(), test: Test::Expect(Expect::Absent) };
    let then = vec![
        TxnOp::Delete { key: "gone".into() },
        get("gone"),
        txn_put("gone", "back"),
        add("n", 5),
        add("n", -7),
        get("n"),
    ];
    let Reply::Txn(reply) = apply(&mut state, 3, txn(vec![value, absent], then, vec![])) else { panic!() };
    let TxnReply { succeeded, results } = *reply;
    assert!(succeeded);
    let (got, rest) = results.split_last().unwrap();
    let expected = [
        TxnResult::Deleted { existed: true },
        TxnResult::Got(None),
        TxnResult::Put { created: true },
        TxnResult::Added(5),
        TxnResult::Added(-2),
    ];
    assert_eq!(rest, expected);
    let TxnResult::Got(Some(got)) = got else { panic!("{got:?}") };
    assert_eq!((&*got.value, got.revision, got.created_revision), (&b"-2"[..], 3, 3));
    assert_eq!(state.keys.get("gone").unwrap().created_revision, 3, "it is another key now");

    // The condition on `n` does not hold any more.
    let absent = Condition { key: "n".into(), test: Test::Expect(Expect::Absent) };
    let reply = apply(&mut state, 4, txn(vec![absent], vec![txn_put("n", "x")], vec![add("n", 1)]));
    let expected = TxnReply { succeeded: false, results: vec![TxnResult::Added(-1)] };
    assert_eq!(reply, Reply::Txn(Box::new(expected)));
}

#[test]
fn one_operation_that_cannot_be_done_undoes_all() {
    let cases = [
        ("9223372036854775807", 1, TxnRefusal::Overflow),
        ("-9223372036854775808", -1, TxnRefusal::Overflow),
        ("1.5", 1, TxnRefusal::NotAnInteger),
        ("", 1, TxnRefusal::NotAnInteger),
        (" 1", 1, TxnRefusal::NotAnInteger),
        ("9223372036854775808", 1, TxnRefusal::NotAnInteger),
        ("000000000000000000001", 1, TxnRefusal::NotAnInteger),
    ];
    for (number, by, reason) in cases {
        let mut state = state_after([put("n", number.as_bytes()), put("b", b"x")]);
        let before = state.clone();
        let then =
            vec![txn_put("a", "1"), TxnOp::Delete { key: "b".into() }, add("n", by), txn_put("z", "1")];
        let refused = Reply::TxnRefused { succeeded: true, operation: 2, reason };
        assert_eq!(apply(&mut state, 3, txn(vec![], then, vec![])), refused, "{number:?}");
        assert_eq!((state.hash, state.data_bytes), (before.hash, before.data_bytes));
        assert!(state.keys.iter().eq(before.keys.iter()));
        assert_eq!(state.revision(), 3);
    }
    for (number, by, sum) in [("-5", 5, 0), ("9223372036854775806", 1, i64::MAX), ("+07", 1, 8)] {
        let mut state = state_after([put("n", number.as_bytes())]);
        let expected = TxnReply { succeeded: true, results: vec![TxnResult::Added(sum)] };
        let reply = apply(&mut state, 2, txn(vec![], vec![add("n", by)], vec![]));
        assert_eq!(reply, Reply::Txn(Box::new(expected)));
    }
}

#[test]
fn what_a_transaction_reads_is_bounded() {
    let big = vec![b'x'; 1 << 20];
    let mut state = state_after([put("k", &big)]);
    let reads = |count| txn(vec![], vec![get("k"); count], vec![]);
    assert!(matches!(apply(&mut state, 2, reads(4)), Reply::Txn(_)));
    let reason = TxnRefusal::ResultTooLarge { bytes_max: 4 << 20 };
    let refused = Reply::TxnRefused { succeeded: true, operation: 4, reason };
    assert_eq!(apply(&mut state, 3, reads(5)), refused);
    // What is kept for a repetition has a bound of its own.
    let reason = TxnRefusal::ResultTooLarge { bytes_max: 16 << 10 };
    let kept = apply_at(&mut state, 4, 0, once(&reads(1), "key", 10)).reply;
    assert_eq!(kept, Reply::TxnRefused { succeeded: true, operation: 0, reason });
}

#[test]
fn keys_expire_by_the_clock_of_the_commands() {
    let mut state = State::default();
    let expire = |state: &mut State, index, clock_ms, keys_max| {
        apply_at(state, index, clock_ms, plain(&Op::Expire { keys_max })).reply
    };
    for (index, (key, ttl_ms)) in (1..).zip([("b", 100), ("a", 100), ("c", 300), ("d", 100), ("e", 100)]) {
        apply_at(&mut state, index, 1000, plain(&put_for(key, ttl_ms)));
    }
    // A put without a time to live clears it; an addition keeps it; another one replaces it.
    apply_at(&mut state, 6, 1000, plain(&put("d", b"for good")));
    apply_at(&mut state, 7, 1000, plain(&put_for("e", 400)));
    assert_eq!(expire(&mut state, 8, 1100, 10), Reply::Expired { keys: 0 }, "never early");
    assert_eq!(expire(&mut state, 9, 1101, 1), Reply::Expired { keys: 1 });
    assert_eq!(state.keys.keys().collect::<Vec<_>>(), ["b", "c", "d", "e"]);
    assert_eq!(expire(&mut state, 10, 1101, 10), Reply::Expired { keys: 1 });
    // A leader whose clock is behind ends nothing, and sets nothing back.
    assert_eq!(expire(&mut state, 11, 50, 10), Reply::Expired { keys: 0 });
    assert_eq!(state.clock_ms, 1101);
    assert_eq!(expire(&mut state, 12, 9999, 10), Reply::Expired { keys: 2 });
    assert_eq!(state.keys.keys().collect::<Vec<_>>(), ["d"]);
    assert!(state.expiries.is_empty());

    apply_at(&mut state, 13, 10_000, plain(&put_for("n", 100)));
    apply_at(&mut state, 14, 10_000, plain(&Op::Delete { key: "n".into() }));
    let counter = TxnOp::Put {
        key: "n".into(),
        value: "1".into(),
        content_type: String::new(),
        ttl_ms: NonZeroU64::new(50),
    };
    apply_at(&mut state, 15, 10_000, plain(&txn(vec![], vec![counter, add("n", 1)], vec![])));
    assert_eq!(state.keys.get("n").unwrap().expires_at_ms, NonZeroU64::new(10_051));
    assert_eq!(state.expiries.len(), 1);
}

#[test]
fn an_idempotency_key_is_applied_once() {
    let mut state = State::default();
    let (first, other) = (age("n", 1), age("n", 2));
    let applied = apply_at(&mut state, 1, 1000, once(&first, "key", 10));
    assert_eq!(applied, Reply::Written { created: true }.into());
    // Again, also when its revision and its `created` would be others now.
    let again = apply_at(&mut state, 2, 1500, once(&first, "key", 10));
    assert_eq!(again, Applied { reply: Reply::Written { created: true }, replay_of: Some(1) });
    assert_eq!(apply_at(&mut state, 3, 1500, once(&other, "key", 10)), Reply::KeyReused.into());
    assert_eq!(state.ages.get("n").unwrap().iter().collect::<Vec<_>>(), [1]);
    // What was refused is refused again, though it would be possible now.
    let absent = put_if(vec![Expect::Exists]);
    let refused = Reply::PreconditionFailed { current: None };
    assert_eq!(apply_at(&mut state, 4, 1500, once(&absent, "refused", 10)).reply, refused);
    apply(&mut state, 5, put("k", b""));
    assert_eq!(apply_at(&mut state, 6, 1500, once(&absent, "refused", 10)).reply, refused);
    // The window is over.
    assert_eq!(apply_at(&mut state, 7, 2500, once(&first, "key", 10)).replay_of, None);
    assert_eq!(state.ages.get("n").unwrap().len(), 2);
}

#[test]
fn answers_leave_in_the_order_they_came() {
    let mut state = State::default();
    let known = |state: &State| state.answers.by_key.keys().map(ToString::to_string).collect::<Vec<_>>();
    for (index, key) in (1..).zip(["c", "a", "d", "b"]) {
        apply_at(&mut state, index, 1000, once(&age("n", 1), key, 3));
    }
    assert_eq!(known(&state), ["a", "b", "d"]);
    // The bound of a command counts, whatever those before it said.
    apply_at(&mut state, 5, 1001, once(&age("n", 1), "e", 2));
    assert_eq!(known(&state), ["b", "e"]);
    apply_at(&mut state, 6, 2000, once(&age("n", 1), "f", 10));
    assert_eq!(known(&state), ["e", "f"]);
    apply_at(&mut state, 7, 5000, plain(&Op::Expire { keys_max: 1 }));
    assert_eq!(known(&state), [""; 0]);
    for (index, gone) in (8..).zip([Op::AgeDelete { name: "n".into() }]) {
        apply(&mut state, index, gone);
    }
    assert_eq!(state.hash, 0, "nothing is left behind");
}

#[test]
fn a_table_that_became_too_large_shrinks_step_by_step() {
    let mut state = State::default();
    for index in 1..=200 {
        apply_at(&mut state, index, 1000, once(&age("n", 1), &format!("key-{index}"), 1000));
    }
    apply_at(&mut state, 201, 1000, once(&age("n", 1), "small", 10));
    assert_eq!(state.answers.by_key.len(), 201 - 64);
    for index in 202..205 {
        apply_at(&mut state, index, 1000, once(&age("n", 1), &format!("small-{index}"), 10));
    }
    assert_eq!(state.answers.by_key.len(), 10);
}

/// What watchers are told of each operation, in this order; nothing of what changed no key.
#[test]
fn changes_of_keys_are_noted_once_each() {
    let mut state = State::default();
    let mut index = 0;
    let mut noted = |clock_ms: u64, command: Command| {
        index += 1;
        let payload = EntryPayload::Normal(command.stamped(clock_ms));
        let mut changes = Changes::default();
        state.apply(Entry { log_id: LogId::new_term_index(1, index), payload }, &mut changes).unwrap();
        let told = changes.list.into_iter().map(|changed| {
            assert_eq!(changed.revision, index);
            let what = match changed.change {
                Change::Put { record, created } => {
                    assert_eq!(record.revision, index);
                    format!("{}{}", String::from_utf8_lossy(&record.value), if created { " new" } else { "" })
                }
                other => format!("{other:?}"),
            };
            format!("{}: {what}", changed.key)
        });
        told.collect::<Vec<String>>()
    };
    let none: [&str; 0] = [];
    let all = |then: Vec<TxnOp>| plain(&txn(vec![], then, vec![]));
    let delete = |key: &str| TxnOp::Delete { key: key.into() };

    assert_eq!(noted(1, plain(&put("k", b"1"))), ["k: 1 new"]);
    assert_eq!(noted(1, plain(&put("k", b"2"))), ["k: 2"]);
    assert_eq!(noted(1, plain(&put_if(vec![Expect::Absent]))), none);
    assert_eq!(noted(1, plain(&put_if(vec![Expect::Exists]))), ["k: new"]);
    assert_eq!(noted(1, plain(&age("n", 3))), none);
    assert_eq!(noted(1, plain(&Op::Delete { key: "gone".into() })), none);
    let ops = vec![txn_put("a", "t"), txn_put("a", "t"), delete("a"), delete("a"), add("c", 1), add("c", 1)];
    assert_eq!(noted(1, all(ops)), ["a: t new", "a: t", "a: Deleted", "c: 1 new", "c: 2"]);
    // The last operation is refused, and nothing of it was.
    assert_eq!(noted(1, all(vec![txn_put("a", "t"), delete("c"), add("k", 1)])), none);
    // The same write again is answered and not applied.
    assert_eq!(noted(1, once(&put("o", b"1"), "key", 10)), ["o: 1 new"]);
    assert_eq!(noted(1, once(&put("o", b"1"), "key", 10)), none);
    assert_eq!(noted(1, plain(&put_for("e2", 20))), ["e2: v new"]);
    assert_eq!(noted(1, plain(&put_for("e1", 10))), ["e1: v new"]);
    // The longest overdue first.
    assert_eq!(noted(100, plain(&Op::Expire { keys_max: 9 })), ["e1: Expired", "e2: Expired"]);
    let prefix = |prefix: &str| Op::DeletePrefix { prefix: prefix.into() };
    assert_eq!(noted(100, plain(&put("c/1", b"1"))), ["c/1: 1 new"]);
    assert_eq!(noted(100, plain(&prefix("c"))), ["c: Deleted", "c/1: Deleted"]);
    assert_eq!(noted(100, plain(&prefix("c"))), none);
    assert_eq!(noted(100, plain(&Op::Delete { key: "k".into() })), ["k: Deleted"]);
}

#[test]
fn what_is_due_next_is_known_without_looking() {
    let mut state = State::default();
    assert_eq!(state.due_ms(), u64::MAX);
    apply_at(&mut state, 1, 1000, plain(&put_for("later", 500)));
    apply_at(&mut state, 2, 1000, plain(&put_for("sooner", 200)));
    // With the millisecond by which nothing is ever early.
    assert_eq!(state.due_ms(), 1201);
    apply_at(&mut state, 3, 1201, plain(&Op::Expire { keys_max: 10 }));
    assert_eq!(state.due_ms(), 1501);
    apply_at(&mut state, 4, 1300, plain(&Op::Delete { key: "later".into() }));
    assert_eq!(state.due_ms(), u64::MAX);
    // Kept for a second.
    apply_at(&mut state, 5, 2000, once(&put_if(vec![]), "key", 10));
    assert_eq!(state.due_ms(), 3000 + ANSWERS_OVERDUE_MS);
    apply_at(&mut state, 6, 3000 + ANSWERS_OVERDUE_MS, plain(&Op::Expire { keys_max: 10 }));
    assert_eq!(state.due_ms(), u64::MAX);
}
