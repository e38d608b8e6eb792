//! The client: which endpoint is asked, for how long, and when the next one is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use crate::attempts::Attempts;
use crate::connection::{Answer, Connections, Failed, Opened, Streaming};
use crate::endpoint::Endpoint;
use crate::error::{Error, Outcome, Problem, Tried};
use crate::idempotency::IdempotencyKey;
use crate::retry::{Ended, Kind, Next, Turns};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How long after an attempt whose outcome is unknown the write may still be sent again: half of the time
/// for which a cluster remembers idempotency keys, unless configured otherwise.
const REPEAT_MAX: Duration = Duration::from_secs(5 * 60);

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
    /// How long a call may take, all endpoints and all attempts together. Default 10 s.
    pub request_timeout: Duration,
    /// How long to go on while not one endpoint can be connected to, or the others refuse without saying when
    /// that ends; within the request timeout. Default 0: each is tried once.
    pub unreachable_timeout: Duration,
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

/// One request, before it is known who gets it.
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    /// Path and query, percent-encoded, passed on untouched.
    pub(crate) path: String,
    /// What is sent beside what every request has.
    pub(crate) headers: HeaderMap,
    /// Sent with it, and kept for the error.
    pub(crate) idempotency_key: Option<IdempotencyKey>,
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
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.shared.endpoints.iter().map(|connections| &connections.endpoint)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The index of the endpoint to begin with.
    pub(crate) fn preferred(&self) -> usize {
        self.shared.preferred.load(Ordering::Relaxed)
    }

    /// Remembers that this endpoint answers.
    pub(crate) fn prefer(&self, index: usize) {
        self.shared.preferred.store(index, Ordering::Relaxed);
    }

    /// Makes the call on one endpoint after the other, again and again if need be, until one answers with
    /// success, until going on would be wrong, or until the time is up.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, Error> {
        let (shared, key) = (&*self.shared, call.idempotency_key.as_ref());
        let began = Instant::now();
        let deadline = began + shared.options.request_timeout;
        let mut last = deadline;
        let mut turns = Turns::new(shared.endpoints.len(), self.preferred(), began);
        let mut attempts = Attempts::default();
        while let Some((index, at)) = turns.next() {
            let Some(connections) = shared.endpoints.get(index) else { break };
            let hopeless = turns.all_asked() && !attempts.worth_waiting();
            if at >= last || hopeless && at >= began + shared.options.unreachable_timeout {
                break;
            }
            sleep_until(at).await;
            let until = call.kind.share(Instant::now(), deadline, shared.endpoints.len());
            let failed = match self.attempt(connections, &call, until).await {
                Ok(answer) => {
                    self.prefer(index);
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            let next = failed.next(call.kind);
            match failed {
                Unanswered::NotANode(error) => return Err(error),
                Unanswered::Refused(problem) if next == Next::Stop => {
                    return Err(attempts.ended_by(problem, key));
                }
                Unanswered::Refused(problem) => attempts.refused(&connections.endpoint, problem),
                Unanswered::NotSent(reason) => attempts.not_sent(&connections.endpoint, reason),
                Unanswered::Lost(reason) => {
                    attempts.lost(&connections.endpoint, reason, call.kind.is_write());
                }
            }
            let now = Instant::now();
            match next {
                Next::Stop => break,
                Next::Elsewhere => turns.never(index),
                Next::Again(after) => turns.again(index, now, after, rand::random()),
            }
            if attempts.is_unknown() {
                // Counted from the first: the cluster does not remember the key for ever.
                last = last.min(now + REPEAT_MAX);
            }
        }
        Err(attempts.given_up(key))
    }

    /// Asks exactly this endpoint, whether it is one of the client's or not. The answer may have any
    /// status.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, call: &Call) -> Result<Answer, Error> {
        let shared = &*self.shared;
        let deadline = Instant::now() + shared.options.request_timeout;
        let stranger = Connections::new(endpoint.clone());
        let connections = self.connections(endpoint).unwrap_or(&stranger);
        let request = self.request(endpoint, call)?;
        connections.exchange(request, deadline, &shared.options).await.map_err(|failed| {
            let (Failed::NotSent(reason) | Failed::Sent(reason) | Failed::TooLarge(_, reason)) = failed;
            Error::Unreachable { tried: vec![Tried { endpoint: endpoint.clone(), reason }] }
        })
    }

    /// Asks exactly this endpoint, once, for an answer whose body is read as it comes. `until` is for its
    /// head.
    pub(crate) async fn open(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        until: Instant,
    ) -> Result<(HeaderMap, Streaming), Unanswered> {
        let stranger = Connections::new(endpoint.clone());
        let connections = self.connections(endpoint).unwrap_or(&stranger);
        let request = self.request(endpoint, call).map_err(Unanswered::NotANode)?;
        match connections.open(request, until, &self.shared.options).await? {
            Opened::Stream(headers, body) => Ok((headers, body)),
            Opened::Answer(answer) => Err(Unanswered::by(answer, call.kind)),
        }
    }

    /// Those of one of the client's own endpoints.
    fn connections(&self, endpoint: &Endpoint) -> Option<&Connections> {
        self.shared.endpoints.iter().find(|connections| connections.endpoint == *endpoint)
    }

    /// Makes the call on one endpoint, once.
    async fn attempt(
        &self,
        connections: &Connections,
        call: &Call,
        until: Instant,
    ) -> Result<Answer, Unanswered> {
        let request = self.request(&connections.endpoint, call).map_err(Unanswered::NotANode)?;
        let answer = connections.exchange(request, until, &self.shared.options).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(Unanswered::by(answer, call.kind)) }
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
        if let Some(key) = &call.idempotency_key {
            builder = builder.header(IDEMPOTENCY_KEY, key.as_str());
        }
        // hyper leaves the length of an empty body out, and some proxies then wait for a body.
        if call.method == Method::PUT || call.method == Method::POST {
            builder = builder.header(CONTENT_LENGTH, call.body.len());
        }
        for (name, value) in &call.headers {
            builder = builder.header(name, value);
        }
        builder
            .body(Full::new(call.body.clone()))
            .map_err(|error| Error::Usage(format!("this cannot be sent as a request: {error}")))
    }
}

/// How an attempt on one endpoint ended without success.
pub(crate) enum Unanswered {
    /// Not a byte of the request left, for this reason.
    NotSent(String),
    /// The request left, and no answer tells what became of it.
    Lost(String),
    /// The node refused.
    Refused(Box<Problem>),
    /// What answered is no node, or there is no such request.
    NotANode(Error),
}

impl Unanswered {
    /// What an answer that is no success says.
    fn by(answer: Answer, kind: Kind) -> Self {
        let status = answer.status.as_u16();
        match Problem::parse(status, &answer.headers, &answer.body) {
            Some(mut problem) => {
                if !kind.is_write() {
                    // There was nothing to apply, whatever the server says.
                    problem.outcome = Outcome::NotApplied;
                }
                Self::Refused(Box::new(problem))
            }
            // Not from a node: a proxy in between, which may have passed the request on before it failed.
            None if status >= 500 => Self::Lost(format!("an answer with status {status} and no explanation")),
            None => Self::NotANode(answer.unexpected(format!("status {status}"))),
        }
    }

    /// What to do after it.
    pub(crate) fn next(&self, kind: Kind) -> Next {
        match self {
            Self::NotSent(_) => kind.next(&Ended::NotSent),
            Self::Lost(_) => kind.next(&Ended::Lost),
            Self::Refused(problem) => kind.next(&Ended::Refused(problem)),
            Self::NotANode(_) => Next::Stop,
        }
    }
}

impl From<Failed> for Unanswered {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotSent(reason) => Self::NotSent(reason),
            Failed::Sent(reason) => Self::Lost(reason),
            Failed::TooLarge(endpoint, reason) => Self::NotANode(Error::Protocol { endpoint, reason }),
        }
    }
}

impl Call {
    /// A request that changes nothing.
    pub(crate) fn get(kind: Kind, path: impl Into<String>) -> Self {
        Self {
            kind,
            method: Method::GET,
            path: path.into(),
            headers: HeaderMap::new(),
            idempotency_key: None,
            body: Bytes::new(),
        }
    }

    /// A write, without a body yet.
    pub(crate) fn write(method: Method, path: impl Into<String>, key: Option<&IdempotencyKey>) -> Self {
        let kind = if key.is_some() { Kind::WriteOnce } else { Kind::Write };
        Self { method, idempotency_key: key.cloned(), ..Self::get(kind, path) }
    }

    /// With one more header field. [`Error::Usage`] when it cannot be sent.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Result<Self, Error> {
        let sent = HeaderValue::from_str(value)
            .map_err(|_| Error::Usage(format!("{name}: {value:?} cannot be sent in a header")))?;
        self.headers.append(name, sent);
        Ok(self)
    }

    /// With `body` as JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Error::Usage(format!("this cannot be sent as JSON: {error}")))?;
        self.body = bytes.into();
        self.header(CONTENT_TYPE, "application/json")
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
            unreachable_timeout: Duration::ZERO,
            token: None,
            idle_connections_max: 64,
            answer_bytes_max: 64 << 20,
        }
    }
}

#[cfg(test)]
mod tests;
