//! The commands of `hearth`: one command, one file.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, Options, Token};
use crate::endpoint::Endpoint;
use failure::Failure;
use output::{Format, Output};

pub mod age;
pub mod arguments;
mod confirm;
pub mod cpu;
mod duration;
pub mod failure;
pub mod health;
pub mod kv;
pub mod local_program;
pub mod output;
pub mod status;
pub mod usage;

/// The command line for a Hearth cluster
#[derive(Debug, Parser)]
#[command(name = "hearth", version, max_term_width = 100)]
#[command(after_help = "\
Every write is sent with an idempotency key: when its answer is lost, it is sent again, and applied once.
Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub struct Cli {
    /// Where the cluster is.
    #[command(flatten)]
    pub connection: Connection,
    /// How to write results: for people, or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How the cluster is reached.
#[derive(Debug, Args)]
pub struct Connection {
    /// Nodes to ask, host:port each; the next one is tried when one is down
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        env = "HEARTH_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,…",
        default_value = "127.0.0.1:8080,127.0.0.1:8081,127.0.0.1:8082"
    )]
    pub endpoints: Vec<Endpoint>,
    /// Token to authenticate with; prefer the variable, as arguments are visible to other users
    #[arg(long, global = true, help_heading = "Connection", env = "HEARTH_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// How long a request may take, all nodes together: 500ms, 10s, 2m
    #[arg(long, global = true, help_heading = "Connection", default_value = "10s", value_parser = duration::parse)]
    pub timeout: Duration,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show every member of the cluster, its leader and its quorum
    Status(status::Status),
    /// Ask each endpoint whether it is ready; fails when any is not
    Health(health::Health),
    /// Read, write, list and watch keys
    #[command(subcommand)]
    Kv(kv::Kv),
    /// Show changes of keys as they happen: the same as `kv watch`
    Watch(kv::watch::Watch),
    /// Read and write ages
    #[command(subcommand)]
    Age(age::Age),
    /// Have a node add up 100,000 random numbers
    Cpu(cpu::Cpu),
    /// Have a node run its local program, and show the exit code
    LocalProgram(local_program::LocalProgram),
}

/// Does what the command line asks for, and writes the result to `output`.
pub async fn run(cli: Cli, output: &mut Output<'_>) -> Result<(), Failure> {
    let client = cli.connection.client()?;
    match cli.command {
        Command::Status(command) => command.run(&client, output).await,
        Command::Health(command) => command.run(&client, output).await,
        Command::Kv(command) => command.run(&client, output).await,
        Command::Watch(command) => command.run(&client, output).await,
        Command::Age(command) => command.run(&client, output).await,
        Command::Cpu(command) => command.run(&client, output).await,
        Command::LocalProgram(command) => command.run(&client, output).await,
    }
}

impl Connection {
    /// A client for these endpoints.
    pub fn client(self) -> Result<Client, Failure> {
        let defaults = Options::default();
        let options = Options {
            connect_timeout: defaults.connect_timeout.min(self.timeout),
            request_timeout: self.timeout,
            token: self.token.filter(|token| !token.is_empty()),
            ..defaults
        };
        Ok(Client::new(self.endpoints, options)?)
    }
}

#[cfg(test)]
mod tests;
