//! What goes over the wire for keys, ages and numbers, and what is made of the answers.

use std::time::Duration;

use super::{Condition, Consistency, Delete, PrefixDeleted, Put, Value, Written};
use crate::age::AgeWritten;
use crate::error::Error;
use crate::responder::{Reply, Responder, answer, json, problem};

const JSON: &str = "content-type: application/json";

fn value(etag: &str) -> Reply {
    Reply::Answer("200 OK", vec![format!("ETag: {etag}"), "Content-Type: image/png".into()], vec![0, 255])
}

fn not_found() -> Reply {
    problem("404 Not Found", "key_not_found", false, "not_applied")
}

#[tokio::test]
async fn a_value_comes_with_its_type_and_revision() {
    let server = Responder::start(vec![value("\"12\""), not_found(), value("W/x")]).await;
    let client = server.client();
    let expected = Value {
        bytes: vec![0, 255].into(),
        content_type: Some("image/png".into()),
        revision: 12,
        expires_in: None,
    };
    assert_eq!(client.kv_get("k", Consistency::Linearizable).await.unwrap(), Some(expected));
    assert_eq!(client.kv_get("k", Consistency::Linearizable).await.unwrap(), None);
    let error = client.kv_get("k", Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn another_404_is_not_a_missing_key() {
    let server = Responder::start(vec![problem("404 Not Found", "no_route", false, "not_applied")]).await;
    let error = server.client().kv_get("k", Consistency::Linearizable).await.unwrap_err();
    assert!(error.has_code("no_route"), "{error:?}");
}

#[tokio::test]
async fn a_value_is_sent_as_it_is() {
    let server = Responder::start(vec![
        answer("201 Created", "application/json", r#"{"key":"k","revision":7,"created":true,"new":1}"#),
        json(r#"{"key":"k","revision":8,"created":false}"#),
        Reply::Answer("204 No Content", vec![], vec![]),
        not_found(),
    ])
    .await;
    let client = server.client();
    let image = Put { content_type: Some("image/png".into()), ..Put::default() };
    let written = client.kv_put("k", vec![0, 13, 10, 255], &image).await.unwrap();
    assert_eq!(written, Written { revision: 7, created: true, replayed: false });
    let written = client.kv_put("k", "", &Put::default()).await.unwrap();
    assert_eq!(written, Written { revision: 8, created: false, replayed: false });
    assert!(client.kv_delete("k", &Delete::default()).await.unwrap());
    assert!(!client.kv_delete("k", &Delete::default()).await.unwrap());

    let asked = server.asked();
    assert_eq!(asked[0].body, [0, 13, 10, 255]);
    assert!(asked[0].headers.contains(&"content-type: image/png".to_owned()));
    assert!(asked[1].body.is_empty());
    assert!(asked[1].headers.contains(&"content-length: 0".to_owned()), "{:?}", asked[1]);
    assert!(!asked[1].headers.iter().any(|header| header.starts_with("content-type")));
    assert_eq!(asked[2].line, "DELETE /v1/kv/k");
}

#[tokio::test]
async fn dots_and_slashes_reach_the_server_as_they_are() {
    let keys = [".", "..", "/", "a//b", "a/../b"];
    let server = Responder::start(keys.map(|_| value("\"1\"")).to_vec()).await;
    let client = server.client();
    for key in keys {
        client.kv_get(key, Consistency::Linearizable).await.unwrap();
    }
    let paths = ["%2E", "%2E%2E", "%2F", "a%2F%2Fb", "a%2F%2E%2E%2Fb"];
    assert_eq!(server.lines(), paths.map(|path| format!("GET /v1/kv/{path}")));
}

#[tokio::test]
async fn ages_are_json() {
    let server = Responder::start(vec![
        json(r#"{"name":"O'Brien","age":41,"revision":9}"#),
        json(r#"[["O'Brien",41],["O'Brien",42]]"#),
        Reply::Answer("204 No Content", vec![], vec![]),
    ])
    .await;
    let client = server.client();
    let written = client.age_put("O'Brien", 41, None).await.unwrap();
    assert_eq!(written, AgeWritten { name: "O'Brien".into(), age: 41, revision: 9, replayed: false });
    let ages = client.age_get("O'Brien", Consistency::Linearizable).await.unwrap();
    assert_eq!(ages, [("O'Brien".to_owned(), 41), ("O'Brien".to_owned(), 42)]);
    client.age_delete("O'Brien", None).await.unwrap();

    assert_eq!(server.lines(), ["PUT /age", "GET /age/O%27Brien", "DELETE /age/O%27Brien"]);
    assert_eq!(server.asked()[0].body, br#"{"name":"O'Brien","age":41}"#);
    assert!(server.asked()[0].headers.contains(&JSON.to_owned()));
}

#[tokio::test]
async fn compute_answers_are_numbers() {
    let replies = vec![json("5000123"), json("[1,2]"), json("99"), json("256")];
    let server = Responder::start(replies).await;
    let client = server.client();
    assert_eq!(client.cpu().await.unwrap(), 5_000_123);
    assert_eq!(client.cpu_sums(2).await.unwrap(), [1, 2]);
    assert_eq!(server.lines(), ["GET /cpu", "GET /cpu?count=2"]);
    assert_eq!(client.local_program().await.unwrap(), 99);
    assert!(matches!(client.local_program().await, Err(Error::Protocol { .. })));
}

#[tokio::test]
async fn conditions_and_times_are_sent_as_the_server_reads_them() {
    let written = || json(r#"{"key":"k","revision":7,"created":true}"#);
    for (only_if, header) in [
        (Condition::Absent, "if-none-match: *"),
        (Condition::Exists, "if-match: *"),
        (Condition::Revision(7), "if-match: \"7\""),
    ] {
        let server = Responder::start(vec![written(), Reply::Answer("204 No Content", vec![], vec![])]).await;
        let client = server.client();
        let ttl = Some(Duration::from_micros(1_500_500));
        let how = Put { only_if: Some(only_if), ttl, ..Put::default() };
        client.kv_put("k", "v", &how).await.unwrap();
        let how = Delete { only_if: Some(only_if), idempotency_key: Some("d-1".parse().unwrap()) };
        client.kv_delete("k", &how).await.unwrap();
        assert_eq!(server.lines(), ["PUT /v1/kv/k?ttl=1501ms", "DELETE /v1/kv/k"]);
        let asked = server.asked();
        assert!(asked.iter().all(|asked| asked.headers.contains(&header.to_owned())), "{asked:?}");
        assert!(asked[1].headers.contains(&"idempotency-key: d-1".to_owned()), "{asked:?}");
    }
}

#[tokio::test]
async fn a_condition_that_does_not_hold_comes_with_the_revision_there_is() {
    let refused =
        |etag: &[&str]| match problem("412 Precondition Failed", "precondition_failed", false, "not_applied")
        {
            Reply::Answer(status, mut headers, body) => {
                headers.extend(etag.iter().map(|etag| format!("ETag: {etag}")));
                Reply::Answer(status, headers, body)
            }
            other => other,
        };
    let server = Responder::start(vec![refused(&["\"9\""]), refused(&[])]).await;
    let client = server.client();
    for expected in [Some(9), None] {
        let error = client.kv_delete("k", &Delete::default()).await.unwrap_err();
        let Error::Api(problem) = error else { panic!("{error:?}") };
        assert_eq!((problem.code.as_str(), problem.current_revision), ("precondition_failed", expected));
    }
}

#[tokio::test]
async fn a_prefix_is_deleted_but_not_all_there_is() {
    let server = Responder::start(vec![json(r#"{"deleted":3,"revision":9}"#)]).await;
    let client = server.client();
    assert!(matches!(client.kv_delete_prefix("", None).await, Err(Error::Usage(_))));
    let gone = client.kv_delete_prefix("a/b c", None).await.unwrap();
    assert_eq!(gone, PrefixDeleted { deleted: 3, revision: 9 });
    assert_eq!(server.lines(), ["DELETE /v1/kv?prefix=a%2Fb%20c"]);
}

#[tokio::test]
async fn reads_say_how_fresh_they_must_be_and_show_the_time_that_is_left() {
    let reply =
        Reply::Answer("200 OK", vec!["ETag: \"1\"".into(), "Hearth-Expires-In: 1500ms".into()], vec![]);
    let server = Responder::start(vec![reply, json("[]")]).await;
    let client = server.client();
    let fresh = Consistency::MaxStaleness(Duration::from_millis(500));
    let found = client.kv_get("k", fresh).await.unwrap().unwrap();
    assert_eq!(found.expires_in, Some(Duration::from_millis(1500)));
    client.age_get("n", fresh).await.unwrap();
    assert_eq!(server.lines(), ["GET /v1/kv/k?max_staleness=500ms", "GET /age/n?max_staleness=500ms"]);
}
