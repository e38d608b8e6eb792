//! `POST /v1/txn`: several operations on keys as one, under conditions.
//!
//! Values are text in `text`, or any bytes in base64 in `value`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hearth_raft::{Condition, Expect, Op, Reply, TXN_OPS_MAX, Test, Txn, TxnOp, TxnRefusal, TxnResult};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::base64::Base64;
use crate::http::input::{self, Asked, Received, VALUE_BYTES_MAX};
use crate::http::kv::{checked_content_type, checked_ttl};
use crate::http::once::OnceHeader;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::http::{App, once};

/// Bytes of a transaction's body.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a result as JSON without its key, type and value; also enough for what is around them.
const RESULT_JSON_BYTES: usize = 200;

errors!(ApplyErrors: InvalidParameter, InvalidHeader, InvalidBody, NotAnInteger, IntegerOverflow, BodyTooLarge,
    ResultTooLarge, KeyTooLong, IdempotencyKeyReused, Overloaded, NoLeader, OutcomeUnknown, StorageFull);

/// What to apply: `then` and `else` have at most 128 operations together.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Transaction)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// What must hold for `then`; without any condition it holds.
    #[serde(default, rename = "if")]
    #[schema(max_items = 128)]
    conditions: Vec<ConditionJson>,
    /// What is done when it holds, in this order.
    #[serde(default)]
    #[schema(max_items = 128)]
    then: Vec<OpJson>,
    /// What is done when it does not.
    #[serde(default, rename = "else")]
    #[schema(max_items = 128)]
    or_else: Vec<OpJson>,
}

/// What must hold of a key: exactly one of the fields beside `key`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Condition)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionJson {
    #[schema(min_length = 1, max_length = 1024)]
    key: String,
    /// Whether it exists.
    exists: Option<bool>,
    /// The revision that last wrote it; 0 when it does not exist.
    revision: Option<u64>,
    /// Its value, in base64.
    value: Option<String>,
    /// Its value, as text.
    text: Option<String>,
}

/// One operation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Operation)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum OpJson {
    /// Writes a key; exactly one of `value` and `text`.
    Put {
        #[schema(min_length = 1, max_length = 1024)]
        key: String,
        /// Any bytes, in base64.
        value: Option<String>,
        text: Option<String>,
        /// A media type.
        #[schema(max_length = 256, pattern = "^[ -~]*$")]
        content_type: Option<String>,
        /// Like `30s`: the key goes away by itself after that time.
        #[schema(pattern = "^[1-9][0-9]{0,8}(ms|s|m)$")]
        ttl: Option<String>,
    },
    /// Deletes a key, if it exists.
    Delete {
        #[schema(min_length = 1, max_length = 1024)]
        key: String,
    },
    /// Reads a key.
    Get {
        #[schema(min_length = 1, max_length = 1024)]
        key: String,
    },
    /// Adds to a decimal integer of 64 bits; a key that does not exist counts as 0.
    Add {
        #[schema(min_length = 1, max_length = 1024)]
        key: String,
        #[serde(default = "one")]
        by: i64,
    },
}

/// What a transaction did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Applied {
    /// Whether all conditions held, so that `then` was applied.
    succeeded: bool,
    /// The revision of what it wrote.
    #[schema(minimum = 1)]
    revision: u64,
    /// One for each operation that was applied, in their order.
    results: Vec<Done>,
}

/// What one operation did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Done {
    Put {
        key: String,
        /// Whether the key was not there before.
        created: bool,
    },
    Delete {
        key: String,
        /// Whether the key was there.
        deleted: bool,
    },
    Add {
        key: String,
        /// The sum.
        result: i64,
    },
    Get {
        key: String,
        /// Whether the key exists; the fields below are there only then.
        found: bool,
        #[serde(flatten)]
        record: Option<Got>,
    },
}

/// A key as a transaction read it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Got {
    revision: u64,
    created_revision: u64,
    /// As it was put; null when it was put without one.
    content_type: Option<String>,
    /// Until the key goes away by itself; null when it stays.
    expires_in_ms: Option<u64>,
    /// In base64.
    #[schema(value_type = String)]
    value: Base64<Bytes>,
}

impl Applied {
    /// About how long it is as JSON, when little is escaped.
    fn json_bytes(&self) -> usize {
        let result = |done: &Done| match done {
            Done::Put { key, .. } | Done::Delete { key, .. } | Done::Add { key, .. } => key.len(),
            Done::Get { key, record: None, .. } => key.len(),
            Done::Get { key, record: Some(got), .. } => {
                key.len() + got.content_type.as_ref().map_or(0, String::len) + got.value.json_bytes()
            }
        };
        self.results.iter().map(|done| RESULT_JSON_BYTES + result(done)).sum::<usize>() + RESULT_JSON_BYTES
    }
}

fn one() -> i64 {
    1
}

/// Apply a transaction
///
/// `then` when all conditions hold, else `else`; all of it or nothing, and every operation sees what
/// those before it did. `not_an_integer`, `integer_overflow` and `result_too_large` name the operation;
/// nothing is applied then.
#[utoipa::path(
    post, path = "/v1/txn", tag = "keys", operation_id = "txn_apply",
    params(OnceHeader),
    request_body(content = Request, description = "At most 4 MiB"),
    responses((status = 200, description = "Applied", body = Applied), ApplyErrors),
)]
pub(super) async fn apply(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
    body: Body,
) -> Result<Response, Problem> {
    input::no_query(&uri)?;
    let store = app.store()?;
    let Received { bytes, held } = input::body(store, "body", &asked, body, BODY_BYTES_MAX).await?;
    let (txn, keys) = parse(&bytes)?;
    let (written, headers) = once::write(store, &asked, &Op::Txn(txn)).await?;
    drop((bytes, held));
    match written.reply {
        Reply::Txn(reply) => {
            let keys = if reply.succeeded { keys.then } else { keys.or_else };
            let results =
                keys.into_iter().zip(reply.results).map(|(key, result)| done(key, result)).collect();
            let (succeeded, revision) = (reply.succeeded, written.revision);
            let applied = Applied { succeeded, revision, results };
            let answer = store.buffers.json_of_applied(&applied, applied.json_bytes()).await?;
            Ok((headers, answer).into_response())
        }
        Reply::TxnRefused { succeeded, operation, reason } => {
            Err(refused(succeeded, operation, reason).with_headers(headers))
        }
        _ => Err(Problem::unexpected()),
    }
}

/// The keys of the operations, for the answer.
#[derive(Debug)]
struct Keys {
    then: Vec<String>,
    or_else: Vec<String>,
}

fn refused(succeeded: bool, operation: u32, reason: TxnRefusal) -> Problem {
    let place = format!("{}[{operation}]", if succeeded { "then" } else { "else" });
    match reason {
        TxnRefusal::NotAnInteger => {
            let detail = format!("{place}: add: the value is not a decimal integer of 64 bits");
            Problem::new(Code::NotAnInteger, detail)
        }
        TxnRefusal::Overflow => {
            let detail = format!("{place}: add: the sum does not fit into 64 bits");
            Problem::new(Code::IntegerOverflow, detail)
        }
        TxnRefusal::ResultTooLarge { bytes_max } => {
            let detail = format!("{place}: get: the values read have more than {bytes_max} bytes together");
            Problem::new(Code::ResultTooLarge, detail)
        }
    }
}

fn done(key: String, result: TxnResult) -> Done {
    match result {
        TxnResult::Put { created } => Done::Put { key, created },
        TxnResult::Deleted { existed } => Done::Delete { key, deleted: existed },
        TxnResult::Added(sum) => Done::Add { key, result: sum },
        TxnResult::Got(None) => Done::Get { key, found: false, record: None },
        TxnResult::Got(Some(got)) => {
            let record = Got {
                revision: got.revision,
                created_revision: got.created_revision,
                content_type: Some(got.content_type.to_string()).filter(|given| !given.is_empty()),
                expires_in_ms: got.expires_in_ms,
                value: Base64(got.value),
            };
            Done::Get { key, found: true, record: Some(record) }
        }
    }
}

/// The transaction in a body, and the keys of its operations.
fn parse(body: &[u8]) -> Result<(Txn, Keys), Problem> {
    let request: Request =
        serde_json::from_slice(body).map_err(|error| invalid(format!("body: not a transaction: {error}")))?;
    let operations = request.then.len() + request.or_else.len();
    for (field, count) in [("if", request.conditions.len()), ("then and else", operations)] {
        if count > TXN_OPS_MAX {
            return Err(Problem::new(
                Code::BodyTooLarge,
                format!("{field}: {count} of at most {TXN_OPS_MAX}"),
            ));
        }
    }
    let keys = Keys { then: keys(&request.then), or_else: keys(&request.or_else) };
    let conditions = request.conditions.into_iter().enumerate();
    let conditions = conditions.map(|(at, condition)| condition.checked(&format!("if[{at}]")));
    let branch = |name: &str, ops: Vec<OpJson>| {
        let ops = ops.into_iter().enumerate();
        ops.map(|(at, op)| op.checked(&format!("{name}[{at}]"))).collect::<Result<_, _>>()
    };
    let txn = Txn {
        conditions: conditions.collect::<Result<_, _>>()?,
        then: branch("then", request.then)?,
        or_else: branch("else", request.or_else)?,
    };
    Ok((txn, keys))
}

fn keys(ops: &[OpJson]) -> Vec<String> {
    let key = |op: &OpJson| match op {
        OpJson::Put { key, .. } | OpJson::Delete { key } | OpJson::Get { key } | OpJson::Add { key, .. } => {
            key.clone()
        }
    };
    ops.iter().map(key).collect()
}

impl ConditionJson {
    fn checked(self, place: &str) -> Result<Condition, Problem> {
        let value = value(place, self.value, self.text)?;
        let test = match (self.exists, self.revision, value) {
            (Some(true), None, None) => Test::Expect(Expect::Exists),
            (Some(false), None, None) | (None, Some(0), None) => Test::Expect(Expect::Absent),
            (None, Some(revision), None) => Test::Expect(Expect::Revisions(vec![revision])),
            (None, None, Some(value)) => Test::Value(value),
            _ => return Err(invalid(format!("{place}: exactly one of exists, revision, value, text"))),
        };
        Ok(Condition { key: checked_key(place, self.key)?, test })
    }
}

impl OpJson {
    fn checked(self, place: &str) -> Result<TxnOp, Problem> {
        Ok(match self {
            Self::Put { key, value: base64, text, content_type, ttl } => TxnOp::Put {
                key: checked_key(place, key)?,
                value: value(place, base64, text)?
                    .ok_or_else(|| invalid(format!("{place}: one of value, text")))?,
                content_type: checked_content_type(&content_type.unwrap_or_default())
                    .map_err(|what| invalid(format!("{place}: content_type: {what}")))?,
                ttl_ms: ttl.map(|text| ttl_ms(place, &text)).transpose()?,
            },
            Self::Delete { key } => TxnOp::Delete { key: checked_key(place, key)? },
            Self::Get { key } => TxnOp::Get { key: checked_key(place, key)? },
            Self::Add { key, by } => TxnOp::Add { key: checked_key(place, key)?, by },
        })
    }
}

fn checked_key(place: &str, key: String) -> Result<String, Problem> {
    if key.is_empty() {
        return Err(invalid(format!("{place}: key: empty")));
    }
    input::not_too_long(&format!("{place}: key"), key)
}

fn value(place: &str, base64: Option<String>, text: Option<String>) -> Result<Option<Bytes>, Problem> {
    let value = match (base64, text) {
        (None, None) => return Ok(None),
        (None, Some(text)) => Bytes::from(text),
        (Some(base64), None) => match BASE64_STANDARD.decode(base64) {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(invalid(format!("{place}: value: not base64: {error}"))),
        },
        (Some(_), Some(_)) => return Err(invalid(format!("{place}: only one of value, text"))),
    };
    if value.len() > VALUE_BYTES_MAX {
        let detail = format!("{place}: value: {} bytes, more than {VALUE_BYTES_MAX}", value.len());
        return Err(Problem::new(Code::BodyTooLarge, detail));
    }
    Ok(Some(value))
}

fn ttl_ms(place: &str, text: &str) -> Result<std::num::NonZeroU64, Problem> {
    let ttl = humantime::parse_duration(text).ok().and_then(|ttl| checked_ttl(ttl).ok());
    ttl.ok_or_else(|| invalid(format!("{place}: ttl: {text:?} is not a time such as 30s, up to 100 years")))
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidBody, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_transaction() {
        let body = r#"{
            "if": [{"key":"a","exists":true},{"key":"b","revision":7},{"key":"c","revision":0},{"key":"d","text":"x"}],
            "then": [
                {"op":"put","key":"a","value":"AP8=","content_type":"x/y","ttl":"1500ms"},
                {"op":"put","key":"b","text":""},
                {"op":"add","key":"n"}
            ],
            "else": [{"op":"get","key":"a"},{"op":"delete","key":"b"},{"op":"add","key":"n","by":-5}]
        }"#;
        let (txn, keys) = parse(body.as_bytes()).unwrap();
        let tests: Vec<Test> = txn.conditions.into_iter().map(|condition| condition.test).collect();
        let expected = [
            Test::Expect(Expect::Exists),
            Test::Expect(Expect::Revisions(vec![7])),
            Test::Expect(Expect::Absent),
            Test::Value(Bytes::from_static(b"x")),
        ];
        assert_eq!(tests, expected);
        assert_eq!((keys.then, keys.or_else.len()), (vec!["a".into(), "b".into(), "n".into()], 3));
        let put = |key: &str, value: &'static [u8], content_type: &str, ttl_ms| TxnOp::Put {
            key: key.into(),
            value: Bytes::from_static(value),
            content_type: content_type.into(),
            ttl_ms: std::num::NonZeroU64::new(ttl_ms),
        };
        let add = |by| TxnOp::Add { key: "n".into(), by };
        assert_eq!(txn.then, [put("a", b"\0\xff", "x/y", 1500), put("b", b"", "", 0), add(1)]);
        let expected = [TxnOp::Get { key: "a".into() }, TxnOp::Delete { key: "b".into() }, add(-5)];
        assert_eq!(txn.or_else, expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"then":[{{"op":"get","key":"{}"}}]}}"#, "k".repeat(1025));
        let many = format!(r#"{{"then":[{}]}}"#, vec![r#"{"op":"get","key":"k"}"#; 129].join(","));
        let cases = [
            ("", "body: not a transaction: EOF"),
            ("[1]", "body: not a transaction"),
            (r#"{"then":[],"els":[]}"#, "unknown field `els`"),
            (r#"{"then":[{"op":"cas","key":"a"}]}"#, "unknown variant `cas`"),
            (r#"{"then":[{"op":"get"}]}"#, "missing field `key`"),
            (r#"{"then":[{"op":"get","key":""}]}"#, "then[0]: key: empty"),
            (&long, "then[0]: key: 1025 bytes, more than 1024"),
            (&many, "then and else: 129 of at most 128"),
            (r#"{"if":[{"key":"a"}]}"#, "if[0]: exactly one of"),
            (r#"{"if":[{"key":"a","exists":true,"revision":1}]}"#, "if[0]: exactly one of"),
            (r#"{"else":[{"op":"put","key":"a"}]}"#, "else[0]: one of value, text"),
            (r#"{"then":[{"op":"put","key":"a","text":"","value":""}]}"#, "then[0]: only one of value, text"),
            (r#"{"then":[{"op":"put","key":"a","value":"*"}]}"#, "then[0]: value: not base64"),
            (
                r#"{"then":[{"op":"put","key":"a","text":"","ttl":"5"}]}"#,
                "then[0]: ttl: \\\"5\\\" is not a time",
            ),
            (r#"{"then":[{"op":"put","key":"a","text":"","ttl":"0s"}]}"#, "then[0]: ttl"),
            (r#"{"then":[{"op":"put","key":"a","text":"","content_type":"a\nb"}]}"#, "then[0]: content_type"),
            (r#"{"then":[{"op":"add","key":"a","by":1.5}]}"#, "body: not a transaction: invalid type"),
            (r#"{"then":[{"op":"add","key":"a","by":9223372036854775808}]}"#, "body: not a transaction"),
        ];
        for (body, expected) in cases {
            let problem = format!("{:?}", parse(body.as_bytes()).unwrap_err());
            assert!(problem.contains(expected), "{body:.100}: {problem}");
        }
    }
}
