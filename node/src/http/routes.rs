//! The one list of what is served: paths and methods come from the handlers' OpenAPI annotations, so
//! the router and the document cannot tell two things.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::__dev::{SchemaReferences, Tags};
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::{RefOr, Schema};

use crate::http::App;
use crate::http::metrics::RouteMetrics;
use crate::http::problem::{Code, Problem};

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Endpoint = Box<dyn Fn(Request, Arc<App>) -> Answer + Send + Sync>;

/// One method of one path as the document describes it.
pub(super) struct Described {
    pub(super) path: String,
    pub(super) method: HttpMethod,
    pub(super) operation: Operation,
    /// What the operation refers to, by name.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

/// One method of one path.
pub(super) struct Served {
    described: Described,
    endpoint: Endpoint,
}

/// A handler and its annotation: `served::<kv::__path_get, _, _>(kv::get)`, where `__path_get` is what
/// `#[utoipa::path]` made of `get`.
///
/// The two traits of `__dev` are what utoipa's own router for axum uses; there is no other way to a
/// handler's tag and schemas.
pub(super) fn served<P, T, H>(handler: H) -> Served
where
    P: utoipa::Path + SchemaReferences + Tags<'static>,
    H: Handler<T, Arc<App>>,
    T: 'static,
{
    let method = P::methods().into_iter().next().unwrap_or(HttpMethod::Get);
    let mut operation = P::operation();
    operation.tags = Some(P::tags().into_iter().map(str::to_owned).collect());
    let mut schemas = Vec::new();
    P::schemas(&mut schemas);
    let endpoint = move |request, app| -> Answer { Box::pin(handler.clone().call(request, app)) };
    let described = Described { path: P::path(), method, operation, schemas };
    Served { described, endpoint: Box::new(endpoint) }
}

#[cfg(test)]
impl Served {
    pub(super) fn path(&self) -> &str {
        &self.described.path
    }
}

/// Everything under one path.
pub(super) struct Route {
    /// By [`slot`].
    endpoints: [Option<Endpoint>; 4],
    /// What `Allow` says.
    allow: HeaderValue,
    pub(super) metrics: RouteMetrics,
}

/// Where a method's endpoint is; HEAD is answered by GET's, whose body hyper then leaves out.
fn slot(method: &Method) -> Option<usize> {
    match *method {
        Method::GET | Method::HEAD => Some(0),
        Method::PUT => Some(1),
        Method::POST => Some(2),
        Method::DELETE => Some(3),
        _ => None,
    }
}

impl Route {
    /// The answer to a request for this path.
    pub(super) async fn answer(&self, request: Request, app: &Arc<App>) -> Response {
        match slot(request.method()).and_then(|slot| self.endpoints[slot].as_ref()) {
            Some(endpoint) => endpoint(request, Arc::clone(app)).await,
            None if request.method() == Method::OPTIONS => no_content(self.allow()),
            None => {
                let detail = format!("{} does not answer {}", request.uri().path(), request.method());
                let mut response = Problem::new(Code::MethodNotAllowed, detail).into_response();
                response.headers_mut().insert(ALLOW, self.allow());
                response
            }
        }
    }

    /// The methods of this path.
    pub(super) fn allow(&self) -> HeaderValue {
        self.allow.clone()
    }
}

/// The answer to OPTIONS.
pub(super) fn no_content(allow: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// All paths.
pub(super) struct Routes {
    tree: matchit::Router<Route>,
    /// For requests that no route takes.
    pub(super) unknown: RouteMetrics,
}

impl Routes {
    /// `whole_tails` are the paths whose last parameter takes all the rest, slashes too.
    pub(super) fn new(
        list: Vec<Served>,
        whole_tails: &[&str],
        metrics: impl Fn(&str) -> RouteMetrics,
    ) -> anyhow::Result<(Self, Vec<Described>)> {
        let mut all = Vec::new();
        let mut by_path: BTreeMap<String, Vec<(HttpMethod, Endpoint)>> = BTreeMap::new();
        for Served { described, endpoint } in list {
            let served = by_path.entry(described.path.clone()).or_default();
            served.push((described.method.clone(), endpoint));
            all.push(described);
        }
        let mut tree = matchit::Router::new();
        for (path, served) in by_path {
            let template = match path.rfind('{') {
                Some(at) if whole_tails.contains(&path.as_str()) => {
                    format!("{}{{*{}", &path[..at], &path[at + 1..])
                }
                _ => path,
            };
            let metrics = metrics(&template);
            let route = route(served, metrics)?;
            tree.insert(template, route)?;
        }
        Ok((Self { tree, unknown: metrics("unknown") }, all))
    }

    /// The route that has this path.
    pub(super) fn find(&self, path: &str) -> Option<&Route> {
        self.tree.at(path).ok().map(|found| found.value)
    }
}

fn route(served: Vec<(HttpMethod, Endpoint)>, metrics: RouteMetrics) -> anyhow::Result<Route> {
    let mut endpoints = [const { None }; 4];
    let mut allow = Vec::new();
    for (method, endpoint) in served {
        let (slot, names) = match method {
            HttpMethod::Get => (0, "GET, HEAD"),
            HttpMethod::Put => (1, "PUT"),
            HttpMethod::Post => (2, "POST"),
            HttpMethod::Delete => (3, "DELETE"),
            _ => anyhow::bail!("a handler for a method other than GET, PUT, POST and DELETE"),
        };
        anyhow::ensure!(endpoints[slot].replace(endpoint).is_none(), "two handlers for {names} of one path");
        allow.push(names);
    }
    allow.push("OPTIONS");
    Ok(Route { endpoints, allow: HeaderValue::try_from(allow.join(", "))?, metrics })
}
