//! Forming a cluster, exactly once.
//!
//! Every node starts with the same `initial_cluster`, in any order and at any time. Node ids are the
//! ranks of the names. The node with the first name is the *founder*. Once a majority, itself
//! included, says that its disk is blank and its list the same, the founder draws a random cluster
//! id and writes it down together with the list of the others; then it tells them, again and again
//! until each has confirmed, which is remembered across restarts. A node that was told writes the
//! identity down before it confirms, and never takes another.
//!
//! Why not derive the id from the list, as others do: a node that lost its disk would come back as
//! an empty member of the same cluster, having forgotten its votes and its log, and a majority of
//! such nodes loses committed data. With a random id such a node stays outside: the members refuse
//! it by name, and it must be replaced on purpose.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::codec;
use crate::identity::{DataDir, DataDirError, Identity};
use crate::peer::hello::{self, HelloV1, Own};
use crate::peer::link::CallError;
use crate::peer::message::{FoundAnswerV1, FoundV1, RequestV1, ResponseV1};
use crate::peer::{Lane, frame, server};
use crate::types::{Member, Raft};

/// How long the founder waits before it asks those again that did not answer.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How often a node that waits says so.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// Why a cluster was not formed.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The list lacks this node, or names one twice.
    #[error("initial_cluster: {0}")]
    List(String),
    /// The cluster exists already, without this node's disk.
    #[error(
        "data_dir is empty, but {name} at {peer} already belongs to cluster {cluster_id:032x}: this node lost its disk, or has a new one. It cannot come back as if nothing had happened, since it forgot its votes: remove the member and add it anew"
    )]
    AlreadyFormed {
        /// The node that said so.
        name: String,
        /// Its peer address.
        peer: String,
        /// The cluster it belongs to.
        cluster_id: u128,
    },
    /// The identity could not be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

/// The configured members with their ids: the ranks of their names, from 1.
pub(crate) fn ranked(name: &str, list: &[Member]) -> Result<Vec<(u64, Member)>, BootstrapError> {
    let by_name: BTreeMap<&str, &Member> = list.iter().map(|member| (member.name.as_str(), member)).collect();
    if by_name.len() != list.len() {
        return Err(BootstrapError::List("a name is listed twice".to_owned()));
    }
    if !by_name.contains_key(name) {
        let names = by_name.keys().copied().collect::<Vec<_>>().join(",");
        return Err(BootstrapError::List(format!("it lists {names}, but not this node, {name}")));
    }
    Ok((1..).zip(by_name.into_values().cloned()).collect())
}

/// Waits until this node belongs to a cluster, and writes that down.
///
/// Meanwhile it answers only the founder on `listener`.
pub(crate) async fn found(
    dir: &DataDir,
    listener: &TcpListener,
    name: &str,
    members: Vec<(u64, Member)>,
) -> Result<Identity, BootstrapError> {
    let node_id = members.iter().find(|(_, member)| member.name == name).map_or(0, |(id, _)| *id);
    let cluster_id = match members.first() {
        Some((id, _)) if *id == node_id => {
            // Others may ask, for instance a second node that takes itself for the founder.
            tokio::select! {
                gathered = gather_majority(name, &members) => gathered?,
                never = answer_founder(listener, name, &members) => match never {},
            }
        }
        founder => {
            let founder = founder.map(|(_, member)| member.to_string()).unwrap_or_default();
            tracing::info!(%founder, "data_dir is empty: waiting for the founder to form the cluster");
            return wait_for_founder(dir, listener, name, node_id, members).await;
        }
    };
    let others = members.iter().map(|(id, _)| *id).filter(|id| *id != node_id).collect();
    let identity =
        Identity { cluster_id, node_id, name: name.to_owned(), initial_members: members, to_found: others };
    dir.write_identity(&identity)?;
    tracing::info!(cluster_id = format!("{cluster_id:032x}"), "formed a cluster");
    Ok(identity)
}

/// Asks the others until a majority is blank, then draws the cluster's id.
async fn gather_majority(name: &str, members: &[(u64, Member)]) -> Result<u128, BootstrapError> {
    let majority = members.len() / 2 + 1;
    let mut reminded = Instant::now();
    loop {
        let mut blank = 1;
        let mut missing = Vec::new();
        let asked = members.iter().filter(|(_, member)| member.name != name).map(|(id, member)| async move {
            let question = FoundV1 { cluster_id: None, members: wire(members) };
            (member, ask(name, *id, member, &question).await)
        });
        for (member, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(FoundAnswerV1::Blank) => blank += 1,
                Ok(FoundAnswerV1::Member { cluster_id }) => {
                    return Err(BootstrapError::AlreadyFormed {
                        name: member.name.clone(),
                        peer: member.peer.clone(),
                        cluster_id,
                    });
                }
                Ok(FoundAnswerV1::OtherList(list)) => {
                    missing.push(format!("{member} has initial_cluster {list}"))
                }
                Err(error) => missing.push(format!("{member}: {error}")),
            }
        }
        if blank >= majority {
            return Ok(random_id());
        }
        if reminded.elapsed() >= REMIND_EVERY {
            reminded = Instant::now();
            tracing::warn!(
                blank,
                majority,
                missing = missing.join("; "),
                "waiting for a majority to form the cluster"
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Never 0, which stands for no cluster.
fn random_id() -> u128 {
    rand::random::<u128>().max(1)
}

fn wire(members: &[(u64, Member)]) -> Vec<(u64, crate::codec::MemberV1)> {
    members.iter().map(|(id, member)| (*id, member.clone().into())).collect()
}

fn describe(members: &[(u64, Member)]) -> String {
    members.iter().map(|(_, member)| format!("{}={}", member.name, member.peer)).collect::<Vec<_>>().join(",")
}

async fn ask(name: &str, id: u64, member: &Member, question: &FoundV1) -> Result<FoundAnswerV1, CallError> {
    let hello = HelloV1::new(Lane::Found, 0, 0, name, id);
    let mut connection = hello::connect(&member.peer, &hello).await?;
    let exchange = async {
        let request = RequestV1::Found(question.clone());
        connection.writer.write_all(&frame::encode("request", 0, &request)?).await?;
        let answer = connection.reader.next().await?.ok_or(io::ErrorKind::ConnectionAborted)?;
        match codec::decode("response", &answer.body)? {
            ResponseV1::Found(answer) => Ok(answer),
            other => Err(io::Error::other(format!("unexpected answer: {other:?}"))),
        }
    };
    tokio::time::timeout(hello::HELLO_TIMEOUT, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
        .flatten()
        .map_err(|error| CallError::Unanswered(error.to_string()))
}

/// On a node that is not the founder: answers until it is told its cluster.
async fn wait_for_founder(
    dir: &DataDir,
    listener: &TcpListener,
    name: &str,
    node_id: u64,
    members: Vec<(u64, Member)>,
) -> Result<Identity, BootstrapError> {
    loop {
        let Some((question, asker)) = next_question(listener, name).await else { continue };
        let list_matches = question.members == wire(&members);
        match question.cluster_id {
            Some(cluster_id) if list_matches && cluster_id != 0 => {
                let identity = Identity {
                    cluster_id,
                    node_id,
                    name: name.to_owned(),
                    initial_members: members,
                    to_found: Vec::new(),
                };
                dir.write_identity(&identity)?;
                tracing::info!(
                    cluster_id = format!("{cluster_id:032x}"),
                    "joined the cluster that was formed"
                );
                // If the founder misses the answer it asks again, and finds a member.
                answer(asker, FoundAnswerV1::Member { cluster_id }).await;
                return Ok(identity);
            }
            _ => answer(asker, stand(list_matches, &members)).await,
        }
    }
}

/// On the founder while it is blank: says so to whoever asks.
async fn answer_founder(
    listener: &TcpListener,
    name: &str,
    members: &[(u64, Member)],
) -> std::convert::Infallible {
    loop {
        if let Some((question, asker)) = next_question(listener, name).await {
            answer(asker, stand(question.members == wire(members), members)).await;
        }
    }
}

fn stand(list_matches: bool, members: &[(u64, Member)]) -> FoundAnswerV1 {
    if list_matches { FoundAnswerV1::Blank } else { FoundAnswerV1::OtherList(describe(members)) }
}

type Asker = tokio::net::tcp::OwnedWriteHalf;

async fn next_question(listener: &TcpListener, name: &str) -> Option<(FoundV1, Asker)> {
    let (stream, _) = match listener.accept().await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::warn!(%error, "cannot accept a peer connection");
            tokio::time::sleep(ASK_EVERY).await;
            return None;
        }
    };
    match tokio::time::timeout(hello::HELLO_TIMEOUT, read_question(stream, name)).await {
        Ok(Ok(question)) => question,
        Ok(Err(error)) => {
            tracing::debug!(%error, "peer connection ended");
            None
        }
        Err(_) => None,
    }
}

async fn read_question(stream: TcpStream, name: &str) -> io::Result<Option<(FoundV1, Asker)>> {
    let blank = Own { cluster_id: 0, node_id: 0, name };
    let Some((_, mut reader, writer)) = server::greet(stream, &blank).await? else { return Ok(None) };
    let Some(frame) = reader.next().await? else { return Ok(None) };
    match codec::decode("request", &frame.body)? {
        RequestV1::Found(question) => Ok(Some((question, writer))),
        _ => Ok(None),
    }
}

async fn answer(mut asker: Asker, answer: FoundAnswerV1) {
    let result = async {
        asker.write_all(&frame::encode("response", 0, &ResponseV1::Found(answer))?).await?;
        asker.shutdown().await
    };
    if let Err(error) = result.await {
        tracing::debug!(%error, "the founder did not take the answer");
    }
}

/// On the founder, after its own Raft runs: tells the others, and starts the first term once a
/// majority belongs to the cluster. Ends when everybody does.
pub(crate) async fn finish_founding(dir: Arc<DataDir>, mut identity: Identity, raft: Raft) {
    let majority = identity.initial_members.len() / 2 + 1;
    let mut initialized = match raft.is_initialized().await {
        Ok(initialized) => initialized,
        // Raft is down; the node is stopping.
        Err(_) => return,
    };
    let mut reminded = Instant::now();
    loop {
        let question =
            FoundV1 { cluster_id: Some(identity.cluster_id), members: wire(&identity.initial_members) };
        let before = identity.to_found.len();
        let pending = identity.initial_members.iter().filter(|(id, _)| identity.to_found.contains(id));
        let asked = pending.map(|(id, member)| {
            let (name, question) = (&identity.name, &question);
            async move { (*id, member, ask(name, *id, member, question).await) }
        });
        let mut missing = Vec::new();
        for (id, member, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(FoundAnswerV1::Member { cluster_id }) if cluster_id == identity.cluster_id => {
                    identity.to_found.retain(|pending| *pending != id);
                }
                Ok(other) => missing.push(format!("{member}: {other:?}")),
                Err(error) => missing.push(format!("{member}: {error}")),
            }
        }
        if identity.to_found.len() < before
            && let Err(error) = dir.write_identity(&identity)
        {
            // Asking once more after a restart does no harm.
            tracing::warn!(%error, "cannot note which members are founded");
        }
        if !initialized && identity.initial_members.len() - identity.to_found.len() >= majority {
            let members: BTreeMap<u64, Member> = identity.initial_members.iter().cloned().collect();
            match raft.initialize(members).await {
                Ok(()) => initialized = true,
                Err(error) => tracing::warn!(%error, "cannot start the first term yet"),
            }
        }
        if initialized && identity.to_found.is_empty() {
            return;
        }
        if reminded.elapsed() >= REMIND_EVERY {
            reminded = Instant::now();
            tracing::warn!(missing = missing.join("; "), "initial members that did not join yet");
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn member(name: &str, peer: &str) -> Member {
        Member { name: name.into(), peer: peer.into() }
    }

    #[test]
    fn ids_do_not_depend_on_the_order() {
        let (a, b, c) = (member("a", "h:1"), member("b", "h:2"), member("c", "h:3"));
        let expected = vec![(1, a.clone()), (2, b.clone()), (3, c.clone())];
        assert_eq!(ranked("b", &[c.clone(), a.clone(), b.clone()]).unwrap(), expected);
        assert_eq!(ranked("a", &[b.clone(), c.clone(), a.clone()]).unwrap(), expected);
        let error = ranked("d", &[a.clone(), b]).unwrap_err().to_string();
        assert_eq!(error, "initial_cluster: it lists a,b, but not this node, d");
        let error = ranked("a", &[a.clone(), a]).unwrap_err().to_string();
        assert_eq!(error, "initial_cluster: a name is listed twice");
    }

    struct Node {
        dir: TempDir,
        listener: TcpListener,
    }

    impl Node {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Self { dir: TempDir::new().unwrap(), listener }
        }
        fn member(&self, name: &str) -> Member {
            member(name, &self.listener.local_addr().unwrap().to_string())
        }
        async fn found(&self, name: &str, list: &[Member]) -> Result<Identity, BootstrapError> {
            let (dir, _) = DataDir::open(self.dir.path(), name)?;
            found(&dir, &self.listener, name, ranked(name, list)?).await
        }
    }

    #[tokio::test]
    async fn the_founder_does_not_found_what_exists() {
        let (n1, n2) = (Node::new().await, Node::new().await);
        let list = [n1.member("n1"), n2.member("n2")];
        // n2 already belongs to a cluster: it answers as `Service` does.
        let member = async {
            let (stream, _) = n2.listener.accept().await.unwrap();
            let own = Own { cluster_id: 9, node_id: 2, name: "n2" };
            let (_, mut reader, writer) = server::greet(stream, &own).await.unwrap().unwrap();
            reader.next().await.unwrap().unwrap();
            answer(writer, FoundAnswerV1::Member { cluster_id: 9 }).await;
        };
        let (founded, ()) = tokio::join!(n1.found("n1", &list), member);
        let error = founded.unwrap_err().to_string();
        assert!(error.contains("n2") && error.contains("this node lost its disk"), "{error}");
        assert!(!n1.dir.path().join("identity.json").exists());
    }

    #[tokio::test]
    async fn another_list_does_not_count_as_a_majority() {
        let (n1, n2) = (Node::new().await, Node::new().await);
        let list = [n1.member("n1"), n2.member("n2")];
        let other = [n1.member("n1"), n2.member("n2"), member("n3", "127.0.0.1:1")];
        let waiting = n2.found("n2", &other);
        let asked = async {
            let (id, members) = (2, ranked("n1", &list).unwrap());
            let question = FoundV1 { cluster_id: None, members: wire(&members) };
            let stands = ask("n1", id, &list[1], &question).await.unwrap();
            let told = FoundV1 { cluster_id: Some(5), members: wire(&members) };
            (stands, ask("n1", id, &list[1], &told).await.unwrap())
        };
        tokio::select! {
            founded = waiting => panic!("founded with another list: {founded:?}"),
            (stands, told) = asked => {
                assert!(matches!(stands, FoundAnswerV1::OtherList(list) if list.contains("n3")));
                assert!(matches!(told, FoundAnswerV1::OtherList(_)));
            }
        }
    }
}
