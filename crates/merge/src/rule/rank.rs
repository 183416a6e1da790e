//! Ranks of magnitudes without sorting: histograms of the bits of |d| as f32, in two passes.

use thalweg_tensor::kernel::{N_LOWER, RankKey, TieOrder, UpperCounts, count_equal, count_lower, magnitude_bits};

use super::scan::{Deltas, Scan};
use crate::context::RunContext;
use crate::error::Error;
use crate::unit::Part;

/// The element that is wanted: number `rank` of a delta in ascending order, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) expert: usize,
    pub(crate) rank: u64,
    pub(crate) ties: TieOrder,
}

/// Bytes of the histograms of one expert in one thread, for up to two ranks.
pub(crate) const HISTOGRAM_BYTES: u64 = UpperCounts::BYTES + 2 * N_LOWER as u64 * 8;

impl Scan<'_> {
    /// The keys of the wanted elements of `parts`, which belong to one tensor unless equal elements stay together.
    /// A rank beyond the last element has a key above all.
    pub(crate) fn find_ranks(
        &self,
        parts: &[Part],
        wanted: &[Wanted],
        run: &RunContext<'_>,
    ) -> Result<Vec<RankKey>, Error> {
        let upper = self.count_upper(parts, run)?;
        let buckets: Vec<Option<(usize, u64)>> =
            wanted.iter().map(|one| find_bucket(&upper[one.expert], one.rank)).collect();
        let lower = self.count_lower(parts, wanted, &buckets, run)?;
        let found: Vec<Option<(u32, u64, u64)>> = buckets
            .iter()
            .zip(&lower)
            .map(|(bucket, counts)| {
                let (upper, rest) = (*bucket)?;
                let (lower, rest) = find_bucket(counts, rest)?;
                let bits = u32::try_from(upper << 16 | lower).ok()?;
                Some((bits, rest, counts[lower]))
            })
            .collect();
        self.order_equals(parts, wanted, &found, run)
    }

    fn count_upper(&self, parts: &[Part], run: &RunContext<'_>) -> Result<Vec<Vec<u64>>, Error> {
        let start = || vec![UpperCounts::default(); self.experts.len()];
        let act = |counts: &mut Vec<UpperCounts>, deltas: Deltas<'_>| {
            counts[deltas.expert].add(deltas.values, run.limits.simd);
            Ok(())
        };
        let counted = self.fold(parts, &start, &act, run)?.into_iter().reduce(|mut sums, counts| {
            sums.iter_mut().zip(counts).for_each(|(sum, counts)| sum.add_counts(counts));
            sums
        });
        Ok(counted.unwrap_or_else(start).into_iter().map(UpperCounts::finish).collect())
    }

    fn count_lower(
        &self,
        parts: &[Part],
        wanted: &[Wanted],
        buckets: &[Option<(usize, u64)>],
        run: &RunContext<'_>,
    ) -> Result<Vec<Vec<u64>>, Error> {
        let start = || vec![vec![0; N_LOWER]; wanted.len()];
        let act = |counts: &mut Vec<Vec<u64>>, deltas: Deltas<'_>| {
            for ((counts, one), bucket) in counts.iter_mut().zip(wanted).zip(buckets) {
                let wanted = bucket.filter(|_| one.expert == deltas.expert);
                let Some(upper) = wanted.and_then(|(upper, _)| u32::try_from(upper).ok()) else { continue };
                count_lower(deltas.values, upper, counts, run.limits.simd);
            }
            Ok(())
        };
        Ok(add_counts(self.fold(parts, &start, &act, run)?, start))
    }

    /// Finds the wanted element among equal ones. `found` has the bits, the rank among equals, and their number.
    fn order_equals(
        &self,
        parts: &[Part],
        wanted: &[Wanted],
        found: &[Option<(u32, u64, u64)>],
        run: &RunContext<'_>,
    ) -> Result<Vec<RankKey>, Error> {
        let is_open = |i: usize| found[i].is_some_and(|(_, rest, _)| rest > 0) && wanted[i].ties != TieOrder::Together;
        let mut keys: Vec<RankKey> =
            found.iter().map(|one| one.map_or((u32::MAX, u64::MAX), |(bits, _, _)| (bits, 0))).collect();
        if !(0..wanted.len()).any(is_open) {
            return Ok(keys);
        }
        // How many equal elements each part holds, then the element itself in the part where it must be.
        let per_part = self.count_equals(parts, wanted, found, run)?;
        for i in (0..wanted.len()).filter(|&i| is_open(i)) {
            let Some((bits, rest, n_equal)) = found[i] else { continue };
            let ascending = match wanted[i].ties {
                TieOrder::FirstIsLargest => n_equal - 1 - rest,
                _ => rest,
            };
            let mut left = ascending;
            for (part, counts) in parts.iter().zip(&per_part) {
                if left >= counts[i] {
                    left -= counts[i];
                    continue;
                }
                let element = self.nth_equal(part, (wanted[i].expert, bits), left, run)?;
                keys[i] = (bits, wanted[i].ties.place(element));
                break;
            }
        }
        Ok(keys)
    }

    /// For each part, in order, how many elements equal each wanted one.
    fn count_equals(
        &self,
        parts: &[Part],
        wanted: &[Wanted],
        found: &[Option<(u32, u64, u64)>],
        run: &RunContext<'_>,
    ) -> Result<Vec<Vec<u64>>, Error> {
        type Counts = Vec<(usize, usize, u64)>;
        let act = |counts: &mut Counts, deltas: Deltas<'_>| {
            for (i, (one, found)) in wanted.iter().zip(found).enumerate() {
                let Some((wanted_bits, _, _)) = found.filter(|_| one.expert == deltas.expert) else { continue };
                let n = count_equal(deltas.values, wanted_bits, run.limits.simd);
                counts.push((deltas.part_idx, i, n));
            }
            Ok(())
        };
        let mut sums = vec![vec![0; wanted.len()]; parts.len()];
        for (part_idx, i, n) in self.fold(parts, &Vec::new, &act, run)?.into_iter().flatten() {
            if let Some(place) = parts.iter().position(|part| part.part_idx == part_idx) {
                sums[place][i] += n;
            }
        }
        Ok(sums)
    }

    /// The `n`-th element of a part, from 0, whose magnitude has these bits.
    fn nth_equal(&self, part: &Part, (expert, bits): (usize, u32), n: u64, run: &RunContext<'_>) -> Result<u64, Error> {
        let act = |(seen, place): &mut (u64, Option<u64>), deltas: Deltas<'_>| {
            if deltas.expert == expert {
                for (element, &d) in (deltas.first_element..).zip(&*deltas.values) {
                    if magnitude_bits(d) == bits {
                        if *seen == n {
                            *place = Some(element);
                        }
                        *seen += 1;
                    }
                }
            }
            Ok(())
        };
        let states = self.fold(std::slice::from_ref(part), &|| (0, None), &act, run)?;
        let place = states.into_iter().find_map(|(_, place)| place);
        place.ok_or(Error::Bug { what: "a rank was counted and not found" })
    }
}

fn add_counts(states: Vec<Vec<Vec<u64>>>, start: impl Fn() -> Vec<Vec<u64>>) -> Vec<Vec<u64>> {
    states
        .into_iter()
        .reduce(|mut sums, counts| {
            for (sum, counts) in sums.iter_mut().zip(counts) {
                sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            }
            sums
        })
        .unwrap_or_else(start)
}

/// The bucket that holds the element of a rank, and its rank inside it.
fn find_bucket(counts: &[u64], mut rank: u64) -> Option<(usize, u64)> {
    for (bucket, &n) in counts.iter().enumerate() {
        if rank < n {
            return Some((bucket, rank));
        }
        rank -= n;
    }
    None
}

/// A share of a number of elements, rounded down.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count"
)]
pub(super) fn share_of(share: f64, n_elements: u64) -> u64 {
    (share * n_elements as f64) as u64
}
