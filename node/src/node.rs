//! The life of a node: bind, serve, open the store, run, stop.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use hearth_monitoring::logs::{self, LogConfig};
use hearth_monitoring::registry;
use hearth_raft::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::allocator;
use crate::config::Settings;
use crate::http::{self, AdmissionLimits, App, Compute, Edge, Gate, RequestLimits, StreamLimits, Streams};

/// How long an address may still be in use. A node that is killed while it starts a local program leaves a child
/// behind that holds all that the node had open, until its own program begins; and a supervisor is quick.
const IN_USE_MAX: Duration = Duration::from_millis(500);
const IN_USE_PAUSE: Duration = Duration::from_millis(5);

/// Runs a node until it is told to stop, or cannot go on.
///
/// Success after SIGTERM or SIGINT; failure when the store fails while the node runs.
///
/// # Errors
/// What keeps the node from starting, as one line that names the key to change. Nothing is changed
/// on disk then.
pub async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let log_guard = logs::init(&log_config(&settings))?;
    let registry = registry::registry(env!("CARGO_PKG_VERSION"), &settings.name)?;
    log_guard.register(&registry)?;

    let http_listener = bind("http_listen", &settings.http_listen).await?;
    let peer_listener = bind("peer_listen", &settings.peer_listen).await?;
    let http_address = http_listener.local_addr()?;
    let compute = Compute::new(&settings, &registry)?;
    let streams = Streams::register(stream_limits(&settings), &registry)?;
    let app = App::new(settings.name.clone(), compute, streams, registry.clone(), settings.log_slow_request)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A limit on the size of files (`ulimit -f`) is an error of the write that meets it, as a full disk is, and
    // not the end of the process by a signal.
    let _file_too_large = signal(SignalKind::from_raw(libc::SIGXFSZ))?;

    let (stop, stopped) = watch::channel(false);
    let edge = Edge::new(Arc::clone(&app), request_limits(&settings)?, &settings.http_cors_origins)?;
    let serving =
        tokio::spawn(http::server::serve(http_listener, edge, settings.http_connections_max, stopped));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), http = %http_address, "hearthd is starting");

    let http_advertise = settings.http_advertise.clone().unwrap_or_else(|| http_address.to_string());
    let store = tokio::select! {
        opened = Store::open(store_options(&settings, http_advertise), peer_listener, &registry) => Arc::new(opened?),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    };
    if app.store.set(Gate::new(Arc::clone(&store), admission_limits(&settings)?)).is_err() {
        anyhow::bail!("the store was opened twice");
    }
    let identity = store.identity();
    tracing::info!(
        cluster_id = format!("{:032x}", identity.cluster_id),
        node_id = identity.node_id,
        "the store is open"
    );
    allocator::started();

    let code = tokio::select! {
        _ = interrupt.recv() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::SUCCESS,
        reason = store.failed() => {
            tracing::error!(reason, "the store failed; this node stops");
            ExitCode::FAILURE
        }
    };
    app.stopping.store(true, Ordering::Relaxed);
    tracing::info!("stopping");
    stop.send_replace(true);
    // They would not end by themselves, and resume elsewhere.
    store.end_watchers();
    store.hand_over().await;
    if tokio::time::timeout(settings.stop_timeout, serving).await.is_err() {
        tracing::warn!("requests are still in progress after stop_timeout; they are cut off");
    }
    if let Err(error) = store.close(settings.stop_timeout).await {
        tracing::error!(%error, "this process ends without closing the store; the next start takes what is in the log");
        // What is written so far, then the end: to drop the store, or the runtime, waits for the disk too.
        drop(log_guard);
        std::process::exit(1);
    }
    tracing::info!("stopped");
    Ok(code)
}

/// Listens on `address`, the value of `key`. Waits a moment while it is in use, see [`IN_USE_MAX`].
async fn bind(key: &str, address: &str) -> anyhow::Result<TcpListener> {
    let deadline = Instant::now() + IN_USE_MAX;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(IN_USE_PAUSE).await;
            }
            bound => return bound.with_context(|| format!("{key} {address}")),
        }
    }
}

fn request_limits(settings: &Settings) -> anyhow::Result<RequestLimits> {
    Ok(RequestLimits {
        head_bytes_max: usize::try_from(settings.http_head_bytes_max.as_u64())?,
        headers_max: settings.http_headers_max,
        uri_bytes_max: usize::try_from(settings.http_uri_bytes_max.as_u64())?,
        header_timeout: settings.http_header_timeout,
        body_timeout: settings.http_body_timeout,
        write_timeout: settings.http_write_timeout,
        idle_timeout: settings.http_idle_timeout,
    })
}

fn admission_limits(settings: &Settings) -> anyhow::Result<AdmissionLimits> {
    Ok(AdmissionLimits {
        writes_max: settings.http_writes_max,
        reads_max: settings.http_reads_max,
        waiting_max: settings.http_waiting_max,
        waiting_timeout: settings.http_waiting_timeout,
        buffer_bytes_max: usize::try_from(settings.http_buffer_bytes_max.as_u64())?,
    })
}

fn stream_limits(settings: &Settings) -> StreamLimits {
    StreamLimits {
        streams_max: settings.watch_streams_max,
        heartbeat_interval: settings.watch_heartbeat_interval,
    }
}

fn log_config(settings: &Settings) -> LogConfig {
    LogConfig {
        level: log_directives(&settings.log_level),
        format: settings.log_format,
        dir: settings.log_dir.clone(),
        files_max: settings.log_files_max,
        lines_max: settings.log_lines_max,
        node: settings.name.clone(),
        colour: std::io::IsTerminal::is_terminal(&std::io::stdout())
            && std::env::var_os("NO_COLOR").is_none(),
    }
}

/// A bare level means Hearth's own lines; libraries then only speak up when something is wrong. What openraft
/// warns of is each attempt that it will make again: hearth_raft says when a peer is lost and when it is back.
/// Anything else is taken as directives, as it is.
fn log_directives(level: &str) -> String {
    match level.parse::<tracing::Level>() {
        Ok(_) => {
            format!("warn,openraft=error,hearth_node={level},hearth_raft={level},hearth_monitoring={level}")
        }
        Err(_) => level.to_owned(),
    }
}

fn store_options(settings: &Settings, http_advertise: String) -> StoreOptions {
    StoreOptions {
        name: settings.name.clone(),
        data_dir: PathBuf::from(&settings.data_dir),
        initial_cluster: settings.initial_members(),
        http_advertise,
        heartbeat_interval: settings.raft_heartbeat_interval,
        election_timeout_min: settings.raft_election_timeout_min,
        election_timeout_max: settings.raft_election_timeout_max,
        request_timeout: settings.request_timeout,
        data_bytes_max: settings.storage_data_bytes_max.as_u64(),
        disk_free_min: settings.storage_disk_free_min.as_u64(),
        stall_timeout: settings.storage_stall_timeout,
        proposals_max: settings.raft_proposals_max,
        checkpoint_entries: settings.storage_checkpoint_entries,
        checkpoint_bytes: settings.storage_checkpoint_bytes.as_u64(),
        checkpoint_interval: settings.storage_checkpoint_interval,
        log_keep_entries: settings.raft_log_keep_entries,
        log_catch_up_bytes: settings.raft_log_catch_up_bytes.as_u64(),
        idempotency_window: settings.idempotency_window,
        idempotency_keys_max: settings.idempotency_keys_max,
        history_events: settings.watch_history_events,
        history_bytes: settings.watch_history_bytes.as_u64(),
    }
}
