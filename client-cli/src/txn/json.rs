//! The JSON of a transaction, out of a file and over the wire.

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Test, Txn};
use crate::wire::{Base64, ms_text};

/// A condition: exactly one of the fields beside the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Condition {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Base64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Op {
    /// Exactly one of `value` and `text`.
    Put {
        key: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<Base64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl: Option<String>,
    },
    Delete {
        key: String,
    },
    Get {
        key: String,
    },
    Add {
        key: String,
        #[serde(default = "one")]
        by: i64,
    },
}

fn one() -> i64 {
    1
}

impl Condition {
    pub(super) fn new(key: String, test: Test) -> Self {
        let none = Self { key, exists: None, revision: None, value: None, text: None };
        match test {
            Test::Exists => Self { exists: Some(true), ..none },
            Test::Absent => Self { exists: Some(false), ..none },
            Test::Revision(revision) => Self { revision: Some(revision), ..none },
            Test::Value(bytes) => Self { value: Some(Base64(bytes)), ..none },
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let given =
            [self.exists.is_some(), self.revision.is_some(), self.value.is_some(), self.text.is_some()];
        match given.into_iter().filter(|given| *given).count() {
            1 => Ok(()),
            _ => Err("exactly one of exists, revision, value, text"),
        }
    }
}

impl Op {
    pub(super) fn put(
        key: String,
        value: Bytes,
        content_type: Option<String>,
        ttl: Option<Duration>,
    ) -> Self {
        let (value, ttl) = (Some(Base64(value)), ttl.map(ms_text));
        Self::Put { key, value, text: None, content_type, ttl }
    }

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Put { value, text, .. } if value.is_some() == text.is_some() => {
                Err("exactly one of value, text")
            }
            _ => Ok(()),
        }
    }
}

/// Reads a transaction. Syntax errors come with line and column, others with the place: `then[2]: …`. Sizes
/// and times are the server's to judge.
pub(super) fn parse(bytes: &[u8]) -> Result<Txn, String> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("the transaction is not JSON: {error}"))?;
    let Value::Object(fields) = value else {
        return Err("the transaction is not a JSON object with if, then and else".to_owned());
    };
    let mut txn = Txn::default();
    for (name, value) in fields {
        match name.as_str() {
            "if" => txn.conditions = each("if", value, Condition::check)?,
            "then" => txn.then = each("then", value, Op::check)?,
            "else" => txn.or_else = each("else", value, Op::check)?,
            _ => {
                return Err(format!(
                    "the transaction has an unknown field {name:?}: it has if, then and else"
                ));
            }
        }
    }
    Ok(txn)
}

/// The elements of a list, each checked.
fn each<T: DeserializeOwned>(
    name: &str,
    value: Value,
    check: impl Fn(&T) -> Result<(), &'static str>,
) -> Result<Vec<T>, String> {
    let Value::Array(elements) = value else { return Err(format!("{name}: not a list")) };
    let numbered = elements.into_iter().enumerate();
    numbered
        .map(|(at, element)| {
            let element =
                serde_json::from_value(element).map_err(|error| format!("{name}[{at}]: {error}"))?;
            check(&element).map_err(|error| format!("{name}[{at}]: {error}"))?;
            Ok(element)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("", "the transaction is not JSON: EOF while parsing a value at line 1 column 0"),
            ("{\n\"then\": [}", "the transaction is not JSON: expected value at line 2 column 10"),
            ("[]", "the transaction is not a JSON object with if, then and else"),
            (r#"{"els":[]}"#, r#"the transaction has an unknown field "els": it has if, then and else"#),
            (r#"{"if":{}}"#, "if: not a list"),
            (r#"{"if":[{"exists":true}]}"#, "if[0]: missing field `key`"),
            (r#"{"if":[{"key":"a"}]}"#, "if[0]: exactly one of exists, revision, value, text"),
            (
                r#"{"if":[{"key":"a","exists":true,"revision":1}]}"#,
                "if[0]: exactly one of exists, revision, value, text",
            ),
            (r#"{"if":[{"key":"a","revision":-1}]}"#, "if[0]: invalid value: integer `-1`, expected u64"),
            (
                r#"{"then":[{"op":"get","key":"a"},{"op":"cas","key":"a"}]}"#,
                "then[1]: unknown variant `cas`, expected one of `put`, `delete`, `get`, `add`",
            ),
            (r#"{"then":[{"op":"get"}]}"#, "then[0]: missing field `key`"),
            (r#"{"else":[{"key":"a"}]}"#, "else[0]: missing field `op`"),
            (r#"{"else":[{"op":"put","key":"a"}]}"#, "else[0]: exactly one of value, text"),
            (
                r#"{"else":[{"op":"put","key":"a","text":"","value":""}]}"#,
                "else[0]: exactly one of value, text",
            ),
            (
                r#"{"then":[{"op":"add","key":"a","by":1.5}]}"#,
                "then[0]: invalid type: floating point `1.5`, expected i64",
            ),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
        let error = parse(br#"{"then":[{"op":"put","key":"a","value":"*"}]}"#).unwrap_err();
        assert!(error.starts_with("then[0]: not base64: "), "{error}");
        let error = parse(br#"{"then":[{"op":"get","key":"a","by":1}]}"#).unwrap_err();
        assert!(error.starts_with("then[0]: unknown field `by`"), "{error}");
    }
}
