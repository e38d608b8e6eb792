//! `hearth kv delete`

use clap::ArgGroup;
use serde::Serialize;

use super::missing;
use crate::client::Client;
use crate::commands::arguments::{Once, if_match};
use crate::commands::confirm::confirm;
use crate::commands::failure::Failure;
use crate::commands::output::{Format, Output};
use crate::kv::{self, Condition};
use crate::list::{List, PAGE_KEYS_MAX};

/// Deletes a key, or all keys with a prefix at once.
#[derive(Debug, clap::Args)]
#[command(override_usage = "hearth kv delete [OPTIONS] <KEY | --prefix <PREFIX>>")]
#[command(after_help = "\
Fails when there is no such key; no key with the prefix is no failure. With -o json: {\"key\",\"deleted\":true}, \
and with --prefix {\"prefix\",\"deleted\",\"revision\"}, where deleted is how many.")]
#[command(group(ArgGroup::new("which").required(true).args(["key", "prefix"])))]
pub struct Delete {
    /// The key
    pub key: Option<String>,
    /// Delete all keys that begin with this; asks first
    #[arg(long)]
    pub prefix: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Only if the key has this revision; `*`: if it exists
    #[arg(long, value_name = "REVISION", value_parser = if_match, conflicts_with = "prefix")]
    pub if_match: Option<Condition>,
    /// Makes it safe to send it again.
    #[command(flatten)]
    pub once: Once,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    deleted: bool,
}

#[derive(Serialize)]
struct ShownPrefix<'a> {
    prefix: &'a str,
    deleted: u64,
    revision: u64,
}

impl Delete {
    /// Deletes, and says so.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match (&self.key, &self.prefix) {
            (Some(key), _) => self.delete_key(key, client, output).await,
            (None, Some(prefix)) => self.delete_prefix(prefix, client, output).await,
            (None, None) => Err(Failure::Usage("a key or --prefix is needed".to_owned())),
        }
    }

    async fn delete_key(&self, key: &str, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let how = kv::Delete { only_if: self.if_match, idempotency_key: Some(self.once.key()) };
        if !client.kv_delete(key, &how).await? {
            return Err(missing(key));
        }
        match output.format {
            Format::Json => output.json(&Shown { key, deleted: true }),
            Format::Table => output.line("deleted"),
        }
    }

    async fn delete_prefix(
        &self,
        prefix: &str,
        client: &Client,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        if prefix.is_empty() {
            return Err(Failure::Usage("the prefix must not be empty".to_owned()));
        }
        if !self.yes {
            confirm(&question(prefix, client).await?)?;
        }
        let gone = client.kv_delete_prefix(prefix, Some(&self.once.key())).await?;
        match output.format {
            Format::Json => {
                output.json(&ShownPrefix { prefix, deleted: gone.deleted, revision: gone.revision })
            }
            Format::Table => output.line(&format!("deleted {}", keys(gone.deleted))),
        }
    }
}

/// `Delete the 3 keys that begin with "a/"?`
async fn question(prefix: &str, client: &Client) -> Result<String, Failure> {
    let list = List { prefix: prefix.to_owned(), page_keys: Some(PAGE_KEYS_MAX), ..List::default() };
    let page = client.kv_list(&list).await?;
    let more = if page.next.is_some() { "more than " } else { "" };
    let count = keys(page.items.len() as u64);
    let begin = if page.items.len() == 1 { "begins" } else { "begin" };
    Ok(format!("Delete the {more}{count} that {begin} with {prefix:?}?"))
}

fn keys(count: u64) -> String {
    format!("{count} key{}", if count == 1 { "" } else { "s" })
}
