//! `hearth status`: every member, and one line about the whole.

use super::failure::Failure;
use super::output::{Format, Output, printable, size};
use crate::client::Client;
use crate::cluster::{ClusterStatus, Member, Role, State};

/// Shows the cluster as the node that answers sees it.
///
/// A table with one row per member and a summary, or the server's JSON. Succeeds whenever a node answers,
/// also without a leader: `hearth health` is the one to fail.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Succeeds whenever a node answers; `hearth health` is the one that fails when something is wrong.
With -o json: the answer of GET /v1/cluster.")]
pub struct Status {}

impl Status {
    /// Asks the cluster and writes the table, or the JSON.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let cluster = client.cluster().await?;
        if output.format == Format::Json {
            return output.json(&cluster);
        }
        output.table(HEADER, cluster.members.iter().map(row).collect())?;
        for member in &cluster.members {
            if let Some(error) = &member.error {
                output.line(&format!("{}: {}", printable(&member.name), printable(error)))?;
            }
        }
        output.line("")?;
        output.line(&summary(&cluster))
    }
}

const HEADER: [&str; 15] = [
    "NODE",
    "ID",
    "ROLE",
    "STATE",
    "HTTP",
    "PEER",
    "VERSION",
    "TERM",
    "LOG",
    "APPLIED",
    "LAG",
    "CONTACT",
    "KEYS",
    "DATA",
    "DISK FREE",
];

fn row(member: &Member) -> [String; 15] {
    let number = |value: Option<u64>| value.map_or_else(unknown, |value| value.to_string());
    [
        member.name.clone(),
        member.id.to_string(),
        role(member.role).to_owned(),
        state(member.state).to_owned(),
        member.http.clone().unwrap_or_else(unknown),
        member.peer.clone(),
        member.version.clone().unwrap_or_else(unknown),
        number(member.term),
        number(member.last_log_index),
        number(member.applied_index),
        number(member.lag),
        member.last_contact_ms.map_or_else(unknown, |ms| format!("{ms} ms")),
        number(member.keys),
        member.data_bytes.map_or_else(unknown, size),
        member.disk_free_bytes.map_or_else(unknown, size),
    ]
}

fn unknown() -> String {
    "-".to_owned()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Unknown => "unknown",
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Leader => "leader",
        State::Follower => "follower",
        State::Candidate => "candidate",
        State::Learner => "learner",
        State::Unreachable => "unreachable",
        State::Unknown => "unknown",
    }
}

/// `quorum 2 of 3, 3 voters reachable; leader n2; term 3; revision 123 (as n1 sees it)`
fn summary(cluster: &ClusterStatus) -> String {
    let (voters, reachable, quorum) = (cluster.voters(), cluster.voters_reachable(), cluster.quorum());
    let lost = if reachable < quorum { "QUORUM LOST: " } else { "" };
    let leader =
        cluster.leader.as_deref().map_or_else(|| "no leader".to_owned(), |name| format!("leader {name}"));
    printable(&format!(
        "{lost}quorum {quorum} of {voters}, {reachable} voter{} reachable; {leader}; term {}; revision {} \
         (as {} sees it)",
        if reachable == 1 { "" } else { "s" },
        cluster.term,
        cluster.revision,
        cluster.node,
    ))
}
