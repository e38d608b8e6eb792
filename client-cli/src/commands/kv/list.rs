//! `hearth kv list`

use serde::Serialize;

use super::shown::{ShownValue, ms, seconds, short};
use crate::client::Client;
use crate::commands::arguments::Freshness;
use crate::commands::failure::Failure;
use crate::commands::output::{Columns, Format, Output, size};
use crate::list::{Item, List as Asked, PAGE_KEYS_MAX};

/// Lists keys in the order of their bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
CREATED is the revision that created the key, REVISION the one that last wrote it. When there are more keys, \
stderr says how to go on.
With -o json a line for each key: {\"key\",\"revision\",\"created_revision\",\"size\",\"content_type\",\
\"expires_in_ms\"}, and with --values \"value\", or \"value_base64\" when it is not UTF-8.")]
pub struct List {
    /// What the keys begin with [default: all keys]
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Only keys behind this one, in the order of the list
    #[arg(long, value_name = "KEY")]
    pub after: Option<String>,
    /// How many keys at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// All keys, page by page; what is written meanwhile may be there or not
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    /// From the last key to the first
    #[arg(long)]
    pub reverse: bool,
    /// Show the values too: in a table, their beginning
    #[arg(long)]
    pub values: bool,
    /// How fresh the first page must be; no later one is older.
    #[command(flatten)]
    pub freshness: Freshness,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    revision: u64,
    created_revision: u64,
    size: u64,
    content_type: Option<&'a str>,
    expires_in_ms: Option<u64>,
    #[serde(flatten)]
    value: ShownValue<'a>,
}

impl List {
    /// Asks page by page and writes each as it comes.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut left = if self.all { u64::MAX } else { self.limit };
        let page_keys = u16::try_from(left).unwrap_or(PAGE_KEYS_MAX).min(PAGE_KEYS_MAX);
        let mut walk = client.kv_walk(Asked {
            prefix: self.prefix,
            after: self.after,
            page_keys: Some(page_keys),
            values: self.values,
            reverse: self.reverse,
            consistency: self.freshness.consistency(),
        });
        let mut table =
            Columns::new(["KEY", "REVISION", "CREATED", "SIZE", "EXPIRES IN", "CONTENT TYPE", "VALUE"]);
        if output.format == Format::Table && !self.values {
            table.hide_last();
        }
        let mut last = None;
        while let Some(page) = walk.next_page().await? {
            let mut items = page.items;
            let cut = left < items.len() as u64;
            items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= items.len() as u64;
            write_page(&items, &mut table, output)?;
            last = items.pop().map(|item| item.key).or(last);
            if left == 0 && (cut || page.next.is_some()) {
                output.finish()?;
                output
                    .note(&format!("there are more keys: --after {:?}, or --all", last.unwrap_or_default()));
                break;
            }
            if left == 0 {
                break;
            }
        }
        Ok(())
    }
}

fn write_page(items: &[Item], table: &mut Columns<7>, output: &mut Output<'_>) -> Result<(), Failure> {
    match output.format {
        Format::Json => items.iter().try_for_each(|item| output.json(&shown(item))),
        Format::Table => table.write(items.iter().map(row).collect(), output),
    }
}

fn shown(item: &Item) -> Shown<'_> {
    Shown {
        key: &item.key,
        revision: item.revision,
        created_revision: item.created_revision,
        size: item.size,
        content_type: item.content_type.as_deref(),
        expires_in_ms: ms(item.expires_in),
        value: ShownValue::of(item.value.as_deref()),
    }
}

fn row(item: &Item) -> [String; 7] {
    [
        item.key.clone(),
        item.revision.to_string(),
        item.created_revision.to_string(),
        size(item.size),
        seconds(item.expires_in),
        item.content_type.clone().unwrap_or_default(),
        item.value.as_deref().map(short).unwrap_or_default(),
    ]
}
