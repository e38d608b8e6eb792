//! `hearth age`: lists of ages under a name.

use super::failure::Failure;
use super::output::Output;
use crate::client::Client;

pub mod delete;
pub mod get;
pub mod put;

/// What to do with the ages of a name.
#[derive(Debug, clap::Subcommand)]
pub enum Age {
    /// Add an age to the list of a name
    Put(put::Put),
    /// Show the ages of a name, oldest entry first
    Get(get::Get),
    /// Forget the ages of a name
    Delete(delete::Delete),
}

impl Age {
    /// Runs the command.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match self {
            Self::Put(command) => command.run(client, output).await,
            Self::Get(command) => command.run(client, output).await,
            Self::Delete(command) => command.run(client, output).await,
        }
    }
}
