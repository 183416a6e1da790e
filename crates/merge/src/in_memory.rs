//! A plan executed into memory: K merges in one reading of the sources, and no file.
//!
//! For scoring many windows without writing any of them. What is to last is written by `engine`.

use std::path::PathBuf;

use thalweg_tensor::{TensorSink, TensorSource, display_name};

use crate::align::{MergeLayout, align_sources};
use crate::combine::{Combination, CombineJob, combine, output_dtype, source_use};
use crate::context::{RunContext, Stage};
use crate::engine::{combination_of, cut_units, fit_piece, open_sources};
use crate::error::Error;
use crate::plan::{DigestChoice, MergePlan};

/// Executes `plan` into `sinks`, one for each output in its order: the bits that `execute_merge` would publish.
///
/// The paths of the outputs, shards, digests, side files and cards mean nothing here.
///
/// # Errors
/// `PlanInvalid` where the sinks are not as many as the outputs or hold other tensors; as a merge for the sources.
pub fn merge_into_sinks(plan: &MergePlan, sinks: &[&dyn TensorSink], run: &RunContext<'_>) -> Result<(), Error> {
    let sources = open_sources(plan, run)?;
    let layout = align_sources(&sources, plan)?;
    layout.notes.iter().for_each(|note| run.progress.note(note));
    let combinations =
        plan.outputs.iter().map(|output| combination_of(output, &sources)).collect::<Result<Vec<_>, _>>()?;
    check_sinks(&layout, &combinations, sinks)?;
    let entries = layout.catalog.entries();
    let units = cut_units(
        &layout,
        &|t, k| output_dtype(layout.classes[t], entries[t].dtype, combinations[k].dtype),
        sinks.len(),
    );
    let n_read = |&class| source_use(class, &combinations).read.len() as u64;
    let bytes_read = entries.iter().zip(&layout.classes).map(|(entry, class)| entry.n_bytes() * n_read(class)).sum();
    let piece = fit_piece(&layout, sources.len(), sinks.len(), bytes_read, run)?;
    let tensors: Vec<&dyn TensorSource> =
        sources.iter().map(|source| &source.checkpoint as &dyn TensorSource).collect();
    let source_paths: Vec<PathBuf> = sources.iter().map(|source| source.path.clone()).collect();
    run.progress.begin(Stage::Merge, bytes_read);
    let job = CombineJob {
        layout: &layout,
        sources: &tensors,
        source_paths: &source_paths,
        combinations: &combinations,
        sinks,
        digest: DigestChoice::None,
        units: &units,
        is_done: &|_| false,
        on_unit: &|_, _| Ok(()),
        piece,
    };
    combine(&job, run)?;
    sources.iter().try_for_each(|source| source.checkpoint.check_unchanged())?;
    Ok(())
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
