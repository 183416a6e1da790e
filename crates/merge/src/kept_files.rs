//! Files of the newest source that an output has.

use thalweg_storage::Storage;

use crate::context::RunContext;
use crate::error::Error;
use crate::newest::kept_source;
use crate::open_source::OpenSource;
use crate::plan::OutputPlan;
use crate::receipt::SourceFile;
use crate::side_files::travelling_files;
use crate::stage::StagedOutput;
use std::collections::BTreeSet;
use thalweg_checkpoint::{KeptName, Template, kept_files};
use thalweg_storage::Error as StorageError;

pub(crate) fn list_kept(
    output: &OutputPlan,
    sources: &[OpenSource],
    storage: &dyn Storage,
) -> Result<Vec<KeptName>, Error> {
    let Some(newest) = kept_source(output, sources) else { return Ok(Vec::new()) };
    let replaced = replaced_files(output, sources, storage)?;
    let template = Template { checkpoint: &newest.checkpoint, other_copy: None, replaced: &replaced };
    Ok(kept_files(storage, &template)?)
}

/// Size and time of the files that were copied into an output.
///
/// # Errors
/// `Storage` if one of them changed since.
pub(crate) fn copied_files(
    output: &StagedOutput<'_>,
    sources: &[OpenSource],
    run: &RunContext<'_>,
) -> Result<Vec<SourceFile>, Error> {
    let now = |file: KeptName| {
        let info = run.storage.file_info(&file.path)?;
        if output.staged.copied_from(&file.path).is_some_and(|then| then != info) {
            return Err(StorageError::Changed { path: file.path }.into());
        }
        Ok(SourceFile::new(&file.name, &info))
    };
    list_kept(output.plan, sources, &*run.storage)?.into_iter().map(now).collect()
}

/// Files of the newest source that an output has from another source.
pub(crate) fn replaced_files(
    output: &OutputPlan,
    sources: &[OpenSource],
    storage: &dyn Storage,
) -> Result<BTreeSet<String>, Error> {
    if output.policy.side_files_from == output.policy.newest {
        return Ok(BTreeSet::new());
    }
    Ok(travelling_files(output, sources, storage)?.into_iter().map(|file| file.name).collect())
}
