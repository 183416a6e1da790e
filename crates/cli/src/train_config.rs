//! Configs of training runs as arguments name them, and configs that commands write for runs to come.

use std::path::{Path, PathBuf};

use thalweg_lab::TrainConfig;
use thalweg_storage::guard::{OwnKind, check_file};
use thalweg_storage::publish::publish_file;

use crate::error::Error;
use crate::host::World;

/// The largest config that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads the text of a config.
pub(crate) fn read_config_text(path: &Path, world: &World<'_>) -> Result<String, Error> {
    let bytes = world.storage.read_file(path, MAX_CONFIG_BYTES)?;
    thalweg_storage::text_of(bytes).map_err(|_| Error::usage(format!("`{}` is not UTF-8 text", path.display())))
}

/// Reads the config of one run.
pub(crate) fn read_config(path: &Path, world: &World<'_>) -> Result<TrainConfig, Error> {
    Ok(TrainConfig::from_toml(&read_config_text(path, world)?, path)?)
}

/// The folder that relative paths of a config begin at.
pub(crate) fn folder_of_config(path: &Path, world: &World<'_>) -> Result<PathBuf, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(world.storage.canonical_path(folder)?)
}

/// A checkpoint that other runs resume from, and its step.
pub(crate) fn start_of(named: &Path, world: &World<'_>) -> Result<(PathBuf, u64), Error> {
    let path = world.resolver().resolve_checkpoint(named)?;
    match world.resolver().step_of(&path) {
        Some(step) => Ok((path, step)),
        None => Err(Error::usage_with_hint(
            format!("the name of `{}` has no step", path.display()),
            "name a checkpoint of a run: training resumes from its state",
        )),
    }
}

/// Configs that one command writes, told by their first line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WrittenConfigs {
    /// The first line.
    pub(crate) mark: &'static str,
    /// What errors call such a config.
    pub(crate) what: &'static str,
}

impl WrittenConfigs {
    fn kind(self) -> OwnKind<'static> {
        OwnKind::text(self.what, self.mark)
    }

    /// Refuses a path that holds anything else.
    pub(crate) fn check(self, path: &Path, world: &World<'_>) -> Result<(), Error> {
        Ok(check_file(&*world.storage, path, self.kind(), &[])?)
    }

    /// Writes a config, which replaces only another one of these.
    pub(crate) fn publish(self, path: &Path, config: &TrainConfig, world: &World<'_>) -> Result<(), Error> {
        let text = format!("{}\n{}", self.mark, config.to_toml(path)?);
        Ok(publish_file(&*world.storage, path, text.as_bytes(), self.kind())?)
    }
}
