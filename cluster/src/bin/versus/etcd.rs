//! etcd as seen from a socket: gRPC with one request in flight, over an HTTP/2 connection of its own.
//!
//! gRPC is written out here, on `h2`: a POST whose body is one message behind five bytes (not
//! compressed, length), answered by one message and a trailer `grpc-status`. Over tonic the same
//! calls cost the client 24 µs of processor time instead of 13 at 64 connections, which the servers,
//! on the same processors, would have lacked. The messages have only the fields that are used.

use std::future::poll_fn;
use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use hearth_cluster::load::Operation;
use hearth_cluster::load::request::{Failure, KEY_PLACE, Template};
use http::{HeaderMap, Request, StatusCode, Version};
use prost::Message;
use tokio::net::TcpStream;

/// Bytes before a message: whether it is compressed, and its length.
const FRAME_BYTES: usize = 5;
/// How much the server may send before it is told to go on. Large, so that telling it is rare.
const WINDOW_BYTES: u32 = 1 << 20;

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// What a member says about itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether it knows a leader.
    pub has_leader: bool,
    /// Whether it is the leader.
    pub is_leader: bool,
}

/// Asks a member about itself.
///
/// # Errors
/// When it cannot be reached or does not answer.
pub async fn status(address: SocketAddr) -> Result<Status> {
    let mut channel = Channel::open(address, "/etcdserverpb.Maintenance/Status").await?;
    let answer = channel.call(Bytes::from(framed(&StatusRequest {}))).await;
    let answer = answer.map_err(|failure| anyhow!("{}", failure.text().to_owned()))?;
    let answer = StatusResponse::decode(answer).context("the status")?;
    let own = answer.header.context("a status without a header")?.member_id;
    Ok(Status { has_leader: answer.leader != 0, is_leader: answer.leader == own })
}

/// A connection that asks one kind of request.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    operation: Operation,
    template: Template,
    /// Length of the value that a read must give, in bytes.
    value_bytes: usize,
}

impl Connection {
    /// Connects to a member.
    ///
    /// # Errors
    /// When it cannot be reached, or has no such request.
    pub async fn open(address: SocketAddr, operation: Operation, value: &[u8]) -> Result<Self> {
        let channel = Channel::open(address, path(operation)?).await?;
        Ok(Self { channel, operation, template: template(operation, value)?, value_bytes: value.len() })
    }

    /// Sends the request for `key` and waits for the whole answer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn ask(&mut self, key: u32) -> Result<(), Failure> {
        let request = Bytes::copy_from_slice(self.template.for_key(key));
        let answer = self.channel.call(request).await?;
        let as_expected = if self.operation == Operation::Put {
            let header = PutResponse::decode(answer).map_err(undecodable)?.header;
            header.is_some_and(|header| header.revision > 0)
        } else {
            let found = RangeResponse::decode(answer).map_err(undecodable)?.kvs;
            matches!(found.as_slice(), [only] if only.value.len() == self.value_bytes)
        };
        if as_expected { Ok(()) } else { Err(Failure::Refused("another answer than expected".to_owned())) }
    }
}

fn undecodable(error: prost::DecodeError) -> Failure {
    Failure::Refused(error.to_string())
}

fn path(operation: Operation) -> Result<&'static str> {
    match operation {
        Operation::Put => Ok("/etcdserverpb.KV/Put"),
        Operation::Get | Operation::GetLocal => Ok("/etcdserverpb.KV/Range"),
        Operation::Empty => bail!("etcd has no empty request"),
    }
}

fn template(operation: Operation, value: &[u8]) -> Result<Template> {
    let key = Bytes::from_static(KEY_PLACE.as_bytes());
    Template::with_key(match operation {
        Operation::Put => framed(&PutRequest { key, value: Bytes::copy_from_slice(value) }),
        _ => framed(&RangeRequest { key, serializable: operation == Operation::GetLocal }),
    })
}

/// A message as it goes into a body.
fn framed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(FRAME_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut bytes);
    bytes
}

/// The one message in a body.
fn unframed(mut body: Bytes) -> Result<Bytes, Failure> {
    let refused = |what: &str| Failure::Refused(format!("{what} in an answer of {} bytes", body.len()));
    match body.first_chunk::<FRAME_BYTES>() {
        Some([0, length @ ..]) => {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if body.len() - FRAME_BYTES != length {
                return Err(refused("not one message"));
            }
            Ok(body.split_off(FRAME_BYTES))
        }
        Some(_) => Err(refused("compression")),
        None => Err(refused("no message")),
    }
}

/// An HTTP/2 connection for calls of one method.
#[derive(Debug)]
struct Channel {
    requests: SendRequest<Bytes>,
    head: Request<()>,
}

impl Channel {
    async fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (requests, connection) = builder.handshake(stream).await.context("HTTP/2 handshake")?;
        // Ends when `requests` is dropped or the server is gone; a caller sees its error at its request.
        tokio::spawn(async move { drop(connection.await) });
        let head = Request::post(format!("http://{address}{path}"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .context("the head of a call")?;
        Ok(Self { requests, head })
    }

    /// One call: a framed message, answered by a message.
    async fn call(&mut self, message: Bytes) -> Result<Bytes, Failure> {
        let broken = |error: h2::Error| Failure::Broken(error.to_string());
        poll_fn(|context| self.requests.poll_ready(context)).await.map_err(broken)?;
        let (answer, mut body) = self.requests.send_request(self.head.clone(), false).map_err(broken)?;
        body.send_data(message, true).map_err(broken)?;

        let (head, mut body) = answer.await.map_err(broken)?.into_parts();
        // A refusal may come without a body: then the head has what else is in the trailers.
        if head.status != StatusCode::OK || head.headers.contains_key("grpc-status") {
            return Err(refusal(head.status, &head.headers));
        }
        let mut received = BytesMut::new();
        let mut whole = Bytes::new();
        while let Some(part) = body.data().await {
            let part = part.map_err(broken)?;
            body.flow_control().release_capacity(part.len()).map_err(broken)?;
            if whole.is_empty() && received.is_empty() {
                whole = part;
            } else {
                received.extend_from_slice(&std::mem::take(&mut whole));
                received.extend_from_slice(&part);
            }
        }
        let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
        if trailers.get("grpc-status").is_none_or(|status| status != "0") {
            return Err(refusal(head.status, &trailers));
        }
        unframed(if received.is_empty() { whole } else { received.freeze() })
    }
}

fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let (code, message) = (text("grpc-status"), text("grpc-message"));
    Failure::Refused(format!(
        "HTTP {status}, gRPC {}: {}",
        code.as_deref().unwrap_or("none"),
        message.as_deref().unwrap_or("no message")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protobuf_has_them() {
        let mut get = template(Operation::GetLocal, b"").unwrap();
        assert_eq!(get.for_key(7), b"\0\0\0\0\x0d\x0a\x09k00000007\x38\x01");
        let mut put = template(Operation::Put, b"xy").unwrap();
        assert_eq!(put.for_key(7), b"\0\0\0\0\x0f\x0a\x09k00000007\x12\x02xy");
    }

    #[test]
    fn bodies_hold_one_plain_message() {
        assert_eq!(unframed(Bytes::from_static(b"\0\0\0\0\x02ab")).unwrap(), "ab");
        assert_eq!(unframed(Bytes::from_static(b"\0\0\0\0\0")).unwrap(), "");
        for wrong in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x02abc", b"\x01\0\0\0\x02ab"] {
            assert!(unframed(Bytes::copy_from_slice(wrong)).is_err(), "{wrong:?}");
        }
    }
}
