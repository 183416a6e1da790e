//! The record of a study: plain data, one JSON file with `kind` and `version`, from which the page is made.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thalweg_storage::guard::OwnKind;

use crate::Error;

/// `kind` of a report file.
pub const REPORT_KIND: &str = "thalweg-report";
/// What marks a file as the report of a demo. Only such a file may be replaced.
pub const REPORT_FILE: OwnKind<'_> = OwnKind::json("the report of a demo", REPORT_KIND);
/// `version` of the report files that this program writes and reads.
pub const REPORT_VERSION: u64 = 1;

/// What a study says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`REPORT_KIND`].
    pub kind: String,
    /// Always [`REPORT_VERSION`].
    pub version: u64,
    /// Program and version that made it.
    pub tool: String,
    /// What the page is called.
    pub title: String,
    /// A caution, shown above everything else: sizes too small to trust, made-up data.
    pub caution: Option<String>,
    /// The seed of the run; one report is one seed.
    pub seed: u64,
    /// Training tokens of one optimizer step.
    pub tokens_per_step: u64,
    /// Learning-rate phases of the run, in order.
    pub phases: Vec<PhaseSpan>,
    /// Steps of the checkpoints that the run has, scored or not.
    pub checkpoints: Vec<u64>,
    /// The run's own training loss and learning rate, by step.
    pub training: Vec<TrainingPoint>,
    /// The run that was forked off to be annealed.
    pub anneal: Option<AnnealRun>,
    /// Every model that was scored.
    pub models: Vec<ScoredModel>,
    /// Paired differences of held-out scores.
    pub gains: Vec<Gain>,
    /// Which merge the headline is about, and how it was chosen.
    pub choice: Option<Choice>,
    /// Name of the newest raw checkpoint of the run, which merges are compared with.
    pub baseline: String,
    /// What was run, to read: name and value, in order.
    pub facts: Vec<Fact>,
    /// Where the time went.
    pub seconds: Vec<StageSeconds>,
    /// Commands that do the same on one's own checkpoints.
    pub commands: Vec<ShellCommand>,
}

/// A learning-rate phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseName {
    /// The learning rate rises.
    Warmup,
    /// It is constant.
    Stable,
    /// It falls.
    Anneal,
}

/// Steps of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Which phase.
    pub phase: PhaseName,
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
    /// Mean training loss in nats a token.
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

/// What a scored model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A checkpoint as training left it, at a constant learning rate.
    Raw,
    /// An average of checkpoints.
    Merged,
    /// A checkpoint of the annealed fork.
    Annealed,
}

/// Held-out text: what decides, and what reports, are never the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Decides between merges.
    Validation,
    /// Reported, and never looked at for a decision.
    Test,
}

impl Split {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// A model with its scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredModel {
    /// Name, unique in the report.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Optimizer steps behind it; for a merge those of its newest source.
    pub step: u64,
    /// How it was merged.
    pub merge: Option<MergeOf>,
    /// Held-out scores.
    pub scores: Vec<HeldOut>,
    /// Digest of its parameters, where one was taken.
    pub digest: Option<String>,
}

/// How a merge was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergeOf {
    /// The scheme, as `thalweg merge --scheme` takes it.
    pub scheme: String,
    /// Steps between neighbours of the window.
    pub interval_steps: u64,
    /// The window, oldest first.
    pub sources: Vec<MergeSource>,
    /// Digest of the plan.
    pub plan_digest: Option<String>,
}

/// One checkpoint of a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MergeSource {
    /// Its step.
    pub step: u64,
    /// Its coefficient, to read.
    pub coefficient: f64,
}

/// Mean loss on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Which text.
    pub split: Split,
    /// Nats a token; lower is better.
    pub nll_nats: f64,
    /// Standard error of it over documents.
    pub standard_error: f64,
    /// Bits a byte of text; lower is better.
    pub bits_per_byte: f64,
    /// Documents.
    pub n_documents: u64,
    /// Scored tokens.
    pub n_tokens: u64,
}

/// How much better one model is than another on the same documents: positive is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The model that is judged.
    pub model: String,
    /// What it is compared with.
    pub over: String,
    /// On which text.
    pub split: Split,
    /// Nats a token; positive is better.
    pub gain_nats: f64,
    /// 95 % interval of it, over documents.
    pub interval_95: [f64; 2],
    /// Documents in the pairing.
    pub n_documents: u64,
}

/// The merge that the headline is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its name.
    pub model: String,
    /// The text that decided.
    pub by: Split,
    /// Among how many.
    pub n_candidates: u64,
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

/// What is read first, to say what a file is before saying what is wrong in it.
#[derive(Deserialize)]
struct Head {
    kind: String,
    version: u64,
}

impl Report {
    /// Reads a report and checks that it is whole.
    ///
    /// # Errors
    /// `ReportForm`, `ReportKind`, or `ReportContent` where names are missing or numbers are not finite.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let head: Head = serde_json::from_str(text).map_err(|source| Error::ReportForm { source })?;
        if head.kind != REPORT_KIND || head.version != REPORT_VERSION {
            return Err(Error::ReportKind {
                what: "the report of a demo",
                expected_kind: REPORT_KIND,
                expected_version: REPORT_VERSION,
                kind: head.kind,
                version: head.version,
            });
        }
        let report: Self = serde_json::from_str(text).map_err(|source| Error::ReportForm { source })?;
        report.check()?;
        Ok(report)
    }

    /// The report as a file: the same record always gives the same text.
    ///
    /// # Errors
    /// `ReportContent` where the record is not whole; nothing is written that could not be read again.
    pub fn to_json(&self) -> Result<String, Error> {
        self.check()?;
        let mut text = serde_json::to_string_pretty(self).map_err(|source| Error::ReportForm { source })?;
        text.push('\n');
        Ok(text)
    }

    fn check(&self) -> Result<(), Error> {
        let fault = |what: String| Err(Error::ReportContent { what });
        let mut names = BTreeSet::new();
        for model in &self.models {
            if !names.insert(model.name.as_str()) {
                return fault(format!("two models are called `{}`", model.name));
            }
            let scores = model.scores.iter();
            if !scores.flat_map(|s| [s.nll_nats, s.standard_error, s.bits_per_byte]).all(f64::is_finite) {
                return fault(format!("a score of `{}` is not a number", model.name));
            }
            if model.role == Role::Merged && model.merge.as_ref().is_none_or(|merge| merge.sources.is_empty()) {
                return fault(format!("`{}` is a merge of nothing", model.name));
            }
        }
        let gains = self.gains.iter().flat_map(|gain| [&gain.model, &gain.over]);
        let choice = self.choice.iter().map(|choice| &choice.model);
        if let Some(name) = gains.chain(choice).chain([&self.baseline]).find(|name| !names.contains(name.as_str())) {
            return fault(format!("there is no model `{name}`"));
        }
        Ok(())
    }

    /// The model called `name`.
    pub fn model(&self, name: &str) -> Option<&ScoredModel> {
        self.models.iter().find(|model| model.name == name)
    }

    /// Gain of one model over another on one text.
    pub fn gain(&self, model: &str, over: &str, split: Split) -> Option<&Gain> {
        self.gains.iter().find(|gain| gain.model == model && gain.over == over && gain.split == split)
    }

    /// Models of one role, by step, then in the order of the record.
    pub(crate) fn of_role(&self, role: Role) -> Vec<&ScoredModel> {
        let mut models: Vec<&ScoredModel> = self.models.iter().filter(|model| model.role == role).collect();
        models.sort_by_key(|model| model.step);
        models
    }

    /// Training tokens behind a step.
    pub(crate) fn tokens_at(&self, step: u64) -> u64 {
        step.saturating_mul(self.tokens_per_step)
    }

    /// The last step that anything in the report knows.
    pub(crate) fn last_step(&self) -> u64 {
        let models = self.models.iter().map(|model| model.step);
        let anneal = self.anneal.iter().map(|anneal| anneal.end_step);
        let training = self.training.iter().map(|point| point.step);
        models.chain(anneal).chain(training).max().unwrap_or(0)
    }
}

impl ScoredModel {
    /// Its score on one text.
    pub fn score(&self, split: Split) -> Option<&HeldOut> {
        self.scores.iter().find(|score| score.split == split)
    }
}

impl Gain {
    /// Whether the interval leaves out zero, and on which side it is.
    pub fn verdict(&self) -> GainVerdict {
        match self.interval_95 {
            [low, _] if low > 0.0 => GainVerdict::Better,
            [_, high] if high < 0.0 => GainVerdict::Worse,
            _ => GainVerdict::Undecided,
        }
    }
}

/// What a gain and its interval say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GainVerdict {
    /// Better beyond the interval.
    Better,
    /// Worse beyond the interval.
    Worse,
    /// The interval holds zero.
    Undecided,
}
