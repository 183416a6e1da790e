//! Runs: opening them with what the user says about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use thalweg_storage::STDIN_PATH;
use thalweg_trajectory::{ColumnMap, NamePattern, StableRange, TokensPerStep, Trajectory, TrajectoryOptions};

use super::Resolver;
use super::values::{parse_positive, parse_whole};
use crate::Error;

/// What a user says about a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "About the run")]
pub struct RunOptions {
    /// Tokens consumed by one optimizer step, if neither names nor logs say
    #[arg(long, value_name = "T", value_parser = parse_whole::<u64>)]
    pub tokens_per_step: Option<u64>,
    /// Step log: JSON lines, CSV, trainer_state.json, console output, TensorBoard event files or a folder of them; give
    /// it once for each restart
    #[arg(long, value_name = "PATH", value_parser = PathBufValueParser::new().map(log_path))]
    pub log: Vec<PathBuf>,
    /// Columns of the log by name, such as loss=my_loss,step=iter
    #[arg(long, value_name = "NAME=COLUMN,...", value_delimiter = ',')]
    pub log_columns: Vec<String>,
    /// Steps between two losses of a log that has no steps, such as dictionaries printed by Trainer
    #[arg(long, value_name = "N", value_parser = parse_positive::<u64>)]
    pub log_every: Option<u64>,
    /// First and last step of the stable phase, where the log has no learning rate
    #[arg(long, value_name = "FROM..TO")]
    pub stable: Option<String>,
    /// Which names are checkpoints, such as step{step}-unsharded; {step} is the step, * matches anything
    #[arg(long, value_name = "PATTERN")]
    pub checkpoint_pattern: Option<String>,
}

/// `-` is standard input.
fn log_path(path: PathBuf) -> PathBuf {
    if path == Path::new("-") { STDIN_PATH.into() } else { path }
}

impl RunOptions {
    /// The pattern for names of checkpoints, if there is one.
    pub(crate) fn name_pattern(&self) -> Result<Option<NamePattern>, Error> {
        Ok(self.checkpoint_pattern.as_deref().map(str::parse).transpose()?)
    }

    /// Refuses what is said about a run where checkpoints are given one by one: it would have no effect.
    pub(super) fn refuse_for_checkpoints(&self) -> Result<(), Error> {
        let given = [
            ("--tokens-per-step", self.tokens_per_step.is_some()),
            ("--log", !self.log.is_empty()),
            ("--log-columns", !self.log_columns.is_empty()),
            ("--log-every", self.log_every.is_some()),
            ("--stable", self.stable.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => Err(Error::request_with_hint(
                format!("`{option}` describes a run, but checkpoints were given one by one"),
                "leave it out, or give the run folder with a selection, such as `--last 10` or `--steps 100,200`",
            )),
        }
    }

    /// The same about another folder of checkpoints of the run, which has no log.
    pub(crate) fn without_log(&self) -> Self {
        Self { log_columns: Vec::new(), log_every: None, ..self.clone() }
    }
}

impl Resolver<'_> {
    /// Opens a run with what the user says about it; passes notes about it.
    ///
    /// # Errors
    /// `Trajectory`.
    pub fn open_run(&self, path: &Path, options: &RunOptions) -> Result<Trajectory, Error> {
        let path = self.resolve(path)?;
        let stable = options.stable.as_deref().map(str::parse::<StableRange>).transpose()?;
        let columns = match options.log_columns.as_slice() {
            [] => ColumnMap::default(),
            columns => columns.join(",").parse()?,
        };
        let options = TrajectoryOptions {
            tokens_per_step: options.tokens_per_step.map(TokensPerStep),
            stable,
            log_paths: options.log.clone(),
            columns,
            log_every: options.log_every,
            reading: self.reading.clone(),
            cache: Arc::clone(self.cx.pool.cache()),
            pattern: options.name_pattern()?,
        };
        let trajectory = Trajectory::open(&self.cx.storage, &path, &options)?;
        trajectory.notes().iter().for_each(|note| self.note(note));
        Ok(trajectory)
    }
}
