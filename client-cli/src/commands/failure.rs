//! How a command fails: one line on stderr that says what happened, one that says what to do, and the
//! exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::error::{Error, Outcome, Problem};

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The cluster refused, or did not answer.
    #[error(transparent)]
    Client(#[from] Error),
    /// The result could not be written.
    #[error("the result could not be written: {0}")]
    Output(#[from] io::Error),
    /// The command got its answer, and the answer is no.
    #[error("{0}")]
    Failed(String),
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    /// As [`Failure::Failed`], where the output already says all.
    #[error("failed")]
    Reported,
}

impl Failure {
    /// What the user can do about it.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Client(Error::Unreachable { .. }) => {
                "start a cluster with `hearthd dev`, or name its nodes with --endpoints"
            }
            Self::Client(Error::OutcomeUnknown { idempotency_key: Some(key), .. }) => {
                return Some(format!(
                    "repeat it with --idempotency-key {key}, and it is applied once in all"
                ));
            }
            Self::Client(Error::OutcomeUnknown { idempotency_key: None, .. }) => UNKNOWN,
            Self::Client(Error::Compacted { .. }) => COMPACTED,
            Self::Client(Error::Api(problem)) => problem.hint()?,
            Self::Client(Error::Protocol { .. }) => "is this a Hearth node, and of the same version?",
            Self::Usage(_) | Self::Client(Error::Usage(_)) => "see --help",
            Self::Output(_) | Self::Failed(_) | Self::Reported => return None,
        };
        Some(hint.to_owned())
    }

    /// Nobody reads the output any more: `hearth … | head`.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

const UNKNOWN: &str = "the write may have been applied: read before writing again";

const COMPACTED: &str = "list the keys, then watch without --after";

impl Problem {
    fn hint(&self) -> Option<&'static str> {
        match self.status {
            401 | 403 => Some("pass a token that may do this with --token or HEARTH_TOKEN"),
            412 => Some("it changed meanwhile: read it again before writing"),
            _ if self.outcome == Outcome::Unknown => Some(UNKNOWN),
            _ if self.retryable => Some("try again in a moment"),
            _ => None,
        }
    }
}

/// The exit code for how a command ended, after saying on stderr why it failed.
pub fn exit_code(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if failure.is_broken_pipe() {
        return ExitCode::SUCCESS;
    }
    // A closed stderr leaves nowhere to complain to.
    let _ = io::stderr().lock().write_all(message(&failure).as_bytes());
    match failure {
        Failure::Usage(_) | Failure::Client(Error::Usage(_)) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// What stderr gets. Texts from a server or the user keep to their line and cannot steer the terminal.
fn message(failure: &Failure) -> String {
    if matches!(failure, Failure::Reported) {
        return String::new();
    }
    let what: String = failure.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match failure.hint() {
        Some(hint) => format!("hearth: {what}\n  hint: {hint}\n"),
        None => format!("hearth: {what}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, message};
    use crate::error::{Error, Outcome, Problem, Tried};

    fn problem(status: u16, code: &str, retryable: bool, outcome: Outcome) -> Failure {
        Failure::Client(Error::Api(Box::new(Problem {
            status,
            title: "Title".into(),
            detail: "two\nlines".into(),
            code: code.into(),
            retryable,
            outcome,
            request_id: "r7".into(),
            retry_after: None,
            current_revision: None,
            oldest_revision: None,
        })))
    }

    #[test]
    fn each_failure_is_one_line_and_a_hint() {
        let endpoint = || "127.0.0.1:8080".parse().unwrap();
        for (failure, expected) in [
            (
                Failure::Client(Error::Unreachable {
                    tried: vec![
                        Tried { endpoint: endpoint(), reason: "connection refused".into() },
                        Tried {
                            endpoint: "[::1]:8081".parse().unwrap(),
                            reason: "no answer came in time".into(),
                        },
                    ],
                }),
                "hearth: no endpoint answered: 127.0.0.1:8080 (connection refused), [::1]:8081 (no answer came \
                 in time)\n  hint: start a cluster with `hearthd dev`, or name its nodes with --endpoints\n",
            ),
            (
                Failure::Client(Error::OutcomeUnknown {
                    endpoint: endpoint(),
                    reason: "no answer came in time".into(),
                    idempotency_key: None,
                }),
                "hearth: the outcome is unknown: the request was sent to 127.0.0.1:8080, then no answer came \
                 in time\n  hint: the write may have been applied: read before writing again\n",
            ),
            (
                Failure::Client(Error::OutcomeUnknown {
                    endpoint: endpoint(),
                    reason: "no answer came in time".into(),
                    idempotency_key: Some("k1".parse().unwrap()),
                }),
                "hearth: the outcome is unknown: the request was sent to 127.0.0.1:8080, then no answer came \
                 in time\n  hint: repeat it with --idempotency-key k1, and it is applied once in all\n",
            ),
            (
                problem(503, "no_leader", true, Outcome::NotApplied),
                "hearth: Title: two lines (status 503, no_leader, request r7)\n  hint: try again in a moment\n",
            ),
            (
                problem(401, "unauthorized", false, Outcome::NotApplied),
                "hearth: Title: two lines (status 401, unauthorized, request r7)\n  hint: pass a token that \
                 may do this with --token or HEARTH_TOKEN\n",
            ),
            (
                problem(413, "value_too_large", false, Outcome::NotApplied),
                "hearth: Title: two lines (status 413, value_too_large, request r7)\n",
            ),
            (Failure::Usage("no value".into()), "hearth: no value\n  hint: see --help\n"),
            (Failure::Reported, ""),
        ] {
            assert_eq!(message(&failure), expected);
        }
    }
}
