//! Norms of deltas before and after some of their elements are dropped.

use super::delta::{RowScratch, Selector};
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
        let act = |(norms, rows): &mut (Vec<PartNorm>, RowScratch), deltas: Deltas<'_>| {
            let Deltas { tensor_idx, part_idx, expert, first_element, values } = deltas;
            let before: f64 = values.iter().map(|d| d.abs()).sum();
            selectors[expert].prepare_rows(self, (tensor_idx, expert), (first_element, values.len()), rows)?;
            selectors[expert].select(first_element, values, rows);
            let after: f64 = values.iter().map(|d| d.abs()).sum();
            match norms.last_mut().filter(|(place, _)| *place == (part_idx, expert)) {
                Some((_, sum)) => *sum = (sum.0 + before, sum.1 + after),
                None => norms.push(((part_idx, expert), (before, after))),
            }
            Ok(())
        };
        let states = self.fold(parts, &|| (Vec::new(), RowScratch::default()), &act, run)?;
        let mut by_part: Vec<PartNorm> = states.into_iter().flat_map(|(norms, _)| norms).collect();
        // The sort is stable and a part belongs to one thread, so sums do not depend on threads.
        by_part.sort_by_key(|(place, _)| *place);
        let mut sums = vec![(0.0, 0.0); selectors.len()];
        for ((_, expert), (before, after)) in by_part {
            sums[expert].0 += before;
            sums[expert].1 += after;
        }
        Ok(sums)
    }
}
