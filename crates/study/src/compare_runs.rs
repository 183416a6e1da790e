//! Watched runs side by side: what each would score if it were annealed at the same number of tokens.
//!
//! Training losses of runs at a constant learning rate say little about what an anneal leaves of their difference;
//! forecasts of the same anneal at the same number of tokens do. What two forecasts may be off by is taken as
//! independent, so that an interval of their difference is rather too wide than too narrow. Where both runs have the
//! values by item of the merges behind their forecasts, the noise of the items is added, paired: what both runs find
//! hard cancels.

use serde::Serialize;
use thalweg_eval::uncertainty::Bootstrap;
use thalweg_eval::{TaskScores, compare_scores};

use crate::record::{ForecastRow, GainRow, StudyRecord};
use crate::values::unique;

/// How far apart two numbers of tokens, or two lengths of an anneal, may be to count as equal.
const TOLERANCE: f64 = 0.01;
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// The forecasts of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunForecasts {
    /// The name of its study.
    pub name: String,
    /// The forecasts.
    pub forecasts: Vec<DatedForecast>,
}

/// A forecast, and the tokens at which its anneal ends, where known.
pub type DatedForecast = (ForecastRow, Option<u64>);

impl RunForecasts {
    /// A run without forecasts.
    pub fn none(name: &str) -> Self {
        Self { name: name.to_owned(), forecasts: Vec::new() }
    }

    /// Those of a study.
    pub fn of(name: &str, study: &StudyRecord) -> Self {
        let tokens = |step: u64| study.checkpoints.iter().find(|one| one.step == step)?.tokens;
        let forecasts = study.forecasts.iter().map(|one| (one.clone(), tokens(one.end_step))).collect();
        Self { name: name.to_owned(), forecasts }
    }
}

/// Runs by one score, the best first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunComparison {
    /// The task.
    pub task: String,
    /// The measure.
    pub measure: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// `tokens`, or `steps` where the tokens of a run are not known.
    pub unit: &'static str,
    /// At how many of them the anneals end.
    pub at: u64,
    /// The runs.
    pub runs: Vec<ComparedRun>,
}

/// One run of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRun {
    /// The name of its study.
    pub name: String,
    /// What it would score if annealed.
    pub value: f64,
    /// 95 % interval.
    pub interval_95: [f64; 2],
    /// Gain over the best run, negative where it is worse; nothing for the best.
    pub gain_over_best: Option<GainRow>,
    /// Items on which it and the best run were compared one by one; nothing where the runs do not have the same.
    pub n_paired_items: Option<usize>,
    /// `best`, `worse` or `cannot be told apart`.
    pub verdict: &'static str,
}

/// The values by item of the merge behind the forecast of a run, by the run's name and the step at which it ends.
pub type ItemsOf<'a> = &'a dyn Fn(&str, u64) -> Vec<TaskScores>;

/// Compares runs by every score that two of them have a forecast of, at the largest number of tokens that they share.
pub fn compare_runs(runs: &[RunForecasts], items_of: ItemsOf<'_>) -> Vec<RunComparison> {
    let forecasts = runs.iter().flat_map(|run| &run.forecasts);
    let scores = unique(forecasts.map(|(one, _)| (one.task.as_str(), one.measure.as_str())));
    scores.into_iter().filter_map(|score| compare_score(runs, score, items_of)).collect()
}

/// A forecast with where its anneal ends.
type Placed<'a> = (&'a str, &'a ForecastRow, u64);

fn compare_score(runs: &[RunForecasts], (task, measure): (&str, &str), items_of: ItemsOf<'_>) -> Option<RunComparison> {
    let is_it = |one: &&DatedForecast| one.0.task == task && one.0.measure == measure;
    let scored: Vec<(&str, Vec<&DatedForecast>)> = runs
        .iter()
        .map(|run| (run.name.as_str(), run.forecasts.iter().filter(is_it).collect::<Vec<_>>()))
        .filter(|(_, found)| !found.is_empty())
        .collect();
    if scored.len() < 2 {
        return None;
    }
    let knows_tokens = scored.iter().all(|(_, found)| found.iter().all(|one| one.1.is_some()));
    let place = |one: &DatedForecast| one.1.filter(|_| knows_tokens).unwrap_or(one.0.end_step);
    let placed: Vec<Vec<Placed<'_>>> =
        scored.iter().map(|(name, found)| found.iter().map(|&one| (*name, &one.0, place(one))).collect()).collect();
    let (first, others) = placed.split_first()?;
    let mut candidates: Vec<&Placed<'_>> = first.iter().collect();
    candidates.sort_by_key(|one| std::cmp::Reverse(one.2));
    let together = candidates.into_iter().find_map(|one| {
        let alike = others.iter().map(|run| run.iter().find(|other| are_alike(one, other)).copied());
        let mut all = vec![*one];
        all.extend(alike.collect::<Option<Vec<_>>>()?);
        Some(all)
    })?;
    let unit = if knows_tokens { "tokens" } else { "steps" };
    Some(rank(&together, (task, measure), unit, items_of))
}

/// Whether two anneals are the same one, at the same place of their runs.
fn are_alike(a: &Placed<'_>, b: &Placed<'_>) -> bool {
    let are_close = |a: u64, b: u64| (a as f64 - b as f64).abs() <= TOLERANCE * a.max(b) as f64;
    let share = |one: &Placed<'_>| one.1.anneal_steps.saturating_mul(1000) / one.1.end_step.max(1);
    let same_curve = a.1.curve == b.1.curve && a.1.floor.total_cmp(&b.1.floor).is_eq();
    same_curve && are_close(a.2, b.2) && share(a).abs_diff(share(b)) <= 10
}

/// The noise of the items in a difference of two runs: its standard error, and how many items were paired.
fn noise_of_items(a: Option<&TaskScores>, b: Option<&TaskScores>, measure: &str) -> (f64, Option<usize>) {
    let Some((a, b)) = a.zip(b) else { return (0.0, None) };
    // The percentile bootstrap is not shown.
    let bootstrap = Bootstrap { seed: 0, n_resamples: 1 };
    let paired = compare_scores(std::slice::from_ref(a), std::slice::from_ref(b), bootstrap).unwrap_or_default();
    if let Some(found) = paired.iter().find(|one| one.measure.name() == measure) {
        return (found.standard_error.unwrap_or(0.0), Some(found.n));
    }
    let alone = |scores: &TaskScores| {
        let score = scores.scores().into_iter().find(|one| one.measure.name() == measure);
        score.and_then(|score| score.standard_error).unwrap_or(0.0)
    };
    (alone(a).hypot(alone(b)), None)
}

fn rank(
    together: &[Placed<'_>],
    (task, measure): (&str, &str),
    unit: &'static str,
    items_of: ItemsOf<'_>,
) -> RunComparison {
    let higher_is_better = together.iter().any(|one| one.1.higher_is_better);
    let goodness = |one: &Placed<'_>| if higher_is_better { one.1.value } else { -one.1.value };
    let mut ranked = together.to_vec();
    ranked.sort_by(|a, b| goodness(b).total_cmp(&goodness(a)));
    let half = |one: &Placed<'_>| (one.1.interval_95[1] - one.1.interval_95[0]) / 2.0;
    let best = ranked.first().copied();
    let items = |one: &Placed<'_>| items_of(one.0, one.1.end_step).into_iter().find(|found| found.task == task);
    let best_items = best.as_ref().and_then(items);
    let row = |one: &Placed<'_>| {
        let over = best.filter(|best| best.0 != one.0);
        let own_items = over.and_then(|_| items(one));
        let (noise, n_paired_items) = noise_of_items(best_items.as_ref(), own_items.as_ref(), measure);
        let gain = over.map(|best| {
            let value = goodness(one) - goodness(&best);
            let half = half(one).hypot(half(&best)).hypot(NORMAL_QUANTILE * noise);
            GainRow { value, interval_95: Some([value - half, value + half]) }
        });
        let is_open = gain.and_then(|gain| gain.interval_95).is_some_and(|[_, high]| high >= 0.0);
        let verdict = match gain {
            None => "best",
            Some(_) if is_open => "cannot be told apart",
            Some(_) => "worse",
        };
        ComparedRun {
            name: one.0.to_owned(),
            value: one.1.value,
            interval_95: one.1.interval_95,
            gain_over_best: gain,
            n_paired_items,
            verdict,
        }
    };
    RunComparison {
        task: task.to_owned(),
        measure: measure.to_owned(),
        higher_is_better,
        unit,
        at: together.first().map_or(0, |one| one.2),
        runs: ranked.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn forecast(end_step: u64, value: f64, half: f64) -> ForecastRow {
        ForecastRow {
            task: "text".to_owned(),
            measure: "nats_per_token".to_owned(),
            higher_is_better: false,
            end_step,
            anneal_steps: end_step / 10,
            curve: "linear".to_owned(),
            floor: 0.0,
            raw: value + 0.2,
            imitation: value,
            value,
            interval_80: [value - half / 2.0, value + half / 2.0],
            interval_95: [value - half, value + half],
            truth: None,
            rests_on: String::new(),
        }
    }

    fn run(name: &str, forecasts: &[(u64, f64, f64, Option<u64>)]) -> RunForecasts {
        let forecasts = forecasts.iter().map(|&(step, value, half, tokens)| (forecast(step, value, half), tokens));
        RunForecasts { name: name.to_owned(), forecasts: forecasts.collect() }
    }

    fn no_items(_: &str, _: u64) -> Vec<TaskScores> {
        Vec::new()
    }

    /// Losses of four items.
    fn losses(values: [f64; 4], first_item: usize) -> TaskScores {
        let items: Vec<String> = (first_item..first_item + 4).map(|i| format!("text/{i}")).collect();
        let losses = json!({"measure": "nats_per_token", "numerators": values, "denominators": [1.0, 1.0, 1.0, 1.0]});
        let scores = json!({"task": "text", "items": items, "measures": [losses], "n_tokens": 4, "seconds": 0.0});
        serde_json::from_value(scores).unwrap()
    }

    #[test]
    fn the_noise_of_items_is_paired_where_both_runs_have_the_same() {
        let runs = [run("a", &[(100, 2.0, 0.003, None)]), run("b", &[(100, 2.1, 0.004, None)])];
        let (a, b) = ([1.0, 1.5, 2.0, 3.5], [1.2, 1.5, 2.1, 3.6]);
        let compare = |first_item: usize| {
            let items_of = |name: &str, end_step: u64| {
                assert_eq!(end_step, 100);
                vec![if name == "a" { losses(a, 0) } else { losses(b, first_item) }]
            };
            compare_runs(&runs, &items_of).remove(0).runs.remove(1)
        };
        let half_of = |run: &ComparedRun| {
            let [low, high] = run.gain_over_best.unwrap().interval_95.unwrap();
            (high - low) / 2.0
        };
        // Differences of 0.2, 0, 0.1 and 0.1: a standard error of sqrt(0.02 / 3 / 4). The half widths give 0.005.
        let paired = compare(0);
        let noise = NORMAL_QUANTILE * (0.02f64 / 12.0).sqrt();
        assert!((half_of(&paired) - noise.hypot(0.005)).abs() < 1e-12, "{paired:?}");
        assert_eq!((paired.n_paired_items, paired.verdict), (Some(4), "worse"));
        // Other items: variances of 3.5 / 3 / 4 and 3.42 / 3 / 4, which hide the difference.
        let unpaired = compare(7);
        let noise = NORMAL_QUANTILE * ((3.5f64 + 3.42) / 12.0).sqrt();
        assert!((half_of(&unpaired) - noise.hypot(0.005)).abs() < 1e-12, "{unpaired:?}");
        assert_eq!((unpaired.n_paired_items, unpaired.verdict), (None, "cannot be told apart"));
    }

    fn verdicts(found: &[RunComparison]) -> Vec<(u64, Vec<(&str, &str)>)> {
        found.iter().map(|one| (one.at, one.runs.iter().map(|run| (&*run.name, run.verdict)).collect())).collect()
    }

    #[test]
    fn runs_are_compared_at_the_tokens_that_they_share_and_not_at_their_steps() {
        // The second run has batches twice as large.
        let a = run("a", &[(1000, 2.0, 0.03, Some(1000)), (2000, 1.8, 0.03, Some(2000))]);
        let b = run("b", &[(500, 2.1, 0.04, Some(1000)), (1000, 1.9, 0.04, Some(2000)), (1500, 1.7, 0.04, Some(3000))]);
        let found = compare_runs(&[b, a], &no_items);
        assert_eq!(verdicts(&found), [(2000, vec![("a", "best"), ("b", "worse")])]);
        let gain = found[0].runs[1].gain_over_best.unwrap();
        let [low, high] = gain.interval_95.unwrap();
        assert!((gain.value + 0.1).abs() < 1e-12, "{gain:?}");
        // Half widths of 0.03 and 0.04 give 0.05.
        assert!((low + 0.15).abs() < 1e-12 && (high + 0.05).abs() < 1e-12, "{gain:?}");
    }

    #[test]
    fn what_noise_may_explain_cannot_be_told_apart() {
        let runs = [
            run("a", &[(100, 2.0, 0.03, None)]),
            run("b", &[(100, 1.96, 0.04, None)]),
            run("c", &[(100, 2.5, 0.01, None)]),
        ];
        let expected = vec![("b", "best"), ("a", "cannot be told apart"), ("c", "worse")];
        assert_eq!(verdicts(&compare_runs(&runs, &no_items)), [(100, expected)]);
        assert_eq!(compare_runs(&runs, &no_items)[0].unit, "steps");
    }

    #[test]
    fn other_anneals_other_places_and_single_runs_are_not_compared() {
        let one = run("a", &[(100, 2.0, 0.03, None)]);
        assert!(compare_runs(std::slice::from_ref(&one), &no_items).is_empty());
        assert!(compare_runs(&[one.clone(), run("b", &[(150, 2.0, 0.03, None)])], &no_items).is_empty());
        let mut longer = run("b", &[(100, 2.0, 0.03, None)]);
        longer.forecasts[0].0.anneal_steps = 30;
        assert!(compare_runs(&[one.clone(), longer], &no_items).is_empty());
        let mut cosine = run("b", &[(100, 2.0, 0.03, None)]);
        cosine.forecasts[0].0.curve = "cosine".to_owned();
        assert!(compare_runs(&[one.clone(), cosine], &no_items).is_empty());
        let mut accuracy = [one.clone(), run("b", &[(100, 2.5, 0.03, None)])];
        accuracy.iter_mut().for_each(|run| run.forecasts[0].0.higher_is_better = true);
        assert_eq!(verdicts(&compare_runs(&accuracy, &no_items)), [(100, vec![("b", "best"), ("a", "worse")])]);
    }
}
