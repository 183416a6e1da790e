//! Norms of deltas before and after some of their elements are dropped.

use thalweg_tensor::kernel::add_magnitudes;

use super::della::RowRanks;
use super::prepare::Selector;
use super::scan::{Deltas, Scan};
use crate::context::RunContext;
use crate::error::Error;
use crate::unit::Part;

impl Scan<'_> {
    /// For each expert, sums of |d| over a tensor before and after its selector drops elements.
    pub(crate) fn norms(
        &self,
        parts: &[Part],
        selectors: &[Selector],
        run: &RunContext<'_>,
    ) -> Result<Vec<(f64, f64)>, Error> {
        type PartNorm = ((usize, usize), (f64, f64));
        type State = (Vec<PartNorm>, RowRanks, Vec<f64>);
        let act = |(norms, rows, probabilities): &mut State, deltas: Deltas<'_>| {
            let Deltas { tensor_idx, part_idx, expert, first_element, values } = deltas;
            let selector = &selectors[expert];
            if let Some(by_rank) = selector.by_rank {
                let elements = first_element..first_element + values.len() as u64;
                rows.find_probabilities(self, (tensor_idx, expert), elements, (by_rank, probabilities))?;
            }
            if norms.last().is_none_or(|(place, _)| *place != (part_idx, expert)) {
                norms.push(((part_idx, expert), (0.0, 0.0)));
            }
            if let Some((_, (before, after))) = norms.last_mut() {
                add_magnitudes(values, before, run.limits.simd);
                selector.select.select(first_element, values, probabilities, run.limits.simd);
                add_magnitudes(values, after, run.limits.simd);
            }
            Ok(())
        };
        let start = || (Vec::new(), RowRanks::default(), Vec::new());
        let states = self.fold(parts, &start, &act, run)?;
        let mut by_part: Vec<PartNorm> = states.into_iter().flat_map(|(norms, _, _)| norms).collect();
        // The sort is stable and a part belongs to one thread, so sums do not depend on threads. Nor do they depend on
        // the pieces, which consist of whole blocks.
        by_part.sort_by_key(|(place, _)| *place);
        let mut sums = vec![(0.0, 0.0); selectors.len()];
        for ((_, expert), (before, after)) in by_part {
            sums[expert].0 += before;
            sums[expert].1 += after;
        }
        Ok(sums)
    }
}
