//! `/v1/kv/{key}`: values of any bytes under keys of UTF-8.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hearth_raft::{Op, Reply};
use serde_json::json;

use crate::http::conditions::{self, etag};
use crate::http::input::{self, CONTENT_TYPE_BYTES_MAX, Consistency, VALUE_BYTES_MAX};
use crate::http::parameters::{Parameters, invalid};
use crate::http::problem::{Code, Problem};
use crate::http::{App, once, view};

/// The media type of a value that was put without one.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";
/// Until a key goes away by itself, in the form of `?ttl=`.
const HEARTH_EXPIRES_IN: HeaderName = HeaderName::from_static("hearth-expires-in");
/// The longest time to live: a hundred years.
const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// `GET /v1/kv/{key}?consistency=`: the value, with its revision as `ETag`. 304 when `If-None-Match`
/// lists that. 404 `key_not_found`.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    uri: Uri,
    asked: HeaderMap,
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
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let content_type = match &*record.content_type {
        "" => CONTENT_TYPE_DEFAULT,
        given => given,
    };
    // It was checked to be a header when it was put, so it can be one again.
    let content_type = HeaderValue::from_str(content_type)
        .unwrap_or_else(|_| HeaderValue::from_static(CONTENT_TYPE_DEFAULT));
    headers.insert(CONTENT_TYPE, content_type);
    Ok((headers, record.value.clone()).into_response())
}

/// `PUT /v1/kv/{key}?ttl=` with the value as the body: 201 when it created the key, else 200, with
/// `{"key","revision","created"}`. 412 `precondition_failed` when `If-Match` or `If-None-Match` does
/// not hold.
pub(super) async fn put(
    State(app): State<Arc<App>>,
    uri: Uri,
    asked: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    let ttl_ms = Parameters::of(&uri, &["ttl"])?.time("ttl")?.map(checked_ttl).transpose()?;
    let only_if = conditions::of_write(&asked)?;
    let content_type = content_type(&asked)?;
    let value = input::body("value", &asked, body, VALUE_BYTES_MAX).await?;
    let op = match (ttl_ms, only_if.as_slice()) {
        (None, []) => Op::Put { key: key.clone(), value, content_type },
        _ => Op::PutWith { key: key.clone(), value, content_type, ttl_ms, only_if },
    };
    let (written, mut headers) = once::write(app.store()?, &asked, &op).await?;
    let created = match written.reply {
        Reply::Written { created } => created,
        Reply::PreconditionFailed { current } => return Err(precondition_failed(&key, current, headers)),
        _ => return Err(Problem::unexpected()),
    };
    headers.insert(ETAG, etag(written.revision));
    let body = Json(json!({"key": key, "revision": written.revision, "created": created}));
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, headers, body).into_response())
}

/// `DELETE /v1/kv/{key}`: 204, or 404 `key_not_found`. 412 as for a put.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    uri: Uri,
    asked: HeaderMap,
) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    input::no_query(&uri)?;
    let only_if = conditions::of_write(&asked)?;
    let op = match only_if.is_empty() {
        true => Op::Delete { key: key.clone() },
        false => Op::DeleteIf { key: key.clone(), only_if },
    };
    let (written, headers) = once::write(app.store()?, &asked, &op).await?;
    match written.reply {
        Reply::Deleted { existed: true } => Ok((StatusCode::NO_CONTENT, headers).into_response()),
        Reply::Deleted { existed: false } => Err(not_found(&key, headers)),
        Reply::PreconditionFailed { current } => Err(precondition_failed(&key, current, headers)),
        _ => Err(Problem::unexpected()),
    }
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
