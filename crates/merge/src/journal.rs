//! The journal of a stage: which units are done, and digests of what was written.
//!
//! It lets the next process resume after a kill. Nothing in it is trusted: each record carries its own
//! checksum, and the bytes that it speaks of are read back and compared before they are kept.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_storage::{Storage, WriteAt};
use thalweg_tensor::digest::{DigestKind, SubtreeDigest, bytes_digest};
use thalweg_tensor::to_index;

use crate::error::Error;
use crate::tensor_stats::TensorStats;

pub(crate) use thalweg_checkpoint::JOURNAL_NAME;

const MAGIC: &[u8; 8] = b"thalwegj";
const VERSION: u32 = 4;
/// Digests of the plan, of the sources' sizes and times where nothing is hashed, and of what is merged in the same
/// reading. A stage of another plan or other sources is refused. A stage of another reading is started again, because
/// its units mean other things.
pub(crate) type StageKey = [u8; 96];
const HEADER_BYTES: u64 = 8 + 4 + 96;
const CHECKSUM_BYTES: usize = 16;
/// What a frame adds to its body: length and checksum.
const FRAME_BYTES: u64 = 8 + CHECKSUM_BYTES as u64;
/// A record is a unit of 256 parts at most; each part has few subtrees. More than this is not ours.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// One finished part, as one output's journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartRecord {
    pub(crate) source_subtrees: Vec<Vec<SubtreeDigest>>,
    pub(crate) output_subtrees: Vec<SubtreeDigest>,
    pub(crate) stats: TensorStats,
}

/// One finished unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnitRecord {
    pub(crate) unit_idx: u64,
    pub(crate) parts: Vec<PartRecord>,
}

/// A journal open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<dyn WriteAt>,
    end: Mutex<u64>,
}

/// What a stage's journal says.
pub(crate) enum JournalState {
    /// There is none, or its header never became whole: nothing is done.
    Absent,
    /// It belongs to another plan, or to other sources.
    Foreign(&'static str),
    /// Units that were written, in the order of writing.
    Ours(Journal, Vec<UnitRecord>),
}

impl Journal {
    /// Creates a durable journal in a stage that may hold files of these names.
    pub(crate) fn create(
        storage: &dyn Storage,
        path: &Path,
        key: &StageKey,
        names: &BTreeSet<String>,
    ) -> Result<Self, Error> {
        let file = storage.create_file(path, 0)?;
        let mut header = Vec::with_capacity(to_index(HEADER_BYTES));
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(key);
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        header.extend_from_slice(&framed(list.join("\0").as_bytes()));
        file.write_all_at(0, &header)?;
        file.sync()?;
        Ok(Self { file, end: Mutex::new(header.len() as u64) })
    }

    /// Reads a journal as far as it is whole. Also returns the names of files that it lists, even if it belongs to
    /// another plan.
    pub(crate) fn open(
        storage: &dyn Storage,
        path: &Path,
        key: &StageKey,
    ) -> Result<(JournalState, BTreeSet<String>), Error> {
        let file = match storage.open_for_update(path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok((JournalState::Absent, BTreeSet::new())),
            Err(error) => return Err(error.into()),
        };
        let len_bytes = file.len_bytes()?;
        let mut header = [0; to_index(HEADER_BYTES)];
        if len_bytes < HEADER_BYTES {
            return Ok((JournalState::Absent, BTreeSet::new()));
        }
        file.read_exact_at(0, &mut header)?;
        let list = read_frame(&*file, HEADER_BYTES, len_bytes)?.unwrap_or_default();
        let names = String::from_utf8_lossy(&list).split('\0').map(str::to_owned).collect();
        let start = HEADER_BYTES + FRAME_BYTES + list.len() as u64;
        Ok((Self::state(file, (header, start), len_bytes, key)?, names))
    }

    /// The names of files that a journal lists; none if it is not one, or not whole.
    pub(crate) fn listed_names(storage: &dyn Storage, path: &Path) -> Result<BTreeSet<String>, Error> {
        let file = match storage.open_for_update(path) {
            Err(error) if error.is_not_found() => return Ok(BTreeSet::new()),
            opened => opened?,
        };
        let len_bytes = file.len_bytes()?;
        if len_bytes < HEADER_BYTES {
            return Ok(BTreeSet::new());
        }
        let mut header = [0; to_index(HEADER_BYTES)];
        file.read_exact_at(0, &mut header)?;
        if header[..8] != *MAGIC {
            return Ok(BTreeSet::new());
        }
        let list = read_frame(&*file, HEADER_BYTES, len_bytes)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&list).split('\0').map(str::to_owned).collect())
    }

    /// Why a journal is not of this key, by its header alone; `None` if it is, or if there is none.
    pub(crate) fn foreign_by(
        storage: &dyn Storage,
        path: &Path,
        key: &StageKey,
    ) -> Result<Option<&'static str>, Error> {
        let file = match storage.open_for_update(path) {
            Err(error) if error.is_not_found() => return Ok(None),
            opened => opened?,
        };
        if file.len_bytes()? < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = [0; to_index(HEADER_BYTES)];
        file.read_exact_at(0, &mut header)?;
        Ok(match compare_header(&header, key) {
            HeaderState::Foreign(what) => Some(what),
            HeaderState::Absent | HeaderState::Ours => None,
        })
    }

    fn state(
        file: Arc<dyn WriteAt>,
        (header, start): ([u8; to_index(HEADER_BYTES)], u64),
        len_bytes: u64,
        key: &StageKey,
    ) -> Result<JournalState, Error> {
        match compare_header(&header, key) {
            HeaderState::Absent => return Ok(JournalState::Absent),
            HeaderState::Foreign(what) => return Ok(JournalState::Foreign(what)),
            HeaderState::Ours => {}
        }
        let (records, end) = read_records(&*file, start, len_bytes)?;
        Ok(JournalState::Ours(Self { file, end: Mutex::new(end) }, records))
    }

    /// Returns once everything that was appended is on the medium.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        Ok(self.file.sync()?)
    }

    /// Appends a finished unit.
    pub(crate) fn append(&self, record: &UnitRecord) -> Result<(), Error> {
        let bytes = framed(&encode(record));
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(*end, &bytes)?;
        *end += bytes.len() as u64;
        Ok(())
    }
}

/// What the header of a journal says.
enum HeaderState {
    Absent,
    Foreign(&'static str),
    Ours,
}

fn compare_header(header: &[u8; to_index(HEADER_BYTES)], key: &StageKey) -> HeaderState {
    let (magic, rest) = header.split_at(8);
    let (version, found_key) = rest.split_at(4);
    if magic == [0; 8] {
        return HeaderState::Absent;
    }
    if magic != MAGIC || version != VERSION.to_le_bytes() {
        return HeaderState::Foreign("another version of this program");
    }
    if found_key[..32] != key[..32] {
        return HeaderState::Foreign("another plan");
    }
    if found_key[32..64] != key[32..64] {
        return HeaderState::Foreign("this plan, but its sources have changed since");
    }
    if found_key[64..] != key[64..] {
        return HeaderState::Absent;
    }
    HeaderState::Ours
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    let text = bytes_digest(DigestKind::Xxh3, body).to_bytes();
    sum.copy_from_slice(&text[..CHECKSUM_BYTES]);
    sum
}

/// A frame: the length of `body`, `body`, its checksum.
fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + to_index(FRAME_BYTES));
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&checksum(body));
    bytes
}

/// The body of the frame at `at`; `None` if the file ends before it does or the checksum differs, as after a torn
/// write.
fn read_frame(file: &dyn WriteAt, at: u64, len_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut prefix = [0; 8];
    if at.saturating_add(8) > len_bytes {
        return Ok(None);
    }
    file.read_exact_at(at, &mut prefix)?;
    let body_bytes = u64::from_le_bytes(prefix);
    if body_bytes > MAX_RECORD_BYTES || at.saturating_add(body_bytes + FRAME_BYTES) > len_bytes {
        return Ok(None);
    }
    let mut bytes = vec![0; to_index(body_bytes) + CHECKSUM_BYTES];
    file.read_exact_at(at + 8, &mut bytes)?;
    let sum = bytes.split_off(to_index(body_bytes));
    Ok((checksum(&bytes)[..] == sum).then_some(bytes))
}

fn read_records(file: &dyn WriteAt, start: u64, len_bytes: u64) -> Result<(Vec<UnitRecord>, u64), Error> {
    let (mut records, mut at) = (Vec::new(), start);
    while let Some(body) = read_frame(file, at, len_bytes)? {
        let Some(record) = decode(&body) else { break };
        records.push(record);
        at += body.len() as u64 + FRAME_BYTES;
    }
    Ok((records, at))
}

fn encode(record: &UnitRecord) -> Vec<u8> {
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, n: u64| out.extend_from_slice(&n.to_le_bytes());
    put(&mut out, record.unit_idx);
    put(&mut out, record.parts.len() as u64);
    for part in &record.parts {
        put(&mut out, part.source_subtrees.len() as u64);
        for subtrees in part.source_subtrees.iter().chain([&part.output_subtrees]) {
            put(&mut out, subtrees.len() as u64);
            subtrees.iter().for_each(|subtree| out.extend_from_slice(&subtree.0));
        }
        for value in [part.stats.sum_squared_distance, part.stats.max_abs_change, part.stats.newest_squares] {
            put(&mut out, u64::from(value.is_some()));
            put(&mut out, value.unwrap_or(0.0).to_bits());
        }
        put(&mut out, part.stats.n_non_finite);
        put(&mut out, part.stats.n_slow_path);
    }
    out
}

/// A reader over bytes that may be anything.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn number(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    /// A count of things of `item_bytes` bytes each, which cannot be more than the bytes that are left.
    fn count(&mut self, item_bytes: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(item_bytes)? <= self.0.len()).then_some(count)
    }

    fn subtrees(&mut self) -> Option<Vec<SubtreeDigest>> {
        let count = self.count(32)?;
        let (head, rest) = self.0.split_at(count * 32);
        self.0 = rest;
        Some(head.as_chunks::<32>().0.iter().map(|chunk| SubtreeDigest(*chunk)).collect())
    }

    fn value(&mut self) -> Option<Option<f64>> {
        let is_some = self.number()? != 0;
        let value = f64::from_bits(self.number()?);
        Some(is_some.then_some(value))
    }
}

fn decode(body: &[u8]) -> Option<UnitRecord> {
    let mut cursor = Cursor(body);
    let unit_idx = cursor.number()?;
    let n_parts = cursor.count(80)?;
    let mut parts = Vec::with_capacity(n_parts);
    for _ in 0..n_parts {
        let n_sources = cursor.count(8)?;
        let source_subtrees = (0..n_sources).map(|_| cursor.subtrees()).collect::<Option<Vec<_>>>()?;
        let output_subtrees = cursor.subtrees()?;
        let stats = TensorStats {
            sum_squared_distance: cursor.value()?,
            max_abs_change: cursor.value()?,
            newest_squares: cursor.value()?,
            n_non_finite: cursor.number()?,
            n_slow_path: cursor.number()?,
        };
        parts.push(PartRecord { source_subtrees, output_subtrees, stats });
    }
    cursor.0.is_empty().then_some(UnitRecord { unit_idx, parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(unit_idx: u64) -> UnitRecord {
        let stats = TensorStats { sum_squared_distance: Some(1.5), n_slow_path: 3, ..TensorStats::default() };
        let part = PartRecord {
            source_subtrees: vec![vec![SubtreeDigest([1; 32])], vec![]],
            output_subtrees: vec![SubtreeDigest([2; 32]), SubtreeDigest([3; 32])],
            stats,
        };
        UnitRecord { unit_idx, parts: vec![part.clone(), part] }
    }

    #[test]
    fn a_record_reads_back_and_no_prefix_of_it_does() {
        let bytes = encode(&record(7));
        assert_eq!(decode(&bytes), Some(record(7)));
        assert!((0..bytes.len()).all(|n| decode(&bytes[..n]).is_none()));
    }

    #[test]
    fn counts_beyond_the_bytes_at_hand_allocate_nothing() {
        let mut bytes = encode(&record(7));
        bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), None);
    }
}
