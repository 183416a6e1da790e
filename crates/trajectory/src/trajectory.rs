//! A run as its ordered checkpoints with tokens and phases, and its step log.
//!
//! Joins what names, states, logs and the user say about tokens. It chooses nothing: `window` does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use thalweg_checkpoint::{CatalogCache, ReadOptions};
use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::display_name;

use crate::checkpoint_name::{CheckpointName, NameCount, NameTokens};
use crate::error::list_names;
use crate::layout::parse_entry_name;
use crate::phase::{Phase, Phases, StableRange, detect_phases};
use crate::run_config::{RunConfig, read_run_config};
use crate::run_dir::{RunCheckpoint, RunDir};
use crate::spike::{Spike, SpikeOptions, detect_spikes};
use crate::state::{CheckpointState, Fault};
use crate::step_log::{ColumnMap, LogError, LogOptions, StepLog, TrainerState, parse_trainer_progress};
use crate::{Error, NamePattern, Step, Tokens, TokensPerStep};

/// The name of the state that Hugging Face's Trainer saves.
pub const TRAINER_STATE_NAME: &str = "trainer_state.json";
const MAX_TRAINER_STATE_BYTES: u64 = 256 << 20;
/// Logs that are looked for in a run folder, first match wins, after the ones that are named and trainers' states.
const LOG_NAMES: [&str; 6] =
    ["log.jsonl", "train_log.jsonl", "metrics.jsonl", "log.csv", "train_log.csv", "metrics.csv"];

/// Entries of a log whose spacing shows how far it may lag behind the newest checkpoint.
const STOP_ENTRIES: usize = 10;

/// Where the tokens of a checkpoint come from. Earlier ones win over later ones: a user's word first, then exact
/// counts, names last because they are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokensSource {
    /// The user's tokens per step.
    Given,
    /// `tokens_per_step` in `thalweg.toml`.
    RunConfig,
    /// `num_input_tokens_seen` of its `trainer_state.json`.
    TrainerState,
    /// The entry of the step log at its step.
    Log,
    /// The step log's entries around its step, between which each step has the same number of tokens.
    LogInterpolated,
    /// Its name.
    Name,
}

impl fmt::Display for TokensSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "the given tokens per step",
            Self::RunConfig => "`thalweg.toml`",
            Self::TrainerState => "`trainer_state.json`",
            Self::Log => "the step log",
            Self::LogInterpolated => "the step log, interpolated",
            Self::Name => "the name",
        })
    }
}

/// A checkpoint of a trajectory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrajectoryCheckpoint {
    /// Its folder or file.
    pub path: PathBuf,
    /// The name that says the step.
    pub name: String,
    /// The step.
    pub step: Step,
    /// Tokens so far, if they are known.
    pub tokens: Option<Tokens>,
    /// Where the tokens come from.
    pub tokens_source: Option<TokensSource>,
    /// How far the tokens may be off: 0, or one unit of the last digit of a name.
    pub tokens_unit: u64,
    /// The phase, if it is known.
    pub phase: Option<Phase>,
    /// The stage in its name, if any.
    pub stage: Option<String>,
    /// The epoch beside the step in the name, if any.
    pub epoch: Option<u64>,
    /// Whether it can be used.
    pub state: CheckpointState,
    /// Its format, if it could be opened.
    pub format: Option<&'static str>,
    /// What casts doubt on its content although it can be used.
    pub doubts: Vec<thalweg_checkpoint::Note>,
}

/// Something a user should know about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrajectoryNote {
    /// Two sources do not agree on the tokens of a step.
    TokensDiffer {
        /// The first such step.
        step: Step,
        /// The source that is used, and what it says.
        used: (TokensSource, Tokens),
        /// The other one, and what it says.
        unused: (TokensSource, Tokens),
        /// At how many further steps these two differ.
        n_more: usize,
    },
    /// A trainer's state of another step than its folder.
    StateOfOtherStep {
        /// The checkpoint's name.
        name: String,
        /// The step in the name.
        step: Step,
        /// The step in the state.
        state_step: Step,
    },
    /// A trainer's state that cannot be read.
    StateUnreadable {
        /// The checkpoint's name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// More than one finished checkpoint at a step.
    DuplicateStep {
        /// The step.
        step: Step,
        /// Their names.
        names: Vec<String>,
    },
    /// A log that was found, not asked for, and cannot be read.
    LogUnreadable {
        /// The error in full.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// No name has a step, so epochs serve as steps.
    EpochsForSteps,
    /// Checkpoints that are named by epoch, in a run whose other checkpoints are named by step.
    EpochsIgnored {
        /// Their names.
        names: Vec<String>,
    },
    /// Names with a step that are links to other checkpoints of the run.
    LinksIgnored {
        /// Their names.
        names: Vec<String>,
    },
    /// Names with a step that are links to nothing.
    LinksBroken {
        /// Their names.
        names: Vec<String>,
    },
    /// A remark on the log.
    Log(crate::LogNote),
    /// The log ends long before the newest checkpoint.
    LogStops {
        /// The last step with a loss.
        last: Step,
        /// The step of the newest checkpoint.
        newest: Step,
    },
    /// The log goes far beyond the newest checkpoint.
    LogAhead {
        /// The last step with a loss.
        last: Step,
        /// The step of the newest checkpoint.
        newest: Step,
    },
}

impl fmt::Display for TrajectoryNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokensDiffer { step, used, unused, n_more } => {
                write!(
                    f,
                    "step {step} has {} tokens according to {} (used) and {} according to {}",
                    used.1, used.0, unused.1, unused.0
                )?;
                if *n_more > 0 { write!(f, "; {n_more} more steps differ as well") } else { Ok(()) }
            }
            Self::StateOfOtherStep { name, step, state_step } => {
                let name = display_name(name);
                write!(
                    f,
                    "`{name}` is step {step} according to its name and step {state_step} according to its `{TRAINER_STATE_NAME}`, which is ignored"
                )
            }
            Self::StateUnreadable { name, reason } => {
                write!(f, "`{TRAINER_STATE_NAME}` of `{}` cannot be read: {reason}", display_name(name))
            }
            Self::DuplicateStep { step, names } => {
                write!(f, "step {step} appears more than once: {}", list_names(names))
            }
            Self::LogUnreadable { reason, .. } => write!(f, "a step log was found but cannot be used: {reason}"),
            Self::EpochsForSteps => {
                f.write_str("the names count epochs, not steps: every step shown or given is an epoch")
            }
            Self::EpochsIgnored { names } => {
                let names = list_names(names);
                write!(f, "checkpoints named by epoch are ignored because others are named by step: {names}")
            }
            Self::LinksIgnored { names } => {
                write!(f, "links to other checkpoints of this run are ignored: {}", list_names(names))
            }
            Self::LinksBroken { names } => {
                write!(f, "broken links are ignored: {}", list_names(names))
            }
            Self::Log(note) => note.fmt(f),
            Self::LogAhead { last, newest } => write!(
                f,
                "the step log ends at step {last}, far beyond the newest checkpoint, step {newest}: if it counts anything \
                 but the optimizer's steps, say which column does with `--log-columns step=NAME`"
            ),
            Self::LogStops { last, newest } => write!(
                f,
                "the step log ends at step {last}, but the newest checkpoint is step {newest}: the log says \
                 nothing about the steps in between"
            ),
        }
    }
}

/// What a user says about a run.
#[derive(Debug, Clone, Default)]
pub struct TrajectoryOptions {
    /// Tokens in each step.
    pub tokens_per_step: Option<TokensPerStep>,
    /// The stable phase.
    pub stable: Option<StableRange>,
    /// Files and folders that make up the step log, in order. If empty, the log is looked for in the run folder.
    pub log_paths: Vec<PathBuf>,
    /// Names of columns in the log.
    pub columns: ColumnMap,
    /// Steps between two losses, for a log without steps.
    pub log_every: Option<u64>,
    /// How checkpoints are read.
    pub reading: ReadOptions,
    /// What is shared with others that open the same checkpoints.
    pub cache: Arc<CatalogCache>,
    /// Which names are checkpoints, and where they say the step.
    pub pattern: Option<NamePattern>,
}

impl TrajectoryOptions {
    /// The first option that says how to read a log, and does nothing without one.
    fn idle_without_log(&self) -> Option<&'static str> {
        match (self.columns == ColumnMap::default(), self.log_every) {
            (false, _) => Some("--log-columns"),
            (true, Some(_)) => Some("--log-every"),
            (true, None) => None,
        }
    }
}

/// The ordered checkpoints of one run with their log.
#[derive(Debug, Clone)]
pub struct Trajectory {
    pub(crate) path: PathBuf,
    pub(crate) checkpoints: Vec<TrajectoryCheckpoint>,
    pub(crate) log: Option<StepLog>,
    pub(crate) log_paths: Vec<PathBuf>,
    pub(crate) spikes: OnceLock<Vec<Spike>>,
    pub(crate) phases: Option<Phases>,
    /// Of the run's `thalweg.toml`.
    pub(crate) tokens_per_step: Option<TokensPerStep>,
    pub(crate) notes: Vec<TrajectoryNote>,
}

impl Trajectory {
    /// Reads a run folder with its states, log and `thalweg.toml`.
    ///
    /// The log is the one given, else the one named in `thalweg.toml`, else the `trainer_state.json` of the run folder
    /// or of its newest checkpoint, else `log.jsonl`, `train_log.jsonl`, `metrics.jsonl` or the same as `.csv` in the
    /// run folder.
    ///
    /// # Errors
    /// As [`RunDir::open`]; `RunConfig`; `NotFound` or `Log` for a log that was named.
    pub fn open(storage: &Arc<dyn Storage>, path: &Path, options: &TrajectoryOptions) -> Result<Self, Error> {
        let is_folder = storage.file_info(path).is_ok_and(|info| info.kind == FileKind::Folder);
        let config = if is_folder { read_run_config(storage, path)?.unwrap_or_default() } else { RunConfig::default() };
        let pattern = options.pattern.as_ref().or(config.checkpoint_pattern.as_ref());
        let run = RunDir::open_with(storage, path, pattern, (&options.reading, &options.cache))?;
        Self::from_run(storage, &run, options)
    }

    /// As [`Trajectory::open`] for a folder that was listed already.
    ///
    /// # Errors
    /// `RunConfig`; `NotFound` or `Log` for a log that was named; `Storage`.
    pub(crate) fn from_run(
        storage: &Arc<dyn Storage>,
        run: &RunDir,
        options: &TrajectoryOptions,
    ) -> Result<Self, Error> {
        let config = read_run_config(storage, run.path())?.unwrap_or_default();
        let mut notes = notes_on_names(run);
        if options.tokens_per_step.or(config.tokens_per_step) == Some(TokensPerStep(0)) {
            return Err(Error::NoTokensPerStep);
        }
        let n_notes = notes.len();
        let (log, log_paths) = match find_log(storage, run, &config, options, &mut notes)? {
            Some((log, paths)) => (Some(log), paths),
            // A log that was found and cannot be read has its own note.
            None if notes.len() == n_notes => match options.idle_without_log() {
                Some(option) => return Err(Error::IdleLogOption { option, path: run.path().to_owned() }),
                None => (None, Vec::new()),
            },
            None => (None, Vec::new()),
        };
        notes.extend(log.iter().flat_map(|log| log.notes()).cloned().map(TrajectoryNote::Log));
        let phases = match options.stable.or(config.stable) {
            Some(stable) => Some(Phases::from_stable(stable)),
            None => log.as_ref().and_then(detect_phases),
        };
        let token_log = log.as_ref().map(TokenLog::new);
        let mut conflicts = Conflicts::default();
        let mut checkpoints = Vec::with_capacity(run.checkpoints().len());
        for checkpoint in run.checkpoints() {
            // Tokens per step, logs and phases go by step, and an epoch is not a step.
            let is_step = !run.counts_epochs();
            let state = if is_step { read_state(storage, checkpoint, &mut notes)? } else { TrainerState::default() };
            let claims = Claims { options, config: &config, state: state.tokens, log: token_log.as_ref() };
            let claims = if is_step { claims.of(checkpoint) } else { Vec::new() };
            conflicts.compare(checkpoint.step, &claims);
            let best = claims.first();
            checkpoints.push(TrajectoryCheckpoint {
                path: checkpoint.path.clone(),
                name: checkpoint.name.clone(),
                step: checkpoint.step,
                tokens: best.map(|claim| claim.tokens),
                tokens_source: best.map(|claim| claim.source),
                tokens_unit: best.map_or(0, |claim| claim.unit),
                phase: phases.as_ref().filter(|_| is_step).and_then(|phases| phases.phase_at(checkpoint.step)),
                stage: checkpoint.stage.clone(),
                epoch: checkpoint.epoch,
                state: checkpoint.state.clone(),
                format: checkpoint.format,
                doubts: checkpoint.doubts.clone(),
            });
        }
        notes.extend(conflicts.into_notes());
        let newest = run.finished().next_back().map(|newest| newest.step);
        notes.extend(log.as_ref().and_then(|log| note_log_stops(log, newest)));
        if !run.counts_epochs() {
            notes.extend(log.as_ref().and_then(|log| note_log_ahead(log, run)));
        }
        let spikes = OnceLock::new();
        let tokens_per_step = config.tokens_per_step;
        let path = run.path().to_owned();
        Ok(Self { path, checkpoints, log, log_paths, spikes, phases, tokens_per_step, notes })
    }

    /// A run of which only names are known, such as the revisions of a repository that is not fetched yet. Names
    /// without a step are ignored; all others count as finished.
    pub fn of_names<'a>(path: &Path, names: impl Iterator<Item = &'a str>, pattern: Option<&NamePattern>) -> Self {
        let said = names.filter_map(|name| Some((name, parse_entry_name(name, FileKind::Folder, pattern)?)));
        let mut said: Vec<(&str, CheckpointName)> = said.collect();
        // Epochs order checkpoints only where no name has a step.
        if said.iter().any(|(_, said)| said.counts == NameCount::Steps) {
            said.retain(|(_, said)| said.counts == NameCount::Steps);
        }
        said.sort_by(|a, b| (a.1.step, a.0).cmp(&(b.1.step, b.0)));
        let checkpoint = |(name, said): (&str, CheckpointName)| TrajectoryCheckpoint {
            path: name.into(),
            name: name.to_owned(),
            step: said.step,
            tokens: said.tokens.map(|tokens| tokens.tokens),
            tokens_source: said.tokens.map(|_| TokensSource::Name),
            tokens_unit: said.tokens.map_or(0, |tokens| tokens.unit),
            phase: None,
            format: None,
            stage: said.stage,
            epoch: said.epoch,
            state: CheckpointState::Finished,
            doubts: Vec::new(),
        };
        Self {
            path: path.to_owned(),
            checkpoints: said.into_iter().map(checkpoint).collect(),
            log: None,
            log_paths: Vec::new(),
            spikes: OnceLock::new(),
            phases: None,
            tokens_per_step: None,
            notes: Vec::new(),
        }
    }

    /// The run folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All checkpoints by step, unfinished ones too.
    pub fn checkpoints(&self) -> &[TrajectoryCheckpoint] {
        &self.checkpoints
    }

    /// Adds the finished checkpoints of another folder whose steps this run no longer has, with the tokens and phases
    /// that this run's log and `thalweg.toml` give their steps.
    pub fn adopt(&mut self, other: &Self) {
        let has = |step: Step| self.finished().any(|one| one.step == step);
        let mut missing: Vec<TrajectoryCheckpoint> = other.finished().filter(|one| !has(one.step)).cloned().collect();
        let log = self.log.as_ref().map(TokenLog::new);
        for one in &mut missing {
            let by_config = self.tokens_per_step.and_then(|rate| rate.tokens_at(one.step));
            let known = by_config.map(|tokens| (TokensSource::RunConfig, tokens));
            let own = || one.tokens_source.zip(one.tokens);
            let known = known.or_else(own).or_else(|| log.as_ref()?.tokens_at(one.step));
            (one.tokens_source, one.tokens) = known.unzip();
            one.phase = self.phases.as_ref().and_then(|phases| phases.phase_at(one.step));
        }
        self.checkpoints.extend(missing);
        self.checkpoints.sort_by(|a, b| (a.step, &a.name).cmp(&(b.step, &b.name)));
    }

    /// Takes finished checkpoints out of use that a later part of the run replaces; `why` says which, and why.
    pub fn supersede(&mut self, why: &dyn Fn(&TrajectoryCheckpoint) -> Option<String>) {
        for checkpoint in self.checkpoints.iter_mut().filter(|checkpoint| checkpoint.state.is_finished()) {
            if let Some(reason) = why(checkpoint) {
                checkpoint.state = CheckpointState::Unusable { fault: Fault::Superseded, reason, hint: None };
            }
        }
    }

    /// The checkpoints that can be used, by step.
    pub fn finished(&self) -> impl DoubleEndedIterator<Item = &TrajectoryCheckpoint> {
        self.checkpoints.iter().filter(|checkpoint| checkpoint.state.is_finished())
    }

    /// The step log, if there is one.
    pub fn log(&self) -> Option<&StepLog> {
        self.log.as_ref()
    }

    /// The files and folders of the step log; empty if there is no log.
    pub fn log_paths(&self) -> &[PathBuf] {
        &self.log_paths
    }

    /// The spikes of the step log under the default options, oldest first; empty without a log.
    ///
    /// The first call looks for them.
    pub fn spikes(&self) -> &[Spike] {
        let detect = || self.log.as_ref().map(|log| detect_spikes(log, &SpikeOptions::default())).unwrap_or_default();
        self.spikes.get_or_init(detect)
    }

    /// The phases, if a log with learning rates or the user says them.
    pub fn phases(&self) -> Option<&Phases> {
        self.phases.as_ref()
    }

    /// What a user should know.
    pub fn notes(&self) -> &[TrajectoryNote] {
        &self.notes
    }
}

/// A note if the log ends before the newest checkpoint by more than the span of its last [`STOP_ENTRIES`] entries.
fn note_log_stops(log: &StepLog, newest: Option<Step>) -> Option<TrajectoryNote> {
    let newest = newest?;
    let mut last = log.entries().iter().rev().filter(|entry| entry.loss.is_some()).map(|entry| entry.step.0);
    let (last, apart) = (last.next()?, last.take(STOP_ENTRIES));
    let gap = apart.last().map_or(last, |earlier| last - earlier);
    (newest.0 > last.saturating_add(gap)).then_some(TrajectoryNote::LogStops { last: Step(last), newest })
}

/// What the names in the run's folder give rise to.
fn notes_on_names(run: &RunDir) -> Vec<TrajectoryNote> {
    let mut notes = Vec::new();
    if run.counts_epochs() {
        notes.push(TrajectoryNote::EpochsForSteps);
    }
    if !run.ignored_epochs().is_empty() {
        notes.push(TrajectoryNote::EpochsIgnored { names: run.ignored_epochs().to_vec() });
    }
    if !run.ignored_links().is_empty() {
        notes.push(TrajectoryNote::LinksIgnored { names: run.ignored_links().to_vec() });
    }
    if !run.broken_links().is_empty() {
        notes.push(TrajectoryNote::LinksBroken { names: run.broken_links().to_vec() });
    }
    for (step, names) in run.duplicates() {
        let names = names.into_iter().map(str::to_owned).collect();
        notes.push(TrajectoryNote::DuplicateStep { step, names });
    }
    notes
}

/// A note if the log ends so far beyond the newest checkpoint that the next ones should be there: at least two of the
/// largest intervals between checkpoints, and half as far again as the run.
fn note_log_ahead(log: &StepLog, run: &RunDir) -> Option<TrajectoryNote> {
    let steps: Vec<u64> = run.finished().map(|checkpoint| checkpoint.step.0).collect();
    let widest = steps.windows(2).map(|two| two[1] - two[0]).max()?;
    let newest = *steps.last()?;
    let last = log.entries().iter().rev().find(|entry| entry.loss.is_some())?.step;
    let is_far = last.0 > newest.saturating_add(2 * widest) && last.0 / 3 >= newest / 2;
    is_far.then_some(TrajectoryNote::LogAhead { last, newest: Step(newest) })
}

fn find_log(
    storage: &Arc<dyn Storage>,
    run: &RunDir,
    config: &RunConfig,
    options: &TrajectoryOptions,
    notes: &mut Vec<TrajectoryNote>,
) -> Result<Option<(StepLog, Vec<PathBuf>)>, Error> {
    let log_options = LogOptions {
        columns: options.columns.clone(),
        tokens_per_step: options.tokens_per_step.or(config.tokens_per_step),
        log_every: options.log_every,
    };
    let mut named = options.log_paths.clone();
    if named.is_empty() {
        named.extend(config.logs.iter().map(|log| run.path().join(log)));
    }
    if !named.is_empty() {
        return Ok(Some((StepLog::open_all(storage, &named, &log_options)?, named)));
    }
    let mut places = vec![run.path().join(TRAINER_STATE_NAME)];
    places.extend(run.finished().next_back().map(|newest| newest.path.join(TRAINER_STATE_NAME)));
    places.extend(LOG_NAMES.iter().map(|name| run.path().join(name)));
    for path in places {
        // A single file as a checkpoint has nothing below it.
        if !storage.file_info(&path).is_ok_and(|info| info.kind == FileKind::File) {
            continue;
        }
        let paths = vec![path];
        match StepLog::open_all(storage, &paths, &log_options) {
            Ok(log) => return Ok(Some((log, paths))),
            // A state without a history, or one of evaluations alone, is not meant to be a log.
            Err(Error::Log { source, .. })
                if paths[0].ends_with(TRAINER_STATE_NAME)
                    && matches!(*source, LogError::NoHistory | LogError::NoColumn { .. }) => {}
            Err(error) => {
                notes.push(TrajectoryNote::LogUnreadable { reason: error.to_string(), hint: error.hint() });
            }
        }
    }
    Ok(None)
}

fn read_state(
    storage: &Arc<dyn Storage>,
    checkpoint: &RunCheckpoint,
    notes: &mut Vec<TrajectoryNote>,
) -> Result<TrainerState, Error> {
    let path = checkpoint.path.join(TRAINER_STATE_NAME);
    if !storage.file_info(&path).is_ok_and(|info| info.kind == FileKind::File) {
        return Ok(TrainerState::default());
    }
    let unreadable = |reason: String| TrajectoryNote::StateUnreadable { name: checkpoint.name.clone(), reason };
    let bytes = match storage.read_file(&path, MAX_TRAINER_STATE_BYTES) {
        Ok(bytes) => bytes,
        Err(error @ thalweg_storage::Error::TooLarge { .. }) => {
            notes.push(unreadable(error.to_string()));
            return Ok(TrainerState::default());
        }
        Err(error) => return Err(error.into()),
    };
    let state = match parse_trainer_progress(&bytes) {
        Ok(state) => state,
        Err(error) => {
            notes.push(unreadable(error.to_string()));
            return Ok(TrainerState::default());
        }
    };
    if let Some(state_step) = state.step.filter(|step| *step != checkpoint.step) {
        let name = checkpoint.name.clone();
        notes.push(TrajectoryNote::StateOfOtherStep { name, step: checkpoint.step, state_step });
        return Ok(TrainerState::default());
    }
    Ok(state)
}

/// What one source says about the tokens of one checkpoint.
#[derive(Debug, Clone, Copy)]
struct Claim {
    source: TokensSource,
    tokens: Tokens,
    unit: u64,
}

#[derive(Debug)]
struct Claims<'a> {
    options: &'a TrajectoryOptions,
    config: &'a RunConfig,
    state: Option<Tokens>,
    log: Option<&'a TokenLog>,
}

impl Claims<'_> {
    /// All that is said, in the order of [`TokensSource`].
    fn of(&self, checkpoint: &RunCheckpoint) -> Vec<Claim> {
        let step = checkpoint.step;
        let exact = |source, tokens: Option<Tokens>| tokens.map(|tokens| Claim { source, tokens, unit: 0 });
        let by_log = self.log.and_then(|log| log.tokens_at(step));
        let by_name = checkpoint.name_tokens.map(|NameTokens { tokens, unit }| Claim {
            source: TokensSource::Name,
            tokens,
            unit,
        });
        let given = self.options.tokens_per_step.and_then(|rate| rate.tokens_at(step));
        let by_config = self.config.tokens_per_step.and_then(|rate| rate.tokens_at(step));
        let all = [
            exact(TokensSource::Given, given),
            exact(TokensSource::RunConfig, by_config),
            exact(TokensSource::TrainerState, self.state),
            by_log.and_then(|(source, tokens)| exact(source, Some(tokens))),
            by_name,
        ];
        all.into_iter().flatten().collect()
    }
}

/// Disagreements, counted by the pair of sources, so that a thousand checkpoints make one note.
#[derive(Debug, Default)]
struct Conflicts {
    found: BTreeMap<(TokensSource, TokensSource), TrajectoryNote>,
}

impl Conflicts {
    fn compare(&mut self, step: Step, claims: &[Claim]) {
        let Some((best, others)) = claims.split_first() else { return };
        for other in others {
            if best.tokens.0.abs_diff(other.tokens.0) <= best.unit.max(other.unit) {
                continue;
            }
            let note = self.found.entry((best.source, other.source)).and_modify(|note| {
                if let TrajectoryNote::TokensDiffer { n_more, .. } = note {
                    *n_more += 1;
                }
            });
            note.or_insert(TrajectoryNote::TokensDiffer {
                step,
                used: (best.source, best.tokens),
                unused: (other.source, other.tokens),
                n_more: 0,
            });
        }
    }

    fn into_notes(self) -> impl Iterator<Item = TrajectoryNote> {
        self.found.into_values()
    }
}

/// The entries of a log that count tokens.
#[derive(Debug)]
struct TokenLog {
    points: Vec<(Step, Tokens)>,
}

impl TokenLog {
    fn new(log: &StepLog) -> Self {
        let points = log.entries().iter().filter_map(|entry| Some((entry.step, entry.tokens?)));
        let mut points: Vec<(Step, Tokens)> = points.collect();
        // Every run begins with nothing, whether that was logged or not.
        if points.first().is_some_and(|(step, _)| *step > Step(0)) {
            points.insert(0, (Step(0), Tokens(0)));
        }
        Self { points }
    }

    fn tokens_at(&self, step: Step) -> Option<(TokensSource, Tokens)> {
        let after = match self.points.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(idx) => return self.points.get(idx).map(|(_, tokens)| (TokensSource::Log, *tokens)),
            Err(idx) => idx,
        };
        let rate = self.rate_before(after)?;
        // One stretch alone may hide a change of batch size within; two equal ones do not.
        let neighbours = [after.checked_sub(1).and_then(|idx| self.rate_before(idx)), self.rate_before(after + 1)];
        let mut known = neighbours.into_iter().flatten().peekable();
        if known.peek().is_some() && known.all(|neighbour| neighbour != rate) {
            return None;
        }
        let (from, tokens) = self.points.get(after.checked_sub(1)?)?;
        let more = rate.checked_mul(step.0 - from.0)?;
        tokens.0.checked_add(more).map(|tokens| (TokensSource::LogInterpolated, Tokens(tokens)))
    }

    /// Tokens per step between point `idx` and the one before it, if that is a whole number.
    fn rate_before(&self, idx: usize) -> Option<u64> {
        let ((a, a_tokens), (b, b_tokens)) = (self.points.get(idx.checked_sub(1)?)?, self.points.get(idx)?);
        let tokens = b_tokens.0.checked_sub(a_tokens.0)?;
        let steps = b.0.checked_sub(a.0).filter(|steps| *steps > 0)?;
        tokens.is_multiple_of(steps).then_some(tokens / steps)
    }
}
