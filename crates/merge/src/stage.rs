//! The stage of one output: find it, check that it is ours, lock it, create or resume it, give it up.
//!
//! A stage is recognised by its lock, and its journal lists the files that may be in it. No other file is ever removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{CONFIG_FILE_NAME, LOCK_NAME, OutputLayout, SideFile, SideFileKind, StagedCheckpoint};
use thalweg_storage::guard::{Contents, Place, STAGE_HINT, foreign_entries, look_at, remove_own_folder, shown_names};
use thalweg_storage::publish::Replace;
use thalweg_storage::{Lock, Storage};
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::card::CARD_NAME;
use crate::context::RunContext;
use crate::error::Error;
use crate::execute_options::{ExecuteOptions, PartialStage};
use crate::journal::{JOURNAL_NAME, Journal, JournalState, StageKey, UnitRecord};
use crate::open_source::{OpenSource, source_files};
use crate::own::{MERGED_FOLDER, merged_contents};
use crate::plan::OutputPlan;
use crate::receipt::RECEIPT_NAME;
use crate::receipt::read_receipt_of;
use crate::share::is_share_name;
use crate::side_files::travelling_files;
use crate::workers::wait_together;

/// An output that is being written.
pub(crate) struct StagedOutput<'a> {
    pub(crate) plan: &'a OutputPlan,
    pub(crate) staged: StagedCheckpoint,
    /// Where finished units are noted; `None` if nothing is to be resumed from it.
    pub(crate) journal: Option<Journal>,
    /// What an earlier run's journal says.
    pub(crate) found: Vec<UnitRecord>,
    pub(crate) plan_digest: String,
    /// Files that may be in the stage and are ours.
    pub(crate) leftovers: BTreeSet<String>,
    /// Held as long as the stage is in use.
    pub(crate) _locks: Vec<Lock>,
}

/// What is at the path of a stage.
pub(crate) enum StagePlace {
    /// Nothing, or an empty folder.
    Free,
    /// A stage: it has a lock file.
    Stage,
    /// A complete output of ours, not yet published, or replaced and not yet removed.
    Sealed,
}

/// Looks at the path of an output's stage, and refuses if what is there is not ours to empty.
///
/// # Errors
/// `ForeignStage` for a complete output of another plan; `Storage` for anything that this program did not write.
pub(crate) fn check_stage(storage: &dyn Storage, output: &OutputPlan, options: ExecuteOptions) -> Result<(), Error> {
    find_stage(storage, output, options).map(|_| ())
}

pub(crate) fn find_stage(
    storage: &dyn Storage,
    output: &OutputPlan,
    options: ExecuteOptions,
) -> Result<StagePlace, Error> {
    let stage = storage.stage_path(&output.path);
    match look_at(storage, &stage)? {
        Place::Free => return Ok(StagePlace::Free),
        Place::Folder if storage.count_entries(&stage)? == 0 => return Ok(StagePlace::Free),
        Place::Folder if look_at(storage, &stage.join(LOCK_NAME))? == Place::File => return Ok(StagePlace::Stage),
        Place::Folder => {}
        Place::Link(_) | Place::File | Place::Other => {
            return Err(refuse(&stage, "is where the output is staged, but is not a folder".to_owned()));
        }
    }
    match merged_contents(storage, &stage)? {
        Contents::Ours { foreign, .. } if foreign.is_empty() => {
            let receipt = read_receipt_of(storage, &stage)?;
            let is_replaced = options.replace == Replace::Force && storage.file_info(&output.path).is_ok();
            let is_free = is_replaced || options.partial != PartialStage::Resume;
            if receipt.plan.path == output.path && (is_free || receipt.plan_digest == output.digest()?) {
                return Ok(StagePlace::Sealed);
            }
            Err(Error::ForeignStage { path: stage, what: "another plan" })
        }
        _ => {
            let holds = shown_names(&foreign_entries(storage, &stage, &BTreeSet::new())?);
            Err(refuse(
                &stage,
                format!("is where the output is staged, but holds {holds}: it is not an interrupted merge"),
            ))
        }
    }
}

pub(crate) fn refuse(path: &Path, holds: String) -> Error {
    thalweg_storage::Error::MayNotReplace { path: path.to_owned(), holds, hint: STAGE_HINT }.into()
}

/// Opens or creates the stages of all `outputs`, each with its layout. If one fails, those that hold no work go again.
pub(crate) fn stage_outputs<'a>(
    outputs: &[&'a OutputPlan],
    layouts: Vec<OutputLayout>,
    sources: &[OpenSource],
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<Vec<StagedOutput<'a>>, Error> {
    let reading = reading_digest(outputs, sources)?;
    let stage = |(output, layout)| stage_output(output, sources, layout, &reading, options, run);
    let (mut staged, mut failure) = (Vec::new(), None);
    for outcome in wait_together(run, outputs.iter().copied().zip(layouts).collect(), &stage).into_iter().flatten() {
        match outcome {
            Ok(output) => staged.push(output),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let Some(error) = failure else { return Ok(staged) };
    // Stages that hold work of an earlier run are kept; empty ones would only be in the way.
    let fresh = staged.into_iter().filter(|output: &StagedOutput<'_>| output.found.is_empty());
    fresh.for_each(|output| remove_stage(&*run.storage, &output));
    Err(error)
}

/// Digest of what is merged in one reading: the cut of the work and the sources that are read depend on it.
fn reading_digest(outputs: &[&OutputPlan], sources: &[OpenSource]) -> Result<Digest, Error> {
    let mut text = String::new();
    for output in outputs {
        text.push_str(&format!("{}\0", output.digest()?));
    }
    sources.iter().for_each(|source| text.push_str(&format!("{}\0", source.path.display())));
    Ok(bytes_digest(DigestKind::Blake3, text.as_bytes()))
}

/// Opens the stage of an interrupted run of this plan, or creates a new one.
fn stage_output<'a>(
    output: &'a OutputPlan,
    sources: &[OpenSource],
    output_layout: OutputLayout,
    reading: &Digest,
    options: ExecuteOptions,
    run: &RunContext<'_>,
) -> Result<StagedOutput<'a>, Error> {
    let storage = &run.storage;
    let stage = storage.stage_path(&output.path);
    if let StagePlace::Sealed = find_stage(&**storage, output, options)? {
        remove_own_folder(&**storage, &stage, MERGED_FOLDER)?;
    }
    storage.create_folder(&stage)?;
    let lock = storage.lock(&stage.join(LOCK_NAME))?;
    note_lack_of_locks(&lock, &stage, run);
    let plan_digest = output.digest()?;
    let key = stage_key(output, &plan_digest, sources, reading);
    let output_layout = Arc::new(output_layout);
    let journal_path = stage.join(JOURNAL_NAME);
    let (state, listed) = Journal::open(&**storage, &journal_path, &key)?;
    let names = stage_names(output, sources, &output_layout, &**storage)?;
    let mut known: BTreeSet<String> = names.iter().cloned().chain(listed).collect();
    let of_shares = names_of_shares(&**storage, &stage)?;
    if !of_shares.is_empty() && options.partial == PartialStage::Resume {
        return Err(Error::ForeignStage { path: stage, what: "this or another plan in shares" });
    }
    known.extend(of_shares);
    check_names(&**storage, &stage, &known)?;
    let staged = |staged, journal, found| StagedOutput {
        plan: output,
        staged,
        journal: Some(journal),
        found,
        plan_digest,
        leftovers: known.clone(),
        _locks: vec![lock],
    };
    if options.partial != PartialStage::Discard {
        match state {
            JournalState::Foreign(_) if options.partial == PartialStage::ResumeIfSame => {}
            JournalState::Foreign(what) => return Err(Error::ForeignStage { path: stage, what }),
            JournalState::Ours(journal, found) => {
                if let Ok(reopened) = StagedCheckpoint::reopen(storage, &stage, Arc::clone(&output_layout)) {
                    return Ok(staged(reopened, journal, found));
                }
            }
            JournalState::Absent => {}
        }
    }
    empty_stage(&**storage, &stage)?;
    let journal = Journal::create(&**storage, &journal_path, &key, &names)?;
    // The lock and the journal, by which a stage and its files are recognised, are durable before the first file.
    storage.sync_folder(&stage)?;
    let created = StagedCheckpoint::create(storage, &stage, output_layout).inspect_err(|_| {
        // Usually the disk is full: an unfinished output would only be in the way.
        let _ = check_names(&**storage, &stage, &known).and_then(|()| Ok(storage.remove(&stage)?));
    })?;
    Ok(staged(created, journal, Vec::new()))
}

pub(crate) fn note_lack_of_locks(lock: &Lock, stage: &Path, run: &RunContext<'_>) {
    if !lock.is_held() {
        run.progress.note(&format!(
            "the file system of `{}` has no locks: make sure that no other merge writes there",
            stage.display()
        ));
    }
}

/// Every name that this plan may put into its stage.
pub(crate) fn stage_names(
    output: &OutputPlan,
    sources: &[OpenSource],
    layout: &OutputLayout,
    storage: &dyn Storage,
) -> Result<BTreeSet<String>, Error> {
    let mut names: BTreeSet<String> = layout.files().iter().map(|file| file.name.clone()).collect();
    names.extend(layout.documents().iter().map(|document| document.name.clone()));
    let fixed = [LOCK_NAME, JOURNAL_NAME, RECEIPT_NAME, CARD_NAME, CONFIG_FILE_NAME];
    names.extend(fixed.map(str::to_owned));
    for planned in &output.sources {
        let source = sources.iter().find(|source| source.path == planned.path);
        let files = source.map(|source| source.checkpoint.side_files()).unwrap_or_default();
        // A folder beside the tensors is not a file of ours, and neither is one of that name in the stage.
        let can_travel = |file: &&SideFile| !matches!(file.kind, SideFileKind::Stays(_));
        names.extend(files.iter().filter(can_travel).map(|file| file.name.clone()));
    }
    names.extend(travelling_files(output, sources, storage)?.into_iter().map(|file| file.name));
    Ok(names)
}

/// The files of shares in a stage, and the names that their journals list; none if there is no stage.
pub(crate) fn names_of_shares(storage: &dyn Storage, stage: &Path) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for entry in storage.list_folder(stage)?.into_iter().filter(|entry| is_share_name(&entry.name)) {
        names.extend(Journal::listed_names(storage, &stage.join(&entry.name))?);
        names.insert(entry.name);
    }
    Ok(names)
}

pub(crate) fn check_names(storage: &dyn Storage, stage: &Path, known: &BTreeSet<String>) -> Result<(), Error> {
    match foreign_entries(storage, stage, known)? {
        foreign if foreign.is_empty() => Ok(()),
        foreign => Err(refuse(stage, format!("is an interrupted merge, but also holds {}", shown_names(&foreign)))),
    }
}

/// Removes all but the lock. The caller has checked that everything is ours.
pub(crate) fn empty_stage(storage: &dyn Storage, stage: &Path) -> Result<(), Error> {
    for entry in storage.list_folder(stage)? {
        if entry.name != LOCK_NAME {
            storage.remove(&stage.join(&entry.name))?;
        }
    }
    Ok(())
}

/// What a stage must share with the run that resumes it: the plan, and what is merged in the same reading.
///
/// Without digests, also the sizes and times of the sources. With digests, each finished part is compared with the
/// sources, but for those whose digest is known.
fn stage_key(output: &OutputPlan, plan_digest: &str, sources: &[OpenSource], reading: &Digest) -> StageKey {
    let identity = match output.digest.kind() {
        None => identity_of(output, sources),
        Some(_) => known_digests(sources),
    };
    join_key(plan_digest, &identity, reading)
}

/// The digests of sources that are not taken again.
fn known_digests(sources: &[OpenSource]) -> String {
    let known = |source: &OpenSource| Some(format!("{}\0{}\0", source.path.display(), source.known_digest?));
    sources.iter().filter_map(known).collect()
}

/// Names, sizes and times of an output's sources.
pub(crate) fn identity_of(output: &OutputPlan, sources: &[OpenSource]) -> String {
    let mut identity = String::new();
    for planned in &output.sources {
        let source = sources.iter().find(|source| source.path == planned.path);
        for file in source.map(source_files).unwrap_or_default() {
            let (length, modified, changed) = (file.len_bytes, file.modified_ns, file.changed_ns.unwrap_or_default());
            identity.push_str(&format!("{}\0{length}\0{modified}\0{changed}\0", file.name));
        }
    }
    identity
}

pub(crate) fn join_key(plan_digest: &str, identity: &str, reading: &Digest) -> StageKey {
    let mut key = [0; 96];
    key[..32].copy_from_slice(&bytes_digest(DigestKind::Blake3, plan_digest.as_bytes()).to_bytes());
    key[32..64].copy_from_slice(&bytes_digest(DigestKind::Blake3, identity.as_bytes()).to_bytes());
    key[64..].copy_from_slice(&reading.to_bytes());
    key
}

/// Gives up the stages of a merge that failed. If the same command can resume them, they are kept and a note names
/// them. Otherwise they are removed, so that they do not block the command that fixes the fault.
pub(crate) fn give_up(staged: Vec<StagedOutput<'_>>, error: Error, run: &RunContext<'_>) -> Error {
    if error.can_be_resumed() {
        note_stages(staged.iter().map(|output| run.storage.stage_path(&output.plan.path)), run);
        return error;
    }
    for output in staged {
        remove_stage(&*run.storage, &output);
    }
    error
}

/// Notes which stages a merge left behind.
pub(crate) fn note_stages(stages: impl Iterator<Item = PathBuf>, run: &RunContext<'_>) {
    let stages: Vec<String> = stages.map(|stage| stage.display().to_string()).collect();
    if !stages.is_empty() {
        run.progress.note(&format!(
            "the work so far is in {}: rerun the command to resume it, or start over with `--discard-partial`",
            shown_names(&stages)
        ));
    }
}

/// Removes a stage that is of no use. If it cannot be removed, the next attempt reports it.
fn remove_stage(storage: &dyn Storage, output: &StagedOutput<'_>) {
    let stage = storage.stage_path(&output.plan.path);
    let _ = check_names(storage, &stage, &output.leftovers).and_then(|()| Ok(storage.remove(&stage)?));
}
