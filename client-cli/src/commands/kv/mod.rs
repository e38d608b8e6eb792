//! `hearth kv`: keys and values.

use super::failure::Failure;
use super::output::Output;
use crate::client::Client;

pub mod delete;
pub mod get;
pub mod put;

/// What to do with a key.
#[derive(Debug, clap::Subcommand)]
pub enum Kv {
    /// Write the value of a key to stdout, or to a file
    Get(get::Get),
    /// Set a key to a value
    Put(put::Put),
    /// Delete a key
    Delete(delete::Delete),
}

impl Kv {
    /// Runs the command.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match self {
            Self::Get(command) => command.run(client, output).await,
            Self::Put(command) => command.run(client, output).await,
            Self::Delete(command) => command.run(client, output).await,
        }
    }
}

/// The failure for a key that must exist.
fn missing(key: &str) -> Failure {
    Failure::Failed(format!("there is no key {key:?}"))
}
