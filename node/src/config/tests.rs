use std::io::Write as _;

use super::*;

fn load_args(args: &[&str]) -> Result<Cli, ConfigError> {
    load(std::iter::once("hearthd").chain(args.iter().copied()).map(OsString::from))
}

fn load_file(content: &str, args: &[&str]) -> Result<Cli, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    load_args(&[&["--config", path], args].concat())
}

#[test]
fn flags_go_before_the_file() {
    let file = "name = 'a'\nrequest_timeout = '2s'\n[raft]\nlog_keep_entries = 5\n[compute.local_program]\nargs = ['-x', 'y']\n";
    let cli = load_file(file, &["--name", "b"]).unwrap();
    assert_eq!(cli.settings.name, "b");
    assert_eq!(cli.settings.request_timeout.as_secs(), 2);
    assert_eq!(cli.settings.raft_log_keep_entries, 5);
    assert_eq!(cli.settings.compute_local_program_args, ["-x", "y"]);
    assert_eq!(cli.settings.http_listen, "127.0.0.1:8080");
}

#[test]
fn wrong_input_names_the_key() {
    let in_args: [(&[&str], &str); 22] = [
        (&["--compute-pool-cpu-percent", "0"], "--compute-pool-cpu-percent <N>"),
        (&["--compute-cpu-pool", "1000001"], "must be a number from 0 to 1000000"),
        (&["--compute-cpu-pool-age", "1ms"], "compute.cpu.pool_age: 1ms is less than 10ms"),
        (&["--nmae", "x"], "unexpected argument '--nmae' found; a similar argument exists: '--name'"),
        (&["--name", "a b"], "'a b' for '--name <NAME>'"),
        (&["--request-timeout", "5"], "--request-timeout <TIME>"),
        (&["--request-timeout", "1ms"], "request_timeout: 1ms is less than 10ms"),
        (&["--storage-data-bytes-max", "much"], "--storage-data-bytes-max <SIZE>"),
        (&["--http-listen", "::1:80"], "an IPv6 address goes in brackets"),
        (&["--http-listen", "0.0.0.0:8080"], "http_listen: 0.0.0.0:8080 is reachable from outside"),
        (&["--peer-listen", "[::]:1", "--insecure"], "set no_auth (there are no tokens yet)"),
        (&["--http-writes-max", "0"], "http.writes_max: must be at least 1"),
        (&["--watch-history-events", "0"], "watch.history_events: must be at least 1"),
        (&["--watch-heartbeat-interval", "1ms"], "watch.heartbeat_interval: 1ms is less than 10ms"),
        (&["--http-uri-bytes-max", "64KiB"], "http.uri_bytes_max: must be at most http.head_bytes_max"),
        (&["--http-cors-origins", "https://App.example"], "in lower case and without a path"),
        (&["--initial-cluster", "n1=a:1,n1=b:2"], "n1 is listed twice"),
        (&["--initial-cluster", "n1=a:1,n2=a:1"], "n1 and n2 have the same address"),
        (&["--initial-cluster", "n2=a:1"], "initial_cluster: it does not list this node, n1"),
        (&["--raft-heartbeat-interval", "200ms"], "raft.heartbeat_interval: 200ms is not between"),
        (&["--raft-election-timeout-max", "300ms"], "raft.election_timeout_max: 300ms is not above"),
        (&["--storage-stall-timeout", "500ms"], "storage.stall_timeout: 500ms is below"),
    ];
    for (args, message) in in_args {
        let error = load_args(args).unwrap_err().to_string();
        assert!(error.contains(message) && !error.contains('\n'), "{args:?}: {error}");
    }
    let in_file = [
        ("nmae = 'x'", "unknown key nmae; did you mean name?"),
        ("[raft]\nheartbeat = 1", "unknown key raft_heartbeat"),
        ("name = 1.5", "name: a float is not a value here"),
        ("name = 'x", "line 1: "),
        ("insecure = 'yes'", "insecure: must be true or false"),
        ("[log]\nformat = 'xml'", "must be text or json"),
    ];
    for (content, message) in in_file {
        let error = load_file(content, &[]).unwrap_err().to_string();
        assert!(
            error.contains(message) && error.contains("/.tmp") && !error.contains('\n'),
            "{content}: {error}"
        );
    }
    let error = load_args(&["--config", "/nowhere.toml"]).unwrap_err().to_string();
    assert_eq!(error, "/nowhere.toml: No such file or directory (os error 2)");
}

#[test]
fn what_is_printed_gives_the_same_again() {
    let args = [
        "--name=n2",
        "--initial-cluster=n1=h:1,n2=[::1]:2",
        "--peer-advertise=[::1]:2",
        "--http-advertise=h:3",
        "--log-dir=/tmp/x",
        "--log-format=json",
        "--storage-data-bytes-max=1MiB",
        "--compute-local-program-path=/bin/true",
        "--compute-local-program-args=-a",
        "--compute-local-program-env=A=B=C",
        "--compute-local-program-pool=3",
        "--http-cors-origins=https://a.example",
        "--http-cors-origins=https://b.example:8443",
        "--insecure",
    ];
    let printed = print(&load_args(&args).unwrap());
    assert_eq!(print(&load_file(&printed, &[]).unwrap()), printed);
    for arg in settings_command().get_arguments() {
        let id = arg.get_id().as_str();
        let key = id.trim_start_matches("log_").trim_start_matches("raft_");
        let key = key
            .trim_start_matches("storage_")
            .trim_start_matches("idempotency_")
            .trim_start_matches("watch_")
            .trim_start_matches("compute_")
            .trim_start_matches("http_");
        assert!(printed.contains(&format!("\n{key} = ")), "{id} has no value in\n{printed}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for flag in ["--help", "--version"] {
        assert!(matches!(load_args(&[flag]), Err(ConfigError::Asked(text)) if text.contains("hearthd")));
    }
}
