//! The files of the log, and whether they are all there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use raft_log::chunked_wal::Config;
use raft_log::{ChunkId, RaftLog};

use crate::log::records::WalTypes;
use crate::marker;

const MAGIC: &[u8; 8] = b"HEARTHN\x01";

/// What is known of the newest chunk; a marker beside the log's directory.
pub(super) struct Newest {
    pub(super) path: PathBuf,
    /// The chunk, by where it begins in the log.
    pub(super) chunk: u64,
    /// An offset in the log up to which it is durable.
    pub(super) durable_end: u64,
}

impl Newest {
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let numbers = marker::read(path, MAGIC)?;
        Ok(numbers.map(|[chunk, durable_end]| Self { path: path.to_owned(), chunk, durable_end }))
    }

    /// Durably. Blocks for the disk.
    pub(super) fn write(&self) -> io::Result<()> {
        marker::write(&self.path, MAGIC, [self.chunk, self.durable_end])
    }
}

/// Makes everything in the log's files durable. Blocks for the disk.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    for path in chunks(dir)?.values() {
        File::open(path)?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

pub(super) fn newest_path(dir: &Path) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push("-newest");
    path.into()
}

/// The chunk files in `dir`, by where they begin in the log.
pub(super) fn chunks(dir: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut chunks = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Ok(begin) = Config::parse_chunk_file_name(&name) {
            chunks.insert(begin, path);
        }
    }
    Ok(chunks)
}

/// Whether the newest files of the log are there, before raft-log is let at them: it takes a log without
/// them for a shorter one, and cuts off what it cannot read of the last.
pub(super) fn check(dir: &Path, newest_path: &Path) -> io::Result<()> {
    let Some(Newest { chunk: newest, durable_end, .. }) = Newest::read(newest_path)? else {
        return Err(missing(format!("{} is missing", newest_path.display())));
    };
    let chunks = match chunks(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(missing("the directory is missing".to_owned()));
        }
        chunks => chunks?,
    };
    let Some((last, path)) = chunks.last_key_value() else {
        return Err(missing("there is no file in it".to_owned()));
    };
    let path_of = |begin| format!("{}/{}", dir.display(), Config::chunk_file_name(ChunkId(begin)));
    if *last < newest {
        return Err(missing(format!("{} is missing", path_of(newest))));
    }
    let bytes = fs::metadata(path)?.len();
    if *last == newest && newest + bytes < durable_end {
        let wanted = durable_end - newest;
        return Err(missing(format!(
            "{} ends at offset {bytes}, it was at least {wanted} bytes long",
            path.display()
        )));
    }
    Ok(())
}

/// Without its oldest files a log looks like one that was purged, but for the entry that should be first.
pub(super) fn check_first_entry(log: &RaftLog<WalTypes>) -> io::Result<()> {
    let state = log.log_state();
    let (purged, last) = (state.purged().map(|id| id.0.index), state.last().map(|id| id.0.index));
    let first = purged.map_or(0, |index| index + 1);
    let has_first = log.read(first, first + 1).next().transpose()?.is_some();
    match last {
        Some(last) if last >= first && !has_first => Err(missing(format!(
            "entry {first} to follow purged {purged:?} is missing, the last is {last}: a file is gone"
        ))),
        _ => Ok(()),
    }
}

fn missing(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
