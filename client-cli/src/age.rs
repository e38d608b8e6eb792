//! Ages: a list of numbers under a name, `/age`.
//!
//! A name is 1..=256 bytes of UTF-8, an age is in years, 0..=150.

use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::client::{Call, Client};
use crate::error::Error;
use crate::idempotency::IdempotencyKey;
use crate::kv::Consistency;
use crate::path::{Query, below};
use crate::retry::Kind;

/// An age that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgeWritten {
    /// Whose.
    pub name: String,
    /// In years.
    pub age: u8,
    /// The revision of the write.
    pub revision: u64,
    /// Whether the answer is one that was given before, under the same idempotency key.
    #[serde(skip)]
    pub replayed: bool,
}

#[derive(Serialize)]
struct AgeBody<'a> {
    name: &'a str,
    age: u8,
}

impl Client {
    /// Adds `age` to the end of the list of `name`. An idempotency key makes it safe to send that again.
    pub async fn age_put(
        &self,
        name: &str,
        age: u8,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<AgeWritten, Error> {
        let call = Call::write(Method::PUT, "/age", idempotency_key).json(&AgeBody { name, age })?;
        let answer = self.call(call).await?;
        Ok(AgeWritten { replayed: answer.is_replay(), ..answer.json()? })
    }

    /// The ages of `name` as `(name, age)`, oldest entry first; empty for an unknown name.
    pub async fn age_get(&self, name: &str, consistency: Consistency) -> Result<Vec<(String, u8)>, Error> {
        let path = consistency.ask(Query::of(below("/age", "name", name)?)).finish();
        self.call(Call::get(Kind::Read, path)).await?.json()
    }

    /// Forgets every age of `name`; no error when there was none. An idempotency key makes it safe to send
    /// that again.
    pub async fn age_delete(
        &self,
        name: &str,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<(), Error> {
        let path = below("/age", "name", name)?;
        self.call(Call::write(Method::DELETE, path, idempotency_key)).await.map(drop)
    }
}
