//! What everything measured here depends on: the processors, the kernel, and how long the disk takes
//! to make a write durable.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Writes of the disk's measurement.
const SYNCS: usize = 200;
/// Bytes of each: about a log entry with a value of 256 bytes.
const SYNC_BYTES: usize = 300;

/// The machine, with the disk measured.
#[derive(Clone, Debug)]
pub struct Machine {
    cores: usize,
    kernel: String,
    file_system: String,
    sync_average: Duration,
    sync_p99: Duration,
}

/// Looks at the machine and measures the disk that holds `directory`.
///
/// # Errors
/// When the kernel does not tell, or the disk cannot be written.
pub fn describe(directory: &Path) -> Result<Machine> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let real = directory.canonicalize().context("resolve the data directory")?;
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let mut took = measure_syncs(&directory.join("sync")).context("measure the disk")?;
    took.sort_unstable();
    let average = took.iter().sum::<Duration>() / u32::try_from(took.len()).unwrap_or(u32::MAX);
    Ok(Machine {
        cores: std::thread::available_parallelism().context("count the processors")?.get(),
        kernel: kernel.trim().to_owned(),
        file_system: file_system(&mounts, &real).unwrap_or_else(|| "an unknown file system".to_owned()),
        sync_average: average,
        sync_p99: took[took.len() * 99 / 100],
    })
}

impl Machine {
    /// The same for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "cores": self.cores,
            "kernel": self.kernel,
            "file_system": self.file_system,
            "fdatasync_average_ms": self.sync_average.as_secs_f64() * 1e3,
            "fdatasync_p99_ms": self.sync_p99.as_secs_f64() * 1e3,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "machine: {} cores, Linux {}, data on {}", self.cores, self.kernel, self.file_system)?;
        let [average, p99] = [self.sync_average, self.sync_p99].map(|took| took.as_secs_f64() * 1e3);
        write!(
            out,
            "disk: {SYNC_BYTES} bytes + fdatasync, {SYNCS} times: average {average:.3} ms, p99 {p99:.3} ms"
        )
    }
}

fn measure_syncs(path: &Path) -> Result<Vec<Duration>> {
    let mut file = File::create(path)?;
    let record = [0x5a; SYNC_BYTES];
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(took)
}

/// Type and device of the file system that holds `path`, from `/proc/self/mountinfo`.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let mut kind = kind.split(' ');
        Some((point, kind.next()?, kind.next()?))
    });
    // The last of the longest: a mount hides what was mounted there before.
    let holding = mounts.filter(|(point, ..)| path.starts_with(point)).max_by_key(|(point, ..)| point.len());
    holding.map(|(_, kind, device)| format!("{kind} ({device})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_holds_a_path() {
        let mounts = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /tmp rw - tmpfs tmpfs rw
24 22 0:6 / /tmpfile rw - xfs /dev/vdb rw
";
        for (path, expected) in
            [("/home/x", "ext4 (/dev/vda)"), ("/tmp/x", "tmpfs (tmpfs)"), ("/tmpfile/x", "xfs (/dev/vdb)")]
        {
            assert_eq!(file_system(mounts, Path::new(path)).as_deref(), Some(expected), "{path}");
        }
    }
}
