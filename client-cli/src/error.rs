//! What can go wrong, by what the caller can do about it.

use std::fmt;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER};
use serde::Deserialize;

use crate::endpoint::Endpoint;
use crate::idempotency::IdempotencyKey;

const HEARTH_OLDEST_REVISION: HeaderName = HeaderName::from_static("hearth-oldest-revision");

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused or failed, and said how.
    #[error("{0}")]
    Api(Box<Problem>),
    /// No endpoint answered; nothing was applied.
    ///
    /// For a watch, also: none answers any more.
    #[error("no endpoint answered: {}", Tried::listed(tried))]
    Unreachable {
        /// Each endpoint that was tried, in order, and why it did not do.
        tried: Vec<Tried>,
    },
    /// A write was sent and no answer came that tells whether it was applied.
    #[error("the outcome is unknown: the request was sent to {endpoint}, then {reason}")]
    OutcomeUnknown {
        /// Where the write was sent.
        endpoint: Endpoint,
        /// What happened instead of an answer.
        reason: String,
        /// What the write was sent with, if anything: the same write with the same key may be sent again.
        idempotency_key: Option<IdempotencyKey>,
    },
    /// The events to resume after are no longer kept by any node that answered: some were missed, and a
    /// watch has to start anew.
    #[error("events were missed: {}", .problem.detail)]
    Compacted {
        /// The oldest revision that a watch could be resumed after, if a node said so.
        oldest: Option<u64>,
        /// What the last node said.
        problem: Box<Problem>,
    },
    /// An answer that no Hearth node gives: something else listens there, or the versions do not match.
    #[error("unexpected answer from {endpoint}: {reason}")]
    Protocol {
        /// Who answered.
        endpoint: Endpoint,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The call itself is wrong; nothing was sent.
    #[error("{0}")]
    Usage(String),
}

/// Whether a failed write may have been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was certainly not applied.
    NotApplied,
    /// It may have been applied, or may still be.
    Unknown,
}

/// One endpoint that did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Which one.
    pub endpoint: Endpoint,
    /// Why not, as a phrase without a full stop: `connection refused`.
    pub reason: String,
}

/// The server's own account of a failure: an RFC 9457 problem document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of failure, in a few words.
    pub title: String,
    /// This very failure, with the names and limits concerned; may be empty.
    pub detail: String,
    /// The stable word for the kind, to be matched on: `key_not_found`, `no_leader`.
    pub code: String,
    /// Whether the same request may succeed later or elsewhere.
    pub retryable: bool,
    /// Whether a write may have been applied.
    pub outcome: Outcome,
    /// The id to look for in the node's log; empty when the server sent none.
    pub request_id: String,
    /// How long the server asks to wait before the same request is made again.
    pub retry_after: Option<Duration>,
    /// With `precondition_failed`, the revision that the key has; `None` when there is no such key.
    pub current_revision: Option<u64>,
    /// With `compacted`, the oldest revision that a watch can be resumed after at the node that answered.
    pub oldest_revision: Option<u64>,
}

/// The document as sent. Every field may be missing: a proxy may have written it.
#[derive(Deserialize)]
struct Document {
    status: Option<u16>,
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    retryable: Option<bool>,
    outcome: Option<Outcome>,
    request_id: Option<String>,
}

impl Error {
    /// Whether the write that failed with this error may have been applied. Pessimistic for an answer
    /// that could not be understood.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Api(problem) => problem.outcome,
            Self::Unreachable { .. } | Self::Usage(_) | Self::Compacted { .. } => Outcome::NotApplied,
            Self::OutcomeUnknown { .. } | Self::Protocol { .. } => Outcome::Unknown,
        }
    }

    /// Whether the server answered with this code.
    pub fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Api(problem) if problem.code == code)
    }
}

impl Problem {
    /// Reads an `application/problem+json` body; `None` when it is not one. What is missing is filled in:
    /// the status from the answer's, no retry, and an unknown outcome for a 5xx.
    pub(crate) fn parse(status: u16, headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let header =
            |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/problem+json") {
            return None;
        }
        let document: Document = serde_json::from_slice(body).ok()?;
        Some(Self {
            status: document.status.unwrap_or(status),
            title: document.title.unwrap_or_else(|| format!("status {status}")),
            detail: document.detail.unwrap_or_default(),
            code: document.code.unwrap_or_default(),
            retryable: document.retryable.unwrap_or(false),
            outcome: document.outcome.unwrap_or(if status < 500 {
                Outcome::NotApplied
            } else {
                Outcome::Unknown
            }),
            request_id: document.request_id.unwrap_or_default(),
            // A date, which HTTP allows here as well, is not what a node sends.
            retry_after: header(RETRY_AFTER).parse().ok().map(Duration::from_secs),
            current_revision: header(ETAG).trim_matches('"').parse().ok(),
            oldest_revision: header(HEARTH_OLDEST_REVISION).parse().ok(),
        })
    }

    /// Whether this refusal tells what became of every earlier attempt of the same write with the same
    /// idempotency key: it depends on nothing but the request, or is the answer that the cluster keeps
    /// under the key. What a node says of itself, or of who is asking, does not.
    pub(crate) fn settles(&self) -> bool {
        match self.status {
            400 | 409 | 412 | 413 | 414 | 422 | 431 => true,
            404 => self.code == "key_not_found",
            _ => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if !self.detail.is_empty() && self.detail != self.title {
            write!(f, ": {}", self.detail)?;
        }
        write!(f, " (status {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, ", {}", self.code)?;
        }
        if !self.request_id.is_empty() {
            write!(f, ", request {}", self.request_id)?;
        }
        f.write_str(")")
    }
}

impl Tried {
    /// All of them on one line.
    fn listed(tried: &[Self]) -> String {
        let each: Vec<String> = tried.iter().map(Self::to_string).collect();
        each.join(", ")
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.endpoint, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::HeaderMap;
    use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER};

    use super::{HEARTH_OLDEST_REVISION, Outcome, Problem};

    const PROBLEM: &str = "application/problem+json";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, text)| (name.clone(), HeaderValue::from_str(text).unwrap())).collect()
    }

    #[test]
    fn problems_are_read_with_what_is_missing_filled_in() {
        let full =
            br#"{"type":"about:blank","title":"No leader","status":503,"detail":"no leader within 5 s",
            "code":"no_leader","retryable":true,"outcome":"not_applied","request_id":"r1","extra":1}"#;
        let fields = [
            (CONTENT_TYPE, "application/problem+json; charset=utf-8"),
            (RETRY_AFTER, "2"),
            (ETAG, "\"7\""),
            (HEARTH_OLDEST_REVISION, "5"),
        ];
        let problem = Problem::parse(503, &headers(&fields), full).unwrap();
        assert_eq!(
            problem,
            Problem {
                status: 503,
                title: "No leader".into(),
                detail: "no leader within 5 s".into(),
                code: "no_leader".into(),
                retryable: true,
                outcome: Outcome::NotApplied,
                request_id: "r1".into(),
                retry_after: Some(Duration::from_secs(2)),
                current_revision: Some(7),
                oldest_revision: Some(5),
            }
        );
        assert_eq!(
            problem.to_string(),
            "No leader: no leader within 5 s (status 503, no_leader, request r1)"
        );

        for (status, outcome) in [(404, Outcome::NotApplied), (502, Outcome::Unknown)] {
            let fields = headers(&[(CONTENT_TYPE, PROBLEM), (RETRY_AFTER, "Tue, 24 Nov 2026 12:00:00 GMT")]);
            let problem = Problem::parse(status, &fields, b"{}").unwrap();
            assert_eq!((problem.retry_after, problem.current_revision), (None, None));
            assert_eq!((problem.status, problem.retryable, problem.outcome), (status, false, outcome));
            assert_eq!(problem.to_string(), format!("status {status} (status {status})"));
        }
    }

    #[test]
    fn other_bodies_are_no_problems() {
        for (content_type, body) in [
            ("text/html", "<h1>502</h1>"),
            ("application/json", r#"{"title":"x"}"#),
            (PROBLEM, "not json"),
            (PROBLEM, r#"{"status":"503"}"#),
            (PROBLEM, r#"{"outcome":"perhaps"}"#),
            ("", ""),
        ] {
            let fields = headers(&[(CONTENT_TYPE, content_type)]);
            assert_eq!(Problem::parse(500, &fields, body.as_bytes()), None, "{body}");
        }
    }
}
