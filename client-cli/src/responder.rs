//! A server for unit tests that gives prepared answers and remembers what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Client, Options};
use crate::endpoint::Endpoint;

/// What happens to a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// An answer: status line, extra header lines, body.
    Answer(&'static str, Vec<String>, Vec<u8>),
    /// Status 200 and a body without an end that is known, in parts; the connection closes after them, or
    /// stays open and silent.
    Stream(Vec<String>, Ending),
    /// The connection closes once the request was read.
    Close,
    /// Nothing at all comes back.
    Hang,
}

/// How a stream goes on behind its last part.
#[derive(Clone, Copy)]
pub(crate) enum Ending {
    Closes,
    Silent,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    /// `GET /path`
    pub(crate) line: String,
    /// The header lines, names in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

/// The running server; it ends with the test's runtime.
pub(crate) struct Responder {
    pub(crate) endpoint: Endpoint,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Responder {
    /// Answers with `replies` in order, and with 500 when they are used up.
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        Self::start_on("127.0.0.1:0", replies).await
    }

    pub(crate) async fn start_on(address: &str, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let replies = Arc::new(Mutex::new(VecDeque::from(replies)));
        let log = asked.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, replies.clone(), log.clone()));
            }
        });
        Self { endpoint, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// A client that knows only this server.
    pub(crate) fn client(&self) -> Client {
        Client::new(vec![self.endpoint.clone()], Options::default()).unwrap()
    }
}

/// An endpoint where nothing listens.
pub(crate) async fn closed_endpoint() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

/// `200 OK` with JSON.
pub(crate) fn json(body: &str) -> Reply {
    answer("200 OK", "application/json", body)
}

/// A problem document.
pub(crate) fn problem(status: &'static str, code: &str, retryable: bool, outcome: &str) -> Reply {
    let body = format!(
        r#"{{"title":"Title","code":"{code}","detail":"why","retryable":{retryable},"outcome":"{outcome}","request_id":"r1"}}"#
    );
    answer(status, "application/problem+json", &body)
}

/// The same with `Retry-After` in seconds.
pub(crate) fn problem_after(status: &'static str, code: &str, seconds: u64) -> Reply {
    match problem(status, code, true, "not_applied") {
        Reply::Answer(status, mut headers, body) => {
            headers.push(format!("Retry-After: {seconds}"));
            Reply::Answer(status, headers, body)
        }
        other => other,
    }
}

pub(crate) fn answer(status: &'static str, content_type: &str, body: &str) -> Reply {
    Reply::Answer(status, vec![format!("Content-Type: {content_type}")], body.as_bytes().to_vec())
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    log: Arc<Mutex<Vec<Asked>>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read_request(&mut stream, connection).await {
        log.lock().unwrap().push(asked);
        let reply = replies.lock().unwrap().pop_front();
        match reply.unwrap_or_else(|| answer("500 Oops", "text/plain", "")) {
            Reply::Close => return,
            Reply::Hang => std::future::pending().await,
            Reply::Stream(parts, ending) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n").await.unwrap();
                for part in parts {
                    // The reader may have gone.
                    let _ = stream.write_all(part.as_bytes()).await;
                }
                match ending {
                    Ending::Closes => return,
                    Ending::Silent => std::future::pending().await,
                }
            }
            Reply::Answer(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status}\r\n");
                if !status.starts_with("204") {
                    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
                }
                let last = headers.iter().any(|header| header == "Connection: close");
                for header in headers {
                    head.push_str(&format!("{header}\r\n"));
                }
                head.push_str("\r\n");
                stream.write_all(&[head.into_bytes(), body].concat()).await.unwrap();
                if last {
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>, connection: usize) -> Option<Asked> {
    let line = read_line(stream).await?;
    let line = line.strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let mut headers = Vec::new();
    while let Some((name, value)) = read_line(stream).await?.split_once(": ") {
        headers.push(format!("{}: {value}", name.to_ascii_lowercase()));
    }
    let length = headers.iter().find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { connection, line, headers, body })
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    Some(line.trim_end().to_owned())
}
