//! Large outputs: bytes are gathered in blocks, and threads write each full one while the caller continues. What does
//! not fill a block goes through the page cache.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::pool::{
    BLOCK_BYTES, BUFFER_BYTES, Buffer, MAX_BUFFERS, MAX_IN_FLIGHT, Pool, is_on_local_disk, open_direct, parts_of,
    start_of,
};
use crate::mutex::lock_mutex;

/// Blocks of a file that are being filled at once: two workers, each within its unit and at both ends of it.
const BLOCKS_PER_FILE: usize = 5;

/// The bytes of a block that are not written yet.
#[derive(Debug)]
struct Block {
    buffer: Buffer,
    /// Which of its bytes are there: in order, with gaps between them.
    filled: Vec<Range<usize>>,
}

impl Block {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let mut new = at..at + bytes.len();
        self.buffer.bytes_mut()[new.clone()].copy_from_slice(bytes);
        self.filled.retain(|old| {
            let touches = old.start <= new.end && new.start <= old.end;
            if touches {
                new = new.start.min(old.start)..new.end.max(old.end);
            }
            !touches
        });
        let place = self.filled.partition_point(|old| old.start < new.start);
        self.filled.insert(place, new);
    }

    fn is_full(&self) -> bool {
        self.filled.first().is_some_and(|first| first.len() == BLOCK_BYTES)
    }
}

/// A full block that waits for its turn.
#[derive(Debug)]
struct Job {
    buffer: Buffer,
    block_idx: u64,
    target: Arc<Target>,
}

impl Job {
    fn write(&self) -> io::Result<()> {
        let (bytes, start) = (self.buffer.bytes(), start_of(self.block_idx));
        match self.target.direct.write_all_at(bytes, start) {
            // The file system wants other boundaries, or takes no direct writes here after all.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.target.plain.write_all_at(bytes, start),
            outcome => outcome,
        }
    }

    /// Writes the block, and says so to those who wait for it or for its memory.
    fn run(self, pool: &Pool) {
        let outcome = self.write();
        let Self { buffer, block_idx, target } = self;
        pool.end_flight(buffer);
        let mut progress = lock_mutex(&target.progress);
        progress.in_flight.retain(|other| *other != block_idx);
        progress.note(&outcome);
        drop(progress);
        target.changed.notify_all();
    }
}

/// Both openings of a file, and what became of the jobs for it.
#[derive(Debug)]
struct Target {
    direct: File,
    plain: Arc<File>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Blocks that are being written.
    in_flight: Vec<u64>,
    /// The first error, as the system numbers it.
    error: Option<i32>,
}

impl Progress {
    fn note(&mut self, outcome: &io::Result<()>) {
        if let Err(error) = outcome {
            self.error.get_or_insert(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
        }
    }

    fn outcome(&self) -> io::Result<()> {
        self.error.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }
}

impl Target {
    /// Waits until none of the blocks is being written.
    fn wait_for(&self, is_one: impl Fn(u64) -> bool) -> MutexGuard<'_, Progress> {
        let is_in_flight = |progress: &mut Progress| progress.in_flight.iter().any(|&block_idx| is_one(block_idx));
        let progress = lock_mutex(&self.progress);
        self.changed.wait_while(progress, is_in_flight).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads that write, and the files whose writes failed.
#[derive(Debug)]
pub(crate) struct DirectWriters {
    pool: Arc<Pool>,
    /// Files closed since whose error no caller has got, with the system's number of it: who syncs one by another
    /// opening must learn of it.
    failed: Mutex<BTreeMap<(u64, u64), i32>>,
}

impl Default for DirectWriters {
    fn default() -> Self {
        Self { pool: Arc::new(Pool::new(MAX_BUFFERS)), failed: Mutex::default() }
    }
}

impl DirectWriters {
    /// Memory for the blocks of `n_files` that are written at once.
    pub(crate) fn bytes_for(n_files: usize) -> u64 {
        let n_blocks = n_files.saturating_mul(BLOCKS_PER_FILE).saturating_add(MAX_IN_FLIGHT).min(MAX_BUFFERS);
        (n_blocks * BUFFER_BYTES) as u64
    }

    /// From now on no more than so many bytes are taken.
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.pool.set_limit(bytes);
    }

    /// A file of this identity is new: what another one with its number met is of no concern to it.
    pub(crate) fn forget(&self, id: (u64, u64)) {
        lock_mutex(&self.failed).remove(&id);
    }
}

/// A file whose full blocks are written directly. Dropping it waits for them.
#[derive(Debug)]
pub(crate) struct DirectFile {
    id: (u64, u64),
    target: Arc<Target>,
    writers: Arc<DirectWriters>,
    /// Blocks that are not full, by their index in the file.
    blocks: Mutex<BTreeMap<u64, Block>>,
    /// Whether a caller got the first error. It is that caller's then: who opens the file again may try again.
    is_told: AtomicBool,
}

impl DirectFile {
    /// `None` where the file system takes no direct writes, or is not known to be the faster for them.
    pub(crate) fn open(path: &Path, plain: &Arc<File>, writers: &Arc<DirectWriters>) -> Option<Self> {
        let direct = is_on_local_disk(plain).then(|| open_direct(path, OpenOptions::new().write(true))).flatten()?;
        let id = |file: &File| file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let found = id(plain).filter(|found| Some(*found) == id(&direct))?;
        Some(Self::new(found, direct, plain, writers))
    }

    fn new(id: (u64, u64), direct: File, plain: &Arc<File>, writers: &Arc<DirectWriters>) -> Self {
        let target = Target { direct, plain: Arc::clone(plain), progress: Mutex::default(), changed: Condvar::new() };
        writers.pool.add_file();
        Self {
            id,
            target: Arc::new(target),
            writers: Arc::clone(writers),
            blocks: Mutex::default(),
            is_told: AtomicBool::new(false),
        }
    }

    /// Takes the bytes, to be written by and by.
    ///
    /// # Errors
    /// What a write met, also an earlier one.
    pub(crate) fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        let written = parts_of(offset..offset + bytes.len() as u64).try_for_each(|(block_idx, part)| {
            let (now, later) = left.split_at(part.len());
            left = later;
            self.write_in_block(block_idx, part.start, now)
        });
        self.tell(written)
    }

    /// Notes that the caller gets an error.
    fn tell(&self, outcome: io::Result<()>) -> io::Result<()> {
        outcome.inspect_err(|_| self.is_told.store(true, Ordering::Relaxed))
    }

    fn write_in_block(&self, block_idx: u64, at: usize, bytes: &[u8]) -> io::Result<()> {
        let mut blocks = lock_mutex(&self.blocks);
        let mut block = match blocks.entry(block_idx) {
            Entry::Occupied(block) => block,
            Entry::Vacant(place) => {
                // What is written twice must be written in that order.
                self.target.wait_for(|other| other == block_idx).outcome()?;
                let Some(buffer) = self.writers.pool.take() else {
                    self.write_first_partly(&mut blocks)?;
                    return self.target.plain.write_all_at(bytes, start_of(block_idx) + at as u64);
                };
                place.insert_entry(Block { buffer, filled: Vec::new() })
            }
        };
        block.get_mut().put(at, bytes);
        // Under the lock: the next write to this block finds it here or in flight.
        if block.get().is_full() {
            self.submit(block_idx, block.remove());
        }
        Ok(())
    }

    fn submit(&self, block_idx: u64, block: Block) {
        let pool = &self.writers.pool;
        pool.begin_flight();
        lock_mutex(&self.target.progress).in_flight.push(block_idx);
        let job = Job { buffer: block.buffer, block_idx, target: Arc::clone(&self.target) };
        let held = Arc::clone(pool);
        pool.run(Box::new(move || job.run(&held)));
    }

    /// Writes what will not fill its block soon through the page cache.
    fn write_partly_filled(&self, blocks: &mut BTreeMap<u64, Block>) -> io::Result<()> {
        let mut outcome = Ok(());
        while !blocks.is_empty() {
            outcome = outcome.and(self.write_first_partly(blocks));
        }
        outcome
    }

    /// As `write_partly_filled`, for the first block alone: its memory is then free for blocks that can be filled.
    fn write_first_partly(&self, blocks: &mut BTreeMap<u64, Block>) -> io::Result<()> {
        let Some((block_idx, Block { buffer, filled })) = blocks.pop_first() else { return Ok(()) };
        let write = |range: Range<usize>| {
            let start = start_of(block_idx) + range.start as u64;
            self.target.plain.write_all_at(&buffer.bytes()[range], start)
        };
        let outcome = filled.into_iter().try_for_each(write);
        self.writers.pool.give_back(buffer);
        lock_mutex(&self.target.progress).note(&outcome);
        outcome
    }

    /// Whether all writes so far succeeded.
    ///
    /// # Errors
    /// What a write met.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.tell(lock_mutex(&self.target.progress).outcome())
    }

    /// Returns once all bytes taken so far are in the file.
    ///
    /// # Errors
    /// What a write met, also one by an earlier opening of the file of which no caller knows.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let earlier = lock_mutex(&self.writers.failed).remove(&self.id);
        if let Some(error) = earlier {
            lock_mutex(&self.target.progress).note(&Err(io::Error::from_raw_os_error(error)));
        }
        self.tell(self.write_all())
    }

    /// Nothing is in flight once this returns, also where a write failed: it would overwrite what the next opening
    /// writes.
    fn write_all(&self) -> io::Result<()> {
        let written = self.write_partly_filled(&mut lock_mutex(&self.blocks));
        written.and(self.target.wait_for(|_| true).outcome())
    }
}

impl Drop for DirectFile {
    fn drop(&mut self) {
        if let Err(error) = self.write_all()
            && !*self.is_told.get_mut()
        {
            let error = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            lock_mutex(&self.writers.failed).entry(self.id).or_insert(error);
        }
        self.writers.pool.remove_file();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: usize = 5 * BLOCK_BYTES + 1234;

    /// A file of zeros that is written directly where that works, and through the page cache where not.
    fn file(folder: &Path, writers: &Arc<DirectWriters>) -> (Arc<File>, DirectFile) {
        let path = folder.join("output");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let plain = Arc::new(options.open(&path).unwrap());
        plain.set_len(FILE_BYTES as u64).unwrap();
        let direct = open_direct(&path, OpenOptions::new().write(true)).unwrap_or_else(|| options.open(&path).unwrap());
        let metadata = plain.metadata().unwrap();
        let direct = DirectFile::new((metadata.dev(), metadata.ino()), direct, &plain, writers);
        (plain, direct)
    }

    fn content(plain: &File) -> Vec<u8> {
        let mut found = vec![0; FILE_BYTES];
        plain.read_exact_at(&mut found, 0).unwrap();
        found
    }

    /// Pieces of a file in no order, of all lengths, some of them written twice.
    fn pieces() -> Vec<(usize, Vec<u8>)> {
        let mut state = 7_u64;
        let mut draw = move |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % n
        };
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < FILE_BYTES {
            let n_bytes = [1, 96, 4096, 40_000, BLOCK_BYTES, BLOCK_BYTES + 1][draw(6)].min(FILE_BYTES - at);
            pieces.push((at, (0..n_bytes).map(|i| u8::try_from((i + at) % 251).unwrap()).collect::<Vec<u8>>()));
            at += n_bytes;
        }
        for _ in 0..3 * pieces.len() {
            let (a, b) = (draw(pieces.len()), draw(pieces.len()));
            pieces.swap(a, b);
        }
        let again: Vec<_> = pieces.iter().step_by(3).map(|(at, bytes)| (*at, vec![255; bytes.len()])).collect();
        pieces.extend(again);
        pieces
    }

    #[test]
    fn pieces_in_any_order_make_the_file_whatever_the_memory() {
        for limit in [u64::MAX, 3 << 20, 300_000, 0] {
            let folder = tempfile::tempdir().unwrap();
            let writers = Arc::new(DirectWriters::default());
            writers.set_limit(limit);
            let (plain, direct) = file(folder.path(), &writers);
            let mut expected = vec![0; FILE_BYTES];
            for (at, bytes) in pieces() {
                expected[at..at + bytes.len()].copy_from_slice(&bytes);
                direct.write_all_at(at as u64, &bytes).unwrap();
            }
            direct.settle().unwrap();
            assert!(content(&plain) == expected, "with {limit} bytes");
            assert_eq!(writers.pool.n_buffers() == 0, limit == 0);
            drop(direct);
            assert!(!writers.pool.has_threads());
            assert_eq!(writers.pool.n_buffers(), 0);
        }
    }

    #[test]
    fn threads_that_share_blocks_make_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let writers = Arc::new(DirectWriters::default());
        let (plain, direct) = file(folder.path(), &writers);
        let expected: Vec<u8> = (0..FILE_BYTES).map(|i| u8::try_from(i % 253).unwrap()).collect();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (direct, expected) = (&direct, &expected);
                scope.spawn(move || {
                    for at in (worker * 10_000..FILE_BYTES).step_by(30_000) {
                        let end = FILE_BYTES.min(at + 10_000);
                        direct.write_all_at(at as u64, &expected[at..end]).unwrap();
                    }
                });
            }
        });
        // Another opening then sees all of it.
        drop(direct);
        assert!(content(&plain) == expected);
    }

    #[test]
    fn an_error_of_a_thread_is_told_once_and_the_file_may_then_be_opened_again() {
        const BAD: Option<i32> = Some(Errno::BADF.raw_os_error());
        let folder = tempfile::tempdir().unwrap();
        let writers = Arc::new(DirectWriters::default());
        let (plain, first) = file(folder.path(), &writers);
        let id = first.id;
        drop(first);
        let fail = || {
            let read_only = File::open(folder.path().join("output")).unwrap();
            let failing = DirectFile::new(id, read_only, &plain, &writers);
            failing.write_all_at(0, &vec![1; BLOCK_BYTES]).unwrap();
            failing
        };
        // No caller knows yet when it is closed: the next opening fails, whatever is done with it.
        drop(fail());
        let (_, next) = file(folder.path(), &writers);
        assert_eq!(next.settle().unwrap_err().raw_os_error(), BAD);
        assert_eq!(next.settle().unwrap_err().raw_os_error(), BAD);
        next.write_all_at(0, &[1]).unwrap_err();
        next.check().unwrap_err();
        drop(next);
        // A caller got it, and begins again once there is room on the disk.
        let check_told = |told: &dyn Fn(&DirectFile) -> io::Result<()>| {
            let failing = fail();
            assert_eq!(told(&failing).unwrap_err().raw_os_error(), BAD);
            drop(failing);
            file(folder.path(), &writers).1.settle().unwrap();
        };
        check_told(&DirectFile::settle);
        check_told(&|failing| {
            drop(failing.target.wait_for(|_| true));
            failing.write_all_at(0, &[1])
        });
        // What is new has no past.
        drop(fail());
        writers.forget(id);
        file(folder.path(), &writers).1.settle().unwrap();
    }
}
