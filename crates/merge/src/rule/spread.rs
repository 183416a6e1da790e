//! SCE: which elements differ most between the experts, and how much each expert counts (Wan et al. 2024).

use thalweg_tensor::kernel::{DeltaSelector, Keep, RankKey, TieOrder, add_squares, count_equal, variances_into};

use super::rank::{Wanted, share_of};
use super::scan::{Deltas, Scan, Seen, Together};
use super::table::Convention;
use crate::context::RunContext;
use crate::error::Error;
use crate::unit::Part;

/// What is kept of a tensor, and the experts' coefficients in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spread {
    /// By the variance of an element.
    pub(crate) keep: Keep,
    pub(crate) weights: Vec<f64>,
}

impl Spread {
    /// Drops elements of all deltas by their variance; `variances` is scratch.
    pub(crate) fn select(
        &self,
        first_element: u64,
        deltas: &mut [Vec<f64>],
        variances: &mut Vec<f64>,
        simd: thalweg_tensor::kernel::Simd,
    ) {
        if self.keep == Keep::All {
            return;
        }
        variances.resize(deltas.first().map_or(0, Vec::len), 0.0);
        variances_into(deltas, variances, simd);
        // What is dropped becomes zero; a variance among the largest is above zero.
        let selector = DeltaSelector { keep: self.keep, divides_by_probability: false, scale: 1.0 };
        selector.select(first_element, variances, &[], simd);
        for delta in deltas {
            let dropped = delta.iter_mut().zip(&*variances).filter(|(_, variance)| **variance == 0.0);
            dropped.for_each(|(d, _)| *d = 0.0);
        }
    }
}

impl Scan<'_> {
    /// Chooses elements of one tensor and weighs the experts by what is chosen.
    pub(crate) fn spread(
        &self,
        parts: &[Part],
        density: f64,
        convention: Convention,
        run: &RunContext<'_>,
    ) -> Result<Spread, Error> {
        let keep = match density {
            density if density >= 1.0 => Keep::All,
            density if density <= 0.0 => Keep::Nothing,
            density => self.largest_variances(parts, density, run)?,
        };
        let mut spread = Spread { keep, weights: Vec::new() };
        let squares = self.squares(parts, &spread, run)?;
        spread.weights = weigh(&squares, parts, convention);
        Ok(spread)
    }

    /// A share of the elements whose variance is above zero.
    fn largest_variances(&self, parts: &[Part], density: f64, run: &RunContext<'_>) -> Result<Keep, Error> {
        let scan = Scan { seen: Seen::Variances, ..*self };
        let count = |n_zero: &mut u64, deltas: Deltas<'_>| {
            *n_zero += count_equal(deltas.values, 0, run.limits.simd);
            Ok(())
        };
        let n_zero: u64 = scan.fold(parts, &|| 0, &count, run)?.into_iter().sum();
        let n_elements: u64 = parts.iter().map(|part| part.elements.end - part.elements.start).sum();
        let n_kept = share_of(density, n_elements - n_zero);
        if n_kept == 0 {
            return Ok(Keep::Nothing);
        }
        let ties = TieOrder::FirstIsLargest;
        let wanted = [Wanted { expert: 0, rank: n_elements - n_kept, ties }];
        let keys = scan.find_ranks(parts, &wanted, run)?;
        let above_all: RankKey = (u32::MAX, u64::MAX);
        Ok(keys.first().map_or(Keep::Nothing, |&from| Keep::Ranks { from, to: above_all, ties }))
    }

    /// For each expert, the sum of the squares of its kept elements.
    fn squares(&self, parts: &[Part], spread: &Spread, run: &RunContext<'_>) -> Result<Vec<f64>, Error> {
        type State = (Vec<(usize, Vec<f64>)>, Vec<f64>);
        let act = |(sums, variances): &mut State, _: &Part, blocks: Together<'_>| {
            let Together { part_idx, first_element, deltas } = blocks;
            spread.select(first_element, deltas, variances, run.limits.simd);
            if sums.last().is_none_or(|(known, _)| *known != part_idx) {
                sums.push((part_idx, vec![0.0; deltas.len()]));
            }
            if let Some((_, sums)) = sums.last_mut() {
                sums.iter_mut().zip(&*deltas).for_each(|(sum, delta)| add_squares(delta, sum, run.limits.simd));
            }
            Ok(())
        };
        let states = self.fold_together(parts, &|| (Vec::new(), Vec::new()), &act, run)?;
        let mut by_part: Vec<(usize, Vec<f64>)> = states.into_iter().flat_map(|(sums, _)| sums).collect();
        // A part belongs to one thread, so that sums do not depend on threads.
        by_part.sort_by_key(|(part_idx, _)| *part_idx);
        let mut squares = vec![0.0; self.experts.len()];
        for (_, sums) in by_part {
            squares.iter_mut().zip(sums).for_each(|(square, sum)| *square += sum);
        }
        Ok(squares)
    }
}

/// Coefficients in proportion to the squares; equal ones where there are none.
#[expect(clippy::cast_precision_loss, reason = "counts of elements and experts")]
fn weigh(squares: &[f64], parts: &[Part], convention: Convention) -> Vec<f64> {
    /// mergekit takes mean squares that add up to less as none at all.
    const LEAST_MEAN: f64 = 1e-6;
    let n_elements: u64 = parts.iter().map(|part| part.elements.end - part.elements.start).sum();
    let sum: f64 = squares.iter().sum();
    let is_none = match convention {
        Convention::Paper => sum == 0.0,
        Convention::Mergekit => sum / (n_elements as f64) < LEAST_MEAN,
    };
    squares.iter().map(|square| if is_none { 1.0 / squares.len() as f64 } else { square / sum }).collect()
}
