//! Random sequences of all operations against a simple model: the same answers, revisions and content,
//! also through snapshots and checkpoints in the middle.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::command::{Applied, Condition, Expect, Got, Test, Txn, TxnOp, TxnRefusal, TxnReply, TxnResult};
use crate::state::checkpoint::Checkpoints;

const WINDOW_MS: u64 = 1000;
const KEYS_MAX: usize = 3;

#[derive(Debug, Clone, PartialEq)]
struct Value {
    bytes: Vec<u8>,
    content_type: String,
    revision: u64,
    created: u64,
    expires: Option<u64>,
}

#[derive(Debug, Clone)]
struct Answer {
    key: String,
    op: Op,
    revision: u64,
    expires: u64,
    reply: Reply,
}

/// The store as one would write it down on a page.
#[derive(Debug, Clone, Default)]
struct Model {
    clock: u64,
    keys: BTreeMap<String, Value>,
    ages: BTreeMap<String, Vec<u8>>,
    /// The oldest first.
    answers: Vec<Answer>,
}

impl Model {
    fn apply(&mut self, revision: u64, clock: u64, key: Option<&str>, op: &Op) -> Applied {
        self.clock = self.clock.max(clock);
        let Some(key) = key else { return self.op(revision, op, 4 << 20).into() };
        if let Some(known) = self.answers.iter().find(|a| a.key == key && a.expires > self.clock) {
            return match known.op == *op {
                true => Applied { reply: known.reply.clone(), replay_of: Some(known.revision) },
                false => Reply::KeyReused.into(),
            };
        }
        let reply = self.op(revision, op, 16 << 10);
        self.answers.retain(|answer| answer.key != key);
        let expires = self.clock + WINDOW_MS;
        self.answers.push(Answer {
            key: key.into(),
            op: op.clone(),
            revision,
            expires,
            reply: reply.clone(),
        });
        self.forget();
        // Values that were read count as well, 256 bytes an answer; the newest always stays.
        while self.answers.len() > 1 && (self.answers.len() > KEYS_MAX || self.read_bytes() > KEYS_MAX * 256)
        {
            self.answers.remove(0);
        }
        reply.into()
    }

    fn read_bytes(&self) -> usize {
        let bytes = |result: &TxnResult| match result {
            TxnResult::Got(Some(got)) => got.value.len() + got.content_type.len(),
            _ => 16,
        };
        self.answers
            .iter()
            .map(|answer| match &answer.reply {
                Reply::Txn(txn) => txn.results.iter().map(bytes).sum(),
                _ => 0,
            })
            .sum()
    }

    fn forget(&mut self) {
        self.answers.retain(|answer| answer.expires > self.clock);
    }

    fn op(&mut self, revision: u64, op: &Op, bytes_max: u64) -> Reply {
        match op {
            Op::Put { key, value, content_type } => {
                Reply::Written { created: self.put(revision, key, value, content_type, None) }
            }
            Op::PutWith { key, value, content_type, ttl_ms, only_if } => {
                let current = self.keys.get(key.as_str()).map(|v| v.revision);
                if !only_if.iter().all(|expect| holds(expect, current)) {
                    return Reply::PreconditionFailed { current };
                }
                Reply::Written { created: self.put(revision, key, value, content_type, *ttl_ms) }
            }
            Op::Delete { key } => Reply::Deleted { existed: self.keys.remove(key.as_str()).is_some() },
            Op::DeleteIf { key, only_if } => {
                let current = self.keys.get(key.as_str()).map(|v| v.revision);
                if !only_if.iter().all(|expect| holds(expect, current)) {
                    return Reply::PreconditionFailed { current };
                }
                Reply::Deleted { existed: self.keys.remove(key.as_str()).is_some() }
            }
            Op::DeletePrefix { prefix } => {
                let before = self.keys.len();
                self.keys.retain(|key, _| !key.starts_with(prefix));
                Reply::PrefixDeleted { keys: (before - self.keys.len()) as u64 }
            }
            Op::AgeAppend { name, age } => {
                let list = self.ages.entry(name.clone()).or_default();
                list.push(*age);
                Reply::Written { created: list.len() == 1 }
            }
            Op::AgeDelete { name } => Reply::Deleted { existed: self.ages.remove(name).is_some() },
            Op::Txn(txn) => self.txn(revision, txn, bytes_max),
            Op::Expire { keys_max } => {
                let mut due: Vec<(u64, String)> = self
                    .keys
                    .iter()
                    .filter_map(|(key, v)| {
                        v.expires.filter(|at| *at <= self.clock).map(|at| (at, key.clone()))
                    })
                    .collect();
                due.sort();
                due.truncate(*keys_max as usize);
                for (_, key) in &due {
                    self.keys.remove(key);
                }
                self.forget();
                Reply::Expired { keys: due.len() as u64 }
            }
        }
    }

    fn put(
        &mut self,
        revision: u64,
        key: &str,
        value: &[u8],
        content_type: &str,
        ttl: Option<NonZeroU64>,
    ) -> bool {
        let created = self.keys.get(key).map_or(revision, |v| v.created);
        let value = Value {
            bytes: value.to_vec(),
            content_type: content_type.to_owned(),
            revision,
            created,
            expires: ttl.map(|ttl| self.clock + ttl.get() + 1),
        };
        self.keys.insert(key.to_owned(), value).is_none()
    }

    fn txn(&mut self, revision: u64, txn: &Txn, bytes_max: u64) -> Reply {
        let succeeded = txn.conditions.iter().all(|Condition { key, test }| {
            let value = self.keys.get(key);
            match test {
                Test::Expect(expect) => holds(expect, value.map(|v| v.revision)),
                Test::Value(wanted) => value.is_some_and(|v| v.bytes == *wanted),
            }
        });
        let before = self.clone();
        let mut read = 0;
        let mut results = Vec::new();
        for (at, op) in (0..).zip(if succeeded { &txn.then } else { &txn.or_else }) {
            let result = match op {
                TxnOp::Put { key, value, content_type, ttl_ms } => {
                    TxnResult::Put { created: self.put(revision, key, value, content_type, *ttl_ms) }
                }
                TxnOp::Delete { key } => TxnResult::Deleted { existed: self.keys.remove(key).is_some() },
                TxnOp::Get { key } => TxnResult::Got(self.keys.get(key).map(|v| Got {
                    value: v.bytes.clone().into(),
                    content_type: v.content_type.clone(),
                    revision: v.revision,
                    created_revision: v.created,
                    expires_in_ms: v.expires.map(|at| at.saturating_sub(self.clock)),
                })),
                TxnOp::Add { key, by } => {
                    let old = self.keys.get(key).cloned();
                    let text =
                        old.as_ref().map_or("0".into(), |v| String::from_utf8(v.bytes.clone()).unwrap());
                    let sum = match text.parse::<i64>() {
                        Ok(number) => number.checked_add(*by).ok_or(TxnRefusal::Overflow),
                        Err(_) => Err(TxnRefusal::NotAnInteger),
                    };
                    match sum {
                        Ok(sum) => {
                            let content_type = old.as_ref().map_or("text/plain", |v| &v.content_type);
                            self.put(revision, key, sum.to_string().as_bytes(), content_type, None);
                            self.keys.get_mut(key).unwrap().expires = old.and_then(|v| v.expires);
                            TxnResult::Added(sum)
                        }
                        Err(reason) => {
                            *self = before;
                            return Reply::TxnRefused { succeeded, operation: at, reason };
                        }
                    }
                }
            };
            if let TxnResult::Got(Some(got)) = &result {
                read += got.value.len() as u64;
                if read > bytes_max {
                    *self = before;
                    let reason = TxnRefusal::ResultTooLarge { bytes_max };
                    return Reply::TxnRefused { succeeded, operation: at, reason };
                }
            }
            results.push(result);
        }
        Reply::Txn(Box::new(TxnReply { succeeded, results }))
    }

    fn agrees_with(&self, state: &State) {
        let keys: BTreeMap<String, Value> = state
            .keys
            .iter()
            .map(|(key, r)| {
                let value = Value {
                    bytes: r.value.to_vec(),
                    content_type: r.content_type.to_string(),
                    revision: r.revision,
                    created: r.created_revision,
                    expires: r.expires_at_ms.map(NonZeroU64::get),
                };
                (key.to_string(), value)
            })
            .collect();
        assert_eq!(keys, self.keys);
        let ages: BTreeMap<String, Vec<u8>> =
            state.ages.iter().map(|(name, list)| (name.to_string(), list.iter().collect())).collect();
        assert_eq!(ages, self.ages);
        assert_eq!(state.clock_ms, self.clock);
        let mut answers: Vec<(&str, u64)> =
            state.answers.by_key.iter().map(|(key, answer)| (key.as_str(), answer.revision)).collect();
        answers.sort_by_key(|(_, revision)| *revision);
        let expected: Vec<(&str, u64)> = self.answers.iter().map(|a| (a.key.as_str(), a.revision)).collect();
        assert_eq!(answers, expected);
    }
}

fn holds(expect: &Expect, current: Option<u64>) -> bool {
    match (expect, current) {
        (Expect::Exists, current) => current.is_some(),
        (Expect::Absent, current) => current.is_none(),
        (Expect::Revisions(_), None) => false,
        (Expect::Revisions(these), Some(revision)) => these.contains(&revision),
        (Expect::NotRevisions(_), None) => true,
        (Expect::NotRevisions(these), Some(revision)) => !these.contains(&revision),
    }
}

/// One step: an operation and how far the leader's clock is from the time before it, or a look at what
/// a snapshot, or a checkpoint, makes of the state.
#[derive(Debug, Clone)]
enum Step {
    Apply { op: Op, key: Option<String>, clock_ms: i64 },
    Snapshot,
    Checkpoint,
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/1", "a/2", "b", "n"]).prop_map(String::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    let some = ["", "1", "-7", "9223372036854775807", "x"].map(|text| Bytes::from_static(text.as_bytes()));
    prop_oneof![8 => prop::sample::select(some.to_vec()), 1 => Just(Bytes::from(vec![b'y'; 5000]))]
}

fn content_type() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "text/plain", "x/y"]).prop_map(String::from)
}

fn ttl() -> impl Strategy<Value = Option<NonZeroU64>> {
    prop_oneof![Just(None), (1..2000u64).prop_map(NonZeroU64::new)]
}

/// Revisions are small: there are that many steps.
fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        Just(Expect::Exists),
        Just(Expect::Absent),
        vec(1..40u64, 0..20).prop_map(Expect::Revisions),
        vec(1..40u64, 0..20).prop_map(Expect::NotRevisions),
    ]
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        (key(), value(), content_type(), ttl()).prop_map(|(key, value, content_type, ttl_ms)| TxnOp::Put {
            key,
            value,
            content_type,
            ttl_ms
        }),
        key().prop_map(|key| TxnOp::Delete { key }),
        key().prop_map(|key| TxnOp::Get { key }),
        (key(), -9..9i64).prop_map(|(key, by)| TxnOp::Add { key, by }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let test = prop_oneof![expect().prop_map(Test::Expect), value().prop_map(Test::Value)];
    (key(), test).prop_map(|(key, test)| Condition { key, test })
}

fn op() -> impl Strategy<Value = Op> {
    let name = || prop::sample::select(vec!["p", "q"]).prop_map(String::from);
    prop_oneof![
        4 => (key(), value(), content_type())
            .prop_map(|(key, value, content_type)| Op::Put { key: key.into(), value, content_type }),
        4 => (key(), value(), content_type(), ttl(), vec(expect(), 0..2)).prop_map(
            |(key, value, content_type, ttl_ms, only_if)| Op::PutWith {
                key: key.into(), value, content_type, ttl_ms, only_if
            }
        ),
        2 => key().prop_map(|key| Op::Delete { key: key.into() }),
        2 => (key(), vec(expect(), 1..3)).prop_map(|(key, only_if)| Op::DeleteIf { key: key.into(), only_if }),
        1 => prop::sample::select(vec!["a", "a/", "b", "zz"])
            .prop_map(|prefix| Op::DeletePrefix { prefix: prefix.into() }),
        2 => (name(), 0..=150u8).prop_map(|(name, age)| Op::AgeAppend { name, age }),
        1 => name().prop_map(|name| Op::AgeDelete { name }),
        4 => (vec(condition(), 0..3), vec(txn_op(), 0..6), vec(txn_op(), 0..6))
            .prop_map(|(conditions, then, or_else)| Op::Txn(Txn { conditions, then, or_else })),
        2 => (1..3u32).prop_map(|keys_max| Op::Expire { keys_max }),
    ]
}

fn apply_step() -> impl Strategy<Value = Step> {
    let key = prop::option::weighted(0.4, prop::sample::select(vec!["k1", "k2", "k3", "k4", "k5"]));
    (op(), key, -200..500i64).prop_map(|(op, key, clock_ms)| Step::Apply {
        op,
        key: key.map(String::from),
        clock_ms,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![20 => apply_step(), 1 => Just(Step::Snapshot), 2 => Just(Step::Checkpoint)]
}

/// Goes through `steps`; `checkpoint` gives back what is loaded after a checkpoint.
fn follow(steps: Vec<Step>, mut checkpoint: impl FnMut(State) -> State) {
    let (mut model, mut state) = (Model::default(), State::default());
    let (mut revision, mut clock_ms) = (0, 1_000_000_u64);
    // Sent again now and then: a repetition is the same request.
    let mut sent: BTreeMap<String, Op> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Apply { op, key, clock_ms: moved } => {
                revision += 1;
                clock_ms = u64::try_from(clock_ms.cast_signed() + moved).unwrap();
                let op = match &key {
                    Some(key) if moved % 3 != 0 => sent.entry(key.clone()).or_insert(op).clone(),
                    _ => op,
                };
                let command = match &key {
                    None => Command::encode(&op).unwrap(),
                    Some(key) => {
                        let (key, window) = (key.parse().unwrap(), Duration::from_millis(WINDOW_MS));
                        Command::encode_once(&op, &key, window, KEYS_MAX as u64).unwrap()
                    }
                };
                let payload = EntryPayload::Normal(command.stamped(clock_ms));
                let entry = Entry { log_id: LogId::new_term_index(1, revision), payload };
                let expected = model.apply(revision, clock_ms, key.as_deref(), &op);
                assert_eq!(
                    state.apply(entry, &mut Changes::default()).unwrap(),
                    expected,
                    "{op:?} under {key:?}"
                );
                model.agrees_with(&state);
            }
            Step::Snapshot => {
                let mut bytes = Vec::new();
                snapshot::write(&state, &mut bytes).unwrap();
                let back = snapshot::read(&bytes[..], &mut super::Nowhere).unwrap();
                assert_eq!(content(&back), content(&state));
                // What is at rest is the same as before.
                state = State { unsaved: std::mem::take(&mut state.unsaved), ..back };
            }
            Step::Checkpoint => {
                let expected = content(&state);
                state = checkpoint(state);
                assert_eq!(content(&state), expected);
            }
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn open(dir: &Path) -> (Checkpoints, View) {
    let duration = prometheus::Histogram::with_opts(prometheus::HistogramOpts::new("d", "d")).unwrap();
    Checkpoints::create(dir).unwrap();
    Checkpoints::open(dir, duration, prometheus::IntGauge::new("w", "w").unwrap()).unwrap()
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn the_state_agrees_with_the_model(steps in vec(step(), 1..40)) {
        follow(steps, |state| state);
    }
}

proptest! {
    #![proptest_config(config(12))]
    #[test]
    fn checkpoints_in_the_middle_change_nothing(steps in vec(step(), 20..60)) {
        let dir = TempDir::new().unwrap();
        let mut checkpoints = Some(open(dir.path()).0);
        let mut number = 0;
        follow(steps, |mut state| {
            let Some(current) = checkpoints.take() else { unreachable!("it is put back") };
            // Nothing is written then, not even what an interrupted one left.
            if state.last_applied == current.last().last_applied {
                checkpoints = Some(current);
                return state;
            }
            // All of them are written as changes; what lies there then is what a full one would write.
            let frozen = state.freeze();
            assert!(frozen.continues(current.last().last_applied));
            number += 1;
            // A crash, after any number of rows.
            if number % 3 == 0 {
                current.write_interrupted(frozen, number % 10, number % 2 == 0);
                drop(current);
                let (reopened, loaded) = open(dir.path());
                checkpoints = Some(reopened);
                return State::thawed(&loaded);
            }
            current.write_now(frozen).unwrap();
            let full = TempDir::new().unwrap();
            let (other, _) = open(full.path());
            other.replace(Arc::new(state.clone())).unwrap();
            assert_eq!(current.rows(), other.rows());
            // Without a restart the next one stands on what this one froze.
            if number % 2 == 0 {
                checkpoints = Some(current);
                return state;
            }
            drop(current);
            let (reopened, loaded) = open(dir.path());
            checkpoints = Some(reopened);
            State::thawed(&loaded)
        });
    }
}
