//! Windows become plans: the place where what `trajectory` knows meets what `merge` wants.

use thalweg_merge::plan::{OutputPlan, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_trajectory::TrajectoryCheckpoint;

use crate::Error;

/// A checkpoint of a run as a source of a plan.
pub fn source_ref(checkpoint: &TrajectoryCheckpoint) -> SourceRef {
    SourceRef {
        path: checkpoint.path.clone(),
        step: Some(checkpoint.step.0),
        tokens: checkpoint.tokens.map(|tokens| tokens.0),
    }
}

/// The merge of a window by a scheme, oldest first. `name` serves as a path that is not written to.
///
/// # Errors
/// `Scheme` where the scheme takes no window of this length.
pub(crate) fn window_output(name: &str, window: &[TrajectoryCheckpoint], scheme: &Scheme) -> Result<OutputPlan, Error> {
    let steps: Vec<Option<u64>> = window.iter().map(|one| Some(one.step.0)).collect();
    let coefficients = scheme.coefficients_for(&steps)?;
    let sources: Vec<SourceRef> = window.iter().map(source_ref).collect();
    Ok(OutputPlan::new(name, scheme.to_string(), &sources, &coefficients))
}

/// The distance between neighbours, where all are equally far apart.
pub(crate) fn even_interval(steps: &[u64]) -> Option<u64> {
    let mut intervals = steps.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    let first = intervals.next()?;
    intervals.all(|interval| interval == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use thalweg_merge::Coefficients;
    use thalweg_merge::scheme::SchemeParameters;
    use thalweg_trajectory::{CheckpointState, Step};

    use super::*;

    #[test]
    fn a_window_of_uneven_steps_is_weighed_by_its_steps() {
        let checkpoint = |step: u64| TrajectoryCheckpoint {
            path: format!("run/step{step}").into(),
            name: format!("step{step}"),
            step: Step(step),
            tokens: None,
            tokens_source: None,
            tokens_unit: 0,
            phase: None,
            format: None,
            stage: None,
            epoch: None,
            state: CheckpointState::Finished,
            doubts: Vec::new(),
        };
        let scheme = Scheme::parse("decay:linear", SchemeParameters::default()).unwrap();
        let output = window_output("w", &[2000, 4000, 10_000].map(checkpoint), &scheme).unwrap();
        assert_eq!(output.coefficients().unwrap(), Coefficients::new([1, 3, 2], 6).unwrap());
        assert_eq!((output.sum.as_str(), output.policy.newest), ("1", 2));
    }
}
