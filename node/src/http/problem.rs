//! Errors as clients see them: RFC 9457 problem details with a stable code, whether trying again
//! makes sense, and whether the request was applied.
//!
//! The one table of codes and statuses is [`Code`].

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hearth_raft::{ReadError, WatchError, WriteError};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::compute::cpu::CpuError;
use crate::compute::local_program::LocalProgramError;
use crate::http::HEARTH_OLDEST_REVISION;

/// The media type of problem details.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Declares [`Code`] with its table: variant, word, status, title, and whether the same request may
/// succeed later.
macro_rules! codes {
    ($($variant:ident $word:literal $status:ident $title:literal $retry:ident)*) => {
        /// What went wrong, in one stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($variant),* }

        impl Code {
            /// All of them, in the order of the table.
            pub(super) const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable word.
            pub(super) fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The one status that goes with it.
            pub(super) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),* }
            }

            /// A sentence for people; the same for every occurrence.
            pub(super) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }

            /// Whether the same request may succeed later.
            pub(super) fn retryable(self) -> bool {
                match self { $(Self::$variant => codes!(@ $retry)),* }
            }
        }
    };
    (@ retry) => { true };
    (@ stop) => { false };
}

codes! {
    InvalidRequest   "invalid_request"    BAD_REQUEST           "This is not an HTTP request"                stop
    InvalidKey       "invalid_key"        BAD_REQUEST           "The key is not valid"                       stop
    InvalidName      "invalid_name"       BAD_REQUEST           "The name is not valid"                      stop
    InvalidAge       "invalid_age"        BAD_REQUEST           "The age is not valid"                       stop
    InvalidBody      "invalid_body"       BAD_REQUEST           "The body is not valid"                      stop
    InvalidParameter "invalid_parameter"  BAD_REQUEST           "A query parameter is not valid"             stop
    InvalidHeader    "invalid_header"     BAD_REQUEST           "A header is not valid"                      stop
    KeyNotFound      "key_not_found"      NOT_FOUND             "There is no such key"                       stop
    NotFound         "not_found"          NOT_FOUND             "There is no such path"                      stop
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED    "The path does not have this method"         stop
    ClientTimeout    "client_timeout"     REQUEST_TIMEOUT       "The request took too long to arrive"        retry
    NotAnInteger     "not_an_integer"     CONFLICT              "The value is not an integer"                stop
    IntegerOverflow  "integer_overflow"   CONFLICT              "The sum does not fit"                       stop
    Compacted        "compacted"          GONE                  "The history does not go back that far"      stop
    PreconditionFailed "precondition_failed" PRECONDITION_FAILED "The condition does not hold"               stop
    BodyTooLarge     "body_too_large"     PAYLOAD_TOO_LARGE     "The body is too large"                      stop
    ResultTooLarge   "result_too_large"   PAYLOAD_TOO_LARGE     "The transaction reads too much"             stop
    PrefixTooLarge   "prefix_too_large"   PAYLOAD_TOO_LARGE     "The prefix has too many keys"               stop
    KeyTooLong       "key_too_long"       URI_TOO_LONG          "The key is too long"                        stop
    UriTooLong       "uri_too_long"       URI_TOO_LONG          "The path and query are too long"            stop
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY "The idempotency key was used for another request" stop
    HeadersTooLarge  "headers_too_large"  REQUEST_HEADER_FIELDS_TOO_LARGE "The headers are too large or too many" stop
    Overloaded       "overloaded"         TOO_MANY_REQUESTS     "Too much is in progress"                    retry
    Internal         "internal"           INTERNAL_SERVER_ERROR "The node made an error"                     stop
    ProgramFailed    "program_failed"     BAD_GATEWAY           "The local program gave no status"           retry
    NoLeader         "no_leader"          SERVICE_UNAVAILABLE   "No leader could be reached"                 retry
    RevisionNotReached "revision_not_reached" SERVICE_UNAVAILABLE "The node is not that far yet"             retry
    OutcomeUnknown   "outcome_unknown"    GATEWAY_TIMEOUT       "The write may or may not be applied"        stop
    ProgramTimeout   "program_timeout"    GATEWAY_TIMEOUT       "The local program took too long"            retry
    StorageFull      "storage_full"       INSUFFICIENT_STORAGE  "The store is full"                          retry
}

impl Code {
    /// What became of the request.
    fn outcome(self) -> Outcome {
        if self == Self::OutcomeUnknown { Outcome::Unknown } else { Outcome::NotApplied }
    }

    /// How long a client should wait before it makes the same request again; nothing when that cannot be said.
    fn retry_after(self) -> Option<Duration> {
        let soon = matches!(self, Self::NoLeader | Self::RevisionNotReached | Self::Overloaded);
        soon.then_some(Duration::from_secs(1))
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl utoipa::PartialSchema for Code {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let described = Self::ALL.iter().map(|code| {
            let described = serde_json::json!({
                "status": code.status().as_u16(),
                "retryable": code.retryable(),
                "outcome": code.outcome(),
                "retry_after": code.retry_after().is_some(),
            });
            (code.word().to_owned(), described)
        });
        let described: serde_json::Map<_, _> = described.collect();
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .description(Some("`x-codes` says of each which status it has, whether the same request may succeed later, whether it was applied, and whether `Retry-After` comes with it."))
            .enum_values(Some(Self::ALL.iter().map(|code| code.word())))
            .extensions(Some(utoipa::openapi::extensions::Extensions::from_iter([("x-codes", described)])))
            .into()
    }
}

impl ToSchema for Code {}

/// Whether a failed request was applied.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Certainly not, and it will not be.
    NotApplied,
    /// It may have been, or may still be.
    Unknown,
}

/// The body of every error (RFC 9457, application/problem+json).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Details<'a> {
    /// `urn:hearth:problem:` and the code.
    r#type: String,
    /// A sentence that is the same for every problem with this code.
    title: &'a str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What exactly is wrong: the field and the limit, or what to do.
    detail: &'a str,
    /// What is wrong, in one stable word.
    code: Code,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// Whether the request was applied.
    outcome: Outcome,
    /// As in the header Hearth-Request-Id.
    request_id: &'a str,
}

/// An error on its way to the client. The body is written by [`with_request_id`], which knows the
/// request's id.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// Boxed, as few have any, and every handler passes problems on by value.
    headers: Option<Box<HeaderMap>>,
}

impl Problem {
    /// `detail` names the field and the limit, or says what to do.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), retry_after: code.retry_after(), headers: None }
    }

    /// For a reply of the store that does not fit the write: a mistake of ours.
    pub(crate) fn unexpected() -> Self {
        Self::new(Code::OutcomeUnknown, "the store gave an answer of another kind")
    }

    /// For an answer that cannot be written as JSON: a mistake of ours.
    pub(crate) fn no_json(error: &serde_json::Error) -> Self {
        Self::new(Code::Internal, format!("the answer has no JSON form: {error}"))
    }

    /// The same with headers of an answer about data.
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(Box::new(headers));
        self
    }

    /// The body.
    pub(super) fn json(&self, request_id: &str) -> String {
        let code = self.code;
        let details = Details {
            r#type: format!("urn:hearth:problem:{}", code.word()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: &self.detail,
            code,
            retryable: code.retryable(),
            outcome: code.outcome(),
            request_id,
        };
        // Strings and numbers always have a JSON form.
        serde_json::to_string(&details).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a response that carries a [`Problem`].
pub(super) fn with_request_id(response: &mut Response, request_id: &HeaderValue) {
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return };
    let headers = response.headers_mut();
    if let Some(more) = problem.headers.take() {
        headers.extend(*more);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(after) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    // Only ids of visible ASCII are taken over from clients.
    let request_id = request_id.to_str().unwrap_or_default();
    *response.body_mut() = Body::from(problem.json(request_id));
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

impl From<WatchError> for Problem {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Behind { .. } => Self::new(Code::RevisionNotReached, error.to_string()),
            WatchError::Compacted { oldest, .. } => {
                let headers = HeaderMap::from_iter([(HEARTH_OLDEST_REVISION, HeaderValue::from(oldest))]);
                Self::new(Code::Compacted, format!("after: {error}")).with_headers(headers)
            }
        }
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
