//! What a program writes: read so that it never waits for us, kept up to a limit, discarded beyond.

use std::io;

use tokio::net::unix::pipe;

/// A program that has written this many times what is kept is taken for a runaway and killed: reading for
/// ever costs a processor. 64 MiB when 64 KiB are kept.
const FLOOD_FACTOR: u64 = 1024;

/// How much is read at once: what a Linux pipe holds by default is four times as much.
const READ_BYTES: usize = 16 * 1024;

/// The output of a running program, standard output and standard error in the order of writing.
///
/// Invariant: `kept` never exceeds `kept_max`.
pub(super) struct Output {
    reader: pipe::Receiver,
    /// The beginning of the output.
    kept: Vec<u8>,
    /// How many bytes are kept.
    kept_max: usize,
    /// How many bytes were read.
    seen_bytes: u64,
}

impl Output {
    pub(super) fn new(reader: pipe::Receiver, kept_max: usize) -> Self {
        Self { reader, kept: Vec::new(), kept_max, seen_bytes: 0 }
    }

    /// Reads until the program floods, and returns the limit that it passed, in bytes. Never returns when it closes its output, or when reading fails:
    /// only its exit matters then. Cancel safe.
    pub(super) async fn flood(&mut self) -> u64 {
        while self.reader.readable().await.is_ok() {
            match self.read() {
                Ok(0) => break,
                Ok(_) if self.seen_bytes > self.flood_bytes() => return self.flood_bytes(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        std::future::pending().await
    }

    /// The beginning of the output, as text; after the program has exited.
    pub(super) fn text(mut self) -> String {
        // What it wrote last may still be in the pipe. A process that it left behind could go on writing:
        // the limit ends the loop.
        while self.kept.len() < self.kept_max && self.read().is_ok_and(|bytes| bytes > 0) {}
        String::from_utf8_lossy(&self.kept).into_owned()
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; READ_BYTES];
        let bytes = self.reader.try_read(&mut buffer)?;
        let room = self.kept_max - self.kept.len();
        self.kept.extend_from_slice(&buffer[..bytes.min(room)]);
        self.seen_bytes += bytes as u64;
        Ok(bytes)
    }

    fn flood_bytes(&self) -> u64 {
        FLOOD_FACTOR.saturating_mul(self.kept_max as u64)
    }
}
