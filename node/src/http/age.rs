//! `/age`: lists of ages by name, with the paths and bodies of the service that Hearth replaces.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use hearth_raft::{AgeList, Op};
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::http::conditions::{self, IfNoneMatch, etag};
use crate::http::input::{self, Asked, Consistency, JSON_BYTES_MAX, ReadQuery, Received};
use crate::http::once::OnceHeader;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::http::{App, once, view};

/// Years of an age.
const AGE_MAX: u8 = 150;

errors!(AppendErrors: InvalidParameter, InvalidHeader, InvalidBody, InvalidName, InvalidAge, BodyTooLarge,
    IdempotencyKeyReused, Overloaded, NoLeader, OutcomeUnknown, StorageFull);
errors!(ListErrors: InvalidName, InvalidParameter, InvalidHeader, Overloaded, NoLeader);
errors!(DeleteErrors: InvalidName, InvalidParameter, InvalidHeader, IdempotencyKeyReused, Overloaded,
    NoLeader, OutcomeUnknown);

/// What an append did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Appended {
    name: String,
    #[schema(minimum = 0, maximum = 150)]
    age: u8,
    /// The list's revision.
    #[schema(minimum = 1)]
    revision: u64,
}

/// What to append; other fields are ignored.
#[derive(ToSchema)]
#[allow(dead_code, reason = "says what is accepted; the parser names the wrong field, which serde would not")]
pub(super) struct Append {
    /// 1 to 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// An integer from 0 to 150, or a string with its digits.
    #[schema(schema_with = age_schema)]
    age: u8,
}

/// A number, or its digits as text.
fn age_schema() -> Schema {
    let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(AGE_MAX));
    let digits =
        ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(0|[1-9][0-9]?|1[0-4][0-9]|150)$"));
    OneOfBuilder::new().item(number).item(digits).build().into()
}

/// The answer of a read, as the document describes it: `[[name, age], …]`.
struct Ages;

impl utoipa::PartialSchema for Ages {
    fn schema() -> RefOr<Schema> {
        let name = ObjectBuilder::new().schema_type(Type::String);
        let age = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(AGE_MAX));
        // A tuple: but utoipa writes those in the form of JSON Schema's draft 7, which 3.1 is not.
        let either = OneOfBuilder::new().item(name).item(age);
        let pair = ArrayBuilder::new().items(either).min_items(Some(2)).max_items(Some(2));
        ArrayBuilder::new().items(pair).into()
    }
}

impl ToSchema for Ages {}

/// The answer of a read, written straight from the list.
struct Rows<'a> {
    name: &'a str,
    list: Option<&'a AgeList>,
}

impl Rows<'_> {
    /// About how long it is as JSON: exactly when nothing in the name is escaped and each age has three digits.
    fn json_bytes(&self) -> usize {
        let row = self.name.len() + r#"["",100],"#.len();
        self.list.map_or(0, AgeList::len) * row + "[]".len()
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ages = self.list.iter().flat_map(|list| list.iter());
        serializer.collect_seq(ages.map(|age| (self.name, age)))
    }
}

/// Append an age
///
/// The list of a name only grows at its end.
#[utoipa::path(
    put, path = "/age", tag = "ages", operation_id = "age_append",
    params(OnceHeader),
    request_body(content = Append),
    responses((status = 200, description = "Appended", body = Appended), AppendErrors),
)]
pub(super) async fn append(
    State(app): State<Arc<App>>,
    Asked { uri, headers }: Asked,
    body: Body,
) -> Result<Response, Problem> {
    input::no_query(&uri)?;
    let store = app.store()?;
    let Received { bytes, held } = input::body(store, "body", &headers, body, JSON_BYTES_MAX).await?;
    let (name, age) = parse(&bytes)?;
    let op = Op::AgeAppend { name: name.clone(), age };
    let (written, headers) = once::write(store, &headers, &op).await?;
    drop(held);
    Ok((headers, Json(Appended { name, age, revision: written.revision })).into_response())
}

/// Read the ages of a name
///
/// Pairs of the name and an age, in the order of the appends; none for an unknown name.
#[utoipa::path(
    get, path = "/age/{name}", tag = "ages", operation_id = "age_list",
    params(
        ("name" = String, Path, description = "1 to 256 bytes of UTF-8, percent-encoded", min_length = 1, max_length = 256),
        ReadQuery, IfNoneMatch,
    ),
    responses(
        (status = 200, description = "The list", body = Ages,
            headers(("etag" = String, description = "The list's revision in quotes, when there is one"))),
        (status = 304, description = "If-None-Match has its revision",
            headers(("etag" = String, description = "The list's revision in quotes"))),
        ListErrors,
    ),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
) -> Result<Response, Problem> {
    let name = input::name(&uri)?;
    let consistency = Consistency::from_query(&uri)?;
    let store = app.store()?;
    let (view, mut headers) = view(store, consistency).await?;
    let list = view.ages.get(name.as_str());
    if let Some(list) = list {
        headers.insert(ETAG, etag(list.revision()));
        if conditions::has_already(&asked, list.revision())? {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
    }
    let rows = Rows { name: &name, list };
    let answer = store.buffers.json(&rows, rows.json_bytes()).await?;
    Ok((headers, answer).into_response())
}

/// Remove the ages of a name
///
/// The whole list; also when there is none.
#[utoipa::path(
    delete, path = "/age/{name}", tag = "ages", operation_id = "age_delete",
    params(
        ("name" = String, Path, description = "1 to 256 bytes of UTF-8, percent-encoded", min_length = 1, max_length = 256),
        OnceHeader,
    ),
    responses((status = 204, description = "It is gone"), DeleteErrors),
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
) -> Result<Response, Problem> {
    let name = input::name(&uri)?;
    input::no_query(&uri)?;
    let (_, headers) = once::write(app.store()?, &asked, &Op::AgeDelete { name }).await?;
    Ok((StatusCode::NO_CONTENT, headers).into_response())
}

/// The name and the age in a body. An age may also be a string of digits, as it always could.
fn parse(body: &[u8]) -> Result<(String, u8), Problem> {
    let invalid_body = |detail: String| Problem::new(Code::InvalidBody, detail);
    let value: Value =
        serde_json::from_slice(body).map_err(|error| invalid_body(format!("body: not JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(invalid_body("body: must be a JSON object with name and age".to_owned()));
    };
    let name = match fields.remove("name") {
        Some(Value::String(name)) => input::checked_name(name)?,
        Some(_) => return Err(Problem::new(Code::InvalidName, "name: must be a string")),
        None => return Err(Problem::new(Code::InvalidName, "name: missing")),
    };
    let age = match fields.remove("age") {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        Some(_) => None,
        None => return Err(Problem::new(Code::InvalidAge, "age: missing")),
    };
    match age.and_then(|age| u8::try_from(age).ok()).filter(|age| *age <= AGE_MAX) {
        Some(age) => Ok((name, age)),
        None => Err(Problem::new(Code::InvalidAge, format!("age: must be an integer from 0 to {AGE_MAX}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies() {
        let long = format!(r#"{{"name":"{}","age":1}}"#, "n".repeat(257));
        let cases = [
            (r#"{"name":"Lukas","age":31}"#, Ok(("Lukas", 31))),
            (r#"{"age":"31","name":"Lukas","more":null}"#, Ok(("Lukas", 31))),
            (r#"{"name":"'; DROP TABLE ages;--","age":0}"#, Ok(("'; DROP TABLE ages;--", 0))),
            (r#"{"name":"a/\"b\\🔥","age":150}"#, Ok(("a/\"b\\🔥", 150))),
            (r#"{"name":"n","age":151}"#, Err("age: must be an integer from 0 to 150")),
            (r#"{"name":"n","age":-1}"#, Err("age: must be")),
            (r#"{"name":"n","age":1.5}"#, Err("age: must be")),
            (r#"{"name":"n","age":"x"}"#, Err("age: must be")),
            (r#"{"name":"n","age":""}"#, Err("age: must be")),
            (r#"{"name":"n","age":null}"#, Err("age: must be")),
            (r#"{"name":"n","age":99999999999999999999}"#, Err("age: must be")),
            (r#"{"name":"n"}"#, Err("age: missing")),
            (r#"{"age":1}"#, Err("name: missing")),
            (r#"{"name":1,"age":1}"#, Err("name: must be a string")),
            (r#"{"name":"","age":1}"#, Err("name: 0 bytes, not 1 to 256")),
            (&long, Err("name: 257 bytes, not 1 to 256")),
            (r#"["n",1]"#, Err("body: must be a JSON object")),
            (r#"{"name":"#, Err("body: not JSON")),
            ("", Err("body: not JSON")),
        ];
        for (body, expected) in cases {
            match (parse(body.as_bytes()), expected) {
                (Ok((name, age)), Ok(expected)) => assert_eq!((name.as_str(), age), expected),
                (Err(problem), Err(expected)) => {
                    assert!(format!("{problem:?}").contains(expected), "{problem:?}")
                }
                (got, _) => panic!("{body}: {got:?}"),
            }
        }
    }

    proptest! {
        /// No bytes make it panic, and what it takes is within its bounds.
        #[test]
        fn any_bytes(body in vec(any::<u8>(), 0..200)) {
            if let Ok((name, age)) = parse(&body) {
                prop_assert!((1..=256).contains(&name.len()) && age <= AGE_MAX);
            }
        }

        /// Anything shaped like JSON neither.
        #[test]
        fn any_json(body in "[\\[{]?(\"(name|age|x)\"[:,]|[-0-9.e]{1,25}|\"[^\"]{0,9}\"|null|[\\[\\]{},:]){0,12}") {
            if let Ok((name, age)) = parse(body.as_bytes()) {
                prop_assert!((1..=256).contains(&name.len()) && age <= AGE_MAX);
            }
        }

        /// Every name and age there may be come out as they went in.
        #[test]
        fn accepted_is_kept(name in "\\PC{1,64}", age in 0..=AGE_MAX, as_text: bool) {
            let given = if as_text { json!(age.to_string()) } else { json!(age) };
            let body = json!({"name": name, "age": given}).to_string();
            prop_assert_eq!(parse(body.as_bytes()).unwrap(), (name, age));
        }
    }
}
