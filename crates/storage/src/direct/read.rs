//! Sources that are read once: blocks that will be needed are read by threads, into memory of ours.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use super::pool::{
    BLOCK_BYTES, BUFFER_BYTES, Buffer, MAX_BUFFERS, Pool, is_on_local_disk, open_direct, parts_of, start_of,
};
use crate::mutex::lock_mutex;

/// Blocks of a file that are held at once: two workers, each with what it reads and what it reads next.
const BLOCKS_PER_FILE: usize = 20;
/// More are not kept of one file: blocks that are never used up, such as those of tensors that are not merged, must go.
const MAX_BLOCKS_PER_FILE: usize = 64;

/// The threads that read, and their memory. Nothing is read ahead until there is a limit.
#[derive(Debug)]
pub(crate) struct DirectReaders {
    pool: Arc<Pool>,
    max_files: usize,
}

impl DirectReaders {
    /// More files are never read so at once.
    pub(crate) const MAX_FILES: usize = 128;
    /// Descriptors that each takes.
    pub(crate) const DESCRIPTORS_PER_FILE: usize = 2;

    /// For at most `max_files` at once.
    pub(crate) fn new(max_files: usize) -> Self {
        Self { pool: Arc::new(Pool::new(0)), max_files: max_files.min(Self::MAX_FILES) }
    }

    /// Memory for reading `n_files` at once.
    pub(crate) fn bytes_for(n_files: usize) -> u64 {
        (n_files.saturating_mul(BLOCKS_PER_FILE).min(MAX_BUFFERS) * BUFFER_BYTES) as u64
    }

    /// From now on no more than so many bytes are taken.
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.pool.set_limit(bytes);
    }

    /// Whether anything is to be read so.
    pub(crate) fn is_on(&self) -> bool {
        self.pool.limit() > 0
    }

    /// Whether files that have nothing ahead should be closed.
    pub(crate) fn is_crowded(&self) -> bool {
        self.pool.n_files() > self.max_files / 2
    }
}

/// How many source files a process with this limit of descriptors keeps open, and how many of them it reads ahead.
pub(crate) fn files_within(max_descriptors: usize) -> (usize, usize) {
    /// Left for outputs, locks, libraries and standard streams.
    const RESERVE: usize = 64;
    /// Fewer source files are not kept open.
    const LEAST: usize = 16;
    let left = max_descriptors.saturating_sub(RESERVE);
    let n_ahead = left.saturating_sub(LEAST) / 3 / DirectReaders::DESCRIPTORS_PER_FILE;
    let n_ahead = n_ahead.min(DirectReaders::MAX_FILES);
    ((left - n_ahead * DirectReaders::DESCRIPTORS_PER_FILE).clamp(LEAST, 1024), n_ahead)
}

#[derive(Debug)]
enum State {
    Reading,
    /// So many bytes of the buffer are there: fewer than a block at the file's end.
    Read(Buffer, usize),
    Failed,
}

/// A block that is being read, or was.
#[derive(Debug)]
struct Ahead {
    state: Mutex<State>,
    done: Condvar,
    n_used: AtomicUsize,
    pool: Arc<Pool>,
    /// The process that reads it: after a fork the other one has no thread that does.
    process_id: u32,
}

impl Ahead {
    fn new(pool: &Arc<Pool>) -> Self {
        let (state, process_id) = (Mutex::new(State::Reading), std::process::id());
        Self { state, done: Condvar::new(), n_used: AtomicUsize::new(0), pool: Arc::clone(pool), process_id }
    }

    /// Copies bytes of the block, once they are read. `false` if they could not be.
    fn copy(&self, part: &Range<usize>, out: &mut [u8]) -> bool {
        let is_here = self.process_id == std::process::id();
        let is_reading = |state: &mut State| matches!(state, State::Reading) && is_here;
        let state = self.done.wait_while(lock_mutex(&self.state), is_reading).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Read(buffer, n_read) if part.end <= *n_read => {
                out.copy_from_slice(&buffer.bytes()[part.clone()]);
                true
            }
            _ => false,
        }
    }

    fn fill(&self, file: &File, mut buffer: Buffer, block_idx: u64) {
        let read = read_block(file, buffer.bytes_mut(), start_of(block_idx));
        *lock_mutex(&self.state) = match read {
            Ok(n_read) => State::Read(buffer, n_read),
            Err(_) => {
                self.pool.give_back(buffer);
                State::Failed
            }
        };
        self.done.notify_all();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let State::Read(buffer, _) = std::mem::replace(&mut *lock_mutex(&self.state), State::Failed) {
            self.pool.give_back(buffer);
        }
    }
}

/// Reads up to a whole block, less at the file's end.
fn read_block(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n_read = 0;
    while n_read < out.len() {
        match file.read_at(&mut out[n_read..], offset + n_read as u64) {
            Ok(0) => break,
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // After a short read the rest begins between two sectors: it is the end of the file.
            Err(_) if n_read > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(n_read)
}

/// Why a file is not read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotAhead {
    /// Too many others are.
    TooMany,
    /// Its file system does not serve direct reads faster, or it is not the same file any more.
    Never,
}

/// A source file that is read ahead, past the page cache.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    direct: Arc<File>,
    /// Asked whether bytes are in the page cache; reads nothing ahead itself.
    probe: File,
    len_bytes: u64,
    readers: Arc<DirectReaders>,
    blocks: Mutex<BTreeMap<u64, Arc<Ahead>>>,
}

impl ReadAhead {
    /// `is_same` compares what was opened here with the file that is read otherwise.
    fn open(
        path: &Path,
        len_bytes: u64,
        is_same: impl Fn(&File) -> bool,
        readers: &Arc<DirectReaders>,
    ) -> Result<Self, NotAhead> {
        if !readers.pool.add_file_below(readers.max_files) {
            return Err(NotAhead::TooMany);
        }
        let open_both = || {
            let direct = open_direct(path, OpenOptions::new().read(true))?;
            let probe = File::open(path).ok()?;
            (is_on_local_disk(&direct) && is_same(&direct) && is_same(&probe)).then_some((direct, probe))
        };
        let Some((direct, probe)) = open_both() else {
            readers.pool.remove_file();
            return Err(NotAhead::Never);
        };
        Ok(Self::new(direct, probe, len_bytes, readers))
    }

    /// For a file that was added to the pool.
    fn new(direct: File, probe: File, len_bytes: u64, readers: &Arc<DirectReaders>) -> Self {
        let _ = rustix::fs::fadvise(&probe, 0, NonZeroU64::new(len_bytes), Advice::Random);
        Self { direct: Arc::new(direct), probe, len_bytes, readers: Arc::clone(readers), blocks: Mutex::default() }
    }

    /// Begins to read the blocks that hold these bytes, as far as there is memory. Returns whether the page cache has
    /// them already, and they are better read from there.
    pub(crate) fn begin(&self, range: &Range<u64>) -> bool {
        if self.is_cached(range.start) && self.is_cached(range.end.saturating_sub(1)) {
            return true;
        }
        let mut blocks = lock_mutex(&self.blocks);
        for (block_idx, _) in parts_of(range.start..range.end.min(self.len_bytes)) {
            if blocks.contains_key(&block_idx) {
                continue;
            }
            let Some(buffer) = self.readers.pool.try_take() else { break };
            let ahead = Arc::new(Ahead::new(&self.readers.pool));
            blocks.insert(block_idx, Arc::clone(&ahead));
            let file = Arc::clone(&self.direct);
            self.readers.pool.run(Box::new(move || ahead.fill(&file, buffer, block_idx)));
        }
        while blocks.len() > MAX_BLOCKS_PER_FILE {
            blocks.pop_first();
        }
        false
    }

    fn is_cached(&self, offset: u64) -> bool {
        let mut byte = [0];
        let flags = ReadWriteFlags::NOWAIT;
        // A file system that cannot tell is left to its cache.
        rustix::io::preadv2(&self.probe, &mut [IoSliceMut::new(&mut byte)], offset, flags) != Err(Errno::AGAIN)
    }

    /// Fills `out` from `offset` on; what was not read ahead is read by `otherwise`.
    pub(crate) fn read_exact_at(
        &self,
        offset: u64,
        out: &mut [u8],
        otherwise: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut left = out;
        for (block_idx, part) in parts_of(offset..offset + left.len() as u64) {
            let (now, later) = left.split_at_mut(part.len());
            let ahead = lock_mutex(&self.blocks).get(&block_idx).map(Arc::clone);
            if !ahead.is_some_and(|ahead| ahead.copy(&part, now)) {
                otherwise(start_of(block_idx) + part.start as u64, now)?;
            }
            left = later;
        }
        Ok(())
    }

    /// Lets go of blocks whose bytes have all been used.
    pub(crate) fn end(&self, range: &Range<u64>) {
        let mut blocks = lock_mutex(&self.blocks);
        for (block_idx, part) in parts_of(range.clone()) {
            let n_wanted = usize::try_from(self.len_bytes.saturating_sub(start_of(block_idx)))
                .unwrap_or(usize::MAX)
                .min(BLOCK_BYTES);
            let is_used = blocks
                .get(&block_idx)
                .is_some_and(|ahead| ahead.n_used.fetch_add(part.len(), Ordering::Relaxed) + part.len() >= n_wanted);
            if is_used {
                blocks.remove(&block_idx);
            }
        }
    }

    /// Whether nothing is ahead.
    pub(crate) fn is_empty(&self) -> bool {
        lock_mutex(&self.blocks).is_empty()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        lock_mutex(&self.blocks).clear();
        self.readers.pool.remove_file();
    }
}

/// Whether a file is open to be read ahead.
#[derive(Debug, Default)]
pub(crate) enum AheadState {
    #[default]
    Closed,
    Open(Arc<ReadAhead>),
    /// It was tried in vain: on a network file system each further attempt would be a request.
    Never,
}

impl AheadState {
    pub(crate) fn opened(&self) -> Option<&Arc<ReadAhead>> {
        match self {
            Self::Open(ahead) => Some(ahead),
            Self::Closed | Self::Never => None,
        }
    }

    /// What reads the file ahead, opened if it is closed. `is_same` compares what was opened here with the file that
    /// is read otherwise.
    pub(crate) fn open(
        &mut self,
        path: &Path,
        len_bytes: u64,
        is_same: impl Fn(&File) -> bool,
        readers: &Arc<DirectReaders>,
    ) -> Option<Arc<ReadAhead>> {
        if let Self::Closed = self {
            *self = match ReadAhead::open(path, len_bytes, is_same, readers) {
                Ok(opened) => Self::Open(Arc::new(opened)),
                Err(NotAhead::TooMany) => Self::Closed,
                Err(NotAhead::Never) => Self::Never,
            };
        }
        self.opened().map(Arc::clone)
    }

    pub(crate) fn close(&mut self) {
        if let Self::Open(_) = self {
            *self = Self::Closed;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const FILE_BYTES: usize = 4 * BLOCK_BYTES + 777;

    fn content() -> Vec<u8> {
        (0..FILE_BYTES).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    fn opened(folder: &Path, limit: u64) -> (Arc<DirectReaders>, ReadAhead) {
        let path = folder.join("source");
        std::fs::write(&path, content()).unwrap();
        let open = || File::open(&path).unwrap();
        let direct = open_direct(&path, OpenOptions::new().read(true)).unwrap_or_else(open);
        let readers = Arc::new(DirectReaders::new(1));
        readers.set_limit(limit);
        readers.pool.add_file();
        let ahead = ReadAhead::new(direct, open(), FILE_BYTES as u64, &readers);
        (readers, ahead)
    }

    /// What `begin` does where the page cache has nothing.
    fn begin(ahead: &ReadAhead, range: &Range<u64>) {
        rustix::fs::fsync(&ahead.probe).unwrap();
        let _ = rustix::fs::fadvise(&ahead.probe, 0, None, Advice::DontNeed);
        ahead.begin(range);
    }

    #[test]
    fn bytes_are_those_of_the_file_whatever_was_read_ahead() {
        for limit in [0, 2 * BUFFER_BYTES as u64, 64 << 20] {
            let folder = tempfile::tempdir().unwrap();
            let (readers, ahead) = opened(folder.path(), limit);
            let expected = content();
            let plain = File::open(folder.path().join("source")).unwrap();
            begin(&ahead, &(1000..FILE_BYTES as u64));
            for at in (0..FILE_BYTES).step_by(70_000) {
                let range = at..FILE_BYTES.min(at + 70_000);
                let mut out = vec![0; range.len()];
                ahead.read_exact_at(at as u64, &mut out, |at, out| plain.read_exact_at(out, at)).unwrap();
                assert!(out == expected[range.clone()], "{range:?} with {limit}");
                ahead.end(&(range.start as u64..range.end as u64));
            }
            assert!(ahead.is_empty());
            drop(ahead);
            // A block that was read only now is given back by its thread.
            while readers.pool.n_buffers() > 0 {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_was_read_ahead_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (_, ahead) = opened(folder.path(), 64 << 20);
        begin(&ahead, &(0..FILE_BYTES as u64));
        if ahead.is_empty() {
            return; // This file system's cache holds all files.
        }
        let was_read = AtomicBool::new(false);
        let mut out = vec![0; FILE_BYTES];
        let otherwise = |_, _: &mut [u8]| {
            was_read.store(true, Ordering::Relaxed);
            Ok(())
        };
        ahead.read_exact_at(0, &mut out, otherwise).unwrap();
        assert!(!was_read.into_inner());
        assert!(out == content());
    }

    #[test]
    fn files_that_are_read_ahead_count_against_the_limit_of_descriptors() {
        assert_eq!((files_within(1024), files_within(usize::MAX)), ((704, 128), (1024, 128)));
        for limit in 80..2000 {
            let (n_files, n_ahead) = files_within(limit);
            assert!(n_files + n_ahead * DirectReaders::DESCRIPTORS_PER_FILE + 64 <= limit, "{limit}");
        }
        assert_eq!((files_within(64), files_within(0)), ((16, 0), (16, 0)));
    }

    #[test]
    fn no_more_files_are_open_than_there_is_room_for_also_after_one_that_cannot_be_read_so() {
        let folder = tempfile::tempdir().unwrap();
        let (readers, ahead) = opened(folder.path(), 64 << 20);
        let n_tried = AtomicUsize::new(0);
        let open = |state: &mut AheadState| {
            let is_same = |_: &File| {
                n_tried.fetch_add(1, Ordering::Relaxed);
                false
            };
            state.open(&folder.path().join("source"), FILE_BYTES as u64, is_same, &readers)
        };
        let mut state = AheadState::default();
        assert!(open(&mut state).is_none());
        assert!(matches!(state, AheadState::Closed), "there is room again later");
        assert_eq!(readers.pool.n_files(), 1);
        drop(ahead);
        for _ in 0..2 {
            assert!(open(&mut state).is_none());
            state.close();
            assert!(matches!(state, AheadState::Never));
        }
        assert!(n_tried.into_inner() <= 1, "what is in vain is not tried again");
        assert_eq!(readers.pool.n_files(), 0);
    }

    #[test]
    fn after_a_fork_nothing_waits_for_threads_of_the_other_process() {
        let folder = tempfile::tempdir().unwrap();
        let (readers, ahead) = opened(folder.path(), 64 << 20);
        readers.pool.pretend_fork();
        let mut in_other_process = Ahead::new(&readers.pool);
        in_other_process.process_id = 0;
        lock_mutex(&ahead.blocks).insert(1, Arc::new(in_other_process));
        begin(&ahead, &(0..FILE_BYTES as u64));
        let mut out = vec![0; FILE_BYTES];
        let plain = File::open(folder.path().join("source")).unwrap();
        ahead.read_exact_at(0, &mut out, |at, out| plain.read_exact_at(out, at)).unwrap();
        assert!(out == content());
        readers.pool.pretend_fork();
        drop(ahead);
        assert!(!readers.pool.has_threads());
    }

    #[test]
    fn a_file_that_became_shorter_is_read_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let (_, ahead) = opened(folder.path(), 64 << 20);
        std::fs::OpenOptions::new().write(true).open(folder.path().join("source")).unwrap().set_len(100).unwrap();
        begin(&ahead, &(BLOCK_BYTES as u64..FILE_BYTES as u64));
        let mut out = vec![0; 10];
        let otherwise = |_, _: &mut [u8]| Err(io::ErrorKind::UnexpectedEof.into());
        let error = ahead.read_exact_at(BLOCK_BYTES as u64, &mut out, otherwise).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
