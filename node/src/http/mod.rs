//! The HTTP edge: routes, and what surrounds every request.
//!
//! A request walks straight: [`server`] accepts the connection, [`connection`] keeps its time,
//! [`edge`] gives the request an id, bounds its head, counts and times it, [`routes`] finds the
//! handler in the file named after its resource, which parses it and calls the store or the compute
//! endpoints in one line, and errors become problem details in [`problem`]. [`endpoints`] is the one list
//! of what is served; the OpenAPI document is made from it.
//!
//! **Invariants.** Every answer carries `Hearth-Node` and `Hearth-Request-Id`. Every error is
//! `application/problem+json` and says whether the request was applied, also for what is not HTTP.
//! Heads, bodies, waits and the work on the store are bounded before memory is spent on them.

mod activity;
mod admission;
mod age;
mod base64;
mod buffers;
mod cluster;
mod compute;
mod conditions;
mod connection;
mod cors;
mod docs;
mod edge;
mod health;
mod input;
mod kv;
mod list;
mod metrics;
mod once;
mod openapi;
mod parameters;
mod problem;
mod routes;
pub(crate) mod server;
mod txn;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use hearth_raft::{Store, View};
use prometheus::Registry;

use self::activity::Activity;
pub(crate) use self::admission::{AdmissionLimits, Gate};
pub(crate) use self::compute::Compute;
pub(crate) use self::edge::{Edge, RequestLimits};
use self::metrics::HttpMetrics;
use self::problem::{Code, Problem};
use self::routes::{Served, served};
pub(crate) use self::watch::{StreamLimits, Streams};
use crate::compute::cpu::Haste;

/// What the handlers share.
pub(crate) struct App {
    /// This node's name, for `Hearth-Node`.
    pub(crate) name: String,
    /// Empty until the cluster is formed and the state is loaded; see [`App::store`].
    pub(crate) store: OnceLock<Gate>,
    /// Set when the node was told to stop.
    pub(crate) stopping: AtomicBool,
    /// The endpoints that never touch the store.
    pub(crate) compute: Compute,
    /// Whether writes go on, which compute makes way for.
    activity: Activity,
    /// Who watches keys.
    streams: Streams,
    /// Everything that `/metrics` shows.
    pub(crate) registry: Registry,
    pub(crate) http_metrics: HttpMetrics,
    /// Requests that take longer are logged as warnings.
    pub(crate) slow_request: Duration,
    /// What `/openapi.json` answers.
    document: OnceLock<Bytes>,
}

impl App {
    pub(crate) fn new(
        name: String,
        compute: Compute,
        streams: Streams,
        registry: Registry,
        slow_request: Duration,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let http_metrics = HttpMetrics::register(&registry)?;
        Ok(Arc::new(Self {
            name,
            store: OnceLock::new(),
            stopping: AtomicBool::new(false),
            compute,
            activity: Activity::new(),
            streams,
            registry,
            http_metrics,
            slow_request,
            document: OnceLock::new(),
        }))
    }

    /// The store, once it is open.
    fn store(&self) -> Result<&Gate, Problem> {
        self.store.get().ok_or_else(|| {
            Problem::new(
                Code::NoLeader,
                "this node is starting: it waits for the cluster to be formed or loads its state",
            )
        })
    }

    /// How eagerly to compute: writes go first, whoever they were sent to.
    fn haste(&self) -> Haste {
        match self.store.get() {
            Some(store) if self.activity.is_writing(store.revision()) => Haste::InSpareTime,
            _ => Haste::AtOnce,
        }
    }

    /// What `/openapi.json` answers, set once.
    fn set_document(&self, json: Vec<u8>) {
        // A second one would be the same.
        let _ = self.document.set(json.into());
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// The paths whose last parameter takes all that follows, slashes too.
const WHOLE_TAILS: [&str; 2] = ["/age/{name}", "/v1/kv/{key}"];

/// Everything that is served. Paths and methods are in the handlers' annotations; see [`openapi`] on how
/// to add one.
fn endpoints() -> Vec<Served> {
    vec![
        served::<compute::__path_cpu, _, _>(compute::cpu),
        served::<compute::__path_local_program, _, _>(compute::local_program),
        served::<age::__path_append, _, _>(age::append),
        served::<age::__path_list, _, _>(age::list),
        served::<age::__path_delete, _, _>(age::delete),
        served::<list::__path_list, _, _>(list::list),
        served::<list::__path_delete, _, _>(list::delete),
        served::<txn::__path_apply, _, _>(txn::apply),
        served::<kv::__path_get, _, _>(kv::get),
        served::<kv::__path_put, _, _>(kv::put),
        served::<kv::__path_delete, _, _>(kv::delete),
        served::<watch::__path_watch, _, _>(watch::watch),
        served::<cluster::__path_status, _, _>(cluster::status),
        served::<health::__path_live, _, _>(health::live),
        served::<health::__path_ready, _, _>(health::ready),
        served::<health::__path_leader, _, _>(health::leader),
        served::<metrics::__path_scrape, _, _>(metrics::scrape),
        served::<docs::__path_document, _, _>(docs::document),
        served::<docs::__path_page, _, _>(docs::page),
    ]
}

const HEARTH_REVISION: HeaderName = HeaderName::from_static("hearth-revision");
/// On local reads: how many milliseconds of writes the answer may lack at most.
const HEARTH_STALENESS_MS: HeaderName = HeaderName::from_static("hearth-staleness-ms");
const HEARTH_LEADER: HeaderName = HeaderName::from_static("hearth-leader");
/// On 410 `compacted`: the oldest revision after which this node can resume a watch.
const HEARTH_OLDEST_REVISION: HeaderName = HeaderName::from_static("hearth-oldest-revision");

/// The headers of an answer about data: the store's revision it reflects, and who leads.
fn data_headers(store: &Store, revision: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HEARTH_REVISION, HeaderValue::from(revision));
    if let Some(leader) = store.leader()
        && let Ok(leader) = HeaderValue::from_str(&leader.name)
    {
        headers.insert(HEARTH_LEADER, leader);
    }
    headers
}

/// The view that a read asked for, and the headers that say what it is.
async fn view(store: &Gate, consistency: input::Consistency) -> Result<(View, HeaderMap), Problem> {
    let (view, age_max) = match consistency {
        input::Consistency::Local => store.local_view(),
        input::Consistency::Within(age_max) => (store.view_within(age_max).await?, None),
        input::Consistency::Linearizable => (store.linearizable_view().await?, None),
    };
    let mut headers = data_headers(store, view.revision());
    if let Some(age_max) = age_max {
        let ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        // Rounded up: it is a bound.
        headers.insert(HEARTH_STALENESS_MS, HeaderValue::from(ms.saturating_add(1)));
    }
    Ok((view, headers))
}
