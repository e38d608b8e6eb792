//! The store as the rest of the node sees it: open, write, read, status, close.
//!
//! A write goes to the leader exactly once: proposed here when this node leads, else forwarded over
//! the peer connection. What certainly was not proposed is sent again, to whoever leads by then,
//! until the caller's time is up; what may have been proposed is never sent again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, ServerState};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bootstrap::{self, BootstrapError};
use crate::coalesce::Coalesced;
use crate::command::{Command, Op, Reply};
use crate::disk::Disk;
use crate::freshness::Freshness;
use crate::identity::{DataDir, DataDirError, Identity};
use crate::local::{Limits, Local};
use crate::log::{LogOptions, LogStore};
use crate::metrics::{RaftGauges, StateMetrics, StoreMetrics};
use crate::peer::Lane;
use crate::peer::hello::{self, ConnectError, HelloV1, Refusal};
use crate::peer::link::CallError;
use crate::peer::message::{RequestV1, ResponseV1, StatusV1, WriteRefusalV1, WrittenV1};
use crate::peer::network::{Factory, Peers};
use crate::peer::server::{self, Service};
use crate::state::checkpoint::Checkpoints;
use crate::state::{Published, StateMachine, View};
use crate::types::{Member, Raft, TypeConfig};

/// How the store is set up. Durations and sizes are validated by [`Store::open`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// This node's unique name.
    pub name: String,
    /// Directory for everything this node keeps.
    pub data_dir: PathBuf,
    /// The members that an empty node forms a cluster with, this one among them.
    pub initial_cluster: Vec<Member>,
    /// `host:port` of this node's HTTP listener, for others to show.
    pub http_advertise: String,
    /// A leader sends this often when there is nothing to replicate.
    pub heartbeat_interval: Duration,
    /// Lower bound of the random part of the election timeout.
    pub election_timeout_min: Duration,
    /// Upper bound of it, and the time for which followers stay loyal to a silent leader.
    pub election_timeout_max: Duration,
    /// How long a write or read may take.
    pub request_timeout: Duration,
    /// Bytes of data beyond which the store may not grow.
    pub data_bytes_max: u64,
    /// Free bytes on the disk below which the data may not grow.
    pub disk_free_min: u64,
    /// Writes that the leader works on at once.
    pub proposals_max: usize,
    /// Entries applied since the last checkpoint that cause the next one.
    pub checkpoint_entries: u64,
    /// The same, in bytes of log.
    pub checkpoint_bytes: u64,
    /// Time after which anything applied is checkpointed.
    pub checkpoint_interval: Duration,
    /// Entries kept in the log behind a checkpoint, for followers that were away for a short time.
    pub log_keep_entries: u64,
}

/// Why a store could not be opened. Each message is one line that names what to change.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Forming or joining the cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The data belong to another cluster than the one at the configured addresses.
    #[error(
        "data_dir {path} belongs to cluster {cluster_id:032x}, but {answers}: it is another cluster's directory, or initial_cluster lists another cluster's addresses"
    )]
    OtherCluster {
        /// The directory.
        path: String,
        /// The cluster in the directory.
        cluster_id: u128,
        /// What the peers answered.
        answers: String,
    },
    /// The disk cannot be read or written.
    #[error("{0}")]
    Storage(std::io::Error),
    /// Something on disk is damaged; the text names the file and the place.
    #[error(
        "{0}; this node cannot prove its disk intact and does not start: remove it from the cluster, empty data_dir, and add it anew, the other nodes have its data"
    )]
    Damaged(std::io::Error),
    /// A combination of timeouts that Raft cannot work with.
    #[error("raft timeouts: {0}")]
    Timeouts(#[from] openraft::ConfigError),
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Raft did not start.
    #[error("raft: {0}")]
    Raft(String),
}

/// A write that was acknowledged: on disk on a majority, and applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The log index of the write.
    pub revision: u64,
    /// What it did.
    pub reply: Reply,
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There was no leader to send it to in time. It was not applied.
    #[error("no leader within {waited:?}")]
    NoLeader {
        /// How long this node tried.
        waited: Duration,
    },
    /// The leader works on as many writes as it may. It was not applied.
    #[error("the leader has as many writes in flight as it may")]
    Overloaded,
    /// The data limit. It was not applied.
    #[error("the store holds as much as storage.data_bytes_max, {data_bytes_max} bytes, allows")]
    StorageFull {
        /// The limit, in bytes.
        data_bytes_max: u64,
    },
    /// The leader's disk is nearly full. It was not applied.
    #[error(
        "the leader's disk has {free_bytes} bytes left, less than storage.disk_free_min, {disk_free_min}"
    )]
    DiskLow {
        /// What is free, in bytes.
        free_bytes: u64,
        /// What must be, in bytes.
        disk_free_min: u64,
    },
    /// It was proposed, and what became of it is not known.
    #[error("the write was proposed, but its outcome is not known: {reason}")]
    OutcomeUnknown {
        /// What this node saw last.
        reason: String,
    },
    /// The command could not be encoded. It was not applied.
    #[error("{0}")]
    Invalid(String),
}

/// Why a linearizable read was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed a read index in time.
    #[error("no leader within {waited:?}")]
    NoLeader {
        /// How long this node tried.
        waited: Duration,
    },
}

/// A member as this node sees it.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// Its Raft id.
    pub id: u64,
    /// Its name and peer address.
    pub member: Member,
    /// Whether it votes.
    pub voter: bool,
    /// What it said of itself, or why it said nothing.
    pub report: Result<MemberReport, String>,
    /// Time since it last answered the leader; only the leader knows.
    pub last_contact: Option<Duration>,
}

/// What a member says of itself.
#[derive(Debug, Clone)]
pub struct MemberReport {
    /// Version of its binary.
    pub version: String,
    /// `host:port` of its HTTP listener.
    pub http: String,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub state: String,
    /// Its term.
    pub term: u64,
    /// The last entry in its log.
    pub last_log_index: u64,
    /// The last entry that it applied.
    pub applied_index: u64,
    /// Keys in its state.
    pub keys: u64,
    /// Bytes of data in its state.
    pub data_bytes: u64,
    /// Free bytes on its disk.
    pub disk_free_bytes: u64,
    /// Hash of its state at `applied_index`; equal on members with the same one.
    pub state_hash: u64,
}

impl From<StatusV1> for MemberReport {
    fn from(status: StatusV1) -> Self {
        Self {
            version: status.version,
            http: status.http,
            state: status.state,
            term: status.term,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            keys: status.keys,
            data_bytes: status.data_bytes,
            disk_free_bytes: status.disk_free_bytes,
            state_hash: status.state_hash,
        }
    }
}

/// How this node stands at the moment; cheap to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// This node's term.
    pub term: u64,
    /// Id and name of the leader, when one is known.
    pub leader: Option<(u64, String)>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Whether this node takes part: voter or learner, not stopped.
    pub is_running: bool,
    /// Whether it has applied what was committed when it started.
    pub is_caught_up: bool,
    /// Entries that are committed, as far as this node knows, and not applied here.
    pub apply_lag: u64,
    /// Whether the disk has less room than it must have.
    pub is_disk_low: bool,
}

/// How long a member may take to report on itself.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long one question for a read index may take: everybody who waits shares it, so a leader that
/// hangs must not hold them for their whole time.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(1);
/// A local read asks for a new proof of the view's age when the last one is older.
const PROOF_AGE_WANTED: Duration = Duration::from_millis(250);
/// Pause before the leader that is known is tried again, when nothing changed meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long a leader that stops waits for its successor.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a failure of Raft is looked for; it answers nothing any more as soon as it failed.
const FAILURE_TICK: Duration = Duration::from_millis(100);
/// How often the need for a checkpoint is looked at.
const CHECKPOINT_TICK: Duration = Duration::from_millis(200);

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Leadership {
    term: u64,
    leader: Option<(u64, Member)>,
    here: bool,
}

/// Finds the leader, for writes and for read indexes.
struct Routes {
    leadership: watch::Receiver<Leadership>,
    local: Arc<Local>,
    peers: Arc<Peers>,
}

/// The replicated store of one node.
pub struct Store {
    identity: Identity,
    options: StoreOptions,
    raft: Raft,
    published: Published,
    checkpoints: Arc<Checkpoints>,
    routes: Arc<Routes>,
    reads: Arc<Reads>,
    log: LogStore,
    gauges: RaftGauges,
    caught_up: watch::Receiver<bool>,
    failure: watch::Receiver<Option<String>>,
    tasks: Vec<JoinHandle<()>>,
    /// Last, so that the lock is given up after everything else is closed.
    _data_dir: Arc<DataDir>,
}

impl Drop for Store {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Store {
    /// Opens the data directory, forms or finds the cluster if the directory is empty, loads the
    /// state and starts Raft. `listener` is where peers connect. Metric families go into `registry`.
    ///
    /// Returns when Raft runs; there need not be a leader yet. On an empty directory that is when
    /// the cluster was formed, which can take as long as the other nodes need to start.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is changed on disk before the directory was found to be this node's.
    pub async fn open(
        options: StoreOptions,
        listener: TcpListener,
        registry: &Registry,
    ) -> Result<Self, OpenError> {
        let config = Arc::new(raft_config(&options)?);
        let (data_dir, identity) = DataDir::open(&options.data_dir, &options.name)?;
        let data_dir = Arc::new(data_dir);
        let identity = match identity {
            Some(identity) => {
                // The others may be starting as well, and ask the same at this moment.
                tokio::select! {
                    checked = check_same_cluster(&options, &identity) => checked?,
                    never = server::answer_hellos(&listener, &identity) => match never {},
                }
                identity
            }
            None => {
                let members = bootstrap::ranked(&options.name, &options.initial_cluster)?;
                bootstrap::found(&data_dir, &listener, &options.name, members).await?
            }
        };

        // Before anything is opened: that may need the ballast.
        let disk = Disk::new(&options.data_dir, options.disk_free_min).map_err(OpenError::Storage)?;
        let state_metrics = StateMetrics::register(registry)?;
        let metrics = StoreMetrics::register(registry)?;
        let gauges = RaftGauges::register(registry)?;
        let log_dir = data_dir.subdirectory("log")?;
        let state_dir = data_dir.subdirectory("state")?;
        let snapshot_dir = data_dir.subdirectory("snapshot")?;
        let opening = {
            let (registry, state_metrics, snapshot_dir) =
                (registry.clone(), state_metrics.clone(), snapshot_dir.clone());
            tokio::task::spawn_blocking(move || {
                remove_files(&snapshot_dir)?;
                let log = LogStore::open(&log_dir, &LogOptions::default(), &registry)
                    .map_err(|error| storage_error("log", &log_dir, &error))?;
                let (checkpoints, view) = Checkpoints::open(
                    &state_dir,
                    state_metrics.checkpoint_duration_seconds,
                    state_metrics.checkpoint_written_unix_seconds,
                )?;
                Ok((log, checkpoints, view))
            })
        };
        let (log, checkpoints, view) = opening
            .await
            .map_err(|error| OpenError::Storage(std::io::Error::other(error)))?
            .map_err(|error: std::io::Error| match error.kind() {
                std::io::ErrorKind::InvalidData => OpenError::Damaged(error),
                _ => OpenError::Storage(error),
            })?;
        let checkpoints = Arc::new(checkpoints);
        let published = Published::new(Arc::clone(&view));
        let machine =
            StateMachine::new((*view).clone(), published.clone(), Arc::clone(&checkpoints), state_metrics);

        let peers = Peers::new(identity.cluster_id, identity.node_id, identity.name.clone());
        let raft = Raft::new(identity.node_id, config, Factory(Arc::clone(&peers)), log.clone(), machine)
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))?;
        let limits = Limits {
            data_bytes_max: options.data_bytes_max,
            proposals_max: options.proposals_max,
            request_timeout: options.request_timeout,
        };
        let local = Local::new(
            raft.clone(),
            published.clone(),
            limits,
            metrics,
            Arc::clone(&disk),
            options.http_advertise.clone(),
        );

        let mut tasks = Vec::new();
        let (leadership, leadership_task) = watch_leadership(&raft, &gauges);
        tasks.push(leadership_task);
        tasks.push(tokio::spawn(Arc::clone(&disk).watch()));
        let service = Arc::new(Service {
            identity: identity.clone(),
            local: Arc::clone(&local),
            snapshot_dir,
            next_snapshot: AtomicU64::new(0),
        });
        tasks.push(tokio::spawn(server::serve(listener, service)));
        if identity.initial_members.first().is_some_and(|(founder, _)| *founder == identity.node_id) {
            let founding = bootstrap::finish_founding(Arc::clone(&data_dir), identity.clone(), raft.clone());
            tasks.push(tokio::spawn(founding));
        }
        tasks.push(tokio::spawn(trigger_checkpoints(
            raft.clone(),
            published.clone(),
            Arc::clone(&checkpoints),
            options.clone(),
        )));

        let routes = Arc::new(Routes { leadership, local, peers });
        let reads = Arc::new(Reads::new(Arc::clone(&routes), published.clone()));
        let (failing, failure) = watch::channel(None);
        tasks.push(tokio::spawn(watch_failure(raft.clone(), failing)));
        let (catching_up, caught_up) = watch::channel(false);
        let (raft_running, reached) = (raft.clone(), published.clone());
        tasks.push(tokio::spawn(async move { catch_up(&raft_running, &reached, &catching_up).await }));

        Ok(Self {
            identity,
            options,
            raft,
            published,
            checkpoints,
            routes,
            reads,
            log,
            gauges,
            caught_up,
            failure,
            tasks,
            _data_dir: data_dir,
        })
    }

    /// Which node of which cluster this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The newest view of this node, at once: what it has applied, which may be behind the cluster. And
    /// the most that it is behind, as far as this node can prove; `None` while it cannot.
    ///
    /// When that is long ago a new proof is asked for in the background, for the calls to come.
    pub fn local_view(&self) -> (View, Option<Duration>) {
        let age_max = self.reads.freshness.age_max();
        if age_max.is_none_or(|age| age > PROOF_AGE_WANTED) {
            self.reads.prove_in_background();
        }
        (self.published.view(), age_max)
    }

    /// A view that is at most `age_max` behind: the local one when that is proven, else as
    /// [`Store::linearizable_view`].
    ///
    /// # Errors
    /// As [`Store::linearizable_view`].
    pub async fn view_within(&self, age_max: Duration) -> Result<View, ReadError> {
        match self.reads.freshness.age_max() {
            Some(age) if age <= age_max => Ok(self.published.view()),
            _ => self.linearizable_view().await,
        }
    }

    /// A view that includes every write acknowledged, by any node, before this call began.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] after the request timeout.
    pub async fn linearizable_view(&self) -> Result<View, ReadError> {
        let begun = Instant::now();
        let deadline = begun + self.options.request_timeout;
        let no_leader = |_| ReadError::NoLeader { waited: begun.elapsed() };
        loop {
            match tokio::time::timeout_at(deadline, self.reads.view()).await.map_err(no_leader)? {
                Some(view) => return Ok(view),
                None => tokio::time::timeout_at(deadline, self.routes.pause()).await.map_err(no_leader)?,
            }
        }
    }

    /// Writes through the leader, wherever it is.
    ///
    /// # Errors
    /// [`WriteError`]; all but [`WriteError::OutcomeUnknown`] mean that nothing was applied.
    pub async fn write(&self, op: &Op) -> Result<Written, WriteError> {
        let command = Command::encode(op).map_err(|error| WriteError::Invalid(error.to_string()))?;
        let begun = Instant::now();
        let deadline = begun + self.options.request_timeout;
        loop {
            let refusal = match self.routes.write_once(&command, deadline).await {
                Ok(written) => {
                    return Ok(Written { revision: written.revision, reply: written.reply });
                }
                Err(refusal) => refusal,
            };
            match refusal {
                WriteRefusalV1::Overloaded => return Err(WriteError::Overloaded),
                WriteRefusalV1::StorageFull { data_bytes_max } => {
                    return Err(WriteError::StorageFull { data_bytes_max });
                }
                WriteRefusalV1::DiskLow { free_bytes, free_min } => {
                    return Err(WriteError::DiskLow { free_bytes, disk_free_min: free_min });
                }
                WriteRefusalV1::OutcomeUnknown(reason) => return Err(WriteError::OutcomeUnknown { reason }),
                WriteRefusalV1::NotLeader(_) => {}
            }
            if tokio::time::timeout_at(deadline, self.routes.pause()).await.is_err() {
                return Err(WriteError::NoLeader { waited: begun.elapsed() });
            }
        }
    }

    /// Log index of the last entry that this node applied.
    pub fn revision(&self) -> u64 {
        self.published.view().revision()
    }

    /// How this node stands.
    pub fn standing(&self) -> Standing {
        let leadership = self.routes.leadership.borrow().clone();
        let metrics = self.raft.metrics().borrow_watched().clone();
        let committed = metrics.cluster_committed.max(metrics.local_committed).map_or(0, |id| id.index);
        Standing {
            term: metrics.current_term,
            leader: leadership.leader.map(|(id, member)| (id, member.name)),
            is_leader: leadership.here,
            is_running: metrics.running_state.is_ok(),
            is_caught_up: *self.caught_up.borrow(),
            apply_lag: committed.saturating_sub(self.published.view().revision()),
            is_disk_low: self.routes.local.disk.is_low(),
        }
    }

    /// Every member, asked at the same time; who does not answer within half a second is reported
    /// with the reason.
    pub async fn members(&self) -> Vec<MemberStatus> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership().clone();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let reports = membership.nodes().map(|(id, member)| async {
            let report = if *id == self.identity.node_id {
                Ok(self.routes.local.status().into())
            } else {
                self.routes.report(*id, member).await
            };
            let last_contact = metrics
                .heartbeat
                .as_ref()
                .and_then(|heartbeats| heartbeats.get(id).cloned().flatten())
                .map(|instant| instant.into_inner().elapsed());
            MemberStatus { id: *id, member: member.clone(), voter: voters.contains(id), report, last_contact }
        });
        futures_util::future::join_all(reports).await
    }

    /// Resolves when the local Raft cannot go on, with the reason. A node must stop then: its disk
    /// failed, or worse. Never resolves after [`Store::close`].
    pub async fn failed(&self) -> String {
        match self.failure.clone().wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The watching task saw an orderly end.
            Err(_) => std::future::pending().await,
        }
    }

    /// Free bytes on the disk of the data directory.
    pub fn disk_free_bytes(&self) -> u64 {
        self.routes.local.disk.free_bytes()
    }

    /// Brings the gauges up to date; called before they are read.
    pub fn refresh_metrics(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        self.gauges.observe(&metrics, self.published.view().revision());
        self.gauges.log_bytes.set(i64::try_from(self.log.disk_bytes()).unwrap_or(i64::MAX));
        self.gauges.disk_free_bytes.set(i64::try_from(self.disk_free_bytes()).unwrap_or(i64::MAX));
    }

    /// The leader's name, when one is known.
    pub fn leader_name(&self) -> Option<String> {
        self.routes.leadership.borrow().leader.as_ref().map(|(_, member)| member.name.clone())
    }

    /// Stops: checkpoints the state, so that the next start is short, and closes everything. To be
    /// called after [`Store::hand_over`] and after the last request was answered.
    pub async fn close(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        if let Err(error) = self.checkpoints.write(self.published.view()).await {
            tracing::warn!(%error, "the last checkpoint failed; the log holds what it lacks");
        }
    }

    /// If this node leads: asks the voter that is furthest to take over, and waits for it, bounded.
    pub async fn hand_over(&self) {
        let metrics: RaftMetrics<TypeConfig> = self.raft.metrics().borrow_watched().clone();
        let Some(replication) = metrics.replication.filter(|_| self.routes.leadership.borrow().here) else {
            return;
        };
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let successor = replication
            .into_iter()
            .filter(|(id, _)| *id != self.identity.node_id && voters.contains(id))
            .max_by_key(|(_, matched)| *matched);
        let Some((successor, _)) = successor else { return };
        if let Err(error) = self.raft.trigger().transfer_leader(successor).await {
            tracing::warn!(%error, "cannot hand leadership over");
            return;
        }
        let mut leadership = self.routes.leadership.clone();
        let moved = leadership.wait_for(|now| !now.here && now.leader.is_some());
        if tokio::time::timeout(TRANSFER_TIMEOUT, moved).await.is_err() {
            tracing::warn!(successor, "no other node took leadership over in {TRANSFER_TIMEOUT:?}");
        }
    }
}

/// Reads that wait for a read index, and what they prove about the view.
struct Reads {
    read_index: Coalesced<Result<u64, ()>>,
    published: Published,
    freshness: Freshness,
    is_proving: AtomicBool,
}

impl Reads {
    fn new(routes: Arc<Routes>, published: Published) -> Self {
        let read_index = Coalesced::new(move || {
            let routes = Arc::clone(&routes);
            async move { routes.read_index_once().await }
        });
        Self { read_index, published, freshness: Freshness::new(), is_proving: AtomicBool::new(false) }
    }

    /// A view with everything acknowledged before the call; `None` when no leader gave a read index.
    async fn view(&self) -> Option<View> {
        let asked = std::time::Instant::now();
        let index = self.read_index.ask().await?.ok()?;
        let view = self.published.view_at(index).await;
        self.freshness.prove(asked);
        Some(view)
    }

    fn prove_in_background(self: &Arc<Self>) {
        if self.is_proving.swap(true, Ordering::Relaxed) {
            return;
        }
        let reads = Arc::clone(self);
        tokio::spawn(async move {
            // Bounded, because a read index may be known that this node cannot reach.
            drop(tokio::time::timeout(READ_INDEX_TIMEOUT, reads.view()).await);
            reads.is_proving.store(false, Ordering::Relaxed);
        });
    }
}

impl Routes {
    /// One attempt to have `command` applied. `NotLeader` means that it was not proposed.
    async fn write_once(&self, command: &Command, deadline: Instant) -> Result<WrittenV1, WriteRefusalV1> {
        let leadership = self.leadership.borrow().clone();
        let (id, member) = match leadership.leader {
            _ if leadership.here => return self.local.propose(command.clone()).await,
            Some(leader) => leader,
            None => return Err(WriteRefusalV1::NotLeader(None)),
        };
        let link = self.peers.link(Lane::Forward, id, &member.peer);
        let request = RequestV1::Write { command: command.bytes() };
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (result, label) = match link.call(&request, timeout).await {
            Ok(ResponseV1::Write(Ok(written))) => (Ok(written), "applied"),
            Ok(ResponseV1::Write(Err(refusal))) => (Err(refusal), "refused"),
            Ok(other) => {
                let reason = format!("{member}: unexpected answer to a write: {other:?}");
                (Err(WriteRefusalV1::OutcomeUnknown(reason)), "unknown")
            }
            Err(CallError::NotSent(reason)) => {
                tracing::debug!(leader = %member, reason, "a write could not be forwarded");
                (Err(WriteRefusalV1::NotLeader(None)), "not_sent")
            }
            Err(CallError::Unanswered(reason)) => (Err(WriteRefusalV1::OutcomeUnknown(reason)), "unknown"),
        };
        self.local.note_forwarded(label);
        result
    }

    /// One question for a read index, here or at the leader.
    async fn read_index_once(&self) -> Result<u64, ()> {
        let leadership = self.leadership.borrow().clone();
        let (id, member) = match leadership.leader {
            _ if leadership.here => return self.local.read_index().await.map_err(|_| ()),
            Some(leader) => leader,
            None => return Err(()),
        };
        let link = self.peers.link(Lane::Vital, id, &member.peer);
        match link.call(&RequestV1::ReadIndex, READ_INDEX_TIMEOUT).await {
            Ok(ResponseV1::ReadIndex(Ok(index))) => Ok(index),
            refused => {
                tracing::debug!(leader = %member, ?refused, "no read index");
                Err(())
            }
        }
    }

    async fn report(&self, id: u64, member: &Member) -> Result<MemberReport, String> {
        let link = self.peers.link(Lane::Vital, id, &member.peer);
        match link.call(&RequestV1::Status, REPORT_TIMEOUT).await {
            Ok(ResponseV1::Status(status)) => Ok((*status).into()),
            Ok(other) => Err(format!("unexpected answer: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until who leads changes, or a moment.
    async fn pause(&self) {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        // A change, its end, or the pause: each is a reason to look again.
        drop(tokio::time::timeout(RETRY_PAUSE, leadership.changed()).await);
    }
}

/// openraft's settings.
///
/// openraft adds the upper election timeout, as the time that followers stay loyal to a silent
/// leader, to a random timeout between the two bounds: 300..600 ms mean that a leader is replaced
/// 0.9 to 1.2 s after it fell silent.
fn raft_config(options: &StoreOptions) -> Result<openraft::Config, openraft::ConfigError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "hearth".to_owned(),
        heartbeat_interval: ms(options.heartbeat_interval),
        election_timeout_min: ms(options.election_timeout_min),
        election_timeout_max: ms(options.election_timeout_max),
        enable_pre_vote: Some(true),
        // On by default, and wrong with a log that replicates before its own fsync returned: a
        // leader that is killed and back at once would go on in its term without the tail that it
        // lost, and write other entries under log ids that the followers already acknowledged.
        enable_leader_restore: Some(false),
        // Bytes bound a message before this does, see `LogOptions::read_bytes_max`.
        max_payload_entries: 4096,
        // Only the lack of log sends a snapshot, never a mere distance.
        replication_lag_threshold: u64::MAX / 2,
        // `trigger_checkpoints` decides.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.log_keep_entries,
        purge_batch_size: 256,
        ..openraft::Config::default()
    }
    .validate()
}

/// Asks the configured peers whether they know this node's cluster. Refuses only when all who
/// answered belong to another: one misplaced node must not keep the others from starting.
async fn check_same_cluster(options: &StoreOptions, identity: &Identity) -> Result<(), OpenError> {
    let mut configured: Vec<&str> =
        options.initial_cluster.iter().map(|member| member.name.as_str()).collect();
    configured.sort_unstable();
    if !configured.is_empty() && configured != identity.initial_names() {
        return Err(DataDirError::OtherCluster {
            path: options.data_dir.display().to_string(),
            found: identity.initial_names().join(","),
            configured: configured.join(","),
        }
        .into());
    }
    let members = match options.initial_cluster.is_empty() {
        true => identity.initial_members.clone(),
        false => bootstrap::ranked(&options.name, &options.initial_cluster)?,
    };
    let others = members.iter().filter(|(id, _)| *id != identity.node_id).map(|(id, member)| async move {
        let hello = HelloV1::new(Lane::Vital, identity.cluster_id, identity.node_id, &identity.name, *id);
        (member, hello::connect(&member.peer, &hello).await)
    });
    let mut foreign = Vec::new();
    for (member, answer) in futures_util::future::join_all(others).await {
        match answer {
            Ok(_) => return Ok(()),
            Err(ConnectError::Refused { refusal: Refusal::OtherCluster { cluster_id }, .. }) => {
                foreign.push(format!("{member} to {cluster_id:032x}"));
            }
            Err(_) => {}
        }
    }
    if foreign.is_empty() {
        return Ok(());
    }
    Err(OpenError::OtherCluster {
        path: options.data_dir.display().to_string(),
        cluster_id: identity.cluster_id,
        answers: foreign.join(", "),
    })
}

/// Follows openraft's metrics with what routing needs.
fn watch_leadership(raft: &Raft, gauges: &RaftGauges) -> (watch::Receiver<Leadership>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(Leadership::default());
    let mut metrics = raft.server_metrics();
    let own_id = *raft.node_id();
    let leader_changes = gauges.leader_changes.clone();
    let task = tokio::spawn(async move {
        loop {
            let now = metrics.borrow_watched().clone();
            let leader = now
                .current_leader
                .and_then(|id| now.membership_config.get_node(&id).map(|member| (id, member.clone())));
            let leadership = Leadership {
                term: now.vote.leader_id.term,
                here: now.state == ServerState::Leader && now.current_leader == Some(own_id),
                leader,
            };
            sender.send_if_modified(|before| {
                if *before == leadership {
                    return false;
                }
                if leadership.leader.is_some()
                    && (before.leader != leadership.leader || before.term != leadership.term)
                {
                    leader_changes.inc();
                    let leader = leadership.leader.as_ref().map(|(_, member)| member.name.as_str());
                    tracing::info!(leader, term = leadership.term, "a leader was elected");
                } else if before.leader.is_some() && leadership.leader.is_none() {
                    tracing::warn!(term = leadership.term, "the leader is lost");
                }
                *before = leadership;
                true
            });
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    (receiver, task)
}

/// Tells when openraft cannot go on. Looks now and then instead of at each change of the metrics,
/// which come several times a write.
async fn watch_failure(raft: Raft, failing: watch::Sender<Option<String>>) {
    let mut tick = tokio::time::interval(FAILURE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let state = raft.metrics().borrow_watched().running_state.clone();
        match state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return,
            Err(fatal) => {
                failing.send_replace(Some(fatal.to_string()));
                return;
            }
        }
    }
}

/// Waits until this node has applied what the cluster had committed when it started.
async fn catch_up(raft: &Raft, published: &Published, caught_up: &watch::Sender<bool>) {
    let mut applied = published.subscribe();
    loop {
        // Bounded waits, because either can be what changes next.
        if let Ok(metrics) = raft.wait_for_recovery(Some(READ_INDEX_TIMEOUT)).await {
            let target = metrics.last_applied.map_or(0, |id| id.index);
            if applied.wait_for(|index| *index >= target).await.is_ok() {
                caught_up.send_replace(true);
            }
            return;
        }
        if raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
    }
}

/// Asks openraft for a checkpoint when enough was applied, or some time after anything was.
async fn trigger_checkpoints(
    raft: Raft,
    published: Published,
    checkpoints: Arc<Checkpoints>,
    options: StoreOptions,
) {
    let mut tick = tokio::time::interval(CHECKPOINT_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut bytes_before = published.applied_bytes();
    let mut begun = Instant::now();
    let mut asked_for = 0;
    loop {
        tick.tick().await;
        let (applied, durable) = (published.view().revision(), checkpoints.last().revision());
        // One at a time: openraft drops a request while it builds.
        if applied == durable || durable < asked_for {
            continue;
        }
        let bytes = published.applied_bytes();
        let due = applied - durable >= options.checkpoint_entries
            || bytes - bytes_before >= options.checkpoint_bytes
            || begun.elapsed() >= options.checkpoint_interval;
        if due && raft.trigger().snapshot().await.is_ok() {
            (bytes_before, begun, asked_for) = (bytes, Instant::now(), applied);
        }
    }
}

fn remove_files(dir: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn storage_error(what: &str, path: &std::path::Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{what} in {}: {error}", path.display()))
}
