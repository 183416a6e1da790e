//! Merges that end in memory: no file, no receipt. What is to last is written by `engine`.
//!
//! [`merge_into_sinks`] executes a plan over checkpoints, for scoring many windows without writing any. [`merge_live`]
//! takes sources that are not checkpoints: live models, arenas of moments. Both are the one sum of `combine`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_tensor::kernel::NonFinitePolicy;
use thalweg_tensor::{TensorCatalog, TensorSink, TensorSource, display_name};

use crate::Coefficients;
use crate::align::{MergeLayout, TensorClass, align_sources, classify};
use crate::combine::{Combination, CombineJob, bytes_read, combine, output_dtype, source_use};
use crate::context::{RunContext, Stage};
use crate::engine::{combination_of, cut_units, fit_piece, open_sources};
use crate::error::Error;
use crate::memory::Held;
use crate::output_format::OptimizerPolicy;
use crate::plan::{DigestChoice, MergePlan, NonFloatPolicy, OutputDtype, RouterPolicy};
use crate::rule::{RuleInputs, held_bytes, prepare_rules};

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

/// Executes `plan` into `sinks`, one for each output in its order: the bits that `execute_merge` would publish.
///
/// Returns the number of bytes read. Ignores the outputs' paths, shards, digests, side files and cards.
///
/// # Errors
/// `PlanInvalid` where the sinks are not as many as the outputs or hold other tensors; as a merge for the sources.
pub fn merge_into_sinks(plan: &MergePlan, sinks: &[&dyn TensorSink], run: &RunContext<'_>) -> Result<u64, Error> {
    let sources = open_sources(plan, run)?;
    let layout = align_sources(&sources, plan, &*run.storage)?;
    layout.notes.iter().for_each(|note| run.progress.note(note));
    let combinations =
        plan.outputs.iter().map(|output| combination_of(output, &sources)).collect::<Result<Vec<_>, _>>()?;
    let views = layout.views(&sources);
    let tensors: Vec<&dyn TensorSource> = views.iter().map(|view| view as &dyn TensorSource).collect();
    let names = sources.iter().map(|source| source.path.clone()).collect();
    let held = Held::of_sources(&sources).bytes(&layout.catalog);
    let held = held.saturating_add(held_bytes(plan.outputs.iter(), run.limits.n_threads.get()));
    let bytes_read = fill_sinks((&layout, held), (&tensors, names), &combinations, sinks, run)?;
    sources.iter().try_for_each(|source| source.checkpoint.check_unchanged())?;
    Ok(bytes_read)
}

/// Fills `sink` with the weighted sum of `sources`, oldest first: the bits that `execute_merge` writes for checkpoints
/// of the same content with the default policies.
///
/// Element types stay; routers are averaged; other than floating tensors must be equal in all sources.
///
/// # Errors
/// `PlanInvalid` where names, shapes, element types or numbers of coefficients differ; as a merge for the content.
pub fn merge_live(
    sources: &[LiveSource<'_>],
    coefficients: &Coefficients,
    sink: &dyn TensorSink,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let layout = align_live(sources, coefficients)?;
    let combination = Combination {
        source_idxs: (0..sources.len()).collect(),
        coefficients: coefficients.clone(),
        newest_idx: sources.len() - 1,
        dtype: OutputDtype::Same,
        non_float: NonFloatPolicy::Error,
        router: RouterPolicy::Average,
        non_finite: NonFinitePolicy::Refuse,
        rule: None,
    };
    let tensors: Vec<&dyn TensorSource> = sources.iter().map(|source| source.tensors).collect();
    let names = sources.iter().map(|source| source.name.into()).collect();
    let held = Held::live(sources.len()).bytes(&layout.catalog);
    fill_sinks((&layout, held), (&tensors, names), &[combination], &[sink], run).map(|_| ())
}

/// One reading of aligned sources, given with their names, into sinks that are checked first. Returns the bytes read.
fn fill_sinks(
    (layout, held_bytes): (&MergeLayout, u64),
    (sources, names): (&[&dyn TensorSource], Vec<PathBuf>),
    combinations: &[Combination],
    sinks: &[&dyn TensorSink],
    run: &RunContext<'_>,
) -> Result<u64, Error> {
    check_sinks(layout, combinations, sinks)?;
    let entries = layout.catalog.entries();
    let dtype_of = |t: usize, k: usize| output_dtype(layout.classes[t], entries[t].dtype, combinations[k].dtype);
    let units = cut_units(layout, &dtype_of, sinks.len());
    let read_by: Vec<Vec<usize>> = layout.classes.iter().map(|&class| source_use(class, combinations).read).collect();
    let bytes_read = bytes_read(layout, sources, &read_by);
    let piece = fit_piece(layout, (sources.len(), sinks.len()), held_bytes, bytes_read, run)?;
    let rules = prepare_rules(combinations, RuleInputs { layout, sources, piece }, run)?;
    run.progress.begin(Stage::Merge, bytes_read);
    let job = CombineJob {
        layout,
        sources,
        source_paths: &names,
        combinations,
        rules: &rules,
        sinks,
        digest: DigestChoice::None,
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
        return refuse(format!("{} outputs go into {} sinks", combinations.len(), sinks.len()));
    }
    for (sink, combination) in sinks.iter().zip(combinations) {
        let (wanted, found) = (layout.catalog.entries(), sink.catalog().entries());
        if wanted.len() != found.len() {
            return refuse(format!("the sources hold {} tensors, a sink {}", wanted.len(), found.len()));
        }
        for ((wanted, &class), found) in wanted.iter().zip(&layout.classes).zip(found) {
            let dtype = output_dtype(class, wanted.dtype, combination.dtype);
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
        return Err(refuse(format!("{n_sources} sources have {n_coefficients} coefficients")));
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
