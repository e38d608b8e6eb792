//! The compute endpoints. They change nothing, so a lost answer is asked for again elsewhere.

use crate::client::{Call, Client};
use crate::error::Error;
use crate::path::Query;
use crate::retry::Kind;

impl Client {
    /// The sum of 100,000 random draws on 0..=100.
    pub async fn cpu(&self) -> Result<u32, Error> {
        self.call(Call::get(Kind::Compute, "/cpu")).await?.json()
    }

    /// As many such sums as asked for, 1..=1000, each of draws of its own.
    pub async fn cpu_sums(&self, count: u16) -> Result<Vec<u32>, Error> {
        let path = Query::of("/cpu").with("count", &count.to_string()).finish();
        self.call(Call::get(Kind::Compute, path)).await?.json()
    }

    /// The exit code of the node's local program.
    pub async fn local_program(&self) -> Result<u8, Error> {
        self.call(Call::get(Kind::Compute, "/local_program")).await?.json()
    }
}
