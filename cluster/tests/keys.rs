//! Keys over HTTP on three nodes: conditions, listings, transactions, and idempotency keys, written on one node and read on another.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use hearth_cluster::http::{Client, Reply};
use hearth_cluster::{Cluster, Options, seed};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};

/// Random operations of [`nodes_agree_with_a_model`].
const STEPS: usize = 400;

fn clients(cluster: &Cluster) -> Vec<Client> {
    cluster.nodes().iter().map(|node| node.client.clone()).collect()
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Reply> {
    client.request(method, path, headers, body.to_owned()).await
}

#[tokio::test]
async fn conditions_listings_transactions_and_idempotency_keys() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let clients = clients(&cluster);
    let [a, b, c] = &clients[..] else { panic!() };

    // If-None-Match: *, then If-Match with the ETag that it gave.
    let only_new = [("if-none-match", "*"), ("content-type", "text/plain")];
    let created = send(a, Method::PUT, "v1/kv/k", &only_new, "one").await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    let etag = created.header("etag").to_owned();
    let refused = send(b, Method::PUT, "v1/kv/k", &only_new, "two").await.unwrap();
    assert_eq!((refused.status, refused.header("etag")), (412, &*etag));
    let problem = refused.json().unwrap();
    assert_eq!(
        (&problem["code"], &problem["outcome"]),
        (&json!("precondition_failed"), &json!("not_applied"))
    );
    let swapped = send(c, Method::PUT, "v1/kv/k", &[("if-match", &etag)], "two").await.unwrap();
    assert_eq!(swapped.status, 200);
    assert_eq!(send(a, Method::DELETE, "v1/kv/k", &[("if-match", &etag)], "").await.unwrap().status, 412);
    assert_eq!(send(a, Method::PUT, "v1/kv/none", &[("if-match", "*")], "x").await.unwrap().status, 412);

    // A read that has it already, and one that wants only the head.
    let etag = swapped.header("etag").to_owned();
    let known = send(b, Method::GET, "v1/kv/k", &[("if-none-match", &etag)], "").await.unwrap();
    assert_eq!((known.status, known.header("etag"), known.body.len()), (304, &*etag, 0));
    let head = send(b, Method::HEAD, "v1/kv/k", &[], "").await.unwrap();
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, "3", &*etag));
    assert_eq!(head.body.len(), 0);
    assert_eq!(send(b, Method::DELETE, "v1/kv/k", &[("if-match", &etag)], "").await.unwrap().status, 204);

    // A walk in pages, forwards and backwards, none of it older than its first page.
    for n in 0..7 {
        send(a, Method::PUT, &format!("v1/kv/list/{n}"), &[("content-type", "x/y")], &n.to_string())
            .await
            .unwrap();
    }
    for reverse in [false, true] {
        let (mut keys, mut after, mut at) = (Vec::new(), String::new(), 0);
        for client in clients.iter().cycle() {
            let path = format!("v1/kv?prefix=list/&limit=3&values=true&reverse={reverse}&at={at}{after}");
            let page = client.get_json(&format!("{path}&consistency=local")).await;
            let page = match page {
                // The very first page may be asked of a node that is behind.
                Ok(page) if at > 0 || page["items"].as_array().unwrap().len() == 3 => page,
                _ => client.get_json(&path).await.unwrap(),
            };
            assert!(page["revision"].as_u64().unwrap() >= at);
            at = at.max(page["revision"].as_u64().unwrap());
            keys.extend(
                page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()),
            );
            assert_eq!(page["items"][0]["content_type"], "x/y");
            assert!(page["items"][0]["value"].is_string());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let mut expected: Vec<String> = (0..7).map(|n| format!("list/{n}")).collect();
        if reverse {
            expected.reverse();
        }
        assert_eq!(keys, expected);
    }
    let gone = send(c, Method::DELETE, "v1/kv?prefix=list/", &[], "").await.unwrap();
    assert_eq!((gone.status, &gone.json().unwrap()["deleted"]), (200, &json!(7)));
    assert_eq!(send(c, Method::DELETE, "v1/kv", &[], "").await.unwrap().status, 400);

    // A counter that starts by itself; an operation that cannot be done undoes all.
    let json_type = ("content-type", "application/json");
    let body = json!({
        "if": [{"key": "counter", "exists": false}],
        "then": [{"op": "add", "key": "counter", "by": 5}, {"op": "put", "key": "note", "text": "héllo"}],
        "else": [{"op": "add", "key": "note"}],
    })
    .to_string();
    let first = send(a, Method::POST, "v1/txn", &[json_type], &body).await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text());
    let answer = first.json().unwrap();
    assert_eq!((&answer["succeeded"], &answer["results"][0]["result"]), (&json!(true), &json!(5)));
    let second = send(b, Method::POST, "v1/txn", &[json_type], &body).await.unwrap();
    assert_eq!((second.status, &second.json().unwrap()["code"]), (409, &json!("not_an_integer")));
    assert!(second.text().contains("else[0]"), "{}", second.text());
    assert_eq!(c.key("counter").await.unwrap().as_deref(), Some("5"));

    // The same request under the same key, on every node: one answer, applied once.
    let keyed = [json_type, ("idempotency-key", "order-1")];
    let add = json!({"then": [{"op": "add", "key": "counter", "by": 1}]}).to_string();
    let first = send(a, Method::POST, "v1/txn", &keyed, &add).await.unwrap();
    assert_eq!((first.status, first.header("hearth-idempotent-replay")), (200, ""));
    for client in &clients {
        let again = send(client, Method::POST, "v1/txn", &keyed, &add).await.unwrap();
        assert_eq!((again.status, again.header("hearth-idempotent-replay")), (200, "true"));
        assert_eq!(
            (again.text(), again.header("hearth-revision")),
            (first.text(), first.header("hearth-revision"))
        );
    }
    assert_eq!(c.key("counter").await.unwrap().as_deref(), Some("6"));
    let other = send(b, Method::PUT, "v1/kv/x", &[("idempotency-key", "order-1")], "x").await.unwrap();
    assert_eq!((other.status, &other.json().unwrap()["code"]), (422, &json!("idempotency_key_reused")));
    assert_eq!(c.key("x").await.unwrap(), None);
}

/// What a key is expected to have.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    value: String,
    revision: u64,
    created: u64,
}

#[tokio::test]
async fn nodes_agree_with_a_model() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let clients = clients(&cluster);
    let mut random = seed::random(77);
    let mut model = BTreeMap::new();
    for number in 0..STEPS {
        let client = &clients[random.random_range(0..3)];
        let wrote = step(&mut model, client, &mut random).await;
        wrote.unwrap_or_else(|error| panic!("step {number}: {error:#}"));
        let reader = &clients[random.random_range(0..3)];
        agree(&model, reader, random.random_bool(0.5))
            .await
            .unwrap_or_else(|error| panic!("step {number}: {error:#}"));
    }
}

/// One random write through `client`, and what the model says it answers.
async fn step(model: &mut BTreeMap<String, Expected>, client: &Client, random: &mut StdRng) -> Result<()> {
    let key = ["a", "a/1", "a/2", "b", "n"][random.random_range(0..5)];
    let path = format!("v1/kv/{key}");
    let current = model.get(key).cloned();
    let revision = |reply: &Reply| reply.header("hearth-revision").parse::<u64>();
    let tag = current.as_ref().map_or("\"1\"".to_owned(), |found| format!("\"{}\"", found.revision));
    match random.random_range(0..8) {
        choice @ 0..=3 => {
            let (headers, holds): (Vec<(&str, &str)>, bool) = match choice {
                0 => (vec![("if-none-match", "*")], current.is_none()),
                1 => (vec![("if-match", &tag)], current.is_some()),
                2 => (vec![("if-match", "\"1\"")], false),
                _ => (vec![], true),
            };
            let value = random.random_range(-5..99i64).to_string();
            let reply = client.request(Method::PUT, &path, &headers, value.clone()).await?;
            if !holds {
                ensure!(reply.status == 412, "PUT {key} {headers:?}: {} {}", reply.status, reply.text());
                let etag = if current.is_some() { tag.as_str() } else { "" };
                ensure!(reply.header("etag") == etag, "412 with {:?}, not {etag:?}", reply.header("etag"));
                return Ok(());
            }
            let status = if current.is_some() { 200 } else { 201 };
            ensure!(reply.status == status, "PUT {key} {headers:?}: {} {}", reply.status, reply.text());
            let revision = revision(&reply)?;
            let created = current.map_or(revision, |found| found.created);
            model.insert(key.to_owned(), Expected { value, revision, created });
        }
        4 => {
            let reply = client.request(Method::DELETE, &path, &[("if-match", &tag)], "").await?;
            let status = if model.remove(key).is_some() { 204 } else { 412 };
            ensure!(reply.status == status, "DELETE {key}: {} {}", reply.status, reply.text());
        }
        5 => {
            let reply = client.request(Method::DELETE, &path, &[], "").await?;
            let status = if model.remove(key).is_some() { 204 } else { 404 };
            ensure!(reply.status == status, "DELETE {key}: {} {}", reply.status, reply.text());
        }
        6 if random.random_bool(0.3) => {
            let reply = client.request(Method::DELETE, "v1/kv?prefix=a%2F", &[], "").await?;
            let before = model.len();
            model.retain(|key, _| !key.starts_with("a/"));
            ensure!(reply.json()?["deleted"] == json!(before - model.len()), "{}", reply.text());
        }
        _ => {
            let wanted = random.random_bool(0.5);
            let body = json!({
                "if": [{"key": "b", "exists": wanted}],
                "then": [{"op": "add", "key": key, "by": 3}, {"op": "get", "key": key}],
                "else": [{"op": "delete", "key": key}, {"op": "put", "key": "n", "text": "7"}],
            });
            let reply = client.request(Method::POST, "v1/txn", &[], body.to_string()).await?;
            ensure!(reply.status == 200, "{}", reply.text());
            let (answer, revision) = (reply.json()?, revision(&reply)?);
            let succeeded = model.contains_key("b") == wanted;
            ensure!(answer["succeeded"] == json!(succeeded), "{answer}");
            let created = |old: Option<&Expected>| old.map_or(revision, |found| found.created);
            if succeeded {
                let sum = current.as_ref().map_or(0, |found| found.value.parse().unwrap_or(0)) + 3i64;
                ensure!(answer["results"][0]["result"] == json!(sum), "{answer}");
                ensure!(answer["results"][1]["revision"] == json!(revision), "{answer}");
                let new = Expected { value: sum.to_string(), revision, created: created(current.as_ref()) };
                model.insert(key.to_owned(), new);
            } else {
                ensure!(answer["results"][0]["deleted"] == json!(model.remove(key).is_some()), "{answer}");
                let created = created(model.get("n"));
                model.insert("n".to_owned(), Expected { value: "7".to_owned(), revision, created });
            }
        }
    }
    Ok(())
}

/// Everything that `client` lists is what the model has.
async fn agree(model: &BTreeMap<String, Expected>, client: &Client, reverse: bool) -> Result<()> {
    let listed = client.get_json(&format!("v1/kv?values=true&reverse={reverse}")).await?;
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let base64 = |text: &str| -> Value {
        // Small texts only; the alphabet of RFC 4648.
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in text.as_bytes().chunks(3) {
            let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
            for at in 0..4 {
                let digit = (bits >> (18 - 6 * at) & 63) as usize;
                out.push(if at <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
            }
        }
        out.into()
    };
    let mut expected: Vec<(Value, Value, Value, Value)> = model
        .iter()
        .map(|(key, found)| (json!(key), json!(found.revision), json!(found.created), base64(&found.value)))
        .collect();
    if reverse {
        expected.reverse();
    }
    let found: Vec<(Value, Value, Value, Value)> = items
        .iter()
        .map(|item| {
            let field = |name: &str| item[name].clone();
            (field("key"), field("revision"), field("created_revision"), field("value"))
        })
        .collect();
    ensure!(found == expected, "listed {found:?}, expected {expected:?}");
    Ok(())
}
