//! What the commands for keys send and print.

use crate::commands::failure::Failure;
use crate::commands::tests::{hearth, noted, printed};
use crate::responder::{Ending, Reply, Responder, json, problem};

fn value(bytes: &[u8]) -> Reply {
    let headers = vec!["ETag: \"5\"".to_owned(), "Content-Type: text/plain".to_owned()];
    Reply::Answer("200 OK", headers, bytes.to_vec())
}

#[tokio::test]
async fn kv_get_writes_the_value() {
    assert_eq!(printed(value(b"text"), &["kv", "get", "k"]).await, "text");
    assert_eq!(
        printed(value(b"text"), &["kv", "get", "k", "-o", "json"]).await,
        "{\"key\":\"k\",\"revision\":5,\"content_type\":\"text/plain\",\"size\":4,\"value\":\"text\"}\n"
    );
    assert_eq!(
        printed(value(&[0, 255]), &["kv", "get", "k", "-o", "json"]).await,
        "{\"key\":\"k\",\"revision\":5,\"content_type\":\"text/plain\",\"size\":2,\"value_base64\":\"AP8=\"}\n"
    );
}

#[tokio::test]
async fn kv_get_writes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value");
    let file = path.to_str().unwrap();
    let text = printed(value(&[0, 255]), &["kv", "get", "k", "--out-file", file]).await;
    assert_eq!(text, format!("wrote 2 bytes of revision 5 to {file}\n"));
    assert_eq!(std::fs::read(&path).unwrap(), [0, 255]);
    let text = printed(value(b"x"), &["kv", "get", "k", "--out-file", file, "-o", "json"]).await;
    assert_eq!(text, "{\"key\":\"k\",\"revision\":5,\"content_type\":\"text/plain\",\"size\":1}\n");
}

#[tokio::test]
async fn a_missing_key_is_a_failure() {
    for command in ["get", "delete"] {
        let reply = problem("404 Not Found", "key_not_found", false, "not_applied");
        let server = Responder::start(vec![reply]).await;
        let (text, result) = hearth(&server.endpoint.to_string(), &["kv", command, "a b"]).await;
        assert_eq!(text, "");
        assert_eq!(result.unwrap_err().to_string(), "there is no key \"a b\"");
    }
}

#[tokio::test]
async fn kv_put_takes_the_value_from_the_line_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value");
    std::fs::write(&path, [0, 255]).unwrap();
    let file = path.to_str().unwrap();
    let created = || json(r#"{"key":"k","revision":7,"created":true}"#);
    for (args, body, content_type) in [
        (&["kv", "put", "k", "text"][..], &b"text"[..], "text/plain; charset=utf-8"),
        (&["kv", "put", "k", "-5"], b"-5", "text/plain; charset=utf-8"),
        (&["kv", "put", "k", ""], b"", "text/plain; charset=utf-8"),
        (&["kv", "put", "k", "--", "--x"], b"--x", "text/plain; charset=utf-8"),
        (&["kv", "put", "k", "--file", file], &[0, 255], "application/octet-stream"),
        (&["kv", "put", "k", "{}", "--content-type", "application/json"], b"{}", "application/json"),
    ] {
        let server = Responder::start(vec![created()]).await;
        let (text, result) = hearth(&server.endpoint.to_string(), args).await;
        result.unwrap();
        assert_eq!(text, "created, revision 7\n");
        let asked = server.asked();
        assert_eq!(asked[0].body, body, "{args:?}");
        assert!(asked[0].headers.contains(&format!("content-type: {content_type}")), "{:?}", asked[0]);
    }
    assert_eq!(
        printed(created(), &["kv", "put", "k", "v", "-o", "json"]).await,
        "{\"key\":\"k\",\"revision\":7,\"created\":true}\n"
    );
    let updated = json(r#"{"key":"k","revision":8,"created":false}"#);
    assert_eq!(printed(updated, &["kv", "put", "k", "v"]).await, "updated, revision 8\n");
}

#[tokio::test]
async fn kv_get_says_how_fresh_it_must_be_and_when_the_key_goes() {
    for (args, line) in [
        ("kv get k", "GET /v1/kv/k"),
        ("kv get k --consistency linearizable", "GET /v1/kv/k"),
        ("kv get k --consistency local", "GET /v1/kv/k?consistency=local"),
        ("kv get k --max-staleness 2s", "GET /v1/kv/k?max_staleness=2000ms"),
        ("age get n --max-staleness 2s", "GET /age/n?max_staleness=2000ms"),
    ] {
        let reply = if args.starts_with("age") { json("[]") } else { value(b"x") };
        let server = Responder::start(vec![reply]).await;
        let args: Vec<&str> = args.split(' ').collect();
        hearth(&server.endpoint.to_string(), &args).await.1.unwrap();
        assert_eq!(server.lines(), [line]);
    }
    let headers = vec!["ETag: \"5\"".to_owned(), "Hearth-Expires-In: 1500ms".to_owned()];
    let text = printed(Reply::Answer("200 OK", headers, vec![]), &["kv", "get", "k", "-o", "json"]).await;
    let expected = r#"{"key":"k","revision":5,"content_type":null,"size":0,"expires_in_ms":1500,"value":""}"#;
    assert_eq!(text, format!("{expected}\n"));
}

#[tokio::test]
async fn every_write_has_an_idempotency_key_given_or_new() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("txn.json");
    std::fs::write(&file, r#"{"then":[{"op":"get","key":"a"}]}"#).unwrap();
    let file = file.to_str().unwrap();
    let gone = || Reply::Answer("204 No Content", vec![], vec![]);
    for (args, reply) in [
        (&["kv", "put", "k", "v"][..], json(r#"{"key":"k","revision":7,"created":true}"#)),
        (&["kv", "delete", "k"], gone()),
        (&["kv", "delete", "--prefix", "k", "--yes"], json(r#"{"deleted":1,"revision":7}"#)),
        (&["kv", "txn", file], json(r#"{"succeeded":true,"revision":7,"results":[]}"#)),
        (&["age", "put", "n", "1"], json(r#"{"name":"n","age":1,"revision":7}"#)),
        (&["age", "delete", "n"], gone()),
    ] {
        let server = Responder::start(vec![reply.clone(), reply.clone(), reply]).await;
        let endpoint = server.endpoint.to_string();
        hearth(&endpoint, args).await.1.unwrap();
        hearth(&endpoint, args).await.1.unwrap();
        hearth(&endpoint, &[args, &["--idempotency-key", "order-1"]].concat()).await.1.unwrap();
        let key = |line: &String| line.strip_prefix("idempotency-key: ").map(str::to_owned);
        let keys: Vec<String> =
            server.asked().iter().filter_map(|asked| asked.headers.iter().find_map(key)).collect();
        assert_eq!((keys.len(), keys[0].len(), keys[2].as_str()), (3, 32, "order-1"), "{args:?}");
        assert_ne!(keys[0], keys[1]);
    }
}

#[tokio::test]
async fn conditions_and_times_to_live() {
    for (args, line, header) in [
        ("kv put k v --ttl 30s --if-match 7", "PUT /v1/kv/k?ttl=30000ms", "if-match: \"7\""),
        ("kv put k v --if-match *", "PUT /v1/kv/k", "if-match: *"),
        ("kv put k v --if-absent --ttl 500ms", "PUT /v1/kv/k?ttl=500ms", "if-none-match: *"),
        ("kv delete k --if-match \"7\"", "DELETE /v1/kv/k", "if-match: \"7\""),
    ] {
        let failed = problem("412 Precondition Failed", "precondition_failed", false, "not_applied");
        let server = Responder::start(vec![failed]).await;
        let args: Vec<&str> = args.split(' ').collect();
        let (text, result) = hearth(&server.endpoint.to_string(), &args).await;
        assert_eq!((text.as_str(), server.lines()), ("", vec![line.to_owned()]));
        assert!(server.asked()[0].headers.contains(&header.to_owned()), "{:?}", server.asked());
        assert_eq!(
            result.unwrap_err().to_string(),
            "Title: why (status 412, precondition_failed, request r1)"
        );
    }
}

#[tokio::test]
async fn kv_delete_of_a_prefix_tells_how_many_and_asks_before() {
    let gone = |count| json(&format!(r#"{{"deleted":{count},"revision":9}}"#));
    let args = ["kv", "delete", "--prefix", "a/", "--yes"];
    assert_eq!(printed(gone(1), &args).await, "deleted 1 key\n");
    assert_eq!(printed(gone(0), &args).await, "deleted 0 keys\n");
    let json_args = [&args[..], &["-o", "json"]].concat();
    let expected = "{\"prefix\":\"a/\",\"deleted\":2,\"revision\":9}\n";
    assert_eq!(printed(gone(2), &json_args).await, expected);

    // Tests have no terminal.
    let server = Responder::start(vec![page(&["a/1"], Some("a/1"))]).await;
    let (_, result) = hearth(&server.endpoint.to_string(), &args[..4]).await;
    let Err(Failure::Usage(text)) = result else { panic!("{result:?}") };
    let question = "Delete the more than 1 key that begins with \"a/\"?";
    assert_eq!(text, format!("{question} There is no terminal to answer at: pass --yes"));
    assert_eq!(server.lines(), ["GET /v1/kv?prefix=a%2F&limit=1000"]);
}

fn page(keys: &[&str], next: Option<&str>) -> Reply {
    let items: Vec<serde_json::Value> = keys
        .iter()
        .map(|key| {
            serde_json::json!({"key": key, "revision": 12, "created_revision": 3, "size": 2048,
                "content_type": "text/plain", "expires_in_ms": null})
        })
        .collect();
    json(&serde_json::json!({"revision": 20, "items": items, "next": next}).to_string())
}

#[tokio::test]
async fn kv_list_is_a_table() {
    let server = Responder::start(vec![page(&["a", "long/key"], Some("long/key"))]).await;
    let (text, notes, result) = noted(&server.endpoint.to_string(), &["kv", "list", "--limit", "2"]).await;
    result.unwrap();
    let expected = "\
KEY       REVISION  CREATED  SIZE     EXPIRES IN  CONTENT TYPE
a         12        3        2.0 KiB              text/plain
long/key  12        3        2.0 KiB              text/plain
";
    assert_eq!(text, expected);
    assert_eq!(notes, "hearth: there are more keys: --after \"long/key\", or --all\n");
    assert_eq!(server.lines(), ["GET /v1/kv?prefix=&limit=2"]);
}

#[tokio::test]
async fn kv_list_asks_page_by_page_up_to_the_limit() {
    for (args, replies, keys, noted_more) in [
        (&["--limit", "3"][..], vec![page(&["a", "b", "c"], None)], "abc", false),
        (&["--limit", "3"], vec![page(&["a", "b"], Some("b")), page(&["c", "d"], None)], "abc", true),
        (&["--limit", "3"], vec![page(&["a", "b"], Some("b")), page(&["c"], None)], "abc", false),
        (&["--all"], vec![page(&["a", "b"], Some("b")), page(&["c", "d"], None)], "abcd", false),
        (&["--all"], vec![page(&[], None)], "", false),
    ] {
        let server = Responder::start(replies).await;
        let args = [&["kv", "list", "-o", "json"], args].concat();
        let (text, notes, result) = noted(&server.endpoint.to_string(), &args).await;
        result.unwrap();
        let key = |line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].as_str().unwrap().to_owned()
        };
        assert_eq!(text.lines().map(key).collect::<String>(), keys, "{args:?}");
        assert_eq!(
            notes,
            if noted_more { "hearth: there are more keys: --after \"c\", or --all\n" } else { "" }
        );
    }
}

#[tokio::test]
async fn kv_list_with_values() {
    let items = r#"{"revision":20,"items":[
        {"key":"t","revision":12,"created_revision":3,"size":4,"content_type":null,"expires_in_ms":29512,"value":"dGV4dA=="},
        {"key":"b","revision":12,"created_revision":3,"size":2,"content_type":null,"expires_in_ms":null,"value":"AP8="}],"next":null}"#;
    let text = printed(json(items), &["kv", "list", "x", "--values", "--reverse", "--after", "z"]).await;
    let expected = "\
KEY  REVISION  CREATED  SIZE  EXPIRES IN  CONTENT TYPE  VALUE
t    12        3        4 B   29.5 s                    text
b    12        3        2 B                             (2 B, not text)
";
    assert_eq!(text, expected);
    let text = printed(json(items), &["kv", "list", "--values", "-o", "json"]).await;
    let expected = r#"{"key":"t","revision":12,"created_revision":3,"size":4,"content_type":null,"expires_in_ms":29512,"value":"text"}
{"key":"b","revision":12,"created_revision":3,"size":2,"content_type":null,"expires_in_ms":null,"value_base64":"AP8="}
"#;
    assert_eq!(text, expected);
}

#[tokio::test]
async fn kv_txn_shows_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("txn.json");
    std::fs::write(&file, r#"{"then":[{"op":"add","key":"n"}]}"#).unwrap();
    let args = ["kv", "txn", file.to_str().unwrap()];
    let done = r#"{"succeeded":true,"revision":4,"results":[{"op":"put","key":"lock","created":true},{"op":"put","key":"p","created":false},{"op":"delete","key":"d","deleted":true},{"op":"delete","key":"e","deleted":false},{"op":"add","key":"n","result":-5},{"op":"get","key":"g","found":true,"revision":3,"created_revision":3,"content_type":"text/plain","expires_in_ms":null,"value":"aGVsbG8="},{"op":"get","key":"h","found":false}]}"#;
    let expected = "\
the conditions hold: then, revision 4
OP      KEY   RESULT
put     lock  created
put     p     updated
delete  d     deleted
delete  e     no such key
add     n     -5
get     g     revision 3: hello
get     h     no such key
";
    assert_eq!(printed(json(done), &args).await, expected);
    assert_eq!(printed(json(done), &[&args[..], &["-o", "json"]].concat()).await, format!("{done}\n"));
    let none = r#"{"succeeded":false,"revision":4,"results":[]}"#;
    assert_eq!(printed(json(none), &args).await, "a condition does not hold: else, revision 4\n");

    std::fs::write(&file, r#"{"then":[{"op":"add","key":"n"},{"op":"cas"}]}"#).unwrap();
    let server = Responder::start(vec![]).await;
    let (_, result) = hearth(&server.endpoint.to_string(), &args).await;
    let expected = "then[1]: unknown variant `cas`, expected one of `put`, `delete`, `get`, `add`";
    assert_eq!(result.unwrap_err().to_string(), expected);
    assert!(server.lines().is_empty());
    let (_, result) = hearth(&server.endpoint.to_string(), &["kv", "txn", "/no/such/file"]).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "cannot open /no/such/file: No such file or directory (os error 2)"
    );
}

const EVENTS: &str = "Hearth-Revision: 5\r\n\r\n\
event: put\nid: 6\ndata: {\"key\":\"a\",\"revision\":6,\"created_revision\":6,\"created\":true,\"content_type\":\"text/plain\",\"size\":4,\"expires_in_ms\":1500,\"value\":\"dGV4dA==\"}\n\n\
event: delete\nid: 7\ndata: {\"key\":\"a\",\"revision\":7}\n\n";

#[tokio::test]
async fn kv_watch_is_a_table_that_grows_and_tells_when_it_resumes() {
    let second =
        "Hearth-Revision: 7\r\n\r\nevent: expire\nid: 8\ndata: {\"key\":\"a longer key\",\"revision\":8}\n\n";
    for command in [&["kv", "watch", "--limit", "3"][..], &["watch", "--limit", "3"]] {
        let replies = vec![
            Reply::Stream(vec![EVENTS.to_owned()], Ending::Closes),
            Reply::Stream(vec![second.to_owned()], Ending::Silent),
        ];
        let server = Responder::start(replies).await;
        let (text, notes, result) = noted(&server.endpoint.to_string(), command).await;
        result.unwrap();
        let expected = "\
REVISION  EVENT   KEY               VALUE
6         put     a                 text
7         delete  a
8         expire  a longer key
";
        assert_eq!(text, expected);
        let endpoint = &server.endpoint;
        let expected = format!(
            "hearth: lost {endpoint}: the stream ended; resuming after 7\nhearth: watching again at {endpoint}\n"
        );
        assert_eq!(notes, expected);
    }
}

#[tokio::test]
async fn kv_watch_as_json_is_a_line_for_each_change() {
    let server = Responder::start(vec![Reply::Stream(vec![EVENTS.to_owned()], Ending::Silent)]).await;
    let args = "kv watch a/ --after 5 --no-values --limit 2 -o json";
    let args: Vec<&str> = args.split(' ').collect();
    let (text, result) = hearth(&server.endpoint.to_string(), &args).await;
    result.unwrap();
    let expected = r#"{"event":"put","id":"6","key":"a","revision":6,"created":true,"created_revision":6,"content_type":"text/plain","size":4,"expires_in_ms":1500,"value":"text"}
{"event":"delete","id":"7","key":"a","revision":7}
"#;
    assert_eq!(text, expected);
    assert_eq!(server.lines(), ["GET /v1/watch?prefix=a%2F&after=5&values=false"]);
}
