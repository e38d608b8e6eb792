//! `versus`: Hearth and etcd side by side, three processes each, on this machine's loopback and disk.
//!
//! ```text
//! cluster/versus-etcd                      # installs etcd from Debian's packages, then the whole table
//! cargo run --release -p hearth-cluster --bin versus -- --only put,get --connections 64 --rounds 5
//! cargo run --release -p hearth-cluster --bin versus -- --skip-etcd --seconds 30 -- --log-level warn
//! cargo run --release -p hearth-cluster --bin versus -- --skip-etcd --before old/hearthd --rounds 15 --seconds 1
//! ```
//!
//! The idea: both clusters run all the time, with their default durability (every write fsynced on a
//! majority), each holding the same 100,000 keys with values of 256 bytes. A closed loop loads one of
//! them at a time: N connections, each a TCP connection of its own with one request in flight,
//! connection i to node i % 3, where node 0 is the leader of the moment. For every operation and
//! number of connections the systems take turns, round by round, so that what else the machine does
//! meets both. The table gives medians over the rounds.
//!
//! | operation | Hearth, HTTP/1.1 | etcd, gRPC over HTTP/2 |
//! |---|---|---|
//! | `put` | `PUT /v1/kv/{key}` | `KV/Put` |
//! | `get` | `GET /v1/kv/{key}` | `KV/Range` |
//! | `get-local` | the same with `?consistency=local` | the same with `serializable` |
//! | `empty` | `GET /livez` | nothing like it |
//!
//! The load comes from the processors that the servers run on, so it is made cheap: one thread, bytes
//! prepared before the window, no HTTP or gRPC library above the connection. What it costs is in the
//! table beside what the servers cost.
//!
//! **Where a put's time goes**, of the processor time that the three nodes take together (two processors;
//! `perf record -e cpu-clock --call-graph dwarf` of the servers; parts overlap where one calls another).
//!
//! | at 64 connections | |
//! |---|---|
//! | 36 % | connections of clients: a third of it routes and handlers, a third the kernel sending answers |
//! | 15 % | applying to three states: a quarter of it is finding the key, cold in every cache |
//! | 15 % | the connections between nodes |
//! | 12 % | openraft's core, with what it appends to the log |
//! | 9 % | the threads that write the log; fdatasync is 5 % |
//! | 8 % | looking for work, sleeping and waking: epoll and futex |
//! | 11 % | memory, in all of the above: allocating and copying |
//!
//! Before the log was filled with zeros ahead, fdatasync and what it makes threads switch was 20 %. A finer look at what
//! is spent while puts come at 64 connections, of all that both processors do: the kernel 47 % (a half of it TCP, a
//! quarter the disk), the maps of the state 13, HTTP 7, tokio 6, copying 6, openraft 5, the allocator 3. Finding a key
//! is 1.3 µs on each node, most of it waiting for nodes of the map that are in no cache; huge pages do not change that.
//!
//! Checkpoints come on top, a third of the time at full load. 55 s of puts with them, at 64 connections: 30,200/s and
//! 51 µs of processor time each; 27,000/s and 59 µs when sled still had its pages rewritten late, see hearth-raft's
//! `state/generation.rs`. A linearizable get cannot be faster than a route that does nothing: `empty`, 12 to 22
//! times etcd's get.
//!
//! **Tried on a put, and not kept.** Raft on a thread of its own: put 1 1.14 times, put 64
//! 0.99, put 256 0.94, gets 0.86. One runtime thread for each node: put 64 1.04 times, but a node of its own
//! machine would not use the rest of it. One round in flight instead of two: put 64 0.88 times, put 256 1.01; three:
//! 0.97 and 1.01; the second one with half as many commands: 1.00 and 1.01. Direct writes to the log's files take 8 µs
//! of the 31 that a write and fdatasync take (`O_DIRECT | O_DSYNC`, alone), some 2 % of a put, and need blocks of 4 KiB:
//! not built. News
//! of a commit held for 1 ms to travel with entries: p50 of put 1 0.95 times, but a client misses its own write in
//! a local read on the follower that it wrote through.
//!
//! Known shortcomings: client and servers share the processors, so a throughput here is not what a
//! machine of its own would give; the client's one thread can be the limit (the table says when);
//! etcd's history of revisions is never compacted, as it is by default; work that comes once in many
//! thousands of writes, like a checkpoint, meets some windows of a slow cell and not others, so that
//! their median leaves it out, while a fast cell has it in every window.

mod connection;
mod cpu;
mod etcd;
mod load;
mod options;
mod preload;
mod report;
mod round;
mod servers;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_cluster::load::Operation;
use hearth_cluster::{binary, machine, measurement, seed};

use crate::load::Load;
use crate::options::{Options, System, is_known_to};
use crate::report::Report;
use crate::round::Round;
use crate::servers::Servers;

/// Load after the keys are written and before anything is measured. At 100,000 writes both systems
/// have a snapshot or checkpoint due, or nearly so: without this, it is the first cell that pays.
const SETTLING: Load = Load {
    operation: Operation::Put,
    connections: 64,
    warmup: Duration::ZERO,
    window: Duration::from_secs(1),
};

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), compare)
}

async fn compare(options: Options) -> Result<()> {
    seed::seed();
    let mut temporary = tempfile::Builder::new();
    let temporary = temporary.prefix("hearth-versus-");
    let directory = match &options.directory {
        Some(parent) => temporary.tempdir_in(parent),
        None => temporary.tempdir(),
    };
    let directory = directory.context("make the data directory")?;
    let machine = machine::describe(directory.path())?;
    println!("{machine}");

    let systems = start(&options, directory.path()).await?;
    for servers in &systems {
        let began = Instant::now();
        preload::run(servers).await.with_context(|| servers.log_tails())?;
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("{}: {} keys written in {seconds:.1} s", servers.version, load::KEYS);
    }
    for servers in &systems {
        load::run(&SETTLING, servers, &systems).await.with_context(|| servers.log_tails())?;
    }
    let programs = systems.iter().map(|servers| servers.version.clone()).collect();
    let report = Report { machine, programs, rounds: measure(&options, &systems).await? };
    println!("{report}");
    match &options.json {
        Some(file) => report.write_json(file),
        None => Ok(()),
    }
}

async fn start(options: &Options, directory: &Path) -> Result<Vec<Servers>> {
    let hearthd = match &options.hearthd {
        Some(path) => path.as_path(),
        None => binary::hearthd()?,
    };
    let mut systems = vec![Servers::start_hearth(System::Hearth, hearthd, directory, &options.flags).await?];
    if let Some(before) = &options.before {
        systems.push(Servers::start_hearth(System::Before, before, directory, &options.flags).await?);
    }
    if !options.skip_etcd {
        systems.push(Servers::start_etcd(&options.etcd, directory).await?);
    }
    Ok(systems)
}

/// All rounds of all cells, the systems taking turns within a cell.
async fn measure(options: &Options, systems: &[Servers]) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for operation in &options.only {
        for connections in &options.connections {
            for number in 1..=options.rounds {
                for servers in systems.iter().filter(|servers| is_known_to(*operation, servers.system)) {
                    let load = Load {
                        operation: *operation,
                        connections: *connections,
                        warmup: options.warmup(),
                        window: options.window(),
                    };
                    let measured = load::run(&load, servers, systems).await;
                    let measured = measured.with_context(|| servers.log_tails())?;
                    let round = Round::new(&load, servers.system, number, &measured);
                    eprintln!("{round}");
                    rounds.push(round);
                }
            }
        }
    }
    Ok(rounds)
}
