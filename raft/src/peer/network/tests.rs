//! Which connection openraft's requests take, and when.

use std::sync::Mutex;

use futures_util::{StreamExt, stream};
use openraft::network::NetStreamAppend;
use tokio::net::TcpListener;

use super::*;
use crate::peer::hello::Own;
use crate::peer::message::StreamAppendV1;
use crate::peer::server;
use crate::types::{Entry, LogId, Payload};

const CLUSTER: u128 = 7;
const BOUND: Duration = Duration::from_secs(20);

/// A node that answers every append with success, unless it says otherwise, and notes what each connection is for.
#[derive(Clone, Default)]
struct Follower {
    lanes: Arc<Mutex<Vec<Lane>>>,
    sees_conflicts: bool,
}

impl Follower {
    async fn start(&self) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap().to_string();
        let follower = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(follower.clone().serve(stream));
            }
        });
        Member { name: "n2".to_owned(), peer }
    }

    async fn serve(self, stream: tokio::net::TcpStream) {
        let own = Own { cluster_id: CLUSTER, node_id: 2, name: "n2" };
        let (hello, mut reader, mut writer) = server::greet(stream, &own).await.unwrap().unwrap();
        self.lanes.lock().unwrap().push(hello.lane);
        while let Some(frame) = reader.next().await.unwrap() {
            let response = match hello.lane {
                Lane::Append => ResponseV1::StreamAppend(StreamAppendV1::Matched(None)),
                _ if self.sees_conflicts => ResponseV1::Append(AppendResultV1::Conflict),
                _ => ResponseV1::Append(AppendResultV1::Success),
            };
            writer.write_all(&frame::encode("response", frame.id, &response).unwrap()).await.unwrap();
        }
    }

    fn lanes(&self) -> Vec<Lane> {
        self.lanes.lock().unwrap().clone()
    }
}

fn factory() -> Factory {
    Factory(Peers::new(CLUSTER, 1, "n1".to_owned()))
}

fn heartbeat() -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: None,
        leader_commit: None,
        entries: Vec::new(),
    }
}

fn entry() -> AppendEntriesRequest<TypeConfig> {
    let entry = Entry { log_id: LogId::new_term_index(1, 1), payload: Payload::Blank };
    AppendEntriesRequest { entries: vec![entry], ..heartbeat() }
}

#[tokio::test]
async fn heartbeats_share_one_vital_connection() {
    let follower = Follower::default();
    let mut network = factory().new_heartbeat_client(2, &follower.start().await).await;
    for _ in 0..5 {
        let once = stream::once(async { heartbeat() }).boxed();
        let mut answers =
            NetStreamAppend::stream_append(&mut network, once, RPCOption::new(BOUND)).await.unwrap();
        assert!(matches!(answers.next().await, Some(Ok(Ok(_)))));
        assert!(answers.next().await.is_none());
    }
    assert_eq!(follower.lanes(), [Lane::Vital]);
}

/// openraft waits out its backoff before it gives the first request: who connects earlier never waits.
#[tokio::test]
async fn a_replication_session_connects_when_there_is_something_to_send() {
    let follower = Follower::default();
    let mut network = factory().new_client(2, &follower.start().await).await;
    let option = || RPCOption::new(BOUND);
    {
        let mut answers =
            NetStreamAppend::stream_append(&mut network, stream::pending(), option()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(50), answers.next());
        assert!(answer.await.is_err(), "it did not wait");
    }
    assert_eq!(follower.lanes(), []);
    {
        let input = stream::iter([heartbeat(), entry(), heartbeat(), entry()]).chain(stream::pending());
        let mut answers = NetStreamAppend::stream_append(&mut network, input, option()).await.unwrap();
        for (request, lanes) in [&[Lane::Vital][..], &[Lane::Vital, Lane::Append]].into_iter().enumerate() {
            assert!(matches!(answers.next().await, Some(Ok(Ok(_)))), "request {request}");
            assert_eq!(follower.lanes(), lanes);
        }
        for _ in 0..2 {
            assert!(matches!(answers.next().await, Some(Ok(Ok(_)))));
        }
        assert_eq!(follower.lanes(), [Lane::Vital, Lane::Append], "one connection for all of it");
    }
    let nothing = NetStreamAppend::stream_append(&mut network, stream::empty(), option()).await;
    assert!(nothing.unwrap().next().await.is_none());
}

/// While openraft sends a snapshot, each commit is a session of one request without entries.
#[tokio::test]
async fn sessions_without_entries_make_no_connections_and_are_few() {
    const SESSIONS: u32 = 5;
    let follower = Follower::default();
    let mut network = factory().new_client(2, &follower.start().await).await;
    let begun = Instant::now();
    for _ in 0..SESSIONS {
        let mut answers =
            NetStreamAppend::stream_append(&mut network, stream::iter([heartbeat()]), RPCOption::new(BOUND))
                .await
                .unwrap();
        assert!(matches!(answers.next().await, Some(Ok(Ok(_)))));
        assert!(answers.next().await.is_none());
    }
    assert!(begun.elapsed() >= BARE_SESSION_MIN * SESSIONS);
    assert_eq!(follower.lanes(), [Lane::Vital]);
}

#[tokio::test]
async fn an_impossible_conflict_is_an_error() {
    let follower = Follower { sees_conflicts: true, ..Follower::default() };
    let member = follower.start().await;
    let factory = &mut factory();
    for mut network in [factory.new_client(2, &member).await, factory.new_heartbeat_client(2, &member).await]
    {
        let once = stream::iter([heartbeat()]);
        let mut answers =
            NetStreamAppend::stream_append(&mut network, once, RPCOption::new(BOUND)).await.unwrap();
        let error = answers.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("a conflict with nothing"), "{error}");
        assert!(answers.next().await.is_none());
    }
}
