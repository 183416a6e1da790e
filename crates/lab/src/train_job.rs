//! What a run is given: the job, who watches it, and what follows from its config before the first step.

use std::path::Path;

use thalweg_model::{ModelConfig, ParamLayout};

use crate::Error;
use crate::averages::AveragePlan;
use crate::config::{FaultKind, TrainConfig};
use crate::data::TrainData;
use crate::model_spec::{Balance, balance_of, model_config_of};
use crate::step_log::{StepRecord, ValidationRecord};

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct TrainJob<'a> {
    /// The config.
    pub config: &'a TrainConfig,
    /// The config's folder, where its relative paths begin.
    pub config_folder: &'a Path,
    /// The run's folder: missing, empty, or of this very config.
    pub run_path: &'a Path,
    /// What it reads.
    pub data: &'a TrainData,
}

/// Who wants to know how a run goes. Called between steps.
pub trait TrainWatcher: Sync {
    /// A step ended; about this many seconds are left.
    fn on_step(&self, record: &StepRecord, n_steps: u64, seconds_left: f64);
    /// Held-out text was scored.
    fn on_validation(&self, record: &ValidationRecord);
    /// A checkpoint, or a step of an average, was written.
    fn on_checkpoint(&self, step: u64, path: &Path);
    /// A note for the user.
    fn on_note(&self, text: &str);
}

/// What is derived from a config before the first step.
#[derive(Debug)]
pub(crate) struct TrainPlan {
    pub(crate) model: ModelConfig,
    pub(crate) layout: ParamLayout,
    pub(crate) balance: Balance,
    pub(crate) averages: Vec<AveragePlan>,
}

impl TrainPlan {
    pub(crate) fn new(config: &TrainConfig, data: &TrainData) -> Result<Self, Error> {
        let model = model_config_of(config, data.tokenizer.n_tokens())?;
        let averages = config.average.iter().map(AveragePlan::new).collect::<Result<_, _>>()?;
        Ok(Self { layout: model.layout(), balance: balance_of(&config.model)?, averages, model })
    }
}

/// What the faults of a config do to a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepFaults {
    pub(crate) learning_rate_factor: f64,
    pub(crate) is_poisoned: bool,
}

impl StepFaults {
    pub(crate) fn at(config: &TrainConfig, step: u64) -> Self {
        let mut faults = Self { learning_rate_factor: 1.0, is_poisoned: false };
        for fault in config.fault.iter().filter(|fault| (fault.at_step..fault.at_step + fault.steps).contains(&step)) {
            match fault.kind {
                FaultKind::LearningRate => faults.learning_rate_factor *= fault.factor.unwrap_or(1.0),
                FaultKind::PoisonBatch => faults.is_poisoned = true,
            }
        }
        faults
    }
}
