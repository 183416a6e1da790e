//! An extrapolation from its request to its merge.

use std::path::PathBuf;

use serde::Serialize;
use thalweg_merge::Coefficients;
use thalweg_merge::compose::compose_outputs;
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, execute_merge};
use thalweg_merge::pending::check_places;
use thalweg_merge::plan::{MergePlan, OutputPlan, PlanSource, SourceRef};
use thalweg_merge::points::{PointGeometry, describe_points};
use thalweg_tensor::counted;
use thalweg_trajectory::Trajectory;

use super::line::{Direction, Parabola, window_coefficients};
use super::request::{ExtrapolationRequest, MergedPoints};
use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, PairedGain, TaskScore};
use crate::explain::measure_gram;
use crate::record::{CostRow, GainRow, ScoreRow, SuiteRow};
use crate::request::{OutputOptions, Resolver};
use crate::sweep::deciding;
use crate::text::name_of;
use crate::values::unique;

/// What the method is, for every document.
pub(crate) const METHOD: &str = "Extra-Merge-like: the paper's coefficient rule is not public in code";

/// Steps that are scored before the vertex is known, in lags.
const PROBED: [f64; 3] = [0.0, 0.5, 1.0];
/// A vertex this close to a step that was scored is not scored again.
const ALIKE: f64 = 0.05;

/// How candidates are scored and the merge is written.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct ExtrapolationOptions<'a> {
    /// The score that decides, a task or `task/measure`; the first one if left out.
    pub by: Option<String>,
    /// The merge's folder; nothing is written if left out.
    pub out: Option<PathBuf>,
    /// What it is like.
    pub output: OutputOptions,
    /// How it is written.
    pub execute: ExecuteOptions,
    /// Called after each model with how many are done and its name.
    pub on_score: &'a mut dyn FnMut(usize, &str),
}

/// The line of the merged points.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineRow {
    /// `line` or `no line`.
    pub verdict: &'static str,
    /// Share of the variance on each leading component.
    pub component_shares: Vec<f64>,
    /// The same for a random walk.
    pub random_walk_shares: Vec<f64>,
    /// Mean cosine of successive displacements.
    pub mean_cosine: Option<f64>,
    /// The same for a random walk.
    pub random_walk_cosine: f64,
    /// Progress along the leading component for each interval of checkpoints.
    pub drift_per_interval: f64,
    /// Intervals by which a point trails its newest checkpoint.
    pub lag: f64,
}

/// One step along the line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateRow {
    /// Its length in lags.
    pub alpha: f64,
    /// The score that decides.
    pub value: Option<f64>,
    /// Scores, with the gain over the step of length 0.
    pub scores: Vec<ScoreRow>,
    /// Gain over the step of length 0 by the score that decides.
    pub gain: Option<f64>,
    /// Its standard error over the same items.
    pub gain_standard_error: Option<f64>,
}

/// The score by which steps are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecidingScore {
    /// Its suite.
    pub suite: String,
    /// `task measure`.
    pub score: String,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// A plain mean of the newest checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AverageRow {
    /// Checkpoints.
    pub n_checkpoints: usize,
    /// The score that decides.
    pub value: Option<f64>,
    /// Scores.
    pub scores: Vec<ScoreRow>,
}

/// What the extrapolation gains on one suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GainsRow {
    /// The suite.
    pub suite: String,
    /// The score, `task measure`.
    pub score: String,
    /// Whether the suite decided nothing.
    pub is_held_out: bool,
    /// Gain over the best plain mean.
    pub over_best_average: Option<GainRow>,
    /// Gain over the newest point, the mean of one window.
    pub over_newest_point: Option<GainRow>,
}

/// A source of the merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CoefficientRow {
    /// Its step.
    pub step: Option<u64>,
    /// Its path.
    pub path: PathBuf,
    /// What it is multiplied by.
    pub coefficient: f64,
}

/// What was found, and written.
#[derive(Debug, Serialize)]
pub struct ExtrapolationOutcome {
    /// [`METHOD`].
    pub method: &'static str,
    /// Along which line.
    pub direction: Direction,
    /// Checkpoints in a point.
    pub window: usize,
    /// Points.
    pub n_points: usize,
    /// First and last step of each point.
    pub point_steps: Vec<[u64; 2]>,
    /// Steps from checkpoint to checkpoint.
    pub interval_steps: u64,
    /// The line.
    pub line: LineRow,
    /// What is scored on; the second is only reported on.
    pub suites: Vec<SuiteRow>,
    /// The score that decides.
    pub decides: DecidingScore,
    /// Steps along the line.
    pub candidates: Vec<CandidateRow>,
    /// Plain means that were scored.
    pub averages: Vec<AverageRow>,
    /// Checkpoints of the best of them, by the score that decides.
    pub best_average: usize,
    /// The parabola through the first three steps; nothing where the length was given.
    pub parabola: Option<Parabola>,
    /// The step that is best, in lags.
    pub alpha: f64,
    /// What it gains, for each suite.
    pub gains: Vec<GainsRow>,
    /// The coefficients of the best step, oldest first, some of them negative.
    pub coefficients: Vec<CoefficientRow>,
    /// Why nothing is extrapolated; the best plain mean is then the better model.
    pub refusal: Option<String>,
    /// What it took; models that were scored are counted, not those of the cache.
    pub cost: CostRow,
    /// The merge.
    #[serde(skip)]
    pub written: Option<MergeOutcome>,
}

/// The points as merges that are never written. The newest is in two halves, so that half of its window can be scored.
struct Points {
    outputs: Vec<OutputPlan>,
    window: usize,
}

impl Points {
    fn new(points: &MergedPoints, resolver: &Resolver<'_>) -> Result<Self, Error> {
        let mut ranges = points.windows.clone();
        if let Some(newest) = ranges.pop() {
            let middle = newest.end - points.window / 2;
            ranges.extend([newest.start..middle, middle..newest.end]);
        }
        let mean = |(i, range): (usize, &std::ops::Range<usize>)| {
            let sources = &points.sources[range.clone()];
            let n = sources.len();
            let mean = Coefficients::new(vec![1_u64; n], n as u64)?;
            Ok(resolver.unwritten(&format!("point-{}", i + 1), sources, &mean))
        };
        let outputs = ranges.iter().enumerate().map(mean).collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { outputs, window: points.window })
    }

    /// Checkpoints in each.
    fn sizes(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.outputs.iter().map(|output| output.sources.len() as u64)
    }

    /// The plain mean of the newest points, as many as hold `n` checkpoints.
    fn mean_of_newest(&self, n: u64) -> Result<Coefficients, Error> {
        let mut left = n;
        let mut numerators: Vec<u64> = Vec::new();
        for size in self.sizes().rev() {
            let taken = if size <= left { size } else { 0 };
            left -= taken;
            numerators.push(taken);
        }
        numerators.reverse();
        Ok(Coefficients::new(numerators, n)?)
    }

    /// The step of length `alpha`.
    fn along(&self, geometry: &PointGeometry, direction: Direction, alpha: f64) -> Result<Coefficients, Error> {
        if alpha <= 0.0 {
            return self.mean_of_newest(self.window as u64);
        }
        let mut windows = window_coefficients(geometry, direction, alpha);
        let newest = windows.pop().unwrap_or(1.0);
        let halves = self.sizes().rev().take(2).map(|size| newest * size as f64 / self.window as f64);
        windows.extend(halves.collect::<Vec<_>>().into_iter().rev());
        Ok(Coefficients::from_f64_normalized(&windows)?)
    }
}

/// A candidate or a mean with its scores.
struct Scored {
    coefficients: Coefficients,
    scores: ModelScores,
}

/// Measures the line of a run's merged points, scores steps along it beside plain means, and writes the best step if it
/// is better than they are.
///
/// At most six models are scored: steps of 0, 1/2 and 1 lag, the vertex of the parabola through them, and the means of
/// half and of twice as many checkpoints. The checkpoints are read once for their inner products and once for the
/// scores.
///
/// # Errors
/// `Request` for options that do not fit the run, and for checkpoints whose parameters are not finite; `Storage` where
/// something else is in the way, before anything is read; what merging and scoring give.
pub fn run_extrapolation(
    request: &ExtrapolationRequest,
    trajectory: &Trajectory,
    evaluator: &mut dyn Evaluator,
    mut options: ExtrapolationOptions<'_>,
    (resolver, cx): (&Resolver<'_>, &RunContext<'_>),
) -> Result<ExtrapolationOutcome, Error> {
    let merged = resolver.merged_points(request, trajectory)?;
    if let Some(out) = &options.out {
        check_places([&planned(&merged, resolver.output_folder(out)?)?].into_iter(), &*cx.storage)?;
    }
    let began = cx.host.elapsed_seconds();
    let gram = measure_gram(&resolver.geometry_plan(&merged.sources)?, cx)?;
    let geometry = describe_points(&gram, &merged.windows);
    if !geometry.leading.iter().all(|weight| weight.is_finite()) {
        return Err(Error::request_with_hint(
            "the parameters of a checkpoint are not all finite, so the line cannot be measured",
            "`thalweg explain RUN --last N` names it",
        ));
    }
    let points = Points::new(&merged, resolver)?;
    let mut search = Search { points: &points, evaluator, by: options.by.clone(), n_done: 0, steps: Vec::new() };
    let means = search.score_means(&mut options)?;
    let parabola = match request.alpha {
        Some(alpha) => {
            search.score_steps(&[0.0, alpha], (&geometry, request.direction), &mut options)?;
            None
        }
        None => {
            search.score_steps(&PROBED, (&geometry, request.direction), &mut options)?;
            let parabola = search.parabola()?;
            let is_new = PROBED.iter().all(|alpha| (alpha - parabola.alpha).abs() > ALIKE);
            if is_new {
                search.score_steps(&[parabola.alpha], (&geometry, request.direction), &mut options)?;
            }
            Some(parabola)
        }
    };
    let steps = search.steps;
    let judged = Judged::new(&steps, &means, (&options, merged.window), request.alpha)?;
    let composed = compose_outputs("extrapolated".as_ref(), "custom", &points.outputs, &judged.chosen.coefficients)?;
    let mut outcome = ExtrapolationOutcome {
        method: METHOD,
        direction: request.direction,
        window: merged.window,
        n_points: merged.windows.len(),
        point_steps: point_steps(&merged),
        interval_steps: merged.interval_steps,
        line: line_row(&geometry),
        suites: evaluator.suites(),
        decides: judged.deciding_score(),
        candidates: judged.candidates(&steps),
        averages: judged.averages.iter().map(|(n, scores)| judged.average_row(*n, scores)).collect(),
        best_average: judged.best_average.0,
        parabola,
        alpha: judged.alpha,
        gains: judged.gains(),
        coefficients: coefficient_rows(&composed),
        refusal: None,
        cost: evaluator.cost(),
        written: None,
    };
    outcome.refusal = judged.refusal(&outcome.gains, request.alpha);
    if let Some(out) = options.out.as_ref().filter(|_| outcome.refusal.is_none()) {
        let output = output_of(&composed, outcome.direction, outcome.alpha, (resolver, &options.output), out)?;
        outcome.written = execute_merge(&MergePlan::new(vec![output])?, options.execute, cx)?.into_iter().next();
    }
    outcome.cost.seconds = cx.host.elapsed_seconds() - began;
    Ok(outcome)
}

/// What the place of the output is checked with, before its coefficients are known.
fn planned(merged: &MergedPoints, out: PathBuf) -> Result<OutputPlan, Error> {
    let n = merged.sources.len();
    Ok(OutputPlan::new(out, "custom", &merged.sources, &Coefficients::new(vec![1_u64; n], n as u64)?))
}

fn output_of(
    composed: &OutputPlan,
    direction: Direction,
    alpha: f64,
    (resolver, options): (&Resolver<'_>, &OutputOptions),
    out: &std::path::Path,
) -> Result<OutputPlan, Error> {
    let sources: Vec<SourceRef> = composed.sources.iter().map(PlanSource::source).collect();
    let scheme = format!("extrapolation:{}:{alpha:.3}", name_of(direction));
    let newest = composed.policy.newest;
    resolver.output_plan((&sources, newest), (&composed.coefficients()?, scheme), options, out)
}

/// Scores as they come.
struct Search<'a> {
    points: &'a Points,
    evaluator: &'a mut dyn Evaluator,
    by: Option<String>,
    n_done: usize,
    steps: Vec<(f64, Scored)>,
}

impl Search<'_> {
    fn score(
        &mut self,
        all: Vec<(String, Coefficients)>,
        options: &mut ExtrapolationOptions<'_>,
    ) -> Result<Vec<Scored>, Error> {
        let combinations: Vec<Coefficients> = all.iter().map(|(_, coefficients)| coefficients.clone()).collect();
        let n_done = &mut self.n_done;
        let scores = self.evaluator.score_combinations(&self.points.outputs, &combinations, &mut |i, _| {
            *n_done += 1;
            (options.on_score)(*n_done, &all[i].0);
        })?;
        let pairs = combinations.into_iter().zip(scores);
        Ok(pairs.map(|(coefficients, scores)| Scored { coefficients, scores }).collect())
    }

    /// The means of half and of twice the window.
    fn score_means(&mut self, options: &mut ExtrapolationOptions<'_>) -> Result<Vec<(usize, Scored)>, Error> {
        let counts = [self.points.window / 2, 2 * self.points.window];
        let mean = |n: usize| Ok((format!("mean of {n}"), self.points.mean_of_newest(n as u64)?));
        let all = counts.into_iter().map(mean).collect::<Result<Vec<_>, Error>>()?;
        Ok(counts.into_iter().zip(self.score(all, options)?).collect())
    }

    fn score_steps(
        &mut self,
        alphas: &[f64],
        (geometry, direction): (&PointGeometry, Direction),
        options: &mut ExtrapolationOptions<'_>,
    ) -> Result<(), Error> {
        let mut alphas = alphas.to_vec();
        alphas.dedup();
        let step = |alpha: f64| Ok((format!("step of {alpha:.2}"), self.points.along(geometry, direction, alpha)?));
        let all = alphas.iter().map(|alpha| step(*alpha)).collect::<Result<Vec<_>, Error>>()?;
        let scored = self.score(all, options)?;
        self.steps.extend(alphas.into_iter().zip(scored));
        Ok(())
    }

    /// The parabola through the costs of the first three steps.
    fn parabola(&self) -> Result<Parabola, Error> {
        let decides = deciding(self.steps.iter().map(|(_, one)| &one.scores), self.by.as_deref())?;
        let costs: Vec<f64> =
            self.steps.iter().filter_map(|(_, one)| one.scores.find(&decides)).map(TaskScore::cost).collect();
        let costs = <[f64; 3]>::try_from(costs);
        Ok(Parabola::through(costs.map_err(|_| Error::Bug { what: "three steps have three scores" })?))
    }
}

struct Judged<'a> {
    decides: TaskScore,
    at_zero: &'a Scored,
    chosen: &'a Scored,
    alpha: f64,
    /// Plain means by the number of checkpoints.
    averages: Vec<(usize, &'a ModelScores)>,
    best_average: (usize, &'a ModelScores),
}

impl<'a> Judged<'a> {
    fn new(
        steps: &'a [(f64, Scored)],
        means: &'a [(usize, Scored)],
        (options, window): (&ExtrapolationOptions<'_>, usize),
        given: Option<f64>,
    ) -> Result<Self, Error> {
        let bug = Error::Bug { what: "a step of no length is scored" };
        let Some((_, at_zero)) = steps.first() else { return Err(bug) };
        let all = steps.iter().map(|(_, one)| &one.scores).chain(means.iter().map(|(_, one)| &one.scores));
        let decides = deciding(all, options.by.as_deref())?;
        let cost = |scores: &ModelScores| scores.find(&decides).map_or(f64::INFINITY, TaskScore::cost);
        let mut averages: Vec<(usize, &ModelScores)> = means.iter().map(|(n, one)| (*n, &one.scores)).collect();
        averages.push((window, &at_zero.scores));
        averages.sort_by_key(|(n, _)| *n);
        let best_average = averages.iter().min_by(|a, b| cost(a.1).total_cmp(&cost(b.1)));
        let best_average = best_average.copied().unwrap_or((window, &at_zero.scores));
        let best = match given {
            Some(_) => steps.last(),
            None => steps.iter().min_by(|a, b| cost(&a.1.scores).total_cmp(&cost(&b.1.scores))),
        };
        let (alpha, chosen) = best.map_or((0.0, at_zero), |(alpha, chosen)| (*alpha, chosen));
        Ok(Self { decides, at_zero, chosen, alpha, averages, best_average })
    }

    fn gain_over_zero(&self, scores: &ModelScores) -> Option<PairedGain> {
        scores.find(&self.decides)?.paired_gain(self.at_zero.scores.find(&self.decides)?)
    }

    fn candidates(&self, steps: &[(f64, Scored)]) -> Vec<CandidateRow> {
        let row = |(alpha, one): &(f64, Scored)| {
            let gain = self.gain_over_zero(&one.scores);
            CandidateRow {
                alpha: *alpha,
                value: one.scores.find(&self.decides).map(|score| score.value),
                scores: one.scores.rows(Some(&self.at_zero.scores)),
                gain: gain.map(|gain| gain.value),
                gain_standard_error: gain.and_then(|gain| gain.standard_error),
            }
        };
        let mut rows: Vec<CandidateRow> = steps.iter().map(row).collect();
        rows.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
        rows
    }

    fn deciding_score(&self) -> DecidingScore {
        let TaskScore { suite, higher_is_better, .. } = &self.decides;
        DecidingScore { suite: suite.clone(), score: self.decides.label(), higher_is_better: *higher_is_better }
    }

    fn average_row(&self, n_checkpoints: usize, scores: &ModelScores) -> AverageRow {
        let value = scores.find(&self.decides).map(|score| score.value);
        AverageRow { n_checkpoints, value, scores: scores.rows(None) }
    }

    /// The gains on the suite that decides, and on each other one by the score that is most like the one that decides.
    fn gains(&self) -> Vec<GainsRow> {
        let scores = &self.chosen.scores;
        let row = |suite: &str| {
            let of_suite = || scores.tasks.iter().filter(|score| score.suite == suite);
            let alike = |score: &&TaskScore| score.task == self.decides.task && score.measure == self.decides.measure;
            let measure = |score: &&TaskScore| score.measure == self.decides.measure;
            let score = of_suite().find(alike).or_else(|| of_suite().find(measure)).or_else(|| of_suite().next())?;
            let over = |other: &ModelScores| score.gain_over(other.find(score)?);
            Some(GainsRow {
                suite: suite.to_owned(),
                score: score.label(),
                is_held_out: score.suite != self.decides.suite,
                over_best_average: over(self.best_average.1),
                over_newest_point: over(&self.at_zero.scores),
            })
        };
        unique(scores.tasks.iter().map(|score| score.suite.as_str())).into_iter().filter_map(row).collect()
    }

    /// Why the plain mean is kept, if it is.
    fn refusal(&self, gains: &[GainsRow], given: Option<f64>) -> Option<String> {
        if given.is_some() {
            return None;
        }
        let gain = self.gain_over_zero(&self.chosen.scores);
        let is_beyond = gain.is_some_and(|gain| gain.value > gain.standard_error.unwrap_or(0.0));
        if self.alpha <= 0.0 {
            return Some("no step along the line scores better than the mean that it starts from".to_owned());
        }
        if !is_beyond {
            let (value, error) = gain.map_or((0.0, None), |gain| (gain.value, gain.standard_error));
            let error = error.map_or_else(String::new, |error| format!(" of {error:.4}"));
            return Some(format!(
                "the best step gains {value:+.4} over the mean that it starts from, which is within the standard error{error}"
            ));
        }
        for row in gains {
            let on = &row.suite;
            if let Some(gain) = row.over_newest_point.filter(|gain| gain.value <= 0.0) {
                return Some(format!(
                    "on `{on}` the step loses {:.4} against the mean that it starts from",
                    -gain.value
                ));
            }
            if let Some(gain) = row.over_best_average.filter(|gain| gain.value <= 0.0) {
                return Some(format!(
                    "on `{on}` the plain mean of {} is better, by {:.4}",
                    counted(self.best_average.0, "checkpoint"),
                    -gain.value
                ));
            }
        }
        None
    }
}

fn line_row(geometry: &PointGeometry) -> LineRow {
    LineRow {
        verdict: if geometry.is_line() { "line" } else { "no line" },
        component_shares: geometry.component_shares.clone(),
        random_walk_shares: geometry.random_walk_shares.clone(),
        mean_cosine: geometry.mean_cosine(),
        random_walk_cosine: geometry.random_walk_cosine,
        drift_per_interval: geometry.drift_per_point / geometry.window.max(1) as f64,
        lag: geometry.averaging_lag,
    }
}

fn point_steps(merged: &MergedPoints) -> Vec<[u64; 2]> {
    let step = |i: usize| merged.sources.get(i).and_then(|source| source.step).unwrap_or(0);
    merged.windows.iter().map(|window| [step(window.start), step(window.end.saturating_sub(1))]).collect()
}

fn coefficient_rows(output: &OutputPlan) -> Vec<CoefficientRow> {
    let row = |source: &thalweg_merge::plan::PlanSource| CoefficientRow {
        step: source.step,
        path: source.path.clone(),
        coefficient: source.coefficient,
    };
    output.sources.iter().map(row).collect()
}
