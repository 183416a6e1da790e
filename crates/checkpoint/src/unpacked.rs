//! Files with packed parts, read as if each part also lay unpacked behind the end of its file.
//!
//! A piece of a packed tensor has an offset beyond the file's length. Packed bytes can only be unpacked from their
//! beginning, so a decoder is kept where a read ended: reads in ascending order unpack each byte once. Threads that
//! read one part side by side share its decoder: a read waits for one that is under way before it, and keeps what it
//! skips for one that is late. The memory of all decoders of a checkpoint is bounded; a read for which no decoder is
//! left begins again.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crc32fast::Hasher;
use flate2::bufread::DeflateDecoder;
use thalweg_storage::{Error, FileInfo, ReadAt};
use thalweg_tensor::to_index;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::note::UnstoredChunks;

/// Most memory of the decoders that a checkpoint keeps between reads, and of those that read.
pub(crate) const UNPACK_BYTES: u64 = 32 << 20;
/// Packed bytes that a decoder reads at once.
const INPUT_BYTES: usize = 64 << 10;
/// Bytes that are unpacked at once where they are only skipped.
const SKIP_BYTES: usize = 16 << 10;
/// Window and tables of a decoder of deflate, and its input.
const DEFLATE_BYTES: u64 = (64 << 10) + INPUT_BYTES as u64;
/// No more bytes than this come out of one byte of deflate: a match of 258 bytes takes two bits at least.
const DEFLATE_RATIO: u64 = 1032;
/// Most bytes of a block of zstd, which takes four bytes at least.
const ZSTD_BLOCK_BYTES: u64 = 128 << 10;
/// The largest window of zstd that is accepted: that of its highest ordinary level.
const ZSTD_WINDOW_BYTES: u64 = 8 << 20;
/// Tables, blocks and input of a decoder of zstd, besides its window.
const ZSTD_BYTES: u64 = (512 << 10) + INPUT_BYTES as u64;
/// A decoder with the window that tensorstore's writer asks for, 2 MiB.
const USUAL_BYTES: u64 = ZSTD_BYTES + (2 << 20);
/// Places at which threads may read side by side, each with a decoder: 26 MiB, which leaves room for what reads skip.
pub(crate) const N_PLACES: usize = 10;
/// Most bytes that a read skips and keeps: those of the threads that it overtook, a mebibyte each.
const KEPT_BYTES: u64 = 4 << 20;
/// Parts of zstd up to this length are unpacked whole and kept so, which takes less than a decoder.
const WHOLE_BYTES: u64 = 256 << 10;

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not packed.
    None,
    /// One frame of zstd.
    Zstd,
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
            Self::None => len_bytes == packed_bytes,
            Self::Zstd => len_bytes <= (packed_bytes / 4).saturating_add(1).saturating_mul(ZSTD_BLOCK_BYTES),
            Self::Deflate { .. } => len_bytes <= packed_bytes.saturating_mul(DEFLATE_RATIO),
        }
    }
}

/// Where the packed bytes of a part are.
#[derive(Debug, Clone)]
pub(crate) enum Packed {
    /// In the file.
    Range(Range<u64>),
    /// In memory: formats may keep small parts in their directories.
    Bytes(Arc<[u8]>),
    /// One of the chunks in a shard, which its index finds when it is first read.
    Inner {
        /// The shard.
        shard: Arc<Shard>,
        /// Which of its chunks.
        number: usize,
    },
    /// Nowhere: the part is zeros.
    Zeros,
}

impl Packed {
    fn len_bytes(&self) -> u64 {
        match self {
            Self::Range(range) => range.end - range.start,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Inner { .. } | Self::Zeros => 0,
        }
    }
}

/// A packed part of a file.
#[derive(Debug, Clone)]
pub(crate) struct PackedPart {
    /// Where its packed bytes are.
    pub(crate) packed: Packed,
    /// Its length once it is unpacked.
    pub(crate) len_bytes: u64,
    /// How it is packed.
    pub(crate) packing: Packing,
}

/// The place of a chunk that is not stored.
const NOT_STORED: (u64, u64) = (u64::MAX, u64::MAX);

/// The shards of an array.
#[derive(Debug)]
pub(crate) struct ShardedArray {
    /// The array.
    pub(crate) name: String,
    /// Its shards, each with the numbers of the chunks that hold some of the array.
    pub(crate) shards: Vec<(Arc<Shard>, Vec<usize>)>,
}

impl ShardedArray {
    /// What is known of chunks that are not stored although others are.
    pub(crate) fn unstored(&self) -> Option<UnstoredChunks> {
        let n_missing = self.shards.iter().map(|(shard, numbers)| shard.n_missing(numbers)).sum();
        let n_chunks = self.shards.iter().map(|(_, numbers)| numbers.len() as u64).sum();
        let name = self.name.clone();
        (n_missing > 0 && n_missing < n_chunks).then_some(UnstoredChunks { name, n_missing, n_chunks })
    }
}

/// Chunks with an index that says where each begins and how long it is.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Where it lies; not in another shard.
    pub(crate) place: Packed,
    /// Number of chunks.
    pub(crate) n_chunks: usize,
    /// Whether the index is at the end.
    pub(crate) is_index_last: bool,
    /// Whether a CRC-32C checksum follows the index.
    pub(crate) has_index_sum: bool,
    /// Bytes of a sum at the end of each chunk.
    pub(crate) sum_bytes: u64,
    /// Offset and length of each chunk, once they are known.
    pub(crate) index: OnceLock<Box<[(u64, u64)]>>,
}

impl Shard {
    /// How many of these chunks are not stored; none as long as the index was not read.
    pub(crate) fn n_missing(&self, numbers: &[usize]) -> u64 {
        let Some(index) = self.index.get() else { return 0 };
        let is_missing = |number: &&usize| index.get(**number).is_some_and(|place| *place == NOT_STORED);
        numbers.iter().filter(is_missing).count() as u64
    }

    /// Bytes of the index and its sum.
    pub(crate) fn index_bytes(n_chunks: u64, has_index_sum: bool) -> Option<u64> {
        n_chunks.checked_mul(16)?.checked_add(if has_index_sum { 4 } else { 0 })
    }

    /// The bytes of a chunk in the shard; `None` if it is not stored.
    fn find(&self, file: &dyn ReadAt, number: usize) -> io::Result<Option<Packed>> {
        let index = match self.index.get() {
            Some(index) => index,
            None => {
                let read = self.read_index(file)?;
                self.index.get_or_init(|| read)
            }
        };
        let (offset, n_bytes) = *index.get(number).ok_or_else(|| broken("the index of a shard lacks a chunk"))?;
        if (offset, n_bytes) == NOT_STORED {
            return Ok(None);
        }
        let end = offset.checked_add(n_bytes).filter(|end| *end <= self.place.len_bytes());
        let end = end.and_then(|end| end.checked_sub(self.sum_bytes)).filter(|end| *end >= offset);
        let end = end.ok_or_else(|| broken("the index of a shard points outside the shard"))?;
        Ok(match &self.place {
            Packed::Range(range) => Some(Packed::Range(range.start + offset..range.start + end)),
            Packed::Bytes(bytes) => bytes.get(to_index(offset)..to_index(end)).map(|bytes| Packed::Bytes(bytes.into())),
            Packed::Inner { .. } | Packed::Zeros => None,
        })
    }

    fn read_index(&self, file: &dyn ReadAt) -> io::Result<Box<[(u64, u64)]>> {
        let n_bytes =
            Self::index_bytes(self.n_chunks as u64, self.has_index_sum).filter(|n| *n <= self.place.len_bytes());
        let n_bytes = n_bytes.ok_or_else(|| broken("a shard is shorter than its index"))?;
        let start = if self.is_index_last { self.place.len_bytes() - n_bytes } else { 0 };
        let mut bytes = vec![0; to_index(n_bytes)];
        match &self.place {
            Packed::Range(range) => file.read_exact_at(range.start + start, &mut bytes).map_err(io::Error::other)?,
            Packed::Bytes(whole) => bytes.copy_from_slice(&whole[to_index(start)..to_index(start + n_bytes)]),
            Packed::Inner { .. } | Packed::Zeros => return Err(broken("a shard is in another one")),
        }
        let (numbers, sum) = bytes.split_at(16 * self.n_chunks);
        if self.has_index_sum && sum != crc32c::crc32c(numbers).to_le_bytes() {
            return Err(broken("the CRC-32C of a shard's index does not match"));
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        Ok(numbers.chunks_exact(16).map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect())
    }
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

    fn read_part(&self, placed: &PlacedPart, from: u64, out: &mut [u8]) -> io::Result<()> {
        let PackedPart { packed, len_bytes, packing } = &placed.part;
        let found = match packed {
            Packed::Inner { shard, number } => shard.find(&*self.inner, *number)?,
            Packed::Zeros => None,
            Packed::Range(_) | Packed::Bytes(_) => Some(packed.clone()),
        };
        let Some(found) = found else {
            out.fill(0);
            return Ok(());
        };
        if !packing.can_hold(found.len_bytes(), *len_bytes) {
            return Err(broken("a part does not have the length that its shape and element type require"));
        }
        if *packing == Packing::None {
            return match &found {
                Packed::Range(range) => self.inner.read_exact_at(range.start + from, out).map_err(io::Error::other),
                Packed::Bytes(bytes) => {
                    out.copy_from_slice(&bytes[to_index(from)..to_index(from) + out.len()]);
                    Ok(())
                }
                Packed::Inner { .. } | Packed::Zeros => Ok(()),
            };
        }
        let key = (self.number, placed.start);
        let (cursor, turn) = self.pool.take(key, from..from + out.len() as u64);
        let mut cursor = match cursor {
            Some(cursor) => cursor,
            None => Cursor::begin(key, &placed.part, source_of(found, &self.inner))?,
        };
        let skipped = cursor.read(from, out, &placed.part)?;
        let is_useful = cursor.position < placed.part.len_bytes;
        turn.give_back(skipped.into_iter().chain(is_useful.then_some(cursor)));
        Ok(())
    }
}

/// Packed bytes as a stream.
fn source_of(packed: Packed, file: &Arc<dyn ReadAt>) -> Box<dyn Read + Send> {
    match packed {
        Packed::Range(rest) => Box::new(RangeReader { file: Arc::clone(file), rest }),
        Packed::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
        Packed::Inner { .. } | Packed::Zeros => Box::new(io::empty()),
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
            Some(placed) => self.read_part(placed, offset - placed.start, out).map_err(|error| self.broken(error)),
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
    state: Mutex<PoolState>,
    /// Told when a read has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Those used last are at the end.
    waiting: Vec<Cursor>,
    /// The part of each read that is under way, where its decoder was, and where the read will end.
    under_way: Vec<(PartKey, Range<u64>)>,
    /// Where the reads begin that wait for one of those.
    queue: Vec<(PartKey, u64)>,
}

impl PoolState {
    /// The decoder of a part that is nearest before a range, and where it is.
    fn nearest(&self, key: PartKey, wanted: &Range<u64>) -> Option<(usize, u64)> {
        let candidates = self.waiting.iter().enumerate().filter(|(_, cursor)| cursor.key == key);
        let positions = candidates.filter_map(|(at, cursor)| Some((at, cursor.nearest_before(wanted)?)));
        positions.max_by_key(|(_, position)| *position)
    }

    /// Whether a read should wait because one that is under way, or that waits itself, is nearer than `position`.
    fn must_wait(&self, key: PartKey, from: u64, position: Option<u64>) -> bool {
        let is_nearer = |at: u64| position.is_none_or(|position| at > position);
        // It ends nearer, or passes here and keeps what it skips, or reads of what was kept.
        let is_before = |read: &(PartKey, Range<u64>)| {
            let Range { start, end } = read.1;
            let passes = start <= from && from < end && end - start <= KEPT_BYTES && is_nearer(from);
            read.0 == key && (end <= from && is_nearer(end) || passes)
        };
        self.under_way.iter().any(is_before)
            || position != Some(from)
                && self.queue.iter().any(|read| read.0 == key && read.1 < from && position.is_none_or(|p| read.1 >= p))
    }
}

/// A read that is under way.
struct Turn<'a> {
    pool: &'a DecoderPool,
    read: (PartKey, Range<u64>),
}

impl Turn<'_> {
    fn give_back(self, cursors: impl Iterator<Item = Cursor>) {
        let mut state = self.pool.lock();
        state.waiting.extend(cursors);
        let mut held_bytes: u64 = state.waiting.iter().map(|cursor| cursor.cost_bytes).sum();
        // This read has ended; the others have a decoder each.
        held_bytes += USUAL_BYTES * (state.under_way.len() as u64).saturating_sub(1);
        let mut n_dropped = 0;
        while held_bytes > UNPACK_BYTES && n_dropped + 1 < state.waiting.len() {
            held_bytes -= state.waiting[n_dropped].cost_bytes;
            n_dropped += 1;
        }
        state.waiting.drain(..n_dropped);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if let Some(at) = state.under_way.iter().position(|read| *read == self.read) {
            state.under_way.swap_remove(at);
        }
        self.pool.ended.notify_all();
    }
}

impl DecoderPool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The decoder of a part that is nearest before a range. Waits for reads that end nearer to it.
    fn take(&self, key: PartKey, wanted: Range<u64>) -> (Option<Cursor>, Turn<'_>) {
        let mut state = self.lock();
        let mut is_queued = false;
        let found = loop {
            let found = state.nearest(key, &wanted);
            if !state.must_wait(key, wanted.start, found.map(|(_, position)| position)) {
                break found;
            }
            if !is_queued {
                state.queue.push((key, wanted.start));
                is_queued = true;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        if is_queued {
            if let Some(at) = state.queue.iter().position(|read| *read == (key, wanted.start)) {
                state.queue.swap_remove(at);
            }
            self.ended.notify_all();
        }
        let read = (key, found.map_or(0, |(at, _)| state.waiting[at].position)..wanted.end);
        state.under_way.push(read.clone());
        (found.map(|(at, _)| state.waiting.remove(at)), Turn { pool: self, read })
    }

    /// Drops all decoders.
    pub(crate) fn clear(&self) {
        self.lock().waiting = Vec::new();
    }
}

/// A decoder, and how far it came.
struct Cursor {
    key: PartKey,
    position: u64,
    cost_bytes: u64,
    decoder: Box<dyn Read + Send>,
    sum: Hasher,
    /// Bytes that are unpacked already, from `position` on: all of a part that is short, or what a read skipped.
    kept: Option<Vec<u8>>,
    /// How many of them have not been read since.
    n_unread: u64,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("key", &self.key).field("position", &self.position).finish_non_exhaustive()
    }
}

impl Cursor {
    fn begin(key: PartKey, part: &PackedPart, source: Box<dyn Read + Send>) -> io::Result<Self> {
        let source = BufReader::with_capacity(INPUT_BYTES, source);
        let (decoder, cost_bytes): (Box<dyn Read + Send>, u64) = match part.packing {
            Packing::Deflate { .. } => (Box::new(DeflateDecoder::new(source)), DEFLATE_BYTES),
            Packing::Zstd => {
                let (decoder, window_bytes) = open_zstd(source, part.len_bytes)?;
                (Box::new(decoder), ZSTD_BYTES + window_bytes)
            }
            Packing::None => (Box::new(source), INPUT_BYTES as u64),
        };
        let mut cursor = Self { key, position: 0, cost_bytes, decoder, sum: Hasher::new(), kept: None, n_unread: 0 };
        if part.packing == Packing::Zstd && part.len_bytes <= WHOLE_BYTES {
            let mut whole = vec![0; to_index(part.len_bytes)];
            cursor.fill(&mut whole, part)?;
            return Ok(Self::of_bytes(key, 0, whole));
        }
        Ok(cursor)
    }

    /// Bytes of a part that are unpacked already.
    fn of_bytes(key: PartKey, position: u64, bytes: Vec<u8>) -> Self {
        let cost_bytes = bytes.len() as u64;
        let (decoder, n_unread) = (Box::new(io::empty()), cost_bytes);
        Self { key, position, cost_bytes, decoder, sum: Hasher::new(), kept: Some(bytes), n_unread }
    }

    /// Where this is if a range can be read with it: at most at the beginning of the range.
    fn nearest_before(&self, wanted: &Range<u64>) -> Option<u64> {
        let end = self.kept.as_ref().map(|kept| self.position + kept.len() as u64);
        match end {
            None => (self.position <= wanted.start).then_some(self.position),
            Some(end) => (self.position <= wanted.start && wanted.end <= end).then_some(wanted.start),
        }
    }

    /// Reads from a position on. Returns what was skipped, unless that is long.
    fn read(&mut self, from: u64, out: &mut [u8], part: &PackedPart) -> io::Result<Option<Self>> {
        if let Some(kept) = &self.kept {
            let at = to_index(from - self.position);
            out.copy_from_slice(&kept[at..at + out.len()]);
            // What was skipped is wanted once; a short part may be read by rows.
            self.n_unread = self.n_unread.saturating_sub(out.len() as u64);
            if (kept.len() as u64) < part.len_bytes && self.n_unread == 0 {
                self.position = part.len_bytes;
            }
            return Ok(None);
        }
        let begin = self.position;
        let mut skipped = vec![0; if from - begin <= KEPT_BYTES { to_index(from - begin) } else { 0 }];
        self.fill(&mut skipped, part)?;
        self.skip_to(from, part)?;
        self.fill(out, part)?;
        Ok((!skipped.is_empty()).then(|| Self::of_bytes(self.key, begin, skipped)))
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
        if out.is_empty() {
            return Ok(());
        }
        self.decoder.read_exact(out).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => broken("the compressed data end early"),
            _ => error,
        })?;
        self.position += out.len() as u64;
        if let Packing::Deflate { crc } = part.packing {
            self.sum.update(out);
            if self.position == part.len_bytes && self.sum.clone().finalize() != crc {
                return Err(broken("the decompressed data do not match the CRC-32 in the directory"));
            }
        }
        if self.position == part.len_bytes && self.decoder.read(&mut [0])? != 0 {
            return Err(broken("there are more compressed data than the directory states"));
        }
        Ok(())
    }
}

/// Unpacks a frame of zstd that holds at most `len_bytes`; says how long its window is.
///
/// A frame whose writer did not know its length asks for a window of megabytes, whatever it holds. No match reaches
/// back further than the frame is long, so the window that the frame states is replaced by one of that length.
pub(crate) fn open_zstd(mut source: impl BufRead + Send, len_bytes: u64) -> io::Result<(impl Read + Send, u64)> {
    /// Magic number, descriptor and window.
    const HEAD_BYTES: usize = 6;
    const SINGLE_SEGMENT: u8 = 1 << 5;
    /// The logarithm of the smallest window.
    const LEAST_LOG: u32 = 10;
    let mut head = [0; HEAD_BYTES];
    source.read_exact(&mut head)?;
    // A frame of one segment states its length as its window.
    let limit_bytes =
        len_bytes.max(1).checked_next_power_of_two().unwrap_or(u64::MAX).clamp(1 << LEAST_LOG, ZSTD_WINDOW_BYTES);
    let mut window_bytes = limit_bytes;
    if head.starts_with(&0xfd2f_b528_u32.to_le_bytes()) && head[4] & SINGLE_SEGMENT == 0 {
        let stated_log = LEAST_LOG + u32::from(head[5] >> 3);
        let needed_log = len_bytes.max(1).checked_next_power_of_two().map_or(u64::BITS, u64::ilog2).max(LEAST_LOG);
        if needed_log < stated_log {
            head[5] = u8::try_from(needed_log - LEAST_LOG).unwrap_or(u8::MAX >> 3) << 3;
        }
        // The lowest bits add up to seven eighths.
        window_bytes = limit_bytes.min(2 << needed_log.min(stated_log));
    }
    let source = io::Cursor::new(head).chain(source);
    let mut decoder = ZstdDecoder::with_buffer(source)?.single_frame();
    decoder.window_log_max(limit_bytes.ilog2())?;
    Ok((decoder, window_bytes))
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
        let part = PackedPart {
            packed: Packed::Range(10..10 + packed.len() as u64),
            len_bytes,
            packing: Packing::Deflate { crc },
        };
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
        assert_eq!(pool.lock().waiting.len(), 0);
        check_reads(&file, start, &expected, (0..30).rev().map(|i| (i * 10_000, (i + 1) * 10_000)));
        check_reads(&file, start, &expected, [(1, 1), (299_999, 300_000), (0, 300_000), (7, 8)]);
    }

    #[test]
    fn the_decoder_nearest_before_a_read_is_used_and_what_was_skipped_is_kept() {
        let expected = content(100_000);
        let packed = deflated(&expected);
        let (file, pool) = open(&packed, 100_000, crc32fast::hash(&expected));
        let start = 10 + packed.len() as u64;
        check_reads(&file, start, &expected, [(50_000, 50_001), (10, 20), (60_000, 60_001), (30, 31)]);
        let positions = |pool: &DecoderPool| pool.lock().waiting.iter().map(|one| one.position).collect::<Vec<_>>();
        assert_eq!(positions(&pool), [50_001, 60_001, 0]);
        // What was skipped between two reads is dropped once it was read.
        check_reads(&file, start, &expected, [(50_001, 55_000), (55_000, 60_000)]);
        assert_eq!(positions(&pool), [60_001, 0]);
    }

    #[test]
    fn the_memory_of_waiting_decoders_is_bounded() {
        let pool = DecoderPool::default();
        for n in 0..20 {
            let (_, turn) = pool.take((0, n), 0..1);
            turn.give_back(std::iter::once(Cursor::of_bytes((0, n), 1, vec![0; 3 << 20])));
        }
        let parts: Vec<u64> = pool.lock().waiting.iter().map(|one| one.key.1).collect();
        assert_eq!(parts, (10..20).collect::<Vec<_>>());
        assert!(pool.lock().under_way.is_empty());
    }

    /// A file that counts the bytes that are read.
    #[derive(Debug)]
    struct Counted(Arc<dyn ReadAt>, AtomicU64);

    impl ReadAt for Counted {
        fn info(&self) -> FileInfo {
            self.0.info()
        }

        fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
            self.1.fetch_add(out.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(offset, out)
        }

        fn check_unchanged(&self) -> Result<(), Error> {
            self.0.check_unchanged()
        }
    }

    #[test]
    fn threads_that_share_a_part_unpack_it_once() {
        const LEN_BYTES: u64 = 1 << 20;
        const READ_BYTES: u64 = 4096;
        const N_THREADS: u64 = 4;
        let expected = content(1 << 20);
        let packed = deflated(&expected);
        let storage = MemoryStorage::new();
        let path = PathBuf::from("/file");
        let file = storage.create_file(&path, packed.len() as u64).unwrap();
        file.write_all_at(0, &packed).unwrap();
        let counted = Arc::new(Counted(storage.open_file(&path).unwrap(), AtomicU64::new(0)));
        let mut file = UnpackedFile::new(path, Arc::<Counted>::clone(&counted), &Arc::default());
        let part = PackedPart {
            packed: Packed::Range(0..packed.len() as u64),
            len_bytes: LEN_BYTES,
            packing: Packing::Deflate { crc: crc32fast::hash(&expected) },
        };
        let start = file.add(part).unwrap();
        // In step: a thread that is held up for long finds its bytes gone and unpacks the part once more.
        let barrier = std::sync::Barrier::new(to_index(N_THREADS));
        let work = |first: u64| {
            let mut out = vec![0; to_index(READ_BYTES)];
            for from in (first..LEN_BYTES).step_by(to_index(N_THREADS * READ_BYTES)) {
                barrier.wait();
                file.read_exact_at(start + from, &mut out).unwrap();
                assert!(out == expected[to_index(from)..][..out.len()], "{from}");
            }
        };
        let work = &work;
        std::thread::scope(|scope| {
            (0..N_THREADS).for_each(|i| drop(scope.spawn(move || work(i * READ_BYTES))));
        });
        assert_eq!(counted.1.load(Ordering::Relaxed), packed.len() as u64);
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
        assert!(refuse(&packed, 4999, crc32fast::hash(&expected[..4999])).contains("more compressed data"));
        assert!(refuse(&packed, 5000, crc ^ 1).contains("do not match the CRC-32"));
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
