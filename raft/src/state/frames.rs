//! Frames of a file or stream: length:u32, crc32:u32 (both little-endian), body.

use std::io::{self, Read, Write};

use crate::codec::RECORD_BYTES_MAX;

/// Writes the frame of a body that is given in parts.
pub(super) fn write(out: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let mut checksum = crc32fast::Hasher::new();
    let mut bytes = 0;
    for part in parts {
        checksum.update(part);
        bytes += part.len();
    }
    let len = u32::try_from(bytes).map_err(|_| damaged(0, "a record is longer than 4 GiB"))?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(&checksum.finalize().to_le_bytes())?;
    parts.iter().try_for_each(|part| out.write_all(part))
}

/// Bytes that the frame of a body takes.
pub(super) fn bytes(body: &[u8]) -> u64 {
    8 + body.len() as u64
}

/// Reads the body of the frame at `offset`.
///
/// # Errors
/// `InvalidData` naming the offset when the frame is damaged, too long or cut off.
pub(super) fn read(input: &mut impl Read, offset: u64) -> io::Result<Vec<u8>> {
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(offset, "it ends too early"),
        _ => error,
    };
    let mut header = [0; 8];
    input.read_exact(&mut header).map_err(cut)?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    if u64::from(len) > RECORD_BYTES_MAX {
        return Err(damaged(offset, "a record longer than any"));
    }
    let mut body = vec![0; len as usize];
    input.read_exact(&mut body).map_err(cut)?;
    if crc32fast::hash(&body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(damaged(offset, "checksum does not match"));
    }
    Ok(body)
}

/// Something is wrong at `offset`.
pub(super) fn damaged(offset: u64, reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("offset {offset}: {reason}"))
}
