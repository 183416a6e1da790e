//! Windows become plans: the place where what `trajectory` knows meets what `merge` wants.

use std::path::PathBuf;

use thalweg_checkpoint::ReadOptions;
use thalweg_merge::plan::{DigestChoice, MergePolicy, OutputDtype, OutputPlan, PlanSource};
use thalweg_merge::scheme::Scheme;
use thalweg_trajectory::TrajectoryCheckpoint;

use crate::Error;

/// The merge of a window by a scheme, oldest first. `name` stands for a path that is not written to.
///
/// # Errors
/// `Scheme` where the scheme takes no window of this length.
pub fn window_output(name: &str, window: &[TrajectoryCheckpoint], scheme: &Scheme) -> Result<OutputPlan, Error> {
    let steps: Vec<u64> = window.iter().map(|one| one.step.0).collect();
    let coefficients = match scheme {
        Scheme::PowerEma { .. } => scheme.coefficients_at(&steps)?,
        _ => scheme.coefficients(window.len())?,
    };
    let (numerators, divisor) = coefficients.to_decimal_strings();
    let sources = window.iter().zip(numerators).zip(coefficients.as_f64());
    let sources = sources.map(|((one, numerator), coefficient)| PlanSource {
        path: one.path.clone(),
        step: Some(one.step.0),
        tokens: one.tokens.map(|tokens| tokens.0),
        numerator,
        coefficient,
    });
    Ok(OutputPlan {
        path: PathBuf::from(name),
        scheme: scheme.to_string(),
        dtype: OutputDtype::Same,
        divisor,
        sources: sources.collect(),
        reading: ReadOptions::default(),
        policy: MergePolicy::defaults(window.len().saturating_sub(1)),
        out_shard_bytes: 5_000_000_000,
        digest: DigestChoice::Blake3,
    })
}
