//! `/v1/kv/{key}`: values of any bytes under keys of UTF-8.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hearth_raft::{Op, Reply};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::input::{self, CONTENT_TYPE_BYTES_MAX, Consistency, ReadQuery, VALUE_BYTES_MAX};
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::http::{App, data_headers, view};

/// The media type of a value that was put without one.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

errors!(GetErrors: InvalidKey, InvalidParameter, KeyNotFound, KeyTooLong, Overloaded, NoLeader);
errors!(PutErrors: InvalidKey, InvalidParameter, InvalidBody, BodyTooLarge, KeyTooLong, Overloaded, NoLeader,
    OutcomeUnknown, StorageFull);
errors!(DeleteErrors: InvalidKey, InvalidParameter, KeyNotFound, KeyTooLong, Overloaded, NoLeader,
    OutcomeUnknown);

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
        ReadQuery,
    ),
    responses(
        (status = 200, description = "The value", body = serde_json::Value, content_type = "*/*",
            headers(("etag" = String, description = "The key's revision in quotes"))),
        GetErrors,
    ),
)]
pub(super) async fn get(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    let consistency = Consistency::from_query(&uri)?;
    let store = app.store()?;
    let (view, mut headers) = view(store, consistency).await?;
    let Some(record) = view.keys.get(key.as_str()) else { return Err(not_found(&key)) };
    headers.insert(ETAG, etag(record.revision));
    let content_type = match &*record.content_type {
        "" => CONTENT_TYPE_DEFAULT,
        given => given,
    };
    // It was a header when it was put, so it can be one again.
    let content_type = HeaderValue::from_str(content_type)
        .unwrap_or_else(|_| HeaderValue::from_static(CONTENT_TYPE_DEFAULT));
    headers.insert(CONTENT_TYPE, content_type);
    Ok((headers, record.value.clone()).into_response())
}

/// Write a key
///
/// The body is the value, up to 1 MiB of any bytes; its Content-Type is kept.
#[utoipa::path(
    put, path = "/v1/kv/{key}", tag = "keys", operation_id = "kv_put",
    params(("key" = String, Path, description = "1 to 1,024 bytes of UTF-8, percent-encoded; slashes may stand as they are", min_length = 1, max_length = 1024)),
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
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    input::no_query(&uri)?;
    let content_type = content_type(&headers)?;
    let value = input::body("value", &headers, body, VALUE_BYTES_MAX).await?;
    let store = app.store()?;
    let written = store.write(&Op::Put { key: key.clone(), value, content_type }).await?;
    let created = written.reply == Reply::Written { created: true };
    let mut headers = data_headers(store, written.revision);
    headers.insert(ETAG, etag(written.revision));
    let body = Json(Put { key, revision: written.revision, created });
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, headers, body).into_response())
}

/// Delete a key
#[utoipa::path(
    delete, path = "/v1/kv/{key}", tag = "keys", operation_id = "kv_delete",
    params(("key" = String, Path, description = "1 to 1,024 bytes of UTF-8, percent-encoded; slashes may stand as they are", min_length = 1, max_length = 1024)),
    responses((status = 204, description = "It is gone"), DeleteErrors),
)]
pub(super) async fn delete(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let key = input::key(&uri)?;
    input::no_query(&uri)?;
    let store = app.store()?;
    let written = store.write(&Op::Delete { key: key.clone() }).await?;
    if written.reply == (Reply::Deleted { existed: false }) {
        return Err(not_found(&key));
    }
    Ok((StatusCode::NO_CONTENT, data_headers(store, written.revision)).into_response())
}

/// A revision as an entity tag.
pub(super) fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from(revision))
}

fn not_found(key: &str) -> Problem {
    Problem::new(Code::KeyNotFound, format!("key: {key:?} does not exist"))
}

fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(String::new()) };
    match given.to_str() {
        Ok(text) if text.len() <= CONTENT_TYPE_BYTES_MAX => Ok(text.to_owned()),
        Ok(text) => {
            let detail = format!("Content-Type: {} bytes, more than {CONTENT_TYPE_BYTES_MAX}", text.len());
            Err(Problem::new(Code::InvalidBody, detail))
        }
        Err(_) => Err(Problem::new(Code::InvalidBody, "Content-Type: not visible ASCII")),
    }
}
