//! The output of all nodes on one stream, line by line.
//!
//! Each node's streams are read by tasks, which hand over whole lines with a prefix; one thread writes them.
//! A thread, because a terminal can stop (Ctrl-S), and the supervisor must still hear signals then. In the
//! meantime the queue fills, and the nodes' pipes behind it: nothing grows without bound. A reader that is
//! gone (`hearthd dev | head`) stops the printing and not the cluster.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{mpsc, oneshot};

/// The longest line that is printed, in bytes; the rest of it is replaced by its length.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// How many lines may wait for the writer.
const QUEUE_LINES_MAX: usize = 1024;
/// How long the last lines may take when all is over.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Foreground colours that read well on dark and light, one per node.
const COLOURS: [u8; 9] = [36, 33, 35, 32, 34, 31, 96, 93, 95];

/// The one stream.
pub(super) struct Output {
    lines: mpsc::Sender<Vec<u8>>,
    written: oneshot::Receiver<()>,
    coloured: bool,
}

/// Where the lines of one node, or of the supervisor, go in.
#[derive(Clone)]
pub(super) struct Source {
    lines: mpsc::Sender<Vec<u8>>,
    /// What each line starts with, colours included.
    prefix: String,
}

impl Output {
    /// To stdout, coloured when that is a terminal and `NO_COLOR` is not set.
    pub(super) fn to_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::start(io::stdout(), io::stdout().is_terminal() && !refused)
    }

    /// To `sink`, from a thread of its own.
    pub(super) fn start(mut sink: impl Write + Send + 'static, coloured: bool) -> Self {
        let (lines, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE_LINES_MAX);
        let (done, written) = oneshot::channel();
        std::thread::spawn(move || {
            let mut broken = false;
            while let Some(line) = queue.blocking_recv() {
                // A line goes out in one write, and is flushed when no other waits.
                broken = broken || sink.write_all(&line).is_err();
                broken = broken || queue.is_empty() && sink.flush().is_err();
            }
            // The supervisor may have stopped waiting.
            let _ = done.send(());
        });
        Self { lines, written, coloured }
    }

    /// A source whose lines start with `name`; nodes have an index, the supervisor has none.
    pub(super) fn source(&self, name: &str, index: Option<u16>) -> Source {
        let colour = index.and_then(|index| COLOURS.get(usize::from(index) % COLOURS.len()));
        let prefix = match colour {
            Some(colour) if self.coloured => format!("\x1b[{colour}m{name:<3} |\x1b[0m "),
            None if self.coloured => format!("\x1b[1m{name:<3} |\x1b[0m "),
            _ => format!("{name:<3} | "),
        };
        Source { lines: self.lines.clone(), prefix }
    }

    /// Waits until everything is written, not for long: the terminal may have stopped. All sources should
    /// be gone.
    pub(super) async fn finish(self) {
        drop(self.lines);
        let _ = tokio::time::timeout(FINISH_TIMEOUT, self.written).await;
    }
}

impl Source {
    /// Prints a line of the supervisor's own. Never waits: it is left out when too many lines wait already.
    pub(super) fn say(&self, text: &str) {
        for line in text.lines() {
            let _ = self.lines.try_send(self.framed(line.as_bytes(), 0));
        }
    }

    /// Prints every line that `stream` gives, until it ends.
    pub(super) async fn copy(self, stream: impl AsyncRead + Unpin) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match read_line(&mut stream, &mut line).await {
                Ok(Some(cut_bytes)) => {
                    if self.lines.send(self.framed(&line, cut_bytes)).await.is_err() {
                        return;
                    }
                }
                // A pipe that cannot be read is as good as closed.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The line with its prefix and its end.
    fn framed(&self, line: &[u8], cut_bytes: usize) -> Vec<u8> {
        let mut framed = self.prefix.clone().into_bytes();
        framed.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        if cut_bytes > 0 {
            framed.extend_from_slice(format!(" … {cut_bytes} bytes more").as_bytes());
        }
        framed.push(b'\n');
        framed
    }
}

/// Reads up to the next line end into `line`, but not more than fits; how many bytes did not. `None` at the
/// end. A last line without an end counts.
async fn read_line(
    stream: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<Option<usize>> {
    let mut cut_bytes = 0;
    loop {
        let available = stream.fill_buf().await?;
        if available.is_empty() {
            return Ok((!line.is_empty() || cut_bytes > 0).then_some(cut_bytes));
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or(available);
        let kept = part.len().min(LINE_BYTES_MAX - line.len());
        line.extend(part.iter().take(kept));
        cut_bytes += part.len() - kept;
        let used = part.len() + usize::from(end.is_some());
        stream.consume(used);
        if end.is_some() {
            return Ok(Some(cut_bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use tokio::io::AsyncWriteExt;

    use super::{LINE_BYTES_MAX, Output};
    use crate::dev::tests::Sink;

    #[tokio::test]
    async fn lines_are_never_mixed() {
        let sink = Sink::default();
        let output = Output::start(sink.clone(), false);
        let (one, mut into_one) = tokio::io::duplex(64);
        let (two, mut into_two) = tokio::io::duplex(64);
        let copying = [
            tokio::spawn(output.source("n1", Some(0)).copy(one)),
            tokio::spawn(output.source("n2", Some(1)).copy(two)),
        ];
        for part in ["he", "llo\nwor", "ld\r\n", "\nlast"] {
            into_one.write_all(part.as_bytes()).await.unwrap();
            into_two.write_all(part.as_bytes()).await.unwrap();
        }
        drop((into_one, into_two));
        for copied in copying {
            copied.await.unwrap();
        }
        output.finish().await;
        for node in ["n1  | ", "n2  | "] {
            let text = sink.text();
            let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(node)).collect();
            assert_eq!(lines, ["hello", "world", "", "last"], "{text}");
        }
        assert_eq!(sink.text().lines().count(), 8);
    }

    #[tokio::test]
    async fn a_long_line_is_cut() {
        let sink = Sink::default();
        let output = Output::start(sink.clone(), false);
        let text = format!("{}\nshort\n", "x".repeat(LINE_BYTES_MAX + 5));
        output.source("n1", Some(0)).copy(text.as_bytes()).await;
        output.finish().await;
        let expected = format!("n1  | {} … 5 bytes more\nn1  | short\n", "x".repeat(LINE_BYTES_MAX));
        assert!(sink.text() == expected);
    }

    #[tokio::test]
    async fn colours_go_around_the_prefix_only() {
        let sink = Sink::default();
        let output = Output::start(sink.clone(), true);
        output.source("n1", Some(0)).say("one");
        output.source("dev", None).say("two\nthree");
        output.finish().await;
        assert_eq!(
            sink.text(),
            "\x1b[36mn1  |\x1b[0m one\n\x1b[1mdev |\x1b[0m two\n\x1b[1mdev |\x1b[0m three\n"
        );
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_stops_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::start(Closed, false);
        let many = "line\n".repeat(5000);
        output.source("n1", Some(0)).copy(many.as_bytes()).await;
        output.finish().await;
    }
}
