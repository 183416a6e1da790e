//! Is B better than A, and by how much beyond noise? Paired by item, with positive gains for what is better.

use serde::Serialize;
use thalweg_tensor::counted;

use crate::Error;
use crate::measure::Measure;
use crate::record::{TaskScores, measure_name};
use crate::uncertainty::{
    Bootstrap, Difference, bootstrap_interval, holm_adjusted, mean_difference, paired_difference,
};

/// How sure the intervals are.
const LEVEL: f64 = 0.95;

/// What a comparison is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The items of one task.
    Task,
    /// The plain mean over all tasks with this measure, each task counting the same; tasks are taken as independent.
    Pooled,
}

/// Gain of one checkpoint over another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The task; `None` where tasks are pooled.
    pub task: Option<String>,
    /// What was measured.
    #[serde(serialize_with = "measure_name::serialize")]
    pub measure: Measure,
    /// Whether it is about one task.
    #[serde(skip)]
    pub scope: Scope,
    /// Of b over a; positive is better, whatever the direction of the measure.
    pub gain: f64,
    /// Standard error of the gain; `None` with fewer than two items.
    pub standard_error: Option<f64>,
    /// 95 % interval by Student's t.
    pub interval_95: Option<[f64; 2]>,
    /// 95 % percentile interval by the bootstrap over items; `None` where tasks are pooled.
    pub bootstrap_95: Option<[f64; 2]>,
    /// Items; where tasks are pooled, tasks.
    pub n: usize,
    /// Two-sided, by Student's t.
    pub p_value: Option<f64>,
    /// The same after Holm's adjustment for all comparisons of single tasks; see [`adjust_for_many`].
    pub p_holm: Option<f64>,
}

/// Compares `b` with `a` on every task and measure, then over the tasks of each measure that several tasks have.
///
/// A measure whose denominators differ is left out: another tokenizer cut the text into other tokens, and nats for each
/// of them mean something else.
///
/// # Errors
/// `NotPaired` where tasks, measures or items differ.
pub fn compare_scores(a: &[TaskScores], b: &[TaskScores], bootstrap: Bootstrap) -> Result<Vec<Comparison>, Error> {
    let mut comparisons = Vec::new();
    let mut by_measure: Vec<(Measure, Vec<Difference>)> = Vec::new();
    check_same_tasks(a, b)?;
    for (a, b) in a.iter().zip(b) {
        for (values_a, values_b) in a.measures.iter().zip(&b.measures) {
            let measure = values_a.measure;
            if values_a.denominators != values_b.denominators {
                continue;
            }
            let (sums_a, sums_b) = (values_a.sums(), values_b.sums());
            let difference = paired_difference(&sums_a, &sums_b).map(|difference| towards_better(measure, difference));
            let raw = sums_b.value() - sums_a.value();
            let mut drawn = difference.map(|_| bootstrap_interval(&sums_a, &sums_b, LEVEL, bootstrap));
            if !measure.higher_is_better() {
                drawn = drawn.map(|[low, high]| [0.0 - high, 0.0 - low]);
            }
            comparisons.push(Comparison {
                task: Some(a.task.clone()),
                measure,
                scope: Scope::Task,
                gain: if measure.higher_is_better() { raw } else { 0.0 - raw },
                standard_error: difference.map(|difference| difference.standard_error),
                interval_95: difference.map(|difference| difference.t_interval(LEVEL)),
                bootstrap_95: drawn,
                n: a.items.len(),
                p_value: difference.map(|difference| difference.p_value()),
                p_holm: None,
            });
            let Some(difference) = difference else { continue };
            match by_measure.iter_mut().find(|(known, _)| *known == measure) {
                Some((_, differences)) => differences.push(difference),
                None => by_measure.push((measure, vec![difference])),
            }
        }
    }
    comparisons.extend(by_measure.iter().filter_map(|(measure, differences)| pooled(*measure, differences)));
    Ok(comparisons)
}

fn pooled(measure: Measure, differences: &[Difference]) -> Option<Comparison> {
    let mean = mean_difference(differences).filter(|_| differences.len() > 1)?;
    Some(Comparison {
        task: None,
        measure,
        scope: Scope::Pooled,
        gain: mean.value,
        standard_error: Some(mean.standard_error),
        interval_95: Some(mean.t_interval(LEVEL)),
        bootstrap_95: None,
        n: differences.len(),
        p_value: Some(mean.p_value()),
        p_holm: None,
    })
}

fn towards_better(measure: Measure, difference: Difference) -> Difference {
    let value = if measure.higher_is_better() { difference.value } else { 0.0 - difference.value };
    Difference { value, ..difference }
}

fn check_same_tasks(a: &[TaskScores], b: &[TaskScores]) -> Result<(), Error> {
    let not_paired = |task: &str, what: String| Error::NotPaired { task: task.to_owned(), what };
    if a.len() != b.len() {
        return Err(not_paired("*", format!("{} on one side, {} on the other", counted(a.len(), "task"), b.len())));
    }
    for (a, b) in a.iter().zip(b) {
        if a.task != b.task {
            return Err(not_paired(&a.task, format!("the other side has `{}` instead", b.task)));
        }
        if let Some(at) = (0..a.items.len().max(b.items.len())).find(|&at| a.items.get(at) != b.items.get(at)) {
            let name = |items: &[String]| items.get(at).map_or_else(|| "nothing".to_owned(), |id| format!("`{id}`"));
            return Err(not_paired(&a.task, format!("item {at} is {} and {}", name(&a.items), name(&b.items))));
        }
        let measures = |scores: &TaskScores| scores.measures.iter().map(|values| values.measure).collect::<Vec<_>>();
        if measures(a) != measures(b) {
            return Err(not_paired(&a.task, "the measures differ".to_owned()));
        }
    }
    Ok(())
}

/// Fills in `p_holm` of everything that was looked at together: every task, measure and pair of checkpoints, without
/// the pooled means.
pub fn adjust_for_many(comparisons: &mut [&mut Comparison]) {
    let mut tested: Vec<&mut &mut Comparison> = comparisons
        .iter_mut()
        .filter(|comparison| comparison.scope == Scope::Task && comparison.p_value.is_some())
        .collect();
    let p_values: Vec<f64> = tested.iter().filter_map(|comparison| comparison.p_value).collect();
    for (comparison, p_holm) in tested.iter_mut().zip(holm_adjusted(&p_values)) {
        comparison.p_holm = Some(p_holm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MeasureScores;

    fn scores(task: &str, measure: Measure, numerators: &[f64], denominators: &[f64]) -> TaskScores {
        TaskScores {
            task: task.to_owned(),
            items: (0..numerators.len()).map(|i| format!("{task}/{i}")).collect(),
            measures: vec![MeasureScores {
                measure,
                numerators: numerators.to_vec(),
                denominators: denominators.to_vec(),
            }],
            n_tokens: 0,
            seconds: 0.0,
            is_cached: false,
        }
    }

    #[test]
    fn gains_are_positive_for_what_is_better_in_either_direction() {
        let a = scores("t", Measure::BitsPerByte, &[20.0, 40.0, 66.0], &[10.0, 20.0, 30.0]);
        let b = scores("t", Measure::BitsPerByte, &[19.0, 39.0, 62.0], &[10.0, 20.0, 30.0]);
        let [gain] = &compare_scores(&[a], &[b], Bootstrap::default()).unwrap()[..] else { panic!() };
        // 126/60 - 120/60; differences -1, -1, -4 against ratio -0.1 with D 10, 20, 30: psi = (0, 1, -1)/20.
        assert!((gain.gain - 0.1).abs() < 1e-12);
        assert!((gain.standard_error.unwrap() - (1.0_f64 / 3.0).sqrt() / 20.0).abs() < 1e-12);
        let [low, high] = gain.bootstrap_95.unwrap();
        assert!(0.0 < low && low <= gain.gain && gain.gain <= high, "{low} {high}");
        let acc = |values: &[f64]| scores("t", Measure::Acc, values, &[1.0; 4]);
        let [gain] =
            &compare_scores(&[acc(&[0.0, 0.0, 1.0, 1.0])], &[acc(&[0.0, 1.0, 1.0, 1.0])], Bootstrap::default())
                .unwrap()[..]
        else {
            panic!()
        };
        assert!((gain.gain - 0.25).abs() < 1e-12);
    }

    #[test]
    fn only_tasks_of_one_measure_are_pooled() {
        let bits = |task: &str, shift: f64| scores(task, Measure::BitsPerByte, &[2.0 - shift, 3.0, 4.0], &[1.0; 3]);
        let acc = scores("acc", Measure::Acc, &[0.0, 1.0, 1.0], &[1.0; 3]);
        let a = [bits("x", 0.0), bits("y", 0.0), acc.clone()];
        let b = [bits("x", 0.3), bits("y", 0.6), acc];
        let comparisons = compare_scores(&a, &b, Bootstrap::default()).unwrap();
        assert_eq!(comparisons.len(), 4);
        let pooled = &comparisons[3];
        assert_eq!((pooled.task.as_deref(), pooled.measure, pooled.n), (None, Measure::BitsPerByte, 2));
        assert!((pooled.gain - 0.15).abs() < 1e-12);
        // SE of x is 0.1 and of y 0.2; of their mean sqrt(0.05) / 2.
        assert!((pooled.standard_error.unwrap() - 0.05_f64.sqrt() / 2.0).abs() < 1e-12);
    }

    #[test]
    fn other_items_are_refused_by_name() {
        let a = scores("t", Measure::Acc, &[0.0, 1.0], &[1.0; 2]);
        let mut b = a.clone();
        b.items[1] = "t/other".to_owned();
        let error = compare_scores(std::slice::from_ref(&a), &[b], Bootstrap::default()).unwrap_err();
        assert_eq!(error.to_string(), "task `t` cannot be compared by items: item 1 is `t/1` and `t/other`");
        assert!(compare_scores(&[a], &[], Bootstrap::default()).is_err());
    }

    #[test]
    fn one_item_has_a_gain_and_no_interval() {
        let (a, b) =
            (scores("t", Measure::BitsPerByte, &[2.0], &[1.0]), scores("t", Measure::BitsPerByte, &[1.5], &[1.0]));
        let [gain] = &compare_scores(&[a], &[b], Bootstrap::default()).unwrap()[..] else { panic!() };
        assert_eq!((gain.gain, gain.interval_95, gain.p_value), (0.5, None, None));
    }
}
