//! The store as the rest of the node sees it: open, write, read, status, close.
//!
//! A write goes to the leader exactly once: proposed here when this node leads, else forwarded over
//! the peer connection. What certainly was not proposed is sent again, to whoever leads by then,
//! until the caller's time is up; what may have been proposed is never sent again, unless it carries an
//! idempotency key.

mod at_rest;
mod errors;
mod expiry;
mod handover;
mod options;
mod reads;
mod routes;
pub(crate) mod stall;
mod status;
mod tasks;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::at_rest::AtRest;
pub use self::errors::{CloseError, OpenError, ReadError, WatchError, WriteError, Written};
use self::handover::HandOver;
pub use self::options::StoreOptions;
use self::reads::{PROOF_AGE_WANTED, Reads};
use self::routes::Routes;
use self::stall::Stall;
pub use self::status::{MemberReport, MemberStatus, Standing};
use crate::bootstrap;
use crate::command::{Command, IdempotencyKey, Op};
use crate::disk::Disk;
use crate::identity::{DataDir, DataDirError, Identity};
use crate::local::{Limits, Local};
use crate::log::LogStore;
use crate::metrics::{RaftGauges, StateMetrics, StoreMetrics};
use crate::peer::Lane;
use crate::peer::hello::{self, ConnectError, HelloV1, Refusal};
use crate::peer::message::{WriteRefusalV1, WrittenV1};
use crate::peer::network::{Factory, Peers};
use crate::peer::server::{self, Service};
use crate::read_index::ReadIndex;
use crate::state::checkpoint::Checkpoints;
use crate::state::history::HistoryLimits;
use crate::state::{Published, StateMachine, View, Watches};
use crate::types::{Member, Raft};

/// The replicated store of one node.
pub struct Store {
    identity: Identity,
    options: StoreOptions,
    raft: Raft,
    published: Published,
    watches: Arc<Watches>,
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
        let config = Arc::new(options::raft_config(&options)?);
        let (data_dir, identity) = DataDir::open(&options.data_dir, &options.name)?;
        let data_dir = Arc::new(data_dir);
        if let Some(identity) = &identity {
            // The others may be starting as well, and ask the same at this moment.
            tokio::select! {
                checked = check_same_cluster(&options, identity) => checked?,
                never = server::answer_hellos(&listener, identity) => match never {},
            }
        }
        // Before anything is opened: that may need the ballast.
        let disk = Disk::new(&options.data_dir, options.disk_free_min).map_err(OpenError::Storage)?;
        let identity = match identity {
            Some(identity) => identity,
            None => {
                let members = bootstrap::ranked(&options.name, &options.initial_cluster)?;
                at_rest::create(Arc::clone(&data_dir)).await?;
                bootstrap::found(&data_dir, &listener, &options.name, members).await?
            }
        };

        let state_metrics = StateMetrics::register(registry)?;
        let metrics = StoreMetrics::register(registry)?;
        let gauges = RaftGauges::register(registry)?;
        let AtRest { log, checkpoints, view } =
            at_rest::open(Arc::clone(&data_dir), registry, &state_metrics).await?;
        let checkpoints = Arc::new(checkpoints);
        let published = Published::new(view);
        let history = HistoryLimits { events_max: options.history_events, bytes_max: options.history_bytes };
        let watches = Watches::new(history, published.applied_index());
        let machine = StateMachine::new(
            published.clone(),
            Arc::clone(&checkpoints),
            Arc::clone(&watches),
            state_metrics,
        );

        let peers = Peers::new(identity.cluster_id, identity.node_id, identity.name.clone());
        let raft = Raft::new(identity.node_id, config, Factory(Arc::clone(&peers)), log.clone(), machine)
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))?;
        published.started();
        let limits = Limits {
            data_bytes_max: options.data_bytes_max,
            proposals_max: options.proposals_max,
            request_timeout: options.request_timeout,
        };
        let stall = Stall::new(log.underway(), options.stall_timeout);
        let read_index = ReadIndex::new(raft.clone(), log.held_vote(), Arc::clone(&peers), published.clone());
        let local = Local::new(
            raft.clone(),
            published.clone(),
            limits,
            metrics,
            read_index,
            Arc::clone(&disk),
            stall.clone(),
            options.http_advertise.clone(),
        );

        let mut tasks = Vec::new();
        let (leadership, leadership_task) = routes::watch_leadership(&raft, &gauges);
        tasks.push(leadership_task);
        let hand_over = HandOver::new(raft.clone(), leadership.clone());
        tasks.push(tokio::spawn(stall::watch(stall, raft.clone(), hand_over, gauges.clone())));
        tasks.push(tokio::spawn(Arc::clone(&disk).watch()));
        let service = Arc::new(Service {
            identity: identity.clone(),
            local: Arc::clone(&local),
            checkpoints: Arc::clone(&checkpoints),
            receiving: tokio::sync::Mutex::new(()),
        });
        tasks.push(tokio::spawn(server::serve(listener, service)));
        if identity.initial_members.first().is_some_and(|(founder, _)| *founder == identity.node_id) {
            let founding = bootstrap::finish_founding(Arc::clone(&data_dir), identity.clone(), raft.clone());
            tasks.push(tokio::spawn(founding));
        }
        tasks.push(tokio::spawn(tasks::trigger_checkpoints(
            raft.clone(),
            published.clone(),
            Arc::clone(&checkpoints),
            options.clone(),
        )));
        tasks.push(tokio::spawn(tasks::purge_log(
            raft.clone(),
            log.clone(),
            Arc::clone(&checkpoints),
            options.clone(),
        )));

        let routes = Arc::new(Routes { leadership, local, peers });
        let reads = Arc::new(Reads::new(Arc::clone(&routes), published.clone()));
        let (failing, failure) = watch::channel(None);
        tasks.push(tokio::spawn(tasks::watch_failure(raft.clone(), failing)));
        let (catching_up, caught_up) = watch::channel(false);
        let (raft_running, reached) = (raft.clone(), published.clone());
        tasks.push(tokio::spawn(async move { tasks::catch_up(&raft_running, &reached, &catching_up).await }));
        let expiring =
            expiry::expire(Arc::clone(&routes.local), routes.leadership.clone(), caught_up.clone());
        tasks.push(tokio::spawn(expiring));

        Ok(Self {
            identity,
            options,
            raft,
            published,
            watches,
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

    /// The first view of this node at log index `revision` or behind it, and not older than `view`.
    ///
    /// # Errors
    /// [`ReadError::Behind`] when this node has not applied that much after the request timeout.
    pub async fn view_from(&self, view: View, revision: u64) -> Result<View, ReadError> {
        if view.revision() >= revision {
            return Ok(view);
        }
        let reached = self.published.view_at(revision);
        tokio::time::timeout(self.options.request_timeout, reached)
            .await
            .map_err(|_| ReadError::Behind { wanted: revision, applied: self.revision() })
    }

    /// Writes through the leader, wherever it is.
    ///
    /// # Errors
    /// [`WriteError`]; all but [`WriteError::OutcomeUnknown`] mean that nothing was applied.
    pub async fn write(&self, op: &Op) -> Result<Written, WriteError> {
        self.submit(&Command::encode(op).map_err(|error| WriteError::Invalid(error.to_string()))?).await
    }

    /// Writes through the leader, once however often it is called with the same `key` and operation:
    /// the later ones get the answer of the first. For as long as answers are kept, see
    /// [`StoreOptions::idempotency_window`].
    ///
    /// What may have been proposed is sent again while there is time, which does no harm here.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn write_once(&self, op: &Op, key: &IdempotencyKey) -> Result<Written, WriteError> {
        let (window, keys_max) = (self.options.idempotency_window, self.options.idempotency_keys_max);
        let command = Command::encode_once(op, key, window, keys_max);
        self.submit(&command.map_err(|error| WriteError::Invalid(error.to_string()))?).await
    }

    async fn submit(&self, command: &Command) -> Result<Written, WriteError> {
        let begun = Instant::now();
        let deadline = begun + self.options.request_timeout;
        // Why an attempt may have been applied, once there was one: no later refusal can undo that.
        let mut unknown = None;
        loop {
            let refusal = match self.routes.write_once(command, deadline).await {
                Ok(WrittenV1 { revision, reply, replayed }) => {
                    return Ok(Written { revision, reply, replayed });
                }
                Err(refusal) => refusal,
            };
            let error = match refusal {
                WriteRefusalV1::NotLeader(_) => None,
                WriteRefusalV1::OutcomeUnknown(reason) if command.is_once() => {
                    unknown = Some(reason);
                    None
                }
                WriteRefusalV1::OutcomeUnknown(reason) => Some(WriteError::OutcomeUnknown { reason }),
                WriteRefusalV1::Overloaded => Some(WriteError::Overloaded),
                WriteRefusalV1::StorageFull { data_bytes_max } => {
                    Some(WriteError::StorageFull { data_bytes_max })
                }
                WriteRefusalV1::DiskLow { free_bytes, free_min } => {
                    Some(WriteError::DiskLow { free_bytes, disk_free_min: free_min })
                }
            };
            let out_of_time =
                error.is_none() && tokio::time::timeout_at(deadline, self.routes.pause()).await.is_err();
            match (error, unknown.take()) {
                (None, reason) if !out_of_time => unknown = reason,
                (_, Some(reason)) => return Err(WriteError::OutcomeUnknown { reason }),
                (Some(error), None) => return Err(error),
                (None, None) => return Err(WriteError::NoLeader { waited: begun.elapsed() }),
            }
        }
    }

    /// The time by which times to live end, as this node knows it: milliseconds since the Unix epoch.
    /// Not behind `view`.
    pub fn clock_ms(&self, view: &View) -> u64 {
        self.routes.local.clock.now_ms().max(view.clock_ms)
    }

    /// Log index of the last entry that this node applied.
    pub fn revision(&self) -> u64 {
        self.published.applied_index()
    }

    /// How this node stands.
    pub fn standing(&self) -> Standing {
        let leadership = self.routes.leadership.borrow().clone();
        let metrics = self.raft.metrics().borrow_watched().clone();
        let committed = metrics.cluster_committed.max(metrics.local_committed).map_or(0, |id| id.index);
        Standing {
            term: metrics.current_term,
            leader: leadership.leader.map(|(id, member)| (id, member.name.clone())),
            is_leader: leadership.here,
            is_running: metrics.running_state.is_ok(),
            is_caught_up: *self.caught_up.borrow(),
            apply_lag: committed.saturating_sub(self.published.applied_index()),
            is_disk_low: self.routes.local.disk.is_low(),
            fsync_stall: self.routes.local.stall.lasting(),
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
        self.gauges.observe(&metrics, self.published.applied_index());
        self.gauges.log_bytes.set(i64::try_from(self.log.disk_bytes()).unwrap_or(i64::MAX));
        self.gauges.disk_free_bytes.set(i64::try_from(self.disk_free_bytes()).unwrap_or(i64::MAX));
    }

    /// The leader, when one is known.
    pub fn leader(&self) -> Option<Arc<Member>> {
        self.routes.leadership.borrow().leader.as_ref().map(|(_, member)| Arc::clone(member))
    }

    /// Stops: checkpoints the state, so that the next start is short, and closes everything, `timeout` in
    /// all. To be called after [`Store::hand_over`] and after the last request was answered.
    ///
    /// # Errors
    /// [`CloseError`] when the disk hangs, or is slower than that. The process should exit then, without
    /// dropping the store: dropping waits for the disk as well.
    pub async fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        let deadline = Instant::now() + timeout;
        let late = |waiting_for| move |_| CloseError { waiting_for, timeout };
        // Also the one that is being written, for which Raft waits.
        self.checkpoints.hurry_always();
        let stopped = tokio::time::timeout_at(deadline, self.raft.shutdown()).await;
        if let Err(error) = stopped.map_err(late("Raft to stop"))? {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        let last = async {
            let frozen = self.published.freeze()?;
            self.checkpoints.write(frozen).await
        };
        let written = tokio::time::timeout_at(deadline, last).await;
        if let Err(error) = written.map_err(late("the last checkpoint"))? {
            tracing::warn!(%error, "the last checkpoint failed; the log holds what it lacks");
        }
        // Tasks of openraft outlive its shutdown by a moment and would hold sled open.
        let checkpoints = Arc::clone(&self.checkpoints);
        let closing = tokio::task::spawn_blocking(move || checkpoints.close());
        let closed = tokio::time::timeout_at(deadline, closing).await;
        if let Err(error) = closed.map_err(late("sled to close"))? {
            tracing::warn!(%error, "sled was not closed");
        }
        Ok(())
    }

    /// If this node leads: asks the voter that is furthest to take over, and waits for it, bounded.
    pub async fn hand_over(&self) {
        HandOver::new(self.raft.clone(), self.routes.leadership.clone()).and_wait().await;
    }
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
