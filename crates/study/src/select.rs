//! Windows become plans: the place where what `trajectory` knows meets what `merge` wants.

use thalweg_merge::plan::{OutputPlan, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_trajectory::TrajectoryCheckpoint;

use crate::Error;

/// A checkpoint of a run as plans know it.
pub fn source_ref(checkpoint: &TrajectoryCheckpoint) -> SourceRef {
    SourceRef {
        path: checkpoint.path.clone(),
        step: Some(checkpoint.step.0),
        tokens: checkpoint.tokens.map(|tokens| tokens.0),
    }
}

/// The merge of a window by a scheme, oldest first. `name` stands for a path that is not written to.
///
/// # Errors
/// `Scheme` where the scheme takes no window of this length.
pub fn window_output(name: &str, window: &[TrajectoryCheckpoint], scheme: &Scheme) -> Result<OutputPlan, Error> {
    let steps: Vec<Option<u64>> = window.iter().map(|one| Some(one.step.0)).collect();
    let coefficients = scheme.coefficients_for(&steps)?;
    let sources: Vec<SourceRef> = window.iter().map(source_ref).collect();
    Ok(OutputPlan::new(name, scheme.to_string(), &sources, &coefficients))
}
