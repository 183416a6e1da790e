//! Aligned buffers, and threads that move them between memory and disk.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::mutex::lock_mutex;

/// Direct access begins and ends at multiples of this, in the file and in memory: no disk in use has larger sectors.
const PAGE_BYTES: usize = 4096;
/// What one direct read or write moves. Half of it was slower, four times as much no faster.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// What a buffer takes.
pub(super) const BUFFER_BYTES: usize = BLOCK_BYTES + PAGE_BYTES;
/// Buffers in memory, where that is allowed: 96 MiB in all.
pub(super) const MAX_BUFFERS: usize = 384;
/// Blocks that may wait for the disk before the one who fills them must.
pub(super) const MAX_IN_FLIGHT: usize = 32;
/// Each waits for one block at a time: so many keep a disk busy.
const N_THREADS: usize = 8;

/// The block that holds a byte of a file.
pub(super) fn block_of(offset: u64) -> u64 {
    offset / BLOCK_BYTES as u64
}

/// The first byte of a block.
pub(super) fn start_of(block_idx: u64) -> u64 {
    block_idx * BLOCK_BYTES as u64
}

/// Where a range of a file lies in its blocks: the block, and the bytes of it.
pub(super) fn parts_of(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let blocks = block_of(range.start)..range.end.div_ceil(BLOCK_BYTES as u64);
    let part = move |block_idx| {
        let within = |offset: u64| usize::try_from(offset.saturating_sub(start_of(block_idx))).unwrap_or(BLOCK_BYTES);
        (block_idx, within(range.start)..within(range.end).min(BLOCK_BYTES))
    };
    blocks.map(part).filter(|(_, part)| !part.is_empty())
}

/// Memory for one block, which begins at a page's beginning.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0; BUFFER_BYTES])
    }

    fn range(&self) -> Range<usize> {
        let start = self.0.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        start..start + BLOCK_BYTES
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0[self.range()]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.0[range]
    }
}

#[derive(Debug)]
struct Buffers {
    free: Vec<Buffer>,
    n_made: usize,
    n_in_flight: usize,
    n_files: usize,
    /// How many there may be.
    limit: usize,
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that do jobs, and the process that they are in: a fork copies memory, but not them.
#[derive(Debug)]
struct Threads {
    process_id: u32,
    jobs: Sender<Job>,
}

impl Threads {
    fn are_here(&self) -> bool {
        self.process_id == std::process::id()
    }
}

/// Buffers in a limited number, and the threads that empty or fill them.
#[derive(Debug)]
pub(super) struct Pool {
    buffers: Mutex<Buffers>,
    returned: Condvar,
    /// While files are open.
    threads: Mutex<Option<Threads>>,
}

fn run_jobs(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while this thread waits: the others wait for it instead.
        let Ok(job) = lock_mutex(jobs).recv() else { return };
        job();
    }
}

impl Pool {
    /// For at most `limit` buffers.
    pub(super) fn new(limit: usize) -> Self {
        let buffers = Buffers { free: Vec::new(), n_made: 0, n_in_flight: 0, n_files: 0, limit };
        Self { buffers: Mutex::new(buffers), returned: Condvar::new(), threads: Mutex::default() }
    }

    /// From now on no more than so many bytes are taken.
    pub(super) fn set_limit(&self, bytes: u64) {
        let limit = usize::try_from(bytes).unwrap_or(usize::MAX) / BUFFER_BYTES;
        lock_mutex(&self.buffers).limit = limit.min(MAX_BUFFERS);
    }

    pub(super) fn limit(&self) -> usize {
        lock_mutex(&self.buffers).limit
    }

    /// A buffer, if one is free.
    pub(super) fn try_take(&self) -> Option<Buffer> {
        Self::take_from(&mut lock_mutex(&self.buffers))
    }

    /// A buffer, after waiting for one in flight if need be. `None` if all are held elsewhere.
    pub(super) fn take(&self) -> Option<Buffer> {
        let must_wait = |buffers: &mut Buffers| {
            buffers.free.is_empty() && buffers.n_made >= buffers.limit && buffers.n_in_flight > 0
        };
        let buffers = lock_mutex(&self.buffers);
        Self::take_from(&mut self.returned.wait_while(buffers, must_wait).unwrap_or_else(PoisonError::into_inner))
    }

    fn take_from(buffers: &mut Buffers) -> Option<Buffer> {
        if buffers.free.is_empty() && buffers.n_made < buffers.limit {
            buffers.n_made += 1;
            return Some(Buffer::new());
        }
        buffers.free.pop()
    }

    pub(super) fn give_back(&self, buffer: Buffer) {
        let mut buffers = lock_mutex(&self.buffers);
        if buffers.n_files == 0 {
            buffers.n_made -= 1;
        } else {
            buffers.free.push(buffer);
        }
        drop(buffers);
        self.returned.notify_all();
    }

    pub(super) fn add_file(&self) {
        self.add_file_below(usize::MAX);
    }

    /// Adds a file unless there are `max_files`; whether it did.
    pub(super) fn add_file_below(&self, max_files: usize) -> bool {
        let mut buffers = lock_mutex(&self.buffers);
        let has_room = buffers.n_files < max_files;
        buffers.n_files += usize::from(has_room);
        has_room
    }

    /// After the last file neither memory nor threads are kept.
    pub(super) fn remove_file(&self) {
        let mut buffers = lock_mutex(&self.buffers);
        buffers.n_files -= 1;
        if buffers.n_files == 0 {
            buffers.n_made -= buffers.free.len();
            buffers.free = Vec::new();
            drop_threads(&mut lock_mutex(&self.threads));
        }
    }

    pub(super) fn n_files(&self) -> usize {
        lock_mutex(&self.buffers).n_files
    }

    /// Waits until one more buffer may be in flight.
    pub(super) fn begin_flight(&self) {
        let are_many = |buffers: &mut Buffers| buffers.n_in_flight >= MAX_IN_FLIGHT;
        let buffers = lock_mutex(&self.buffers);
        self.returned.wait_while(buffers, are_many).unwrap_or_else(PoisonError::into_inner).n_in_flight += 1;
    }

    pub(super) fn end_flight(&self, buffer: Buffer) {
        lock_mutex(&self.buffers).n_in_flight -= 1;
        self.give_back(buffer);
    }

    /// Has a thread do the job; does it here if the system gives no threads.
    pub(super) fn run(&self, job: Job) {
        let mut threads = lock_mutex(&self.threads);
        if !threads.as_ref().is_some_and(Threads::are_here) {
            drop_threads(&mut threads);
            *threads = start_threads();
        }
        let unsent = match &*threads {
            Some(threads) => threads.jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        drop(threads);
        unsent.into_iter().for_each(|job| job());
    }

    #[cfg(test)]
    pub(super) fn has_threads(&self) -> bool {
        lock_mutex(&self.threads).is_some()
    }

    /// Leaves the pool as a fork does: with threads that are in another process.
    #[cfg(test)]
    pub(super) fn pretend_fork(&self) {
        let (jobs, receiver) = channel();
        // The other process keeps its end.
        std::mem::forget(receiver);
        *lock_mutex(&self.threads) = Some(Threads { process_id: 0, jobs });
    }

    #[cfg(test)]
    pub(super) fn n_buffers(&self) -> usize {
        lock_mutex(&self.buffers).n_made
    }
}

/// Lets threads end once they have done their jobs.
fn drop_threads(threads: &mut Option<Threads>) {
    if let Some(threads) = threads.take()
        && !threads.are_here()
    {
        // They are another process's to end, and may have held a lock of the channel when this process began.
        std::mem::forget(threads);
    }
}

/// They end when the sender is dropped.
fn start_threads() -> Option<Threads> {
    let (jobs, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let spawn = |_: &usize| {
        let receiver = Arc::clone(&receiver);
        thread::Builder::new().name("thalweg-io".to_owned()).spawn(move || run_jobs(&receiver)).is_ok()
    };
    ((0..N_THREADS).filter(spawn).count() > 0).then_some(Threads { process_id: std::process::id(), jobs })
}

/// Whether the file lies on a file system of a disk of this machine where direct access was measured to be the faster.
#[cfg(target_os = "linux")]
pub(super) fn is_on_local_disk(file: &File) -> bool {
    const EXT4: i128 = 0xEF53;
    const XFS: i128 = 0x5846_5342;
    rustix::fs::fstatfs(file).is_ok_and(|found| [EXT4, XFS].contains(&i128::from(found.f_type)))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_on_local_disk(_file: &File) -> bool {
    false
}

/// Opens a file for direct access.
#[cfg(target_os = "linux")]
pub(super) fn open_direct(path: &Path, options: &mut OpenOptions) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::NONBLOCK;
    options.custom_flags(i32::try_from(flags.bits()).ok()?).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open_direct(_path: &Path, _options: &mut OpenOptions) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_in_its_blocks() {
        let block = BLOCK_BYTES as u64;
        assert_eq!(parts_of(5..5).count(), 0);
        assert_eq!(parts_of(5..9).collect::<Vec<_>>(), [(0, 5..9)]);
        assert_eq!(parts_of(block..2 * block).collect::<Vec<_>>(), [(1, 0..BLOCK_BYTES)]);
        let three: Vec<_> = parts_of(block - 1..2 * block + 1).collect();
        assert_eq!(three, [(0, BLOCK_BYTES - 1..BLOCK_BYTES), (1, 0..BLOCK_BYTES), (2, 0..1)]);
    }
}
