//! `hearth local-program`: one run of the local program.

use super::failure::Failure;
use super::output::Output;
use crate::client::Client;

/// Has a node run its local program, and writes the exit code of that, in either format.
#[derive(Debug, clap::Args)]
pub struct LocalProgram {}

impl LocalProgram {
    /// Asks and writes the exit code; it is the result, and not that of `hearth`.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        output.json(&client.local_program().await?)
    }
}
