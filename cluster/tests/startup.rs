//! How nodes start and stop: one cluster whatever the order of the members, a clear refusal with
//! nothing touched when something is wrong, leadership handed over at a graceful stop.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use hearth_cluster::address::{free_address, own_loopback};
use hearth_cluster::cluster::node_arguments;
use hearth_cluster::process::run_to_exit;
use hearth_cluster::{Cluster, Options};
use rustix::process::Signal;

const EXIT_BOUND: Duration = Duration::from_secs(20);
/// Well below an election timeout: the next leader was told, it did not have to notice.
const HANDOVER_BOUND: Duration = Duration::from_millis(500);

/// Everything below a path: modification time and content of files, modification time of directories.
type Listing = BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)>;

fn listing(path: &Path) -> Result<Listing> {
    let mut found = Listing::new();
    let mut open = vec![path.to_path_buf()];
    while let Some(path) = open.pop() {
        let metadata = std::fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        let content = if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            None
        } else {
            Some(std::fs::read(&path)?)
        };
        found.insert(path, (metadata.modified()?, content));
    }
    Ok(found)
}

/// A start that must fail.
struct BadStart<'a> {
    what: &'a str,
    arguments: Vec<String>,
    code: i32,
    /// What stderr must name.
    names: Vec<String>,
    /// What must stay as it is.
    untouched: &'a Path,
}

impl BadStart<'_> {
    async fn check(self) -> Result<()> {
        let Self { what, arguments, code, names, untouched } = self;
        let before = listing(untouched)?;
        let output = run_to_exit(&arguments, EXIT_BOUND).await.context(what.to_owned())?;
        let after = listing(untouched)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        println!("{what}: {}", stderr.trim_end());
        ensure!(output.status.code() == Some(code), "{what}: {}, wanted {code}: {stderr}", output.status);
        for name in names {
            ensure!(stderr.contains(&name), "{what}: no {name:?} in {stderr}");
        }
        ensure!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{what}: {stderr}");
        ensure!(stderr.trim_end().lines().count() == 1, "{what}: more than one line: {stderr}");
        let changed: Vec<_> =
            before.keys().chain(after.keys()).filter(|p| before.get(*p) != after.get(*p)).collect();
        ensure!(changed.is_empty(), "{what}: changed {changed:?}");
        Ok(())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn with(mut arguments: Vec<String>, more: &[&str]) -> Vec<String> {
    arguments.extend(words(more));
    arguments
}

#[tokio::test]
async fn bad_starts_say_why_in_one_line_and_touch_nothing() {
    let mut cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await.unwrap();
    let owner = cluster.node(0);
    let (owned, good, own_peer) = (owner.data_dir.clone(), owner.arguments.clone(), owner.peer);
    let empty = tempfile::tempdir().unwrap();
    let config = cluster.directory().join("unknown.toml");
    std::fs::write(&config, "name = \"n1\"\nno_such_key = 1\n").unwrap();
    let file = cluster.directory().join("a-file");
    std::fs::write(&file, "not a directory").unwrap();

    // Arguments of a single node `name` in `dir` with addresses that nobody uses.
    let fresh = |name: &str, dir: &Path| {
        let (http, peer) = (free_address().unwrap(), free_address().unwrap());
        node_arguments(name, dir, http, peer, &format!("{name}={peer}"))
    };

    // While its owner runs. It stands still, so that what changes on disk is not its doing.
    cluster.pause(0).unwrap();
    let in_use = BadStart {
        what: "data directory in use",
        arguments: fresh("n1", &owned),
        code: 1,
        names: words(&[&owned.display().to_string()]),
        untouched: &owned,
    };
    in_use.check().await.unwrap();
    cluster.resume(0).unwrap();
    assert_eq!(cluster.terminate(0).await.unwrap().code(), Some(0));

    let held = TcpListener::bind((own_loopback(), 0)).unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let other = free_address().unwrap();
    let foreign = format!("n1={own_peer},n2={other},n3={}", free_address().unwrap());
    let owned_path = owned.display().to_string();
    let table = [
        BadStart {
            what: "unknown flag",
            arguments: with(good.clone(), &["--no-such-flag"]),
            code: 2,
            names: words(&["--no-such-flag"]),
            untouched: &owned,
        },
        BadStart {
            what: "flag without its value",
            arguments: with(fresh("n1", empty.path()), &["--log-level"]),
            code: 2,
            names: words(&["--log-level"]),
            untouched: empty.path(),
        },
        BadStart {
            what: "address that is none",
            arguments: words(&[
                "--data-dir",
                &empty.path().display().to_string(),
                "--http-listen",
                "nowhere",
            ]),
            code: 2,
            names: words(&["nowhere"]),
            untouched: empty.path(),
        },
        BadStart {
            what: "unknown key in the file",
            arguments: with(good.clone(), &["--config", &config.display().to_string()]),
            code: 2,
            names: words(&["no_such_key", "unknown.toml"]),
            untouched: &owned,
        },
        BadStart {
            what: "HTTP port in use, new directory",
            arguments: replaced(&fresh("n1", empty.path()), &[("--http-listen", &taken)]),
            code: 1,
            names: words(&[&taken]),
            untouched: empty.path(),
        },
        BadStart {
            what: "HTTP port in use",
            arguments: replaced(&good, &[("--http-listen", &taken)]),
            code: 1,
            names: words(&[&taken]),
            untouched: &owned,
        },
        BadStart {
            what: "peer port in use",
            arguments: replaced(
                &good,
                &[("--peer-listen", &taken), ("--peer-advertise", &own_peer.to_string())],
            ),
            code: 1,
            names: words(&[&taken]),
            untouched: &owned,
        },
        BadStart {
            what: "directory of another node",
            arguments: fresh("other", &owned),
            code: 1,
            names: words(&[&owned_path, "n1", "other"]),
            untouched: &owned,
        },
        BadStart {
            what: "directory of another cluster",
            arguments: replaced(&good, &[("--initial-cluster", &foreign)]),
            code: 1,
            names: words(&[&owned_path, "cluster"]),
            untouched: &owned,
        },
        BadStart {
            what: "a file in place of the directory",
            arguments: fresh("n1", &file),
            code: 1,
            names: words(&[&file.display().to_string()]),
            untouched: cluster.directory(),
        },
        BadStart {
            what: "a directory that cannot be made",
            arguments: fresh("n1", Path::new("/proc/hearth")),
            code: 1,
            names: words(&["/proc/hearth"]),
            untouched: empty.path(),
        },
    ];
    for bad in table {
        bad.check().await.unwrap();
    }

    // Nothing of that hurt: the owner starts again.
    cluster.restart(0).await.unwrap();
}

/// `arguments` with the values of some flags replaced by others, or the flags appended.
fn replaced(arguments: &[String], by: &[(&str, &str)]) -> Vec<String> {
    let mut arguments = arguments.to_vec();
    for (flag, value) in by {
        match arguments.iter().position(|argument| argument == flag) {
            Some(at) => arguments[at + 1] = (*value).to_owned(),
            None => arguments.extend([(*flag).to_owned(), (*value).to_owned()]),
        }
    }
    arguments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_form_one_cluster_once_and_hand_leadership_over_at_a_stop() {
    // The harness tells each node the members in another order.
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let formed = cluster_ids(&cluster).await.unwrap();
    assert!(formed.iter().all(|id| *id == formed[0]), "more than one cluster: {formed:?}");

    // SIGTERM to the leader: another one leads long before it would have missed this one.
    let leader = cluster.leader().await.unwrap();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    cluster.node(leader).process().unwrap().signal(Signal::TERM).unwrap();
    let asked = Instant::now();
    cluster.leader_among(&others).await.unwrap();
    let handed_over = asked.elapsed();
    println!("another leader {} ms after SIGTERM", handed_over.as_millis());
    assert_eq!(cluster.wait_stopped(leader).await.unwrap().code(), Some(0));
    assert!(handed_over < HANDOVER_BOUND, "{handed_over:?}");
    cluster.restart(leader).await.unwrap();

    for i in 0..3 {
        assert_eq!(cluster.terminate(i).await.unwrap().code(), Some(0), "n{}", i + 1);
    }
    cluster.restart_all().await.unwrap();
    assert_eq!(cluster_ids(&cluster).await.unwrap(), formed, "another cluster after a restart");
}

/// Each node's `cluster_id`, with a look at who it thinks the members are.
async fn cluster_ids(cluster: &Cluster) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for node in cluster.nodes() {
        let status = node.client.get_json("v1/cluster").await?;
        let members = status["members"].as_array().context("members")?;
        let names: Vec<_> = members.iter().filter_map(|member| member["name"].as_str()).collect();
        ensure!(names == ["n1", "n2", "n3"], "{}: members {names:?}", node.name);
        let id = &status["cluster_id"];
        ensure!(!id.is_null() && *id != "", "{}: no cluster_id in {status}", node.name);
        ids.push(id.to_string());
    }
    Ok(ids)
}
