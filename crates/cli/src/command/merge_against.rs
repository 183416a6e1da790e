//! `merge --against`: how far a merge and its newest source are from a third checkpoint.

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_checkpoint::{Checkpoint, ReadOptions, open_checkpoint_with};
use thalweg_merge::align::align_sources;
use thalweg_merge::diff::{CheckpointDiff, diff_checkpoints, find_obstacle};
use thalweg_merge::engine::{MergeOutcome, open_sources};
use thalweg_merge::plan::MergePlan;
use thalweg_study::text::or_dash;

use crate::error::Error;
use crate::host::World;

/// Refuses a checkpoint of which no tensor can be compared with the outputs, before the work.
pub(crate) fn check_target(
    plan: &MergePlan,
    target: &Checkpoint,
    memory_bytes: u64,
    world: &World<'_>,
) -> Result<(), Error> {
    let run = world.context(memory_bytes);
    let sources = open_sources(plan, &run)?;
    let layout = align_sources(&sources, plan, &*run.storage)?;
    let obstacle = plan.outputs.iter().find_map(|output| Some((output, find_obstacle(output, &layout, target)?)));
    let Some((output, (why, only_dtype))) = obstacle else { return Ok(()) };
    let path = target.path().display();
    let merged = layout.catalog.entries().first().map(|entry| output.dtype.resolve(entry.dtype).to_string());
    let hint = match merged {
        Some(dtype) if only_dtype => format!(
            "compare with a copy in the merge's element type: `thalweg convert {} -o COPY --dtype {}`",
            thalweg_tensor::shell_path(target.path()),
            dtype.to_lowercase()
        ),
        _ => "name a checkpoint of the same model, or leave `--against` out".to_owned(),
    };
    Err(Error::usage_with_hint(format!("no tensor of the merge can be compared with `{path}`: {why}"), hint))
}

/// How far a merge and its newest source are from a third checkpoint.
pub(crate) struct Comparison {
    path: PathBuf,
    merged: CheckpointDiff,
    newest: CheckpointDiff,
}

pub(crate) fn compare(
    outcome: &MergeOutcome,
    target: &Checkpoint,
    memory_bytes: u64,
    world: &World<'_>,
) -> Result<Comparison, Error> {
    let diff = |path: &Path, reading: &ReadOptions| -> Result<CheckpointDiff, Error> {
        let checkpoint = open_checkpoint_with(&world.storage, path, reading)?;
        Ok(diff_checkpoints(&checkpoint, target, &world.context(memory_bytes))?)
    };
    let plan = &outcome.receipt.plan;
    let newest = plan.newest_source().map_or(outcome.path.as_path(), |source| source.path.as_path());
    let (merged, newest) = (diff(&outcome.path, &world.reading)?, diff(newest, &plan.reading)?);
    Ok(Comparison { path: target.path().to_owned(), merged, newest })
}

impl Comparison {
    pub(crate) fn document(&self) -> serde_json::Value {
        json!({
            "path": self.path,
            "distance_of_merge": self.merged.total.distance(),
            "distance_of_newest": self.newest.total.distance(),
            "cosine_of_merge": self.merged.total.cosine(),
            "cosine_of_newest": self.newest.total.cosine(),
            "remarks": self.remarks(),
        })
    }

    pub(crate) fn text(&self) -> String {
        let far = |diff: &CheckpointDiff| or_dash(diff.total.distance(), |far| format!("{far:.4}"));
        let cosine = |diff: &CheckpointDiff| or_dash(diff.total.cosine(), |cosine| format!("{cosine:.6}"));
        format!(
            "to `{}`: distance {} from the merge, {} from the newest source; cosine {} and {}\n",
            self.path.display(),
            far(&self.merged),
            far(&self.newest),
            cosine(&self.merged),
            cosine(&self.newest)
        )
    }

    /// What the numbers do not cover.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let of = |what: &str, diff: &CheckpointDiff| {
            diff.remarks()
                .into_iter()
                .map(|remark| format!("{what} and `{}`: {remark}", self.path.display()))
                .collect::<Vec<_>>()
        };
        [of("the merge", &self.merged), of("the newest source", &self.newest)].concat()
    }
}
