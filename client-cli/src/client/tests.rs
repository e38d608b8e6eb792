//! Which endpoint is asked, and how often.

use std::time::{Duration, Instant};

use super::{Client, Options, Token};
use crate::endpoint::Endpoint;
use crate::error::{Error, Outcome, Tried};
use crate::kv::{Consistency, Delete, Put, Written};
use crate::responder::{Reply, Responder, answer, closed_endpoint, json, problem, problem_after};

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
        client.kv_put("k", "v", &Put::default()).await.unwrap();
    }
    let connections: Vec<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [0, 1, 2]);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_is_down_and_is_remembered() {
    let down = closed_endpoint().await;
    let up = Responder::start(vec![json(WRITTEN), json("5")]).await;
    let client = client(&[&down, &up.endpoint]);
    assert_eq!(
        client.kv_put("k", "v", &Put::default()).await.unwrap(),
        Written { revision: 7, created: true, replayed: false }
    );
    assert_eq!(client.shared.preferred.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(client.cpu().await.unwrap(), 5);
    assert_eq!(up.lines(), ["PUT /v1/kv/k", "GET /cpu"]);
}

#[tokio::test]
async fn when_all_are_down_the_error_lists_them() {
    let (first, second) = (closed_endpoint().await, closed_endpoint().await);
    let error = client(&[&first, &second]).kv_put("k", "v", &Put::default()).await.unwrap_err();
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
    let error = client.kv_put("k", "v", &Put::default()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(matches!(error, Error::OutcomeUnknown { endpoint, .. } if endpoint == breaking.endpoint));
    assert_eq!((breaking.lines().len(), other.lines().len()), (1, 0));
}

#[tokio::test]
async fn a_write_is_not_sent_again_on_a_reused_connection_that_broke() {
    let server = Responder::start(vec![json("1"), Reply::Close, json(WRITTEN)]).await;
    let client = server.client();
    client.cpu().await.unwrap();
    let error = client.kv_put("k", "v", &Put::default()).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(server.lines(), ["GET /cpu", "PUT /v1/kv/k"]);
}

#[tokio::test]
async fn a_write_without_an_answer_in_time_has_an_unknown_outcome() {
    let hanging = Responder::start(vec![Reply::Hang]).await;
    let other = Responder::start(vec![json(WRITTEN)]).await;
    let client = client_within(&[&hanging.endpoint, &other.endpoint], Duration::from_millis(200));
    let error = client.kv_delete("k", &Delete::default()).await.unwrap_err();
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
        let result = client.kv_put("k", "v", &Put::default()).await;
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
    let error = client.age_delete("n", None).await.unwrap_err();
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
        assert_eq!(client.age_get("n", Consistency::Linearizable).await.unwrap(), []);
        assert_eq!((failing.lines().len(), other.lines().len()), (1, 1));
    }
}

#[tokio::test]
async fn a_refusal_is_reported_rather_than_a_closed_port() {
    let refusing =
        Responder::start(vec![problem("503 Service Unavailable", "no_leader", true, "not_applied")]).await;
    let down = closed_endpoint().await;
    let error = client(&[&refusing.endpoint, &down]).kv_put("k", "v", &Put::default()).await.unwrap_err();
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
    let error = client.cpu().await.unwrap_err();
    assert!(error.to_string().ends_with("the answer has more than 100 bytes"), "{error}");
    assert_eq!(server.lines().len(), 1);
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

/// Puts under the key `once`, with the bounds of `options`.
async fn put_once(endpoints: &[&Endpoint], options: Options) -> Result<Written, Error> {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
    let how = Put { idempotency_key: Some("once".parse().unwrap()), ..Put::default() };
    Client::new(endpoints, options).unwrap().kv_put("k", "v", &how).await
}

#[tokio::test]
async fn a_write_with_a_key_is_sent_again_whatever_became_of_it() {
    let unknown = || problem("504 Gateway Timeout", "outcome_unknown", false, "unknown");
    let replay = || match json(WRITTEN) {
        Reply::Answer(status, mut headers, body) => {
            headers.push("Hearth-Idempotent-Replay: true".into());
            Reply::Answer(status, headers, body)
        }
        other => other,
    };
    for reply in [Reply::Close, Reply::Hang, unknown(), answer("502 Bad Gateway", "text/html", "")] {
        let failing = Responder::start(vec![reply]).await;
        let other = Responder::start(vec![replay()]).await;
        let options = Options { request_timeout: Duration::from_secs(2), ..Options::default() };
        let written = put_once(&[&failing.endpoint, &other.endpoint], options).await.unwrap();
        assert_eq!(written, Written { revision: 7, created: true, replayed: true });
        for server in [failing, other] {
            let asked = server.asked();
            assert_eq!(asked.len(), 1);
            assert!(asked[0].headers.contains(&"idempotency-key: once".to_owned()), "{asked:?}");
            assert_eq!(asked[0].body, b"v");
        }
    }
}

#[tokio::test]
async fn the_same_endpoint_is_asked_again_after_a_pause() {
    let unknown = || problem("504 Gateway Timeout", "outcome_unknown", false, "unknown");
    let server = Responder::start(vec![Reply::Close, unknown(), Reply::Close, json(WRITTEN)]).await;
    let began = Instant::now();
    put_once(&[&server.endpoint], Options::default()).await.unwrap();
    // At least half of 50, 100 and 200 ms.
    assert!(began.elapsed() >= Duration::from_millis(175), "{:?}", began.elapsed());
    assert_eq!(server.lines(), ["PUT /v1/kv/k"; 4]);
}

#[tokio::test]
async fn the_servers_retry_after_is_waited_out_but_not_beyond_the_deadline() {
    let busy = || problem_after("429 Too Many Requests", "overloaded", 1);
    let server = Responder::start(vec![busy(), json(WRITTEN)]).await;
    let began = Instant::now();
    server.client().kv_put("k", "v", &Put::default()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    let long = || problem_after("503 Service Unavailable", "no_leader", 60);
    let (first, second) = (Responder::start(vec![long()]).await, Responder::start(vec![long()]).await);
    let began = Instant::now();
    let error = client(&[&first.endpoint, &second.endpoint]).cpu().await.unwrap_err();
    assert!(error.has_code("no_leader"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for what comes too late");
    assert_eq!((first.lines().len(), second.lines().len()), (1, 1));
}

#[tokio::test]
async fn a_refusal_that_says_not_when_it_ends_is_not_asked_for_twice() {
    let full = || problem("507 Insufficient Storage", "storage_full", true, "not_applied");
    let (first, second) = (Responder::start(vec![full()]).await, Responder::start(vec![full()]).await);
    let error = put_once(&[&first.endpoint, &second.endpoint], Options::default()).await.unwrap_err();
    assert!(error.has_code("storage_full"), "{error}");
    assert_eq!((first.lines().len(), second.lines().len()), (1, 1));
}

#[tokio::test]
async fn a_lost_write_stays_unknown_when_nobody_can_tell_what_became_of_it() {
    let breaking = Responder::start(vec![Reply::Close]).await;
    let refusing = Responder::start(vec![problem_after("503 Service Unavailable", "no_leader", 60)]).await;
    let options = Options { request_timeout: Duration::from_millis(300), ..Options::default() };
    let error = put_once(&[&breaking.endpoint, &refusing.endpoint], options).await.unwrap_err();
    let Error::OutcomeUnknown { endpoint, idempotency_key, .. } = &error else { panic!("{error:?}") };
    assert_eq!((endpoint, idempotency_key.as_ref().unwrap().as_str()), (&breaking.endpoint, "once"));

    // But an answer that the cluster keeps under the key is the answer.
    let breaking = Responder::start(vec![Reply::Close]).await;
    let failed = problem("412 Precondition Failed", "precondition_failed", false, "not_applied");
    let answering = Responder::start(vec![failed]).await;
    let error = put_once(&[&breaking.endpoint, &answering.endpoint], Options::default()).await.unwrap_err();
    assert!(error.has_code("precondition_failed"), "{error:?}");
}

#[tokio::test]
async fn a_node_that_is_not_there_yet_may_be_waited_for() {
    let endpoint = closed_endpoint().await;
    let options = Options { unreachable_timeout: Duration::from_secs(8), ..Options::default() };
    let endpoints = [&endpoint];
    let mut waiting = std::pin::pin!(put_once(&endpoints, options));
    // Without that time it would have failed by now, several times.
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "it gave up");
    let late = Responder::start_on(&endpoint.to_string(), vec![json(WRITTEN)]).await;
    waiting.await.unwrap();
    assert_eq!(late.lines().len(), 1);
}
