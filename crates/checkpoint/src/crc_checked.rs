//! Files with records that are stored as they are, compared with the CRC-32 checksums that their directory states.
//!
//! The sums are taken of what is read anyway, in any order. A record of which a reader leaves out a part, or reads one
//! twice, is not compared.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crc32fast::Hasher;
use thalweg_storage::{Error, FileInfo, ReadAt};

use crate::crc_ranges::CrcRanges;

/// A part of a file with a known sum.
#[derive(Debug)]
struct SummedPart {
    range: Range<u64>,
    /// The sum of what comes before the part in its record, such as the header of an array.
    head: Hasher,
    /// The sum of the record.
    stated: u32,
    read: CrcRanges,
}

/// Parts whose sums are compared once all of their bytes were read.
#[derive(Debug, Default)]
pub(crate) struct SummedParts {
    parts: Vec<SummedPart>,
}

impl SummedParts {
    /// Adds a part: `head` is what comes before it in the record whose sum is `stated`.
    pub(crate) fn add(&mut self, range: Range<u64>, head: &[u8], stated: u32) {
        let mut sum = Hasher::new();
        sum.update(head);
        self.parts.push(SummedPart { range, head: sum, stated, read: CrcRanges::default() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// A file with such parts.
#[derive(Debug)]
pub(crate) struct CrcCheckedFile {
    path: PathBuf,
    inner: Arc<dyn ReadAt>,
    /// Sorted by position.
    parts: Vec<SummedPart>,
}

impl CrcCheckedFile {
    pub(crate) fn new(path: PathBuf, inner: Arc<dyn ReadAt>, parts: SummedParts) -> Self {
        let mut parts = parts.parts;
        parts.sort_by_key(|part| part.range.start);
        Self { path, inner, parts }
    }

    fn check(&self, part: &SummedPart, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        part.read.add(offset, bytes);
        let Some(sum) = part.read.sum_of(&part.range) else { return Ok(()) };
        let mut whole = part.head.clone();
        whole.combine(&sum);
        if whole.finalize() == part.stated {
            return Ok(());
        }
        let Range { start, end } = part.range;
        let reason = format!("bytes {start} to {end} do not match the CRC-32 in the archive: the file is damaged");
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
        Err(Error::Io { act: "read", path: self.path.clone(), source })
    }
}

impl ReadAt for CrcCheckedFile {
    fn info(&self) -> FileInfo {
        self.inner.info()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.inner.read_exact_at(offset, out)?;
        let end = offset.saturating_add(out.len() as u64);
        let first = self.parts.partition_point(|part| part.range.end <= offset);
        for part in self.parts[first..].iter().take_while(|part| part.range.start < end) {
            let (from, to) = (offset.max(part.range.start), end.min(part.range.end));
            let at = |position: u64| thalweg_tensor::to_index(position - offset);
            self.check(part, from, &out[at(from)..at(to)])?;
        }
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.inner.check_unchanged()
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        self.inner.will_need(offset, len_bytes);
    }

    fn drop_cache(&self, offset: u64, len_bytes: u64) {
        self.inner.drop_cache(offset, len_bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use thalweg_storage::{MemoryStorage, Storage};

    use super::*;

    /// A file of two records, each a byte of header and nine of data, the second of which has another sum.
    fn open() -> CrcCheckedFile {
        let storage = MemoryStorage::new();
        let path = Path::new("/file");
        storage.create_file(path, 20).unwrap().write_all_at(0, b"h123456789h987654321").unwrap();
        let mut parts = SummedParts::default();
        parts.add(1..10, b"h", crc32fast::hash(b"h123456789"));
        parts.add(11..20, b"h", crc32fast::hash(b"h987654320"));
        CrcCheckedFile::new(path.to_owned(), storage.open_file(path).unwrap(), parts)
    }

    fn read(file: &CrcCheckedFile, range: Range<u64>) -> Result<(), String> {
        let mut out = vec![0; usize::try_from(range.end - range.start).unwrap()];
        file.read_exact_at(range.start, &mut out).map_err(|error| error.to_string())
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges, one of them with one range")]
    fn a_part_is_compared_once_all_of_it_was_read() {
        let orders: [(&[Range<u64>], Range<u64>); 4] =
            [(&[], 0..20), (&[], 11..20), (&[15..20], 5..15), (&[14..17, 17..20], 11..14)];
        for order in orders {
            let file = open();
            let (before, last) = order.clone();
            before.iter().for_each(|range| read(&file, range.clone()).unwrap());
            let error = read(&file, last).unwrap_err();
            assert!(error.contains("`/file`") && error.contains("bytes 11 to 20"), "{order:?}: {error}");
        }
    }

    #[test]
    fn sound_parts_and_reads_of_some_bytes_pass() {
        let file = open();
        for range in [0..10, 0..12, 5..5, 13..20] {
            assert_eq!(read(&file, range), Ok(()));
        }
    }
}
