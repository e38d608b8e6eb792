//! The command line as it is typed, and what it prints.

use clap::{CommandFactory, Parser};

use super::output::{Format, Output};
use super::{Cli, failure::Failure, run};
use crate::responder::{Reply, Responder, answer, closed_endpoint, json};

/// Runs `hearth ARGS` against `endpoints`; what it printed, what it remarked, and how it ended.
pub(super) async fn noted(endpoints: &str, args: &[&str]) -> (String, String, Result<(), Failure>) {
    let cli = Cli::try_parse_from(["hearth", "--endpoints", endpoints].iter().chain(args)).unwrap();
    let (mut written, mut notes) = (Vec::new(), Vec::new());
    let mut output = Output::to_writers(cli.output, &mut written, &mut notes);
    let result = run(cli, &mut output).await;
    drop(output);
    (String::from_utf8(written).unwrap(), String::from_utf8(notes).unwrap(), result)
}

/// The same without remarks.
pub(super) async fn hearth(endpoints: &str, args: &[&str]) -> (String, Result<(), Failure>) {
    let (written, _, result) = noted(endpoints, args).await;
    (written, result)
}

/// The output of a command that succeeds, when the server gives this one reply.
pub(super) async fn printed(reply: Reply, args: &[&str]) -> String {
    let server = Responder::start(vec![reply]).await;
    let (text, result) = hearth(&server.endpoint.to_string(), args).await;
    result.unwrap();
    text
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_usage_is_refused_before_anything_is_sent() {
    for args in [
        &["kv", "put", "k"][..],
        &["kv", "put", "k", "v", "--file", "f"],
        &["age", "put", "n", "151"],
        &["age", "put", "n", "x"],
        &["status", "--timeout", "soon"],
        &["status", "-o", "xml"],
        &["status", "--endpoints", "localhost"],
        &["kv", "get", "k", "--consistency", "eventual"],
        &["kv", "get", "k", "--consistency", "local", "--max-staleness", "1s"],
        &["kv", "put", "k", "v", "--if-absent", "--if-match", "7"],
        &["kv", "put", "k", "v", "--if-match", "x"],
        &["kv", "put", "k", "v", "--ttl", "0s"],
        &["kv", "put", "k", "v", "--idempotency-key", "a b"],
        &["kv", "delete"],
        &["kv", "delete", "k", "--prefix", "p"],
        &["kv", "delete", "--prefix", "p", "--if-match", "7"],
        &["kv", "list", "--limit", "0"],
        &["kv", "list", "--limit", "5", "--all"],
        &["kv", "watch", "--limit", "0"],
        &["cpu", "--count", "1001"],
        &[],
    ] {
        let error = Cli::try_parse_from(["hearth"].iter().chain(args)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
}

#[test]
fn global_options_may_follow_the_command_and_the_token_is_hidden() {
    let line = "hearth kv get k --endpoints a:1,[::1]:2 -o json --timeout 500ms --token s3cret";
    let cli = Cli::try_parse_from(line.split(' ')).unwrap();
    assert_eq!(cli.connection.endpoints.len(), 2);
    assert_eq!(cli.connection.timeout.as_millis(), 500);
    assert_eq!(cli.output, Format::Json);
    assert!(!format!("{cli:?}").contains("s3cret"));
}

#[tokio::test]
async fn status_is_a_table_and_a_summary() {
    let text = printed(json(CLUSTER), &["status"]).await;
    let expected = "\
NODE  ID  ROLE     STATE        HTTP            PEER            VERSION  TERM  LOG  APPLIED  LAG  CONTACT  KEYS  DATA     DISK FREE
n1    1   voter    follower     127.0.0.1:8080  127.0.0.1:7080  0.1.0    3     9    9        0    12 ms    3     1.5 KiB  40.0 GiB
n2    2   voter    leader       127.0.0.1:8081  127.0.0.1:7081  0.1.0    3     9    9        -    -        3     1.5 KiB  40.0 GiB
n3    3   voter    unreachable  -               127.0.0.1:7082  -        -     -    -        -    5200 ms  -     -        -
n4    4   learner  learner      127.0.0.1:8083  127.0.0.1:7083  0.1.0    3     8    8        1    7 ms     3     1.5 KiB  40.0 GiB
n3: connection refused

quorum 2 of 3, 2 voters reachable; leader n2; term 3; revision 9 (as n1 sees it)
";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn status_says_when_the_quorum_is_lost() {
    let alone = r#"{"cluster_id":"ab","node":"n1","leader":null,"term":4,"revision":9,"members":[
        {"id":1,"name":"n1","role":"voter","state":"candidate","peer":"a:1"},
        {"id":2,"name":"n2","role":"voter","state":"unreachable","peer":"b:1"},
        {"id":3,"name":"n3","role":"voter","state":"unreachable","peer":"c:1"}]}"#;
    let text = printed(json(alone), &["status"]).await;
    assert_eq!(
        text.lines().last().unwrap(),
        "QUORUM LOST: quorum 2 of 3, 1 voter reachable; no leader; term 4; revision 9 (as n1 sees it)"
    );
}

#[tokio::test]
async fn status_as_json_is_what_the_server_said() {
    let text = printed(json(CLUSTER), &["status", "-o", "json"]).await;
    let mut said: serde_json::Value = serde_json::from_str(CLUSTER).unwrap();
    said.as_object_mut().unwrap().remove("new");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), said);
}

#[tokio::test]
async fn status_without_any_node_lists_what_was_tried() {
    let (first, second) = (closed_endpoint().await, closed_endpoint().await);
    let (text, result) = hearth(&format!("{first},{second}"), &["status"]).await;
    let expected =
        format!("no endpoint answered: {first} (connection refused), {second} (connection refused)");
    assert_eq!((text.as_str(), result.unwrap_err().to_string()), ("", expected));
}

#[tokio::test]
async fn health_has_a_line_per_endpoint_and_fails_when_one_does() {
    let ready = || answer("200 OK", "text/plain", "[+]storage ok\n[+]leader ok\n");
    let failing = || answer("503 Service Unavailable", "text/plain", "[-]leader failed: none for 2 s\n");
    let good = Responder::start(vec![ready(), ready(), ready()]).await.endpoint;
    let bad = Responder::start(vec![failing(), failing()]).await.endpoint;
    let down = closed_endpoint().await;
    let all = format!("{good},{bad},{down}");

    let (text, result) = hearth(&all, &["health"]).await;
    assert!(matches!(result, Err(Failure::Reported)));
    let lines: Vec<&str> = text.lines().collect();
    let shown = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
    assert_eq!(shown(lines[0]), format!("{good} is healthy: took"));
    assert_eq!(shown(lines[1]), format!("{bad} is unhealthy: leader: none for 2 s; took"));
    assert_eq!(lines[2], format!("{down} is unhealthy: answer: connection refused"));
    assert!(lines[0].ends_with(" ms"), "{text}");

    let (text, result) = hearth(&all, &["health", "-o", "json"]).await;
    assert!(matches!(result, Err(Failure::Reported)));
    let mut list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(list[0].as_object_mut().unwrap().remove("took_ms").unwrap().is_f64());
    assert_eq!(list[0], serde_json::json!({"endpoint": good.to_string(), "healthy": true, "failing": []}));
    assert_eq!(
        list[2],
        serde_json::json!({"endpoint": down.to_string(), "healthy": false,
            "failing": [{"name": "answer", "reason": "connection refused"}]})
    );

    hearth(&good.to_string(), &["health"]).await.1.unwrap();
}

#[tokio::test]
async fn ages_and_numbers_are_printed() {
    let gone = || Reply::Answer("204 No Content", vec![], vec![]);
    let list = r#"[["Ann",41],["Ann",42]]"#;
    for (reply, line, expected) in [
        (json(r#"{"name":"Ann","age":41,"revision":9}"#), "age put Ann 41", "added, revision 9\n"),
        (
            json(r#"{"name":"Ann","age":41,"revision":9}"#),
            "age put Ann 41 -o json",
            "{\"name\":\"Ann\",\"age\":41,\"revision\":9}\n",
        ),
        (json(list), "age get Ann", "NAME  AGE\nAnn   41\nAnn   42\n"),
        (json(list), "age get Ann -o json", "[[\"Ann\",41],[\"Ann\",42]]\n"),
        (json("[]"), "age get Ann", "NAME  AGE\n"),
        (gone(), "age delete Ann", "deleted\n"),
        (gone(), "age delete Ann -o json", "{\"name\":\"Ann\",\"deleted\":true}\n"),
        (gone(), "kv delete k", "deleted\n"),
        (gone(), "kv delete k -o json", "{\"key\":\"k\",\"deleted\":true}\n"),
        (json("5000123"), "cpu", "5000123\n"),
        (json("[1,2]"), "cpu --count 2", "1\n2\n"),
        (json("[1,2]"), "cpu --count 2 -o json", "[1,2]\n"),
        (json("42"), "local-program -o json", "42\n"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        assert_eq!(printed(reply, &args).await, expected, "{line}");
    }
}

const CLUSTER: &str = r#"{"cluster_id":"ab12","node":"n1","leader":"n2","term":3,"revision":9,"new":true,"members":[
{"id":1,"name":"n1","role":"voter","state":"follower","peer":"127.0.0.1:7080","http":"127.0.0.1:8080",
 "version":"0.1.0","term":3,"last_log_index":9,"applied_index":9,"lag":0,"last_contact_ms":12,
 "disk_free_bytes":43056000000,"data_bytes":1536,"keys":3,"error":null},
{"id":2,"name":"n2","role":"voter","state":"leader","peer":"127.0.0.1:7081","http":"127.0.0.1:8081",
 "version":"0.1.0","term":3,"last_log_index":9,"applied_index":9,"lag":null,"last_contact_ms":null,
 "disk_free_bytes":43056000000,"data_bytes":1536,"keys":3,"error":null},
{"id":3,"name":"n3","role":"voter","state":"unreachable","peer":"127.0.0.1:7082","http":null,
 "version":null,"term":null,"last_log_index":null,"applied_index":null,"lag":null,"last_contact_ms":5200,
 "disk_free_bytes":null,"data_bytes":null,"keys":null,"error":"connection refused"},
{"id":4,"name":"n4","role":"learner","state":"learner","peer":"127.0.0.1:7083","http":"127.0.0.1:8083",
 "version":"0.1.0","term":3,"last_log_index":8,"applied_index":8,"lag":1,"last_contact_ms":7,
 "disk_free_bytes":43056000000,"data_bytes":1536,"keys":3,"error":null}]}"#;
