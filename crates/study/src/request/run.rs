//! Runs: opening them with what the user says about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_trajectory::{ColumnMap, NamePattern, StableRange, TokensPerStep, Trajectory, TrajectoryOptions};

use super::Resolver;
use crate::Error;

/// What a user says about a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Tokens of one optimizer step, where neither names nor logs tell.
    pub tokens_per_step: Option<u64>,
    /// Step logs; several for a run that was restarted.
    pub log: Vec<PathBuf>,
    /// Columns of the log by name, such as `loss=my_loss`.
    pub log_columns: Vec<String>,
    /// Steps between two losses of a log that has no steps.
    pub log_every: Option<u64>,
    /// First and last step of the stable phase, `FROM..TO`.
    pub stable: Option<String>,
    /// Which names are checkpoints, such as `step{step}-unsharded`.
    pub checkpoint_pattern: Option<String>,
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
