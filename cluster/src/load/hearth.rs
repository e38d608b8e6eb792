//! Hearth as seen from a socket: one kind of request, and whether the answer is as it should be.

use std::net::SocketAddr;

use anyhow::Result;

use crate::load::request::{Failure, KEY_PLACE, Template};
use crate::load::{Operation, http1};

/// A kept-alive connection that asks one kind of request.
#[derive(Debug)]
pub struct Connection {
    connection: http1::Connection,
    operation: Operation,
    template: Template,
    /// Length of the body that a read must have, in bytes.
    value_bytes: usize,
}

impl Connection {
    /// Connects to a node.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn open(address: SocketAddr, operation: Operation, value: &[u8]) -> Result<Self> {
        let connection = http1::Connection::open(address).await?;
        let template = template(address, operation, value)?;
        Ok(Self { connection, operation, template, value_bytes: value.len() })
    }

    /// Sends the request for `key` and waits for the whole answer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn ask(&mut self, key: u32) -> Result<(), Failure> {
        let answer = self.connection.ask(self.template.for_key(key)).await;
        let head = answer.map_err(|error| Failure::Broken(format!("{error:#}")))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
