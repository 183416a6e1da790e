//! The one weighted sum: K affine combinations of N sources in one reading.
//!
//! A worker owns a unit from read to write: it reads a piece of each source into its buffers, adds, rounds and
//! writes at the known place. No queue, no shared state but the number of the next unit. Which bits come out is a
//! matter of the coefficients and the input bytes alone; see `thalweg_tensor::kernel`.

mod apply_rule;
mod finish_head;
mod slide;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use num_bigint::BigInt;
use thalweg_tensor::kernel::{FloatEnvironment, NonFinitePolicy, SumFault, SumSpec, WeightedSum, difference_stats};
use thalweg_tensor::{Dtype, TensorEntry, TensorSink, TensorSource, display_name, to_index};

use self::apply_rule::RuleScratch;
use self::finish_head::HeadScratch;
use self::slide::RunningWindows;
pub use crate::combination::Combination;
use crate::context::RunContext;
use crate::error::Error;
use crate::head::HeadReader;
use crate::memory::PieceSize;
use crate::merge_layout::{MergeLayout, output_dtype};
use crate::part_hash::{PartHashers, PartResult};
use crate::plan::DigestChoice;
use crate::reading::{Action, SourceUse, source_use, stored_bytes};
use crate::rule::RuleWork;
use crate::tensor_class::TensorClass;
pub use crate::tensor_stats::TensorStats;
use crate::unit::{Part, UnitList};
use crate::unit_order::UnitOrder;
use crate::window_chain::{WindowOrder, WindowStep};
use crate::workers::run_workers;

/// Everything that `combine` works on.
pub(crate) struct CombineJob<'a> {
    pub(crate) layout: &'a MergeLayout,
    pub(crate) sources: &'a [&'a dyn TensorSource],
    /// Names of the sources, for messages.
    pub(crate) source_paths: &'a [std::path::PathBuf],
    pub(crate) combinations: &'a [Combination],
    /// For each combination with a rule, what it does.
    pub(crate) rules: &'a [Option<RuleWork>],
    /// For each combination, the prepared sum of all its sources but the last, where there is one; empty in memory.
    pub(crate) heads: &'a [Option<HeadReader<'a>>],
    /// One for each combination; their catalogs have the layout's names and shapes.
    pub(crate) sinks: &'a [&'a dyn TensorSink],
    /// What is recorded of a part beside its bytes; `None` in memory, where there is no receipt.
    pub(crate) record: Option<DigestChoice>,
    /// By source, whether its digest is known and not taken again; empty in memory.
    pub(crate) is_known: &'a [bool],
    pub(crate) units: &'a UnitList,
    /// Units that an earlier run finished.
    pub(crate) is_done: &'a (dyn Fn(usize) -> bool + Sync),
    /// Takes the results of a unit, part by part; called once for each unit, from any thread.
    pub(crate) on_unit: &'a (dyn Fn(usize, Vec<PartResult>) -> Result<(), Error> + Sync),
    pub(crate) piece: PieceSize,
}

/// Reads each needed source byte once and fills every output.
///
/// # Errors
/// The first failure, by the order of the work; `Interrupted`.
pub(crate) fn combine(job: &CombineJob<'_>, run: &RunContext<'_>) -> Result<(), Error> {
    let prepared = Prepared::new(job, run)?;
    let most_places = job.sources.iter().filter_map(|source| source.n_places()).min();
    let order = UnitOrder::new(job.units.len(), run.limits.n_threads.get(), most_places);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let work = || {
        let _environment = FloatEnvironment::set_default();
        let mut worker = Worker::new(job, &prepared);
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= order.n_turns() || stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(unit_idx) = order.unit_at(turn).filter(|&unit_idx| !(job.is_done)(unit_idx)) else { continue };
            let outcome = run
                .check_interrupt()
                .and_then(|()| worker.do_unit(unit_idx, order.unit_at(turn + run.limits.n_threads.get()), run));
            if let Err(error) = outcome {
                stop.store(true, Ordering::Relaxed);
                let mut slot = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.as_ref().is_none_or(|(earlier, _)| unit_idx < *earlier) {
                    *slot = Some((unit_idx, error));
                }
                return;
            }
        }
    };
    run_workers(run, &work)?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// What all workers share: which sources serve which class, and the prepared sums.
pub(crate) struct Prepared {
    uses: BTreeMap<u8, SourceUse>,
    /// By combination, input and output element type.
    pub(crate) sums: BTreeMap<(usize, Dtype, Dtype), WeightedSum>,
    /// Exact widening for statistics where input and output types differ.
    widenings: BTreeMap<(Dtype, Dtype), WeightedSum>,
    /// By class and input element type.
    orders: BTreeMap<(u8, Dtype), WindowOrder>,
    /// By tensor and combination, for tensors that hold a value that is not finite: whether all sources of the
    /// combination hold the same bytes.
    pub(crate) equal: Mutex<BTreeMap<(usize, usize), bool>>,
}

impl Prepared {
    fn new(job: &CombineJob<'_>, run: &RunContext<'_>) -> Result<Self, Error> {
        let mut prepared = Self {
            uses: BTreeMap::new(),
            sums: BTreeMap::new(),
            widenings: BTreeMap::new(),
            orders: BTreeMap::new(),
            equal: Mutex::default(),
        };
        for (entry, &class) in job.layout.catalog.entries().iter().zip(&job.layout.classes) {
            prepared.uses.entry(class as u8).or_insert_with(|| source_use(class, job.combinations));
            if matches!(class, TensorClass::Float | TensorClass::Router | TensorClass::Moment) {
                prepared.prepare_sums(job, run, (entry, class))?;
            }
            if !prepared.orders.contains_key(&(class as u8, entry.dtype)) {
                let order = prepared.order_windows(job, class, entry.dtype);
                prepared.orders.insert((class as u8, entry.dtype), order);
            }
        }
        Ok(prepared)
    }

    fn prepare_sums(
        &mut self,
        job: &CombineJob<'_>,
        run: &RunContext<'_>,
        (entry, class): (&TensorEntry, TensorClass),
    ) -> Result<(), Error> {
        let input = entry.dtype;
        let in_tensor = |source| Error::Sum { tensor: display_name(&entry.name), source };
        for (i, combination) in job.combinations.iter().enumerate() {
            let output = output_dtype(class, input, combination.dtype);
            if self.sums.contains_key(&(i, input, output)) {
                continue;
            }
            let spec = SumSpec { input, output, non_finite: combination.non_finite, simd: run.limits.simd };
            let sum = WeightedSum::new(&combination.terms().1, combination.coefficients.divisor(), spec);
            self.sums.insert((i, input, output), sum.map_err(in_tensor)?);
            let wide = wider(input, output);
            for narrow in [input, output].into_iter().filter(|&narrow| narrow != wide) {
                let one = BigInt::from(1);
                let spec = SumSpec {
                    input: narrow,
                    output: wide,
                    non_finite: NonFinitePolicy::Propagate,
                    simd: run.limits.simd,
                };
                let widening = WeightedSum::new(std::slice::from_ref(&one), &one, spec).map_err(in_tensor)?;
                self.widenings.insert((narrow, wide), widening);
            }
        }
        Ok(())
    }

    fn use_of(&self, class: TensorClass) -> Option<&SourceUse> {
        self.uses.get(&(class as u8))
    }
}

/// An element type that holds every value of both.
fn wider(a: Dtype, b: Dtype) -> Dtype {
    let rank = |dtype| match dtype {
        Dtype::F64 => 3,
        Dtype::F32 => 2,
        _ => 1,
    };
    match rank(a).cmp(&rank(b)) {
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Equal if a == b => a,
        std::cmp::Ordering::Equal => Dtype::F32,
    }
}

/// One thread's buffers.
pub(crate) struct Worker<'a> {
    pub(crate) job: &'a CombineJob<'a>,
    pub(crate) prepared: &'a Prepared,
    pub(crate) inputs: Vec<Vec<u8>>,
    pub(crate) output: Vec<u8>,
    pub(crate) wide: [Vec<u8>; 2],
    pub(crate) rule: RuleScratch,
    windows: RunningWindows,
    heads: HeadScratch,
    /// Whether the unit before came from the medium rather than from memory.
    reads_medium: bool,
}

/// A worker that moves fewer bytes per second waits for the medium: only then does asking ahead pay for its calls.
const MEMORY_BYTES_PER_SECOND: f64 = 1e9;

impl<'a> Worker<'a> {
    fn new(job: &'a CombineJob<'a>, prepared: &'a Prepared) -> Self {
        let inputs = vec![Vec::new(); job.sources.len()];
        let wide = [Vec::new(), Vec::new()];
        Self {
            job,
            prepared,
            inputs,
            output: Vec::new(),
            wide,
            rule: RuleScratch::default(),
            windows: RunningWindows::default(),
            heads: HeadScratch::default(),
            reads_medium: true,
        }
    }

    /// Does a unit; `ahead` is the one that this thread will probably do next.
    fn do_unit(&mut self, unit_idx: usize, ahead: Option<usize>, run: &RunContext<'_>) -> Result<(), Error> {
        let parts = self.job.units.parts(unit_idx);
        if let Some(ahead) = ahead.filter(|_| self.reads_medium || self.job.piece.drops_cache) {
            self.hint(self.job.units.parts(ahead), TensorSource::will_read);
        }
        let started = run.host.elapsed_seconds();
        let results = parts.iter().map(|part| self.do_part(part, run)).collect::<Result<Vec<_>, _>>()?;
        let seconds = run.host.elapsed_seconds() - started;
        self.reads_medium = self.bytes_read_by(parts) < seconds * MEMORY_BYTES_PER_SECOND;
        if self.job.piece.drops_cache {
            self.hint(parts, TensorSource::done_reading);
        }
        (self.job.on_unit)(unit_idx, results)
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn bytes_read_by(&self, parts: &[Part]) -> f64 {
        let of_part = |part: &Part| {
            let used = self.prepared.use_of(self.job.layout.classes[part.tensor_idx]);
            used.map_or(0, |used| self.stored_bytes(used, part.tensor_idx, &part.elements))
        };
        parts.iter().map(of_part).sum::<u64>() as f64
    }

    fn stored_bytes(&self, used: &SourceUse, tensor_idx: usize, elements: &Range<u64>) -> u64 {
        stored_bytes(self.job.sources, &used.read, tensor_idx, elements)
    }

    fn hint(&self, parts: &[Part], tell: fn(&(dyn TensorSource + 'a), usize, Range<u64>)) {
        for part in parts {
            let class = self.job.layout.classes[part.tensor_idx];
            for &source_idx in self.prepared.use_of(class).map_or(&[][..], |used| &used.read) {
                tell(self.job.sources[source_idx], part.tensor_idx, part.elements.clone());
            }
        }
    }

    fn do_part(&mut self, part: &Part, run: &RunContext<'_>) -> Result<PartResult, Error> {
        let entry = &self.job.layout.catalog.entries()[part.tensor_idx];
        let class = self.job.layout.classes[part.tensor_idx];
        let order = self.prepared.orders.get(&(class as u8, entry.dtype));
        let Some((used, order)) = self.prepared.use_of(class).zip(order) else {
            return Err(Error::Bug { what: "a class of tensors was not prepared" });
        };
        let outputs =
            self.job.combinations.iter().map(|combination| output_dtype(class, entry.dtype, combination.dtype));
        let sources = used.read.iter().map(|&i| (self.job.is_known.get(i) != Some(&true)).then_some(entry.dtype));
        let range = (part.elements.start, entry.n_elements());
        let mut hashers = PartHashers::new(self.job.record, range, sources, outputs);
        let mut stats = vec![TensorStats::start(); self.job.combinations.len()];
        self.start_heads(part);
        for elements in self.job.piece.pieces_of(part) {
            let n_bytes = to_index(entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0));
            for (slot, &source_idx) in used.read.iter().enumerate() {
                let input = &mut self.inputs[source_idx];
                input.resize(n_bytes, 0);
                self.job.sources[source_idx]
                    .read_elements(part.tensor_idx, elements.clone(), input)
                    .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })?;
                hashers.source(slot, input);
            }
            let piece = Piece { entry, class, tensor_idx: part.tensor_idx, elements: elements.clone() };
            for &k in &order.outputs {
                stats[k].add(&self.make_output(k, (&used.actions[k], order.steps[k].as_ref()), &piece, run)?);
                hashers.output(k, &self.output);
            }
            run.progress.advance(self.stored_bytes(used, part.tensor_idx, &elements));
        }
        self.check_heads(part)?;
        Ok(hashers.finish(stats))
    }

    /// Fills `self.output` for combination `k` and hands it to its sink.
    fn make_output(
        &mut self,
        k: usize,
        (action, step): (&Action, Option<&WindowStep>),
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<TensorStats, Error> {
        let stats = match action {
            Action::Sum { terms } => self.sum(k, (terms, step), piece, run)?,
            Action::Finish { terms } => self.finish_head(k, terms, piece, run)?,
            Action::Rule { terms } => self.apply_rule(k, terms, piece, run)?,
            Action::Copy { from } => self.copy(k, *from, &[], piece)?,
            Action::CopyEqual { from, others } => self.copy(k, *from, others, piece)?,
        };
        self.job.sinks[k]
            .write_elements(piece.tensor_idx, piece.elements.start, &self.output)
            .map_err(|source| Error::Access { tensor: display_name(&piece.entry.name), source })?;
        Ok(stats)
    }

    fn sum(
        &mut self,
        k: usize,
        (terms, step): (&[usize], Option<&WindowStep>),
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<TensorStats, Error> {
        let combination = &self.job.combinations[k];
        let (input, output) = piece.dtypes(combination);
        let Some(sum) = self.prepared.sums.get(&(k, input, output)) else {
            return Err(Error::Bug { what: "a sum was not prepared" });
        };
        self.output.resize(piece.n_bytes(output), 0);
        self.slide_to(step, terms, piece, run);
        let sources: Vec<&[u8]> = terms.iter().map(|&i| self.inputs[i].as_slice()).collect();
        let summed = match self.windows.sums_for(step) {
            Some(sums) => sum.sum_window_into(sums, &sources, &mut self.output),
            None => sum.sum_into(&sources, &mut self.output),
        };
        let counts = match summed {
            Ok(counts) => counts,
            Err(fault) => {
                let is_guarded = matches!(fault, SumFault::NonFiniteInput { .. });
                if is_guarded && self.is_equal_everywhere(k, terms, piece, run)? {
                    return self.sum_of_equals(k, terms, piece);
                }
                return Err(self.explain(fault, terms, output, piece));
            }
        };
        let mut stats = TensorStats {
            n_non_finite: counts.n_non_finite,
            n_slow_path: counts.n_slow_path,
            ..TensorStats::default()
        };
        self.measure_distance(k, terms, (input, output), &mut stats)?;
        Ok(stats)
    }

    /// Distance of `self.output` from the newest source of combination `k`, if it is one of the `terms`, in an element
    /// type that holds both exactly.
    pub(crate) fn measure_distance(
        &mut self,
        k: usize,
        terms: &[usize],
        (input, output): (Dtype, Dtype),
        stats: &mut TensorStats,
    ) -> Result<(), Error> {
        let newest_idx = self.job.combinations[k].newest_idx;
        if self.job.record.is_none() || !terms.contains(&newest_idx) {
            return Ok(());
        }
        let wide = wider(input, output);
        let Self { inputs, output: merged, wide: [wide_newest, wide_merged], prepared, .. } = self;
        let newest = widen(prepared, input, wide, &inputs[newest_idx], wide_newest)?;
        let merged = widen(prepared, output, wide, merged, wide_merged)?;
        let distance = difference_stats(wide, newest, merged);
        stats.sum_squared_distance = Some(distance.sum_squared_difference);
        stats.max_abs_change = Some(distance.max_abs_difference);
        stats.newest_squares = Some(distance.sum_squares);
        Ok(())
    }

    pub(crate) fn explain(&self, fault: SumFault, terms: &[usize], output: Dtype, piece: &Piece<'_>) -> Error {
        let tensor = display_name(&piece.entry.name);
        match fault {
            SumFault::NonFiniteInput { source_idx, element_idx } => Error::NonFinite {
                is_newest: terms
                    .get(source_idx)
                    .is_some_and(|i| self.job.combinations.iter().any(|combination| combination.newest_idx == *i)),
                summed: None,
                tensor,
                path: terms.get(source_idx).map(|&i| self.job.source_paths[i].clone()).unwrap_or_default(),
                element_idx: piece.elements.start + element_idx as u64,
            },
            SumFault::Overflow { element_idx, value } => {
                Error::Overflow { tensor, element_idx: piece.elements.start + element_idx as u64, value, dtype: output }
            }
            _ => Error::Bug { what: "a sum failed in an unknown way" },
        }
    }

    pub(crate) fn copy(
        &mut self,
        k: usize,
        from: usize,
        others: &[usize],
        piece: &Piece<'_>,
    ) -> Result<TensorStats, Error> {
        if let Some(&other) = others.iter().find(|&&other| self.inputs[other] != self.inputs[from]) {
            return Err(Error::NonFloatDiffers {
                tensor: display_name(&piece.entry.name),
                dtype: piece.entry.dtype,
                class: piece.class,
                path_a: self.job.source_paths[other].clone(),
                path_b: self.job.source_paths[from].clone(),
            });
        }
        let combination = &self.job.combinations[k];
        let (input, output) = piece.dtypes(combination);
        if input == output {
            self.output.clear();
            self.output.extend_from_slice(&self.inputs[from]);
            return Ok(TensorStats {
                sum_squared_distance: Some(0.0),
                max_abs_change: Some(0.0),
                ..TensorStats::default()
            });
        }
        self.convert_copy(from, output, piece)
    }

    /// A copy that changes the element type: a sum over one source with the coefficient 1.
    fn convert_copy(&mut self, from: usize, output: Dtype, piece: &Piece<'_>) -> Result<TensorStats, Error> {
        let one = BigInt::from(1);
        let spec = SumSpec {
            input: piece.entry.dtype,
            output,
            non_finite: NonFinitePolicy::Propagate,
            simd: thalweg_tensor::kernel::Simd::Auto,
        };
        let sum = WeightedSum::new(std::slice::from_ref(&one), &one, spec)
            .map_err(|source| Error::Sum { tensor: display_name(&piece.entry.name), source })?;
        self.output.resize(piece.n_bytes(output), 0);
        sum.sum_into(&[&self.inputs[from]], &mut self.output)
            .map_err(|fault| self.explain(fault, &[from], output, piece))?;
        Ok(TensorStats::default())
    }
}

fn widen<'b>(
    prepared: &Prepared,
    from: Dtype,
    to: Dtype,
    bytes: &'b [u8],
    buffer: &'b mut Vec<u8>,
) -> Result<&'b [u8], Error> {
    if from == to {
        return Ok(bytes);
    }
    let Some(widening) = prepared.widenings.get(&(from, to)) else {
        return Err(Error::Bug { what: "a widening was not prepared" });
    };
    let n_elements = bytes.len() as u64 / from.bytes().unwrap_or(1);
    buffer.resize(to_index(to.bytes_of(n_elements).unwrap_or(0)), 0);
    widening.sum_into(&[bytes], buffer).map_err(|_| Error::Bug { what: "a value did not fit a wider type" })?;
    Ok(buffer)
}

/// A range of a tensor that fits the buffers.
pub(crate) struct Piece<'b> {
    pub(crate) entry: &'b TensorEntry,
    class: TensorClass,
    pub(crate) tensor_idx: usize,
    pub(crate) elements: Range<u64>,
}

impl Piece<'_> {
    /// The element types in the sources and in the output.
    pub(crate) fn dtypes(&self, combination: &Combination) -> (Dtype, Dtype) {
        (self.entry.dtype, output_dtype(self.class, self.entry.dtype, combination.dtype))
    }

    pub(crate) fn n_bytes(&self, dtype: Dtype) -> usize {
        to_index(dtype.bytes_of(self.elements.end - self.elements.start).unwrap_or(0))
    }
}
