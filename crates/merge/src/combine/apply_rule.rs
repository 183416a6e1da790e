//! A worker's part in a rule: one piece of one output.

use thalweg_tensor::kernel::{
    BLOCK_ELEMENTS, NonFinitePolicy, Rounding, SumFault, SumSpec, WeightedSum, first_non_finite, widen_delta_into,
    widen_into,
};
use thalweg_tensor::{Dtype, display_name, to_index};

use super::{Piece, TensorStats, Worker};
use crate::context::RunContext;
use crate::error::{Error, TakenFrom};
use crate::rule::{DeltaWork, RowRanks, RuleWork, Scan, Seen, read_widened};

/// Buffers of one worker for rules, and the sum of the tensor that it is in.
#[derive(Default)]
pub(crate) struct RuleScratch {
    /// A block of the base, then of the result.
    merged: Vec<f64>,
    deltas: Vec<Vec<f64>>,
    variances: Vec<f64>,
    rows: RowRanks,
    /// For each expert, what the elements of a piece are kept with; empty where all have the same probability.
    probabilities: Vec<Vec<f64>>,
    rounding: Option<((Dtype, NonFinitePolicy), Rounding)>,
    /// By combination and tensor: the sources of a sum, and the sum.
    sum: Option<((usize, usize), Vec<usize>, WeightedSum)>,
}

impl Worker<'_> {
    /// Fills `self.output` with combination `k` by its rule. `terms` are the sources that it reads.
    pub(crate) fn apply_rule(
        &mut self,
        k: usize,
        terms: &[usize],
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<TensorStats, Error> {
        let combination = &self.job.combinations[k];
        let (input, output) = piece.dtypes(combination);
        self.output.resize(piece.n_bytes(output), 0);
        let outcome = match &self.job.rules[k] {
            Some(RuleWork::Delta(work)) if !work.is_defined(piece.tensor_idx) => {
                return self.without_coefficients(k, terms, piece, run);
            }
            Some(RuleWork::Delta(work)) => {
                self.merge_deltas(work, piece, (input, output), combination.non_finite, run)?
            }
            Some(RuleWork::PerTensor(tensors)) => {
                let Some(coefficients) = &tensors[piece.tensor_idx] else {
                    return self.without_coefficients(k, terms, piece, run);
                };
                let (kept, exact) = coefficients.without_zeros();
                let kept = kept.into_iter().map(|i| combination.source_idxs[i]).collect();
                self.sum_tensor((k, kept), &exact, piece, (input, output), terms, run)?
            }
            None => return Err(Error::Bug { what: "a rule was not prepared" }),
        };
        let mut stats = match outcome {
            Ok(stats) => stats,
            Err(SumFault::NonFiniteInput { .. }) if self.is_equal_everywhere(k, terms, piece, run)? => {
                return self.copy(k, combination.newest_idx, &[], piece);
            }
            Err(fault) => return Err(self.explain(fault, terms, output, piece)),
        };
        self.measure_distance(k, terms, (input, output), &mut stats)?;
        Ok(stats)
    }

    /// A tensor over which a rule's sums are not finite: copied where all sources are equal, refused where they are
    /// not.
    fn without_coefficients(
        &mut self,
        k: usize,
        terms: &[usize],
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<TensorStats, Error> {
        if self.is_equal_everywhere(k, terms, piece, run)? {
            return self.copy(k, self.job.combinations[k].newest_idx, &[], piece);
        }
        let rule = self.job.combinations[k].rule.as_ref();
        let rule = rule.ok_or(Error::Bug { what: "a combination without a rule has none" })?;
        let taken_from = if rule.base.is_some() { TakenFrom::Base } else { TakenFrom::Newest };
        if let Some((source_idx, element)) = self.find_non_finite(terms, piece, run)? {
            let fault = SumFault::NonFiniteInput { source_idx, element_idx: 0 };
            let mut error = self.explain(fault, terms, piece.entry.dtype, piece);
            if let Error::NonFinite { element_idx, summed, .. } = &mut error {
                (*element_idx, *summed) = (element, Some(taken_from));
            }
            return Err(error);
        }
        Err(Error::RuleUndefined { tensor: display_name(&piece.entry.name), kind: rule.kind, taken_from })
    }

    /// The first value of the whole tensor that is not finite, and its source: it need not be in this piece.
    fn find_non_finite(
        &self,
        terms: &[usize],
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<Option<(usize, u64)>, Error> {
        let n_elements = piece.entry.shape.n_elements().unwrap_or(0);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for start in (0..n_elements).step_by(BLOCK_ELEMENTS) {
            run.check_interrupt()?;
            let block = start..n_elements.min(start + BLOCK_ELEMENTS as u64);
            for (source_idx, &term) in terms.iter().enumerate() {
                let entry = (piece.entry, piece.tensor_idx);
                read_widened(self.job.sources[term], entry, block.clone(), &mut bytes, &mut values)?;
                if let Some(place) = first_non_finite(&values, run.limits.simd) {
                    return Ok(Some((source_idx, start + place as u64)));
                }
            }
        }
        Ok(None)
    }

    /// One tensor's exact sum.
    fn sum_tensor(
        &mut self,
        (k, kept): (usize, Vec<usize>),
        coefficients: &crate::Coefficients,
        piece: &Piece<'_>,
        (input, output): (Dtype, Dtype),
        terms: &[usize],
        run: &RunContext<'_>,
    ) -> Result<Result<TensorStats, SumFault>, Error> {
        let place = (k, piece.tensor_idx);
        if self.rule.sum.as_ref().is_none_or(|(known, _, _)| *known != place) {
            let non_finite = self.job.combinations[k].non_finite;
            let spec = SumSpec { input, output, non_finite, simd: run.limits.simd };
            let sum = WeightedSum::new(coefficients.numerators(), coefficients.divisor(), spec)
                .map_err(|source| Error::Sum { tensor: display_name(&piece.entry.name), source })?;
            self.rule.sum = Some((place, kept, sum));
        }
        let Some((_, kept, sum)) = &self.rule.sum else { return Err(Error::Bug { what: "a sum was not kept" }) };
        let sources: Vec<&[u8]> = kept.iter().map(|&i| self.inputs[i].as_slice()).collect();
        let outcome = sum.sum_into(&sources, &mut self.output);
        // The sum counts its sources, the message those of the rule.
        let place_of = |source_idx: usize| terms.iter().position(|&term| kept.get(source_idx) == Some(&term));
        let fault = |fault| match fault {
            SumFault::NonFiniteInput { source_idx, element_idx } => {
                SumFault::NonFiniteInput { source_idx: place_of(source_idx).unwrap_or(0), element_idx }
            }
            fault => fault,
        };
        Ok(outcome.map_err(fault).map(|counts| TensorStats {
            n_non_finite: counts.n_non_finite,
            n_slow_path: counts.n_slow_path,
            ..TensorStats::default()
        }))
    }

    /// Element by element, in f64, rounded once.
    fn merge_deltas(
        &mut self,
        work: &DeltaWork,
        piece: &Piece<'_>,
        (input, output): (Dtype, Dtype),
        non_finite: NonFinitePolicy,
        run: &RunContext<'_>,
    ) -> Result<Result<TensorStats, SumFault>, Error> {
        let selectors = &work.selectors[piece.tensor_idx];
        let scan = Scan {
            sources: self.job.sources,
            layout: self.job.layout,
            piece: self.job.piece,
            base: work.base,
            experts: &work.experts,
            seen: Seen::Deltas,
        };
        let RuleScratch { merged, deltas, variances, rows, probabilities, rounding, .. } = &mut self.rule;
        deltas.resize(work.experts.len(), Vec::new());
        probabilities.resize(work.experts.len(), Vec::new());
        for (expert, (selector, probabilities)) in selectors.iter().zip(&mut *probabilities).enumerate() {
            probabilities.clear();
            if let Some(by_rank) = selector.by_rank {
                let place = (piece.tensor_idx, expert);
                rows.find_probabilities(&scan, place, piece.elements.clone(), (by_rank, probabilities))?;
            }
        }
        if rounding.as_ref().is_none_or(|(known, _)| *known != (output, non_finite)) {
            let made = Rounding::new(output, non_finite, run.limits.simd);
            let made = made.map_err(|source| Error::Sum { tensor: display_name(&piece.entry.name), source })?;
            *rounding = Some(((output, non_finite), made));
        }
        let Some((_, rounding)) = rounding else { return Err(Error::Bug { what: "a rounding was not kept" }) };
        let mut stats = TensorStats::default();
        let simd = run.limits.simd;
        let [bytes_in, bytes_out] = [input, output].map(|dtype| to_index(dtype.bytes().unwrap_or(1)));
        let n_elements = to_index(piece.elements.end - piece.elements.start);
        for start in (0..n_elements).step_by(BLOCK_ELEMENTS) {
            let block = start..n_elements.min(start + BLOCK_ELEMENTS);
            let of_source = |i: usize| &self.inputs[i][block.start * bytes_in..block.end * bytes_in];
            let fault = |source_idx: usize, element_idx: Option<usize>| {
                let element_idx = element_idx.filter(|_| non_finite == NonFinitePolicy::Refuse)?;
                Some(SumFault::NonFiniteInput { source_idx, element_idx: start + element_idx })
            };
            merged.resize(block.len(), 0.0);
            widen_into(input, of_source(work.base), merged);
            if let Some(fault) = fault(0, first_non_finite(merged, simd)) {
                return Ok(Err(fault));
            }
            for (expert, delta) in deltas.iter_mut().enumerate() {
                delta.resize(block.len(), 0.0);
                let place = widen_delta_into(input, of_source(work.experts[expert]), merged, delta, simd);
                if let Some(fault) = fault(expert + 1, place) {
                    return Ok(Err(fault));
                }
                let probabilities = probabilities[expert].get(block.clone()).unwrap_or(&[]);
                selectors[expert].select.select(piece.elements.start + start as u64, delta, probabilities, simd);
            }
            if let Some(Some(spread)) = work.spreads.get(piece.tensor_idx) {
                spread.select(piece.elements.start + start as u64, deltas, variances, simd);
            }
            work.consensus.add_to(merged, deltas, work.weights(piece.tensor_idx), simd);
            let out = &mut self.output[block.start * bytes_out..block.end * bytes_out];
            match rounding.round_into(merged, out) {
                Ok(counts) => stats.n_non_finite += counts.n_non_finite,
                Err(fault) => return Ok(Err(of_rounding(fault, merged).moved_by(start))),
            }
        }
        Ok(Ok(stats))
    }
}

/// A fault of rounding results: their sources are finite, so what is not finite came of the arithmetic.
fn of_rounding(fault: SumFault, merged: &[f64]) -> SumFault {
    match fault {
        SumFault::NonFiniteInput { element_idx, .. } => SumFault::Overflow { element_idx, value: merged[element_idx] },
        fault => fault,
    }
}
