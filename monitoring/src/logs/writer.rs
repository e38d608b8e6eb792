//! The far end of the log queue: writes lines in batches and counts those that an output refused.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines are written to the output when this many bytes have gathered, or when the queue is empty.
/// Large enough to make system calls rare under load.
const BATCH_BYTES: usize = 32 * 1024;

/// An output behind the queue.
///
/// Invariants:
/// - Neither `write` nor `flush` returns an error or panics: the thread that calls them has nobody to
///   tell, and `tracing-appender` would swallow the error uncounted.
/// - Every line passed to `write` is either written or counted in `refused`. A batch that failed half way
///   counts whole, and is not retried.
pub(super) struct Output<W: Write> {
    /// Where the lines go: standard output or the rolling file.
    inner: W,
    /// The value of the `output` label, used in the one message to standard error.
    name: &'static str,
    /// Whole lines that wait for the next flush.
    batch: Vec<u8>,
    /// How many lines `batch` holds.
    batch_lines: u64,
    /// Lines that `inner` refused; shared with the metric.
    refused: Arc<AtomicU64>,
    /// Whether the last flush failed: the message is given once for each run of failures.
    failing: bool,
}

impl<W: Write> Output<W> {
    pub(super) fn new(inner: W, name: &'static str, refused: Arc<AtomicU64>) -> Self {
        Self { inner, name, batch: Vec::new(), batch_lines: 0, refused, failing: false }
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let result = self.inner.write_all(&self.batch).and_then(|()| self.inner.flush());
        if let Err(error) = &result {
            self.refused.fetch_add(self.batch_lines, Ordering::Relaxed);
            if !self.failing {
                // Not eprintln, which panics when standard error is closed too.
                let _ = writeln!(io::stderr(), "hearthd: log lines to the {} are lost: {error}", self.name);
            }
        }
        self.failing = result.is_err();
        self.batch.clear();
        self.batch_lines = 0;
    }
}

impl<W: Write> Write for Output<W> {
    /// Takes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        debug_assert!(line.ends_with(b"\n"), "one call is one line");
        self.batch.extend_from_slice(line);
        self.batch_lines += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_batch();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails while `broken` is not zero, counting it down.
    struct Flaky {
        broken: u32,
        written: Vec<u8>,
    }

    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.broken > 0 {
                self.broken -= 1;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn refused_lines_are_counted_and_later_lines_written() {
        let refused = Arc::new(AtomicU64::new(0));
        let flaky = Flaky { broken: 1, written: Vec::new() };
        let mut output = Output::new(flaky, "test", refused.clone());
        output.write_all(b"one\n").unwrap();
        output.write_all(b"two\n").unwrap();
        output.flush().unwrap();
        assert_eq!(refused.load(Ordering::Relaxed), 2);
        output.write_all(b"three\n").unwrap();
        output.flush().unwrap();
        assert_eq!(refused.load(Ordering::Relaxed), 2);
        assert_eq!(output.inner.written, b"three\n");
    }

    #[test]
    fn a_large_batch_does_not_wait_for_the_flush() {
        let flaky = Flaky { broken: 0, written: Vec::new() };
        let mut output = Output::new(flaky, "test", Arc::default());
        for _ in 0..=BATCH_BYTES / 8 {
            output.write_all(b"1234567\n").unwrap();
        }
        assert!(output.inner.written.len() >= BATCH_BYTES);
    }
}
