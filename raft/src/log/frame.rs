//! How records lie in a file: frames, in sectors that show whether they were written.
//!
//! A *frame* is what one write carries, and one fdatasync makes durable. At most one is on its way to the
//! disk, so a crash can leave at most one frame in part, the last; a disk writes whole sectors of 512
//! bytes, in any order. Everything behind the last frame is zeros, as far as the file was filled with them.
//!
//! ```text
//! byte 0        format byte, 1
//! byte 1..8     number of the frame, counted from the log's first
//! byte 8..12    bytes from the frame's begin to the end of its last record
//! byte 12..16   CRC-32 of the bytes before, begun with the salt of the file
//! byte 16..     records; where a sector begins, one byte that is always 0xa7 stands between their bytes
//! ```
//!
//! Numbers are little-endian. A frame begins at a multiple of 16 bytes, so that its header lies in one
//! sector; the bytes before it are zeros. The byte 0xa7, or the format byte, makes the first byte of a
//! frame in each of its sectors another one than zero. That is how a *torn* frame, one that a crash cut
//! short, is told from a *damaged* one, whatever the values in it are: a part of a torn one is missing
//! as a whole, and reads as zeros. The idea of looking for such sectors is etcd's (`server/storage/wal`,
//! `isTornEntry`), which cannot tell them from values of zeros.
//!
//! The salt is drawn for each file: blocks of another file, or a value made to look like a frame, are
//! not taken for one.

use std::io;

use crate::codec::FORMAT_V1;

/// What a disk writes as a whole, in bytes; disks of 4 KiB sectors do so all the more.
pub(super) const SECTOR_BYTES: u64 = SECTOR_LEN as u64;
pub(super) const SECTOR_LEN: usize = 512;
pub(super) const HEADER_BYTES: usize = 16;
/// What each sector of a frame begins with.
pub(super) const TAG: u8 = 0xa7;
const ALIGN_BYTES: u64 = 16;

/// Where the next frame may begin, at `offset` or behind it.
pub(super) fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN_BYTES)
}

/// Bytes from `offset` to the end of its sector.
fn room(offset: u64) -> u64 {
    SECTOR_BYTES - offset % SECTOR_BYTES
}

/// Where `len` bytes of records end that begin at `offset`.
pub(super) fn end_of(offset: u64, len: u64) -> u64 {
    let untagged = |offset: u64| if offset.is_multiple_of(SECTOR_BYTES) { offset + 1 } else { offset };
    if len == 0 {
        return offset;
    }
    let begin = untagged(offset);
    let first = room(begin);
    if len <= first {
        return begin + len;
    }
    let rest = len - first;
    let whole = (rest - 1) / (SECTOR_BYTES - 1);
    begin + first + whole * SECTOR_BYTES + 1 + (rest - whole * (SECTOR_BYTES - 1))
}

/// Appends the bytes of records in `bytes`, which lie at `offset` of their file, to `out`.
///
/// # Errors
/// The offset of a sector that does not begin as it should.
pub(super) fn untagged(offset: u64, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), u64> {
    let mut offset = offset;
    while !bytes.is_empty() {
        if offset.is_multiple_of(SECTOR_BYTES) {
            let (tag, rest) = (bytes[0], &bytes[1..]);
            if tag != TAG {
                return Err(offset);
            }
            (offset, bytes) = (offset + 1, rest);
        }
        let len = bytes.len().min(usize::try_from(room(offset)).unwrap_or(usize::MAX));
        let (piece, rest) = bytes.split_at(len);
        out.extend_from_slice(piece);
        (offset, bytes) = (offset + len as u64, rest);
    }
    Ok(())
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The frame's number in the log, below 2^56.
    pub(super) number: u64,
    /// Bytes from the frame's begin to the end of its last record.
    pub(super) extent_bytes: u32,
}

impl Header {
    pub(super) fn encode(self, salt: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&(self.number << 8 | u64::from(FORMAT_V1)).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.extent_bytes.to_le_bytes());
        let checksum = checksum(salt, &bytes[..12]);
        bytes[12..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` when this is no header of a frame in the file with that salt.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], salt: u32) -> Option<Self> {
        let [format, n0, n1, n2, n3, n4, n5, n6, e0, e1, e2, e3, c0, c1, c2, c3] = *bytes;
        let known =
            format == FORMAT_V1 && u32::from_le_bytes([c0, c1, c2, c3]) == checksum(salt, &bytes[..12]);
        known.then(|| Self {
            number: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, 0]),
            extent_bytes: u32::from_le_bytes([e0, e1, e2, e3]),
        })
    }
}

fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// A frame that is being filled with records.
#[derive(Debug)]
pub(super) struct Frame {
    /// Where `bytes` are to be written in the file.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// Where the header stands in `bytes`.
    header_at: usize,
}

impl Frame {
    /// A frame at `offset`, behind `preamble` if the file begins with something else.
    pub(super) fn begin(offset: u64, preamble: &[u8], mut memory: Vec<u8>) -> Self {
        memory.clear();
        memory.extend_from_slice(preamble);
        memory.resize(preamble.len() + HEADER_BYTES, 0);
        Self { offset, bytes: memory, header_at: preamble.len() }
    }

    /// The offset in the file at which the next record will begin.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Appends a piece of a record.
    pub(super) fn put(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let end = self.end();
            if end.is_multiple_of(SECTOR_BYTES) {
                self.bytes.push(TAG);
                continue;
            }
            let len = piece.len().min(usize::try_from(room(end)).unwrap_or(usize::MAX));
            let (now, later) = piece.split_at(len);
            self.bytes.extend_from_slice(now);
            piece = later;
        }
    }

    /// Writes the header: nothing can be appended any more.
    ///
    /// # Errors
    /// When the frame is longer than 4 GiB.
    pub(super) fn seal(&mut self, number: u64, salt: u32) -> io::Result<()> {
        let extent_bytes = u32::try_from(self.bytes.len() - self.header_at)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "log: a frame of more than 4 GiB"))?;
        let header = Header { number, extent_bytes }.encode(salt);
        self.bytes[self.header_at..self.header_at + HEADER_BYTES].copy_from_slice(&header);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let header = Header { number: 0x0102, extent_bytes: 0x0304 };
        let bytes = header.encode(7);
        assert_eq!(bytes[..12], [1, 2, 1, 0, 0, 0, 0, 0, 4, 3, 0, 0]);
        assert_eq!(bytes[12..], checksum(7, &bytes[..12]).to_le_bytes());
        assert_eq!(Header::decode(&bytes, 7), Some(header));
        assert_eq!(Header::decode(&bytes, 8), None);
        assert_eq!(
            crc32fast::hash(b"ab"),
            checksum(crc32fast::hash(b"a"), b"b"),
            "a salt is what was before"
        );
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let good = Header { number: 77, extent_bytes: 4096 }.encode(1);
        for at in 0..HEADER_BYTES * 8 {
            let mut bytes = good;
            bytes[at / 8] ^= 1 << (at % 8);
            assert_eq!(Header::decode(&bytes, 1), None, "bit {at}");
        }
    }

    /// Pieces of every length around a sector's, from every place in one.
    #[test]
    fn what_is_put_comes_back_and_each_sector_is_tagged() {
        let data: Vec<u8> = (0..3000u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for begin in (0..SECTOR_BYTES).step_by(16) {
            for len in [0, 1, 15, 16, 480, 495, 496, 497, 511, 512, 513, 1022, 1023, 1024, 3000] {
                let mut frame = Frame::begin(begin, &[], Vec::new());
                let at = frame.end();
                for piece in data[..len].chunks(97) {
                    frame.put(piece);
                }
                let end = frame.end();
                assert_eq!(end, end_of(at, len as u64), "{len} bytes at {at}");
                let mut out = Vec::new();
                untagged(at, &frame.bytes[HEADER_BYTES..], &mut out).unwrap();
                assert_eq!(out, data[..len]);
                for sector in (at.next_multiple_of(SECTOR_BYTES)..end).step_by(512) {
                    assert_eq!(frame.bytes[usize::try_from(sector - begin).unwrap()], TAG);
                }
            }
        }
        assert_eq!(untagged(510, &[1, 2, 3], &mut Vec::new()), Err(512));
    }
}
