//! Small files that are replaced as a whole: a crash leaves the old or the new one.
//!
//! A *marker* is a file of a few numbers that says what else must be on disk: without it a directory
//! that lacks a file would look like one that never had it. Layout: 7 bytes that name its kind, a format
//! byte, the numbers, and a checksum over all of it; numbers are little-endian.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the file at `path`, durably. Blocks for the disk.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Writes the marker at `path`, durably. Blocks for the disk.
pub(crate) fn write<const N: usize>(path: &Path, magic: &[u8; 8], numbers: [u64; N]) -> io::Result<()> {
    let mut bytes = magic.to_vec();
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    write_atomically(path, &bytes)
}

/// Reads the marker at `path`; `None` when there is none.
///
/// # Errors
/// `InvalidData` when it is not such a marker, or damaged; else what the file system says. Each names the path.
pub(crate) fn read<const N: usize>(path: &Path, magic: &[u8; 8]) -> io::Result<Option<[u64; N]>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    };
    parse(&bytes, magic).map(Some).ok_or_else(|| {
        let reason = format!("{}: it is damaged, or another version of Hearth wrote it", path.display());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

fn parse<const N: usize>(bytes: &[u8], magic: &[u8; 8]) -> Option<[u64; N]> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    let (found, numbers) = content.split_first_chunk::<8>()?;
    if found != magic || u32::from_le_bytes(*checksum) != crc32fast::hash(content) {
        return None;
    }
    let numbers: Vec<u64> = numbers
        .chunks(8)
        .map(|number| number.try_into().ok().map(u64::from_le_bytes))
        .collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MAGIC: &[u8; 8] = b"HEARTH?\x01";

    #[test]
    fn golden_bytes_and_every_flipped_bit_and_every_cut() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("marker");
        assert_eq!(read::<2>(&path, MAGIC).unwrap(), None);
        write(&path, MAGIC, [3, 258]).unwrap();
        assert_eq!(read(&path, MAGIC).unwrap(), Some([3, 258]));
        let good = fs::read(&path).unwrap();
        assert_eq!(good[..24], *b"HEARTH?\x01\x03\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0");
        assert_eq!(good[24..], crc32fast::hash(&good[..24]).to_le_bytes());
        assert!(read::<2>(&path, b"HEARTH!\x01").is_err());
        let error = read::<2>(dir.path(), MAGIC).unwrap_err().to_string();
        assert!(error.starts_with(&dir.path().display().to_string()), "{error}");
        assert!(read::<1>(&path, MAGIC).is_err());
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [&good[..at], &flipped] {
                fs::write(&path, bytes).unwrap();
                let error = read::<2>(&path, MAGIC).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().contains("marker: it is damaged"), "{error}");
            }
        }
    }
}
