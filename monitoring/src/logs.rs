//! The log of the process: `tracing` events to standard output and to daily files.
//!
//! Events pass one filter, are captured once, and are rendered for each output; lines go through a bounded
//! queue to one writing thread per output. Lines of the `log` crate (sled writes such) come along.

mod dropped;
mod fields;
mod line;
mod subscriber;
mod writer;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use prometheus::Registry;
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use dropped::{Dropped, DroppedLines};
pub use fields::FIELD_BYTES_MAX;
use line::Style;
use subscriber::{Lines, Sink};
use writer::Output;

/// How long dropping [`LogGuard`] waits for the outputs. `tracing-appender` itself waits 1.1 s for each.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(3);

/// What to log, where, and how.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `log.level`: a level (`info`), or levels by target (`info,hearth_raft=debug`), in the syntax of
    /// [`Targets`] without its filters by field.
    pub level: String,
    /// `log.format`: how lines look on standard output. Files are always JSON.
    pub format: LogFormat,
    /// `log.dir`: where the daily files `hearthd.<date>.log` go, by UTC date; created when missing.
    /// Without it there are no files.
    pub dir: Option<PathBuf>,
    /// `log.files_max`: how many daily files are kept, today's among them; at least 2, because at a start
    /// room is made for one new file even when today's exists.
    pub files_max: usize,
    /// `log.lines_max`: how many lines wait for an output before lines are dropped; at least 1, for each
    /// of the outputs.
    pub lines_max: usize,
    /// The node's name: in every line.
    pub node: String,
    /// Whether the text format is coloured by ANSI escape sequences: for terminals.
    pub colour: bool,
}

/// How lines look on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `timestamp LEVEL node target: message name=value …`
    Text,
    /// One JSON object a line, flat: `timestamp`, `level`, `target`, `node`, `message`, and the fields of
    /// the event and of the spans around it. A field with the name of one of the first four is written
    /// as `field_<name>`.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither text nor json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why the log could not be set up. The message begins with the key to correct.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is not understood, or would silently log next to nothing.
    #[error("log.level: {level:?}: {reason}")]
    Level {
        /// The configured value.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `log.files_max` is too small to keep today's file over a restart.
    #[error("log.files_max: {0} is too few: at least 2")]
    FilesMax(usize),
    /// `log.lines_max` is zero.
    #[error("log.lines_max: 0 is too few: at least 1")]
    LinesMax,
    /// `log.dir` cannot be created or written to.
    #[error("log.dir: {path}: {source}", path = path.display())]
    Dir {
        /// The configured directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Standard output cannot be duplicated.
    #[error("standard output: {0}")]
    Stdout(#[source] io::Error),
    /// This process has a log already: [`init`] is called once.
    #[error("the log is already set up")]
    AlreadySet,
}

/// Sets up the log of this process. Call it once, before other threads log.
///
/// Keep the guard until the process ends: dropping it writes out what waits in the queues. Lines logged
/// afterwards are lost.
pub fn init(config: &LogConfig) -> Result<LogGuard, LogError> {
    // A descriptor of our own, not `io::stdout()`: its lock would be held while a full pipe blocks the
    // writing thread, and everybody who prints would wait for it.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(LogError::Stdout)?;
    let (dispatch, guard) = assemble(config, File::from(stdout))?;
    dispatch.try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(guard)
}

/// Everything [`init`] does, except making it the log of the process.
fn assemble(
    config: &LogConfig,
    stdout: impl Write + Send + 'static,
) -> Result<(Dispatch, LogGuard), LogError> {
    let filter = filter(&config.level)?;
    if config.lines_max == 0 {
        return Err(LogError::LinesMax);
    }
    let mut guard = LogGuard { workers: Vec::new(), dropped: Vec::new() };
    let queue = guard.add_output("stdout", config.lines_max, stdout);
    let mut sinks = vec![match config.format {
        LogFormat::Json => Sink::Json(queue),
        LogFormat::Text if config.colour => Sink::Text(queue, Style::coloured()),
        LogFormat::Text => Sink::Text(queue, Style::plain()),
    }];
    if let Some(dir) = &config.dir {
        let files = daily_files(dir, config.files_max)?;
        sinks.push(Sink::Json(guard.add_output("file", config.lines_max, files)));
    }
    let lines = Lines::new(config.node.clone(), sinks);
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(filter).with(lines));
    Ok((dispatch, guard))
}

/// Parses `log.level`.
///
/// [`Targets`] takes a bare word for a target to log at every level, so that a misspelt `inof` would
/// switch everything else off: here a directive without `=` must be a level.
fn filter(level: &str) -> Result<Targets, LogError> {
    let error = |reason: String| LogError::Level { level: level.to_owned(), reason };
    // Targets does not take spaces after commas.
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    for directive in &directives {
        let bare = !directive.contains('=');
        if directive.is_empty() || (bare && directive.parse::<LevelFilter>().is_err()) {
            return Err(error(format!(
                "{directive:?} is not a level (off, error, warn, info, debug, trace); for a target write target=level"
            )));
        }
        if directive.contains(['[', ']', '{', '}']) {
            return Err(error(format!("{directive:?}: only targets can have a level of their own")));
        }
    }
    directives.join(",").parse().map_err(|parse: ParseError| error(parse.to_string()))
}

/// The writer of the daily files `hearthd.<date>.log` in `dir`.
fn daily_files(dir: &Path, files_max: usize) -> Result<RollingFileAppender, LogError> {
    if files_max < 2 {
        return Err(LogError::FilesMax(files_max));
    }
    let error = |source| LogError::Dir { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(error)?;
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("hearthd")
        .filename_suffix("log")
        .max_log_files(files_max)
        .build(dir)
        .map_err(|failed| error(io::Error::other(failed)))
}

/// Keeps the writing threads alive, writes out what waits when dropped, and knows how much was lost.
#[must_use = "dropping the guard ends the log"]
#[derive(Debug)]
pub struct LogGuard {
    /// One for each output.
    workers: Vec<WorkerGuard>,
    /// One for each output.
    dropped: Vec<Dropped>,
}

impl LogGuard {
    /// Starts the thread that writes to `output`, and returns the queue that leads to it.
    fn add_output(
        &mut self,
        name: &'static str,
        lines_max: usize,
        output: impl Write + Send + 'static,
    ) -> NonBlocking {
        let refused = Arc::new(AtomicU64::new(0));
        let (queue, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(lines_max)
            .thread_name(&format!("log-{name}"))
            .finish(Output::new(output, name, refused.clone()));
        self.workers.push(worker);
        self.dropped.push(Dropped { output: name, queue: queue.error_counter(), refused });
        queue
    }

    /// Registers `hearth_log_lines_dropped_total{output="stdout"|"file"}`: lines that did not fit into the
    /// queue, or that the output refused. A batch of lines that failed half way counts whole.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(DroppedLines::new(self.dropped.clone())?))
    }

    /// How many lines were lost so far, over all outputs.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.iter().map(Dropped::total).sum()
    }
}

impl Drop for LogGuard {
    /// Waits until what is in the queues is written, but no longer than 3 s.
    ///
    /// On a thread of its own, because the worker guards print to standard output when a queue stays full,
    /// and that waits for ever when it is a pipe that nobody reads.
    fn drop(&mut self) {
        let workers = std::mem::take(&mut self.workers);
        let (done, wait) = mpsc::channel();
        let flush = thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            drop(workers);
            let _ = done.send(());
        });
        // When the thread could not be started, its closure and the guards in it are dropped already.
        if flush.is_ok() {
            let _ = wait.recv_timeout(FLUSH_WAIT_MAX);
        }
    }
}

#[cfg(test)]
#[path = "logs/tests.rs"]
mod tests;
