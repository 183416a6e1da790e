//! Runs prepared texts through a model and adds up what each item is worth.
//!
//! Windows are sorted by length, padded on the right and run in batches of a fixed number of tokens, so that scores are
//! the same bits on every run and for any number of threads.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use thalweg_model::{Batch, BatchShape, Model, ModelConfig, NO_TARGET, Purpose, Workspace};
use thalweg_tensor::digest::{DigestKind, ListHasher, SUBTREE_BYTES, SubtreeHasher, bytes_digest, tensor_digest};
use thalweg_tensor::{Digest, TensorSource};

use crate::Error;
use crate::cache::{CacheKey, ScoreCache};
use crate::context::EvalContext;
use crate::measure::Measure;
use crate::prepared::{PreparedItem, PreparedSuite, PreparedTask, PreparedText};
use crate::record::{MeasureScores, TaskScores};
use crate::sound::check_sound_model;
use crate::uncertainty::count;
use crate::window::TokenWindow;

/// Tokens of a batch, padding included.
const BATCH_TOKENS: usize = 4096;

/// A model to be scored, with what names it.
#[derive(Debug)]
pub struct Subject {
    path: PathBuf,
    model: Model<f32>,
    params_digest: Digest,
}

impl Subject {
    /// Loads a model from any source of tensors: a checkpoint, or a merge in memory. `path` names it in messages.
    ///
    /// # Errors
    /// `MemoryTooSmall` before anything is allocated, `Model`, `NonFiniteParams`.
    pub fn load(
        path: &Path,
        config: &Value,
        source: &dyn TensorSource,
        prepared: &PreparedSuite,
        context: &EvalContext<'_>,
    ) -> Result<Self, Error> {
        let failed = |source: thalweg_model::Error| Error::Model { path: path.to_owned(), source: source.into() };
        let config = ModelConfig::from_json(config).map_err(failed)?;
        let needed_bytes = scoring_bytes(&config, prepared.context_length());
        if needed_bytes > context.memory_bytes {
            let limit_bytes = context.memory_bytes;
            return Err(Error::MemoryTooSmall { path: path.to_owned(), needed_bytes, limit_bytes });
        }
        Self::from_model(path, Model::load(config, source).map_err(failed)?)
    }

    /// Memory that loading and scoring will take, in bytes, from the configuration alone.
    ///
    /// # Errors
    /// `Model` for a configuration that is not understood.
    pub fn needed_bytes(path: &Path, config: &Value, prepared: &PreparedSuite) -> Result<u64, Error> {
        let config = ModelConfig::from_json(config)
            .map_err(|source| Error::Model { path: path.to_owned(), source: source.into() })?;
        Ok(scoring_bytes(&config, prepared.context_length()))
    }

    /// A model that is in memory.
    ///
    /// # Errors
    /// `NonFiniteParams`: by its accuracy alone a model of NaNs can look sound.
    pub fn from_model(path: &Path, model: Model<f32>) -> Result<Self, Error> {
        check_sound_model(path, &model)?;
        let params_digest = digest_params(&model);
        Ok(Self { path: path.to_owned(), model, params_digest })
    }

    /// What names it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 of configuration and parameters as F32: equal for files of other dtypes or names that mean the same
    /// numbers.
    pub fn params_digest(&self) -> Digest {
        self.params_digest
    }

    /// The model alone.
    pub fn into_model(self) -> Model<f32> {
        self.model
    }

    /// The model.
    pub fn model(&self) -> &Model<f32> {
        &self.model
    }
}

/// Memory that scoring takes, in bytes: parameters and workspace.
pub(crate) fn scoring_bytes(config: &ModelConfig, context_length: usize) -> u64 {
    let params = (config.layout().n_params() as u64).saturating_mul(4);
    params.saturating_add(Workspace::<f32>::bytes(config, workspace_shape(context_length), Purpose::Score))
}

pub(crate) const fn workspace_shape(longest: usize) -> BatchShape {
    let n_sequences = BATCH_TOKENS / longest;
    BatchShape { n_sequences: if n_sequences == 0 { 1 } else { n_sequences }, sequence_length: longest }
}

fn digest_params(model: &Model<f32>) -> Digest {
    let mut hasher = ListHasher::new(DigestKind::Blake3);
    hasher.add_digest(&bytes_digest(DigestKind::Blake3, model.config().to_json().to_string().as_bytes()));
    for spec in model.layout().specs() {
        hasher.add_digest(&bytes_digest(DigestKind::Blake3, spec.name.as_bytes()));
        hasher.add_digest(&digest_numbers(&model.params()[spec.range.clone()]));
    }
    hasher.finish()
}

/// Buffers of scoring, kept from one model to the next: making them anew takes up to a twentieth of the time of a
/// short suite.
#[derive(Debug, Default)]
pub struct ScoreBuffers {
    made: Option<(ModelConfig, BatchShape, Workspace)>,
}

impl ScoreBuffers {
    fn workspace(&mut self, config: &ModelConfig, shape: BatchShape) -> &mut Workspace {
        let made = self.made.take().filter(|(known, known_shape, _)| known == config && *known_shape == shape);
        let make = || (config.clone(), shape, Workspace::new(config, shape, Purpose::Score));
        &mut self.made.insert(made.unwrap_or_else(make)).2
    }
}

/// Numbers that one thread hashes before it takes others.
const SUBTREE_NUMBERS: usize = (SUBTREE_BYTES / 4) as usize;

/// BLAKE3 of numbers as little-endian bytes, by all threads.
fn digest_numbers(numbers: &[f32]) -> Digest {
    const PIECE_NUMBERS: usize = 4096;
    let n_bytes = 4 * numbers.len() as u64;
    let subtree = |(i, numbers): (usize, &[f32])| {
        let mut hasher = SubtreeHasher::new(DigestKind::Blake3, i as u64, n_bytes);
        let mut bytes = [[0; 4]; PIECE_NUMBERS];
        for piece in numbers.chunks(PIECE_NUMBERS) {
            bytes.iter_mut().zip(piece).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
            hasher.update(bytes[..piece.len()].as_flattened());
        }
        hasher.finish()
    };
    match numbers.len() {
        0 => bytes_digest(DigestKind::Blake3, &[]),
        1..=SUBTREE_NUMBERS => tensor_digest(DigestKind::Blake3, &[subtree((0, numbers))], n_bytes),
        _ => {
            let subtrees: Vec<_> = numbers.par_chunks(SUBTREE_NUMBERS).enumerate().map(subtree).collect();
            tensor_digest(DigestKind::Blake3, &subtrees, n_bytes)
        }
    }
}

/// Scores a model on every task, taking from the cache what it has.
///
/// # Errors
/// `TokenizerMismatch` where the model's vocabulary is smaller than the suite's tokens; `NonFiniteLoss`; `Interrupted`.
/// A cache that cannot be written is `Storage`; one that cannot be read is skipped.
pub fn score_suite(
    prepared: &PreparedSuite,
    subject: &Subject,
    cache: Option<&ScoreCache<'_>>,
    context: &EvalContext<'_>,
) -> Result<Vec<TaskScores>, Error> {
    score_suite_with(&mut ScoreBuffers::default(), prepared, subject, cache, context)
}

/// [`score_suite`] in buffers that are used again.
///
/// # Errors
/// The same.
pub fn score_suite_with(
    buffers: &mut ScoreBuffers,
    prepared: &PreparedSuite,
    subject: &Subject,
    cache: Option<&ScoreCache<'_>>,
    context: &EvalContext<'_>,
) -> Result<Vec<TaskScores>, Error> {
    check_fit(prepared, subject)?;
    let context_length = prepared.context_length();
    let params = subject.params_digest.to_string();
    let key = |task: &PreparedTask| CacheKey::new(task.digest, &params);
    let mut found: Vec<Option<TaskScores>> =
        prepared.tasks.iter().map(|task| cache.and_then(|cache| cache.read(&key(task), task))).collect();
    let is_missing = |(_, found): &(&PreparedTask, &Option<TaskScores>)| found.is_none();
    let missing = prepared.tasks.iter().zip(&found).filter(is_missing);
    let n_tokens: u64 = missing.map(|(task, _)| task.n_tokens(context_length)).sum();
    if n_tokens > 0 {
        let shape = workspace_shape(context_length);
        let workspace = buffers.workspace(subject.model.config(), shape);
        context.progress.begin(n_tokens);
        for (task, slot) in prepared.tasks.iter().zip(&mut found).filter(|(_, slot)| slot.is_none()) {
            let scores = score_task(task, subject, workspace, context_length, context)?;
            if let Some(cache) = cache {
                cache.write(&key(task), &scores)?;
            }
            *slot = Some(scores);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// The scores of a model that is not loaded, by its digest as text ([`Subject::params_digest`]), if the cache has every
/// task.
pub fn cached_scores(prepared: &PreparedSuite, params: &str, cache: &ScoreCache<'_>) -> Option<Vec<TaskScores>> {
    let read = |task: &PreparedTask| cache.read(&CacheKey::new(task.digest, params), task);
    prepared.tasks.iter().map(read).collect()
}

fn check_fit(prepared: &PreparedSuite, subject: &Subject) -> Result<(), Error> {
    let config = subject.model.config();
    if prepared.least_vocab_size() > config.vocab_size {
        return Err(Error::TokenizerMismatch {
            tokenizer: PathBuf::from("tokenizer.json"),
            checkpoint: subject.path.clone(),
            largest_id: u32::try_from(prepared.least_vocab_size() - 1).unwrap_or(u32::MAX),
            vocab_size: config.vocab_size,
        });
    }
    config
        .check_length(prepared.context_length())
        .map_err(|source| Error::Model { path: subject.path.clone(), source: source.into() })
}

/// What a text earned.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextResult {
    /// Nats of each scored token.
    pub(crate) nlls: Vec<f32>,
    /// Scored tokens that are the most probable one.
    pub(crate) n_greedy: usize,
}

impl TextResult {
    pub(crate) fn nats(&self) -> f64 {
        self.nlls.iter().map(|&nll| f64::from(nll)).sum()
    }

    /// Whether each scored token is the most probable one.
    fn is_greedy(&self) -> bool {
        self.n_greedy == self.nlls.len()
    }
}

fn score_task(
    task: &PreparedTask,
    subject: &Subject,
    workspace: &mut Workspace,
    context_length: usize,
    context: &EvalContext<'_>,
) -> Result<TaskScores, Error> {
    let began = context.host.elapsed_seconds();
    let results = run_texts(&task.texts, subject, workspace, context_length, context)?;
    let mut measures: Vec<MeasureScores> = task
        .measures
        .iter()
        .map(|&measure| MeasureScores { measure, numerators: Vec::new(), denominators: Vec::new() })
        .collect();
    for (item, id) in task.items.iter().zip(&task.item_ids) {
        for scores in &mut measures {
            let (numerator, denominator) = item_value(scores.measure, item, &results);
            if !numerator.is_finite() {
                let (path, task) = (subject.path.clone(), task.name.clone());
                return Err(Error::NonFiniteLoss { path, task, item: id.clone() });
            }
            scores.numerators.push(numerator);
            scores.denominators.push(denominator);
        }
    }
    Ok(TaskScores {
        task: task.name.clone(),
        items: task.item_ids.clone(),
        measures,
        n_tokens: task.n_tokens(context_length),
        seconds: context.host.elapsed_seconds() - began,
        is_cached: false,
    })
}

pub(crate) fn run_texts(
    texts: &[PreparedText],
    subject: &Subject,
    workspace: &mut Workspace,
    context_length: usize,
    context: &EvalContext<'_>,
) -> Result<Vec<TextResult>, Error> {
    let mut results: Vec<TextResult> = Vec::with_capacity(texts.len());
    let mut windows: Vec<(usize, TokenWindow)> = Vec::new();
    for (text_idx, text) in texts.iter().enumerate() {
        results.push(TextResult { nlls: vec![0.0; text.n_scored()], n_greedy: 0 });
        windows.extend(text.windows(context_length).into_iter().map(|window| (text_idx, window)));
    }
    // The longest first: if memory does not suffice it fails at once.
    windows.sort_by_key(|(text_idx, window)| (std::cmp::Reverse(window.n_inputs()), *text_idx, window.start));
    let capacity = workspace_shape(context_length).n_tokens();
    let mut batch = BatchBuffers::default();
    let mut rest = &windows[..];
    while let Some((_, longest)) = rest.first() {
        context.check_interrupt()?;
        let sequence_length = longest.n_inputs();
        let n_sequences = (capacity / sequence_length).clamp(1, rest.len());
        let (now, later) = rest.split_at(n_sequences);
        batch.fill(texts, now, BatchShape { n_sequences, sequence_length });
        batch
            .run(&subject.model, workspace)
            .map_err(|source| Error::Model { path: subject.path.clone(), source: source.into() })?;
        batch.take(texts, now, sequence_length, &mut results);
        context.progress.advance(now.iter().map(|(_, window)| window.n_inputs() as u64).sum());
        rest = later;
    }
    Ok(results)
}

/// Buffers of a batch, used again.
#[derive(Debug, Default)]
struct BatchBuffers {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    nlls: Vec<f32>,
    greedy: Vec<u32>,
    shape: Option<BatchShape>,
}

impl BatchBuffers {
    fn fill(&mut self, texts: &[PreparedText], windows: &[(usize, TokenWindow)], shape: BatchShape) {
        self.tokens.clear();
        self.targets.clear();
        for (text_idx, window) in windows {
            let ids = &texts[*text_idx].ids;
            let filled = self.tokens.len() + shape.sequence_length;
            self.tokens.extend(&ids[window.start..window.end]);
            let target = |at: usize| if at < window.first_scored { NO_TARGET } else { ids[at] };
            self.targets.extend((window.start + 1..=window.end).map(target));
            // A token never sees what is to its right.
            self.tokens.resize(filled, 0);
            self.targets.resize(filled, NO_TARGET);
        }
        self.nlls.resize(self.tokens.len(), 0.0);
        self.greedy.resize(self.tokens.len(), 0);
        self.shape = Some(shape);
    }

    fn run(&mut self, model: &Model<f32>, workspace: &mut Workspace) -> Result<(), thalweg_model::Error> {
        let Some(shape) = self.shape else { return Ok(()) };
        let batch = Batch::new(model.config(), &self.tokens, &self.targets, shape)?;
        model.score(batch, workspace, &mut self.nlls, Some(&mut self.greedy));
        Ok(())
    }

    fn take(
        &self,
        texts: &[PreparedText],
        windows: &[(usize, TokenWindow)],
        sequence_length: usize,
        results: &mut [TextResult],
    ) {
        for (row, (text_idx, window)) in windows.iter().enumerate() {
            let (text, result) = (&texts[*text_idx], &mut results[*text_idx]);
            for at in window.first_scored..=window.end {
                let position = row * sequence_length + at - 1 - window.start;
                result.nlls[at - text.first_scored] = self.nlls[position];
                result.n_greedy += usize::from(self.greedy[position] == text.ids[at]);
            }
        }
    }
}

/// Numerator and denominator of one item.
fn item_value(measure: Measure, item: &PreparedItem, results: &[TextResult]) -> (f64, f64) {
    match (measure, item) {
        (Measure::BitsPerByte, PreparedItem::Text { text, n_bytes }) => (bits(&results[*text]), count(*n_bytes)),
        (Measure::BitsPerByte, PreparedItem::Choices { texts, n_bytes, answer }) => {
            (bits(&results[texts[*answer]]), count(n_bytes[*answer]))
        }
        (Measure::NatsInSpans | Measure::NatsOutside, PreparedItem::Spans { text, is_in_span }) => {
            let wanted = measure == Measure::NatsInSpans;
            let nlls = results[*text].nlls.iter().zip(is_in_span).filter(|(_, is_in)| **is_in == wanted);
            nlls.fold((0.0, 0.0), |(sum, n), (nll, _)| (sum + f64::from(*nll), n + 1.0))
        }
        (Measure::Acc, PreparedItem::Choices { texts, .. }) if texts.len() == 1 => {
            let result = &results[texts[0]];
            // A NaN loss must not count as a wrong answer.
            (if result.nats().is_finite() { share(result.is_greedy()) } else { f64::NAN }, 1.0)
        }
        (Measure::Acc, PreparedItem::Choices { texts, answer, .. }) => {
            (is_best(texts.iter().map(|&text| results[text].nats()), *answer), 1.0)
        }
        (Measure::AccNorm, PreparedItem::Choices { texts, n_bytes, answer }) => {
            let nats = texts.iter().zip(n_bytes).map(|(&text, &n)| results[text].nats() / count(n));
            (is_best(nats, *answer), 1.0)
        }
        (Measure::Perplexity, PreparedItem::Choices { texts, answer, .. }) => (results[texts[*answer]].nats(), 1.0),
        (_, PreparedItem::Text { text, .. } | PreparedItem::Spans { text, .. }) => {
            (results[*text].nats(), count(results[*text].nlls.len()))
        }
        (_, PreparedItem::Choices { texts, answer, .. }) => {
            let result = &results[texts[*answer]];
            (result.nats(), count(result.nlls.len()))
        }
    }
}

/// 1 if the answer costs less than every other choice, 0 if not, NaN if one of them has no cost.
fn is_best(nats: impl Iterator<Item = f64>, answer: usize) -> f64 {
    let nats: Vec<f64> = nats.collect();
    if nats.iter().any(|nats| !nats.is_finite()) {
        return f64::NAN;
    }
    let mut others = nats.iter().enumerate().filter(|(choice, _)| *choice != answer);
    share(others.all(|(_, other)| nats[answer] < *other))
}

fn bits(result: &TextResult) -> f64 {
    result.nats() / std::f64::consts::LN_2
}

const fn share(is_right: bool) -> f64 {
    if is_right { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_by_many_threads_is_that_of_the_bytes() {
        let subtree = SUBTREE_NUMBERS;
        for n in [0, 1, 4097, subtree - 1, subtree, subtree + 1, 3 * subtree + 5] {
            let numbers: Vec<f32> = (0..n).map(|i| i as f32 * 0.37 - 9.0).collect();
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            assert_eq!(digest_numbers(&numbers), bytes_digest(DigestKind::Blake3, &bytes), "{n} numbers");
        }
    }
}
