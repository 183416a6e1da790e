//! What is where the outputs of a plan go. Looked at before the first byte is read, so that refusals come early.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_checkpoint::OutputLayout;
use thalweg_storage::guard::{Place, check_folder, check_place, is_empty_folder, look_at};
use thalweg_storage::publish::{Replace, is_stage_name, trainer_part};
use thalweg_storage::{FileKind, Storage};

use crate::context::RunContext;
use crate::error::Error;
use crate::execute_options::{ExecuteOptions, PartialStage};
use crate::kept::{has_same_bytes, has_same_times};
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::open_source::source_files;
use crate::outcome::MergeOutcome;
use crate::outcome::{Compared, ComparedBy};
use crate::output::has_same_side_files;
use crate::own::MERGED_FOLDER;
use crate::plan::{MergePlan, OutputPlan};
use crate::receipt::{MergeReceipt, RECEIPT_NAME, SourceReceipt};
use crate::receipt::{read_receipt, read_receipt_of};
use crate::sealed::{publish_sealed, sealed_receipt};
use crate::stage::check_stage;
use crate::verify::{digest_checkpoint, verify_receipt};

/// An output that need not be made.
struct Done {
    receipt: MergeReceipt,
    /// `None` if an earlier run completed it, and this one published it.
    compared: Option<Compared>,
}

/// The outputs of a plan, each already there or still to be made.
pub(crate) struct Pending<'a> {
    outputs: Vec<(&'a OutputPlan, Option<Done>)>,
}

impl<'a> Pending<'a> {
    /// Looks at what is where the outputs go.
    pub(crate) fn find(
        plan: &'a MergePlan,
        (sources, layout): (&[OpenSource], &MergeLayout),
        options: ExecuteOptions,
        run: &RunContext<'_>,
    ) -> Result<Self, Error> {
        let storage = &*run.storage;
        check_texts(plan)?;
        check_nesting(plan, storage)?;
        refuse_sources(storage, &plan.outputs, sources)?;
        let look = |output: &'a OutputPlan| {
            let finished = match options.partial {
                PartialStage::Discard => None,
                _ => finish_sealed(output, (sources, layout), options.replace, run)?,
            };
            if finished.is_some() {
                return Ok((output, finished));
            }
            let found = match options.replace {
                Replace::Never => find_existing(output, (sources, layout), run)?,
                Replace::Force => check_folder(storage, &output.path, MERGED_FOLDER).map(|()| None)?,
            };
            if found.is_none() {
                check_stage(storage, output, options)?;
            }
            Ok((output, found))
        };
        let outputs = plan.outputs.iter().map(look).collect::<Result<_, Error>>()?;
        place_notes(plan, storage).iter().for_each(|note| run.progress.note(note));
        Ok(Self { outputs })
    }

    /// The outputs still to be made.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = &'a OutputPlan> + '_ {
        self.outputs.iter().filter(|(_, done)| done.is_none()).map(|(output, _)| *output)
    }

    /// All outcomes in the plan's order. `fresh` has the receipts of the outputs that were made, for which
    /// `bytes_resumed` had been read before.
    pub(crate) fn into_outcomes(self, fresh: Vec<MergeReceipt>, bytes_resumed: u64) -> Vec<MergeOutcome> {
        let mut fresh = fresh.into_iter();
        let outcome = |(output, done): (&OutputPlan, Option<Done>)| {
            let path = output.path.clone();
            match done {
                Some(Done { receipt, compared }) => {
                    let bytes_resumed = if compared.is_some() { 0 } else { receipt.bytes_read };
                    Some(MergeOutcome { path, receipt, was_done: compared.is_some(), bytes_resumed, compared })
                }
                None => {
                    Some(MergeOutcome { path, receipt: fresh.next()?, was_done: false, bytes_resumed, compared: None })
                }
            }
        };
        self.outputs.into_iter().filter_map(outcome).collect()
    }
}

/// Checks that outputs could be written to their paths, long before they are: before models are scored, for example.
///
/// Whether an existing merge may be replaced is decided later, when the outputs are written.
///
/// # Errors
/// `Storage` where something else is in the way; `ForeignStage` where the stage of another plan is.
pub fn check_places<'a>(outputs: impl Iterator<Item = &'a OutputPlan>, storage: &dyn Storage) -> Result<(), Error> {
    let options = ExecuteOptions { replace: Replace::Force, partial: PartialStage::Discard };
    for output in outputs {
        check_folder(storage, &output.path, MERGED_FOLDER)?;
        check_stage(storage, output, options)?;
    }
    Ok(())
}

/// Receipts are JSON, which holds text: other paths could not be written down once the work is done.
fn check_texts(plan: &MergePlan) -> Result<(), Error> {
    let mut paths = plan
        .outputs
        .iter()
        .flat_map(|output| output.sources.iter().map(|source| &source.path).chain(std::iter::once(&output.path)));
    match paths.find(|path| path.to_str().is_none()) {
        Some(path) => Err(Error::PlanInvalid {
            what: format!("the path `{}` is not UTF-8 text, so no receipt can name it: rename it", path.display()),
        }),
        None => Ok(()),
    }
}

/// No output may be inside another: replacing the outer one would remove it.
fn check_nesting(plan: &MergePlan, storage: &dyn Storage) -> Result<(), Error> {
    let real = |output: &OutputPlan| storage.canonical_path(&output.path);
    let mut paths = plan.outputs.iter().map(real).collect::<Result<Vec<_>, _>>()?;
    paths.sort_unstable();
    match paths.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
        Some(pair) => Err(Error::PlanInvalid {
            what: format!("the output `{}` would be inside the output `{}`", pair[1].display(), pair[0].display()),
        }),
        None => Ok(()),
    }
}

/// Neither an output nor its stage may replace a source. Each path is resolved once, which takes a look at every folder
/// above it.
pub(crate) fn refuse_sources(
    storage: &dyn Storage,
    outputs: &[OutputPlan],
    sources: &[OpenSource],
) -> Result<(), Error> {
    let mut reals: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    for source in sources {
        reals.insert(storage.canonical_path(&source.path)?, &source.path);
    }
    for output in outputs {
        for place in [&output.path, &storage.stage_path(&output.path)] {
            let place = storage.canonical_path(place)?;
            // What is inside a folder comes right after it.
            let next = reals.range(place.clone()..).next().filter(|(real, _)| real.starts_with(&place));
            if let Some((_, source_path)) = next {
                return Err(Error::OutputIsSource {
                    path: output.path.clone(),
                    source_path: source_path.to_path_buf(),
                });
            }
        }
    }
    Ok(())
}

/// Publishes an output of this plan that an earlier run completed in its stage, if its sources are what they were.
fn finish_sealed(
    output: &OutputPlan,
    from: (&[OpenSource], &MergeLayout),
    replace: Replace,
    run: &RunContext<'_>,
) -> Result<Option<Done>, Error> {
    let storage = &*run.storage;
    let is_free = match look_at(storage, &output.path)? {
        Place::Free => true,
        Place::Folder => is_empty_folder(storage, &output.path)?,
        _ => false,
    };
    // Where something is, the stage may hold what that replaced.
    let receipt = if is_free { sealed_receipt(output, storage)? } else { None };
    let Some(receipt) = receipt.filter(|receipt| receipt.plan.path == output.path) else { return Ok(None) };
    if compare_sources(&receipt, from, run)?.is_none() {
        return Ok(None);
    }
    publish_sealed(output, replace, run)?;
    Ok(Some(Done { receipt, compared: None }))
}

/// The receipt of an undamaged output that this plan made from these sources; `None` where there is nothing.
fn find_existing(
    output: &OutputPlan,
    from: (&[OpenSource], &MergeLayout),
    run: &RunContext<'_>,
) -> Result<Option<Done>, Error> {
    let (storage, path) = (&*run.storage, &output.path);
    match look_at(storage, path)? {
        Place::Free => return Ok(check_place(storage, path).map(|()| None)?),
        Place::Folder if is_empty_folder(storage, path)? => {
            return Ok(check_folder(storage, path, MERGED_FOLDER).map(|()| None)?);
        }
        Place::Folder | Place::Link(_) => {}
        Place::File | Place::Other => return Err(exists(storage, path, "")),
    }
    let Ok(receipt) = read_receipt(path, run) else { return Err(exists(storage, path, "")) };
    if receipt.plan_digest != output.digest()? {
        return Err(exists(storage, path, "holds another merge"));
    }
    let found = verify_receipt(path, &receipt, run)?;
    if let Some(fault) = found.first_fault() {
        return Err(exists(storage, path, &format!("holds this merge, but it is damaged: {fault}")));
    }
    let has_digests = receipt.plan.digest.kind().is_some();
    let Some(by) = compare_sources(&receipt, from, run)? else {
        return Err(exists(storage, path, "holds this merge, but its sources have changed since"));
    };
    // It may be there only in memory: the run that published it may have been stopped before this sync.
    storage.sync_folder(path.parent().unwrap_or(Path::new("/")))?;
    let compared =
        Compared { output: if has_digests { ComparedBy::Digests } else { ComparedBy::Headers }, sources: by };
    Ok(Some(Done { receipt, compared: Some(compared) }))
}

/// Whether this plan's output is at its path already: what its receipt says, without a look at its tensors.
///
/// # Errors
/// `OutputExists` for another output, unless it is to be replaced; `Storage` where nothing can be written.
pub(crate) fn is_published(output: &OutputPlan, replace: Replace, storage: &dyn Storage) -> Result<bool, Error> {
    let path = &output.path;
    match look_at(storage, path)? {
        Place::Free => return Ok(check_place(storage, path).map(|()| false)?),
        Place::Folder if is_empty_folder(storage, path)? => {
            return Ok(check_folder(storage, path, MERGED_FOLDER).map(|()| false)?);
        }
        _ if replace == Replace::Force => return Ok(check_folder(storage, path, MERGED_FOLDER).map(|()| false)?),
        Place::Folder | Place::Link(_) => {}
        Place::File | Place::Other => return Err(exists(storage, path, "")),
    }
    let Ok(receipt) = read_receipt_of(storage, path) else { return Err(exists(storage, path, "")) };
    match receipt.plan_digest == output.digest()? {
        true => Ok(true),
        false => Err(exists(storage, path, "holds another merge")),
    }
}

/// The error for an existing output: `--force` is proposed only where it would be allowed.
fn exists(storage: &dyn Storage, path: &Path, holds: &str) -> Error {
    match check_folder(storage, path, MERGED_FOLDER) {
        Ok(()) => Error::OutputExists { path: path.to_owned(), holds: holds.to_owned() },
        Err(refusal) => refusal.into(),
    }
}

/// How the sources were found to be those that were merged; `None` if they are not, or if that cannot be decided.
fn compare_sources(
    receipt: &MergeReceipt,
    (sources, layout): (&[OpenSource], &MergeLayout),
    run: &RunContext<'_>,
) -> Result<Option<ComparedBy>, Error> {
    let mut by = ComparedBy::Times;
    for known in &receipt.sources {
        let Some(source) = sources.iter().find(|source| source.path == known.path) else { return Ok(None) };
        if source_files(source) == known.files {
            continue;
        }
        by = ComparedBy::Digests;
        if !has_digest(source, known, receipt, run)? {
            return Ok(None);
        }
    }
    if !has_same_side_files(receipt, (sources, layout), &run.storage)? {
        return Ok(None);
    }
    if has_same_times(receipt, sources, &*run.storage)? {
        return Ok(Some(by));
    }
    Ok(has_same_bytes((&receipt.plan.path, receipt), (sources, layout), run)?.then_some(ComparedBy::Digests))
}

/// Whether a source has the digest that the receipt knows: copies of the same bytes are the same source.
fn has_digest(
    source: &OpenSource,
    known: &SourceReceipt,
    receipt: &MergeReceipt,
    run: &RunContext<'_>,
) -> Result<bool, Error> {
    let Some((kind, digest)) = receipt.plan.digest.kind().zip(known.digest.as_ref()) else { return Ok(false) };
    Ok(digest_checkpoint(&*source.checkpoint, kind, run)?.to_string() == *digest)
}

/// Refuses before the first byte is written if a disk cannot hold its outputs.
pub(crate) fn check_disk_space<'a>(
    outputs: impl Iterator<Item = (&'a OutputPlan, &'a OutputLayout)>,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let mut needed_bytes = 0;
    for (output, layout) in outputs {
        needed_bytes += layout.len_bytes();
        let staged_bytes = run
            .storage
            .list_folder(&run.storage.stage_path(&output.path))
            .map_or(0, |entries| entries.iter().map(|entry| entry.len_bytes).sum());
        let Some(free_bytes) = run.storage.free_bytes(&output.path)? else { continue };
        if needed_bytes > free_bytes.saturating_add(staged_bytes) {
            return Err(Error::DiskFull { path: output.path.clone(), needed_bytes, free_bytes });
        }
    }
    Ok(())
}

/// Notes about where the outputs go.
///
/// A trainer that keeps only the newest checkpoints counts and deletes by name. It mistakes an output for a checkpoint
/// if the output is beside its checkpoints and has a step in its name.
pub fn place_notes(plan: &MergePlan, storage: &dyn Storage) -> Vec<String> {
    plan.outputs.iter().filter_map(|output| trainer_note(plan, output, storage)).collect()
}

fn trainer_note(plan: &MergePlan, output: &OutputPlan, storage: &dyn Storage) -> Option<String> {
    let name = output.path.file_name()?.to_string_lossy().into_owned();
    let part = trainer_part(&name)?;
    let word = |part: &str| part.trim_end_matches(char::is_numeric).to_ascii_lowercase();
    let folder = output.path.parent()?;
    let is_output = |path: &PathBuf| plan.outputs.iter().any(|output| output.path == *path);
    let is_checkpoint = |entry: &thalweg_storage::FolderEntry| {
        let path = folder.join(&entry.name);
        !is_stage_name(&entry.name)
            && trainer_part(&entry.name).is_some_and(|other| word(other) == word(part))
            && matches!(entry.kind, FileKind::File | FileKind::Folder)
            && !is_output(&path)
            && storage.file_info(&path.join(RECEIPT_NAME)).is_err()
    };
    let entries = storage.list_folder(folder).ok()?;
    let beside = entries.iter().find(|entry| is_checkpoint(entry))?;
    // The names of several outputs, as a sweep makes them, are not the user's.
    let elsewhere = match plan.outputs.len() {
        1 => format!("a name without `{part}`, or another folder"),
        _ => "another folder".to_owned(),
    };
    Some(format!(
        "`{name}` is beside `{}`, and trainers recognise checkpoints by `{part}` in a name: one that keeps only the \
         newest may count and delete this output; choose {elsewhere}",
        beside.name
    ))
}
