//! Which endpoint is asked, and how often.

use std::time::Duration;

use super::{Client, Options, Token};
use crate::endpoint::Endpoint;
use crate::error::{Error, Outcome, Tried};
use crate::kv::{Consistency, Written};
use crate::responder::{Reply, Responder, answer, closed_endpoint, json, problem};

const WRITTEN: &str = r#"{"key":"k","revision":7,"created":true}"#;

fn client(endpoints: &[&Endpoint]) -> Client {
    client_within(endpoints, Duration::from_secs(10))
}

fn client_within(endpoints: &[&Endpoint], request_timeout: Duration) -> Client {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
    Client::new(endpoints, Options { request_timeout, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Responder::start(vec![json("1"), json("2"), json("3")]).await;
    let client = server.client();
    for expected in 1..=3 {
        assert_eq!(client.cpu().await.unwrap(), expected);
    }
    assert!(server.asked().iter().all(|asked| asked.connection == 0), "{:?}", server.asked());
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced_without_a_word() {
    let close =
        |body: &str| Reply::Answer("200 OK", vec!["Connection: close".into()], body.as_bytes().to_vec());
    let server = Responder::start(vec![close(WRITTEN), close(WRITTEN), json(WRITTEN)]).await;
    let client = server.client();
    for _ in 0..3 {
        client.kv_put("k", "v", None).await.unwrap();
    }
    let connections: Vec<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [0, 1, 2]);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_is_down_and_is_remembered() {
    let down = closed_endpoint().await;
    let up = Responder::start(vec![json(WRITTEN), json("5")]).await;
    let client = client(&[&down, &up.endpoint]);
    assert_eq!(client.kv_put("k", "v", None).await.unwrap(), Written { revision: 7, created: true });
    assert_eq!(client.shared.preferred.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(client.cpu().await.unwrap(), 5);
    assert_eq!(up.lines(), ["PUT /v1/kv/k", "GET /cpu"]);
}

#[tokio::test]
async fn when_all_are_down_the_error_lists_them() {
    let (first, second) = (closed_endpoint().await, closed_endpoint().await);
    let error = client(&[&first, &second]).kv_put("k", "v", None).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let Error::Unreachable { tried } = error else { panic!("{error:?}") };
    let refused = |endpoint| Tried { endpoint, reason: "connection refused".into() };
    assert_eq!(tried, [refused(first), refused(second)]);
}

#[tokio::test]
async fn a_write_is_not_sent_again_after_the_connection_broke() {
    let breaking = Responder::start(vec![Reply::Close]).await;
    let other = Responder::start(vec![json(WRITTEN)]).await;
    let client = client(&[&breaking.endpoint, &other.endpoint]);
    let error = client.kv_put("k", "v", None).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(matches!(error, Error::OutcomeUnknown { endpoint, .. } if endpoint == breaking.endpoint));
    assert_eq!((breaking.lines().len(), other.lines().len()), (1, 0));
}

#[tokio::test]
async fn a_write_is_not_sent_again_on_a_reused_connection_that_broke() {
    let server = Responder::start(vec![json("1"), Reply::Close, json(WRITTEN)]).await;
    let client = server.client();
    client.cpu().await.unwrap();
    let error = client.kv_put("k", "v", None).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(server.lines(), ["GET /cpu", "PUT /v1/kv/k"]);
}

#[tokio::test]
async fn a_write_without_an_answer_in_time_has_an_unknown_outcome() {
    let hanging = Responder::start(vec![Reply::Hang]).await;
    let other = Responder::start(vec![json(WRITTEN)]).await;
    let client = client_within(&[&hanging.endpoint, &other.endpoint], Duration::from_millis(200));
    let error = client.kv_delete("k").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(other.lines().len(), 0);
}

#[tokio::test]
async fn a_write_goes_on_only_when_it_was_certainly_not_applied() {
    for (status, retryable, outcome, goes_on) in [
        ("503 Service Unavailable", true, "not_applied", true),
        ("503 Service Unavailable", false, "not_applied", false),
        ("504 Gateway Timeout", true, "unknown", false),
    ] {
        let refusing = Responder::start(vec![problem(status, "some_code", retryable, outcome)]).await;
        let other = Responder::start(vec![json(WRITTEN)]).await;
        let client = client(&[&refusing.endpoint, &other.endpoint]);
        let result = client.kv_put("k", "v", None).await;
        assert_eq!(result.is_ok(), goes_on, "{status} {retryable} {outcome}");
        assert_eq!(other.lines().len(), usize::from(goes_on));
        if let Err(error) = result {
            let Error::Api(problem) = error else { panic!("{error:?}") };
            assert_eq!((problem.code.as_str(), problem.request_id.as_str()), ("some_code", "r1"));
        }
    }
}

#[tokio::test]
async fn a_proxy_error_leaves_the_outcome_of_a_write_open_and_sends_a_read_elsewhere() {
    let page = || answer("502 Bad Gateway", "text/html", "<h1>502</h1>");
    let proxy = Responder::start(vec![page(), page()]).await;
    let other = Responder::start(vec![json("3")]).await;
    let client = client(&[&proxy.endpoint, &other.endpoint]);
    let error = client.age_delete("n").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(client.cpu().await.unwrap(), 3);
}

#[tokio::test]
async fn a_read_goes_elsewhere_when_a_node_breaks_or_hangs_or_asks_to_retry() {
    let busy = || problem("503 Service Unavailable", "no_leader", true, "not_applied");
    for reply in [Reply::Close, Reply::Hang, busy()] {
        let failing = Responder::start(vec![reply]).await;
        let other = Responder::start(vec![json("[]")]).await;
        let client = client_within(&[&failing.endpoint, &other.endpoint], Duration::from_secs(1));
        assert_eq!(client.age_get("n").await.unwrap(), []);
        assert_eq!((failing.lines().len(), other.lines().len()), (1, 1));
    }
}

#[tokio::test]
async fn a_refusal_is_reported_rather_than_a_closed_port() {
    let refusing =
        Responder::start(vec![problem("503 Service Unavailable", "no_leader", true, "not_applied")]).await;
    let down = closed_endpoint().await;
    let error = client(&[&refusing.endpoint, &down]).kv_put("k", "v", None).await.unwrap_err();
    assert!(error.has_code("no_leader"), "{error:?}");
}

#[tokio::test]
async fn a_failed_read_changed_nothing() {
    let server = Responder::start(vec![problem("504 Gateway Timeout", "timeout", false, "unknown")]).await;
    assert_eq!(server.client().local_program().await.unwrap_err().outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn something_that_is_no_node_is_named() {
    for reply in [
        answer("404 Not Found", "text/html", "nginx"),
        answer("301 Moved", "text/html", ""),
        json("\"text\""),
    ] {
        let server = Responder::start(vec![reply]).await;
        let error = server.client().cpu().await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(&server.endpoint.to_string()), "{error}");
    }
}

#[tokio::test]
async fn an_answer_is_read_only_up_to_the_bound() {
    let server = Responder::start(vec![json(&"1".repeat(200))]).await;
    let options = Options { answer_bytes_max: 100, ..Options::default() };
    let client = Client::new(vec![server.endpoint.clone()], options).unwrap();
    assert!(matches!(client.cpu().await, Err(Error::Unreachable { .. })));
}

#[tokio::test]
async fn ipv6_endpoints_work() {
    let server = Responder::start_on("[::1]:0", vec![json("4")]).await;
    assert_eq!(server.client().cpu().await.unwrap(), 4);
    let host = format!("host: {}", server.endpoint);
    assert!(server.asked()[0].headers.contains(&host), "{:?}", server.asked());
}

#[tokio::test]
async fn the_token_is_sent_and_never_shown() {
    let server = Responder::start(vec![json("1")]).await;
    let token: Token = " s3cret ".parse().unwrap();
    let options = Options { token: Some(token), ..Options::default() };
    assert!(!format!("{options:?}").contains("s3cret"));
    let client = Client::new(vec![server.endpoint.clone()], options).unwrap();
    client.cpu().await.unwrap();
    assert!(server.asked()[0].headers.contains(&"authorization: Bearer s3cret".to_owned()));

    let options = Options { token: Some("s3cret\n2".parse().unwrap()), ..Options::default() };
    let error = Client::new(vec![server.endpoint.clone()], options).err().unwrap();
    assert!(matches!(&error, Error::Usage(text) if !text.contains("s3cret")), "{error:?}");
}

#[test]
fn a_client_needs_an_endpoint() {
    assert!(matches!(Client::new(Vec::new(), Options::default()), Err(Error::Usage(_))));
}

#[tokio::test]
async fn health_is_asked_of_one_endpoint_only() {
    let failing = "[+]storage ok\n[-]leader failed: none\n";
    let server = Responder::start(vec![
        answer("503 Service Unavailable", "text/plain", failing),
        problem("503 Service Unavailable", "not_ready", true, "not_applied"),
        answer("200 OK", "text/plain", "[+]storage ok\n"),
    ])
    .await;
    let other = closed_endpoint().await;
    let client = client(&[&other]);
    let health = client.ready(&server.endpoint).await.unwrap();
    assert!(!health.healthy);
    assert_eq!(health.failing().collect::<Vec<_>>(), [("leader", "none")]);
    let health = client.ready(&server.endpoint).await.unwrap();
    assert_eq!(health.failing().collect::<Vec<_>>(), [("ready", "why")]);
    assert!(client.live(&server.endpoint).await.unwrap().healthy);
    assert!(matches!(client.ready(&other).await, Err(Error::Unreachable { .. })));
    assert_eq!(server.lines(), ["GET /readyz?verbose", "GET /readyz?verbose", "GET /livez?verbose"]);
}

#[tokio::test]
async fn a_local_read_says_so() {
    let value = || Reply::Answer("200 OK", vec!["ETag: \"1\"".into()], b"v".to_vec());
    let server = Responder::start(vec![value(), value()]).await;
    let client = server.client();
    client.kv_get("a/b", Consistency::Linearizable).await.unwrap();
    client.kv_get("a/b", Consistency::Local).await.unwrap();
    assert_eq!(server.lines(), ["GET /v1/kv/a%2Fb", "GET /v1/kv/a%2Fb?consistency=local"]);
}
