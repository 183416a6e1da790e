//! Requests for merges that no one keeps, such as those behind a forecast: each is made in the folder of its request,
//! where the worker finds it, and removed once its scores are there.

use std::path::{Path, PathBuf};

use thalweg_checkpoint::ReadOptions;
use thalweg_merge::plan::OutputPlan;
use thalweg_study::evaluator::ModelToScore;

use super::{RESULT_NAME, RequestEvaluator};
use crate::scoring::make_for_program;

/// The merge, in the folder of its request.
const MERGE_NAME: &str = "checkpoint";

impl RequestEvaluator<'_> {
    /// Writes the requests for all of `outputs` that are not there; returns the path of each model and the folder of
    /// its request. The missing merges are made by one reading of their sources.
    pub(super) fn ask_for_merges(
        &mut self,
        outputs: &[OutputPlan],
    ) -> Result<Vec<(PathBuf, PathBuf)>, thalweg_study::Error> {
        let models = outputs.iter().map(|output| self.model_of(output)).collect::<Result<Vec<_>, _>>()?;
        let is_missing = |(model, output): &(&ModelToScore, &OutputPlan)| {
            let is_there = |path: &Path| self.run.storage.file_info(path).is_ok();
            let answer = model.path.with_file_name(RESULT_NAME);
            !output.is_copy() && !is_there(&model.path) && !is_there(&answer)
        };
        let missing = models.iter().zip(outputs).filter(is_missing);
        let bytes_read = make_for_program(missing.map(|(model, output)| (model.path.clone(), output)), self.run)?;
        self.cost.bytes_read += bytes_read;
        let mut asked = Vec::new();
        for model in models {
            let folder = match self.asked.get(&model.path) {
                Some(folder) => folder.clone(),
                None => self.ask(&model)?,
            };
            self.note_open(&folder);
            asked.push((model.path, folder));
        }
        Ok(asked)
    }

    /// Removes the merges that were made for requests. A request that failed keeps its merge, so that it can be done
    /// again.
    pub(super) fn remove_merges(&self, asked: &[(PathBuf, PathBuf)]) -> Result<(), thalweg_study::Error> {
        let is_ours = |(path, folder): &&(PathBuf, PathBuf)| *path == folder.join(MERGE_NAME);
        for (path, _) in asked.iter().filter(is_ours).filter(|(path, _)| self.run.storage.file_info(path).is_ok()) {
            self.run.storage.remove(path)?;
        }
        Ok(())
    }

    /// What a worker is asked about: the checkpoint itself, or a merge in the folder of its request.
    fn model_of(&self, output: &OutputPlan) -> Result<ModelToScore, thalweg_study::Error> {
        let steps: Vec<u64> = output.sources.iter().filter_map(|source| source.step).collect();
        let end_step = steps.iter().copied().max().unwrap_or(0);
        let scheme = if output.is_copy() { "raw" } else { &output.scheme };
        let model = ModelToScore { path: PathBuf::new(), scheme: scheme.to_owned(), end_step, steps, digest: None };
        if let (true, [source]) = (output.is_copy(), output.sources.as_slice()) {
            return Ok(ModelToScore { path: source.path.clone(), ..model });
        }
        let mut text = output.of_model_alone().digest_without_paths()?;
        for source in &output.sources {
            text.push_str(&self.run.pool.open(&source.path, &ReadOptions::default())?.identity());
        }
        let model = ModelToScore { digest: Some(text), ..model };
        let path = self.folder.join(self.name_of(&model)?).join(MERGE_NAME);
        Ok(ModelToScore { path, ..model })
    }
}
