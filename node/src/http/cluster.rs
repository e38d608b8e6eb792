//! `/v1/cluster`: every member as this node sees it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hearth_raft::MemberStatus;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::openapi::errors;
use crate::http::problem::Problem;
use crate::http::{App, input};

/// The cluster, as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cluster {
    /// 32 hexadecimal digits.
    cluster_id: String,
    /// The node that answers.
    node: String,
    leader: Option<String>,
    term: u64,
    /// Log index of the last entry that this node applied.
    revision: u64,
    members: Vec<Member>,
}

/// One member. What only the member itself can say is null when it did not answer in time.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Member {
    id: u64,
    name: String,
    role: &'static str,
    /// `leader`, `follower`, `candidate`, `learner`, `shutdown` or `unreachable`.
    state: String,
    peer: String,
    http: Option<String>,
    version: Option<String>,
    term: Option<u64>,
    last_log_index: Option<u64>,
    applied_index: Option<u64>,
    /// Entries that the furthest member has and this one has not applied.
    lag: Option<u64>,
    /// Milliseconds since it last answered the leader; only the leader knows.
    last_contact_ms: Option<u64>,
    disk_free_bytes: Option<u64>,
    data_bytes: Option<u64>,
    keys: Option<u64>,
    /// 16 hexadecimal digits; equal on members with the same `applied_index`.
    state_hash: Option<String>,
    error: Option<String>,
}

errors!(StatusErrors: InvalidParameter, NoLeader);

/// The members as this node sees them
///
/// Asks every member at once; takes at most half a second.
#[utoipa::path(
    get, path = "/v1/cluster", tag = "cluster", operation_id = "cluster_status",
    responses((status = 200, description = "The cluster", body = Cluster), StatusErrors),
)]
pub(super) async fn status(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Cluster>, Problem> {
    input::no_query(&uri)?;
    let store = app.store()?;
    let reports = store.members().await;
    let standing = store.standing();
    let furthest = reports
        .iter()
        .filter_map(|member| member.report.as_ref().ok())
        .map(|report| report.applied_index)
        .max();
    Ok(Json(Cluster {
        cluster_id: format!("{:032x}", store.identity().cluster_id),
        node: app.name.clone(),
        leader: standing.leader.map(|(_, name)| name),
        term: standing.term,
        revision: store.revision(),
        members: reports.into_iter().map(|report| member(report, furthest)).collect(),
    }))
}

fn member(status: MemberStatus, furthest: Option<u64>) -> Member {
    let base = Member {
        id: status.id,
        name: status.member.name,
        role: if status.voter { "voter" } else { "learner" },
        peer: status.member.peer,
        last_contact_ms: status
            .last_contact
            .map(|contact| u64::try_from(contact.as_millis()).unwrap_or(u64::MAX)),
        ..Member::default()
    };
    match status.report {
        Err(error) => Member { state: "unreachable".to_owned(), error: Some(error), ..base },
        Ok(report) => Member {
            lag: furthest.map(|furthest| furthest.saturating_sub(report.applied_index)),
            state: report.state,
            http: Some(report.http),
            version: Some(report.version),
            term: Some(report.term),
            last_log_index: Some(report.last_log_index),
            applied_index: Some(report.applied_index),
            disk_free_bytes: Some(report.disk_free_bytes),
            data_bytes: Some(report.data_bytes),
            keys: Some(report.keys),
            state_hash: Some(format!("{:016x}", report.state_hash)),
            ..base
        },
    }
}
