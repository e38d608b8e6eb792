//! Load that costs little: bytes prepared before they are needed, no HTTP library, one thread. The
//! processors that it runs on are those of the servers that it measures.

pub mod closed;
pub mod fill;
pub mod hearth;
pub mod http1;
pub mod request;

use std::fmt;

use clap::ValueEnum;

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Overwrites a key.
    Put,
    /// Reads a key, linearizable.
    Get,
    /// Reads a key from what the node asked has applied.
    GetLocal,
    /// A request that asks for nothing, to see what HTTP costs.
    Empty,
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetLocal => "get-local",
            Self::Empty => "empty",
        })
    }
}
