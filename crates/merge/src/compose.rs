//! Sums of sums: a combination of merges, each of which is a weighted sum, as one merge of their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use num_rational::BigRational;
use num_traits::Zero;
use thalweg_tensor::counted;

use crate::plan::{MergePolicy, OutputPlan, SourceRef};
use crate::{Coefficients, Error, Ratio};

/// The merge that is the sum of `points`, each times its coefficient.
///
/// It has every source with its exact coefficient, in the order in which the points name them, without those whose
/// coefficient is zero.
///
/// Reading and policies are those of the first point.
///
/// # Errors
/// `PlanInvalid` unless there is one coefficient for each point, for a point that is merged by a rule, and where
/// nothing is left.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, compose::compose_outputs, plan::{OutputPlan, SourceRef}};
///
/// let half = Coefficients::new([1, 1], 2)?;
/// let source = |step| SourceRef { path: format!("step-{step}").into(), step: Some(step), tokens: None };
/// let means = [[1, 2], [3, 4]].map(|steps| OutputPlan::new("mean", "sma", &steps.map(source), &half));
/// let line = compose_outputs("line".as_ref(), "custom", &means, &Coefficients::new([-1, 3], 2)?)?;
/// assert_eq!(line.coefficients()?, Coefficients::new([-1, -1, 3, 3], 4)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compose_outputs(
    path: &Path,
    scheme: &str,
    points: &[OutputPlan],
    coefficients: &Coefficients,
) -> Result<OutputPlan, Error> {
    let refuse = |what: String| Error::PlanInvalid { what };
    let (n_points, n_coefficients) = (points.len(), coefficients.n_checkpoints());
    if n_points != n_coefficients {
        return Err(refuse(format!("{} for {}", counted(n_coefficients, "coefficient"), counted(n_points, "point"))));
    }
    if points.iter().any(|point| point.rule.is_some()) {
        return Err(refuse("a combination is made of weighted sums, and a point is merged by a rule".to_owned()));
    }
    let mut sums: Vec<(SourceRef, BigRational)> = Vec::new();
    let mut places: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (point, factor) in points.iter().zip(coefficients.ratios()) {
        for (source, own) in point.sources.iter().zip(point.coefficients()?.ratios()) {
            let place = *places.entry(source.path.clone()).or_insert_with(|| {
                sums.push((source.source(), BigRational::zero()));
                sums.len() - 1
            });
            sums[place].1 += factor.as_rational() * own.as_rational();
        }
    }
    sums.retain(|(_, sum)| !sum.is_zero());
    let kept_sums: BTreeSet<PathBuf> = points
        .iter()
        .flat_map(|point| &point.sources)
        .filter(|source| source.is_sum)
        .map(|source| source.path.clone())
        .collect();
    let (sources, sums): (Vec<SourceRef>, Vec<Ratio>) =
        sums.into_iter().map(|(source, sum)| (source, Ratio::from(sum))).unzip();
    let exact = Coefficients::from_ratios(&sums).map_err(|error| refuse(error.to_string()))?;
    let mut output = OutputPlan::new(path, scheme, &sources, &exact);
    output.sources.iter_mut().for_each(|source| source.is_sum = kept_sums.contains(&source.path));
    let Some(first) = points.first() else { return Ok(output) };
    let newest = output.policy.newest;
    let policy = MergePolicy { newest, side_files_from: newest, ..first.policy.clone() };
    Ok(OutputPlan {
        dtype: first.dtype,
        reading: first.reading.clone(),
        digest: first.digest,
        out_shard_bytes: first.out_shard_bytes,
        policy,
        ..output
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(steps: &[u64], numerators: &[i64], divisor: i64) -> OutputPlan {
        let source = |step: &u64| SourceRef { path: format!("step-{step}").into(), step: Some(*step), tokens: None };
        let sources: Vec<SourceRef> = steps.iter().map(source).collect();
        OutputPlan::new("point", "custom", &sources, &Coefficients::new(numerators.to_vec(), divisor).unwrap())
    }

    fn compose(points: &[OutputPlan], numerators: &[i64], divisor: i64) -> Result<OutputPlan, Error> {
        let coefficients = Coefficients::new(numerators.to_vec(), divisor).unwrap();
        compose_outputs(Path::new("out"), "custom", points, &coefficients)
    }

    #[test]
    fn shared_sources_add_up_exactly_and_zeros_are_left_out() {
        let points = [point(&[1, 2, 3], &[1, 1, 1], 3), point(&[3, 4], &[1, 3], 4)];
        let sum = compose(&points, &[1, 2], 3).unwrap();
        // 1/9, 1/9, 1/9 + 2/12, 2 * 3/12.
        assert_eq!(sum.coefficients().unwrap(), Coefficients::new([2, 2, 5, 9], 18).unwrap());
        assert_eq!((sum.sum.as_str(), sum.policy.newest, sum.sources[3].step), ("1", 3, Some(4)));
        let gone = compose(&[point(&[1, 2], &[1, 1], 2), point(&[2, 3], &[1, 1], 2)], &[1, -1], 1).unwrap();
        let steps: Vec<_> = gone.sources.iter().map(|source| source.step).collect();
        assert_eq!(steps, [Some(1), Some(3)]);
    }

    #[test]
    fn a_combination_that_is_nothing_or_does_not_fit_is_refused() {
        let one = point(&[1], &[1], 1);
        assert!(compose(&[one.clone(), one.clone()], &[1, -1], 1).is_err());
        assert!(compose(&[one], &[1, 1], 2).unwrap_err().to_string().contains("2 coefficients for 1 point"));
    }
}
