//! `/livez`, `/readyz` and `/leader`: for supervisors and load balancers.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hearth_raft::Store;
use utoipa::IntoParams;

use crate::http::App;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted")]
struct ReportQuery {
    /// A line for every check, not only for those that fail.
    verbose: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted")]
struct ExcludeQuery {
    /// A check to leave out; a load balancer leaves out `disk`, because reads and deletes go on.
    exclude: Option<String>,
}

/// Committed entries that a node may lack and still count as caught up.
const APPLY_LAG_MAX: u64 = 10_000;

/// How long ago a leader must have answered this node for it to count as ready.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long one may take to answer when none did lately; shorter than a load balancer waits.
const LEADER_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether the process answers
#[utoipa::path(
    get, path = "/livez", tag = "health", operation_id = "livez",
    params(ReportQuery),
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")),
)]
pub(super) async fn live(uri: Uri) -> Response {
    report(&uri, &[("process", Ok(()))])
}

/// Whether this node can serve the store
///
/// Names the checks that fail; with `verbose` every check has a line, `[+]name ok` or
/// `[-]name failed: why`.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz",
    params(ReportQuery, ExcludeQuery),
    responses(
        (status = 200, description = "It can", body = String, content_type = "text/plain"),
        (status = 503, description = "It cannot; the failing checks", body = String, content_type = "text/plain"),
    ),
)]
pub(super) async fn ready(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let excluded: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).collect();
    let mut checks = checks(&app);
    if let Some(why) = no_answer(&app).await {
        for (_, result) in checks.iter_mut().filter(|(name, result)| *name == "leader" && result.is_ok()) {
            *result = Err(why.clone());
        }
    }
    checks.retain(|(name, _)| !excluded.contains(name));
    report(&uri, &checks)
}

/// Whether this node leads
///
/// The body names the leader, or is `none`.
#[utoipa::path(
    get, path = "/leader", tag = "health", operation_id = "leader",
    responses(
        (status = 200, description = "It leads", body = String, content_type = "text/plain"),
        (status = 503, description = "It does not", body = String, content_type = "text/plain"),
    ),
)]
pub(super) async fn leader(State(app): State<Arc<App>>) -> Response {
    let standing = app.store.get().map(|store| store.standing());
    let is_leader = standing.as_ref().is_some_and(|standing| standing.is_leader) && !app.is_stopping();
    let status = if is_leader { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let name = standing.and_then(|standing| standing.leader).map_or("none".to_owned(), |(_, name)| name);
    (status, format!("{name}\n")).into_response()
}

/// Why no leader answers this node, when none does. Who leads is remembered from the last election, and
/// without a majority there is no next one: only asking tells.
async fn no_answer(app: &App) -> Option<String> {
    let store: &Store = app.store.get()?;
    match tokio::time::timeout(LEADER_TIMEOUT, store.view_within(LEADER_SILENCE_MAX)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no leader with a majority answers within {LEADER_TIMEOUT:?}")),
    }
}

type Check = (&'static str, Result<(), String>);

fn checks(app: &App) -> Vec<Check> {
    let verdict = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_owned()) };
    let mut checks = vec![("running", verdict(!app.is_stopping(), "the node is stopping"))];
    let Some(store) = app.store.get() else {
        checks.push(("store", Err("waiting for the cluster to be formed, or loading the state".to_owned())));
        return checks;
    };
    let standing = store.standing();
    checks.push(("store", verdict(standing.is_running, "Raft has stopped")));
    checks.push(("leader", verdict(standing.leader.is_some(), "no leader is known")));
    let caught_up = match (standing.is_caught_up, standing.apply_lag) {
        (false, _) => Err("what was committed before the start is not applied yet".to_owned()),
        (true, lag) if lag > APPLY_LAG_MAX => Err(format!("{lag} committed entries are not applied yet")),
        (true, _) => Ok(()),
    };
    checks.push(("caught_up", caught_up));
    let stall = standing.fsync_stall.map_or(Ok(()), |lasting| {
        Err(format!("an fsync of the log has not returned for {:.1} s", lasting.as_secs_f64()))
    });
    checks.push(("fsync", stall));
    checks.push(("disk", verdict(!standing.is_disk_low, "less than storage.disk_free_min is free")));
    checks
}

fn report(uri: &Uri, checks: &[Check]) -> Response {
    let verbose = uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("verbose")));
    let failing = checks.iter().any(|(_, result)| result.is_err());
    let mut text = String::new();
    for (name, result) in checks {
        // Writing to a string does not fail.
        let _ = match result {
            Ok(()) if verbose => writeln!(text, "[+]{name} ok"),
            Err(why) => writeln!(text, "[-]{name} failed: {why}"),
            Ok(()) => Ok(()),
        };
    }
    if failing {
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    text.push_str("ok\n");
    text.into_response()
}
