//! Searches mixtures by merging components in memory, scoring each merge, and fitting a predictor in rounds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thalweg_merge::Coefficients;
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::OutputPlan;
use thalweg_storage::guard::check_document;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::SplitMix;

use super::rank::mean_ranks;
use super::ridge::{QuadraticFit, fit_quadratic};
use super::space::{Component, MixSpace, Mixture, exact, fractions, round};
use super::trials::{TRIALS, TrialRecord};
use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, TaskScore};
use crate::record::{CostRow, GainRow, SuiteRow};
use crate::request::Resolver;
use crate::values::mean;

/// The most mixtures of a search: each is compared with all that were scored.
const MAX_SEARCHED: usize = 10_000;
/// Mixtures that the predictor judges.
const POOL: usize = 20_000;
/// Share of the pool from which the next round is drawn.
const NEXT_SHARE: usize = 20;
/// Share of the pool that is the answer.
const REGION_SHARE: usize = 100;

/// What several losses are turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Mean over the tasks of the rank in the pool, as in the paper.
    Rank,
    /// Mean of the losses.
    Mean,
}

/// How mixtures are searched.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct SearchOptions<'a> {
    /// Mixtures of the first round; each later round has half as many.
    pub n: usize,
    /// Rounds.
    pub rounds: usize,
    /// Seed of all drawings.
    pub seed: u64,
    /// What is minimised.
    pub objective: Objective,
    /// Scores just these mixtures, in coefficients by name, instead of drawing any.
    pub given: Option<Vec<TrialRecord>>,
    /// The only task, or `task/measure`, that counts; the first measure of each task, if left out.
    pub by: Option<String>,
    /// The file of the trials.
    pub path: PathBuf,
    /// Called after each model with how many are done.
    pub on_score: &'a mut dyn FnMut(usize),
}

impl SearchOptions<'_> {
    /// Mixtures of each round. Capped just above the limit, so that a huge `--rounds` allocates nothing and is still
    /// refused.
    fn sizes(&self) -> Vec<usize> {
        (0..self.rounds.min(MAX_SEARCHED + 1)).map(|round| (self.n >> round.min(63)).max(1)).collect()
    }

    /// Mixtures of all rounds.
    pub fn n_mixtures(&self) -> usize {
        self.sizes().into_iter().fold(0, usize::saturating_add)
    }
}

/// How well one score is predicted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictorRow {
    /// `task/measure`.
    pub measure: String,
    /// Strength of the ridge.
    pub strength: f64,
    /// Root mean square error of points that are left out one at a time.
    pub left_out_error: f64,
    /// Correlation of ranks of points with their predictions from the others.
    pub left_out_spearman: Option<f64>,
    /// Each point as predicted from the others, and as scored, in the order of the trials.
    pub points: Vec<[f64; 2]>,
}

/// One component in the region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionRow {
    /// Its name.
    pub component: String,
    /// Mean coefficient.
    pub coefficient: f64,
    /// The 10, 50 and 90 % points of coefficients.
    pub coefficient_quantiles: [f64; 3],
    /// Mean share of its data.
    pub data_share: f64,
    /// The 10, 50 and 90 % points of shares.
    pub data_share_quantiles: [f64; 3],
}

/// A mixture that was scored, beside the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixRegion {
    /// What it is: `region`, `uniform`, `best single` or `best sampled`.
    pub name: String,
    /// By which the components are multiplied.
    pub coefficients: BTreeMap<String, f64>,
    /// What a run would train on.
    pub data_shares: BTreeMap<String, f64>,
    /// Scores of the merge by `task/measure`.
    pub measures: BTreeMap<String, f64>,
    /// Gain of the region's mean over it, for each score; positive is better.
    pub gains_of_region: BTreeMap<String, GainRow>,
}

/// What a search found.
#[derive(Debug, Clone, Serialize)]
pub struct SearchOutcome {
    /// The general component.
    pub general: String,
    /// Share of general data in the other components.
    pub beta: f64,
    /// What is minimised.
    pub objective: Objective,
    /// What was scored on.
    pub suites: Vec<SuiteRow>,
    /// Mixtures that were scored.
    pub n_trials: usize,
    /// The predictor of each score.
    pub predictor: Vec<PredictorRow>,
    /// The best part of the pool, by component.
    pub region: Vec<RegionRow>,
    /// The region's mean, and what it is compared with.
    pub models: Vec<MixRegion>,
    /// What it took.
    pub cost: CostRow,
    /// The file of the trials.
    pub path: PathBuf,
}

/// A mixture with its scores.
struct Trial {
    round: usize,
    mixture: Mixture,
    scores: ModelScores,
}

/// Merges and scores mixtures of components and writes the trials; the answer is a region.
///
/// Components are held in memory where they fit in half of it, and one merge at a time.
///
/// # Errors
/// `Request` for a search without mixtures or a score that does not exist; `Storage` where something else is in the
/// way, before anything is scored; what merging and scoring give.
pub fn search_mixtures(
    (components, space): (&[Component], &MixSpace),
    evaluator: &mut dyn Evaluator,
    mut options: SearchOptions<'_>,
    (resolver, cx): (&Resolver<'_>, &RunContext<'_>),
) -> Result<SearchOutcome, Error> {
    check_document(&*cx.storage, &options.path, TRIALS.file())?;
    let least = space.names().len() + 3;
    if options.given.is_none() && (options.n < least || options.rounds == 0) {
        return Err(Error::request_with_hint(
            format!("a search of {} mixtures in {} rounds is too small", options.n, options.rounds),
            format!("`--n` is at least {least} here, and `--rounds` at least 1"),
        ));
    }
    if options.given.is_none() && options.n_mixtures() > MAX_SEARCHED {
        return Err(Error::request_with_hint(
            format!("a search of {} mixtures in {} rounds is too large", options.n, options.rounds),
            format!("lower `--n` or `--rounds`: all rounds together have at most {MAX_SEARCHED} mixtures"),
        ));
    }
    let began = cx.host.elapsed_seconds();
    let one = Coefficients::new([1], 1)?;
    let point = |one_of: &Component| resolver.unwritten(&one_of.name, std::slice::from_ref(&one_of.source), &one);
    let points: Vec<OutputPlan> = components.iter().map(point).collect();
    let mut search = Search { points: &points, space, evaluator, trials: Vec::new(), tasks: Vec::new(), n_done: 0 };
    search.run(&mut options)?;
    let fits = search.fits();
    let region = search.best_of_pool(&fits, &options, REGION_SHARE)?;
    let models = search.compare(&region, &mut options)?;
    let predictor = search.tasks.iter().zip(&fits).filter_map(|(task, fit)| {
        let fit = fit.as_ref()?;
        // Costs are predicted: their sign is that of the score where less is better.
        let sign = if task.higher_is_better { -1.0 } else { 1.0 };
        let scored = search.trials.iter().filter_map(|trial| trial.scores.find(task));
        Some(PredictorRow {
            measure: task.name(),
            strength: fit.strength,
            left_out_error: fit.left_out_error,
            left_out_spearman: fit.left_out_spearman,
            points: fit.left_out.iter().zip(scored).map(|(cost, score)| [sign * cost, score.value]).collect(),
        })
    });
    let predictor: Vec<PredictorRow> = predictor.collect();
    let lines = search.trials.iter().map(|trial| search.line(trial)).collect::<Result<String, _>>()?;
    publish_file(&*cx.storage, &options.path, lines.as_bytes(), TRIALS.file())?;
    Ok(SearchOutcome {
        general: space.general().to_owned(),
        beta: space.beta(),
        objective: options.objective,
        suites: search.evaluator.suites(),
        n_trials: search.trials.len(),
        predictor,
        region: region_rows(&region, space),
        models,
        cost: CostRow { seconds: cx.host.elapsed_seconds() - began, ..search.evaluator.cost() },
        path: options.path,
    })
}

struct Search<'a> {
    points: &'a [OutputPlan],
    space: &'a MixSpace,
    evaluator: &'a mut dyn Evaluator,
    trials: Vec<Trial>,
    /// The scores that count, as the first mixture had them.
    tasks: Vec<TaskScore>,
    n_done: usize,
}

impl Search<'_> {
    fn run(&mut self, options: &mut SearchOptions<'_>) -> Result<(), Error> {
        let mut random = SplitMix::new(options.seed);
        if let Some(given) = &options.given {
            let mixtures = given.iter().map(|one| self.mixture_of(one)).collect::<Result<Vec<_>, _>>()?;
            return self.score_round(1, mixtures, options);
        }
        for (i, size) in options.sizes().into_iter().enumerate() {
            let mixtures = match i {
                0 => {
                    let corners = self.space.corners();
                    let drawn = self.space.draw(size.saturating_sub(corners.len()), &mut random);
                    corners.into_iter().chain(drawn).collect()
                }
                _ => {
                    let fits = self.fits();
                    let best = self.best_of_pool(&fits, options, NEXT_SHARE)?;
                    (0..size).map(|_| best[random.below(best.len())].clone()).collect()
                }
            };
            self.score_round(i + 1, mixtures, options)?;
        }
        Ok(())
    }

    /// A mixture that was given in either coordinates.
    fn mixture_of(&self, given: &TrialRecord) -> Result<Mixture, Error> {
        let named = |what: String| Error::request_with_hint(what, "name the components as in the mixtures");
        let coefficients = match (&given.coefficients, &given.data_shares) {
            (Some(coefficients), _) => self.space.in_order(coefficients).map_err(named)?,
            (None, Some(shares)) => self.space.coefficients(&self.space.in_order(shares).map_err(named)?)?,
            (None, None) => return Err(Error::request("a mixture has no coefficients")),
        };
        Ok(round(&coefficients))
    }

    /// Scores mixtures that were not scored yet.
    fn score_round(
        &mut self,
        round: usize,
        mixtures: Vec<Mixture>,
        options: &mut SearchOptions<'_>,
    ) -> Result<(), Error> {
        for mixture in mixtures {
            if self.trials.iter().all(|trial| trial.mixture != mixture) {
                let scores = self.score(&mixture, options)?;
                self.trials.push(Trial { round, mixture, scores });
            }
        }
        Ok(())
    }

    /// One merge at a time: no two of them are in memory.
    fn score(&mut self, mixture: &[u32], options: &mut SearchOptions<'_>) -> Result<ModelScores, Error> {
        let scores = self.evaluator.score_combinations(self.points, &[exact(mixture)?], &mut |_, _| {})?;
        let scores = scores.into_iter().next().unwrap_or_default();
        if self.tasks.is_empty() {
            self.tasks = counted_scores(&scores, options.by.as_deref())?;
        }
        self.n_done += 1;
        (options.on_score)(self.n_done);
        Ok(scores)
    }

    /// The predictor of each score; nothing where the trials support none.
    fn fits(&self) -> Vec<Option<QuadraticFit>> {
        let mixtures: Vec<Vec<f64>> = self.trials.iter().map(|trial| fractions(&trial.mixture)).collect();
        let fit = |task: &TaskScore| {
            let costs = self.trials.iter().map(|trial| trial.scores.find(task).map(TaskScore::cost));
            fit_quadratic(&mixtures, &costs.collect::<Option<Vec<f64>>>()?)
        };
        self.tasks.iter().map(fit).collect()
    }

    /// The best part of the pool, best first.
    fn best_of_pool(
        &self,
        fits: &[Option<QuadraticFit>],
        options: &SearchOptions<'_>,
        share: usize,
    ) -> Result<Vec<Mixture>, Error> {
        // Another stream than that of the trials.
        let mut random = SplitMix::new(options.seed ^ 0x6d69_7869_6e67_0001);
        let pool = self.space.draw(POOL, &mut random);
        let mut totals = vec![0.0; pool.len()];
        for fit in fits.iter().flatten() {
            let costs: Vec<f64> = pool.iter().map(|one| fit.predict(&fractions(one))).collect();
            let costs = if options.objective == Objective::Rank { mean_ranks(&costs) } else { costs };
            totals.iter_mut().zip(costs).for_each(|(total, cost)| *total += cost);
        }
        if fits.iter().all(Option::is_none) {
            return Err(Error::request_with_hint(
                "the scores of these mixtures cannot be fitted",
                "score at least three mixtures, on a suite whose scores are finite",
            ));
        }
        let mut order: Vec<usize> = (0..pool.len()).collect();
        order.sort_by(|a, b| totals[*a].total_cmp(&totals[*b]));
        Ok(order.into_iter().take(POOL / share).map(|i| pool[i].clone()).collect())
    }

    /// The region's mean, uniform, the best single component and the best mixture that was sampled, all scored.
    fn compare(&mut self, region: &[Mixture], options: &mut SearchOptions<'_>) -> Result<Vec<MixRegion>, Error> {
        let n = self.space.names().len();
        let mut mean = vec![0.0; n];
        for one in region {
            mean.iter_mut().zip(fractions(one)).for_each(|(sum, share)| *sum += share / region.len() as f64);
        }
        let corners = self.space.corners();
        let mut named: Vec<(&str, Mixture)> = vec![("region", round(&mean))];
        named.push(("uniform", corners[n].clone()));
        let sampled = self.best_by_ranks(|_| true);
        let single = self.best_by_ranks(|trial| corners[..n].contains(&trial.mixture));
        named.extend(single.map(|mixture| ("best single", mixture)));
        named.extend(sampled.map(|mixture| ("best sampled", mixture)));
        let mut rows: Vec<(&str, Mixture, ModelScores)> = Vec::new();
        for (name, mixture) in named {
            let known = self.trials.iter().find(|trial| trial.mixture == mixture).map(|trial| trial.scores.clone());
            let scores = match known {
                Some(scores) => scores,
                None => self.score(&mixture, options)?,
            };
            rows.push((name, mixture, scores));
        }
        let Some(answer) = rows.first().map(|(_, _, scores)| scores.clone()) else { return Ok(Vec::new()) };
        let row = |(name, mixture, scores): &(&str, Mixture, ModelScores)| {
            let coefficients = fractions(mixture);
            let gain = |task: &TaskScore| {
                let gain = answer.find(task).zip(scores.find(task)).and_then(|(own, over)| own.gain_over(over))?;
                Some((task.name(), gain))
            };
            let gains = self.tasks.iter().filter_map(gain).collect();
            MixRegion {
                name: (*name).to_owned(),
                coefficients: self.space.by_name(&coefficients),
                data_shares: self.space.by_name(&self.space.data_shares(&coefficients)),
                measures: self.measures(scores),
                gains_of_region: if *name == "region" { BTreeMap::new() } else { gains },
            }
        };
        Ok(rows.iter().map(row).collect())
    }

    /// The best trial of some by the mean rank of its scores among all trials.
    fn best_by_ranks(&self, is_meant: impl Fn(&Trial) -> bool) -> Option<Mixture> {
        let mut totals = vec![0.0; self.trials.len()];
        for task in &self.tasks {
            let costs: Vec<f64> = self
                .trials
                .iter()
                .map(|trial| trial.scores.find(task).map_or(f64::INFINITY, TaskScore::cost))
                .collect();
            totals.iter_mut().zip(mean_ranks(&costs)).for_each(|(total, rank)| *total += rank);
        }
        let meant = self.trials.iter().zip(totals).filter(|(trial, _)| is_meant(trial));
        meant.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(trial, _)| trial.mixture.clone())
    }

    fn measures(&self, scores: &ModelScores) -> BTreeMap<String, f64> {
        let found = self.tasks.iter().filter_map(|task| scores.find(task));
        found.map(|score| (score.name(), score.value)).collect()
    }

    fn line(&self, trial: &Trial) -> Result<String, Error> {
        let coefficients = fractions(&trial.mixture);
        TRIALS.line(&TrialRecord {
            round: Some(trial.round),
            data_shares: Some(self.space.by_name(&self.space.data_shares(&coefficients))),
            coefficients: Some(self.space.by_name(&coefficients)),
            measures: self.measures(&trial.scores),
        })
    }
}

/// The scores that count: the named ones, or the first of each task.
fn counted_scores(scores: &ModelScores, by: Option<&str>) -> Result<Vec<TaskScore>, Error> {
    let counted = scores.first_of_tasks(|task| by.is_none_or(|by| task.is_called(by)));
    match counted.is_empty() {
        true => Err(Error::request("the suite has no score to search by")),
        false => Ok(counted),
    }
}

fn region_rows(region: &[Mixture], space: &MixSpace) -> Vec<RegionRow> {
    let coefficients: Vec<Vec<f64>> = region.iter().map(|one| fractions(one)).collect();
    let shares: Vec<Vec<f64>> = coefficients.iter().map(|one| space.data_shares(one)).collect();
    let row = |(i, name): (usize, &String)| {
        let (coefficient, coefficient_quantiles) = spread(coefficients.iter().map(|one| one[i]));
        let (data_share, data_share_quantiles) = spread(shares.iter().map(|one| one[i]));
        RegionRow { component: name.clone(), coefficient, coefficient_quantiles, data_share, data_share_quantiles }
    };
    space.names().iter().enumerate().map(row).collect()
}

/// Mean and the 10, 50 and 90 % points: the nearest ranks.
fn spread(values: impl Iterator<Item = f64>) -> (f64, [f64; 3]) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let mean = mean(&values);
    let last = values.len().saturating_sub(1);
    (mean, [1, 5, 9].map(|tenth| values.get((last * tenth + 5) / 10).copied().unwrap_or(f64::NAN)))
}
