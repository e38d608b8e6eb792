//! What goes over the wire for keys, ages and numbers, and what is made of the answers.

use super::{Consistency, Value, Written};
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
    let expected = Value { bytes: vec![0, 255].into(), content_type: Some("image/png".into()), revision: 12 };
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
    let written = client.kv_put("k", vec![0, 13, 10, 255], Some("image/png")).await.unwrap();
    assert_eq!(written, Written { revision: 7, created: true });
    assert_eq!(client.kv_put("k", "", None).await.unwrap(), Written { revision: 8, created: false });
    assert!(client.kv_delete("k").await.unwrap());
    assert!(!client.kv_delete("k").await.unwrap());

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
    let written = client.age_put("O'Brien", 41).await.unwrap();
    assert_eq!(written, AgeWritten { name: "O'Brien".into(), age: 41, revision: 9 });
    let ages = client.age_get("O'Brien").await.unwrap();
    assert_eq!(ages, [("O'Brien".to_owned(), 41), ("O'Brien".to_owned(), 42)]);
    client.age_delete("O'Brien").await.unwrap();

    assert_eq!(server.lines(), ["PUT /age", "GET /age/O%27Brien", "DELETE /age/O%27Brien"]);
    assert_eq!(server.asked()[0].body, br#"{"name":"O'Brien","age":41}"#);
    assert!(server.asked()[0].headers.contains(&JSON.to_owned()));
}

#[tokio::test]
async fn compute_answers_are_numbers() {
    let server = Responder::start(vec![json("5000123"), json("99"), json("256")]).await;
    let client = server.client();
    assert_eq!(client.cpu().await.unwrap(), 5_000_123);
    assert_eq!(client.local_program().await.unwrap(), 99);
    assert!(matches!(client.local_program().await, Err(Error::Protocol { .. })));
}
