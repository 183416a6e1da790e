//! CRC-32 checksums of what was written to a file or read from it, in any order, so that most of it need not be read
//! again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crc32fast::Hasher;

/// The sums of ranges of a file. Neighbours are joined, so that few are kept at a time.
#[derive(Debug, Default)]
pub(crate) struct CrcRanges {
    /// First byte of each range; its end and its sum so far.
    ranges: Mutex<BTreeMap<u64, (u64, Hasher)>>,
}

impl CrcRanges {
    /// Notes that `bytes` are at `offset`. Ranges that they overlap are forgotten, and so are they: their sum
    /// would have to be taken apart.
    pub(crate) fn add(&self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut sum = Hasher::new();
        sum.update(bytes);
        let (mut start, mut end) = (offset, offset.saturating_add(bytes.len() as u64));
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let overlaps = |range: &(&u64, &(u64, Hasher))| *range.0 < end && range.1.0 > start;
        let overlapped: Vec<u64> = ranges.range(..end).rev().take_while(overlaps).map(|(&first, _)| first).collect();
        if !overlapped.is_empty() {
            ranges.retain(|first, _| !overlapped.contains(first));
            return;
        }
        if let Some((&first, (last, _))) = ranges.range(..start).next_back()
            && *last == start
            && let Some((_, mut before)) = ranges.remove(&first)
        {
            before.combine(&sum);
            (start, sum) = (first, before);
        }
        if let Some((last, after)) = ranges.remove(&end) {
            sum.combine(&after);
            end = last;
        }
        ranges.insert(start, (end, sum));
    }

    /// The sum of a range, if it was noted once, whole and with nothing joined to it.
    pub(crate) fn sum_of(&self, range: &Range<u64>) -> Option<Hasher> {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, sum) = ranges.get(&range.start)?;
        (*end == range.end).then(|| sum.clone())
    }

    /// The noted ranges within a range, in order, each with its sum; none if they are so short that reading all of it
    /// is less work. A noted range that reaches beyond the borders is left out: its sum cannot be taken apart.
    pub(crate) fn sums_within(&self, range: &Range<u64>) -> Vec<(Range<u64>, Hasher)> {
        /// Fewer bytes for each noted range on average are not worth it. Not measured.
        const MIN_MEAN_BYTES: u64 = 64 << 10;
        /// So many ranges are always taken.
        const FREE_RANGES: u64 = 16;
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let within = || ranges.range(range.clone()).filter(|(_, (end, _))| *end <= range.end);
        if within().count() as u64 > FREE_RANGES + (range.end - range.start) / MIN_MEAN_BYTES {
            return Vec::new();
        }
        within().map(|(&start, (end, sum))| (start..*end, sum.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(parts: &[(u64, &[u8])]) -> CrcRanges {
        let ranges = CrcRanges::default();
        parts.iter().for_each(|(offset, bytes)| ranges.add(*offset, bytes));
        ranges
    }

    #[test]
    fn parts_in_any_order_have_the_sum_of_the_whole() {
        // The published check value of CRC-32.
        let check = 0xcbf4_3926;
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
            let parts: [(u64, &[u8]); 3] = [(7, b"123"), (10, b"4"), (11, b"56789")];
            let ranges = written(&order.map(|at| parts[at]));
            assert_eq!(ranges.sum_of(&(7..16)).map(Hasher::finalize), Some(check), "{order:?}");
            assert_eq!(ranges.sum_of(&(7..15)).map(Hasher::finalize), None);
        }
    }

    #[test]
    fn what_is_known_of_a_range_leaves_out_what_reaches_beyond_it() {
        let known = |ranges: &CrcRanges, range: Range<u64>| -> Vec<(Range<u64>, u32)> {
            ranges.sums_within(&range).into_iter().map(|(range, sum)| (range, sum.finalize())).collect()
        };
        let sum = crc32fast::hash;
        let ranges = written(&[(0, b"12"), (4, b"56"), (6, b"7"), (9, b"ab")]);
        assert_eq!(known(&ranges, 0..11), [(0..2, sum(b"12")), (4..7, sum(b"567")), (9..11, sum(b"ab"))]);
        assert_eq!(known(&ranges, 1..10), [(4..7, sum(b"567"))]);
        assert_eq!(known(&ranges, 4..6), []);
        // Ranges of one byte each are not worth their while.
        let scattered: Vec<(u64, &[u8])> = (0..100).map(|at| (2 * at, &b"x"[..])).collect();
        assert_eq!(known(&written(&scattered), 0..200), []);
        assert_eq!(known(&written(&scattered[..16]), 0..200).len(), 16);
    }

    #[test]
    fn gaps_and_overlaps_have_no_sum() {
        assert!(written(&[(0, b"12"), (3, b"4")]).sum_of(&(0..4)).is_none());
        assert!(written(&[(0, b"1234"), (2, b"34")]).sum_of(&(0..4)).is_none());
        assert!(written(&[(0, b"12"), (4, b"56"), (1, b"2345")]).sum_of(&(0..6)).is_none());
    }
}
