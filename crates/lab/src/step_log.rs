//! The logs of a run: `steps.jsonl`, one line a step, and a TensorBoard event file with the same numbers.
//!
//! Lines are appended as steps end. A state says how long each file was when it was saved, and a resumed run cuts them
//! to that very length, so that an interrupted run leaves the log of one that was not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use thalweg_storage::publish::publish_file;
use thalweg_storage::{Storage, WriteAt};
use thalweg_trajectory::step_log::MAX_LOG_BYTES;

use crate::Error;
use crate::event_file::{event_record, file_version_record};
use crate::folder::RUN_FILE;

/// The step log, as `thalweg.toml` names it.
pub const STEP_LOG_NAME: &str = "steps.jsonl";
/// The validation log.
pub(crate) const VALIDATION_LOG_NAME: &str = "validation.jsonl";
/// The event file's folder and name; TensorBoard wants `tfevents` in it.
pub const EVENT_FILE_NAME: &str = "tensorboard/events.out.tfevents.0.thalweg";

/// One step. JSON has no word for what is not finite, so such values are left out as `null`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepRecord {
    /// Optimizer steps done.
    pub step: u64,
    /// Cumulative training tokens.
    pub tokens: u64,
    /// Mean negative log-likelihood of the batch, nats per token, before the step.
    pub loss: f64,
    /// Learning rate of the step, faults included.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Wall time of the step.
    pub seconds: f64,
    /// Training tokens a second.
    pub tokens_per_second: f64,
    /// Largest share of tokens that one expert of a layer got, times the number of experts: 1 is even use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_imbalance: Option<f64>,
}

/// The score of one domain's held-out text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidationRecord {
    /// Optimizer steps done.
    pub step: u64,
    /// Cumulative training tokens.
    pub tokens: u64,
    /// The domain.
    pub domain: String,
    /// Mean negative log-likelihood, nats per token.
    pub nll_nats: f64,
    /// The same by bytes of text.
    pub bits_per_byte: f64,
    /// Tokens that were scored.
    pub n_tokens: u64,
}

/// How long each log was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogLengths {
    /// `steps.jsonl`.
    pub steps_bytes: u64,
    /// `validation.jsonl`.
    pub validation_bytes: u64,
    /// The event file.
    pub events_bytes: u64,
}

/// A file that grows at its end.
#[derive(Debug)]
struct AppendFile {
    file: Arc<dyn WriteAt>,
    len_bytes: u64,
}

impl AppendFile {
    /// Opens a file cut to `len_bytes`; made if that is 0 and there is none.
    fn open(storage: &dyn Storage, path: &Path, len_bytes: u64) -> Result<Self, Error> {
        let found_bytes = match storage.file_info(path) {
            Ok(info) => Some(info.len_bytes),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        if found_bytes.unwrap_or(0) < len_bytes {
            let found_bytes = found_bytes.unwrap_or(0);
            return Err(Error::LogTooShort { path: path.to_owned(), found_bytes, wanted_bytes: len_bytes });
        }
        if found_bytes != Some(len_bytes) {
            let mut kept = vec![0; thalweg_tensor::to_index(len_bytes.min(MAX_LOG_BYTES))];
            if !kept.is_empty() {
                storage.open_file(path)?.read_exact_at(0, &mut kept)?;
            }
            publish_file(storage, path, &kept, RUN_FILE)?;
        }
        Ok(Self { file: storage.open_for_update(path)?, len_bytes })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(self.len_bytes, bytes)?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// The logs of a run, open for what comes.
#[derive(Debug)]
pub(crate) struct RunLogs {
    steps: AppendFile,
    validation: AppendFile,
    events: AppendFile,
}

impl RunLogs {
    /// Opens the logs of a run folder, cut to what they were; lengths of 0 start them again.
    pub(crate) fn open(storage: &dyn Storage, run: &Path, lengths: LogLengths) -> Result<Self, Error> {
        let event_path: PathBuf = run.join(EVENT_FILE_NAME);
        if let Some(folder) = event_path.parent() {
            storage.create_folder(folder)?;
        }
        let mut events = AppendFile::open(storage, &event_path, lengths.events_bytes)?;
        if lengths.events_bytes == 0 {
            events.append(&file_version_record())?;
        }
        let steps = AppendFile::open(storage, &run.join(STEP_LOG_NAME), lengths.steps_bytes)?;
        let validation = AppendFile::open(storage, &run.join(VALIDATION_LOG_NAME), lengths.validation_bytes)?;
        Ok(Self { steps, validation, events })
    }

    pub(crate) fn append_step(&mut self, record: &StepRecord) -> Result<(), Error> {
        self.steps.append(&json_line(record))?;
        let mut scalars = vec![
            ("tokens", record.tokens_as_real()),
            ("loss", record.loss),
            ("learning_rate", record.learning_rate),
            ("grad_norm", record.grad_norm),
            ("tokens_per_second", record.tokens_per_second),
        ];
        scalars.extend(record.expert_imbalance.map(|imbalance| ("expert_imbalance", imbalance)));
        self.events.append(&event_record(record.step, &scalars))
    }

    pub(crate) fn append_validation(&mut self, record: &ValidationRecord) -> Result<(), Error> {
        self.validation.append(&json_line(record))
    }

    pub(crate) fn lengths(&self) -> LogLengths {
        LogLengths {
            steps_bytes: self.steps.len_bytes,
            validation_bytes: self.validation.len_bytes,
            events_bytes: self.events.len_bytes,
        }
    }

    /// Returns once everything is on the medium: a state must not count lines that a crash can take.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        for file in [&self.steps, &self.validation, &self.events] {
            file.file.sync()?;
        }
        Ok(())
    }
}

impl StepRecord {
    #[expect(clippy::cast_precision_loss, reason = "a curve for people")]
    fn tokens_as_real(&self) -> f64 {
        self.tokens as f64
    }
}

fn json_line(record: &impl Serialize) -> Vec<u8> {
    // Numbers and names always have a form in JSON.
    let mut line = serde_json::to_vec(record).unwrap_or_default();
    line.push(b'\n');
    line
}
