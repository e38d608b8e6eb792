//! The HTTP edge: routes, and what surrounds every request.
//!
//! A request walks straight: [`server`] accepts the connection, [`observe`] gives it an id, counts
//! and times it, a handler in the file named after its resource parses it and calls the store or the
//! compute endpoints in one line, and errors become problem details in [`problem`].
//!
//! **Invariants.** Every answer carries `Hearth-Node` and `Hearth-Request-Id`. Every error is
//! `application/problem+json` and says whether the request was applied. Bodies are bounded before
//! they are read.

mod age;
mod cluster;
mod compute;
mod conditions;
mod health;
mod input;
mod kv;
mod list;
mod metrics;
mod observe;
mod once;
mod parameters;
mod problem;
pub(crate) mod server;
mod txn;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::routing::{get, post, put};
use hearth_raft::{Store, View};
use prometheus::Registry;

pub(crate) use self::compute::Compute;
use self::metrics::HttpMetrics;
use self::problem::{Code, Problem};

/// What the handlers share.
pub(crate) struct App {
    /// This node's name, for `Hearth-Node`.
    pub(crate) name: String,
    /// Empty until the cluster is formed and the state is loaded; see [`App::store`].
    pub(crate) store: OnceLock<Arc<Store>>,
    /// Set when the node was told to stop.
    pub(crate) stopping: AtomicBool,
    /// The endpoints that never touch the store.
    pub(crate) compute: Compute,
    /// Everything that `/metrics` shows.
    pub(crate) registry: Registry,
    pub(crate) http_metrics: HttpMetrics,
    /// Requests that take longer are logged as warnings.
    pub(crate) slow_request: Duration,
}

impl App {
    pub(crate) fn new(
        name: String,
        compute: Compute,
        registry: Registry,
        slow_request: Duration,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let http_metrics = HttpMetrics::register(&registry)?;
        Ok(Arc::new(Self {
            name,
            store: OnceLock::new(),
            stopping: AtomicBool::new(false),
            compute,
            registry,
            http_metrics,
            slow_request,
        }))
    }

    /// The store, once it is open.
    fn store(&self) -> Result<&Store, Problem> {
        self.store.get().map(Arc::as_ref).ok_or_else(|| {
            Problem::new(
                Code::NoLeader,
                "this node is starting: it waits for the cluster to be formed or loads its state",
            )
        })
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/cpu", get(compute::cpu))
        .route("/local_program", get(compute::local_program))
        .route("/age", put(age::append))
        .route("/age/{*name}", get(age::list).delete(age::delete))
        .route("/v1/kv", get(list::list).delete(list::delete))
        .route("/v1/txn", post(txn::apply))
        .route("/v1/kv/{*key}", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/v1/cluster", get(cluster::status))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/leader", get(health::leader))
        .route("/metrics", get(metrics::scrape))
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), observe::observe))
        .with_state(app)
}

const HEARTH_REVISION: HeaderName = HeaderName::from_static("hearth-revision");
/// On local reads: how many milliseconds of writes the answer may lack at most.
const HEARTH_STALENESS_MS: HeaderName = HeaderName::from_static("hearth-staleness-ms");
const HEARTH_LEADER: HeaderName = HeaderName::from_static("hearth-leader");

/// The headers of an answer about data: the store's revision it reflects, and who leads.
fn data_headers(store: &Store, revision: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HEARTH_REVISION, HeaderValue::from(revision));
    if let Some(leader) = store.leader_name()
        && let Ok(leader) = HeaderValue::from_str(&leader)
    {
        headers.insert(HEARTH_LEADER, leader);
    }
    headers
}

/// The view that a read asked for, and the headers that say what it is.
async fn view(store: &Store, consistency: input::Consistency) -> Result<(View, HeaderMap), Problem> {
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
