//! A run folder and the checkpoints in it: found by name, sorted by step, each finished or not.
//!
//! Opens headers only, and holds no file open afterwards. It does not choose: `window` does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{
    CatalogCache, Note, RECEIPT_NAME, ReadOptions, is_checkpoint, is_state_name, open_all_with_cache, strip_file_end,
};
use thalweg_storage::{FileKind, FolderEntry, Storage};
use thalweg_tensor::{display_name, shell_path, shell_word};

use crate::checkpoint_name::{CheckpointName, NameCount, NameTokens};
use crate::hub_cache::{is_hub_repository, list_revisions};
use crate::layout::{is_temporary_name, parse_entry_name, parse_folder_name};
use crate::own_output::own_output;
use crate::state::{CheckpointState, Fault};
use crate::{Error, NamePattern, Step};

/// Checkpoints opened at a time: bounds memory and open files in a run of thousands. Not measured.
const OPENED_AT_ONCE: usize = 16;
/// Folders in one that is not a run that are looked into for a run.
const MAX_LOOKED_INTO: usize = 50;
/// A tracker file holds one short name.
const MAX_TRACKER_BYTES: u64 = 4096;

/// A checkpoint in a run folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCheckpoint {
    /// Its folder or file.
    pub path: PathBuf,
    /// The name that says the step: of the folder, the file, or the revision.
    pub name: String,
    /// The step.
    pub step: Step,
    /// Tokens, if the name has them.
    pub name_tokens: Option<NameTokens>,
    /// The stage before the step in the name, if any.
    pub stage: Option<String>,
    /// The epoch beside the step in the name, if any.
    pub epoch: Option<u64>,
    /// Whether it can be used, and why not.
    pub state: CheckpointState,
    /// Its format, if it could be opened.
    pub format: Option<&'static str>,
    /// What casts doubt on its content although it can be used.
    pub doubts: Vec<Note>,
}

/// The folder of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
    checkpoints: Vec<RunCheckpoint>,
    ignored: Vec<String>,
    ignored_epochs: Vec<String>,
    ignored_links: Vec<String>,
    broken_links: Vec<String>,
    counts: NameCount,
}

impl RunDir {
    /// Lists a run folder, or a repository of a local Hugging Face cache, and looks at each checkpoint's headers.
    ///
    /// Temporary names (`tmp-`, `.tmp`, `*.thalweg-partial`, hidden) and other names are ignored. So is a link to
    /// another checkpoint of the same folder: `latest`, or one whose own name has a step.
    ///
    /// A merge in the folder has a receipt and is never part of the run. With a pattern, only the names that match it
    /// are checkpoints. Names that count epochs are checkpoints only if no name has a step.
    ///
    /// # Errors
    /// `NotFound`; `IsCheckpoint` if the path is itself a checkpoint; `NotARun` if no name in it has a step; `NoMatch`
    /// if no name matches the pattern; `Storage`.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(storage: &std::sync::Arc<dyn thalweg_storage::Storage>) -> Result<(), thalweg_trajectory::Error> {
    /// let run = thalweg_trajectory::RunDir::open(storage, "runs/small".as_ref(), None)?;
    /// for checkpoint in run.checkpoints() {
    ///     assert!(checkpoint.state.is_finished(), "{} {:?}", checkpoint.step, checkpoint.state.reason());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(storage: &Arc<dyn Storage>, path: &Path, pattern: Option<&NamePattern>) -> Result<Self, Error> {
        Self::open_with(storage, path, pattern, (&ReadOptions::default(), &CatalogCache::default()))
    }

    /// As [`RunDir::open`], with options for reading the checkpoints, and what is shared with others that read them.
    ///
    /// # Errors
    /// As [`RunDir::open`].
    pub(crate) fn open_with(
        storage: &Arc<dyn Storage>,
        path: &Path,
        pattern: Option<&NamePattern>,
        reading: (&ReadOptions, &CatalogCache),
    ) -> Result<Self, Error> {
        let info = storage.file_info(path).map_err(|error| Error::from_storage(path, error))?;
        if info.kind != FileKind::Folder {
            return Err(refuse_file(path));
        }
        let entries = storage.list_folder(path)?;
        let broken_links = broken_links(storage, path, &entries, pattern);
        let (names, ignored_links) = without_links(storage, path, list_names(storage, path, &entries)?, pattern);
        let SplitNames { candidates, mut ignored, ignored_epochs } = split_names(names, pattern);
        ignored.extend_from_slice(&ignored_links);
        ignored.sort();
        let Some(counts) = candidates.first().map(|candidate| candidate.said.counts) else {
            return Err(refuse_folder(storage, path, &entries, pattern));
        };
        let trackers = Trackers::read(storage, path, &entries)?;
        let mut checkpoints = check_candidates(storage, candidates, &trackers, reading)?;
        checkpoints.sort_by(|a, b| (a.step, &a.name).cmp(&(b.step, &b.name)));
        Ok(Self { path: path.to_owned(), checkpoints, ignored, ignored_epochs, ignored_links, broken_links, counts })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All checkpoints by step, unfinished ones too.
    pub fn checkpoints(&self) -> &[RunCheckpoint] {
        &self.checkpoints
    }

    /// The checkpoints that can be used, by step.
    pub fn finished(&self) -> impl DoubleEndedIterator<Item = &RunCheckpoint> {
        self.checkpoints.iter().filter(|checkpoint| checkpoint.state.is_finished())
    }

    /// Whether the steps are epochs, because no name has a step.
    pub(crate) fn counts_epochs(&self) -> bool {
        self.counts == NameCount::Epochs
    }

    /// Names in the folder that are not checkpoints, temporary ones too, sorted.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Names that count epochs and are ignored because other names have steps, sorted; part of [`RunDir::ignored`].
    pub(crate) fn ignored_epochs(&self) -> &[String] {
        &self.ignored_epochs
    }

    /// Names with a step that link to another checkpoint of the run, sorted; part of [`RunDir::ignored`].
    pub(crate) fn ignored_links(&self) -> &[String] {
        &self.ignored_links
    }

    /// Names with a step that are links to nothing, sorted.
    pub(crate) fn broken_links(&self) -> &[String] {
        &self.broken_links
    }

    /// Steps that more than one finished checkpoint has, with their names.
    pub fn duplicates(&self) -> Vec<(Step, Vec<&str>)> {
        let mut names_by_step: BTreeMap<Step, Vec<&str>> = BTreeMap::new();
        for checkpoint in self.finished() {
            names_by_step.entry(checkpoint.step).or_default().push(&checkpoint.name);
        }
        names_by_step.into_iter().filter(|(_, names)| names.len() > 1).collect()
    }
}

/// Something whose name says a step, not looked into yet.
#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    name: String,
    said: CheckpointName,
}

/// The name of an entry, its path, and what it is.
type NamedEntry = (String, PathBuf, FileKind);

/// The entries of a run folder; for a repository of a cache, its revisions under their names.
fn list_names(storage: &Arc<dyn Storage>, folder: &Path, entries: &[FolderEntry]) -> Result<Vec<NamedEntry>, Error> {
    if is_hub_repository(entries) {
        let revisions = list_revisions(storage, folder)?;
        return Ok(revisions.into_iter().map(|(name, path)| (name, path, FileKind::Folder)).collect());
    }
    Ok(entries.iter().map(|entry| (entry.name.clone(), folder.join(&entry.name), entry.kind)).collect())
}

/// The entries of a run folder, by their names.
#[derive(Debug, Default)]
struct SplitNames {
    candidates: Vec<Candidate>,
    /// All other names, sorted.
    ignored: Vec<String>,
    /// Those of them that count epochs.
    ignored_epochs: Vec<String>,
}

/// Names with a step whose links are broken: the newest checkpoint may be on a disk that is not mounted.
fn broken_links(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    entries: &[FolderEntry],
    pattern: Option<&NamePattern>,
) -> Vec<String> {
    let has_step = |name: &str| {
        [FileKind::Folder, FileKind::File].iter().any(|kind| parse_entry_name(name, *kind, pattern).is_some())
    };
    let is_broken = |entry: &&FolderEntry| {
        entry.kind == FileKind::Other
            && has_step(&entry.name)
            && storage.link_target(&folder.join(&entry.name)).is_ok_and(|target| target.is_some())
    };
    let mut names: Vec<String> = entries.iter().filter(is_broken).map(|entry| entry.name.clone()).collect();
    names.sort();
    names
}

/// Takes out links to other checkpoints of the same folder, whose names it returns: they would count twice, once at a
/// step at which nothing was saved.
fn without_links(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    names: Vec<NamedEntry>,
    pattern: Option<&NamePattern>,
) -> (Vec<NamedEntry>, Vec<String>) {
    let has_step = |name: &str, kind| parse_entry_name(name, kind, pattern).is_some();
    let is_link = |(name, path, kind): &NamedEntry| {
        if !has_step(name, *kind) || !storage.link_target(path).is_ok_and(|target| target.is_some()) {
            return false;
        }
        let (Ok(folder), Ok(target)) = (storage.canonical_path(folder), storage.canonical_path(path)) else {
            return false;
        };
        let target_name = target.file_name().and_then(|name| name.to_str());
        target.parent() == Some(&*folder) && target_name.is_some_and(|name| has_step(name, *kind))
    };
    let (links, names): (Vec<NamedEntry>, Vec<NamedEntry>) = names.into_iter().partition(is_link);
    (names, links.into_iter().map(|(name, ..)| name).collect())
}

/// Splits entries into checkpoints, by their names, and the names of all others.
fn split_names(names: Vec<NamedEntry>, pattern: Option<&NamePattern>) -> SplitNames {
    let mut candidates = Vec::new();
    let mut ignored = Vec::new();
    for (name, path, kind) in names {
        match parse_entry_name(&name, kind, pattern) {
            Some(said) => candidates.push(Candidate { path, name, said }),
            None => ignored.push(name),
        }
    }
    // Epochs are not steps: sorted among steps they would be the oldest checkpoints.
    let mut ignored_epochs = Vec::new();
    if candidates.iter().any(|candidate| candidate.said.counts == NameCount::Steps) {
        let (steps, epochs): (_, Vec<Candidate>) =
            candidates.into_iter().partition(|one| one.said.counts == NameCount::Steps);
        candidates = steps;
        ignored_epochs.extend(epochs.into_iter().map(|candidate| candidate.name));
        ignored_epochs.sort();
        ignored.extend_from_slice(&ignored_epochs);
        ignored.sort();
    }
    SplitNames { candidates, ignored, ignored_epochs }
}

fn check_candidates(
    storage: &Arc<dyn Storage>,
    candidates: Vec<Candidate>,
    trackers: &Trackers,
    (options, cache): (&ReadOptions, &CatalogCache),
) -> Result<Vec<RunCheckpoint>, Error> {
    let mut checkpoints = Vec::with_capacity(candidates.len());
    let mut of_orbax = Vec::new();
    let mut candidates = candidates.into_iter().peekable();
    while candidates.peek().is_some() {
        let some: Vec<Candidate> = candidates.by_ref().take(OPENED_AT_ONCE).collect();
        let paths: Vec<PathBuf> = some.iter().map(|candidate| candidate.path.clone()).collect();
        for (candidate, opened) in some.into_iter().zip(open_all_with_cache(storage, &paths, options, cache)) {
            let mut doubts = Vec::new();
            let format = opened.as_ref().ok().map(thalweg_checkpoint::Checkpoint::format_name);
            let state = match (own_output(storage, &candidate.path), opened) {
                (Some(state), _) => state,
                (None, _) if trackers.saving.contains(&candidate.name) => {
                    unfinished(format!("`{}{NEMO_UNFINISHED}` is beside it", display_name(&candidate.name)))
                }
                (None, Ok(checkpoint)) => {
                    if checkpoint.format_name() == ORBAX {
                        let is_marked = storage.file_info(&candidate.path.join(ORBAX_MARKER)).is_ok();
                        of_orbax.push((checkpoints.len(), is_marked));
                    }
                    doubts.extend(checkpoint.notes().iter().filter(|note| note.is_doubt()).cloned());
                    judge_success(&candidate, checkpoint.format_name(), trackers)
                }
                (None, Err(error)) if error.is_of_store() => {
                    return Err(Error::Store(Box::new(error)));
                }
                (None, Err(error)) => judge_failure(storage, &candidate, &error, trackers)?,
            };
            checkpoints.push(RunCheckpoint {
                path: candidate.path,
                name: candidate.name,
                step: candidate.said.step,
                name_tokens: candidate.said.tokens,
                stage: candidate.said.stage,
                epoch: candidate.said.epoch,
                state,
                format,
                doubts,
            });
        }
    }
    // Where some steps have the marker of a finished save, its absence means something.
    if of_orbax.iter().any(|(_, is_marked)| *is_marked) {
        for (position, _) in of_orbax.into_iter().filter(|(_, is_marked)| !is_marked) {
            checkpoints[position].state =
                unfinished(format!("`{ORBAX_MARKER}`, which the other steps have, is missing"));
        }
    }
    Ok(checkpoints)
}

/// The state of a checkpoint whose files are whole. A trainer that keeps a tracker writes it after them. Files of
/// Megatron's ranks may be read as those of torch.save.
fn judge_success(candidate: &Candidate, format: &str, trackers: &Trackers) -> CheckpointState {
    let is_of_ranks = format == "torch" && candidate.name.starts_with("iter_");
    let has_tracker = is_of_ranks || format.starts_with("megatron") || format.starts_with("deepspeed");
    let behind = trackers.behind(&candidate.name, candidate.said.step).filter(|_| has_tracker);
    behind.map_or(CheckpointState::Finished, unfinished)
}

fn unfinished(reason: String) -> CheckpointState {
    let hint = Some("wait until the save has finished".to_owned());
    CheckpointState::Unusable { fault: Fault::Unfinished, reason, hint }
}

/// The state of a checkpoint that cannot be opened: still being saved, broken, or in a format that is not read.
fn judge_failure(
    storage: &Arc<dyn Storage>,
    candidate: &Candidate,
    error: &thalweg_checkpoint::Error,
    trackers: &Trackers,
) -> Result<CheckpointState, Error> {
    let mut reason = error.to_string();
    // The message already holds the first detail, except for candidates, which it only counts.
    let n_told = usize::from(!matches!(error, thalweg_checkpoint::Error::Ambiguous { .. }));
    for detail in error.details().iter().skip(n_told) {
        reason.push_str("; ");
        reason.push_str(detail);
    }
    // The path is beside the reason wherever a reason is shown.
    let path = format!("`{}`", candidate.path.display());
    let reason = match reason.strip_prefix(&path).map(|rest| rest.trim_start_matches([':', ' '])) {
        Some(rest) if !rest.is_empty() => rest.strip_prefix("is unfinished: ").unwrap_or(rest).to_owned(),
        _ => reason,
    };
    let fault = fault_of(error);
    let unusable = |fault, reason| CheckpointState::Unusable { fault, reason, hint: error.hint().map(str::to_owned) };
    // Formats whose trainers mark the end of a save in a separate file.
    let is_marked_apart =
        matches!(error, thalweg_checkpoint::Error::Torch { .. } | thalweg_checkpoint::Error::Layout { .. });
    if fault != Fault::OtherFormat && (fault == Fault::Unfinished || !is_marked_apart) {
        return Ok(unusable(fault, reason));
    }
    let missing = match storage.list_folder(&candidate.path) {
        Ok(entries) => missing_marker(candidate, &entries, trackers),
        Err(_) => None,
    };
    Ok(match missing {
        Some(reason) => unfinished(reason),
        None => unusable(fault, reason),
    })
}

fn fault_of(error: &thalweg_checkpoint::Error) -> Fault {
    use thalweg_checkpoint::Fault as Opening;
    match error.fault() {
        Opening::Unfinished => Fault::Unfinished,
        Opening::OtherFormat => Fault::OtherFormat,
        Opening::Ambiguous => Fault::Ambiguous,
        Opening::Pointer => Fault::Pointer,
        Opening::Unreadable => Fault::Unreadable,
        Opening::Damaged => Fault::Damaged,
    }
}

/// What a trainer writes last and has not written, in formats that mark their end apart from the tensors.
fn missing_marker(candidate: &Candidate, entries: &[FolderEntry], trackers: &Trackers) -> Option<String> {
    if entries.is_empty() {
        return Some("the folder is empty".to_owned());
    }
    trackers.missing(&candidate.name, candidate.said.step)
}

/// The files beside the checkpoints in which Megatron and DeepSpeed name the last one that they finished, and NeMo
/// those that it has not finished.
#[derive(Debug, Default)]
struct Trackers {
    megatron: Option<Step>,
    deepspeed: Option<Step>,
    saving: BTreeSet<String>,
}

/// The format of Orbax, and the marker that it writes last where folders cannot be renamed.
const ORBAX: &str = "orbax";
const ORBAX_MARKER: &str = "commit_success.txt";
const MEGATRON_TRACKER: &str = "latest_checkpointed_iteration.txt";
const DEEPSPEED_TRACKER: &str = "latest";
/// How DeepSpeed names the folder of a step. Others write `global_step_10`.
const DEEPSPEED_START: &str = "global_step";
/// What NeMo adds to the name of a checkpoint for the file that is beside it until its save has finished.
const NEMO_UNFINISHED: &str = "-unfinished";

fn is_deepspeed_name(name: &str) -> bool {
    name.strip_prefix(DEEPSPEED_START).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

impl Trackers {
    fn read(storage: &Arc<dyn Storage>, folder: &Path, entries: &[FolderEntry]) -> Result<Self, Error> {
        let read = |name: &str| -> Result<Option<String>, Error> {
            let here = |entry: &&FolderEntry| entry.name == name && entry.kind == FileKind::File;
            match entries.iter().find(here) {
                Some(entry) if entry.len_bytes <= MAX_TRACKER_BYTES => {
                    let bytes = storage.read_file(&folder.join(name), MAX_TRACKER_BYTES)?;
                    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
                }
                _ => Ok(None),
            }
        };
        let step_of = |text: String| parse_folder_name(&text).map(|name| name.step);
        let files = entries.iter().filter(|entry| entry.kind == FileKind::File);
        let saving = files.filter_map(|entry| entry.name.strip_suffix(NEMO_UNFINISHED));
        Ok(Self {
            saving: saving.map(|name| strip_file_end(name).unwrap_or(name).to_owned()).collect(),
            megatron: read(MEGATRON_TRACKER)?.and_then(step_of),
            deepspeed: read(DEEPSPEED_TRACKER)?.and_then(step_of),
        })
    }

    fn missing(&self, name: &str, step: Step) -> Option<String> {
        let (tracker, newest) = self.of_name(name)?;
        match newest {
            None => Some(format!("there is no `{tracker}` beside it that names a finished checkpoint")),
            Some(_) => self.behind(name, step),
        }
    }

    /// A reason if the tracker names an older checkpoint as the last finished one; `None` without a tracker.
    fn behind(&self, name: &str, step: Step) -> Option<String> {
        let (tracker, newest) = self.of_name(name)?;
        let newest = newest.filter(|newest| *newest < step)?;
        Some(format!("`{tracker}` says that step {newest} is the last finished one"))
    }

    /// The tracker of the trainer that uses such names, and the step in it.
    fn of_name(&self, name: &str) -> Option<(&'static str, Option<Step>)> {
        if name.starts_with("iter_") {
            Some((MEGATRON_TRACKER, self.megatron))
        } else if is_deepspeed_name(name) {
            Some((DEEPSPEED_TRACKER, self.deepspeed))
        } else {
            None
        }
    }
}

/// What a path is, for commands that take a checkpoint or a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// One checkpoint.
    Checkpoint,
    /// A folder of checkpoints, or something that is neither: the error of opening it as a run says what is wrong.
    Run,
    /// A folder of checkpoints that is also a checkpoint, such as a trainer's output with the final model.
    RunWithCheckpoint,
}

/// Whether a path is a checkpoint or a run. Decided by names, and by listing the folders below, without reading files.
///
/// # Errors
/// `NotFound`; `Storage`.
pub fn look_at_path(storage: &Arc<dyn Storage>, path: &Path, pattern: Option<&NamePattern>) -> Result<PathKind, Error> {
    let info = storage.file_info(path).map_err(|error| Error::from_storage(path, error))?;
    if info.kind != FileKind::Folder {
        return Ok(PathKind::Checkpoint);
    }
    let entries = storage.list_folder(path)?;
    // The file of a merge may have a step in its name.
    if entries.iter().any(|entry| entry.kind == FileKind::File && entry.name == RECEIPT_NAME) {
        return Ok(PathKind::Checkpoint);
    }
    if is_hub_repository(&entries) {
        let revisions = list_revisions(storage, path)?;
        let is_named = |(name, _): &(String, PathBuf)| parse_entry_name(name, FileKind::Folder, pattern).is_some();
        return Ok(if revisions.iter().any(is_named) { PathKind::Run } else { PathKind::Checkpoint });
    }
    let is_named = |entry: &&FolderEntry| parse_entry_name(&entry.name, entry.kind, pattern).is_some();
    // A file with a step in its name is one of the run's checkpoints, not a checkpoint beside them.
    let has_own =
        entries.iter().any(|entry| is_tensor_file(entry) && !is_named(&entry)) || is_checkpoint(&**storage, path);
    if !has_own {
        return Ok(PathKind::Run);
    }
    let is_run = entries.iter().filter(is_named).any(|entry| holds_params(storage, path, entry));
    Ok(if is_run { PathKind::RunWithCheckpoint } else { PathKind::Checkpoint })
}

/// Whether an entry with a step in its name is a checkpoint of a run, and not a part of the checkpoint that `folder`
/// is.
fn holds_params(storage: &Arc<dyn Storage>, folder: &Path, entry: &FolderEntry) -> bool {
    if entry.kind != FileKind::Folder {
        return true;
    }
    let path = folder.join(&entry.name);
    let is_params = |file: &FolderEntry| is_tensor_file(file) && file.name.contains(".safetensors");
    if storage.list_folder(&path).is_ok_and(|inner| inner.iter().any(is_params)) {
        return true;
    }
    // The Trainer keeps the training state of DeepSpeed in such a folder inside each of its checkpoints.
    !is_deepspeed_name(&entry.name) && is_checkpoint(&**storage, &path)
}

/// Whether an entry is a file of tensors, in any format that is known.
fn is_tensor_file(entry: &FolderEntry) -> bool {
    let is_known = strip_file_end(&entry.name).is_some()
        || [".safetensors.index.json", ".distcp"].iter().any(|end| entry.name.ends_with(end));
    entry.kind == FileKind::File
        && is_known
        // Lightning keeps `last.ckpt` beside the checkpoints of a run.
        && !entry.name.ends_with(".ckpt")
        && !is_temporary_name(&entry.name)
        // The state of a trainer is not weights.
        && !["training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"].contains(&entry.name.as_str())
        && !entry.name.starts_with("optim_")
}

fn refuse_file(path: &Path) -> Error {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return Error::IsCheckpoint { path: path.to_owned() };
    }
    Error::NotARun { path: path.to_owned(), found: "it is a file".to_owned(), advice: None }
}

fn refuse_folder(
    storage: &Arc<dyn Storage>,
    path: &Path,
    entries: &[FolderEntry],
    pattern: Option<&NamePattern>,
) -> Error {
    let is_merge = |entry: &&FolderEntry| {
        !is_temporary_name(&entry.name) && storage.file_info(&path.join(&entry.name).join(RECEIPT_NAME)).is_ok()
    };
    let mut merges = entries.iter().filter(is_merge);
    if let Some(first) = merges.next() {
        let (path, first) = (path.to_owned(), first.name.clone());
        return Error::HoldsMerges { path, first, n_merges: 1 + merges.count() };
    }
    if pattern.is_none() && entries.iter().any(is_tensor_file) {
        // Several files, any of which could be the checkpoint, are more likely a run under unknown names.
        let opened = thalweg_checkpoint::open_checkpoint(storage, path);
        let fault = opened.as_ref().err().map(thalweg_checkpoint::Error::fault);
        if !matches!(fault, Some(thalweg_checkpoint::Fault::Ambiguous | thalweg_checkpoint::Fault::OtherFormat)) {
            return Error::IsCheckpoint { path: path.to_owned() };
        }
    }
    let found = match entries {
        [] => "it is empty".to_owned(),
        _ => {
            let first: Vec<String> =
                entries.iter().take(3).map(|entry| format!("`{}`", display_name(&entry.name))).collect();
            let more = if entries.len() > first.len() {
                format!(" and {} more", entries.len() - first.len())
            } else {
                String::new()
            };
            format!("it holds {}{more}", first.join(", "))
        }
    };
    match pattern {
        Some(pattern) => Error::NoMatch { path: path.to_owned(), pattern: pattern.clone(), found },
        None => Error::NotARun { path: path.to_owned(), found, advice: advise(storage, path, entries) },
    }
}

/// What to do about a folder in which no name has a known step: its files may be of a format that is not read, or their
/// names may differ in a number.
fn advise(storage: &Arc<dyn Storage>, path: &Path, entries: &[FolderEntry]) -> Option<String> {
    // Trainers keep checkpoints in a folder of what they write.
    let has_steps =
        |inner: &[FolderEntry]| inner.iter().any(|one| parse_entry_name(&one.name, one.kind, None).is_some());
    let is_run = |entry: &&FolderEntry| {
        let inside = || storage.list_folder(&path.join(&entry.name));
        entry.kind == FileKind::Folder
            && !is_temporary_name(&entry.name)
            && inside().is_ok_and(|inner| has_steps(&inner))
    };
    if let Some(run) = entries.iter().take(MAX_LOOKED_INTO).find(is_run) {
        return Some(format!("give the folder in it that holds checkpoints: `{}`", shell_path(path.join(&run.name))));
    }
    let name = |entry: &FolderEntry| match entry.kind {
        FileKind::Folder => Some(entry.name.clone()),
        FileKind::File => strip_file_end(&entry.name).map(str::to_owned),
        FileKind::Other => None,
    };
    let usable = entries.iter().filter(|entry| !is_temporary_name(&entry.name) && !is_state_name(&entry.name));
    let names: Vec<String> = usable.filter_map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some(pattern) = NamePattern::suggest(&names) {
        let pattern = shell_word(&pattern.to_string());
        return Some(format!(
            "if these are checkpoints, say where the step is in their names: `--checkpoint-pattern {pattern}`"
        ));
    }
    match thalweg_checkpoint::open_checkpoint(storage, path) {
        Err(thalweg_checkpoint::Error::NotACheckpoint { converter, .. }) => converter.map(str::to_owned),
        _ => None,
    }
}
