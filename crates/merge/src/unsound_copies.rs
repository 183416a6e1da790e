//! Names tensors that an output takes from its newest source although they hold NaN or infinity.
//!
//! The guard on averages does not see them: a tensor may be taken from the newest source because it cannot be averaged.

use thalweg_tensor::display_name;
use thalweg_tensor::finite::find_non_finite_in;

use crate::Error;
use crate::context::RunContext;
use crate::listing::shorten;
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::plan::{OutputPlan, RouterPolicy};
use crate::tensor_class::TensorClass;

/// A note with the tensors that an output takes from its newest source and that hold NaN or infinity; `None` if all are
/// sound.
///
/// Reads these tensors once more than the merge does. They are buffers, as a rule.
///
/// # Errors
/// `Access` if they cannot be read; `Interrupted`.
pub(crate) fn unsound_copies(
    output: &OutputPlan,
    sources: &[OpenSource],
    layout: &MergeLayout,
    run: &RunContext<'_>,
) -> Result<Option<String>, Error> {
    let newest = output.sources.get(output.policy.newest).map(|source| &source.path);
    let views = layout.views(sources);
    let Some((view, source)) = views.iter().zip(sources).find(|(_, source)| Some(&source.path) == newest) else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for (tensor_idx, (entry, class)) in layout.catalog.entries().iter().zip(&layout.classes).enumerate() {
        let is_taken = match class {
            TensorClass::Newest => true,
            TensorClass::Router => output.policy.router == RouterPolicy::Newest,
            _ => false,
        };
        if !is_taken || output.is_copy() {
            continue;
        }
        run.check_interrupt()?;
        let tensor = || display_name(&entry.name);
        let found =
            find_non_finite_in(view, tensor_idx).map_err(|source| Error::Access { tensor: tensor(), source })?;
        names.extend(found.map(|found| format!("`{}` ({})", tensor(), found.kind.name())));
    }
    let (verb, label) = (if names.len() == 1 { "holds" } else { "hold" }, source.label());
    Ok((!names.is_empty()).then(|| {
        format!("{}, taken from {label}, {verb} values that are not finite: check that source", shorten(names))
    }))
}
