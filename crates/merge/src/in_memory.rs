//! Merges that end in memory: no file, no receipt. What is to last is written by `engine`.
//!
//! [`OpenMerge`] executes a plan over checkpoints, tensor by tensor or whole, for scoring many windows without writing
//! any. [`LiveMerge`] takes sources that are not checkpoints: live models, arenas of moments. Both are the one sum of
//! `combine`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_tensor::kernel::NonFinitePolicy;
use thalweg_tensor::{TensorCatalog, TensorEntry, TensorSink, TensorSource, counted, display_name};

use crate::Coefficients;
use crate::align::{align_sources, classify};
use crate::combination::Combination;
use crate::combine::{CombineJob, combine};
use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::memory::{Held, fit_piece};
use crate::merge_layout::MergeLayout;
use crate::open_source::{OpenSource, open_sources};
use crate::output_kind::OptimizerPolicy;
use crate::plan::{MergePlan, NonFloatPolicy, OutputDtype, RouterPolicy};
use crate::reading::Reading;
use crate::rule::{RuleInputs, held_bytes, prepare_rules};
use crate::seen::check_seen;
use crate::tensor_class::TensorClass;
use crate::unit::UnitList;

/// A source with the name that messages use.
#[derive(Clone, Copy)]
pub struct LiveSource<'a> {
    /// Such as `step 1000`.
    pub name: &'a str,
    /// Its tensors.
    pub tensors: &'a dyn TensorSource,
}

impl std::fmt::Debug for LiveSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveSource").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A plan with its sources open and compared: merges any of its tensors into memory, any number of times.
///
/// Ignores the outputs' paths, shards, digests, side files and cards.
#[derive(Debug)]
pub struct OpenMerge {
    sources: Vec<OpenSource>,
    layout: MergeLayout,
    combinations: Vec<Combination>,
    catalogs: Vec<Arc<TensorCatalog>>,
    /// What rules of experts hold in memory.
    rule_bytes: u64,
}

impl OpenMerge {
    /// Opens the sources of `plan` and compares them, by their headers alone. The layout's notes go to the progress.
    ///
    /// # Errors
    /// As a merge for the sources; `SourcesChanged` if they are not those that the plan saw.
    pub fn open(plan: &MergePlan, run: &RunContext<'_>) -> Result<Self, Error> {
        let sources = open_sources(plan, run)?;
        check_seen(plan, &sources, &*run.storage)?;
        let layout = align_sources(&sources, plan, &*run.storage)?;
        layout.notes.iter().for_each(|note| run.progress.note(note));
        let combinations =
            plan.outputs.iter().map(|output| Combination::of_plan(output, &sources)).collect::<Result<Vec<_>, _>>()?;
        let catalogs = combinations.iter().map(|combination| output_catalog(&layout, combination.dtype)).collect();
        let rule_bytes = held_bytes(plan.outputs.iter(), run.limits.n_threads.get());
        Ok(Self { sources, layout, combinations, catalogs, rule_bytes })
    }

    /// The merged tensors of each output, in the order of the plan.
    pub fn catalogs(&self) -> &[Arc<TensorCatalog>] {
        &self.catalogs
    }

    /// Merges the tensors whose numbers are in `wanted` into `sinks`, one for each output: the bits that
    /// `execute_merge` would publish. Returns the number of bytes read.
    ///
    /// # Errors
    /// `PlanInvalid` where the sinks are not as many as the outputs or hold other tensors; as a merge for the content.
    pub fn merge_tensors(
        &self,
        wanted: &dyn Fn(usize) -> bool,
        sinks: &[&dyn TensorSink],
        run: &RunContext<'_>,
    ) -> Result<u64, Error> {
        let views = self.layout.views(&self.sources);
        let tensors: Vec<&dyn TensorSource> = views.iter().map(|view| view as &dyn TensorSource).collect();
        let names = self.sources.iter().map(|source| source.path.clone()).collect();
        let held = Held::of_sources(&self.sources).bytes(&self.layout.catalog).saturating_add(self.rule_bytes);
        let job = FillJob { layout: &self.layout, held_bytes: held, wanted };
        let bytes_read = fill_sinks(&job, (&tensors, names), &self.combinations, sinks, run)?;
        self.sources.iter().try_for_each(|source| source.checkpoint.check_unchanged())?;
        Ok(bytes_read)
    }
}

/// The tensors of an output: those of the layout, in the element types that they get.
fn output_catalog(layout: &MergeLayout, wanted: OutputDtype) -> Arc<TensorCatalog> {
    let entries = || layout.catalog.entries().iter().enumerate();
    if entries().all(|(t, entry)| layout.output_dtype(t, wanted) == entry.dtype) {
        return Arc::clone(&layout.catalog);
    }
    let in_output =
        |(t, entry): (usize, &TensorEntry)| TensorEntry { dtype: layout.output_dtype(t, wanted), ..entry.clone() };
    let entries = entries().map(in_output).collect();
    // Names in a catalog are unique, so this cannot fail.
    Arc::new(TensorCatalog::new(entries).unwrap_or_default())
}

/// Executes `plan` into `sinks`, one for each output in its order: the bits that `execute_merge` would publish.
///
/// Returns the number of bytes read.
///
/// # Errors
/// As [`OpenMerge::open`] and [`OpenMerge::merge_tensors`].
pub fn merge_into_sinks(plan: &MergePlan, sinks: &[&dyn TensorSink], run: &RunContext<'_>) -> Result<u64, Error> {
    OpenMerge::open(plan, run)?.merge_tensors(&|_| true, sinks, run)
}

/// What is done with live sources where averaging has no meaning, and the element type of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveOptions {
    /// Element type of averaged tensors.
    pub dtype: OutputDtype,
    /// Integers and booleans.
    pub non_float: NonFloatPolicy,
    /// Routers and expert biases.
    pub router: RouterPolicy,
    /// NaN and infinities.
    pub non_finite: NonFinitePolicy,
}

impl Default for LiveOptions {
    /// The defaults of a merge: element types stay, other than floating tensors must be equal in all sources, routers
    /// are averaged, and NaN and infinities are refused.
    fn default() -> Self {
        Self {
            dtype: OutputDtype::Same,
            non_float: NonFloatPolicy::Error,
            router: RouterPolicy::Average,
            non_finite: NonFinitePolicy::Refuse,
        }
    }
}

/// A weighted sum of sources that are not checkpoints: the bits that `execute_merge` writes for checkpoints of the same
/// content.
#[derive(Debug)]
pub struct LiveMerge<'a> {
    sources: &'a [LiveSource<'a>],
    layout: MergeLayout,
    combination: Combination,
    catalog: Arc<TensorCatalog>,
}

impl<'a> LiveMerge<'a> {
    /// Compares the sources, oldest first.
    ///
    /// # Errors
    /// `PlanInvalid` where names, shapes, element types or numbers of coefficients differ.
    pub fn new(
        sources: &'a [LiveSource<'a>],
        coefficients: &Coefficients,
        options: LiveOptions,
    ) -> Result<Self, Error> {
        let layout = align_live(sources, coefficients)?;
        let combination = Combination {
            source_idxs: (0..sources.len()).collect(),
            coefficients: coefficients.clone(),
            newest_idx: sources.len() - 1,
            dtype: options.dtype,
            non_float: options.non_float,
            router: options.router,
            non_finite: options.non_finite,
            rule: None,
            has_head: false,
        };
        let catalog = output_catalog(&layout, options.dtype);
        Ok(Self { sources, layout, combination, catalog })
    }

    /// The tensors of the sum.
    pub fn catalog(&self) -> &Arc<TensorCatalog> {
        &self.catalog
    }

    /// Merges the tensors whose numbers are in `wanted` into `sink`.
    ///
    /// # Errors
    /// `PlanInvalid` where the sink holds other tensors; as a merge for the content.
    pub fn merge_tensors(
        &self,
        wanted: &dyn Fn(usize) -> bool,
        sink: &dyn TensorSink,
        run: &RunContext<'_>,
    ) -> Result<(), Error> {
        let tensors: Vec<&dyn TensorSource> = self.sources.iter().map(|source| source.tensors).collect();
        let names = self.sources.iter().map(|source| source.name.into()).collect();
        let held_bytes = Held::live(self.sources.len()).bytes(&self.layout.catalog);
        let job = FillJob { layout: &self.layout, held_bytes, wanted };
        let combination = std::slice::from_ref(&self.combination);
        fill_sinks(&job, (&tensors, names), combination, &[sink], run).map(|_| ())
    }
}

/// Fills `sink` with the weighted sum of `sources`, oldest first, with the default options.
///
/// # Errors
/// As [`LiveMerge::new`] and [`LiveMerge::merge_tensors`].
pub fn merge_live(
    sources: &[LiveSource<'_>],
    coefficients: &Coefficients,
    sink: &dyn TensorSink,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    LiveMerge::new(sources, coefficients, LiveOptions::default())?.merge_tensors(&|_| true, sink, run)
}

/// What a reading goes through: the aligned tensors, what is held in memory anyway, and which tensors are wanted.
struct FillJob<'a> {
    layout: &'a MergeLayout,
    held_bytes: u64,
    wanted: &'a dyn Fn(usize) -> bool,
}

/// One reading of aligned sources, given with their names, into sinks that are checked first. Returns the bytes read.
fn fill_sinks(
    job: &FillJob<'_>,
    (sources, names): (&[&dyn TensorSource], Vec<PathBuf>),
    combinations: &[Combination],
    sinks: &[&dyn TensorSink],
    run: &RunContext<'_>,
) -> Result<u64, Error> {
    let layout = job.layout;
    check_sinks(layout, combinations, sinks)?;
    let dtypes: Vec<OutputDtype> = combinations.iter().map(|combination| combination.dtype).collect();
    let units = UnitList::of_merge(layout, job.wanted, &dtypes);
    let bytes_read = Reading::new(layout, sources, combinations, job.wanted).n_bytes();
    let piece = fit_piece(layout, (sources.len(), sinks.len()), job.held_bytes, bytes_read, run)?;
    let rules = prepare_rules(combinations, RuleInputs { layout, sources, piece }, run)?;
    run.progress.begin(Stage::Merge, bytes_read);
    let job = CombineJob {
        layout,
        sources,
        source_paths: &names,
        combinations,
        rules: &rules,
        heads: &[],
        sinks,
        record: None,
        is_known: &[],
        units: &units,
        is_done: &|_| false,
        on_unit: &|_, _| Ok(()),
        piece,
    };
    combine(&job, run)?;
    Ok(bytes_read)
}

/// A tensor has one number everywhere, so the sinks must hold the sources' tensors in the outputs' element types.
fn check_sinks(layout: &MergeLayout, combinations: &[Combination], sinks: &[&dyn TensorSink]) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::PlanInvalid { what });
    if sinks.len() != combinations.len() {
        return refuse(format!("{} for {}", counted(sinks.len(), "sink"), counted(combinations.len(), "output")));
    }
    for (sink, combination) in sinks.iter().zip(combinations) {
        let (wanted, found) = (layout.catalog.entries(), sink.catalog().entries());
        if wanted.len() != found.len() {
            return refuse(format!("the sources hold {}, a sink {}", counted(wanted.len(), "tensor"), found.len()));
        }
        for (t, (wanted, found)) in wanted.iter().zip(found).enumerate() {
            let dtype = layout.output_dtype(t, combination.dtype);
            if (&wanted.name, dtype, &wanted.shape) != (&found.name, found.dtype, &found.shape) {
                let (wanted, found) = (display_name(&wanted.name), display_name(&found.name));
                return refuse(format!("tensor `{wanted}` does not fit its place in a sink, `{found}`"));
            }
        }
    }
    Ok(())
}

fn align_live(sources: &[LiveSource<'_>], coefficients: &Coefficients) -> Result<MergeLayout, Error> {
    let refuse = |what: String| Error::PlanInvalid { what };
    let Some((first, others)) = sources.split_first() else { return Err(refuse("there is no source".to_owned())) };
    let (n_sources, n_coefficients) = (sources.len(), coefficients.numerators().len());
    if n_sources != n_coefficients {
        return Err(refuse(format!("{} for {}", counted(n_coefficients, "coefficient"), counted(n_sources, "source"))));
    }
    let catalog = first.tensors.catalog();
    for other in others {
        if let Some(tensor) = first_difference(catalog, other.tensors.catalog()) {
            let tensor = display_name(tensor);
            return Err(refuse(format!("tensor `{tensor}` of {} differs from that of {}", first.name, other.name)));
        }
    }
    let class_of = |entry| classify(entry, &[], OptimizerPolicy::Drop);
    let classes: Vec<TensorClass> = catalog.entries().iter().map(class_of).collect();
    Ok(MergeLayout {
        catalog: Arc::new(catalog.clone()),
        classes,
        notes: Vec::new(),
        places: Vec::new(),
        widened: BTreeSet::new(),
    })
}

/// A tensor that one of them lacks, or that has another shape or element type.
fn first_difference<'a>(a: &'a TensorCatalog, b: &'a TensorCatalog) -> Option<&'a str> {
    let (a, b) = (a.entries(), b.entries());
    let pair = a.iter().zip(b).find(|(a, b)| (&a.name, a.dtype, &a.shape) != (&b.name, b.dtype, &b.shape));
    let longer = if a.len() > b.len() { a.get(b.len()) } else { b.get(a.len()) };
    pair.map(|(a, _)| &*a.name).or(longer.map(|entry| &*entry.name))
}
