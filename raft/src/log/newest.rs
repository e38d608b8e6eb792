//! Which of the log's files is the newest: a marker beside its directory. Without its newest file a log only
//! looks shorter than it was.

use std::io;
use std::path::{Path, PathBuf};

use crate::marker;

/// Format 1 was of logs of another layout.
const MAGIC: &[u8; 8] = b"HEARTHN\x02";

/// What is known of the newest file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) segment: u32,
    /// An offset in it up to which it is durable.
    pub(super) durable_end: u64,
}

impl Newest {
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some([segment, durable_end]) = marker::read(path, MAGIC)? else { return Ok(None) };
        let segment = u32::try_from(segment).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })?;
        Ok(Some(Self { segment, durable_end }))
    }

    /// Durably. Blocks for the disk.
    pub(super) fn write(self, path: &Path) -> io::Result<()> {
        marker::write(path, MAGIC, [u64::from(self.segment), self.durable_end])
    }
}

pub(super) fn path(dir: &Path) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push("-newest");
    path.into()
}
