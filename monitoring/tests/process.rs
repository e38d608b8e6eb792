//! The log of a whole process: this test program runs itself again and looks at what comes out.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic: that is how tests fail")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use hearth_monitoring::logs::{LogConfig, LogFormat, init};
use serde_json::Value;

/// Names the directory for the files; its presence makes [`child`] the logging process.
const DIR: &str = "HEARTH_TEST_LOG_DIR";
/// How many lines the child logs.
const LINES: usize = 500;

/// Not a test of its own: the process that the tests below start.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let config = LogConfig {
        level: "info".to_owned(),
        format: LogFormat::Json,
        dir: Some(dir.into()),
        files_max: 3,
        lines_max: 10_000,
        node: "n7".to_owned(),
        colour: false,
    };
    let guard = init(&config).unwrap();
    assert!(init(&config).is_err_and(|error| error.to_string() == "the log is already set up"));
    let span = tracing::info_span!("request", request_id = "r-1");
    for number in 0..LINES {
        span.in_scope(|| tracing::info!(number, "line"));
    }
    log::warn!(target: "sled::tree", "from the log crate");
    drop(guard);
    // The test harness would print its verdict, and fail on a closed standard output.
    std::process::exit(0);
}

fn run_child(dir: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(DIR, dir).stdout(Stdio::piped());
    command
}

fn check(lines: &[Value]) {
    assert_eq!(lines.len(), LINES + 1);
    for (number, line) in lines[..LINES].iter().enumerate() {
        assert_eq!(line["message"], "line");
        assert_eq!(line["number"], number);
        assert_eq!(line["request_id"], "r-1");
        assert_eq!(line["node"], "n7");
        assert_eq!(line["target"], "process");
    }
    assert_eq!(lines[LINES]["message"], "from the log crate");
    assert_eq!(lines[LINES]["target"], "sled::tree");
    assert_eq!(lines[LINES]["level"], "WARN");
}

fn file_lines(dir: &std::path::Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Two files when midnight passed.
    files.sort();
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_line_reaches_standard_output_and_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let output = run_child(dir.path()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    // The harness of the child says a few words of its own.
    let ours = text.lines().filter(|line| line.starts_with('{'));
    check(&ours.map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>());
    check(&file_lines(dir.path()));
}

#[test]
fn a_closed_standard_output_ends_neither_the_process_nor_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = run_child(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // The harness announces the test before it runs: what follows meets a closed pipe.
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    let status = child.wait().unwrap();
    let mut complaints = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert!(status.success(), "{status}: {complaints}");
    assert!(!complaints.contains("panicked"), "{complaints}");
    check(&file_lines(dir.path()));
}
