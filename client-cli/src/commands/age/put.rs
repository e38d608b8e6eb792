//! `hearth age put`

use crate::client::Client;
use crate::commands::arguments::Once;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};

/// Adds an age to the end of the list of a name.
#[derive(Debug, clap::Args)]
#[command(after_help = "With -o json: {\"name\",\"age\",\"revision\"}.")]
pub struct Put {
    /// The name
    pub name: String,
    /// The age in years, 0 to 150
    #[arg(value_parser = clap::value_parser!(u8).range(0..=150))]
    pub age: u8,
    /// Makes it safe to send it again.
    #[command(flatten)]
    pub once: Once,
}

impl Put {
    /// Adds, and says which revision it got.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let written = client.age_put(&self.name, self.age, Some(&self.once.key())).await?;
        match output.format {
            Format::Json => output.json(&written),
            Format::Table => output.line(&format!("added, revision {}", written.revision)),
        }
    }
}
