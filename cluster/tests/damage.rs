//! A node whose disk is damaged does not start, says where and what to do, and harms nobody.

use std::path::PathBuf;

use hearth_cluster::http::{Client, Outcome};
use hearth_cluster::{Cluster, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_and_the_others_go_on() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client.clone()).collect();
    for number in 0..50 {
        assert_eq!(clients[0].put_key(&format!("k{number}"), "value").await, Outcome::Acknowledged);
    }
    let victim = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.kill(victim).unwrap();

    // In the middle of what it acknowledged; behind that the file is filled with zeros.
    let log_dir = cluster.node(victim).data_dir.join("log");
    let files = std::fs::read_dir(log_dir).unwrap().map(|file| file.unwrap().path());
    let file: PathBuf = files.filter(|path| path.extension().is_some_and(|end| end == "wal")).min().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&file, &bytes).unwrap();

    cluster.spawn(victim).unwrap();
    let status = cluster.wait_stopped(victim).await.unwrap();
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(&cluster.node(victim).log).unwrap();
    let message = log.lines().rfind(|line| line.starts_with("hearthd: ")).unwrap();
    for part in
        [&cluster.node(victim).data_dir.display().to_string(), "offset", "does not start", "add it anew"]
    {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the evidence is touched");
    assert_eq!(clients[(victim + 1) % 3].put_key("after", "value").await, Outcome::Acknowledged);
}
