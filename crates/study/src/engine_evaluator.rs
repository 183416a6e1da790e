//! Scores by this program's own engine: merges go from their sources straight into a model, and no file is written.
//!
//! What was scored once is read from a cache, by digest: a merge whose sources did not change is not even merged again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thalweg_checkpoint::{Checkpoint, MAX_SIDE_FILE_BYTES, open_checkpoint};
use thalweg_eval::{EvalContext, EvalTokenizer, PreparedSuite, ScoreCache, Subject, Suite, cached_scores, score_suite};
use thalweg_merge::context::RunContext;
use thalweg_merge::in_memory::merge_into_sinks;
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputDtype, OutputPlan};
use thalweg_model::{Model, ModelConfig, arena_sink};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::TensorSink;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::evaluator::{Evaluator, ModelScores};
use crate::record::{CostRow, SuiteRow};

/// Merges that are held in memory together, so that each reading of the sources makes so many.
const LEAST_TOGETHER: usize = 10;
/// More than that, as long as all of them are smaller than this.
const SMALL_BYTES: usize = 512 << 20;
/// Below the cache's folder: which parameters a merge has.
const MERGES_FOLDER: &str = "merges";
const MERGED_KIND: &str = "thalweg-merged-params";
const MAX_MERGED_BYTES: u64 = 1 << 20;

/// Suites, a cache, and what scoring needs from outside.
pub struct EngineEvaluator<'a> {
    suites: Vec<(SuiteRow, PreparedSuite)>,
    config: Value,
    model_config: ModelConfig,
    cache: Option<PathBuf>,
    pool: rayon::ThreadPool,
    eval: EvalContext<'a>,
    run: &'a RunContext<'a>,
    cost: CostRow,
}

impl std::fmt::Debug for EngineEvaluator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineEvaluator")
            .field("suites", &self.suites)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// What a merge came to, kept under a name made of its plan and the identity of its sources.
#[derive(Serialize, Deserialize)]
struct MergedParams {
    kind: String,
    version: u32,
    params_digest: String,
}

impl<'a> EngineEvaluator<'a> {
    /// Brings suites into the tokens of a run; `like` is any checkpoint of it, `tokenizer` a file instead of its own.
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
        let checkpoint = open_checkpoint(&run.storage, like)?;
        let config = checkpoint.config().cloned();
        let config = config.ok_or_else(|| thalweg_eval::Error::ConfigMissing { path: like.to_owned() })?;
        let (file, bytes) = read_tokenizer(tokenizer, like, &checkpoint, run)?;
        let tokenizer = EvalTokenizer::from_json(&bytes, &file)?;
        let mut prepared = Vec::new();
        for suite in suites {
            let row = SuiteRow {
                name: suite.name.clone(),
                role: suite.role.map(|role| role.name().to_owned()),
                digest: suite.digest.to_string(),
            };
            let suite = PreparedSuite::new(suite, &tokenizer, &config, like)?;
            let needed_bytes = Subject::needed_bytes(like, &config, &suite)?;
            if needed_bytes > eval.memory_bytes {
                let (path, limit_bytes) = (like.to_owned(), eval.memory_bytes);
                return Err(thalweg_eval::Error::MemoryTooSmall { path, needed_bytes, limit_bytes }.into());
            }
            prepared.push((row, suite));
        }
        let model_config = ModelConfig::from_json(&config)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(run.limits.n_threads.get()).build();
        let pool = pool.map_err(|_| Error::WorkerDied)?;
        Ok(Self { suites: prepared, config, model_config, cache, pool, eval, run, cost: CostRow::default() })
    }

    /// Merges that are made by one reading of their sources.
    pub fn n_together(&self) -> usize {
        let model_bytes = self.model_config.layout().n_params().saturating_mul(4).max(1);
        (SMALL_BYTES / model_bytes).max(LEAST_TOGETHER)
    }

    fn score(&mut self, subject: &Subject) -> Result<ModelScores, Error> {
        let storage = std::sync::Arc::clone(&self.run.storage);
        let cache = self.cache.as_deref().map(|folder| ScoreCache::new(&*storage, folder));
        let mut scores =
            ModelScores { params_digest: Some(subject.params_digest().to_string()), ..ModelScores::default() };
        let mut was_scored = false;
        for (row, suite) in &self.suites {
            let eval = &self.eval;
            let tasks = self.pool.install(|| score_suite(suite, subject, cache.as_ref(), eval))?;
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
        let known: MergedParams = serde_json::from_slice(&bytes).ok()?;
        if known.kind != MERGED_KIND || known.version != 1 {
            return None;
        }
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
        let known = MergedParams { kind: MERGED_KIND.to_owned(), version: 1, params_digest };
        let Ok(bytes) = serde_json::to_vec(&known) else { return Ok(()) };
        Ok(publish_file(&*self.run.storage, key, &bytes, OwnKind::in_own_folder("a kept score"))?)
    }

    /// A file named by the plan, and by size, time and identity of every file of its sources.
    fn key_of(&self, output: &OutputPlan) -> Result<Option<PathBuf>, Error> {
        let Some(folder) = &self.cache else { return Ok(None) };
        let mut text = output.digest()?;
        for source in &output.sources {
            for file in open_checkpoint(&self.run.storage, &source.path)?.files() {
                let info = &file.info;
                text.push_str(&format!(" {} {} {:?}", info.len_bytes, info.modified_ns, info.id));
            }
        }
        let digest = bytes_digest(DigestKind::Blake3, text.as_bytes()).to_string();
        let digits = digest.rsplit(':').next().unwrap_or(&digest);
        let name = format!("{}.json", digits.get(..32).unwrap_or(digits));
        Ok(Some(folder.join(MERGES_FOLDER).join(name)))
    }

    /// The models of some outputs, by one reading of their sources.
    fn merge(&mut self, outputs: &[OutputPlan]) -> Result<Vec<Model>, Error> {
        let layout = self.model_config.layout();
        let mut arenas: Vec<Vec<f32>> = outputs.iter().map(|_| vec![0.0; layout.n_params()]).collect();
        let plan = MergePlan::new(outputs.to_vec())?;
        {
            let sinks: Vec<_> = arenas.iter_mut().map(|arena| arena_sink(&layout, arena)).collect();
            let refs: Vec<&dyn TensorSink> = sinks.iter().map(|sink| sink as &dyn TensorSink).collect();
            merge_into_sinks(&plan, &refs, self.run)?;
        }
        for path in plan.source_paths() {
            self.cost.bytes_read += open_checkpoint(&self.run.storage, &path)?.catalog().n_bytes();
        }
        let models = arenas.into_iter().map(|arena| Ok(Model::from_params(self.model_config.clone(), arena)?));
        models.collect()
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
        let checkpoint = open_checkpoint(&self.run.storage, path)?;
        let config = checkpoint.config().unwrap_or(&self.config);
        let Some((_, suite)) = self.suites.first() else { return Ok(ModelScores::default()) };
        let subject = Subject::load(path, config, &checkpoint, suite, &self.eval)?;
        self.cost.bytes_read += checkpoint.catalog().n_bytes();
        self.score(&subject)
    }

    fn score_merges(
        &mut self,
        outputs: &[OutputPlan],
        on_score: &mut dyn FnMut(usize, &ModelScores),
    ) -> Result<Vec<ModelScores>, Error> {
        let keys = outputs.iter().map(|output| self.key_of(output)).collect::<Result<Vec<_>, Error>>()?;
        let mut scored: Vec<Option<ModelScores>> = keys.iter().map(|key| self.find_known(key.as_deref())).collect();
        scored.iter().enumerate().for_each(|(i, scores)| scores.iter().for_each(|scores| on_score(i, scores)));
        let missing: Vec<usize> = (0..outputs.len()).filter(|&i| scored[i].is_none()).collect();
        for together in missing.chunks(self.n_together()) {
            let plans: Vec<OutputPlan> = together.iter().map(|&i| in_memory(&outputs[i], i)).collect();
            for (&i, model) in together.iter().zip(self.merge(&plans)?) {
                let scores = self.score(&Subject::from_model(&outputs[i].path, model))?;
                self.remember(keys[i].as_deref(), &scores)?;
                on_score(i, &scores);
                scored[i] = Some(scores);
            }
        }
        Ok(scored.into_iter().flatten().collect())
    }

    fn cost(&self) -> CostRow {
        self.cost
    }
}

/// The same sum, kept as F32 and not hashed. The path only tells the outputs of a plan apart.
fn in_memory(output: &OutputPlan, i: usize) -> OutputPlan {
    let path = PathBuf::from(format!("{i}"));
    OutputPlan { path, dtype: OutputDtype::F32, digest: DigestChoice::None, ..output.clone() }
}

fn read_tokenizer(
    named: Option<&Path>,
    like: &Path,
    checkpoint: &Checkpoint,
    run: &RunContext<'_>,
) -> Result<(PathBuf, Vec<u8>), Error> {
    if let Some(file) = named {
        return Ok((file.to_owned(), run.storage.read_file(file, MAX_SIDE_FILE_BYTES)?));
    }
    let side_file = checkpoint.side_files().iter().find(|file| file.name == "tokenizer.json");
    let side_file = side_file.ok_or_else(|| thalweg_eval::Error::TokenizerMissing { path: like.to_owned() })?;
    Ok((side_file.path.clone(), side_file.read(&*run.storage)?))
}
