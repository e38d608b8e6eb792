//! Clients that are slow, silent or greedy: none of them keeps a node from answering the others.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

mod served;

use served::{BOUND, Served, read_until_closed};

/// Waits until the node has closed this connection, and gives what it said.
fn closed(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(BOUND)).unwrap();
    String::from_utf8_lossy(&read_until_closed(&mut stream, None)).into_owned()
}

#[test]
fn heads_that_trickle_are_cut_off_and_others_are_served() {
    let node = Served::ready(&["--http-header-timeout", "500ms", "--http-connections-max", "40"]);
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..30).map(|_| node.connect()).collect();
    let mut open = slow.len();
    // A byte at a time, each well before any timeout of a single read.
    while open > 0 {
        assert!(began.elapsed() < BOUND, "{open} connections are still open");
        assert!(node.get("/livez").starts_with("HTTP/1.1 200"));
        for stream in &mut slow {
            let _ = stream.write_all(b"G");
        }
        std::thread::sleep(Duration::from_millis(20));
        slow.retain_mut(|stream| {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let answered = matches!(stream.read(&mut [0; 512]), Ok(length) if length > 0);
            if answered {
                open -= 1;
            }
            !answered
        });
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "cut off too early");
}

#[test]
fn idle_connections_are_closed_and_busy_ones_kept() {
    let node = Served::ready(&["--http-idle-timeout", "300ms"]);
    let (silent, mut busy) = (node.connect(), node.connect());
    let began = Instant::now();
    let watcher = std::thread::spawn(move || closed(silent));
    while !watcher.is_finished() {
        busy.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        read_until_closed(&mut busy, Some("ok\n"));
        assert!(began.elapsed() < BOUND);
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(watcher.join().unwrap(), "");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(closed(busy), "", "an idle connection is closed without a word");
}

#[test]
fn when_places_are_scarce_idle_connections_give_theirs_up() {
    // The default idle timeout is longer than this test may take.
    let node = Served::ready(&["--http-connections-max", "32"]);
    let idle: Vec<TcpStream> = (0..32).map(|_| node.connect()).collect();
    let began = Instant::now();
    assert!(node.get("/livez").starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    drop(idle);
}

#[test]
fn a_client_that_takes_no_answer_is_cut_off() {
    let node = Served::ready(&["--http-write-timeout", "300ms"]);
    let value = "v".repeat(1024 * 1024);
    let put = format!(
        "PUT /v1/kv/big HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{value}",
        value.len()
    );
    assert!(node.ask(put).starts_with("HTTP/1.1 201"));
    let mut greedy = node.connect();
    // Far more answers than the kernel's buffers take.
    for _ in 0..64 {
        greedy.write_all(b"GET /v1/kv/big HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }
    let deadline = Instant::now() + BOUND;
    // Only the node's own account shows it: reading here would take the answer.
    let open = |node: &Served| {
        let text = node.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix("hearth_http_connections "));
        line.unwrap().trim().parse::<u32>().unwrap()
    };
    while open(&node) > 1 {
        assert!(Instant::now() < deadline, "the connection is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_answer_to_a_body_that_is_too_large_arrives_while_the_body_is_sent() {
    let node = Served::ready(&[]);
    let mut stream = node.connect();
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..400 {
        // All of it: a reset here would mean that the answer is lost.
        stream.write_all(&[b'v'; 10_000]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = closed(stream);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"code\":\"body_too_large\""), "{answer}");
}

#[test]
fn requests_sent_ahead_are_answered_in_order_and_garbage_after_them_too() {
    let node = Served::ready(&[]);
    let mut stream = node.connect();
    let ask = |id: u32| format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-request-id: ahead-{id}\r\n\r\n");
    let requests: String = (0..200).map(ask).collect();
    stream.write_all(requests.as_bytes()).unwrap();
    stream.write_all(b"\x00garbage\r\n\r\n").unwrap();
    let answers = closed(stream);
    let ids: Vec<&str> =
        answers.lines().filter_map(|line| line.strip_prefix("hearth-request-id: ahead-")).collect();
    assert_eq!(ids, (0..200).map(|id| id.to_string()).collect::<Vec<_>>());
    let (_, refusal) = answers.rsplit_once("HTTP/1.1 ").unwrap();
    assert!(refusal.starts_with("400") && refusal.contains("\"code\":\"invalid_request\""), "{refusal}");
}

/// What a value contains never passes for an answer of the protocol's own.
#[test]
fn values_that_look_like_refusals_arrive_as_they_are() {
    let node = Served::ready(&[]);
    let line = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let value = line.repeat(1024 * 1024 / line.len());
    let put = format!(
        "PUT /v1/kv/sly HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{value}",
        value.len()
    );
    assert!(node.ask(put).starts_with("HTTP/1.1 201"));
    let mut stream = node.connect();
    stream.write_all(b"GET /v1/kv/sly HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    // Taken in small pieces, so that the node writes it in many.
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part).unwrap() {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    assert!(answer.ends_with(value.as_bytes()), "{} bytes", answer.len());
}

#[test]
fn a_write_without_a_chance_is_refused_before_its_body_is_sent() {
    let flags = ["--http-writes-max", "1", "--http-waiting-max", "0", "--request-timeout", "20s"];
    let nodes = Served::start_cluster(3, &flags.map(str::to_owned), "/readyz");
    let leader = &nodes[0];
    nodes[1..].iter().for_each(Served::pause);
    // It is proposed and cannot be acknowledged: the one place is taken.
    let mut stuck = leader.connect();
    stuck.write_all(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").unwrap();
    let deadline = Instant::now() + BOUND;
    while !leader.get("/metrics").contains("hearth_http_in_flight 2") {
        assert!(Instant::now() < deadline, "the write never begins");
    }
    let mut stream = leader.connect();
    stream.write_all(b"PUT /v1/kv/b HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_until_closed(&mut stream, Some("\"request_id\""))).unwrap();
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("http.writes_max"), "{answer}");

    // Who comes back on the same connection before `Retry-After` (1 s) is over is answered when it is.
    let mut stream = leader.connect();
    let mut refuse = || {
        let begun = Instant::now();
        stream.write_all(b"PUT /v1/kv/b HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").unwrap();
        let answer = String::from_utf8(read_until_closed(&mut stream, Some("\"request_id\""))).unwrap();
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        begun.elapsed()
    };
    let (first, second) = (refuse(), refuse());
    assert!(first < Duration::from_millis(900), "the first one is refused at once: {first:?}");
    assert!(first + second >= Duration::from_secs(1), "{first:?} {second:?}");
    std::thread::sleep(Duration::from_millis(1001));
    let third = refuse();
    assert!(third < Duration::from_millis(900), "who has waited is refused at once: {third:?}");
}

/// Clients that send most of a large body and then wait hold the memory for it, and no more: writes are
/// refused meanwhile, reads are answered, and it ends with them.
#[test]
fn memory_for_bodies_is_bounded() {
    let node = Served::ready(&["--http-buffer-bytes-max", "4MiB", "--http-waiting-timeout", "100ms"]);
    let put = |key: &str, value: &str| {
        let length = value.len();
        let head =
            format!("PUT /v1/kv/{key} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}");
        node.ask(format!("{head}\r\n\r\n{value}"))
    };
    let value = "v".repeat(1_000_000);
    assert!(put("a", &value).starts_with("HTTP/1.1 201"));
    let mut greedy: VecDeque<TcpStream> = VecDeque::new();
    let deadline = Instant::now() + BOUND;
    loop {
        let mut stream = node.connect();
        // Refused, because a write before still had the memory, it may be closed already: then another one comes.
        let _ = stream.write_all(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
        let _ = stream.write_all(&value.as_bytes()[..999_000]);
        greedy.push_back(stream);
        if greedy.len() > 8 {
            greedy.pop_front();
        }
        let answer = put("b", &value);
        if answer.starts_with("HTTP/1.1 429") {
            assert!(answer.contains("http.buffer_bytes_max"), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer:.200}");
    }
    assert!(
        node.get("/v1/kv/a").starts_with("HTTP/1.1 200"),
        "a value that is there needs no memory of its own"
    );
    drop(greedy);
    while !put("b", &value).starts_with("HTTP/1.1 20") {
        assert!(Instant::now() < deadline, "the memory does not come back");
    }
    // A page with values takes some as well, and gets it.
    let page = node.get("/v1/kv?values=true");
    assert!(page.starts_with("HTTP/1.1 200") && page.len() > 2_600_000, "{page:.300}");
}
