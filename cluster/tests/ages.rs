//! `/age` takes any name as plain data, on every node, and says what is wrong with a bad body.

use anyhow::{Result, ensure};
use hearth_cluster::http::Client;
use hearth_cluster::{Cluster, Options};
use serde_json::json;

#[tokio::test]
async fn names_are_plain_data_on_every_node() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let longest = "n".repeat(256);
    let longest_of_four_byte_letters = "🦀".repeat(64);
    let names = [
        "Ada",
        "Robert'); DROP TABLE ages;--",
        "' OR '1'='1",
        "\"double\" and \\back\\slashes",
        "a/b//c/",
        "../../etc/passwd",
        "100%25 %2F ?x=1#y &z",
        " spaces and\ttab\n",
        "🦀 çé漢字",
        "\u{0}null",
        &longest,
        &longest_of_four_byte_letters,
    ];
    for (i, name) in names.into_iter().enumerate() {
        let (writer, reader) = (&cluster.node(i % 3).client, &cluster.node((i + 1) % 3).client);
        for age in [json!(36), json!("37"), json!(0), json!(150)] {
            let body = json!({ "name": name, "age": age }).to_string();
            let reply = writer.put_age_body(body.into_bytes()).await.unwrap();
            assert_eq!(reply.status, 200, "{name:?}: {}", reply.text());
            let answer = reply.json().unwrap();
            assert_eq!(answer["name"], name);
            assert!(answer["revision"].as_u64().is_some(), "{answer}");
        }
        assert_eq!(reader.ages(name).await.unwrap(), [36, 37, 0, 150], "{name:?}");
    }
    for name in ["nobody", "ada", "Ada ", "a/b//c", "%"] {
        assert!(cluster.node(0).client.ages(name).await.unwrap().is_empty(), "{name:?}");
    }
}

/// The answer to a bad body: 400 with a problem whose detail has `word`.
async fn refused(client: &Client, body: &str, word: &str) -> Result<()> {
    let reply = client.put_age_body(body.as_bytes().to_vec()).await?;
    ensure!(reply.status == 400, "{body}: {} {}", reply.status, reply.text());
    ensure!(
        reply.header("content-type").starts_with("application/problem+json"),
        "{body}: {:?}",
        reply.headers
    );
    let problem = reply.json()?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(word), "{body}: no {word:?} in {detail:?}");
    ensure!(problem["status"] == 400 && problem["outcome"] == "not_applied", "{problem}");
    ensure!(problem["retryable"] == false && problem["code"].is_string(), "{problem}");
    Ok(())
}

#[tokio::test]
async fn bad_bodies_and_names_are_refused_by_name_of_the_field() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await.unwrap();
    let client = &cluster.node(0).client;
    let too_long = json!({ "name": "n".repeat(257), "age": 1 }).to_string();
    for (body, word) in [
        (r#"{"age": 36}"#, "name"),
        (r#"{"name": "Eve"}"#, "age"),
        (r#"{"name": 5, "age": 36}"#, "name"),
        (r#"{"name": null, "age": 36}"#, "name"),
        (r#"{"name": "", "age": 36}"#, "name"),
        (r#"{"name": "Eve", "age": null}"#, "age"),
        (r#"{"name": "Eve", "age": []}"#, "age"),
        (r#"{"name": "Eve", "age": 36.5}"#, "age"),
        (r#"{"name": "Eve", "age": "old"}"#, "age"),
        (r#"{"name": "Eve", "age": "36; DROP TABLE ages"}"#, "age"),
        (r#"{"name": "Eve", "age": -1}"#, "age"),
        (r#"{"name": "Eve", "age": 151}"#, "age"),
        (r#"{"name": "Eve", "age": 1e400}"#, ""),
        ("[]", "object"),
        ("\"Eve\"", "object"),
        ("null", "object"),
        (r#"{"name": "Eve", "age": 36"#, ""),
        ("name=Eve&age=36", ""),
        ("", ""),
        (&too_long, "name"),
    ] {
        refused(client, body, word).await.unwrap();
    }
    refused(client, "{\"name\": \"\u{fffd}", "").await.unwrap();
    let invalid_utf8 = client.put_age_body(b"{\"name\": \"\xff\xfe\", \"age\": 36}".to_vec()).await.unwrap();
    assert_eq!(invalid_utf8.status, 400, "{}", invalid_utf8.text());
    assert!(client.ages("Eve").await.unwrap().is_empty());

    let long_path = client.get(&format!("age/{}", "n".repeat(257))).await.unwrap();
    assert_eq!(long_path.status, 400, "{}", long_path.text());
    let bad_escape = client.get("age/%ff%fe").await.unwrap();
    assert_eq!(bad_escape.status, 400, "{}", bad_escape.text());
}
