//! From a plan's rule and its sources to what is done with each tensor: thresholds, norms, coefficients.

use std::ops::Range;

use thalweg_tensor::kernel::{Consensus, DeltaSelector, Election, Keep, RankKey, TieOrder, stream_key};
use thalweg_tensor::{AccessError, TensorCatalog, TensorSource};

use super::della::ByRank;
use super::geometry::{Shares, find_shares};
use super::plan::PlanRule;
use super::rank::{HISTOGRAM_BYTES, Wanted, share_of};
use super::scan::{Scan, Seen};
use super::spread::Spread;
use super::table::{Convention, Family, Rescale, Sparsity};
use crate::Coefficients;
use crate::combination::Combination;
use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::gram::gram;
use crate::memory::PieceSize;
use crate::merge_layout::MergeLayout;
use crate::plan::OutputPlan;
use crate::rational::Ratio;
use crate::tensor_class::TensorClass;
use crate::unit::{Part, UnitList};

/// What a rule does, for sources that are open.
#[derive(Debug)]
pub(crate) enum RuleWork {
    /// Each tensor is an exact sum, with coefficients of the combination's sources; `None` where its inner products are
    /// not finite, and for tensors that are not merged.
    PerTensor(Vec<Option<Coefficients>>),
    /// Element by element.
    Delta(DeltaWork),
}

/// What becomes of one expert's delta of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Selector {
    pub(crate) select: DeltaSelector,
    /// Where the probabilities of elements follow from their ranks.
    pub(crate) by_rank: Option<ByRank>,
}

/// An element-wise rule, ready.
#[derive(Debug)]
pub(crate) struct DeltaWork {
    /// Number of the base among all open sources.
    pub(crate) base: usize,
    /// Those of the experts that have a coefficient.
    pub(crate) experts: Vec<usize>,
    /// Their coefficients, where all tensors have the same.
    weights: Vec<f64>,
    /// For each tensor, what SCE keeps and its coefficients.
    pub(crate) spreads: Vec<Option<Spread>>,
    pub(crate) consensus: Consensus,
    /// For each tensor, what is kept of each expert's delta; empty for tensors that are copied.
    pub(crate) selectors: Vec<Vec<Selector>>,
}

impl DeltaWork {
    /// Whether the sums over a tensor that its selectors and coefficients come from are finite.
    pub(crate) fn is_defined(&self, tensor_idx: usize) -> bool {
        let are_finite = self.weights(tensor_idx).iter().all(|weight| weight.is_finite());
        are_finite && self.selectors[tensor_idx].iter().all(|selector| selector.select.scale.is_finite())
    }

    /// The experts' coefficients in a tensor.
    pub(crate) fn weights(&self, tensor_idx: usize) -> &[f64] {
        self.spreads.get(tensor_idx).and_then(Option::as_ref).map_or(&self.weights, |spread| &spread.weights)
    }
}

/// What rules are prepared from.
#[derive(Clone, Copy)]
pub(crate) struct RuleInputs<'a> {
    pub(crate) layout: &'a MergeLayout,
    pub(crate) sources: &'a [&'a dyn TensorSource],
    pub(crate) piece: PieceSize,
}

/// Bytes that rules hold beside the pieces of a merge: histograms, blocks and probabilities of each thread.
pub(crate) fn held_bytes<'a>(outputs: impl Iterator<Item = &'a OutputPlan>, n_threads: usize) -> u64 {
    /// The largest piece, in elements of two bytes, each with a probability in f64.
    const PIECE_BYTES: u64 = 8 * (32 << 10);
    let of_output = |output: &OutputPlan| {
        let n_experts = output.rule.as_ref().map_or(0, |rule| rule.experts(output.sources.len()).count());
        let buffers = PIECE_BYTES.saturating_mul(n_experts as u64 + 4);
        (n_experts as u64).saturating_mul(HISTOGRAM_BYTES).saturating_add(if n_experts > 0 { buffers } else { 0 })
    };
    outputs.map(of_output).max().unwrap_or(0).saturating_mul(n_threads as u64)
}

/// Prepares the rule of each combination that has one. Reads the sources as often as the rule needs.
pub(crate) fn prepare_rules(
    combinations: &[Combination],
    inputs: RuleInputs<'_>,
    run: &RunContext<'_>,
) -> Result<Vec<Option<RuleWork>>, Error> {
    let prepare = |combination: &Combination| match &combination.rule {
        None => Ok(None),
        Some(rule) => match rule.kind.family() {
            Family::Geometry => prepare_geometry(rule, combination, inputs, run).map(Some),
            Family::Delta { sparsity, election } => {
                prepare_delta(rule, (sparsity, election), combination, inputs, run).map(Some)
            }
        },
    };
    combinations.iter().map(prepare).collect()
}

/// A model of zeros. A Gram matrix is made of differences from its last source, so that the products of vectors much
/// shorter than that one would drown in its rounding.
struct Zeros<'a>(&'a TensorCatalog);

impl TensorSource for Zeros<'_> {
    fn catalog(&self) -> &TensorCatalog {
        self.0
    }

    fn read_elements(&self, _: usize, _: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        out.fill(0);
        Ok(())
    }
}

fn prepare_geometry(
    rule: &PlanRule,
    combination: &Combination,
    inputs: RuleInputs<'_>,
    run: &RunContext<'_>,
) -> Result<RuleWork, Error> {
    let n_sources = combination.source_idxs.len();
    let weights = combination.coefficients.as_f64();
    let counts: Vec<usize> = rule.experts(n_sources).filter(|&i| weights[i] != 0.0).collect();
    let ordered = counts.iter().chain(&rule.base).map(|&i| inputs.sources[combination.source_idxs[i]]);
    let zeros = Zeros(&inputs.layout.catalog);
    let ordered = ordered.chain(rule.measures_from_zero().then_some(&zeros as &dyn TensorSource));
    let grams = gram(&ordered.collect::<Vec<_>>(), inputs.layout, run)?;
    let expert_weights: Vec<f64> = counts.iter().map(|&i| weights[i]).collect();
    let of_tensor = |gram: &Option<crate::gram::Gram>| {
        let shares = find_shares(rule, gram.as_ref()?, &expert_weights);
        exact_shares(&shares, &counts, (rule.base, n_sources))
    };
    Ok(RuleWork::PerTensor(grams.iter().map(of_tensor).collect()))
}

/// The shares as exact coefficients of all sources of a combination; `None` where one is not finite.
fn exact_shares(shares: &Shares, experts: &[usize], (base, n_sources): (Option<usize>, usize)) -> Option<Coefficients> {
    let mut values = vec![Ratio::from_integer(0); n_sources];
    let mut sum = num_rational::BigRational::from_integer(0.into());
    for (&i, &share) in experts.iter().zip(&shares.experts) {
        values[i] = Ratio::from_f64(share)?;
        sum += num_rational::BigRational::new(values[i].numerator().clone(), values[i].denominator().clone());
    }
    if let Some(base) = base {
        values[base] = match shares.base {
            Some(share) => Ratio::from_f64(share)?,
            None => Ratio::from(num_rational::BigRational::from_integer(1.into()) - sum),
        };
    }
    Coefficients::from_ratios(&values).ok()
}

fn prepare_delta(
    rule: &PlanRule,
    (sparsity, election): (Sparsity, Election),
    combination: &Combination,
    inputs: RuleInputs<'_>,
    run: &RunContext<'_>,
) -> Result<RuleWork, Error> {
    let n_sources = combination.source_idxs.len();
    let Some(base) = rule.base.map(|base| combination.source_idxs[base]) else {
        return Err(Error::Bug { what: "a rule of deltas has no base" });
    };
    let all_weights = combination.coefficients.as_f64();
    // An expert without a coefficient is not read, but keeps its number, which its mask is drawn from.
    let numbered = rule.experts(n_sources).enumerate().filter(|(_, i)| all_weights[*i] != 0.0);
    let (numbers, positions): (Vec<usize>, Vec<usize>) = numbered.unzip();
    let experts: Vec<usize> = positions.iter().map(|&i| combination.source_idxs[i]).collect();
    let RuleInputs { layout, sources, piece } = inputs;
    let scan = Scan { sources, layout, piece, base, experts: &experts, seen: Seen::Deltas };
    let preparation =
        Preparation { rule, sparsity, scan: &scan, numbers: &numbers, parts: parts_by_tensor(inputs.layout) };
    let selectors = preparation.selectors(run)?;
    let spreads = preparation.spreads(run)?;
    let weights = positions.iter().map(|&i| all_weights[i]).collect();
    let consensus = Consensus {
        election,
        zero_is_positive: rule.convention == Convention::Mergekit,
        divides: rule.divide,
        lambda: rule.lambda_f64(),
    };
    Ok(RuleWork::Delta(DeltaWork { base, experts, weights, spreads, consensus, selectors }))
}

/// The parts of each tensor that a rule merges; none for the others.
fn parts_by_tensor(layout: &MergeLayout) -> Vec<Vec<Part>> {
    let entries = layout.catalog.entries();
    let is_wanted = |t: usize| matches!(layout.classes[t], TensorClass::Float | TensorClass::Router);
    let units = UnitList::cut(&layout.catalog, is_wanted, |t| entries[t].dtype.bytes().unwrap_or(1));
    let mut parts = vec![Vec::new(); entries.len()];
    for part in (0..units.len()).flat_map(|unit| units.parts(unit)) {
        parts[part.tensor_idx].push(part.clone());
    }
    parts
}

struct Preparation<'a> {
    rule: &'a PlanRule,
    sparsity: Sparsity,
    scan: &'a Scan<'a>,
    /// The experts' numbers in the plan.
    numbers: &'a [usize],
    parts: Vec<Vec<Part>>,
}

impl Preparation<'_> {
    fn selectors(&self, run: &RunContext<'_>) -> Result<Vec<Vec<Selector>>, Error> {
        let n_tensors = self.parts.len();
        let of_model = match (self.sparsity, self.rule.convention) {
            (Sparsity::Largest, Convention::Paper) => {
                self.announce(2, run);
                let all: Vec<Part> = self.parts.iter().flatten().cloned().collect();
                Some(self.largest(&all, TieOrder::Together, run)?)
            }
            (Sparsity::Largest, Convention::Mergekit) | (Sparsity::Middle, _) => {
                self.announce(3, run);
                None
            }
            _ => None,
        };
        if self.rule.rescale == Rescale::L1 {
            self.announce(1, run);
        }
        let mut selectors = Vec::with_capacity(n_tensors);
        for tensor_idx in 0..n_tensors {
            selectors.push(match self.parts[tensor_idx].is_empty() {
                true => Vec::new(),
                false => self.of_tensor(tensor_idx, of_model.as_deref(), run)?,
            });
        }
        Ok(selectors)
    }

    /// For SCE, what is kept of each tensor that is merged.
    fn spreads(&self, run: &RunContext<'_>) -> Result<Vec<Option<Spread>>, Error> {
        if self.sparsity != Sparsity::Spread {
            return Ok(Vec::new());
        }
        self.announce(5, run);
        let spread = |parts: &Vec<Part>| match parts.is_empty() {
            true => Ok(None),
            false => self.scan.spread(parts, self.density(0), self.rule.convention, run).map(Some),
        };
        self.parts.iter().map(spread).collect()
    }

    /// Begins a stage of progress that reads the tensors `n_passes` times.
    fn announce(&self, n_passes: u64, run: &RunContext<'_>) {
        let entries = self.scan.layout.catalog.entries();
        let wanted = (0..self.parts.len()).filter(|&t| !self.parts[t].is_empty());
        let n_bytes: u64 = wanted.map(|t| entries[t].n_bytes()).sum();
        run.progress.begin(Stage::Rank, n_bytes * (self.scan.experts.len() as u64 + 1) * n_passes);
    }

    fn density(&self, expert: usize) -> f64 {
        self.rule.densities.get(self.numbers[expert]).copied().unwrap_or(1.0)
    }

    fn of_tensor(
        &self,
        tensor_idx: usize,
        of_model: Option<&[Keep]>,
        run: &RunContext<'_>,
    ) -> Result<Vec<Selector>, Error> {
        let parts = &self.parts[tensor_idx];
        let keeps: Vec<Keep> = match (self.sparsity, of_model) {
            (_, Some(keeps)) => keeps.to_vec(),
            (Sparsity::None | Sparsity::Spread, _) => vec![Keep::All; self.numbers.len()],
            (Sparsity::Largest, None) => self.largest(parts, TieOrder::FirstIsLargest, run)?,
            (Sparsity::Middle, None) => self.middle(parts, run)?,
            (Sparsity::Random | Sparsity::RandomByRank, None) => self.random(tensor_idx),
        };
        let divides_by_probability = self.rule.rescale == Rescale::Inverse;
        let selector = |(expert, keep): (usize, Keep)| Selector {
            select: DeltaSelector { keep, divides_by_probability, scale: 1.0 },
            by_rank: self.by_rank(expert).filter(|_| matches!(keep, Keep::RandomEach { .. })),
        };
        let mut selectors: Vec<Selector> = keeps.into_iter().enumerate().map(selector).collect();
        if self.rule.rescale == Rescale::L1 {
            self.restore_norms(parts, &mut selectors, run)?;
        }
        Ok(selectors)
    }

    /// Scales each selector so that the delta gets its L1 norm back, if there is any left.
    fn restore_norms(&self, parts: &[Part], selectors: &mut [Selector], run: &RunContext<'_>) -> Result<(), Error> {
        /// Norms below this are left as they are, as in mergekit.
        const LEAST_NORM: f64 = 1e-7;
        let norms = self.scan.norms(parts, selectors, run)?;
        for (selector, (before, after)) in selectors.iter_mut().zip(norms) {
            let is_dropped = matches!(selector.select.keep, Keep::All | Keep::Nothing);
            // Not a number is not small: it makes the scale one, by which the tensor is refused.
            let is_small = before < LEAST_NORM || after < LEAST_NORM;
            if !is_dropped && !is_small {
                selector.select.scale = before / after;
            }
        }
        Ok(())
    }

    /// How an expert's probabilities follow the ranks, for rules in which they do.
    fn by_rank(&self, expert: usize) -> Option<ByRank> {
        let epsilon = self.rule.epsilon.filter(|_| self.sparsity == Sparsity::RandomByRank)?;
        Some(ByRank { convention: self.rule.convention, density: self.density(expert), epsilon })
    }

    fn random(&self, tensor_idx: usize) -> Vec<Keep> {
        let name = &self.scan.layout.catalog.entries()[tensor_idx].name;
        let seed = self.rule.seed.unwrap_or(0);
        let keep = |(expert, &number): (usize, &usize)| {
            let key = stream_key(seed, name, number);
            match self.density(expert) {
                density if density >= 1.0 => Keep::All,
                density if density <= 0.0 => Keep::Nothing,
                _ if self.by_rank(expert).is_some() => Keep::RandomEach { key },
                density => Keep::Random { key, density },
            }
        };
        self.numbers.iter().enumerate().map(keep).collect()
    }

    /// Keeps the largest elements of `parts`: as many as the density says, at least one.
    fn largest(&self, parts: &[Part], ties: TieOrder, run: &RunContext<'_>) -> Result<Vec<Keep>, Error> {
        let n_elements: u64 = parts.iter().map(|part| part.elements.end - part.elements.start).sum();
        let range = |expert: usize| {
            let n_kept = share_of(self.density(expert), n_elements).max(1);
            (n_elements.saturating_sub(n_kept), n_elements)
        };
        self.ranges(parts, &range, ties, run)
    }

    /// Keeps the largest elements after the outliers.
    fn middle(&self, parts: &[Part], run: &RunContext<'_>) -> Result<Vec<Keep>, Error> {
        let n_elements: u64 = parts.iter().map(|part| part.elements.end - part.elements.start).sum();
        let n_top = share_of(self.rule.gamma.unwrap_or(0.0), n_elements);
        let range = |expert: usize| {
            let n_kept = share_of(self.density(expert), n_elements);
            // Fewer outliers are dropped where the density would not be reached.
            let n_bottom = n_elements.saturating_sub(n_kept).saturating_sub(n_top);
            (n_bottom, n_bottom + n_kept)
        };
        self.ranges(parts, &range, TieOrder::LastIsLargest, run)
    }

    /// Keeps elements whose rank, ascending, is in a range.
    fn ranges(
        &self,
        parts: &[Part],
        range: &dyn Fn(usize) -> (u64, u64),
        ties: TieOrder,
        run: &RunContext<'_>,
    ) -> Result<Vec<Keep>, Error> {
        let is_open = |expert: usize| self.density(expert) > 0.0 && self.density(expert) < 1.0;
        let experts: Vec<usize> = (0..self.numbers.len()).filter(|&expert| is_open(expert)).collect();
        let mut keeps: Vec<Keep> = (0..self.numbers.len())
            .map(|expert| if self.density(expert) >= 1.0 { Keep::All } else { Keep::Nothing })
            .collect();
        if experts.is_empty() {
            return Ok(keeps);
        }
        let wanted: Vec<Wanted> = experts
            .iter()
            .flat_map(|&expert| {
                let (from, to) = range(expert);
                [Wanted { expert, rank: from, ties }, Wanted { expert, rank: to, ties }]
            })
            .collect();
        let keys: Vec<RankKey> = self.scan.find_ranks(parts, &wanted, run)?;
        for (&expert, pair) in experts.iter().zip(keys.as_chunks::<2>().0) {
            keeps[expert] = Keep::Ranks { from: pair[0], to: pair[1], ties };
        }
        Ok(keeps)
    }
}
