//! Blocks of objects in memory: what was asked for ahead, and what is read in small pieces.
//!
//! Neighbouring reads become one request for a block; a request that is under way is never made twice. What a pass over
//! a large object has read whole goes at once, the rest when room is needed, oldest first. What a pass has read is not
//! guessed to be needed again: a thread that lags behind would otherwise fetch what others have read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::fault::Fault;

/// A block of an object: its name with its version, whether it is a large one, and its number.
pub(super) type BlockKey = (Arc<str>, BlockSize, u64);

/// Two sizes: headers are small, and a large block for each would be wasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockSize {
    Small,
    Large,
}

impl BlockSize {
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Small => 128 << 10,
            Self::Large => SPARE_BYTES as u64,
        }
    }
}

/// An object of at most this size comes whole, and stays until room is needed.
pub(super) const SMALL_OBJECT_BYTES: u64 = 1 << 20;

/// A large block.
const SPARE_BYTES: usize = 4 << 20;
/// Spare blocks that are kept: as many as a machine of few cores has under way at once.
const MAX_SPARES: usize = 64;
/// What is asked ahead of each object that is being read, however many there are: the block that is read and two more.
const LEAST_AHEAD_BYTES: u64 = 3 * SPARE_BYTES as u64;

#[derive(Debug)]
enum Slot {
    Asked,
    Here(Held),
    Failed(Fault),
}

/// A block that is here.
#[derive(Debug)]
struct Held {
    bytes: Arc<Vec<u8>>,
    n_read: usize,
    last_used: u64,
}

impl Held {
    /// Notes a read.
    fn note(&mut self, n_bytes: usize, now: u64) {
        self.n_read += n_bytes;
        self.last_used = now;
    }

    /// Whether all is read once `n_bytes` are read too, with those that were read elsewhere.
    fn is_read_by(&self, n_bytes: usize, read_elsewhere: usize) -> bool {
        self.n_read.saturating_add(n_bytes).saturating_add(read_elsewhere) >= self.bytes.len()
    }
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeMap<BlockKey, Slot>,
    held_bytes: u64,
    /// Of these, by object, those of objects in several large blocks.
    by_object: BTreeMap<Arc<str>, u64>,
    /// The large blocks of each large object that the pass over it has read whole.
    read_whole: BTreeMap<Arc<str>, BTreeSet<u64>>,
    n_uses: u64,
    /// Memory of large blocks that were read: to give it back to the system and take new memory costs more than a copy.
    spare: Vec<Vec<u8>>,
}

/// The blocks of all stores of a process.
#[derive(Debug)]
pub(super) struct BlockCache {
    state: Mutex<State>,
    arrived: Condvar,
    limit_bytes: u64,
}

/// Whether a caller must fetch a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Yes, and tell with [`BlockCache::put`].
    Fetch,
    /// It is here or under way.
    Skip,
    /// There is no room for what is only asked ahead.
    NoRoom,
}

/// Why a block is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A reader waits for it.
    Now,
    /// A reader said that it will read it.
    Soon,
    /// It follows what is read, so it may be read next.
    Guess,
}

impl BlockCache {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), limit_bytes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a place for a block of `n_bytes`. Objects that are read side by side have equal shares of the room for
    /// what is asked ahead: a merge waits for the slowest of its sources. A read of what the pass over an object has
    /// read begins another pass.
    pub(super) fn ask(&self, key: &BlockKey, n_bytes: u64, need: Need) -> Ask {
        let mut state = self.state();
        if state.slots.contains_key(key) {
            return Ask::Skip;
        }
        if state.was_read_whole(key) {
            match need {
                Need::Guess => return Ask::Skip,
                Need::Soon => {}
                Need::Now => drop(state.read_whole.remove(&key.0)),
            }
        }
        state.make_room(self.limit_bytes.saturating_sub(n_bytes), need);
        if need != Need::Now && !state.has_room_ahead(key, n_bytes, self.limit_bytes) {
            return Ask::NoRoom;
        }
        state.hold(key, n_bytes);
        state.slots.insert(key.clone(), Slot::Asked);
        Ask::Fetch
    }

    /// Whether a block is here or under way.
    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.state().slots.contains_key(key)
    }

    /// Delivers a block of `n_bytes` that was asked for.
    pub(super) fn put(&self, key: &BlockKey, n_bytes: u64, outcome: Result<Vec<u8>, Fault>) {
        let mut state = self.state();
        state.n_uses += 1;
        let last_used = state.n_uses;
        let slot = match outcome {
            Ok(bytes) => Slot::Here(Held { bytes: Arc::new(bytes), n_read: 0, last_used }),
            Err(fault) => {
                state.release(key, n_bytes);
                Slot::Failed(fault)
            }
        };
        state.slots.insert(key.clone(), slot);
        drop(state);
        self.arrived.notify_all();
    }

    /// Memory for a block of `n_bytes`, empty.
    pub(super) fn buffer(&self, n_bytes: usize) -> Vec<u8> {
        if n_bytes < SPARE_BYTES / 2 {
            return Vec::with_capacity(n_bytes);
        }
        let spare = self.state().spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(SPARE_BYTES))
    }

    /// Keeps the memory of a large block whose last reader this is.
    fn recycle(&self, bytes: Arc<Vec<u8>>) {
        if bytes.capacity() != SPARE_BYTES {
            return;
        }
        if let Ok(mut bytes) = Arc::try_unwrap(bytes) {
            bytes.clear();
            let mut state = self.state();
            if state.spare.len() < MAX_SPARES {
                state.spare.push(bytes);
            }
        }
    }

    /// Waits for a block and copies from `start` in it. A large block goes once all of it was read, but for the bytes
    /// that were read elsewhere: the header of a file, in a small block. `None` if it is not here and not under way:
    /// ask again.
    pub(super) fn copy(
        &self,
        key: &BlockKey,
        (start, read_elsewhere): (usize, usize),
        out: &mut [u8],
    ) -> Option<Result<(), Fault>> {
        let mut state = self.state();
        loop {
            state.n_uses += 1;
            let now = state.n_uses;
            match state.slots.get_mut(key)? {
                Slot::Asked => {}
                Slot::Failed(_) => match state.slots.remove(key) {
                    Some(Slot::Failed(fault)) => return Some(Err(fault)),
                    _ => return None,
                },
                Slot::Here(held) => {
                    let bytes = Arc::clone(&held.bytes);
                    let (is_read, len_bytes) = (held.is_read_by(out.len(), read_elsewhere), bytes.len() as u64);
                    held.note(out.len(), now);
                    if is_read && key.1 == BlockSize::Large && !is_small_object(key, len_bytes) {
                        state.slots.remove(key);
                        state.release(key, len_bytes);
                        state.read_whole.entry(Arc::clone(&key.0)).or_default().insert(key.2);
                    }
                    // Many threads copy at once.
                    drop(state);
                    return self.copy_out(bytes, start, out).map(Ok);
                }
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Copies from a block that is here and stays after this: what most reads of a large object need, so it takes the
    /// lock once. Returns whether it did; a block of which nothing was read yet, or of which this is the last part, is
    /// for [`copy`](Self::copy).
    pub(super) fn copy_more(&self, key: &BlockKey, (start, read_elsewhere): (usize, usize), out: &mut [u8]) -> bool {
        let mut state = self.state();
        state.n_uses += 1;
        let now = state.n_uses;
        let Some(Slot::Here(held)) = state.slots.get_mut(key) else { return false };
        if held.n_read == 0 || held.is_read_by(out.len(), read_elsewhere) {
            return false;
        }
        held.note(out.len(), now);
        let bytes = Arc::clone(&held.bytes);
        drop(state);
        self.copy_out(bytes, start, out).is_some()
    }

    fn copy_out(&self, bytes: Arc<Vec<u8>>, start: usize, out: &mut [u8]) -> Option<()> {
        let part = start.checked_add(out.len()).and_then(|end| bytes.get(start..end))?;
        out.copy_from_slice(part);
        self.recycle(bytes);
        Some(())
    }
}

/// Whether a block is all of a small object: an index or a config, which several steps of a command read.
fn is_small_object((_, _, number): &BlockKey, len_bytes: u64) -> bool {
    *number == 0 && len_bytes <= SMALL_OBJECT_BYTES
}

impl State {
    fn hold(&mut self, key: &BlockKey, n_bytes: u64) {
        self.held_bytes += n_bytes;
        if key.1 == BlockSize::Large && !is_small_object(key, n_bytes) {
            *self.by_object.entry(Arc::clone(&key.0)).or_default() += n_bytes;
        }
    }

    fn release(&mut self, key: &BlockKey, n_bytes: u64) {
        self.held_bytes -= n_bytes;
        if key.1 == BlockSize::Large
            && !is_small_object(key, n_bytes)
            && let Some(held_bytes) = self.by_object.get_mut(&key.0)
        {
            *held_bytes -= n_bytes;
            if *held_bytes == 0 {
                self.by_object.remove(&key.0);
            }
        }
    }

    fn was_read_whole(&self, (object, size, number): &BlockKey) -> bool {
        *size == BlockSize::Large && self.read_whole.get(object).is_some_and(|numbers| numbers.contains(number))
    }

    /// Whether a block that no reader waits for yet may be asked for.
    fn has_room_ahead(&self, key: &BlockKey, n_bytes: u64, limit_bytes: u64) -> bool {
        let share_bytes = (limit_bytes / self.by_object.len().max(1) as u64).max(LEAST_AHEAD_BYTES);
        let of_object = self.by_object.get(&key.0).copied().unwrap_or(0);
        self.held_bytes + n_bytes <= limit_bytes && of_object + n_bytes <= share_bytes
    }

    /// Drops blocks until they hold at most `limit_bytes`: those of which something was read, oldest first, then those
    /// that came ahead, which are not dropped for others that come ahead.
    fn make_room(&mut self, limit_bytes: u64, need: Need) {
        if self.held_bytes <= limit_bytes {
            return;
        }
        let age = |(key, slot): (&BlockKey, &Slot)| match slot {
            Slot::Here(held) if held.n_read > 0 || need == Need::Now => {
                Some((held.n_read == 0, held.last_used, key.clone(), held.bytes.len() as u64))
            }
            Slot::Here(_) | Slot::Asked | Slot::Failed(_) => None,
        };
        let mut old: Vec<(bool, u64, BlockKey, u64)> = self.slots.iter().filter_map(age).collect();
        old.sort_unstable();
        for (_, _, key, len_bytes) in old {
            if self.held_bytes <= limit_bytes {
                return;
            }
            self.slots.remove(&key);
            self.release(&key, len_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RemoteFault;

    fn key(number: u64) -> BlockKey {
        ("object".into(), BlockSize::Large, number)
    }

    #[test]
    fn a_block_is_fetched_once_and_goes_when_it_was_read() {
        let cache = BlockCache::new(100);
        assert_eq!(cache.ask(&key(1), 4, Need::Now), Ask::Fetch);
        assert_eq!(cache.ask(&key(1), 4, Need::Now), Ask::Skip);
        cache.put(&key(1), 4, Ok(b"abcd".to_vec()));
        let mut out = [0; 2];
        cache.copy(&key(1), (2, 0), &mut out).unwrap().unwrap();
        assert_eq!((&out, cache.has(&key(1))), (b"cd", true));
        cache.copy(&key(1), (0, 0), &mut out).unwrap().unwrap();
        assert_eq!((&out, cache.has(&key(1))), (b"ab", false));
        assert!(cache.copy(&key(1), (0, 0), &mut out).is_none());
    }

    #[test]
    fn what_a_pass_has_read_is_fetched_again_only_for_another_pass() {
        let cache = BlockCache::new(1 << 30);
        for number in 0..2 {
            cache.ask(&key(number), 2 << 20, Need::Now);
            cache.put(&key(number), 2 << 20, Ok(vec![0; 2 << 20]));
            cache.copy(&key(number), (0, 0), &mut vec![0; 2 << 20]).unwrap().unwrap();
        }
        assert_eq!(cache.ask(&key(1), 2 << 20, Need::Guess), Ask::Skip, "others have read it");
        assert_eq!(cache.ask(&key(2), 2 << 20, Need::Guess), Ask::Fetch);
        assert_eq!(cache.ask(&key(0), 2 << 20, Need::Soon), Ask::Fetch, "a reader said so");
        cache.put(&key(0), 2 << 20, Ok(vec![0; 2 << 20]));
        cache.copy(&key(0), (0, 0), &mut vec![0; 2 << 20]).unwrap().unwrap();
        assert_eq!(cache.ask(&key(0), 2 << 20, Need::Now), Ask::Fetch, "another pass begins");
        assert_eq!(cache.ask(&key(1), 2 << 20, Need::Guess), Ask::Fetch);
    }

    #[test]
    fn the_first_block_of_a_file_goes_without_its_header() {
        const LEN: usize = 2 << 20;
        let cache = BlockCache::new(1 << 30);
        cache.ask(&key(0), LEN as u64, Need::Now);
        cache.put(&key(0), LEN as u64, Ok(vec![0; LEN]));
        cache.copy(&key(0), (LEN / 2, 1000), &mut vec![0; LEN / 2]).unwrap().unwrap();
        assert!(cache.has(&key(0)), "its first half was not read yet");
        cache.copy(&key(0), (1000, 1000), &mut vec![0; LEN / 2 - 1000]).unwrap().unwrap();
        assert!(!cache.has(&key(0)));
    }

    #[test]
    fn a_small_object_stays_when_it_was_read() {
        let cache = BlockCache::new(100);
        cache.ask(&key(0), 4, Need::Now);
        cache.put(&key(0), 4, Ok(b"abcd".to_vec()));
        for _ in 0..3 {
            let mut out = [0; 4];
            cache.copy(&key(0), (0, 0), &mut out).unwrap().unwrap();
            assert_eq!((&out, cache.has(&key(0))), (b"abcd", true));
        }
    }

    #[test]
    fn the_middle_of_a_block_is_copied_and_its_first_and_last_part_are_not() {
        let cache = BlockCache::new(100);
        let mut out = [0; 2];
        assert!(!cache.copy_more(&key(1), (0, 0), &mut out), "it is not here");
        cache.ask(&key(1), 6, Need::Now);
        assert!(!cache.copy_more(&key(1), (0, 0), &mut out), "it is under way");
        cache.put(&key(1), 6, Ok(b"abcdef".to_vec()));
        assert!(!cache.copy_more(&key(1), (0, 0), &mut out), "the first read asks for what follows");
        cache.copy(&key(1), (0, 0), &mut out).unwrap().unwrap();
        assert!(cache.copy_more(&key(1), (2, 0), &mut out));
        assert_eq!(&out, b"cd");
        assert!(!cache.copy_more(&key(1), (4, 0), &mut out), "the last read drops the block");
        cache.copy(&key(1), (4, 0), &mut out).unwrap().unwrap();
        assert_eq!((&out, cache.has(&key(1))), (b"ef", false));
    }

    #[test]
    fn what_is_asked_ahead_stays_within_the_limit_and_what_is_needed_makes_room() {
        let cache = BlockCache::new(8);
        for number in 0..2 {
            assert_eq!(cache.ask(&key(number), 4, Need::Guess), Ask::Fetch);
        }
        assert_eq!(cache.ask(&key(2), 4, Need::Guess), Ask::NoRoom, "both places are waited for");
        cache.put(&key(0), 4, Ok(vec![0; 4]));
        cache.put(&key(1), 4, Ok(vec![1; 4]));
        assert_eq!(cache.ask(&key(2), 4, Need::Guess), Ask::NoRoom, "nothing that came ahead goes for it");
        assert_eq!(cache.ask(&key(2), 4, Need::Now), Ask::Fetch);
        assert!(!cache.has(&key(0)) && cache.has(&key(1)), "the oldest goes");
        cache.put(&key(2), 4, Ok(vec![2; 4]));
        cache.copy(&key(2), (0, 0), &mut [0; 2]).unwrap().unwrap();
        assert_eq!(cache.ask(&key(3), 4, Need::Guess), Ask::Fetch);
        assert!(cache.has(&key(1)) && !cache.has(&key(2)), "what was read goes before what came ahead");
    }

    #[test]
    fn objects_that_are_read_side_by_side_share_the_room_for_what_is_asked_ahead() {
        const BLOCK: u64 = SPARE_BYTES as u64;
        let cache = BlockCache::new(16 * BLOCK + 1000);
        let ask_ahead = |object: &str| {
            let key = |number| (Arc::from(object), BlockSize::Large, number);
            (1..20).filter(|&number| cache.ask(&key(number), BLOCK, Need::Guess) == Ask::Fetch).count()
        };
        for small in ["config", "index"] {
            assert_eq!(cache.ask(&(Arc::from(small), BlockSize::Large, 0), 100, Need::Now), Ask::Fetch);
            cache.put(&(Arc::from(small), BlockSize::Large, 0), 100, Ok(vec![0; 100]));
        }
        for object in ["a", "b"] {
            assert_eq!(cache.ask(&(Arc::from(object), BlockSize::Large, 0), BLOCK, Need::Now), Ask::Fetch);
        }
        assert_eq!((ask_ahead("a"), ask_ahead("b")), (7, 7), "eight blocks each, with the one that is read");
        // What one of them gives back is there for the others.
        for number in 0..8 {
            cache.put(&(Arc::from("b"), BlockSize::Large, number), BLOCK, Err(Fault::interrupted()));
        }
        assert_eq!(ask_ahead("a"), 8);
    }

    #[test]
    fn a_failure_is_told_once_and_then_asked_again() {
        let cache = BlockCache::new(8);
        assert_eq!(cache.ask(&key(0), 4, Need::Now), Ask::Fetch);
        cache.put(&key(0), 4, Err(Fault::new(RemoteFault::Busy, "busy")));
        assert!(cache.copy(&key(0), (0, 0), &mut [0; 4]).unwrap().is_err());
        assert_eq!(cache.ask(&key(0), 4, Need::Now), Ask::Fetch);
    }
}
