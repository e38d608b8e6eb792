//! `/livez`, `/readyz` and `/leader`: for supervisors and load balancers.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::http::App;

/// Committed entries that a node may lack and still count as caught up.
const APPLY_LAG_MAX: u64 = 10_000;

/// `GET /livez`: 200 as long as the process answers.
pub(super) async fn live(uri: Uri) -> Response {
    report(&uri, &[("process", Ok(()))])
}

/// `GET /readyz`: 200 when the node can serve the store, else 503 naming the checks that fail.
/// With `?verbose` every check has a line: `[+]name ok` or `[-]name failed: why`. `?exclude=name`
/// leaves a check out: a load balancer excludes `disk`, because reads and deletes go on.
pub(super) async fn ready(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let excluded: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).collect();
    let mut checks = checks(&app);
    checks.retain(|(name, _)| !excluded.contains(name));
    report(&uri, &checks)
}

/// `GET /leader`: 200 on the leader, 503 elsewhere; names the leader when one is known.
pub(super) async fn leader(State(app): State<Arc<App>>) -> Response {
    let standing = app.store.get().map(|store| store.standing());
    let is_leader = standing.as_ref().is_some_and(|standing| standing.is_leader) && !app.is_stopping();
    let status = if is_leader { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let name = standing.and_then(|standing| standing.leader).map_or("none".to_owned(), |(_, name)| name);
    (status, format!("{name}\n")).into_response()
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
