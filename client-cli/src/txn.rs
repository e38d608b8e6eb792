//! Transactions: several operations on keys as one, under conditions. `POST /v1/txn`.
//!
//! ```
//! use std::time::Duration;
//! use hearth_cli::txn::{Op, Test, Txn};
//!
//! // Take a lock, if nobody has it, and count how often that worked.
//! let txn = Txn::new()
//!     .only_if("lock", Test::Absent)
//!     .then(Op::put("lock", "me").ttl(Duration::from_secs(30)))
//!     .then(Op::add("taken", 1))
//!     .or_else(Op::get("lock"));
//! # assert!(serde_json::to_string(&txn).unwrap().starts_with(r#"{"if":[{"key":"lock","exists":false}]"#));
//! ```

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::client::{Call, Client};
use crate::error::Error;
use crate::idempotency::IdempotencyKey;

mod json;

/// What to apply: `then` when all conditions hold, else `or_else`; all of it or nothing, and every operation
/// sees what those before it did. A node takes at most 128 operations and 128 conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[must_use = "a transaction does nothing until Client::txn applies it"]
pub struct Txn {
    #[serde(rename = "if")]
    conditions: Vec<json::Condition>,
    then: Vec<json::Op>,
    #[serde(rename = "else")]
    or_else: Vec<json::Op>,
}

/// What must hold of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It exists.
    Exists,
    /// It does not exist.
    Absent,
    /// It was last written by this revision.
    Revision(u64),
    /// It has this value.
    Value(Bytes),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op(json::Op);

/// A put as an operation, which may be given more than a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOp {
    key: String,
    value: Bytes,
    content_type: Option<String>,
    ttl: Option<Duration>,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Whether all conditions held, so that `then` was applied.
    pub succeeded: bool,
    /// The revision of what it wrote.
    pub revision: u64,
    /// One for each operation that was applied, in their order.
    pub results: Vec<Done>,
    /// Whether the answer is one that was given before, under the same idempotency key.
    #[serde(skip)]
    pub replayed: bool,
}

/// What one operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Done {
    /// A key was set.
    Put {
        /// The key.
        key: String,
        /// Whether it did not exist before.
        created: bool,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: String,
        /// Whether it existed.
        deleted: bool,
    },
    /// A counter was changed.
    Add {
        /// The key.
        key: String,
        /// The sum.
        result: i64,
    },
    /// A key was read.
    Get {
        /// The key.
        key: String,
        /// Whether it exists.
        found: bool,
        /// What it has, if it exists.
        #[serde(flatten)]
        record: Option<Got>,
    },
}

/// A key as a transaction read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The revision that last wrote it.
    pub revision: u64,
    /// The revision that created it.
    pub created_revision: u64,
    /// The media type it was written with.
    pub content_type: Option<String>,
    /// Until it goes away by itself; `None`: it stays.
    #[serde(rename = "expires_in_ms", with = "crate::wire::ms")]
    pub expires_in: Option<Duration>,
    /// The value; base64 in JSON.
    #[serde(with = "crate::wire::base64")]
    pub value: Bytes,
}

impl Client {
    /// Applies a transaction.
    ///
    /// [`Error::Api`] with `not_an_integer` or `integer_overflow` (409) when an `add` cannot be done, and
    /// with `result_too_large` (413) when it reads too much; nothing is applied then.
    pub async fn txn(&self, txn: &Txn, idempotency_key: Option<&IdempotencyKey>) -> Result<Applied, Error> {
        let call = Call::write(Method::POST, "/v1/txn", idempotency_key).json(txn)?;
        let answer = self.call(call).await?;
        Ok(Applied { replayed: answer.is_replay(), ..answer.json()? })
    }
}

impl Txn {
    /// One without conditions or operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more condition; all of them must hold.
    pub fn only_if(mut self, key: impl Into<String>, test: Test) -> Self {
        self.conditions.push(json::Condition::new(key.into(), test));
        self
    }

    /// With one more operation for when all conditions hold.
    pub fn then(mut self, op: impl Into<Op>) -> Self {
        self.then.push(op.into().0);
        self
    }

    /// With one more operation for when a condition does not hold.
    pub fn or_else(mut self, op: impl Into<Op>) -> Self {
        self.or_else.push(op.into().0);
        self
    }

    /// Reads the JSON that `POST /v1/txn` takes; [`Error::Usage`] names the place that is wrong.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        json::parse(bytes).map_err(Error::Usage)
    }
}

impl Op {
    /// Sets a key.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> PutOp {
        PutOp { key: key.into(), value: value.into(), content_type: None, ttl: None }
    }

    /// Deletes a key, if it exists.
    pub fn delete(key: impl Into<String>) -> Self {
        Self(json::Op::Delete { key: key.into() })
    }

    /// Reads a key.
    pub fn get(key: impl Into<String>) -> Self {
        Self(json::Op::Get { key: key.into() })
    }

    /// Adds to a decimal integer of 64 bits; a key that does not exist counts as 0.
    pub fn add(key: impl Into<String>, by: i64) -> Self {
        Self(json::Op::Add { key: key.into(), by })
    }
}

impl PutOp {
    /// With the media type to keep.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// The key goes away by itself after that time: whole milliseconds, rounded up.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl From<PutOp> for Op {
    fn from(put: PutOp) -> Self {
        Self(json::Op::put(put.key, put.value, put.content_type, put.ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responder::{Responder, json};

    #[tokio::test]
    async fn a_transaction_is_sent_as_built_and_its_answer_read() {
        let answer = r#"{"succeeded":true,"revision":4,"results":[
            {"op":"put","key":"lock","created":true},
            {"op":"delete","key":"x","deleted":false},
            {"op":"add","key":"visits","result":-1},
            {"op":"get","key":"none","found":false},
            {"op":"get","key":"greeting","found":true,"revision":3,"created_revision":2,"content_type":"text/plain",
             "expires_in_ms":1500,"value":"aGVsbG8="}]}"#;
        let server = Responder::start(vec![json(answer)]).await;
        let txn = Txn::new()
            .only_if("a", Test::Exists)
            .only_if("b", Test::Absent)
            .only_if("c", Test::Revision(7))
            .only_if("d", Test::Value(vec![0, 255].into()))
            .then(Op::put("lock", "me").content_type("text/plain").ttl(Duration::from_millis(1500)))
            .then(Op::delete("x"))
            .then(Op::add("visits", -1))
            .or_else(Op::put("e", ""))
            .or_else(Op::get("greeting"));
        let key = "t-1".parse().unwrap();
        let applied = server.client().txn(&txn, Some(&key)).await.unwrap();

        let sent = server.asked().remove(0);
        assert_eq!(sent.line, "POST /v1/txn");
        assert!(sent.headers.contains(&"idempotency-key: t-1".to_owned()), "{sent:?}");
        assert!(sent.headers.contains(&"content-type: application/json".to_owned()), "{sent:?}");
        let expected = serde_json::json!({
            "if": [{"key": "a", "exists": true}, {"key": "b", "exists": false}, {"key": "c", "revision": 7},
                   {"key": "d", "value": "AP8="}],
            "then": [{"op": "put", "key": "lock", "value": "bWU=", "content_type": "text/plain", "ttl": "1500ms"},
                     {"op": "delete", "key": "x"}, {"op": "add", "key": "visits", "by": -1}],
            "else": [{"op": "put", "key": "e", "value": ""}, {"op": "get", "key": "greeting"}],
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&sent.body).unwrap(), expected);
        // What is sent can be read from a file as well.
        assert_eq!(Txn::from_json(&sent.body).unwrap(), txn);

        assert!(applied.succeeded && applied.revision == 4 && !applied.replayed);
        let got = Got {
            revision: 3,
            created_revision: 2,
            content_type: Some("text/plain".into()),
            expires_in: Some(Duration::from_millis(1500)),
            value: "hello".into(),
        };
        assert_eq!(
            applied.results[3..],
            [
                Done::Get { key: "none".into(), found: false, record: None },
                Done::Get { key: "greeting".into(), found: true, record: Some(got) },
            ]
        );
        let again = serde_json::to_value(&applied).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(answer).unwrap());
    }
}
