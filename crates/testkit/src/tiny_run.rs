//! Run folders of every layout that is read, with tiny checkpoints and logs whose numbers are known.
//!
//! Tokens are steps times a fixed number. The learning rate warms up, stays, and is annealed; see [`TinySchedule`].

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::Dtype;

use crate::tiny_checkpoint::TinyCheckpoint;

/// How a run names its checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLayout {
    /// `checkpoint-1000`
    Checkpoint,
    /// `step1000`
    Step,
    /// `step-1000`
    StepDash,
    /// `step_1000`
    StepUnderscore,
    /// `global_step1000`
    GlobalStep,
    /// `iter_0001000`
    Iter,
    /// `ep0-ba1000`
    EpochBatch,
    /// `step1000-tokens4B`
    StepTokens,
    /// `1000`
    Number,
    /// Files `step_1000.safetensors`
    SingleFiles,
}

impl RunLayout {
    /// Every layout.
    pub const ALL: [Self; 10] = [
        Self::Checkpoint,
        Self::Step,
        Self::StepDash,
        Self::StepUnderscore,
        Self::GlobalStep,
        Self::Iter,
        Self::EpochBatch,
        Self::StepTokens,
        Self::Number,
        Self::SingleFiles,
    ];

    fn name(self, row: &LogRow) -> String {
        let step = row.step;
        match self {
            Self::Checkpoint => format!("checkpoint-{step}"),
            Self::Step => format!("step{step}"),
            Self::StepDash => format!("step-{step}"),
            Self::StepUnderscore => format!("step_{step}"),
            Self::GlobalStep => format!("global_step{step}"),
            Self::Iter => format!("iter_{step:07}"),
            Self::EpochBatch => format!("ep0-ba{step}"),
            Self::StepTokens => format!("step{step}-tokens{}", suffixed(row.tokens)),
            Self::Number => step.to_string(),
            Self::SingleFiles => format!("step_{step}.safetensors"),
        }
    }
}

/// A count with the largest suffix that says it exactly.
fn suffixed(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")];
    let unit = UNITS.iter().find(|(unit, _)| count > 0 && count.is_multiple_of(*unit));
    unit.map_or_else(|| count.to_string(), |(unit, suffix)| format!("{}{suffix}", count / unit))
}

/// What is written beside the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLog {
    /// Nothing.
    None,
    /// `log.jsonl` in the run folder.
    JsonLines,
    /// `log.csv` in the run folder.
    Csv,
    /// `trainer_state.json` in each checkpoint, with the history up to its step.
    TrainerState,
}

/// When the learning rate changes its course, in steps. It ends at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TinySchedule {
    /// Last step of the warmup.
    pub warmup_steps: u64,
    /// Last step at the peak.
    pub stable_until: u64,
    /// Last step of all.
    pub n_steps: u64,
}

/// One line of a log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogRow {
    /// The step.
    pub step: u64,
    /// Tokens after it.
    pub tokens: u64,
    /// Training loss: 2 + 100 / (step + 50).
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Gradient norm: 0.5 + 10 / (step + 50).
    pub grad_norm: f64,
}

/// A run that is being built.
///
/// # Example
/// ```
/// use thalweg_testkit::{RunLayout, Scratch, TinyRun};
///
/// let scratch = Scratch::new();
/// let run = TinyRun::new(RunLayout::Iter, &[100, 200]);
/// run.write_to_disk(scratch.path());
/// assert!(scratch.join("iter_0000200/model.safetensors").exists());
/// ```
#[derive(Debug, Clone)]
pub struct TinyRun {
    layout: RunLayout,
    steps: Vec<u64>,
    unfinished: Vec<u64>,
    log: RunLog,
    schedule: TinySchedule,
    log_every_steps: u64,
    tokens_per_step: u64,
    dtype: Dtype,
}

/// The learning rate between warmup and anneal.
pub const PEAK_LEARNING_RATE: f64 = 0.001;

impl TinyRun {
    /// A run with finished checkpoints at these steps, 4 million tokens a step, no log, and no anneal.
    pub fn new(layout: RunLayout, steps: &[u64]) -> Self {
        let n_steps = steps.iter().copied().max().unwrap_or(0);
        Self {
            layout,
            steps: steps.to_vec(),
            unfinished: Vec::new(),
            log: RunLog::None,
            schedule: TinySchedule { warmup_steps: 0, stable_until: n_steps, n_steps },
            log_every_steps: 10,
            tokens_per_step: 4_000_000,
            dtype: Dtype::F32,
        }
    }

    /// Writes a log, a line every ten steps.
    pub fn log(mut self, log: RunLog) -> Self {
        self.log = log;
        self
    }

    /// Sets the phases.
    pub fn schedule(mut self, schedule: TinySchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Sets the tokens of a step.
    pub fn tokens_per_step(mut self, tokens_per_step: u64) -> Self {
        self.tokens_per_step = tokens_per_step;
        self
    }

    /// Sets the type of the params, which must have every step exactly.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Adds a checkpoint that was being written: one shard of two, and no index. A single file has half its bytes.
    pub fn unfinished(mut self, step: u64) -> Self {
        self.unfinished.push(step);
        self
    }

    /// What the log says of a step.
    pub fn row(&self, step: u64) -> LogRow {
        let later = as_f64(step) + 50.0;
        LogRow {
            step,
            tokens: step * self.tokens_per_step,
            loss: 2.0 + 100.0 / later,
            learning_rate: PEAK_LEARNING_RATE * self.peak_share(step),
            grad_norm: 0.5 + 10.0 / later,
        }
    }

    fn peak_share(&self, step: u64) -> f64 {
        let TinySchedule { warmup_steps, stable_until, n_steps } = self.schedule;
        if step < warmup_steps {
            as_f64(step) / as_f64(warmup_steps)
        } else if step <= stable_until {
            1.0
        } else {
            as_f64(n_steps.saturating_sub(step)) / as_f64(n_steps - stable_until)
        }
    }

    /// The checkpoint of a step: every one of its params is the step's number.
    pub fn checkpoint(&self, step: u64) -> TinyCheckpoint {
        TinyCheckpoint::llama(self.dtype, as_f64(step))
    }

    /// Path of the checkpoint of a step.
    pub fn checkpoint_path(&self, folder: &Path, step: u64) -> PathBuf {
        folder.join(self.layout.name(&self.row(step)))
    }

    /// Writes the run into a folder, which is made.
    pub fn write_to(&self, storage: &dyn Storage, folder: &Path) {
        storage.create_folder(folder).unwrap();
        for &step in &self.steps {
            let (path, checkpoint) = (self.checkpoint_path(folder, step), self.checkpoint(step));
            if self.layout == RunLayout::SingleFiles {
                crate::put_file(storage, &path, &checkpoint.single_file());
                continue;
            }
            checkpoint.write_to(storage, &path);
            if self.log == RunLog::TrainerState {
                crate::put_file(storage, &path.join("trainer_state.json"), self.trainer_state(step).as_bytes());
            }
        }
        for &step in &self.unfinished {
            let (path, bytes) = (self.checkpoint_path(folder, step), self.checkpoint(step).single_file());
            if self.layout == RunLayout::SingleFiles {
                crate::put_file(storage, &path, &bytes[..bytes.len() / 2]);
            } else {
                crate::put_file(storage, &path.join("model-00001-of-00002.safetensors"), &bytes);
            }
        }
        match self.log {
            RunLog::None | RunLog::TrainerState => {}
            RunLog::JsonLines => crate::put_file(storage, &folder.join("log.jsonl"), self.json_lines().as_bytes()),
            RunLog::Csv => crate::put_file(storage, &folder.join("log.csv"), self.csv().as_bytes()),
        }
    }

    /// Writes the run into a folder of the machine's own disk.
    pub fn write_to_disk(&self, folder: &Path) {
        self.write_to(&LocalStorage::new(), folder);
    }

    /// The lines of the log up to a step.
    pub fn rows(&self, until_step: u64) -> impl Iterator<Item = LogRow> + '_ {
        let n_rows = until_step.min(self.schedule.n_steps) / self.log_every_steps;
        (1..=n_rows).map(|row| self.row(row * self.log_every_steps))
    }

    fn json_lines(&self) -> String {
        let line = |row: LogRow| {
            let LogRow { step, tokens, loss, learning_rate, grad_norm } = row;
            let line = json!({
                "step": step, "tokens": tokens, "loss": loss, "learning_rate": learning_rate, "grad_norm": grad_norm
            });
            format!("{line}\n")
        };
        self.rows(u64::MAX).map(line).collect()
    }

    fn csv(&self) -> String {
        let line = |row: LogRow| {
            let LogRow { step, tokens, loss, learning_rate, grad_norm } = row;
            format!("{step},{tokens},{loss},{learning_rate},{grad_norm}\n")
        };
        "step,tokens,loss,lr,grad_norm\n".to_owned() + &self.rows(u64::MAX).map(line).collect::<String>()
    }

    fn trainer_state(&self, step: u64) -> String {
        let entry = |row: LogRow| {
            json!({
                "step": row.step, "num_input_tokens_seen": row.tokens, "loss": row.loss,
                "learning_rate": row.learning_rate, "grad_norm": row.grad_norm
            })
        };
        let history: Vec<_> = self.rows(step).map(entry).collect();
        let tokens = self.row(step).tokens;
        json!({"global_step": step, "num_input_tokens_seen": tokens, "log_history": history}).to_string()
    }
}

/// Steps of tests are small.
fn as_f64(step: u64) -> f64 {
    f64::from(u32::try_from(step).unwrap())
}
