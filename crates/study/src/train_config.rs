//! Configs of training made from another one: they are written elsewhere, and resume from a checkpoint.

use std::path::Path;

use thalweg_lab::config::{CorpusPaths, Count, DomainSection, StartSection, StartState, TrainConfig};
use thalweg_lab::corpus::BUILT_IN;

/// Paths of a data set from the folder of its config; names of built-in corpora stay.
pub(crate) fn make_absolute(section: &mut DomainSection, folder: &Path) {
    for paths in std::iter::once(&mut section.from).chain(&mut section.validation) {
        absolute(paths, folder);
    }
}

fn absolute(paths: &mut CorpusPaths, folder: &Path) {
    for path in paths.0.iter_mut().filter(|path| !BUILT_IN.contains(&path.as_str())) {
        *path = folder.join(&*path).to_string_lossy().into_owned();
    }
}

/// Lets a config resume from a checkpoint with its whole state, up to a step of the run.
pub(crate) fn resume(config: &mut TrainConfig, from: &Path, to_step: u64) {
    config.steps = Some(Count(to_step));
    config.tokens = None;
    config.start =
        Some(StartSection { from: from.to_owned(), state: StartState::Full, moments: None, skip_data_steps: 0 });
}
