//! `hearth cpu`: one sum of random numbers.

use super::failure::Failure;
use super::output::Output;
use crate::client::Client;

/// Has a node add up 100,000 random numbers from 0 to 100, and writes the sum, in either format.
#[derive(Debug, clap::Args)]
pub struct Cpu {}

impl Cpu {
    /// Asks and writes the sum.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        output.json(&client.cpu().await?)
    }
}
