//! Many connections that cost their client little.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections that are opened at once.
const OPENING: usize = 64;
/// Room for what arrives, in bytes.
const RECEIVED_BYTES: usize = 4096;
/// What every stream begins with.
const BEGUN: &[u8] = b": watching\n";
/// How long all listeners may take to get an event.
const REACH_BOUND: Duration = Duration::from_secs(20);

/// Connections that have asked for something small and stay open.
pub async fn open_plain(node: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    open(node, count, |_| "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), b"hearth-request-id").await
}

/// Streams, each of a prefix of its own.
pub async fn open_idle(node: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    open(node, count, |number| request(&format!("idle/{number}/")), BEGUN).await
}

fn request(prefix: &str) -> String {
    format!("GET /v1/watch?prefix={prefix} HTTP/1.1\r\nhost: x\r\n\r\n")
}

async fn open(
    node: SocketAddr,
    count: usize,
    request: impl Fn(usize) -> String,
    begun: &'static [u8],
) -> Result<Vec<TcpStream>> {
    let (mut opening, mut open) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        if opening.len() == OPENING
            && let Some(opened) = opening.join_next().await
        {
            open.push(opened.context("open a connection")??);
        }
        opening.spawn(begin(node, request(number), begun));
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened.context("open a connection")??);
    }
    Ok(open)
}

/// Asks, and waits until `begun` has come.
async fn begin(node: SocketAddr, request: String, begun: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(node).await.context("connect")?;
    stream.write_all(request.as_bytes()).await.context("ask")?;
    let mut received = Vec::with_capacity(RECEIVED_BYTES);
    while !has(&received, begun) {
        let came = stream.read_buf(&mut received).await.context("receive")?;
        ensure!(came > 0 && received.len() < RECEIVED_BYTES, "{}", String::from_utf8_lossy(&received));
    }
    Ok(stream)
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Streams of one prefix that say when an event came.
pub struct Listeners {
    count: u32,
    came: mpsc::UnboundedReceiver<Instant>,
    _listening: JoinSet<()>,
}

impl Listeners {
    /// Opens `count` streams.
    pub async fn open(node: SocketAddr, count: u32) -> Result<Self> {
        // Bounded by one message for each listener and round.
        let (tell, came) = mpsc::unbounded_channel();
        let mut listening = JoinSet::new();
        let streams = open(node, count as usize, |_| request("hot/"), BEGUN).await?;
        for stream in streams {
            listening.spawn(listen(stream, tell.clone()));
        }
        Ok(Self { count, came, _listening: listening })
    }

    /// Writes a key and gives the time until all have the event.
    pub async fn reach(&mut self, node: SocketAddr, round: u32, value_bytes: usize) -> Result<Duration> {
        let mut writer = TcpStream::connect(node).await.context("connect")?;
        writer.set_nodelay(true).context("set TCP_NODELAY")?;
        let request = format!(
            "PUT /v1/kv/hot/{round} HTTP/1.1\r\nhost: x\r\ncontent-length: {value_bytes}\r\n\r\n{}",
            "v".repeat(value_bytes)
        );
        let sent = Instant::now();
        writer.write_all(request.as_bytes()).await.context("write")?;
        let all = async {
            let mut last = sent;
            for _ in 0..self.count {
                last = last.max(self.came.recv().await.context("a stream ended")?);
            }
            Ok::<_, anyhow::Error>(last)
        };
        let last = tokio::time::timeout(REACH_BOUND, all).await.context("not all got the event")??;
        Ok(last - sent)
    }
}

/// Tells of each event. An event arrives in one piece: it is smaller than a segment on the loopback.
async fn listen(mut stream: TcpStream, tell: mpsc::UnboundedSender<Instant>) {
    let mut received = [0; RECEIVED_BYTES];
    while let Ok(length) = stream.read(&mut received).await {
        if length == 0 {
            return;
        }
        if has(&received[..length], b"event: put\n") && tell.send(Instant::now()).is_err() {
            return;
        }
    }
}
