//! The OpenAPI document, made from the handlers.
//!
//! **To add a route**: write the handler and annotate it,
//!
//! ```text
//! errors!(PutErrors: InvalidKey, BodyTooLarge, NoLeader, Overloaded, OutcomeUnknown);
//!
//! /// Put a key                       (the summary)
//! ///
//! /// What it does, for users.        (the description)
//! #[utoipa::path(
//!     put, path = "/v1/kv/{key}", tag = "keys", operation_id = "kv_put",
//!     params(("key" = String, Path, description = "1 to 1,024 bytes of UTF-8")),
//!     responses((status = 200, description = "Overwritten", body = Put, headers(("etag" = String))), PutErrors),
//! )]
//! pub(super) async fn put(…) -> Result<Response, Problem> { … }
//! ```
//!
//! then add `served::<kv::__path_put, _, _>(kv::put)` to [`super::endpoints`]. That is all: path, method and
//! the schemas of what is named in `body` are taken from the annotation. A path whose last
//! parameter takes slashes is listed in [`super::WHOLE_TAILS`] too. What every route has is added
//! here: the `Hearth-` headers, `X-Request-Id`, the errors that can meet any request, HEAD for each
//! GET, and OPTIONS.

use utoipa::OpenApi;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, ResponsesBuilder};

use crate::http::problem;
use crate::http::problem::{Code, PROBLEM_JSON};
use crate::http::routes::Described;

/// Tags of operations that answer about data.
const DATA_TAGS: [&str; 2] = ["keys", "ages"];
/// Errors that can meet a request whatever its path.
const EVERYWHERE: [Code; 3] = [Code::InvalidRequest, Code::UriTooLong, Code::HeadersTooLarge];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hearth",
        description = "A replicated key-value store and compute endpoints. Any node answers any request. \
            Every error is a problem (RFC 9457) that says in `code` what is wrong, in `retryable` whether the \
            same request may succeed later, and in `outcome` whether it was applied.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "ages", description = "Lists of ages by name that only grow at their end"),
        (name = "keys", description = "Values of any bytes under keys of UTF-8"),
        (name = "compute", description = "Endpoints that need no leader and no store"),
        (name = "cluster", description = "The members"),
        (name = "health", description = "For supervisors, load balancers and Prometheus"),
        (name = "documentation", description = "This document"),
    ),
    components(schemas(
        problem::Details<'static>, problem::Code, problem::Outcome,
    )),
)]
struct Document;

/// Declares the error answers of a handler, for `responses(…)`: `errors!(GetErrors: KeyNotFound, NoLeader)`.
macro_rules! errors {
    ($name:ident: $($code:ident),+ $(,)?) => {
        pub(super) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses()
            -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::response::Response>> {
                crate::http::openapi::problems(&[$(crate::http::problem::Code::$code),+]).responses
            }
        }
    };
}
pub(super) use errors;

/// The answers that have these codes: one for each status.
pub(super) fn problems(codes: &[Code]) -> utoipa::openapi::Responses {
    let mut statuses: Vec<_> = codes.iter().map(|code| code.status()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let mut responses = ResponsesBuilder::new();
    for status in statuses {
        let words = codes.iter().filter(|code| code.status() == status);
        let words: Vec<_> = words.map(|code| format!("`{}`: {}", code.word(), code.title())).collect();
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let mut response =
            ResponseBuilder::new().description(words.join("; ")).content(PROBLEM_JSON, content);
        if [Code::Overloaded.status(), Code::NoLeader.status()].contains(&status) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
            response = response.header("retry-after", header(seconds, "Seconds to wait"));
        }
        responses = responses.response(status.as_str(), response);
    }
    responses.build()
}

/// The document as JSON.
pub(super) fn json(operations: Vec<Described>) -> anyhow::Result<Vec<u8>> {
    let mut document = Document::openapi();
    let components = document.components.get_or_insert_default();
    for Described { path, method, mut operation, schemas } in operations {
        components.schemas.extend(schemas);
        complete(&mut operation);
        let mut item = PathItem::default();
        if method == HttpMethod::Get {
            item.head = Some(head(&operation));
        }
        item.merge_operations(PathItem::new(method, operation));
        document.paths.paths.entry(path).or_default().merge_operations(item);
    }
    for (path, item) in &mut document.paths.paths {
        item.options = Some(options(path));
    }
    Ok(document.to_json()?.into_bytes())
}

/// Adds what every operation has.
fn complete(operation: &mut Operation) {
    let id = ParameterBuilder::new()
        .name("X-Request-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Taken over as Hearth-Request-Id when it is 1 to 128 visible ASCII characters"))
        .schema(Some(text()))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::<Parameter>::T(id));
    if operation.request_body.is_some() {
        merge(operation, problems(&[Code::ClientTimeout]));
    }
    merge(operation, problems(&EVERYWHERE));
    let is_data = operation.tags.iter().flatten().any(|tag| DATA_TAGS.contains(&tag.as_str()));
    let is_once = operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "Idempotency-Key"));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        add_header(response, "hearth-node", header(text(), "The node that answers"));
        add_header(response, "hearth-request-id", header(text(), "Names this request in logs"));
        if is_once && status != "400" {
            let replayed = header(
                text().enum_values(Some(["true"])),
                "When this was answered before, under the same Idempotency-Key",
            );
            add_header(response, "hearth-idempotent-replay", replayed);
        }
        if is_data && (status.starts_with('2') || status == "304") {
            let revision = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
            add_header(
                response,
                "hearth-revision",
                header(revision, "The store's revision that this reflects"),
            );
            add_header(response, "hearth-leader", header(text(), "The leader, when one is known"));
        }
    }
}

/// Adds answers; where a status is there already, its description tells the new codes too.
fn merge(operation: &mut Operation, more: utoipa::openapi::Responses) {
    for (status, response) in more.responses {
        match (operation.responses.responses.get_mut(&status), response) {
            (Some(RefOr::T(there)), RefOr::T(new)) => {
                there.description = format!("{}; {}", there.description, new.description);
            }
            (_, response) => _ = operation.responses.responses.insert(status, response),
        }
    }
}

/// What HEAD does where there is GET: the same, without the bodies.
fn head(get: &Operation) -> Operation {
    let mut head = get.clone();
    head.operation_id = head.operation_id.map(|id| format!("{id}_head"));
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    head
}

/// OPTIONS of a path.
fn options(path: &str) -> Operation {
    let allow = header(text(), "The methods of this path");
    let mut operation = Operation::new();
    operation.operation_id = Some(format!(
        "options{}",
        path.replace(|c: char| !c.is_ascii_alphanumeric(), "_").trim_end_matches('_')
    ));
    operation.summary = Some("Methods of this path".to_owned());
    operation.tags = Some(vec!["documentation".to_owned()]);
    operation.parameters = Some(
        path.split('{')
            .skip(1)
            .filter_map(|rest| rest.split_once('}'))
            .map(|(name, _)| {
                let parameter = ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .schema(Some(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1))));
                RefOr::T(parameter.build())
            })
            .collect(),
    );
    let response = ResponseBuilder::new().description("In the header Allow").header("allow", allow);
    operation.responses = ResponsesBuilder::new().response("204", response).build();
    complete(&mut operation);
    operation
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn header(schema: impl Into<RefOr<Schema>>, description: &str) -> Header {
    let mut header = Header::new(schema);
    header.description = Some(description.to_owned());
    header
}

fn add_header(response: &mut Response, name: &str, header: Header) {
    response.headers.insert(name.to_owned(), header.into());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::metrics::HttpMetrics;
    use crate::http::routes::Routes;

    fn document() -> (Value, Routes) {
        let metrics = HttpMetrics::register(&prometheus::Registry::new()).unwrap();
        let (routes, operations) =
            Routes::new(crate::http::endpoints(), &crate::http::WHOLE_TAILS, |template| {
                metrics.route(template)
            })
            .unwrap();
        (serde_json::from_slice(&json(operations).unwrap()).unwrap(), routes)
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let (document, _) = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} is not in the document");
        }
    }

    #[test]
    fn the_router_has_each_path_of_the_document_with_its_methods() {
        let (document, routes) = document();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(
            paths.len(),
            crate::http::endpoints().iter().map(|served| served.path()).collect::<BTreeSet<_>>().len()
        );
        for (path, item) in paths {
            let route = routes.find(&path.replace(['{', '}'], "x")).unwrap_or_else(|| panic!("{path}"));
            let mut methods: Vec<String> =
                item.as_object().unwrap().keys().map(|method| method.to_ascii_uppercase()).collect();
            let allow = route.allow();
            let mut allowed: Vec<&str> = allow.to_str().unwrap().split(", ").collect();
            methods.sort_unstable();
            allowed.sort_unstable();
            assert_eq!(methods, allowed, "{path}");
        }
    }

    #[test]
    fn operations_have_names_of_their_own_and_tell_their_errors() {
        let (document, _) = document();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap_or_default();
                assert!(!id.is_empty() && ids.insert(id.to_owned()), "{method} {path}: {id:?}");
                for status in ["400", "414", "431"] {
                    assert!(operation["responses"][status].is_object(), "{method} {path}: {status}");
                }
                for (status, response) in operation["responses"].as_object().unwrap() {
                    assert!(
                        response["headers"]["hearth-request-id"].is_object(),
                        "{method} {path}: {status}"
                    );
                }
            }
        }
    }
}
