//! Disks that are nearly full, and full to the last byte.

use std::time::Duration;

use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::{Cluster, Options, wait};

const BOUND: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_growth_and_nothing_else_and_ends_by_itself() {
    let flags = vec!["--storage-disk-free-min=24MiB".to_owned()];
    let mut cluster =
        Cluster::start(Options { flags, volume_bytes: Some(96 * MIB), ..Options::default() }).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    for key in ["a", "b"] {
        assert_eq!(clients[0].put_key(key, "value").await, Outcome::Acknowledged);
    }

    for node in cluster.nodes() {
        node.volume.as_ref().unwrap().fill(12 * MIB).unwrap();
    }
    // A new key each time: the same one again would not grow the data.
    let mut tries = 0;
    wait::until(BOUND, "growth refused", async || {
        tries += 1;
        match clients[1].put_key(&format!("try{tries}"), "value").await {
            Outcome::NotApplied => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let refused = clients[2].put_key_reply("c", "value").await.unwrap();
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_eq!(refused.json().unwrap()["code"], "storage_full");
    assert!(refused.text().contains("storage.disk_free_min"), "{}", refused.text());

    // Everything else goes on, on every node.
    for client in &clients {
        assert_eq!(client.key("a").await.unwrap().as_deref(), Some("value"));
        assert_eq!(client.get("cpu").await.unwrap().status, 200);
        // Every node looks at its own disk, a few times a second.
        wait::until(BOUND, "not ready", async || {
            match client.get("readyz").await.map(|reply| reply.status) {
                Ok(503) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        assert_eq!(client.get("readyz?exclude=disk").await.unwrap().status, 200);
    }
    assert_eq!(
        clients[1].put_key("a", "less").await,
        Outcome::Acknowledged,
        "an overwrite that does not grow"
    );
    assert_eq!(clients[2].delete_key("b").await.unwrap(), 204);

    // A follower whose disk is full to the last byte starts again.
    let leader = cluster.leader().await.unwrap();
    let follower = (leader + 1) % 3;
    cluster.kill(follower).unwrap();
    cluster.node(follower).volume.as_ref().unwrap().fill(0).unwrap();
    cluster.spawn(follower).unwrap();
    wait::until(BOUND, "the node answers on a full disk", async || {
        let reply =
            clients[follower].get("readyz?exclude=disk").await.map_err(|error| format!("{error:#}"))?;
        if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
    })
    .await
    .unwrap();
    assert_eq!(clients[follower].key("a").await.unwrap().as_deref(), Some("less"));

    // Room again: growth goes on without anybody's help.
    for node in cluster.nodes() {
        node.volume.as_ref().unwrap().empty().unwrap();
    }
    wait::until(BOUND, "growth accepted", async || match clients[1].put_key("c", "value").await {
        Outcome::Acknowledged => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    cluster.wait_ready().await.unwrap();
    for client in &clients {
        assert_eq!(client.key("c").await.unwrap().as_deref(), Some("value"));
        assert_eq!(client.key("b").await.unwrap(), None);
    }
}

/// Without a reserve the disk fills to the last byte. The node whose log cannot be written stops at once
/// and says why; the others go on; and with room again it comes back with everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_write_its_log_stops_and_comes_back_whole() {
    let flags = vec!["--storage-disk-free-min=0".to_owned()];
    let mut cluster =
        Cluster::start(Options { flags, volume_bytes: Some(96 * MIB), ..Options::default() }).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    let leader = cluster.leader().await.unwrap();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.node(leader).volume.as_ref().unwrap().fill(0).unwrap();

    let value = "v".repeat(32 * 1024);
    let mut acknowledged = Vec::new();
    for number in 0..100 {
        let key = format!("k{number}");
        if clients[others[0]].put_key(&key, &value).await == Outcome::Acknowledged {
            acknowledged.push(key);
        }
    }
    let status = cluster.wait_stopped(leader).await.unwrap();
    assert_eq!(status.code(), Some(1), "a node that cannot go on exits with 1");
    let log = std::fs::read_to_string(&cluster.node(leader).log).unwrap();
    let reason = log.lines().find(|line| line.contains("the store failed")).unwrap();
    assert!(reason.contains("No space left on device"), "{reason}");
    cluster.leader_among(&others).await.unwrap();
    for number in 0..20 {
        let key = format!("after{number}");
        assert_eq!(clients[others[1]].put_key(&key, "v").await, Outcome::Acknowledged);
        acknowledged.push(key);
    }

    cluster.node(leader).volume.as_ref().unwrap().empty().unwrap();
    cluster.restart(leader).await.unwrap();
    cluster.wait_converged().await.unwrap();
    for key in &acknowledged {
        assert!(clients[leader].key_local(key).await.unwrap().is_some(), "{key} is lost");
    }
}
