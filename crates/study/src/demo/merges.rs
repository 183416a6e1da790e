//! Windows of the run as one plan, executed straight into models in memory: each checkpoint is read once, no file is written.

use std::path::PathBuf;

use serde_json::Value;
use thalweg_lab::run_folder::checkpoint_name;
use thalweg_merge::context::RunContext;
use thalweg_merge::in_memory::merge_into_sinks;
use thalweg_merge::plan::{DigestChoice, MergePlan, MergePolicy, OutputDtype, OutputPlan, PlanSource};
use thalweg_model::{Model, ModelConfig, arena_sink};
use thalweg_tensor::TensorSink;

use super::spec::{DemoMerge, DemoSpec};
use crate::Error;
use crate::report::{MergeOf, MergeSource};

/// A merge in memory, and how it was made.
pub(crate) struct Merged {
    pub(crate) merge: DemoMerge,
    pub(crate) model: Model,
    pub(crate) record: MergeOf,
}

/// The models' `config.json`.
pub(crate) fn model_config(spec: &DemoSpec, run: &RunContext<'_>) -> Result<Value, Error> {
    let path = spec.path("run").join(checkpoint_name(spec.numbers().last_step));
    Ok(run.pool.open(&path)?.config().cloned().unwrap_or_default())
}

/// Makes all of `merges` in one reading.
pub(crate) fn merge_all(
    spec: &DemoSpec,
    config: &Value,
    merges: &[DemoMerge],
    run: &RunContext<'_>,
) -> Result<Vec<Merged>, Error> {
    if merges.is_empty() {
        return Ok(Vec::new());
    }
    let config = ModelConfig::from_json(config)?;
    let layout = config.layout();
    let outputs = merges.iter().map(|merge| output_plan(spec, merge)).collect::<Result<Vec<_>, Error>>()?;
    let mut arenas: Vec<Vec<f32>> = merges.iter().map(|_| vec![0.0; layout.n_params()]).collect();
    let plan = MergePlan::new(outputs)?;
    {
        let sinks: Vec<_> = arenas.iter_mut().map(|arena| arena_sink(&layout, arena)).collect();
        let refs: Vec<&dyn TensorSink> = sinks.iter().map(|sink| sink as &dyn TensorSink).collect();
        merge_into_sinks(&plan, &refs, run)?;
    }
    let made = merges.iter().zip(arenas).zip(&plan.outputs);
    made.map(|((merge, arena), output)| {
        let sources = output
            .sources
            .iter()
            .map(|source| MergeSource { step: source.step.unwrap_or(0), coefficient: source.coefficient });
        let record = MergeOf {
            scheme: merge.scheme.to_string(),
            interval_steps: spec.numbers().every_steps,
            sources: sources.collect(),
            plan_digest: Some(output.digest()?),
        };
        Ok(Merged { merge: merge.clone(), model: Model::from_params(config.clone(), arena)?, record })
    })
    .collect()
}

fn output_plan(spec: &DemoSpec, merge: &DemoMerge) -> Result<OutputPlan, Error> {
    let coefficients = merge.scheme.coefficients(merge.n)?;
    let (numerators, divisor) = coefficients.to_decimal_strings();
    let steps = merge.steps(spec.numbers().every_steps);
    let sources = steps.into_iter().zip(numerators).zip(coefficients.as_f64());
    let sources = sources.map(|((step, numerator), coefficient)| PlanSource {
        path: spec.path("run").join(checkpoint_name(step)),
        step: Some(step),
        tokens: None,
        numerator,
        coefficient,
    });
    Ok(OutputPlan {
        // Nothing is written: the path only tells the outputs of a plan apart.
        path: PathBuf::from(merge.name()),
        scheme: merge.scheme.to_string(),
        dtype: OutputDtype::F32,
        divisor,
        sources: sources.collect(),
        policy: MergePolicy { model_card: false, ..MergePolicy::defaults(merge.n - 1) },
        out_shard_bytes: 5_000_000_000,
        digest: DigestChoice::None,
    })
}
