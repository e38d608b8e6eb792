//! Hearth as seen from a socket: HTTP/1.1 with one request in flight, and nothing but what the
//! measurement needs to know of an answer.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::Operation;
use crate::load::request::{Failure, KEY_PLACE, Template};

/// Room for one answer, in bytes; more is allocated when one is larger.
const ANSWER_BYTES: usize = 4096;
/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A kept-alive connection that asks one kind of request.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    operation: Operation,
    template: Template,
    /// What has arrived of the answer; empty between requests.
    answer: Vec<u8>,
    /// Length of the body that a read must have, in bytes.
    value_bytes: usize,
}

impl Connection {
    /// Connects to a node.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn open(address: SocketAddr, operation: Operation, value: &[u8]) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let template = template(address, operation, value)?;
        let answer = Vec::with_capacity(ANSWER_BYTES);
        Ok(Self { stream, operation, template, answer, value_bytes: value.len() })
    }

    /// Sends the request for `key` and waits for the whole answer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn ask(&mut self, key: u32) -> Result<(), Failure> {
        let request = self.template.for_key(key);
        self.stream.write_all(request).await.map_err(|error| Failure::Broken(format!("send: {error}")))?;
        let head = self.read_answer().await.map_err(Failure::Broken)?;
        self.answer.clear();
        let as_expected = match self.operation {
            Operation::Put => matches!(head.status, 200 | 201),
            Operation::Get | Operation::GetLocal => head.status == 200 && head.body_bytes == self.value_bytes,
            Operation::Empty => head.status == 200,
        };
        if as_expected {
            return Ok(());
        }
        Err(Failure::Refused(format!("status {} with {} bytes", head.status, head.body_bytes)))
    }

    async fn read_answer(&mut self) -> Result<Head, String> {
        loop {
            if let Some(head) = parse_head(&self.answer)? {
                let expected = head.head_bytes + head.body_bytes;
                if self.answer.len() == expected {
                    return Ok(head);
                }
                if self.answer.len() > expected {
                    return Err("more bytes than the answer has".to_owned());
                }
            }
            match self.stream.read_buf(&mut self.answer).await {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(_) if self.answer.len() > ANSWER_BYTES_MAX => {
                    return Err("an answer too large".to_owned());
                }
                Ok(_) => {}
                Err(error) => return Err(format!("receive: {error}")),
            }
        }
    }
}

fn template(address: SocketAddr, operation: Operation, value: &[u8]) -> Result<Template> {
    let line = match operation {
        Operation::Put => format!("PUT /v1/kv/{KEY_PLACE}"),
        Operation::Get => format!("GET /v1/kv/{KEY_PLACE}"),
        Operation::GetLocal => format!("GET /v1/kv/{KEY_PLACE}?consistency=local"),
        Operation::Empty => "GET /livez".to_owned(),
    };
    let mut bytes = format!("{line} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
    match operation {
        Operation::Put => {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", value.len()).as_bytes());
            bytes.extend_from_slice(value);
        }
        _ => bytes.extend_from_slice(b"\r\n"),
    }
    match operation {
        Operation::Empty => Ok(Template::without_key(bytes)),
        _ => Template::with_key(bytes),
    }
}

/// What an answer's first lines say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// The HTTP status.
    status: u16,
    /// Length of the first lines, with the empty one, in bytes.
    head_bytes: usize,
    /// Length of the body, in bytes.
    body_bytes: usize,
}

/// Reads the status and the body's length, or nothing while the head is incomplete. Only for answers
/// with a `Content-Length`, or with 204 or 304.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let (mut at, mut status, mut body_bytes) = (0, None, None);
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let line = bytes[at..at + end].strip_suffix(b"\r").unwrap_or(&bytes[at..at + end]);
        at += end + 1;
        let Some(known) = status else {
            status = Some(parse_status(line)?);
            continue;
        };
        if line.is_empty() {
            let body_bytes = match (body_bytes, known) {
                (Some(length), _) => length,
                (None, 204 | 304) => 0,
                (None, _) => return Err(format!("status {known} without Content-Length")),
            };
            return Ok(Some(Head { status: known, head_bytes: at, body_bytes }));
        }
        body_bytes = parse_content_length(line)?.or(body_bytes);
    }
    Ok(None)
}

fn parse_status(line: &[u8]) -> Result<u16, String> {
    let wrong = || format!("not a status line: {:?}", String::from_utf8_lossy(line));
    let rest = line.strip_prefix(b"HTTP/1.1 ").ok_or_else(wrong)?;
    let digits = rest.get(..3).filter(|_| matches!(rest.get(3), None | Some(b' '))).ok_or_else(wrong)?;
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(wrong)
}

fn parse_content_length(line: &[u8]) -> Result<Option<usize>, String> {
    const NAME: &[u8] = b"content-length:";
    let Some((name, value)) = line.split_at_checked(NAME.len()) else { return Ok(None) };
    if !name.eq_ignore_ascii_case(NAME) {
        return Ok(None);
    }
    let length = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
    match length {
        Some(length) if length <= ANSWER_BYTES_MAX => Ok(Some(length)),
        _ => Err(format!("a length of {:?}", String::from_utf8_lossy(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\netag: \"7\"\r\ncontent-LENGTH: 12\r\nx: y\r\n\r\n";

    #[test]
    fn heads_in_any_number_of_pieces() {
        let whole = Head { status: 201, head_bytes: ANSWER.len(), body_bytes: 12 };
        for length in 0..ANSWER.len() {
            assert_eq!(parse_head(&ANSWER[..length]), Ok(None), "{length} bytes");
        }
        assert_eq!(parse_head(ANSWER), Ok(Some(whole)));
        assert_eq!(parse_head(&[ANSWER, b"hello world!"].concat()), Ok(Some(whole)));
    }

    #[test]
    fn answers_without_a_body() {
        for (answer, status) in
            [("HTTP/1.1 204 No Content\r\n\r\n", 204), ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200)]
        {
            let head = Head { status, head_bytes: answer.len(), body_bytes: 0 };
            assert_eq!(parse_head(answer.as_bytes()), Ok(Some(head)), "{answer:?}");
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        for answer in [
            "SSH-2.0\r\n",
            "HTTP/1.1 2x0 OK\r\n",
            "HTTP/1.1 2000\r\n",
            "HTTP/1.1\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n",
        ] {
            assert!(parse_head(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn requests_are_whole() {
        let address = "127.0.0.1:8080".parse().unwrap();
        let mut put = template(address, Operation::Put, b"abc").unwrap();
        let expected =
            "PUT /v1/kv/k00000042 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(put.for_key(42), expected.as_bytes());
        let mut get = template(address, Operation::GetLocal, b"abc").unwrap();
        let expected = "GET /v1/kv/k00000042?consistency=local HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
        assert_eq!(get.for_key(42), expected.as_bytes());
    }
}
