//! The moving parts of a run: parameters, moments, data, logs, and what happens in one step.

use std::path::Path;
use std::sync::atomic::Ordering;

use serde_json::json;
use thalweg_checkpoint::{FolderFiles, open_checkpoint};
use thalweg_merge::context::RunContext;
use thalweg_merge::recent::RecentSaves;
use thalweg_model::{Batch, BatchShape, LossOptions, Model, ParamRole, Purpose, StepLoss, Workspace, arena_source};

use crate::Error;
use crate::averages::{AveragePlan, RunningAverage, combine_recent, keep_recent};
use crate::config::TrainConfig;
use crate::data::TrainData;
use crate::folder::{WHAT, exists, write_source};
use crate::mixture::Mixture;
use crate::model_spec::Balance;
use crate::optimizer::{Arenas, GlobalNorm, Optimizer, StepScale, clip_scale, rules_of};
use crate::run_folder::{RunFolder, pretty};
use crate::start::{StartPoint, start_from};
use crate::state::{
    StateArenas, StateRecord, TrainState, read_state, remove_old_states, state_path, state_steps, write_state,
};
use crate::step_log::{LogLengths, RunLogs, StepRecord, ValidationRecord};
use crate::train_job::{StepFaults, TrainJob, TrainPlan, TrainWatcher};
use crate::validate::Validator;

/// Says in a checkpoint's folder how it came about; the file that makes it whole.
const CHECKPOINT_RECORD_NAME: &str = "training.json";
const CHECKPOINT_KIND: &str = "thalweg-training-checkpoint";

/// A run between two steps.
pub(crate) struct Trainer<'a> {
    config: &'a TrainConfig,
    data: &'a TrainData,
    plan: &'a TrainPlan,
    folder: &'a RunFolder,
    watcher: &'a dyn TrainWatcher,
    run: &'a RunContext<'a>,
    model: Model,
    workspace: Workspace,
    optimizer: Optimizer,
    gradients: Vec<f32>,
    norm: GlobalNorm,
    first_moments: Vec<f32>,
    second_moments: Vec<f32>,
    averages: Vec<RunningAverage>,
    recent: RecentSaves<Vec<f32>>,
    /// Room for an average.
    scratch: Vec<f32>,
    mixture: Mixture,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// Tokens of the step by layer and expert.
    expert_counts: Vec<u64>,
    validator: Validator,
    last_validation: Vec<ValidationRecord>,
    logs: RunLogs,
    step: u64,
    n_tokens: u64,
    n_updates: u64,
    start_step: u64,
    resumed_from: Option<u64>,
    began_at_step: u64,
    n_checkpoints: usize,
    /// The step of the newest state on disk.
    saved_step: Option<u64>,
}

impl<'a> Trainer<'a> {
    /// Resumes from the newest state of the folder, or starts as the config says.
    pub(crate) fn open(
        job: &TrainJob<'a>,
        plan: &'a TrainPlan,
        folder: &'a RunFolder,
        watcher: &'a dyn TrainWatcher,
        run: &'a RunContext<'a>,
    ) -> Result<Self, Error> {
        let (config, n_params) = (job.config, plan.layout.n_params());
        let saved = state_steps(&*run.storage, &folder.path)?.last().copied();
        let start = begin(job, plan, run)?;
        let (start_step, start_tokens) = (start.step, start.tokens);
        folder.describe(&*run.storage, config, start_step, start_tokens)?;
        let fresh_averages = || plan.averages.iter().filter_map(|average| average.start(n_params)).collect();
        let (point, averages, logs) = match saved {
            Some(step) => restore(&state_path(&folder.path, step), n_params, job, folder, run)?,
            None => (start, fresh_averages(), LogLengths::default()),
        };
        let n_micro = config.batch_sequences / config.micro_batches * config.sequence_length;
        let shape = micro_shape(config);
        let n_experts = plan.model.moe.as_ref().map_or(0, |moe| moe.n_experts);
        let mut trainer = Self {
            config,
            data: job.data,
            plan,
            folder,
            watcher,
            run,
            workspace: Workspace::new(&plan.model, shape, Purpose::Train),
            optimizer: Optimizer::new(&config.optimizer, rules_of(&plan.layout, config.optimizer.kind)),
            gradients: vec![0.0; n_params],
            norm: GlobalNorm::for_len(n_params),
            first_moments: point.first_moments,
            second_moments: point.second_moments,
            model: Model::from_params(plan.model.clone(), point.params)?,
            averages,
            recent: RecentSaves::new(plan.averages.iter().map(AveragePlan::window).max().unwrap_or(0)),
            scratch: vec![0.0; if plan.averages.is_empty() { 0 } else { n_params }],
            mixture: job.data.mixture(config)?,
            tokens: vec![0; n_micro],
            targets: vec![0; n_micro],
            expert_counts: vec![0; n_experts * plan.model.n_layers],
            validator: Validator::new(config, &plan.model, job.data),
            last_validation: Vec::new(),
            logs: RunLogs::open(&*run.storage, &folder.path, logs)?,
            step: point.step,
            n_tokens: point.tokens,
            n_updates: point.n_updates,
            start_step,
            resumed_from: saved,
            began_at_step: point.step,
            n_checkpoints: 0,
            saved_step: saved,
        };
        trainer.recall_checkpoints()?;
        Ok(trainer)
    }

    /// Fills the window of recent checkpoints from the disk, as an uninterrupted run has it in memory.
    fn recall_checkpoints(&mut self) -> Result<(), Error> {
        let window = self.plan.averages.iter().map(AveragePlan::window).max().unwrap_or(0);
        if self.resumed_from.is_none() || window == 0 {
            return Ok(());
        }
        // The checkpoint of this very step is written (again) from the state, and taken in then.
        let end = self.step;
        let steps = (self.start_step..end).rev().filter(|&step| self.is_checkpoint_step(step));
        let mut steps: Vec<u64> = steps.take(window).collect();
        steps.reverse();
        for step in steps {
            let path = self.folder.checkpoint_path(step);
            let source = open_checkpoint(&self.run.storage, &path)?;
            let model = Model::load(self.plan.model.clone(), &source)?;
            keep_recent(&mut self.recent, step, model.params());
        }
        Ok(())
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.n_tokens
    }

    pub(crate) fn resumed_from(&self) -> Option<u64> {
        self.resumed_from
    }

    pub(crate) fn last_validation(&self) -> &[ValidationRecord] {
        &self.last_validation
    }

    pub(crate) fn n_checkpoints(&self) -> usize {
        self.n_checkpoints
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
    pub(crate) fn seconds_left(&self, seconds: f64) -> f64 {
        let n_done = self.step.saturating_sub(self.began_at_step).max(1);
        seconds / n_done as f64 * self.config.n_steps().saturating_sub(self.step) as f64
    }

    /// Whether a checkpoint is due after `step`. The step that a fork starts from is the other run's.
    fn is_checkpoint_step(&self, step: u64) -> bool {
        let is_start = step == self.start_step;
        if is_start { self.config.checkpoints.steps.contains(&step) } else { self.config.is_checkpoint_step(step) }
    }

    /// What may be missing of the step that this call resumes from: its checkpoint, if a kill came between state and
    /// checkpoint.
    pub(crate) fn finish_step_of_start(&mut self) -> Result<(), Error> {
        if !self.is_checkpoint_step(self.step) {
            return Ok(());
        }
        if self.resumed_from.is_none() {
            self.save_state()?;
        }
        // Running averages were taken before the state was saved: what they wrote is not written again.
        self.write_checkpoints(self.resumed_from.is_some())
    }

    /// Reads, differentiates, clips, applies. Nothing of the run has changed if this fails.
    pub(crate) fn take_step(&mut self) -> Result<StepRecord, Error> {
        let step = self.step + 1;
        let faults = StepFaults::at(self.config, step);
        self.gradients.fill(0.0);
        self.expert_counts.fill(0);
        let mut loss = StepLoss::default();
        for micro_idx in 0..self.config.micro_batches {
            if self.run.interrupt.load(Ordering::Relaxed) {
                return Err(Error::Interrupted { step: self.step });
            }
            self.read_batch(step, micro_idx, faults)?;
            let part = self.differentiate()?;
            loss.nll_sum_nats += part.nll_sum_nats;
            loss.n_targets += part.n_targets;
        }
        let loss = mean(loss);
        let grad_norm = self.norm.of(&self.gradients);
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(Error::NotFinite { step, what, newest: self.newest_checkpoint()? });
            }
        }
        let section = &self.config.optimizer;
        let multiplier = self.config.schedule.multiplier(step, self.config.n_steps());
        let learning_rate = section.learning_rate * multiplier * faults.learning_rate_factor;
        let scale = StepScale {
            learning_rate,
            gradient_scale: clip_scale(grad_norm, section.clip_norm),
            n_updates: self.n_updates + 1,
        };
        let arenas = Arenas {
            params: self.model.params_mut(),
            gradients: &self.gradients,
            first_moments: &mut self.first_moments,
            second_moments: &mut self.second_moments,
        };
        self.optimizer.step(arenas, scale);
        self.move_balance_biases();
        self.step = step;
        self.n_tokens += self.config.tokens_per_step();
        self.n_updates += 1;
        let expert_imbalance = self.expert_imbalance();
        let tokens = self.n_tokens;
        let (seconds, tokens_per_second) = (0.0, 0.0);
        Ok(StepRecord { step, tokens, loss, learning_rate, grad_norm, seconds, tokens_per_second, expert_imbalance })
    }

    fn read_batch(&mut self, step: u64, micro_idx: usize, faults: StepFaults) -> Result<(), Error> {
        let n_micro = self.config.batch_sequences / self.config.micro_batches;
        if faults.is_poisoned {
            let vocab_size = u32::try_from(self.data.tokenizer.n_tokens()).unwrap_or(u32::MAX);
            let number = step * self.config.micro_batches as u64 + micro_idx as u64;
            self.mixture.poison(number, vocab_size, &mut self.tokens, &mut self.targets);
        } else {
            let n_skipped = self.config.start.as_ref().map_or(0, |start| start.skip_data_steps);
            let batch = self.config.batch_sequences as u64;
            let first = (step - 1 + n_skipped) * batch + (micro_idx * n_micro) as u64;
            self.mixture.read(first, &mut self.tokens, &mut self.targets);
        }
        Ok(())
    }

    #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is f32")]
    fn differentiate(&mut self) -> Result<StepLoss, Error> {
        let batch = Batch::new(&self.plan.model, &self.tokens, &self.targets, micro_shape(self.config))?;
        let options = LossOptions {
            n_targets_total: self.config.batch_sequences * self.config.sequence_length,
            z_loss: (self.config.z_loss > 0.0).then_some(self.config.z_loss as f32),
            balance_loss: match self.plan.balance {
                Balance::Aux(coefficient) => coefficient as f32,
                _ => 0.0,
            },
        };
        let loss = self.model.loss_and_gradients(batch, options, &mut self.workspace, &mut self.gradients);
        let counts = self.workspace.expert_counts();
        self.expert_counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(*count));
        Ok(loss)
    }

    /// Experts with fewer tokens than the mean become easier to choose, by a fixed amount (arXiv 2408.15664, algorithm
    /// 1).
    #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is f32")]
    fn move_balance_biases(&mut self) {
        let Balance::Bias(rate) = self.plan.balance else { return };
        let biases = self.plan.layout.specs().iter().filter(|spec| spec.role == ParamRole::BalanceBias);
        let params = self.model.params_mut();
        for (layer_idx, spec) in biases.enumerate() {
            let n_experts = spec.range.len();
            let counts = &self.expert_counts[layer_idx * n_experts..(layer_idx + 1) * n_experts];
            let total: u64 = counts.iter().sum();
            for (bias, &count) in params[spec.range.clone()].iter_mut().zip(counts) {
                // Compared in whole numbers: count with total / n_experts.
                *bias += match (count * n_experts as u64).cmp(&total) {
                    std::cmp::Ordering::Less => rate as f32,
                    std::cmp::Ordering::Equal => 0.0,
                    std::cmp::Ordering::Greater => -(rate as f32),
                };
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of tokens stay far below 2^53")]
    fn expert_imbalance(&self) -> Option<f64> {
        let n_experts = self.plan.model.moe.as_ref()?.n_experts;
        let of_layer = |counts: &[u64]| {
            let (largest, total) = (counts.iter().max().copied().unwrap_or(0), counts.iter().sum::<u64>());
            largest as f64 * n_experts as f64 / total.max(1) as f64
        };
        self.expert_counts.chunks(n_experts).map(of_layer).reduce(f64::max)
    }

    /// Logs, scores, averages and saves what is due after the step.
    pub(crate) fn end_step(&mut self, record: &StepRecord) -> Result<(), Error> {
        self.logs.append_step(record)?;
        for (average, rule, every_steps) in running(&mut self.averages, self.plan) {
            if self.step.is_multiple_of(every_steps) {
                average.update(rule, self.step, self.model.params());
            }
        }
        if self.config.is_validation_step(self.step) {
            self.last_validation = self.validator.score(&self.model, self.step, self.n_tokens)?;
            for record in &self.last_validation {
                self.logs.append_validation(record)?;
                self.watcher.on_validation(record);
            }
        }
        if self.is_checkpoint_step(self.step) {
            // Block means start again with the state, so that a resumed run does not take a block twice.
            self.write_running_averages()?;
            self.save_state()?;
            self.write_checkpoints(false)?;
        }
        Ok(())
    }

    fn save_state(&mut self) -> Result<(), Error> {
        self.logs.sync()?;
        let (kind, version) = StateRecord::kind_and_version();
        let record = StateRecord {
            kind,
            version,
            step: self.step,
            tokens: self.n_tokens,
            n_updates: self.n_updates,
            config_digest: self.folder.config_digest.clone(),
            data: self.data.digests(),
            logs: self.logs.lengths(),
            averages: self.averages.iter().map(|average| average.record.clone()).collect(),
        };
        let arenas = StateArenas {
            params: self.model.params(),
            first_moments: &self.first_moments,
            second_moments: &self.second_moments,
            averages: &self.averages,
        };
        write_state(&self.run.storage, &self.folder.path, arenas, &record)?;
        self.saved_step = Some(self.step);
        remove_old_states(&*self.run.storage, &self.folder.path, self.config.checkpoints.keep_states)
    }

    /// Saves the state of the last whole step; the error that ends the run is the value.
    pub(crate) fn save_and_stop(&mut self) -> Result<Error, Error> {
        if self.saved_step != Some(self.step) {
            self.save_state()?;
        }
        Ok(Error::Interrupted { step: self.step })
    }

    /// Writes the step's checkpoint and what the windows of averages give; only what is missing, if so asked.
    fn write_checkpoints(&mut self, only_missing: bool) -> Result<(), Error> {
        keep_recent(&mut self.recent, self.step, self.model.params());
        let path = self.folder.checkpoint_path(self.step);
        let is_there = |path: &Path| Ok::<bool, Error>(only_missing && exists(&*self.run.storage, path)?);
        if !is_there(&path)? {
            self.write_checkpoint(&path, None, self.model.params())?;
            self.n_checkpoints += 1;
        }
        for plan in &self.plan.averages {
            let AveragePlan::Window { name, scheme, count } = plan else { continue };
            let path = self.folder.average_path(name, self.step);
            if self.recent.has(*count) && !is_there(&path)? {
                let mut scratch = std::mem::take(&mut self.scratch);
                let window = (scheme, *count);
                let combined = combine_recent(&self.recent, &self.plan.layout, window, &mut scratch, self.run);
                let written = combined.and_then(|()| self.write_checkpoint(&path, Some(name), &scratch));
                self.scratch = scratch;
                written?;
            }
        }
        Ok(())
    }

    fn write_running_averages(&mut self) -> Result<(), Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut averages = std::mem::take(&mut self.averages);
        for (average, rule, _) in running(&mut averages, self.plan) {
            if average.record.n_samples > 0 {
                average.take(rule, &mut scratch);
                let path = self.folder.average_path(&average.record.name, self.step);
                self.write_checkpoint(&path, Some(&average.record.name), &scratch)?;
            }
        }
        (self.scratch, self.averages) = (scratch, averages);
        Ok(())
    }

    fn write_checkpoint(&self, path: &Path, average: Option<&str>, params: &[f32]) -> Result<(), Error> {
        if let Some(parent) = path.parent() {
            self.run.storage.create_folder(parent)?;
        }
        let mut model = self.plan.model.to_json();
        let end = self.data.tokenizer.end_of_text();
        model["bos_token_id"] = json!(end);
        model["eos_token_id"] = json!(end);
        let generation = json!({"bos_token_id": end, "eos_token_id": end});
        let tokenizer = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": crate::tokens::END_OF_TEXT,
            "eos_token": crate::tokens::END_OF_TEXT,
            "model_max_length": self.config.sequence_length,
        });
        let (config, generation, tokenizer) = (pretty(&model), pretty(&generation), pretty(&tokenizer));
        let record = pretty(&json!({
            "kind": CHECKPOINT_KIND,
            "version": 1,
            "tool": self.run.tool,
            "step": self.step,
            "tokens": self.n_tokens,
            "average": average,
            "config_digest": self.folder.config_digest,
        }));
        let files = [
            ("config.json", config.as_slice()),
            ("generation_config.json", &generation),
            ("tokenizer.json", self.data.tokenizer.bytes()),
            ("tokenizer_config.json", &tokenizer),
        ];
        let files = FolderFiles {
            files: &files,
            manifest: (CHECKPOINT_RECORD_NAME, &record),
            kind: CHECKPOINT_KIND,
            what: WHAT,
            earlier: &[],
            shard_bytes: u64::MAX,
        };
        write_source(&self.run.storage, path, &arena_source(&self.plan.layout, params), files)?;
        self.watcher.on_checkpoint(self.step, path);
        Ok(())
    }

    fn newest_checkpoint(&self) -> Result<Option<std::path::PathBuf>, Error> {
        let steps = (self.start_step..=self.step).rev().filter(|&step| self.is_checkpoint_step(step));
        for step in steps {
            let path = self.folder.checkpoint_path(step);
            if exists(&*self.run.storage, &path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// The running averages with their rules, in the order of the config.
fn running<'b>(
    averages: &'b mut [RunningAverage],
    plan: &'b TrainPlan,
) -> impl Iterator<Item = (&'b mut RunningAverage, crate::averages::RunningRule, u64)> {
    let rules = plan.averages.iter().filter_map(|average| match average {
        AveragePlan::Running { rule, every_steps, .. } => Some((*rule, *every_steps)),
        AveragePlan::Window { .. } => None,
    });
    averages.iter_mut().zip(rules).map(|(average, (rule, every_steps))| (average, rule, every_steps))
}

fn micro_shape(config: &TrainConfig) -> BatchShape {
    let n_sequences = config.batch_sequences / config.micro_batches;
    BatchShape { n_sequences, sequence_length: config.sequence_length }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens stay far below 2^53")]
fn mean(loss: StepLoss) -> f64 {
    loss.nll_sum_nats / loss.n_targets.max(1) as f64
}

/// Where a run begins that has no state yet.
fn begin(job: &TrainJob<'_>, plan: &TrainPlan, run: &RunContext<'_>) -> Result<StartPoint, Error> {
    match &job.config.start {
        None => Ok(StartPoint::fresh(Model::<f32>::init(plan.model.clone(), job.config.seed).params().to_vec())),
        Some(section) => {
            let start = start_from(section, job.config_folder, &plan.model, run)?;
            if start.step >= job.config.n_steps() {
                let message = format!("the start is at step {}, but the run ends there or earlier", start.step);
                return Err(Error::value("steps", message));
            }
            Ok(start)
        }
    }
}

type Restored = (StartPoint, Vec<RunningAverage>, LogLengths);

/// Reads the newest state and checks that the data are still what they were.
fn restore(
    path: &Path,
    n_params: usize,
    job: &TrainJob<'_>,
    folder: &RunFolder,
    run: &RunContext<'_>,
) -> Result<Restored, Error> {
    let TrainState { record, params, first_moments, second_moments, averages } =
        read_state(&run.storage, path, n_params)?;
    let refuse = |message: String| Error::State { path: path.to_owned(), message };
    if record.config_digest != folder.config_digest {
        return Err(refuse("it is the state of a different config".to_owned()));
    }
    let now = job.data.digests();
    if let Some((name, _)) = now.iter().zip(&record.data).find(|(now, then)| now != then).map(|(now, _)| now) {
        return Err(refuse(format!("the data `{name}` have changed since it was trained")));
    }
    let (step, tokens, n_updates) = (record.step, record.tokens, record.n_updates);
    Ok((StartPoint { params, first_moments, second_moments, step, tokens, n_updates }, averages, record.logs))
}
