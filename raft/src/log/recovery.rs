//! What the files of the log say, read at the start; and whether they are all there and whole.
//!
//! Nothing is changed before everything was read: a log that is refused is left as it is.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::entries::{Entries, Position};
use super::frame::{self, HEADER_BYTES, Header, SECTOR_BYTES, SECTOR_LEN, TAG};
use super::newest::Newest;
use super::records::{self, BeforeV1, HardState, Record};
use super::segment::{self, PREAMBLE_BYTES, Preamble, Segment};

/// Memory for reading a file, beside that for its largest frame.
const BUFFER_BYTES: usize = 256 << 10;

/// A log as it was found.
pub(super) struct Recovered {
    pub(super) hard: HardState,
    pub(super) entries: Entries,
    /// Oldest first, without a gap.
    pub(super) segments: VecDeque<Segment>,
    /// The last of them.
    pub(super) newest: Segment,
    pub(super) salt: u32,
    /// The last frame's number.
    pub(super) number: u64,
}

/// Reads the log in `dir` and cuts off what a crash left of the last write. The caller makes that durable.
///
/// # Errors
/// `InvalidData` when a file is missing or damaged; else what the file system says.
pub(super) fn recover(dir: &Path, newest_path: &Path, memory_bytes: u64) -> io::Result<Recovered> {
    let Some(newest) = Newest::read(newest_path)? else {
        return Err(invalid(format!("{} is missing", newest_path.display())));
    };
    let files = match segment::files(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(invalid("the directory is missing".to_owned()));
        }
        files => files?,
    };
    let Some(last) = files.keys().next_back().copied() else {
        return Err(invalid("there is no file in it".to_owned()));
    };
    if last < newest.segment {
        return Err(invalid(format!("{} is missing", segment::path(dir, newest.segment).display())));
    }
    // Files before a gap were purged, and a crash undid the removal of some: else an entry is missing below.
    let first = files.keys().rev().zip((0..=last).rev()).take_while(|(file, number)| *file == number);
    let first = first.last().map_or(last, |(file, _)| *file);

    let mut replay = Replay { hard: HardState::default(), entries: Entries::new(memory_bytes), number: None };
    replay.entries.written(Position { segment: u32::MAX, offset: u64::MAX });
    let mut segments = VecDeque::new();
    let mut unused = Vec::new();
    let (mut salt, mut torn) = (0, None);
    for (number, path) in &files {
        if *number < first {
            unused.push(path.clone());
            continue;
        }
        let mut segment = Segment::open(*number, path.clone())?;
        let durable_end = if *number == newest.segment { newest.durable_end } else { 0 };
        if segment.bytes < durable_end {
            let found = segment.bytes;
            return Err(segment.damaged(
                0,
                &format!("it ends at offset {found}, it was at least {durable_end} bytes long"),
            ));
        }
        let scanned = replay.scan(&mut segment, *number == last)?;
        if scanned.end < durable_end {
            let reason = format!("the log ends here, it was at least {durable_end} bytes long");
            return Err(segment.damaged(scanned.end, &reason));
        }
        // A crash may come before anything in a new file is durable, and only then is the marker behind.
        if scanned.is_empty && *number > newest.segment {
            unused.push(path.clone());
            continue;
        }
        if scanned.is_empty {
            return Err(segment.damaged(PREAMBLE_BYTES as u64, "nothing is in it"));
        }
        salt = scanned.salt;
        segment.end = scanned.end;
        torn = scanned.torn_end.map(|torn_end| (segment.clone(), scanned.end, torn_end));
        segments.push_back(segment);
    }
    let first = replay.entries.first();
    if replay.hard.purged.map_or(0, |purged| purged.index + 1) < first {
        let purged = replay.hard.purged.map(|purged| purged.index);
        return Err(invalid(format!(
            "entries up to {} to follow purged {purged:?} are missing: a file is gone",
            first - 1
        )));
    }
    let (Some(number), Some(newest)) = (replay.number, segments.back().cloned()) else {
        return Err(invalid("there is nothing in its files".to_owned()));
    };

    if let Some((segment, from, to)) = torn {
        tracing::warn!(
            file = %segment.path.display(), offset = from, "the last write was cut short by a crash: it is cut off"
        );
        zero(&segment.file, from, to)?;
    }
    for path in unused {
        fs::remove_file(path)?;
    }
    let mut entries = replay.entries;
    entries.written(Position { segment: newest.number, offset: newest.end });
    Ok(Recovered { hard: replay.hard, entries, segments, newest, salt, number })
}

/// Overwrites what is left of a torn frame: the next one must find zeros. Not durable yet.
fn zero(file: &File, from: u64, to: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(len).unwrap_or(ZEROS.len())], at)?;
        at += len;
    }
    Ok(())
}

/// What was read so far.
struct Replay {
    hard: HardState,
    entries: Entries,
    /// The last frame's number.
    number: Option<u64>,
}

/// What a file held.
struct Scanned {
    salt: u32,
    /// Where its last frame ends.
    end: u64,
    /// Whether there is no frame in it.
    is_empty: bool,
    /// Where the rest of a torn frame ends.
    torn_end: Option<u64>,
}

impl Replay {
    /// Reads the file. Only in the newest one may the end be torn.
    fn scan(&mut self, segment: &mut Segment, newest: bool) -> io::Result<Scanned> {
        let file = Arc::clone(&segment.file);
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, &*file);
        let mut preamble = [0; PREAMBLE_BYTES];
        fill(&mut reader, &mut preamble)?;
        let Some(Preamble { number, salt }) = Preamble::decode(&preamble) else {
            // Its first write was torn.
            if newest && (preamble == [0; PREAMBLE_BYTES] || segment.bytes < PREAMBLE_BYTES as u64) {
                return Ok(Scanned { salt: 0, end: 0, is_empty: true, torn_end: None });
            }
            let reason = "it does not begin as a file of the log, or another version of Hearth wrote it";
            return Err(segment.damaged(0, reason));
        };
        if number != segment.number {
            return Err(segment.damaged(0, &format!("this is file {number} of the log, renamed")));
        }
        let mut end = PREAMBLE_BYTES as u64;
        let mut is_empty = true;
        let mut bytes = Vec::new();
        let torn_end = loop {
            let at = frame::aligned(end);
            let mut padding = [0; SECTOR_LEN];
            let padding = &mut padding[..usize::try_from(at - end).unwrap_or(0)];
            fill(&mut reader, padding)?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err(segment.damaged(end, "there is something behind a frame"));
            }
            let mut header = [0; HEADER_BYTES];
            fill(&mut reader, &mut header)?;
            let next = Next { number: self.number.map_or(0, |number| number + 1), salt };
            let Some(found) = Header::decode(&header, salt) else {
                let torn = if header == [0; HEADER_BYTES] || segment.bytes < at + HEADER_BYTES as u64 {
                    without_header(segment, at, next)?
                } else {
                    // It lies in one sector: a crash leaves all of it or nothing.
                    return Err(segment.damaged(at, "the checksum of a frame's header does not match"));
                };
                if !newest && torn.is_some() {
                    return Err(segment.damaged(at, "a frame has no header"));
                }
                break torn;
            };
            if let Some(before) = self.number
                && found.number != next.number
            {
                let reason =
                    format!("frame {} follows frame {before}: what was between them is gone", found.number);
                return Err(segment.damaged(at, &reason));
            }
            let body = usize::try_from(found.extent_bytes).unwrap_or(usize::MAX).saturating_sub(HEADER_BYTES);
            bytes.clear();
            bytes.resize(body, 0);
            fill(&mut reader, &mut bytes)?;
            let place = Position { segment: segment.number, offset: at + HEADER_BYTES as u64 };
            let frame_end = place.offset + body as u64;
            match read(segment, place, &bytes) {
                Ok(records) => self.apply(segment, is_empty, records)?,
                Err(damage) if newest => break Some(cut_short(segment, at, frame_end, damage)?),
                Err(damage) => return Err(damage),
            }
            self.number = Some(found.number);
            (end, is_empty) = (frame_end, false);
        };
        Ok(Scanned { salt, end, is_empty, torn_end })
    }

    /// Takes the records of a frame over; `first` says whether it is the first in its file.
    fn apply(&mut self, segment: &mut Segment, first: bool, records: Vec<Found>) -> io::Result<()> {
        let mut begins = first;
        for Found { record, place, len } in records {
            if begins != matches!(record, Record::Before(_)) {
                return Err(
                    segment.damaged(place.offset, "what was before the file stands at the wrong place")
                );
            }
            begins = false;
            match record {
                Record::Before(before) => {
                    self.begin(before).map_err(|reason| segment.damaged(place.offset, &reason))?;
                }
                Record::Entry(entry) => {
                    segment.last_index = segment.last_index.max(Some(entry.log_id.index));
                    self.entries
                        .push(entry, place, len)
                        .map_err(|error| segment.damaged(place.offset, &error.to_string()))?;
                }
                Record::Vote(vote) => self.hard.vote = Some(vote),
                Record::Committed(committed) => self.hard.committed = Some(committed),
                Record::Truncated(from) => self.entries.truncate(from),
                Record::Purged(purged) => {
                    self.hard.purged = Some(purged);
                    self.entries.purge(purged.index);
                }
            }
        }
        Ok(())
    }

    /// Where a file begins: it says the same as those before it came to, or it is the first.
    fn begin(&mut self, before: BeforeV1) -> Result<(), String> {
        let BeforeV1 { vote, committed, purged, last } = before;
        let next = last.map_or(0, |last| last.index + 1);
        if self.number.is_none() {
            self.entries.reset(next);
        } else if (self.hard.vote, self.hard.purged, self.entries.next()) != (vote, purged, next) {
            return Err(format!(
                "the files before it came to {:?} and entry {}, it says to {before:?}",
                self.hard,
                self.entries.next()
            ));
        }
        self.hard = HardState { vote, committed, purged };
        Ok(())
    }
}

/// A record and where it lies.
struct Found {
    record: Record,
    place: Position,
    /// Bytes of records.
    len: u32,
}

/// The records of a frame whose `bytes` lie at `place`.
fn read(segment: &Segment, place: Position, bytes: &[u8]) -> io::Result<Vec<Found>> {
    let mut flat = Vec::with_capacity(bytes.len());
    frame::untagged(place.offset, bytes, &mut flat)
        .map_err(|at| segment.damaged(at, "a sector does not begin as it should"))?;
    let mut found = Vec::new();
    let mut at = 0;
    while at < flat.len() {
        let place = Position { offset: frame::end_of(place.offset, at as u64), ..place };
        let (record, len) =
            records::read(&flat[at..]).map_err(|error| segment.named(place.offset, &error))?;
        found.push(Found { record, place, len: u32::try_from(len).map_err(io::Error::other)? });
        at += len;
    }
    Ok(found)
}

/// The frame that would come next.
#[derive(Clone, Copy)]
struct Next {
    number: u64,
    salt: u32,
}

/// What is in the file from `at` on, up to the last byte that is not zero.
fn rest(segment: &Segment, at: u64) -> io::Result<Vec<u8>> {
    let mut file = &*segment.file;
    file.seek(SeekFrom::Start(at))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    rest.truncate(rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok(rest)
}

/// Judges what follows the last frame when there is no header at `at`: nothing, or what is left of a frame of
/// which the first sector is missing. Answers where that ends.
fn without_header(segment: &Segment, at: u64, next: Next) -> io::Result<Option<u64>> {
    let rest = rest(segment, at)?;
    if rest.is_empty() {
        return Ok(None);
    }
    let written_end = at + rest.len() as u64;
    // Else the file ends within the header.
    if rest.len() >= HEADER_BYTES {
        let first = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).unwrap_or(0).min(rest.len());
        let (begin, sectors) = rest.split_at(first);
        let torn = begin.iter().all(|byte| *byte == 0)
            && sectors
                .chunks(SECTOR_LEN)
                .all(|sector| sector[0] == TAG || sector.iter().all(|byte| *byte == 0));
        if !torn {
            return Err(segment.damaged(at, "there is something behind the end of the log"));
        }
    }
    // It was the last one, else this is no crash: one that was durable is gone.
    let follows = rest.windows(HEADER_BYTES).step_by(16).any(|bytes| {
        let header = bytes.try_into().ok().and_then(|bytes| Header::decode(bytes, next.salt));
        header.is_some_and(|header| header.number >= next.number)
    });
    if follows {
        return Err(segment.damaged(at, "a frame is gone"));
    }
    Ok(Some(written_end))
}

/// Judges a frame from `at` to `end` that has a header and is not whole: torn, or `damage`. Answers where
/// what is left of a torn one ends.
fn cut_short(segment: &Segment, at: u64, end: u64, damage: io::Error) -> io::Result<u64> {
    let rest = rest(segment, at)?;
    let written_end = at + rest.len() as u64;
    let mut missing = false;
    let mut begin = at;
    while begin < end {
        let next = ((begin / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        let within = |offset: u64| usize::try_from(offset - at).unwrap_or(usize::MAX).min(rest.len());
        let piece = &rest[within(begin)..within(next)];
        if piece.iter().all(|byte| *byte == 0) || segment.bytes < next {
            missing = true;
        } else if begin != at && piece[0] != TAG {
            return Err(damage);
        }
        begin = next;
    }
    // All of it is there, or something follows: it was durable.
    if missing && written_end <= end { Ok(written_end) } else { Err(damage) }
}

/// Reads until `bytes` are full; zeros behind the file's end.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match reader.read(&mut bytes[at..]) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[at..].fill(0);
    Ok(())
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
