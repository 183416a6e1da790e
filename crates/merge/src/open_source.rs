//! A source that is open, with the name that messages use.

use std::path::PathBuf;
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
    let step_of = |path: &PathBuf| {
        let mut sources = plan.outputs.iter().flat_map(|output| &output.sources);
        sources.find(|source| source.path == *path).and_then(|source| source.step)
    };
    let sums: std::collections::BTreeSet<&PathBuf> = plan
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
        let step = step_of(&path);
        let is_step_shared =
            step.is_some_and(|step| paths.iter().filter(|other| step_of(other) == Some(step)).count() > 1);
        let known_digest = plan.seen_sources.iter().find(|seen| seen.path == path).and_then(|seen| seen.digest);
        let known_digest = known_digest.filter(|known| kinds.iter().all(|kind| *kind == Some(known.kind())));
        Ok(OpenSource { step, is_step_shared, path, checkpoint: checkpoint?, known_digest })
    };
    paths.iter().cloned().zip(checkpoints).map(open).collect()
}
