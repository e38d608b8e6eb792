//! `compute`: what the compute endpoints give, and what they take from the store.
//!
//! ```text
//! cargo run --release -p hearth-cluster --bin compute
//! cargo run --release -p hearth-cluster --bin compute -- --only cpu,burst --seconds 10
//! ```
//!
//! | part | what is measured | what is wanted |
//! |---|---|---|
//! | `cpu` | `/cpu` live against `/livez`, an empty route, on the same node | 70 % of its throughput |
//! | `burst` | 10,000 requests of `/cpu` with a full pool against 10,000 of `/livez` | 95 % |
//! | `program` | `/local_program` live against `os.system` in Python on one thread | three times as many |
//! | `slow` | 200 calls of `/local_program` at once without its lock file | all answered within 3.5 s |
//! | `yield` | writes while every node of three computes all it can for a minute | no election, p99 at most three times that without |
//!
//! Every load is a closed loop: N connections with one request in flight each. What is compared takes turns,
//! round by round, and the median counts, so that what else the machine does meets both.
//!
//! Known shortcomings: clients and servers share the processors. The threads that load compute in `yield` get
//! only what is left over, because they stand for other machines; those that write do not.

mod load;
mod old_way;
mod parts;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use hearth_cluster::measurement::{self, Servers};

/// Measures the compute endpoints.
#[derive(Debug, Parser)]
struct Arguments {
    /// Parts measured, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "cpu,burst,program,slow,yield")]
    only: Vec<Part>,
    /// Seconds of each window.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of full compute load in `yield`.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    yield_seconds: u64,
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Connections that ask each node for `/cpu` in `yield`.
    #[arg(long, default_value_t = 32)]
    cpu_callers: usize,
    /// Connections that ask each node for `/local_program` in `yield`.
    #[arg(long, default_value_t = 8)]
    program_callers: usize,
    #[command(flatten)]
    servers: Servers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cpu,
    Burst,
    Program,
    Slow,
    Yield,
}

fn main() -> ExitCode {
    measurement::run(env!("CARGO_BIN_NAME"), measure)
}

async fn measure(arguments: Arguments) -> Result<()> {
    let measure = parts::Measure {
        rounds: arguments.rounds,
        window: Duration::from_secs(arguments.seconds),
        loaded: Duration::from_secs(arguments.yield_seconds),
        connections: arguments.connections,
        cpu_callers: arguments.cpu_callers,
        program_callers: arguments.program_callers,
        servers: arguments.servers,
    };
    for part in arguments.only {
        match part {
            Part::Cpu => measure.cpu().await?,
            Part::Burst => measure.burst().await?,
            Part::Program => measure.program().await?,
            Part::Slow => measure.slow().await?,
            Part::Yield => measure.yields().await?,
        }
    }
    Ok(())
}
