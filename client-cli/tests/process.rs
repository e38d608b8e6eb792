//! The binary as a process: exit codes, streams, and a reader that goes away.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

/// `hearth ARGS` with nothing of the environment that it reads.
fn hearth(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command.args(args).env_remove("HEARTH_ENDPOINTS").env_remove("HEARTH_TOKEN");
    command
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = hearth(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Serves one answer on a port of its own, once a request came that ends with `end`: the endpoint.
fn serve_once(end: &'static [u8], body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream, end);
        let answer = format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[answer.into_bytes(), body].concat()).unwrap();
    });
    endpoint
}

/// Reads a request that ends with `end`: an answer that comes before it is none.
fn read_request(stream: &mut TcpStream, end: &[u8]) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(end) && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
}

#[test]
fn exit_codes_tell_failure_from_wrong_usage() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (code, stdout, stderr) = run(&["--endpoints", &closed, "status"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let expected = format!("hearth: no endpoint answered: {closed} (connection refused)\n  hint: ");
    assert!(stderr.starts_with(&expected), "{stderr}");

    let (code, _, stderr) = run(&["kv", "put", "k", "v", "--tll", "3s"]);
    let expected = "hearth: unexpected argument '--tll' found\n  hint: a similar argument exists: '--ttl'\n";
    assert_eq!((code, stderr.as_str()), (Some(2), expected));
    let (code, stdout, stderr) = run(&["kv", "delete", "--prefix", ""]);
    let expected = "hearth: the prefix must not be empty\n  hint: see --help\n";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(2), "", expected));
    let (code, _, stderr) = run(&["kv", "get", ""]);
    assert_eq!((code, stderr.as_str()), (Some(2), "hearth: the key must not be empty\n  hint: see --help\n"));
    let (code, _, stderr) = run(&["--token", "s3cret\nx", "cpu"]);
    assert_eq!(code, Some(2));
    assert!(!stderr.contains("s3cret"), "{stderr}");
}

#[test]
fn the_help_never_shows_the_token() {
    let output = hearth(&["--help"]).env("HEARTH_TOKEN", "s3cret").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("HEARTH_TOKEN") && !help.contains("s3cret"), "{help}");
}

#[test]
fn values_pass_through_byte_for_byte() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let endpoint = serve_once(b"\r\n\r\n", bytes.clone());
    let output = hearth(&["--endpoints", &endpoint, "kv", "get", "k"]).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    assert!(output.stdout == bytes);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    // More than a pipe holds, so that the write certainly meets the closed end.
    let endpoint = serve_once(b"\r\n\r\n", vec![b'x'; 1 << 20]);
    let mut child = hearth(&["--endpoints", &endpoint, "kv", "get", "k"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn a_value_can_come_from_stdin() {
    let endpoint = serve_once(b"\r\n\r\nfrom stdin", br#"{"key":"k","revision":3,"created":true}"#.to_vec());
    let mut child = hearth(&["--endpoints", &endpoint, "kv", "put", "k", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"created, revision 3\n");
}

/// Serves a watch on a port of its own: one event, and then silence.
fn serve_watch() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream, b"\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let event = b"event: delete\nid: 7\ndata: {\"key\":\"k\",\"revision\":7}\n\n";
        stream.write_all(&[&head[..], event].concat()).unwrap();
        // Until the client goes.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    endpoint
}

#[test]
fn a_watch_shows_events_at_once_and_ends_well_with_ctrl_c() {
    let mut child = hearth(&["--endpoints", &serve_watch(), "watch", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    // It comes while the stream is open: nothing waits in a buffer.
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"event\":\"delete\",\"id\":\"7\",\"key\":\"k\",\"revision\":7}\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}
