//! What reads promise: linearizable, at most so old, or at once.

use std::time::Duration;

use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::{Cluster, Options, wait};

const BOUND: Duration = Duration::from_secs(10);

/// Milliseconds of writes that a local read may lack, as the node says.
async fn staleness_ms(client: &Client) -> Result<u64, String> {
    let reply = client.get("v1/kv/k?consistency=local").await.map_err(|error| format!("{error:#}"))?;
    let header = reply.header("hearth-staleness-ms").to_owned();
    header.parse().map_err(|_| format!("{} with {header:?}", reply.status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_answers_only_reads_that_may_be_old_and_says_how_old() {
    let flags = vec!["--request-timeout=700ms".to_owned()];
    let mut cluster = Cluster::start(Options { flags, ..Options::default() }).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let (alone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.node(alone).client.clone();
    assert_eq!(client.put_key("k", "v").await, Outcome::Acknowledged);

    wait::until(BOUND, "a local read that is proven young", async || match staleness_ms(&client).await? {
        ms if ms < 500 => Ok(()),
        ms => Err(format!("{ms} ms")),
    })
    .await
    .unwrap();
    assert_eq!(client.get("v1/kv/k?max_staleness=5s").await.unwrap().text(), "v");

    cluster.pause(leader).unwrap();
    cluster.pause(other).unwrap();
    let refused = client.get("v1/kv/k").await.unwrap();
    assert_eq!((refused.status, refused.json().unwrap()["code"].as_str()), (503, Some("no_leader")));
    // By now the last proof is older than that.
    assert_eq!(client.get("v1/kv/k?max_staleness=500ms").await.unwrap().status, 503);
    assert_eq!(client.get("v1/kv/k?max_staleness=1h").await.unwrap().text(), "v");
    let first = staleness_ms(&client).await.unwrap();
    assert!(first >= 700, "{first} ms, after a read that waited 700 ms for a leader");
    wait::until(BOUND, "the age grows", async || match staleness_ms(&client).await? {
        ms if ms >= first + 300 => Ok(()),
        ms => Err(format!("{ms} ms")),
    })
    .await
    .unwrap();

    cluster.resume(leader).unwrap();
    cluster.resume(other).unwrap();
    wait::until(BOUND, "young again", async || match staleness_ms(&client).await? {
        ms if ms < 500 => Ok(()),
        ms => Err(format!("{ms} ms")),
    })
    .await
    .unwrap();
}
