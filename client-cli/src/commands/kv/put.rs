//! `hearth kv put`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgGroup;
use serde::Serialize;

use super::read_input;
use crate::client::Client;
use crate::commands::arguments::{Once, if_match};
use crate::commands::duration;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};
use crate::kv::{self, Condition};

/// Sets a key to a value.
#[derive(Debug, clap::Args)]
#[command(override_usage = "hearth kv put [OPTIONS] <KEY> <VALUE | --file <FILE>>")]
#[command(after_help = "With -o json: {\"key\",\"revision\",\"created\"}.")]
#[command(group(ArgGroup::new("source").required(true).args(["value", "file"])))]
pub struct Put {
    /// The key
    pub key: String,
    /// The value; `-` reads it from stdin
    #[arg(allow_negative_numbers = true)]
    pub value: Option<String>,
    /// Read the value from this file; `-` is stdin
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Have the key go away by itself after this time: 500ms, 30s, 2m, 7d [default: it stays]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_long)]
    pub ttl: Option<Duration>,
    /// Only if the key has this revision; `*`: if it exists
    #[arg(long, value_name = "REVISION", value_parser = if_match)]
    pub if_match: Option<Condition>,
    /// Only if there is no such key
    #[arg(long, conflicts_with = "if_match")]
    pub if_absent: bool,
    /// The media type to keep with it [default: text/plain for UTF-8, else application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Makes it safe to send it again.
    #[command(flatten)]
    pub once: Once,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    revision: u64,
    created: bool,
}

impl Put {
    /// Reads the value, writes it to the cluster, and says which revision it got.
    pub async fn run(mut self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let bytes = self.read_value()?;
        let content_type = self.content_type.take().unwrap_or_else(|| guessed(&bytes).to_owned());
        let how = kv::Put {
            content_type: Some(content_type),
            ttl: self.ttl,
            only_if: if self.if_absent { Some(Condition::Absent) } else { self.if_match },
            idempotency_key: Some(self.once.key()),
        };
        let written = client.kv_put(&self.key, bytes, &how).await?;
        match output.format {
            Format::Json => {
                output.json(&Shown { key: &self.key, revision: written.revision, created: written.created })
            }
            Format::Table => {
                let done = if written.created { "created" } else { "updated" };
                output.line(&format!("{done}, revision {}", written.revision))
            }
        }
    }

    /// The value from wherever it is.
    fn read_value(&mut self) -> Result<Vec<u8>, Failure> {
        match (self.value.take(), self.file.take()) {
            (Some(value), _) if value != "-" => Ok(value.into_bytes()),
            (_, file) => read_input(file.as_deref().unwrap_or(Path::new("-"))),
        }
    }
}

/// The media type when none is given.
fn guessed(bytes: &[u8]) -> &'static str {
    if std::str::from_utf8(bytes).is_ok() { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}
