//! Files with packed parts, read as if each part also lay unpacked behind the end of its file.
//!
//! A piece of a packed tensor has an offset beyond the file's length. Packed bytes can only be unpacked from their
//! beginning, so a decoder is kept where a read ended: reads in ascending order unpack each byte once. The memory of
//! all decoders of a checkpoint is bounded; a read for which no decoder is left begins again.

use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crc32fast::Hasher;
use flate2::bufread::DeflateDecoder;
use thalweg_storage::{Error, FileInfo, ReadAt};
use thalweg_tensor::to_index;

/// Most memory of the decoders that a checkpoint keeps between reads.
pub const UNPACK_BYTES: u64 = 32 << 20;
/// Packed bytes that a decoder reads at once.
const INPUT_BYTES: usize = 16 << 10;
/// Bytes that are unpacked at once where they are only skipped.
const SKIP_BYTES: usize = 16 << 10;
/// Window and tables of a decoder of deflate, and its input.
const DEFLATE_BYTES: u64 = (64 << 10) + INPUT_BYTES as u64;
/// No more bytes than this come out of one byte of deflate: a match of 258 bytes takes two bits at least.
const DEFLATE_RATIO: u64 = 1032;

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Deflate without a header; the sum is that of the unpacked bytes.
    Deflate {
        /// CRC-32.
        crc: u32,
    },
}

impl Packing {
    /// Whether so many bytes can come out of so many packed ones. A part that claims more is refused before anything is
    /// read.
    pub(crate) fn can_hold(self, packed_bytes: u64, len_bytes: u64) -> bool {
        match self {
            Self::Deflate { .. } => len_bytes <= packed_bytes.saturating_mul(DEFLATE_RATIO),
        }
    }
}

/// A packed part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackedPart {
    /// Where it lies in the file.
    pub(crate) packed: Range<u64>,
    /// Its length once it is unpacked.
    pub(crate) len_bytes: u64,
    /// How it is packed.
    pub(crate) packing: Packing,
}

/// A part, and where it begins behind the end of its file.
#[derive(Debug)]
struct PlacedPart {
    start: u64,
    part: PackedPart,
}

/// A file whose packed parts can be read at offsets behind its end.
#[derive(Debug)]
pub(crate) struct UnpackedFile {
    path: PathBuf,
    inner: Arc<dyn ReadAt>,
    parts: Vec<PlacedPart>,
    end: u64,
    pool: Arc<DecoderPool>,
    number: u64,
}

impl UnpackedFile {
    /// A file without packed parts, as yet. All files of a checkpoint share a pool.
    pub(crate) fn new(path: PathBuf, inner: Arc<dyn ReadAt>, pool: &Arc<DecoderPool>) -> Self {
        let end = inner.info().len_bytes;
        let number = pool.next_file.fetch_add(1, Ordering::Relaxed);
        Self { path, inner, parts: Vec::new(), end, pool: Arc::clone(pool), number }
    }

    /// Adds a part, and returns the offset at which it can be read; `None` if offsets have no room for it.
    pub(crate) fn add(&mut self, part: PackedPart) -> Option<u64> {
        let start = self.end;
        self.end = start.checked_add(part.len_bytes).filter(|end| *end < u64::MAX / 2)?;
        self.parts.push(PlacedPart { start, part });
        Some(start)
    }

    /// The part that holds an offset.
    fn part_at(&self, offset: u64) -> Option<&PlacedPart> {
        let after = self.parts.partition_point(|placed| placed.start <= offset);
        let placed = self.parts[..after].last()?;
        (offset - placed.start < placed.part.len_bytes).then_some(placed)
    }

    fn broken(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Io { act: "unpack", path: self.path.clone(), source },
        }
    }

    fn read_part(&self, placed: &PlacedPart, from: u64, out: &mut [u8]) -> Result<(), Error> {
        let key = (self.number, placed.start);
        let mut cursor = match self.pool.take(key, from) {
            Some(cursor) => cursor,
            None => Cursor::begin(key, &placed.part, &self.inner),
        };
        cursor.skip_to(from, &placed.part).map_err(|error| self.broken(error))?;
        cursor.fill(out, &placed.part).map_err(|error| self.broken(error))?;
        if cursor.position < placed.part.len_bytes {
            self.pool.put(cursor);
        }
        Ok(())
    }
}

impl ReadAt for UnpackedFile {
    fn info(&self) -> FileInfo {
        self.inner.info()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        if offset < self.inner.info().len_bytes {
            return self.inner.read_exact_at(offset, out);
        }
        let wanted_bytes = offset.saturating_add(out.len() as u64);
        let placed = self.part_at(offset).filter(|placed| wanted_bytes <= placed.start + placed.part.len_bytes);
        match placed {
            Some(placed) => self.read_part(placed, offset - placed.start, out),
            None => Err(Error::Truncated { path: self.path.clone(), wanted_bytes, found_bytes: self.end }),
        }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.inner.check_unchanged()
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        if offset < self.inner.info().len_bytes {
            self.inner.will_need(offset, len_bytes);
        }
    }

    fn drop_cache(&self, offset: u64, len_bytes: u64) {
        if offset < self.inner.info().len_bytes {
            self.inner.drop_cache(offset, len_bytes);
        }
    }
}

/// The file and the part of a decoder.
type PartKey = (u64, u64);

/// Decoders that wait where a read ended.
#[derive(Debug, Default)]
pub(crate) struct DecoderPool {
    next_file: AtomicU64,
    /// Those used last are at the end.
    waiting: Mutex<Vec<Cursor>>,
}

impl DecoderPool {
    /// The decoder of a part that is nearest before an offset.
    fn take(&self, key: PartKey, offset: u64) -> Option<Cursor> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |cursor: &Cursor| cursor.key == key && cursor.position <= offset;
        let candidates = waiting.iter().enumerate().filter(|(_, cursor)| fits(cursor));
        let (at, _) = candidates.max_by_key(|(_, cursor)| cursor.position)?;
        Some(waiting.remove(at))
    }

    /// Drops all decoders.
    pub(crate) fn clear(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    fn put(&self, cursor: Cursor) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(cursor);
        let mut held_bytes: u64 = waiting.iter().map(|cursor| cursor.cost_bytes).sum();
        let mut n_dropped = 0;
        while held_bytes > UNPACK_BYTES && n_dropped + 1 < waiting.len() {
            held_bytes -= waiting[n_dropped].cost_bytes;
            n_dropped += 1;
        }
        waiting.drain(..n_dropped);
    }
}

/// A decoder, and how far it came.
struct Cursor {
    key: PartKey,
    position: u64,
    cost_bytes: u64,
    decoder: Box<dyn Read + Send>,
    sum: Hasher,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("key", &self.key).field("position", &self.position).finish_non_exhaustive()
    }
}

impl Cursor {
    fn begin(key: PartKey, part: &PackedPart, file: &Arc<dyn ReadAt>) -> Self {
        let source = RangeReader { file: Arc::clone(file), rest: part.packed.clone() };
        let source = BufReader::with_capacity(INPUT_BYTES, source);
        let (decoder, cost_bytes): (Box<dyn Read + Send>, u64) = match part.packing {
            Packing::Deflate { .. } => (Box::new(DeflateDecoder::new(source)), DEFLATE_BYTES),
        };
        Self { key, position: 0, cost_bytes, decoder, sum: Hasher::new() }
    }

    fn skip_to(&mut self, position: u64, part: &PackedPart) -> io::Result<()> {
        let mut skipped = [0; SKIP_BYTES];
        while self.position < position {
            let n_bytes = to_index((position - self.position).min(SKIP_BYTES as u64));
            self.fill(&mut skipped[..n_bytes], part)?;
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut [u8], part: &PackedPart) -> io::Result<()> {
        self.decoder.read_exact(out).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => broken("the packed bytes end early"),
            _ => error,
        })?;
        self.position += out.len() as u64;
        match part.packing {
            Packing::Deflate { crc } => {
                self.sum.update(out);
                if self.position == part.len_bytes && self.sum.clone().finalize() != crc {
                    return Err(broken("the unpacked bytes have another CRC-32 sum than the directory states"));
                }
            }
        }
        if self.position == part.len_bytes && self.decoder.read(&mut [0])? != 0 {
            return Err(broken("more bytes are packed than the directory states"));
        }
        Ok(())
    }
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A range of a file, read from its beginning to its end.
struct RangeReader {
    file: Arc<dyn ReadAt>,
    rest: Range<u64>,
}

impl Read for RangeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n_bytes = to_index((self.rest.end - self.rest.start).min(out.len() as u64));
        self.file.read_exact_at(self.rest.start, &mut out[..n_bytes]).map_err(io::Error::other)?;
        self.rest.start += n_bytes as u64;
        Ok(n_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use thalweg_storage::{MemoryStorage, Storage};

    use super::*;

    fn content(len_bytes: u32) -> Vec<u8> {
        (0..len_bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 28).to_le_bytes()[0]).collect()
    }

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Opens a file of ten bytes and a packed part after them.
    fn open(packed: &[u8], len_bytes: u64, crc: u32) -> (UnpackedFile, Arc<DecoderPool>) {
        let storage = MemoryStorage::new();
        let path = PathBuf::from("/file");
        let file = storage.create_file(&path, 10 + packed.len() as u64).unwrap();
        file.write_all_at(10, packed).unwrap();
        let pool = Arc::default();
        let mut file = UnpackedFile::new(path.clone(), storage.open_file(&path).unwrap(), &pool);
        let part = PackedPart { packed: 10..10 + packed.len() as u64, len_bytes, packing: Packing::Deflate { crc } };
        assert_eq!(file.add(part), Some(10 + packed.len() as u64));
        (file, pool)
    }

    fn check_reads(file: &UnpackedFile, start: u64, expected: &[u8], reads: impl IntoIterator<Item = (usize, usize)>) {
        for (from, to) in reads {
            let mut out = vec![0; to - from];
            file.read_exact_at(start + from as u64, &mut out).unwrap();
            assert!(out == expected[from..to], "{from}..{to}");
        }
    }

    #[test]
    fn ranges_of_a_part_are_read_in_any_order() {
        let expected = content(300_000);
        let packed = deflated(&expected);
        let (file, pool) = open(&packed, 300_000, crc32fast::hash(&expected));
        let start = 10 + packed.len() as u64;
        check_reads(&file, start, &expected, (0..30).map(|i| (i * 10_000, (i + 1) * 10_000)));
        // The decoder at the end is dropped: there is nothing to read after it.
        assert_eq!(pool.waiting.lock().unwrap().len(), 0);
        check_reads(&file, start, &expected, (0..30).rev().map(|i| (i * 10_000, (i + 1) * 10_000)));
        check_reads(&file, start, &expected, [(1, 1), (299_999, 300_000), (0, 300_000), (7, 8)]);
    }

    #[test]
    fn the_decoder_nearest_before_a_read_is_used() {
        let expected = content(100_000);
        let packed = deflated(&expected);
        let (file, pool) = open(&packed, 100_000, crc32fast::hash(&expected));
        let start = 10 + packed.len() as u64;
        check_reads(&file, start, &expected, [(50_000, 50_001), (10, 20), (60_000, 60_001), (30, 31)]);
        let positions: Vec<u64> = pool.waiting.lock().unwrap().iter().map(|cursor| cursor.position).collect();
        assert_eq!(positions, [60_001, 31]);
    }

    #[test]
    fn the_memory_of_waiting_decoders_is_bounded() {
        let expected = content(100_000);
        let packed = deflated(&expected);
        let (file, pool) = open(&packed, 100_000, crc32fast::hash(&expected));
        let start = 10 + packed.len() as u64;
        check_reads(&file, start, &expected, (0..1000).rev().map(|i| (i, i + 1)));
        let n_waiting = pool.waiting.lock().unwrap().len() as u64;
        assert!((1..=UNPACK_BYTES / DEFLATE_BYTES).contains(&n_waiting), "{n_waiting}");
    }

    fn refuse(packed: &[u8], len_bytes: u64, crc: u32) -> String {
        let (file, _) = open(packed, len_bytes, crc);
        let mut out = vec![0; usize::try_from(len_bytes).unwrap()];
        file.read_exact_at(10 + packed.len() as u64, &mut out).unwrap_err().to_string()
    }

    #[test]
    fn parts_that_are_not_what_the_directory_says_are_refused() {
        let expected = content(5000);
        let (packed, crc) = (deflated(&expected), crc32fast::hash(&expected));
        let short = &packed[..packed.len() - 20];
        assert!(refuse(short, 5000, crc).contains("end early"), "{}", refuse(short, 5000, crc));
        assert!(refuse(&packed, 5001, crc).contains("end early"));
        assert!(refuse(&packed, 4999, crc32fast::hash(&expected[..4999])).contains("more bytes are packed"));
        assert!(refuse(&packed, 5000, crc ^ 1).contains("another CRC-32 sum"));
        assert!(refuse(b"\xff\xff\xff\xff\xff", 5000, crc).starts_with("cannot unpack `/file`: "));
    }

    #[test]
    fn a_read_past_a_part_is_refused() {
        let expected = content(100);
        let packed = deflated(&expected);
        let (file, _) = open(&packed, 100, crc32fast::hash(&expected));
        let end = 110 + packed.len() as u64;
        for (offset, n_bytes) in [(end - 1, 2), (end, 1), (end + 1000, 1)] {
            let error = file.read_exact_at(offset, &mut vec![0; n_bytes]).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{error}");
        }
    }

    #[test]
    fn deflate_packs_a_thousand_to_one_and_no_more() {
        let zeros = deflated(&vec![0; 1 << 20]);
        let deflate = Packing::Deflate { crc: 0 };
        assert!(deflate.can_hold(zeros.len() as u64, 1 << 20));
        assert!(!deflate.can_hold(zeros.len() as u64, 1 << 21));
        assert!(deflate.can_hold(u64::MAX, u64::MAX));
    }
}
