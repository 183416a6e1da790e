//! Deltas of experts, element by element: which are kept, how kept ones become one, and how their magnitudes rank.
//!
//! All of it is in f64 by plain additions and multiplications in a fixed order, so that neither the instruction set nor
//! a cut at a multiple of [`BLOCK_ELEMENTS`] changes a bit. What the numbers mean is the business of the rules.

use crate::Dtype;
use crate::kernel::gram::widen_into;
use crate::kernel::mask::{N_STEPS, draw};
use crate::kernel::portable::MultiplyAdd;
use crate::kernel::simd::{Compiled, Simd, run_compiled};

/// Elements that are worked on at once: they stay in the first-level cache.
pub const BLOCK_ELEMENTS: usize = 4096;

/// A place in the order of the elements of one delta: the bits of the magnitude, then a number that orders equal ones.
pub type RankKey = (u32, u64);

/// Which of several equal elements counts as larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TieOrder {
    /// The earlier one.
    FirstIsLargest,
    /// The later one.
    LastIsLargest,
    /// They share the rank of the largest of them: all are kept with it.
    Together,
}

impl TieOrder {
    /// What orders equal elements, ascending.
    pub fn place(self, element: u64) -> u64 {
        let (kept, flipped) = self.masks();
        (element & kept) ^ flipped
    }

    #[inline(always)]
    fn masks(self) -> (u64, u64) {
        match self {
            Self::FirstIsLargest => (u64::MAX, u64::MAX),
            Self::LastIsLargest => (u64::MAX, 0),
            Self::Together => (0, 0),
        }
    }
}

/// Which elements of one delta are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those whose key is in a range, its end excluded.
    Ranks {
        /// The least key.
        from: RankKey,
        /// The key above the greatest.
        to: RankKey,
        /// How equal elements are ordered.
        ties: TieOrder,
    },
    /// Each with the same probability.
    Random {
        /// The stream that is drawn from.
        key: u64,
        /// The probability.
        density: f64,
    },
    /// Each with its own probability.
    RandomEach {
        /// The stream that is drawn from.
        key: u64,
    },
}

/// What becomes of the elements of one delta.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaSelector {
    /// Which ones are kept.
    pub keep: Keep,
    /// Whether kept elements are divided by their probability.
    pub divides_by_probability: bool,
    /// What kept elements are multiplied by.
    pub scale: f64,
}

/// Which kept elements are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// All.
    None,
    /// Those that agree with the sign of the weighted sum.
    Weighted,
    /// Those that agree with the sign of the plain sum.
    Plain,
}

/// How kept elements of several deltas become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Consensus {
    /// Which ones are added.
    pub election: Election,
    /// Whether a sum of zero counts as positive; else nothing agrees with it.
    pub zero_is_positive: bool,
    /// Whether the sum is divided by the coefficients that took part.
    pub divides: bool,
    /// What the result is multiplied by.
    pub lambda: f64,
}

/// Widens elements of an expert and subtracts the base. Returns the place of the first that is not finite.
pub fn widen_delta_into(dtype: Dtype, bytes: &[u8], base: &[f64], delta: &mut [f64], simd: Simd) -> Option<usize> {
    widen_into(dtype, bytes, delta);
    let place = first_non_finite(delta, simd);
    run_compiled(simd, Subtract { base, delta });
    place
}

struct Subtract<'a> {
    base: &'a [f64],
    delta: &'a mut [f64],
}

impl Compiled for Subtract<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        self.delta.iter_mut().zip(self.base).for_each(|(x, b)| *x -= b);
    }
}

/// The place of the first value that is NaN or infinite.
pub fn first_non_finite(values: &[f64], simd: Simd) -> Option<usize> {
    // Looking at all values is faster than stopping at one that hardly ever exists.
    if run_compiled(simd, AreFinite { values }) { None } else { values.iter().position(|value| !value.is_finite()) }
}

struct AreFinite<'a> {
    values: &'a [f64],
}

impl Compiled for AreFinite<'_> {
    type Output = bool;
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) -> bool {
        self.values.iter().fold(true, |are_finite, value| are_finite & value.is_finite())
    }
}

/// A number for the order of magnitudes: the bits of |value| as f32.
#[expect(clippy::cast_possible_truncation, reason = "magnitudes are ranked as f32")]
#[inline(always)]
pub fn magnitude_bits(value: f64) -> u32 {
    (value as f32).to_bits() & 0x7fff_ffff
}

impl DeltaSelector {
    /// Drops and scales elements; `first` is the number of the first one in its tensor. `probabilities` has one for
    /// each element where they differ.
    pub fn select(&self, first: u64, values: &mut [f64], probabilities: &[f64], simd: Simd) {
        run_compiled(simd, Select { selector: *self, first, values, probabilities });
    }
}

struct Select<'a> {
    selector: DeltaSelector,
    first: u64,
    values: &'a mut [f64],
    probabilities: &'a [f64],
}

impl Compiled for Select<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        let Self { selector: DeltaSelector { keep, divides_by_probability, scale }, first, values, probabilities } =
            self;
        let elements = (first..).zip(values.iter_mut());
        match keep {
            Keep::All => values.iter_mut().for_each(|d| *d *= scale),
            Keep::Nothing => values.fill(0.0),
            Keep::Ranks { from, to, ties } => {
                let (kept, flipped) = ties.masks();
                let (from_bits, to_bits) = (u64::from(from.0), u64::from(to.0));
                for (element, d) in elements {
                    let (bits, place) = (u64::from(magnitude_bits(*d)), (element & kept) ^ flipped);
                    let is_above = (bits > from_bits) | ((bits == from_bits) & (place >= from.1));
                    let is_below = (bits < to_bits) | ((bits == to_bits) & (place < to.1));
                    *d = if is_above & is_below { *d * scale } else { 0.0 };
                }
            }
            Keep::Random { key, density } => {
                let factor = if divides_by_probability { 1.0 / density } else { 1.0 };
                // A whole number is below the density in steps if it is below the next whole number. Exact: a product
                // with a power of two.
                let limit = steps_below(density);
                for (element, d) in elements {
                    *d = if draw(key, element) < limit { *d * factor * scale } else { 0.0 };
                }
            }
            Keep::RandomEach { key } => {
                for ((element, d), &probability) in elements.zip(probabilities) {
                    let kept = if divides_by_probability { *d / probability } else { *d };
                    *d = if draw(key, element) < steps_below(probability) { kept * scale } else { 0.0 };
                }
            }
        }
    }
}

/// How many numbers that can be drawn are below a probability.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^53")]
#[inline(always)]
fn steps_below(probability: f64) -> u64 {
    (probability * N_STEPS).ceil() as u64
}

/// Sums of coefficients below this are not divided by.
const SMALL_SUM: f64 = 1e-8;

impl Consensus {
    /// Adds the merged delta to `merged`, which holds the base. `deltas` are selected; `weights` are theirs.
    pub fn add_to(&self, merged: &mut [f64], deltas: &[Vec<f64>], weights: &[f64], simd: Simd) {
        let whole: f64 = weights.iter().sum();
        let whole = if self.divides && whole.abs() >= SMALL_SUM { whole } else { 1.0 };
        run_compiled(simd, AddConsensus { consensus: *self, whole, merged, deltas, weights });
    }
}

/// Elements of a run of the loops below: their sums stay in registers.
const RUN: usize = 32;

struct AddConsensus<'a> {
    consensus: Consensus,
    whole: f64,
    merged: &'a mut [f64],
    deltas: &'a [Vec<f64>],
    weights: &'a [f64],
}

impl Compiled for AddConsensus<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        let Self { consensus, whole, merged, deltas, weights } = self;
        for (run, merged) in merged.chunks_mut(RUN).enumerate() {
            let at = run * RUN;
            // The end of a tensor is padded, so that each loop has one length.
            let mut shares = [0.0; RUN];
            if merged.len() == RUN {
                let term = |k: usize, weight: f64| -> [f64; RUN] { terms_of(&deltas[k][at..at + RUN], weight) };
                consensus.share(whole, weights, term, &mut shares);
            } else {
                let end = at + merged.len();
                let term = |k: usize, weight: f64| -> [f64; RUN] { terms_of(&deltas[k][at..end], weight) };
                consensus.share(whole, weights, term, &mut shares);
            }
            merged.iter_mut().zip(shares).for_each(|(merged, share)| *merged += share * consensus.lambda);
        }
    }
}

#[inline(always)]
fn terms_of(delta: &[f64], weight: f64) -> [f64; RUN] {
    let mut terms = [0.0; RUN];
    terms.iter_mut().zip(delta).for_each(|(term, d)| *term = d * weight);
    terms
}

impl Consensus {
    #[inline(always)]
    fn share(&self, whole: f64, weights: &[f64], term: impl Fn(usize, f64) -> [f64; RUN], shares: &mut [f64; RUN]) {
        // As a sum of the standard library begins: it leaves the sign of a zero as it is.
        let mut sums = [-0.0; RUN];
        for (k, &weight) in weights.iter().enumerate() {
            let terms = term(k, if self.election == Election::Plain { 1.0 } else { weight });
            (0..RUN).for_each(|l| sums[l] += terms[l]);
        }
        if self.election == Election::None {
            (0..RUN).for_each(|l| shares[l] = sums[l] / whole);
            return;
        }
        // A sum of equal opposites is zero exactly, as the deltas of two opposite experts are.
        let (mut totals, mut taken) = ([0.0; RUN], [0.0; RUN]);
        for (k, &weight) in weights.iter().enumerate() {
            let terms = term(k, weight);
            for l in 0..RUN {
                let is_positive = (sums[l] > 0.0) | ((sums[l] == 0.0) & self.zero_is_positive);
                let agrees = (is_positive & (terms[l] > 0.0)) | (!is_positive & (terms[l] < 0.0));
                // Not a number agrees with nothing, but must not vanish where it was allowed.
                let counts = agrees | terms[l].is_nan();
                totals[l] += if counts { terms[l] } else { 0.0 };
                taken[l] += if counts { weight } else { 0.0 };
            }
        }
        for l in 0..RUN {
            let divisor = if self.divides & (taken[l] != 0.0) { taken[l] } else { 1.0 };
            let is_void = (sums[l] == 0.0) & !self.zero_is_positive;
            shares[l] = if is_void { 0.0 } else { totals[l] / divisor };
        }
    }
}

/// The variance of each element over deltas: the mean of the squared distances from their mean.
pub fn variances_into(deltas: &[Vec<f64>], variances: &mut [f64], simd: Simd) {
    run_compiled(simd, Variances { deltas, variances });
}

struct Variances<'a> {
    deltas: &'a [Vec<f64>],
    variances: &'a mut [f64],
}

impl Compiled for Variances<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        #[expect(clippy::cast_precision_loss, reason = "a count of experts")]
        let n = self.deltas.len() as f64;
        for (i, variance) in self.variances.iter_mut().enumerate() {
            let mean = self.deltas.iter().map(|delta| delta[i]).sum::<f64>() / n;
            let squares = self.deltas.iter().map(|delta| (delta[i] - mean) * (delta[i] - mean));
            *variance = squares.sum::<f64>() / n;
        }
    }
}

/// Adds d^2 of all values to `sum`, in blocks as [`add_magnitudes`] does.
pub fn add_squares(values: &[f64], sum: &mut f64, simd: Simd) {
    for block in values.chunks(BLOCK_ELEMENTS) {
        *sum += run_compiled(simd, SumSquares { block });
    }
}

struct SumSquares<'a> {
    block: &'a [f64],
}

impl Compiled for SumSquares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) -> f64 {
        let mut lanes = [0.0; RUN];
        for run in self.block.chunks(RUN) {
            lanes.iter_mut().zip(run).for_each(|(lane, d)| *lane += d * d);
        }
        lanes.iter().sum()
    }
}

/// Adds |d| of all values to `sum`, in blocks: cut at multiples of [`BLOCK_ELEMENTS`], values add up to the same bits.
pub fn add_magnitudes(values: &[f64], sum: &mut f64, simd: Simd) {
    for block in values.chunks(BLOCK_ELEMENTS) {
        *sum += run_compiled(simd, SumMagnitudes { block });
    }
}

struct SumMagnitudes<'a> {
    block: &'a [f64],
}

impl Compiled for SumMagnitudes<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) -> f64 {
        let mut lanes = [0.0; RUN];
        for run in self.block.chunks(RUN) {
            lanes.iter_mut().zip(run).for_each(|(lane, d)| *lane += d.abs());
        }
        lanes.iter().sum()
    }
}

/// Buckets of the upper half of the bits of a magnitude; the sign is gone.
const N_UPPER: usize = 1 << 15;
/// Buckets of the lower half.
pub const N_LOWER: usize = 1 << 16;

/// How many elements have which upper half of the bits of their magnitude.
#[derive(Debug, Clone)]
pub struct UpperCounts {
    /// Neighbours count in different places: one count after the other in the same place would wait for it.
    recent: Vec<[u32; 2]>,
    n_recent: usize,
    sums: Vec<u64>,
}

impl Default for UpperCounts {
    fn default() -> Self {
        Self { recent: vec![[0; 2]; N_UPPER], n_recent: 0, sums: vec![0; N_UPPER] }
    }
}

impl UpperCounts {
    /// Bytes that one takes.
    pub const BYTES: u64 = 16 * N_UPPER as u64;

    /// Counts values.
    pub fn add(&mut self, values: &[f64], simd: Simd) {
        /// Fewer than a count of 32 bits holds.
        const MOST: usize = 1 << 30;
        if self.n_recent + values.len() > MOST {
            self.settle();
        }
        self.n_recent += values.len();
        run_compiled(simd, CountUpper { counts: &mut self.recent, values });
    }

    /// Adds the counts of another part.
    pub fn add_counts(&mut self, mut other: Self) {
        self.settle();
        other.settle();
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, n)| *sum += n);
    }

    /// The counts.
    pub fn finish(mut self) -> Vec<u64> {
        self.settle();
        self.sums
    }

    fn settle(&mut self) {
        for (sum, recent) in self.sums.iter_mut().zip(&mut self.recent) {
            *sum += u64::from(recent[0]) + u64::from(recent[1]);
            *recent = [0; 2];
        }
        self.n_recent = 0;
    }
}

/// The magnitude bits of a run of values.
#[inline(always)]
fn bits_of(values: &[f64]) -> [u32; RUN] {
    let mut bits = [0; RUN];
    bits.iter_mut().zip(values).for_each(|(bits, d)| *bits = magnitude_bits(*d));
    bits
}

struct CountUpper<'a> {
    counts: &'a mut [[u32; 2]],
    values: &'a [f64],
}

impl Compiled for CountUpper<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        for run in self.values.chunks(RUN) {
            let bits = bits_of(run);
            for (l, bits) in bits[..run.len()].iter().enumerate() {
                self.counts[(bits >> 16) as usize][l % 2] += 1;
            }
        }
    }
}

/// Counts by the lower half of the bits those values whose upper half is `upper`; there are [`N_LOWER`] places.
pub fn count_lower(values: &[f64], upper: u32, counts: &mut [u64], simd: Simd) {
    run_compiled(simd, CountLower { counts, values, upper });
}

struct CountLower<'a> {
    counts: &'a mut [u64],
    values: &'a [f64],
    upper: u32,
}

impl Compiled for CountLower<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        for run in self.values.chunks(RUN) {
            let bits = bits_of(run);
            let n = bits.iter().map(|bits| u32::from(bits >> 16 == self.upper)).sum::<u32>();
            if n > 0 {
                for bits in bits[..run.len()].iter().filter(|bits| **bits >> 16 == self.upper) {
                    self.counts[(bits & 0xffff) as usize] += 1;
                }
            }
        }
    }
}

/// How many values have exactly these bits as their magnitude.
pub fn count_equal(values: &[f64], bits: u32, simd: Simd) -> u64 {
    run_compiled(simd, CountEqual { values, bits })
}

struct CountEqual<'a> {
    values: &'a [f64],
    bits: u32,
}

impl Compiled for CountEqual<'_> {
    type Output = u64;
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) -> u64 {
        self.values.iter().map(|&d| u64::from(magnitude_bits(d) == self.bits)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::mask::stream_key;

    const SETS: [Simd; 3] = [Simd::Portable, Simd::Avx2, Simd::Avx512];

    /// Values with many equal magnitudes, zeros, and some that are not finite.
    fn values(n: u64, seed: u64) -> Vec<f64> {
        let key = stream_key(seed, "values", 0);
        let value = |i| match draw(key, i) % 1009 {
            0 => f64::NAN,
            1 => f64::NEG_INFINITY,
            r if r % 5 == 0 => 0.0,
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            r => (r % 64) as f64 * if r % 2 == 0 { 1e-3 } else { -1e-3 },
        };
        (0..n).map(value).collect()
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }).collect()
    }

    #[test]
    fn what_is_kept_is_what_each_element_alone_says() {
        let given = values(5000, 1);
        let probabilities: Vec<f64> = (0..5000).map(|i| 0.1 + 0.8 * f64::from(i % 7) / 7.0).collect();
        let (from, to) = (magnitude_bits(0.013), magnitude_bits(0.04));
        let (key, first) = (stream_key(3, "w", 1), 700);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let uniform = |i: usize| draw(key, first + i as u64) as f64 / N_STEPS;
        type IsKept<'a> = Box<dyn Fn(usize) -> f64 + 'a>;
        let mut cases: Vec<(Keep, IsKept<'_>)> = vec![
            (Keep::All, Box::new(|_| 1.0)),
            (Keep::Nothing, Box::new(|_| 0.0)),
            (Keep::Random { key, density: 0.3 }, Box::new(move |i| f64::from(u8::from(uniform(i) < 0.3)))),
            (Keep::RandomEach { key }, Box::new(|i| f64::from(u8::from(uniform(i) < probabilities[i])))),
        ];
        for ties in [TieOrder::FirstIsLargest, TieOrder::LastIsLargest, TieOrder::Together] {
            let (from, to) = ((from, ties.place(2100)), (to, ties.place(4000)));
            let given = given.clone();
            let is_kept = move |i: usize| {
                let key = (magnitude_bits(given[i]), ties.place(first + i as u64));
                f64::from(u8::from(from <= key && key < to))
            };
            cases.push((Keep::Ranks { from, to, ties }, Box::new(is_kept)));
        }
        for (keep, is_kept) in &cases {
            for divides_by_probability in [false, true] {
                let selector = DeltaSelector { keep: *keep, divides_by_probability, scale: 1.5 };
                let expected = given.iter().enumerate().map(|(i, d)| match (is_kept(i), keep) {
                    (0.0, _) => 0.0,
                    (_, Keep::Random { density, .. }) if divides_by_probability => d * (1.0 / density) * 1.5,
                    (_, Keep::RandomEach { .. }) if divides_by_probability => d / probabilities[i] * 1.5,
                    _ => d * 1.5,
                });
                let expected: Vec<f64> = expected.collect();
                for simd in SETS {
                    let mut found = given.clone();
                    selector.select(first, &mut found, &probabilities, simd);
                    assert_eq!(bits(&found), bits(&expected), "{keep:?} {simd:?}");
                }
            }
        }
    }

    #[test]
    fn a_consensus_is_that_of_each_element_alone() {
        let deltas = [values(1003, 2), values(1003, 3), values(1003, 4)];
        let weights = [0.5, -0.25, 1.0];
        let base = values(1003, 5);
        for choice in 0..12 {
            let [zero_is_positive, divides] = [1, 2].map(|bit| choice & bit != 0);
            let election = [Election::None, Election::Weighted, Election::Plain][choice / 4];
            let consensus = Consensus { election, zero_is_positive, divides, lambda: 0.7 };
            let alone = |i: usize| {
                let terms: Vec<f64> = deltas.iter().zip(weights).map(|(delta, w)| delta[i] * w).collect();
                let sum: f64 = match election {
                    Election::Plain => deltas.iter().map(|delta| delta[i]).sum(),
                    _ => terms.iter().sum(),
                };
                if election == Election::None {
                    return base[i] + sum / if divides { 1.25 } else { 1.0 } * 0.7;
                }
                if sum == 0.0 && !zero_is_positive {
                    return base[i] + 0.0;
                }
                let is_positive = sum >= 0.0;
                let agrees = |term: f64| term.is_nan() || if is_positive { term > 0.0 } else { term < 0.0 };
                let agreeing = || terms.iter().zip(weights).filter(|(term, _)| agrees(**term));
                let taken = agreeing().fold(0.0, |sum, (_, weight)| sum + weight);
                let total = agreeing().fold(0.0, |sum, (term, _)| sum + term);
                base[i] + if divides && taken != 0.0 { total / taken } else { total } * 0.7
            };
            let expected: Vec<f64> = (0..1003).map(alone).collect();
            for simd in SETS {
                let mut found = base.clone();
                consensus.add_to(&mut found, &deltas, &weights, simd);
                assert_eq!(bits(&found), bits(&expected), "{consensus:?} {simd:?}");
            }
        }
    }

    #[test]
    fn variances_are_those_of_each_element() {
        let deltas = [vec![1.0, 2.0, -3.0], vec![3.0, 2.0, 3.0]];
        for simd in SETS {
            let mut variances = [0.0; 3];
            variances_into(&deltas, &mut variances, simd);
            assert_eq!(bits(&variances), bits(&[1.0, 0.0, 9.0]));
            let mut sum = 0.0;
            add_squares(&deltas[0], &mut sum, simd);
            assert_eq!(bits(&[sum]), bits(&[14.0]));
        }
    }

    #[test]
    fn sums_of_magnitudes_do_not_depend_on_the_cut_or_the_instructions() {
        let given: Vec<f64> =
            values(30_000, 6).into_iter().map(|d| if d.is_finite() { d * 1.1 } else { 0.3 }).collect();
        let mut sums = Vec::new();
        for simd in SETS {
            for step in [BLOCK_ELEMENTS, 3 * BLOCK_ELEMENTS, 8 * BLOCK_ELEMENTS] {
                let mut sum = 0.0;
                given.chunks(step).for_each(|piece| add_magnitudes(piece, &mut sum, simd));
                sums.push(sum.to_bits());
            }
        }
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    }

    #[test]
    fn counts_are_those_of_the_elements() {
        let given = values(9001, 7);
        let all: Vec<u32> = given.iter().map(|&d| magnitude_bits(d)).collect();
        let upper = magnitude_bits(0.012) >> 16;
        for simd in SETS {
            let mut counts = UpperCounts::default();
            counts.add(&given[..5000], simd);
            let mut other = UpperCounts::default();
            other.add(&given[5000..], simd);
            counts.add_counts(other);
            let found = counts.finish();
            let mut expected = vec![0; N_UPPER];
            all.iter().for_each(|bits| expected[(bits >> 16) as usize] += 1);
            assert_eq!(found, expected);
            let mut found = vec![0; N_LOWER];
            count_lower(&given, upper, &mut found, simd);
            let mut expected = vec![0; N_LOWER];
            all.iter().filter(|bits| **bits >> 16 == upper).for_each(|bits| expected[(bits & 0xffff) as usize] += 1);
            assert_eq!(found, expected);
            let zero = all.iter().filter(|bits| **bits == 0).count() as u64;
            assert_eq!(count_equal(&given, 0, simd), zero);
        }
        assert_eq!(first_non_finite(&given, Simd::Auto), given.iter().position(|d| !d.is_finite()));
        assert_eq!(first_non_finite(&[1.0; 70], Simd::Auto), None);
    }
}
