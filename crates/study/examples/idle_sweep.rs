//! A sweep handed to an evaluator that does nothing: what the merges alone take when none is written.
//!
//!     cargo run --release -p thalweg-study --example idle_sweep -- RUN [ROUNDS]
//!
//! SMA and WMA of 10 at all ends of RUN, whose checkpoints must have a config.json. The merges are made in memory, as
//! many at a time as fit, and then left alone. Prints seconds and the bytes that were read.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(clippy::cast_precision_loss, reason = "sizes to read")]

use std::error::Error as StdError;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::{Limits, RunContext};
use thalweg_merge::engine::ExecuteOptions;
use thalweg_merge::in_memory::merge_into_sinks;
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputDtype, OutputPlan};
use thalweg_model::{ModelConfig, ParamLayout, arena_sink};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_study::Error;
use thalweg_study::evaluator::{Evaluator, ModelScores, TaskScore};
use thalweg_study::record::{CostRow, SuiteRow};
use thalweg_study::request::{Resolver, RunOptions};
use thalweg_study::surroundings::Surroundings;
use thalweg_study::sweep::{Keep, SweepOptions, SweepRequest, run_sweep};
use thalweg_tensor::TensorSink;
use thalweg_tensor::kernel::Simd;

/// Bytes of models that are held at once.
const HELD_BYTES: usize = 1 << 30;

/// Makes every merge in memory and says nothing about it.
struct IdleEvaluator<'a> {
    layout: ParamLayout,
    arenas: Vec<Vec<f32>>,
    run: &'a RunContext<'a>,
    cost: CostRow,
}

fn nothing() -> ModelScores {
    let score = TaskScore {
        suite: "none".to_owned(),
        task: "none".to_owned(),
        measure: "none".to_owned(),
        value: 0.0,
        standard_error: None,
        n: 0,
        higher_is_better: true,
        items: None,
    };
    ModelScores { params_digest: None, tasks: vec![score] }
}

impl IdleEvaluator<'_> {
    fn merge(&mut self, outputs: &[&OutputPlan]) -> Result<(), Error> {
        let in_memory = |(i, output): (usize, &&OutputPlan)| OutputPlan {
            path: PathBuf::from(format!("{i}")),
            dtype: OutputDtype::F32,
            digest: DigestChoice::None,
            ..output.of_model_alone()
        };
        let plan = MergePlan::new(outputs.iter().enumerate().map(in_memory).collect())?;
        self.arenas.resize_with(self.arenas.len().max(outputs.len()), || vec![0.0; self.layout.n_params()]);
        let sinks: Vec<_> =
            self.arenas.iter_mut().take(outputs.len()).map(|arena| arena_sink(&self.layout, arena)).collect();
        let sinks: Vec<&dyn TensorSink> = sinks.iter().map(|sink| sink as &dyn TensorSink).collect();
        self.cost.bytes_read += merge_into_sinks(&plan, &sinks, self.run)?;
        Ok(())
    }
}

impl Evaluator for IdleEvaluator<'_> {
    fn suites(&self) -> Vec<SuiteRow> {
        Vec::new()
    }

    fn tokens_per_model(&self) -> Option<u64> {
        None
    }

    fn score_checkpoint(&mut self, _path: &Path) -> Result<ModelScores, Error> {
        Ok(nothing())
    }

    fn score_merges(
        &mut self,
        outputs: &[OutputPlan],
        on_score: &mut dyn FnMut(usize, &ModelScores),
    ) -> Result<Vec<ModelScores>, Error> {
        // Raw checkpoints are there already.
        let mut merges: Vec<&OutputPlan> = outputs.iter().filter(|output| !output.is_copy()).collect();
        merges.sort_by_key(|output| output.newest_source().and_then(|newest| newest.step));
        let n_together = (HELD_BYTES / (4 * self.layout.n_params().max(1))).max(1);
        merges.chunks(n_together).try_for_each(|together| self.merge(together))?;
        (0..outputs.len()).for_each(|i| on_score(i, &nothing()));
        Ok(vec![nothing(); outputs.len()])
    }

    fn cost(&self) -> CostRow {
        self.cost
    }
}

fn main() -> Result<(), Box<dyn StdError + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let run_path = PathBuf::from(args.next().ok_or("give the folder of a run")?);
    let n_rounds: usize = args.next().map_or(Ok(3), |text| text.parse())?;
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let scratch = tempfile::tempdir()?;
    for _ in 0..n_rounds {
        let n_threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let limits = Limits { n_threads, memory_bytes: 1 << 30, simd: Simd::Auto };
        let around = Surroundings::new(Arc::clone(&storage), limits);
        let run = around.run();
        let began = Instant::now();
        let resolver = Resolver::new(run.clone(), ReadOptions::default(), None);
        let trajectory = resolver.open_run(&run_path, &RunOptions::default())?;
        let request = SweepRequest {
            schemes: vec!["sma".to_owned(), "wma".to_owned()],
            ends: vec!["steps".to_owned()],
            ..SweepRequest::new(vec![10], scratch.path().join("sweep"))
        };
        let sweep = resolver.sweep(&request, &trajectory)?;
        let checkpoint = run.pool.open(&sweep.any_checkpoint()?, &ReadOptions::default())?;
        let config = checkpoint.config().ok_or("the checkpoints have no config.json")?;
        let layout = ModelConfig::from_json(config)?.layout();
        let mut evaluator = IdleEvaluator { layout, arenas: Vec::new(), run: &run, cost: CostRow::default() };
        let options = SweepOptions {
            title: "Merges that are left alone".to_owned(),
            command: "idle_sweep".to_owned(),
            by: None,
            keep: Keep::None,
            execute: ExecuteOptions::default(),
            folder: request.folder.clone(),
            on_score: &mut |_, _| {},
        };
        let outcome = run_sweep(&sweep, &trajectory, &mut evaluator, options, &run)?;
        println!(
            "{} merges: {:.2} s, read {:.2} GB, {:.2} GB of merges",
            outcome.record.trials.len(),
            began.elapsed().as_secs_f64(),
            evaluator.cost.bytes_read as f64 / 1e9,
            (outcome.record.trials.len() * 4 * evaluator.layout.n_params()) as f64 / 1e9,
        );
    }
    Ok(())
}
