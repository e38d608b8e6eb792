//! Every message in frozen bytes, and decoders under fire.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::EntryPayload;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::codec::{self, MembershipV1};
use crate::command::{Command, Got, Op, Reply, TxnRefusal, TxnReply, TxnResult};
use crate::golden;
use crate::peer::Lane;
use crate::peer::hello::{HelloAnswerV1, HelloV1, Refusal};
use crate::state::snapshot;
use crate::state::tests::{Nowhere, sample_state};
use crate::types::{LogId, Member, Membership, Vote};

const VOTE: VoteV1 = VoteV1 { term: 3, node_id: 2, committed: true };
const ID: Option<LogIdV1> = Some(LogIdV1 { term: 3, index: 258 });

fn requests() -> Vec<RequestV1<'static>> {
    let vote = VoteRequestV1 { vote: VOTE, last_log_id: ID, leadership_transfer: true };
    let members = vec![(1, MemberV1 { name: "a".into(), peer: "h:1".into() })];
    let membership = StoredMembershipV1 {
        log_id: ID,
        membership: MembershipV1 {
            voters: vec![BTreeSet::from([1])],
            members: BTreeMap::from([(1, MemberV1 { name: "a".into(), peer: "h:1".into() })]),
        },
    };
    let entry = |kind, body| EntryV1 { log_id: LogIdV1 { term: 3, index: 259 }, kind, body };
    vec![
        RequestV1::Vote(vote),
        RequestV1::PreVote(VoteRequestV1 { last_log_id: None, leadership_transfer: false, ..vote }),
        RequestV1::Append(AppendV1 {
            vote: VOTE,
            prev_log_id: ID,
            committed: None,
            entries: vec![entry(0, b""), entry(1, b"a command")],
        }),
        RequestV1::TransferLeader { from: VOTE, to: 1, last_log_id: ID },
        RequestV1::ReadIndex { held: VOTE },
        RequestV1::Status,
        RequestV1::Write { command: b"a command" },
        RequestV1::SnapshotBegin { vote: VOTE, last_log_id: ID, membership },
        RequestV1::SnapshotChunk { bytes: b"some bytes" },
        RequestV1::SnapshotEnd,
        RequestV1::Found(FoundV1 { cluster_id: None, members: members.clone() }),
        RequestV1::Found(FoundV1 { cluster_id: Some(7), members }),
        RequestV1::HeldVote,
    ]
}

/// One of each.
fn txn_results() -> Vec<TxnResult> {
    let got = Got {
        value: Bytes::from_static(b"v"),
        content_type: "t".into(),
        revision: 2,
        created_revision: 1,
        expires_in_ms: Some(258),
    };
    vec![
        TxnResult::Put { created: true },
        TxnResult::Deleted { existed: true },
        TxnResult::Got(None),
        TxnResult::Got(Some(got)),
        TxnResult::Added(-258),
    ]
}

fn responses() -> Vec<ResponseV1> {
    let status = StatusV1 {
        version: "0.1.0".into(),
        http: "h:80".into(),
        state: "leader".into(),
        term: 1,
        last_log_index: 2,
        applied_index: 3,
        keys: 4,
        data_bytes: 5,
        disk_free_bytes: 6,
        state_hash: 7,
    };
    let written = |reply| ResponseV1::Write(Ok(WrittenV1 { revision: 258, reply, replayed: false }));
    let refused = |refusal| ResponseV1::Write(Err(refusal));
    vec![
        ResponseV1::Vote(VoteResponseV1 { vote: VOTE, granted: true, last_log_id: ID }),
        ResponseV1::Append(AppendResultV1::Success),
        ResponseV1::Append(AppendResultV1::PartialSuccess(ID)),
        ResponseV1::Append(AppendResultV1::Conflict),
        ResponseV1::Append(AppendResultV1::HigherVote(VOTE)),
        ResponseV1::StreamAppend(StreamAppendV1::Matched(ID)),
        ResponseV1::StreamAppend(StreamAppendV1::Conflict(LogIdV1 { term: 1, index: 2 })),
        ResponseV1::StreamAppend(StreamAppendV1::HigherVote(VOTE)),
        ResponseV1::TransferLeader,
        ResponseV1::ReadIndex(Ok(258)),
        ResponseV1::ReadIndex(Err(ReadRefusalV1::NotLeader(Some(2)))),
        ResponseV1::ReadIndex(Err(ReadRefusalV1::NoQuorum)),
        ResponseV1::Status(Box::new(status)),
        written(Reply::Nothing),
        written(Reply::Written { created: true }),
        written(Reply::Deleted { existed: true }),
        written(Reply::PrefixDeleted { keys: 258 }),
        written(Reply::PrefixTooLarge { keys_max: 258 }),
        written(Reply::PreconditionFailed { current: Some(258) }),
        written(Reply::Txn(Box::new(TxnReply { succeeded: true, results: txn_results() }))),
        written(Reply::TxnRefused { succeeded: true, operation: 258, reason: TxnRefusal::NotAnInteger }),
        written(Reply::Expired { keys: 258 }),
        written(Reply::KeyReused),
        refused(WriteRefusalV1::NotLeader(None)),
        refused(WriteRefusalV1::StorageFull { data_bytes_max: 258 }),
        refused(WriteRefusalV1::Overloaded),
        refused(WriteRefusalV1::OutcomeUnknown("why".into())),
        refused(WriteRefusalV1::DiskLow { free_bytes: 1, free_min: 2 }),
        ResponseV1::Snapshot { vote: VOTE },
        ResponseV1::Found(FoundAnswerV1::Blank),
        ResponseV1::Found(FoundAnswerV1::Member { cluster_id: 258 }),
        ResponseV1::Found(FoundAnswerV1::OtherList("a=h:1".into())),
        ResponseV1::Failed("why".into()),
        ResponseV1::HeldVote(VOTE),
    ]
}

fn hellos() -> Vec<HelloV1> {
    let lanes = [Lane::Vital, Lane::Append, Lane::Forward, Lane::Snapshot, Lane::Found];
    lanes.map(|lane| HelloV1::new(lane, 258, 1, "a", 2)).to_vec()
}

fn answers() -> Vec<HelloAnswerV1> {
    let refused = HelloAnswerV1::Refused;
    vec![
        HelloAnswerV1::Accepted { version: 2 },
        refused(Refusal::NotHearth),
        refused(Refusal::Version { spoken_min: 1, spoken_max: 2 }),
        refused(Refusal::OtherCluster { cluster_id: 258 }),
        refused(Refusal::OtherNode { name: "b".into(), id: 3 }),
        refused(Refusal::Blank { name: "b".into() }),
    ]
}

/// Without a wildcard: a new variant does not compile until it is in the lists above.
fn request_name(request: &RequestV1<'_>) -> &'static str {
    match request {
        RequestV1::Vote(_) => "vote",
        RequestV1::PreVote(_) => "pre-vote",
        RequestV1::Append(_) => "append",
        RequestV1::TransferLeader { .. } => "transfer leader",
        RequestV1::ReadIndex { .. } => "read index",
        RequestV1::Status => "status",
        RequestV1::Write { .. } => "write",
        RequestV1::SnapshotBegin { .. } => "snapshot begin",
        RequestV1::SnapshotChunk { .. } => "snapshot chunk",
        RequestV1::SnapshotEnd => "snapshot end",
        RequestV1::Found(FoundV1 { cluster_id: None, .. }) => "found, question",
        RequestV1::Found(FoundV1 { cluster_id: Some(_), .. }) => "found, order",
        RequestV1::HeldVote => "held vote",
    }
}

fn response_name(response: &ResponseV1) -> &'static str {
    match response {
        ResponseV1::Vote(_) => "vote",
        ResponseV1::Append(result) => match result {
            AppendResultV1::Success => "append success",
            AppendResultV1::PartialSuccess(_) => "append partial success",
            AppendResultV1::Conflict => "append conflict",
            AppendResultV1::HigherVote(_) => "append higher vote",
        },
        ResponseV1::StreamAppend(result) => match result {
            StreamAppendV1::Matched(_) => "stream matched",
            StreamAppendV1::Conflict(_) => "stream conflict",
            StreamAppendV1::HigherVote(_) => "stream higher vote",
        },
        ResponseV1::TransferLeader => "transfer leader",
        ResponseV1::ReadIndex(result) => match result {
            Ok(_) => "read index",
            Err(ReadRefusalV1::NotLeader(_)) => "read not leader",
            Err(ReadRefusalV1::NoQuorum) => "read no quorum",
        },
        ResponseV1::Status(_) => "status",
        ResponseV1::Write(Ok(WrittenV1 { reply, .. })) => match reply {
            Reply::Nothing => "written nothing",
            Reply::Written { .. } => "written",
            Reply::Deleted { .. } => "deleted",
            Reply::PrefixDeleted { .. } => "deleted prefix",
            Reply::PrefixTooLarge { .. } => "prefix too large",
            Reply::PreconditionFailed { .. } => "precondition failed",
            Reply::Txn(_) => "txn",
            Reply::TxnRefused { .. } => "txn refused",
            Reply::Expired { .. } => "expired",
            Reply::KeyReused => "key reused",
        },
        ResponseV1::Write(Err(refusal)) => match refusal {
            WriteRefusalV1::NotLeader(_) => "write not leader",
            WriteRefusalV1::StorageFull { .. } => "write storage full",
            WriteRefusalV1::Overloaded => "write overloaded",
            WriteRefusalV1::OutcomeUnknown(_) => "write unknown",
            WriteRefusalV1::DiskLow { .. } => "write disk low",
        },
        ResponseV1::Snapshot { .. } => "snapshot",
        ResponseV1::Found(answer) => match answer {
            FoundAnswerV1::Blank => "found blank",
            FoundAnswerV1::Member { .. } => "found member",
            FoundAnswerV1::OtherList(_) => "found other list",
        },
        ResponseV1::Failed(_) => "failed",
        ResponseV1::HeldVote(_) => "held vote",
    }
}

fn answer_name(answer: &HelloAnswerV1) -> &'static str {
    match answer {
        HelloAnswerV1::Accepted { .. } => "accepted",
        HelloAnswerV1::Refused(refusal) => match refusal {
            Refusal::NotHearth => "refused, not Hearth",
            Refusal::Version { .. } => "refused, version",
            Refusal::OtherCluster { .. } => "refused, other cluster",
            Refusal::OtherNode { .. } => "refused, other node",
            Refusal::Blank { .. } => "refused, blank",
        },
    }
}

/// Every message in bytes, by name.
fn all() -> Vec<(String, Vec<u8>)> {
    fn line(kind: &str, name: impl std::fmt::Display, message: &impl Serialize) -> (String, Vec<u8>) {
        (format!("{kind} {name}"), codec::encode("message", message).unwrap())
    }
    let mut all = Vec::new();
    all.extend(requests().iter().map(|message| line("request", request_name(message), message)));
    all.extend(responses().iter().map(|message| line("response", response_name(message), message)));
    all.extend(hellos().iter().map(|message| line("hello", message.lane, message)));
    all.extend(answers().iter().map(|message| line("answer", answer_name(message), message)));
    all
}

/// Decodes and encodes again, whatever kind of message `name` says; `None` when it cannot be decoded.
fn recode(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let encode = |message: &dyn erased::Encode| message.encode();
    match name.split(' ').next() {
        Some("request") => {
            codec::decode::<RequestV1<'_>>("request", bytes).ok().map(|message| encode(&message))
        }
        Some("response") => {
            codec::decode::<ResponseV1>("response", bytes).ok().map(|message| encode(&message))
        }
        Some("hello") => codec::decode::<HelloV1>("hello", bytes).ok().map(|message| encode(&message)),
        _ => codec::decode::<HelloAnswerV1>("answer", bytes).ok().map(|message| encode(&message)),
    }
}

mod erased {
    /// What can be written again.
    pub(super) trait Encode {
        fn encode(&self) -> Vec<u8>;
    }
    impl<T: serde::Serialize> Encode for T {
        fn encode(&self) -> Vec<u8> {
            crate::codec::encode("message", self).unwrap()
        }
    }
}

#[test]
fn golden_bytes() {
    let all = all();
    let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "a name is there twice");
    golden::check(golden::PEER, "", &all);
    for (name, bytes) in &all {
        assert_eq!(recode(name, bytes).as_ref(), Some(bytes), "{name} does not come back");
    }
}

/// What openraft hands over arrives as it was, for every kind of entry.
#[test]
fn appends_come_back_as_they_were() {
    let members = BTreeMap::from([(1, Member { name: "a".into(), peer: "h:1".into() })]);
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Command::encode(&Op::Delete { key: "k".into() }).unwrap()),
        EntryPayload::Membership(Membership::new(vec![[1].into()], members).unwrap()),
    ];
    let entries: Vec<Entry> = (5..)
        .zip(payloads)
        .map(|(index, payload)| Entry { log_id: LogId::new_term_index(2, index), payload })
        .collect();
    let request = AppendEntriesRequest {
        vote: Vote::new_committed(2, 1),
        prev_log_id: Some(LogId::new_term_index(1, 4)),
        leader_commit: Some(LogId::new_term_index(1, 3)),
        entries: entries.clone(),
    };
    let frame = RequestV1::append_frame(9, &request).unwrap();
    let RequestV1::Append(append) = codec::decode("request", &frame[12..]).unwrap() else { panic!() };
    let back = append.into_request().unwrap();
    assert_eq!(back.entries, entries);
    assert_eq!(
        (back.vote, back.prev_log_id, back.leader_commit),
        (request.vote, request.prev_log_id, request.leader_commit)
    );
}

/// Random bytes, and messages with bytes changed, cut off, doubled or put in: no decoder panics, and none
/// takes more memory at once than serde's own bound of 1 MiB for a length that is only claimed.
#[test]
fn no_input_makes_a_decoder_panic_or_take_memory() {
    const PIECE_MAX: usize = (1 << 20) + (64 << 10);
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut good: Vec<Vec<u8>> = all().into_iter().map(|(_, bytes)| bytes).collect();
    let mut stream = Vec::new();
    snapshot::write(&sample_state(), &mut stream).unwrap();
    good.push(Command::encode(&Op::Delete { key: "k".into() }).unwrap().bytes().to_vec());
    allocations::forget();
    for _ in 0..20_000 {
        let mut bytes = good[random.random_range(0..good.len())].clone();
        mutate(&mut bytes, &mut random);
        drop(codec::decode::<HelloV1>("hello", &bytes));
        drop(codec::decode::<HelloAnswerV1>("answer", &bytes));
        drop(codec::decode::<ResponseV1>("response", &bytes));
        match codec::decode("request", &bytes) {
            Ok(RequestV1::Append(append)) => drop(append.into_request()),
            Ok(RequestV1::SnapshotBegin { last_log_id, membership, .. }) => {
                drop(snapshot_meta(last_log_id, membership));
            }
            _ => {}
        }
        drop(Command::from_bytes(bytes.into()).and_then(|command| command.decode()));
    }
    let most = allocations::largest();
    println!("at most {most} bytes at once");
    assert!(most <= PIECE_MAX, "{most} bytes at once for a message");

    // A file's records are as long as their heads say, up to the bound of a record.
    for _ in 0..2_000 {
        let mut bytes = stream.clone();
        mutate(&mut bytes, &mut random);
        drop(snapshot::read(&bytes[..], &mut Nowhere));
    }
    let most = allocations::largest();
    println!("at most {most} bytes at once for a snapshot");
    assert!(most as u64 <= codec::RECORD_BYTES_MAX, "{most} bytes at once for a snapshot");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 if at + 8 <= bytes.len() => bytes[at..at + 8].fill(0xff),
            3 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
            4 => {
                bytes.resize(random.random_range(0..64), 0);
                random.fill_bytes(bytes);
                if let Some(format) = bytes.first_mut() {
                    *format = 1;
                }
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            _ => {}
        }
    }
}

mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static LARGEST: Cell<usize> = const { Cell::new(0) };
    }

    struct Watched;

    fn note(bytes: usize) {
        LARGEST.with(|largest| largest.set(largest.get().max(bytes)));
    }

    #[allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one only counts")]
    // SAFETY: every call goes to the system's allocator as it is.
    unsafe impl GlobalAlloc for Watched {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            note(layout.size());
            unsafe { System.alloc(layout) }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            note(layout.size());
            unsafe { System.alloc_zeroed(layout) }
        }
        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            unsafe { System.dealloc(memory, layout) }
        }
        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
            note(bytes);
            unsafe { System.realloc(memory, layout, bytes) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Watched = Watched;

    pub(super) fn forget() {
        LARGEST.with(|largest| largest.set(0));
    }

    /// The largest piece that this thread asked for since [`forget`], in bytes.
    pub(super) fn largest() -> usize {
        LARGEST.with(Cell::get)
    }
}
