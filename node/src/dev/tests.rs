//! The supervisor with stand-ins for the nodes: shell scripts, and tasks that answer `GET /readyz`.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::output::Output;
use super::supervise::{Cluster, Ended, Limits, Program};
use super::welcome::Welcome;
use super::{DevOptions, folder, node_args, ports};

/// No condition that is waited for takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

fn options(nodes: u16) -> DevOptions {
    DevOptions { nodes, base_port: 8080, peer_base_port: 7080, data_dir: "/d".into() }
}

/// Answers every connection with what `answer` gives, once a request came.
pub(super) async fn serve(answer: impl Fn() -> &'static str + Send + 'static) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /readyz?verbose HTTP/1.1\r\n"));
            stream.write_all(answer().as_bytes()).await.unwrap();
        }
    });
    address
}

#[test]
fn nodes_are_told_who_they_are_and_who_the_others_are() {
    assert_eq!(
        node_args(&options(3), 1),
        [
            "--name",
            "n2",
            "--data-dir",
            "/d/n2",
            "--http-listen",
            "127.0.0.1:8081",
            "--peer-listen",
            "127.0.0.1:7081",
            "--initial-cluster",
            "n1=127.0.0.1:7080,n2=127.0.0.1:7081,n3=127.0.0.1:7082",
            "--compute-local-program-env",
            "VERY_IMPORTANT_LOCK=/d/very_important_value.lock",
        ]
    );
}

#[test]
fn options_must_make_sense_together() {
    let with = |nodes, base_port, peer_base_port| {
        DevOptions { nodes, base_port, peer_base_port, data_dir: "d".into() }.validated()
    };
    assert!(with(3, 8080, 7080).unwrap().data_dir.is_absolute());
    assert!(with(9, 65527, 65518).is_ok());
    for (nodes, base_port, peer_base_port, expected) in [
        (0, 8080, 7080, "--nodes must be 1 to 9"),
        (10, 8080, 7080, "--nodes must be 1 to 9"),
        (3, 0, 7080, "--base-port must be at least 1"),
        (3, 8080, 65534, "--peer-base-port 65534 leaves no room for 3 ports below 65536"),
        (3, 8080, 8082, "--base-port 8080 and --peer-base-port 8082 overlap with 3 nodes"),
        (3, 8082, 8080, "--base-port 8082 and --peer-base-port 8080 overlap with 3 nodes"),
    ] {
        assert_eq!(with(nodes, base_port, peer_base_port).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut options = DevOptions { base_port: port, peer_base_port: free, ..options(1) };
    assert_eq!(
        ports::check_free(&options).unwrap_err().to_string(),
        format!(
            "port {port} (HTTP of n1) is in use: stop the program that listens there, or choose other \
             ports with --base-port"
        )
    );
    (options.base_port, options.peer_base_port) = (free, port);
    let error = ports::check_free(&options).unwrap_err().to_string();
    assert!(error.starts_with(&format!("port {port} (peers of n1) is in use")), "{error}");
}

#[test]
fn a_folder_belongs_to_one_shape_of_cluster() {
    let root = tempfile::tempdir().unwrap();
    let mut options = DevOptions { data_dir: root.path().join("a/b"), ..options(3) };
    folder::claim(&options).unwrap();
    assert!(root.path().join("a/b/very_important_value.lock").is_file());
    folder::claim(&options).unwrap();
    options.base_port = 9090;
    folder::claim(&options).unwrap();
    options.nodes = 5;
    folder::claim(&options).unwrap();
    std::fs::create_dir(root.path().join("a/b/n1")).unwrap();
    folder::claim(&options).unwrap();
    options.nodes = 3;
    let error = folder::claim(&options).unwrap_err().to_string();
    assert!(error.contains("made with --nodes 5 --peer-base-port 7080: use the same"), "{error}");
}

/// A cluster whose nodes are `/bin/sh -c SCRIPT`, with `$1` set to the node's name.
struct Fixture {
    running: JoinHandle<Ended>,
    stop: mpsc::Sender<&'static str>,
    pids: Vec<Arc<AtomicU32>>,
    printed: Sink,
    folder: tempfile::TempDir,
}

impl Fixture {
    /// All nodes answer that they are ready, from the start on.
    async fn start(nodes: u16, script: &str) -> Self {
        Self::start_with(nodes, script, |_| {}, || "HTTP/1.1 200 OK\r\n\r\n").await
    }

    async fn start_with(
        nodes: u16,
        script: &str,
        change: impl FnOnce(&mut Limits),
        readyz: impl Fn() -> &'static str + Send + Clone + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut limits = Limits {
            restart_delay_min: Duration::from_millis(1),
            ready_poll: Duration::from_millis(1),
            ..Limits::default()
        };
        change(&mut limits);
        let printed = Sink::default();
        let output = Output::start(printed.clone(), false);
        let options = DevOptions { data_dir: folder.path().to_owned(), ..options(nodes) };
        let mut cluster = Cluster::new(&options, stand_in(script), limits, &output);
        for node in cluster.nodes_mut() {
            node.http = serve(readyz.clone()).await;
        }
        let pids = cluster.nodes_mut().iter().map(|node| node.pid.clone()).collect();
        let (stop, stop_requests) = mpsc::channel(2);
        let welcome = Welcome::new(&options, Path::new("/bin/hearthd"));
        let running = tokio::spawn(async move {
            let ended = cluster.run(&welcome, stop_requests).await;
            output.finish().await;
            ended
        });
        Self { running, stop, pids, printed, folder }
    }

    /// Waits until something the nodes or the supervisor print is there.
    async fn printed(&self, text: &str) {
        let found = until(|| self.printed.text().contains(text)).await;
        assert!(found, "waited for {text:?} in:\n{}", self.printed.text());
    }

    fn pid(&self, index: usize) -> u32 {
        self.pids[index].load(Ordering::Relaxed)
    }

    /// How the cluster ended, and everything that was printed.
    async fn ended(self) -> (Ended, String) {
        let ended = tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap();
        for pid in self.pids {
            assert!(!is_running(pid.load(Ordering::Relaxed)), "a child is left");
        }
        (ended, self.printed.text())
    }
}

/// `/bin/sh` rather than an executable script: a script that was just written may still be open for writing
/// in a process that another test is forking, and then cannot be run.
fn stand_in(script: &str) -> Program {
    // The node's own arguments follow: $0 is "--name", $1 its value.
    Program { path: "/bin/sh".into(), leading_args: vec!["-c".to_owned(), script.to_owned()] }
}

/// Runs until it is told to stop, and says both.
const OBEDIENT: &str =
    "trap 'echo bye from $1; exit 0' TERM; echo hello from $1; while :; do sleep 0.02; done";
/// Has to be killed.
const STUBBORN: &str = "trap '' TERM; echo hello from $1; while :; do sleep 0.02; done";

#[tokio::test]
async fn nodes_start_say_hello_and_stop() {
    let cluster = Fixture::start(3, OBEDIENT).await;
    cluster.printed("3 nodes are ready after ").await;
    for name in ["n1", "n2", "n3"] {
        cluster.printed(&format!("{name}  | hello from {name}\n")).await;
    }
    let data_dir = cluster.folder.path().display().to_string();
    cluster.stop.send("Ctrl-C").await.unwrap();
    let (ended, printed) = cluster.ended().await;
    assert_eq!(ended, Ended::Asked);
    for line in [
        "dev | Ctrl-C: stopping all nodes\n",
        "n1  | bye from n1\n",
        "n2  | bye from n2\n",
        "n3  | bye from n3\n",
        &format!("data is in {data_dir}; Ctrl-C stops all nodes\n"),
    ] {
        assert!(printed.contains(line), "{line:?} is not in:\n{printed}");
    }
}

#[tokio::test]
async fn a_killed_node_is_started_again() {
    let cluster = Fixture::start(2, OBEDIENT).await;
    cluster.printed("hello from n1").await;
    cluster.printed("hello from n2").await;
    let (first, other) = (cluster.pid(0), cluster.pid(1));
    kill(first, Signal::KILL);
    cluster.printed("dev | n1 ended (signal: 9 (SIGKILL)) and is started again in 1ms\n").await;
    assert!(until(|| cluster.pid(0) != 0 && cluster.pid(0) != first).await);
    assert_eq!(cluster.pid(1), other);
    assert!(until(|| cluster.printed.text().matches("hello from n1").count() == 2).await);
    cluster.stop.send("SIGTERM").await.unwrap();
    assert_eq!(cluster.ended().await.0, Ended::Asked);
}

#[tokio::test]
async fn a_wrong_configuration_stops_everything_at_once() {
    let script = format!("if [ $1 = n2 ]; then echo unknown flag >&2; exit 2; fi; {OBEDIENT}");
    let (ended, printed) = Fixture::start(3, &script).await.ended().await;
    let reason = "n2 ended (exit status: 2): its lines above say what is wrong with its configuration";
    assert_eq!(ended, Ended::Failed(reason.to_owned()));
    assert_eq!(printed.matches("n2  | unknown flag\n").count(), 1, "{printed}");
}

#[tokio::test]
async fn a_node_that_keeps_failing_stops_everything() {
    let script = format!("if [ $1 = n1 ]; then echo no; exit 1; fi; {OBEDIENT}");
    let (ended, printed) = Fixture::start(2, &script).await.ended().await;
    let reason = "n1 ended 5 times within 10s, now with exit status: 1";
    assert_eq!(ended, Ended::Failed(reason.to_owned()));
    assert_eq!(printed.matches("n1  | no\n").count(), 5, "{printed}");
    for delay in ["1ms", "2ms", "4ms", "8ms"] {
        let line = format!("n1 ended (exit status: 1) and is started again in {delay}\n");
        assert_eq!(printed.matches(&line).count(), 1, "{printed}");
    }
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_an_error() {
    let output = Output::start(io::sink(), false);
    let program = Program { path: PathBuf::from("/does/not/exist"), leading_args: Vec::new() };
    let cluster = Cluster::new(&options(1), program, Limits::default(), &output);
    let welcome = Welcome::new(&options(1), Path::new("/bin/hearthd"));
    let (_stop, stop_requests) = mpsc::channel(1);
    let ended = tokio::time::timeout(PATIENCE, cluster.run(&welcome, stop_requests)).await.unwrap();
    let reason = "n1 cannot be started: No such file or directory (os error 2)";
    assert_eq!(ended, Ended::Failed(reason.to_owned()));
}

#[tokio::test]
async fn nodes_that_do_not_become_ready_are_stopped() {
    let not_ready = || "HTTP/1.1 503 Service Unavailable\r\n\r\n[-]leader failed: none\n";
    let patience = |limits: &mut Limits| limits.ready_timeout = Duration::from_millis(50);
    let (ended, _) = Fixture::start_with(1, OBEDIENT, patience, not_ready).await.ended().await;
    assert_eq!(ended, Ended::Failed("not ready after 50ms: n1: leader failed: none".to_owned()));
}

#[tokio::test]
async fn a_node_that_does_not_stop_is_killed() {
    let patience = |limits: &mut Limits| limits.stop_timeout = Duration::from_millis(50);
    let ready = || "HTTP/1.1 200 OK\r\n\r\n";
    let cluster = Fixture::start_with(1, STUBBORN, patience, ready).await;
    cluster.printed("hello from n1").await;
    cluster.stop.send("Ctrl-C").await.unwrap();
    let (ended, printed) = cluster.ended().await;
    assert_eq!(ended, Ended::Asked);
    assert!(printed.contains("dev | n1 did not stop and was killed\n"), "{printed}");
}

#[tokio::test]
async fn a_second_request_kills_at_once() {
    let patience = |limits: &mut Limits| limits.stop_timeout = 100 * PATIENCE;
    let ready = || "HTTP/1.1 200 OK\r\n\r\n";
    let cluster = Fixture::start_with(2, STUBBORN, patience, ready).await;
    cluster.printed("hello from n1").await;
    cluster.printed("hello from n2").await;
    cluster.stop.send("Ctrl-C").await.unwrap();
    cluster.stop.send("Ctrl-C").await.unwrap();
    assert_eq!(cluster.ended().await.0, Ended::Asked);
}

/// The process that the next test kills. Does nothing when it is not started by it.
#[tokio::test]
#[ignore = "a part of children_do_not_outlive_a_killed_supervisor"]
async fn supervisor_process() {
    let Some(file) = std::env::var_os(PID_FILE) else { return };
    // Replaces the shell, so that nothing is left of it to end on its own.
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", file.display());
    Fixture::start(1, &script).await.running.await.unwrap();
}

const PID_FILE: &str = "HEARTH_TEST_PID_FILE";

#[tokio::test]
async fn children_do_not_outlive_a_killed_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let mut supervisor = KillOnDrop(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dev::tests::supervisor_process", "--ignored", "--nocapture"])
            .env(PID_FILE, &file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    assert!(until(|| file.exists()).await);
    let child: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    assert!(is_running(child));
    supervisor.0.kill().unwrap();
    supervisor.0.wait().unwrap();
    assert!(until(|| !is_running(child)).await, "the child outlives its supervisor");
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was printed, while and after it is.
#[derive(Clone, Default)]
pub(super) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether `condition` comes true in time.
async fn until(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// Whether there is such a process; one that ended and was not yet waited for does not count.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}
