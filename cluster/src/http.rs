//! Plain HTTP to one node. No retries, no failover, no redirects: a fault test must know which node
//! answered what, and a write sent twice would look like the server's mistake.

use std::net::SocketAddr;
use std::ops::Add;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder, Url};
use serde_json::{Value, json};

use crate::events::Events;

/// Above a node's own request timeout (5 s), so that it is the node that gives up first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a stream may go on.
const STREAM_TIMEOUT: Duration = Duration::from_secs(600);

/// What is known about a write after its answer, or after the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered 2xx: it is on disk on a majority.
    Acknowledged,
    /// Refused before it was proposed, or never sent: it must not show up.
    NotApplied,
    /// Perhaps applied, at most once: a time-out, a broken connection, or the node said so.
    Unknown,
}

/// An answer, read completely.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON; status and body are in the message.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("no JSON in {} {}", self.status, self.text()))
    }

    /// The body as text, with what is not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, or `""`.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Talks to one node.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// A client of the node that listens on `address`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let http =
            reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build().context("HTTP client")?;
        let base = Url::parse(&format!("http://{address}/")).context("the node's URL")?;
        Ok(Self { http, base })
    }

    /// A URL on this node: each of `segments` is percent-encoded into one part of the path.
    #[must_use]
    pub fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Not by `path_segments_mut`: it leaves out tabs and newlines.
        let parts = segments.iter().map(|segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string());
        url.set_path(&parts.collect::<Vec<_>>().join("/"));
        url
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// When no complete answer came.
    pub async fn send(&self, method: Method, url: Url) -> reqwest::Result<Reply> {
        read(self.http.request(method, url)).await
    }

    /// `{method} /{path}` with `path`, headers and body as they stand.
    ///
    /// # Errors
    /// When no complete answer came.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Reply> {
        let url = self.base.join(path).with_context(|| format!("URL of {path}"))?;
        let request = self.http.request(method.clone(), url).body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request).await.with_context(|| format!("{method} {path}"))
    }

    /// `GET /{path}` with `path` as it stands, query and all.
    ///
    /// # Errors
    /// When no complete answer came.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        let url = self.base.join(path).with_context(|| format!("URL of {path}"))?;
        self.send(Method::GET, url).await.with_context(|| format!("GET {path}"))
    }

    /// `GET /{path}` that must answer 200 with JSON.
    ///
    /// # Errors
    /// On any other answer.
    pub async fn get_json(&self, path: &str) -> Result<Value> {
        let reply = self.get(path).await?;
        ensure!(reply.status == 200, "GET {path}: {} {}", reply.status, reply.text());
        reply.json()
    }

    /// Watches the keys that begin with `prefix`, behind `last_id`; from now on when that is empty.
    ///
    /// # Errors
    /// When the node cannot be reached or does not answer 200.
    pub async fn watch(&self, prefix: &str, last_id: &str) -> Result<Events> {
        let mut url = self.url(&["v1", "watch"]);
        url.query_pairs_mut().append_pair("prefix", prefix);
        let request = self.http.get(url).timeout(STREAM_TIMEOUT);
        let request = if last_id.is_empty() { request } else { request.header("last-event-id", last_id) };
        Events::new(request.send().await.context("GET /v1/watch")?)
    }

    /// `PUT /age` with `body` as it stands, JSON or not.
    ///
    /// # Errors
    /// When no complete answer came.
    pub async fn put_age_body(&self, body: Vec<u8>) -> reqwest::Result<Reply> {
        let request = self.http.put(self.url(&["age"])).header(CONTENT_TYPE, "application/json");
        read(request.body(body)).await
    }

    /// Appends an age to a name.
    pub async fn put_age(&self, name: &str, age: u8) -> Outcome {
        outcome(self.put_age_body(json!({ "name": name, "age": age }).to_string().into_bytes()).await)
    }

    /// A name's ages in the order of their insertion, linearizable.
    ///
    /// # Errors
    /// When the answer is not 200 with a list of `[name, age]` pairs of this very name.
    pub async fn ages(&self, name: &str) -> Result<Vec<u8>> {
        let reply = self.send(Method::GET, self.url(&["age", name])).await.context("GET /age")?;
        ensure!(reply.status == 200, "GET /age/{name}: {} {}", reply.status, reply.text());
        let pairs: Vec<(String, u8)> = serde_json::from_slice(&reply.body).context("a list of pairs")?;
        ensure!(pairs.iter().all(|(of, _)| of == name), "ages of another name in {pairs:?}");
        Ok(pairs.into_iter().map(|(_, age)| age).collect())
    }

    /// Puts a value under a key. The key's slashes stay slashes.
    pub async fn put_key(&self, key: &str, value: &str) -> Outcome {
        let url = self.key_url(key);
        outcome(read(self.http.put(url).header(CONTENT_TYPE, "text/plain").body(value.to_owned())).await)
    }

    /// Puts a value under a key, and gives the whole answer.
    ///
    /// # Errors
    /// When no complete answer came.
    pub async fn put_key_reply(&self, key: &str, value: &str) -> reqwest::Result<Reply> {
        read(self.http.put(self.key_url(key)).body(value.to_owned())).await
    }

    /// Deletes a key, and gives the status of the answer.
    ///
    /// # Errors
    /// When no complete answer came.
    pub async fn delete_key(&self, key: &str) -> reqwest::Result<u16> {
        Ok(self.send(Method::DELETE, self.key_url(key)).await?.status)
    }

    /// A key's value, linearizable; `None` when there is none.
    ///
    /// # Errors
    /// When the answer is neither 200 nor 404.
    pub async fn key(&self, key: &str) -> Result<Option<String>> {
        self.key_at(self.key_url(key)).await
    }

    /// A key's value as this node itself holds it (`consistency=local`); `None` when there is none.
    ///
    /// # Errors
    /// When the answer is neither 200 nor 404.
    pub async fn key_local(&self, key: &str) -> Result<Option<String>> {
        let mut url = self.key_url(key);
        url.set_query(Some("consistency=local"));
        self.key_at(url).await
    }

    async fn key_at(&self, url: Url) -> Result<Option<String>> {
        let reply = self.send(Method::GET, url.clone()).await.with_context(|| format!("GET {url}"))?;
        match reply.status {
            200 => Ok(Some(reply.text())),
            404 => Ok(None),
            status => anyhow::bail!("GET {url}: {status} {}", reply.text()),
        }
    }

    /// The value of a metric that counts in whole numbers, summed over its label sets.
    ///
    /// # Errors
    /// When `/metrics` does not answer 200 or has no such metric.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        metric_sum(&self.metrics().await?, name).with_context(|| format!("no metric {name}"))
    }

    /// All metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// When `/metrics` does not answer 200.
    pub async fn metrics(&self) -> Result<String> {
        let reply = self.get("metrics").await?;
        ensure!(reply.status == 200, "GET /metrics: {}", reply.status);
        Ok(reply.text())
    }

    fn key_url(&self, key: &str) -> Url {
        let segments: Vec<&str> = ["v1", "kv"].into_iter().chain(key.split('/')).collect();
        self.url(&segments)
    }
}

async fn read(request: RequestBuilder) -> reqwest::Result<Reply> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Reply { status, headers, body: response.bytes().await?.to_vec() })
}

/// What an answer says about a write. Whatever is not clearly the one or the other is unknown.
fn outcome(answer: reqwest::Result<Reply>) -> Outcome {
    match answer {
        Ok(reply) if (200..300).contains(&reply.status) => Outcome::Acknowledged,
        Ok(reply) => match reply.json() {
            Ok(problem) if problem["outcome"] == "not_applied" => Outcome::NotApplied,
            _ => Outcome::Unknown,
        },
        Err(error) if error.is_connect() => Outcome::NotApplied,
        Err(_) => Outcome::Unknown,
    }
}

/// The sum of a metric over its label sets in what [`Client::metrics`] gives, or nothing when there is
/// none that reads as a `T`.
#[must_use]
pub fn metric_sum<T: FromStr + Add<Output = T>>(text: &str, name: &str) -> Option<T> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<T>().ok()
    });
    values.reduce(T::add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_sum_over_labels() {
        let text = "# HELP a_total x\na_total{x=\"1\"} 2\na_total{x=\"}\"} 3\na_total_more 7\nb 15\n";
        assert_eq!(metric_sum(text, "a_total"), Some(5));
        assert_eq!(metric_sum(text, "b"), Some(15.0));
        assert_eq!(metric_sum::<u64>(text, "a"), None);
    }

    #[test]
    fn url_encodes_each_segment_once() {
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], 80))).unwrap();
        assert_eq!(client.url(&["age", "a/b %'\t"]).as_str(), "http://127.0.0.1/age/a%2Fb%20%25%27%09");
        assert_eq!(client.key_url("a/b c").as_str(), "http://127.0.0.1/v1/kv/a/b%20c");
    }
}
