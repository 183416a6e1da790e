//! Scores checkpoints and merges on the probes, and compares them probe by probe.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_checkpoint::ReadOptions;
use thalweg_eval::recall::{PreparedProbes, ProbeFile, ProbeOptions, RecallMeasure, RecallScores, score_recall};
use thalweg_eval::uncertainty::{Sums, paired_difference};
use thalweg_eval::{EvalContext, Subject, TokenizerFiles};
use thalweg_merge::context::RunContext;
use thalweg_model::ModelConfig;
use thalweg_storage::Storage;

use super::models::ForgetModel;
use crate::Error;
use crate::document::DocumentKind;
use crate::engine_evaluator::{merge_models, n_models_together};
use crate::record::CostRow;
use crate::request::Resolver;

/// A record of what models recall.
pub const SCORES: DocumentKind = DocumentKind::new("a record of recall", "thalweg-forget-scores", 1);
/// Level of intervals.
const LEVEL: f64 = 0.95;

/// How models are scored.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct ForgetOptions<'a> {
    /// Tokens of prompts and continuations.
    pub tokens: ProbeOptions,
    /// A tokenizer to use instead of the checkpoint's own.
    pub tokenizer: Option<PathBuf>,
    /// Only entities that this checkpoint recalls count (M_ex = 1), as the paper has it for the end of the first phase.
    pub recalled_by: Option<PathBuf>,
    /// Called after each model with how many are done and its name.
    pub on_score: &'a mut dyn FnMut(usize, &str),
}

/// Scores of models on one file of probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgetRecord {
    /// Always `thalweg-forget-scores`.
    pub kind: String,
    /// Always 1.
    pub version: u64,
    /// The file of probes.
    pub probes: PathBuf,
    /// BLAKE3 of it.
    pub probes_digest: String,
    /// Its samples.
    pub n_samples: usize,
    /// Its entities.
    pub n_probes: usize,
    /// Those that count.
    pub n_kept: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens that are decoded.
    pub decode_tokens: usize,
    /// The checkpoint that recalls all entities that count.
    #[serde(default)]
    pub recalled_by: Option<PathBuf>,
    /// Models by the step that they end at.
    pub models: Vec<ForgetModelRow>,
    /// What it took.
    pub cost: CostRow,
}

/// A model and its scores.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ForgetModelRow {
    /// What tables call it.
    pub name: String,
    /// The step that it ends at.
    pub step: Option<u64>,
    /// Training tokens of that step, where they are known.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// `SCHEME:N`; nothing for a checkpoint.
    pub window: Option<String>,
    /// Steps of its checkpoints, oldest first.
    pub steps: Vec<Option<u64>>,
    /// Its scores; a measure without items is left out.
    pub measures: Vec<MeasureRow>,
    /// Scores by type of entity, where the probes have several types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<TypeRow>,
    /// M_ex as a share of that of the first checkpoint.
    pub retention: Option<f64>,
    /// Differences from the first checkpoint, over the same items.
    pub since_first: Vec<PairedRow>,
    /// A merge's differences from its newest checkpoint, over the same items.
    pub over_newest: Vec<PairedRow>,
    /// Values by item; left out of what is printed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemRow>,
}

/// One measure of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureRow {
    /// `m_ex`, `m_in`, `ppl_ent`, `m_f_ent`, `ppl` or `m_f`.
    pub measure: String,
    /// Its value.
    pub value: f64,
    /// Its standard error over items.
    pub standard_error: Option<f64>,
    /// Items.
    pub n: usize,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// Scores of one model on the entities of one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TypeRow {
    /// The type, as the titles have it.
    pub entity_type: String,
    /// The measures of entities.
    pub measures: Vec<MeasureRow>,
}

/// A difference over the same items: this model's value less the other's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairedRow {
    /// The measure.
    pub measure: String,
    /// The difference, not signed by what is better.
    pub difference: f64,
    /// Its standard error.
    pub standard_error: Option<f64>,
    /// By Student's t.
    pub interval_95: Option<[f64; 2]>,
}

/// Numerators and denominators of one measure, by item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemRow {
    /// The measure.
    pub measure: String,
    /// What is summed.
    pub numerators: Vec<f64>,
    /// What it is divided by.
    pub denominators: Vec<f64>,
}

impl ForgetModelRow {
    /// The value of a measure.
    pub fn value(&self, measure: RecallMeasure) -> Option<f64> {
        self.measures.iter().find(|row| row.measure == measure.name()).map(|row| row.value)
    }
}

/// Scores models on probes. Merges are made in memory, together with others by one reading of their checkpoints.
///
/// # Errors
/// `Request` without models, and where `recalled_by` recalls nothing; what opening, merging and scoring give.
pub fn score_models(
    models: &[ForgetModel],
    probes: &ProbeFile,
    options: ForgetOptions<'_>,
    (resolver, cx, eval): (&Resolver<'_>, &RunContext<'_>, &EvalContext<'_>),
) -> Result<ForgetRecord, Error> {
    let began = cx.host.elapsed_seconds();
    let Some(like) = models.first().and_then(|model| model.output.sources.first()).map(|one| one.path.clone()) else {
        return Err(Error::NoCheckpoint);
    };
    let checkpoint = cx.pool.open(&like, &ReadOptions::default())?;
    let config = checkpoint.config().ok_or_else(|| thalweg_eval::Error::ConfigMissing { path: like.clone() })?;
    let config = ModelConfig::from_json(config)?;
    let tokenizer = TokenizerFiles::find(&*cx.storage, options.tokenizer.as_deref(), &checkpoint, &like)?.open()?;
    let prepared = PreparedProbes::new(probes, &tokenizer, &config, options.tokens, &like)?;
    let mut all = models.to_vec();
    let recalled_by = options.recalled_by.as_deref().map(|path| resolver.named_model(path)).transpose()?;
    all.extend(recalled_by);
    let (mut scores, cost) = recall_all(&all, (&config, &prepared), (cx, eval), options.on_score)?;
    let kept = match &options.recalled_by {
        None => vec![true; prepared.probes().len()],
        Some(path) => kept_by(&scores.pop().unwrap_or_default(), path)?,
    };
    let row = |model: &ForgetModel| ForgetModelRow {
        name: model.name.clone(),
        step: model.step,
        tokens: model.output.sources.iter().find(|one| one.step == model.step).and_then(|one| one.tokens),
        window: model.window.clone(),
        steps: model.output.sources.iter().map(|source| source.step).collect(),
        ..ForgetModelRow::default()
    };
    let mut models: Vec<ForgetModelRow> = models.iter().map(row).collect();
    let kinds: Vec<&str> = prepared.probes().iter().map(|probe| probe.kind.as_str()).collect();
    complete_rows(&mut models, (&kinds, &kept), &|i, kept| {
        RecallMeasure::ALL.map(|measure| scores[i].items(measure, &prepared, kept))
    });
    let cost = CostRow { seconds: cx.host.elapsed_seconds() - began, ..cost };
    let record = new_record(probes, options.tokens, &kept);
    Ok(ForgetRecord { recalled_by: options.recalled_by, models, cost, ..record })
}

/// A record without models.
pub(super) fn new_record(probes: &ProbeFile, tokens: ProbeOptions, kept: &[bool]) -> ForgetRecord {
    ForgetRecord {
        kind: SCORES.kind.to_owned(),
        version: SCORES.version,
        probes: probes.path.clone(),
        probes_digest: probes.digest.to_string(),
        n_samples: probes.samples.len(),
        n_probes: kept.len(),
        n_kept: kept.iter().filter(|kept| **kept).count(),
        prompt_tokens: tokens.prompt_tokens,
        decode_tokens: tokens.decode_tokens,
        recalled_by: None,
        models: Vec::new(),
        cost: CostRow::default(),
    }
}

/// Which entities a checkpoint recalls.
fn kept_by(scores: &RecallScores, path: &Path) -> Result<Vec<bool>, Error> {
    let kept: Vec<bool> = scores.recalls.iter().map(|score| score.is_recalled == Some(true)).collect();
    if kept.contains(&true) {
        return Ok(kept);
    }
    Err(Error::request_with_hint(
        format!("`{}` recalls none of the {} entities", path.display(), kept.len()),
        "name a checkpoint that was trained on them just before, or leave out `--recalled-by`",
    ))
}

/// What each model recalls, and what that took.
fn recall_all(
    models: &[ForgetModel],
    (config, prepared): (&ModelConfig, &PreparedProbes),
    (cx, eval): (&RunContext<'_>, &EvalContext<'_>),
    on_score: &mut dyn FnMut(usize, &str),
) -> Result<(Vec<RecallScores>, CostRow), Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cx.limits.n_threads.get()).build();
    let pool = pool.map_err(Error::Threads)?;
    let (mut scores, mut spare, mut cost) = (Vec::new(), Vec::new(), CostRow::default());
    for together in models.chunks(n_models_together(config, eval.memory_bytes)) {
        let outputs: Vec<_> = together.iter().map(|model| model.output.clone()).collect();
        let (loaded, n_bytes) = merge_models(&outputs, config, &mut spare, cx)?;
        cost.bytes_read += n_bytes;
        for (model, loaded) in together.iter().zip(loaded) {
            let subject = pool.install(|| Subject::from_model(Path::new(&model.name), loaded))?;
            scores.push(pool.install(|| score_recall(prepared, &subject, eval))?);
            spare.push(subject.into_model().into_params());
            cost.n_evaluations += 1;
            cost.n_tokens += prepared.n_tokens();
            on_score(scores.len(), &model.name);
        }
    }
    Ok((scores, cost))
}

/// Types of the entities that count, each with the entities of it; nothing where all have one type.
fn types_of<'a>(kinds: &[&'a str], kept: &[bool]) -> Vec<(&'a str, Vec<bool>)> {
    let entities = || kinds.iter().zip(kept);
    let names: BTreeSet<&str> = entities().filter(|(_, kept)| **kept).map(|(kind, _)| *kind).collect();
    let of_type = |name: &str| entities().map(|(kind, kept)| *kept && *kind == name).collect();
    if names.len() < 2 { Vec::new() } else { names.into_iter().map(|name| (name, of_type(name))).collect() }
}

/// Items of one measure.
pub(super) type Items = (Vec<f64>, Vec<f64>);

/// Completes rows that have the names and steps of models. `kinds` and `kept` have one entry for each entity: its
/// type, and whether it counts; `items_of` gives the items of a model over some of the entities, without any for a
/// measure that was not taken.
pub(super) fn complete_rows(
    rows: &mut [ForgetModelRow],
    (kinds, kept): (&[&str], &[bool]),
    items_of: &dyn Fn(usize, &[bool]) -> [Items; 6],
) {
    let types = types_of(kinds, kept);
    let items: Vec<[Items; 6]> = (0..rows.len()).map(|i| items_of(i, kept)).collect();
    let checkpoints = rows.iter().enumerate().filter(|(_, row)| row.window.is_none());
    let checkpoints: Vec<(usize, Option<u64>)> = checkpoints.map(|(i, row)| (i, row.step)).collect();
    let m_ex = |i: usize| RecallMeasure::Ex.sums(&items[i][0]).value();
    for (i, row) in rows.iter_mut().enumerate() {
        row.measures = measures(&items[i]).map(|(_, row)| row).collect();
        let type_row = |(name, kept): &(&str, Vec<bool>)| {
            let items = items_of(i, kept);
            let measures = measures(&items).filter(|(measure, _)| measure.is_of_entities());
            TypeRow { entity_type: (*name).to_owned(), measures: measures.map(|(_, row)| row).collect() }
        };
        row.types = types.iter().map(type_row).collect();
        row.retention = Some(m_ex(i) / m_ex(0)).filter(|share| share.is_finite());
        row.since_first = if i == 0 { Vec::new() } else { paired(&items[0], &items[i]) };
        let newest = checkpoints.iter().find(|(_, step)| row.window.is_some() && *step == row.step);
        row.over_newest = newest.map_or_else(Vec::new, |(newest, _)| paired(&items[*newest], &items[i]));
        let taken = RecallMeasure::ALL.iter().zip(&items[i]).filter(|(_, (numerators, _))| !numerators.is_empty());
        let item_row = |(measure, (numerators, denominators)): (&RecallMeasure, &Items)| ItemRow {
            measure: measure.name().to_owned(),
            numerators: numerators.clone(),
            denominators: denominators.clone(),
        };
        row.items = taken.map(item_row).collect();
    }
}

/// The measures that have a value.
fn measures(items: &[Items; 6]) -> impl Iterator<Item = (RecallMeasure, MeasureRow)> {
    let row = |(&measure, items): (&RecallMeasure, &Items)| {
        let sums = measure.sums(items);
        let value = Some(sums.value()).filter(|value| value.is_finite())?;
        let row = MeasureRow {
            measure: measure.name().to_owned(),
            value,
            standard_error: sums.standard_error(),
            n: items.0.len(),
            higher_is_better: measure.higher_is_better(),
        };
        Some((measure, row))
    };
    RecallMeasure::ALL.iter().zip(items).filter_map(row)
}

/// The difference of each measure that both have.
fn paired(from: &[Items; 6], to: &[Items; 6]) -> Vec<PairedRow> {
    let row = |(measure, (from, to)): (&RecallMeasure, (&Items, &Items))| {
        let (from, to): (Sums<'_>, Sums<'_>) = (measure.sums(from), measure.sums(to));
        let difference = Some(to.value() - from.value()).filter(|value| value.is_finite())?;
        let found = paired_difference(&from, &to);
        Some(PairedRow {
            measure: measure.name().to_owned(),
            difference,
            standard_error: found.map(|found| found.standard_error),
            interval_95: found.map(|found| found.t_interval(LEVEL)),
        })
    };
    RecallMeasure::ALL.iter().zip(from.iter().zip(to)).filter_map(row).collect()
}

/// Reads a record of scores.
///
/// # Errors
/// `Request` for what is not one; `ReportKind` for another version; `Storage`.
pub fn read_scores(storage: &dyn Storage, path: &Path) -> Result<ForgetRecord, Error> {
    const MAX_BYTES: u64 = 1 << 30;
    const HINT: &str = "`thalweg forget score RUN --probes FILE -o scores.json` writes one";
    let record: ForgetRecord = SCORES.read_file(storage, path, MAX_BYTES, HINT)?;
    if record.models.is_empty() { Err(SCORES.refuse(path, "it has no models", HINT)) } else { Ok(record) }
}
