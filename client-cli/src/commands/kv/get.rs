//! `hearth kv get`

use std::path::PathBuf;

use serde::Serialize;

use super::missing;
use super::shown::{ShownValue, ms};
use crate::client::Client;
use crate::commands::arguments::Freshness;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};
use crate::kv::Value;

/// Writes the value byte for byte; on a terminal, the last line is completed. Fails when there is no such
/// key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With -o json: {\"key\",\"revision\",\"content_type\",\"size\",\"expires_in_ms\",\"value\"}, without \
expires_in_ms when the key stays. A value that is not UTF-8 comes in base64, as \"value_base64\" in place of \
\"value\"; with --out-file there is neither.")]
pub struct Get {
    /// The key
    pub key: String,
    /// How fresh the answer must be.
    #[command(flatten)]
    pub freshness: Freshness,
    /// Write the value to this file, replacing it
    #[arg(long, value_name = "FILE")]
    pub out_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    revision: u64,
    content_type: Option<&'a str>,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
    #[serde(flatten)]
    value: ShownValue<'a>,
}

impl Get {
    /// Asks, and writes the value.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let value = client.kv_get(&self.key, self.freshness.consistency()).await?;
        let value = value.ok_or_else(|| missing(&self.key))?;
        if let Some(path) = &self.out_file {
            std::fs::write(path, &value.bytes)
                .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
        }
        match (output.format, &self.out_file) {
            (Format::Json, _) => output.json(&self.shown(&value)),
            (Format::Table, None) => output.bytes(&value.bytes),
            (Format::Table, Some(path)) => output.line(&format!(
                "wrote {} bytes of revision {} to {}",
                value.bytes.len(),
                value.revision,
                path.display()
            )),
        }
    }

    fn shown<'a>(&'a self, value: &'a Value) -> Shown<'a> {
        let bytes = Some(&*value.bytes).filter(|_| self.out_file.is_none());
        Shown {
            key: &self.key,
            revision: value.revision,
            content_type: value.content_type.as_deref(),
            size: value.bytes.len(),
            expires_in_ms: ms(value.expires_in),
            value: ShownValue::of(bytes),
        }
    }
}
