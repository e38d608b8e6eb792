//! `/v1/kv/{key}`: values of any bytes under keys of UTF-8.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use hearth_raft::{Op, Reply};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::http::conditions::{self, IfNoneMatch, WriteConditions, etag};
use crate::http::input::{
    self, Asked, CONTENT_TYPE_BYTES_MAX, Consistency, ReadQuery, Received, VALUE_BYTES_MAX,
};
use crate::http::once::OnceHeader;
use crate::http::openapi::errors;
use crate::http::parameters::{Parameters, invalid};
use crate::http::problem::{Code, Problem};
use crate::http::{App, once, view};

/// The media type of a value that was put without one.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";
/// Until a key goes away by itself, in the form of `?ttl=`.
const HEARTH_EXPIRES_IN: HeaderName = HeaderName::from_static("hearth-expires-in");
/// The longest time to live: a hundred years.
const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

errors!(GetErrors: InvalidKey, InvalidParameter, InvalidHeader, KeyNotFound, KeyTooLong, Overloaded, NoLeader);
errors!(PutErrors: InvalidKey, InvalidParameter, InvalidHeader, InvalidBody, PreconditionFailed, BodyTooLarge,
    KeyTooLong, IdempotencyKeyReused, Overloaded, NoLeader, OutcomeUnknown, StorageFull);
errors!(DeleteErrors: InvalidKey, InvalidParameter, InvalidHeader, KeyNotFound, PreconditionFailed, KeyTooLong,
    IdempotencyKeyReused, Overloaded, NoLeader, OutcomeUnknown);

/// The query of a put.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted; the parser refuses unknown and doubled parameters")]
pub(super) struct PutQuery {
    /// Like `30s`: the key goes away by itself after that time, 1 ms to 100 years. Without it the key stays,
    /// also if it had a time before.
    #[param(pattern = "^[1-9][0-9]{0,8}(ms|s|m)$")]
    ttl: Option<String>,
}

/// What a put did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Put {
    key: String,
    /// The key's revision, which is also its ETag.
    #[schema(minimum = 1)]
    revision: u64,
    /// Whether the key was not there before.
    created: bool,
}

/// Read a key
///
/// The value as it was put, with its Content-Type, and its revision as ETag.
#[utoipa::path(
    get, path = "/v1/kv/{key}", tag = "keys", operation_id = "kv_get",
    params(
        ("key" = String, Path, description = "1 to 1,024 bytes of UTF-8, percent-encoded; slashes may stand as they are", min_length = 1, max_length = 1024),
        ReadQuery, IfNoneMatch,
    ),
    responses(
        (status = 200, description = "The value", body = serde_json::Value, content_type = "*/*",
            headers(
                ("etag" = String, description = "The key's revision in quotes"),
                ("hearth-expires-in" = String, description = "Until the key goes away by itself, like `1500ms`; absent when it stays"),
            )),
        (status = 304, description = "If-None-Match has its revision",
            headers(
                ("etag" = String, description = "The key's revision in quotes"),
                ("hearth-expires-in" = String, description = "Until the key goes away by itself, like `1500ms`; absent when it stays"),
            )),
        GetErrors,
    ),
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    let consistency = Consistency::from_query(&uri)?;
    let store = app.store()?;
    let (view, mut headers) = view(store, consistency).await?;
    let Some(record) = view.keys.get(key.as_str()) else { return Err(not_found(&key, headers)) };
    headers.insert(ETAG, etag(record.revision));
    if let Some(expires_at_ms) = record.expires_at_ms {
        let expires_in_ms = expires_at_ms.get().saturating_sub(store.clock_ms(&view));
        let text = HeaderValue::try_from(format!("{expires_in_ms}ms"));
        headers.insert(HEARTH_EXPIRES_IN, text.unwrap_or_else(|_| HeaderValue::from(expires_in_ms)));
    }
    if conditions::has_already(&asked, record.revision)? {
        return Ok(answer(StatusCode::NOT_MODIFIED, headers, Bytes::new()));
    }
    let content_type = match &*record.content_type {
        "" => CONTENT_TYPE_DEFAULT,
        given => given,
    };
    // It was checked to be a header when it was put, so it can be one again.
    let content_type = HeaderValue::from_str(content_type)
        .unwrap_or_else(|_| HeaderValue::from_static(CONTENT_TYPE_DEFAULT));
    headers.insert(CONTENT_TYPE, content_type);
    Ok(answer(StatusCode::OK, headers, record.to_value()))
}

/// Write a key
///
/// The body is the value, up to 1 MiB of any bytes; its Content-Type is kept.
#[utoipa::path(
    put, path = "/v1/kv/{key}", tag = "keys", operation_id = "kv_put",
    params(
        ("key" = String, Path, description = "1 to 1,024 bytes of UTF-8, percent-encoded; slashes may stand as they are", min_length = 1, max_length = 1024),
        PutQuery, WriteConditions, OnceHeader,
    ),
    request_body(content_type = "application/octet-stream", description = "The value; any Content-Type of up to 256 bytes"),
    responses(
        (status = 200, description = "Overwritten", body = Put,
            headers(("etag" = String, description = "The key's revision in quotes"))),
        (status = 201, description = "Created", body = Put,
            headers(("etag" = String, description = "The key's revision in quotes"))),
        PutErrors,
    ),
)]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
    body: Body,
) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    let ttl_ms = Parameters::of(&uri, &["ttl"])?.time("ttl")?.map(checked_ttl).transpose()?;
    let only_if = conditions::of_write(&asked)?;
    let content_type = content_type(&asked)?;
    let store = app.store()?;
    let Received { bytes: value, held } = input::body(store, "value", &asked, body, VALUE_BYTES_MAX).await?;
    let op = match (ttl_ms, only_if.as_slice()) {
        (None, []) => Op::Put { key: key.as_str().into(), value, content_type },
        _ => Op::PutWith { key: key.as_str().into(), value, content_type, ttl_ms, only_if },
    };
    let (written, mut headers) = once::write(store, &asked, &op).await?;
    drop(held);
    let created = match written.reply {
        Reply::Written { created } => created,
        Reply::PreconditionFailed { current } => return Err(precondition_failed(&key, current, headers)),
        _ => return Err(Problem::unexpected()),
    };
    headers.insert(ETAG, etag(written.revision));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = Put { key, revision: written.revision, created };
    let body = serde_json::to_vec(&body).map_err(|error| Problem::no_json(&error))?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, headers, body.into()))
}

/// Delete a key
#[utoipa::path(
    delete, path = "/v1/kv/{key}", tag = "keys", operation_id = "kv_delete",
    params(
        ("key" = String, Path, description = "1 to 1,024 bytes of UTF-8, percent-encoded; slashes may stand as they are", min_length = 1, max_length = 1024),
        WriteConditions, OnceHeader,
    ),
    responses((status = 204, description = "It is gone"), DeleteErrors),
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    input::no_query(&uri)?;
    let only_if = conditions::of_write(&asked)?;
    let op = match only_if.is_empty() {
        true => Op::Delete { key: key.as_str().into() },
        false => Op::DeleteIf { key: key.as_str().into(), only_if },
    };
    let (written, headers) = once::write(app.store()?, &asked, &op).await?;
    match written.reply {
        Reply::Deleted { existed: true } => Ok(answer(StatusCode::NO_CONTENT, headers, Bytes::new())),
        Reply::Deleted { existed: false } => Err(not_found(&key, headers)),
        Reply::PreconditionFailed { current } => Err(precondition_failed(&key, current, headers)),
        _ => Err(Problem::unexpected()),
    }
}

/// An answer with these headers, as they are: axum would add them to a map of its own.
fn answer(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A time to live in milliseconds, within its bounds.
pub(super) fn checked_ttl(ttl: Duration) -> Result<NonZeroU64, Problem> {
    let ms = u64::try_from(ttl.as_millis()).ok().filter(|_| ttl <= TTL_MAX);
    ms.and_then(NonZeroU64::new).ok_or_else(|| invalid("ttl: not between 1ms and 100 years".to_owned()))
}

fn not_found(key: &str, headers: HeaderMap) -> Problem {
    Problem::new(Code::KeyNotFound, format!("key: {key:?} does not exist")).with_headers(headers)
}

fn precondition_failed(key: &str, current: Option<u64>, mut headers: HeaderMap) -> Problem {
    let detail = match current {
        Some(revision) => {
            headers.insert(ETAG, etag(revision));
            format!("key: {key:?} has revision {revision}")
        }
        None => format!("key: {key:?} does not exist"),
    };
    Problem::new(Code::PreconditionFailed, detail).with_headers(headers)
}

fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(String::new()) };
    let text = given.to_str().map_err(|_| "not visible ASCII").and_then(checked_content_type);
    text.map_err(|what| Problem::new(Code::InvalidHeader, format!("Content-Type: {what}")))
}

/// A media type that can be a header, of at most [`CONTENT_TYPE_BYTES_MAX`] bytes.
pub(super) fn checked_content_type(text: &str) -> Result<String, &'static str> {
    const { assert!(CONTENT_TYPE_BYTES_MAX == 256) };
    if text.len() > CONTENT_TYPE_BYTES_MAX {
        return Err("more than 256 bytes");
    }
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err("not visible ASCII");
    }
    Ok(text.to_owned())
}
