//! The first frame of a connection, and its answer.
//!
//! The caller says which protocol versions it speaks, which cluster it belongs to, who it is, whom it
//! means to reach, and what the connection is for. The other side accepts with the version both
//! speak, or refuses with a reason that a person can act on. The layout of these two records stays
//! as it is in every later version, so that a mixed pair always gets to the clear message.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::codec;
use crate::peer::frame::{self, FrameReader};
use crate::peer::socket;

/// Versions of the peer protocol that this build speaks.
pub(crate) const PROTOCOL_VERSIONS: std::ops::RangeInclusive<u16> = 2..=2;

/// A connection that does not say hello, or is not answered, within this time is dropped.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

const MAGIC: [u8; 8] = *b"HEARTHPR";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Lane {
    Vital,
    Append,
    Forward,
    Snapshot,
    Found,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vital => "vital",
            Self::Append => "append",
            Self::Forward => "forward",
            Self::Snapshot => "snapshot",
            Self::Found => "found",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HelloV1 {
    magic: [u8; 8],
    version_min: u16,
    version_max: u16,
    pub(crate) lane: Lane,
    /// 0 on the found lane, whose caller and callee may not have one yet.
    pub(crate) cluster_id: u128,
    pub(crate) from: u64,
    pub(crate) from_name: String,
    /// 0 when the caller only knows an address.
    pub(crate) to: u64,
}

impl HelloV1 {
    pub(crate) fn new(lane: Lane, cluster_id: u128, from: u64, from_name: &str, to: u64) -> Self {
        Self {
            magic: MAGIC,
            version_min: *PROTOCOL_VERSIONS.start(),
            version_max: *PROTOCOL_VERSIONS.end(),
            lane,
            cluster_id,
            from,
            from_name: from_name.to_owned(),
            to,
        }
    }

    /// Whether this node can serve the caller.
    pub(crate) fn check(&self, own: &Own<'_>) -> HelloAnswerV1 {
        if self.magic != MAGIC {
            return HelloAnswerV1::Refused(Refusal::NotHearth);
        }
        let version = self.version_max.min(*PROTOCOL_VERSIONS.end());
        if version < self.version_min || version < *PROTOCOL_VERSIONS.start() {
            return HelloAnswerV1::Refused(Refusal::Version {
                spoken_min: *PROTOCOL_VERSIONS.start(),
                spoken_max: *PROTOCOL_VERSIONS.end(),
            });
        }
        if self.lane != Lane::Found {
            if own.cluster_id == 0 {
                return HelloAnswerV1::Refused(Refusal::Blank { name: own.name.to_owned() });
            }
            if self.cluster_id != own.cluster_id {
                return HelloAnswerV1::Refused(Refusal::OtherCluster { cluster_id: own.cluster_id });
            }
            if self.to != own.node_id {
                return HelloAnswerV1::Refused(Refusal::OtherNode {
                    name: own.name.to_owned(),
                    id: own.node_id,
                });
            }
        }
        HelloAnswerV1::Accepted { version }
    }
}

/// Who answers.
pub(crate) struct Own<'a> {
    pub(crate) cluster_id: u128,
    pub(crate) node_id: u64,
    pub(crate) name: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HelloAnswerV1 {
    Accepted { version: u16 },
    Refused(Refusal),
}

/// Why a peer was refused, so that the caller can say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The bytes were not a hello.
    #[error("it does not take this for a Hearth node")]
    NotHearth,
    /// No common protocol version.
    #[error("it speaks peer protocol {spoken_min} to {spoken_max}, this node {} to {}; upgrade one node at a time, without skipping a release", PROTOCOL_VERSIONS.start(), PROTOCOL_VERSIONS.end())]
    Version {
        /// Lowest version that the other node speaks.
        spoken_min: u16,
        /// Highest version that the other node speaks.
        spoken_max: u16,
    },
    /// The other node's data belong to another cluster.
    #[error(
        "it belongs to cluster {cluster_id:032x}: one of the two has the data directory, or the address, of another cluster"
    )]
    OtherCluster {
        /// The other node's cluster.
        cluster_id: u128,
    },
    /// Another node listens at this address.
    #[error("{name} (id {id}) listens there, not the node that was meant: check peer_advertise")]
    OtherNode {
        /// The name of the node that listens there.
        name: String,
        /// Its id.
        id: u64,
    },
    /// The other node's disk is empty.
    #[error("{name} has an empty data directory and waits to be founded or replaced")]
    Blank {
        /// Its name.
        name: String,
    },
}

/// A connection that was accepted, ready for frames.
pub(crate) struct Connection {
    pub(crate) reader: FrameReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{address}: {source}")]
    Io { address: String, source: io::Error },
    #[error("{address}: {refusal}")]
    Refused { address: String, refusal: Refusal },
}

/// Connects to `address`, resolving it anew, and says `hello`.
pub(crate) async fn connect(address: &str, hello: &HelloV1) -> Result<Connection, ConnectError> {
    let io_error = |source| ConnectError::Io { address: address.to_owned(), source };
    let attempt = async {
        let stream = TcpStream::connect(address).await?;
        socket::prepare(&stream)?;
        let (read, mut writer) = stream.into_split();
        writer.write_all(&frame::encode("hello", 0, hello)?).await?;
        let mut reader = FrameReader::new(read);
        let frame = reader.next().await?.ok_or(io::ErrorKind::ConnectionAborted)?;
        let answer: HelloAnswerV1 = codec::decode("hello answer", &frame.body)?;
        Ok((Connection { reader, writer }, answer))
    };
    let (connection, answer) = tokio::time::timeout(HELLO_TIMEOUT, attempt)
        .await
        .map_err(|_| io_error(io::ErrorKind::TimedOut.into()))?
        .map_err(io_error)?;
    match answer {
        HelloAnswerV1::Accepted { .. } => Ok(connection),
        HelloAnswerV1::Refused(refusal) => {
            Err(ConnectError::Refused { address: address.to_owned(), refusal })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in() {
        let own = Own { cluster_id: 7, node_id: 2, name: "n2" };
        let blank = Own { cluster_id: 0, node_id: 0, name: "n2" };
        let good = HelloV1::new(Lane::Append, 7, 1, "n1", 2);
        let accepted = HelloAnswerV1::Accepted { version: 2 };
        let version = Refusal::Version { spoken_min: 2, spoken_max: 2 };
        let refused = HelloAnswerV1::Refused;
        let name = || "n2".to_owned();
        let cases = [
            ("good", good.clone(), &own, accepted.clone()),
            ("newer, still speaks 2", HelloV1 { version_max: 9, ..good.clone() }, &own, accepted.clone()),
            (
                "too new",
                HelloV1 { version_min: 3, version_max: 4, ..good.clone() },
                &own,
                refused(version.clone()),
            ),
            ("too old", HelloV1 { version_min: 1, version_max: 1, ..good.clone() }, &own, refused(version)),
            (
                "other cluster",
                HelloV1 { cluster_id: 8, ..good.clone() },
                &own,
                refused(Refusal::OtherCluster { cluster_id: 7 }),
            ),
            (
                "other node",
                HelloV1 { to: 3, ..good.clone() },
                &own,
                refused(Refusal::OtherNode { name: name(), id: 2 }),
            ),
            ("blank", good.clone(), &blank, refused(Refusal::Blank { name: name() })),
            (
                "found lane",
                HelloV1 { lane: Lane::Found, cluster_id: 0, to: 0, ..good.clone() },
                &blank,
                accepted,
            ),
            (
                "not Hearth",
                HelloV1 { magic: *b"GET / HT", ..good.clone() },
                &own,
                refused(Refusal::NotHearth),
            ),
        ];
        for (case, hello, own, expected) in cases {
            assert_eq!(hello.check(own), expected, "{case}");
        }
    }

    /// Every later version must still be able to read these.
    #[test]
    fn golden_bytes() {
        let hello = HelloV1::new(Lane::Forward, 1 << 8, 1, "a", 2);
        let mut expected = b"\x01HEARTHPR\x02\0\x02\0\x02\0\0\0\0\x01".to_vec();
        expected.extend([0; 14]);
        expected.extend(b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x02\0\0\0\0\0\0\0");
        assert_eq!(codec::encode("hello", &hello).unwrap(), expected);
        let answer = HelloAnswerV1::Refused(Refusal::OtherNode { name: "b".into(), id: 3 });
        let expected = b"\x01\x01\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0b\x03\0\0\0\0\0\0\0";
        assert_eq!(codec::encode("hello answer", &answer).unwrap(), expected);
    }
}
