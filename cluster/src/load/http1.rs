//! HTTP/1.1 with one request in flight, and nothing but what a measurement needs to know of an answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for one answer, in bytes; more is allocated when one is larger.
const ANSWER_BYTES: usize = 4096;
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A `GET` without headers of its own.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").into_bytes()
}

/// A `PUT` of `body`.
pub fn put(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What has arrived of the answer; empty between requests.
    answer: Vec<u8>,
}

impl Connection {
    /// Connects to a node.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(Self { stream, answer: Vec::with_capacity(ANSWER_BYTES) })
    }

    /// Sends `request`, which is whole, and waits for the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not HTTP with a length; the connection is of no use then.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Head> {
        self.stream.write_all(request).await.context("send")?;
        self.answer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.answer).await.context("receive")? > 0, "it was closed");
            if let Some(head) = Head::parse(&self.answer)? {
                let expected = head.bytes + head.body_bytes;
                ensure!(self.answer.len() <= expected, "more bytes than the answer has");
                if self.answer.len() == expected {
                    return Ok(head);
                }
            }
            ensure!(self.answer.len() <= ANSWER_BYTES_MAX, "an answer too large");
        }
    }
}

/// What an answer's first lines say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The HTTP status.
    pub status: u16,
    /// Length of the body, in bytes.
    pub body_bytes: usize,
    /// How long to stay away, when the answer says so.
    pub retry_after: Option<Duration>,
    /// Length of the first lines, with the empty one, in bytes.
    bytes: usize,
}

impl Head {
    /// Nothing while the head is incomplete. Only for answers with a `Content-Length`, or with 204 or 304.
    fn parse(answer: &[u8]) -> Result<Option<Self>> {
        let (mut bytes, mut status, mut length, mut retry_after) = (0, None, None, None);
        while let Some(end) = answer[bytes..].iter().position(|byte| *byte == b'\n') {
            let line = &answer[bytes..bytes + end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            bytes += end + 1;
            let Some(status) = status else {
                status = Some(parse_status(line)?);
                continue;
            };
            if line.is_empty() {
                let body_bytes = match (length, status) {
                    (Some(length), _) => length,
                    (None, 204 | 304) => 0,
                    (None, _) => bail!("status {status} without Content-Length"),
                };
                return Ok(Some(Self { status, body_bytes, retry_after, bytes }));
            }
            if let Some(value) = value(line, b"content-length:") {
                length = number(value).filter(|length| *length <= ANSWER_BYTES_MAX);
                ensure!(length.is_some(), "a length of {:?}", String::from_utf8_lossy(value));
            }
            if let Some(value) = value(line, b"retry-after:") {
                retry_after = number(value).map(|seconds| Duration::from_secs(seconds as u64));
            }
        }
        Ok(None)
    }
}

fn parse_status(line: &[u8]) -> Result<u16> {
    let digits = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| {
        let ends = matches!(rest.get(3), None | Some(b' '));
        rest.get(..3).filter(|digits| ends && digits.iter().all(u8::is_ascii_digit))
    });
    let status = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.with_context(|| format!("not a status line: {:?}", String::from_utf8_lossy(line)))
}

/// What follows `name`, which is in lower case and ends with a colon, if the line begins with it.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\netag: \"7\"\r\ncontent-LENGTH: 12\r\nx: y\r\n\r\n";

    #[test]
    fn heads_in_any_number_of_pieces() {
        let whole = Head { status: 201, bytes: ANSWER.len(), body_bytes: 12, retry_after: None };
        for length in 0..ANSWER.len() {
            assert_eq!(Head::parse(&ANSWER[..length]).unwrap(), None, "{length} bytes");
        }
        assert_eq!(Head::parse(ANSWER).unwrap(), Some(whole));
        assert_eq!(Head::parse(&[ANSWER, b"hello world!"].concat()).unwrap(), Some(whole));
    }

    #[test]
    fn answers_without_a_body() {
        for (answer, status) in
            [("HTTP/1.1 204 No Content\r\n\r\n", 204), ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200)]
        {
            let head = Head { status, bytes: answer.len(), body_bytes: 0, retry_after: None };
            assert_eq!(Head::parse(answer.as_bytes()).unwrap(), Some(head), "{answer:?}");
        }
    }

    #[test]
    fn when_to_come_again() {
        let answer = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n";
        let head = Head::parse(answer).unwrap().unwrap();
        assert_eq!((head.status, head.retry_after), (429, Some(Duration::from_secs(3))));
    }

    #[test]
    fn anything_else_is_an_error() {
        for answer in [
            "SSH-2.0\r\n",
            "HTTP/1.1 2x0 OK\r\n",
            "HTTP/1.1 +20 OK\r\n",
            "HTTP/1.1 2000\r\n",
            "HTTP/1.1\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n",
        ] {
            assert!(Head::parse(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }
}
