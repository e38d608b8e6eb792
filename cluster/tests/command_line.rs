//! `hearth` against real nodes: every command, and while nodes are killed or hang.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use hearth_cli::commands::failure::Failure;
use hearth_cli::commands::output::Output;
use hearth_cli::commands::{self, Cli};
use hearth_cli::endpoint::Endpoint;
use hearth_cluster::{Cluster, Options, wait};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);

/// A command line that begins with some of the nodes.
struct Hearth {
    endpoints: String,
}

/// What a command printed on stdout and stderr.
struct Printed {
    stdout: String,
    notes: String,
}

impl Hearth {
    fn new(endpoints: &[Endpoint]) -> Self {
        let endpoints: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
        Self { endpoints: endpoints.join(",") }
    }

    /// Runs `hearth ARGS`, with `ARGS` split at blanks.
    async fn run(&self, args: &str) -> (Printed, Result<(), Failure>) {
        let args = ["hearth", "--endpoints", &self.endpoints].into_iter().chain(args.split(' '));
        let cli = Cli::try_parse_from(args).unwrap();
        let (mut stdout, mut notes) = (Vec::new(), Vec::new());
        let mut output = Output::to_writers(cli.output, &mut stdout, &mut notes);
        let result = commands::run(cli, &mut output).await;
        drop(output);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (Printed { stdout: text(stdout), notes: text(notes) }, result)
    }

    /// What a command prints that must succeed.
    async fn ok(&self, args: &str) -> Result<String> {
        let (printed, result) = self.run(args).await;
        result.with_context(|| format!("hearth {args}"))?;
        ensure!(printed.notes.is_empty(), "hearth {args}: {}", printed.notes);
        Ok(printed.stdout)
    }

    /// The same as JSON.
    async fn json(&self, args: &str) -> Result<Value> {
        let text = self.ok(&format!("{args} -o json")).await?;
        serde_json::from_str(&text).with_context(|| format!("hearth {args}: {text}"))
    }

    /// The message of a command that must fail, after it printed nothing.
    async fn refused(&self, args: &str) -> Result<String> {
        match self.run(args).await {
            (printed, Err(failure)) if printed.stdout.is_empty() => Ok(failure.to_string()),
            (printed, result) => bail!("hearth {args}: {result:?} after {:?}", printed.stdout),
        }
    }
}

#[tokio::test]
async fn keys_and_their_conditions() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let [first, second, third] = &cluster.endpoints()[..] else { panic!() };
    let [a, b, c] = [first, second, third].map(|endpoint| Hearth::new(std::slice::from_ref(endpoint)));

    let created = a.json("kv put k one --if-absent").await.unwrap();
    assert_eq!(created["created"], true);
    assert_eq!(b.ok("kv get k").await.unwrap(), "one");
    let refused = b.refused("kv put k two --if-absent").await.unwrap();
    assert!(refused.contains(&format!("has revision {} (status 412", created["revision"])), "{refused}");
    let wrong = c.refused(&format!("kv put k two --if-match {}", 999_999)).await.unwrap();
    assert!(wrong.contains("precondition_failed"), "{wrong}");
    let right = format!("kv put k two --if-match {}", created["revision"]);
    assert!(c.ok(&right).await.unwrap().starts_with("updated, revision "));
    assert!(a.refused("kv delete none --if-match *").await.unwrap().contains("precondition_failed"));

    a.ok("kv put t x --ttl 1h --content-type x/y").await.unwrap();
    let found = b.json("kv get t").await.unwrap();
    assert_eq!((&found["content_type"], &found["value"]), (&"x/y".into(), &"x".into()));
    let left_ms = found["expires_in_ms"].as_u64().unwrap();
    // A millisecond more than asked for: clocks are cut to milliseconds, and no key ends early for it.
    assert!((3_500_000..=3_600_001).contains(&left_ms), "{found}");
    for freshness in ["--consistency local", "--max-staleness 10s", "--consistency linearizable"] {
        assert_eq!(a.ok(&format!("kv get t {freshness}")).await.unwrap(), "x");
    }

    // The same write under the same key, through any node, is the same write.
    let first = a.ok("kv put once v --idempotency-key p-1").await.unwrap();
    for hearth in [&a, &b, &c] {
        assert_eq!(hearth.ok("kv put once v --idempotency-key p-1").await.unwrap(), first);
    }
    let reused = b.refused("kv put once w --idempotency-key p-1").await.unwrap();
    assert!(reused.contains("idempotency_key_reused"), "{reused}");

    assert_eq!(a.ok("kv delete k").await.unwrap(), "deleted\n");
    assert_eq!(b.refused("kv delete k").await.unwrap(), "there is no key \"k\"");
    assert_eq!(c.refused("kv get k").await.unwrap(), "there is no key \"k\"");
}

#[tokio::test]
async fn lists_transactions_ages_and_numbers() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let hearth = Hearth::new(&cluster.endpoints());
    for n in 0..5 {
        hearth.ok(&format!("kv put list/{n} v{n}")).await.unwrap();
    }
    let keys = |text: &str| -> Vec<String> {
        let key = |line| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned();
        text.lines().map(key).collect()
    };
    let listed = keys(&hearth.ok("kv list list/ --all -o json").await.unwrap());
    assert_eq!(listed, ["list/0", "list/1", "list/2", "list/3", "list/4"]);
    let backwards = hearth.ok("kv list list/ --reverse --after list/3 --values -o json").await.unwrap();
    assert_eq!(keys(&backwards), ["list/2", "list/1", "list/0"]);
    assert!(backwards.contains(r#""value":"v2""#), "{backwards}");
    let (page, result) = hearth.run("kv list list/ --limit 2").await;
    result.unwrap();
    assert_eq!(page.stdout.lines().count(), 3, "{}", page.stdout);
    assert_eq!(page.notes, "hearth: there are more keys: --after \"list/1\", or --all\n");
    assert_eq!(hearth.ok("kv delete --prefix list/ --yes").await.unwrap(), "deleted 5 keys\n");
    assert_eq!(hearth.ok("kv list list/ -o json").await.unwrap(), "");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("txn.json");
    let txn = r#"{"if":[{"key":"lock","exists":false}],
        "then":[{"op":"put","key":"lock","text":"me","ttl":"1h"},{"op":"add","key":"taken"}],
        "else":[{"op":"get","key":"lock"}]}"#;
    std::fs::write(&file, txn).unwrap();
    let command = format!("kv txn {}", file.display());
    let taken = hearth.json(&command).await.unwrap();
    assert_eq!((&taken["succeeded"], &taken["results"][1]["result"]), (&true.into(), &1.into()));
    let text = hearth.ok(&command).await.unwrap();
    assert!(text.starts_with("a condition does not hold: else, revision "), "{text}");
    assert!(text.contains("get  lock  revision "), "{text}");
    std::fs::write(&file, r#"{"then":[{"op":"add","key":"lock"}]}"#).unwrap();
    let refused = hearth.refused(&command).await.unwrap();
    assert!(refused.contains("then[0]: add: the value is not a decimal integer"), "{refused}");

    for _ in 0..2 {
        let added = hearth.json("age put Ann 41 --idempotency-key a-1").await.unwrap();
        assert_eq!(added["age"], 41);
    }
    hearth.ok("age put Ann 42").await.unwrap();
    assert_eq!(hearth.ok("age get Ann").await.unwrap(), "NAME  AGE\nAnn   41\nAnn   42\n");
    assert_eq!(hearth.ok("age delete Ann").await.unwrap(), "deleted\n");
    assert_eq!(hearth.ok("age get Ann -o json").await.unwrap(), "[]\n");

    let sums = hearth.ok("cpu --count 3").await.unwrap();
    let near = |line: &str| (4_900_000..5_100_000).contains(&line.parse::<u32>().unwrap());
    assert!(sums.lines().count() == 3 && sums.lines().all(near), "{sums}");
    assert!(near(hearth.ok("cpu").await.unwrap().trim()));
    let status: u8 = hearth.ok("local-program").await.unwrap().trim().parse().unwrap();
    assert!(status <= 99);
    assert_eq!(hearth.ok("health").await.unwrap().lines().count(), 3);
    assert_eq!(hearth.json("status").await.unwrap()["members"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_get_through_while_leaders_are_killed_and_hang() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let mut expected = String::from("NAME  AGE\n");
    for round in 0..4u8 {
        let leader = cluster.leader().await.unwrap();
        // The node that goes is the first to be asked.
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(leader);
        let hearth = Hearth::new(&endpoints);
        let hangs = round % 2 == 1;
        if hangs {
            cluster.pause(leader).unwrap()
        } else {
            cluster.kill(leader).unwrap()
        }
        let began = Instant::now();
        hearth.ok(&format!("age put n {round} --timeout 30s")).await.unwrap();
        println!("{}: {:?}", if hangs { "leader hangs" } else { "leader killed" }, began.elapsed());
        hearth.ok(&format!("kv put k {round} --timeout 30s")).await.unwrap();
        expected.push_str(&format!("n     {round}\n"));
        assert_eq!(hearth.ok("age get n --timeout 30s").await.unwrap(), expected);
        assert_eq!(hearth.ok("kv list k --values --timeout 30s").await.unwrap().lines().count(), 2);
        if hangs { cluster.resume(leader).unwrap() } else { cluster.restart(leader).await.unwrap() }
    }
    // What was sent to nodes that hung has arrived there by now: it is not applied twice.
    cluster.wait_converged().await.unwrap();
    let hearth = Hearth::new(&cluster.endpoints());
    assert_eq!(hearth.ok("age get n").await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_writes_fail_in_time_and_local_reads_go_on() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let hearth = Hearth::new(&cluster.endpoints());
    hearth.ok("kv put k v").await.unwrap();
    cluster.wait_converged().await.unwrap();
    cluster.kill(0).unwrap();
    cluster.kill(1).unwrap();
    let began = Instant::now();
    let refused = hearth.refused("kv put k w --timeout 3s").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    println!("without a quorum: {refused}");
    assert_eq!(hearth.ok("kv get k --consistency local").await.unwrap(), "v");
    assert!(hearth.ok("status").await.unwrap().contains("QUORUM LOST"));
    let (health, result) = hearth.run("health").await;
    assert!(matches!(result, Err(Failure::Reported)), "{}", health.stdout);
    hearth.ok("cpu").await.unwrap();

    cluster.restart_all().await.unwrap();
    let found = hearth.ok("kv get k").await.unwrap();
    assert!(found == "v" || found == "w", "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_another_node() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let hearth = Hearth::new(&cluster.endpoints());
    let before = hearth.json("kv put before x").await.unwrap()["revision"].clone();
    // The first endpoint's node is the one that goes.
    let args = format!("watch w/ --after {before} --limit 3 -o json");
    let watch = tokio::time::timeout(BOUND, hearth.run(&args));
    let (ended, put) = tokio::join!(watch, async {
        let put = hearth.json("kv put w/1 one --ttl 1h").await.unwrap();
        let node = cluster.node(0).client.clone();
        wait::until(BOUND, "the stream is open", async || match node.metric("hearth_watch_streams").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?} streams")),
        })
        .await
        .unwrap();
        cluster.kill(0).unwrap();
        hearth.ok("kv put w/2 two --timeout 30s").await.unwrap();
        hearth.ok("kv put other x --timeout 30s").await.unwrap();
        hearth.ok("kv delete w/1 --timeout 30s").await.unwrap();
        put
    });
    let (printed, result) = ended.unwrap();
    result.unwrap();
    let events: Vec<Value> = printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<(&str, &str)> = events
        .iter()
        .map(|event| (event["event"].as_str().unwrap(), event["key"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, [("put", "w/1"), ("put", "w/2"), ("delete", "w/1")]);
    assert_eq!((&events[0]["revision"], &events[0]["value"]), (&put["revision"], &"one".into()));
    println!("{}", printed.notes);
    assert!(printed.notes.contains("resuming after") && printed.notes.contains("watching again at"));
}
