//! A source that is open, with the name that messages use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::Checkpoint;

use crate::context::RunContext;
use crate::error::Error;
use crate::plan::MergePlan;
use crate::receipt::SourceFile;
use thalweg_checkpoint::ReadOptions;
use thalweg_tensor::Digest;

/// A source with the name that messages use.
#[derive(Debug)]
pub struct OpenSource {
    /// Path as the plan gives it.
    pub path: PathBuf,
    /// Optimizer steps done, if known.
    pub step: Option<u64>,
    /// Whether another source has the same step, so that the step does not name it.
    pub is_step_shared: bool,
    /// The open checkpoint.
    pub checkpoint: Arc<Checkpoint>,
    /// Digest of its tensors, if the plan knows it and a merge would take one of that kind.
    pub(crate) known_digest: Option<Digest>,
}

impl OpenSource {
    pub(crate) fn label(&self) -> String {
        match self.step {
            Some(step) if self.is_step_shared => format!("`{}` (step {step})", self.path.display()),
            Some(step) => format!("step {step}"),
            None => format!("`{}`", self.path.display()),
        }
    }
}

/// Size and times of a source's files.
pub(crate) fn source_files(source: &OpenSource) -> Vec<SourceFile> {
    source.checkpoint.files().iter().map(|file| SourceFile::new(&file.name, &file.info)).collect()
}

/// Opens every source of the plan, unless the pool has it open: headers only.
///
/// # Errors
/// As opening a checkpoint.
pub fn open_sources(plan: &MergePlan, run: &RunContext<'_>) -> Result<Vec<OpenSource>, Error> {
    let paths = plan.source_paths();
    let planned = plan.outputs.iter().flat_map(|output| &output.sources);
    let steps = find_steps(planned.map(|source| (source.path.as_path(), source.step)));
    let known_digests: BTreeMap<&Path, Option<Digest>> =
        plan.seen_sources.iter().map(|seen| (seen.path.as_path(), seen.digest)).collect();
    let sums: BTreeSet<&PathBuf> = plan
        .outputs
        .iter()
        .flat_map(|output| &output.sources)
        .filter(|source| source.is_sum)
        .map(|source| &source.path)
        .collect();
    let (of_sums, of_others): (Vec<PathBuf>, Vec<PathBuf>) =
        paths.iter().cloned().partition(|path| sums.contains(path));
    let mut opened_sums = run.pool.open_all(&of_sums, &ReadOptions::default()).into_iter();
    let mut opened = run.pool.open_all(&of_others, &plan.reading()).into_iter();
    let checkpoints: Vec<_> =
        paths.iter().filter_map(|path| if sums.contains(path) { opened_sums.next() } else { opened.next() }).collect();
    let kinds: Vec<_> = plan.outputs.iter().map(|output| output.digest.kind()).collect();
    let open = |(path, checkpoint): (PathBuf, Result<_, thalweg_checkpoint::Error>)| {
        let SourceStep { step, is_shared: is_step_shared } = steps.get(path.as_path()).copied().unwrap_or_default();
        let known_digest = known_digests.get(path.as_path()).copied().flatten();
        let known_digest = known_digest.filter(|known| kinds.iter().all(|kind| *kind == Some(known.kind())));
        Ok(OpenSource { step, is_step_shared, path, checkpoint: checkpoint?, known_digest })
    };
    paths.iter().cloned().zip(checkpoints).map(open).collect()
}

/// The step of a source, if known, and whether it does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SourceStep {
    step: Option<u64>,
    is_shared: bool,
}

/// The step of each source. A sweep names each of thousands of sources in many outputs, so each is looked at once.
fn find_steps<'a>(planned: impl Iterator<Item = (&'a Path, Option<u64>)>) -> BTreeMap<&'a Path, SourceStep> {
    let mut found = BTreeMap::new();
    let mut n_sources: BTreeMap<u64, usize> = BTreeMap::new();
    for (path, step) in planned {
        found.entry(path).or_insert_with(|| {
            *n_sources.entry(step.unwrap_or_default()).or_default() += usize::from(step.is_some());
            SourceStep { step, is_shared: false }
        });
    }
    for source in found.values_mut() {
        source.is_shared = source.step.is_some_and(|step| n_sources.get(&step).is_some_and(|n| *n > 1));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_thousands_of_sources_in_thousands_of_outputs_are_found_at_once() {
        // To search all sources for each pair of sources would take hours.
        let paths: Vec<PathBuf> = (0..3000).map(|i| PathBuf::from(format!("run/step-{i}"))).collect();
        let step_of = |i: usize| (i > 0).then_some((i as u64).max(2));
        let window = |end: usize| (end.saturating_sub(20)..=end).map(|i| (paths[i].as_path(), step_of(i)));
        let steps = find_steps((0..paths.len()).flat_map(window));
        for (i, path) in paths.iter().enumerate() {
            let is_shared = i == 1 || i == 2;
            assert_eq!(steps[path.as_path()], SourceStep { step: step_of(i), is_shared });
        }
    }
}
