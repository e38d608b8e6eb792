//! `/v1/watch?prefix=`: changes of keys as they happen, as server-sent events.
//!
//! A stream has no queue: it reads the store's history at the pace of its client, and ends with an
//! `overflow` when that has passed over it. So what a client costs is bounded, and what it got is without
//! gaps. Streams are not counted as requests at work ([`Gate`](super::Gate)): they wait most of the time, and have a bound of
//! their own, `watch.streams_max`.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use hearth_raft::EventId;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::IntoParams;

use self::stream::EventStream;
use crate::http::input::{self, Asked};
use crate::http::openapi::errors;
use crate::http::parameters::{Parameters, invalid};
use crate::http::problem::{Code, Problem};
use crate::http::{App, data_headers};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

errors!(WatchErrors: InvalidParameter, InvalidHeader, Compacted, KeyTooLong, Overloaded, NoLeader, RevisionNotReached);

/// The query of a stream.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "says what is accepted; the parser refuses unknown and doubled parameters")]
pub(super) struct WatchQuery {
    /// What the keys begin with, up to 1,024 bytes; without it, all keys.
    #[param(max_length = 1024)]
    prefix: Option<String>,
    /// A revision, or the id of an event, behind which the stream begins; without it, with what is written
    /// from now on.
    #[param(pattern = "^[0-9]{1,19}(\\.[1-9][0-9]{0,8})?$")]
    after: Option<String>,
    /// Whether to give the values too.
    #[param(default = true)]
    values: Option<bool>,
}

/// The header with which a stream is resumed.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "says what is accepted; hearth_raft parses it")]
pub(super) struct LastEventId {
    /// The id that came last; goes before `after`. Any node takes it.
    #[param(rename = "Last-Event-ID", pattern = "^[0-9]{1,19}(\\.[1-9][0-9]{0,8})?$")]
    last_event_id: Option<String>,
}

/// Bounds of streams, from the `watch.` keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLimits {
    /// Streams open at once.
    pub(crate) streams_max: usize,
    /// How long a stream is quiet before it says that it is still there.
    pub(crate) heartbeat_interval: Duration,
}

/// Room for streams, and what is counted of them.
pub(crate) struct Streams {
    limits: StreamLimits,
    room: Arc<Semaphore>,
    open: IntGauge,
    /// Ended because the history had passed over the client.
    overflows: IntCounter,
    /// Cut off because the client took nothing.
    write_timeouts: IntCounter,
}

/// Marks the answer that is a stream.
#[derive(Clone, Copy)]
pub(super) struct IsStream;

impl Streams {
    pub(crate) fn register(limits: StreamLimits, registry: &Registry) -> Result<Self, prometheus::Error> {
        let open = IntGauge::new("hearth_watch_streams", "Watch streams open.")?;
        let dropped = IntCounterVec::new(
            Opts::new(
                "hearth_watch_dropped_total",
                "Watch streams of clients that were too slow, by reason: overflow, the history had passed over what they were not given; write_timeout, they took nothing for http.write_timeout.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Self {
            limits,
            room: Arc::new(Semaphore::new(limits.streams_max)),
            open,
            overflows: dropped.with_label_values(&["overflow"]),
            write_timeouts: dropped.with_label_values(&["write_timeout"]),
        })
    }

    /// The client of a stream took nothing for too long: its connection is cut off.
    pub(super) fn note_write_timeout(&self) {
        self.write_timeouts.inc();
    }

    /// A place for one more stream.
    fn enter(&self) -> Result<Place, Problem> {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            let detail = format!("{} streams are open (watch.streams_max)", self.limits.streams_max);
            return Err(Problem::new(Code::Overloaded, detail));
        };
        self.open.inc();
        Ok(Place { open: self.open.clone(), _permit: permit })
    }
}

/// The place of one stream, given up when dropped.
struct Place {
    open: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// Watch keys
///
/// A stream of server-sent events (`text/event-stream`), one for each change of the keys that begin with
/// `prefix`, in the order of the log, none left out and none twice.
///
/// - `put`: `{"key","revision","created_revision","created","content_type","size","expires_in_ms","value"}`,
///   the value in base64; without `expires_in_ms` when the key stays.
/// - `delete` and `expire`: `{"key","revision"}`.
/// - `overflow`: `{"code","detail","resume_after"}`. The client was so slow that events are gone; the
///   stream ends.
///
/// Each event has an `id`. A stream that broke off is resumed with it, on any node, in `Last-Event-ID` or as
/// `after`. A quiet stream sends a comment and a new `id` every 15 seconds.
#[utoipa::path(
    get, path = "/v1/watch", tag = "keys", operation_id = "watch",
    params(WatchQuery, LastEventId),
    responses(
        (status = 200, description = "The events; the revision is that behind which the stream begins",
            body = String, content_type = "text/event-stream",
            headers(("cache-control" = String, description = "`no-store`"))),
        WatchErrors,
    ),
)]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    Asked { uri, headers: asked }: Asked,
) -> Result<Response, Problem> {
    let given = Parameters::of(&uri, &["prefix", "after", "values"])?;
    let prefix = input::not_too_long("prefix", given.get("prefix").unwrap_or_default().to_owned())?;
    let after = resume_after(&given, &asked)?;
    let values = given.get("values").is_none() || given.flag("values")?;
    let place = app.streams.enter()?;
    let store = app.store()?;
    let after = match after {
        Some(after) => after,
        None => EventId::whole(store.linearizable_view().await?.revision()),
    };
    let watcher = store.watch(&prefix, after).await?;
    let mut headers = data_headers(store, after.whole_revision());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let stream = EventStream::new(Arc::clone(&app), watcher, after, values, place);
    Ok((headers, Extension(IsStream), Body::new(stream)).into_response())
}

/// Where the stream is to begin, when the client says.
fn resume_after(given: &Parameters, asked: &HeaderMap) -> Result<Option<EventId>, Problem> {
    match asked.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        Some(id) => {
            let id = id.to_str().map_err(|_| "not visible ASCII".to_owned()).and_then(str::parse);
            let wrong = |what: String| Problem::new(Code::InvalidHeader, format!("Last-Event-ID: {what}"));
            id.map(Some).map_err(wrong)
        }
        None => {
            let after = given.get("after").map(str::parse).transpose();
            after.map_err(|what: String| invalid(format!("after: {what}")))
        }
    }
}
