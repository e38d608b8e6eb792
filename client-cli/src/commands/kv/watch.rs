//! `hearth kv watch`, and `hearth watch`

use std::pin::pin;
use std::time::Duration;

use serde::Serialize;

use super::shown::{ShownValue, ms, short};
use crate::client::Client;
use crate::commands::duration;
use crate::commands::failure::Failure;
use crate::commands::output::{Columns, Format, Output, size};
use crate::watch::{Change, Event, Step, WatchOptions};

/// Shows every change of the keys with a prefix as it happens, in order of revision, none left out and none
/// twice. Ends with Ctrl-C.
///
/// When a node goes away it goes on at another, and says so on stderr.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 0 after Ctrl-C and --limit. Fails when changes were missed, as the nodes keep only so many.
With -o json a line for each change: {\"event\":\"put\"|\"delete\"|\"expire\",\"id\",\"key\",\"revision\"}, and \
for a put \"created\", \"created_revision\", \"content_type\", \"size\", \"expires_in_ms\", and \"value\", or \
\"value_base64\" when it is not UTF-8. The last id goes to --after to resume.")]
pub struct Watch {
    /// What the keys begin with [default: all keys]
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Begin after this revision, or after the event with this id [default: now]
    #[arg(long, value_name = "REVISION")]
    pub after: Option<String>,
    /// Leave the values out
    #[arg(long)]
    pub no_values: bool,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Give up when no node can be reached for this long
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    pub reconnect_timeout: Duration,
}

#[derive(Serialize)]
struct Shown<'a> {
    event: &'static str,
    id: &'a str,
    key: &'a str,
    revision: u64,
    #[serde(flatten)]
    set: Option<ShownSet<'a>>,
}

#[derive(Serialize)]
struct ShownSet<'a> {
    created: bool,
    created_revision: u64,
    content_type: Option<&'a str>,
    size: u64,
    expires_in_ms: Option<u64>,
    #[serde(flatten)]
    value: ShownValue<'a>,
}

impl Watch {
    /// Watches until Ctrl-C, the limit, or an error that resuming does not help.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut watch = client.watch(WatchOptions {
            prefix: self.prefix,
            after: self.after,
            values: !self.no_values,
            reconnect_timeout: self.reconnect_timeout,
            ..WatchOptions::default()
        });
        let mut table = Columns::new(["REVISION", "EVENT", "KEY", "VALUE"]).at_least([8, 6, 16, 0]);
        let (mut left, mut was_lost) = (self.limit, false);
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        while left != Some(0) {
            let step = tokio::select! {
                step = watch.next() => step?,
                signal = &mut interrupted => return Ok(signal?),
            };
            match step {
                Step::Event(event) => {
                    write_event(&event, &mut table, output)?;
                    left = left.map(|left| left - 1);
                }
                Step::Opened { endpoint, .. } if was_lost => {
                    was_lost = false;
                    output.note(&format!("watching again at {endpoint}"));
                }
                // For a person, that it has begun.
                Step::Opened { .. } if output.format == Format::Table => table.write(Vec::new(), output)?,
                Step::Opened { .. } => {}
                Step::Lost { endpoint, reason } => {
                    was_lost = true;
                    let after = watch.last_id().unwrap_or("now");
                    output.note(&format!("lost {endpoint}: {reason}; resuming after {after}"));
                }
            }
            output.finish()?;
        }
        Ok(())
    }
}

fn write_event(event: &Event, table: &mut Columns<4>, output: &mut Output<'_>) -> Result<(), Failure> {
    match output.format {
        Format::Json => output.json(&shown(event)),
        Format::Table => table.write(vec![row(event)], output),
    }
}

fn name(change: &Change) -> &'static str {
    match change {
        Change::Put(_) => "put",
        Change::Delete => "delete",
        Change::Expire => "expire",
    }
}

fn shown(event: &Event) -> Shown<'_> {
    let set = match &event.change {
        Change::Put(set) => Some(ShownSet {
            created: set.created,
            created_revision: set.created_revision,
            content_type: set.content_type.as_deref(),
            size: set.size,
            expires_in_ms: ms(set.expires_in),
            value: ShownValue::of(set.value.as_deref()),
        }),
        Change::Delete | Change::Expire => None,
    };
    Shown { event: name(&event.change), id: &event.id, key: &event.key, revision: event.revision, set }
}

fn row(event: &Event) -> [String; 4] {
    let value = match &event.change {
        Change::Put(set) => set.value.as_deref().map_or_else(|| format!("({})", size(set.size)), short),
        Change::Delete | Change::Expire => String::new(),
    };
    [event.revision.to_string(), name(&event.change).to_owned(), event.key.clone(), value]
}
