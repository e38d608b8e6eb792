//! Is a node alive, and may it get traffic: `/livez` and `/readyz`.

use std::time::{Duration, Instant};

use crate::client::{Call, Client};
use crate::connection::Answer;
use crate::endpoint::Endpoint;
use crate::error::{Error, Problem};
use crate::retry::Kind;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it answered 200.
    pub healthy: bool,
    /// Its checks, as far as it named them.
    pub checks: Vec<Check>,
    /// How long the answer took, connecting included.
    pub took: Duration,
}

/// One check of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The name, such as `leader`.
    pub name: String,
    /// Why it fails, `None` when it passes.
    pub failure: Option<String>,
}

impl Client {
    /// Whether the node at `endpoint` may get traffic. [`Error::Unreachable`] when it does not answer.
    pub async fn ready(&self, endpoint: &Endpoint) -> Result<Health, Error> {
        self.probe(endpoint, "/readyz?verbose").await
    }

    /// Whether the process at `endpoint` is alive. [`Error::Unreachable`] when it does not answer.
    pub async fn live(&self, endpoint: &Endpoint) -> Result<Health, Error> {
        self.probe(endpoint, "/livez?verbose").await
    }

    async fn probe(&self, endpoint: &Endpoint, path: &str) -> Result<Health, Error> {
        let began = Instant::now();
        let answer = self.ask(endpoint, &Call::get(Kind::Read, path)).await?;
        let took = began.elapsed();
        match answer.status.as_u16() {
            200 => Ok(Health { healthy: true, checks: checks(&answer.body), took }),
            503 => Ok(Health { healthy: false, checks: failing_checks(&answer), took }),
            status => match Problem::parse(status, &answer.headers, &answer.body) {
                Some(problem) => Err(Error::Api(Box::new(problem))),
                None => Err(answer.unexpected(format!("status {status}"))),
            },
        }
    }
}

impl Health {
    /// The checks that fail, with why.
    pub fn failing(&self) -> impl Iterator<Item = (&str, &str)> {
        self.checks.iter().filter_map(|check| Some((check.name.as_str(), check.failure.as_deref()?)))
    }
}

/// The checks in a body of lines `[+]name ok` and `[-]name failed: why`; other lines are skipped.
fn checks(body: &[u8]) -> Vec<Check> {
    let text = String::from_utf8_lossy(body);
    text.lines().filter_map(|line| check(line.trim())).collect()
}

fn check(line: &str) -> Option<Check> {
    if let Some(rest) = line.strip_prefix("[+]") {
        let name = rest.strip_suffix(" ok").unwrap_or(rest).trim().to_owned();
        return Some(Check { name, failure: None });
    }
    let rest = line.strip_prefix("[-]")?;
    let (name, why) = rest.split_once(' ').unwrap_or((rest, "failed"));
    let why = why.strip_prefix("failed:").unwrap_or(why).trim();
    Some(Check { name: name.trim_end_matches(':').to_owned(), failure: Some(why.to_owned()) })
}

/// The checks of an answer that says not ready; at least one of them fails.
fn failing_checks(answer: &Answer) -> Vec<Check> {
    let mut found = checks(&answer.body);
    if found.iter().all(|check| check.failure.is_none()) {
        let why = match Problem::parse(503, &answer.headers, &answer.body) {
            Some(problem) if !problem.detail.is_empty() => problem.detail,
            Some(problem) => problem.title,
            None => "status 503".to_owned(),
        };
        found.push(Check { name: "ready".to_owned(), failure: Some(why) });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Check, checks};

    #[test]
    fn checks_are_read_line_by_line() {
        let body =
            "[+]storage ok\n[-]leader failed: no leader for 1.2 s\n[-]disk: full\n[-]bare\nnot ready\n";
        let failed = |name: &str, why: &str| Check { name: name.into(), failure: Some(why.into()) };
        assert_eq!(
            checks(body.as_bytes()),
            [
                Check { name: "storage".into(), failure: None },
                failed("leader", "no leader for 1.2 s"),
                failed("disk", "full"),
                failed("bare", "failed"),
            ]
        );
        assert_eq!(checks(b"ok\n"), []);
    }
}
