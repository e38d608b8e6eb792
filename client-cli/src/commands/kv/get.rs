//! `hearth kv get`

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::missing;
use crate::client::Client;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};
use crate::kv::{Consistency, Value};

/// Writes the value byte for byte; on a terminal, the last line is completed. Fails when there is no such
/// key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With -o json: {\"key\",\"revision\",\"content_type\",\"size\",\"value\"}. A value that is not UTF-8 comes in \
base64, as \"value_base64\" in place of \"value\"; with --out-file there is neither.")]
pub struct Get {
    /// The key
    pub key: String,
    /// How fresh the answer must be
    #[arg(long, value_enum, default_value_t)]
    pub consistency: Consistency,
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
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl Get {
    /// Asks, and writes the value.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let value = client.kv_get(&self.key, self.consistency).await?.ok_or_else(|| missing(&self.key))?;
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
        let inline = self.out_file.is_none();
        let text = std::str::from_utf8(&value.bytes);
        Shown {
            key: &self.key,
            revision: value.revision,
            content_type: value.content_type.as_deref(),
            size: value.bytes.len(),
            value: text.ok().filter(|_| inline),
            value_base64: (inline && text.is_err()).then(|| BASE64.encode(&value.bytes)),
        }
    }
}
