//! The other end: accepts connections of peers and answers what they ask.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::raft::SnapshotResponse;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::background;
use crate::codec;
use crate::identity::Identity;
use crate::local::Local;
use crate::peer::frame::{self, Frame, FrameReader};
use crate::peer::hello::{HELLO_TIMEOUT, HelloAnswerV1, HelloV1, Own};
use crate::peer::message::{FoundAnswerV1, RequestV1, ResponseV1, snapshot_meta, transfer_request};
use crate::peer::{Lane, socket};
use crate::state::SnapshotData;
use crate::state::checkpoint::Checkpoints;
use crate::types::{Command, TypeConfig, Vote};

/// Connections that peers may hold open at once; a cluster needs a handful a node.
const CONNECTIONS_MAX: usize = 256;
/// Questions of one connection that are worked on at once; beyond it the connection is not read.
const QUESTIONS_MAX: usize = 4096;
/// Append requests that wait for the Raft core on one connection.
const APPENDS_QUEUED: usize = 32;
/// Answers that wait to be written on one connection.
const ANSWERS_QUEUED: usize = 1024;
/// Chunks of a snapshot that wait to be decoded.
const CHUNKS_QUEUED: usize = 4;
/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts peers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, service: Arc<Service>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(connections_max = CONNECTIONS_MAX, "too many peer connections, one is refused");
            continue;
        };
        let service = Arc::clone(&service);
        tasks.spawn(async move {
            if let Err(error) = service.serve_connection(stream).await {
                tracing::debug!(%error, "peer connection ended");
            }
            drop(permit);
        });
    }
}

/// Answers hellos, and closes what it accepted: for a node that knows who it is and cannot do more yet.
pub(crate) async fn answer_hellos(listener: &TcpListener, identity: &Identity) -> std::convert::Infallible {
    let mut greetings = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if greetings.len() < CONNECTIONS_MAX => {
                    greetings.push(async move { greet(stream, &identity.own()).await });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Whatever came of it, the peer has its answer and tries again when it needs more.
            Some(greeted) = greetings.next() => drop(greeted),
        }
    }
}

/// Reads the hello of a new connection, answers it, and hands over what an accepted one is for.
pub(crate) async fn greet(
    stream: TcpStream,
    own: &Own<'_>,
) -> io::Result<Option<(HelloV1, FrameReader<OwnedReadHalf>, OwnedWriteHalf)>> {
    socket::prepare(&stream)?;
    let peer = stream.peer_addr()?;
    let (read, mut writer) = stream.into_split();
    let mut reader = FrameReader::new(read);
    let frame = tokio::time::timeout(HELLO_TIMEOUT, reader.next())
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let Some(frame) = frame else { return Ok(None) };
    let hello: HelloV1 = codec::decode("hello", &frame.body)?;
    let answer = hello.check(own);
    writer.write_all(&frame::encode("hello answer", 0, &answer)?).await?;
    if let HelloAnswerV1::Refused(refusal) = answer {
        tracing::warn!(%peer, node = hello.from_name, lane = %hello.lane, ?refusal, "refused a peer");
        return Ok(None);
    }
    Ok(Some((hello, reader, writer)))
}

/// What this node answers its peers with.
pub(crate) struct Service {
    pub(crate) identity: Identity,
    pub(crate) local: Arc<Local>,
    /// Where snapshots are received.
    pub(crate) checkpoints: Arc<Checkpoints>,
    /// Held while one is received: two at once would take twice the memory. Held across awaits.
    pub(crate) receiving: tokio::sync::Mutex<()>,
}

impl Service {
    async fn serve_connection(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let Some((hello, reader, writer)) = greet(stream, &self.identity.own()).await? else { return Ok(()) };
        match hello.lane {
            Lane::Vital | Lane::Found => self.answer_questions(hello.from, reader, writer).await,
            Lane::Forward => self.take_writes(reader, writer).await,
            Lane::Append => self.follow(reader, writer).await,
            Lane::Snapshot => self.receive_snapshot(reader, writer).await,
        }
    }

    /// Writes that arrived on another node: many in flight, answered as they are applied. No task
    /// waits for an answer; openraft's callback encodes it and hands it to the writing side.
    async fn take_writes(
        self: Arc<Self>,
        mut reader: FrameReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        // Bounded by the places: an answer keeps its place until it is written.
        let (answers, mut queue) = mpsc::unbounded_channel::<(Bytes, OwnedSemaphorePermit)>();
        let write = async move {
            let (mut batch, mut buffer) = (Vec::new(), BytesMut::new());
            while queue.recv_many(&mut batch, QUESTIONS_MAX).await > 0 {
                buffer.clear();
                for (answer, _) in &batch {
                    buffer.extend_from_slice(answer);
                }
                writer.write_all(&buffer).await?;
                batch.clear();
            }
            io::Result::Ok(())
        };
        let read = async move {
            let places = Arc::new(Semaphore::new(QUESTIONS_MAX));
            while let Some(frame) = reader.next().await? {
                let RequestV1::Write { command } = codec::decode("request", &frame.body)? else {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not a write on the forward lane",
                    ));
                };
                // Memory of its own: the entry outlives the frame.
                let command = Command::from_bytes(Bytes::copy_from_slice(command))?;
                let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
                let (answers, id) = (answers.clone(), frame.id);
                let answer = move |outcome| match frame::encode("response", id, &ResponseV1::Write(outcome)) {
                    // The connection may be gone; then the other node calls the outcome unknown.
                    Ok(answer) => drop(answers.send((answer, place))),
                    Err(error) => tracing::error!(%error, "cannot encode an answer to a peer"),
                };
                self.local.propose_with(command, answer);
            }
            io::Result::Ok(())
        };
        tokio::try_join!(read, write).map(|_| ())
    }

    /// Many questions in flight, answered as they are done.
    async fn answer_questions(
        self: Arc<Self>,
        from: u64,
        mut reader: FrameReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        let (answers, mut queue) = mpsc::channel::<Bytes>(ANSWERS_QUEUED);
        let write = async move {
            let mut buffer = BytesMut::new();
            while let Some(answer) = queue.recv().await {
                buffer.clear();
                frame::gather(answer, &mut queue, &mut buffer);
                writer.write_all(&buffer).await?;
            }
            io::Result::Ok(())
        };
        let read = async move {
            let room = Arc::new(Semaphore::new(QUESTIONS_MAX));
            while let Some(frame) = reader.next().await? {
                if let Some(response) = self.answer_at_once(from, &frame)? {
                    // The writing side ends together with this one.
                    drop(answers.send(frame::encode("response", frame.id, &response)?).await);
                    continue;
                }
                let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
                let (service, answers) = (Arc::clone(&self), answers.clone());
                tokio::spawn(async move {
                    let id = frame.id;
                    let response = service
                        .answer(frame)
                        .await
                        .unwrap_or_else(|error| ResponseV1::Failed(error.to_string()));
                    match frame::encode("response", id, &response) {
                        // The connection may be gone; then nobody waits for it.
                        Ok(answer) => drop(answers.send(answer).await),
                        Err(error) => tracing::error!(%error, "cannot encode an answer to a peer"),
                    }
                    drop(permit);
                });
            }
            io::Result::Ok(())
        };
        tokio::try_join!(read, write).map(|_| ())
    }

    /// What reads wait for is answered without a task of its own, when nobody else has to be asked.
    fn answer_at_once(&self, from: u64, frame: &Frame) -> io::Result<Option<ResponseV1>> {
        Ok(match codec::decode::<RequestV1<'_>>("request", &frame.body)? {
            RequestV1::HeldVote => Some(ResponseV1::HeldVote(self.local.read_index.held_vote())),
            RequestV1::ReadIndex { held } => {
                self.local.read_index.seconded(from, held).map(|index| ResponseV1::ReadIndex(Ok(index)))
            }
            _ => None,
        })
    }

    async fn answer(&self, frame: Frame) -> io::Result<ResponseV1> {
        let raft = &self.local.raft;
        Ok(match codec::decode::<RequestV1<'_>>("request", &frame.body)? {
            RequestV1::Vote(request) => {
                ResponseV1::Vote(raft.vote(request.into()).await.map_err(io::Error::other)?.into())
            }
            RequestV1::PreVote(request) => {
                ResponseV1::Vote(raft.pre_vote(request.into()).await.map_err(io::Error::other)?.into())
            }
            RequestV1::Append(append) => {
                let request = append.into_request()?;
                ResponseV1::Append(raft.append_entries(request).await.map_err(io::Error::other)?.into())
            }
            RequestV1::TransferLeader { from, to, last_log_id } => {
                raft.handle_transfer_leader(transfer_request(from, to, last_log_id))
                    .await
                    .map_err(io::Error::other)?
                    .map_err(io::Error::other)?;
                ResponseV1::TransferLeader
            }
            RequestV1::ReadIndex { .. } => ResponseV1::ReadIndex(self.local.read_index.get().await),
            RequestV1::HeldVote => ResponseV1::HeldVote(self.local.read_index.held_vote()),
            RequestV1::Status => ResponseV1::Status(Box::new(self.local.status())),
            RequestV1::Found(_) => {
                ResponseV1::Found(FoundAnswerV1::Member { cluster_id: self.identity.cluster_id })
            }
            RequestV1::Write { .. }
            | RequestV1::SnapshotBegin { .. }
            | RequestV1::SnapshotChunk { .. }
            | RequestV1::SnapshotEnd => {
                ResponseV1::Failed("writes and snapshots have lanes of their own".to_owned())
            }
        })
    }

    /// One replication session: entries in, positions out, in order.
    async fn follow(
        self: Arc<Self>,
        mut reader: FrameReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        let (requests, queue) = mpsc::channel(APPENDS_QUEUED);
        let queue = futures_util::stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|request| (request, queue))
        });
        let mut answers = Box::pin(self.local.raft.stream_append(queue));
        let read = async move {
            while let Some(frame) = reader.next().await? {
                let RequestV1::Append(append) = codec::decode("request", &frame.body)? else {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not an append on the append lane",
                    ));
                };
                if requests.send(append.into_request()?).await.is_err() {
                    // The session ended with a conflict or a higher vote, which was answered.
                    return Ok(());
                }
            }
            Ok(())
        };
        let write = async move {
            while let Some(answer) = answers.next().await {
                let response = match answer {
                    Ok(result) => ResponseV1::StreamAppend(result.into()),
                    Err(fatal) => ResponseV1::Failed(fatal.to_string()),
                };
                writer.write_all(&frame::encode("response", 0, &response)?).await?;
            }
            Ok(())
        };
        // Whichever side ends, the session is over; answers that are still due are written first.
        let (read, write) = tokio::join!(read, write);
        read.and(write)
    }

    async fn receive_snapshot(
        self: Arc<Self>,
        mut reader: FrameReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        let response = match self.install(&mut reader).await {
            Ok(response) => ResponseV1::Snapshot { vote: response.vote.into() },
            Err(error) => {
                tracing::warn!(%error, "a snapshot was not installed");
                ResponseV1::Failed(error.to_string())
            }
        };
        writer.write_all(&frame::encode("response", 0, &response)?).await
    }

    async fn install(
        &self,
        reader: &mut FrameReader<OwnedReadHalf>,
    ) -> io::Result<SnapshotResponse<TypeConfig>> {
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot ended early");
        let begin = reader.next().await?.ok_or_else(ended)?;
        let RequestV1::SnapshotBegin { vote, last_log_id, membership } =
            codec::decode("request", &begin.body)?
        else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot begins with SnapshotBegin"));
        };
        let vote = Vote::from(vote);
        let meta = snapshot_meta(last_log_id, membership)?;
        let _one = self.receiving.lock().await;
        tracing::info!(index = meta.last_log_id.map(|id| id.index), "receiving a snapshot");

        let (chunks, queue) = mpsc::channel::<Bytes>(CHUNKS_QUEUED);
        let checkpoints = Arc::clone(&self.checkpoints);
        // A slow disk fills the queue, and that slows the sender down.
        let receive =
            background::run("snapshot", move || checkpoints.receive(Chunks { queue, rest: Bytes::new() }));
        loop {
            let frame = reader.next().await?.ok_or_else(ended)?;
            match codec::decode::<RequestV1<'_>>("request", &frame.body)? {
                RequestV1::SnapshotChunk { bytes } => {
                    // What failed ended the queue; its error is the one to report.
                    if chunks.send(frame.body.slice_ref(bytes)).await.is_err() {
                        break;
                    }
                }
                RequestV1::SnapshotEnd => break,
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a part of a snapshot")),
            }
        }
        drop(chunks);
        let incoming = receive.await?;
        let snapshot = openraft::storage::Snapshot { meta, snapshot: SnapshotData::Incoming(incoming) };
        self.local.raft.install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)
    }
}

/// The chunks of a snapshot as one stream. Blocks; ends when the sending side is dropped.
struct Chunks {
    queue: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.queue.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let bytes = self.rest.len().min(into.len());
        into[..bytes].copy_from_slice(&self.rest.split_to(bytes));
        Ok(bytes)
    }
}
