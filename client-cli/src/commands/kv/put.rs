//! `hearth kv put`

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::ArgGroup;
use serde::Serialize;

use crate::client::Client;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};

/// More than any node takes: only to keep a mistaken file or an endless stdin out of memory. What is
/// smaller is the server's to judge.
const VALUE_BYTES_MAX: u64 = 64 << 20;

/// Sets a key, whether it exists or not.
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
    /// The media type to keep with it [default: text/plain for UTF-8, else application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
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
        let content_type = self.content_type.as_deref().unwrap_or_else(|| guessed(&bytes)).to_owned();
        let written = client.kv_put(&self.key, bytes, Some(&content_type)).await?;
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

    /// The value from wherever it is. Blocks: nothing else goes on in the meantime.
    fn read_value(&mut self) -> Result<Vec<u8>, Failure> {
        let file = match (self.value.take(), self.file.take()) {
            (Some(value), None) if value != "-" => return Ok(value.into_bytes()),
            (_, file) => file.filter(|path| path.as_os_str() != "-"),
        };
        let Some(path) = file else {
            return read_bounded(io::stdin(), "stdin");
        };
        let name = path.display().to_string();
        let file =
            File::open(&path).map_err(|error| Failure::Failed(format!("cannot open {name}: {error}")))?;
        read_bounded(file, &name)
    }
}

/// Everything that `reader` gives, if it is not too much.
fn read_bounded(reader: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = reader
        .take(VALUE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
    if read as u64 > VALUE_BYTES_MAX {
        return Err(Failure::Failed(format!("{name} holds more than a value can: {VALUE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The media type when none is given.
fn guessed(bytes: &[u8]) -> &'static str {
    if std::str::from_utf8(bytes).is_ok() { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}
