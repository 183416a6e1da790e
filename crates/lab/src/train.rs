//! A run from its first step to its last: the whole story.
//!
//! Each step is read, differentiated, clipped, applied, logged; at checkpoints the state is written first and the
//! checkpoint after it, so that a run can resume from whatever is published. The bits depend on the config and its
//! files alone, not on threads, interruptions or time.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use thalweg_merge::context::RunContext;

use crate::Error;
use crate::run_folder::RunFolder;
use crate::step_log::{StepRecord, ValidationRecord};
use crate::train_job::{TrainJob, TrainPlan, TrainWatcher};
use crate::trainer::Trainer;

/// What a run has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutcome {
    /// The run's folder.
    pub run_path: PathBuf,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Parameters.
    pub n_params: usize,
    /// Steps done in all.
    pub n_steps: u64,
    /// Tokens in all.
    pub tokens: u64,
    /// The step that this call began after.
    pub resumed_from: Option<u64>,
    /// The last step's record; `None` if there was nothing left to do.
    pub last: Option<StepRecord>,
    /// The last scores of held-out text that this call took, one for each domain.
    pub validation: Vec<ValidationRecord>,
    /// Checkpoints that this call wrote, those of averages not counted.
    pub n_checkpoints: usize,
    /// Wall time of this call.
    pub seconds: f64,
}

/// Trains to the last step, or resumes an interrupted run.
///
/// Uses the context's threads, storage, clock and interrupt. A run that is complete already is left as it is.
///
/// # Errors
/// `Interrupted` once the context's flag is set, with the state on disk; `NotFinite` before a step that would spoil the
/// parameters; whatever [`Error`] says. The checkpoints that were written stay whole.
pub fn train(job: &TrainJob<'_>, watcher: &dyn TrainWatcher, run: &RunContext<'_>) -> Result<TrainOutcome, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(run.limits.n_threads.get()).build();
    let pool = pool.map_err(Error::Threads)?;
    pool.install(|| train_on_this_pool(job, watcher, run))
}

fn train_on_this_pool(
    job: &TrainJob<'_>,
    watcher: &dyn TrainWatcher,
    run: &RunContext<'_>,
) -> Result<TrainOutcome, Error> {
    let began = run.host.elapsed_seconds();
    let config = job.config;
    let plan = TrainPlan::new(config, job.data)?;
    let folder = RunFolder::open(&*run.storage, job.run_path, config, run.tool)?;
    if !folder.is_locked() {
        watcher.on_note(&format!(
            "the file system of `{}` has no locks: make sure that no other process trains there",
            job.run_path.display()
        ));
    }
    let mut trainer = Trainer::open(job, &plan, &folder, watcher, run)?;
    let resumed_from = trainer.resumed_from();
    trainer.finish_step_of_start()?;
    let mut last = None;
    while trainer.step() < config.n_steps() {
        let began_step = run.host.elapsed_seconds();
        let record = match trainer.take_step() {
            Err(Error::Interrupted { .. }) => return Err(trainer.save_and_stop()?),
            taken => taken?,
        };
        let seconds = run.host.elapsed_seconds() - began_step;
        let record = timed(record, config.tokens_per_step(), seconds);
        trainer.end_step(&record)?;
        watcher.on_step(&record, config.n_steps(), trainer.seconds_left(run.host.elapsed_seconds() - began));
        last = Some(record);
        if run.interrupt.load(Ordering::Relaxed) && trainer.step() < config.n_steps() {
            return Err(trainer.save_and_stop()?);
        }
    }
    Ok(TrainOutcome {
        run_path: folder.path.clone(),
        checkpoint: folder.checkpoint_path(config.n_steps()),
        n_params: plan.layout.n_params(),
        n_steps: trainer.step(),
        tokens: trainer.tokens(),
        resumed_from,
        last,
        validation: trainer.last_validation().to_vec(),
        n_checkpoints: trainer.n_checkpoints(),
        seconds: run.host.elapsed_seconds() - began,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn timed(record: StepRecord, n_tokens: u64, seconds: f64) -> StepRecord {
    let tokens_per_second = if seconds > 0.0 { n_tokens as f64 / seconds } else { 0.0 };
    StepRecord { seconds, tokens_per_second, ..record }
}
