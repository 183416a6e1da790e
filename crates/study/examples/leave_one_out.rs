//! A question of one's own about a run: does the gain of the best mean depend on one of its checkpoints?
//!
//!     cargo run --release -p thalweg-study --example leave_one_out -- RUN SUITE FOLDER
//!
//! The means of the newest 3, 6 and 10 checkpoints are scored and recorded in FOLDER, as `thalweg sweep --suite` does.
//! Then the best of them is scored without each of its checkpoints. Prints what each checkpoint contributes: what the
//! whole mean gains over the mean of the others, on the same items.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::ReadOptions;
use thalweg_eval::Suite;
use thalweg_merge::context::Limits;
use thalweg_merge::engine::ExecuteOptions;
use thalweg_merge::plan::{PlanSource, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_study::engine_evaluator::EngineEvaluator;
use thalweg_study::request::{Resolver, RunOptions};
use thalweg_study::surroundings::Surroundings;
use thalweg_study::sweep::{Keep, SweepOptions, SweepRequest, run_sweep, score_trials};
use thalweg_tensor::kernel::Simd;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [run_path, suite, folder] = args.as_slice() else { return Err("give RUN, SUITE and FOLDER".into()) };
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let n_threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let around = Surroundings::new(Arc::clone(&storage), Limits { n_threads, memory_bytes: 1 << 30, simd: Simd::Auto });
    let run = around.run();
    let resolver = Resolver::new(run.clone(), ReadOptions::default(), None);
    let trajectory = resolver.open_run(Path::new(run_path), &RunOptions::default())?;
    let request = SweepRequest::new(vec![3, 6, 10], folder);
    let sweep = resolver.sweep(&request, &trajectory)?;

    let suite = Suite::open(&*storage, Path::new(suite))?;
    let like = sweep.any_checkpoint()?;
    let mut evaluator = EngineEvaluator::new(&[suite], &like, None, None, around.eval(), &run)?;
    let options = SweepOptions {
        title: format!("Means of the newest checkpoints of {run_path}"),
        command: "leave_one_out".to_owned(),
        by: None,
        keep: Keep::None,
        execute: ExecuteOptions::default(),
        folder: request.folder.clone(),
        on_score: &mut |_, _| {},
    };
    let outcome = run_sweep(&sweep, &trajectory, &mut evaluator, options, &run)?;
    let decides = outcome.decides.ok_or("no mean was scored")?;
    let best = outcome.findings.choose(&decides).ok_or("no mean has the score that decides")?;
    let whole = outcome.findings.trials.iter().find(|one| one.trial.name == best.trial);
    let whole = whole.ok_or("the best mean was not scored")?;

    let sources: Vec<SourceRef> = whole.trial.output.sources.iter().map(PlanSource::source).collect();
    let without = |left_out: &SourceRef| {
        let others: Vec<SourceRef> = sources.iter().filter(|one| *one != left_out).cloned().collect();
        let name = format!("without-step{}", left_out.step.unwrap_or(0));
        resolver.trial(&name, &others, &Scheme::Sma, &request)
    };
    let trials = sources.iter().map(without).collect::<Result<Vec<_>, _>>()?;
    let scored = score_trials(trials, &mut evaluator, &mut |_, _| {})?;

    println!("{} of {}; what each checkpoint contributes to it, with its 95 % interval:", decides.label(), best.trial);
    for one in &scored {
        let (Some(whole), Some(others)) = (whole.scores.find(&decides), one.scores.find(&decides)) else { continue };
        let contribution = whole.gain_over(others).ok_or("the two were scored on other items")?;
        let interval =
            contribution.interval_95.map_or_else(String::new, |[low, high]| format!("{low:+.4} to {high:+.4}"));
        println!("{:<20} {:.4}  {:+.4}  {interval}", one.trial.name, others.value, contribution.value);
    }
    Ok(())
}
