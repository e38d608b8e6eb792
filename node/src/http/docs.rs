//! `/openapi.json`, and `/docs`: a page that shows it without anything from elsewhere.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};

use crate::http::openapi::errors;
use crate::http::problem::Problem;
use crate::http::{App, input};

const PAGE: &str = include_str!("docs.html");
/// The page runs its own script and asks this node; nothing else is loaded from anywhere.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

errors!(DocsErrors: InvalidParameter);

/// The OpenAPI document
#[utoipa::path(
    get, path = "/openapi.json", tag = "documentation", operation_id = "openapi",
    responses((status = 200, description = "This document", body = Object), DocsErrors),
)]
pub(super) async fn document(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    input::no_query(&uri)?;
    let json = app.document.get().cloned().unwrap_or_default();
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// The documentation as a page
///
/// Works without a connection to anything but this node.
#[utoipa::path(
    get, path = "/docs", tag = "documentation", operation_id = "docs",
    responses((status = 200, description = "A page", body = String, content_type = "text/html"), DocsErrors),
)]
pub(super) async fn page(uri: Uri) -> Result<Response, Problem> {
    input::no_query(&uri)?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, PAGE).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for word in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!PAGE.contains(word), "{word} in docs.html");
        }
        assert!(PAGE.contains("fetch('/openapi.json')"));
    }
}
