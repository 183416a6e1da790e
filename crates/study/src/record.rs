//! The record of a sweep, forecast or recovery over one run: plain data, one JSON file, from which its page and table
//! are made.
//!
//! A [`StudyRecord`] holds whatever was asked about a run: each part may be empty. Paths in it are to read, never to
//! open.

use serde::{Deserialize, Serialize};
use thalweg_eval::Suite;
use thalweg_trajectory::Phase;

use crate::Error;
use crate::document::{DocumentKind, pretty_json};

/// The record of a study.
pub(crate) const STUDY: DocumentKind = DocumentKind::new("the record of a study", "thalweg-study", 2);
/// Name of the file in a study's folder.
pub(crate) const STUDY_NAME: &str = "study.json";

/// What was found out about one run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StudyRecord {
    /// Always `thalweg-study`.
    pub kind: String,
    /// The version of the form.
    pub version: u64,
    /// Program and version that made it.
    pub tool: String,
    /// The command that made it, to type again.
    pub command: String,
    /// What the page is called.
    pub title: String,
    /// What a reader must know first: sizes too small to trust, made-up data.
    #[serde(default)]
    pub caution: Option<String>,
    /// The run's folder.
    pub run_path: String,
    /// Whether its merges come as it trains: the newest ones matter, and none is chosen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_watched: bool,
    /// What was scored on.
    #[serde(default)]
    pub suites: Vec<SuiteRow>,
    /// Learning-rate phases of the run, in order.
    #[serde(default)]
    pub phases: Vec<PhaseSpan>,
    /// The run's step log: loss and learning rate by step.
    #[serde(default)]
    pub training: Vec<TrainingPoint>,
    /// Finished checkpoints of the run, scored or not.
    #[serde(default)]
    pub checkpoints: Vec<CheckpointRow>,
    /// Checkpoints as training left them, scored.
    #[serde(default)]
    pub raws: Vec<RawRow>,
    /// Merges, scored.
    #[serde(default)]
    pub trials: Vec<TrialRow>,
    /// Really annealed checkpoints, scored: the truth, once it is known. Gains are over the newest raw checkpoint.
    #[serde(default)]
    pub annealed: Vec<RawRow>,
    /// The run that was forked off to be annealed.
    #[serde(default)]
    pub anneal: Option<AnnealRun>,
    /// The trial that was chosen, and by what.
    #[serde(default)]
    pub choice: Option<ChoiceRow>,
    /// The window that the fitted model proposes.
    #[serde(default)]
    pub proposal: Option<ProposalRow>,
    /// What an anneal would score.
    #[serde(default)]
    pub forecasts: Vec<ForecastRow>,
    /// Spikes of the step log.
    #[serde(default)]
    pub spikes: Vec<SpikeRow>,
    /// Steps of the checkpoints that are proposed to resume from.
    #[serde(default)]
    pub recovery: Vec<u64>,
    /// Geometry of the trajectory.
    #[serde(default)]
    pub geometry: Option<GeometryRow>,
    /// What was run, to read.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// Commands that do the same on one's own checkpoints.
    #[serde(default)]
    pub commands: Vec<ShellCommand>,
    /// Where the time went.
    #[serde(default)]
    pub stages: Vec<StageSeconds>,
    /// What it took.
    pub cost: CostRow,
}

/// Steps of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which phase.
    pub phase: Phase,
    /// Its first step.
    pub from_step: u64,
    /// Its last step.
    pub to_step: u64,
}

/// One line of a step log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainingPoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Mean training loss in nats per token.
    pub nll_nats: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
}

/// The real learning-rate decay that merges are compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnealRun {
    /// The step at which it leaves the run.
    pub fork_step: u64,
    /// Its last step.
    pub end_step: u64,
    /// Curve of the decay: `linear`, `cosine`, `1-sqrt`.
    pub curve: String,
    /// Learning rate at the end, as a share of the peak.
    pub floor: f64,
    /// Its training loss and learning rate.
    pub training: Vec<TrainingPoint>,
}

/// One checkpoint of a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MergeSource {
    /// Its step.
    pub step: u64,
    /// Its coefficient, to read.
    pub coefficient: f64,
}

/// A fact to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// What it is.
    pub value: String,
}

/// Time of one part of the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSeconds {
    /// The part.
    pub stage: String,
    /// Its seconds.
    pub seconds: f64,
}

/// A command to type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShellCommand {
    /// What it is for.
    pub what: String,
    /// The line.
    pub line: String,
}

/// A suite that scores come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteRow {
    /// Its name.
    pub name: String,
    /// `selection`, `report`, or nothing.
    pub role: Option<String>,
    /// Digest of its items.
    pub digest: String,
}

impl From<&Suite> for SuiteRow {
    fn from(suite: &Suite) -> Self {
        let role = suite.role.map(|role| role.name().to_owned());
        Self { name: suite.name.clone(), role, digest: suite.digest.to_string() }
    }
}

/// A finished checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRow {
    /// Its step.
    pub step: u64,
    /// Training tokens behind it, where known.
    pub tokens: Option<u64>,
    /// Seconds since training began, where the log says.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// One score of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Suite by name.
    pub suite: String,
    /// Task of the suite.
    pub task: String,
    /// `nats_per_token`, `bits_per_byte`, `acc` and so on.
    pub measure: String,
    /// The value.
    pub value: f64,
    /// Its standard error over items, where there is one.
    pub standard_error: Option<f64>,
    /// Items.
    pub n: u64,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Gain over the newest raw checkpoint of the window on the same items, positive is better, with its 95 % interval.
    #[serde(default)]
    pub gain: Option<GainRow>,
    /// The same over the chosen merge, for an annealed checkpoint at its step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain_over_chosen: Option<GainRow>,
}

/// A paired difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GainRow {
    /// Positive is better.
    pub value: f64,
    /// 95 % interval, where there are two items.
    pub interval_95: Option<[f64; 2]>,
}

/// A scored checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawRow {
    /// Its step.
    pub step: u64,
    /// Where it is, to read.
    pub path: String,
    /// Digest of its parameters.
    pub params_digest: Option<String>,
    /// Its scores.
    pub scores: Vec<ScoreRow>,
}

/// A scored merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRow {
    /// Unique name, as its folder is called if it is kept.
    pub name: String,
    /// Digest of its plan.
    pub plan_digest: String,
    /// Step of its newest source.
    pub end_step: u64,
    /// Checkpoints in the window.
    pub n_checkpoints: usize,
    /// Steps between neighbours, where they are equal.
    pub interval_steps: Option<u64>,
    /// Tokens between neighbours, where asked for in tokens.
    pub interval_tokens: Option<u64>,
    /// The scheme, as `thalweg merge --scheme` takes it.
    pub scheme: String,
    /// Where it was written, if it was.
    pub path: Option<String>,
    /// Digest of its parameters.
    pub params_digest: Option<String>,
    /// The window, oldest first.
    pub sources: Vec<MergeSource>,
    /// Its scores.
    pub scores: Vec<ScoreRow>,
}

/// Which trial was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceRow {
    /// Its name.
    pub trial: String,
    /// The suite that decided.
    pub suite: String,
    /// The task that decided.
    pub task: String,
    /// The measure that decided.
    pub measure: String,
    /// Among how many.
    pub n_candidates: usize,
}

/// A proposed window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposalRow {
    /// Checkpoints.
    pub n_checkpoints: usize,
    /// Lowest and highest number that the data leave possible (95 %).
    pub n_interval_95: [usize; 2],
    /// Steps between neighbours.
    pub interval_steps: u64,
    /// The scheme.
    pub scheme: String,
    /// What it rests on, or why the data do not support a proposal.
    pub rests_on: String,
}

/// A forecast of the annealed score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForecastRow {
    /// The task.
    pub task: String,
    /// The measure.
    pub measure: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Step at which the anneal would end.
    pub end_step: u64,
    /// Steps of the anneal.
    pub anneal_steps: u64,
    /// `linear`, `cosine` or `1-sqrt`.
    pub curve: String,
    /// Learning rate at the end, as a share of the peak.
    pub floor: f64,
    /// Score of the newest raw checkpoint.
    pub raw: f64,
    /// Score of the merge that imitates the anneal.
    pub imitation: f64,
    /// The forecast.
    pub value: f64,
    /// 80 % interval.
    pub interval_80: [f64; 2],
    /// 95 % interval.
    pub interval_95: [f64; 2],
    /// What the real anneal scored, once it is known.
    #[serde(default)]
    pub truth: Option<f64>,
    /// What the forecast is based on.
    pub rests_on: String,
}

/// A spike of the step log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpikeRow {
    /// First step that is off.
    pub onset: u64,
    /// Step of the highest loss.
    pub peak: u64,
    /// First step that is back; nothing if it did not recover.
    pub end: Option<u64>,
    /// What showed it.
    pub signal: String,
}

/// Geometry of a trajectory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeometryRow {
    /// Steps of its checkpoints, oldest first.
    pub steps: Vec<u64>,
    /// Length of each displacement, one less than steps.
    pub displacements: Vec<f64>,
    /// Cosine of each displacement with the next, two less than steps.
    pub displacement_cosines: Vec<Option<f64>>,
    /// Shares of the leading principal components.
    pub component_shares: Vec<f64>,
    /// The same for a random walk of as many steps.
    pub random_walk_shares: Vec<f64>,
    /// Coordinates on the first two components.
    pub plane: Vec<[f64; 2]>,
    /// By group of tensors (layer, embedding, head).
    pub groups: Vec<GroupRow>,
    /// Norm of the newest checkpoint.
    #[serde(default)]
    pub newest_norm: Option<f64>,
    /// Distance of the plain mean of all checkpoints to the newest one.
    #[serde(default)]
    pub mean_to_newest: Option<f64>,
}

/// One group of tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Such as `layer 3`.
    pub name: String,
    /// Mean length of a displacement over the norm of the newest checkpoint.
    pub relative_displacement: f64,
    /// Mean cosine of successive displacements.
    pub mean_cosine: Option<f64>,
}

/// What a study took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CostRow {
    /// Bytes of sources that were read.
    pub bytes_read: u64,
    /// Models that were scored, not counting what the cache had.
    pub n_evaluations: u64,
    /// Tokens that were scored.
    pub n_tokens: u64,
    /// Wall time.
    pub seconds: f64,
}

impl StudyRecord {
    /// An empty record.
    pub fn new(title: impl Into<String>, run_path: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            kind: STUDY.kind.to_owned(),
            version: STUDY.version,
            tool: format!("thalweg {}", env!("CARGO_PKG_VERSION")),
            command: command.into(),
            title: title.into(),
            run_path: run_path.into(),
            ..Self::default()
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `ReportForm`, `ReportKind`.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        STUDY.read(text.as_bytes())
    }

    /// The record as a file: the same record always gives the same text.
    ///
    /// # Errors
    /// `ReportForm`.
    pub fn to_json(&self) -> Result<String, Error> {
        pretty_json(self)
    }
}
