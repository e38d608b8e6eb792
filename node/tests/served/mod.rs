//! One real `hearthd` for a test, talked to over plain sockets: no client library corrects what is sent
//! or hides what comes back.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

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
        let directory = tempfile::tempdir().unwrap();
        let (http, peer) = (free_address(), free_address());
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
        let served = Self { process, http, directory };
        let deadline = Instant::now() + BOUND;
        loop {
            let answer = TcpStream::connect(http).ok().map(|stream| {
                exchange(
                    stream,
                    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
                    None,
                )
            });
            match answer {
                Some(answer) if answer.starts_with(b"HTTP/1.1 200") => return served,
                _ if Instant::now() > deadline => panic!("{path} is not 200:\n{}", served.log()),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
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
