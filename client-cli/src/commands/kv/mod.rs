//! `hearth kv`: keys and values.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::failure::Failure;
use super::output::Output;
use crate::client::Client;

pub mod delete;
pub mod get;
pub mod list;
pub mod put;
mod shown;
pub mod txn;
pub mod watch;

/// More than any node takes: only to keep a mistaken file or an endless stdin out of memory. What is
/// smaller is the server's to judge.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub enum Kv {
    /// Write the value of a key to stdout, or to a file
    Get(get::Get),
    /// Set a key to a value
    Put(put::Put),
    /// Delete a key, or all keys with a prefix
    Delete(delete::Delete),
    /// List keys by prefix
    List(list::List),
    /// Apply several operations as one, under conditions
    Txn(txn::Txn),
    /// Show changes as they happen
    Watch(watch::Watch),
}

impl Kv {
    /// Runs the command.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match self {
            Self::Get(command) => command.run(client, output).await,
            Self::Put(command) => command.run(client, output).await,
            Self::Delete(command) => command.run(client, output).await,
            Self::List(command) => command.run(client, output).await,
            Self::Txn(command) => command.run(client, output).await,
            Self::Watch(command) => command.run(client, output).await,
        }
    }
}

/// The failure for a key that must exist.
fn missing(key: &str) -> Failure {
    Failure::Failed(format!("there is no key {key:?}"))
}

/// What a file holds, or stdin for `-`. Blocks: nothing else goes on in the meantime.
fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.as_os_str() == "-" {
        return read_bounded(io::stdin(), "stdin");
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| Failure::Failed(format!("cannot open {name}: {error}")))?;
    read_bounded(file, &name)
}

/// Everything that `reader` gives, if it is not too much.
fn read_bounded(reader: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = reader
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
    if read as u64 > INPUT_BYTES_MAX {
        return Err(Failure::Failed(format!("{name} holds more than can be sent: {INPUT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
