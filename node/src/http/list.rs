//! `/v1/kv?prefix=`: keys by prefix, page by page, and the removal of all of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use hearth_raft::{Op, Record, Reply};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::http::base64::Base64;
use crate::http::input::{self, Asked, ReadQuery};
use crate::http::once::OnceHeader;
use crate::http::openapi::errors;
use crate::http::parameters::{Parameters, invalid};
use crate::http::problem::{Code, Problem};
use crate::http::{App, data_headers, once, view};

/// Keys of one page, and how many there are when nothing is said.
const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 100;
/// Bytes of keys and values of one page; a page ends behind the key that exceeds it.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a page as JSON without its items, and of an item without its key, type and value.
const PAGE_JSON_BYTES: usize = 1200;
const ITEM_JSON_BYTES: usize = 200;

errors!(ListErrors: InvalidParameter, KeyTooLong, Overloaded, NoLeader, RevisionNotReached);
errors!(DeleteErrors: InvalidParameter, InvalidHeader, PrefixTooLarge, KeyTooLong, IdempotencyKeyReused,
    Overloaded, NoLeader, OutcomeUnknown);

/// The query of a list, beside [`ReadQuery`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted; the parser refuses unknown and doubled parameters")]
pub(super) struct ListQuery {
    /// What the keys begin with, up to 1,024 bytes; without it, all keys.
    #[param(max_length = 1024)]
    prefix: Option<String>,
    /// Only keys behind this one, in the order of the list: `next` of the page before.
    after: Option<String>,
    /// How many keys at most; a page also ends behind 4 MiB.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// Whether to give the values too.
    #[param(default = false)]
    values: Option<bool>,
    /// Whether to go from the last key to the first.
    #[param(default = false)]
    reverse: Option<bool>,
    /// A revision that the answer reflects at least: with the first page's, no later page is older,
    /// whichever node answers.
    at: Option<u64>,
}

/// The query of a removal.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted; the parser refuses unknown and doubled parameters")]
pub(super) struct DeleteQuery {
    /// What the keys begin with that are removed, 1 to 1,024 bytes.
    #[param(min_length = 1, max_length = 1024)]
    prefix: String,
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<'a> {
    /// The store's revision that all of the page reflects.
    revision: u64,
    items: Vec<Item<'a>>,
    /// What to give as `after` for the next page; none behind the last key.
    next: Option<&'a str>,
}

/// A key of a page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Item<'a> {
    key: &'a str,
    /// Of its last write; its ETag.
    #[schema(minimum = 1)]
    revision: u64,
    /// Of the write that created it.
    #[schema(minimum = 1)]
    created_revision: u64,
    /// Bytes of the value.
    size: usize,
    /// As it was put; null when it was put without one.
    content_type: Option<&'a str>,
    /// Until the key goes away by itself; null when it stays.
    expires_in_ms: Option<u64>,
    /// Base64; only with `values=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    value: Option<Base64<&'a [u8]>>,
}

impl Page<'_> {
    /// About how long it is as JSON, when little is escaped.
    fn json_bytes(&self) -> usize {
        let item = |item: &Item<'_>| {
            let texts = item.key.len() + item.content_type.map_or(0, str::len);
            ITEM_JSON_BYTES + texts + item.value.as_ref().map_or(0, Base64::json_bytes)
        };
        PAGE_JSON_BYTES + self.items.iter().map(item).sum::<usize>()
    }
}

/// What a removal did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PrefixDeleted {
    /// How many keys were removed.
    deleted: u64,
    /// The store's revision behind it.
    #[schema(minimum = 1)]
    revision: u64,
}

/// List keys
///
/// The keys that begin with `prefix`, in byte order, and behind `after` in that order. A walk gives each
/// page's `next` as `after`: it sees every key that is there all the time exactly once.
#[utoipa::path(
    get, path = "/v1/kv", tag = "keys", operation_id = "kv_list",
    params(ListQuery, ReadQuery),
    responses((status = 200, description = "A page of keys", body = Page<'static>), ListErrors),
)]
pub(super) async fn list(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    const OWN: [&str; 6] = ["prefix", "after", "limit", "values", "reverse", "at"];
    let known = [&OWN[..], &input::Consistency::PARAMETERS].concat();
    let given = Parameters::of(&uri, &known)?;
    let wanted = Wanted {
        prefix: input::not_too_long("prefix", given.get("prefix").unwrap_or_default().to_owned())?,
        after: given.get("after"),
        limit: usize::try_from(given.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT)).unwrap_or(1),
        values: given.flag("values")?,
        reverse: given.flag("reverse")?,
    };
    let at = given.number("at", 0, u64::MAX)?.unwrap_or(0);
    let store = app.store()?;
    let (mut view, mut headers) = view(store, given.consistency()?).await?;
    if view.revision() < at {
        view = store.view_from(view, at).await?;
        headers = data_headers(store, view.revision());
    }
    let page = page(&view, store.clock_ms(&view), &wanted);
    let answer = store.buffers.json(&page, page.json_bytes()).await?;
    Ok((headers, answer).into_response())
}

/// What a page is to have.
struct Wanted<'a> {
    prefix: String,
    after: Option<&'a str>,
    limit: usize,
    values: bool,
    reverse: bool,
}

fn page<'a>(view: &'a hearth_raft::State, clock_ms: u64, wanted: &'a Wanted<'_>) -> Page<'a> {
    let prefix = &wanted.prefix;
    let keys: Box<dyn Iterator<Item = _>> = match (wanted.after, wanted.reverse) {
        (None, false) => Box::new(view.with_prefix(prefix)),
        (None, true) => Box::new(view.with_prefix_reversed(prefix)),
        (Some(after), false) => Box::new(view.with_prefix_after(prefix, after)),
        (Some(before), true) => Box::new(view.with_prefix_before(prefix, before)),
    };
    let mut keys = keys.peekable();
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut bytes = 0;
    while items.len() < wanted.limit && bytes < PAGE_BYTES {
        let Some((key, record)) = keys.next() else { break };
        bytes += key.len() + record.content_type.len();
        if wanted.values {
            bytes += record.value.len();
        }
        items.push(item(key, record, clock_ms, wanted.values));
    }
    let next = keys.peek().and_then(|_| items.last()).map(|last| last.key);
    Page { revision: view.revision(), items, next }
}

fn item<'a>(key: &'a str, record: &'a Record, clock_ms: u64, values: bool) -> Item<'a> {
    Item {
        key,
        revision: record.revision,
        created_revision: record.created_revision,
        size: record.value.len(),
        content_type: Some(&*record.content_type).filter(|given| !given.is_empty()),
        expires_in_ms: record.expires_at_ms.map(|at| at.get().saturating_sub(clock_ms)),
        value: values.then_some(Base64(&*record.value)),
    }
}

/// Delete keys by prefix
///
/// All of them at once, or none when there are more than one command may remove.
#[utoipa::path(
    delete, path = "/v1/kv", tag = "keys", operation_id = "kv_delete_prefix",
    params(DeleteQuery, OnceHeader),
    responses((status = 200, description = "They are gone", body = PrefixDeleted), DeleteErrors),
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
) -> Result<Response, Problem> {
    let given = Parameters::of(&uri, &["prefix"])?;
    let prefix = match given.get("prefix") {
        None | Some("") => return Err(invalid("prefix: missing; it says what is deleted".to_owned())),
        Some(prefix) => input::not_too_long("prefix", prefix.to_owned())?,
    };
    let (written, headers) =
        once::write(app.store()?, &asked, &Op::DeletePrefix { prefix: prefix.clone() }).await?;
    match written.reply {
        Reply::PrefixDeleted { keys } => {
            let body = Json(PrefixDeleted { deleted: keys, revision: written.revision });
            Ok((headers, body).into_response())
        }
        Reply::PrefixTooLarge { keys_max } => {
            let detail = format!("prefix: {prefix:?} has more than {keys_max} keys; delete longer prefixes");
            Err(Problem::new(Code::PrefixTooLarge, detail).with_headers(headers))
        }
        _ => Err(Problem::unexpected()),
    }
}
