//! The parts of the measurement. Each starts its own servers and prints its own lines.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_cluster::load::http1::{get, put};
use hearth_cluster::measurement::Servers;
use hearth_cluster::{Cluster, binary, wait};
use tempfile::NamedTempFile;

use crate::load::{self, Background, Seen, Until};
use crate::old_way;

/// A route that asks for nothing.
const EMPTY: &str = "/livez";
/// Requests of a burst.
const BURST: u64 = 10_000;
/// Calls at once without the lock file.
const SLOW_CALLS: usize = 200;
/// How long a pool may take to fill.
const FILL_BOUND: Duration = Duration::from_secs(60);
/// Connections that write in `yield`.
const WRITERS: usize = 6;

/// How to measure.
pub struct Measure {
    pub rounds: u32,
    pub window: Duration,
    /// Of full compute load.
    pub loaded: Duration,
    pub connections: u32,
    /// Connections that compute on each node in `yield`.
    pub cpu_callers: usize,
    pub program_callers: usize,
    pub servers: Servers,
}

impl Measure {
    fn requests(&self, address: SocketAddr, path: &str) -> Vec<(SocketAddr, Vec<u8>)> {
        vec![(address, get(path)); self.connections as usize]
    }

    /// `/cpu` live against the empty route.
    pub async fn cpu(&self) -> Result<()> {
        let cluster =
            self.servers.start(1, &["--compute-cpu-pool=0", "--compute-local-program-pool=0"]).await?;
        let address = cluster.node(0).http;
        let window = Until::Window(self.window);
        let (mut empty, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            empty.push(load::run(self.requests(address, EMPTY), window).await?.rate());
            cpu.push(load::run(self.requests(address, "/cpu"), window).await?.rate());
        }
        let many = load::run(self.requests(address, "/cpu?count=100"), window).await?.rate() * 100.0;
        let (empty, cpu) = (median(empty), median(cpu));
        println!(
            "cpu      {EMPTY} {empty:.0}/s, /cpu live {cpu:.0}/s: {:.1} % (wanted: 70)",
            percent(cpu, empty)
        );
        println!("cpu      /cpu?count=100: {many:.0} sums/s");
        Ok(())
    }

    /// A burst out of the pool against one of the empty route.
    pub async fn burst(&self) -> Result<()> {
        let cluster = self.servers.start(1, &["--compute-local-program-pool=0"]).await?;
        let node = cluster.node(0);
        let ready = "hearth_compute_pool_ready";
        let taken = "hearth_compute_source_total{endpoint=\"cpu\",source=\"pool\"}";
        let (mut empty, mut burst, mut from_pool) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.rounds * 3 {
            wait::until(FILL_BOUND, "the pool is full", async || match node.client.metric(ready).await {
                Ok(results) if results >= BURST => Ok(()),
                Ok(results) => Err(format!("{results} ready")),
                Err(error) => Err(format!("{error:#}")),
            })
            .await?;
            let until = Until::Answers(BURST);
            empty.push(load::run(self.requests(node.http, EMPTY), until).await?.rate());
            let before = node.client.metric(taken).await.unwrap_or(0);
            burst.push(load::run(self.requests(node.http, "/cpu"), until).await?.rate());
            from_pool += node.client.metric(taken).await.unwrap_or(0) - before;
        }
        let (empty, burst) = (median(empty), median(burst));
        let share = from_pool as f64 / (BURST * u64::from(self.rounds * 3)) as f64 * 100.0;
        println!(
            "burst    {BURST} of {EMPTY} {empty:.0}/s, of /cpu {burst:.0}/s: {:.1} % (wanted: 95), {share:.1} % from the pool",
            percent(burst, empty)
        );
        Ok(())
    }

    /// `/local_program` live against the old way.
    pub async fn program(&self) -> Result<()> {
        let lock = NamedTempFile::new().context("a lock file")?;
        let variable = format!("--compute-local-program-env=VERY_IMPORTANT_LOCK={}", lock.path().display());
        let cluster = self
            .servers
            .start(1, &[&variable, "--compute-local-program-pool=0", "--compute-cpu-pool=0"])
            .await?;
        let program = binary::hearthd()?.with_file_name("very_important_value");
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            old.push(old_way::rate(&program, lock.path(), self.window).await?);
            let requests = self.requests(cluster.node(0).http, "/local_program");
            new.push(load::run(requests, Until::Window(self.window)).await?.rate());
        }
        let (old, new) = (median(old), median(new));
        println!(
            "program  os.system {old:.0}/s, /local_program live {new:.0}/s: {:.2} times (wanted: 3), {:.2} times 480/s",
            new / old,
            new / 480.0
        );
        Ok(())
    }

    /// Many slow programs at once.
    pub async fn slow(&self) -> Result<()> {
        let directory = tempfile::tempdir().context("a directory")?;
        let missing = directory.path().join("lock");
        let variable = format!("--compute-local-program-env=VERY_IMPORTANT_LOCK={}", missing.display());
        let cluster = self.servers.start(1, &[&variable, "--compute-local-program-pool=0"]).await?;
        let address = cluster.node(0).http;
        let calls = vec![(address, get("/local_program")); SLOW_CALLS];
        let begun = Instant::now();
        let others = load::run(vec![(address, get(EMPTY)); 4], Until::Window(Duration::from_millis(2500)));
        let (slow, others) = tokio::join!(load::run(calls, Until::Answers(SLOW_CALLS as u64)), others);
        let (slow, others) = (slow?, others?);
        println!(
            "slow     {SLOW_CALLS} calls without the lock file: the last after {:.3} s (wanted: 3.5), all in {:.3} s; {EMPTY} meanwhile p99 {:.2} ms",
            slow.ms(1.0) / 1000.0,
            begun.elapsed().as_secs_f64(),
            others.ms(0.99)
        );
        Ok(())
    }

    /// Writes, without and with all the compute that there can be.
    pub async fn yields(&self) -> Result<()> {
        let lock = NamedTempFile::new().context("a lock file")?;
        let variable = format!("--compute-local-program-env=VERY_IMPORTANT_LOCK={}", lock.path().display());
        let mut cluster = self.servers.start(3, &[&variable]).await?;
        cluster.leader().await?;
        let writes: Vec<_> = (0..WRITERS)
            .map(|i| (cluster.node(i % 3).http, put(&format!("/v1/kv/yield{i}"), &"v".repeat(256))))
            .collect();
        let alone = || load::run(writes.clone(), Until::Window(self.loaded / 4));
        let mut quiet = alone().await?;
        let terms = terms(&cluster).await?;

        let requests = cluster.nodes().iter().flat_map(|node| {
            let cpu = vec![(node.http, get("/cpu")); self.cpu_callers];
            cpu.into_iter().chain(vec![(node.http, get("/local_program")); self.program_callers])
        });
        let background = Background::start(requests.collect())?;
        let before = background.answers();
        let loaded = load::run(writes.clone(), Until::Window(self.loaded)).await?;
        let computed = (background.answers() - before) as f64 / loaded.elapsed.as_secs_f64();
        background.stop()?;
        let after = self::terms(&cluster).await?;
        quiet.add(&alone().await?)?;

        let line = |seen: &Seen| {
            format!(
                "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms",
                seen.rate(),
                seen.ms(0.5),
                seen.ms(0.99),
                seen.ms(1.0)
            )
        };
        println!("yield    writes alone: {}", line(&quiet));
        println!("yield    writes under {computed:.0} compute answers/s: {}", line(&loaded));
        println!(
            "yield    p99 {:.2} times (wanted: 3), terms {terms:?} before and {after:?} after (wanted: the same)",
            loaded.ms(0.99) / quiet.ms(0.99)
        );
        Ok(())
    }
}

async fn terms(cluster: &Cluster) -> Result<Vec<u64>> {
    let mut terms = Vec::new();
    for node in cluster.nodes() {
        terms.push(node.client.metric("hearth_raft_term").await?);
    }
    Ok(terms)
}

fn percent(part: f64, whole: f64) -> f64 {
    part / whole * 100.0
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
