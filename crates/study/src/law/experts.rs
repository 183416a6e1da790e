//! Makes a curve: merges subsets of models in memory, each model read once, and scores every merge.

use std::path::{Path, PathBuf};

use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::{OutputPlan, SourceRef};
use thalweg_storage::publish::publish_file;
use thalweg_trajectory::check_new_document;

use super::curve::{CURVE, CurveRecord};
use crate::Error;
use crate::document::json_line;
use crate::evaluator::{Evaluator, ModelScores, TaskScore};
use crate::forecast_items::items_of;
use crate::record::CostRow;
use crate::request::Resolver;

/// Models and the subsets of them that are merged by their plain mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertCurve {
    /// The models.
    pub experts: Vec<SourceRef>,
    /// What they were trained from, to be scored as k = 0.
    pub base: Option<SourceRef>,
    /// Places in `experts`, by k.
    pub subsets: Vec<Vec<usize>>,
}

/// How a curve is scored and where it goes.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct CurveOptions<'a> {
    /// The only task, or `task/measure`, that is a domain; all of the suite, if left out.
    pub by: Option<String>,
    /// The file of the curve.
    pub path: PathBuf,
    /// Called after each model with how many are done.
    pub on_score: &'a mut dyn FnMut(usize),
}

/// A curve that is done.
#[derive(Debug, Clone, PartialEq)]
pub struct CurveOutcome {
    /// The lines of the file.
    pub records: Vec<CurveRecord>,
    /// What it took.
    pub cost: CostRow,
    /// Seconds of it that went into scoring; the rest is merging and bookkeeping.
    pub scoring_seconds: f64,
}

impl ExpertCurve {
    /// Models to be scored.
    pub fn n_models(&self) -> usize {
        self.subsets.len() + usize::from(self.base.is_some())
    }

    /// Refuses models that are given twice: k would not be the number of models.
    ///
    /// # Errors
    /// `Request`.
    pub fn check(&self) -> Result<(), Error> {
        let mut paths: Vec<&Path> = self.experts.iter().map(|one| one.path.as_path()).collect();
        paths.sort();
        let twice = paths.windows(2).find(|pair| pair[0] == pair[1]);
        match (twice, self.experts.len()) {
            (Some(pair), _) => Err(Error::request_with_hint(
                format!("`{}` is given more than once", pair[0].display()),
                "name each model once",
            )),
            (None, 0 | 1) => Err(Error::request_with_hint(
                "a curve needs at least two models",
                "name each one with `-m CKPT`, or a run with `--newest 1,2,4,8`",
            )),
            _ => Ok(()),
        }
    }
}

/// Merges and scores the subsets of a curve and writes its file.
///
/// # Errors
/// `Request` for models that are given twice and for a suite without losses; `Storage` where something else is in the
/// way, before anything is scored; what merging and scoring give.
pub fn run_curve(
    curve: &ExpertCurve,
    evaluator: &mut dyn Evaluator,
    options: CurveOptions<'_>,
    (resolver, cx): (&Resolver<'_>, &RunContext<'_>),
) -> Result<CurveOutcome, Error> {
    curve.check()?;
    check_new_document(&cx.storage, &options.path, CURVE.file())?;
    let one = Coefficients::new([1], 1)?;
    let models = || curve.experts.iter().chain(&curve.base);
    let point =
        |(i, model): (usize, &SourceRef)| resolver.unwritten(&format!("model-{i}"), std::slice::from_ref(model), &one);
    let points: Vec<OutputPlan> = models().enumerate().map(point).collect();
    let base = curve.base.as_ref().map(|_| vec![curve.experts.len()]);
    let subsets: Vec<&Vec<usize>> = base.iter().chain(&curve.subsets).collect();
    let means = subsets.iter().map(|subset| mean_of(subset, points.len())).collect::<Result<Vec<_>, _>>()?;
    let began = cx.host.elapsed_seconds();
    let mut n_done = 0;
    let scores = evaluator.score_combinations(&points, &means, &mut |_, _| {
        n_done += 1;
        (options.on_score)(n_done);
    })?;
    let seconds = cx.host.elapsed_seconds() - began;
    let domains =
        scores.first().map(|scores| losses_of(scores, options.by.as_deref())).transpose()?.unwrap_or_default();
    let n = size_of(curve, cx)?;
    let mut records = Vec::new();
    for (subset, scores) in subsets.iter().zip(&scores) {
        let is_base = Some(*subset) == base.as_ref();
        for domain in &domains {
            let Some(score) = scores.find(domain) else { continue };
            records.push(CurveRecord {
                kind: CURVE.kind.to_owned(),
                version: CURVE.version,
                k: if is_base { 0 } else { u32::try_from(subset.len()).unwrap_or(u32::MAX) },
                subset: if is_base { Vec::new() } else { (*subset).clone() },
                pool: curve.experts.len(),
                domain: score.name(),
                loss: score.value,
                n_params: n,
            });
        }
    }
    let text = records.iter().map(json_line).collect::<Result<String, _>>()?;
    publish_file(&*cx.storage, &options.path, text.as_bytes(), CURVE.file())?;
    // A task with several measures was run once.
    let items = scores.iter().flat_map(items_of).filter(|items| !items.is_cached);
    let scoring_seconds = items.map(|items| items.seconds).sum();
    Ok(CurveOutcome { records, cost: CostRow { seconds, ..evaluator.cost() }, scoring_seconds })
}

/// The plain mean of some of `n` points.
fn mean_of(subset: &[usize], n: usize) -> Result<Coefficients, Error> {
    let numerators = (0..n).map(|i| i64::from(subset.contains(&i)));
    Ok(Coefficients::new(numerators, subset.len() as u64)?)
}

/// The scores that are losses: the first of each task for which less is better.
fn losses_of(scores: &ModelScores, by: Option<&str>) -> Result<Vec<TaskScore>, Error> {
    let is_meant = |score: &TaskScore| !score.higher_is_better && by.is_none_or(|by| score.is_called(by));
    let losses = scores.first_of_tasks(is_meant);
    if losses.is_empty() {
        return Err(Error::request_with_hint(
            "the suite has no loss: higher is better for all of its measures",
            "add a measure such as `nats_per_token`",
        ));
    }
    Ok(losses)
}

/// Parameters of one model.
fn size_of(curve: &ExpertCurve, cx: &RunContext<'_>) -> Result<Option<u64>, Error> {
    let Some(first) = curve.experts.first() else { return Ok(None) };
    Ok(Some(cx.pool.open(&first.path, &thalweg_checkpoint::ReadOptions::default())?.catalog().n_params()))
}
