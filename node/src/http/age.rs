//! `/age`: lists of ages by name, with the paths and bodies of the service that Hearth replaces.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hearth_raft::Op;
use serde_json::{Value, json};

use crate::http::conditions::{self, etag};
use crate::http::input::{self, Consistency, JSON_BYTES_MAX};
use crate::http::problem::{Code, Problem};
use crate::http::{App, once, view};

/// Years of an age.
const AGE_MAX: u8 = 150;

/// `PUT /age` with `{"name": …, "age": …}`: appends the age to the name's list.
///
/// 200 `{"name","age","revision"}`. 400 naming the field when the body is not such an object.
pub(super) async fn append(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    input::no_query(&uri)?;
    let (name, age) = parse(&input::body("body", &headers, body, JSON_BYTES_MAX).await?)?;
    let op = Op::AgeAppend { name: name.clone(), age };
    let (written, headers) = once::write(app.store()?, &headers, &op).await?;
    let body = Json(json!({"name": name, "age": age, "revision": written.revision}));
    Ok((headers, body).into_response())
}

/// `GET /age/{name}`: `[["name", age], …]` in the order of the appends; `[]` for an unknown name.
/// 304 when `If-None-Match` lists its revision.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    uri: Uri,
    asked: HeaderMap,
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
    let rows: Vec<(&str, u8)> =
        list.iter().flat_map(|list| list.iter().map(|age| (name.as_str(), age))).collect();
    Ok((headers, Json(rows)).into_response())
}

/// `DELETE /age/{name}`: removes the whole list. 204, also when there was none.
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    uri: Uri,
    asked: HeaderMap,
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
}
