//! The zip archives that torch.save writes: where each record is.
//!
//! Only the directory at the end is trusted, because sizes are recorded nowhere else. Nothing is unpacked, and no name
//! is ever used as a path. An archive may be a part of a file, as the chunks of a distributed checkpoint are.

use std::collections::BTreeMap;
use std::ops::Range;

use thalweg_storage::ReadAt;
use thalweg_tensor::display_name;

use super::read_at;

/// The longest directory that is read, in bytes: room for half a million records.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
/// The fixed part of the record that ends an archive.
const END_BYTES: usize = 22;
/// The record that ends an archive, and the longest comment after it.
const MAX_END_BYTES: u64 = END_BYTES as u64 + 0xffff;
/// Bytes of the end that are read first: room for its 32-bit and 64-bit forms.
const SHORT_END_BYTES: u64 = 256;
/// Folders of storages: PyTorch 1.4 and 1.5, which wrote archives only on request, used `tensors`.
const STORAGE_FOLDERS: [&str; 2] = ["data", "tensors"];
/// The newest version of the archive's own layout that PyTorch reads.
const MAX_VERSION: u64 = 10;
/// The longest small record, such as `byteorder`.
const MAX_WORD_BYTES: u64 = 64;

/// Why an archive is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
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
    #[error("the zip directory has {found_bytes} bytes, more than the {limit_bytes} that are read")]
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
    /// No `data.pkl`.
    #[error("it is a zip archive without a `data.pkl`, so PyTorch did not write it")]
    NoPickle,
    /// Several of them.
    #[error("the archive has {n_roots} records named `data.pkl`, so it is not clear which one counts")]
    SeveralPickles {
        /// How many.
        n_roots: usize,
    },
    /// A program, not only weights.
    #[error("it is a TorchScript archive, which holds a program and not a state dict")]
    TorchScript,
    /// A byte order that is not read.
    #[error("the archive's byte order is `{}`, and only `little` is read", display_name(found))]
    ByteOrder {
        /// What the record says.
        found: String,
    },
    /// A layout newer than this reader.
    #[error("the archive's layout has version `{}`, and the newest known is {MAX_VERSION}", display_name(found))]
    Version {
        /// What the record says.
        found: String,
    },
    /// Written with `skip_data`.
    #[error("it was written without data (`torch.serialization.skip_data`): its tensors would be read as zeros")]
    WithoutData,
    /// The storage failed.
    #[error("it cannot be read: {message}")]
    Read {
        /// What the storage says.
        message: String,
    },
}

/// A record of an archive as its directory states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    header_offset: u64,
    len_bytes: u64,
    packed_bytes: u64,
    method: u16,
    flags: u16,
    crc: u32,
    /// Where the directory holds the sum, from the start of the directory.
    crc_place: u64,
}

/// The directory of an archive.
#[derive(Debug)]
pub struct Archive {
    records: BTreeMap<Box<str>, Record>,
    /// The folder inside the archive that holds everything.
    root: Box<str>,
    /// The bytes of the file that hold the archive, up to its directory.
    window: Range<u64>,
}

/// The data of a record, and where the archive holds its CRC-32 sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSum {
    /// The bytes of the file that the sum is of.
    pub range: Range<u64>,
    /// Offsets in the file of the copies of the sum.
    pub places: Vec<u64>,
}

impl Archive {
    /// Reads the directory of the archive in these bytes of a file.
    ///
    /// # Errors
    /// An [`ArchiveError`] for anything that torch.save could not have written.
    pub fn open(file: &dyn ReadAt, window: Range<u64>) -> Result<Self, ArchiveError> {
        let end = find_end(file, &window)?;
        if end.len_bytes > MAX_DIRECTORY_BYTES {
            let (found_bytes, limit_bytes) = (end.len_bytes, MAX_DIRECTORY_BYTES);
            return Err(ArchiveError::DirectoryTooLong { found_bytes, limit_bytes });
        }
        let bytes = read_at(file, window.start + end.offset, end.len_bytes).map_err(refuse_reading)?;
        let records = parse_directory(&bytes, end.n_records, end.offset)?;
        let root = find_root(&records)?;
        let archive = Self { records, root, window: window.start..window.start + end.offset };
        archive.check_words(file)?;
        Ok(archive)
    }

    /// The pickle that says what the archive holds.
    ///
    /// # Errors
    /// If the record is not as torch.save writes it, or is longer than `limit_bytes`.
    pub fn read_pickle(&self, file: &dyn ReadAt, limit_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        self.read_record(file, "data.pkl", limit_bytes)?.ok_or(ArchiveError::NoPickle)
    }

    /// The bytes of the file that hold a storage; `None` if there is no such storage.
    ///
    /// # Errors
    /// If the record is not as torch.save writes it.
    pub fn find_storage(&self, file: &dyn ReadAt, key: &str) -> Result<Option<Range<u64>>, ArchiveError> {
        let names = STORAGE_FOLDERS.map(|folder| format!("{}/{folder}/{key}", self.root));
        let found = names.iter().find_map(|name| Some((name, self.records.get(&**name)?)));
        found.map(|(name, record)| self.locate(file, name, record)).transpose()
    }

    /// The records that have a CRC-32 sum, and where it is: in the directory, and before or after the data.
    ///
    /// # Errors
    /// If a record is not as torch.save writes it.
    pub fn record_sums(&self, file: &dyn ReadAt) -> Result<Vec<RecordSum>, ArchiveError> {
        /// A record with this flag has its sum after the data.
        const SUM_FOLLOWS: u16 = 1 << 3;
        let mut sums = Vec::new();
        for (name, record) in self.records.iter().filter(|(_, record)| record.crc != 0) {
            let range = self.locate(file, name, record)?;
            let mut places = vec![self.window.end + record.crc_place];
            let header_place = self.window.start + record.header_offset + 14;
            let mut holds_sum = |place: u64, mark: &[u8]| -> Result<(), ArchiveError> {
                let n_bytes = mark.len() as u64 + 4;
                if place + n_bytes > self.window.end {
                    return Ok(());
                }
                let found = read_at(file, place, n_bytes).map_err(refuse_reading)?;
                if found.starts_with(mark) && u32_at(&found, mark.len()) == record.crc {
                    places.push(place + mark.len() as u64);
                }
                Ok(())
            };
            holds_sum(header_place, &[])?;
            if record.flags & SUM_FOLLOWS != 0 {
                holds_sum(range.end, b"PK\x07\x08")?;
            }
            sums.push(RecordSum { range, places });
        }
        Ok(sums)
    }

    fn check_words(&self, file: &dyn ReadAt) -> Result<(), ArchiveError> {
        let inside = |name: &str| format!("{}/{name}", self.root);
        let code = inside("code/");
        if self.records.contains_key(&*inside("constants.pkl"))
            || self.records.keys().any(|name| name.starts_with(&code))
        {
            return Err(ArchiveError::TorchScript);
        }
        if let Some(word) = self.read_record(file, "byteorder", MAX_WORD_BYTES)?
            && word.trim_ascii() != b"little"
        {
            return Err(ArchiveError::ByteOrder { found: String::from_utf8_lossy(&word).into_owned() });
        }
        if let Some(word) = self.read_record(file, "version", MAX_WORD_BYTES)? {
            let text = String::from_utf8_lossy(&word);
            if !text.trim().parse().is_ok_and(|version: u64| version <= MAX_VERSION) {
                return Err(ArchiveError::Version { found: text.into_owned() });
            }
        }
        let folders = STORAGE_FOLDERS.map(|folder| inside(&format!("{folder}/")));
        let has_sum = |name: &str| self.records.get(name).is_some_and(|record| record.crc != 0);
        let is_storage = |name: &str| folders.iter().any(|folder| name.starts_with(&**folder));
        let mut storages =
            self.records.iter().filter(|(name, record)| is_storage(name) && record.len_bytes > 0).peekable();
        // A writer that omits checksums also omits the one of the pickle.
        if has_sum(&inside("data.pkl")) && storages.peek().is_some() && storages.all(|(_, record)| record.crc == 0) {
            return Err(ArchiveError::WithoutData);
        }
        Ok(())
    }

    fn read_record(&self, file: &dyn ReadAt, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let name = format!("{}/{name}", self.root);
        let Some(record) = self.records.get(&*name) else {
            return Ok(None);
        };
        if record.len_bytes > limit_bytes {
            let reason = format!("has {} bytes, more than the {limit_bytes} that are read", record.len_bytes);
            return Err(ArchiveError::Record { name, reason });
        }
        let Range { start, end } = self.locate(file, &name, record)?;
        read_at(file, start, end - start).map(Some).map_err(refuse_reading)
    }

    /// The bytes of a record in the file.
    fn locate(&self, file: &dyn ReadAt, name: &str, record: &Record) -> Result<Range<u64>, ArchiveError> {
        /// The fixed part of the header before a record.
        const HEADER_BYTES: u64 = 30;
        let fail = |reason: String| ArchiveError::Record { name: name.to_owned(), reason };
        if record.flags & 1 != 0 {
            return Err(fail("is encrypted".to_owned()));
        }
        if record.method != 0 || record.packed_bytes != record.len_bytes {
            return Err(fail("is compressed, and torch.save never compresses records".to_owned()));
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
        let end = start.checked_add(record.len_bytes).filter(|end| *end <= self.window.end).ok_or_else(past_end)?;
        Ok(start..end)
    }
}

/// What the end of an archive says of its directory; the offset counts from the start of the archive.
struct End {
    offset: u64,
    len_bytes: u64,
    n_records: u64,
}

fn refuse_reading(error: thalweg_storage::Error) -> ArchiveError {
    ArchiveError::Read { message: error.to_string() }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn find_end(file: &dyn ReadAt, window: &Range<u64>) -> Result<End, ArchiveError> {
    const BROKEN: ArchiveError = ArchiveError::Directory { reason: "its place does not fit the file" };
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
        let last = tail.len().checked_sub(END_BYTES).ok_or(ArchiveError::NoEnd)?;
        if let Some(at) = (0..=last).rev().find(|at| is_end(*at)) {
            found = Some((tail[at..].to_vec(), tail_start + at as u64));
            break;
        }
    }
    let (record, end_offset) = found.ok_or(ArchiveError::NoEnd)?;
    let record = &*record;
    if u16_at(record, 4) != u16_at(record, 6) || u16_at(record, 8) != u16_at(record, 10) {
        return Err(ArchiveError::Directory { reason: "it is spread over several disks" });
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
fn find_large_end(
    file: &dyn ReadAt,
    window: &Range<u64>,
    small_offset: u64,
) -> Result<Option<(End, u64)>, ArchiveError> {
    const LOCATOR_BYTES: u64 = 20;
    const LARGE_BYTES: u64 = 56;
    const BROKEN: ArchiveError = ArchiveError::Directory { reason: "its 64-bit end does not fit the file" };
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
) -> Result<BTreeMap<Box<str>, Record>, ArchiveError> {
    const ENTRY_BYTES: usize = 46;
    let fail = |reason| ArchiveError::Directory { reason };
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
        let is_inside = |record: &Record| {
            record.header_offset.checked_add(record.packed_bytes).is_some_and(|end| end <= directory_offset)
        };
        if !is_inside(&record) {
            let reason = "reaches past the end of the archive".to_owned();
            return Err(ArchiveError::Record { name: name.to_owned(), reason });
        }
        if records.insert(name.into(), record).is_some() {
            return Err(ArchiveError::DuplicateRecord { name: name.to_owned() });
        }
        rest = &after[n_name + n_extra + n_comment..];
    }
    if records.len() as u64 != n_records {
        return Err(fail("it has another number of entries than its end says"));
    }
    Ok(records)
}

fn parse_entry(entry: &[u8], extra: &[u8], crc_place: u64) -> Option<Record> {
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
    Some(Record { header_offset, len_bytes, packed_bytes, method, flags, crc, crc_place })
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

/// The folder that holds `data.pkl`.
fn find_root(records: &BTreeMap<Box<str>, Record>) -> Result<Box<str>, ArchiveError> {
    let mut roots = records.keys().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|root| !root.contains('/'));
    match (roots.next(), roots.count()) {
        (Some(root), 0) => Ok(root.into()),
        (Some(_), n_more) => Err(ArchiveError::SeveralPickles { n_roots: n_more + 1 }),
        (None, _) => Err(ArchiveError::NoPickle),
    }
}
