//! `hearth kv delete`

use serde::Serialize;

use super::missing;
use crate::client::Client;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};

/// Deletes a key. Fails when there is no such key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Fails when there is no such key. With -o json: {\"key\",\"deleted\":true}.")]
pub struct Delete {
    /// The key
    pub key: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    deleted: bool,
}

impl Delete {
    /// Deletes, and says so.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        if !client.kv_delete(&self.key).await? {
            return Err(missing(&self.key));
        }
        match output.format {
            Format::Json => output.json(&Shown { key: &self.key, deleted: true }),
            Format::Table => output.line("deleted"),
        }
    }
}
