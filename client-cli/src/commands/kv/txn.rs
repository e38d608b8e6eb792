//! `hearth kv txn`

use std::path::PathBuf;

use super::read_input;
use super::shown::short;
use crate::client::Client;
use crate::commands::arguments::Once;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};
use crate::txn::{Applied, Done, Txn as Asked};

/// Applies several operations as one, under conditions: `then` when all conditions in `if` hold, else
/// `else`; all of it or nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = r#"The transaction is JSON; each part may be left out:

  {"if":   [{"key":"lock","exists":false}, {"key":"mode","text":"on"}],
   "then": [{"op":"put","key":"lock","text":"me","ttl":"30s"}, {"op":"add","key":"visits","by":1}],
   "else": [{"op":"get","key":"lock"}]}

A condition names a key and one of exists (true, false), revision (0: there is no such key), text, or value
(base64). Operations are put (key, one of text and value, and if wanted content_type and ttl), delete (key),
get (key) and add (key, by; an integer of 64 bits in decimal). They see what those before them did. At most 128
operations and 128 conditions.

Succeeds also when `else` was applied. With -o json: {"succeeded","revision","results":[{"op","key",…}]}, values
in base64."#)]
pub struct Txn {
    /// The file with the transaction; `-` is stdin
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// Makes it safe to send it again.
    #[command(flatten)]
    pub once: Once,
}

impl Txn {
    /// Reads and checks the transaction, applies it, and writes what it did.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let txn = Asked::from_json(&read_input(&self.file)?)?;
        let applied = client.txn(&txn, Some(&self.once.key())).await?;
        if output.format == Format::Json {
            return output.json(&applied);
        }
        output.line(&summary(&applied))?;
        if applied.results.is_empty() {
            return Ok(());
        }
        output.table(["OP", "KEY", "RESULT"], applied.results.iter().map(row).collect())
    }
}

fn summary(applied: &Applied) -> String {
    let branch =
        if applied.succeeded { "the conditions hold: then" } else { "a condition does not hold: else" };
    format!("{branch}, revision {}", applied.revision)
}

fn row(done: &Done) -> [String; 3] {
    let (op, key, result) = match done {
        Done::Put { key, created: true } => ("put", key, "created".to_owned()),
        Done::Put { key, created: false } => ("put", key, "updated".to_owned()),
        Done::Delete { key, deleted: true } => ("delete", key, "deleted".to_owned()),
        Done::Delete { key, deleted: false } | Done::Get { key, record: None, .. } => {
            (if matches!(done, Done::Get { .. }) { "get" } else { "delete" }, key, "no such key".to_owned())
        }
        Done::Add { key, result } => ("add", key, result.to_string()),
        Done::Get { key, record: Some(got), .. } => {
            ("get", key, format!("revision {}: {}", got.revision, short(&got.value)))
        }
    };
    [op.to_owned(), key.clone(), result]
}
