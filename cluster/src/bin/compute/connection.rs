//! HTTP/1.1 with one request in flight, and nothing but what a measurement needs to know of an answer.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 16;

/// A kept-alive connection that sends the same request again and again.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// A `GET`.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").into_bytes()
}

/// A `PUT` with a body.
pub fn put(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

impl Connection {
    /// Connects to a node.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn open(address: SocketAddr, request: Vec<u8>) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self { stream, request, answer: Vec::with_capacity(1024) })
    }

    /// Sends the request and waits for the whole answer; gives its status.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not HTTP with a length.
    pub async fn ask(&mut self) -> Result<u16> {
        self.stream.write_all(&self.request).await.context("send")?;
        self.answer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.answer).await.context("receive")? > 0, "it was closed");
            if let Some((status, length)) = parse(&self.answer)? {
                match self.answer.len().cmp(&length) {
                    std::cmp::Ordering::Equal => return Ok(status),
                    std::cmp::Ordering::Greater => bail!("more bytes than the answer has"),
                    std::cmp::Ordering::Less => {}
                }
            }
            ensure!(self.answer.len() < ANSWER_BYTES_MAX, "an answer too large");
        }
    }
}

/// The status and the length of head and body together, once the head is whole.
fn parse(answer: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end]).context("a head of text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some((status, end + 4 + length))),
        _ => bail!("no status or no length in {head:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_in_any_number_of_pieces() {
        let answer = b"HTTP/1.1 201 Created\r\nx: y\r\ncontent-LENGTH: 12\r\n\r\nhello";
        let head = answer.len() - b"hello".len();
        for length in 0..head {
            assert!(parse(&answer[..length]).unwrap().is_none(), "{length} bytes");
        }
        assert_eq!(parse(answer).unwrap(), Some((201, head + 12)));
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
