//! The `tracing` layer: captures events and spans, and hands lines to the queues.

use std::io::Write;

use serde_json::Value;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::fields::Fields;
use super::line::{Line, Style};

/// A queue and how its lines look.
pub(super) enum Sink {
    /// JSON lines.
    Json(NonBlocking),
    /// Text lines.
    Text(NonBlocking, Style),
}

/// Turns each event into a line for each sink.
pub(super) struct Lines {
    /// The node's name.
    node: String,
    sinks: Vec<Sink>,
}

impl Lines {
    pub(super) fn new(node: String, sinks: Vec<Sink>) -> Self {
        Self { node, sinks }
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // An event of the `log` crate carries its origin in fields, under metadata common to all of them.
        let log_target = fields.take("log.target");
        if log_target.is_some() {
            fields.drop_prefixed("log.");
        }
        let target = log_target.as_ref().and_then(Value::as_str).unwrap_or(event.metadata().target());
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.inherit(outer);
            }
        }
        let timestamp = now();
        let level = *event.metadata().level();
        let line = Line { timestamp: &timestamp, level, target, node: &self.node, fields: &fields };
        for sink in &self.sinks {
            let (queue, text) = match sink {
                Sink::Json(queue) => (queue, line.json()),
                Sink::Text(queue, style) => (queue, line.text(style)),
            };
            // Never blocks and never fails: a line that does not fit is counted by the queue.
            let _ = queue.clone().write_all(text.as_bytes());
        }
    }
}

/// The time as RFC 3339 in UTC with microseconds.
fn now() -> String {
    let mut text = String::with_capacity(32);
    // Fails only when the String does, which it does not.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}
