//! `hearth age get`

use crate::client::Client;
use crate::commands::arguments::Freshness;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};

/// Shows the ages of a name, oldest entry first; none for an unknown name.
#[derive(Debug, clap::Args)]
#[command(after_help = "With -o json: [[\"name\",age],…], empty for an unknown name.")]
pub struct Get {
    /// The name
    pub name: String,
    /// How fresh the answer must be.
    #[command(flatten)]
    pub freshness: Freshness,
}

impl Get {
    /// Asks, and writes the list.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let ages = client.age_get(&self.name, self.freshness.consistency()).await?;
        match output.format {
            Format::Json => output.json(&ages),
            Format::Table => {
                let rows = ages.into_iter().map(|(name, age)| [name, age.to_string()]).collect();
                output.table(["NAME", "AGE"], rows)
            }
        }
    }
}
