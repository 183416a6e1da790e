//! What an output takes from its newest source, or from the one that is named.

use thalweg_checkpoint::{Checkpoint, RenameMap, is_optimizer_state};
use thalweg_tensor::DtypeClass;

use crate::format_error::KeepObstacle;
use crate::open_source::OpenSource;
use crate::output_kind::{OptimizerPolicy, OutputFormat};
use crate::plan::{OutputDtype, OutputPlan};

/// What decides whether an output can have the files of its newest source.
#[derive(Debug, Clone, Copy)]
pub struct Keeping<'a> {
    /// Element type of the output.
    pub dtype: OutputDtype,
    /// Names that are changed.
    pub rename: &'a RenameMap,
    /// Whether tensors are left out.
    pub drops: bool,
    /// What becomes of the state of the optimizer.
    pub optimizer: OptimizerPolicy,
}

impl<'a> Keeping<'a> {
    /// What an output's plan says.
    pub fn of(output: &'a OutputPlan) -> Self {
        Self {
            dtype: output.dtype,
            rename: &output.reading.rename,
            drops: !output.policy.drop.is_empty(),
            optimizer: output.policy.optimizer,
        }
    }
}

impl OutputFormat {
    /// Why an output of this format cannot have the files of `newest`; `None` if it can.
    pub fn obstacle(self, newest: &Checkpoint, keeping: Keeping<'_>) -> Option<KeepObstacle> {
        let is_kept = |entry: &thalweg_tensor::TensorEntry| {
            // Moments keep their element type, whatever that of the parameters.
            keeping.optimizer == OptimizerPolicy::Average && is_optimizer_state(&entry.name)
                || entry.dtype.class() != DtypeClass::Mergeable
                || keeping.dtype.resolve(entry.dtype) == entry.dtype
        };
        let renames = newest.findings().idle_renames.len() < keeping.rename.0.len();
        let obstacles = [
            (Self::of(newest) != Some(self), KeepObstacle::Format { found: newest.format_name() }),
            (self == Self::Npz, KeepObstacle::OnlyTensors),
            (keeping.drops, KeepObstacle::Drop),
            (renames, KeepObstacle::Rename),
            (!newest.catalog().entries().iter().all(is_kept), KeepObstacle::Dtype),
            (keeping.optimizer == OptimizerPolicy::Drop, KeepObstacle::Optimizer),
        ];
        obstacles.into_iter().find(|(is_met, _)| *is_met).map(|(_, obstacle)| obstacle)
    }
}

/// The newest source of an output among those that are open.
pub(crate) fn newest_open<'a>(output: &OutputPlan, sources: &'a [OpenSource]) -> Option<&'a OpenSource> {
    let planned = output.newest_source()?;
    sources.iter().find(|source| source.path == planned.path)
}

/// The newest source, if it is in the output's format.
pub(crate) fn newest_of_format<'a>(output: &OutputPlan, sources: &'a [OpenSource]) -> Option<&'a OpenSource> {
    newest_open(output, sources).filter(|newest| OutputFormat::of(&newest.checkpoint) == Some(output.format))
}

/// Whether an output is written from scratch with the arguments of training, from a newest source of its format.
pub(crate) fn takes_arguments(output: &OutputPlan, sources: &[OpenSource]) -> bool {
    output.format == OutputFormat::MegatronDist
        && kept_source(output, sources).is_none()
        && newest_of_format(output, sources).is_some()
}

/// The newest source, if the output has its files.
pub(crate) fn kept_source<'a>(output: &OutputPlan, sources: &'a [OpenSource]) -> Option<&'a OpenSource> {
    newest_open(output, sources)
        .filter(|newest| output.format.obstacle(&newest.checkpoint, Keeping::of(output)).is_none())
}

/// The source whose files travel to an output.
pub(crate) fn named_source<'a>(output: &OutputPlan, sources: &'a [OpenSource]) -> Option<&'a OpenSource> {
    let path = &output.sources.get(output.policy.side_files_from)?.path;
    sources.iter().find(|source| source.path == *path)
}
