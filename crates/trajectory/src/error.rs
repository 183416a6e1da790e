//! What can go wrong between a run folder and a window, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use thalweg_checkpoint::strip_file_end;
use thalweg_storage::hub::repository_of_folder;
use thalweg_tensor::{counted, display_name, shell_path, shell_word};

use crate::step_log::{LogError, LogField};
use crate::text_error::TextError;
use crate::{Available, Extent, NamePattern, Step, Tokens};

/// How many names a message lists before it only counts.
const MAX_LISTED: usize = 10;

/// A run that cannot be read, or a request that it cannot meet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage refused; its message says the path.
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
    /// The store of a checkpoint could not be reached, or its objects were replaced.
    #[error(transparent)]
    Store(Box<thalweg_checkpoint::Error>),
    /// Nothing exists at the path.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A step without tokens.
    #[error("`--tokens-per-step` is 0, but a step has at least one token")]
    NoTokensPerStep,
    /// An option about a log, and no log.
    #[error("`{option}` says how to read a step log, but none was given or found in `{}`", path.display())]
    IdleLogOption {
        /// The option.
        option: &'static str,
        /// The run.
        path: PathBuf,
    },
    /// The path is a checkpoint where a run was expected.
    #[error("`{}` is a checkpoint, not a run folder", path.display())]
    IsCheckpoint {
        /// The path.
        path: PathBuf,
    },
    /// Something would be written into a checkpoint.
    #[error("`{}` is inside the checkpoint `{}`", path.display(), checkpoint.display())]
    InsideCheckpoint {
        /// What would be written.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// No name in the folder says a step.
    #[error("`{}` is not a run folder: {found}", path.display())]
    NotARun {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: String,
        /// What to do about what is there, if that is known.
        advice: Option<String>,
    },
    /// A folder of merges, as a sweep writes it.
    #[error(
        "`{}` is not a run folder: it holds {}, such as `{}`",
        path.display(),
        counted(*n_merges, "merge"),
        display_name(first)
    )]
    HoldsMerges {
        /// The path.
        path: PathBuf,
        /// The name of one of them.
        first: String,
        /// How many there are.
        n_merges: usize,
    },
    /// A model that the local cache does not hold.
    #[error("`{}` is neither a path nor in the local Hugging Face cache", display_name(name))]
    NotCached {
        /// The name, `ORG/NAME`.
        name: String,
        /// The revision after an `@`, if one was named.
        revision: Option<String>,
    },
    /// A revision that is not there.
    #[error("`{}` has no revision `{}`", path.display(), display_name(revision))]
    RevisionNotFound {
        /// The repository or run folder.
        path: PathBuf,
        /// What was asked for.
        revision: String,
        /// What is there.
        available: Vec<String>,
    },
    /// A repository of a cache instead of one of its revisions.
    #[error("`{}` holds several revisions, and none is called `main`", path.display())]
    RevisionUnclear {
        /// The repository.
        path: PathBuf,
        /// What is there.
        available: Vec<String>,
    },
    /// A revision that cannot be a name.
    #[error("`{}` is not a revision name", display_name(revision))]
    BadRevision {
        /// What was asked for.
        revision: String,
    },
    /// No name in the folder matches the pattern that was given.
    #[error("no name in `{}` matches `{pattern}`: {found}", path.display())]
    NoMatch {
        /// The folder.
        path: PathBuf,
        /// The pattern.
        pattern: crate::NamePattern,
        /// What is there instead.
        found: String,
    },
    /// Text that is not what it should be.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A `thalweg.toml` that breaks its rules.
    #[error("`{}`: {message}", path.display())]
    RunConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the position.
        message: String,
    },
    /// A step log that cannot be read.
    #[error("`{}`: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<LogError>,
    },
    /// A request for a window that no run could meet.
    #[error("cannot select a window this way: {reason}")]
    BadWindow {
        /// Why not.
        reason: String,
        /// What to ask for instead.
        hint: &'static str,
    },
    /// Fewer checkpoints than the window needs.
    #[error(
        "the window needs {}{up_to}, but there {}",
        counted(*wanted, "finished checkpoint"),
        if *found == 1 { "is 1".to_owned() } else { format!("are {found}") }
    )]
    TooFew {
        /// The count asked for.
        wanted: usize,
        /// The count there is.
        found: usize,
        /// ` up to step 5000`, or nothing where the window ends at the newest.
        up_to: String,
        /// What exists.
        available: Box<Available>,
    },
    /// A window of which the local cache of a hub does not hold all revisions.
    #[error("{source}")]
    NotFetched {
        /// What the cache lacks.
        source: Box<Self>,
        /// The command that fetches it.
        command: String,
    },
    /// A window that would begin before the run does.
    #[error("the window of {wanted} is longer than the run, whose checkpoints span {span} up to step {end}")]
    LongerThanRun {
        /// What was asked for.
        wanted: Length,
        /// From the first finished checkpoint to the end of the window.
        span: Length,
        /// The step at the end of the window.
        end: Step,
        /// The name of the option that asked, without its dashes.
        option: &'static str,
        /// What exists.
        available: Box<Available>,
    },
    /// No finished checkpoint where the window needs one.
    #[error("the window needs a finished checkpoint at {wanted}, but there is none{}", describe_state(state.as_deref()))]
    NoCheckpointAt {
        /// The place.
        wanted: Extent,
        /// What is wrong with the checkpoint there, if there is one.
        state: Option<String>,
        /// What exists.
        available: Box<Available>,
    },
    /// A request in tokens for a run whose tokens are not known.
    #[error("the window is given in tokens, but the tokens of step {step} are unknown")]
    TokensUnknown {
        /// The first step without.
        step: Step,
    },
    /// Tokens that do not grow with the steps.
    #[error(
        "step {later} has {later_tokens} tokens, which is not more than the {earlier_tokens} of step {earlier} before it"
    )]
    TokensNotRising {
        /// The earlier step.
        earlier: Step,
        /// Its tokens.
        earlier_tokens: Tokens,
        /// The later step.
        later: Step,
        /// Its tokens.
        later_tokens: Tokens,
    },
    /// Two finished checkpoints of one step in the window.
    #[error("step {step} appears more than once: {}", list_names(names))]
    DuplicateStep {
        /// The step.
        step: Step,
        /// The names.
        names: Vec<String>,
    },
    /// A window over checkpoints of several stages, whose steps cannot be ordered.
    #[error("the checkpoints are of different stages, whose steps do not order them: {}", list_names(stages))]
    MixedStages {
        /// The stages.
        stages: Vec<String>,
    },
    /// Names whose epochs and steps are in different orders.
    #[error(
        "`{}` is of a later epoch than `{}` and has fewer steps: the steps count within an epoch, or these are two runs",
        display_name(later),
        display_name(earlier)
    )]
    EpochsDisagree {
        /// The one of the earlier epoch.
        earlier: String,
        /// The one of the later epoch.
        later: String,
        /// The step of the later epoch.
        step: Step,
    },
    /// The folder holds checkpoints, but none that can be used.
    #[error("`{}` holds no usable checkpoint ({n_checkpoints} cannot be used)", path.display())]
    NothingFinished {
        /// The run folder.
        path: PathBuf,
        /// How many there are.
        n_checkpoints: usize,
        /// Steps and reasons.
        reasons: Vec<String>,
        /// What to do next.
        advice: String,
    },
}

/// A length on the axis of a run. A plain [`Extent`] displays as a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length(pub Extent);

impl Length {
    fn amount(self) -> u64 {
        self.0.amount()
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Extent::Steps(steps) => f.write_str(&counted(steps.0, "step")),
            Extent::Tokens(tokens) => write!(f, "{tokens} tokens"),
        }
    }
}

fn describe_state(state: Option<&str>) -> String {
    state.map_or_else(String::new, |state| format!(": the only checkpoint there is not usable ({state})"))
}

/// The first names in back-ticks, and how many more there are.
pub(crate) fn list_names(names: &[String]) -> String {
    let mut text: Vec<String> = names.iter().take(MAX_LISTED).map(|name| format!("`{}`", display_name(name))).collect();
    if names.len() > text.len() {
        text.push(format!("and {} more", names.len() - text.len()));
    }
    text.join(", ")
}

/// The command that fetches a revision of a repository, or the newest ten.
fn fetch_command(repository: &str, revision: Option<&str>) -> String {
    let which =
        revision.map_or_else(|| "--last 10".to_owned(), |revision| format!("--revisions {}", shell_word(revision)));
    format!("thalweg fetch {} {which}", shell_word(repository))
}

impl Error {
    /// A missing path becomes `NotFound`; any other failure keeps the message of the storage.
    pub(crate) fn from_storage(path: &Path, error: thalweg_storage::Error) -> Self {
        if error.is_not_found() { Self::NotFound { path: path.to_owned() } } else { Self::Storage(error) }
    }

    /// The run, checkpoint or log that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Storage(error) => error.path(),
            Self::Store(error) => error.path(),
            Self::NotFound { path }
            | Self::IdleLogOption { path, .. }
            | Self::IsCheckpoint { path }
            | Self::InsideCheckpoint { path, .. }
            | Self::NotARun { path, .. }
            | Self::HoldsMerges { path, .. }
            | Self::RevisionNotFound { path, .. }
            | Self::RevisionUnclear { path, .. }
            | Self::NoMatch { path, .. }
            | Self::RunConfig { path, .. }
            | Self::Log { path, .. }
            | Self::NothingFinished { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The facts below the first line, such as the checkpoints that do exist. Empty where the first line says it all.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::TooFew { available, .. } | Self::LongerThanRun { available, .. } => available.describe(None),
            Self::NoCheckpointAt { available, wanted, .. } => available.describe(Some(*wanted)),
            Self::NotFetched { source, .. } => source.details(),
            Self::RevisionNotFound { available, .. } if available.is_empty() => {
                vec!["no revision is cached".to_owned()]
            }
            Self::RevisionNotFound { available, .. } | Self::RevisionUnclear { available, .. } => {
                vec![format!("there are {}", list_names(available))]
            }
            Self::NothingFinished { reasons, .. } => {
                let mut lines: Vec<String> = reasons.iter().take(MAX_LISTED).cloned().collect();
                if reasons.len() > lines.len() {
                    lines.push(format!("and {} more", reasons.len() - lines.len()));
                }
                lines
            }
            _ => Vec::new(),
        }
    }

    /// What to do next, where there is a next move.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NothingFinished { advice, .. } | Self::NotARun { advice: Some(advice), .. } => {
                return Some(advice.clone());
            }
            Self::NotFetched { command, .. } => return Some(not_fetched_hint(command)),
            Self::Log { path, source } => match &**source {
                LogError::Packed { command, .. } => {
                    return Some(format!("`{command} {}` makes a log of it that can be read", shell_path(path)));
                }
                LogError::NoLogInFolder { found } if !found.is_empty() => {
                    let options = found.iter().map(|name| format!("--log {}", shell_path(path.join(name))));
                    return Some(format!("name its files: `{}`", options.collect::<Vec<_>>().join(" ")));
                }
                _ => {}
            },
            Self::Store(error) => return error.hint().map(str::to_owned),
            Self::NotCached { name, revision } => {
                let fetch = fetch_command(name, revision.as_deref());
                return Some(format!("check the path; a repository of the Hugging Face Hub is fetched by `{fetch}`"));
            }
            Self::RevisionNotFound { path, revision, .. } => {
                let repository = path.file_name().and_then(|name| repository_of_folder(name.to_str()?))?;
                return Some(format!("fetch it with `{}`", fetch_command(&repository, Some(revision))));
            }
            Self::LongerThanRun { span, option, .. } => {
                return Some(format!("`--{option} {}` takes all of them", span.amount()));
            }
            Self::TooFew { found, .. } if *found > 0 => {
                return Some(format!("choose at most {}", counted(*found, "checkpoint")));
            }
            Self::MixedStages { stages } => {
                let newest = stages.last().map_or("", String::as_str);
                let stage = if newest.is_empty() { String::new() } else { format!("{newest}-") };
                return Some(format!("choose those of one stage with `--checkpoint-pattern '{stage}step*{{step}}*'`"));
            }
            Self::EpochsDisagree { later, step, .. } => {
                let Some(one) = NamePattern::of_name(later, *step).map(|pattern| pattern.to_string()) else {
                    return Some("choose exact steps with `--steps`".to_owned());
                };
                let all = one.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty());
                let all = all.collect::<Vec<_>>().join("*");
                return Some(format!(
                    "if the steps count through all epochs, take all with `--checkpoint-pattern '{all}'`; those of one epoch \
                     with `--checkpoint-pattern '{one}'`"
                ));
            }
            Self::DuplicateStep { step, names } => return Some(duplicate_hint(*step, names)),
            _ => {}
        }
        if let Self::HoldsMerges { path, first, .. } = self {
            return Some(format!(
                "name one of them: `{}`; `thalweg verify {}` verifies them all",
                shell_path(path.join(first)),
                shell_path(path)
            ));
        }
        self.plain_hint().map(str::to_owned)
    }

    /// The hints that do not depend on the facts.
    fn plain_hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::BadWindow { hint, .. } => hint,
            Self::NoTokensPerStep => "leave it out, or give the tokens of one optimizer step, such as `4M`",
            Self::IdleLogOption { .. } => "name the log with `--log PATH`, or leave the option out",
            Self::IsCheckpoint { .. } => {
                "give the folder above it as the run, or name the checkpoints to merge: `-m CKPT -m CKPT`"
            }
            Self::NotARun { .. } => {
                "a run folder holds `checkpoint-N`, `stepN`, `step-N`, `step_N`, `global_stepN`, `iter_N`, `epN-baN`, `baN`, \
                 `stepN-tokensXB`, `epoch_N`, names with `step=N`, `N/` or files `step_N.safetensors`; for other \
                 names, say where the step is: `--checkpoint-pattern 'my-{step}-name'`"
            }
            Self::InsideCheckpoint { .. } => {
                "choose a place outside it: anything written there would become part of the checkpoint"
            }
            Self::RevisionUnclear { .. } => "name one after an `@`: `ORG/NAME@REV`",
            Self::Text(error) => error.hint(),
            Self::NoMatch { .. } => {
                "the pattern must match the whole name of a folder, or of a file without its extension, such as \
                 `.safetensors`; `*` matches anything"
            }
            Self::TooFew { .. } | Self::NoCheckpointAt { .. } => "choose a window among the checkpoints that exist",
            Self::TokensUnknown { .. } => {
                "give `--tokens-per-step`, or select by steps; tokens are also read from folder names, \
                 `trainer_state.json`, a step log or `thalweg.toml`"
            }
            Self::Storage(error) => return error.hint(),
            Self::Log { source, .. } => return log_hint(source),
            _ => return None,
        })
    }
}

/// What to do about several checkpoints of one step.
fn duplicate_hint(step: Step, names: &[String]) -> String {
    // `checkpoint-100` and `checkpoint-0100` match the same pattern: it would not choose between them.
    let fits = |pattern: &NamePattern, name: &str| {
        pattern.parse_name(strip_file_end(name).unwrap_or(name)).is_some_and(|said| said.step == step)
    };
    let mut patterns = names.iter().filter_map(|name| NamePattern::of_name(name, step));
    let pattern = patterns.find(|pattern| names.iter().filter(|name| fits(pattern, name)).count() == 1);
    let pattern = pattern.map_or_else(String::new, |pattern| {
        format!("select the ones you mean with `--checkpoint-pattern '{pattern}'`, or ")
    });
    format!("{pattern}move all but one of them out of the run folder")
}

fn not_fetched_hint(command: &str) -> String {
    format!("only revisions in the local cache count: fetch the others with `{command}`")
}

/// What to do about a log that cannot be read.
fn log_hint(error: &LogError) -> Option<&'static str> {
    Some(match error {
        LogError::NotWhole { .. } => {
            "name a column of whole steps with `--log-columns step=NAME`, or take it out of the log and give \
                 `--log-every N`, the steps between two losses"
        }
        LogError::NoColumn { field: LogField::Step, .. } => {
            "name its column with `--log-columns step=NAME`; if no column holds the step, give the number of \
                 steps between two losses with `--log-every N`"
        }
        LogError::NoColumn { .. } | LogError::Ambiguous { .. } => {
            "name the columns with `--log-columns step=NAME,loss=NAME`"
        }
        LogError::MicroBatches { has_tokens: true, .. } => {
            "give `--tokens-per-step` to compute the steps from the column of tokens; if each micro-batch is a \
                 step, give `--log-columns step=iter`"
        }
        LogError::MicroBatches { .. } => {
            "give the number of steps between two losses with `--log-every N`; if each micro-batch is a step, \
                 give `--log-columns step=iter`"
        }
        LogError::StepsDisagree { .. } => {
            "name the one that counts the optimizer's steps with `--log-columns step=NAME`"
        }
        LogError::EpochBars => {
            "give the number of steps between two bars with `--log-every N`, or another log with `--log`"
        }
        LogError::WithinEpoch { .. } => {
            "name the column that counts the steps of the whole run with `--log-columns step=NAME`; without one, \
                 `--log-every N` counts the losses, N steps apart"
        }
        LogError::UnknownKind | LogError::NoLogInFolder { .. } => {
            "give JSON lines, CSV with a header, `trainer_state.json`, console output, TensorBoard event files or \
                 their folder, the database of trackio or mlflow, or what `wandb leet inspect --json RUN` prints"
        }
        LogError::SeveralRuns { .. } | LogError::NoSuchRun { .. } => {
            "name one of them behind a `#`, such as `--log 'trackio.db#NAME'`"
        }
        LogError::Database { .. } => "if it is being written, try again; otherwise export the metrics as CSV",
        _ => return None,
    })
}
