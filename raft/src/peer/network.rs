//! openraft's network: how this node's Raft reaches the others.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::stream_append_sequential;
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::background;
use crate::codec;
use crate::peer::Lane;
use crate::peer::frame::{self, FrameReader};
use crate::peer::hello::{self, Connection, HelloV1};
use crate::peer::link::{CallError, Link};
use crate::peer::message::{AppendResultV1, RequestV1, ResponseV1};
use crate::peer::reach::Reach;
use crate::read_index::Told;
use crate::state::{SnapshotData, View, snapshot};
use crate::types::{Member, TypeConfig, Vote};

/// Append requests that may be sent and not yet answered on one replication session.
const PIPELINE: usize = 32;

/// A replication session on which a request stays unanswered this long is given up and begun anew.
/// Long enough for a slow fsync on the other side, short enough to notice a connection that died
/// with its host.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// A replication session without entries lasts so long at least. While openraft sends a snapshot it begins one
/// whenever something is committed, and nobody there waits for that.
const BARE_SESSION_MIN: Duration = Duration::from_millis(10);

/// A snapshot is given up when the other side takes nothing for this long.
const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a snapshot that travel in one frame.
const SNAPSHOT_CHUNK_BYTES: usize = 128 * 1024;

/// A link and the address that it goes to.
type LinkTo = (String, Arc<Link>);

/// What every connection of this node says of it, and the links that are shared.
pub(crate) struct Peers {
    cluster_id: u128,
    node_id: u64,
    name: String,
    links: Mutex<HashMap<(u64, Lane), LinkTo>>,
    /// How the attempts of Raft to reach each member go.
    reaches: Mutex<HashMap<u64, Arc<Reach>>>,
    pub(crate) told: Told,
}

impl Peers {
    pub(crate) fn new(cluster_id: u128, node_id: u64, name: String) -> Arc<Self> {
        Arc::new(Self {
            cluster_id,
            node_id,
            name,
            links: Mutex::default(),
            reaches: Mutex::default(),
            told: Told::default(),
        })
    }

    fn hello(&self, lane: Lane, to: u64) -> HelloV1 {
        HelloV1::new(lane, self.cluster_id, self.node_id, &self.name, to)
    }

    /// To be called before `request` is sent.
    fn tell(&self, request: &AppendEntriesRequest<TypeConfig>) {
        if let Some(committed) = &request.leader_commit {
            self.told.note(committed.index);
        }
    }

    /// The shared link to a member. A changed address gets a new one.
    pub(crate) fn link(&self, lane: Lane, to: u64, address: &str) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match links.get(&(to, lane)) {
            Some((at, link)) if at == address => Arc::clone(link),
            _ => {
                let link = Arc::new(Link::new(address.to_owned(), self.hello(lane, to)));
                links.insert((to, lane), (address.to_owned(), Arc::clone(&link)));
                link
            }
        }
    }

    /// A member that has changed begins anew.
    fn reach(&self, id: u64, member: &Member) -> Arc<Reach> {
        let mut reaches = self.reaches.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Reach::new(member.clone()));
        let reach = reaches.entry(id).or_insert_with(new);
        if reach.member != *member {
            *reach = new();
        }
        Arc::clone(reach)
    }
}

/// Hands openraft a [`Peer`] for each target and purpose.
pub(crate) struct Factory(pub(crate) Arc<Peers>);

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        let reach = self.0.reach(target, node);
        Peer { peers: Arc::clone(&self.0), target, reach, appends: Appends::Entries }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer { appends: Appends::Heartbeats, ..self.new_client(target, node).await }
    }
}

/// One member as openraft talks to it. Heartbeats and votes share the vital link; every replication
/// session and every snapshot connects for itself.
pub(crate) struct Peer {
    peers: Arc<Peers>,
    target: u64,
    reach: Arc<Reach>,
    appends: Appends,
}

/// What openraft appends through a [`Peer`]: it asks for a stream for either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appends {
    /// Log entries, pipelined, on a connection of their own.
    Entries,
    /// One request without entries at a time, on the vital link.
    Heartbeats,
}

type RpcError = RPCError<TypeConfig>;

fn unreachable(error: impl std::fmt::Display) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

fn network(error: impl std::fmt::Display) -> RpcError {
    RPCError::Network(NetworkError::from_string(error.to_string()))
}

impl Peer {
    async fn ask(&self, request: &RequestV1<'_>, timeout: Duration) -> Result<ResponseV1, RpcError> {
        self.ask_frame(|id| frame::encode("request", id, request), timeout).await
    }

    async fn ask_frame(
        &self,
        encode: impl FnOnce(u64) -> io::Result<Bytes>,
        timeout: Duration,
    ) -> Result<ResponseV1, RpcError> {
        let link = self.peers.link(Lane::Vital, self.target, self.address());
        let answer = match link.call_frame(encode, timeout).await {
            Ok(ResponseV1::Failed(reason)) => Err(network(reason)),
            Ok(response) => Ok(response),
            Err(CallError::NotSent(reason)) => Err(unreachable(reason)),
            Err(CallError::Unanswered(reason)) => Err(network(reason)),
        };
        match &answer {
            Ok(_) => self.reach.answered(Lane::Vital),
            Err(error) => self.reach.failed(Lane::Vital, error),
        }
        answer
    }

    /// An append request without entries, on the vital link.
    async fn append_nothing(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        self.peers.tell(request);
        match self.ask_frame(|id| RequestV1::append_frame(id, request), timeout).await? {
            // openraft takes it for impossible, and would panic.
            ResponseV1::Append(AppendResultV1::Conflict) if request.prev_log_id.is_none() => {
                Err(network("a conflict with nothing"))
            }
            ResponseV1::Append(result) => Ok(result.into()),
            other => Err(network(format!("unexpected answer to an append: {other:?}"))),
        }
    }

    fn address(&self) -> &str {
        &self.reach.member.peer
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.peers.node_id, target: self.target, timeout }
    }

    async fn connect(&self, lane: Lane) -> Result<Connection, RpcError> {
        let connected = hello::connect(self.address(), &self.peers.hello(lane, self.target)).await;
        connected.map_err(|error| {
            self.reach.failed(lane, &error);
            unreachable(error)
        })
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    /// Heartbeats, which have no entries; also those that confirm a new leader for its first read index.
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        self.append_nothing(&rpc, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.appends == Appends::Heartbeats {
            return stream_append_sequential(self, input, option);
        }
        let peer: &'s Self = self;
        let answers = stream::unfold(Some(Stage::begin(input)), move |stage| {
            let option = option.clone();
            async move { stage?.next(peer, &option).await }
        });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.ask(&RequestV1::Vote(rpc.into()), option.soft_ttl()).await? {
            ResponseV1::Vote(response) => Ok(response.into()),
            other => Err(network(format!("unexpected answer to a vote request: {other:?}"))),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.ask(&RequestV1::PreVote(rpc.into()), option.soft_ttl()).await? {
            ResponseV1::Vote(response) => Ok(response.into()),
            other => Err(network(format!("unexpected answer to a pre-vote request: {other:?}"))),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::View(view) = snapshot.snapshot else {
            // Only `get_current_snapshot` makes what is sent, and it hands out views.
            return Err(StreamingError::Network(NetworkError::from_string(
                "a received snapshot is not sent on",
            )));
        };
        let mut connection = self.connect(Lane::Snapshot).await.map_err(|error| match error {
            RPCError::Unreachable(error) => StreamingError::Unreachable(error),
            other => StreamingError::Network(NetworkError::from_string(other)),
        })?;
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send_snapshot(&mut connection, vote, view) => {
                match &sent {
                    Ok(_) => self.reach.answered(Lane::Snapshot),
                    Err(error) => tracing::warn!(peer = %self.reach.member, %error, "a snapshot was not sent"),
                }
                sent.map_err(|error| StreamingError::Network(NetworkError::from_string(error)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = RequestV1::TransferLeader {
            from: (*req.from_leader()).into(),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().copied().map(Into::into),
        };
        match self.ask(&request, option.soft_ttl()).await? {
            ResponseV1::TransferLeader => Ok(Ok(())),
            other => Err(network(format!("unexpected answer to a leader transfer: {other:?}"))),
        }
    }

    /// A peer that came back is noticed soon, and one that stays away costs little.
    fn backoff(&self) -> Option<Backoff> {
        let steps = [50, 100, 200].into_iter().chain(std::iter::repeat(400)).map(Duration::from_millis);
        Some(Backoff::new(steps))
    }
}

/// How far a replication session is.
enum Stage<S> {
    /// It has no connection, because there were no entries: those take the vital link which say only what is
    /// committed. openraft has a session for each of those while it sends a snapshot.
    Bare {
        input: S,
        since: Instant,
    },
    Connected(Session),
}

/// What a replication session yields, and how it goes on.
type Answered<S> = (Result<StreamAppendResult<TypeConfig>, RpcError>, Option<Stage<S>>);

impl<S> Stage<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    fn begin(input: S) -> Self {
        Self::Bare { input, since: Instant::now() }
    }

    /// The next answer; `None` when all are answered and there will be no more requests.
    async fn next(self, peer: &Peer, option: &RPCOption) -> Option<Answered<S>> {
        let mut session = match self {
            Self::Connected(session) => session,
            Self::Bare { mut input, since } => {
                // Before the connection: openraft waits out its backoff within this, and without it would
                // try a node that is down a thousand times a second.
                let Some(request) = input.next().await else {
                    tokio::time::sleep_until(since + BARE_SESSION_MIN).await;
                    return None;
                };
                if request.entries.is_empty() {
                    let at = request.prev_log_id;
                    let answer = peer.append_nothing(&request, option.soft_ttl()).await;
                    let answer = answer.map(|answer| answer.into_stream_result(at, at));
                    let next = matches!(answer, Ok(Ok(_))).then_some(Self::Bare { input, since });
                    return Some((answer, next));
                }
                let input = stream::iter([request]).chain(input);
                match peer.connect(Lane::Append).await {
                    Ok(connection) => Session::start(Arc::clone(&peer.peers), connection, input),
                    Err(error) => return Some((Err(error), None)),
                }
            }
        };
        match session.answer(peer.timed_out(RPCTypes::AppendEntries, PROGRESS_TIMEOUT)).await {
            Ok(None) => None,
            Ok(Some(answer)) => {
                peer.reach.answered(Lane::Append);
                Some((Ok(answer), Some(Self::Connected(session))))
            }
            Err(error) => {
                peer.reach.failed(Lane::Append, &error);
                Some((Err(error), None))
            }
        }
    }
}

/// A pipelined replication session: its own connection, answers in the order of the requests.
struct Session {
    reader: FrameReader<OwnedReadHalf>,
    /// One token for every request that was sent and not answered; closed when there will be no
    /// more. Its capacity is what bounds the pipeline.
    unanswered: mpsc::Receiver<()>,
    writer: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Session {
    fn start<S>(peers: Arc<Peers>, connection: Connection, mut input: S) -> Self
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let Connection { reader, mut writer } = connection;
        let (tokens, unanswered) = mpsc::channel(PIPELINE);
        let write = tokio::spawn(async move {
            while let Some(request) = input.next().await {
                peers.tell(&request);
                let frame = match RequestV1::append_frame(0, &request) {
                    Ok(frame) => frame,
                    Err(error) => {
                        tracing::error!(%error, "cannot encode log entries for a peer");
                        return;
                    }
                };
                // The reader notices a failed write: the answer never comes.
                if tokens.send(()).await.is_err() || writer.write_all(&frame).await.is_err() {
                    return;
                }
            }
            // No more tokens, but the sending half stays open until every answer is in: the session
            // ends this task when it is dropped.
            drop(tokens);
            std::future::pending::<()>().await;
        });
        Self { reader, unanswered, writer: write.abort_handle() }
    }

    /// The answer to the oldest request, or `None` when all are answered and no more will come.
    async fn answer(
        &mut self,
        timed_out: Timeout<TypeConfig>,
    ) -> Result<Option<StreamAppendResult<TypeConfig>>, RpcError> {
        if self.unanswered.recv().await.is_none() {
            return Ok(None);
        }
        let frame = tokio::time::timeout(PROGRESS_TIMEOUT, self.reader.next())
            .await
            .map_err(|_| RPCError::Timeout(timed_out))?
            .map_err(network)?
            .ok_or_else(|| network("the peer closed the replication session"))?;
        match codec::decode::<ResponseV1>("response", &frame.body).map_err(network)? {
            ResponseV1::StreamAppend(result) => Ok(Some(result.into())),
            ResponseV1::Failed(reason) => Err(network(reason)),
            other => Err(network(format!("unexpected answer to an append: {other:?}"))),
        }
    }
}

/// Streams `view` and waits until the other side has installed it.
async fn send_snapshot(
    connection: &mut Connection,
    vote: Vote,
    view: View,
) -> io::Result<SnapshotResponse<TypeConfig>> {
    let meta = view.meta();
    let begin = RequestV1::SnapshotBegin {
        vote: vote.into(),
        last_log_id: meta.last_log_id.map(Into::into),
        membership: (&meta.last_membership).into(),
    };
    send(connection, &begin).await?;

    // Two chunks are ready at most while one is on the way: memory stays bounded, and a slow peer
    // slows the encoder down.
    let (chunks, mut encoded) = mpsc::channel(2);
    let encoder = background::run("snapshot", move || {
        let mut out = io::BufWriter::with_capacity(SNAPSHOT_CHUNK_BYTES, ChunkSender(chunks));
        snapshot::write(&view, &mut out)
    });
    while let Some(bytes) = encoded.recv().await {
        let bytes: Vec<u8> = bytes;
        send(connection, &RequestV1::SnapshotChunk { bytes: &bytes }).await?;
    }
    encoder.await?;
    send(connection, &RequestV1::SnapshotEnd).await?;

    // Installing takes as long as the other disk needs; a dead connection is noticed by keepalive.
    let frame = connection.reader.next().await?.ok_or(io::ErrorKind::ConnectionAborted)?;
    match codec::decode::<ResponseV1>("response", &frame.body)? {
        ResponseV1::Snapshot { vote } => Ok(SnapshotResponse::new(vote.into())),
        ResponseV1::Failed(reason) => Err(io::Error::other(reason)),
        other => Err(io::Error::other(format!("unexpected answer to a snapshot: {other:?}"))),
    }
}

async fn send(connection: &mut Connection, request: &RequestV1<'_>) -> io::Result<()> {
    let frame = frame::encode("request", 0, request)?;
    tokio::time::timeout(SNAPSHOT_STALL_TIMEOUT, connection.writer.write_all(&frame))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Hands what is written to the sending task, a chunk at a time.
struct ChunkSender(mpsc::Sender<Vec<u8>>);

impl io::Write for ChunkSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
