//! Watch streams of a real node: quiet ones, slow ones, blocked ones, and what a stop does to them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

mod served;

use served::{BOUND, Served, read_until_closed};

/// Opens a stream, on a connection that ends with it, and reads until it has begun.
fn watch(node: &Served, query: &str) -> (TcpStream, String) {
    let mut stream = node.connect();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
        .write_all(
            format!("GET /v1/watch?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let head = read_until_closed(&mut stream, Some(": watching\n"));
    (stream, String::from_utf8(head).unwrap())
}

fn put(node: &Served, key: &str, value_bytes: usize) {
    let answer = node.ask(format!(
        "PUT /v1/kv/{key} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {value_bytes}\r\n\r\n{}",
        "v".repeat(value_bytes)
    ));
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}

fn until(stream: &mut TcpStream, text: Option<&str>) -> String {
    String::from_utf8_lossy(&read_until_closed(stream, text)).into_owned()
}

/// What follows `name` on the lines that begin with it.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(name)).collect()
}

fn wait_for_metric(node: &Served, line: &str) {
    let deadline = Instant::now() + BOUND;
    while !node.get("/metrics").lines().any(|found| found == line) {
        assert!(Instant::now() < deadline, "/metrics never has {line}:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A quiet stream outlives the idle timeout, and its ids move on with the log although nothing of its keys
/// changes.
#[test]
fn a_quiet_stream_stays_and_moves_on() {
    let node = Served::ready(&["--watch-heartbeat-interval", "50ms", "--http-idle-timeout", "100ms"]);
    let (mut stream, head) = watch(&node, "prefix=quiet/");
    let begin: u64 = values(&head, "hearth-revision: ")[0].parse().unwrap();
    assert!(head.contains(&format!("id: {begin}")) && head.contains("cache-control: no-store"), "{head}");
    let begun = Instant::now();
    let (mut beats, mut newest) = (0, begin);
    while begun.elapsed() < Duration::from_millis(500) {
        put(&node, "busy", 1);
        let beat = until(&mut stream, Some("\n\n"));
        beats += values(&beat, ": heartbeat").len();
        let ids: Vec<u64> = values(&beat, "id: ").iter().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id >= newest), "{ids:?} after {newest}");
        newest = ids.last().copied().unwrap_or(newest);
    }
    assert!(beats >= 3 && newest > begin, "{beats} heartbeats, {begin} to {newest}");
    put(&node, "quiet/a", 1);
    let event = until(&mut stream, Some("\"value\":\"dg==\"}"));
    assert!(event.contains("event: put") && event.contains("\"key\":\"quiet/a\""), "{event}");
}

/// Who is slower than the history is long is told after which event it has to resume, and has no gap
/// before that.
#[test]
fn a_slow_reader_gets_an_overflow() {
    const VALUE_BYTES: usize = 256 * 1024;
    let node = Served::ready(&["--watch-history-events", "8"]);
    let (mut stream, _) = watch(&node, "prefix=");
    // More than all buffers on the way hold, and the history besides.
    for number in 0..100 {
        put(&node, &format!("k{number}"), VALUE_BYTES);
    }
    let rest = until(&mut stream, None);
    assert!(rest.ends_with("\n\n\r\n0\r\n\r\n"), "{}", rest.len());
    let keys: Vec<usize> = rest
        .match_indices("{\"key\":\"k")
        .map(|(at, found)| {
            let digits = &rest[at + found.len()..];
            digits[..digits.find('"').unwrap()].parse().unwrap()
        })
        .collect();
    assert!(!keys.is_empty() && keys.len() < 100, "{} events", keys.len());
    assert!(keys.iter().copied().eq(0..keys.len()), "{keys:?}");
    let last = *values(&rest, "id: ").last().unwrap();
    let data = values(&rest, "data: {\"code\":\"overflow\"").pop().unwrap();
    assert!(data.ends_with(&format!("\"resume_after\":\"{last}\"}}")), "{data} behind {last}");
    wait_for_metric(&node, "hearth_watch_dropped_total{reason=\"overflow\"} 1");
    wait_for_metric(&node, "hearth_watch_dropped_total{reason=\"write_timeout\"} 0");
    wait_for_metric(&node, "hearth_watch_streams 0");
    // That is too old here; what it names is not.
    let gone = node.get(&format!("/v1/watch?after={last}"));
    assert!(gone.starts_with("HTTP/1.1 410 ") && gone.contains("\"code\":\"compacted\""), "{gone}");
    let oldest = values(&gone, "hearth-oldest-revision: ")[0].to_owned();
    assert!(gone.contains(&format!("the oldest revision to resume after is {oldest}")), "{gone}");
    let (_, head) = watch(&node, &format!("after={oldest}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// A client that takes nothing is cut off as with any other answer.
#[test]
fn a_blocked_client_is_cut_off() {
    let node = Served::ready(&["--http-write-timeout", "300ms"]);
    let (_blocked, _) = watch(&node, "prefix=");
    let (mut healthy, _) = watch(&node, "prefix=last");
    wait_for_metric(&node, "hearth_watch_streams 2");
    for number in 0..64 {
        put(&node, &format!("k{number}"), 512 * 1024);
    }
    wait_for_metric(&node, "hearth_watch_streams 1");
    wait_for_metric(&node, "hearth_watch_dropped_total{reason=\"write_timeout\"} 1");
    wait_for_metric(&node, "hearth_watch_dropped_total{reason=\"overflow\"} 0");
    put(&node, "last", 1);
    assert!(until(&mut healthy, Some("\n\n")).contains("\"key\":\"last\""));
}

/// A stop does not wait for streams: they end, complete, and their clients resume elsewhere.
#[test]
fn a_stop_ends_streams() {
    let mut node = Served::ready(&["--stop-timeout", "30s"]);
    let mut streams: Vec<TcpStream> =
        ["", "a", "b"].map(|prefix| watch(&node, &format!("prefix={prefix}")).0).into();
    let begun = Instant::now();
    let status = node.terminate();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(15), "{status} {:?}", begun.elapsed());
    for stream in &mut streams {
        let end = until(stream, None);
        assert!(end.contains(": this node stops") && end.ends_with("0\r\n\r\n"), "{end:?}");
    }
}
