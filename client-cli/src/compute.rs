//! The compute endpoints. They change nothing, so a lost answer is asked for again elsewhere.

use hyper::Method;

use crate::client::{Call, Client, Kind};
use crate::error::Error;

impl Client {
    /// The sum of 100,000 random draws on 0..=100.
    pub async fn cpu(&self) -> Result<u32, Error> {
        self.call(Call::new(Kind::Compute, Method::GET, "/cpu")).await?.json()
    }

    /// The exit code of the node's local program.
    pub async fn local_program(&self) -> Result<u8, Error> {
        self.call(Call::new(Kind::Compute, Method::GET, "/local_program")).await?.json()
    }
}
