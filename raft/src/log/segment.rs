//! The files of the log.
//!
//! ```text
//! byte 0..8     what this is: "HEARTHW", and the format byte 1
//! byte 8..12    number of the file, counted from 1; also its name
//! byte 12..16   salt, drawn at random
//! byte 16..20   CRC-32 of the bytes before
//! byte 20..32   zeros
//! byte 32..     frames, of which the first begins with the record of what was before
//! ```
//!
//! Numbers are little-endian.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"HEARTHW\x01";
pub(super) const PREAMBLE_BYTES: usize = 32;

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) number: u32,
    pub(super) salt: u32,
}

impl Preamble {
    pub(super) fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..16]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let preamble = Self { number: number(8), salt: number(12) };
        (preamble.encode() == *bytes).then_some(preamble)
    }
}

/// A file of the log. Cheap to clone; what a clone reads stays readable when the file is removed.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) path: Arc<PathBuf>,
    pub(super) file: Arc<File>,
    /// Bytes of the file, with those it was filled with ahead.
    pub(super) bytes: u64,
    /// Where its last frame ends.
    pub(super) end: u64,
    /// The highest index of an entry in it.
    pub(super) last_index: Option<u64>,
}

impl Segment {
    pub(super) fn create(dir: &Path, number: u32) -> io::Result<Self> {
        let path = path(dir, number);
        // What an earlier try has left is not in use: the marker does not name it.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file =
            file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self { number, path: path.into(), file: file.into(), bytes: 0, end: 0, last_index: None })
    }

    pub(super) fn open(number: u32, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { number, path: path.into(), file: file.into(), bytes, end: 0, last_index: None })
    }

    /// `error` with its place.
    pub(super) fn named(&self, offset: u64, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{} at offset {offset}: {error}", self.path.display()))
    }

    pub(super) fn damaged(&self, offset: u64, reason: &str) -> io::Error {
        self.named(offset, &io::Error::new(io::ErrorKind::InvalidData, reason))
    }
}

pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.wal"))
}

/// The files in `dir`, by number.
pub(super) fn files(dir: &Path) -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let found = entry?.path();
        let number = found.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number
            && found == path(dir, number)
        {
            files.insert(number, found);
        }
    }
    Ok(files)
}

/// Makes everything in the log's files durable. Blocks for the disk.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    for path in files(dir)?.values() {
        File::open(path)?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_flipped_bit() {
        let preamble = Preamble { number: 258, salt: 7 };
        let good = preamble.encode();
        assert_eq!(good[..16], *b"HEARTHW\x01\x02\x01\0\0\x07\0\0\0");
        assert_eq!(good[16..20], crc32fast::hash(&good[..16]).to_le_bytes());
        assert_eq!(good[20..], [0; 12]);
        assert_eq!(Preamble::decode(&good), Some(preamble));
        for at in 0..good.len() * 8 {
            let mut bytes = good;
            bytes[at / 8] ^= 1 << (at % 8);
            assert_eq!(Preamble::decode(&bytes), None, "bit {at}");
        }
    }

    #[test]
    fn only_files_of_the_log_count() {
        let dir = tempfile::TempDir::new().unwrap();
        for name in ["00000002.wal", "00000010.wal", "2.wal", "00000003.new", "x.wal", "100000000.wal"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let numbers: Vec<u32> = files(dir.path()).unwrap().into_keys().collect();
        assert_eq!(numbers, [2, 10, 100_000_000]);
    }
}
