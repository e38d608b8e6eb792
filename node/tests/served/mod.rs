//! Real `hearthd` processes for a test, talked to over plain sockets: no client library corrects what is sent
//! or hides what comes back.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

/// How long a node may take to start, and any answer to come, also on a busy machine.
pub const BOUND: Duration = Duration::from_secs(30);

/// A node with its data in a temporary directory; killed when dropped.
pub struct Served {
    process: Child,
    pub http: SocketAddr,
    directory: TempDir,
}

impl Served {
    /// Starts a node and waits until `path` answers 200. In `flags`, `{peer}` is its peer address.
    pub fn start(flags: &[String], path: &str) -> Self {
        let served = Self::spawn(flags, free_address());
        served.await_ok(path);
        served
    }

    /// Starts nodes that form one cluster, and waits until `path` answers 200 on each. The first one leads.
    pub fn start_cluster(nodes: usize, flags: &[String], path: &str) -> Vec<Self> {
        let peers: Vec<_> = (1..=nodes).map(|number| (format!("n{number}"), free_address())).collect();
        let initial: Vec<String> = peers.iter().map(|(name, peer)| format!("{name}={peer}")).collect();
        let spawn = |(name, peer): &(String, SocketAddr)| {
            let own = ["--name", name, "--initial-cluster", &initial.join(",")].map(str::to_owned);
            Self::spawn(&[&own, flags].concat(), *peer)
        };
        let mut all: Vec<Self> = peers.iter().map(spawn).collect();
        for node in &all {
            node.await_ok(path);
        }
        let leader = all.iter().position(|node| node.get("/leader").starts_with("HTTP/1.1 200"));
        all.swap(0, leader.expect("all nodes are ready, and none leads"));
        all
    }

    fn spawn(flags: &[String], peer: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let http = free_address();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearthd"));
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"HEARTH_") {
                command.env_remove(name);
            }
        }
        let process = command
            .args(["--http-listen", &http.to_string(), "--peer-listen", &peer.to_string()])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(flags.iter().map(|flag| flag.replace("{peer}", &peer.to_string())))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, http, directory }
    }

    /// Waits until `path` answers 200. A connection that breaks before it does is no answer: with the short
    /// timeouts of some tests a busy machine may take too long even for this.
    fn await_ok(&self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let ask = || -> io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(self.http)?;
            stream.set_read_timeout(Some(BOUND))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let deadline = Instant::now() + BOUND;
        loop {
            match ask() {
                Ok(answer) if answer.starts_with(b"HTTP/1.1 200") => return,
                other if Instant::now() > deadline => {
                    let last = other.map(|answer| String::from_utf8_lossy(&answer).into_owned());
                    panic!("{path} is not 200: {last:?}\n{}", self.log());
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Stops the process where it is (SIGSTOP) and waits until each of its threads stands still: its connections
    /// stay open, and nothing answers.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let threads = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let stands = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        let deadline = Instant::now() + BOUND;
        while !std::fs::read_dir(&threads).unwrap().all(|thread| {
            // A thread that has ended meanwhile stands still too.
            std::fs::read_to_string(thread.unwrap().path().join("stat")).map_or(true, stands)
        }) {
            assert!(Instant::now() < deadline, "the process does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// From now on the process cannot write a file beyond `bytes`: the kernel refuses it as it would on a full
    /// or broken disk.
    pub fn limit_files(&self, bytes: u64) {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        prlimit(Some(self.pid()), Resource::Fsize, limit).unwrap();
    }

    /// Waits until the process has ended, and gives its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + BOUND;
        loop {
            match self.process.try_wait().unwrap() {
                Some(status) => return status.code(),
                None => assert!(Instant::now() < deadline, "still running:\n{}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A node with `flags` that is ready.
    pub fn ready(flags: &[&str]) -> Self {
        Self::start(&flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>(), "/readyz")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends `request` on a connection of its own and gives all that comes until the node closes it.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> String {
        String::from_utf8_lossy(&exchange(self.connect(), request.as_ref(), None)).into_owned()
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> String {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends `request` and reads until the other side closes, or until `enough` has come.
pub fn exchange(mut stream: TcpStream, request: &[u8], enough: Option<&str>) -> Vec<u8> {
    stream.set_read_timeout(Some(BOUND)).unwrap();
    // A node that refuses early may close while we still send: the answer counts.
    let _ = stream.write_all(request);
    read_until_closed(&mut stream, enough)
}

/// Reads until the other side closes, or until `enough` has come.
pub fn read_until_closed(stream: &mut TcpStream, enough: Option<&str>) -> Vec<u8> {
    let (mut answer, mut part) = (Vec::new(), [0; 64 * 1024]);
    loop {
        let came = |text: &str| answer.windows(text.len()).any(|window| window == text.as_bytes());
        if enough.is_some_and(came) {
            return answer;
        }
        match stream.read(&mut part) {
            Ok(0) => return answer,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => return answer,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&answer)),
        }
    }
}

fn free_address() -> SocketAddr {
    // An address of its own for each process and test: two of them do not take each other's port.
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_be_bytes();
    let [_, _, second, third] = std::process::id().to_be_bytes();
    let host = [127, 1 + (second ^ high) % 254, third, 1 + low % 254];
    TcpListener::bind((std::net::Ipv4Addr::from(host), 0)).unwrap().local_addr().unwrap()
}
