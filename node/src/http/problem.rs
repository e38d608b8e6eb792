//! Errors as clients see them: RFC 9457 problem details with a stable code, whether trying again
//! makes sense, and whether the request was applied.
//!
//! The one table of status codes is [`Code::row`].

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hearth_raft::{ReadError, WriteError};
use serde_json::json;

use crate::compute::cpu::CpuError;
use crate::compute::local_program::LocalProgramError;

/// What went wrong, in one stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidKey,
    InvalidName,
    InvalidAge,
    InvalidBody,
    InvalidParameter,
    InvalidHeader,
    KeyNotFound,
    NotFound,
    MethodNotAllowed,
    PreconditionFailed,
    NotAnInteger,
    IntegerOverflow,
    BodyTooLarge,
    ResultTooLarge,
    PrefixTooLarge,
    KeyTooLong,
    IdempotencyKeyReused,
    NoLeader,
    RevisionNotReached,
    Overloaded,
    StorageFull,
    OutcomeUnknown,
    ProgramFailed,
    ProgramTimeout,
    Internal,
}

impl Code {
    /// The word, the status, the title, and whether the same request may succeed later.
    fn row(self) -> (&'static str, StatusCode, &'static str, bool) {
        use StatusCode as S;
        match self {
            Self::InvalidKey => ("invalid_key", S::BAD_REQUEST, "The key is not valid", false),
            Self::InvalidName => ("invalid_name", S::BAD_REQUEST, "The name is not valid", false),
            Self::InvalidAge => ("invalid_age", S::BAD_REQUEST, "The age is not valid", false),
            Self::InvalidBody => ("invalid_body", S::BAD_REQUEST, "The body is not valid", false),
            Self::InvalidParameter => {
                ("invalid_parameter", S::BAD_REQUEST, "A query parameter is not valid", false)
            }
            Self::InvalidHeader => ("invalid_header", S::BAD_REQUEST, "A header is not valid", false),
            Self::KeyNotFound => ("key_not_found", S::NOT_FOUND, "There is no such key", false),
            Self::NotFound => ("not_found", S::NOT_FOUND, "There is no such path", false),
            Self::MethodNotAllowed => {
                ("method_not_allowed", S::METHOD_NOT_ALLOWED, "The path does not have this method", false)
            }
            Self::BodyTooLarge => ("body_too_large", S::PAYLOAD_TOO_LARGE, "The body is too large", false),
            Self::PreconditionFailed => {
                ("precondition_failed", S::PRECONDITION_FAILED, "The condition does not hold", false)
            }
            Self::NotAnInteger => ("not_an_integer", S::CONFLICT, "The value is not an integer", false),
            Self::IntegerOverflow => ("integer_overflow", S::CONFLICT, "The sum does not fit", false),
            Self::ResultTooLarge => {
                ("result_too_large", S::PAYLOAD_TOO_LARGE, "The transaction reads too much", false)
            }
            Self::PrefixTooLarge => {
                ("prefix_too_large", S::PAYLOAD_TOO_LARGE, "The prefix has too many keys", false)
            }
            Self::IdempotencyKeyReused => (
                "idempotency_key_reused",
                S::UNPROCESSABLE_ENTITY,
                "The idempotency key was used for another request",
                false,
            ),
            Self::RevisionNotReached => {
                ("revision_not_reached", S::SERVICE_UNAVAILABLE, "The node is not that far yet", true)
            }
            Self::KeyTooLong => ("key_too_long", S::URI_TOO_LONG, "The key is too long", false),
            Self::NoLeader => ("no_leader", S::SERVICE_UNAVAILABLE, "No leader could be reached", true),
            Self::Overloaded => ("overloaded", S::TOO_MANY_REQUESTS, "Too much is in progress", true),
            Self::StorageFull => ("storage_full", S::INSUFFICIENT_STORAGE, "The store is full", true),
            Self::OutcomeUnknown => {
                ("outcome_unknown", S::GATEWAY_TIMEOUT, "The write may or may not be applied", false)
            }
            Self::ProgramFailed => {
                ("program_failed", S::BAD_GATEWAY, "The local program gave no status", true)
            }
            Self::ProgramTimeout => {
                ("program_timeout", S::GATEWAY_TIMEOUT, "The local program took too long", true)
            }
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "The node made an error", false),
        }
    }
}

/// An error on its way to the client. The body is written by [`with_request_id`], which knows the
/// request's id.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// Boxed: few problems have any, and results are as large as their error.
    headers: Option<Box<HeaderMap>>,
}

impl Problem {
    /// `detail` names the field and the limit, or says what to do.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = matches!(code, Code::NoLeader | Code::RevisionNotReached | Code::Overloaded)
            .then_some(Duration::from_secs(1));
        Self { code, detail: detail.into(), retry_after, headers: None }
    }

    /// For a reply of the store that does not fit the write: a mistake of ours.
    pub(crate) fn unexpected() -> Self {
        Self::new(Code::OutcomeUnknown, "the store gave an answer of another kind")
    }

    /// The same with headers of an answer about data.
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(Box::new(headers));
        self
    }

    fn json(&self, request_id: &str) -> String {
        let (code, status, title, retryable) = self.code.row();
        let outcome = if self.code == Code::OutcomeUnknown { "unknown" } else { "not_applied" };
        json!({
            "type": format!("urn:hearth:problem:{code}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
            "code": code,
            "retryable": retryable,
            "outcome": outcome,
            "request_id": request_id,
        })
        .to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.row().1.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a response that carries a [`Problem`].
pub(crate) fn with_request_id(mut response: Response, request_id: &str) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let headers = response.headers_mut();
    headers.extend(problem.headers.as_deref().cloned().unwrap_or_default());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(after) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    *response.body_mut() = Body::from(problem.json(request_id));
    response
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let code = match &error {
            WriteError::NoLeader { .. } => Code::NoLeader,
            WriteError::Overloaded => Code::Overloaded,
            WriteError::StorageFull { .. } | WriteError::DiskLow { .. } => Code::StorageFull,
            WriteError::OutcomeUnknown { .. } => Code::OutcomeUnknown,
            WriteError::Invalid(_) => Code::InvalidBody,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::NoLeader { .. } => Code::NoLeader,
            ReadError::Behind { .. } => Code::RevisionNotReached,
        };
        Self::new(code, error.to_string())
    }
}

impl From<CpuError> for Problem {
    fn from(error: CpuError) -> Self {
        let code = match &error {
            CpuError::Overloaded { .. } => Code::Overloaded,
            CpuError::Lost => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<LocalProgramError> for Problem {
    fn from(error: LocalProgramError) -> Self {
        let code = match &error {
            LocalProgramError::Overloaded { .. } => Code::Overloaded,
            LocalProgramError::Timeout { .. } => Code::ProgramTimeout,
            _ => Code::ProgramFailed,
        };
        let mut problem = Self::new(code, error.to_string());
        if let LocalProgramError::Overloaded { retry_after } = error {
            problem.retry_after = Some(retry_after);
        }
        problem
    }
}

/// The answer for paths that do not exist.
pub(crate) async fn unknown_path(uri: Uri) -> Problem {
    Problem::new(Code::NotFound, format!("there is nothing at {}", uri.path()))
}

/// The answer for methods that a path does not have; axum adds `Allow`.
pub(crate) async fn wrong_method(method: Method, request: Request) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} does not answer {method}", request.uri().path()))
}
