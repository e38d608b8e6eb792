//! What became of a call so far, and what that means when it is given up.

use crate::endpoint::Endpoint;
use crate::error::{Error, Outcome, Problem, Tried};
use crate::idempotency::IdempotencyKey;

/// The failed attempts of one call.
///
/// Invariant: once an attempt may have been applied, the call does not end with an error that says it was
/// not, whatever a later attempt says of itself.
#[derive(Default)]
pub(crate) struct Attempts {
    /// The endpoints that gave no answer, and what happened there last: one entry each.
    silent: Vec<Tried>,
    /// The last refusal after which another endpoint could be asked.
    refused: Option<Box<Problem>>,
    /// The first attempt of a write that may have been applied.
    unknown: Option<Tried>,
    /// Whether an endpoint took a request that it may answer another time.
    worth_waiting: bool,
}

impl Attempts {
    /// The request did not get to an endpoint.
    pub(crate) fn not_sent(&mut self, endpoint: &Endpoint, reason: String) {
        self.silent(endpoint, reason);
    }

    /// A request was sent to an endpoint and its answer is lost; when it was a write, it may have been
    /// applied.
    pub(crate) fn lost(&mut self, endpoint: &Endpoint, reason: String, is_write: bool) {
        self.worth_waiting = true;
        if is_write {
            self.unknown(endpoint, &reason);
        }
        self.silent(endpoint, reason);
    }

    fn silent(&mut self, endpoint: &Endpoint, reason: String) {
        match self.silent.iter_mut().find(|tried| tried.endpoint == *endpoint) {
            Some(tried) => tried.reason = reason,
            None => self.silent.push(Tried { endpoint: endpoint.clone(), reason }),
        }
    }

    /// An endpoint refused, and another may not. Of a write, it may have said that it cannot tell.
    pub(crate) fn refused(&mut self, endpoint: &Endpoint, problem: Box<Problem>) {
        self.worth_waiting |= problem.retry_after.is_some();
        if problem.outcome == Outcome::Unknown {
            self.worth_waiting = true;
            self.unknown(endpoint, &format!("it answered: {problem}"));
        }
        self.refused = Some(problem);
    }

    fn unknown(&mut self, endpoint: &Endpoint, reason: &str) {
        self.unknown.get_or_insert_with(|| Tried { endpoint: endpoint.clone(), reason: reason.to_owned() });
    }

    /// Whether a write may have been applied.
    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// Whether some endpoint took a request and may answer another time. Else there was not even a
    /// connection, or a refusal that does not say when it ends.
    pub(crate) fn worth_waiting(&self) -> bool {
        self.worth_waiting
    }

    /// The error of a call that ends with this refusal.
    pub(crate) fn ended_by(self, problem: Box<Problem>, key: Option<&IdempotencyKey>) -> Error {
        match self.unknown {
            Some(unknown) if !problem.settles() => {
                Error::outcome_unknown(unknown, Some(&problem), self.silent.last(), key)
            }
            _ => Error::Api(problem),
        }
    }

    /// The error of a call that is given up.
    pub(crate) fn given_up(self, key: Option<&IdempotencyKey>) -> Error {
        match (self.unknown, self.refused) {
            (Some(unknown), refused) => {
                Error::outcome_unknown(unknown, refused.as_deref(), self.silent.last(), key)
            }
            // A refusal says more than a closed port.
            (None, Some(problem)) => Error::Api(problem),
            (None, None) => Error::Unreachable { tried: self.silent },
        }
    }
}

impl Error {
    /// A write that was sent where `unknown` says, and nobody told what became of it. What a node refused, or
    /// else what happened last, is told as well.
    fn outcome_unknown(
        unknown: Tried,
        refused: Option<&Problem>,
        silent: Option<&Tried>,
        key: Option<&IdempotencyKey>,
    ) -> Self {
        let more = match (refused, silent) {
            (Some(problem), _) if problem.outcome == Outcome::NotApplied => {
                format!("; a node said: {problem}")
            }
            (None, Some(last)) if last.endpoint != unknown.endpoint => format!("; at last: {last}"),
            _ => String::new(),
        };
        let Tried { endpoint, reason } = unknown;
        Self::OutcomeUnknown { endpoint, reason: reason + &more, idempotency_key: key.cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::Attempts;
    use crate::error::{Error, Outcome, Problem};

    fn problem(status: u16, code: &str) -> Box<Problem> {
        Box::new(Problem {
            status,
            title: "Title".into(),
            detail: String::new(),
            code: code.into(),
            retryable: false,
            outcome: Outcome::NotApplied,
            request_id: String::new(),
            retry_after: None,
            current_revision: None,
            oldest_revision: None,
        })
    }

    #[test]
    fn only_what_settles_the_write_goes_over_an_unknown_outcome() {
        for (status, code, settles) in [
            (400, "invalid_body", true),
            (404, "key_not_found", true),
            (409, "not_an_integer", true),
            (412, "precondition_failed", true),
            (413, "prefix_too_large", true),
            (422, "idempotency_key_reused", true),
            (401, "unauthorized", false),
            (404, "not_found", false),
            (405, "method_not_allowed", false),
            (429, "overloaded", false),
            (500, "internal", false),
            (503, "no_leader", false),
            (507, "storage_full", false),
        ] {
            let mut attempts = Attempts::default();
            attempts.lost(&"a:1".parse().unwrap(), "the connection closed before an answer".into(), true);
            let key = "k".parse().unwrap();
            match attempts.ended_by(problem(status, code), Some(&key)) {
                Error::Api(found) => assert!(settles && found.code == code, "{code}"),
                Error::OutcomeUnknown { reason, idempotency_key, .. } => {
                    assert!(!settles, "{code}");
                    assert_eq!(idempotency_key, Some(key));
                    let expected = "the connection closed before an answer; a node said: Title (status ";
                    assert!(reason.starts_with(expected), "{reason}");
                }
                other => panic!("{other:?}"),
            }
            let none_before = Attempts::default().ended_by(problem(status, code), None);
            assert!(none_before.has_code(code), "{none_before:?}");
        }
    }

    #[test]
    fn a_later_refusal_does_not_make_a_lost_write_not_applied() {
        let mut attempts = Attempts::default();
        let (a, b) = ("a:1".parse().unwrap(), "b:1".parse().unwrap());
        attempts.refused(&b, problem(503, "no_leader"));
        attempts.lost(&a, "no answer came in time".into(), true);
        attempts.not_sent(&b, "connection refused".into());
        attempts.refused(&a, problem(503, "no_leader"));
        let error = attempts.given_up(None);
        assert_eq!(error.outcome(), Outcome::Unknown);
        let expected = "the outcome is unknown: the request was sent to a:1, then no answer came in time; a \
                        node said: Title (status 503, no_leader)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_happened_last_at_each_endpoint_is_told() {
        let mut attempts = Attempts::default();
        let (a, b) = ("a:1".parse().unwrap(), "b:1".parse().unwrap());
        attempts.not_sent(&a, "no connection within 1 s".into());
        attempts.not_sent(&b, "connection refused".into());
        attempts.not_sent(&a, "connection refused".into());
        assert!(!attempts.worth_waiting());
        let error = attempts.given_up(None).to_string();
        assert_eq!(error, "no endpoint answered: a:1 (connection refused), b:1 (connection refused)");
    }
}
