//! The results of two models, compared item by item where both say what each item scored.

use std::collections::BTreeMap;

use serde::Serialize;

use super::items::{TaskItems, sums};
use super::results::ExternalResults;
use super::score::{ExternalScore, unpaired_gain};
use crate::uncertainty::{Difference, holm_adjusted, paired_difference};

/// Chance of finding a difference, for which the smallest one is stated.
pub const POWER: f64 = 0.8;
/// A p-value below it tells two results apart.
const SIGNIFICANCE: f64 = 0.05;
/// Degrees of freedom of a difference whose standard errors are given: as good as normal.
const MANY_DEGREES: f64 = 1e6;

/// What a comparison of two results rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// The same items on both sides. This many were on one side only and are left out.
    ByItem {
        /// Items of one side only.
        n_left_out: usize,
    },
    /// The two scores alone, taken as independent.
    Unpaired,
}

/// Whether one model is better than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Better, beyond noise.
    Better,
    /// Worse, beyond noise.
    Worse,
    /// Neither.
    CannotBeToldApart,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::CannotBeToldApart => "cannot be told apart",
        })
    }
}

/// The gain of one model over another on one score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExternalComparison {
    /// As in [`ExternalScore::task`].
    pub task: String,
    /// What it is based on.
    #[serde(skip)]
    pub pairing: Pairing,
    /// Of b over a; positive is better, whatever the direction of the score.
    pub gain: f64,
    /// Standard error of the gain, if known.
    pub standard_error: Option<f64>,
    /// 95 % interval by Student's t; by the normal distribution where items are not paired.
    pub interval_95: Option<[f64; 2]>,
    /// The smallest difference that such a comparison finds with probability [`POWER`].
    pub smallest_difference: Option<f64>,
    /// Items that were compared, if known.
    pub n: Option<u64>,
    /// Two-sided.
    pub p_value: Option<f64>,
    /// The same after Holm's adjustment; see [`adjust_results`].
    pub p_holm: Option<f64>,
}

impl ExternalComparison {
    fn new(task: &str, pairing: Pairing, gain: f64, n: Option<u64>, difference: Option<Difference>) -> Self {
        Self {
            task: task.to_owned(),
            pairing,
            gain,
            n,
            standard_error: difference.map(|difference| difference.standard_error),
            interval_95: difference.map(|difference| difference.t_interval(0.95)),
            smallest_difference: difference.and_then(|difference| difference.smallest_found(POWER)),
            p_value: difference.map(|difference| difference.p_value()),
            p_holm: None,
        }
    }

    /// Whether b is better than a; `None` without an uncertainty.
    pub fn verdict(&self) -> Option<Verdict> {
        let p = self.p_holm.or(self.p_value)?;
        Some(match p < SIGNIFICANCE {
            true if self.gain > 0.0 => Verdict::Better,
            true => Verdict::Worse,
            false => Verdict::CannotBeToldApart,
        })
    }
}

/// Compares `b` with `a` on every score that both have: item by item where both have at least two of the same items.
pub fn compare_results(a: &ExternalResults, b: &ExternalResults) -> Vec<ExternalComparison> {
    let of_a: BTreeMap<&str, &ExternalScore> = a.scores.iter().map(|score| (score.task.as_str(), score)).collect();
    let both = b.scores.iter().filter_map(|score| Some((*of_a.get(score.task.as_str())?, score)));
    let compare = |(of_a, of_b): (&ExternalScore, &ExternalScore)| {
        let items = a.items.get(&of_a.task).zip(b.items.get(&of_b.task));
        items.and_then(|(a, b)| by_item(a, b, of_b)).unwrap_or_else(|| unpaired(of_a, of_b))
    };
    both.map(compare).collect()
}

fn by_item(a: &TaskItems, b: &TaskItems, score: &ExternalScore) -> Option<ExternalComparison> {
    let (of_a, of_b) = (a.columns(|name| b.values.contains_key(name)), b.columns(|name| a.values.contains_key(name)));
    let difference = paired_difference(&sums(&of_a, a.is_exponential), &sums(&of_b, b.is_exponential))?;
    let n_common = of_a.0.len();
    let sign = if score.higher_is_better { 1.0 } else { -1.0 };
    let difference = Difference { value: sign * difference.value, ..difference };
    let pairing = Pairing::ByItem { n_left_out: a.values.len() + b.values.len() - 2 * n_common };
    Some(ExternalComparison::new(&score.task, pairing, difference.value, Some(n_common as u64), Some(difference)))
}

fn unpaired(a: &ExternalScore, b: &ExternalScore) -> ExternalComparison {
    let (value, _) = unpaired_gain(a, b);
    let standard_error = a.standard_error.zip(b.standard_error).map(|(a, b)| a.hypot(b));
    let difference = standard_error.map(|standard_error| Difference { value, standard_error, degrees: MANY_DEGREES });
    ExternalComparison::new(&b.task, Pairing::Unpaired, value, b.n, difference)
}

/// Fills in `p_holm` of everything that was looked at together: every score and every model.
pub fn adjust_results(comparisons: &mut [&mut ExternalComparison]) {
    let mut tested: Vec<_> = comparisons.iter_mut().filter(|comparison| comparison.p_value.is_some()).collect();
    let p_values: Vec<f64> = tested.iter().filter_map(|comparison| comparison.p_value).collect();
    for (comparison, p_holm) in tested.iter_mut().zip(holm_adjusted(&p_values)) {
        comparison.p_holm = Some(p_holm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::results::attach;

    fn results(task: &str, values: &[(&str, f64)]) -> ExternalResults {
        let mut items = TaskItems::default();
        values.iter().for_each(|(name, value)| items.add(name, [*value, 1.0]));
        let mut results = ExternalResults::default();
        attach(&mut results, BTreeMap::from([(task.to_owned(), items)]));
        results
    }

    #[test]
    fn items_are_paired_by_their_names_whatever_their_order() {
        let a = results("t/acc", &[("x", 0.0), ("y", 1.0), ("z", 0.0), ("only-a", 1.0)]);
        let b = results("t/acc", &[("z", 1.0), ("y", 1.0), ("x", 0.0)]);
        let [found] = &compare_results(&a, &b)[..] else { panic!() };
        assert_eq!((found.pairing, found.n), (Pairing::ByItem { n_left_out: 1 }, Some(3)));
        // Differences 0, 0, 1: mean 1/3, standard deviation sqrt(1/3), so the error is 1/3.
        assert!((found.gain - 1.0 / 3.0).abs() < 1e-12 && (found.standard_error.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        // t(0.975, 2) = 4.302653, t(0.8, 2) = 1.060660.
        assert!((found.smallest_difference.unwrap() - 5.363_313 / 3.0).abs() < 1e-5);
        assert_eq!(found.verdict(), Some(Verdict::CannotBeToldApart));
        assert_eq!(found.verdict().unwrap().to_string(), "cannot be told apart");
    }

    #[test]
    fn a_small_gain_on_every_item_is_told_apart_and_lower_can_be_better() {
        let names: Vec<String> = (0..40).map(|i| format!("{i}")).collect();
        let loss = |shift: f64| -> Vec<(&str, f64)> {
            let noise = |i: usize| if i.is_multiple_of(2) { 0.01 } else { 0.0 };
            names
                .iter()
                .enumerate()
                .map(|(i, name)| (name.as_str(), 3.0 + (i * i % 17) as f64 - shift * (1.0 + noise(i))))
                .collect()
        };
        let (a, b) = (results("t/nll", &loss(0.0)), results("t/nll", &loss(0.05)));
        let [found] = &compare_results(&a, &b)[..] else { panic!() };
        assert!(found.gain > 0.05 && found.verdict() == Some(Verdict::Better), "{found:?}");
        let [found] = &compare_results(&b, &a)[..] else { panic!() };
        assert_eq!(found.verdict(), Some(Verdict::Worse));
        // The same scores without their items are far from it.
        let alone = |results: &ExternalResults| ExternalResults { items: BTreeMap::new(), ..results.clone() };
        let [found] = &compare_results(&alone(&a), &alone(&b))[..] else { panic!() };
        assert_eq!((found.pairing, found.verdict()), (Pairing::Unpaired, Some(Verdict::CannotBeToldApart)));
    }

    #[test]
    fn many_comparisons_are_adjusted_together() {
        let found = |p| ExternalComparison {
            p_value: p,
            gain: 1.0,
            ..compare_results(&results("t/acc", &[("x", 1.0)]), &results("t/acc", &[("x", 1.0)])).remove(0)
        };
        let mut all = [found(Some(0.01)), found(Some(0.04)), found(None), found(Some(0.03))];
        adjust_results(&mut all.iter_mut().collect::<Vec<_>>());
        assert_eq!(all.each_ref().map(|one| one.p_holm), [Some(0.03), Some(0.06), None, Some(0.06)]);
        assert_eq!(all[0].verdict(), Some(Verdict::Better));
        assert_eq!((all[1].verdict(), all[2].verdict()), (Some(Verdict::CannotBeToldApart), None));
    }

    #[test]
    fn a_score_that_its_items_do_not_give_is_compared_without_them() {
        let mut f1 = TaskItems::default();
        f1.add("x", [1.0, 1.0]);
        f1.add("x", [0.0, 1.0]);
        assert_eq!(f1.values.keys().collect::<Vec<_>>(), ["x", "x#2"]);
        let score =
            ExternalScore { task: "t/f1".into(), value: 0.7, standard_error: None, n: None, higher_is_better: true };
        let mut results = ExternalResults { scores: vec![score], ..ExternalResults::default() };
        attach(&mut results, BTreeMap::from([("t/f1".to_owned(), f1)]));
        assert!(results.items.is_empty());
        assert_eq!(results.notes, ["`t/f1` is 0.7, and its items give 0.5: it is compared without them"]);
    }
}
