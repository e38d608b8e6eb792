//! What the client knows of the API's errors is what the nodes say of them.

use hearth_cluster::{Cluster, Options};
use serde_json::Value;

/// By this the client decides what may be sent again; its own tests go through all of them.
const KNOWN: &str = include_str!("../../client-cli/src/retry/codes.json");

#[tokio::test]
async fn the_client_knows_every_error_code_as_it_is() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await.unwrap();
    let document = cluster.node(0).client.get_json("openapi.json").await.unwrap();
    let code = &document["components"]["schemas"]["Code"];
    let told = code["x-codes"].as_object().unwrap();
    let Ok(Value::Object(known)) = serde_json::from_str(KNOWN) else { panic!("{KNOWN}") };
    for (code, told) in told {
        assert_eq!(known.get(code), Some(told), "{code}");
    }
    assert_eq!(known.len(), told.len(), "a code that no node has");
    let mut words: Vec<&str> =
        code["enum"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    words.sort_unstable();
    assert!(words.into_iter().eq(told.keys()));
}
