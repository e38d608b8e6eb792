//! Waiting until every node is ready: `GET /readyz` until it answers 200.
//!
//! A few lines of HTTP/1.1 by hand, rather than the client crate: the node does not depend on it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of an answer is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Waits until all `nodes`, given as name and HTTP address, are ready. After `bound` an error that says
/// which are not, and why.
pub(super) async fn wait(
    nodes: &[(String, SocketAddr)],
    poll_interval: Duration,
    bound: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + bound;
    let waiting = nodes.iter().map(|(name, address)| async move {
        let reason = wait_for(*address, poll_interval, deadline).await.err()?;
        Some(format!("{name}: {reason}"))
    });
    let failing: Vec<String> = join_all(waiting).await.into_iter().flatten().collect();
    if failing.is_empty() { Ok(()) } else { Err(failing.join("; ")) }
}

/// Waits for one node; after the deadline, why it was not ready when last asked.
async fn wait_for(address: SocketAddr, poll_interval: Duration, deadline: Instant) -> Result<(), String> {
    loop {
        let reason = match timeout(ANSWER_TIMEOUT, get_readyz(address)).await {
            Err(_) => "no answer".to_owned(),
            Ok(Err(error)) => error.kind().to_string(),
            Ok(Ok(answer)) => match verdict(&answer) {
                Ok(()) => return Ok(()),
                Err(reason) => reason,
            },
        };
        if Instant::now() >= deadline {
            return Err(reason);
        }
        sleep(poll_interval).await;
    }
}

/// The whole answer, as far as it is read.
async fn get_readyz(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz?verbose HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Ready when the status is 200, else the failing checks, from lines `[-]name failed: why`.
fn verdict(answer: &str) -> Result<(), String> {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("none");
    if status == "200" {
        return Ok(());
    }
    let failing: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    if failing.is_empty() { Err(format!("status {status}")) } else { Err(failing.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{verdict, wait};
    use crate::dev::tests::serve;

    const NOT_READY: &str = "HTTP/1.1 503 Service Unavailable\r\n\r\n[+]storage ok\n[-]leader failed: none\n";

    #[test]
    fn an_answer_is_ready_or_says_what_fails() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n[+]storage ok\n", Ok(())),
            (NOT_READY, Err("leader failed: none")),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n[-]a failed: x\r\n[-]b failed: y",
                Err("a failed: x, b failed: y"),
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Err("status 404")),
            ("SSH-2.0-OpenSSH\r\n", Err("status none")),
            ("", Err("status none")),
        ] {
            assert_eq!(verdict(answer), expected.map_err(str::to_owned), "{answer}");
        }
    }

    #[tokio::test]
    async fn waits_until_every_node_is_ready() {
        let asked = AtomicUsize::new(0);
        let slow = serve(move || {
            if asked.fetch_add(1, Ordering::Relaxed) < 3 { NOT_READY } else { "HTTP/1.1 200 OK\r\n\r\n" }
        })
        .await;
        let quick = serve(|| "HTTP/1.1 200 OK\r\n\r\n").await;
        let nodes = [("n1".to_owned(), slow), ("n2".to_owned(), quick)];
        wait(&nodes, Duration::from_millis(1), Duration::from_secs(30)).await.unwrap();
    }

    #[tokio::test]
    async fn says_which_node_is_not_ready_in_time_and_why() {
        let failing = serve(|| NOT_READY).await;
        let ready = serve(|| "HTTP/1.1 200 OK\r\n\r\n").await;
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let nodes = [("n1".to_owned(), failing), ("n2".to_owned(), ready), ("n3".to_owned(), closed)];
        let reason = wait(&nodes, Duration::from_millis(1), Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(reason, "n1: leader failed: none; n3: connection refused");
    }
}
