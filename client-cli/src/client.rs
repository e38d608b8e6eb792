//! The client: which endpoint is asked, for how long, and when the next one is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::connection::{Answer, Connections, Failed};
use crate::endpoint::Endpoint;
use crate::error::{Error, Outcome, Problem, Tried};

/// Asks a cluster over HTTP. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    /// One per endpoint, in the order given; at least one.
    endpoints: Vec<Connections>,
    /// The index of the endpoint that answered last: the next call starts there.
    preferred: AtomicUsize,
    /// The `Authorization` field, marked sensitive.
    authorization: Option<HeaderValue>,
    options: Options,
}

/// Bounds and credentials of a [`Client`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How long resolving a name and connecting may take, per endpoint. Default 1 s.
    pub connect_timeout: Duration,
    /// How long a call may take, all endpoints together. Default 10 s.
    pub request_timeout: Duration,
    /// Sent as a bearer token with every request. Default none.
    pub token: Option<Token>,
    /// How many connections are kept open per endpoint between requests. Default 64.
    pub idle_connections_max: usize,
    /// The largest answer body that is read, in bytes. Default 64 MiB.
    pub answer_bytes_max: usize,
}

/// A secret that is sent and never shown: `Debug` hides it, and there is no `Display`.
#[derive(Clone)]
pub struct Token(String);

/// What may be done when a node fails to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// May be asked again. A node gets its share of the time, so that one which hangs is given up for
    /// another.
    Read,
    /// May be asked again, but takes its time: a node gets all that is left.
    Compute,
    /// Sent again only when it was certainly not applied.
    Write,
}

/// One request, before it is known who gets it.
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    /// Path and query, percent-encoded, passed on untouched.
    pub(crate) path: String,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
}

impl Client {
    /// A client for the cluster that answers at `endpoints`; connects when it is first used.
    ///
    /// [`Error::Usage`] when there is no endpoint, or when the token cannot be sent in a header.
    pub fn new(endpoints: Vec<Endpoint>, options: Options) -> Result<Self, Error> {
        if endpoints.is_empty() {
            return Err(Error::Usage("at least one endpoint is needed".to_owned()));
        }
        let authorization = options.token.as_ref().map(Token::authorization).transpose()?;
        let endpoints = endpoints.into_iter().map(Connections::new).collect();
        let shared = Shared { endpoints, preferred: AtomicUsize::new(0), authorization, options };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The endpoints, in the order given.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.shared.endpoints.iter().map(|connections| &connections.endpoint)
    }

    /// Makes the call on one endpoint after the other until one answers with success, or until going
    /// on would be wrong.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, Error> {
        let shared = &*self.shared;
        let deadline = Instant::now() + shared.options.request_timeout;
        let count = shared.endpoints.len();
        let first = shared.preferred.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        let mut refused: Option<Box<Problem>> = None;
        for step in 0..count {
            let index = (first + step) % count;
            let Some(connections) = shared.endpoints.get(index) else { break };
            let until = call.kind.share(deadline, count - step);
            match self.attempt(connections, &call, until).await {
                Attempt::Done(answer) => {
                    shared.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Attempt::Fatal(error) => return Err(error),
                Attempt::Refused(problem) => refused = Some(problem),
                Attempt::Silent(reason) => {
                    tried.push(Tried { endpoint: connections.endpoint.clone(), reason });
                }
            }
        }
        // A refusal says more than a closed port.
        match refused {
            Some(problem) => Err(Error::Api(problem)),
            None => Err(Error::Unreachable { tried }),
        }
    }

    /// Asks exactly this endpoint, whether it is one of the client's or not. The answer may have any
    /// status.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, call: &Call) -> Result<Answer, Error> {
        let shared = &*self.shared;
        let deadline = Instant::now() + shared.options.request_timeout;
        let own = shared.endpoints.iter().find(|connections| connections.endpoint == *endpoint);
        let stranger = Connections::new(endpoint.clone());
        let connections = own.unwrap_or(&stranger);
        let request = self.request(endpoint, call)?;
        connections.exchange(request, deadline, &shared.options).await.map_err(|failed| {
            let (Failed::NotSent(reason) | Failed::Sent(reason)) = failed;
            Error::Unreachable { tried: vec![Tried { endpoint: endpoint.clone(), reason }] }
        })
    }

    /// Makes the call on one endpoint.
    async fn attempt(&self, connections: &Connections, call: &Call, until: Instant) -> Attempt {
        let endpoint = &connections.endpoint;
        let request = match self.request(endpoint, call) {
            Ok(request) => request,
            Err(error) => return Attempt::Fatal(error),
        };
        let answer = match connections.exchange(request, until, &self.shared.options).await {
            Ok(answer) => answer,
            Err(Failed::NotSent(reason)) => return Attempt::Silent(reason),
            Err(Failed::Sent(reason)) => return call.kind.lost(endpoint, reason),
        };
        let status = answer.status.as_u16();
        if answer.status.is_success() {
            return Attempt::Done(answer);
        }
        let mut problem = Problem::parse(status, answer.content_type(), &answer.body);
        if let Some(problem) = problem.as_mut().filter(|_| call.kind != Kind::Write) {
            // There was nothing to apply, whatever the server says.
            problem.outcome = Outcome::NotApplied;
        }
        match problem {
            Some(problem) if call.kind.may_go_on(&problem) => Attempt::Refused(Box::new(problem)),
            Some(problem) => Attempt::Fatal(Error::Api(Box::new(problem))),
            // Not from a node: a proxy in between, which may have passed the request on before it failed.
            None if status >= 500 => {
                call.kind.lost(endpoint, format!("an answer with status {status} and no explanation"))
            }
            None => Attempt::Fatal(answer.unexpected(format!("status {status}"))),
        }
    }

    /// The request as `endpoint` gets it.
    fn request(&self, endpoint: &Endpoint, call: &Call) -> Result<Request<Full<Bytes>>, Error> {
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(HOST, endpoint.to_string())
            .header(USER_AGENT, concat!("hearth/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.shared.authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        // hyper leaves the length of an empty body out, and some proxies then wait for a body.
        if call.method == Method::PUT || call.method == Method::POST {
            builder = builder.header(CONTENT_LENGTH, call.body.len());
        }
        if let Some(content_type) = &call.content_type {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        builder
            .body(Full::new(call.body.clone()))
            .map_err(|error| Error::Usage(format!("this cannot be sent as a request: {error}")))
    }
}

/// How an attempt on one endpoint ended.
enum Attempt {
    /// With success.
    Done(Answer),
    /// Another endpoint would not help, or must not be asked.
    Fatal(Error),
    /// The node refused, and another may not.
    Refused(Box<Problem>),
    /// No answer, for this reason; another may be asked.
    Silent(String),
}

impl Kind {
    /// Until when an endpoint may take, of a call that ends at `deadline` and has `left` endpoints to
    /// try, this one included.
    fn share(self, deadline: Instant, left: usize) -> Instant {
        let divisor = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let now = Instant::now();
        match self {
            Self::Read => now + deadline.saturating_duration_since(now) / divisor,
            Self::Compute | Self::Write => deadline,
        }
    }

    /// Whether another endpoint may be asked after this refusal.
    fn may_go_on(self, problem: &Problem) -> bool {
        problem.retryable && (self != Self::Write || problem.outcome == Outcome::NotApplied)
    }

    /// The request went out and the answer is lost.
    fn lost(self, endpoint: &Endpoint, reason: String) -> Attempt {
        match self {
            Self::Write => Attempt::Fatal(Error::OutcomeUnknown { endpoint: endpoint.clone(), reason }),
            Self::Read | Self::Compute => Attempt::Silent(reason),
        }
    }
}

impl Call {
    /// A request without a body.
    pub(crate) fn new(kind: Kind, method: Method, path: impl Into<String>) -> Self {
        Self { kind, method, path: path.into(), content_type: None, body: Bytes::new() }
    }
}

impl Answer {
    /// The body read as JSON; [`Error::Protocol`] when it is not of that shape.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| self.unexpected(format!("the body is not as expected: {error}")))
    }

    /// An [`Error::Protocol`] about this answer.
    pub(crate) fn unexpected(&self, reason: String) -> Error {
        Error::Protocol { endpoint: self.endpoint.clone(), reason }
    }
}

impl Token {
    fn authorization(&self) -> Result<HeaderValue, Error> {
        // The error must not repeat the token.
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .map_err(|_| Error::Usage("the token holds a character that no token has".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether it is the empty text, which stands for no token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Token {
    type Err = std::convert::Infallible;

    /// Takes any text, less the white space around it; [`Client::new`] refuses what cannot be sent. A
    /// parser that failed here would show the secret in its message.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
            token: None,
            idle_connections_max: 64,
            answer_bytes_max: 64 << 20,
        }
    }
}

#[cfg(test)]
mod tests;
