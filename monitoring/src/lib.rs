//! The metrics registry and the logs of a Hearth process.
//!
//! # Idea
//! A process has one [`prometheus::Registry`], made by [`registry::registry`] and passed to whoever
//! measures something; each module registers its own metrics in it. A process has one log, set up by
//! [`logs::init`]: `tracing` events become lines on standard output and, when asked for, JSON lines in
//! daily files.
//!
//! # Invariants
//! - Logging never blocks the thread that logs: lines go through a bounded queue to a thread of their own,
//!   and what does not fit is dropped.
//! - No line is lost silently: what the queue refused and what an output refused (a full disk, a closed
//!   pipe) is counted in `hearth_log_lines_dropped_total{output}`.
//! - One event is one line, whatever its fields hold: JSON escapes, and so does the text format, so that
//!   a request cannot forge a log line.
//! - A field's value is cut at [`logs::FIELD_BYTES_MAX`], so the queue is bounded in bytes as well.
//!
//! # Deliberately absent
//! - Globals: no default registry, no metrics macros. The only process-wide thing is `tracing`'s own
//!   subscriber, because events have no other way to find their log.
//! - HTTP: the node serves what [`registry::encode`] returns.
//! - Shipping logs elsewhere: collectors read standard output or the files.
//!
//! # Known shortcomings
//! - A daily file has no size limit of its own; only the number of files is limited.
//! - Two processes must not share one log directory with different `log.files_max`: each deletes the
//!   oldest `hearthd.*.log` files by its own limit.

pub mod logs;
pub mod registry;
