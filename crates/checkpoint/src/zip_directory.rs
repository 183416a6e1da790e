//! The directories of zip archives: where each record is. torch.save and NumPy write such archives.
//!
//! Only the directory at the end is trusted, because sizes may be recorded nowhere else. Nothing is unpacked here, and
//! no name is ever used as a path. An archive may be a part of a file.

use std::collections::BTreeMap;
use std::ops::Range;

use thalweg_storage::ReadAt;
use thalweg_tensor::display_name;

/// The longest directory that is read, in bytes: room for half a million records.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
/// The fixed part of the record that ends an archive.
const END_BYTES: usize = 22;
/// The record that ends an archive, and the longest comment after it.
const MAX_END_BYTES: u64 = END_BYTES as u64 + 0xffff;
/// Bytes of the end that are read first: room for its 32-bit and 64-bit forms.
const SHORT_END_BYTES: u64 = 256;

/// Why a zip archive is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZipError {
    /// No directory at the end: the file is truncated.
    #[error("the file has no zip directory at its end: it is truncated, or its save has not finished")]
    NoEnd,
    /// The directory contradicts itself or the file.
    #[error("the zip directory is broken: {reason}")]
    Directory {
        /// What is wrong.
        reason: &'static str,
    },
    /// A directory beyond the limit.
    #[error("the zip directory has {found_bytes} bytes, more than the limit of {limit_bytes}")]
    DirectoryTooLong {
        /// What the end says.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A name appears twice.
    #[error("record `{}` appears twice in the archive", display_name(name))]
    DuplicateRecord {
        /// The name.
        name: String,
    },
    /// A record that is not as torch.save writes it.
    #[error("record `{}` {reason}", display_name(name))]
    Record {
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The storage failed.
    #[error("it cannot be read: {message}")]
    Read {
        /// What the storage says.
        message: String,
    },
}

/// A record of an archive as its directory states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZipRecord {
    pub(crate) header_offset: u64,
    pub(crate) len_bytes: u64,
    pub(crate) packed_bytes: u64,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) crc: u32,
    /// Where the directory holds the sum, from the start of the directory.
    pub(crate) crc_place: u64,
}

impl ZipRecord {
    /// The flag of an encrypted record.
    pub(crate) const ENCRYPTED: u16 = 1;
}

/// The directory of an archive.
#[derive(Debug)]
pub(crate) struct ZipDirectory {
    /// The records by name.
    pub(crate) records: BTreeMap<Box<str>, ZipRecord>,
    /// The bytes of the file that hold the archive, up to its directory.
    pub(crate) window: Range<u64>,
}

impl ZipDirectory {
    /// Reads the directory of the archive in these bytes of a file.
    pub(crate) fn open(file: &dyn ReadAt, window: Range<u64>) -> Result<Self, ZipError> {
        let end = find_end(file, &window)?;
        if end.len_bytes > MAX_DIRECTORY_BYTES {
            let (found_bytes, limit_bytes) = (end.len_bytes, MAX_DIRECTORY_BYTES);
            return Err(ZipError::DirectoryTooLong { found_bytes, limit_bytes });
        }
        let bytes = read_at(file, window.start + end.offset, end.len_bytes).map_err(refuse_reading)?;
        let records = parse_directory(&bytes, end.n_records, end.offset)?;
        Ok(Self { records, window: window.start..window.start + end.offset })
    }

    /// The bytes of the file that hold a record as it is stored, packed or not.
    pub(crate) fn locate(&self, file: &dyn ReadAt, name: &str, record: &ZipRecord) -> Result<Range<u64>, ZipError> {
        /// The fixed part of the header before a record.
        const HEADER_BYTES: u64 = 30;
        let fail = |reason: String| ZipError::Record { name: name.to_owned(), reason };
        if record.flags & ZipRecord::ENCRYPTED != 0 {
            return Err(fail("is encrypted".to_owned()));
        }
        let past_end = || fail("reaches past the end of the archive".to_owned());
        let header_start = self.window.start.checked_add(record.header_offset).ok_or_else(past_end)?;
        let name_start = header_start.checked_add(HEADER_BYTES).filter(|end| *end <= self.window.end);
        let header = read_at(file, header_start, HEADER_BYTES.min(name_start.ok_or_else(past_end)? - header_start));
        let header = header.map_err(refuse_reading)?;
        if !header.starts_with(b"PK\x03\x04") || u64::from(u16_at(&header, 26)) != name.len() as u64 {
            return Err(fail("has a header that differs from the directory".to_owned()));
        }
        let n_before = HEADER_BYTES + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let start = header_start.checked_add(n_before).ok_or_else(past_end)?;
        let end = start.checked_add(record.packed_bytes).filter(|end| *end <= self.window.end).ok_or_else(past_end)?;
        Ok(start..end)
    }
}

/// Reads `n_bytes` bytes of a file from `offset` on. The caller knows that the file has them.
pub(crate) fn read_at(file: &dyn ReadAt, offset: u64, n_bytes: u64) -> Result<Vec<u8>, thalweg_storage::Error> {
    let mut bytes = vec![0; usize::try_from(n_bytes).unwrap_or(usize::MAX)];
    file.read_exact_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// What the end of an archive says of its directory; the offset counts from the start of the archive.
struct End {
    offset: u64,
    len_bytes: u64,
    n_records: u64,
}

pub(crate) fn refuse_reading(error: thalweg_storage::Error) -> ZipError {
    ZipError::Read { message: error.to_string() }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn find_end(file: &dyn ReadAt, window: &Range<u64>) -> Result<End, ZipError> {
    const BROKEN: ZipError = ZipError::Directory { reason: "its offset lies outside the file" };
    let len_bytes = window.end.saturating_sub(window.start);
    // torch.save writes no comment after the end, and a distributed checkpoint has an archive for each chunk: a short
    // read is enough for most.
    let mut found = None;
    for tail_bytes in [len_bytes.min(SHORT_END_BYTES), len_bytes.min(MAX_END_BYTES)] {
        let tail_start = len_bytes - tail_bytes;
        let tail = read_at(file, window.start + tail_start, tail_bytes).map_err(refuse_reading)?;
        // The comment after the record must end where the archive does: a signature inside a comment does not count.
        let is_end = |at: usize| {
            tail[at..].starts_with(b"PK\x05\x06") && at + END_BYTES + usize::from(u16_at(&tail, at + 20)) == tail.len()
        };
        let last = tail.len().checked_sub(END_BYTES).ok_or(ZipError::NoEnd)?;
        if let Some(at) = (0..=last).rev().find(|at| is_end(*at)) {
            found = Some((tail[at..].to_vec(), tail_start + at as u64));
            break;
        }
    }
    let (record, end_offset) = found.ok_or(ZipError::NoEnd)?;
    let record = &*record;
    if u16_at(record, 4) != u16_at(record, 6) || u16_at(record, 8) != u16_at(record, 10) {
        return Err(ZipError::Directory { reason: "it is spread over several disks" });
    }
    let small = End {
        offset: u32_at(record, 16).into(),
        len_bytes: u32_at(record, 12).into(),
        n_records: u16_at(record, 10).into(),
    };
    let is_full = small.offset == 0xffff_ffff || small.len_bytes == 0xffff_ffff || small.n_records == 0xffff;
    let (end, end_offset) = match find_large_end(file, window, end_offset)? {
        Some((large, large_offset)) => (large, large_offset),
        None if is_full => return Err(BROKEN),
        None => (small, end_offset),
    };
    // The directory ends where its end record begins; a gap means bytes before the archive, or a wrong offset.
    if end.offset.checked_add(end.len_bytes) != Some(end_offset) {
        return Err(BROKEN);
    }
    Ok(end)
}

/// The 64-bit end record of an archive, and where it begins.
fn find_large_end(file: &dyn ReadAt, window: &Range<u64>, small_offset: u64) -> Result<Option<(End, u64)>, ZipError> {
    const LOCATOR_BYTES: u64 = 20;
    const LARGE_BYTES: u64 = 56;
    const BROKEN: ZipError = ZipError::Directory { reason: "its 64-bit end record does not fit the file" };
    let Some(locator_offset) = small_offset.checked_sub(LOCATOR_BYTES) else {
        return Ok(None);
    };
    let locator = read_at(file, window.start + locator_offset, LOCATOR_BYTES).map_err(refuse_reading)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let offset = u64_at(&locator, 8);
    if offset.checked_add(LARGE_BYTES) != Some(locator_offset) {
        return Err(BROKEN);
    }
    let record = read_at(file, window.start + offset, LARGE_BYTES).map_err(refuse_reading)?;
    if !record.starts_with(b"PK\x06\x06") || u64_at(&record, 24) != u64_at(&record, 32) {
        return Err(BROKEN);
    }
    let end = End { offset: u64_at(&record, 48), len_bytes: u64_at(&record, 40), n_records: u64_at(&record, 32) };
    Ok(Some((end, offset)))
}

/// Reads the entries of a directory, which must fill its bytes exactly.
fn parse_directory(
    bytes: &[u8],
    n_records: u64,
    directory_offset: u64,
) -> Result<BTreeMap<Box<str>, ZipRecord>, ZipError> {
    const ENTRY_BYTES: usize = 46;
    let fail = |reason| ZipError::Directory { reason };
    let mut records = BTreeMap::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if rest.len() < ENTRY_BYTES || !rest.starts_with(b"PK\x01\x02") {
            return Err(fail("an entry does not begin where the one before it ends"));
        }
        let (entry, after) = rest.split_at(ENTRY_BYTES);
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(entry, at)));
        let [n_name, n_extra, n_comment] = lengths;
        if after.len() < n_name + n_extra + n_comment {
            return Err(fail("an entry reaches past its end"));
        }
        let name = std::str::from_utf8(&after[..n_name]).map_err(|_| fail("a name is not UTF-8"))?;
        let crc_place = (bytes.len() - rest.len() + 16) as u64;
        let record = parse_entry(entry, &after[n_name..n_name + n_extra], crc_place);
        let record = record.ok_or(fail("an entry has no 64-bit size"))?;
        let is_inside = |record: &ZipRecord| {
            record.header_offset.checked_add(record.packed_bytes).is_some_and(|end| end <= directory_offset)
        };
        if !is_inside(&record) {
            let reason = "reaches past the end of the archive".to_owned();
            return Err(ZipError::Record { name: name.to_owned(), reason });
        }
        if records.insert(name.into(), record).is_some() {
            return Err(ZipError::DuplicateRecord { name: name.to_owned() });
        }
        rest = &after[n_name + n_extra + n_comment..];
    }
    if records.len() as u64 != n_records {
        return Err(fail("its number of entries differs from the one in its end record"));
    }
    Ok(records)
}

fn parse_entry(entry: &[u8], extra: &[u8], crc_place: u64) -> Option<ZipRecord> {
    let mut large = find_extra(extra, 1).unwrap_or_default();
    let mut widen = |small: u32| {
        if small != 0xffff_ffff {
            return Some(u64::from(small));
        }
        let (number, rest) = large.split_at_checked(8)?;
        large = rest;
        Some(u64_at(number, 0))
    };
    // The 64-bit numbers are in this order.
    let len_bytes = widen(u32_at(entry, 24))?;
    let packed_bytes = widen(u32_at(entry, 20))?;
    let header_offset = widen(u32_at(entry, 42))?;
    let (flags, method, crc) = (u16_at(entry, 8), u16_at(entry, 10), u32_at(entry, 16));
    Some(ZipRecord { header_offset, len_bytes, packed_bytes, method, flags, crc, crc_place })
}

/// The content of an extra field with this number.
fn find_extra(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (head, rest) = extra.split_at(4);
        let content = rest.get(..usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == wanted {
            return Some(content);
        }
        extra = &rest[content.len()..];
    }
    None
}
