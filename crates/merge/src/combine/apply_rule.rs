//! A worker's part in a rule: one piece of one output.

use num_bigint::BigInt;
use thalweg_tensor::kernel::{NonFinitePolicy, SumFault, SumSpec, WeightedSum, widen_into};
use thalweg_tensor::{Dtype, display_name, to_index};

use super::{Piece, TensorStats, Worker};
use crate::context::RunContext;
use crate::error::Error;
use crate::rule::{DeltaWork, RowScratch, RuleWork, Scan};

/// Buffers of one worker for rules, and the sum of the tensor that it is in.
#[derive(Default)]
pub(crate) struct RuleScratch {
    merged: Vec<f64>,
    deltas: Vec<Vec<f64>>,
    rows: RowScratch,
    bytes: Vec<u8>,
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

    /// A tensor whose inner products are not finite: copied where all sources are equal, refused where they are not.
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
        let (input, output) = piece.dtypes(&self.job.combinations[k]);
        let mut values = vec![0.0; to_index(piece.elements.end - piece.elements.start)];
        for (source_idx, &term) in terms.iter().enumerate() {
            widen_into(input, &self.inputs[term], &mut values);
            if let Some(element_idx) = values.iter().position(|value| !value.is_finite()) {
                let fault = SumFault::NonFiniteInput { source_idx, element_idx };
                return Err(self.explain(fault, terms, output, piece));
            }
        }
        let kind = self.job.combinations[k].rule.as_ref().map(|rule| rule.kind);
        let kind = kind.ok_or(Error::Bug { what: "a combination without a rule has none" })?;
        Err(Error::RuleUndefined { tensor: display_name(&piece.entry.name), kind })
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
        let n_elements = to_index(piece.elements.end - piece.elements.start);
        let RuleScratch { merged, deltas, rows, bytes, .. } = &mut self.rule;
        merged.resize(n_elements, 0.0);
        widen_into(input, &self.inputs[work.base], merged);
        deltas.resize(work.experts.len(), Vec::new());
        let scan = Scan {
            sources: self.job.sources,
            layout: self.job.layout,
            piece: self.job.piece,
            base: work.base,
            experts: &work.experts,
        };
        let is_refused = |values: &[f64]| match non_finite {
            NonFinitePolicy::Refuse => values.iter().position(|value| !value.is_finite()),
            _ => None,
        };
        if let Some(element_idx) = is_refused(merged) {
            return Ok(Err(SumFault::NonFiniteInput { source_idx: 0, element_idx }));
        }
        let first = piece.elements.start;
        for (expert, delta) in deltas.iter_mut().enumerate() {
            delta.resize(n_elements, 0.0);
            widen_into(input, &self.inputs[work.experts[expert]], delta);
            if let Some(element_idx) = is_refused(delta) {
                return Ok(Err(SumFault::NonFiniteInput { source_idx: expert + 1, element_idx }));
            }
            delta.iter_mut().zip(&*merged).for_each(|(x, b)| *x -= b);
            let selector = &work.selectors[piece.tensor_idx][expert];
            selector.prepare_rows(&scan, (piece.tensor_idx, expert), (first, n_elements), rows)?;
            selector.select(first, delta, rows);
        }
        work.consensus.add_to(merged, deltas, &work.weights);
        bytes.clear();
        bytes.extend(merged.iter().flat_map(|value| value.to_le_bytes()));
        let one = BigInt::from(1);
        let spec = SumSpec { input: Dtype::F64, output, non_finite, simd: run.limits.simd };
        let rounding = WeightedSum::new(std::slice::from_ref(&one), &one, spec)
            .map_err(|source| Error::Sum { tensor: display_name(&piece.entry.name), source })?;
        Ok(rounding
            .sum_into(&[bytes], &mut self.output)
            .map(|counts| TensorStats { n_non_finite: counts.n_non_finite, ..TensorStats::default() }))
    }
}
