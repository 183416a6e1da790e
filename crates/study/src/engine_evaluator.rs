//! Scores by this program's own engine: merges go from their sources straight into a model, and no file is written.
//!
//! What was scored once is read from a cache, by digest: a merge whose sources did not change is not even merged again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thalweg_checkpoint::ReadOptions;
use thalweg_eval::{
    EvalContext, PreparedSuite, ScoreBuffers, ScoreCache, Subject, Suite, TokenizerFiles, cached_scores, max_positions,
    score_suite_with,
};
use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::in_memory::{LiveSource, merge_into_sinks, merge_live};
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputDtype, OutputPlan};
use thalweg_model::{Model, ModelConfig, arena_sink, arena_source};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::TensorSink;

use crate::Error;
use crate::document::DocumentKind;
use crate::evaluator::{Evaluator, ModelScores, OnScore, combined};
use crate::record::{CostRow, SuiteRow};
use crate::text::digest_digits;

/// Merges that are held in memory together, so that each reading of the sources makes so many.
const LEAST_TOGETHER: usize = 10;
/// More than that, as long as all of them take less than such a part of the memory, and less than this.
const HELD_PART: u64 = 4;
const MOST_BYTES: u64 = 1 << 30;
/// Below the cache's folder: which parameters a merge has.
const MERGES_FOLDER: &str = "merges";
const MERGED: DocumentKind = DocumentKind::new("parameters of a merge", "thalweg-merged-params", 1);
const MAX_MERGED_BYTES: u64 = 1 << 20;

/// Suites, a cache, and what scoring needs from outside.
#[expect(missing_debug_implementations, reason = "models are large")]
pub struct EngineEvaluator<'a> {
    suites: Vec<(SuiteRow, PreparedSuite)>,
    config: Value,
    model_config: ModelConfig,
    cache: Option<PathBuf>,
    pool: rayon::ThreadPool,
    eval: EvalContext<'a>,
    run: &'a RunContext<'a>,
    cost: CostRow,
    /// The points that combinations were last asked of.
    points: Option<LoadedPoints>,
    buffers: ScoreBuffers,
    /// Memory of models that were scored, for those that come next: fresh memory costs more than a merge.
    spare: Vec<Vec<f32>>,
}

/// Sums that are held in memory, with what tells them from others.
struct LoadedPoints {
    digests: Vec<String>,
    models: Vec<Model>,
}

/// What a merge came to, kept under a name made of its plan and the identity of its sources.
#[derive(Serialize, Deserialize)]
struct MergedParams {
    params_digest: String,
}

impl<'a> EngineEvaluator<'a> {
    /// Converts suites to the tokens of a run; `like` is any checkpoint of it, `tokenizer` a file to use instead of the
    /// run's.
    ///
    /// # Errors
    /// What opening the checkpoint, its tokenizer and the suites give; `MemoryTooSmall` before anything is allocated.
    pub fn new(
        suites: &[Suite],
        like: &Path,
        tokenizer: Option<&Path>,
        cache: Option<PathBuf>,
        eval: EvalContext<'a>,
        run: &'a RunContext<'a>,
    ) -> Result<Self, Error> {
        let checkpoint = run.pool.open(like, &ReadOptions::default())?;
        let config = checkpoint.config().cloned();
        let config = config.ok_or_else(|| thalweg_eval::Error::ConfigMissing { path: like.to_owned() })?;
        let tokenizer = TokenizerFiles::find(&*run.storage, tokenizer, &checkpoint, like)?.open()?;
        let mut prepared = Vec::new();
        for suite in suites {
            let row = SuiteRow::from(suite);
            let suite = suite.fit(max_positions(&config, like)?);
            let suite = PreparedSuite::new(&suite, &tokenizer, &config, like)?;
            let needed_bytes = Subject::needed_bytes(like, &config, &suite)?;
            if needed_bytes > eval.memory_bytes {
                let (path, limit_bytes) = (like.to_owned(), eval.memory_bytes);
                return Err(thalweg_eval::Error::MemoryTooSmall { path, needed_bytes, limit_bytes }.into());
            }
            prepared.push((row, suite));
        }
        let model_config = ModelConfig::from_json(&config)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(run.limits.n_threads.get()).build();
        let pool = pool.map_err(Error::Threads)?;
        Ok(Self {
            suites: prepared,
            config,
            model_config,
            cache,
            pool,
            eval,
            run,
            cost: CostRow::default(),
            points: None,
            buffers: ScoreBuffers::default(),
            spare: Vec::new(),
        })
    }

    /// Merges that are made by one reading of their sources.
    pub(crate) fn n_together(&self) -> usize {
        n_models_together(&self.model_config, self.eval.memory_bytes)
    }

    /// Whether this many points may be held in memory beside the model that is scored.
    fn holds_points(&self, n_points: usize) -> bool {
        /// What is left for the program and the system.
        const SHARE: u64 = 2;
        let model_bytes = (self.model_config.layout().n_params() as u64).saturating_mul(4);
        model_bytes.saturating_mul(n_points as u64 + 1) <= self.eval.memory_bytes / SHARE
    }

    /// A combination of points, which are read unless they are those of the last call.
    fn combine(
        &mut self,
        (points, digests): (&[OutputPlan], &[String]),
        coefficients: &Coefficients,
    ) -> Result<Model, Error> {
        let points = match self.points.take() {
            Some(known) if known.digests == digests => known,
            _ => LoadedPoints { digests: digests.to_vec(), models: self.merge(points)? },
        };
        let layout = self.model_config.layout();
        let mut arena = self.spare.pop().unwrap_or_else(|| vec![0.0; layout.n_params()]);
        let (used, coefficients) = coefficients.without_zeros();
        let names: Vec<String> = used.iter().map(|i| format!("point {}", i + 1)).collect();
        let sources: Vec<_> = used.iter().map(|&i| arena_source(&layout, points.models[i].params())).collect();
        let live = names.iter().zip(&sources).map(|(name, tensors)| LiveSource { name, tensors });
        merge_live(&live.collect::<Vec<_>>(), &coefficients, &arena_sink(&layout, &mut arena), self.run)?;
        self.points = Some(points);
        Ok(Model::from_params(self.model_config.clone(), arena)?)
    }

    fn score(&mut self, subject: &Subject) -> Result<ModelScores, Error> {
        let storage = std::sync::Arc::clone(&self.run.storage);
        let cache = self.cache.as_deref().map(|folder| ScoreCache::new(&*storage, folder));
        let mut scores =
            ModelScores { params_digest: Some(subject.params_digest().to_string()), ..ModelScores::default() };
        let mut was_scored = false;
        for (row, suite) in &self.suites {
            let (eval, buffers) = (&self.eval, &mut self.buffers);
            let tasks = self.pool.install(|| score_suite_with(buffers, suite, subject, cache.as_ref(), eval))?;
            for task in tasks.iter().filter(|task| !task.is_cached) {
                self.cost.n_tokens += task.n_tokens;
                was_scored = true;
            }
            scores.tasks.extend(ModelScores::from_tasks(&row.name, tasks, None).tasks);
        }
        self.cost.n_evaluations += u64::from(was_scored);
        Ok(scores)
    }

    /// Scores that are known without the model.
    fn find_known(&self, key: Option<&Path>) -> Option<ModelScores> {
        let (storage, folder) = (&*self.run.storage, self.cache.as_deref()?);
        let bytes = storage.read_file(key?, MAX_MERGED_BYTES).ok()?;
        let known: MergedParams = MERGED.parse(&bytes).ok()?;
        let cache = ScoreCache::new(storage, folder);
        let mut scores = ModelScores::default();
        for (row, suite) in &self.suites {
            let tasks = cached_scores(suite, &known.params_digest, &cache)?;
            scores.tasks.extend(ModelScores::from_tasks(&row.name, tasks, None).tasks);
        }
        Some(ModelScores { params_digest: Some(known.params_digest), ..scores })
    }

    fn remember(&self, key: Option<&Path>, scores: &ModelScores) -> Result<(), Error> {
        let (Some(key), Some(params_digest)) = (key, scores.params_digest.clone()) else { return Ok(()) };
        if let Some(folder) = key.parent() {
            self.run.storage.create_folder(folder)?;
        }
        let text = MERGED.line(&MergedParams { params_digest })?;
        Ok(publish_file(&*self.run.storage, key, text.as_bytes(), OwnKind::in_own_folder("a kept score"))?)
    }

    /// The cache file of each output, named by its plan, the identities of its sources and `how` it is merged; `None`
    /// without a cache.
    fn keys_of(&self, outputs: &[OutputPlan], how: &str) -> Result<Vec<Option<PathBuf>>, Error> {
        let Some(folder) = self.cache.as_ref().filter(|_| !outputs.is_empty()) else {
            return Ok(vec![None; outputs.len()]);
        };
        let plan = MergePlan::new(outputs.iter().enumerate().map(|(i, output)| in_memory(output, i)).collect())?;
        let paths = plan.source_paths();
        let identities: BTreeMap<&Path, String> = paths
            .iter()
            .zip(self.run.pool.open_all(&paths, &plan.reading()))
            .map(|(path, checkpoint)| Ok((path.as_path(), checkpoint?.identity())))
            .collect::<Result<_, Error>>()?;
        let key = |output: &OutputPlan| {
            let mut text = output.digest_without_paths()?;
            for source in &output.sources {
                text.push_str(identities.get(source.path.as_path()).map_or("", String::as_str));
            }
            text.push_str(how);
            Ok(Some(folder.join(MERGES_FOLDER).join(format!("{}.json", digest_digits(&text, 32)))))
        };
        outputs.iter().map(key).collect()
    }

    /// Scores a model in memory, keeps its scores, and takes its memory back.
    fn score_model(&mut self, path: &Path, model: Model, key: Option<&Path>) -> Result<ModelScores, Error> {
        let subject = self.pool.install(|| Subject::from_model(path, model))?;
        let scores = self.score(&subject)?;
        self.spare.push(subject.into_model().into_params());
        self.remember(key, &scores)?;
        Ok(scores)
    }

    /// The models of some outputs, by one reading of their sources.
    fn merge(&mut self, outputs: &[OutputPlan]) -> Result<Vec<Model>, Error> {
        let (models, n_bytes) = merge_models(outputs, &self.model_config, &mut self.spare, self.run)?;
        self.cost.bytes_read += n_bytes;
        Ok(models)
    }
}

impl Evaluator for EngineEvaluator<'_> {
    fn suites(&self) -> Vec<SuiteRow> {
        self.suites.iter().map(|(row, _)| row.clone()).collect()
    }

    fn tokens_per_model(&self) -> Option<u64> {
        Some(self.suites.iter().map(|(_, suite)| suite.n_tokens()).sum())
    }

    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, Error> {
        let checkpoint = self.run.pool.open(path, &ReadOptions::default())?;
        let config = checkpoint.config().unwrap_or(&self.config);
        let Some((_, suite)) = self.suites.first() else { return Ok(ModelScores::default()) };
        let subject = Subject::load(path, config, &*checkpoint, suite, &self.eval)?;
        self.cost.bytes_read += checkpoint.catalog().n_bytes();
        self.score(&subject)
    }

    fn score_merges(&mut self, outputs: &[OutputPlan], on_score: OnScore<'_>) -> Result<Vec<ModelScores>, Error> {
        let keys = self.keys_of(outputs, "")?;
        let mut scored: Vec<Option<ModelScores>> = keys.iter().map(|key| self.find_known(key.as_deref())).collect();
        scored.iter().enumerate().for_each(|(i, scores)| scores.iter().for_each(|scores| on_score(i, scores)));
        let mut missing: Vec<usize> = (0..outputs.len()).filter(|&i| scored[i].is_none()).collect();
        // Those of one reading are to share their sources.
        missing.sort_by_key(|&i| outputs[i].sources.iter().filter_map(|source| source.step).max());
        for together in missing.chunks(self.n_together()) {
            let plans: Vec<OutputPlan> = together.iter().map(|&i| outputs[i].clone()).collect();
            for (&i, model) in together.iter().zip(self.merge(&plans)?) {
                let scores = self.score_model(&outputs[i].path, model, keys[i].as_deref())?;
                on_score(i, &scores);
                scored[i] = Some(scores);
            }
        }
        self.spare.clear();
        Ok(scored.into_iter().flatten().collect())
    }

    fn score_combinations(
        &mut self,
        points: &[OutputPlan],
        combinations: &[Coefficients],
        on_score: OnScore<'_>,
    ) -> Result<Vec<ModelScores>, Error> {
        let outputs = combined(points, combinations)?;
        if !self.holds_points(points.len()) {
            return self.score_merges(&outputs, on_score);
        }
        // Sums of several sources are rounded before they are combined, so their scores are kept apart.
        let how = if points.iter().all(OutputPlan::is_copy) { "" } else { "of points" };
        let keys = self.keys_of(&outputs, how)?;
        let digests = points.iter().map(OutputPlan::digest).collect::<Result<Vec<_>, _>>()?;
        let mut scored = Vec::new();
        for (i, coefficients) in combinations.iter().enumerate() {
            self.run.check_interrupt()?;
            let known = self.find_known(keys[i].as_deref());
            let scores = match known {
                Some(known) => known,
                None => {
                    let model = self.combine((points, &digests), coefficients)?;
                    self.score_model(&outputs[i].path, model, keys[i].as_deref())?
                }
            };
            on_score(i, &scores);
            scored.push(scores);
        }
        Ok(scored)
    }

    fn cost(&self) -> CostRow {
        self.cost
    }
}

/// Merges that are made by one reading of their sources.
pub(crate) fn n_models_together(config: &ModelConfig, memory_bytes: u64) -> usize {
    let model_bytes = (config.layout().n_params() as u64).saturating_mul(4).max(1);
    let held_bytes = MOST_BYTES.min(memory_bytes / HELD_PART);
    usize::try_from(held_bytes / model_bytes).unwrap_or(usize::MAX).max(LEAST_TOGETHER)
}

/// The models of some outputs, by one reading of their sources, and the bytes that were read. They take `spare` memory
/// of earlier models of this configuration first.
pub(crate) fn merge_models(
    outputs: &[OutputPlan],
    config: &ModelConfig,
    spare: &mut Vec<Vec<f32>>,
    run: &RunContext<'_>,
) -> Result<(Vec<Model>, u64), Error> {
    let layout = config.layout();
    let arena = |_| spare.pop().unwrap_or_else(|| vec![0.0; layout.n_params()]);
    let mut arenas: Vec<Vec<f32>> = outputs.iter().map(arena).collect();
    let plan = MergePlan::new(outputs.iter().enumerate().map(|(i, output)| in_memory(output, i)).collect())?;
    let sinks: Vec<_> = arenas.iter_mut().map(|arena| arena_sink(&layout, arena)).collect();
    let refs: Vec<&dyn TensorSink> = sinks.iter().map(|sink| sink as &dyn TensorSink).collect();
    let n_bytes = merge_into_sinks(&plan, &refs, run)?;
    drop(sinks);
    let models = arenas.into_iter().map(|arena| Ok(Model::from_params(config.clone(), arena)?));
    Ok((models.collect::<Result<_, Error>>()?, n_bytes))
}

/// The same sum, kept as F32 and not hashed. The path only tells the outputs of a plan apart.
fn in_memory(output: &OutputPlan, i: usize) -> OutputPlan {
    let path = PathBuf::from(format!("{i}"));
    OutputPlan { path, dtype: OutputDtype::F32, digest: DigestChoice::None, ..output.of_model_alone() }
}
