//! Which files beside the tensors travel from the named source, and the note about those that do not.

use std::collections::BTreeMap;

use thalweg_checkpoint::{Checkpoint, SideFile, SideFileComparison, SideFileKind, StayReason};
use thalweg_storage::Storage;
use thalweg_tensor::display_name;

use crate::huggingface::assets_of;
use crate::listing::shorten;
use crate::newest::named_source;
use crate::newest::{kept_source, takes_arguments};
use crate::open_source::OpenSource;
use crate::plan::{CodePolicy, OutputPlan};

/// The files that travel to an output.
///
/// # Errors
/// When the folder that the output names instead of a source cannot be opened.
pub(crate) fn travelling_files(
    output: &OutputPlan,
    sources: &[OpenSource],
    storage: &dyn Storage,
) -> Result<Vec<SideFile>, thalweg_checkpoint::Error> {
    let travels = |file: &SideFile| match file.kind {
        SideFileKind::Travels => true,
        SideFileKind::Code => output.policy.code == CodePolicy::Copy,
        SideFileKind::Stays(_) => false,
    };
    let mut files = match assets_of(output, storage)? {
        Some(assets) => assets.side_files,
        None => named_source(output, sources).map_or_else(Vec::new, |source| source.checkpoint.side_files().to_vec()),
    };
    files.retain(travels);
    Ok(files)
}

/// What is worth knowing about the files that travel to an output, in sentences: those of the named source that stay
/// behind, those that only another source has, and those that differ between the sources. What is `compared` for one
/// output need not be for the next.
///
/// # Errors
/// If a file cannot be read.
pub fn side_file_notes(
    output: &OutputPlan,
    sources: &[OpenSource],
    compared: &mut SideFileComparison,
    storage: &dyn Storage,
) -> Result<Vec<String>, thalweg_checkpoint::Error> {
    if output.policy.hf_assets.is_some() {
        return Ok(Vec::new());
    }
    let Some(named) = named_source(output, sources) else { return Ok(Vec::new()) };
    let is_merged = |source: &&OpenSource| output.sources.iter().any(|one| one.path == source.path);
    let merged: Vec<&OpenSource> = sources.iter().filter(is_merged).collect();
    let mut notes = Vec::new();
    notes.extend(stays_behind(output, named, kept_source(output, sources).is_some(), takes_arguments(output, sources)));
    notes.extend(is_elsewhere(named, merged.iter().copied()));
    notes.extend(differs(named, &merged, compared, storage)?);
    Ok(notes)
}

/// The files that differ between the sources: the named source decides how the output is used.
fn differs(
    named: &OpenSource,
    merged: &[&OpenSource],
    compared: &mut SideFileComparison,
    storage: &dyn Storage,
) -> Result<Option<String>, thalweg_checkpoint::Error> {
    let checkpoints: Vec<&Checkpoint> = merged.iter().map(|source| &*source.checkpoint).collect();
    let has = |name: &String| named.checkpoint.side_files().iter().any(|file| file.name == *name);
    let names = compared.differing(&checkpoints, storage)?.into_iter().filter(has);
    let names: Vec<String> = names.map(|name| format!("`{}`", display_name(&name))).collect();
    let (n, path) = (names.len(), named.path.display());
    let names = shorten(names);
    Ok(match n {
        0 => None,
        1 => Some(format!("{names} differs between the sources: copying that of `{path}` (`--side-files-from`)")),
        _ => Some(format!("{names} differ between the sources: copying those of `{path}` (`--side-files-from`)")),
    })
}

/// The first source with files that would travel and that the named source does not have: a merge without its tokenizer
/// may not load.
fn is_elsewhere<'a>(named: &OpenSource, mut others: impl Iterator<Item = &'a OpenSource>) -> Option<String> {
    let has = |name: &str| named.checkpoint.side_files().iter().any(|file| file.name == name);
    others.find_map(|other| {
        let files = other.checkpoint.side_files().iter();
        let missing = files.filter(|file| matches!(file.kind, SideFileKind::Travels) && !has(&file.name));
        let names: Vec<String> = missing.map(|file| format!("`{}`", display_name(&file.name))).collect();
        (!names.is_empty()).then(|| {
            let (named, path) = (named.path.display(), other.path.display());
            let names = shorten(names);
            format!("`{named}` lacks {names} of `{path}`: `--side-files-from` takes the files of another checkpoint")
        })
    })
}

/// The file of Megatron-LM's arguments, which it cannot do without.
const MEGATRON_COMMON: &str = "common.pt";

/// What stays behind where an output's files come from, with the reason.
fn stays_behind(output: &OutputPlan, source: &OpenSource, keeps_files: bool, has_arguments: bool) -> Option<String> {
    let mut stays: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in source.checkpoint.side_files() {
        let reason = match file.kind {
            SideFileKind::Travels => continue,
            SideFileKind::Code if output.policy.code == CodePolicy::Copy => continue,
            SideFileKind::Code => "code: `--code` copies it",
            // The output has the files of a source, all but these.
            SideFileKind::Stays(
                StayReason::Weights | StayReason::TrainingState | StayReason::TooLarge | StayReason::Folder,
            ) if keeps_files => {
                continue;
            }
            SideFileKind::Stays(StayReason::Card) if !output.policy.model_card => "it describes the source",
            SideFileKind::Stays(StayReason::TrainingState) if has_arguments && file.name == MEGATRON_COMMON => continue,
            SideFileKind::Stays(reason) => reason.words(),
        };
        stays.entry(reason).or_default().push(format!("`{}`", display_name(&file.name)));
    }
    if stays.is_empty() {
        return None;
    }
    let list = |(reason, names)| format!("{} ({reason})", shorten(names));
    let lists: Vec<String> = stays.into_iter().map(list).collect();
    Some(format!("not copied from `{}`: {}", source.path.display(), lists.join("; ")))
}
