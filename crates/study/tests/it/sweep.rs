//! Sweeps, and merges of one's own beside them, with scores that are known.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::Limits;
use thalweg_merge::engine::ExecuteOptions;
use thalweg_merge::plan::{OutputPlan, PlanSource, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_storage::LocalStorage;
use thalweg_study::Error;
use thalweg_study::evaluator::{Evaluator, ModelScores, TaskScore};
use thalweg_study::record::{CostRow, SuiteRow};
use thalweg_study::request::{Resolver, RunOptions};
use thalweg_study::surroundings::Surroundings;
use thalweg_study::sweep::{Keep, SweepOptions, SweepRequest, run_sweep, score_trials};
use thalweg_tensor::Dtype;
use thalweg_tensor::kernel::Simd;
use thalweg_testkit::TinyCheckpoint;

/// Scores a merge by the mean step of its sources.
struct MeanStep;

impl Evaluator for MeanStep {
    fn suites(&self) -> Vec<SuiteRow> {
        Vec::new()
    }

    fn tokens_per_model(&self) -> Option<u64> {
        None
    }

    fn score_checkpoint(&mut self, _path: &Path) -> Result<ModelScores, Error> {
        Ok(ModelScores::default())
    }

    fn score_merges(
        &mut self,
        outputs: &[OutputPlan],
        on_score: &mut dyn FnMut(usize, &ModelScores),
    ) -> Result<Vec<ModelScores>, Error> {
        let score = |(i, output): (usize, &OutputPlan)| {
            let steps: f64 = output.sources.iter().map(|source| source.step.unwrap() as f64).sum();
            let score = TaskScore {
                suite: "mean".to_owned(),
                task: "mean/of".to_owned(),
                measure: "step".to_owned(),
                value: steps / output.sources.len() as f64,
                standard_error: None,
                n: 0,
                higher_is_better: true,
                items: None,
            };
            let scores = ModelScores { params_digest: None, tasks: vec![score] };
            on_score(i, &scores);
            scores
        };
        Ok(outputs.iter().enumerate().map(score).collect())
    }

    fn cost(&self) -> CostRow {
        CostRow::default()
    }
}

#[test]
fn merges_of_ones_own_are_scored_beside_the_windows_and_compared_with_them() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (scratch.path().join("run"), scratch.path().join("sweep"));
    for step in [1000, 2000, 3000, 4000] {
        TinyCheckpoint::llama(Dtype::F32, f64::from(step)).write_to_disk(&run_path.join(format!("step-{step}")));
    }
    let limits = Limits { n_threads: NonZeroUsize::MIN, memory_bytes: 1 << 30, simd: Simd::Auto };
    let around = Surroundings::new(Arc::new(LocalStorage::new()), limits);
    let resolver = Resolver::new(around.run(), ReadOptions::default(), None);
    let trajectory = resolver.open_run(&run_path, &RunOptions::default()).unwrap();
    let request = SweepRequest::new(vec![2, 3], &out);
    let sweep = resolver.sweep(&request, &trajectory).unwrap();
    for (by, choice) in [
        (None, Ok("step0004000-n2-sma")),
        (Some("mean/of/step"), Ok("step0004000-n2-sma")),
        (Some("mean"), Err("mean/of/step")),
    ] {
        let options = SweepOptions {
            title: "Means".to_owned(),
            command: "test".to_owned(),
            by: by.map(str::to_owned),
            keep: Keep::None,
            execute: ExecuteOptions::default(),
            folder: out.clone(),
            on_score: &mut |_, _| {},
        };
        let outcome = run_sweep(&sweep, &trajectory, &mut MeanStep, options, &around.run());
        match choice {
            Ok(name) => assert_eq!(outcome.unwrap().record.choice.unwrap().trial, name),
            Err(there_is) => assert!(outcome.unwrap_err().hint().unwrap().contains(there_is)),
        }
    }
    assert!(out.join("report.html").exists());

    let whole = &sweep.trials[1];
    let sources: Vec<SourceRef> = whole.output.sources.iter().map(PlanSource::source).collect();
    let without = |left_out: &SourceRef| {
        let others: Vec<SourceRef> = sources.iter().filter(|one| *one != left_out).cloned().collect();
        resolver.trial(&format!("without-{}", left_out.step.unwrap()), &others, &Scheme::Sma, &request).unwrap()
    };
    let trials = std::iter::once(whole.clone()).chain(sources.iter().map(without)).collect();
    let mut told = Vec::new();
    let scored = score_trials(trials, &mut MeanStep, &mut |n_done, name| told.push((n_done, name.to_owned()))).unwrap();
    assert_eq!(told[3], (4, "without-4000".to_owned()));
    assert_eq!(scored[1].trial.output.path, scratch.path().canonicalize().unwrap().join("sweep/without-2000"));
    let gains = scored.iter().map(|one| scored[0].scores.tasks[0].gain_over(&one.scores.tasks[0]).unwrap().value);
    assert_eq!(gains.collect::<Vec<_>>(), [0.0, -500.0, 0.0, 500.0]);
}
