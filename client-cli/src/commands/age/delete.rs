//! `hearth age delete`

use serde::Serialize;

use crate::client::Client;
use crate::commands::arguments::Once;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};

/// Forgets every age of a name; not an error when there is none.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Succeeds also when there is none. With -o json: {\"name\",\"deleted\":true}.")]
pub struct Delete {
    /// The name
    pub name: String,
    /// Makes it safe to send it again.
    #[command(flatten)]
    pub once: Once,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    deleted: bool,
}

impl Delete {
    /// Deletes, and says so.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        client.age_delete(&self.name, Some(&self.once.key())).await?;
        match output.format {
            Format::Json => output.json(&Shown { name: &self.name, deleted: true }),
            Format::Table => output.line("deleted"),
        }
    }
}
