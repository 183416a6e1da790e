//! The same sum over sources that are no checkpoints on disk: live models, arenas of moments.
//!
//! No plan, no receipt, no files: sources and a sink in, the bits of a merge out. `engine` is for checkpoints.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_tensor::kernel::NonFinitePolicy;
use thalweg_tensor::{TensorCatalog, TensorSink, TensorSource, display_name};

use crate::Coefficients;
use crate::align::{MergeLayout, TensorClass, classify};
use crate::combine::{Combination, CombineJob, combine};
use crate::context::RunContext;
use crate::engine::{cut_units, fit_piece};
use crate::error::Error;
use crate::plan::{DigestChoice, NonFloatPolicy, OutputDtype, RouterPolicy};

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

/// Fills `sink` with the weighted sum of `sources`, oldest first: the bits that `execute_merge` writes for checkpoints of
/// the same content with the default policies.
///
/// Element types stay; routers are averaged; other than floating tensors must be equal in all sources.
///
/// # Errors
/// `PlanInvalid` where names, shapes, element types or numbers of coefficients differ; as a merge for the content.
pub fn combine_live(
    sources: &[LiveSource<'_>],
    coefficients: &Coefficients,
    sink: &dyn TensorSink,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let layout = align_live(sources, coefficients, sink)?;
    let combinations = [Combination {
        source_idxs: (0..sources.len()).collect(),
        coefficients: coefficients.clone(),
        newest_idx: sources.len() - 1,
        dtype: OutputDtype::Same,
        non_float: NonFloatPolicy::Error,
        router: RouterPolicy::Average,
        non_finite: NonFinitePolicy::Refuse,
    }];
    let entries = layout.catalog.entries();
    let units = cut_units(&layout, &|t, _| entries[t].dtype, 1);
    let piece = fit_piece(&layout, sources.len(), 1, 0, run)?;
    let tensors: Vec<&dyn TensorSource> = sources.iter().map(|source| source.tensors).collect();
    let names: Vec<PathBuf> = sources.iter().map(|source| source.name.into()).collect();
    let job = CombineJob {
        layout: &layout,
        sources: &tensors,
        source_paths: &names,
        combinations: &combinations,
        sinks: &[sink],
        digest: DigestChoice::None,
        units: &units,
        is_done: &|_| false,
        on_unit: &|_, _| Ok(()),
        piece,
    };
    combine(&job, run)
}

fn align_live(
    sources: &[LiveSource<'_>],
    coefficients: &Coefficients,
    sink: &dyn TensorSink,
) -> Result<MergeLayout, Error> {
    let refuse = |what: String| Error::PlanInvalid { what };
    let Some(first) = sources.first() else { return Err(refuse("there is no source".to_owned())) };
    let (n_sources, n_coefficients) = (sources.len(), coefficients.numerators().len());
    if n_sources != n_coefficients {
        return Err(refuse(format!("{n_sources} sources have {n_coefficients} coefficients")));
    }
    let catalog = first.tensors.catalog();
    let others = sources.iter().skip(1).map(|source| (source.name, source.tensors.catalog()));
    for (name, other) in others.chain([("the output", sink.catalog())]) {
        if let Some(tensor) = first_difference(catalog, other) {
            let tensor = display_name(tensor);
            return Err(refuse(format!("tensor `{tensor}` of {} differs from that of {name}", first.name)));
        }
    }
    let classes = catalog.entries().iter().map(classify).collect::<Result<Vec<TensorClass>, _>>();
    let classes = classes.map_err(|difference| Error::NotAligned { differences: vec![difference] })?;
    Ok(MergeLayout { catalog: Arc::new(catalog.clone()), classes, notes: Vec::new() })
}

/// A tensor that one of them lacks, or that has another shape or element type.
fn first_difference<'a>(a: &'a TensorCatalog, b: &'a TensorCatalog) -> Option<&'a str> {
    let (a, b) = (a.entries(), b.entries());
    let pair = a.iter().zip(b).find(|(a, b)| (&a.name, a.dtype, &a.shape) != (&b.name, b.dtype, &b.shape));
    let longer = if a.len() > b.len() { a.get(b.len()) } else { b.get(a.len()) };
    pair.map(|(a, _)| &*a.name).or(longer.map(|entry| &*entry.name))
}
