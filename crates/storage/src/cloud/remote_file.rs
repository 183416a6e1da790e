//! An object opened for positioned reads, always of the version that was opened.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::block_cache::{Ask, BlockKey, BlockSize, Need, SMALL_OBJECT_BYTES};
use super::fault::Fault;
use super::listing::{Found, Object};
use super::remote::Remote;
use crate::error::RemoteFault;
use crate::{Error, FileInfo, ReadAt};

/// Reads at least as large, or that continue the last one, come in large blocks.
const LARGE_READ_BYTES: u64 = BlockSize::Small.bytes();
/// A read that begins within this after the last one continues it.
const NEAR_BYTES: u64 = 1 << 20;
/// Large blocks that are asked for ahead of the one that is read.
const LEAST_BLOCKS_AHEAD: u64 = 2;
/// The same once a reader has come this many blocks further, where there is room: four objects then keep all requests
/// that may be under way busy, which a store with slow answers needs.
const MOST_BLOCKS_AHEAD: u64 = 8;
/// Threads that read a part each are this many blocks apart at most.
const NEAR_BLOCKS: u64 = 32;

/// An object that is open.
#[derive(Debug)]
pub(super) struct RemoteFile {
    remote: Arc<Remote>,
    path: PathBuf,
    key: String,
    object: Object,
    /// Key and version, as the cache names it.
    name: Arc<str>,
    last_end: AtomicU64,
    /// The large block that was read last, and the first of those before it without a jump.
    last_block: AtomicU64,
    first_block: AtomicU64,
    /// Bytes from the beginning on that were read in small blocks: the header.
    head_bytes: AtomicU64,
}

impl RemoteFile {
    pub(super) fn new(remote: &Arc<Remote>, key: &str, object: Object) -> Self {
        let path = remote.path_of(key);
        let name = remote.block_name(key, &object);
        let (remote, key) = (Arc::clone(remote), key.to_owned());
        let none = || AtomicU64::new(u64::MAX);
        let (last_end, last_block, first_block) = (none(), none(), none());
        let head_bytes = AtomicU64::new(0);
        Self { remote, path, key, object, name, last_end, last_block, first_block, head_bytes }
    }

    /// Asks for the beginning, unless it is here.
    pub(super) fn ask_head(&self) {
        if self.object.len_bytes > 0 {
            self.ask(self.small_size(), 0, Need::Soon);
        }
    }

    /// Small objects come whole.
    fn small_size(&self) -> BlockSize {
        if self.object.len_bytes <= SMALL_OBJECT_BYTES { BlockSize::Large } else { BlockSize::Small }
    }

    fn block(&self, size: BlockSize, number: u64) -> (BlockKey, Range<u64>) {
        let start = number * size.bytes();
        let end = (start + size.bytes()).min(self.object.len_bytes);
        ((Arc::clone(&self.name), size, number), start..end)
    }

    fn ask(&self, size: BlockSize, number: u64, need: Need) -> Ask {
        let (block, range) = self.block(size, number);
        let n_bytes = range.end - range.start;
        let asked = self.remote.blocks().ask(&block, n_bytes, need);
        if asked == Ask::Fetch {
            self.remote.fetch_block(block, &self.key, &self.object, range);
        }
        asked
    }

    /// In which blocks a read of `n_bytes` at `offset` comes.
    fn size_for(&self, offset: u64, n_bytes: u64) -> BlockSize {
        let last_end = self.last_end.swap(offset + n_bytes, Ordering::Relaxed);
        let has = |size: BlockSize, first: u64, last: u64| {
            (first / size.bytes()..=last / size.bytes())
                .all(|number| self.remote.blocks().has(&self.block(size, number).0))
        };
        let last = offset + n_bytes - 1;
        if n_bytes >= LARGE_READ_BYTES || has(BlockSize::Large, offset, last) || self.small_size() == BlockSize::Large {
            return BlockSize::Large;
        }
        // Another thread may have read elsewhere since this one read what comes before.
        let continues = offset >= last_end && offset - last_end < NEAR_BYTES
            || offset > 0 && has(BlockSize::Small, offset - 1, offset - 1);
        if continues && !has(BlockSize::Small, offset, last) { BlockSize::Large } else { BlockSize::Small }
    }

    /// Asks for the large blocks beyond block `number`: for more the further a reader has come, so that a single read
    /// brings little else.
    fn ask_ahead(&self, number: u64) {
        let n_blocks = self.object.len_bytes.div_ceil(BlockSize::Large.bytes());
        let last = self.last_block.swap(number, Ordering::Relaxed);
        let is_jump = number > last.saturating_add(NEAR_BLOCKS) || number.saturating_add(NEAR_BLOCKS) < last;
        if is_jump && last != u64::MAX {
            self.first_block.store(number, Ordering::Relaxed);
        }
        let first = self.first_block.fetch_min(number, Ordering::Relaxed);
        let n_ahead = (LEAST_BLOCKS_AHEAD + number.saturating_sub(first)).min(MOST_BLOCKS_AHEAD);
        for ahead in number + 1..n_blocks.min(number + 1 + n_ahead) {
            if self.ask(BlockSize::Large, ahead, Need::Guess) == Ask::NoRoom {
                return;
            }
        }
    }

    /// A read within a large block that is being read. Returns whether it was one.
    fn read_more(&self, offset: u64, out: &mut [u8]) -> bool {
        let (end, size) = (offset + out.len() as u64, BlockSize::Large);
        let number = offset / size.bytes();
        if (end - 1) / size.bytes() != number {
            return false;
        }
        let start = to_index(offset - number * size.bytes());
        let place = (start, self.read_elsewhere(size, number));
        let is_done = self.remote.blocks().copy_more(&self.block(size, number).0, place, out);
        if is_done {
            self.last_end.store(end, Ordering::Relaxed);
        }
        is_done
    }

    /// Bytes of a block that were read in blocks of the other size.
    fn read_elsewhere(&self, size: BlockSize, number: u64) -> usize {
        let is_first = size == BlockSize::Large && number == 0;
        if is_first { to_index(self.head_bytes.load(Ordering::Relaxed)) } else { 0 }
    }

    fn read_block(&self, size: BlockSize, number: u64, start: usize, out: &mut [u8]) -> Result<(), Error> {
        /// A block may be dropped for room between its arrival and the copy, but this cannot repeat forever.
        const MAX_ATTEMPTS: usize = 100;
        let (block, _) = self.block(size, number);
        for _ in 0..MAX_ATTEMPTS {
            self.ask(size, number, Need::Now);
            match self.remote.blocks().copy(&block, (start, self.read_elsewhere(size, number)), out) {
                Some(Ok(())) => return Ok(()),
                Some(Err(fault)) => return Err(fault.into_error("read", &self.path)),
                None => {}
            }
        }
        let fault = Fault::new(RemoteFault::Garbled, "a block was dropped repeatedly");
        Err(fault.into_error("read", &self.path))
    }
}

impl ReadAt for RemoteFile {
    fn info(&self) -> FileInfo {
        self.object.info(&self.key)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let n_bytes = out.len() as u64;
        let wanted_bytes = offset.saturating_add(n_bytes);
        let found_bytes = self.object.len_bytes;
        if wanted_bytes > found_bytes {
            self.check_unchanged()?;
            return Err(Error::Truncated { path: self.path.clone(), wanted_bytes, found_bytes });
        }
        if out.is_empty() {
            return Ok(());
        }
        if self.read_more(offset, out) {
            return Ok(());
        }
        let size = self.size_for(offset, n_bytes);
        let (first, last) = (offset / size.bytes(), (wanted_bytes - 1) / size.bytes());
        for number in first..=last {
            self.ask(size, number, Need::Now);
        }
        if size == BlockSize::Small && offset <= self.head_bytes.load(Ordering::Relaxed) {
            self.head_bytes.fetch_max(wanted_bytes, Ordering::Relaxed);
        }
        if size == BlockSize::Large {
            self.ask_ahead(last);
        }
        let mut rest = out;
        for number in first..=last {
            let begin = offset.max(number * size.bytes());
            let end = wanted_bytes.min((number + 1) * size.bytes());
            let (part, more) = rest.split_at_mut(to_index(end - begin));
            self.read_block(size, number, to_index(begin - number * size.bytes()), part)?;
            rest = more;
        }
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match self.remote.find(&self.key, "read")? {
            Found::File(object) if object == self.object => Ok(()),
            _ => Err(Error::Changed { path: self.path.clone() }),
        }
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        let end = offset.saturating_add(len_bytes).min(self.object.len_bytes);
        if offset >= end {
            return;
        }
        let size = BlockSize::Large;
        for number in offset / size.bytes()..=(end - 1) / size.bytes() {
            self.ask(size, number, Need::Soon);
        }
    }
}

/// Lengths of slices that exist fit.
fn to_index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
