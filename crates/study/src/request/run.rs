//! Runs: opening them with what the user says about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::FileKind;
use thalweg_trajectory::layout::{CheckpointName, parse_entry_name};
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

/// Parses a checkpoint's own name: that of its folder or file, or its revision.
pub(super) fn parse_own_name(path: &Path, pattern: Option<&NamePattern>) -> Option<CheckpointName> {
    let text = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = text(path);
    // `run/step1000/model.safetensors` has its step in the name of the folder.
    let is_plain_file = name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".index.json"));
    let name = if is_plain_file { text(path.parent()?) } else { name };
    let parse = |name: &str| {
        parse_entry_name(name, FileKind::File, pattern).or_else(|| parse_entry_name(name, FileKind::Folder, pattern))
    };
    parse(&name).or_else(|| parse(name.rsplit_once('@')?.1))
}
