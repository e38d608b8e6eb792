//! `Idempotency-Key`: a write that may be sent any number of times and is applied once.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hearth_raft::{IdempotencyKey, Op, Reply, Written};
use utoipa::IntoParams;

use crate::http::problem::{Code, Problem};
use crate::http::{Gate, data_headers};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that was given before, under the same key.
pub(super) const HEARTH_IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("hearth-idempotent-replay");

/// The header, as [`key`] reads it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "says what is accepted; hearth_raft parses it")]
pub(super) struct OnceHeader {
    /// The same request with the same key is applied once, and gets the first one's answer again.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
    idempotency_key: Option<String>,
}

/// Writes, once when the request has an `Idempotency-Key`. Gives the headers of the answer with what
/// was written. 422 `idempotency_key_reused`.
pub(super) async fn write(
    store: &Gate,
    headers: &HeaderMap,
    op: &Op,
) -> Result<(Written, HeaderMap), Problem> {
    let written = match key(headers)? {
        Some(key) => store.write_once(op, &key).await?,
        None => store.write(op).await?,
    };
    let mut headers = data_headers(store, written.revision);
    if written.replayed {
        headers.insert(HEARTH_IDEMPOTENT_REPLAY, HeaderValue::from_static("true"));
    }
    if written.reply == Reply::KeyReused {
        let detail = "Idempotency-Key: it was used for another request; each needs a key of its own";
        return Err(Problem::new(Code::IdempotencyKeyReused, detail).with_headers(headers));
    }
    Ok((written, headers))
}

fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let wrong = |what: &str| Problem::new(Code::InvalidHeader, format!("Idempotency-Key: {what}"));
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(wrong("given twice"));
    }
    let key = key.to_str().map_err(|_| wrong("only visible ASCII without spaces"))?;
    key.parse().map(Some).map_err(|error: String| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let with = |values: &[&'static str]| {
            let pairs = values.iter().map(|value| (IDEMPOTENCY_KEY, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value);
            }
            headers
        };
        assert_eq!(key(&with(&[])).unwrap(), None);
        assert_eq!(key(&with(&["order-1"])).unwrap().unwrap().as_str(), "order-1");
        for (values, expected) in [
            (&["a", "a"][..], "Idempotency-Key: given twice"),
            (&[""], "Idempotency-Key: 0 bytes, not 1 to 128"),
            (&["a b"], "Idempotency-Key: only visible ASCII"),
        ] {
            let problem = format!("{:?}", key(&with(values)).unwrap_err());
            assert!(problem.contains(expected), "{values:?}: {problem}");
        }
    }
}
