//! Ages: a list of numbers under a name, `/age`.
//!
//! A name is 1..=256 bytes of UTF-8, an age is in years, 0..=150.

use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::client::{Call, Client, Kind};
use crate::error::Error;
use crate::path::below;

/// An age that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgeWritten {
    /// Whose.
    pub name: String,
    /// In years.
    pub age: u8,
    /// The revision of the write.
    pub revision: u64,
}

#[derive(Serialize)]
struct AgeBody<'a> {
    name: &'a str,
    age: u8,
}

impl Client {
    /// Adds `age` to the end of the list of `name`.
    pub async fn age_put(&self, name: &str, age: u8) -> Result<AgeWritten, Error> {
        let body = serde_json::to_vec(&AgeBody { name, age })
            .map_err(|error| Error::Usage(format!("this cannot be sent as JSON: {error}")))?;
        let mut call = Call::new(Kind::Write, Method::PUT, "/age");
        call.content_type = Some("application/json".to_owned());
        call.body = body.into();
        self.call(call).await?.json()
    }

    /// The ages of `name` as `(name, age)`, oldest entry first; empty for an unknown name.
    pub async fn age_get(&self, name: &str) -> Result<Vec<(String, u8)>, Error> {
        let call = Call::new(Kind::Read, Method::GET, below("/age", "name", name)?);
        self.call(call).await?.json()
    }

    /// Forgets every age of `name`; no error when there was none.
    pub async fn age_delete(&self, name: &str) -> Result<(), Error> {
        let call = Call::new(Kind::Write, Method::DELETE, below("/age", "name", name)?);
        self.call(call).await.map(drop)
    }
}
