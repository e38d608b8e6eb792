//! `hearth health`: is each endpoint ready.

use serde::Serialize;
use tokio::task::JoinSet;

use super::failure::Failure;
use super::output::{Format, Output, printable};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::health;

/// Asks every endpoint at the same time, and fails when any is not ready.
///
/// A line per endpoint, in the order given. An endpoint that does not answer fails the check `answer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With -o json: [{\"endpoint\",\"healthy\",\"took_ms\",\"failing\":[{\"name\",\"reason\"}]}], without took_ms where \
no answer came.")]
pub struct Health {}

/// What became of one endpoint.
#[derive(Serialize)]
struct Line {
    endpoint: String,
    healthy: bool,
    /// How long the answer took; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<f64>,
    failing: Vec<Failing>,
}

#[derive(Serialize)]
struct Failing {
    name: String,
    reason: String,
}

impl Health {
    /// Asks and writes; [`Failure::Reported`] when any endpoint is not ready.
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let lines = asked(client).await;
        if output.format == Format::Json {
            output.json(&lines)?;
        } else {
            for line in &lines {
                output.line(&line.text())?;
            }
        }
        if lines.iter().all(|line| line.healthy) { Ok(()) } else { Err(Failure::Reported) }
    }
}

/// The answers of all endpoints, in their order.
async fn asked(client: &Client) -> Vec<Line> {
    let mut asking = JoinSet::new();
    for (index, endpoint) in client.endpoints().cloned().enumerate() {
        let client = client.clone();
        asking.spawn(async move {
            let answer = client.ready(&endpoint).await;
            (index, Line::new(&endpoint, answer))
        });
    }
    let mut lines = asking.join_all().await;
    lines.sort_by_key(|(index, _)| *index);
    lines.into_iter().map(|(_, line)| line).collect()
}

impl Line {
    fn new(endpoint: &Endpoint, answer: Result<health::Health, Error>) -> Self {
        let endpoint = endpoint.to_string();
        match answer {
            Ok(health) => Self {
                endpoint,
                healthy: health.healthy,
                took_ms: Some(health.took.as_secs_f64() * 1e3),
                failing: health
                    .failing()
                    .map(|(name, reason)| Failing { name: name.to_owned(), reason: reason.to_owned() })
                    .collect(),
            },
            Err(error) => {
                let reason = match error {
                    // The endpoint is named already.
                    Error::Unreachable { tried } => {
                        tried.into_iter().map(|tried| tried.reason).collect::<Vec<_>>().join(", ")
                    }
                    other => other.to_string(),
                };
                let failing = vec![Failing { name: "answer".to_owned(), reason }];
                Self { endpoint, healthy: false, took_ms: None, failing }
            }
        }
    }

    /// `127.0.0.1:8080 is healthy: took = 1.06 ms`
    fn text(&self) -> String {
        let took = self.took_ms.map(|ms| format!("took = {ms:.2} ms"));
        let failing = self.failing.iter().map(|check| format!("{}: {}", check.name, check.reason));
        let details: Vec<String> = failing.chain(took).collect();
        let state = if self.healthy { "healthy" } else { "unhealthy" };
        printable(&format!("{} is {state}: {}", self.endpoint, details.join("; ")))
    }
}
