//! Windows of the run as one plan, executed straight into models in memory: each checkpoint is read once, no file is written.

use serde_json::Value;
use thalweg_checkpoint::ReadOptions;
use thalweg_lab::run_folder::checkpoint_name;
use thalweg_merge::context::RunContext;
use thalweg_merge::in_memory::merge_into_sinks;
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputDtype, OutputPlan, SourceRef};
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
    Ok(run.pool.open(&path, &ReadOptions::default())?.config().cloned().unwrap_or_default())
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
    let steps: Vec<u64> = merge.steps(spec.numbers().every_steps);
    let coefficients = merge.scheme.coefficients_for(&steps.iter().copied().map(Some).collect::<Vec<_>>())?;
    let source =
        |&step: &u64| SourceRef { path: spec.path("run").join(checkpoint_name(step)), step: Some(step), tokens: None };
    let sources: Vec<SourceRef> = steps.iter().map(source).collect();
    // Nothing is written: the path only tells the outputs of a plan apart.
    let mut output = OutputPlan::new(merge.name(), merge.scheme.to_string(), &sources, &coefficients);
    output.dtype = OutputDtype::F32;
    output.policy.model_card = false;
    output.digest = DigestChoice::None;
    Ok(output)
}
