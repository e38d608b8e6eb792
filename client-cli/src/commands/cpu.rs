//! `hearth cpu`: sums of random numbers.

use super::failure::Failure;
use super::output::{Format, Output};
use crate::client::Client;

/// Has a node add up 100,000 random numbers from 0 to 100, and writes the sum.
#[derive(Debug, clap::Args)]
#[command(after_help = "With -o json: the number, and with --count an array of numbers.")]
pub struct Cpu {
    /// How many such sums, one to a line, at most 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub count: Option<u16>,
}

impl Cpu {
    /// Asks and writes the sums.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let Some(count) = self.count else { return output.json(&client.cpu().await?) };
        let sums = client.cpu_sums(count).await?;
        match output.format {
            Format::Json => output.json(&sums),
            Format::Table => sums.iter().try_for_each(|sum| output.json(sum)),
        }
    }
}
