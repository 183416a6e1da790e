//! How to resume from a start point: the record beside it, and what to tell each trainer.
//!
//! Decides nothing about checkpoints: `recover` and the command line do. The texts name only options that the trainers'
//! own documents and sources name.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_lab::config::{MomentsPolicy, StartSection, StartState};
use thalweg_merge::output_format::OptimizerPolicy;
use thalweg_trajectory::TrajectoryCheckpoint;

use crate::Error;
use crate::document::{DocumentKind, pretty_json};
use crate::recover::RecoveryPlan;
use crate::text::name_of;

/// Name of the file in the start point's folder.
pub const START_NAME: &str = thalweg_merge::own::START_NAME;
pub(crate) const START: DocumentKind =
    DocumentKind::new("the policy of a start point", thalweg_merge::own::START_KIND, 1);

/// What is known of learning rates for continued training from a merge.
const CPT_ADVICE: &str = "the peak that you would use from the newest checkpoint, with a warmup: the paper \
    found no need to retune it for a merge (arXiv 2505.12082, figure 6, one model: its usual peak of 4.1e-4 and half of that \
    ended equal)";
/// What is known of learning rates for fine-tuning from a merge.
const SFT_ADVICE: &str = "the peak that you would use from the newest checkpoint, with a warmup: of 1e-5, 2e-5 and 4e-5 the \
    paper found the first two best for one model of 15B active parameters, and no gain on others (arXiv 2505.12082, table 1)";

/// What a start point is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartPurpose {
    /// To resume a run from before a spike.
    Recovery,
    /// To continue pre-training, with other data or another schedule.
    Cpt,
    /// To fine-tune on examples.
    Sft,
}

/// What becomes of the batches between the checkpoint and the end of the spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataPolicy {
    /// They are skipped.
    Skip,
    /// They are read again.
    Replay,
}

/// A checkpoint that a start point was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSource {
    /// Its folder or file.
    pub path: PathBuf,
    /// Its step, where that is known.
    pub step: Option<u64>,
}

/// The learning rate to resume with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningRatePolicy {
    /// What the step log has at the newest source; nothing where the log has no learning rate.
    pub at_newest_source: Option<f64>,
    /// What to do, in words.
    pub advice: String,
}

/// Everything besides the parameters that decides how training continues from a start point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatePolicy {
    /// Always `thalweg-start-policy`.
    pub kind: String,
    /// Always 1.
    pub version: u64,
    /// What it is for.
    pub purpose: StartPurpose,
    /// The checkpoint to start from.
    pub checkpoint: PathBuf,
    /// Its format, as `thalweg inspect` names it.
    #[serde(default = "safetensors")]
    pub format: String,
    /// What its files have of the optimizer's state.
    #[serde(default)]
    pub optimizer: OptimizerPolicy,
    /// What it was made of, oldest first. One alone is the checkpoint itself.
    pub sources: Vec<StartSource>,
    /// How much of the training state is kept.
    pub state: StartState,
    /// The optimizer's moments.
    pub moments: MomentsPolicy,
    /// The batches since the newest source.
    pub data: DataPolicy,
    /// Steps of data that are skipped from the newest source on; 0 for replay.
    pub skip_data_steps: u64,
    /// The learning rate.
    pub learning_rate: LearningRatePolicy,
}

/// What to do in one trainer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainerInstructions {
    /// Its name.
    pub trainer: &'static str,
    /// One thing to do on each line.
    pub lines: Vec<String>,
}

impl RecoveryPlan {
    /// Steps of data to skip after the newest source: through the last step before the loss was back, or through the
    /// peak where it did not recover.
    pub fn skip_data_steps(&self, data: DataPolicy) -> u64 {
        let Some(newest) = self.sources.last().filter(|_| data == DataPolicy::Skip) else { return 0 };
        let last = self.spike.end.map_or(self.spike.peak.0, |end| end.0.saturating_sub(1));
        last.saturating_sub(newest.step.0)
    }
}

impl StatePolicy {
    /// The policy of a checkpoint to resume from, before or at the newest source.
    pub fn for_recovery(plan: &RecoveryPlan, checkpoint: PathBuf, moments: MomentsPolicy, data: DataPolicy) -> Self {
        let step = plan.sources.last().map_or(0, |newest| newest.step.0);
        let advice = match plan.learning_rate {
            Some(rate) => format!("the schedule's at step {step}, where the log has {rate}"),
            None => format!("the schedule's at step {step}"),
        };
        let sources = start_sources(&plan.sources);
        Self {
            state: StartState::Full,
            moments,
            data,
            skip_data_steps: plan.skip_data_steps(data),
            learning_rate: LearningRatePolicy { at_newest_source: plan.learning_rate, advice },
            ..Self::for_start(StartPurpose::Recovery, sources, checkpoint, None)
        }
    }

    /// The policy of a start point for continued training or fine-tuning: parameters alone; moments and steps start
    /// again.
    pub fn for_start(purpose: StartPurpose, sources: Vec<StartSource>, checkpoint: PathBuf, rate: Option<f64>) -> Self {
        let advice = match purpose {
            StartPurpose::Sft => SFT_ADVICE,
            _ => CPT_ADVICE,
        };
        Self {
            kind: START.kind.to_owned(),
            version: START.version,
            purpose,
            checkpoint,
            format: safetensors(),
            optimizer: OptimizerPolicy::Drop,
            sources,
            state: StartState::ParamsOnly,
            moments: MomentsPolicy::Reset,
            data: DataPolicy::Replay,
            skip_data_steps: 0,
            learning_rate: LearningRatePolicy { at_newest_source: rate, advice: advice.to_owned() },
        }
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// `ReportForm`, `ReportKind`.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        START.read(text.as_bytes())
    }

    /// The policy as a file: the same policy always gives the same text.
    ///
    /// # Errors
    /// `ReportForm`.
    pub fn to_json(&self) -> Result<String, Error> {
        pretty_json(self)
    }

    /// The step at which training resumes: that of the newest source, or nothing where it starts again.
    pub fn step(&self) -> Option<u64> {
        match self.state {
            StartState::Full => self.newest().and_then(|source| source.step),
            StartState::ParamsOnly => None,
        }
    }

    /// The newest source.
    pub fn newest(&self) -> Option<&StartSource> {
        self.sources.last()
    }

    /// Whether the checkpoint is a merge, and not a checkpoint of the run itself.
    pub fn is_merge(&self) -> bool {
        self.sources.len() > 1
    }

    /// The `[start]` of a config of `thalweg train`.
    pub fn start_section(&self) -> StartSection {
        let moments = match self.state {
            StartState::ParamsOnly => None,
            StartState::Full => Some(self.moments),
        };
        StartSection {
            from: self.checkpoint.clone(),
            state: self.state,
            moments,
            skip_data_steps: self.skip_data_steps,
        }
    }

    /// The same policy for a checkpoint with other files than safetensors without an optimizer.
    #[must_use]
    pub fn with_files(self, format: impl Into<String>, optimizer: OptimizerPolicy) -> Self {
        Self { format: format.into(), optimizer, ..self }
    }

    pub(crate) fn for_lab(&self) -> Vec<String> {
        let section = self.start_section();
        let mut lines = vec!["[start]".to_owned(), format!("from = {}", toml_string(&section.from))];
        lines.push(format!("state = \"{}\"", name_of(section.state)));
        lines.extend(section.moments.map(|moments| format!("moments = \"{}\"", name_of(moments))));
        if section.skip_data_steps > 0 {
            lines.push(format!("skip_data_steps = {}", section.skip_data_steps));
        }
        lines
    }

    /// As transformers 5.23 has it: `Trainer._load_optimizer_and_scheduler` loads both files or neither.
    pub(crate) fn for_hugging_face(&self) -> Vec<String> {
        let (checkpoint, newest) = (self.checkpoint.display(), self.newest_path());
        let goes_on = self.state == StartState::Full && self.moments != MomentsPolicy::Reset;
        let mut lines = Vec::new();
        if !goes_on {
            lines.push(format!("model = AutoModelForCausalLM.from_pretrained(\"{checkpoint}\")"));
            lines.push("trainer.train() without resume_from_checkpoint: moments and schedule start over".to_owned());
            if let Some(step) = self.step() {
                lines.push(format!("subtract step {step} from max_steps, and give warmup_steps for the fresh moments"));
            }
        } else if self.is_merge() {
            let files = "optimizer.pt, scheduler.pt, rng_state*.pth and trainer_state.json";
            lines.push(format!("copy {files} of `{newest}` into `{checkpoint}`"));
            lines.push(format!("trainer.train(resume_from_checkpoint=\"{checkpoint}\")"));
        } else {
            lines.push(format!("trainer.train(resume_from_checkpoint=\"{checkpoint}\")"));
        }
        if goes_on && self.moments == MomentsPolicy::Average {
            lines.push("Trainer does not average moments: these are the newest source's".to_owned());
        }
        lines.extend(match (self.purpose, self.data, goes_on) {
            (StartPurpose::Recovery, DataPolicy::Skip, _) => {
                self.dataset_from(if goes_on { ", with ignore_data_skip=True" } else { "" })
            }
            (StartPurpose::Recovery, DataPolicy::Replay, true) => {
                Some("the data continue at that step automatically: leave ignore_data_skip at False".to_owned())
            }
            (StartPurpose::Recovery, DataPolicy::Replay, false) => self.dataset_from(""),
            _ => None,
        });
        lines
    }

    /// A data set that begins where training should continue, for trainers that only know "from the beginning".
    fn dataset_from(&self, how: &str) -> Option<String> {
        let step = self.newest()?.step? + self.skip_data_steps;
        Some(format!("give a train set that begins after step {step}: dataset.skip({step} * global batch size){how}"))
    }

    /// How torchtitan starts from the parameters, with further options.
    pub(crate) fn params_alone_in_torchtitan(&self, options: &str) -> Vec<String> {
        let checkpoint = self.checkpoint.display();
        let mut lines = vec![
            format!("--checkpoint.enable --checkpoint.initial_load_path \"{checkpoint}\"{options}"),
            "with an empty checkpoint.folder: only the parameters are loaded, so moments, schedule and data start over"
                .to_owned(),
        ];
        if let (StartPurpose::Recovery, Some(step)) = (self.purpose, self.step()) {
            lines.push(format!("subtract step {step} from training.steps, and give lr_scheduler.warmup_steps"));
            lines.push(format!(
                "there is no option to skip data: let the data set begin after step {}",
                step + self.skip_data_steps
            ));
        }
        lines
    }

    /// As docs/checkpoint.md and the checkpoint options of torchtitan have it.
    pub(crate) fn for_torchtitan(&self) -> Vec<String> {
        let mut lines = self.params_alone_in_torchtitan(" --checkpoint.initial_load_in_hf");
        if self.state == StartState::Full && self.moments != MomentsPolicy::Reset {
            lines.push(
                "moments are kept only with torchtitan's own checkpoint: --checkpoint.load_step resumes it, unmerged"
                    .to_owned(),
            );
        }
        lines
    }

    /// As megatron/training/arguments.py and Megatron Bridge's guide have it.
    pub(crate) fn for_megatron(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "convert with Megatron Bridge: AutoBridge.import_ckpt(\"{}\", DIR)",
            self.checkpoint.display()
        )];
        lines.push("--load DIR --finetune: without optimizer and random state, from iteration 0".to_owned());
        let Some(step) = self.step().filter(|_| self.purpose == StartPurpose::Recovery) else { return lines };
        lines.push(format!("subtract step {step} from --train-iters, and give --lr-warmup-iters"));
        lines.push(format!("the samples start over: let --data-path begin after step {}", step + self.skip_data_steps));
        let mut unmerged = format!("unmerged, with the moments kept: --load RUN --ckpt-step {step}");
        if self.skip_data_steps > 0 {
            let (first, last) = (step + 1, step + self.skip_data_steps);
            // Writing to a String cannot fail.
            let _ = write!(unmerged, " --iterations-to-skip $(seq {first} {last})");
        }
        lines.push(unmerged);
        lines
    }

    fn newest_path(&self) -> String {
        self.newest().map_or_else(String::new, |source| source.path.display().to_string())
    }
}

fn safetensors() -> String {
    "safetensors".to_owned()
}

/// Checkpoints of a run as a policy names them.
pub fn start_sources(checkpoints: &[TrajectoryCheckpoint]) -> Vec<StartSource> {
    let source = |one: &TrajectoryCheckpoint| StartSource { path: one.path.clone(), step: Some(one.step.0) };
    checkpoints.iter().map(source).collect()
}

/// A path as TOML's basic string, whose escapes are those of JSON.
fn toml_string(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().as_ref()).to_string()
}
